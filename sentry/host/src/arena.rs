//! Address ranges that hold guest memory and are never given back to the process: see [`crate::span`].

use abi::Errno;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Ranges that were used and are free again, by length.
static FREE: Mutex<BTreeMap<usize, Vec<usize>>> = Mutex::new(BTreeMap::new());

/// Reserves `len` bytes (a multiple of the page size) of address space that nothing is mapped in.
pub fn reserve(len: usize) -> Result<*mut u8, Errno> {
    crate::safecopy::install();
    let reused = FREE.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&len).and_then(Vec::pop);
    if let Some(p) = reused {
        return Ok(p as *mut u8);
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: the host chooses a free range.
    let p = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
    if p == libc::MAP_FAILED { Err(crate::last_errno()) } else { Ok(p.cast()) }
}

/// Gives a range of [`reserve`]'s back. What was mapped there is gone.
///
/// # Safety
/// `ptr` and `len` are those of an earlier `reserve`.
pub unsafe fn release(ptr: *mut u8, len: usize) {
    // SAFETY: the range is the caller's, and holds guest memory only.
    if unsafe { clear(ptr, len) }.is_ok() {
        FREE.lock().unwrap_or_else(PoisonError::into_inner).entry(len).or_default().push(ptr as usize);
    }
}

/// Replaces what is mapped in a part of a reserved range by nothing.
///
/// # Safety
/// The range lies in one of [`reserve`]'s.
pub unsafe fn clear(ptr: *mut u8, len: usize) -> Result<(), Errno> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    // SAFETY: the caller's promise.
    let p = unsafe { libc::mmap(ptr.cast(), len, libc::PROT_NONE, flags, -1, 0) };
    if p == libc::MAP_FAILED { Err(crate::last_errno()) } else { Ok(()) }
}

/// Maps a part of a host file, shared, into a reserved range.
///
/// # Safety
/// The range lies in one of [`reserve`]'s.
pub unsafe fn map_file(ptr: *mut u8, len: usize, fd: libc::c_int, offset: u64, writable: bool) -> Result<(), Errno> {
    let prot = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
    let flags = libc::MAP_SHARED | libc::MAP_NORESERVE | libc::MAP_FIXED;
    let offset = libc::off_t::try_from(offset).map_err(|_| Errno::EOVERFLOW)?;
    // SAFETY: the caller's promise.
    let p = unsafe { libc::mmap(ptr.cast(), len, prot, flags, fd, offset) };
    if p == libc::MAP_FAILED { Err(crate::last_errno()) } else { Ok(()) }
}
