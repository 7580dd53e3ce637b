//! Sending and receiving on datagram and seqpacket sockets.

use super::{
    Sock,
    address::{Found, Name},
    packet::{Charge, Packet},
    rights::{self, InFlight},
    sock::Phase,
    stream::split_control,
};
use abi::{Error, Result, bail, libc, poll::PollEvents};
use kernel::{
    io::IoBuffer,
    net::{Control, Message, SocketFilter, SocketKind, SocketOps, View},
    task::Task,
};
use std::sync::Arc;

impl Sock {
    /// Whether `peer` takes a datagram of this socket; if not, this socket will be told when it does.
    pub(super) fn has_room_at(&self, peer: &Arc<Sock>) -> bool {
        if std::ptr::eq(Arc::as_ptr(peer), self) {
            return true;
        }
        let mut p = peer.lock();
        // Two sockets connected with each other are only limited by their buffers.
        if p.peer.as_ref().is_some_and(|x| std::ptr::eq(Arc::as_ptr(x), self)) || !p.is_full() {
            return true;
        }
        Sock::wait_for_room(&mut p, self);
        false
    }

    /// Who a message goes to, and whether that is the connected peer.
    fn receiver(&self, task: Option<&Task>, name: &[u8]) -> Result<(Found, bool)> {
        if self.kind() == SocketKind::SeqPacket {
            let s = self.lock();
            return match (&s.phase, &s.peer) {
                (Phase::Connected, Some(p)) => Ok((Found::Inside(p.clone()), true)),
                _ => bail!(ENOTCONN),
            };
        }
        if name.is_empty() {
            return match self.lock().peer.clone() {
                Some(p) => Ok((Found::Inside(p), true)),
                None => bail!(ENOTCONN),
            };
        }
        let Some(task) = task else { bail!(ENOTCONN, "no task to look names up for") };
        Ok((self.names.find(task, &Name::parse(name)?, self.kind())?, false))
    }

    /// The peer is gone.
    fn refused(&self, peer: &Arc<Sock>, connected: bool) -> Error {
        if self.kind() == SocketKind::SeqPacket {
            return abi::error!(EPIPE, "the peer is closed");
        }
        if connected {
            let mut s = self.lock();
            if s.peer.as_ref().is_some_and(|p| Arc::ptr_eq(p, peer)) {
                s.peer = None;
            }
        }
        abi::error!(ECONNREFUSED, "the peer is closed")
    }

    pub(super) fn send_dgram(&self, task: Option<&Task>, buf: &mut IoBuffer<'_>, message: Message) -> Result<usize> {
        let len = buf.remaining();
        if len > self.options().sndbuf().saturating_sub(32) {
            bail!(EMSGSIZE);
        }
        // Linux copies the datagram before it looks the receiver up.
        if message.name.is_empty() || self.kind() == SocketKind::SeqPacket {
            self.receiver(task, &[])?;
        }
        let from = {
            let s = self.lock();
            if s.shut.write {
                bail!(EPIPE, "shut down");
            }
            s.name()
        };
        if self.buffer_full() {
            bail!(EAGAIN, "send buffer is full");
        }
        let start = buf.done();
        let mut data = vec![0; len];
        if len > 0 && buf.read(&mut data)? < len {
            bail!(EFAULT, "part of the datagram is not readable");
        }
        let (to, connected) = match (self.receiver(task, &message.name)?, task) {
            ((Found::Inside(to), connected), _) => (to, connected),
            ((Found::Outside(inode), _), Some(task)) => {
                buf.rewind_to(start);
                return self.send_dgram_to_host(task, &inode, buf, message);
            }
            ((Found::Outside(_), _), None) => bail!(ENOTCONN, "no task to connect for"),
        };
        {
            let r = to.lock();
            if matches!(r.phase, Phase::Dead) {
                drop(r);
                return Err(self.refused(&to, connected));
            }
            let alone = r.peer.as_ref().is_none_or(|p| std::ptr::eq(Arc::as_ptr(p), self));
            if !alone && !std::ptr::eq(Arc::as_ptr(&to), self) {
                bail!(EPERM, "it only hears another socket");
            }
            if r.shut.read {
                bail!(EPIPE, "the peer does not read");
            }
        }
        if !self.has_room_at(&to) {
            buf.rewind_to(start);
            bail!(EAGAIN, "the receiver's queue is full");
        }
        if let Some(program) = to.options().filter.program() {
            // What it does not let through is thrown away, and the sender does not hear of it.
            let Some(n) = SocketFilter::admit(&program, &View { data: &data, ..View::default() }, 0) else { return Ok(len) };
            data.truncate(n);
        }
        let (rights, cred) = split_control(message.control, self.sender(task))?;
        let charge = Charge::new(&self.me(), len);
        let packet = Packet { data, off: 0, rights, cred, from, _charge: charge };
        let mut r = to.lock();
        if matches!(r.phase, Phase::Dead) {
            drop(r);
            rights::bury([packet]);
            return Err(self.refused(&to, connected));
        }
        r.received.push_back(packet);
        drop(r);
        to.notify(PollEvents::READABLE);
        Ok(len)
    }

    pub(super) fn recv_dgram(&self, buf: &mut IoBuffer<'_>, flags: i32, message: &mut Message) -> Result<usize> {
        if flags & libc::MSG_OOB != 0 {
            bail!(EOPNOTSUPP, "no urgent data");
        }
        let peek = flags & libc::MSG_PEEK != 0;
        let mut s = self.lock();
        if self.kind() == SocketKind::SeqPacket && !matches!(s.phase, Phase::Connected) {
            bail!(ENOTCONN);
        }
        self.options().take_error()?;
        let Some(p) = s.received.front_mut() else {
            if s.shut.read {
                return Ok(0);
            }
            bail!(EAGAIN, "no datagram waits");
        };
        let len = p.data.len();
        let copied = if len == 0 || buf.remaining() == 0 { 0 } else { buf.write(&p.data)? };
        message.name = p.from.as_ref().map(|n| n.to_vec()).unwrap_or_default();
        let files = if peek { p.rights.as_ref().map(InFlight::peek) } else { p.rights.take().map(InFlight::take) };
        message.control.extend(files.map(Control::Rights));
        if self.options().is_set(libc::SO_PASSCRED) {
            message.control.push(Control::Credentials(p.cred.seen()));
        }
        let mut waiting = Vec::new();
        let mut gone = None;
        if !peek {
            gone = s.received.pop_front();
            if !s.is_full() {
                waiting = std::mem::take(&mut s.waiting);
            }
        }
        drop(s);
        rights::bury(gone);
        Sock::wake_waiting(waiting);
        if copied < len {
            message.flags |= libc::MSG_TRUNC;
        }
        Ok(if flags & libc::MSG_TRUNC != 0 { len } else { copied })
    }
}
