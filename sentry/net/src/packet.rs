//! AF_PACKET: frames of devices, for tcpdump, DHCP clients and arping (packet(7)). Needs CAP_NET_RAW. With [`ring`]s to receive, none to
//! send, no fan-out.

mod ring;

use crate::device;
use crate::stack::{Device, Stack};
use crate::wire;
use abi::{Result, bail, libc, poll::PollEvents};
use kernel::{
    cred::CapSet,
    io::IoBuffer,
    net::{Control, Family, Message, OptionValue, SocketFilter, SocketKind, SocketOps, SocketOptions, View},
    task::Task,
    time::Timer,
    vfs::{File, IoctlArg, Mappable},
};
use ring::{Frame, Request, Ring, Taken, Version, option};
use std::any::Any;
use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};
use sync::{Mutex, Rank, WaitQueue};

const OVERHEAD: usize = 768;
const ETH_P_ALL: u16 = 3;
/// What may be kept free before a frame in a ring.
const RESERVE_MAX: usize = 1 << 16;

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
        let sock = Arc::new_cyclic(|me| PacketSock {
            me: me.clone(),
            ino: OnceLock::new(),
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

    fn proc_net(&self, kernel: &kernel::Kernel, name: &str) -> Option<String> {
        if name != "packet" {
            return None;
        }
        let mut out = "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n".to_owned();
        let all: Vec<Arc<PacketSock>> = Stack::of(kernel).packets.all.lock().iter().filter_map(Weak::upgrade).collect();
        for s in all {
            let (kind, inode) = (s.kind.raw(), s.ino.get().copied().unwrap_or(0));
            let s = s.state.lock();
            let (device, on) = (s.device.unwrap_or(0), u8::from(s.protocol != 0));
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{:016x} 3      {kind:<4} {:04x}   {device:<5} {on} {:<6} 0      {inode:<6}", 0, s.protocol, s.queued);
        }
        Some(out)
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
    /// `PACKET_VERSION`, `PACKET_RESERVE`
    version: Version,
    reserve: usize,
    ring: Option<Ring>,
}

/// A socket.
struct PacketSock {
    me: Weak<PacketSock>,
    ino: OnceLock<u64>,
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
    a.extend_from_slice(&device.map_or(0, hardware).to_ne_bytes());
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
        let (data, net) = if self.kind == SocketKind::Raw { (frame, header) } else { (frame.get(header..).unwrap_or_default(), 0) };
        let mut kept = data.len();
        if let Some(program) = self.options.filter.program() {
            let network = frame.get(header..).unwrap_or_default();
            let view = View { data, network, link: frame, protocol, kind, device: device.index, hardware: hardware(device) };
            let Some(n) = SocketFilter::admit(&program, &view, 0) else { return };
            kept = n;
        }
        s.seen = s.seen.saturating_add(1);
        let name = address(protocol, Some(device), kind, frame.get(6..12).unwrap_or_default());
        let time = host::time::realtime_ns();
        let len = data.len();
        let data = data.get(..kept).unwrap_or(data);
        let losing = s.dropped > 0;
        if let Some(ring) = &mut s.ring {
            ring.losing = losing;
            let taken = ring.take(&Frame { address: &name, data, len, link: net, time });
            if taken == Taken::Lost {
                s.dropped = s.dropped.saturating_add(1);
            }
            drop(s);
            if taken == Taken::Ready {
                self.queue.notify(PollEvents::READABLE);
            }
            return;
        }
        if s.queued > 0 && s.queued + data.len() + OVERHEAD > self.options.rcvbuf() {
            s.dropped = s.dropped.saturating_add(1);
            return;
        }
        s.queued += data.len() + OVERHEAD;
        s.received.push_back(Received { data: data.to_vec(), name, len, net, time });
        drop(s);
        self.queue.notify(PollEvents::READABLE);
    }

    /// `PACKET_RX_RING`: makes the ring, or takes it away.
    fn set_ring(&self, task: &Task, value: &[u8]) -> Result {
        let (version, reserve) = {
            let s = self.state.lock();
            (s.version, s.reserve)
        };
        let request = Request::read(version, value)?;
        let new = if request.block_count > 0 {
            if self.state.lock().ring.is_some() {
                bail!(EBUSY, "there is a ring");
            }
            let mut ring = Ring::new(task.kernel(), version, request, reserve)?;
            if version == Version::V3 {
                let me = self.me.clone();
                let timer = Timer::new(&task.kernel().timers, host::time::monotonic_ns, move |_| {
                    if let Some(me) = me.upgrade() {
                        me.retire();
                    }
                });
                let every = ring.retire_after();
                timer.set_after(Some(every), every);
                ring.timer = Some(timer);
            }
            Some(ring)
        } else {
            request.check_none()?;
            None
        };
        let mut s = self.state.lock();
        if s.ring.as_ref().is_some_and(Ring::is_mapped) {
            bail!(EBUSY, "the ring is mapped");
        }
        let old = (std::mem::replace(&mut s.ring, new), std::mem::take(&mut s.received));
        s.queued = 0;
        drop(s);
        drop(old);
        Ok(())
    }

    /// Hands over the block that is being filled.
    fn retire(&self) {
        let ready = self.state.lock().ring.as_mut().is_some_and(Ring::retire);
        if ready {
            self.queue.notify(PollEvents::READABLE);
        }
    }

    /// An option of the level SOL_PACKET.
    fn set_packet_option(&self, task: &Task, name: i32, value: &[u8]) -> Result {
        let on = value.first().is_some_and(|b| *b != 0);
        let int = || OptionValue(value).int();
        match name {
            libc::PACKET_AUXDATA => self.state.lock().auxdata = on,
            libc::PACKET_IGNORE_OUTGOING => self.state.lock().ignore_outgoing = on,
            // Every frame that the device has is heard anyhow.
            libc::PACKET_ADD_MEMBERSHIP | libc::PACKET_DROP_MEMBERSHIP => {}
            option::VERSION => {
                let Some(version) = Version::from_raw(int()?) else { bail!(EINVAL, "version of rings") };
                let mut s = self.state.lock();
                if s.ring.is_some() {
                    bail!(EBUSY, "there is a ring");
                }
                s.version = version;
            }
            option::RESERVE => {
                let Some(n) = usize::try_from(int()?).ok().filter(|n| *n <= RESERVE_MAX) else { bail!(EINVAL, "reserve") };
                let mut s = self.state.lock();
                if s.ring.is_some() {
                    bail!(EBUSY, "there is a ring");
                }
                s.reserve = n;
            }
            option::RX_RING => self.set_ring(task, value)?,
            option::TX_RING => bail!(ENOPROTOOPT, "no rings to send"),
            _ => bail!(ENOPROTOOPT, "packet option {name}"),
        }
        Ok(())
    }
}

/// `ARPHRD_*`
fn hardware(device: &Device) -> u16 {
    if device.is_loopback() { 772 } else { 1 }
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

    fn attached(&self, file: &Arc<File>) {
        let _ = self.ino.set(file.inode().ino);
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
        message.control.extend(self.options.received_at(d.time));
        if s.auxdata {
            // struct tpacket_auxdata: status, length, snapped length, offsets, VLAN.
            let words = [1u32, d.len as u32, d.data.len() as u32, (d.net as u32) << 16, 0];
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
        let s = self.state.lock();
        e.set(PollEvents::READABLE, !s.received.is_empty() || s.ring.as_ref().is_some_and(Ring::is_readable));
        e
    }

    fn mappable(&self) -> Result<Arc<dyn Mappable>> {
        match &self.state.lock().ring {
            Some(ring) => Ok(ring.memory.clone()),
            None => bail!(EINVAL, "no ring"),
        }
    }

    fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    fn ioctl(&self, task: &Task, cmd: u32, arg: IoctlArg) -> Result<u64> {
        device::ioctl(task, cmd, arg).unwrap_or_else(|| bail!(ENOTTY))
    }

    fn set_option(&self, task: &Task, level: i32, name: i32, value: &[u8]) -> Option<Result> {
        (level == libc::SOL_PACKET).then(|| self.set_packet_option(task, name, value))
    }

    fn get_option(&self, _task: &Task, level: i32, name: i32) -> Option<Result<Vec<u8>>> {
        if level != libc::SOL_PACKET {
            return None;
        }
        let mut s = self.state.lock();
        let n = match name {
            libc::PACKET_STATISTICS => {
                let mut words = vec![std::mem::take(&mut s.seen), std::mem::take(&mut s.dropped)];
                if s.version == Version::V3 {
                    words.push(s.ring.as_mut().map_or(0, |r| std::mem::take(&mut r.freezes)));
                }
                return Some(Ok(words.iter().flat_map(|w| w.to_ne_bytes()).collect()));
            }
            option::VERSION => s.version as i32,
            option::RESERVE => s.reserve as i32,
            libc::PACKET_AUXDATA => i32::from(s.auxdata),
            libc::PACKET_IGNORE_OUTGOING => i32::from(s.ignore_outgoing),
            _ => return None,
        };
        Some(Ok(n.to_ne_bytes().to_vec()))
    }

    fn answer_option(&self, level: i32, name: i32, asked: i32) -> Option<Result<Vec<u8>>> {
        if (level, name) != (libc::SOL_PACKET, option::HDRLEN) {
            return None;
        }
        Some(match Version::from_raw(asked) {
            Some(version) => Ok((version.header() as i32).to_ne_bytes().to_vec()),
            None => Err(abi::error!(EINVAL, "version of rings")),
        })
    }

    fn release(&self) {
        let mut s = self.state.lock();
        if !std::mem::replace(&mut s.closed, true) {
            self.stack.packets.count.fetch_sub(1, Relaxed);
        }
        s.received.clear();
        let ring = s.ring.take();
        drop(s);
        drop(ring);
        self.queue.notify(PollEvents::all());
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
