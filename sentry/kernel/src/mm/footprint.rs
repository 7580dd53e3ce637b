//! What memory address spaces have together: of what several of them share, each page once.

use super::{MemoryPool, Mm, ObjectId};
use std::collections::HashSet;
use std::ops::Range;

impl Mm {
    /// Adds the parts of the memory file that it has mapped, but for files of the file systems `apart` (by `st_dev`).
    pub fn add_parts(&self, apart: &HashSet<u64>, parts: &mut Vec<Range<u64>>) {
        let s = self.state.read();
        for (r, vma) in s.vmas.iter() {
            parts.extend(s.pages.within(r.clone()).map(|(part, page)| page.offset..page.offset + (part.end - part.start)));
            let Some(backing) = vma.backing.as_ref().filter(|_| !vma.prot.is_empty()) else { continue };
            if matches!(backing.id, ObjectId::Inode { dev, .. } if apart.contains(&dev)) {
                continue;
            }
            for gap in s.pages.gaps(r.clone()) {
                let len = gap.end - gap.start;
                if let Ok(pages) = backing.mappable.pages(vma.offset + (gap.start - r.start), len, false)
                    && pages.is_memory_file
                {
                    parts.push(pages.offset..pages.offset + pages.len.min(len));
                }
            }
        }
    }
}

impl MemoryPool {
    /// Bytes of these ranges that occupy memory; where ranges overlap, they count once.
    pub fn resident_of_all(&self, mut parts: Vec<Range<u64>>) -> u64 {
        parts.sort_unstable_by_key(|part| part.start);
        let mut total = 0;
        let mut run: Option<Range<u64>> = None;
        for part in parts {
            match &mut run {
                Some(run) if part.start <= run.end => run.end = run.end.max(part.end),
                _ => total += run.replace(part).map_or(0, |run| self.resident(run)),
            }
        }
        total + run.map_or(0, |run| self.resident(run))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mm::Hint;

    #[test]
    fn what_is_shared_counts_once() {
        let pool = MemoryPool::new(1 << 30).expect("a pool");
        let extent = pool.alloc(8 * 4096, Hint::default()).expect("memory");
        pool.file().zero(extent.offset, 4 * 4096).expect("written");
        let page = |n: u64| extent.offset + n * 4096;
        assert_eq!(pool.resident_of_all(vec![]), 0);
        assert_eq!(pool.resident_of_all(vec![page(0)..page(8)]), 4 * 4096);
        assert_eq!(pool.resident_of_all(vec![page(2)..page(6), page(0)..page(3), page(0)..page(1), page(2)..page(3)]), 4 * 4096);
        assert_eq!(pool.resident_of_all(vec![page(5)..page(6), page(0)..page(1)]), 4096);
    }
}
