//! [`TimerQueue`]: one thread, one ordered map of expiries. [`Timer`]: a handle to one of them.

use crate::task::Waker;
use abi::Result;
use std::collections::{BTreeMap, HashMap};
use std::sync::{
    Arc, Weak,
    atomic::{AtomicU64, Ordering},
};
use sync::{Mutex, Rank};

/// What a timer is set to. Times in nanoseconds; an interval of zero: expires once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimerSetting {
    /// Until the next expiry; `None`: disarmed.
    pub remaining: Option<u64>,
    /// Period.
    pub interval: u64,
}

/// Called on the timer thread at each expiry, with the number of expiries since the last call; may take any lock.
type Callback = Arc<dyn Fn(u64) + Send + Sync>;

struct Entry {
    clock: fn() -> u64,
    callback: Callback,
    /// When it expires next, on its own clock.
    next: Option<u64>,
    interval: u64,
    /// Its key in the order: the same moment on the monotonic clock.
    key: Option<(u64, u64)>,
    /// Expiries since it was set or last asked.
    expired: u64,
}

#[derive(Default)]
struct State {
    entries: HashMap<u64, Entry>,
    order: BTreeMap<(u64, u64), ()>,
}

/// All timers of the sandbox.
pub struct TimerQueue {
    state: Mutex<State>,
    next_id: AtomicU64,
    waker: Waker,
}

impl TimerQueue {
    /// An empty queue, and its thread, which ends when the queue is dropped.
    pub fn start() -> Result<Arc<TimerQueue>> {
        let queue =
            Arc::new(TimerQueue { state: Mutex::new(Rank::Timer, State::default()), next_id: AtomicU64::new(1), waker: Waker::default() });
        let weak = Arc::downgrade(&queue);
        host::thread::spawn("timers", move || serve(&weak))?;
        Ok(queue)
    }

    /// Calls what has expired; returns when the next expires, on the monotonic clock.
    fn run(&self) -> Option<u64> {
        loop {
            let now = host::time::monotonic_ns();
            let (callback, count) = {
                let mut state = self.state.lock();
                let (&key, ()) = state.order.first_key_value()?;
                if key.0 > now {
                    return Some(key.0);
                }
                state.order.remove(&key);
                let Some(e) = state.entries.get_mut(&key.1) else { continue };
                e.key = None;
                let count = e.expire();
                let at = e.position();
                e.key = at.map(|at| (at, key.1));
                let (callback, key) = (e.callback.clone(), e.key);
                if let Some(key) = key {
                    state.order.insert(key, ());
                }
                (callback, count)
            };
            if count > 0 {
                callback(count);
            }
        }
    }

    fn set(&self, id: u64, next: Option<u64>, interval: u64) -> TimerSetting {
        let mut state = self.state.lock();
        let Some(e) = state.entries.get_mut(&id) else { return TimerSetting::default() };
        let old = e.setting();
        let old_key = e.key.take();
        e.next = next;
        e.interval = interval;
        e.expired = 0;
        e.key = e.position().map(|at| (at, id));
        let key = e.key;
        if let Some(k) = old_key {
            state.order.remove(&k);
        }
        if let Some(k) = key {
            state.order.insert(k, ());
            if state.order.first_key_value().is_some_and(|(first, ())| *first == k) {
                self.waker.unpark();
            }
        }
        old
    }
}

/// The timer thread.
fn serve(queue: &Weak<TimerQueue>) {
    loop {
        let Some(q) = queue.upgrade() else { return };
        let deadline = q.run().map(super::instant_at);
        q.waker.park(deadline);
    }
}

impl Entry {
    /// Counts expiries until now and moves on to the next; returns how many there were.
    fn expire(&mut self) -> u64 {
        let Some(next) = self.next else { return 0 };
        let now = (self.clock)();
        if now < next {
            // The clock was set back, or runs slower than the monotonic one.
            return 0;
        }
        let count = match self.interval {
            0 => {
                self.next = None;
                1
            }
            interval => {
                let count = (now - next) / interval + 1;
                self.next = Some(next.saturating_add(count.saturating_mul(interval)));
                count
            }
        };
        self.expired = self.expired.saturating_add(count);
        count
    }

    /// The next expiry on the monotonic clock.
    fn position(&self) -> Option<u64> {
        let wait = self.next?.saturating_sub((self.clock)());
        Some(host::time::monotonic_ns().saturating_add(wait))
    }

    fn setting(&self) -> TimerSetting {
        // An expiry that is due but not yet served still counts as armed, by the least amount (Linux's timerfd and itimers do so).
        let remaining = self.next.map(|n| n.saturating_sub((self.clock)()).max(1));
        TimerSetting { remaining, interval: self.interval }
    }
}

/// One timer. Dropping it disarms it; its callback may still be running then.
pub struct Timer {
    queue: Arc<TimerQueue>,
    id: u64,
}

impl Timer {
    /// A disarmed timer on a clock (a function such as [`host::time::monotonic_ns`]).
    pub fn new(queue: &Arc<TimerQueue>, clock: fn() -> u64, callback: impl Fn(u64) + Send + Sync + 'static) -> Timer {
        let id = queue.next_id.fetch_add(1, Ordering::Relaxed);
        let entry = Entry { clock, callback: Arc::new(callback), next: None, interval: 0, key: None, expired: 0 };
        queue.state.lock().entries.insert(id, entry);
        Timer { queue: queue.clone(), id }
    }

    /// Sets the timer to expire at `at` on its clock, then every `interval` nanoseconds (0: once); `None` disarms it. Forgets expiries
    /// that nobody took. Returns the setting before.
    pub fn set_at(&self, at: Option<u64>, interval: u64) -> TimerSetting {
        self.queue.set(self.id, at, interval)
    }

    /// The same with a time from now.
    pub fn set_after(&self, wait: Option<u64>, interval: u64) -> TimerSetting {
        let now = self.now();
        self.queue.set(self.id, wait.map(|w| now.saturating_add(w)), interval)
    }

    /// Its clock's time.
    #[must_use]
    pub fn now(&self) -> u64 {
        let clock = self.queue.state.lock().entries.get(&self.id).map(|e| e.clock);
        clock.map_or(0, |c| c())
    }

    /// What it is set to now.
    #[must_use]
    pub fn setting(&self) -> TimerSetting {
        self.queue.state.lock().entries.get(&self.id).map_or(TimerSetting::default(), Entry::setting)
    }

    /// Expiries since it was set or they were last taken.
    #[must_use]
    pub fn expirations(&self) -> u64 {
        self.queue.state.lock().entries.get(&self.id).map_or(0, |e| e.expired)
    }

    /// Takes the count of expiries.
    #[must_use]
    pub fn take_expirations(&self) -> u64 {
        self.queue.state.lock().entries.get_mut(&self.id).map_or(0, |e| std::mem::take(&mut e.expired))
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let gone = {
            let mut state = self.queue.state.lock();
            let gone = state.entries.remove(&self.id);
            if let Some(key) = gone.as_ref().and_then(|e| e.key) {
                state.order.remove(&key);
            }
            gone
        };
        // The callback may own what takes other locks when dropped.
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn periodic_and_one_shot() {
        let queue = TimerQueue::start().expect("start");
        let (tx, rx) = channel();
        let t = Timer::new(&queue, host::time::monotonic_ns, move |n| tx.send(n).expect("send"));
        t.set_after(Some(1_000_000), 2_000_000);
        let mut seen = 0;
        while seen < 3 {
            seen += rx.recv_timeout(Duration::from_secs(5)).expect("expiry");
        }
        assert_eq!(t.setting().interval, 2_000_000);
        assert!(t.take_expirations() >= 3);
        assert!(t.set_at(None, 0).remaining.is_some());
        assert_eq!(t.setting(), TimerSetting::default());
        t.set_after(Some(1), 0);
        while t.expirations() == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(t.setting().remaining, None);
    }
}
