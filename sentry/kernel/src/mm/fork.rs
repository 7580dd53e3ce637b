//! fork(2): a child's address space.

use super::{Layout, Mm, State, Vma, VmaFlags, vma::without_write};
use abi::{Result, mm::Prot};
use platform::Context;
use std::ops::Range;
use std::sync::Arc;

impl Mm {
    /// A copy for a child process: private pages are shared with this address space until one of the two writes, shared mappings
    /// stay shared. The parent's pages are write-protected when this returns; `ctx` is a context of this address space.
    pub fn fork(&self, ctx: &mut dyn Context) -> Result<Arc<Mm>> {
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
            self.copy_to(&mut guard, &child, &mut child_guard);
        }
        if self.has_barrier() {
            child.register_barrier();
        }
        // Not one write of the parent may reach the child's memory once the child runs.
        ctx.flush(&self.aspace)?;
        Ok(child)
    }

    fn copy_to(&self, s: &mut State, child: &Mm, c: &mut State) {
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
            self.share_pages(s, &r, &parent, child, c);
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

    /// Lets the child have the private pages of a VMA, too.
    fn share_pages(&self, s: &mut State, r: &Range<u64>, vma: &Vma, child: &Mm, c: &mut State) {
        let mut pages: Vec<_> = s.pages.within(r.clone()).collect();
        // Neighbours that were writable are protected together.
        let mut protect: Option<Range<u64>> = None;
        for (part, page) in &pages {
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
        s.pages.update(r.clone(), |_, p| p.cow = true);
        for (part, page) in &mut pages {
            self.memory.incref(page.offset..page.offset + (part.end - part.start));
            page.cow = true;
            c.pages.insert(part.clone(), *page);
            if !vma.prot.is_empty() {
                child.host_map_pages(c, part, *page, vma.prot);
            }
        }
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
