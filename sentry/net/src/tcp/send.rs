//! What leaves: new data, retransmissions, acknowledgements, and the record of what is on its way.

use super::{
    Ack, SCALE, State, Tcb, Wire,
    segment::{Options, Outgoing, flag},
    seq,
};

/// A piece of the sequence space that was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub seq: u32,
    pub len: u32,
    /// When last.
    pub at: u64,
    /// It was sent more than once.
    pub again: bool,
    /// The peer has it.
    pub sacked: bool,
    /// It is believed lost and has not been sent again yet.
    pub lost: bool,
}

impl Sent {
    pub fn end(&self) -> u32 {
        self.seq.wrapping_add(self.len)
    }
}

/// RFC 8985: the segment sent last among those that have arrived.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rack {
    pub at: u64,
    pub end: u32,
    /// Its round-trip time.
    pub rtt: u64,
    /// The highest sequence number that has arrived.
    pub highest: u32,
    /// Something arrived out of the order in which it was sent.
    pub reordering: bool,
    /// Widens the tolerance each time a loss was found wrongly.
    pub factor: u32,
    pub valid: bool,
}

impl Tcb {
    pub(super) fn push_sent(&mut self, seq: u32, len: u32, now: u64) {
        self.sent.push_back(Sent { seq, len, at: now, again: false, sacked: false, lost: false });
        self.flight += len;
        self.snd_nxt = seq::max(self.snd_nxt, seq.wrapping_add(len));
        if self.rto_at.is_none() {
            self.rto_at = Some(now + self.rtt.timeout());
        }
        self.last_sent = now;
    }

    /// Puts the SYN back: to be (re)sent by the next output.
    pub(super) fn sent_back(&mut self, seq: u32, _now: u64) {
        if let Some(s) = self.sent.iter_mut().find(|s| s.seq == seq && !s.lost) {
            s.lost = true;
            self.flight -= s.len;
        }
    }

    /// Everything that the peer has not is to be sent again.
    pub(super) fn mark_all_lost(&mut self) {
        for s in &mut self.sent {
            if !s.sacked && !s.lost {
                s.lost = true;
                self.flight -= s.len;
            }
        }
    }

    /// The window to tell, as it is written; moves the edge that the peer knows. It never shrinks.
    fn window(&mut self) -> u16 {
        let free = self.free();
        let old = seq::span(self.rcv_nxt, self.rcv_edge);
        // Silly windows: small steps are not worth telling (RFC 1122, 4.2.3.3).
        let least = (self.config.receive_buffer as u32 / 2).min(self.mss * 2);
        let new = if free >= old + least || free > self.config.receive_buffer as u32 / 2 { free.max(old) } else { old };
        let scaled = (new >> self.rcv_scale).min(65_535);
        self.rcv_edge = seq::max(self.rcv_edge, self.rcv_nxt.wrapping_add(scaled << self.rcv_scale));
        scaled as u16
    }

    fn time(&self, now: u64) -> Option<(u32, u32)> {
        self.time_ok.then_some(((now / 1_000_000) as u32, self.ts_recent))
    }

    fn emit(&mut self, flags: u8, seq: u32, now: u64, data: &[&[u8]], wire: &mut dyn Wire) {
        let mut options = Options { time: self.time(now), ..Options::default() };
        let window = if flags & flag::SYN != 0 {
            options.mss = Some(self.config.mss);
            options.sack_ok = self.sack_ok;
            let offers = self.state == State::SynSent || self.rcv_scale != 0;
            options.scale = offers.then_some(SCALE);
            // Not scaled in a SYN.
            let w = self.free().min(65_535);
            self.rcv_edge = seq::max(self.rcv_edge, self.rcv_nxt.wrapping_add(w));
            w as u16
        } else {
            if self.sack_ok {
                self.fill_sack(&mut options);
            }
            self.window()
        };
        let ack = if flags & flag::ACK != 0 { self.rcv_nxt } else { 0 };
        self.counters.segments_out = self.counters.segments_out.wrapping_add(1);
        if flags & flag::ACK != 0 {
            self.ack = Ack::No;
            self.unacked_bytes = 0;
            self.last_ack_sent = self.rcv_nxt;
            self.duplicate = None;
        }
        wire.send(&Outgoing { seq, ack, flags, window, options, mss: self.mss as u16 }, data);
    }

    /// A segment without data or timestamps of now: resets.
    pub(super) fn emit_plain(&mut self, flags: u8, seq: u32, wire: &mut dyn Wire) {
        let out = Outgoing { seq, ack: self.rcv_nxt, flags, window: 0, options: Options::default(), mss: 0 };
        self.counters.segments_out = self.counters.segments_out.wrapping_add(1);
        wire.send(&out, &[]);
    }

    /// A segment that only asks for an answer (keepalive, zero-window probe): one number before what is expected.
    pub(super) fn emit_probe(&mut self, now: u64, wire: &mut dyn Wire) {
        self.emit(flag::ACK, self.snd_una.wrapping_sub(1), now, &[], wire);
    }

    /// Sends all that may be sent now.
    pub fn output(&mut self, now: u64, wire: &mut dyn Wire) {
        match self.state {
            State::Closed => return,
            State::SynSent | State::SynReceived => return self.output_syn(now, wire),
            _ => {}
        }
        self.output_lost(now, wire);
        self.output_new(now, wire);
        if self.ack == Ack::Now {
            self.emit(flag::ACK, self.snd_nxt, now, &[], wire);
        }
        self.arm(now);
    }

    fn output_syn(&mut self, now: u64, wire: &mut dyn Wire) {
        let Some(s) = self.sent.front_mut().filter(|s| s.lost) else {
            if self.ack == Ack::Now {
                self.emit(flag::ACK, self.snd_nxt, now, &[], wire);
            }
            return;
        };
        (s.lost, s.again) = (false, s.at != now || s.again);
        s.at = now;
        let (seq, len) = (s.seq, s.len);
        self.flight += len;
        let flags = if self.state == State::SynSent { flag::SYN } else { flag::SYN | flag::ACK };
        self.emit(flags, seq, now, &[], wire);
        self.rto_at = Some(now + self.rtt.timeout());
    }

    /// What may still enter the network.
    fn room(&self) -> u32 {
        self.congestion.window.saturating_sub(self.flight)
    }

    /// Sends data of `seq..seq+len` with the FIN if it reaches that far.
    fn emit_data(&mut self, seq: u32, len: u32, now: u64, wire: &mut dyn Wire) {
        let at = seq::span(self.data_start(), seq) as usize;
        let bytes = (len as usize).min(self.out.len().saturating_sub(at));
        let fin = (bytes as u32) < len;
        let all = at + bytes >= self.out.len();
        let flags = flag::ACK | if fin { flag::FIN } else { 0 } | if all && bytes > 0 { flag::PSH } else { 0 };
        self.counters.bytes_sent += bytes as u64;
        // The queue is lent to the wire while the rest of this block is changed.
        let out = std::mem::take(&mut self.out);
        let parts: Vec<&[u8]> = out.slices(at, bytes).collect();
        self.emit(flags, seq, now, &parts, wire);
        self.out = out;
    }

    fn output_lost(&mut self, now: u64, wire: &mut dyn Wire) {
        let mut i = 0;
        let most = self.most(wire);
        while let Some(&s) = self.sent.get(i) {
            i += 1;
            if !s.lost {
                continue;
            }
            let room = self.room();
            if room < self.mss.min(s.len) && self.flight > 0 {
                break;
            }
            // As much as fits, in whole segments; the rest stays a piece of its own.
            let fit = room.max(self.mss);
            let len = s.len.min(most).min(if fit >= s.len { s.len } else { fit - fit % self.mss });
            if len < s.len {
                self.split(i - 1, len);
            }
            let Some(part) = self.sent.get_mut(i - 1) else { break };
            (part.lost, part.again, part.at) = (false, true, now);
            let seq = part.seq;
            self.flight += len;
            self.congestion.sent_in_recovery(len);
            self.counters.retransmitted = self.counters.retransmitted.wrapping_add(len.div_ceil(self.mss.max(1)));
            self.emit_data(seq, len, now, wire);
            if self.rto_at.is_none() {
                self.rto_at = Some(now + self.rtt.timeout());
            }
            self.last_sent = now;
        }
    }

    /// Cuts piece `i` after `len` bytes.
    pub(super) fn split(&mut self, i: usize, len: u32) {
        if let Some(s) = self.sent.get_mut(i)
            && len > 0
            && len < s.len
        {
            let rest = Sent { seq: s.seq.wrapping_add(len), len: s.len - len, ..*s };
            s.len = len;
            self.sent.insert(i + 1, rest);
        }
    }

    /// The most data that one call to the wire may carry: whole segments.
    fn most(&self, wire: &dyn Wire) -> u32 {
        let most = wire.most() as u32;
        (most - most % self.mss).max(self.mss)
    }

    fn output_new(&mut self, now: u64, wire: &mut dyn Wire) {
        if self.fin_sent && self.unsent() == 0 {
            return;
        }
        let idle = self.sent.is_empty();
        if idle && self.last_sent != 0 && now.saturating_sub(self.last_sent) > self.rtt.timeout() && self.unsent() > 0 {
            self.congestion.after_idle(self.mss);
        }
        let most = self.most(wire);
        loop {
            let unsent = self.unsent() as u32;
            let edge = self.snd_una.wrapping_add(self.snd_wnd);
            let window = seq::span(self.snd_nxt, edge);
            let allowed = unsent.min(window).min(self.room()).min(most);
            let fin_now = self.fin_wanted && !self.fin_sent && allowed == unsent && (window > unsent || unsent == 0);
            if allowed == 0 && !fin_now {
                break;
            }
            let mut len = allowed;
            if len < unsent {
                // Not all of it: whole segments, or half of the largest window that the peer ever had.
                if len >= self.mss {
                    len -= len % self.mss;
                } else if len < self.max_wnd / 2 || !self.sent.is_empty() {
                    break;
                }
            } else if len > self.mss && !fin_now && self.hold_small() {
                len -= len % self.mss;
            } else if len < self.mss && !fin_now && self.hold_small() {
                if self.config.cork && self.cork_at.is_none() {
                    self.cork_at = Some(now + 200_000_000);
                }
                break;
            }
            if len == 0 && !fin_now {
                break;
            }
            self.cork_at = None;
            let fin = fin_now && len == unsent;
            let seq = self.snd_nxt;
            let total = len + u32::from(fin);
            self.push_sent(seq, total, now);
            if len % self.mss != 0 {
                self.small = Some(seq.wrapping_add(len));
            }
            self.fin_sent |= fin;
            if self.recovery.is_some() {
                self.congestion.sent_in_recovery(total);
            }
            self.emit_data(seq, total, now, wire);
        }
    }

    /// Whether a segment that is not full has to wait: corked, or something small is not acknowledged yet (RFC 896).
    fn hold_small(&self) -> bool {
        if self.config.cork {
            return self.cork_at != Some(0);
        }
        // Minshall's variant: only an earlier small segment holds one back.
        !self.config.nodelay && self.small.is_some_and(|end| seq::lt(self.snd_una, end))
    }

    /// TCP_NODELAY was set or TCP_CORK cleared: what was held goes out.
    pub fn push(&mut self, now: u64, wire: &mut dyn Wire) {
        let nodelay = std::mem::replace(&mut self.config.nodelay, true);
        self.output(now, wire);
        self.config.nodelay = nodelay;
    }

    /// Sets the timers that depend on what is on its way.
    pub(super) fn arm(&mut self, now: u64) {
        if self.sent.is_empty() {
            self.rto_at = None;
            self.probe_at = None;
            self.reorder_at = None;
            self.stuck_since = None;
        }
        // A tail loss probe, where nothing else would notice (RFC 8985, 7).
        let quiet = self.recovery.is_none() && self.synchronized() && !self.sent.is_empty();
        if quiet && self.rtt.smoothed != 0 && self.rtt.backoff == 0 && self.sacked == 0 {
            let wait = 2 * self.rtt.smoothed + if self.flight <= self.mss { 40_000_000 } else { 2_000_000 };
            let at = self.last_sent.max(self.rack.at) + wait;
            let at = at.max(now + 1_000_000);
            self.probe_at = if self.probe_done() { None } else { Some(self.rto_at.map_or(at, |r| r.min(at))) };
        } else {
            self.probe_at = None;
        }
        let blocked = self.snd_wnd == 0 && self.sent.is_empty() && (self.unsent() > 0 || self.fin_wanted && !self.fin_sent);
        if !blocked {
            self.persist_at = None;
            self.persist_backoff = 0;
        } else if self.persist_at.is_none() {
            self.persist_at = Some(now + self.persist_wait());
        }
        if self.keep_at.is_none() && self.config.keepalive.is_some() && self.synchronized() {
            self.arm_keepalive(now);
        }
    }

    /// Whether the last segment was sent again already.
    fn probe_done(&self) -> bool {
        self.sent.back().is_some_and(|s| s.again)
    }

    pub(super) fn persist_wait(&self) -> u64 {
        self.rtt.timeout().saturating_mul(1 << self.persist_backoff.min(9)).min(120_000_000_000)
    }

    pub(super) fn arm_keepalive(&mut self, now: u64) {
        self.keep_sent = 0;
        self.keep_at = self.config.keepalive.map(|(idle, ..)| self.last_received.max(now) + idle);
    }

    /// `SO_KEEPALIVE` or its times were changed.
    pub fn rearm_keepalive(&mut self, now: u64) {
        self.keep_at = None;
        if self.synchronized() && self.state != State::TimeWait {
            self.arm_keepalive(now);
        }
    }

    /// SACK blocks: a duplicate first (RFC 2883), then the one that changed last, then the others.
    fn fill_sack(&self, o: &mut Options) {
        let add = |o: &mut Options, block: (u32, u32)| {
            if let Some(slot) = o.sack.get_mut(o.sacks) {
                *slot = block;
                o.sacks += 1;
            }
        };
        if let Some(d) = self.duplicate {
            add(o, d);
        }
        if self.early.is_empty() {
            return;
        }
        let mut blocks: Vec<(u32, u32)> = Vec::new();
        for (at, data) in &self.early {
            let end = at.wrapping_add(data.len() as u32);
            match blocks.last_mut() {
                Some(last) if last.1 == *at => last.1 = end,
                _ => blocks.push((*at, end)),
            }
        }
        if let Some(i) = blocks.iter().position(|b| seq::le(b.0, self.latest) && seq::lt(self.latest, b.1)) {
            let b = blocks.remove(i);
            add(o, b);
        }
        for b in blocks {
            add(o, b);
        }
    }
}
