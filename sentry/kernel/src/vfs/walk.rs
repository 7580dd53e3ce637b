//! From names to places.

use super::{Dentry, Inode, Mount};
use std::sync::Arc;

/// A place in the tree where a file is: a mount, a name there, and what it names.
#[derive(Clone)]
pub struct PathRef {
    #[allow(missing_docs)]
    pub mount: Arc<Mount>,
    #[allow(missing_docs)]
    pub dentry: Arc<Dentry>,
    /// The dentry's inode: a `PathRef` is never negative.
    pub inode: Arc<Inode>,
}

/// How to walk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lookup {
    /// Follow a symbolic link in the last component.
    pub follow: bool,
    /// The last component must be a directory.
    pub directory: bool,
    /// An empty path means the starting place (AT_EMPTY_PATH).
    pub empty: bool,
    /// `RESOLVE_*` of openat2(2).
    pub resolve: u64,
}
