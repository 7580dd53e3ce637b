//! Which CPU a guest thread runs on.
//!
//! The sentry thread and the stub thread of one guest thread take turns. On one CPU the host switches between them in 4 µs; on two
//! each turn wakes an idle CPU, which in a virtual machine takes ten times as long. So both are pinned to one CPU, and because the
//! host's scheduler then cannot balance, this module does: a new guest thread goes to the least loaded CPU; one that finds its CPU
//! crowded for a while and another idle moves there; and a CPU that runs empty pulls a thread over.
//!
//! Load is the number of guest threads that do not block in the kernel. All counts are hints: a race costs a detour, no more.

use host::thread::{CpuSet, affinity, current_cpu, set_affinity, tid};
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// In a seat's state: counted in the load.
const COUNTED: u32 = 1 << 31;
/// Nanoseconds between two threads being pulled to idle CPUs.
const PULL_INTERVAL: u64 = 2_000_000;
/// Looks at a crowded CPU in a row before a thread leaves it.
const STRIKES: u32 = 4;

/// The CPUs of the sandbox and what they have to do.
#[derive(Debug)]
pub struct Placement {
    cpus: Vec<usize>,
    load: Vec<AtomicI32>,
    seats: Mutex<Vec<Arc<Shared>>>,
    /// When a thread was pulled last.
    pulled: AtomicU64,
    /// Counts the threads that were sent to another CPU.
    turn: AtomicU32,
}

/// The part of a seat that other threads may change.
#[derive(Debug)]
struct Shared {
    /// Index into [`Placement::cpus`], and [`COUNTED`].
    state: AtomicU32,
    /// The pair of host threads; 0 if there is none.
    sentry: AtomicI32,
    stub: AtomicI32,
}

/// A guest thread's place on a CPU.
#[derive(Debug)]
pub struct Seat {
    placement: Arc<Placement>,
    shared: Arc<Shared>,
    strikes: u32,
}

impl Placement {
    /// All CPUs that the calling thread may use. Call it before any thread is pinned.
    #[must_use]
    pub fn new() -> Arc<Placement> {
        let cpus: Vec<usize> = affinity(0).map(|s| s.iter().collect()).unwrap_or_default();
        let load = cpus.iter().map(|_| AtomicI32::new(0)).collect();
        Arc::new(Placement { cpus, load, seats: Mutex::new(Vec::new()), pulled: AtomicU64::new(0), turn: AtomicU32::new(0) })
    }

    fn load(&self, cpu: u32) -> i32 {
        self.load.get(cpu as usize).map_or(0, |l| l.load(Relaxed))
    }

    fn add(&self, cpu: u32, n: i32) {
        if let Some(l) = self.load.get(cpu as usize) {
            l.fetch_add(n, Relaxed);
        }
    }

    fn least_loaded(&self) -> u32 {
        (0..self.cpus.len() as u32).min_by_key(|&c| self.load(c)).unwrap_or(0)
    }

    /// Puts the calling thread and a stopped tracee of its on one CPU that has little to do, for a few turns between them.
    pub fn meet(&self, tracee: i32) {
        if self.cpus.len() > 1
            && let Some(&cpu) = self.cpus.get(self.least_loaded() as usize)
        {
            let set = CpuSet::one(cpu);
            // On failure the turns are slower, no more.
            let _ = set_affinity(tracee, &set);
            let _ = set_affinity(0, &set);
        }
    }

    /// Puts a thread on another CPU than the caller's, the next in turn: the host's scheduler does not look for one where CPUs share no cache.
    /// [`release`](Self::release) it when it has got there.
    pub fn part(&self, tid: i32) {
        let here = current_cpu();
        let at = self.cpus.iter().position(|&c| c == here).unwrap_or(0);
        let others = self.cpus.len().saturating_sub(1);
        if others > 0 {
            let step = 1 + self.turn.fetch_add(1, Relaxed) as usize % others;
            if let Some(&cpu) = self.cpus.get((at + step) % self.cpus.len()) {
                let _ = set_affinity(tid, &CpuSet::one(cpu));
            }
        }
    }

    /// The caller's CPU, as [`bind`](Self::bind) takes it.
    pub fn here(&self) -> u32 {
        let here = current_cpu();
        self.cpus.iter().position(|&c| c == here).unwrap_or(0) as u32
    }

    /// Keeps a thread on one CPU until it is [released](Self::release).
    pub fn bind(&self, tid: i32, cpu: u32) {
        if let Some(&cpu) = self.cpus.get(cpu as usize).filter(|_| self.cpus.len() > 1) {
            // On failure it wakes up elsewhere, no more.
            let _ = set_affinity(tid, &CpuSet::one(cpu));
        }
    }

    /// Lets the calling thread run wherever the sandbox may, if it does not do so yet.
    pub fn free(&self) {
        if affinity(0).is_ok_and(|s| s.count() < self.cpus.len()) {
            self.release(0);
        }
    }

    /// How many CPUs there are.
    pub fn cpus(&self) -> usize {
        self.cpus.len()
    }

    /// Lets a thread run wherever the sandbox may.
    pub fn release(&self, tid: i32) {
        if self.cpus.len() > 1 {
            let _ = set_affinity(tid, &CpuSet::of(&self.cpus));
        }
    }

    fn seats(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Shared>>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pin(&self, shared: &Shared, cpu: u32) {
        let Some(&cpu) = self.cpus.get(cpu as usize) else { return };
        let set = CpuSet::one(cpu);
        // The stub thread first: it sleeps, so that moving it is cheap. Either may have ended, and then it does not matter.
        for tid in [shared.stub.load(Relaxed), shared.sentry.load(Relaxed)] {
            if tid != 0 {
                let _ = set_affinity(tid, &set);
            }
        }
    }

    /// Moves a counted seat between CPUs, unless it has changed meanwhile.
    fn move_seat(&self, shared: &Shared, from: u32, to: u32) -> bool {
        if shared.state.compare_exchange(from | COUNTED, to | COUNTED, Relaxed, Relaxed).is_err() {
            return false;
        }
        self.add(from, -1);
        self.add(to, 1);
        self.pin(shared, to);
        true
    }

    /// `idle` has run empty: moves a thread there from a CPU that has several.
    fn pull(&self, idle: u32) {
        let Some(busiest) = (0..self.cpus.len() as u32).max_by_key(|&c| self.load(c)).filter(|&c| self.load(c) >= 2) else {
            return;
        };
        let (now, last) = (host::time::monotonic_ns(), self.pulled.load(Relaxed));
        if now.saturating_sub(last) < PULL_INTERVAL || self.pulled.compare_exchange(last, now, Relaxed, Relaxed).is_err() {
            return;
        }
        // Under the lock a seat cannot end, so that its threads are its own.
        let seats = self.seats();
        let _ = seats.iter().any(|s| s.state.load(Relaxed) == busiest | COUNTED && self.move_seat(s, busiest, idle));
    }
}

impl Seat {
    /// A place on the least loaded CPU for the calling thread.
    #[must_use]
    pub fn new(placement: &Arc<Placement>) -> Seat {
        let cpu = placement.least_loaded();
        let shared = Arc::new(Shared { state: AtomicU32::new(cpu | COUNTED), sentry: AtomicI32::new(tid()), stub: AtomicI32::new(0) });
        placement.add(cpu, 1);
        placement.seats().push(Arc::clone(&shared));
        let seat = Seat { placement: Arc::clone(placement), shared, strikes: 0 };
        seat.pin();
        seat
    }

    fn pin(&self) {
        if self.placement.cpus.len() > 1 {
            self.placement.pin(&self.shared, self.cpu());
        }
    }

    fn cpu(&self) -> u32 {
        self.shared.state.load(Relaxed) & !COUNTED
    }

    /// The stub thread that shares this place from now on.
    pub fn set_stub(&self, tid: i32) {
        self.shared.stub.store(tid, Relaxed);
        self.pin();
    }

    /// The thread leaves its CPU for a while, or is back.
    pub fn set_blocked(&mut self, blocked: bool) {
        let before = if blocked { self.shared.state.fetch_and(!COUNTED, Relaxed) } else { self.shared.state.fetch_or(COUNTED, Relaxed) };
        let cpu = before & !COUNTED;
        match (blocked, before & COUNTED != 0) {
            (true, true) => {
                self.placement.add(cpu, -1);
                if self.placement.cpus.len() > 1 && self.placement.load(cpu) <= 0 {
                    self.placement.pull(cpu);
                }
            }
            (false, false) => {
                self.placement.add(cpu, 1);
                self.look();
            }
            _ => {}
        }
    }

    /// Looks whether another CPU would be better. To be called now and then.
    pub fn look(&mut self) {
        let state = self.shared.state.load(Relaxed);
        let cpu = state & !COUNTED;
        if state & COUNTED == 0 || self.placement.load(cpu) < 2 || self.placement.cpus.len() < 2 {
            self.strikes = 0;
            return;
        }
        let best = self.placement.least_loaded();
        if self.placement.load(cpu) - self.placement.load(best) < 2 {
            self.strikes = 0;
            return;
        }
        self.strikes += 1;
        if self.strikes >= STRIKES {
            self.strikes = 0;
            self.placement.move_seat(&self.shared, cpu, best);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let last = self.shared.state.swap(0, Relaxed);
        if last & COUNTED != 0 {
            self.placement.add(last & !COUNTED, -1);
        }
        self.placement.seats().retain(|s| !Arc::ptr_eq(s, &self.shared));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_and_balances() {
        let two = || {
            Arc::new(Placement {
                cpus: vec![0, 1],
                load: vec![AtomicI32::new(0), AtomicI32::new(0)],
                seats: Mutex::default(),
                pulled: AtomicU64::new(0),
                turn: AtomicU32::new(0),
            })
        };
        let loads = |p: &Placement| (p.load(0), p.load(1));
        let p = two();
        // Its seats pin this very thread; where it runs is of no interest to the test.
        let mut seats: Vec<Seat> = (0..4).map(|_| Seat::new(&p)).collect();
        assert_eq!(loads(&p), (2, 2));
        seats[1].set_blocked(true);
        seats[1].set_blocked(true);
        assert_eq!(loads(&p), (2, 1));
        // The last one leaves CPU 1: one of CPU 0's is pulled.
        seats[3].set_blocked(true);
        assert_eq!(loads(&p), (1, 1));
        // They come back; each look finds balance, or mends it.
        seats[1].set_blocked(false);
        seats[3].set_blocked(false);
        assert_eq!(p.load(0) + p.load(1), 4);
        drop(seats);
        assert_eq!(loads(&p), (0, 0));

        let p = two();
        let mut seats: Vec<Seat> = (0..4).map(|_| Seat::new(&p)).collect();
        drop(seats.remove(3));
        drop(seats.remove(1));
        for _ in 0..STRIKES {
            seats[1].look();
        }
        assert_eq!(loads(&p), (1, 1));
    }
}
