//! The tree of files that the sentry holds handles of.
//!
//! A [`Node`] knows its place (a parent and a name) and the identity of the file there. Its `O_PATH` descriptor is
//! a cache: the [`Tree`] keeps a bounded number open, closes those that were not used lately, and opens a node again
//! by its place, where the same file must still be (`ESTALE` if not). A file that has lost its name cannot be opened
//! again, so its descriptor stays.
//!
//! Whoever uses a place to reach a file holds [`Tree::names`] for reading; whoever takes names away or moves them holds
//! it for writing. The locks inside a node are held for moments only, one at a time, and no `Arc<Node>` may be
//! dropped under a `children` lock: dropping the last one takes its parent's.

use crate::resolve::{self, Result};
use abi::Errno;
use abi::fs::FileType;
use gofer_protocol::{Attr, Name, NodeId};
use parking_lot::{Mutex, RwLock};
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

/// Handles the sentry may hold at once.
const MAX_HANDLES: usize = 1 << 20;

/// An open descriptor, counted while it lives.
#[derive(Debug)]
pub struct PathFd {
    fd: OwnedFd,
    count: Arc<AtomicUsize>,
}

impl PathFd {
    /// The descriptor itself.
    pub fn owned(&self) -> &OwnedFd {
        &self.fd
    }
}

impl AsFd for PathFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for PathFd {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where a node is found.
#[derive(Debug)]
enum Place {
    /// It is an attach point.
    Root,
    /// By this name in that directory.
    At(Arc<Node>, Box<[u8]>),
    /// Nowhere any more: only its descriptor reaches it.
    Gone,
}

/// A file of an attach point.
#[derive(Debug)]
pub struct Node {
    /// Which attach point.
    pub attach: usize,
    /// Its type, which no file ever changes.
    pub kind: FileType,
    /// Identity. An overlay of the host may give a file another when it is first changed.
    dev: AtomicU64,
    ino: AtomicU64,
    place: Mutex<Place>,
    fd: Mutex<Option<Arc<PathFd>>>,
    /// Used since the descriptor cache last came by.
    recent: AtomicBool,
    children: Mutex<HashMap<Box<[u8]>, Weak<Node>>>,
}

impl Node {
    fn new(attach: usize, attr: &Attr, place: Place, fd: Option<Arc<PathFd>>) -> Result<Arc<Node>> {
        Ok(Arc::new(Node {
            attach,
            kind: attr.file_type().ok_or(Errno::EIO)?,
            dev: AtomicU64::new(attr.dev),
            ino: AtomicU64::new(attr.ino),
            place: Mutex::new(place),
            fd: Mutex::new(fd),
            recent: AtomicBool::new(false),
            children: Mutex::default(),
        }))
    }

    /// Whether this is the file that `attr` is of.
    pub fn is(&self, attr: &Attr) -> bool {
        self.dev.load(Ordering::Relaxed) == attr.dev && self.ino.load(Ordering::Relaxed) == attr.ino && attr.file_type() == Some(self.kind)
    }

    /// Takes over the identity that the file has after a change, from a descriptor of the very file.
    pub fn changed(&self, attr: &Attr) {
        self.dev.store(attr.dev, Ordering::Relaxed);
        self.ino.store(attr.ino, Ordering::Relaxed);
    }

    /// The node known by `name` in this directory.
    pub fn child(&self, name: Name<'_>) -> Option<Arc<Node>> {
        self.children.lock().get(name.as_bytes()).and_then(Weak::upgrade)
    }

    /// The directory that it is in.
    pub fn parent(&self) -> Option<Arc<Node>> {
        match &*self.place.lock() {
            Place::At(parent, _) => Some(parent.clone()),
            Place::Root | Place::Gone => None,
        }
    }

    /// Forgets where the node is. Keeps its descriptor.
    pub fn lose_place(&self) {
        let old = std::mem::replace(&mut *self.place.lock(), Place::Gone);
        if let Place::At(parent, name) = old {
            let _ = parent.children.lock().remove(&name);
        }
    }

    /// Puts a descriptor back that the cache may have closed between its last use and the loss of the place.
    pub fn hold(&self, fd: Arc<PathFd>) {
        let _ = self.fd.lock().get_or_insert(fd);
    }

    /// Moves the node. The caller holds [`Tree::names`] for writing.
    pub fn move_to(self: &Arc<Node>, parent: &Arc<Node>, name: Name<'_>) {
        let place = Place::At(parent.clone(), name.as_bytes().into());
        let displaced = parent.children.lock().insert(name.as_bytes().into(), Arc::downgrade(self)).and_then(|w| w.upgrade());
        if let Some(old) = displaced.filter(|old| !Arc::ptr_eq(old, self)) {
            *old.place.lock() = Place::Gone;
        }
        let before = std::mem::replace(&mut *self.place.lock(), place);
        drop(before);
    }

    /// Takes the node out of its parent's list, and gives that parent.
    fn detach(&mut self) -> Option<Arc<Node>> {
        let Place::At(parent, name) = std::mem::replace(self.place.get_mut(), Place::Gone) else { return None };
        let mut children = parent.children.lock();
        // Another node may have been given the name since.
        if children.get(&name).is_some_and(|w| w.strong_count() == 0) {
            children.remove(&name);
        }
        drop(children);
        Some(parent)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A loop, because the sentry decides how deep a tree is, and a recursion would end at the end of the stack.
        let mut next = self.detach();
        while let Some(mut parent) = next.and_then(Arc::into_inner) {
            next = parent.detach();
        }
    }
}

/// All nodes, and the descriptors kept open for them.
#[derive(Debug)]
pub struct Tree {
    /// Held for reading to reach files by their places, for writing to take names away.
    pub names: RwLock<()>,
    handles: Mutex<HashMap<NodeId, Arc<Node>>>,
    next: AtomicU64,
    /// Nodes with a descriptor, oldest first (second chance).
    open: Mutex<VecDeque<Weak<Node>>>,
    count: Arc<AtomicUsize>,
    limit: usize,
    /// By attach point: whether mounts below it are part of it.
    cross_mounts: Vec<bool>,
}

impl Tree {
    /// An empty tree that keeps about `limit` descriptors open.
    pub fn new(limit: usize, cross_mounts: Vec<bool>) -> Tree {
        Tree {
            names: RwLock::default(),
            handles: Mutex::default(),
            next: AtomicU64::new(1),
            open: Mutex::default(),
            count: Arc::default(),
            limit: limit.max(16),
            cross_mounts,
        }
    }

    /// The node of an attach point, from a descriptor that stays open.
    pub fn root(&self, attach: usize, fd: OwnedFd) -> Result<Arc<Node>> {
        let attr = resolve::stat_fd(&fd)?;
        let fd = self.counted(fd);
        Node::new(attach, &attr, Place::Root, Some(fd))
    }

    /// A node without a name (`O_TMPFILE`), reached by `fd` alone.
    pub fn nameless(&self, attach: usize, attr: &Attr, fd: OwnedFd) -> Result<Arc<Node>> {
        self.make_room()?;
        Node::new(attach, attr, Place::Gone, Some(self.counted(fd)))
    }

    /// Hands out a handle.
    ///
    /// # Errors
    /// `ENFILE` if the sentry holds too many.
    pub fn handle(&self, node: Arc<Node>) -> Result<NodeId> {
        let mut handles = self.handles.lock();
        if handles.len() >= MAX_HANDLES {
            return Err(Errno::ENFILE);
        }
        let id = NodeId(self.next.fetch_add(1, Ordering::Relaxed));
        handles.insert(id, node);
        Ok(id)
    }

    /// The node behind a handle.
    ///
    /// # Errors
    /// `EBADF` if there is none.
    pub fn get(&self, id: NodeId) -> Result<Arc<Node>> {
        self.handles.lock().get(&id).cloned().ok_or(Errno::EBADF)
    }

    /// Takes a handle back.
    pub fn close(&self, id: NodeId) {
        // Dropped after the lock is released: dropping a node may close descriptors.
        let node = self.handles.lock().remove(&id);
        drop(node);
    }

    /// The node of the file `attr` found by `name` in `parent`: the known one, if it is still that file.
    pub fn adopt(&self, parent: &Arc<Node>, name: Name<'_>, attr: &Attr) -> Result<Arc<Node>> {
        let mut children = parent.children.lock();
        let known = children.get(name.as_bytes()).and_then(Weak::upgrade);
        if let Some(node) = &known
            && node.is(attr)
        {
            drop(children);
            return known.ok_or(Errno::EIO);
        }
        let node = match Node::new(parent.attach, attr, Place::At(parent.clone(), name.as_bytes().into()), None) {
            Ok(node) => node,
            Err(e) => {
                drop(children);
                return Err(e);
            }
        };
        children.insert(name.as_bytes().into(), Arc::downgrade(&node));
        drop(children);
        if let Some(old) = known {
            // Somebody else replaced the file. What had the name before is reached by its descriptor, if it has one.
            *old.place.lock() = Place::Gone;
        }
        Ok(node)
    }

    /// Looks `name` up in `dir` and opens it, for going on from there.
    pub fn enter(&self, dir: &Arc<Node>, name: Name<'_>) -> Result<(Arc<Node>, Attr)> {
        let dir_fd = self.fd(dir)?;
        let fd = self.retry(|| resolve::open_path(&*dir_fd, name, self.crosses(dir)))?;
        let attr = resolve::stat_fd(&fd)?;
        let node = self.adopt(dir, name, &attr)?;
        self.keep(&node, fd);
        Ok((node, attr))
    }

    /// A descriptor of the node, opened anew if it was closed meanwhile. The caller holds [`Tree::names`].
    ///
    /// # Errors
    /// `ESTALE` if the file is not where it was; `ENFILE` if there are no descriptors left.
    pub fn fd(&self, node: &Arc<Node>) -> Result<Arc<PathFd>> {
        if let Some(fd) = node.fd.lock().as_ref() {
            node.recent.store(true, Ordering::Relaxed);
            return Ok(fd.clone());
        }
        // Up to the nearest directory that is open, then down again.
        let mut path: Vec<(Arc<Node>, Box<[u8]>)> = Vec::new();
        let mut at = node.clone();
        let mut fd = loop {
            if let Some(fd) = at.fd.lock().as_ref() {
                break fd.clone();
            }
            let parent = match &*at.place.lock() {
                Place::At(parent, name) => (parent.clone(), name.clone()),
                Place::Root | Place::Gone => return Err(Errno::ESTALE),
            };
            path.push((at, parent.1));
            at = parent.0;
        };
        while let Some((node, name)) = path.pop() {
            let name = Name::new(&name).map_err(|_| Errno::ESTALE)?;
            let opened = self.retry(|| resolve::open_path(&*fd, name, self.crosses(&node))).map_err(|e| match e {
                Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP => Errno::ESTALE,
                e => e,
            })?;
            if !node.is(&resolve::stat_fd(&opened)?) {
                return Err(Errno::ESTALE);
            }
            fd = self.keep(&node, opened);
        }
        Ok(fd)
    }

    /// Whether lookups in the tree of `node` may cross mounts.
    pub fn crosses(&self, node: &Node) -> bool {
        self.cross_mounts.get(node.attach).copied().unwrap_or(false)
    }

    /// Runs what opens a descriptor, with room made for it, and once more if the host has none left.
    pub fn retry<T>(&self, mut open: impl FnMut() -> Result<T>) -> Result<T> {
        self.make_room()?;
        match open() {
            Err(Errno::EMFILE | Errno::ENFILE) => {
                self.evict(64);
                open().map_err(|e| if e == Errno::EMFILE { Errno::ENFILE } else { e })
            }
            other => other,
        }
    }

    fn counted(&self, fd: OwnedFd) -> Arc<PathFd> {
        self.count.fetch_add(1, Ordering::Relaxed);
        Arc::new(PathFd { fd, count: self.count.clone() })
    }

    /// Gives the node its descriptor, unless another thread was faster.
    fn keep(&self, node: &Arc<Node>, fd: OwnedFd) -> Arc<PathFd> {
        let mut slot = node.fd.lock();
        if let Some(there) = slot.as_ref() {
            return there.clone();
        }
        let fd = self.counted(fd);
        *slot = Some(fd.clone());
        drop(slot);
        self.open.lock().push_back(Arc::downgrade(node));
        fd
    }

    /// Makes room for one more descriptor.
    fn make_room(&self) -> Result<()> {
        if self.count.load(Ordering::Relaxed) >= self.limit {
            self.evict(16);
            if self.count.load(Ordering::Relaxed) >= self.limit {
                return Err(Errno::ENFILE);
            }
        }
        // The queue also holds nodes that died: sweep it before it outgrows the cache by far.
        let mut open = self.open.lock();
        if open.len() > 4 * self.limit {
            open.retain(|w| w.strong_count() > 0);
        }
        Ok(())
    }

    /// Closes up to `wanted` descriptors that were not used lately.
    fn evict(&self, wanted: usize) {
        let mut closed = 0;
        // Twice round: the first time may only clear marks.
        let rounds = 2 * self.open.lock().len();
        for _ in 0..rounds {
            let Some(weak) = self.open.lock().pop_front() else { return };
            let Some(node) = weak.upgrade() else { continue };
            if node.recent.swap(false, Ordering::Relaxed) {
                self.open.lock().push_back(weak);
                continue;
            }
            if matches!(*node.place.lock(), Place::Gone) {
                // The only way to the file. It leaves the queue, and closes when its last handle does.
                continue;
            }
            let fd = node.fd.lock().take();
            drop(fd);
            closed += 1;
            if closed == wanted {
                return;
            }
        }
    }

    /// Descriptors open now.
    #[cfg(test)]
    pub fn open_count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}
