//! bind(2), listen(2), connect(2) and accept(2) of unix sockets.

use super::{
    Sock,
    address::{Found, Name, unnamed},
    sock::Phase,
    ucred,
};
use abi::{Errno, Result, bail, libc, poll::PollEvents};
use kernel::{
    net::{SocketKind, SocketOps},
    task::Task,
};
use std::collections::VecDeque;
use std::sync::Arc;

/// /proc/sys/net/core/somaxconn
pub const SOMAXCONN: i32 = 4096;

fn is_unspecified(addr: &[u8]) -> bool {
    addr.first_chunk::<2>().is_some_and(|f| i32::from(u16::from_ne_bytes(*f)) == libc::AF_UNSPEC)
}

impl Sock {
    /// bind(2). A name is bound only once: `EINVAL`.
    pub(super) fn bind_name(&self, task: &Task, name: &Name) -> Result {
        if self.lock().bound.is_some() {
            // Linux is content where nothing is asked for.
            return if *name == Name::Auto { Ok(()) } else { bail!(EINVAL, "bound already") };
        }
        let bound = self.names.bind(task, &self.me(), name)?;
        let mut s = self.lock();
        if s.bound.is_some() || matches!(s.phase, Phase::Dead) {
            self.names.unbind(&bound);
            bail!(EINVAL, "bound meanwhile");
        }
        s.bound = Some(bound);
        Ok(())
    }

    /// A socket that wants the other side's credentials must itself have a name (unix(7)).
    fn autobind(&self) -> Result {
        if self.options().is_set(libc::SO_PASSCRED) && self.lock().name().is_none() {
            let bound = self.names.autobind(&self.me())?;
            self.lock().bound.get_or_insert(bound);
        }
        Ok(())
    }

    /// listen(2)
    pub(super) fn start_listening(&self, task: &Task, backlog: i32) -> Result {
        if self.kind() == SocketKind::Dgram {
            bail!(EOPNOTSUPP);
        }
        let new = backlog as u32;
        let new = new.min(SOMAXCONN as u32) as usize;
        let mut s = self.lock();
        if s.bound.is_none() {
            bail!(EINVAL, "not bound");
        }
        match &mut s.phase {
            Phase::Open => s.phase = Phase::Listening { backlog: new, pending: VecDeque::new() },
            Phase::Listening { backlog, .. } => *backlog = new,
            _ => bail!(EINVAL, "connected"),
        }
        s.own_cred = ucred(task);
        s.own_groups = task.cred().groups.clone();
        let waiting = std::mem::take(&mut s.waiting);
        drop(s);
        Sock::wake_waiting(waiting);
        Ok(())
    }

    /// connect(2) of a stream or seqpacket socket. `EAGAIN` while the listener's backlog is full.
    pub(super) fn connect_stream(&self, task: &Task, addr: &[u8]) -> Result {
        let name = Name::parse(addr)?;
        self.autobind()?;
        let listener = match self.names.find(task, &name, self.kind())? {
            Found::Inside(listener) => listener,
            Found::Outside(inode) => return self.connect_stream_to_host(task, &inode, addr),
        };
        if std::ptr::eq(Arc::as_ptr(&listener), self) {
            match self.lock().phase {
                Phase::Listening { .. } => bail!(EINVAL, "connecting to itself"),
                _ => bail!(ECONNREFUSED, "not listening"),
            }
        }
        let child = Sock::new(self.kind(), ucred(task), &self.names);
        {
            let (mut s, mut l) = self.lock_both(&listener);
            match s.phase {
                Phase::Open => {}
                Phase::Connected => bail!(EISCONN),
                _ => bail!(EINVAL, "listening"),
            }
            let l = &mut *l;
            let Phase::Listening { backlog, pending } = &mut l.phase else { bail!(ECONNREFUSED, "not listening") };
            if l.shut.read {
                bail!(ECONNREFUSED, "shut down");
            }
            if pending.len() > *backlog {
                Sock::wait_for_room(l, self);
                bail!(EAGAIN, "backlog is full");
            }
            {
                let mut c = child.lock_nested();
                c.phase = Phase::Connected;
                c.peer = Some(self.me());
                c.inherited_name = l.bound.as_ref().map(|b| b.raw.clone());
                c.peer_cred = Some(ucred(task));
                c.peer_groups = task.cred().groups.clone();
                c.own_cred = l.own_cred;
            }
            child.options().inherit(listener.options());
            pending.push_back(child.clone());
            s.phase = Phase::Connected;
            s.peer = Some(child);
            s.peer_cred = Some(l.own_cred);
            s.peer_groups = l.own_groups.clone();
        }
        listener.notify(PollEvents::READABLE);
        self.notify(PollEvents::WRITABLE);
        Ok(())
    }

    /// connect(2) of a datagram socket: whom it sends to, and alone hears of. AF_UNSPEC ends that.
    pub(super) fn connect_dgram(&self, task: &Task, addr: &[u8]) -> Result {
        if is_unspecified(addr) {
            self.host.set_peer(None);
            let old = self.lock().peer.take();
            self.leave(old);
            return Ok(());
        }
        let name = Name::parse(addr)?;
        self.autobind()?;
        let other = match self.names.find(task, &name, self.kind())? {
            Found::Inside(other) => other,
            Found::Outside(inode) => return self.connect_dgram_to_host(task, &inode, addr),
        };
        self.host.set_peer(None);
        if std::ptr::eq(Arc::as_ptr(&other), self) {
            self.lock().peer = Some(other);
            return Ok(());
        }
        let old = {
            let (mut s, o) = self.lock_both(&other);
            if matches!(o.phase, Phase::Dead) {
                bail!(ECONNREFUSED);
            }
            if o.peer.as_ref().is_some_and(|p| !std::ptr::eq(Arc::as_ptr(p), self)) {
                bail!(EPERM, "it only hears another socket");
            }
            s.peer_cred = Some(ucred(task));
            s.peer.replace(other.clone())
        };
        self.leave(old.filter(|p| !Arc::ptr_eq(p, &other)));
        self.notify(PollEvents::WRITABLE);
        Ok(())
    }

    /// The peer of before: datagrams of it are thrown away, and it learns that it is alone.
    pub(super) fn leave(&self, old: Option<Arc<Sock>>) {
        let Some(old) = old else { return };
        let received = std::mem::take(&mut self.lock().received);
        let mutual = old.lock().peer.as_ref().is_some_and(|p| std::ptr::eq(Arc::as_ptr(p), self));
        if !received.is_empty() && mutual {
            old.options().set_error(Errno::ECONNRESET);
            old.notify(PollEvents::ERR);
        }
        super::rights::bury(received);
    }

    /// accept(2)
    pub(super) fn take_pending(&self) -> Result<Arc<Sock>> {
        if self.kind() == SocketKind::Dgram {
            bail!(EOPNOTSUPP);
        }
        let mut s = self.lock();
        let Phase::Listening { pending, .. } = &mut s.phase else { bail!(EINVAL, "not listening") };
        let child = pending.pop_front();
        let waiting = if child.is_some() { std::mem::take(&mut s.waiting) } else { Vec::new() };
        let shut = s.shut.read;
        drop(s);
        Sock::wake_waiting(waiting);
        match child {
            Some(c) => Ok(c),
            None if shut => bail!(EINVAL, "shut down"),
            None => bail!(EAGAIN, "no connection waits"),
        }
    }

    /// The address that accept(2) tells of the peer.
    pub fn peer_name(&self) -> Vec<u8> {
        let peer = self.lock().peer.clone();
        peer.and_then(|p| p.lock().name()).map_or_else(unnamed, |n| n.to_vec())
    }
}
