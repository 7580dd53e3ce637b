//! What the gofer answers.

use crate::wire::{self, Bytes, Malformed, Reader, Wire, messages};
use crate::{Attr, Header, NodeId, StatFs};
use abi::Errno;

/// A file found or made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its handle. The asker owns it, and closes it.
    pub node: NodeId,
    /// Its attributes.
    pub attr: Attr,
    /// What it points to, if it is a symlink.
    pub target: Option<Bytes>,
}

impl<'a> Wire<'a> for Entry {
    fn put(&self, out: &mut Vec<u8>) {
        self.node.put(out);
        self.attr.put(out);
        self.target.put(out);
    }
    fn get(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(Entry { node: Wire::get(r)?, attr: Wire::get(r)?, target: Wire::get(r)? })
    }
}

/// Why a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Every component was found.
    Complete,
    /// The next component does not exist.
    Missing,
    /// The last entry is no directory, and components are left.
    NotDirectory,
    /// The last entry is a symlink, and components are left.
    Symlink,
    /// The next component could not be looked at.
    Failed(Errno),
}

impl<'a> Wire<'a> for Stop {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Stop::Complete => 0u8.put(out),
            Stop::Missing => 1u8.put(out),
            Stop::NotDirectory => 2u8.put(out),
            Stop::Symlink => 3u8.put(out),
            Stop::Failed(e) => {
                4u8.put(out);
                e.put(out);
            }
        }
    }
    fn get(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(match u8::get(r)? {
            0 => Stop::Complete,
            1 => Stop::Missing,
            2 => Stop::NotDirectory,
            3 => Stop::Symlink,
            4 => Stop::Failed(Wire::get(r)?),
            _ => return Err(Malformed::Value("stop reason")),
        })
    }
}

/// How far a walk came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalkReply {
    /// One for each component found, in order.
    pub entries: Vec<Entry>,
    /// Why it ended there.
    pub stop: Stop,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Where to continue behind it.
    pub cookie: u64,
    /// Its attributes.
    pub attr: Attr,
    /// Its name.
    pub name: Bytes,
}

impl DirEntry {
    /// Bytes on the wire of an entry with a name of `name` bytes.
    #[must_use]
    pub const fn wire_len(name: usize) -> usize {
        8 + size_of::<Attr>() + 4 + name
    }
}

impl<'a> Wire<'a> for DirEntry {
    fn put(&self, out: &mut Vec<u8>) {
        self.cookie.put(out);
        self.attr.put(out);
        self.name.put(out);
    }
    fn get(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(DirEntry { cookie: Wire::get(r)?, attr: Wire::get(r)?, name: Wire::get(r)? })
    }
}

/// All entries of a directory that was not asked for, but will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// In which directory it is: 0 for the one that was asked for, a higher number *n* for the *n*-th of these,
    /// [`BESIDE`](Self::BESIDE) for the one that both are in.
    pub within: u32,
    /// Which one it is: a place among the entries of that directory, or among the names `beside` of the request.
    pub place: u32,
    /// What it holds.
    pub entries: Vec<DirEntry>,
}

impl Ahead {
    /// See [`within`](Self::within).
    pub const BESIDE: u32 = u32::MAX;
    /// Bytes on the wire without the entries.
    pub const WIRE_LEN: usize = 4 + 4 + 4;
}

impl<'a> Wire<'a> for Ahead {
    fn put(&self, out: &mut Vec<u8>) {
        self.within.put(out);
        self.place.put(out);
        self.entries.put(out);
    }
    fn get(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(Ahead { within: Wire::get(r)?, place: Wire::get(r)?, entries: Wire::get(r)? })
    }
}

/// What reading a directory gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirReply {
    /// How the directory was reached: the rest counts only if that is complete.
    pub walk: WalkReply,
    /// Its next entries.
    pub entries: Vec<DirEntry>,
    /// There are no more behind them.
    pub end: bool,
    /// What else was read. Empty if `end` is not set.
    pub ahead: Vec<Ahead>,
}

messages! {
    /// The answer to a request that did not fail.
    pub enum Reply {
        /// It is done; there is nothing to say.
        Done = 1 {},
        /// A file, perhaps with a descriptor beside the message.
        Node = 2 { entry: Entry, #[doc = "The attach point refuses changes; told by `Attach`."] readonly: bool },
        /// How far a walk came, perhaps with a descriptor of its end beside the message.
        Walked = 3 { entries: Vec<Entry>, stop: Stop },
        /// A descriptor travels beside the message.
        Opened = 4 {},
        /// Attributes.
        Attr = 5 { attr: Attr },
        /// A symlink's target, an extended attribute's value, or a list of their names.
        Bytes = 6 { bytes: Bytes },
        /// How far a walk came, and if it is complete, entries of the directory it led to: see [`DirReply`].
        Dir = 7 { walked: Vec<Entry>, stop: Stop, entries: Vec<DirEntry>, end: bool, ahead: Vec<Ahead> },
        /// A file system.
        StatFs = 8 { statfs: StatFs },
        /// The request failed.
        Failed = 9 { errno: Errno },
    }
}

impl Reply {
    /// Writes the message into `out`, which is emptied first.
    ///
    /// # Errors
    /// [`Malformed::TooLong`] if it exceeds [`MAX_MESSAGE`](crate::MAX_MESSAGE).
    pub fn encode(&self, tag: u32, out: &mut Vec<u8>) -> Result<(), Malformed> {
        if let Reply::Failed { errno } = self {
            out.clear();
            Header { len: 0, op: 9, errno: errno.raw() as u16, tag, cpu: 0 }.put(out);
            return wire::finish(out);
        }
        wire::encode(self, tag, 0, out)
    }

    /// Reads a packet: the reply and its tag.
    ///
    /// # Errors
    /// If it is anything but one complete, valid reply.
    pub fn parse(bytes: &[u8]) -> Result<(Reply, u32), Malformed> {
        let (header, mut r) = wire::split(bytes)?;
        let reply = match (header.op, header.errno) {
            (9, n @ 1..4096) => Reply::Failed { errno: Errno::from_raw(i32::from(n)) },
            (9, _) | (_, 1..) => return Err(Malformed::Value("header")),
            (op, 0) => <Reply as wire::Body>::get_body(op, &mut r)?,
        };
        r.finish()?;
        Ok((reply, header.tag))
    }
}
