//! TCP sockets whose peer is not in this sandbox: between [`InetSock`] and its [`Tcb`].
//!
//! The socket's own lock is the connection's lock. The receive thread hands segments in under it, then, at the end of its batch,
//! [`InetSock::flush`] sends what is due and wakes who waits; sending application threads do the same for themselves.

use super::{
    InetSock, SocketError, cookies,
    sock::{Phase, State},
};
use crate::stack::{Device, Path, Stack, Touched, device};
use crate::tcp::{self, Config, Signals, Tcb, Wire, segment::Options, segment::Outgoing, segment::Segment, segment::flag, stream::PIECE};
use crate::wire::{self, IpHeader, Packet};
use abi::{Errno, Result, bail, libc, poll::PollEvents};
use kernel::{
    io::IoBuffer,
    net::{SocketFilter, SocketKind, SocketOps, View},
};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The largest send buffer that grows by itself (`tcp_wmem[2]`), and the least.
const SEND_MAX: usize = 4 << 20;
const SEND_MIN: usize = 256 << 10;
/// Connections of a listener whose handshake is not done; further ones get cookies.
const HALF_OPEN_MAX: usize = 1024;

fn now() -> u64 {
    host::time::monotonic_ns()
}

/// Segment size for an MTU.
fn mss_of(mtu: u32, v4: bool) -> u16 {
    mtu.saturating_sub(if v4 { 40 } else { 60 }).clamp(88, 65_000) as u16
}

/// Puts segments into packets and hands them to the stack.
pub(super) struct SockWire<'a> {
    stack: &'a Stack,
    path: &'a mut Path,
    local: SocketAddr,
    remote: SocketAddr,
    ttl: u8,
    tos: u8,
}

impl Wire for SockWire<'_> {
    fn send(&mut self, out: &Outgoing, data: &[&[u8]]) {
        send_segment(self.stack, self.path, self.local, self.remote, (self.ttl, self.tos), out, data);
    }
}

/// Sends a segment; one that is longer than its `mss` is left to the device to be cut.
pub(super) fn send_segment(
    stack: &Stack,
    path: &mut Path,
    from: SocketAddr,
    to: SocketAddr,
    (ttl, tos): (u8, u8),
    out: &Outgoing,
    data: &[&[u8]],
) {
    let bytes: usize = data.iter().map(|d| d.len()).sum();
    let mut tcp = out.header(from.port(), to.port());
    let len = tcp.len() + bytes;
    let v4 = to.is_ipv4();
    // The device adds the sum over the data.
    let pseudo = wire::fold(wire::pseudo(from.ip(), to.ip(), wire::TCP, len));
    wire::put(&mut tcp, 16, &pseudo.to_be_bytes());
    let h = IpHeader {
        src: from.ip(),
        dst: to.ip(),
        protocol: wire::TCP,
        ttl,
        tos,
        id: stack.packet_id() as u16,
        dont_fragment: true,
        fragment: None,
    };
    let mut head = Vec::with_capacity(40 + tcp.len());
    h.write(len, &mut head);
    let start = 14 + head.len();
    let all = start + tcp.len();
    head.extend_from_slice(&tcp);
    let gso = (out.mss > 0 && bytes > usize::from(out.mss)).then_some((if v4 { device::GSO_TCPV4 } else { device::GSO_TCPV6 }, out.mss));
    let vnet = device::vnet(gso, all, start, 16);
    let mut parts = Vec::with_capacity(data.len() + 1);
    parts.push(head.as_slice());
    parts.extend_from_slice(data);
    stack.snmp.tcp_out.fetch_add(1, Ordering::Relaxed);
    stack.transmit(path, to.ip(), &vnet, &parts);
}

impl InetSock {
    pub(super) fn config(&self, mtu: u32, v4: bool) -> Config {
        let o = self.options();
        let e = &self.extra;
        let asked = e.max_segment();
        let mss = mss_of(mtu, v4);
        Config {
            mss: if asked > 0 { mss.min(asked) } else { mss },
            receive_buffer: if o.sized().1 { o.rcvbuf() } else { 256 << 10 },
            grow: !o.sized().1,
            nodelay: e.nodelay(),
            cork: e.cork(),
            keepalive: o.is_set(libc::SO_KEEPALIVE).then(|| e.keepalive()),
            user_timeout: e.user_timeout(),
            syn_retries: e.syn_retries(),
            synack_retries: self.stack.settings.synack_retries.load(Ordering::Relaxed),
            retries: self.stack.settings.retries.load(Ordering::Relaxed),
            fin_timeout: e.fin_timeout(&self.stack.settings),
            algorithm: e.algorithm(),
        }
    }

    /// A connection's first sequence number: nobody outside can guess it (RFC 6528).
    fn first_number(&self, local: SocketAddr, remote: SocketAddr) -> u32 {
        (self.stack.connections.hash(local, remote) as u32).wrapping_add((now() / 250) as u32)
    }

    pub(super) fn connect_outside(&self, to: SocketAddr, scope: Option<u32>) -> Result {
        let bound = self.lock().bound.map(|b| b.ip());
        let device = self.lock().device.or(scope);
        let source = bound.filter(|ip| !ip.is_unspecified());
        let path = self.stack.path(to.ip(), source, device)?;
        if path.source.is_ipv4() != to.is_ipv4() {
            bail!(ENETUNREACH, "bound to an address of the other family");
        }
        let local = self.settle_local(path.source, to)?;
        let config = self.config(path.mtu, to.is_ipv4());
        if !self.stack.connections.add(local, to, &self.me()) {
            self.stack.ports.disconnected(self, local, to, None);
            bail!(EADDRNOTAVAIL, "there is such a connection");
        }
        let mut s = self.lock();
        s.entered = true;
        s.local = Some(local);
        s.remote = Some(to);
        s.phase = Phase::Connecting;
        (s.fin, s.reported) = (false, false);
        s.path = Some(Box::new(path));
        s.tcb = Some(Box::new(Tcb::connect(config, self.first_number(local, to), now())));
        self.stack.snmp.tcp_active.fetch_add(1, Ordering::Relaxed);
        self.push_out(&mut s);
        bail!(EINPROGRESS)
    }

    /// Runs `f` with the wire to the peer; looks the way up again if routes have changed.
    pub(super) fn with_wire<T>(&self, s: &mut State, f: impl FnOnce(&mut dyn Wire) -> T) -> Option<T> {
        let (local, remote) = (s.local?, s.remote?);
        let fresh = s.path.as_ref().is_some_and(|p| p.generation == self.stack.generation.load(Ordering::Acquire));
        if !fresh {
            match self.stack.path(remote.ip(), Some(local.ip()), s.device.or(s.path.as_ref().map(|p| p.device.index))) {
                Ok(p) => s.path = Some(Box::new(p)),
                // The last way known is as good as any.
                Err(error) => tracing::debug!("to {remote}: {error}"),
            }
        }
        let path = s.path.as_mut()?;
        let mut wire = SockWire {
            stack: &self.stack,
            path,
            local,
            remote,
            ttl: self.extra.ttl(remote.is_ipv4()),
            tos: self.extra.tos(remote.is_ipv4()),
        };
        Some(f(&mut wire))
    }

    /// Sends what may be sent, and sets the timer.
    fn push_out(&self, s: &mut State) {
        let Some(mut tcb) = s.tcb.take() else { return };
        if let (Some(path), Some(remote)) = (&s.path, s.remote) {
            tcb.path_shrank(mss_of(path.mtu, remote.is_ipv4()));
        }
        self.with_wire(s, |wire| tcb.output(now(), wire));
        self.arm(&tcb);
        s.tcb = Some(tcb);
    }

    /// Enters the stack's timers, if none that is there is early enough.
    fn arm(&self, tcb: &Tcb) {
        let Some(at) = tcb.deadline() else { return };
        let entered = self.wakes_at.load(Ordering::Acquire);
        if entered == 0 || at < entered {
            self.wakes_at.store(at, Ordering::Release);
            self.stack.wake_at(&self.me(), at);
        }
    }

    /// From the stack's timer thread.
    pub fn on_timer(&self) {
        let signals = {
            let mut s = self.lock();
            self.wakes_at.store(0, Ordering::Release);
            let Some(mut tcb) = s.tcb.take() else { return };
            let due = tcb.deadline().is_some_and(|at| at <= now());
            let signals =
                if due { self.with_wire(&mut s, |wire| tcb.on_timer(now(), wire)).unwrap_or_default() } else { Signals::default() };
            self.arm(&tcb);
            s.tcb = Some(tcb);
            signals
        };
        if signals != Signals::default() {
            self.flush(signals);
        }
    }

    /// After a batch of segments, or a timer: sends, settles what has happened, wakes.
    pub fn flush(&self, signals: Signals) {
        let mut events = PollEvents::empty();
        let (mut accepted, mut forget) = (None, None);
        let gone;
        {
            let mut s = self.lock();
            gone = s.tcb.as_mut().map(|t| std::mem::take(&mut t.gone));
            self.push_out(&mut s);
            self.unread.store(s.stream.len(), Ordering::Relaxed);
            if signals.connected {
                match s.phase {
                    Phase::Connecting => {
                        s.phase = Phase::Connected;
                        events |= PollEvents::WRITABLE;
                    }
                    Phase::Open { .. } => accepted = s.listener.upgrade(),
                    _ => {}
                }
            }
            if let Some(error) = signals.error {
                self.outside_error(&mut s, error);
                events |= PollEvents::all();
            }
            if signals.readable {
                events |= PollEvents::READABLE | if s.end_reached() { PollEvents::RDHUP | PollEvents::HUP } else { PollEvents::empty() };
            }
            if signals.urgent {
                events |= PollEvents::PRI;
            }
            if signals.writable && self.room_outside(&s).is_some_and(|r| r > 0) && std::mem::take(&mut s.peer_waits) {
                events |= PollEvents::WRITABLE;
            }
            if matches!(s.phase, Phase::Dead) && self.options().linger().is_some() {
                // close(2) may wait for this acknowledgement.
                events |= PollEvents::all();
            }
            if signals.closed {
                forget = s.local.zip(s.remote);
                self.disconnected(&mut s, None);
                if matches!(s.phase, Phase::Dead) {
                    s.tcb = None;
                    s.path = None;
                    if let Some(at) = s.bound.take() {
                        drop(s);
                        self.stack.ports.unbind(self, at);
                    }
                }
                events |= PollEvents::all();
            }
        }
        self.stack.pieces.give_back(gone.unwrap_or_default());
        if let Some((local, remote)) = forget {
            self.stack.connections.remove(local, remote, self);
        }
        if let Some(listener) = accepted {
            self.hand_over(&listener);
        }
        if !events.is_empty() {
            self.notify(events);
        }
    }

    fn outside_error(&self, s: &mut State, error: Errno) {
        match s.phase {
            Phase::Connecting => {
                s.phase = Phase::Open { failed: true };
                s.tcb = None;
                self.disconnected(s, None);
                if let (Some(l), Some(r)) = (s.local, s.remote.take()) {
                    self.stack.connections.remove(l, r, self);
                }
                if let Some(at) = self.drop_port(s) {
                    self.stack.ports.unbind(self, at);
                }
                self.stack.snmp.tcp_failed.fetch_add(1, Ordering::Relaxed);
                self.options().set_error(error);
            }
            Phase::Connected => {
                s.phase = Phase::Reset;
                s.shut = kernel::net::Shutdown { read: true, write: true };
                self.options().set_error(error);
            }
            _ => {}
        }
    }

    /// A handshake is done: the listener may accept it.
    fn hand_over(&self, listener: &Arc<InetSock>) {
        let me = self.me();
        {
            let mut l = listener.lock();
            let Phase::Listening { pending, half_open, .. } = &mut l.phase else {
                drop(l);
                return self.close_tcp();
            };
            half_open.retain(|w| !std::ptr::eq(w.as_ptr(), self) && w.strong_count() > 0);
            let mut s = self.lock_nested();
            s.phase = Phase::Connected;
            s.reported = true;
            if let (Some(local), Some(remote)) = (s.local, s.remote) {
                s.entered = true;
                self.stack.ports.accepted(&me, local, remote);
            }
            drop(s);
            pending.push_back(me);
        }
        self.stack.snmp.tcp_passive.fetch_add(1, Ordering::Relaxed);
        listener.notify(PollEvents::READABLE);
    }

    /// Bytes that the application may still write; `None` if the peer is in this sandbox.
    pub(super) fn room_outside(&self, s: &State) -> Option<usize> {
        let t = s.tcb.as_ref()?;
        let used = t.unacknowledged();
        let o = self.options();
        let size = if o.sized().0 {
            o.sndbuf()
        } else {
            // Twice what the path holds, so that there is always something to send.
            let f = t.figures();
            (f.window as usize).saturating_mul(f.mss as usize).saturating_mul(2).clamp(SEND_MIN, SEND_MAX)
        };
        if self.extra.unsent_low() > 0 && t.unsent() >= self.extra.unsent_low() {
            return Some(0);
        }
        // Room counts once a third of the buffer is free (sk_stream_is_writeable).
        let free = size.saturating_sub(used);
        Some(if s.peer_waits && free < size / 3 { 0 } else { free })
    }

    pub(super) fn send_outside(&self, s: &mut State, buf: &mut IoBuffer<'_>, flags: i32) -> Result<usize> {
        let mut sent = 0;
        loop {
            let room = self.room_outside(s).unwrap_or(0);
            if buf.remaining() == 0 {
                break;
            }
            if room == 0 {
                s.peer_waits = true;
                if sent == 0 {
                    bail!(EAGAIN, "the send buffer is full");
                }
                break;
            }
            let mut data = self.stack.pieces.take(buf.remaining().min(PIECE).min(room));
            match buf.read(&mut data) {
                Ok(n) => data.truncate(n),
                Err(e) if sent == 0 => return Err(e),
                Err(_) => break,
            }
            sent += data.len();
            if let Some(t) = &mut s.tcb {
                t.write_piece(data);
                t.config.cork = self.extra.cork() || flags & libc::MSG_MORE != 0;
            }
            self.push_out(s);
        }
        Ok(sent)
    }

    pub(super) fn read_outside(&self, s: &mut State, n: usize) {
        if s.tcb.as_mut().is_some_and(|t| t.read(n, now())) {
            self.push_out(s);
        }
    }

    pub(super) fn close_write_outside(&self, s: &mut State) {
        if let Some(t) = &mut s.tcb {
            t.close_write();
            self.push_out(s);
        }
    }

    /// The descriptor is closed; the connection ends by itself.
    pub(super) fn close_outside(&self, s: &mut State) {
        if let Some(t) = &mut s.tcb {
            t.close_write();
            t.set_orphan(now());
            self.push_out(s);
        }
    }

    /// An option that changes how the connection behaves was set.
    pub(super) fn reconfigure(&self, push: bool) {
        let mut s = self.lock();
        let Some(mut tcb) = s.tcb.take() else { return };
        let o = self.options();
        tcb.config.nodelay = self.extra.nodelay();
        tcb.config.cork = self.extra.cork();
        tcb.config.user_timeout = self.extra.user_timeout();
        tcb.config.keepalive = o.is_set(libc::SO_KEEPALIVE).then(|| self.extra.keepalive());
        if tcb.algorithm() != self.extra.algorithm() {
            tcb.set_algorithm(self.extra.algorithm());
        }
        tcb.rearm_keepalive(now());
        if push {
            self.with_wire(&mut s, |wire| tcb.push(now(), wire));
        }
        self.arm(&tcb);
        s.tcb = Some(tcb);
    }
}

impl InetSock {
    /// What the socket's filter lets through of a segment, which it sees from the header on.
    fn admitted<'a>(&self, device: &Device, p: &Packet<'a>, segment: &Segment<'a>) -> Option<Segment<'a>> {
        let Some(program) = self.options().filter.program() else { return Some(*segment) };
        let protocol = if p.dst.is_ipv4() { wire::ETH_IPV4 } else { wire::ETH_IPV6 };
        let header = p.payload.len() - segment.payload.len();
        let view = View { data: p.payload, protocol, device: device.index, hardware: 1, ..View::default() };
        let n = SocketFilter::admit(&program, &view, header)?;
        Some(Segment { payload: segment.payload.get(..n - header)?, ..*segment })
    }
}

/// A segment from outside.
pub fn input(stack: &Stack, device: &Arc<Device>, p: &Packet<'_>, segment: &Segment<'_>, touched: &mut Touched) {
    let (local, remote) = (SocketAddr::new(p.dst, segment.dst), SocketAddr::new(p.src, segment.src));
    if let Some(sock) = stack.connections.find(local, remote) {
        let Some(segment) = &sock.admitted(device, p, segment) else { return };
        let reborn = {
            let mut guard = sock.lock();
            let s = &mut *guard;
            let Some(mut tcb) = s.tcb.take() else { return };
            let old = tcb.state == tcp::State::TimeWait;
            if old && segment.flags & (flag::SYN | flag::ACK | flag::RST) == flag::SYN && tcb.may_be_reborn(segment) {
                s.tcb = Some(tcb);
                true
            } else {
                let mut stream = std::mem::take(&mut s.stream);
                let next = tcb.next_expected();
                let mut signals = sock.with_wire(s, |wire| tcb.on_segment(segment, now(), &mut stream, wire)).unwrap_or_default();
                s.stream = stream;
                if segment.has(flag::URG) && !segment.payload.is_empty() {
                    // The urgent pointer names the byte behind (or, long ago, the last one of) the urgent data. It counts only if that
                    // byte has come with this segment: anybody can send one that does not belong to the stream.
                    let ahead = u32::from(segment.urgent).min(segment.payload.len() as u32).max(1);
                    let byte = segment.seq.wrapping_add(ahead - 1);
                    // The end of the stream counts as one.
                    let end = tcb.next_expected().wrapping_sub(u32::from(tcb.finished_reading()));
                    let (taken, back) = (end.wrapping_sub(next), end.wrapping_sub(byte));
                    if (1..=taken).contains(&back)
                        && let Some(at) = (s.position + s.stream.len() as u64).checked_sub(u64::from(back))
                    {
                        s.urgent = Some(super::sock::Urgent { at, taken: false });
                        signals.urgent = true;
                    }
                }
                s.tcb = Some(tcb);
                drop(guard);
                touched.add(sock.clone(), signals);
                false
            }
        };
        if !reborn {
            return;
        }
        sock.flush(Signals { closed: true, ..Signals::default() });
    }
    if device.is_loopback() {
        return answer_probe(stack, local, remote, segment);
    }
    if segment.flags & (flag::SYN | flag::ACK | flag::RST | flag::FIN) == flag::SYN
        && let Some(listener) = stack.ports.listener(local, stack.connections.hash(local, remote))
    {
        let Some(segment) = listener.admitted(device, p, segment) else { return };
        return begin(stack, device, &listener, local, remote, &segment, touched);
    }
    if cookies::accept(stack, device, local, remote, segment) {
        return input(stack, device, p, segment, touched);
    }
    if let Some(answer) = tcp::refusal(segment) {
        if let Ok(mut path) = stack.path(remote.ip(), Some(local.ip()), scope_of(remote, device)).map(|p| Path { ..p })
            && !path.local
        {
            send_segment(stack, &mut path, local, remote, (64, 0), &answer, &[]);
        }
    }
}

/// The device that an address counts on (link-local ones).
pub(super) fn scope_of(remote: SocketAddr, device: &Device) -> Option<u32> {
    matches!(remote.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local()).then_some(device.index)
}

/// A segment on loopback, where connections have none: a raw socket has made it, and sees the answer (traceroute -T).
fn answer_probe(stack: &Stack, local: SocketAddr, remote: SocketAddr, segment: &Segment<'_>) {
    let listens = stack.ports.listener(local, stack.connections.hash(local, remote)).is_some();
    let opens = listens && segment.flags & (flag::SYN | flag::ACK | flag::RST) == flag::SYN;
    let answer = if opens {
        let seq = stack.connections.hash(local, remote) as u32;
        let options = Options { mss: Some(65_495), ..Options::default() };
        Some(Outgoing { seq, ack: segment.seq.wrapping_add(1), flags: flag::SYN | flag::ACK, window: u16::MAX, options, mss: 0 })
    } else {
        tcp::refusal(segment)
    };
    if let Some(answer) = answer {
        let mut bytes = answer.header(local.port(), remote.port());
        let id = stack.packet_id() as u16;
        let (src, dst) = (local.ip(), remote.ip());
        let h = IpHeader { src, dst, protocol: wire::TCP, ttl: 64, tos: 0, id, dont_fragment: true, fragment: None };
        stack.tap(&h, &mut bytes, 16);
    }
}

/// A SYN for a listening socket.
fn begin(
    stack: &Stack,
    device: &Arc<Device>,
    listener: &Arc<InetSock>,
    local: SocketAddr,
    remote: SocketAddr,
    syn: &Segment<'_>,
    touched: &mut Touched,
) {
    let Ok(mut path) = stack.path(remote.ip(), Some(local.ip()), scope_of(remote, device)) else {
        return;
    };
    let child = InetSock::new(listener.is_v6(), SocketKind::Stream, &listener.stack, listener.uid);
    child.options().inherit(listener.options());
    child.extra.inherit(&listener.extra);
    {
        let mut l = listener.lock();
        let Phase::Listening { backlog, pending, half_open, .. } = &mut l.phase else {
            return;
        };
        if pending.len() > *backlog {
            // As on Linux: no answer, so that it is asked again.
            return;
        }
        while half_open.front().is_some_and(|w| w.strong_count() == 0) {
            half_open.pop_front();
        }
        if half_open.len() >= HALF_OPEN_MAX {
            drop(l);
            return cookies::answer(stack, &mut path, listener, local, remote, syn);
        }
        half_open.push_back(Arc::downgrade(&child));
    }
    if !stack.connections.add(local, remote, &child) {
        return;
    }
    {
        let mut s = child.lock();
        s.local = Some(local);
        s.remote = Some(remote);
        s.listener = Arc::downgrade(listener);
        let config = child.config(path.mtu, remote.is_ipv4());
        s.path = Some(Box::new(path));
        s.tcb = Some(Box::new(Tcb::accept(config, child.first_number(local, remote), syn, now())));
    }
    touched.add(child, Signals::default());
}

/// An ICMP error about a segment that we sent.
pub fn error(stack: &Stack, local: SocketAddr, remote: SocketAddr, seq: u32, error: &SocketError, touched: &mut Touched) {
    let Some(sock) = stack.connections.find(local, remote) else {
        return;
    };
    let mut s = sock.lock();
    let Some(tcb) = s.tcb.as_mut().filter(|t| t.is_in_flight(seq)) else {
        return;
    };
    if error.errno == Errno::EMSGSIZE {
        tcb.path_shrank(mss_of(error.info, remote.is_ipv4()));
        drop(s);
        return touched.add(sock, Signals::default());
    }
    // Only a connection that does not exist yet is given up for it (RFC 1122, 4.2.3.9; RFC 5461).
    if matches!(s.phase, Phase::Connecting) {
        drop(s);
        touched.add(sock, Signals { error: Some(error.errno), closed: true, ..Signals::default() });
    }
}
