//! Finding names: out of a remembered listing, or by asking the gofer for several at once.

use super::{Key, RemoteFs, inode::RemoteInode, name, remote};
use abi::{Errno, Result, bail, error};
use gofer_protocol::{DirReply, Entry, Name, NodeId, OpenMode, Stop, WalkReply};
use kernel::vfs::{FsStr, Inode};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// How often a file that is known by its place only is looked for, while places change.
const TRIES: usize = 3;

/// Finds as many of `names` as it can in one request: see [`kernel::vfs::InodeOps::lookup_path`].
pub(super) fn lookup_path(dir: &Arc<Inode>, names: &[&FsStr]) -> Vec<Result<Arc<Inode>>> {
    let one = |r| vec![r];
    let Ok(r) = remote(dir) else { return one(Err(error!(EXDEV))) };
    let Some(first) = names.first() else { return Vec::new() };
    if let Some(found) = in_listing(r, dir, first) {
        return one(found);
    }
    match ask(r, dir, names) {
        Ok(found) => found,
        Err(e) => one(Err(e)),
    }
}

/// What a remembered listing says; `None` if there is none, or it says too little.
fn in_listing(r: &RemoteInode, dir: &Arc<Inode>, name: &FsStr) -> Option<Result<Arc<Inode>>> {
    let listing = r.remembered()?;
    let Some((at, entry)) = listing.find(name) else { return Some(Err(Errno::ENOENT.into())) };
    if !r.fs.unchanged(listing.mark) {
        return None;
    }
    let place = (dir.clone(), entry.name.to_vec());
    let tell = |inode: &RemoteInode| {
        inode.place(place);
        if let Some(below) = listing.take_below(at) {
            inode.read_ahead(below);
        }
    };
    Some(r.fs.inode_at(&dir.sb, entry.attr, listing.mark, tell))
}

/// Asks the gofer.
fn ask(r: &RemoteInode, dir: &Arc<Inode>, names: &[&FsStr]) -> Result<Vec<Result<Arc<Inode>>>> {
    let mark = r.fs.mark();
    let checked: Vec<Name<'_>> = names.iter().map_while(|n| name(n).ok()).collect();
    if checked.is_empty() {
        bail!(ENOENT, "a name that no file can have");
    }
    let reply = walk(r, &checked)?;
    let mut found: Vec<Result<Arc<Inode>>> = Vec::with_capacity(reply.entries.len() + 1);
    for entry in reply.entries {
        found.push(r.fs.inode_of(&dir.sb, entry, mark));
    }
    match reply.stop {
        Stop::Missing => found.push(Err(Errno::ENOENT.into())),
        Stop::Failed(e) => found.push(Err(e.into())),
        Stop::NotDirectory | Stop::Symlink if found.is_empty() => found.push(Err(Errno::ENOTDIR.into())),
        Stop::NotDirectory | Stop::Symlink | Stop::Complete => {}
    }
    Ok(found)
}

/// Walks from an inode, which may be known by its place only: then from the nearest directory above that has a handle.
fn walk(r: &RemoteInode, names: &[Name<'_>]) -> Result<WalkReply> {
    from_nearest(r, names, |from, all| Ok((r.fs.client.walk(from, all)?, ()))).map(|(reply, ())| reply)
}

/// Opens a regular file. Where it is known by its place only, it gets its handle on the way.
pub(super) fn open(r: &RemoteInode, mode: OpenMode) -> Result<OwnedFd> {
    let (_, fd) = from_nearest(r, &[], |from, names| Ok(r.fs.client.open(from, names, mode)?))?;
    fd.ok_or(error!(ESTALE, "a file is not where it was"))
}

/// The first entries of a directory, and what the gofer read ahead, likewise. See [`gofer_protocol::Request::Readdir`].
pub(super) fn list(r: &RemoteInode, ahead: u32, beside: Vec<Name<'_>>) -> Result<DirReply> {
    let ask = |from, names: &[Name<'_>]| {
        let mut reply = r.fs.client.readdir(from, names, 0, ahead, beside.clone())?;
        let walk = std::mem::replace(&mut reply.walk, WalkReply { entries: Vec::new(), stop: Stop::Complete });
        Ok((walk, reply))
    };
    from_nearest(r, &[], ask).map(|(_, reply)| reply)
}

/// Asks something by way of `r`, which may be known by its place only, and of `names` behind it: `ask` gets the nearest handle and the
/// names from there on. Gives the part of the walk behind `r`, and what came with it.
fn from_nearest<T>(
    r: &RemoteInode,
    names: &[Name<'_>],
    mut ask: impl FnMut(NodeId, &[Name<'_>]) -> Result<(WalkReply, T)>,
) -> Result<(WalkReply, T)> {
    for _ in 0..TRIES {
        // Those on the way get their handles, too.
        let (Some(from), steps) = r.way() else { continue };
        let mut all = Vec::with_capacity(steps.len() + names.len());
        for (_, step) in &steps {
            all.push(name(step)?);
        }
        // The place of `r` itself is the last step.
        all.extend_from_slice(names);
        let (reply, more) = ask(from, &all)?;
        if let Some(reply) = settle(&r.fs, r, &steps, reply) {
            return Ok((reply, more));
        }
    }
    bail!(ESTALE, "a file is not where it was")
}

/// Gives the first entries of a reply to the inodes they are of. `None` if one of them is another file.
fn settle(fs: &RemoteFs, r: &RemoteInode, steps: &[(Arc<Inode>, Vec<u8>)], mut reply: WalkReply) -> Option<WalkReply> {
    let complete = reply.entries.len() >= steps.len();
    let rest = reply.entries.split_off(steps.len().min(reply.entries.len()));
    let mut ok = complete;
    // Step i leads to the directory that step i + 1 begins at; the last one leads to `r`.
    for (i, entry) in reply.entries.into_iter().enumerate() {
        let next = steps.get(i + 1).map(|(dir, _)| dir.clone());
        let target = match &next {
            Some(inode) => remote(inode).ok(),
            None => Some(r),
        };
        match target {
            Some(t) if ok && t.key == Key::of(&entry.attr) => t.give(entry.node, entry.target.map(|t| t.0)),
            _ => {
                ok = false;
                fs.client.forget(entry.node);
            }
        }
    }
    if ok {
        return Some(WalkReply { entries: rest, stop: reply.stop });
    }
    rest.iter().for_each(|e: &Entry| fs.client.forget(e.node));
    None
}

/// The handle of an inode that may have been known by its place only.
pub(super) fn node(r: &RemoteInode) -> Result<NodeId> {
    if let Some(node) = r.known_node() {
        return Ok(node);
    }
    walk(r, &[])?;
    r.known_node().ok_or(error!(ESTALE, "no handle came"))
}

/// Whether a name still means what the cache says. What was learnt on the way is kept.
pub(super) fn revalidate(dir: &Arc<Inode>, text: &FsStr, cached: Option<&Arc<Inode>>) -> bool {
    let (Ok(r), Ok(n)) = (remote(dir), name(text)) else { return false };
    let mark = r.fs.mark();
    let Ok(mut reply) = walk(r, &[n]) else { return false };
    match (reply.entries.pop(), cached) {
        (None, None) => reply.stop == Stop::Missing,
        (Some(entry), Some(inode)) => r.fs.inode_of(&dir.sb, entry, mark).is_ok_and(|now| Arc::ptr_eq(&now, inode)),
        (Some(entry), None) => {
            r.fs.client.forget(entry.node);
            false
        }
        (None, Some(_)) => false,
    }
}
