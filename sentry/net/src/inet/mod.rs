//! AF_INET and AF_INET6 over loopback alone: TCP and UDP as queues between sockets of the sandbox, without packets.
//!
//! [`InetSock`] is a socket of either kind and family; [`ports`] knows who is bound where; [`tcp`] and [`udp`] move the bytes. Any
//! destination but loopback is `ENETUNREACH`, as in a network namespace whose only device is `lo`.

mod address;
mod options;
mod ports;
mod sock;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;

pub use sock::InetSock;

use abi::{Result, bail, libc};
use kernel::{
    Kernel,
    cred::CapSet,
    net::{Family, SocketKind, SocketOps},
    task::Task,
};
use std::sync::Arc;

/// AF_INET or AF_INET6.
pub struct InetFamily {
    /// The one with 16-byte addresses.
    pub v6: bool,
}

impl Family for InetFamily {
    fn domain(&self) -> i32 {
        if self.v6 { libc::AF_INET6 } else { libc::AF_INET }
    }

    fn create(&self, task: &Task, kind: SocketKind, protocol: i32) -> Result<Arc<dyn SocketOps>> {
        match (kind, protocol) {
            (SocketKind::Stream, 0 | libc::IPPROTO_TCP) | (SocketKind::Dgram, 0 | libc::IPPROTO_UDP) => {
                Ok(InetSock::new(self.v6, kind, &ports::Ports::of(task.kernel())))
            }
            (SocketKind::Raw, _) => {
                task.cred().require(CapSet::NET_RAW)?;
                bail!(EPROTONOSUPPORT, "no raw sockets");
            }
            (SocketKind::SeqPacket, _) => bail!(ESOCKTNOSUPPORT),
            _ => bail!(EPROTONOSUPPORT, "protocol {protocol}"),
        }
    }

    fn proc_net(&self, kernel: &Kernel, name: &str) -> Option<String> {
        let kind = match (self.v6, name) {
            (false, "tcp") | (true, "tcp6") => SocketKind::Stream,
            (false, "udp") | (true, "udp6") => SocketKind::Dgram,
            _ => return None,
        };
        Some(ports::Ports::of(kernel).show(self.v6, kind))
    }
}
