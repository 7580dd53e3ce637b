//! Settings of the network that /proc/sys/net shows and changes: what the stack above and the file system beside it both know.

use crate::Kernel;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Congestion control algorithms; the first is the default.
pub const CONGESTION: [&str; 2] = ["cubic", "reno"];
/// From 1 to 0: nobody, as in a new network namespace of Linux.
const NO_GROUPS: u64 = 1 << 32;

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
    /// `net.ipv4.tcp_keepalive_time` and `_intvl`, in seconds, and `_probes`.
    pub keepalive_time: AtomicU32,
    pub keepalive_interval: AtomicU32,
    pub keepalive_probes: AtomicU32,
    /// `net.ipv4.tcp_syn_retries`, `tcp_synack_retries`, `tcp_retries2`
    pub syn_retries: AtomicU32,
    pub synack_retries: AtomicU32,
    pub retries: AtomicU32,
    /// `net.ipv4.ip_default_ttl`
    pub ttl: AtomicU32,
    /// `net.ipv4.tcp_congestion_control`, as an index into [`CONGESTION`].
    pub congestion: AtomicU32,
    /// `net.ipv4.ping_group_range`: the first and the last group that may make ping sockets.
    ping_groups: AtomicU64,
}

impl Default for NetSettings {
    fn default() -> Self {
        let ports = AtomicU32::new(32_768 << 16 | 60_999);
        NetSettings {
            ports,
            somaxconn: AtomicU32::new(4096),
            unprivileged_port: AtomicU32::new(1024),
            fin_timeout: AtomicU32::new(60),
            keepalive_time: AtomicU32::new(7200),
            keepalive_interval: AtomicU32::new(75),
            keepalive_probes: AtomicU32::new(9),
            syn_retries: AtomicU32::new(6),
            synack_retries: AtomicU32::new(5),
            retries: AtomicU32::new(15),
            ttl: AtomicU32::new(64),
            congestion: AtomicU32::new(0),
            ping_groups: AtomicU64::new(NO_GROUPS),
        }
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

    /// First and last group that may make ping sockets.
    pub fn ping_groups(&self) -> (u32, u32) {
        let both = self.ping_groups.load(Relaxed);
        ((both >> 32) as u32, both as u32)
    }

    /// Changes them; a first one behind the last means nobody, and no group has the highest number of all, which fails.
    pub fn set_ping_groups(&self, first: u32, last: u32) -> bool {
        let good = first != u32::MAX && last != u32::MAX;
        if good {
            self.ping_groups.store(if last < first { NO_GROUPS } else { u64::from(first) << 32 | u64::from(last) }, Relaxed);
        }
        good
    }
}
