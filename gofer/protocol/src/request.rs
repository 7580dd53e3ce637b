//! What the sentry can ask for.

use crate::wire::{self, Malformed, Reader, Wire, messages};
use crate::{MAX_BATCH, Name, NodeId, SetAttr};
use bitflags::bitflags;

bitflags! {
    /// How to open a file. Everything else of open(2) (append, non-blocking, close-on-exec …) is the sentry's own business.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct OpenMode: u32 {
        /// For reading.
        const READ = 1;
        /// For writing.
        const WRITE = 2;
        /// Empty it first; needs `WRITE`.
        const TRUNCATE = 4;
        /// Writes reach the disk before they return (`O_SYNC`).
        const SYNC = 8;
        /// Reading leaves the access time alone (`O_NOATIME`).
        const NOATIME = 16;
        /// Past the host's page cache (`O_DIRECT`).
        const DIRECT = 32;
    }
}

impl<'a> Wire<'a> for OpenMode {
    fn put(&self, out: &mut Vec<u8>) {
        self.bits().put(out);
    }
    fn get(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        OpenMode::from_bits(u32::get(r)?).ok_or(Malformed::Value("open flags"))
    }
}

messages! {
    /// A request. Each names the [`Reply`](crate::Reply) it is answered with, if it does not fail.
    pub enum Request<'a> {
        /// The root of the attach point of this index. → `Node`
        Attach = 1 { index: u32 },
        /// Goes from `node` through directories, stopping at the first component that is missing, or is no directory
        /// but not the last one. No symlink is followed. → `Walked`
        Walk = 2 { node: NodeId, names: Vec<Name<'a>> },
        /// Walks, and opens the regular file found. → `Walked`, with a descriptor if the walk is complete
        Open = 3 { node: NodeId, names: Vec<Name<'a>>, mode: OpenMode },
        /// Makes a regular file that must not exist yet, and opens it. → `Node` with a descriptor
        Create = 4 { dir: NodeId, name: Name<'a>, open: OpenMode, mode: u32, uid: u32, gid: u32 },
        /// mkdir(2). → `Node`
        Mkdir = 5 { dir: NodeId, name: Name<'a>, mode: u32, uid: u32, gid: u32 },
        /// symlink(2). → `Node`
        Symlink = 6 { dir: NodeId, name: Name<'a>, target: &'a [u8], uid: u32, gid: u32 },
        /// Gives `node` another name. → `Node`: a handle for that name
        Link = 7 { node: NodeId, dir: NodeId, name: Name<'a> },
        /// mknod(2): regular files, FIFOs, sockets, and the character device 0:0 (overlay's whiteout). → `Node`
        Mknod = 8 { dir: NodeId, name: Name<'a>, mode: u32, rdev: u64, uid: u32, gid: u32 },
        /// unlink(2), or rmdir(2) if `rmdir`. → `Done`
        Unlink = 9 { dir: NodeId, name: Name<'a>, rmdir: bool },
        /// renameat2(2): `flags` may hold `RENAME_NOREPLACE` or `RENAME_EXCHANGE`. → `Done`
        Rename = 10 { old_dir: NodeId, old: Name<'a>, new_dir: NodeId, new: Name<'a>, flags: u32 },
        /// readlink(2). → `Bytes`
        Readlink = 11 { node: NodeId },
        /// Walks, and gives the next entries of the directory found. `cookie` is 0 to begin, later what the last entry carries. `.` and
        /// `..` are left out. Where room is left in the reply, up to `ahead` entries of other directories may come with it that will
        /// probably be read next: of those below this one, and then of those of the names `beside` it, and below them. → `Dir`
        Readdir = 12 { node: NodeId, names: Vec<Name<'a>>, cookie: u64, ahead: u32, beside: Vec<Name<'a>> },
        /// Attributes. → `Attr`
        Stat = 13 { node: NodeId },
        /// Changes attributes. → `Attr`: those after the change
        SetAttr = 14 { node: NodeId, set: SetAttr },
        /// statfs(2). → `StatFs`
        StatFs = 15 { node: NodeId },
        /// getxattr(2). → `Bytes`
        GetXattr = 16 { node: NodeId, name: &'a [u8] },
        /// setxattr(2), with its flags. → `Done`
        SetXattr = 17 { node: NodeId, name: &'a [u8], value: &'a [u8], flags: u32 },
        /// listxattr(2): names, each ended by NUL. → `Bytes`
        ListXattr = 18 { node: NodeId },
        /// removexattr(2). → `Done`
        RemoveXattr = 19 { node: NodeId, name: &'a [u8] },
        /// fsync(2), or fdatasync(2) if `data_only`. → `Done`
        Fsync = 20 { node: NodeId, data_only: bool },
        /// A socket of `kind` (`SOCK_STREAM` …) bound to a new name. Not listening. → `Node` with a descriptor
        Bind = 21 { dir: NodeId, name: Name<'a>, kind: u32, mode: u32, uid: u32, gid: u32 },
        /// A socket of `kind` connected to the one at `node`, by this user with these groups: whom the other side sees. → `Opened` with a
        /// descriptor
        Connect = 22 { node: NodeId, kind: u32, uid: u32, gid: u32, groups: Vec<u32> },
        /// A file without a name in `dir` (`O_TMPFILE`). → `Node` with a descriptor
        TmpFile = 23 { dir: NodeId, open: OpenMode, mode: u32, uid: u32, gid: u32 },
        /// Gives nodes back. Unknown ones are ignored. → `Done`
        Close = 24 { nodes: Vec<NodeId> },
        /// Another connection. → `Opened` with its socket
        NewChannel = 25 {},
    }
}

impl<'a> Request<'a> {
    /// Writes the message into `out`, which is emptied first.
    ///
    /// # Errors
    /// [`Malformed::TooLong`] if it exceeds [`MAX_MESSAGE`](crate::MAX_MESSAGE).
    pub fn encode(&self, tag: u32, out: &mut Vec<u8>) -> Result<(), Malformed> {
        wire::encode(self, tag, 0, out)
    }

    /// The same, saying where the asker waits: see [`Header::cpu`](crate::Header).
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_at(&self, tag: u32, cpu: usize, out: &mut Vec<u8>) -> Result<(), Malformed> {
        wire::encode(self, tag, u32::try_from(cpu).map_or(0, |cpu| cpu.saturating_add(1)), out)
    }

    /// Where the asker of a packet says that it waits.
    #[must_use]
    pub fn asker_cpu(bytes: &[u8]) -> Option<usize> {
        wire::split(bytes).ok().and_then(|(header, _)| header.cpu.checked_sub(1)).map(|cpu| cpu as usize)
    }

    /// Reads a packet: the request and its tag.
    ///
    /// # Errors
    /// If it is anything but one complete, valid request.
    pub fn parse(bytes: &'a [u8]) -> Result<(Request<'a>, u32), Malformed> {
        let (header, mut r) = wire::split(bytes)?;
        if header.errno != 0 {
            return Err(Malformed::Value("header"));
        }
        let request = <Request as wire::Body>::get_body(header.op, &mut r)?;
        r.finish()?;
        match &request {
            Request::Walk { names, .. } | Request::Open { names, .. } | Request::Readdir { names, .. } if names.len() > MAX_BATCH => {
                Err(Malformed::TooLong("walk"))
            }
            Request::Readdir { beside, .. } if beside.len() > MAX_BATCH => Err(Malformed::TooLong("beside")),
            Request::Close { nodes } if nodes.len() > MAX_BATCH => Err(Malformed::TooLong("close")),
            Request::Connect { groups, .. } if groups.len() > MAX_BATCH => Err(Malformed::TooLong("groups")),
            _ => Ok((request, header.tag)),
        }
    }

    /// The tag of a packet that [`Request::parse`] refused, if its header can be read: so that it can be answered.
    #[must_use]
    pub fn tag_of(bytes: &[u8]) -> Option<u32> {
        wire::split(bytes).ok().map(|(header, _)| header.tag)
    }
}
