//! Headers below TCP: Ethernet, ARP, IPv4 (RFC 791), IPv6 (RFC 8200), UDP, and the Internet checksum (RFC 1071).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An Ethernet address.
pub type Mac = [u8; 6];
/// To everybody.
pub const BROADCAST: Mac = [0xff; 6];

/// Ethernet types.
pub const ETH_IPV4: u16 = 0x0800;
pub const ETH_ARP: u16 = 0x0806;
pub const ETH_IPV6: u16 = 0x86dd;

/// Protocol numbers.
pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;

pub fn be16(b: &[u8], at: usize) -> Option<u16> {
    b.get(at..)?.first_chunk().map(|x| u16::from_be_bytes(*x))
}

pub fn be32(b: &[u8], at: usize) -> Option<u32> {
    b.get(at..)?.first_chunk().map(|x| u32::from_be_bytes(*x))
}

/// Writes over what is there; nothing if it would not fit.
pub fn put(b: &mut [u8], at: usize, value: &[u8]) {
    if let Some(d) = b.get_mut(at..at + value.len()) {
        d.copy_from_slice(value);
    }
}

/// Adds bytes to an unfolded sum. All but the last piece must have an even length.
pub fn sum(start: u64, b: &[u8]) -> u64 {
    let mut s = start;
    let mut words = b.chunks_exact(4);
    for w in &mut words {
        s += u64::from(u32::from_be_bytes([w[0], w[1], w[2], w[3]]));
    }
    match *words.remainder() {
        [a] => s + (u64::from(a) << 8),
        [a, b] => s + u64::from(u16::from_be_bytes([a, b])),
        [a, b, c] => s + u64::from(u16::from_be_bytes([a, b])) + (u64::from(c) << 8),
        _ => s,
    }
}

/// Folds a sum to 16 bits, not inverted.
pub fn fold(mut s: u64) -> u16 {
    while s > 0xffff {
        s = (s & 0xffff) + (s >> 16);
    }
    s as u16
}

/// The checksum of one buffer.
pub fn checksum(b: &[u8]) -> u16 {
    !fold(sum(0, b))
}

/// The sum of the pseudo header.
pub fn pseudo(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> u64 {
    let address = |a: IpAddr| match a {
        IpAddr::V4(a) => sum(0, &a.octets()),
        IpAddr::V6(a) => sum(0, &a.octets()),
    };
    address(src) + address(dst) + u64::from(protocol) + len as u64
}

/// Where a fragment belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    pub id: u32,
    /// In bytes.
    pub offset: usize,
    pub more: bool,
}

/// An IP packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS or traffic class.
    pub tos: u8,
    pub fragment: Option<Fragment>,
    /// The network header with options or extension headers.
    pub header: &'a [u8],
    pub payload: &'a [u8],
    /// DF is set (always, for IPv6).
    pub dont_fragment: bool,
}

/// Takes an IPv4 packet apart: `None` if it is malformed. `trusted`: the header's checksum has been looked at.
pub fn parse_v4(b: &[u8]) -> Option<Packet<'_>> {
    let first = *b.first()?;
    let header_len = usize::from(first & 15) * 4;
    let total = usize::from(be16(b, 2)?);
    if first >> 4 != 4 || header_len < 20 || total < header_len {
        return None;
    }
    let header = b.get(..header_len)?;
    if fold(sum(0, header)) != 0xffff {
        return None;
    }
    let flags = be16(b, 6)?;
    let (offset, more) = (usize::from(flags & 0x1fff) * 8, flags & 0x2000 != 0);
    Some(Packet {
        src: Ipv4Addr::from(be32(b, 12)?).into(),
        dst: Ipv4Addr::from(be32(b, 16)?).into(),
        protocol: *b.get(9)?,
        ttl: *b.get(8)?,
        tos: *b.get(1)?,
        fragment: (more || offset > 0).then_some(Fragment { id: u32::from(be16(b, 4)?), offset, more }),
        header,
        payload: b.get(header_len..total)?,
        dont_fragment: flags & 0x4000 != 0,
    })
}

/// Takes an IPv6 packet apart, over extension headers; `None` if it is malformed or has one that must not be ignored.
pub fn parse_v6(b: &[u8]) -> Option<Packet<'_>> {
    let first = be32(b, 0)?;
    let total = 40 + usize::from(be16(b, 4)?);
    let whole = b.get(..total)?;
    if first >> 28 != 6 {
        return None;
    }
    let address = |at: usize| whole.get(at..)?.first_chunk::<16>().map(|a| IpAddr::V6(Ipv6Addr::from(*a)));
    let mut next = *b.get(6)?;
    let mut at = 40;
    let mut fragment = None;
    // More extension headers than any honest packet has end the search.
    for _ in 0..8 {
        match next {
            // Hop-by-hop, destination options; routing with nothing left to do.
            0 | 60 | 43 => {
                if next == 43 && *whole.get(at + 3)? != 0 {
                    return None;
                }
                next = *whole.get(at)?;
                at += 8 + usize::from(*whole.get(at + 1)?) * 8;
            }
            44 if fragment.is_none() => {
                let f = be16(whole, at + 2)?;
                let found = Fragment { id: be32(whole, at + 4)?, offset: usize::from(f & !7), more: f & 1 != 0 };
                next = *whole.get(at)?;
                at += 8;
                if found.offset > 0 || found.more {
                    fragment = Some(found);
                    break;
                }
            }
            _ => break,
        }
    }
    Some(Packet {
        src: address(8)?,
        dst: address(24)?,
        protocol: next,
        ttl: *b.get(7)?,
        tos: (first >> 20) as u8,
        fragment,
        header: whole.get(..at)?,
        payload: whole.get(at..)?,
        dont_fragment: true,
    })
}

/// What goes into a network header.
#[derive(Clone, Copy, Debug)]
pub struct IpHeader {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub protocol: u8,
    pub ttl: u8,
    pub tos: u8,
    pub id: u16,
    pub dont_fragment: bool,
    pub fragment: Option<Fragment>,
}

impl IpHeader {
    /// Bytes of the header.
    pub fn len(&self) -> usize {
        match (self.dst, self.fragment) {
            (IpAddr::V4(_), _) => 20,
            (IpAddr::V6(_), None) => 40,
            (IpAddr::V6(_), Some(_)) => 48,
        }
    }

    /// Appends the header of a packet with this much behind it.
    pub fn write(&self, payload: usize, out: &mut Vec<u8>) {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let start = out.len();
                let flags = match self.fragment {
                    Some(f) => (f.offset / 8) as u16 | if f.more { 0x2000 } else { 0 },
                    None if self.dont_fragment => 0x4000,
                    None => 0,
                };
                out.extend_from_slice(&[0x45, self.tos]);
                out.extend_from_slice(&((payload + 20) as u16).to_be_bytes());
                out.extend_from_slice(&self.fragment.map_or(self.id, |f| f.id as u16).to_be_bytes());
                out.extend_from_slice(&flags.to_be_bytes());
                out.extend_from_slice(&[self.ttl, self.protocol, 0, 0]);
                out.extend_from_slice(&src.octets());
                out.extend_from_slice(&dst.octets());
                let sum = checksum(out.get(start..).unwrap_or_default());
                put(out, start + 10, &sum.to_be_bytes());
            }
            (src, dst) => {
                let six = |a: IpAddr| match a {
                    IpAddr::V6(a) => a.octets(),
                    IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
                };
                let extra = if self.fragment.is_some() { 8 } else { 0 };
                out.extend_from_slice(&(6 << 28 | u32::from(self.tos) << 20).to_be_bytes());
                out.extend_from_slice(&((payload + extra) as u16).to_be_bytes());
                out.extend_from_slice(&[if self.fragment.is_some() { 44 } else { self.protocol }, self.ttl]);
                out.extend_from_slice(&six(src));
                out.extend_from_slice(&six(dst));
                if let Some(f) = self.fragment {
                    out.extend_from_slice(&[self.protocol, 0]);
                    out.extend_from_slice(&(f.offset as u16 | u16::from(f.more)).to_be_bytes());
                    out.extend_from_slice(&f.id.to_be_bytes());
                }
            }
        }
    }
}

/// A UDP header, with the checksum left to be filled in.
pub fn udp_header(src: u16, dst: u16, len: usize) -> [u8; 8] {
    let mut h = [0; 8];
    put(&mut h, 0, &src.to_be_bytes());
    put(&mut h, 2, &dst.to_be_bytes());
    put(&mut h, 4, &((len + 8) as u16).to_be_bytes());
    h
}

/// The Ethernet address of a multicast group.
pub fn multicast_mac(ip: IpAddr) -> Mac {
    match ip {
        IpAddr::V4(ip) => {
            let [_, b, c, d] = ip.octets();
            [1, 0, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V6(ip) => {
            let o = ip.octets();
            [0x33, 0x33, o[12], o[13], o[14], o[15]]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back() {
        let v4 = IpHeader {
            src: Ipv4Addr::new(10, 0, 0, 1).into(),
            dst: Ipv4Addr::new(10, 0, 0, 2).into(),
            protocol: UDP,
            ttl: 64,
            tos: 8,
            id: 5,
            dont_fragment: false,
            fragment: None,
        };
        let (a, b) = (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::new(1, 2, 3, 4, 5, 6, 7, 8).into());
        let v6 = IpHeader { src: a, dst: b, ..v4 };
        let part = Some(Fragment { id: 9, offset: 16, more: true });
        for h in [v4, v6, IpHeader { fragment: part, ..v4 }, IpHeader { fragment: part, ..v6 }] {
            let mut out = Vec::new();
            h.write(5, &mut out);
            assert_eq!(out.len(), h.len());
            out.extend(b"hello, and padding");
            let p = if h.src.is_ipv4() { parse_v4(&out) } else { parse_v6(&out) }.unwrap();
            assert_eq!((p.src, p.dst, p.protocol, p.ttl, p.tos, p.fragment), (h.src, h.dst, UDP, 64, 8, h.fragment));
            assert_eq!(p.payload, b"hello");
            for n in 0..h.len() {
                assert!(parse_v4(&out[..n]).is_none() && parse_v6(&out[..n]).is_none());
            }
        }
    }

    #[test]
    fn sums() {
        // RFC 1071's example.
        assert_eq!(fold(sum(0, &[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
        assert_eq!(fold(sum(sum(0, &[1, 2]), &[3])), fold(sum(0, &[1, 2, 3, 0])));
    }
}
