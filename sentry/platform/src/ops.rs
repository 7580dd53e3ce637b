//! The queue of an address space: operations on mappings that no thread has carried out yet, merged where they touch.

use abi::mm::Prot;
use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One operation, as [`AddressSpace`](crate::AddressSpace) describes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Map a piece of a file. `present`: make its pages accessible at once.
    Map { addr: u64, len: u64, fd: RawFd, offset: u64, prot: Prot, shared: bool, present: bool },
    /// Unmap.
    Unmap { addr: u64, len: u64 },
    /// Change the protection.
    Protect { addr: u64, len: u64, prot: Prot },
}

impl Op {
    fn range(&self) -> (u64, u64) {
        let (Op::Map { addr, len, .. } | Op::Unmap { addr, len } | Op::Protect { addr, len, .. }) = *self;
        (addr, addr.saturating_add(len))
    }

    /// One operation for this and then `next`, if there is such a one.
    fn merge(&self, next: &Op) -> Option<Op> {
        let ((start, end), (next_start, next_end)) = (self.range(), next.range());
        // What is mapped or unmapped anew does not care what was there.
        if !matches!(next, Op::Protect { .. }) && next_start <= start && end <= next_end {
            return Some(*next);
        }
        let merged = match (*self, *next) {
            (
                Op::Map { addr, len, fd, offset, prot, shared, present },
                Op::Map { len: more, fd: fd2, offset: offset2, prot: prot2, shared: shared2, present: present2, .. },
            ) if end == next_start
                && fd == fd2
                && offset.checked_add(len) == Some(offset2)
                && (prot, shared, present) == (prot2, shared2, present2) =>
            {
                Op::Map { addr, len: len + more, fd, offset, prot, shared, present }
            }
            (Op::Unmap { addr, len }, Op::Unmap { len: more, .. }) if end == next_start => Op::Unmap { addr, len: len + more },
            (Op::Unmap { len, .. }, Op::Unmap { addr, len: more }) if next_end == start => Op::Unmap { addr, len: len + more },
            (Op::Protect { addr, len, prot }, Op::Protect { len: more, prot: prot2, .. }) if end == next_start && prot == prot2 => {
                Op::Protect { addr, len: len + more, prot }
            }
            // Mapped, and its protection changed at once.
            (Op::Map { addr, len, fd, offset, shared, present, .. }, Op::Protect { prot, .. })
                if (start, end) == (next_start, next_end) =>
            {
                Op::Map { addr, len, fd, offset, prot, shared, present }
            }
            _ => return None,
        };
        Some(merged)
    }

    /// The host's system call for it: number and six arguments, padded to eight words.
    pub fn call(&self) -> [u64; 8] {
        match *self {
            Op::Map { addr, len, fd, offset, prot, shared, present } => {
                let kind = if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
                let populate = if present { libc::MAP_POPULATE } else { 0 };
                let flags = (libc::MAP_FIXED | libc::MAP_NORESERVE | kind | populate) as u64;
                [libc::SYS_mmap as u64, addr, len, prot.bits().into(), flags, fd as u64, offset, 0]
            }
            Op::Unmap { addr, len } => [libc::SYS_munmap as u64, addr, len, 0, 0, 0, 0, 0],
            Op::Protect { addr, len, prot } => [libc::SYS_mprotect as u64, addr, len, prot.bits().into(), 0, 0, 0, 0],
        }
    }
}

/// Operations in order.
#[derive(Debug, Default)]
pub struct Queue {
    ops: Mutex<Vec<Op>>,
    /// Operations that nobody needs yet, by where they begin, in ranges that do not overlap and that no operation behind them touches.
    later: Mutex<BTreeMap<u64, Op>>,
    /// Whether there are any.
    has_later: AtomicBool,
    /// Whether operations are queued, or taken and not yet known to be done.
    dirty: AtomicBool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Vec<Op>> {
        self.ops.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends one. An empty range is nothing to do.
    pub fn push(&self, op: Op) {
        let (start, end) = op.range();
        if start == end {
            return;
        }
        self.overtake(&op);
        self.append(op);
    }

    /// Appends one that need not be carried out before somebody [asks](Self::demand) for it, or something else happens in its range.
    pub fn push_later(&self, op: Op) {
        let (start, end) = op.range();
        if start == end {
            return;
        }
        self.overtake(&op);
        self.later().insert(start, op);
        self.has_later.store(true, Ordering::Release);
    }

    /// Sees to it that an operation at `addr` which nobody needed so far will be carried out. Returns whether there was one.
    pub fn demand(&self, addr: u64) -> bool {
        if !self.has_later.load(Ordering::Acquire) {
            return false;
        }
        let mut later = self.later();
        let found = later.range(..=addr).next_back().filter(|(_, l)| addr < l.range().1).map(|(&at, _)| at);
        let Some(op) = found.and_then(|at| later.remove(&at)) else { return false };
        self.append(op);
        true
    }

    /// Before `op` comes what nobody needed so far in its range, unless nothing would be left of it.
    fn overtake(&self, op: &Op) {
        if !self.has_later.load(Ordering::Acquire) {
            return;
        }
        let (start, end) = op.range();
        let mut later = self.later();
        while let Some((&at, l)) = later.range(..end).next_back() {
            let (from, to) = l.range();
            if to <= start {
                break;
            }
            if matches!(op, Op::Protect { .. }) || from < start || end < to {
                self.append(*l);
            }
            later.remove(&at);
        }
    }

    fn later(&self) -> MutexGuard<'_, BTreeMap<u64, Op>> {
        self.later.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, mut op: Op) {
        let mut ops = self.lock();
        while let Some(merged) = ops.last().and_then(|last| last.merge(&op)) {
            ops.pop();
            op = merged;
        }
        ops.push(op);
        self.dirty.store(true, Ordering::Release);
    }

    /// Whether somebody has to carry something out, or is about it.
    pub fn is_dirty(&self) -> bool {
        self.dirty.load(Ordering::Acquire)
    }

    /// Takes all there is. `None`: nothing; then, because only one thread at a time takes and only after it has carried out what
    /// it took, the queue is clean.
    pub fn take(&self) -> Option<Vec<Op>> {
        let mut ops = self.lock();
        if ops.is_empty() {
            self.dirty.store(false, Ordering::Release);
            return None;
        }
        Some(std::mem::take(&mut *ops))
    }

    /// Puts operations back before all others.
    pub fn put_back(&self, mut front: Vec<Op>) {
        let mut ops = self.lock();
        front.append(&mut ops);
        self.dirty.store(!front.is_empty(), Ordering::Release);
        *ops = front;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(addr: u64, len: u64, offset: u64) -> Op {
        Op::Map { addr, len, fd: 3, offset, prot: Prot::READ, shared: true, present: false }
    }

    #[test]
    fn neighbours_merge() {
        let q = Queue::default();
        q.push(map(0x1000, 0x1000, 0));
        q.push(map(0x2000, 0x1000, 0x1000));
        q.push(map(0x3000, 0x1000, 0x9000));
        q.push(Op::Unmap { addr: 0x8000, len: 0x1000 });
        q.push(Op::Unmap { addr: 0x9000, len: 0x1000 });
        q.push(Op::Unmap { addr: 0x7000, len: 0x1000 });
        q.push(Op::Unmap { addr: 0x7000, len: 0 });
        assert!(q.is_dirty());
        assert_eq!(q.take(), Some(vec![map(0x1000, 0x2000, 0), map(0x3000, 0x1000, 0x9000), Op::Unmap { addr: 0x7000, len: 0x3000 }]));
        assert!(q.is_dirty());
        assert_eq!(q.take(), None);
        assert!(!q.is_dirty());
    }

    #[test]
    fn what_nobody_needs_waits_until_its_range_is_touched() {
        let q = Queue::default();
        q.push_later(map(0x1000, 0x2000, 0));
        q.push_later(map(0x5000, 0x2000, 0x5000));
        q.push_later(map(0x9000, 0x1000, 0x9000));
        q.push_later(map(0xc000, 0x1000, 0xc000));
        assert!(!q.is_dirty() && q.take().is_none());
        // Wholly replaced: never done. Touched in part, or protected: done first.
        q.push(Op::Unmap { addr: 0x0, len: 0x4000 });
        q.push(Op::Unmap { addr: 0x6000, len: 0x1000 });
        q.push(Op::Protect { addr: 0x9000, len: 0x1000, prot: Prot::EXEC });
        let expected = vec![
            Op::Unmap { addr: 0x0, len: 0x4000 },
            map(0x5000, 0x2000, 0x5000),
            Op::Unmap { addr: 0x6000, len: 0x1000 },
            Op::Map { addr: 0x9000, len: 0x1000, fd: 3, offset: 0x9000, prot: Prot::EXEC, shared: true, present: false },
        ];
        assert_eq!(q.take(), Some(expected));
        assert!(!q.demand(0x9000) && !q.demand(0xd000) && q.demand(0xcfff) && !q.demand(0xc000));
        assert_eq!(q.take(), Some(vec![map(0xc000, 0x1000, 0xc000)]));
    }

    #[test]
    fn what_is_replaced_is_not_done() {
        let q = Queue::default();
        q.push(Op::Unmap { addr: 0x1000, len: 0x3000 });
        q.push(map(0x1000, 0x3000, 0));
        q.push(Op::Protect { addr: 0x1000, len: 0x3000, prot: Prot::EXEC });
        q.push(Op::Protect { addr: 0x1000, len: 0x1000, prot: Prot::READ });
        let ops = q.take().expect("ops");
        assert_eq!(ops.len(), 2);
        assert!(matches!(ops[0], Op::Map { prot: Prot::EXEC, .. }));
        q.push(ops[1]);
        q.put_back(vec![ops[0]]);
        assert_eq!(q.take(), Some(ops));
    }
}
