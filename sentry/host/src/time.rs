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

/// What the kernel counts for clocks of this kind: the time that was run, as the scheduler measures it.
const CPUCLOCK_SCHED: i32 = 2;
const CPUCLOCK_PER_THREAD: i32 = 4;

/// CPU time of all threads of another process, ended ones included; of a thread that runs just now, up to the host's last tick. `None`: there is no
/// such process.
#[must_use]
pub fn cpu_ns_of_process(pid: i32) -> Option<u64> {
    cpu_ns_by_id(!pid << 3 | CPUCLOCK_SCHED)
}

/// CPU time of a thread of the calling process. `None`: there is no such thread in it.
#[must_use]
pub fn cpu_ns_of_thread(tid: i32) -> Option<u64> {
    cpu_ns_by_id(!tid << 3 | CPUCLOCK_PER_THREAD | CPUCLOCK_SCHED)
}

fn cpu_ns_by_id(id: libc::clockid_t) -> Option<u64> {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the host writes one timespec to where one is.
    crate::check(unsafe { libc::clock_gettime(id, &raw mut t) }).ok()?;
    let (seconds, rest) = (u64::try_from(t.tv_sec).ok()?, u64::try_from(t.tv_nsec).ok()?);
    Some(seconds.saturating_mul(1_000_000_000).saturating_add(rest))
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

    #[test]
    fn cpu_time_of_others() {
        let me = crate::thread::tid();
        let before = cpu_ns_of_thread(me).expect("own thread");
        let seen = std::thread::spawn(move || cpu_ns_of_thread(me)).join().expect("thread").expect("another thread");
        assert!(seen >= before && cpu_ns_of_thread(me).expect("own thread") >= seen);
        let process = i32::try_from(std::process::id()).expect("pid");
        assert!(cpu_ns_of_process(process).expect("own process") >= seen);
        // Process 1 has threads, but none of this process.
        assert!(process == 1 || cpu_ns_of_thread(1).is_none());
        // More than there can be.
        let nobody = (1 << 22) + 1;
        assert_eq!((cpu_ns_of_process(nobody), cpu_ns_of_thread(nobody)), (None, None));
    }
}
