//! The clocks of clock_gettime(2).

use crate::task::{Task, ThreadGroup};
use abi::{Result, bail};
use std::sync::Arc;

/// A clock that a call names.
#[derive(Clone, Debug)]
pub enum Clock {
    /// `CLOCK_REALTIME`, and `CLOCK_TAI`: no leap seconds are known, so both tell the same.
    Realtime,
    /// `CLOCK_REALTIME_COARSE`
    RealtimeCoarse,
    /// `CLOCK_MONOTONIC`
    Monotonic,
    /// `CLOCK_MONOTONIC_COARSE`
    MonotonicCoarse,
    /// `CLOCK_MONOTONIC_RAW`
    MonotonicRaw,
    /// `CLOCK_BOOTTIME`
    Boottime,
    /// CPU time of a process or thread.
    Cpu(CpuClock),
}

/// A CPU-time clock.
#[derive(Clone)]
pub enum CpuClock {
    /// All threads of a process together; the flag: user time only (`CPUCLOCK_VIRT`).
    Process(Arc<ThreadGroup>, bool),
    /// One thread.
    Thread(Arc<Task>, bool),
}

impl std::fmt::Debug for CpuClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CpuClock::Process(g, _) => write!(f, "process {}", g.tgid),
            CpuClock::Thread(t, _) => write!(f, "thread {}", t.tid()),
        }
    }
}

impl CpuClock {
    /// Nanoseconds of CPU time.
    #[must_use]
    pub fn now(&self) -> u64 {
        let (usage, user_only) = match self {
            CpuClock::Process(g, v) => (g.usage(), *v),
            CpuClock::Thread(t, v) => (t.usage(), *v),
        };
        if user_only { usage.user_ns } else { usage.user_ns.saturating_add(usage.system_ns) }
    }
}

impl Clock {
    /// The clock with this id as `task` may name it. `EINVAL` if there is none. Negative ids name CPU clocks of processes
    /// and threads (`MAKE_PROCESS_CPUCLOCK`: `~pid << 3 | per_thread << 2 | kind`).
    pub fn from_id(task: &Arc<Task>, id: i32) -> Result<Clock> {
        Ok(match id {
            libc::CLOCK_REALTIME | libc::CLOCK_TAI | libc::CLOCK_REALTIME_ALARM => Clock::Realtime,
            libc::CLOCK_MONOTONIC => Clock::Monotonic,
            libc::CLOCK_PROCESS_CPUTIME_ID => Clock::Cpu(CpuClock::Process(task.group().clone(), false)),
            libc::CLOCK_THREAD_CPUTIME_ID => Clock::Cpu(CpuClock::Thread(task.clone(), false)),
            libc::CLOCK_MONOTONIC_RAW => Clock::MonotonicRaw,
            libc::CLOCK_REALTIME_COARSE => Clock::RealtimeCoarse,
            libc::CLOCK_MONOTONIC_COARSE => Clock::MonotonicCoarse,
            libc::CLOCK_BOOTTIME | libc::CLOCK_BOOTTIME_ALARM => Clock::Boottime,
            id if id < 0 => Clock::Cpu(Clock::cpu_clock(task, id)?),
            _ => bail!(EINVAL, "no such clock"),
        })
    }

    fn cpu_clock(task: &Arc<Task>, id: i32) -> Result<CpuClock> {
        let (pid, per_thread, kind) = (!(id >> 3), id & 4 != 0, id & 3);
        if kind == 3 {
            bail!(EINVAL, "clocks of descriptors are not supported");
        }
        // CPUCLOCK_PROF 0, CPUCLOCK_VIRT 1, CPUCLOCK_SCHED 2.
        let user_only = kind == 1;
        if per_thread {
            let target = if pid == 0 { Some(task.clone()) } else { task.pids().task(pid) };
            return match target {
                Some(t) if t.tgid() == task.tgid() => Ok(CpuClock::Thread(t, user_only)),
                _ => bail!(EINVAL, "no such thread in this process"),
            };
        }
        let group = if pid == 0 { Some(task.group().clone()) } else { task.pids().process(pid) };
        match group {
            Some(g) => Ok(CpuClock::Process(g, user_only)),
            None => bail!(EINVAL, "no such process"),
        }
    }

    /// Its time in nanoseconds.
    #[must_use]
    pub fn now(&self) -> u64 {
        match self {
            Clock::Realtime => host::time::realtime_ns(),
            Clock::RealtimeCoarse => host::time::realtime_coarse_ns(),
            Clock::Monotonic | Clock::MonotonicCoarse | Clock::MonotonicRaw => host::time::monotonic_ns(),
            Clock::Boottime => host::time::boottime_ns(),
            Clock::Cpu(c) => c.now(),
        }
    }

    /// clock_getres(2): its resolution in nanoseconds.
    #[must_use]
    pub fn resolution(&self) -> u64 {
        match self {
            Clock::RealtimeCoarse | Clock::MonotonicCoarse => 4_000_000,
            _ => 1,
        }
    }
}
