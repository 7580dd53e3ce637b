//! timerfd_create(2).

use super::anon::{AnonKind, anon_file};
use crate::{
    Kernel,
    cred::{CapSet, Credentials},
    io::IoBuffer,
    time::{Timer, TimerSetting},
    vfs::{File, FileOps},
};
use abi::{
    Result, bail,
    fs::OpenFlags,
    libc,
    poll::PollEvents,
    time::{Itimerspec, Timespec},
};
use std::any::Any;
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};
use sync::WaitQueue;

/// A timer that is read.
pub struct TimerFd {
    timer: Timer,
    clock: i32,
    /// `TFD_TIMER_*` of the last settime.
    flags: AtomicU32,
    queue: WaitQueue,
}

fn spec(s: TimerSetting) -> Itimerspec {
    Itimerspec { interval: Timespec::from_nanos(s.interval), value: Timespec::from_nanos(s.remaining.unwrap_or(0)) }
}

impl TimerFd {
    /// timerfd_settime(2); returns the setting before. The wall clock of a sandbox cannot be set by it, so that
    /// `TFD_TIMER_CANCEL_ON_SET` has nothing to cancel.
    pub fn set(&self, flags: u32, new: &Itimerspec) -> Result<Itimerspec> {
        let (abstime, cancel) = (libc::TFD_TIMER_ABSTIME as u32, libc::TFD_TIMER_CANCEL_ON_SET as u32);
        if flags & !(abstime | cancel) != 0 {
            bail!(EINVAL, "unknown flags");
        }
        let (Some(value), Some(interval)) = (new.value.to_nanos(), new.interval.to_nanos()) else { bail!(EINVAL, "time out of range") };
        self.flags.store(flags, Ordering::Relaxed);
        let old = match value {
            0 => self.timer.set_at(None, interval),
            v if flags & abstime != 0 => self.timer.set_at(Some(v), interval),
            v => self.timer.set_after(Some(v), interval),
        };
        Ok(spec(old))
    }

    /// timerfd_gettime(2).
    pub fn get(&self) -> Itimerspec {
        spec(self.timer.setting())
    }
}

impl FileOps for TimerFd {
    fn read(&self, _file: &File, buf: &mut IoBuffer<'_>, _offset: u64) -> Result<usize> {
        if buf.remaining() < 8 {
            bail!(EINVAL, "needs 8 bytes");
        }
        match self.timer.take_expirations() {
            0 => bail!(EAGAIN, "not expired"),
            n => buf.write(&n.to_ne_bytes()),
        }
    }

    fn seekable(&self) -> bool {
        false
    }

    fn poll(&self, _file: &File) -> PollEvents {
        if self.timer.expirations() > 0 { PollEvents::IN } else { PollEvents::empty() }
    }

    fn poll_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn show_fdinfo(&self, _file: &File) -> String {
        let s = self.get();
        format!(
            "clockid: {}\nticks: {}\nsettime flags: 0{:o}\nit_value: ({}, {})\nit_interval: ({}, {})\n",
            self.clock,
            self.timer.expirations(),
            self.flags.load(Ordering::Relaxed),
            s.value.sec,
            s.value.nsec,
            s.interval.sec,
            s.interval.nsec
        )
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A new timer on a clock. `flags`: O_NONBLOCK.
pub fn create(kernel: &Kernel, clock: i32, flags: OpenFlags, cred: &Credentials) -> Result<Arc<File>> {
    let now: fn() -> u64 = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_ALARM => host::time::realtime_ns,
        libc::CLOCK_MONOTONIC => host::time::monotonic_ns,
        libc::CLOCK_BOOTTIME | libc::CLOCK_BOOTTIME_ALARM => host::time::boottime_ns,
        _ => bail!(EINVAL, "no timers on clock {clock}"),
    };
    if matches!(clock, libc::CLOCK_REALTIME_ALARM | libc::CLOCK_BOOTTIME_ALARM) {
        cred.require(CapSet::WAKE_ALARM)?;
    }
    let queue = WaitQueue::new();
    let of_timer = queue.clone();
    let timer = Timer::new(&kernel.timers, now, move |_| of_timer.notify(PollEvents::READABLE));
    let ops = TimerFd { timer, clock, flags: AtomicU32::new(0), queue };
    Ok(anon_file(AnonKind::Other("[timerfd]"), cred, flags | OpenFlags::RDWR, Box::new(ops)))
}
