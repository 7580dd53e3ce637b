//! Record locks: fcntl(2) with F_SETLK, F_SETLKW, F_GETLK and their F_OFD_ forms.

use super::FileLocks;
use crate::{
    task::Task,
    vfs::{File, Inode},
};
use abi::{Result, bail, poll::PollEvents};
use std::sync::Arc;
use sync::{Mutex, Rank};

/// Shared or exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum LockKind {
    Read,
    Write,
}

/// Who holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A process, by the identity of its descriptor table.
    Process(u64),
    /// An open file description.
    File(usize),
}

impl Owner {
    /// The owner of open file description locks on this file.
    pub fn of_file(file: &File) -> Owner {
        Owner::File(super::file_id(file))
    }
}

/// A lock on the bytes `start..end`; `end` is `u64::MAX` for the rest of the file, however long it becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct RangeLock {
    pub owner: Owner,
    /// The process that took it, for F_GETLK; -1 for open file descriptions.
    pub pid: i32,
    /// The number of its pid namespace.
    pub pids: u64,
    pub kind: LockKind,
    pub start: u64,
    pub end: u64,
}

impl RangeLock {
    fn overlaps(&self, o: &RangeLock) -> bool {
        self.start < o.end && o.start < self.end
    }

    fn conflicts(&self, o: &RangeLock) -> bool {
        self.owner != o.owner && self.overlaps(o) && (self.kind == LockKind::Write || o.kind == LockKind::Write)
    }
}

/// Who waits for whom, over all files: what deadlock detection walks.
static WAITING: Mutex<Vec<(Owner, Owner)>> = Mutex::new(Rank::Leaf, Vec::new());

/// Whether `owner` waiting for `holder` would close a circle.
fn deadlocks(waiting: &[(Owner, Owner)], owner: Owner, holder: Owner) -> bool {
    let mut at = holder;
    // Each waits for at most one at a time; more steps than waiters are a circle of others.
    for _ in 0..=waiting.len() {
        if at == owner {
            return true;
        }
        match waiting.iter().find(|w| w.0 == at) {
            Some(next) => at = next.1,
            None => return false,
        }
    }
    false
}

/// F_GETLK: the first lock that keeps `wanted` from being taken.
pub fn conflicting(inode: &Inode, wanted: &RangeLock) -> Option<RangeLock> {
    let locks = FileLocks::existing(inode)?;
    let s = locks.state.lock();
    s.ranges.iter().filter(|l| l.conflicts(wanted)).min_by_key(|l| l.start).copied()
}

/// Replaces what the owner holds in the range by `new`, or by nothing.
fn apply(ranges: &mut Vec<RangeLock>, at: &RangeLock, new: bool) {
    let mut result = Vec::with_capacity(ranges.len() + 2);
    let mut add = *at;
    for l in ranges.drain(..) {
        if l.owner != at.owner {
            result.push(l);
            continue;
        }
        let touches = l.start <= at.end && at.start <= l.end;
        if new && l.kind == at.kind && touches {
            // One lock of both.
            add.start = add.start.min(l.start);
            add.end = add.end.max(l.end);
            continue;
        }
        if !l.overlaps(at) {
            result.push(l);
            continue;
        }
        if l.start < at.start {
            result.push(RangeLock { end: at.start, ..l });
        }
        if l.end > at.end {
            result.push(RangeLock { start: at.end, ..l });
        }
    }
    if new {
        result.push(add);
    }
    *ranges = result;
}

/// F_SETLK (`wait` false: `EAGAIN`) and F_SETLKW (`EDEADLK` where waiting could never end). `lock` false: unlocks the range.
pub fn set_lock(task: &Task, file: &Arc<File>, wanted: RangeLock, lock: bool, wait: bool) -> Result {
    let locks = FileLocks::of(file.inode());
    if !lock {
        apply(&mut locks.state.lock().ranges, &wanted, false);
        locks.queue.notify(PollEvents::all());
        return Ok(());
    }
    let try_it = || {
        let mut s = locks.state.lock();
        if let Some(holder) = s.ranges.iter().find(|l| l.conflicts(&wanted)) {
            return Err(holder.owner);
        }
        apply(&mut s.ranges, &wanted, true);
        Ok(())
    };
    let Err(holder) = try_it() else {
        // A write lock that became a read lock lets readers in.
        locks.queue.notify(PollEvents::all());
        return Ok(());
    };
    if !wait {
        bail!(EAGAIN, "locked by another");
    }
    if matches!(wanted.owner, Owner::Process(_)) {
        let mut waiting = WAITING.lock();
        if deadlocks(&waiting, wanted.owner, holder) {
            drop(waiting);
            bail!(EDEADLK);
        }
        waiting.push((wanted.owner, holder));
    }
    let result = task.wait_on(&[(&locks.queue, PollEvents::all())], None, || match try_it() {
        Ok(()) => Some(Ok(())),
        Err(holder) => {
            let mut waiting = WAITING.lock();
            if let Some(me) = waiting.iter().position(|w| w.0 == wanted.owner) {
                let rest: Vec<_> = waiting.iter().copied().filter(|w| w.0 != wanted.owner).collect();
                if deadlocks(&rest, wanted.owner, holder) {
                    return Some(Err(abi::error!(EDEADLK)));
                }
                if let Some(w) = waiting.get_mut(me) {
                    w.1 = holder;
                }
            }
            None
        }
    });
    let mut waiting = WAITING.lock();
    if let Some(i) = waiting.iter().position(|w| w.0 == wanted.owner) {
        waiting.remove(i);
    }
    drop(waiting);
    match result? {
        Some(r) => r,
        None => Ok(()),
    }
}

/// All locks on an inode, for /proc/locks: kind, holder's pid, range.
pub fn show_locks(inode: &Inode) -> Vec<RangeLock> {
    FileLocks::existing(inode).map(|l| l.state.lock().ranges.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(owner: u64, kind: LockKind, start: u64, end: u64) -> RangeLock {
        RangeLock { owner: Owner::Process(owner), pid: 1, pids: 1, kind, start, end }
    }

    fn ranges(v: &[RangeLock]) -> Vec<(LockKind, u64, u64)> {
        let mut r: Vec<_> = v.iter().map(|l| (l.kind, l.start, l.end)).collect();
        r.sort_by_key(|l| l.1);
        r
    }

    #[test]
    fn ranges_merge_and_split() {
        use LockKind::{Read, Write};
        let mut v = Vec::new();
        apply(&mut v, &lock(1, Read, 0, 10), true);
        apply(&mut v, &lock(1, Read, 10, 20), true);
        assert_eq!(ranges(&v), [(Read, 0, 20)]);
        apply(&mut v, &lock(1, Write, 5, 8), true);
        assert_eq!(ranges(&v), [(Read, 0, 5), (Write, 5, 8), (Read, 8, 20)]);
        apply(&mut v, &lock(1, Read, 7, 9), false);
        assert_eq!(ranges(&v), [(Read, 0, 5), (Write, 5, 7), (Read, 9, 20)]);
        apply(&mut v, &lock(1, Read, 0, u64::MAX), true);
        assert_eq!(ranges(&v), [(Read, 0, u64::MAX)]);
        assert!(v[0].conflicts(&lock(2, Write, 1 << 40, u64::MAX)));
        assert!(!v[0].conflicts(&lock(2, Read, 0, 1)));
        assert!(!v[0].conflicts(&lock(1, Write, 0, 1)));
    }

    #[test]
    fn circles_are_found() {
        let o = Owner::Process;
        let w = [(o(1), o(2)), (o(2), o(3))];
        assert!(deadlocks(&w, o(3), o(1)));
        assert!(!deadlocks(&w, o(4), o(1)));
        // A circle of others does not hang the search.
        assert!(!deadlocks(&[(o(1), o(2)), (o(2), o(1))], o(4), o(1)));
    }
}
