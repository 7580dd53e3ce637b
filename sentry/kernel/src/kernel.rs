//! The sandbox as a whole.

use crate::mm::MemoryPool;
use crate::vfs::{FsType, Vfs};
use std::sync::Arc;

/// Everything of one sandbox, and the root of all guest-visible state.
pub struct Kernel {
    /// The memory of applications and of files that live in memory.
    pub memory: Arc<MemoryPool>,
    /// File system types, devices, files without names.
    pub vfs: Vfs,
}

impl Kernel {
    /// Makes a file system type known to mount(2).
    pub fn register_fs(&self, fs: Arc<dyn FsType>) {
        self.vfs.register_fs(fs);
    }
}
