//! brk(2), and what execve sets up: the heap's place, the stack.

use super::{GUARD_GAP, Hint, Mm, Shadow, State, Vma, VmaFlags};
use crate::user::UserAddr;
use abi::{PAGE_SIZE, Result, mm::Prot};

/// Memory is reserved for so much of the heap, so that it grows within one host mapping.
const RESERVE: u64 = 256 << 20;

impl Mm {
    /// Sets where the heap begins.
    pub fn init_brk(&self, start: u64) {
        let mut s = self.state.write();
        s.brk_start = start;
        s.brk = start;
    }

    /// Sets below which address mappings go that name none.
    pub fn set_mmap_base(&self, base: u64) {
        self.state.write().mmap_base = base;
    }

    /// brk(2): moves the heap's end, and returns where it is now (unchanged where it cannot move: the call has no errors).
    pub fn brk(&self, to: UserAddr) -> u64 {
        let mut guard = self.state.write();
        let s = &mut *guard;
        let now = s.brk;
        if to.0 < s.brk_start {
            return now;
        }
        let data = s.layout.data.end.saturating_sub(s.layout.data.start);
        if s.limits.data != u64::MAX && (to.0 - s.brk_start).saturating_add(data) > s.limits.data {
            return now;
        }
        let (Some(old), Some(new)) = (abi::page_up(now), abi::page_up(to.0)) else { return now };
        if new < old {
            self.remove(s, new..old);
            self.host_unmap(s, &(new..old));
        } else if new > old && self.grow_heap(s, old, new).is_err() {
            return now;
        }
        s.brk = to.0;
        to.0
    }

    fn grow_heap(&self, s: &mut State, old: u64, new: u64) -> Result {
        let refuse = || abi::error!(ENOMEM, "no room for the heap");
        let limit = self.address_limits().end;
        if new >= limit - PAGE_SIZE || !s.is_free(&(old..new + PAGE_SIZE), 0) || s.too_many_maps() {
            return Err(refuse());
        }
        let mut vma = Vma::anonymous(Prot::READ | Prot::WRITE, s.lock_future);
        let range = old..new;
        s.check_limits(&range, &vma, false)?;
        if s.shadows.get(old).is_none() {
            let reserve = old..new.max(old.saturating_add(RESERVE)).min(limit);
            if let Ok(extent) = self.memory.alloc(reserve.end - reserve.start, Hint { at: None, addr: old }) {
                self.drop_shadows(s, reserve.clone());
                s.shadows.insert(reserve, Shadow { offset: extent.offset });
            }
        }
        vma.name = None;
        self.install(s, range, vma, false)
    }

    /// Maps a stack of `size` bytes that ends at `top` (page-aligned) and grows down. `prot` without EXEC as PT_GNU_STACK says.
    pub fn map_stack(&self, top: u64, size: u64, prot: Prot) -> Result {
        let mut guard = self.state.write();
        let s = &mut *guard;
        let Some(range) = top.checked_sub(size).map(|start| start..top).filter(|r| r.start > GUARD_GAP) else {
            abi::bail!(ENOMEM, "no room for the stack")
        };
        // All that it may grow to is reserved, so that it stays one host mapping.
        let reserve = top.saturating_sub(s.limits.stack.clamp(size, 64 << 20))..top;
        if let Ok(extent) = self.memory.alloc(reserve.end - reserve.start, Hint { at: None, addr: reserve.start }) {
            self.drop_shadows(s, reserve.clone());
            s.shadows.insert(reserve, Shadow { offset: extent.offset });
        }
        self.install(s, range, Vma::anonymous(prot, VmaFlags::GROWSDOWN), false)
    }
}
