//! Opening files: open(2), openat2(2), and what execve(2) opens.

use super::{
    Attr, File, FileOps, FsStr, Inode, Last, Lookup, MountFlags, NewNode, Owner, PathRef, SetAttr, Walker, create,
    file::Access,
    notify, perm,
    walk::{self, Walk},
};
use crate::cred::{CapSet, Credentials};
use abi::{
    Result, bail,
    fs::{FileType, OpenFlags},
    poll::PollEvents,
};
use std::any::Any;
use std::sync::{Arc, atomic::Ordering};

/// How to open: `struct open_how`.
#[derive(Clone, Copy, Debug)]
pub struct OpenHow {
    /// `O_*`
    pub flags: OpenFlags,
    /// Permission bits of a new file, before the umask.
    pub mode: u32,
    /// `RESOLVE_*`
    pub resolve: u64,
}

/// The operations of a description opened with O_PATH: none.
struct PathOnly;

impl FileOps for PathOnly {
    fn poll(&self, _file: &File) -> PollEvents {
        PollEvents::NVAL
    }
    fn seekable(&self) -> bool {
        false
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// `__O_TMPFILE`, without the O_DIRECTORY that [`OpenFlags::TMPFILE`] includes.
const TMPFILE_BIT: u32 = 0o20_000_000;

impl OpenHow {
    /// The flags as the walk needs them, or why they contradict one another (`build_open_flags`).
    fn checked(mut self) -> Result<OpenHow> {
        let f = self.flags;
        if f.bits() & TMPFILE_BIT != 0 && !f.contains(OpenFlags::PATH) {
            if !f.contains(OpenFlags::TMPFILE) {
                bail!(EINVAL, "O_TMPFILE without O_DIRECTORY");
            }
            if f.contains(OpenFlags::CREAT) || f.bits() & 3 == 0 {
                bail!(EINVAL, "O_TMPFILE must be opened for writing, without O_CREAT");
            }
        } else if f.contains(OpenFlags::CREAT | OpenFlags::DIRECTORY) && !f.contains(OpenFlags::PATH) {
            bail!(EINVAL, "O_CREAT with O_DIRECTORY");
        }
        if f.contains(OpenFlags::PATH) {
            self.flags &= OpenFlags::PATH | OpenFlags::DIRECTORY | OpenFlags::NOFOLLOW | OpenFlags::CLOEXEC;
        } else {
            // 64-bit programs have it always; F_GETFL shows it of what was opened by name.
            self.flags |= OpenFlags::LARGEFILE;
        }
        Ok(self)
    }

    fn has(&self, f: OpenFlags) -> bool {
        self.flags.contains(f)
    }

    /// What the file's permission bits must allow.
    fn mask(&self) -> u32 {
        let access = match self.flags.bits() & 3 {
            0 => perm::READ,
            1 => perm::WRITE,
            _ => perm::READ | perm::WRITE,
        };
        if self.has(OpenFlags::TRUNC) { access | perm::WRITE } else { access }
    }
}

impl Walker<'_> {
    /// open(2) with all its flags.
    pub fn open(&self, start: &PathRef, path: &FsStr, how: OpenHow) -> Result<Arc<File>> {
        let how = how.checked()?;
        let exclusive = how.has(OpenFlags::CREAT | OpenFlags::EXCL);
        let lookup = Lookup {
            follow: !how.has(OpenFlags::NOFOLLOW) && !exclusive,
            directory: how.has(OpenFlags::DIRECTORY),
            empty: false,
            resolve: how.resolve,
        };
        if how.flags.bits() & TMPFILE_BIT != 0 {
            return self.open_tmpfile(&self.walk(start, path, Lookup { directory: true, ..lookup })?, how);
        }
        if !how.has(OpenFlags::CREAT) {
            return self.open_path(&self.walk(start, path, lookup)?, how, false);
        }
        let mut walk = self.begin(start, path, lookup)?;
        loop {
            let (last, slash) = walk.to_last()?;
            let Last::Name(name) = &last else {
                walk.step_last(&last, true)?;
                bail!(EISDIR);
            };
            if slash {
                bail!(EISDIR, "a slash behind a file to be created");
            }
            let dir = walk.at.clone();
            if let Some(path) = self.create_for_open(&mut walk, name, &how)? {
                return self.open_path(&path, how, true);
            }
            // It is there: walk on into it.
            if !walk.step_last(&last, lookup.follow)? {
                continue;
            }
            if walk.at.inode.is_dir() {
                bail!(EISDIR);
            }
            perm::may_create_in_sticky(&dir.inode.attr()?, &walk.at.inode, &self.cred)?;
            return self.open_path(&walk.at, how, false);
        }
    }

    /// Makes the file if its name is free; `None` if it is there.
    fn create_for_open(&self, walk: &mut Walk<'_, '_>, name: &FsStr, how: &OpenHow) -> Result<Option<PathRef>> {
        let exists = |r: Result<PathRef>| match r {
            Ok(_) if how.has(OpenFlags::EXCL) => bail!(EEXIST),
            Ok(_) => Ok(true),
            Err(e) if e.is(abi::Errno::ENOENT) => Ok(false),
            Err(e) => Err(e),
        };
        if exists(walk.child(name))? {
            return Ok(None);
        }
        let dir = walk.at.clone();
        let guard = dir.inode.lock_dir();
        // Somebody may have made it meanwhile.
        let dentry = walk::lookup_locked(&dir.dentry, &dir.inode, name)?;
        if let Some(inode) = dentry.inode() {
            exists(Ok(PathRef { mount: dir.mount.clone(), dentry, inode }))?;
            return Ok(None);
        }
        let made = create::new_node(&dir, name, NewNode::Regular, how.mode & 0o7777 & !self.umask, &self.cred)?;
        drop(guard);
        notify::event(&dir.inode, notify::mask::CREATE, Some(name), 0);
        Ok(Some(made))
    }

    fn open_tmpfile(&self, dir: &PathRef, how: OpenHow) -> Result<Arc<File>> {
        perm::check_path(dir, &self.cred, perm::WRITE | perm::EXEC)?;
        let attr = dir.inode.attr()?;
        let owner = create::new_owner(&attr, &self.cred);
        let mode = create::strip_sgid(how.mode & 0o7777 & !self.umask, &attr, owner, &self.cred);
        let inode = dir.inode.ops.tmpfile(&dir.inode, mode, owner)?;
        let dentry = super::Dentry::unhashed(&dir.dentry, format!("#{}", inode.ino).as_bytes(), inode.clone());
        dentry.set_unlinked();
        inode.linkable.store(!how.has(OpenFlags::EXCL), Ordering::Release);
        let flags = how.flags - OpenFlags::DIRECTORY;
        self.open_path(&PathRef { mount: dir.mount.clone(), dentry, inode }, OpenHow { flags, ..how }, true)
    }

    /// Opens a place. `created`: it was made just now, so that its own permission bits do not count.
    pub fn open_path(&self, path: &PathRef, mut how: OpenHow, created: bool) -> Result<Arc<File>> {
        if how.has(OpenFlags::DIRECTORY) && !path.inode.is_dir() {
            bail!(ENOTDIR);
        }
        if how.has(OpenFlags::PATH) {
            return Ok(File::new(path.clone(), how.flags, Box::new(PathOnly)));
        }
        self.may_open(path, &mut how, created)?;
        let regular = path.inode.kind == FileType::Regular;
        let truncate = how.has(OpenFlags::TRUNC) && regular && !created;
        let mut access = Access::None;
        if how.flags.writable() && regular {
            path.inode.get_write_access()?;
            path.mount.add_writer(1);
            access = Access::Write;
        }
        // From here on dropping the file undoes it.
        let ops = match self.open_inode(path, how.flags) {
            Ok(ops) => ops,
            Err(e) => {
                if access == Access::Write {
                    path.inode.put_write_access();
                    path.mount.add_writer(-1);
                }
                return Err(e);
            }
        };
        let file = File::with_access(path.clone(), how.flags, ops, access);
        if truncate {
            if access == Access::None {
                path.inode.get_write_access()?;
            }
            let done = super::attr::set_size(&path.inode, 0, &self.cred);
            if access == Access::None {
                path.inode.put_write_access();
            }
            done?;
        }
        notify::event_at(&path.dentry, &path.inode, notify::mask::OPEN);
        Ok(file)
    }

    /// `may_open`: whether this kind of file can be opened so, and by these credentials.
    fn may_open(&self, path: &PathRef, how: &mut OpenHow, created: bool) -> Result {
        let mask = how.mask();
        match path.inode.kind {
            FileType::Symlink => bail!(ELOOP, "symbolic link with O_NOFOLLOW"),
            FileType::Directory if mask & perm::WRITE != 0 => bail!(EISDIR),
            FileType::CharDevice | FileType::BlockDevice => {
                if path.mount.flags().contains(MountFlags::NODEV) && !path.is_nameless() {
                    bail!(EACCES, "mount is nodev");
                }
                how.flags -= OpenFlags::TRUNC;
            }
            FileType::Fifo | FileType::Socket => how.flags -= OpenFlags::TRUNC,
            FileType::Directory | FileType::Regular => {}
        }
        if !created {
            perm::check_path(path, &self.cred, mask)?;
        }
        if how.has(OpenFlags::NOATIME) && !perm::is_owner_or_capable(&path.inode.attr()?, &self.cred) {
            bail!(EPERM, "O_NOATIME of somebody else's file");
        }
        Ok(())
    }

    /// The state of a new description: the file system's, a device's, or a FIFO's.
    fn open_inode(&self, path: &PathRef, flags: OpenFlags) -> Result<Box<dyn FileOps>> {
        let Some(task) = self.task else { bail!(EPERM, "only a task can open files") };
        let inode = &path.inode;
        if !inode.ops.opens_devices() {
            match inode.kind {
                FileType::CharDevice => {
                    return task.kernel().vfs.char_device(inode.attr()?.rdev)?.open(inode, path, flags, task);
                }
                FileType::BlockDevice => bail!(ENXIO, "no block devices"),
                FileType::Fifo => return crate::ipc::pipe::fifo::open(inode, flags, task),
                FileType::Socket => bail!(ENXIO, "sockets are not opened"),
                _ => {}
            }
        }
        inode.ops.open(inode, path, flags, task)
    }

    /// What execve(2) runs: a regular file that may be executed. Nobody can write to it while the description lives.
    pub fn open_exec(&self, start: &PathRef, path: &FsStr, how: Lookup) -> Result<Arc<File>> {
        self.open_exec_path(&self.walk(start, path, how)?)
    }

    /// The same for a place (a descriptor with AT_EMPTY_PATH).
    pub fn open_exec_path(&self, path: &PathRef) -> Result<Arc<File>> {
        if path.inode.kind == FileType::Symlink {
            bail!(ELOOP, "symbolic link that is not followed");
        }
        if path.inode.kind != FileType::Regular {
            bail!(EACCES, "not a regular file");
        }
        perm::check_path(path, &self.cred, perm::EXEC)?;
        let ops = self.open_inode(path, OpenFlags::empty())?;
        path.inode.deny_write_access()?;
        let file = File::with_access(path.clone(), OpenFlags::empty(), ops, Access::DenyWrite);
        notify::event_at(&path.dentry, &path.inode, notify::mask::OPEN);
        Ok(file)
    }
}

/// Takes set-id bits from a file that is written to or truncated by somebody without CAP_FSETID.
pub fn drop_set_id(inode: &Inode, attr: &Attr, cred: &Credentials) -> Result {
    if inode.kind != FileType::Regular || attr.perm & 0o6000 == 0 || cred.capable(CapSet::FSETID) {
        return Ok(());
    }
    let keep_sgid = attr.perm & 0o010 == 0 && cred.in_group(attr.gid);
    let perm = attr.perm & !0o4000 & if keep_sgid { !0 } else { !0o2000 };
    if perm != attr.perm {
        inode.ops.set_attr(inode, &SetAttr { perm: Some(perm), ..SetAttr::default() })?;
    }
    Ok(())
}

impl Owner {
    /// The owner that these credentials give.
    #[must_use]
    pub fn of(cred: &Credentials) -> Owner {
        Owner { uid: cred.fsuid, gid: cred.fsgid }
    }
}
