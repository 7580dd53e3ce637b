//! Dentries: names in directories, cached.

use super::{FsString, Inode};
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use sync::{Mutex, Rank};

/// A name in a directory. Positive with an inode, negative without.
pub struct Dentry {
    state: Mutex<State>,
}

struct State {
    name: FsString,
    /// `None` for a file system's root.
    parent: Option<Arc<Dentry>>,
    inode: Option<Arc<Inode>>,
    /// Cached names of this directory.
    children: HashMap<FsString, Weak<Dentry>>,
    /// Removed from its parent: `(deleted)` in /proc.
    unlinked: bool,
}

impl Dentry {
    /// The root of a file system, or the only name of an anonymous file.
    pub fn root(name: FsString, inode: Arc<Inode>) -> Arc<Dentry> {
        Arc::new(Dentry {
            state: Mutex::new(
                Rank::Dentry,
                State { name, parent: None, inode: Some(inode), children: HashMap::new(), unlinked: false },
            ),
        })
    }
}
