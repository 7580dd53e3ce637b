//! The end of threads and processes: what is given up, who inherits the children, who is told.

use super::tree::Tree;
use super::{ExitStatus, GroupState, RunState, Task, ThreadGroup};
use crate::signal::{SIG_DFL, SIG_IGN};
use abi::poll::PollEvents;
use abi::signal::{SI_KERNEL, SigInfo, Signal};
use std::sync::{Arc, atomic::Ordering};
use std::time::{Duration, Instant};

const SA_NOCLDSTOP: u64 = 1;
const SA_NOCLDWAIT: u64 = 2;
/// How long the end of a pid namespace waits for its processes to end.
const LAST_WAIT: Duration = Duration::from_secs(10);

impl Task {
    /// Asks this thread alone to end with a status: exit(2).
    pub(super) fn leave(&self, status: ExitStatus) {
        *self.leave_status.lock() = Some(status);
        self.dying.store(true, Ordering::SeqCst);
        self.notice_signals();
    }

    /// The status this thread has been asked to end with.
    pub(crate) fn leaving(&self) -> Option<ExitStatus> {
        *self.leave_status.lock()
    }

    /// Ends the thread: everything it holds is given up, and whoever waits is told. The last thing a task thread does.
    pub(crate) fn end(self: &Arc<Self>, status: ExitStatus) {
        self.dying.store(true, Ordering::SeqCst);
        self.release_tracees();
        crate::futex::exit_robust_list(self);
        // What of it is left in the host is cleared away when everybody has been told.
        let _space = self.release_memory();
        let files = self.files.lock().take();
        if let Some(files) = files
            && Arc::strong_count(&files) == 1
        {
            for file in files.remove_all() {
                // Errors of flushing have nobody to hear them.
                let _ = crate::vfs::close_file(self, &files, file);
            }
        }
        crate::signal::async_io::send_due();
        let last = self.group().thread_count() == 1;
        if last {
            self.group().timers.clear();
            crate::ipc::sem::exit_process(self.group());
            crate::ipc::shm::exit_process(self);
        }
        self.exit_notify(status);
    }

    /// Gives up the memory: execve(2) and exit (`mm_release`, `exit_mm`). What is returned is the platform's side of it, in which nothing runs any more if
    /// nobody else has the memory, and whose end takes the host a moment.
    pub(crate) fn release_memory(self: &Arc<Self>) -> Option<Arc<dyn platform::AddressSpace>> {
        let clear = std::mem::take(&mut self.info().clear_child_tid);
        let mm = self.mm.lock().take();
        let space = mm.as_ref().map(|mm| mm.address_space().clone());
        if let Some(mm) = mm {
            mm.leave_cpu(&self.clock);
            if Arc::strong_count(&mm) == 1 {
                self.group().max_rss.fetch_max(mm.resident_roughly(), Ordering::Relaxed);
            }
            // pthread_join waits for this word; nobody does where the memory ends with the thread.
            if clear != 0 && Arc::strong_count(&mm) > 1 {
                crate::futex::clear_tid(self, &mm, clear);
            }
            drop(mm);
        }
        self.release_vfork();
        space
    }

    fn exit_notify(self: &Arc<Self>, status: ExitStatus) {
        let group = self.group().clone();
        if self.tgid() == 1 && group.thread_count() == 1 {
            self.end_namespace();
        }
        let mut tree = self.pids().tree();
        let (last, final_status, stopped) = {
            let mut state = group.lock();
            self.leave_group(&mut state, status)
        };
        self.mark_zombie();
        adopt_thread_children(&mut tree, self, &group);
        let traced_thread = !self.is_leader() && self.tracing.active();
        if traced_thread {
            // Its tracer is told, and takes it out of the tree.
            self.tracing.lock().dead = Some(status);
        } else if !self.is_leader() {
            tree.remove_task(self.tid());
            self.set_state(RunState::Dead);
        }
        if traced_thread {
            self.tell_tracer_of_end(status);
        }
        if !last {
            drop(tree);
            group.thread_queue.notify(PollEvents::IN);
            if stopped {
                group.notify_parent_of_stop(libc::CLD_STOPPED);
            }
            return;
        }
        let leads = tree.process(group.tgid).is_some_and(|p| p.process_group.session.id == group.tgid);
        if leads {
            drop(tree);
            hang_up(&group);
            tree = self.pids().tree();
        }
        orphan_groups_at_exit(&tree, &group);
        adopt_children(&mut tree, &group);
        group.mark_dead();
        if let Some(p) = tree.process_mut(group.tgid) {
            p.zombie = Some(final_status);
        }
        match tree.task(group.tgid).filter(|leader| leader.is_traced_by_stranger(&tree)) {
            // Only when its tracer has heard of it, it is its parent's to wait for.
            Some(leader) => leader.tell_tracer_of_end(final_status),
            None => notify_parent_of_exit(&mut tree, &group, final_status),
        }
        drop(tree);
        group.thread_queue.notify(PollEvents::IN);
        group.exit_queue.notify(PollEvents::IN | PollEvents::RDNORM);
    }

    /// Takes the thread out of its group. Tells whether it was the last, what the process ends with then, and whether its leaving
    /// completes a stop.
    fn leave_group(&self, state: &mut GroupState, status: ExitStatus) -> (bool, ExitStatus, bool) {
        state.threads.retain(|t| !std::ptr::eq(&**t, self));
        let dropped = self.own_queued();
        state.queued = state.queued.saturating_sub(dropped);
        self.clock.end();
        let usage = self.usage();
        let mut dead = self.group().dead_usage.lock();
        *dead = dead.plus(usage);
        drop(dead);
        let last = state.threads.is_empty();
        let pending = state.shared.set();
        if !last && !pending.is_empty() {
            crate::signal::send::retarget(self, state, pending.minus(self.signals().mask()));
        }
        // Without exit_group(2) the last thread's status is the process's.
        let final_status = state.exit.unwrap_or(status);
        if last {
            state.exit = Some(final_status);
        }
        (last, final_status, !last && state.finish_stop())
    }

    /// The init of a pid namespace ends: nobody there may outlive it. Kills everyone and waits for them, then its own end can be told.
    fn end_namespace(&self) {
        let pids = self.pids();
        self.kernel().containers().iter().filter(|other| Arc::ptr_eq(&other.pids, pids)).for_each(|other| other.close());
        for group in pids.processes() {
            if group.tgid != self.tgid() {
                group.begin_exit(ExitStatus::Signaled { signal: Signal::KILL, core: false });
            }
        }
        let deadline = Instant::now() + LAST_WAIT;
        let living = || pids.processes().iter().any(|g| g.tgid != self.tgid() && !g.is_dead());
        while living() {
            if Instant::now() > deadline {
                tracing::warn!("processes are left at the end of a pid namespace");
                return;
            }
            // Their ends notify init, whose children they become; the short wait covers those of others.
            self.park(Some(Instant::now() + Duration::from_millis(2)));
        }
    }
}

/// Children of a thread pass to a sibling; those that asked for it hear of the thread's end.
fn adopt_thread_children(tree: &mut Tree, task: &Task, group: &ThreadGroup) {
    let heir = group.lock().threads.first().map(|t| t.tid());
    for child in tree.children_of(group.tgid) {
        let Some(p) = tree.process_mut(child) else { continue };
        if p.parent_tid != task.tid() {
            continue;
        }
        if let Some(heir) = heir {
            p.parent_tid = heir;
        }
        for t in p.group.threads() {
            let sig = Signal::new(t.info().parent_death_signal.into());
            if let Some(sig) = sig {
                // A full queue loses it, as in Linux.
                let _ = p.group.send_signal(SigInfo::new(sig, SI_KERNEL));
            }
        }
    }
}

/// The children of an ended process pass to the nearest subreaper, else to init; those that had ended already are reaped there.
fn adopt_children(tree: &mut Tree, group: &ThreadGroup) {
    let children = tree.children_of(group.tgid);
    let heir = find_reaper(tree, group);
    if heir == group.tgid {
        // Init itself: its namespace ends, nobody is left to take them.
        return;
    }
    for child in children {
        tree.reparent(child, heir, heir);
        let Some(p) = tree.process(child) else { continue };
        p.group.exit_signal.store(libc::SIGCHLD, Ordering::Relaxed);
        if let Some(status) = p.zombie {
            let child_group = p.group.clone();
            notify_parent_of_exit(tree, &child_group, status);
        }
    }
}

fn find_reaper(tree: &Tree, group: &ThreadGroup) -> i32 {
    let mut at = tree.parent_of(group.tgid);
    while at > 1 {
        let Some(p) = tree.process(at) else { break };
        if p.group.child_subreaper.load(Ordering::Relaxed) && p.zombie.is_none() && !p.group.is_dead() {
            return at;
        }
        at = p.parent;
    }
    1
}

/// Process groups that the end of this process orphans, if any of their members is stopped, get SIGHUP and SIGCONT (POSIX _Exit,
/// Linux's `kill_orphaned_pgrp`).
fn orphan_groups_at_exit(tree: &Tree, group: &ThreadGroup) {
    let Some(own) = tree.process(group.tgid) else { return };
    let (own_pgid, session) = (own.process_group.id, own.process_group.session.id);
    // The group it was in, if its own parent was what kept that from being orphaned.
    let parent_elsewhere =
        tree.process(own.parent).is_some_and(|p| p.process_group.id != own_pgid && p.process_group.session.id == session);
    if parent_elsewhere && tree.is_orphaned(own_pgid, Some(group.tgid)) {
        wake_orphans(tree, own_pgid);
    }
    // Groups of its children, which it kept from being orphaned.
    let mut pgids: Vec<i32> = own
        .children
        .iter()
        .filter_map(|c| tree.process(*c))
        .filter(|c| c.process_group.id != own_pgid && c.process_group.session.id == session)
        .map(|c| c.process_group.id)
        .collect();
    pgids.sort_unstable();
    pgids.dedup();
    for pgid in pgids {
        if tree.is_orphaned_without(pgid, group.tgid) {
            wake_orphans(tree, pgid);
        }
    }
}

fn wake_orphans(tree: &Tree, pgid: i32) {
    let stopped = tree.members(pgid).any(|g| g.lock().stop.is_some_and(|s| s.complete));
    if stopped {
        for group in tree.members(pgid) {
            for sig in [Signal::HUP, Signal::CONT] {
                // Standard signals are never refused.
                let _ = group.send_signal(SigInfo::new(sig, SI_KERNEL));
            }
        }
    }
}

/// A session leader ends: its terminal is hung up and belongs to nobody (`disassociate_ctty`).
fn hang_up(group: &ThreadGroup) {
    let session = group.process_group().session.clone();
    if let Some(terminal) = session.set_terminal(None) {
        let foreground = terminal.foreground();
        terminal.hangup();
        if let Some(foreground) = foreground {
            foreground.send_signal(SigInfo::new(Signal::HUP, SI_KERNEL));
            foreground.send_signal(SigInfo::new(Signal::CONT, SI_KERNEL));
        }
    }
}

/// Tells the parent of the end; reaps at once where the parent does not want to be asked (`do_notify_parent`).
pub(crate) fn notify_parent_of_exit(tree: &mut Tree, group: &Arc<ThreadGroup>, status: ExitStatus) {
    let parent = tree.parent_of(group.tgid);
    let Some(parent_group) = tree.group(parent) else {
        // Started from outside, or init itself: nobody waits.
        return;
    };
    let exit_signal = group.exit_signal.load(Ordering::Relaxed);
    let mut reap = false;
    let mut send = Signal::new(u64::try_from(exit_signal).unwrap_or(0));
    if send == Some(Signal::CHLD) {
        let action = parent_group.handlers().get(Signal::CHLD);
        if action.handler == SIG_IGN || action.handler != SIG_DFL && action.flags & SA_NOCLDWAIT != 0 {
            reap = true;
        }
        if action.handler == SIG_DFL && action.flags & SA_NOCLDWAIT != 0 {
            reap = true;
        }
        if action.handler == SIG_IGN {
            send = None;
        }
    }
    if let Some(sig) = send {
        let uid = tree.task(group.tgid).map_or(0, |t| t.cred().uid);
        let (code, value) = status.cld();
        let mut info = SigInfo::child(code, group.tgid, uid, value);
        info.signo = sig.number().into();
        set_child_times(&mut info, group);
        // Standard signals are never refused; an odd exit signal may be, as in Linux.
        let _ = parent_group.send_signal(info);
    }
    if reap && let Some(gone) = tree.remove_process(group.tgid) {
        gone.group.leader_reaped();
    }
    parent_group.child_queue.notify(PollEvents::IN);
}

/// `si_utime` and `si_stime`, in clock ticks.
fn set_child_times(info: &mut SigInfo, group: &ThreadGroup) {
    let u = group.usage();
    let [_, _, utime, stime, ..] = &mut info.fields;
    *utime = u.user_ns / 10_000_000;
    *stime = u.system_ns / 10_000_000;
}

impl ThreadGroup {
    /// The last trace of the process is gone from the tree.
    pub(super) fn leader_reaped(&self) {
        self.exit_queue.notify(PollEvents::HUP);
    }

    /// Tells the parent that this process has stopped (`CLD_STOPPED`) or been continued (`CLD_CONTINUED`).
    pub(crate) fn notify_parent_of_stop(&self, code: i32) {
        let tree = self.pids().tree();
        let Some(parent) = tree.group(tree.parent_of(self.tgid)) else { return };
        let action = parent.handlers().get(Signal::CHLD);
        if action.handler != SIG_IGN && action.flags & SA_NOCLDSTOP == 0 {
            let status = match (code, self.lock().wait_event) {
                (libc::CLD_STOPPED, Some(crate::signal::WaitEvent::Stopped(s))) => s.number(),
                (libc::CLD_STOPPED, _) => Signal::STOP.number(),
                _ => Signal::CONT.number(),
            };
            let uid = tree.task(self.tgid).map_or(0, |t| t.cred().uid);
            let mut info = SigInfo::child(code, self.tgid, uid, status.into());
            set_child_times(&mut info, self);
            // Standard signals are never refused.
            let _ = parent.send_signal(info);
        }
        parent.child_queue.notify(PollEvents::IN);
    }
}
