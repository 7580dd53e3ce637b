//! [`MemoryPool`]: which parts of the sandbox's memory file are in use, and by how many.
//!
//! Application memory, tmpfs files and shared memory all live in one sparse [`MemoryFile`]. The pool hands out extents of its
//! offsets, which cost nothing until they are touched, and counts references for every page. An extent whose last reference goes is kept
//! dirty for a while, punched together with others, and then free for the next. Small ones are kept apart until then, with their memory: what is
//! copied there, by fork above all, costs a tenth of what it costs where the host must find memory first. Whoever keeps the
//! time ([`MemoryPool::when_freed`]) sees to it that all goes back to the host within a second.

use super::ranges::{Piece, Present, RangeMap};
use abi::{PAGE_SIZE, Result, bail};
use host::{Span, memfile::MemoryFile};
use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::OnceLock;
use sync::{Mutex, Rank};

/// Large extents lie at offsets congruent to their address modulo this, so that the host can use huge pages.
const HUGE: u64 = 2 << 20;
/// Freed bytes (pages that were never touched included) above which they are punched.
const DIRTY_BYTES: u64 = 64 << 20;
/// Freed ranges above which they are punched.
const DIRTY_RANGES: usize = 256;
/// Freed extents up to this are kept apart, to be copied to.
const KEPT_EXTENT: u64 = 1 << 20;
/// So many of them at most, and so many bytes.
const KEPT_EXTENTS: usize = 256;
const KEPT_BYTES: u64 = 32 << 20;

/// Part of the memory file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins: a multiple of the page size.
    pub offset: u64,
    /// Bytes: a multiple of the page size.
    pub len: u64,
}

impl Extent {
    /// Its offsets.
    #[must_use]
    pub fn range(self) -> Range<u64> {
        self.offset..self.offset + self.len
    }
}

/// Where an extent should lie.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hint {
    /// Just here, if that is free: behind or before an extent that it continues.
    pub at: Option<u64>,
    /// The guest address that it will be mapped at; large extents are made congruent to it.
    pub addr: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Refs(u32);

impl Piece for Refs {
    fn advance(&mut self, _: u64) {}
    fn continues(&self, _: u64, next: &Self) -> bool {
        self == next
    }
}

/// Free ranges, all holes of the file, by place and by size.
#[derive(Default)]
struct Free {
    places: RangeMap<Present>,
    sizes: BTreeSet<(u64, u64)>,
}

impl Free {
    fn put(&mut self, r: Range<u64>) {
        let (mut start, mut end) = (r.start, r.end);
        if let Some((before, _)) = self.places.before(r.start)
            && before.end == r.start
        {
            self.sizes.remove(&(before.end - before.start, before.start));
            start = before.start;
        }
        if let Some((after, _)) = self.places.get(r.end) {
            self.sizes.remove(&(after.end - after.start, after.start));
            end = after.end;
        }
        self.places.insert(r, Present);
        self.sizes.insert((end - start, start));
    }

    /// Takes `r` if all of it is free.
    fn take(&mut self, r: Range<u64>) -> bool {
        let Some((found, _)) = self.places.get(r.start) else { return false };
        if found.end < r.end {
            return false;
        }
        self.sizes.remove(&(found.end - found.start, found.start));
        self.places.remove(r.clone());
        for rest in [found.start..r.start, r.end..found.end] {
            if !rest.is_empty() {
                self.sizes.insert((rest.end - rest.start, rest.start));
            }
        }
        true
    }

    /// A place for `len` bytes; `congruent`: modulo [`HUGE`] to that. The smallest range that serves is used.
    fn find(&self, len: u64, congruent: Option<u64>) -> Option<u64> {
        let Some(addr) = congruent else { return self.sizes.range((len, 0)..).next().map(|&(_, start)| start) };
        let fit = |&(size, start): &(u64, u64)| {
            let skip = addr.wrapping_sub(start) % HUGE;
            (skip.checked_add(len)? <= size).then(|| start + skip)
        };
        // A few that just fit may lie right; one that is larger by HUGE always does.
        self.sizes.range((len, 0)..).take(8).find_map(fit).or_else(|| self.sizes.range((len.checked_add(HUGE)?, 0)..).find_map(fit))
    }
}

/// A freed extent that still has its memory.
#[derive(Debug)]
struct Kept {
    range: Range<u64>,
    /// The round that it was freed in.
    round: u64,
    /// The address space that had it; 0: not known.
    owner: u64,
}

impl Kept {
    fn len(&self) -> u64 {
        self.range.end - self.range.start
    }
}

#[derive(Default)]
struct State {
    refs: RangeMap<Refs>,
    free: Free,
    dirty: RangeMap<Present>,
    dirty_bytes: u64,
    /// Freed extents that still have their memory, as they were used, oldest first.
    kept: VecDeque<Kept>,
    kept_bytes: u64,
    /// Rounds of [`MemoryPool::give_back`].
    round: u64,
    /// Somebody has been told that there is something to give back.
    told: bool,
}

/// The memory of the sandbox.
pub struct MemoryPool {
    file: MemoryFile,
    state: Mutex<State>,
    freed: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl std::fmt::Debug for MemoryPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MemoryPool({:?})", self.file.fd())
    }
}

impl MemoryPool {
    /// A pool over a memory file of up to `len` bytes ([`MemoryFile::DEFAULT_LEN`] for a sandbox).
    pub fn new(len: u64) -> Result<MemoryPool> {
        let file = MemoryFile::new(c"caisson-memory", len)?;
        let mut state = State::default();
        // Offset 0 is never used, so that no mistake of arithmetic can name it.
        state.free.put(PAGE_SIZE..file.len());
        Ok(MemoryPool { file, state: Mutex::new(Rank::Extents, state), freed: OnceLock::new() })
    }

    /// The memory file's descriptor, as platforms map it.
    pub fn fd(&self) -> RawFd {
        self.file.fd().as_raw_fd()
    }

    /// The memory file, for access by offset.
    pub fn file(&self) -> &MemoryFile {
        &self.file
    }

    /// `len` bytes (rounded up to pages) of zeroed memory with one reference. `ENOMEM` where the offsets are used up.
    pub fn alloc(&self, len: u64, hint: Hint) -> Result<Extent> {
        let Some(len) = abi::page_up(len).filter(|&l| l > 0) else { bail!(ENOMEM, "extent of {len} bytes") };
        let congruent = (len >= HUGE).then_some(hint.addr);
        for again in [true, false] {
            let mut s = self.state.lock();
            if let Some(at) = hint.at
                && let Some(end) = at.checked_add(len)
                && s.free.take(at..end)
            {
                s.refs.insert(at..end, Refs(1));
                return Ok(Extent { offset: at, len });
            }
            if let Some(at) = s.free.find(len, congruent).or_else(|| s.free.find(len, None))
                && s.free.take(at..at + len)
            {
                s.refs.insert(at..at + len, Refs(1));
                return Ok(Extent { offset: at, len });
            }
            drop(s);
            if again {
                self.punch_dirty();
            }
        }
        bail!(ENOMEM, "memory file is full")
    }

    /// Memory for a copy of the range `from` (of pages that hold `data` in ascending order, and else zeros), with one reference, and the
    /// copy in it. `ENOMEM`.
    pub fn copy(&self, from: Range<u64>, data: &[Range<u64>], addr: u64) -> Result<Extent> {
        let len = from.end - from.start;
        let (to, used) = match self.take_kept(len) {
            Some(offset) => (Extent { offset, len }, true),
            None => (self.alloc(len, Hint { at: None, addr })?, false),
        };
        let filled = if used { self.zero_all_but(to, from.start, data) } else { Ok(()) };
        let copied = filled.and_then(|()| {
            data.iter()
                .try_for_each(|d| Ok(self.file.copy_within(d.start, to.offset + (d.start - from.start), (d.end - d.start) as usize)?))
        });
        match copied {
            Ok(()) => Ok(to),
            Err(e) => {
                self.decref(to.range());
                Err(e)
            }
        }
    }

    /// Zeroes what an extent holds apart from the places of `data`, whose offsets count from `from`.
    fn zero_all_but(&self, extent: Extent, from: u64, data: &[Range<u64>]) -> Result {
        let place = |o: u64| extent.offset + (o - from);
        let end = extent.range().end;
        let mut at = extent.offset;
        for d in data.iter().map(|d| place(d.start)..place(d.end)).chain(std::iter::once(end..end)) {
            while let Some(old) = self.file.next_data(at, d.start.saturating_sub(at))? {
                self.file.zero(old.start, (old.end - old.start) as usize)?;
                at = old.end;
            }
            at = d.end;
        }
        Ok(())
    }

    /// A freed extent that still has its memory: one that was just as long if there is one, or else part of a longer one.
    fn take_kept(&self, len: u64) -> Option<u64> {
        let mut s = self.state.lock();
        let at = s.kept.iter().rposition(|k| k.len() == len).or_else(|| s.kept.iter().rposition(|k| k.len() > len))?;
        Some(s.take_kept(at, len)?.start)
    }

    /// Memory that nobody has zeroed, with one reference, if some was freed a moment ago that is just as long: for who overwrites it all.
    pub fn take_unzeroed(&self, len: u64) -> Option<Extent> {
        let mut s = self.state.lock();
        let at = s.kept.iter().rposition(|k| k.len() == len)?;
        Some(Extent { offset: s.take_kept(at, len)?.start, len })
    }

    /// Zeroed memory with one reference, which is all there, if `owner` has freed some a moment ago that is just as long and was used throughout.
    pub fn take_again(&self, len: u64, owner: u64) -> Option<Extent> {
        let r = {
            let mut s = self.state.lock();
            let at = s.kept.iter().rposition(|k| k.owner == owner && k.len() == len)?;
            s.take_kept(at, len)?
        };
        if self.file.next_data(r.start, len) == Ok(Some(r.clone())) && self.file.zero(r.start, len as usize).is_ok() {
            return Some(Extent { offset: r.start, len });
        }
        let mut s = self.state.lock();
        for f in s.drop_refs(r) {
            s.soil(f);
        }
        None
    }

    /// What of a range holds data, in pieces; `None` if these have more than `most` bytes.
    pub fn data(&self, r: Range<u64>, most: u64) -> Result<Option<Vec<Range<u64>>>> {
        let mut pieces = Vec::new();
        let (mut at, mut bytes) = (r.start, 0);
        while let Some(data) = self.file.next_data(at, r.end - at)? {
            bytes += data.end - data.start;
            if bytes > most {
                return Ok(None);
            }
            at = data.end;
            pieces.push(data);
        }
        Ok(Some(pieces))
    }

    /// Adds a reference to every page of a range.
    pub fn incref(&self, r: Range<u64>) {
        let mut s = self.state.lock();
        debug_assert!(s.refs.covers(r.clone()), "incref of free pages {r:x?}");
        s.refs.update(r, |_, n| n.0 = n.0.saturating_add(1));
    }

    /// Takes a reference away from every page of a range. Nobody may reach a page any more whose last one goes.
    pub fn decref(&self, r: Range<u64>) {
        self.decref_all(std::iter::once(r));
    }

    /// The same for many ranges.
    pub fn decref_all(&self, ranges: impl IntoIterator<Item = Range<u64>>) {
        self.decref_all_of(0, ranges);
    }

    /// The same for ranges of an address space, which may want such memory [again](Self::take_again).
    pub fn decref_all_of(&self, owner: u64, ranges: impl IntoIterator<Item = Range<u64>>) {
        let mut s = self.state.lock();
        for r in ranges {
            for f in s.drop_refs(r) {
                s.keep(f, owner);
            }
        }
        let punch = s.dirty_bytes > DIRTY_BYTES || s.dirty.count() > DIRTY_RANGES;
        let tell = !punch && s.has_garbage() && !std::mem::replace(&mut s.told, true);
        drop(s);
        if punch {
            self.punch(false);
        } else if tell && let Some(freed) = self.freed.get() {
            freed();
        }
    }

    /// Who is told, once, that memory has been freed, and then calls [`give_back`](Self::give_back) a moment later, and again until
    /// that says that nothing is left.
    pub fn when_freed(&self, tell: impl Fn() + Send + Sync + 'static) {
        // A second one would be a mistake of the boot; the first stays.
        let _ = self.freed.set(Box::new(tell));
    }

    /// Gives the host what was freed, but for what has been freed only since the last time. Returns whether anything is left.
    pub fn give_back(&self) -> bool {
        {
            let mut s = self.state.lock();
            while let Some(oldest) = s.kept.front()
                && oldest.round < s.round
            {
                s.spill();
            }
            s.round += 1;
        }
        self.punch(false);
        let mut s = self.state.lock();
        s.told = s.has_garbage();
        s.told
    }

    /// The same for ranges that nobody has written to or read since they were allocated: they need no punching.
    pub fn decref_untouched(&self, ranges: impl IntoIterator<Item = Range<u64>>) {
        let mut s = self.state.lock();
        for r in ranges {
            for f in s.drop_refs(r) {
                s.free.put(f);
            }
        }
    }

    /// Frees the memory of a range whose only owner calls this; it then reads as zero.
    pub fn clear(&self, r: Range<u64>) -> Result {
        Ok(self.file.punch_hole(r.start, r.end - r.start)?)
    }

    /// Frees all that was given back. Happens by itself from time to time.
    pub fn punch_dirty(&self) {
        self.punch(true);
    }

    fn punch(&self, all: bool) {
        let ranges: Vec<Range<u64>> = {
            let mut s = self.state.lock();
            while all && !s.kept.is_empty() {
                s.spill();
            }
            s.dirty_bytes = 0;
            std::mem::take(&mut s.dirty).iter().map(|(r, _)| r).collect()
        };
        // Not under the lock: freeing a gigabyte takes the host a while.
        let clean: Vec<_> = ranges.into_iter().filter(|r| self.punched(r)).collect();
        let mut s = self.state.lock();
        for r in clean {
            s.free.put(r);
        }
    }

    fn punched(&self, r: &Range<u64>) -> bool {
        match self.clear(r.clone()) {
            Ok(()) => true,
            Err(e) => {
                // The offsets are lost, but never handed out with somebody's data in them.
                tracing::error!("cannot free memory {r:x?}: {e}");
                false
            }
        }
    }

    /// The parts of a range in order, and whether one reference alone holds each.
    pub fn sole_owner(&self, r: Range<u64>) -> Vec<(Range<u64>, bool)> {
        let s = self.state.lock();
        let mut parts: Vec<(Range<u64>, bool)> = Vec::new();
        for (part, n) in s.refs.within(r) {
            match parts.last_mut() {
                Some((last, sole)) if last.end == part.start && *sole == (n.0 == 1) => last.end = part.end,
                _ => parts.push((part, n.0 == 1)),
            }
        }
        parts
    }

    /// The memory at `offset`.
    pub fn span(&self, offset: u64, len: usize) -> Result<Span> {
        Ok(self.file.span(offset, len)?)
    }

    /// Bytes of host memory that all extents occupy, freed ones that are not punched yet included.
    pub fn used_bytes(&self) -> u64 {
        self.file.allocated_bytes().unwrap_or(0)
    }

    /// Bytes of a range that occupy host memory.
    pub fn resident(&self, r: Range<u64>) -> u64 {
        let mut n = 0;
        let mut at = r.start;
        while let Ok(Some(data)) = self.file.next_data(at, r.end.saturating_sub(at)) {
            n += data.end - data.start;
            at = data.end;
        }
        n
    }

    /// Offsets that are allocated, with their reference counts: for tests and debugging.
    pub fn extents(&self) -> Vec<(Range<u64>, u32)> {
        self.state.lock().refs.iter().map(|(r, n)| (r, n.0)).collect()
    }
}

impl State {
    /// The first `len` bytes of a kept extent, with one reference.
    fn take_kept(&mut self, at: usize, len: u64) -> Option<Range<u64>> {
        let kept = self.kept.get_mut(at)?;
        let taken = kept.range.start..kept.range.start + len;
        kept.range.start = taken.end;
        if kept.range.is_empty() {
            self.kept.remove(at);
        }
        self.kept_bytes -= len;
        self.refs.insert(taken.clone(), Refs(1));
        Some(taken)
    }

    /// Takes in a range that has no reference any more, and still its memory.
    fn keep(&mut self, r: Range<u64>, owner: u64) {
        let len = r.end - r.start;
        if len > KEPT_EXTENT {
            return self.soil(r);
        }
        self.kept_bytes += len;
        self.kept.push_back(Kept { range: r, round: self.round, owner });
        while self.kept.len() > KEPT_EXTENTS || self.kept_bytes > KEPT_BYTES {
            self.spill();
        }
    }

    /// Lets the oldest kept extent be punched with the others.
    fn spill(&mut self) {
        if let Some(kept) = self.kept.pop_front() {
            self.kept_bytes -= kept.len();
            self.soil(kept.range);
        }
    }

    fn soil(&mut self, r: Range<u64>) {
        self.dirty_bytes += r.end - r.start;
        self.dirty.insert(r, Present);
    }

    fn has_garbage(&self) -> bool {
        self.dirty.count() > 0 || !self.kept.is_empty()
    }

    /// Takes one reference; returns what has none left.
    fn drop_refs(&mut self, r: Range<u64>) -> Vec<Range<u64>> {
        debug_assert!(self.refs.covers(r.clone()), "decref of free pages {r:x?}");
        let mut gone = Vec::new();
        self.refs.update(r, |part, n| {
            n.0 = n.0.saturating_sub(1);
            if n.0 == 0 {
                gone.push(part);
            }
        });
        for g in &gone {
            self.refs.remove(g.clone());
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_reuses() {
        let p = MemoryPool::new(1 << 30).expect("pool");
        let a = p.alloc(8192, Hint::default()).expect("alloc");
        p.file().copy_out(a.offset, b"secret").expect("write");
        p.incref(a.offset..a.offset + 4096);
        assert_eq!(p.sole_owner(a.range()), vec![(a.offset..a.offset + 4096, false), (a.offset + 4096..a.offset + 8192, true)]);
        p.decref(a.range());
        assert_eq!(p.extents(), vec![(a.offset..a.offset + 4096, 1)]);
        p.decref(a.offset..a.offset + 4096);
        assert!(p.extents().is_empty());
        p.punch_dirty();
        assert_eq!(p.used_bytes(), 0);
        let b = p.alloc(4096, Hint { at: Some(a.offset), addr: 0 }).expect("alloc");
        assert_eq!(b.offset, a.offset);
        let mut s = [1; 6];
        p.file().copy_in(b.offset, &mut s).expect("read");
        assert_eq!(s, [0; 6]);
    }

    #[test]
    fn large_ones_are_congruent() {
        let p = MemoryPool::new(1 << 30).expect("pool");
        let addr = 0x7f12_3456_7000;
        let a = p.alloc(5 << 20, Hint { at: None, addr }).expect("alloc");
        assert_eq!(a.offset % HUGE, addr % HUGE);
        assert!(p.alloc(1 << 30, Hint::default()).is_err());
        assert!(p.alloc(u64::MAX - 5, Hint::default()).is_err());
        p.decref_untouched([a.range()]);
        // All of it is one range again.
        assert!(p.alloc((1 << 30) - 4096, Hint::default()).is_ok());
    }

    #[test]
    fn copies_take_freed_memory_and_nothing_else_of_it() {
        let p = MemoryPool::new(1 << 30).expect("pool");
        let old = p.alloc(5 * PAGE_SIZE, Hint::default()).expect("alloc");
        p.file().copy_out(old.offset, &vec![7; 5 * PAGE_SIZE as usize]).expect("write");
        p.decref(old.range());
        let from = p.alloc(5 * PAGE_SIZE, Hint::default()).expect("alloc");
        assert_ne!(from.offset, old.offset);
        for page in [1, 3] {
            p.file().copy_out(from.offset + page * PAGE_SIZE, &[page as u8; 10]).expect("write");
        }
        let data = p.data(from.range(), u64::MAX).expect("data").expect("few");
        assert_eq!(data.len(), 2);
        assert_eq!(p.data(from.range(), PAGE_SIZE).expect("data"), None);
        let copy = p.copy(from.range(), &data, 0).expect("copy");
        assert_eq!(copy.offset, old.offset);
        let mut bytes = vec![0; 5 * PAGE_SIZE as usize];
        p.file().copy_in(copy.offset, &mut bytes).expect("read");
        for (page, content) in bytes.chunks(PAGE_SIZE as usize).enumerate() {
            let value = if page % 2 == 1 { page as u8 } else { 0 };
            assert!(content[..10].iter().all(|&b| b == value) && content[10..].iter().all(|&b| b == 0), "page {page}");
        }
        // A part of a longer one does, too.
        p.decref(copy.range());
        let short = p.copy(from.offset..from.offset + 2 * PAGE_SIZE, &data[..1], 0).expect("copy");
        assert_eq!(short.offset, old.offset);
    }

    #[test]
    fn who_used_all_of_it_gets_it_again_zeroed() {
        let p = MemoryPool::new(1 << 30).expect("pool");
        let [full, sparse] = [4, 6].map(|n| p.alloc(n * PAGE_SIZE, Hint::default()).expect("alloc"));
        p.file().copy_out(full.offset, &vec![7; full.len as usize]).expect("write");
        p.file().copy_out(sparse.offset + PAGE_SIZE, &[7]).expect("write");
        p.decref_all_of(5, [full.range(), sparse.range()]);
        // Not to others, nor another length, nor what would have to be made.
        assert_eq!((p.take_again(full.len, 6), p.take_again(PAGE_SIZE, 5), p.take_again(sparse.len, 5)), (None, None, None));
        assert_eq!(p.take_again(full.len, 5), Some(full));
        assert_eq!(p.take_again(full.len, 5), None);
        let mut bytes = vec![1; full.len as usize];
        p.file().copy_in(full.offset, &mut bytes).expect("read");
        assert!(bytes.iter().all(|&b| b == 0));
        assert_eq!(p.extents(), vec![(full.range(), 1)]);
        p.decref(full.range());
        assert_eq!(p.take_unzeroed(full.len), Some(full));
        p.decref(full.range());
        while p.give_back() {}
        assert_eq!((p.used_bytes(), p.take_unzeroed(full.len)), (0, None));
    }

    #[test]
    fn freed_memory_goes_back() {
        use std::sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        };
        let p = MemoryPool::new(1 << 30).expect("pool");
        let told = Arc::new(AtomicU32::new(0));
        let count = told.clone();
        p.when_freed(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        for len in [PAGE_SIZE, 3 << 20] {
            let a = p.alloc(len, Hint::default()).expect("alloc");
            p.file().copy_out(a.offset, b"x").expect("write");
            p.decref(a.range());
        }
        assert_eq!(told.load(Ordering::Relaxed), 1);
        // The large one goes at once, the small one the next time.
        assert!(p.give_back());
        assert_eq!(p.used_bytes(), PAGE_SIZE);
        assert!(!p.give_back());
        assert_eq!(p.used_bytes(), 0);
        let a = p.alloc(PAGE_SIZE, Hint::default()).expect("alloc");
        p.decref(a.range());
        assert_eq!(told.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn full_pool_punches_and_goes_on() {
        let p = MemoryPool::new(1 << 20).expect("pool");
        for _ in 0..10 {
            let a = p.alloc(600 << 10, Hint::default()).expect("alloc");
            p.decref(a.range());
        }
    }
}
