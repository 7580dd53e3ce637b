//! The sandbox as a whole.

use crate::vfs::FsType;
use std::sync::Arc;

/// Everything of one sandbox, and the root of all guest-visible state.
pub struct Kernel {}

impl Kernel {
    /// Makes a file system type known to mount(2).
    pub fn register_fs(&self, _fs: Arc<dyn FsType>) {}
}
