//! The sentry's end of its control connections.
//!
//! One was there from the start: its other end is the process that keeps the first container, and when it goes, so does the sentry. More
//! come in over the listening socket, one for each verb that wants something (`start`, `kill`, `exec`, …), and one from the process that
//! keeps a further container. What was started over a connection, a process or a container, ends with it.

use crate::boot::{Container, Further, Sandbox, Streams};
use crate::{Failure, signals};
use control::{Event, ExecSpec, FailureKind, JoinSpec, MAX_DESCRIPTORS, MAX_MESSAGE, ProcessInfo, Request, decode, encode};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The longest description of a process or a container, in bytes.
const MAX_SPEC: u64 = 16 << 20;
/// How long the reports of processes that end with the container may take.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How many processes one message lists: with command lines cut short, they fit.
const LISTED: usize = 16;

/// The connection to the process that keeps the container. Copies share it.
#[derive(Clone, Debug)]
pub struct Server {
    keeper: Connection,
    /// Processes and containers whose end has not been reported yet.
    waiting: Arc<AtomicUsize>,
}

/// One connection. Copies share it.
#[derive(Clone, Debug)]
struct Connection(Arc<OwnedFd>);

impl Connection {
    fn send(&self, event: &Event) {
        let sent = encode(event)
            .map_err(|error| error.to_string())
            .and_then(|packet| host::io::send_bytes(&*self.0, &packet, &[], libc::MSG_NOSIGNAL).map_err(|error| error.to_string()));
        if let Err(error) = sent {
            tracing::debug!("cannot report {event:?}: {error}");
        }
    }

    fn failed(&self, kind: FailureKind, message: &str) {
        // A message that is too long would be lost.
        let message = message.chars().take(MAX_MESSAGE / 8).collect();
        self.send(&Event::Failed { kind, message });
    }

    /// The next request with its descriptors; `None` at the end.
    fn receive(&self) -> Option<(Result<Request, control::Error>, Vec<OwnedFd>)> {
        let mut buffer = vec![0; MAX_MESSAGE + 1];
        loop {
            match host::io::recv_bytes(&*self.0, &mut buffer, MAX_DESCRIPTORS, 0) {
                Ok(received) if received.len > 0 => {
                    return Some((decode(buffer.get(..received.len).unwrap_or_default()), received.fds));
                }
                Err(abi::Errno::EINTR) => {}
                _ => return None,
            }
        }
    }
}

impl Server {
    /// Over this socket.
    pub fn new(socket: OwnedFd) -> Server {
        Server { keeper: Connection(Arc::new(socket)), waiting: Arc::default() }
    }

    /// Reports that the container is ready to be started.
    pub fn created(&self) {
        self.keeper.send(&Event::Created);
    }

    /// Reports the application's end.
    pub fn exited(&self, wait_status: i32) {
        self.keeper.send(&Event::Exited { wait_status });
    }

    /// Reports that the sentry gives up.
    pub fn failed(&self, kind: FailureKind, message: &str) {
        self.keeper.failed(kind, message);
    }

    /// Starts the threads that take requests and signals.
    pub fn serve(&self, sandbox: &Arc<Sandbox>, listener: Option<OwnedFd>) -> Result<(), Failure> {
        let spawn =
            |name: &str, work: Box<dyn FnOnce() + Send>| host::thread::spawn(name, work).map(drop).map_err(Failure::host("a thread"));
        let (server, target) = (self.clone(), sandbox.clone());
        spawn(
            "control",
            Box::new(move || {
                server.converse(&server.keeper, &target);
                tracing::debug!("the runtime is gone");
                std::process::exit(crate::FAILED);
            }),
        )?;
        if let Some(listener) = listener {
            let (server, target) = (self.clone(), sandbox.clone());
            spawn("listener", Box::new(move || server.listen(&listener, &target)))?;
        }
        let target = sandbox.clone();
        spawn(
            "signals",
            Box::new(move || {
                while let Ok(signal) = signals::wait() {
                    if let Err(failure) = target.first.signal(signal, false) {
                        tracing::debug!("{}", failure.message);
                    }
                }
            }),
        )
    }

    /// Waits until the ends of all processes have been reported, for a moment at most.
    pub fn finish(&self) {
        let deadline = Instant::now() + LAST_WORDS;
        while self.waiting.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
            host::time::sleep(Duration::from_millis(1));
        }
    }

    /// Takes connections.
    fn listen(&self, listener: &OwnedFd, sandbox: &Arc<Sandbox>) {
        loop {
            let socket = match rustix::net::accept_with(listener, rustix::net::SocketFlags::CLOEXEC) {
                Ok(socket) => socket,
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => continue,
                Err(error) => {
                    // Descriptors or memory are short: for a moment, it is to be hoped.
                    tracing::warn!("control connections: {error}");
                    host::time::sleep(Duration::from_millis(100));
                    continue;
                }
            };
            let connection = Connection(Arc::new(socket));
            let (server, target) = (self.clone(), sandbox.clone());
            if let Err(error) = host::thread::spawn("control", move || server.converse(&connection, &target)) {
                tracing::warn!("a control connection: {error}");
            }
        }
    }

    /// Carries out the requests of one connection, until its other end is closed.
    fn converse(&self, connection: &Connection, sandbox: &Arc<Sandbox>) {
        let mut about = About { container: sandbox.first.clone(), started: Started::Nothing };
        while let Some((request, descriptors)) = connection.receive() {
            let request = match request {
                Ok(request) => request,
                Err(error) => {
                    connection.failed(FailureKind::Internal, &format!("from the runtime: {error}"));
                    continue;
                }
            };
            let answer = match request {
                Request::Exec => self.exec(connection, &mut about, descriptors),
                Request::Create => self.create(connection, sandbox, &mut about, descriptors),
                Request::Forward { port } => forward(sandbox, port, descriptors),
                Request::Select { id } => select(sandbox, &mut about, &id),
                request => carry_out(request, &about),
            };
            match answer {
                Ok(events) => events.iter().for_each(|event| connection.send(event)),
                Err(failure) => connection.failed(failure.kind, &failure.message),
            }
        }
        match about.started {
            Started::Nothing => {}
            Started::Process(process) => process.kill(),
            Started::Container => about.container.kill(),
        }
    }

    /// [`Request::Exec`].
    fn exec(&self, connection: &Connection, about: &mut About, descriptors: Vec<OwnedFd>) -> Result<Vec<Event>, Failure> {
        let (text, descriptors) = about.description(descriptors)?;
        let spec = ExecSpec::from_json(&text).map_err(Failure::internal("the description of a process"))?;
        let streams = Streams::received(&spec.process, descriptors)?;
        let process = Arc::new(about.container.exec(&spec.process, streams)?);
        about.started = Started::Process(process.clone());
        // Before its end can be told.
        connection.send(&Event::Started { pid: process.pid() });
        self.watch("exec", connection, move || process.wait())
    }

    /// [`Request::Create`].
    fn create(
        &self,
        connection: &Connection,
        sandbox: &Arc<Sandbox>,
        about: &mut About,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Vec<Event>, Failure> {
        let (text, mut descriptors) = about.description(descriptors)?;
        let spec = JoinSpec::from_json(&text).map_err(Failure::internal("the description of a container"))?;
        if descriptors.is_empty() {
            return Err(Failure::new(FailureKind::Internal, "there is no connection to a gofer"));
        }
        let gofer = descriptors.remove(0);
        let streams = Streams::received(&spec.container.process, descriptors)?;
        let container = sandbox.join(&spec, gofer, streams)?;
        *about = About { container: container.clone(), started: Started::Container };
        connection.send(&Event::Created);
        let (made, to_forget) = (container.clone(), sandbox.clone());
        let watched = self.watch("container", connection, move || {
            let wait_status = container.wait();
            container.end();
            to_forget.forget(&container);
            wait_status
        });
        watched.inspect_err(|_| {
            made.kill();
            made.end();
            sandbox.forget(&made);
        })
    }

    /// Waits for an end in a thread of its own, and reports it.
    fn watch(&self, name: &str, connection: &Connection, wait: impl FnOnce() -> i32 + Send + 'static) -> Result<Vec<Event>, Failure> {
        let (connection, waiting) = (connection.clone(), self.waiting.clone());
        waiting.fetch_add(1, Ordering::AcqRel);
        let undo = waiting.clone();
        let watch = move || {
            connection.send(&Event::Exited { wait_status: wait() });
            waiting.fetch_sub(1, Ordering::AcqRel);
        };
        host::thread::spawn(name, watch).map(|_| Vec::new()).map_err(|error| {
            undo.fetch_sub(1, Ordering::AcqRel);
            Failure::host("a thread")(error)
        })
    }
}

/// What a connection is about.
struct About {
    container: Arc<Container>,
    started: Started,
}

/// What was started over a connection.
enum Started {
    Nothing,
    Process(Arc<Further>),
    Container,
}

impl About {
    /// The description of something that is to be started, which comes first, and the other descriptors.
    fn description(&self, mut descriptors: Vec<OwnedFd>) -> Result<(Vec<u8>, Vec<OwnedFd>), Failure> {
        if !matches!(self.started, Started::Nothing) || descriptors.is_empty() {
            return Err(Failure::new(FailureKind::Internal, "one process or container for each connection, and its description"));
        }
        let mut text = Vec::new();
        File::from(descriptors.remove(0)).take(MAX_SPEC).read_to_end(&mut text).map_err(Failure::internal("a description"))?;
        Ok((text, descriptors))
    }
}

/// [`Request::Forward`].
fn forward(sandbox: &Sandbox, port: u16, descriptors: Vec<OwnedFd>) -> Result<Vec<Event>, Failure> {
    let connection = descriptors.into_iter().next().ok_or_else(|| Failure::new(FailureKind::Internal, "there is no connection"))?;
    crate::forward::connect(sandbox.first.inner().kernel(), port, connection).map(|()| vec![Event::Done])
}

/// [`Request::Select`].
fn select(sandbox: &Sandbox, about: &mut About, id: &str) -> Result<Vec<Event>, Failure> {
    if !matches!(about.started, Started::Nothing) {
        return Err(Failure::new(FailureKind::Internal, "something was started over this connection"));
    }
    about.container = sandbox.container(id).ok_or_else(|| Failure::new(FailureKind::Invalid, "container not running"))?;
    Ok(vec![Event::Done])
}

/// Every request that starts nothing.
fn carry_out(request: Request, about: &About) -> Result<Vec<Event>, Failure> {
    let container = &about.container;
    let own = match &about.started {
        Started::Process(process) => Some(process),
        _ => None,
    };
    match request {
        Request::Start => return Ok(vec![Event::Started { pid: container.start()? }]),
        Request::Signal { sig, all } => container.signal(sig, all)?,
        // A foreground process that has ended gets no more signals, and says nothing of it.
        Request::SignalOwn { sig } => {
            let sent = own.map_or_else(|| container.signal(sig, false), |process| process.signal(sig));
            if let Err(failure) = sent {
                tracing::debug!("{}", failure.message);
            }
            return Ok(Vec::new());
        }
        Request::Resize => {
            own.map_or_else(|| container.resize(), |process| process.resize());
            return Ok(Vec::new());
        }
        Request::Processes => return Ok(pages(container.processes())),
        Request::Pause => container.pause(true),
        Request::Resume => container.pause(false),
        Request::Gone => container.wait_gone(),
        Request::Status => return Ok(vec![Event::Status { phase: container.phase() }]),
        Request::Usage => return Ok(vec![container.usage()]),
        Request::OutOfMemory { seen } => return Ok(vec![Event::OutOfMemory { kills: container.wait_out_of_memory(seen) }]),
        Request::Ready => return Ok(vec![Event::Ready { line: container.wait_ready()? }]),
        Request::Limits(limits) => container.set_limits(limits),
        Request::Exec | Request::Create | Request::Forward { .. } | Request::Select { .. } => {
            return Err(Failure::new(FailureKind::Internal, "carried out elsewhere"));
        }
    }
    Ok(vec![Event::Done])
}

/// A list in messages that are not too long.
fn pages(list: Vec<ProcessInfo>) -> Vec<Event> {
    let mut pages: Vec<Event> = list.chunks(LISTED).map(|part| Event::Processes { list: part.to_vec(), more: true }).collect();
    pages.push(Event::Processes { list: Vec::new(), more: false });
    pages
}
