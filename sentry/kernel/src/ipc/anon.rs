//! Files without a name in any tree: pipes, sockets, and what Linux keeps in `anon_inodefs`.
//!
//! Each kind has a file system of its own that is mounted nowhere. The dentry's name is what /proc/PID/fd shows (`pipe:[7]`).

use crate::{
    cred::Credentials,
    task::Task,
    vfs::{Attr, Dentry, File, FileOps, Inode, InodeOps, Mount, MountFlags, PathRef, SbFlags, SetAttr, SetTime, SuperBlock, SuperOps},
};
use abi::{
    Result, bail,
    fs::{FileType, OpenFlags, Statfs},
    time::Timespec,
};
use std::any::Any;
use std::sync::{Arc, LazyLock};
use sync::{Mutex, Rank};

/// The nameless file systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnonKind {
    /// `pipefs`, shown as `pipe:[INO]`.
    Pipe,
    /// `sockfs`, shown as `socket:[INO]`.
    Socket,
    /// `anon_inodefs`, shown as `anon_inode:` and this name (brackets included where Linux has them).
    Other(&'static str),
}

struct AnonSuper {
    magic: i64,
}

impl SuperOps for AnonSuper {
    fn statfs(&self, _sb: &SuperBlock) -> Result<Statfs> {
        Ok(Statfs { kind: self.magic, bsize: 4096, namelen: 255, frsize: 4096, ..Statfs::default() })
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn super_block(name: &'static str, magic: i64) -> Arc<SuperBlock> {
    SuperBlock::new(name, name, SbFlags::NO_DCACHE | SbFlags::NODEV, Box::new(AnonSuper { magic }))
}

static PIPEFS: LazyLock<Arc<SuperBlock>> = LazyLock::new(|| super_block("pipefs", 0x5049_5045));
static SOCKFS: LazyLock<Arc<SuperBlock>> = LazyLock::new(|| super_block("sockfs", 0x534f_434b));
static ANON_INODEFS: LazyLock<Arc<SuperBlock>> = LazyLock::new(|| super_block("anon_inodefs", 0x0904_1934));

struct AnonInode {
    attr: Mutex<Attr>,
}

fn now() -> Timespec {
    Timespec::from_nanos(host::time::realtime_coarse_ns())
}

impl InodeOps for AnonInode {
    fn attr(&self, _inode: &Inode) -> Result<Attr> {
        Ok(*self.attr.lock())
    }

    fn set_attr(&self, inode: &Inode, change: &SetAttr) -> Result {
        // Linux refuses chmod and chown of anon_inodefs' shared inode.
        if inode.kind == FileType::Regular {
            bail!(EOPNOTSUPP);
        }
        let mut a = self.attr.lock();
        let time = |t: SetTime| match t {
            SetTime::Now => now(),
            SetTime::To(t) => t,
        };
        a.perm = change.perm.unwrap_or(a.perm);
        a.uid = change.uid.unwrap_or(a.uid);
        a.gid = change.gid.unwrap_or(a.gid);
        a.atime = change.atime.map_or(a.atime, time);
        a.mtime = change.mtime.map_or(a.mtime, time);
        a.ctime = now();
        Ok(())
    }

    fn open(&self, _inode: &Arc<Inode>, _path: &PathRef, _flags: OpenFlags, _task: &Task) -> Result<Box<dyn FileOps>> {
        bail!(ENXIO, "a nameless file cannot be opened again")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A place for a new nameless file, owned by `cred`.
pub fn anon_path(kind: AnonKind, cred: &Credentials) -> PathRef {
    let (sb, file_type, perm) = match kind {
        AnonKind::Pipe => (&*PIPEFS, FileType::Fifo, 0o600),
        AnonKind::Socket => (&*SOCKFS, FileType::Socket, 0o777),
        AnonKind::Other(_) => (&*ANON_INODEFS, FileType::Regular, 0o600),
    };
    let now = now();
    let attr =
        Attr { perm, nlink: 1, uid: cred.fsuid, gid: cred.fsgid, blksize: 4096, atime: now, mtime: now, ctime: now, ..Attr::default() };
    let ino = sb.next_ino();
    let inode = Inode::new(sb, ino, file_type, Box::new(AnonInode { attr: Mutex::new(Rank::InodeState, attr) }));
    let name = match kind {
        AnonKind::Pipe => format!("pipe:[{ino}]"),
        AnonKind::Socket => format!("socket:[{ino}]"),
        AnonKind::Other(name) => format!("anon_inode:{name}"),
    };
    let dentry = Dentry::root(name.into_bytes(), inode.clone());
    PathRef { mount: Mount::new(sb, dentry.clone(), MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV), dentry, inode }
}

/// A new open file that has no name.
pub fn anon_file(kind: AnonKind, cred: &Credentials, flags: OpenFlags, ops: Box<dyn FileOps>) -> Arc<File> {
    File::new(anon_path(kind, cred), flags, ops)
}
