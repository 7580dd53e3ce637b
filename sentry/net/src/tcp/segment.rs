//! TCP segments as they are on the wire: RFC 9293, 3.1; window scale and timestamps: RFC 7323; SACK: RFC 2018.

/// Header bits.
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 1;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 2;
    /// Reset.
    pub const RST: u8 = 4;
    /// The receiver should hand the data on.
    pub const PSH: u8 = 8;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 16;
    /// The urgent pointer counts.
    pub const URG: u8 = 32;
}

/// Blocks of SACK that are kept of a segment, or sent in one.
pub const SACK_MAX: usize = 4;

/// Options of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Maximum segment size.
    pub mss: Option<u16>,
    /// Window scale.
    pub scale: Option<u8>,
    /// SACK is permitted.
    pub sack_ok: bool,
    /// Timestamp and echo.
    pub time: Option<(u32, u32)>,
    /// SACK blocks; the first `sacks` count.
    pub sack: [(u32, u32); SACK_MAX],
    /// Their number.
    pub sacks: usize,
}

/// A segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Ports.
    pub src: u16,
    /// Ports.
    pub dst: u16,
    /// First sequence number.
    pub seq: u32,
    /// Acknowledgement.
    pub ack: u32,
    /// [`flag`]s.
    pub flags: u8,
    /// Window as it is written, not scaled.
    pub window: u16,
    /// Urgent pointer.
    pub urgent: u16,
    /// Options.
    pub options: Options,
    /// Data.
    pub payload: &'a [u8],
}

fn be16(b: &[u8], at: usize) -> Option<u16> {
    b.get(at..)?.first_chunk().map(|x| u16::from_be_bytes(*x))
}

fn be32(b: &[u8], at: usize) -> Option<u32> {
    b.get(at..)?.first_chunk().map(|x| u32::from_be_bytes(*x))
}

impl<'a> Segment<'a> {
    /// Takes a segment apart; `None` if it is malformed. The checksum is not looked at here.
    pub fn parse(b: &'a [u8]) -> Option<Segment<'a>> {
        let offset = usize::from(b.get(12)? >> 4) * 4;
        if offset < 20 {
            return None;
        }
        Some(Segment {
            src: be16(b, 0)?,
            dst: be16(b, 2)?,
            seq: be32(b, 4)?,
            ack: be32(b, 8)?,
            flags: *b.get(13)? & 0x3f,
            window: be16(b, 14)?,
            urgent: be16(b, 18)?,
            options: Options::parse(b.get(20..offset)?),
            payload: b.get(offset..)?,
        })
    }

    /// Whether any of these bits is set.
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    /// Sequence numbers that it takes: data, SYN and FIN.
    pub fn len(&self) -> u32 {
        self.payload.len() as u32 + u32::from(self.has(flag::SYN)) + u32::from(self.has(flag::FIN))
    }
}

impl Options {
    /// Unknown options are skipped; a malformed one ends the list, as Linux does.
    fn parse(mut b: &[u8]) -> Options {
        let mut o = Options::default();
        while let Some((&kind, rest)) = b.split_first() {
            match kind {
                0 => break,
                1 => {
                    b = rest;
                    continue;
                }
                _ => {}
            }
            let Some(&len) = rest.first() else { break };
            let len = usize::from(len);
            let Some(value) = b.get(2..len.max(2)).filter(|_| len >= 2) else { break };
            match (kind, value.len()) {
                (2, 2) => o.mss = be16(value, 0),
                (3, 1) => o.scale = value.first().map(|s| (*s).min(14)),
                (4, 0) => o.sack_ok = true,
                (5, n) if n % 8 == 0 => {
                    for pair in value.chunks_exact(8).take(SACK_MAX) {
                        if let (Some(from), Some(to), Some(slot)) = (be32(pair, 0), be32(pair, 4), o.sack.get_mut(o.sacks)) {
                            *slot = (from, to);
                            o.sacks += 1;
                        }
                    }
                }
                (8, 8) => o.time = be32(value, 0).zip(be32(value, 4)),
                _ => {}
            }
            b = b.get(len..).unwrap_or_default();
        }
        o
    }

    /// The SACK blocks.
    pub fn blocks(&self) -> &[(u32, u32)] {
        self.sack.get(..self.sacks).unwrap_or_default()
    }

    fn write(&self, out: &mut Vec<u8>) {
        if let Some(mss) = self.mss {
            out.extend_from_slice(&[2, 4]);
            out.extend_from_slice(&mss.to_be_bytes());
        }
        if self.sack_ok {
            out.extend_from_slice(&[1, 1, 4, 2]);
        }
        if let Some((value, echo)) = self.time {
            out.extend_from_slice(&[1, 1, 8, 10]);
            out.extend_from_slice(&value.to_be_bytes());
            out.extend_from_slice(&echo.to_be_bytes());
        }
        if let Some(scale) = self.scale {
            out.extend_from_slice(&[1, 3, 3, scale]);
        }
        // Three blocks fit beside a timestamp.
        let room = if self.time.is_some() { 3 } else { SACK_MAX };
        let blocks = self.blocks();
        let blocks = blocks.get(..blocks.len().min(room)).unwrap_or_default();
        if !blocks.is_empty() {
            out.extend_from_slice(&[1, 1, 5, 2 + 8 * blocks.len() as u8]);
            for (from, to) in blocks {
                out.extend_from_slice(&from.to_be_bytes());
                out.extend_from_slice(&to.to_be_bytes());
            }
        }
    }
}

/// A segment that is to be sent, without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// First sequence number.
    pub seq: u32,
    /// Acknowledgement.
    pub ack: u32,
    /// [`flag`]s.
    pub flags: u8,
    /// Window as it is written.
    pub window: u16,
    /// Options.
    pub options: Options,
    /// The data is to be cut into segments of this size, if it is longer.
    pub mss: u16,
}

impl Outgoing {
    /// The header, with a checksum of zero.
    pub fn header(&self, src: u16, dst: u16) -> Vec<u8> {
        let mut out = Vec::with_capacity(60);
        out.extend_from_slice(&src.to_be_bytes());
        out.extend_from_slice(&dst.to_be_bytes());
        out.extend_from_slice(&self.seq.to_be_bytes());
        out.extend_from_slice(&self.ack.to_be_bytes());
        out.extend_from_slice(&[0, self.flags]);
        out.extend_from_slice(&self.window.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        self.options.write(&mut out);
        if let Some(offset) = (out.len() as u8 / 4).checked_mul(16)
            && let Some(b) = out.get_mut(12)
        {
            *b = offset;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back() {
        let options = Options { mss: Some(1460), scale: Some(7), sack_ok: true, time: Some((5, 6)), ..Options::default() };
        let out = Outgoing { seq: 7, ack: 8, flags: flag::SYN | flag::ACK, window: 100, options, mss: 1460 };
        let mut bytes = out.header(80, 1024);
        assert_eq!(bytes.len() % 4, 0);
        bytes.extend(b"hello");
        let s = Segment::parse(&bytes).unwrap();
        assert_eq!((s.src, s.dst, s.seq, s.ack, s.window, s.payload), (80, 1024, 7, 8, 100, &b"hello"[..]));
        assert_eq!((s.options, s.len()), (options, 6));
        let mut sack = Options { time: Some((1, 2)), sacks: 4, ..Options::default() };
        sack.sack = [(1, 2), (3, 4), (5, 6), (7, 8)];
        let bytes = Outgoing { options: sack, ..out }.header(1, 2);
        assert!(bytes.len() <= 60);
        assert_eq!(Segment::parse(&bytes).unwrap().options.blocks(), &sack.sack[..3]);
    }

    #[test]
    fn malformed_segments_are_refused_or_cut() {
        let whole = Outgoing { seq: 0, ack: 0, flags: 0, window: 0, options: Options::default(), mss: 0 }.header(1, 2);
        for n in 0..whole.len() {
            assert!(Segment::parse(&whole[..n]).is_none());
        }
        let mut bad = whole.clone();
        bad[12] = 0x60;
        bad.extend([3, 0, 0, 0]);
        assert_eq!(Segment::parse(&bad).unwrap().options, Options::default());
        bad[12] = 0xf0;
        assert!(Segment::parse(&bad).is_none());
        for seed in 0..20_000u32 {
            let mut b: Vec<u8> = (0..60).map(|i| (seed.wrapping_mul(2_654_435_761).rotate_left(i) >> (i % 24)) as u8).collect();
            b[12] |= 0x50;
            let _ = Segment::parse(&b);
        }
    }
}
