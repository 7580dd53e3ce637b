//! Settings of the network that /proc/sys/net shows and changes: what the stack above and the file system beside it both know.

use crate::Kernel;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The settings of a sandbox.
#[derive(Debug)]
pub struct NetSettings {
    /// `net.ipv4.ip_local_port_range`: the first and the last port that is given to who asks for none.
    ports: AtomicU32,
    /// `net.core.somaxconn`
    pub somaxconn: AtomicU32,
    /// `net.ipv4.ip_unprivileged_port_start`
    pub unprivileged_port: AtomicU32,
    /// `net.ipv4.tcp_fin_timeout`, in seconds.
    pub fin_timeout: AtomicU32,
}

impl Default for NetSettings {
    fn default() -> Self {
        let ports = AtomicU32::new(32_768 << 16 | 60_999);
        NetSettings { ports, somaxconn: AtomicU32::new(4096), unprivileged_port: AtomicU32::new(1024), fin_timeout: AtomicU32::new(60) }
    }
}

impl NetSettings {
    /// The sandbox's.
    pub fn of(kernel: &Kernel) -> Arc<NetSettings> {
        kernel.attachments.get_or_insert_with(NetSettings::default)
    }

    /// First and last port that is given to who asks for none.
    pub fn ports(&self) -> (u16, u16) {
        let both = self.ports.load(Relaxed);
        ((both >> 16) as u16, both as u16)
    }

    /// Changes them; false unless the first is not behind the last, and no zero.
    pub fn set_ports(&self, first: u16, last: u16) -> bool {
        let good = first > 0 && first <= last;
        if good {
            self.ports.store(u32::from(first) << 16 | u32::from(last), Relaxed);
        }
        good
    }
}
