//! `struct sockaddr_in` and `sockaddr_in6`.

use abi::{Result, bail, libc};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes of `struct sockaddr_in`.
const V4_LEN: usize = 16;
/// Bytes of `struct sockaddr_in6` that a call must give (without the scope).
const V6_MIN: usize = 24;

fn field<const N: usize>(raw: &[u8], at: usize) -> Option<[u8; N]> {
    raw.get(at..)?.first_chunk::<N>().copied()
}

/// The family of a `sockaddr`.
pub fn family(raw: &[u8]) -> i32 {
    field(raw, 0).map_or(libc::AF_UNSPEC, |f| i32::from(u16::from_ne_bytes(f)))
}

/// From a `sockaddr` given to a socket of AF_INET or (`v6`) AF_INET6. Mapped IPv4 addresses become IPv4 ones.
pub fn parse(raw: &[u8], v6: bool) -> Result<SocketAddr> {
    if raw.len() < if v6 { V6_MIN } else { V4_LEN } {
        bail!(EINVAL, "address too short");
    }
    let Some(port) = field(raw, 2).map(u16::from_be_bytes) else { bail!(EINVAL, "address too short") };
    match family(raw) {
        libc::AF_INET if !v6 => match field::<4>(raw, 4) {
            Some(ip) => Ok(SocketAddr::from((ip, port))),
            _ => bail!(EINVAL, "address too short"),
        },
        libc::AF_INET6 if v6 => match field::<16>(raw, 8) {
            Some(ip) => Ok(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(ip)).to_canonical(), port)),
            _ => bail!(EINVAL, "address too short"),
        },
        _ => bail!(EAFNOSUPPORT, "address of another family"),
    }
}

/// As [`encode`], of an address that was seen on a device: link-local ones mean that device (ipv6(7)).
pub fn encode_on(addr: SocketAddr, v6: bool, device: u32) -> Vec<u8> {
    let mut out = encode(addr, v6);
    if v6
        && matches!(addr.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local())
        && let Some(scope) = out.last_chunk_mut::<4>()
    {
        *scope = device.to_ne_bytes();
    }
    out
}

/// As a `sockaddr` of a socket of AF_INET or (`v6`) AF_INET6.
pub fn encode(addr: SocketAddr, v6: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(28);
    let family = if v6 { libc::AF_INET6 } else { libc::AF_INET } as u16;
    out.extend_from_slice(&family.to_ne_bytes());
    out.extend_from_slice(&addr.port().to_be_bytes());
    if v6 {
        let ip = match addr.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&ip.octets());
        out.extend_from_slice(&[0; 4]);
    } else {
        let ip = match addr.ip() {
            IpAddr::V4(ip) => ip,
            IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        };
        out.extend_from_slice(&ip.octets());
        out.extend_from_slice(&[0; 8]);
    }
    out
}

/// The address `any` of a family.
pub fn unspecified(v6: bool) -> SocketAddr {
    if v6 { SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)) } else { SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)) }
}

/// Where a destination really leads: "any" means this host.
pub fn destination(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

/// The scope of a `sockaddr_in6`: the device that a link-local address belongs to.
pub fn scope(raw: &[u8]) -> Option<u32> {
    if family(raw) != libc::AF_INET6 {
        return None;
    }
    field::<4>(raw, 24).map(u32::from_ne_bytes).filter(|&s| s != 0)
}
