//! Host descriptors that the sandbox shares with others (its standard streams): I/O that never waits and never changes the
//! flags of the open file, attributes, terminal controls.

use crate::{Span, check, check_len, from_rustix, io};
use abi::{
    Errno,
    fs::{OpenFlags, Stat},
    time::Timespec,
};
use std::os::fd::{AsFd, AsRawFd};

/// How much a write that could wait is given at a time: a pipe that is writable takes so much at once.
const SAFE_WRITE: usize = 4096;

/// Runs `direct` (a call with RWF_NOWAIT); where the file knows no such flag, `after_poll` if poll(2) says that it would not wait.
fn nowait(
    fd: &impl AsFd,
    events: i16,
    direct: impl FnOnce() -> Result<usize, Errno>,
    after_poll: impl FnOnce() -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    match direct() {
        Err(Errno::EOPNOTSUPP) => {}
        other => return other,
    }
    if io::poll(fd, events, 0)? == 0 {
        return Err(Errno::EAGAIN);
    }
    after_poll()
}

/// Reads at the file's own position into guest memory, `EAGAIN` rather than waiting.
pub fn readv_nowait(fd: impl AsFd, spans: &[Span]) -> Result<usize, Errno> {
    nowait(&fd, libc::POLLIN, || io::preadv2(&fd, spans, None, libc::RWF_NOWAIT), || io::readv(&fd, spans))
}

/// Writes at the file's own position from guest memory, `EAGAIN` rather than waiting.
pub fn writev_nowait(fd: impl AsFd, spans: &[Span]) -> Result<usize, Errno> {
    nowait(
        &fd,
        libc::POLLOUT,
        || io::pwritev2(&fd, spans, None, libc::RWF_NOWAIT),
        || match spans.iter().find(|s| !s.is_empty()) {
            Some(s) => io::writev(&fd, &[s.split_at(SAFE_WRITE).0]),
            None => Ok(0),
        },
    )
}

/// As [`readv_nowait`] into a buffer of ours.
pub fn read_nowait(fd: impl AsFd, buf: &mut [u8]) -> Result<usize, Errno> {
    let one = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: `one` names `buf`, which nobody else uses during the call.
    let direct = || check_len(unsafe { libc::preadv2(fd.as_fd().as_raw_fd(), &one, 1, -1, libc::RWF_NOWAIT) });
    match direct() {
        Err(Errno::EOPNOTSUPP) if io::poll(&fd, libc::POLLIN, 0)? == 0 => Err(Errno::EAGAIN),
        Err(Errno::EOPNOTSUPP) => io::read(&fd, buf),
        other => other,
    }
}

/// As [`writev_nowait`] from a buffer of ours.
pub fn write_nowait(fd: impl AsFd, buf: &[u8]) -> Result<usize, Errno> {
    let one = libc::iovec { iov_base: buf.as_ptr().cast_mut().cast(), iov_len: buf.len() };
    nowait(
        &fd,
        libc::POLLOUT,
        // SAFETY: `one` names `buf`, which is only read.
        || check_len(unsafe { libc::pwritev2(fd.as_fd().as_raw_fd(), &one, 1, -1, libc::RWF_NOWAIT) }),
        || io::write(&fd, &buf[..buf.len().min(SAFE_WRITE)]),
    )
}

/// fstat(2).
pub fn stat(fd: impl AsFd) -> Result<Stat, Errno> {
    let s = rustix::fs::fstat(fd).map_err(from_rustix)?;
    let time = |sec: i64, nsec: u64| Timespec { sec, nsec: nsec as i64 };
    Ok(Stat {
        dev: s.st_dev,
        ino: s.st_ino,
        nlink: s.st_nlink,
        mode: s.st_mode,
        uid: s.st_uid,
        gid: s.st_gid,
        rdev: s.st_rdev,
        size: s.st_size,
        blksize: s.st_blksize,
        blocks: s.st_blocks,
        atime: time(s.st_atime, s.st_atime_nsec as u64),
        mtime: time(s.st_mtime, s.st_mtime_nsec as u64),
        ctime: time(s.st_ctime, s.st_ctime_nsec as u64),
        ..Stat::default()
    })
}

/// Access mode and status flags (F_GETFL).
pub fn status_flags(fd: impl AsFd) -> Result<OpenFlags, Errno> {
    let flags = rustix::fs::fcntl_getfl(fd).map_err(from_rustix)?;
    Ok(OpenFlags::from_bits_retain(flags.bits()))
}

/// The file's own position.
pub fn position(fd: impl AsFd) -> Result<u64, Errno> {
    rustix::fs::tell(fd).map_err(from_rustix)
}

/// Sets the file's own position.
pub fn set_position(fd: impl AsFd, pos: u64) -> Result<(), Errno> {
    rustix::fs::seek(fd, rustix::fs::SeekFrom::Start(pos)).map(drop).map_err(from_rustix)
}

/// ftruncate(2).
pub fn truncate(fd: impl AsFd, len: u64) -> Result<(), Errno> {
    rustix::fs::ftruncate(fd, len).map_err(from_rustix)
}

/// fsync(2) or fdatasync(2).
pub fn sync(fd: impl AsFd, data_only: bool) -> Result<(), Errno> {
    if data_only { rustix::fs::fdatasync(fd) } else { rustix::fs::fsync(fd) }.map_err(from_rustix)
}

/// fallocate(2) with its mode.
pub fn allocate(fd: impl AsFd, mode: u32, offset: u64, len: u64) -> Result<(), Errno> {
    let mode = rustix::fs::FallocateFlags::from_bits_retain(mode);
    rustix::fs::fallocate(fd, mode, offset, len).map_err(from_rustix)
}

/// lseek(2) with SEEK_DATA (`data`) or SEEK_HOLE. Moves the file's own position, which donated files do not use.
pub fn seek_data(fd: impl AsFd, offset: u64, data: bool) -> Result<u64, Errno> {
    let to = if data { rustix::fs::SeekFrom::Data(offset) } else { rustix::fs::SeekFrom::Hole(offset) };
    rustix::fs::seek(fd, to).map_err(from_rustix)
}

/// Bytes of the kernel's `struct termios`.
pub const TERMIOS_LEN: usize = 36;
/// Bytes of `struct winsize`.
pub const WINSIZE_LEN: usize = 8;

/// A terminal's settings (TCGETS): the kernel's `struct termios`. `ENOTTY` for anything else.
pub fn termios(fd: impl AsFd) -> Result<[u8; TERMIOS_LEN], Errno> {
    let mut t = [0; TERMIOS_LEN];
    // SAFETY: TCGETS stores a `struct termios` of 36 bytes.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TCGETS, t.as_mut_ptr()) })?;
    Ok(t)
}

/// Replaces a terminal's settings; `when`: TCSETS, TCSETSW or TCSETSF.
pub fn set_termios(fd: impl AsFd, when: u32, t: &[u8; TERMIOS_LEN]) -> Result<(), Errno> {
    if ![libc::TCSETS, libc::TCSETSW, libc::TCSETSF].contains(&u64::from(when)) {
        return Err(Errno::EINVAL);
    }
    // SAFETY: these three read a `struct termios` of 36 bytes.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), u64::from(when), t.as_ptr()) }).map(drop)
}

/// A terminal's size (TIOCGWINSZ): `struct winsize`.
pub fn window_size(fd: impl AsFd) -> Result<[u8; WINSIZE_LEN], Errno> {
    let mut w = [0; WINSIZE_LEN];
    // SAFETY: TIOCGWINSZ stores a `struct winsize` of 8 bytes.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCGWINSZ, w.as_mut_ptr()) })?;
    Ok(w)
}

/// Sets a terminal's size (TIOCSWINSZ).
pub fn set_window_size(fd: impl AsFd, w: &[u8; WINSIZE_LEN]) -> Result<(), Errno> {
    // SAFETY: TIOCSWINSZ reads a `struct winsize` of 8 bytes.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCSWINSZ, w.as_ptr()) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_waits() {
        let (r, w) = rustix::pipe::pipe().expect("pipe");
        let mut b = [0; 8];
        assert_eq!(read_nowait(&r, &mut b), Err(Errno::EAGAIN));
        assert_eq!(write_nowait(&w, b"abc"), Ok(3));
        assert_eq!(read_nowait(&r, &mut b), Ok(3));
        let big = vec![0; 1 << 20];
        assert!(write_nowait(&w, &big).is_ok_and(|n| n <= 65536));
        while write_nowait(&w, &big).is_ok() {}
        assert_eq!(write_nowait(&w, &big), Err(Errno::EAGAIN));
        assert!(!status_flags(&r).expect("flags").contains(OpenFlags::NONBLOCK));
        drop(w);
        assert!(stat(&r).is_ok_and(|s| s.mode & libc::S_IFMT == libc::S_IFIFO));
        assert_eq!(termios(&r), Err(Errno::ENOTTY));
    }
}
