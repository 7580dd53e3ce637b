//! When and where a guest thread that waited in the kernel wakes up.
//!
//! The host sends whoever is woken to an idle processor, which in a virtual machine takes 35 to 90 µs to wake up itself. A thread that wakes another
//! one mostly waits for it soon: it has written to a pipe, or unlocked a mutex. So the wake-up is kept back for a moment ([`PATIENCE`]). If the waker
//! waits within that, it *hands over*: the other one wakes up on the waker's processor, which is free just then. If it does not, the other one
//! wakes up wherever the host puts it, and the waker's next wake-ups are not kept back, for longer each time.
//!
//! That a thread finds the mutex, which it was woken for, unlocked, and not taken by itself before its waker could take it once more, is half of the
//! gain: programs that share a lock do not get into step with one another.
//!
//! Only calls that usually end in waiting keep wake-ups back ([`set_handing_over`]), and nothing is kept back while the thread does anything else in
//! the kernel. What is kept back while the application runs is seen to by the thread that waits for its next call.

use crate::activity::Activity;
use std::any::Any;
use std::cell::RefCell;
use std::sync::Arc;
use std::thread::Thread;

/// How long a wake-up may be kept back, in nanoseconds: as long as waking an idle processor takes.
pub const PATIENCE: u64 = 50_000;
/// Wake-ups kept back at a time.
const MOST: usize = 4;
/// Wake-ups that are not kept back after one that was to no purpose: at first, and at most.
const PENALTY: u32 = 1;
const LONGEST_PENALTY: u32 = 64;

/// A guest thread that waits.
type Sleeper = (Thread, Arc<Activity>);

/// What the calling thread keeps back.
#[derive(Default)]
struct Wakes {
    /// It may.
    handing_over: bool,
    kept: Vec<Sleeper>,
    /// When it waited last, somebody went on in its place.
    handed: bool,
    /// When the first of them was.
    since: u64,
    /// Wake-ups that are not to be kept back.
    skip: u32,
    penalty: u32,
}

thread_local! {
    static WAKES: RefCell<Wakes> = RefCell::default();
}

impl Wakes {
    /// Whether keeping them back was right.
    fn learn(&mut self, right: bool) {
        if right {
            self.penalty /= 2;
        } else {
            self.penalty = (self.penalty * 2).clamp(PENALTY, LONGEST_PENALTY);
            self.skip = self.penalty;
        }
    }
}

/// The calling thread's place for whoever wakes it: `None` if it serves no guest thread of a platform that places them.
#[must_use]
pub fn place() -> Option<Arc<dyn Any + Send + Sync>> {
    Activity::current().map(|a| a as Arc<dyn Any + Send + Sync>)
}

/// Wakes a thread with such a place, now or soon.
pub fn wake(thread: &Thread, place: &Arc<dyn Any + Send + Sync>) {
    let Ok(activity) = Arc::clone(place).downcast::<Activity>() else { return thread.unpark() };
    let kept = WAKES.with_borrow_mut(|w| {
        if !w.handing_over || w.kept.len() >= MOST {
            return false;
        }
        if w.skip > 0 {
            w.skip -= 1;
            return false;
        }
        if w.kept.is_empty() {
            w.since = host::time::monotonic_ns();
        }
        w.kept.push((thread.clone(), Arc::clone(&activity)));
        true
    });
    if !kept {
        activity.roam();
        thread.unpark();
    }
}

/// Whether the calling thread's wake-ups are kept back from now on. If not, none is any more.
pub fn set_handing_over(on: bool) {
    if WAKES.with_borrow_mut(|w| std::mem::replace(&mut w.handing_over, on)) && !on {
        release();
    }
}

/// The calling thread is about to wait: the first one that it has to wake goes on in its place.
pub(crate) fn hand_over() {
    let kept = WAKES.with_borrow_mut(|w| {
        w.handed = !w.kept.is_empty();
        if w.handed {
            w.learn(true);
        }
        std::mem::take(&mut w.kept)
    });
    for (n, (thread, activity)) in kept.into_iter().enumerate() {
        if n == 0 {
            activity.come_here()
        } else {
            activity.roam()
        }
        thread.unpark();
    }
}

/// Wakes whoever is kept back, wherever the host wants.
pub(crate) fn release() {
    let kept = WAKES.with_borrow_mut(|w| {
        if !w.kept.is_empty() {
            w.learn(false);
        }
        std::mem::take(&mut w.kept)
    });
    for (thread, activity) in kept {
        activity.roam();
        thread.unpark();
    }
}

/// Whether the calling thread, which waits, has somebody else go on in its place.
pub(crate) fn hands_over() -> bool {
    WAKES.with_borrow(|w| w.handed || !w.kept.is_empty())
}

/// Whether the calling thread keeps any back; not for longer than it may.
pub(crate) fn any_kept() -> bool {
    let since = WAKES.with_borrow(|w| if w.kept.is_empty() { None } else { Some(w.since) });
    match since {
        None => false,
        Some(since) if host::time::monotonic_ns().saturating_sub(since) < PATIENCE => true,
        Some(_) => {
            release();
            false
        }
    }
}
