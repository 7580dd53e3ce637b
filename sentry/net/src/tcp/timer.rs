//! What happens when nothing arrives.

use super::{Ack, Signals, State, Tcb, Wire};
use abi::Errno;

/// Retransmissions of a FIN that nobody waits for (`tcp_orphan_retries`).
const ORPHAN_RETRIES: u32 = 8;

impl Tcb {
    /// When [`on_timer`](Self::on_timer) is to be called.
    pub fn deadline(&self) -> Option<u64> {
        let ack = match self.ack {
            Ack::By(at) => Some(at),
            _ => None,
        };
        let corked = self.cork_at.filter(|&at| at != 0);
        [self.rto_at, self.probe_at, self.reorder_at, self.persist_at, self.keep_at, self.end_at, corked, ack].into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn on_timer(&mut self, now: u64, wire: &mut dyn Wire) -> Signals {
        let mut signals = Signals::default();
        let due = |at: Option<u64>| at.is_some_and(|at| at <= now);
        if self.state == State::Closed {
            return Signals { closed: true, ..signals };
        }
        if due(self.end_at) {
            self.kill();
            return Signals { closed: true, ..signals };
        }
        if matches!(self.ack, Ack::By(at) if at <= now) {
            self.ack = Ack::Now;
            // An application that does not answer at once: quick acknowledgements do not help it.
            self.quick_acks = 0;
        }
        if due(self.cork_at) {
            // Zero: the next small segment may go.
            self.cork_at = Some(0);
        }
        if due(self.reorder_at) {
            self.reorder_at = None;
            self.detect_loss(now);
        }
        if due(self.probe_at) {
            self.probe_at = None;
            self.tail_probe(now, wire);
        } else if due(self.rto_at) {
            signals.merge(self.retransmission_timeout(now));
        }
        if due(self.persist_at) {
            signals.merge(self.persist(now, wire));
        }
        if due(self.keep_at) {
            signals.merge(self.keepalive(now, wire));
        }
        self.output(now, wire);
        signals
    }

    fn give_up(&mut self, error: Errno) -> Signals {
        self.kill();
        Signals { error: Some(error), closed: true, readable: true, writable: true, ..Signals::default() }
    }

    fn tail_probe(&mut self, now: u64, _wire: &mut dyn Wire) {
        // The last segment again; its acknowledgement, or a SACK, tells what is missing.
        let Some(last) = self.sent.len().checked_sub(1) else { return };
        let Some(s) = self.sent.get(last).copied() else { return };
        if s.sacked || s.lost {
            return;
        }
        let keep = s.len.saturating_sub(self.mss);
        self.split(last, keep);
        if let Some(s) = self.sent.back_mut() {
            s.lost = true;
            self.flight -= s.len;
        }
        self.rto_at = Some(now + self.rtt.timeout());
    }

    fn retransmission_timeout(&mut self, now: u64) -> Signals {
        self.rto_at = None;
        if self.sent.is_empty() {
            return Signals::default();
        }
        self.counters.timeouts = self.counters.timeouts.wrapping_add(1);
        let limit = match self.state {
            State::SynSent => self.config.syn_retries,
            State::SynReceived => self.config.synack_retries,
            _ if self.orphan => ORPHAN_RETRIES,
            _ => self.config.retries,
        };
        let since = *self.stuck_since.get_or_insert(self.sent.front().map_or(now, |s| s.at));
        let overdue = self.config.user_timeout.is_some_and(|t| now.saturating_sub(since) >= t);
        if overdue || self.rtt.backoff >= limit && self.config.user_timeout.is_none() {
            return self.give_up(Errno::ETIMEDOUT);
        }
        let again = self.recovery.is_some_and(|(_, timeout)| timeout);
        if self.synchronized() {
            self.congestion.on_timeout(self.flight, self.mss, again);
            self.recovery = Some((self.snd_nxt, true));
        }
        self.mark_all_lost();
        self.rtt.backoff += 1;
        let mut at = now + self.rtt.timeout();
        if let Some(t) = self.config.user_timeout {
            at = at.min(since + t).max(now + 1_000_000);
        }
        self.rto_at = Some(at);
        Signals::default()
    }

    fn persist(&mut self, now: u64, wire: &mut dyn Wire) -> Signals {
        self.persist_backoff += 1;
        let overdue = self.config.user_timeout.is_some_and(|t| now.saturating_sub(self.last_received) >= t);
        if overdue || self.orphan && self.persist_backoff > ORPHAN_RETRIES {
            return self.give_up(Errno::ETIMEDOUT);
        }
        self.emit_probe(now, wire);
        self.persist_at = Some(now + self.persist_wait());
        Signals::default()
    }

    fn keepalive(&mut self, now: u64, wire: &mut dyn Wire) -> Signals {
        let Some((idle, interval, probes)) = self.config.keepalive else {
            self.keep_at = None;
            return Signals::default();
        };
        let quiet = now.saturating_sub(self.last_received);
        if quiet < idle || !self.sent.is_empty() {
            self.keep_sent = 0;
            self.keep_at = Some(self.last_received.max(now.saturating_sub(idle)) + idle);
            if self.keep_at <= Some(now) {
                self.keep_at = Some(now + interval.max(1_000_000));
            }
            return Signals::default();
        }
        if self.keep_sent >= probes || self.config.user_timeout.is_some_and(|t| quiet >= t && self.keep_sent > 0) {
            self.emit_plain(super::flag::RST | super::flag::ACK, self.snd_nxt, wire);
            return self.give_up(Errno::ETIMEDOUT);
        }
        self.keep_sent += 1;
        self.emit_probe(now, wire);
        self.keep_at = Some(now + interval.max(1_000_000));
        Signals::default()
    }
}
