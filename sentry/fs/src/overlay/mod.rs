//! overlay: a file system over others that are never written.
//!
//! What changes is kept in memory, hung on the inode that changed: its attributes, its content ([`kernel::vfs::shmem`]), for a
//! directory the names that were added, moved and removed. An unchanged file is only looked through. So renaming costs the same
//! for a tree as for a file, a change of mode copies no content, and inode numbers stay what they are.
//!
//! [`OverlayInode`] is a file; [`layers`] how names are found in the layers below; [`copy_up`] how content comes up; [`file`] and
//! [`readdir`] are open files. An open file looks at each call whether its content has come up, so that readers see what writers
//! wrote. Only a mapping made before the copy keeps showing the content below, as with Linux's overlayfs.
//!
//! A changed inode is reached by name from the root, through `names` of directories ([`OverlayInode::anchor`]); layers below are
//! asked to give the same inode for the hard links of one file, or the links part company at the first change.

mod copy_up;
mod file;
mod inode;
mod layers;
mod names;
mod readdir;
#[cfg(test)]
mod tests;

pub use inode::OverlayInode;

use abi::{
    Result, bail,
    fs::{FileType, Statfs},
};
use kernel::{
    Container,
    cred::Credentials,
    mm::MemoryPool,
    vfs::{FsType, Inode, Mount, MountSource, SbFlags, SuperBlock, SuperOps, shmem::Quota},
};
use std::any::Any;
use std::sync::Arc;
use sync::{Mutex, Rank};

const OVERLAYFS_MAGIC: i64 = 0x794c_7630;

/// What the boot gives for an overlay, as [`MountSource::extra`].
pub struct Layers {
    /// The layers below, the topmost first: what is at the root of each mount.
    pub lowers: Vec<Arc<Mount>>,
    /// Bytes that changed content may take; `None`: as much as there is.
    pub size: Option<u64>,
}

/// The type `overlay`. Only the boot can mount it: it has the layers.
pub struct OverlayType;

impl FsType for OverlayType {
    fn name(&self) -> &'static str {
        "overlay"
    }

    fn mount(&self, container: &Arc<Container>, _cred: &Credentials, source: MountSource<'_>) -> Result<Arc<SuperBlock>> {
        match source.extra.map(|e| (e as Box<dyn Any>).downcast::<Layers>()) {
            Some(Ok(layers)) => new(&container.kernel().memory, source.source, *layers),
            _ => bail!(EINVAL, "an overlay without layers"),
        }
    }
}

/// What all inodes of one overlay share.
pub(crate) struct Shared {
    pool: Arc<MemoryPool>,
    space: Arc<Quota>,
    lowers: Vec<Arc<Mount>>,
    /// Changed files of which another hard link may be looked up below: they must be found again.
    pinned: Mutex<Vec<Arc<Inode>>>,
}

/// Makes an overlay. Its root is a directory, or a file where the only layer is one.
pub fn new(pool: &Arc<MemoryPool>, source: &str, layers: Layers) -> Result<Arc<SuperBlock>> {
    let mut roots = Vec::new();
    for (layer, mount) in layers.lowers.iter().enumerate() {
        roots.push(layers::Lower { layer, inode: mount.root_path()?.inode });
    }
    let Some(first) = roots.first() else { bail!(EINVAL, "an overlay without layers") };
    let kind = first.inode.kind;
    if roots.iter().any(|r| r.inode.kind != kind) || (roots.len() > 1 && kind != FileType::Directory) {
        bail!(ENOTDIR, "layers are not all directories");
    }
    let revalidate = layers.lowers.iter().any(|m| m.sb.flags.contains(SbFlags::REVALIDATE));
    let flags = if revalidate { SbFlags::NODEV | SbFlags::REVALIDATE } else { SbFlags::NODEV };
    // Without a limit of its own it ends where the machine's memory does.
    let size = layers.size.unwrap_or(u64::MAX).min(host::process::machine().total_memory);
    let pages = size.div_ceil(abi::PAGE_SIZE);
    let shared = Arc::new(Shared {
        pool: pool.clone(),
        space: Arc::new(Quota::new(pages)),
        lowers: layers.lowers,
        pinned: Mutex::new(Rank::Leaf, Vec::new()),
    });
    let sb = SuperBlock::new("overlay", source, flags, Box::new(OverlaySuper { shared: shared.clone() }));
    let root = OverlayInode::from_lower(&shared, &sb, roots, None);
    sb.set_root(root);
    Ok(sb)
}

struct OverlaySuper {
    shared: Arc<Shared>,
}

impl SuperOps for OverlaySuper {
    fn memory(&self) -> u64 {
        self.shared.space.get().1 * abi::PAGE_SIZE
    }

    fn statfs(&self, sb: &SuperBlock) -> Result<Statfs> {
        let (blocks, used) = self.shared.space.get();
        let free = blocks.saturating_sub(used);
        Ok(Statfs {
            kind: OVERLAYFS_MAGIC,
            bsize: 4096,
            frsize: 4096,
            namelen: 255,
            blocks,
            bfree: free,
            bavail: free,
            files: 1 << 20,
            ffree: 1 << 20,
            fsid: [sb.dev as i32, (sb.dev >> 32) as i32],
            ..Statfs::default()
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The overlay's part of an inode, if it is one of an overlay.
fn ovl(inode: &Inode) -> Option<&OverlayInode> {
    inode.ops.as_any().downcast_ref::<OverlayInode>()
}
