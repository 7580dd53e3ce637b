//! Descriptors that this process was started with, under numbers agreed on with whoever started it.

use crate::last_errno;
use abi::Errno;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// The numbers that have been taken.
static TAKEN: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

/// Takes over the descriptor `number` (3 to 127), and makes it close-on-exec. To be called before this process opens anything of
/// its own. `EBADF` if there is none, or if it was taken before.
pub fn take(number: RawFd) -> Result<OwnedFd, Errno> {
    let (taken, bit) = match number {
        3..64 => (&TAKEN[0], 1u64 << number),
        64..128 => (&TAKEN[1], 1u64 << (number - 64)),
        _ => return Err(Errno::EBADF),
    };
    // SAFETY: F_SETFD takes a number; on a descriptor that is not open it fails.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(last_errno());
    }
    if taken.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
        return Err(Errno::EBADF);
    }
    // SAFETY: it is open, it was there before this process opened anything (the caller's promise in the documentation; with
    // the standard library nothing has been opened before main), and it is given out only once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
