//! What arrives: the checks of RFC 9293, 3.10.7, in its order; acknowledgements and loss detection; reassembly.

use super::{
    Ack, GROW_MAX, Signals, State, TIME_WAIT, Tcb, Wire,
    segment::{Segment, flag},
    seq,
    stream::{PIECE, Stream},
};
use abi::Errno;

/// The longest delay of an acknowledgement.
const DELAY: u64 = 40_000_000;
/// Separate pieces that are kept out of order.
const EARLY_MAX: usize = 4096;
/// Challenge ACKs are at least this far apart.
const CHALLENGE: u64 = 1_000_000;

impl Tcb {
    /// Room in the receive buffer: what the window may be. Memory held out of order counts.
    pub(super) fn free(&self) -> u32 {
        let used = self.unread + self.early_bytes;
        u32::try_from(self.config.receive_buffer.saturating_sub(used)).unwrap_or(u32::MAX)
    }

    /// The application has read `n` bytes. Whether the peer should hear of the room: then call [`output`](Self::output).
    pub fn read(&mut self, n: usize, now: u64) -> bool {
        self.unread = self.unread.saturating_sub(n);
        if self.config.grow {
            self.drs.0 += n;
            let since = now.saturating_sub(self.drs.1);
            if since >= self.rtt.smoothed.max(1_000_000) {
                // More than half a buffer in one round trip: the buffer is what limits the sender.
                if self.drs.0 > self.config.receive_buffer / 2 && since < 4 * self.rtt.smoothed.max(1_000_000) {
                    self.config.receive_buffer = (self.config.receive_buffer * 2).min(GROW_MAX);
                }
                self.drs = (0, now);
            }
        }
        if self.finished_reading() || !self.synchronized() {
            return false;
        }
        let known = seq::span(self.rcv_nxt, self.rcv_edge);
        let step = (self.config.receive_buffer as u32 / 2).min(2 * self.mss);
        let better = self.free() >= known.saturating_add(step);
        if better && (known < self.config.receive_buffer as u32 / 2 || self.unread == 0 && known < self.free() / 2) {
            self.ack = Ack::Now;
            return true;
        }
        false
    }

    /// A segment has arrived. In-order data goes to `into`. Call [`output`](Self::output) when all that is there has been handed in.
    pub fn on_segment(&mut self, s: &Segment<'_>, now: u64, into: &mut Stream, wire: &mut dyn Wire) -> Signals {
        self.counters.segments_in = self.counters.segments_in.wrapping_add(1);
        match self.state {
            State::Closed => Signals::default(),
            State::SynSent => self.in_syn_sent(s, now, wire),
            _ => self.in_others(s, now, into, wire),
        }
    }

    fn in_syn_sent(&mut self, s: &Segment<'_>, now: u64, wire: &mut dyn Wire) -> Signals {
        let acks = s.has(flag::ACK);
        if acks && (seq::le(s.ack, self.iss) || seq::lt(self.snd_nxt, s.ack)) {
            if !s.has(flag::RST) {
                self.emit_plain(flag::RST, s.ack, wire);
            }
            return Signals::default();
        }
        if s.has(flag::RST) {
            if acks {
                self.kill();
                return Signals { error: Some(Errno::ECONNREFUSED), closed: true, readable: true, writable: true, ..Signals::default() };
            }
            return Signals::default();
        }
        if !s.has(flag::SYN) {
            return Signals::default();
        }
        self.take_syn(s);
        self.last_received = now;
        self.snd_wnd = u32::from(s.window);
        self.max_wnd = self.snd_wnd;
        if !acks {
            // Both began at once.
            self.state = State::SynReceived;
            self.sent_back(self.iss, now);
            return Signals::default();
        }
        self.state = State::Established;
        self.acknowledge(s.ack, now);
        self.ack = Ack::Now;
        (self.snd_wl1, self.snd_wl2) = (s.seq, s.ack);
        self.drs.1 = now;
        Signals { connected: true, writable: true, ..Signals::default() }
    }

    /// An ACK that says where we are, to a segment that does not fit; not too often (RFC 5961).
    fn challenge(&mut self, now: u64) {
        if now >= self.challenge_at {
            self.challenge_at = now + CHALLENGE;
            self.ack = Ack::Now;
        }
    }

    /// RFC 9293's table of what is acceptable.
    fn acceptable(&self, s: &Segment<'_>) -> bool {
        let window = seq::span(self.rcv_nxt, self.rcv_edge);
        let end = s.seq.wrapping_add(s.len());
        // Behind the left edge is what was sent again; it needs an answer, but not from here.
        match (s.len(), window) {
            (0, 0) => s.seq == self.rcv_nxt,
            (0, _) => seq::le(self.rcv_nxt, s.seq) && seq::le(s.seq, self.rcv_edge),
            (_, 0) => false,
            _ => seq::lt(s.seq, self.rcv_edge) && seq::lt(self.rcv_nxt, end),
        }
    }

    fn in_others(&mut self, s: &Segment<'_>, now: u64, into: &mut Stream, wire: &mut dyn Wire) -> Signals {
        let mut signals = Signals::default();
        // A new connection from the same place while this one only waits for old segments.
        if let (true, Some((value, _))) = (self.time_ok, s.options.time)
            && !s.has(flag::RST)
            && (value.wrapping_sub(self.ts_recent) as i32) < 0
        {
            // PAWS: an old duplicate.
            self.challenge(now);
            return signals;
        }
        if !self.acceptable(s) {
            if s.has(flag::RST) {
                return signals;
            }
            if s.len() > 0 && seq::le(s.seq.wrapping_add(s.len()), self.rcv_nxt) {
                // Sent again although we have it: the peer missed our acknowledgement.
                self.duplicate = Some((s.seq, s.seq.wrapping_add(s.len())));
                self.ack = Ack::Now;
                if self.state == State::TimeWait && s.has(flag::FIN) {
                    self.end_at = Some(now + TIME_WAIT);
                }
            } else {
                self.challenge(now);
            }
            // A probe of a closed window carries news of its own window.
            if s.has(flag::ACK) && self.synchronized() {
                signals.merge(self.take_ack(s, now));
            }
            return signals;
        }
        if s.has(flag::RST) {
            return self.reset(s, now);
        }
        if s.has(flag::SYN) {
            self.challenge(now);
            return signals;
        }
        if let Some((value, _)) = s.options.time.filter(|_| self.time_ok)
            && seq::le(s.seq, self.last_ack_sent)
        {
            self.ts_recent = value;
        }
        if !s.has(flag::ACK) {
            return signals;
        }
        self.last_received = now;
        if self.keep_sent > 0 {
            self.keep_sent = 0;
        }
        if self.state == State::SynReceived {
            if seq::le(s.ack, self.snd_una) || seq::lt(self.snd_nxt, s.ack) {
                self.emit_plain(flag::RST, s.ack, wire);
                return signals;
            }
            self.state = if self.fin_wanted { State::FinWait1 } else { State::Established };
            (self.snd_wl1, self.snd_wl2) = (s.seq, s.ack);
            self.drs.1 = now;
            self.snd_wnd = u32::from(s.window) << self.snd_scale;
            self.max_wnd = self.snd_wnd;
            signals.connected = true;
            signals.writable = true;
        }
        if seq::lt(self.snd_nxt, s.ack) {
            self.challenge(now);
            return signals;
        }
        signals.merge(self.take_ack(s, now));
        if self.state == State::Closed {
            return signals;
        }
        if s.len() > 0 {
            signals.merge(self.take_data(s, now, into, wire));
        }
        signals
    }

    fn reset(&mut self, s: &Segment<'_>, now: u64) -> Signals {
        if s.seq != self.rcv_nxt {
            self.challenge(now);
            return Signals::default();
        }
        let error = match self.state {
            State::TimeWait => {
                // RFC 1337: nothing to end.
                return Signals::default();
            }
            State::CloseWait => Errno::EPIPE,
            State::SynReceived => Errno::ECONNREFUSED,
            _ => Errno::ECONNRESET,
        };
        self.kill();
        Signals { error: Some(error), closed: true, readable: true, writable: true, ..Signals::default() }
    }

    /// The acknowledgement and window of a segment.
    fn take_ack(&mut self, s: &Segment<'_>, now: u64) -> Signals {
        let mut signals = Signals::default();
        if seq::lt(self.snd_nxt, s.ack) || seq::lt(s.ack, self.snd_una.wrapping_sub(self.max_wnd.max(65_535))) {
            return signals;
        }
        let before_window = self.snd_wnd;
        if seq::lt(self.snd_wl1, s.seq) || self.snd_wl1 == s.seq && seq::le(self.snd_wl2, s.ack) {
            self.snd_wnd = u32::from(s.window) << self.snd_scale;
            self.max_wnd = self.max_wnd.max(self.snd_wnd);
            (self.snd_wl1, self.snd_wl2) = (s.seq, s.ack);
            if self.snd_wnd > 0 {
                self.persist_at = None;
                self.persist_backoff = 0;
            }
        }
        let flight_before = self.flight;
        let full = self.congestion.window <= flight_before.saturating_add(2 * self.mss) || self.recovery.is_some();
        let undelivered = self.flight_and_lost();
        let advanced = seq::span(self.snd_una, s.ack);
        if advanced > 0 {
            self.acknowledge(s.ack, now);
            signals.writable = true;
        }
        let sacked = self.take_sack(s, now);
        if advanced == 0 && sacked == 0 && s.payload.is_empty() && !self.sent.is_empty() && self.snd_wnd == before_window {
            self.duplicates += 1;
        }
        let delivered = undelivered.saturating_sub(self.flight_and_lost());
        if advanced > 0 || sacked > 0 || self.duplicates > 0 {
            self.detect_loss(now);
        }
        match self.recovery {
            Some((until, timeout)) if !seq::lt(s.ack, until) => {
                self.recovery = None;
                if !timeout {
                    self.congestion.leave_recovery();
                }
            }
            Some((_, false)) => self.congestion.in_recovery(delivered, self.flight, self.mss),
            // After a timeout the window grows as at the beginning.
            Some((_, true)) if advanced > 0 => self.congestion.on_ack(delivered, self.mss, now, self.rtt.smoothed),
            None if advanced > 0 && full => self.congestion.on_ack(advanced, self.mss, now, self.rtt.smoothed),
            _ => {}
        }
        if advanced > 0 {
            self.rto_at = if self.sent.is_empty() { None } else { Some(now + self.rtt.timeout()) };
            self.stuck_since = None;
        }
        if self.fin_sent && self.out.is_empty() && self.sent.is_empty() {
            signals.merge(self.fin_acknowledged(now));
        }
        signals
    }

    fn flight_and_lost(&self) -> u32 {
        // Everything that is not known to have arrived.
        seq::span(self.snd_una, self.snd_nxt).saturating_sub(self.sacked)
    }

    fn fin_acknowledged(&mut self, now: u64) -> Signals {
        match self.state {
            State::FinWait1 => {
                self.state = State::FinWait2;
                if self.orphan {
                    self.end_at = Some(now + self.config.fin_timeout);
                }
                Signals { writable: true, ..Signals::default() }
            }
            State::Closing => {
                self.time_wait(now);
                Signals { writable: true, ..Signals::default() }
            }
            State::LastAck => {
                self.kill();
                Signals { closed: true, writable: true, ..Signals::default() }
            }
            _ => Signals::default(),
        }
    }

    fn time_wait(&mut self, now: u64) {
        self.state = State::TimeWait;
        self.end_at = Some(now + TIME_WAIT);
        self.keep_at = None;
        self.early = Vec::new();
        self.early_bytes = 0;
    }

    /// Whether a SYN may begin a new connection between the same ends although this one waits for old segments (RFC 9293, 3.10.7.4;
    /// RFC 6191): it is newer than all that was received.
    pub fn may_be_reborn(&self, syn: &Segment<'_>) -> bool {
        match (self.time_ok, syn.options.time) {
            (true, Some((value, _))) if value != self.ts_recent => seq::lt(self.ts_recent, value),
            _ => seq::lt(self.rcv_nxt, syn.seq),
        }
    }

    /// Whether a sequence number was sent and not acknowledged: an ICMP error about another is not believed (RFC 5927).
    pub fn is_in_flight(&self, number: u32) -> bool {
        seq::le(self.snd_una, number) && seq::lt(number, self.snd_nxt)
    }

    /// The application has closed its descriptor. A connection that waits for the peer alone does not do so for ever.
    pub fn set_orphan(&mut self, now: u64) {
        self.orphan = true;
        if self.state == State::FinWait2 {
            self.end_at = Some(now + self.config.fin_timeout);
        }
    }

    /// All before `ack` has arrived.
    pub(super) fn acknowledge(&mut self, ack: u32, now: u64) {
        let syn = !std::mem::replace(&mut self.syn_acked, true);
        let mut sample = None;
        while let Some(first) = self.sent.front().copied() {
            if !seq::lt(first.seq, ack) {
                break;
            }
            if seq::lt(ack, first.end()) {
                self.split(0, ack.wrapping_sub(first.seq));
            }
            let Some(first) = self.sent.pop_front() else { break };
            if first.sacked {
                self.sacked -= first.len;
            } else {
                if !first.lost {
                    self.flight -= first.len;
                }
                if !first.again {
                    sample = Some(now.saturating_sub(first.at));
                }
                self.arrived(first.end(), first.at, first.again, now);
            }
        }
        if let Some(sample) = sample {
            self.rtt.sample(sample);
        } else if self.rtt.backoff > 0 {
            // Karn: no sample, but the path works.
            self.rtt.backoff = 0;
        }
        let bytes = seq::span(self.snd_una, ack).saturating_sub(u32::from(syn)) as usize;
        let bytes = bytes.min(self.out.len());
        self.counters.bytes_acked += bytes as u64;
        self.gone.extend(self.out.consume(bytes).into_iter().filter(|p| p.len() == PIECE));
        self.snd_una = ack;
        if self.small.is_some_and(|end| !seq::lt(ack, end)) {
            self.small = None;
        }
        self.duplicates = 0;
    }

    /// RACK's record of the newest arrival.
    fn arrived(&mut self, end: u32, at: u64, again: bool, now: u64) {
        let rtt = now.saturating_sub(at);
        if again && rtt < self.rtt.least {
            // The acknowledgement of the first transmission: it was not lost.
            self.rack.factor = (self.rack.factor + 1).min(16);
            self.rack.reordering = true;
            return;
        }
        let r = &mut self.rack;
        if r.valid && !again && seq::lt(end, r.highest) {
            r.reordering = true;
        }
        if !r.valid || seq::lt(r.highest, end) {
            r.highest = end;
        }
        if !r.valid || at > r.at || at == r.at && seq::lt(r.end, end) {
            (r.at, r.end, r.rtt, r.valid) = (at, end, rtt, true);
        }
    }

    /// SACK blocks; bytes that are newly known to have arrived.
    fn take_sack(&mut self, s: &Segment<'_>, now: u64) -> u32 {
        if !self.sack_ok {
            return 0;
        }
        let mut new = 0;
        for &(from, to) in s.options.blocks() {
            if !seq::lt(from, to) || seq::lt(from, self.snd_una) || seq::lt(self.snd_nxt, to) {
                if seq::le(to, self.snd_una) && seq::lt(from, to) && !s.options.blocks().is_empty() {
                    // A duplicate was received: something was sent again in vain.
                    self.rack.factor = (self.rack.factor + 1).min(16);
                }
                continue;
            }
            // The list is in order.
            let mut i = self.sent.partition_point(|x| seq::le(x.end(), from));
            while let Some(x) = self.sent.get(i).copied() {
                if !seq::lt(x.seq, to) {
                    break;
                }
                if !x.sacked {
                    if seq::lt(x.seq, from) {
                        self.split(i, from.wrapping_sub(x.seq));
                        i += 1;
                        continue;
                    }
                    if seq::lt(to, x.end()) {
                        self.split(i, to.wrapping_sub(x.seq));
                    }
                    if let Some(x) = self.sent.get_mut(i) {
                        x.sacked = true;
                        let x = *x;
                        new += x.len;
                        self.sacked += x.len;
                        if x.lost {
                            if let Some(x) = self.sent.get_mut(i) {
                                x.lost = false;
                            }
                        } else {
                            self.flight -= x.len;
                        }
                        self.arrived(x.end(), x.at, x.again, now);
                    }
                }
                i += 1;
            }
        }
        new
    }

    /// Decides what is lost: sent before something that has arrived, and overdue by the tolerance for reordering (RFC 8985, 6.2).
    pub(super) fn detect_loss(&mut self, now: u64) {
        self.reorder_at = None;
        if self.sent.is_empty() || !self.synchronized() {
            return;
        }
        let mut found = false;
        if self.sack_ok && self.rack.valid {
            let r = self.rack;
            let urgent = self.recovery.is_some() || self.sacked >= 3 * self.mss;
            let tolerance = if urgent && !r.reordering { 0 } else { (self.rtt.least / 4 * u64::from(r.factor + 1)).min(self.rtt.smoothed) };
            let mut wait = 0;
            let mut lost_bytes = 0;
            for s in &mut self.sent {
                let older = s.at < r.at || s.at == r.at && seq::lt(s.end(), r.end);
                if !older {
                    if s.at > r.at && !s.again {
                        break;
                    }
                    continue;
                }
                if s.sacked || s.lost {
                    continue;
                }
                let due = s.at + r.rtt + tolerance;
                if due <= now {
                    s.lost = true;
                    lost_bytes += s.len;
                } else {
                    wait = wait.max(due - now);
                }
            }
            self.flight -= lost_bytes;
            found = lost_bytes > 0;
            if wait > 0 {
                self.reorder_at = Some(now + wait.max(100_000));
            }
        } else if !self.sack_ok {
            // Without SACK: three duplicates, and in recovery each partial acknowledgement (RFC 6582).
            let partial = self.recovery.is_some() && self.duplicates == 0;
            if (self.duplicates >= 3 && self.recovery.is_none() || partial)
                && let Some(s) = self.sent.front_mut().filter(|s| !s.lost)
                && (!partial || !s.again)
            {
                s.lost = true;
                self.flight -= s.len;
                found = true;
            }
        }
        if found && self.recovery.is_none() {
            self.congestion.enter_recovery(self.flight.max(self.mss) + self.mss, self.mss);
            self.recovery = Some((self.snd_nxt, false));
            self.congestion.in_recovery(0, self.flight, self.mss);
        }
    }

    fn take_data(&mut self, s: &Segment<'_>, now: u64, into: &mut Stream, wire: &mut dyn Wire) -> Signals {
        let mut signals = Signals::default();
        if self.finished_reading() {
            // After the peer's FIN there is nothing to come.
            self.ack = Ack::Now;
            return signals;
        }
        // Cut to the window.
        let ahead = seq::span(s.seq, self.rcv_nxt) as usize;
        let room = seq::span(self.rcv_nxt, self.rcv_edge) as usize;
        let rest = s.payload.get(ahead.min(s.payload.len())..).unwrap_or_default();
        let at = seq::max(s.seq, self.rcv_nxt);
        let room = room.saturating_sub(seq::span(self.rcv_nxt, at) as usize);
        let data = rest.get(..room.min(rest.len())).unwrap_or_default();
        if s.has(flag::FIN) && data.len() == rest.len() {
            self.fin_at = Some(s.seq.wrapping_add(s.payload.len() as u32));
        }
        if !data.is_empty() {
            if self.orphan {
                // Nobody will read it (RFC 1122, 4.2.2.13).
                self.emit_plain(flag::RST, self.snd_nxt, wire);
                self.kill();
                return Signals { closed: true, error: Some(Errno::ECONNRESET), ..signals };
            }
            if at == self.rcv_nxt {
                self.deliver(data, into);
                if !self.early.is_empty() {
                    self.deliver_early(into);
                    self.ack = Ack::Now;
                }
                signals.readable = true;
                self.unacked_bytes += data.len() as u32;
                self.schedule_ack(now);
            } else {
                self.keep_early(at, data);
                self.ack = Ack::Now;
            }
        }
        if self.fin_at == Some(self.rcv_nxt) {
            self.rcv_nxt = self.rcv_nxt.wrapping_add(1);
            self.fin_at = None;
            self.ack = Ack::Now;
            signals.readable = true;
            match self.state {
                State::Established => self.state = State::CloseWait,
                State::FinWait1 => self.state = State::Closing,
                State::FinWait2 => self.time_wait(now),
                _ => {}
            }
        }
        signals
    }

    fn schedule_ack(&mut self, now: u64) {
        if self.ack == Ack::Now {
            return;
        }
        if self.quick_acks > 0 {
            self.quick_acks -= 1;
            self.ack = Ack::Now;
        } else if self.unacked_bytes >= 2 * self.mss {
            self.ack = Ack::Now;
        } else if self.ack == Ack::No {
            self.ack = Ack::By(now + DELAY.min(self.rtt.smoothed.max(4_000_000) * 4));
        }
    }

    fn deliver(&mut self, data: &[u8], into: &mut Stream) {
        self.rcv_nxt = self.rcv_nxt.wrapping_add(data.len() as u32);
        self.counters.bytes_received += data.len() as u64;
        self.unread += data.len();
        into.extend(data);
    }

    fn deliver_early(&mut self, into: &mut Stream) {
        let mut n = 0;
        while let Some((at, data)) = self.early.get_mut(n) {
            if seq::lt(self.rcv_nxt, *at) {
                break;
            }
            let skip = seq::span(*at, self.rcv_nxt) as usize;
            let data = std::mem::take(data);
            self.early_bytes -= data.len();
            n += 1;
            if let Some(rest) = data.get(skip..).filter(|r| !r.is_empty()) {
                self.deliver(rest, into);
            }
        }
        self.early.drain(..n);
    }

    /// Keeps data that came before its turn; what is there already is not kept twice.
    fn keep_early(&mut self, at: u32, data: &[u8]) {
        self.latest = at;
        let (mut at, mut data) = (at, data);
        let mut i = self.early.partition_point(|(a, d)| seq::le(a.wrapping_add(d.len() as u32), at));
        loop {
            let end = at.wrapping_add(data.len() as u32);
            let next = self.early.get(i).map(|(a, d)| (*a, a.wrapping_add(d.len() as u32)));
            let Some((from, to)) = next.filter(|(from, _)| seq::lt(*from, end)) else {
                if !data.is_empty() {
                    self.insert_early(i, at, data);
                }
                return;
            };
            if seq::lt(at, from) {
                let (gap, _) = data.split_at((from.wrapping_sub(at) as usize).min(data.len()));
                self.insert_early(i, at, gap);
                i += 1;
            } else if seq::le(end, to) {
                self.duplicate = Some((at, end));
                return;
            }
            let skip = to.wrapping_sub(at) as usize;
            let Some(rest) = data.get(skip..) else { return };
            (at, data) = (to, rest);
            i += 1;
        }
    }

    fn insert_early(&mut self, i: usize, at: u32, data: &[u8]) {
        if let Some((from, before)) = i.checked_sub(1).and_then(|i| self.early.get_mut(i))
            && from.wrapping_add(before.len() as u32) == at
            && before.len() < PIECE
        {
            before.extend_from_slice(data);
            self.early_bytes += data.len();
            return;
        }
        // Crumbs with gaps between them must not cost more than the window allows.
        if self.early.len() >= EARLY_MAX {
            return;
        }
        self.early_bytes += data.len();
        self.early.insert(i.min(self.early.len()), (at, data.to_vec()));
    }
}
