//! `--network=host`: sockets of AF_INET and AF_INET6 that are the host's own, in the network namespace that the sentry was left in.
//!
//! Nothing blocks in the host: sockets are non-blocking, and the host's readiness is notified in the socket's queue. What an application
//! may set or ask for is in [`OPTIONS`] alone, which the sentry's filter is made from, too.

use crate::device;
use abi::{Errno, Result, bail, libc, poll::PollEvents};
use host::socket;
use kernel::{
    cred::CapSet,
    io::IoBuffer,
    ipc::hostfd::{self, Watch},
    net::{Control, Family, Message, OptionValue, Shutdown, SocketKind, SocketOps, SocketOptions},
    task::Task,
    vfs::IoctlArg,
};
use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use sync::{Mutex, Rank, WaitQueue};

/// Sockets that may be made: domain, type, protocol.
pub const SOCKETS: &[(i32, i32, i32)] = &[
    (libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_TCP),
    (libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDP),
    (libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP),
    (libc::AF_INET6, libc::SOCK_STREAM, libc::IPPROTO_TCP),
    (libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDP),
    (libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_ICMPV6),
];

/// Options that may be set, by level. None of their values holds a pointer, and none attaches code, keys or another protocol to a socket.
pub const OPTIONS: &[(i32, &[i32])] = &[
    (
        libc::SOL_SOCKET,
        &[
            libc::SO_REUSEADDR,
            libc::SO_REUSEPORT,
            libc::SO_KEEPALIVE,
            libc::SO_BROADCAST,
            libc::SO_OOBINLINE,
            libc::SO_LINGER,
            libc::SO_SNDBUF,
            libc::SO_RCVBUF,
            libc::SO_RCVLOWAT,
            libc::SO_DONTROUTE,
            libc::SO_PRIORITY,
            libc::SO_TIMESTAMP,
            libc::SO_TIMESTAMPNS,
            libc::SO_RXQ_OVFL,
            libc::SO_NO_CHECK,
            libc::SO_BINDTODEVICE,
            SO_BINDTOIFINDEX,
            libc::SO_INCOMING_CPU,
            libc::SO_BUSY_POLL,
        ],
    ),
    (
        libc::IPPROTO_IP,
        &[
            libc::IP_TOS,
            libc::IP_TTL,
            libc::IP_RECVTTL,
            libc::IP_RECVTOS,
            libc::IP_PKTINFO,
            libc::IP_RECVERR,
            libc::IP_RECVORIGDSTADDR,
            libc::IP_MTU_DISCOVER,
            libc::IP_FREEBIND,
            libc::IP_MINTTL,
            libc::IP_BIND_ADDRESS_NO_PORT,
            libc::IP_MULTICAST_IF,
            libc::IP_MULTICAST_TTL,
            libc::IP_MULTICAST_LOOP,
            libc::IP_MULTICAST_ALL,
            libc::IP_ADD_MEMBERSHIP,
            libc::IP_DROP_MEMBERSHIP,
            MCAST_JOIN_GROUP,
            MCAST_LEAVE_GROUP,
        ],
    ),
    (
        libc::IPPROTO_IPV6,
        &[
            libc::IPV6_V6ONLY,
            libc::IPV6_UNICAST_HOPS,
            libc::IPV6_TCLASS,
            libc::IPV6_RECVTCLASS,
            libc::IPV6_RECVHOPLIMIT,
            libc::IPV6_RECVPKTINFO,
            libc::IPV6_RECVERR,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_DONTFRAG,
            libc::IPV6_FREEBIND,
            libc::IPV6_AUTOFLOWLABEL,
            libc::IPV6_MULTICAST_IF,
            libc::IPV6_MULTICAST_HOPS,
            libc::IPV6_MULTICAST_LOOP,
            libc::IPV6_ADD_MEMBERSHIP,
            libc::IPV6_DROP_MEMBERSHIP,
            MCAST_JOIN_GROUP,
            MCAST_LEAVE_GROUP,
        ],
    ),
    (
        libc::IPPROTO_TCP,
        &[
            libc::TCP_NODELAY,
            libc::TCP_CORK,
            libc::TCP_MAXSEG,
            libc::TCP_KEEPIDLE,
            libc::TCP_KEEPINTVL,
            libc::TCP_KEEPCNT,
            libc::TCP_USER_TIMEOUT,
            libc::TCP_SYNCNT,
            libc::TCP_LINGER2,
            libc::TCP_DEFER_ACCEPT,
            libc::TCP_WINDOW_CLAMP,
            libc::TCP_QUICKACK,
            libc::TCP_CONGESTION,
            libc::TCP_NOTSENT_LOWAT,
            libc::TCP_FASTOPEN,
            libc::TCP_FASTOPEN_CONNECT,
            TCP_INQ,
        ],
    ),
    (libc::SOL_UDP, &[libc::UDP_CORK, libc::UDP_SEGMENT, libc::UDP_GRO]),
];

/// Options that may only be asked for.
const ASKED: &[(i32, &[i32])] = &[
    (libc::SOL_SOCKET, &[libc::SO_ERROR, libc::SO_ACCEPTCONN, libc::SO_SNDLOWAT, libc::SO_MARK, libc::SO_COOKIE]),
    (libc::IPPROTO_IP, &[libc::IP_MTU]),
    (libc::IPPROTO_IPV6, &[libc::IPV6_MTU]),
    (libc::IPPROTO_TCP, &[libc::TCP_INFO]),
];

/// ioctl(2)s of sockets that give an int.
pub const IOCTLS: &[u64] = &[libc::FIONREAD, libc::TIOCOUTQ, SIOCATMARK];

const SO_BINDTOIFINDEX: i32 = 62;
const MCAST_JOIN_GROUP: i32 = 42;
const MCAST_LEAVE_GROUP: i32 = 45;
const TCP_INQ: i32 = 36;
const SIOCATMARK: u64 = 0x8905;

/// Flags that reach the host. Waiting is done here.
const SEND_FLAGS: i32 = libc::MSG_OOB | libc::MSG_DONTROUTE | libc::MSG_EOR | libc::MSG_MORE | libc::MSG_CONFIRM | libc::MSG_FASTOPEN;
const RECV_FLAGS: i32 = libc::MSG_OOB | libc::MSG_PEEK | libc::MSG_TRUNC | libc::MSG_ERRQUEUE;
/// Bytes of a stream that one call moves at most.
const STEP: usize = 256 << 10;
/// The longest datagram.
const DATAGRAM: usize = 65_536;

fn listed(table: &[(i32, &[i32])], level: i32, name: i32) -> bool {
    table.iter().any(|(l, names)| *l == level && names.contains(&name))
}

/// AF_INET or AF_INET6 of the host.
pub struct HostFamily {
    /// The one with 16-byte addresses.
    pub v6: bool,
}

impl Family for HostFamily {
    fn domain(&self) -> i32 {
        if self.v6 { libc::AF_INET6 } else { libc::AF_INET }
    }

    fn create(&self, _task: &Task, kind: SocketKind, protocol: i32) -> Result<Arc<dyn SocketOps>> {
        let protocol = match (kind, protocol) {
            (SocketKind::Stream, 0) => libc::IPPROTO_TCP,
            (SocketKind::Dgram, 0) => libc::IPPROTO_UDP,
            (SocketKind::Raw, 1..256) => bail!(EPERM, "no raw sockets of the host"),
            (SocketKind::SeqPacket, _) => bail!(ESOCKTNOSUPPORT),
            (_, p) if !(0..256).contains(&p) => bail!(EINVAL, "protocol {p}"),
            (_, p) => p,
        };
        if !SOCKETS.contains(&(self.domain(), kind.raw(), protocol)) {
            bail!(EPROTONOSUPPORT, "protocol {protocol}");
        }
        let fd = socket::socket(self.domain(), kind.raw(), protocol)?;
        Ok(HostSock::new(fd, self.domain(), kind, protocol)?)
    }
}

/// A socket of the host.
pub struct HostSock {
    fd: OwnedFd,
    domain: i32,
    kind: SocketKind,
    protocol: i32,
    watch: Watch,
    /// Only the times that calls wait: everything else the host keeps.
    options: SocketOptions,
    /// Where connect(2) is under way to.
    connecting: Mutex<Vec<u8>>,
    /// shutdown(2) has closed receiving.
    shut: AtomicBool,
}

impl HostSock {
    fn new(fd: OwnedFd, domain: i32, kind: SocketKind, protocol: i32) -> Result<Arc<HostSock>> {
        let Some(watch) = Watch::new(&fd)? else { bail!(EIO, "a socket that is always ready") };
        let connecting = Mutex::new(Rank::Leaf, Vec::new());
        Ok(Arc::new(HostSock {
            fd,
            domain,
            kind,
            protocol,
            watch,
            options: SocketOptions::default(),
            connecting,
            shut: AtomicBool::new(false),
        }))
    }
}

impl SocketOps for HostSock {
    fn domain(&self) -> i32 {
        self.domain
    }

    fn kind(&self) -> SocketKind {
        self.kind
    }

    fn protocol(&self) -> i32 {
        self.protocol
    }

    fn options(&self) -> &SocketOptions {
        &self.options
    }

    fn bind(&self, task: &Task, addr: &[u8]) -> Result {
        let port = addr.get(2..4).and_then(<[u8]>::first_chunk).map_or(0, |p| u16::from_be_bytes(*p));
        if (1..1024).contains(&port) && !task.cred().capable(CapSet::NET_BIND_SERVICE) {
            bail!(EACCES, "port {port}");
        }
        Ok(socket::bind(&self.fd, addr)?)
    }

    fn listen(&self, _task: &Task, backlog: i32) -> Result {
        Ok(socket::listen(&self.fd, backlog)?)
    }

    fn connect(&self, _task: &Task, addr: &[u8]) -> Result {
        *self.connecting.lock() = addr.to_vec();
        Ok(socket::connect(&self.fd, addr)?)
    }

    fn connect_result(&self) -> Result {
        let addr = self.connecting.lock().clone();
        match socket::connect(&self.fd, &addr) {
            Err(Errno::EALREADY) => bail!(EAGAIN, "under way"),
            Err(Errno::EISCONN) => Ok(()),
            other => Ok(other?),
        }
    }

    fn accept(&self, _task: &Task) -> Result<Arc<dyn SocketOps>> {
        let fd = socket::accept(&self.fd)?;
        let child = HostSock::new(fd, self.domain, self.kind, self.protocol)?;
        child.options.inherit(&self.options);
        Ok(child)
    }

    fn local_address(&self) -> Result<Vec<u8>> {
        Ok(socket::name(&self.fd, false)?)
    }

    fn peer_address(&self) -> Result<Vec<u8>> {
        Ok(socket::name(&self.fd, true)?)
    }

    fn send(&self, _task: Option<&Task>, buf: &mut IoBuffer<'_>, message: Message, flags: i32) -> Result<usize> {
        let mut control = Vec::new();
        for c in &message.control {
            match c {
                Control::Other(level, kind, data) if [libc::IPPROTO_IP, libc::IPPROTO_IPV6, libc::SOL_UDP].contains(level) => {
                    control.push((*level, *kind, data.as_slice()));
                }
                _ => bail!(EINVAL, "a control message that the host is not given"),
            }
        }
        let stream = self.kind == SocketKind::Stream;
        // A datagram that is too long is told from its length alone.
        let most = if stream { STEP } else { DATAGRAM + 1 };
        let flags = flags & SEND_FLAGS | if stream && buf.remaining() > most { libc::MSG_MORE } else { 0 };
        if buf.is_user() && buf.remaining() > 0 {
            return buf.transfer(most, false, |spans| Ok(socket::send_spans(&self.fd, spans, &message.name, &control, flags)?));
        }
        let start = buf.done();
        let data = buf.read_all(most)?;
        let sent = socket::send(&self.fd, &data, &message.name, &control, flags);
        buf.rewind_to(start + sent.unwrap_or(0));
        Ok(sent?)
    }

    fn recv(&self, buf: &mut IoBuffer<'_>, flags: i32, message: &mut Message) -> Result<usize> {
        let stream = self.kind == SocketKind::Stream;
        let most = if stream { STEP } else { DATAGRAM };
        let flags = flags & RECV_FLAGS;
        let mut got = socket::Received::default();
        let done = if buf.is_user() && buf.remaining() > 0 {
            buf.transfer(most, true, |spans| {
                got = socket::receive_spans(&self.fd, spans, flags)?;
                Ok(got.len)
            })
            .map(drop)
        } else {
            let mut data = vec![0; buf.remaining().min(most)];
            socket::receive(&self.fd, &mut data, flags).map_err(Into::into).and_then(|r| {
                got = r;
                let here = data.get(..got.len.min(data.len())).unwrap_or_default();
                if here.is_empty() { Ok(()) } else { buf.write(here).map(drop) }
            })
        };
        match done {
            // The end, for who would wait (udp(7) says nothing of it).
            Err(e) if e.is(Errno::EAGAIN) && !stream && self.shut.load(Relaxed) => return Ok(0),
            other => other?,
        }
        message.name = got.name;
        message.flags = got.flags & !libc::MSG_CMSG_CLOEXEC;
        message.control = got.control.into_iter().map(|(level, kind, data)| Control::Other(level, kind, data)).collect();
        Ok(got.len)
    }

    fn shutdown(&self, how: Shutdown) -> Result {
        self.shut.fetch_or(how.read, Relaxed);
        let how = match (how.read, how.write) {
            (true, true) => libc::SHUT_RDWR,
            (true, false) => libc::SHUT_RD,
            _ => libc::SHUT_WR,
        };
        Ok(socket::shutdown(&self.fd, how)?)
    }

    fn poll(&self) -> PollEvents {
        hostfd::poll_now(&self.fd)
    }

    fn has_pending_error(&self) -> bool {
        // The host keeps it.
        self.poll().contains(PollEvents::ERR)
    }

    fn queue(&self) -> &WaitQueue {
        self.watch.queue()
    }

    fn ioctl(&self, task: &Task, cmd: u32, arg: IoctlArg) -> Result<u64> {
        if !IOCTLS.contains(&u64::from(cmd)) {
            return device::ioctl(task, cmd, arg).unwrap_or_else(|| bail!(ENOTTY));
        }
        let n = socket::ioctl_int(&self.fd, u64::from(cmd))?;
        task.mm().write(arg.addr().cast::<i32>(), &n)?;
        Ok(0)
    }

    fn set_option(&self, task: &Task, level: i32, name: i32, value: &[u8]) -> Option<Result> {
        if level == libc::SOL_SOCKET && [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO].contains(&name) {
            return Some(self.options.set(name, &OptionValue(value), &task.cred()));
        }
        let allowed = listed(OPTIONS, level, name);
        Some(if allowed { socket::set_option(&self.fd, level, name, value).map_err(Into::into) } else { Err(abi::error!(ENOPROTOOPT)) })
    }

    fn get_option(&self, _task: &Task, level: i32, name: i32) -> Option<Result<Vec<u8>>> {
        if level == libc::SOL_SOCKET
            && [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO, libc::SO_TYPE, libc::SO_DOMAIN, libc::SO_PROTOCOL].contains(&name)
        {
            return None;
        }
        let allowed = listed(OPTIONS, level, name) || listed(ASKED, level, name);
        Some(if allowed { socket::option(&self.fd, level, name).map_err(Into::into) } else { Err(abi::error!(ENOPROTOOPT)) })
    }

    fn release(&self) {
        // The last descriptor is closed: a listening socket must not go on while somebody waits in it.
        if self.kind == SocketKind::Stream && self.is_listening() {
            let _ = socket::shutdown(&self.fd, libc::SHUT_RDWR);
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl HostSock {
    fn is_listening(&self) -> bool {
        socket::option(&self.fd, libc::SOL_SOCKET, libc::SO_ACCEPTCONN).is_ok_and(|v| v.first() == Some(&1))
    }
}
