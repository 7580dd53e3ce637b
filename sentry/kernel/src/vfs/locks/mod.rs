//! File locks: flock(2), POSIX record locks and open file description locks (fcntl(2)). An attachment of the inode.
//!
//! [`posix`] holds the ranges, [`flock`] whole files. Blocking waits on the inode's queue, one thread a waiter.

mod flock;
mod posix;

pub use flock::{FlockKind, flock};
pub use posix::{LockKind, Owner, RangeLock, conflicting, set_lock, show_locks};

use super::{FdTable, File, Inode};
use std::fmt::Write;
use std::sync::{Arc, Weak};
use sync::{Mutex, Rank, WaitQueue};

/// The locks of one inode.
pub(super) struct FileLocks {
    state: Mutex<State>,
    /// Notified whenever a lock goes or shrinks.
    queue: WaitQueue,
}

#[derive(Default)]
struct State {
    flocks: Vec<flock::Held>,
    ranges: Vec<RangeLock>,
}

impl FileLocks {
    fn of(inode: &Inode) -> Arc<FileLocks> {
        if let Some(known) = Self::existing(inode) {
            return known;
        }
        let locks =
            inode.attachments.get_or_insert_with(|| FileLocks { state: Mutex::new(Rank::Leaf, State::default()), queue: WaitQueue::new() });
        let mut all = ALL.lock();
        all.retain(|a| a.locks.strong_count() > 0);
        if !all.iter().any(|a| a.locks.as_ptr() == Arc::as_ptr(&locks)) {
            all.push(Listed { locks: Arc::downgrade(&locks), dev: inode.sb.dev, ino: inode.ino });
        }
        drop(all);
        locks
    }

    fn existing(inode: &Inode) -> Option<Arc<FileLocks>> {
        inode.attachments.get::<FileLocks>()
    }
}

/// Where locks are, for /proc/locks.
struct Listed {
    locks: Weak<FileLocks>,
    dev: u64,
    ino: u64,
}

static ALL: Mutex<Vec<Listed>> = Mutex::new(Rank::Leaf, Vec::new());

/// The text of /proc/locks (proc_locks(5)), for those who see this pid namespace.
pub fn proc_locks(pids: u64) -> String {
    let files: Vec<_> = ALL.lock().iter().filter_map(|l| Some((l.locks.upgrade()?, l.dev, l.ino))).collect();
    let mut out = String::new();
    let mut n = 0;
    let mut line = |kind: &str, write: bool, pid: i32, dev: u64, ino: u64, range: String| {
        n += 1;
        let mode = if write { "WRITE" } else { "READ " };
        let (major, minor) = (abi::fs::major(dev), abi::fs::minor(dev));
        let _ = writeln!(out, "{n}: {kind}  ADVISORY  {mode} {pid} {major:02x}:{minor:02x}:{ino} {range}");
    };
    for (locks, dev, ino) in files {
        let s = locks.state.lock();
        for f in s.flocks.iter().filter(|f| f.pids == pids) {
            line("FLOCK", f.exclusive, f.pid, dev, ino, "0 EOF".to_owned());
        }
        for r in s.ranges.iter().filter(|r| r.pids == pids) {
            let kind = if matches!(r.owner, Owner::File(_)) { "OFDLCK" } else { "POSIX " };
            let end = if r.end == u64::MAX { "EOF".to_owned() } else { (r.end - 1).to_string() };
            line(kind, r.kind == LockKind::Write, r.pid, dev, ino, format!("{} {end}", r.start));
        }
    }
    out
}

/// The identity of an open file description.
fn file_id(file: &File) -> usize {
    std::ptr::from_ref(file) as usize
}

/// Takes away what an open file description holds, at its end.
pub(super) fn release_file(file: &File) {
    let Some(locks) = FileLocks::existing(file.inode()) else { return };
    let id = file_id(file);
    {
        let mut s = locks.state.lock();
        s.flocks.retain(|l| l.file != id);
        s.ranges.retain(|l| l.owner != Owner::File(id));
    }
    locks.queue.notify(abi::poll::PollEvents::all());
}

/// Takes away the POSIX locks that a process holds on a file, at any close(2) of a descriptor for it.
pub fn release_process(files: &FdTable, inode: &Inode) {
    let Some(locks) = FileLocks::existing(inode) else { return };
    {
        let mut s = locks.state.lock();
        s.ranges.retain(|l| l.owner != Owner::Process(files.id()));
    }
    locks.queue.notify(abi::poll::PollEvents::all());
}
