//! [`FileMap`]: access to a host file that the application has mapped, through windows into the sentry.
//!
//! The kernel reads and writes guest memory by (file, offset); for the memory file that is one pointer, for a donated host file
//! it is a window of 2 MiB, mapped on first use. A file keeps a few windows, the process a bounded number in all (the host limits
//! mappings per process). A file truncated behind our back gives `EFAULT`.

use crate::{Span, arena};
use abi::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of a window; windows begin at multiples of it.
pub const WINDOW: u64 = 2 << 20;
/// Windows a file keeps for its next access.
const KEPT: usize = 4;
/// Above so many windows in the process, none is kept after its use.
const KEEP_BELOW: usize = 8_192;
/// Above so many, none can be made (`ENOMEM`).
const MOST: usize = 16_384;

static WINDOWS: AtomicUsize = AtomicUsize::new(0);

#[derive(Debug)]
struct Window {
    index: u64,
    base: *mut u8,
}

// SAFETY: the window is shared memory that is only reached through fault-safe copies and atomics.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    fn new(fd: BorrowedFd<'_>, index: u64, writable: bool) -> Result<Window, Errno> {
        if WINDOWS.fetch_add(1, Ordering::Relaxed) >= MOST {
            WINDOWS.fetch_sub(1, Ordering::Relaxed);
            return Err(Errno::ENOMEM);
        }
        let base = arena::reserve(WINDOW as usize).inspect_err(|_| {
            WINDOWS.fetch_sub(1, Ordering::Relaxed);
        })?;
        // From here on `drop` cleans up.
        let window = Window { index, base };
        let offset = index.checked_mul(WINDOW).filter(|&o| o <= i64::MAX as u64 - WINDOW).ok_or(Errno::EFAULT)?;
        // SAFETY: the range was just reserved.
        unsafe { arena::map_file(base, WINDOW as usize, fd.as_raw_fd(), offset, writable) }?;
        Ok(window)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: reserved by `new` with this length.
        unsafe { arena::release(self.base, WINDOW as usize) };
        WINDOWS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A span of a [`FileMap`], which keeps its window mapped.
#[derive(Clone, Debug)]
pub struct PinnedSpan {
    span: Span,
    _window: Arc<Window>,
}

impl PinnedSpan {
    /// The memory. A copy of it that outlives this value may reach nothing, or another file.
    #[must_use]
    pub fn span(&self) -> Span {
        self.span
    }
}

/// A host file's content as memory.
#[derive(Debug)]
pub struct FileMap {
    fd: Arc<OwnedFd>,
    writable: bool,
    /// Most recently used last.
    kept: Mutex<Vec<Arc<Window>>>,
}

impl FileMap {
    /// For a descriptor that is open for reading, and for writing too if `writable`.
    #[must_use]
    pub fn new(fd: Arc<OwnedFd>, writable: bool) -> FileMap {
        FileMap { fd, writable, kept: Mutex::new(Vec::new()) }
    }

    /// The descriptor.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether [`copy_out`](Self::copy_out) can work.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    fn window(&self, index: u64) -> Result<Arc<Window>, Errno> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = kept.iter().position(|w| w.index == index) {
            let w = kept.remove(at);
            kept.push(Arc::clone(&w));
            return Ok(w);
        }
        let w = Arc::new(Window::new(self.fd.as_fd(), index, self.writable)?);
        if WINDOWS.load(Ordering::Relaxed) > KEEP_BELOW {
            kept.clear();
        } else {
            if kept.len() >= KEPT {
                kept.remove(0);
            }
            kept.push(Arc::clone(&w));
        }
        Ok(w)
    }

    /// The memory at `off`, at most `len` bytes: less where a window ends.
    pub fn span(&self, off: u64, len: usize) -> Result<PinnedSpan, Errno> {
        let window = self.window(off / WINDOW)?;
        let at = (off % WINDOW) as usize;
        let len = len.min(WINDOW as usize - at);
        // SAFETY: inside the window's reserved range.
        let span = unsafe { Span::new(window.base.add(at), len) };
        Ok(PinnedSpan { span, _window: window })
    }

    /// Calls `f` with the pieces of `off..off+len`, which begin at the given distances from `off`.
    fn pieces(&self, off: u64, len: usize, mut f: impl FnMut(usize, Span) -> Result<(), Errno>) -> Result<(), Errno> {
        let mut done = 0;
        while done < len {
            let at = off.checked_add(done as u64).ok_or(Errno::EFAULT)?;
            let piece = self.span(at, len - done)?;
            f(done, piece.span())?;
            done += piece.span().len();
        }
        Ok(())
    }

    /// Fills `buf` from the file. `EFAULT` behind its last page.
    pub fn copy_in(&self, off: u64, buf: &mut [u8]) -> Result<(), Errno> {
        self.pieces(off, buf.len(), |at, span| span.copy_in(&mut buf[at..at + span.len()]))
    }

    /// Writes `buf` to the file, which is not extended: `EFAULT` behind its last page, or if it is mapped read-only.
    pub fn copy_out(&self, off: u64, buf: &[u8]) -> Result<(), Errno> {
        self.pieces(off, buf.len(), |at, span| span.copy_out(&buf[at..at + span.len()]))
    }

    /// Zeroes a range of the file.
    pub fn zero(&self, off: u64, len: usize) -> Result<(), Errno> {
        self.pieces(off, len, |_, span| span.zero())
    }

    /// Loads an aligned u32. `EINVAL` unless aligned.
    pub fn load_u32(&self, off: u64) -> Result<u32, Errno> {
        self.span(off, 4)?.span().load_u32()
    }

    /// Stores `new` if the value is `old`; returns what was there.
    pub fn compare_exchange_u32(&self, off: u64, old: u32, new: u32) -> Result<u32, Errno> {
        self.span(off, 4)?.span().compare_exchange_u32(old, new)
    }

    /// Stores `new`; returns what was there.
    pub fn swap_u32(&self, off: u64, new: u32) -> Result<u32, Errno> {
        self.span(off, 4)?.span().swap_u32(new)
    }

    /// Replaces the value by `f` of it, atomically; returns what was there.
    pub fn update_u32(&self, off: u64, f: impl Fn(u32) -> u32) -> Result<u32, Errno> {
        self.span(off, 4)?.span().update_u32(f)
    }

    /// Forgets the kept windows.
    pub fn trim(&self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(len: u64) -> Arc<OwnedFd> {
        let fd = rustix::fs::memfd_create(c"test", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
        rustix::fs::ftruncate(&fd, len).expect("ftruncate");
        Arc::new(fd)
    }

    #[test]
    fn crosses_windows() {
        let m = FileMap::new(file(3 * WINDOW), true);
        m.copy_out(WINDOW - 2, b"abcd").expect("write");
        let mut b = [0; 6];
        m.copy_in(WINDOW - 3, &mut b).expect("read");
        assert_eq!(&b, b"\0abcd\0");
        assert_eq!(m.swap_u32(8 + 2 * WINDOW, 9), Ok(0));
        assert_eq!(m.update_u32(8 + 2 * WINDOW, |v| v * 2), Ok(9));
        assert_eq!(m.load_u32(8 + 2 * WINDOW), Ok(18));
        m.zero(0, 3 * WINDOW as usize).expect("zero");
        assert_eq!(m.load_u32(8 + 2 * WINDOW), Ok(0));
    }

    #[test]
    fn survives_truncation_and_read_only() {
        let fd = file(WINDOW);
        let (rw, ro) = (FileMap::new(Arc::clone(&fd), true), FileMap::new(Arc::clone(&fd), false));
        assert_eq!(ro.copy_out(0, b"x"), Err(Errno::EFAULT));
        let mut b = [0; 2];
        assert_eq!(ro.copy_in(8192, &mut b), Ok(()));
        rustix::fs::ftruncate(&fd, 4096).expect("ftruncate");
        assert_eq!(ro.copy_in(8192, &mut b), Err(Errno::EFAULT));
        assert_eq!(rw.copy_out(8192, &b), Err(Errno::EFAULT));
        assert_eq!(rw.copy_in(4095, &mut b), Err(Errno::EFAULT));
        assert_eq!(rw.load_u32(u64::MAX - 3), Err(Errno::EFAULT));
        assert_eq!(ro.copy_in(4094, &mut b), Ok(()));
    }

    #[test]
    fn windows_are_bounded() {
        let m = FileMap::new(file(64 * WINDOW), true);
        for i in 0..64 {
            m.copy_out(i * WINDOW, b"x").expect("write");
        }
        assert!(m.kept.lock().expect("lock").len() <= KEPT);
    }
}
