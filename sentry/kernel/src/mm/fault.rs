//! Page faults: pages that are not mapped yet, copy-on-write, stacks that grow.

use super::{GUARD_GAP, Mm, Page, State, Vma, VmaFlags};
use abi::{PAGE_SIZE, Result, bail, mm::Prot, signal::Signal};
use platform::Fault;
use std::cell::Cell;
use std::ops::Range;

/// Pages that are copied together when one of them is written to; they begin at a multiple of their size.
const AROUND: u64 = 16 * PAGE_SIZE;
/// Anonymous memory too large to have got its extent when it was mapped gets it in pieces of this.
const CHUNK: u64 = 1 << 30;
/// How far around a fault pages are looked for that have no other owner any more.
const NEAR: u64 = 16 << 20;
/// A stack grows by at least this, if nothing is in the way.
const STACK_STEP: u64 = 128 << 10;

/// `SEGV_MAPERR`: nothing is mapped there.
pub const SEGV_MAPERR: i32 = 1;
/// `SEGV_ACCERR`: the mapping does not allow it.
pub const SEGV_ACCERR: i32 = 2;
/// `BUS_ADRERR`: the file does not reach there.
pub const BUS_ADRERR: i32 = 2;

thread_local! {
    /// The last fault that this task thread answered: address space, address, access, and `State::changes` afterwards.
    static LAST: Cell<(u64, u64, Prot, u64)> = const { Cell::new((0, 0, Prot::empty(), 0)) };
}

/// Why an address cannot be accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// Nothing is mapped.
    NotMapped,
    /// The protection forbids it.
    Protection,
    /// Behind the end of the file, or the file cannot be read.
    Bus,
    /// No memory: Linux would call the out-of-memory killer; the application gets SIGBUS.
    NoMemory,
}

impl Denied {
    fn signal(self, fault: &Fault) -> Fault {
        let (signal, code) = match self {
            Denied::NotMapped => (Signal::SEGV, SEGV_MAPERR),
            Denied::Protection => (Signal::SEGV, SEGV_ACCERR),
            Denied::Bus | Denied::NoMemory => (Signal::BUS, BUS_ADRERR),
        };
        Fault { signal, code, ..*fault }
    }
}

impl Mm {
    /// Answers a SIGSEGV or SIGBUS of the application. `Ok`: what was missing is there (once the platform's queue is flushed), run on.
    /// `Err`: the signal that the application gets, with `si_code` and `si_addr`. Other signals are returned as they are.
    pub fn handle_fault(&self, fault: &Fault) -> Result<(), Fault> {
        // The host raises SIGBUS where a mapped file ends: nothing can be done about that. A general-protection fault has no address.
        let general_protection = fault.signal == Signal::SEGV && fault.code == abi::signal::SI_KERNEL;
        if fault.signal != Signal::SEGV || general_protection {
            return Err(*fault);
        }
        let mut guard = self.state.write();
        let s = &mut *guard;
        let key = (self.id, fault.addr, fault.access);
        let (id, addr, access, changes) = LAST.get();
        if (id, addr, access) == key && changes == s.changes {
            // What was done last time did not help, and nothing has changed since: the access itself is wrong in a
            // way that the platform could not name (executing data, for example).
            LAST.set(Default::default());
            tracing::debug!(
                "fault at {:#x} has come again: {:?} {:?}",
                fault.addr,
                s.vmas.get(fault.addr).map(|(r, v)| (r, v.prot)),
                s.pages.get(fault.addr)
            );
            return Err(Denied::Protection.signal(fault));
        }
        match self.fault_in(s, fault.addr, fault.access) {
            Ok(()) => {
                LAST.set((key.0, key.1, key.2, s.changes));
                Ok(())
            }
            Err(d) => Err(d.signal(fault)),
        }
    }

    /// Makes the page at `addr` accessible. `access` empty: unknown, as much as the VMA allows.
    pub(super) fn fault_in(&self, s: &mut State, addr: u64, access: Prot) -> Result<(), Denied> {
        self.fault_in_as(s, addr, access, false)
    }

    /// As [`fault_in`](Self::fault_in); `forced`: for the sentry, past the protection that the application is held to.
    pub(super) fn fault_in_as(&self, s: &mut State, addr: u64, access: Prot, forced: bool) -> Result<(), Denied> {
        let at = abi::page_down(addr);
        let (range, vma) = match s.vmas.get(at) {
            Some((r, v)) => (r, v.clone()),
            None => {
                let range = self.grow_stack(s, at)?;
                match s.vmas.get(at) {
                    Some((_, v)) => (range, v.clone()),
                    None => return Err(Denied::NotMapped),
                }
            }
        };
        if !vma.allows(access) && !(forced && vma.allows_forced(access)) {
            return Err(Denied::Protection);
        }
        let write = access.contains(Prot::WRITE) || access.is_empty() && vma.prot.contains(Prot::WRITE);
        if let Some((found, &page)) = s.pages.get(at) {
            if page.cow && write {
                self.break_cow(s, &range, &vma, found, page, at)?;
            }
            return Ok(());
        }
        if vma.is_anonymous() {
            return self.fill_anonymous(s, &range, &vma, at);
        }
        if write && !vma.is_shared() {
            return self.copy_from_file(s, &range, &vma, at);
        }
        if vma.flags.contains(VmaFlags::FILLED) { Ok(()) } else { self.fill_around(s, &range, &vma, at) }
    }

    /// Extends the stack that begins above `at` down to it.
    fn grow_stack(&self, s: &mut State, at: u64) -> Result<Range<u64>, Denied> {
        let Some((above, vma)) = s.vmas.at_or_after(at) else { return Err(Denied::NotMapped) };
        if !vma.flags.contains(VmaFlags::GROWSDOWN) || !s.is_user(at) {
            return Err(Denied::NotMapped);
        }
        let vma = vma.clone();
        if above.end - at > s.limits.stack {
            return Err(Denied::NotMapped);
        }
        // Another mapping that allows access must stay a gap away; another stack may adjoin.
        let floor = match s.vmas.before(above.start) {
            Some((below, v)) if v.prot.is_empty() || v.flags.contains(VmaFlags::GROWSDOWN) => below.end,
            Some((below, _)) => below.end.saturating_add(GUARD_GAP),
            None => super::MMAP_MIN_ADDR,
        };
        if at < floor {
            return Err(Denied::NotMapped);
        }
        let lowest = floor.max(above.end.saturating_sub(s.limits.stack));
        let start = at.min(abi::page_up(lowest).unwrap_or(at).max(above.start.saturating_sub(STACK_STEP)));
        let added = start..above.start;
        let bytes = added.end - added.start;
        if s.check_expand(bytes, &vma).is_err() {
            return Err(Denied::NotMapped);
        }
        if vma.flags.contains(VmaFlags::LOCKED) && s.totals.locked.saturating_add(bytes) > s.limits.memlock {
            return Err(Denied::NotMapped);
        }
        let page = self.alloc_pages(s, added.clone()).map_err(|_| Denied::NoMemory)?;
        self.host_map_pages(s, &added, page, vma.prot);
        let whole = start..above.end;
        s.take_vmas(above);
        s.add_vma(whole.clone(), vma);
        Ok(whole)
    }

    /// Gives anonymous memory to the part of a VMA around `at` that has none.
    fn fill_anonymous(&self, s: &mut State, range: &Range<u64>, vma: &Vma, at: u64) -> Result<(), Denied> {
        let chunk = range.start.max(at & !(CHUNK - 1))..range.end.min((at & !(CHUNK - 1)).saturating_add(CHUNK));
        let Some(gap) = s.pages.gaps(chunk).into_iter().find(|g| g.contains(&at)) else { return Ok(()) };
        let page = self.alloc_pages(s, gap.clone()).map_err(|_| Denied::NoMemory)?;
        self.host_map_pages(s, &gap, page, vma.prot);
        Ok(())
    }

    /// Maps a run of a file's own pages around `at`.
    fn fill_around(&self, s: &mut State, range: &Range<u64>, vma: &Vma, at: u64) -> Result<(), Denied> {
        let Some(backing) = &vma.backing else { return Ok(()) };
        let Some(gap) = s.pages.gaps(range.clone()).into_iter().find(|g| g.contains(&at)) else { return Ok(()) };
        let pages = backing
            .mappable
            .pages(vma.offset + (at - range.start), gap.end - at, vma.writes_through())
            .map_err(|e| if e.is(abi::Errno::ENOMEM) { Denied::NoMemory } else { Denied::Bus })?;
        let len = pages.len.min(gap.end - at);
        if len == 0 {
            return Err(Denied::Bus);
        }
        self.host_map_file(s, &(at..at + len), &pages, vma);
        Ok(())
    }

    /// Answers a write to a private page that others may have too. `found`, `page`: the run that it lies in.
    fn break_cow(&self, s: &mut State, range: &Range<u64>, vma: &Vma, found: Range<u64>, page: Page, at: u64) -> Result<(), Denied> {
        let near = at.saturating_sub(NEAR)..at.saturating_add(NEAR);
        let run = found.start.max(range.start).max(near.start)..found.end.min(range.end).min(near.end);
        let offset_of = |a: u64| page.offset + (a - found.start);
        let addr_of = |o: u64| found.start + (o - page.offset);
        // Nobody else has it any more: all of the run that is ours alone is writable again, with one operation.
        for (part, sole) in self.memory.sole_owner(offset_of(run.start)..offset_of(run.end)) {
            let part = addr_of(part.start)..addr_of(part.end);
            if sole && part.contains(&at) {
                self.uncow(s, part, vma);
                return Ok(());
            }
        }
        let window = run.start.max(at & !(AROUND - 1))..run.end.min((at & !(AROUND - 1)).saturating_add(AROUND));
        let mut broken = Ok(());
        for (part, sole) in self.memory.sole_owner(offset_of(window.start)..offset_of(window.end)) {
            let part = addr_of(part.start)..addr_of(part.end);
            if sole {
                self.uncow(s, part, vma);
            } else if let Err(e) = self.copy_pages(s, range, vma, part.clone(), offset_of(part.start)) {
                // Neighbours are a courtesy.
                if part.contains(&at) {
                    broken = Err(e);
                }
            }
        }
        broken
    }

    /// Makes private pages writable that nobody else has.
    fn uncow(&self, s: &mut State, part: Range<u64>, vma: &Vma) {
        s.pages.update(part.clone(), |_, p| p.cow = false);
        if vma.prot.contains(Prot::WRITE) {
            self.host_protect(s, &part, vma.prot);
        }
    }

    /// Replaces pages by copies of them.
    fn copy_pages(&self, s: &mut State, range: &Range<u64>, vma: &Vma, part: Range<u64>, from: u64) -> Result<(), Denied> {
        let to = self.reserve_copy(s, range, &part)?;
        let len = part.end - part.start;
        // Holes are copied by leaving holes.
        let (mut done, mut bytes) = (0, 0);
        while let Ok(Some(data)) = self.memory.file().next_data(from + done, len - done) {
            let copied = self.memory.file().copy_within(data.start, to + (data.start - from), (data.end - data.start) as usize);
            if copied.is_err() {
                self.memory.decref(to..to + len);
                return Err(Denied::NoMemory);
            }
            done = data.end - from;
            bytes += data.end - data.start;
        }
        self.drop_pages(s, part.clone());
        let page = Page { offset: to, cow: false };
        s.pages.insert(part.clone(), page);
        self.host_map_pages_as(s, &part, page, vma.prot, bytes == len);
        Ok(())
    }

    /// Zeroed memory for a part of a VMA: its place in memory that was reserved for all of the VMA (or the GiB around), so that
    /// what is copied later next to it lies next to it there, too.
    pub(super) fn reserve_copy(&self, s: &mut State, range: &Range<u64>, part: &Range<u64>) -> Result<u64, Denied> {
        if let Some(offset) = s.take_shadow(part) {
            return Ok(offset);
        }
        let block = part.start & !(CHUNK - 1);
        let all = range.start.max(block)..range.end.min(block.saturating_add(CHUNK));
        if part.end <= all.end
            && let Ok(extent) = self.memory.alloc(all.end - all.start, super::Hint { at: None, addr: all.start })
        {
            self.drop_shadows(s, all.clone());
            s.shadows.insert(all, super::Shadow { offset: extent.offset });
            if let Some(offset) = s.take_shadow(part) {
                return Ok(offset);
            }
        }
        let extent = self.memory.alloc(part.end - part.start, super::Hint { at: None, addr: part.start });
        extent.map(|e| e.offset).map_err(|_| Denied::NoMemory)
    }

    /// Answers a write to a page of a private file mapping: copies it and its neighbours.
    fn copy_from_file(&self, s: &mut State, range: &Range<u64>, vma: &Vma, at: u64) -> Result<(), Denied> {
        let window = range.start.max(at & !(AROUND - 1))..range.end.min((at & !(AROUND - 1)).saturating_add(AROUND));
        let window = s.pages.gaps(window).into_iter().find(|g| g.contains(&at)).unwrap_or(at..at + PAGE_SIZE);
        self.copy_window(s, range, vma, window, at)
    }

    /// Copies the file's pages in `r` that no private pages cover yet, so that writing to them faults no more. As far as that goes.
    pub fn copy_private(&self, r: Range<u64>) {
        let mut guard = self.state.write();
        let s = &mut *guard;
        let r = abi::page_down(r.start)..abi::page_up(r.end).unwrap_or(r.end);
        let Some((range, vma)) = s.vmas.get(r.start).map(|(r, v)| (r, v.clone())) else { return };
        if vma.is_anonymous() || vma.is_shared() || !vma.prot.contains(Prot::WRITE) {
            return;
        }
        for gap in s.pages.gaps(r.start..r.end.min(range.end)) {
            let at = gap.start;
            // What cannot be copied now faults later.
            let _ = self.copy_window(s, &range, &vma, gap, at);
        }
    }

    /// Copies a window of a file's pages; fails if the one at `at` cannot be.
    fn copy_window(&self, s: &mut State, range: &Range<u64>, vma: &Vma, mut window: Range<u64>, at: u64) -> Result<(), Denied> {
        let len = window.end - window.start;
        // If nothing is left to be copied next to it, memory that was freed a moment ago will do, wherever it is. All of it is overwritten.
        let used = if window == *range { self.memory.take_unzeroed(len) } else { None };
        let to = match used {
            Some(extent) => extent.offset,
            None => self.reserve_copy(s, range, &window)?,
        };
        let copied = self.read_file(vma, vma.offset + (window.start - range.start), to, len).and_then(|n| {
            // Whole pages: behind the end of the file, the last one is filled with zeros.
            let got = abi::page_up(n).unwrap_or(n).min(len);
            if used.is_some() {
                self.memory.file().zero(to + n, (got - n) as usize)?;
            }
            Ok(got)
        });
        let got = copied.as_ref().map_or(0, |&got| got);
        if at - window.start >= got {
            self.memory.decref(to..to + len);
            // The neighbours before it may be what could not be read.
            if window.start < at && copied.is_err() {
                return self.copy_one_from_file(s, range, vma, at);
            }
            return Err(Denied::Bus);
        }
        if window.start + got < window.end {
            self.memory.decref(to + got..to + len);
            window.end = window.start + got;
        }
        let page = Page { offset: to, cow: false };
        s.pages.insert(window.clone(), page);
        self.host_map_pages_as(s, &window, page, vma.prot, true);
        Ok(())
    }

    fn copy_one_from_file(&self, s: &mut State, range: &Range<u64>, vma: &Vma, at: u64) -> Result<(), Denied> {
        let one = at..at + PAGE_SIZE;
        let to = self.reserve_copy(s, range, &one)?;
        match self.read_file(vma, vma.offset + (at - range.start), to, PAGE_SIZE) {
            Ok(n) if n > 0 => {
                let page = Page { offset: to, cow: false };
                s.pages.insert(one.clone(), page);
                self.host_map_pages(s, &one, page, vma.prot);
                Ok(())
            }
            _ => {
                self.memory.decref(to..to + PAGE_SIZE);
                Err(Denied::Bus)
            }
        }
    }

    /// Copies a mapped file's content to zeroed memory of ours; returns how many bytes there were.
    fn read_file(&self, vma: &Vma, offset: u64, to: u64, len: u64) -> Result<u64> {
        let Some(backing) = &vma.backing else { bail!(EFAULT) };
        let mut done = 0;
        while done < len {
            let pages = match backing.mappable.pages(offset + done, len - done, false) {
                Ok(p) if p.len > 0 => p,
                Err(e) if done == 0 => return Err(e),
                _ => break,
            };
            let n = pages.len.min(len - done);
            if pages.is_memory_file {
                self.memory.file().copy_within(pages.offset, to + done, n as usize)?;
                done += n;
                continue;
            }
            let Some(map) = backing.mappable.file_map() else { bail!(EFAULT, "no view of the mapped file") };
            let span = self.memory.span(to + done, n as usize)?;
            let got = host::io::preadv(map.fd(), &[span], pages.offset)? as u64;
            done += got;
            if got < n {
                break;
            }
        }
        Ok(done)
    }

    /// Makes all of a range accessible for `access` (empty: for reading, and present): MAP_POPULATE, mlock, MADV_POPULATE_*.
    /// `ENOMEM` where nothing is mapped, `EFAULT` where access is denied.
    pub(super) fn populate(&self, r: Range<u64>, access: Prot) -> Result {
        let mut at = r.start;
        while at < r.end {
            let run = {
                let mut guard = self.state.write();
                let s = &mut *guard;
                match self.fault_in(s, at, if access.is_empty() { Prot::READ } else { access }) {
                    Ok(()) => {}
                    Err(Denied::NotMapped | Denied::NoMemory) => bail!(ENOMEM),
                    Err(Denied::Protection) => bail!(EFAULT),
                    Err(Denied::Bus) => bail!(EFAULT),
                }
                s.pages.get(at).map(|(f, p)| (p.offset + (at - f.start), f.end.min(r.end) - at, p.cow))
            };
            match run {
                Some((_, _, cow)) if cow && access.contains(Prot::WRITE) => {
                    at += PAGE_SIZE;
                }
                Some((offset, len, _)) => {
                    // Reading a hole of the memory file makes its page.
                    for page in (0..len).step_by(PAGE_SIZE as usize) {
                        let mut byte = [0; 1];
                        self.memory.file().copy_in(offset + page, &mut byte)?;
                    }
                    at += len;
                }
                None => at += PAGE_SIZE,
            }
        }
        Ok(())
    }
}
