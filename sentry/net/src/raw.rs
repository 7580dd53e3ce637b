//! Raw IP sockets (raw(7)) and ping sockets (icmp(7)): whole packets, to and from this sandbox and the outside.

use crate::device;
use crate::inet::{self, Extra, SocketError};
use crate::stack::{Device, Stack};
use crate::wire::{self, IpHeader, Packet};
use abi::{Errno, Result, bail, error, libc, poll::PollEvents};
use kernel::{
    io::IoBuffer,
    net::{Message, OptionValue, Shutdown, SocketFilter, SocketKind, SocketOps, SocketOptions, View},
    task::Task,
    vfs::{File, IoctlArg},
};
use std::any::Any;
use std::collections::VecDeque;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};
use sync::{Mutex, Rank, WaitQueue};

/// What each packet takes of the receive buffer besides its bytes.
const OVERHEAD: usize = 768;

/// All raw and ping sockets.
pub struct RawSockets(Mutex<Vec<Weak<RawSock>>>, AtomicUsize);

impl Default for RawSockets {
    fn default() -> Self {
        RawSockets(Mutex::new(Rank::Leaf, Vec::new()), AtomicUsize::new(0))
    }
}

impl Drop for RawSock {
    fn drop(&mut self) {
        if !self.ping {
            self.stack.raw.1.fetch_sub(1, Relaxed);
        }
    }
}

impl RawSockets {
    fn all(&self) -> Vec<Arc<RawSock>> {
        self.0.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Whether there are any raw ones: all that the data path of loopback asks.
    pub fn any(&self) -> bool {
        self.1.load(Relaxed) > 0
    }

    /// Gives a packet to all sockets that want it.
    pub fn deliver(&self, _stack: &Stack, device: &Arc<Device>, p: &Packet<'_>) {
        if self.0.lock().is_empty() {
            return;
        }
        for s in self.all() {
            s.take(device, p);
        }
    }

    /// An ICMP error about a ping.
    pub fn error(&self, protocol: u8, id: u16, dst: IpAddr, error: SocketError) {
        for s in self.all() {
            let mine = s.ping && s.protocol == protocol && s.state.lock().port == id;
            if mine && (s.extra.wants_errors(dst.is_ipv4()) || error.hard && s.state.lock().remote == Some(dst)) {
                let mut state = s.state.lock();
                if s.extra.wants_errors(dst.is_ipv4()) && state.errors.len() < 64 {
                    state.errors.push_back((error.clone(), dst));
                }
                drop(state);
                s.options.set_error(error.errno);
                s.queue.notify(PollEvents::ERR);
            }
        }
    }

    /// Open raw sockets of a family.
    pub fn count(&self, v6: bool) -> usize {
        self.all().iter().filter(|s| s.v6 == v6 && !s.ping).count()
    }

    /// The text of /proc/net/raw.
    pub fn show(&self, v6: bool) -> String {
        let mut out =
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n"
                .to_owned();
        for s in self.all().iter().filter(|s| s.v6 == v6 && !s.ping) {
            let zeros = if v6 { "0".repeat(32) } else { "0".repeat(8) };
            let (p, ino) = (s.protocol, s.ino.get().copied().unwrap_or(0));
            // Writing to a String cannot fail.
            let _ = writeln!(
                out,
                "{p:4}: {zeros}:{p:04X} {zeros}:0000 07 00000000:00000000 00:00000000 00000000     0        0 {ino} 2 0000000000000000 0"
            );
        }
        out
    }

    /// A free identifier for a ping socket, or the one that is asked for.
    fn identifier(&self, protocol: u8, wanted: u16) -> Result<u16> {
        let taken: Vec<u16> = self.all().iter().filter(|s| s.ping && s.protocol == protocol).map(|s| s.state.lock().port).collect();
        if wanted != 0 {
            if taken.contains(&wanted) {
                bail!(EADDRINUSE);
            }
            return Ok(wanted);
        }
        let first = host::rand::u64() as u16;
        (0..u16::MAX).map(|i| first.wrapping_add(i)).find(|p| *p != 0 && !taken.contains(p)).ok_or_else(|| error!(EAGAIN))
    }
}

struct Received {
    data: Vec<u8>,
    from: IpAddr,
    to: IpAddr,
    device: u32,
    ttl: u8,
    tos: u8,
    time: u64,
}

#[derive(Default)]
struct State {
    local: Option<IpAddr>,
    remote: Option<IpAddr>,
    /// A ping socket's identifier.
    port: u16,
    received: VecDeque<Received>,
    queued: usize,
    errors: VecDeque<(SocketError, IpAddr)>,
    device: Option<u32>,
    /// ICMP types that are not wanted: bits for IPv4's first 32 (`ICMP_FILTER`), and for all of IPv6's (`ICMP6_FILTER`).
    filter: u32,
    filter6: [u32; 8],
    /// `IPV6_CHECKSUM`: where the checksum goes.
    checksum_at: Option<usize>,
    closed: bool,
}

/// A socket.
pub struct RawSock {
    v6: bool,
    protocol: u8,
    ping: bool,
    stack: Arc<Stack>,
    options: SocketOptions,
    extra: Extra,
    queue: WaitQueue,
    state: Mutex<State>,
    ino: OnceLock<u64>,
}

impl RawSock {
    /// A new one.
    pub fn new(v6: bool, protocol: u8, ping: bool, stack: &Arc<Stack>) -> Arc<RawSock> {
        let checksum_at = (v6 && protocol == wire::ICMPV6).then_some(2);
        let sock = Arc::new(RawSock {
            v6,
            protocol,
            ping,
            stack: stack.clone(),
            options: SocketOptions::default(),
            extra: Extra::new(&stack.settings),
            queue: WaitQueue::new(),
            state: Mutex::new(Rank::Socket, State { checksum_at, ..State::default() }),
            ino: OnceLock::new(),
        });
        if !ping {
            stack.raw.1.fetch_add(1, Relaxed);
        }
        let mut all = stack.raw.0.lock();
        all.retain(|s| s.strong_count() > 0);
        all.push(Arc::downgrade(&sock));
        drop(all);
        sock
    }

    /// With `IP_HDRINCL`, which this protocol has always.
    fn header_included(&self) -> bool {
        !self.v6 && !self.ping && (self.protocol == libc::IPPROTO_RAW as u8 || self.extra.header_included())
    }

    fn take(&self, device: &Arc<Device>, p: &Packet<'_>) {
        if p.dst.is_ipv6() != self.v6 || p.protocol != self.protocol || self.protocol == libc::IPPROTO_RAW as u8 {
            return;
        }
        let kind = p.payload.first().copied().unwrap_or(0);
        let mut s = self.state.lock();
        if s.closed
            || s.local.is_some_and(|l| l != p.dst)
            || s.remote.is_some_and(|r| r != p.src)
            || s.device.is_some_and(|d| d != device.index)
        {
            return;
        }
        if self.ping {
            // Echo replies with the socket's identifier.
            let reply = if self.v6 { 129 } else { 0 };
            if kind != reply || wire::be16(p.payload, 4) != Some(s.port) {
                return;
            }
        } else {
            let unwanted = if self.protocol == wire::ICMP {
                kind < 32 && s.filter >> kind & 1 != 0
            } else if self.protocol == wire::ICMPV6 {
                s.filter6.get(usize::from(kind >> 5)).is_some_and(|w| w >> (kind & 31) & 1 != 0)
            } else {
                false
            };
            if unwanted {
                return;
            }
        }
        // IPv4's header is part of what raw sockets read.
        let mut data = if self.v6 || self.ping { p.payload.to_vec() } else { [p.header, p.payload].concat() };
        if let Some(program) = self.options.filter.program() {
            let protocol = if self.v6 { wire::ETH_IPV6 } else { wire::ETH_IPV4 };
            let hardware = if device.is_loopback() { 772 } else { 1 };
            let view = View { data: &data, protocol, device: device.index, hardware, ..View::default() };
            let Some(n) = SocketFilter::admit(&program, &view, 0) else { return };
            data.truncate(n);
        }
        if s.queued > 0 && s.queued + data.len() + OVERHEAD > self.options.rcvbuf() {
            return;
        }
        s.queued += data.len() + OVERHEAD;
        s.received.push_back(Received {
            data,
            from: p.src,
            to: p.dst,
            device: device.index,
            ttl: p.ttl,
            tos: p.tos,
            time: host::time::realtime_ns(),
        });
        drop(s);
        self.queue.notify(PollEvents::READABLE);
    }

    fn autobind(&self) -> Result {
        if !self.ping || self.state.lock().port != 0 {
            return Ok(());
        }
        let id = self.stack.raw.identifier(self.protocol, 0)?;
        self.state.lock().port = id;
        Ok(())
    }

    /// A ping socket sends echo requests alone; the identifier and the checksum are the kernel's.
    fn finish_ping(&self, data: &mut [u8], src: IpAddr, dst: IpAddr) -> Result {
        let request = if self.v6 { 128 } else { 8 };
        if data.len() < 8 || data.first() != Some(&request) || data.get(1) != Some(&0) {
            bail!(EINVAL, "not an echo request");
        }
        wire::put(data, 2, &[0, 0]);
        wire::put(data, 4, &self.state.lock().port.to_be_bytes());
        let start = if self.v6 { wire::pseudo(src, dst, self.protocol, data.len()) } else { 0 };
        let sum = !wire::fold(wire::sum(start, data));
        wire::put(data, 2, &sum.to_be_bytes());
        Ok(())
    }

    fn take_error(&self, buf: &mut IoBuffer<'_>, message: &mut Message) -> Result<usize> {
        let Some((e, to)) = self.state.lock().errors.pop_front() else { bail!(EAGAIN, "no error waits") };
        let _ = self.options.take_error();
        let n = if e.data.is_empty() || buf.remaining() == 0 { 0 } else { buf.write(&e.data)? };
        message.name = inet::encode(SocketAddr::new(to, 0), self.v6);
        message.flags |= libc::MSG_ERRQUEUE;
        message.control.push(inet::error_message(&e, to.is_ipv4()));
        Ok(n)
    }
}

impl SocketOps for RawSock {
    fn domain(&self) -> i32 {
        if self.v6 { libc::AF_INET6 } else { libc::AF_INET }
    }

    fn kind(&self) -> SocketKind {
        if self.ping { SocketKind::Dgram } else { SocketKind::Raw }
    }

    fn protocol(&self) -> i32 {
        i32::from(self.protocol)
    }

    fn options(&self) -> &SocketOptions {
        &self.options
    }

    fn attached(&self, file: &Arc<File>) {
        let _ = self.ino.set(file.inode().ino);
    }

    fn bind(&self, _task: &Task, addr: &[u8]) -> Result {
        let addr = inet::parse(addr, self.v6)?;
        if !addr.ip().is_unspecified() && self.stack.local(addr.ip()).is_none() {
            bail!(EADDRNOTAVAIL, "{} is not ours", addr.ip());
        }
        if self.ping {
            let id = self.stack.raw.identifier(self.protocol, addr.port())?;
            self.state.lock().port = id;
        }
        self.state.lock().local = Some(addr.ip()).filter(|ip| !ip.is_unspecified());
        Ok(())
    }

    fn connect(&self, _task: &Task, addr: &[u8]) -> Result {
        if addr.first_chunk::<2>() == Some(&[0, 0]) {
            self.state.lock().remote = None;
            return Ok(());
        }
        let to = inet::parse(addr, self.v6)?.ip();
        self.stack.path(to, None, inet::scope(addr))?;
        self.autobind()?;
        self.state.lock().remote = Some(to);
        Ok(())
    }

    fn local_address(&self) -> Result<Vec<u8>> {
        let s = self.state.lock();
        let any = if self.v6 { IpAddr::from([0u16; 8]) } else { IpAddr::from([0; 4]) };
        let port = if self.ping { s.port } else { u16::from(self.protocol) };
        Ok(inet::encode(SocketAddr::new(s.local.unwrap_or(any), port), self.v6))
    }

    fn peer_address(&self) -> Result<Vec<u8>> {
        match self.state.lock().remote {
            Some(r) => Ok(inet::encode(SocketAddr::new(r, 0), self.v6)),
            None => bail!(ENOTCONN),
        }
    }

    fn send(&self, _task: Option<&Task>, buf: &mut IoBuffer<'_>, message: Message, flags: i32) -> Result<usize> {
        if flags & libc::MSG_OOB != 0 {
            bail!(EOPNOTSUPP);
        }
        self.options.take_error()?;
        let (local, connected, device, checksum_at) = {
            let s = self.state.lock();
            (s.local, s.remote, s.device, s.checksum_at)
        };
        let (to, scope) = if message.name.is_empty() {
            match connected {
                Some(to) => (to, None),
                None => bail!(EDESTADDRREQ),
            }
        } else {
            (inet::parse(&message.name, self.v6)?.ip(), inet::scope(&message.name))
        };
        let asked = inet::outgoing(&message.control)?;
        let len = buf.remaining();
        if len > 65_535 {
            bail!(EMSGSIZE);
        }
        self.autobind()?;
        let mut path = self.stack.path(to, asked.source.or(local), asked.device.or(scope).or(device))?;
        if path.broadcast && !self.options.is_set(libc::SO_BROADCAST) {
            bail!(EACCES, "SO_BROADCAST is not set");
        }
        let mut data = buf.read_all(len)?;
        let v4 = to.is_ipv4();
        let mut h = IpHeader {
            src: path.source,
            dst: to,
            protocol: self.protocol,
            ttl: asked.ttl.unwrap_or(if to.is_multicast() { self.extra.multicast_ttl(v4) } else { self.extra.ttl(v4) }),
            tos: asked.tos.unwrap_or(self.extra.tos(v4)),
            id: self.stack.packet_id() as u16,
            dont_fragment: self.extra.mtu_discover(v4) >= 2,
            fragment: None,
        };
        if self.ping {
            self.finish_ping(&mut data, h.src, h.dst)?;
        } else if self.header_included() {
            let header = usize::from(data.first().copied().unwrap_or(0) & 15) * 4;
            let address = |at| wire::be32(&data, at).map(|a| IpAddr::V4(a.into()));
            let (Some(src), Some(dst), Some(&protocol), Some(&ttl), Some(&tos)) =
                (address(12), address(16), data.get(9), data.get(8), data.get(1))
            else {
                bail!(EINVAL, "shorter than a header")
            };
            if header != 20 || data.len() < 20 {
                bail!(EINVAL, "headers with options are not sent");
            }
            // Linux fills in what is zero: source and identification; length and checksum always.
            h = IpHeader { src: if src.is_unspecified() { h.src } else { src }, dst, protocol, ttl, tos, ..h };
            if let Some(id) = wire::be16(&data, 4).filter(|i| *i != 0) {
                h.id = id;
            }
            data.drain(..20);
        } else if let Some(at) = checksum_at {
            if at + 2 > data.len() {
                bail!(EINVAL, "no room for the checksum");
            }
            wire::put(&mut data, at, &[0, 0]);
            let sum = !wire::fold(wire::sum(wire::pseudo(h.src, h.dst, self.protocol, data.len()), &data));
            wire::put(&mut data, at, &sum.to_be_bytes());
        }
        self.stack.send_packet(&mut path, &h, &data)?;
        Ok(len)
    }

    fn recv(&self, buf: &mut IoBuffer<'_>, flags: i32, message: &mut Message) -> Result<usize> {
        if flags & libc::MSG_OOB != 0 {
            bail!(EOPNOTSUPP);
        }
        if flags & libc::MSG_ERRQUEUE != 0 {
            return self.take_error(buf, message);
        }
        self.options.take_error()?;
        let mut s = self.state.lock();
        let Some(d) = s.received.front() else { bail!(EAGAIN, "no packet waits") };
        let len = d.data.len();
        let copied = if len == 0 || buf.remaining() == 0 { 0 } else { buf.write(&d.data)? };
        message.name = inet::encode(SocketAddr::new(d.from, 0), self.v6);
        message.control.extend(self.options.received_at(d.time));
        self.extra.incoming(SocketAddr::new(d.to, 0), d.device, d.ttl, d.tos, self.v6, &mut message.control);
        if flags & libc::MSG_PEEK == 0 {
            s.queued -= len + OVERHEAD;
            s.received.pop_front();
        }
        if copied < len {
            message.flags |= libc::MSG_TRUNC;
        }
        Ok(if flags & libc::MSG_TRUNC != 0 { len } else { copied })
    }

    fn shutdown(&self, _how: Shutdown) -> Result {
        if self.state.lock().remote.is_some() { Ok(()) } else { bail!(ENOTCONN) }
    }

    fn poll(&self) -> PollEvents {
        let s = self.state.lock();
        let mut e = PollEvents::WRITABLE;
        e.set(PollEvents::READABLE, !s.received.is_empty());
        e.set(PollEvents::ERR, self.options.has_error() || !s.errors.is_empty());
        e
    }

    fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    fn ioctl(&self, task: &Task, cmd: u32, arg: IoctlArg) -> Result<u64> {
        if u64::from(cmd) == libc::FIONREAD {
            let n = self.state.lock().received.front().map_or(0, |d| d.data.len());
            task.mm().write(arg.addr().cast::<i32>(), &(n as i32))?;
            return Ok(0);
        }
        device::ioctl(task, cmd, arg).unwrap_or_else(|| bail!(ENOTTY))
    }

    fn set_option(&self, _task: &Task, level: i32, name: i32, value: &[u8]) -> Option<Result> {
        const SOL_RAW: i32 = 255;
        const IPV6_CHECKSUM: i32 = 7;
        let int = || OptionValue(value).int();
        Some(match (level, name) {
            // ICMP_FILTER
            (SOL_RAW, 1) if self.protocol == wire::ICMP => int().map(|n| self.state.lock().filter = n as u32),
            (libc::IPPROTO_ICMPV6, 1) if self.v6 => OptionValue(value).read::<[u32; 8]>().map(|f| self.state.lock().filter6 = f),
            // Of ICMPv6 it can be moved at the one level only: raw(7), RFC 3542 section 3.1.
            (SOL_RAW | libc::IPPROTO_IPV6, IPV6_CHECKSUM) if self.v6 && (level == SOL_RAW || self.protocol != wire::ICMPV6) => {
                match int() {
                    Ok(n) if n > 0 && n % 2 == 1 => Err(Errno::EINVAL.into()),
                    n => n.map(|n| self.state.lock().checksum_at = usize::try_from(n).ok()),
                }
            }
            (libc::SOL_SOCKET, libc::SO_BINDTODEVICE) => {
                let name = value.split(|&b| b == 0).next().unwrap_or_default();
                match self.stack.table().named(name) {
                    Some(d) => {
                        self.state.lock().device = Some(d.index);
                        Ok(())
                    }
                    None if name.is_empty() => {
                        self.state.lock().device = None;
                        Ok(())
                    }
                    None => Err(Errno::ENODEV.into()),
                }
            }
            _ => return self.extra.set_plain(level, name, value),
        })
    }

    fn get_option(&self, _task: &Task, level: i32, name: i32) -> Option<Result<Vec<u8>>> {
        const SOL_RAW: i32 = 255;
        if (level, name) == (SOL_RAW, 1) && self.protocol == wire::ICMP {
            return Some(Ok(self.state.lock().filter.to_ne_bytes().to_vec()));
        }
        self.extra.plain(level, name)
    }

    fn release(&self) {
        let mut s = self.state.lock();
        *s = State { closed: true, ..State::default() };
        drop(s);
        self.queue.notify(PollEvents::all());
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
