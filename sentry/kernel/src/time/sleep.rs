//! nanosleep(2) and clock_nanosleep(2).

use super::{Clock, instant_after};
use crate::task::{CurrentTask, RestartBlock};
use crate::user::{UserAddr, UserRef};
use abi::time::Timespec;
use abi::{Restart, Result, bail};
use std::time::{Duration, Instant};

/// How often a sleep on CPU time looks at the clock.
const CPU_STEP: Duration = Duration::from_millis(2);

impl CurrentTask {
    /// Sleeps on a clock for, or with `absolute` until, a time. A relative sleep that is interrupted writes what is left to `remaining`
    /// (null: nowhere) and goes on through restart_syscall.
    pub fn clock_nanosleep(&mut self, clock_id: i32, absolute: bool, request: Timespec, remaining: UserAddr) -> Result {
        let clock = match clock_id {
            // Setting the clock must not change a relative sleep.
            libc::CLOCK_REALTIME if !absolute => Clock::Monotonic,
            libc::CLOCK_THREAD_CPUTIME_ID => bail!(EINVAL, "a thread cannot sleep on its own CPU time"),
            id => Clock::from_id(&self.task, id)?,
        };
        if matches!(clock, Clock::RealtimeCoarse | Clock::MonotonicCoarse | Clock::MonotonicRaw) {
            bail!(EOPNOTSUPP, "no sleeping on this clock");
        }
        let Some(ns) = request.to_nanos() else { bail!(EINVAL, "bad time") };
        let until = if absolute { ns } else { clock.now().saturating_add(ns) };
        if self.sleep_until(&clock, until).is_ok() {
            return Ok(());
        }
        if absolute {
            return Err(Restart::NoHand.into());
        }
        let id = if clock_id == libc::CLOCK_REALTIME { libc::CLOCK_MONOTONIC } else { clock_id };
        self.interrupted_sleep(id, &clock, until, remaining)
    }

    /// Goes on with an interrupted sleep: restart_syscall(2).
    pub fn restart_nanosleep(&mut self, clock_id: i32, until: u64, remaining: UserAddr) -> Result {
        let clock = Clock::from_id(&self.task, clock_id)?;
        if self.sleep_until(&clock, until).is_ok() {
            return Ok(());
        }
        self.interrupted_sleep(clock_id, &clock, until, remaining)
    }

    fn interrupted_sleep(&mut self, id: i32, clock: &Clock, until: u64, remaining: UserAddr) -> Result {
        let left = until.saturating_sub(clock.now());
        if left == 0 {
            return Ok(());
        }
        if !remaining.is_null() {
            self.mm().write(UserRef::new(remaining), &Timespec::from_nanos(left))?;
        }
        self.restart = RestartBlock::Nanosleep { clock: id, until_ns: until, remaining };
        Err(Restart::Block.into())
    }

    fn sleep_until(&self, clock: &Clock, until: u64) -> Result {
        loop {
            let left = until.saturating_sub(clock.now());
            if left == 0 {
                return Ok(());
            }
            if self.signal_pending() {
                return Err(Restart::Sys.into());
            }
            let deadline = match clock {
                Clock::Cpu(_) => Instant::now() + CPU_STEP,
                _ => instant_after(left),
            };
            self.park(Some(deadline));
        }
    }
}
