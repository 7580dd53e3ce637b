//! Listeners of seccomp filters: host calls of a supervised thread, held until this process answers (seccomp_unotify(2)).

use crate::check;
use abi::Errno;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// A listener that one filter of one or more threads reports to.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// A held call. Its registers cannot change before it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification {
    /// What [`Listener::answer`] wants.
    pub id: u64,
    /// The call's number.
    pub nr: i64,
    /// Its arguments.
    pub args: [u64; 6],
    /// The address behind the instruction that makes it.
    pub ip: u64,
}

/// `SECCOMP_IOCTL_NOTIF_RECV`
pub const IOCTL_RECV: u64 = 0xc050_2100;
/// `SECCOMP_IOCTL_NOTIF_SEND`
pub const IOCTL_SEND: u64 = 0xc018_2101;
/// `SECCOMP_IOCTL_NOTIF_SET_FLAGS`
pub const IOCTL_SET_FLAGS: u64 = 0x4008_2104;
/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`
const SYNC_WAKE_UP: u64 = 1;

impl Listener {
    /// Takes over the descriptor `fd` that seccomp(2) returned to a thread which shares this process's descriptor table.
    ///
    /// # Safety
    /// `fd` is an open descriptor that nobody else owns.
    #[must_use]
    pub unsafe fn from_raw(fd: RawFd) -> Listener {
        // SAFETY: the caller's promise.
        Listener(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Lets the host run the other side on the CPU of the one that wakes it, or not. `EINVAL` before Linux 6.6.
    pub fn set_sync_wake_up(&self, on: bool) -> Result<(), Errno> {
        // SAFETY: the request takes a number.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), IOCTL_SET_FLAGS, if on { SYNC_WAKE_UP } else { 0 }) }).map(drop)
    }

    /// Waits for a call for so many milliseconds at most. Returns whether there is one, or none can come any more.
    pub fn wait(&self, timeout_ms: i32) -> Result<bool, Errno> {
        match crate::io::poll(&self.0, libc::POLLIN, timeout_ms) {
            Ok(events) => Ok(events != 0),
            Err(Errno::EINTR) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// The same in nanoseconds; the host adds its timer slack, some 50 µs.
    pub fn wait_ns(&self, timeout_ns: u64) -> Result<bool, Errno> {
        let mut p = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let timeout = libc::timespec { tv_sec: (timeout_ns / 1_000_000_000) as i64, tv_nsec: (timeout_ns % 1_000_000_000) as i64 };
        // SAFETY: one valid entry, a valid time, no signal mask.
        match check(unsafe { libc::ppoll(&raw mut p, 1, &raw const timeout, std::ptr::null()) }) {
            Ok(n) => Ok(n != 0),
            Err(Errno::EINTR) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Waits for a call. `EINTR`: a signal came to this thread. `ENOENT`: the call was withdrawn by a signal to its thread, or there
    /// are no threads any more (see [`is_deserted`](Self::is_deserted)).
    pub fn receive(&self) -> Result<Notification, Errno> {
        // SAFETY: all-zero is a valid value, and what the host wants to find.
        let mut n: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: a valid place of the size that is part of the request's number.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), IOCTL_RECV, &raw mut n) })?;
        Ok(Notification { id: n.id, nr: n.data.nr.into(), args: n.data.args, ip: n.data.instruction_pointer })
    }

    /// Ends a held call, which is not carried out: its result is `value`. `ENOENT`: its thread is gone.
    pub fn answer(&self, id: u64, value: i64) -> Result<(), Errno> {
        self.send(&mut libc::seccomp_notif_resp { id, val: value, error: 0, flags: 0 })
    }

    /// Lets the host carry out a held call.
    pub fn approve(&self, id: u64) -> Result<(), Errno> {
        let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
        self.send(&mut libc::seccomp_notif_resp { id, val: 0, error: 0, flags })
    }

    fn send(&self, response: &mut libc::seccomp_notif_resp) -> Result<(), Errno> {
        loop {
            // SAFETY: a valid value of the size that is part of the request's number.
            match check(unsafe { libc::ioctl(self.0.as_raw_fd(), IOCTL_SEND, std::ptr::from_mut(response)) }) {
                Err(Errno::EINTR) => {}
                r => return r.map(drop),
            }
        }
    }

    /// Whether no thread has the filter any more.
    #[must_use]
    pub fn is_deserted(&self) -> bool {
        let mut p = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid entry.
        let n = unsafe { libc::poll(&raw mut p, 1, 0) };
        n == 1 && p.revents & libc::POLLHUP != 0
    }
}
