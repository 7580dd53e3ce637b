//! AF_INET and AF_INET6: TCP and UDP.
//!
//! [`InetSock`] is a socket of either kind and family; [`ports`] knows who is bound where. What stays in this sandbox goes from queue to
//! queue ([`tcp`], [`udp`]), without packets; what does not goes through the [`Stack`] ([`outside`]).

mod address;
mod control;
mod cookies;
mod multicast;
mod options;
pub mod outside;
mod ports;
mod sock;
mod tap;
mod tcp;
mod tcp_info;
#[cfg(test)]
mod tests;
mod tuples;
mod udp;

pub use address::{encode, parse, scope};
pub use control::{error as error_message, outgoing};
pub use options::Extra;
pub use ports::Ports;
pub use sock::{InetSock, SocketError};
pub use udp::{udp_error, udp_input};

use crate::{raw::RawSock, stack::Stack};
use abi::{Result, bail, libc};
use kernel::{
    Kernel,
    cred::CapSet,
    net::{Family, SocketKind, SocketOps},
    task::Task,
};
use std::sync::Arc;

/// A connection of the sentry's own to whoever listens on this port of loopback, by IPv4 or else by IPv6.
pub fn connect_loopback(kernel: &Kernel, port: u16) -> Result<Arc<dyn SocketOps>> {
    let stack = Stack::of(kernel);
    let attempt = |v6: bool| -> Result<Arc<dyn SocketOps>> {
        let sock = InetSock::new(v6, SocketKind::Stream, &stack, 0);
        let ip: std::net::IpAddr = if v6 { std::net::Ipv6Addr::LOCALHOST.into() } else { std::net::Ipv4Addr::LOCALHOST.into() };
        match sock.connect_tcp(&address::encode((ip, port).into(), v6)) {
            Err(error) if error.is(abi::Errno::EINPROGRESS) => {}
            other => other?,
        }
        // A listener whose queue is full lets it wait: what is sent meanwhile waits, too.
        match sock.connect_tcp_result() {
            Err(error) if !error.is(abi::Errno::EAGAIN) => Err(error),
            _ => Ok(sock),
        }
    };
    attempt(false).or_else(|_| attempt(true))
}

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
        let stack = Stack::of(task.kernel());
        let ping = if self.v6 { libc::IPPROTO_ICMPV6 } else { libc::IPPROTO_ICMP };
        match (kind, protocol) {
            (SocketKind::Stream, 0 | libc::IPPROTO_TCP) | (SocketKind::Dgram, 0 | libc::IPPROTO_UDP) => {
                Ok(InetSock::new(self.v6, kind, &stack, task.cred().euid))
            }
            (SocketKind::Dgram, p) if p == ping => {
                let (first, last) = stack.settings.ping_groups();
                let cred = task.cred();
                if !std::iter::once(cred.egid).chain(cred.groups.iter().copied()).any(|g| (first..=last).contains(&g)) {
                    bail!(EACCES, "none of the groups that may ping");
                }
                Ok(RawSock::new(self.v6, p as u8, true, &stack))
            }
            (SocketKind::Raw, 1..256) => {
                task.cred().require(CapSet::NET_RAW)?;
                Ok(RawSock::new(self.v6, protocol as u8, false, &stack))
            }
            (SocketKind::SeqPacket, _) => bail!(ESOCKTNOSUPPORT),
            (_, p) if !(0..256).contains(&p) => bail!(EINVAL, "protocol {protocol}"),
            _ => bail!(EPROTONOSUPPORT, "protocol {protocol}"),
        }
    }

    fn proc_net(&self, kernel: &Kernel, name: &str) -> Option<String> {
        let stack = Stack::of(kernel);
        let kind = match (self.v6, name) {
            (false, "tcp") | (true, "tcp6") => SocketKind::Stream,
            (false, "udp") | (true, "udp6") => SocketKind::Dgram,
            (false, "raw") | (true, "raw6") => return Some(stack.raw.show(self.v6)),
            (false, _) => return stack.show(name),
            _ => return None,
        };
        Some(stack.ports.show(self.v6, kind, &stack))
    }
}
