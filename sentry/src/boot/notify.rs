//! The container's end of `NOTIFY_SOCKET`: a datagram socket that belongs to nobody inside, at which the application says when it is ready
//! (sd_notify(3)). Everything that it is sent is read, so that no sender ever waits; the first word of being ready is kept for the runtime,
//! and nothing else of it leaves the sandbox.

use abi::poll::PollEvents;
use kernel::io::IoBuffer;
use kernel::net::{Message, SocketOps};
use kernel::task::Waker;
use net::unix::Sock;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use sync::{Mutex, Rank, WaitQueue};

/// The longest message that is read whole.
const LONGEST: usize = 4096;

/// The socket, and what was said there.
pub struct Notify {
    sock: Arc<Sock>,
    ready: Mutex<Option<String>>,
    closed: AtomicBool,
    changed: WaitQueue,
}

impl Notify {
    /// With a socket that has a name.
    pub fn new(sock: Arc<Sock>) -> Notify {
        Notify { sock, ready: Mutex::new(Rank::Leaf, None), closed: AtomicBool::new(false), changed: WaitQueue::new() }
    }

    /// Reads until the container ends.
    pub fn run(&self) {
        let waker = Arc::new(Waker::default());
        let _registration = self.sock.queue().register(PollEvents::READABLE, waker.clone());
        while !self.closed.load(Ordering::SeqCst) {
            let mut buffer = [0; LONGEST];
            // Descriptors that come along are closed as the message is dropped: that is what a sender waits for with BARRIER=1.
            match self.sock.recv(&mut IoBuffer::dest(&mut buffer), 0, &mut Message::default()) {
                Ok(count) => self.read(buffer.get(..count).unwrap_or_default()),
                Err(_) => drop(waker.park(None)),
            }
        }
    }

    fn read(&self, message: &[u8]) {
        let Some(line) = message.split(|byte| *byte == b'\n').find(|line| line.starts_with(b"READY=")) else { return };
        let line = String::from_utf8_lossy(line).into_owned();
        self.ready.lock().get_or_insert(line);
        self.changed.notify(PollEvents::IN);
    }

    /// Waits for the word of being ready; `None` if the container ends before.
    pub fn wait(&self) -> Option<String> {
        let waker = Arc::new(Waker::default());
        let _registration = self.changed.register(PollEvents::IN, waker.clone());
        loop {
            let ready = self.ready.lock().clone();
            if ready.is_some() || self.closed.load(Ordering::SeqCst) {
                return ready;
            }
            waker.park(None);
        }
    }

    /// The container has ended.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.sock.release();
        self.sock.queue().notify(PollEvents::READABLE);
        self.changed.notify(PollEvents::IN);
    }
}
