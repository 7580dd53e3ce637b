//! Sockets of the host: a unix socket in a volume at which a process of the host listens, where the configuration lets them be reached.
//!
//! The gofer connects, as the user who asks, and donates the socket; from then on this socket's data goes there and comes from there.
//! Bytes alone do: no descriptor leaves the sandbox, and none that the host sends comes in.

use super::{Sender, Sock, sock::Phase};
use abi::{Errno, Result, bail, libc, poll::PollEvents};
use host::socket;
use kernel::{
    io::IoBuffer,
    ipc::hostfd::{self, Watch},
    net::{Control, Message, Shutdown, SocketKind, SocketOps, Ucred},
    task::Task,
    vfs::Inode,
};
use std::os::fd::OwnedFd;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};
use std::time::Duration;
use sync::{Mutex, Rank};

/// Bytes of a stream that one call moves at most.
const STEP: usize = 256 << 10;
/// How long a connection waits that finds too many waiting already: the host tells nobody when there are fewer.
const AGAIN: Duration = Duration::from_millis(10);

/// Whom the host's processes are shown as: their numbers mean nothing in here.
const STRANGER: Sender = Sender { ucred: Ucred::NOBODY, pids: 0 };

/// A connection with a socket of the host.
pub struct Link {
    _watch: Option<Watch>,
    fd: OwnedFd,
    /// Where it leads: a datagram to the same inode takes the same way.
    inode: Arc<Inode>,
    /// The whole `sockaddr_un` that it was reached by.
    name: Vec<u8>,
}

/// What a socket has to do with sockets of the host: nothing, most of the time.
pub struct HostSide {
    /// Whether it ever had.
    used: AtomicBool,
    /// Whom it is connected with.
    peer: Mutex<Option<Arc<Link>>>,
    /// Where the last datagram with a name of its own went.
    last: Mutex<Option<Arc<Link>>>,
    /// Somebody will say soon that connecting may be tried again.
    again: AtomicBool,
}

impl Default for HostSide {
    fn default() -> Self {
        let none = || Mutex::new(Rank::Leaf, None);
        HostSide { used: AtomicBool::new(false), peer: none(), last: none(), again: AtomicBool::new(false) }
    }
}

impl HostSide {
    /// The connection, if there is one.
    pub fn peer(&self) -> Option<Arc<Link>> {
        if self.used.load(SeqCst) { self.peer.lock().clone() } else { None }
    }

    /// Connects it, or (`None`) ends its connection.
    pub fn set_peer(&self, link: Option<Arc<Link>>) {
        if link.is_some() {
            self.used.store(true, SeqCst);
        }
        // Dropped without the lock.
        let old = std::mem::replace(&mut *self.peer.lock(), link);
        drop(old);
    }

    /// The socket is closed.
    pub fn close(&self) {
        self.set_peer(None);
        let last = self.last.lock().take();
        drop(last);
    }
}

impl Sock {
    /// The way to the host's socket behind an inode.
    fn reach(&self, task: &Task, inode: &Arc<Inode>, name: Vec<u8>) -> Result<Arc<Link>> {
        let connected = inode.ops.connect_host(inode, self.kind().raw(), &task.cred());
        let fd = connected.inspect_err(|error| {
            if error.is(Errno::EAGAIN) {
                self.try_again_later();
            }
        })?;
        let watch = Watch::notifying(&fd, self.queue().clone())?;
        Ok(Arc::new(Link { _watch: watch, fd, inode: inode.clone(), name }))
    }

    fn try_again_later(&self) {
        if self.host.again.swap(true, SeqCst) {
            return;
        }
        let sock = Arc::downgrade(&self.me());
        let tell = move || {
            host::time::sleep(AGAIN);
            if let Some(sock) = sock.upgrade() {
                sock.host.again.store(false, SeqCst);
                sock.notify(PollEvents::WRITABLE);
            }
        };
        if host::thread::spawn("host-connect", tell).is_err() {
            self.host.again.store(false, SeqCst);
        }
    }

    /// connect(2) of a stream or seqpacket socket.
    pub(super) fn connect_stream_to_host(&self, task: &Task, inode: &Arc<Inode>, addr: &[u8]) -> Result {
        if self.host.peer().is_some() {
            // Nobody outside hears of an attempt that cannot succeed.
            bail!(EISCONN);
        }
        // As Linux does, the other side is looked for first.
        let link = self.reach(task, inode, addr.to_vec())?;
        let mut s = self.lock();
        match s.phase {
            Phase::Open => {}
            Phase::Connected => bail!(EISCONN),
            _ => bail!(EINVAL, "listening"),
        }
        s.phase = Phase::Connected;
        s.peer_cred = Some(STRANGER);
        // Under the lock: who sees the phase sees the connection.
        self.host.set_peer(Some(link));
        drop(s);
        self.notify(PollEvents::WRITABLE);
        Ok(())
    }

    /// connect(2) of a datagram socket.
    pub(super) fn connect_dgram_to_host(&self, task: &Task, inode: &Arc<Inode>, addr: &[u8]) -> Result {
        let link = self.reach(task, inode, addr.to_vec())?;
        let old = {
            let mut s = self.lock();
            s.peer_cred = Some(STRANGER);
            s.peer.take()
        };
        self.host.set_peer(Some(link));
        self.leave(old);
        self.notify(PollEvents::WRITABLE);
        Ok(())
    }

    /// A datagram with a name that is a host's socket's.
    pub(super) fn send_dgram_to_host(&self, task: &Task, inode: &Arc<Inode>, buf: &mut IoBuffer<'_>, message: Message) -> Result<usize> {
        let known = self.host.last.lock().clone().filter(|link| Arc::ptr_eq(&link.inode, inode));
        let link = match known {
            Some(link) => link,
            None => {
                let link = self.reach(task, inode, message.name.clone())?;
                let old = self.host.last.lock().replace(link.clone());
                drop(old);
                link
            }
        };
        let sent = self.send_to_host(&link, buf, message);
        if sent.as_ref().is_err_and(|error| !error.is(Errno::EAGAIN)) {
            // Whoever listens there next is another.
            let old = self.host.last.lock().take();
            drop(old);
        }
        sent
    }

    /// Sends what was written.
    pub(super) fn send_to_host(&self, link: &Link, buf: &mut IoBuffer<'_>, message: Message) -> Result<usize> {
        if message.control.iter().any(|c| matches!(c, Control::Rights(_))) {
            bail!(EPERM, "descriptors do not leave the sandbox");
        }
        let stream = self.kind() == SocketKind::Stream;
        if !stream && buf.remaining() > self.options().sndbuf().saturating_sub(32) {
            bail!(EMSGSIZE);
        }
        let most = if stream { STEP } else { usize::MAX };
        if buf.is_user() && buf.remaining() > 0 {
            return buf.transfer(most, false, |spans| Ok(socket::send_spans(&link.fd, spans, &[], &[], 0)?));
        }
        let start = buf.done();
        let data = buf.read_all(most)?;
        let sent = socket::send(&link.fd, &data, &[], &[], 0);
        buf.rewind_to(start + sent.unwrap_or(0));
        Ok(sent?)
    }

    /// Receives what has come.
    pub(super) fn recv_from_host(&self, link: &Link, buf: &mut IoBuffer<'_>, flags: i32, message: &mut Message) -> Result<usize> {
        if flags & libc::MSG_OOB != 0 {
            bail!(EOPNOTSUPP, "no urgent data");
        }
        let stream = self.kind() == SocketKind::Stream;
        let flags = flags & if stream { libc::MSG_PEEK } else { libc::MSG_PEEK | libc::MSG_TRUNC };
        let mut got = socket::Received::default();
        if buf.is_user() && buf.remaining() > 0 {
            buf.transfer(if stream { STEP } else { usize::MAX }, true, |spans| {
                got = socket::receive_data_spans(&link.fd, spans, flags)?;
                Ok(got.len)
            })?;
        } else {
            let mut data = vec![0; buf.remaining().min(STEP)];
            got = socket::receive_data(&link.fd, &mut data, flags)?;
            let here = data.get(..got.len.min(data.len())).unwrap_or_default();
            if !here.is_empty() {
                buf.write(here)?;
            }
        }
        message.flags = got.flags & !libc::MSG_CMSG_CLOEXEC;
        if self.options().is_set(libc::SO_PASSCRED) {
            message.control.push(Control::Credentials(STRANGER.seen()));
        }
        Ok(got.len)
    }
}

impl Link {
    /// What it is ready for.
    pub fn poll(&self) -> PollEvents {
        hostfd::poll_now(&self.fd)
    }

    /// The peer's address.
    pub fn name(&self) -> Vec<u8> {
        self.name.clone()
    }

    /// Bytes that wait to be read.
    pub fn readable(&self) -> Result<i32> {
        Ok(socket::ioctl_int(&self.fd, libc::FIONREAD)?)
    }

    /// shutdown(2)
    pub fn shutdown(&self, how: Shutdown) -> Result {
        let how = match (how.read, how.write) {
            (true, true) => libc::SHUT_RDWR,
            (true, false) => libc::SHUT_RD,
            _ => libc::SHUT_WR,
        };
        Ok(socket::shutdown(&self.fd, how)?)
    }
}
