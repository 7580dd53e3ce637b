//! The virtual file system: names, mounts, inodes, open files, descriptors.
//!
//! * [`Inode`] – a file whatever its names, with the [`InodeOps`] of its file system; [`SuperBlock`] – a mounted file system.
//! * [`Dentry`] – a name in a directory, cached, negative ones too; [`Mount`] and [`MountNamespace`] – where trees are joined.
//! * [`PathRef`] – a place in the tree: a mount and a dentry; [`walk`] – from names to places.
//! * [`File`] – an open file description with [`FileOps`]; [`FdTable`] – a process's descriptors.
//!
//! File systems implement [`FsType`], [`SuperOps`], [`InodeOps`] and [`FileOps`]; the defaults return Linux's errno for "this file
//! cannot do that".

mod attr;
pub mod blocking;
mod create;
mod dentry;
mod dpath;
mod fdtable;
mod file;
mod inode;
pub mod locks;
mod mount;
mod namespace;
pub mod notify;
mod nsfs;
mod open;
pub mod perm;
mod registry;
mod remove;
mod rename;
pub mod shmem;
pub mod show;
mod superblock;
#[cfg(test)]
pub(crate) mod testing;
mod times;
pub mod walk;
pub mod xattr;

pub use attr::{stat, statx};
pub use blocking::{close, close_file};
pub use dentry::{Dentry, DentryCache};
pub use dpath::Reach;
pub use fdtable::{Fd, FdTable};
pub use file::{DirSink, File, FileOps, IoctlArg, Mappable, MappedPages, ReadTimer, SeekFrom};
pub use inode::{Attachments, Attr, Inode, InodeOps, NewNode, Owner, RenameFlags, SetAttr, SetTime, XattrFlags};
pub use mount::{Mount, MountFlags, Propagation};
pub use namespace::MountNamespace;
pub use nsfs::Namespace;
pub use open::{OpenHow, drop_set_id};
pub use registry::{Opener, Vfs};
pub use superblock::{FsType, MountSource, SbFlags, SuperBlock, SuperOps};
pub use times::now;
pub use walk::{Last, Lookup, Parent, PathRef, Walker, resolve};

/// A name within a directory, or a path: bytes, no NUL.
pub type FsStr = [u8];
/// An owned [`FsStr`].
pub type FsString = Vec<u8>;

/// The longest name of one component (`NAME_MAX`).
pub const NAME_MAX: usize = 255;
/// The longest path, its NUL included (`PATH_MAX`).
pub const PATH_MAX: usize = 4096;
