//! Terminals: the OCI runtime sends the master side over a socket, and the shim copies between it and containerd's FIFOs.

use crate::error::{Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::{DirBuilder, File};
use std::io::{IoSliceMut, PipeReader, PipeWriter, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

/// How long the last output of a terminal may take to be read by containerd.
const DRAIN: Duration = Duration::from_secs(5);
/// How long a terminal must be silent, after the end of its process, if other processes keep it open.
const SILENCE_MS: i64 = 200;

/// A socket that a terminal is sent to, in a directory of its own; both are removed when dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    dir: PathBuf,
}

impl Socket {
    /// Makes it.
    pub fn new() -> Result<Socket> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // Short: a socket's path has 107 bytes at most. Nobody else may look in: DirBuilder fails if it is there already.
        let dir = std::env::temp_dir().join(format!("caisson-pty-{}-{number}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&dir).map_err(Error::context(dir.display()))?;
        let listener = UnixListener::bind(dir.join("s")).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        match listener {
            Ok(listener) => Ok(Socket { listener, dir }),
            Err(error) => {
                let _ = std::fs::remove_dir_all(&dir);
                Err(Error::context(dir.display())(error))
            }
        }
    }

    /// For `--console-socket`.
    pub fn path(&self) -> PathBuf {
        self.dir.join("s")
    }

    /// The terminal, once the runtime has ended well: it has been sent by then.
    pub fn receive(&self) -> Result<OwnedFd> {
        let none = || Error::new(ttrpc::Code::UNKNOWN, "the OCI runtime sent no terminal");
        let (stream, _) = self.listener.accept().map_err(|_| none())?;
        let mut name = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        recvmsg(&stream, &mut [IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC)
            .map_err(Error::context("console socket"))?;
        control
            .drain()
            .find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                _ => None,
            })
            .ok_or_else(none)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(Path::new(&self.dir));
    }
}

/// A terminal's master side, being copied from and to.
#[derive(Debug)]
pub struct Console {
    master: File,
    copied: Receiver<()>,
    /// Closed when the process has ended: other processes may keep the terminal open.
    going_on: Option<PipeWriter>,
}

impl Console {
    /// Starts copying.
    pub fn start(master: OwnedFd, stdin: Option<File>, stdout: Option<File>) -> Result<Console> {
        let master = File::from(master);
        let clone = || master.try_clone().map_err(Error::context("terminal"));
        let (done, copied) = channel();
        if let Some(stdin) = stdin {
            let to = clone()?;
            spawn(move || copy(stdin, to))?;
        }
        let from = clone()?;
        let (ended, going_on) = std::io::pipe().map_err(Error::context("pipe"))?;
        spawn(move || {
            let output = Output { master: from, ended };
            match stdout {
                Some(stdout) => copy(output, stdout),
                // Nobody listens; the application must not wait for that.
                None => copy(output, std::io::sink()),
            }
            let _ = done.send(());
        })?;
        Ok(Console { master, copied, going_on: Some(going_on) })
    }

    /// Sets the size.
    pub fn resize(&self, width: u32, height: u32) -> Result<()> {
        let size = |n: u32| u16::try_from(n).map_err(Error::context("the size of a terminal"));
        let size = Winsize { ws_row: size(height)?, ws_col: size(width)?, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.master, size).map_err(Error::context("the size of a terminal"))
    }

    /// Waits until the last output has been copied, after the end of the process.
    pub fn drain(&mut self) {
        self.going_on = None;
        let _ = self.copied.recv_timeout(DRAIN);
    }
}

/// What the terminal shows, until it is closed, or silent after the end of its process.
#[derive(Debug)]
struct Output {
    master: File,
    ended: PipeReader,
}

impl Read for Output {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut fds = [PollFd::new(&self.master, PollFlags::IN), PollFd::new(&self.ended, PollFlags::IN)];
        poll(&mut fds, None)?;
        if fds[0].revents().is_empty() {
            let silence = Timespec { tv_sec: 0, tv_nsec: SILENCE_MS * 1_000_000 };
            if poll(&mut [PollFd::new(&self.master, PollFlags::IN)], Some(&silence))? == 0 {
                return Ok(0);
            }
        }
        self.master.read(buffer)
    }
}

fn spawn(run: impl FnOnce() + Send + 'static) -> Result<()> {
    thread::Builder::new()
        .name("console".into())
        .stack_size(128 << 10)
        .spawn(run)
        .map(drop)
        .map_err(Error::context("cannot start a thread"))
}

/// Copies until either side ends. A master whose slaves are all closed gives EIO: that is its end.
fn copy(mut from: impl Read, mut to: impl Write) {
    let mut buffer = [0; 16 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                let Some(bytes) = buffer.get(..count) else { return };
                if to.write_all(bytes).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
