//! Who is bound to which port.

use super::{InetSock, sock::Phase};
use abi::{Result, bail, libc};
use kernel::{
    Kernel,
    net::{SocketKind, SocketOps},
};
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
    /// The sandbox's.
    pub fn of(kernel: &Kernel) -> Arc<Ports> {
        kernel.attachments.get_or_insert_with(Ports::default)
    }

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
        let mut found: Vec<(u32, Arc<InetSock>)> = s
            .bound
            .get(&(kind, to.port()))
            .into_iter()
            .flatten()
            .filter_map(|e| Some((e.score(to.ip())?, e.sock.upgrade()?)))
            .collect();
        drop(s);
        found.sort_by_key(|f| std::cmp::Reverse(f.0));
        found.into_iter().map(|f| f.1).collect()
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
        out.push('\n');
        let all: Vec<(u64, Arc<InetSock>)> = self.0.lock().open.iter().filter_map(|(i, s)| Some((*i, s.upgrade()?))).collect();
        for (i, (ino, sock)) in all.iter().filter(|(_, s)| s.is_v6() == v6 && s.kind() == kind).enumerate() {
            let (local, remote, state, queued) = sock.shown();
            // Writing to a String cannot fail.
            let _ = writeln!(
                out,
                "{i:4}: {} {} {state:02X} 00000000:{queued:08X} 00:00000000 00000000     0        0 {ino} 1 0000000000000000 0",
                hex(local, v6),
                hex(remote, v6)
            );
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

/// `st` of /proc/net/tcp.
pub fn state_number(phase: &Phase) -> u8 {
    match phase {
        Phase::Listening { .. } => 10,
        Phase::Connected => 1,
        _ => 7,
    }
}
