//! [`SharedMemory`]: shared memory without a file (MAP_SHARED | MAP_ANONYMOUS, shmget(2)).

use super::{MemoryPool, ObjectId, memory::Extent};
use crate::vfs::{Mappable, MappedPages};
use abi::{Result, bail};
use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering},
};

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Zeroed memory of a fixed size that any number of processes may map.
pub struct SharedMemory {
    memory: Arc<MemoryPool>,
    extent: Extent,
    /// Bytes asked for.
    size: u64,
    id: u64,
    attached: AtomicI64,
}

impl SharedMemory {
    /// New memory of `size` bytes. `ENOMEM`.
    pub fn new(memory: &Arc<MemoryPool>, size: u64) -> Result<Arc<SharedMemory>> {
        let extent = memory.alloc(size, super::Hint::default())?;
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(SharedMemory { memory: memory.clone(), extent, size, id, attached: AtomicI64::new(0) }))
    }

    /// Bytes asked for.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Names it.
    pub fn id(&self) -> ObjectId {
        ObjectId::Anonymous(self.id)
    }

    /// How many processes map it (how often, where one maps it more than once).
    pub fn attached(&self) -> u64 {
        u64::try_from(self.attached.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Bytes that occupy memory.
    pub fn resident(&self) -> u64 {
        self.memory.resident(self.extent.range())
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        self.memory.decref(self.extent.range());
    }
}

impl Mappable for SharedMemory {
    fn pages(&self, offset: u64, len: u64, _write: bool) -> Result<MappedPages> {
        let Some(rest) = self.extent.len.checked_sub(offset).filter(|&r| r > 0) else { bail!(ENXIO, "behind the end of shared memory") };
        Ok(MappedPages { fd: self.memory.fd(), is_memory_file: true, offset: self.extent.offset + offset, len: len.min(rest) })
    }

    fn discard(&self, offset: u64, len: u64) -> Result {
        let Some(rest) = self.extent.len.checked_sub(offset) else { return Ok(()) };
        let start = self.extent.offset + offset;
        self.memory.clear(start..start + len.min(rest))
    }

    fn mapped(&self, delta: i32, _writable_shared: bool) {
        self.attached.fetch_add(delta.into(), Ordering::Relaxed);
    }
}
