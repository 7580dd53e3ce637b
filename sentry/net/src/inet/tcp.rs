//! TCP as sockets see it. Over loopback a connection is two queues ([`State::stream`] of each end); towards the outside a
//! [`Tcb`](crate::tcp::Tcb) does the work ([`super::outside`]).

use super::{
    InetSock, address,
    sock::{Phase, State, Urgent},
    tuples::Left as Remains,
};
use crate::tcp::{segment::flag, stream::PIECE};
use abi::{Errno, Result, bail, libc, poll::PollEvents};
use kernel::{
    io::IoBuffer,
    net::{Message, Shutdown, SocketOps},
    signal::async_io::quietly,
};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Bytes that a peer may have unread unless the size of its buffer was asked for.
const WINDOW: usize = 512 << 10;
/// Sockets that wait for room in a listener's queue.
const WAITING_MAX: usize = 4096;

impl InetSock {
    /// Bytes that the peer may have unread.
    fn window(&self) -> usize {
        if self.options().sized().1 { self.options().rcvbuf() } else { WINDOW }
    }

    pub(super) fn start_listening(&self, backlog: i32) -> Result {
        if self.kind() != kernel::net::SocketKind::Stream {
            bail!(EOPNOTSUPP);
        }
        if matches!(self.lock().phase, Phase::Open { .. }) {
            self.autobind()?;
            // Sockets may share an address as long as none of them listens.
            self.stack.ports.check_listen(self)?;
        }
        let new = (backlog as u32).min(self.stack.settings.somaxconn.load(Ordering::Relaxed)) as usize;
        let mut s = self.lock();
        match &mut s.phase {
            Phase::Open { .. } => {
                s.phase = Phase::Listening { backlog: new, pending: VecDeque::new(), waiting: VecDeque::new(), half_open: VecDeque::new() };
                s.shut = Shutdown { read: false, write: false };
                self.listening.store(true, Ordering::Release);
            }
            Phase::Listening { backlog, .. } => *backlog = new,
            _ => bail!(EINVAL, "connected"),
        }
        Ok(())
    }

    /// connect(2): always `EINPROGRESS` first, as the answer comes from elsewhere; over loopback it is there at once.
    pub(super) fn connect_tcp(&self, addr: &[u8]) -> Result {
        if address::family(addr) == libc::AF_UNSPEC {
            self.disconnect();
            return Ok(());
        }
        let to = address::destination(address::parse(addr, self.is_v6())?);
        {
            let mut s = self.lock();
            match s.phase {
                Phase::Open { .. } => {}
                Phase::Connecting => bail!(EALREADY),
                Phase::Connected if !s.reported => {
                    s.reported = true;
                    return Ok(());
                }
                _ => bail!(EISCONN),
            }
        }
        if let Err(error) = self.options().take_error() {
            // Told now: the socket is as new.
            self.lock().phase = Phase::Open { failed: false };
            return Err(error);
        }
        self.check_reach(to)?;
        if to.ip().is_multicast() || to.ip() == std::net::IpAddr::from([255; 4]) {
            bail!(ENETUNREACH, "TCP has one peer");
        }
        if self.stack.local(to.ip()).is_none() {
            return self.connect_outside(to, address::scope(addr));
        }
        let source = match self.lock().bound {
            Some(bound) if !bound.ip().is_unspecified() => bound.ip(),
            _ => self.stack.path(to.ip(), None, None)?.source,
        };
        let local = self.settle_local(source, to)?;
        {
            let mut s = self.lock();
            s.local = Some(local);
            s.remote = Some(to);
            s.phase = Phase::Connecting;
            (s.entered, s.closed_first) = (true, false);
            (s.fin, s.reported, s.shut) = (false, false, Shutdown { read: false, write: false });
        }
        match self.stack.ports.listener(to, self.stack.connections.hash(local, to)) {
            Some(listener) => self.meet(&listener, true),
            None => {
                self.show_handshake(local, to, false);
                self.refused(Errno::ECONNREFUSED);
            }
        }
        bail!(EINPROGRESS)
    }

    /// The address that a connection from `source` to `to` has on this side: the bound port, or one that is chosen now. It is entered with it.
    pub(super) fn settle_local(&self, source: std::net::IpAddr, to: SocketAddr) -> Result<SocketAddr> {
        if source.is_ipv4() != to.is_ipv4() {
            bail!(ENETUNREACH, "bound to an address of the other family");
        }
        let bound = self.lock().bound;
        match bound {
            Some(bound) => {
                let local = SocketAddr::new(source, bound.port());
                self.stack.ports.connect_between(&self.me(), local, to)?;
                Ok(local)
            }
            None => self.stack.ports.connect_from(&self.me(), source, to),
        }
    }

    /// connect(2) came to nothing.
    pub(super) fn refused(&self, error: Errno) {
        let mut s = self.lock();
        s.phase = Phase::Open { failed: true };
        self.disconnected(&mut s, None);
        (s.peer, s.remote, s.tcb) = (None, None, None);
        let port = self.drop_port(&mut s);
        drop(s);
        if let Some(at) = port {
            self.stack.ports.unbind(self, at);
        }
        self.options().set_error(error);
        self.notify(PollEvents::all());
    }

    /// Enters a listener's queue, or waits for room there. The two become one connection.
    fn meet(&self, listener: &Arc<InetSock>, may_wait: bool) {
        let (local, remote) = {
            let s = self.lock();
            let (Phase::Connecting, Some(l), Some(r)) = (&s.phase, s.local, s.remote) else { return };
            (l, r)
        };
        let child = InetSock::new(listener.is_v6(), self.kind(), &self.stack, listener.uid);
        {
            let mut l = listener.lock();
            let Phase::Listening { backlog, pending, waiting, .. } = &mut l.phase else {
                drop(l);
                return self.refused(Errno::ECONNREFUSED);
            };
            if pending.len() > *backlog {
                if may_wait && waiting.len() < WAITING_MAX {
                    waiting.push_back(Arc::downgrade(&self.me()));
                }
                return;
            }
            {
                let mut c = child.lock_nested();
                c.phase = Phase::Connected;
                c.local = Some(remote);
                c.remote = Some(local);
                c.peer = Some(self.me());
                c.reported = true;
                c.entered = true;
            }
            self.stack.ports.accepted(&child, remote, local);
            child.options().inherit(listener.options());
            child.extra.inherit(&listener.extra);
            pending.push_back(child.clone());
        }
        let gone = {
            let mut s = self.lock();
            let gone = !matches!(s.phase, Phase::Connecting);
            if !gone {
                s.peer = Some(child.clone());
                s.phase = Phase::Connected;
            }
            gone
        };
        if gone {
            child.hang_up(true);
        }
        self.show_handshake(local, remote, true);
        self.stack.snmp.tcp_active.fetch_add(1, Ordering::Relaxed);
        self.stack.snmp.tcp_passive.fetch_add(1, Ordering::Relaxed);
        listener.notify(PollEvents::READABLE);
        self.notify(PollEvents::WRITABLE);
    }

    pub(super) fn connect_tcp_result(&self) -> Result {
        {
            let mut s = self.lock();
            match s.phase {
                Phase::Connecting => bail!(EAGAIN, "under way"),
                Phase::Connected => {
                    s.reported = true;
                    return Ok(());
                }
                _ => {}
            }
        }
        if let Err(error) = self.options().take_error() {
            let mut s = self.lock();
            if matches!(s.phase, Phase::Open { .. }) {
                s.phase = Phase::Open { failed: false };
            }
            return Err(error);
        }
        bail!(ECONNABORTED, "the connection is gone")
    }

    /// connect(2) with AF_UNSPEC: the socket is as new.
    fn disconnect(&self) {
        let mut s = self.lock();
        if matches!(s.phase, Phase::Open { failed: false } | Phase::Dead) {
            return;
        }
        let (local, remote) = (s.local, s.remote);
        self.disconnected(&mut s, None);
        let left = self.leave(&mut s);
        s.phase = Phase::Open { failed: false };
        s.stream.clear();
        (s.remote, s.fin, s.urgent, s.path) = (None, false, None, None);
        let port = self.drop_port(&mut s);
        s.shut = Shutdown { read: false, write: false };
        drop(s);
        if let Some(at) = port {
            self.stack.ports.unbind(self, at);
        }
        left.end(self, true, local, remote);
        self.notify(PollEvents::all());
    }

    /// Takes out of a socket what has to be told that it is gone.
    fn leave(&self, s: &mut State) -> Left {
        let (pending, waiting, half_open) = match std::mem::replace(&mut s.phase, Phase::Dead) {
            Phase::Listening { pending, waiting, half_open, .. } => (pending, waiting, half_open),
            _ => Default::default(),
        };
        self.listening.store(false, Ordering::Release);
        let outside = s.tcb.is_some();
        if let Some(mut tcb) = s.tcb.take() {
            self.with_wire(s, |wire| tcb.abort(wire));
        }
        Left { peer: s.peer.take(), pending, waiting, half_open, outside }
    }

    pub(super) fn close_tcp(&self) {
        let mut s = self.lock();
        if matches!(s.phase, Phase::Dead) {
            return;
        }
        let reset = !s.stream.is_empty() && !s.fin_read() || self.options().linger() == Some(0);
        let (local, remote) = (s.local, s.remote);
        let told = s.shut.write && !reset;
        s.shut = Shutdown { read: true, write: true };
        let alive = s.tcb.as_ref().is_some_and(|t| t.state != crate::tcp::State::Closed);
        if alive && !reset && matches!(s.phase, Phase::Connected) {
            // The rest goes on without us: the stack's table holds the socket until the end.
            s.phase = Phase::Dead;
            s.stream.clear();
            self.close_outside(&mut s);
            drop(s);
            self.notify(PollEvents::all());
            return;
        }
        // Over loopback the peer has everything, and acknowledges our end at once.
        let waits = !reset && !s.fin && matches!(s.phase, Phase::Connected) && s.tcb.is_none();
        let remains = waits.then(|| Remains::of(self, 5, self.extra.fin_timeout(&self.stack.settings)));
        self.disconnected(&mut s, remains);
        let left = self.leave(&mut s);
        s.stream.clear();
        let bound = s.bound.take();
        drop(s);
        if let Some(peer) = left.peer.as_ref().filter(|_| !told) {
            self.show_end(peer, if reset { flag::RST | flag::ACK } else { flag::FIN | flag::ACK });
        }
        if let Some(at) = bound {
            self.stack.ports.unbind(self, at);
        }
        left.end(self, reset, local, remote);
        self.notify(PollEvents::all());
    }

    /// Shows that this end sends no more.
    fn show_end(&self, peer: &InetSock, flags: u8) {
        if self.stack.is_tapped() {
            let sent = {
                let p = peer.lock();
                p.position + p.stream.len() as u64
            };
            let seen = self.seen(&self.lock(), sent);
            if let Some(seen) = seen {
                self.show_data(&seen, &[], flags);
            }
        }
    }

    pub(super) fn take_pending(&self) -> Result<Arc<InetSock>> {
        if self.kind() != kernel::net::SocketKind::Stream {
            bail!(EOPNOTSUPP);
        }
        let (child, next) = {
            let mut s = self.lock();
            let Phase::Listening { pending, waiting, .. } = &mut s.phase else { bail!(EINVAL, "not listening") };
            let Some(child) = pending.pop_front() else { bail!(EAGAIN, "no connection waits") };
            let next = std::iter::from_fn(|| waiting.pop_front()).find_map(|w| w.upgrade());
            (child, next)
        };
        if let Some(next) = next {
            next.meet(&self.me(), true);
        }
        Ok(child)
    }

    /// The other end was closed; `reset`: with something unread.
    pub(super) fn hang_up(&self, reset: bool) {
        let mut s = self.lock();
        if matches!(s.phase, Phase::Dead) {
            if let (Some(local), Some(remote)) = (s.local, s.remote) {
                if reset {
                    self.stack.ports.disconnected(self, local, remote, None);
                } else {
                    self.stack.ports.settle(local, remote);
                }
            }
            return;
        }
        if reset {
            self.reset(&mut s);
        } else {
            s.fin = true;
            if s.closed_first {
                self.disconnected(&mut s, Some(Remains::of(self, 6, 0)));
            }
        }
        drop(s);
        self.notify(PollEvents::all());
    }

    /// A reset has arrived.
    fn reset(&self, s: &mut State) {
        let error = match (&s.phase, s.fin) {
            (Phase::Connecting, _) => Errno::ECONNREFUSED,
            (_, true) => Errno::EPIPE,
            _ => Errno::ECONNRESET,
        };
        self.stack.snmp.tcp_resets.fetch_add(1, Ordering::Relaxed);
        s.phase = Phase::Reset;
        s.fin = true;
        s.peer = None;
        self.disconnected(s, None);
        s.shut = Shutdown { read: true, write: true };
        self.options().set_error(error);
    }

    pub(super) fn shutdown_tcp(&self, how: Shutdown) -> Result {
        let mut s = self.lock();
        match s.phase {
            Phase::Listening { .. } if how.read => {
                let (local, remote) = (s.local, s.remote);
                let left = self.leave(&mut s);
                s.phase = Phase::Open { failed: false };
                let port = self.drop_port(&mut s);
                drop(s);
                if let Some(at) = port {
                    self.stack.ports.unbind(self, at);
                }
                left.end(self, true, local, remote);
                self.notify(PollEvents::all());
                return Ok(());
            }
            Phase::Listening { .. } => return Ok(()),
            Phase::Connected if s.tcb.is_none() && s.fin && s.shut.write => bail!(ENOTCONN, "closed on both sides"),
            Phase::Connected => {}
            Phase::Connecting if how.read => {
                drop(s);
                self.disconnect();
                return Ok(());
            }
            Phase::Connecting => return Ok(()),
            _ => bail!(ENOTCONN),
        }
        s.shut.read |= how.read;
        let first = how.write && !s.shut.write;
        s.shut.write |= how.write;
        let peer = s.peer.clone().filter(|_| first);
        if first && s.tcb.is_none() {
            s.closed_first = !s.fin;
            if s.fin {
                self.disconnected(&mut s, None);
            }
        }
        if first {
            self.close_write_outside(&mut s);
        }
        drop(s);
        if let Some(p) = peer {
            self.show_end(&p, flag::FIN | flag::ACK);
            p.hang_up(false);
        }
        // Who waits in poll(2) hears of it, nobody else.
        quietly(|| self.notify(PollEvents::all()));
        Ok(())
    }

    pub(super) fn send_tcp(&self, buf: &mut IoBuffer<'_>, flags: i32) -> Result<usize> {
        let peer = {
            let mut s = self.lock();
            if matches!(s.phase, Phase::Connecting) {
                bail!(EAGAIN, "the connection is under way");
            }
            if self.options().has_error() {
                drop(s);
                return Err(self.options().take_error().err().unwrap_or(Errno::EPIPE.into()));
            }
            if !matches!(s.phase, Phase::Connected) || s.shut.write {
                bail!(EPIPE, "not connected, or shut down");
            }
            if s.tcb.is_some() {
                return self.send_outside(&mut s, buf, flags);
            }
            let Some(peer) = s.peer.clone() else { bail!(EPIPE, "no peer") };
            peer
        };
        let (mut sent, mut crowded) = (0, false);
        while buf.remaining() > 0 {
            let room = {
                let mut p = peer.lock();
                if matches!(p.phase, Phase::Dead) || p.shut.read && p.shut.write {
                    drop(p);
                    return self.send_to_nobody(&peer, buf, sent);
                }
                let room = peer.window().saturating_sub(p.stream.len());
                p.peer_waits |= room == 0;
                room
            };
            if room == 0 {
                crowded = true;
                break;
            }
            let wanted = buf.remaining().min(PIECE).min(room);
            let mut data = self.stack.pieces.take(wanted);
            match buf.read(&mut data) {
                Ok(n) => data.truncate(n),
                Err(e) if sent == 0 => return Err(e),
                Err(_) => break,
            }
            let n = data.len();
            let copy = self.stack.is_tapped().then(|| data.clone());
            let mut p = peer.lock();
            let before = p.position + p.stream.len() as u64;
            p.stream.push(data);
            peer.unread.store(p.stream.len(), Ordering::Relaxed);
            sent += n;
            if flags & libc::MSG_OOB != 0 && buf.remaining() == 0 {
                let at = p.position + p.stream.len() as u64 - 1;
                p.urgent = Some(Urgent { at, taken: false });
            }
            drop(p);
            if let Some(copy) = copy {
                let seen = self.seen(&self.lock(), before);
                if let Some(seen) = seen {
                    self.show_data(&seen, &copy, flag::PSH | flag::ACK);
                }
            }
        }
        if sent > 0 {
            let urgent = if flags & libc::MSG_OOB != 0 { PollEvents::PRI } else { PollEvents::empty() };
            peer.notify(PollEvents::READABLE | urgent);
        } else if crowded {
            bail!(EAGAIN, "window is full");
        }
        Ok(sent)
    }

    /// The peer was closed: what is sent is lost, and a reset comes back.
    fn send_to_nobody(&self, peer: &Arc<InetSock>, buf: &mut IoBuffer<'_>, sent: usize) -> Result<usize> {
        // As much as would have been on its way when the reset came; its memory is read as always.
        let n = buf.remaining().min(PIECE).min(peer.window());
        buf.read_all(n)?;
        peer.hang_up(true);
        let mut s = self.lock();
        self.reset(&mut s);
        drop(s);
        self.notify(PollEvents::all());
        Ok(sent + n)
    }

    /// Bytes that can be read before the urgent byte, and whether that byte is the next one and has to be passed over.
    fn up_to_mark(&self, s: &State) -> (usize, bool) {
        let Some(u) = s.urgent else { return (usize::MAX, false) };
        if u.at < s.position {
            return (usize::MAX, false);
        }
        let before = (u.at - s.position) as usize;
        let inline = self.options().is_set(libc::SO_OOBINLINE);
        (if before == 0 { usize::MAX } else { before }, before == 0 && !inline)
    }

    pub(super) fn recv_tcp(&self, buf: &mut IoBuffer<'_>, flags: i32) -> Result<usize> {
        let (peek, discard) = (flags & libc::MSG_PEEK != 0, flags & libc::MSG_TRUNC != 0);
        let mut s = self.lock();
        match s.phase {
            Phase::Connected | Phase::Reset => {}
            Phase::Connecting => bail!(EAGAIN, "the connection is under way"),
            Phase::Open { failed } => {
                drop(s);
                self.options().take_error()?;
                if failed {
                    return Ok(0);
                }
                bail!(ENOTCONN);
            }
            _ => bail!(ENOTCONN),
        }
        let (limit, skip) = self.up_to_mark(&s);
        let from = usize::from(skip);
        if s.stream.len() <= from {
            if skip && s.stream.len() == 1 && !peek && (s.fin || s.shut.read) {
                s.stream.consume(1);
                s.position += 1;
            }
            let ended = s.end_reached() || s.shut.read;
            drop(s);
            self.options().take_error()?;
            if ended {
                return Ok(0);
            }
            bail!(EAGAIN, "nothing to read");
        }
        let wanted = buf.remaining().min(limit);
        let mut copied = 0;
        let mut failed = Ok(());
        if discard && !peek {
            copied = wanted.min(s.stream.len() - from);
        } else {
            for part in s.stream.slices(from, wanted) {
                match buf.write(part) {
                    Ok(n) => {
                        copied += n;
                        if n < part.len() {
                            break;
                        }
                    }
                    Err(e) => {
                        failed = Err(e);
                        break;
                    }
                }
            }
        }
        let mut gone = Vec::new();
        if !peek && copied > 0 {
            gone = self.consume(&mut s, copied + from);
        }
        // Like Linux, tell a waiting sender only of a good piece of room.
        let wake = s.peer_waits && s.stream.len() <= self.window() / 2;
        let peer = if wake { s.peer.clone() } else { None };
        if wake {
            s.peer_waits = false;
        }
        drop(s);
        self.stack.pieces.give_back(gone);
        if let Some(p) = peer {
            p.notify(PollEvents::WRITABLE);
        }
        if copied == 0 {
            failed?;
        }
        Ok(copied)
    }

    /// Takes bytes away that were read, and lets the outside know of the room.
    fn consume(&self, s: &mut State, n: usize) -> Vec<Vec<u8>> {
        let gone = s.stream.consume(n);
        s.position += n as u64;
        self.unread.store(s.stream.len(), Ordering::Relaxed);
        self.read_outside(s, n);
        gone
    }

    /// recv(2) with MSG_OOB.
    pub(super) fn recv_urgent(&self, buf: &mut IoBuffer<'_>, flags: i32, message: &mut Message) -> Result<usize> {
        let mut s = self.lock();
        if self.options().is_set(libc::SO_OOBINLINE) {
            bail!(EINVAL, "urgent data is in line");
        }
        let Some(u) = s.urgent.filter(|u| !u.taken && u.at >= s.position) else {
            if matches!(s.phase, Phase::Open { .. }) {
                bail!(EINVAL, "not connected");
            }
            bail!(EINVAL, "no urgent data");
        };
        let Some(byte) = s.stream.at((u.at - s.position) as usize) else { bail!(EAGAIN, "on its way") };
        if flags & libc::MSG_PEEK == 0 {
            s.urgent = Some(Urgent { taken: true, ..u });
        }
        drop(s);
        message.flags |= libc::MSG_OOB;
        if buf.remaining() == 0 {
            message.flags |= libc::MSG_TRUNC;
            return Ok(0);
        }
        buf.write(&[byte])
    }

    pub(super) fn poll_tcp(&self) -> PollEvents {
        let mut s = self.lock();
        let mut e = PollEvents::empty();
        if self.options().has_error() {
            e |= PollEvents::ERR;
        }
        match &s.phase {
            Phase::Listening { pending, .. } => {
                e.set(PollEvents::READABLE, !pending.is_empty());
                return e;
            }
            Phase::Connecting => return e,
            Phase::Connected => {}
            Phase::Open { failed: false } => return e | PollEvents::HUP | PollEvents::WRITABLE,
            _ => return e | PollEvents::HUP | PollEvents::WRITABLE | PollEvents::READABLE | PollEvents::RDHUP,
        }
        let ended = s.end_reached() || s.shut.read;
        if ended {
            e |= PollEvents::RDHUP | PollEvents::READABLE;
        }
        if s.shut.read && s.shut.write || s.all_over() {
            e |= PollEvents::HUP;
        }
        let (_, skip) = self.up_to_mark(&s);
        let low = self.options().receive_low().min(self.window());
        if s.stream.len() - usize::from(skip && !s.stream.is_empty()) >= low {
            e |= PollEvents::READABLE;
        }
        if s.urgent.is_some_and(|u| !u.taken && u.at >= s.position) {
            e |= PollEvents::PRI;
        }
        if let Some(room) = self.room_outside(&s) {
            e.set(PollEvents::WRITABLE, room > 0 || s.shut.write);
            s.peer_waits = room == 0;
            return e;
        }
        let (peer, shut) = (s.peer.clone(), s.shut.write);
        drop(s);
        let room = peer.is_none_or(|p| {
            // Where there is plenty of room, its lock need not be taken.
            if p.unread.load(Ordering::Relaxed) < p.window() / 2 {
                return true;
            }
            let mut state = p.lock();
            let room = state.stream.len() < p.window() || matches!(state.phase, Phase::Dead);
            state.peer_waits |= !room;
            room
        });
        if shut || room {
            e |= PollEvents::WRITABLE;
        }
        e
    }
}

impl State {
    /// The peer has sent its last byte, and it is here.
    pub fn end_reached(&self) -> bool {
        self.fin || self.tcb.as_ref().is_some_and(|t| t.finished_reading())
    }

    /// Nothing waits to be read but the end.
    fn fin_read(&self) -> bool {
        self.stream.is_empty()
    }

    /// Both directions are closed.
    fn all_over(&self) -> bool {
        match &self.tcb {
            Some(t) => matches!(
                t.state,
                crate::tcp::State::Closed | crate::tcp::State::TimeWait | crate::tcp::State::LastAck | crate::tcp::State::Closing
            ),
            None => self.fin && self.shut.write,
        }
    }
}

/// What a socket that goes leaves behind.
struct Left {
    peer: Option<Arc<InetSock>>,
    pending: VecDeque<Arc<InetSock>>,
    waiting: VecDeque<std::sync::Weak<InetSock>>,
    half_open: VecDeque<std::sync::Weak<InetSock>>,
    outside: bool,
}

impl Left {
    /// Tells them.
    fn end(self, sock: &InetSock, reset: bool, local: Option<SocketAddr>, remote: Option<SocketAddr>) {
        if let Some(p) = self.peer {
            p.hang_up(reset);
        }
        if let (true, Some(l), Some(r)) = (self.outside, local, remote) {
            sock.stack.connections.remove(l, r, sock);
        }
        for child in self.pending.into_iter().chain(self.half_open.into_iter().filter_map(|w| w.upgrade())) {
            child.abandon();
        }
        for w in self.waiting.into_iter().filter_map(|w| w.upgrade()) {
            if matches!(w.lock().phase, Phase::Connecting) {
                w.refused(Errno::ECONNREFUSED);
            }
        }
    }
}

impl InetSock {
    /// A connection that nobody will accept ends with a reset.
    fn abandon(&self) {
        let mut s = self.lock();
        let (local, remote) = (s.local, s.remote);
        self.disconnected(&mut s, None);
        let left = self.leave(&mut s);
        drop(s);
        left.end(self, true, local, remote);
    }
}
