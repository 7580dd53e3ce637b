//! How many guest threads have something to do: whoever wants to wait by looking, which takes a processor, must know.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

/// The sandbox's processors, and its guest threads that are not blocked in the kernel. A hint: races cost time, no more.
#[derive(Debug)]
pub struct Load {
    cpus: usize,
    running: AtomicUsize,
}

impl Load {
    /// With nothing to do for so many processors.
    pub fn new(cpus: usize) -> Arc<Load> {
        Arc::new(Load { cpus, running: AtomicUsize::new(0) })
    }

    /// Whether a processor is left over.
    pub fn has_spare(&self) -> bool {
        self.running.load(Relaxed) < self.cpus
    }
}

/// One guest thread's part in the load.
#[derive(Debug)]
pub struct Activity {
    load: Arc<Load>,
    running: AtomicBool,
    /// It has blocked since somebody asked.
    has_blocked: AtomicBool,
}

thread_local! {
    /// The guest thread that the calling thread serves.
    static CURRENT: RefCell<Option<Arc<Activity>>> = const { RefCell::new(None) };
}

/// To be called by any thread of the sentry that is about to wait (`true`) or has waited (`false`) for something.
pub fn set_blocked(blocked: bool) {
    CURRENT.with_borrow(|current| {
        if let Some(activity) = current {
            activity.set_running(!blocked);
        }
    });
}

impl Activity {
    /// Of a guest thread that does not run yet.
    pub fn new(load: &Arc<Load>) -> Arc<Activity> {
        Arc::new(Activity { load: Arc::clone(load), running: AtomicBool::new(false), has_blocked: AtomicBool::new(false) })
    }

    /// The calling thread serves this guest thread, which runs.
    pub fn begin(self: &Arc<Activity>) {
        CURRENT.set(Some(Arc::clone(self)));
        self.set_running(true);
    }

    /// It runs, or blocks.
    pub fn set_running(&self, running: bool) {
        if self.running.swap(running, Relaxed) != running {
            if running {
                self.load.running.fetch_add(1, Relaxed);
            } else {
                self.load.running.fetch_sub(1, Relaxed);
                self.has_blocked.store(true, Relaxed);
            }
        }
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
        let (a, b) = (Activity::new(&load), Activity::new(&load));
        a.begin();
        a.begin();
        assert!(load.has_spare());
        b.set_running(true);
        assert!(!load.has_spare());
        assert!(!a.take_has_blocked());
        set_blocked(true);
        set_blocked(true);
        assert!(load.has_spare() && a.take_has_blocked() && !a.take_has_blocked());
        set_blocked(false);
        assert!(!load.has_spare());
        a.set_running(false);
        b.set_running(false);
        assert_eq!(load.running.load(Relaxed), 0);
        CURRENT.set(None);
    }
}
