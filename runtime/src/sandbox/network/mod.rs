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
}

/// Bytes of frames that may wait to be received, and to be sent.
const RECEIVE_BUFFER: usize = 16 << 20;
const SEND_BUFFER: usize = 4 << 20;

/// Takes over all interfaces of the calling process's network namespace.
pub fn take_over() -> Result<TakenOver> {
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
    for i in &taken.interfaces {
        for address in &i.addresses {
            host.remove(i.index, address).map_err(|error| failed(io::Error::other(format!("{}: {}: {error}", i.name, address.ip))))?;
        }
        // The host must not give itself new ones. Where /proc/sys is read-only, or without IPv6, there is nothing to turn off.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", i.name), "1");
    }
    Ok(taken)
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
