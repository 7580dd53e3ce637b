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

/// `struct inet_diag_msg`
fn message(sock: &InetSock, ino: u64, a: &mut Answer) {
    let (local, remote, state, queued, waiting) = sock.shown();
    let v6 = sock.is_v6();
    let mut b = vec![(if v6 { libc::AF_INET6 } else { libc::AF_INET }) as u8, state, 0, 0];
    let port = |x: SocketAddr| x.port().to_be_bytes();
    b.extend_from_slice(&port(local));
    b.extend_from_slice(&port(remote));
    b.extend_from_slice(&words(local.ip(), v6));
    b.extend_from_slice(&words(remote.ip(), v6));
    // Interface; cookie.
    b.extend_from_slice(&0u32.to_ne_bytes());
    b.extend_from_slice(&ino.to_ne_bytes());
    for n in [0, queued as u32, waiting as u32, sock.uid, ino as u32] {
        b.extend_from_slice(&n.to_ne_bytes());
    }
    a.message(SOCK_DIAG_BY_FAMILY, NLM_F_MULTI, &b, &[(8, &[0])]);
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
    let mut all = stack.ports.all();
    if kind == SocketKind::Stream {
        // Connections whose descriptor is closed.
        all.extend(stack.connections.all().into_iter().filter(|s| s.inode() == 0).map(|s| (0, s)));
    }
    for (ino, sock) in all {
        let state = sock.shown().2;
        if sock.kind() == kind && sock.is_v6() == v6 && states >> state & 1 != 0 {
            message(&sock, ino, a);
        }
    }
    Ok(())
}
