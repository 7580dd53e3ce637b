//! SYN cookies (RFC 4987, 3.6): while a listener has as many half-open connections as it may have, a SYN is answered without keeping
//! anything, with a first sequence number that only we can make; who answers that has a connection.
//!
//! The number holds the minute, an index of segment sizes and a keyed hash; window scale and SACK go in the low bits of the timestamp,
//! which comes back, too. Without timestamps the connection has neither.

use super::{InetSock, sock::Phase};
use crate::stack::{Device, Path, Stack};
use crate::tcp::{
    Tcb,
    segment::{Options, Outgoing, Segment, flag},
};
use kernel::net::{SocketKind, SocketOps};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Segment sizes that a number can stand for.
const SIZES: [u16; 8] = [216, 536, 1220, 1300, 1400, 1440, 1460, 8940];
/// How long one number holds; it is good for two of these.
const PERIOD: u64 = 64_000_000_000;
/// Bits of a timestamp that hold options, and the scale that stands for none.
const BITS: u32 = 31;
const NO_SCALE: u32 = 15;

fn period(now: u64) -> u32 {
    (now / PERIOD) as u32
}

/// The number for a connection whose peer began with `irs`.
fn number(stack: &Stack, local: SocketAddr, remote: SocketAddr, irs: u32, period: u32, index: u32) -> u32 {
    let hash = stack.connections.secret(&(local, remote, irs, period, index)) as u32;
    (period & 31) << 27 | index << 24 | hash & 0x00ff_ffff
}

/// The segment size that a number stands for; `None` if it is none of ours, or too old.
fn check(stack: &Stack, local: SocketAddr, remote: SocketAddr, irs: u32, number_: u32, now: u64) -> Option<u16> {
    let index = number_ >> 24 & 7;
    let periods = [period(now), period(now).wrapping_sub(1)];
    let good = periods.into_iter().any(|p| number(stack, local, remote, irs, p, index) == number_);
    SIZES.get(index as usize).copied().filter(|_| good)
}

/// A timestamp not later than now that holds the options of a SYN.
fn time_with(options: &Options, now: u64) -> u32 {
    let milliseconds = (now / 1_000_000) as u32;
    let bits = options.scale.map_or(NO_SCALE, u32::from) | if options.sack_ok { 16 } else { 0 };
    let time = milliseconds & !BITS | bits;
    if time > milliseconds { time.wrapping_sub(BITS + 1) } else { time }
}

/// Answers a SYN for a listener that can keep no more of them.
pub fn answer(stack: &Stack, path: &mut Path, listener: &InetSock, local: SocketAddr, remote: SocketAddr, syn: &Segment<'_>) {
    let now = host::time::monotonic_ns();
    stack.cookies_at.store(now, Relaxed);
    let wanted = syn.options.mss.unwrap_or(536);
    let index = SIZES.iter().rposition(|s| *s <= wanted).unwrap_or(0);
    let seq = number(stack, local, remote, syn.seq, period(now), index as u32);
    let timed = syn.options.time.is_some();
    let config = listener.config(path.mtu, remote.is_ipv4());
    let options = Options {
        mss: Some(config.mss),
        scale: syn.options.scale.filter(|_| timed).map(|_| crate::tcp::SCALE),
        sack_ok: syn.options.sack_ok && timed,
        time: syn.options.time.map(|(theirs, _)| (time_with(&syn.options, now), theirs)),
        ..Options::default()
    };
    let out = Outgoing { seq, ack: syn.seq.wrapping_add(1), flags: flag::SYN | flag::ACK, window: u16::MAX, options, mss: 0 };
    let ttl = listener.extra.ttl(remote.is_ipv4());
    super::outside::send_segment(stack, path, local, remote, (ttl, 0), &out, &[]);
}

/// Whether a segment that belongs to no connection answers one of our numbers: then there is the connection, which has yet to be
/// given the segment.
pub fn accept(stack: &Stack, device: &Arc<Device>, local: SocketAddr, remote: SocketAddr, s: &Segment<'_>) -> bool {
    let now = host::time::monotonic_ns();
    let sent = stack.cookies_at.load(Relaxed);
    if s.flags & (flag::SYN | flag::ACK | flag::RST) != flag::ACK || sent == 0 || now.saturating_sub(sent) > 2 * PERIOD {
        return false;
    }
    let irs = s.seq.wrapping_sub(1);
    let Some(mss) = check(stack, local, remote, irs, s.ack.wrapping_sub(1), now) else { return false };
    let Some(listener) = stack.ports.listener(local, stack.connections.hash(local, remote)) else { return false };
    let Ok(path) = stack.path(remote.ip(), Some(local.ip()), super::outside::scope_of(remote, device)) else { return false };
    if !matches!(&listener.lock().phase, Phase::Listening { backlog, pending, .. } if pending.len() <= *backlog) {
        return false;
    }
    let bits = s.options.time.map(|(_, echo)| echo & BITS);
    let options = Options {
        mss: Some(mss),
        scale: bits.map(|b| b & NO_SCALE).filter(|b| *b != NO_SCALE).map(|b| b as u8),
        sack_ok: bits.is_some_and(|b| b & 16 != 0),
        time: s.options.time.map(|(theirs, _)| (theirs, 0)),
        ..Options::default()
    };
    let syn = Segment { seq: irs, ack: 0, flags: flag::SYN, urgent: 0, options, payload: &[], ..*s };
    let child = InetSock::new(listener.is_v6(), SocketKind::Stream, &listener.stack, listener.uid);
    child.options().inherit(listener.options());
    child.extra.inherit(&listener.extra);
    {
        let mut c = child.lock();
        (c.local, c.remote, c.listener) = (Some(local), Some(remote), Arc::downgrade(&listener));
        let config = child.config(path.mtu, remote.is_ipv4());
        c.path = Some(Box::new(path));
        c.tcb = Some(Box::new(Tcb::resume(config, s.ack.wrapping_sub(1), &syn, now)));
    }
    stack.connections.add(local, remote, &child)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_recognized_for_two_periods() {
        let stack = Stack::loopback(Arc::default());
        let (a, b): (SocketAddr, SocketAddr) = ("10.0.0.1:80".parse().expect("address"), "10.0.0.2:4000".parse().expect("address"));
        let now = 1000 * PERIOD;
        for index in 0..8 {
            let n = number(&stack, a, b, 77, period(now), index);
            assert_eq!(check(&stack, a, b, 77, n, now), Some(SIZES[index as usize]));
            assert_eq!(check(&stack, a, b, 77, n, now + PERIOD), Some(SIZES[index as usize]));
            assert_eq!(check(&stack, a, b, 77, n, now + 2 * PERIOD), None);
            assert_eq!(check(&stack, a, b, 78, n, now), None);
            assert_eq!(check(&stack, b, a, 77, n, now), None);
            assert_eq!(check(&stack, a, b, 77, n ^ 1, now), None);
        }
    }

    #[test]
    fn timestamps_hold_options_and_are_not_ahead() {
        for now in [5_000_000_123_u64, 5_031_000_000, 5_032_000_000, 77_777_000_000] {
            for (scale, sack_ok) in [(None, false), (Some(0), true), (Some(14), true)] {
                let time = time_with(&Options { scale, sack_ok, ..Options::default() }, now);
                assert!(u64::from(time) <= now / 1_000_000 && u64::from(time) + 32 >= now / 1_000_000);
                assert_eq!((time & NO_SCALE, time & 16 != 0), (scale.map_or(15, u32::from), sack_ok));
            }
        }
    }
}
