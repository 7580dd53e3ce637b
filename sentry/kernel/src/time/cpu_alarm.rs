//! [`CpuAlarm`]: a timer on a CPU-time clock. CPU time cannot be waited for; the alarm looks again whenever it could have come.

use super::{CpuClock, Timer, TimerQueue, TimerSetting};
use crate::task::{Task, ThreadGroup};
use std::sync::{Arc, OnceLock, Weak};
use sync::{Mutex, Rank};

/// The shortest time between two looks, and the longest while the clock stands still, in nanoseconds.
const STEP_MIN: u64 = 1_000_000;
const STEP_MAX: u64 = 50_000_000;

/// A CPU clock that does not keep its process alive.
pub(super) enum CpuSource {
    Process(Weak<ThreadGroup>, bool),
    Thread(Weak<Task>, bool),
}

impl CpuSource {
    pub fn new(clock: &CpuClock) -> CpuSource {
        match clock {
            CpuClock::Process(g, user) => CpuSource::Process(Arc::downgrade(g), *user),
            CpuClock::Thread(t, user) => CpuSource::Thread(Arc::downgrade(t), *user),
        }
    }

    /// The time, and how many threads may be running it on.
    fn now(&self) -> Option<(u64, u64)> {
        Some(match self {
            CpuSource::Process(g, user) => {
                let g = g.upgrade()?;
                let threads = g.thread_count() as u64;
                (CpuClock::Process(g, *user).now(), threads.max(1))
            }
            CpuSource::Thread(t, user) => (CpuClock::Thread(t.upgrade()?, *user).now(), 1),
        })
    }
}

struct Alarm {
    next: Option<u64>,
    interval: u64,
    /// The clock when it was last looked at, and how long to wait if it stands still.
    seen: u64,
    step: u64,
}

struct Inner {
    source: CpuSource,
    alarm: Mutex<Alarm>,
    timer: OnceLock<Timer>,
    fire: Box<dyn Fn(u64) + Send + Sync>,
}

/// A timer on CPU time. Dropping it disarms it.
pub(super) struct CpuAlarm(Arc<Inner>);

impl CpuAlarm {
    /// A disarmed alarm; `fire` gets the number of expiries.
    pub fn new(queue: &Arc<TimerQueue>, source: CpuSource, fire: impl Fn(u64) + Send + Sync + 'static) -> CpuAlarm {
        let inner = Arc::new(Inner {
            source,
            alarm: Mutex::new(Rank::TaskState, Alarm { next: None, interval: 0, seen: 0, step: STEP_MIN }),
            timer: OnceLock::new(),
            fire: Box::new(fire),
        });
        let weak = Arc::downgrade(&inner);
        let timer = Timer::new(queue, host::time::monotonic_ns, move |_| {
            if let Some(i) = weak.upgrade() {
                i.look();
            }
        });
        // The only place that sets it.
        let _ = inner.timer.set(timer);
        CpuAlarm(inner)
    }

    /// Sets the alarm; returns the setting before.
    pub fn set(&self, value: Option<u64>, absolute: bool, interval: u64) -> TimerSetting {
        let old = self.setting();
        let now = self.0.source.now().map_or(0, |n| n.0);
        {
            let mut a = self.0.alarm.lock();
            a.next = value.map(|v| if absolute { v } else { now.saturating_add(v) });
            a.interval = interval;
            a.step = STEP_MIN;
        }
        self.0.look();
        old
    }

    pub fn setting(&self) -> TimerSetting {
        let now = self.0.source.now().map_or(0, |n| n.0);
        let a = self.0.alarm.lock();
        TimerSetting { remaining: a.next.map(|n| n.saturating_sub(now).max(1)), interval: a.interval }
    }
}

impl Inner {
    /// Fires what has expired and decides when to look again.
    fn look(&self) {
        let Some((now, threads)) = self.source.now() else { return };
        let (count, wait) = {
            let mut a = self.alarm.lock();
            let mut count = 0;
            if let Some(next) = a.next
                && next <= now
            {
                count = if a.interval == 0 { 1 } else { (now - next) / a.interval + 1 };
                a.next = (a.interval != 0).then(|| next.saturating_add(count.saturating_mul(a.interval)));
            }
            a.step = if a.seen == now { (a.step * 2).min(STEP_MAX) } else { STEP_MIN };
            a.seen = now;
            let step = a.step;
            (count, a.next.map(|n| ((n - now) / threads).max(step)))
        };
        if let Some(t) = self.timer.get() {
            t.set_after(wait, 0);
        }
        if count > 0 {
            (self.fire)(count);
        }
    }
}
