//! The inode: what is known of a file, and every question and order about it.

use super::{
    Key, RemoteFs, attr,
    dir::{Listing, RemoteDir},
    file::RemoteFile,
    handle::Handle,
    lookup, name, remote,
};
use abi::{
    Errno, Result, bail,
    fs::{FileType, OpenFlags, Stat},
    libc,
};
use gofer_protocol::{self as proto, NodeId, OpenMode};
use kernel::{
    cred::Credentials,
    task::Task,
    vfs::{Attr, FileOps, FsStr, FsString, Inode, InodeOps, NewNode, Owner, PathRef, RenameFlags, SetAttr, XattrFlags},
};
use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock, Weak};
use sync::{Mutex, Rank};

/// A file of an attach point.
pub(super) struct RemoteInode {
    pub(super) fs: Arc<RemoteFs>,
    pub(super) key: Key,
    /// The gofer's handle. Missing while the file is known from a listing only.
    node: OnceLock<NodeId>,
    state: Mutex<State>,
}

/// What is known of a file.
struct State {
    /// What the gofer said last. The owner is always good; the rest only if `attr_valid`, and no descriptor knows better.
    attr: proto::Attr,
    attr_valid: bool,
    /// A symlink's target.
    target: Option<FsString>,
    /// Where to ask for the handle.
    place: Option<(Arc<Inode>, FsString)>,
    reading: Weak<Handle>,
    writing: Weak<Handle>,
    /// The descriptor of a file that was just made, for its first open.
    fresh: Option<Arc<Handle>>,
    /// A directory's entries, and how often names in it changed.
    listing: Option<Arc<Listing>>,
    changes: u64,
    /// Names of extended attributes.
    xattrs: Option<Arc<Vec<FsString>>>,
}

impl RemoteInode {
    pub(super) fn new(fs: Arc<RemoteFs>, key: Key, attr: proto::Attr) -> RemoteInode {
        let state = State {
            attr,
            attr_valid: true,
            target: None,
            place: None,
            reading: Weak::new(),
            writing: Weak::new(),
            fresh: None,
            listing: None,
            changes: 0,
            xattrs: None,
        };
        RemoteInode { fs, key, node: OnceLock::new(), state: Mutex::new(Rank::InodeState, state) }
    }

    /// Gives it a handle; one too many is given back.
    pub(super) fn give(&self, node: NodeId, target: Option<FsString>) {
        if self.node.set(node).is_err() {
            self.fs.client.forget(node);
        }
        let place = {
            let mut s = self.state.lock();
            if target.is_some() {
                s.target = target;
            }
            s.place.take()
        };
        drop(place);
    }

    /// Tells it where its handle can be asked for.
    pub(super) fn place(&self, place: (Arc<Inode>, FsString)) {
        let old = if self.node.get().is_none() { self.state.lock().place.replace(place) } else { None };
        drop(old);
    }

    /// Its handle, if it has one.
    pub(super) fn known_node(&self) -> Option<NodeId> {
        self.node.get().copied()
    }

    fn node(&self) -> Result<NodeId> {
        lookup::node(self)
    }

    /// The nearest handle above, and the steps from there to here: directories with the names in them.
    pub(super) fn way(&self) -> (Option<NodeId>, Vec<(Arc<Inode>, FsString)>) {
        let mut steps = Vec::new();
        if let Some(node) = self.known_node() {
            return (Some(node), steps);
        }
        let mut next = self.state.lock().place.clone();
        while let Some((dir, text)) = next {
            let Ok(r) = remote(&dir) else { break };
            let node = r.known_node();
            let above = if node.is_none() { r.state.lock().place.clone() } else { None };
            steps.push((dir, text));
            if node.is_some() {
                steps.reverse();
                return (node, steps);
            }
            next = above;
        }
        (self.known_node(), Vec::new())
    }

    /// Where its handle can be asked for, while it has none.
    pub(super) fn known_place(&self) -> Option<(Arc<Inode>, FsString)> {
        self.state.lock().place.clone()
    }

    /// What was read of this directory before somebody asked for it.
    pub(super) fn read_ahead(&self, listing: Arc<Listing>) {
        let mut s = self.state.lock();
        // Whoever changes names says so first, and then takes away what he finds here.
        if s.listing.is_none() && self.fs.unchanged(listing.mark) {
            s.listing = Some(listing);
            drop(s);
            self.fs.pace.was_right();
        }
    }

    /// New attributes from the gofer. `fresh`: nothing changed since it was asked.
    pub(super) fn learn(&self, attr: proto::Attr, fresh: bool) {
        let mut s = self.state.lock();
        if fresh || self.fs.shared() {
            s.attr = attr;
            s.attr_valid = true;
        } else {
            s.attr_valid = false;
        }
    }

    /// What it remembers of attributes is out of date.
    pub(super) fn forget_attr(&self) {
        self.state.lock().attr_valid = false;
    }

    /// What the last descriptor for writing knew.
    pub(super) fn written(&self, now: &Stat) {
        let mut s = self.state.lock();
        s.attr = attr::merge(&s.attr, now);
        s.attr_valid = true;
    }

    /// Names in this directory changed.
    fn names_changed(&self) {
        // First of all: see `read_ahead`.
        self.fs.changed();
        let old = {
            let mut s = self.state.lock();
            s.attr_valid = false;
            s.changes += 1;
            s.listing.take()
        };
        drop(old);
    }

    /// Its name was removed.
    fn unlinked(&self) {
        let mut s = self.state.lock();
        if s.attr.nlink <= 1 {
            s.attr.nlink = 0;
            s.attr.ctime = abi::time::Timespec::from_nanos(host::time::realtime_ns());
        } else {
            s.attr_valid = false;
        }
        drop(s);
        self.fs.changed();
    }

    /// A name of this file came, or it was moved.
    fn links_changed(&self) {
        self.forget_attr();
        self.fs.changed();
    }

    /// The remembered entries.
    pub(super) fn remembered(&self) -> Option<Arc<Listing>> {
        self.state.lock().listing.clone()
    }

    /// All entries: remembered ones, or asked for.
    pub(super) fn list(&self) -> Result<Arc<Listing>> {
        let (known, changes) = {
            let s = self.state.lock();
            (s.listing.clone(), s.changes)
        };
        // Attributes that are out of date are of no use to lookups: read again.
        if let Some(listing) = known.filter(|l| self.fs.unchanged(l.mark)) {
            return Ok(listing);
        }
        let mut listing = Listing::read(self)?;
        let remember = !self.fs.shared() && listing.count(&self.fs);
        let listing = Arc::new(listing);
        let old = {
            let mut s = self.state.lock();
            if remember && s.changes == changes { s.listing.replace(listing.clone()) } else { None }
        };
        drop(old);
        Ok(listing)
    }

    /// fsync(2) of a directory.
    pub(super) fn sync_dir(&self, data_only: bool) -> Result {
        Ok(self.fs.client.fsync(self.node()?, data_only)?)
    }

    /// A descriptor that is in use and can do this.
    fn open_handle(&self, write: bool) -> Option<Arc<Handle>> {
        let (writing, reading) = {
            let s = self.state.lock();
            (s.writing.upgrade(), s.reading.upgrade())
        };
        // Not under the lock: what is let go here may be the last, and tells the inode what was written.
        if write { writing } else { writing.filter(|h| h.readable).or(reading) }
    }

    /// A descriptor for an open file: one there is, or a new one.
    pub(super) fn handle(&self, inode: &Arc<Inode>, read: bool, write: bool) -> Result<Arc<Handle>> {
        let fresh = self.state.lock().fresh.take();
        if let Some(handle) = fresh {
            return Ok(handle);
        }
        if let Some(handle) = self.open_handle(write).filter(|h| h.readable || !read) {
            return Ok(handle);
        }
        // A file that may only be written is opened for both where the host lets us: its pages can be mapped then.
        let (fd, readable) = match (read, write) {
            (_, false) => (lookup::open(self, OpenMode::READ)?, true),
            (true, true) => (lookup::open(self, OpenMode::READ | OpenMode::WRITE)?, true),
            (false, true) => match lookup::open(self, OpenMode::READ | OpenMode::WRITE) {
                Err(e) if e.is(Errno::EACCES) => (lookup::open(self, OpenMode::WRITE)?, false),
                other => (other?, true),
            },
        };
        let handle = Handle::new(&self.fs, inode, fd, readable, write)?;
        self.adopt(&handle);
        Ok(handle)
    }

    /// A descriptor through which reading leaves the access time alone; `None` where the host refuses that to the gofer, which then has
    /// not the rights that the application has here.
    pub(super) fn open_quiet(&self) -> Result<Option<OwnedFd>> {
        match lookup::open(self, OpenMode::READ | OpenMode::NOATIME) {
            Err(e) if e.is(Errno::EPERM) => Ok(None),
            other => Ok(Some(other?)),
        }
    }

    /// Remembers a new descriptor as long as somebody uses it, and one for reading a little longer.
    fn adopt(&self, handle: &Arc<Handle>) {
        let mut s = self.state.lock();
        if handle.writable {
            s.writing = Arc::downgrade(handle);
        } else {
            s.reading = Arc::downgrade(handle);
        }
        drop(s);
        if !handle.writable {
            self.fs.keep_idle(handle);
        }
    }

    /// Attributes as they are now.
    fn current(&self) -> Result<proto::Attr> {
        if !self.fs.shared() {
            // The host's word on an open descriptor is the cheapest, and right whoever writes through it.
            if let Some(handle) = self.open_handle(true) {
                let now = host::file::stat(handle.fd())?;
                let known = self.state.lock().attr;
                return Ok(attr::merge(&known, &now));
            }
            let s = self.state.lock();
            if s.attr_valid {
                return Ok(s.attr);
            }
        }
        let node = self.node()?;
        let mark = self.fs.mark();
        let now = self.fs.client.stat(node)?;
        self.learn(now, self.fs.unchanged(mark));
        Ok(now)
    }

    /// Takes over a file that was just made, with its descriptor.
    fn made(&self, dir: &Arc<Inode>, entry: proto::Entry, fd: Option<OwnedFd>) -> Result<Arc<Inode>> {
        self.names_changed();
        let mark = self.fs.mark();
        let inode = self.fs.inode_of(&dir.sb, entry, mark)?;
        if let Some(fd) = fd {
            let r = remote(&inode)?;
            let handle = Handle::new(&self.fs, &inode, fd, true, true)?;
            r.adopt(&handle);
            let old = r.state.lock().fresh.replace(handle);
            drop(old);
        }
        Ok(inode)
    }

    fn remove(&self, text: &FsStr, child: &Inode, rmdir: bool) -> Result {
        let gone = remote(child)?;
        if !rmdir {
            // Whoever still uses the file reaches it by its handle: it must have one before it has no name.
            gone.node()?;
        }
        self.fs.client.unlink(self.node()?, name(text)?, rmdir)?;
        self.names_changed();
        gone.unlinked();
        let fresh = gone.state.lock().fresh.take();
        drop(fresh);
        self.fs.drop_idle(gone.key);
        Ok(())
    }

    fn xattr_names(&self) -> Result<Arc<Vec<FsString>>> {
        let known = self.state.lock().xattrs.clone();
        if let Some(known) = known.filter(|_| !self.fs.shared()) {
            return Ok(known);
        }
        let names = self.fs.client.list_xattr(self.node()?)?;
        let names = Arc::new(names.split(|&b| b == 0).filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect::<Vec<_>>());
        self.state.lock().xattrs = Some(names.clone());
        Ok(names)
    }
}

impl InodeOps for RemoteInode {
    fn attr(&self, _inode: &Inode) -> Result<Attr> {
        Ok(attr::to_kernel(&self.current()?))
    }

    fn set_attr(&self, _inode: &Inode, change: &SetAttr) -> Result {
        let only_size = SetAttr { size: change.size, ..SetAttr::default() } == *change;
        if let (true, Some(size), Some(handle)) = (only_size, change.size, self.open_handle(true)) {
            host::file::truncate(handle.fd(), size)?;
            self.fs.changed();
            return Ok(());
        }
        let node = self.node()?;
        let now = self.fs.client.set_attr(node, attr::change(change));
        self.fs.changed();
        match now {
            Ok(now) => {
                self.learn(now, true);
                Ok(())
            }
            Err(e) => {
                // A part of it may have been done.
                self.forget_attr();
                Err(e.into())
            }
        }
    }

    fn lookup(&self, dir: &Arc<Inode>, name: &FsStr) -> Result<Arc<Inode>> {
        self.lookup_path(dir, &[name]).into_iter().next().unwrap_or(Err(Errno::ENOENT.into()))
    }

    fn lookup_path(&self, dir: &Arc<Inode>, names: &[&FsStr]) -> Vec<Result<Arc<Inode>>> {
        lookup::lookup_path(dir, names)
    }

    fn revalidate(&self, dir: &Arc<Inode>, name: &FsStr, cached: Option<&Arc<Inode>>) -> bool {
        lookup::revalidate(dir, name, cached)
    }

    fn create(&self, dir: &Arc<Inode>, text: &FsStr, node: NewNode<'_>, perm: u32, owner: Owner) -> Result<Arc<Inode>> {
        let (client, at, n, Owner { uid, gid }) = (&self.fs.client, self.node()?, name(text)?, owner);
        let mut fd = None;
        let entry = match node {
            NewNode::Regular => {
                let (entry, opened) = client.create(at, n, OpenMode::READ | OpenMode::WRITE, perm, uid, gid)?;
                fd = Some(opened);
                entry
            }
            NewNode::Directory => client.mkdir(at, n, perm, uid, gid)?,
            NewNode::Symlink(target) => client.symlink(at, n, target, uid, gid)?,
            NewNode::Fifo => client.mknod(at, n, libc::S_IFIFO | perm, 0, uid, gid)?,
            NewNode::Socket => client.mknod(at, n, libc::S_IFSOCK | perm, 0, uid, gid)?,
            NewNode::Device(kind, rdev) => client.mknod(at, n, kind.mode() | perm, rdev, uid, gid)?,
            NewNode::Queue(_) => bail!(EPERM, "no message queues here"),
        };
        self.made(dir, entry, fd)
    }

    fn tmpfile(&self, dir: &Arc<Inode>, perm: u32, owner: Owner) -> Result<Arc<Inode>> {
        let (entry, fd) = self.fs.client.tmpfile(self.node()?, OpenMode::READ | OpenMode::WRITE, perm, owner.uid, owner.gid)?;
        self.made(dir, entry, Some(fd))
    }

    fn link(&self, _dir: &Arc<Inode>, text: &FsStr, target: &Arc<Inode>) -> Result {
        let old = remote(target)?;
        let entry = self.fs.client.link(old.node()?, self.node()?, name(text)?)?;
        // The inode keeps the handle that it has.
        self.fs.client.forget(entry.node);
        self.names_changed();
        old.links_changed();
        Ok(())
    }

    fn unlink(&self, _dir: &Arc<Inode>, name: &FsStr, child: &Arc<Inode>) -> Result {
        self.remove(name, child, false)
    }

    fn rmdir(&self, _dir: &Arc<Inode>, name: &FsStr, child: &Arc<Inode>) -> Result {
        self.remove(name, child, true)
    }

    fn rename(
        &self,
        _old_dir: &Arc<Inode>,
        old_name: &FsStr,
        child: &Arc<Inode>,
        new_dir: &Arc<Inode>,
        new_name: &FsStr,
        replaced: Option<&Arc<Inode>>,
        flags: RenameFlags,
    ) -> Result {
        if flags.contains(RenameFlags::WHITEOUT) {
            bail!(EINVAL, "no whiteouts here");
        }
        let (moved, to) = (remote(child)?, remote(new_dir)?);
        // Both must have handles before their places change.
        moved.node()?;
        let over = match replaced {
            Some(inode) => {
                let over = remote(inode)?;
                over.node()?;
                Some(over)
            }
            None => None,
        };
        self.fs.client.rename(self.node()?, name(old_name)?, to.node()?, name(new_name)?, flags.bits())?;
        self.names_changed();
        to.names_changed();
        moved.links_changed();
        if let Some(over) = over {
            if flags.contains(RenameFlags::EXCHANGE) {
                over.links_changed();
            } else {
                over.unlinked();
                self.fs.drop_idle(over.key);
            }
        }
        Ok(())
    }

    fn readlink(&self, inode: &Inode) -> Result<FsString> {
        if inode.kind != FileType::Symlink {
            bail!(EINVAL, "not a symbolic link");
        }
        // A symlink never changes: another target is another file.
        let known = self.state.lock().target.clone();
        if let Some(target) = known {
            return Ok(target);
        }
        let node = self.node()?;
        let known = self.state.lock().target.clone();
        let target = match known {
            Some(target) => target,
            None => self.fs.client.readlink(node)?,
        };
        self.state.lock().target = Some(target.clone());
        Ok(target)
    }

    fn open(&self, inode: &Arc<Inode>, _path: &PathRef, flags: OpenFlags, _task: &Task) -> Result<Box<dyn FileOps>> {
        open(inode, flags)
    }

    fn connect_host(&self, _inode: &Inode, kind: i32, cred: &Credentials) -> Result<OwnedFd> {
        Ok(self.fs.client.connect(self.node()?, kind as u32, cred.euid, cred.egid, cred.groups.to_vec())?)
    }

    fn getxattr(&self, _inode: &Inode, name: &FsStr) -> Result<Vec<u8>> {
        // Most files have none, and programs ask again and again.
        if !self.fs.shared() && !self.xattr_names()?.iter().any(|n| n == name) {
            bail!(ENODATA);
        }
        Ok(self.fs.client.get_xattr(self.node()?, name)?)
    }

    fn setxattr(&self, _inode: &Inode, name: &FsStr, value: &[u8], flags: XattrFlags) -> Result {
        let done = self.fs.client.set_xattr(self.node()?, name, value, flags.bits());
        self.state.lock().xattrs = None;
        // An access control list changes the mode.
        self.links_changed();
        Ok(done?)
    }

    fn listxattr(&self, _inode: &Inode) -> Result<Vec<FsString>> {
        Ok(self.xattr_names()?.to_vec())
    }

    fn removexattr(&self, _inode: &Inode, name: &FsStr) -> Result {
        let done = self.fs.client.remove_xattr(self.node()?, name);
        self.state.lock().xattrs = None;
        self.links_changed();
        Ok(done?)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The state of a new open file description.
pub(super) fn open(inode: &Arc<Inode>, flags: OpenFlags) -> Result<Box<dyn FileOps>> {
    match inode.kind {
        FileType::Regular => Ok(Box::new(RemoteFile::open(inode, flags)?)),
        FileType::Directory => Ok(Box::new(RemoteDir::open(inode))),
        FileType::Symlink => bail!(ELOOP),
        FileType::Socket | FileType::Fifo | FileType::CharDevice | FileType::BlockDevice => bail!(ENXIO),
    }
}

impl Drop for RemoteInode {
    fn drop(&mut self) {
        if let Some(node) = self.node.get() {
            self.fs.client.forget(*node);
        }
        let mut known = self.fs.known.lock();
        if known.get(&self.key).is_some_and(|w| w.strong_count() == 0) {
            known.remove(&self.key);
        }
    }
}
