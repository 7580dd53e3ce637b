//! Makes a container: the verb that was called, and the *stand-in*.
//!
//! The stand-in is a process of its own that stays behind on the host for as long as the container lives. It starts gofer and
//! sentry, which die with it; its process ID is the container's, for engines that wait for one; and it ends as the application does:
//! with its exit status, or by the signal that killed it. Until the container is ready, it dies with the verb.
//!
//! The two talk over a pair of pipes: see [`Report`].

use super::notify::{self, Notify};
use super::pod::{self, Pod};
use super::{Container, Lifecycle, Moment, ProcessId, Record, State, run_hooks};
use crate::cgroup::Cgroup;
use crate::cli::Settings;
use crate::client;
use crate::console::{self, Proxy};
use crate::exit::{Failure, Result, Status, of_wait_status};
use crate::logging::Log;
use crate::sandbox::{self, Child, Fork, Janitor, Monitor, Outcome, Streams, Watched};
use crate::spec::{self, Bundle, NetworkNamespace, Preserve};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// What a verb that makes a container was told.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The bundle.
    pub bundle: &'a Path,
    /// The container's name.
    pub id: &'a str,
    /// Where the terminal's master side is sent.
    pub console_socket: Option<PathBuf>,
    /// Where the stand-in's process ID is written.
    pub pid_file: Option<PathBuf>,
    /// Where a descriptor of the stand-in is sent.
    pub pidfd_socket: Option<PathBuf>,
    /// How many descriptors from 3 on the application shall have.
    pub preserve_fds: u32,
    /// The global flags.
    pub settings: &'a Settings,
    /// Where log lines go.
    pub log: &'a Log,
}

/// From the stand-in to the verb, one on a line.
#[derive(Debug, Serialize, Deserialize)]
enum Report {
    /// The namespaces are there: the hooks may run. It waits for one byte.
    Hooks,
    /// The container waits to be started.
    Ready,
    /// There will be no container.
    Failed { status: Status, message: String },
}

/// `create`.
pub fn create(launch: &Launch<'_>) -> Result<()> {
    let (bundle, container, pod) = prepare(launch)?;
    if bundle.plan.boot.process.terminal && launch.console_socket.is_none() {
        return abandon(&container, no_console());
    }
    let child = make(launch, &bundle, container, pod, None, true)?.1;
    child.release();
    Ok(())
}

/// `run`: the application's exit status, or 0 with `detach`.
pub fn run(launch: &Launch<'_>, detach: bool, keep: bool) -> Result {
    let (bundle, mut container, pod) = prepare(launch)?;
    let terminal = bundle.plan.boot.process.terminal && launch.console_socket.is_none();
    if detach {
        if terminal {
            return abandon(&container, no_console());
        }
        let (mut container, child) = make(launch, &bundle, container, pod, None, true)?;
        let notify = Notify::of(&container);
        return match notify.and_then(|notify| start(&mut container).map(|_| notify)) {
            Ok(notify) => {
                child.release();
                forward(&mut container, notify)?;
                Ok(0)
            }
            Err(failure) => {
                drop(child);
                abandon(&container, failure)
            }
        };
    }
    let signals = sandbox::take_signals()?;
    let janitor = Janitor::start(&mut container)?;
    let (slave, proxy) = if terminal {
        let (master, slave) = console::open(bundle.plan.boot.process.console_size)?;
        (Some(slave), Some(Proxy::new(master)?))
    } else {
        (None, None)
    };
    let (mut container, child) = make(launch, &bundle, container, pod, slave, false)?;
    let notify = Notify::of(&container);
    let started = notify.and_then(|notify| {
        let client = start(&mut container)?;
        // The manager watches this process, which passes everything on.
        notify.map_or(Ok(()), |notify| notify::forward_meanwhile(notify, &container))?;
        Ok(client)
    });
    let connection = match started {
        Ok(client) => client.into_socket(),
        Err(failure) => {
            drop((child, proxy));
            return abandon(&container, failure);
        }
    };
    container.unlock();
    let ended = Monitor::new(connection, Watched::StandIn(child), signals, proxy, false).until_exit();
    if !keep {
        match container.lock() {
            Ok(()) => container.destroy()?,
            // Somebody has deleted it meanwhile.
            Err(failure) if failure.status == Status::NoContainer => {}
            Err(failure) => return Err(failure),
        }
    }
    janitor.dismiss();
    ended.map(of_wait_status)
}

/// Starts a container that has been created; the caller has its lock. A container whose hooks fail is killed.
pub fn start(container: &mut Container) -> Result<client::Client> {
    let refused = |what| Failure::new(Status::WrongState, what);
    match container.status() {
        Lifecycle::Created => {}
        Lifecycle::Stopped => return Err(refused("cannot start a container that has stopped")),
        Lifecycle::Creating => return Err(refused("cannot start a container that is still being created")),
        Lifecycle::Running | Lifecycle::Paused => return Err(refused("cannot start an already running container")),
    }
    let spec = container.spec()?;
    let Some(client) = container.client()? else { return Err(refused("cannot start a container that has stopped")) };
    let state = |container: &Container, status| State::new(&container.record, status);
    let started = crate::process::start_hooks(container, &spec, &state(container, Lifecycle::Created)).and_then(|()| {
        client.ask(&control::Request::Start, crate::process::PATIENCE)?;
        container.record.started = true;
        container.save()?;
        run_hooks(&spec, Moment::Poststart, &state(container, Lifecycle::Running))
    });
    if let Err(failure) = started {
        container.kill_stand_in()?;
        return Err(failure);
    }
    Ok(client)
}

/// Starts a container, and if a service manager wants to know when it is ready, waits for that with the lock given back.
pub fn start_and_tell(container: &mut Container) -> Result<()> {
    let notify = Notify::of(container)?;
    start(container)?;
    forward(container, notify)
}

fn forward(container: &mut Container, notify: Option<Notify>) -> Result<()> {
    container.unlock();
    notify.map_or(Ok(()), |notify| notify.forward(container, None))
}

fn no_console() -> Failure {
    Failure::new(
        Status::Console,
        "process.terminal is true: when the container runs in the background there must be a --console-socket to send the terminal to",
    )
}

/// Loads the bundle, and reserves the container's name.
fn prepare(launch: &Launch<'_>) -> Result<(Bundle, Container, Option<Pod>)> {
    let mut bundle = spec::load(launch.bundle, launch.id, launch.settings)?;
    if launch.console_socket.is_some() && !bundle.plan.boot.process.terminal {
        return Err(Failure::new(Status::Console, "--console-socket: process.terminal is false, so that there is no terminal to send"));
    }
    bundle.plan.boot.process.preserve(launch.preserve_fds)?;
    notify::prepare(&mut bundle.plan);
    let annotations = bundle.spec.annotations().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
    let pod = pod::find(&launch.settings.state_root, &bundle.plan, &annotations)?;
    let record = Record {
        id: launch.id.to_owned(),
        bundle: bundle.dir.clone(),
        rootfs: bundle.plan.attaches.first().map(|root| root.source.clone()).unwrap_or_default(),
        created: control::logging::timestamp(),
        owner: rustix::process::getuid().as_raw(),
        annotations,
        stand_in: None,
        sandbox: pod.as_ref().map(|pod| pod.sandbox.record.id.clone()),
        network: pod::network_of(&bundle.plan),
        cgroup: Cgroup::default(),
        notify: bundle.plan.boot.notify,
        limits: bundle.plan.boot.limits,
        ready: false,
        started: false,
    };
    let cgroup = Cgroup::place(&bundle.spec, launch.id, launch.settings)?;
    let mut container = Container::create(&launch.settings.state_root, record, &bundle.text)?;
    // Recorded only if it is nobody else's: what is recorded is removed with the container.
    if let Err(failure) = cgroup.is_unused() {
        container.remove()?;
        return Err(failure);
    }
    container.record.cgroup = cgroup;
    container.save()?;
    match super::network::give_back_of_the_dead(container.root(), &container.record) {
        Ok(()) => Ok((bundle, container, pod)),
        Err(failure) => abandon(&container, failure),
    }
}

/// Takes apart what has been made so far.
fn abandon<T>(container: &Container, failure: Failure) -> Result<T> {
    if let Err(also) = container.kill_stand_in().and_then(|()| container.destroy()) {
        tracing::warn!("{also}");
    }
    Err(failure)
}

/// Makes the stand-in, and through it the container; returns when that is ready.
fn make(
    launch: &Launch<'_>,
    bundle: &Bundle,
    mut container: Container,
    pod: Option<Pod>,
    slave: Option<OwnedFd>,
    background: bool,
) -> Result<(Container, Child)> {
    let (reports, reporter) = io::pipe().map_err(Failure::internal("pipe"))?;
    let (going, mut go) = io::pipe().map_err(Failure::internal("pipe"))?;
    let parent = std::process::id();
    let pid = match sandbox::fork(0).map_err(Failure::internal("cannot fork"))? {
        Fork::Parent(pid) => pid,
        Fork::Child => {
            drop((reports, go));
            let kept = sandbox::Kept::default();
            StandIn { launch, bundle, container, pod, background, reporter, going, parent, kept, view: None }.live(slave)
        }
    };
    let child = Child::new(pid)?;
    drop((reporter, going, slave));
    container.record.stand_in = ProcessId::of(pid);
    let ready = follow(bundle, &container, reports, &mut go);
    match ready {
        Ok(()) => {
            container.reload()?;
            Ok((container, child))
        }
        Err(failure) => {
            drop(child);
            abandon(&container, failure)
        }
    }
}

/// The verb's side of making a container.
fn follow(bundle: &Bundle, container: &Container, reports: io::PipeReader, go: &mut io::PipeWriter) -> Result<()> {
    for line in BufReader::new(reports).lines() {
        let line = line.map_err(Failure::internal("the stand-in"))?;
        match serde_json::from_str(&line).map_err(Failure::internal("the stand-in"))? {
            Report::Hooks => {
                let state = State::new(&container.record, Lifecycle::Creating);
                run_hooks(&bundle.spec, Moment::Prestart, &state)?;
                run_hooks(&bundle.spec, Moment::CreateRuntime, &state)?;
                go.write_all(&[1]).map_err(Failure::internal("the stand-in"))?;
            }
            Report::Ready => return Ok(()),
            Report::Failed { status, message } => return Err(Failure::new(status, message)),
        }
    }
    Err(Failure::new(Status::Internal, "the stand-in was killed before the container was ready"))
}

/// The process that stays behind.
struct StandIn<'a> {
    launch: &'a Launch<'a>,
    bundle: &'a Bundle,
    container: Container,
    pod: Option<Pod>,
    background: bool,
    reporter: io::PipeWriter,
    going: io::PipeReader,
    parent: u32,
    kept: sandbox::Kept,
    view: Option<sandbox::View>,
}

impl StandIn<'_> {
    /// Its whole life.
    fn live(mut self, slave: Option<OwnedFd>) -> ! {
        let mut monitor = match self.make(slave) {
            Ok(monitor) => monitor,
            Err(failure) => {
                self.give_network_back();
                self.report(&Report::Failed { status: failure.status, message: failure.message });
                sandbox::exit_now(Status::Internal as i32)
            }
        };
        let ended = monitor.until_exit();
        if let Some(view) = self.view.take() {
            view.leave();
        }
        drop(monitor);
        self.give_network_back();
        match ended {
            Ok(status) => end_as(status),
            Err(failure) if self.background => {
                self.launch.log.failure(&failure);
                // The application was killed, whoever did it.
                sandbox::die_by(libc::SIGKILL)
            }
            Err(failure) => {
                self.launch.log.failure(&failure);
                sandbox::exit_now(failure.status as i32)
            }
        }
    }

    fn give_network_back(&self) {
        self.kept.give_back();
        if !self.kept.is_empty() {
            self.container.forget_network();
        }
    }

    fn report(&mut self, report: &Report) {
        let mut line = serde_json::to_vec(report).unwrap_or_default();
        line.push(b'\n');
        // A verb that was killed reads no more, and takes this process with it.
        let _ = self.reporter.write_all(&line);
    }

    /// Everything up to the moment when the container is ready.
    fn make(&mut self, slave: Option<OwnedFd>) -> Result<Monitor> {
        set_parent_process_death_signal(Some(Signal::KILL)).map_err(Failure::internal("prctl"))?;
        if getppid().is_none_or(|pid| pid.as_raw_nonzero().get().cast_unsigned() != self.parent) {
            sandbox::die_by(libc::SIGKILL);
        }
        rustix::process::setsid().map_err(Failure::internal("setsid"))?;
        self.container.record.stand_in = ProcessId::of(std::process::id().cast_signed());
        self.container.save()?;
        let signals = sandbox::take_signals()?;
        let linux = self.bundle.spec.linux().as_ref();
        self.container.record.cgroup.enter(linux.and_then(|linux| linux.resources().as_ref()))?;
        self.adjust_oom_score()?;
        self.enter_network()?;
        self.run_hooks()?;
        let slave = match (&self.launch.console_socket, slave) {
            (Some(socket), _) => Some(console::open_and_send(self.bundle.plan.boot.process.console_size, socket)?),
            (None, slave) => slave,
        };
        if let Some(slave) = &slave {
            sandbox::take_terminal(slave).map_err(Failure::context(Status::Console, "the terminal"))?;
        }
        let preserved = preserved(self.bundle.plan.boot.process.preserved)?;
        let streams = Streams { terminal: slave, preserved };
        let quiet;
        let log = if self.background {
            quiet = self.launch.log.without_streams()?;
            &quiet
        } else {
            self.launch.log
        };
        let (plan, rootless) = (&self.bundle.plan, self.launch.settings.rootless);
        let mut forward = None;
        let mut monitor = match &self.pod {
            None => {
                let listener = client::listener(self.container.dir())?;
                let network = self.take_over_network()?;
                forward = self.forward();
                self.kept = network.keep();
                let made = sandbox::start(plan, streams, Some(listener), network, log, rootless)?;
                Monitor::of_sandbox(made, signals, None, true)
            }
            Some(pod) => {
                let gone = || Failure::new(Status::NotRunning, format!("the sandbox {} does not run", pod.sandbox.record.id));
                let client = pod.sandbox.client()?.ok_or_else(gone)?;
                let gofer = sandbox::join(plan, &pod.shared, &client, streams, log, rootless)?;
                Monitor::new(client.into_socket(), Watched::Container { gofer }, signals, None, true)
            }
        };
        if monitor.next()? != Outcome::Created {
            return Err(Failure::new(Status::Internal, "the sentry did not wait to be started"));
        }
        self.settle()?;
        if let Some(forward) = forward {
            forward.serve(self.container.dir());
        }
        // From here on nothing is looked up by its name, until the end.
        if !rootless {
            self.view = Some(sandbox::View::enter(plan)?);
        }
        self.report(&Report::Ready);
        self.container.unlock();
        Ok(monitor)
    }

    /// `process.oomScoreAdj`, for every process of the sandbox: whom the host's kernel kills first when memory is short.
    fn adjust_oom_score(&self) -> Result<()> {
        let Some(score) = self.bundle.spec.process().as_ref().and_then(|process| process.oom_score_adj()) else { return Ok(()) };
        match std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                tracing::warn!("process.oomScoreAdj: {score}: the host does not let it be lowered without CAP_SYS_RESOURCE");
                Ok(())
            }
            other => other.map_err(Failure::context(Status::BadField, format_args!("process.oomScoreAdj: {score}"))),
        }
    }

    /// Takes on the container's network namespace, so that hooks and engines find it by the process ID.
    fn enter_network(&self) -> Result<()> {
        let failed = |error| Failure::context::<io::Error>(Status::Host, "the network namespace")(error);
        let passed_through = self.bundle.plan.boot.network == control::Network::Host;
        match &self.bundle.plan.network_namespace {
            NetworkNamespace::Host => Ok(()),
            _ if self.launch.settings.rootless && passed_through => Err(Failure::new(
                Status::Host,
                "--network=host: only root can put a container into a network namespace of its own; leave it out of linux.namespaces",
            )),
            _ if self.launch.settings.rootless => Ok(()),
            NetworkNamespace::Path(path) => {
                let file = File::open(path).map_err(failed)?;
                sandbox::enter_namespace(&file, libc::CLONE_NEWNET).map_err(failed)?;
                if passed_through {
                    sandbox::low_ports();
                }
                Ok(())
            }
            NetworkNamespace::New if passed_through => {
                sandbox::unshare(libc::CLONE_NEWNET).map_err(failed)?;
                sandbox::open_up()
            }
            // Nobody but a hook could put anything there.
            NetworkNamespace::New if self.bundle.spec.hooks().is_none() => Ok(()),
            NetworkNamespace::New => sandbox::unshare(libc::CLONE_NEWNET).map_err(failed),
        }
    }

    /// The interfaces of the network namespace that this process is in, if that is the container's.
    fn take_over_network(&self) -> Result<sandbox::TakenOver> {
        let own = match self.bundle.plan.network_namespace {
            // The caller's own is not the container's to take.
            NetworkNamespace::Path(_) => self.container.record.network.is_some(),
            NetworkNamespace::New => self.bundle.spec.hooks().is_some(),
            NetworkNamespace::Host => false,
        };
        if self.bundle.plan.boot.network == control::Network::Host {
            return sandbox::look();
        }
        if !own || self.launch.settings.rootless || self.bundle.plan.boot.network != control::Network::Sandbox {
            return Ok(sandbox::TakenOver::default());
        }
        let resolver = sandbox::engine_resolver(&self.resolv_conf())?;
        Ok(sandbox::TakenOver { resolver, ..sandbox::take_over(|kept| self.container.keep_network(kept))? })
    }

    /// For ports of the sandbox that an engine looks for at the loopback of the network namespace, if that is the container's.
    fn forward(&self) -> Option<sandbox::Forward> {
        let named = matches!(self.bundle.plan.network_namespace, NetworkNamespace::Path(_)) && self.container.record.network.is_some();
        if !named || self.launch.settings.rootless || self.bundle.plan.boot.network != control::Network::Sandbox {
            return None;
        }
        sandbox::Forward::new().inspect_err(|error| tracing::debug!("ports cannot be forwarded into the sandbox: {error}")).ok()
    }

    /// The container's resolv.conf, as far as an engine mounts one.
    fn resolv_conf(&self) -> String {
        let mounts = self.bundle.spec.mounts().iter().flatten();
        let source = mounts.filter(|m| m.destination() == Path::new("/etc/resolv.conf")).find_map(|m| m.source().as_ref());
        // One that cannot be read is told of when it is mounted.
        source.and_then(|source| std::fs::read_to_string(source).ok()).unwrap_or_default()
    }

    /// Has the verb run the hooks of the runtime's namespaces, and runs those of the container's.
    fn run_hooks(&mut self) -> Result<()> {
        if self.bundle.spec.hooks().is_none() {
            return Ok(());
        }
        self.report(&Report::Hooks);
        self.going.read_exact(&mut [0]).map_err(Failure::internal("the verb ended"))?;
        if !Moment::CreateContainer.of(&self.bundle.spec).is_empty() {
            // What they mount is seen by the gofer, and so in the container, and nowhere else.
            sandbox::unshare(libc::CLONE_NEWNS)
                .and_then(|()| {
                    use rustix::mount::{MountPropagationFlags as Flags, mount_change};
                    Ok(mount_change("/", Flags::DOWNSTREAM | Flags::REC)?)
                })
                .map_err(Failure::context(Status::Host, "the mount namespace"))?;
        }
        run_hooks(&self.bundle.spec, Moment::CreateContainer, &State::new(&self.container.record, Lifecycle::Creating))
    }

    /// From here on the container stands by itself.
    fn settle(&mut self) -> Result<()> {
        if let Some(socket) = &self.launch.pidfd_socket {
            console::send_pidfd("standard", socket)?;
        }
        if let Some(path) = &self.launch.pid_file {
            write_pid(path)?;
        }
        rustix::process::chdir("/").map_err(Failure::internal("chdir"))?;
        if self.background {
            self.launch.log.release_streams().map_err(Failure::internal("the standard streams"))?;
        }
        crate::title::set(&self.bundle.plan.boot.process.args);
        self.container.record.ready = true;
        self.container.save()?;
        if self.background {
            set_parent_process_death_signal(None).map_err(Failure::internal("prctl"))?;
        }
        Ok(())
    }
}

/// Descriptors from 3 on, as whoever started this program left them.
pub fn preserved(count: u32) -> Result<Vec<OwnedFd>> {
    (3..3 + count.cast_signed())
        .map(|number| {
            sandbox::inherited(number).map_err(|error| Failure::new(Status::Usage, format!("--preserve-fds: descriptor {number}: {error}")))
        })
        .collect()
}

/// Ends this process as an application with this wait status has ended.
pub fn end_as(wait_status: i32) -> ! {
    match wait_status & 0x7f {
        0 => sandbox::exit_now(wait_status >> 8 & 0xff),
        signal => sandbox::die_by(signal),
    }
}

/// Writes this process's ID to a file, as a whole or not at all: whoever waits for the file must not read half of it.
pub fn write_pid(path: &Path) -> Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    std::fs::write(&new, std::process::id().to_string())
        .and_then(|()| std::fs::rename(&new, path))
        .map_err(Failure::context(Status::Output, format_args!("--pid-file {}", path.display())))
}
