//! [`Device`]: a network device as the application sees it; loopback, or an Ethernet interface behind a packet socket.

use super::{membership::Memberships, neighbour::Neighbours};
use crate::wire::Mac;
use abi::Errno;
use host::packet::Batch;
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use sync::{Mutex, Rank};

/// An address of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IfAddr {
    /// The address.
    pub ip: IpAddr,
    /// Bits of the network.
    pub prefix: u8,
    /// IPv4: where broadcasts go.
    pub broadcast: Option<Ipv4Addr>,
    /// `RT_SCOPE_*`
    pub scope: u8,
}

/// What /proc/net/dev counts.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Stats {
    pub rx_bytes: AtomicU64,
    pub rx_packets: AtomicU64,
    pub rx_dropped: AtomicU64,
    pub rx_errors: AtomicU64,
    pub tx_bytes: AtomicU64,
    pub tx_packets: AtomicU64,
    pub tx_dropped: AtomicU64,
}

/// A device.
#[derive(Debug)]
pub struct Device {
    pub index: u32,
    pub name: String,
    pub mac: Mac,
    pub mtu: AtomicU32,
    pub up: AtomicBool,
    /// The host has changed it, and netlink's sockets were not told yet.
    changed: AtomicBool,
    pub addresses: Mutex<Vec<IfAddr>>,
    pub neighbours: Mutex<Neighbours>,
    /// Multicast groups that are heard.
    pub memberships: Mutex<Memberships>,
    /// Grows with every change of `neighbours`.
    pub generation: AtomicU64,
    pub stats: Stats,
    /// Frames of the link: whoever takes some hands them to sockets before others take more, so that they stay in order.
    pub(super) frames: Mutex<Batch>,
    link: Option<OwnedFd>,
}

/// Bytes of a virtio-net header.
pub const VNET: usize = 10;
/// Nothing is left to the device, or nothing is known of the frame.
pub const PLAIN: [u8; VNET] = [0; VNET];

/// Flags and kinds of virtio-net headers.
pub const NEEDS_CSUM: u8 = 1;
pub const DATA_VALID: u8 = 2;
pub const GSO_TCPV4: u8 = 1;
pub const GSO_TCPV6: u8 = 4;

/// A virtio-net header: the checksum from `start` on goes to `start + offset`; segments of `gso_size` after `header` bytes.
pub fn vnet(gso: Option<(u8, u16)>, header: usize, start: usize, offset: u16) -> [u8; VNET] {
    let mut h = PLAIN;
    let (kind, size) = gso.unwrap_or((0, 0));
    h[0] = NEEDS_CSUM;
    h[1] = kind;
    let words = [header as u16, size, start as u16, offset];
    for (slot, w) in h[2..].chunks_exact_mut(2).zip(words) {
        slot.copy_from_slice(&w.to_le_bytes());
    }
    h
}

/// Frames taken by one call.
const BATCH: usize = 24;

/// How long a frame waits for room in the host's queue, in milliseconds, and how often.
const WAIT_MS: i32 = 2;
const WAITS: u32 = 5;

impl Device {
    /// Loopback.
    pub fn loopback() -> Device {
        let address = |ip: IpAddr, prefix| IfAddr { ip, prefix, broadcast: None, scope: 254 };
        let d = Device::new(1, "lo", [0; 6], 65_536, None);
        *d.addresses.lock() = vec![address(Ipv4Addr::LOCALHOST.into(), 8), address(std::net::Ipv6Addr::LOCALHOST.into(), 128)];
        d
    }

    /// A device; `link`: the packet socket of its interface.
    pub fn new(index: u32, name: &str, mac: Mac, mtu: u32, link: Option<OwnedFd>) -> Device {
        Device {
            index,
            name: name.to_owned(),
            mac,
            mtu: AtomicU32::new(mtu),
            up: AtomicBool::new(true),
            changed: AtomicBool::new(false),
            addresses: Mutex::new(Rank::Leaf, Vec::new()),
            neighbours: Mutex::new(Rank::Leaf, Neighbours::default()),
            memberships: Mutex::new(Rank::Leaf, Memberships::default()),
            generation: AtomicU64::new(1),
            stats: Stats::default(),
            frames: Mutex::new(Rank::Receive, Batch::new(if link.is_some() { BATCH } else { 0 })),
            link,
        }
    }

    /// Whether it is `lo`.
    pub fn is_loopback(&self) -> bool {
        self.index == 1
    }

    /// The packet socket.
    pub fn link(&self) -> Option<&OwnedFd> {
        self.link.as_ref()
    }

    /// `IFF_*`: up, running; loopback, or broadcast and multicast; and lower up, which only netlink shows.
    pub fn flags(&self) -> u32 {
        let up = if self.up.load(Relaxed) { 0x1_0041 } else { 0 };
        up | if self.is_loopback() { 0x8 } else { 0x1002 }
    }

    /// The largest packet.
    pub fn mtu(&self) -> u32 {
        self.mtu.load(Relaxed)
    }

    /// Sends a frame. Where the host's queue stays full it is lost, as on any wire. Whether the host's interface takes frames of that length:
    /// somebody may have changed its MTU.
    pub fn transmit(&self, vnet: &[u8; VNET], to: &Mac, ethertype: u16, parts: &[&[u8]]) -> bool {
        let Some(link) = self.link.as_ref().filter(|_| self.up.load(Relaxed)) else { return true };
        let mut head = [0; VNET + 14];
        let (v, eth) = head.split_at_mut(VNET);
        v.copy_from_slice(vnet);
        let (dst, rest) = eth.split_at_mut(6);
        dst.copy_from_slice(to);
        let (src, kind) = rest.split_at_mut(6);
        src.copy_from_slice(&self.mac);
        kind.copy_from_slice(&ethertype.to_be_bytes());
        let mut all = Vec::with_capacity(parts.len() + 1);
        all.push(IoSlice::new(&head));
        all.extend(parts.iter().map(|p| IoSlice::new(p)));
        let bytes: usize = parts.iter().map(|p| p.len()).sum();
        for _ in 0..WAITS {
            match host::packet::send(link, &all) {
                Ok(_) => {
                    self.stats.tx_packets.fetch_add(1, Relaxed);
                    self.stats.tx_bytes.fetch_add(bytes as u64 + 14, Relaxed);
                    return true;
                }
                Err(Errno::EMSGSIZE) => {
                    self.stats.tx_dropped.fetch_add(1, Relaxed);
                    return false;
                }
                Err(Errno::EAGAIN | Errno::ENOBUFS) => {
                    // Whether there is room then shows in the next attempt.
                    let _ = host::io::poll(link.as_fd(), abi::libc::POLLOUT, WAIT_MS);
                }
                Err(Errno::EINTR) => {}
                Err(error) => {
                    tracing::debug!("{}: a frame of {bytes} bytes is lost: {error:?}", self.name);
                    break;
                }
            }
        }
        self.stats.tx_dropped.fetch_add(1, Relaxed);
        true
    }

    /// Whether the host has changed it since this was asked last.
    pub fn take_changed(&self) -> bool {
        self.changed.load(Relaxed) && self.changed.swap(false, Relaxed)
    }

    /// Takes the MTU of the host's interface if that is smaller than its own; whether it was.
    pub fn follow_mtu(&self) -> bool {
        let Some(link) = &self.link else { return false };
        match host::packet::mtu(link, &self.name) {
            Ok(mtu) if mtu >= 68 && mtu < self.mtu() => {
                tracing::info!("{}: the interface's MTU is {mtu} now", self.name);
                self.mtu.store(mtu, Relaxed);
                self.changed.store(true, Relaxed);
                true
            }
            Ok(_) => false,
            Err(error) => {
                tracing::warn!("{}: the interface's MTU cannot be asked for: {error:?}", self.name);
                false
            }
        }
    }

    /// Whether this is the address of somebody here.
    pub fn has(&self, ip: IpAddr) -> bool {
        self.addresses.lock().iter().any(|a| a.ip == ip)
    }

    /// The address to speak from to a place, of those that the device has: in the same network, or the first that reaches as far.
    pub fn source_for(&self, to: IpAddr) -> Option<IpAddr> {
        let all = self.addresses.lock();
        let local = |ip: IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        let same = all.iter().filter(|a| a.ip.is_ipv4() == to.is_ipv4());
        let near = same.clone().find(|a| super::route::contains(a.ip, a.prefix, to));
        near.or_else(|| same.clone().find(|a| local(a.ip) == local(to))).or_else(|| same.clone().next()).map(|a| a.ip)
    }

    /// The link-local address of IPv6.
    pub fn link_local(&self) -> Option<IpAddr> {
        self.addresses.lock().iter().find(|a| matches!(a.ip, IpAddr::V6(ip) if ip.is_unicast_link_local())).map(|a| a.ip)
    }
}
