//! NETLINK_ROUTE: rtnetlink(7).

use super::{Answer, NLM_F_MULTI, Netlink, Request, attributes, bytes};
use crate::device::{self, TXQLEN};
use crate::stack::{Change, Device, IfAddr, Stack, route, solicited_node};
use abi::{Errno, libc};
use kernel::{cred::CapSet, task::Task};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;
const RTM_NEWRULE: u16 = 32;
const RTM_GETRULE: u16 = 34;
/// The first kind that this protocol has none of.
const RTM_END: u16 = 124;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;

/// Tables: main, local.
const MAIN: u8 = 254;
const LOCAL: u8 = 255;

type Answered = Result<(), Errno>;

fn raw(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn ip_of(b: &[u8]) -> Option<IpAddr> {
    match b.len() {
        4 => bytes::<4>(b, 0).map(|b| Ipv4Addr::from(b).into()),
        16 => bytes::<16>(b, 0).map(|b| Ipv6Addr::from(b).into()),
        _ => None,
    }
}

fn family_of(ip: IpAddr) -> u8 {
    (if ip.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

/// Answers a request.
pub fn answer(stack: &Arc<Stack>, task: &Task, r: Request, body: &[u8], a: &mut Answer) -> Answered {
    // Kinds come in fours: new, delete, get, set.
    let asks = r.kind % 4 == 2;
    if !asks && r.kind < RTM_END && !task.cred().capable(CapSet::NET_ADMIN) {
        return Err(Errno::EPERM);
    }
    let family = body.first().copied().unwrap_or(0);
    let flags = if r.is_dump() { NLM_F_MULTI } else { 0 };
    match r.kind {
        RTM_GETLINK => links(stack, r, body, flags, a),
        RTM_GETADDR if r.is_dump() => {
            let only = bytes(body, 4).map_or(0, u32::from_ne_bytes);
            for d in stack.table().devices.iter().filter(|d| only == 0 || d.index == only) {
                for address in d.addresses.lock().iter().filter(|x| family == 0 || family == family_of(x.ip)) {
                    self::address(d, address, RTM_NEWADDR, flags, a);
                }
            }
            Ok(())
        }
        RTM_GETROUTE if r.is_dump() => {
            routes(stack, family, a);
            Ok(())
        }
        RTM_GETROUTE => one_route(stack, body, a),
        RTM_GETNEIGH if r.is_dump() => {
            neighbours(stack, family, bytes(body, 4).map_or(0, u32::from_ne_bytes), a);
            Ok(())
        }
        RTM_GETRULE if r.is_dump() => {
            for f in [libc::AF_INET as u8, libc::AF_INET6 as u8].into_iter().filter(|f| family == 0 || family == *f) {
                for (table, priority) in [(LOCAL, 0u32), (MAIN, 32_766)] {
                    let mut attributes: Vec<(u16, Vec<u8>)> = vec![(15, u32::from(table).to_ne_bytes().to_vec())];
                    if priority != 0 {
                        attributes.push((6, priority.to_ne_bytes().to_vec()));
                    }
                    message(a, RTM_NEWRULE, flags, &[f, 0, 0, 0, table, 0, 0, 1, 0, 0, 0, 0], &attributes);
                }
            }
            Ok(())
        }
        RTM_NEWLINK | RTM_SETLINK => set_link(stack, body),
        RTM_NEWADDR | RTM_DELADDR => change_address(stack, r, body),
        RTM_NEWROUTE | RTM_DELROUTE => change_route(stack, r, body),
        RTM_NEWNEIGH | RTM_DELNEIGH => change_neighbour(stack, r, body),
        RTM_NEWLINK..RTM_END if asks && r.is_dump() => Ok(()),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

fn message(a: &mut Answer, kind: u16, flags: u16, body: &[u8], attributes: &[(u16, Vec<u8>)]) {
    let list: Vec<(u16, &[u8])> = attributes.iter().map(|(k, v)| (*k, v.as_slice())).collect();
    a.message(kind, flags, body, &list);
}

fn zero_ended(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

fn links(stack: &Stack, r: Request, body: &[u8], flags: u16, a: &mut Answer) -> Answered {
    let table = stack.table();
    if r.is_dump() {
        for d in &table.devices {
            link(d, flags, a);
        }
        return Ok(());
    }
    let index = bytes(body, 4).map_or(0, u32::from_ne_bytes);
    let found = if index != 0 {
        table.device(index)
    } else {
        let name = attributes(body.get(16..).unwrap_or_default()).find(|(k, _)| *k == libc::IFLA_IFNAME).map(|(_, v)| v);
        name.and_then(|n| table.named(n.strip_suffix(&[0]).unwrap_or(n)))
    };
    let Some(d) = found else { return Err(Errno::ENODEV) };
    link(d, 0, a);
    Ok(())
}

/// `struct ifinfomsg` and attributes.
fn link(d: &Device, flags: u16, a: &mut Answer) {
    let mut body = vec![0, 0];
    body.extend_from_slice(&device::hardware(d).to_ne_bytes());
    body.extend_from_slice(&d.index.to_ne_bytes());
    body.extend_from_slice(&d.flags().to_ne_bytes());
    body.extend_from_slice(&0u32.to_ne_bytes());
    let up = d.up.load(Ordering::Relaxed);
    // IF_OPER_UNKNOWN for loopback, up, down.
    let state = if d.is_loopback() {
        0
    } else if up {
        6
    } else {
        2
    };
    let n = |c: &std::sync::atomic::AtomicU64| c.load(Ordering::Relaxed);
    let s = &d.stats;
    let mut stats = vec![0u64; 24];
    for (slot, value) in stats.iter_mut().zip([
        n(&s.rx_packets),
        n(&s.tx_packets),
        n(&s.rx_bytes),
        n(&s.tx_bytes),
        n(&s.rx_errors),
        0,
        n(&s.rx_dropped),
        n(&s.tx_dropped),
    ]) {
        *slot = value;
    }
    let stats64: Vec<u8> = stats.iter().flat_map(|v| v.to_ne_bytes()).collect();
    let stats32: Vec<u8> = stats.iter().flat_map(|v| (*v as u32).to_ne_bytes()).collect();
    let broadcast = if d.is_loopback() { [0; 6] } else { [0xff; 6] };
    let attributes = [
        (libc::IFLA_IFNAME, zero_ended(&d.name)),
        (libc::IFLA_TXQLEN, TXQLEN.to_ne_bytes().to_vec()),
        (libc::IFLA_OPERSTATE, vec![state]),
        (libc::IFLA_LINKMODE, vec![0]),
        (libc::IFLA_MTU, d.mtu().to_ne_bytes().to_vec()),
        (libc::IFLA_GROUP, vec![0; 4]),
        (libc::IFLA_NUM_TX_QUEUES, 1u32.to_ne_bytes().to_vec()),
        (libc::IFLA_NUM_RX_QUEUES, 1u32.to_ne_bytes().to_vec()),
        (libc::IFLA_CARRIER, vec![u8::from(up)]),
        (libc::IFLA_QDISC, b"noqueue\0".to_vec()),
        (libc::IFLA_ADDRESS, d.mac.to_vec()),
        (libc::IFLA_BROADCAST, broadcast.to_vec()),
        (libc::IFLA_STATS64, stats64),
        (libc::IFLA_STATS, stats32),
    ];
    message(a, RTM_NEWLINK, flags, &body, &attributes);
}

/// `struct ifaddrmsg` and attributes.
fn address(d: &Device, x: &IfAddr, kind: u16, flags: u16, a: &mut Answer) {
    const PERMANENT: u8 = 0x80;
    let mut body = vec![family_of(x.ip), x.prefix, PERMANENT, x.scope];
    body.extend_from_slice(&d.index.to_ne_bytes());
    let mut attributes = vec![(libc::IFA_ADDRESS, raw(x.ip))];
    if x.ip.is_ipv4() {
        attributes.push((libc::IFA_LOCAL, raw(x.ip)));
        if let Some(b) = x.broadcast {
            attributes.push((libc::IFA_BROADCAST, b.octets().to_vec()));
        }
        attributes.push((libc::IFA_LABEL, zero_ended(&d.name)));
    }
    attributes.push((libc::IFA_FLAGS, u32::from(PERMANENT).to_ne_bytes().to_vec()));
    // struct ifa_cacheinfo: for ever.
    let cache = [u32::MAX, u32::MAX, 0, 0];
    attributes.push((libc::IFA_CACHEINFO, cache.iter().flat_map(|v| v.to_ne_bytes()).collect()));
    message(a, kind, flags, &body, &attributes);
}

/// `struct rtmsg` and attributes.
fn route_message(r: &route::Route, table: u8, kind: u16, flags: u16, a: &mut Answer) {
    let body = [family_of(r.dst), r.prefix, 0, 0, table, r.protocol, r.scope, r.kind, 0, 0, 0, 0];
    let mut attributes = vec![(libc::RTA_TABLE, u32::from(table).to_ne_bytes().to_vec())];
    if r.prefix > 0 {
        attributes.push((libc::RTA_DST, raw(r.dst)));
    }
    if r.metric != 0 {
        attributes.push((libc::RTA_PRIORITY, r.metric.to_ne_bytes().to_vec()));
    }
    if let Some(mtu) = r.mtu {
        // RTA_METRICS with RTAX_MTU
        attributes.push((libc::RTA_METRICS, [&8u16.to_ne_bytes()[..], &2u16.to_ne_bytes(), &mtu.to_ne_bytes()].concat()));
    }
    if let Some(s) = r.source {
        attributes.push((libc::RTA_PREFSRC, raw(s)));
    }
    if let Some(g) = r.gateway {
        attributes.push((libc::RTA_GATEWAY, raw(g)));
    }
    attributes.push((libc::RTA_OIF, r.device.to_ne_bytes().to_vec()));
    message(a, kind, flags, &body, &attributes);
}

fn routes(stack: &Stack, family: u8, a: &mut Answer) {
    let table = stack.table();
    for r in table.routes.iter().filter(|r| family == 0 || family == family_of(r.dst)) {
        route_message(r, MAIN, RTM_NEWROUTE, NLM_F_MULTI, a);
    }
    for d in &table.devices {
        for x in d.addresses.lock().iter().filter(|x| family == 0 || family == family_of(x.ip)) {
            let plain = route::Route {
                dst: x.ip,
                prefix: if x.ip.is_ipv4() { 32 } else { 128 },
                gateway: None,
                device: d.index,
                source: x.ip.is_ipv4().then_some(x.ip),
                metric: 0,
                mtu: None,
                protocol: 2,
                scope: 254,
                // RTN_LOCAL
                kind: 2,
            };
            if d.is_loopback() && x.ip.is_ipv4() {
                let net = route::Route { dst: route::network_of(x.ip, x.prefix), prefix: x.prefix, ..plain.clone() };
                route_message(&net, LOCAL, RTM_NEWROUTE, NLM_F_MULTI, a);
            }
            route_message(&plain, LOCAL, RTM_NEWROUTE, NLM_F_MULTI, a);
        }
    }
}

/// `ip route get`
fn one_route(stack: &Stack, body: &[u8], a: &mut Answer) -> Answered {
    let all = || attributes(body.get(12..).unwrap_or_default());
    let Some(to) = all().find(|(k, _)| *k == libc::RTA_DST).and_then(|(_, v)| ip_of(v)) else { return Err(Errno::EINVAL) };
    let device = all().find(|(k, _)| *k == libc::RTA_OIF).and_then(|(_, v)| bytes(v, 0)).map(u32::from_ne_bytes);
    let path = stack.path(to, None, device).map_err(|e| e.errno())?;
    let (bits, table) = (if to.is_ipv4() { 32 } else { 128 }, if path.local { LOCAL } else { MAIN });
    let oif = (libc::RTA_OIF, path.device.index.to_ne_bytes().to_vec());
    let source = (libc::RTA_PREFSRC, raw(path.source));
    // IPv4 says so of every answer, unless it is asked for the table itself.
    let table = if to.is_ipv4() { MAIN } else { table };
    let mut attributes = vec![(libc::RTA_TABLE, u32::from(table).to_ne_bytes().to_vec()), (libc::RTA_DST, raw(to))];
    if let Some(gateway) = Some(path.next).filter(|n| *n != to) {
        attributes.push((libc::RTA_GATEWAY, raw(gateway)));
    }
    attributes.extend([oif, source]);
    let kind = if path.local { 2 } else { 1 };
    let body = if to.is_ipv4() {
        // RTM_F_CLONED, and RTCF_LOCAL: an answer of the cache, as IPv4's are.
        let flags: u32 = 0x200 | if path.local { 0x8000_0000 } else { 0 };
        attributes.push((libc::RTA_UID, 0u32.to_ne_bytes().to_vec()));
        [&[libc::AF_INET as u8, bits, 0, 0, table, 0, 0, kind][..], &flags.to_ne_bytes()].concat()
    } else {
        let known = route::lookup(&stack.table().routes, to, device).map(|r| (r.protocol, r.metric));
        // RTPROT_KERNEL, and no metric: the address itself.
        let (protocol, metric) = known.filter(|_| !path.local).unwrap_or((2, 0));
        attributes.push((libc::RTA_SRC, raw(std::net::Ipv6Addr::UNSPECIFIED.into())));
        attributes.push((libc::RTA_PRIORITY, metric.to_ne_bytes().to_vec()));
        attributes.push((libc::RTA_PREF, vec![0]));
        vec![libc::AF_INET6 as u8, bits, bits, 0, table, protocol, 0, kind, 0, 0, 0, 0]
    };
    message(a, RTM_NEWROUTE, 0, &body, &attributes);
    Ok(())
}

fn neighbours(stack: &Stack, family: u8, only: u32, a: &mut Answer) {
    let now = host::time::monotonic_ns();
    for d in stack.table().devices.iter().filter(|d| only == 0 || d.index == only) {
        for (ip, mac, state) in d.neighbours.lock().list(now) {
            if family != 0 && family != family_of(ip) {
                continue;
            }
            let mut body = vec![family_of(ip), 0, 0, 0];
            body.extend_from_slice(&d.index.to_ne_bytes());
            body.extend_from_slice(&(state as u16).to_ne_bytes());
            // No flags; RTN_UNICAST.
            body.extend_from_slice(&[0, 1]);
            let mut attributes = vec![(libc::NDA_DST, raw(ip))];
            if let Some(mac) = mac {
                attributes.push((libc::NDA_LLADDR, mac.to_vec()));
            }
            message(a, RTM_NEWNEIGH, NLM_F_MULTI, &body, &attributes);
        }
    }
}

fn device_of(stack: &Stack, index: u32) -> Result<Arc<Device>, Errno> {
    stack.table().device(index).cloned().ok_or(Errno::ENODEV)
}

/// Up, down and MTU of a device that is there.
fn set_link(stack: &Stack, body: &[u8]) -> Answered {
    let (Some(index), Some(flags), Some(mask)) = (bytes(body, 4), bytes(body, 8), bytes(body, 12)) else { return Err(Errno::EINVAL) };
    let (index, flags, mask) = (u32::from_ne_bytes(index), u32::from_ne_bytes(flags), u32::from_ne_bytes(mask));
    let all = || attributes(body.get(16..).unwrap_or_default());
    let name = all().find(|(k, _)| *k == libc::IFLA_IFNAME).map(|(_, v)| v.strip_suffix(&[0]).unwrap_or(v).to_vec());
    let table = stack.table();
    let device = if index == 0 { name.and_then(|n| table.named(&n).cloned()) } else { table.device(index).cloned() };
    // A device of another kind cannot be made.
    let Some(d) = device else { return Err(if index == 0 { Errno::EOPNOTSUPP } else { Errno::ENODEV }) };
    if let Some(mtu) = all().find(|(k, _)| *k == libc::IFLA_MTU).and_then(|(_, v)| bytes(v, 0)).map(u32::from_ne_bytes) {
        if !(68..=65_536).contains(&mtu) {
            return Err(Errno::EINVAL);
        }
        d.mtu.store(mtu, Ordering::Relaxed);
    }
    if mask & 1 != 0 || mask == 0 && flags & 1 != 0 {
        d.up.store(flags & 1 != 0, Ordering::Relaxed);
    }
    stack.addresses_changed();
    stack.tell(&Change::Link(d.index));
    Ok(())
}

fn change_address(stack: &Stack, r: Request, body: &[u8]) -> Answered {
    let (Some([_, prefix, _, scope]), Some(index)) = (bytes(body, 0), bytes(body, 4)) else { return Err(Errno::EINVAL) };
    let d = device_of(stack, u32::from_ne_bytes(index))?;
    let all = || attributes(body.get(8..).unwrap_or_default());
    let of = |kind| all().find(|(k, _)| *k == kind).and_then(|(_, v)| ip_of(v));
    let Some(ip) = of(libc::IFA_LOCAL).or_else(|| of(libc::IFA_ADDRESS)) else { return Err(Errno::EINVAL) };
    let broadcast = match of(libc::IFA_BROADCAST) {
        Some(IpAddr::V4(b)) => Some(b),
        _ => None,
    };
    if prefix > if ip.is_ipv4() { 32 } else { 128 } {
        return Err(Errno::EINVAL);
    }
    let new = IfAddr { ip, prefix, broadcast, scope };
    let added = r.kind == RTM_NEWADDR;
    let mut known = false;
    {
        let mut list = d.addresses.lock();
        let at = list.iter().position(|a| a.ip == ip && (a.prefix == prefix || added));
        match (added, at) {
            (true, Some(_)) if r.flags & NLM_F_REPLACE == 0 => return Err(Errno::EEXIST),
            (true, Some(i)) => {
                if let Some(slot) = list.get_mut(i) {
                    *slot = new.clone();
                }
                known = true;
            }
            (true, None) if list.len() >= 256 => return Err(Errno::ENOBUFS),
            (true, None) => list.push(new.clone()),
            (false, Some(i)) => {
                list.remove(i);
            }
            (false, None) => return Err(Errno::EADDRNOTAVAIL),
        }
    }
    if let IpAddr::V6(ip) = ip
        && !known
    {
        let group = solicited_node(ip).into();
        if added { stack.joined(d.index, group) } else { stack.left(d.index, group) }
    }
    // The network of the address is reached directly.
    let net = route::network_of(ip, prefix);
    let host_only = prefix == if ip.is_ipv4() { 32 } else { 128 };
    let _ = stack.change_routes(|routes| {
        let same = |x: &route::Route| x.dst == net && x.prefix == prefix && x.device == d.index && x.protocol == 2;
        routes.retain(|x| !same(x));
        if added && !host_only && !d.is_loopback() {
            let source = ip.is_ipv4().then_some(ip);
            let metric = if ip.is_ipv4() { 0 } else { 256 };
            routes.push(route::Route {
                dst: net,
                prefix,
                gateway: None,
                device: d.index,
                source,
                metric,
                mtu: None,
                protocol: 2,
                scope: 253,
                kind: 1,
            });
        }
        Ok(())
    });
    stack.tell(&Change::Address { device: d.index, address: new, added });
    Ok(())
}

fn change_route(stack: &Stack, r: Request, body: &[u8]) -> Answered {
    let Some([family, prefix, _, _, table, protocol, scope, kind]) = bytes(body, 0) else { return Err(Errno::EINVAL) };
    let all = || attributes(body.get(12..).unwrap_or_default());
    let of = |kind| all().find(|(k, _)| *k == kind).map(|(_, v)| v);
    let v4 = i32::from(family) == libc::AF_INET;
    let any = if v4 { IpAddr::from([0; 4]) } else { IpAddr::from([0u16; 8]) };
    let dst = of(libc::RTA_DST).and_then(ip_of).unwrap_or(any);
    if dst.is_ipv4() != v4 || prefix > if v4 { 32 } else { 128 } {
        return Err(Errno::EINVAL);
    }
    if table != MAIN && table != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let gateway = of(libc::RTA_GATEWAY).and_then(ip_of);
    let number = |kind| of(kind).and_then(|v| bytes(v, 0)).map(u32::from_ne_bytes);
    let metric = number(libc::RTA_PRIORITY).unwrap_or(if v4 || r.kind == RTM_DELROUTE { 0 } else { 1024 });
    let mtu =
        of(libc::RTA_METRICS).and_then(|m| attributes(m).find(|(k, _)| *k == 2).and_then(|(_, v)| bytes(v, 0)).map(u32::from_ne_bytes));
    let mut device = number(libc::RTA_OIF);
    if r.kind == RTM_DELROUTE {
        return stack
            .change_routes(|routes| {
                let fits = |x: &route::Route| {
                    x.dst == dst
                        && x.prefix == prefix
                        && (metric == 0 || x.metric == metric)
                        && device.is_none_or(|d| d == x.device)
                        && (gateway.is_none() || gateway == x.gateway)
                };
                match routes.iter().position(fits) {
                    Some(i) => {
                        let gone = routes.remove(i);
                        stack.tell(&Change::Route { route: gone, added: false });
                        Ok(())
                    }
                    None => Err(Errno::ESRCH.into()),
                }
            })
            .map_err(|e| e.errno());
    }
    if let (None, Some(g)) = (device, gateway) {
        device = Some(stack.path(g, None, None).map_err(|_| Errno::ENETUNREACH)?.device.index);
    }
    let index = device.unwrap_or(1);
    device_of(stack, index)?;
    let source = of(libc::RTA_PREFSRC).and_then(ip_of);
    let new = route::Route { dst, prefix, gateway, device: index, source, metric, mtu, protocol, scope, kind };
    stack
        .change_routes(|routes| {
            let same = |x: &route::Route| x.dst == dst && x.prefix == prefix && x.metric == metric;
            if routes.iter().any(same) {
                if r.flags & NLM_F_REPLACE != 0 {
                    routes.retain(|x| !same(x));
                } else if r.flags & NLM_F_EXCL != 0 || routes.contains(&new) {
                    return Err(Errno::EEXIST.into());
                }
            }
            if routes.len() >= 4096 {
                return Err(Errno::ENOBUFS.into());
            }
            routes.push(new.clone());
            Ok(())
        })
        .map_err(|e| e.errno())?;
    stack.tell(&Change::Route { route: new, added: true });
    Ok(())
}

fn change_neighbour(stack: &Stack, r: Request, body: &[u8]) -> Answered {
    let Some(index) = bytes(body, 4) else { return Err(Errno::EINVAL) };
    let d = device_of(stack, u32::from_ne_bytes(index))?;
    let all = || attributes(body.get(12..).unwrap_or_default());
    let Some(ip) = all().find(|(k, _)| *k == libc::NDA_DST).and_then(|(_, v)| ip_of(v)) else { return Err(Errno::EINVAL) };
    if r.kind == RTM_DELNEIGH {
        let known = d.neighbours.lock().forget(ip);
        d.generation.fetch_add(1, Ordering::Release);
        return if known { Ok(()) } else { Err(Errno::ENOENT) };
    }
    let Some(mac) = all().find(|(k, _)| *k == libc::NDA_LLADDR).and_then(|(_, v)| bytes::<6>(v, 0)) else { return Err(Errno::EINVAL) };
    d.neighbours.lock().pin(ip, mac);
    d.generation.fetch_add(1, Ordering::Release);
    Ok(())
}

/// Lets a socket hear of changes in the groups that it joins.
pub fn watch(stack: &Arc<Stack>, sock: &Arc<Netlink>) {
    let (weak, stack_weak) = (Arc::downgrade(sock), Arc::downgrade(stack));
    stack.watchers.lock().retain(|w| w.is_alive());
    let tell = move |change: &Change| {
        let (Some(sock), Some(stack)) = (weak.upgrade(), stack_weak.upgrade()) else { return };
        let mut a = Answer { out: Vec::new(), seq: 0, port: 0 };
        // RTMGRP_LINK, _IPV4_IFADDR, _IPV6_IFADDR, _IPV4_ROUTE, _IPV6_ROUTE
        let group = match change {
            Change::Link(index) => {
                if let Some(d) = stack.table().device(*index) {
                    link(d, 0, &mut a);
                }
                1
            }
            Change::Address { device, address: x, added } => {
                if let Some(d) = stack.table().device(*device) {
                    address(d, x, if *added { RTM_NEWADDR } else { RTM_DELADDR }, 0, &mut a);
                }
                if x.ip.is_ipv4() { 0x10 } else { 0x100 }
            }
            Change::Route { route: r, added } => {
                route_message(r, MAIN, if *added { RTM_NEWROUTE } else { RTM_DELROUTE }, 0, &mut a);
                if r.dst.is_ipv4() { 0x40 } else { 0x400 }
            }
        };
        if !a.out.is_empty() {
            sock.notice(group, &a.out);
        }
    };
    let alive = Arc::downgrade(sock);
    stack.watchers.lock().push(crate::stack::Watcher::new(Arc::new(tell), move || alive.strong_count() > 0));
}
