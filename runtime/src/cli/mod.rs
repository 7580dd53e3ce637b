//! The command line: global flags with runc's and runsc's spelling, and one module per verb.

mod checkpoint;
mod create;
mod r#do;
mod exec;
mod features;
mod flags;
mod install;
mod lifecycle;
mod list;
mod resources;
mod run;
mod spec;
mod syscalls;

use crate::exit::{self, Status};
use crate::logging::{self, Log};
use clap::{Parser, Subcommand};
pub use flags::{Globals, Settings, host_uds};
use std::process::ExitCode;

/// An OCI container runtime that runs applications on a kernel of its own, in user space.
// Docker looks for the word "version" in what --version prints.
#[derive(Debug, Parser)]
#[command(name = "caisson", version = concat!("version ", env!("CARGO_PKG_VERSION")), propagate_version = false, disable_version_flag = true)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    /// Print the version
    #[arg(short = 'v', short_alias = 'V', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Create a container from an OCI bundle, to be started later
    Create(create::Args),
    /// Start a container that has been created
    Start(lifecycle::Args),
    /// Print the state of a container
    State(lifecycle::Args),
    /// Send a container a signal
    Kill(lifecycle::KillArgs),
    /// Delete a container that has stopped
    Delete(lifecycle::DeleteArgs),
    /// Run a further process in a container
    Exec(exec::Args),
    /// List the processes of a container
    Ps(list::PsArgs),
    /// List the containers
    List(list::Args),
    /// Hold every process of a container
    Pause(lifecycle::Args),
    /// Let them go on
    Resume(lifecycle::Args),
    /// Change the limits of a container
    Update(resources::UpdateArgs),
    /// Print what a container has used, and when it was short of memory
    Events(resources::EventsArgs),
    /// Print what this runtime implements
    Features,
    /// Refused: a sandbox cannot be saved
    Checkpoint(Box<checkpoint::Args>),
    /// Refused, as checkpoint is
    Restore(Box<checkpoint::RestoreArgs>),
    /// Create and run a container from an OCI bundle
    Run(run::Args),
    /// Run a command in a fresh sandbox over the host's files, which stay untouched
    Do(r#do::Args),
    /// Write a new config.json
    Spec(spec::Args),
    /// Make this runtime known to Docker or containerd
    Install(install::Args),
    /// Take it out of their configuration again
    Uninstall(install::Args),
    /// List the system calls that the sentry knows
    Syscalls(syscalls::Args),
    /// Print the version
    Version,
}

/// The system call table as text, or as Markdown if true: known to the sentry, and given from above.
pub type SyscallTable = fn(bool) -> String;

/// Parses `args` and carries out the verb. The result is this process's exit status: see [`exit`].
pub fn main(args: &[String], table: SyscallTable) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way, too, and are no errors.
            let status = if error.use_stderr() { Status::Usage } else { return print_help(&error) };
            let failure = exit::Failure::new(status, usage_line(&error));
            match flags::log_of(args) {
                Some(log) => log.failure(&failure),
                None => logging::report(&failure),
            }
            return status.into();
        }
    };
    // Before anything is opened.
    let descriptors = cli.verb.preserved().map_or(Ok(()), take_descriptors);
    let log = match cli.globals.log() {
        Ok(log) => log,
        Err(failure) => {
            logging::report(&failure);
            return failure.status.into();
        }
    };
    match descriptors.and_then(|()| dispatch(cli, &log, table)) {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            log.failure(&failure);
            failure.status.into()
        }
    }
}

fn dispatch(cli: Cli, log: &Log, table: SyscallTable) -> exit::Result {
    let settings = || cli.globals.settings();
    match cli.verb {
        Verb::Create(args) => create::main(&args, &settings()?, log),
        Verb::Start(args) => lifecycle::start(&args, &settings()?),
        Verb::State(args) => lifecycle::state(&args, &settings()?),
        Verb::Kill(args) => lifecycle::kill(&args, &settings()?),
        Verb::Delete(args) => lifecycle::delete(&args, &settings()?),
        Verb::Exec(args) => exec::main(&args, &settings()?, log),
        Verb::Ps(args) => list::ps(&args, &settings()?),
        Verb::List(args) => list::main(&args, &settings()?),
        Verb::Pause(args) => lifecycle::pause(&args, &settings()?, true),
        Verb::Resume(args) => lifecycle::pause(&args, &settings()?, false),
        Verb::Update(args) => resources::update(&args, &settings()?),
        Verb::Events(args) => resources::events(&args, &settings()?),
        Verb::Features => features::main(),
        Verb::Checkpoint(args) => checkpoint::main(&args, &settings()?),
        Verb::Restore(args) => checkpoint::restore(&args),
        Verb::Run(args) => run::main(&args, &cli.globals.settings()?, log),
        Verb::Do(args) => r#do::main(&args, &cli.globals.settings()?, log),
        Verb::Spec(args) => spec::main(&args, cli.globals.asks_for_rootless()),
        Verb::Install(args) => install::main(&args, false),
        Verb::Uninstall(args) => install::main(&args, true),
        Verb::Syscalls(args) => syscalls::main(&args, table),
        Verb::Version => {
            println!("caisson version {}\nspec: {}", env!("CARGO_PKG_VERSION"), crate::spec::OCI_VERSION);
            Ok(0)
        }
    }
}

impl Verb {
    /// How many of the descriptors that whoever started this program left open are the application's; `None` where it does not matter
    /// what is open. All others must not stay open in the processes that outlive this one.
    fn preserved(&self) -> Option<u32> {
        let listening = || std::env::var("LISTEN_FDS").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        match self {
            Verb::Create(create::Args { common }) | Verb::Run(run::Args { common, .. }) => {
                Some(common.preserve_fds.saturating_add(listening()))
            }
            Verb::Exec(args) => Some(args.preserve_fds.saturating_add(listening())),
            _ => None,
        }
    }
}

/// Checks that the descriptors from 3 on that the application shall have are there, and closes all others. To be called before anything
/// is opened.
fn take_descriptors(preserved: u32) -> exit::Result<()> {
    let end = 3_i32.saturating_add_unsigned(preserved.min(control::FdLayout::MAX_PRESERVED));
    for number in 3..end {
        crate::sandbox::inherited(number)
            .map_err(exit::Failure::context(Status::Usage, format_args!("--preserve-fds or LISTEN_FDS: descriptor {number}")))?;
    }
    crate::sandbox::close_inherited(end).map_err(exit::Failure::internal("close_range"))
}

/// Writes a line, or several, to standard output.
fn print(text: &str) -> exit::Result {
    use std::io::Write;
    if text.is_empty() {
        return Ok(0);
    }
    let written = writeln!(std::io::stdout(), "{text}");
    written.map(|()| 0).map_err(exit::Failure::context(Status::Output, "standard output"))
}

fn print_help(error: &clap::Error) -> ExitCode {
    // A closed standard output is no reason to fail a request for help.
    let _ = error.print();
    ExitCode::SUCCESS
}

/// clap's explanation is several lines; ours is its first, with a pointer to the rest.
fn usage_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let what = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:"))
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    let what = what.strip_prefix("error: ").unwrap_or(&what);
    if what.starts_with("An OCI container runtime") {
        return "no verb given; see caisson --help".into();
    }
    format!("{what} (see caisson --help)")
}
