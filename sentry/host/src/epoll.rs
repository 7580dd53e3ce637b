//! [`Epoll`]: epoll(7) on host descriptors.

use crate::{check, from_rustix};
use abi::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// What [`Epoll::wait`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// `EPOLL*` bits.
    pub events: u32,
    /// The value given with the descriptor.
    pub data: u64,
}

/// An epoll instance, close-on-exec.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

impl Epoll {
    /// An empty one.
    pub fn new() -> Result<Epoll, Errno> {
        Ok(Epoll(rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).map_err(from_rustix)?))
    }

    fn control(&self, op: libc::c_int, fd: BorrowedFd<'_>, events: u32, data: u64) -> Result<(), Errno> {
        let mut e = libc::epoll_event { events, u64: data };
        // SAFETY: one valid event.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), op, fd.as_raw_fd(), &mut e) }).map(drop)
    }

    /// Watches `fd` for `EPOLL*` events, reported with `data`. `EPERM` for files that are always ready.
    pub fn add(&self, fd: impl AsFd, events: u32, data: u64) -> Result<(), Errno> {
        self.control(libc::EPOLL_CTL_ADD, fd.as_fd(), events, data)
    }

    /// Changes what a descriptor is watched for.
    pub fn modify(&self, fd: impl AsFd, events: u32, data: u64) -> Result<(), Errno> {
        self.control(libc::EPOLL_CTL_MOD, fd.as_fd(), events, data)
    }

    /// Watches a descriptor no more.
    pub fn delete(&self, fd: impl AsFd) -> Result<(), Errno> {
        self.control(libc::EPOLL_CTL_DEL, fd.as_fd(), 0, 0)
    }

    /// Waits up to `timeout_ms` (below zero: for ever) for up to 64 descriptors, which replace what `ready` held.
    pub fn wait(&self, ready: &mut Vec<Ready>, timeout_ms: i32) -> Result<(), Errno> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
        ready.clear();
        // SAFETY: the array is valid for its length.
        let n = check(unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), events.len() as i32, timeout_ms) })?;
        ready.extend(events.iter().take(n as usize).map(|e| Ready { events: e.events, data: e.u64 }));
        Ok(())
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eventfd::EventFd;

    #[test]
    fn reports_what_is_ready() {
        let (p, e) = (Epoll::new().expect("epoll"), EventFd::new().expect("eventfd"));
        let mut ready = Vec::new();
        p.add(&e, libc::EPOLLIN as u32, 42).expect("add");
        p.wait(&mut ready, 0).expect("wait");
        assert!(ready.is_empty());
        e.notify();
        p.wait(&mut ready, 1000).expect("wait");
        assert_eq!(ready, [Ready { events: libc::EPOLLIN as u32, data: 42 }]);
        p.delete(&e).expect("delete");
        p.wait(&mut ready, 0).expect("wait");
        assert!(ready.is_empty());
    }
}
