//! Watches a running sandbox: passes on signals and characters, and turns its end into an exit status.

use super::{Sandbox, jail};
use crate::console::Proxy;
use crate::exit::{Failure, Result, Status, of_wait_status};
use control::{Event, Request, decode, encode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// How long a sentry that has reported its end may take to end.
const GRACE: Duration = Duration::from_secs(5);

/// What the sentry has reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The application has ended with this exit status.
    Exited(u8),
    /// The application has started.
    Started,
}

/// The signals of a process that is in the foreground, and how it passes them on.
#[derive(Debug)]
pub struct Monitor {
    sandbox: Sandbox,
    signals: File,
    proxy: Option<Proxy>,
    /// `--detach`: signals to this process are not meant for the application.
    detached: bool,
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
    pub fn new(sandbox: Sandbox, signals: File, proxy: Option<Proxy>, detached: bool) -> Monitor {
        Monitor { sandbox, signals, proxy, detached, gofer_done: false }
    }

    /// The sentry's process ID.
    pub fn pid(&self) -> i32 {
        self.sandbox.sentry.pid()
    }

    /// Watches until the application has started, or has ended already.
    pub fn until_started(&mut self) -> Result<Outcome> {
        loop {
            if let Some(outcome) = self.step(None)? {
                return Ok(outcome);
            }
        }
    }

    /// Watches until the application has ended: its exit status.
    pub fn until_exit(&mut self) -> Result<u8> {
        loop {
            if let Some(Outcome::Exited(status)) = self.step(None)? {
                return Ok(status);
            }
        }
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
        if ready.control
            && let Some(event) = self.receive()?
        {
            return self.on_event(event).map(Some);
        }
        if ready.sentry {
            if let Some(event) = self.receive()? {
                return self.on_event(event).map(Some);
            }
            let what = self.sandbox.sentry.epitaph();
            self.finish();
            return Err(Failure::new(Status::Internal, format!("the sentry {what}; see the log (--debug --log FILE)")));
        }
        if ready.gofer && self.sandbox.gofer.ended_well() {
            self.gofer_done = true;
        } else if ready.gofer {
            let what = self.sandbox.gofer.epitaph();
            self.sandbox.sentry.kill();
            self.finish();
            return Err(Failure::new(Status::Internal, format!("the gofer {what}; see the log (--debug --log FILE)")));
        }
        Ok(None)
    }

    /// poll(2) over everything that can happen.
    fn wait(&self, timeout: Option<&Timespec>) -> Result<Ready> {
        let stdin = rustix::stdio::stdin();
        let mut fds = vec![
            PollFd::new(&self.sandbox.control, PollFlags::IN),
            PollFd::new(&self.sandbox.sentry, PollFlags::IN),
            PollFd::new(&self.signals, PollFlags::IN),
        ];
        let gofer = (!self.gofer_done).then_some(fds.len());
        if gofer.is_some() {
            fds.push(PollFd::new(&self.sandbox.gofer, PollFlags::IN));
        }
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
        let any = |index: Option<usize>, wanted: PollFlags| {
            index.and_then(|i| fds.get(i)).is_some_and(|fd| fd.revents().intersects(wanted))
        };
        let readable = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
        Ok(Ready {
            control: any(Some(0), readable),
            sentry: any(Some(1), readable),
            gofer: any(gofer, readable),
            signal: any(Some(2), readable),
            input: any(input, readable),
            output: any(master, readable),
            master_writable: any(master, PollFlags::OUT),
        })
    }

    /// The sentry's next message, if there is one.
    fn receive(&self) -> Result<Option<Event>> {
        let mut buffer = vec![0; control::MAX_MESSAGE + 1];
        loop {
            match recv(&self.sandbox.control, &mut buffer[..], RecvFlags::DONTWAIT) {
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
            Event::Started => Ok(Outcome::Started),
            Event::Exited { wait_status } => {
                self.finish();
                Ok(Outcome::Exited(of_wait_status(wait_status)))
            }
            Event::Failed { kind, message } => {
                self.finish();
                Err(Failure::new(kind.into(), message))
            }
        }
    }

    /// Waits for the sandbox's end, which is at hand, and passes on the application's last characters.
    fn finish(&mut self) {
        let deadline = Instant::now() + GRACE;
        while let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            let Ok(ready) = self.wait(Some(&timeout)) else { break };
            if ready.output {
                self.proxy.as_mut().map(Proxy::on_output);
            }
            if ready.input {
                // Nobody is left to read it.
                break;
            }
            if ready.sentry {
                break;
            }
            if ready.control && matches!(self.receive(), Ok(None)) {
                break;
            }
        }
        self.sandbox.sentry.kill();
        self.sandbox.sentry.wait();
        if let Some(proxy) = &mut self.proxy {
            proxy.drain();
        }
        self.sandbox.gofer.kill();
        self.sandbox.gofer.wait();
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
        if self.detached {
            return;
        }
        match (&self.proxy, signal) {
            (Some(proxy), libc::SIGWINCH) => proxy.resize(),
            (None, libc::SIGTSTP) => {
                // Job control of the shell that started us: the application stops with us.
                self.forward(signal);
                jail::stop_self();
                self.forward(libc::SIGCONT);
            }
            _ => self.forward(signal),
        }
    }

    fn forward(&self, signal: i32) {
        let Ok(packet) = encode(&Request::Signal { sig: signal }) else { return };
        if let Err(error) = send(self.sandbox.control.as_fd(), &packet, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            tracing::debug!("signal {signal} is lost: {error}");
        }
    }
}

/// What poll(2) found.
#[derive(Clone, Copy, Debug, Default)]
struct Ready {
    control: bool,
    sentry: bool,
    gofer: bool,
    signal: bool,
    input: bool,
    output: bool,
    master_writable: bool,
}
