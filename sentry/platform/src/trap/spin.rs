//! When the sentry looks for a stub thread's next call instead of sleeping until it rings.
//!
//! Looking is several times cheaper where a processor is to spare, and ruinous where none is. So a thread must have shown that it
//! calls often, no other guest thread may want the processor, and each failure makes the next attempt rarer.
//!
//! Where more threads than processors call often, and few others want to run, a processor is made to spare: their stubs share one half of the
//! processors and the sentry's threads the other ([`halves`](super::halves)). The application loses half of its processors for its own code, and
//! saves two changes of threads at each call, which cost more than most calls.

use crate::activity::Activity;

/// Calls by the bell between two attempts: at first, and at most.
const PAUSE: u32 = 64;
const LONGEST_PAUSE: u32 = 1 << 16;
/// Turns of looking: in a row of successes some 10 µs; at the first attempt some 200 µs, which another processor takes to wake up.
const TURNS: u32 = 400;
const FIRST_TURNS: u32 = 8000;
/// Successes in a row after which an attempt was right.
const PROVEN: u32 = 1024;
/// Failures that end it: a call that took long, or was long in coming, is no reason yet.
const STRIKES: u32 = 3;
/// Successes in a row that make up for them.
const FORGIVEN: u32 = 64;

/// Calls after which a thread's habits are looked at.
const WINDOW: u32 = 32;
/// What so many take at most if they are frequent, in nanoseconds.
const FREQUENT: u64 = 1_000_000;
/// Of so many frequent calls one may wait in the kernel for long, with nothing else to do for the sandbox: its processors go to sleep, and
/// waking two of them takes longer than waking one.
const CALLS_PER_WAIT: u32 = 4;
/// Windows between two attempts to look in turns with others, after failures: at first, and at most.
const REST: u32 = 4;
const LONGEST_REST: u32 = 1 << 12;

/// How the next call is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the bell.
    Bell,
    /// By looking, for the first time: the other side must be woken on another processor.
    Begin(u32),
    /// By looking, so many turns at most.
    Look(u32),
    /// By looking, in turns with other threads of the sentry: the stubs have one half of the processors, the sentry the other.
    InTurns,
}

/// What became of the last call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Last {
    /// The thread blocked in the kernel, so that its other half sleeps.
    pub blocked: bool,
    /// The other half was held at the doorbell, for operations or its registers, or because the thread blocked.
    pub held: bool,
    /// It has carried out operations.
    pub operated: bool,
    /// The other half is awake, and looks for an order.
    pub posted: bool,
}

/// What came of looking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A call.
    Call,
    /// Nothing, for as long as it was worth it.
    Nothing,
    /// Nothing, and another thread has begun to look.
    Displaced,
}

/// Whether to look at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Where it pays.
    #[default]
    Adaptive,
    /// At every call: for tests.
    Always,
    /// At every call, in turns with others: for tests.
    InTurns,
    /// At none: for tests.
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Calls until the next attempt to look.
    Bell(u32),
    Look,
    InTurns,
}

/// What a thread did in the last calls.
#[derive(Debug, Default)]
struct Habits {
    calls: u32,
    /// Before so many of them its stub had carried out operations.
    operated: u32,
    /// Before so many of them no processor was to spare.
    crowded: u32,
    since: u64,
}

/// One guest thread's experience.
#[derive(Debug)]
pub struct Spin {
    policy: Policy,
    mode: Mode,
    pause: u32,
    successes: u32,
    /// The last of them in a row.
    row: u32,
    strikes: u32,
    /// The last look ended because others had begun one: that is no failure.
    displaced: bool,
    habits: Habits,
    /// It called often in the last window.
    was_frequent: bool,
    /// Windows until the next attempt to look in turns, and how many it will be after the next failure.
    rest: u32,
    next_rest: u32,
}

impl Spin {
    /// Of a new thread.
    pub fn new(policy: Policy) -> Spin {
        Spin {
            policy,
            mode: Mode::Bell(PAUSE),
            pause: PAUSE,
            successes: 0,
            row: 0,
            strikes: 0,
            displaced: false,
            habits: Habits::default(),
            was_frequent: false,
            rest: 0,
            next_rest: REST,
        }
    }

    /// How to wait for the next call.
    pub fn way(&mut self, activity: &Activity, last: Last) -> Way {
        match self.policy {
            Policy::Adaptive => {}
            Policy::Always => return Way::Begin(FIRST_TURNS),
            Policy::InTurns => return Way::InTurns,
            Policy::Never => return Way::Bell,
        }
        let load = activity.load();
        let Last { blocked, held, operated, posted } = last;
        self.observe(activity, operated);
        match &mut self.mode {
            Mode::Bell(0) if load.has_spare() => {
                self.begin(Mode::Look);
                Way::Begin(FIRST_TURNS)
            }
            Mode::Bell(n) => {
                *n = if blocked { self.pause } else { n.saturating_sub(1) };
                Way::Bell
            }
            Mode::Look if blocked || !load.has_spare() => {
                self.stop();
                Way::Bell
            }
            Mode::Look if posted => Way::Look(TURNS),
            // It has lost patience and sleeps: woken on this processor, it would wait for us to sleep.
            Mode::Look => {
                self.strike();
                if self.mode == Mode::Look { Way::Begin(FIRST_TURNS) } else { Way::Bell }
            }
            Mode::InTurns => {
                if !(std::mem::take(&mut self.displaced) || posted || blocked || held) {
                    self.strike();
                }
                if self.mode == Mode::InTurns {
                    Way::InTurns
                } else {
                    activity.set_turning(false);
                    Way::Bell
                }
            }
        }
    }

    /// Looks at the thread's habits every [`WINDOW`] calls: one that calls often and seldom leaves the sandbox without anything to do looks in turns
    /// with others of its kind, where there are more of them than processors.
    fn observe(&mut self, activity: &Activity, operated: bool) {
        let load = activity.load();
        if self.habits.since == 0 {
            self.habits.since = host::time::monotonic_ns();
            activity.take_waited();
            self.follow(activity);
        }
        let h = &mut self.habits;
        h.calls += 1;
        h.operated += u32::from(operated);
        h.crowded += u32::from(!load.has_spare());
        if h.calls < WINDOW {
            return;
        }
        let now = host::time::monotonic_ns();
        let waited = activity.take_waited();
        // What the others' share of the processors takes is not its own, nor what it waits for.
        let own = now.saturating_sub(h.since).saturating_sub(waited.ns);
        let is_frequent = own < FREQUENT * load.crowd() && (h.operated + waited.idle) * CALLS_PER_WAIT <= WINDOW;
        let is_crowded = (h.crowded + waited.times - waited.idle) * 4 >= WINDOW;
        self.habits = Habits { since: now, ..Habits::default() };
        // One window may just have had the time in which others ran.
        let was_frequent = std::mem::replace(&mut self.was_frequent, is_frequent);
        let is_frequent = is_frequent || was_frequent;
        activity.set_frequent(is_frequent);
        let may = is_frequent && load.has_pair();
        match self.mode {
            Mode::InTurns if !may => self.mode = Mode::Bell(self.pause),
            Mode::InTurns => {}
            _ if !(may && is_crowded) => {}
            _ if self.rest > 0 => self.rest -= 1,
            _ => self.begin(Mode::InTurns),
        }
        activity.set_turning(self.mode == Mode::InTurns);
    }

    /// A new thread does as those do that there are already, if it would have to before long.
    fn follow(&mut self, activity: &Activity) {
        let load = activity.load();
        if load.is_turning() && !load.has_spare() {
            activity.set_frequent(true);
            activity.set_turning(true);
            self.was_frequent = true;
            self.begin(Mode::InTurns);
        }
    }

    fn begin(&mut self, mode: Mode) {
        self.mode = mode;
        (self.successes, self.strikes, self.displaced) = (0, 0, false);
    }

    /// What looking has come to.
    pub fn result(&mut self, found: Found) {
        self.displaced = found == Found::Displaced;
        if found != Found::Call {
            // The other half will have to be woken: then it counts.
            if self.successes == 0 && self.mode == Mode::Look {
                self.stop();
            }
            return;
        }
        self.successes = self.successes.saturating_add(1);
        self.row = self.row.saturating_add(1);
        if self.row >= FORGIVEN {
            self.strikes = 0;
        }
        if self.successes >= PROVEN {
            match self.mode {
                Mode::InTurns => self.next_rest = REST,
                _ => self.pause = PAUSE,
            }
        }
    }

    fn strike(&mut self) {
        self.row = 0;
        self.strikes += 1;
        if self.strikes >= STRIKES {
            self.stop();
        }
    }

    fn stop(&mut self) {
        if std::mem::replace(&mut self.mode, Mode::Bell(self.pause)) == Mode::InTurns {
            self.rest = self.next_rest;
            self.next_rest = (self.next_rest * 4).min(LONGEST_REST);
        } else {
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activity::{Activity, Load};
    use crate::placement::Placement;
    use std::sync::Arc;

    const AWAKE: Last = Last { blocked: false, held: false, operated: false, posted: true };
    const ASLEEP: Last = Last { blocked: false, held: false, operated: false, posted: false };
    const BLOCKED: Last = Last { blocked: true, held: false, operated: false, posted: true };

    fn threads(load: &Arc<Load>, n: usize) -> Vec<Arc<Activity>> {
        let placement = Placement::new();
        let all: Vec<_> = (0..n).map(|_| Activity::new(load, &placement)).collect();
        all.iter().for_each(|a| a.set_running(true));
        all
    }

    #[test]
    fn tries_seldom_after_failures_and_never_without_a_processor() {
        let load = Load::new(2);
        let all = threads(&load, 1);
        let mut spin = Spin::new(Policy::Adaptive);
        let mut begun = Vec::new();
        for call in 0..100_000u32 {
            if matches!(spin.way(&all[0], AWAKE), Way::Begin(_)) {
                begun.push(call);
                spin.result(Found::Nothing);
            }
        }
        assert!(begun.len() < 12, "{begun:?}");
        // The other one makes no calls.
        let _other = threads(&load, 1);
        assert!((0..100_000).all(|_| spin.way(&all[0], AWAKE) == Way::Bell));
        let mut spin = Spin::new(Policy::Adaptive);
        assert!((0..100_000).all(|_| spin.way(&all[0], AWAKE) == Way::Bell));
    }

    #[test]
    fn goes_on_while_it_pays() {
        let load = Load::new(2);
        let one = threads(&load, 1).remove(0);
        let mut spin = Spin::new(Policy::Adaptive);
        while spin.way(&one, AWAKE) == Way::Bell {}
        for _ in 0..5000 {
            spin.result(Found::Call);
            assert_eq!(spin.way(&one, AWAKE), Way::Look(TURNS));
        }
        // Now and then it fails; then the other half must be woken elsewhere.
        for _ in 0..100 {
            spin.result(Found::Nothing);
            assert_eq!(spin.way(&one, ASLEEP), Way::Begin(FIRST_TURNS));
            (0..FORGIVEN).for_each(|_| spin.result(Found::Call));
            assert_eq!(spin.way(&one, AWAKE), Way::Look(TURNS));
        }
        // Every other time: that does not pay.
        let ways: Vec<Way> = (0..8)
            .map(|_| {
                spin.result(Found::Nothing);
                let way = spin.way(&one, ASLEEP);
                spin.result(Found::Call);
                way
            })
            .collect();
        assert_eq!(ways.last(), Some(&Way::Bell), "{ways:?}");
        let mut spin = Spin::new(Policy::Adaptive);
        while spin.way(&one, AWAKE) == Way::Bell {}
        spin.result(Found::Call);
        assert_eq!(spin.way(&one, BLOCKED), Way::Bell);
    }

    /// Lets both of two threads make calls until both look in turns, or not.
    fn both_divide(all: &[Arc<Activity>], spins: &mut [Spin], last: impl Fn(u32) -> Last) -> bool {
        (0..10 * WINDOW).any(|call| {
            let ways: Vec<Way> = all.iter().zip(&mut *spins).map(|(a, s)| s.way(a, last(call))).collect();
            ways.iter().all(|&w| w == Way::InTurns)
        })
    }

    #[test]
    fn looks_in_turns_where_all_call_often() {
        let new = || [Spin::new(Policy::Adaptive), Spin::new(Policy::Adaptive)];
        let load = Load::new(2);
        let all = threads(&load, 2);
        let mut spins = new();
        assert!(both_divide(&all, &mut spins, |_| AWAKE));
        for spin in &mut spins {
            // To be displaced, held or to wait now and then is no failure.
            for last in [AWAKE, BLOCKED, Last { held: true, ..ASLEEP }].repeat(3) {
                spin.result(Found::Call);
                assert_eq!(spin.way(&all[0], last), Way::InTurns);
            }
            spin.result(Found::Displaced);
            assert_eq!(spin.way(&all[0], ASLEEP), Way::InTurns);
        }
        // To be found asleep is one.
        let spin = &mut spins[0];
        assert!((0..STRIKES).any(|_| spin.way(&all[0], ASLEEP) == Way::Bell));
        all.iter().for_each(|a| a.set_turning(false));
        // One that has operations at every other call gains nothing.
        let operated = Last { held: true, operated: true, ..AWAKE };
        assert!(!both_divide(&all, &mut new(), |call| if call % 2 == 0 { operated } else { AWAKE }));
        all.iter().for_each(|a| a.set_turning(false));
        // With a third one that only computes there are no two processors for them; with two more processors there are.
        let _third = threads(&load, 1);
        assert!(!both_divide(&all, &mut new(), |_| AWAKE));
        let four = Load::new(4);
        let all = threads(&four, 3);
        let _computing = threads(&four, 2);
        let mut spins = [Spin::new(Policy::Adaptive), Spin::new(Policy::Adaptive), Spin::new(Policy::Adaptive)];
        assert!(both_divide(&all, &mut spins, |_| AWAKE));
    }

    /// Whether a thread comes to look in turns that waits before each call, `long` or not at all, while others have something to do or not.
    fn divides(cpus: usize, others: usize, wait: std::time::Duration) -> bool {
        let load = Load::new(cpus);
        let all = threads(&load, others + 1);
        all.iter().skip(1).for_each(|a| a.set_frequent(true));
        let mut spin = Spin::new(Policy::Adaptive);
        (0..5 * WINDOW).any(|_| {
            all[0].set_running(false);
            std::thread::sleep(wait);
            all[0].set_running(true);
            spin.way(&all[0], BLOCKED) == Way::InTurns
        })
    }

    #[test]
    fn waits_are_no_reason_against_it_unless_processors_sleep() {
        let long = std::time::Duration::from_millis(1);
        assert!(divides(2, 1, long));
        assert!(!divides(2, 0, long));
    }

    #[test]
    fn new_threads_follow_the_others() {
        let load = Load::new(2);
        let all = threads(&load, 3);
        assert_eq!(Spin::new(Policy::Adaptive).way(&all[0], AWAKE), Way::Bell);
        all[1].set_turning(true);
        assert_eq!(Spin::new(Policy::Adaptive).way(&all[0], AWAKE), Way::InTurns);
        all[1].set_turning(false);
        all[0].set_turning(false);
        assert_eq!(Spin::new(Policy::Adaptive).way(&all[2], AWAKE), Way::Bell);
    }
}
