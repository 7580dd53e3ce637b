//! The sandbox as a whole.

use crate::container::Container;
use crate::futex::FutexTable;
use crate::mm::MemoryPool;
use crate::task::{SyscallDispatcher, ThreadGroup};
use crate::time::{Timer, TimerQueue, Vdso};
use crate::vfs::{Attachments, FsType, Vfs};
use platform::Platform;
use std::sync::{
    Arc, OnceLock, Weak,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};
use sync::{Mutex, Rank};

/// What the boot decides about a sandbox.
#[derive(Clone, Debug)]
pub struct KernelConfig {
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
        KernelConfig { tasks_max: 4096, memory: host::process::machine().total_memory, steady_counter: false }
    }
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
    /// Timers of every kind; one thread serves them.
    pub timers: Arc<TimerQueue>,
    /// Tells the time to whoever has it mapped.
    pub vdso: Vdso,
    /// Futexes.
    pub futexes: FutexTable,
    /// State of upper crates (abstract socket names, …), one value of each type.
    pub attachments: Attachments,
    containers: Mutex<Vec<Weak<Container>>>,
    /// There has been one.
    had_containers: AtomicBool,
    /// Tasks of all containers, zombies included.
    tasks: AtomicUsize,
    dispatcher: OnceLock<Arc<dyn SyscallDispatcher>>,
    /// Forks since boot (`processes` of /proc/stat).
    pub forks: AtomicU64,
    /// `CLOCK_BOOTTIME` when the sandbox began, in nanoseconds.
    pub boot_ns: u64,
}

impl Kernel {
    /// A sandbox without containers. Register file systems and the [dispatcher](Self::set_dispatcher), then make a [`Container`] and
    /// its [first process](Container::new_init).
    pub fn new(platform: Arc<dyn Platform>, memory: Arc<MemoryPool>, config: KernelConfig) -> abi::Result<Arc<Kernel>> {
        let timers = TimerQueue::start()?;
        give_memory_back(&memory, &timers);
        let vdso = Vdso::new(&memory, config.steady_counter)?;
        Ok(Arc::new(Kernel {
            platform,
            memory,
            vdso,
            vfs: Vfs::default(),
            config,
            timers,
            futexes: FutexTable::default(),
            attachments: Attachments::default(),
            containers: Mutex::new(Rank::Leaf, Vec::new()),
            had_containers: AtomicBool::new(false),
            tasks: AtomicUsize::new(0),
            dispatcher: OnceLock::new(),
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

    /// The containers that have not ended.
    pub fn containers(&self) -> Vec<Arc<Container>> {
        self.containers.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// How many containers have not ended.
    pub fn container_count(&self) -> usize {
        self.containers.lock().len()
    }

    /// Whether none has been made yet.
    pub(crate) fn is_first_container(&self) -> bool {
        !self.had_containers.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn add_container(&self, container: &Arc<Container>) {
        self.containers.lock().push(Arc::downgrade(container));
    }

    pub(crate) fn remove_container(&self, container: &Container) {
        self.containers.lock().retain(|other| !std::ptr::eq(other.as_ptr(), container));
    }

    /// All processes of all containers, zombies included.
    pub fn processes(&self) -> Vec<Arc<ThreadGroup>> {
        self.containers().iter().flat_map(|container| container.processes()).collect()
    }

    /// How many tasks (threads) there are, zombies included.
    pub fn task_count(&self) -> usize {
        self.tasks.load(Ordering::Relaxed)
    }

    pub(crate) fn tasks(&self) -> &AtomicUsize {
        &self.tasks
    }

    /// Whether there may be one more task.
    pub(crate) fn has_room(&self) -> bool {
        self.task_count() < self.config.tasks_max
    }

    /// Nanoseconds since the host booted: what `CLOCK_BOOTTIME` tells, so that the two never disagree.
    pub fn uptime_ns(&self) -> u64 {
        host::time::boottime_ns()
    }

    /// Counts a fork for /proc/stat.
    pub(crate) fn count_fork(&self) {
        self.forks.fetch_add(1, Ordering::Relaxed);
    }
}
