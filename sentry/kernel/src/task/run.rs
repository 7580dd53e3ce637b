//! The loop of a task thread: an enum of states, from the application to the sentry and back until the task ends.

use super::{CurrentTask, ExitStatus, FsContext, RestartBlock, Rlimits, RunState, Task, TaskInfo, ThreadGroup, tree::Tree};
use super::{NewTask, blank_regs};
use crate::seccomp::Verdict;
use crate::signal::{SigHandlers, TrapInfo, async_io};
use crate::{Container, Kernel, cred::Credentials, mm::Mm, vfs::FdTable};
use abi::mm::Prot;
use abi::signal::{SigInfo, SigSet, Signal, StackT};
use abi::{Errno, Error, Restart, Result, bail};
use platform::{Event, Fault, FpState, UserRegs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, atomic::Ordering};

/// What a task thread does next.
enum State {
    /// Run the application.
    Application,
    /// Carry out the call that the registers name.
    Syscall,
    /// Answer a fault.
    Fault(Fault),
    /// Deliver signals, then go back to the application; the interrupted call may have to be restarted.
    Return(Option<Restart>),
    /// End.
    Exit(ExitStatus),
}

/// What a task thread begins with.
pub(crate) struct Start {
    pub task: Arc<Task>,
    pub regs: UserRegs,
    /// `None`: the processor's initial state.
    pub fp: Option<FpState>,
    pub altstack: StackT,
    /// The new tid goes there in the task's own memory (CLONE_CHILD_SETTID); 0: nowhere.
    pub child_settid: u64,
}

impl Start {
    /// Starts the task thread. `EAGAIN` where the host has no more threads.
    pub fn spawn(self) -> Result<(), Errno> {
        super::threads::run(format!("task-{}", self.task.tid()), move || self.main())
    }

    fn main(self) {
        let task = self.task.clone();
        super::set_current(Some(task.clone()));
        if catch_unwind(AssertUnwindSafe(|| self.run())).is_err() {
            // The sentry's state may be inconsistent now: nothing of the sandbox may go on.
            tracing::error!("sentry panicked while running task {}: the sandbox is killed", task.tid());
            std::process::abort();
        }
        super::set_current(None);
    }

    fn run(self) {
        let mut context = match self.task.kernel().platform.new_context() {
            Ok(c) => c,
            Err(e) => {
                tracing::error!("no context for task {}: {e}", self.task.tid());
                self.task.end(ExitStatus::Signaled { signal: Signal::KILL, core: false });
                return;
            }
        };
        if let Some(fp) = &self.fp
            && let Err(e) = context.set_fp_state(fp)
        {
            tracing::warn!("extended state of task {} was refused: {e}", self.task.tid());
        }
        // Set once, here.
        let _ = self.task.interrupt.set(context.interrupter());
        if self.child_settid != 0 {
            // As in Linux, an address that cannot be written is the application's own affair.
            let at = crate::user::UserRef::new(crate::user::UserAddr(self.child_settid));
            let _ = self.task.mm().write(at, &self.task.tid());
        }
        let current = CurrentTask {
            task: self.task,
            regs: self.regs,
            context,
            restart: RestartBlock::None,
            altstack: self.altstack,
            saved_mask: None,
            trap: TrapInfo::default(),
            no_restart: false,
            stepping: false,
            published: None,
        };
        current.run_loop();
    }
}

impl CurrentTask {
    fn run_loop(mut self) {
        self.task.clock.begin();
        let mut state = State::Return(None);
        loop {
            state = match state {
                State::Application => {
                    self.hold();
                    self.run_application()
                }
                State::Syscall => self.run_syscall(),
                State::Fault(fault) => self.run_fault(fault),
                State::Return(restart) => match self.deliver_signals(restart) {
                    Ok(()) => State::Application,
                    Err(status) => State::Exit(status),
                },
                State::Exit(status) => {
                    self.trace_end(status);
                    let CurrentTask { task, context, .. } = self;
                    // The thread in the stub goes first: nothing may run there once the memory is given up.
                    drop(context);
                    task.end(status);
                    return;
                }
            };
        }
    }

    fn run_application(&mut self) -> State {
        self.publish();
        let task = &self.task;
        let mm = task.mm();
        if let Err(e) = mm.sync(&mut *self.context) {
            tracing::error!("task {}: the platform cannot map its memory: {e}", task.tid());
            return self.lost();
        }
        // A signal sent from here on interrupts the switch; one sent before is seen now.
        task.in_application.store(true, Ordering::SeqCst);
        if task.signal_pending() || self.held() {
            task.in_application.store(false, Ordering::SeqCst);
            return State::Return(None);
        }
        task.clock.enter_application();
        let event = self.context.switch(mm.address_space(), &mut self.regs);
        task.clock.leave_application();
        task.in_application.store(false, Ordering::SeqCst);
        platform::set_handing_over(event == Event::Syscall && mostly_waits(self.regs.orig_rax));
        match event {
            Event::Syscall => {
                if let Some(rip) = self.context.take_hot_call() {
                    mm.patch_call(rip, self.regs.orig_rax);
                }
                State::Syscall
            }
            Event::Fault(fault) => State::Fault(fault),
            Event::Interrupted => State::Return(None),
            Event::Lost => self.lost(),
        }
    }

    /// Tells the platform what it may answer itself, if that has changed: ids, which only the task itself can change.
    fn publish(&mut self) {
        if self.task.tracing.active() || self.task.is_filtered() {
            // A tracer, and filters, see every call.
            if self.published.take().is_some() {
                self.context.set_answers(None);
            }
            return;
        }
        let (cred, tid) = (self.task.cred(), self.task.tid());
        if self.published.as_ref().is_some_and(|(c, t)| Arc::ptr_eq(c, &cred) && *t == tid)
            || self.kernel().dispatcher().is_none_or(|d| d.must_see_all(&self.task))
        {
            return;
        }
        let id = i32::cast_unsigned;
        self.context.set_answers(Some(platform::Answers {
            pid: id(self.task.tgid()),
            tid: id(tid),
            uid: cred.uid,
            euid: cred.euid,
            gid: cred.gid,
            egid: cred.egid,
        }));
        self.published = Some((cred, tid));
    }

    /// The host has taken the thread away: as if the process had been killed.
    fn lost(&self) -> State {
        let status = ExitStatus::Signaled { signal: Signal::KILL, core: false };
        self.group().begin_exit(status);
        State::Exit(self.group().exit_status().unwrap_or(status))
    }

    fn run_syscall(&mut self) -> State {
        self.no_restart = false;
        match self.filter_call() {
            None => {}
            Some(Verdict::Return) => return State::Return(None),
            Some(Verdict::Exit(status)) => return State::Exit(status),
        }
        let Some(dispatcher) = self.kernel().dispatcher().cloned() else {
            self.regs.rax = Error::Errno(Errno::ENOSYS).errno().raw().wrapping_neg() as i64 as u64;
            return State::Return(None);
        };
        let traced = self.task.tracing.active();
        if traced && !self.trace_entry() {
            self.trace_exit_of_call(&mut None);
            return State::Return(None);
        }
        let result = dispatcher.dispatch(self);
        async_io::send_due();
        let mut interrupted = None;
        match result {
            Ok(value) => self.regs.rax = value,
            Err(Error::Errno(e)) => self.regs.rax = (-i64::from(e.raw())) as u64,
            Err(Error::Restart(how)) => interrupted = Some(how),
        }
        let eintr = matches!(result, Err(Error::Errno(Errno::EINTR)));
        if interrupted.is_none()
            && !eintr
            && let Some(mask) = self.saved_mask.take()
        {
            self.task.set_signal_mask(mask);
        }
        if self.no_restart {
            interrupted = None;
        }
        if traced {
            self.trace_exit_of_call(&mut interrupted);
        }
        State::Return(interrupted)
    }

    fn run_fault(&mut self, fault: Fault) -> State {
        // A general protection fault has no address; the host says SI_KERNEL then.
        if matches!(fault.signal, Signal::SEGV | Signal::BUS) && fault.code != abi::signal::SI_KERNEL {
            self.trap = TrapInfo { number: 14, error_code: error_code(&fault), cr2: fault.addr };
        } else {
            self.trap = TrapInfo { number: trap_number(fault.signal), error_code: 0, cr2: self.trap.cr2 };
        }
        if fault.signal == Signal::TRAP {
            self.end_step();
        }
        match self.task.mm().handle_fault(&fault) {
            Ok(()) => {}
            Err(signal) => {
                tracing::debug!(
                    "task {} faults at rip {:#x} rsp {:#x}: {fault:?}, so {signal:?}",
                    self.task.tid(),
                    self.regs.rip,
                    self.regs.rsp
                );
                self.task.force_signal(SigInfo::fault(signal.signal, signal.code, signal.addr));
            }
        }
        State::Return(None)
    }

    /// Ends the calling thread alone: exit(2). Does not return to the application.
    pub fn exit_thread(&mut self, code: u8) {
        self.task.leave(ExitStatus::Exited(code));
    }

    /// Ends the whole process: exit_group(2). Does not return to the application.
    pub fn exit_group(&mut self, code: u8) {
        self.group().begin_exit(ExitStatus::Exited(code));
    }
}

/// Whether a call is short, and likely to wait or to wake somebody whom the caller will wait for. Such calls may keep wake-ups back for a moment;
/// before all others everybody is awake.
fn mostly_waits(nr: u64) -> bool {
    matches!(
        nr as i64,
        libc::SYS_read
            | libc::SYS_write
            | libc::SYS_readv
            | libc::SYS_writev
            | libc::SYS_poll
            | libc::SYS_ppoll
            | libc::SYS_select
            | libc::SYS_pselect6
            | libc::SYS_epoll_wait
            | libc::SYS_epoll_pwait
            | libc::SYS_epoll_pwait2
            | libc::SYS_epoll_ctl
            | libc::SYS_sendto
            | libc::SYS_recvfrom
            | libc::SYS_sendmsg
            | libc::SYS_recvmsg
            | libc::SYS_futex
            | libc::SYS_wait4
            | libc::SYS_waitid
            | libc::SYS_nanosleep
            | libc::SYS_clock_nanosleep
            | libc::SYS_clock_gettime
            | libc::SYS_gettid
            | libc::SYS_getpid
            | libc::SYS_rt_sigprocmask
            | libc::SYS_rt_sigtimedwait
            | libc::SYS_rt_sigsuspend
            | libc::SYS_pause
    )
}

/// The processor's error code of a page fault in user mode.
fn error_code(fault: &Fault) -> u64 {
    let mut code = 4 | u64::from(fault.present);
    if fault.access.contains(Prot::WRITE) {
        code |= 2;
    }
    if fault.access.contains(Prot::EXEC) {
        code |= 16;
    }
    code
}

fn trap_number(signal: Signal) -> u64 {
    match signal {
        Signal::FPE => 0,
        Signal::TRAP => 3,
        Signal::ILL => 6,
        _ => 13,
    }
}

impl Container {
    /// Makes a process without a parent, in a session of its own, that does not run yet. The first one in a pid namespace is its init.
    pub fn new_init(
        self: &Arc<Self>,
        mm: Arc<Mm>,
        files: Arc<FdTable>,
        fs: Arc<FsContext>,
        cred: Credentials,
        rlimits: Rlimits,
        comm: Vec<u8>,
    ) -> Result<Arc<Task>> {
        let mut tree = self.pids.tree();
        if self.is_closed() {
            bail!(ENOMEM, "the container ends");
        }
        let Some(tid) = tree.allocate_pid() else { bail!(EAGAIN, "no free process id") };
        let group = ThreadGroup::new(self, tid, Arc::new(SigHandlers::default()), rlimits, libc::SIGCHLD);
        let info = TaskInfo { comm: truncate_comm(comm), ..TaskInfo::default() };
        let cred = Arc::new(cred);
        let task = Task::new(self.kernel(), NewTask { tid, group: group.clone(), mm, files, fs, cred, mask: SigSet::EMPTY, info });
        let process_group = Tree::new_session(&self.pids, tid);
        {
            let mut state = group.lock();
            state.threads.push(task.clone());
            state.unkillable = tid == 1;
        }
        // Whoever is started from outside has its parent there, as in a PID namespace that setns(2) has entered.
        tree.add_process(group, 0, 0, process_group);
        tree.add_task(task.clone());
        Ok(task)
    }
}

impl Kernel {
    /// Runs a task that [`new_init`](crate::Container::new_init) made.
    pub fn start_task(&self, task: &Arc<Task>, regs: UserRegs) -> Result {
        let start = Start { task: task.clone(), regs, fp: None, altstack: StackT::default(), child_settid: 0 };
        if let Err(e) = start.spawn() {
            task.end(ExitStatus::Signaled { signal: Signal::KILL, core: false });
            return Err(e.into());
        }
        Ok(())
    }
}

/// Cuts a name to the 15 bytes that `comm` has room for.
pub(crate) fn truncate_comm(mut name: Vec<u8>) -> Vec<u8> {
    name.retain(|&b| b != 0);
    name.truncate(15);
    name
}

/// Registers at a program's entry.
#[must_use]
pub fn entry_regs(ip: u64, sp: u64) -> UserRegs {
    UserRegs { rip: ip, rsp: sp, cs: 0x33, ss: 0x2b, eflags: 0x200, orig_rax: u64::MAX, ..blank_regs() }
}

impl Task {
    /// Marks the task as ended in /proc.
    pub(super) fn mark_zombie(&self) {
        self.set_state(RunState::Zombie);
    }
}
