//! `caisson run`: a container from an OCI bundle, from its first to its last moment.

use super::Settings;
use super::create::Common;
use crate::container;
use crate::exit::Result;
use crate::logging::Log;

/// Flags of `caisson run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
    /// Do not wait for the container's end
    #[arg(short, long)]
    detach: bool,
    /// Do not delete the container at its end
    #[arg(long)]
    keep: bool,
    /// Accepted as runc accepts it: orphans never leave the sandbox
    #[arg(long)]
    no_subreaper: bool,
}

/// Runs the container. The result is the application's exit status, or 0 with `--detach`.
pub fn main(args: &Args, settings: &Settings, log: &Log) -> Result {
    container::run(&args.common.launch(settings, log)?, args.detach, args.keep)
}
