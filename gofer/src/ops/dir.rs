//! Reading directories.

use super::{ahead, open, walk};
use crate::connection::Session;
use crate::node::Node;
use crate::resolve::{self, Result, errno};
use crate::server::Server;
use abi::Errno;
use abi::fs::FileType;
use gofer_protocol::{Bytes, DirEntry, Entry, MAX_MESSAGE, Name, NodeId, Reply, Stop};
use rustix::fs::{OFlags, RawDir, SeekFrom};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Room in a reply for entries, beside what a walk may have given.
const ROOM: usize = MAX_MESSAGE - 64;

/// Which directory to read, and from where on.
pub struct Way<'a> {
    /// From this node …
    pub node: NodeId,
    /// … by these names,
    pub names: &'a [Name<'a>],
    /// behind this entry.
    pub cookie: u64,
}

/// What will probably be read next.
pub struct Guess<'a> {
    /// So many entries at most.
    pub most: usize,
    /// Directories beside the one that is read.
    pub beside: &'a [Name<'a>],
}

/// Walks, reads on behind the cookie, and then elsewhere.
///
/// The cookies are the host's directory offsets, which some file systems (overlay) keep for one open directory only:
/// the directory stays open from one request to the next, and is opened anew only where reading begins or jumps.
pub fn readdir(server: &Server, session: &mut Session, way: &Way<'_>, guess: &Guess<'_>) -> Result<Reply> {
    let at = server.tree.get(way.node)?;
    let walked = {
        let _names = server.tree.names.read();
        walk::along(server, at, way.names, true)
    };
    if walked.stop != Stop::Complete {
        return Ok(Reply::Dir { walked: walked.entries, stop: walked.stop, entries: Vec::new(), end: true, ahead: Vec::new() });
    }
    let id = walked.entries.last().map_or(way.node, |last| last.node);
    let mut room = Room { bytes: ROOM.saturating_sub(walked.entries.iter().map(wire_len).sum()), entries: usize::MAX };
    let outcome = open_at(server, session, id, &walked.end, way.cookie).and_then(|fd| {
        let (entries, end) = all_there_is_room_for(&fd, &mut room)?;
        Ok((fd, entries, end))
    });
    let (fd, entries, end) = match outcome {
        Ok(read) => read,
        Err(e) => {
            walked.undo(server);
            return Err(e);
        }
    };
    let ahead = if end {
        room.entries = guess.most;
        ahead::read(server, &ahead::From { node: &walked.end, fd: &fd, entries: &entries }, guess.beside, &mut room)
    } else {
        Vec::new()
    };
    if let (false, Some(last)) = (end, entries.last()) {
        session.dir = Some((id, last.cookie, fd));
    }
    Ok(Reply::Dir { walked: walked.entries, stop: walked.stop, entries, end, ahead })
}

/// Bytes on the wire.
fn wire_len(entry: &Entry) -> usize {
    8 + size_of::<gofer_protocol::Attr>() + 5 + entry.target.as_ref().map_or(0, |target| target.0.len())
}

/// The directory, open at its place behind `cookie`.
fn open_at(server: &Server, session: &mut Session, id: NodeId, node: &Arc<Node>, cookie: u64) -> Result<OwnedFd> {
    if node.kind != FileType::Directory {
        return Err(Errno::ENOTDIR);
    }
    let fd = match session.dir.take() {
        Some((at, next, fd)) if at == id && next == cookie && cookie != 0 => fd,
        _ => {
            let path = {
                let _names = server.tree.names.read();
                server.tree.fd(node)?
            };
            open::reopen(server, &path, OFlags::RDONLY | OFlags::DIRECTORY)?
        }
    };
    // Also where it was left: the host may have read further ahead than the last reply had room for.
    if cookie != 0 {
        rustix::fs::seek(&fd, SeekFrom::Start(cookie)).map_err(errno)?;
    }
    Ok(fd)
}

/// What a reply may still hold.
pub struct Room {
    /// Bytes on the wire.
    pub bytes: usize,
    /// Entries.
    pub entries: usize,
}

impl Room {
    /// Takes room for something; false if there is too little.
    pub fn take(&mut self, bytes: usize, entries: usize) -> bool {
        match (self.bytes.checked_sub(bytes), self.entries.checked_sub(entries)) {
            (Some(bytes), Some(entries)) => {
                *self = Room { bytes, entries };
                true
            }
            _ => false,
        }
    }
}

/// As many entries of an open directory as there is room for, and whether those were all.
pub fn all_there_is_room_for(fd: &OwnedFd, room: &mut Room) -> Result<(Vec<DirEntry>, bool)> {
    let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
    let mut raw = RawDir::new(fd, &mut buffer);
    let mut entries = Vec::new();
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
        if !room.take(DirEntry::wire_len(bytes.len()), 1) {
            return Ok((entries, false));
        }
        // Gone since it was read.
        let Ok(attr) = resolve::stat_name(fd, name) else { continue };
        entries.push(DirEntry { cookie: entry.next_entry_cookie(), attr, name: Bytes(bytes.to_vec()) });
    }
    Ok((entries, true))
}
