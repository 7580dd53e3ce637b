//! Parking a task thread until someone unparks it.

use parking_lot::Mutex;
use std::any::Any;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// What whoever places threads on processors knows of one of them.
pub type Place = Arc<dyn Any + Send + Sync>;

/// Who is told of waiting, and decides when and where a thread wakes up.
#[derive(Clone, Copy, Debug)]
pub struct Scheduler {
    /// A thread begins (`true`) or ends waiting; called on that thread.
    pub waits: fn(bool),
    /// The calling thread's place, if it has one.
    pub place: fn() -> Option<Place>,
    /// Wakes a thread with this place by [`Thread::unpark`], now or, if the calling thread will be heard of again, soon.
    pub wake: fn(&Thread, &Place),
    /// Whether the calling thread, which begins to wait, leaves a processor that nobody needs for now.
    pub idles: fn() -> bool,
}

/// Who can look for what the outside may bring soon, so that a thread which waits for it need not fall asleep: to wake an idle processor
/// takes longer than most answers.
pub trait Watch: Send + Sync {
    /// Looks for as long as it pays, and until `enough`; whether it has looked at all.
    fn look(&self, enough: &dyn Fn() -> bool) -> bool;
}

static SCHEDULER: OnceLock<Scheduler> = OnceLock::new();

static WATCH: OnceLock<Weak<dyn Watch>> = OnceLock::new();

/// Lets waiting threads look through `watch`. Only the first call has an effect.
pub fn set_watch(watch: Weak<dyn Watch>) {
    let _ = WATCH.set(watch);
}

/// The shortest wait that is worth looking.
const WORTH: Duration = Duration::from_micros(500);

/// Lets `scheduler` decide from now on. Only the first call has an effect.
pub fn set_scheduler(scheduler: Scheduler) {
    let _ = SCHEDULER.set(scheduler);
}

const EMPTY: u8 = 0;
const TOKEN: u8 = 1;
/// Somebody waits, or is about to.
const ASLEEP: u8 = 2;

/// A one-token parking place for one thread at a time: [`unpark`](Parker::unpark) leaves a token, [`park`](Parker::park) takes it or waits for it.
#[derive(Debug, Default)]
pub struct Parker {
    state: AtomicU8,
    /// Who waits, or did so last.
    sleeper: Mutex<Option<(Thread, Option<Place>)>>,
}

impl Parker {
    /// An empty parking place.
    #[must_use]
    pub const fn new() -> Self {
        Parker { state: AtomicU8::new(EMPTY), sleeper: Mutex::new(None) }
    }

    /// Takes the token, waiting for it until `deadline`. Returns whether there was one.
    pub fn park(&self, deadline: Option<Instant>) -> bool {
        if self.take() {
            return true;
        }
        let scheduler = SCHEDULER.get();
        self.sit_down(scheduler);
        if let Some(s) = scheduler {
            (s.waits)(true);
            self.look(s, deadline);
        }
        let woken = self.sleep(deadline);
        if let Some(s) = scheduler {
            (s.waits)(false);
        }
        woken
    }

    fn take(&self) -> bool {
        self.state.load(Ordering::Relaxed) == TOKEN && self.state.swap(EMPTY, Ordering::SeqCst) == TOKEN
    }

    /// Looks around before falling asleep, if there is a processor for it. A token that comes meanwhile costs no wake-up.
    fn look(&self, scheduler: &Scheduler, deadline: Option<Instant>) {
        let Some(watch) = WATCH.get().filter(|_| (scheduler.idles)()).and_then(Weak::upgrade) else { return };
        if deadline.is_some_and(|d| d.saturating_duration_since(Instant::now()) < WORTH) {
            return;
        }
        let enough = || self.state.load(Ordering::Relaxed) == TOKEN || !(scheduler.idles)();
        if watch.look(&enough) {
            // What was found may have woken others.
            (scheduler.waits)(true);
        }
    }

    /// Says who will wait here.
    fn sit_down(&self, scheduler: Option<&Scheduler>) {
        let me = std::thread::current();
        let mut sleeper = self.sleeper.lock();
        if sleeper.as_ref().is_none_or(|(t, place)| t.id() != me.id() || place.is_none()) {
            *sleeper = Some((me, scheduler.and_then(|s| (s.place)())));
        }
    }

    fn sleep(&self, deadline: Option<Instant>) -> bool {
        if self.state.compare_exchange(EMPTY, ASLEEP, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            // A swap, to see all that whoever left the last token did before.
            self.state.swap(EMPTY, Ordering::SeqCst);
            return true;
        }
        loop {
            match deadline.map(|d| d.saturating_duration_since(Instant::now())) {
                None => std::thread::park(),
                Some(left) if left.is_zero() => return self.state.swap(EMPTY, Ordering::SeqCst) == TOKEN,
                Some(left) => std::thread::park_timeout(left),
            }
            // The thread's own token, which others use too, may have been left for any reason.
            if self.take() {
                return true;
            }
        }
    }

    /// Leaves a token. May be called under any lock.
    pub fn unpark(&self) {
        if self.state.swap(TOKEN, Ordering::SeqCst) != ASLEEP {
            return;
        }
        let Some((thread, place)) = self.sleeper.lock().clone() else { return };
        match (SCHEDULER.get(), &place) {
            (Some(s), Some(place)) => (s.wake)(&thread, place),
            _ => thread.unpark(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens() {
        let p = Arc::new(Parker::new());
        p.unpark();
        p.unpark();
        assert!(p.park(None));
        assert!(!p.park(Some(Instant::now())));
        // A token of the thread's own is not one of ours.
        std::thread::current().unpark();
        assert!(!p.park(Some(Instant::now() + Duration::from_millis(2))));
        let (tx, rx) = std::sync::mpsc::channel();
        let sleeper = {
            let p = p.clone();
            std::thread::spawn(move || {
                for n in 0..1000 {
                    assert!(p.park(None));
                    tx.send(n).expect("somebody listens");
                }
            })
        };
        for n in 0..1000 {
            p.unpark();
            assert_eq!(rx.recv(), Ok(n));
        }
        sleeper.join().expect("join");
    }
}
