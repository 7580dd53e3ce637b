//! Futexes: futex(2)'s queues, priority-inheritance locks without the priorities, and robust lists.
//!
//! A waiter is queued under the [`FutexKey`] of its word, in one of a fixed number of buckets. The word is read with the bucket
//! locked, so that no wake-up is lost between the look and the sleep. PI locks are handed over in the order of arrival: guest priorities
//! do not reach the host's scheduler.

use crate::Kernel;
use crate::mm::{FutexKey, Mm};
use crate::task::{RestartBlock, Task, Waker};
use crate::user::UserAddr;
use abi::{Restart, Result, bail};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use std::time::Instant;
use sync::{Mutex, Rank};

/// A futex word's owner bits (`FUTEX_TID_MASK`).
pub const TID_MASK: u32 = 0x3fff_ffff;
/// The owner died (`FUTEX_OWNER_DIED`).
pub const OWNER_DIED: u32 = 0x4000_0000;
/// Somebody waits (`FUTEX_WAITERS`).
pub const WAITERS: u32 = 0x8000_0000;
/// Waits for any wake-up (`FUTEX_BITSET_MATCH_ANY`).
pub const MATCH_ANY: u32 = !0;

const BUCKETS: usize = 64;

/// Somebody who waits on a word.
struct Waiter {
    waker: Arc<Waker>,
    bitset: u32,
    tid: i32,
    woken: AtomicBool,
    /// Where it is queued; a requeue changes it, with both buckets locked.
    key: Mutex<FutexKey>,
}

type Queues = HashMap<FutexKey, VecDeque<Arc<Waiter>>>;

/// All futexes of a sandbox.
pub struct FutexTable {
    buckets: Vec<Mutex<Queues>>,
}

impl Default for FutexTable {
    fn default() -> Self {
        FutexTable { buckets: (0..BUCKETS).map(|_| Mutex::new(Rank::Futex, Queues::new())).collect() }
    }
}

/// When a wait ends, and how a signal restarts it.
#[derive(Clone, Copy, Debug)]
pub struct Timeout {
    /// The end of the wait; `None`: never.
    pub deadline: Option<Instant>,
    /// What `restart_syscall` needs, where the call had a relative time.
    pub restart: Option<u64>,
}

impl Timeout {
    /// No end.
    pub const NEVER: Timeout = Timeout { deadline: None, restart: None };
}

impl FutexTable {
    fn index(&self, key: &FutexKey) -> usize {
        BuildHasherDefault::<DefaultHasher>::default().hash_one(key) as usize % BUCKETS
    }

    fn bucket(&self, key: &FutexKey) -> &Mutex<Queues> {
        &self.buckets[self.index(key)]
    }

    /// Both buckets locked, in the order of their places; the second is `None` where they are the same.
    fn two(&self, a: &FutexKey, b: &FutexKey) -> (sync::MutexGuard<'_, Queues>, Option<sync::MutexGuard<'_, Queues>>, bool) {
        let (i, j) = (self.index(a), self.index(b));
        let first = self.buckets[i.min(j)].lock();
        let second = (i != j).then(|| self.buckets[i.max(j)].lock_nested());
        (first, second, i <= j)
    }

    /// FUTEX_WAIT and FUTEX_WAIT_BITSET: `EAGAIN` if the word is not `expected`, `ETIMEDOUT` at the deadline.
    pub fn wait(&self, task: &Task, addr: UserAddr, private: bool, expected: u32, bitset: u32, timeout: Timeout) -> Result {
        if bitset == 0 {
            bail!(EINVAL, "empty bitset");
        }
        let mm = task.mm();
        let key = mm.futex_key(addr, private)?;
        let waiter = Arc::new(Waiter {
            waker: task.waker().clone(),
            bitset,
            tid: task.tid(),
            woken: AtomicBool::new(false),
            key: Mutex::new(Rank::Leaf, key),
        });
        {
            let mut queues = self.bucket(&key).lock();
            if mm.load_u32(addr)? != expected {
                bail!(EAGAIN, "word has changed");
            }
            queues.entry(key).or_default().push_back(waiter.clone());
        }
        self.sleep(task, &waiter, timeout)
    }

    /// Waits for the wake-up. Whoever gives up while it comes has been woken.
    fn sleep(&self, task: &Task, waiter: &Arc<Waiter>, timeout: Timeout) -> Result {
        loop {
            if waiter.woken.load(Ordering::Acquire) {
                return Ok(());
            }
            let expired = timeout.deadline.is_some_and(|d| Instant::now() >= d);
            if expired || task.signal_pending() {
                if !self.withdraw(waiter) {
                    return Ok(());
                }
                if expired {
                    bail!(ETIMEDOUT);
                }
                return Err(if timeout.restart.is_some() { Restart::Block } else { Restart::Sys }.into());
            }
            task.park(timeout.deadline);
        }
    }

    /// Takes a waiter out of its queue; false if it has been woken already.
    fn withdraw(&self, waiter: &Arc<Waiter>) -> bool {
        loop {
            let key = *waiter.key.lock();
            let mut queues = self.bucket(&key).lock();
            if *waiter.key.lock() != key {
                continue;
            }
            if waiter.woken.load(Ordering::Acquire) {
                return false;
            }
            if let Some(q) = queues.get_mut(&key) {
                q.retain(|w| !Arc::ptr_eq(w, waiter));
                if q.is_empty() {
                    queues.remove(&key);
                }
            }
            return true;
        }
    }

    fn wake_in(queues: &mut Queues, key: &FutexKey, n: usize, bitset: u32) -> usize {
        let Some(q) = queues.get_mut(key) else { return 0 };
        let mut woken = 0;
        q.retain(|w| {
            if woken == n || w.bitset & bitset == 0 {
                return true;
            }
            w.woken.store(true, Ordering::Release);
            w.waker.unpark();
            woken += 1;
            false
        });
        if q.is_empty() {
            queues.remove(key);
        }
        woken
    }

    /// FUTEX_WAKE and FUTEX_WAKE_BITSET; returns how many were woken.
    pub fn wake(&self, mm: &Mm, addr: UserAddr, private: bool, n: usize, bitset: u32) -> Result<usize> {
        if bitset == 0 {
            bail!(EINVAL, "empty bitset");
        }
        let key = mm.futex_key(addr, private)?;
        Ok(Self::wake_in(&mut self.bucket(&key).lock(), &key, n, bitset))
    }

    /// FUTEX_REQUEUE and, with `expected`, FUTEX_CMP_REQUEUE: wakes `wake`, moves up to `requeue` of the others.
    #[allow(clippy::too_many_arguments)]
    pub fn requeue(
        &self,
        mm: &Mm,
        from: UserAddr,
        to: UserAddr,
        private: bool,
        wake: usize,
        requeue: usize,
        expected: Option<u32>,
    ) -> Result<(usize, usize)> {
        let (a, b) = (mm.futex_key(from, private)?, mm.futex_key(to, private)?);
        let (mut first, mut second, ordered) = self.two(&a, &b);
        if let Some(v) = expected
            && mm.load_u32(from)? != v
        {
            bail!(EAGAIN, "word has changed");
        }
        let source = if ordered { &mut *first } else { second.as_deref_mut().unwrap_or(&mut first) };
        let woken = Self::wake_in(source, &a, wake, MATCH_ANY);
        if a == b {
            return Ok((woken, 0));
        }
        let mut moved = VecDeque::new();
        if let Some(q) = source.get_mut(&a) {
            let n = requeue.min(q.len());
            moved = q.drain(..n).collect();
            if q.is_empty() {
                source.remove(&a);
            }
        }
        let count = moved.len();
        for w in &moved {
            *w.key.lock() = b;
        }
        if count > 0 {
            let target = match (&mut second, ordered) {
                (Some(s), true) => &mut **s,
                (_, false) | (None, _) => &mut *first,
            };
            target.entry(b).or_default().extend(moved);
        }
        Ok((woken, count))
    }

    /// FUTEX_WAKE_OP: changes the second word, wakes `n` of the first, and if the second's old value compares, `n2` of the second.
    #[allow(clippy::too_many_arguments)]
    pub fn wake_op(&self, mm: &Mm, addr: UserAddr, addr2: UserAddr, private: bool, n: usize, n2: usize, op: u32) -> Result<usize> {
        let (a, b) = (mm.futex_key(addr, private)?, mm.futex_key(addr2, private)?);
        let (mut first, mut second, ordered) = self.two(&a, &b);
        let old = apply(mm, addr2, op)?;
        let compares = compare(op, old)?;
        let mut woken = {
            let q = if ordered { &mut *first } else { second.as_deref_mut().unwrap_or(&mut first) };
            Self::wake_in(q, &a, n, MATCH_ANY)
        };
        if compares {
            let q = if ordered { second.as_deref_mut().unwrap_or(&mut first) } else { &mut *first };
            woken += Self::wake_in(q, &b, n2, MATCH_ANY);
        }
        Ok(woken)
    }

    /// FUTEX_LOCK_PI and FUTEX_TRYLOCK_PI (`wait` false).
    pub fn lock_pi(&self, task: &Task, addr: UserAddr, private: bool, wait: bool, deadline: Option<Instant>) -> Result {
        let mm = task.mm();
        let key = mm.futex_key(addr, private)?;
        let me = task.tid() as u32;
        let waiter = {
            let mut queues = self.bucket(&key).lock();
            loop {
                let word = mm.load_u32(addr)?;
                let owner = word & TID_MASK;
                let waiting = if queues.contains_key(&key) { WAITERS } else { 0 };
                if owner == 0 {
                    // Free; a dead owner's mark stays for the new one to see.
                    let new = me | (word & OWNER_DIED) | waiting;
                    if mm.compare_exchange_u32(addr, word, new)? == word {
                        return Ok(());
                    }
                    continue;
                }
                if owner == me {
                    bail!(EDEADLK);
                }
                if !wait {
                    bail!(EAGAIN);
                }
                if task.kernel().task(owner as i32).is_none() {
                    bail!(ESRCH, "owner is gone");
                }
                if word & WAITERS != 0 || mm.compare_exchange_u32(addr, word, word | WAITERS)? == word {
                    break;
                }
            }
            let waiter = Arc::new(Waiter {
                waker: task.waker().clone(),
                bitset: MATCH_ANY,
                tid: task.tid(),
                woken: AtomicBool::new(false),
                key: Mutex::new(Rank::Leaf, key),
            });
            queues.entry(key).or_default().push_back(waiter.clone());
            waiter
        };
        match self.sleep(task, &waiter, Timeout { deadline, restart: None }) {
            // FUTEX_LOCK_PI is restarted whatever the handler's flags say.
            Err(e) if e == Restart::Sys.into() => Err(Restart::NoIntr.into()),
            r => r,
        }
    }

    /// FUTEX_UNLOCK_PI: hands the lock to who has waited longest.
    pub fn unlock_pi(&self, task: &Task, addr: UserAddr, private: bool) -> Result {
        let mm = task.mm();
        let key = mm.futex_key(addr, private)?;
        let mut queues = self.bucket(&key).lock();
        if mm.load_u32(addr)? & TID_MASK != task.tid() as u32 {
            bail!(EPERM, "not the owner");
        }
        Self::hand_over(&mut queues, &mm, addr, &key, 0)
    }

    fn hand_over(queues: &mut Queues, mm: &Mm, addr: UserAddr, key: &FutexKey, mark: u32) -> Result {
        let next = queues.get_mut(key).and_then(VecDeque::pop_front);
        if queues.get(key).is_some_and(VecDeque::is_empty) {
            queues.remove(key);
        }
        let more = if queues.contains_key(key) { WAITERS } else { 0 };
        let word = next.as_ref().map_or(0, |w| w.tid as u32 | more) | mark;
        loop {
            let old = mm.load_u32(addr)?;
            if mm.compare_exchange_u32(addr, old, word)? == old {
                break;
            }
        }
        if let Some(w) = next {
            w.woken.store(true, Ordering::Release);
            w.waker.unpark();
        }
        Ok(())
    }
}

/// Does what FUTEX_WAKE_OP's operation says to the word, and returns what it was.
fn apply(mm: &Mm, addr: UserAddr, op: u32) -> Result<u32> {
    let mut arg = ((op << 8) as i32 >> 20) as u32;
    let kind = op >> 28 & 0xf;
    // FUTEX_OP_ARG_SHIFT
    if kind & 8 != 0 {
        arg = 1u32.wrapping_shl(arg & 31);
    }
    let f: fn(u32, u32) -> u32 = match kind & 7 {
        0 => |_, a| a,
        1 => u32::wrapping_add,
        2 => |v, a| v | a,
        3 => |v, a| v & !a,
        4 => |v, a| v ^ a,
        _ => bail!(ENOSYS, "futex operation {kind}"),
    };
    mm.update_u32(addr, |v| f(v, arg))
}

/// FUTEX_WAKE_OP's comparison with the old value.
fn compare(op: u32, old: u32) -> Result<bool> {
    let arg = (op << 20) as i32 >> 20;
    let old = old as i32;
    Ok(match op >> 24 & 0xf {
        0 => old == arg,
        1 => old != arg,
        2 => old < arg,
        3 => old <= arg,
        4 => old > arg,
        5 => old >= arg,
        _ => bail!(ENOSYS, "futex comparison"),
    })
}

/// Wakes who waits on a word of this address space: what a thread's end does with its `clear_child_tid`.
pub fn wake_addr(kernel: &Kernel, mm: &Mm, addr: UserAddr, n: usize) {
    // The word may be gone with its memory; then nobody can wait on it.
    let _ = kernel.futexes.wake(mm, addr, false, n, MATCH_ANY);
}

/// Most entries of a robust list that are looked at (`ROBUST_LIST_LIMIT`).
const ROBUST_LIST_LIMIT: usize = 2048;

/// Marks the locks that a dying thread holds as its owner's death left them, and wakes one waiter of each (`exit_robust_list`). The list is
/// the application's and is believed in nothing.
pub fn exit_robust_list(task: &Task) {
    let head = UserAddr(task.robust_list.swap(0, Ordering::Relaxed));
    let Some(mm) = task.try_mm().filter(|_| !head.is_null()) else { return };
    let word = |at: UserAddr| mm.read::<u64>(at.cast()).ok();
    let (Some(first), Some(offset), Some(pending)) = (word(head), word(head.offset(8)), word(head.offset(16))) else { return };
    let mut entry = first;
    for _ in 0..ROBUST_LIST_LIMIT {
        let at = UserAddr(entry & !1);
        if at == head {
            break;
        }
        let next = word(at);
        if entry & !1 != pending & !1 {
            owner_died(task, &mm, at.offset(offset), entry & 1 != 0);
        }
        match next {
            Some(n) => entry = n,
            None => break,
        }
    }
    if pending & !1 != 0 {
        owner_died(task, &mm, UserAddr(pending & !1).offset(offset), pending & 1 != 0);
    }
}

fn owner_died(task: &Task, mm: &Mm, addr: UserAddr, pi: bool) {
    if addr.0 % 4 != 0 {
        return;
    }
    loop {
        let Ok(word) = mm.load_u32(addr) else { return };
        if word & TID_MASK != task.tid() as u32 {
            return;
        }
        if pi {
            let Ok(key) = mm.futex_key(addr, false) else { return };
            let mut queues = task.kernel().futexes.bucket(&key).lock();
            let _ = FutexTable::hand_over(&mut queues, mm, addr, &key, OWNER_DIED);
            return;
        }
        match mm.compare_exchange_u32(addr, word, word & WAITERS | OWNER_DIED) {
            Ok(old) if old == word => {
                if word & WAITERS != 0 {
                    wake_addr(task.kernel(), mm, addr, 1);
                }
                return;
            }
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

/// What [`RestartBlock::Futex`] goes on with.
pub fn restart_of(addr: UserAddr, value: u32, bitset: u32, op: u32, until_ns: u64) -> RestartBlock {
    RestartBlock::Futex { addr, value, bitset, op, until_ns }
}
