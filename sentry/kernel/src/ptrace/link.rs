//! Who traces whom: TRACEME, ATTACH, SEIZE, children that are traced from their birth, and the end of it.

use super::{Event, Link, Mode, Options, State, Why};
use crate::signal::SIG_IGN;
use crate::task::{CurrentTask, ExitStatus, Task, tree::Tree};
use abi::signal::{SI_KERNEL, SigInfo, Signal};
use abi::{Result, bail, poll::PollEvents};
use std::sync::{Arc, atomic::Ordering};

impl Task {
    /// Ties this task to a tracer. `EPERM` if it has one.
    fn link(&self, tracer: &Arc<Task>, options: Options, seized: bool) -> Result {
        let mut s = self.tracing.lock();
        if s.link.is_some() {
            bail!(EPERM, "traced already");
        }
        s.link = Some(Link {
            tracer: Arc::downgrade(tracer),
            tracer_group: Arc::downgrade(tracer.group()),
            options,
            seized,
            mode: Mode::Cont,
            message: 0,
        });
        drop(s);
        tracer.group().tracees.fetch_add(1, Ordering::SeqCst);
        self.tracing.active.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Lets a tracee go: if it is stopped it goes on with `signal`, `None`: with the one that it stopped for. What is left of one that has
    /// ended is [`let_go_of_dead`](Self::let_go_of_dead)'s business.
    pub(crate) fn unlink(&self, signal: Option<i32>) {
        let mut s = self.tracing.lock();
        let State { link, stop, left_stop, .. } = &mut *s;
        let Some(old) = link.take() else { return };
        if let Some(stop) = stop {
            let own = if stop.why == Why::Signal { stop.code } else { 0 };
            // One that was told to go on already, and has not woken yet, goes on as it was told.
            stop.resumed.get_or_insert(signal.unwrap_or(own));
        }
        // A stop of the whole process holds it again.
        *left_stop = None;
        drop(s);
        if let Some(group) = old.tracer_group.upgrade() {
            group.tracees.fetch_sub(1, Ordering::SeqCst);
        }
        self.tracing.active.store(false, Ordering::SeqCst);
        self.tracing.trap.store(false, Ordering::SeqCst);
        self.recalc_signal_pending();
        self.notice_signals();
    }

    /// Whether this task traces `other`.
    pub(super) fn traces(&self, other: &Task) -> bool {
        other.tracing.lock().link.as_ref().is_some_and(|l| std::ptr::eq(l.tracer.as_ptr(), self))
    }

    /// PTRACE_TRACEME: the parent traces the caller.
    pub fn trace_me(&self) -> Result {
        let tracer = {
            let tree = self.pids().tree();
            let Some(p) = tree.process(self.tgid()) else { bail!(EPERM) };
            tree.task(p.parent_tid).or_else(|| tree.task(p.parent))
        };
        match tracer {
            Some(tracer) => self.link(&tracer, Options::empty(), false),
            None => bail!(EPERM, "no parent to trace it"),
        }
    }

    /// PTRACE_ATTACH, and with options PTRACE_SEIZE.
    pub fn trace(self: &Arc<Self>, tid: i32, seize: Option<Options>) -> Result {
        let Some(target) = self.pids().task(tid) else { bail!(ESRCH, "no task {tid}") };
        if Arc::ptr_eq(target.group(), self.group()) {
            bail!(EPERM, "a thread of the same process");
        }
        self.may_inspect(&target)?;
        if target.is_dying() || target.group().is_dead() {
            bail!(EPERM, "the task has ended");
        }
        target.link(self, seize.unwrap_or_default(), seize.is_some())?;
        if seize.is_none() {
            // A full queue does not refuse a standard signal.
            target.send_signal(SigInfo::new(Signal::STOP, SI_KERNEL))?;
        }
        if target.group().lock().stop.is_some() {
            // One that is stopped with its process shows itself to its tracer now.
            target.notice_signals();
        }
        Ok(())
    }

    /// Lets all tracees go: this thread ends.
    pub(crate) fn release_tracees(&self) {
        if self.group().tracees.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mine: Vec<Arc<Task>> = self.pids().tree().tasks().filter(|t| self.traces(t)).cloned().collect();
        for tracee in mine {
            let kill = tracee.tracing.has(Options::EXITKILL);
            tracee.unlink(None);
            if kill {
                tracee.group().begin_exit(ExitStatus::Signaled { signal: Signal::KILL, core: false });
            }
            tracee.let_go_of_dead();
        }
    }

    /// Whether it is traced by a process that is not its parent.
    pub(crate) fn is_traced_by_stranger(&self, tree: &Tree) -> bool {
        let tracer = self.tracing.lock().link.as_ref().and_then(|l| l.tracer_group.upgrade());
        tracer.is_some_and(|t| t.tgid != tree.parent_of(self.tgid()))
    }

    /// Tells the tracer that its tracee has ended.
    pub(crate) fn tell_tracer_of_end(&self, status: ExitStatus) {
        let tracer = self.tracing.lock().link.as_ref().and_then(|l| l.tracer_group.upgrade());
        let Some(tracer) = tracer else { return };
        if tracer.handlers().get(Signal::CHLD).handler != SIG_IGN {
            let (code, value) = status.cld();
            // Standard signals are never refused.
            let _ = tracer.send_signal(SigInfo::child(code, self.tid(), self.cred().uid, value));
        }
        tracer.child_queue.notify(PollEvents::IN);
    }

    /// What a tracer's wait or end leaves of a tracee that has ended: a thread is gone, a process is its parent's to wait for.
    pub(super) fn let_go_of_dead(&self) {
        let dead_thread = self.tracing.lock().dead.take().is_some();
        let mut tree = self.pids().tree();
        if dead_thread && !self.is_leader() {
            tree.remove_task(self.tid());
            return;
        }
        let zombie = tree.process(self.tgid()).and_then(|p| p.zombie).filter(|_| self.is_leader());
        if let Some(status) = zombie {
            crate::task::exit::notify_parent_of_exit(&mut tree, self.group(), status);
        }
    }
}

impl CurrentTask {
    /// The event that a clone of this kind is to the tracer, if it has asked for it (`ptrace_event_enabled`).
    pub(crate) fn clone_event(&self, vfork: bool, exit_signal: i32) -> Option<Event> {
        if !self.task.tracing.active() {
            return None;
        }
        let (event, option) = if vfork {
            (Event::Vfork, Options::TRACEVFORK)
        } else if exit_signal == libc::SIGCHLD {
            (Event::Fork, Options::TRACEFORK)
        } else {
            (Event::Clone, Options::TRACECLONE)
        };
        self.task.tracing.has(option).then_some(event)
    }

    /// The child of a vfork(2) has given the memory back.
    pub(crate) fn trace_vfork_done(&mut self, child: i32) {
        if self.task.tracing.active() && self.task.tracing.has(Options::TRACEVFORKDONE) {
            self.trace_event(Event::VforkDone, u64::from(child.unsigned_abs()));
        }
    }

    /// A child is traced like its parent from its first instruction on, before which it stops.
    pub(crate) fn trace_child(&self, child: &Arc<Task>) {
        let found = self.task.tracing.lock().link.as_ref().and_then(|l| Some((l.tracer.upgrade()?, l.options, l.seized)));
        let Some((tracer, options, seized)) = found else { return };
        if child.link(&tracer, options, seized).is_err() {
            return;
        }
        if seized {
            child.tracing.trap.store(true, Ordering::SeqCst);
            child.notice_signals();
        } else {
            // Nobody else knows the child yet, so that its queue is empty.
            let _ = child.send_signal(SigInfo::new(Signal::STOP, SI_KERNEL));
        }
    }
}
