//! UDP: a queue of datagrams, thrown away where there is no room.

use super::{InetSock, address, sock::Piece};
use abi::{Errno, Result, bail, libc, poll::PollEvents};
use kernel::{
    io::IoBuffer,
    net::{Message, SocketOps},
};
use std::net::SocketAddr;

/// The longest datagram.
const MAX: usize = 65_507;
/// What each datagram takes of the receive buffer besides its bytes.
const OVERHEAD: usize = 768;

impl InetSock {
    pub(super) fn connect_udp(&self, addr: &[u8]) -> Result {
        if address::family(addr) == libc::AF_UNSPEC {
            self.lock().remote = None;
            return Ok(());
        }
        let to = address::destination(address::parse(addr, self.is_v6())?)?;
        self.check_reach(to)?;
        self.autobind()?;
        let mut s = self.lock();
        s.remote = Some(to);
        if let Some(l) = s.local.filter(|l| l.ip().is_unspecified()) {
            s.local = Some(SocketAddr::new(address::source_for(to), l.port()));
        }
        Ok(())
    }

    pub(super) fn send_udp(&self, buf: &mut IoBuffer<'_>, message: &Message) -> Result<usize> {
        self.options().take_error()?;
        let connected = self.lock().remote;
        let to = if message.name.is_empty() {
            match connected {
                Some(to) => to,
                None => bail!(EDESTADDRREQ),
            }
        } else {
            address::destination(address::parse(&message.name, self.is_v6())?)?
        };
        if to.port() == 0 {
            bail!(EINVAL, "port 0");
        }
        if self.lock().shut.write {
            bail!(EPIPE, "shut down");
        }
        self.check_reach(to)?;
        let len = buf.remaining();
        if len > MAX {
            bail!(EMSGSIZE);
        }
        self.autobind()?;
        let mut data = vec![0; len];
        if len > 0 && buf.read(&mut data)? < len {
            bail!(EFAULT, "part of the datagram is not readable");
        }
        let from = match self.lock().local {
            Some(l) if !l.ip().is_unspecified() => l,
            Some(l) => SocketAddr::new(address::source_for(to), l.port()),
            None => bail!(EINVAL, "not bound"),
        };
        // A connected socket only hears its peer, and is preferred for it.
        let found = self.ports.find(self.kind(), to);
        let fits = |s: &InetSock, exact: bool| s.lock().remote.map_or(!exact, |r| r == from);
        let receiver = found.iter().find(|s| fits(s, true)).or_else(|| found.iter().find(|s| fits(s, false)));
        match receiver {
            Some(r) => r.take_datagram(Piece { data, off: 0, from }),
            // ICMP's port unreachable comes back to connected sockets.
            None if connected == Some(to) => {
                self.options().set_error(Errno::ECONNREFUSED);
                self.notify(PollEvents::ERR);
            }
            None => {}
        }
        Ok(len)
    }

    fn take_datagram(&self, d: Piece) {
        let mut s = self.lock();
        if s.queued + d.data.len() + OVERHEAD > self.options().rcvbuf() || s.shut.read {
            return;
        }
        s.queued += d.data.len() + OVERHEAD;
        s.received.push_back(d);
        drop(s);
        self.notify(PollEvents::READABLE);
    }

    pub(super) fn recv_udp(&self, buf: &mut IoBuffer<'_>, flags: i32, message: &mut Message) -> Result<usize> {
        self.options().take_error()?;
        let mut s = self.lock();
        let Some(d) = s.received.front() else {
            if s.shut.read {
                return Ok(0);
            }
            bail!(EAGAIN, "no datagram waits");
        };
        let len = d.data.len();
        let copied = if len == 0 || buf.remaining() == 0 { 0 } else { buf.write(&d.data)? };
        message.name = address::encode(d.from, self.is_v6());
        if flags & libc::MSG_PEEK == 0 {
            s.queued -= len + OVERHEAD;
            s.received.pop_front();
        }
        if copied < len {
            message.flags |= libc::MSG_TRUNC;
        }
        Ok(if flags & libc::MSG_TRUNC != 0 { len } else { copied })
    }

    pub(super) fn poll_udp(&self) -> PollEvents {
        let s = self.lock();
        let mut e = PollEvents::WRITABLE;
        e.set(PollEvents::ERR, self.options().has_error());
        if s.shut.read {
            e |= PollEvents::RDHUP | PollEvents::READABLE;
        }
        if s.shut.read && s.shut.write {
            e |= PollEvents::HUP;
        }
        if !s.received.is_empty() {
            e |= PollEvents::READABLE;
        }
        e
    }
}
