//! Dentries: names in directories, cached.
//!
//! A child holds its parent; a parent knows its children weakly, so that a name lives as long as somebody uses it or the
//! [`DentryCache`] of its file system keeps it. A [`Dentry`] is the same object for as long as it lives: renaming changes its name
//! and parent in place, so that open files and working directories see it.

use super::{FsStr, FsString, Inode, SbFlags};
use std::collections::HashMap;
use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, AtomicU32, Ordering},
};
use sync::{Mutex, Rank};

/// A name in a directory. Positive with an inode, negative without.
pub struct Dentry {
    state: Mutex<State>,
    /// How many mounts sit on it, in any namespace.
    mounted: AtomicU32,
    /// Something was mounted on or below it.
    pinned: AtomicBool,
    /// Used since the cache last looked at it.
    used: AtomicBool,
    /// Its slot in the cache, counted from one; zero: not there.
    slot: AtomicU32,
}

struct State {
    name: FsString,
    /// `None` for a file system's root.
    parent: Option<Arc<Dentry>>,
    inode: Option<Arc<Inode>>,
    /// Cached names of this directory.
    children: HashMap<FsString, Weak<Dentry>>,
    /// The size of `children` at which dead entries are swept out.
    sweep_at: usize,
    /// Removed from its parent: `(deleted)` in /proc.
    unlinked: bool,
}

/// The fewest children at which dead ones are swept out.
const SWEEP_MIN: usize = 64;

impl Dentry {
    fn make(name: FsString, parent: Option<Arc<Dentry>>, inode: Option<Arc<Inode>>) -> Arc<Dentry> {
        Arc::new(Dentry {
            state: Mutex::new(Rank::Dentry, State { name, parent, inode, children: HashMap::new(), sweep_at: SWEEP_MIN, unlinked: false }),
            mounted: AtomicU32::new(0),
            pinned: AtomicBool::new(false),
            used: AtomicBool::new(false),
            slot: AtomicU32::new(0),
        })
    }

    /// The root of a file system, or the only name of an anonymous file.
    pub fn root(name: FsString, inode: Arc<Inode>) -> Arc<Dentry> {
        Self::make(name, None, Some(inode))
    }

    /// A name that is not in its parent's cache: a file made with O_TMPFILE, or one of a file system without a cache.
    pub fn unhashed(parent: &Arc<Dentry>, name: &FsStr, inode: Arc<Inode>) -> Arc<Dentry> {
        Self::make(name.to_vec(), Some(parent.clone()), Some(inode))
    }

    /// A name that is known not to be there, outside the cache.
    pub(super) fn negative(parent: &Arc<Dentry>, name: &FsStr) -> Arc<Dentry> {
        Self::make(name.to_vec(), Some(parent.clone()), None)
    }

    /// Its name now.
    pub fn name(&self) -> FsString {
        self.state.lock().name.clone()
    }

    /// The directory it is in; `None` for a root.
    pub fn parent(&self) -> Option<Arc<Dentry>> {
        self.state.lock().parent.clone()
    }

    /// Name and parent at one moment.
    pub fn name_and_parent(&self) -> (FsString, Option<Arc<Dentry>>) {
        let s = self.state.lock();
        (s.name.clone(), s.parent.clone())
    }

    /// What it names; `None` if negative.
    pub fn inode(&self) -> Option<Arc<Inode>> {
        self.state.lock().inode.clone()
    }

    /// Whether it was removed from its directory.
    pub fn is_unlinked(&self) -> bool {
        self.state.lock().unlinked
    }

    /// Marks it as removed (also files that never had a name).
    pub fn set_unlinked(&self) {
        self.state.lock().unlinked = true;
    }

    /// Whether anything may be mounted on it, in some namespace.
    pub fn is_mountpoint(&self) -> bool {
        self.mounted.load(Ordering::Acquire) != 0
    }

    /// Makes sure that the name, and those above it, are found again though their file system does not cache names: something is
    /// mounted here. Lasts as long as somebody holds the dentry.
    pub(super) fn pin(self: &Arc<Self>) {
        let mut d = self.clone();
        loop {
            d.pinned.store(true, Ordering::Release);
            let (name, parent) = d.name_and_parent();
            let Some(parent) = parent else { return };
            parent.state.lock().children.insert(name, Arc::downgrade(&d));
            d = parent;
        }
    }

    /// Whether it is found again though its file system does not cache names.
    pub(super) fn is_pinned(&self) -> bool {
        self.pinned.load(Ordering::Acquire)
    }

    /// Counts a mount on it (`+1`) or one gone.
    pub(super) fn add_mounts(&self, delta: i32) {
        self.mounted.fetch_add(delta as u32, Ordering::AcqRel);
    }

    /// The cached child of this name.
    pub(super) fn child(self: &Arc<Self>, name: &FsStr) -> Option<Arc<Dentry>> {
        let found = self.state.lock().children.get(name)?.upgrade()?;
        if !found.used.load(Ordering::Relaxed) {
            found.used.store(true, Ordering::Relaxed);
        }
        Some(found)
    }

    /// Puts a name into the cache, or finds the one that is there already for the same inode. The directory is locked.
    pub(super) fn add_child(self: &Arc<Self>, name: &FsStr, inode: Option<Arc<Inode>>, cache: &DentryCache) -> Arc<Dentry> {
        // Dropped after the lock: it may be the last that holds its inode.
        let stale;
        let mut s = self.state.lock();
        if let Some(old) = s.children.get(name).and_then(Weak::upgrade) {
            let mut o = old.state.lock_nested();
            match (&o.inode, &inode) {
                (Some(a), Some(b)) if Arc::ptr_eq(a, b) => {
                    drop(o);
                    return old;
                }
                (None, _) => {
                    o.inode = inode;
                    drop(o);
                    return old;
                }
                _ => {}
            }
            drop(o);
            stale = old;
            let _ = &stale;
        }
        if s.children.len() >= s.sweep_at {
            s.children.retain(|_, w| w.strong_count() > 0);
            s.sweep_at = (s.children.len() * 2).max(SWEEP_MIN);
        }
        let new = Self::make(name.to_vec(), Some(self.clone()), inode);
        s.children.insert(name.to_vec(), Arc::downgrade(&new));
        drop(s);
        cache.keep(&new);
        new
    }

    /// Takes a name out of the cache. `unlinked`: because it was removed from the directory.
    pub(super) fn drop_child(self: &Arc<Self>, child: &Arc<Dentry>, unlinked: bool) {
        let mut s = self.state.lock();
        let name = {
            let mut c = child.state.lock_nested();
            c.unlinked |= unlinked;
            c.name.clone()
        };
        if s.children.get(&name).is_some_and(|w| std::ptr::eq(w.as_ptr(), Arc::as_ptr(child))) {
            s.children.remove(&name);
        }
        let cache = if unlinked { s.inode.as_ref().map(|i| i.sb.clone()) } else { None };
        drop(s);
        if let Some(sb) = cache {
            sb.dcache.forget(child);
        }
    }

    /// Forgets the cached name, whatever it means.
    pub(super) fn forget_child(&self, name: &FsStr) {
        self.state.lock().children.remove(name);
    }

    /// Forgets all cached names of this directory.
    pub fn forget_children(&self) {
        self.state.lock().children.clear();
    }

    /// Gives it another name and directory. Both directories are locked, and what was at the new name is out of the cache.
    pub(super) fn move_to(self: &Arc<Self>, new_parent: &Arc<Dentry>, new_name: &FsStr) {
        if let Some(old_parent) = self.parent() {
            old_parent.drop_child(self, false);
        }
        let old = {
            let mut s = self.state.lock();
            s.name = new_name.to_vec();
            s.parent.replace(new_parent.clone())
        };
        drop(old);
        new_parent.state.lock().children.insert(new_name.to_vec(), Arc::downgrade(self));
    }

    /// Whether `self` is `other` or above it, within one file system.
    pub fn is_ancestor_of(self: &Arc<Self>, other: &Arc<Dentry>) -> bool {
        let mut at = Some(other.clone());
        while let Some(d) = at {
            if Arc::ptr_eq(&d, self) {
                return true;
            }
            at = d.parent();
        }
        false
    }
}

impl std::fmt::Debug for Dentry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.state.try_lock() {
            Some(s) => write!(f, "Dentry({} {:?})", String::from_utf8_lossy(&s.name), s.inode),
            None => write!(f, "Dentry(locked)"),
        }
    }
}

impl Drop for Dentry {
    fn drop(&mut self) {
        // A chain of directories that only this name held would be dropped by recursion, as deep as the application made it.
        let mut parent = self.state.get_mut().parent.take();
        while let Some(p) = parent {
            parent = Arc::into_inner(p).and_then(|mut d| d.state.get_mut().parent.take());
        }
    }
}

/// How many names a file system's cache keeps alive that nobody uses.
const CAPACITY: usize = 16_384;

/// The names of one file system that are kept though nobody uses them: a clock, each name having a second chance.
pub struct DentryCache {
    ring: Mutex<Ring>,
}

#[derive(Default)]
struct Ring {
    slots: Vec<Option<Arc<Dentry>>>,
    free: Vec<u32>,
    hand: usize,
}

impl Ring {
    /// A slot for a new name, and what was in it.
    fn slot(&mut self) -> (u32, Option<Arc<Dentry>>) {
        if let Some(i) = self.free.pop() {
            return (i, None);
        }
        if self.slots.len() < CAPACITY {
            self.slots.push(None);
            return (self.slots.len() as u32 - 1, None);
        }
        for tries in 0.. {
            let i = self.hand;
            self.hand = (i + 1) % self.slots.len();
            let recent = self.slots.get(i).and_then(|s| s.as_ref()).is_some_and(|d| d.used.swap(false, Ordering::Relaxed));
            if !recent || tries >= 8 {
                return (i as u32, self.slots.get_mut(i).and_then(Option::take));
            }
        }
        (0, None)
    }
}

impl Default for DentryCache {
    fn default() -> Self {
        DentryCache { ring: Mutex::new(Rank::Leaf, Ring::default()) }
    }
}

impl DentryCache {
    /// Keeps a name, and lets go of another where there are too many.
    pub(super) fn keep(&self, d: &Arc<Dentry>) {
        let mut ring = self.ring.lock();
        if d.slot.load(Ordering::Relaxed) != 0 {
            return;
        }
        let (i, old) = ring.slot();
        if let Some(old) = &old {
            old.slot.store(0, Ordering::Release);
        }
        if let Some(s) = ring.slots.get_mut(i as usize) {
            *s = Some(d.clone());
            d.slot.store(i + 1, Ordering::Release);
        }
        drop(ring);
        // Destructors of inodes may take locks of their file system.
        drop(old);
    }

    /// Keeps a name that was found by way of somebody who used it.
    pub(super) fn touch(&self, d: &Arc<Dentry>) {
        if d.slot.load(Ordering::Acquire) == 0 {
            self.keep(d);
        }
    }

    /// Lets go of a name that was removed: its inode is to live no longer than somebody uses it.
    fn forget(&self, d: &Dentry) {
        let mut ring = self.ring.lock();
        let slot = d.slot.swap(0, Ordering::AcqRel);
        if slot == 0 {
            return;
        }
        let old = ring.slots.get_mut(slot as usize - 1).and_then(Option::take);
        ring.free.push(slot - 1);
        drop(ring);
        drop(old);
    }

    /// Lets go of everything.
    pub fn clear(&self) {
        let all = std::mem::take(&mut *self.ring.lock());
        for d in all.slots.iter().flatten() {
            d.slot.store(0, Ordering::Release);
        }
    }

    /// Names kept.
    pub fn len(&self) -> usize {
        let ring = self.ring.lock();
        ring.slots.len() - ring.free.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Whether names of this inode's file system go into the cache.
pub(super) fn caches_names(inode: &Inode) -> bool {
    !inode.sb.flags.contains(SbFlags::NO_DCACHE)
}
