//! What packet and raw sockets see of TCP over loopback: the segments that there would be on Linux. Only made while somebody looks.

use super::{InetSock, sock::State};
use crate::tcp::segment::{Options, Outgoing, flag};
use crate::wire::{self, IpHeader};
use std::net::SocketAddr;

/// The most data of a segment (loopback's MTU without headers).
const MSS: usize = 65_483;

/// One segment's numbers.
pub struct Seen {
    local: SocketAddr,
    remote: SocketAddr,
    seq: u32,
    ack: u32,
}

impl InetSock {
    /// The first sequence number from one end to the other.
    fn first_seen(&self, from: SocketAddr, to: SocketAddr) -> u32 {
        self.stack.connections.hash(from, to) as u32
    }

    /// Numbers of what this end sends now, having sent `sent` bytes; `None` while nobody looks.
    pub(super) fn seen(&self, s: &State, sent: u64) -> Option<Seen> {
        let (local, remote) = (s.local?, s.remote?);
        if !self.stack.is_tapped() {
            return None;
        }
        let seq = self.first_seen(local, remote).wrapping_add(1).wrapping_add(sent as u32);
        let got = (s.position + s.stream.len() as u64) as u32;
        let ack = self.first_seen(remote, local).wrapping_add(1).wrapping_add(got).wrapping_add(u32::from(s.fin));
        Some(Seen { local, remote, seq, ack })
    }

    /// Shows data, and with the last of it `flags`.
    pub(super) fn show_data(&self, seen: &Seen, data: &[u8], flags: u8) {
        let mut pieces = data.chunks(MSS).peekable();
        let mut seq = seen.seq;
        if pieces.peek().is_none() {
            return self.show_segment(seen, seq, seen.ack, flags, &[]);
        }
        while let Some(piece) = pieces.next() {
            let last = pieces.peek().is_none();
            self.show_segment(seen, seq, seen.ack, if last { flags } else { flag::ACK }, piece);
            seq = seq.wrapping_add(piece.len() as u32);
        }
    }

    /// Shows the segments of a connection that begins: `accepted`, or refused.
    pub(super) fn show_handshake(&self, local: SocketAddr, remote: SocketAddr, accepted: bool) {
        if !self.stack.is_tapped() {
            return;
        }
        let (ours, theirs) = (self.first_seen(local, remote), self.first_seen(remote, local));
        let there = Seen { local, remote, seq: ours, ack: 0 };
        let back = Seen { local: remote, remote: local, seq: theirs, ack: 0 };
        self.show_segment(&there, ours, 0, flag::SYN, &[]);
        if accepted {
            self.show_segment(&back, theirs, ours.wrapping_add(1), flag::SYN | flag::ACK, &[]);
            self.show_segment(&there, ours.wrapping_add(1), theirs.wrapping_add(1), flag::ACK, &[]);
        } else {
            self.show_segment(&back, 0, ours.wrapping_add(1), flag::RST | flag::ACK, &[]);
        }
    }

    fn show_segment(&self, seen: &Seen, seq: u32, ack: u32, flags: u8, data: &[u8]) {
        let v4 = seen.remote.is_ipv4();
        let options = if flags & flag::SYN != 0 {
            let mss = Some(if v4 { 65_495 } else { 65_475 });
            Options { mss, scale: Some(7), sack_ok: true, ..Options::default() }
        } else {
            Options::default()
        };
        let window = if flags & flag::RST != 0 { 0 } else { 512 };
        let out = Outgoing { seq, ack, flags, window, options, mss: 0 };
        let mut segment = out.header(seen.local.port(), seen.remote.port());
        segment.extend_from_slice(data);
        let h = IpHeader {
            src: seen.local.ip(),
            dst: seen.remote.ip(),
            protocol: wire::TCP,
            ttl: self.extra.ttl(v4),
            tos: self.extra.tos(v4),
            id: self.stack.packet_id() as u16,
            dont_fragment: true,
            fragment: None,
        };
        self.stack.tap(&h, &mut segment, 16);
    }
}
