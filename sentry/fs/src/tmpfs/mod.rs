//! tmpfs: files in the sandbox's memory (tmpfs(5)).
//!
//! [`TmpfsType`] makes file systems from options; [`new`] makes one for the sentry itself (`/dev`, the upper layer of an overlay).
//! Names and attributes are in [`inode`], directories in [`dir`]; content is [`kernel::vfs::shmem`]'s.

mod dir;
mod file;
mod inode;
mod options;
#[cfg(test)]
mod tests;

pub use inode::TmpInode;
pub use options::Options;

use abi::{
    Result,
    fs::{FileType, Statfs},
};
use kernel::{
    Container,
    cred::Credentials,
    mm::MemoryPool,
    vfs::{FsType, Inode, MountSource, Owner, SbFlags, SuperBlock, SuperOps, shmem::Quota},
};
use std::any::Any;
use std::sync::Arc;
use sync::{Mutex, Rank};

const TMPFS_MAGIC: i64 = 0x0102_1994;

/// The type `tmpfs`.
pub struct TmpfsType;

impl FsType for TmpfsType {
    fn name(&self) -> &'static str {
        "tmpfs"
    }

    fn user_mountable(&self) -> bool {
        true
    }

    fn mount(&self, container: &Arc<Container>, _cred: &Credentials, source: MountSource<'_>) -> Result<Arc<SuperBlock>> {
        new(&container.kernel().memory, source.source, Options::parse(source.options)?)
    }
}

/// What all inodes of one tmpfs share.
pub struct TmpSuper {
    pool: Arc<MemoryPool>,
    /// Pages.
    space: Arc<Quota>,
    /// Inodes.
    inodes: Arc<Quota>,
    options: Mutex<Options>,
}

/// Makes a tmpfs.
pub fn new(pool: &Arc<MemoryPool>, source: &str, options: Options) -> Result<Arc<SuperBlock>> {
    let shared = Arc::new(TmpSuper {
        pool: pool.clone(),
        space: Arc::new(Quota::new(options.max_pages())),
        inodes: Arc::new(Quota::new(options.max_inodes())),
        options: Mutex::new(Rank::Leaf, options.clone()),
    });
    let sb = SuperBlock::new("tmpfs", source, SbFlags::NODEV, Box::new(TmpSuperOps(shared.clone())));
    let owner = Owner { uid: options.uid, gid: options.gid };
    let root = TmpInode::make(&shared, &sb, FileType::Directory, options.mode & 0o7777, owner, inode::Content::directory())?;
    sb.set_root(root);
    Ok(sb)
}

struct TmpSuperOps(Arc<TmpSuper>);

impl SuperOps for TmpSuperOps {
    fn memory(&self) -> u64 {
        self.0.space.get().1 * abi::PAGE_SIZE
    }

    fn statfs(&self, sb: &SuperBlock) -> Result<Statfs> {
        let (max_pages, pages) = self.0.space.get();
        let (max_inodes, inodes) = self.0.inodes.get();
        let fsid = sb.dev;
        let mut s = Statfs {
            kind: TMPFS_MAGIC,
            bsize: 4096,
            frsize: 4096,
            namelen: 255,
            fsid: [fsid as i32, (fsid >> 32) as i32],
            ..Statfs::default()
        };
        // Without a limit Linux leaves them zero.
        if max_pages != u64::MAX {
            s.blocks = max_pages;
            s.bfree = max_pages.saturating_sub(pages);
            s.bavail = s.bfree;
        }
        if max_inodes != u64::MAX {
            s.files = max_inodes;
            s.ffree = max_inodes.saturating_sub(inodes);
        }
        Ok(s)
    }

    fn show_options(&self) -> String {
        self.0.options.lock().show()
    }

    fn remount(&self, options: &str) -> Result {
        let mut new = self.0.options.lock().clone();
        new.update(options)?;
        self.0.space.set_max(new.max_pages())?;
        self.0.inodes.set_max(new.max_inodes())?;
        *self.0.options.lock() = new;
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The tmpfs part of an inode, if it is one of tmpfs.
fn tmp(inode: &Inode) -> Option<&TmpInode> {
    inode.ops.as_any().downcast_ref::<TmpInode>()
}

/// Opens a file or directory of tmpfs for the sentry itself, which has no task to do it with. `EINVAL` for other file systems.
pub(crate) fn open_inode(inode: &Arc<Inode>) -> Result<Box<dyn kernel::vfs::FileOps>> {
    file::open(inode)
}
