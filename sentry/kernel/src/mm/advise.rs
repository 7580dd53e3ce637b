//! madvise(2), mincore(2), msync(2), mlock(2) and their like.

use super::{Backing, Mm, State, Vma, VmaFlags};
use crate::user::UserAddr;
use abi::{PAGE_SIZE, Result, bail, mm::Prot};
use std::ops::Range;
use std::sync::Arc;

/// `MADV_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Advice {
    Normal,
    Random,
    Sequential,
    WillNeed,
    DontNeed,
    Free,
    Remove,
    DontFork,
    DoFork,
    Mergeable,
    Unmergeable,
    HugePage,
    NoHugePage,
    DontDump,
    DoDump,
    WipeOnFork,
    KeepOnFork,
    Cold,
    PageOut,
    PopulateRead,
    PopulateWrite,
    DontNeedLocked,
    Collapse,
}

impl Advice {
    /// From madvise(2)'s argument; `None`: `EINVAL`.
    #[must_use]
    pub fn from_raw(n: i32) -> Option<Advice> {
        use Advice::*;
        Some(match n {
            0 => Normal,
            1 => Random,
            2 => Sequential,
            3 => WillNeed,
            4 => DontNeed,
            8 => Free,
            9 => Remove,
            10 => DontFork,
            11 => DoFork,
            12 => Mergeable,
            13 => Unmergeable,
            14 => HugePage,
            15 => NoHugePage,
            16 => DontDump,
            17 => DoDump,
            18 => WipeOnFork,
            19 => KeepOnFork,
            20 => Cold,
            21 => PageOut,
            22 => PopulateRead,
            23 => PopulateWrite,
            24 => DontNeedLocked,
            25 => Collapse,
            _ => return None,
        })
    }

    /// The flags that it sets and clears, for advice that only changes flags.
    fn flags(self) -> Option<(VmaFlags, VmaFlags)> {
        let none = VmaFlags::empty();
        Some(match self {
            Advice::Normal => (none, VmaFlags::RAND | VmaFlags::SEQ),
            Advice::Random => (VmaFlags::RAND, VmaFlags::SEQ),
            Advice::Sequential => (VmaFlags::SEQ, VmaFlags::RAND),
            Advice::DontFork => (VmaFlags::DONTFORK, none),
            Advice::DoFork => (none, VmaFlags::DONTFORK),
            Advice::HugePage => (VmaFlags::HUGEPAGE, VmaFlags::NOHUGEPAGE),
            Advice::NoHugePage => (VmaFlags::NOHUGEPAGE, VmaFlags::HUGEPAGE),
            Advice::DontDump => (VmaFlags::DONTDUMP, none),
            Advice::DoDump => (none, VmaFlags::DONTDUMP),
            Advice::WipeOnFork => (VmaFlags::WIPEONFORK, none),
            Advice::KeepOnFork => (none, VmaFlags::WIPEONFORK),
            _ => return None,
        })
    }
}

/// Work on files that is done without the lock.
type FileRange = (Arc<Backing>, u64, u64);

/// A page-aligned range of a call; `EINVAL` if the address is not aligned or the end overflows.
fn page_range(addr: UserAddr, len: u64) -> Result<Range<u64>> {
    if !addr.0.is_multiple_of(PAGE_SIZE) {
        bail!(EINVAL, "address is not page-aligned");
    }
    match abi::page_up(len).and_then(|l| addr.0.checked_add(l)) {
        Some(end) => Ok(addr.0..end),
        None => bail!(EINVAL, "range overflows"),
    }
}

impl Mm {
    /// madvise(2). `ENOMEM` where something of the range is not mapped; the rest is done all the same.
    pub fn madvise(&self, addr: UserAddr, len: u64, advice: Advice) -> Result {
        let range = page_range(addr, len)?;
        if range.is_empty() {
            return Ok(());
        }
        match advice {
            Advice::PopulateRead => return self.populate(range, Prot::READ),
            Advice::PopulateWrite => return self.populate(range, Prot::WRITE),
            Advice::Collapse => bail!(EINVAL, "no huge pages"),
            _ => {}
        }
        let mut punch: Vec<FileRange> = Vec::new();
        let complete = {
            let mut guard = self.state.write();
            let s = &mut *guard;
            let vmas: Vec<_> = s.vmas.within(range.clone()).collect();
            for (part, vma) in vmas {
                check_advice(advice, &vma)?;
                match advice {
                    Advice::DontNeed | Advice::DontNeedLocked | Advice::Free => self.discard(s, &part, vma),
                    Advice::Remove => punch.extend(vma.backing.map(|b| (b, vma.offset, part.end - part.start))),
                    _ => {
                        if let Some((set, clear)) = advice.flags() {
                            s.change_vmas(part, |v| v.flags = (v.flags - clear) | set);
                        }
                    }
                }
            }
            s.vmas.covers(range)
        };
        for (backing, offset, len) in punch {
            remove_from_file(&backing, offset, len)?;
            self.forget(backing);
        }
        if complete { Ok(()) } else { bail!(ENOMEM, "not all of the range is mapped") }
    }

    /// Throws the private pages of a part of a VMA away.
    fn discard(&self, s: &mut State, part: &Range<u64>, mut vma: Vma) {
        if vma.is_shared() {
            return;
        }
        let pages: Vec<_> = s.pages.within(part.clone()).collect();
        for (r, page) in pages {
            let offset_of = |a: u64| page.offset + (a - r.start);
            if !vma.is_anonymous() {
                self.drop_pages(s, r.clone());
                let mut piece = vma.clone();
                piece.offset += r.start - part.start;
                if vma.prot.is_empty() {
                    continue;
                }
                self.fill_file(s, r, &mut piece, true);
                if !piece.flags.contains(VmaFlags::FILLED) {
                    vma.flags -= VmaFlags::FILLED;
                }
                continue;
            }
            for (extent, sole) in self.memory.sole_owner(offset_of(r.start)..offset_of(r.end)) {
                // The mapping stays, and reads as zero.
                if sole && self.memory.clear(extent.clone()).is_ok() {
                    continue;
                }
                let piece = r.start + (extent.start - page.offset)..r.start + (extent.end - page.offset);
                self.drop_pages(s, piece.clone());
                match self.reserve_copy(s, part, &piece) {
                    Ok(offset) => {
                        let fresh = super::Page { offset, cow: false };
                        s.pages.insert(piece.clone(), fresh);
                        self.host_map_pages(s, &piece, fresh, vma.prot);
                    }
                    // A fault will try again.
                    Err(_) => self.host_unmap(s, &piece),
                }
            }
        }
        if !vma.is_anonymous() && !vma.flags.contains(VmaFlags::FILLED) {
            s.change_vmas(part.clone(), |v| v.flags -= VmaFlags::FILLED);
        }
    }

    /// Drops a reference to a file that was cloned under the lock, once nothing queued can need it.
    fn forget(&self, backing: Arc<Backing>) {
        let mut s = self.state.write();
        s.deferred.backings.push(backing);
        self.has_deferred.store(true, std::sync::atomic::Ordering::Release);
    }

    /// mincore(2) for whole pages: one byte each, 1 if it is in memory. `ENOMEM` where something is not mapped.
    pub fn mincore(&self, addr: UserAddr, pages: usize) -> Result<Vec<u8>> {
        let range = page_range(addr, (pages as u64).saturating_mul(PAGE_SIZE))?;
        let s = self.state.read();
        if !s.vmas.covers(range.clone()) {
            bail!(ENOMEM, "not all of the range is mapped");
        }
        let mut out = vec![0; pages];
        let mut mark = |r: Range<u64>| {
            let index = |a: u64| usize::try_from((a - range.start) / PAGE_SIZE).unwrap_or(pages).min(pages);
            if let Some(part) = out.get_mut(index(r.start)..index(r.end)) {
                part.fill(1);
            }
        };
        for (r, vma) in s.vmas.within(range.clone()) {
            for (part, page) in s.pages.within(r.clone()) {
                self.mark_resident(&part, page.offset, &mut mark);
            }
            let Some(backing) = &vma.backing else { continue };
            for gap in s.pages.gaps(r.clone()) {
                match backing.mappable.pages(vma.offset + (gap.start - r.start), gap.end - gap.start, false) {
                    Ok(p) if p.is_memory_file => {
                        let len = p.len.min(gap.end - gap.start);
                        self.mark_resident(&(gap.start..gap.start + len), p.offset, &mut mark);
                    }
                    // What the host caches of its files is its own business.
                    Ok(p) => mark(gap.start..gap.end.min(gap.start.saturating_add(p.len))),
                    Err(_) => {}
                }
            }
        }
        Ok(out)
    }

    fn mark_resident(&self, r: &Range<u64>, offset: u64, mark: &mut impl FnMut(Range<u64>)) {
        let len = r.end - r.start;
        let mut at = offset;
        while let Ok(Some(data)) = self.memory.file().next_data(at, offset + len - at) {
            mark(r.start + (data.start - offset)..r.start + (data.end - offset));
            at = data.end;
        }
    }

    /// msync(2) after its flags were checked. `sync`: MS_SYNC, wait for the file; `invalidate`: MS_INVALIDATE (`EBUSY` for locked memory).
    pub fn msync(&self, addr: UserAddr, len: u64, sync: bool, invalidate: bool) -> Result {
        if !addr.0.is_multiple_of(PAGE_SIZE) {
            bail!(EINVAL, "address is not page-aligned");
        }
        let Some(end) = abi::page_up(len).and_then(|l| addr.0.checked_add(l)) else { bail!(ENOMEM, "range overflows") };
        let range = addr.0..end;
        let mut files: Vec<FileRange> = Vec::new();
        let complete = {
            let s = self.state.read();
            for (r, vma) in s.vmas.within(range.clone()) {
                if invalidate && vma.flags.contains(VmaFlags::LOCKED) {
                    bail!(EBUSY, "locked");
                }
                if sync && vma.is_shared() {
                    files.extend(vma.backing.clone().map(|b| (b, vma.offset, r.end - r.start)));
                }
            }
            s.vmas.covers(range)
        };
        let mut result = Ok(());
        for (backing, offset, len) in files {
            result = result.and(backing.mappable.sync(offset, len));
            self.forget(backing);
        }
        result?;
        if complete { Ok(()) } else { bail!(ENOMEM, "not all of the range is mapped") }
    }

    /// mlock(2), mlock2(2) (`on_fault`), munlock(2) (`lock` false). `may_lock`: CAP_IPC_LOCK.
    pub fn mlock(&self, addr: UserAddr, len: u64, lock: bool, on_fault: bool, may_lock: bool) -> Result {
        let start = abi::page_down(addr.0);
        let Some(end) = len.checked_add(addr.0 - start).and_then(abi::page_up).and_then(|l| start.checked_add(l)) else {
            bail!(EINVAL, "range overflows")
        };
        let range = start..end;
        let complete = {
            let mut s = self.state.write();
            if lock && !may_lock {
                if s.limits.memlock == 0 {
                    bail!(EPERM, "RLIMIT_MEMLOCK is zero");
                }
                let already: u64 =
                    s.vmas.within(range.clone()).filter(|(_, v)| v.flags.contains(VmaFlags::LOCKED)).map(|(r, _)| r.end - r.start).sum();
                if s.totals.locked.saturating_add(end - start).saturating_sub(already) > s.limits.memlock {
                    bail!(ENOMEM, "RLIMIT_MEMLOCK");
                }
            }
            let set = lock_flags(lock, on_fault);
            // Up to a hole, as on Linux.
            let stop = s.vmas.gaps(range.clone()).first().map_or(end, |g| g.start);
            s.change_vmas(start..stop.max(start), |v| v.flags = (v.flags - (VmaFlags::LOCKED | VmaFlags::LOCKONFAULT)) | set);
            stop == end
        };
        if !complete {
            bail!(ENOMEM, "not all of the range is mapped");
        }
        if lock && !on_fault {
            return self.populate(range, Prot::empty()).map_err(|e| if e.is(abi::Errno::EFAULT) { abi::error!(ENOMEM) } else { e });
        }
        Ok(())
    }

    /// mlockall(2): `current`, `future`, `on_fault` are MCL_*; munlockall(2): none of them.
    pub fn mlockall(&self, current: bool, future: bool, on_fault: bool, may_lock: bool) -> Result {
        let lock = current || future;
        let ranges: Vec<Range<u64>> = {
            let mut s = self.state.write();
            if lock && !may_lock {
                if s.limits.memlock == 0 {
                    bail!(EPERM, "RLIMIT_MEMLOCK is zero");
                }
                if current && s.totals.total > s.limits.memlock {
                    bail!(ENOMEM, "RLIMIT_MEMLOCK");
                }
            }
            s.lock_future = lock_flags(future, on_fault);
            if current || !lock {
                let set = lock_flags(current, on_fault);
                let all = 0..s.max_address;
                s.change_vmas(all, |v| v.flags = (v.flags - (VmaFlags::LOCKED | VmaFlags::LOCKONFAULT)) | set);
            }
            if current && !on_fault { s.vmas.iter().map(|(r, _)| r).collect() } else { Vec::new() }
        };
        for r in ranges {
            // mlockall ignores what cannot be brought in.
            let _ = self.populate(r, Prot::empty());
        }
        Ok(())
    }

    /// prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME): names anonymous memory for /proc/PID/maps. `None` takes names away.
    pub fn set_vma_name(&self, addr: UserAddr, len: u64, name: Option<&[u8]>) -> Result {
        let range = page_range(addr, len)?;
        let name: Option<Arc<[u8]>> = name.map(Arc::from);
        let mut s = self.state.write();
        if s.vmas.within(range.clone()).any(|(_, v)| v.backing.as_ref().is_some_and(|b| b.file.is_some())) {
            bail!(EBADF, "a file has a name");
        }
        s.change_vmas(range.clone(), |v| v.name = name.clone());
        if s.vmas.covers(range) { Ok(()) } else { bail!(ENOMEM, "not all of the range is mapped") }
    }
}

fn lock_flags(lock: bool, on_fault: bool) -> VmaFlags {
    match (lock, on_fault) {
        (false, _) => VmaFlags::empty(),
        (true, false) => VmaFlags::LOCKED,
        (true, true) => VmaFlags::LOCKED | VmaFlags::LOCKONFAULT,
    }
}

/// What Linux refuses for a VMA.
fn check_advice(advice: Advice, vma: &Vma) -> Result {
    let locked = vma.flags.contains(VmaFlags::LOCKED);
    match advice {
        Advice::DontNeed | Advice::Free | Advice::Cold | Advice::PageOut if locked => bail!(EINVAL, "locked memory"),
        Advice::Free if !vma.is_anonymous() => bail!(EINVAL, "only anonymous memory"),
        Advice::WipeOnFork if !vma.is_anonymous() => bail!(EINVAL, "only private anonymous memory"),
        Advice::Remove if locked || vma.is_anonymous() => bail!(EINVAL, "no file that is not locked"),
        Advice::Remove if !(vma.is_shared() && vma.max_prot.contains(Prot::WRITE)) => bail!(EACCES, "not shared and writable"),
        _ => Ok(()),
    }
}

/// MADV_REMOVE: a hole in the file.
fn remove_from_file(backing: &Backing, offset: u64, len: u64) -> Result {
    if let Some(file) = &backing.file {
        let mode = (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as u32;
        return file.ops().fallocate(file, mode, offset, len);
    }
    backing.mappable.discard(offset, len)
}
