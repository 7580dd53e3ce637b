//! Memory of one process: [`Mm`].
//!
//! An address space is a map of [`Vma`]s (what the application asked for), a map of [`Page`]s (private memory that it has, extents
//! of the [`MemoryPool`]), and the platform's mappings, which follow. Private anonymous memory gets its extent and one host
//! mapping when it is mapped; after that a first touch is the host's business alone. Pages of files are mapped from their own
//! descriptor and copied on write; fork shares pages and write-protects both sides.
//!
//! `map` places, maps and unmaps; `protect`, `remap`, `advise`, `brk` are the other calls; `fault` answers page faults and
//! breaks copy-on-write; `patch` lets the platform change code; `access` is how the sentry reads and writes; `fork` copies; `show` writes /proc.

mod access;
mod advise;
mod brk;
mod fault;
mod footprint;
mod fork;
mod map;
pub mod memory;
mod patch;
mod protect;
pub mod ranges;
mod remap;
mod shared;
mod show;
#[cfg(test)]
pub(crate) mod tests;
pub mod vma;

pub use access::FutexKey;
pub use advise::Advice;
pub use map::{Anonymous, MapRequest, MapSource, Placement};
pub use memory::{Extent, Hint, MemoryPool};
pub use remap::RemapFlags;
pub use shared::SharedMemory;
pub use show::VmSizes;
pub use vma::{Backing, ObjectId, Vma, VmaFlags};

use crate::task::{CpuShares, CpuTime};
use crate::{user::UserAddr, vfs::File};
use abi::{PAGE_SIZE, Result, mm::Prot};
use platform::{AddressSpace, Context, Platform};
use ranges::RangeMap;
use std::ops::Range;
use std::os::fd::RawFd;
use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, AtomicU64, Ordering},
};
use sync::{Rank, RwLock};
use vma::{Page, Shadow, without_write};

/// The most VMAs of a process (vm.max_map_count).
pub const MAX_MAP_COUNT: usize = 65_530;
/// The lowest address that may be mapped (vm.mmap_min_addr).
pub const MMAP_MIN_ADDR: u64 = 65_536;
/// Unmapped space kept below a stack.
const GUARD_GAP: u64 = 256 * PAGE_SIZE;

/// Resource limits that concern memory; `u64::MAX` is RLIM_INFINITY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemLimits {
    /// RLIMIT_AS
    pub address_space: u64,
    /// RLIMIT_DATA
    pub data: u64,
    /// RLIMIT_STACK
    pub stack: u64,
    /// RLIMIT_MEMLOCK
    pub memlock: u64,
}

impl Default for MemLimits {
    fn default() -> Self {
        MemLimits { address_space: u64::MAX, data: u64::MAX, stack: 8 << 20, memlock: 8 << 20 }
    }
}

/// Where execve put things; shown in /proc.
#[derive(Clone, Default)]
pub struct Layout {
    /// Argument strings (`/proc/PID/cmdline`).
    pub args: Range<u64>,
    /// Environment strings (`/proc/PID/environ`).
    pub env: Range<u64>,
    /// The auxiliary vector's entries (`/proc/PID/auxv`).
    pub auxv: Vec<(u64, u64)>,
    /// The program's code.
    pub code: Range<u64>,
    /// The program's data.
    pub data: Range<u64>,
    /// The stack pointer at entry.
    pub start_stack: u64,
    /// The program (`/proc/PID/exe`).
    pub exe: Option<Arc<File>>,
}

/// Bytes mapped, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    total: u64,
    locked: u64,
    data: u64,
    stack: u64,
}

/// What must outlive the host mappings that the platform has been told to remove.
#[derive(Default)]
struct Deferred {
    extents: Vec<Range<u64>>,
    backings: Vec<Arc<Backing>>,
}

struct State {
    vmas: RangeMap<Vma>,
    pages: RangeMap<Page>,
    shadows: RangeMap<Shadow>,
    totals: Totals,
    peak: u64,
    deferred: Deferred,
    /// Counts changes of what the host has mapped.
    changes: u64,
    /// Mappings without an address go below this.
    mmap_base: u64,
    /// One past the highest address.
    max_address: u64,
    brk_start: u64,
    brk: u64,
    layout: Layout,
    limits: MemLimits,
    /// mlockall(MCL_FUTURE): flags of new mappings.
    lock_future: VmaFlags,
}

/// An address space: VMAs, pages, the platform's mappings (`struct mm_struct`).
pub struct Mm {
    me: Weak<Mm>,
    id: u64,
    memory: Arc<MemoryPool>,
    platform: Arc<dyn Platform>,
    aspace: Arc<dyn AddressSpace>,
    /// Whether `State::deferred` holds anything.
    has_deferred: AtomicBool,
    /// membarrier(2): registered for private barriers.
    barrier: AtomicBool,
    /// Several processes have run in it at once.
    crowded: AtomicBool,
    cpu: CpuShares,
    state: RwLock<State>,
}

/// Makes all threads of the application pass a memory barrier; `now` false: only whether that is possible.
pub fn host_barrier(now: bool) -> Result {
    Ok(host::process::barrier(now)?)
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Mm {
    /// An empty address space.
    pub fn new(memory: &Arc<MemoryPool>, platform: &Arc<dyn Platform>) -> Result<Arc<Mm>> {
        Self::with_state(memory, platform, State::empty(platform.limits().max_address))
    }

    fn with_state(memory: &Arc<MemoryPool>, platform: &Arc<dyn Platform>, state: State) -> Result<Arc<Mm>> {
        Ok(Self::build(memory, platform, state, platform.new_address_space()?))
    }

    fn build(memory: &Arc<MemoryPool>, platform: &Arc<dyn Platform>, state: State, aspace: Arc<dyn AddressSpace>) -> Arc<Mm> {
        Arc::new_cyclic(|me| Mm {
            me: me.clone(),
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            memory: memory.clone(),
            platform: platform.clone(),
            aspace,
            has_deferred: AtomicBool::new(false),
            barrier: AtomicBool::new(false),
            crowded: AtomicBool::new(false),
            cpu: CpuShares::default(),
            state: RwLock::new(Rank::Mm, state),
        })
    }

    /// The memory of a task that has ended: nothing is mapped, and nothing runs there.
    pub fn none(memory: &Arc<MemoryPool>, platform: &Arc<dyn Platform>) -> Arc<Mm> {
        Self::build(memory, platform, State::empty(0), Arc::new(NoSpace))
    }

    /// A number that no other address space of the sandbox has had.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The platform's side: what contexts switch to.
    pub fn address_space(&self) -> &Arc<dyn AddressSpace> {
        &self.aspace
    }

    /// The memory that private pages come from.
    pub fn memory(&self) -> &Arc<MemoryPool> {
        &self.memory
    }

    /// A task will run here: to be called by its creator, or by itself.
    pub(crate) fn join_cpu(&self, task: &Arc<CpuTime>) {
        self.cpu.join(task, || self.aspace.cpu_ns());
    }

    /// A task will run here no more.
    pub(crate) fn leave_cpu(&self, task: &Arc<CpuTime>) {
        self.cpu.leave(task, || self.aspace.cpu_ns());
    }

    /// Shares out the CPU time used here until now among the tasks.
    pub(crate) fn settle_cpu(&self) {
        self.cpu.settle(|| self.aspace.cpu_ns());
    }

    /// Carries out what is queued, and then frees the memory that was unmapped. To be called by a task before it runs
    /// application code; costs nothing where nothing was unmapped.
    pub fn sync(&self, ctx: &mut dyn Context) -> Result {
        if !self.has_deferred.load(Ordering::Acquire) {
            return Ok(());
        }
        let deferred = {
            let mut s = self.state.write();
            self.has_deferred.store(false, Ordering::Release);
            std::mem::take(&mut s.deferred)
        };
        if let Err(e) = ctx.flush(&self.aspace) {
            let mut s = self.state.write();
            s.deferred.extents.extend(deferred.extents);
            s.deferred.backings.extend(deferred.backings);
            self.has_deferred.store(true, Ordering::Release);
            return Err(e.into());
        }
        self.memory.decref_all_of(self.id, deferred.extents);
        Ok(())
    }

    /// Resource limits from now on: to be told at setrlimit(2) and execve(2).
    pub fn set_limits(&self, limits: MemLimits) {
        self.state.write().limits = limits;
    }

    /// Registers for MEMBARRIER_CMD_PRIVATE_EXPEDITED.
    pub fn register_barrier(&self) {
        self.barrier.store(true, Ordering::Relaxed);
    }

    /// Another process runs here from now on, beside the calling one.
    pub fn set_crowded(&self) {
        self.crowded.store(true, Ordering::Relaxed);
    }

    /// Whether that ever was so.
    pub fn is_crowded(&self) -> bool {
        self.crowded.load(Ordering::Relaxed)
    }

    /// Whether that was done.
    pub fn has_barrier(&self) -> bool {
        self.barrier.load(Ordering::Relaxed)
    }

    /// The limits in force.
    pub fn limits(&self) -> MemLimits {
        self.state.read().limits
    }

    /// What execve recorded.
    pub fn layout(&self) -> Layout {
        self.state.read().layout.clone()
    }

    /// Changes what /proc shows of the program: the loader records it, prctl(PR_SET_MM) changes it.
    pub fn update_layout(&self, f: impl FnOnce(&mut Layout)) {
        f(&mut self.state.write().layout);
    }

    /// The lowest and one past the highest address that can be mapped.
    pub fn address_limits(&self) -> Range<u64> {
        let l = self.platform.limits();
        l.min_address.max(MMAP_MIN_ADDR)..l.max_address
    }
}

impl Drop for Mm {
    fn drop(&mut self) {
        // No context runs here any more, or somebody would hold the address space.
        let (pages, shadows, deferred, vmas) = {
            let mut s = self.state.write();
            let s = &mut *s;
            (std::mem::take(&mut s.pages), std::mem::take(&mut s.shadows), std::mem::take(&mut s.deferred), std::mem::take(&mut s.vmas))
        };
        let freed = pages.iter().map(|(r, p)| p.offset..p.offset + (r.end - r.start)).chain(deferred.extents);
        self.memory.decref_all(freed);
        self.memory.decref_untouched(shadows.iter().map(|(r, s)| s.offset..s.offset + (r.end - r.start)));
        // Files are closed here, without our lock.
        drop(vmas);
    }
}

impl State {
    fn count(&mut self, r: &Range<u64>, v: &Vma, add: bool) {
        if v.flags.contains(VmaFlags::GATE) {
            return;
        }
        let len = r.end - r.start;
        let t = &mut self.totals;
        let apply = |n: &mut u64, when: bool| {
            if when {
                *n = if add { n.saturating_add(len) } else { n.saturating_sub(len) };
            }
        };
        apply(&mut t.total, true);
        apply(&mut t.locked, v.flags.contains(VmaFlags::LOCKED));
        apply(&mut t.data, v.is_data());
        apply(&mut t.stack, v.flags.contains(VmaFlags::GROWSDOWN));
        self.peak = self.peak.max(t.total);
    }

    /// Adds a VMA where there is none.
    fn add_vma(&mut self, r: Range<u64>, v: Vma) {
        self.count(&r, &v, true);
        self.vmas.insert(r, v);
    }

    /// Takes out all VMAs within `r`, split at its edges.
    fn take_vmas(&mut self, r: Range<u64>) -> Vec<(Range<u64>, Vma)> {
        let taken = self.vmas.remove(r);
        for (r, v) in &taken {
            self.count(r, v, false);
        }
        taken
    }

    /// Changes all VMAs within `r`.
    fn change_vmas(&mut self, r: Range<u64>, mut f: impl FnMut(&mut Vma)) {
        for (r, mut v) in self.take_vmas(r) {
            f(&mut v);
            self.add_vma(r, v);
        }
    }

    /// Whether splitting at the edges of `r`, and one VMA more, would be one too many.
    fn too_many_maps(&self) -> bool {
        self.vmas.count() + 1 > MAX_MAP_COUNT
    }
}

/// The host's side of changes; each counts as one.
impl Mm {
    /// Maps private pages.
    fn host_map_pages(&self, s: &mut State, r: &Range<u64>, page: Page, prot: Prot) {
        self.host_map_pages_as(s, r, page, prot, false);
    }

    /// The same; `present`: there is memory for all of them, and they will be used.
    fn host_map_pages_as(&self, s: &mut State, r: &Range<u64>, page: Page, prot: Prot, present: bool) {
        let prot = if page.cow { without_write(prot) } else { prot };
        let len = r.end - r.start;
        s.changes += 1;
        if prot.is_empty() {
            self.aspace.unmap(r.start, len);
        } else if present {
            self.aspace.map_present(r.start, len, self.memory.fd(), page.offset, prot);
        } else {
            self.aspace.map(r.start, len, self.memory.fd(), page.offset, prot, true);
        }
    }

    fn host_unmap(&self, s: &mut State, r: &Range<u64>) {
        if !r.is_empty() {
            s.changes += 1;
            self.aspace.unmap(r.start, r.end - r.start);
        }
    }

    fn host_protect(&self, s: &mut State, r: &Range<u64>, prot: Prot) {
        s.changes += 1;
        self.aspace.protect(r.start, r.end - r.start, prot);
    }

    /// Gives memory back as soon as the platform has flushed.
    fn defer_extents(&self, s: &mut State, extents: impl IntoIterator<Item = Range<u64>>) {
        s.deferred.extents.extend(extents);
        self.has_deferred.store(true, Ordering::Release);
    }

    /// Lets go of a VMA's file as soon as the platform has flushed: what is queued may name its descriptor. (Nor may a file be
    /// closed under our lock.)
    fn defer_vmas(&self, s: &mut State, vmas: impl IntoIterator<Item = Vma>) {
        for backing in vmas.into_iter().filter_map(|v| v.backing) {
            s.deferred.backings.push(backing);
            self.has_deferred.store(true, Ordering::Release);
        }
    }

    /// Takes out all private pages within `r`, to be freed after the flush. The host mapping is the caller's business.
    fn drop_pages(&self, s: &mut State, r: Range<u64>) {
        let gone = s.pages.remove(r);
        if !gone.is_empty() {
            self.defer_extents(s, gone.into_iter().map(|(r, p)| p.offset..p.offset + (r.end - r.start)));
        }
    }

    /// Gives up reserved memory within `r`.
    fn drop_shadows(&self, s: &mut State, r: Range<u64>) {
        let gone = s.shadows.remove(r);
        self.memory.decref_untouched(gone.into_iter().map(|(r, sh)| sh.offset..sh.offset + (r.end - r.start)));
    }
}

/// The address space of what never runs.
struct NoSpace;

impl AddressSpace for NoSpace {
    fn map(&self, _: u64, _: u64, _: RawFd, _: u64, _: Prot, _: bool) {}
    fn unmap(&self, _: u64, _: u64) {}
    fn protect(&self, _: u64, _: u64, _: Prot) {}
    fn is_dirty(&self) -> bool {
        false
    }
    fn cpu_ns(&self) -> u64 {
        0
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

/// The page that an address lies in.
fn page_of(addr: UserAddr) -> u64 {
    abi::page_down(addr.0)
}
