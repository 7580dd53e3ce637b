//! Options of the levels IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP and IPPROTO_UDP: ip(7), ipv6(7), tcp(7).
//!
//! Between queues most of them change nothing: they are kept, so that what was set is read again.

use super::InetSock;
use abi::{Result, error, libc};
use kernel::net::{OptionValue, SocketKind, SocketOps};
use std::collections::BTreeMap;
use sync::{Mutex, Rank};

/// Options that are kept, with their values when new.
const KEPT: &[(i32, i32, i32)] = &[
    (libc::IPPROTO_IP, libc::IP_TOS, 0),
    (libc::IPPROTO_IP, libc::IP_TTL, 64),
    (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, 1),
    (libc::IPPROTO_IP, libc::IP_RECVERR, 0),
    (libc::IPPROTO_IP, libc::IP_RECVTTL, 0),
    (libc::IPPROTO_IP, libc::IP_RECVTOS, 0),
    (libc::IPPROTO_IP, libc::IP_FREEBIND, 0),
    (libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 0),
    (libc::IPPROTO_IP, libc::IP_MULTICAST_TTL, 1),
    (libc::IPPROTO_IP, libc::IP_MULTICAST_LOOP, 1),
    (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0),
    (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, 64),
    (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS, 1),
    (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_LOOP, 1),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 0),
    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, 0),
    (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, 1),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY, 0),
    (libc::IPPROTO_TCP, libc::TCP_MAXSEG, 32_768),
    (libc::IPPROTO_TCP, libc::TCP_CORK, 0),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 7200),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 75),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 9),
    (libc::IPPROTO_TCP, libc::TCP_SYNCNT, 6),
    (libc::IPPROTO_TCP, libc::TCP_LINGER2, 60),
    (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 0),
    (libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP, 0),
    (libc::IPPROTO_TCP, libc::TCP_QUICKACK, 1),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 0),
    (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, 0),
    (libc::IPPROTO_TCP, libc::TCP_FASTOPEN, 0),
    (libc::IPPROTO_UDP, libc::UDP_CORK, 0),
];

/// What TCP_CONGESTION tells.
const CONGESTION: &[u8] = b"cubic\0\0\0\0\0\0\0\0\0\0\0";

/// The options that were set.
pub struct Extra(Mutex<BTreeMap<(i32, i32), i32>>);

impl Default for Extra {
    fn default() -> Self {
        Extra(Mutex::new(Rank::Leaf, BTreeMap::new()))
    }
}

impl Extra {
    fn value(&self, level: i32, name: i32) -> Option<i32> {
        let default = KEPT.iter().find(|k| (k.0, k.1) == (level, name))?.2;
        Some(self.0.lock().get(&(level, name)).copied().unwrap_or(default))
    }

    /// `IPV6_V6ONLY`
    pub fn v6_only(&self) -> bool {
        self.value(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) == Some(1)
    }

    /// An accepted socket has its listener's options.
    pub fn inherit(&self, from: &Extra) {
        let all = from.0.lock().clone();
        *self.0.lock() = all;
    }
}

/// setsockopt(2); `None`: an option of `SOL_SOCKET`, or unknown.
pub fn set(sock: &InetSock, level: i32, name: i32, value: &[u8]) -> Option<Result> {
    if (level, name) == (libc::IPPROTO_TCP, libc::TCP_CONGESTION) {
        let wanted = value.split(|&b| b == 0).next().unwrap_or_default();
        return Some(if wanted == b"cubic" || wanted == b"reno" { Ok(()) } else { Err(error!(ENOENT, "congestion control")) });
    }
    if level == libc::IPPROTO_TCP && sock.kind() != SocketKind::Stream || level == libc::IPPROTO_IPV6 && !sock.is_v6() {
        return Some(Err(error!(ENOPROTOOPT, "level {level}")));
    }
    sock.extra.value(level, name)?;
    // IP options may be given as one byte.
    let n = match (value, level) {
        ([b], libc::IPPROTO_IP) => i32::from(*b),
        _ => match OptionValue(value).int() {
            Ok(n) => n,
            Err(e) => return Some(Err(e)),
        },
    };
    if name == libc::IPV6_V6ONLY && level == libc::IPPROTO_IPV6 && sock.lock().bound.is_some() {
        return Some(Err(error!(EINVAL, "bound already")));
    }
    let flag = (level, name) == (libc::IPPROTO_TCP, libc::TCP_NODELAY) || (level, name) == (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY);
    sock.extra.0.lock().insert((level, name), if flag { i32::from(n != 0) } else { n });
    Some(Ok(()))
}

/// getsockopt(2); `None`: an option of `SOL_SOCKET`, or unknown.
pub fn get(sock: &InetSock, level: i32, name: i32) -> Option<Result<Vec<u8>>> {
    match (level, name) {
        (libc::SOL_SOCKET, libc::SO_ACCEPTCONN) => Some(Ok(i32::from(sock.is_listening()).to_ne_bytes().to_vec())),
        (libc::IPPROTO_TCP, libc::TCP_CONGESTION) => Some(Ok(CONGESTION.to_vec())),
        (libc::IPPROTO_TCP, libc::TCP_INFO) => {
            // `struct tcp_info`: the state, and zeros for what no queue has.
            let mut info = vec![0; 232];
            info[0] = sock.shown().2;
            Some(Ok(info))
        }
        _ => sock.extra.value(level, name).map(|n| Ok(n.to_ne_bytes().to_vec())),
    }
}
