//! Attributes: stat, setattr, statfs.

use super::{create, open};
use crate::node::{Node, PathFd};
use crate::resolve::{self, Result, errno};
use crate::server::Server;
use abi::Errno;
use abi::fs::FileType;
use gofer_protocol::{NodeId, Reply, SetAttr, SetTime, StatFs};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use std::sync::Arc;

/// A node and its descriptor.
pub fn reach(server: &Server, node: NodeId) -> Result<(Arc<Node>, Arc<PathFd>)> {
    let node = server.tree.get(node)?;
    let _names = server.tree.names.read();
    let fd = server.tree.fd(&node)?;
    drop(_names);
    Ok((node, fd))
}

/// statx(2).
pub fn stat(server: &Server, node: NodeId) -> Result<Reply> {
    let (_, fd) = reach(server, node)?;
    Ok(Reply::Attr { attr: resolve::stat_fd(&*fd)? })
}

/// statfs(2).
pub fn statfs(server: &Server, node: NodeId) -> Result<Reply> {
    let (_, fd) = reach(server, node)?;
    let s = rustix::fs::fstatfs(&*fd).map_err(errno)?;
    let unsigned = |v: i64| u64::try_from(v).unwrap_or(0);
    let statfs = StatFs {
        kind: unsigned(s.f_type),
        bsize: unsigned(s.f_bsize),
        blocks: s.f_blocks,
        bfree: s.f_bfree,
        bavail: s.f_bavail,
        files: s.f_files,
        ffree: s.f_ffree,
        namelen: unsigned(s.f_namelen),
        frsize: unsigned(s.f_frsize),
        flags: unsigned(s.f_flags),
    };
    Ok(Reply::StatFs { statfs })
}

/// truncate(2), chown(2), chmod(2) and utimensat(2), in this order.
pub fn set_attr(server: &Server, node: NodeId, set: &SetAttr) -> Result<Reply> {
    let (node, fd) = reach(server, node)?;
    server.writable(&node)?;
    if let Some(size) = set.size {
        match node.kind {
            FileType::Regular => {}
            FileType::Directory => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
        if i64::try_from(size).is_err() {
            return Err(Errno::EFBIG);
        }
        let file = open::reopen(server, &fd, OFlags::WRONLY)?;
        rustix::fs::ftruncate(&file, size).map_err(errno)?;
    }
    if set.uid.is_some() || set.gid.is_some() {
        create::chown(&*fd, set.uid, set.gid)?;
    }
    if let Some(mode) = set.mode {
        if node.kind == FileType::Symlink {
            return Err(Errno::EOPNOTSUPP);
        }
        let mode = Mode::from_raw_mode(mode & 0o7777);
        rustix::fs::chmodat(CWD, server.fds.path(&*fd), mode, AtFlags::empty()).map_err(errno)?;
    }
    if set.atime != SetTime::Omit || set.mtime != SetTime::Omit {
        let times = Timestamps { last_access: time(set.atime), last_modification: time(set.mtime) };
        rustix::fs::utimensat(CWD, server.fds.path(&*fd), &times, AtFlags::empty()).map_err(errno)?;
    }
    let attr = resolve::stat_fd(&*fd)?;
    node.changed(&attr);
    Ok(Reply::Attr { attr })
}

/// A time as utimensat takes it.
fn time(t: SetTime) -> Timespec {
    match t {
        SetTime::Omit => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        SetTime::Now => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        SetTime::At(t) => Timespec { tv_sec: t.sec, tv_nsec: t.nsec },
    }
}
