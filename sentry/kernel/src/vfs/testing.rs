//! What the unit tests of this module share.

use super::{File, FileOps, Inode, InodeOps, PathRef, anon, Attr};
use crate::task::Task;
use abi::{Result, fs::{FileType, OpenFlags}};
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

/// An open file that can do nothing.
pub fn null_file() -> Arc<File> {
    let mount = anon::pseudo_fs("test", 0);
    let inode = Inode::new(&mount.sb, 1, FileType::Regular, Box::new(Null));
    File::new(PathRef::nameless(&mount, "null".into(), inode), OpenFlags::RDWR, Box::new(Null))
}
