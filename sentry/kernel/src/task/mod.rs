//! Tasks: threads of the application, and what they share.
//!
//! * [`Task`] – one guest thread; [`CurrentTask`] – the same with its registers, as the sentry thread that runs it has it.
//! * [`ThreadGroup`] – a process; [`ProcessGroup`], [`Session`] – job control; `tree` – the pid table and who is whose parent.
//! * [`FsContext`] – root, working directory and umask.
//! * `run` – the loop of a task thread; `clone`, `exec`, `exit`, `wait` – the life of a process.

mod clone;
mod cpu_time;
pub mod creds;
mod current;
mod exec;
mod exec_cred;
pub(crate) mod exit;
mod freeze;
mod fs_context;
mod ids;
mod pidfd;
mod process_group;
mod rlimits;
mod run;
mod task_state;
mod thread_group;
mod threads;
pub mod tree;
mod wait;

pub use clone::CloneRequest;
pub(crate) use cpu_time::{CpuShares, CpuTime};
pub use current::{CurrentTask, RestartBlock, SyscallDispatcher, blank_regs, current, set_current};
pub use exec::ExecRequest;
pub use freeze::Freezer;
pub use fs_context::FsContext;
pub use pidfd::{Pidfd, open as open_pidfd};
pub use process_group::{ControllingTerminal, ProcessGroup, Session};
pub use rlimits::Rlimits;
pub use task_state::{RunState, TaskInfo, Waker};
pub use thread_group::{ExitStatus, GroupState, ThreadGroup, Usage};
pub use wait::{WaitOptions, WaitResult, WaitWho};

use crate::container::{Container, PidNamespace};
use crate::ptrace::Tracing;
use crate::signal::TaskSignals;
use crate::{Kernel, cred::Credentials, mm::Mm, vfs::FdTable};
use abi::task::Rlimit;
use abi::{Restart, Result, poll::PollEvents};
use platform::Interrupt;
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering},
};
use std::time::Instant;
use sync::{ExclusiveWaiter, Mutex, Rank, Registration, RwLock, WaitQueue};

/// A thread (`struct task_struct`).
pub struct Task {
    kernel: Arc<Kernel>,
    tid: AtomicI32,
    group: Arc<ThreadGroup>,
    mm: Mutex<Option<Arc<Mm>>>,
    files: Mutex<Option<Arc<FdTable>>>,
    fs: Mutex<Arc<FsContext>>,
    cred: RwLock<Arc<Credentials>>,
    /// Whose tasks it counts among.
    counted_uid: AtomicU32,
    signals: TaskSignals,
    waker: Arc<Waker>,
    /// Interrupts the application, once the task thread has made its context.
    interrupt: OnceLock<Arc<dyn Interrupt>>,
    /// The application is running, or about to.
    in_application: AtomicBool,
    /// This thread is ending (alone or with its process).
    dying: AtomicBool,
    /// It has filters of calls.
    filtered: AtomicBool,
    run_state: AtomicU8,
    clock: Arc<CpuTime>,
    info: Mutex<TaskInfo>,
    /// Asked to end alone with this status (exit(2)).
    leave_status: Mutex<Option<ExitStatus>>,
    /// Whom to tell when it gives its memory up (vfork(2)).
    vfork_done: Mutex<Option<Arc<clone::VforkDone>>>,
    /// Who traces it, and where it has stopped for that.
    pub(crate) tracing: Tracing,
    /// Head of the robust futex list, an address (set_robust_list(2)).
    pub robust_list: AtomicU64,
}

impl Task {
    /// The sandbox.
    pub fn kernel(&self) -> &Arc<Kernel> {
        &self.kernel
    }
    /// The container it belongs to.
    pub fn container(&self) -> &Arc<Container> {
        self.group.container()
    }
    /// The processes that it sees, itself among them.
    pub fn pids(&self) -> &Arc<PidNamespace> {
        &self.group.container().pids
    }
    /// The thread id.
    pub fn tid(&self) -> i32 {
        self.tid.load(Ordering::Relaxed)
    }
    pub(crate) fn set_tid(&self, tid: i32) {
        self.tid.store(tid, Ordering::Relaxed);
    }
    /// The process id.
    pub fn tgid(&self) -> i32 {
        self.group.tgid
    }
    /// Its process.
    pub fn group(&self) -> &Arc<ThreadGroup> {
        &self.group
    }
    /// Whether it is its process's leader.
    pub fn is_leader(&self) -> bool {
        self.tid() == self.tgid()
    }
    /// Its memory; for a task that has ended, none of which anything can be read.
    pub fn mm(&self) -> Arc<Mm> {
        self.mm.lock().clone().unwrap_or_else(|| Mm::none(&self.kernel.memory, &self.kernel.platform))
    }
    /// Its memory, `None` once it has ended.
    pub fn try_mm(&self) -> Option<Arc<Mm>> {
        self.mm.lock().clone()
    }
    /// Its descriptors; of a task that has ended, an empty table.
    pub fn files(&self) -> Arc<FdTable> {
        self.files.lock().clone().unwrap_or_default()
    }
    /// Gives it another table of descriptors: unshare(2), close_range(2), execve(2).
    pub fn set_files(&self, files: Arc<FdTable>) {
        let old = self.files.lock().replace(files);
        drop(old);
    }
    /// Root, working directory, umask.
    pub fn fs(&self) -> Arc<FsContext> {
        self.fs.lock().clone()
    }
    /// Gives it a context of its own: unshare(2).
    pub fn set_fs(&self, fs: Arc<FsContext>) {
        let old = std::mem::replace(&mut *self.fs.lock(), fs);
        drop(old);
    }
    /// The mode bits that new files do not get.
    pub fn umask(&self) -> u32 {
        // Two locks of one rank: one after the other.
        self.fs().umask()
    }
    /// Its credentials now.
    pub fn cred(&self) -> Arc<Credentials> {
        self.cred.read().clone()
    }
    /// A resource limit of its process. Takes `libc`'s constants.
    pub fn rlimit(&self, resource: libc::__rlimit_resource_t) -> Rlimit {
        self.group.rlimit(resource)
    }
    /// The name of the thread (`comm`), at most 15 bytes.
    pub fn comm(&self) -> Vec<u8> {
        self.info.lock().comm.clone()
    }
    /// Small things that calls and /proc read and write.
    pub fn info(&self) -> sync::MutexGuard<'_, TaskInfo> {
        self.info.lock()
    }
    /// Its state as /proc/PID/stat shows it.
    pub fn state(&self) -> RunState {
        RunState::from_raw(self.run_state.load(Ordering::Relaxed))
    }
    /// CPU time until now.
    pub fn usage(&self) -> Usage {
        if let Some(mm) = self.try_mm() {
            mm.settle_cpu();
        }
        self.clock.usage()
    }
    /// The same, where the time of its [address space](Mm::settle_cpu) has just been shared out.
    pub(crate) fn settled_usage(&self) -> Usage {
        self.clock.usage()
    }

    pub(crate) fn signals(&self) -> &TaskSignals {
        &self.signals
    }

    /// Whether this thread is ending.
    pub fn is_dying(&self) -> bool {
        self.dying.load(Ordering::SeqCst)
    }

    /// Whether its calls are filtered.
    pub(crate) fn is_filtered(&self) -> bool {
        self.filtered.load(Ordering::Relaxed)
    }

    pub(crate) fn mark_filtered(&self, on: bool) {
        self.filtered.store(on, Ordering::Relaxed);
    }

    pub(crate) fn counted_uid(&self) -> u32 {
        self.counted_uid.load(Ordering::Relaxed)
    }

    pub(crate) fn set_counted_uid(&self, uid: u32) -> u32 {
        self.counted_uid.swap(uid, Ordering::Relaxed)
    }

    /// What wakes the task out of a wait: for code that keeps its own queues (futexes, epoll).
    pub fn waker(&self) -> &Arc<Waker> {
        &self.waker
    }

    /// Takes the task out of a wait or out of the application, so that it looks again.
    pub(crate) fn kick(&self) {
        self.waker.unpark();
        if self.in_application.load(Ordering::SeqCst)
            && let Some(i) = self.interrupt.get()
        {
            i.interrupt();
        }
    }

    /// Parks the task thread until it is woken or `deadline` has come; shows it as sleeping meanwhile. May return without cause.
    pub fn park(&self, deadline: Option<Instant>) {
        crate::signal::async_io::send_due();
        let before = self.run_state.swap(RunState::Sleeping as u8, Ordering::Relaxed);
        self.clock.count_switch();
        self.waker.park(deadline);
        self.run_state.store(before, Ordering::Relaxed);
    }

    /// As [`park`](Self::park), for a task that is shown as stopped.
    pub(crate) fn park_stopped(&self) {
        self.clock.count_switch();
        self.waker.park(None);
    }

    pub(crate) fn set_state(&self, state: RunState) {
        self.run_state.store(state as u8, Ordering::Relaxed);
    }

    /// Blocks the current task until `ready` gives a value: registers on the queues first, then asks, then parks.
    /// `Ok(None)` at the deadline; [`abi::Restart::Sys`] if a signal or kill interrupts. No lock may be held.
    pub fn wait_on<T>(
        &self,
        queues: &[(&WaitQueue, PollEvents)],
        deadline: Option<Instant>,
        ready: impl FnMut() -> Option<T>,
    ) -> Result<Option<T>> {
        self.wait_until(queues, deadline, ready, Task::signal_pending)
    }

    /// As [`wait_on`](Self::wait_on) of one queue, for something that only one can take: of the tasks that wait so, an event wakes one.
    pub fn wait_exclusively<T>(
        &self,
        (queue, events): (&WaitQueue, PollEvents),
        deadline: Option<Instant>,
        mut ready: impl FnMut() -> Option<T>,
    ) -> Result<Option<T>> {
        if let Some(v) = ready() {
            return Ok(Some(v));
        }
        let waiter = ExclusiveWaiter::new(self.waker.clone());
        let registration = queue.register_waiter(events, waiter.clone());
        let look = || {
            waiter.look();
            ready()
        };
        let result = self.park_until(deadline, look, Task::signal_pending);
        drop(registration);
        // Woken, maybe, by something that came after what was taken, or that was not taken at all.
        if waiter.look() {
            queue.pass_on(events);
        }
        result
    }

    /// As [`wait_on`](Self::wait_on), but only a kill interrupts (Linux's `TASK_KILLABLE`).
    pub fn wait_killable<T>(
        &self,
        queues: &[(&WaitQueue, PollEvents)],
        deadline: Option<Instant>,
        ready: impl FnMut() -> Option<T>,
    ) -> Result<Option<T>> {
        self.wait_until(queues, deadline, ready, Task::fatal_signal_pending)
    }

    fn wait_until<T>(
        &self,
        queues: &[(&WaitQueue, PollEvents)],
        deadline: Option<Instant>,
        mut ready: impl FnMut() -> Option<T>,
        interrupted: impl Fn(&Task) -> bool,
    ) -> Result<Option<T>> {
        if let Some(v) = ready() {
            return Ok(Some(v));
        }
        let _registrations: Vec<Registration> = queues.iter().map(|(q, m)| q.register(*m, self.waker.clone())).collect();
        self.park_until(deadline, ready, interrupted)
    }

    /// Asks and parks, in turn.
    fn park_until<T>(
        &self,
        deadline: Option<Instant>,
        mut ready: impl FnMut() -> Option<T>,
        interrupted: impl Fn(&Task) -> bool,
    ) -> Result<Option<T>> {
        loop {
            if let Some(v) = ready() {
                return Ok(Some(v));
            }
            if interrupted(self) {
                return Err(Restart::Sys.into());
            }
            if deadline.is_some_and(|d| Instant::now() >= d) {
                return Ok(None);
            }
            self.park(deadline);
        }
    }
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Task({})", self.tid())
    }
}

/// What a new task is made of.
pub(crate) struct NewTask {
    pub tid: i32,
    pub group: Arc<ThreadGroup>,
    pub mm: Arc<Mm>,
    pub files: Arc<FdTable>,
    pub fs: Arc<FsContext>,
    pub cred: Arc<Credentials>,
    pub mask: abi::signal::SigSet,
    pub info: TaskInfo,
}

impl Task {
    /// A task that is not yet entered anywhere.
    pub(crate) fn new(kernel: &Arc<Kernel>, new: NewTask) -> Arc<Task> {
        let clock = Arc::default();
        new.mm.join_cpu(&clock);
        Arc::new(Task {
            kernel: kernel.clone(),
            tid: AtomicI32::new(new.tid),
            group: new.group,
            mm: Mutex::new(Rank::TaskState, Some(new.mm)),
            files: Mutex::new(Rank::TaskState, Some(new.files)),
            fs: Mutex::new(Rank::TaskState, new.fs),
            counted_uid: AtomicU32::new(new.cred.uid),
            cred: RwLock::new(Rank::TaskState, new.cred),
            signals: TaskSignals::new(new.mask),
            waker: Arc::new(Waker::default()),
            interrupt: OnceLock::new(),
            in_application: AtomicBool::new(false),
            dying: AtomicBool::new(false),
            filtered: AtomicBool::new(new.info.seccomp.mode() != 0),
            run_state: AtomicU8::new(RunState::Running as u8),
            clock,
            info: Mutex::new(Rank::TaskState, new.info),
            leave_status: Mutex::new(Rank::Leaf, None),
            vfork_done: Mutex::new(Rank::Leaf, None),
            tracing: Tracing::default(),
            robust_list: AtomicU64::new(0),
        })
    }
}
