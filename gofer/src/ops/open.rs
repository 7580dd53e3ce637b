//! Opening regular files, to donate their descriptors.

use super::{Answer, walk};
use crate::node::{Node, PathFd};
use crate::resolve::{self, Result, errno};
use crate::server::Server;
use abi::Errno;
use abi::fs::FileType;
use gofer_protocol::{Name, NodeId, OpenMode, Reply, Stop};
use rustix::fs::OFlags;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The host's flags for `mode`.
///
/// # Errors
/// `EINVAL` for neither reading nor writing, or truncation without writing.
pub fn flags(mode: OpenMode) -> Result<OFlags> {
    let mut flags = match (mode.contains(OpenMode::READ), mode.contains(OpenMode::WRITE)) {
        (true, true) => OFlags::RDWR,
        (true, false) => OFlags::RDONLY,
        (false, true) => OFlags::WRONLY,
        (false, false) => return Err(Errno::EINVAL),
    };
    if mode.contains(OpenMode::TRUNCATE) {
        // Linux truncates a file opened for reading only, too, which a read-only tree must not come to.
        if !mode.contains(OpenMode::WRITE) {
            return Err(Errno::EINVAL);
        }
        flags |= OFlags::TRUNC;
    }
    for (bit, flag) in [(OpenMode::SYNC, OFlags::SYNC), (OpenMode::NOATIME, OFlags::NOATIME), (OpenMode::DIRECT, OFlags::DIRECT)] {
        if mode.contains(bit) {
            flags |= flag;
        }
    }
    Ok(flags)
}

/// Walks, and opens the regular file found.
///
/// # Errors
/// `EISDIR`, `ELOOP` and `ENXIO` for directories, symlinks and sockets as open(2) has them; `EPERM` for devices and
/// FIFOs, which the sentry implements itself and which are never opened here.
pub fn open(server: &Server, node: NodeId, names: &[Name<'_>], mode: OpenMode) -> Result<Answer> {
    let at = server.tree.get(node)?;
    let walked = {
        let _names = server.tree.names.read();
        walk::along(server, at, names, true)
    };
    if walked.stop != Stop::Complete {
        return Ok((Reply::Walked { entries: walked.entries, stop: walked.stop }, None));
    }
    match regular(server, &walked.end, mode) {
        Ok(fd) => Ok((Reply::Walked { entries: walked.entries, stop: walked.stop }, Some(fd))),
        Err(e) => {
            walked.undo(server);
            Err(e)
        }
    }
}

/// Opens a regular file.
fn regular(server: &Server, node: &Arc<Node>, mode: OpenMode) -> Result<OwnedFd> {
    match node.kind {
        FileType::Regular => {}
        FileType::Directory => return Err(Errno::EISDIR),
        FileType::Symlink => return Err(Errno::ELOOP),
        FileType::Socket => return Err(Errno::ENXIO),
        FileType::Fifo | FileType::CharDevice | FileType::BlockDevice => return Err(Errno::EPERM),
    }
    let flags = flags(mode)?;
    if mode.contains(OpenMode::WRITE) {
        server.writable(node)?;
    }
    let fd = {
        let _names = server.tree.names.read();
        server.tree.fd(node)?
    };
    // The type was checked on this very descriptor when it was opened, and cannot change.
    let opened = reopen(server, &fd, flags)?;
    if mode.contains(OpenMode::WRITE) {
        node.changed(&resolve::stat_fd(&opened)?);
    }
    Ok(opened)
}

/// Opens the file behind `fd`.
pub fn reopen(server: &Server, fd: &Arc<PathFd>, flags: OFlags) -> Result<OwnedFd> {
    server.tree.retry(|| server.fds.reopen(&**fd, flags))
}

/// fsync(2) and fdatasync(2).
pub fn fsync(server: &Server, node: NodeId, data_only: bool) -> Result<Reply> {
    let node = server.tree.get(node)?;
    let flags = match node.kind {
        FileType::Regular => OFlags::RDONLY,
        FileType::Directory => OFlags::RDONLY | OFlags::DIRECTORY,
        _ => return Err(Errno::EINVAL),
    };
    let fd = {
        let _names = server.tree.names.read();
        server.tree.fd(&node)?
    };
    let opened = reopen(server, &fd, flags)?;
    if data_only { rustix::fs::fdatasync(&opened) } else { rustix::fs::fsync(&opened) }.map_err(errno)?;
    Ok(Reply::Done {})
}
