//! A verb's connection to a running sentry.
//!
//! Nothing that a sentry says is believed beyond what it is about: it may have been taken over by its application.

use crate::container::ProcessId;
use crate::exit::{Failure, Result, Status};
use control::{Event, MAX_MESSAGE, Request, decode, encode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect,
    listen, recv, sendmsg, socket_with,
};
use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// The socket's name in a container's directory.
const NAME: &str = "control";
/// Connections that wait to be taken.
const BACKLOG: i32 = 128;

/// A connection.
#[derive(Debug)]
pub struct Client(OwnedFd);

/// The address of the socket in `dir`, whose own path may be longer than a socket's may be. Valid while the file is open.
fn address(dir: &Path) -> std::io::Result<(File, SocketAddrUnix)> {
    let dir = File::open(dir)?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{NAME}", dir.as_raw_fd()))?;
    Ok((dir, address))
}

fn new_socket() -> rustix::io::Result<OwnedFd> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// A listening socket in a container's directory, for its sentry.
pub fn listener(dir: &Path) -> Result<OwnedFd> {
    let make = || -> std::io::Result<OwnedFd> {
        let (_dir, address) = address(dir)?;
        let socket = new_socket()?;
        bind(&socket, &address)?;
        listen(&socket, BACKLOG)?;
        Ok(socket)
    };
    make().map_err(Failure::context(Status::State, format_args!("cannot make the control socket in {}", dir.display())))
}

impl Client {
    /// Connects to the sentry of the container in `dir`; `None` if nobody listens.
    pub fn connect(dir: &Path) -> Result<Option<Client>> {
        let attempt = || -> std::io::Result<OwnedFd> {
            let (_dir, address) = address(dir)?;
            let socket = new_socket()?;
            connect(&socket, &address)?;
            Ok(socket)
        };
        match attempt() {
            Ok(socket) => Ok(Some(Client(socket))),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused) => Ok(None),
            Err(error) => Err(Failure::new(Status::State, format!("cannot connect to the sentry: {error}"))),
        }
    }

    /// Sends a request with descriptors.
    pub fn send(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let packet = encode(request).map_err(Failure::internal("a request"))?;
        let mut space = vec![std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(control::MAX_DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Failure::new(Status::Usage, "there are too many descriptors"));
        }
        sendmsg(&self.0, &[IoSlice::new(&packet)], &mut ancillary, SendFlags::NOSIGNAL).map_err(|error| match error {
            Errno::PIPE | Errno::CONNRESET => Failure::new(Status::NotRunning, "container not running"),
            error => Failure::internal("cannot reach the sentry")(error),
        })?;
        Ok(())
    }

    /// The next event. A failure that the sentry reports is an error.
    pub fn receive(&self, timeout: Option<Duration>) -> Result<Event> {
        self.receive_or_end(timeout)?.ok_or_else(|| Failure::new(Status::NotRunning, "container not running"))
    }

    /// The same; `None`: the sentry has ended.
    fn receive_or_end(&self, timeout: Option<Duration>) -> Result<Option<Event>> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let mut buffer = vec![0; MAX_MESSAGE + 1];
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let left = left.map(|left| Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() });
            match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], left.as_ref()) {
                Ok(0) => return Err(Failure::new(Status::Internal, "the sentry does not answer")),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(Failure::internal("poll")(error)),
            }
            match recv(&self.0, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) | Err(Errno::CONNRESET) => return Ok(None),
                Ok((count, _)) => {
                    return match decode(&buffer[..count]).map_err(Failure::internal("from the sentry"))? {
                        Event::Failed { kind, message } => Err(Failure::new(kind.into(), message)),
                        event => Ok(Some(event)),
                    };
                }
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(Failure::internal("cannot reach the sentry")(error)),
            }
        }
    }

    /// Sends a request, and waits for its answer.
    pub fn ask(&self, request: &Request, timeout: Duration) -> Result<Event> {
        self.send(request, &[])?;
        self.receive(Some(timeout))
    }

    /// As [`ask`](Self::ask), for a request that is answered by [`Event::Done`].
    pub fn command(&self, request: &Request, timeout: Duration) -> Result<()> {
        match self.ask(request, timeout)? {
            Event::Done => Ok(()),
            other => Err(Failure::new(Status::Internal, format!("from the sentry: {other:?} is no answer to {request:?}"))),
        }
    }

    /// As [`command`](Self::command); the sentry may also end instead of answering, once it has the request.
    pub fn command_or_end(&self, request: &Request, timeout: Duration) -> Result<()> {
        self.send(request, &[])?;
        match self.receive_or_end(Some(timeout))? {
            Some(Event::Done) | None => Ok(()),
            Some(other) => Err(Failure::new(Status::Internal, format!("from the sentry: {other:?} is no answer to {request:?}"))),
        }
    }

    /// The process that made the socket: its container's stand-in (`SO_PEERCRED`, unix(7)).
    pub fn stand_in(&self) -> Option<ProcessId> {
        let made_by = rustix::net::sockopt::socket_peercred(&self.0).ok()?;
        ProcessId::of(made_by.pid.as_raw_nonzero().get())
    }

    /// The connection itself.
    pub fn into_socket(self) -> OwnedFd {
        self.0
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
