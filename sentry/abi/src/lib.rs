//! Linux's user-space interface on x86-64: numbers, structures, flags and error codes.
//!
//! No policy and no I/O. Everything here is plain data that could be read out of the kernel's `uapi` headers;
//! structures that cross the guest boundary derive zerocopy's traits so that copying them never needs `unsafe`.
//! Constants that need no type of their own are used straight from [`libc`], which is re-exported.

pub mod error;
pub mod fs;
pub mod mm;
pub mod poll;
pub mod signal;
pub mod task;
pub mod time;

pub use error::{Errno, Error, Restart, Result};
pub use libc;

/// Size of a page of guest memory.
pub const PAGE_SIZE: u64 = 4096;
/// Binary logarithm of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;

/// Rounds down to a page boundary.
#[must_use]
pub const fn page_down(x: u64) -> u64 {
    x & !(PAGE_SIZE - 1)
}

/// Rounds up to a page boundary; `None` where that overflows.
#[must_use]
pub const fn page_up(x: u64) -> Option<u64> {
    match x.checked_add(PAGE_SIZE - 1) {
        Some(v) => Some(page_down(v)),
        None => None,
    }
}
