//! The sandbox as a whole.

use crate::mm::MemoryPool;
use crate::vfs::FsType;
use std::sync::Arc;

/// Everything of one sandbox, and the root of all guest-visible state.
pub struct Kernel {
    /// The memory of applications and of files that live in memory.
    pub memory: Arc<MemoryPool>,
}

impl Kernel {
    /// Makes a file system type known to mount(2).
    pub fn register_fs(&self, _fs: Arc<dyn FsType>) {}
}
