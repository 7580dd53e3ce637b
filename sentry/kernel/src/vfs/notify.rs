//! Watches on inodes: how inotify hears what the VFS does.

use super::{Dentry, FsStr, Inode};
use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicUsize, Ordering},
};
use sync::{Mutex, Rank};

/// Events, with inotify(7)'s values.
#[allow(missing_docs)]
pub mod mask {
    pub const ACCESS: u32 = 0x1;
    pub const MODIFY: u32 = 0x2;
    pub const ATTRIB: u32 = 0x4;
    pub const CLOSE_WRITE: u32 = 0x8;
    pub const CLOSE_NOWRITE: u32 = 0x10;
    pub const OPEN: u32 = 0x20;
    pub const MOVED_FROM: u32 = 0x40;
    pub const MOVED_TO: u32 = 0x80;
    pub const CREATE: u32 = 0x100;
    pub const DELETE: u32 = 0x200;
    pub const DELETE_SELF: u32 = 0x400;
    pub const MOVE_SELF: u32 = 0x800;
    pub const UNMOUNT: u32 = 0x2000;
    pub const ISDIR: u32 = 0x4000_0000;
}

/// Somebody who watches an inode.
pub trait Watcher: Send + Sync {
    /// An event on the watched inode, or for a directory on its entry `name`. `cookie` joins the two halves of a rename. Called with
    /// no lock but perhaps those of directories, files and the watched inode's list held.
    fn event(&self, mask: u32, name: Option<&FsStr>, cookie: u32);
}

/// The watchers of one inode: an attachment.
pub struct Watches {
    list: Mutex<Vec<Arc<dyn Watcher>>>,
}

impl Watches {
    fn of(inode: &Inode) -> Arc<Watches> {
        inode.attachments.get_or_insert_with(|| Watches { list: Mutex::new(Rank::Leaf, Vec::new()) })
    }
}

/// Watchers in the whole sandbox: without any, nothing is looked up.
static WATCHERS: AtomicUsize = AtomicUsize::new(0);

/// Adds a watcher.
pub fn add(inode: &Inode, watcher: Arc<dyn Watcher>) {
    WATCHERS.fetch_add(1, Ordering::Relaxed);
    Watches::of(inode).list.lock().push(watcher);
}

/// Takes a watcher away.
pub fn remove(inode: &Inode, watcher: &Arc<dyn Watcher>) {
    if let Some(w) = inode.attachments.get::<Watches>() {
        let mut list = w.list.lock();
        let before = list.len();
        list.retain(|x| !Arc::ptr_eq(x, watcher));
        WATCHERS.fetch_sub(before - list.len(), Ordering::Relaxed);
    }
}

/// Tells the watchers of this inode.
pub fn event(inode: &Inode, mask: u32, name: Option<&FsStr>, cookie: u32) {
    if WATCHERS.load(Ordering::Relaxed) == 0 {
        return;
    }
    let Some(w) = inode.attachments.get::<Watches>() else { return };
    let list: Vec<_> = w.list.lock().clone();
    for watcher in list {
        watcher.event(mask, name, cookie);
    }
}

/// Tells the watchers of the inode, and those of the directory it is in (with the name), as Linux does for what happens to an open file.
pub fn event_at(dentry: &Arc<Dentry>, inode: &Inode, mask: u32) {
    if WATCHERS.load(Ordering::Relaxed) == 0 {
        return;
    }
    let dir = if inode.is_dir() { mask::ISDIR } else { 0 };
    let (name, parent) = dentry.name_and_parent();
    if let Some(parent) = parent.and_then(|p| p.inode()) {
        event(&parent, mask | dir, Some(&name), 0);
    }
    event(inode, mask | dir, None, 0);
}

/// A number that joins IN_MOVED_FROM and IN_MOVED_TO.
pub(super) fn next_cookie() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
