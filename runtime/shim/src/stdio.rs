//! The standard streams of a process: FIFOs that containerd makes and reads, files, or a terminal.
//!
//! A process without a terminal gets the FIFOs themselves, and nothing is copied. The shim holds the other ends open, too, so that
//! the process neither sees an end of its input nor is killed by SIGPIPE while containerd is away.

use crate::console::Console;
use crate::error::{Error, Result};
use crate::oci::Streams;
use rustix::fs::{FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, fstat, open};
use std::fs::File;
use std::os::fd::OwnedFd;

/// How containerd names them.
#[derive(Clone, Debug, Default)]
pub struct Paths {
    /// A FIFO, or empty.
    pub stdin: String,
    /// A FIFO, a URI, or empty.
    pub stdout: String,
    /// As `stdout`; unused with a terminal.
    pub stderr: String,
    /// Whether they belong to a terminal.
    pub terminal: bool,
}

/// The shim's side of the streams, until the process is deleted.
#[derive(Debug, Default)]
pub struct Io {
    /// Held so that the FIFOs live without containerd.
    held: Vec<OwnedFd>,
    /// Held so that the process's input does not end: until `CloseIO`.
    stdin: Option<OwnedFd>,
    /// `CloseIO` may come before the start.
    stdin_closed: bool,
    /// The terminal.
    pub console: Option<Console>,
}

impl Io {
    /// The end of the process's input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
        self.stdin_closed = true;
    }

    /// Takes over what has been opened for the process.
    pub fn open(&mut self, opened: Io) {
        let closed = self.stdin_closed;
        *self = opened;
        if closed {
            self.close_stdin();
        }
    }

    /// After the process's end: everything it wrote is in containerd's hands when this returns.
    pub fn finish(&mut self) {
        self.close_stdin();
        if let Some(console) = &mut self.console {
            console.drain();
        }
        self.held.clear();
    }
}

/// Opens the streams of a process without a terminal: its side, and ours.
pub fn plain(paths: &Paths, owner: (u32, u32)) -> Result<(Streams, Io)> {
    let mut io = Io::default();
    let streams =
        Streams { stdin: input(&paths.stdin, &mut io)?, stdout: output(&paths.stdout, &mut io)?, stderr: output(&paths.stderr, &mut io)? };
    if owner != (0, 0) {
        for fd in [&streams.stdin, &streams.stdout, &streams.stderr].into_iter().flatten() {
            rustix::fs::fchown(fd, Some(rustix::fs::Uid::from_raw(owner.0)), Some(rustix::fs::Gid::from_raw(owner.1)))
                .map_err(Error::context("cannot give a stream away"))?;
        }
    }
    Ok((streams, io))
}

/// Opens the FIFOs of a process with a terminal, and starts copying between them and its master side.
pub fn terminal(paths: &Paths, master: OwnedFd) -> Result<Io> {
    let mut io = Io::default();
    let stdin = input(&paths.stdin, &mut io)?;
    let stdout = output(&paths.stdout, &mut io)?;
    io.console = Some(Console::start(master, stdin.map(File::from), stdout.map(File::from))?);
    Ok(io)
}

fn opened(path: &str, flags: OFlags) -> Result<OwnedFd> {
    open(path, flags | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR).map_err(Error::context(path))
}

fn is_fifo(fd: &OwnedFd) -> bool {
    fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo)
}

fn input(path: &str, io: &mut Io) -> Result<Option<OwnedFd>> {
    if path.is_empty() {
        return Ok(None);
    }
    // Opening a FIFO waits for the other side, unless told not to.
    let reader = opened(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    if is_fifo(&reader) {
        io.stdin = Some(opened(path, OFlags::WRONLY | OFlags::NONBLOCK)?);
    }
    let flags = fcntl_getfl(&reader).map_err(Error::context(path))?;
    fcntl_setfl(&reader, flags - OFlags::NONBLOCK).map_err(Error::context(path))?;
    Ok(Some(reader))
}

fn output(path: &str, io: &mut Io) -> Result<Option<OwnedFd>> {
    if path.is_empty() {
        return Ok(None);
    }
    let path = match path.split_once("://") {
        None => path,
        Some(("fifo", path)) => path,
        Some(("file", path)) => {
            return opened(path, OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND).map(Some);
        }
        Some((kind, _)) => {
            return Err(Error::invalid(format!("{kind}: such streams are not supported: FIFOs and file:// are")));
        }
    };
    let reader = opened(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    if is_fifo(&reader) {
        io.held.push(reader);
    }
    opened(path, OFlags::WRONLY).map(Some)
}
