//! Where stub threads sleep whose calls wait in the kernel: a word for each, which all stubs can read and wake.
//!
//! To wake a thread on another processor takes the host an interrupt of that, 15 to 50 µs in a virtual machine. So a stub wakes the one that is
//! to run next on its processor itself, before it goes to sleep there: the sentry tells it whom.
//!
//! **Trust.** Any application can sleep on any word, with the stub's own calls, and wake all who sleep there. So whoever wakes up looks for a new order
//! and sleeps on if there is none, and whoever wakes wakes all. What the words hold says how often somebody was woken, no more.

use crate::stub::BEDS_LEN;
use abi::Errno;
use host::memfile::MemoryFile;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of a bed.
const BED: u64 = 4;

/// All of them.
#[derive(Debug)]
pub struct Beds {
    memory: MemoryFile,
    free: Mutex<Free>,
}

#[derive(Debug, Default)]
struct Free {
    /// To be used again.
    used: Vec<u64>,
    /// The first that never was.
    next: u64,
}

/// One thread's.
#[derive(Debug)]
pub struct Bed {
    beds: Arc<Beds>,
    /// Where in the memory.
    at: u64,
}

impl Beds {
    /// Makes the memory.
    pub fn new() -> Result<Arc<Beds>, Errno> {
        Ok(Arc::new(Beds { memory: MemoryFile::new(c"caisson-beds", BEDS_LEN)?, free: Mutex::default() }))
    }

    /// The descriptor to map into stubs.
    pub fn fd(&self) -> i32 {
        self.memory.fd().as_raw_fd()
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A bed, unless all are taken.
    pub fn take(self: &Arc<Beds>) -> Option<Bed> {
        let mut free = self.free();
        let at = match free.used.pop() {
            Some(at) => at,
            None if free.next + BED <= BEDS_LEN => {
                free.next += BED;
                free.next - BED
            }
            None => return None,
        };
        Some(Bed { beds: Arc::clone(self), at })
    }
}

impl Bed {
    /// Where it is in every stub.
    pub fn address(&self) -> u64 {
        crate::stub::BEDS + self.at
    }

    /// Who has not fallen asleep yet will not, and somebody else will wake who has.
    pub fn stir(&self) -> Result<(), Errno> {
        self.beds.memory.fetch_add_u32(self.at, 1).map(drop)
    }

    /// Wakes who sleeps here.
    pub fn rouse(&self) -> Result<(), Errno> {
        self.stir()?;
        self.beds.memory.wake_all_u32(self.at)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.beds.free().used.push(self.at);
    }
}
