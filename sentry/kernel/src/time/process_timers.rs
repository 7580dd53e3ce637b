//! [`ProcessTimers`]: timer_create(2) and setitimer(2) of one process.

use super::cpu_alarm::{CpuAlarm, CpuSource};
use super::{Clock, CpuClock, Timer, TimerSetting};
use crate::task::{Task, ThreadGroup};
use abi::signal::{SI_KERNEL, SI_TIMER, SigInfo, Signal};
use abi::{Result, bail, error};
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use sync::{Mutex, Rank};

/// `DELAYTIMER_MAX`
const OVERRUN_MAX: u64 = i32::MAX as u64;

/// Whom a POSIX timer tells (`struct sigevent`).
#[derive(Clone, Debug)]
pub enum TimerNotify {
    /// `SIGEV_NONE`
    Nobody,
    /// `SIGEV_SIGNAL` to the process, or `SIGEV_THREAD_ID` to one thread; with `sigev_value`.
    Signal {
        /// The signal.
        signal: Signal,
        /// `sigev_value`; `None`: the timer's id.
        value: Option<u64>,
        /// The one thread.
        thread: Option<Weak<Task>>,
    },
}

/// Which interval timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItimerKind {
    /// `ITIMER_REAL`: SIGALRM.
    Real,
    /// `ITIMER_VIRTUAL`: SIGVTALRM, user time.
    Virtual,
    /// `ITIMER_PROF`: SIGPROF, CPU time.
    Prof,
}

/// A wall-clock timer or an alarm on CPU time.
enum Engine {
    Wall(Timer),
    Cpu(CpuAlarm),
}

impl Engine {
    fn set(&self, value: Option<u64>, absolute: bool, interval: u64) -> TimerSetting {
        match self {
            Engine::Wall(t) if absolute => t.set_at(value, interval),
            Engine::Wall(t) => t.set_after(value, interval),
            Engine::Cpu(a) => a.set(value, absolute, interval),
        }
    }

    fn setting(&self) -> TimerSetting {
        match self {
            Engine::Wall(t) => t.setting(),
            Engine::Cpu(a) => a.setting(),
        }
    }
}

#[derive(Default)]
struct Overrun {
    /// Expiries behind the first of the signal that is queued.
    queued: u64,
    /// Those of the signal delivered last (timer_getoverrun(2)).
    last: u64,
}

struct PosixTimer {
    engine: Engine,
    overrun: Arc<Mutex<Overrun>>,
}

/// The timers of one process. Gone at execve(2) (interval timers stay) and exit, not inherited by fork(2).
pub struct ProcessTimers {
    itimers: Mutex<[Option<Arc<Engine>>; 3]>,
    posix: Mutex<BTreeMap<i32, Arc<PosixTimer>>>,
    cpu_limit: Mutex<Option<Arc<CpuAlarm>>>,
}

impl Default for ProcessTimers {
    fn default() -> Self {
        ProcessTimers {
            itimers: Mutex::new(Rank::TaskState, [None, None, None]),
            posix: Mutex::new(Rank::TaskState, BTreeMap::new()),
            cpu_limit: Mutex::new(Rank::TaskState, None),
        }
    }
}

/// The POSIX timer that a siginfo comes from.
fn posix_timer_of(info: &SigInfo) -> Option<i32> {
    (info.code == SI_TIMER).then_some(info.fields[0] as u32 as i32)
}

impl ProcessTimers {
    /// Disarms and forgets everything: the process has ended.
    pub(crate) fn clear(&self) {
        let itimers = std::mem::take(&mut *self.itimers.lock());
        let limit = self.cpu_limit.lock().take();
        drop((itimers, limit));
        self.clear_posix();
    }

    /// Deletes the POSIX timers: execve(2).
    pub(crate) fn clear_posix(&self) {
        let posix = std::mem::take(&mut *self.posix.lock());
        drop(posix);
    }

    fn posix(&self, id: i32) -> Result<Arc<PosixTimer>> {
        self.posix.lock().get(&id).cloned().ok_or(error!(EINVAL, "no timer {id}"))
    }

    /// A signal is delivered: if it is a timer's, fills in how many expiries it stands for.
    pub(crate) fn complete_info(&self, mut info: SigInfo) -> SigInfo {
        if let Some(id) = posix_timer_of(&info)
            && let Ok(t) = self.posix(id)
        {
            let mut o = t.overrun.lock();
            o.last = std::mem::take(&mut o.queued);
            info.fields[0] = u64::from(id as u32) | o.last.min(OVERRUN_MAX) << 32;
        }
        info
    }
}

impl Task {
    /// timer_create(2); returns the timer's id. `notify` of `None`: SIGALRM with the id as value.
    pub fn timer_create(&self, clock: &Clock, notify: Option<TimerNotify>) -> Result<i32> {
        let group = self.group();
        let timers = &group.timers;
        let mut posix = timers.posix.lock();
        if posix.len() as u64 >= self.rlimit(libc::RLIMIT_SIGPENDING).cur {
            bail!(EAGAIN, "RLIMIT_SIGPENDING");
        }
        let id = (0..i32::MAX).find(|i| !posix.contains_key(i)).ok_or(error!(EAGAIN, "no free timer id"))?;
        let notify = notify.unwrap_or(TimerNotify::Signal { signal: Signal::ALRM, value: None, thread: None });
        let overrun = Arc::new(Mutex::new(Rank::Leaf, Overrun::default()));
        let fire = expiry(Arc::downgrade(group), id, notify, overrun.clone());
        let queue = &self.kernel().timers;
        let engine = match clock {
            Clock::Realtime => Engine::Wall(Timer::new(queue, host::time::realtime_ns, fire)),
            Clock::Monotonic => Engine::Wall(Timer::new(queue, host::time::monotonic_ns, fire)),
            Clock::Boottime => Engine::Wall(Timer::new(queue, host::time::boottime_ns, fire)),
            Clock::Cpu(c) => Engine::Cpu(CpuAlarm::new(queue, CpuSource::new(c), fire)),
            Clock::RealtimeCoarse | Clock::MonotonicCoarse | Clock::MonotonicRaw => {
                bail!(EOPNOTSUPP, "no timers on this clock")
            }
        };
        posix.insert(id, Arc::new(PosixTimer { engine, overrun }));
        Ok(id)
    }

    /// timer_settime(2); `value` of zero disarms. Returns the setting before.
    pub fn timer_settime(&self, id: i32, absolute: bool, value: u64, interval: u64) -> Result<TimerSetting> {
        let t = self.group().timers.posix(id)?;
        *t.overrun.lock() = Overrun::default();
        Ok(t.engine.set((value != 0).then_some(value), absolute, interval))
    }

    /// timer_gettime(2).
    pub fn timer_gettime(&self, id: i32) -> Result<TimerSetting> {
        Ok(self.group().timers.posix(id)?.engine.setting())
    }

    /// timer_getoverrun(2).
    pub fn timer_getoverrun(&self, id: i32) -> Result<i32> {
        let t = self.group().timers.posix(id)?;
        let last = t.overrun.lock().last;
        Ok(last.min(OVERRUN_MAX) as i32)
    }

    /// timer_delete(2). A signal that is queued already stays so.
    pub fn timer_delete(&self, id: i32) -> Result {
        let gone = self.group().timers.posix.lock().remove(&id);
        if gone.is_none() {
            bail!(EINVAL, "no timer {id}");
        }
        Ok(())
    }

    fn itimer(&self, kind: ItimerKind) -> Arc<Engine> {
        let group = self.group();
        let queue = &self.kernel().timers;
        let mut itimers = group.timers.itimers.lock();
        let index = kind as usize;
        if let Some(Some(e)) = itimers.get(index) {
            return e.clone();
        }
        let weak = Arc::downgrade(group);
        let send = move |signal| {
            let weak: Weak<ThreadGroup> = weak.clone();
            move |_| {
                if let Some(g) = weak.upgrade() {
                    // Standard signals are never refused.
                    let _ = g.send_signal(SigInfo::new(signal, SI_KERNEL));
                }
            }
        };
        let engine = Arc::new(match kind {
            ItimerKind::Real => Engine::Wall(Timer::new(queue, host::time::monotonic_ns, send(Signal::ALRM))),
            ItimerKind::Virtual => {
                let source = CpuSource::new(&CpuClock::Process(group.clone(), true));
                Engine::Cpu(CpuAlarm::new(queue, source, send(Signal::VTALRM)))
            }
            ItimerKind::Prof => {
                let source = CpuSource::new(&CpuClock::Process(group.clone(), false));
                Engine::Cpu(CpuAlarm::new(queue, source, send(Signal::PROF)))
            }
        });
        if let Some(slot) = itimers.get_mut(index) {
            *slot = Some(engine.clone());
        }
        engine
    }

    /// setitimer(2) and alarm(2): nanoseconds; a `value` of zero disarms. Returns the setting before.
    pub fn setitimer(&self, kind: ItimerKind, value: u64, interval: u64) -> TimerSetting {
        self.itimer(kind).set((value != 0).then_some(value), false, interval)
    }

    /// getitimer(2).
    pub fn getitimer(&self, kind: ItimerKind) -> TimerSetting {
        self.itimer(kind).setting()
    }
}

/// What a POSIX timer does when it expires.
fn expiry(group: Weak<ThreadGroup>, id: i32, notify: TimerNotify, overrun: Arc<Mutex<Overrun>>) -> impl Fn(u64) + Send + Sync {
    move |count| {
        let TimerNotify::Signal { signal, value, thread } = &notify else { return };
        let Some(group) = group.upgrade() else { return };
        let target = match thread {
            None => None,
            Some(t) => match t.upgrade() {
                Some(t) => Some(t),
                None => return,
            },
        };
        if group.is_timer_queued(*signal, id, target.as_deref()) {
            let mut o = overrun.lock();
            o.queued = o.queued.saturating_add(count);
            return;
        }
        overrun.lock().queued = count.saturating_sub(1);
        let mut info = SigInfo::new(*signal, SI_TIMER);
        info.fields[0] = u64::from(id as u32);
        info.fields[1] = value.unwrap_or(id as u64);
        let sent = match target {
            Some(t) => t.send_signal(info),
            None => group.send_signal(info),
        };
        if sent.is_err() {
            tracing::debug!("timer {id} of process {}: no room for its signal", group.tgid);
        }
    }
}

impl ThreadGroup {
    /// Whether a signal of this timer is still queued: then its expiries are overruns.
    fn is_timer_queued(&self, signal: Signal, id: i32, target: Option<&Task>) -> bool {
        let is_it = |i: &SigInfo| posix_timer_of(i) == Some(id);
        match target {
            Some(t) => t.has_queued(signal, is_it),
            None => self.lock().shared.find_mut(signal, is_it).is_some(),
        }
    }

    /// Watches over RLIMIT_CPU from now on: SIGXCPU at the soft limit and each second after it, SIGKILL at the hard one.
    pub fn arm_cpu_limit(self: &Arc<Self>) {
        let limit = self.rlimit(libc::RLIMIT_CPU);
        if limit.cur == u64::MAX {
            let gone = self.timers.cpu_limit.lock().take();
            drop(gone);
            return;
        }
        let weak = Arc::downgrade(self);
        let source = CpuSource::new(&CpuClock::Process(self.clone(), false));
        let alarm = CpuAlarm::new(&self.kernel().timers, source, move |_| {
            let Some(g) = weak.upgrade() else { return };
            let hard = g.rlimit(libc::RLIMIT_CPU).max;
            let u = g.usage();
            let over = (u.user_ns + u.system_ns) / 1_000_000_000 >= hard;
            let signal = if over { Signal::KILL } else { Signal::XCPU };
            // Standard signals are never refused.
            let _ = g.send_signal(SigInfo::new(signal, SI_KERNEL));
        });
        let at = limit.cur.saturating_mul(1_000_000_000).max(1);
        alarm.set(Some(at), true, 1_000_000_000);
        let old = self.timers.cpu_limit.lock().replace(Arc::new(alarm));
        drop(old);
    }
}
