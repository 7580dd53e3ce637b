//! epoll(7).
//!
//! An [`Item`] listens on the wait queue of a file and enters the ready list when something happens there; what is
//! really ready is asked of the file when events are collected, as in Linux. Items hold their file weakly: a file that everybody has
//! closed is gone from the interest list.

use super::anon::{AnonKind, anon_file};
use crate::{
    cred::Credentials,
    io::IoBuffer,
    vfs::{File, FileOps},
};
use abi::{Result, bail, fs::OpenFlags, poll::PollEvents};
use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};
use sync::{Listener, Mutex, Rank, Registration, WaitQueue};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct epoll_event` of x86-64.
#[repr(C, packed)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EpollEvent {
    /// `EPOLL*`
    pub events: u32,
    /// The application's.
    pub data: u64,
}

/// `EPOLLEXCLUSIVE`
pub const EXCLUSIVE: u32 = 1 << 28;
/// `EPOLLWAKEUP`
pub const WAKEUP: u32 = 1 << 29;
/// `EPOLLONESHOT`
pub const ONESHOT: u32 = 1 << 30;
/// `EPOLLET`
pub const ET: u32 = 1 << 31;
/// Flags that are no events.
const PRIVATE: u32 = EXCLUSIVE | WAKEUP | ONESHOT | ET;
/// What may go with EPOLLEXCLUSIVE.
const EXCLUSIVE_OK: u32 = 0x1 | 0x4 | 0x8 | 0x10 | WAKEUP | ET | EXCLUSIVE;
/// How deep instances may watch one another.
const MAX_NESTS: usize = 4;

/// What epoll_ctl(2) is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Control {
    Add(EpollEvent),
    Modify(EpollEvent),
    Delete,
}

/// A watched descriptor.
struct Item {
    me: Weak<Item>,
    ep: Weak<Inner>,
    file: Weak<File>,
    /// `EPOLL*`; without event bits the item is disabled (EPOLLONESHOT) or removed.
    interest: AtomicU32,
    data: AtomicU64,
    /// Whether it is in the ready list.
    linked: AtomicBool,
    registration: Mutex<Option<Registration>>,
}

impl Item {
    fn wanted(&self) -> PollEvents {
        let bits = self.interest.load(Ordering::SeqCst);
        if bits & !PRIVATE == 0 {
            return PollEvents::empty();
        }
        PollEvents::from_bits_truncate(bits & !PRIVATE) | PollEvents::ERR | PollEvents::HUP
    }

    /// Enters the ready list; false if it is in it already.
    fn link(&self, ep: &Inner) -> bool {
        if self.linked.swap(true, Ordering::SeqCst) {
            return false;
        }
        if let Some(me) = self.me.upgrade() {
            ep.ready.lock().push_back(me);
        }
        true
    }

    /// Stops listening for good.
    fn retire(&self) {
        self.interest.store(0, Ordering::SeqCst);
        let r = self.registration.lock().take();
        drop(r);
    }
}

impl Listener for Item {
    fn notify(&self, events: PollEvents) -> bool {
        if !self.wanted().intersects(events) {
            return false;
        }
        let Some(ep) = self.ep.upgrade() else { return false };
        self.link(&ep);
        let anybody = !ep.queue.is_empty();
        ep.queue.notify(PollEvents::READABLE);
        anybody
    }
}

/// A descriptor and the file that it meant when it was added.
type Key = (u32, usize);

#[derive(Default)]
struct Items {
    map: BTreeMap<Key, Arc<Item>>,
    /// The number of items at which those of closed files are swept out.
    sweep_at: usize,
}

struct Inner {
    items: Mutex<Items>,
    ready: Mutex<VecDeque<Arc<Item>>>,
    /// Tasks in epoll_wait, and instances that watch this one.
    queue: WaitQueue,
    /// Instances that watch this one.
    parents: Mutex<Vec<Weak<Inner>>>,
}

/// An epoll instance.
pub struct Epoll {
    inner: Arc<Inner>,
}

/// Serializes changes to who watches whom.
static NESTING: Mutex<()> = Mutex::new(Rank::Epoll, ());

fn key(fd: u32, file: &Arc<File>) -> Key {
    (fd, Arc::as_ptr(file) as usize)
}

impl Epoll {
    /// Where [`collect`](Self::collect) may have something new.
    pub fn queue(&self) -> &WaitQueue {
        &self.inner.queue
    }

    /// epoll_ctl(2) for descriptor `fd`, which is `file`.
    pub fn control(&self, fd: u32, file: &Arc<File>, op: Control) -> Result {
        let Some(queue) = file.ops().poll_queue() else { bail!(EPERM, "the file is always ready") };
        let target = file.downcast::<Epoll>();
        if target.is_some_and(|t| Arc::ptr_eq(&t.inner, &self.inner)) {
            bail!(EINVAL, "an instance cannot watch itself");
        }
        match op {
            Control::Add(ev) => {
                let events = ev.events;
                if events & EXCLUSIVE != 0 && (events & !EXCLUSIVE_OK != 0 || target.is_some()) {
                    bail!(EINVAL, "not with EPOLLEXCLUSIVE");
                }
                let _nesting = target.map(|_| NESTING.lock_nested());
                if let Some(t) = target {
                    self.inner.check_nesting(&t.inner)?;
                }
                self.inner.add(fd, file, queue, ev)?;
                if let Some(t) = target {
                    t.inner.parents.lock().push(Arc::downgrade(&self.inner));
                }
                Ok(())
            }
            Control::Modify(ev) => self.inner.modify(fd, file, ev),
            Control::Delete => {
                let removed = self.inner.items.lock_nested().map.remove(&key(fd, file));
                let Some(item) = removed else { bail!(ENOENT) };
                item.retire();
                if let Some(t) = target {
                    t.inner.forget_parent(&self.inner);
                }
                Ok(())
            }
        }
    }

    /// Takes up to `max` events.
    pub fn collect(&self, max: usize) -> Vec<EpollEvent> {
        let mut out = Vec::new();
        self.inner.scan(&mut |event| {
            out.push(event);
            out.len() < max
        });
        out
    }
}

impl Inner {
    fn add(self: &Arc<Self>, fd: u32, file: &Arc<File>, queue: &WaitQueue, ev: EpollEvent) -> Result {
        let mut items = self.items.lock_nested();
        if items.map.contains_key(&key(fd, file)) {
            bail!(EEXIST);
        }
        let mut gone = Vec::new();
        if items.map.len() >= items.sweep_at {
            items.map.retain(|_, i| {
                i.file.strong_count() > 0 || {
                    gone.push(i.clone());
                    false
                }
            });
            items.sweep_at = (items.map.len() * 2).max(64);
        }
        let item = Arc::new_cyclic(|me| Item {
            me: me.clone(),
            ep: Arc::downgrade(self),
            file: Arc::downgrade(file),
            interest: AtomicU32::new(ev.events | (PollEvents::ERR | PollEvents::HUP).bits()),
            data: AtomicU64::new(ev.data),
            linked: AtomicBool::new(false),
            registration: Mutex::new(Rank::Leaf, None),
        });
        items.map.insert(key(fd, file), item.clone());
        // The item filters by itself, so that a change of interest need not touch the file's queue.
        let registration = if ev.events & EXCLUSIVE != 0 {
            queue.register_exclusive(PollEvents::all(), item.clone())
        } else {
            queue.register(PollEvents::all(), item.clone())
        };
        *item.registration.lock() = Some(registration);
        let ready = file.ops().poll(file).intersects(item.wanted()) && item.link(self);
        drop(items);
        gone.iter().for_each(|i| i.retire());
        if ready {
            self.queue.notify(PollEvents::READABLE);
        }
        Ok(())
    }

    fn modify(&self, fd: u32, file: &Arc<File>, ev: EpollEvent) -> Result {
        let events = ev.events;
        if events & EXCLUSIVE != 0 {
            bail!(EINVAL, "EPOLLEXCLUSIVE cannot be set later");
        }
        let items = self.items.lock_nested();
        let Some(item) = items.map.get(&key(fd, file)) else { bail!(ENOENT) };
        if item.interest.load(Ordering::SeqCst) & EXCLUSIVE != 0 {
            bail!(EINVAL, "added with EPOLLEXCLUSIVE");
        }
        item.data.store(ev.data, Ordering::SeqCst);
        item.interest.store(events | (PollEvents::ERR | PollEvents::HUP).bits(), Ordering::SeqCst);
        let ready = file.ops().poll(file).intersects(item.wanted()) && item.link(self);
        drop(items);
        if ready {
            self.queue.notify(PollEvents::READABLE);
        }
        Ok(())
    }

    /// Goes through the ready list, gives events to `take` until it returns false, and keeps what stays ready: level-triggered items, and those not
    /// reached.
    fn scan(&self, take: &mut dyn FnMut(EpollEvent) -> bool) {
        let items = self.items.lock_nested();
        let mut batch = std::mem::take(&mut *self.ready.lock());
        let mut again = Vec::new();
        // Files are let go of without the lock: this may be the last reference.
        let mut files = Vec::new();
        let mut more = true;
        while more {
            let Some(item) = batch.pop_front() else { break };
            item.linked.store(false, Ordering::SeqCst);
            let wanted = item.wanted();
            let Some(file) = item.file.upgrade() else { continue };
            if wanted.is_empty() {
                continue;
            }
            let got = file.ops().poll(&file) & wanted;
            files.push(file);
            if got.is_empty() {
                continue;
            }
            more = take(EpollEvent { events: got.bits(), data: item.data.load(Ordering::SeqCst) });
            let interest = item.interest.load(Ordering::SeqCst);
            if interest & ONESHOT != 0 {
                item.interest.store(interest & PRIVATE, Ordering::SeqCst);
            } else if interest & ET == 0 && !item.linked.swap(true, Ordering::SeqCst) {
                again.push(item);
            }
        }
        let mut ready = self.ready.lock();
        let arrived = std::mem::take(&mut *ready);
        batch.extend(arrived);
        batch.extend(again);
        *ready = batch;
        drop(ready);
        drop(items);
    }

    /// Whether an event is there, without taking it.
    fn is_ready(&self) -> bool {
        let items = self.items.lock_nested();
        let mut files = Vec::new();
        let mut found = false;
        while !found {
            let Some(item) = self.ready.lock().pop_front() else { break };
            item.linked.store(false, Ordering::SeqCst);
            let Some(file) = item.file.upgrade() else { continue };
            if file.ops().poll(&file).intersects(item.wanted()) {
                found = true;
                if !item.linked.swap(true, Ordering::SeqCst) {
                    self.ready.lock().push_front(item);
                }
            }
            files.push(file);
        }
        drop(items);
        found
    }

    /// `ELOOP` if watching `target` would close a circle or make a chain too long.
    fn check_nesting(self: &Arc<Self>, target: &Arc<Inner>) -> Result {
        let Some(below) = target.depth_below(self, 0) else { bail!(ELOOP, "a circle of epoll instances") };
        if below > MAX_NESTS || below + 1 + self.depth_above(0) > MAX_NESTS {
            bail!(ELOOP, "epoll instances too deep");
        }
        Ok(())
    }

    /// How many instances one below the other this one watches; `None` if `forbidden` is among them.
    fn depth_below(self: &Arc<Self>, forbidden: &Arc<Inner>, level: usize) -> Option<usize> {
        if Arc::ptr_eq(self, forbidden) {
            return None;
        }
        if level > MAX_NESTS {
            return Some(level);
        }
        let files: Vec<Arc<File>> = self.items.lock_nested().map.values().filter_map(|i| i.file.upgrade()).collect();
        let mut deepest = 0;
        for f in &files {
            if let Some(ep) = f.downcast::<Epoll>() {
                deepest = deepest.max(1 + ep.inner.depth_below(forbidden, level + 1)?);
            }
        }
        Some(deepest)
    }

    /// How many instances one above the other watch this one.
    fn depth_above(&self, level: usize) -> usize {
        if level > MAX_NESTS {
            return level;
        }
        let parents: Vec<Arc<Inner>> = self.parents.lock().iter().filter_map(Weak::upgrade).collect();
        parents.iter().map(|p| 1 + p.depth_above(level + 1)).max().unwrap_or(0)
    }

    fn forget_parent(&self, parent: &Arc<Inner>) {
        let mut parents = self.parents.lock();
        if let Some(i) = parents.iter().position(|p| std::ptr::eq(p.as_ptr(), Arc::as_ptr(parent))) {
            parents.swap_remove(i);
        }
        parents.retain(|p| p.strong_count() > 0);
    }
}

impl FileOps for Epoll {
    fn read(&self, _file: &File, _buf: &mut IoBuffer<'_>, _offset: u64) -> Result<usize> {
        bail!(EINVAL, "epoll cannot be read")
    }

    fn seekable(&self) -> bool {
        false
    }

    fn poll(&self, _file: &File) -> PollEvents {
        if self.inner.is_ready() { PollEvents::READABLE } else { PollEvents::empty() }
    }

    fn poll_queue(&self) -> Option<&WaitQueue> {
        Some(&self.inner.queue)
    }

    fn release(&self, _file: &File) {
        let items = std::mem::take(&mut self.inner.items.lock_nested().map);
        for item in items.values() {
            item.retire();
            if let Some(f) = item.file.upgrade()
                && let Some(ep) = f.downcast::<Epoll>()
            {
                ep.inner.forget_parent(&self.inner);
            }
        }
        let ready = std::mem::take(&mut *self.inner.ready.lock());
        drop(ready);
    }

    fn show_fdinfo(&self, _file: &File) -> String {
        let mut out = String::new();
        let items: Vec<(Key, Arc<Item>)> = self.inner.items.lock_nested().map.iter().map(|(k, i)| (*k, i.clone())).collect();
        for ((fd, _), item) in items {
            let Some(file) = item.file.upgrade() else { continue };
            // Writing to a String cannot fail.
            let _ = writeln!(
                out,
                "tfd: {fd:8} events: {:8x} data: {:16x}  pos:{} ino:{:x} sdev:{:x}",
                item.interest.load(Ordering::Relaxed),
                item.data.load(Ordering::Relaxed),
                *file.pos.lock(),
                file.inode().ino,
                file.inode().sb.dev
            );
        }
        out
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A new instance.
pub fn create(cred: &Credentials) -> Arc<File> {
    let inner = Inner {
        items: Mutex::new(Rank::Epoll, Items::default()),
        ready: Mutex::new(Rank::EpollReady, VecDeque::new()),
        queue: WaitQueue::new(),
        parents: Mutex::new(Rank::Leaf, Vec::new()),
    };
    anon_file(AnonKind::Other("[eventpoll]"), cred, OpenFlags::RDWR, Box::new(Epoll { inner: Arc::new(inner) }))
}

#[cfg(test)]
#[path = "epoll_tests.rs"]
mod tests;
