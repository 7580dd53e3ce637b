//! Getting from file to file: attach, walk, readlink.

use crate::node::Node;
use crate::resolve::{self, Result};
use crate::server::Server;
use abi::Errno;
use abi::fs::FileType;
use gofer_protocol::{Attr, Bytes, Entry, Name, NodeId, Reply, Stop};
use std::sync::Arc;

/// The root of an attach point.
pub fn attach(server: &Server, index: u32) -> Result<Reply> {
    let (node, attach) = server.root(index as usize)?;
    let attr = resolve::stat_fd(&*server.tree.fd(node)?)?;
    let entry = Entry { node: server.tree.handle(node.clone())?, attr, target: None };
    Ok(Reply::Node { entry, readonly: attach.readonly })
}

/// Where a walk ended.
pub struct Walked {
    /// One for each component found.
    pub entries: Vec<Entry>,
    /// Why it ended.
    pub stop: Stop,
    /// The last file found.
    pub end: Arc<Node>,
}

impl Walked {
    /// Takes the handles back: the request fails.
    pub fn undo(self, server: &Server) {
        self.entries.iter().for_each(|entry| server.tree.close(entry.node));
    }
}

/// Looks up one component after another.
pub fn walk(server: &Server, node: NodeId, names: &[Name<'_>]) -> Result<Reply> {
    let at = server.tree.get(node)?;
    let _names = server.tree.names.read();
    let Walked { entries, stop, .. } = along(server, at, names, false);
    Ok(Reply::Walked { entries, stop })
}

/// The same from a node. `open`: the last one will be opened, not only looked at. The caller holds the lock of names.
pub fn along(server: &Server, mut at: Arc<Node>, names: &[Name<'_>], open: bool) -> Walked {
    let mut entries: Vec<Entry> = Vec::with_capacity(names.len());
    let mut stop = Stop::Complete;
    for (i, name) in names.iter().enumerate() {
        match at.kind {
            FileType::Directory => {}
            FileType::Symlink => stop = Stop::Symlink,
            _ => stop = Stop::NotDirectory,
        }
        if stop != Stop::Complete {
            break;
        }
        let last = i + 1 == names.len() && !open;
        match step(server, &at, *name, last) {
            Ok((next, entry)) => {
                at = next;
                entries.push(entry);
            }
            Err(e) => {
                stop = if e == Errno::ENOENT { Stop::Missing } else { Stop::Failed(e) };
                break;
            }
        }
    }
    // A reply that is too long would fail as a whole: symlinks end a walk, so there is one target at most.
    Walked { entries, stop, end: at }
}

/// One component. The last one is mostly only looked at: it is opened when somebody wants something of it.
fn step(server: &Server, dir: &Arc<Node>, name: Name<'_>, last: bool) -> Result<(Arc<Node>, Entry)> {
    if !last {
        let (node, attr) = server.tree.enter(dir, name)?;
        let target = if node.kind == FileType::Symlink { Some(resolve::readlink_fd(&*server.tree.fd(&node)?)?) } else { None };
        let entry = entry(server, node.clone(), attr, target)?;
        return Ok((node, entry));
    }
    let dir_fd = server.tree.fd(dir)?;
    let attr = resolve::stat_name(&*dir_fd, name)?;
    let target = if attr.file_type() == Some(FileType::Symlink) { Some(resolve::readlink_name(&*dir_fd, name)?) } else { None };
    let node = server.tree.adopt(dir, name, &attr)?;
    let entry = entry(server, node.clone(), attr, target)?;
    Ok((node, entry))
}

/// Gives the sentry a handle.
pub fn entry(server: &Server, node: Arc<Node>, attr: Attr, target: Option<Vec<u8>>) -> Result<Entry> {
    Ok(Entry { node: server.tree.handle(node)?, attr, target: target.map(Bytes) })
}

/// readlink(2).
pub fn readlink(server: &Server, node: NodeId) -> Result<Reply> {
    let node = server.tree.get(node)?;
    if node.kind != FileType::Symlink {
        return Err(Errno::EINVAL);
    }
    let _names = server.tree.names.read();
    Ok(Reply::Bytes { bytes: Bytes(resolve::readlink_fd(&*server.tree.fd(&node)?)?) })
}
