//! Inodes: files apart from their names.

use super::{File, FileOps, FsStr, FsString, PathRef, SuperBlock};
use crate::{cred::Credentials, task::Task};
use abi::{
    Result, bail,
    fs::{FileType, OpenFlags},
    time::Timespec,
};
use bitflags::bitflags;
use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicI32, Ordering},
};
use sync::{Mutex, Rank};

/// What stat(2) tells, without device and inode number, which [`Inode`] knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attr {
    /// Permission bits with set-id and sticky bits; the type is [`Inode::kind`].
    pub perm: u32,
    /// Hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node.
    pub rdev: u64,
    /// Bytes.
    pub size: u64,
    /// 512-byte blocks.
    pub blocks: u64,
    /// Preferred I/O size.
    pub blksize: u32,
    #[allow(missing_docs)]
    pub atime: Timespec,
    #[allow(missing_docs)]
    pub mtime: Timespec,
    #[allow(missing_docs)]
    pub ctime: Timespec,
    /// Birth, where the file system knows it.
    pub btime: Option<Timespec>,
}

/// A time to set with utimensat(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// `UTIME_NOW`.
    Now,
    /// This time.
    To(Timespec),
}

/// A change of attributes; `None` leaves a field. The VFS has checked permissions, dropped set-id bits where Linux does, and
/// the file system sets ctime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SetAttr {
    pub perm: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
}

/// Owner of a new file, as the VFS computed it (set-group-id directories included).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

/// A new file.
#[derive(Clone, Debug)]
pub enum NewNode<'a> {
    /// open(2) with O_CREAT, or mknod(2) with S_IFREG.
    Regular,
    /// mkdir(2).
    Directory,
    /// symlink(2) with this target.
    Symlink(&'a FsStr),
    /// mknod(2) with S_IFIFO.
    Fifo,
    /// bind(2) of a unix socket, or mknod(2) with S_IFSOCK.
    Socket,
    /// mknod(2) of a device: kind and number.
    Device(FileType, u64),
    /// mq_open(2): a message queue that holds so much.
    Queue(crate::ipc::mq::Limits),
}

bitflags! {
    /// Flags of renameat2(2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RenameFlags: u32 {
        const NOREPLACE = 1;
        const EXCHANGE = 2;
        const WHITEOUT = 4;
    }
}

bitflags! {
    /// Flags of setxattr(2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct XattrFlags: u32 {
        const CREATE = 1;
        const REPLACE = 2;
    }
}

/// What a file system does for one inode. Directory operations are called with the directory locked
/// ([`Inode::lock_dir`]), permissions checked and names valid (no slash, not `.` or `..`, at most NAME_MAX bytes).
pub trait InodeOps: Send + Sync {
    /// Current attributes.
    fn attr(&self, inode: &Inode) -> Result<Attr>;

    /// Changes attributes; a change of size truncates or extends.
    fn set_attr(&self, _inode: &Inode, _change: &SetAttr) -> Result {
        bail!(EPERM, "attributes cannot be changed")
    }

    /// Finds a name in this directory; `ENOENT` if it is not there.
    fn lookup(&self, _dir: &Arc<Inode>, _name: &FsStr) -> Result<Arc<Inode>> {
        bail!(ENOTDIR)
    }

    /// Finds as many of the names, each in the one before, as it can in one go: at least the first (or its error). Stops after
    /// a symbolic link or anything else that is no directory. A file system that must ask someone overrides this.
    fn lookup_path(&self, dir: &Arc<Inode>, names: &[&FsStr]) -> Vec<Result<Arc<Inode>>> {
        match names.first() {
            Some(name) => vec![self.lookup(dir, name)],
            None => Vec::new(),
        }
    }

    /// Whether a cached name still means this inode (`None`: still means nothing). Only asked under [`super::SbFlags::REVALIDATE`].
    fn revalidate(&self, _dir: &Arc<Inode>, _name: &FsStr, _cached: Option<&Arc<Inode>>) -> bool {
        true
    }

    /// Makes a file. `perm` has the umask applied.
    fn create(&self, _dir: &Arc<Inode>, _name: &FsStr, _node: NewNode<'_>, _perm: u32, _owner: Owner) -> Result<Arc<Inode>> {
        bail!(EPERM, "nothing can be made here")
    }

    /// Makes a regular file without a name (O_TMPFILE); [`link`](Self::link) may give it one.
    fn tmpfile(&self, _dir: &Arc<Inode>, _perm: u32, _owner: Owner) -> Result<Arc<Inode>> {
        bail!(EOPNOTSUPP)
    }

    /// Makes another name for `target`, an inode of the same file system.
    fn link(&self, _dir: &Arc<Inode>, _name: &FsStr, _target: &Arc<Inode>) -> Result {
        bail!(EPERM, "no hard links here")
    }

    /// Removes the name of `child`, which is no directory.
    fn unlink(&self, _dir: &Arc<Inode>, _name: &FsStr, _child: &Arc<Inode>) -> Result {
        bail!(EPERM)
    }

    /// Removes an empty directory: `ENOTEMPTY` if it is not.
    fn rmdir(&self, _dir: &Arc<Inode>, _name: &FsStr, _child: &Arc<Inode>) -> Result {
        bail!(EPERM)
    }

    /// Renames within the file system. The VFS has checked kinds, loops and flags; `replaced` is what is at the new name now.
    fn rename(
        &self,
        _old_dir: &Arc<Inode>,
        _old_name: &FsStr,
        _child: &Arc<Inode>,
        _new_dir: &Arc<Inode>,
        _new_name: &FsStr,
        _replaced: Option<&Arc<Inode>>,
        _flags: RenameFlags,
    ) -> Result {
        bail!(EPERM)
    }

    /// The target of a symbolic link.
    fn readlink(&self, _inode: &Inode) -> Result<FsString> {
        bail!(EINVAL, "not a symbolic link")
    }

    /// A magic link (/proc/PID/fd/N, /proc/PID/exe, …): the place it leads to without any text. `None`: an ordinary link.
    fn follow_magic(&self, _inode: &Inode, _task: &Task) -> Option<Result<PathRef>> {
        None
    }

    /// Opens the file: the state of an open file description. `path` is the place, `task` who opens. For device nodes, FIFOs and
    /// sockets the VFS does not call this but looks the device up, uses the inode's pipe, or fails.
    fn open(&self, inode: &Arc<Inode>, path: &PathRef, flags: OpenFlags, task: &Task) -> Result<Box<dyn FileOps>>;

    /// Whether `task` may open a special node through this file system ([`open`](Self::open) is called for devices too if true: dev).
    fn opens_devices(&self) -> bool {
        false
    }

    /// An extended attribute's value.
    fn getxattr(&self, _inode: &Inode, _name: &FsStr) -> Result<Vec<u8>> {
        bail!(EOPNOTSUPP)
    }
    /// Sets an extended attribute.
    fn setxattr(&self, _inode: &Inode, _name: &FsStr, _value: &[u8], _flags: XattrFlags) -> Result {
        bail!(EOPNOTSUPP)
    }
    /// Names of all extended attributes.
    fn listxattr(&self, _inode: &Inode) -> Result<Vec<FsString>> {
        Ok(Vec::new())
    }
    /// Removes an extended attribute.
    fn removexattr(&self, _inode: &Inode, _name: &FsStr) -> Result {
        bail!(EOPNOTSUPP)
    }

    /// A socket of the host (`SOCK_*`), not blocking, that is connected with the host's socket behind this inode, by who has these credentials.
    /// `EAGAIN` while too many wait there; `ECONNREFUSED` where there is none, or it is out of bounds.
    fn connect_host(&self, _inode: &Inode, _kind: i32, _cred: &Credentials) -> Result<OwnedFd> {
        bail!(ECONNREFUSED, "nobody is bound there")
    }

    /// Replaces the ordinary permission check (proc). `mask` as for access(2): 4 read, 2 write, 1 search or execute.
    fn permission(&self, _inode: &Inode, _cred: &Credentials, _mask: u32) -> Option<Result> {
        None
    }

    /// For the file system's own use (downcasting what `link` and `rename` get).
    fn as_any(&self) -> &dyn Any;
}

/// A file apart from its names.
pub struct Inode {
    /// The file system it lives in.
    pub sb: Arc<SuperBlock>,
    /// `st_ino`.
    pub ino: u64,
    /// Its type, which never changes.
    pub kind: FileType,
    /// The file system's part.
    pub ops: Box<dyn InodeOps>,
    dir_lock: Mutex<()>,
    /// Writers of a regular file, one at a time (`i_rwsem`).
    pub io_lock: Mutex<()>,
    /// Positive: so many open files write to it. Negative: so many programs run from it (`i_writecount`).
    writers: AtomicI32,
    /// Without a name, but may get one: made with O_TMPFILE and without O_EXCL (`I_LINKABLE`).
    pub(super) linkable: AtomicBool,
    /// Parts of other subsystems that hang on an inode whatever its file system (locks, watches, FIFO, bound socket), by type. Inodes of
    /// one file of the host, which several file systems show, have them in common.
    pub attachments: Arc<Attachments>,
}

impl Inode {
    /// A new inode.
    pub fn new(sb: &Arc<SuperBlock>, ino: u64, kind: FileType, ops: Box<dyn InodeOps>) -> Arc<Inode> {
        Inode::with(sb, ino, kind, ops, Arc::default())
    }

    /// A new inode with these attachments.
    pub fn with(sb: &Arc<SuperBlock>, ino: u64, kind: FileType, ops: Box<dyn InodeOps>, attachments: Arc<Attachments>) -> Arc<Inode> {
        Arc::new(Inode {
            sb: sb.clone(),
            ino,
            kind,
            ops,
            dir_lock: Mutex::new(Rank::InodeDir, ()),
            io_lock: Mutex::new(Rank::InodeIo, ()),
            writers: AtomicI32::new(0),
            linkable: AtomicBool::new(false),
            attachments,
        })
    }

    /// Locks this directory's entries.
    pub fn lock_dir(&self) -> sync::MutexGuard<'_, ()> {
        self.dir_lock.lock()
    }

    /// Locks this directory's entries while another directory is locked: the caller keeps the order (ancestor first).
    pub fn lock_dir_nested(&self) -> sync::MutexGuard<'_, ()> {
        self.dir_lock.lock_nested()
    }

    /// Counts somebody who writes to it; `ETXTBSY` while a program runs from it.
    pub fn get_write_access(&self) -> Result {
        match self.writers.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n >= 0).then_some(n + 1)) {
            Ok(_) => Ok(()),
            Err(_) => bail!(ETXTBSY, "a program runs from it"),
        }
    }

    /// The end of [`get_write_access`](Self::get_write_access).
    pub fn put_write_access(&self) {
        self.writers.fetch_sub(1, Ordering::AcqRel);
    }

    /// Counts a program that runs from it; `ETXTBSY` while somebody writes to it.
    pub fn deny_write_access(&self) -> Result {
        match self.writers.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n <= 0).then_some(n - 1)) {
            Ok(_) => Ok(()),
            Err(_) => bail!(ETXTBSY, "open for writing"),
        }
    }

    /// The end of [`deny_write_access`](Self::deny_write_access).
    pub fn allow_write_access(&self) {
        self.writers.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == FileType::Directory
    }

    /// Current attributes.
    pub fn attr(&self) -> Result<Attr> {
        self.ops.attr(self)
    }
}

impl std::fmt::Debug for Inode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Inode({} {} {:?})", self.sb.fs_name, self.ino, self.kind)
    }
}

/// Values that subsystems attach to an inode, one of each type.
#[derive(Default)]
pub struct Attachments(std::sync::OnceLock<Mutex<Vec<Arc<dyn Any + Send + Sync>>>>);

impl Attachments {
    /// The attached value of this type, made with `make` if there is none yet.
    pub fn get_or_insert_with<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Arc<T> {
        let mut list = self.0.get_or_init(|| Mutex::new(Rank::InodeState, Vec::new())).lock();
        for a in list.iter() {
            if let Ok(found) = a.clone().downcast::<T>() {
                return found;
            }
        }
        let new = Arc::new(make());
        list.push(new.clone());
        new
    }

    /// The attached value of this type, if there is one.
    pub fn get<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        let list = self.0.get()?.lock();
        list.iter().find_map(|a| a.clone().downcast::<T>().ok())
    }

    /// Takes the value of this type away.
    pub fn remove<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        let mut list = self.0.get()?.lock();
        let i = list.iter().position(|a| a.is::<T>())?;
        list.remove(i).downcast::<T>().ok()
    }
}

/// The inode of an open file.
impl AsRef<Inode> for File {
    fn as_ref(&self) -> &Inode {
        self.inode()
    }
}
