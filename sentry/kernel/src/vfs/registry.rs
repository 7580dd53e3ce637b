//! What the parts above register: file system types, devices.

use super::{FileOps, FsType, Inode, PathRef};
use crate::task::Task;
use abi::{Result, bail, error, fs::OpenFlags};
use std::ops::RangeInclusive;
use std::sync::Arc;
use sync::{Mutex, Rank};

/// Opens a device of a registered range: makes the state of the open file description. It may wait with
/// [`Task::wait_on`]; no lock is held.
pub trait Opener: Send + Sync {
    #[allow(missing_docs)]
    fn open(&self, inode: &Arc<Inode>, path: &PathRef, flags: OpenFlags, task: &Task) -> Result<Box<dyn FileOps>>;
}

impl<F> Opener for F
where
    F: Fn(&Arc<Inode>, &PathRef, OpenFlags, &Task) -> Result<Box<dyn FileOps>> + Send + Sync,
{
    fn open(&self, inode: &Arc<Inode>, path: &PathRef, flags: OpenFlags, task: &Task) -> Result<Box<dyn FileOps>> {
        self(inode, path, flags, task)
    }
}

struct CharRange {
    major: u32,
    minors: RangeInclusive<u32>,
    name: &'static str,
    opener: Arc<dyn Opener>,
}

/// The VFS's part of the kernel.
pub struct Vfs {
    types: Mutex<Vec<Arc<dyn FsType>>>,
    chars: Mutex<Vec<CharRange>>,
}

impl Default for Vfs {
    fn default() -> Self {
        Vfs { types: Mutex::new(Rank::Leaf, Vec::new()), chars: Mutex::new(Rank::Leaf, Vec::new()) }
    }
}

impl Vfs {
    /// Makes a file system type known to mount(2).
    pub fn register_fs(&self, fs: Arc<dyn FsType>) {
        let mut types = self.types.lock();
        types.retain(|t| t.name() != fs.name());
        types.push(fs);
    }

    /// A file system type by name; `ENODEV` if there is none.
    pub fn fs_type(&self, name: &str) -> Result<Arc<dyn FsType>> {
        self.types.lock().iter().find(|t| t.name() == name).cloned().ok_or(error!(ENODEV, "no file system {name}"))
    }

    /// All types in order of registration, for /proc/filesystems.
    pub fn fs_types(&self) -> Vec<Arc<dyn FsType>> {
        self.types.lock().clone()
    }

    /// Gives character devices of one major number to `opener`. A later registration goes before an earlier one. `name` is for /proc/devices.
    pub fn register_char_device(&self, name: &'static str, major: u32, minors: RangeInclusive<u32>, opener: Arc<dyn Opener>) {
        self.chars.lock().push(CharRange { major, minors, name, opener });
    }

    /// Who opens this character device; `ENXIO` if nobody.
    pub fn char_device(&self, dev: u64) -> Result<Arc<dyn Opener>> {
        let (major, minor) = (abi::fs::major(dev), abi::fs::minor(dev));
        match self.chars.lock().iter().rev().find(|c| c.major == major && c.minors.contains(&minor)) {
            Some(c) => Ok(c.opener.clone()),
            None => bail!(ENXIO, "no device {major}:{minor}"),
        }
    }

    /// Major numbers and names of the character devices.
    pub fn char_device_names(&self) -> Vec<(u32, &'static str)> {
        let mut list: Vec<_> = self.chars.lock().iter().map(|c| (c.major, c.name)).collect();
        list.sort_unstable();
        list.dedup();
        list
    }
}
