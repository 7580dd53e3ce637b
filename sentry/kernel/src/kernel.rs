//! The sandbox as a whole.

use crate::futex::FutexTable;
use crate::mm::MemoryPool;
use crate::task::tree::Tree;
use crate::task::{ExitStatus, Freezer, ProcessGroup, SyscallDispatcher, Task, ThreadGroup};
use crate::time::{Timer, TimerQueue, Vdso};
use crate::vfs::{Attachments, FsType, Vfs};
use abi::poll::PollEvents;
use platform::Platform;
use std::sync::{
    Arc, OnceLock, Weak,
    atomic::{AtomicU64, Ordering},
};
use sync::{Mutex, MutexGuard, Rank, WaitQueue};

/// What the boot decides about a sandbox.
#[derive(Clone, Debug)]
pub struct KernelConfig {
    /// `uname -n`.
    pub hostname: Vec<u8>,
    /// The NIS domain name.
    pub domainname: Vec<u8>,
    /// The most tasks (threads) that may exist at a time: each costs the host a thread of the sentry and one of a stub, and a fork bomb
    /// must not reach the host's own limits.
    pub tasks_max: usize,
    /// Bytes of memory that the sandbox may use: the host's, or its limit.
    pub memory: u64,
    /// The host keeps time by the processor's time stamp counter: the vDSO may, too.
    pub steady_counter: bool,
}

impl Default for KernelConfig {
    fn default() -> Self {
        KernelConfig {
            hostname: b"caisson".to_vec(),
            domainname: b"(none)".to_vec(),
            tasks_max: 4096,
            memory: host::process::machine().total_memory,
            steady_counter: false,
        }
    }
}

/// Names that uname(2) tells and sethostname(2) changes. The one UTS namespace of the sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UtsNames {
    /// `nodename`
    pub nodename: Vec<u8>,
    /// `domainname`
    pub domainname: Vec<u8>,
}

/// `sysname` of uname(2).
pub const UTS_SYSNAME: &str = "Linux";
/// `release`: a long-term release recent enough for libraries to take their modern paths; `ENOSYS` tells them the rest.
pub const UTS_RELEASE: &str = "6.12.0-caisson";
/// `version`.
pub const UTS_VERSION: &str = "#1 SMP PREEMPT_DYNAMIC Caisson";
/// `machine`.
pub const UTS_MACHINE: &str = "x86_64";

/// Freed memory goes back to the host after so long, in nanoseconds, or after twice as long what may be used again soon.
const GIVE_BACK_NS: u64 = 400_000_000;

/// Sees to it that freed memory goes back to the host. Nothing is to be done while none is freed.
fn give_memory_back(memory: &Arc<MemoryPool>, timers: &Arc<TimerQueue>) {
    let pool = Arc::downgrade(memory);
    let timer = Arc::new_cyclic(|me: &Weak<Timer>| {
        let me = me.clone();
        Timer::new(timers, host::time::monotonic_ns, move |_| {
            if let (Some(pool), Some(timer)) = (pool.upgrade(), me.upgrade())
                && pool.give_back()
            {
                timer.set_after(Some(GIVE_BACK_NS), 0);
            }
        })
    });
    memory.when_freed(move || {
        timer.set_after(Some(GIVE_BACK_NS), 0);
    });
}

/// Everything of one sandbox, and the root of all guest-visible state.
pub struct Kernel {
    /// How application code runs.
    pub platform: Arc<dyn Platform>,
    /// The memory of applications and of files that live in memory.
    pub memory: Arc<MemoryPool>,
    /// File system types, devices, files without names.
    pub vfs: Vfs,
    /// What the boot decided.
    pub config: KernelConfig,
    /// Whether all tasks are held.
    pub freezer: Freezer,
    /// Timers of every kind; one thread serves them.
    pub timers: Arc<TimerQueue>,
    /// Tells the time to whoever has it mapped.
    pub vdso: Vdso,
    /// Futexes.
    pub futexes: FutexTable,
    /// State of upper crates (abstract socket names, …), one value of each type.
    pub attachments: Attachments,
    uts: Mutex<UtsNames>,
    tree: Mutex<Tree>,
    dispatcher: OnceLock<Arc<dyn SyscallDispatcher>>,
    exit: Mutex<Option<ExitStatus>>,
    exit_queue: WaitQueue,
    /// Forks since boot (`processes` of /proc/stat).
    pub forks: AtomicU64,
    /// `CLOCK_BOOTTIME` when the sandbox began, in nanoseconds.
    pub boot_ns: u64,
}

impl Kernel {
    /// A sandbox without tasks. Register file systems and the [dispatcher](Self::set_dispatcher), then start an
    /// [init](crate::task::InitArgs).
    pub fn new(platform: Arc<dyn Platform>, memory: Arc<MemoryPool>, config: KernelConfig) -> abi::Result<Arc<Kernel>> {
        let uts = UtsNames { nodename: config.hostname.clone(), domainname: config.domainname.clone() };
        let timers = TimerQueue::start()?;
        give_memory_back(&memory, &timers);
        let vdso = Vdso::new(&memory, config.steady_counter)?;
        Ok(Arc::new(Kernel {
            platform,
            memory,
            vdso,
            vfs: Vfs::default(),
            config,
            freezer: Freezer::default(),
            timers,
            futexes: FutexTable::default(),
            attachments: Attachments::default(),
            uts: Mutex::new(Rank::Leaf, uts),
            tree: Mutex::new(Rank::TaskTree, Tree::default()),
            dispatcher: OnceLock::new(),
            exit: Mutex::new(Rank::Leaf, None),
            exit_queue: WaitQueue::new(),
            forks: AtomicU64::new(0),
            boot_ns: host::time::boottime_ns(),
        }))
    }

    /// Makes a file system type known to mount(2).
    pub fn register_fs(&self, fs: Arc<dyn FsType>) {
        self.vfs.register_fs(fs);
    }

    /// Gives the system call table, once, before the first task runs.
    pub fn set_dispatcher(&self, dispatcher: Arc<dyn SyscallDispatcher>) {
        // A second table would be a mistake of the boot; the first stays.
        let _ = self.dispatcher.set(dispatcher);
    }

    /// The system call table.
    pub fn dispatcher(&self) -> Option<&Arc<dyn SyscallDispatcher>> {
        self.dispatcher.get()
    }

    /// The process tree and pid table (`tasklist_lock`).
    pub(crate) fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock()
    }

    /// The task with this thread id, zombies included.
    pub fn task(&self, tid: i32) -> Option<Arc<Task>> {
        self.tree().task(tid)
    }

    /// The process with this id, zombies included.
    pub fn process(&self, tgid: i32) -> Option<Arc<ThreadGroup>> {
        self.tree().group(tgid)
    }

    /// All processes in ascending order of their ids, zombies included.
    pub fn processes(&self) -> Vec<Arc<ThreadGroup>> {
        self.tree().groups()
    }

    /// The process group with this id.
    pub fn process_group(&self, pgid: i32) -> Option<Arc<ProcessGroup>> {
        self.tree().process_group(pgid)
    }

    /// How many tasks (threads) there are, zombies included.
    pub fn task_count(&self) -> usize {
        self.tree().task_count()
    }

    /// The id that was given out last (`/proc/loadavg`).
    pub fn last_pid(&self) -> i32 {
        self.tree().last_pid()
    }

    /// The names of uname(2) that can change.
    pub fn uts(&self) -> UtsNames {
        self.uts.lock().clone()
    }

    /// sethostname(2).
    pub fn set_nodename(&self, name: Vec<u8>) {
        self.uts.lock().nodename = name;
    }

    /// setdomainname(2).
    pub fn set_domainname(&self, name: Vec<u8>) {
        self.uts.lock().domainname = name;
    }

    /// How the sandbox ended: its init's status. `None` while it runs.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        *self.exit.lock()
    }

    /// Blocks the calling sentry thread (no task thread) until init has ended, and tells how.
    pub fn wait_exit(&self) -> ExitStatus {
        let waker = Arc::new(crate::task::Waker::default());
        let _registration = self.exit_queue.register(PollEvents::IN, waker.clone());
        loop {
            if let Some(status) = self.exit_status() {
                return status;
            }
            waker.park(None);
        }
    }

    /// Nanoseconds since the host booted: what `CLOCK_BOOTTIME` tells, so that the two never disagree.
    pub fn uptime_ns(&self) -> u64 {
        host::time::boottime_ns()
    }

    /// Where the end of the sandbox is notified.
    pub fn exit_queue(&self) -> &WaitQueue {
        &self.exit_queue
    }

    /// Records the end; only the first counts.
    pub(crate) fn set_exit_status(&self, status: ExitStatus) {
        self.exit.lock().get_or_insert(status);
        self.exit_queue.notify(PollEvents::IN);
    }

    /// Counts a fork for /proc/stat.
    pub(crate) fn count_fork(&self) {
        self.forks.fetch_add(1, Ordering::Relaxed);
    }
}
