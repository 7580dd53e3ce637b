//! The terminal of a container on the host's side.
//!
//! A pseudo-terminal in raw mode connects the sentry, which holds the slave side as its controlling terminal, with either the
//! user's own terminal ([`Proxy`]) or whoever listens on `--console-socket` ([`send`]). What a terminal does to characters (echo,
//! line editing, signals) is done inside the sandbox only.

use crate::exit::{Failure, Result, Status};
use control::WindowSize;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{OptionalActions, Termios, Winsize, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// A new pseudo-terminal: master and slave, the slave in raw mode.
pub fn open(size: Option<WindowSize>) -> Result<(OwnedFd, OwnedFd)> {
    let open = || -> rustix::io::Result<_> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        let mut termios = tcgetattr(&slave)?;
        termios.make_raw();
        tcsetattr(&slave, OptionalActions::Now, &termios)?;
        let size = match size {
            Some(size) => Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 },
            None => own_size().unwrap_or(Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }),
        };
        tcsetwinsize(&master, size)?;
        Ok((master, slave))
    };
    open().map_err(Failure::context(Status::Console, "cannot make a pseudo-terminal"))
}

/// A new pseudo-terminal whose master side is sent to the socket at `path`: the slave.
pub fn open_and_send(size: Option<WindowSize>, path: &Path) -> Result<OwnedFd> {
    let (master, slave) = open(size)?;
    send("--console-socket", path, b"/dev/ptmx", master)?;
    Ok(slave)
}

/// Sends a descriptor of this process to the socket at `path`, under the name that runc gives it.
pub fn send_pidfd(name: &str, path: &Path) -> Result<()> {
    let pidfd = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())
        .map_err(Failure::internal("pidfd_open"))?;
    send("--pidfd-socket", path, name.as_bytes(), pidfd)
}

/// The size of the terminal that the runtime runs on, if it does.
fn own_size() -> Option<Winsize> {
    let size = tcgetwinsize(rustix::stdio::stdin()).or_else(|_| tcgetwinsize(rustix::stdio::stdout())).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some(size)
}

/// Sends a descriptor to the socket at `path`, as runc does: one message with a name and the descriptor.
fn send(flag: &str, path: &Path, name: &[u8], fd: OwnedFd) -> Result<()> {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let failed = |error: std::io::Error| Failure::new(Status::Console, format!("{flag} {}: {error}", path.display()));
    let socket = std::os::unix::net::UnixStream::connect(path).map_err(failed)?;
    let fds = [fd.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(&socket, &[IoSlice::new(name)], &mut control, SendFlags::NOSIGNAL).map_err(|error| failed(error.into()))?;
    Ok(())
}

/// Passes characters between the runtime's standard streams and a pseudo-terminal's master side.
#[derive(Debug)]
pub struct Proxy {
    master: OwnedFd,
    /// The user's terminal as it was, if standard input is one. Restored when dropped.
    saved: Option<Termios>,
    /// Read from standard input and not yet taken by the master.
    pending: Vec<u8>,
    /// Standard input has not ended.
    input: bool,
    /// The slave side has not been closed.
    output: bool,
}

impl Proxy {
    /// Takes over the user's terminal, if standard input is one, in raw mode.
    pub fn new(master: OwnedFd) -> Result<Proxy> {
        let failed = || Failure::context(Status::Console, "cannot set up the terminal");
        let flags = rustix::fs::fcntl_getfl(&master).map_err(failed())?;
        rustix::fs::fcntl_setfl(&master, flags | OFlags::NONBLOCK).map_err(failed())?;
        let mut proxy = Proxy { master, saved: None, pending: Vec::new(), input: true, output: true };
        let stdin = rustix::stdio::stdin();
        if isatty(stdin) {
            let mut termios = tcgetattr(stdin).map_err(failed())?;
            proxy.saved = Some(termios.clone());
            termios.make_raw();
            tcsetattr(stdin, OptionalActions::Drain, &termios).map_err(failed())?;
        }
        Ok(proxy)
    }

    /// Gives the pseudo-terminal the size that the user's terminal now has; the kernel tells the sentry.
    pub fn resize(&self) {
        if let Some(size) = own_size() {
            // Without a size there is nothing better than the old one.
            let _ = tcsetwinsize(&self.master, size);
        }
    }

    /// The master side; poll it for reading if the first is true, for writing if the second.
    pub fn master(&self) -> (BorrowedFd<'_>, bool, bool) {
        (self.master.as_fd(), self.output, !self.pending.is_empty())
    }

    /// Whether to poll standard input.
    pub fn wants_input(&self) -> bool {
        self.input && self.pending.is_empty()
    }

    /// Standard input has something.
    pub fn on_input(&mut self) {
        let mut buffer = [0; 4096];
        match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
            Ok(0) => self.input = false,
            Ok(count) => {
                self.pending.extend_from_slice(&buffer[..count]);
                self.flush();
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => self.input = false,
        }
    }

    /// Passes on what is pending, as far as the master takes it.
    pub fn flush(&mut self) {
        while !self.pending.is_empty() {
            match rustix::io::write(&self.master, &self.pending) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => self.pending.clear(),
            }
        }
    }

    /// Passes on what the application has written. True if there may be more.
    pub fn on_output(&mut self) -> bool {
        let mut buffer = [0; 16 << 10];
        match rustix::io::read(&self.master, &mut buffer) {
            Ok(count) if count > 0 => {
                write_out(&buffer[..count]);
                true
            }
            Err(Errno::INTR) => true,
            Err(Errno::AGAIN) => false,
            // EIO: the slave side is closed, and everything written there has been read.
            _ => {
                self.output = false;
                false
            }
        }
    }

    /// Passes on the rest, once the sentry has ended.
    pub fn drain(&mut self) {
        while self.on_output() {}
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(termios) = &self.saved {
            // A terminal that has gone away needs no restoring.
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, termios);
        }
    }
}

/// Writes all of it to standard output. A reader that has gone away loses it, and a terminal's application is not told.
fn write_out(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match rustix::io::write(rustix::stdio::stdout(), bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            // Somebody else made the shared description non-blocking: wait.
            Err(Errno::AGAIN) => {
                let stdout = rustix::stdio::stdout();
                let mut poll = [rustix::event::PollFd::new(&stdout, rustix::event::PollFlags::OUT)];
                if !matches!(rustix::event::poll(&mut poll, None), Ok(_) | Err(Errno::INTR)) {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}
