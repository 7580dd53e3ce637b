//! [`InetSock`]: a TCP or UDP socket.

use super::{
    address,
    options::{self, Extra},
    ports::{self, Ports},
};
use crate::device;
use abi::{Result, bail, libc, poll::PollEvents};
use kernel::{
    cred::CapSet,
    io::IoBuffer,
    net::{Message, Shutdown, SocketKind, SocketOps, SocketOptions},
    task::Task,
    vfs::{File, IoctlArg},
};
use std::any::Any;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, Weak};
use sync::{Mutex, MutexGuard, Rank, WaitQueue};

/// Where a socket is in its life.
pub enum Phase {
    /// New, or a UDP socket.
    Open,
    /// listen(2) was called.
    Listening {
        /// Connections that may wait.
        backlog: usize,
        /// Connections that nobody has accepted.
        pending: VecDeque<Arc<InetSock>>,
    },
    /// TCP: is or was connected.
    Connected,
    /// Closed.
    Dead,
}

/// A datagram, or a piece of a stream.
pub struct Piece {
    pub data: Vec<u8>,
    /// Bytes already read.
    pub off: usize,
    pub from: SocketAddr,
}

/// What a socket's lock protects.
pub struct State {
    pub phase: Phase,
    /// Where it is bound in [`Ports`].
    pub bound: Option<SocketAddr>,
    pub local: Option<SocketAddr>,
    pub remote: Option<SocketAddr>,
    /// TCP: the other end.
    pub peer: Option<Arc<InetSock>>,
    pub received: VecDeque<Piece>,
    /// Bytes in `received`.
    pub queued: usize,
    /// The other end sends no more.
    pub fin: bool,
    pub shut: Shutdown,
    /// The peer found no room here and wants to hear of some.
    pub peer_waits: bool,
}

/// A socket.
pub struct InetSock {
    me: Weak<InetSock>,
    v6: bool,
    kind: SocketKind,
    queue: WaitQueue,
    options: SocketOptions,
    pub(super) extra: Extra,
    pub(super) ports: Arc<Ports>,
    state: Mutex<State>,
    ino: OnceLock<u64>,
}

impl InetSock {
    /// A new socket of AF_INET or (`v6`) AF_INET6.
    pub fn new(v6: bool, kind: SocketKind, ports: &Arc<Ports>) -> Arc<InetSock> {
        let state = State {
            phase: Phase::Open,
            bound: None,
            local: None,
            remote: None,
            peer: None,
            received: VecDeque::new(),
            queued: 0,
            fin: false,
            shut: Shutdown { read: false, write: false },
            peer_waits: false,
        };
        Arc::new_cyclic(|me| InetSock {
            me: me.clone(),
            v6,
            kind,
            queue: WaitQueue::new(),
            options: SocketOptions::default(),
            extra: Extra::default(),
            ports: ports.clone(),
            state: Mutex::new(Rank::Socket, state),
            ino: OnceLock::new(),
        })
    }

    pub(super) fn me(&self) -> Arc<InetSock> {
        // `me` is only asked through a reference to a living socket.
        self.me.upgrade().unwrap_or_else(|| InetSock::new(self.v6, self.kind, &self.ports))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Locks a new socket under another's lock.
    pub(super) fn lock_nested(&self) -> MutexGuard<'_, State> {
        self.state.lock_nested()
    }

    pub(super) fn notify(&self, events: PollEvents) {
        self.queue.notify(events);
    }

    /// Whether it is of AF_INET6.
    pub fn is_v6(&self) -> bool {
        self.v6
    }

    /// Whether it takes IPv4 as well as IPv6.
    pub fn is_dual(&self) -> bool {
        self.v6 && !self.extra.v6_only()
    }

    /// Whether listen(2) was called.
    pub fn is_listening(&self) -> bool {
        matches!(self.lock().phase, Phase::Listening { .. })
    }

    /// Local and remote address, state and queued bytes for /proc/net.
    pub fn shown(&self) -> (SocketAddr, SocketAddr, u8, usize) {
        let s = self.lock();
        let any = address::unspecified(self.v6);
        (s.local.unwrap_or(any), s.remote.unwrap_or(any), ports::state_number(&s.phase), s.queued)
    }

    /// Binds to where the socket is to be found; `Some` only once.
    pub(super) fn bind_to(&self, addr: SocketAddr) -> Result {
        if self.lock().bound.is_some() {
            bail!(EINVAL, "bound already");
        }
        let at = self.ports.bind(&self.me(), addr)?;
        let mut s = self.lock();
        s.bound = Some(at);
        s.local = Some(at);
        Ok(())
    }

    /// Binds to a free port if the socket has none.
    pub(super) fn autobind(&self) -> Result {
        if self.lock().local.is_some() { Ok(()) } else { self.bind_to(address::unspecified(self.v6)) }
    }

    /// `EAFNOSUPPORT` or `ENETUNREACH` for IPv4 addresses that an IPv6-only socket cannot reach.
    pub(super) fn check_reach(&self, to: SocketAddr) -> Result {
        if self.v6 && to.is_ipv4() && self.extra.v6_only() {
            bail!(ENETUNREACH, "IPv6 only");
        }
        Ok(())
    }

    fn close(&self) {
        let (bound, peer, unread, pending) = {
            let mut s = self.lock();
            let pending = match std::mem::replace(&mut s.phase, Phase::Dead) {
                Phase::Listening { pending, .. } => pending,
                Phase::Dead => return,
                _ => VecDeque::new(),
            };
            s.shut = Shutdown { read: true, write: true };
            let unread = s.queued > 0;
            s.received.clear();
            s.queued = 0;
            (s.bound.take(), s.peer.take(), unread, pending)
        };
        if let Some(at) = bound {
            self.ports.unbind(self, at);
        }
        if let Some(peer) = peer {
            peer.hang_up(unread);
        }
        for child in pending {
            let client = child.lock().peer.clone();
            child.close();
            if let Some(c) = client {
                c.hang_up(true);
            }
        }
        self.notify(PollEvents::all());
    }
}

impl SocketOps for InetSock {
    fn domain(&self) -> i32 {
        if self.v6 { libc::AF_INET6 } else { libc::AF_INET }
    }

    fn kind(&self) -> SocketKind {
        self.kind
    }

    fn protocol(&self) -> i32 {
        if self.kind == SocketKind::Stream { libc::IPPROTO_TCP } else { libc::IPPROTO_UDP }
    }

    fn options(&self) -> &SocketOptions {
        &self.options
    }

    fn attached(&self, file: &Arc<File>) {
        if self.ino.set(file.inode().ino).is_ok() {
            self.ports.add(file.inode().ino, &self.me());
        }
    }

    fn bind(&self, task: &Task, addr: &[u8]) -> Result {
        let addr = address::parse(addr, self.v6)?;
        if !addr.ip().is_unspecified() && !addr.ip().is_loopback() {
            bail!(EADDRNOTAVAIL, "{} is not ours", addr.ip());
        }
        if (1..1024).contains(&addr.port()) && !task.cred().capable(CapSet::NET_BIND_SERVICE) {
            bail!(EACCES, "port {}", addr.port());
        }
        self.bind_to(addr)
    }

    fn listen(&self, _task: &Task, backlog: i32) -> Result {
        self.start_listening(backlog)
    }

    fn connect(&self, _task: &Task, addr: &[u8]) -> Result {
        if self.kind == SocketKind::Dgram { self.connect_udp(addr) } else { self.connect_tcp(addr) }
    }

    fn accept(&self, _task: &Task) -> Result<Arc<dyn SocketOps>> {
        Ok(self.take_pending()?)
    }

    fn local_address(&self) -> Result<Vec<u8>> {
        let local = self.lock().local;
        Ok(address::encode(local.unwrap_or_else(|| address::unspecified(self.v6)), self.v6))
    }

    fn peer_address(&self) -> Result<Vec<u8>> {
        match self.lock().remote {
            Some(a) => Ok(address::encode(a, self.v6)),
            None => bail!(ENOTCONN),
        }
    }

    fn send(&self, _task: Option<&Task>, buf: &mut IoBuffer<'_>, message: Message, flags: i32) -> Result<usize> {
        if flags & libc::MSG_OOB != 0 {
            bail!(EOPNOTSUPP, "no urgent data");
        }
        if self.kind == SocketKind::Dgram { self.send_udp(buf, &message) } else { self.send_tcp(buf) }
    }

    fn recv(&self, buf: &mut IoBuffer<'_>, flags: i32, message: &mut Message) -> Result<usize> {
        if flags & libc::MSG_OOB != 0 {
            bail!(EINVAL, "no urgent data");
        }
        if flags & libc::MSG_ERRQUEUE != 0 {
            bail!(EAGAIN, "no error waits");
        }
        if self.kind == SocketKind::Dgram { self.recv_udp(buf, flags, message) } else { self.recv_tcp(buf, flags) }
    }

    fn shutdown(&self, how: Shutdown) -> Result {
        let peer = {
            let mut s = self.lock();
            let connected = if self.kind == SocketKind::Stream { matches!(s.phase, Phase::Connected) } else { s.remote.is_some() };
            if !connected && !matches!(s.phase, Phase::Listening { .. }) {
                bail!(ENOTCONN);
            }
            s.shut.read |= how.read;
            s.shut.write |= how.write;
            s.peer.clone()
        };
        if let Some(p) = peer.filter(|_| how.write) {
            p.lock().fin = true;
            p.notify(PollEvents::all());
        }
        self.notify(PollEvents::all());
        Ok(())
    }

    fn poll(&self) -> PollEvents {
        if self.kind == SocketKind::Dgram { self.poll_udp() } else { self.poll_tcp() }
    }

    fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    fn ioctl(&self, task: &Task, cmd: u32, arg: IoctlArg) -> Result<u64> {
        const SIOCATMARK: u64 = 0x8905;
        let n = match u64::from(cmd) {
            libc::FIONREAD => {
                let s = self.lock();
                if matches!(s.phase, Phase::Listening { .. }) {
                    bail!(EINVAL, "listening");
                }
                if self.kind == SocketKind::Dgram { s.received.front().map_or(0, |p| p.data.len()) } else { s.queued }
            }
            libc::TIOCOUTQ => self.lock().peer.clone().map_or(0, |p| p.lock().queued),
            SIOCATMARK => 0,
            _ => return device::ioctl(task, cmd, arg).unwrap_or_else(|| bail!(ENOTTY)),
        };
        task.mm().write(arg.addr().cast::<i32>(), &i32::try_from(n).unwrap_or(i32::MAX))?;
        Ok(0)
    }

    fn set_option(&self, _task: &Task, level: i32, name: i32, value: &[u8]) -> Option<Result> {
        options::set(self, level, name, value)
    }

    fn get_option(&self, _task: &Task, level: i32, name: i32) -> Option<Result<Vec<u8>>> {
        options::get(self, level, name)
    }

    fn release(&self) {
        self.close();
        if let Some(&ino) = self.ino.get() {
            self.ports.remove(ino);
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
