//! Files without names: pipes, sockets, event files.

use super::{
    Attr, Dentry, FileOps, Inode, InodeOps, Mount, MountFlags, PathRef, SbFlags, SetAttr, SetTime, SuperBlock, SuperOps,
};
use crate::{Kernel, cred::Credentials, task::Task};
use abi::{
    Result, bail,
    fs::{FileType, OpenFlags, Statfs},
    time::Timespec,
};
use std::any::Any;
use std::sync::Arc;
use sync::{Mutex, Rank};

struct PseudoSuper {
    magic: i64,
}

impl SuperOps for PseudoSuper {
    fn statfs(&self, _sb: &SuperBlock) -> Result<Statfs> {
        Ok(Statfs { kind: self.magic, bsize: 4096, frsize: 4096, namelen: 255, ..Statfs::default() })
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A file system that nobody can mount or look into.
pub(super) fn pseudo_fs(name: &'static str, magic: i64) -> Arc<Mount> {
    let sb = SuperBlock::new(name, "none", SbFlags::NO_DCACHE | SbFlags::NODEV, Box::new(PseudoSuper { magic }));
    let root = Inode::new(&sb, sb.next_ino(), FileType::Directory, AnonInode::new(0o500, 0, 0));
    sb.set_root(root.clone());
    Mount::new(&sb, Dentry::root(name.as_bytes().to_vec(), root), MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV)
}

/// The attributes of a file without a name.
struct AnonInode {
    attr: Mutex<Attr>,
}

impl AnonInode {
    fn new(perm: u32, uid: u32, gid: u32) -> Box<AnonInode> {
        let now = now();
        let attr = Attr { perm, nlink: 1, uid, gid, blksize: 4096, atime: now, mtime: now, ctime: now, ..Attr::default() };
        Box::new(AnonInode { attr: Mutex::new(Rank::InodeState, attr) })
    }
}

impl InodeOps for AnonInode {
    fn attr(&self, _inode: &Inode) -> Result<Attr> {
        Ok(*self.attr.lock())
    }

    fn set_attr(&self, _inode: &Inode, change: &SetAttr) -> Result {
        let mut a = self.attr.lock();
        let now = now();
        a.perm = change.perm.unwrap_or(a.perm);
        a.uid = change.uid.unwrap_or(a.uid);
        a.gid = change.gid.unwrap_or(a.gid);
        a.atime = change.atime.map_or(a.atime, |t| t.or(now));
        a.mtime = change.mtime.map_or(a.mtime, |t| t.or(now));
        a.ctime = now;
        Ok(())
    }

    fn open(&self, _inode: &Arc<Inode>, _path: &PathRef, _flags: OpenFlags, _task: &Task) -> Result<Box<dyn FileOps>> {
        bail!(ENXIO, "cannot be opened again")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl SetTime {
    /// The time itself, `now` standing for `UTIME_NOW`.
    #[must_use]
    pub fn or(self, now: Timespec) -> Timespec {
        match self {
            SetTime::Now => now,
            SetTime::To(t) => t,
        }
    }
}

/// The time that new timestamps of files get.
#[must_use]
pub fn now() -> Timespec {
    Timespec::from_nanos(host::time::realtime_coarse_ns())
}

impl PathRef {
    /// A file without a name, of a kind that is only an interface: `anonymous(kernel, "[eventfd]")` is shown as `anon_inode:[eventfd]`.
    pub fn anonymous(kernel: &Kernel, name: &str) -> PathRef {
        let mount = &kernel.vfs.anon_inodefs;
        let inode = Inode::new(&mount.sb, mount.sb.next_ino(), FileType::Regular, AnonInode::new(0o600, 0, 0));
        Self::nameless(mount, format!("anon_inode:{name}"), inode)
    }

    /// A pipe, shown as `pipe:[INO]`.
    pub fn anonymous_pipe(kernel: &Kernel, cred: &Credentials) -> PathRef {
        let mount = &kernel.vfs.pipefs;
        let ino = mount.sb.next_ino();
        let inode = Inode::new(&mount.sb, ino, FileType::Fifo, AnonInode::new(0o600, cred.fsuid, cred.fsgid));
        Self::nameless(mount, format!("pipe:[{ino}]"), inode)
    }

    /// A socket, shown as `socket:[INO]`.
    pub fn anonymous_socket(kernel: &Kernel, cred: &Credentials) -> PathRef {
        let mount = &kernel.vfs.sockfs;
        let ino = mount.sb.next_ino();
        let inode = Inode::new(&mount.sb, ino, FileType::Socket, AnonInode::new(0o777, cred.fsuid, cred.fsgid));
        Self::nameless(mount, format!("socket:[{ino}]"), inode)
    }

    /// A file without a name whose inode is somebody's own: a memfd, a host's pipe. Shown as `name`.
    pub fn anonymous_with(kernel: &Kernel, name: &str, kind: FileType, ops: Box<dyn InodeOps>) -> PathRef {
        let mount = &kernel.vfs.anon_inodefs;
        let inode = Inode::new(&mount.sb, mount.sb.next_ino(), kind, ops);
        Self::nameless(mount, name.to_owned(), inode)
    }

    /// A place for an inode of an internal mount, shown as `name` as it is.
    pub fn nameless(mount: &Arc<Mount>, name: String, inode: Arc<Inode>) -> PathRef {
        PathRef { mount: mount.clone(), dentry: Dentry::root(name.into_bytes(), inode.clone()), inode }
    }

    /// Whether it is a file without a name: in no tree of mounts.
    pub fn is_anonymous(&self) -> bool {
        self.mount.namespace().is_none() && self.dentry.parent().is_none() && !Arc::ptr_eq(&self.dentry, &self.mount.root)
    }
}
