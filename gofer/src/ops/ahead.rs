//! Reading directories before they are asked for: whoever reads a tree reads the directories below the one it has just read, and those beside
//! it, and a request for each would cost more than the reading.
//!
//! Nothing here changes what is answered to the request itself: what cannot be read is left out, and asked for later.

use super::dir::{Room, all_there_is_room_for};
use crate::node::Node;
use crate::resolve;
use crate::server::Server;
use abi::fs::FileType;
use gofer_protocol::{Ahead, DirEntry, Name};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Levels below a directory that are looked at: each takes a descriptor.
const DEEPEST: usize = 16;

/// The directory that was asked for.
pub struct From<'a> {
    /// Its node.
    pub node: &'a Arc<Node>,
    /// Itself.
    pub fd: &'a OwnedFd,
    /// All its entries.
    pub entries: &'a [DirEntry],
}

/// A directory whose subdirectories are being read.
struct Level {
    /// Its number in the reply: see [`Ahead::within`].
    number: u32,
    fd: OwnedFd,
    /// The entry to look at next.
    next: usize,
}

/// What came of a name.
enum Found {
    /// A directory, which is in the reply now.
    Directory(Level),
    /// Nothing that can be read.
    Nothing,
    /// More than there is room for: that ends everything.
    NoRoom,
}

/// What is being collected.
struct Reader<'a> {
    server: &'a Server,
    cross_mounts: bool,
    room: &'a mut Room,
    found: Vec<Ahead>,
}

/// Reads directories below one, and then those `beside` it, while there is room.
pub fn read(server: &Server, from: &From<'_>, beside: &[Name<'_>], room: &mut Room) -> Vec<Ahead> {
    let mut reader = Reader { server, cross_mounts: server.tree.crosses(from.node), room, found: Vec::new() };
    if reader.room.entries > 0 && reader.below(from) {
        reader.beside(from.node, beside);
    }
    reader.found
}

impl Reader<'_> {
    /// Reads a directory in `dir` and enters it into the reply.
    fn directory(&mut self, dir: &OwnedFd, name: Name<'_>, known: Option<&DirEntry>, (within, place): (u32, usize)) -> Found {
        let Ok(fd) = self.server.tree.retry(|| resolve::open_directory(dir, name, self.cross_mounts)) else { return Found::Nothing };
        // Something else may have come to the name.
        if known.is_some_and(|known| !resolve::stat_fd(&fd).is_ok_and(|now| now.same_file(&known.attr))) {
            return Found::Nothing;
        }
        if !self.room.take(Ahead::WIRE_LEN, 0) {
            return Found::NoRoom;
        }
        let Ok((entries, end)) = all_there_is_room_for(&fd, self.room) else { return Found::Nothing };
        if !end {
            return Found::NoRoom;
        }
        self.found.push(Ahead { within, place: place as u32, entries });
        Found::Directory(Level { number: self.found.len() as u32, fd, next: 0 })
    }

    /// Reads what is below a directory that was read, in the order in which a walk through the tree comes by. False: there is no more room.
    fn below(&mut self, from: &From<'_>) -> bool {
        let mut next = 0;
        while let Some(place) = next_directory(from.entries, next) {
            next = place + 1;
            let Some(entry) = from.entries.get(place) else { break };
            let Ok(name) = Name::new(&entry.name.0) else { continue };
            match self.directory(from.fd, name, Some(entry), (0, place)) {
                Found::Nothing => {}
                Found::Directory(level) => {
                    if !self.descend(level) {
                        return false;
                    }
                }
                Found::NoRoom => return false,
            }
        }
        true
    }

    /// Reads everything below a directory that has been entered into the reply.
    fn descend(&mut self, top: Level) -> bool {
        let mut levels = vec![top];
        while let Some(level) = levels.last_mut() {
            let entries = self.found.get(level.number as usize - 1).map_or(&[][..], |ahead| &ahead.entries);
            let Some(place) = next_directory(entries, level.next) else {
                levels.pop();
                continue;
            };
            level.next = place + 1;
            let Some(entry) = entries.get(place).cloned() else { continue };
            let (number, deep) = (level.number, levels.len() >= DEEPEST);
            let (Some(level), Ok(name), false) = (levels.last(), Name::new(&entry.name.0), deep) else { continue };
            match self.directory(&level.fd, name, Some(&entry), (number, place)) {
                Found::Nothing => {}
                Found::Directory(below) => levels.push(below),
                Found::NoRoom => return false,
            }
        }
        true
    }

    /// Reads directories in the one that `node` is in, and what is below them.
    fn beside(&mut self, node: &Arc<Node>, names: &[Name<'_>]) {
        let Some(parent) = node.parent() else { return };
        let opened = {
            let _names = self.server.tree.names.read();
            self.server.tree.fd(&parent)
        };
        let Ok(dir) = opened else { return };
        for (place, name) in names.iter().enumerate() {
            match self.directory(dir.owned(), *name, None, (Ahead::BESIDE, place)) {
                Found::Nothing => {}
                Found::Directory(level) => {
                    if !self.descend(level) {
                        return;
                    }
                }
                Found::NoRoom => return,
            }
        }
    }
}

/// The place of the next directory among entries.
fn next_directory(entries: &[DirEntry], from: usize) -> Option<usize> {
    let rest = entries.get(from..)?;
    rest.iter().position(|e| e.attr.file_type() == Some(FileType::Directory)).map(|n| from + n)
}
