//! ICMP (RFC 792, 4443), ARP (RFC 826) and IPv6 neighbour discovery (RFC 4861): questions, answers, and errors for sockets.

use super::{Device, Stack, Touched, device, solicited_node};
use crate::inet::{self, SocketError};
use crate::wire::{self, BROADCAST, IpHeader, Mac, Packet, be16, be32};
use abi::Errno;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Errors that we send in a second (`icmp_msgs_per_sec`).
const ERRORS_PER_SECOND: u32 = 1000;

fn mac_at(b: &[u8], at: usize) -> Option<Mac> {
    b.get(at..)?.first_chunk().copied()
}

impl Stack {
    /// Asks who has an address.
    pub(super) fn ask_neighbour(&self, device: &Arc<Device>, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => {
                let Some(IpAddr::V4(own)) = device.source_for(ip.into()) else { return };
                device.transmit(&device::PLAIN, &BROADCAST, wire::ETH_ARP, &[&arp(1, device.mac, own, [0; 6], ip)]);
            }
            IpAddr::V6(ip) => {
                let Some(own) = device.link_local().or_else(|| device.source_for(ip.into())) else { return };
                let o = ip.octets();
                let group = solicited_node(ip);
                let mut body = vec![135, 0, 0, 0, 0, 0, 0, 0];
                body.extend_from_slice(&o);
                body.extend_from_slice(&[1, 1]);
                body.extend_from_slice(&device.mac);
                self.send_nd(device, own, group.into(), &wire::multicast_mac(group.into()), body);
            }
        }
    }

    fn send_nd(&self, device: &Arc<Device>, src: IpAddr, dst: IpAddr, mac: &Mac, mut body: Vec<u8>) {
        let sum = !wire::fold(wire::sum(wire::pseudo(src, dst, wire::ICMPV6, body.len()), &body));
        wire::put(&mut body, 2, &sum.to_be_bytes());
        let h = IpHeader { src, dst, protocol: wire::ICMPV6, ttl: 255, tos: 0, id: 0, dont_fragment: true, fragment: None };
        let mut packet = Vec::with_capacity(40 + body.len());
        h.write(body.len(), &mut packet);
        device.transmit(&device::PLAIN, mac, wire::ETH_IPV6, &[&packet, &body]);
    }

    /// A neighbour's Ethernet address is known: what waited for it goes out.
    fn learn_neighbour(&self, device: &Arc<Device>, ip: IpAddr, mac: Mac, create: bool) {
        if mac.first().is_some_and(|b| b & 1 != 0) || mac == [0; 6] || ip.is_multicast() || ip.is_unspecified() {
            return;
        }
        let (waiting, changed) = device.neighbours.lock().learn(ip, mac, create, host::time::monotonic_ns());
        if changed {
            device.generation.fetch_add(1, Ordering::Release);
        }
        for w in waiting {
            device.transmit(&w.vnet, &mac, w.ethertype, &[&w.bytes]);
        }
    }

    pub(super) fn input_arp(&self, device: &Arc<Device>, b: &[u8]) {
        // Ethernet and IPv4 alone.
        if b.get(..6) != Some(&[0, 1, 8, 0, 6, 4]) {
            return;
        }
        let (Some(op), Some(mac), Some(from), Some(to)) = (be16(b, 6), mac_at(b, 8), be32(b, 14), be32(b, 24)) else { return };
        let (from, to) = (Ipv4Addr::from_bits(from), Ipv4Addr::from_bits(to));
        let ours = device.has(to.into());
        // Nobody else speaks for our own addresses.
        if device.has(from.into()) {
            return;
        }
        self.learn_neighbour(device, from.into(), mac, ours && op == 1);
        if op == 1 && ours {
            device.transmit(&device::PLAIN, &mac, wire::ETH_ARP, &[&arp(2, device.mac, to, mac, from)]);
        }
    }

    pub(super) fn input_icmp(&self, device: &Arc<Device>, p: &Packet<'_>, touched: &mut Touched) {
        let (Some(&kind), Some(&code)) = (p.payload.first(), p.payload.get(1)) else { return };
        match kind {
            8 if !p.dst.is_multicast() => self.answer_echo(device, p, 0),
            3 | 11 | 12 => {
                let Some(inner) = p.payload.get(8..) else { return };
                let (errno, hard) = match (kind, code) {
                    (3, 0 | 6 | 9 | 11) => (Errno::ENETUNREACH, false),
                    (3, 2) => (Errno::ENOPROTOOPT, true),
                    (3, 3) => (Errno::ECONNREFUSED, true),
                    (3, 4) => (Errno::EMSGSIZE, false),
                    (12, _) => (Errno::EPROTO, true),
                    _ => (Errno::EHOSTUNREACH, false),
                };
                let info = if (kind, code) == (3, 4) { u32::from(be16(p.payload, 6).unwrap_or(0)) } else { 0 };
                let error = SocketError { errno, hard, origin: 2, kind, code, info, offender: Some(p.src), data: Vec::new() };
                self.input_error(inner, error, touched);
            }
            _ => {}
        }
    }

    pub(super) fn input_icmpv6(&self, device: &Arc<Device>, p: &Packet<'_>, touched: &mut Touched) {
        let (Some(&kind), Some(&code)) = (p.payload.first(), p.payload.get(1)) else { return };
        match kind {
            128 => self.answer_echo(device, p, 129),
            130 => self.input_mld(device, p),
            // Neighbour discovery comes from the same link: its hop limit was never counted down.
            135 | 136 if p.ttl == 255 && !device.is_loopback() => self.input_nd(device, p, kind),
            1..=4 => {
                let Some(inner) = p.payload.get(8..) else { return };
                let (errno, hard) = match (kind, code) {
                    (1, 0) => (Errno::ENETUNREACH, false),
                    (1, 1 | 5 | 6) => (Errno::EACCES, true),
                    (1, 4) => (Errno::ECONNREFUSED, true),
                    (2, _) => (Errno::EMSGSIZE, false),
                    (4, _) => (Errno::EPROTO, true),
                    _ => (Errno::EHOSTUNREACH, false),
                };
                let info = if kind == 2 { be32(p.payload, 4).unwrap_or(0) } else { 0 };
                let error = SocketError { errno, hard, origin: 3, kind, code, info, offender: Some(p.src), data: Vec::new() };
                self.input_error(inner, error, touched);
            }
            _ => {}
        }
    }

    fn input_nd(&self, device: &Arc<Device>, p: &Packet<'_>, kind: u8) {
        let Some(target) = p.payload.get(8..).and_then(|b| b.first_chunk::<16>()).map(|b| IpAddr::from(Ipv6Addr::from(*b))) else {
            return;
        };
        // The option with the link-layer address.
        let mut options = p.payload.get(24..).unwrap_or_default();
        let mut mac = None;
        while let [number, units, ..] = *options {
            let len = usize::from(units) * 8;
            if len == 0 {
                return;
            }
            if number == if kind == 135 { 1 } else { 2 } {
                mac = mac_at(options, 2);
            }
            options = options.get(len..).unwrap_or_default();
        }
        if kind == 136 {
            if let Some(mac) = mac.filter(|_| !device.has(target)) {
                self.learn_neighbour(device, target, mac, false);
            }
            return;
        }
        if !device.has(target) || device.has(p.src) {
            return;
        }
        if let Some(mac) = mac.filter(|_| !p.src.is_unspecified()) {
            self.learn_neighbour(device, p.src, mac, true);
        }
        // Solicited, override; to all nodes where somebody without an address asks whether this one is free.
        let free = p.src.is_unspecified();
        let to = if free { Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into() } else { p.src };
        let to_mac = if free { wire::multicast_mac(to) } else { mac.unwrap_or(BROADCAST) };
        let mut body = vec![136, 0, 0, 0, if free { 0x20 } else { 0x60 }, 0, 0, 0];
        body.extend_from_slice(p.payload.get(8..24).unwrap_or_default());
        body.extend_from_slice(&[2, 1]);
        body.extend_from_slice(&device.mac);
        self.send_nd(device, target, to, &to_mac, body);
    }

    fn answer_echo(&self, device: &Arc<Device>, p: &Packet<'_>, kind: u8) {
        if p.payload.len() < 8 {
            return;
        }
        let mut body = p.payload.to_vec();
        wire::put(&mut body, 0, &[kind, 0, 0, 0]);
        let own = if p.dst.is_multicast() || self.local(p.dst).is_none() { None } else { Some(p.dst) };
        self.send_icmp(device, own, p.src, body);
    }

    /// Sends an ICMP message whose checksum is zero so far.
    fn send_icmp(&self, device: &Arc<Device>, source: Option<IpAddr>, to: IpAddr, mut body: Vec<u8>) {
        let scope = matches!(to, IpAddr::V6(ip) if ip.is_unicast_link_local()).then_some(device.index);
        let Ok(mut path) = self.path(to, source, scope) else { return };
        let protocol = if to.is_ipv4() { wire::ICMP } else { wire::ICMPV6 };
        let start = if to.is_ipv4() { 0 } else { wire::pseudo(path.source, to, protocol, body.len()) };
        let sum = !wire::fold(wire::sum(start, &body));
        wire::put(&mut body, 2, &sum.to_be_bytes());
        let id = self.packet_id() as u16;
        let h = IpHeader { src: path.source, dst: to, protocol, ttl: 64, tos: 0, id, dont_fragment: false, fragment: None };
        if let Err(error) = self.send_packet(&mut path, &h, &body) {
            tracing::debug!("ICMP to {to}: {error}");
        }
    }

    /// Nobody listens at a UDP port.
    pub(super) fn send_unreachable_port(&self, device: &Arc<Device>, p: &Packet<'_>) {
        {
            let mut e = self.errors.lock();
            let now = host::time::monotonic_ns();
            if now >= e.0 {
                *e = (now + 1_000_000_000, ERRORS_PER_SECOND);
            }
            if e.1 == 0 {
                return;
            }
            e.1 -= 1;
        }
        let (kind, code, most) = if p.dst.is_ipv4() { (3, 3, 548) } else { (1, 4, 1232) };
        let mut body = vec![kind, code, 0, 0, 0, 0, 0, 0];
        body.extend_from_slice(p.header);
        body.extend_from_slice(p.payload);
        body.truncate(8 + most);
        self.send_icmp(device, Some(p.dst), p.src, body);
    }

    /// A packet of ours that no neighbour takes.
    pub(super) fn undeliverable(&self, packet: &[u8]) {
        let error =
            SocketError { errno: Errno::EHOSTUNREACH, hard: false, origin: 1, kind: 0, code: 0, info: 0, offender: None, data: Vec::new() };
        let mut touched = Touched::default();
        self.input_error(packet, SocketError { hard: true, ..error }, &mut touched);
        touched.flush();
    }

    /// An error about a packet that we sent: `inner` is its beginning.
    fn input_error(&self, inner: &[u8], mut error: SocketError, touched: &mut Touched) {
        // The packet is cut, and its checksums may have been left to a device: only what is needed is looked at.
        let v4 = inner.first().map(|b| b >> 4) == Some(4);
        let parsed = if v4 {
            let len = inner.first().map_or(0, |b| usize::from(b & 15) * 4);
            let (Some(src), Some(dst), Some(&protocol)) = (be32(inner, 12), be32(inner, 16), inner.get(9)) else { return };
            Some((IpAddr::from(Ipv4Addr::from_bits(src)), IpAddr::from(Ipv4Addr::from_bits(dst)), protocol, len))
        } else {
            let address = |at: usize| inner.get(at..)?.first_chunk::<16>().map(|b| IpAddr::from(Ipv6Addr::from(*b)));
            match (address(8), address(24), inner.get(6)) {
                (Some(src), Some(dst), Some(&next)) if next == 44 => Some((src, dst, inner.get(40).copied().unwrap_or(0), 48)),
                (Some(src), Some(dst), Some(&next)) => Some((src, dst, next, 40)),
                _ => None,
            }
        };
        let Some((src, dst, protocol, len)) = parsed else { return };
        if self.local(src).is_none() {
            return;
        }
        let body = inner.get(len..).unwrap_or_default();
        let (Some(from), Some(to)) = (be16(body, 0), be16(body, 2)) else { return };
        if error.errno == Errno::EMSGSIZE {
            let least = if v4 { 552 } else { 1280 };
            // A router that does not say how much: the next common size.
            let mtu = if error.info == 0 { 576 } else { error.info };
            error.info = mtu.max(least);
            self.learn_mtu(dst, error.info);
        }
        match protocol {
            wire::TCP => {
                let Some(seq) = be32(body, 4) else { return };
                inet::outside::error(self, SocketAddr::new(src, from), SocketAddr::new(dst, to), seq, &error, touched);
            }
            wire::UDP => {
                error.data = body.get(8..).unwrap_or_default().to_vec();
                inet::udp_error(self, SocketAddr::new(src, from), SocketAddr::new(dst, to), error);
            }
            wire::ICMP | wire::ICMPV6 => {
                // A ping socket's port is the identifier.
                let id = be16(body, 4).unwrap_or(0);
                error.data = body.to_vec();
                self.raw.error(protocol, id, dst, error);
            }
            _ => {}
        }
    }
}

/// An ARP packet.
fn arp(op: u16, mac: Mac, ip: Ipv4Addr, to_mac: Mac, to: Ipv4Addr) -> Vec<u8> {
    let mut b = vec![0, 1, 8, 0, 6, 4];
    b.extend_from_slice(&op.to_be_bytes());
    b.extend_from_slice(&mac);
    b.extend_from_slice(&ip.octets());
    b.extend_from_slice(&to_mac);
    b.extend_from_slice(&to.octets());
    b
}
