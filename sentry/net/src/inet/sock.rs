//! [`InetSock`]: a TCP or UDP socket.

use super::{
    address,
    options::{self, Extra},
    tuples::Left,
};
use crate::device;
use crate::stack::{Path, Stack};
use crate::tcp::{self, Tcb, stream::Stream};
use abi::{Errno, Result, bail, libc, poll::PollEvents};
use kernel::{
    cred::CapSet,
    io::IoBuffer,
    net::{Message, Shutdown, SocketKind, SocketOps, SocketOptions},
    task::Task,
    vfs::{File, IoctlArg},
};
use std::any::Any;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use sync::{Mutex, MutexGuard, Rank, WaitQueue};

/// Where a socket is in its life.
pub enum Phase {
    /// New, or a UDP socket. `failed`: connect(2) did not succeed.
    Open { failed: bool },
    /// listen(2) was called.
    Listening {
        /// Connections that may wait.
        backlog: usize,
        /// Connections that nobody has accepted.
        pending: VecDeque<Arc<InetSock>>,
        /// Sockets of this sandbox that wait for room in `pending`.
        waiting: VecDeque<Weak<InetSock>>,
        /// Connections from outside whose handshake is not done.
        half_open: VecDeque<Weak<InetSock>>,
    },
    /// TCP: connect(2) has begun.
    Connecting,
    /// TCP: is or was connected.
    Connected,
    /// TCP: was reset or given up.
    Reset,
    /// Closed.
    Dead,
}

/// A datagram.
pub struct Datagram {
    pub data: Vec<u8>,
    pub from: SocketAddr,
    /// Where it was sent to, how it came, and when (`CLOCK_REALTIME`).
    pub to: SocketAddr,
    pub device: u32,
    pub ttl: u8,
    pub tos: u8,
    pub time: u64,
}

/// An error that came back, for `MSG_ERRQUEUE`: `struct sock_extended_err`.
#[derive(Clone, Debug)]
pub struct SocketError {
    pub errno: Errno,
    /// Ends what the socket does, rather than being told only to who asked for errors.
    pub hard: bool,
    /// `SO_EE_ORIGIN_*`
    pub origin: u8,
    pub kind: u8,
    pub code: u8,
    pub info: u32,
    pub offender: Option<IpAddr>,
    /// What was sent.
    pub data: Vec<u8>,
}

/// TCP's urgent byte.
#[derive(Clone, Copy)]
pub struct Urgent {
    /// Its place in the stream.
    pub at: u64,
    /// It was read out of band.
    pub taken: bool,
}

/// What a socket's lock protects.
pub struct State {
    pub phase: Phase,
    /// Where it is bound in [`Ports`](super::Ports).
    pub bound: Option<SocketAddr>,
    pub local: Option<SocketAddr>,
    pub remote: Option<SocketAddr>,
    /// TCP over loopback: the other end.
    pub peer: Option<Arc<InetSock>>,
    /// TCP to the outside.
    pub tcb: Option<Box<Tcb>>,
    /// The way to `remote`, as it was found last.
    pub path: Option<Box<Path>>,
    /// TCP: what can be read.
    pub stream: Stream,
    /// Bytes that have been read of the stream.
    pub position: u64,
    pub urgent: Option<Urgent>,
    /// UDP: what can be read, and what it takes of the receive buffer.
    pub datagrams: VecDeque<Datagram>,
    pub queued: usize,
    pub errors: VecDeque<(SocketError, SocketAddr)>,
    /// The other end sends no more.
    pub fin: bool,
    /// Our end was the first to send no more: TIME_WAIT is ours.
    pub closed_first: bool,
    /// The connection is entered in [`Ports`](super::Ports) between `local` and `remote`.
    pub entered: bool,
    pub shut: Shutdown,
    /// The peer found no room here and wants to hear of some.
    pub peer_waits: bool,
    /// connect(2) has told that it succeeded.
    pub reported: bool,
    /// Multicast groups and their devices.
    pub groups: Vec<(IpAddr, u32)>,
    /// Who accepts a connection whose handshake is not done.
    pub listener: Weak<InetSock>,
    /// `SO_BINDTODEVICE`
    pub device: Option<u32>,
    /// bind(2) named the port: it is kept when a connection ends that never was.
    pub port_asked: bool,
    /// UDP: data held back by UDP_CORK or MSG_MORE, and where it goes.
    pub corked: Option<(Vec<u8>, SocketAddr)>,
}

/// A socket.
pub struct InetSock {
    me: Weak<InetSock>,
    v6: bool,
    kind: SocketKind,
    queue: WaitQueue,
    options: SocketOptions,
    /// Who made it.
    pub uid: u32,
    pub(super) extra: Extra,
    pub(super) stack: Arc<Stack>,
    state: Mutex<State>,
    ino: OnceLock<u64>,
    /// `state` is [`Phase::Listening`], for who looks without the lock.
    pub(super) listening: AtomicBool,
    /// The moment that the stack's timers wake it at, if that has not passed; zero: none.
    pub(super) wakes_at: AtomicU64,
    /// Bytes that TCP's peer may have unread here: `State::stream`'s length, for who looks without the lock.
    pub(super) unread: AtomicUsize,
}

/// What Linux begins with: `tcp_wmem[1]`, `tcp_rmem[1]`.
const TCP_SEND: u32 = 16_384;
const TCP_RECEIVE: u32 = 131_072;

impl InetSock {
    /// A new socket of AF_INET or (`v6`) AF_INET6.
    pub fn new(v6: bool, kind: SocketKind, stack: &Arc<Stack>, uid: u32) -> Arc<InetSock> {
        let state = State {
            phase: Phase::Open { failed: false },
            bound: None,
            local: None,
            remote: None,
            peer: None,
            tcb: None,
            path: None,
            stream: Stream::default(),
            position: 0,
            urgent: None,
            datagrams: VecDeque::new(),
            queued: 0,
            errors: VecDeque::new(),
            fin: false,
            closed_first: false,
            entered: false,
            shut: Shutdown { read: false, write: false },
            peer_waits: false,
            reported: false,
            groups: Vec::new(),
            listener: Weak::new(),
            device: None,
            port_asked: false,
            corked: None,
        };
        let options =
            if kind == SocketKind::Stream { SocketOptions::with_buffers(TCP_SEND, TCP_RECEIVE) } else { SocketOptions::default() };
        Arc::new_cyclic(|me| InetSock {
            me: me.clone(),
            v6,
            kind,
            queue: WaitQueue::new(),
            options,
            uid,
            extra: Extra::new(&stack.settings),
            stack: stack.clone(),
            state: Mutex::new(Rank::Socket, state),
            ino: OnceLock::new(),
            listening: AtomicBool::new(false),
            wakes_at: AtomicU64::new(0),
            unread: AtomicUsize::new(0),
        })
    }

    pub(super) fn me(&self) -> Arc<InetSock> {
        // `me` is only asked through a reference to a living socket.
        self.me.upgrade().unwrap_or_else(|| InetSock::new(self.v6, self.kind, &self.stack, self.uid))
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

    /// The stack that it belongs to.
    pub fn stack(&self) -> &Arc<Stack> {
        &self.stack
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
        self.listening.load(Ordering::Acquire)
    }

    /// Its inode number.
    pub fn inode(&self) -> u64 {
        self.ino.get().copied().unwrap_or(0)
    }

    /// Whether /proc/net and sock_diag show it: Linux finds sockets by their addresses, and those that have none not at all.
    pub fn is_listed(&self) -> bool {
        let s = self.lock();
        if self.kind == SocketKind::Dgram { s.bound.is_some() } else { self.state_number(&s) != 7 }
    }

    /// Local and remote address, state, bytes to be read and bytes not acknowledged, for /proc/net and sock_diag.
    pub fn shown(&self) -> (SocketAddr, SocketAddr, u8, usize, usize) {
        let s = self.lock();
        let any = address::unspecified(self.v6);
        let queued = match &s.phase {
            Phase::Listening { pending, .. } => pending.len(),
            _ if self.kind == SocketKind::Dgram => s.queued,
            _ => s.stream.len(),
        };
        let waiting = match &s.phase {
            Phase::Listening { backlog, .. } => *backlog,
            _ => s.tcb.as_ref().map_or(0, |t| t.unacknowledged()),
        };
        (s.local.unwrap_or(any), s.remote.unwrap_or(any), self.state_number(&s), queued, waiting)
    }

    /// `TCP_*` of <netinet/tcp.h>.
    pub(super) fn state_number(&self, s: &State) -> u8 {
        if let Some(t) = &s.tcb {
            return t.state as u8;
        }
        match &s.phase {
            Phase::Open { .. } if self.kind == SocketKind::Dgram && s.remote.is_some() => 1,
            Phase::Listening { .. } => 10,
            Phase::Connecting => 2,
            Phase::Connected => match (s.fin, s.shut.write) {
                (false, false) => 1,
                (true, false) => 8,
                (false, true) => 5,
                (true, true) => 7,
            },
            _ => 7,
        }
    }

    /// Binds to where the socket is to be found; `Some` only once.
    pub(super) fn bind_to(&self, addr: SocketAddr) -> Result {
        {
            let s = self.lock();
            if s.bound.is_some() || s.entered {
                bail!(EINVAL, "bound already");
            }
        }
        let at = self.stack.ports.bind(&self.me(), addr)?;
        let mut s = self.lock();
        s.bound = Some(at);
        s.local = Some(at);
        Ok(())
    }

    /// Binds to a free port if the socket has none.
    pub(super) fn autobind(&self) -> Result {
        if self.lock().bound.is_some() { Ok(()) } else { self.bind_to(address::unspecified(self.v6)) }
    }

    /// The connection's end goes from the table of connections; with `left`, that stays of it.
    pub(super) fn disconnected(&self, s: &mut State, left: Option<Left>) {
        if std::mem::take(&mut s.entered)
            && let (Some(local), Some(remote)) = (s.local, s.remote)
        {
            self.stack.ports.disconnected(self, local, remote, left);
        }
    }

    /// Gives back a port that nobody asked for (`inet_put_port`). Returns it for [`Ports::unbind`](super::Ports::unbind), without the lock.
    #[must_use]
    pub(super) fn drop_port(&self, s: &mut State) -> Option<SocketAddr> {
        s.local = s.bound;
        if s.port_asked {
            return None;
        }
        s.local = None;
        s.bound.take()
    }

    /// `ENETUNREACH` for IPv4 addresses that an IPv6-only socket cannot reach.
    pub(super) fn check_reach(&self, to: SocketAddr) -> Result {
        if self.v6 && to.is_ipv4() && self.extra.v6_only() {
            bail!(ENETUNREACH, "IPv6 only");
        }
        Ok(())
    }

    /// Where it may be bound to: `EADDRNOTAVAIL` unless the address is ours, any, or a group (UDP).
    fn check_bind(&self, addr: SocketAddr) -> Result {
        let ip = addr.ip();
        if ip.is_unspecified() || self.stack.local(ip).is_some() || self.extra.free_bind() {
            return Ok(());
        }
        let group = ip.is_multicast() || ip == IpAddr::from([255; 4]);
        if group && self.kind == SocketKind::Dgram {
            return Ok(());
        }
        let table = self.stack.table();
        let broadcast =
            |ip: IpAddr| table.devices.iter().any(|d| d.addresses.lock().iter().any(|a| a.broadcast.map(IpAddr::V4) == Some(ip)));
        if self.kind == SocketKind::Dgram && broadcast(ip) {
            return Ok(());
        }
        bail!(EADDRNOTAVAIL, "{ip} is not ours");
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
            self.stack.ports.add(file.inode().ino, &self.me());
        }
    }

    fn bind(&self, task: &Task, addr: &[u8]) -> Result {
        // BSD's way of saying "any" (inet_bind).
        let family = address::family(addr);
        if family == libc::AF_UNSPEC && !self.v6 && addr.get(4..8) != Some(&[0; 4]) {
            bail!(EAFNOSUPPORT, "address of another family");
        }
        let unspec = family == libc::AF_UNSPEC && !self.v6;
        let inet = [(libc::AF_INET as u16).to_ne_bytes().as_slice(), addr.get(2..).unwrap_or_default()].concat();
        let addr = address::parse(if unspec { &inet } else { addr }, self.v6)?;
        self.check_bind(addr)?;
        let reserved = self.stack.settings.unprivileged_port.load(Ordering::Relaxed);
        if addr.port() != 0 && u32::from(addr.port()) < reserved && !task.cred().capable(CapSet::NET_BIND_SERVICE) {
            bail!(EACCES, "port {}", addr.port());
        }
        if self.v6 && addr.is_ipv4() && self.extra.v6_only() {
            bail!(EINVAL, "IPv6 only");
        }
        self.bind_to(addr)?;
        self.lock().port_asked = addr.port() != 0;
        Ok(())
    }

    fn listen(&self, _task: &Task, backlog: i32) -> Result {
        self.start_listening(backlog)
    }

    fn connect(&self, _task: &Task, addr: &[u8]) -> Result {
        if addr.len() < 2 {
            bail!(EINVAL, "no family");
        }
        if address::family(addr) != libc::AF_UNSPEC {
            // Checked first, whatever the socket's state.
            address::parse(addr, self.v6)?;
        }
        if self.kind == SocketKind::Dgram { self.connect_udp(addr) } else { self.connect_tcp(addr) }
    }

    fn connect_result(&self) -> Result {
        self.connect_tcp_result()
    }

    fn accept(&self, _task: &Task) -> Result<Arc<dyn SocketOps>> {
        Ok(self.take_pending()?)
    }

    fn local_address(&self) -> Result<Vec<u8>> {
        let local = self.lock().local;
        Ok(address::encode(local.unwrap_or_else(|| address::unspecified(self.v6)), self.v6))
    }

    fn peer_address(&self) -> Result<Vec<u8>> {
        let s = self.lock();
        let there = match (&s.phase, &s.tcb) {
            (Phase::Connected, Some(t)) => !matches!(t.state, tcp::State::Closed | tcp::State::TimeWait),
            (Phase::Connected, None) => !(s.fin && s.shut.write),
            (Phase::Open { .. }, _) => self.kind == SocketKind::Dgram,
            _ => false,
        };
        match s.remote.filter(|_| there) {
            Some(a) => Ok(address::encode(a, self.v6)),
            None => bail!(ENOTCONN),
        }
    }

    fn send(&self, _task: Option<&Task>, buf: &mut IoBuffer<'_>, message: Message, flags: i32) -> Result<usize> {
        if self.kind == SocketKind::Dgram {
            if flags & libc::MSG_OOB != 0 {
                bail!(EOPNOTSUPP, "no urgent data");
            }
            return self.send_udp(buf, &message, flags);
        }
        self.send_tcp(buf, flags)
    }

    fn recv(&self, buf: &mut IoBuffer<'_>, flags: i32, message: &mut Message) -> Result<usize> {
        if flags & libc::MSG_ERRQUEUE != 0 {
            return self.recv_error(buf, message);
        }
        if self.kind == SocketKind::Dgram {
            // UDP looks at MSG_OOB no more than Linux does.
            return self.recv_udp(buf, flags, message);
        }
        if flags & libc::MSG_OOB != 0 { self.recv_urgent(buf, flags, message) } else { self.recv_tcp(buf, flags) }
    }

    fn shutdown(&self, how: Shutdown) -> Result {
        if self.kind == SocketKind::Dgram { self.shutdown_udp(how) } else { self.shutdown_tcp(how) }
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
                if self.kind == SocketKind::Dgram { s.datagrams.front().map_or(0, |p| p.data.len()) } else { s.stream.len() }
            }
            libc::TIOCOUTQ => {
                let s = self.lock();
                if matches!(s.phase, Phase::Listening { .. }) {
                    bail!(EINVAL, "listening");
                }
                s.tcb.as_ref().map_or(0, |t| t.unacknowledged())
            }
            SIOCATMARK if self.kind == SocketKind::Stream => {
                let s = self.lock();
                usize::from(s.urgent.is_some_and(|u| u.at == s.position))
            }
            _ => return device::ioctl(task, cmd, arg).unwrap_or_else(|| bail!(ENOTTY)),
        };
        task.mm().write(arg.addr().cast::<i32>(), &i32::try_from(n).unwrap_or(i32::MAX))?;
        Ok(0)
    }

    fn set_option(&self, task: &Task, level: i32, name: i32, value: &[u8]) -> Option<Result> {
        options::set(self, task, level, name, value)
    }

    fn get_option(&self, _task: &Task, level: i32, name: i32) -> Option<Result<Vec<u8>>> {
        options::get(self, level, name)
    }

    fn lingers(&self) -> bool {
        self.lock().tcb.as_ref().is_some_and(|t| matches!(t.state, tcp::State::FinWait1 | tcp::State::Closing | tcp::State::LastAck))
    }

    fn release(&self) {
        if self.kind == SocketKind::Dgram {
            self.close_udp()
        } else {
            self.close_tcp()
        }
        if let Some(&ino) = self.ino.get() {
            self.stack.ports.remove(ino);
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
