//! Sockets of the host, for `--network=host`: made here, never blocking, with addresses, options and control messages as the bytes that
//! the application gives and gets.

use crate::{Span, check, check_len};
use abi::Errno;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// The longest address.
const ADDRESS_MAX: usize = size_of::<libc::sockaddr_storage>();
/// Room for the control messages of one received message: an error with the addresses of who told, and the times.
const CONTROL_MAX: usize = 1024;
/// The longest value of an option that is read.
const VALUE_MAX: usize = 1024;
/// Bytes of a `struct cmsghdr`.
const CMSG_HEADER: usize = 16;

/// What recvmsg(2) told.
#[derive(Debug, Default)]
pub struct Received {
    /// Its result: with `MSG_TRUNC` a datagram's whole length.
    pub len: usize,
    /// `msg_flags`
    pub flags: i32,
    /// The sender's address.
    pub name: Vec<u8>,
    /// Control messages: level, type, bytes.
    pub control: Vec<(i32, i32, Vec<u8>)>,
}

/// A descriptor that the kernel has just made.
fn owned(fd: libc::c_int) -> OwnedFd {
    // SAFETY: a new descriptor, which nobody else knows.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// socket(2), not blocking and close-on-exec.
pub fn socket(domain: i32, kind: i32, protocol: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: no pointers.
    check(unsafe { libc::socket(domain, kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, protocol) }).map(owned)
}

/// bind(2)
pub fn bind(fd: impl AsFd, address: &[u8]) -> Result<(), Errno> {
    // SAFETY: the address is valid for its length.
    check(unsafe { libc::bind(fd.as_fd().as_raw_fd(), address.as_ptr().cast(), address.len() as u32) }).map(drop)
}

/// connect(2)
pub fn connect(fd: impl AsFd, address: &[u8]) -> Result<(), Errno> {
    // SAFETY: the address is valid for its length.
    check(unsafe { libc::connect(fd.as_fd().as_raw_fd(), address.as_ptr().cast(), address.len() as u32) }).map(drop)
}

/// listen(2)
pub fn listen(fd: impl AsFd, backlog: i32) -> Result<(), Errno> {
    // SAFETY: no pointers.
    check(unsafe { libc::listen(fd.as_fd().as_raw_fd(), backlog) }).map(drop)
}

/// accept4(2), not blocking and close-on-exec.
pub fn accept(fd: impl AsFd) -> Result<OwnedFd, Errno> {
    let null = std::ptr::null_mut();
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no address is asked for.
    check(unsafe { libc::accept4(fd.as_fd().as_raw_fd(), null, null.cast(), flags) }).map(owned)
}

/// shutdown(2) with `SHUT_*`.
pub fn shutdown(fd: impl AsFd, how: i32) -> Result<(), Errno> {
    // SAFETY: no pointers.
    check(unsafe { libc::shutdown(fd.as_fd().as_raw_fd(), how) }).map(drop)
}

/// getsockname(2), or (`peer`) getpeername(2).
pub fn name(fd: impl AsFd, peer: bool) -> Result<Vec<u8>, Errno> {
    let mut address = vec![0u8; ADDRESS_MAX];
    let mut len = address.len() as u32;
    let (fd, at) = (fd.as_fd().as_raw_fd(), address.as_mut_ptr().cast());
    // SAFETY: the buffer is valid for `len`, which the kernel replaces.
    check(unsafe { if peer { libc::getpeername(fd, at, &mut len) } else { libc::getsockname(fd, at, &mut len) } })?;
    address.truncate(len as usize);
    Ok(address)
}

/// setsockopt(2)
pub fn set_option(fd: impl AsFd, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
    // SAFETY: the value is valid for its length. No option that this is called with holds pointers: see `net::host`'s table.
    check(unsafe { libc::setsockopt(fd.as_fd().as_raw_fd(), level, name, value.as_ptr().cast(), value.len() as u32) }).map(drop)
}

/// getsockopt(2)
pub fn option(fd: impl AsFd, level: i32, name: i32) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0u8; VALUE_MAX];
    let mut len = value.len() as u32;
    // SAFETY: the buffer is valid for `len`, which the kernel replaces.
    check(unsafe { libc::getsockopt(fd.as_fd().as_raw_fd(), level, name, value.as_mut_ptr().cast(), &mut len) })?;
    value.truncate(len as usize);
    Ok(value)
}

/// An ioctl(2) that gives an int: `FIONREAD`, `TIOCOUTQ`, `SIOCATMARK`.
pub fn ioctl_int(fd: impl AsFd, request: u64) -> Result<i32, Errno> {
    let mut n: libc::c_int = 0;
    // SAFETY: these requests write one int.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, &mut n) })?;
    Ok(n)
}

/// Pieces of memory that one call takes.
const IOV_MAX: usize = 1024;

fn header(iov: *const libc::iovec, count: usize) -> libc::msghdr {
    // SAFETY: all zero bytes are a valid msghdr.
    let mut h: libc::msghdr = unsafe { std::mem::zeroed() };
    h.msg_iov = iov.cast_mut();
    h.msg_iovlen = count.min(IOV_MAX) as _;
    h
}

/// sendmsg(2): to `name` (empty: the peer), with control messages. Neither waits nor raises SIGPIPE.
pub fn send(fd: impl AsFd, data: &[u8], name: &[u8], control: &[(i32, i32, &[u8])], flags: i32) -> Result<usize, Errno> {
    let iov = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    send_header(fd, header(&iov, 1), name, control, flags)
}

/// As [`send`], from guest memory.
pub fn send_spans(fd: impl AsFd, data: &[Span], name: &[u8], control: &[(i32, i32, &[u8])], flags: i32) -> Result<usize, Errno> {
    // A span is laid out as an iovec.
    send_header(fd, header(data.as_ptr().cast(), data.len()), name, control, flags)
}

fn send_header(fd: impl AsFd, mut h: libc::msghdr, name: &[u8], control: &[(i32, i32, &[u8])], flags: i32) -> Result<usize, Errno> {
    if !name.is_empty() {
        h.msg_name = name.as_ptr().cast_mut().cast();
        h.msg_namelen = name.len() as u32;
    }
    let mut bytes = Vec::new();
    for (level, kind, data) in control {
        bytes.extend_from_slice(&((CMSG_HEADER + data.len()) as u64).to_ne_bytes());
        bytes.extend_from_slice(&level.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    if !bytes.is_empty() {
        h.msg_control = bytes.as_mut_ptr().cast();
        h.msg_controllen = bytes.len() as _;
    }
    // SAFETY: all that the header points to is alive until the call returns, and only read.
    check_len(unsafe { libc::sendmsg(fd.as_fd().as_raw_fd(), &h, flags | libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) })
}

/// recvmsg(2); does not wait.
pub fn receive(fd: impl AsFd, data: &mut [u8], flags: i32) -> Result<Received, Errno> {
    let iov = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
    receive_header(fd, header(&iov, 1), flags, CONTROL_MAX)
}

/// As [`receive`], of a unix socket: control messages, and descriptors with them, are thrown away by the host.
pub fn receive_data(fd: impl AsFd, data: &mut [u8], flags: i32) -> Result<Received, Errno> {
    let iov = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
    receive_header(fd, header(&iov, 1), flags, 0)
}

/// As [`receive_data`], into guest memory.
pub fn receive_data_spans(fd: impl AsFd, data: &[Span], flags: i32) -> Result<Received, Errno> {
    receive_header(fd, header(data.as_ptr().cast(), data.len()), flags, 0)
}

/// As [`receive`], into guest memory: what is not writable is the host's `EFAULT`, and nothing is lost.
pub fn receive_spans(fd: impl AsFd, data: &[Span], flags: i32) -> Result<Received, Errno> {
    // A span is laid out as an iovec.
    receive_header(fd, header(data.as_ptr().cast(), data.len()), flags, CONTROL_MAX)
}

/// With room for `room` bytes of control messages, [`CONTROL_MAX`] at most.
fn receive_header(fd: impl AsFd, mut h: libc::msghdr, flags: i32, room: usize) -> Result<Received, Errno> {
    let mut name = [0u8; ADDRESS_MAX];
    h.msg_name = name.as_mut_ptr().cast();
    h.msg_namelen = name.len() as u32;
    let mut control = [0u64; CONTROL_MAX / 8];
    h.msg_control = control.as_mut_ptr().cast();
    h.msg_controllen = room.min(CONTROL_MAX) as _;
    // SAFETY: all that the header points to is alive until the call returns.
    let len = check_len(unsafe { libc::recvmsg(fd.as_fd().as_raw_fd(), &mut h, flags | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC) })?;
    let bytes: Vec<u8> = control.iter().flat_map(|w| w.to_ne_bytes()).collect();
    let bytes = bytes.get(..h.msg_controllen).unwrap_or_default();
    let name = name.get(..h.msg_namelen as usize).unwrap_or_default().to_vec();
    Ok(Received { len, flags: h.msg_flags, name, control: messages(bytes) })
}

/// Takes control messages apart.
fn messages(bytes: &[u8]) -> Vec<(i32, i32, Vec<u8>)> {
    let word = |at: usize| bytes.get(at..)?.first_chunk::<4>().map(|b| i32::from_ne_bytes(*b));
    let mut all = Vec::new();
    let mut at = 0usize;
    while let (Some(len), Some(level), Some(kind)) = (bytes.get(at..).and_then(<[u8]>::first_chunk::<8>), word(at + 8), word(at + 12)) {
        let len = u64::from_ne_bytes(*len) as usize;
        let Some(data) = at.checked_add(len).and_then(|end| bytes.get(at + CMSG_HEADER..end)) else {
            break;
        };
        all.push((level, kind, data.to_vec()));
        at += len.next_multiple_of(8);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn talks_to_itself() {
        let (a, b) =
            (socket(libc::AF_INET, libc::SOCK_DGRAM, 0).expect("socket"), socket(libc::AF_INET, libc::SOCK_DGRAM, 0).expect("socket"));
        let loopback = |port: [u8; 2]| [&(libc::AF_INET as u16).to_ne_bytes()[..], &port, &[127, 0, 0, 1], &[0; 8]].concat();
        bind(&a, &loopback([0, 0])).expect("bind");
        set_option(&a, libc::IPPROTO_IP, libc::IP_RECVTTL, &1i32.to_ne_bytes()).expect("option");
        let to = name(&a, false).expect("name");
        assert_eq!(receive(&a, &mut [0; 9], 0).map(|r| r.len), Err(Errno::EAGAIN));
        let ttl = 9i32.to_ne_bytes();
        assert_eq!(send(&b, b"hello", &to, &[(libc::IPPROTO_IP, libc::IP_TTL, &ttl)], 0), Ok(5));
        let mut data = [0; 3];
        let got = receive(&a, &mut data, libc::MSG_TRUNC).expect("receive");
        assert_eq!((got.len, &data, got.flags & libc::MSG_TRUNC), (5, b"hel", libc::MSG_TRUNC));
        assert_eq!(got.control, [(libc::IPPROTO_IP, libc::IP_TTL, ttl.to_vec())]);
        connect(&b, &to).expect("connect");
        assert_eq!(name(&b, true), Ok(to));
        assert_eq!(option(&b, libc::SOL_SOCKET, libc::SO_TYPE), Ok(libc::SOCK_DGRAM.to_ne_bytes().to_vec()));
        assert_eq!(ioctl_int(&a, libc::FIONREAD), Ok(0));
    }
}
