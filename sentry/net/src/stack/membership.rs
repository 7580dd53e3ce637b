//! Which multicast groups are heard on a device, and telling routers and switches so: IGMP (RFC 3376, and 2236 or 1112 while an older
//! router asks) and MLD (RFC 3810, or 2710). Every socket's membership counts; so do the groups of our own IPv6 addresses.
//!
//! The stack's timer thread sends what is due; it looks every 250 ms.

use super::{Device, Stack, device};
use crate::wire::{self, IpHeader, Packet};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// `IPPROTO_IGMP`
pub const IGMP: u8 = 2;
/// Reports of a new group, one behind the other (RFC 3376's robustness), and how long at most until the next.
const UNASKED: u8 = 2;
const UNASKED_WITHIN: u64 = 1_000_000_000;
/// How long a router of an older version counts after it asked.
const OLDER_FOR: u64 = 400_000_000_000;

const ALL_SYSTEMS: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 1));
const ALL_ROUTERS: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 2));
const V3_ROUTERS: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 22));
const ALL_NODES6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
const ALL_ROUTERS6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2));
const V2_ROUTERS6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16));

/// What a record of a report says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// Heard from everybody (an answer).
    Heard = 2,
    /// Not heard any more.
    Left = 3,
    /// Heard from everybody from now on.
    Joined = 4,
}

/// The version that a message has to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// IGMPv1.
    Oldest,
    /// IGMPv2, MLDv1.
    Older,
    /// IGMPv3, MLDv2.
    Newest,
}

/// Something that is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    pub group: IpAddr,
    pub record: Record,
    pub version: Version,
}

#[derive(Debug)]
struct Group {
    users: usize,
    /// Reports that are still to be sent unasked.
    unasked: u8,
    /// When the next report is due.
    at: Option<u64>,
}

/// The groups of a device.
#[derive(Debug, Default)]
pub struct Memberships {
    groups: BTreeMap<IpAddr, Group>,
    /// Until when a router of an older version counts: IGMPv1, IGMPv2, MLDv1.
    older: [u64; 3],
}

fn random(below: u64) -> u64 {
    host::rand::u64() % below.max(1)
}

/// Whether anybody is told of this group: not of those that everybody is in, or that stay on the device.
fn is_told(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(_) => group != ALL_SYSTEMS,
        IpAddr::V6(ip) => group != ALL_NODES6 && ip.octets()[1] & 15 > 1,
    }
}

impl Memberships {
    fn version(&self, v4: bool, now: u64) -> Version {
        match (v4, self.older) {
            (true, [v1, ..]) if now < v1 => Version::Oldest,
            (true, [_, v2, _]) if now < v2 => Version::Older,
            (false, [.., v1]) if now < v1 => Version::Older,
            _ => Version::Newest,
        }
    }

    /// Somebody joins; what is to be sent now.
    pub fn join(&mut self, group: IpAddr, now: u64) -> Option<Message> {
        let version = self.version(group.is_ipv4(), now);
        let g = self.groups.entry(group).or_insert(Group { users: 0, unasked: 0, at: None });
        g.users += 1;
        if g.users > 1 || !is_told(group) {
            return None;
        }
        (g.unasked, g.at) = (UNASKED - 1, Some(now + random(UNASKED_WITHIN)));
        Some(Message { group, record: Record::Joined, version })
    }

    /// Somebody leaves; what is to be sent now.
    pub fn leave(&mut self, group: IpAddr, now: u64) -> Option<Message> {
        let version = self.version(group.is_ipv4(), now);
        let g = self.groups.get_mut(&group)?;
        g.users -= 1;
        if g.users > 0 {
            return None;
        }
        self.groups.remove(&group);
        (is_told(group) && version > Version::Oldest).then_some(Message { group, record: Record::Left, version })
    }

    /// A router asks, of one group or of all; answers are spread over `within`.
    pub fn asked(&mut self, group: Option<IpAddr>, v4: bool, version: Version, within: u64, now: u64) {
        match (v4, version) {
            (true, Version::Oldest) => self.older[0] = now + OLDER_FOR,
            (true, Version::Older) => self.older[1] = now + OLDER_FOR,
            (false, Version::Older) => self.older[2] = now + OLDER_FOR,
            _ => {}
        }
        for (ip, g) in self.groups.iter_mut().filter(|(ip, _)| ip.is_ipv4() == v4 && is_told(**ip) && group.is_none_or(|g| g == **ip)) {
            let at = now + random(within);
            // One that is due sooner anyhow stays so.
            g.at = Some(g.at.map_or(at, |due| due.min(at)));
            tracing::trace!("membership of {ip} is asked for");
        }
    }

    /// What is due.
    pub fn due(&mut self, now: u64) -> Vec<Message> {
        let versions = [false, true].map(|v4| self.version(v4, now));
        let mut out = Vec::new();
        for (ip, g) in self.groups.iter_mut().filter(|(_, g)| g.at.is_some_and(|at| at <= now)) {
            let record = if g.unasked > 0 { Record::Joined } else { Record::Heard };
            g.unasked = g.unasked.saturating_sub(1);
            g.at = (g.unasked > 0).then(|| now + random(UNASKED_WITHIN));
            out.push(Message { group: *ip, record, version: versions[usize::from(ip.is_ipv4())] });
        }
        out
    }

    /// Groups with their users, for /proc/net/igmp.
    pub fn list(&self, v4: bool) -> Vec<(IpAddr, usize)> {
        self.groups.iter().filter(|(ip, _)| ip.is_ipv4() == v4).map(|(ip, g)| (*ip, g.users)).collect()
    }
}

/// The destination and body of an IGMP message.
fn igmp(m: &Message, group: Ipv4Addr) -> (IpAddr, Vec<u8>) {
    let (kind, to) = match (m.version, m.record) {
        (Version::Newest, record) => {
            let mut b = vec![0x22, 0, 0, 0, 0, 0, 0, 1, record as u8, 0, 0, 0];
            b.extend_from_slice(&group.octets());
            let sum = wire::checksum(&b);
            wire::put(&mut b, 2, &sum.to_be_bytes());
            return (V3_ROUTERS, b);
        }
        (_, Record::Left) => (0x17, ALL_ROUTERS),
        (Version::Oldest, _) => (0x12, m.group),
        _ => (0x16, m.group),
    };
    let mut b = vec![kind, 0, 0, 0];
    b.extend_from_slice(&group.octets());
    let sum = wire::checksum(&b);
    wire::put(&mut b, 2, &sum.to_be_bytes());
    (to, b)
}

/// The destination and body of an MLD message, its checksum not filled in.
fn mld(m: &Message, group: Ipv6Addr) -> (IpAddr, Vec<u8>) {
    if m.version == Version::Newest {
        let mut b = vec![143, 0, 0, 0, 0, 0, 0, 1, m.record as u8, 0, 0, 0];
        b.extend_from_slice(&group.octets());
        return (V2_ROUTERS6, b);
    }
    let (kind, to) = if m.record == Record::Left { (132, ALL_ROUTERS6) } else { (131, m.group) };
    let mut b = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    b.extend_from_slice(&group.octets());
    (to, b)
}

impl Stack {
    /// A socket has joined a group on a device.
    pub fn joined(&self, device: u32, group: IpAddr) {
        let Some(device) = self.table().device(device).cloned() else { return };
        let now = host::time::monotonic_ns();
        let message = device.memberships.lock().join(group, now);
        self.send_membership(&device, message);
    }

    /// A socket has left a group on a device.
    pub fn left(&self, device: u32, group: IpAddr) {
        let Some(device) = self.table().device(device).cloned() else { return };
        let now = host::time::monotonic_ns();
        let message = device.memberships.lock().leave(group, now);
        self.send_membership(&device, message);
    }

    /// The groups at which neighbours ask for our own addresses.
    pub(super) fn join_own_groups(&self, device: &Arc<Device>) {
        let addresses: Vec<IpAddr> = device.addresses.lock().iter().map(|a| a.ip).collect();
        for ip in addresses {
            if let IpAddr::V6(ip) = ip {
                self.joined(device.index, solicited_node(ip).into());
            }
        }
    }

    /// Sends reports that are due: from the timer thread.
    pub(super) fn tick_memberships(&self, device: &Arc<Device>, now: u64) {
        let due = device.memberships.lock().due(now);
        for m in due {
            self.send_membership(device, Some(m));
        }
    }

    fn send_membership(&self, device: &Arc<Device>, message: Option<Message>) {
        let Some(m) = message.filter(|_| !device.is_loopback()) else { return };
        let mut packet = Vec::with_capacity(96);
        let to = match m.group {
            IpAddr::V4(group) => {
                let (to, body) = igmp(&m, group);
                let Some(src) = device.source_for(to) else { return };
                let h = IpHeader { src, dst: to, protocol: IGMP, ttl: 1, tos: 0xc0, id: 0, dont_fragment: true, fragment: None };
                // The router alert option (RFC 2113) makes the header longer.
                h.write(body.len() + 4, &mut packet);
                packet.extend_from_slice(&[0x94, 4, 0, 0]);
                wire::put(&mut packet, 0, &[0x46]);
                wire::put(&mut packet, 10, &[0, 0]);
                let sum = wire::checksum(&packet);
                wire::put(&mut packet, 10, &sum.to_be_bytes());
                packet.extend_from_slice(&body);
                to
            }
            IpAddr::V6(group) => {
                let (to, mut body) = mld(&m, group);
                let src = device.link_local().unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
                let sum = !wire::fold(wire::sum(wire::pseudo(src, to, wire::ICMPV6, body.len()), &body));
                wire::put(&mut body, 2, &sum.to_be_bytes());
                // Hop-by-hop options: the router alert (RFC 2711).
                let h = IpHeader { src, dst: to, protocol: 0, ttl: 1, tos: 0, id: 0, dont_fragment: true, fragment: None };
                h.write(body.len() + 8, &mut packet);
                packet.extend_from_slice(&[wire::ICMPV6, 0, 5, 2, 0, 0, 1, 0]);
                packet.extend_from_slice(&body);
                to
            }
        };
        let ethertype = if to.is_ipv4() { wire::ETH_IPV4 } else { wire::ETH_IPV6 };
        if self.packets.any() {
            self.packets.sent(device, ethertype, &[&packet]);
        }
        device.transmit(&device::PLAIN, &wire::multicast_mac(to), ethertype, &[&packet]);
    }

    /// A router asks for memberships over IPv4.
    pub(super) fn input_igmp(&self, device: &Arc<Device>, p: &Packet<'_>) {
        let b = p.payload;
        if device.is_loopback() || b.first() != Some(&0x11) || wire::fold(wire::sum(0, b)) != 0xffff {
            return;
        }
        let (Some(&code), Some(group)) = (b.get(1), wire::be32(b, 4)) else { return };
        let tenth = 100_000_000;
        let (version, within) = match (b.len(), code) {
            (8, 0) => (Version::Oldest, 10_000_000_000),
            (8, code) => (Version::Older, u64::from(code) * tenth),
            (_, code) => (Version::Newest, exponential(code.into(), 4) * tenth),
        };
        let group = Some(Ipv4Addr::from_bits(group)).filter(|g| !g.is_unspecified()).map(IpAddr::V4);
        device.memberships.lock().asked(group, true, version, within, host::time::monotonic_ns());
    }

    /// The same over IPv6; the checksum has been looked at.
    pub(super) fn input_mld(&self, device: &Arc<Device>, p: &Packet<'_>) {
        let b = p.payload;
        let near = matches!(p.src, IpAddr::V6(ip) if ip.is_unicast_link_local());
        let (Some(code), Some(group)) = (wire::be16(b, 4), b.get(8..).and_then(|g| g.first_chunk::<16>())) else { return };
        if device.is_loopback() || !near || p.ttl != 1 {
            return;
        }
        let version = if b.len() >= 28 { Version::Newest } else { Version::Older };
        let within = if version == Version::Newest { exponential(code.into(), 12) } else { code.into() } * 1_000_000;
        let group = Some(Ipv6Addr::from(*group)).filter(|g| !g.is_unspecified()).map(IpAddr::V6);
        device.memberships.lock().asked(group, false, version, within, host::time::monotonic_ns());
    }
}

/// A time as queries write it: with an exponent of three bits above `bits` of mantissa once the bit above both is set.
fn exponential(code: u32, bits: u32) -> u64 {
    if code >> (bits + 3) & 1 == 0 {
        return code.into();
    }
    let mantissa = code & ((1 << bits) - 1) | 1 << bits;
    u64::from(mantissa) << ((code >> bits & 7) + 3)
}

/// The group at which neighbours ask for an address (RFC 4291, 2.7.1).
pub fn solicited_node(ip: Ipv6Addr) -> Ipv6Addr {
    let o = ip.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(o[13]), u16::from(o[14]) << 8 | u16::from(o[15]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn joins_are_told_twice_and_leaving_once() {
        let group: IpAddr = "239.1.2.3".parse().expect("address");
        let mut m = Memberships::default();
        let told = m.join(group, SECOND).expect("a report");
        assert_eq!((told.record, told.version), (Record::Joined, Version::Newest));
        assert_eq!(m.join(group, SECOND), None);
        assert_eq!(m.due(3 * SECOND).iter().map(|m| m.record).collect::<Vec<_>>(), [Record::Joined]);
        assert!(m.due(100 * SECOND).is_empty());
        assert_eq!(m.leave(group, SECOND), None);
        assert_eq!(m.leave(group, SECOND).map(|m| m.record), Some(Record::Left));
        assert_eq!(m.leave(group, SECOND), None);
        assert_eq!(m.join(ALL_SYSTEMS, SECOND), None);
    }

    #[test]
    fn questions_are_answered_in_the_version_of_the_router() {
        let (a, b): (IpAddr, IpAddr) = ("239.1.2.3".parse().expect("address"), "ff02::1:3".parse().expect("address"));
        let mut m = Memberships::default();
        for g in [a, b] {
            m.join(g, 0);
        }
        m.due(2 * SECOND);
        m.asked(None, true, Version::Older, 5 * SECOND, 10 * SECOND);
        let due = m.due(15 * SECOND);
        assert_eq!(due, [Message { group: a, record: Record::Heard, version: Version::Older }]);
        m.asked(Some(b), false, Version::Newest, SECOND, 20 * SECOND);
        assert_eq!(m.due(21 * SECOND), [Message { group: b, record: Record::Heard, version: Version::Newest }]);
        // An older router that has gone.
        m.asked(None, true, Version::Newest, 1, 500 * SECOND);
        assert_eq!(m.due(501 * SECOND)[0].version, Version::Newest);
    }

    #[test]
    fn times_have_exponents() {
        assert_eq!((exponential(100, 4), exponential(0x80, 4), exponential(0xff, 4)), (100, 128, 31744));
        assert_eq!((exponential(10_000, 12), exponential(0x8000, 12)), (10_000, 32_768));
    }
}
