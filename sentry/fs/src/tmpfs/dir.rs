//! Directories of tmpfs: names in the order they were made.

use abi::{Result, bail};
use kernel::vfs::{FsStr, FsString, Inode};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The position of the first name: `.` and `..` come before.
const FIRST: u64 = 2;

/// The names of one directory. A position of getdents64(2) is a name's number, so that others coming and going do not disturb it.
pub struct Entries {
    by_name: HashMap<Arc<FsStr>, (u64, Arc<Inode>)>,
    order: BTreeMap<u64, Arc<FsStr>>,
    next: u64,
}

impl Default for Entries {
    fn default() -> Self {
        Entries { by_name: HashMap::new(), order: BTreeMap::new(), next: FIRST }
    }
}

impl Entries {
    pub fn get(&self, name: &FsStr) -> Option<Arc<Inode>> {
        self.by_name.get(name).map(|(_, i)| i.clone())
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub fn insert(&mut self, name: &FsStr, inode: Arc<Inode>) -> Result {
        if self.by_name.contains_key(name) {
            bail!(EEXIST);
        }
        let name: Arc<FsStr> = name.into();
        self.order.insert(self.next, name.clone());
        self.by_name.insert(name, (self.next, inode));
        self.next += 1;
        Ok(())
    }

    /// Lets a name mean another inode; it keeps its place.
    pub fn replace(&mut self, name: &FsStr, inode: Arc<Inode>) {
        if let Some(e) = self.by_name.get_mut(name) {
            e.1 = inode;
        }
    }

    pub fn remove(&mut self, name: &FsStr) -> Option<Arc<Inode>> {
        let (at, inode) = self.by_name.remove(name)?;
        self.order.remove(&at);
        Some(inode)
    }

    /// The first name at or behind a position: the position after it, the name, the inode.
    pub fn at(&self, pos: u64) -> Option<(u64, Arc<FsStr>, Arc<Inode>)> {
        let (&at, name) = self.order.range(pos..).next()?;
        let (_, inode) = self.by_name.get(name)?;
        Some((at + 1, name.clone(), inode.clone()))
    }

    pub fn all(&self) -> Vec<(FsString, Arc<Inode>)> {
        self.order.values().filter_map(|n| Some((n.to_vec(), self.by_name.get(n)?.1.clone()))).collect()
    }

    /// Takes everything out.
    pub fn take(&mut self) -> Vec<Arc<Inode>> {
        self.order.clear();
        self.by_name.drain().map(|(_, (_, i))| i).collect()
    }
}
