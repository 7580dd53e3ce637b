//! Options of the levels IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP and IPPROTO_UDP: ip(7), ipv6(7), tcp(7), udp(7).
//!
//! Every option that can be set can be read again. docs/network.md says for each whether it changes anything.

use super::{InetSock, multicast, tcp_info};
use crate::tcp::Algorithm;
use abi::{Errno, Result, error, libc};
use kernel::{
    cred::CapSet,
    net::{CONGESTION, Control, NetSettings, OptionValue, SocketKind, SocketOps},
    task::Task,
};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use sync::{Mutex, Rank};

const IP: i32 = libc::IPPROTO_IP;
const IPV6: i32 = libc::IPPROTO_IPV6;
const TCP: i32 = libc::IPPROTO_TCP;
const UDP: i32 = libc::IPPROTO_UDP;
const IP_RECVORIGDSTADDR: i32 = 20;
const IP_CHECKSUM: i32 = 23;
const IPV6_AUTOFLOWLABEL: i32 = 70;
const IPV6_RECVORIGDSTADDR: i32 = 74;
const UDP_SEGMENT: i32 = 103;
const UDP_GRO: i32 = 104;
const TCP_FASTOPEN_CONNECT: i32 = 30;
const TCP_FASTOPEN_NO_COOKIE: i32 = 34;
const TCP_INQ: i32 = 36;
const TCP_TX_DELAY: i32 = 37;
const MINUTE: i32 = 60;

/// What values an option takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Zero or not.
    Flag,
    /// From, to.
    Range(i32, i32),
    Any,
}
use Kind::{Any, Flag, Range};

/// Options that are kept: level, name, value when new, values.
const KEPT: &[(i32, i32, i32, Kind)] = &[
    (IP, libc::IP_TOS, 0, Any),
    (IP, libc::IP_TTL, 64, Range(1, 255)),
    (IP, libc::IP_MTU_DISCOVER, 1, Range(0, 5)),
    (IP, libc::IP_RECVERR, 0, Flag),
    (IP, libc::IP_RECVTTL, 0, Flag),
    (IP, libc::IP_RECVTOS, 0, Flag),
    (IP, libc::IP_PKTINFO, 0, Flag),
    (IP, libc::IP_RECVOPTS, 0, Flag),
    (IP, libc::IP_RETOPTS, 0, Flag),
    (IP, libc::IP_HDRINCL, 0, Flag),
    (IP, IP_RECVORIGDSTADDR, 0, Flag),
    (IP, IP_CHECKSUM, 0, Flag),
    (IP, libc::IP_FREEBIND, 0, Flag),
    (IP, libc::IP_TRANSPARENT, 0, Flag),
    (IP, libc::IP_MINTTL, 0, Range(0, 255)),
    (IP, libc::IP_BIND_ADDRESS_NO_PORT, 0, Flag),
    (IP, libc::IP_MULTICAST_TTL, 1, Range(0, 255)),
    (IP, libc::IP_MULTICAST_LOOP, 1, Flag),
    (IP, libc::IP_MULTICAST_ALL, 1, Range(0, 1)),
    (IPV6, libc::IPV6_V6ONLY, 0, Flag),
    (IPV6, libc::IPV6_UNICAST_HOPS, 64, Range(0, 255)),
    (IPV6, libc::IPV6_MULTICAST_HOPS, 1, Range(0, 255)),
    (IPV6, libc::IPV6_MULTICAST_LOOP, 1, Range(0, 1)),
    (IPV6, libc::IPV6_MULTICAST_IF, 0, Any),
    (IPV6, libc::IPV6_MULTICAST_ALL, 1, Range(0, 1)),
    (IPV6, libc::IPV6_RECVERR, 0, Flag),
    (IPV6, libc::IPV6_TCLASS, 0, Range(0, 255)),
    (IPV6, libc::IPV6_RECVTCLASS, 0, Flag),
    (IPV6, libc::IPV6_RECVHOPLIMIT, 0, Flag),
    (IPV6, libc::IPV6_RECVPKTINFO, 0, Flag),
    (IPV6, libc::IPV6_2292PKTINFO, 0, Flag),
    (IPV6, IPV6_RECVORIGDSTADDR, 0, Flag),
    (IPV6, libc::IPV6_FREEBIND, 0, Flag),
    (IPV6, libc::IPV6_MTU_DISCOVER, 1, Range(0, 5)),
    (IPV6, libc::IPV6_DONTFRAG, 0, Flag),
    (IPV6, libc::IPV6_RECVFRAGSIZE, 0, Flag),
    (IPV6, libc::IPV6_FLOWINFO, 0, Flag),
    (IPV6, IPV6_AUTOFLOWLABEL, 1, Flag),
    (TCP, libc::TCP_NODELAY, 0, Flag),
    (TCP, libc::TCP_CORK, 0, Flag),
    (TCP, libc::TCP_MAXSEG, 0, Any),
    (TCP, libc::TCP_KEEPIDLE, 7200, Range(1, 32_767)),
    (TCP, libc::TCP_KEEPINTVL, 75, Range(1, 32_767)),
    (TCP, libc::TCP_KEEPCNT, 9, Range(1, 127)),
    (TCP, libc::TCP_SYNCNT, 6, Range(1, 127)),
    (TCP, libc::TCP_LINGER2, MINUTE, Any),
    (TCP, libc::TCP_DEFER_ACCEPT, 0, Any),
    (TCP, libc::TCP_WINDOW_CLAMP, 0, Any),
    (TCP, libc::TCP_QUICKACK, 1, Flag),
    (TCP, libc::TCP_USER_TIMEOUT, 0, Range(0, i32::MAX)),
    (TCP, libc::TCP_NOTSENT_LOWAT, 0, Any),
    (TCP, libc::TCP_FASTOPEN, 0, Range(0, i32::MAX)),
    (TCP, TCP_FASTOPEN_CONNECT, 0, Range(0, 1)),
    (TCP, TCP_FASTOPEN_NO_COOKIE, 0, Range(0, 1)),
    (TCP, libc::TCP_THIN_LINEAR_TIMEOUTS, 0, Range(0, 1)),
    (TCP, TCP_INQ, 0, Range(0, 1)),
    (TCP, TCP_TX_DELAY, 0, Any),
    (UDP, libc::UDP_CORK, 0, Flag),
    (UDP, UDP_SEGMENT, 0, Range(0, 65_535)),
    (UDP, UDP_GRO, 0, Flag),
];

/// The options that were set.
pub struct Extra(Mutex<Kept>, Arc<NetSettings>);

#[derive(Clone, Default)]
struct Kept {
    values: BTreeMap<(i32, i32), i32>,
    algorithm: Algorithm,
    multicast_device: (u32, u32),
    multicast_address: Option<IpAddr>,
}

impl Extra {
    /// None set; what `settings` say of the others counts as it is when it is asked for, but for the congestion control.
    pub fn new(settings: &Arc<NetSettings>) -> Extra {
        let name = CONGESTION.get(settings.congestion.load(Relaxed) as usize).copied().unwrap_or_default();
        let algorithm = Algorithm::named(name.as_bytes()).unwrap_or_default();
        Extra(Mutex::new(Rank::Leaf, Kept { algorithm, ..Kept::default() }), settings.clone())
    }

    fn value(&self, level: i32, name: i32) -> Option<i32> {
        let default = self.default_of(level, name)?;
        Some(self.0.lock().values.get(&(level, name)).copied().unwrap_or(default))
    }

    /// The value of an option that was not set.
    fn default_of(&self, level: i32, name: i32) -> Option<i32> {
        let s = &self.1;
        let setting = match (level, name) {
            (TCP, libc::TCP_KEEPIDLE) => &s.keepalive_time,
            (TCP, libc::TCP_KEEPINTVL) => &s.keepalive_interval,
            (TCP, libc::TCP_KEEPCNT) => &s.keepalive_probes,
            (TCP, libc::TCP_SYNCNT) => &s.syn_retries,
            (IP, libc::IP_TTL) => &s.ttl,
            _ => return Some(KEPT.iter().find(|k| (k.0, k.1) == (level, name))?.2),
        };
        i32::try_from(setting.load(Relaxed)).ok()
    }

    /// A value that is in the table.
    fn get(&self, level: i32, name: i32) -> i32 {
        self.value(level, name).unwrap_or(0)
    }

    fn is_set(&self, level: i32, name: i32) -> bool {
        self.get(level, name) != 0
    }

    /// `IPV6_V6ONLY`
    pub fn v6_only(&self) -> bool {
        self.is_set(IPV6, libc::IPV6_V6ONLY)
    }

    /// `IP_FREEBIND` and its kin: any address may be bound to.
    pub fn free_bind(&self) -> bool {
        self.is_set(IP, libc::IP_FREEBIND) || self.is_set(IP, libc::IP_TRANSPARENT) || self.is_set(IPV6, libc::IPV6_FREEBIND)
    }

    /// Time to live, or hop limit.
    pub fn ttl(&self, v4: bool) -> u8 {
        (if v4 { self.get(IP, libc::IP_TTL) } else { self.get(IPV6, libc::IPV6_UNICAST_HOPS) }) as u8
    }

    /// The same to groups.
    pub fn multicast_ttl(&self, v4: bool) -> u8 {
        (if v4 { self.get(IP, libc::IP_MULTICAST_TTL) } else { self.get(IPV6, libc::IPV6_MULTICAST_HOPS) }) as u8
    }

    /// Whether what is sent to a group is heard here, too.
    pub fn multicast_loop(&self, v4: bool) -> bool {
        if v4 { self.is_set(IP, libc::IP_MULTICAST_LOOP) } else { self.is_set(IPV6, libc::IPV6_MULTICAST_LOOP) }
    }

    /// `IP_MULTICAST_ALL`: groups that others have joined are heard.
    pub fn multicast_all(&self, v4: bool) -> bool {
        if v4 { self.is_set(IP, libc::IP_MULTICAST_ALL) } else { self.is_set(IPV6, libc::IPV6_MULTICAST_ALL) }
    }

    /// The device for what is sent to groups.
    pub fn multicast_device(&self, v4: bool) -> Option<u32> {
        let k = self.0.lock();
        Some(if v4 { k.multicast_device.0 } else { k.multicast_device.1 }).filter(|&d| d != 0)
    }

    pub(super) fn set_multicast_device(&self, v4: bool, device: u32, address: Option<IpAddr>) {
        let mut k = self.0.lock();
        if v4 {
            k.multicast_device.0 = device;
            k.multicast_address = address;
        } else {
            k.multicast_device.1 = device;
        }
    }

    /// Type of service, or traffic class.
    pub fn tos(&self, v4: bool) -> u8 {
        (if v4 { self.get(IP, libc::IP_TOS) } else { self.get(IPV6, libc::IPV6_TCLASS) }) as u8
    }

    /// `IP_PMTUDISC_*`
    pub fn mtu_discover(&self, v4: bool) -> i32 {
        if v4 { self.get(IP, libc::IP_MTU_DISCOVER) } else { self.get(IPV6, libc::IPV6_MTU_DISCOVER) }
    }

    /// `IP_RECVERR`
    pub fn wants_errors(&self, v4: bool) -> bool {
        v4 && self.is_set(IP, libc::IP_RECVERR) || self.is_set(IPV6, libc::IPV6_RECVERR)
    }

    /// `UDP_SEGMENT`
    pub fn segment(&self) -> usize {
        self.get(UDP, UDP_SEGMENT) as usize
    }

    /// `UDP_CORK`
    pub fn udp_cork(&self) -> bool {
        self.is_set(UDP, libc::UDP_CORK)
    }

    /// `TCP_NODELAY`
    pub fn nodelay(&self) -> bool {
        self.is_set(TCP, libc::TCP_NODELAY)
    }

    /// `TCP_CORK`
    pub fn cork(&self) -> bool {
        self.is_set(TCP, libc::TCP_CORK)
    }

    /// `TCP_MAXSEG`; zero: not set.
    pub fn max_segment(&self) -> u16 {
        self.get(TCP, libc::TCP_MAXSEG) as u16
    }

    /// `TCP_KEEPIDLE` and `TCP_KEEPINTVL` in nanoseconds, `TCP_KEEPCNT`.
    pub fn keepalive(&self) -> (u64, u64, u32) {
        let seconds = |name| self.get(TCP, name) as u64 * 1_000_000_000;
        (seconds(libc::TCP_KEEPIDLE), seconds(libc::TCP_KEEPINTVL), self.get(TCP, libc::TCP_KEEPCNT) as u32)
    }

    /// `TCP_USER_TIMEOUT` in nanoseconds.
    pub fn user_timeout(&self) -> Option<u64> {
        Some(self.get(TCP, libc::TCP_USER_TIMEOUT) as u64 * 1_000_000).filter(|&t| t > 0)
    }

    /// `TCP_SYNCNT`
    pub fn syn_retries(&self) -> u32 {
        self.get(TCP, libc::TCP_SYNCNT) as u32
    }

    /// `TCP_LINGER2` in nanoseconds.
    pub fn fin_timeout(&self, settings: &NetSettings) -> u64 {
        let asked = self.0.lock().values.get(&(TCP, libc::TCP_LINGER2)).copied();
        let seconds = asked.map_or_else(|| u64::from(settings.fin_timeout.load(Relaxed)), |n| n.clamp(0, 120) as u64);
        seconds * 1_000_000_000
    }

    /// `TCP_NOTSENT_LOWAT`; zero: not set.
    pub fn unsent_low(&self) -> usize {
        self.get(TCP, libc::TCP_NOTSENT_LOWAT) as u32 as usize
    }

    /// `TCP_CONGESTION`
    pub fn algorithm(&self) -> Algorithm {
        self.0.lock().algorithm
    }

    /// An accepted socket has its listener's options.
    pub fn inherit(&self, from: &Extra) {
        let all = from.0.lock().clone();
        *self.0.lock() = all;
    }

    /// Control messages that were asked for.
    pub fn incoming(&self, to: SocketAddr, device: u32, ttl: u8, tos: u8, v6: bool, out: &mut Vec<Control>) {
        if self.0.lock().values.is_empty() {
            return;
        }
        let int = |n: i32| n.to_ne_bytes().to_vec();
        let mut add = |level, option, kind, data: Vec<u8>| {
            if self.is_set(level, option) {
                out.push(Control::Other(level, kind, data));
            }
        };
        if let IpAddr::V4(ip) = to.ip() {
            let info = [&device.to_ne_bytes()[..], &ip.octets(), &ip.octets()].concat();
            add(IP, libc::IP_PKTINFO, libc::IP_PKTINFO, info);
            add(IP, libc::IP_RECVTTL, libc::IP_TTL, int(i32::from(ttl)));
            add(IP, libc::IP_RECVTOS, libc::IP_TOS, vec![tos]);
            add(IP, IP_RECVORIGDSTADDR, IP_RECVORIGDSTADDR, super::address::encode(to, false));
            if !v6 {
                return;
            }
        }
        let six = match to.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let info = [&six.octets()[..], &device.to_ne_bytes()].concat();
        add(IPV6, libc::IPV6_RECVPKTINFO, libc::IPV6_PKTINFO, info.clone());
        add(IPV6, libc::IPV6_2292PKTINFO, libc::IPV6_2292PKTINFO, info);
        if to.is_ipv6() {
            add(IPV6, libc::IPV6_RECVHOPLIMIT, libc::IPV6_HOPLIMIT, int(i32::from(ttl)));
            add(IPV6, libc::IPV6_RECVTCLASS, libc::IPV6_TCLASS, int(i32::from(tos)));
            add(IPV6, IPV6_RECVORIGDSTADDR, IPV6_RECVORIGDSTADDR, super::address::encode(to, true));
        }
    }
}

/// setsockopt(2); `None`: an option of `SOL_SOCKET`, or unknown.
pub fn set(sock: &InetSock, task: &Task, level: i32, name: i32, value: &[u8]) -> Option<Result> {
    let tcp = sock.kind() == SocketKind::Stream;
    match (level, name) {
        (libc::SOL_SOCKET, libc::SO_BINDTODEVICE) => return Some(bind_to_device(sock, value)),
        (libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX) => return Some(bind_to_index(sock, value)),
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE) if tcp => {
            let done = sock.options().set(name, &OptionValue(value), &task.cred());
            sock.reconfigure(false);
            return Some(done);
        }
        (TCP, libc::TCP_CONGESTION) if tcp => {
            let wanted = value.split(|&b| b == 0).next().unwrap_or_default();
            let Some(a) = Algorithm::named(wanted) else { return Some(Err(error!(ENOENT, "congestion control"))) };
            sock.extra.0.lock().algorithm = a;
            sock.reconfigure(false);
            return Some(Ok(()));
        }
        (TCP, libc::TCP_ULP | libc::TCP_REPAIR | libc::TCP_MD5SIG) if tcp => return Some(Err(error!(ENOPROTOOPT, "TCP option {name}"))),
        _ => {}
    }
    if level == TCP && !tcp || level == UDP && tcp || level == IPV6 && !sock.is_v6() {
        return Some(Err(error!(ENOPROTOOPT, "level {level}")));
    }
    if let Some(done) = multicast::set(sock, level, name, value) {
        return Some(done);
    }
    Some(keep(sock, task, level, name, value, sock.extra.value(level, name)?))
}

fn keep(sock: &InetSock, task: &Task, level: i32, name: i32, value: &[u8], old: i32) -> Result {
    let kind = KEPT.iter().find(|k| (k.0, k.1) == (level, name)).map_or(Any, |k| k.3);
    // IP options may be given as one byte.
    let mut n = match (value, level) {
        ([b, ..], IP) if value.len() < 4 => i32::from(*b),
        _ => OptionValue(value).int()?,
    };
    // -1 stands for the default.
    let resets = [libc::IP_TTL, libc::IP_MULTICAST_TTL];
    let resets6 = [libc::IPV6_UNICAST_HOPS, libc::IPV6_MULTICAST_HOPS, libc::IPV6_TCLASS];
    if n == -1 && (level == IP && resets.contains(&name) || level == IPV6 && resets6.contains(&name)) {
        sock.extra.0.lock().values.remove(&(level, name));
        return Ok(());
    }
    match kind {
        Flag => n = i32::from(n != 0),
        Range(from, to) if !(from..=to).contains(&n) => return Err(error!(EINVAL, "{n} is out of range")),
        _ => {}
    }
    match (level, name) {
        (IPV6, libc::IPV6_V6ONLY) if sock.lock().bound.is_some() => return Err(error!(EINVAL, "bound already")),
        (IP, libc::IP_TRANSPARENT) if n != 0 => task.cred().require(CapSet::NET_ADMIN)?,
        // The ECN bits of a stream belong to TCP.
        (IP, libc::IP_TOS) if sock.kind() == SocketKind::Stream => n = n & !3 & 0xff | old & 3,
        (IP, libc::IP_TOS) => n &= 0xff,
        (TCP, libc::TCP_MAXSEG) if n != 0 && !(88..=32_767).contains(&n) => return Err(error!(EINVAL, "segment size {n}")),
        (TCP, libc::TCP_LINGER2) if n < 0 => n = -1,
        (TCP, libc::TCP_LINGER2) if n == 0 => n = MINUTE,
        (TCP, libc::TCP_LINGER2) => n = n.min(2 * MINUTE),
        (TCP, libc::TCP_DEFER_ACCEPT) => n = deferred(n),
        (TCP, libc::TCP_FASTOPEN) if sock.lock().remote.is_some() => return Err(error!(EINVAL, "connected")),
        _ => {}
    }
    sock.extra.0.lock().values.insert((level, name), n);
    if level == TCP {
        let push = name == libc::TCP_NODELAY && n != 0 || name == libc::TCP_CORK && n == 0;
        sock.reconfigure(push);
    }
    if (level, name, n) == (UDP, libc::UDP_CORK, 0) {
        sock.uncork()?;
    }
    Ok(())
}

/// Linux counts retransmissions, and gives back the time that these take.
fn deferred(seconds: i32) -> i32 {
    if seconds <= 0 {
        return 0;
    }
    let (mut period, mut timeout) = (1, 1);
    for _ in 1..255 {
        if seconds <= period {
            break;
        }
        timeout = (timeout * 2).min(120);
        period += timeout;
    }
    period
}

fn bind_to_device(sock: &InetSock, value: &[u8]) -> Result {
    let name = value.split(|&b| b == 0).next().unwrap_or_default();
    if name.is_empty() {
        sock.lock().device = None;
        return Ok(());
    }
    let table = sock.stack().table();
    let Some(d) = table.named(name) else { return Err(error!(ENODEV)) };
    sock.lock().device = Some(d.index);
    Ok(())
}

fn bind_to_index(sock: &InetSock, value: &[u8]) -> Result {
    let n = OptionValue(value).int()?;
    let index = u32::try_from(n).map_err(|_| error!(EINVAL, "negative index"))?;
    if index != 0 && sock.stack().table().device(index).is_none() {
        return Err(error!(ENODEV));
    }
    sock.lock().device = Some(index).filter(|&i| i != 0);
    Ok(())
}

/// getsockopt(2); `None`: an option of `SOL_SOCKET`, or unknown.
pub fn get(sock: &InetSock, level: i32, name: i32) -> Option<Result<Vec<u8>>> {
    let int = |n: i32| Some(Ok(n.to_ne_bytes().to_vec()));
    let tcp = sock.kind() == SocketKind::Stream;
    match (level, name) {
        (libc::SOL_SOCKET, libc::SO_ACCEPTCONN) => return int(i32::from(sock.is_listening())),
        (libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX) => return int(sock.lock().device.unwrap_or(0) as i32),
        (libc::SOL_SOCKET, libc::SO_BINDTODEVICE) => {
            let device = sock.lock().device;
            let table = sock.stack().table();
            let name = device.and_then(|d| table.device(d)).map(|d| [d.name.as_bytes(), &[0]].concat());
            return Some(Ok(name.unwrap_or_default()));
        }
        (TCP, libc::TCP_CONGESTION) if tcp => {
            let mut name = sock.extra.algorithm().name().as_bytes().to_vec();
            name.resize(16, 0);
            return Some(Ok(name));
        }
        (TCP, libc::TCP_INFO) if tcp => return Some(Ok(tcp_info::of(sock))),
        (TCP, libc::TCP_MAXSEG) if tcp => {
            let s = sock.lock();
            let n = match (&s.tcb, &s.peer) {
                (Some(t), _) => t.figures().mss as i32,
                (None, Some(_)) => 32_741,
                _ => 536,
            };
            return int(n);
        }
        (TCP, libc::TCP_LINGER2) if tcp => return int(sock.extra.get(TCP, libc::TCP_LINGER2)),
        (IP, libc::IP_MTU) | (IPV6, libc::IPV6_MTU) => {
            let remote = sock.lock().remote;
            let Some(to) = remote else { return Some(Err(Errno::ENOTCONN.into())) };
            return match sock.stack().path(to.ip(), None, None) {
                // IPv4's length has 16 bits.
                Ok(p) => int(if level == IP { p.mtu.min(65_535) } else { p.mtu } as i32),
                Err(e) => Some(Err(e)),
            };
        }
        (IP, libc::IP_OPTIONS) => return Some(Ok(Vec::new())),
        (IP, libc::IP_MULTICAST_IF) => {
            let address = sock.extra.0.lock().multicast_address;
            return Some(Ok(match address {
                Some(IpAddr::V4(ip)) => ip.octets().to_vec(),
                _ => vec![0; 4],
            }));
        }
        (IPV6, libc::IPV6_MULTICAST_IF) => return int(sock.extra.multicast_device(false).unwrap_or(0) as i32),
        _ => {}
    }
    if level == TCP && !tcp || level == UDP && tcp || level == IPV6 && !sock.is_v6() {
        return Some(Err(error!(EOPNOTSUPP, "level {level}")));
    }
    sock.extra.value(level, name).map(|n| Ok(n.to_ne_bytes().to_vec()))
}

impl Extra {
    /// `IP_HDRINCL`
    pub fn header_included(&self) -> bool {
        self.is_set(IP, libc::IP_HDRINCL)
    }

    /// setsockopt(2) of a raw socket: options that are kept, without what depends on TCP and UDP.
    pub fn set_plain(&self, level: i32, name: i32, value: &[u8]) -> Option<Result> {
        if level != IP && level != IPV6 {
            return None;
        }
        self.value(level, name)?;
        let n = match value {
            [b, ..] if value.len() < 4 && level == IP => i32::from(*b),
            _ => match OptionValue(value).int() {
                Ok(n) => n,
                Err(e) => return Some(Err(e)),
            },
        };
        self.0.lock().values.insert((level, name), n);
        Some(Ok(()))
    }

    /// getsockopt(2) of such an option.
    pub fn plain(&self, level: i32, name: i32) -> Option<Result<Vec<u8>>> {
        self.value(level, name).map(|n| Ok(n.to_ne_bytes().to_vec()))
    }
}
