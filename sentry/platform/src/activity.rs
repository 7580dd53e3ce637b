//! How many guest threads have something to do, and of which kind: whoever wants to wait by looking, which takes a processor, must know.

use crate::placement::Placement;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};

/// The sandbox's processors, and its guest threads that are not blocked in the kernel. A hint: races cost time, no more.
#[derive(Debug)]
pub struct Load {
    cpus: usize,
    running: AtomicUsize,
    /// Those of them that call often.
    frequent: AtomicUsize,
    /// Guest threads, running or not, that look for calls in turns.
    turning: AtomicUsize,
}

impl Load {
    /// With nothing to do for so many processors.
    pub fn new(cpus: usize) -> Arc<Load> {
        Arc::new(Load { cpus, running: AtomicUsize::new(0), frequent: AtomicUsize::new(0), turning: AtomicUsize::new(0) })
    }

    /// Whether a processor is left over.
    pub fn has_spare(&self) -> bool {
        self.running.load(Relaxed) < self.cpus
    }

    /// Whether less than half of the processors have something to do.
    fn is_calm(&self) -> bool {
        (self.running.load(Relaxed) + 1) * 2 <= self.cpus
    }

    /// How many threads there are for each processor, at least one.
    pub fn crowd(&self) -> u64 {
        (self.running.load(Relaxed) / self.cpus.max(1)).max(1) as u64
    }

    /// Whether guest threads look for calls in turns.
    pub fn is_turning(&self) -> bool {
        self.turning.load(Relaxed) > 0
    }

    /// Whether two processors are left over by the threads that call seldom: one for the others' stubs, one for the sentry.
    pub fn has_pair(&self) -> bool {
        self.running.load(Relaxed).saturating_sub(self.frequent.load(Relaxed)) + 2 <= self.cpus
    }
}

/// What a wait takes at most, in nanoseconds, that no processor falls asleep for.
const SHORT: u64 = 100_000;

/// Calls in a row, without waiting, after which a thread that was called to a processor is free again.
const CALM: u32 = 8;

/// One guest thread's part in the load, and where it wakes up.
#[derive(Debug)]
pub struct Activity {
    load: Arc<Load>,
    placement: Arc<Placement>,
    /// The thread that serves it; 0 if it has not begun.
    tid: AtomicI32,
    /// The processor that it was called to and may not leave, and one; 0: it may run wherever the sandbox may.
    bound: AtomicU32,
    /// Calls since it has waited.
    calls: AtomicU32,
    running: AtomicBool,
    /// It calls often.
    frequent: AtomicBool,
    /// Somebody else says where it runs.
    is_placed: AtomicBool,
    /// It looks for calls in turns.
    turning: AtomicBool,
    /// It has blocked since somebody asked.
    has_blocked: AtomicBool,
    /// When it began to wait.
    blocked_at: AtomicU64,
    /// How long it has waited since somebody asked, in nanoseconds.
    waited: AtomicU64,
    times: AtomicU32,
    /// How often it did so for long while no other guest thread had anything to do.
    idled: AtomicU32,
}

/// What became of a guest thread's waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waited {
    /// How long they were together, in nanoseconds.
    pub ns: u64,
    /// How many there were.
    pub times: u32,
    /// How many were long, with nothing to do for any other guest thread at their end.
    pub idle: u32,
}

/// Who wants to know that the thread which it belongs to is about to wait.
pub trait Waits: Send + Sync {
    /// It is.
    fn about_to_wait(&self);
}

thread_local! {
    /// The guest thread that the calling thread serves.
    static CURRENT: RefCell<Option<Arc<Activity>>> = const { RefCell::new(None) };
    static WAITS: RefCell<Option<Arc<dyn Waits>>> = const { RefCell::new(None) };
}

/// Lets somebody know whenever the calling thread is about to wait.
pub fn tell_waits(who: Option<Arc<dyn Waits>>) {
    WAITS.set(who);
}

/// To be called by any thread of the sentry that is about to wait (`true`) or has waited (`false`) for something.
pub fn set_blocked(blocked: bool) {
    if blocked {
        WAITS.with_borrow(|who| who.iter().for_each(|w| w.about_to_wait()));
        crate::wake::hand_over();
    }
    CURRENT.with_borrow(|current| {
        if let Some(activity) = current {
            activity.set_running(!blocked);
        }
    });
}

/// Whether the calling thread serves a guest thread that is about to wait, keeps nobody from running, and at least half of the processors have
/// nothing to do: the other half is for whoever it waits for, who may well be on this machine.
pub fn idles() -> bool {
    !crate::wake::hands_over() && CURRENT.with_borrow(|c| c.as_ref().is_some_and(|a| !a.running.load(Relaxed) && a.load.is_calm()))
}

impl Activity {
    /// Of a guest thread that does not run yet.
    pub fn new(load: &Arc<Load>, placement: &Arc<Placement>) -> Arc<Activity> {
        Arc::new(Activity {
            load: Arc::clone(load),
            placement: Arc::clone(placement),
            tid: AtomicI32::new(0),
            bound: AtomicU32::new(0),
            calls: AtomicU32::new(0),
            running: AtomicBool::new(false),
            frequent: AtomicBool::new(false),
            is_placed: AtomicBool::new(false),
            turning: AtomicBool::new(false),
            has_blocked: AtomicBool::new(false),
            blocked_at: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            times: AtomicU32::new(0),
            idled: AtomicU32::new(0),
        })
    }

    /// That of the guest thread that the calling thread serves.
    pub fn current() -> Option<Arc<Activity>> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// The calling thread serves this guest thread, which runs.
    pub fn begin(self: &Arc<Activity>) {
        // It may have been started by a thread that was bound.
        self.placement.free();
        self.tid.store(host::thread::tid(), Relaxed);
        CURRENT.set(Some(Arc::clone(self)));
        self.set_running(true);
    }

    /// The calling thread serves this guest thread no more.
    pub fn end(&self) {
        self.roam();
        self.set_turning(false);
        self.tid.store(0, Relaxed);
        CURRENT.set(None);
    }

    /// Lets the thread, which sleeps, wake up on the caller's processor.
    pub fn come_here(&self) {
        let (tid, here) = (self.tid.load(Relaxed), self.placement.here());
        if tid != 0 && !self.is_placed.load(Relaxed) && self.bound.swap(here + 1, Relaxed) != here + 1 {
            self.placement.bind(tid, here);
        }
    }

    /// Lets it run wherever the sandbox may.
    pub fn roam(&self) {
        let tid = self.tid.load(Relaxed);
        if tid != 0 && self.bound.load(Relaxed) != 0 && self.bound.swap(0, Relaxed) != 0 {
            self.placement.release(tid);
        }
    }

    /// It is about to let the application run again: one that does not wait any more is free.
    pub fn goes_on(&self) {
        if self.bound.load(Relaxed) != 0 && self.calls.fetch_add(1, Relaxed) >= CALM {
            self.roam();
        }
    }

    /// Somebody else says where it runs, from now on; or nobody.
    pub fn set_placed(&self, placed: bool) {
        if placed {
            self.bound.store(0, Relaxed);
        }
        self.is_placed.store(placed, Relaxed);
    }

    /// It calls often, or seldom. Only the thread that serves it says so.
    pub fn set_frequent(&self, frequent: bool) {
        if self.frequent.swap(frequent, Relaxed) != frequent && self.running.load(Relaxed) {
            if frequent {
                self.load.frequent.fetch_add(1, Relaxed);
            } else {
                self.load.frequent.fetch_sub(1, Relaxed);
            }
        }
    }

    /// It looks for calls in turns with others, or not.
    pub fn set_turning(&self, turning: bool) {
        if self.turning.swap(turning, Relaxed) != turning {
            if turning {
                self.load.turning.fetch_add(1, Relaxed);
            } else {
                self.load.turning.fetch_sub(1, Relaxed);
            }
        }
    }

    /// It runs, or blocks. Only the thread that serves it says so.
    pub fn set_running(&self, running: bool) {
        if self.running.swap(running, Relaxed) != running {
            let frequent = self.frequent.load(Relaxed).into();
            if running {
                let others = self.load.running.fetch_add(1, Relaxed);
                self.load.frequent.fetch_add(frequent, Relaxed);
                self.has_waited(others > 0);
            } else {
                self.blocked_at.store(host::time::monotonic_ns(), Relaxed);
                self.load.running.fetch_sub(1, Relaxed);
                self.load.frequent.fetch_sub(frequent, Relaxed);
                self.calls.store(0, Relaxed);
                self.has_blocked.store(true, Relaxed);
            }
        }
    }

    /// It has waited: whether others have something to do meanwhile.
    fn has_waited(&self, others: bool) {
        let since = self.blocked_at.load(Relaxed);
        if since > 0 {
            let waited = host::time::monotonic_ns().saturating_sub(since);
            self.waited.fetch_add(waited, Relaxed);
            self.times.fetch_add(1, Relaxed);
            self.idled.fetch_add(u32::from(waited > SHORT && !others), Relaxed);
        }
    }

    /// How it has waited since this was asked last. Only the thread that serves it asks.
    pub fn take_waited(&self) -> Waited {
        Waited { ns: self.waited.swap(0, Relaxed), times: self.times.swap(0, Relaxed), idle: self.idled.swap(0, Relaxed) }
    }

    /// Whether it has blocked since this was asked last.
    pub fn take_has_blocked(&self) -> bool {
        self.has_blocked.load(Relaxed) && self.has_blocked.swap(false, Relaxed)
    }

    /// The load that it is part of.
    pub fn load(&self) -> &Load {
        &self.load
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_each_thread_once() {
        let load = Load::new(2);
        let placement = Placement::new();
        let (a, b) = (Activity::new(&load, &placement), Activity::new(&load, &placement));
        a.begin();
        a.begin();
        assert!(load.has_spare());
        b.set_running(true);
        assert!(!load.has_spare());
        assert!(!a.take_has_blocked());
        assert!(!idles());
        set_blocked(true);
        set_blocked(true);
        assert!(!idles());
        assert!(load.has_spare() && a.take_has_blocked() && !a.take_has_blocked());
        set_blocked(false);
        assert!(!load.has_spare());
        a.set_running(false);
        b.set_running(false);
        assert!(idles());
        assert_eq!(load.running.load(Relaxed), 0);
        CURRENT.set(None);
    }
}
