//! Reading directories of an overlay: the names below without those that were removed, with those that were added.

use super::{OverlayInode, copy_up, layers, ovl};
use abi::{Result, bail, fs::FileType};
use kernel::{
    task,
    vfs::{DirSink, File, FileOps, FsStr, FsString, Inode, SeekFrom},
};
use std::any::Any;
use std::collections::HashSet;
use std::sync::Arc;
use sync::{Mutex, Rank};

/// A name as getdents64(2) gives it.
#[derive(Clone)]
pub(super) struct Item {
    name: FsString,
    ino: u64,
    kind: FileType,
}

/// Takes all entries of a directory below.
struct Collect<'a> {
    layer: usize,
    items: Vec<Item>,
    skip: &'a HashSet<FsString>,
}

impl DirSink for Collect<'_> {
    fn add(&mut self, name: &FsStr, ino: u64, kind: FileType, _next: u64) -> bool {
        if name != b"." && name != b".." && !self.skip.contains(name) {
            self.items.push(Item { name: name.to_vec(), ino: layers::number(self.layer, ino), kind });
        }
        true
    }
}

/// All names of a directory, without `.` and `..`.
pub(super) fn names(o: &OverlayInode) -> Result<Vec<Item>> {
    let mut known = HashSet::new();
    let mut items = Vec::new();
    {
        let s = o.state.lock();
        for (name, inode) in s.names.iter() {
            known.insert(name.clone());
            if let Some(i) = inode {
                items.push(Item { name: name.clone(), ino: i.ino, kind: i.kind });
            }
        }
    }
    for lower in &o.lowers {
        let dir = copy_up::open_lower(&o.shared, lower, task::current().as_deref())?;
        let mut sink = Collect { layer: lower.layer, items: Vec::new(), skip: &known };
        let mut pos = 0;
        loop {
            let next = dir.ops().readdir(&dir, pos, &mut sink)?;
            if next == pos {
                break;
            }
            pos = next;
        }
        let found = sink.items;
        if o.lowers.len() > 1 {
            known.extend(found.iter().map(|i| i.name.clone()));
        }
        items.extend(found);
    }
    Ok(items)
}

/// An open directory. It shows what was there when it was read from its beginning.
pub(super) struct OverlayDir {
    inode: Arc<Inode>,
    list: Mutex<Option<Arc<Vec<Item>>>>,
}

impl OverlayDir {
    pub fn new(inode: Arc<Inode>) -> OverlayDir {
        OverlayDir { inode, list: Mutex::new(Rank::FileState, None) }
    }

    fn list(&self, fresh: bool) -> Result<Arc<Vec<Item>>> {
        let known = self.list.lock().clone();
        if let Some(l) = known.filter(|_| !fresh) {
            return Ok(l);
        }
        let Some(o) = ovl(&self.inode) else { bail!(EIO, "not of an overlay") };
        let list = Arc::new(names(o)?);
        *self.list.lock() = Some(list.clone());
        Ok(list)
    }
}

impl FileOps for OverlayDir {
    fn seek(&self, _file: &File, current: u64, to: SeekFrom) -> Option<Result<u64>> {
        let at = match to {
            SeekFrom::Start(n) => Some(n),
            SeekFrom::Current(d) => current.checked_add_signed(d),
            SeekFrom::End(_) => None,
        };
        Some(at.filter(|&n| n <= i64::MAX as u64).ok_or(abi::error!(EINVAL)))
    }

    fn readdir(&self, file: &File, mut pos: u64, sink: &mut dyn DirSink) -> Result<u64> {
        let list = self.list(pos == 0)?;
        if pos == 0 {
            if !sink.add(b".", self.inode.ino, FileType::Directory, 1) {
                return Ok(pos);
            }
            pos = 1;
        }
        if pos == 1 {
            let parent = file.path.dentry.parent().and_then(|p| p.inode()).map_or(self.inode.ino, |p| p.ino);
            if !sink.add(b"..", parent, FileType::Directory, 2) {
                return Ok(pos);
            }
            pos = 2;
        }
        while let Some(item) = usize::try_from(pos - 2).ok().and_then(|i| list.get(i)) {
            if !sink.add(&item.name, item.ino, item.kind, pos + 1) {
                break;
            }
            pos += 1;
        }
        Ok(pos)
    }

    fn fsync(&self, _file: &File, _data_only: bool) -> Result {
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
