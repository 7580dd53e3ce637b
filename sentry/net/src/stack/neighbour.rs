//! Neighbours of a device: who has which Ethernet address. ARP (RFC 826) and IPv6 neighbour discovery (RFC 4861) ask and answer.

use crate::wire::Mac;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// How long an address is good without being confirmed, then between questions.
const REACHABLE: u64 = 30_000_000_000;
const RETRY: u64 = 1_000_000_000;
/// Questions without an answer.
const TRIES: u32 = 3;
/// Packets that wait for an answer, for each neighbour (`unres_qlen`), and neighbours in all (`gc_thresh3`).
const WAITING: usize = 101;
const TABLE_MAX: usize = 1024;

/// A frame that waits for its address: everything behind the Ethernet header, and the virtio-net header.
#[derive(Debug)]
pub struct Waiting {
    pub vnet: [u8; 10],
    pub ethertype: u16,
    pub bytes: Vec<u8>,
}

/// `NUD_*` of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Nud {
    Incomplete = 1,
    Reachable = 2,
    Stale = 4,
    Failed = 0x20,
    Permanent = 0x80,
}

#[derive(Debug)]
struct Entry {
    mac: Option<Mac>,
    permanent: bool,
    confirmed: u64,
    asked: u64,
    tries: u32,
    used: u64,
    queue: Vec<Waiting>,
}

/// What to do with a packet to a neighbour.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Send it there; also ask again, if the flag is set.
    Known(Mac, bool),
    /// It waits; ask, if the flag is set.
    Wait(bool),
}

/// The table.
#[derive(Debug, Default)]
pub struct Neighbours(BTreeMap<IpAddr, Entry>);

impl Neighbours {
    /// An address that never changes by itself.
    pub fn pin(&mut self, ip: IpAddr, mac: Mac) {
        self.0.insert(ip, Entry { mac: Some(mac), permanent: true, confirmed: 0, asked: 0, tries: 0, used: 0, queue: Vec::new() });
    }

    /// Forgets a neighbour; whether it was known.
    pub fn forget(&mut self, ip: IpAddr) -> bool {
        self.0.remove(&ip).is_some()
    }

    /// The address of a neighbour; without one, `packet` is kept until there is.
    pub fn resolve(&mut self, ip: IpAddr, now: u64, packet: impl FnOnce() -> Waiting) -> Answer {
        if self.0.len() >= TABLE_MAX && !self.0.contains_key(&ip) {
            let oldest = self.0.iter().filter(|(_, e)| !e.permanent).min_by_key(|(_, e)| e.used).map(|(ip, _)| *ip);
            if let Some(oldest) = oldest {
                self.0.remove(&oldest);
            }
        }
        let e = self.0.entry(ip).or_insert_with(|| Entry {
            mac: None,
            permanent: false,
            confirmed: 0,
            asked: 0,
            tries: 0,
            used: now,
            queue: Vec::new(),
        });
        e.used = now;
        if let Some(mac) = e.mac {
            let stale = !e.permanent && now.saturating_sub(e.confirmed) > REACHABLE;
            let ask = stale && now.saturating_sub(e.asked) > RETRY;
            if ask {
                e.asked = now;
                e.tries += 1;
                if e.tries > TRIES {
                    // It has not answered: ask everybody, and hold packets back until then.
                    (e.mac, e.tries) = (None, 1);
                    e.queue.push(packet());
                    return Answer::Wait(true);
                }
            }
            return Answer::Known(mac, ask);
        }
        if e.queue.len() >= WAITING {
            e.queue.remove(0);
        }
        e.queue.push(packet());
        let ask = e.asked == 0 || now.saturating_sub(e.asked) >= RETRY;
        if ask {
            e.asked = now;
            e.tries = 1;
        }
        Answer::Wait(ask)
    }

    /// A neighbour has told its address. `create`: also if nobody asked. Gives the packets that waited, and whether anything changed.
    pub fn learn(&mut self, ip: IpAddr, mac: Mac, create: bool, now: u64) -> (Vec<Waiting>, bool) {
        if create && !self.0.contains_key(&ip) && self.0.len() < TABLE_MAX {
            self.0.insert(ip, Entry { mac: None, permanent: false, confirmed: now, asked: 0, tries: 0, used: now, queue: Vec::new() });
        }
        let Some(e) = self.0.get_mut(&ip).filter(|e| !e.permanent) else { return (Vec::new(), false) };
        let changed = e.mac != Some(mac);
        e.mac = Some(mac);
        (e.confirmed, e.tries) = (now, 0);
        (std::mem::take(&mut e.queue), changed)
    }

    /// Questions that are to be asked again, and neighbours that do not answer, with the packets that waited for them.
    pub fn tick(&mut self, now: u64) -> (Vec<IpAddr>, Vec<(IpAddr, Vec<Waiting>)>) {
        let (mut ask, mut failed) = (Vec::new(), Vec::new());
        for (ip, e) in &mut self.0 {
            if e.mac.is_some() || e.queue.is_empty() || now.saturating_sub(e.asked) < RETRY {
                continue;
            }
            if e.tries < TRIES {
                e.tries += 1;
                e.asked = now;
                ask.push(*ip);
            } else {
                failed.push((*ip, std::mem::take(&mut e.queue)));
            }
        }
        (ask, failed)
    }

    /// Whether a question is open.
    pub fn waiting(&self) -> bool {
        self.0.values().any(|e| e.mac.is_none() && !e.queue.is_empty())
    }

    /// All of them, for netlink and /proc/net/arp.
    pub fn list(&self, now: u64) -> Vec<(IpAddr, Option<Mac>, Nud)> {
        let state = |e: &Entry| match (e.permanent, e.mac) {
            (true, _) => Nud::Permanent,
            (_, Some(_)) if now.saturating_sub(e.confirmed) > REACHABLE => Nud::Stale,
            (_, Some(_)) => Nud::Reachable,
            (_, None) if e.queue.is_empty() => Nud::Failed,
            (_, None) => Nud::Incomplete,
        };
        self.0.iter().map(|(ip, e)| (*ip, e.mac, state(e))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_waits_and_learns() {
        let mut n = Neighbours::default();
        let ip: IpAddr = "10.0.0.1".parse().unwrap();
        let packet = || Waiting { vnet: [0; 10], ethertype: 0x800, bytes: vec![1] };
        let second = 1_000_000_000;
        assert_eq!(n.resolve(ip, second, packet), Answer::Wait(true));
        assert_eq!(n.resolve(ip, second + 1, packet), Answer::Wait(false));
        assert_eq!(n.tick(2 * second).0, [ip]);
        let (queue, changed) = n.learn(ip, [2; 6], false, 2 * second);
        assert_eq!((queue.len(), changed), (2, true));
        assert_eq!(n.resolve(ip, 3 * second, packet), Answer::Known([2; 6], false));
        assert_eq!(n.resolve(ip, 40 * second, packet), Answer::Known([2; 6], true));
        let other = "10.0.0.9".parse().unwrap();
        n.resolve(other, 50 * second, packet);
        for t in 51..53 {
            assert_eq!(n.tick(t * second).0, [other]);
        }
        assert_eq!(n.tick(60 * second).1.len(), 1);
        assert!(!n.waiting());
        for i in 0..5000u32 {
            n.resolve(IpAddr::from(std::net::Ipv4Addr::from_bits(i)), 60 * second, packet);
        }
        assert!(n.0.len() <= TABLE_MAX);
        n.pin(ip, [9; 6]);
        assert!(n.learn(ip, [1; 6], true, 0).0.is_empty());
        assert_eq!(n.resolve(ip, u64::MAX, packet), Answer::Known([9; 6], false));
    }
}
