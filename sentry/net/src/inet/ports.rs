//! Who is bound to which port.

use super::{
    InetSock,
    tuples::{Left, Tuples},
};
use crate::stack::Stack;
use abi::{Result, bail, libc};
use kernel::net::{NetSettings, SocketKind, SocketOps};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use sync::{Mutex, Rank};

struct Entry {
    ip: IpAddr,
    /// Takes IPv4 at the unspecified IPv6 address too.
    dual: bool,
    reuse_addr: bool,
    reuse_port: bool,
    sock: Weak<InetSock>,
}

impl Entry {
    /// Whether both would hear the same address.
    fn overlaps(&self, ip: IpAddr, dual: bool) -> bool {
        let any = |ip: IpAddr, dual: bool, other: IpAddr| ip.is_unspecified() && (ip.is_ipv4() == other.is_ipv4() || dual);
        self.ip == ip || any(self.ip, self.dual, ip) || any(ip, dual, self.ip)
    }

    /// How well it fits a destination: an exact address before "any", the same family before both.
    fn score(&self, to: IpAddr) -> Option<u32> {
        if self.ip == to {
            Some(3)
        } else if self.ip.is_unspecified() && self.ip.is_ipv4() == to.is_ipv4() {
            Some(2)
        } else if self.ip.is_unspecified() && self.dual {
            Some(1)
        } else {
            None
        }
    }
}

#[derive(Default)]
struct State {
    bound: BTreeMap<(SocketKind, u16), Vec<Entry>>,
    next: u16,
    tuples: Tuples,
    /// Every open socket by inode number, for /proc/net.
    open: BTreeMap<u64, Weak<InetSock>>,
}

/// The ports of a sandbox.
pub struct Ports(Mutex<State>, Arc<NetSettings>);

/// `e` would hear what a socket with these hears, and the two may not share it.
fn excludes(e: &Entry, ip: IpAddr, dual: bool, (addr, port_too): (bool, bool)) -> bool {
    let Some(other) = e.sock.upgrade() else { return false };
    let shared = (port_too && e.reuse_port) || (addr && e.reuse_addr && !other.is_listening());
    e.overlaps(ip, dual) && !shared
}

/// Ports of a range, from the one that is next in turn.
fn ephemeral((first, last): (u16, u16), next: u16) -> impl Iterator<Item = u16> {
    let start = if (first..=last).contains(&next) { next } else { first };
    (start..=last).chain(first..start)
}

impl State {
    fn free(&mut self, ip: IpAddr, port: u16, dual: bool, sock: &InetSock) -> bool {
        let (o, kind) = (sock.options(), sock.kind());
        let reuses = (o.is_set(libc::SO_REUSEADDR), o.is_set(libc::SO_REUSEPORT));
        if self.bound.get(&(kind, port)).is_some_and(|list| list.iter().any(|e| excludes(e, ip, dual, reuses))) {
            return false;
        }
        let overlaps = |other: IpAddr| other == ip || ip.is_unspecified() && (ip.is_ipv4() == other.is_ipv4() || dual);
        kind != SocketKind::Stream || !self.tuples.conflict(port, sock, reuses, overlaps)
    }

    /// The next search for a port begins behind this one.
    fn took(&mut self, port: u16) {
        self.next = port.wrapping_add(1);
    }
}

impl Ports {
    /// Nobody is bound yet.
    pub fn new(settings: Arc<NetSettings>) -> Ports {
        Ports(Mutex::new(Rank::Leaf, State::default()), settings)
    }

    /// Binds a socket; port 0: one that is free. Returns where it is bound.
    pub fn bind(&self, sock: &Arc<InetSock>, addr: SocketAddr) -> Result<SocketAddr> {
        let (kind, ip, dual) = (sock.kind(), addr.ip(), sock.is_dual());
        let mut s = self.0.lock();
        let port = if addr.port() != 0 {
            if !s.free(ip, addr.port(), dual, sock) {
                bail!(EADDRINUSE, "port {}", addr.port());
            }
            addr.port()
        } else {
            let Some(port) = ephemeral(self.1.ports(), s.next).find(|&p| s.free(ip, p, dual, sock)) else {
                bail!(EADDRINUSE, "no port left")
            };
            s.took(port);
            port
        };
        let o = sock.options();
        let entry = Entry {
            ip,
            dual,
            reuse_addr: o.is_set(libc::SO_REUSEADDR),
            reuse_port: o.is_set(libc::SO_REUSEPORT),
            sock: Arc::downgrade(sock),
        };
        s.bound.entry((kind, port)).or_default().push(entry);
        Ok(SocketAddr::new(ip, port))
    }

    /// Chooses a port for a connection from this address (`inet_hash_connect`): one that nobody is bound to, and that no connection to
    /// the same place has. `EADDRNOTAVAIL` where there is none.
    pub fn connect_from(&self, sock: &Arc<InetSock>, ip: IpAddr, remote: SocketAddr) -> Result<SocketAddr> {
        let mut s = self.0.lock();
        let suits = |p: &u16| {
            let bound = s.bound.get(&(SocketKind::Stream, *p)).is_some_and(|list| list.iter().any(|e| e.sock.strong_count() > 0));
            !bound && s.tuples.is_free(SocketAddr::new(ip, *p), remote)
        };
        let Some(port) = ephemeral(self.1.ports(), s.next).find(suits) else { bail!(EADDRNOTAVAIL, "no port left") };
        s.took(port);
        let local = SocketAddr::new(ip, port);
        s.tuples.add(local, remote, sock);
        Ok(local)
    }

    /// Enters a connection of a socket that is bound. `EADDRNOTAVAIL` where there is one between the same addresses.
    pub fn connect_between(&self, sock: &Arc<InetSock>, local: SocketAddr, remote: SocketAddr) -> Result {
        let mut s = self.0.lock();
        if !s.tuples.is_free(local, remote) {
            bail!(EADDRNOTAVAIL, "there is such a connection");
        }
        s.tuples.add(local, remote, sock);
        Ok(())
    }

    /// Enters the end of a connection that a listener has got, whatever was left of an older one.
    pub fn accepted(&self, sock: &Arc<InetSock>, local: SocketAddr, remote: SocketAddr) {
        self.0.lock().tuples.add(local, remote, sock);
    }

    /// An end of a connection goes; what is left of it.
    pub fn disconnected(&self, sock: &InetSock, local: SocketAddr, remote: SocketAddr, left: Option<Left>) {
        let tuples = &mut self.0.lock().tuples;
        match left {
            Some(left) => tuples.leave(local, remote, left),
            None => tuples.forget(local, remote, sock),
        }
    }

    /// The other side of what is left has closed as well.
    pub fn settle(&self, local: SocketAddr, remote: SocketAddr) {
        self.0.lock().tuples.settle(local, remote);
    }

    /// What is left of connections over loopback.
    pub fn left(&self) -> Vec<(SocketAddr, SocketAddr, Left)> {
        self.0.lock().tuples.left()
    }

    /// Gives the socket's port back.
    pub fn unbind(&self, sock: &InetSock, addr: SocketAddr) {
        let mut s = self.0.lock();
        let key = (sock.kind(), addr.port());
        if let Some(list) = s.bound.get_mut(&key) {
            list.retain(|e| !std::ptr::eq(e.sock.as_ptr(), sock) && e.sock.strong_count() > 0);
            if list.is_empty() {
                s.bound.remove(&key);
            }
        }
    }

    /// Sockets that hear this address, the best first.
    pub fn find(&self, kind: SocketKind, to: SocketAddr) -> Vec<Arc<InetSock>> {
        let s = self.0.lock();
        let mut found: Vec<(u32, Arc<InetSock>)> =
            s.bound.get(&(kind, to.port())).into_iter().flatten().filter_map(|e| Some((e.score(to.ip())?, e.sock.upgrade()?))).collect();
        drop(s);
        found.sort_by_key(|f| std::cmp::Reverse(f.0));
        found.into_iter().map(|f| f.1).collect()
    }

    /// The listening socket for a connection to this address; of several that share it (`SO_REUSEPORT`), the one that `hash` falls on.
    pub fn listener(&self, to: SocketAddr, hash: u64) -> Option<Arc<InetSock>> {
        let all: Vec<(u32, bool, Arc<InetSock>)> = {
            let s = self.0.lock();
            let list = s.bound.get(&(SocketKind::Stream, to.port()))?;
            list.iter().filter_map(|e| Some((e.score(to.ip())?, e.reuse_port, e.sock.upgrade()?))).collect()
        };
        let all: Vec<_> = all.into_iter().filter(|(_, _, s)| s.is_listening()).collect();
        let best = all.iter().map(|(score, ..)| *score).max()?;
        let group: Vec<_> = all.into_iter().filter(|(score, ..)| *score == best).collect();
        let one = if group.len() > 1 && group.iter().all(|g| g.1) { hash as usize % group.len() } else { 0 };
        group.into_iter().nth(one).map(|g| g.2)
    }

    /// As [`find`](Self::find), but of those that share an address (`SO_REUSEPORT`) the one that `hash` falls on comes first.
    pub fn find_group(&self, kind: SocketKind, to: SocketAddr, hash: u64) -> Vec<Arc<InetSock>> {
        let shared = {
            let s = self.0.lock();
            s.bound.get(&(kind, to.port())).is_some_and(|l| l.len() > 1 && l.iter().all(|e| e.reuse_port))
        };
        let mut all = self.find(kind, to);
        if shared && !all.is_empty() {
            let n = hash as usize % all.len();
            all.rotate_left(n);
        }
        all
    }

    /// `EADDRINUSE` if another socket listens where this one is bound.
    pub fn check_listen(&self, sock: &InetSock) -> Result {
        let others: Vec<(bool, Arc<InetSock>)> = {
            let s = self.0.lock();
            let mine = s.bound.iter().flat_map(|((kind, port), list)| list.iter().map(move |e| (*kind, *port, e)));
            let Some((kind, port, me)) = mine.into_iter().find(|(.., e)| std::ptr::eq(e.sock.as_ptr(), sock)) else { return Ok(()) };
            let list = s.bound.get(&(kind, port)).into_iter().flatten();
            let overlapping = list.filter(|e| !std::ptr::eq(e.sock.as_ptr(), sock) && e.overlaps(me.ip, me.dual));
            overlapping.filter_map(|e| Some((e.reuse_port && me.reuse_port, e.sock.upgrade()?))).collect()
        };
        if others.iter().any(|(shared, s)| !shared && s.is_listening()) {
            bail!(EADDRINUSE, "another socket listens there");
        }
        Ok(())
    }

    /// Open sockets of a kind (TCP or UDP).
    pub fn count(&self, v6: bool, tcp: bool) -> usize {
        let kind = if tcp { SocketKind::Stream } else { SocketKind::Dgram };
        self.all().iter().filter(|(_, s)| s.is_v6() == v6 && s.kind() == kind).count()
    }

    /// Established TCP connections.
    pub fn established(&self) -> usize {
        self.all().iter().filter(|(_, s)| s.kind() == SocketKind::Stream && s.shown().2 == 1).count()
    }

    /// Every open socket with its inode number.
    pub fn all(&self) -> Vec<(u64, Arc<InetSock>)> {
        self.0.lock().open.iter().filter_map(|(i, s)| Some((*i, s.upgrade()?))).collect()
    }

    /// Enters an open socket.
    pub fn add(&self, ino: u64, sock: &Arc<InetSock>) {
        self.0.lock().open.insert(ino, Arc::downgrade(sock));
    }

    /// A socket is closed.
    pub fn remove(&self, ino: u64) {
        self.0.lock().open.remove(&ino);
    }

    /// The text of /proc/net/tcp and its kin.
    pub fn show(&self, v6: bool, kind: SocketKind, stack: &Stack) -> String {
        let tcp = kind == SocketKind::Stream;
        let mut out = match (v6, tcp) {
            (false, true) => "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode".to_owned(),
            (false, false) => {
                "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops".to_owned()
            }
            (true, _) => {
                "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode".to_owned()
            }
        };
        // IPv4's lines have a fixed width.
        let width = match (v6, tcp) {
            (false, true) => 149,
            (false, false) => 127,
            _ => 0,
        };
        out = format!("{out:<width$}\n");
        let mut number = 0;
        let mut line = |local, remote, state: u8, queues: (usize, usize), timer: u8, owner: (u32, u64)| {
            let line = format!(
                "{number:4}: {} {} {state:02X} {:08X}:{:08X} {timer:02X}:00000000 00000000 {:5}        0 {} {}",
                hex(local, v6),
                hex(remote, v6),
                queues.0,
                queues.1,
                owner.0,
                owner.1,
                match (tcp, timer) {
                    (true, 3) => "3 0000000000000000",
                    (true, _) => "1 0000000000000000 100 0 0 10 0",
                    (false, _) => "2 0000000000000000 0",
                }
            );
            number += 1;
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{line:<width$}");
        };
        let open = self.all();
        for (ino, sock) in open.iter().filter(|(_, s)| s.is_v6() == v6 && s.kind() == kind && s.is_listed()) {
            let (local, remote, state, queued, unsent) = sock.shown();
            line(local, remote, state, (unsent, queued), 0, (sock.uid, *ino));
        }
        if tcp {
            // Connections to the outside that no descriptor holds any more.
            for sock in stack.connections.all().iter().filter(|s| s.is_v6() == v6 && !open.iter().any(|(_, o)| Arc::ptr_eq(o, s))) {
                let (local, remote, state, queued, unsent) = sock.shown();
                line(local, remote, state, (unsent, queued), if state == 6 { 3 } else { 0 }, (0, 0));
            }
            for (local, remote, left) in self.left().into_iter().filter(|(.., l)| l.v6 == v6) {
                line(local, remote, left.state, (0, 0), 3, (0, 0));
            }
        }
        out
    }
}

/// An address as /proc/net/tcp shows it: words in the machine's order.
fn hex(addr: SocketAddr, v6: bool) -> String {
    let ip: Vec<u8> = match addr.ip() {
        IpAddr::V4(ip) if v6 && ip.is_unspecified() => vec![0; 16],
        IpAddr::V4(ip) if v6 => ip.to_ipv6_mapped().octets().to_vec(),
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let words: String = ip.chunks_exact(4).map(|w| format!("{:02X}{:02X}{:02X}{:02X}", w[3], w[2], w[1], w[0])).collect();
    format!("{words}:{:04X}", addr.port())
}
