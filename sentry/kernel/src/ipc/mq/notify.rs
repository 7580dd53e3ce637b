//! Who is told of a message in an empty queue: mq_notify(3).

use crate::{
    net::SocketFile,
    task::{Task, ThreadGroup},
    vfs::File,
};
use abi::signal::{SI_MESGQ, SigInfo, Signal};
use std::sync::{Arc, Weak};

/// Bytes of the message that libraries wait for at a netlink socket (`NOTIFY_COOKIE_LEN`).
pub const COOKIE_LEN: usize = 32;
/// The last byte of the cookie: a message has come (`NOTIFY_WOKENUP`).
const WOKEN_UP: u8 = 1;
/// The last byte of the cookie: the subscription is gone (`NOTIFY_REMOVED`).
const REMOVED: u8 = 2;

/// How (`sigev_notify`).
pub enum NotifyBy {
    /// `SIGEV_NONE`: not at all, but the place is taken.
    Nothing,
    /// `SIGEV_SIGNAL`; no signal for number 0, which Linux allows.
    Signal {
        /// `sigev_signo`
        signal: Option<Signal>,
        /// `sigev_value`
        value: u64,
    },
    /// `SIGEV_THREAD`: the C library's thread reads this from a netlink socket.
    Socket {
        /// The socket.
        file: Arc<File>,
        /// What `sigev_value` points to.
        cookie: [u8; COOKIE_LEN],
    },
}

/// A process that is to be told, once.
pub struct Subscriber {
    process: Weak<ThreadGroup>,
    by: NotifyBy,
}

impl Subscriber {
    /// The task's process.
    pub fn new(task: &Task, by: NotifyBy) -> Subscriber {
        Subscriber { process: Arc::downgrade(task.group()), by }
    }

    pub(super) fn is_of(&self, task: &Task) -> bool {
        std::ptr::eq(self.process.as_ptr(), Arc::as_ptr(task.group()))
    }

    /// A message has come from `sender`.
    pub(super) fn tell(self, sender: &Task) {
        match self.by {
            NotifyBy::Nothing => {}
            NotifyBy::Signal { signal, value } => {
                if let (Some(signal), Some(process)) = (signal, self.process.upgrade()) {
                    let mut info = SigInfo::user(signal, SI_MESGQ, sender.tgid(), sender.cred().uid);
                    info.fields[1] = value;
                    // A full queue of signals loses it, as in Linux.
                    let _ = process.send_signal(info);
                }
            }
            NotifyBy::Socket { file, cookie } => deliver(&file, cookie, WOKEN_UP),
        }
    }

    /// The queue was closed, or the subscription taken back.
    pub(super) fn removed(self) {
        if let NotifyBy::Socket { file, cookie } = self.by {
            deliver(&file, cookie, REMOVED);
        }
    }

    /// `NOTIFY`, `SIGNO` and `NOTIFY_PID` of the queue's file.
    pub(super) fn show(&self) -> (i32, u32, i32) {
        let pid = self.process.upgrade().map_or(0, |p| p.tgid);
        match &self.by {
            NotifyBy::Nothing => (libc::SIGEV_NONE, 0, pid),
            NotifyBy::Signal { signal, .. } => (libc::SIGEV_SIGNAL, signal.map_or(0, |s| u32::from(s.number())), pid),
            NotifyBy::Socket { .. } => (libc::SIGEV_THREAD, 0, pid),
        }
    }
}

fn deliver(file: &File, mut cookie: [u8; COOKIE_LEN], what: u8) {
    cookie[COOKIE_LEN - 1] = what;
    if let Ok(socket) = SocketFile::of(file) {
        // Nobody can be told that the socket is full: its owner does not read.
        let _ = socket.deliver(&cookie);
    }
}
