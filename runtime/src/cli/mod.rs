//! The command line: global flags with runc's and runsc's spelling, and one module per verb.

mod flags;
mod r#do;
mod run;
mod spec;
mod syscalls;

use crate::exit::{self, Status};
use crate::logging::{self, Log};
use clap::{Parser, Subcommand};
pub use flags::{Globals, Settings};
use std::process::ExitCode;

/// An OCI container runtime that runs applications on a kernel of its own, in user space.
#[derive(Debug, Parser)]
#[command(name = "caisson", version, propagate_version = false, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Create and run a container from an OCI bundle
    Run(run::Args),
    /// Run a command in a fresh sandbox over the host's files, which stay untouched
    Do(r#do::Args),
    /// Write a new config.json
    Spec(spec::Args),
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
            logging::report(&exit::Failure::new(status, usage_line(&error)));
            return status.into();
        }
    };
    let log = match cli.globals.log() {
        Ok(log) => log,
        Err(failure) => {
            logging::report(&failure);
            return failure.status.into();
        }
    };
    match dispatch(cli, &log, table) {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            log.failure(&failure);
            failure.status.into()
        }
    }
}

fn dispatch(cli: Cli, log: &Log, table: SyscallTable) -> exit::Result {
    match cli.verb {
        Verb::Run(args) => run::main(&args, &cli.globals.settings()?, log),
        Verb::Do(args) => r#do::main(&args, &cli.globals.settings()?, log),
        Verb::Spec(args) => spec::main(&args),
        Verb::Syscalls(args) => syscalls::main(&args, table),
        Verb::Version => {
            println!("caisson version {}\nspec: {}", env!("CARGO_PKG_VERSION"), crate::spec::OCI_VERSION);
            Ok(0)
        }
    }
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
