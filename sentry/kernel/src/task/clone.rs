//! clone(2), clone3(2), fork(2), vfork(2).

use super::run::Start;
use super::{CurrentTask, ExitStatus, NewTask, Task, TaskInfo, ThreadGroup};
use crate::cred::CapSet;
use crate::signal::SigHandlers;
use crate::user::{UserAddr, UserRef};
use abi::signal::{Signal, StackT};
use abi::task::CloneFlags;
use abi::{Restart, Result, bail, poll::PollEvents};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use sync::WaitQueue;

/// Namespaces that no sandbox can have more than one of yet.
const NAMESPACES: CloneFlags = CloneFlags::NEWNS
    .union(CloneFlags::NEWCGROUP)
    .union(CloneFlags::NEWUTS)
    .union(CloneFlags::NEWIPC)
    .union(CloneFlags::NEWUSER)
    .union(CloneFlags::NEWPID)
    .union(CloneFlags::NEWNET)
    .union(CloneFlags::NEWTIME);

/// What a new task is to share and be told.
#[derive(Clone, Debug)]
pub struct CloneRequest {
    /// `CLONE_*`
    pub flags: CloneFlags,
    /// Signal for the parent when the child ends; 0: none.
    pub exit_signal: i32,
    /// Its stack pointer; 0: the parent's.
    pub stack: u64,
    /// `CLONE_SETTLS`
    pub tls: u64,
    /// `CLONE_PARENT_SETTID`
    pub parent_tid: UserAddr,
    /// `CLONE_CHILD_SETTID` and `CLONE_CHILD_CLEARTID`
    pub child_tid: UserAddr,
    /// `CLONE_PIDFD`
    pub pidfd: UserAddr,
    /// The id that it must get (`set_tid` of clone3(2)); 0: any.
    pub set_tid: i32,
}

/// Where a parent waits for its vfork(2) child to give the memory back.
#[derive(Default)]
pub(crate) struct VforkDone {
    done: AtomicBool,
    queue: WaitQueue,
}

impl VforkDone {
    fn complete(&self) {
        self.done.store(true, Ordering::SeqCst);
        self.queue.notify(PollEvents::IN);
    }
}

impl Task {
    /// The memory is given up: a parent in vfork(2) may go on.
    pub(super) fn release_vfork(&self) {
        let done = self.vfork_done.lock().take();
        if let Some(done) = done {
            done.complete();
        }
    }
}

impl CloneRequest {
    fn check(&self, t: &Task) -> Result {
        use CloneFlags as F;
        let f = self.flags;
        let has = |x| f.contains(x);
        if has(F::FS) && f.intersects(F::NEWNS | F::NEWUSER) {
            bail!(EINVAL, "a file system context cannot be shared with another namespace");
        }
        if has(F::THREAD) && !has(F::SIGHAND) || has(F::SIGHAND) && !has(F::VM) {
            bail!(EINVAL, "CLONE_THREAD needs CLONE_SIGHAND, which needs CLONE_VM");
        }
        if has(F::SIGHAND) && has(F::CLEAR_SIGHAND) {
            bail!(EINVAL, "handlers cannot be shared and cleared");
        }
        if has(F::PARENT) && t.group().lock().unkillable {
            bail!(EINVAL, "init has no parent to share");
        }
        if has(F::THREAD) && f.intersects(F::NEWUSER | F::NEWPID) {
            bail!(EINVAL, "threads share user and pid namespaces");
        }
        if has(F::PIDFD) && f.intersects(F::DETACHED | F::THREAD) {
            bail!(EINVAL, "no pidfd for a thread");
        }
        if has(F::INTO_CGROUP) {
            bail!(EOPNOTSUPP, "no control groups to clone into");
        }
        if f.intersects(NAMESPACES) {
            if !f.contains(F::NEWUSER) {
                t.cred().require(CapSet::SYS_ADMIN)?;
            }
            bail!(EINVAL, "no further namespaces: {f:?}");
        }
        Ok(())
    }
}

impl CurrentTask {
    /// Makes a new task; returns its id. The call is restarted where a signal is pending, so that the child cannot get it too.
    pub fn clone_task(&mut self, req: &CloneRequest) -> Result<i32> {
        req.check(&self.task)?;
        if self.signal_pending() {
            return Err(Restart::NoIntr.into());
        }
        let f = req.flags;
        let mm = if f.contains(CloneFlags::VM) {
            if !f.intersects(CloneFlags::VFORK | CloneFlags::THREAD) {
                self.mm().set_crowded();
            }
            self.context.prepare_sibling(self.mm().address_space()).map_err(|_| abi::error!(EAGAIN, "no host thread"))?;
            self.mm()
        } else {
            let mm = self.mm();
            let alone = self.group().thread_count() == 1 && !mm.is_crowded();
            mm.fork(&mut *self.context, alone)?
        };
        let files = if f.contains(CloneFlags::FILES) { self.files() } else { Arc::new(self.files().duplicate()) };
        let fs = if f.contains(CloneFlags::FS) { self.fs() } else { self.fs().duplicate() };
        let (child, vfork) = self.enter_child(req, mm, files, fs)?;
        let tid = child.tid();
        if let Err(e) = self.tell_parent(req, &child) {
            child.abandon();
            return Err(e);
        }
        let event = self.clone_event(f.contains(CloneFlags::VFORK), req.exit_signal).filter(|_| !f.contains(CloneFlags::UNTRACED));
        if event.is_some() || f.contains(CloneFlags::PTRACE) {
            self.trace_child(&child);
        }
        let start = Start {
            regs: self.child_regs(req),
            fp: Some(self.context.fp_state()),
            altstack: if f.contains(CloneFlags::VM) && !f.contains(CloneFlags::VFORK) { StackT::default() } else { self.altstack },
            child_settid: if f.contains(CloneFlags::CHILD_SETTID) { req.child_tid.0 } else { 0 },
            task: child.clone(),
        };
        if start.spawn().is_err() {
            child.abandon();
            bail!(EAGAIN, "no host thread");
        }
        self.kernel().count_fork();
        if let Some(event) = event {
            self.trace_event(event, u64::from(tid.unsigned_abs()));
        }
        if let Some(done) = vfork {
            self.wait_for_vfork(&done);
            self.trace_vfork_done(tid);
        }
        Ok(tid)
    }

    fn child_regs(&self, req: &CloneRequest) -> platform::UserRegs {
        let mut regs = self.regs;
        regs.rax = 0;
        regs.orig_rax = u64::MAX;
        if req.stack != 0 {
            regs.rsp = req.stack;
        }
        if req.flags.contains(CloneFlags::SETTLS) {
            regs.fs_base = req.tls;
        }
        regs
    }

    /// Waits until the child has executed a program or ended. A kill of the parent ends the wait.
    fn wait_for_vfork(&self, done: &VforkDone) {
        let ready = || done.done.load(Ordering::SeqCst).then_some(());
        // Interrupted only by a kill: then nobody is left to care.
        let _ = self.wait_killable(&[(&done.queue, PollEvents::IN)], None, ready);
    }

    /// Enters the child in the tree, not yet running.
    fn enter_child(
        &self,
        req: &CloneRequest,
        mm: Arc<crate::mm::Mm>,
        files: Arc<crate::vfs::FdTable>,
        fs: Arc<super::FsContext>,
    ) -> Result<(Arc<Task>, Option<Arc<VforkDone>>)> {
        let f = req.flags;
        let kernel = self.kernel();
        let cred = self.cred();
        let info = self.child_info(req);
        let mask = self.signal_mask();
        let mut tree = self.pids().tree();
        let limit = self.rlimit(libc::RLIMIT_NPROC).cur;
        let privileged = cred.uid == 0 || cred.capable(CapSet::SYS_RESOURCE) || cred.capable(CapSet::SYS_ADMIN);
        if tree.tasks_of_user(cred.uid) as u64 >= limit && !privileged {
            bail!(EAGAIN, "RLIMIT_NPROC");
        }
        if self.container().is_closed() {
            bail!(ENOMEM, "the container ends");
        }
        if !self.container().has_room() {
            bail!(EAGAIN, "container or sandbox have all the tasks they may have");
        }
        let tid = match req.set_tid {
            0 => tree.allocate_pid().ok_or(abi::error!(EAGAIN, "no free process id"))?,
            tid => {
                if !cred.capable(CapSet::SYS_ADMIN) && !cred.capable(CapSet::CHECKPOINT_RESTORE) {
                    bail!(EPERM, "set_tid");
                }
                if !tree.allocate_exact(tid) {
                    bail!(EEXIST, "process id is taken");
                }
                tid
            }
        };
        let new = |group| NewTask { tid, group, mm, files, fs, cred: cred.clone(), mask, info };
        let child = if f.contains(CloneFlags::THREAD) {
            let group = self.group().clone();
            let mut state = group.lock();
            if state.exit.is_some() || state.exec.is_some() {
                return Err(Restart::NoIntr.into());
            }
            let child = Task::new(kernel, new(group.clone()));
            state.threads.push(child.clone());
            child.recalc_locked(&state);
            child
        } else {
            let group = self.child_group(req, tid);
            let child = Task::new(kernel, new(group.clone()));
            group.lock().threads.push(child.clone());
            let (parent, parent_tid) = if f.contains(CloneFlags::PARENT) {
                tree.process(self.tgid()).map_or((1, 1), |p| (p.parent, p.parent_tid))
            } else {
                (self.tgid(), self.tid())
            };
            let process_group = tree.group_of(self.tgid());
            tree.add_process(group, parent, parent_tid, process_group);
            child
        };
        tree.add_task(child.clone());
        let vfork = f.contains(CloneFlags::VFORK).then(|| Arc::new(VforkDone::default()));
        *child.vfork_done.lock() = vfork.clone();
        Ok((child, vfork))
    }

    fn child_info(&self, req: &CloneRequest) -> TaskInfo {
        let mut info = self.info().clone();
        info.clear_child_tid = if req.flags.contains(CloneFlags::CHILD_CLEARTID) { req.child_tid.0 } else { 0 };
        if !req.flags.contains(CloneFlags::THREAD) {
            info.parent_death_signal = 0;
        }
        if info.reset_on_fork {
            info.reset_on_fork = false;
            if matches!(info.policy as i32, libc::SCHED_FIFO | libc::SCHED_RR) {
                info.policy = libc::SCHED_OTHER as u32;
                info.priority = 0;
            }
            info.nice = info.nice.max(0);
        }
        info
    }

    fn child_group(&self, req: &CloneRequest, tid: i32) -> Arc<ThreadGroup> {
        let f = req.flags;
        let own = self.group();
        let handlers = if f.contains(CloneFlags::SIGHAND) {
            own.handlers()
        } else {
            let copy: SigHandlers = own.handlers().duplicate();
            if f.contains(CloneFlags::CLEAR_SIGHAND) {
                copy.reset_caught();
            }
            Arc::new(copy)
        };
        let exit_signal = if f.contains(CloneFlags::PARENT) { own.exit_signal.load(Ordering::Relaxed) } else { req.exit_signal };
        let group = ThreadGroup::new(self.container(), tid, handlers, own.rlimits(), exit_signal);
        group.oom_score_adj.store(own.oom_score_adj.load(Ordering::Relaxed), Ordering::Relaxed);
        group.dumpable.store(own.dumpable.load(Ordering::Relaxed), Ordering::Relaxed);
        group
    }

    /// Writes the child's id, and a pidfd, where the parent asked for them.
    fn tell_parent(&self, req: &CloneRequest, child: &Arc<Task>) -> Result {
        if req.flags.contains(CloneFlags::PIDFD) {
            let file = super::pidfd::open(child.group())?;
            let limit = self.rlimit(libc::RLIMIT_NOFILE).cur;
            let fd = self.files().install(file, crate::vfs::Fd(0), limit, true)?;
            if let Err(e) = self.mm().write(UserRef::new(req.pidfd), &(fd.0 as i32)) {
                // Nobody knows of the descriptor yet.
                drop(self.files().remove(fd));
                return Err(e);
            }
        }
        if req.flags.contains(CloneFlags::PARENT_SETTID) {
            // As in Linux, an address that cannot be written is ignored.
            let _ = self.mm().write(UserRef::new(req.parent_tid), &child.tid());
        }
        Ok(())
    }
}

impl Task {
    /// Takes back a task that was entered and never ran, as if it had not been.
    pub(super) fn abandon(self: &Arc<Self>) {
        if !self.is_leader() {
            self.end(ExitStatus::Exited(0));
            return;
        }
        self.group().exit_signal.store(0, Ordering::Relaxed);
        self.end(ExitStatus::Signaled { signal: Signal::KILL, core: false });
        self.pids().tree().remove_process(self.tgid());
    }
}
