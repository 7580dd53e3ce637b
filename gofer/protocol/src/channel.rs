//! One connection: a `SOCK_SEQPACKET` unix socket that carries messages, each with at most one descriptor.

use abi::Errno;
use rustix::io::Errno as HostErrno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// An end of a connection.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// What came with one packet.
#[derive(Debug)]
pub struct Received {
    /// Bytes written to the buffer. Zero: the other end is closed.
    pub len: usize,
    /// The descriptor sent along, close-on-exec.
    pub fd: Option<OwnedFd>,
    /// A descriptor was sent along, but this process may not have one more (`RLIMIT_NOFILE`).
    pub lost_fd: bool,
}

impl Channel {
    /// Both ends of a new connection, close-on-exec.
    ///
    /// # Errors
    /// As socketpair(2).
    pub fn pair() -> Result<(Channel, Channel), Errno> {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).map_err(errno)?;
        Ok((Channel(a), Channel(b)))
    }

    /// Sends one packet.
    ///
    /// # Errors
    /// As sendmsg(2): `EPIPE` if the other end is closed.
    pub fn send(&self, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let fds = fd.map(|fd| [fd]);
            if let Some(fds) = &fds
                && !control.push(SendAncillaryMessage::ScmRights(fds))
            {
                return Err(Errno::ENOBUFS);
            }
            match sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
                Ok(n) if n == bytes.len() => return Ok(()),
                Ok(_) => return Err(Errno::EMSGSIZE),
                Err(HostErrno::INTR) => {}
                Err(e) => return Err(errno(e)),
            }
        }
    }

    /// Waits for one packet.
    ///
    /// # Errors
    /// `EMSGSIZE` if it is larger than `buffer`; otherwise as recvmsg(2).
    pub fn recv(&self, buffer: &mut [u8]) -> Result<Received, Errno> {
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let message = match recvmsg(&self.0, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(message) => message,
                Err(HostErrno::INTR) => continue,
                Err(HostErrno::CONNRESET) => return Ok(Received { len: 0, fd: None, lost_fd: false }),
                Err(e) => return Err(errno(e)),
            };
            let mut fd = None;
            for part in control.drain() {
                if let RecvAncillaryMessage::ScmRights(fds) = part {
                    // The space holds one; were there more, the host has closed them already.
                    fd = fds.last();
                }
            }
            if message.flags.contains(ReturnFlags::TRUNC) {
                return Err(Errno::EMSGSIZE);
            }
            let lost_fd = fd.is_none() && message.flags.contains(ReturnFlags::CTRUNC);
            return Ok(Received { len: message.bytes, fd, lost_fd });
        }
    }
}

/// The host's errno as ours.
fn errno(e: HostErrno) -> Errno {
    Errno::from_raw(e.raw_os_error())
}

impl From<OwnedFd> for Channel {
    fn from(fd: OwnedFd) -> Channel {
        Channel(fd)
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> OwnedFd {
        channel.0
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
