//! Clocks, sleeping and timers.

use crate::{gap, row, table::Entry};
use abi::{
    Result, bail, error, libc,
    signal::Signal,
    time::{Itimerspec, Itimerval, Timespec, Timeval},
};
use kernel::{
    cred::CapSet,
    task::CurrentTask,
    time::{Clock, ItimerKind, TimerNotify, TimerSetting},
    user::{UserAddr, UserRef},
};
use std::sync::Arc;
use zerocopy::{FromBytes, Immutable, IntoBytes};

pub(crate) const ROWS: &[Entry] = &[
    row!("clock_gettime", clock_gettime),
    row!("clock_getres", clock_getres),
    row!("clock_settime", clock_settime, Partial("EPERM: the clocks are the host's")),
    gap!("settimeofday", EPERM, "the clocks are the host's"),
    row!("clock_adjtime", clock_adjtime, Partial("reading only: the clocks are the host's")),
    row!("adjtimex", adjtimex, Partial("reading only: the clocks are the host's")),
    row!("gettimeofday", gettimeofday),
    row!("time", time),
    row!("nanosleep", nanosleep),
    row!("clock_nanosleep", clock_nanosleep),
    row!("alarm", alarm),
    row!("getitimer", getitimer),
    row!("setitimer", setitimer),
    row!("timer_create", timer_create),
    row!("timer_settime", timer_settime),
    row!("timer_gettime", timer_gettime),
    row!("timer_getoverrun", timer_getoverrun),
    row!("timer_delete", timer_delete),
];

pub fn clock_gettime(t: &mut CurrentTask, clock: i32, to: UserRef<Timespec>) -> Result<()> {
    let clock = Clock::from_id(&t.task, clock)?;
    if matches!(clock, Clock::Cpu(_)) {
        t.context.settle_cpu();
    }
    let now = clock.now();
    t.kernel().vdso.refresh();
    t.mm().write(to, &Timespec::from_nanos(now))
}

/// Only the realtime clock and those of CPU time can be set at all, and those are the host's: `EPERM`.
pub fn clock_settime(t: &mut CurrentTask, clock: i32, at: UserRef<Timespec>) -> Result<()> {
    match Clock::from_id(&t.task, clock)? {
        Clock::Realtime | Clock::Cpu(_) if clock != libc::CLOCK_TAI => {}
        _ => bail!(EINVAL, "cannot be set"),
    }
    if !t.mm().read(at)?.is_valid() {
        bail!(EINVAL, "bad time");
    }
    bail!(EPERM, "the clocks are the host's")
}

pub fn clock_getres(t: &mut CurrentTask, clock: i32, to: UserRef<Timespec>) -> Result<()> {
    let resolution = Clock::from_id(&t.task, clock)?.resolution();
    match to.non_null() {
        Some(to) => t.mm().write(to, &Timespec::from_nanos(resolution)),
        None => Ok(()),
    }
}

/// Words of `struct timex`; the first is `modes`.
const TIMEX_WORDS: usize = 26;
/// `TIME_ERROR`: the clock is not synchronized as far as the sandbox knows.
const TIME_ERROR: i32 = 5;
/// `STA_UNSYNC`
const STA_UNSYNC: u64 = 0x40;

pub fn adjtimex(t: &mut CurrentTask, at: UserRef<[u64; TIMEX_WORDS]>) -> Result<i32> {
    let mut timex = t.mm().read(at)?;
    if timex[0] as u32 != 0 {
        t.cred().require(CapSet::SYS_TIME)?;
        bail!(EPERM, "the clocks are the host's");
    }
    timex.fill(0);
    timex[5] = STA_UNSYNC;
    // `tick`: microseconds of a clock tick at 100 Hz.
    timex[11] = 10_000;
    let now = Timeval::from_nanos(Clock::Realtime.now());
    (timex[9], timex[10]) = (now.sec as u64, now.usec as u64);
    t.mm().write(at, &timex)?;
    Ok(TIME_ERROR)
}

pub fn clock_adjtime(t: &mut CurrentTask, clock: i32, at: UserRef<[u64; TIMEX_WORDS]>) -> Result<i32> {
    match clock {
        libc::CLOCK_REALTIME => adjtimex(t, at),
        id => {
            Clock::from_id(&t.task, id)?;
            bail!(EOPNOTSUPP, "only the realtime clock can be asked")
        }
    }
}

/// `struct timezone`, which Linux keeps and nobody uses.
type Timezone = [i32; 2];

pub fn gettimeofday(t: &mut CurrentTask, to: UserRef<Timeval>, zone: UserRef<Timezone>) -> Result<()> {
    let now = Timeval::from_nanos(Clock::Realtime.now());
    t.kernel().vdso.refresh();
    if let Some(to) = to.non_null() {
        t.mm().write(to, &now)?;
    }
    if let Some(zone) = zone.non_null() {
        t.mm().write(zone, &[0, 0])?;
    }
    Ok(())
}

pub fn time(t: &mut CurrentTask, to: UserRef<i64>) -> Result<i64> {
    // As files are stamped: whoever makes one afterwards never finds it older.
    let now = (Clock::RealtimeCoarse.now() / 1_000_000_000) as i64;
    t.kernel().vdso.refresh();
    if let Some(to) = to.non_null() {
        t.mm().write(to, &now)?;
    }
    Ok(now)
}

pub fn nanosleep(t: &mut CurrentTask, request: UserRef<Timespec>, remaining: UserAddr) -> Result<()> {
    let request = t.mm().read(request)?;
    t.clock_nanosleep(libc::CLOCK_MONOTONIC, false, request, remaining)
}

pub fn clock_nanosleep(t: &mut CurrentTask, clock: i32, flags: u32, request: UserRef<Timespec>, remaining: UserAddr) -> Result<()> {
    let request = t.mm().read(request)?;
    t.clock_nanosleep(clock, flags & libc::TIMER_ABSTIME as u32 != 0, request, remaining)
}

/// Returns the seconds that were left, rounded so that an armed alarm is never told as zero.
pub fn alarm(t: &mut CurrentTask, seconds: u32) -> Result<u64> {
    let before = t.setitimer(ItimerKind::Real, u64::from(seconds) * 1_000_000_000, 0);
    Ok(before.remaining.map_or(0, |ns| ((ns + 500_000_000) / 1_000_000_000).max(1)))
}

fn kind(which: i32) -> Result<ItimerKind> {
    Ok(match which {
        0 => ItimerKind::Real,
        1 => ItimerKind::Virtual,
        2 => ItimerKind::Prof,
        _ => bail!(EINVAL, "no such timer"),
    })
}

fn itimerval(s: TimerSetting) -> Itimerval {
    // A time below a microsecond still is a time.
    let value = s.remaining.map_or(0, |ns| ns.max(1000));
    Itimerval { interval: Timeval::from_nanos(s.interval), value: Timeval::from_nanos(value) }
}

pub fn getitimer(t: &mut CurrentTask, which: i32, to: UserRef<Itimerval>) -> Result<()> {
    let setting = t.getitimer(kind(which)?);
    t.mm().write(to, &itimerval(setting))
}

pub fn setitimer(t: &mut CurrentTask, which: i32, new: UserRef<Itimerval>, old: UserRef<Itimerval>) -> Result<()> {
    let kind = kind(which)?;
    // Linux takes a null pointer for a timer of zero, with a warning.
    let new = match new.non_null() {
        Some(at) => t.mm().read(at)?,
        None => Itimerval::default(),
    };
    let nanos = |v: Timeval| v.to_nanos().ok_or(error!(EINVAL, "time out of range"));
    let before = t.setitimer(kind, nanos(new.value)?, nanos(new.interval)?);
    match old.non_null() {
        Some(to) => t.mm().write(to, &itimerval(before)),
        None => Ok(()),
    }
}

/// `struct sigevent`'s used part.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
pub struct Sigevent {
    pub(crate) value: u64,
    pub(crate) signo: i32,
    pub(crate) notify: i32,
    tid: i32,
    pad: [i32; 11],
}

pub fn timer_create(t: &mut CurrentTask, clock: i32, event: UserRef<Sigevent>, to: UserRef<i32>) -> Result<()> {
    let clock = Clock::from_id(&t.task, clock)?;
    let notify = match event.non_null() {
        None => None,
        Some(at) => Some(notification(t, &t.mm().read(at)?)?),
    };
    let id = t.timer_create(&clock, notify)?;
    if let Err(e) = t.mm().write(to, &id) {
        t.timer_delete(id)?;
        return Err(e);
    }
    Ok(())
}

fn notification(t: &CurrentTask, e: &Sigevent) -> Result<TimerNotify> {
    let signal = || Signal::new(e.signo as u64).ok_or(error!(EINVAL, "no such signal"));
    Ok(match e.notify {
        libc::SIGEV_NONE => TimerNotify::Nobody,
        libc::SIGEV_SIGNAL | libc::SIGEV_THREAD => TimerNotify::Signal { signal: signal()?, value: Some(e.value), thread: None },
        libc::SIGEV_THREAD_ID => {
            let thread = t.pids().task(e.tid).filter(|x| x.tgid() == t.tgid()).ok_or(error!(EINVAL, "no such thread"))?;
            TimerNotify::Signal { signal: signal()?, value: Some(e.value), thread: Some(Arc::downgrade(&thread)) }
        }
        _ => bail!(EINVAL, "sigev_notify"),
    })
}

fn itimerspec(s: TimerSetting) -> Itimerspec {
    Itimerspec { interval: Timespec::from_nanos(s.interval), value: Timespec::from_nanos(s.remaining.unwrap_or(0)) }
}

pub fn timer_settime(t: &mut CurrentTask, id: i32, flags: u32, new: UserRef<Itimerspec>, old: UserRef<Itimerspec>) -> Result<()> {
    let Some(at) = new.non_null() else { bail!(EINVAL) };
    let new = t.mm().read(at)?;
    let nanos = |v: Timespec| v.to_nanos().ok_or(error!(EINVAL, "time out of range"));
    let absolute = flags & libc::TIMER_ABSTIME as u32 != 0;
    let before = t.timer_settime(id, absolute, nanos(new.value)?, nanos(new.interval)?)?;
    match old.non_null() {
        Some(to) => t.mm().write(to, &itimerspec(before)),
        None => Ok(()),
    }
}

pub fn timer_gettime(t: &mut CurrentTask, id: i32, to: UserRef<Itimerspec>) -> Result<()> {
    let setting = t.timer_gettime(id)?;
    t.mm().write(to, &itimerspec(setting))
}

pub fn timer_getoverrun(t: &mut CurrentTask, id: i32) -> Result<i32> {
    t.timer_getoverrun(id)
}

pub fn timer_delete(t: &mut CurrentTask, id: i32) -> Result<()> {
    t.timer_delete(id)
}
