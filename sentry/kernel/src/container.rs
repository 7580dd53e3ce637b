//! Containers and the namespaces that they see.
//!
//! A sandbox holds one container or the containers of one pod. A process belongs to the container that it, or the forbear that was
//! started from outside, was started in; nothing moves it (there it is what a control group is in Linux). What a process sees of the
//! others is decided by the container's namespaces, any of which containers may share: [`PidNamespace`], [`UtsNamespace`],
//! [`IpcNamespace`]. Mounts belong to a container alone. The network is the sandbox's.
//!
//! Pid namespaces lie side by side: each is a pid table of its own, and no process is in two. So a process has one number, and whoever
//! asks for a number asks its own table: there is nothing to translate, and nothing to find in another container's.

use crate::Kernel;
use crate::limits::{self, Ledger};
use crate::task::tree::Tree;
use crate::task::{ExitStatus, Freezer, ProcessGroup, Task, TaskInfo, ThreadGroup, Usage, Waker};
use crate::vfs::{Attachments, Namespace, SuperBlock};
use abi::poll::PollEvents;
use abi::signal::Signal;
use std::collections::HashSet;
use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};
use std::time::{Duration, Instant};
use sync::{Mutex, MutexGuard, Rank, WaitQueue};

/// How long the end of a container waits for its processes to end.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// The number of a namespace after the first ones, which have Linux's numbers.
fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(4_026_532_000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Processes that see each other, and their numbers (pid_namespaces(7)).
pub struct PidNamespace {
    /// As `/proc/PID/ns/pid` shows it.
    pub number: u64,
    tree: Mutex<Tree>,
}

impl PidNamespace {
    fn new(number: u64) -> Arc<PidNamespace> {
        Arc::new(PidNamespace { number, tree: Mutex::new(Rank::TaskTree, Tree::default()) })
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

    /// Whether its init has ended: nobody can join it.
    pub fn has_ended(&self) -> bool {
        let tree = self.tree();
        tree.last_pid() > 0 && tree.process(1).is_none_or(|init| init.zombie.is_some())
    }

    /// The id that was given out last (`/proc/loadavg`).
    pub fn last_pid(&self) -> i32 {
        self.tree().last_pid()
    }
}

/// Names that uname(2) tells and sethostname(2) changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UtsNames {
    /// `nodename`
    pub nodename: Vec<u8>,
    /// `domainname`
    pub domainname: Vec<u8>,
}

/// Who shares those names (uts_namespaces(7)).
pub struct UtsNamespace {
    /// As `/proc/PID/ns/uts` shows it.
    pub number: u64,
    names: Mutex<UtsNames>,
}

impl UtsNamespace {
    /// The names now.
    pub fn names(&self) -> UtsNames {
        self.names.lock().clone()
    }

    /// sethostname(2).
    pub fn set_nodename(&self, name: Vec<u8>) {
        self.names.lock().nodename = name;
    }

    /// setdomainname(2).
    pub fn set_domainname(&self, name: Vec<u8>) {
        self.names.lock().domainname = name;
    }
}

/// Who shares System V objects and POSIX message queues (ipc_namespaces(7)).
pub struct IpcNamespace {
    /// As `/proc/PID/ns/ipc` shows it.
    pub number: u64,
    /// The tables, one value of each type.
    pub attachments: Attachments,
}

/// Namespaces that a new container shares with another one; of the others it gets its own.
#[derive(Default)]
pub struct Shared {
    /// Processes.
    pub pid: Option<Arc<PidNamespace>>,
    /// Names.
    pub uts: Option<Arc<UtsNamespace>>,
    /// System V IPC and message queues.
    pub ipc: Option<Arc<IpcNamespace>>,
}

/// What a container may use; `None`: as much as there is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Microseconds of processor time, and in which period.
    pub cpu: Option<(u64, u64)>,
    /// Processes and threads.
    pub tasks: Option<u64>,
}

/// What the configuration of a container says of it as a whole.
#[derive(Clone, Debug, Default)]
pub struct ContainerConfig {
    /// Its name outside, for the log.
    pub id: String,
    /// `uname -n`, where it has names of its own; empty: the default.
    pub hostname: Vec<u8>,
    /// The NIS domain name, likewise.
    pub domainname: Vec<u8>,
    /// Its limits at first.
    pub limits: Limits,
    /// Every call is logged.
    pub strace: bool,
}

/// A container.
pub struct Container {
    kernel: Arc<Kernel>,
    /// What its configuration says.
    pub config: ContainerConfig,
    /// What it may use now.
    limits: Mutex<Limits>,
    /// The processes that its processes see.
    pub pids: Arc<PidNamespace>,
    /// The names that they see.
    pub uts: Arc<UtsNamespace>,
    /// The System V objects that they see.
    pub ipc: Arc<IpcNamespace>,
    /// File systems that were mounted for it.
    file_systems: Mutex<Vec<Weak<SuperBlock>>>,
    /// What it uses of its limits, as far as the sentry keeps them.
    ledger: Mutex<Ledger>,
    /// Processes that were killed because it had too much memory.
    oom_kills: AtomicU64,
    /// How often it had to wait for processor time, since when (0: it does not), and for how long in all, in nanoseconds.
    throttles: [AtomicU64; 3],
    /// Whether its tasks are held.
    pub freezer: Freezer,
    /// State of upper crates (terminals, …), one value of each type.
    pub attachments: Attachments,
    /// Numbers of its mount and cgroup namespace.
    own_numbers: [u64; 2],
    /// Tasks that it has, zombies included.
    tasks: AtomicUsize,
    /// Processor time of its processes that were reaped.
    reaped: Mutex<Usage>,
    /// It ends: no process is made any more.
    closed: AtomicBool,
    /// Nothing is left of it.
    gone: AtomicBool,
    /// Notified when nothing is left of it (IN), and when one of its processes was killed for want of memory (PRI).
    gone_queue: WaitQueue,
}

impl Container {
    /// A container without processes.
    pub fn new(kernel: &Arc<Kernel>, config: ContainerConfig, shared: Shared) -> Arc<Container> {
        let first = kernel.is_first_container();
        let number = |kind: Namespace| if first { kind.first_number() } else { next_number() };
        let or_default = |name: &[u8], default: &[u8]| if name.is_empty() { default.to_vec() } else { name.to_vec() };
        let names = UtsNames { nodename: or_default(&config.hostname, b"caisson"), domainname: or_default(&config.domainname, b"(none)") };
        let pids = shared.pid.unwrap_or_else(|| PidNamespace::new(number(Namespace::Pid)));
        let uts =
            shared.uts.unwrap_or_else(|| Arc::new(UtsNamespace { number: number(Namespace::Uts), names: Mutex::new(Rank::Leaf, names) }));
        let ipc =
            shared.ipc.unwrap_or_else(|| Arc::new(IpcNamespace { number: number(Namespace::Ipc), attachments: Attachments::default() }));
        let container = Arc::new(Container {
            kernel: kernel.clone(),
            limits: Mutex::new(Rank::Leaf, config.limits),
            config,
            pids,
            uts,
            ipc,
            file_systems: Mutex::new(Rank::Leaf, Vec::new()),
            ledger: Mutex::new(Rank::Leaf, Ledger::default()),
            oom_kills: AtomicU64::new(0),
            throttles: Default::default(),
            freezer: Freezer::default(),
            attachments: Attachments::default(),
            own_numbers: [number(Namespace::Mnt), number(Namespace::Cgroup)],
            tasks: AtomicUsize::new(0),
            reaped: Mutex::new(Rank::Leaf, Usage::default()),
            closed: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            gone_queue: WaitQueue::new(),
        });
        kernel.add_container(&container);
        if !first {
            limits::keep(kernel);
        }
        container
    }

    /// The sandbox.
    pub fn kernel(&self) -> &Arc<Kernel> {
        &self.kernel
    }

    /// The number of its namespace of this kind.
    pub fn namespace_number(&self, kind: Namespace) -> u64 {
        match kind {
            Namespace::Pid => self.pids.number,
            Namespace::Uts => self.uts.number,
            Namespace::Ipc => self.ipc.number,
            Namespace::Mnt => self.own_numbers[0],
            Namespace::Cgroup => self.own_numbers[1],
            // One for the whole sandbox.
            Namespace::Net | Namespace::Time | Namespace::User => kind.first_number(),
        }
    }

    /// Whether the sandbox was made for it.
    pub fn is_first(&self) -> bool {
        self.namespace_number(Namespace::Mnt) == Namespace::Mnt.first_number()
    }

    /// Its processes, zombies included.
    pub fn processes(&self) -> Vec<Arc<ThreadGroup>> {
        let mut all = self.pids.processes();
        all.retain(|group| self.holds(group));
        all
    }

    fn holds(&self, group: &ThreadGroup) -> bool {
        std::ptr::eq(&**group.container(), self)
    }

    /// How many tasks it has, zombies included.
    pub fn task_count(&self) -> usize {
        self.tasks.load(Ordering::Relaxed)
    }

    /// What it may use now.
    pub fn limits(&self) -> Limits {
        *self.limits.lock()
    }

    /// It may use so much from now on. As when a cpuset changes, the CPUs that its tasks have asked for are forgotten when others are shown.
    pub fn set_limits(&self, limits: Limits) {
        let before = std::mem::replace(&mut *self.limits.lock(), limits);
        if !self.is_first() {
            limits::keep(&self.kernel);
        }
        if before.cpu == limits.cpu {
            return;
        }
        let affinity = TaskInfo::default().affinity;
        for task in self.processes().iter().flat_map(|group| group.threads()) {
            task.info().affinity = affinity;
        }
    }

    /// Whether it may have one more task.
    pub(crate) fn has_room(&self) -> bool {
        let own = self.limits().tasks.is_none_or(|limit| (self.task_count() as u64) < limit);
        own && self.kernel.has_room()
    }

    /// A task has been entered, or taken out.
    pub(crate) fn count_task(&self, entered: bool) {
        let add = |count: &AtomicUsize| if entered { count.fetch_add(1, Ordering::Relaxed) } else { count.fetch_sub(1, Ordering::Relaxed) };
        add(&self.tasks);
        add(self.kernel.tasks());
    }

    /// A process has been reaped that had used so much.
    pub(crate) fn count_reaped(&self, usage: Usage) {
        let mut reaped = self.reaped.lock();
        *reaped = reaped.plus(usage);
    }

    /// Processor time of all its processes until now, those that have ended included.
    pub fn usage(&self) -> Usage {
        let reaped = *self.reaped.lock();
        self.processes().iter().fold(reaped, |sum, group| sum.plus(group.usage()))
    }

    /// Bytes of memory that it may use: its limit, or else the sandbox's.
    pub fn memory_total(&self) -> u64 {
        let total = self.kernel.config.memory;
        self.limits().memory.map_or(total, |limit| limit.min(total))
    }

    /// Bytes of application memory that it uses. Alone it uses all that is used; beside others, what its processes have mapped, and the files
    /// of its file systems in memory.
    pub fn memory_used(&self) -> u64 {
        if self.kernel.container_count() < 2 {
            return self.kernel.memory.used_bytes();
        }
        let file_systems: Vec<Arc<SuperBlock>> = self.file_systems.lock().iter().filter_map(Weak::upgrade).collect();
        let in_files: u64 = file_systems.iter().map(|sb| sb.ops.memory()).sum();
        let apart = file_systems.iter().map(|sb| sb.dev).collect();
        let mut seen = HashSet::new();
        let mut parts = Vec::new();
        for mm in self.processes().iter().flat_map(|group| group.threads()).filter_map(|task| task.try_mm()) {
            if seen.insert(Arc::as_ptr(&mm) as usize) {
                mm.add_parts(&apart, &mut parts);
            }
        }
        in_files + self.kernel.memory.resident_of_all(parts)
    }

    /// A file system was mounted for it: the memory of its files is the container's.
    pub fn add_file_system(&self, sb: &Arc<SuperBlock>) {
        let mut all = self.file_systems.lock();
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(sb));
    }

    pub(crate) fn ledger(&self) -> Ledger {
        *self.ledger.lock()
    }

    pub(crate) fn set_ledger(&self, ledger: Ledger) {
        *self.ledger.lock() = ledger;
    }

    pub(crate) fn count_oom_kill(&self) {
        self.oom_kills.fetch_add(1, Ordering::SeqCst);
        self.gone_queue.notify(PollEvents::PRI);
    }

    /// How many processes were killed because it had more memory than it may.
    pub fn oom_kills(&self) -> u64 {
        self.oom_kills.load(Ordering::SeqCst)
    }

    /// Waits until there are more of these than so many, or nothing is left of the container; how many there are. Called by no task.
    pub fn wait_oom_kill(&self, seen: u64) -> u64 {
        let waker = Arc::new(Waker::default());
        let _registration = self.gone_queue.register(PollEvents::IN | PollEvents::PRI, waker.clone());
        while self.oom_kills() <= seen && !self.gone.load(Ordering::SeqCst) {
            waker.park(None);
        }
        self.oom_kills()
    }

    /// It begins to wait for processor time, or has done so.
    pub(crate) fn count_throttle(&self, begins: bool) {
        let [count, since, total] = &self.throttles;
        let now = host::time::monotonic_ns();
        if begins {
            count.fetch_add(1, Ordering::Relaxed);
            since.store(now, Ordering::Relaxed);
        } else {
            total.fetch_add(now.saturating_sub(since.swap(0, Ordering::Relaxed)), Ordering::Relaxed);
        }
    }

    /// How often it had to wait for processor time, and how long in all, in nanoseconds.
    pub fn throttled(&self) -> (u64, u64) {
        let [count, _, total] = &self.throttles;
        (count.load(Ordering::Relaxed), total.load(Ordering::Relaxed))
    }

    /// Whether it ends.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// No process is made from here on. Whoever makes one asks while the tree is locked: so all that there ever will be are then in the
    /// tree.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Ends every process of the container, waits for their ends, and forgets them. Called by no task.
    pub fn end(&self) {
        self.close();
        let status = ExitStatus::Signaled { signal: Signal::KILL, core: false };
        for group in self.processes() {
            group.begin_exit(status);
        }
        let waker = Arc::new(Waker::default());
        let deadline = Instant::now() + LAST_WAIT;
        while let Some(group) = self.processes().into_iter().find(|group| !group.is_dead()) {
            let _registration = group.exit_queue.register(PollEvents::READABLE, waker.clone());
            if !group.is_dead() {
                waker.park(Some(deadline));
            }
            if Instant::now() >= deadline {
                tracing::warn!("processes are left at the end of container {}", self.config.id);
                break;
            }
        }
        let mut tree = self.pids.tree();
        for group in tree.groups().into_iter().filter(|group| self.holds(group) && group.is_dead()) {
            tree.remove_process(group.tgid);
        }
        drop(tree);
        self.kernel.remove_container(self);
        self.gone.store(true, Ordering::SeqCst);
        self.gone_queue.notify(PollEvents::IN);
    }

    /// Waits until nothing is left of it. Called by no task.
    pub fn wait_gone(&self) {
        let waker = Arc::new(Waker::default());
        let _registration = self.gone_queue.register(PollEvents::IN, waker.clone());
        while !self.gone.load(Ordering::SeqCst) {
            waker.park(None);
        }
    }
}

impl std::fmt::Debug for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Container({})", self.config.id)
    }
}
