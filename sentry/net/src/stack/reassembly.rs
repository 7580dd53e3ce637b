//! Fragments become packets again: RFC 791, 3.2 and RFC 8200, 4.5. Overlaps drop the packet (RFC 5722), memory has a bound.

use crate::wire::Packet;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// How long fragments wait for the others (`ipfrag_time`), and bytes that wait in all (`ipfrag_high_thresh`).
const WAIT: u64 = 30_000_000_000;
const BYTES_MAX: usize = 4 << 20;
/// Fragments of one packet.
const PARTS_MAX: usize = 128;

type Key = (IpAddr, IpAddr, u8, u32);

#[derive(Debug)]
struct Partial {
    parts: BTreeMap<usize, Vec<u8>>,
    total: Option<usize>,
    bytes: usize,
    until: u64,
    spoiled: bool,
}

/// Packets that are not whole yet.
#[derive(Debug, Default)]
pub struct Reassembly {
    partial: BTreeMap<Key, Partial>,
    bytes: usize,
}

impl Reassembly {
    /// Takes a fragment; gives the whole payload with the last one.
    pub fn add(&mut self, p: &Packet<'_>, now: u64) -> Option<Vec<u8>> {
        let f = p.fragment?;
        let end = f.offset + p.payload.len();
        if end > 65_535 || f.more && (p.payload.len() % 8 != 0 || p.payload.is_empty()) {
            return None;
        }
        if self.bytes + p.payload.len() > BYTES_MAX {
            self.expire(now);
            // Under pressure the oldest go.
            while self.bytes + p.payload.len() > BYTES_MAX {
                let oldest = self.partial.iter().min_by_key(|(_, e)| e.until).map(|(k, _)| *k)?;
                self.drop_one(&oldest);
            }
        }
        let key = (p.src, p.dst, p.protocol, f.id);
        let e = self.partial.entry(key).or_insert_with(|| Partial {
            parts: BTreeMap::new(),
            total: None,
            bytes: 0,
            until: now + WAIT,
            spoiled: false,
        });
        let before = e.parts.range(..=f.offset).next_back().is_some_and(|(at, d)| at + d.len() > f.offset);
        let after = e.parts.range(f.offset..).next().is_some_and(|(at, _)| *at < end);
        let exact = e.parts.get(&f.offset).is_some_and(|d| d == p.payload);
        if exact {
            return None;
        }
        let past_end = e.total.is_some_and(|t| end > t || !f.more && end != t);
        if before || after || past_end || e.parts.len() >= PARTS_MAX || e.spoiled {
            e.spoiled = true;
            self.bytes -= std::mem::take(&mut e.bytes);
            e.parts.clear();
            return None;
        }
        if !f.more {
            e.total = Some(end);
        }
        e.parts.insert(f.offset, p.payload.to_vec());
        e.bytes += p.payload.len();
        self.bytes += p.payload.len();
        if e.total != Some(e.bytes) {
            return None;
        }
        self.bytes -= e.bytes;
        let e = self.partial.remove(&key)?;
        Some(e.parts.into_values().flatten().collect())
    }

    fn drop_one(&mut self, key: &Key) {
        if let Some(e) = self.partial.remove(key) {
            self.bytes -= e.bytes;
        }
    }

    /// Forgets what has waited too long.
    pub fn expire(&mut self, now: u64) {
        let old: Vec<Key> = self.partial.iter().filter(|(_, e)| e.until <= now).map(|(k, _)| *k).collect();
        for k in old {
            self.drop_one(&k);
        }
    }

    /// Whether anything waits.
    pub fn is_empty(&self) -> bool {
        self.partial.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Fragment;

    fn part(id: u32, offset: usize, more: bool, payload: &[u8]) -> Packet<'_> {
        Packet {
            src: [1, 1, 1, 1].into(),
            dst: [2, 2, 2, 2].into(),
            protocol: 17,
            ttl: 1,
            tos: 0,
            fragment: Some(Fragment { id, offset, more }),
            header: &[],
            payload,
            dont_fragment: false,
        }
    }

    #[test]
    fn any_order_makes_a_whole() {
        let data: Vec<u8> = (0..40).collect();
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]] {
            let mut r = Reassembly::default();
            let mut got = None;
            for i in order {
                let end = (i * 16 + 16).min(40);
                got = r.add(&part(1, i * 16, i < 2, &data[i * 16..end]), 0);
            }
            assert_eq!(got.as_deref(), Some(&data[..]));
            assert!(r.is_empty() && r.bytes == 0);
        }
    }

    #[test]
    fn overlaps_floods_and_old_ones_are_dropped() {
        let mut r = Reassembly::default();
        assert_eq!(r.add(&part(1, 0, true, &[1; 16]), 0), None);
        assert_eq!(r.add(&part(1, 8, true, &[2; 16]), 0), None);
        assert_eq!(r.add(&part(1, 16, false, &[2; 16]), 0), None);
        assert_eq!(r.bytes, 0);
        for id in 0..10_000 {
            assert_eq!(r.add(&part(id, 0, true, &[0; 1400]), 0), None);
            assert!(r.bytes <= BYTES_MAX);
        }
        r.expire(WAIT);
        assert!(r.is_empty() && r.bytes == 0);
    }
}
