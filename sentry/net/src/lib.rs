//! Socket families: unix, inet, netlink and packet, and the network stack below the last three.
//!
//! They implement the traits of [`kernel::net`] and register themselves with [`register`]. [`stack`] is the network: devices, routes,
//! packets; [`tcp`] a TCP for the outside; loopback needs neither packets nor TCP. With [`passthrough`] AF_INET and AF_INET6 are the host's.

pub mod device;
pub mod inet;
mod netlink;
pub mod packet;
pub mod passthrough;
pub mod raw;
pub mod stack;
mod tcp;
pub mod unix;
mod wire;

use kernel::Kernel;
use std::sync::Arc;

/// Makes every family known to socket(2). `host`: those of the internet are the host's.
pub fn register(kernel: &Kernel, host: bool) {
    kernel::net::register(kernel, Arc::new(unix::UnixFamily));
    kernel::net::register(kernel, Arc::new(netlink::NetlinkFamily));
    kernel::net::register(kernel, Arc::new(packet::PacketFamily));
    for v6 in [false, true] {
        if host {
            kernel::net::register(kernel, Arc::new(passthrough::HostFamily { v6 }));
        } else {
            kernel::net::register(kernel, Arc::new(inet::InetFamily { v6 }));
        }
    }
}
