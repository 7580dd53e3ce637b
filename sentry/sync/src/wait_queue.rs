//! Wait queues: who wants to hear of which events of a file, a process, a futex.

use crate::{Mutex, Rank};
use abi::poll::PollEvents;
use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

/// Something that can be told of events: a parked task, an epoll item.
pub trait Listener: Send + Sync {
    /// Called with the queue locked, and maybe with the locks of whoever notifies: must neither block nor take a lock below
    /// [`Rank::EpollReady`]. Returns whether it consumed a wake-up, which is what [`WaitQueue::notify_one`] counts.
    fn notify(&self, events: PollEvents) -> bool;
}

/// Whom a notification reaches besides an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Share {
    /// Everybody else as well.
    All,
    /// Of its kind, only one that consumes it.
    One,
    /// The same, and it is a task that waits ([`ExclusiveWaiter`]).
    Waiter,
}

struct Entry {
    id: u64,
    mask: PollEvents,
    share: Share,
    listener: Arc<dyn Listener>,
}

struct Inner {
    entries: Mutex<Vec<Entry>>,
    /// The number of entries, so that notifying an empty queue costs one load.
    len: AtomicUsize,
}

/// A list of [`Listener`]s with the events that each wants. Cloning gives another handle to the same queue.
#[derive(Clone)]
pub struct WaitQueue(Arc<Inner>);

impl Default for WaitQueue {
    fn default() -> Self {
        Self::new()
    }
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl WaitQueue {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        WaitQueue(Arc::new(Inner { entries: Mutex::new(Rank::WaitQueue, Vec::new()), len: AtomicUsize::new(0) }))
    }

    /// Adds a listener until the returned registration is dropped. `ERR` and `HUP` are always of interest.
    /// Register first, then look at the state: no event can be lost between the two.
    #[must_use]
    pub fn register(&self, mask: PollEvents, listener: Arc<dyn Listener>) -> Registration {
        self.add(mask, Share::All, listener)
    }

    /// As [`register`](Self::register), but [`notify`](Self::notify) wakes only one of the exclusive listeners (EPOLLEXCLUSIVE) unless all
    /// is over (`HUP`), which everybody hears of.
    #[must_use]
    pub fn register_exclusive(&self, mask: PollEvents, listener: Arc<dyn Listener>) -> Registration {
        self.add(mask, Share::One, listener)
    }

    /// The same for a task that waits to take something which only one can have (accept, a datagram). It must hand on with
    /// [`pass_on`](Self::pass_on) what it was woken for and did not take.
    #[must_use]
    pub fn register_waiter(&self, mask: PollEvents, waiter: Arc<ExclusiveWaiter>) -> Registration {
        self.add(mask, Share::Waiter, waiter)
    }

    fn add(&self, mask: PollEvents, share: Share, listener: Arc<dyn Listener>) -> Registration {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let mask = mask | PollEvents::ERR | PollEvents::HUP;
        let mut entries = self.0.entries.lock();
        entries.push(Entry { id, mask, share, listener });
        self.0.len.store(entries.len(), Ordering::SeqCst);
        Registration { queue: Arc::downgrade(&self.0), id }
    }

    /// Tells all listeners that want any of `events`, of the exclusive ones the first that consumes it.
    pub fn notify(&self, events: PollEvents) {
        // SeqCst pairs with the registration: either the listener sees the new state, or we see the listener.
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.0.len.load(Ordering::SeqCst) == 0 {
            return;
        }
        let everybody = events.contains(PollEvents::HUP);
        let mut exclusive_done = false;
        for e in self.0.entries.lock().iter() {
            let exclusive = e.share != Share::All && !everybody;
            if e.mask.intersects(events) && !(exclusive && exclusive_done) && e.listener.notify(events) && exclusive {
                exclusive_done = true;
            }
        }
    }

    /// Wakes one more of the tasks that wait exclusively, and nobody else: what the last one was woken for is still there.
    pub fn pass_on(&self, events: PollEvents) {
        if self.is_empty() {
            return;
        }
        let entries = self.0.entries.lock();
        let _ = entries.iter().filter(|e| e.share == Share::Waiter && e.mask.intersects(events)).find(|e| e.listener.notify(events));
    }

    /// Tells listeners in order until `n` of them have consumed it; returns how many did.
    pub fn notify_n(&self, events: PollEvents, n: usize) -> usize {
        let mut done = 0;
        for e in self.0.entries.lock().iter() {
            if done == n {
                break;
            }
            if e.mask.intersects(events) && e.listener.notify(events) {
                done += 1;
            }
        }
        done
    }

    /// Whether anyone is registered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.len.load(Ordering::SeqCst) == 0
    }
}

/// A task that waits exclusively: notified once, it consumes nothing more until it has looked.
pub struct ExclusiveWaiter {
    task: Arc<dyn Listener>,
    notified: AtomicBool,
}

impl ExclusiveWaiter {
    /// For a task that this listener wakes.
    #[must_use]
    pub fn new(task: Arc<dyn Listener>) -> Arc<ExclusiveWaiter> {
        Arc::new(ExclusiveWaiter { task, notified: AtomicBool::new(false) })
    }

    /// The task looks now: the next notification is for it again. Returns whether there was one that it has not looked for.
    pub fn look(&self) -> bool {
        self.notified.swap(false, Ordering::SeqCst)
    }
}

impl Listener for ExclusiveWaiter {
    fn notify(&self, events: PollEvents) -> bool {
        !self.notified.swap(true, Ordering::SeqCst) && self.task.notify(events)
    }
}

impl std::fmt::Debug for WaitQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WaitQueue({} waiting)", self.0.len.load(Ordering::Relaxed))
    }
}

/// Keeps a listener in a queue; dropping it takes the listener out. After the drop it is not called again.
pub struct Registration {
    queue: Weak<Inner>,
    id: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let Some(q) = self.queue.upgrade() else { return };
        let mut entries = q.entries.lock();
        let gone = entries.iter().position(|e| e.id == self.id).map(|i| entries.remove(i));
        q.len.store(entries.len(), Ordering::SeqCst);
        // The listener's own destructor may take other locks.
        drop(entries);
        drop(gone);
    }
}
