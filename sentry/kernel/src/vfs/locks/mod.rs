//! File locks: flock(2), POSIX record locks and open file description locks (fcntl(2)). An attachment of the inode.
//!
//! [`posix`] holds the ranges, [`flock`] whole files. Blocking waits on the inode's queue, one thread a waiter.

mod flock;
mod posix;

pub use flock::{FlockKind, flock};
pub use posix::{LockKind, Owner, RangeLock, conflicting, set_lock, show_locks};

use super::{FdTable, File, Inode};
use std::sync::Arc;
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
        inode.attachments.get_or_insert_with(|| FileLocks {
            state: Mutex::new(Rank::Leaf, State::default()),
            queue: WaitQueue::new(),
        })
    }

    fn existing(inode: &Inode) -> Option<Arc<FileLocks>> {
        inode.attachments.get::<FileLocks>()
    }
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
