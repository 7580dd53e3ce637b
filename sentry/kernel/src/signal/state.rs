//! What a thread and a process keep about signals.

use super::PendingQueue;
use abi::signal::{SigAction, SigSet, Signal};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use sync::{Mutex, Rank};

/// `SIG_DFL`.
pub const SIG_DFL: u64 = 0;
/// `SIG_IGN`.
pub const SIG_IGN: u64 = 1;

/// What a signal without a handler does (signal(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultAction {
    /// Ends the process.
    Terminate,
    /// Ends the process; Linux would dump core.
    Core,
    /// Stops the process.
    Stop,
    /// Nothing. (`SIGCONT` has continued the process when it was sent.)
    Ignore,
}

/// The default action of a signal.
#[must_use]
pub fn default_action(sig: Signal) -> DefaultAction {
    match sig {
        Signal::CHLD | Signal::CONT | Signal::URG | Signal::WINCH => DefaultAction::Ignore,
        Signal::STOP | Signal::TSTP | Signal::TTIN | Signal::TTOU => DefaultAction::Stop,
        Signal::QUIT
        | Signal::ILL
        | Signal::TRAP
        | Signal::ABRT
        | Signal::BUS
        | Signal::FPE
        | Signal::SEGV
        | Signal::XCPU
        | Signal::XFSZ
        | Signal::SYS => DefaultAction::Core,
        _ => DefaultAction::Terminate,
    }
}

/// `sigaction`s of a process (`struct sighand_struct`).
#[derive(Debug)]
pub struct SigHandlers {
    actions: Mutex<[SigAction; 64]>,
}

impl Default for SigHandlers {
    fn default() -> Self {
        SigHandlers { actions: Mutex::new(Rank::Signal, [SigAction::default(); 64]) }
    }
}

impl SigHandlers {
    /// The action of a signal. May be called under the thread group's signal lock.
    #[must_use]
    pub fn get(&self, sig: Signal) -> SigAction {
        self.actions.lock_nested().get(usize::from(sig.number()) - 1).copied().unwrap_or_default()
    }

    /// Sets the action of a signal; returns the old one.
    pub fn set(&self, sig: Signal, action: SigAction) -> SigAction {
        match self.actions.lock_nested().get_mut(usize::from(sig.number()) - 1) {
            Some(a) => std::mem::replace(a, action),
            None => SigAction::default(),
        }
    }

    /// A copy for a new process.
    #[must_use]
    pub fn duplicate(&self) -> SigHandlers {
        SigHandlers { actions: Mutex::new(Rank::Signal, *self.actions.lock_nested()) }
    }

    /// What execve(2) (and CLONE_CLEAR_SIGHAND) does: caught signals get the default action, ignored ones stay ignored.
    pub fn reset_caught(&self) {
        for a in self.actions.lock_nested().iter_mut() {
            let handler = if a.handler == SIG_IGN { SIG_IGN } else { SIG_DFL };
            *a = SigAction { handler, ..SigAction::default() };
        }
    }

    /// The ignored and the caught signals (`SigIgn` and `SigCgt` of /proc/PID/status).
    #[must_use]
    pub fn ignored_and_caught(&self) -> (SigSet, SigSet) {
        let (mut ignored, mut caught) = (0u64, 0u64);
        for (i, a) in self.actions.lock_nested().iter().enumerate() {
            match a.handler {
                SIG_DFL => {}
                SIG_IGN => ignored |= 1 << i,
                _ => caught |= 1 << i,
            }
        }
        (SigSet(ignored), SigSet(caught))
    }
}

/// A thread's part. The mask is written by the thread itself only, and read by senders.
#[derive(Debug)]
pub struct TaskSignals {
    mask: AtomicU64,
    /// Signals that sigtimedwait(2) waits for while the mask blocks them.
    waited: AtomicU64,
    /// Something asks the thread to look at its signals before it goes on (`TIF_SIGPENDING`).
    pub(super) notice: AtomicBool,
    pub(super) pending: Mutex<PendingQueue>,
}

impl TaskSignals {
    pub(crate) fn new(mask: SigSet) -> TaskSignals {
        TaskSignals {
            mask: AtomicU64::new(mask.0),
            waited: AtomicU64::new(0),
            notice: AtomicBool::new(false),
            pending: Mutex::new(Rank::Signal, PendingQueue::default()),
        }
    }

    /// The blocked signals.
    pub(crate) fn mask(&self) -> SigSet {
        SigSet(self.mask.load(Ordering::SeqCst))
    }

    pub(super) fn store_mask(&self, mask: SigSet) {
        self.mask.store(mask.minus(SigSet::UNBLOCKABLE).0, Ordering::SeqCst);
    }

    /// What sigtimedwait(2) waits for.
    pub(super) fn waited(&self) -> SigSet {
        SigSet(self.waited.load(Ordering::SeqCst))
    }

    pub(super) fn set_waited(&self, set: SigSet) {
        self.waited.store(set.0, Ordering::SeqCst);
    }

    /// What does not wake the thread.
    pub(super) fn deaf_to(&self) -> SigSet {
        self.mask().minus(self.waited())
    }
}

/// A stop of the whole process by a stop signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupStop {
    /// The signal.
    pub signal: Signal,
    /// All threads have stopped and the parent has been told.
    pub complete: bool,
    /// Tells stops apart.
    pub generation: u64,
}

/// What wait4(2) with WUNTRACED or WCONTINUED reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitEvent {
    /// Stopped by this signal.
    Stopped(Signal),
    /// Continued.
    Continued,
}
