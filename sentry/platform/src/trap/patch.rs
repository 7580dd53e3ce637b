//! Patched call sites: a site that is called often becomes a jump to a trampoline, which spares the host's signal.
//!
//! The instruction before the `syscall` moves to a trampoline, and its first five bytes become a jump there; the `syscall` stays where it is, so that whoever
//! jumps to it traps as before. An instruction of less than five bytes becomes a short jump to padding nearby that nobody executes, which
//! becomes the jump. Where it is not certain what that instruction is, and where it would do something else in another place, calls keep to the signal.
//!
//! The application's page is never written: a copy with the change takes its place in the stub, by one mapping operation, which is
//! atomic for all threads that execute it. The kernel goes on reading and writing the page as it was, and whatever it maps, unmaps or
//! protects there takes the copy away again. Trampolines are in a page near by which the kernel keeps free (a gate); they are never changed, so
//! that a thread which is on its way through one cannot be disturbed.
//!
//! The copy and the gate are code of the application's like others: nothing is trusted that comes from there.

use super::Shared;
use super::decode;
use super::image::{self, Place, TRAMPOLINE};
use crate::ops::Op;
use crate::{CallSite, HostPage, UserRegs};
use abi::mm::Prot;
use abi::{Errno, PAGE_SIZE};
use host::memfile::MemoryFile;
use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};

/// Traps at a site after which it is patched: what that costs is won back by as many calls again.
const HOT: u32 = 24;
/// Sites that are counted at once.
const COUNTED: usize = 4096;
/// Pages of copies and trampolines that a process may have.
const PAGES: usize = 512;
/// How often a page may be taken away before it is left alone: code that is rewritten all the time.
const RETRIES: u32 = 3;
/// Bytes of memory for all copies and trampolines.
const MEMORY: u64 = 4 << 30;
/// How far a gate may be from a site.
const NEAR: u64 = 0x7fff_0000;
/// What a short jump reaches.
const SHORT: usize = 127;
/// Bytes of a jump.
const JUMP: usize = 5;

/// Memory for copies of pages and for trampolines, shared with all stubs.
#[derive(Debug)]
pub struct PatchMemory {
    memory: MemoryFile,
    /// Pages to be used again, and the first that never was.
    free: Mutex<(Vec<u64>, u64)>,
}

/// A page of it. It must not be dropped before no stub maps it any more.
#[derive(Debug)]
pub struct PatchPage {
    all: Arc<PatchMemory>,
    offset: u64,
}

impl PatchMemory {
    /// Makes the memory.
    pub fn new() -> Result<Arc<PatchMemory>, Errno> {
        Ok(Arc::new(PatchMemory { memory: MemoryFile::new(c"caisson-patches", MEMORY)?, free: Mutex::default() }))
    }

    fn take(self: &Arc<PatchMemory>) -> Option<PatchPage> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let offset = match free.0.pop() {
            Some(o) => o,
            None if free.1 + PAGE_SIZE <= self.memory.len() => {
                free.1 += PAGE_SIZE;
                free.1 - PAGE_SIZE
            }
            None => return None,
        };
        Some(PatchPage { all: Arc::clone(self), offset })
    }
}

impl PatchPage {
    fn map(&self, addr: u64, prot: Prot) -> Op {
        let fd = self.all.memory.fd().as_raw_fd();
        Op::Map { addr, len: PAGE_SIZE, fd, offset: self.offset, prot: (prot | Prot::EXEC) - Prot::WRITE, shared: true, present: true }
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.all.memory.copy_out(self.offset + at, bytes)
    }
}

impl Drop for PatchPage {
    fn drop(&mut self) {
        if self.all.memory.punch_hole(self.offset, PAGE_SIZE).is_ok() {
            self.all.free.lock().unwrap_or_else(PoisonError::into_inner).0.push(self.offset);
        }
    }
}

/// A page whose copy is in its place.
struct Patched {
    /// What the kernel has there.
    original: HostPage,
    bytes: Vec<u8>,
}

/// A page of trampolines. Stays known when the application has mapped something else there: a thread may still be on its way.
struct Gate {
    addr: u64,
    page: usize,
    used: u64,
    gone: bool,
}

/// A patched site.
#[derive(Clone, Copy)]
struct Site {
    /// The address of the instruction that was moved.
    start: u64,
    /// Its length.
    len: u64,
    /// The address of its `syscall`.
    call: u64,
}

/// Where a thread was that did not stand in the application's own code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutBack {
    /// It did.
    Nowhere,
    /// On the way to the instruction that was moved; now it stands before it.
    Before,
    /// Behind that; now it stands before its `syscall`, or behind that.
    Behind,
}

/// The patches of one address space.
#[derive(Default)]
pub struct Patches {
    traps: HashMap<u64, u32>,
    patched: HashMap<u64, Patched>,
    taken_away: HashMap<u64, u32>,
    gates: Vec<Gate>,
    /// By the address of the trampoline.
    sites: HashMap<u64, Site>,
    /// Jumps in padding, with the trampolines that they go to.
    boards: HashMap<u64, u64>,
    pages: Vec<PatchPage>,
}

/// How a site can be changed, by offsets in its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    /// The instruction to be moved.
    start: usize,
    /// Its length.
    len: usize,
    /// Padding for the long jump, if the instruction is too short.
    board: Option<usize>,
}

impl Patches {
    /// Counts a trap of the call before `rip`. Returns whether it should be patched now.
    pub fn count(&mut self, rip: u64) -> bool {
        if self.traps.len() >= COUNTED && !self.traps.contains_key(&rip) {
            self.traps.clear();
        }
        let n = self.traps.entry(rip).or_default();
        *n = n.saturating_add(1);
        *n == HOT
    }

    /// Patches a site. `queue` is told what to map. Returns whether there was something to do.
    pub fn patch(&mut self, shared: &Shared, site: &CallSite<'_>, gate: &mut dyn FnMut(u64) -> Option<u64>, queue: impl Fn(Op)) -> bool {
        self.try_patch(shared, site, gate, queue).is_some()
    }

    fn try_patch(
        &mut self,
        shared: &Shared,
        site: &CallSite<'_>,
        gate: &mut dyn FnMut(u64) -> Option<u64>,
        queue: impl Fn(Op),
    ) -> Option<()> {
        let start = abi::page_down(site.rip);
        if self.taken_away.get(&start).is_some_and(|&n| n > RETRIES) || self.pages.len() + 2 > PAGES {
            return None;
        }
        let mut bytes = match self.patched.get(&start) {
            Some(p) => p.bytes.clone(),
            None => site.bytes.to_vec(),
        };
        let plan = plan(&bytes, (site.rip - start) as usize, site.nr)?;
        let (gate_index, new_gate) = self.gate(shared, start, gate)?;
        let g = self.gates.get(gate_index)?;
        let at = TRAMPOLINE * (g.used + 1);
        let trampoline = g.addr + at;
        let code = image::trampoline(at, bytes.get(plan.start..plan.start + plan.len)?, site.rip);
        self.pages.get(g.page)?.write(at, &code).ok()?;
        // jmp trampoline
        let jump_at = plan.board.unwrap_or(plan.start);
        let distance = i32::try_from(trampoline.wrapping_sub(start + (jump_at + JUMP) as u64).cast_signed()).ok()?;
        let jump = bytes.get_mut(jump_at..jump_at + JUMP)?;
        jump[0] = 0xe9;
        jump[1..].copy_from_slice(&distance.to_le_bytes());
        if let Some(board) = plan.board {
            bytes.get_mut(plan.start..plan.start + 2)?.copy_from_slice(&[0xeb, (board - plan.start - 2) as u8]);
            self.boards.insert(start + board as u64, trampoline);
        }
        let copy = shared.patches.take()?;
        copy.write(0, &bytes).ok()?;
        if let Some(op) = new_gate {
            queue(op);
        }
        queue(copy.map(start, site.host.prot));
        self.pages.push(copy);
        self.sites.insert(trampoline, Site { start: start + plan.start as u64, len: plan.len as u64, call: site.rip - 2 });
        if let Some(g) = self.gates.get_mut(gate_index) {
            g.used += 1;
        }
        self.patched.entry(start).or_insert(Patched { original: site.host, bytes: Vec::new() }).bytes = bytes;
        Some(())
    }

    /// A gate near `page` that has room, or a new one and how to map it.
    fn gate(&mut self, shared: &Shared, page: u64, make: &mut dyn FnMut(u64) -> Option<u64>) -> Option<(usize, Option<Op>)> {
        let room = PAGE_SIZE / TRAMPOLINE - 1;
        if let Some(i) = self.gates.iter().position(|g| !g.gone && g.used < room && g.addr.abs_diff(page) < NEAR) {
            return Some((i, None));
        }
        let memory = shared.patches.take()?;
        memory.write(0, &Place::Call.address().to_le_bytes()).ok()?;
        let addr = make(NEAR).filter(|a| a.abs_diff(page) < NEAR)?;
        let op = memory.map(addr, Prot::READ);
        self.gates.push(Gate { addr, page: self.pages.len(), used: 0, gone: false });
        self.pages.push(memory);
        Some((self.gates.len() - 1, Some(op)))
    }

    /// The kernel maps or unmaps something in this range: what was patched there is gone.
    pub fn replaced(&mut self, addr: u64, len: u64) {
        let end = addr.saturating_add(len);
        let gone: Vec<u64> = self.patched.keys().copied().filter(|p| (addr..end).contains(p)).collect();
        for page in gone {
            self.forget(page);
        }
        let lost: Vec<u64> = self
            .gates
            .iter_mut()
            .filter(|g| !g.gone && (addr..end).contains(&g.addr))
            .map(|g| {
                g.gone = true;
                g.addr
            })
            .collect();
        if !lost.is_empty() {
            tracing::debug!("the application has taken trampolines away: {lost:x?}");
        }
    }

    /// The gates that a range takes away, and the pages that jump to them: these must get their own content back before.
    pub fn before_replacing(&mut self, addr: u64, len: u64, queue: impl Fn(Op)) {
        let range = addr..addr.saturating_add(len);
        if !self.gates.iter().any(|g| !g.gone && range.contains(&g.addr)) {
            return;
        }
        // The application does this on purpose: all its patches go.
        self.restore(0, u64::MAX, None, queue);
    }

    /// The kernel changes the protection of a range: the kernel's own pages take their places again.
    pub fn protected(&mut self, addr: u64, len: u64, prot: Prot, queue: impl Fn(Op)) {
        self.restore(addr, len, Some(prot), queue);
    }

    /// The kernel's own pages take their places again.
    pub fn unpatch(&mut self, addr: u64, len: u64, queue: impl Fn(Op)) {
        self.restore(addr, len, None, queue);
    }

    fn restore(&mut self, addr: u64, len: u64, prot: Option<Prot>, queue: impl Fn(Op)) {
        let range = addr..addr.saturating_add(len);
        let gone: Vec<u64> = self.patched.keys().copied().filter(|p| range.contains(p)).collect();
        for page in gone {
            if let Some(p) = self.patched.get(&page) {
                queue(p.original.map(page, prot.unwrap_or(p.original.prot)));
            }
            self.forget(page);
        }
    }

    fn forget(&mut self, page: u64) {
        self.patched.remove(&page);
        self.boards.retain(|b, _| abi::page_down(*b) != page);
        self.traps.retain(|rip, _| abi::page_down(*rip) != page);
        let n = self.taken_away.entry(page).or_default();
        *n = n.saturating_add(1);
    }

    /// Whether there are any.
    pub fn is_empty(&self) -> bool {
        self.patched.is_empty() && self.gates.is_empty()
    }

    /// A thread was interrupted, or has faulted, with these registers. If it was on the way from a patched site to the sentry or back, it is put to where
    /// it would be without patches.
    pub fn put_back(&self, regs: &mut UserRegs) -> PutBack {
        if image::underway(regs) {
            return PutBack::Behind;
        }
        let at = self.boards.get(&regs.rip).copied().unwrap_or(regs.rip);
        if !self.gates.iter().any(|g| (g.addr..g.addr + PAGE_SIZE).contains(&at)) {
            return PutBack::Nowhere;
        }
        let trampoline = at & !(TRAMPOLINE - 1);
        let Some(site) = self.sites.get(&trampoline) else { return PutBack::Nowhere };
        if at - trampoline < site.len {
            regs.rip = site.start;
            return PutBack::Before;
        }
        regs.rip = site.call;
        PutBack::Behind
    }

    /// What must be kept until the process has ended.
    pub fn into_pages(self) -> Vec<PatchPage> {
        self.pages
    }
}

impl HostPage {
    fn map(&self, addr: u64, prot: Prot) -> Op {
        if prot.is_empty() {
            return Op::Unmap { addr, len: PAGE_SIZE };
        }
        Op::Map { addr, len: PAGE_SIZE, fd: self.fd, offset: self.offset, prot, shared: self.shared, present: false }
    }
}

/// How the call that ends at offset `end` of a page and had number `nr` can be changed. `None`: not at all.
fn plan(page: &[u8], end: usize, nr: u64) -> Option<Plan> {
    let call = end.checked_sub(2)?;
    if page.get(call..end)? != [0x0f, 0x05] {
        return None;
    }
    let (start, instruction) = decode::before(page, call).or_else(|| loads_number(page, call, nr))?;
    let len = instruction.len;
    if !instruction.movable || !(2..=image::LONGEST_MOVED).contains(&len) {
        return None;
    }
    let board = match len {
        JUMP.. => None,
        _ => Some(padding(page, end).filter(|b| b - start - 2 <= SHORT)?),
    };
    Some(Plan { start, len, board })
}

/// `mov eax, nr` near the beginning of a page, where there is not enough before it to be certain without knowing the number.
fn loads_number(page: &[u8], call: usize, nr: u64) -> Option<(usize, decode::Instruction)> {
    let start = call.checked_sub(5)?;
    // A prefix would make it a move to another register.
    let is_bare = start.checked_sub(1).and_then(|p| page.get(p)).is_some_and(|p| !(0x40..0x50).contains(p) && *p != 0x66);
    let number = u32::try_from(nr).ok()?.to_le_bytes();
    let matches = is_bare && *page.get(start)? == 0xb8 && *page.get(start + 1..call)? == number;
    matches.then_some((start, decode::instruction(page.get(start..call)?)?))
}

/// Finds room for a jump behind the end of the function that goes on at offset `at`: bytes between an instruction that never goes on to the next
/// one and the next function or label, which only fill up.
fn padding(page: &[u8], mut at: usize) -> Option<usize> {
    let reach = at + SHORT;
    loop {
        let instruction = decode::instruction(page.get(at..)?)?;
        at += instruction.len;
        if instruction.ends {
            break;
        }
        if at > reach {
            return None;
        }
    }
    let begin = at;
    while at < begin + JUMP {
        at += match page.get(at..)? {
            [0x90 | 0xcc, ..] => 1,
            [0x66, 0x90, ..] => 2,
            [0x0f, 0x1f, 0x00, ..] => 3,
            [0x0f, 0x1f, 0x40, 0, ..] => 4,
            [0x0f, 0x1f, 0x44, 0, 0, ..] => 5,
            [0x66, 0x0f, 0x1f, 0x44, 0, 0, ..] => 6,
            [0x0f, 0x1f, 0x80, 0, 0, 0, 0, ..] => 7,
            [0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0, ..] => 8,
            [0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0, ..] => 9,
            [0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0, ..] => 10,
            _ => return None,
        };
    }
    // All of the jump must lie in this page.
    (begin + JUMP <= page.len()).then_some(begin)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `code` behind enough to be told apart.
    fn page(code: &[u8]) -> Vec<u8> {
        let mut p = vec![0xf4; PAGE_SIZE as usize];
        p[64..64 + code.len()].copy_from_slice(code);
        p
    }

    fn planned(code: &[u8], nr: u64) -> Option<(usize, usize, Option<usize>)> {
        let call = code.windows(2).position(|w| w == [0x0f, 0x05]).expect("a call");
        plan(&page(code), 64 + call + 2, nr).map(|p| (p.start - 64, p.len, p.board.map(|b| b - 64)))
    }

    #[test]
    fn knows_what_can_be_moved() {
        let getpid = [0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xc3];
        assert_eq!(planned(&getpid, 39), Some((0, 5, None)));
        assert_eq!(plan(&page(&getpid), 70, 39), None);
        assert_eq!(planned(&[0x48, 0xc7, 0xc0, 39, 0, 0, 0, 0x0f, 0x05], 39), Some((0, 7, None)));
        // syscall(3) of glibc; its number is in a register.
        let syscall = [0x48, 0x89, 0xf8, 0x4d, 0x89, 0xc8, 0x4c, 0x8b, 0x4c, 0x24, 0x08, 0x0f, 0x05, 0x48, 0x3d];
        assert_eq!(planned(&syscall, 39), Some((6, 5, None)));
        // By its own address; a call; a jump.
        for b in [&[0x48, 0x8b, 0x05, 0, 0, 0, 0, 0x0f, 0x05][..], &[0xe8, 0, 0, 0, 0, 0x0f, 0x05], &[0x0f, 0x84, 0, 0, 0, 0, 0x0f, 0x05]] {
            assert_eq!(planned(b, 39), None);
        }
        // The first bytes of a page: what is before them is not to be seen.
        let mut edge = vec![0x90; PAGE_SIZE as usize];
        edge[..7].copy_from_slice(&[0xb8, 39, 0, 0, 0, 0x0f, 0x05]);
        assert_eq!(plan(&edge, 7, 39), None);
        assert_eq!(plan(&edge, 1, 39), None);
        // A little further on, only the number can make it certain.
        edge[16..23].copy_from_slice(&[0xb8, 39, 0, 0, 0, 0x0f, 0x05]);
        assert!(plan(&edge, 23, 39).is_some());
        assert_eq!(plan(&edge, 23, 40), None);
        edge[15] = 0x41;
        assert_eq!(plan(&edge, 23, 39), None);
    }

    #[test]
    fn short_ones_need_padding() {
        // read of glibc 2.36
        let read = [0x31, 0xc0, 0x0f, 0x05, 0x48, 0x3d, 0, 0xf0, 0xff, 0xff, 0x77, 0x4f, 0xc3, 0x66, 0x0f, 0x1f, 0x44, 0, 0];
        assert_eq!(planned(&read, 0), Some((0, 2, Some(13))));
        // No padding, padding that is too short, something unknown, no return.
        for (i, b) in [(13, 0x55), (13, 0x90), (4, 0x06), (12, 0xf4)] {
            let mut read = read;
            read[i] = b;
            if b == 0x90 {
                read[14] = 0x55;
            }
            assert_eq!(planned(&read, 0), None, "{i}");
        }
        // Too far away for a short jump.
        let far = [&[0x44, 0x89, 0xc0, 0x0f, 0x05][..], &[0x50; 124], &[0xc3], &[0xcc; 8]].concat();
        assert_eq!(planned(&far, 0), None);
        let near = [&[0x44, 0x89, 0xc0, 0x0f, 0x05][..], &[0x50; 100], &[0xc3], &[0xcc; 8]].concat();
        assert_eq!(planned(&near, 0), Some((0, 3, Some(106))));
    }

    #[test]
    fn trampolines_are_as_the_processor_wants_them() {
        let t = image::trampoline(64, &[0x31, 0xc0], 0x1122_3344_5566);
        assert_eq!(t[..4], [0x31, 0xc0, 0x48, 0xb9]);
        assert_eq!(u64::from_le_bytes(t[4..12].try_into().expect("eight")), 0x1122_3344_5566);
        assert_eq!(t[12..14], [0xff, 0x25]);
        assert_eq!(i32::from_le_bytes(t[14..18].try_into().expect("four")), -(64 + 18));
        assert_eq!(image::trampoline(32, &[0x90; image::LONGEST_MOVED], 1)[26..28], [0xff, 0x25]);
    }
}
