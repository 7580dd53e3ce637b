//! Making files: regular, directories, symlinks, FIFOs and sockets, and files without a name.
//!
//! A new file gets the owner and group asked for. In a directory with the set-group-ID bit it keeps the group that the
//! host gave it, the directory's, as inode_init_owner() has it.

use super::{Answer, open, walk};
use crate::node::Node;
use crate::resolve::{self, Result, errno};
use crate::server::Server;
use abi::Errno;
use abi::fs::FileType;
use abi::libc;
use gofer_protocol::{Attr, MAX_TARGET, Name, NodeId, OpenMode, Reply};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::process::{Gid, Uid};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// What a new file is to be like.
#[derive(Clone, Copy, Debug)]
pub struct New {
    /// Permissions; for mknod the type, too.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A directory in which changes are allowed, by its handle.
pub fn directory(server: &Server, dir: NodeId) -> Result<Arc<Node>> {
    let dir = server.tree.get(dir)?;
    if dir.kind != FileType::Directory {
        return Err(Errno::ENOTDIR);
    }
    server.writable(&dir)?;
    Ok(dir)
}

/// Makes and opens a regular file.
pub fn file(server: &Server, dir: NodeId, name: Name<'_>, mode: OpenMode, new: New) -> Result<Answer> {
    let dir = directory(server, dir)?;
    let flags = open::flags(mode)?;
    let _names = server.tree.names.read();
    let dir_fd = server.tree.fd(&dir)?;
    let fd = server.tree.retry(|| resolve::create(&*dir_fd, name, flags, Mode::from_raw_mode(new.mode & 0o7777)))?;
    let attr = undo(&*dir_fd, name, AtFlags::empty(), finish(server, &*dir_fd, &fd, new))?;
    let node = server.tree.adopt(&dir, name, &attr)?;
    let entry = walk::entry(server, node, attr, None)?;
    Ok((Reply::Node { entry, readonly: false }, Some(fd)))
}

/// Makes and opens a file that has no name.
pub fn tmpfile(server: &Server, dir: NodeId, mode: OpenMode, new: New) -> Result<Answer> {
    let dir = directory(server, dir)?;
    let flags = open::flags(mode)? | OFlags::TMPFILE | OFlags::CLOEXEC;
    if !mode.contains(OpenMode::WRITE) {
        return Err(Errno::EINVAL);
    }
    let _names = server.tree.names.read();
    let dir_fd = server.tree.fd(&dir)?;
    let path = server.fds.path(&*dir_fd);
    let perm = Mode::from_raw_mode(new.mode & 0o7777);
    let fd = server.tree.retry(|| rustix::fs::openat(CWD, path.as_str(), flags, perm).map_err(errno))?;
    let attr = finish(server, &*dir_fd, &fd, new)?;
    let path_fd = server.tree.retry(|| server.fds.reopen(&fd, OFlags::PATH))?;
    let node = server.tree.nameless(dir.attach, &attr, path_fd)?;
    let entry = walk::entry(server, node, attr, None)?;
    Ok((Reply::Node { entry, readonly: false }, Some(fd)))
}

/// mkdir(2).
pub fn mkdir(server: &Server, dir: NodeId, name: Name<'_>, new: New) -> Result<Reply> {
    let dir = directory(server, dir)?;
    // Linux takes no set-ID bits from mkdir's mode.
    let new = New { mode: new.mode & 0o1777, ..new };
    made(server, &dir, name, FileType::Directory, new, |fd| rustix::fs::mkdirat(fd, name.as_bytes(), Mode::from_raw_mode(new.mode)))
}

/// symlink(2).
pub fn symlink(server: &Server, dir: NodeId, name: Name<'_>, target: &[u8], new: New) -> Result<Reply> {
    let dir = directory(server, dir)?;
    match target.len() {
        0 => return Err(Errno::ENOENT),
        n if n > MAX_TARGET => return Err(Errno::ENAMETOOLONG),
        _ => {}
    }
    made(server, &dir, name, FileType::Symlink, new, |fd| rustix::fs::symlinkat(target, fd, name.as_bytes()))
}

/// mknod(2), as far as it is harmless for the host: a device node could be opened by anybody who finds it there.
pub fn mknod(server: &Server, dir: NodeId, name: Name<'_>, rdev: u64, new: New) -> Result<Reply> {
    let dir = directory(server, dir)?;
    let kind = match new.mode & libc::S_IFMT {
        0 => FileType::Regular,
        _ => FileType::from_mode(new.mode).ok_or(Errno::EINVAL)?,
    };
    match kind {
        FileType::Regular | FileType::Fifo | FileType::Socket => {}
        // Overlay's whiteout, which Linux lets anybody make.
        FileType::CharDevice if rdev == 0 => {}
        FileType::CharDevice | FileType::BlockDevice => return Err(Errno::EPERM),
        FileType::Directory => return Err(Errno::EPERM),
        FileType::Symlink => return Err(Errno::EINVAL),
    }
    let host_kind = rustix::fs::FileType::from_raw_mode(kind.mode());
    let perm = Mode::from_raw_mode(new.mode & 0o7777);
    made(server, &dir, name, kind, new, |fd| rustix::fs::mknodat(fd, name.as_bytes(), host_kind, perm, 0))
}

/// Makes something by `make`, finds it, and gives it its owner.
fn made(
    server: &Server,
    dir: &Arc<Node>,
    name: Name<'_>,
    kind: FileType,
    new: New,
    make: impl FnOnce(std::os::fd::BorrowedFd<'_>) -> rustix::io::Result<()>,
) -> Result<Reply> {
    let _names = server.tree.names.read();
    let dir_fd = server.tree.fd(dir)?;
    make(dir_fd.as_fd()).map_err(errno)?;
    let remove = if kind == FileType::Directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    let (attr, target) = undo(&*dir_fd, name, remove, owned(server, &*dir_fd, name, kind, new))?;
    let node = server.tree.adopt(dir, name, &attr)?;
    Ok(Reply::Node { entry: walk::entry(server, node, attr, target)?, readonly: false })
}

/// Opens what was just made, checks that it is that, and gives it its owner. The target is of a symlink.
pub fn owned(server: &Server, dir: impl AsFd, name: Name<'_>, kind: FileType, new: New) -> Result<(Attr, Option<Vec<u8>>)> {
    let fd: OwnedFd = server.tree.retry(|| resolve::open_path(dir.as_fd(), name, false))?;
    if resolve::stat_fd(&fd)?.file_type() != Some(kind) {
        // Somebody else put another file there meanwhile: it is not ours to give away.
        return Err(Errno::ESTALE);
    }
    let attr = finish(server, dir, &fd, new)?;
    let target = if kind == FileType::Symlink { Some(resolve::readlink_fd(&fd)?) } else { None };
    Ok((attr, target))
}

/// Gives a new file its owner, and the set-ID bits that a change of owner takes away.
fn finish(server: &Server, dir: impl AsFd, fd: impl AsFd, new: New) -> Result<Attr> {
    let attr = resolve::stat_fd(&fd)?;
    let inherits_group = resolve::stat_fd(dir)?.mode & libc::S_ISGID != 0;
    let gid = if inherits_group { attr.gid } else { new.gid };
    if attr.uid == new.uid && attr.gid == gid {
        return Ok(attr);
    }
    chown(&fd, Some(new.uid), Some(gid))?;
    let after = resolve::stat_fd(&fd)?;
    let lost = attr.mode & 0o6000 & !after.mode;
    if lost != 0 {
        let mode = Mode::from_raw_mode(attr.mode & 0o7777);
        rustix::fs::chmodat(CWD, server.fds.path(&fd), mode, AtFlags::empty()).map_err(errno)?;
        return resolve::stat_fd(&fd);
    }
    Ok(after)
}

/// fchownat(2) of the file behind a descriptor.
///
/// # Errors
/// `EINVAL` for the id -1, or one this user namespace does not map.
pub fn chown(fd: impl AsFd, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    if uid == Some(u32::MAX) || gid == Some(u32::MAX) {
        return Err(Errno::EINVAL);
    }
    rustix::fs::chownat(fd, c"", uid.map(Uid::from_raw), gid.map(Gid::from_raw), AtFlags::EMPTY_PATH).map_err(errno)
}

/// Takes a new file away again if it could not be finished.
pub fn undo<T>(dir: impl AsFd, name: Name<'_>, flags: AtFlags, outcome: Result<T>) -> Result<T> {
    if let Err(e) = &outcome
        && *e != Errno::ESTALE
        && let Err(also) = rustix::fs::unlinkat(dir, name.as_bytes(), flags)
    {
        tracing::warn!(%also, "cannot remove a file that could not be given its owner");
    }
    outcome
}
