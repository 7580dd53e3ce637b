//! [`RangeMap`]: values over disjoint ranges of numbers, which split and join. VMAs, pages and the memory file's
//! reference counts are all kept in one.

use std::collections::BTreeMap;
use std::ops::Range;

/// What a range can carry.
pub trait Piece: Clone {
    /// Makes this the value for the part of its range that begins `delta` further on.
    fn advance(&mut self, delta: u64);
    /// Whether `next`, whose range begins where this one of `len` ends, can be one range with this.
    fn continues(&self, len: u64, next: &Self) -> bool;
}

/// Disjoint, non-empty ranges in ascending order.
#[derive(Debug)]
pub struct RangeMap<T> {
    map: BTreeMap<u64, (u64, T)>,
}

impl<T> Default for RangeMap<T> {
    fn default() -> Self {
        RangeMap { map: BTreeMap::new() }
    }
}

impl<T: Piece> RangeMap<T> {
    /// How many ranges there are.
    pub fn count(&self) -> usize {
        self.map.len()
    }

    /// The range that `at` lies in.
    pub fn get(&self, at: u64) -> Option<(Range<u64>, &T)> {
        let (&start, (end, v)) = self.map.range(..=at).next_back()?;
        (*end > at).then_some((start..*end, v))
    }

    /// The range that `at` lies in, or the next above.
    pub fn at_or_after(&self, at: u64) -> Option<(Range<u64>, &T)> {
        self.get(at).or_else(|| self.map.range(at..).next().map(|(&s, (e, v))| (s..*e, v)))
    }

    /// The last range that begins below `at`.
    pub fn before(&self, at: u64) -> Option<(Range<u64>, &T)> {
        self.map.range(..at).next_back().map(|(&s, (e, v))| (s..*e, v))
    }

    /// All ranges, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (Range<u64>, &T)> {
        self.map.iter().map(|(&s, (e, v))| (s..*e, v))
    }

    /// Ranges that begin below `at`, descending.
    pub fn iter_down_from(&self, at: u64) -> impl Iterator<Item = (Range<u64>, &T)> {
        self.map.range(..at).rev().map(|(&s, (e, v))| (s..*e, v))
    }

    /// Ranges that have something in common with `r`, not cut to it.
    pub fn overlapping(&self, r: Range<u64>) -> impl Iterator<Item = (Range<u64>, &T)> {
        let first = self.get(r.start).map_or(r.start, |(found, _)| found.start);
        let end = r.end.max(first);
        self.map.range(first..end).map(|(&s, (e, v))| (s..*e, v))
    }

    /// The parts of `r` that ranges cover, with the values of these parts.
    pub fn within(&self, r: Range<u64>) -> impl Iterator<Item = (Range<u64>, T)> {
        self.overlapping(r.clone()).map(move |(found, v)| {
            let mut v = v.clone();
            let start = found.start.max(r.start);
            v.advance(start - found.start);
            (start..found.end.min(r.end), v)
        })
    }

    /// The parts of `r` that no range covers.
    pub fn gaps(&self, r: Range<u64>) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut at = r.start;
        for (found, _) in self.overlapping(r.clone()) {
            if found.start > at {
                gaps.push(at..found.start);
            }
            at = found.end;
        }
        if at < r.end {
            gaps.push(at..r.end);
        }
        gaps
    }

    /// Makes `at` a border, if it lies within a range.
    fn split(&mut self, at: u64) {
        let Some((&start, (end, v))) = self.map.range_mut(..at).next_back() else { return };
        if *end > at {
            let mut upper = v.clone();
            upper.advance(at - start);
            let upper_end = std::mem::replace(end, at);
            self.map.insert(at, (upper_end, upper));
        }
    }

    /// Joins the range that begins at `at` to the one before, if that one continues.
    fn join(&mut self, at: u64) {
        let Some((end, v)) = self.map.get(&at) else { return };
        let end = *end;
        let Some((&start, (before_end, before))) = self.map.range(..at).next_back() else { return };
        if *before_end == at && before.continues(at - start, v) {
            self.map.remove(&at);
            if let Some((e, _)) = self.map.get_mut(&start) {
                *e = end;
            }
        }
    }

    /// Takes out everything within `r`.
    pub fn remove(&mut self, r: Range<u64>) -> Vec<(Range<u64>, T)> {
        if r.is_empty() {
            return Vec::new();
        }
        self.split(r.start);
        self.split(r.end);
        let starts: Vec<u64> = self.map.range(r).map(|(&s, _)| s).collect();
        starts.into_iter().filter_map(|s| self.map.remove(&s).map(|(e, v)| (s..e, v))).collect()
    }

    /// Puts in a range that nothing in the map overlaps, and joins it to its neighbours where they continue.
    pub fn insert(&mut self, r: Range<u64>, value: T) {
        if r.is_empty() {
            return;
        }
        debug_assert!(self.overlapping(r.clone()).next().is_none(), "ranges overlap");
        self.map.insert(r.start, (r.end, value));
        self.join(r.end);
        self.join(r.start);
    }

    /// Changes the values of everything within `r`, splitting at its edges and joining afterwards.
    pub fn update(&mut self, r: Range<u64>, mut f: impl FnMut(Range<u64>, &mut T)) {
        if r.is_empty() {
            return;
        }
        self.split(r.start);
        self.split(r.end);
        let mut borders = vec![r.end];
        for (&s, (e, v)) in self.map.range_mut(r) {
            f(s..*e, v);
            borders.push(s);
        }
        for at in borders {
            self.join(at);
        }
    }

    /// Whether ranges cover all of `r`.
    pub fn covers(&self, r: Range<u64>) -> bool {
        let mut at = r.start;
        for (found, _) in self.overlapping(r.clone()) {
            if found.start > at {
                return false;
            }
            at = found.end;
        }
        at >= r.end
    }
}

/// The value of ranges that only are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Present;

impl Piece for Present {
    fn advance(&mut self, _: u64) {}
    fn continues(&self, _: u64, _: &Self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct At(u64);
    impl Piece for At {
        fn advance(&mut self, d: u64) {
            self.0 += d;
        }
        fn continues(&self, len: u64, next: &Self) -> bool {
            self.0 + len == next.0
        }
    }

    #[test]
    fn splits_and_joins() {
        let mut m = RangeMap::default();
        m.insert(10..20, At(100));
        m.insert(20..30, At(110));
        assert_eq!(m.count(), 1);
        assert_eq!(m.remove(14..16), vec![(14..16, At(104))]);
        assert_eq!(m.count(), 2);
        assert_eq!(m.gaps(5..35), vec![5..10, 14..16, 30..35]);
        assert_eq!(m.within(12..18).collect::<Vec<_>>(), vec![(12..14, At(102)), (16..18, At(106))]);
        m.insert(14..16, At(104));
        assert_eq!(m.count(), 1);
        assert!(m.covers(10..30) && !m.covers(9..30) && !m.covers(10..31));
        m.update(12..13, |_, v| v.0 = 7);
        assert_eq!(m.count(), 3);
        assert_eq!(m.get(13), Some((13..30, &At(103))));
        assert_eq!(m.at_or_after(0), Some((10..12, &At(100))));
        assert_eq!(m.before(13), Some((12..13, &At(7))));
        assert_eq!(m.overlapping(30..40).count(), 0);
        assert!(m.covers(4..4));
    }
}
