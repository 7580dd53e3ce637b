//! AF_PACKET: frames of devices, for tcpdump, DHCP clients and arping (packet(7)). Needs CAP_NET_RAW. No rings, and of classic BPF
//! filters none: `SO_ATTACH_FILTER` is refused, after which programs filter for themselves.

use crate::device;
use crate::stack::{Device, Stack};
use crate::wire;
use abi::{Result, bail, libc, poll::PollEvents};
use kernel::{
    cred::CapSet,
    io::IoBuffer,
    net::{Control, Family, Message, SocketKind, SocketOps, SocketOptions},
    task::Task,
    vfs::IoctlArg,
};
use std::any::Any;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use sync::{Mutex, Rank, WaitQueue};

const OVERHEAD: usize = 768;
const ETH_P_ALL: u16 = 3;

/// All packet sockets.
pub struct PacketSockets {
    all: Mutex<Vec<Weak<PacketSock>>>,
    count: AtomicUsize,
}

impl Default for PacketSockets {
    fn default() -> Self {
        PacketSockets { all: Mutex::new(Rank::Leaf, Vec::new()), count: AtomicUsize::new(0) }
    }
}

impl PacketSockets {
    /// Whether there are any: all that the data path asks.
    pub fn any(&self) -> bool {
        self.count.load(Relaxed) > 0
    }

    /// A frame has arrived.
    pub fn received(&self, device: &Arc<Device>, frame: &[u8]) {
        let (dst, protocol) = (frame.get(..6).unwrap_or_default(), wire::be16(frame, 12).unwrap_or(0));
        // PACKET_HOST, _BROADCAST, _MULTICAST, _OTHERHOST
        let kind = match dst.first() {
            _ if dst == device.mac => 0,
            _ if dst == wire::BROADCAST => 1,
            Some(b) if b & 1 != 0 => 2,
            _ => 3,
        };
        self.deliver(device, protocol, kind, frame, 14);
    }

    /// A packet leaves by a device (PACKET_OUTGOING).
    pub fn sent(&self, device: &Arc<Device>, protocol: u16, parts: &[&[u8]]) {
        let mut frame = vec![0; 14];
        wire::put(&mut frame, 6, &device.mac);
        wire::put(&mut frame, 12, &protocol.to_be_bytes());
        for p in parts {
            frame.extend_from_slice(p);
        }
        self.deliver(device, protocol, 4, &frame, 14);
        if device.is_loopback() {
            self.deliver(device, protocol, 0, &frame, 14);
        }
    }

    fn deliver(&self, device: &Arc<Device>, protocol: u16, kind: u8, frame: &[u8], header: usize) {
        let all: Vec<Arc<PacketSock>> = self.all.lock().iter().filter_map(Weak::upgrade).collect();
        for s in all {
            s.take(device, protocol, kind, frame, header);
        }
    }
}

/// The family.
pub struct PacketFamily;

impl Family for PacketFamily {
    fn domain(&self) -> i32 {
        libc::AF_PACKET
    }

    fn create(&self, task: &Task, kind: SocketKind, protocol: i32) -> Result<Arc<dyn SocketOps>> {
        task.cred().require(CapSet::NET_RAW)?;
        if !matches!(kind, SocketKind::Raw | SocketKind::Dgram) {
            bail!(ESOCKTNOSUPPORT);
        }
        let stack = Stack::of(task.kernel());
        let sock = Arc::new(PacketSock {
            kind,
            stack: stack.clone(),
            options: SocketOptions::default(),
            queue: WaitQueue::new(),
            // Above sockets: a connection sends, and so comes here, with its own lock held.
            state: Mutex::new(Rank::FileState, State { protocol: u16::from_be(protocol as u16), ..State::default() }),
        });
        let mut all = stack.packets.all.lock();
        all.retain(|s| s.strong_count() > 0);
        all.push(Arc::downgrade(&sock));
        drop(all);
        stack.packets.count.fetch_add(1, Relaxed);
        Ok(sock)
    }

    fn proc_net(&self, _kernel: &kernel::Kernel, name: &str) -> Option<String> {
        (name == "packet").then(|| "sk       RefCnt Type Proto  Iface R Rmem   User   Inode\n".to_owned())
    }
}

struct Received {
    data: Vec<u8>,
    name: Vec<u8>,
    /// Its length on the wire, and where the network header begins.
    len: usize,
    net: usize,
    time: u64,
}

#[derive(Default)]
struct State {
    /// `ETH_P_*`; zero: nothing is heard.
    protocol: u16,
    device: Option<u32>,
    received: VecDeque<Received>,
    queued: usize,
    /// PACKET_STATISTICS: seen and dropped since last asked.
    seen: u32,
    dropped: u32,
    auxdata: bool,
    ignore_outgoing: bool,
    closed: bool,
}

/// A socket.
struct PacketSock {
    kind: SocketKind,
    stack: Arc<Stack>,
    options: SocketOptions,
    queue: WaitQueue,
    state: Mutex<State>,
}

/// `struct sockaddr_ll`
fn address(protocol: u16, device: Option<&Device>, kind: u8, mac: &[u8]) -> Vec<u8> {
    let mut a = (libc::AF_PACKET as u16).to_ne_bytes().to_vec();
    a.extend_from_slice(&protocol.to_be_bytes());
    a.extend_from_slice(&device.map_or(0, |d| d.index).to_ne_bytes());
    let hardware: u16 = if device.is_some_and(Device::is_loopback) { 772 } else { 1 };
    a.extend_from_slice(&if device.is_some() { hardware } else { 0 }.to_ne_bytes());
    a.extend_from_slice(&[kind, mac.len() as u8]);
    a.extend_from_slice(mac);
    a.resize(a.len().max(20), 0);
    a
}

impl PacketSock {
    fn take(&self, device: &Arc<Device>, protocol: u16, kind: u8, frame: &[u8], header: usize) {
        let mut s = self.state.lock();
        let wanted = s.protocol == ETH_P_ALL || s.protocol == protocol && kind != 4;
        if s.closed || !wanted || s.device.is_some_and(|d| d != device.index) || kind == 4 && s.ignore_outgoing {
            return;
        }
        s.seen = s.seen.saturating_add(1);
        let (data, net) = if self.kind == SocketKind::Raw { (frame, header) } else { (frame.get(header..).unwrap_or_default(), 0) };
        if s.queued > 0 && s.queued + data.len() + OVERHEAD > self.options.rcvbuf() {
            s.dropped = s.dropped.saturating_add(1);
            return;
        }
        s.queued += data.len() + OVERHEAD;
        s.received.push_back(Received {
            data: data.to_vec(),
            name: address(protocol, Some(device), kind, frame.get(6..12).unwrap_or_default()),
            len: data.len(),
            net,
            time: host::time::realtime_ns(),
        });
        drop(s);
        self.queue.notify(PollEvents::READABLE);
    }
}

fn u16_at(b: &[u8], at: usize) -> Option<u16> {
    b.get(at..)?.first_chunk().map(|x| u16::from_ne_bytes(*x))
}

fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    b.get(at..)?.first_chunk().map(|x| u32::from_ne_bytes(*x))
}

impl SocketOps for PacketSock {
    fn domain(&self) -> i32 {
        libc::AF_PACKET
    }
    fn kind(&self) -> SocketKind {
        self.kind
    }
    fn protocol(&self) -> i32 {
        i32::from(self.state.lock().protocol.to_be())
    }
    fn options(&self) -> &SocketOptions {
        &self.options
    }

    fn bind(&self, _task: &Task, addr: &[u8]) -> Result {
        let (Some(family), Some(protocol), Some(index)) = (u16_at(addr, 0), u16_at(addr, 2), u32_at(addr, 4)) else {
            bail!(EINVAL, "address too short")
        };
        if i32::from(family) != libc::AF_PACKET || addr.len() < 12 {
            bail!(EINVAL, "not a packet address");
        }
        if index != 0 && self.stack.table().device(index).is_none() {
            bail!(ENODEV);
        }
        let mut s = self.state.lock();
        s.device = Some(index).filter(|&i| i != 0);
        if protocol != 0 {
            s.protocol = u16::from_be(protocol);
        }
        Ok(())
    }

    fn local_address(&self) -> Result<Vec<u8>> {
        let s = self.state.lock();
        let table = self.stack.table();
        let device = s.device.and_then(|d| table.device(d));
        Ok(address(s.protocol, device.map(Arc::as_ref), 0, device.map_or(&[], |d| &d.mac)))
    }

    fn send(&self, _task: Option<&Task>, buf: &mut IoBuffer<'_>, message: Message, _flags: i32) -> Result<usize> {
        let (bound, own) = {
            let s = self.state.lock();
            (s.device, s.protocol)
        };
        let n = &message.name;
        let index = u32_at(n, 4).filter(|&i| i != 0).or(bound);
        let Some(device) = index.and_then(|i| self.stack.table().device(i).cloned()) else { bail!(ENXIO, "no device") };
        let len = buf.remaining();
        let header = if self.kind == SocketKind::Raw { 14 } else { 0 };
        if len < header {
            bail!(EINVAL, "shorter than an Ethernet header");
        }
        if len > device.mtu() as usize + header {
            bail!(EMSGSIZE);
        }
        let data = buf.read_all(len)?;
        let (to, protocol, body) = if self.kind == SocketKind::Raw {
            (data.first_chunk::<6>().copied(), wire::be16(&data, 12).unwrap_or(0), data.get(14..).unwrap_or_default())
        } else {
            let protocol = u16_at(n, 2).map(u16::from_be).filter(|&p| p != 0).unwrap_or(own);
            (n.get(12..).and_then(|m| m.first_chunk::<6>().copied()), protocol, data.as_slice())
        };
        let Some(to) = to else { bail!(EINVAL, "no Ethernet address") };
        if device.is_loopback() {
            self.stack.inject(&device, body);
        } else {
            device.transmit(&crate::stack::device::PLAIN, &to, protocol, &[body]);
        }
        Ok(len)
    }

    fn recv(&self, buf: &mut IoBuffer<'_>, flags: i32, message: &mut Message) -> Result<usize> {
        let mut s = self.state.lock();
        let Some(d) = s.received.front() else { bail!(EAGAIN, "no frame waits") };
        let len = d.data.len();
        let copied = if len == 0 || buf.remaining() == 0 { 0 } else { buf.write(&d.data)? };
        message.name = d.name.clone();
        if self.options.is_set(libc::SO_TIMESTAMP) {
            let time = abi::time::Timeval::from_nanos(d.time);
            message.control.push(Control::Other(libc::SOL_SOCKET, libc::SO_TIMESTAMP, zerocopy::IntoBytes::as_bytes(&time).to_vec()));
        }
        if s.auxdata {
            // struct tpacket_auxdata: status, length, snapped length, offsets, VLAN.
            let words = [1u32, d.len as u32, d.len as u32, (d.net as u32) << 16, 0];
            let data = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
            message.control.push(Control::Other(libc::SOL_PACKET, libc::PACKET_AUXDATA, data));
        }
        if flags & libc::MSG_PEEK == 0 {
            s.queued -= len + OVERHEAD;
            s.received.pop_front();
        }
        if copied < len {
            message.flags |= libc::MSG_TRUNC;
        }
        Ok(if flags & libc::MSG_TRUNC != 0 { len } else { copied })
    }

    fn poll(&self) -> PollEvents {
        let mut e = PollEvents::WRITABLE;
        e.set(PollEvents::READABLE, !self.state.lock().received.is_empty());
        e
    }

    fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    fn ioctl(&self, task: &Task, cmd: u32, arg: IoctlArg) -> Result<u64> {
        device::ioctl(task, cmd, arg).unwrap_or_else(|| bail!(ENOTTY))
    }

    fn set_option(&self, _task: &Task, level: i32, name: i32, value: &[u8]) -> Option<Result> {
        let on = value.first().is_some_and(|b| *b != 0);
        match (level, name) {
            (libc::SOL_PACKET, libc::PACKET_AUXDATA) => self.state.lock().auxdata = on,
            (libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING) => self.state.lock().ignore_outgoing = on,
            // Every frame that the device has is heard anyhow.
            (libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP | libc::PACKET_DROP_MEMBERSHIP) => {}
            (libc::SOL_PACKET, _) => return Some(Err(abi::error!(ENOPROTOOPT, "packet option {name}"))),
            _ => return None,
        }
        Some(Ok(()))
    }

    fn get_option(&self, _task: &Task, level: i32, name: i32) -> Option<Result<Vec<u8>>> {
        if (level, name) != (libc::SOL_PACKET, libc::PACKET_STATISTICS) {
            return None;
        }
        let mut s = self.state.lock();
        let words = [std::mem::take(&mut s.seen), std::mem::take(&mut s.dropped)];
        Some(Ok(words.iter().flat_map(|w| w.to_ne_bytes()).collect()))
    }

    fn release(&self) {
        let mut s = self.state.lock();
        if !std::mem::replace(&mut s.closed, true) {
            self.stack.packets.count.fetch_sub(1, Relaxed);
        }
        s.received.clear();
        drop(s);
        self.queue.notify(PollEvents::all());
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
