//! Host I/O straight into and out of guest memory, and into plain buffers.
//!
//! Each is one host call on [`Span`]s: the host's kernel does the copying, and a missing page is its `EFAULT`. Lists longer than
//! `IOV_MAX` are cut, which is a short read or write. Calls interrupted by a signal give `EINTR`.

use crate::{Span, check, check_len};
use abi::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// As many pieces as one call takes.
const IOV_MAX: usize = 1024;
/// As many descriptors as one message carries (`SCM_MAX_FD`).
const SCM_MAX_FD: usize = 253;

/// A list of spans as the host takes it: a span is laid out as an iovec.
fn iov(spans: &[Span]) -> (*const libc::iovec, libc::c_int) {
    (spans.as_ptr().cast(), spans.len().min(IOV_MAX) as libc::c_int)
}

fn off(offset: u64) -> Result<libc::off_t, Errno> {
    libc::off_t::try_from(offset).map_err(|_| Errno::EINVAL)
}

/// preadv(2) into guest memory.
pub fn preadv(fd: impl AsFd, spans: &[Span], offset: u64) -> Result<usize, Errno> {
    let (p, n) = iov(spans);
    // SAFETY: the spans are guest memory, which anybody may write to at any time.
    check_len(unsafe { libc::preadv(fd.as_fd().as_raw_fd(), p, n, off(offset)?) })
}

/// pwritev(2) from guest memory.
pub fn pwritev(fd: impl AsFd, spans: &[Span], offset: u64) -> Result<usize, Errno> {
    let (p, n) = iov(spans);
    // SAFETY: the spans are guest memory.
    check_len(unsafe { libc::pwritev(fd.as_fd().as_raw_fd(), p, n, off(offset)?) })
}

/// preadv2(2) with `RWF_*` flags; an offset of `None` is the file's own position.
pub fn preadv2(fd: impl AsFd, spans: &[Span], offset: Option<u64>, flags: i32) -> Result<usize, Errno> {
    let (p, n) = iov(spans);
    let at = offset.map_or(Ok(-1), off)?;
    // SAFETY: the spans are guest memory, which anybody may write to at any time.
    check_len(unsafe { libc::preadv2(fd.as_fd().as_raw_fd(), p, n, at, flags) })
}

/// pwritev2(2) with `RWF_*` flags; an offset of `None` is the file's own position.
pub fn pwritev2(fd: impl AsFd, spans: &[Span], offset: Option<u64>, flags: i32) -> Result<usize, Errno> {
    let (p, n) = iov(spans);
    let at = offset.map_or(Ok(-1), off)?;
    // SAFETY: the spans are guest memory.
    check_len(unsafe { libc::pwritev2(fd.as_fd().as_raw_fd(), p, n, at, flags) })
}

/// readv(2) into guest memory.
pub fn readv(fd: impl AsFd, spans: &[Span]) -> Result<usize, Errno> {
    let (p, n) = iov(spans);
    // SAFETY: the spans are guest memory, which anybody may write to at any time.
    check_len(unsafe { libc::readv(fd.as_fd().as_raw_fd(), p, n) })
}

/// writev(2) from guest memory.
pub fn writev(fd: impl AsFd, spans: &[Span]) -> Result<usize, Errno> {
    let (p, n) = iov(spans);
    // SAFETY: the spans are guest memory.
    check_len(unsafe { libc::writev(fd.as_fd().as_raw_fd(), p, n) })
}

/// read(2) into a buffer of ours.
pub fn read(fd: impl AsFd, buf: &mut [u8]) -> Result<usize, Errno> {
    rustix::io::read(fd, buf).map_err(crate::from_rustix)
}

/// write(2) from a buffer of ours.
pub fn write(fd: impl AsFd, buf: &[u8]) -> Result<usize, Errno> {
    rustix::io::write(fd, buf).map_err(crate::from_rustix)
}

/// pread(2) into a buffer of ours.
pub fn pread(fd: impl AsFd, buf: &mut [u8], offset: u64) -> Result<usize, Errno> {
    rustix::io::pread(fd, buf, offset).map_err(crate::from_rustix)
}

/// pwrite(2) from a buffer of ours.
pub fn pwrite(fd: impl AsFd, buf: &[u8], offset: u64) -> Result<usize, Errno> {
    rustix::io::pwrite(fd, buf, offset).map_err(crate::from_rustix)
}

/// What a message carries besides its bytes.
#[derive(Debug, Default)]
pub struct Received {
    /// Bytes of data.
    pub len: usize,
    /// `MSG_*` flags of the message: `MSG_TRUNC`, `MSG_CTRUNC`, …
    pub flags: i32,
    /// The sender's address, `sockaddr` and all.
    pub name: Vec<u8>,
    /// Descriptors that came along (close-on-exec).
    pub fds: Vec<OwnedFd>,
}

/// Bytes of a control message that carries `n` descriptors.
fn cmsg_space(n: usize) -> usize {
    // SAFETY: arithmetic only.
    unsafe { libc::CMSG_SPACE((n * size_of::<libc::c_int>()) as u32) as usize }
}

/// A buffer for control messages, aligned as `cmsghdr` wants it.
fn cmsg_buffer(len: usize) -> Vec<u64> {
    vec![0; len.div_ceil(8)]
}

fn header(iov: *const libc::iovec, n: usize) -> libc::msghdr {
    // SAFETY: all-zero is a valid msghdr.
    let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
    msg.msg_iov = iov.cast_mut();
    msg.msg_iovlen = n as _;
    msg
}

fn send(fd: BorrowedFd<'_>, mut msg: libc::msghdr, name: &[u8], fds: &[BorrowedFd<'_>], flags: i32) -> Result<usize, Errno> {
    if fds.len() > SCM_MAX_FD {
        return Err(Errno::EINVAL);
    }
    if !name.is_empty() {
        msg.msg_name = name.as_ptr().cast_mut().cast();
        msg.msg_namelen = name.len() as u32;
    }
    let mut control = cmsg_buffer(cmsg_space(fds.len()));
    if !fds.is_empty() {
        msg.msg_control = control.as_mut_ptr().cast();
        msg.msg_controllen = cmsg_space(fds.len()) as _;
        // SAFETY: the control buffer is large enough for one header.
        let c = unsafe { libc::CMSG_FIRSTHDR(&msg) };
        // SAFETY: not null, because the buffer holds a header; aligned to 8.
        let head = unsafe { &mut *c };
        head.cmsg_level = libc::SOL_SOCKET;
        head.cmsg_type = libc::SCM_RIGHTS;
        // SAFETY: arithmetic only.
        head.cmsg_len = unsafe { libc::CMSG_LEN(size_of_val(fds) as u32) } as _;
        let raw: Vec<libc::c_int> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        // SAFETY: CMSG_SPACE left room for all of them behind the header.
        unsafe { std::ptr::copy_nonoverlapping(raw.as_ptr().cast(), libc::CMSG_DATA(c), size_of_val(&raw[..])) };
    }
    // SAFETY: all that the header points to is alive until the call returns.
    check_len(unsafe { libc::sendmsg(fd.as_raw_fd(), &msg, flags | libc::MSG_NOSIGNAL) })
}

fn receive(fd: BorrowedFd<'_>, mut msg: libc::msghdr, max_fds: usize, flags: i32) -> Result<Received, Errno> {
    let mut name = [0u8; size_of::<libc::sockaddr_storage>()];
    msg.msg_name = name.as_mut_ptr().cast();
    msg.msg_namelen = name.len() as u32;
    let space = if max_fds == 0 { 0 } else { cmsg_space(max_fds.min(SCM_MAX_FD)) };
    let mut control = cmsg_buffer(space);
    msg.msg_control = control.as_mut_ptr().cast();
    msg.msg_controllen = space as _;
    // SAFETY: all that the header points to is alive until the call returns.
    let len = check_len(unsafe { libc::recvmsg(fd.as_raw_fd(), &mut msg, flags | libc::MSG_CMSG_CLOEXEC) })?;
    let mut fds = Vec::new();
    // SAFETY: the kernel filled the control buffer and set its length.
    let mut c = unsafe { libc::CMSG_FIRSTHDR(&msg) };
    while !c.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR stay within the control buffer.
        let head = unsafe { *c };
        if head.cmsg_level == libc::SOL_SOCKET && head.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: as above.
            let data = unsafe { libc::CMSG_DATA(c) };
            let bytes = (head.cmsg_len as usize).saturating_sub(data as usize - c as usize);
            for i in 0..bytes / size_of::<libc::c_int>() {
                // SAFETY: inside the message, as its length says.
                let raw = unsafe { data.cast::<libc::c_int>().add(i).read_unaligned() };
                // SAFETY: the kernel just made this descriptor for us.
                fds.push(unsafe { OwnedFd::from_raw_fd(raw) });
            }
        }
        // SAFETY: as for CMSG_FIRSTHDR.
        c = unsafe { libc::CMSG_NXTHDR(&msg, c) };
    }
    let name = name[..(msg.msg_namelen as usize).min(name.len())].to_vec();
    Ok(Received { len, flags: msg.msg_flags, name, fds })
}

/// sendmsg(2) from guest memory, to `name` (a whole `sockaddr`; empty: the connected peer), with descriptors. Never raises SIGPIPE.
pub fn sendmsg(fd: impl AsFd, spans: &[Span], name: &[u8], fds: &[BorrowedFd<'_>], flags: i32) -> Result<usize, Errno> {
    let (p, n) = iov(spans);
    send(fd.as_fd(), header(p, n as usize), name, fds, flags)
}

/// recvmsg(2) into guest memory, with up to `max_fds` descriptors.
pub fn recvmsg(fd: impl AsFd, spans: &[Span], max_fds: usize, flags: i32) -> Result<Received, Errno> {
    let (p, n) = iov(spans);
    receive(fd.as_fd(), header(p, n as usize), max_fds, flags)
}

/// sendmsg(2) from a buffer of ours, with descriptors. Never raises SIGPIPE.
pub fn send_bytes(fd: impl AsFd, buf: &[u8], fds: &[BorrowedFd<'_>], flags: i32) -> Result<usize, Errno> {
    let one = libc::iovec { iov_base: buf.as_ptr().cast_mut().cast(), iov_len: buf.len() };
    send(fd.as_fd(), header(&one, 1), &[], fds, flags)
}

/// recvmsg(2) into a buffer of ours, with up to `max_fds` descriptors.
pub fn recv_bytes(fd: impl AsFd, buf: &mut [u8], max_fds: usize, flags: i32) -> Result<Received, Errno> {
    let one = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    receive(fd.as_fd(), header(&one, 1), max_fds, flags)
}

/// poll(2) of one descriptor: the `POLL*` events that are there. `timeout_ms` below zero waits for ever.
pub fn poll(fd: impl AsFd, events: i16, timeout_ms: i32) -> Result<i16, Errno> {
    let mut p = libc::pollfd { fd: fd.as_fd().as_raw_fd(), events, revents: 0 };
    // SAFETY: one valid pollfd.
    check(unsafe { libc::poll(&mut p, 1, timeout_ms) })?;
    Ok(p.revents)
}

/// `FIONREAD`: bytes that can be read at once.
pub fn readable_bytes(fd: impl AsFd) -> Result<usize, Errno> {
    let mut n: libc::c_int = 0;
    // SAFETY: FIONREAD stores one int.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::FIONREAD, &mut n) })?;
    Ok(usize::try_from(n).unwrap_or(0))
}

/// Sets or clears `O_NONBLOCK` of the open file.
pub fn set_nonblocking(fd: impl AsFd, on: bool) -> Result<(), Errno> {
    let old = rustix::fs::fcntl_getfl(&fd).map_err(crate::from_rustix)?;
    let mut new = old;
    new.set(rustix::fs::OFlags::NONBLOCK, on);
    if new == old { Ok(()) } else { rustix::fs::fcntl_setfl(&fd, new).map_err(crate::from_rustix) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memfile::MemoryFile;
    use std::os::unix::net::UnixStream;

    #[test]
    fn spans_reach_files_and_sockets() {
        let m = MemoryFile::new(c"test", 1 << 20).expect("memfd");
        let f = MemoryFile::new(c"file", 1 << 20).expect("memfd");
        m.copy_out(0, b"hello world").expect("copy");
        let spans = [m.span(6, 5).expect("span"), m.span(0, 5).expect("span")];
        assert_eq!(pwritev(f.fd(), &spans, 100), Ok(10));
        let mut b = [0; 10];
        f.copy_in(100, &mut b).expect("copy");
        assert_eq!(&b, b"worldhello");
        assert_eq!(preadv(f.fd(), &[m.span(4096, 3).expect("span"), m.span(8192, 4).expect("span")], 101), Ok(7));
        m.copy_in(8192, &mut b[..4]).expect("copy");
        assert_eq!(&b[..4], b"dhel");

        let (a, z) = UnixStream::pair().expect("socketpair");
        assert_eq!(sendmsg(&a, &spans, &[], &[f.fd(), m.fd()], 0), Ok(10));
        let got = recvmsg(&z, &[m.span(12288, 20).expect("span")], 4, 0).expect("recvmsg");
        assert_eq!((got.len, got.fds.len()), (10, 2));
        let mut one = [0; 5];
        assert_eq!(pread(&got.fds[0], &mut one, 100), Ok(5));
        assert_eq!(&one, b"world");
        assert_eq!(send_bytes(&a, b"xyz", &[], 0), Ok(3));
        assert_eq!(readable_bytes(&z), Ok(3));
        assert_eq!(poll(&z, libc::POLLIN, 0), Ok(libc::POLLIN));
        assert_eq!(recv_bytes(&z, &mut one, 0, 0).expect("recv").len, 3);
    }

    #[test]
    fn a_missing_page_is_efault() {
        let m = MemoryFile::new(c"test", 1 << 20).expect("memfd");
        let f = MemoryFile::new(c"file", 1 << 20).expect("memfd");
        rustix::fs::ftruncate(m.fd(), 4096).expect("ftruncate");
        assert_eq!(preadv(f.fd(), &[m.span(8192, 10).expect("span")], 0), Err(Errno::EFAULT));
    }
}
