//! File system types and mounted file systems.

use super::{Dentry, DentryCache, Inode};
use crate::{Container, cred::Credentials};
use abi::{Result, fs::Statfs};
use bitflags::bitflags;
use std::any::Any;
use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};
use sync::{Mutex, Rank};

bitflags! {
    /// What the name cache may assume of a file system.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SbFlags: u32 {
        /// Names appear and vanish by themselves (proc): every lookup asks the file system.
        const NO_DCACHE = 1;
        /// Others may change it (a shared gofer tree): [`super::InodeOps::revalidate`] is asked for each cached name.
        const REVALIDATE = 2;
        /// Listed in /proc/filesystems as `nodev`.
        const NODEV = 4;
    }
}

/// Where a mount's content comes from: mount(2)'s `source` and `data`, or what the boot hands over.
pub struct MountSource<'a> {
    /// `source`, as shown in /proc/mounts.
    pub source: &'a str,
    /// `data`: comma-separated options.
    pub options: &'a str,
    /// What only the boot can give (the gofer's connection, the layers of an overlay).
    pub extra: Option<Box<dyn Any + Send>>,
}

/// A kind of file system, registered with [`register_fs`](crate::Kernel::register_fs).
pub trait FsType: Send + Sync {
    /// Its name, as mount(2) takes it.
    fn name(&self) -> &'static str;
    /// Whether an application with CAP_SYS_ADMIN may mount it.
    fn user_mountable(&self) -> bool {
        false
    }
    /// Makes a file system, for the processes of a container.
    fn mount(&self, container: &Arc<Container>, cred: &Credentials, source: MountSource<'_>) -> Result<Arc<SuperBlock>>;
}

/// What a mounted file system can be asked as a whole.
pub trait SuperOps: Send + Sync {
    /// statfs(2).
    fn statfs(&self, sb: &SuperBlock) -> Result<Statfs>;
    /// Options for /proc/mounts, each with a leading comma (`,size=65536k`).
    fn show_options(&self) -> String {
        String::new()
    }
    /// syncfs(2).
    fn sync(&self) -> Result {
        Ok(())
    }
    /// New options of mount(2) with MS_REMOUNT.
    fn remount(&self, _options: &str) -> Result {
        Ok(())
    }
    /// Bytes of the sandbox's memory that its files have.
    fn memory(&self) -> u64 {
        0
    }
    /// The last mount is gone: what is kept for the next use is let go. Files that are still open stay.
    fn unmounted(&self) {}
    /// For the file system's own use.
    fn as_any(&self) -> &dyn Any;
}

/// A mounted file system.
pub struct SuperBlock {
    /// `st_dev` of its files.
    pub dev: u64,
    /// Its type's name.
    pub fs_name: &'static str,
    /// `source` of mount(2).
    pub source: String,
    /// Behaviour of the name cache.
    pub flags: SbFlags,
    /// The file system's own part.
    pub ops: Box<dyn SuperOps>,
    /// Names that are kept though nobody uses them.
    pub dcache: DentryCache,
    /// Serializes renames from one directory to another.
    pub rename_lock: Mutex<()>,
    root: Mutex<Option<Arc<Dentry>>>,
    next_ino: AtomicU64,
    /// Mounts of it. At the last one's end the root is let go, and with it what nobody has open.
    active: AtomicU32,
    /// Changes of names under way, and changes begun since it was made.
    changing: AtomicU32,
    changes: AtomicU64,
}

/// Minor numbers of file systems without a device (major 0).
static NEXT_MINOR: AtomicU32 = AtomicU32::new(1);

impl SuperBlock {
    /// A new one; its root inode is given afterwards with [`set_root`](Self::set_root), because an inode names its superblock.
    pub fn new(fs_name: &'static str, source: &str, flags: SbFlags, ops: Box<dyn SuperOps>) -> Arc<SuperBlock> {
        let minor = NEXT_MINOR.fetch_add(1, Ordering::Relaxed);
        Arc::new(SuperBlock {
            dev: abi::fs::makedev(0, minor),
            fs_name,
            source: source.to_owned(),
            flags,
            ops,
            dcache: DentryCache::default(),
            rename_lock: Mutex::new(Rank::Rename, ()),
            root: Mutex::new(Rank::Leaf, None),
            next_ino: AtomicU64::new(1),
            active: AtomicU32::new(0),
            changing: AtomicU32::new(0),
            changes: AtomicU64::new(0),
        })
    }

    /// Gives the root inode, once.
    pub fn set_root(&self, root: Arc<Inode>) {
        // A second call is a mistake of the file system's mount function; the first root stays.
        let root = Dentry::root(b"/".to_vec(), root);
        self.root.lock().get_or_insert(root);
    }

    /// The root inode.
    pub fn root(&self) -> Result<Arc<Inode>> {
        self.root_dentry()?.inode().ok_or(abi::error!(EINVAL, "file system has no root"))
    }

    /// The root's dentry, one for all mounts of the file system.
    pub fn root_dentry(&self) -> Result<Arc<Dentry>> {
        self.root.lock().clone().ok_or(abi::error!(EINVAL, "file system has no root"))
    }

    /// A number for a new inode of a file system that has none of its own. The first is 1.
    pub fn next_ino(&self) -> u64 {
        self.next_ino.fetch_add(1, Ordering::Relaxed)
    }

    /// A mount of it was made.
    pub(super) fn activate(&self) {
        self.active.fetch_add(1, Ordering::AcqRel);
    }

    /// A mount of it is gone. Inodes name their superblock, so the root and the cache are let go by hand at the last one's end.
    pub(super) fn deactivate(&self) {
        if self.active.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.dcache.clear();
            self.ops.unmounted();
            let root = self.root.lock().take();
            drop(root);
        }
    }

    /// Begins a change of names in a directory that is locked; it ends when the guard is dropped, before the directory is unlocked.
    pub(super) fn begin_change(&self) -> ChangeGuard<'_> {
        self.changing.fetch_add(1, Ordering::SeqCst);
        self.changes.fetch_add(1, Ordering::SeqCst);
        ChangeGuard(self)
    }

    /// A mark for [`unchanged_since`](Self::unchanged_since); `None` while a change is under way.
    pub(super) fn change_mark(&self) -> Option<u64> {
        let mark = self.changes.load(Ordering::SeqCst);
        (self.changing.load(Ordering::SeqCst) == 0).then_some(mark)
    }

    /// Whether no name of this file system changed since. Final for a directory while that is locked.
    pub(super) fn unchanged_since(&self, mark: u64) -> bool {
        self.changes.load(Ordering::SeqCst) == mark
    }
}

/// A change of names under way: what was looked up meanwhile must not enter the name cache.
pub(super) struct ChangeGuard<'a>(&'a SuperBlock);

impl Drop for ChangeGuard<'_> {
    fn drop(&mut self) {
        self.0.changing.fetch_sub(1, Ordering::SeqCst);
    }
}
