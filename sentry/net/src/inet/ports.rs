//! Who is bound to which port.

use super::InetSock;
use abi::{Result, bail, libc};
use kernel::net::{SocketKind, SocketOps};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use sync::{Mutex, Rank};

/// Ports that are given to sockets that ask for none (`net.ipv4.ip_local_port_range`).
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32_768..=60_999;

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
    /// Every open socket by inode number, for /proc/net.
    open: BTreeMap<u64, Weak<InetSock>>,
}

/// The ports of a sandbox.
pub struct Ports(Mutex<State>);

impl Default for Ports {
    fn default() -> Self {
        Ports(Mutex::new(Rank::Leaf, State::default()))
    }
}

impl State {
    fn free(&self, kind: SocketKind, ip: IpAddr, port: u16, dual: bool, sock: &InetSock) -> bool {
        let o = sock.options();
        let (addr, port_too) = (o.is_set(libc::SO_REUSEADDR), o.is_set(libc::SO_REUSEPORT));
        self.bound.get(&(kind, port)).is_none_or(|list| {
            !list.iter().any(|e| {
                let Some(other) = e.sock.upgrade() else { return false };
                let shared = (port_too && e.reuse_port) || (addr && e.reuse_addr && !other.is_listening());
                e.overlaps(ip, dual) && !shared
            })
        })
    }
}

impl Ports {
    /// Binds a socket; port 0: one that is free. Returns where it is bound.
    pub fn bind(&self, sock: &Arc<InetSock>, addr: SocketAddr) -> Result<SocketAddr> {
        let (kind, ip, dual) = (sock.kind(), addr.ip(), sock.is_dual());
        let mut s = self.0.lock();
        let port = if addr.port() != 0 {
            if !s.free(kind, ip, addr.port(), dual, sock) {
                bail!(EADDRINUSE, "port {}", addr.port());
            }
            addr.port()
        } else {
            let span = EPHEMERAL.len() as u16;
            let first = s.next;
            let found = (0..span).map(|i| EPHEMERAL.start() + (first + i) % span).find(|&p| s.free(kind, ip, p, dual, sock));
            let Some(port) = found else { bail!(EADDRINUSE, "no port left") };
            s.next = (port - EPHEMERAL.start() + 1) % span;
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
    pub fn show(&self, v6: bool, kind: SocketKind) -> String {
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
        for (i, (ino, sock)) in self.all().iter().filter(|(_, s)| s.is_v6() == v6 && s.kind() == kind).enumerate() {
            let (local, remote, state, queued, unsent) = sock.shown();
            let line = format!(
                "{i:4}: {} {} {state:02X} {unsent:08X}:{queued:08X} 00:00000000 00000000 {:5}        0 {ino} {}",
                hex(local, v6),
                hex(remote, v6),
                sock.uid,
                if tcp { "1 0000000000000000 100 0 0 10 0" } else { "2 0000000000000000 0" }
            );
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{line:<width$}");
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
