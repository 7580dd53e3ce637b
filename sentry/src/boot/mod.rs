//! Booting: a kernel, its file systems, the tree of mounts, and the first process, all from the [`BootSpec`].
//!
//! This is the one place where the parts of the sentry, which know of each other through the kernel's traits only, are put
//! together. [`mounts`] makes the tree, [`process`] what the first process starts with.

mod mounts;
mod process;
mod settings;

use crate::{Failure, terminal::Terminal};
use abi::signal::{SI_KERNEL, SI_USER, SigInfo, Signal};
use control::{BootSpec, FailureKind, FdLayout, Network, Phase, Process, ProcessInfo};
use kernel::{
    Kernel, KernelConfig,
    mm::MemoryPool,
    seccomp::rules::Rules,
    signal::{DefaultAction, default_action},
    task::{ExitStatus, ThreadGroup, Usage},
    vfs::MountNamespace,
};
use process::Ready;
pub use process::Streams;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use sync::{Mutex, Rank};

/// A running sandbox.
pub struct Sandbox {
    kernel: Arc<Kernel>,
    /// Mounts know their tree weakly: it lives as long as this.
    namespace: Arc<MountNamespace>,
    /// The first process, until it is started or ended.
    first: Mutex<Option<Ready>>,
    init: Arc<ThreadGroup>,
    terminal: Option<Arc<Terminal>>,
    /// What every process may call.
    profile: Option<Arc<Rules>>,
}

/// A further process of a sandbox.
pub struct Further {
    kernel: Arc<Kernel>,
    group: Arc<ThreadGroup>,
    terminal: Option<Arc<Terminal>>,
}

/// Boots, and prepares the first process, which does not run yet. `steady_counter`: see [`KernelConfig`].
pub fn boot(
    spec: &BootSpec,
    platform: Arc<dyn platform::Platform>,
    host: fs::proc::HostInfo,
    gofer: OwnedFd,
    streams: Streams,
    steady_counter: bool,
) -> Result<Arc<Sandbox>, Failure> {
    let memory = MemoryPool::new(host::memfile::MemoryFile::DEFAULT_LEN).map_err(Failure::host("application memory"))?;
    // A guest thread that waits in the kernel leaves its processor to others.
    sync::set_scheduler(sync::Scheduler { waits: platform::set_blocked, place: platform::place, wake: platform::wake });
    let kernel = Kernel::new(platform, Arc::new(memory), config(spec, steady_counter)).map_err(Failure::host("cannot boot"))?;
    register(&kernel, spec, host);
    network(&kernel, spec)?;
    let streams = streams.open(&kernel, &spec.process)?;
    let namespace = mounts::build(&kernel, spec, gofer, streams.terminal.as_deref())?;
    let terminal = streams.terminal.clone();
    let profile = settings::profile(spec)?;
    let first = process::prepare(&kernel, &spec.process, &namespace, streams, profile.clone())?;
    settings::write_sysctls(&first.task, spec);
    if let Some(terminal) = &terminal {
        terminal.start()?;
    }
    let init = first.task.group().clone();
    let first = Mutex::new(Rank::Leaf, Some(first));
    Ok(Arc::new(Sandbox { kernel, namespace, first, init, terminal, profile }))
}

fn config(spec: &BootSpec, steady_counter: bool) -> KernelConfig {
    let or_default = |name: &str, default: Vec<u8>| if name.is_empty() { default } else { name.as_bytes().to_vec() };
    let defaults = KernelConfig::default();
    KernelConfig {
        hostname: or_default(&spec.hostname, defaults.hostname),
        domainname: or_default(&spec.domainname, defaults.domainname),
        memory: spec.limits.memory.map_or(defaults.memory, |limit| limit.min(defaults.memory)),
        tasks_max: spec.limits.tasks.and_then(|n| usize::try_from(n).ok()).map_or(defaults.tasks_max, |n| n.min(defaults.tasks_max)),
        steady_counter,
        ..defaults
    }
}

/// Makes every part known to the kernel.
fn register(kernel: &Arc<Kernel>, spec: &BootSpec, host: fs::proc::HostInfo) {
    kernel.attachments.get_or_insert_with(|| host);
    let limits = spec.limits;
    kernel.attachments.get_or_insert_with(|| fs::cgroup::Limits { memory: limits.memory, cpu: limits.cpu_quota, tasks: limits.tasks });
    fs::register(kernel);
    net::register(kernel, spec.network == Network::Host);
    kernel.set_dispatcher(syscalls::register(spec.strace));
}

/// Takes over the interfaces that the runtime has opened; with the host's network they are only shown.
fn network(kernel: &Kernel, spec: &BootSpec) -> Result<(), Failure> {
    let mut interfaces = Vec::new();
    for (number, i) in (FdLayout::NETWORK..).zip(&spec.interfaces) {
        let socket = match spec.network {
            Network::Host => None,
            _ => Some(host::inherit::take(number).map_err(Failure::internal("a packet socket"))?),
        };
        let address = |a: &control::Address| net::stack::IfAddr { ip: a.ip, prefix: a.prefix, broadcast: a.broadcast, scope: a.scope };
        interfaces.push(net::stack::Interface {
            socket,
            index: i.index,
            name: i.name.clone(),
            mac: i.mac,
            mtu: i.mtu,
            addresses: i.addresses.iter().map(address).collect(),
            neighbours: i.neighbours.clone(),
        });
    }
    let route = |r: &control::Route| net::stack::route::Route {
        dst: r.dst,
        prefix: r.prefix,
        gateway: r.gateway,
        device: r.device,
        source: r.source,
        metric: r.metric,
        mtu: r.mtu,
        protocol: r.protocol,
        scope: r.scope,
        kind: r.kind,
    };
    let routes = spec.routes.iter().map(route).collect();
    let stack = net::stack::Stack::of(kernel);
    // Most containers have none.
    if let Ok(socket) = host::inherit::take(FdLayout::RESOLVER) {
        stack.set_resolver(socket).map_err(Failure::internal("the name server"))?;
    }
    stack.take_over(interfaces, routes).map_err(Failure::internal("the network"))
}

impl Sandbox {
    /// Runs the first process; its process ID. Fails if it has been started before, or ended.
    pub fn start(&self) -> Result<i32, Failure> {
        let Some(ready) = self.first.lock().take() else {
            return Err(Failure::new(FailureKind::Invalid, "cannot start an already running container"));
        };
        self.kernel.start_task(&ready.task, ready.regs).map_err(Failure::host("the first process"))?;
        Ok(self.init.tgid)
    }

    /// Waits for the first process's end: its wait status. The application's last output has then left.
    pub fn wait(&self) -> i32 {
        let status = self.kernel.wait_exit();
        if let Some(terminal) = &self.terminal {
            terminal.flush();
        }
        status.wait_status()
    }

    /// Starts a further process.
    pub fn exec(&self, process: &Process, streams: Streams) -> Result<Further, Failure> {
        if self.first.lock().is_none() && self.init.is_exiting() {
            return Err(Failure::new(FailureKind::Invalid, "cannot exec in a stopped container"));
        }
        let streams = streams.open(&self.kernel, process)?;
        let terminal = streams.terminal.clone();
        let ready = process::prepare(&self.kernel, process, &self.namespace, streams, self.profile.clone()).inspect_err(|_| {
            if let Some(terminal) = &terminal {
                terminal.hang_up();
            }
        })?;
        let group = ready.task.group().clone();
        let further = Further { kernel: self.kernel.clone(), group, terminal };
        if let Some(terminal) = &further.terminal {
            terminal.start()?;
        }
        self.kernel.start_task(&ready.task, ready.regs).map_err(Failure::host("a process"))?;
        Ok(further)
    }

    /// Sends the first process, or all of them, a signal from outside.
    pub fn signal(&self, number: i32, all: bool) -> Result<(), Failure> {
        let signal = signal_of(number)?;
        let deadly = matches!(default_action(signal), DefaultAction::Terminate | DefaultAction::Core);
        let unstarted = if deadly { self.first.lock().take() } else { None };
        if let Some(ready) = unstarted {
            self.kernel.end_unstarted(&ready.task, ExitStatus::Signaled { signal, core: false });
            return Ok(());
        }
        if !all {
            return send(&self.init, signal);
        }
        for group in self.kernel.processes() {
            send(&group, signal)?;
        }
        Ok(())
    }

    /// The container's terminal has another size.
    pub fn resize(&self) {
        if let Some(terminal) = &self.terminal {
            terminal.resize();
        }
    }

    /// What the container is doing.
    pub fn phase(&self) -> Phase {
        if self.kernel.freezer.is_frozen() {
            Phase::Paused
        } else if self.first.lock().is_some() {
            Phase::Created
        } else {
            Phase::Running
        }
    }

    /// Holds every process, or lets all go on.
    pub fn pause(&self, pause: bool) {
        if pause { self.kernel.freeze() } else { self.kernel.thaw() }
    }

    /// All processes that have not ended.
    pub fn processes(&self) -> Vec<ProcessInfo> {
        let living = self.kernel.processes().into_iter().filter(|group| !group.is_dead());
        living.filter_map(|group| self.process_info(&group)).collect()
    }

    fn process_info(&self, group: &Arc<ThreadGroup>) -> Option<ProcessInfo> {
        let leader = group.leader()?;
        let mut words = fs::proc::cmdline(&leader).unwrap_or_default();
        words.truncate(COMMAND_SHOWN);
        let line: Vec<_> = words.split(|byte| *byte == 0).filter(|word| !word.is_empty()).map(String::from_utf8_lossy).collect();
        let command = if line.is_empty() { format!("[{}]", String::from_utf8_lossy(&leader.comm())) } else { line.join(" ") };
        let usage = group.usage();
        Some(ProcessInfo {
            pid: group.tgid,
            ppid: group.parent_pid(),
            uid: leader.cred().uid,
            cpu_ns: usage.user_ns.saturating_add(usage.system_ns),
            age_ns: self.kernel.uptime_ns().saturating_sub(group.start_ns),
            command,
        })
    }

    /// Processor time in application and sentry, bytes of memory, and tasks.
    pub fn usage(&self) -> ([u64; 2], u64, u64) {
        let processes = self.kernel.processes();
        let sum = processes.iter().fold(Usage::default(), |sum, group| sum.plus(group.usage()).plus(group.children_usage()));
        ([sum.user_ns, sum.system_ns], self.kernel.memory.used_bytes(), self.kernel.task_count() as u64)
    }
}

/// Bytes of a command line that a list of processes shows.
const COMMAND_SHOWN: usize = 256;

impl Further {
    /// Its process ID.
    pub fn pid(&self) -> i32 {
        self.group.tgid
    }

    /// Waits for its end: its wait status. Its last output has then left.
    pub fn wait(&self) -> i32 {
        let waker = Arc::new(kernel::task::Waker::default());
        let _registration = self.group.exit_queue.register(abi::poll::PollEvents::READABLE, waker.clone());
        while !self.group.is_dead() {
            waker.park(None);
        }
        let status = self.group.exit_status().map_or(libc::SIGKILL, ExitStatus::wait_status);
        self.kernel.reap_outsider(&self.group);
        if let Some(terminal) = &self.terminal {
            terminal.flush();
            terminal.hang_up();
        }
        status
    }

    /// Sends it a signal from outside.
    pub fn signal(&self, number: i32) -> Result<(), Failure> {
        send(&self.group, signal_of(number)?)
    }

    /// Its terminal has another size.
    pub fn resize(&self) {
        if let Some(terminal) = &self.terminal {
            terminal.resize();
        }
    }

    /// Ends it, if it has not ended.
    pub fn kill(&self) {
        if !self.group.is_dead() {
            // SIGKILL is never refused.
            let _ = send(&self.group, Signal::KILL);
        }
    }
}

fn signal_of(number: i32) -> Result<Signal, Failure> {
    let signal = u64::try_from(number).ok().and_then(Signal::new);
    signal.ok_or_else(|| Failure::new(FailureKind::Invalid, format!("there is no signal {number}")))
}

fn send(group: &ThreadGroup, signal: Signal) -> Result<(), Failure> {
    // As Linux shows a sender in another PID namespace: process 0. What cannot be ignored comes as from the kernel: it is for init, too.
    let forced = matches!(signal, Signal::KILL | Signal::STOP);
    let info = if forced { SigInfo::new(signal, SI_KERNEL) } else { SigInfo::user(signal, SI_USER, 0, 0) };
    group.send_signal(info).map_err(|error| Failure::new(FailureKind::Invalid, format!("signal {}: {error}", signal.number())))
}

/// For `map_err`: the configuration cannot be put into force.
fn refused(what: impl std::fmt::Display) -> impl FnOnce(abi::Error) -> Failure {
    move |error| Failure::new(FailureKind::Invalid, format!("{what}: {error}"))
}
