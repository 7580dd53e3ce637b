//! Takes over the interfaces of the container's network namespace, for the sentry's own stack.
//!
//! Of each Ethernet interface that is up: its addresses, routes, MTU and fixed neighbours are read, a packet socket is opened for the
//! sentry, which cannot make one, and the addresses are taken off the interface, so that the host's kernel does not answer what is meant
//! for the sandbox. [`netlink`] asks and changes.
//!
//! The calling process must be in that namespace, and the namespace must be the container's own.

mod netlink;

use super::jail;
use crate::exit::{Failure, Result, Status};
use control::{FdLayout, Interface, Route};
use netlink::Netlink;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::OwnedFd;

/// What was taken.
#[derive(Debug, Default)]
pub struct TakenOver {
    /// What the sentry is told of them.
    pub interfaces: Vec<Interface>,
    /// Routes over them.
    pub routes: Vec<Route>,
    /// Their packet sockets, in the same order.
    pub sockets: Vec<OwnedFd>,
    /// Connected to the engine's name server on loopback, where there is one.
    pub resolver: Option<OwnedFd>,
    /// Those of them on which IPv6 was turned off.
    pub without_v6: Vec<String>,
}

/// What interfaces had before they were taken over.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Kept {
    interfaces: Vec<Interface>,
    routes: Vec<Route>,
    with_v6: Vec<String>,
}

impl TakenOver {
    /// What has to be given back when the sandbox has ended.
    pub fn keep(&self) -> Kept {
        if self.sockets.is_empty() {
            return Kept::default();
        }
        Kept { interfaces: self.interfaces.clone(), routes: self.routes.clone(), with_v6: self.without_v6.clone() }
    }
}

impl Kept {
    /// Whether there is nothing to give back.
    pub fn is_empty(&self) -> bool {
        self.interfaces.is_empty()
    }

    /// Gives the interfaces back what they had, for whoever uses the namespace next: a container that is started again, the next one of
    /// a pod. An interface that is gone needs nothing; other failures are told, and the rest is tried all the same.
    pub fn give_back(&self) {
        if self.interfaces.is_empty() {
            return;
        }
        for name in &self.with_v6 {
            let _ = std::fs::write(disable_v6(name), "0");
        }
        let mut host = match Netlink::open() {
            Ok(host) => host,
            Err(error) => return tracing::warn!("the interfaces keep no addresses: {error}"),
        };
        for i in &self.interfaces {
            for a in &i.addresses {
                match host.add(i.index, a) {
                    // The interface is gone, or was never without it: who was to take it was killed before.
                    Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EEXIST)) => {}
                    Err(error) => tracing::warn!("{}: the address {} is not given back: {error}", i.name, a.ip),
                    Ok(()) => {}
                }
            }
        }
        // Gateways are reached by other routes: those first.
        let (direct, far): (Vec<&Route>, Vec<&Route>) = self.routes.iter().partition(|r| r.gateway.is_none());
        for r in direct.into_iter().chain(far) {
            match host.add_route(r) {
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EEXIST)) => {}
                Err(error) => tracing::warn!("the route to {}/{} is not given back: {error}", r.dst, r.prefix),
                Ok(()) => {}
            }
        }
    }
}

fn disable_v6(name: &str) -> String {
    format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
}

/// Reads what there is to show of the network namespace that the calling process is in, and takes nothing: `--network=host`.
pub fn look() -> Result<TakenOver> {
    let failed = |error: io::Error| Failure::new(Status::Host, format!("cannot read the network namespace's interfaces: {error}"));
    let mut host = Netlink::open().map_err(failed)?;
    let all = host.interfaces().map_err(failed)?;
    let interfaces: Vec<Interface> = all.into_iter().filter(|f| f.up && !f.loopback && f.ethernet).map(|f| f.interface).collect();
    let routes = host.routes().map_err(failed)?.into_iter().filter(|r| interfaces.iter().any(|i| i.index == r.device)).collect();
    Ok(TakenOver { interfaces, routes, ..TakenOver::default() })
}

/// Makes a namespace that was just made one to use: loopback is up, and low ports are anybody's, as the sentry has no privilege in it
/// and asks for the application's itself.
pub fn open_up() -> Result<()> {
    let failed = |error: io::Error| Failure::new(Status::Host, format!("cannot set the network namespace up: {error}"));
    Netlink::open().and_then(|mut host| host.set_up(1)).map_err(failed)?;
    low_ports();
    Ok(())
}

/// Lets the sentry bind low ports in the container's own namespace. Where /proc/sys is read-only the host keeps them to itself.
pub fn low_ports() {
    if let Err(error) = std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0") {
        tracing::debug!("ports below 1024 stay the host's: {error}");
    }
}

/// Bytes of frames that may wait to be received, and to be sent.
const RECEIVE_BUFFER: usize = 16 << 20;
const SEND_BUFFER: usize = 4 << 20;

/// Takes over all interfaces of the calling process's network namespace. `keep` is told what they have, before they lose it.
pub fn take_over(keep: impl FnOnce(&Kept) -> Result<()>) -> Result<TakenOver> {
    let failed = |error: io::Error| Failure::new(Status::Host, format!("cannot take over the network namespace's interfaces: {error}"));
    let mut host = Netlink::open().map_err(failed)?;
    let all = host.interfaces().map_err(failed)?;
    let mut taken = TakenOver::default();
    for found in all {
        if !found.up || found.loopback {
            continue;
        }
        if !found.ethernet {
            tracing::warn!("{}: not an Ethernet interface: the sandbox does not see it", found.interface.name);
            continue;
        }
        if taken.interfaces.len() == FdLayout::MAX_INTERFACES {
            tracing::warn!("{}: there are too many interfaces: the sandbox does not see it", found.interface.name);
            continue;
        }
        taken.sockets.push(packet_socket(found.interface.index).map_err(failed)?);
        taken.interfaces.push(found.interface);
    }
    let known = |route: &Route| taken.interfaces.iter().any(|i| i.index == route.device);
    taken.routes = host.routes().map_err(failed)?.into_iter().filter(known).collect();
    let has_v6 = |i: &&Interface| std::fs::read_to_string(disable_v6(&i.name)).is_ok_and(|text| text.trim() == "0");
    taken.without_v6 = taken.interfaces.iter().filter(has_v6).map(|i| i.name.clone()).collect();
    if !taken.interfaces.is_empty() {
        keep(&taken.keep())?;
    }
    for i in &taken.interfaces {
        for address in &i.addresses {
            host.remove(i.index, address).map_err(|error| failed(io::Error::other(format!("{}: {}: {error}", i.name, address.ip))))?;
        }
        // The host must not give itself new ones. Where /proc/sys is read-only, or without IPv6, there is nothing to turn off.
        let _ = std::fs::write(disable_v6(&i.name), "1");
    }
    Ok(taken)
}

/// The name server that Docker puts into a container's network namespace: rules there lead from this address to a listener of its own.
const ENGINE_RESOLVER: &str = "127.0.0.11";

/// A socket connected to the engine's name server, if this resolv.conf names it.
pub fn engine_resolver(resolv_conf: &str) -> Result<Option<OwnedFd>> {
    let named = |line: &str| {
        let mut words = line.split_whitespace();
        words.next() == Some("nameserver") && words.next() == Some(ENGINE_RESOLVER)
    };
    if !resolv_conf.lines().any(named) {
        return Ok(None);
    }
    let failed = |error: io::Error| Failure::new(Status::Host, format!("the name server at {ENGINE_RESOLVER}: {error}"));
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").map_err(failed)?;
    socket.connect((ENGINE_RESOLVER, 53)).map_err(failed)?;
    Ok(Some(socket.into()))
}

/// A packet socket of an interface: every frame, with a virtio-net header that leaves checksums and segments to the device.
fn packet_socket(index: u32) -> io::Result<OwnedFd> {
    let fd = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    jail::set_packet_option(&fd, libc::PACKET_VNET_HDR, &1i32.to_ne_bytes())?;
    jail::set_packet_option(&fd, libc::PACKET_IGNORE_OUTGOING, &1i32.to_ne_bytes())?;
    // struct packet_mreq: every multicast frame, as the sentry knows which groups count.
    let membership = [&index.to_ne_bytes()[..], &(libc::PACKET_MR_ALLMULTI as u16).to_ne_bytes(), &[0; 10]].concat();
    jail::set_packet_option(&fd, libc::PACKET_ADD_MEMBERSHIP, &membership)?;
    // Beyond the host's limits as far as it lets us.
    let sizes = sockopt::set_socket_recv_buffer_size_force(&fd, RECEIVE_BUFFER)
        .and_then(|()| sockopt::set_socket_send_buffer_size_force(&fd, SEND_BUFFER));
    if sizes.is_err() {
        sockopt::set_socket_recv_buffer_size(&fd, RECEIVE_BUFFER)?;
        sockopt::set_socket_send_buffer_size(&fd, SEND_BUFFER)?;
    }
    jail::bind_packet(&fd, index)?;
    Ok(fd)
}
