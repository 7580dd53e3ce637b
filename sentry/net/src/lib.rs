//! Socket families: unix, inet over loopback, and a small netlink.
//!
//! They implement the traits of [`kernel::net`] and register themselves with [`register`].

pub mod device;
pub mod inet;
mod netlink;
pub mod unix;

use kernel::Kernel;
use std::sync::Arc;

/// Makes every family known to socket(2).
pub fn register(kernel: &Kernel) {
    kernel::net::register(kernel, Arc::new(unix::UnixFamily));
    kernel::net::register(kernel, Arc::new(netlink::NetlinkFamily));
    for v6 in [false, true] {
        kernel::net::register(kernel, Arc::new(inet::InetFamily { v6 }));
    }
}
