//! What several families do with descriptors.

use abi::{Result, fs::OpenFlags, libc};
use kernel::{
    task::CurrentTask,
    vfs::{Fd, File},
};
use std::sync::Arc;

/// Puts a new file at the lowest free descriptor.
pub fn install(t: &CurrentTask, file: Arc<File>, cloexec: bool) -> Result<Fd> {
    t.files().install(file, Fd(0), t.rlimit(libc::RLIMIT_NOFILE).cur, cloexec)
}

/// The same, close-on-exec as the flags say.
pub fn install_with(t: &CurrentTask, file: Arc<File>, flags: OpenFlags) -> Result<Fd> {
    install(t, file, flags.contains(OpenFlags::CLOEXEC))
}

/// Flags of which only `allowed` may be set; `EINVAL` for others.
pub fn flags(raw: i32, allowed: OpenFlags) -> Result<OpenFlags> {
    let f = OpenFlags::from_bits_retain(raw as u32);
    if allowed.contains(f) { Ok(f) } else { Err(abi::error!(EINVAL, "unknown flags {raw:#x}")) }
}
