//! [`CpuMeter`]: how long the application of an address space has run, which is what the host counts for its stub process.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// CPU time of a stub process, from when it got its present application.
#[derive(Debug)]
pub struct CpuMeter {
    pid: i32,
    /// What it had used before.
    base: u64,
    /// The highest value seen: what is told of a process that is gone.
    last: AtomicU64,
}

impl CpuMeter {
    /// Counts from now on. Costs one call of the host, as [`read`](Self::read) does.
    pub fn new(pid: i32) -> CpuMeter {
        CpuMeter { pid, base: host::time::cpu_ns_of_process(pid).unwrap_or(0), last: AtomicU64::new(0) }
    }

    /// Nanoseconds.
    pub fn read(&self) -> u64 {
        let now = host::time::cpu_ns_of_process(self.pid).map_or(0, |t| t.saturating_sub(self.base));
        self.last.fetch_max(now, Relaxed).max(now)
    }
}
