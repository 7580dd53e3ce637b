//! `caisson exec`: a further process in a running container.

use super::Settings;
use super::create::absolute;
use crate::container::{Container, Exec, Lifecycle};
use crate::exit::{Failure, Result, Status};
use crate::logging::Log;
use crate::spec::{self, Preserve};
use control::Process;
use std::path::PathBuf;

/// Flags of `caisson exec`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Unix socket that the terminal's master side is sent to
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Working directory inside
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// A variable of the environment, besides the container's
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// User, and group
    #[arg(short, long, value_name = "UID[:GID]")]
    user: Option<String>,
    /// A further group
    #[arg(short = 'g', long, value_name = "GID")]
    additional_gids: Vec<u32>,
    /// File with the whole process, as in config.json
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,
    /// Do not wait for the process's end
    #[arg(short, long)]
    detach: bool,
    /// File to write the process ID to
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Unix socket that a descriptor of the process on the host is sent to (pidfd_open(2))
    #[arg(long, value_name = "SOCKET")]
    pidfd_socket: Option<PathBuf>,
    /// Accepted as runc accepts it: nothing inside has a label of the host's
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    /// Accepted as runc accepts it: nothing inside has a profile of the host's
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// Programs that it executes gain no privileges
    #[arg(long)]
    no_new_privs: bool,
    /// A further capability
    #[arg(short, long, value_name = "CAPABILITY")]
    cap: Vec<String>,
    /// How many descriptors from 3 on it gets besides its standard streams
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u32,
    /// Accepted as runc accepts it: everything in a sandbox is in one control group
    #[arg(long, value_name = "PATH")]
    cgroup: Vec<String>,
    /// Start it even if the container is paused; it runs when that is resumed
    #[arg(long)]
    ignore_paused: bool,
    /// Accepted as runc accepts it: orphans never leave the sandbox
    #[arg(long)]
    no_subreaper: bool,
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
    /// The command
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Runs the process. The result is its exit status, or 0 with `--detach`.
pub fn main(args: &Args, settings: &Settings, log: &Log) -> Result {
    let container = Container::open(&settings.state_root, &args.id)?;
    match container.status() {
        Lifecycle::Running | Lifecycle::Created => {}
        Lifecycle::Paused if args.ignore_paused => {}
        Lifecycle::Paused => return Err(Failure::new(Status::WrongState, "cannot exec in a paused container")),
        Lifecycle::Creating => return Err(Failure::new(Status::WrongState, "cannot exec in a container that is being created")),
        Lifecycle::Stopped => return Err(Failure::new(Status::NotRunning, "cannot exec in a stopped container")),
    }
    let process = process(args, &container)?;
    match (&args.console_socket, process.terminal, args.detach) {
        (None, true, true) => {
            return Err(Failure::new(Status::Console, "with --detach a terminal needs a --console-socket that it is sent to"));
        }
        (Some(_), false, _) | (Some(_), _, false) => {
            return Err(Failure::new(Status::Console, "--console-socket: only with --detach and a terminal there is one to send"));
        }
        _ => {}
    }
    let exec = Exec {
        container: &container,
        process,
        console_socket: absolute(args.console_socket.as_deref())?,
        pid_file: absolute(args.pid_file.as_deref())?,
        pidfd_socket: absolute(args.pidfd_socket.as_deref())?,
        log,
    };
    if args.detach { exec.detached().map(|()| 0) } else { exec.foreground() }
}

/// The process: from `--process`, or the container's own with what the flags change.
fn process(args: &Args, container: &Container) -> Result<Process> {
    if let Some(path) = &args.process {
        let mut process = spec::convert_process(Some(&spec::read_process(path)?))?;
        process.terminal |= args.tty;
        process.preserve(args.preserve_fds)?;
        return Ok(process);
    }
    if args.command.is_empty() {
        return Err(Failure::new(Status::Usage, "exec: process args cannot be empty: give a COMMAND or --process"));
    }
    let usage = |flag: &str, what: &str| Failure::new(Status::Usage, format!("--{flag}: {what}"));
    let mut process = spec::process_of(&container.spec()?)?;
    process.args.clone_from(&args.command);
    process.terminal = args.tty;
    process.console_size = None;
    process.init = false;
    if let Some(cwd) = &args.cwd {
        process.cwd = spec::guest_path(cwd).map_err(|what| usage("cwd", &what))?;
    }
    for entry in &args.env {
        let (name, _) = entry.split_once('=').ok_or_else(|| usage("env", &format!("{entry:?} is not of the form NAME=VALUE")))?;
        process.env.retain(|other| other.split_once('=').is_none_or(|(n, _)| n != name));
        process.env.push(entry.clone());
    }
    if let Some(user) = &args.user {
        let (uid, gid) = user.split_once(':').map_or((user.as_str(), None), |(uid, gid)| (uid, Some(gid)));
        let number = |text: &str| text.parse().map_err(|_| usage("user", &format!("{user:?} is not of the form UID[:GID], in numbers")));
        process.credentials.uid = number(uid)?;
        if let Some(gid) = gid {
            process.credentials.gid = number(gid)?;
        }
    }
    process.credentials.additional_gids.extend(&args.additional_gids);
    process.no_new_privileges |= args.no_new_privs;
    for name in &args.cap {
        let bit = spec::capability(name).ok_or_else(|| usage("cap", &format!("{name:?} is no capability")))?;
        let caps = &mut process.capabilities;
        for set in [&mut caps.bounding, &mut caps.effective, &mut caps.permitted] {
            *set |= bit;
        }
        // As runc: inheritable and ambient grow only where there were some.
        if caps.inheritable != 0 {
            caps.inheritable |= bit;
        }
        if caps.ambient != 0 {
            caps.ambient |= bit & caps.inheritable;
        }
    }
    process.preserve(args.preserve_fds)?;
    Ok(process)
}
