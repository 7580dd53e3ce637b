//! mremap(2).

use super::{MAX_MAP_COUNT, Mm, State, Vma, VmaFlags};
use crate::user::UserAddr;
use abi::{PAGE_SIZE, Result, bail};
use bitflags::bitflags;
use std::ops::Range;

bitflags! {
    /// `MREMAP_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RemapFlags: u32 {
        /// May go elsewhere.
        const MAYMOVE = 1;
        /// Goes to the given address, replacing what is there.
        const FIXED = 2;
        /// The old mapping stays, without its pages.
        const DONTUNMAP = 4;
    }
}

impl Mm {
    /// mremap(2). `new_addr` counts with FIXED. Returns the new address. `may_lock`: CAP_IPC_LOCK.
    pub fn mremap(&self, addr: UserAddr, old_len: u64, new_len: u64, flags: RemapFlags, new_addr: UserAddr, may_lock: bool) -> Result<u64> {
        let move_flags = RemapFlags::FIXED | RemapFlags::DONTUNMAP;
        if flags.intersects(move_flags) && !flags.contains(RemapFlags::MAYMOVE) {
            bail!(EINVAL, "cannot move");
        }
        if flags.contains(RemapFlags::DONTUNMAP) && old_len != new_len {
            bail!(EINVAL, "DONTUNMAP cannot resize");
        }
        if !addr.0.is_multiple_of(PAGE_SIZE) {
            bail!(EINVAL, "address is not page-aligned");
        }
        let (Some(old_len), Some(new_len)) = (abi::page_up(old_len), abi::page_up(new_len).filter(|&l| l > 0)) else {
            bail!(EINVAL, "length is zero or overflows")
        };
        let Some(old_end) = addr.0.checked_add(old_len) else { bail!(EINVAL, "old range overflows") };
        let mut guard = self.state.write();
        let s = &mut *guard;
        let Some((range, vma)) = s.vmas.get(addr.0).map(|(r, v)| (r, v.clone())) else { bail!(EFAULT, "nothing is mapped") };
        let to_fixed = flags.contains(RemapFlags::FIXED);
        if to_fixed {
            self.check_target(addr.0..old_end, new_addr.0, new_len)?;
        }
        if s.vmas.count() + 2 >= MAX_MAP_COUNT && flags.intersects(move_flags) {
            bail!(ENOMEM, "too many mappings");
        }
        let old = addr.0..old_end;
        if !flags.intersects(move_flags) && old_len >= new_len {
            let tail = addr.0 + new_len..old_end;
            if !tail.is_empty() {
                self.remove(s, tail.clone());
                self.host_unmap(s, &tail);
            }
            return Ok(addr.0);
        }
        s.check_resize(&range, &vma, &old, new_len, may_lock)?;
        if to_fixed {
            let target = new_addr.0..new_addr.0 + new_len;
            self.remove(s, target.clone());
            self.host_unmap(s, &target);
            let mut old = old;
            if old_len > new_len {
                let tail = addr.0 + new_len..old_end;
                self.remove(s, tail.clone());
                self.host_unmap(s, &tail);
                old.end = tail.start;
            }
            self.move_range(s, old, &range, vma, target.clone(), flags)?;
            return Ok(target.start);
        }
        let end = addr.0 + new_len.max(1);
        if !flags.contains(RemapFlags::DONTUNMAP) && old_len > 0 && old.end == range.end && end <= self.address_limits().end {
            let more = old.end..end;
            if s.is_free(&more, 0) {
                self.extend(s, range, vma, more)?;
                return Ok(addr.0);
            }
        }
        if !flags.contains(RemapFlags::MAYMOVE) {
            bail!(ENOMEM, "no room to grow");
        }
        let Some(start) = s.find_gap(new_len, self.address_limits()) else { bail!(ENOMEM, "no room") };
        self.move_range(s, old, &range, vma, start..start + new_len, flags)?;
        Ok(start)
    }

    fn check_target(&self, old: Range<u64>, new: u64, new_len: u64) -> Result {
        let limits = self.address_limits();
        if !new.is_multiple_of(PAGE_SIZE) || new_len > limits.end || new > limits.end - new_len {
            bail!(EINVAL, "bad target");
        }
        if new < limits.start {
            bail!(EPERM, "below mmap_min_addr");
        }
        if old.end > new && new + new_len > old.start {
            bail!(EINVAL, "target overlaps");
        }
        Ok(())
    }

    /// Makes a VMA longer, where there is room.
    fn extend(&self, s: &mut State, range: Range<u64>, mut vma: Vma, more: Range<u64>) -> Result {
        let mut added = vma.clone();
        if vma.backing.is_some() {
            added.offset += more.start - range.start;
        }
        self.install(s, more.clone(), added, false)?;
        // One VMA of both, also where they did not join (a stack).
        let filled = s.vmas.get(more.start).is_some_and(|(_, v)| v.flags.contains(VmaFlags::FILLED));
        let whole = range.start..more.end;
        let pieces = s.take_vmas(whole.clone());
        if !filled {
            vma.flags -= VmaFlags::FILLED;
        }
        s.add_vma(whole, vma);
        drop(pieces);
        Ok(())
    }

    /// Moves `old`, a part of a VMA, with its memory to the beginning of `new`, where there is nothing. An empty `old`: another
    /// mapping of the same shared object.
    fn move_range(&self, s: &mut State, old: Range<u64>, range: &Range<u64>, vma: Vma, new: Range<u64>, flags: RemapFlags) -> Result {
        let mut moved = vma.clone();
        if moved.backing.is_some() {
            moved.offset += old.start - range.start;
        }
        if !old.is_empty() && flags.contains(RemapFlags::DONTUNMAP) {
            moved.flags -= VmaFlags::LOCKED;
            s.change_vmas(old.clone(), |v| v.flags -= VmaFlags::FILLED);
        }
        let mut carried = old.end - old.start;
        let pages = s.pages.remove(old.clone());
        if vma.is_anonymous() {
            carried = carried.min(new.end - new.start);
            // Room behind what is moved first, so that a failure leaves everything where it is.
            let rest = new.start + carried..new.end;
            if !rest.is_empty() && !moved.prot.is_empty() {
                let hint = pages.last().map(|(r, p)| p.offset + (r.end - r.start));
                match self.memory.alloc(rest.end - rest.start, super::Hint { at: hint, addr: rest.start }) {
                    Ok(extent) => {
                        let page = super::Page { offset: extent.offset, cow: false };
                        s.pages.insert(rest.clone(), page);
                    }
                    Err(e) => {
                        for (r, p) in pages {
                            s.pages.insert(r, p);
                        }
                        return Err(e);
                    }
                }
            }
        }
        if !old.is_empty() {
            if !flags.contains(RemapFlags::DONTUNMAP) {
                let gone = s.take_vmas(old.clone());
                self.defer_vmas(s, gone.into_iter().map(|(_, v)| v));
            }
            self.drop_shadows(s, old.clone());
            self.host_unmap(s, &old);
        }
        for (r, p) in pages {
            s.pages.insert(new.start + (r.start - old.start)..new.start + (r.end - old.start), p);
        }
        if !moved.is_anonymous() && !moved.prot.is_empty() {
            let mut all = true;
            for gap in s.pages.gaps(new.clone()) {
                let mut part = moved.clone();
                part.offset += gap.start - new.start;
                self.fill_file(s, gap, &mut part, false);
                all &= part.flags.contains(VmaFlags::FILLED);
            }
            moved.flags.set(VmaFlags::FILLED, all);
        }
        if !moved.prot.is_empty() {
            for (r, page) in s.pages.within(new.clone()).collect::<Vec<_>>() {
                self.host_map_pages(s, &r, page, moved.prot);
            }
        }
        s.add_vma(new, moved);
        Ok(())
    }
}

impl State {
    /// `vma_to_resize` of Linux.
    fn check_resize(&self, range: &Range<u64>, vma: &Vma, old: &Range<u64>, new_len: u64, may_lock: bool) -> Result {
        let old_len = old.end - old.start;
        if old_len == 0 && !vma.is_shared() {
            bail!(EINVAL, "a private mapping cannot be duplicated");
        }
        if old.end > range.end {
            bail!(EFAULT, "old range leaves its mapping");
        }
        let Some(more) = new_len.checked_sub(old_len).filter(|&m| m > 0) else { return Ok(()) };
        if vma.backing.is_some() && (vma.offset + (old.start - range.start)).checked_add(new_len).is_none_or(|e| e > i64::MAX as u64) {
            bail!(EINVAL, "offset overflows");
        }
        if vma.flags.contains(VmaFlags::LOCKED) && !may_lock && self.totals.locked.saturating_add(more) > self.limits.memlock {
            bail!(EAGAIN, "RLIMIT_MEMLOCK");
        }
        self.check_expand(more, vma)
    }
}
