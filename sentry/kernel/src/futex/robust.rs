//! What a thread's end does to futexes: its robust list (set_robust_list(2)), PI locks it owned, and the word that pthread_join waits for.

use super::pi::{OWNER_DIED, TID_MASK, WAITERS};
use crate::mm::Mm;
use crate::task::Task;
use crate::user::{UserAddr, UserRef};
use abi::Result;
use std::sync::atomic::Ordering;

/// Entries looked at, at most: a list may be made into a circle (`ROBUST_LIST_LIMIT`).
const LIMIT: usize = 2048;

/// Marks every lock of the robust list as left by a dead owner, and wakes a waiter of each.
pub fn exit_robust_list(t: &Task) {
    let Some(mm) = t.try_mm() else { return };
    let head = t.robust_list.swap(0, Ordering::Relaxed);
    if head != 0 {
        // A list that cannot be read ends where it cannot.
        let _ = walk(t, &mm, UserAddr(head));
    }
    super::pi::exit_owner(t, &mm);
}

fn pointer(mm: &Mm, at: UserAddr) -> Result<u64> {
    mm.read(UserRef::new(at))
}

/// `struct robust_list_head`: the first entry, the offset from an entry to its futex, and an entry being locked or unlocked. The
/// lowest bit of a pointer marks a PI futex.
fn walk(t: &Task, mm: &Mm, head: UserAddr) -> Result {
    let mut entry = pointer(mm, head)?;
    let offset = pointer(mm, head.offset(8))?;
    let pending = pointer(mm, head.offset(16))?;
    for _ in 0..LIMIT {
        let (at, pi) = (entry & !1, entry & 1 != 0);
        if at == head.0 {
            break;
        }
        let next = pointer(mm, UserAddr(at));
        if at != pending & !1 {
            handle_death(t, mm, UserAddr(at.wrapping_add(offset)), pi, false)?;
        }
        entry = next?;
    }
    if pending & !1 != 0 {
        handle_death(t, mm, UserAddr((pending & !1).wrapping_add(offset)), pending & 1 != 0, true)?;
    }
    Ok(())
}

fn handle_death(t: &Task, mm: &Mm, addr: UserAddr, pi: bool, pending: bool) -> Result {
    loop {
        let word = mm.load_u32(addr)?;
        if pending && !pi && word == 0 {
            // Unlocked, but died before it woke anybody.
            wake_one(t, mm, addr);
            return Ok(());
        }
        if word & TID_MASK != t.tid() as u32 {
            return Ok(());
        }
        if mm.compare_exchange_u32(addr, word, (word & WAITERS) | OWNER_DIED)? != word {
            continue;
        }
        if !pi && word & WAITERS != 0 {
            wake_one(t, mm, addr);
        }
        if pi {
            super::pi::pass_on(t, mm, addr);
        }
        return Ok(());
    }
}

/// Wakes one waiter of the word, whether it was shared or not: the list does not say.
fn wake_one(t: &Task, mm: &Mm, addr: UserAddr) {
    for private in [false, true] {
        if let Ok(key) = mm.futex_key(addr, private)
            && t.kernel().futexes.wake(&key, 1, super::MATCH_ANY).is_ok_and(|n| n > 0)
        {
            return;
        }
    }
}

/// Zeroes the word of CLONE_CHILD_CLEARTID and wakes who waits for it.
pub fn clear_tid(t: &Task, mm: &Mm, addr: u64) {
    let at = UserAddr(addr);
    // As in Linux, an address that cannot be written is ignored.
    if mm.write(UserRef::new(at), &0u32).is_ok() {
        wake_one(t, mm, at);
    }
}
