//! [`PendingQueue`]: signals that were sent and not yet taken (`struct sigpending`).

use abi::signal::{SI_USER, SigInfo, SigSet, Signal};
use std::collections::VecDeque;

/// Signals that a fault of the thread itself causes: they are delivered before others, so that the frame shows the fault.
pub const SYNCHRONOUS: SigSet = SigSet(
    Signal::SEGV.bit().0 | Signal::BUS.bit().0 | Signal::ILL.bit().0 | Signal::TRAP.bit().0 | Signal::FPE.bit().0 | Signal::SYS.bit().0,
);

/// Pending signals of a thread or of a whole process. Standard signals are pending once, real-time signals queue.
#[derive(Clone, Debug, Default)]
pub struct PendingQueue {
    set: SigSet,
    queue: VecDeque<SigInfo>,
}

impl PendingQueue {
    /// Which signals are pending.
    #[must_use]
    pub fn set(&self) -> SigSet {
        self.set
    }

    /// Queued entries, which RLIMIT_SIGPENDING limits.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether nothing is pending.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// Adds a signal with its information. The caller has dropped repeated standard signals.
    pub fn push(&mut self, sig: Signal, info: SigInfo) {
        self.set.add(sig);
        self.queue.push_back(info);
    }

    /// Makes a signal pending without information: the queue is full, but a standard signal is never lost.
    pub fn mark(&mut self, sig: Signal) {
        self.set.add(sig);
    }

    /// Drops every pending signal of `mask`; returns how many queue entries that freed.
    pub fn remove(&mut self, mask: SigSet) -> usize {
        if self.set.minus(self.set.minus(mask)).is_empty() {
            return 0;
        }
        self.set = self.set.minus(mask);
        let before = self.queue.len();
        self.queue.retain(|i| !Signal::new(i.signo as u64).is_some_and(|s| mask.contains(s)));
        before - self.queue.len()
    }

    /// Drops the entries that `matches` accepts (a POSIX timer's, when it is deleted).
    pub fn remove_if(&mut self, matches: impl Fn(&SigInfo) -> bool) {
        let (mut gone, mut left) = (SigSet::EMPTY, SigSet::EMPTY);
        self.queue.retain(|i| {
            let Some(s) = Signal::new(i.signo as u64) else { return false };
            if matches(i) {
                gone.add(s);
                return false;
            }
            left.add(s);
            true
        });
        self.set = self.set.minus(gone.minus(left));
    }

    /// The signal that would be taken next, of those not in `blocked`.
    #[must_use]
    pub fn next(&self, blocked: SigSet) -> Option<Signal> {
        let ready = self.set.minus(blocked);
        let synchronous = ready.minus(ready.minus(SYNCHRONOUS));
        synchronous.first().or_else(|| ready.first())
    }

    /// Takes the first entry of `sig`.
    pub fn take(&mut self, sig: Signal) -> Option<SigInfo> {
        if !self.set.contains(sig) {
            return None;
        }
        let number = i32::from(sig.number());
        let at = self.queue.iter().position(|i| i.signo == number);
        let info = at.and_then(|i| self.queue.remove(i));
        if !self.queue.iter().any(|i| i.signo == number) {
            self.set.remove(sig);
        }
        // What was only marked carries no information (Linux's collect_signal does the same).
        Some(info.unwrap_or_else(|| SigInfo::user(sig, SI_USER, 0, 0)))
    }

    /// Takes the next signal not in `blocked`.
    pub fn dequeue(&mut self, blocked: SigSet) -> Option<(Signal, SigInfo)> {
        let sig = self.next(blocked)?;
        self.take(sig).map(|info| (sig, info))
    }

    /// Calls `f` on queued entries of this signal.
    pub fn find_mut(&mut self, sig: Signal, matches: impl Fn(&SigInfo) -> bool) -> Option<&mut SigInfo> {
        let number = i32::from(sig.number());
        self.queue.iter_mut().find(|i| i.signo == number && matches(i))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_before_realtime_and_faults_first() {
        let mut q = PendingQueue::default();
        let rt = Signal::new(40).expect("signal");
        for (sig, code) in [(rt, 1), (rt, 2), (Signal::HUP, 0), (Signal::SEGV, 3)] {
            q.push(sig, SigInfo::new(sig, code));
        }
        assert_eq!(q.len(), 4);
        let order: Vec<(u8, i32)> = std::iter::from_fn(|| q.dequeue(SigSet::EMPTY)).map(|(s, i)| (s.number(), i.code)).collect();
        assert_eq!(order, [(11, 3), (1, 0), (40, 1), (40, 2)]);
        assert!(q.is_empty());
    }

    #[test]
    fn blocked_and_removed_signals_are_not_taken() {
        let mut q = PendingQueue::default();
        q.push(Signal::INT, SigInfo::new(Signal::INT, 0));
        q.mark(Signal::TERM);
        assert_eq!(q.dequeue(SigSet::ALL), None);
        assert_eq!(q.remove(Signal::INT.bit()), 1);
        let (sig, info) = q.dequeue(SigSet::EMPTY).expect("TERM");
        assert_eq!((sig, info.code), (Signal::TERM, SI_USER));
        assert!(q.dequeue(SigSet::EMPTY).is_none());
    }
}
