//! Packet sockets that the runtime opened in the container's network namespace (packet(7)), with a virtio-net header before each frame
//! (`PACKET_VNET_HDR`): many frames for each call in, one frame in parts out.

use crate::{check, check_len};
use abi::Errno;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd};

/// The longest frame with its virtio-net header: what segmentation offload makes of 64 KiB, and an Ethernet header with a VLAN tag.
pub const FRAME_MAX: usize = 10 + 18 + 65_536;

/// Room for the frames of one call.
#[derive(Debug)]
pub struct Batch {
    buffers: Vec<Vec<u8>>,
    lens: Vec<usize>,
}

impl Batch {
    /// Room for `count` frames of any length. The memory is the host's to give when it is first written.
    #[must_use]
    pub fn new(count: usize) -> Batch {
        Batch { buffers: (0..count).map(|_| vec![0; FRAME_MAX]).collect(), lens: Vec::with_capacity(count) }
    }

    /// Takes as many frames as there are and fit, without waiting: `EAGAIN` if there is none. `EINTR`, `ENETDOWN` and the like pass: call again.
    pub fn receive(&mut self, fd: impl AsFd) -> Result<usize, Errno> {
        self.lens.clear();
        let mut vectors: Vec<libc::iovec> =
            self.buffers.iter_mut().map(|b| libc::iovec { iov_base: b.as_mut_ptr().cast(), iov_len: b.len() }).collect();
        let mut messages: Vec<libc::mmsghdr> = vectors
            .iter_mut()
            .map(|v| {
                // SAFETY: all zero bytes are a valid msghdr: no name, no vectors, no control data.
                let mut h: libc::msghdr = unsafe { std::mem::zeroed() };
                h.msg_iov = v;
                h.msg_iovlen = 1;
                libc::mmsghdr { msg_hdr: h, msg_len: 0 }
            })
            .collect();
        // SAFETY: headers, vectors and buffers live until the call returns, and nothing else uses them; the lengths are theirs.
        let n = check(unsafe {
            libc::recvmmsg(
                fd.as_fd().as_raw_fd(),
                messages.as_mut_ptr(),
                messages.len() as u32,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        })?;
        let n = usize::try_from(n).unwrap_or(0);
        for (m, b) in messages.iter().zip(&self.buffers).take(n) {
            self.lens.push((m.msg_len as usize).min(b.len()));
        }
        Ok(n)
    }

    /// The frames of the last call.
    pub fn frames(&self) -> impl Iterator<Item = &[u8]> {
        self.buffers.iter().zip(&self.lens).map(|(b, n)| b.get(..*n).unwrap_or_default())
    }
}

/// Sends one frame, the concatenation of `parts` (at most 1,024). Does not wait: `EAGAIN` or `ENOBUFS` where the host's queue is full.
pub fn send(fd: impl AsFd, parts: &[IoSlice<'_>]) -> Result<usize, Errno> {
    // SAFETY: all zero bytes are a valid msghdr.
    let mut h: libc::msghdr = unsafe { std::mem::zeroed() };
    // IoSlice is documented to be an iovec.
    h.msg_iov = parts.as_ptr().cast_mut().cast();
    h.msg_iovlen = parts.len() as _;
    // SAFETY: header, vectors and their bytes live until the call returns; sending only reads them.
    check_len(unsafe { libc::sendmsg(fd.as_fd().as_raw_fd(), &h, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) })
}

/// The MTU of an interface of the network namespace that the socket is of (`SIOCGIFMTU`, netdevice(7)).
pub fn mtu(fd: impl AsFd, name: &str) -> Result<u32, Errno> {
    // SAFETY: all zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    let most = request.ifr_name.len() - 1;
    if name.len() > most {
        return Err(Errno::EINVAL);
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    // SAFETY: SIOCGIFMTU reads the name and stores an int, both within the structure.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::SIOCGIFMTU, &mut request) })?;
    // SAFETY: on success the kernel has stored this member; any bits are an int.
    Ok(unsafe { request.ifr_ifru.ifru_mtu }.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn frames_come_in_batches() {
        let (a, b) = UnixDatagram::pair().expect("socketpair");
        for i in 0..5u8 {
            assert_eq!(send(&a, &[IoSlice::new(&[i; 3]), IoSlice::new(&[9; 4])]), Ok(7));
        }
        let mut batch = Batch::new(3);
        assert_eq!(batch.receive(&b), Ok(3));
        let got: Vec<Vec<u8>> = batch.frames().map(<[u8]>::to_vec).collect();
        assert_eq!(got, [[0, 0, 0, 9, 9, 9, 9], [1, 1, 1, 9, 9, 9, 9], [2, 2, 2, 9, 9, 9, 9]]);
        assert_eq!(batch.receive(&b), Ok(2));
        assert_eq!(batch.frames().count(), 2);
        assert_eq!(batch.receive(&b), Err(Errno::EAGAIN));
    }
}
