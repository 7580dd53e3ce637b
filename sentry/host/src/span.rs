//! [`Span`]: a piece of memory that is shared with the application, as an opaque value.
//!
//! Spans point into [`crate::memfile`]'s and [`crate::filemap`]'s address ranges, which are never given back to the process's
//! allocator: a span that outlives its mapping reaches nothing, or other guest memory, but never an object of ours.

use crate::safecopy::{self, Atomic};
use abi::Errno;

/// `len` bytes of guest memory at an address of the sentry's. No reference to it ever exists: it is reached by copies that
/// survive faults, or by the host's kernel ([`crate::io`]).
///
/// Laid out as `struct iovec`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Span {
    ptr: *mut u8,
    len: usize,
}

// SAFETY: a span is an address; every access to the memory behind it is valid from any thread (the application's own threads
// access it at the same time).
unsafe impl Send for Span {}
// SAFETY: as above.
unsafe impl Sync for Span {}

impl Span {
    /// Nothing.
    pub const EMPTY: Span = Span { ptr: std::ptr::null_mut(), len: 0 };

    /// # Safety
    /// The range lies inside address space that is reserved for guest memory for the life of the process.
    pub(crate) const unsafe fn new(ptr: *mut u8, len: usize) -> Span {
        Span { ptr, len }
    }

    /// Bytes.
    #[must_use]
    pub const fn len(self) -> usize {
        self.len
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The address in this process, for the platform backends.
    #[must_use]
    pub fn address(self) -> usize {
        self.ptr as usize
    }

    /// The first `n` bytes and the rest; everything and nothing if it is shorter.
    #[must_use]
    pub const fn split_at(self, n: usize) -> (Span, Span) {
        let n = if n < self.len { n } else { self.len };
        (Span { ptr: self.ptr, len: n }, Span { ptr: self.ptr.wrapping_add(n), len: self.len - n })
    }

    /// Whether `other` begins where this ends.
    #[must_use]
    pub fn adjoins(self, other: Span) -> bool {
        self.ptr.wrapping_add(self.len) == other.ptr
    }

    /// One span of this and an [adjoining](Self::adjoins) one.
    #[must_use]
    pub fn join(self, other: Span) -> Option<Span> {
        self.adjoins(other).then_some(Span { ptr: self.ptr, len: self.len + other.len })
    }

    /// Copies from the span, as much as both sides hold. Returns the bytes copied: fewer if a page was missing.
    #[must_use]
    pub fn read(self, buf: &mut [u8]) -> usize {
        let n = self.len.min(buf.len());
        // SAFETY: `buf` is ours for `n` bytes, the span is guest memory.
        n - unsafe { safecopy::copy(buf.as_mut_ptr(), self.ptr, n) }
    }

    /// Copies into the span, as much as both sides hold. Returns the bytes copied: fewer if a page was missing.
    #[must_use]
    pub fn write(self, buf: &[u8]) -> usize {
        let n = self.len.min(buf.len());
        // SAFETY: `buf` is ours for `n` bytes, the span is guest memory.
        n - unsafe { safecopy::copy(self.ptr, buf.as_ptr(), n) }
    }

    /// Fills `buf` from the span's beginning. `EFAULT` if the span is shorter, or memory is missing.
    pub fn copy_in(self, buf: &mut [u8]) -> Result<(), Errno> {
        let len = buf.len();
        if self.read(buf) == len { Ok(()) } else { Err(Errno::EFAULT) }
    }

    /// Writes all of `buf` to the span's beginning. `EFAULT` if the span is shorter, or memory is missing.
    pub fn copy_out(self, buf: &[u8]) -> Result<(), Errno> {
        if self.len >= buf.len() && self.write(buf) == buf.len() { Ok(()) } else { Err(Errno::EFAULT) }
    }

    /// Zeroes the whole span.
    pub fn zero(self) -> Result<(), Errno> {
        // SAFETY: the span is guest memory.
        if unsafe { safecopy::zero(self.ptr, self.len) } == 0 { Ok(()) } else { Err(Errno::EFAULT) }
    }

    /// Copies `src` to this span's beginning; they must not overlap. `EFAULT` if this is shorter, or memory is missing.
    pub fn copy_from(self, src: Span) -> Result<(), Errno> {
        if src.len > self.len {
            return Err(Errno::EFAULT);
        }
        // SAFETY: both are guest memory. Where they overlap after all, bytes come out wrong and nothing else.
        if unsafe { safecopy::copy(self.ptr, src.ptr, src.len) } == 0 { Ok(()) } else { Err(Errno::EFAULT) }
    }

    /// The aligned u32 at the span's beginning. `EINVAL` unless aligned, `EFAULT` if the span is shorter.
    fn atomic(self, op: Atomic) -> Result<u32, Errno> {
        if self.len < 4 {
            return Err(Errno::EFAULT);
        }
        if self.ptr as usize & 3 != 0 {
            return Err(Errno::EINVAL);
        }
        // SAFETY: aligned, and guest memory.
        unsafe { safecopy::atomic(self.ptr.cast(), op) }
    }

    /// Loads the u32 at the span's beginning. `EINVAL` unless aligned.
    pub fn load_u32(self) -> Result<u32, Errno> {
        self.atomic(Atomic::Load)
    }

    /// Stores `new` if the value is `old`; returns what was there.
    pub fn compare_exchange_u32(self, old: u32, new: u32) -> Result<u32, Errno> {
        self.atomic(Atomic::CompareExchange { old, new })
    }

    /// Stores `new`; returns what was there.
    pub fn swap_u32(self, new: u32) -> Result<u32, Errno> {
        self.atomic(Atomic::Swap(new))
    }

    /// Adds, wrapping; returns what was there.
    pub fn fetch_add_u32(self, n: u32) -> Result<u32, Errno> {
        self.atomic(Atomic::Add(n))
    }

    /// Replaces the value by `f` of it, atomically; returns what was there.
    pub fn update_u32(self, f: impl Fn(u32) -> u32) -> Result<u32, Errno> {
        let mut old = self.load_u32()?;
        loop {
            let seen = self.compare_exchange_u32(old, f(old))?;
            if seen == old {
                return Ok(old);
            }
            old = seen;
        }
    }
}
