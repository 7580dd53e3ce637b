//! Packets out: which device and neighbour, fragments, and the way back in for what is addressed to ourselves.

use super::{
    Device, Stack, device,
    neighbour::{Answer, Waiting},
    route,
};
use crate::wire::{self, BROADCAST, Fragment, IpHeader, Mac};
use abi::{Result, bail};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The way to a destination.
#[derive(Clone, Debug)]
pub struct Path {
    pub device: Arc<Device>,
    /// The neighbour that takes it.
    pub next: IpAddr,
    /// Where it comes from, unless the socket is bound.
    pub source: IpAddr,
    pub mtu: u32,
    /// The destination is ourselves.
    pub local: bool,
    /// To everybody on the network.
    pub broadcast: bool,
    /// The state of the tables that this was found in.
    pub generation: u64,
    /// The neighbour's Ethernet address, as of this state of its table and until this moment.
    pub mac: Option<(Mac, u64, u64)>,
}

/// How long a connection may go on using an Ethernet address before the table is asked again.
const MAC_FRESH: u64 = 1_000_000_000;

/// The beginning of a packet, to be sent back in an ICMP error.
pub type Quote = Vec<u8>;

impl Stack {
    /// The way to `to`. `ENETUNREACH`: there is none. `device`: this device only (`SO_BINDTODEVICE`, scopes); `source`: speak from there.
    pub fn path(&self, to: IpAddr, source: Option<IpAddr>, device: Option<u32>) -> Result<Path> {
        let generation = self.generation.load(Ordering::Acquire);
        let table = self.table();
        let source = source.filter(|s| !s.is_unspecified());
        let found = |device: &Arc<Device>, next, fallback: Option<IpAddr>, mtu: u32, local, broadcast| {
            let Some(source) = source.or(fallback) else { bail!(EADDRNOTAVAIL, "no address of this family on {}", device.name) };
            Ok(Path { device: device.clone(), next, source, mtu, local, broadcast, generation, mac: None })
        };
        if let Some(at) = self.local(to) {
            let lo = table.devices.first().unwrap_or(&at);
            let from = if to.is_loopback() && to.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { to };
            return found(lo, to, Some(from), lo.mtu(), true, false);
        }
        let scoped = matches!(to, IpAddr::V6(ip) if ip.is_unicast_link_local()) || to.is_multicast();
        if scoped || to == IpAddr::V4(Ipv4Addr::BROADCAST) {
            // Without a device: the one of the default route, else the first that is not loopback.
            let routed = route::lookup(&table.routes, to, device).map(|r| r.device);
            let first = table.devices.iter().find(|d| !d.is_loopback()).map(|d| d.index);
            let Some(d) = device.or(routed).or(first).and_then(|i| table.device(i)) else { bail!(ENETUNREACH, "no route to {to}") };
            return found(d, to, d.source_for(to), d.mtu(), d.is_loopback(), !to.is_multicast() && !scoped);
        }
        let Some(r) = route::lookup(&table.routes, to, device) else { bail!(ENETUNREACH, "no route to {to}") };
        // Unreachable, blackhole and prohibit routes (rtnetlink(7)).
        match r.kind {
            7 => bail!(EHOSTUNREACH, "unreachable route"),
            6 => bail!(EINVAL, "blackhole route"),
            8 => bail!(EACCES, "prohibited route"),
            _ => {}
        }
        let Some(d) = table.device(r.device) else { bail!(ENETUNREACH, "no route to {to}") };
        let mut mtu = r.mtu.unwrap_or(u32::MAX).min(d.mtu());
        if let Some(known) = self.paths.lock().get(to, host::time::monotonic_ns()) {
            mtu = mtu.min(known);
        }
        let broadcast = d.addresses.lock().iter().any(|a| a.broadcast.is_some_and(|b| to == IpAddr::V4(b)));
        found(d, r.gateway.unwrap_or(to), r.source.or_else(|| d.source_for(to)), mtu.max(68), false, broadcast)
    }

    /// ICMP told of a smaller MTU on the way to `to`.
    pub(super) fn learn_mtu(&self, to: IpAddr, mtu: u32) {
        self.paths.lock().learn(to, mtu, host::time::monotonic_ns());
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Sends a network packet in parts to the path's neighbour; keeps it if the Ethernet address has to be asked for.
    pub fn transmit(&self, path: &mut Path, to: IpAddr, vnet: &[u8; device::VNET], parts: &[&[u8]]) {
        let ethertype = if to.is_ipv4() { wire::ETH_IPV4 } else { wire::ETH_IPV6 };
        let device = path.device.clone();
        if self.packets.any() {
            self.packets.sent(&device, ethertype, parts);
        }
        if path.broadcast {
            return self.transmit_to(&device, vnet, &BROADCAST, ethertype, parts);
        }
        if to.is_multicast() {
            return self.transmit_to(&device, vnet, &wire::multicast_mac(to), ethertype, parts);
        }
        let now = host::time::monotonic_ns();
        let generation = device.generation.load(Ordering::Acquire);
        if let Some((mac, of, until)) = path.mac
            && of == generation
            && now < until
        {
            return self.transmit_to(&device, vnet, &mac, ethertype, parts);
        }
        let answer = device.neighbours.lock().resolve(path.next, now, || Waiting { vnet: *vnet, ethertype, bytes: parts.concat() });
        match answer {
            Answer::Known(mac, ask) => {
                path.mac = Some((mac, generation, now + MAC_FRESH));
                self.transmit_to(&device, vnet, &mac, ethertype, parts);
                if ask {
                    self.ask_neighbour(&device, path.next);
                }
            }
            Answer::Wait(ask) => {
                if ask {
                    self.ask_neighbour(&device, path.next);
                }
            }
        }
    }

    /// Sends a frame. If the interface takes only shorter ones by now, this one is lost, and whoever sends next looks its way up again.
    fn transmit_to(&self, device: &Device, vnet: &[u8; device::VNET], mac: &Mac, ethertype: u16, parts: &[&[u8]]) {
        if !device.transmit(vnet, mac, ethertype, parts) && device.follow_mtu() {
            self.addresses_changed();
        }
    }

    /// Sends a packet with a transport header whose checksum is filled in: `data` is all behind the network header. In fragments if it
    /// is too long; `EMSGSIZE` if it may not be cut.
    pub fn send_packet(&self, path: &mut Path, h: &IpHeader, data: &[u8]) -> Result {
        let whole = h.len() + data.len();
        if whole > 65_535 + if h.dst.is_ipv4() { 0 } else { 40 } {
            bail!(EMSGSIZE, "longer than a packet can be");
        }
        if whole <= path.mtu as usize || path.local {
            let mut packet = Vec::with_capacity(whole);
            h.write(data.len(), &mut packet);
            if path.local {
                packet.extend_from_slice(data);
                self.come_back(path, h.dst, &packet);
            } else {
                self.transmit(path, h.dst, &device::PLAIN, &[&packet, data]);
            }
            return Ok(());
        }
        if h.dont_fragment {
            bail!(EMSGSIZE, "longer than the path's MTU");
        }
        let id = if h.dst.is_ipv4() { u32::from(h.id) } else { self.packet_id() };
        let part = IpHeader { fragment: Some(Fragment { id, offset: 0, more: true }), ..*h };
        let step = (path.mtu as usize).saturating_sub(part.len()) & !7;
        if step == 0 {
            bail!(EMSGSIZE, "no room in the path's MTU");
        }
        let mut offset = 0;
        for piece in data.chunks(step) {
            let more = offset + piece.len() < data.len();
            let h = IpHeader { fragment: Some(Fragment { id, offset, more }), ..part };
            let mut header = Vec::with_capacity(48);
            h.write(piece.len(), &mut header);
            self.transmit(path, h.dst, &device::PLAIN, &[&header, piece]);
            offset += piece.len();
        }
        Ok(())
    }

    /// Whether somebody looks at packets, also those that there would be over loopback.
    pub fn is_tapped(&self) -> bool {
        self.packets.any() || self.raw.any()
    }

    /// Shows packet and raw sockets the packet that goes over loopback on Linux, where here bytes go from queue to queue. `transport`: header
    /// and data, the checksum to be filled in at `sum_at`.
    pub fn tap(&self, h: &IpHeader, transport: &mut [u8], sum_at: usize) {
        let Some(lo) = self.table().devices.first().cloned() else { return };
        let sum = !wire::fold(wire::sum(wire::pseudo(h.src, h.dst, h.protocol, transport.len()), transport));
        wire::put(transport, sum_at, &sum.to_be_bytes());
        let mut packet = Vec::with_capacity(40 + transport.len());
        h.write(transport.len(), &mut packet);
        packet.extend_from_slice(transport);
        let v4 = h.dst.is_ipv4();
        if self.packets.any() {
            self.packets.sent(&lo, if v4 { wire::ETH_IPV4 } else { wire::ETH_IPV6 }, &[&packet]);
        }
        if let Some(p) = if v4 { wire::parse_v4(&packet) } else { wire::parse_v6(&packet) } {
            self.raw.deliver(self, &lo, &p);
        }
    }

    /// A packet that a packet socket puts on loopback.
    pub fn inject(&self, device: &Arc<Device>, packet: &[u8]) {
        let mut touched = super::Touched::default();
        self.input_ip(device, packet, false, &mut touched);
        touched.flush();
    }

    /// A packet to ourselves.
    fn come_back(&self, path: &Path, to: IpAddr, packet: &[u8]) {
        let mut touched = super::Touched::default();
        if self.packets.any() {
            let ethertype = if to.is_ipv4() { wire::ETH_IPV4 } else { wire::ETH_IPV6 };
            self.packets.sent(&path.device, ethertype, &[packet]);
        }
        self.input_ip(&path.device, packet, true, &mut touched);
        touched.flush();
    }

    /// Checks a device's neighbour questions, memberships and old fragments: from the timer thread.
    pub(super) fn tick(&self) {
        let now = host::time::monotonic_ns();
        if let Some(mut r) = self.reassembly.try_lock()
            && !r.is_empty()
        {
            r.expire(now);
        }
        for d in self.table().devices.iter().filter(|d| !d.is_loopback()) {
            self.tick_memberships(d, now);
            if d.take_changed() {
                self.tell(&super::Change::Link(d.index));
            }
            let (ask, failed) = {
                let mut n = d.neighbours.lock();
                if !n.waiting() {
                    continue;
                }
                n.tick(now)
            };
            for ip in ask {
                self.ask_neighbour(d, ip);
            }
            for (ip, packets) in failed {
                tracing::debug!("{}: {ip} does not answer", d.name);
                for p in packets {
                    self.undeliverable(&p.bytes);
                }
            }
        }
    }
}
