//! TCP towards the outside, as a machine without a clock, a lock or a network of its own: [`Tcb`] takes segments, bytes and moments,
//! and gives segments and [`Signals`].
//!
//! By RFC 9293, with window scaling and timestamps (RFC 7323), SACK (RFC 2018), loss detection by time (RACK-TLP, RFC 8985), CUBIC or
//! Reno, delayed acknowledgements, Nagle's algorithm, keepalive, user timeout, zero-window probes and challenge ACKs (RFC 5961).
//! [`recv`] is what arrives, [`send`] what leaves, [`timer`] what happens when nothing does. Loopback needs none of this.

mod congestion;
mod recv;
mod rtt;
pub mod segment;
mod send;
pub mod seq;
pub mod stream;
#[cfg(test)]
mod tests;
mod timer;

pub use congestion::Algorithm;

use abi::Errno;
use congestion::Congestion;
use rtt::Rtt;
use segment::{Options, Outgoing, Segment, flag};
use send::Sent;
use std::collections::VecDeque;
use stream::Stream;

/// States, with the numbers that /proc/net/tcp shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum State {
    Established = 1,
    SynSent = 2,
    SynReceived = 3,
    FinWait1 = 4,
    FinWait2 = 5,
    TimeWait = 6,
    Closed = 7,
    CloseWait = 8,
    LastAck = 9,
    Closing = 11,
}

/// What a connection is made with, and what options change later.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The largest segment that the path takes, without headers and options.
    pub mss: u16,
    /// Bytes that may wait to be read.
    pub receive_buffer: usize,
    /// Whether the receive buffer may grow with the path.
    pub grow: bool,
    /// `TCP_NODELAY`
    pub nodelay: bool,
    /// `TCP_CORK`
    pub cork: bool,
    /// `SO_KEEPALIVE`: idle time and interval in nanoseconds, probes.
    pub keepalive: Option<(u64, u64, u32)>,
    /// `TCP_USER_TIMEOUT` in nanoseconds.
    pub user_timeout: Option<u64>,
    /// `TCP_SYNCNT`
    pub syn_retries: u32,
    /// Retransmissions of a SYN with ACK (`tcp_synack_retries`), and of data before the connection is given up (`tcp_retries2`).
    pub synack_retries: u32,
    pub retries: u32,
    /// `TCP_LINGER2` in nanoseconds.
    pub fin_timeout: u64,
    /// `TCP_CONGESTION`
    pub algorithm: Algorithm,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            mss: 1460,
            receive_buffer: 256 << 10,
            grow: true,
            nodelay: false,
            cork: false,
            keepalive: None,
            user_timeout: None,
            syn_retries: 6,
            synack_retries: 5,
            retries: 15,
            fin_timeout: 60_000_000_000,
            algorithm: Algorithm::Cubic,
        }
    }
}

/// What happened, for whoever waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// There is more to read, or the end of it.
    pub readable: bool,
    /// There is more room to write.
    pub writable: bool,
    /// The handshake is done.
    pub connected: bool,
    /// The connection ended with this error.
    pub error: Option<Errno>,
    /// Nothing more will come of this connection: forget it.
    pub closed: bool,
    /// Urgent data has come.
    pub urgent: bool,
}

impl Signals {
    /// Both.
    pub fn merge(&mut self, other: Signals) {
        self.readable |= other.readable;
        self.writable |= other.writable;
        self.connected |= other.connected;
        self.error = self.error.or(other.error);
        self.closed |= other.closed;
        self.urgent |= other.urgent;
    }
}

/// Takes segments that are to be sent: header and data.
pub trait Wire {
    /// Sends one. The data is the concatenation of `data`.
    fn send(&mut self, out: &Outgoing, data: &[&[u8]]);
    /// The most data that one call may carry, to be cut into segments below.
    fn most(&self) -> usize {
        usize::from(u16::MAX) - 120
    }
}

/// Whether an acknowledgement is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ack {
    No,
    /// At this moment at the latest.
    By(u64),
    Now,
}

/// Counters for TCP_INFO and statistics.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Counters {
    pub bytes_sent: u64,
    pub bytes_acked: u64,
    pub bytes_received: u64,
    pub segments_out: u32,
    pub segments_in: u32,
    pub retransmitted: u32,
    pub timeouts: u32,
}

/// A transmission control block.
#[derive(Debug)]
pub struct Tcb {
    /// Where the connection is in its life.
    pub state: State,
    /// Options.
    pub config: Config,
    /// Statistics.
    pub counters: Counters,

    // Sending: RFC 9293's names.
    iss: u32,
    snd_una: u32,
    snd_nxt: u32,
    snd_wnd: u32,
    snd_wl1: u32,
    snd_wl2: u32,
    max_wnd: u32,
    snd_scale: u8,
    /// Data from `snd_una` on (a SYN or FIN before or behind it is not in here).
    out: Stream,
    /// Whole pieces of `out` that the peer has: for the next sender, once the lock is given back.
    pub gone: Vec<Vec<u8>>,
    /// The application has closed its side.
    fin_wanted: bool,
    fin_sent: bool,
    syn_acked: bool,
    /// The end of the last segment that was not full.
    small: Option<u32>,
    /// What is on its way, in order.
    sent: VecDeque<Sent>,
    /// Bytes in `sent` that count as being in the network.
    flight: u32,
    /// Bytes in `sent` that the peer has out of order.
    sacked: u32,
    rtt: Rtt,
    congestion: Congestion,
    /// In recovery until this is acknowledged; the flag: after a timeout.
    recovery: Option<(u32, bool)>,
    duplicates: u32,
    rack: send::Rack,
    last_sent: u64,
    /// The segment size in use.
    mss: u32,

    // Receiving.
    irs: u32,
    rcv_nxt: u32,
    /// Right edge of the window as the peer knows it.
    rcv_edge: u32,
    rcv_scale: u8,
    /// Bytes that were given to the application's queue and not read yet.
    unread: usize,
    /// Out of order, not overlapping, in order.
    early: Vec<(u32, Vec<u8>)>,
    early_bytes: usize,
    /// The block that arrived last comes first in SACK.
    latest: u32,
    duplicate: Option<(u32, u32)>,
    fin_at: Option<u32>,
    ack: Ack,
    unacked_bytes: u32,
    quick_acks: u32,
    last_received: u64,
    /// Growth of the buffer: what was read since, and since when.
    drs: (usize, u64),
    challenge_at: u64,

    // Options in force.
    sack_ok: bool,
    time_ok: bool,
    ts_recent: u32,
    last_ack_sent: u32,

    // Timers, as moments.
    rto_at: Option<u64>,
    probe_at: Option<u64>,
    reorder_at: Option<u64>,
    persist_at: Option<u64>,
    keep_at: Option<u64>,
    end_at: Option<u64>,
    cork_at: Option<u64>,
    persist_backoff: u32,
    keep_sent: u32,
    /// When the oldest unacknowledged data was first found overdue.
    stuck_since: Option<u64>,
    /// The application has closed its descriptor: data that arrives now resets the connection.
    pub orphan: bool,
}

/// The scale that we offer: enough for the largest buffer.
pub const SCALE: u8 = 8;
/// The largest receive buffer that grows by itself (`tcp_rmem[2]`).
const GROW_MAX: usize = 6 << 20;
/// How long a closed connection is remembered (`TCP_TIMEWAIT_LEN`).
const TIME_WAIT: u64 = 60_000_000_000;

impl Tcb {
    fn new(state: State, config: Config, iss: u32) -> Tcb {
        let mss = u32::from(config.mss);
        Tcb {
            state,
            config,
            counters: Counters::default(),
            iss,
            snd_una: iss,
            snd_nxt: iss,
            snd_wnd: 0,
            snd_wl1: 0,
            snd_wl2: 0,
            max_wnd: 0,
            snd_scale: 0,
            out: Stream::default(),
            gone: Vec::new(),
            fin_wanted: false,
            fin_sent: false,
            syn_acked: false,
            small: None,
            sent: VecDeque::new(),
            flight: 0,
            sacked: 0,
            rtt: Rtt::default(),
            congestion: Congestion::new(config.algorithm, mss),
            recovery: None,
            duplicates: 0,
            rack: send::Rack::default(),
            last_sent: 0,
            mss,
            irs: 0,
            rcv_nxt: 0,
            rcv_edge: 0,
            rcv_scale: 0,
            unread: 0,
            early: Vec::new(),
            early_bytes: 0,
            latest: 0,
            duplicate: None,
            fin_at: None,
            ack: Ack::No,
            unacked_bytes: 0,
            quick_acks: 16,
            last_received: 0,
            drs: (0, 0),
            challenge_at: 0,
            sack_ok: true,
            time_ok: true,
            ts_recent: 0,
            last_ack_sent: 0,
            rto_at: None,
            probe_at: None,
            reorder_at: None,
            persist_at: None,
            keep_at: None,
            end_at: None,
            cork_at: None,
            persist_backoff: 0,
            keep_sent: 0,
            stuck_since: None,
            orphan: false,
        }
    }

    /// A connection that we begin. `iss`: the first sequence number, hard to guess.
    pub fn connect(config: Config, iss: u32, now: u64) -> Tcb {
        let mut t = Tcb::new(State::SynSent, config, iss);
        t.push_sent(iss, 1, now);
        t.sent_back(iss, now);
        t
    }

    /// A connection that `syn` begins.
    pub fn accept(config: Config, iss: u32, syn: &Segment<'_>, now: u64) -> Tcb {
        let mut t = Tcb::new(State::SynReceived, config, iss);
        t.take_syn(syn);
        t.snd_wnd = u32::from(syn.window);
        t.push_sent(iss, 1, now);
        t.sent_back(iss, now);
        t
    }

    /// A connection that `syn` began and that was answered with `iss` before anything was kept of it.
    pub fn resume(config: Config, iss: u32, syn: &Segment<'_>, now: u64) -> Tcb {
        let mut t = Tcb::new(State::SynReceived, config, iss);
        t.take_syn(syn);
        t.snd_wnd = u32::from(syn.window);
        t.push_sent(iss, 1, now);
        t
    }

    /// What the peer's SYN says.
    fn take_syn(&mut self, syn: &Segment<'_>) {
        let o = &syn.options;
        self.irs = syn.seq;
        self.rcv_nxt = syn.seq.wrapping_add(1);
        self.rcv_edge = self.rcv_nxt.wrapping_add(self.free().min(65_535));
        (self.snd_wl1, self.last_ack_sent) = (syn.seq, self.rcv_nxt);
        self.sack_ok = o.sack_ok;
        self.time_ok = o.time.is_some();
        self.ts_recent = o.time.map_or(0, |t| t.0);
        match o.scale {
            Some(scale) => (self.snd_scale, self.rcv_scale) = (scale, SCALE),
            None => (self.snd_scale, self.rcv_scale) = (0, 0),
        }
        // RFC 9293, 3.7.1: 536 unless told.
        let theirs = u32::from(o.mss.unwrap_or(536)).max(88);
        self.set_mss(theirs.min(u32::from(self.config.mss)));
        self.congestion = Congestion::new(self.config.algorithm, self.mss);
    }

    /// The size without options is given; a timestamp takes 12 bytes of each.
    fn set_mss(&mut self, mss: u32) {
        self.mss = mss.saturating_sub(if self.time_ok { 12 } else { 0 }).max(48);
    }

    /// The path takes less than was thought (ICMP): segments get smaller, and what is on its way is sent again.
    pub fn path_shrank(&mut self, mss: u16) {
        let mss = u32::from(mss).max(48);
        if mss >= self.mss + if self.time_ok { 12 } else { 0 } {
            return;
        }
        self.config.mss = mss as u16;
        self.set_mss(mss);
        self.mark_all_lost();
    }

    /// The sequence number of the next byte that the application will get.
    pub fn next_expected(&self) -> u32 {
        self.rcv_nxt
    }

    /// Where the connection is after the handshake.
    pub fn synchronized(&self) -> bool {
        !matches!(self.state, State::SynSent | State::SynReceived | State::Closed)
    }

    /// Appends bytes to be sent.
    #[cfg(test)]
    fn write(&mut self, bytes: &[u8]) {
        self.out.extend(bytes);
    }

    /// Appends a piece to be sent. How much may wait is the caller's business.
    pub fn write_piece(&mut self, piece: Vec<u8>) {
        self.out.push(piece);
    }

    /// Bytes that are not acknowledged.
    pub fn unacknowledged(&self) -> usize {
        self.out.len()
    }

    /// Bytes that have not been sent for the first time.
    pub fn unsent(&self) -> usize {
        self.out.len().saturating_sub(seq::span(self.data_start(), self.snd_nxt) as usize)
    }

    /// The sequence number of the first byte of `out`.
    fn data_start(&self) -> u32 {
        if matches!(self.state, State::SynSent | State::SynReceived) { self.iss.wrapping_add(1) } else { self.snd_una }
    }

    /// The application sends no more.
    pub fn close_write(&mut self) {
        if self.fin_wanted {
            return;
        }
        self.fin_wanted = true;
        self.state = match self.state {
            State::Established => State::FinWait1,
            State::CloseWait => State::LastAck,
            State::SynSent => State::Closed,
            other => other,
        };
    }

    /// Ends it at once; the peer is told with a reset if it knows of the connection.
    pub fn abort(&mut self, wire: &mut dyn Wire) {
        if self.state != State::Closed && self.state != State::SynSent && self.state != State::TimeWait {
            self.emit_plain(flag::RST | flag::ACK, self.snd_nxt, wire);
        }
        self.kill();
    }

    /// No timers, no data, closed.
    fn kill(&mut self) {
        self.state = State::Closed;
        self.out.clear();
        self.sent.clear();
        self.early.clear();
        (self.flight, self.sacked, self.early_bytes) = (0, 0, 0);
        self.rto_at = None;
        self.probe_at = None;
        self.reorder_at = None;
        self.persist_at = None;
        self.keep_at = None;
        self.end_at = None;
        self.cork_at = None;
        self.ack = Ack::No;
    }

    /// The peer has closed its side and everything before that has been received.
    pub fn finished_reading(&self) -> bool {
        matches!(self.state, State::CloseWait | State::LastAck | State::Closing | State::TimeWait | State::Closed)
    }

    /// For TCP_INFO: RTT and deviation in nanoseconds, congestion window and threshold in segments, MSS, retransmission timeout.
    pub fn figures(&self) -> Figures {
        Figures {
            rtt: self.rtt.smoothed,
            deviation: self.rtt.deviation,
            least_rtt: self.rtt.least,
            timeout: self.rtt.timeout(),
            window: self.congestion.window / self.mss.max(1),
            threshold: self.congestion.threshold / self.mss.max(1),
            mss: self.mss,
            flight: self.flight / self.mss.max(1),
            peer_window: self.snd_wnd,
            scales: (self.snd_scale, self.rcv_scale),
            time_ok: self.time_ok,
            sack_ok: self.sack_ok,
            recovering: self.recovery.map_or(0, |(_, timeout)| if timeout { 4 } else { 3 }),
            backoff: self.rtt.backoff,
        }
    }

    /// The algorithm in use.
    pub fn algorithm(&self) -> Algorithm {
        self.congestion.algorithm()
    }

    /// Changes it.
    pub fn set_algorithm(&mut self, a: Algorithm) {
        self.config.algorithm = a;
        self.congestion.set_algorithm(a);
    }
}

/// What TCP_INFO tells of a connection.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Figures {
    pub rtt: u64,
    pub deviation: u64,
    pub least_rtt: u64,
    pub timeout: u64,
    pub window: u32,
    pub threshold: u32,
    pub mss: u32,
    pub flight: u32,
    pub peer_window: u32,
    pub scales: (u8, u8),
    pub time_ok: bool,
    pub sack_ok: bool,
    pub recovering: u8,
    pub backoff: u32,
}

/// A reset that answers a segment that belongs to no connection (RFC 9293, 3.10.7.1); `None`: it gets none.
pub fn refusal(s: &Segment<'_>) -> Option<Outgoing> {
    if s.has(flag::RST) {
        return None;
    }
    let plain = Outgoing { seq: 0, ack: 0, flags: flag::RST, window: 0, options: Options::default(), mss: 0 };
    Some(if s.has(flag::ACK) {
        Outgoing { seq: s.ack, ..plain }
    } else {
        Outgoing { ack: s.seq.wrapping_add(s.len()), flags: flag::RST | flag::ACK, ..plain }
    })
}
