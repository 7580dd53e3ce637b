//! rtnetlink(7), as far as taking over needs it.

use control::{Address, Interface, Route};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};
use std::io::{Error, Result};
use std::net::IpAddr;
use std::os::fd::OwnedFd;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const IFA_F_NODAD: u32 = 2;
const RTAX_MTU: u16 = 2;

/// A socket to the host's kernel.
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

/// An interface, and whether it is one to take.
pub struct Found {
    pub interface: Interface,
    pub up: bool,
    pub loopback: bool,
    pub ethernet: bool,
}

fn u16_at(b: &[u8], at: usize) -> Option<u16> {
    b.get(at..)?.first_chunk().map(|x| u16::from_ne_bytes(*x))
}

fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    b.get(at..)?.first_chunk().map(|x| u32::from_ne_bytes(*x))
}

fn ip(b: &[u8]) -> Option<IpAddr> {
    match b.len() {
        4 => b.first_chunk::<4>().map(|b| IpAddr::from(*b)),
        16 => b.first_chunk::<16>().map(|b| IpAddr::from(*b)),
        _ => None,
    }
}

/// The attributes behind a message's own structure.
fn attributes(mut b: &[u8]) -> Vec<(u16, &[u8])> {
    let mut all = Vec::new();
    while let (Some(len), Some(kind)) = (u16_at(b, 0), u16_at(b, 2)) {
        let len = usize::from(len);
        let Some(value) = b.get(4..len) else { break };
        all.push((kind & 0x3fff, value));
        b = b.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    all
}

/// Appends an attribute.
fn attribute(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    to.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
    to.extend_from_slice(&kind.to_ne_bytes());
    to.extend_from_slice(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// `struct ifaddrmsg` with the address.
fn message_of(index: u32, a: &Address) -> Vec<u8> {
    let family = if a.ip.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let mut body = vec![family as u8, a.prefix, 0, a.scope];
    body.extend_from_slice(&index.to_ne_bytes());
    attribute(&mut body, libc::IFA_LOCAL, &octets(a.ip));
    attribute(&mut body, libc::IFA_ADDRESS, &octets(a.ip));
    body
}

fn unless_there(done: Result<Vec<Vec<u8>>>) -> Result<()> {
    match done {
        Err(error) if error.raw_os_error() != Some(libc::EEXIST) => Err(error),
        _ => Ok(()),
    }
}

fn find<'a>(all: &[(u16, &'a [u8])], kind: u16) -> Option<&'a [u8]> {
    all.iter().find(|(k, _)| *k == kind).map(|(_, v)| *v)
}

impl Netlink {
    /// A new one, of NETLINK_ROUTE: protocol 0.
    pub fn open() -> Result<Netlink> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        Ok(Netlink { socket, sequence: 0 })
    }

    /// Sends a request; gives the bodies of all answers of this kind.
    fn ask(&mut self, kind: u16, flags: u16, body: &[u8], answers: u16) -> Result<Vec<Vec<u8>>> {
        self.sequence += 1;
        let mut request = ((16 + body.len()) as u32).to_ne_bytes().to_vec();
        request.extend_from_slice(&kind.to_ne_bytes());
        request.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        request.extend_from_slice(&self.sequence.to_ne_bytes());
        request.extend_from_slice(&[0; 4]);
        request.extend_from_slice(body);
        sendto(&self.socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut all = Vec::new();
        let mut buffer = vec![0; 1 << 17];
        loop {
            let (n, _) = recv(&self.socket, &mut buffer[..], RecvFlags::empty())?;
            let mut rest = buffer.get(..n).unwrap_or_default();
            while let (Some(len), Some(kind)) = (u32_at(rest, 0), u16_at(rest, 4)) {
                let len = len as usize;
                let Some(body) = rest.get(16..len) else { return Err(Error::other("a malformed answer of netlink")) };
                match i32::from(kind) {
                    libc::NLMSG_DONE => return Ok(all),
                    libc::NLMSG_ERROR => {
                        let code = u32_at(body, 0).map_or(0, u32::cast_signed);
                        return if code == 0 { Ok(all) } else { Err(Error::from_raw_os_error(-code)) };
                    }
                    _ if kind == answers => all.push(body.to_vec()),
                    _ => {}
                }
                rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }

    /// All interfaces with what belongs to them.
    pub fn interfaces(&mut self) -> Result<Vec<Found>> {
        let links = self.ask(libc::RTM_GETLINK, NLM_F_DUMP, &[0; 16], libc::RTM_NEWLINK)?;
        let addresses = self.ask(libc::RTM_GETADDR, NLM_F_DUMP, &[0; 8], libc::RTM_NEWADDR)?;
        let neighbours = self.ask(libc::RTM_GETNEIGH, NLM_F_DUMP, &[0; 12], libc::RTM_NEWNEIGH)?;
        let mut found: Vec<Found> = links.iter().filter_map(|l| link(l)).collect();
        for a in &addresses {
            if let Some((index, address)) = address(a)
                && let Some(f) = found.iter_mut().find(|f| f.interface.index == index)
            {
                f.interface.addresses.push(address);
            }
        }
        for n in &neighbours {
            let Some((index, state)) = u32_at(n, 4).zip(u16_at(n, 8)) else { continue };
            let all = attributes(n.get(12..).unwrap_or_default());
            let to = find(&all, libc::NDA_DST).and_then(ip);
            let mac = find(&all, libc::NDA_LLADDR).and_then(|m| <[u8; 6]>::try_from(m).ok());
            // NUD_PERMANENT
            if let (0x80, Some(to), Some(mac)) = (state, to, mac)
                && let Some(f) = found.iter_mut().find(|f| f.interface.index == index)
            {
                f.interface.neighbours.push((to, mac));
            }
        }
        Ok(found)
    }

    /// The main table's routes.
    pub fn routes(&mut self) -> Result<Vec<Route>> {
        let all = self.ask(libc::RTM_GETROUTE, NLM_F_DUMP, &[0; 12], libc::RTM_NEWROUTE)?;
        Ok(all.iter().filter_map(|r| route(r)).collect())
    }

    /// Brings an interface up.
    pub fn set_up(&mut self, index: u32) -> Result<()> {
        let up = libc::IFF_UP.cast_unsigned().to_ne_bytes();
        // struct ifinfomsg: flags, and which of them are to change.
        let body = [&[0; 4][..], &index.to_ne_bytes(), &up, &up].concat();
        self.ask(libc::RTM_NEWLINK, NLM_F_ACK, &body, 0).map(drop)
    }

    /// Takes an address off an interface; that it has gone by itself is as good.
    pub fn remove(&mut self, index: u32, a: &Address) -> Result<()> {
        match self.ask(libc::RTM_DELADDR, NLM_F_ACK, &message_of(index, a), 0) {
            Err(error) if error.raw_os_error() != Some(libc::EADDRNOTAVAIL) => Err(error),
            _ => Ok(()),
        }
    }

    /// Gives an interface an address; that it has it already is as good.
    pub fn add(&mut self, index: u32, a: &Address) -> Result<()> {
        let mut body = message_of(index, a);
        if let Some(broadcast) = a.broadcast {
            attribute(&mut body, libc::IFA_BROADCAST, &broadcast.octets());
        }
        if a.ip.is_ipv6() {
            // It was in use until now: nobody else has it.
            attribute(&mut body, libc::IFA_FLAGS, &IFA_F_NODAD.to_ne_bytes());
        }
        unless_there(self.ask(libc::RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &body, 0))
    }

    /// Adds a route to the main table; that it is there already is as good.
    pub fn add_route(&mut self, r: &Route) -> Result<()> {
        let family = if r.dst.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let mut body = vec![family as u8, r.prefix, 0, 0, libc::RT_TABLE_MAIN, r.protocol, r.scope, r.kind, 0, 0, 0, 0];
        if r.prefix > 0 {
            attribute(&mut body, libc::RTA_DST, &octets(r.dst));
        }
        if let Some(gateway) = r.gateway {
            attribute(&mut body, libc::RTA_GATEWAY, &octets(gateway));
        }
        if let Some(source) = r.source {
            attribute(&mut body, libc::RTA_PREFSRC, &octets(source));
        }
        attribute(&mut body, libc::RTA_OIF, &r.device.to_ne_bytes());
        if r.metric > 0 {
            attribute(&mut body, libc::RTA_PRIORITY, &r.metric.to_ne_bytes());
        }
        if let Some(mtu) = r.mtu {
            let mut metrics = Vec::new();
            attribute(&mut metrics, RTAX_MTU, &mtu.to_ne_bytes());
            attribute(&mut body, libc::RTA_METRICS, &metrics);
        }
        unless_there(self.ask(libc::RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &body, 0))
    }
}

/// `struct ifinfomsg`
fn link(b: &[u8]) -> Option<Found> {
    let (hardware, index, flags) = (u16_at(b, 2)?, u32_at(b, 4)?, u32_at(b, 8)?);
    let all = attributes(b.get(16..)?);
    let name = find(&all, libc::IFLA_IFNAME)?;
    let name = String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned();
    let mac = find(&all, libc::IFLA_ADDRESS).and_then(|m| m.try_into().ok()).unwrap_or_default();
    let mtu = find(&all, libc::IFLA_MTU).and_then(|m| u32_at(m, 0)).unwrap_or(1500);
    Some(Found {
        interface: Interface { index, name, mac, mtu, addresses: Vec::new(), neighbours: Vec::new() },
        up: flags & libc::IFF_UP.cast_unsigned() != 0,
        loopback: flags & libc::IFF_LOOPBACK.cast_unsigned() != 0,
        ethernet: hardware == libc::ARPHRD_ETHER,
    })
}

/// `struct ifaddrmsg`
fn address(b: &[u8]) -> Option<(u32, Address)> {
    let (prefix, scope, index) = (*b.get(1)?, *b.get(3)?, u32_at(b, 4)?);
    let all = attributes(b.get(8..)?);
    let ip_of = |kind| find(&all, kind).and_then(ip);
    let address = ip_of(libc::IFA_LOCAL).or_else(|| ip_of(libc::IFA_ADDRESS))?;
    let broadcast = match ip_of(libc::IFA_BROADCAST) {
        Some(IpAddr::V4(b)) => Some(b),
        _ => None,
    };
    Some((index, Address { ip: address, prefix, broadcast, scope }))
}

/// `struct rtmsg`; routes of the main table that lead somewhere.
fn route(b: &[u8]) -> Option<Route> {
    let (family, prefix, table, protocol, scope, kind) = (*b.first()?, *b.get(1)?, *b.get(4)?, *b.get(5)?, *b.get(6)?, *b.get(7)?);
    let all = attributes(b.get(12..)?);
    let any = if i32::from(family) == libc::AF_INET { IpAddr::from([0; 4]) } else { IpAddr::from([0u16; 8]) };
    let mtu = find(&all, libc::RTA_METRICS).and_then(|m| find(&attributes(m), 2).and_then(|v| u32_at(v, 0)));
    let main = table == libc::RT_TABLE_MAIN && (i32::from(family) == libc::AF_INET || i32::from(family) == libc::AF_INET6);
    let dst = find(&all, libc::RTA_DST).and_then(ip).unwrap_or(any);
    (main && !dst.is_multicast()).then_some(Route {
        dst,
        prefix,
        gateway: find(&all, libc::RTA_GATEWAY).and_then(ip),
        device: find(&all, libc::RTA_OIF).and_then(|v| u32_at(v, 0))?,
        source: find(&all, libc::RTA_PREFSRC).and_then(ip),
        metric: find(&all, libc::RTA_PRIORITY).and_then(|v| u32_at(v, 0)).unwrap_or(0),
        mtu,
        protocol,
        scope,
        kind,
    })
}
