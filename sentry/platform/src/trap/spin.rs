//! When the sentry looks for a stub thread's next call instead of sleeping until it rings.
//!
//! Looking is several times cheaper where a processor is to spare, and ruinous where none is. So a thread must have shown that it
//! calls often, no other guest thread may want the processor, and each failure makes the next attempt rarer.

use crate::activity::Load;

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

/// How the next call is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the bell.
    Bell,
    /// By looking, for the first time: the other side must be woken on another processor.
    Begin(u32),
    /// By looking, so many turns at most.
    Look(u32),
}

/// Whether to look at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Where it pays.
    #[default]
    Adaptive,
    /// At every call: for tests.
    Always,
    /// At none: for tests.
    Never,
}

/// One guest thread's experience.
#[derive(Debug)]
pub struct Spin {
    policy: Policy,
    /// Calls until the next attempt; `None`: it is on.
    wait: Option<u32>,
    pause: u32,
    successes: u32,
    /// The last of them in a row.
    row: u32,
    strikes: u32,
}

impl Spin {
    /// Of a new thread.
    pub fn new(policy: Policy) -> Spin {
        Spin { policy, wait: Some(PAUSE), pause: PAUSE, successes: 0, row: 0, strikes: 0 }
    }

    /// How to wait for the next call. `blocked`: the thread blocked in the kernel before it, so that its other half sleeps; `posted`: its
    /// other half is awake, and looks for an order.
    pub fn way(&mut self, load: &Load, blocked: bool, posted: bool) -> Way {
        match self.policy {
            Policy::Adaptive => {}
            Policy::Always => return Way::Begin(FIRST_TURNS),
            Policy::Never => return Way::Bell,
        }
        match &mut self.wait {
            Some(0) if load.has_spare() => {
                self.wait = None;
                (self.successes, self.strikes) = (0, 0);
                Way::Begin(FIRST_TURNS)
            }
            Some(n) => {
                *n = if blocked { self.pause } else { n.saturating_sub(1) };
                Way::Bell
            }
            None if blocked || !load.has_spare() => {
                self.stop();
                Way::Bell
            }
            None if posted => Way::Look(TURNS),
            // It has lost patience and sleeps: woken on this processor, it would wait for us to sleep.
            None => {
                self.strike();
                if self.wait.is_some() { Way::Bell } else { Way::Begin(FIRST_TURNS) }
            }
        }
    }

    /// Whether looking has found the call.
    pub fn result(&mut self, found: bool) {
        if !found {
            // The other half will have to be woken: then it counts.
            if self.successes == 0 {
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
            self.pause = PAUSE;
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
        self.wait = Some(self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activity::{Activity, Load};

    #[test]
    fn tries_seldom_after_failures_and_never_without_a_processor() {
        let load = Load::new(2);
        let mut spin = Spin::new(Policy::Adaptive);
        let mut begun = Vec::new();
        for call in 0..100_000u32 {
            if matches!(spin.way(&load, false, true), Way::Begin(_)) {
                begun.push(call);
                spin.result(false);
            }
        }
        assert!(begun.len() < 12, "{begun:?}");
        let placement = crate::placement::Placement::new();
        let all: Vec<_> = (0..2).map(|_| Activity::new(&load, &placement)).collect();
        all.iter().for_each(|a| a.set_running(true));
        assert!((0..100_000).all(|_| spin.way(&load, false, true) == Way::Bell));
        let mut spin = Spin::new(Policy::Adaptive);
        assert!((0..100_000).all(|_| spin.way(&load, false, true) == Way::Bell));
    }

    #[test]
    fn goes_on_while_it_pays() {
        let load = Load::new(2);
        let mut spin = Spin::new(Policy::Adaptive);
        while spin.way(&load, false, true) == Way::Bell {}
        for _ in 0..5000 {
            spin.result(true);
            assert_eq!(spin.way(&load, false, true), Way::Look(TURNS));
        }
        // Now and then it fails; then the other half must be woken elsewhere.
        for _ in 0..100 {
            spin.result(false);
            assert_eq!(spin.way(&load, false, false), Way::Begin(FIRST_TURNS));
            (0..FORGIVEN).for_each(|_| spin.result(true));
            assert_eq!(spin.way(&load, false, true), Way::Look(TURNS));
        }
        // Every other time: that does not pay.
        let ways: Vec<Way> = (0..8)
            .map(|_| {
                spin.result(false);
                let way = spin.way(&load, false, false);
                spin.result(true);
                way
            })
            .collect();
        assert_eq!(ways.last(), Some(&Way::Bell), "{ways:?}");
        let mut spin = Spin::new(Policy::Adaptive);
        while spin.way(&load, false, true) == Way::Bell {}
        spin.result(true);
        assert_eq!(spin.way(&load, true, true), Way::Bell);
    }
}
