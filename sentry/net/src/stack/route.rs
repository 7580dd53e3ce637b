//! Where a packet goes: routes by longest prefix and metric, and what is known of paths' MTUs.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub dst: IpAddr,
    pub prefix: u8,
    pub gateway: Option<IpAddr>,
    /// Index of the device.
    pub device: u32,
    /// The preferred source.
    pub source: Option<IpAddr>,
    pub metric: u32,
    /// `RTA_METRICS`' MTU.
    pub mtu: Option<u32>,
    /// `rtm_protocol`, `rtm_scope`, `rtm_type`
    pub protocol: u8,
    pub scope: u8,
    pub kind: u8,
}

/// Whether `ip` is in a network.
pub fn contains(network: IpAddr, prefix: u8, ip: IpAddr) -> bool {
    match (network, ip) {
        (IpAddr::V4(n), IpAddr::V4(i)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            (n.to_bits() ^ i.to_bits()) & mask == 0
        }
        (IpAddr::V6(n), IpAddr::V6(i)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            (n.to_bits() ^ i.to_bits()) & mask == 0
        }
        _ => false,
    }
}

/// The address with all host bits zero.
pub fn network_of(ip: IpAddr, prefix: u8) -> IpAddr {
    match ip {
        IpAddr::V4(i) => {
            std::net::Ipv4Addr::from_bits(i.to_bits() & u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)).into()
        }
        IpAddr::V6(i) => {
            std::net::Ipv6Addr::from_bits(i.to_bits() & u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0)).into()
        }
    }
}

/// The best route for a destination, of one device only if that is given.
pub fn lookup(routes: &[Route], dst: IpAddr, device: Option<u32>) -> Option<&Route> {
    routes
        .iter()
        .filter(|r| contains(r.dst, r.prefix, dst) && device.is_none_or(|d| r.device == d))
        .min_by_key(|r| (u8::MAX - r.prefix, r.metric))
}

/// MTUs that ICMP told of, which are forgotten after ten minutes (`net.ipv4.route.mtu_expires`).
#[derive(Debug, Default)]
pub struct PathMtus(BTreeMap<IpAddr, (u32, u64)>);

/// Entries that are kept.
const PATHS_MAX: usize = 4096;
const EXPIRES: u64 = 600_000_000_000;

impl PathMtus {
    /// What is known.
    pub fn get(&self, dst: IpAddr, now: u64) -> Option<u32> {
        self.0.get(&dst).filter(|e| e.1 > now).map(|e| e.0)
    }

    /// Remembers a smaller MTU.
    pub fn learn(&mut self, dst: IpAddr, mtu: u32, now: u64) {
        if self.0.len() >= PATHS_MAX {
            self.0.retain(|_, e| e.1 > now);
        }
        if self.0.len() < PATHS_MAX {
            self.0.insert(dst, (mtu, now + EXPIRES));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins() {
        let route = |dst: &str, prefix, device, metric| Route {
            dst: dst.parse().unwrap(),
            prefix,
            gateway: None,
            device,
            source: None,
            metric,
            mtu: None,
            protocol: 0,
            scope: 0,
            kind: 1,
        };
        let all = [
            route("0.0.0.0", 0, 2, 0),
            route("10.0.0.0", 8, 3, 0),
            route("10.1.0.0", 16, 4, 9),
            route("10.1.0.0", 16, 5, 3),
            route("::", 0, 6, 0),
        ];
        let at = |ip: &str| lookup(&all, ip.parse().unwrap(), None).map(|r| r.device);
        assert_eq!([at("1.2.3.4"), at("10.2.0.1"), at("10.1.2.3"), at("fe80::1")], [Some(2), Some(3), Some(5), Some(6)]);
        assert_eq!(lookup(&all, "10.1.2.3".parse().unwrap(), Some(2)).map(|r| r.device), Some(2));
        assert_eq!(network_of("10.1.2.3".parse().unwrap(), 20).to_string(), "10.1.0.0");
    }
}
