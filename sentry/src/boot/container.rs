//! A container of the sandbox: its mounts, its first process, what is asked of it.

use super::notify::Notify;
use super::process::{Ready, Streams};
use super::{mounts, process, settings};
use crate::{Failure, terminal::Terminal};
use abi::signal::{SI_KERNEL, SI_USER, SigInfo, Signal};
use control::{BootSpec, Event, FailureKind, Phase, Process, ProcessInfo};
use kernel::{
    Kernel,
    container::{ContainerConfig, Limits, Shared},
    seccomp::rules::Rules,
    signal::{DefaultAction, default_action},
    task::{ExitStatus, ThreadGroup},
    vfs::MountNamespace,
};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use sync::{Mutex, Rank};

/// A container that has not been taken apart.
pub struct Container {
    inner: Arc<kernel::Container>,
    /// Mounts know their tree weakly: it lives as long as this.
    namespace: Arc<MountNamespace>,
    /// The first process, until it is started or ended.
    first: Mutex<Option<Ready>>,
    init: Arc<ThreadGroup>,
    terminal: Option<Arc<Terminal>>,
    /// What every process may call.
    profile: Option<Arc<Rules>>,
}

/// A further process of a container.
pub struct Further {
    kernel: Arc<Kernel>,
    group: Arc<ThreadGroup>,
    terminal: Option<Arc<Terminal>>,
}

impl Container {
    /// Makes a container, and prepares its first process, which does not run yet.
    pub fn new(kernel: &Arc<Kernel>, spec: &BootSpec, shared: Shared, gofer: OwnedFd, streams: Streams) -> Result<Arc<Container>, Failure> {
        let inner = kernel::Container::new(kernel, config(spec), shared);
        Container::furnish(&inner, spec, gofer, streams).inspect_err(|_| inner.end())
    }

    fn furnish(inner: &Arc<kernel::Container>, spec: &BootSpec, gofer: OwnedFd, streams: Streams) -> Result<Arc<Container>, Failure> {
        let streams = streams.open(inner, &spec.process)?;
        let namespace = mounts::build(inner, spec, gofer, streams.terminal.as_deref())?;
        let terminal = streams.terminal.clone();
        let profile = settings::profile(spec)?;
        let first = process::prepare(inner, &spec.process, &namespace, streams, profile.clone())?;
        settings::write_sysctls(inner, spec);
        if let Some(terminal) = &terminal
            && let Err(failure) = terminal.start()
        {
            inner.kernel().discard_init(&first.task);
            return Err(failure);
        }
        if let Some(notify) = inner.attachments.get::<Notify>() {
            let reader = host::thread::spawn("notify", move || notify.run());
            reader.inspect_err(|_| inner.kernel().discard_init(&first.task)).map_err(Failure::host("a thread"))?;
        }
        let init = first.task.group().clone();
        let first = Mutex::new(Rank::Leaf, Some(first));
        Ok(Arc::new(Container { inner: inner.clone(), namespace, first, init, terminal, profile }))
    }

    /// What it shares with another container that is to share all of it.
    pub fn inner(&self) -> &Arc<kernel::Container> {
        &self.inner
    }

    /// Its name.
    pub fn id(&self) -> &str {
        &self.inner.config.id
    }

    /// Runs the first process; its process ID. Fails if it has been started before, or ended.
    pub fn start(&self) -> Result<i32, Failure> {
        let Some(ready) = self.first.lock().take() else {
            return Err(Failure::new(FailureKind::Invalid, "cannot start an already running container"));
        };
        self.inner.kernel().start_task(&ready.task, ready.regs).map_err(Failure::host("the first process"))?;
        Ok(self.init.tgid)
    }

    /// Waits for the first process's end: its wait status. The application's last output has then left.
    pub fn wait(&self) -> i32 {
        let status = wait_for(&self.init);
        if let Some(terminal) = &self.terminal {
            terminal.flush();
        }
        status
    }

    /// Ends whatever is left of it once the first process has ended.
    pub fn end(&self) {
        self.inner.end();
        if let Some(notify) = self.inner.attachments.get::<Notify>() {
            notify.close();
        }
        if let Some(terminal) = &self.terminal {
            terminal.hang_up();
        }
    }

    /// Ends it, if it has not ended.
    pub fn kill(&self) {
        if !self.init.is_dead()
            && let Err(failure) = self.signal(libc::SIGKILL, false)
        {
            tracing::debug!("{}", failure.message);
        }
    }

    /// Waits until the application says that it is ready: with which words; none if it ends before.
    pub fn wait_ready(&self) -> Result<Option<String>, Failure> {
        match self.inner.attachments.get::<Notify>() {
            Some(notify) => Ok(notify.wait()),
            None => Err(Failure::new(FailureKind::Invalid, "the container was made without a socket for notifications")),
        }
    }

    /// Waits until nothing is left of it.
    pub fn wait_gone(&self) {
        self.inner.wait_gone();
    }

    /// Starts a further process.
    pub fn exec(&self, process: &Process, streams: Streams) -> Result<Further, Failure> {
        if self.first.lock().is_none() && self.init.is_exiting() {
            return Err(Failure::new(FailureKind::Invalid, "cannot exec in a stopped container"));
        }
        let streams = streams.open(&self.inner, process)?;
        let terminal = streams.terminal.clone();
        let ready = process::prepare(&self.inner, process, &self.namespace, streams, self.profile.clone()).inspect_err(|_| {
            if let Some(terminal) = &terminal {
                terminal.hang_up();
            }
        })?;
        let group = ready.task.group().clone();
        let further = Further { kernel: self.inner.kernel().clone(), group, terminal };
        if let Some(terminal) = &further.terminal {
            terminal.start()?;
        }
        self.inner.kernel().start_task(&ready.task, ready.regs).map_err(Failure::host("a process"))?;
        Ok(further)
    }

    /// Sends the first process, or all of them, a signal from outside.
    pub fn signal(&self, number: i32, all: bool) -> Result<(), Failure> {
        let signal = signal_of(number)?;
        let deadly = matches!(default_action(signal), DefaultAction::Terminate | DefaultAction::Core);
        let unstarted = if deadly { self.first.lock().take() } else { None };
        if let Some(ready) = unstarted {
            self.inner.kernel().end_unstarted(&ready.task, ExitStatus::Signaled { signal, core: false });
            return Ok(());
        }
        if !all {
            return send(&self.init, signal);
        }
        for group in self.inner.processes().into_iter().filter(|group| !group.is_dead()) {
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
        if self.inner.freezer.is_frozen() {
            Phase::Paused
        } else if self.first.lock().is_some() {
            Phase::Created
        } else {
            Phase::Running
        }
    }

    /// Holds every process, or lets all go on.
    pub fn pause(&self, pause: bool) {
        if pause { self.inner.freeze() } else { self.inner.thaw() }
    }

    /// All processes that have not ended.
    pub fn processes(&self) -> Vec<ProcessInfo> {
        let living = self.inner.processes().into_iter().filter(|group| !group.is_dead());
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
            age_ns: self.inner.kernel().uptime_ns().saturating_sub(group.start_ns),
            command,
        })
    }

    /// Other limits from now on. How many CPUs are shown is the sandbox's matter, and the first container's to say.
    pub fn set_limits(&self, limits: control::Limits) {
        if self.inner.is_first() {
            host::process::limit_cpus(limits.cpus.map_or(usize::MAX, |cpus| cpus as usize));
        }
        self.inner.set_limits(shown(limits));
    }

    /// Waits until more processes than so many have been killed for want of memory, or the container ends; how many they are.
    pub fn wait_out_of_memory(&self, seen: u64) -> u64 {
        self.inner.wait_oom_kill(seen)
    }

    /// What it has used.
    pub fn usage(&self) -> Event {
        let sum = self.inner.usage();
        Event::Usage { cpu_ns: [sum.user_ns, sum.system_ns], memory: self.inner.memory_used(), tasks: self.inner.task_count() as u64 }
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
        let status = wait_for(&self.group);
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

/// Waits for the end of a process: its wait status.
fn wait_for(group: &ThreadGroup) -> i32 {
    let waker = Arc::new(kernel::task::Waker::default());
    let _registration = group.exit_queue.register(abi::poll::PollEvents::READABLE, waker.clone());
    while !group.is_dead() {
        waker.park(None);
    }
    group.exit_status().map_or(libc::SIGKILL, ExitStatus::wait_status)
}

/// Limits as the container's files show them.
fn shown(limits: control::Limits) -> Limits {
    Limits { memory: limits.memory, cpu: limits.cpu_quota, tasks: limits.tasks }
}

fn config(spec: &BootSpec) -> ContainerConfig {
    ContainerConfig {
        id: spec.id.clone(),
        hostname: spec.hostname.clone().into(),
        domainname: spec.domainname.clone().into(),
        limits: shown(spec.limits),
        strace: spec.strace,
    }
}
