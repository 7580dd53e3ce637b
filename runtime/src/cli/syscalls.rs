//! `caisson syscalls`: what the sentry knows of each system call.

use crate::exit::{Failure, Result, Status};
use std::io::Write;

/// Flags of `caisson syscalls`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// As Markdown: the text of docs/compatibility.md
    #[arg(long)]
    markdown: bool,
}

/// Prints the table.
pub fn main(args: &Args, table: super::SyscallTable) -> Result {
    let text = table(args.markdown);
    match std::io::stdout().write_all(text.as_bytes()) {
        // The reader of a pipe may have seen enough.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Status::Output, format!("cannot write the table: {error}")))
        }
        _ => Ok(0),
    }
}
