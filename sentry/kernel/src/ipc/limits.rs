//! The limits of System V IPC, of each IPC namespace: `/proc/sys/kernel/{msg,sem,shm}*`, proc_sys_kernel(5).

use crate::container::IpcNamespace;
use crate::setting::Setting;
use std::sync::Arc;

/// The largest segment, and the most pages in all, if nothing is set.
const SHM_DEFAULT: u64 = u64::MAX - (1 << 24);
/// Numbers that are 32 bits wide on Linux.
const INT: u64 = i32::MAX as u64;
/// The most objects of a kind (`IPCMNI`).
const OBJECTS: u64 = 32_768;

/// The limits.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Limits {
    /// Bytes of a message.
    pub msgmax: Setting,
    /// Bytes that a queue holds.
    pub msgmnb: Setting,
    /// Queues.
    pub msgmni: Setting,
    /// Bytes of a segment.
    pub shmmax: Setting,
    /// Pages of all segments.
    pub shmall: Setting,
    /// Segments.
    pub shmmni: Setting,
    /// Segments go with their last mapping, or with who made them.
    pub shm_rmid_forced: Setting,
    /// Semaphores of a set.
    pub semmsl: Setting,
    /// Semaphores of all sets.
    pub semmns: Setting,
    /// Operations of a call.
    pub semopm: Setting,
    /// Sets.
    pub semmni: Setting,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            msgmax: Setting::new(8192, 0, INT),
            msgmnb: Setting::new(16_384, 0, INT),
            msgmni: Setting::new(32_000, 0, OBJECTS),
            shmmax: Setting::new(SHM_DEFAULT, 0, u64::MAX),
            shmall: Setting::new(SHM_DEFAULT, 0, u64::MAX),
            shmmni: Setting::new(4096, 0, OBJECTS),
            shm_rmid_forced: Setting::new(0, 0, 1),
            semmsl: Setting::new(32_000, 0, INT),
            semmns: Setting::new(1_024_000_000, 0, INT),
            semopm: Setting::new(500, 0, INT),
            semmni: Setting::new(32_000, 0, OBJECTS),
        }
    }
}

impl Limits {
    /// A namespace's.
    #[must_use]
    pub fn of(ipc: &IpcNamespace) -> Arc<Limits> {
        ipc.attachments.get_or_insert_with(Limits::default)
    }
}
