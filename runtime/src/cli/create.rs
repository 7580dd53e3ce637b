//! `caisson create`: a container from an OCI bundle, complete but for the application's start.

use super::Settings;
use crate::container::{self, Launch};
use crate::exit::{Failure, Result, Status};
use crate::logging::Log;
use std::path::{Path, PathBuf};

/// Flags that all verbs share which make a container.
#[derive(Debug, clap::Args)]
pub struct Common {
    /// The bundle: a directory with config.json
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// Unix socket that the terminal's master side is sent to
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// File to write the container's process ID to
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Unix socket that a descriptor of the container's process is sent to (pidfd_open(2))
    #[arg(long, value_name = "SOCKET")]
    pidfd_socket: Option<PathBuf>,
    /// How many descriptors from 3 on the application gets besides its standard streams
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u32,
    /// Accepted as runc accepts it: there is no pivot_root on the host to do without
    #[arg(long)]
    no_pivot: bool,
    /// Accepted as runc accepts it: an application has no key of the host in any case
    #[arg(long)]
    no_new_keyring: bool,
    /// Name of the container, unique on this host
    #[arg(value_name = "ID")]
    pub id: String,
}

/// Flags of `caisson create`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
}

impl Common {
    /// What they ask for. Paths are made absolute: the container's own process leaves this directory.
    pub fn launch<'a>(&'a self, settings: &'a Settings, log: &'a Log) -> Result<Launch<'a>> {
        Ok(Launch {
            bundle: &self.bundle,
            id: &self.id,
            console_socket: absolute(self.console_socket.as_deref())?,
            pid_file: absolute(self.pid_file.as_deref())?,
            pidfd_socket: absolute(self.pidfd_socket.as_deref())?,
            preserve_fds: self.preserve_fds,
            settings,
            log,
        })
    }
}

/// A path of the command line, as an absolute one.
pub fn absolute(path: Option<&Path>) -> Result<Option<PathBuf>> {
    path.map(std::path::absolute).transpose().map_err(Failure::context(Status::Usage, "a path"))
}

/// Creates the container.
pub fn main(args: &Args, settings: &Settings, log: &Log) -> Result {
    container::create(&args.common.launch(settings, log)?)?;
    Ok(0)
}
