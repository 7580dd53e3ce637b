//! Letting the platform make calls cheaper that are made often: which pages it may change, and where it has room of its own.

use super::{
    Mm, State, Vma, VmaFlags,
    access::{Access, Piece},
};
use abi::{PAGE_SIZE, mm::Prot};
use platform::{CallSite, HostPage};
use std::ops::Range;

/// Pages left free on both sides of a gate, so that it touches nothing.
const ROOM: u64 = 16 * PAGE_SIZE;

impl Mm {
    /// The application calls `nr` often, from before `rip`. The platform may change what its threads find in that page if nobody else can write
    /// it: private code that is not writable. What the sentry reads there, and other mappings of the file, stay as they are.
    pub fn patch_call(&self, rip: u64, nr: u64) {
        let mut guard = self.state.write();
        let s = &mut *guard;
        let page = abi::page_down(rip);
        let Some((range, vma)) = s.vmas.get(page).map(|(r, v)| (r, v.clone())) else { return };
        if vma.is_shared() || !vma.prot.contains(Prot::READ | Prot::EXEC) || vma.prot.contains(Prot::WRITE) {
            return;
        }
        let Some(host) = self.host_page(s, &range, &vma, page) else { return };
        let mut bytes = vec![0; PAGE_SIZE as usize];
        let read = match self.translate(s, page, PAGE_SIZE as usize, Access { write: false, forced: false }) {
            Ok(Piece::Memory { offset, len }) if len == bytes.len() => {
                self.memory.span(offset, len).is_ok_and(|span| span.copy_in(&mut bytes).is_ok())
            }
            Ok(Piece::Window(pinned)) => pinned.span().copy_in(&mut bytes).is_ok(),
            _ => false,
        };
        if !read {
            return;
        }
        let mut gate = |near: u64| self.make_gate(s, page, near);
        if self.aspace.patch(&CallSite { rip, nr, bytes: &bytes, host }, &mut gate) {
            s.changes += 1;
        }
    }

    /// What the host has mapped at a page.
    fn host_page(&self, s: &State, range: &Range<u64>, vma: &Vma, page: u64) -> Option<HostPage> {
        if let Some((found, p)) = s.pages.get(page) {
            return Some(HostPage { fd: self.memory.fd(), offset: p.offset + (page - found.start), prot: vma.prot, shared: true });
        }
        let backing = vma.backing.as_ref()?;
        let pages = backing.mappable.pages(vma.offset + (page - range.start), PAGE_SIZE, false).ok()?;
        Some(HostPage { fd: pages.fd, offset: pages.offset, prot: vma.prot, shared: pages.is_memory_file })
    }

    /// A page for the platform, fewer than `near` bytes from `page`. It counts as mapped, so that nothing else gets there by chance.
    fn make_gate(&self, s: &mut State, page: u64, near: u64) -> Option<u64> {
        if s.too_many_maps() {
            return None;
        }
        let limits = self.address_limits();
        let len = PAGE_SIZE + 2 * ROOM;
        let below = limits.start.max(page.saturating_sub(near - len))..page;
        let above = page..limits.end.min(page.saturating_add(near - len));
        let gap = s.find_gap_down(len, below).or_else(|| s.find_gap_up(len, above))?;
        let at = gap + ROOM;
        s.add_vma(at..at + PAGE_SIZE, Vma::anonymous(Prot::empty(), VmaFlags::GATE | VmaFlags::DONTFORK | VmaFlags::DONTDUMP));
        Some(at)
    }
}
