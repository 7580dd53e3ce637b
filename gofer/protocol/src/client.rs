//! The asking side: a pool of connections to one gofer, and a function for each request.
//!
//! A caller takes an idle connection, or has the gofer make one more while there are fewer than the pool's limit, or
//! waits for one. It prefers the connection that was used last on its processor: whoever serves it is there, too (see [`Header::cpu`](crate::Header)). Nodes that are given back ([`Client::forget`]) are collected and closed in batches ahead of a later
//! request, so that dropping a file never talks to the gofer.

use crate::wire::Bytes;
use crate::{
    Attr, Channel, DirReply, Entry, MAX_BATCH, MAX_MESSAGE, Name, NodeId, OpenMode, Reply, Request, SetAttr, StatFs, Stop, WalkReply,
};
use abi::Errno;
use parking_lot::{Condvar, Mutex};
use std::os::fd::OwnedFd;

/// Nodes that wait for being closed before a request is preceded by their closing.
const CLOSE_BATCH: usize = 64;
/// Connections a pool opens at most, unless told otherwise. The gofer allows no more than its own limit.
pub const DEFAULT_CHANNELS: usize = 16;

/// The result of a request: errors are the gofer's, or `EIO` if the gofer is gone or talks nonsense.
pub type Result<T> = std::result::Result<T, Errno>;

/// A pool of connections to one gofer.
#[derive(Debug)]
pub struct Client {
    pool: Mutex<Pool>,
    idle: Condvar,
    forgotten: Mutex<Vec<NodeId>>,
}

/// The connections.
#[derive(Debug)]
struct Pool {
    idle: Vec<Lane>,
    /// Connections there are, idle or in use.
    open: usize,
    limit: usize,
}

impl Pool {
    /// An idle connection, if there is one.
    fn take(&mut self) -> Option<Lane> {
        let cpu = rustix::thread::sched_getcpu();
        let last = self.idle.len().checked_sub(1)?;
        let near = self.idle.iter().rposition(|lane| lane.cpu == cpu).unwrap_or(last);
        Some(self.idle.remove(near))
    }
}

/// A connection with its buffers.
#[derive(Debug)]
struct Lane {
    channel: Channel,
    out: Vec<u8>,
    buffer: Box<[u8]>,
    tag: u32,
    /// The processor that it was used on last.
    cpu: usize,
}

impl Lane {
    fn new(channel: Channel) -> Lane {
        Lane { channel, out: Vec::new(), buffer: vec![0; MAX_MESSAGE].into_boxed_slice(), tag: 0, cpu: 0 }
    }

    /// One round trip. The outer error: the connection is of no more use.
    fn call(&mut self, request: &Request<'_>) -> Result<Result<(Reply, Option<OwnedFd>)>> {
        self.tag = self.tag.wrapping_add(1);
        self.cpu = rustix::thread::sched_getcpu();
        if let Err(e) = request.encode_at(self.tag, self.cpu, &mut self.out) {
            return Ok(Err(e.into()));
        }
        self.channel.send(&self.out, None).map_err(|_| Errno::EIO)?;
        let received = self.channel.recv(&mut self.buffer).map_err(|_| Errno::EIO)?;
        let packet = self.buffer.get(..received.len).ok_or(Errno::EIO)?;
        match Reply::parse(packet) {
            Ok((_, tag)) if tag != self.tag => Err(Errno::EIO),
            Ok((Reply::Failed { errno }, _)) => Ok(Err(errno)),
            Ok(_) if received.lost_fd => Ok(Err(Errno::ENFILE)),
            Ok((reply, _)) => Ok(Ok((reply, received.fd))),
            Err(_) => Err(Errno::EIO),
        }
    }
}

/// Whether these can be the entries of a walk of so many names.
fn consistent(entries: &[Entry], stop: Stop, names: usize) -> bool {
    if stop == Stop::Complete { entries.len() == names } else { entries.len() <= names }
}

/// Takes the fields out of the reply that must come; anything else is the gofer's fault.
macro_rules! expect {
    ($call:expr, $pattern:pat => $value:expr) => {
        match $call {
            $pattern => Ok($value),
            _ => Err(Errno::EIO),
        }
    };
}

impl Client {
    /// A pool that begins with `channel`, and has at most `limit` connections.
    #[must_use]
    pub fn new(channel: Channel, limit: usize) -> Client {
        let pool = Pool { idle: vec![Lane::new(channel)], open: 1, limit: limit.max(1) };
        Client { pool: Mutex::new(pool), idle: Condvar::new(), forgotten: Mutex::new(Vec::new()) }
    }

    /// Gives a node back, at some later time.
    pub fn forget(&self, node: NodeId) {
        self.forgotten.lock().push(node);
    }

    /// Closes every node given back so far.
    ///
    /// # Errors
    /// `EIO` if the gofer is gone.
    pub fn flush(&self) -> Result<()> {
        loop {
            let nodes = self.take_forgotten(1);
            if nodes.is_empty() {
                return Ok(());
            }
            self.round_trip(&Request::Close { nodes })?;
        }
    }

    /// Up to a batch of forgotten nodes; none if fewer than `min` wait.
    fn take_forgotten(&self, min: usize) -> Vec<NodeId> {
        let mut forgotten = self.forgotten.lock();
        if forgotten.len() < min {
            return Vec::new();
        }
        let keep = forgotten.len().saturating_sub(MAX_BATCH);
        forgotten.split_off(keep)
    }

    /// An idle connection, or a new one, or the next to become idle.
    fn checkout(&self) -> Result<Lane> {
        let mut pool = self.pool.lock();
        loop {
            if pool.open == 0 {
                return Err(Errno::EIO);
            }
            if let Some(mut lane) = pool.take() {
                // Who takes the last idle one has another made, so that the next caller need not wait.
                let grow = pool.idle.is_empty() && pool.open < pool.limit;
                if grow {
                    pool.open += 1;
                    drop(pool);
                    self.grow(&mut lane);
                }
                return Ok(lane);
            }
            self.idle.wait(&mut pool);
        }
    }

    /// Asks for one more connection. The caller has counted it already.
    fn grow(&self, lane: &mut Lane) {
        let made = match lane.call(&Request::NewChannel {}) {
            Ok(Ok((Reply::Opened {}, Some(fd)))) => Some(Lane::new(Channel::from(fd))),
            _ => None,
        };
        let mut pool = self.pool.lock();
        if let Some(lane) = made {
            pool.idle.push(lane);
            self.idle.notify_one();
        } else {
            // The gofer gives no more: live with what there is.
            pool.open = pool.open.saturating_sub(1);
            pool.limit = pool.open.max(1);
        }
    }

    /// Asks and waits for the answer.
    fn call(&self, request: &Request<'_>) -> Result<(Reply, Option<OwnedFd>)> {
        let nodes = self.take_forgotten(CLOSE_BATCH);
        if !nodes.is_empty() {
            self.round_trip(&Request::Close { nodes })?;
        }
        self.round_trip(request)
    }

    fn round_trip(&self, request: &Request<'_>) -> Result<(Reply, Option<OwnedFd>)> {
        let mut lane = self.checkout()?;
        let outcome = lane.call(request);
        let mut pool = self.pool.lock();
        match outcome {
            Ok(result) => {
                pool.idle.push(lane);
                self.idle.notify_one();
                result
            }
            Err(e) => {
                pool.open = pool.open.saturating_sub(1);
                self.idle.notify_all();
                Err(e)
            }
        }
    }

    /// A request that is answered with a file.
    fn node(&self, request: &Request<'_>) -> Result<Entry> {
        expect!(self.call(request)?, (Reply::Node { entry, .. }, _) => entry)
    }

    /// A request that is answered with a file and a descriptor.
    fn node_fd(&self, request: &Request<'_>) -> Result<(Entry, OwnedFd)> {
        expect!(self.call(request)?, (Reply::Node { entry, .. }, Some(fd)) => (entry, fd))
    }

    /// A request that is answered with nothing but success.
    fn done(&self, request: &Request<'_>) -> Result<()> {
        expect!(self.call(request)?, (Reply::Done {}, _) => ())
    }

    /// [`Request::Attach`]: the root, and whether changes are refused there.
    pub fn attach(&self, index: u32) -> Result<(Entry, bool)> {
        expect!(self.call(&Request::Attach { index })?, (Reply::Node { entry, readonly }, _) => (entry, readonly))
    }

    /// [`Request::Walk`]. More than [`MAX_BATCH`] names are walked in several requests.
    pub fn walk(&self, node: NodeId, names: &[Name<'_>]) -> Result<WalkReply> {
        let mut all = WalkReply { entries: Vec::new(), stop: Stop::Complete };
        let mut from = node;
        for part in names.chunks(MAX_BATCH) {
            let reply = self.call(&Request::Walk { node: from, names: part.to_vec() });
            let (mut entries, stop) = match reply {
                Ok((Reply::Walked { entries, stop }, _)) if consistent(&entries, stop, part.len()) => (entries, stop),
                // What the parts before gave is kept: the failure is where the walk ends.
                Ok(_) => (Vec::new(), Stop::Failed(Errno::EIO)),
                Err(e) if all.entries.is_empty() => return Err(e),
                Err(e) => (Vec::new(), Stop::Failed(e)),
            };
            if let Some(last) = entries.last() {
                from = last.node;
            }
            all.entries.append(&mut entries);
            all.stop = stop;
            if stop != Stop::Complete {
                break;
            }
        }
        Ok(all)
    }

    /// [`Request::Open`], with at most [`MAX_BATCH`] names: how far the walk came, and the descriptor if it is complete.
    pub fn open(&self, node: NodeId, names: &[Name<'_>], mode: OpenMode) -> Result<(WalkReply, Option<OwnedFd>)> {
        let reply = self.call(&Request::Open { node, names: names.to_vec(), mode })?;
        let (entries, stop, fd) = expect!(reply, (Reply::Walked { entries, stop }, fd) => (entries, stop, fd))?;
        let as_asked = consistent(&entries, stop, names.len()) && fd.is_some() == (stop == Stop::Complete);
        if as_asked { Ok((WalkReply { entries, stop }, fd)) } else { Err(Errno::EIO) }
    }

    /// [`Request::Create`].
    pub fn create(&self, dir: NodeId, name: Name<'_>, open: OpenMode, mode: u32, uid: u32, gid: u32) -> Result<(Entry, OwnedFd)> {
        self.node_fd(&Request::Create { dir, name, open, mode, uid, gid })
    }

    /// [`Request::Mkdir`].
    pub fn mkdir(&self, dir: NodeId, name: Name<'_>, mode: u32, uid: u32, gid: u32) -> Result<Entry> {
        self.node(&Request::Mkdir { dir, name, mode, uid, gid })
    }

    /// [`Request::Symlink`].
    pub fn symlink(&self, dir: NodeId, name: Name<'_>, target: &[u8], uid: u32, gid: u32) -> Result<Entry> {
        self.node(&Request::Symlink { dir, name, target, uid, gid })
    }

    /// [`Request::Link`].
    pub fn link(&self, node: NodeId, dir: NodeId, name: Name<'_>) -> Result<Entry> {
        self.node(&Request::Link { node, dir, name })
    }

    /// [`Request::Mknod`].
    pub fn mknod(&self, dir: NodeId, name: Name<'_>, mode: u32, rdev: u64, uid: u32, gid: u32) -> Result<Entry> {
        self.node(&Request::Mknod { dir, name, mode, rdev, uid, gid })
    }

    /// [`Request::Unlink`].
    pub fn unlink(&self, dir: NodeId, name: Name<'_>, rmdir: bool) -> Result<()> {
        self.done(&Request::Unlink { dir, name, rmdir })
    }

    /// [`Request::Rename`].
    pub fn rename(&self, old_dir: NodeId, old: Name<'_>, new_dir: NodeId, new: Name<'_>, flags: u32) -> Result<()> {
        self.done(&Request::Rename { old_dir, old, new_dir, new, flags })
    }

    /// [`Request::Readlink`].
    pub fn readlink(&self, node: NodeId) -> Result<Vec<u8>> {
        self.bytes(&Request::Readlink { node })
    }

    /// [`Request::Readdir`], with at most [`MAX_BATCH`] names of either kind.
    pub fn readdir(&self, node: NodeId, names: &[Name<'_>], cookie: u64, ahead: u32, beside: Vec<Name<'_>>) -> Result<DirReply> {
        let reply = self.call(&Request::Readdir { node, names: names.to_vec(), cookie, ahead, beside })?;
        let (walked, stop, entries, end, ahead) =
            expect!(reply, (Reply::Dir { walked, stop, entries, end, ahead }, _) => (walked, stop, entries, end, ahead))?;
        let as_asked = consistent(&walked, stop, names.len());
        if as_asked { Ok(DirReply { walk: WalkReply { entries: walked, stop }, entries, end, ahead }) } else { Err(Errno::EIO) }
    }

    /// [`Request::Stat`].
    pub fn stat(&self, node: NodeId) -> Result<Attr> {
        expect!(self.call(&Request::Stat { node })?, (Reply::Attr { attr }, _) => attr)
    }

    /// [`Request::SetAttr`].
    pub fn set_attr(&self, node: NodeId, set: SetAttr) -> Result<Attr> {
        expect!(self.call(&Request::SetAttr { node, set })?, (Reply::Attr { attr }, _) => attr)
    }

    /// [`Request::StatFs`].
    pub fn statfs(&self, node: NodeId) -> Result<StatFs> {
        expect!(self.call(&Request::StatFs { node })?, (Reply::StatFs { statfs }, _) => statfs)
    }

    /// [`Request::GetXattr`].
    pub fn get_xattr(&self, node: NodeId, name: &[u8]) -> Result<Vec<u8>> {
        self.bytes(&Request::GetXattr { node, name })
    }

    /// [`Request::SetXattr`].
    pub fn set_xattr(&self, node: NodeId, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        self.done(&Request::SetXattr { node, name, value, flags })
    }

    /// [`Request::ListXattr`].
    pub fn list_xattr(&self, node: NodeId) -> Result<Vec<u8>> {
        self.bytes(&Request::ListXattr { node })
    }

    /// [`Request::RemoveXattr`].
    pub fn remove_xattr(&self, node: NodeId, name: &[u8]) -> Result<()> {
        self.done(&Request::RemoveXattr { node, name })
    }

    /// [`Request::Fsync`].
    pub fn fsync(&self, node: NodeId, data_only: bool) -> Result<()> {
        self.done(&Request::Fsync { node, data_only })
    }

    /// [`Request::Bind`].
    pub fn bind(&self, dir: NodeId, name: Name<'_>, kind: u32, mode: u32, uid: u32, gid: u32) -> Result<(Entry, OwnedFd)> {
        self.node_fd(&Request::Bind { dir, name, kind, mode, uid, gid })
    }

    /// [`Request::Connect`].
    pub fn connect(&self, node: NodeId, kind: u32, uid: u32, gid: u32, groups: Vec<u32>) -> Result<OwnedFd> {
        expect!(self.call(&Request::Connect { node, kind, uid, gid, groups })?, (Reply::Opened {}, Some(fd)) => fd)
    }

    /// [`Request::TmpFile`].
    pub fn tmpfile(&self, dir: NodeId, open: OpenMode, mode: u32, uid: u32, gid: u32) -> Result<(Entry, OwnedFd)> {
        self.node_fd(&Request::TmpFile { dir, open, mode, uid, gid })
    }

    fn bytes(&self, request: &Request<'_>) -> Result<Vec<u8>> {
        expect!(self.call(request)?, (Reply::Bytes { bytes: Bytes(bytes) }, _) => bytes)
    }
}
