//! [`Stack`]: the one place for devices, addresses, routes, ports and connections, of loopback and of the outside alike.
//!
//! Frames come in on one thread for each device ([`input`]); sockets send from whatever thread they are used on ([`output`]); [`timers`]
//! wakes connections. No lock here is held while a frame is sent or a socket's lock is taken, and none is taken for each segment of
//! an established connection but the one of its shard in [`Connections`].

pub mod device;
mod icmp;
mod input;
mod look;
mod membership;
pub mod neighbour;
mod output;
mod reassembly;
pub mod resolver;
pub mod route;
mod show;
mod timers;

pub use device::{Device, IfAddr};
pub use input::Touched;
pub use membership::solicited_node;
pub use output::{Path, Quote};
pub use show::Snmp;

use crate::inet::{InetSock, Ports};
use crate::packet::PacketSockets;
use crate::raw::RawSockets;
use abi::{Result, bail};
use kernel::{Kernel, net::NetSettings};
use reassembly::Reassembly;
use route::{PathMtus, Route};
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use sync::{Mutex, Rank, RwLock};
use timers::Timers;

/// An interface that the sandbox takes over, or shows.
#[derive(Debug)]
pub struct Interface {
    /// The packet socket, bound to it, with `PACKET_VNET_HDR`; `None`: the host's own, which is only shown.
    pub socket: Option<OwnedFd>,
    pub index: u32,
    pub name: String,
    pub mac: [u8; 6],
    pub mtu: u32,
    pub addresses: Vec<IfAddr>,
    /// Neighbours that are fixed.
    pub neighbours: Vec<(IpAddr, [u8; 6])>,
}

/// Shards of the table of connections.
const SHARDS: usize = 64;

type ConnectionKey = (SocketAddr, SocketAddr);

/// Connections to the outside by local and remote address.
pub struct Connections {
    shards: Vec<Mutex<HashMap<ConnectionKey, Arc<InetSock>>>>,
    hasher: RandomState,
}

impl Default for Connections {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::new(Rank::Leaf, HashMap::new())).collect();
        Connections { shards, hasher: RandomState::new() }
    }
}

impl Connections {
    fn shard(&self, key: &ConnectionKey) -> Option<&Mutex<HashMap<ConnectionKey, Arc<InetSock>>>> {
        self.shards.get(self.hasher.hash_one(key) as usize % SHARDS)
    }

    /// A number from anything that nobody outside can foresee.
    pub fn secret(&self, of: &impl Hash) -> u64 {
        self.hasher.hash_one(of)
    }

    /// A number from these addresses that nobody outside can foresee.
    pub fn hash(&self, local: SocketAddr, remote: SocketAddr) -> u64 {
        self.hasher.hash_one((local, remote))
    }

    /// The connection between these.
    pub fn find(&self, local: SocketAddr, remote: SocketAddr) -> Option<Arc<InetSock>> {
        let key = (local, remote);
        self.shard(&key)?.lock().get(&key).cloned()
    }

    /// Enters a connection; `false` if there is one already.
    pub fn add(&self, local: SocketAddr, remote: SocketAddr, sock: &Arc<InetSock>) -> bool {
        let key = (local, remote);
        let Some(shard) = self.shard(&key) else { return false };
        let mut shard = shard.lock();
        if shard.contains_key(&key) {
            return false;
        }
        shard.insert(key, sock.clone());
        true
    }

    /// Forgets a connection, if it is this one.
    pub fn remove(&self, local: SocketAddr, remote: SocketAddr, sock: &InetSock) {
        let key = (local, remote);
        let Some(shard) = self.shard(&key) else { return };
        let mut shard = shard.lock();
        let gone = if shard.get(&key).is_some_and(|s| std::ptr::eq(&raw const **s, sock)) { shard.remove(&key) } else { None };
        drop(shard);
        drop(gone);
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<InetSock>> {
        self.shards.iter().flat_map(|s| s.lock().values().cloned().collect::<Vec<_>>()).collect()
    }
}

/// Devices and routes, replaced as a whole when they change.
#[derive(Debug, Default)]
pub struct Table {
    pub devices: Vec<Arc<Device>>,
    pub routes: Vec<Route>,
}

impl Table {
    /// The device of this index.
    pub fn device(&self, index: u32) -> Option<&Arc<Device>> {
        self.devices.iter().find(|d| d.index == index)
    }

    /// The device of this name.
    pub fn named(&self, name: &[u8]) -> Option<&Arc<Device>> {
        self.devices.iter().find(|d| d.name.as_bytes() == name)
    }
}

/// The network of a sandbox.
pub struct Stack {
    me: Weak<Stack>,
    table: RwLock<Arc<Table>>,
    /// Grows with every change of the table.
    pub generation: AtomicU64,
    pub ports: Ports,
    pub settings: Arc<NetSettings>,
    pub connections: Connections,
    pub raw: RawSockets,
    pub packets: PacketSockets,
    pub snmp: Snmp,
    resolver: std::sync::OnceLock<Arc<resolver::Resolver>>,
    /// Memory of connections over loopback.
    pub pieces: crate::tcp::stream::Pieces,
    paths: Mutex<PathMtus>,
    reassembly: Mutex<Reassembly>,
    timers: Timers,
    next_id: AtomicU32,
    looking: look::Looking,
    /// When a SYN was last answered with a cookie; zero: never.
    pub cookies_at: AtomicU64,
    /// Until when ICMP errors of our own are held back, and how many may still be sent.
    errors: Mutex<(u64, u32)>,
    /// Told of changes: netlink's groups.
    pub watchers: Mutex<Vec<Watcher>>,
}

type Tell = Arc<dyn Fn(&Change) + Send + Sync>;

/// Who is told of changes.
pub struct Watcher {
    tell: Tell,
    alive: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Watcher {
    /// `alive`: whether there is still somebody to tell.
    pub fn new(tell: Tell, alive: impl Fn() -> bool + Send + Sync + 'static) -> Watcher {
        Watcher { tell, alive: Box::new(alive) }
    }

    /// Whether there is.
    pub fn is_alive(&self) -> bool {
        (self.alive)()
    }
}

/// A change that netlink tells of.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Change {
    Link(u32),
    Address { device: u32, address: IfAddr, added: bool },
    Route { route: Route, added: bool },
}

impl Stack {
    /// A sandbox with loopback alone.
    pub fn loopback(settings: Arc<NetSettings>) -> Arc<Stack> {
        let table = Table { devices: vec![Arc::new(Device::loopback())], routes: Vec::new() };
        Arc::new_cyclic(|me| Stack {
            me: me.clone(),
            table: RwLock::new(Rank::Leaf, Arc::new(table)),
            generation: AtomicU64::new(1),
            ports: Ports::new(settings.clone()),
            settings,
            connections: Connections::default(),
            raw: RawSockets::default(),
            packets: PacketSockets::default(),
            snmp: Snmp::default(),
            resolver: Default::default(),
            pieces: Default::default(),
            paths: Mutex::new(Rank::Leaf, PathMtus::default()),
            reassembly: Mutex::new(Rank::Leaf, Reassembly::default()),
            timers: Timers::default(),
            next_id: AtomicU32::new(host::rand::u64() as u32),
            looking: look::Looking::default(),
            cookies_at: AtomicU64::new(0),
            errors: Mutex::new(Rank::Leaf, (0, 0)),
            watchers: Mutex::new(Rank::Leaf, Vec::new()),
        })
    }

    /// The sandbox's.
    pub fn of(kernel: &Kernel) -> Arc<Stack> {
        let settings = NetSettings::of(kernel);
        kernel.attachments.get_or_insert_with(|| StackHandle(Stack::loopback(settings))).0.clone()
    }

    /// Takes interfaces over, and starts their threads. To be called once, before the application runs.
    pub fn take_over(&self, interfaces: Vec<Interface>, routes: Vec<Route>) -> Result {
        let mut devices = self.table().devices.clone();
        let mut new = Vec::new();
        for i in interfaces {
            if i.index <= 1 || devices.iter().any(|d| d.index == i.index || d.name == i.name) {
                bail!(EINVAL, "interface {} ({})", i.name, i.index);
            }
            let device = Device::new(i.index, &i.name, i.mac, i.mtu.clamp(68, 65_535), i.socket);
            *device.addresses.lock() = i.addresses;
            for (ip, mac) in i.neighbours {
                device.neighbours.lock().pin(ip, mac);
            }
            let device = Arc::new(device);
            devices.push(device.clone());
            if device.link().is_some() {
                new.push(device);
            }
        }
        self.set_table(Table { devices, routes });
        if new.is_empty() {
            return Ok(());
        }
        self.timers.start(&self.me)?;
        let watch: Weak<dyn sync::Watch> = self.me.clone();
        sync::set_watch(watch);
        for device in new {
            self.join_own_groups(&device);
            let stack = self.me.clone();
            host::thread::spawn(&format!("net {}", device.name), move || input::serve(&stack, &device))?;
        }
        Ok(())
    }

    /// Passes what is asked at [`resolver::ADDRESS`] on to this socket. To be called once, before the application runs.
    pub fn set_resolver(&self, socket: OwnedFd) -> Result {
        let resolver = self.resolver.get_or_init(|| Arc::new(resolver::Resolver::new(socket))).clone();
        let stack = self.me.clone();
        host::thread::spawn("net resolver", move || resolver.serve(&stack))?;
        Ok(())
    }

    /// The engine's name server, if this is its address.
    pub fn resolver(&self, to: SocketAddr) -> Option<&Arc<resolver::Resolver>> {
        self.resolver.get().filter(|_| to == resolver::ADDRESS)
    }

    /// Devices and routes as they are now.
    pub fn table(&self) -> Arc<Table> {
        self.table.read().clone()
    }

    fn set_table(&self, table: Table) {
        let old = std::mem::replace(&mut *self.table.write(), Arc::new(table));
        self.generation.fetch_add(1, Ordering::Release);
        drop(old);
    }

    /// Changes devices and routes.
    pub fn change_routes<T>(&self, change: impl FnOnce(&mut Vec<Route>) -> Result<T>) -> Result<T> {
        let old = self.table();
        let mut routes = old.routes.clone();
        let result = change(&mut routes)?;
        self.set_table(Table { devices: old.devices.clone(), routes });
        Ok(result)
    }

    /// Addresses of a device have changed.
    pub fn addresses_changed(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Tells watchers of a change.
    pub fn tell(&self, change: &Change) {
        let all: Vec<Tell> = self.watchers.lock().iter().map(|w| w.tell.clone()).collect();
        for tell in all {
            tell(change);
        }
    }

    /// The device that has this address: whoever sends there speaks with this sandbox.
    pub fn local(&self, ip: IpAddr) -> Option<Arc<Device>> {
        let table = self.table();
        if ip.is_loopback() {
            return table.devices.first().cloned();
        }
        table.devices.iter().find(|d| d.has(ip)).cloned()
    }

    /// Whether any device is not loopback.
    pub fn has_outside(&self) -> bool {
        self.table().devices.len() > 1
    }

    /// Calls the socket's timer handler at this moment, or before.
    pub fn wake_at(&self, sock: &Arc<InetSock>, at: u64) {
        self.timers.add(at, sock);
    }

    /// The number of the next packet or fragment.
    pub fn packet_id(&self) -> u32 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }
}

/// What the kernel keeps for us.
struct StackHandle(Arc<Stack>);
