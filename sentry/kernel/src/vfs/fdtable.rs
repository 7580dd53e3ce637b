//! A process's descriptors.

use super::File;
use abi::{Result, bail};
use std::sync::Arc;
use sync::{Rank, RwLock};

/// A descriptor number. Never negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fd(pub u32);

#[derive(Clone)]
struct Slot {
    file: Arc<File>,
    cloexec: bool,
}

/// `struct files_struct`: shared under CLONE_FILES.
pub struct FdTable {
    slots: RwLock<Vec<Option<Slot>>>,
}

impl Default for FdTable {
    fn default() -> Self {
        FdTable { slots: RwLock::new(Rank::FdTable, Vec::new()) }
    }
}

impl FdTable {
    /// The open file at `fd`, `EBADF` if there is none.
    pub fn get(&self, fd: Fd) -> Result<Arc<File>> {
        match self.slots.read().get(fd.0 as usize) {
            Some(Some(s)) => Ok(s.file.clone()),
            _ => bail!(EBADF),
        }
    }

    /// Puts a file at the lowest free number not below `min`. `EMFILE` at `limit` (RLIMIT_NOFILE's soft value).
    pub fn install(&self, file: Arc<File>, min: Fd, limit: u64, cloexec: bool) -> Result<Fd> {
        let mut slots = self.slots.write();
        let mut i = min.0 as usize;
        while matches!(slots.get(i), Some(Some(_))) {
            i += 1;
        }
        if i as u64 >= limit {
            bail!(EMFILE);
        }
        if i >= slots.len() {
            slots.resize(i + 1, None);
        }
        if let Some(s) = slots.get_mut(i) {
            *s = Some(Slot { file, cloexec });
        }
        Ok(Fd(i as u32))
    }

    /// Takes the file away from `fd`; the caller flushes and drops it without the table's lock.
    pub fn remove(&self, fd: Fd) -> Result<Arc<File>> {
        match self.slots.write().get_mut(fd.0 as usize).and_then(Option::take) {
            Some(s) => Ok(s.file),
            None => bail!(EBADF),
        }
    }

    /// Whether the descriptor is closed at execve.
    pub fn cloexec(&self, fd: Fd) -> Result<bool> {
        match self.slots.read().get(fd.0 as usize) {
            Some(Some(s)) => Ok(s.cloexec),
            _ => bail!(EBADF),
        }
    }
}
