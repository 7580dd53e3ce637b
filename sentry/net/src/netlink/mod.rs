//! AF_NETLINK: NETLINK_ROUTE ([`route`]: links, addresses, routes, neighbours, and their changes), NETLINK_SOCK_DIAG ([`diag`], for
//! ss), and a NETLINK_KOBJECT_UEVENT that never tells anything.

mod diag;
mod route;

use crate::{device, stack::Stack};
use abi::{Errno, Result, bail, libc, poll::PollEvents};
use kernel::{
    io::IoBuffer,
    net::{Control, Family, Message, SocketFilter, SocketKind, SocketOps, SocketOptions, Ucred, View},
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
        if ![libc::NETLINK_ROUTE, libc::NETLINK_SOCK_DIAG, libc::NETLINK_KOBJECT_UEVENT].contains(&protocol) {
            bail!(EPROTONOSUPPORT, "netlink protocol {protocol}");
        }
        let stack = Stack::of(task.kernel());
        let sock = Arc::new(Netlink {
            kind,
            protocol,
            stack: stack.clone(),
            queue: WaitQueue::new(),
            options: SocketOptions::default(),
            port: AtomicU32::new(0),
            groups: AtomicU32::new(0),
            received: Mutex::new(Rank::Socket, VecDeque::new()),
            process: task.tgid() as u32,
        });
        if protocol == libc::NETLINK_ROUTE {
            route::watch(&stack, &sock);
        }
        Ok(sock)
    }
}

/// A socket to the kernel.
struct Netlink {
    kind: SocketKind,
    protocol: i32,
    stack: Arc<Stack>,
    queue: WaitQueue,
    options: SocketOptions,
    /// `nl_pid`; 0: not bound.
    port: AtomicU32,
    groups: AtomicU32,
    /// Datagrams and the group that each is for.
    received: Mutex<VecDeque<(Vec<u8>, u32)>>,
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
/// The first kind that is a request; those below steer netlink itself.
const FIRST_KIND: u16 = 16;
/// Answers are cut into datagrams of about this size, as readers expect (`NLMSG_GOODSIZE`).
const DATAGRAM: usize = 3500;
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
    fn is_dump(&self) -> bool {
        self.flags & NLM_F_DUMP == NLM_F_DUMP
    }

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
        // Each attribute is aligned, and the message's length counts what is behind the last one, too.
        for (kind, value) in attributes {
            self.pad();
            self.out.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
            self.out.extend_from_slice(&kind.to_ne_bytes());
            self.out.extend_from_slice(value);
            self.pad();
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
}

impl Answer {
    /// The messages in datagrams.
    fn datagrams(self) -> Vec<Vec<u8>> {
        let mut all: Vec<Vec<u8>> = Vec::new();
        let mut rest = self.out.as_slice();
        while let Some(r) = Request::parse(rest) {
            let (message, after) = rest.split_at(r.len.next_multiple_of(4).min(rest.len()));
            match all.last_mut() {
                Some(last) if last.len() + message.len() <= DATAGRAM => last.extend_from_slice(message),
                _ => all.push(message.to_vec()),
            }
            rest = after;
        }
        all
    }
}

/// The attributes of a message, from where they begin.
fn attributes(mut b: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(bytes(b, 0)?));
        let kind = u16::from_ne_bytes(bytes(b, 2)?);
        let value = b.get(4..len)?;
        b = b.get(len.next_multiple_of(4)..).unwrap_or_default();
        // Without NLA_F_NESTED and NLA_F_NET_BYTEORDER.
        Some((kind & 0x3fff, value))
    })
}

impl Netlink {
    /// Answers one request.
    fn answer(&self, task: &Task, r: Request, whole: &[u8]) -> Vec<Vec<u8>> {
        let mut a = Answer { out: Vec::new(), seq: r.seq, port: self.port.load(Ordering::Relaxed) };
        let body = whole.get(HEADER..).unwrap_or_default();
        let done = match self.protocol {
            libc::NETLINK_ROUTE => route::answer(&self.stack, task, r, body, &mut a),
            libc::NETLINK_SOCK_DIAG => diag::answer(&self.stack, r, body, &mut a),
            _ => Err(Errno::EOPNOTSUPP),
        };
        let dump = r.is_dump();
        match done {
            Err(e) => a.error(e.raw(), whole),
            Ok(()) if dump => a.done(),
            Ok(()) if r.flags & NLM_F_ACK != 0 => a.error(0, whole),
            Ok(()) => {}
        }
        a.datagrams()
    }

    fn push(&self, datagram: Vec<u8>) {
        let mut queue = self.received.lock();
        if queue.len() >= QUEUE_MAX {
            self.options.set_error(Errno::ENOBUFS);
        } else if !datagram.is_empty() {
            queue.push_back((datagram, 0));
        }
    }

    /// A change that a group is told of.
    fn notice(&self, group: u32, datagram: &[u8]) {
        if self.groups.load(Ordering::Relaxed) & group != 0 {
            let mut queue = self.received.lock();
            if queue.len() < QUEUE_MAX {
                queue.push_back((datagram.to_vec(), group));
            } else {
                self.options.set_error(Errno::ENOBUFS);
            }
            drop(queue);
            self.queue.notify(PollEvents::READABLE);
        }
    }
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
        self.protocol
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
            if r.flags & NLM_F_REQUEST != 0 && r.kind >= FIRST_KIND {
                for datagram in self.answer(task, r, rest.get(..r.len).unwrap_or_default()) {
                    self.push(datagram);
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
        let Some((first, group)) = queue.front() else { bail!(EAGAIN, "no answer waits") };
        let (len, group) = (first.len(), *group);
        let copied = if buf.remaining() == 0 { 0 } else { buf.write(first)? };
        if flags & libc::MSG_PEEK == 0 {
            queue.pop_front();
        }
        drop(queue);
        message.name = address(0, group);
        if self.options.is_set(libc::SO_PASSCRED) {
            message.control.push(Control::Credentials(Ucred { pid: 0, uid: 0, gid: 0 }));
        }
        if copied < len {
            message.flags |= libc::MSG_TRUNC;
        }
        Ok(if flags & libc::MSG_TRUNC != 0 { len } else { copied })
    }

    fn deliver(&self, message: &[u8]) -> Result {
        let view = View { data: message, ..View::default() };
        if self.options.filter.program().is_some_and(|p| SocketFilter::admit(&p, &view, 0).is_none()) {
            return Ok(());
        }
        let mut queue = self.received.lock();
        if queue.len() >= QUEUE_MAX {
            bail!(EAGAIN, "nobody reads");
        }
        queue.push_back((message.to_vec(), 0));
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

    fn set_option(&self, _task: &Task, level: i32, name: i32, value: &[u8]) -> Option<Result> {
        if level != libc::SOL_NETLINK {
            return None;
        }
        // Membership in a group by its number; the others (extended acknowledgements, strict checking) change nothing here.
        let bit = bytes(value, 0).map(u32::from_ne_bytes).and_then(|n| n.checked_sub(1)).and_then(|n| 1u32.checked_shl(n));
        match (name, bit) {
            (libc::NETLINK_ADD_MEMBERSHIP, Some(bit)) => {
                self.groups.fetch_or(bit, Ordering::Relaxed);
            }
            (libc::NETLINK_DROP_MEMBERSHIP, Some(bit)) => {
                self.groups.fetch_and(!bit, Ordering::Relaxed);
            }
            _ => {}
        }
        Some(Ok(()))
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
        m[4..6].copy_from_slice(&22u16.to_ne_bytes());
        m[8] = 9;
        assert_eq!(Request::parse(&m), Some(Request { len: 20, kind: 22, flags: 0, seq: 9 }));
        m[0] = 21;
        assert_eq!(Request::parse(&m), None);
        assert_eq!(Request::parse(&m[..10]), None);
    }

    #[test]
    fn answers_are_cut_between_messages() {
        let mut a = Answer { out: Vec::new(), seq: 1, port: 2 };
        for i in 0..100u16 {
            a.message(FIRST_KIND + i, NLM_F_MULTI, &[7; 99], &[(1, b"lo\0")]);
        }
        a.done();
        let all = a.datagrams();
        assert!(all.len() > 2 && all.iter().all(|d| d.len() <= DATAGRAM));
        let mut kinds = Vec::new();
        for d in &all {
            let mut rest = d.as_slice();
            while let Some(r) = Request::parse(rest) {
                kinds.push(r.kind);
                rest = &rest[r.len.next_multiple_of(4)..];
            }
            assert!(rest.is_empty());
        }
        assert_eq!((kinds.len(), kinds.last()), (101, Some(&NLMSG_DONE)));
    }

    #[test]
    fn attributes_end_where_they_are_malformed() {
        let good = [7, 0, 3, 0, b'l', b'o', 0, 0, 4, 0, 9, 0x80];
        let got: Vec<_> = attributes(&good).collect();
        assert_eq!(got, [(3, &b"lo\0"[..]), (9, &[][..])]);
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[9, 0, 1, 0, 5]).count(), 0);
    }
}
