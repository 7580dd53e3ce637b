//! Changing names: link, unlink, rename.

use super::create::directory;
use super::walk;
use crate::node::{Node, PathFd};
use crate::resolve::{self, Result, errno};
use crate::server::Server;
use abi::Errno;
use abi::fs::FileType;
use gofer_protocol::{Name, NodeId, Reply};
use rustix::fs::{AtFlags, CWD, RenameFlags};
use std::sync::Arc;

/// linkat(2).
pub fn link(server: &Server, node: NodeId, dir: NodeId, name: Name<'_>) -> Result<Reply> {
    let node = server.tree.get(node)?;
    let dir = directory(server, dir)?;
    if node.attach != dir.attach {
        return Err(Errno::EXDEV);
    }
    if node.kind == FileType::Directory {
        return Err(Errno::EPERM);
    }
    let _names = server.tree.names.read();
    let fd = server.tree.fd(&node)?;
    let dir_fd = server.tree.fd(&dir)?;
    // By our own path of the descriptor: AT_EMPTY_PATH asks for a capability that a rootless gofer has not.
    rustix::fs::linkat(CWD, server.fds.path(&*fd), &*dir_fd, name.as_bytes(), AtFlags::SYMLINK_FOLLOW).map_err(errno)?;
    let attr = resolve::stat_fd(&*fd)?;
    node.changed(&attr);
    let target = if node.kind == FileType::Symlink { Some(resolve::readlink_fd(&*fd)?) } else { None };
    let linked = server.tree.adopt(&dir, name, &attr)?;
    Ok(Reply::Node { entry: walk::entry(server, linked, attr, target)?, readonly: false })
}

/// Holds on to the file that is about to lose its name, for those who have a handle of it.
fn pin(server: &Server, dir: &Arc<Node>, name: Name<'_>) -> Option<(Arc<Node>, Option<Arc<PathFd>>)> {
    let node = dir.child(name)?;
    // Without a descriptor the file will be stale, as on any host that is out of descriptors.
    let fd = server.tree.fd(&node).ok();
    Some((node, fd))
}

/// After the name is gone.
fn unpin(pinned: Option<(Arc<Node>, Option<Arc<PathFd>>)>) {
    if let Some((node, fd)) = pinned {
        node.lose_place();
        if let Some(fd) = fd {
            node.hold(fd);
        }
    }
}

/// unlink(2) and rmdir(2).
pub fn unlink(server: &Server, dir: NodeId, name: Name<'_>, rmdir: bool) -> Result<Reply> {
    let dir = directory(server, dir)?;
    let _names = server.tree.names.write();
    let dir_fd = server.tree.fd(&dir)?;
    let pinned = pin(server, &dir, name);
    let flags = if rmdir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    rustix::fs::unlinkat(&*dir_fd, name.as_bytes(), flags).map_err(errno)?;
    unpin(pinned);
    Ok(Reply::Done {})
}

/// renameat2(2).
///
/// # Errors
/// `EXDEV` between attach points; `EINVAL` for flags other than `RENAME_NOREPLACE` or `RENAME_EXCHANGE`.
pub fn rename(server: &Server, (old_dir, old): (NodeId, Name<'_>), (new_dir, new): (NodeId, Name<'_>), flags: u32) -> Result<Reply> {
    let old_dir = directory(server, old_dir)?;
    let new_dir = directory(server, new_dir)?;
    if old_dir.attach != new_dir.attach {
        return Err(Errno::EXDEV);
    }
    let flags = RenameFlags::from_bits_retain(flags);
    if !(flags.is_empty() || flags == RenameFlags::NOREPLACE || flags == RenameFlags::EXCHANGE) {
        return Err(Errno::EINVAL);
    }
    let exchange = flags == RenameFlags::EXCHANGE;
    let _names = server.tree.names.write();
    let old_fd = server.tree.fd(&old_dir)?;
    let new_fd = server.tree.fd(&new_dir)?;
    // Only files that are still there move along; others have been replaced behind our back.
    let here = |fd: &PathFd, name, node: &Arc<Node>| resolve::stat_name(fd, name).is_ok_and(|attr| node.is(&attr));
    let moved = old_dir.child(old).filter(|node| here(&old_fd, old, node));
    let there = new_dir.child(new).filter(|node| here(&new_fd, new, node));
    let same = matches!((&moved, &there), (Some(a), Some(b)) if Arc::ptr_eq(a, b));
    let pinned = if exchange || same { None } else { pin(server, &new_dir, new) };
    rustix::fs::renameat_with(&*old_fd, old.as_bytes(), &*new_fd, new.as_bytes(), flags).map_err(errno)?;
    if same {
        return Ok(Reply::Done {});
    }
    unpin(pinned);
    let there = there.filter(|_| exchange);
    for node in [&moved, &there].into_iter().flatten() {
        node.lose_place();
    }
    if let Some(node) = &moved {
        node.move_to(&new_dir, new);
        if let Ok(attr) = resolve::stat_name(&*new_fd, new) {
            node.changed(&attr);
        }
    }
    if let Some(node) = &there {
        node.move_to(&old_dir, old);
        if let Ok(attr) = resolve::stat_name(&*old_fd, old) {
            node.changed(&attr);
        }
    }
    Ok(Reply::Done {})
}
