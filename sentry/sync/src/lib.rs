//! Locks with ranks, wait queues, and the parking of task threads.
//!
//! Every lock of the sentry names its rank from the one table in [`lock_order`]; debug builds panic where a thread takes a lock
//! whose rank is not above all that it holds. [`WaitQueue`] is how a blocked task, an epoll instance or a poll(2) hears of events.

pub mod lock_order;
mod mutex;
mod park;
mod wait_queue;

pub use lock_order::Rank;
pub use mutex::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use park::{Parker, Place, Scheduler, Watch, set_scheduler, set_watch};
pub use wait_queue::{ExclusiveWaiter, Listener, Registration, WaitQueue};
