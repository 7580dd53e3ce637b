//! PI futexes: locks whose word holds the owner's thread id, handed over by the kernel. The protocol is Linux's; priorities are
//! not inherited, because the host schedules the threads: waiters are served in order.

use super::{FutexDeadline, Kind, Waiter, take};
use crate::mm::{FutexKey, Mm};
use crate::task::{CurrentTask, Task};
use crate::user::UserAddr;
use abi::{Errno, Error, Restart, Result, bail};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// `FUTEX_WAITERS`
pub(super) const WAITERS: u32 = 0x8000_0000;
/// `FUTEX_OWNER_DIED`
pub(super) const OWNER_DIED: u32 = 0x4000_0000;
/// `FUTEX_TID_MASK`
pub(super) const TID_MASK: u32 = 0x3fff_ffff;

/// What an attempt to take the lock came to.
enum Attempt {
    Taken,
    /// Somebody else has it, and the word says that there are waiters.
    Busy,
}

/// Takes the lock for `tid` if it is free, else marks that somebody waits. Called with the bucket locked; `queued`: others wait.
fn attempt(t: &Task, mm: &Mm, addr: UserAddr, tid: i32, queued: bool) -> Result<Attempt> {
    loop {
        let word = mm.load_u32(addr)?;
        let owner = word & TID_MASK;
        if owner == tid as u32 {
            bail!(EDEADLK, "owned already");
        }
        if owner == 0 && !queued {
            let new = tid as u32 | (word & (OWNER_DIED | WAITERS));
            if mm.compare_exchange_u32(addr, word, new)? == word {
                return Ok(Attempt::Taken);
            }
            continue;
        }
        if owner != 0 {
            match t.pids().task(owner as i32) {
                None => bail!(ESRCH, "the owner is gone"),
                Some(o) if o.is_dying() && word & OWNER_DIED == 0 => bail!(EAGAIN, "the owner is ending"),
                Some(_) => {}
            }
        }
        if word & WAITERS != 0 || mm.compare_exchange_u32(addr, word, word | WAITERS)? == word {
            return Ok(Attempt::Busy);
        }
    }
}

/// Gives the lock to the first waiter. Called with the bucket locked, by the owner or for a dead one. Returns whether there was one.
fn hand_over(mm: &Mm, bucket: &mut super::Bucket, key: &FutexKey, addr: UserAddr, died: bool) -> Result<bool> {
    let is_pi = |w: &Arc<Waiter>| w.kind() == Kind::Pi;
    let Some(next) = bucket.get(key).and_then(|q| q.iter().find(|w| is_pi(w)).cloned()) else { return Ok(false) };
    let flags = WAITERS | if died { OWNER_DIED } else { 0 };
    mm.update_u32(addr, |_| next.tid as u32 | flags)?;
    take(bucket, key, |w| Arc::ptr_eq(w, &next));
    next.owner_died.store(died, Ordering::SeqCst);
    next.wake();
    Ok(true)
}

impl CurrentTask {
    /// FUTEX_LOCK_PI and FUTEX_LOCK_PI2.
    pub fn futex_lock_pi(&mut self, addr: UserAddr, private: bool, deadline: Option<FutexDeadline>) -> Result {
        let mm = self.mm();
        let key = mm.futex_key(addr, private)?;
        let waiter = {
            let table = &self.kernel().futexes;
            let mut bucket = table.bucket(&key);
            let queued = bucket.get(&key).is_some_and(|q| !q.is_empty());
            match attempt(&self.task, &mm, addr, self.tid(), queued) {
                Ok(Attempt::Taken) => return Ok(()),
                Ok(Attempt::Busy) => {}
                Err(e) if e.is(Errno::EAGAIN) => {
                    // The owner's end will set the word right: try again.
                    drop(bucket);
                    return Err(Restart::NoIntr.into());
                }
                Err(e) => return Err(e),
            }
            let waiter = Waiter::new(&self.task, key, addr, super::MATCH_ANY, Kind::Pi);
            bucket.entry(key).or_default().push(waiter.clone());
            table.pi_waiters.fetch_add(1, Ordering::SeqCst);
            waiter
        };
        let result = super::wait(&self.task, &waiter, deadline.map(FutexDeadline::instant));
        self.kernel().futexes.pi_waiters.fetch_sub(1, Ordering::SeqCst);
        match result {
            Ok(true) => Ok(()),
            Ok(false) => bail!(ETIMEDOUT),
            Err(_) => Err(Restart::NoIntr.into()),
        }
    }

    /// FUTEX_TRYLOCK_PI: `EAGAIN` where somebody else has it.
    pub fn futex_trylock_pi(&mut self, addr: UserAddr, private: bool) -> Result {
        let mm = self.mm();
        let key = mm.futex_key(addr, private)?;
        let bucket = self.kernel().futexes.bucket(&key);
        let queued = bucket.get(&key).is_some_and(|q| !q.is_empty());
        match attempt(&self.task, &mm, addr, self.tid(), queued)? {
            Attempt::Taken => Ok(()),
            Attempt::Busy => bail!(EAGAIN, "locked"),
        }
    }

    /// FUTEX_UNLOCK_PI: `EPERM` unless the caller has it.
    pub fn futex_unlock_pi(&mut self, addr: UserAddr, private: bool) -> Result {
        let mm = self.mm();
        let key = mm.futex_key(addr, private)?;
        let mut bucket = self.kernel().futexes.bucket(&key);
        loop {
            let word = mm.load_u32(addr)?;
            if word & TID_MASK != self.tid() as u32 {
                bail!(EPERM, "not the owner");
            }
            if hand_over(&mm, &mut bucket, &key, addr, false)? || mm.compare_exchange_u32(addr, word, 0)? == word {
                return Ok(());
            }
        }
    }

    /// FUTEX_WAIT_REQUEUE_PI: waits on the first word until it is moved to the PI futex at the second, and then for that lock.
    pub fn futex_wait_requeue_pi(
        &mut self,
        addr: UserAddr,
        private: bool,
        value: u32,
        bitset: u32,
        target: UserAddr,
        deadline: Option<FutexDeadline>,
    ) -> Result {
        let mm = self.mm();
        let to = mm.futex_key(target, private)?;
        if addr == target || bitset == 0 {
            bail!(EINVAL, "the same futex");
        }
        let waiter = super::enqueue(&self.task, &mm, addr, private, value, bitset, Kind::RequeuePi(to))?;
        self.kernel().futexes.pi_waiters.fetch_add(1, Ordering::SeqCst);
        let result = super::wait(&self.task, &waiter, deadline.map(FutexDeadline::instant));
        self.kernel().futexes.pi_waiters.fetch_sub(1, Ordering::SeqCst);
        let requeued = waiter.kind() == Kind::Pi;
        match result {
            Ok(true) => Ok(()),
            Ok(false) => bail!(ETIMEDOUT),
            // The first word may have changed since: the caller must look again.
            Err(_) if requeued => bail!(EAGAIN, "interrupted while waiting for the lock"),
            Err(_) => Err(Restart::NoIntr.into()),
        }
    }
}

/// FUTEX_CMP_REQUEUE_PI: gives the PI futex at the second word to the first waiter if it is free, and makes up to `limit` others
/// wait for it. Returns how many were woken or moved.
pub fn cmp_requeue_pi(t: &Task, addr1: UserAddr, addr2: UserAddr, private: bool, wake: u32, limit: u32, expected: u32) -> Result<u32> {
    if wake != 1 || addr1 == addr2 {
        bail!(EINVAL, "one waiter is woken, and the futexes differ");
    }
    let mm = t.mm();
    let (k1, k2) = (mm.futex_key(addr1, private)?, mm.futex_key(addr2, private)?);
    let mut pair = t.kernel().futexes.pair(&k1, &k2);
    if mm.load_u32(addr1)? != expected {
        bail!(EAGAIN, "word has changed");
    }
    let queue = pair.a().get(&k1).cloned().unwrap_or_default();
    if queue.iter().any(|w| w.kind() != Kind::RequeuePi(k2)) {
        bail!(EINVAL, "a waiter waits for another futex");
    }
    let mut done = 0;
    for w in queue {
        if done > limit {
            break;
        }
        let queued = pair.b().get(&k2).is_some_and(|q| !q.is_empty());
        let outcome = match attempt(t, &mm, addr2, w.tid, queued) {
            Err(Error::Errno(Errno::EDEADLK)) => bail!(EDEADLK, "the waiter owns the lock"),
            other => other?,
        };
        take(pair.a(), &k1, |x| Arc::ptr_eq(x, &w));
        {
            let mut place = w.place.lock();
            *place = super::Place { key: k2, kind: Kind::Pi, addr: addr2 };
        }
        match outcome {
            Attempt::Taken => w.wake(),
            Attempt::Busy => pair.b().entry(k2).or_default().push(w),
        }
        done += 1;
    }
    Ok(done)
}

/// The robust list has marked a PI lock as left by a dead owner: its first waiter gets it.
pub(super) fn pass_on(t: &Task, mm: &Mm, addr: UserAddr) {
    for private in [false, true] {
        if let Ok(key) = mm.futex_key(addr, private) {
            let mut bucket = t.kernel().futexes.bucket(&key);
            // A word that cannot be written is the application's own affair.
            if hand_over(mm, &mut bucket, &key, addr, true).unwrap_or(true) {
                return;
            }
        }
    }
}

/// A thread ends: PI locks it still owns and others wait for pass on, marked (`exit_pi_state_list`).
pub(super) fn exit_owner(t: &Task, mm: &Mm) {
    let table = &t.kernel().futexes;
    if table.pi_waiters.load(Ordering::SeqCst) == 0 {
        return;
    }
    for bucket in &table.buckets {
        let mut bucket = bucket.lock();
        let owned: Vec<(FutexKey, UserAddr)> = bucket
            .iter()
            .filter_map(|(k, q)| q.iter().find(|w| w.kind() == Kind::Pi).map(|w| (*k, w.place.lock().addr)))
            .filter(|(k, _)| !matches!(k, FutexKey::Private { mm: id, .. } if *id != mm.id()))
            .collect();
        for (key, addr) in owned {
            if mm.load_u32(addr).is_ok_and(|w| w & TID_MASK == t.tid() as u32) {
                // A word that cannot be written is the application's own affair.
                let _ = hand_over(mm, &mut bucket, &key, addr, true);
            }
        }
    }
}
