//! Everything raw: host system calls, memory that is shared with the application, copies that survive a fault.
//!
//! Above this crate (and `platform`) nothing needs `unsafe`: guest memory is named by offsets ([`memfile`], [`filemap`]) or by
//! an opaque [`Span`], touched only through [`safecopy`], and handed to host calls by [`io`]. The other modules are thin
//! wrappers of single host calls. Errors are [`abi::Errno`].
//!
//! Neighbours: `abi` below; `platform`, `kernel`, `fs`, `net` and `sentry` above.

// unsafe is what this crate is for: one operation per block, each with its SAFETY comment.
#![allow(unsafe_code)]

mod arena;
pub mod backtrace;
pub mod epoll;
pub mod eventfd;
pub mod file;
pub mod filemap;
pub mod forbidden;
pub mod image;
pub mod inherit;
pub mod io;
pub mod memfile;
pub mod notify;
pub mod packet;
pub mod process;
pub mod rand;
pub mod safecopy;
pub mod signals;
pub mod socket;
pub mod span;
pub mod thread;
pub mod time;
pub mod vdso;

pub use span::Span;

use abi::Errno;

/// The calling thread's `errno`, after a libc call that failed.
#[must_use]
pub fn last_errno() -> Errno {
    Errno::from(std::io::Error::last_os_error())
}

/// Turns libc's -1 convention into a `Result`.
fn check(r: libc::c_int) -> Result<libc::c_int, Errno> {
    if r < 0 { Err(last_errno()) } else { Ok(r) }
}

/// The same for calls that return a size.
fn check_len(r: libc::ssize_t) -> Result<usize, Errno> {
    usize::try_from(r).map_err(|_| last_errno())
}

/// From rustix's error type.
fn from_rustix(e: rustix::io::Errno) -> Errno {
    Errno::from_raw(e.raw_os_error())
}
