//! What the unit tests of this module share.

use super::{Attr, Dentry, File, FileOps, Inode, InodeOps, Mount, MountFlags, PathRef, SbFlags, SuperBlock, SuperOps};
use crate::task::Task;
use abi::{
    Result,
    fs::{FileType, OpenFlags, Statfs},
};
use std::any::Any;
use std::sync::Arc;

struct Null;

impl InodeOps for Null {
    fn attr(&self, _inode: &Inode) -> Result<Attr> {
        Ok(Attr::default())
    }
    fn open(&self, _inode: &Arc<Inode>, _path: &PathRef, _flags: OpenFlags, _task: &Task) -> Result<Box<dyn FileOps>> {
        Ok(Box::new(Null))
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl FileOps for Null {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl SuperOps for Null {
    fn statfs(&self, _sb: &SuperBlock) -> Result<Statfs> {
        Ok(Statfs::default())
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open file that can do nothing.
pub fn null_file() -> Arc<File> {
    let sb = SuperBlock::new("test", "none", SbFlags::NODEV, Box::new(Null));
    let inode = Inode::new(&sb, 1, FileType::Regular, Box::new(Null));
    let mount = Mount::new(&sb, Dentry::root(b"null".to_vec(), inode.clone()), MountFlags::empty());
    File::new(PathRef::nameless(&mount, "null".into(), inode), OpenFlags::RDWR, Box::new(Null))
}
