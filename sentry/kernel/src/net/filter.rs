//! Filters of sockets (`SO_ATTACH_FILTER`): what a program of [`crate::bpf`] sees of a packet, and where a socket keeps it.

use crate::bpf::{ANCILLARY, Input, Program};
use abi::{Result, bail};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use sync::{Mutex, Rank};

/// Where offsets from the network header begin (`SKF_NET_OFF`), and those from the link layer's (`SKF_LL_OFF`).
const NETWORK: u32 = 0xfff0_0000;
const LINK: u32 = 0xffe0_0000;

/// A packet, and what is known about it.
#[derive(Clone, Copy, Debug, Default)]
pub struct View<'a> {
    /// What offsets count in: from the transport header on for UDP and TCP, from the network header on for raw sockets, and so on.
    pub data: &'a [u8],
    /// From the network header on, and from the link layer's on; empty where there is none.
    pub network: &'a [u8],
    #[allow(missing_docs)]
    pub link: &'a [u8],
    /// `ETH_P_*`
    pub protocol: u16,
    /// `PACKET_HOST` and so on.
    pub kind: u8,
    /// The device it came by: its index and `ARPHRD_*`.
    pub device: u32,
    #[allow(missing_docs)]
    pub hardware: u16,
}

fn bytes(from: &[u8], offset: u32, size: u32) -> Option<u32> {
    let at = usize::try_from(offset).ok()?;
    let found = from.get(at..at.checked_add(size as usize)?)?;
    Some(found.iter().fold(0, |n, b| n << 8 | u32::from(*b)))
}

impl Input for View<'_> {
    fn len(&self) -> u32 {
        self.data.len() as u32
    }

    fn load(&self, offset: u32, size: u32) -> Option<u32> {
        match offset {
            0..0x8000_0000 => bytes(self.data, offset, size),
            // SKF_AD_*
            ANCILLARY.. => match offset - ANCILLARY {
                0 => Some(u32::from(self.protocol)),
                4 => Some(u32::from(self.kind)),
                8 => Some(self.device).filter(|d| *d != 0),
                28 => Some(u32::from(self.hardware)).filter(|_| self.device != 0),
                56 => Some(host::rand::u64() as u32),
                // Neither marks, queues, hashes nor VLANs; one processor is as good as another; where the payload begins is not known.
                _ => Some(0),
            },
            NETWORK.. => bytes(self.network, offset - NETWORK, size),
            LINK.. => bytes(self.link, offset - LINK, size),
            _ => None,
        }
    }
}

/// A socket's filter.
#[derive(Debug)]
pub struct SocketFilter {
    program: Mutex<Option<Arc<Program>>>,
    /// Whether there is one, for who looks without the lock.
    any: AtomicBool,
    /// `SO_LOCK_FILTER`
    locked: AtomicBool,
}

impl Default for SocketFilter {
    fn default() -> Self {
        SocketFilter { program: Mutex::new(Rank::Leaf, None), any: AtomicBool::new(false), locked: AtomicBool::new(false) }
    }
}

impl SocketFilter {
    /// The program, if there is one.
    #[must_use]
    pub fn program(&self) -> Option<Arc<Program>> {
        if self.any.load(Relaxed) { self.program.lock().clone() } else { None }
    }

    /// How much of a packet is let through, never more than there is; `None`: nothing. Always at least `header` bytes of what is.
    #[must_use]
    pub fn admit(program: &Program, view: &View<'_>, header: usize) -> Option<usize> {
        match program.run(view) as usize {
            0 => None,
            n => Some(n.max(header).min(view.data.len())),
        }
    }

    /// `SO_ATTACH_FILTER`, and with `None` `SO_DETACH_FILTER`.
    pub fn set(&self, program: Option<Program>) -> Result {
        self.check_unlocked()?;
        let mut slot = self.program.lock();
        if program.is_none() && slot.is_none() {
            bail!(ENOENT, "no filter");
        }
        self.any.store(program.is_some(), Relaxed);
        let old = std::mem::replace(&mut *slot, program.map(Arc::new));
        drop(slot);
        drop(old);
        Ok(())
    }

    /// `EPERM` where the filter is locked.
    pub fn check_unlocked(&self) -> Result {
        if self.locked.load(Relaxed) { bail!(EPERM, "the filter is locked") } else { Ok(()) }
    }

    /// `SO_LOCK_FILTER`: for good.
    pub fn lock(&self, on: bool) -> Result {
        if !on {
            self.check_unlocked()?;
        }
        self.locked.store(on, Relaxed);
        Ok(())
    }

    /// Whether it is locked.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.locked.load(Relaxed)
    }

    /// An accepted socket has its listener's.
    pub fn inherit(&self, from: &SocketFilter) {
        let program = from.program();
        self.any.store(program.is_some(), Relaxed);
        self.locked.store(from.is_locked(), Relaxed);
        let old = std::mem::replace(&mut *self.program.lock(), program);
        drop(old);
    }
}
