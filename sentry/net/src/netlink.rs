//! AF_NETLINK, as far as getifaddrs(3) and its like need it: NETLINK_ROUTE tells of the loopback device and its addresses.

use crate::device::{self, ARPHRD_LOOPBACK, LO_FLAGS, LO_INDEX, LO_MTU, LO_NAME, LO_TXQLEN};
use abi::{Errno, Result, bail, libc, poll::PollEvents};
use kernel::{
    cred::CapSet,
    io::IoBuffer,
    net::{Control, Family, Message, SocketKind, SocketOps, SocketOptions, Ucred},
    task::Task,
    vfs::IoctlArg,
};
use std::any::Any;
use std::collections::VecDeque;
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};
use sync::{Mutex, Rank, WaitQueue};

/// The family.
pub struct NetlinkFamily;

impl Family for NetlinkFamily {
    fn domain(&self) -> i32 {
        libc::AF_NETLINK
    }

    fn create(&self, task: &Task, kind: SocketKind, protocol: i32) -> Result<Arc<dyn SocketOps>> {
        if !matches!(kind, SocketKind::Raw | SocketKind::Dgram) {
            bail!(ESOCKTNOSUPPORT);
        }
        if protocol != libc::NETLINK_ROUTE {
            bail!(EPROTONOSUPPORT, "netlink protocol {protocol}");
        }
        Ok(Arc::new(Netlink {
            kind,
            queue: WaitQueue::new(),
            options: SocketOptions::default(),
            port: AtomicU32::new(0),
            groups: AtomicU32::new(0),
            received: Mutex::new(Rank::Socket, VecDeque::new()),
            process: task.tgid() as u32,
        }))
    }
}

/// A socket to the kernel.
struct Netlink {
    kind: SocketKind,
    queue: WaitQueue,
    options: SocketOptions,
    /// `nl_pid`; 0: not bound.
    port: AtomicU32,
    groups: AtomicU32,
    received: Mutex<VecDeque<Vec<u8>>>,
    process: u32,
}

/// `sizeof(struct nlmsghdr)`
const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_MULTI: u16 = 2;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
/// The first kind that this protocol has none of.
const RTM_END: u16 = 124;
/// The longest queue, in messages, of answers that nobody reads.
const QUEUE_MAX: usize = 256;

/// A request's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Request {
    len: usize,
    kind: u16,
    flags: u16,
    seq: u32,
}

fn bytes<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..)?.first_chunk::<N>().copied()
}

impl Request {
    fn parse(data: &[u8]) -> Option<Request> {
        let len = u32::from_ne_bytes(bytes(data, 0)?) as usize;
        let kind = u16::from_ne_bytes(bytes(data, 4)?);
        let flags = u16::from_ne_bytes(bytes(data, 6)?);
        let seq = u32::from_ne_bytes(bytes(data, 8)?);
        (len >= HEADER && len <= data.len() && data.len() >= HEADER).then_some(Request { len, kind, flags, seq })
    }
}

/// Answers under construction.
struct Answer {
    out: Vec<u8>,
    seq: u32,
    port: u32,
}

impl Answer {
    fn message(&mut self, kind: u16, flags: u16, body: &[u8], attributes: &[(u16, &[u8])]) {
        let start = self.out.len();
        self.out.extend_from_slice(&[0; 4]);
        self.out.extend_from_slice(&kind.to_ne_bytes());
        self.out.extend_from_slice(&flags.to_ne_bytes());
        self.out.extend_from_slice(&self.seq.to_ne_bytes());
        self.out.extend_from_slice(&self.port.to_ne_bytes());
        self.out.extend_from_slice(body);
        for (kind, value) in attributes {
            self.pad();
            self.out.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
            self.out.extend_from_slice(&kind.to_ne_bytes());
            self.out.extend_from_slice(value);
        }
        let len = (self.out.len() - start) as u32;
        self.out[start..start + 4].copy_from_slice(&len.to_ne_bytes());
        self.pad();
    }

    fn pad(&mut self) {
        self.out.resize(self.out.len().next_multiple_of(4), 0);
    }

    fn error(&mut self, e: i32, request: &[u8]) {
        let mut body = (-e).to_ne_bytes().to_vec();
        body.extend_from_slice(request.get(..HEADER).unwrap_or_default());
        self.message(NLMSG_ERROR, 0, &body, &[]);
    }

    fn done(&mut self) {
        self.message(NLMSG_DONE, NLM_F_MULTI, &0i32.to_ne_bytes(), &[]);
    }

    /// `struct ifinfomsg` and attributes (rtnetlink(7)).
    fn link(&mut self, flags: u16) {
        let mut body = vec![0, 0];
        body.extend_from_slice(&ARPHRD_LOOPBACK.to_ne_bytes());
        body.extend_from_slice(&LO_INDEX.to_ne_bytes());
        body.extend_from_slice(&LO_FLAGS.to_ne_bytes());
        body.extend_from_slice(&0u32.to_ne_bytes());
        let attributes: &[(u16, &[u8])] = &[
            (libc::IFLA_IFNAME, LO_NAME),
            (libc::IFLA_TXQLEN, &LO_TXQLEN.to_ne_bytes()),
            (libc::IFLA_OPERSTATE, &[0]),
            (libc::IFLA_LINKMODE, &[0]),
            (libc::IFLA_MTU, &LO_MTU.to_ne_bytes()),
            (libc::IFLA_QDISC, b"noqueue\0"),
            (libc::IFLA_ADDRESS, &[0; 6]),
            (libc::IFLA_BROADCAST, &[0; 6]),
        ];
        self.message(RTM_NEWLINK, flags, &body, attributes);
    }

    /// `struct ifaddrmsg` and attributes.
    fn address(&mut self, family: i32, prefix: u8, address: &[u8]) {
        const PERMANENT: u8 = 0x80;
        const SCOPE_HOST: u8 = 254;
        let mut body = vec![family as u8, prefix, PERMANENT, SCOPE_HOST];
        body.extend_from_slice(&LO_INDEX.to_ne_bytes());
        let mut attributes: Vec<(u16, &[u8])> = vec![(libc::IFA_ADDRESS, address)];
        if family == libc::AF_INET {
            attributes.extend([(libc::IFA_LOCAL, address), (libc::IFA_LABEL, LO_NAME)]);
        }
        self.message(RTM_NEWADDR, NLM_F_MULTI, &body, &attributes);
    }
}

impl Netlink {
    /// Answers one request.
    fn answer(&self, task: &Task, r: Request, whole: &[u8]) -> Vec<u8> {
        let mut a = Answer { out: Vec::new(), seq: r.seq, port: self.port.load(Ordering::Relaxed) };
        let body = whole.get(HEADER..).unwrap_or_default();
        let dump = r.flags & NLM_F_DUMP == NLM_F_DUMP;
        let family = i32::from(body.first().copied().unwrap_or(0));
        // Kinds come in fours: new, delete, get, set.
        let is_get = r.kind % 4 == 2;
        match r.kind {
            RTM_GETLINK if dump => {
                a.link(NLM_F_MULTI);
                a.done();
            }
            RTM_GETLINK if asks_for_loopback(body) => a.link(0),
            RTM_GETLINK => a.error(libc::ENODEV, whole),
            RTM_GETADDR if dump => {
                if family != libc::AF_INET6 {
                    a.address(libc::AF_INET, 8, &[127, 0, 0, 1]);
                }
                if family != libc::AF_INET {
                    a.address(libc::AF_INET6, 128, &std::net::Ipv6Addr::LOCALHOST.octets());
                }
                a.done();
            }
            RTM_NEWLINK..RTM_END if is_get && dump => a.done(),
            RTM_NEWLINK..RTM_END if !is_get && !task.cred().capable(CapSet::NET_ADMIN) => a.error(libc::EPERM, whole),
            _ => a.error(libc::EOPNOTSUPP, whole),
        }
        let failed = bytes(&a.out, 4) == Some(NLMSG_ERROR.to_ne_bytes());
        if r.flags & NLM_F_ACK != 0 && !dump && !failed {
            a.error(0, whole);
        }
        a.out
    }
}

/// Whether RTM_GETLINK without a dump means the loopback device: by index, or by name (IFLA_IFNAME).
fn asks_for_loopback(body: &[u8]) -> bool {
    let index = bytes(body, 4).map_or(0, i32::from_ne_bytes);
    if index != 0 {
        return index == LO_INDEX;
    }
    let mut at = HEADER;
    while let (Some(len), Some(kind)) = (bytes(body, at).map(u16::from_ne_bytes), bytes(body, at + 2).map(u16::from_ne_bytes)) {
        let end = at + usize::from(len);
        let Some(value) = body.get(at + 4..end) else { return false };
        if kind == libc::IFLA_IFNAME {
            return value == LO_NAME || value == b"lo";
        }
        at = end.next_multiple_of(4).max(at + 4);
    }
    false
}

/// A whole `sockaddr_nl`.
fn address(port: u32, groups: u32) -> Vec<u8> {
    let mut a = (libc::AF_NETLINK as u16).to_ne_bytes().to_vec();
    a.extend_from_slice(&[0, 0]);
    a.extend_from_slice(&port.to_ne_bytes());
    a.extend_from_slice(&groups.to_ne_bytes());
    a
}

impl Netlink {
    /// Gives the socket a number if it has none: its process's, as Linux does for the first.
    fn autobind(&self) {
        let _ = self.port.compare_exchange(0, self.process, Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl SocketOps for Netlink {
    fn domain(&self) -> i32 {
        libc::AF_NETLINK
    }
    fn kind(&self) -> SocketKind {
        self.kind
    }
    fn protocol(&self) -> i32 {
        libc::NETLINK_ROUTE
    }
    fn options(&self) -> &SocketOptions {
        &self.options
    }

    fn bind(&self, _task: &Task, addr: &[u8]) -> Result {
        let (Some(family), Some(port), Some(groups)) = (bytes(addr, 0), bytes(addr, 4), bytes(addr, 8)) else {
            bail!(EINVAL, "address too short")
        };
        if i32::from(u16::from_ne_bytes(family)) != libc::AF_NETLINK {
            bail!(EINVAL, "not a netlink address");
        }
        match u32::from_ne_bytes(port) {
            0 => self.autobind(),
            p => self.port.store(p, Ordering::Relaxed),
        }
        // Nothing ever changes, so that the groups have nothing to tell.
        self.groups.store(u32::from_ne_bytes(groups), Ordering::Relaxed);
        Ok(())
    }

    fn connect(&self, _task: &Task, addr: &[u8]) -> Result {
        match bytes(addr, 0).map(u16::from_ne_bytes).map(i32::from) {
            Some(libc::AF_NETLINK) if bytes(addr, 4) == Some([0; 4]) => {
                self.autobind();
                Ok(())
            }
            Some(libc::AF_NETLINK) => bail!(ECONNREFUSED, "only the kernel is there"),
            Some(libc::AF_UNSPEC) => Ok(()),
            _ => bail!(EINVAL, "not a netlink address"),
        }
    }

    fn local_address(&self) -> Result<Vec<u8>> {
        Ok(address(self.port.load(Ordering::Relaxed), self.groups.load(Ordering::Relaxed)))
    }

    fn peer_address(&self) -> Result<Vec<u8>> {
        Ok(address(0, 0))
    }

    fn send(&self, task: Option<&Task>, buf: &mut IoBuffer<'_>, message: Message, _flags: i32) -> Result<usize> {
        if !message.name.is_empty() && bytes(&message.name, 4) != Some([0; 4]) {
            bail!(ECONNREFUSED, "only the kernel is there");
        }
        let Some(task) = task else { bail!(ENOTCONN) };
        let len = buf.remaining();
        if len > self.options.sndbuf().saturating_sub(32) {
            bail!(EMSGSIZE);
        }
        self.autobind();
        let data = buf.read_all(len)?;
        let mut rest = data.as_slice();
        while let Some(r) = Request::parse(rest) {
            if r.flags & NLM_F_REQUEST != 0 && r.kind >= RTM_NEWLINK {
                let answer = self.answer(task, r, rest.get(..r.len).unwrap_or_default());
                let mut queue = self.received.lock();
                if queue.len() >= QUEUE_MAX {
                    self.options.set_error(Errno::ENOBUFS);
                } else if !answer.is_empty() {
                    queue.push_back(answer);
                }
            }
            rest = rest.get(r.len.next_multiple_of(4)..).unwrap_or_default();
        }
        self.queue.notify(PollEvents::READABLE);
        Ok(len)
    }

    fn recv(&self, buf: &mut IoBuffer<'_>, flags: i32, message: &mut Message) -> Result<usize> {
        if flags & libc::MSG_OOB != 0 {
            bail!(EOPNOTSUPP);
        }
        self.options.take_error()?;
        let mut queue = self.received.lock();
        let Some(first) = queue.front() else { bail!(EAGAIN, "no answer waits") };
        let len = first.len();
        let copied = if buf.remaining() == 0 { 0 } else { buf.write(first)? };
        if flags & libc::MSG_PEEK == 0 {
            queue.pop_front();
        }
        drop(queue);
        message.name = address(0, 0);
        if self.options.is_set(libc::SO_PASSCRED) {
            message.control.push(Control::Credentials(Ucred { pid: 0, uid: 0, gid: 0 }));
        }
        if copied < len {
            message.flags |= libc::MSG_TRUNC;
        }
        Ok(if flags & libc::MSG_TRUNC != 0 { len } else { copied })
    }

    fn deliver(&self, message: &[u8]) -> Result {
        let mut queue = self.received.lock();
        if queue.len() >= QUEUE_MAX {
            bail!(EAGAIN, "nobody reads");
        }
        queue.push_back(message.to_vec());
        drop(queue);
        self.queue.notify(PollEvents::READABLE);
        Ok(())
    }

    fn poll(&self) -> PollEvents {
        let mut e = PollEvents::WRITABLE;
        e.set(PollEvents::READABLE, !self.received.lock().is_empty());
        e.set(PollEvents::ERR, self.options.has_error());
        e
    }

    fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    fn ioctl(&self, task: &Task, cmd: u32, arg: IoctlArg) -> Result<u64> {
        device::ioctl(task, cmd, arg).unwrap_or_else(|| bail!(ENOTTY))
    }

    fn set_option(&self, _task: &Task, level: i32, _name: i32, _value: &[u8]) -> Option<Result> {
        // Extended acknowledgements, strict checking, groups: nothing here that they would change.
        (level == libc::SOL_NETLINK).then_some(Ok(()))
    }

    fn release(&self) {
        self.received.lock().clear();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_parse() {
        let mut m = vec![0; 20];
        m[0] = 20;
        m[4..6].copy_from_slice(&RTM_GETADDR.to_ne_bytes());
        m[8] = 9;
        assert_eq!(Request::parse(&m), Some(Request { len: 20, kind: RTM_GETADDR, flags: 0, seq: 9 }));
        m[0] = 21;
        assert_eq!(Request::parse(&m), None);
        assert_eq!(Request::parse(&m[..10]), None);
    }

    #[test]
    fn answers_are_aligned_and_named() {
        let mut a = Answer { out: Vec::new(), seq: 1, port: 2 };
        a.link(NLM_F_MULTI);
        a.address(libc::AF_INET, 8, &[127, 0, 0, 1]);
        a.done();
        let mut rest = a.out.as_slice();
        let mut kinds = Vec::new();
        while let Some(r) = Request::parse(rest) {
            kinds.push(r.kind);
            rest = &rest[r.len.next_multiple_of(4)..];
        }
        assert_eq!(kinds, [RTM_NEWLINK, RTM_NEWADDR, NLMSG_DONE]);
        assert!(rest.is_empty());
        assert!(a.out.windows(3).any(|w| w == LO_NAME));
    }

    #[test]
    fn loopback_by_index_and_name() {
        let mut body = vec![0; 16];
        body[4] = 1;
        assert!(asks_for_loopback(&body));
        body[4] = 2;
        assert!(!asks_for_loopback(&body));
        body[4] = 0;
        body.extend([7, 0, 3, 0]);
        body.extend(LO_NAME);
        assert!(asks_for_loopback(&body));
    }
}
