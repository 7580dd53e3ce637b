//! Two connections over a link of these tests' own, in virtual time: it delays, loses, duplicates and reorders.

use super::*;
use std::collections::BTreeMap;

const MS: u64 = 1_000_000;

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn permille(&mut self, n: u64) -> bool {
        self.next() % 1000 < n
    }
}

/// What a link does, in thousandths and nanoseconds.
#[derive(Clone, Copy, Default)]
struct Link {
    delay: u64,
    loss: u64,
    duplicate: u64,
    reorder: u64,
    /// Nanoseconds for each byte; zero: no limit.
    per_byte: u64,
}

#[derive(Default)]
struct Sink(Vec<Vec<u8>>);

impl Wire for Sink {
    fn send(&mut self, out: &Outgoing, data: &[&[u8]]) {
        let all = data.concat();
        // Cut as a device with segmentation offload does.
        let step = usize::from(out.mss).max(1);
        let mut at = 0;
        loop {
            let end = (at + step).min(all.len());
            let last = end == all.len();
            let flags = if last { out.flags } else { out.flags & !(flag::FIN | flag::PSH) };
            let mut bytes = Outgoing { seq: out.seq.wrapping_add(at as u32), flags, ..*out }.header(1, 2);
            bytes.extend_from_slice(&all[at..end]);
            self.0.push(bytes);
            at = end;
            if last {
                break;
            }
        }
    }
}

struct End {
    tcb: Tcb,
    got: Stream,
    read: Vec<u8>,
    to_send: Vec<u8>,
    sent: usize,
    error: Option<Errno>,
    /// Reads at most this much each time.
    slow: usize,
}

struct Net {
    now: u64,
    ends: [Option<End>; 2],
    wire: BTreeMap<(u64, u64), (usize, Vec<u8>)>,
    next: u64,
    link: Link,
    rng: Rng,
    busy: [u64; 2],
    config: Config,
    packets: usize,
}

impl End {
    fn new(tcb: Tcb, to_send: &[u8]) -> End {
        End { tcb, got: Stream::default(), read: Vec::new(), to_send: to_send.to_vec(), sent: 0, error: None, slow: usize::MAX }
    }
}

impl Net {
    fn new(link: Link, seed: u64, data: &[u8]) -> Net {
        let config = Config::default();
        let end = End::new(Tcb::connect(config, 0xffff_f000, 0), data);
        Net { now: 0, ends: [Some(end), None], wire: BTreeMap::new(), next: 0, link, rng: Rng(seed), busy: [0; 2], config, packets: 0 }
    }

    fn carry(&mut self, from: usize, sink: Sink) {
        for p in sink.0 {
            self.packets += 1;
            if self.rng.permille(self.link.loss) {
                continue;
            }
            let copies = 1 + usize::from(self.rng.permille(self.link.duplicate));
            for _ in 0..copies {
                let start = self.busy[from].max(self.now);
                self.busy[from] = start + self.link.per_byte * p.len() as u64;
                let extra = if self.rng.permille(self.link.reorder) { self.rng.next() % (self.link.delay + MS) } else { 0 };
                self.next += 1;
                self.wire.insert((self.busy[from] + self.link.delay + extra, self.next), (1 - from, p.clone()));
            }
        }
    }

    /// One side writes, reads and closes as it can.
    fn work(&mut self, i: usize) {
        let now = self.now;
        let Some(e) = &mut self.ends[i] else { return };
        let mut sink = Sink::default();
        if e.tcb.synchronized() {
            let room = (256usize << 10).saturating_sub(e.tcb.unacknowledged());
            let n = room.min(e.to_send.len() - e.sent);
            e.tcb.write(&e.to_send[e.sent..e.sent + n]);
            e.sent += n;
            if e.sent == e.to_send.len() {
                e.tcb.close_write();
            }
        }
        let n = e.got.len().min(e.slow);
        e.read.extend(e.got.slices(0, n).flatten());
        e.got.consume(n);
        e.tcb.read(n, now);
        e.tcb.output(now, &mut sink);
        self.carry(i, sink);
    }

    fn deliver(&mut self, to: usize, packet: &[u8]) {
        let s = Segment::parse(packet).unwrap();
        let mut sink = Sink::default();
        if self.ends[to].is_none() {
            if s.has(flag::SYN) {
                let data: Vec<u8> = self.ends[0].as_ref().unwrap().to_send.iter().rev().copied().collect();
                self.ends[to] = Some(End::new(Tcb::accept(self.config, 7, &s, self.now), &data));
            }
        } else if let Some(e) = &mut self.ends[to] {
            let signals = e.tcb.on_segment(&s, self.now, &mut e.got, &mut sink);
            e.error = e.error.or(signals.error);
        }
        self.carry(to, sink);
        self.work(to);
    }

    /// Until both sides are done or `limit`; whether they are.
    fn run(&mut self, limit: u64) -> bool {
        self.work(0);
        while self.now < limit {
            let done =
                |e: &Option<End>| e.as_ref().is_some_and(|e| matches!(e.tcb.state, State::Closed | State::TimeWait) && e.got.is_empty());
            if self.ends.iter().all(done) {
                return true;
            }
            let timers = self.ends.iter().flatten().filter_map(|e| e.tcb.deadline());
            let timer = timers.min();
            let arrival = self.wire.keys().next().map(|k| k.0);
            let Some(next) = timer.into_iter().chain(arrival).min() else { return false };
            self.now = self.now.max(next);
            if arrival == Some(next) {
                let (_, (to, packet)) = self.wire.pop_first().unwrap();
                self.deliver(to, &packet);
                continue;
            }
            for i in 0..2 {
                let now = self.now;
                if let Some(e) = &mut self.ends[i]
                    && e.tcb.deadline().is_some_and(|d| d <= now)
                {
                    let mut sink = Sink::default();
                    let signals = e.tcb.on_timer(now, &mut sink);
                    e.error = e.error.or(signals.error);
                    self.carry(i, sink);
                    self.work(i);
                }
            }
        }
        false
    }

    fn check(&self, data: &[u8]) {
        let back: Vec<u8> = data.iter().rev().copied().collect();
        assert!(self.ends[1].as_ref().unwrap().read == data, "what arrived is not what was sent");
        assert!(self.ends[0].as_ref().unwrap().read == back, "what came back is not what was sent");
        for e in self.ends.iter().flatten() {
            assert_eq!(e.error, None);
        }
    }
}

fn noise(n: usize) -> Vec<u8> {
    let mut r = Rng(88_172_645_463_325_252);
    (0..n).map(|_| r.next() as u8).collect()
}

/// Transfers both ways over a link; virtual nanoseconds.
fn transfer(link: Link, seed: u64, bytes: usize, limit: u64) -> Net {
    let data = noise(bytes);
    let mut net = Net::new(link, seed, &data);
    assert!(
        net.run(limit),
        "not done after {} ms (seed {seed}): {:?}",
        net.now / MS,
        net.ends.iter().flatten().map(|e| (e.tcb.state, e.read.len(), e.tcb.unacknowledged(), e.error)).collect::<Vec<_>>()
    );
    net.check(&data);
    net
}

#[test]
fn a_clean_link() {
    let net = transfer(Link { delay: MS, ..Link::default() }, 1, 3 << 20, 4_000 * MS);
    let retransmitted: u32 = net.ends.iter().flatten().map(|e| e.tcb.counters.retransmitted).sum();
    assert_eq!(retransmitted, 0);
}

#[test]
fn nothing_but_a_handshake() {
    transfer(Link { delay: 10 * MS, ..Link::default() }, 1, 0, 1_000 * MS);
}

#[test]
fn losses() {
    for seed in 1..13 {
        let loss = [1, 10, 50, 200][seed % 4];
        transfer(Link { delay: 5 * MS, loss, ..Link::default() }, seed as u64 * 7919, 300_000, 3_000_000 * MS);
    }
}

#[test]
fn losses_do_not_wait_for_timeouts() {
    let link = Link { delay: 10 * MS, loss: 10, per_byte: 80, ..Link::default() };
    let net = transfer(link, 99, 2 << 20, 60_000 * MS);
    let timeouts: u32 = net.ends.iter().flatten().map(|e| e.tcb.counters.timeouts).sum();
    assert!(timeouts <= 8, "{timeouts} timeouts in {} packets", net.packets);
}

#[test]
fn duplicates_and_reordering() {
    for seed in 1..10 {
        let link = Link { delay: 3 * MS, duplicate: 100, reorder: 200, loss: seed % 20, ..Link::default() };
        transfer(link, seed * 104_729, 400_000, 2_000_000 * MS);
    }
}

#[test]
fn reordering_alone_costs_little() {
    let net = transfer(Link { delay: 20 * MS, reorder: 50, per_byte: 80, ..Link::default() }, 5, 1 << 20, 60_000 * MS);
    let again: u32 = net.ends.iter().flatten().map(|e| e.tcb.counters.retransmitted).sum();
    assert!((again as usize) < net.packets / 4, "{again} of {}", net.packets);
}

#[test]
fn a_slow_reader_closes_the_window() {
    let data = noise(700_000);
    let mut net = Net::new(Link { delay: MS, ..Link::default() }, 3, &data);
    net.config.grow = false;
    net.config.receive_buffer = 20_000;
    let mut stopped = false;
    for _ in 0..200_000 {
        if let Some(e) = &mut net.ends[1] {
            e.slow = if net.rng.permille(20) { 15_000 } else { 0 };
            stopped |= e.tcb.unread > 19_000;
        }
        if net.run(net.now + 2 * MS) {
            break;
        }
        net.now += MS / 10;
        net.work(1);
    }
    if let Some(e) = &mut net.ends[1] {
        e.slow = usize::MAX;
    }
    net.work(1);
    assert!(net.run(net.now + 3_600_000 * MS));
    assert!(stopped);
    net.check(&data);
}

#[test]
fn a_dead_peer_is_noticed() {
    let mut t = Tcb::connect(Config { syn_retries: 3, ..Config::default() }, 5, 0);
    let mut sink = Sink::default();
    t.output(0, &mut sink);
    let mut now = 0;
    let mut end = None;
    while let Some(at) = t.deadline() {
        now = at;
        end = t.on_timer(now, &mut sink).error;
        if end.is_some() {
            break;
        }
    }
    assert_eq!((end, sink.0.len()), (Some(Errno::ETIMEDOUT), 4));
    assert!((10_000 * MS..20_000 * MS).contains(&now));
}

/// An established pair without a link.
fn pair() -> (End, End) {
    let mut a = Tcb::connect(Config::default(), 100, 0);
    let mut sink = Sink::default();
    a.output(0, &mut sink);
    let mut b = Tcb::accept(Config::default(), 900, &Segment::parse(&sink.0[0]).unwrap(), 0);
    let mut back = Sink::default();
    b.output(0, &mut back);
    let (mut a, mut b) = (End::new(a, &[]), End::new(b, &[]));
    let mut third = Sink::default();
    a.tcb.on_segment(&Segment::parse(&back.0[0]).unwrap(), 1, &mut a.got, &mut third);
    a.tcb.output(1, &mut third);
    b.tcb.on_segment(&Segment::parse(&third.0[0]).unwrap(), 2, &mut b.got, &mut Sink::default());
    assert_eq!((a.tcb.state, b.tcb.state), (State::Established, State::Established));
    (a, b)
}

#[test]
fn keepalive_and_user_timeout() {
    let (mut a, _) = pair();
    a.tcb.config.keepalive = Some((1000 * MS, 100 * MS, 3));
    let mut sink = Sink::default();
    a.tcb.output(2, &mut sink);
    let (mut probes, mut error) = (0, None);
    while let Some(at) = a.tcb.deadline() {
        let before = sink.0.len();
        error = a.tcb.on_timer(at, &mut sink).error;
        probes += sink.0.len() - before;
        if error.is_some() {
            break;
        }
    }
    // Three probes and a reset.
    assert_eq!((error, probes), (Some(Errno::ETIMEDOUT), 4));
    let (mut a, _) = pair();
    a.tcb.config.user_timeout = Some(700 * MS);
    a.tcb.write(b"never acknowledged");
    a.tcb.output(0, &mut sink);
    let mut last = 0;
    while a.tcb.state != State::Closed {
        last = a.tcb.deadline().unwrap();
        a.tcb.on_timer(last, &mut sink);
    }
    assert!((700 * MS..1_500 * MS).contains(&last), "{last}");
}

#[test]
fn resets_must_fit() {
    let (_, mut b) = pair();
    let rst = |seq: u32| Outgoing { seq, ack: 0, flags: flag::RST, window: 0, options: Options::default(), mss: 0 }.header(1, 2);
    let mut sink = Sink::default();
    b.tcb.on_segment(&Segment::parse(&rst(200)).unwrap(), 2_000_000, &mut b.got, &mut sink);
    assert_eq!(b.tcb.state, State::Established);
    b.tcb.output(2_000_000, &mut sink);
    assert_eq!(sink.0.len(), 1, "a challenge");
    let got = b.tcb.on_segment(&Segment::parse(&rst(101)).unwrap(), 3, &mut b.got, &mut sink);
    assert_eq!((got.error, b.tcb.state), (Some(Errno::ECONNRESET), State::Closed));
}

#[test]
fn any_segment_is_survived() {
    for seed in 1..600u64 {
        let (mut a, mut b) = pair();
        let mut rng = Rng(seed * 7_777_777);
        for step in 0..60u64 {
            let mut options = Options { time: Some((rng.next() as u32 % 4, 0)), ..Options::default() };
            let base = if rng.permille(500) { b.tcb.rcv_nxt } else { b.tcb.snd_una };
            for i in 0..(rng.next() % 5) as usize {
                let from = base.wrapping_add((rng.next() % 6000) as u32).wrapping_sub(2000);
                options.sack[i.min(3)] = (from, from.wrapping_add((rng.next() % 4000) as u32));
                options.sacks = (i + 1).min(4);
            }
            let flags = if rng.permille(900) { flag::ACK } else { rng.next() as u8 & 0x3f };
            let out = Outgoing {
                seq: b.tcb.rcv_nxt.wrapping_add((rng.next() % 5000) as u32).wrapping_sub(1500),
                ack: b.tcb.snd_una.wrapping_add((rng.next() % 4000) as u32).wrapping_sub(500),
                flags,
                window: rng.next() as u16,
                options,
                mss: 1460,
            };
            let mut bytes = out.header(1, 2);
            bytes.extend(noise((rng.next() % 1400) as usize));
            let mut sink = Sink::default();
            b.tcb.write(&noise((rng.next() % 3000) as usize));
            let now = step * 10 * MS;
            b.tcb.on_segment(&Segment::parse(&bytes).unwrap(), now, &mut b.got, &mut sink);
            b.tcb.output(now, &mut sink);
            let in_flight: u32 = b.tcb.sent.iter().filter(|s| !s.lost && !s.sacked).map(|s| s.len).sum();
            assert_eq!(in_flight, b.tcb.flight, "seed {seed} step {step}");
            if b.tcb.deadline().is_some_and(|d| d <= now) {
                b.tcb.on_timer(now, &mut sink);
            }
        }
        a.tcb.abort(&mut Sink::default());
    }
}
