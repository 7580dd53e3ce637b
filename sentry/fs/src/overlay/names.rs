//! The names of a directory that differ from those in the layers below.

use kernel::vfs::{FsStr, FsString, Inode};
use std::collections::BTreeMap;
use std::sync::Arc;

struct Name {
    /// What it means; `None`: nothing, though there is such a name below (a whiteout).
    inode: Option<Arc<Inode>>,
    /// Whether there is such a name below.
    covers: bool,
}

/// Names that were added, moved here, removed, or whose files have changed.
#[derive(Default)]
pub(super) struct Names(BTreeMap<FsString, Name>);

impl Names {
    /// What is known of a name: `None` nothing, `Some(None)` that it is not there.
    pub fn get(&self, name: &FsStr) -> Option<Option<Arc<Inode>>> {
        self.0.get(name).map(|n| n.inode.clone())
    }

    /// A new meaning for a name. `covers`: where nothing is known of it yet, whether there is such a name below.
    pub fn put(&mut self, name: &FsStr, inode: Arc<Inode>, covers: bool) {
        let covers = self.0.get(name).map_or(covers, |n| n.covers);
        self.0.insert(name.to_vec(), Name { inode: Some(inode), covers });
    }

    /// Holds on to what a name means below, because it has changed. False if that is known already, or the name means another.
    pub fn hold(&mut self, name: &FsStr, inode: &Arc<Inode>) -> bool {
        if self.0.contains_key(name) {
            return false;
        }
        self.0.insert(name.to_vec(), Name { inode: Some(inode.clone()), covers: true });
        true
    }

    /// Takes a name away. The inode is for the caller to drop without the lock.
    pub fn remove(&mut self, name: &FsStr) -> Option<Arc<Inode>> {
        match self.0.get_mut(name) {
            Some(n) if n.covers => n.inode.take(),
            Some(_) => self.0.remove(name).and_then(|n| n.inode),
            None => {
                self.0.insert(name.to_vec(), Name { inode: None, covers: true });
                None
            }
        }
    }

    /// Whether it adds no name.
    pub fn is_empty(&self) -> bool {
        self.0.values().all(|n| n.inode.is_none())
    }

    /// All that is known, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&FsString, Option<&Arc<Inode>>)> {
        self.0.iter().map(|(n, e)| (n, e.inode.as_ref()))
    }

    /// Takes everything out.
    pub fn take(&mut self) -> Vec<Arc<Inode>> {
        std::mem::take(&mut self.0).into_values().filter_map(|n| n.inode).collect()
    }
}
