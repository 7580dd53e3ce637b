//! mmap(2) and munmap(2): where mappings go, and what they are made of.

use super::{Backing, GUARD_GAP, Hint, MMAP_MIN_ADDR, Mm, ObjectId, Page, SharedMemory, State, Vma, VmaFlags, vma::without_write};
use crate::{
    user::UserAddr,
    vfs::{File, Mappable, MappedPages, MountFlags},
};
use abi::{
    PAGE_SIZE, Result, bail,
    mm::{MapFlags, Prot},
};
use std::ops::Range;
use std::sync::Arc;

/// Anonymous memory up to this gets its extent when it is mapped; larger mappings piece by piece as they are touched.
const WHOLE: u64 = 64 << 30;
/// The same for memory that is mapped without any access: it is a reservation, most of which is never used.
const WHOLE_RESERVED: u64 = 1 << 30;
/// So many pieces of a file are mapped at once.
const MOST_PIECES: usize = 32;
/// Writable segments of libraries up to this are copied when they are mapped.
const EAGER: u64 = 256 << 10;
/// Anonymous memory up to this gets memory that the same process has just given up, if that was as long and all in use.
const AGAIN: u64 = 256 << 10;
/// `MAP_SHARED_VALIDATE`: refuse flags that are not known.
const SHARED_VALIDATE: u32 = 3;

/// Where a mapping goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Where there is room.
    Anywhere,
    /// At this address if it is free there, else anywhere.
    Near(u64),
    /// In the first 2 GiB (MAP_32BIT).
    Low,
    /// Here, replacing what is there (MAP_FIXED).
    Fixed(u64),
    /// Here, or `EEXIST`.
    FixedNoReplace(u64),
}

/// Anonymous memory's kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anonymous {
    /// MAP_PRIVATE.
    Private,
    /// MAP_SHARED.
    Shared,
}

/// What is mapped.
#[derive(Clone)]
pub enum MapSource {
    /// Zeroed memory.
    Anonymous(Anonymous),
    /// A file from this offset.
    File {
        /// Open for reading, and for writing too if a shared mapping is to be written.
        file: Arc<File>,
        /// Page-aligned.
        offset: u64,
        /// MAP_SHARED.
        shared: bool,
    },
    /// An object without an open file (a System V segment), shared.
    Object {
        /// Gives its pages.
        mappable: Arc<dyn Mappable>,
        /// Names it.
        id: ObjectId,
        /// Shown in /proc/PID/maps.
        label: Arc<str>,
    },
    /// Pages of the kernel's own, private: the vDSO.
    Special {
        /// Gives them.
        mappable: Arc<dyn Mappable>,
        /// Names them.
        id: ObjectId,
        /// Shown in /proc/PID/maps.
        label: Arc<str>,
        /// What mprotect(2) may allow.
        max_prot: Prot,
    },
}

/// A mapping to be made: mmap(2) after decoding.
#[derive(Clone)]
pub struct MapRequest {
    /// Where.
    pub placement: Placement,
    /// Bytes.
    pub len: u64,
    /// Access.
    pub prot: Prot,
    /// What.
    pub source: MapSource,
    /// GROWSDOWN, NORESERVE, LOCKED of mmap(2).
    pub flags: VmaFlags,
    /// Make the pages now.
    pub populate: bool,
    /// CAP_IPC_LOCK: RLIMIT_MEMLOCK does not count.
    pub may_lock: bool,
}

impl Mm {
    /// mmap(2). `file`: `None` with MAP_ANONYMOUS. `may_lock`: CAP_IPC_LOCK. Returns the address.
    pub fn mmap(
        &self,
        addr: UserAddr,
        len: u64,
        prot: Prot,
        flags: MapFlags,
        file: Option<Arc<File>>,
        offset: u64,
        may_lock: bool,
    ) -> Result<u64> {
        if flags.contains(MapFlags::HUGETLB) {
            if file.is_some() {
                bail!(EINVAL, "not on hugetlbfs");
            }
            bail!(ENOMEM, "no huge pages are reserved");
        }
        if len == 0 {
            bail!(EINVAL, "len is zero");
        }
        let placement = if flags.contains(MapFlags::FIXED_NOREPLACE) {
            Placement::FixedNoReplace(addr.0)
        } else if flags.contains(MapFlags::FIXED) {
            Placement::Fixed(addr.0)
        } else if flags.contains(MapFlags::BIT32) {
            Placement::Low
        } else if addr.is_null() {
            Placement::Anywhere
        } else {
            Placement::Near(addr.0)
        };
        let grows = flags.contains(MapFlags::GROWSDOWN);
        let kind = flags.bits() & 0xf;
        let shared = kind & 3 == MapFlags::SHARED.bits() || kind == SHARED_VALIDATE;
        let file_backed = file.is_some();
        let source = match file {
            Some(file) => {
                if kind == SHARED_VALIDATE && !(flags - MapFlags::all()).is_empty() | flags.contains(MapFlags::SYNC) {
                    bail!(EOPNOTSUPP, "flags that cannot be validated");
                }
                if !matches!(kind, 1..=3) {
                    bail!(EINVAL, "neither shared nor private");
                }
                check_file(&file, prot, shared)?;
                if grows {
                    bail!(EINVAL, "a file cannot grow down");
                }
                match (file.ops().maps_zeros(), shared) {
                    (true, true) => MapSource::Anonymous(Anonymous::Shared),
                    (true, false) => MapSource::Anonymous(Anonymous::Private),
                    (false, _) => MapSource::File { file, offset, shared },
                }
            }
            None => match kind {
                1 if grows => bail!(EINVAL, "shared memory cannot grow down"),
                1 => MapSource::Anonymous(Anonymous::Shared),
                2 => MapSource::Anonymous(Anonymous::Private),
                _ => bail!(EINVAL, "neither shared nor private"),
            },
        };
        let mut vma_flags = VmaFlags::empty();
        vma_flags.set(VmaFlags::GROWSDOWN, grows);
        vma_flags.set(VmaFlags::NORESERVE, flags.contains(MapFlags::NORESERVE));
        vma_flags.set(VmaFlags::LOCKED, flags.contains(MapFlags::LOCKED));
        // What ld.so maps writable it relocates at once.
        let relocated = flags.contains(MapFlags::DENYWRITE) && !shared && file_backed && prot.contains(Prot::WRITE) && len <= EAGER;
        let populate = flags.intersects(MapFlags::POPULATE | MapFlags::LOCKED) && !flags.contains(MapFlags::NONBLOCK);
        let at = self.map(MapRequest { placement, len, prot, source, flags: vma_flags, populate, may_lock })?;
        if relocated {
            self.copy_private(at..at + len);
        }
        Ok(at)
    }

    /// Makes a mapping; returns its address.
    pub fn map(&self, request: MapRequest) -> Result<u64> {
        let Some(len) = abi::page_up(request.len).filter(|&l| l > 0) else { bail!(ENOMEM, "length overflows") };
        let mut vma = self.new_vma(&request, len)?;
        let range = {
            let mut guard = self.state.write();
            let s = &mut *guard;
            if s.too_many_maps() {
                bail!(ENOMEM, "too many mappings");
            }
            let range = self.place(s, request.placement, len, vma.flags.contains(VmaFlags::GROWSDOWN))?;
            vma.flags |= s.lock_future;
            s.check_limits(&range, &vma, request.may_lock)?;
            let replaced = s.vmas.overlapping(range.clone()).next().is_some();
            if replaced {
                self.remove(s, range.clone());
            }
            self.install(s, range.clone(), vma, replaced)?;
            range
        };
        if request.populate {
            // As on Linux, mmap succeeds whatever becomes of this.
            let _ = self.populate(range.clone(), Prot::empty());
        }
        Ok(range.start)
    }

    /// An address where nothing is mapped for `len` bytes, a multiple of `align`. It is not kept: for address spaces that nobody else changes.
    pub fn find_space(&self, len: u64, align: u64) -> Option<u64> {
        let s = self.state.read();
        let at = s.find_gap(len.checked_add(align - PAGE_SIZE)?, self.address_limits())?;
        at.checked_next_multiple_of(align)
    }

    fn new_vma(&self, request: &MapRequest, len: u64) -> Result<Vma> {
        let mut vma = Vma::anonymous(request.prot, request.flags);
        match &request.source {
            MapSource::Anonymous(Anonymous::Private) => {}
            MapSource::Anonymous(Anonymous::Shared) => {
                let memory = SharedMemory::new(&self.memory, len)?;
                let id = memory.id();
                vma.flags |= VmaFlags::SHARED;
                vma.backing = Some(Backing::new(memory, None, id, "/dev/zero (deleted)".into(), true));
            }
            MapSource::Object { mappable, id, label } => {
                vma.flags |= VmaFlags::SHARED;
                if !request.prot.contains(Prot::WRITE) {
                    vma.max_prot -= Prot::WRITE;
                }
                vma.backing = Some(Backing::new(mappable.clone(), None, *id, label.clone(), request.prot.contains(Prot::WRITE)));
            }
            MapSource::Special { mappable, id, label, max_prot } => {
                vma.max_prot = *max_prot;
                vma.backing = Some(Backing::new(mappable.clone(), None, *id, label.clone(), false));
            }
            MapSource::File { file, offset, shared } => {
                if !offset.is_multiple_of(PAGE_SIZE) {
                    bail!(EINVAL, "offset is not page-aligned");
                }
                if offset.checked_add(len).is_none_or(|end| end > i64::MAX as u64) {
                    bail!(EOVERFLOW, "offset overflows");
                }
                let mappable = file.ops().mappable(file)?;
                vma.max_prot = file.max_prot(*shared);
                if file.path.mount.flags().contains(MountFlags::NOEXEC) {
                    if request.prot.contains(Prot::EXEC) {
                        bail!(EPERM, "mounted noexec");
                    }
                    vma.max_prot -= Prot::EXEC;
                }
                if *shared && vma.max_prot.contains(Prot::WRITE) {
                    // A sealed file can still be mapped for reading, and then for ever.
                    match mappable.check_shared_write() {
                        Err(e) if request.prot.contains(Prot::WRITE) => return Err(e),
                        Err(_) => vma.max_prot -= Prot::WRITE,
                        Ok(()) => {}
                    }
                }
                vma.flags.set(VmaFlags::SHARED, *shared);
                vma.offset = *offset;
                let inode = mappable.inode().unwrap_or_else(|| file.inode().clone());
                let id = ObjectId::Inode { dev: inode.sb.dev, ino: inode.ino };
                let writable = *shared && vma.max_prot.contains(Prot::WRITE);
                mappable.watch(self.me.clone());
                vma.backing = Some(Backing::new(mappable, Some(file.clone()), id, "".into(), writable));
            }
        }
        Ok(vma)
    }

    /// Finds the range for a mapping, and checks that it may be there.
    fn place(&self, s: &State, placement: Placement, len: u64, grows: bool) -> Result<Range<u64>> {
        let limits = self.address_limits();
        let size = limits.end - limits.start;
        if len > size {
            bail!(ENOMEM, "larger than the address space");
        }
        // A stack needs its gap below.
        let extra = if grows { GUARD_GAP } else { 0 };
        let start = match placement {
            Placement::Fixed(addr) | Placement::FixedNoReplace(addr) => {
                if !addr.is_multiple_of(PAGE_SIZE) {
                    bail!(EINVAL, "address is not page-aligned");
                }
                if addr > limits.end - len {
                    bail!(ENOMEM, "behind the end of the address space");
                }
                if addr < limits.start {
                    bail!(EPERM, "below mmap_min_addr");
                }
                if matches!(placement, Placement::FixedNoReplace(_)) && s.vmas.overlapping(addr..addr + len).next().is_some() {
                    bail!(EEXIST, "something is mapped there");
                }
                Some(addr)
            }
            Placement::Near(addr) => {
                let addr = abi::page_up(addr).unwrap_or(0).max(limits.start);
                let fits = addr <= limits.end - len && s.is_free(&(addr..addr + len), extra);
                if fits { Some(addr) } else { s.find_gap(len + extra, limits).map(|a| a + extra) }
            }
            Placement::Anywhere => s.find_gap(len + extra, limits).map(|a| a + extra),
            Placement::Low => s.find_gap_up(len, 0x4000_0000..0x8000_0000),
        };
        match start {
            Some(start) => Ok(start..start + len),
            None => bail!(ENOMEM, "no room for {len:#x} bytes"),
        }
    }

    /// Adds a VMA with its memory and host mapping where there is none. `replaced`: the host may still have something there.
    pub(super) fn install(&self, s: &mut State, r: Range<u64>, mut vma: Vma, replaced: bool) -> Result {
        if vma.is_anonymous() && self.map_again(s, &r, &vma) {
            // As it was before.
        } else if vma.is_anonymous() {
            let whole = if vma.prot.is_empty() { WHOLE_RESERVED } else { WHOLE };
            if r.end - r.start <= whole {
                let page = match self.alloc_pages(s, r.clone()) {
                    Ok(page) => page,
                    Err(e) => {
                        if replaced {
                            self.host_unmap(s, &r);
                        }
                        return Err(e);
                    }
                };
                if replaced || !vma.prot.is_empty() {
                    self.host_map_pages(s, &r, page, vma.prot);
                }
            } else if replaced {
                self.host_unmap(s, &r);
            }
        } else if vma.prot.is_empty() {
            if replaced {
                self.host_unmap(s, &r);
            }
        } else {
            self.fill_file(s, r.clone(), &mut vma, replaced);
        }
        s.add_vma(r, vma);
        Ok(())
    }

    /// Gives a range memory of this very address space's that was as long and in use throughout until a moment ago, zeroed and accessible at once: what maps, fills and
    /// unmaps buffers again and again needs no fault for them.
    fn map_again(&self, s: &mut State, r: &Range<u64>, vma: &Vma) -> bool {
        let len = r.end - r.start;
        if len > AGAIN || !vma.prot.contains(Prot::WRITE) || vma.flags.contains(VmaFlags::GROWSDOWN) || s.shadows.get(r.start).is_some() {
            return false;
        }
        let Some(extent) = self.memory.take_again(len, self.id) else { return false };
        let page = Page { offset: extent.offset, cow: false };
        s.pages.insert(r.clone(), page);
        self.host_map_pages_as(s, r, page, vma.prot, true);
        true
    }

    /// Gives private memory, zeroed, to a range that has none: out of what was reserved for it, or next to its neighbours' if possible.
    pub(super) fn alloc_pages(&self, s: &mut State, r: Range<u64>) -> Result<Page> {
        let len = r.end - r.start;
        let offset = match s.take_shadow(&r) {
            Some(offset) => offset,
            None => {
                let below = r.start.checked_sub(1).and_then(|last| s.pages.get(last)).map(|(f, p)| p.offset + (r.start - f.start));
                let above = s.pages.get(r.end).and_then(|(f, p)| (p.offset + (r.end - f.start)).checked_sub(len));
                self.memory.alloc(len, Hint { at: below.or(above), addr: r.start })?.offset
            }
        };
        let page = Page { offset, cow: false };
        s.pages.insert(r, page);
        Ok(page)
    }

    /// Maps the file's own pages for the whole range, if they lie in a few pieces. Nothing of the range may have private pages.
    pub(super) fn fill_file(&self, s: &mut State, r: Range<u64>, vma: &mut Vma, replaced: bool) {
        vma.flags -= VmaFlags::FILLED;
        let Some(backing) = &vma.backing else { return };
        let mut pieces: Vec<MappedPages> = Vec::new();
        let mut at = r.start;
        while at < r.end && pieces.len() < MOST_PIECES {
            match backing.mappable.pages(vma.offset + (at - r.start), r.end - at, vma.writes_through()) {
                Ok(p) if p.len > 0 => {
                    at = at.saturating_add(p.len).min(r.end);
                    pieces.push(p);
                }
                _ => break,
            }
        }
        if at >= r.end {
            vma.flags |= VmaFlags::FILLED;
        } else if replaced {
            self.host_unmap(s, &(at..r.end));
        }
        let mut at = r.start;
        for p in pieces {
            let len = p.len.min(r.end - at);
            self.host_map_file(s, &(at..at + len), &p, vma);
            at += len;
        }
    }

    /// Maps pages of a file.
    pub(super) fn host_map_file(&self, s: &mut State, r: &Range<u64>, pages: &MappedPages, vma: &Vma) {
        let prot = if vma.is_shared() { vma.prot } else { without_write(vma.prot) };
        s.changes += 1;
        // A private mapping of the host keeps a writer out even if a protection were wrong one day.
        let shared = vma.is_shared() || pages.is_memory_file;
        self.aspace.map(r.start, r.end - r.start, pages.fd, pages.offset, prot, shared);
    }

    /// munmap(2).
    pub fn munmap(&self, addr: UserAddr, len: u64) -> Result {
        let limits = self.address_limits();
        let Some(len) = abi::page_up(len) else { bail!(EINVAL, "length overflows") };
        if !addr.0.is_multiple_of(PAGE_SIZE) || len == 0 || len > limits.end || addr.0 > limits.end - len {
            bail!(EINVAL, "not a range of pages");
        }
        let r = addr.0..addr.0 + len;
        let mut guard = self.state.write();
        let s = &mut *guard;
        if s.vmas.overlapping(r.clone()).next().is_none() {
            return Ok(());
        }
        if let Some((found, _)) = s.vmas.get(r.start)
            && found.start < r.start
            && found.end > r.end
            && s.too_many_maps()
        {
            bail!(ENOMEM, "too many mappings");
        }
        self.remove(s, r.clone());
        self.host_unmap(s, &r);
        Ok(())
    }

    /// shmdt(2): unmaps what is left of a System V segment that was mapped at `addr`; returns the segment's id, `None` if there is none.
    pub fn unmap_segment(&self, addr: UserAddr) -> Option<i32> {
        let mut guard = self.state.write();
        let s = &mut *guard;
        let of = |v: &Vma| match v.backing.as_ref().map(|b| b.id) {
            Some(ObjectId::Segment { id, .. }) => Some(id),
            _ => None,
        };
        let began_here = |r: &Range<u64>, v: &Vma| r.start.wrapping_sub(v.offset) == addr.0;
        let id = s.vmas.overlapping(addr.0..s.max_address).find_map(|(r, v)| if began_here(&r, v) { of(v) } else { None })?;
        let parts: Vec<Range<u64>> =
            s.vmas.overlapping(addr.0..s.max_address).filter(|(r, v)| began_here(r, v) && of(v) == Some(id)).map(|(r, _)| r).collect();
        for r in parts {
            self.remove(s, r.clone());
            self.host_unmap(s, &r);
        }
        Some(id)
    }

    /// Called by a file that has become shorter: what lies behind `end` (a multiple of the page size) is mapped no more, copies of it
    /// included, and faults.
    pub fn file_shrunk(&self, file: &dyn Mappable, end: u64) {
        let mut guard = self.state.write();
        let s = &mut *guard;
        let is_it = |v: &Vma| v.backing.as_ref().is_some_and(|b| std::ptr::addr_eq(Arc::as_ptr(&b.mappable), file));
        let behind = |(r, v): (Range<u64>, &Vma)| {
            let start = r.start.saturating_add(end.saturating_sub(v.offset));
            (is_it(v) && start < r.end).then_some((r, start))
        };
        let parts: Vec<(Range<u64>, u64)> = s.vmas.iter().filter_map(behind).collect();
        for (r, start) in parts {
            self.drop_pages(s, start..r.end);
            self.host_unmap(s, &(start..r.end));
            s.change_vmas(r, |v| v.flags -= VmaFlags::FILLED);
        }
    }

    /// Removes VMAs and memory of a range; the host's mapping is the caller's business.
    pub(super) fn remove(&self, s: &mut State, r: Range<u64>) {
        let gone = s.take_vmas(r.clone());
        self.defer_vmas(s, gone.into_iter().map(|(_, v)| v));
        self.drop_pages(s, r.clone());
        self.drop_shadows(s, r);
    }
}

/// What mmap(2) asks of an open file.
fn check_file(file: &File, prot: Prot, shared: bool) -> Result {
    let flags = file.flags();
    if shared && prot.contains(Prot::WRITE) && !flags.writable() {
        bail!(EACCES, "shared writable mapping of a file that is open for reading");
    }
    if !flags.readable() {
        bail!(EACCES, "file is not open for reading");
    }
    Ok(())
}

impl Vma {
    /// Whether the file's pages must be there to be written.
    pub(super) fn writes_through(&self) -> bool {
        self.is_shared() && self.prot.contains(Prot::WRITE)
    }
}

impl State {
    /// RLIMIT_AS, RLIMIT_DATA, and RLIMIT_MEMLOCK for locked memory.
    pub(super) fn check_limits(&self, r: &Range<u64>, vma: &Vma, may_lock: bool) -> Result {
        let replaced: u64 = self.vmas.within(r.clone()).map(|(r, _)| r.end - r.start).sum();
        let len = r.end - r.start;
        self.check_expand(len.saturating_sub(replaced), vma)?;
        if vma.flags.contains(VmaFlags::LOCKED) && !may_lock {
            if self.limits.memlock == 0 {
                bail!(EPERM, "RLIMIT_MEMLOCK is zero");
            }
            if self.totals.locked.saturating_add(len) > self.limits.memlock {
                bail!(EAGAIN, "RLIMIT_MEMLOCK");
            }
        }
        Ok(())
    }

    /// Whether `len` bytes more of this kind are allowed.
    pub(super) fn check_expand(&self, len: u64, vma: &Vma) -> Result {
        if self.totals.total.saturating_add(len) > self.limits.address_space {
            bail!(ENOMEM, "RLIMIT_AS");
        }
        if vma.is_data() && self.totals.data.saturating_add(len) > self.limits.data {
            bail!(ENOMEM, "RLIMIT_DATA");
        }
        Ok(())
    }

    /// Where a VMA begins, its guard gap included.
    fn start_with_gap(r: &Range<u64>, v: &Vma) -> u64 {
        if v.flags.contains(VmaFlags::GROWSDOWN) { r.start.saturating_sub(GUARD_GAP) } else { r.start }
    }

    /// Whether nothing is mapped there, guard gaps included; `below`: nor that far below.
    pub(super) fn is_free(&self, r: &Range<u64>, below: u64) -> bool {
        if let Some((found, _)) = self.vmas.before(r.end)
            && found.end > r.start.saturating_sub(below)
        {
            return false;
        }
        self.vmas.at_or_after(r.end).is_none_or(|(found, v)| Self::start_with_gap(&found, v) >= r.end)
    }

    /// The highest gap of `len` bytes below the mapping base, or else above it.
    pub(super) fn find_gap(&self, len: u64, limits: Range<u64>) -> Option<u64> {
        self.find_gap_down(len, limits.start..self.mmap_base).or_else(|| self.find_gap_up(len, limits))
    }

    pub(super) fn find_gap_down(&self, len: u64, within: Range<u64>) -> Option<u64> {
        let above = self.vmas.at_or_after(within.end).map_or(within.end, |(r, v)| Self::start_with_gap(&r, v));
        let mut end = within.end.min(above);
        for (r, v) in self.vmas.iter_down_from(within.end) {
            if end.saturating_sub(r.end.max(within.start)) >= len {
                return Some(end - len);
            }
            end = end.min(Self::start_with_gap(&r, v));
            if end < within.start {
                return None;
            }
        }
        (end.saturating_sub(within.start) >= len).then(|| end - len)
    }

    pub(super) fn find_gap_up(&self, len: u64, within: Range<u64>) -> Option<u64> {
        let mut start = within.start;
        for (r, v) in self.vmas.overlapping(within.clone()) {
            if Self::start_with_gap(&r, v).saturating_sub(start) >= len {
                return Some(start);
            }
            start = start.max(r.end);
        }
        let above = self.vmas.at_or_after(within.end).map_or(within.end, |(r, v)| Self::start_with_gap(&r, v));
        (within.end.min(above).saturating_sub(start) >= len).then_some(start)
    }

    /// Takes the memory that was reserved for a range, if all of it is in one piece.
    pub(super) fn take_shadow(&mut self, r: &Range<u64>) -> Option<u64> {
        let (found, shadow) = self.shadows.get(r.start)?;
        if found.end < r.end {
            return None;
        }
        let offset = shadow.offset + (r.start - found.start);
        self.shadows.remove(r.clone());
        Some(offset)
    }

    /// Whether an address lies below the mappings' limit at all.
    pub(super) fn is_user(&self, addr: u64) -> bool {
        (MMAP_MIN_ADDR..self.max_address).contains(&addr)
    }
}
