//! The layers below: finding names in them, and the overlay's inodes for what is found.

use super::{OverlayInode, Shared};
use abi::{Errno, Result, bail, fs::FileType};
use kernel::vfs::{FsStr, Inode, SuperBlock};
use std::sync::{Arc, Weak};
use sync::{Mutex, Rank};

/// A file in a layer.
#[derive(Clone)]
pub(super) struct Lower {
    pub layer: usize,
    pub inode: Arc<Inode>,
}

impl Lower {
    /// The overlay's number for it. Files of the topmost layer keep theirs; the others are kept apart by the layer.
    pub fn ino(&self) -> u64 {
        number(self.layer, self.inode.ino)
    }
}

pub(super) fn number(layer: usize, ino: u64) -> u64 {
    ino ^ ((layer as u64) << 56)
}

/// The overlays' inodes of a file in a layer: an attachment of that file's inode, so that all its names find the same.
struct Above(Mutex<Vec<(u64, Weak<Inode>)>>);

impl Above {
    fn of(lower: &Inode) -> Arc<Above> {
        lower.attachments.get_or_insert_with(|| Above(Mutex::new(Rank::Leaf, Vec::new())))
    }
}

/// The overlay's inode for what was found below: the one there is, or a new one. `place`: the directory and the name.
pub(super) fn wrap(shared: &Arc<Shared>, sb: &Arc<SuperBlock>, found: Vec<Lower>, place: (&Arc<Inode>, &FsStr)) -> Result<Arc<Inode>> {
    let Some(first) = found.first() else { bail!(ENOENT) };
    let above = Above::of(&first.inode);
    let list = &above.0;
    let existing = |list: &[(u64, Weak<Inode>)]| list.iter().find(|a| a.0 == sb.dev).and_then(|a| a.1.upgrade());
    let known = existing(&list.lock());
    if let Some(i) = known {
        if let Some(o) = super::ovl(&i) {
            o.found_at(place.0, place.1);
        }
        return Ok(i);
    }
    let new = OverlayInode::from_lower(shared, sb, found, Some((Arc::downgrade(place.0), place.1.to_vec())));
    let mut list = list.lock();
    if let Some(i) = existing(&list) {
        drop(list);
        return Ok(i);
    }
    list.retain(|a| a.1.strong_count() > 0);
    list.push((sb.dev, Arc::downgrade(&new)));
    drop(list);
    Ok(new)
}

/// Looks a name up in directories of layers: a file, or directories to be merged.
pub(super) fn lookup(dirs: &[Lower], name: &FsStr) -> Result<Vec<Lower>> {
    let mut found: Vec<Lower> = Vec::new();
    for dir in dirs {
        let r = {
            let _guard = dir.inode.lock_dir_nested();
            dir.inode.ops.lookup(&dir.inode, name)
        };
        let inode = match r {
            Ok(i) => i,
            Err(e) if e.is(Errno::ENOENT) => continue,
            Err(e) => return Err(e),
        };
        let is_dir = inode.kind == FileType::Directory;
        if is_dir || found.is_empty() {
            found.push(Lower { layer: dir.layer, inode });
        }
        if !is_dir {
            break;
        }
    }
    if found.is_empty() { Err(Errno::ENOENT.into()) } else { Ok(found) }
}
