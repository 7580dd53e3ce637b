//! Sending signals (kernel/signal.c: `prepare_signal`, `__send_signal_locked`, `complete_signal`).

use super::state::{SIG_DFL, SIG_IGN};
use super::{DefaultAction, PendingQueue, WaitEvent, default_action};
use crate::task::{ExitStatus, GroupState, RunState, Task, ThreadGroup};
use abi::{
    Result, bail,
    signal::{SI_USER, SigInfo, SigSet, Signal},
};
use std::sync::atomic::Ordering;

/// SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU.
pub const STOP_SIGNALS: SigSet = SigSet(Signal::STOP.bit().0 | Signal::TSTP.bit().0 | Signal::TTIN.bit().0 | Signal::TTOU.bit().0);

impl Task {
    /// Whether the task must look at its signals before it goes on: blocking calls return [`abi::Restart::Sys`] then.
    pub fn signal_pending(&self) -> bool {
        self.signals().notice.load(Ordering::SeqCst)
    }

    /// Whether the task is being killed: even uninterruptible waits end.
    pub fn fatal_signal_pending(&self) -> bool {
        self.signal_pending() && (self.group().is_exiting() || self.is_dying())
    }

    /// The blocked signals.
    pub fn signal_mask(&self) -> SigSet {
        self.signals().mask()
    }

    /// Whether the signal would be dropped: ignored, or ignored by default.
    pub fn is_ignored(&self, sig: Signal) -> bool {
        match self.group().handlers().get(sig).handler {
            SIG_IGN => true,
            SIG_DFL => default_action(sig) == DefaultAction::Ignore,
            _ => false,
        }
    }

    /// Makes the task look at its signals.
    pub(crate) fn notice_signals(&self) {
        self.signals().notice.store(true, Ordering::SeqCst);
        self.kick();
    }

    /// Sends a signal to this thread. No permission is checked. `EAGAIN` where a queue is full (only for signals that must queue).
    pub fn send_signal(&self, info: SigInfo) -> Result {
        let group = self.group();
        let mut state = group.lock();
        send_locked(group, &mut state, Some(self), info)
    }

    /// Sends a fault to this thread, which must not go on as if nothing had happened: where the signal is blocked or ignored
    /// it gets its default action, and kills (`force_sig_info`).
    pub fn force_signal(&self, info: SigInfo) {
        let Some(sig) = Signal::new(info.signo as u64) else { return };
        let group = self.group().clone();
        let mut state = group.lock();
        let handlers = group.handlers();
        let mut action = handlers.get(sig);
        let blocked = self.signals().mask().contains(sig);
        if blocked || action.handler == SIG_IGN {
            action.handler = SIG_DFL;
            handlers.set(sig, action);
            if blocked {
                self.signals().store_mask(self.signals().mask().minus(sig.bit()));
            }
        }
        if action.handler == SIG_DFL {
            // Not even the sandbox's init survives its own faults.
            state.unkillable = false;
        }
        self.signals().pending.lock_nested().push(sig, info);
        state.queued += 1;
        self.notice_signals();
    }

    /// Recomputes whether the task has signals to look at. Called after the mask has changed or a signal was taken.
    pub fn recalc_signal_pending(&self) {
        let group = self.group();
        let state = group.lock();
        self.recalc_locked(&state);
    }

    pub(crate) fn recalc_locked(&self, state: &GroupState) {
        let deaf = self.signals().mask();
        let pending = self.signals().pending.lock_nested().set().union(state.shared.set());
        let any = !pending.minus(deaf).is_empty()
            || state.stop.is_some_and(|s| !self.tracing.has_left(s.generation))
            || self.tracing.wants_stop()
            || state.notify_parent.is_some()
            || state.exit.is_some()
            || state.exec.is_some_and(|tid| tid != self.tid())
            || self.is_dying();
        self.signals().notice.store(any, Ordering::SeqCst);
    }

    /// Replaces the mask (SIGKILL and SIGSTOP are left out); returns the old one. Only for the task itself.
    pub fn set_signal_mask(&self, mask: SigSet) -> SigSet {
        let old = self.signals().mask();
        let group = self.group();
        let state = group.lock();
        self.signals().store_mask(mask);
        let newly_blocked = mask.minus(old);
        let orphaned = state.shared.set().minus(state.shared.set().minus(newly_blocked));
        if !orphaned.is_empty() {
            retarget(self, &state, orphaned);
        }
        self.recalc_locked(&state);
        old
    }

    /// Signals that are pending for this thread, its own and its process's (sigpending(2)).
    pub fn pending_signals(&self) -> SigSet {
        let group = self.group();
        let state = group.lock();
        let own = self.signals().pending.lock_nested().set();
        own.union(state.shared.set())
    }

    /// The thread's own pending signals (`SigPnd` of /proc/PID/status; the process's are [`ThreadGroup::shared_pending`]).
    pub fn own_pending(&self) -> SigSet {
        self.signals().pending.lock_nested().set()
    }

    /// Entries of the thread's own queue.
    pub(crate) fn own_queued(&self) -> usize {
        self.signals().pending.lock_nested().len()
    }

    /// Whether an entry of this thread's own queue matches.
    pub(crate) fn has_queued(&self, sig: Signal, matches: impl Fn(&SigInfo) -> bool) -> bool {
        self.signals().pending.lock_nested().find_mut(sig, matches).is_some()
    }

    /// Takes a pending signal of `wanted`, blocked or not: sigtimedwait(2) and signalfd(2).
    pub fn dequeue_signal(&self, wanted: SigSet) -> Option<SigInfo> {
        let group = self.group();
        let mut state = group.lock();
        let taken = self.dequeue_locked(&mut state, SigSet(!wanted.0));
        self.recalc_locked(&state);
        drop(state);
        taken.map(|(_, info)| group.timers.complete_info(info))
    }

    /// Takes the next signal not in `blocked`: the thread's own first.
    pub(crate) fn dequeue_locked(&self, state: &mut GroupState, blocked: SigSet) -> Option<(Signal, SigInfo)> {
        let own = self.signals().pending.lock_nested().dequeue(blocked);
        let taken = own.or_else(|| state.shared.dequeue(blocked));
        if taken.is_some() {
            state.queued = state.queued.saturating_sub(1);
        }
        taken
    }
}

impl ThreadGroup {
    /// Sends a signal to the process; some thread that does not block it takes it. No permission is checked.
    pub fn send_signal(&self, info: SigInfo) -> Result {
        let mut state = self.lock();
        send_locked(self, &mut state, None, info)
    }

    /// Signals pending for the process as a whole.
    pub fn shared_pending(&self) -> SigSet {
        self.lock().shared.set()
    }

    /// Queued signals of all its threads (`SigQ`).
    pub fn queued_signals(&self) -> usize {
        self.lock().queued
    }
}

/// Wakes other threads for shared signals that `from` has just blocked, or leaves behind when it exits.
pub(crate) fn retarget(from: &Task, state: &GroupState, signals: SigSet) {
    let mut left = signals;
    for t in &state.threads {
        let wants = left.minus(t.signals().mask());
        if t.tid() != from.tid() && !wants.is_empty() && !t.is_dying() {
            left = left.minus(wants);
            t.notice_signals();
        }
        if left.is_empty() {
            break;
        }
    }
}

/// Sends to `target` alone, or to the process.
fn send_locked(group: &ThreadGroup, state: &mut GroupState, target: Option<&Task>, info: SigInfo) -> Result {
    let Some(sig) = Signal::new(info.signo as u64) else { return Ok(()) };
    if state.exit.is_some() || state.threads.is_empty() {
        return Ok(());
    }
    prepare(state, sig);
    // A signal of the kernel's is not held off by init's protection if it cannot be ignored.
    let forced = info.code > 0;
    if is_dropped(group, state, target, sig, forced) {
        return Ok(());
    }
    let realtime = sig.is_realtime();
    let limit = group.rlimit(libc::RLIMIT_SIGPENDING).cur;
    let full = state.queued as u64 >= limit;
    {
        let mut own;
        let queue: &mut PendingQueue = match target {
            Some(t) => {
                own = t.signals().pending.lock_nested();
                &mut own
            }
            None => &mut state.shared,
        };
        if !realtime && queue.set().contains(sig) {
            return Ok(());
        }
        if !full || (!realtime && info.code >= 0) {
            queue.push(sig, info);
            state.queued += 1;
        } else if realtime && info.code != SI_USER {
            bail!(EAGAIN, "RLIMIT_SIGPENDING");
        } else {
            queue.mark(sig);
        }
    }
    group.signal_queue().notify(abi::poll::PollEvents::READABLE);
    complete(group, state, target, sig);
    Ok(())
}

/// What stop signals and SIGCONT do to one another when they are sent, whatever becomes of them.
fn prepare(state: &mut GroupState, sig: Signal) {
    let flush = if STOP_SIGNALS.contains(sig) {
        Signal::CONT.bit()
    } else if sig == Signal::CONT {
        STOP_SIGNALS
    } else {
        return;
    };
    let mut freed = state.shared.remove(flush);
    for t in &state.threads {
        freed += t.signals().pending.lock_nested().remove(flush);
    }
    state.queued = state.queued.saturating_sub(freed);
    if sig == Signal::CONT {
        continue_group(state);
    }
}

/// Ends a stop, complete or not, and has a woken thread tell the parent.
pub(crate) fn continue_group(state: &mut GroupState) {
    let Some(stop) = state.stop.take() else { return };
    state.stopped_threads = 0;
    if stop.complete {
        state.wait_event = Some(WaitEvent::Continued);
        state.notify_parent = Some(libc::CLD_CONTINUED);
    } else {
        state.notify_parent = Some(libc::CLD_STOPPED);
    }
    for t in &state.threads {
        t.notice_signals();
    }
}

/// Whether nobody will see the signal. A blocked signal may get a handler before it is unblocked, so it is kept.
fn is_dropped(group: &ThreadGroup, state: &GroupState, target: Option<&Task>, sig: Signal, forced: bool) -> bool {
    let Some(task) = target.or(state.threads.first().map(|t| &**t)) else { return true };
    if task.signals().mask().contains(sig) {
        return false;
    }
    let handler = group.handlers().get(sig).handler;
    if state.unkillable && handler == SIG_DFL && !(forced && SigSet::UNBLOCKABLE.contains(sig)) {
        return true;
    }
    // A tracer may want to know of it.
    task.is_ignored(sig) && !task.tracing.active()
}

/// Finds a thread to take the signal and wakes it; a signal that surely ends the process does so at once.
fn complete(group: &ThreadGroup, state: &mut GroupState, target: Option<&Task>, sig: Signal) {
    // A stopped thread takes nothing but SIGKILL until it is continued.
    let awake = |t: &Task| !matches!(t.state(), RunState::Stopped | RunState::Traced) && !t.signals().deaf_to().contains(sig);
    let wants = |t: &&Task| !t.is_dying() && (sig == Signal::KILL || awake(t));
    let chosen = match target {
        Some(t) => Some(t).filter(wants),
        None => {
            let threads = || state.threads.iter().map(|t| &**t).filter(wants);
            threads().find(|t| !t.signal_pending()).or_else(|| threads().next())
        }
    };
    let Some(chosen) = chosen else { return };
    let action = group.handlers().get(sig);
    let fatal = action.handler == SIG_DFL
        && default_action(sig) == DefaultAction::Terminate
        && !chosen.signals().mask().contains(sig)
        && !chosen.signals().waited().contains(sig)
        && (!chosen.tracing.active() || sig == Signal::KILL)
        && (!state.unkillable || sig == Signal::KILL);
    if fatal {
        state.begin_exit(ExitStatus::Signaled { signal: sig, core: false });
    } else {
        chosen.notice_signals();
    }
}
