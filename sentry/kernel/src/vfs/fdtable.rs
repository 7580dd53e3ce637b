//! A process's descriptors.
//!
//! Nothing here drops a [`File`] under the table's lock: what comes out is handed to the caller, who flushes and drops it.

use super::File;
use abi::{Result, bail};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use sync::{Rank, RwLock};

/// A descriptor number. Never negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fd(pub u32);

#[derive(Clone)]
struct Slot {
    file: Arc<File>,
    cloexec: bool,
}

#[derive(Clone, Default)]
struct Slots {
    list: Vec<Option<Slot>>,
    /// No number below this one is free.
    first_free: usize,
}

/// `struct files_struct`: shared under CLONE_FILES.
pub struct FdTable {
    /// Tells tables apart: the owner of POSIX locks.
    id: u64,
    slots: RwLock<Slots>,
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Default for FdTable {
    fn default() -> Self {
        FdTable { id: next_id(), slots: RwLock::new(Rank::FdTable, Slots::default()) }
    }
}

impl Slots {
    fn take(&mut self, i: usize) -> Option<Slot> {
        let slot = self.list.get_mut(i)?.take()?;
        self.first_free = self.first_free.min(i);
        Some(slot)
    }

    fn put(&mut self, i: usize, slot: Slot) -> Option<Slot> {
        if i >= self.list.len() {
            self.list.resize(i + 1, None);
        }
        self.list.get_mut(i)?.replace(slot)
    }
}

impl FdTable {
    /// The owner of POSIX locks taken through this table.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The open file at `fd`, `EBADF` if there is none.
    pub fn get(&self, fd: Fd) -> Result<Arc<File>> {
        match self.slots.read().list.get(fd.0 as usize) {
            Some(Some(s)) => Ok(s.file.clone()),
            _ => bail!(EBADF),
        }
    }

    /// As [`get`](Self::get), `EBADF` for a file opened with O_PATH: what most calls use.
    pub fn get_open(&self, fd: Fd) -> Result<Arc<File>> {
        let file = self.get(fd)?;
        if file.is_path() { bail!(EBADF, "opened with O_PATH") } else { Ok(file) }
    }

    /// Puts a file at the lowest free number not below `min`. `EMFILE` at `limit` (RLIMIT_NOFILE's soft value).
    pub fn install(&self, file: Arc<File>, min: Fd, limit: u64, cloexec: bool) -> Result<Fd> {
        let mut slots = self.slots.write();
        let mut i = slots.first_free.max(min.0 as usize);
        while matches!(slots.list.get(i), Some(Some(_))) {
            i += 1;
        }
        if i as u64 >= limit || i > i32::MAX as usize {
            drop(slots);
            bail!(EMFILE);
        }
        if slots.first_free >= min.0 as usize {
            slots.first_free = i + 1;
        }
        slots.put(i, Slot { file, cloexec });
        Ok(Fd(i as u32))
    }

    /// Puts a file at this very number (dup2(2)). `EBADF` at or above `limit`. Returns what was there, for the caller to
    /// [close](super::close_file).
    pub fn replace(&self, file: Arc<File>, fd: Fd, limit: u64, cloexec: bool) -> Result<Option<Arc<File>>> {
        if u64::from(fd.0) >= limit {
            bail!(EBADF, "above the limit");
        }
        let mut slots = self.slots.write();
        let old = slots.put(fd.0 as usize, Slot { file, cloexec });
        Ok(old.map(|s| s.file))
    }

    /// Takes the file away from `fd`; the caller flushes and drops it without the table's lock: [`close_file`](super::close_file).
    pub fn remove(&self, fd: Fd) -> Result<Arc<File>> {
        match self.slots.write().take(fd.0 as usize) {
            Some(s) => Ok(s.file),
            None => bail!(EBADF),
        }
    }

    /// Takes away all of `first..=last`, for the caller to close.
    pub fn remove_range(&self, first: u32, last: u32) -> Vec<Arc<File>> {
        let mut slots = self.slots.write();
        let end = slots.list.len().min(last as usize + 1);
        (first as usize..end).filter_map(|i| slots.take(i)).map(|s| s.file).collect()
    }

    /// Sets close-on-exec for all of `first..=last` (close_range(2) with CLOSE_RANGE_CLOEXEC).
    pub fn set_cloexec_range(&self, first: u32, last: u32) {
        let mut slots = self.slots.write();
        let end = slots.list.len().min(last as usize + 1);
        for slot in slots.list.iter_mut().take(end).skip(first as usize).flatten() {
            slot.cloexec = true;
        }
    }

    /// Takes away what execve(2) closes, for the caller to close.
    pub fn remove_cloexec(&self) -> Vec<Arc<File>> {
        let mut slots = self.slots.write();
        let which: Vec<usize> =
            slots.list.iter().enumerate().filter(|(_, s)| s.as_ref().is_some_and(|s| s.cloexec)).map(|(i, _)| i).collect();
        which.into_iter().filter_map(|i| slots.take(i)).map(|s| s.file).collect()
    }

    /// Takes everything away, for the caller to close.
    pub fn remove_all(&self) -> Vec<Arc<File>> {
        let slots = std::mem::take(&mut *self.slots.write());
        slots.list.into_iter().flatten().map(|s| s.file).collect()
    }

    /// A copy with the same files: fork(2), unshare(2).
    pub fn duplicate(&self) -> FdTable {
        let slots = self.slots.read().clone();
        FdTable { id: next_id(), slots: RwLock::new(Rank::FdTable, slots) }
    }

    /// Whether the descriptor is closed at execve.
    pub fn cloexec(&self, fd: Fd) -> Result<bool> {
        match self.slots.read().list.get(fd.0 as usize) {
            Some(Some(s)) => Ok(s.cloexec),
            _ => bail!(EBADF),
        }
    }

    /// fcntl(2) with F_SETFD.
    pub fn set_cloexec(&self, fd: Fd, on: bool) -> Result {
        match self.slots.write().list.get_mut(fd.0 as usize) {
            Some(Some(s)) => {
                s.cloexec = on;
                Ok(())
            }
            _ => bail!(EBADF),
        }
    }

    /// All descriptors in use, ascending.
    pub fn list(&self) -> Vec<Fd> {
        self.slots.read().list.iter().enumerate().filter(|(_, s)| s.is_some()).map(|(i, _)| Fd(i as u32)).collect()
    }

    /// The next descriptor in use at or above `from`, with its file.
    pub fn next(&self, from: Fd) -> Option<(Fd, Arc<File>)> {
        let slots = self.slots.read();
        let (i, s) = slots.list.iter().enumerate().skip(from.0 as usize).find_map(|(i, s)| Some((i, s.as_ref()?)))?;
        Some((Fd(i as u32), s.file.clone()))
    }

    /// How many numbers the table has room for (`FDSize` of /proc/PID/status).
    pub fn capacity(&self) -> usize {
        self.slots.read().list.len().next_power_of_two().max(64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::testing;

    #[test]
    fn numbers_are_the_lowest() {
        let t = FdTable::default();
        let f = testing::null_file();
        for i in 0..5 {
            assert_eq!(t.install(f.clone(), Fd(0), 100, false), Ok(Fd(i)));
        }
        t.remove(Fd(1)).expect("open");
        t.remove(Fd(3)).expect("open");
        assert_eq!(t.install(f.clone(), Fd(2), 100, true), Ok(Fd(3)));
        assert_eq!(t.install(f.clone(), Fd(0), 100, false), Ok(Fd(1)));
        assert_eq!(t.install(f.clone(), Fd(0), 100, false), Ok(Fd(5)));
        assert_eq!(t.install(f.clone(), Fd(20), 100, false), Ok(Fd(20)));
        assert_eq!(t.install(f.clone(), Fd(0), 100, false), Ok(Fd(6)));
        assert!(t.install(f.clone(), Fd(0), 7, false).is_err());
        assert!(t.replace(f.clone(), Fd(30), 30, false).is_err());
        assert!(t.replace(f.clone(), Fd(6), 30, false).expect("below").is_some());
        assert_eq!(t.remove_cloexec().len(), 1);
        assert_eq!(t.list().len(), 7);
        assert_eq!(t.duplicate().list(), t.list());
        assert_eq!(t.remove_range(5, u32::MAX).len(), 3);
        assert_eq!(t.install(f, Fd(0), 100, false), Ok(Fd(3)));
    }
}
