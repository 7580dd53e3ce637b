//! The host's file calls, narrowed to what cannot leave a tree.
//!
//! A name is only ever one checked component ([`Name`]), looked up in a directory held open by an `O_PATH` descriptor,
//! without following it if it is a symlink. There is no other way here to get from one file to another, so `..`,
//! absolute symlinks and magic links lead nowhere, whoever else changes the tree meanwhile.
//!
//! Reopening a file through its own descriptor goes by the path `FDS/N`, where `FDS` is this process's descriptor
//! directory (`/proc/self/fd`, or the jail's bind mount of it) and N a number of our own.

use abi::Errno;
use abi::fs::makedev;
use abi::time::Timespec;
use gofer_protocol::{Attr, Name};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Statx, StatxFlags};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// The result of an operation of the gofer.
pub type Result<T> = std::result::Result<T, Errno>;

/// The host's errno as ours.
pub fn errno(e: rustix::io::Errno) -> Errno {
    Errno::from_raw(e.raw_os_error())
}

/// No way up, no symlink, no magic link; and, in a tree that ends at its own mount, no mount crossed.
fn beneath(cross_mounts: bool) -> ResolveFlags {
    let flags = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    if cross_mounts { flags } else { flags | ResolveFlags::NO_XDEV }
}

/// An `O_PATH` descriptor of `name` in `dir`; of the symlink itself, if it is one.
pub fn open_path(dir: impl AsFd, name: Name<'_>, cross_mounts: bool) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(dir, name.as_bytes(), flags, Mode::empty(), beneath(cross_mounts)).map_err(errno)
}

/// The directory `name` in `dir`, to be read; anything else is not opened.
pub fn open_directory(dir: impl AsFd, name: Name<'_>, cross_mounts: bool) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(dir, name.as_bytes(), flags, Mode::empty(), beneath(cross_mounts)).map_err(errno)
}

/// Makes the regular file `name` in `dir`, which must not exist, and opens it.
pub fn create(dir: impl AsFd, name: Name<'_>, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY;
    rustix::fs::openat2(dir, name.as_bytes(), flags, mode, beneath(true)).map_err(errno)
}

/// Attributes of `name` in `dir`, of the symlink itself if it is one.
pub fn stat_name(dir: impl AsFd, name: Name<'_>) -> Result<Attr> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(dir, name.as_bytes(), flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME).map(attr).map_err(errno)
}

/// Attributes of an open file.
pub fn stat_fd(fd: impl AsFd) -> Result<Attr> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::statx(fd, c"", flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME).map(attr).map_err(errno)
}

/// What the symlink `name` in `dir` points to.
pub fn readlink_name(dir: impl AsFd, name: Name<'_>) -> Result<Vec<u8>> {
    rustix::fs::readlinkat(dir, name.as_bytes(), Vec::with_capacity(256)).map(|c| c.into_bytes()).map_err(errno)
}

/// What an open symlink points to.
pub fn readlink_fd(fd: impl AsFd) -> Result<Vec<u8>> {
    rustix::fs::readlinkat(fd, c"", Vec::with_capacity(256)).map(|c| c.into_bytes()).map_err(errno)
}

/// Paths of our own descriptors.
#[derive(Clone, Debug)]
pub struct Fds(&'static str);

impl Fds {
    /// Where the host shows them.
    pub const HOST: Fds = Fds("/proc/self/fd");
    /// Where the jail does.
    pub const JAIL: Fds = Fds("/fd");

    /// A path that means exactly the file behind `fd`, a symlink too: it is not followed.
    pub fn path(&self, fd: impl AsFd) -> String {
        format!("{}/{}", self.0, fd.as_fd().as_raw_fd())
    }

    /// Opens the file behind `fd` anew. The caller has made sure that it is no device and no FIFO.
    pub fn reopen(&self, fd: impl AsFd, flags: OFlags) -> Result<OwnedFd> {
        rustix::fs::openat(CWD, self.path(fd), flags | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty()).map_err(errno)
    }
}

/// The host's `statx` as the protocol carries it.
fn attr(s: Statx) -> Attr {
    let time = |t: rustix::fs::StatxTimestamp| Timespec { sec: t.tv_sec, nsec: i64::from(t.tv_nsec) };
    let has_btime = s.stx_mask & StatxFlags::BTIME.bits() != 0;
    Attr {
        dev: makedev(s.stx_dev_major, s.stx_dev_minor),
        ino: s.stx_ino,
        size: s.stx_size,
        blocks: s.stx_blocks,
        rdev: makedev(s.stx_rdev_major, s.stx_rdev_minor),
        mode: u32::from(s.stx_mode),
        nlink: s.stx_nlink,
        uid: s.stx_uid,
        gid: s.stx_gid,
        blksize: s.stx_blksize,
        has_btime: u32::from(has_btime),
        atime: time(s.stx_atime),
        mtime: time(s.stx_mtime),
        ctime: time(s.stx_ctime),
        btime: if has_btime { time(s.stx_btime) } else { Timespec::default() },
    }
}
