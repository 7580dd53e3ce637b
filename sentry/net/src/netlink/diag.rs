//! NETLINK_SOCK_DIAG: sock_diag(7), TCP and UDP sockets for ss. Others are refused, after which ss reads /proc/net.

use super::{Answer, NLM_F_MULTI, Request, bytes};
use crate::inet::InetSock;
use crate::stack::Stack;
use abi::{Errno, libc};
use kernel::net::{SocketKind, SocketOps};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

const SOCK_DIAG_BY_FAMILY: u16 = 20;

/// `__be32[4]` of an address.
fn words(ip: IpAddr, v6: bool) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) if v6 && !ip.is_unspecified() => ip.to_ipv6_mapped().octets(),
        IpAddr::V4(ip) => {
            let mut b = [0; 16];
            b[..4].copy_from_slice(&ip.octets());
            b
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// What a line of ss says.
struct Shown {
    local: SocketAddr,
    remote: SocketAddr,
    v6: bool,
    state: u8,
    /// `idiag_timer`: 3 for TIME_WAIT.
    timer: u8,
    queues: (usize, usize),
    uid: u32,
    ino: u64,
}

impl Shown {
    fn of(sock: &InetSock, ino: u64) -> Shown {
        let (local, remote, state, queued, waiting) = sock.shown();
        Shown { local, remote, v6: sock.is_v6(), state, timer: 0, queues: (queued, waiting), uid: sock.uid, ino }
    }

    /// `struct inet_diag_msg`
    fn message(&self, a: &mut Answer) {
        let mut b = vec![(if self.v6 { libc::AF_INET6 } else { libc::AF_INET }) as u8, self.state, self.timer, 0];
        for end in [self.local, self.remote] {
            b.extend_from_slice(&end.port().to_be_bytes());
        }
        for end in [self.local, self.remote] {
            b.extend_from_slice(&words(end.ip(), self.v6));
        }
        // Interface; cookie.
        b.extend_from_slice(&0u32.to_ne_bytes());
        b.extend_from_slice(&self.ino.to_ne_bytes());
        for n in [0, self.queues.0 as u32, self.queues.1 as u32, self.uid, self.ino as u32] {
            b.extend_from_slice(&n.to_ne_bytes());
        }
        a.message(SOCK_DIAG_BY_FAMILY, NLM_F_MULTI, &b, &[(8, &[0])]);
    }
}

/// Answers a request: dumps alone.
pub fn answer(stack: &Arc<Stack>, r: Request, body: &[u8], a: &mut Answer) -> Result<(), Errno> {
    let (Some([family, protocol, _, _]), Some(states)) = (bytes(body, 0), bytes(body, 4).map(u32::from_ne_bytes)) else {
        return Err(Errno::EINVAL);
    };
    let kind = match i32::from(protocol) {
        libc::IPPROTO_TCP => SocketKind::Stream,
        libc::IPPROTO_UDP => SocketKind::Dgram,
        _ => return Err(Errno::ENOENT),
    };
    let v6 = match i32::from(family) {
        libc::AF_INET => false,
        libc::AF_INET6 => true,
        _ => return Err(Errno::ENOENT),
    };
    if r.kind != SOCK_DIAG_BY_FAMILY || !r.is_dump() {
        return Err(Errno::EOPNOTSUPP);
    }
    let open = stack.ports.all();
    let mut all: Vec<Shown> = open.iter().filter(|(_, s)| s.kind() == kind && s.is_listed()).map(|(ino, s)| Shown::of(s, *ino)).collect();
    if kind == SocketKind::Stream {
        // Connections whose descriptor is closed.
        all.extend(stack.connections.all().iter().filter(|s| s.inode() == 0).map(|s| Shown::of(s, 0)));
        all.extend(stack.ports.left().into_iter().map(|(local, remote, left)| Shown {
            local,
            remote,
            v6: left.v6,
            state: left.state,
            timer: 3,
            queues: (0, 0),
            uid: 0,
            ino: 0,
        }));
    }
    for shown in all.iter().filter(|s| s.v6 == v6 && states >> s.state & 1 != 0) {
        shown.message(a);
    }
    Ok(())
}
