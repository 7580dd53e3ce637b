//! The bridge between the host's terminal and the application's.
//!
//! The host's is the slave side of a pseudo-terminal in raw mode, and merely carries characters. The application's is a
//! pseudo-terminal of the sandbox ([`fs::devpts`]), where echo, line editing, signals and job control happen.
//! Two threads carry characters, one each way; that the size has changed is told by the runtime ([`control::Request::Resize`]).

use crate::Failure;
use abi::poll::PollEvents;
use fs::devpts::termios::Winsize;
use fs::devpts::{Table, tty::Tty};
use host::eventfd::EventFd;
use kernel::{Container, task::Waker};
use rustix::event::{PollFd, PollFlags, poll};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Bytes carried at a time.
const CHUNK: usize = 4096;
/// How long the last characters may take to leave, once the application has ended.
const PATIENCE: Duration = Duration::from_secs(2);

/// Both terminals.
pub struct Terminal {
    host: OwnedFd,
    /// The application's.
    pub tty: Arc<Tty>,
    table: Arc<Table>,
    /// Wakes the thread that carries output.
    output: Arc<Waker>,
    /// Wakes the thread that carries input.
    input: EventFd,
    /// The application has ended: no more output will come.
    closing: AtomicBool,
    /// All output has been carried.
    carried: AtomicBool,
}

impl Terminal {
    /// Makes the application's terminal, of the host terminal's size.
    pub fn new(container: &Container, host: OwnedFd, owner: (u32, u32)) -> Result<Arc<Terminal>, Failure> {
        let table = Table::of(container);
        let tty = table.allocate(owner).map_err(Failure::internal("the terminal"))?;
        tty.with(|state, _| state.locked = false);
        let terminal = Arc::new(Terminal {
            host,
            tty,
            table,
            output: Arc::default(),
            input: EventFd::new().map_err(Failure::host("the terminal"))?,
            closing: AtomicBool::new(false),
            carried: AtomicBool::new(false),
        });
        terminal.resize();
        Ok(terminal)
    }

    /// Starts carrying characters.
    pub fn start(self: &Arc<Self>) -> Result<(), Failure> {
        let (input, output) = (self.clone(), self.clone());
        host::thread::spawn("terminal-in", move || input.carry_input()).map_err(Failure::host("a thread"))?;
        host::thread::spawn("terminal-out", move || output.carry_output()).map_err(Failure::host("a thread"))?;
        Ok(())
    }

    /// Gives the application's terminal the host terminal's size.
    pub fn resize(&self) {
        match rustix::termios::tcgetwinsize(&self.host) {
            Ok(size) => {
                self.tty.set_winsize(Winsize { rows: size.ws_row, cols: size.ws_col, xpixel: size.ws_xpixel, ypixel: size.ws_ypixel })
            }
            Err(error) => tracing::debug!("the host terminal's size: {error}"),
        }
    }

    /// The host's terminal is gone: so is the application's.
    pub fn hang_up(&self) {
        self.table.remove(self.tty.index);
        self.tty.master_closed();
        self.closing.store(true, Ordering::Release);
        self.output.unpark();
        self.input.notify();
    }

    /// Waits until the application's last characters have left, for a moment at most.
    pub fn flush(&self) {
        self.closing.store(true, Ordering::Release);
        self.output.unpark();
        let deadline = Instant::now() + PATIENCE;
        while !self.carried.load(Ordering::Acquire) && Instant::now() < deadline {
            host::time::sleep(Duration::from_millis(1));
        }
    }

    /// From the host to the application, until the host's terminal ends.
    fn carry_input(&self) {
        let room = Arc::new(Waker::default());
        let mut buffer = [0; CHUNK];
        loop {
            // A thread that waited in read(2) would keep the host's terminal open after the application's end.
            let mut fds = [PollFd::new(&self.host, PollFlags::IN), PollFd::new(&self.input, PollFlags::IN)];
            if poll(&mut fds, None).is_ok_and(|_| !fds[1].revents().is_empty()) {
                return;
            }
            let count = match host::io::read(&self.host, &mut buffer) {
                Ok(count) if count > 0 => count,
                Err(abi::Errno::EINTR) => continue,
                // The end, or EIO after the other side was closed.
                _ => return self.hang_up(),
            };
            let mut rest = buffer.get(..count).unwrap_or_default();
            let _registration = self.tty.master_queue.register(PollEvents::WRITABLE, room.clone());
            while !rest.is_empty() {
                let taken = self.tty.feed(rest);
                rest = rest.get(taken..).unwrap_or_default();
                if self.tty.is_hung_up() {
                    return;
                }
                if taken == 0 {
                    room.park(Some(Instant::now() + Duration::from_millis(100)));
                }
            }
        }
    }

    /// From the application to the host, until the application has ended.
    fn carry_output(&self) {
        let _registration = self.tty.master_queue.register(PollEvents::READABLE, self.output.clone());
        loop {
            // Asked before looking for output: what was written before the end is carried.
            let closing = self.closing.load(Ordering::Acquire);
            let bytes = self.tty.drain(CHUNK);
            if !bytes.is_empty() {
                self.write(&bytes);
            } else if closing {
                break;
            } else {
                self.output.park(None);
            }
        }
        self.carried.store(true, Ordering::Release);
    }

    fn write(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match host::io::write(&self.host, bytes) {
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(abi::Errno::EINTR) => {}
                // Nobody reads the host's terminal any more.
                Err(_) => return,
            }
        }
    }
}
