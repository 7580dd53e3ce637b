//! Holding every task of a container where it is, and letting it go on: what the freezer of control groups does (`caisson pause`).
//!
//! A held task is not stopped: its parent is told nothing, and no signal but a fatal one moves it.

use super::{CurrentTask, RunState};
use crate::Container;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether a container is held.
#[derive(Debug, Default)]
pub struct Freezer(AtomicBool);

impl Freezer {
    /// Whether [`Container::freeze`] holds the tasks.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl Container {
    /// Takes every task out of the application and holds it, before its next instruction. Tasks that wait in the sentry go on waiting,
    /// and are held when their wait ends.
    pub fn freeze(&self) {
        self.freezer.0.store(true, Ordering::SeqCst);
        self.kick_all();
    }

    /// Lets them go on.
    pub fn thaw(&self) {
        self.freezer.0.store(false, Ordering::SeqCst);
        self.kick_all();
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
        self.container().freezer.is_frozen() && !self.fatal_signal_pending()
    }

    /// Waits while the container is held.
    pub(super) fn hold(&self) {
        if !self.held() {
            return;
        }
        self.set_state(RunState::Uninterruptible);
        while self.held() {
            self.park_stopped();
        }
        self.set_state(RunState::Running);
    }
}
