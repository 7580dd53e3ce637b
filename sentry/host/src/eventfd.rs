//! [`EventFd`]: eventfd(2), to wake a thread that waits in poll or epoll.

use crate::from_rustix;
use abi::Errno;
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A non-blocking, close-on-exec event counter.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A counter of zero.
    pub fn new() -> Result<EventFd, Errno> {
        Ok(EventFd(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(from_rustix)?))
    }

    /// Adds one: makes it readable.
    pub fn notify(&self) {
        // The only way to fail is an overflowing counter (EAGAIN), and then it is readable already.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Takes the count and makes it zero.
    #[must_use]
    pub fn take(&self) -> u64 {
        let mut b = [0; 8];
        match rustix::io::read(&self.0, &mut b) {
            Ok(8) => u64::from_ne_bytes(b),
            _ => 0,
        }
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        let e = EventFd::new().expect("eventfd");
        assert_eq!(e.take(), 0);
        e.notify();
        e.notify();
        assert_eq!(e.take(), 2);
        assert_eq!(e.take(), 0);
    }
}
