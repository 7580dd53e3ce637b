//! mprotect(2).

use super::{Mm, State, Vma, VmaFlags, vma::without_write};
use crate::user::UserAddr;
use abi::{PAGE_SIZE, Result, bail, mm::Prot};
use std::ops::Range;

/// Anonymous memory up to this gets its extent when it first becomes accessible.
const WHOLE: u64 = 64 << 30;

impl Mm {
    /// mprotect(2). `grows_down`: PROT_GROWSDOWN, from the beginning of the stack that `addr` is in.
    pub fn mprotect(&self, addr: UserAddr, len: u64, prot: Prot, grows_down: bool) -> Result {
        if !addr.0.is_multiple_of(PAGE_SIZE) {
            bail!(EINVAL, "address is not page-aligned");
        }
        if len == 0 {
            return Ok(());
        }
        let Some(end) = abi::page_up(len).and_then(|l| addr.0.checked_add(l)).filter(|&e| e > addr.0) else {
            bail!(ENOMEM, "length overflows")
        };
        let mut guard = self.state.write();
        let s = &mut *guard;
        let mut at = addr.0;
        let Some((first, vma)) = s.vmas.at_or_after(at) else { bail!(ENOMEM, "nothing is mapped") };
        if grows_down {
            if first.start >= end {
                bail!(ENOMEM, "nothing is mapped");
            }
            if !vma.flags.contains(VmaFlags::GROWSDOWN) {
                bail!(EINVAL, "does not grow down");
            }
            at = first.start;
        } else if first.start > at {
            bail!(ENOMEM, "nothing is mapped at the beginning");
        }
        while at < end {
            // Everything before a hole is changed, as on Linux.
            let Some((range, vma)) = s.vmas.get(at).map(|(r, v)| (r, v.clone())) else { bail!(ENOMEM, "hole at {at:#x}") };
            if vma.flags.contains(VmaFlags::GATE) {
                bail!(ENOMEM, "hole at {at:#x}");
            }
            let part = at..range.end.min(end);
            at = part.end;
            if vma.prot == prot {
                continue;
            }
            if !vma.max_prot.contains(prot) {
                bail!(EACCES, "the file does not allow it");
            }
            let splits = usize::from(part.start > range.start) + usize::from(part.end < range.end);
            if s.vmas.count() + splits > super::MAX_MAP_COUNT {
                bail!(ENOMEM, "too many mappings");
            }
            let mut changed = vma.clone();
            changed.prot = prot;
            if changed.is_data() && !vma.is_data() && s.totals.data.saturating_add(part.end - part.start) > s.limits.data {
                bail!(ENOMEM, "RLIMIT_DATA");
            }
            self.protect_part(s, part, prot)?;
        }
        Ok(())
    }

    /// Changes a range that lies in one VMA.
    fn protect_part(&self, s: &mut State, part: Range<u64>, prot: Prot) -> Result {
        let Some((_, mut vma)) = s.take_vmas(part.clone()).into_iter().next() else { return Ok(()) };
        let old = std::mem::replace(&mut vma.prot, prot);
        let done = self.reprotect_pages(s, &part, &vma, old);
        if done.is_err() {
            vma.prot = old;
        } else if !vma.is_anonymous() {
            self.reprotect_file(s, &part, &mut vma, old);
        }
        s.add_vma(part, vma);
        done
    }

    /// Makes the host's mappings of private pages follow.
    fn reprotect_pages(&self, s: &mut State, part: &Range<u64>, vma: &Vma, old: Prot) -> Result {
        if vma.is_anonymous() && old.is_empty() {
            for gap in s.pages.gaps(part.clone()) {
                // What was only reserved so far.
                if gap.end - gap.start <= WHOLE {
                    self.alloc_pages(s, gap)?;
                }
            }
        }
        let pages: Vec<_> = s.pages.within(part.clone()).collect();
        if vma.prot.is_empty() && vma.is_anonymous() {
            self.host_unmap(s, part);
            return Ok(());
        }
        // Neighbours with the same new protection are changed together.
        let mut pending: Option<(Range<u64>, Prot)> = None;
        for (r, page) in pages {
            let host = |p: Prot| if page.cow { without_write(p) } else { p };
            if old.is_empty() || vma.prot.is_empty() {
                self.host_map_pages(s, &r, page, vma.prot);
                continue;
            }
            if host(old) == host(vma.prot) {
                continue;
            }
            let new = host(vma.prot);
            match &mut pending {
                Some((p, prot)) if p.end == r.start && *prot == new => p.end = r.end,
                _ => {
                    if let Some((p, prot)) = pending.replace((r, new)) {
                        self.host_protect(s, &p, prot);
                    }
                }
            }
        }
        if let Some((p, prot)) = pending {
            self.host_protect(s, &p, prot);
        }
        Ok(())
    }

    /// Makes the host's mappings of a file's own pages follow, where no private pages cover them.
    fn reprotect_file(&self, s: &mut State, part: &Range<u64>, vma: &mut Vma, old: Prot) {
        let host = |p: Prot| if vma.is_shared() { p } else { without_write(p) };
        let (was, is) = (host(old), host(vma.prot));
        if was == is {
            return;
        }
        let filled = vma.flags.contains(VmaFlags::FILLED);
        let gaps = s.pages.gaps(part.clone());
        if is.is_empty() {
            for gap in gaps {
                self.host_unmap(s, &gap);
            }
            vma.flags -= VmaFlags::FILLED;
            return;
        }
        // Pages of a shared mapping may have to be made before they can be written.
        let make = vma.writes_through() && !old.contains(Prot::WRITE);
        if filled && !was.is_empty() && !make {
            for gap in gaps {
                self.host_protect(s, &gap, is);
            }
            return;
        }
        let mut all = true;
        for gap in gaps {
            let mut piece = vma.clone();
            piece.offset += gap.start - part.start;
            self.fill_file(s, gap, &mut piece, true);
            all &= piece.flags.contains(VmaFlags::FILLED);
        }
        vma.flags.set(VmaFlags::FILLED, all);
    }
}
