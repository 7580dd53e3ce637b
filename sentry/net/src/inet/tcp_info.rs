//! `struct tcp_info`: tcp(7).

use super::InetSock;
use crate::tcp::Figures;

/// Its bytes, as Linux 6 has them.
pub fn of(sock: &InetSock) -> Vec<u8> {
    let mut b = vec![0; 248];
    let s = sock.lock();
    let state = sock.state_number(&s);
    let f = match &s.tcb {
        Some(t) => t.figures(),
        // Two queues: the figures of loopback.
        None => Figures {
            rtt: 20_000,
            deviation: 10_000,
            least_rtt: 10_000,
            timeout: 201_000_000,
            window: 10,
            threshold: i32::MAX as u32,
            mss: if s.peer.is_some() { 32_741 } else { 536 },
            scales: (7, 7),
            time_ok: s.peer.is_some(),
            sack_ok: s.peer.is_some(),
            ..Figures::default()
        },
    };
    let counters = s.tcb.as_ref().map(|t| t.counters).unwrap_or_default();
    let unsent = s.tcb.as_ref().map_or(0, |t| t.unsent());
    let position = s.position + s.stream.len() as u64;
    let connected = s.remote.is_some();
    drop(s);
    let mut put8 = |at: usize, v: u8| {
        if let Some(x) = b.get_mut(at) {
            *x = v;
        }
    };
    put8(0, state);
    put8(1, f.recovering);
    put8(4, f.backoff as u8);
    put8(5, u8::from(f.time_ok) | u8::from(f.sack_ok) << 1 | if connected { 4 } else { 0 });
    put8(6, f.scales.0 & 15 | f.scales.1 << 4);
    let mut put32 = |at: usize, v: u64| {
        if let Some(x) = b.get_mut(at..at + 4) {
            x.copy_from_slice(&(v.min(u64::from(u32::MAX)) as u32).to_ne_bytes());
        }
    };
    // Times in microseconds.
    put32(8, f.timeout / 1000);
    put32(12, 40_000);
    put32(16, u64::from(f.mss));
    put32(20, u64::from(f.mss.min(536)));
    put32(24, u64::from(f.flight));
    put32(60, 65_535);
    put32(64, 65_535);
    put32(68, f.rtt / 1000);
    put32(72, f.deviation / 1000);
    put32(76, u64::from(f.threshold));
    put32(80, u64::from(f.window));
    put32(84, u64::from(f.mss));
    put32(88, 3);
    put32(100, u64::from(counters.retransmitted));
    put32(136, u64::from(counters.segments_out));
    put32(140, u64::from(counters.segments_in));
    put32(144, unsent as u64);
    put32(148, f.least_rtt / 1000);
    put32(228, u64::from(f.peer_window));
    let mut put64 = |at: usize, v: u64| {
        if let Some(x) = b.get_mut(at..at + 8) {
            x.copy_from_slice(&v.to_ne_bytes());
        }
    };
    put64(104, u64::MAX);
    put64(112, u64::MAX);
    put64(120, counters.bytes_acked);
    put64(128, if counters.segments_in > 0 { counters.bytes_received } else { position });
    put64(200, counters.bytes_sent);
    b
}
