//! Control messages of datagrams: ip(7), ipv6(7), socket(7).

use super::{InetSock, SocketError, address, sock::Datagram};
use abi::{Result, bail, libc};
use kernel::net::{Control, SocketOps};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// `UDP_SEGMENT`
const UDP_SEGMENT: i32 = 103;

/// What control messages of a datagram that is to be sent ask for.
#[derive(Default)]
pub struct Asked {
    pub source: Option<IpAddr>,
    pub device: Option<u32>,
    pub ttl: Option<u8>,
    pub tos: Option<u8>,
    pub segment: Option<usize>,
}

fn int(data: &[u8]) -> Option<i32> {
    data.first_chunk().map(|b| i32::from_ne_bytes(*b))
}

/// Reads them.
pub fn outgoing(all: &[Control]) -> Result<Asked> {
    let mut asked = Asked::default();
    for c in all {
        let Control::Other(level, kind, data) = c else { continue };
        match (*level, *kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let (Some(device), Some(spec)) = (int(data), data.get(4..8).and_then(|b| b.first_chunk::<4>())) else {
                    bail!(EINVAL, "length of IP_PKTINFO")
                };
                asked.device = u32::try_from(device).ok().filter(|&d| d > 0);
                asked.source = Some(IpAddr::V4(Ipv4Addr::from(*spec))).filter(|ip| !ip.is_unspecified());
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let (Some(ip), Some(device)) = (data.first_chunk::<16>(), data.get(16..).and_then(int)) else {
                    bail!(EINVAL, "length of IPV6_PKTINFO")
                };
                asked.device = u32::try_from(device).ok().filter(|&d| d > 0);
                asked.source = Some(IpAddr::V6(Ipv6Addr::from(*ip)).to_canonical()).filter(|ip| !ip.is_unspecified());
            }
            (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                let Some(n) = int(data) else { bail!(EINVAL, "length of a TTL") };
                let Ok(n) = u8::try_from(n) else { bail!(EINVAL, "TTL {n}") };
                asked.ttl = Some(n);
            }
            (libc::IPPROTO_IP, libc::IP_TOS) | (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                asked.tos = match **data {
                    [b] => Some(b),
                    _ => int(data).map(|n| n as u8),
                };
            }
            (libc::SOL_UDP, UDP_SEGMENT) => {
                let Some(n) = data.first_chunk().map(|b| u16::from_ne_bytes(*b)) else { bail!(EINVAL, "length of UDP_SEGMENT") };
                asked.segment = Some(usize::from(n));
            }
            (libc::IPPROTO_IP | libc::IPPROTO_IPV6, _) => bail!(EINVAL, "control message {level}/{kind}"),
            _ => {}
        }
    }
    Ok(asked)
}

/// Adds those that the receiver has asked for.
pub fn incoming(sock: &InetSock, d: &Datagram, out: &mut Vec<Control>) {
    out.extend(sock.options().received_at(d.time));
    sock.extra.incoming(d.to, d.device, d.ttl, d.tos, sock.is_v6(), out);
}

/// `struct sock_extended_err` and the address of who told.
pub fn error(e: &SocketError, v4: bool) -> Control {
    let mut b = Vec::with_capacity(48);
    b.extend_from_slice(&(e.errno.raw() as u32).to_ne_bytes());
    b.extend_from_slice(&[e.origin, e.kind, e.code, 0]);
    b.extend_from_slice(&e.info.to_ne_bytes());
    b.extend_from_slice(&0u32.to_ne_bytes());
    match e.offender {
        Some(ip) => b.extend_from_slice(&address::encode(SocketAddr::new(ip, 0), !v4)),
        None => b.extend_from_slice(&if v4 { vec![0; 16] } else { vec![0; 28] }),
    }
    if v4 { Control::Other(libc::IPPROTO_IP, libc::IP_RECVERR, b) } else { Control::Other(libc::IPPROTO_IPV6, libc::IPV6_RECVERR, b) }
}
