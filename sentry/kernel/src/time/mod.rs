//! Time: clocks, sleeping, and timers.
//!
//! * [`Clock`] – the clocks of clock_gettime(2).
//! * [`TimerQueue`] and [`Timer`] – expiries, served by one thread of the sentry; timerfd, POSIX timers and itimers build on them.
//! * [`ProcessTimers`] – timer_create(2) and setitimer(2) of one process.
//! * [`Vdso`] – the pages by which a process tells the time without a call.

mod clock;
mod cpu_alarm;
mod process_timers;
mod sleep;
mod timer;
mod vdso;

pub use clock::{Clock, CpuClock};
pub use process_timers::{ItimerKind, ProcessTimers, TimerNotify};
pub use timer::{Timer, TimerQueue, TimerSetting};
pub use vdso::Vdso;

use std::time::{Duration, Instant};

/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

/// The moment that `ns` of `CLOCK_MONOTONIC` (as [`Clock::Monotonic`] tells it) stands for.
#[must_use]
pub fn instant_at(ns: u64) -> Instant {
    let now = host::time::monotonic_ns();
    let base = Instant::now();
    if ns <= now { base } else { base.checked_add(Duration::from_nanos(ns - now)).unwrap_or_else(far_future) }
}

/// `ns` nanoseconds from now; a century at most.
#[must_use]
pub fn instant_after(ns: u64) -> Instant {
    Instant::now().checked_add(Duration::from_nanos(ns)).unwrap_or_else(far_future)
}

/// The moment at which `CLOCK_REALTIME`, as it goes now, tells `ns`; a century from now at most.
#[must_use]
pub fn instant_at_realtime(ns: u64) -> Instant {
    instant_after(ns.saturating_sub(host::time::realtime_ns()))
}

fn far_future() -> Instant {
    Instant::now() + Duration::from_secs(100 * 365 * 86_400)
}
