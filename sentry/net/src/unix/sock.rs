//! [`Sock`]: a unix socket of any kind.

use super::{
    Sender,
    address::{self, Bound, Names},
    host::HostSide,
    packet::Packet,
    rights::{self, InFlight},
};
use abi::{Errno, Result, libc, poll::PollEvents};
use kernel::{
    io::IoBuffer,
    net::{Message, Shutdown, SocketKind, SocketOps, SocketOptions},
    task::Task,
    vfs::{File, IoctlArg},
};
use std::any::Any;
use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::{
    Arc, OnceLock, Weak,
    atomic::{AtomicUsize, Ordering::SeqCst},
};
use sync::{Mutex, MutexGuard, Rank, WaitQueue};

/// Datagrams that may wait in a queue beyond the first (`net.unix.max_dgram_qlen`).
pub const MAX_DGRAM_QLEN: usize = 10;

/// Where a socket is in its life.
pub enum Phase {
    /// New, or a datagram socket (connected or not).
    Open,
    /// listen(2) was called.
    Listening {
        /// Connections that may wait.
        backlog: usize,
        /// Connected sockets that nobody has accepted.
        pending: VecDeque<Arc<Sock>>,
    },
    /// A stream or seqpacket socket that is, or was, connected.
    Connected,
    /// Closed.
    Dead,
}

/// What a socket's lock protects.
pub struct State {
    pub phase: Phase,
    pub peer: Option<Arc<Sock>>,
    pub bound: Option<Bound>,
    /// An accepted socket's name: its listener's.
    pub inherited_name: Option<Arc<[u8]>>,
    pub received: VecDeque<Packet>,
    pub shut: Shutdown,
    /// Who connected, listened or made the pair, as the peer is told.
    pub own_cred: Sender,
    pub own_groups: Arc<[u32]>,
    pub peer_cred: Option<Sender>,
    pub peer_groups: Arc<[u32]>,
    /// Sockets that wait for room in this one's queue.
    pub waiting: Vec<Weak<Sock>>,
}

impl State {
    /// The whole `sockaddr_un` that the socket is known by, if it is bound.
    pub fn name(&self) -> Option<Arc<[u8]>> {
        self.bound.as_ref().map(|b| b.raw.clone()).or_else(|| self.inherited_name.clone())
    }

    /// Whether no datagram of a stranger is taken.
    pub fn is_full(&self) -> bool {
        self.received.len() > MAX_DGRAM_QLEN
    }
}

/// A unix socket.
pub struct Sock {
    me: Weak<Sock>,
    kind: SocketKind,
    queue: WaitQueue,
    options: SocketOptions,
    pub(super) names: Arc<Names>,
    state: Mutex<State>,
    /// Bytes charged to this socket's send buffer.
    in_buffer: AtomicUsize,
    /// How often it is in somebody's queue as a descriptor.
    pub(super) in_flight: AtomicUsize,
    file: OnceLock<Weak<File>>,
    ino: OnceLock<u64>,
    /// Who made it: the sender's credentials where no task is known.
    creator: Sender,
    /// Its connections with the host's sockets.
    pub(super) host: HostSide,
}

impl Sock {
    /// A new socket of a task with these credentials.
    pub fn new(kind: SocketKind, creator: Sender, names: &Arc<Names>) -> Arc<Sock> {
        let none: Arc<[u32]> = Arc::new([]);
        let state = State {
            phase: Phase::Open,
            peer: None,
            bound: None,
            inherited_name: None,
            received: VecDeque::new(),
            shut: Shutdown { read: false, write: false },
            own_cred: creator,
            own_groups: none.clone(),
            peer_cred: None,
            peer_groups: none,
            waiting: Vec::new(),
        };
        Arc::new_cyclic(|me| Sock {
            me: me.clone(),
            kind,
            queue: WaitQueue::new(),
            options: SocketOptions::default(),
            names: names.clone(),
            state: Mutex::new(Rank::Socket, state),
            in_buffer: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            file: OnceLock::new(),
            ino: OnceLock::new(),
            creator,
            host: HostSide::default(),
        })
    }

    /// Two connected sockets.
    pub fn pair(kind: SocketKind, cred: Sender, groups: Arc<[u32]>, names: &Arc<Names>) -> (Arc<Sock>, Arc<Sock>) {
        let (a, b) = (Sock::new(kind, cred, names), Sock::new(kind, cred, names));
        for (x, y) in [(&a, &b), (&b, &a)] {
            let mut s = x.lock();
            s.peer = Some(y.clone());
            s.peer_cred = Some(cred);
            s.peer_groups = groups.clone();
            if kind != SocketKind::Dgram {
                s.phase = Phase::Connected;
            }
        }
        (a, b)
    }

    /// Another handle.
    pub(super) fn me(&self) -> Arc<Sock> {
        // `me` is only asked through a reference to a living socket.
        self.me.upgrade().unwrap_or_else(|| Sock::new(self.kind, self.creator, &self.names))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Locks a socket that nobody else can have locked, because it is new, under others' locks.
    pub(super) fn lock_nested(&self) -> MutexGuard<'_, State> {
        self.state.lock_nested()
    }

    /// Locks two sockets, in order of their addresses.
    pub(super) fn lock_both<'a>(&'a self, other: &'a Sock) -> (MutexGuard<'a, State>, MutexGuard<'a, State>) {
        if (self as *const Sock) < (other as *const Sock) {
            let a = self.state.lock();
            let b = other.state.lock_nested();
            (a, b)
        } else {
            let b = other.state.lock();
            let a = self.state.lock_nested();
            (a, b)
        }
    }

    pub(super) fn notify(&self, events: PollEvents) {
        self.queue.notify(events);
    }

    pub(super) fn charge(&self, bytes: usize) {
        self.in_buffer.fetch_add(bytes, SeqCst);
    }

    pub(super) fn discharge(&self, bytes: usize) {
        let before = self.in_buffer.fetch_sub(bytes, SeqCst);
        // Linux calls a socket writable when three quarters of its buffer are free.
        if (before - bytes.min(before)) * 4 <= self.options.sndbuf() {
            self.queue.notify(PollEvents::WRITABLE);
        }
    }

    /// Whether the send buffer takes nothing more.
    pub(super) fn buffer_full(&self) -> bool {
        self.in_buffer.load(SeqCst) >= self.options.sndbuf()
    }

    /// Bytes that the peer has not read (SIOCOUTQ).
    pub(super) fn in_buffer(&self) -> usize {
        self.in_buffer.load(SeqCst)
    }

    /// The credentials of who sends.
    pub(super) fn sender(&self, task: Option<&Task>) -> Sender {
        task.map_or(self.creator, super::ucred)
    }

    /// References to the file: descriptors, calls that use it, and queues.
    pub(super) fn file_references(&self) -> usize {
        self.file.get().map_or(0, Weak::strong_count)
    }

    /// Calls `f` on descriptors in the queue, and in queues of connections not yet accepted.
    pub(super) fn each_in_flight(&self, f: &mut dyn FnMut(&InFlight)) {
        let pending = {
            let s = self.lock();
            s.received.iter().filter_map(|p| p.rights.as_ref()).for_each(&mut *f);
            match &s.phase {
                Phase::Listening { pending, .. } => pending.iter().cloned().collect(),
                _ => Vec::new(),
            }
        };
        for child in pending {
            child.lock().received.iter().filter_map(|p| p.rights.as_ref()).for_each(&mut *f);
        }
    }

    /// Empties the queue.
    pub(super) fn take_all_packets(&self) -> Vec<Packet> {
        let (mut packets, pending) = {
            let mut s = self.lock();
            let pending: Vec<Arc<Sock>> = match &s.phase {
                Phase::Listening { pending, .. } => pending.iter().cloned().collect(),
                _ => Vec::new(),
            };
            (s.received.drain(..).collect::<Vec<_>>(), pending)
        };
        for child in pending {
            packets.extend(child.lock().received.drain(..));
        }
        packets
    }

    /// Tells sockets that wait for room that there is some.
    pub(super) fn wake_waiting(waiting: Vec<Weak<Sock>>) {
        for w in waiting.iter().filter_map(Weak::upgrade) {
            w.notify(PollEvents::WRITABLE);
        }
    }

    /// Notes that `sock` waits for room here.
    pub(super) fn wait_for_room(state: &mut State, sock: &Sock) {
        if !state.waiting.iter().any(|w| std::ptr::eq(w.as_ptr(), sock)) {
            state.waiting.retain(|w| w.strong_count() > 0);
            state.waiting.push(sock.me.clone());
        }
    }

    /// Ends the socket: the peer hears of it, what waits is thrown away.
    fn close(&self) {
        let (peer, received, pending, waiting) = {
            let mut s = self.lock();
            let pending = match std::mem::replace(&mut s.phase, Phase::Dead) {
                Phase::Listening { pending, .. } => pending,
                Phase::Dead => return,
                _ => VecDeque::new(),
            };
            s.shut = Shutdown { read: true, write: true };
            if let Some(b) = &s.bound {
                self.names.unbind(b);
            }
            (s.peer.take(), std::mem::take(&mut s.received), pending, std::mem::take(&mut s.waiting))
        };
        self.host.close();
        if let Some(peer) = peer.filter(|_| self.kind != SocketKind::Dgram) {
            let mut p = peer.lock();
            if !matches!(p.phase, Phase::Dead) {
                p.shut = Shutdown { read: true, write: true };
                if !received.is_empty() {
                    peer.options.set_error(Errno::ECONNRESET);
                }
            }
            drop(p);
            peer.notify(PollEvents::all());
        }
        for child in pending {
            // Whoever connected and was never accepted: as if there were unread data.
            let client = child.lock().peer.clone();
            child.close();
            if let Some(c) = client {
                c.options.set_error(Errno::ECONNRESET);
                c.notify(PollEvents::all());
            }
        }
        Self::wake_waiting(waiting);
        self.notify(PollEvents::all());
        rights::bury(received);
    }

    /// Its line in /proc/net/unix.
    pub(super) fn show(&self) -> String {
        let s = self.lock();
        let (flags, state) = match s.phase {
            Phase::Listening { .. } => (0x10000, 1),
            Phase::Connected => (0, 3),
            Phase::Open if s.peer.is_some() => (0, 3),
            _ => (0, 1),
        };
        let ino = self.ino.get().copied().unwrap_or(0);
        let mut line = format!("{:016x}: {:08X} {:08X} {flags:08X} {:04X} {state:02X} {ino:5}", 0, 2, 0, self.kind.raw());
        if let Some(name) = s.name() {
            let path = name.get(2..).unwrap_or_default();
            let shown = match path.split_first() {
                Some((0, rest)) => format!("@{}", String::from_utf8_lossy(rest).replace('\0', "@")),
                _ => String::from_utf8_lossy(path.strip_suffix(&[0]).unwrap_or(path)).into_owned(),
            };
            // Writing to a String cannot fail.
            let _ = write!(line, " {shown}");
        }
        line.push('\n');
        line
    }
}

impl SocketOps for Sock {
    fn domain(&self) -> i32 {
        libc::AF_UNIX
    }

    fn kind(&self) -> SocketKind {
        self.kind
    }

    fn options(&self) -> &SocketOptions {
        &self.options
    }

    fn attached(&self, file: &Arc<File>) {
        let ino = file.inode().ino;
        // A socket gets one file in its life.
        if self.file.set(Arc::downgrade(file)).is_ok() && self.ino.set(ino).is_ok() {
            self.names.add(ino, &self.me());
        }
    }

    fn bind(&self, task: &Task, addr: &[u8]) -> Result {
        self.bind_name(task, &address::Name::parse(addr)?)
    }

    fn listen(&self, task: &Task, backlog: i32) -> Result {
        self.start_listening(task, backlog)
    }

    fn connect(&self, task: &Task, addr: &[u8]) -> Result {
        if self.kind == SocketKind::Dgram { self.connect_dgram(task, addr) } else { self.connect_stream(task, addr) }
    }

    fn accept(&self, _task: &Task) -> Result<Arc<dyn SocketOps>> {
        Ok(self.take_pending()?)
    }

    fn local_address(&self) -> Result<Vec<u8>> {
        Ok(self.lock().name().map_or_else(address::unnamed, |n| n.to_vec()))
    }

    fn peer_address(&self) -> Result<Vec<u8>> {
        if let Some(link) = self.host.peer() {
            return Ok(link.name());
        }
        let Some(peer) = self.lock().peer.clone() else { abi::bail!(ENOTCONN) };
        let name = peer.lock().name();
        Ok(name.map_or_else(address::unnamed, |n| n.to_vec()))
    }

    fn send(&self, task: Option<&Task>, buf: &mut IoBuffer<'_>, message: Message, flags: i32) -> Result<usize> {
        if flags & libc::MSG_OOB != 0 {
            abi::bail!(EOPNOTSUPP, "no urgent data");
        }
        if let Some(link) = self.host.peer().filter(|_| self.kind != SocketKind::Dgram || message.name.is_empty()) {
            if self.kind == SocketKind::Stream && !message.name.is_empty() {
                abi::bail!(EISCONN);
            }
            return self.send_to_host(&link, buf, message);
        }
        if self.kind == SocketKind::Stream { self.send_stream(task, buf, message) } else { self.send_dgram(task, buf, message) }
    }

    fn recv(&self, buf: &mut IoBuffer<'_>, flags: i32, message: &mut Message) -> Result<usize> {
        if let Some(link) = self.host.peer().filter(|_| self.kind != SocketKind::Dgram) {
            return self.recv_from_host(&link, buf, flags, message);
        }
        if self.kind == SocketKind::Stream { self.recv_stream(buf, flags, message) } else { self.recv_dgram(buf, flags, message) }
    }

    fn shutdown(&self, how: Shutdown) -> Result {
        if let Some(link) = self.host.peer() {
            link.shutdown(how)?;
        }
        let peer = {
            let mut s = self.lock();
            s.shut.read |= how.read;
            s.shut.write |= how.write;
            s.peer.clone()
        };
        if let Some(peer) = peer.filter(|_| self.kind != SocketKind::Dgram) {
            let mut p = peer.lock();
            p.shut.write |= how.read;
            p.shut.read |= how.write;
            drop(p);
            peer.notify(PollEvents::all());
        }
        self.notify(PollEvents::all());
        Ok(())
    }

    fn poll(&self) -> PollEvents {
        let host = self.host.peer();
        if let Some(link) = host.as_ref().filter(|_| self.kind != SocketKind::Dgram) {
            return link.poll();
        }
        let s = self.lock();
        let mut e = PollEvents::empty();
        if self.options.has_error() {
            e |= PollEvents::ERR;
        }
        if s.shut.read && s.shut.write {
            e |= PollEvents::HUP;
        }
        if s.shut.read {
            e |= PollEvents::RDHUP | PollEvents::READABLE;
        }
        let listening = match &s.phase {
            Phase::Listening { pending, .. } => {
                if !pending.is_empty() {
                    e |= PollEvents::READABLE;
                }
                true
            }
            Phase::Open if self.kind != SocketKind::Dgram => {
                e |= PollEvents::HUP;
                false
            }
            _ => false,
        };
        if !s.received.is_empty() {
            e |= PollEvents::READABLE;
        }
        let peer = s.peer.clone().filter(|_| self.kind == SocketKind::Dgram);
        drop(s);
        let room = || host.is_none_or(|link| link.poll().intersects(PollEvents::WRITABLE)) && peer.is_none_or(|p| self.has_room_at(&p));
        if !listening && self.in_buffer() * 4 <= self.options.sndbuf() && room() {
            e |= PollEvents::WRITABLE | PollEvents::WRBAND;
        }
        e
    }

    fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    fn ioctl(&self, task: &Task, cmd: u32, arg: IoctlArg) -> Result<u64> {
        self.do_ioctl(task, cmd, arg)
    }

    fn get_option(&self, _task: &Task, level: i32, name: i32) -> Option<Result<Vec<u8>>> {
        (level == libc::SOL_SOCKET).then(|| self.own_option(name)).flatten()
    }

    fn release(&self) {
        self.close();
        if let Some(&ino) = self.ino.get() {
            self.names.remove(ino);
        }
        rights::collect(|| self.names.all());
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
