//! Frames in: the receive thread of each device, and the way from a frame to a socket.
//!
//! Nothing here trusts a frame: every field is read with a bound, and what does not fit is dropped. Sockets are told at the end of a batch
//! of frames ([`Touched`]), so that many frames for one connection make one wake-up and one acknowledgement.

use super::{Device, Stack, device, membership};
use crate::inet::{self, InetSock};
use crate::tcp::{Signals, segment::Segment};
use crate::wire::{self, Packet};
use abi::Errno;
use host::packet::Batch;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};

/// Connections that a batch of frames was for.
#[derive(Default)]
pub struct Touched(Vec<(Arc<InetSock>, Signals)>);

impl Touched {
    /// Notes a connection.
    pub fn add(&mut self, sock: Arc<InetSock>, signals: Signals) {
        // The last ones are the likeliest.
        match self.0.iter_mut().rev().find(|(s, _)| Arc::ptr_eq(s, &sock)) {
            Some((_, old)) => old.merge(signals),
            None => self.0.push((sock, signals)),
        }
    }

    /// Lets each send what is due, and wakes whoever waits for it.
    pub fn flush(&mut self) {
        for (sock, signals) in self.0.drain(..) {
            sock.flush(signals);
        }
    }
}

/// What the device says of a frame's checksum and segments.
#[derive(Clone, Copy)]
struct Offload {
    /// The transport checksum need not be looked at.
    checked: bool,
}

/// Takes frames of a device until the sandbox ends.
pub fn serve(stack: &Weak<Stack>, device: &Arc<Device>) {
    let mut touched = Touched::default();
    let Some(link) = device.link() else { return };
    let mut failures = 0;
    loop {
        let Some(stack) = stack.upgrade() else { return };
        let taken = stack.take_frames(device, link, &mut device.frames.lock(), &mut touched);
        drop(stack);
        match taken {
            Ok(_) => failures = 0,
            // An error shows in the next attempt.
            Err(Errno::EAGAIN) => drop(host::io::poll(link, abi::libc::POLLIN, -1)),
            Err(Errno::EINTR) => {}
            Err(error) => {
                // ENETDOWN is told once each time the interface goes down; anything that stays would spin.
                failures += 1;
                tracing::debug!("{}: {error:?}", device.name);
                if failures > 100 {
                    tracing::error!("{}: cannot receive: {error:?}; the sandbox is cut off", device.name);
                    return;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
    }
}

impl Stack {
    /// Takes what frames there are, and lets sockets have them.
    pub(super) fn take_frames(
        &self,
        device: &Arc<Device>,
        link: &OwnedFd,
        batch: &mut Batch,
        touched: &mut Touched,
    ) -> Result<usize, Errno> {
        let n = batch.receive(link)?;
        for frame in batch.frames() {
            self.input_frame(device, frame, touched);
        }
        touched.flush();
        Ok(n)
    }

    /// A frame with its virtio-net header.
    pub(super) fn input_frame(&self, device: &Arc<Device>, raw: &[u8], touched: &mut Touched) {
        let stats = &device.stats;
        let Some((vnet, frame)) = raw.split_at_checked(device::VNET) else { return };
        let (Some((head, body)), Some(&flags)) = (frame.split_at_checked(14), vnet.first()) else {
            stats.rx_errors.fetch_add(1, Relaxed);
            return;
        };
        if !device.up.load(Relaxed) {
            return;
        }
        let (dst, ethertype) = (head.get(..6).unwrap_or_default(), wire::be16(head, 12).unwrap_or(0));
        let group = dst.first().is_some_and(|b| b & 1 != 0);
        if self.packets.any() {
            self.packets.received(device, frame);
        }
        if !group && dst != device.mac {
            return;
        }
        stats.rx_packets.fetch_add(1, Relaxed);
        stats.rx_bytes.fetch_add(frame.len() as u64, Relaxed);
        let offload = Offload { checked: flags & (device::NEEDS_CSUM | device::DATA_VALID) != 0 };
        match ethertype {
            wire::ETH_ARP => self.input_arp(device, body),
            wire::ETH_IPV4 | wire::ETH_IPV6 => self.input_ip(device, body, offload.checked, touched),
            _ => {}
        }
    }

    /// A network packet; `checked`: its transport checksum is right, or will be filled in by nobody because it never was on a wire.
    pub(super) fn input_ip(&self, device: &Arc<Device>, bytes: &[u8], checked: bool, touched: &mut Touched) {
        self.snmp.ip_in.fetch_add(1, Relaxed);
        let parsed = match bytes.first().map(|b| b >> 4) {
            Some(4) => wire::parse_v4(bytes),
            Some(6) => wire::parse_v6(bytes),
            _ => None,
        };
        let Some(packet) = parsed else {
            self.snmp.ip_in_errors.fetch_add(1, Relaxed);
            device.stats.rx_errors.fetch_add(1, Relaxed);
            return;
        };
        if !self.is_for_us(device, &packet) {
            return;
        }
        let whole;
        let mut packet = packet;
        let mut checked = checked;
        if packet.fragment.is_some() {
            let Some(payload) = self.reassembly.lock().add(&packet, host::time::monotonic_ns()) else { return };
            whole = payload;
            packet = Packet { payload: &whole, fragment: None, ..packet };
            // A device cannot have looked at a checksum over many frames.
            checked = false;
        }
        self.raw.deliver(self, device, &packet);
        if !checked && !self.checksum_is_right(&packet) {
            self.snmp.ip_in_errors.fetch_add(1, Relaxed);
            return;
        }
        match packet.protocol {
            wire::TCP => self.input_tcp(device, &packet, touched),
            wire::UDP => self.input_udp(device, &packet),
            membership::IGMP if packet.dst.is_ipv4() => self.input_igmp(device, &packet),
            wire::ICMP if packet.dst.is_ipv4() => self.input_icmp(device, &packet, touched),
            wire::ICMPV6 if packet.dst.is_ipv6() => self.input_icmpv6(device, &packet, touched),
            _ => {}
        }
    }

    /// Whether this sandbox is a destination of the packet, and its source may be one.
    fn is_for_us(&self, device: &Arc<Device>, p: &Packet<'_>) -> bool {
        if p.src.is_multicast() {
            return false;
        }
        if device.is_loopback() {
            return true;
        }
        // Addresses of loopback, or our own, come from no wire.
        if p.src.is_loopback() || p.dst.is_loopback() || device.has(p.src) && !p.src.is_unspecified() {
            return false;
        }
        match p.dst {
            dst if dst.is_multicast() => true,
            IpAddr::V4(dst) => {
                dst.is_broadcast() || self.local(p.dst).is_some() || device.addresses.lock().iter().any(|a| a.broadcast == Some(dst))
            }
            IpAddr::V6(_) => self.local(p.dst).is_some(),
        }
    }

    fn checksum_is_right(&self, p: &Packet<'_>) -> bool {
        match p.protocol {
            // Zero: the sender made none.
            wire::UDP if p.dst.is_ipv4() && wire::be16(p.payload, 6) == Some(0) => true,
            wire::TCP | wire::UDP | wire::ICMPV6 => {
                wire::fold(wire::sum(wire::pseudo(p.src, p.dst, p.protocol, p.payload.len()), p.payload)) == 0xffff
            }
            wire::ICMP => wire::fold(wire::sum(0, p.payload)) == 0xffff,
            _ => true,
        }
    }

    fn input_tcp(&self, device: &Arc<Device>, p: &Packet<'_>, touched: &mut Touched) {
        let Some(segment) = Segment::parse(p.payload).filter(|_| !p.dst.is_multicast()) else {
            self.snmp.ip_in_errors.fetch_add(1, Relaxed);
            return;
        };
        self.snmp.tcp_in.fetch_add(1, Relaxed);
        inet::outside::input(self, device, p, &segment, touched);
    }

    fn input_udp(&self, device: &Arc<Device>, p: &Packet<'_>) {
        let (Some(src), Some(dst), Some(len)) = (wire::be16(p.payload, 0), wire::be16(p.payload, 2), wire::be16(p.payload, 4)) else {
            return;
        };
        let len = usize::from(len);
        let Some(data) = p.payload.get(8..len.max(8)).filter(|_| len >= 8) else {
            self.snmp.udp_in_errors.fetch_add(1, Relaxed);
            return;
        };
        self.snmp.udp_in.fetch_add(1, Relaxed);
        let (from, to) = (SocketAddr::new(p.src, src), SocketAddr::new(p.dst, dst));
        let group = p.dst.is_multicast() || !device.is_loopback() && self.local(p.dst).is_none();
        if !inet::udp_input(self, device, from, to, p.ttl, p.tos, data) && !group {
            self.snmp.udp_no_ports.fetch_add(1, Relaxed);
            self.send_unreachable_port(device, p);
        }
    }
}
