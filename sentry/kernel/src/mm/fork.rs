//! fork(2): a child's address space.

use super::{Layout, Mm, Page, State, Vma, VmaFlags, vma::without_write};
use abi::{PAGE_SIZE, Result, mm::Prot};
use platform::Context;
use std::ops::Range;
use std::sync::Arc;

/// So many bytes of one run of pages are copied at fork rather than shared, and so many in all. A copy costs a tenth of a microsecond a page where
/// the memory of an earlier child can be used again, one otherwise; a page that is shared costs whichever side writes to it a fault, and the
/// parent its protection.
const COPY_RUN: u64 = 128 * PAGE_SIZE;
const COPY_ALL: u64 = 384 * PAGE_SIZE;
/// What each run counts at least, so that a process of a thousand small ones does not have them all looked at.
const COPY_LEAST: u64 = 4 * PAGE_SIZE;

impl Mm {
    /// A copy for a child process: a few private pages are copied, if nobody else runs here who could write to them meanwhile (`alone`); the
    /// others are shared with this address space until one of the two writes. Shared mappings stay shared. The parent's shared pages are
    /// write-protected when this returns; `ctx` is a context of this address space.
    pub fn fork(&self, ctx: &mut dyn Context, alone: bool) -> Result<Arc<Mm>> {
        let child = {
            let s = self.state.read();
            let state = State {
                mmap_base: s.mmap_base,
                max_address: s.max_address,
                brk_start: s.brk_start,
                brk: s.brk,
                layout: s.layout.clone(),
                limits: s.limits,
                ..State::empty(s.max_address)
            };
            drop(s);
            Mm::with_state(&self.memory, &self.platform, state)?
        };
        {
            let mut guard = self.state.write();
            // A new address space that nobody else knows.
            let mut child_guard = child.state.write_nested();
            child.aspace.begin_copy(&self.aspace);
            self.copy_to(&mut guard, &child, &mut child_guard, if alone { COPY_ALL } else { 0 });
            child.aspace.end_copy();
        }
        if self.has_barrier() {
            child.register_barrier();
        }
        // Not one write of the parent may reach the child's memory once the child runs.
        ctx.flush(&self.aspace)?;
        Ok(child)
    }

    fn copy_to(&self, s: &mut State, child: &Mm, c: &mut State, mut budget: u64) {
        let vmas: Vec<(Range<u64>, Vma)> = s.vmas.iter().map(|(r, v)| (r, v.clone())).collect();
        for (r, parent) in vmas {
            if parent.flags.intersects(VmaFlags::DONTFORK | VmaFlags::GATE) {
                continue;
            }
            let mut vma = parent.clone();
            // Locks are not inherited.
            vma.flags -= VmaFlags::LOCKED | VmaFlags::LOCKONFAULT;
            if let Some(backing) = &vma.backing {
                backing.mappable.watch(child.me.clone());
            }
            if vma.is_shared() {
                vma.backing = vma.backing.map(|b| b.duplicate());
            }
            if vma.flags.contains(VmaFlags::WIPEONFORK) {
                // Zeroed memory; where there is none left, a fault will try again.
                let _ = child.install(c, r, vma, false);
                continue;
            }
            if !vma.is_anonymous() && !vma.prot.is_empty() {
                child.map_file_gaps(c, &r, &mut vma, s);
            }
            self.give_pages(s, &r, &parent, (child, c), &mut budget);
            c.add_vma(r, vma);
        }
    }

    /// Maps a file's own pages in the child, where the parent has no copies.
    fn map_file_gaps(&self, c: &mut State, r: &Range<u64>, vma: &mut Vma, parent: &State) {
        let gaps = parent.pages.gaps(r.clone());
        let mut filled = true;
        for gap in gaps {
            let mut part = vma.clone();
            part.offset += gap.start - r.start;
            self.fill_file(c, gap, &mut part, false);
            filled &= part.flags.contains(VmaFlags::FILLED);
        }
        vma.flags.set(VmaFlags::FILLED, filled);
    }

    /// Gives the child the private pages of a VMA: copies, or a share in them.
    fn give_pages(&self, s: &mut State, r: &Range<u64>, vma: &Vma, (child, c): (&Mm, &mut State), budget: &mut u64) {
        let mut shared: Vec<(Range<u64>, Page)> = Vec::new();
        for (part, page) in s.pages.within(r.clone()) {
            let writable = vma.prot.contains(Prot::WRITE) && !page.cow;
            match if writable { self.copy_run(&part, page, budget) } else { None } {
                Some((copy, dense)) => {
                    c.pages.insert(part.clone(), copy);
                    child.host_map_pages_as(c, &part, copy, vma.prot, dense);
                }
                None => shared.push((part, page)),
            }
        }
        // Neighbours that were writable are protected together.
        let mut protect: Option<Range<u64>> = None;
        for (part, page) in &shared {
            if page.cow || !vma.prot.contains(Prot::WRITE) {
                continue;
            }
            match &mut protect {
                Some(p) if p.end == part.start => p.end = part.end,
                _ => {
                    if let Some(p) = protect.replace(part.clone()) {
                        self.host_protect(s, &p, without_write(vma.prot));
                    }
                }
            }
        }
        if let Some(p) = protect {
            self.host_protect(s, &p, without_write(vma.prot));
        }
        for (part, page) in &mut shared {
            if !page.cow {
                s.pages.update(part.clone(), |_, p| p.cow = true);
            }
            self.memory.incref(page.offset..page.offset + (part.end - part.start));
            page.cow = true;
            c.pages.insert(part.clone(), *page);
            if !vma.prot.is_empty() {
                child.host_map_pages(c, part, *page, vma.prot);
            }
        }
    }

    /// A copy of a run of pages, if it holds little and the budget allows it, and whether it has memory throughout. What was never touched costs nothing.
    fn copy_run(&self, part: &Range<u64>, page: Page, budget: &mut u64) -> Option<(Page, bool)> {
        let most = (*budget).min(COPY_RUN);
        let from = page.offset..page.offset + (part.end - part.start);
        // Without budget not even what is untouched: nobody has looked whether others write to it meanwhile.
        let data = if most == 0 { None } else { self.memory.data(from.clone(), most).ok()? }?;
        let extent = self.memory.copy(from, &data, part.start).ok()?;
        let copied: u64 = data.iter().map(|d| d.end - d.start).sum();
        *budget = budget.saturating_sub(copied.max(COPY_LEAST));
        Some((Page { offset: extent.offset, cow: false }, copied == part.end - part.start))
    }
}

impl State {
    /// Of an address space without mappings.
    pub(super) fn empty(max_address: u64) -> State {
        State {
            vmas: Default::default(),
            pages: Default::default(),
            shadows: Default::default(),
            totals: Default::default(),
            peak: 0,
            deferred: Default::default(),
            changes: 0,
            mmap_base: max_address,
            max_address,
            brk_start: 0,
            brk: 0,
            layout: Layout::default(),
            limits: Default::default(),
            lock_future: VmaFlags::empty(),
        }
    }
}
