//! Reading directories.

use crate::connection::Session;
use crate::node::Node;
use crate::ops::open;
use crate::resolve::{self, Result, errno};
use crate::server::Server;
use abi::Errno;
use abi::fs::FileType;
use gofer_protocol::{Bytes, DirEntry, MAX_MESSAGE, Name, NodeId, Reply};
use rustix::fs::{OFlags, RawDir, SeekFrom};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Room in a reply for entries.
const ROOM: usize = MAX_MESSAGE - 64;

/// Reads on behind `cookie`.
///
/// The cookies are the host's directory offsets, which some file systems (overlay) keep for one open directory only:
/// the directory stays open from one request to the next, and is opened anew only where reading begins or jumps.
pub fn readdir(server: &Server, session: &mut Session, id: NodeId, cookie: u64, nodes: bool) -> Result<Reply> {
    let node = server.tree.get(id)?;
    if node.kind != FileType::Directory {
        return Err(Errno::ENOTDIR);
    }
    let fd = match session.dir.take() {
        Some((at, next, fd)) if at == id && next == cookie && cookie != 0 => fd,
        _ => {
            let path = {
                let _names = server.tree.names.read();
                server.tree.fd(&node)?
            };
            open::reopen(server, &path, OFlags::RDONLY | OFlags::DIRECTORY)?
        }
    };
    // Also where it was left: the host may have read further ahead than the last reply had room for.
    if cookie != 0 {
        rustix::fs::seek(&fd, SeekFrom::Start(cookie)).map_err(errno)?;
    }
    let (entries, end) = read(server, &node, &fd, nodes)?;
    if let (false, Some(last)) = (end, entries.last()) {
        session.dir = Some((id, last.cookie, fd));
    }
    Ok(Reply::Dir { entries, end })
}

/// As many entries as a reply has room for, and whether those were all.
fn read(server: &Server, dir: &Arc<Node>, fd: &OwnedFd, nodes: bool) -> Result<(Vec<DirEntry>, bool)> {
    let _names = server.tree.names.read();
    let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
    let mut raw = RawDir::new(fd, &mut buffer);
    let mut entries = Vec::new();
    let mut room = ROOM;
    while let Some(entry) = raw.next() {
        let entry = match entry {
            Ok(entry) => entry,
            // The directory was removed while open: it reads as empty.
            Err(rustix::io::Errno::NOENT) => return Ok((entries, true)),
            Err(e) if entries.is_empty() => return Err(errno(e)),
            Err(_) => return Ok((entries, false)),
        };
        let bytes = entry.file_name().to_bytes();
        let Ok(name) = Name::new(bytes) else { continue };
        let Some(left) = room.checked_sub(DirEntry::wire_len(bytes.len())) else { return Ok((entries, false)) };
        // Gone since it was read.
        let Ok(attr) = resolve::stat_name(fd, name) else { continue };
        let node = if nodes { Some(server.tree.handle(server.tree.adopt(dir, name, &attr)?)?) } else { None };
        room = left;
        entries.push(DirEntry { cookie: entry.next_entry_cookie(), node, attr, name: Bytes(bytes.to_vec()) });
    }
    Ok((entries, true))
}
