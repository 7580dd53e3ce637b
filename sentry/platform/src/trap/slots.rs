//! Memory that a stub thread shares with the sentry: its alternate signal stack.

use abi::Errno;
use host::memfile::MemoryFile;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of a slot: four frames with all that a processor saves today without asking. A power of two, so that the stub finds its
/// slot's beginning from its stack pointer.
pub const SLOT: u64 = 16 << 10;
/// How long the sentry sleeps before it looks whether a thread is still there.
const NAP: std::time::Duration = std::time::Duration::from_millis(100);
/// Stub threads that there can be at once.
const SLOTS: u64 = 1 << 18;

/// All slots.
#[derive(Debug)]
pub struct Slots {
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

/// A slot. It must not be dropped before the stub process that maps it has ended.
#[derive(Debug)]
pub struct Slot {
    slots: Arc<Slots>,
    index: u64,
}

impl Slots {
    /// Makes the memory.
    pub fn new() -> Result<Arc<Slots>, Errno> {
        Ok(Arc::new(Slots { memory: MemoryFile::new(c"caisson-threads", SLOTS * SLOT)?, free: Mutex::default() }))
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot that reads as zero. `EAGAIN`: there are too many threads.
    pub fn take(self: &Arc<Slots>) -> Result<Slot, Errno> {
        let mut free = self.free();
        let index = match free.used.pop() {
            Some(i) => i,
            None if (free.next + 1) * SLOT <= self.memory.len() => {
                free.next += 1;
                free.next - 1
            }
            None => return Err(Errno::EAGAIN),
        };
        Ok(Slot { slots: Arc::clone(self), index })
    }
}

/// Another's look at a slot. What it shows is a hint: the thread may have ended, and another one have its slot.
#[derive(Debug)]
pub struct View {
    slots: Arc<Slots>,
    index: u64,
}

impl View {
    /// Loads an aligned word.
    pub fn load(&self, offset: u64) -> Result<u32, Errno> {
        self.slots.memory.load_u32(self.index * SLOT + offset)
    }
}

impl Slot {
    /// For others to look at it.
    pub fn view(&self) -> View {
        View { slots: Arc::clone(&self.slots), index: self.index }
    }

    /// What to map into the stub: descriptor and offset.
    pub fn file(&self) -> (i32, u64) {
        (self.slots.memory.fd().as_raw_fd(), self.index * SLOT)
    }

    /// Copies from the slot.
    pub fn copy_in(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Errno> {
        self.slots.memory.copy_in(self.index * SLOT + offset, bytes)
    }

    /// Loads an aligned word.
    pub fn load(&self, offset: u64) -> Result<u32, Errno> {
        self.slots.memory.load_u32(self.index * SLOT + offset)
    }

    /// Sleeps while an aligned word holds `value`, not long.
    pub fn sleep(&self, offset: u64, value: u32) -> Result<(), Errno> {
        self.slots.memory.sleep_u32(self.index * SLOT + offset, value, NAP)
    }

    /// Frees what is in the slot, which then reads as zero.
    pub fn clear(&self) -> Result<(), Errno> {
        self.slots.memory.punch_hole(self.index * SLOT, SLOT)
    }

    /// Makes the slot read as zero for the next one who uses it, at a tenth of the cost of freeing it.
    pub fn wipe(&self) -> Result<(), Errno> {
        self.slots.memory.zero(self.index * SLOT, SLOT as usize)
    }

    /// Copies to the slot.
    pub fn copy_out(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.slots.memory.copy_out(self.index * SLOT + offset, bytes)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // The registers of one application are nothing for the next one to read.
        if self.clear().is_ok() {
            self.slots.free().used.push(self.index);
        }
    }
}
