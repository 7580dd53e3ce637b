//! Inodes of an overlay.

use super::{Shared, copy_up, file, layers, layers::Lower, names::Names, ovl, readdir};
use abi::{
    Errno, Result, bail,
    fs::{FileType, OpenFlags},
};
use kernel::{
    cred::Credentials,
    task::Task,
    vfs::{
        Attr, FileOps, FsStr, FsString, Inode, InodeOps, NewNode, Owner, PathRef, RenameFlags, SetAttr, SuperBlock, XattrFlags, now,
        shmem::ShmFile,
    },
};
use std::any::Any;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use sync::{Mutex, Rank};

/// Where numbers of files begin that only the overlay has. Those below are the host's.
const OWN_NUMBERS: u64 = 1 << 50;

/// What has changed of a file, or all there is of one that was made here.
#[derive(Default)]
pub(super) struct State {
    /// Attributes; `None`: those below. Size and blocks are the content's.
    pub meta: Option<Attr>,
    /// Extended attributes; `None`: those below.
    pub xattrs: Option<BTreeMap<FsString, Vec<u8>>>,
    /// Content of a regular file; `None`: that below.
    pub data: Option<Arc<ShmFile>>,
    /// Names of a directory that differ from those below.
    pub names: Names,
    /// The inode that this is.
    pub me: Weak<Inode>,
    /// The directory and name by which it is reached.
    pub place: Option<(Weak<Inode>, FsString)>,
}

/// A file of an overlay.
pub struct OverlayInode {
    pub(super) shared: Arc<Shared>,
    /// What it shows; for a directory all that are merged, the topmost first. Nothing for what was made here.
    pub(super) lowers: Vec<Lower>,
    pub(super) state: Mutex<State>,
    /// Target of a symbolic link that was made here.
    target: Option<FsString>,
}

impl OverlayInode {
    /// The inode of a file below.
    pub(super) fn from_lower(
        shared: &Arc<Shared>,
        sb: &Arc<SuperBlock>,
        lowers: Vec<Lower>,
        place: Option<(Weak<Inode>, FsString)>,
    ) -> Arc<Inode> {
        let (ino, kind) = lowers.first().map_or((1, FileType::Directory), |l| (l.ino(), l.inode.kind));
        let state = Mutex::new(Rank::InodeState, State { place, ..State::default() });
        let ops = OverlayInode { shared: shared.clone(), lowers, state, target: None };
        Self::introduce(Inode::new(sb, ino, kind, Box::new(ops)))
    }

    /// Tells a new inode who it is.
    fn introduce(inode: Arc<Inode>) -> Arc<Inode> {
        if let Some(o) = ovl(&inode) {
            o.state.lock().me = Arc::downgrade(&inode);
        }
        inode
    }

    /// The inode that this is.
    pub(super) fn me(&self) -> Option<Arc<Inode>> {
        self.state.lock().me.upgrade()
    }

    /// It was found by this name: that counts if the directory of the one by which it was found before is gone.
    pub(super) fn found_at(&self, dir: &Arc<Inode>, name: &FsStr) {
        let mut s = self.state.lock();
        if let Some(p) = s.place.as_mut().filter(|p| p.0.strong_count() == 0) {
            *p = (Arc::downgrade(dir), name.to_vec());
        }
    }

    /// A file that is made here.
    fn new_node(&self, sb: &Arc<SuperBlock>, node: &NewNode<'_>, perm: u32, owner: Owner) -> Result<Arc<Inode>> {
        let (kind, target, rdev) = match node {
            NewNode::Regular => (FileType::Regular, None, 0),
            NewNode::Directory => (FileType::Directory, None, 0),
            NewNode::Symlink(t) => (FileType::Symlink, Some(t.to_vec()), 0),
            NewNode::Fifo => (FileType::Fifo, None, 0),
            NewNode::Socket => (FileType::Socket, None, 0),
            NewNode::Device(kind, dev) => (*kind, None, *dev),
            NewNode::Queue(_) => bail!(EPERM, "no message queues here"),
        };
        let now = now();
        let meta = Attr {
            perm,
            nlink: if kind == FileType::Directory { 2 } else { 1 },
            uid: owner.uid,
            gid: owner.gid,
            rdev,
            size: target.as_ref().map_or(if kind == FileType::Directory { 4096 } else { 0 }, |t| t.len() as u64),
            blksize: 4096,
            atime: now,
            mtime: now,
            ctime: now,
            btime: Some(now),
            ..Attr::default()
        };
        let data = (kind == FileType::Regular).then(|| self.shared.new_content());
        let state = State { meta: Some(meta), xattrs: Some(BTreeMap::new()), data: data.clone(), ..State::default() };
        let ops = OverlayInode { shared: self.shared.clone(), lowers: Vec::new(), state: Mutex::new(Rank::InodeState, state), target };
        let inode = Self::introduce(Inode::new(sb, OWN_NUMBERS + sb.next_ino(), kind, Box::new(ops)));
        if let Some(d) = data {
            d.set_inode(&inode);
        }
        Ok(inode)
    }

    /// The file below.
    pub(super) fn lower(&self) -> Option<&Lower> {
        self.lowers.first()
    }

    /// The content that has come up.
    pub(super) fn data(&self) -> Option<Arc<ShmFile>> {
        self.state.lock().data.clone()
    }

    /// The attributes, whether they came up or not.
    pub(super) fn full_attr(&self) -> Result<Attr> {
        let (meta, data) = {
            let s = self.state.lock();
            (s.meta, s.data.clone())
        };
        let mut a = match (meta, self.lower()) {
            (Some(m), Some(l)) if data.is_none() && l.inode.kind == FileType::Regular => {
                let below = l.inode.attr()?;
                Attr { size: below.size, blocks: below.blocks, ..m }
            }
            (Some(m), _) => m,
            (None, Some(l)) => l.inode.attr()?,
            (None, None) => bail!(EIO, "a file of nothing"),
        };
        if let Some(d) = data {
            a.size = d.size();
            a.blocks = d.blocks();
        }
        Ok(a)
    }

    /// Changes attributes, which come up if they have not yet.
    pub(super) fn change_meta(&self, change: impl FnOnce(&mut Attr)) -> Result {
        let below = if self.state.lock().meta.is_none() { Some(self.full_attr()?) } else { None };
        let first = {
            let mut s = self.state.lock();
            let first = s.meta.is_none();
            if let Some(b) = below {
                s.meta.get_or_insert(b);
            }
            if let Some(m) = &mut s.meta {
                change(m);
            }
            first
        };
        if first {
            self.anchor();
        }
        Ok(())
    }

    /// Makes sure that this inode, which has changed, is found again by its name though nobody holds it: it is entered into the
    /// names of its directory, and that into its own.
    fn anchor(&self) {
        let (mut me, mut place) = {
            let s = self.state.lock();
            (s.me.upgrade(), s.place.clone())
        };
        while let (Some(child), Some((parent, name))) = (me, place) {
            let Some(parent) = parent.upgrade() else { return };
            let Some(dir) = ovl(&parent) else { return };
            let next = {
                let mut s = dir.state.lock();
                if !s.names.hold(&name, &child) {
                    return;
                }
                s.place.clone()
            };
            place = next;
            me = Some(parent);
        }
    }

    /// The time of this directory's change, `links` subdirectories more or less.
    fn dir_changed(&self, links: i32) -> Result {
        let now = now();
        self.change_meta(|m| {
            m.mtime = now;
            m.ctime = now;
            m.nlink = m.nlink.saturating_add_signed(links);
        })
    }

    /// One name of `child` more or less.
    fn add_link(child: &Arc<Inode>, delta: i32) -> Result {
        let Some(c) = ovl(child) else { bail!(EXDEV) };
        c.change_meta(|m| {
            m.nlink = m.nlink.saturating_add_signed(delta);
            m.ctime = now();
        })?;
        // The names below that are left must find the changed count.
        if delta < 0 && c.lower().is_some() && !child.is_dir() && c.state.lock().meta.is_some_and(|m| m.nlink > 0) {
            let mut pinned = c.shared.pinned.lock();
            if !pinned.iter().any(|p| Arc::ptr_eq(p, child)) {
                pinned.push(child.clone());
            }
        }
        Ok(())
    }

    fn set_place(child: &Arc<Inode>, dir: &Arc<Inode>, name: &FsStr) {
        if let Some(c) = ovl(child) {
            c.state.lock().place = Some((Arc::downgrade(dir), name.to_vec()));
        }
    }

    /// A name goes; `child` is what it meant.
    fn remove_name(&self, name: &FsStr, child: &Arc<Inode>) -> Result {
        let is_dir = child.is_dir();
        self.dir_changed(if is_dir { -1 } else { 0 })?;
        let gone = self.state.lock().names.remove(name);
        drop(gone);
        if let Some(c) = ovl(child) {
            c.state.lock().place = None;
        }
        Self::add_link(child, if is_dir { -2 } else { -1 })
    }

    /// Whether no name is left in this directory.
    fn is_empty_dir(&self) -> Result<bool> {
        if !self.state.lock().names.is_empty() {
            return Ok(false);
        }
        Ok(readdir::names(self)?.is_empty())
    }
}

impl Shared {
    pub(super) fn new_content(&self) -> Arc<ShmFile> {
        ShmFile::new(&self.pool, Some(self.space.clone()))
    }
}

impl InodeOps for OverlayInode {
    fn attr(&self, _inode: &Inode) -> Result<Attr> {
        self.full_attr()
    }

    fn set_attr(&self, inode: &Inode, change: &SetAttr) -> Result {
        if let (Some(size), FileType::Regular) = (change.size, inode.kind) {
            copy_up::content(self, inode, None, Some(size))?.set_size(size)?;
        }
        let now = now();
        self.change_meta(|a| {
            a.perm = change.perm.unwrap_or(a.perm);
            a.uid = change.uid.unwrap_or(a.uid);
            a.gid = change.gid.unwrap_or(a.gid);
            a.atime = change.atime.map_or(a.atime, |t| t.or(now));
            a.mtime = change.mtime.map_or(if change.size.is_some() { now } else { a.mtime }, |t| t.or(now));
            a.ctime = now;
        })
    }

    fn lookup(&self, dir: &Arc<Inode>, name: &FsStr) -> Result<Arc<Inode>> {
        if dir.kind != FileType::Directory {
            bail!(ENOTDIR);
        }
        if let Some(known) = self.state.lock().names.get(name) {
            return known.ok_or(Errno::ENOENT.into());
        }
        layers::wrap(&self.shared, &dir.sb, layers::lookup(&self.lowers, name)?, (dir, name))
    }

    fn lookup_path(&self, dir: &Arc<Inode>, names: &[&FsStr]) -> Vec<Result<Arc<Inode>>> {
        let Some(first) = names.first() else { return Vec::new() };
        let changed = self.state.lock().names.get(first).is_some();
        let (false, [lower], true) = (changed, &self.lowers[..], dir.kind == FileType::Directory) else {
            return vec![self.lookup(dir, first)];
        };
        // Only one layer below: it is asked for everything at once.
        let below = {
            let _guard = lower.inode.lock_dir_nested();
            lower.inode.ops.lookup_path(&lower.inode, names)
        };
        let mut found = Vec::new();
        let mut parent = dir.clone();
        for (i, (name, below)) in names.iter().zip(below).enumerate() {
            if i > 0 {
                // What is known of a directory further down goes before what was found below it.
                let known = ovl(&parent).and_then(|p| p.state.lock().names.get(name));
                if let Some(known) = known {
                    found.push(known.ok_or(Errno::ENOENT.into()));
                    break;
                }
            }
            let wrapped =
                below.and_then(|inode| layers::wrap(&self.shared, &dir.sb, vec![Lower { layer: lower.layer, inode }], (&parent, name)));
            match wrapped {
                Ok(inode) => {
                    parent = inode.clone();
                    found.push(Ok(inode));
                }
                Err(e) => {
                    found.push(Err(e));
                    break;
                }
            }
        }
        found
    }

    fn revalidate(&self, _dir: &Arc<Inode>, name: &FsStr, cached: Option<&Arc<Inode>>) -> bool {
        if self.state.lock().names.get(name).is_some() {
            return true;
        }
        let lower = cached.and_then(|c| ovl(c)).and_then(|c| c.lower());
        match (&self.lowers[..], cached, lower) {
            ([dir], None, _) => dir.inode.ops.revalidate(&dir.inode, name, None),
            ([dir], Some(_), Some(l)) => dir.inode.ops.revalidate(&dir.inode, name, Some(&l.inode)),
            // Of several layers the name may have come from any: it is looked up anew.
            (dirs, ..) => dirs.is_empty(),
        }
    }

    fn create(&self, dir: &Arc<Inode>, name: &FsStr, node: NewNode<'_>, perm: u32, owner: Owner) -> Result<Arc<Inode>> {
        let inode = self.new_node(&dir.sb, &node, perm, owner)?;
        self.dir_changed(i32::from(inode.is_dir()))?;
        Self::set_place(&inode, dir, name);
        self.state.lock().names.put(name, inode.clone(), false);
        Ok(inode)
    }

    fn tmpfile(&self, dir: &Arc<Inode>, perm: u32, owner: Owner) -> Result<Arc<Inode>> {
        let inode = self.new_node(&dir.sb, &NewNode::Regular, perm, owner)?;
        if let Some(m) = ovl(&inode).map(|o| o.state.lock()).as_mut().and_then(|s| s.meta.as_mut()) {
            m.nlink = 0;
        }
        Ok(inode)
    }

    fn link(&self, dir: &Arc<Inode>, name: &FsStr, target: &Arc<Inode>) -> Result {
        Self::add_link(target, 1)?;
        self.dir_changed(0)?;
        self.state.lock().names.put(name, target.clone(), false);
        if let Some(t) = ovl(target) {
            // A file made with O_TMPFILE has its first place now.
            t.state.lock().place.get_or_insert_with(|| (Arc::downgrade(dir), name.to_vec()));
        }
        Ok(())
    }

    fn unlink(&self, _dir: &Arc<Inode>, name: &FsStr, child: &Arc<Inode>) -> Result {
        self.remove_name(name, child)
    }

    fn rmdir(&self, _dir: &Arc<Inode>, name: &FsStr, child: &Arc<Inode>) -> Result {
        if !ovl(child).ok_or(Errno::EXDEV)?.is_empty_dir()? {
            bail!(ENOTEMPTY);
        }
        self.remove_name(name, child)
    }

    fn rename(
        &self,
        old_dir: &Arc<Inode>,
        old_name: &FsStr,
        child: &Arc<Inode>,
        new_dir: &Arc<Inode>,
        new_name: &FsStr,
        replaced: Option<&Arc<Inode>>,
        flags: RenameFlags,
    ) -> Result {
        if flags.contains(RenameFlags::WHITEOUT) {
            bail!(EINVAL, "no whiteouts over a whiteout");
        }
        let Some(to) = ovl(new_dir) else { bail!(EXDEV) };
        let moved_dir = i32::from(child.is_dir());
        if let (true, Some(other)) = (flags.contains(RenameFlags::EXCHANGE), replaced) {
            let change = i32::from(other.is_dir()) - moved_dir;
            self.dir_changed(change)?;
            to.dir_changed(-change)?;
            Self::add_link(child, 0)?;
            Self::add_link(other, 0)?;
            self.state.lock().names.put(old_name, other.clone(), true);
            to.state.lock().names.put(new_name, child.clone(), true);
            Self::set_place(other, old_dir, old_name);
            Self::set_place(child, new_dir, new_name);
            return Ok(());
        }
        if let Some(r) = replaced {
            if r.is_dir() && !ovl(r).ok_or(Errno::EXDEV)?.is_empty_dir()? {
                bail!(ENOTEMPTY);
            }
            to.remove_name(new_name, r)?;
        }
        self.dir_changed(-moved_dir)?;
        to.dir_changed(moved_dir)?;
        Self::add_link(child, 0)?;
        to.state.lock().names.put(new_name, child.clone(), false);
        Self::set_place(child, new_dir, new_name);
        let gone = self.state.lock().names.remove(old_name);
        drop(gone);
        Ok(())
    }

    fn readlink(&self, _inode: &Inode) -> Result<FsString> {
        match (&self.target, self.lower()) {
            (Some(t), _) => Ok(t.clone()),
            (None, Some(l)) => l.inode.ops.readlink(&l.inode),
            (None, None) => bail!(EINVAL, "not a symbolic link"),
        }
    }

    fn open(&self, inode: &Arc<Inode>, _path: &PathRef, flags: OpenFlags, task: &Task) -> Result<Box<dyn FileOps>> {
        match inode.kind {
            FileType::Regular => file::open(self, inode, flags, Some(task)),
            FileType::Directory => Ok(Box::new(readdir::OverlayDir::new(inode.clone()))),
            FileType::Symlink => bail!(ELOOP),
            _ => bail!(ENXIO),
        }
    }

    fn connect_host(&self, _inode: &Inode, kind: i32, cred: &Credentials) -> Result<OwnedFd> {
        match self.lower() {
            Some(l) => l.inode.ops.connect_host(&l.inode, kind, cred),
            None => bail!(ECONNREFUSED, "nobody is bound there"),
        }
    }

    fn getxattr(&self, _inode: &Inode, name: &FsStr) -> Result<Vec<u8>> {
        if name.starts_with(b"trusted.overlay.") {
            bail!(ENODATA);
        }
        let mine = self.state.lock().xattrs.as_ref().map(|x| x.get(name).cloned());
        match (mine, self.lower()) {
            (Some(Some(v)), _) => Ok(v),
            (None, Some(l)) => l.inode.ops.getxattr(&l.inode, name),
            _ => bail!(ENODATA),
        }
    }

    fn setxattr(&self, _inode: &Inode, name: &FsStr, value: &[u8], flags: XattrFlags) -> Result {
        copy_up::xattrs(self)?;
        {
            let mut s = self.state.lock();
            let Some(x) = &mut s.xattrs else { bail!(EIO) };
            match x.contains_key(name) {
                true if flags.contains(XattrFlags::CREATE) => bail!(EEXIST),
                false if flags.contains(XattrFlags::REPLACE) => bail!(ENODATA),
                _ => {}
            }
            // What one file may hold is bounded, as on any disk file system.
            let held: usize = x.iter().filter(|(n, _)| **n != name).map(|(n, v)| n.len() + v.len()).sum();
            if held + name.len() + value.len() > 128 << 10 {
                bail!(ENOSPC);
            }
            x.insert(name.to_vec(), value.to_vec());
        }
        self.change_meta(|m| m.ctime = now())
    }

    fn listxattr(&self, _inode: &Inode) -> Result<Vec<FsString>> {
        let mine = self.state.lock().xattrs.as_ref().map(|x| x.keys().cloned().collect());
        let mut names: Vec<FsString> = match (mine, self.lower()) {
            (Some(names), _) => names,
            (None, Some(l)) => l.inode.ops.listxattr(&l.inode)?,
            (None, None) => Vec::new(),
        };
        names.retain(|n| !n.starts_with(b"trusted.overlay."));
        Ok(names)
    }

    fn removexattr(&self, _inode: &Inode, name: &FsStr) -> Result {
        copy_up::xattrs(self)?;
        if self.state.lock().xattrs.as_mut().and_then(|x| x.remove(name)).is_none() {
            bail!(ENODATA);
        }
        self.change_meta(|m| m.ctime = now())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for OverlayInode {
    fn drop(&mut self) {
        // A tree that ends as a whole may be deeper than a stack.
        let mut pending = self.state.get_mut().names.take();
        while let Some(child) = pending.pop() {
            if Arc::strong_count(&child) == 1 {
                if let Some(mut s) = ovl(&child).and_then(|o| o.state.try_lock()) {
                    pending.append(&mut s.names.take());
                }
            }
        }
    }
}
