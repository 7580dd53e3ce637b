//! From the command line to serving.

use crate::server::{Server, Settings};
use crate::spec::{GoferSpec, LogFormat};
use crate::{filter, jail};
use anyhow::{Context, Result, bail};
use gofer_protocol::Channel;
use rustix::event::{PollFd, PollFlags};
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{OwnedFd, RawFd};
use std::sync::{Arc, Mutex};

/// The command line: numbers of inherited descriptors.
#[derive(Debug, Default)]
struct Args {
    spec: Option<RawFd>,
    conns: Vec<RawFd>,
    ready: Option<RawFd>,
}

/// The entry of `caisson gofer --spec-fd N --conn-fd N [--conn-fd N …] [--ready-fd N]`; `args` begins behind `gofer`.
///
/// The process must have one thread only. It ends when the other ends of all connections are closed. If `--ready-fd` is
/// given, `ok` is written there once requests are answered, or else the reason why not, on one line.
///
/// The result is the exit status: 0 after serving, 1 if it could not begin, 2 for a wrong command line.
pub fn main(args: impl Iterator<Item = OsString>) -> i32 {
    let args = match parse(args) {
        Ok(args) => args,
        Err(e) => {
            eprintln!("caisson gofer: {e:#}");
            return 2;
        }
    };
    let ready = args.ready.map(jail::inherit);
    let outcome = match &ready {
        Some(Err(e)) => Err(anyhow::anyhow!("ready: {e}")),
        _ => begin(&args),
    };
    let message = match &outcome {
        Ok(_) => "ok\n".to_owned(),
        Err(e) => format!("{e:#}\n"),
    };
    if let Some(Ok(fd)) = ready {
        // The runtime may have gone: then the connections tell.
        let _ = File::from(fd).write_all(message.as_bytes());
    }
    match outcome {
        Ok((server, conns)) => {
            wait(&conns);
            tracing::debug!("the sentry is gone");
            drop(server);
            0
        }
        Err(e) => {
            // The log may be elsewhere, or not be there yet.
            eprintln!("caisson gofer: {e:#}");
            1
        }
    }
}

/// Reads the command line.
fn parse(mut args: impl Iterator<Item = OsString>) -> Result<Args> {
    let mut parsed = Args::default();
    let mut seen = Vec::new();
    while let Some(arg) = args.next() {
        let name = arg.to_string_lossy().into_owned();
        let value = args.next().with_context(|| format!("{name} needs a descriptor"))?;
        let fd: RawFd = value.to_string_lossy().parse().with_context(|| format!("{name}: not a descriptor"))?;
        if fd < 3 || seen.contains(&fd) {
            bail!("{name}: descriptor {fd} cannot be used");
        }
        seen.push(fd);
        match name.as_str() {
            "--spec-fd" => parsed.spec = Some(fd),
            "--conn-fd" => parsed.conns.push(fd),
            "--ready-fd" => parsed.ready = Some(fd),
            _ => bail!("unknown argument {name}"),
        }
    }
    if parsed.conns.is_empty() {
        bail!("--conn-fd is missing");
    }
    Ok(parsed)
}

/// Everything up to the first request. The descriptors are of the connections, to see them close.
fn begin(args: &Args) -> Result<(Arc<Server>, Vec<OwnedFd>)> {
    let mut spec_file = File::from(jail::inherit(args.spec.context("--spec-fd is missing")?).context("specification")?);
    let mut json = String::new();
    // Whoever wrote it may have left the offset at its end; a pipe cannot be rewound, and need not be.
    let _ = spec_file.rewind();
    spec_file.read_to_string(&mut json).context("read the specification")?;
    drop(spec_file);
    let spec: GoferSpec = serde_json::from_str(&json).context("specification")?;

    let conns = args.conns.iter().map(|&fd| jail::inherit(fd)).collect::<Result<Vec<_>>>().context("connection")?;
    let keep: Vec<RawFd> = args.conns.iter().copied().chain(args.ready).chain(spec.log_fd).collect();
    jail::close_others(&keep)?;
    match spec.log_fd {
        Some(fd) => log_to(Mutex::new(File::from(jail::inherit(fd).context("log")?)), &spec),
        None => log_to(std::io::stderr, &spec),
    }
    let descriptors = jail::raise_descriptors();
    // Modes are what the application's umask, which the sentry applied, has left of them.
    rustix::process::umask(rustix::fs::Mode::empty());

    let roots = jail::enter(&spec)?;
    let sockets = spec.attach.iter().any(|a| a.allow_unix_bind || a.allow_unix_connect);
    jail::drop_privileges(sockets)?;
    let settings = Settings { jailed: true, channels: (spec.channels as usize).max(conns.len()).max(16), descriptors };
    let server = Server::start(roots, &settings).context("start the server")?;
    let watched = conns.iter().map(OwnedFd::try_clone).collect::<std::io::Result<Vec<_>>>()?;
    filter::install(sockets)?;
    for conn in conns {
        server.serve(Channel::from(conn))?;
    }
    Ok((server, watched))
}

/// Sends the log to `writer`.
fn log_to(writer: impl for<'w> tracing_subscriber::fmt::MakeWriter<'w> + Send + Sync + 'static, spec: &GoferSpec) {
    let level = if spec.debug { tracing::Level::DEBUG } else { tracing::Level::INFO };
    let builder = tracing_subscriber::fmt().with_max_level(level).with_writer(writer).with_ansi(false);
    let done = match spec.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    if let Err(e) = done {
        eprintln!("caisson gofer: log: {e}");
    }
}

/// How long after the start what it has used is let go.
const START: rustix::time::Timespec = rustix::time::Timespec { tv_sec: 1, tv_nsec: 0 };

/// Waits until the other ends of all connections are closed.
fn wait(conns: &[OwnedFd]) {
    let mut open: Vec<&OwnedFd> = conns.iter().collect();
    let mut has_let_go = false;
    while !open.is_empty() {
        // Nothing is asked for, so nothing but a hang-up ends the wait.
        let mut polled: Vec<PollFd<'_>> = open.iter().map(|fd| PollFd::new(fd, PollFlags::empty())).collect();
        // A moment later much of what the start has used is needed no more.
        match rustix::event::poll(&mut polled, if has_let_go { None } else { Some(&START) }) {
            Ok(0) => {
                jail::let_go_of_start();
                has_let_go = true;
                continue;
            }
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => {
                tracing::error!(%e, "poll");
                return;
            }
        }
        let closed: Vec<bool> = polled.iter().map(|p| p.revents().intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL)).collect();
        drop(polled);
        let mut closed = closed.into_iter();
        open.retain(|_| !closed.next().unwrap_or(false));
    }
}
