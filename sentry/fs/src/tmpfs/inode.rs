//! Inodes of tmpfs: attributes, extended attributes, and the operations on names.

use super::{TmpSuper, dir::Entries, file, tmp};
use abi::{
    Result, bail,
    fs::{FileType, OpenFlags},
    time::Timespec,
};
use kernel::{
    task::Task,
    vfs::{
        Attr, FileOps, FsStr, FsString, Inode, InodeOps, NewNode, Owner, PathRef, RenameFlags, SetAttr, SuperBlock, XattrFlags, now,
        shmem::ShmFile,
    },
};
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use sync::{Mutex, Rank};

/// What a file of tmpfs is.
pub(super) enum Content {
    Directory(Mutex<Entries>),
    Regular(Arc<ShmFile>),
    Symlink(FsString),
    /// FIFO, socket or device: the VFS does the rest.
    Special,
}

impl Content {
    pub fn directory() -> Content {
        Content::Directory(Mutex::new(Rank::InodeState, Entries::default()))
    }
}

struct Meta {
    attr: Attr,
    xattrs: BTreeMap<FsString, Vec<u8>>,
}

/// A file of tmpfs.
pub struct TmpInode {
    shared: Arc<TmpSuper>,
    meta: Mutex<Meta>,
    pub(super) content: Content,
}

/// Bytes that a name adds to a directory's size (`BOGO_DIRENT_SIZE`).
const DIRENT_SIZE: u64 = 20;

impl TmpInode {
    pub(super) fn make(
        shared: &Arc<TmpSuper>,
        sb: &Arc<SuperBlock>,
        kind: FileType,
        perm: u32,
        owner: Owner,
        content: Content,
    ) -> Result<Arc<Inode>> {
        shared.inodes.charge(1)?;
        let now = now();
        let dir = kind == FileType::Directory;
        let attr = Attr {
            perm,
            nlink: if dir { 2 } else { 1 },
            uid: owner.uid,
            gid: owner.gid,
            size: match &content {
                Content::Symlink(t) => t.len() as u64,
                Content::Directory(_) => 2 * DIRENT_SIZE,
                _ => 0,
            },
            blksize: 4096,
            atime: now,
            mtime: now,
            ctime: now,
            btime: Some(now),
            ..Attr::default()
        };
        let data = match &content {
            Content::Regular(f) => Some(f.clone()),
            _ => None,
        };
        let meta = Mutex::new(Rank::InodeState, Meta { attr, xattrs: BTreeMap::new() });
        let inode = Inode::new(sb, sb.next_ino(), kind, Box::new(TmpInode { shared: shared.clone(), meta, content }));
        if let Some(f) = data {
            f.set_inode(&inode);
        }
        Ok(inode)
    }

    fn new_node(&self, sb: &Arc<SuperBlock>, node: &NewNode<'_>, perm: u32, owner: Owner) -> Result<Arc<Inode>> {
        let (kind, content) = match node {
            NewNode::Regular => (FileType::Regular, Content::Regular(ShmFile::new(&self.shared.pool, Some(self.shared.space.clone())))),
            NewNode::Directory => (FileType::Directory, Content::directory()),
            NewNode::Symlink(target) => (FileType::Symlink, Content::Symlink(target.to_vec())),
            NewNode::Fifo => (FileType::Fifo, Content::Special),
            NewNode::Socket => (FileType::Socket, Content::Special),
            NewNode::Device(kind, _) => (*kind, Content::Special),
            NewNode::Queue(_) => bail!(EPERM, "no message queues here"),
        };
        let inode = Self::make(&self.shared, sb, kind, perm, owner, content)?;
        if let (NewNode::Device(_, dev), Some(t)) = (node, tmp(&inode)) {
            t.meta.lock().attr.rdev = *dev;
        }
        Ok(inode)
    }

    /// Sets attributes without a check or a change of ctime: an overlay's copies keep their times.
    pub fn update_attr(&self, change: impl FnOnce(&mut Attr)) {
        change(&mut self.meta.lock().attr);
    }

    fn entries(&self) -> Result<&Mutex<Entries>> {
        match &self.content {
            Content::Directory(e) => Ok(e),
            _ => bail!(ENOTDIR),
        }
    }

    /// A change of this directory's names: times, size, and `links` subdirectories more or less.
    fn dir_changed(&self, names: i64, links: i32) {
        let now = now();
        let mut m = self.meta.lock();
        m.attr.mtime = now;
        m.attr.ctime = now;
        m.attr.size = m.attr.size.saturating_add_signed(names * DIRENT_SIZE as i64);
        m.attr.nlink = m.attr.nlink.saturating_add_signed(links);
    }

    /// One name of this inode more or less.
    fn add_link(&self, delta: i32) {
        let mut m = self.meta.lock();
        m.attr.nlink = m.attr.nlink.saturating_add_signed(delta);
        m.attr.ctime = now();
    }

    /// Its content was written to.
    pub(super) fn touch_write(&self) {
        let now = now();
        let mut m = self.meta.lock();
        m.attr.mtime = now;
        m.attr.ctime = now;
    }

    /// Its content was read.
    pub(super) fn touch_read(&self, wanted: impl FnOnce(&Attr, Timespec) -> bool) {
        let now = now();
        let mut m = self.meta.lock();
        if m.attr.atime != now && wanted(&m.attr, now) {
            m.attr.atime = now;
        }
    }

    /// Whether nothing is in this directory.
    pub fn is_empty_dir(&self) -> bool {
        self.entries().is_ok_and(|e| e.lock().is_empty())
    }

    /// All names of this directory.
    pub fn names(&self) -> Vec<(FsString, Arc<Inode>)> {
        self.entries().map(|e| e.lock().all()).unwrap_or_default()
    }

    /// Takes a name out of this directory.
    fn remove_entry(&self, name: &FsStr, child: &Inode) -> Result {
        let gone = self.entries()?.lock().remove(name);
        if gone.is_none() {
            bail!(ENOENT);
        }
        drop(gone);
        let is_dir = child.is_dir();
        self.dir_changed(-1, if is_dir { -1 } else { 0 });
        if let Some(c) = tmp(child) {
            c.add_link(if is_dir { -2 } else { -1 });
        }
        Ok(())
    }
}

impl InodeOps for TmpInode {
    fn attr(&self, _inode: &Inode) -> Result<Attr> {
        let mut a = self.meta.lock().attr;
        if let Content::Regular(f) = &self.content {
            a.size = f.size();
            a.blocks = f.blocks();
        }
        Ok(a)
    }

    fn set_attr(&self, _inode: &Inode, change: &SetAttr) -> Result {
        if let (Some(size), Content::Regular(f)) = (change.size, &self.content) {
            f.set_size(size)?;
        }
        let now = now();
        let a = &mut self.meta.lock().attr;
        a.perm = change.perm.unwrap_or(a.perm);
        a.uid = change.uid.unwrap_or(a.uid);
        a.gid = change.gid.unwrap_or(a.gid);
        a.atime = change.atime.map_or(a.atime, |t| t.or(now));
        a.mtime = change.mtime.map_or(if change.size.is_some() { now } else { a.mtime }, |t| t.or(now));
        a.ctime = now;
        Ok(())
    }

    fn lookup(&self, _dir: &Arc<Inode>, name: &FsStr) -> Result<Arc<Inode>> {
        match self.entries()?.lock().get(name) {
            Some(i) => Ok(i),
            None => bail!(ENOENT),
        }
    }

    fn create(&self, dir: &Arc<Inode>, name: &FsStr, node: NewNode<'_>, perm: u32, owner: Owner) -> Result<Arc<Inode>> {
        let inode = self.new_node(&dir.sb, &node, perm, owner)?;
        self.entries()?.lock().insert(name, inode.clone())?;
        self.dir_changed(1, i32::from(inode.is_dir()));
        Ok(inode)
    }

    fn tmpfile(&self, dir: &Arc<Inode>, perm: u32, owner: Owner) -> Result<Arc<Inode>> {
        let inode = self.new_node(&dir.sb, &NewNode::Regular, perm, owner)?;
        if let Some(t) = tmp(&inode) {
            t.update_attr(|a| a.nlink = 0);
        }
        Ok(inode)
    }

    fn link(&self, _dir: &Arc<Inode>, name: &FsStr, target: &Arc<Inode>) -> Result {
        let Some(t) = tmp(target) else { bail!(EXDEV) };
        self.entries()?.lock().insert(name, target.clone())?;
        t.add_link(1);
        self.dir_changed(1, 0);
        Ok(())
    }

    fn unlink(&self, _dir: &Arc<Inode>, name: &FsStr, child: &Arc<Inode>) -> Result {
        self.remove_entry(name, child)
    }

    fn rmdir(&self, _dir: &Arc<Inode>, name: &FsStr, child: &Arc<Inode>) -> Result {
        if !tmp(child).is_some_and(TmpInode::is_empty_dir) {
            bail!(ENOTEMPTY);
        }
        self.remove_entry(name, child)
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
        let Some(new_parent) = tmp(new_dir) else { bail!(EXDEV) };
        let moved_dir = child.is_dir();
        if let (true, Some(other)) = (flags.contains(RenameFlags::EXCHANGE), replaced) {
            self.entries()?.lock().replace(old_name, other.clone());
            new_parent.entries()?.lock().replace(new_name, child.clone());
            let change = i32::from(other.is_dir()) - i32::from(moved_dir);
            self.dir_changed(0, change);
            new_parent.dir_changed(0, -change);
            for i in [child, other] {
                if let Some(t) = tmp(i) {
                    t.add_link(0);
                }
            }
            return Ok(());
        }
        if let Some(r) = replaced {
            if r.is_dir() && !tmp(r).is_some_and(TmpInode::is_empty_dir) {
                bail!(ENOTEMPTY);
            }
        }
        let whiteout = if flags.contains(RenameFlags::WHITEOUT) {
            Some(self.new_node(&old_dir.sb, &NewNode::Device(FileType::CharDevice, 0), 0, Owner { uid: 0, gid: 0 })?)
        } else {
            None
        };
        if let Some(r) = replaced {
            new_parent.remove_entry(new_name, r)?;
        }
        drop(self.entries()?.lock().remove(old_name));
        self.dir_changed(-1, -i32::from(moved_dir));
        new_parent.entries()?.lock().insert(new_name, child.clone())?;
        new_parent.dir_changed(1, i32::from(moved_dir));
        if let Some(w) = whiteout {
            self.entries()?.lock().insert(old_name, w)?;
            self.dir_changed(1, 0);
        }
        if let Some(t) = tmp(child) {
            t.add_link(0);
        }
        Ok(())
    }

    fn readlink(&self, _inode: &Inode) -> Result<FsString> {
        match &self.content {
            Content::Symlink(t) => Ok(t.clone()),
            _ => bail!(EINVAL, "not a symbolic link"),
        }
    }

    fn open(&self, inode: &Arc<Inode>, _path: &PathRef, _flags: OpenFlags, _task: &Task) -> Result<Box<dyn FileOps>> {
        file::open(inode)
    }

    fn getxattr(&self, _inode: &Inode, name: &FsStr) -> Result<Vec<u8>> {
        match self.meta.lock().xattrs.get(name) {
            Some(v) => Ok(v.clone()),
            None => bail!(ENODATA),
        }
    }

    fn setxattr(&self, _inode: &Inode, name: &FsStr, value: &[u8], flags: XattrFlags) -> Result {
        let mut m = self.meta.lock();
        let there = m.xattrs.contains_key(name);
        if there && flags.contains(XattrFlags::CREATE) {
            bail!(EEXIST);
        }
        if !there && flags.contains(XattrFlags::REPLACE) {
            bail!(ENODATA);
        }
        // What one file may hold is bounded, as on any disk file system.
        let held: usize = m.xattrs.iter().filter(|(n, _)| **n != name).map(|(n, v)| n.len() + v.len()).sum();
        if held + name.len() + value.len() > 128 << 10 {
            bail!(ENOSPC);
        }
        m.xattrs.insert(name.to_vec(), value.to_vec());
        m.attr.ctime = now();
        Ok(())
    }

    fn listxattr(&self, _inode: &Inode) -> Result<Vec<FsString>> {
        Ok(self.meta.lock().xattrs.keys().cloned().collect())
    }

    fn removexattr(&self, _inode: &Inode, name: &FsStr) -> Result {
        let mut m = self.meta.lock();
        if m.xattrs.remove(name).is_none() {
            bail!(ENODATA);
        }
        m.attr.ctime = now();
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for TmpInode {
    fn drop(&mut self) {
        self.shared.inodes.release(1);
        // A tree that ends as a whole (umount) may be deeper than a stack.
        let Content::Directory(e) = &mut self.content else { return };
        let mut pending: Vec<Arc<Inode>> = e.get_mut().take();
        while let Some(child) = pending.pop() {
            if Arc::strong_count(&child) == 1 {
                // Nobody else has it, so the lock is free.
                if let Some(mut e) = tmp(&child).and_then(|t| t.entries().ok()).and_then(Mutex::try_lock) {
                    pending.append(&mut e.take());
                }
            }
        }
    }
}
