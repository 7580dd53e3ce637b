//! The host's clocks, in nanoseconds.

use rustix::thread::{ClockId, NanosleepRelativeResult};
use std::time::Duration;

fn now(id: ClockId) -> u64 {
    let t = rustix::time::clock_gettime(id);
    u64::try_from(t.tv_sec).unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(u64::try_from(t.tv_nsec).unwrap_or(0))
}

/// `CLOCK_REALTIME`: nanoseconds since 1970.
#[must_use]
pub fn realtime_ns() -> u64 {
    now(ClockId::Realtime)
}

/// `CLOCK_REALTIME_COARSE`, as file timestamps use it.
#[must_use]
pub fn realtime_coarse_ns() -> u64 {
    now(ClockId::RealtimeCoarse)
}

/// `CLOCK_MONOTONIC`: nanoseconds since some moment before the sandbox began.
#[must_use]
pub fn monotonic_ns() -> u64 {
    now(ClockId::Monotonic)
}

/// `CLOCK_BOOTTIME`: as [`monotonic_ns`], with the time the machine slept.
#[must_use]
pub fn boottime_ns() -> u64 {
    now(ClockId::Boottime)
}

/// CPU time of the whole calling process.
#[must_use]
pub fn process_cpu_ns() -> u64 {
    now(ClockId::ProcessCPUTime)
}

/// CPU time of the calling thread.
#[must_use]
pub fn thread_cpu_ns() -> u64 {
    now(ClockId::ThreadCPUTime)
}

/// Sleeps that long, or until a signal handler has run.
pub fn sleep(d: Duration) {
    let request = rustix::fs::Timespec { tv_sec: i64::try_from(d.as_secs()).unwrap_or(i64::MAX), tv_nsec: d.subsec_nanos().into() };
    match rustix::thread::nanosleep(&request) {
        NanosleepRelativeResult::Ok | NanosleepRelativeResult::Interrupted(_) | NanosleepRelativeResult::Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_advance() {
        let (m, b, r) = (monotonic_ns(), boottime_ns(), realtime_ns());
        sleep(Duration::from_millis(2));
        assert!(monotonic_ns() >= m + 2_000_000 && boottime_ns() > b && realtime_ns() > r && r > 1_600_000_000_000_000_000);
        assert!(thread_cpu_ns() > 0 && process_cpu_ns() >= thread_cpu_ns() / 2);
    }
}
