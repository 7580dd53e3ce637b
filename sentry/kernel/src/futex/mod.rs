//! Futexes (futex(2)): tasks that wait for a word in memory to be told of.
//!
//! [`FutexTable`] has buckets of waiters by [`FutexKey`]. A bucket's lock is held while the word is looked at, so that no wake-up is lost
//! between the look and the wait. `pi` has the operations with priority inheritance's protocol, `robust` what a thread's end does.

mod pi;
mod robust;

pub use pi::cmp_requeue_pi;
pub use robust::{clear_tid, exit_robust_list};

use crate::mm::{FutexKey, Mm};
use crate::task::{CurrentTask, RestartBlock, Task, Waker};
use crate::user::UserAddr;
use abi::{Restart, Result, bail, error};
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};
use std::time::Instant;
use sync::{Mutex, MutexGuard, Rank};

/// `FUTEX_BITSET_MATCH_ANY`
pub const MATCH_ANY: u32 = !0;
/// Futexes of one futex_waitv(2) (`FUTEX_WAITV_MAX`).
pub const WAITV_MAX: usize = 128;
const BUCKETS: usize = 256;

/// When a wait ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FutexDeadline {
    /// Nanoseconds on the clock.
    pub ns: u64,
    /// `CLOCK_REALTIME` (`FUTEX_CLOCK_REALTIME`) instead of `CLOCK_MONOTONIC`.
    pub realtime: bool,
}

impl FutexDeadline {
    fn instant(self) -> Instant {
        let now = if self.realtime { host::time::realtime_ns() } else { host::time::monotonic_ns() };
        crate::time::instant_after(self.ns.saturating_sub(now))
    }
}

/// What a waiter waits as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// FUTEX_WAIT.
    Plain,
    /// FUTEX_LOCK_PI, or requeued to one.
    Pi,
    /// FUTEX_WAIT_REQUEUE_PI, not yet requeued, for the futex at this key.
    RequeuePi(FutexKey),
}

struct Place {
    key: FutexKey,
    kind: Kind,
    /// The word, for those who change it on the waiter's behalf.
    addr: UserAddr,
}

/// One wait for one word.
struct Waiter {
    place: Mutex<Place>,
    bitset: u32,
    tid: i32,
    waker: Arc<Waker>,
    /// Taken off its queue: woken, or (PI) given the lock.
    done: AtomicBool,
    /// The lock came from an owner that died.
    owner_died: AtomicBool,
}

impl Waiter {
    fn new(t: &Task, key: FutexKey, addr: UserAddr, bitset: u32, kind: Kind) -> Arc<Waiter> {
        Arc::new(Waiter {
            place: Mutex::new(Rank::Leaf, Place { key, kind, addr }),
            bitset,
            tid: t.tid(),
            waker: t.waker().clone(),
            done: AtomicBool::new(false),
            owner_died: AtomicBool::new(false),
        })
    }

    fn key(&self) -> FutexKey {
        self.place.lock().key
    }

    fn kind(&self) -> Kind {
        self.place.lock().kind
    }

    fn is_done(&self) -> bool {
        self.done.load(Ordering::SeqCst)
    }

    fn wake(&self) {
        self.done.store(true, Ordering::SeqCst);
        self.waker.unpark();
    }
}

type Bucket = HashMap<FutexKey, Vec<Arc<Waiter>>>;

/// All futexes of the sandbox.
pub struct FutexTable {
    buckets: Vec<Mutex<Bucket>>,
    hasher: RandomState,
    /// Waiters of PI futexes: zero, and a thread's end need not look for any.
    pi_waiters: AtomicUsize,
}

impl Default for FutexTable {
    fn default() -> Self {
        FutexTable {
            buckets: (0..BUCKETS).map(|_| Mutex::new(Rank::Futex, Bucket::new())).collect(),
            hasher: RandomState::new(),
            pi_waiters: AtomicUsize::new(0),
        }
    }
}

/// The locks of one bucket or two.
struct Pair<'a> {
    first: MutexGuard<'a, Bucket>,
    second: Option<MutexGuard<'a, Bucket>>,
    /// The first guard is the second key's.
    swapped: bool,
}

impl Pair<'_> {
    fn a(&mut self) -> &mut Bucket {
        match &mut self.second {
            Some(s) if self.swapped => s,
            _ => &mut self.first,
        }
    }

    fn b(&mut self) -> &mut Bucket {
        match &mut self.second {
            Some(s) if !self.swapped => s,
            _ => &mut self.first,
        }
    }
}

impl FutexTable {
    fn index(&self, key: &FutexKey) -> usize {
        let mut h = self.hasher.build_hasher();
        std::hash::Hash::hash(key, &mut h);
        (h.finish() as usize) % BUCKETS
    }

    fn bucket(&self, key: &FutexKey) -> MutexGuard<'_, Bucket> {
        self.buckets[self.index(key)].lock()
    }

    /// Locks the buckets of both keys, in order of their place in the table.
    fn pair(&self, a: &FutexKey, b: &FutexKey) -> Pair<'_> {
        let (ia, ib) = (self.index(a), self.index(b));
        if ia == ib {
            return Pair { first: self.buckets[ia].lock(), second: None, swapped: false };
        }
        let first = self.buckets[ia.min(ib)].lock();
        let second = Some(self.buckets[ia.max(ib)].lock_nested());
        Pair { first, second, swapped: ia > ib }
    }

    /// Takes a waiter off whichever queue it is on; returns whether it was still on one.
    fn remove(&self, waiter: &Arc<Waiter>) -> bool {
        loop {
            let key = waiter.key();
            let mut bucket = self.bucket(&key);
            if waiter.key() != key {
                continue;
            }
            if waiter.is_done() {
                return false;
            }
            return take(&mut bucket, &key, |w| Arc::ptr_eq(w, waiter)).is_some();
        }
    }

    /// Wakes up to `n` waiters whose bits intersect.
    fn wake(&self, key: &FutexKey, n: u32, bitset: u32) -> Result<u32> {
        let mut bucket = self.bucket(key);
        wake_in(&mut bucket, key, n, bitset)
    }
}

/// Takes the first waiter that `which` accepts off its queue.
fn take(bucket: &mut Bucket, key: &FutexKey, which: impl Fn(&Arc<Waiter>) -> bool) -> Option<Arc<Waiter>> {
    let queue = bucket.get_mut(key)?;
    let at = queue.iter().position(which)?;
    let waiter = queue.remove(at);
    if queue.is_empty() {
        bucket.remove(key);
    }
    Some(waiter)
}

fn wake_in(bucket: &mut Bucket, key: &FutexKey, n: u32, bitset: u32) -> Result<u32> {
    if bucket.get(key).is_some_and(|q| q.iter().any(|w| w.kind() != Kind::Plain)) {
        bail!(EINVAL, "waiters are of a PI futex");
    }
    let mut woken = 0;
    while woken < n {
        let Some(w) = take(bucket, key, |w| w.bitset & bitset != 0) else { break };
        w.wake();
        woken += 1;
    }
    Ok(woken)
}

/// Wakes up to `n` tasks that wait on a word: FUTEX_WAKE and FUTEX_WAKE_BITSET.
pub fn wake(t: &Task, addr: UserAddr, private: bool, n: u32, bitset: u32) -> Result<u32> {
    if bitset == 0 {
        bail!(EINVAL, "no bits");
    }
    let key = t.mm().futex_key(addr, private)?;
    t.kernel().futexes.wake(&key, n, bitset)
}

/// FUTEX_WAKE_OP: changes the second word, wakes waiters of the first, and of the second if its old value compares.
pub fn wake_op(t: &Task, addr1: UserAddr, addr2: UserAddr, private: bool, n1: u32, n2: u32, op: u32) -> Result<u32> {
    let mm = t.mm();
    let (k1, k2) = (mm.futex_key(addr1, private)?, mm.futex_key(addr2, private)?);
    let operation = (op >> 28) & 7;
    let comparison = (op >> 24) & 15;
    // Both arguments are signed 12-bit numbers.
    let signed = |v: u32| ((v << 20) as i32) >> 20;
    let (mut arg, expected) = (signed(op >> 12), signed(op));
    if op >> 31 & 1 != 0 {
        arg = 1i32.wrapping_shl(arg as u32 & 31);
    }
    let arg = arg as u32;
    if operation > 4 || comparison > 5 {
        bail!(ENOSYS, "futex operation {operation}, comparison {comparison}");
    }
    let mut pair = t.kernel().futexes.pair(&k1, &k2);
    let old = mm.update_u32(addr2, |v| match operation {
        0 => arg,
        1 => v.wrapping_add(arg),
        2 => v | arg,
        3 => v & !arg,
        _ => v ^ arg,
    })?;
    let mut woken = wake_in(pair.a(), &k1, n1, MATCH_ANY)?;
    let old = old as i32;
    let holds = match comparison {
        0 => old == expected,
        1 => old != expected,
        2 => old < expected,
        3 => old <= expected,
        4 => old > expected,
        _ => old >= expected,
    };
    if holds {
        woken += wake_in(pair.b(), &k2, n2, MATCH_ANY)?;
    }
    Ok(woken)
}

/// FUTEX_REQUEUE, and with `expected` FUTEX_CMP_REQUEUE: wakes some waiters and moves others to the second word.
/// Returns how many were woken or moved.
pub fn requeue(
    t: &Task,
    addr1: UserAddr,
    addr2: UserAddr,
    private: (bool, bool),
    wake: u32,
    limit: u32,
    expected: Option<u32>,
) -> Result<u32> {
    let mm = t.mm();
    let (k1, k2) = (mm.futex_key(addr1, private.0)?, mm.futex_key(addr2, private.1)?);
    let mut pair = t.kernel().futexes.pair(&k1, &k2);
    if let Some(expected) = expected
        && mm.load_u32(addr1)? != expected
    {
        bail!(EAGAIN, "word has changed");
    }
    let mut done = wake_in(pair.a(), &k1, wake, MATCH_ANY)?;
    let mut moved = 0;
    while moved < limit && k1 != k2 {
        let Some(w) = take(pair.a(), &k1, |_| true) else { break };
        {
            let mut place = w.place.lock();
            place.key = k2;
            place.addr = addr2;
        }
        pair.b().entry(k2).or_default().push(w);
        moved += 1;
    }
    if k1 == k2 {
        // Moving to where they are: Linux counts them.
        let there = pair.a().get(&k1).map_or(0, Vec::len);
        moved = limit.min(u32::try_from(there).unwrap_or(u32::MAX));
    }
    done += moved;
    Ok(done)
}

/// One word of futex_waitv(2).
#[derive(Clone, Copy, Debug)]
pub struct WaitvEntry {
    /// The word.
    pub addr: UserAddr,
    /// What it must hold.
    pub value: u32,
    /// `FUTEX2_PRIVATE`
    pub private: bool,
}

/// Enters a waiter if the word holds `value`; `EAGAIN` if it does not.
fn enqueue(t: &Task, mm: &Mm, addr: UserAddr, private: bool, value: u32, bitset: u32, kind: Kind) -> Result<Arc<Waiter>> {
    let key = mm.futex_key(addr, private)?;
    let mut bucket = t.kernel().futexes.bucket(&key);
    if mm.load_u32(addr)? != value {
        bail!(EAGAIN, "word has changed");
    }
    let waiter = Waiter::new(t, key, addr, bitset, kind);
    bucket.entry(key).or_default().push(waiter.clone());
    Ok(waiter)
}

/// Parks until the waiter is done. `Ok(false)`: the deadline came first; the waiter is off its queue in any case.
fn wait(t: &Task, waiter: &Arc<Waiter>, deadline: Option<Instant>) -> Result<bool> {
    loop {
        if waiter.is_done() {
            return Ok(true);
        }
        let interrupted = t.signal_pending();
        if interrupted || deadline.is_some_and(|d| Instant::now() >= d) {
            if !t.kernel().futexes.remove(waiter) {
                return Ok(true);
            }
            if interrupted {
                return Err(Restart::Sys.into());
            }
            return Ok(false);
        }
        t.park(deadline);
    }
}

impl CurrentTask {
    /// FUTEX_WAIT and FUTEX_WAIT_BITSET. `op` is the whole operation with its flags, kept for the restart of a wait with a deadline.
    pub fn futex_wait(
        &mut self,
        addr: UserAddr,
        private: bool,
        value: u32,
        bitset: u32,
        deadline: Option<FutexDeadline>,
        op: u32,
    ) -> Result {
        if bitset == 0 {
            bail!(EINVAL, "no bits");
        }
        let waiter = enqueue(&self.task, &self.mm(), addr, private, value, bitset, Kind::Plain)?;
        match wait(&self.task, &waiter, deadline.map(FutexDeadline::instant)) {
            Ok(true) => Ok(()),
            Ok(false) => bail!(ETIMEDOUT),
            Err(e) => match deadline {
                None => Err(e),
                Some(d) => {
                    self.restart = RestartBlock::Futex { addr, value, bitset, op, until_ns: d.ns };
                    Err(Restart::Block.into())
                }
            },
        }
    }

    /// futex_waitv(2): waits until one of the words is woken, and tells which.
    pub fn futex_waitv(&mut self, entries: &[WaitvEntry], deadline: Option<FutexDeadline>) -> Result<usize> {
        let table = &self.kernel().futexes;
        let mm = self.mm();
        let mut waiters: Vec<Arc<Waiter>> = Vec::with_capacity(entries.len());
        let drop_all = |waiters: &[Arc<Waiter>]| {
            // The index of one that was woken before it could be taken back.
            let mut woken = None;
            for (i, w) in waiters.iter().enumerate() {
                if !table.remove(w) {
                    woken = Some(i);
                }
            }
            woken
        };
        for e in entries {
            match enqueue(&self.task, &mm, e.addr, e.private, e.value, MATCH_ANY, Kind::Plain) {
                Ok(w) => waiters.push(w),
                Err(error) => return drop_all(&waiters).ok_or(error),
            }
        }
        let deadline = deadline.map(FutexDeadline::instant);
        loop {
            if waiters.iter().any(|w| w.is_done()) {
                return drop_all(&waiters).ok_or(error!(EAGAIN));
            }
            let late = deadline.is_some_and(|d| Instant::now() >= d);
            if late || self.signal_pending() {
                let otherwise = if late { error!(ETIMEDOUT) } else { Restart::Sys.into() };
                return drop_all(&waiters).ok_or(otherwise);
            }
            self.park(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter(key: FutexKey, bitset: u32) -> Arc<Waiter> {
        Arc::new(Waiter {
            place: Mutex::new(Rank::Leaf, Place { key, kind: Kind::Plain, addr: UserAddr(0) }),
            bitset,
            tid: 1,
            waker: Arc::new(Waker::default()),
            done: AtomicBool::new(false),
            owner_died: AtomicBool::new(false),
        })
    }

    fn key(addr: u64) -> FutexKey {
        FutexKey::Private { mm: 1, addr }
    }

    #[test]
    fn wakes_in_order_and_by_bits() {
        let table = FutexTable::default();
        let k = key(8);
        let all: Vec<_> = [1, 2, 3].into_iter().map(|b| waiter(k, b)).collect();
        for w in &all {
            table.bucket(&k).entry(k).or_default().push(w.clone());
        }
        assert_eq!(table.wake(&k, 1, 2), Ok(1));
        assert!(!all[0].is_done() && all[1].is_done() && !all[2].is_done());
        assert!(table.remove(&all[0]) && !table.remove(&all[1]));
        assert_eq!(table.wake(&k, 10, MATCH_ANY), Ok(1));
        assert!(table.bucket(&k).is_empty());
    }

    #[test]
    fn pairs_of_any_buckets_lock() {
        let table = FutexTable::default();
        for i in 0..200 {
            let (a, b) = (key(i * 4), key(i * 8 + 4));
            let mut pair = table.pair(&a, &b);
            pair.a().entry(a).or_default();
            assert!(pair.a().contains_key(&a));
            pair.b().entry(b).or_default();
            assert!(pair.b().contains_key(&b));
            drop(pair);
            assert!(table.bucket(&a).contains_key(&a) && table.bucket(&b).contains_key(&b));
        }
    }
}
