//! `caisson run`: a container from an OCI bundle, from its first to its last moment.

use super::Settings;
use crate::console::{self, Proxy};
use crate::container::{Container, Lifecycle};
use crate::exit::{Failure, Result, Status};
use crate::logging::Log;
use crate::sandbox::{self, Fork, Janitor, Monitor, Outcome, Streams};
use crate::spec::{self, Plan};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Flags of `caisson run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The bundle: a directory with config.json
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Do not wait for the container's end
    #[arg(short, long)]
    detach: bool,
    /// File to write the sandbox's process ID to
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Unix socket that the terminal's master side is sent to
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Name of the container, unique on this host
    #[arg(value_name = "ID")]
    id: String,
}

/// Runs the container. The result is the application's exit status, or 0 with `--detach`.
pub fn main(args: &Args, settings: &Settings, log: &Log) -> Result {
    let plan = spec::load(&args.bundle, &args.id, settings)?;
    match (&args.console_socket, plan.boot.process.terminal) {
        (None, true) if args.detach => {
            return Err(Failure::new(
                Status::Console,
                "process.terminal is true: with --detach there must be a --console-socket to send the terminal to",
            ));
        }
        (Some(_), false) => {
            return Err(Failure::new(
                Status::Console,
                "--console-socket: process.terminal is false, so that there is no terminal to send",
            ));
        }
        _ => {}
    }
    if args.detach {
        return detach(|started| run(args, settings, log, &plan, Some(started)));
    }
    run(args, settings, log, &plan, None)
}

/// The whole life of a container. `started` is called as soon as the application runs, if nobody waits for its end.
fn run(
    args: &Args,
    settings: &Settings,
    log: &Log,
    plan: &Plan,
    started: Option<&mut dyn FnMut()>,
) -> Result {
    let detached = started.is_some();
    let signals = sandbox::take_signals()?;
    // Dropped in the opposite order: the sandbox ends before the janitor goes, and the state is removed last.
    let mut container = Container::create(&settings.state_root, &args.id, &args.bundle)?;
    let janitor = Janitor::start(&container)?;
    let (streams, proxy) = streams(plan, args.console_socket.as_deref())?;
    let sandbox = sandbox::start(plan, streams, log, settings.rootless)?;
    let mut monitor = Monitor::new(sandbox, signals, proxy, detached);
    let outcome = monitor.until_started()?;
    if let Some(path) = &args.pid_file {
        write_pid(path, monitor.pid())?;
    }
    container.save(Lifecycle::Running, monitor.pid())?;
    if let Some(started) = started {
        started();
    }
    let status = match outcome {
        Outcome::Exited(status) => status,
        Outcome::Started => monitor.until_exit()?,
    };
    drop(monitor);
    janitor.dismiss();
    Ok(status)
}

/// What the application's standard streams are: a terminal, if the configuration wants one, or the runtime's own.
pub fn streams(plan: &Plan, console_socket: Option<&Path>) -> Result<(Streams, Option<Proxy>)> {
    if !plan.boot.process.terminal {
        return Ok((Streams::Inherit, None));
    }
    let (master, slave) = console::open(plan.boot.process.console_size)?;
    let proxy = match console_socket {
        Some(socket) => {
            console::send(socket, master)?;
            None
        }
        None => Some(Proxy::new(master)?),
    };
    Ok((Streams::Terminal(slave), proxy))
}

/// As a whole or not at all: whoever waits for the file must not read half of it.
fn write_pid(path: &Path, pid: i32) -> Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    std::fs::write(&new, pid.to_string())
        .and_then(|()| std::fs::rename(&new, path))
        .map_err(Failure::context(Status::Output, format_args!("--pid-file {}", path.display())))
}

/// Carries out `run` in a process that stays behind, and returns when the application has started or failed to.
fn detach(run: impl FnOnce(&mut dyn FnMut()) -> Result) -> Result {
    let (mut report, mut reporter) = io::pipe().map_err(Failure::internal("pipe"))?;
    if let Fork::Parent(_) = sandbox::fork(0).map_err(Failure::internal("cannot fork"))? {
        drop(reporter);
        let mut status = [0];
        report
            .read_exact(&mut status)
            .map_err(Failure::internal("the monitor ended before the application started"))?;
        // A failure has been reported by the monitor, which has the same standard error.
        return Ok(status[0]);
    }
    drop(report);
    let result = stay_behind(run, &mut reporter);
    if let Err(failure) = &result {
        // Whoever started us may have been killed.
        let _ = reporter.write(&[failure.status as u8]);
    }
    result
}

/// In the process that stays behind.
fn stay_behind(run: impl FnOnce(&mut dyn FnMut()) -> Result, reporter: &mut io::PipeWriter) -> Result {
    rustix::process::setsid().map_err(Failure::internal("setsid"))?;
    run(&mut || {
        let _ = reporter.write(&[0]);
        sandbox::release_monitor();
    })
}
