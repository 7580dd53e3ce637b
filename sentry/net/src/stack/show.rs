//! What /proc/net tells of the stack: devices, routes, addresses, counters.

use super::{Stack, neighbour::Nud};
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters of /proc/net/snmp that somebody counts.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Snmp {
    pub ip_in: AtomicU64,
    pub ip_in_errors: AtomicU64,
    pub tcp_in: AtomicU64,
    pub tcp_out: AtomicU64,
    pub tcp_active: AtomicU64,
    pub tcp_passive: AtomicU64,
    pub tcp_failed: AtomicU64,
    pub tcp_resets: AtomicU64,
    pub tcp_retransmitted: AtomicU64,
    pub udp_in: AtomicU64,
    pub udp_out: AtomicU64,
    pub udp_no_ports: AtomicU64,
    pub udp_in_errors: AtomicU64,
}

fn hex4(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => format!("{:08X}", ip.to_bits().swap_bytes()),
        IpAddr::V6(ip) => format!("{:032x}", ip.to_bits()),
    }
}

impl Stack {
    /// The text of one of /proc/net's files.
    pub fn show(&self, name: &str) -> Option<String> {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = match name {
            "dev" => self.show_dev(&mut out),
            "route" => self.show_route(&mut out),
            "ipv6_route" => self.show_route6(&mut out),
            "if_inet6" => self.show_if_inet6(&mut out),
            "arp" => self.show_arp(&mut out),
            "snmp" => self.show_snmp(&mut out),
            "sockstat" => self.show_sockstat(&mut out),
            "sockstat6" => self.show_sockstat6(&mut out),
            "igmp" => self.show_igmp(&mut out),
            "netlink" | "ptype" | "wireless" => {
                out.push_str(header(name));
                Ok(())
            }
            _ => return None,
        };
        Some(out)
    }

    fn show_dev(&self, out: &mut String) -> std::fmt::Result {
        out.push_str(header("dev"));
        for d in &self.table().devices {
            let n = |c: &AtomicU64| c.load(Relaxed);
            let s = &d.stats;
            writeln!(
                out,
                "{:>6}: {:7} {:7} {:4} {:4}    0     0          0         0 {:8} {:7}    0 {:4}    0     0       0          0",
                d.name,
                n(&s.rx_bytes),
                n(&s.rx_packets),
                n(&s.rx_errors),
                n(&s.rx_dropped),
                n(&s.tx_bytes),
                n(&s.tx_packets),
                n(&s.tx_dropped)
            )?;
        }
        Ok(())
    }

    fn show_route(&self, out: &mut String) -> std::fmt::Result {
        out.push_str(header("route"));
        let table = self.table();
        for r in table.routes.iter().filter(|r| r.dst.is_ipv4()) {
            let Some(d) = table.device(r.device) else { continue };
            let any = IpAddr::from([0, 0, 0, 0]);
            let mask = super::route::network_of([255; 4].into(), r.prefix);
            let flags = 1 | if r.gateway.is_some() { 2 } else { 0 } | if r.prefix == 32 { 4 } else { 0 };
            let line = format!(
                "{}\t{}\t{}\t{flags:04X}\t0\t0\t{}\t{}\t{}\t0\t0",
                d.name,
                hex4(r.dst),
                hex4(r.gateway.unwrap_or(any)),
                r.metric,
                hex4(mask),
                r.mtu.unwrap_or(0)
            );
            writeln!(out, "{line:<127}")?;
        }
        Ok(())
    }

    fn show_route6(&self, out: &mut String) -> std::fmt::Result {
        let table = self.table();
        let any = hex4(IpAddr::from([0u16; 8]));
        for r in table.routes.iter().filter(|r| r.dst.is_ipv6()) {
            let Some(d) = table.device(r.device) else { continue };
            let gateway = r.gateway.map_or(any.clone(), hex4);
            let flags = 1 | if r.gateway.is_some() { 2 } else { 0 };
            writeln!(
                out,
                "{} {:02x} {any} 00 {gateway} {:08x} 00000001 00000000 {flags:08x} {:>8}",
                hex4(r.dst),
                r.prefix,
                r.metric,
                d.name
            )?;
        }
        writeln!(out, "{:032x} 80 {any} 00 {any} 00000000 00000002 00000000 80200001       lo", 1)
    }

    fn show_if_inet6(&self, out: &mut String) -> std::fmt::Result {
        for d in &self.table().devices {
            for a in d.addresses.lock().iter().filter(|a| a.ip.is_ipv6()) {
                let scope = match a.scope {
                    254 => 0x10,
                    253 => 0x20,
                    _ => 0,
                };
                writeln!(out, "{} {:02x} {:02x} {scope:02x} 80 {:>8}", hex4(a.ip), d.index, a.prefix, d.name)?;
            }
        }
        Ok(())
    }

    fn show_igmp(&self, out: &mut String) -> std::fmt::Result {
        out.push_str(header("igmp"));
        for d in self.table().devices.iter().filter(|d| d.up.load(Relaxed)) {
            let all_systems = (IpAddr::from([224, 0, 0, 1]), 1);
            let mut groups = d.memberships.lock().list(true);
            groups.retain(|(ip, _)| *ip != all_systems.0);
            groups.push(all_systems);
            writeln!(out, "{}\t{:<10}: {:5}      V3", d.index, d.name, groups.len())?;
            for (ip, users) in groups {
                writeln!(out, "\t\t\t\t{} {users:5} 0:00000000\t\t0", hex4(ip))?;
            }
        }
        Ok(())
    }

    fn show_arp(&self, out: &mut String) -> std::fmt::Result {
        out.push_str(header("arp"));
        let now = host::time::monotonic_ns();
        for d in &self.table().devices {
            for (ip, mac, state) in d.neighbours.lock().list(now) {
                let IpAddr::V4(ip) = ip else { continue };
                let m = mac.unwrap_or_default().map(|b| format!("{b:02x}")).join(":");
                let flags = match (state, mac) {
                    (Nud::Permanent, _) => 6,
                    (_, Some(_)) => 2,
                    _ => 0,
                };
                writeln!(out, "{:<16} 0x1         0x{flags:x}         {m}     *        {}", ip.to_string(), d.name)?;
            }
        }
        Ok(())
    }

    fn show_snmp(&self, out: &mut String) -> std::fmt::Result {
        let n = |c: &AtomicU64| c.load(Relaxed);
        let s = &self.snmp;
        out.push_str("Ip: Forwarding DefaultTTL InReceives InHdrErrors InAddrErrors ForwDatagrams InUnknownProtos InDiscards InDelivers OutRequests OutDiscards OutNoRoutes ReasmTimeout ReasmReqds ReasmOKs ReasmFails FragOKs FragFails FragCreates OutTransmits\n");
        writeln!(
            out,
            "Ip: 2 64 {} {} 0 0 0 0 {} {} 0 0 0 0 0 0 0 0 0 {}",
            n(&s.ip_in),
            n(&s.ip_in_errors),
            n(&s.ip_in),
            n(&s.tcp_out) + n(&s.udp_out),
            n(&s.tcp_out) + n(&s.udp_out)
        )?;
        out.push_str("Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs RetransSegs InErrs OutRsts InCsumErrors\n");
        writeln!(
            out,
            "Tcp: 1 200 120000 -1 {} {} {} {} {} {} {} {} 0 0 0",
            n(&s.tcp_active),
            n(&s.tcp_passive),
            n(&s.tcp_failed),
            n(&s.tcp_resets),
            self.ports.established(),
            n(&s.tcp_in),
            n(&s.tcp_out),
            n(&s.tcp_retransmitted)
        )?;
        out.push_str("Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors\n");
        writeln!(out, "Udp: {} {} {} {} 0 0 0 0 0", n(&s.udp_in), n(&s.udp_no_ports), n(&s.udp_in_errors), n(&s.udp_out))
    }

    fn show_sockstat(&self, out: &mut String) -> std::fmt::Result {
        let (tcp, udp) = (self.ports.count(false, true), self.ports.count(false, false));
        let raw = self.raw.count(false);
        let waiting = self.ports.left().iter().filter(|(.., l)| l.state == 6).count();
        let all = tcp + udp + raw + self.ports.count(true, true) + self.ports.count(true, false) + self.raw.count(true);
        writeln!(
            out,
            "sockets: used {all}\nTCP: inuse {tcp} orphan 0 tw {waiting} alloc {tcp} mem 0\nUDP: inuse {udp} mem 0\nUDPLITE: inuse 0\nRAW: inuse {raw}\nFRAG: inuse 0 memory 0"
        )
    }

    fn show_sockstat6(&self, out: &mut String) -> std::fmt::Result {
        let (tcp, udp, raw) = (self.ports.count(true, true), self.ports.count(true, false), self.raw.count(true));
        writeln!(out, "TCP6: inuse {tcp}\nUDP6: inuse {udp}\nUDPLITE6: inuse 0\nRAW6: inuse {raw}\nFRAG6: inuse 0 memory 0")
    }
}

fn header(name: &str) -> &'static str {
    match name {
        "dev" => {
            "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n"
        }
        "route" => {
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT                                                       \n"
        }
        "arp" => "IP address       HW type     Flags       HW address            Mask     Device\n",
        "netlink" => "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n",
        "igmp" => "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n",
        "ptype" => "Type Device      Function\n",
        _ => "",
    }
}
