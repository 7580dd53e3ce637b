//! Network devices as ioctls show them (netdevice(7)), and as they change them with CAP_NET_ADMIN.

use crate::stack::{Change, Device, Stack};
use abi::{Result, bail};
use kernel::{cred::CapSet, task::Task, user::UserAddr, vfs::IoctlArg};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// `ARPHRD_LOOPBACK`, `ARPHRD_ETHER`
pub const ARPHRD_LOOPBACK: u16 = 772;
pub const ARPHRD_ETHER: u16 = 1;
/// Length of a device's queue.
pub const TXQLEN: u32 = 1000;

const SIOCGIFNAME: u32 = 0x8910;
const SIOCGIFCONF: u32 = 0x8912;
const SIOCGIFFLAGS: u32 = 0x8913;
const SIOCSIFFLAGS: u32 = 0x8914;
const SIOCGIFADDR: u32 = 0x8915;
const SIOCGIFDSTADDR: u32 = 0x8917;
const SIOCGIFBRDADDR: u32 = 0x8919;
const SIOCGIFNETMASK: u32 = 0x891b;
const SIOCGIFMETRIC: u32 = 0x891d;
const SIOCGIFMTU: u32 = 0x8921;
const SIOCSIFMTU: u32 = 0x8922;
const SIOCGIFHWADDR: u32 = 0x8927;
const SIOCGIFINDEX: u32 = 0x8933;
const SIOCGIFTXQLEN: u32 = 0x8942;
const SIOCETHTOOL: u32 = 0x8946;

/// `sizeof(struct ifreq)`: a name of 16 bytes and a union.
const IFREQ: usize = 40;
const NAME: usize = 16;

/// A `sockaddr_in` of this address.
fn inet(address: Ipv4Addr) -> [u8; 16] {
    let mut a = [0; 16];
    a[0] = 2;
    a[4..8].copy_from_slice(&address.octets());
    a
}

fn put(req: &mut [u8; IFREQ], value: &[u8]) {
    for (d, s) in req[NAME..].iter_mut().zip(value) {
        *d = *s;
    }
}

/// The hardware type.
pub fn hardware(d: &Device) -> u16 {
    if d.is_loopback() { ARPHRD_LOOPBACK } else { ARPHRD_ETHER }
}

/// The ioctls that any socket answers about devices; `None` for others.
pub fn ioctl(task: &Task, cmd: u32, arg: IoctlArg) -> Option<Result<u64>> {
    let stack = Stack::of(task.kernel());
    match cmd {
        SIOCGIFCONF => Some(list(task, &stack, arg.addr())),
        SIOCETHTOOL => Some(Err(abi::error!(EOPNOTSUPP, "no ethtool"))),
        SIOCGIFNAME | SIOCGIFFLAGS | SIOCGIFADDR | SIOCGIFDSTADDR | SIOCGIFBRDADDR | SIOCGIFNETMASK | SIOCGIFMETRIC | SIOCGIFMTU
        | SIOCGIFHWADDR | SIOCGIFINDEX | SIOCGIFTXQLEN => Some(ask(task, &stack, cmd, arg.addr())),
        SIOCSIFFLAGS | SIOCSIFMTU => Some(change(task, &stack, cmd, arg.addr())),
        _ => None,
    }
}

fn named(stack: &Stack, req: &[u8; IFREQ]) -> Result<Arc<Device>> {
    let name = req[..NAME].split(|b| *b == 0).next().unwrap_or_default();
    // "eth0:1" is an alias of eth0.
    let name = name.split(|b| *b == b':').next().unwrap_or_default();
    match stack.table().named(name) {
        Some(d) => Ok(d.clone()),
        None => bail!(ENODEV, "no such device"),
    }
}

fn first_v4(d: &Device) -> Option<(Ipv4Addr, u8, Option<Ipv4Addr>)> {
    d.addresses.lock().iter().find_map(|a| match a.ip {
        IpAddr::V4(ip) => Some((ip, a.prefix, a.broadcast)),
        IpAddr::V6(_) => None,
    })
}

fn ask(task: &Task, stack: &Stack, cmd: u32, at: UserAddr) -> Result<u64> {
    let mm = task.mm();
    let mut req: [u8; IFREQ] = mm.read(at.cast())?;
    if cmd == SIOCGIFNAME {
        let index = u32::from_ne_bytes([req[NAME], req[NAME + 1], req[NAME + 2], req[NAME + 3]]);
        let Some(d) = stack.table().device(index).cloned() else { bail!(ENODEV, "no such device") };
        req[..NAME].fill(0);
        for (to, from) in req[..NAME - 1].iter_mut().zip(d.name.bytes()) {
            *to = from;
        }
        mm.write(at.cast(), &req)?;
        return Ok(0);
    }
    let d = named(stack, &req)?;
    match cmd {
        SIOCGIFFLAGS => put(&mut req, &(d.flags() as u16).to_ne_bytes()),
        SIOCGIFMTU => put(&mut req, &d.mtu().to_ne_bytes()),
        SIOCGIFHWADDR => {
            put(&mut req, &[0; 16]);
            put(&mut req, &hardware(&d).to_ne_bytes());
            req[NAME + 2..NAME + 8].copy_from_slice(&d.mac);
        }
        SIOCGIFINDEX => put(&mut req, &d.index.to_ne_bytes()),
        SIOCGIFTXQLEN => put(&mut req, &TXQLEN.to_ne_bytes()),
        SIOCGIFMETRIC => put(&mut req, &0u32.to_ne_bytes()),
        _ => {
            let Some((ip, prefix, broadcast)) = first_v4(&d) else { bail!(EADDRNOTAVAIL, "no IPv4 address") };
            let mask = Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0));
            let answer = match cmd {
                SIOCGIFBRDADDR => broadcast.unwrap_or(Ipv4Addr::UNSPECIFIED),
                SIOCGIFNETMASK => mask,
                _ => ip,
            };
            put(&mut req, &inet(answer));
        }
    }
    mm.write(at.cast(), &req)?;
    Ok(0)
}

fn change(task: &Task, stack: &Stack, cmd: u32, at: UserAddr) -> Result<u64> {
    let req: [u8; IFREQ] = task.mm().read(at.cast())?;
    let d = named(stack, &req)?;
    task.cred().require(CapSet::NET_ADMIN)?;
    if cmd == SIOCSIFFLAGS {
        d.up.store(req[NAME] & 1 != 0, Ordering::Relaxed);
    } else {
        let mtu = u32::from_ne_bytes([req[NAME], req[NAME + 1], req[NAME + 2], req[NAME + 3]]);
        if !(68..=65_536).contains(&mtu) {
            bail!(EINVAL, "MTU {mtu}");
        }
        d.mtu.store(mtu, Ordering::Relaxed);
    }
    stack.addresses_changed();
    stack.tell(&Change::Link(d.index));
    Ok(0)
}

/// SIOCGIFCONF: `struct ifconf` is an int and, eight bytes on, an address.
fn list(task: &Task, stack: &Stack, at: UserAddr) -> Result<u64> {
    let mm = task.mm();
    let room: i32 = mm.read(at.cast())?;
    let buffer: u64 = mm.read(at.offset(8).cast())?;
    let mut all = Vec::new();
    for d in &stack.table().devices {
        if let Some((ip, ..)) = first_v4(d) {
            let mut req = [0; IFREQ];
            for (to, from) in req[..NAME - 1].iter_mut().zip(d.name.bytes()) {
                *to = from;
            }
            put(&mut req, &inet(ip));
            all.extend_from_slice(&req);
        }
    }
    if buffer != 0 {
        let fit = usize::try_from(room).unwrap_or(0) / IFREQ * IFREQ;
        all.truncate(fit);
        mm.copy_out(UserAddr(buffer), &all)?;
    }
    mm.write(at.cast(), &(all.len() as i32))?;
    Ok(0)
}
