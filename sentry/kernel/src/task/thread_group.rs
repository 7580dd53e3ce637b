//! [`ThreadGroup`]: a process (`struct signal_struct`).

use super::{ProcessGroup, Rlimits, Task};
use crate::Kernel;
use crate::container::{Container, PidNamespace};
use crate::mm::MemLimits;
use crate::signal::{GroupStop, PendingQueue, SigHandlers, WaitEvent};
use crate::time::ProcessTimers;
use abi::signal::Signal;
use abi::task::Rlimit;
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering},
};
use sync::{Mutex, MutexGuard, Rank, WaitQueue};

/// How a process or thread ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// exit(2) with this code.
    Exited(u8),
    /// Killed by this signal. No core is ever written, so `core` stays false; the field keeps the encoding complete.
    #[allow(missing_docs)]
    Signaled { signal: Signal, core: bool },
}

impl ExitStatus {
    /// As wait(2) reports it.
    #[must_use]
    pub fn wait_status(self) -> i32 {
        match self {
            ExitStatus::Exited(code) => i32::from(code) << 8,
            ExitStatus::Signaled { signal, core } => i32::from(signal.number()) | if core { 0x80 } else { 0 },
        }
    }

    /// `si_code` and `si_status` of SIGCHLD and waitid(2).
    #[must_use]
    pub fn cld(self) -> (i32, i32) {
        match self {
            ExitStatus::Exited(code) => (libc::CLD_EXITED, code.into()),
            ExitStatus::Signaled { signal, core: false } => (libc::CLD_KILLED, signal.number().into()),
            ExitStatus::Signaled { signal, core: true } => (libc::CLD_DUMPED, signal.number().into()),
        }
    }
}

/// What all threads of a process share, its identity apart. Locked with [`ThreadGroup::lock`] (Linux's `siglock`).
#[derive(Default)]
pub struct GroupState {
    /// Threads that have not ended, the leader first while it lives. A zombie leader is not among them.
    pub threads: Vec<Arc<Task>>,
    /// Signals for the process as a whole.
    pub shared: PendingQueue,
    /// Queue entries of all threads, which RLIMIT_SIGPENDING limits.
    pub queued: usize,
    /// The process is ending with this status: every thread exits as soon as it looks.
    pub exit: Option<ExitStatus>,
    /// A thread executes a program: the others end, it becomes the leader.
    pub exec: Option<i32>,
    /// A stop signal's work.
    pub stop: Option<GroupStop>,
    /// Threads that have stopped, of the [stop](Self::stop) in progress.
    pub stopped_threads: usize,
    /// The number of the last stop.
    pub stop_generation: u64,
    /// What wait4(2) with WUNTRACED or WCONTINUED has still to report.
    pub wait_event: Option<WaitEvent>,
    /// `CLD_*` that the next thread to look tells the parent.
    pub notify_parent: Option<i32>,
    /// The sandbox's init: signals without a handler do not touch it.
    pub unkillable: bool,
}

impl GroupState {
    /// Whether the last thread has stopped just now: the caller then tells the parent.
    pub(crate) fn finish_stop(&mut self) -> bool {
        let all = self.stopped_threads >= self.threads.len() && !self.threads.is_empty();
        match &mut self.stop {
            Some(stop) if all && !stop.complete => {
                stop.complete = true;
                self.wait_event = Some(WaitEvent::Stopped(stop.signal));
                true
            }
            _ => false,
        }
    }

    /// Begins the end of the process, unless that has begun: every thread is told.
    pub fn begin_exit(&mut self, status: ExitStatus) {
        if self.exit.is_none() {
            self.exit = Some(status);
            self.stop = None;
            for t in &self.threads {
                t.notice_signals();
            }
        }
    }
}

/// CPU time and page faults, as getrusage(2) tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Nanoseconds in the application.
    pub user_ns: u64,
    /// Nanoseconds in the sentry for it.
    pub system_ns: u64,
    /// Times a thread blocked.
    pub voluntary_switches: u64,
    /// Largest resident set, in bytes.
    pub max_rss: u64,
}

impl Usage {
    /// Both together.
    #[must_use]
    pub fn plus(self, o: Usage) -> Usage {
        Usage {
            user_ns: self.user_ns.saturating_add(o.user_ns),
            system_ns: self.system_ns.saturating_add(o.system_ns),
            voluntary_switches: self.voluntary_switches.saturating_add(o.voluntary_switches),
            max_rss: self.max_rss.max(o.max_rss),
        }
    }
}

/// A process: threads with one process id.
pub struct ThreadGroup {
    container: Arc<Container>,
    /// A number that no other process of the sandbox ever has, whatever pid namespace it is in.
    pub(crate) serial: u64,
    /// The process id.
    pub tgid: i32,
    state: Mutex<GroupState>,
    exiting: AtomicBool,
    handlers: Mutex<Arc<SigHandlers>>,
    signal_queue: WaitQueue,
    /// Notified when a child changes state: wait4(2).
    pub child_queue: WaitQueue,
    /// Notified when this process has ended: pidfds.
    pub exit_queue: WaitQueue,
    /// Notified when one of its threads has ended (execve waits for its siblings).
    pub thread_queue: WaitQueue,
    /// The signal its parent gets when it ends; 0: none.
    pub exit_signal: AtomicI32,
    rlimits: Mutex<Rlimits>,
    /// The largest resident set of the address spaces that it has given up, in bytes.
    pub(super) max_rss: AtomicU64,
    /// Of threads that have ended.
    pub(super) dead_usage: Mutex<Usage>,
    /// Of children that were waited for.
    pub(super) children_usage: Mutex<Usage>,
    /// `CLOCK_BOOTTIME` when it began, in nanoseconds.
    pub start_ns: u64,
    /// POSIX timers and interval timers.
    pub timers: ProcessTimers,
    /// `PR_SET_CHILD_SUBREAPER`.
    pub child_subreaper: AtomicBool,
    /// `oom_score_adj` of /proc/PID.
    pub oom_score_adj: AtomicI32,
    /// `PR_SET_DUMPABLE`: 0, 1 or 2.
    pub dumpable: AtomicI32,
    /// How many tasks its threads trace.
    pub(crate) tracees: AtomicUsize,
    /// Has executed a program since it was forked: setpgid(2) by its parent fails.
    pub did_exec: AtomicBool,
}

impl ThreadGroup {
    pub(crate) fn new(
        container: &Arc<Container>,
        tgid: i32,
        handlers: Arc<SigHandlers>,
        rlimits: Rlimits,
        exit_signal: i32,
    ) -> Arc<ThreadGroup> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(ThreadGroup {
            container: container.clone(),
            serial: NEXT.fetch_add(1, Ordering::Relaxed),
            tgid,
            state: Mutex::new(Rank::Signal, GroupState::default()),
            exiting: AtomicBool::new(false),
            handlers: Mutex::new(Rank::Leaf, handlers),
            signal_queue: WaitQueue::new(),
            child_queue: WaitQueue::new(),
            exit_queue: WaitQueue::new(),
            thread_queue: WaitQueue::new(),
            exit_signal: AtomicI32::new(exit_signal),
            rlimits: Mutex::new(Rank::Leaf, rlimits),
            max_rss: AtomicU64::new(0),
            dead_usage: Mutex::new(Rank::Leaf, Usage::default()),
            children_usage: Mutex::new(Rank::Leaf, Usage::default()),
            start_ns: host::time::boottime_ns(),
            timers: ProcessTimers::default(),
            child_subreaper: AtomicBool::new(false),
            oom_score_adj: AtomicI32::new(0),
            dumpable: AtomicI32::new(1),
            tracees: AtomicUsize::new(0),
            did_exec: AtomicBool::new(false),
        })
    }

    /// The sandbox.
    pub fn kernel(&self) -> &Arc<Kernel> {
        self.container.kernel()
    }

    /// The container it belongs to.
    pub fn container(&self) -> &Arc<Container> {
        &self.container
    }

    /// The processes that it sees, itself among them.
    pub fn pids(&self) -> &Arc<PidNamespace> {
        &self.container.pids
    }

    /// Takes the signal lock.
    pub(crate) fn lock(&self) -> MutexGuard<'_, GroupState> {
        self.state.lock()
    }

    /// Whether signals without a handler leave this process alone, as they do the init of a PID namespace.
    pub fn set_unkillable(&self, unkillable: bool) {
        self.lock().unkillable = unkillable;
    }

    /// Whether the whole process is ending.
    pub fn is_exiting(&self) -> bool {
        self.lock().exit.is_some()
    }

    /// The status the process ends or has ended with.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.lock().exit
    }

    /// Ends the process: exit_group(2), or a fatal signal. Returns at once; the threads end as soon as they look.
    pub fn begin_exit(&self, status: ExitStatus) {
        self.lock().begin_exit(status);
    }

    /// The actions of signals.
    pub fn handlers(&self) -> Arc<SigHandlers> {
        self.handlers.lock().clone()
    }

    /// Replaces the actions: execve(2) unshares them.
    pub(crate) fn set_handlers(&self, handlers: Arc<SigHandlers>) {
        *self.handlers.lock() = handlers;
    }

    /// Notified whenever a signal is queued for the process or one of its threads: signalfd(2).
    pub fn signal_queue(&self) -> &WaitQueue {
        &self.signal_queue
    }

    /// Threads that have not ended.
    pub fn threads(&self) -> Vec<Arc<Task>> {
        self.lock().threads.clone()
    }

    /// How many threads have not ended.
    pub fn thread_count(&self) -> usize {
        self.lock().threads.len()
    }

    /// The leading thread, which may be a zombie while others run. `None` once the process is reaped.
    pub fn leader(&self) -> Option<Arc<Task>> {
        self.pids().tree().task(self.tgid)
    }

    /// Its process group.
    pub fn process_group(&self) -> Arc<ProcessGroup> {
        self.pids().tree().group_of(self.tgid)
    }

    /// The parent's process id; 0 for init (and for a process that is reaped).
    pub fn parent_pid(&self) -> i32 {
        self.pids().tree().parent_of(self.tgid)
    }

    /// The parent process.
    pub fn parent(&self) -> Option<Arc<ThreadGroup>> {
        let tree = self.pids().tree();
        tree.group(tree.parent_of(self.tgid))
    }

    /// Process ids of its children, zombies included.
    pub fn children(&self) -> Vec<i32> {
        self.pids().tree().children_of(self.tgid)
    }

    /// Whether it has ended and waits to be reaped (or is reaped).
    pub fn is_dead(&self) -> bool {
        self.exiting.load(Ordering::Acquire)
    }

    pub(super) fn mark_dead(&self) {
        self.exiting.store(true, Ordering::Release);
    }

    /// A resource limit; unlimited if there is no such resource. Takes `libc`'s constants.
    pub fn rlimit(&self, resource: libc::__rlimit_resource_t) -> Rlimit {
        self.rlimits.lock().get(resource)
    }

    /// All resource limits.
    pub fn rlimits(&self) -> Rlimits {
        self.rlimits.lock().clone()
    }

    /// Replaces a resource limit, all checks made.
    pub fn set_rlimit(&self, resource: libc::__rlimit_resource_t, limit: Rlimit) {
        self.rlimits.lock().set(resource, limit);
    }

    /// The limits that its memory is held to.
    pub fn memory_limits(&self) -> MemLimits {
        let l = self.rlimits.lock();
        MemLimits {
            address_space: l.get(libc::RLIMIT_AS).cur,
            data: l.get(libc::RLIMIT_DATA).cur,
            stack: l.get(libc::RLIMIT_STACK).cur,
            memlock: l.get(libc::RLIMIT_MEMLOCK).cur,
        }
    }

    /// Tells its memory of changed limits.
    pub fn tell_memory_limits(&self) {
        if let Some(mm) = self.leader().and_then(|t| t.try_mm()) {
            mm.set_limits(self.memory_limits());
        }
    }

    /// Usage of all its threads, ended ones included.
    pub fn usage(&self) -> Usage {
        let (mut sum, threads) = {
            let state = self.lock();
            (*self.dead_usage.lock(), state.threads.clone())
        };
        let mut settled = None;
        for thread in threads {
            let mm = thread.try_mm().map(|mm| (mm.id(), mm));
            if let Some((id, mm)) = mm
                && settled != Some(id)
            {
                mm.settle_cpu();
                settled = Some(id);
            }
            sum = sum.plus(thread.settled_usage());
        }
        sum.max_rss = sum.max_rss.max(self.max_rss.load(Ordering::Relaxed));
        sum
    }

    /// Usage of its children that were waited for.
    pub fn children_usage(&self) -> Usage {
        *self.children_usage.lock()
    }
}

impl std::fmt::Debug for ThreadGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ThreadGroup({})", self.tgid)
    }
}
