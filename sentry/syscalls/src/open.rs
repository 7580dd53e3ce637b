//! Opening and closing: open(2), openat(2), openat2(2), creat(2), close(2), close_range(2).

use crate::{
    arg::{DirFd, UserCStr},
    at::{At, start, walker},
    row,
    table::Entry,
};
use abi::{Result, bail, fs::OpenFlags, libc};
use kernel::{
    task::CurrentTask,
    user::UserAddr,
    vfs::{self, Fd, OpenHow, resolve},
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub(crate) const ROWS: &[Entry] = &[
    row!("open", open),
    row!("openat", openat),
    row!("openat2", openat2),
    row!("creat", creat),
    row!("close", close),
    row!("close_range", close_range),
];

/// `struct open_how` of openat2(2).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct RawOpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// Every bit that open(2) knows (`VALID_OPEN_FLAGS`).
const VALID: u32 = 0o37_777_703;

pub fn open(t: &mut CurrentTask, path: UserCStr, flags: u32, mode: u32) -> Result<Fd> {
    openat(t, DirFd::Cwd, path, flags, mode)
}

pub fn creat(t: &mut CurrentTask, path: UserCStr, mode: u32) -> Result<Fd> {
    let flags = OpenFlags::CREAT | OpenFlags::WRONLY | OpenFlags::TRUNC;
    openat(t, DirFd::Cwd, path, flags.bits(), mode)
}

pub fn openat(t: &mut CurrentTask, dir: DirFd, path: UserCStr, flags: u32, mode: u32) -> Result<Fd> {
    // open(2) and openat(2) ignore bits they do not know, and the mode's other bits.
    let how = OpenHow { flags: OpenFlags::from_bits_retain(flags & VALID), mode: mode & 0o7777, resolve: 0 };
    do_open(t, dir, path, how)
}

fn do_open(t: &CurrentTask, dir: DirFd, path: UserCStr, how: OpenHow) -> Result<Fd> {
    let mut at = At::new(t, dir, path)?;
    if how.resolve & (resolve::IN_ROOT | resolve::BENEATH) != 0 {
        // The descriptor is the root then, for absolute paths too.
        at.start = start(t, dir, b".")?;
    }
    let file = walker(t).open(&at.start, &at.path, how)?;
    t.files().install(file, Fd(0), t.rlimit(libc::RLIMIT_NOFILE).cur, how.flags.contains(OpenFlags::CLOEXEC))
}

pub fn openat2(t: &mut CurrentTask, dir: DirFd, path: UserCStr, how: UserAddr, size: usize) -> Result<Fd> {
    let known = size_of::<RawOpenHow>();
    if size < known {
        bail!(EINVAL, "open_how is too small");
    }
    if size > abi::PAGE_SIZE as usize {
        bail!(E2BIG, "open_how is too large");
    }
    let mut bytes = vec![0; size];
    t.mm().copy_in(how, &mut bytes)?;
    let (head, tail) = bytes.split_at(known);
    if tail.iter().any(|&b| b != 0) {
        bail!(E2BIG, "open_how has members of a later kernel");
    }
    let Ok(raw) = RawOpenHow::read_from_bytes(head) else { bail!(EINVAL) };
    if raw.flags & !u64::from(VALID) != 0 || raw.resolve & !resolve::ALL != 0 {
        bail!(EINVAL, "unknown bits");
    }
    if raw.resolve & resolve::BENEATH != 0 && raw.resolve & resolve::IN_ROOT != 0 {
        bail!(EINVAL, "RESOLVE_BENEATH with RESOLVE_IN_ROOT");
    }
    if raw.resolve & resolve::CACHED != 0 {
        bail!(EAGAIN, "cannot promise to answer from the cache alone");
    }
    let flags = OpenFlags::from_bits_retain(raw.flags as u32);
    let creates = flags.contains(OpenFlags::CREAT) || flags.contains(OpenFlags::TMPFILE);
    if raw.mode & !0o7777 != 0 || (raw.mode != 0 && !creates) {
        bail!(EINVAL, "mode");
    }
    let path_only = OpenFlags::PATH | OpenFlags::DIRECTORY | OpenFlags::NOFOLLOW | OpenFlags::CLOEXEC;
    if flags.contains(OpenFlags::PATH) && !path_only.contains(flags) {
        bail!(EINVAL, "O_PATH with other flags");
    }
    do_open(t, dir, path, OpenHow { flags, mode: raw.mode as u32, resolve: raw.resolve })
}

pub fn close(t: &mut CurrentTask, fd: Fd) -> Result<()> {
    vfs::close(t, fd)
}

/// Unshare the table first: the range is closed in a copy.
const CLOSE_RANGE_UNSHARE: u32 = 2;
/// Set close-on-exec instead of closing.
const CLOSE_RANGE_CLOEXEC: u32 = 4;

pub fn close_range(t: &mut CurrentTask, first: u32, last: u32, flags: u32) -> Result<()> {
    if flags & !(CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC) != 0 || first > last {
        bail!(EINVAL);
    }
    if flags & CLOSE_RANGE_UNSHARE != 0 {
        let own = t.files().duplicate();
        t.set_files(std::sync::Arc::new(own));
    }
    if flags & CLOSE_RANGE_CLOEXEC != 0 {
        t.files().set_cloexec_range(first, last);
        return Ok(());
    }
    let files = t.files();
    for file in files.remove_range(first, last) {
        // As close(2) of each would; what one of them reports is nobody's to hear.
        let _ = vfs::close_file(t, &files, file);
    }
    Ok(())
}
