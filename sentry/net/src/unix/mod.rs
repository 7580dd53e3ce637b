//! AF_UNIX: unix(7).
//!
//! [`Sock`] is a socket of any kind. A connected stream's bytes, and every datagram, wait as [`packet::Packet`]s in the receiver's queue
//! and are charged to the sender's buffer until they are read. [`address`] finds who is bound where, [`rights`] collects circles of
//! sockets that are only to be found in one another's queues.

mod address;
mod connect;
mod dgram;
mod host;
mod options;
mod packet;
mod rights;
mod sock;
mod stream;
#[cfg(test)]
mod tests;

pub use address::receive_at;
pub use sock::Sock;

use abi::{Result, bail, libc};
use kernel::{
    Kernel,
    net::{Family, SocketKind, SocketOps, Ucred},
    task::{Task, current},
};
use std::sync::Arc;

/// The family.
pub struct UnixFamily;

fn check(kind: SocketKind, protocol: i32) -> Result<SocketKind> {
    if protocol != 0 && protocol != libc::AF_UNIX {
        bail!(EPROTONOSUPPORT, "protocol {protocol}");
    }
    // Linux takes raw sockets for datagram sockets.
    Ok(if kind == SocketKind::Raw { SocketKind::Dgram } else { kind })
}

/// Credentials, and the pid namespace that the number of the process is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// The credentials.
    pub ucred: Ucred,
    /// The namespace's number.
    pub pids: u64,
}

impl Sender {
    /// As the task sees them that looks: where it does not see the process, that is 0.
    #[must_use]
    pub fn seen(self) -> Ucred {
        match current() {
            Some(viewer) if viewer.pids().number != self.pids => Ucred { pid: 0, ..self.ucred },
            _ => self.ucred,
        }
    }
}

/// A task's credentials as the other side is told them.
pub(crate) fn ucred(task: &Task) -> Sender {
    let c = task.cred();
    Sender { ucred: Ucred { pid: task.tgid(), uid: c.euid, gid: c.egid }, pids: task.pids().number }
}

impl Family for UnixFamily {
    fn domain(&self) -> i32 {
        libc::AF_UNIX
    }

    fn create(&self, task: &Task, kind: SocketKind, protocol: i32) -> Result<Arc<dyn SocketOps>> {
        Ok(Sock::new(check(kind, protocol)?, ucred(task), &address::names(task.kernel())))
    }

    fn pair(&self, task: &Task, kind: SocketKind, protocol: i32) -> Result<(Arc<dyn SocketOps>, Arc<dyn SocketOps>)> {
        let groups = task.cred().groups.clone();
        let (a, b) = Sock::pair(check(kind, protocol)?, ucred(task), groups, &address::names(task.kernel()));
        Ok((a, b))
    }

    fn proc_net(&self, kernel: &Kernel, name: &str) -> Option<String> {
        (name == "unix").then(|| address::names(kernel).show())
    }
}
