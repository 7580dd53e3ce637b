//! Watches a running sandbox, or a process in one: passes on signals and characters, and reports its end.

use super::{Child, Sandbox, jail};
use crate::console::Proxy;
use crate::exit::{Failure, Result, Status};
use control::{Event, Request, decode, encode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a sentry that has reported its end may take to end.
const GRACE: Duration = Duration::from_secs(5);

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The container waits to be started.
    Created,
    /// The process has started.
    Started,
    /// The process has ended with this wait status.
    Exited(i32),
}

/// Whose end the monitor waits for.
#[derive(Debug)]
pub enum Watched {
    /// A sandbox of its own.
    Sandbox {
        /// The process that holds the kernel.
        sentry: Child,
        /// The process that opens files.
        gofer: Child,
    },
    /// A container in another one's sandbox: it ends with the connection.
    Container {
        /// The process that opens files.
        gofer: Child,
    },
    /// A container's stand-in, which is a child and ends as the container does.
    StandIn(Child),
    /// A process that was started over the connection.
    Process,
}

/// Watches.
#[derive(Debug)]
pub struct Monitor {
    control: OwnedFd,
    watched: Watched,
    signals: File,
    proxy: Option<Proxy>,
    /// This process is a stand-in in the background: signals to it are meant for the application, its terminal is the application's.
    background: bool,
    /// The host's `/dev`, which is not seen by its name later on.
    devices: Option<File>,
    /// The gofer has ended because the sentry has closed its connection: the sentry's own end is at hand.
    gofer_done: bool,
}

/// The signals that are passed on: all, except the ones that tell of faults of the runtime itself, that cannot be blocked, or
/// that are about the runtime's own children and terminal output.
fn forwarded() -> impl Iterator<Item = i32> {
    let own = [
        libc::SIGKILL,
        libc::SIGSTOP,
        libc::SIGCHLD,
        libc::SIGPIPE,
        libc::SIGURG,
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGFPE,
        libc::SIGILL,
        libc::SIGTRAP,
        libc::SIGABRT,
        libc::SIGSYS,
        libc::SIGTTIN,
        libc::SIGTTOU,
        // The C library's own.
        32,
        33,
    ];
    (1..=64).filter(move |signal| !own.contains(signal))
}

/// Takes the signals of this process as data from now on. To be called before the sandbox is made, so that none is lost; the
/// processes of the sandbox start with none blocked.
pub fn take_signals() -> Result<File> {
    jail::signal_descriptor(forwarded()).map_err(Failure::internal("signalfd"))
}

impl Monitor {
    /// A monitor of `sandbox`. `signals` is from [`take_signals`].
    pub fn of_sandbox(sandbox: Sandbox, signals: File, proxy: Option<Proxy>, background: bool) -> Monitor {
        let Sandbox { sentry, gofer, control } = sandbox;
        Monitor::new(control, Watched::Sandbox { sentry, gofer }, signals, proxy, background)
    }

    /// A monitor of whatever is watched, over a connection to its sentry.
    pub fn new(control: OwnedFd, watched: Watched, signals: File, proxy: Option<Proxy>, background: bool) -> Monitor {
        let devices = background.then(|| File::open("/dev").ok()).flatten();
        Monitor { control, watched, signals, proxy, background, devices, gofer_done: false }
    }

    /// Watches until something has happened.
    pub fn next(&mut self) -> Result<Outcome> {
        loop {
            if let Some(outcome) = self.step(None)? {
                return Ok(outcome);
            }
        }
    }

    /// Watches until the process has ended: its wait status.
    pub fn until_exit(&mut self) -> Result<i32> {
        loop {
            if let Outcome::Exited(status) = self.next()? {
                return Ok(status);
            }
        }
    }

    /// Starts a sandbox's first process, and watches until it has ended: its wait status.
    pub fn run(&mut self) -> Result<i32> {
        if let Outcome::Exited(status) = self.next()? {
            return Ok(status);
        }
        self.send(&Request::Start);
        self.until_exit()
    }

    /// Waits for something to happen, and handles it. After an error the sandbox is of no further use.
    fn step(&mut self, timeout: Option<&Timespec>) -> Result<Option<Outcome>> {
        let ready = self.wait(timeout)?;
        if ready.output {
            self.proxy.as_mut().map(Proxy::on_output);
        }
        if ready.input
            && let Some(proxy) = &mut self.proxy
        {
            proxy.on_input();
        }
        if ready.master_writable
            && let Some(proxy) = &mut self.proxy
        {
            proxy.flush();
        }
        if ready.signal {
            self.on_signals();
        }
        // What the sentry said before it ended comes before its end.
        if ready.control || ready.process {
            if let Some(event) = self.receive()? {
                return self.on_event(event).map(Some);
            }
            if ready.process || matches!(self.watched, Watched::Process | Watched::Container { .. }) {
                return self.on_end().map(Some);
            }
        }
        if ready.gofer
            && let Watched::Sandbox { gofer, .. } | Watched::Container { gofer } = &mut self.watched
        {
            if gofer.ended_well() {
                self.gofer_done = true;
                return Ok(None);
            }
            let what = gofer.epitaph();
            if let Watched::Sandbox { sentry, .. } = &self.watched {
                sentry.kill();
            }
            self.finish();
            return Err(Failure::new(Status::Internal, format!("the gofer {what}; see the log (--debug --log FILE)")));
        }
        Ok(None)
    }

    /// What is watched has ended, and has said nothing.
    fn on_end(&mut self) -> Result<Outcome> {
        let failure = match &mut self.watched {
            Watched::Sandbox { sentry, .. } => {
                let what = sentry.epitaph();
                Failure::new(Status::Internal, format!("the sentry {what}; see the log (--debug --log FILE)"))
            }
            Watched::StandIn(child) => {
                let status = child.wait().map_or(0, |status| status.as_raw());
                self.finish();
                return Ok(Outcome::Exited(status));
            }
            Watched::Container { .. } => Failure::new(Status::Killed, "the sandbox has ended"),
            Watched::Process => Failure::new(Status::Killed, "the container has ended"),
        };
        self.finish();
        Err(failure)
    }

    /// poll(2) over everything that can happen.
    fn wait(&self, timeout: Option<&Timespec>) -> Result<Ready> {
        let stdin = rustix::stdio::stdin();
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        // A stand-in tells by its end; its sentry goes at the same time.
        let control = (!matches!(self.watched, Watched::StandIn(_))).then(|| {
            fds.push(PollFd::new(&self.control, PollFlags::IN));
            fds.len() - 1
        });
        let process = match &self.watched {
            Watched::Sandbox { sentry: child, .. } | Watched::StandIn(child) => Some(child),
            Watched::Container { .. } | Watched::Process => None,
        }
        .map(|child| {
            fds.push(PollFd::new(child, PollFlags::IN));
            fds.len() - 1
        });
        let gofer = match &self.watched {
            Watched::Sandbox { gofer, .. } | Watched::Container { gofer } if !self.gofer_done => {
                fds.push(PollFd::new(gofer, PollFlags::IN));
                Some(fds.len() - 1)
            }
            _ => None,
        };
        let mut input = None;
        let mut master = None;
        let borrowed = self.proxy.as_ref().map(Proxy::master);
        if let (Some(proxy), Some((fd, read, write))) = (&self.proxy, &borrowed) {
            if proxy.wants_input() {
                input = Some(fds.len());
                fds.push(PollFd::new(&stdin, PollFlags::IN));
            }
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, *read);
            flags.set(PollFlags::OUT, *write);
            // A master whose slave is closed is ready all the time: leave it out then.
            if *read {
                master = Some(fds.len());
                fds.push(PollFd::new(fd, flags));
            }
        }
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Ready::default()),
            Err(error) => return Err(Failure::internal("poll")(error)),
        }
        let any =
            |index: Option<usize>, wanted: PollFlags| index.and_then(|i| fds.get(i)).is_some_and(|fd| fd.revents().intersects(wanted));
        let readable = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
        Ok(Ready {
            control: any(control, readable),
            process: any(process, readable),
            gofer: any(gofer, readable),
            signal: any(Some(0), readable),
            input: any(input, readable),
            output: any(master, readable),
            master_writable: any(master, PollFlags::OUT),
        })
    }

    /// The sentry's next message, if there is one.
    fn receive(&self) -> Result<Option<Event>> {
        let mut buffer = vec![0; control::MAX_MESSAGE + 1];
        loop {
            match recv(&self.control, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) | Err(Errno::AGAIN | Errno::CONNRESET) => return Ok(None),
                Ok((count, _)) => {
                    return decode(&buffer[..count]).map(Some).map_err(Failure::internal("from the sentry"));
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(Failure::internal("control socket")(error)),
            }
        }
    }

    fn on_event(&mut self, event: Event) -> Result<Outcome> {
        match event {
            Event::Created => Ok(Outcome::Created),
            Event::Started { .. } => Ok(Outcome::Started),
            Event::Exited { wait_status } => {
                self.finish();
                Ok(Outcome::Exited(wait_status))
            }
            Event::Failed { kind, message } => {
                self.finish();
                Err(Failure::new(kind.into(), message))
            }
            other => Err(Failure::new(Status::Internal, format!("from the sentry: {other:?} was not asked for"))),
        }
    }

    /// Waits for the sandbox's end, which is at hand, and passes on the application's last characters.
    fn finish(&mut self) {
        let deadline = Instant::now() + GRACE;
        while let Watched::Sandbox { .. } = self.watched
            && let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            let Ok(ready) = self.wait(Some(&timeout)) else { break };
            if ready.output {
                self.proxy.as_mut().map(Proxy::on_output);
            }
            if ready.input {
                // Nobody is left to read it.
                break;
            }
            if ready.process {
                break;
            }
            if ready.control && matches!(self.receive(), Ok(None)) {
                break;
            }
        }
        if let Watched::Sandbox { sentry, .. } = &mut self.watched {
            sentry.kill();
            sentry.wait();
        }
        if let Some(proxy) = &mut self.proxy {
            proxy.drain();
        }
        if let Watched::Sandbox { gofer, .. } | Watched::Container { gofer } = &mut self.watched {
            gofer.kill();
            gofer.wait();
        }
    }

    /// Reads the signals that have arrived, and passes them on.
    fn on_signals(&mut self) {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        while matches!((&self.signals).read(&mut info), Ok(count) if count == info.len()) {
            // ssi_signo is the first field.
            let Some(signal) = info.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)) else { return };
            self.on_signal(signal);
        }
    }

    fn on_signal(&mut self, signal: i32) {
        match (&self.proxy, signal) {
            (Some(proxy), libc::SIGWINCH) => {
                proxy.resize();
                self.send(&Request::Resize);
            }
            // The terminal of a stand-in's session is the application's.
            (None, libc::SIGWINCH) if self.background => self.send(&Request::Resize),
            // The sentry notices by itself that its terminal is gone.
            (None, libc::SIGHUP) if self.background && self.has_terminal() => {}
            (None, libc::SIGTSTP) if !self.background => {
                // Job control of the shell that started us: the application stops with us.
                self.forward(signal);
                jail::stop_self();
                self.forward(libc::SIGCONT);
            }
            _ => self.forward(signal),
        }
    }

    /// Whether this process's session has a controlling terminal.
    fn has_terminal(&self) -> bool {
        let Some(devices) = &self.devices else { return false };
        openat(devices, "tty", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).is_ok()
    }

    fn forward(&self, signal: i32) {
        self.send(&Request::SignalOwn { sig: signal });
    }

    /// Sends a request that is not answered, or whose answer is waited for with [`next`](Self::next).
    pub fn send(&self, request: &Request) {
        let Ok(packet) = encode(request) else { return };
        if let Err(error) = send(self.control.as_fd(), &packet, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            tracing::debug!("{request:?} is lost: {error}");
        }
    }
}

/// What poll(2) found.
#[derive(Clone, Copy, Debug, Default)]
struct Ready {
    control: bool,
    process: bool,
    gofer: bool,
    signal: bool,
    input: bool,
    output: bool,
    master_writable: bool,
}
