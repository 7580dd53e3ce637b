//! Where the pages of a file in memory lie: chunks of the memory file, each with a bit for every page that holds data.

use crate::mm::{Extent, Hint, MemoryPool};
use abi::{PAGE_SIZE, Result};
use std::collections::BTreeMap;
use std::ops::Range;

/// The largest chunk, in pages. Offsets of the memory file cost nothing until they are touched.
const MAX_PAGES: u64 = 512;
/// The smallest.
const MIN_PAGES: u64 = 16;

/// Consecutive pages of a file that lie together in the memory file.
pub(super) struct Chunk {
    pub extent: Extent,
    /// A bit for each page that was written.
    present: Vec<u64>,
    /// Mapped at some time: pages may hold data that nobody told us of.
    pub exposed: bool,
}

impl Chunk {
    fn pages(&self) -> u64 {
        self.extent.len / PAGE_SIZE
    }

    fn bit(&self, i: u64) -> bool {
        self.present.get((i / 64) as usize).is_some_and(|w| w >> (i % 64) & 1 != 0)
    }

    /// Whether page `i` of the chunk may hold data.
    fn holds(&self, i: u64) -> bool {
        self.exposed || self.bit(i)
    }

    fn set(&mut self, i: u64, on: bool) {
        if let Some(w) = self.present.get_mut((i / 64) as usize) {
            if on {
                *w |= 1 << (i % 64);
            } else {
                *w &= !(1 << (i % 64));
            }
        }
    }
}

/// The chunks of one file, by the index of their first page.
#[derive(Default)]
pub(super) struct Chunks {
    map: BTreeMap<u64, Chunk>,
    /// Pages with their bit set.
    pub present: u64,
}

/// What a range of a file begins with.
pub(super) enum Piece {
    /// `len` bytes without data.
    Hole(u64),
    /// `len` bytes at this offset of the memory file.
    Data(u64, u64),
}

impl Chunks {
    fn find(&self, page: u64) -> Option<(u64, &Chunk)> {
        let (&first, c) = self.map.range(..=page).next_back()?;
        (page < first + c.pages()).then_some((first, c))
    }

    /// What lies at `offset`, at most `len` bytes of it.
    pub fn at(&self, offset: u64, len: u64) -> Piece {
        let page = offset / PAGE_SIZE;
        let within = offset % PAGE_SIZE;
        let Some((first, c)) = self.find(page) else {
            let end = self.map.range(page..).next().map_or(u64::MAX, |(&next, _)| next.saturating_mul(PAGE_SIZE));
            return Piece::Hole(len.min(end.saturating_sub(offset)));
        };
        let i = page - first;
        let data = c.holds(i);
        let mut n = 1;
        while i + n < c.pages() && c.holds(i + n) == data && n * PAGE_SIZE - within < len {
            n += 1;
        }
        let bytes = len.min(n * PAGE_SIZE - within);
        if data { Piece::Data(c.extent.offset + i * PAGE_SIZE + within, bytes) } else { Piece::Hole(bytes) }
    }

    /// How many pages of the range have their bit not set.
    pub fn missing(&self, pages: Range<u64>) -> u64 {
        let mut have = 0;
        for (&first, c) in self.overlapping(&pages) {
            let r = pages.start.max(first)..pages.end.min(first + c.pages());
            have += r.filter(|p| c.bit(p - first)).count() as u64;
        }
        (pages.end - pages.start).saturating_sub(have)
    }

    fn overlapping(&self, pages: &Range<u64>) -> impl Iterator<Item = (&u64, &Chunk)> {
        let start = self.find(pages.start).map_or(pages.start, |(first, _)| first);
        self.map.range(start..pages.end.max(start))
    }

    /// Makes sure that a chunk covers this page; returns where the chunk's pages from there on lie.
    pub fn ensure(&mut self, pool: &MemoryPool, page: u64) -> Result<(u64, u64)> {
        if let Some((first, c)) = self.find(page) {
            let skip = (page - first) * PAGE_SIZE;
            return Ok((c.extent.offset + skip, c.extent.len - skip));
        }
        let size = if page < MIN_PAGES { MIN_PAGES } else { (1u64 << page.ilog2()).min(MAX_PAGES) };
        let mut start = page - page % size;
        let mut end = start + size;
        let before = self.map.range(..page).next_back().map(|(&f, c)| (f + c.pages(), c.extent.range().end));
        if let Some((stop, _)) = before {
            start = start.max(stop);
        }
        if let Some((&next, _)) = self.map.range(page..).next() {
            end = end.min(next);
        }
        let at = before.filter(|b| b.0 == start).map(|b| b.1);
        let extent = pool.alloc((end - start) * PAGE_SIZE, Hint { at, addr: 0 })?;
        let words = (end - start).div_ceil(64) as usize;
        self.map.insert(start, Chunk { extent, present: vec![0; words], exposed: false });
        let skip = (page - start) * PAGE_SIZE;
        Ok((extent.offset + skip, extent.len - skip))
    }

    /// Sets the bits of pages that chunks cover.
    pub fn mark(&mut self, pages: Range<u64>) {
        let start = self.find(pages.start).map_or(pages.start, |(first, _)| first);
        let mut added = 0;
        for (&first, c) in self.map.range_mut(start..pages.end.max(start)) {
            let stop = pages.end.min(first + c.pages());
            for p in pages.start.max(first)..stop {
                if !c.bit(p - first) {
                    c.set(p - first, true);
                    added += 1;
                }
            }
        }
        self.present += added;
    }

    /// Says that a chunk is mapped: its pages may get data without our knowing.
    pub fn expose(&mut self, page: u64) {
        if let Some((first, _)) = self.find(page) {
            if let Some(c) = self.map.get_mut(&first) {
                c.exposed = true;
            }
        }
    }

    /// Takes data away from whole pages. `keep`: the chunks stay where they are, because they are mapped; otherwise those that
    /// are empty go. Returns how many pages had their bit set, and what the pool is to clear and to free.
    pub fn punch(&mut self, pages: Range<u64>, keep: bool) -> (u64, Vec<Range<u64>>, Vec<Range<u64>>) {
        let (mut gone, mut clear, mut free, mut dead) = (0, Vec::new(), Vec::new(), Vec::new());
        let start = self.find(pages.start).map_or(pages.start, |(first, _)| first);
        for (&first, c) in self.map.range_mut(start..pages.end.max(start)) {
            let (a, b) = (pages.start.max(first) - first, pages.end.min(first + c.pages()) - first);
            let mut run: Option<u64> = None;
            for i in a..=b {
                let data = i < b && c.holds(i);
                if data && c.bit(i) {
                    gone += 1;
                    c.set(i, false);
                }
                match (data, run) {
                    (true, None) => run = Some(i),
                    (false, Some(r)) => {
                        clear.push(c.extent.offset + r * PAGE_SIZE..c.extent.offset + i * PAGE_SIZE);
                        run = None;
                    }
                    _ => {}
                }
            }
            let whole = a == 0 && b == c.pages();
            if !keep && (whole || !c.exposed && c.present.iter().all(|w| *w == 0)) {
                clear.retain(|r| r.start < c.extent.offset || r.start >= c.extent.range().end);
                free.push(c.extent.range());
                dead.push(first);
            }
        }
        for d in dead {
            self.map.remove(&d);
        }
        self.present = self.present.saturating_sub(gone);
        (gone, clear, free)
    }

    /// All ranges of the memory file.
    pub fn extents(&self) -> Vec<Range<u64>> {
        self.map.values().map(|c| c.extent.range()).collect()
    }

    /// Pages that hold data, as far as can be told: the host knows those of exposed chunks.
    pub fn resident(&self, pool: &MemoryPool) -> u64 {
        self.map
            .values()
            .map(|c| {
                if c.exposed {
                    pool.resident(c.extent.range()) / PAGE_SIZE
                } else {
                    c.present.iter().map(|w| u64::from(w.count_ones())).sum()
                }
            })
            .sum()
    }

    /// The next place at or behind `offset` that has data (`data`) or none, below `size`.
    pub fn seek(&self, pool: &MemoryPool, mut offset: u64, size: u64, data: bool) -> Option<u64> {
        while offset < size {
            let (here, end) = self.run(pool, offset, size);
            if here == data {
                return Some(offset);
            }
            offset = end;
        }
        None
    }

    /// Whether there is data at `offset`, and where that changes.
    fn run(&self, pool: &MemoryPool, offset: u64, size: u64) -> (bool, u64) {
        match self.at(offset, size - offset) {
            Piece::Hole(n) => (false, offset + n),
            Piece::Data(at, n) => {
                let exposed = self.find(offset / PAGE_SIZE).is_some_and(|(_, c)| c.exposed);
                if !exposed {
                    return (true, offset + n);
                }
                match pool.file().next_data(at, n) {
                    Ok(Some(r)) if r.start <= at => (true, offset + (r.end - at).min(n)),
                    Ok(Some(r)) => (false, offset + (r.start - at)),
                    Ok(None) => (false, offset + n),
                    Err(_) => (true, offset + n),
                }
            }
        }
    }
}
