//! TCP: two queues.

use super::{
    InetSock, address,
    sock::{Phase, Piece},
};
use abi::{Errno, Result, bail, libc, poll::PollEvents};
use kernel::{io::IoBuffer, net::SocketOps};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

/// /proc/sys/net/core/somaxconn
const SOMAXCONN: u32 = 4096;
/// The largest piece that is queued as one.
const PIECE: usize = 64 << 10;

impl InetSock {
    /// Bytes that the peer may have unread: what Linux's two buffers hold together.
    fn window(&self) -> usize {
        self.options().rcvbuf() + self.options().sndbuf() / 2
    }

    pub(super) fn start_listening(&self, backlog: i32) -> Result {
        if self.kind() != kernel::net::SocketKind::Stream {
            bail!(EOPNOTSUPP);
        }
        if matches!(self.lock().phase, Phase::Open) {
            self.autobind()?;
        }
        let new = (backlog as u32).min(SOMAXCONN) as usize;
        let mut s = self.lock();
        match &mut s.phase {
            Phase::Open => s.phase = Phase::Listening { backlog: new, pending: VecDeque::new() },
            Phase::Listening { backlog, .. } => *backlog = new,
            _ => bail!(EINVAL, "connected"),
        }
        Ok(())
    }

    /// connect(2). The handshake takes no time, so that this is never under way.
    pub(super) fn connect_tcp(&self, addr: &[u8]) -> Result {
        if address::family(addr) == libc::AF_UNSPEC {
            bail!(EOPNOTSUPP, "a connection cannot be taken back");
        }
        self.options().take_error()?;
        let to = address::destination(address::parse(addr, self.is_v6())?)?;
        self.check_reach(to)?;
        match self.lock().phase {
            Phase::Open => {}
            Phase::Connected => bail!(EISCONN),
            _ => bail!(EINVAL, "listening"),
        }
        self.autobind()?;
        let listener = self.ports.find(self.kind(), to).into_iter().find(|s| s.is_listening());
        let Some(listener) = listener else { bail!(ECONNREFUSED, "nobody listens at {to}") };
        let child = InetSock::new(listener.is_v6(), self.kind(), &self.ports);
        let local = {
            let mut s = self.lock();
            let port = s.local.map_or(0, |l| l.port());
            let ip = s.local.map(|l| l.ip()).filter(|ip| !ip.is_unspecified()).unwrap_or_else(|| address::source_for(to));
            let local = SocketAddr::new(ip, port);
            s.local = Some(local);
            s.remote = Some(to);
            s.peer = Some(child.clone());
            s.phase = Phase::Connected;
            local
        };
        {
            let mut l = listener.lock();
            let room = match &l.phase {
                Phase::Listening { backlog, pending } => pending.len() <= (*backlog).max(SOMAXCONN as usize),
                _ => false,
            };
            if !room {
                drop(l);
                let mut s = self.lock();
                (s.phase, s.peer, s.remote) = (Phase::Open, None, None);
                bail!(ECONNREFUSED, "nobody listens any more");
            }
            {
                let mut c = child.lock_nested();
                c.phase = Phase::Connected;
                c.local = Some(to);
                c.remote = Some(local);
                c.peer = Some(self.me());
            }
            child.options().inherit(listener.options());
            child.extra.inherit(&listener.extra);
            if let Phase::Listening { pending, .. } = &mut l.phase {
                pending.push_back(child);
            }
        }
        listener.notify(PollEvents::READABLE);
        self.notify(PollEvents::WRITABLE);
        Ok(())
    }

    pub(super) fn take_pending(&self) -> Result<Arc<InetSock>> {
        if self.kind() != kernel::net::SocketKind::Stream {
            bail!(EOPNOTSUPP);
        }
        let mut s = self.lock();
        let shut = s.shut.read;
        let Phase::Listening { pending, .. } = &mut s.phase else { bail!(EINVAL, "not listening") };
        match pending.pop_front() {
            Some(c) => Ok(c),
            None if shut => bail!(EINVAL, "shut down"),
            None => bail!(EAGAIN, "no connection waits"),
        }
    }

    /// The other end was closed; `reset`: with something unread.
    pub(super) fn hang_up(&self, reset: bool) {
        let mut s = self.lock();
        s.fin = true;
        if reset {
            s.shut.write = true;
            self.options().set_error(Errno::ECONNRESET);
        }
        drop(s);
        self.notify(PollEvents::all());
    }

    pub(super) fn send_tcp(&self, buf: &mut IoBuffer<'_>) -> Result<usize> {
        let (peer, from) = {
            let s = self.lock();
            if !matches!(s.phase, Phase::Connected) {
                bail!(EPIPE, "not connected");
            }
            if self.options().has_error() {
                drop(s);
                self.options().take_error()?;
                bail!(EPIPE);
            }
            if s.shut.write {
                bail!(EPIPE, "shut down");
            }
            let (Some(peer), Some(local)) = (s.peer.clone(), s.local) else { bail!(EPIPE, "no peer") };
            (peer, local)
        };
        let mut sent = 0;
        while buf.remaining() > 0 {
            let room = {
                let mut p = peer.lock();
                if matches!(p.phase, Phase::Dead) || p.shut.read {
                    if sent > 0 {
                        break;
                    }
                    bail!(EPIPE, "the peer does not read");
                }
                let room = peer.window().saturating_sub(p.queued);
                p.peer_waits |= room == 0;
                room
            };
            if room == 0 {
                break;
            }
            let mut data = vec![0; buf.remaining().min(PIECE).min(room)];
            match buf.read(&mut data) {
                Ok(n) => data.truncate(n),
                Err(e) if sent == 0 => return Err(e),
                Err(_) => break,
            }
            sent += data.len();
            let mut p = peer.lock();
            p.queued += data.len();
            p.received.push_back(Piece { data, off: 0, from });
        }
        if sent > 0 {
            peer.notify(PollEvents::READABLE);
        } else if buf.remaining() > 0 {
            bail!(EAGAIN, "window is full");
        }
        Ok(sent)
    }

    pub(super) fn recv_tcp(&self, buf: &mut IoBuffer<'_>, flags: i32) -> Result<usize> {
        let (peek, discard) = (flags & libc::MSG_PEEK != 0, flags & libc::MSG_TRUNC != 0);
        let mut s = self.lock();
        if !matches!(s.phase, Phase::Connected) {
            bail!(ENOTCONN);
        }
        if s.received.is_empty() {
            let ended = s.fin || s.shut.read;
            drop(s);
            self.options().take_error()?;
            if ended {
                return Ok(0);
            }
            bail!(EAGAIN, "nothing to read");
        }
        let mut copied = 0;
        let mut failed = Ok(());
        let (mut at, mut gone) = (0, Vec::new());
        let wanted = buf.remaining();
        while copied < wanted {
            let Some(p) = s.received.get_mut(at) else { break };
            let rest = p.data.get(p.off..).unwrap_or_default();
            let n = if discard && !peek {
                rest.len().min(wanted - copied)
            } else {
                match buf.write(rest) {
                    Ok(n) => n,
                    Err(e) => {
                        failed = Err(e);
                        break;
                    }
                }
            };
            copied += n;
            let whole = n == rest.len();
            if peek {
                at += 1;
            } else {
                p.off += n;
                s.queued -= n;
                if whole {
                    gone.extend(s.received.pop_front());
                }
            }
            if !whole {
                break;
            }
        }
        // Like Linux, tell a waiting sender only of a good piece of room.
        let wake = s.peer_waits && s.queued <= self.window() / 2;
        let peer = if wake { s.peer.clone() } else { None };
        if wake {
            s.peer_waits = false;
        }
        drop(s);
        drop(gone);
        if let Some(p) = peer {
            p.notify(PollEvents::WRITABLE);
        }
        if copied == 0 {
            failed?;
        }
        Ok(copied)
    }

    pub(super) fn poll_tcp(&self) -> PollEvents {
        let s = self.lock();
        let mut e = PollEvents::empty();
        if self.options().has_error() {
            e |= PollEvents::ERR;
        }
        match &s.phase {
            Phase::Listening { pending, .. } => {
                e.set(PollEvents::READABLE, !pending.is_empty());
                return e;
            }
            Phase::Connected => {}
            _ => return e | PollEvents::HUP | PollEvents::WRITABLE,
        }
        let ended = s.fin || s.shut.read;
        if ended {
            e |= PollEvents::RDHUP | PollEvents::READABLE;
        }
        if ended && s.shut.write {
            e |= PollEvents::HUP;
        }
        if !s.received.is_empty() {
            e |= PollEvents::READABLE;
        }
        let (peer, shut) = (s.peer.clone(), s.shut.write);
        drop(s);
        let room = peer.is_none_or(|p| {
            let mut state = p.lock();
            let room = state.queued < p.window() || matches!(state.phase, Phase::Dead);
            state.peer_waits |= !room;
            room
        });
        if shut || room {
            e |= PollEvents::WRITABLE;
        }
        e
    }
}
