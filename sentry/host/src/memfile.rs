//! [`MemoryFile`]: the sandbox's memory, one sparse memfd mapped once into the sentry.
//!
//! It only stores: which offsets are in use is the kernel's business (`kernel::mm`). Every method checks its range, and gives
//! `EFAULT` where the file ends or the host has no memory left.

use crate::{Span, arena, check, last_errno};
use abi::Errno;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A sparse memory file that is mapped as a whole.
#[derive(Debug)]
pub struct MemoryFile {
    fd: OwnedFd,
    base: *mut u8,
    len: u64,
}

// SAFETY: the mapping is shared memory that is only reached through fault-safe copies and atomics.
unsafe impl Send for MemoryFile {}
// SAFETY: as above.
unsafe impl Sync for MemoryFile {}

impl MemoryFile {
    /// How large the sentry's memory file is if the host lets it: 8 TiB.
    pub const DEFAULT_LEN: u64 = 8 << 40;

    /// Makes a file of `len` bytes, all holes; where the host refuses that size, a smaller one (see [`len`](Self::len)), of
    /// at least 1 GiB or what was asked for. `name` shows in the host's /proc/PID/maps.
    pub fn new(name: &std::ffi::CStr, len: u64) -> Result<MemoryFile, Errno> {
        // SAFETY: a valid string.
        let fd = check(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) })?;
        // SAFETY: a descriptor just made, owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut len = abi::page_up(len).ok_or(Errno::EINVAL)?.max(abi::PAGE_SIZE);
        loop {
            match Self::map(&fd, len) {
                Ok(base) => return Ok(MemoryFile { fd, base, len }),
                Err(_) if len / 2 >= 1 << 30 => len /= 2,
                Err(e) => return Err(e),
            }
        }
    }

    fn map(fd: &OwnedFd, len: u64) -> Result<*mut u8, Errno> {
        let size = usize::try_from(len).map_err(|_| Errno::ENOMEM)?;
        let end = libc::off_t::try_from(len).map_err(|_| Errno::EFBIG)?;
        // SAFETY: no memory involved.
        check(unsafe { libc::ftruncate(fd.as_raw_fd(), end) })?;
        let base = arena::reserve(size)?;
        // SAFETY: the range was just reserved.
        match unsafe { arena::map_file(base, size, fd.as_raw_fd(), 0, true) } {
            Ok(()) => Ok(base),
            Err(e) => {
                // SAFETY: as above.
                unsafe { arena::release(base, size) };
                Err(e)
            }
        }
    }

    /// The descriptor, to be mapped into stubs.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Bytes from beginning to end, holes included.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a memory file is never empty")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The memory at `off`. `EFAULT` if it does not lie in the file.
    pub fn span(&self, off: u64, len: usize) -> Result<Span, Errno> {
        let end = off.checked_add(len as u64).ok_or(Errno::EFAULT)?;
        if end > self.len {
            return Err(Errno::EFAULT);
        }
        // SAFETY: inside the reserved range of this file, as was just checked.
        Ok(unsafe { Span::new(self.base.add(off as usize), len) })
    }

    /// Fills `buf` from the file. A page that was a hole is allocated by being read, as with any access through a mapping.
    pub fn copy_in(&self, off: u64, buf: &mut [u8]) -> Result<(), Errno> {
        self.span(off, buf.len())?.copy_in(buf)
    }

    /// Writes `buf` to the file.
    pub fn copy_out(&self, off: u64, buf: &[u8]) -> Result<(), Errno> {
        self.span(off, buf.len())?.copy_out(buf)
    }

    /// Zeroes a range by writing it (which allocates its pages); [`punch_hole`](Self::punch_hole) frees them instead.
    pub fn zero(&self, off: u64, len: usize) -> Result<(), Errno> {
        self.span(off, len)?.zero()
    }

    /// Copies `len` bytes from `src` to `dst`; the ranges must not overlap (`EINVAL`).
    pub fn copy_within(&self, src: u64, dst: u64, len: usize) -> Result<(), Errno> {
        let (from, to) = (self.span(src, len)?, self.span(dst, len)?);
        if src.abs_diff(dst) < len as u64 {
            return Err(Errno::EINVAL);
        }
        to.copy_from(from)
    }

    /// Frees the pages of a range, which then reads as zero. Parts of pages are zeroed.
    pub fn punch_hole(&self, off: u64, len: u64) -> Result<(), Errno> {
        if len == 0 {
            return Ok(());
        }
        let end = off.checked_add(len).ok_or(Errno::EINVAL)?;
        if end > self.len {
            return Err(Errno::EINVAL);
        }
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        loop {
            // SAFETY: no memory of ours: the file's pages are guest memory.
            match check(unsafe { libc::fallocate(self.fd.as_raw_fd(), mode, off as i64, len as i64) }) {
                Err(Errno::EINTR) => {}
                r => return r.map(drop),
            }
        }
    }

    /// The first range of pages within `off..off+len` that the file holds memory for, cut to that range; `None`: all holes.
    pub fn next_data(&self, off: u64, len: u64) -> Result<Option<Range<u64>>, Errno> {
        let end = off.checked_add(len).ok_or(Errno::EINVAL)?.min(self.len);
        if off >= end {
            return Ok(None);
        }
        let start = match self.seek(off, libc::SEEK_DATA) {
            Ok(at) if at < end => at,
            Ok(_) | Err(Errno::ENXIO) => return Ok(None),
            Err(e) => return Err(e),
        };
        let stop = self.seek(start, libc::SEEK_HOLE)?.min(end);
        Ok((start < stop).then_some(start..stop))
    }

    /// Whether the file holds memory for any page of the range.
    pub fn is_allocated(&self, off: u64, len: u64) -> Result<bool, Errno> {
        Ok(self.next_data(off, len)?.is_some())
    }

    /// lseek(2). It moves the position of the open file, which nobody uses, so that concurrent callers do not disturb each other.
    fn seek(&self, off: u64, whence: libc::c_int) -> Result<u64, Errno> {
        // SAFETY: no memory involved.
        let at = unsafe { libc::lseek(self.fd.as_raw_fd(), off as i64, whence) };
        u64::try_from(at).map_err(|_| last_errno())
    }

    /// Bytes of host memory that the file occupies.
    pub fn allocated_bytes(&self) -> Result<u64, Errno> {
        let st = rustix::fs::fstat(&self.fd).map_err(crate::from_rustix)?;
        Ok(u64::try_from(st.st_blocks).unwrap_or(0) * 512)
    }

    /// Loads an aligned u32. `EINVAL` unless aligned.
    pub fn load_u32(&self, off: u64) -> Result<u32, Errno> {
        self.span(off, 4)?.load_u32()
    }

    /// Stores `new` at `off` if the value there is `old`; returns what was there.
    pub fn compare_exchange_u32(&self, off: u64, old: u32, new: u32) -> Result<u32, Errno> {
        self.span(off, 4)?.compare_exchange_u32(old, new)
    }

    /// Stores `new`; returns what was there.
    pub fn swap_u32(&self, off: u64, new: u32) -> Result<u32, Errno> {
        self.span(off, 4)?.swap_u32(new)
    }

    /// Adds, wrapping; returns what was there.
    pub fn fetch_add_u32(&self, off: u64, n: u32) -> Result<u32, Errno> {
        self.span(off, 4)?.fetch_add_u32(n)
    }

    /// Ors; returns what was there.
    pub fn fetch_or_u32(&self, off: u64, n: u32) -> Result<u32, Errno> {
        self.span(off, 4)?.update_u32(|v| v | n)
    }

    /// Ands; returns what was there.
    pub fn fetch_and_u32(&self, off: u64, n: u32) -> Result<u32, Errno> {
        self.span(off, 4)?.update_u32(|v| v & n)
    }

    /// Xors; returns what was there.
    pub fn fetch_xor_u32(&self, off: u64, n: u32) -> Result<u32, Errno> {
        self.span(off, 4)?.update_u32(|v| v ^ n)
    }

    /// Sleeps while the aligned word holds `value`, until somebody [wakes](Self::wake_u32) those who sleep there, for so long at most. May return early.
    pub fn sleep_u32(&self, off: u64, value: u32, at_most: std::time::Duration) -> Result<(), Errno> {
        let word = self.span(off, 4)?.address();
        let time = libc::timespec { tv_sec: at_most.as_secs().cast_signed(), tv_nsec: at_most.subsec_nanos().into() };
        // SAFETY: a word of the mapping, which lives as long as `self`, and a valid time.
        match check(unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAIT, value, &raw const time) as i32 }) {
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR | Errno::ETIMEDOUT) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Wakes one who sleeps on a word, in whatever process.
    pub fn wake_u32(&self, off: u64) -> Result<(), Errno> {
        self.wake(off, 1)
    }

    /// Wakes all who sleep on a word, in whatever process.
    pub fn wake_all_u32(&self, off: u64) -> Result<(), Errno> {
        self.wake(off, i32::MAX)
    }

    fn wake(&self, off: u64, most: i32) -> Result<(), Errno> {
        let word = self.span(off, 4)?.address();
        // SAFETY: an address, of which the host wants only to know what is there.
        check(unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAKE, most) as i32 }).map(drop)
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        // SAFETY: base and len are those that `map` reserved.
        unsafe { arena::release(self.base, self.len as usize) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_and_frees() {
        let m = MemoryFile::new(c"test", 64 << 30).expect("memfd");
        let at = (32 << 30) - 3;
        m.copy_out(at, b"hello").expect("copy_out");
        let mut b = [0; 5];
        m.copy_in(at, &mut b).expect("copy_in");
        assert_eq!(&b, b"hello");
        assert_eq!(m.next_data(0, m.len()), Ok(Some(abi::page_down(at)..abi::page_down(at) + 8192)));
        m.copy_within(at, 100, 5).expect("copy_within");
        m.zero(102, 2).expect("zero");
        m.copy_in(100, &mut b).expect("copy_in");
        assert_eq!(&b, b"he\0\0o");
        m.punch_hole(0, 4096).expect("punch");
        assert_eq!(m.is_allocated(0, 1 << 20), Ok(false));
        assert_eq!(m.allocated_bytes(), Ok(8192));
        assert_eq!(m.load_u32(100), Ok(0));
    }

    #[test]
    fn refuses_what_is_outside() {
        let m = MemoryFile::new(c"test", 1 << 20).expect("memfd");
        let mut b = [0; 8];
        for off in [(1 << 20) - 7, 1 << 20, u64::MAX - 3, u64::MAX] {
            assert_eq!(m.copy_in(off, &mut b), Err(Errno::EFAULT));
            assert_eq!(m.copy_out(off, &b), Err(Errno::EFAULT));
        }
        assert_eq!(m.load_u32(2), Err(Errno::EINVAL));
        assert_eq!(m.punch_hole(4096, u64::MAX), Err(Errno::EINVAL));
        assert_eq!(m.copy_within(0, 4, 8), Err(Errno::EINVAL));
    }

    #[test]
    fn atomics() {
        let m = MemoryFile::new(c"test", 1 << 20).expect("memfd");
        assert_eq!(m.fetch_add_u32(8, 5), Ok(0));
        assert_eq!(m.fetch_or_u32(8, 8), Ok(5));
        assert_eq!(m.fetch_and_u32(8, 12), Ok(13));
        assert_eq!(m.fetch_xor_u32(8, 4), Ok(12));
        assert_eq!(m.swap_u32(8, 1), Ok(8));
        assert_eq!(m.compare_exchange_u32(8, 1, 2), Ok(1));
        assert_eq!(m.load_u32(8), Ok(2));
    }

    #[test]
    fn sleepers_are_woken() {
        let m = std::sync::Arc::new(MemoryFile::new(c"test", 1 << 20).expect("memfd"));
        let long = std::time::Duration::from_secs(60);
        // Another value: no sleep at all.
        assert_eq!(m.sleep_u32(64, 1, long), Ok(()));
        assert_eq!(m.sleep_u32(65, 1, long), Err(Errno::EINVAL));
        let m2 = std::sync::Arc::clone(&m);
        let sleeper = std::thread::spawn(move || {
            while m2.load_u32(64) == Ok(0) {
                m2.sleep_u32(64, 0, long).expect("sleep");
            }
        });
        std::thread::sleep(std::time::Duration::from_millis(5));
        m.swap_u32(64, 1).expect("swap");
        m.wake_u32(64).expect("wake");
        sleeper.join().expect("join");
    }
}
