//! Files whose pages live in the sandbox's memory: the data of tmpfs files and memfds.
//!
//! [`ShmFile`] is the content alone: size, pages, seals. Offsets and attributes are its owners' business. Readers share a lock and
//! writers exclude each other and truncation, so that pages stay where they are while bytes are copied; the map of pages itself
//! is a leaf that page faults may take.

mod chunks;
pub mod memfd;

use super::{File, Inode, Mappable, MappedPages};
use crate::{
    io::IoBuffer,
    mm::{MemoryPool, Mm},
};
use abi::{PAGE_SIZE, Result, bail, libc};
use bitflags::bitflags;
use chunks::{Chunks, Piece};
use std::os::fd::RawFd;
use std::sync::{
    Arc, OnceLock, Weak,
    atomic::{AtomicU64, Ordering},
};
use sync::{Mutex, Rank, RwLock};

/// The largest file (`s_maxbytes`).
pub const MAX_SIZE: u64 = i64::MAX as u64 & !(PAGE_SIZE - 1);

/// Bytes that one question for pages answers at most: a sparse file may be larger than all that is worth preparing.
const MOST_MAPPED: u64 = 1 << 30;

bitflags! {
    /// `F_SEAL_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Seals: u32 {
        const SEAL = 1;
        const SHRINK = 2;
        const GROW = 4;
        const WRITE = 8;
        const FUTURE_WRITE = 16;
        const EXEC = 32;
    }
}

/// Pages that a file system may hold at most.
#[derive(Debug)]
pub struct Quota {
    max: AtomicU64,
    used: AtomicU64,
}

impl Quota {
    /// At most `max` pages; `u64::MAX`: as many as there are.
    #[must_use]
    pub const fn new(max: u64) -> Quota {
        Quota { max: AtomicU64::new(max), used: AtomicU64::new(0) }
    }

    /// The limit and what is used of it.
    pub fn get(&self) -> (u64, u64) {
        (self.max.load(Ordering::Relaxed), self.used.load(Ordering::Relaxed))
    }

    /// Changes the limit. `EINVAL` below what is used.
    pub fn set_max(&self, max: u64) -> Result {
        if max < self.used.load(Ordering::Relaxed) {
            bail!(EINVAL, "less than is used");
        }
        self.max.store(max, Ordering::Relaxed);
        Ok(())
    }

    /// Takes `n`; `ENOSPC` if that is too much.
    pub fn charge(&self, n: u64) -> Result {
        let max = self.max.load(Ordering::Relaxed);
        let more = |used: u64| used.checked_add(n).filter(|&u| u <= max);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(()),
            Err(_) => bail!(ENOSPC),
        }
    }

    /// Gives `n` back.
    pub fn release(&self, n: u64) {
        self.used.fetch_sub(n, Ordering::Relaxed);
    }
}

struct State {
    size: u64,
    chunks: Chunks,
    seals: Seals,
    /// Mappings, and those of them through which can be written.
    mapped: u32,
    writable: u32,
}

/// The content of a file in memory.
pub struct ShmFile {
    pool: Arc<MemoryPool>,
    quota: Option<Arc<Quota>>,
    /// Held shared while pages are read, exclusively while they are written, made or taken away.
    io: RwLock<()>,
    state: Mutex<State>,
    inode: OnceLock<Weak<Inode>>,
    /// Address spaces that may map it.
    watchers: Mutex<Vec<Weak<Mm>>>,
}

impl ShmFile {
    /// An empty file.
    pub fn new(pool: &Arc<MemoryPool>, quota: Option<Arc<Quota>>) -> Arc<ShmFile> {
        let state = State { size: 0, chunks: Chunks::default(), seals: Seals::SEAL, mapped: 0, writable: 0 };
        Arc::new(ShmFile {
            pool: pool.clone(),
            quota,
            io: RwLock::new(Rank::InodeIo, ()),
            state: Mutex::new(Rank::PageMap, state),
            inode: OnceLock::new(),
            watchers: Mutex::new(Rank::Leaf, Vec::new()),
        })
    }

    /// Says whose content this is, once.
    pub fn set_inode(&self, inode: &Arc<Inode>) {
        // A file has one inode all its life.
        let _ = self.inode.set(Arc::downgrade(inode));
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.state.lock().size
    }

    /// 512-byte blocks that hold data.
    pub fn blocks(&self) -> u64 {
        self.state.lock().chunks.resident(&self.pool) * (PAGE_SIZE / 512)
    }

    /// Reads at `offset`. Holes read as zero and stay holes.
    pub fn read(&self, buf: &mut IoBuffer<'_>, offset: u64) -> Result<usize> {
        let _io = self.io.read();
        let mut done = 0usize;
        while buf.remaining() > 0 {
            let at = offset.saturating_add(done as u64);
            let piece = {
                let s = self.state.lock();
                if at >= s.size {
                    break;
                }
                s.chunks.at(at, (s.size - at).min(buf.remaining() as u64))
            };
            let (wanted, moved) = match piece {
                Piece::Hole(n) => (n, buf.write_zeros(n as usize)),
                Piece::Data(at, n) => (n, self.pool.span(at, n as usize).and_then(|s| buf.write_from_span(s))),
            };
            match moved {
                Ok(n) => {
                    done += n;
                    if (n as u64) < wanted {
                        break;
                    }
                }
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Writes at `offset`, or at the end if `append`. Returns the bytes and the position behind them.
    pub fn write(&self, buf: &mut IoBuffer<'_>, offset: u64, append: bool) -> Result<(usize, u64)> {
        let _io = self.io.write();
        let start = if append { self.size() } else { offset };
        if buf.remaining() == 0 {
            return Ok((0, start));
        }
        if start >= MAX_SIZE {
            bail!(EFBIG);
        }
        self.check_write(start, start.saturating_add(buf.remaining() as u64))?;
        let mut done = 0usize;
        let mut failed = None;
        while buf.remaining() > 0 && failed.is_none() {
            let at = start + done as u64;
            let len = (buf.remaining() as u64).min(MAX_SIZE - at);
            let moved = self.make(at, len).and_then(|(mem, n)| {
                let span = self.pool.span(mem, n as usize)?;
                Ok((buf.read_into_span(span)?, n))
            });
            match moved {
                Ok((n, wanted)) => {
                    done += n;
                    self.grow(start + done as u64);
                    if (n as u64) < wanted || start + done as u64 >= MAX_SIZE {
                        break;
                    }
                }
                Err(e) => failed = Some(e),
            }
        }
        match failed {
            Some(e) if done == 0 => Err(e),
            _ => Ok((done, start + done as u64)),
        }
    }

    fn grow(&self, end: u64) {
        let mut s = self.state.lock();
        s.size = s.size.max(end);
    }

    fn check_write(&self, start: u64, end: u64) -> Result {
        let s = self.state.lock();
        if s.seals.intersects(Seals::WRITE | Seals::FUTURE_WRITE) {
            bail!(EPERM, "sealed");
        }
        if s.seals.contains(Seals::GROW) && end > s.size && end > start {
            bail!(EPERM, "sealed");
        }
        Ok(())
    }

    /// Pages for a write at `offset`: where they are, and how many of the `len` bytes lie together.
    fn make(&self, offset: u64, len: u64) -> Result<(u64, u64)> {
        let page = offset / PAGE_SIZE;
        let within = offset % PAGE_SIZE;
        let mut s = self.state.lock();
        let (mem, room) = s.chunks.ensure(&self.pool, page)?;
        let mut n = len.min(room - within);
        let mut pages = page..(offset + n).div_ceil(PAGE_SIZE);
        if let Some(q) = &self.quota {
            let missing = s.chunks.missing(pages.clone());
            if missing > 0 && q.charge(missing).is_err() {
                // One page at a time, so that what fits is written.
                n = n.min(PAGE_SIZE - within);
                pages = page..page + 1;
                q.charge(s.chunks.missing(pages.clone()))?;
            }
        }
        s.chunks.mark(pages);
        Ok((mem + within, n))
    }

    /// Truncates or extends. What is cut off is zero if the file grows again.
    pub fn set_size(&self, size: u64) -> Result {
        if size > MAX_SIZE {
            bail!(EFBIG);
        }
        let _io = self.io.write();
        let old = {
            let mut s = self.state.lock();
            if size < s.size && s.seals.contains(Seals::SHRINK) || size > s.size && s.seals.contains(Seals::GROW) {
                bail!(EPERM, "sealed");
            }
            std::mem::replace(&mut s.size, size)
        };
        if size < old {
            self.zero_range(size, size.next_multiple_of(PAGE_SIZE))?;
            self.punch_pages(size.div_ceil(PAGE_SIZE)..u64::MAX / PAGE_SIZE)?;
            self.tell_watchers(size.next_multiple_of(PAGE_SIZE));
        }
        Ok(())
    }

    /// Access behind the new end must fault from now on.
    fn tell_watchers(&self, end: u64) {
        if self.state.lock().mapped == 0 {
            return;
        }
        let watchers: Vec<_> = self.watchers.lock().iter().filter_map(Weak::upgrade).collect();
        for mm in watchers {
            mm.file_shrunk(self, end);
        }
    }

    /// Zeroes what data there is between two places of one page.
    fn zero_range(&self, start: u64, end: u64) -> Result {
        if start >= end {
            return Ok(());
        }
        let piece = self.state.lock().chunks.at(start, end - start);
        if let Piece::Data(at, n) = piece {
            self.pool.span(at, n as usize)?.zero()?;
        }
        Ok(())
    }

    fn punch_pages(&self, pages: std::ops::Range<u64>) -> Result {
        let mut s = self.state.lock();
        let keep = s.mapped > 0;
        let (gone, clear, free) = s.chunks.punch(pages, keep);
        drop(s);
        if let Some(q) = &self.quota {
            q.release(gone);
        }
        for r in clear {
            self.pool.clear(r)?;
        }
        self.pool.decref_all(free);
        Ok(())
    }

    /// fallocate(2). `EOPNOTSUPP` for what would move data.
    pub fn fallocate(&self, mode: u32, offset: u64, len: u64) -> Result {
        const KEEP_SIZE: u32 = libc::FALLOC_FL_KEEP_SIZE as u32;
        const PUNCH: u32 = libc::FALLOC_FL_PUNCH_HOLE as u32 | KEEP_SIZE;
        const ZERO: u32 = libc::FALLOC_FL_ZERO_RANGE as u32;
        let Some(end) = offset.checked_add(len).filter(|&e| e <= MAX_SIZE) else { bail!(EFBIG) };
        let _io = self.io.write();
        match mode {
            0 | KEEP_SIZE => self.allocate(offset, end, mode == 0),
            PUNCH => {
                self.check_write(0, 0)?;
                self.punch(offset, end)
            }
            m if m & !KEEP_SIZE == ZERO => {
                self.check_write(0, 0)?;
                self.punch(offset, end)?;
                self.allocate(offset, end, m == ZERO)
            }
            _ => bail!(EOPNOTSUPP),
        }
    }

    fn punch(&self, offset: u64, end: u64) -> Result {
        let first = offset.next_multiple_of(PAGE_SIZE);
        let last = end - end % PAGE_SIZE;
        if first > last {
            return self.zero_range(offset, end);
        }
        self.zero_range(offset, first)?;
        self.zero_range(last, end)?;
        self.punch_pages(first / PAGE_SIZE..last / PAGE_SIZE)
    }

    fn allocate(&self, offset: u64, end: u64, extend: bool) -> Result {
        if extend {
            let s = self.state.lock();
            if end > s.size && s.seals.contains(Seals::GROW) {
                bail!(EPERM, "sealed");
            }
        }
        let missing = self.state.lock().chunks.missing(offset / PAGE_SIZE..end.div_ceil(PAGE_SIZE));
        if let Some(q) = &self.quota {
            // All or nothing: `make` charges page by page again.
            q.charge(missing)?;
            q.release(missing);
        }
        let mut at = offset;
        while at < end {
            at += self.make(at, end - at)?.1;
        }
        if extend {
            self.grow(end);
        }
        Ok(())
    }

    /// `SEEK_DATA` and `SEEK_HOLE`; `ENXIO` behind the end or the last data.
    pub fn seek_data(&self, offset: u64, data: bool) -> Result<u64> {
        let s = self.state.lock();
        if offset >= s.size {
            bail!(ENXIO);
        }
        match s.chunks.seek(&self.pool, offset, s.size, data) {
            Some(at) => Ok(at),
            None if data => bail!(ENXIO),
            None => Ok(s.size),
        }
    }

    /// The seals: F_GET_SEALS.
    pub fn seals(&self) -> Seals {
        self.state.lock().seals
    }

    /// F_ADD_SEALS. `EPERM` once sealed with F_SEAL_SEAL, `EBUSY` for F_SEAL_WRITE while a shared mapping may write.
    pub fn add_seals(&self, seals: Seals) -> Result {
        let _io = self.io.write();
        let mut s = self.state.lock();
        if s.seals.contains(Seals::SEAL) {
            bail!(EPERM, "no more seals");
        }
        if seals.contains(Seals::WRITE) && !s.seals.contains(Seals::WRITE) && s.writable > 0 {
            bail!(EBUSY, "mapped writable");
        }
        s.seals |= seals;
        Ok(())
    }

    /// fcntl(2) with F_ADD_SEALS and F_GET_SEALS.
    pub fn fcntl(&self, file: &File, cmd: i32, arg: u64) -> Result<u64> {
        match cmd {
            libc::F_GET_SEALS => Ok(self.seals().bits().into()),
            libc::F_ADD_SEALS => {
                let Some(seals) = u32::try_from(arg).ok().and_then(Seals::from_bits) else { bail!(EINVAL, "unknown seals") };
                if !file.flags().writable() {
                    bail!(EPERM, "not open for writing");
                }
                self.add_seals(seals)?;
                Ok(0)
            }
            libc::F_SETPIPE_SZ | libc::F_GETPIPE_SZ => bail!(EBADF, "not a pipe"),
            _ => bail!(EINVAL),
        }
    }

    /// Lets seals be added (memfd_create(2) with MFD_ALLOW_SEALING).
    pub fn allow_sealing(&self, initial: Seals) {
        self.state.lock().seals = initial;
    }
}

impl Mappable for ShmFile {
    fn pages(&self, offset: u64, len: u64, _write: bool) -> Result<MappedPages> {
        let mut s = self.state.lock();
        let end = s.size.next_multiple_of(PAGE_SIZE);
        if offset >= end {
            bail!(ENXIO, "behind the end");
        }
        let want = len.min(end - offset).min(MOST_MAPPED);
        let (mem, mut have) = s.chunks.ensure(&self.pool, offset / PAGE_SIZE)?;
        s.chunks.expose(offset / PAGE_SIZE);
        // Chunks are laid one behind the other where that is possible.
        while have < want {
            let page = (offset + have) / PAGE_SIZE;
            let (next, n) = s.chunks.ensure(&self.pool, page)?;
            if next != mem + have {
                break;
            }
            s.chunks.expose(page);
            have += n;
        }
        Ok(MappedPages { fd: self.fd(), is_memory_file: true, offset: mem, len: have.min(want) })
    }

    fn check_shared_write(&self) -> Result {
        if self.seals().intersects(Seals::WRITE | Seals::FUTURE_WRITE) { bail!(EPERM, "sealed") } else { Ok(()) }
    }

    fn mapped(&self, delta: i32, writable_shared: bool) {
        let size = {
            let mut s = self.state.lock();
            s.mapped = s.mapped.saturating_add_signed(delta);
            if writable_shared {
                s.writable = s.writable.saturating_add_signed(delta);
            }
            (s.mapped == 0).then_some(s.size)
        };
        // What a truncation had to leave in place can go now.
        if let Some(size) = size {
            if let Err(e) = self.punch_pages(size.div_ceil(PAGE_SIZE)..u64::MAX / PAGE_SIZE) {
                tracing::warn!("cannot free pages behind the end of a file: {e}");
            }
        }
    }

    fn watch(&self, mm: Weak<Mm>) {
        let mut list = self.watchers.lock();
        if !list.iter().any(|w| w.ptr_eq(&mm)) {
            list.retain(|w| w.strong_count() > 0);
            list.push(mm);
        }
    }

    fn inode(&self) -> Option<Arc<Inode>> {
        self.inode.get()?.upgrade()
    }
}

impl ShmFile {
    fn fd(&self) -> RawFd {
        self.pool.fd()
    }
}

impl Drop for ShmFile {
    fn drop(&mut self) {
        let s = self.state.get_mut();
        if let Some(q) = &self.quota {
            q.release(s.chunks.present);
        }
        self.pool.decref_all(s.chunks.extents());
    }
}

#[cfg(test)]
mod tests;
