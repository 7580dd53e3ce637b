//! Holding every task of a container where it is, and letting it go on: what the freezer of control groups does (`caisson pause`), and what
//! happens to a container that has used up its processor time.
//!
//! A held task is not stopped: its parent is told nothing, and no signal but a fatal one moves it.

use super::{CurrentTask, RunState};
use crate::Container;
use std::sync::atomic::{AtomicU8, Ordering};

/// Whether a container is held.
#[derive(Debug, Default)]
pub struct Freezer(AtomicU8);

/// It is paused.
const FROZEN: u8 = 1;
/// It has to wait for processor time.
const THROTTLED: u8 = 2;

impl Freezer {
    /// Whether tasks are held, for whatever reason.
    fn holds(&self) -> bool {
        self.0.load(Ordering::SeqCst) != 0
    }

    /// Whether the tasks wait for processor time.
    #[must_use]
    pub fn is_throttled(&self) -> bool {
        self.0.load(Ordering::SeqCst) & THROTTLED != 0
    }

    /// Holds the tasks for this reason, or no longer; whether that is new.
    fn set(&self, why: u8, on: bool) -> bool {
        let before = if on { self.0.fetch_or(why, Ordering::SeqCst) } else { self.0.fetch_and(!why, Ordering::SeqCst) };
        (before & why != 0) != on
    }

    /// Whether [`Container::freeze`] holds the tasks.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.0.load(Ordering::SeqCst) & FROZEN != 0
    }
}

impl Container {
    /// Takes every task out of the application and holds it, before its next instruction. Tasks that wait in the sentry go on waiting,
    /// and are held when their wait ends.
    pub fn freeze(&self) {
        self.freezer.set(FROZEN, true);
        self.kick_all();
    }

    /// Lets them go on.
    pub fn thaw(&self) {
        self.freezer.set(FROZEN, false);
        self.kick_all();
    }

    /// Holds the tasks until they may use the processor again, or no longer.
    pub(crate) fn throttle(&self, on: bool) {
        if self.freezer.set(THROTTLED, on) {
            self.count_throttle(on);
            self.kick_all();
        }
    }

    fn kick_all(&self) {
        for group in self.processes() {
            for task in group.threads() {
                task.kick();
            }
        }
    }
}

impl CurrentTask {
    /// Whether the task has to be held now.
    pub(super) fn held(&self) -> bool {
        self.container().freezer.holds() && !self.fatal_signal_pending()
    }

    /// Waits while the container is held.
    pub(super) fn hold(&self) {
        if !self.held() {
            return;
        }
        // Who only waits for the processor runs, as far as others can see.
        if self.container().freezer.is_frozen() {
            self.set_state(RunState::Uninterruptible);
        }
        while self.held() {
            self.park_stopped();
        }
        self.set_state(RunState::Running);
    }
}
