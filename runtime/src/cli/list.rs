//! `caisson list` and `caisson ps`: tables for people, JSON for engines.

use super::Settings;
use crate::container::Container;
use crate::exit::{Failure, Result, Status};
use crate::process::PATIENCE;
use control::{Event, ProcessInfo, Request};

/// Flags of `caisson list`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// table or json
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: String,
    /// Names only
    #[arg(short, long)]
    quiet: bool,
}

/// Flags of `caisson ps`.
#[derive(Debug, clap::Args)]
pub struct PsArgs {
    /// table (the processes as they are inside) or json (the host's processes that stand in for them)
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: String,
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
    /// Accepted as runc accepts it, and without effect: options of ps(1)
    #[arg(value_name = "OPTIONS", trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

/// Lists the containers.
pub fn main(args: &Args, settings: &Settings) -> Result {
    check_format(&args.format)?;
    let containers = Container::list(&settings.state_root)?;
    if args.quiet {
        let names: Vec<&str> = containers.iter().map(|container| container.record.id.as_str()).collect();
        return super::print(&names.join("\n"));
    }
    let states: Vec<_> = containers.iter().map(Container::state).collect();
    if args.format == "json" {
        return super::print(&serde_json::to_string(&states).map_err(Failure::internal("cannot encode the list"))?);
    }
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    rows.extend(states.into_iter().map(|state| {
        [state.id, state.pid.to_string(), state.status.name().to_owned(), state.bundle.display().to_string(), state.created, state.owner]
    }));
    super::print(&table(&rows))
}

/// Lists the processes of a container.
pub fn ps(args: &PsArgs, settings: &Settings) -> Result {
    check_format(&args.format)?;
    let container = Container::open(&settings.state_root, &args.id)?;
    if args.format == "json" {
        let pids = container.stand_ins();
        return super::print(&serde_json::to_string(&pids).map_err(Failure::internal("cannot encode the list"))?);
    }
    let not_running = || Failure::new(Status::NotRunning, "container not running");
    let client = container.client()?.ok_or_else(not_running)?;
    client.send(&Request::Processes, &[])?;
    let mut rows = vec![["UID", "PID", "PPID", "AGE", "TIME", "CMD"].map(str::to_owned)];
    loop {
        match client.receive(Some(PATIENCE))? {
            Event::Processes { list, more } => {
                rows.extend(list.iter().map(row));
                if !more {
                    return super::print(&table(&rows));
                }
            }
            other => return Err(Failure::new(Status::Internal, format!("from the sentry: {other:?} is no list"))),
        }
    }
}

fn row(process: &ProcessInfo) -> [String; 6] {
    let clock = |ns: u64| {
        let seconds = ns / 1_000_000_000;
        format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
    };
    // Bytes that would move a terminal's cursor are not for a table.
    let command = process.command.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    [process.uid.to_string(), process.pid.to_string(), process.ppid.to_string(), clock(process.age_ns), clock(process.cpu_ns), command]
}

fn check_format(format: &str) -> Result<()> {
    match format {
        "table" | "json" => Ok(()),
        other => Err(Failure::new(Status::Usage, format!("--format: {other:?} is neither table nor json"))),
    }
}

/// Columns as wide as their widest word, the last one as it is.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row
            .iter()
            .enumerate()
            .map(|(i, cell)| if i + 1 < N { format!("{cell:<width$}", width = widths[i] + 2) } else { cell.clone() })
            .collect();
        cells.concat()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
