//! Booting: a kernel, its file systems, the tree of mounts, and the first process, all from the [`BootSpec`].
//!
//! This is the one place where the parts of the sentry, which know of each other through the kernel's traits only, are put
//! together. [`mounts`] makes the tree, [`process`] what the first process starts with, [`container`] holds both. A sandbox has one
//! container from the start; the further ones of a pod come over the control socket.

mod container;
mod mounts;
mod notify;
mod process;
mod settings;

use crate::Failure;
pub use container::{Container, Further};
use control::{BootSpec, FailureKind, FdLayout, JoinSpec, Network};
use kernel::{
    Kernel, KernelConfig,
    container::{PidNamespace, Shared},
    mm::MemoryPool,
    time::Timer,
};
pub use process::Streams;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use sync::{Mutex, Rank};

/// A running sandbox.
pub struct Sandbox {
    kernel: Arc<Kernel>,
    /// The container that it was made for; with it the sandbox ends.
    pub first: Arc<Container>,
    /// The others, by name; no container: one is being made.
    further: Mutex<BTreeMap<String, Option<Arc<Container>>>>,
}

/// Boots, and prepares the first process, which does not run yet. `steady_counter`: see [`KernelConfig`].
pub fn boot(
    spec: &BootSpec,
    platform: Arc<dyn platform::Platform>,
    host: fs::proc::HostInfo,
    gofer: OwnedFd,
    streams: Streams,
    steady_counter: bool,
) -> Result<Arc<Sandbox>, Failure> {
    let memory = MemoryPool::new(host::memfile::MemoryFile::DEFAULT_LEN).map_err(Failure::host("application memory"))?;
    // A guest thread that waits in the kernel leaves its processor to others.
    sync::set_scheduler(sync::Scheduler {
        waits: platform::set_blocked,
        place: platform::place,
        wake: platform::wake,
        idles: platform::idles,
    });
    let config = KernelConfig { steady_counter, ..KernelConfig::default() };
    let kernel = Kernel::new(platform, Arc::new(memory), config).map_err(Failure::host("cannot boot"))?;
    register(&kernel, spec, host);
    network(&kernel, spec)?;
    let first = Container::new(&kernel, spec, Shared::default(), gofer, streams)?;
    Ok(Arc::new(Sandbox { kernel, first, further: Mutex::new(Rank::Leaf, BTreeMap::new()) }))
}

/// Makes every part known to the kernel.
fn register(kernel: &Arc<Kernel>, spec: &BootSpec, host: fs::proc::HostInfo) {
    kernel.attachments.get_or_insert_with(|| host);
    kernel.attachments.get_or_insert_with(|| fs::proc::IdMaps { uid: id_map(&spec.uid_map), gid: id_map(&spec.gid_map) });
    fs::register(kernel);
    net::register(kernel, spec.network == Network::Host);
    kernel.set_dispatcher(syscalls::register());
}

/// How long after the start what it has used is let go.
const START_NS: u64 = 1_000_000_000;

impl Sandbox {
    /// Lets go of the memory that only the start has needed, a moment later, unless the timer is dropped.
    pub fn let_go_of_start(&self) -> Timer {
        let timer = Timer::new(&self.kernel.timers, host::time::monotonic_ns, |_| host::image::let_go_of_start());
        timer.set_after(Some(START_NS), 0);
        timer
    }

    /// Makes a further container, whose first process does not run yet.
    pub fn join(&self, spec: &JoinSpec, gofer: OwnedFd, streams: Streams) -> Result<Arc<Container>, Failure> {
        let id = &spec.container.id;
        let shared = self.shared(spec)?;
        {
            let mut further = self.further.lock();
            if self.first.id() == id || further.contains_key(id) {
                return Err(Failure::new(FailureKind::Invalid, format!("the sandbox has a container {id} already")));
            }
            further.insert(id.clone(), None);
        }
        let made = Container::new(&self.kernel, &spec.container, shared, gofer, streams);
        let mut further = self.further.lock();
        match &made {
            Ok(container) => further.insert(id.clone(), Some(container.clone())),
            Err(_) => further.remove(id),
        };
        drop(further);
        made
    }

    /// The namespaces of other containers that a new one shares.
    fn shared(&self, spec: &JoinSpec) -> Result<Shared, Failure> {
        let of = |id: &Option<String>| match id {
            None => Ok(None),
            Some(id) => match self.container(id) {
                Some(container) => Ok(Some(container)),
                None => Err(Failure::new(FailureKind::Invalid, format!("container {id}, whose namespaces are to be shared, has ended"))),
            },
        };
        let wanted = &spec.shared;
        let pid = of(&wanted.pid)?.map(|container| container.inner().pids.clone());
        if pid.as_deref().is_some_and(PidNamespace::has_ended) {
            return Err(Failure::new(FailureKind::Invalid, "the pid namespace to be shared has ended"));
        }
        Ok(Shared {
            pid,
            uts: of(&wanted.uts)?.map(|container| container.inner().uts.clone()),
            ipc: of(&wanted.ipc)?.map(|container| container.inner().ipc.clone()),
        })
    }

    /// The container of this name.
    pub fn container(&self, id: &str) -> Option<Arc<Container>> {
        if self.first.id() == id {
            return Some(self.first.clone());
        }
        self.further.lock().get(id).cloned().flatten()
    }

    /// Forgets a further container, which has ended.
    pub fn forget(&self, container: &Container) {
        self.further.lock().remove(container.id());
    }

    /// Ends all further containers.
    pub fn end_further(&self) {
        let all: Vec<Arc<Container>> = self.further.lock().values().flatten().cloned().collect();
        all.iter().for_each(|container| container.kill());
    }
}

/// The lines of `/proc/PID/uid_map`.
fn id_map(ranges: &[control::IdRange]) -> String {
    let line = |range: &control::IdRange| format!("{:>10} {:>10} {:>10}\n", range.inside, range.outside, range.size);
    match ranges {
        [] => line(&control::IdRange { inside: 0, outside: 0, size: u32::MAX }),
        ranges => ranges.iter().map(line).collect(),
    }
}

/// Takes over the interfaces that the runtime has opened; with the host's network they are only shown.
fn network(kernel: &Kernel, spec: &BootSpec) -> Result<(), Failure> {
    let mut interfaces = Vec::new();
    for (number, i) in (FdLayout::NETWORK..).zip(&spec.interfaces) {
        let socket = match spec.network {
            Network::Host => None,
            _ => Some(host::inherit::take(number).map_err(Failure::internal("a packet socket"))?),
        };
        let address = |a: &control::Address| net::stack::IfAddr { ip: a.ip, prefix: a.prefix, broadcast: a.broadcast, scope: a.scope };
        interfaces.push(net::stack::Interface {
            socket,
            index: i.index,
            name: i.name.clone(),
            mac: i.mac,
            mtu: i.mtu,
            addresses: i.addresses.iter().map(address).collect(),
            neighbours: i.neighbours.clone(),
        });
    }
    let route = |r: &control::Route| net::stack::route::Route {
        dst: r.dst,
        prefix: r.prefix,
        gateway: r.gateway,
        device: r.device,
        source: r.source,
        metric: r.metric,
        mtu: r.mtu,
        protocol: r.protocol,
        scope: r.scope,
        kind: r.kind,
    };
    let routes = spec.routes.iter().map(route).collect();
    let stack = net::stack::Stack::of(kernel);
    // Most containers have none.
    if let Ok(socket) = host::inherit::take(FdLayout::RESOLVER) {
        stack.set_resolver(socket).map_err(Failure::internal("the name server"))?;
    }
    stack.take_over(interfaces, routes).map_err(Failure::internal("the network"))
}

/// For `map_err`: the configuration cannot be put into force.
fn refused(what: impl std::fmt::Display) -> impl FnOnce(abi::Error) -> Failure {
    move |error| Failure::new(FailureKind::Invalid, format!("{what}: {error}"))
}
