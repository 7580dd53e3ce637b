//! `caisson checkpoint` and `restore`: runc's flags are understood, and what they ask for is refused.

use super::Settings;
use crate::container::Container;
use crate::exit::{Failure, Result, Status};
use std::path::PathBuf;

/// Flags that the two share.
#[derive(Debug, clap::Args)]
struct Common {
    /// Directory of the images
    #[arg(long, value_name = "DIR")]
    image_path: Option<PathBuf>,
    /// Directory for work files and logs
    #[arg(long, value_name = "DIR")]
    work_path: Option<PathBuf>,
    /// Allow open TCP connections
    #[arg(long)]
    tcp_established: bool,
    /// Allow unix sockets that lead outside
    #[arg(long)]
    ext_unix_sk: bool,
    /// Allow a terminal that is not the container's
    #[arg(long)]
    shell_job: bool,
    /// Keep locks of files
    #[arg(long)]
    file_locks: bool,
    /// Fetch memory when it is touched
    #[arg(long)]
    lazy_pages: bool,
    /// soft, full, strict or ignore
    #[arg(long, value_name = "MODE")]
    manage_cgroups_mode: Option<String>,
    /// A kind of namespace that is made empty
    #[arg(long, value_name = "KIND")]
    empty_ns: Vec<String>,
    /// Store equal memory once
    #[arg(long)]
    auto_dedup: bool,
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
}

/// Flags of `caisson checkpoint`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// Directory of the images of an earlier --pre-dump
    #[arg(long, value_name = "DIR")]
    parent_path: Option<PathBuf>,
    /// Let the container go on
    #[arg(long)]
    leave_running: bool,
    /// Descriptor that is told when --lazy-pages is ready
    #[arg(long, value_name = "FD", allow_hyphen_values = true)]
    status_fd: Option<i32>,
    /// Where the pages are served
    #[arg(long, value_name = "ADDRESS:PORT")]
    page_server: Option<String>,
    /// Save memory alone, and let the container go on
    #[arg(long)]
    pre_dump: bool,
}

/// Flags of `caisson restore`.
#[derive(Debug, clap::Args)]
pub struct RestoreArgs {
    #[command(flatten)]
    common: Common,
    /// The bundle
    #[arg(short, long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Unix socket that the terminal's master side is sent to
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Do not wait for the container's end
    #[arg(short, long)]
    detach: bool,
    /// File to write the container's process ID to
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Leave orphans to others
    #[arg(long)]
    no_subreaper: bool,
    /// Do without pivot_root
    #[arg(long)]
    no_pivot: bool,
    /// A profile of the host's security module
    #[arg(long, value_name = "TYPE:NAME")]
    lsm_profile: Option<String>,
    /// A label for mounts
    #[arg(long, value_name = "CONTEXT")]
    lsm_mount_context: Option<String>,
}

/// `checkpoint`: of a container that is there.
pub fn main(args: &Args, settings: &Settings) -> Result {
    let container = Container::open(&settings.state_root, &args.common.id)?;
    refuse(&format!("container {} was not checkpointed and goes on as it was: a sandbox cannot be saved", container.record.id))
}

/// `restore`.
pub fn restore(args: &RestoreArgs) -> Result {
    refuse(&format!("container {} was not restored: a sandbox cannot be read back, nor images of CRIU", args.common.id))
}

fn refuse(what: &str) -> Result {
    Err(Failure::new(Status::NotImplemented, what))
}
