//! Multicast membership: ip(7), RFC 3678. Membership decides what a socket hears; devices hear every
//! group (the runtime asks the host so), and tell of those that somebody has joined (`stack/membership.rs`).

use super::InetSock;
use abi::{Result, bail, error, libc};
use kernel::net::{OptionValue, SocketKind, SocketOps};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `igmp_max_memberships`
const MEMBERSHIPS_MAX: usize = 20;
const MCAST_JOIN_GROUP: i32 = 42;
const MCAST_LEAVE_GROUP: i32 = 45;

fn v4(b: &[u8], at: usize) -> Option<Ipv4Addr> {
    b.get(at..)?.first_chunk::<4>().map(|x| Ipv4Addr::from(*x))
}

fn index(b: &[u8], at: usize) -> Option<u32> {
    b.get(at..)?.first_chunk::<4>().map(|x| u32::from_ne_bytes(*x))
}

/// setsockopt(2) of these options; `None`: another.
pub fn set(sock: &InetSock, level: i32, name: i32, value: &[u8]) -> Option<Result> {
    let join = match (level, name) {
        (libc::IPPROTO_IP, libc::IP_MULTICAST_IF) => return Some(set_device(sock, value)),
        (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF) => return Some(set_device6(sock, value)),
        (libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP | MCAST_JOIN_GROUP) => true,
        (libc::IPPROTO_IP, libc::IP_DROP_MEMBERSHIP | MCAST_LEAVE_GROUP) => false,
        (libc::IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP | MCAST_JOIN_GROUP) => true,
        (libc::IPPROTO_IPV6, libc::IPV6_DROP_MEMBERSHIP | MCAST_LEAVE_GROUP) => false,
        _ => return None,
    };
    Some(request(sock, level, name, value).and_then(|(group, device)| change(sock, group, device, join)))
}

/// The group and device of `struct ip_mreqn`, `ip_mreq`, `ipv6_mreq` or `group_req`.
fn request(sock: &InetSock, level: i32, name: i32, value: &[u8]) -> Result<(IpAddr, u32)> {
    if sock.kind() == SocketKind::Stream {
        bail!(EPROTO, "a stream has one peer");
    }
    let short = || error!(EINVAL, "too short");
    if name == MCAST_JOIN_GROUP || name == MCAST_LEAVE_GROUP {
        let device = index(value, 0).ok_or_else(short)?;
        let address = value.get(8..).filter(|v| v.len() >= 28).ok_or_else(short)?;
        let group = super::address::parse(address, level == libc::IPPROTO_IPV6)?.ip();
        return Ok((group, find_device(sock, group, None, device)?));
    }
    if level == libc::IPPROTO_IPV6 {
        let group = value.first_chunk::<16>().map(|b| IpAddr::V6(Ipv6Addr::from(*b))).ok_or_else(short)?;
        let device = index(value, 16).ok_or_else(short)?;
        return Ok((group, find_device(sock, group, None, device)?));
    }
    let group = IpAddr::V4(v4(value, 0).ok_or_else(short)?);
    let address = v4(value, 4).ok_or_else(short)?;
    let device = index(value, 8).unwrap_or(0);
    Ok((group, find_device(sock, group, Some(address), device)?))
}

/// `ENODEV` where nothing says which device.
fn find_device(sock: &InetSock, group: IpAddr, address: Option<Ipv4Addr>, device: u32) -> Result<u32> {
    if !group.is_multicast() {
        bail!(EINVAL, "{group} is no group");
    }
    let table = sock.stack().table();
    if device != 0 {
        return table.device(device).map(|d| d.index).ok_or_else(|| error!(ENODEV));
    }
    if let Some(ip) = address.filter(|a| !a.is_unspecified()) {
        return sock.stack().local(ip.into()).map(|d| d.index).ok_or_else(|| error!(ENODEV));
    }
    sock.stack().path(group, None, None).map(|p| p.device.index).map_err(|_| error!(ENODEV, "no route to the group"))
}

fn change(sock: &InetSock, group: IpAddr, device: u32, join: bool) -> Result {
    let mut s = sock.lock();
    let at = s.groups.iter().position(|g| *g == (group, device));
    match (join, at) {
        (true, Some(_)) => bail!(EADDRINUSE, "joined already"),
        (true, None) if s.groups.len() >= MEMBERSHIPS_MAX => bail!(ENOBUFS, "too many groups"),
        (true, None) => s.groups.push((group, device)),
        (false, Some(i)) => {
            s.groups.remove(i);
        }
        (false, None) => bail!(EADDRNOTAVAIL, "not joined"),
    }
    drop(s);
    if join {
        sock.stack().joined(device, group)
    } else {
        sock.stack().left(device, group)
    }
    Ok(())
}

/// `IP_MULTICAST_IF`: an address, or `struct ip_mreqn`.
fn set_device(sock: &InetSock, value: &[u8]) -> Result {
    let (address, device) = match value.len() {
        0..4 => bail!(EINVAL, "too short"),
        12.. => (v4(value, 4), index(value, 8).unwrap_or(0)),
        8.. => (v4(value, 4), 0),
        _ => (v4(value, 0), 0),
    };
    let address = address.filter(|a| !a.is_unspecified());
    let found = if device != 0 {
        sock.stack().table().device(device).map(|d| d.index).ok_or_else(|| error!(EADDRNOTAVAIL))?
    } else if let Some(a) = address {
        sock.stack().local(a.into()).map(|d| d.index).ok_or_else(|| error!(EADDRNOTAVAIL))?
    } else {
        0
    };
    sock.extra.set_multicast_device(true, found, address.map(IpAddr::V4));
    Ok(())
}

fn set_device6(sock: &InetSock, value: &[u8]) -> Result {
    let device = OptionValue(value).int()? as u32;
    if device != 0 && sock.stack().table().device(device).is_none() {
        bail!(ENODEV);
    }
    sock.extra.set_multicast_device(false, device, None);
    Ok(())
}

impl InetSock {
    /// Whether the socket wants what comes to a group on a device: it has joined, or hears what anybody here has joined.
    pub(super) fn hears(&self, group: IpAddr, device: u32) -> bool {
        let joined = self.lock().groups.contains(&(group, device));
        if joined {
            return true;
        }
        let all_nodes = group == IpAddr::V4(Ipv4Addr::new(224, 0, 0, 1)) || group == IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
        if !self.extra.multicast_all(group.is_ipv4()) {
            return false;
        }
        let me: *const InetSock = self;
        all_nodes
            || self.stack.ports.all().iter().any(|(_, s)| !std::ptr::eq(me, &raw const **s) && s.lock().groups.contains(&(group, device)))
    }
}
