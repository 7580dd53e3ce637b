//! Connections from outside to a port of the sandbox's loopback ([`control::Request::Forward`]): two threads each, one for each direction.

use crate::Failure;
use abi::{Errno, poll::PollEvents};
use control::FailureKind;
use kernel::io::IoBuffer;
use kernel::net::{Message, Shutdown, SocketOps};
use kernel::task::Waker;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// So many connections at once, by whoever opens them.
const CONNECTIONS: usize = 256;
/// Bytes that are copied at once.
const PIECE: usize = 64 << 10;

/// The connections there are.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// Both ends. Gone with the last of the two threads.
struct Relay {
    inside: Arc<dyn SocketOps>,
    outside: OwnedFd,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.inside.release();
        OPEN.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Connects to this port, and copies in both directions from then on.
pub fn connect(kernel: &Arc<kernel::Kernel>, port: u16, outside: OwnedFd) -> Result<(), Failure> {
    if OPEN.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS {
        OPEN.fetch_sub(1, Ordering::AcqRel);
        return Err(Failure::new(FailureKind::Host, format!("{CONNECTIONS} ports are forwarded already")));
    }
    let inside = net::inet::connect_loopback(kernel, port).map_err(|error| {
        OPEN.fetch_sub(1, Ordering::AcqRel);
        Failure::new(FailureKind::Host, format!("port {port}: {error}"))
    })?;
    let relay = Arc::new(Relay { inside, outside });
    let (inward, outward) = (relay.clone(), relay);
    host::thread::spawn("forward", move || inward.inward()).map_err(Failure::host("a thread"))?;
    host::thread::spawn("forward", move || outward.outward()).map_err(Failure::host("a thread")).map(drop)
}

impl Relay {
    /// From outside to the application.
    fn inward(&self) {
        let mut buffer = vec![0; PIECE];
        loop {
            let len = match host::io::recv_bytes(&self.outside, &mut buffer, 0, 0) {
                Ok(received) if received.len > 0 => received.len,
                Err(Errno::EINTR) => continue,
                Err(_) => return self.end(),
                Ok(_) => {
                    let _ = self.inside.shutdown(Shutdown { read: false, write: true });
                    return;
                }
            };
            if !self.give(buffer.get(..len).unwrap_or_default()) {
                return self.end();
            }
        }
    }

    /// Whether the application's side takes all of it.
    fn give(&self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let mut source = IoBuffer::source(bytes);
            match self.inside.send(None, &mut source, Message::default(), abi::libc::MSG_NOSIGNAL) {
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(error) if error.is(Errno::EAGAIN) => self.wait(PollEvents::WRITABLE),
                Err(_) => return false,
            }
        }
        true
    }

    /// From the application to the outside.
    fn outward(&self) {
        let mut buffer = vec![0; PIECE];
        loop {
            let received = self.inside.recv(&mut IoBuffer::dest(&mut buffer), 0, &mut Message::default());
            let len = match received {
                Ok(0) => {
                    let _ = rustix::net::shutdown(&self.outside, rustix::net::Shutdown::Write);
                    return;
                }
                Ok(len) => len,
                Err(error) if error.is(Errno::EAGAIN) => {
                    self.wait(PollEvents::READABLE);
                    continue;
                }
                Err(_) => return self.end(),
            };
            let mut bytes = buffer.get(..len).unwrap_or_default();
            while !bytes.is_empty() {
                match host::io::send_bytes(&self.outside, bytes, &[], abi::libc::MSG_NOSIGNAL) {
                    Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                    Err(Errno::EINTR) => {}
                    Err(_) => return self.end(),
                }
            }
        }
    }

    /// One side is broken: the other one hears of it.
    fn end(&self) {
        let _ = self.inside.shutdown(Shutdown { read: true, write: true });
        let _ = rustix::net::shutdown(&self.outside, rustix::net::Shutdown::Both);
    }

    /// Waits for an event of the application's side.
    fn wait(&self, events: PollEvents) {
        let waker = Arc::new(Waker::default());
        let _registration = self.inside.queue().register(events, waker.clone());
        while !self.inside.poll().intersects(events | PollEvents::ERR | PollEvents::HUP) {
            waker.park(None);
        }
    }
}
