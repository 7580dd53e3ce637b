//! Interrupting a context whose application code runs in a host thread: a flag, and a signal if it runs just now.

use crate::Interrupt;
use crate::stub::INTERRUPT;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// In the target: a signal was sent that has not been looked for since.
const SIGNALLED: u64 = 1 << 63;

/// Interrupts one context: a flag, and a signal if the application is running.
///
/// Whoever interrupts raises the flag and then looks for the target; who enters names the target and then looks at the flag. So
/// at least one sees the other. A signal that comes late is dropped where it is found without the flag.
#[derive(Default)]
pub struct Interrupter {
    pending: AtomicBool,
    /// Process and thread that run application code, 0 if none does; [`SIGNALLED`].
    target: AtomicU64,
}

impl Interrupter {
    /// The named host thread is about to run application code.
    pub fn enter(&self, pid: i32, tid: i32) {
        self.target.store(u64::from(pid.unsigned_abs()) << 32 | u64::from(tid.unsigned_abs()), Ordering::SeqCst);
    }

    /// No application code runs.
    pub fn leave(&self) {
        self.target.store(0, Ordering::SeqCst);
    }

    /// Sends the signal again if somebody has interrupted: it may have come while nobody minded it. To be called when application code
    /// was let run by a store to memory that the other side may have been looking at when the signal came.
    /// Returns whether somebody has.
    pub fn repeat(&self) -> bool {
        let pending = self.pending.load(Ordering::SeqCst);
        if pending {
            let target = self.target.load(Ordering::SeqCst) & !SIGNALLED;
            let _ = host::signals::tgkill((target >> 32) as i32, target as u32 as i32, INTERRUPT);
        }
        pending
    }

    /// Whether somebody has interrupted since the last time. To be asked between entering and every time that application code runs.
    pub fn take(&self) -> bool {
        if self.target.load(Ordering::SeqCst) & SIGNALLED != 0 {
            self.target.fetch_and(!SIGNALLED, Ordering::SeqCst);
        }
        self.pending.load(Ordering::SeqCst) && self.pending.swap(false, Ordering::SeqCst)
    }
}

impl Interrupt for Interrupter {
    fn interrupt(&self) {
        self.pending.store(true, Ordering::SeqCst);
        let mut target = self.target.load(Ordering::SeqCst);
        while target != 0 && target & SIGNALLED == 0 {
            match self.target.compare_exchange(target, target | SIGNALLED, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => {
                    // Gone already: then there is nothing to interrupt.
                    let _ = host::signals::tgkill((target >> 32) as i32, target as u32 as i32, INTERRUPT);
                    return;
                }
                Err(now) => target = now,
            }
        }
    }
}
