//! UDP: a queue of datagrams, thrown away where there is no room. To this sandbox they go straight into the receiver's queue.

use super::{
    InetSock, SocketError, address, control,
    sock::{Datagram, Phase},
};
use crate::stack::{Device, Path, Stack, device};
use crate::wire::{self, IpHeader};
use abi::{Errno, Result, bail, libc, poll::PollEvents};
use kernel::{
    io::IoBuffer,
    net::{Message, Shutdown, SocketFilter, SocketKind, SocketOps, View},
};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// The longest datagram.
const MAX: usize = 65_507;
/// What each datagram takes of the receive buffer besides its bytes.
const OVERHEAD: usize = 768;
/// Errors that wait to be asked for.
const ERRORS_MAX: usize = 64;

/// Where a datagram goes and what its headers say.
struct Sending {
    to: SocketAddr,
    source: Option<IpAddr>,
    device: Option<u32>,
    ttl: u8,
    tos: u8,
    /// `UDP_SEGMENT`
    segment: usize,
}

impl InetSock {
    pub(super) fn connect_udp(&self, addr: &[u8]) -> Result {
        if address::family(addr) == libc::AF_UNSPEC {
            let mut s = self.lock();
            s.remote = None;
            if let (Some(l), Some(b)) = (s.local, s.bound) {
                s.local = Some(SocketAddr::new(b.ip(), l.port()));
            }
            return Ok(());
        }
        let to = address::destination(address::parse(addr, self.is_v6())?);
        self.check_reach(to)?;
        let (source, device) = {
            let s = self.lock();
            (s.bound.map(|b| b.ip()), s.device)
        };
        let path = self.stack.path(to.ip(), source.filter(|s| s.is_ipv4() == to.is_ipv4()), device.or(address::scope(addr)))?;
        if path.broadcast && !self.options().is_set(libc::SO_BROADCAST) {
            bail!(EACCES, "SO_BROADCAST is not set");
        }
        self.autobind()?;
        let mut s = self.lock();
        s.remote = Some(to);
        if let Some(l) = s.local.filter(|_| s.bound.is_none_or(|b| b.ip().is_unspecified())) {
            s.local = Some(SocketAddr::new(path.source, l.port()));
        }
        Ok(())
    }

    /// What control messages and options ask for.
    fn plan(&self, message: &Message, connected: Option<SocketAddr>, scope: Option<u32>) -> Result<Sending> {
        let to = if message.name.is_empty() {
            match connected {
                Some(to) => to,
                None => bail!(EDESTADDRREQ),
            }
        } else {
            // Linux lets a socket of AF_INET6 name an IPv4 address the IPv4 way.
            let v4 = self.is_v6() && address::family(&message.name) == libc::AF_INET;
            if address::family(&message.name) == libc::AF_UNSPEC && !self.is_v6() {
                let inet = [(libc::AF_INET as u16).to_ne_bytes().as_slice(), message.name.get(2..).unwrap_or_default()].concat();
                address::destination(address::parse(&inet, false)?)
            } else {
                address::destination(address::parse(&message.name, self.is_v6() && !v4)?)
            }
        };
        if to.port() == 0 {
            bail!(EINVAL, "port 0");
        }
        self.check_reach(to)?;
        let v4 = to.is_ipv4();
        let group = to.ip().is_multicast();
        let (mut source, mut device) = (None, scope);
        {
            let s = self.lock();
            device = device.or(s.device);
            source = s.local.map(|l| l.ip()).filter(|ip| !ip.is_unspecified() && ip.is_ipv4() == v4 && !ip.is_multicast()).or(source);
        }
        if group {
            device = device.or(self.extra.multicast_device(v4));
        }
        let e = &self.extra;
        let mut plan =
            Sending { to, source, device, ttl: if group { e.multicast_ttl(v4) } else { e.ttl(v4) }, tos: e.tos(v4), segment: e.segment() };
        let asked = control::outgoing(&message.control)?;
        plan.source = asked.source.or(plan.source);
        plan.device = asked.device.or(plan.device);
        plan.ttl = asked.ttl.unwrap_or(plan.ttl);
        plan.tos = asked.tos.unwrap_or(plan.tos);
        plan.segment = asked.segment.unwrap_or(plan.segment);
        if let Some(ip) = asked.source
            && self.stack.local(ip).is_none()
        {
            bail!(EINVAL, "{ip} is not ours");
        }
        Ok(plan)
    }

    pub(super) fn send_udp(&self, buf: &mut IoBuffer<'_>, message: &Message, flags: i32) -> Result<usize> {
        self.options().take_error()?;
        let (connected, shut) = {
            let s = self.lock();
            (s.remote, s.shut.write)
        };
        let len = buf.remaining();
        if len > 65_535 {
            bail!(EMSGSIZE);
        }
        let corking = flags & libc::MSG_MORE != 0 || self.extra.udp_cork();
        let held = self.lock().corked.take();
        let scope = if message.name.is_empty() { None } else { address::scope(&message.name) };
        let mut plan = match &held {
            Some((_, to)) => self.plan(&Message::default(), Some(*to), scope)?,
            None => self.plan(message, connected, scope)?,
        };
        if shut {
            bail!(EPIPE, "shut down");
        }
        let mut data = held.map(|h| h.0).unwrap_or_default();
        let before = data.len();
        data.resize(before + len, 0);
        if len > 0 && buf.read(data.get_mut(before..).unwrap_or_default())? < len {
            bail!(EFAULT, "part of the datagram is not readable");
        }
        if corking {
            if data.len() > MAX {
                bail!(EMSGSIZE);
            }
            self.lock().corked = Some((data, plan.to));
            return Ok(len);
        }
        if plan.segment == 0 || plan.segment >= data.len() {
            if data.len() > MAX {
                bail!(EMSGSIZE);
            }
            self.send_datagram(&plan, &data, connected)?;
        } else {
            let step = std::mem::take(&mut plan.segment);
            for part in data.chunks(step) {
                self.send_datagram(&plan, part, connected)?;
            }
        }
        Ok(len)
    }

    /// UDP_CORK was taken away: what was held goes out.
    pub(super) fn uncork(&self) -> Result {
        let Some((data, to)) = self.lock().corked.take() else { return Ok(()) };
        let plan = self.plan(&Message::default(), Some(to), None)?;
        self.send_datagram(&plan, &data, None)
    }

    fn send_datagram(&self, plan: &Sending, data: &[u8], connected: Option<SocketAddr>) -> Result {
        let to = plan.to;
        let path = {
            let mut s = self.lock();
            let generation = self.stack.generation.load(std::sync::atomic::Ordering::Acquire);
            let same = |p: &Path| p.generation == generation && connected == Some(to) && plan.source.is_none_or(|s| s == p.source);
            s.path.take().filter(|p| same(p))
        };
        let mut path = match path {
            Some(p) => p,
            None => Box::new(self.stack.path(to.ip(), plan.source, plan.device)?),
        };
        if path.broadcast && !self.options().is_set(libc::SO_BROADCAST) {
            bail!(EACCES, "SO_BROADCAST is not set");
        }
        self.autobind()?;
        let Some(port) = self.lock().bound.map(|b| b.port()) else { bail!(EINVAL, "not bound") };
        let from = SocketAddr::new(path.source, port);
        self.stack.snmp.udp_out.fetch_add(1, Relaxed);
        if path.local && self.stack.is_tapped() {
            let mut packet = wire::udp_header(port, to.port(), data.len()).to_vec();
            packet.extend_from_slice(data);
            let id = self.stack.packet_id() as u16;
            let (ttl, tos) = (plan.ttl, plan.tos);
            let h = IpHeader { src: from.ip(), dst: to.ip(), protocol: wire::UDP, ttl, tos, id, dont_fragment: true, fragment: None };
            self.stack.tap(&h, &mut packet, 6);
        }
        let group = to.ip().is_multicast();
        if path.local || path.broadcast || group && self.extra.multicast_loop(to.is_ipv4()) {
            // Also to ourselves.
            let heard = udp_input(&self.stack, &path.device, from, to, plan.ttl, plan.tos, data);
            if path.local && !heard && !group {
                // ICMP's port unreachable.
                self.stack.snmp.udp_no_ports.fetch_add(1, Relaxed);
                let (origin, kind, code) = if to.is_ipv4() { (2, 3, 3) } else { (3, 1, 4) };
                let error = SocketError {
                    errno: Errno::ECONNREFUSED,
                    hard: true,
                    origin,
                    kind,
                    code,
                    info: 0,
                    offender: Some(to.ip()),
                    data: data.to_vec(),
                };
                self.take_error(error, to);
            }
        }
        if !path.local {
            self.send_out(plan, &mut path, from, data)?;
        }
        if connected == Some(to) {
            self.lock().path = Some(path);
        }
        Ok(())
    }

    /// To the outside.
    fn send_out(&self, plan: &Sending, path: &mut Path, from: SocketAddr, data: &[u8]) -> Result {
        let to = plan.to;
        let mut header = wire::udp_header(from.port(), to.port(), data.len());
        let len = header.len() + data.len();
        let discover = self.extra.mtu_discover(to.is_ipv4());
        let h = IpHeader {
            src: from.ip(),
            dst: to.ip(),
            protocol: wire::UDP,
            ttl: plan.ttl,
            tos: plan.tos,
            id: self.stack.packet_id() as u16,
            // IP_PMTUDISC_WANT: DF, but fragments where it is known to be too long.
            dont_fragment: discover >= 2 || discover == 1 && h_len(to) + len <= path.mtu as usize,
            fragment: None,
        };
        let pseudo = wire::pseudo(h.src, h.dst, wire::UDP, len);
        if h.len() + len <= path.mtu as usize {
            wire::put(&mut header, 6, &wire::fold(pseudo).to_be_bytes());
            let mut head = Vec::with_capacity(48);
            h.write(len, &mut head);
            let start = 14 + head.len();
            head.extend_from_slice(&header);
            self.stack.transmit(path, to.ip(), &device::vnet(None, start + 8, start, 6), &[&head, data]);
            return Ok(());
        }
        if discover >= 2 && discover != 3 {
            let error = SocketError {
                errno: Errno::EMSGSIZE,
                hard: false,
                origin: 1,
                kind: 0,
                code: 0,
                info: path.mtu,
                offender: None,
                data: data.to_vec(),
            };
            self.take_error(error, to);
            bail!(EMSGSIZE, "longer than the path's MTU");
        }
        let mut all = Vec::with_capacity(len);
        all.extend_from_slice(&header);
        all.extend_from_slice(data);
        let sum = match !wire::fold(wire::sum(pseudo, &all)) {
            0 => 0xffff,
            s => s,
        };
        wire::put(&mut all, 6, &sum.to_be_bytes());
        self.stack.send_packet(path, &IpHeader { dont_fragment: false, ..h }, &all)
    }

    /// An error came back for a datagram to `to`.
    pub(super) fn take_error(&self, error: SocketError, to: SocketAddr) {
        let asked = self.extra.wants_errors(to.is_ipv4());
        let mut s = self.lock();
        let connected = s.remote == Some(to);
        if !asked && !(connected && error.hard) {
            return;
        }
        let errno = error.errno;
        if asked && s.errors.len() < ERRORS_MAX {
            s.errors.push_back((error.clone(), to));
        }
        drop(s);
        if error.origin != 1 || error.hard {
            self.options().set_error(errno);
        }
        self.notify(PollEvents::ERR);
    }

    /// Whether a datagram between these is for this socket, and how well it fits.
    fn fits(&self, from: SocketAddr, device: u32) -> Option<bool> {
        let s = self.lock();
        if s.device.is_some_and(|d| d != device) || matches!(s.phase, Phase::Dead) {
            return None;
        }
        match s.remote {
            Some(r) if r != from => None,
            remote => Some(remote.is_some()),
        }
    }

    /// What the socket's filter lets through of a datagram, whose header it sees as well.
    fn filtered(&self, mut d: Datagram) -> Option<Datagram> {
        let Some(program) = self.options().filter.program() else { return Some(d) };
        let mut packet = wire::udp_header(d.from.port(), d.to.port(), d.data.len()).to_vec();
        let header = packet.len();
        packet.extend_from_slice(&d.data);
        let protocol = if d.to.is_ipv4() { wire::ETH_IPV4 } else { wire::ETH_IPV6 };
        let hardware = if d.device == 1 { 772 } else { 1 };
        let view = View { data: &packet, protocol, device: d.device, hardware, ..View::default() };
        let n = SocketFilter::admit(&program, &view, header)?;
        d.data.truncate(n - header);
        Some(d)
    }

    fn take_datagram(&self, d: Datagram) {
        let Some(d) = self.filtered(d) else { return };
        let mut s = self.lock();
        // One datagram is always taken, however small the buffer.
        if s.queued > 0 && s.queued + d.data.len() + OVERHEAD > self.options().rcvbuf() {
            self.stack.snmp.udp_in_errors.fetch_add(1, Relaxed);
            return;
        }
        s.queued += d.data.len() + OVERHEAD;
        s.datagrams.push_back(d);
        drop(s);
        self.notify(PollEvents::READABLE);
    }

    pub(super) fn recv_udp(&self, buf: &mut IoBuffer<'_>, flags: i32, message: &mut Message) -> Result<usize> {
        let mut s = self.lock();
        self.options().take_error()?;
        let Some(d) = s.datagrams.front() else {
            if s.shut.read {
                return Ok(0);
            }
            bail!(EAGAIN, "no datagram waits");
        };
        let len = d.data.len();
        let copied = if len == 0 || buf.remaining() == 0 { 0 } else { buf.write(&d.data)? };
        message.name = address::encode_on(d.from, self.is_v6(), d.device);
        control::incoming(self, d, &mut message.control);
        let gone = if flags & libc::MSG_PEEK == 0 {
            s.queued -= len + OVERHEAD;
            s.datagrams.pop_front()
        } else {
            None
        };
        drop(s);
        drop(gone);
        if copied < len {
            message.flags |= libc::MSG_TRUNC;
        }
        Ok(if flags & libc::MSG_TRUNC != 0 { len } else { copied })
    }

    /// `MSG_ERRQUEUE`
    pub(super) fn recv_error(&self, buf: &mut IoBuffer<'_>, message: &mut Message) -> Result<usize> {
        let mut s = self.lock();
        let Some((error, to)) = s.errors.pop_front() else { bail!(EAGAIN, "no error waits") };
        // The next one is the socket's error now.
        let next = s.errors.front().map(|e| e.0.errno);
        drop(s);
        match next {
            Some(e) => self.options().set_error(e),
            None => {
                let _ = self.options().take_error();
            }
        }
        let copied = if error.data.is_empty() || buf.remaining() == 0 { 0 } else { buf.write(&error.data)? };
        message.name = address::encode(to, self.is_v6());
        message.flags |= libc::MSG_ERRQUEUE | if copied < error.data.len() { libc::MSG_TRUNC } else { 0 };
        message.control.push(control::error(&error, to.is_ipv4()));
        Ok(copied)
    }

    pub(super) fn shutdown_udp(&self, how: Shutdown) -> Result {
        let mut s = self.lock();
        let connected = s.remote.is_some();
        s.shut.read |= how.read;
        s.shut.write |= how.write;
        drop(s);
        self.notify(PollEvents::all());
        if connected { Ok(()) } else { bail!(ENOTCONN) }
    }

    pub(super) fn close_udp(&self) {
        let (bound, groups) = {
            let mut s = self.lock();
            s.phase = Phase::Dead;
            s.shut = Shutdown { read: true, write: true };
            s.datagrams.clear();
            s.queued = 0;
            s.path = None;
            (s.bound.take(), std::mem::take(&mut s.groups))
        };
        for (group, device) in groups {
            self.stack.left(device, group);
        }
        if let Some(at) = bound {
            self.stack.ports.unbind(self, at);
        }
        self.notify(PollEvents::all());
    }

    pub(super) fn poll_udp(&self) -> PollEvents {
        let s = self.lock();
        let mut e = PollEvents::WRITABLE;
        e.set(PollEvents::ERR, self.options().has_error() || !s.errors.is_empty());
        if s.shut.read {
            e |= PollEvents::RDHUP | PollEvents::READABLE;
        }
        if s.shut.read && s.shut.write {
            e |= PollEvents::HUP;
        }
        if !s.datagrams.is_empty() {
            e |= PollEvents::READABLE;
        }
        e
    }
}

fn h_len(to: SocketAddr) -> usize {
    if to.is_ipv4() { 20 } else { 40 }
}

/// A datagram for this sandbox; whether anybody took it.
pub fn udp_input(stack: &Stack, device: &Arc<Device>, from: SocketAddr, to: SocketAddr, ttl: u8, tos: u8, data: &[u8]) -> bool {
    let datagram = || Datagram { data: data.to_vec(), from, to, device: device.index, ttl, tos, time: host::time::realtime_ns() };
    let group = to.ip().is_multicast();
    let broadcast = !group && !device.is_loopback() && stack.local(to.ip()).is_none();
    if group || broadcast {
        // Everybody who wants it.
        let any = SocketAddr::new(if to.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0u16; 8]) }, to.port());
        let mut all = stack.ports.find(SocketKind::Dgram, to);
        for s in stack.ports.find(SocketKind::Dgram, any) {
            if !all.iter().any(|o| Arc::ptr_eq(o, &s)) {
                all.push(s);
            }
        }
        let mut heard = false;
        for s in all {
            if s.fits(from, device.index).is_some() && (!group || s.hears(to.ip(), device.index)) {
                s.take_datagram(datagram());
                heard = true;
            }
        }
        return heard;
    }
    let found = stack.ports.find_group(SocketKind::Dgram, to, stack.connections.hash(to, from));
    // A connected socket only hears its peer, and is preferred for it.
    let mut receiver = None;
    for s in found {
        match s.fits(from, device.index) {
            Some(true) => {
                receiver = Some(s);
                break;
            }
            Some(false) if receiver.is_none() => receiver = Some(s),
            _ => {}
        }
    }
    let Some(receiver) = receiver else {
        // An application's own name server comes before the engine's.
        let Some(resolver) = stack.resolver(to) else { return false };
        resolver.ask(from, data);
        return true;
    };
    receiver.take_datagram(datagram());
    true
}

/// An ICMP error about a datagram that was sent from `local` to `remote`.
pub fn udp_error(stack: &Stack, local: SocketAddr, remote: SocketAddr, error: SocketError) {
    let found = stack.ports.find(SocketKind::Dgram, local);
    let fits = |s: &&Arc<InetSock>| s.fits(remote, 0).is_some() || s.lock().remote == Some(remote);
    if let Some(s) = found.iter().find(fits) {
        s.take_error(error, remote);
    }
}
