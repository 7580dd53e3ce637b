//! The virtual file system: names, mounts, inodes, open files, descriptors.
//!
//! * [`Inode`] – a file whatever its names, with the [`InodeOps`] of its file system; [`SuperBlock`] – a mounted file system.
//! * [`Dentry`] – a name in a directory, cached, negative ones too; [`Mount`] and [`MountNamespace`] – where trees are joined.
//! * [`PathRef`] – a place in the tree: a mount and a dentry; [`walk`] – from names to places.
//! * [`File`] – an open file description with [`FileOps`]; [`FdTable`] – a process's descriptors.
//!
//! File systems implement [`FsType`], [`SuperOps`], [`InodeOps`] and [`FileOps`]; the defaults return Linux's errno for "this file
//! cannot do that".

mod dentry;
mod fdtable;
mod file;
mod inode;
mod mount;
mod superblock;
pub mod walk;

pub use dentry::Dentry;
pub use fdtable::{Fd, FdTable};
pub use file::{DirSink, File, FileOps, IoctlArg, Mappable, MappedPages, SeekFrom};
pub use inode::{Attr, Inode, InodeOps, NewNode, Owner, RenameFlags, SetAttr, SetTime, XattrFlags};
pub use mount::{Mount, MountFlags, MountNamespace};
pub use superblock::{FsType, MountSource, SbFlags, SuperBlock, SuperOps};
pub use walk::{Lookup, PathRef};

/// A name within a directory, or a path: bytes, no NUL.
pub type FsStr = [u8];
/// An owned [`FsStr`].
pub type FsString = Vec<u8>;

/// The longest name of one component (`NAME_MAX`).
pub const NAME_MAX: usize = 255;
/// The longest path, its NUL included (`PATH_MAX`).
pub const PATH_MAX: usize = 4096;
