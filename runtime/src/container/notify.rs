//! `NOTIFY_SOCKET`: an application that tells a service manager when it is ready (sd_notify(3)). As with runc, the manager's own socket stays
//! outside: the sentry has one of its own for the container, and what arrives there is passed on once: that it is ready.

use super::{Container, ProcessId};
use crate::exit::{Failure, Result, Status};
use crate::spec::Plan;
use control::{Event, NOTIFY_SOCKET, Request};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The variable of managers and applications.
const VARIABLE: &str = "NOTIFY_SOCKET";
/// How long the manager may take to read what it was sent.
const ACKNOWLEDGED: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

/// The manager's socket, if there is one that wants to be told.
fn manager() -> Option<String> {
    std::env::var(VARIABLE).ok().filter(|name| !name.is_empty())
}

/// When a container is made: its socket, and the variable.
pub fn prepare(plan: &mut Plan) {
    if manager().is_none() {
        return;
    }
    plan.boot.notify = true;
    let env = &mut plan.boot.process.env;
    env.retain(|entry| !entry.strip_prefix(VARIABLE).is_some_and(|rest| rest.starts_with('=')));
    env.push(format!("{VARIABLE}={NOTIFY_SOCKET}"));
}

/// The manager, to be told when a container that is about to be started is ready.
#[derive(Debug)]
pub struct Notify(UnixDatagram);

impl Notify {
    /// For this container, if it was made for a manager and there is one.
    pub fn of(container: &Container) -> Result<Option<Notify>> {
        let Some(name) = manager().filter(|_| container.record.notify) else { return Ok(None) };
        let connect = || -> io::Result<UnixDatagram> {
            let address = match name.strip_prefix('@') {
                Some(name) => SocketAddr::from_abstract_name(name)?,
                None => SocketAddr::from_pathname(&name)?,
            };
            let socket = UnixDatagram::unbound()?;
            socket.connect_addr(&address)?;
            Ok(socket)
        };
        connect().map(|socket| Some(Notify(socket))).map_err(Failure::context(Status::Host, format_args!("{VARIABLE}={name}")))
    }

    /// Waits until the application says that it is ready, and tells the manager, which shall watch `main` from then on: the stand-in if
    /// nobody is named. Returns as well when the container has ended.
    pub fn forward(&self, container: &Container, main: Option<i32>) -> Result<()> {
        let Some(client) = container.client()? else { return Ok(()) };
        client.send(&Request::Ready, &[])?;
        let ready = match client.receive(None) {
            Ok(Event::Ready { line: Some(line) }) => line,
            Ok(Event::Ready { line: None }) => return Ok(()),
            Ok(other) => return Err(Failure::new(Status::Internal, format!("from the sentry: {other:?} was not asked for"))),
            Err(failure) if failure.status == Status::NotRunning => return Ok(()),
            Err(failure) => return Err(failure),
        };
        // What an application says is the manager's to read: one line, and about this alone.
        if !ready.starts_with("READY=") || ready.contains('\n') {
            return Err(Failure::new(Status::Internal, format!("from the sentry: {ready:?} does not say that anything is ready")));
        }
        let main = main.or_else(|| Some(container.record.stand_in?.pid)).unwrap_or(0);
        self.tell(&ready, main).map_err(Failure::context(Status::Host, VARIABLE))
    }

    fn tell(&self, ready: &str, main: i32) -> io::Result<()> {
        self.0.send(format!("{ready}\n").as_bytes())?;
        self.0.send(format!("MAINPID={main}\n").as_bytes())?;
        // The manager closes its copy of the pipe when it has read this far.
        let (reader, writer) = io::pipe()?;
        send_with(&self.0, b"BARRIER=1", writer.as_fd())?;
        drop(writer);
        poll(&mut [PollFd::new(&reader, PollFlags::empty())], Some(&ACKNOWLEDGED))?;
        Ok(())
    }
}

/// In the background, for a verb that stays.
pub fn forward_meanwhile(notify: Notify, container: &Container) -> Result<()> {
    let (root, id) = (container.root().to_owned(), container.record.id.clone());
    let own = std::process::id().cast_signed();
    let of: Option<ProcessId> = container.record.stand_in;
    let forward = move || {
        let told = Container::open(&root, &id).and_then(|container| match container.record.stand_in == of {
            true => notify.forward(&container, Some(own)),
            false => Ok(()),
        });
        if let Err(failure) = told {
            tracing::warn!("{failure}");
        }
    };
    std::thread::Builder::new().name("notify".into()).spawn(forward).map(drop).map_err(Failure::internal("a thread"))
}

fn send_with(socket: &UnixDatagram, message: &[u8], fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(socket, &[IoSlice::new(message)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}
