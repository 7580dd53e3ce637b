//! Which TCP connections there are by their addresses, from the side of each of this sandbox's ends, and what is left of those over
//! loopback: FIN_WAIT2 without a socket, and TIME_WAIT. Ports that connect(2) chooses are shared by connections that differ in the rest.

use super::InetSock;
use abi::libc;
use kernel::net::SocketOps;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};

/// `TCP_TIMEWAIT_LEN`
const TIME_WAIT: u64 = 60_000_000_000;
/// After so long a new connection may have the addresses of one that waits (`tcp_tw_reuse`, which is on for loopback).
const REUSED_AFTER: u64 = 1_000_000_000;
/// Ends that wait at most; then the oldest goes (`tcp_max_tw_buckets`).
const LEFT_MAX: usize = 32_768;

/// Port and address here, and the other end.
type Key = (u16, IpAddr, SocketAddr);

fn key(local: SocketAddr, remote: SocketAddr) -> Key {
    (local.port(), local.ip(), remote)
}

/// What is left of an end whose socket is gone.
#[derive(Clone, Copy, Debug)]
pub struct Left {
    /// FIN_WAIT2 (5) or TIME_WAIT (6).
    pub state: u8,
    pub v6: bool,
    reuse_addr: bool,
    reuse_port: bool,
    since: u64,
    until: u64,
}

impl Left {
    /// What is left of this socket from now on.
    pub fn of(sock: &InetSock, state: u8, fin_timeout: u64) -> Left {
        let (o, since) = (sock.options(), host::time::monotonic_ns());
        let length = if state == 6 { TIME_WAIT } else { fin_timeout };
        Left {
            state,
            v6: sock.is_v6(),
            reuse_addr: o.is_set(libc::SO_REUSEADDR),
            reuse_port: o.is_set(libc::SO_REUSEPORT),
            since,
            until: since.saturating_add(length),
        }
    }
}

enum End {
    Live(Weak<InetSock>),
    Left(Left),
}

/// The table.
#[derive(Default)]
pub struct Tuples {
    ends: BTreeMap<Key, End>,
    /// When what is left goes, in order.
    leaving: VecDeque<(u64, Key)>,
}

impl Tuples {
    fn expire(&mut self, now: u64) {
        while let Some(&(until, key)) = self.leaving.front()
            && (until <= now || self.leaving.len() > LEFT_MAX)
        {
            self.leaving.pop_front();
            // It may have begun anew, or be another connection's by now.
            if matches!(self.ends.get(&key), Some(End::Left(l)) if l.until == until) {
                self.ends.remove(&key);
            }
        }
    }

    /// Whether a new connection may have these addresses.
    pub fn is_free(&self, local: SocketAddr, remote: SocketAddr) -> bool {
        match self.ends.get(&key(local, remote)) {
            None => true,
            Some(End::Live(s)) => s.strong_count() == 0,
            Some(End::Left(l)) => l.state == 6 && host::time::monotonic_ns().saturating_sub(l.since) > REUSED_AFTER,
        }
    }

    /// Enters a connection.
    pub fn add(&mut self, local: SocketAddr, remote: SocketAddr, sock: &Arc<InetSock>) {
        self.ends.insert(key(local, remote), End::Live(Arc::downgrade(sock)));
    }

    /// The socket of this end is gone, the end is not.
    pub fn leave(&mut self, local: SocketAddr, remote: SocketAddr, left: Left) {
        self.expire(left.since);
        let key = key(local, remote);
        self.leaving.push_back((left.until, key));
        self.ends.insert(key, End::Left(left));
    }

    /// The peer of what is left has closed its side as well: TIME_WAIT.
    pub fn settle(&mut self, local: SocketAddr, remote: SocketAddr) {
        let now = host::time::monotonic_ns();
        if let Some(End::Left(l)) = self.ends.get(&key(local, remote)).filter(|e| matches!(e, End::Left(l) if l.state == 5)) {
            self.leave(local, remote, Left { state: 6, since: now, until: now.saturating_add(TIME_WAIT), ..*l });
        }
    }

    /// Nothing is left of this end, if it is this socket's, or nobody's.
    pub fn forget(&mut self, local: SocketAddr, remote: SocketAddr, sock: &InetSock) {
        let key = key(local, remote);
        let other = matches!(self.ends.get(&key), Some(End::Live(s)) if !std::ptr::eq(s.as_ptr(), sock) && s.strong_count() > 0);
        if !other {
            self.ends.remove(&key);
        }
    }

    /// Whether a socket that binds to `port` at an address for which `overlaps` holds would be in the way of a connection
    /// (`inet_csk_bind_conflict`). `reuses`: its SO_REUSEADDR and SO_REUSEPORT.
    pub fn conflict(&mut self, port: u16, sock: &InetSock, reuses: (bool, bool), overlaps: impl Fn(IpAddr) -> bool) -> bool {
        self.expire(host::time::monotonic_ns());
        let any_v4 = IpAddr::from([0; 4]);
        let from = (port, any_v4, SocketAddr::new(any_v4, 0));
        self.ends.range(from..).take_while(|((p, ..), _)| *p == port).any(|((_, ip, _), end)| {
            let reused = match end {
                End::Left(l) => (l.reuse_addr, l.reuse_port),
                End::Live(s) => match s.upgrade() {
                    Some(s) if !std::ptr::eq(&raw const *s, sock) => {
                        (s.options().is_set(libc::SO_REUSEADDR), s.options().is_set(libc::SO_REUSEPORT))
                    }
                    _ => return false,
                },
            };
            overlaps(*ip) && !(reuses.0 && reused.0 || reuses.1 && reused.1)
        })
    }

    /// What is left, for /proc/net/tcp and sock_diag: local and remote address, and whose.
    pub fn left(&mut self) -> Vec<(SocketAddr, SocketAddr, Left)> {
        self.expire(host::time::monotonic_ns());
        let each = |(k, e): (&Key, &End)| match e {
            End::Left(l) => Some((SocketAddr::new(k.1, k.0), k.2, *l)),
            End::Live(_) => None,
        };
        self.ends.iter().filter_map(each).collect()
    }
}
