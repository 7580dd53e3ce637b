//! Making names: mkdir(2), mknod(2), symlink(2), link(2).

use super::{Attr, Dentry, FsStr, Lookup, NewNode, Owner, Parent, PathRef, Walker, notify, perm, walk};
use crate::cred::{CapSet, Credentials};
use abi::{Errno, Result, bail, fs::FileType};
use std::sync::{Arc, atomic::Ordering};

const S_ISGID: u32 = 0o2000;

/// Who owns a new file in this directory: its group is the directory's if that is set-group-id.
pub(super) fn new_owner(dir: &Attr, cred: &Credentials) -> Owner {
    Owner { uid: cred.fsuid, gid: if dir.perm & S_ISGID != 0 { dir.gid } else { cred.fsgid } }
}

/// `mode_strip_sgid`: nobody makes a set-group-id program of a group that it is not in.
pub(super) fn strip_sgid(perm: u32, dir: &Attr, owner: Owner, cred: &Credentials) -> u32 {
    let risky = perm & (S_ISGID | 0o010) == S_ISGID | 0o010 && dir.perm & S_ISGID != 0;
    if risky && !cred.in_group(owner.gid) && !cred.capable(CapSet::FSETID) { perm & !S_ISGID } else { perm }
}

/// Makes a file in a directory that is locked, whose `name` is free. Checks permissions. `perm` has the umask applied.
pub(super) fn new_node(dir: &PathRef, name: &FsStr, node: NewNode<'_>, perm: u32, cred: &Credentials) -> Result<PathRef> {
    perm::may_create(dir, cred)?;
    let attr = dir.inode.attr()?;
    let owner = new_owner(&attr, cred);
    let perm = match node {
        NewNode::Directory => perm | attr.perm & S_ISGID,
        _ => strip_sgid(perm, &attr, owner, cred),
    };
    let change = dir.inode.sb.begin_change();
    let inode = dir.inode.ops.create(&dir.inode, name, node, perm, owner)?;
    drop(change);
    let caches = super::dentry::caches_names(&dir.inode);
    let (_, dentry) = walk::enter_into_cache(&dir.dentry, name, Some(inode.clone()), caches);
    Ok(PathRef { mount: dir.mount.clone(), dentry, inode })
}

impl Walker<'_> {
    /// The locked part of every call that makes a name: the name must be free (`filename_create`).
    fn make_name<T>(&self, parent: &Parent, directory: bool, make: impl FnOnce(&PathRef, &FsStr) -> Result<T>) -> Result<T> {
        let name = parent.name(Errno::EEXIST)?;
        let dir = &parent.dir;
        if !dir.inode.is_dir() {
            bail!(ENOTDIR);
        }
        perm::check(&dir.inode, &self.cred, perm::EXEC)?;
        let made = {
            let _guard = dir.inode.lock_dir();
            if walk::lookup_locked(&dir.dentry, &dir.inode, name)?.inode().is_some() {
                bail!(EEXIST);
            }
            if parent.slash && !directory {
                bail!(ENOENT, "a slash behind a name to be made");
            }
            dir.mount.check_writable()?;
            make(dir, name)?
        };
        let flag = if directory { notify::mask::ISDIR } else { 0 };
        notify::event(&dir.inode, notify::mask::CREATE | flag, Some(name), 0);
        Ok(made)
    }

    /// mkdir(2).
    pub fn mkdir(&self, start: &PathRef, path: &FsStr, mode: u32) -> Result<PathRef> {
        let parent = self.parent(start, path, Lookup::NOFOLLOW)?;
        let perm = mode & 0o1777 & !self.umask;
        self.make_name(&parent, true, |dir, name| new_node(dir, name, NewNode::Directory, perm, &self.cred))
    }

    /// symlink(2).
    pub fn symlink(&self, target: &FsStr, start: &PathRef, path: &FsStr) -> Result<PathRef> {
        if target.is_empty() {
            bail!(ENOENT, "empty target");
        }
        let parent = self.parent(start, path, Lookup::NOFOLLOW)?;
        self.make_name(&parent, false, |dir, name| new_node(dir, name, NewNode::Symlink(target), 0o777, &self.cred))
    }

    /// mknod(2): regular files, FIFOs, sockets and devices. bind(2) of a unix socket makes its name so as well.
    pub fn mknod(&self, start: &PathRef, path: &FsStr, kind: FileType, perm: u32, dev: u64) -> Result<PathRef> {
        let node = match kind {
            FileType::Regular => NewNode::Regular,
            FileType::Fifo => NewNode::Fifo,
            FileType::Socket => NewNode::Socket,
            FileType::CharDevice | FileType::BlockDevice => NewNode::Device(kind, dev),
            FileType::Directory => bail!(EPERM, "use mkdir"),
            FileType::Symlink => bail!(EINVAL, "use symlink"),
        };
        let parent = self.parent(start, path, Lookup::NOFOLLOW)?;
        let perm = perm & 0o7777 & !self.umask;
        self.make_name(&parent, false, |dir, name| {
            // A character device 0:0 is overlayfs's whiteout, which anybody may make.
            let device = matches!(kind, FileType::CharDevice | FileType::BlockDevice);
            if device && !(kind == FileType::CharDevice && dev == 0) {
                perm::may_create(dir, &self.cred)?;
                self.cred.require(CapSet::MKNOD)?;
            }
            new_node(dir, name, node, perm, &self.cred)
        })
    }

    /// What mq_open(2) does where the name is free; `limits` of the new queue.
    pub(crate) fn make_queue(&self, root: &PathRef, name: &FsStr, mode: u32, limits: crate::ipc::mq::Limits) -> Result<PathRef> {
        let parent = self.parent(root, name, Lookup::NOFOLLOW)?;
        let perm = mode & 0o7777 & !self.umask;
        self.make_name(&parent, false, |dir, name| new_node(dir, name, NewNode::Queue(limits), perm, &self.cred))
    }

    /// link(2): another name for the place `old`.
    pub fn link(&self, old: &PathRef, start: &PathRef, path: &FsStr) -> Result {
        let parent = self.parent(start, path, Lookup::NOFOLLOW)?;
        self.make_name(&parent, false, |dir, name| {
            if !Arc::ptr_eq(&old.mount, &dir.mount) || !Arc::ptr_eq(&old.inode.sb, &dir.inode.sb) {
                bail!(EXDEV);
            }
            perm::may_linkat(&old.inode, &self.cred)?;
            perm::may_create(dir, &self.cred)?;
            if old.inode.is_dir() {
                bail!(EPERM, "hard link to a directory");
            }
            if old.inode.attr()?.nlink == 0 && !old.inode.linkable.swap(false, Ordering::AcqRel) {
                bail!(ENOENT, "the file was removed");
            }
            let change = dir.inode.sb.begin_change();
            dir.inode.ops.link(&dir.inode, name, &old.inode)?;
            drop(change);
            if super::dentry::caches_names(&dir.inode) {
                // The file system may show the new name as an inode of its own, so it is looked up when it is used.
                Dentry::forget_child(&dir.dentry, name);
            }
            Ok(())
        })?;
        notify::event(&old.inode, notify::mask::ATTRIB, None, 0);
        Ok(())
    }
}
