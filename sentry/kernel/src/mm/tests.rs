//! Address spaces over a platform that only records, with an application that is simulated page by page.

use super::*;
use crate::user::UserRange;
use crate::vfs::{Mappable, MappedPages};
use abi::{Errno, mm::MapFlags, signal::Signal};
use platform::{Event, Fault, FpState, Interrupt, Limits, UserRegs};
use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::sync::Mutex as StdMutex;

const RW: Prot = Prot::READ.union(Prot::WRITE);
const P: u64 = PAGE_SIZE;

#[derive(Clone, Copy, Debug, PartialEq)]
struct HostPage {
    fd: RawFd,
    offset: u64,
    prot: Prot,
    shared: bool,
}

#[derive(Default)]
struct FakeSpace {
    pages: StdMutex<BTreeMap<u64, HostPage>>,
    ops: StdMutex<Vec<String>>,
}

impl FakeSpace {
    fn at(&self, addr: u64) -> Option<HostPage> {
        self.pages.lock().unwrap().get(&abi::page_down(addr)).copied()
    }
    fn take_ops(&self) -> Vec<String> {
        std::mem::take(&mut self.ops.lock().unwrap())
    }
}

impl AddressSpace for FakeSpace {
    fn map(&self, addr: u64, len: u64, fd: RawFd, offset: u64, prot: Prot, shared: bool) {
        assert!(addr % P == 0 && len % P == 0 && len > 0 && offset % P == 0);
        self.ops.lock().unwrap().push(format!("map {len:#x} {prot:?}"));
        let mut pages = self.pages.lock().unwrap();
        // Huge ranges are only recorded where tests look.
        for i in (0..len.min(64 << 20)).step_by(P as usize) {
            pages.insert(addr + i, HostPage { fd, offset: offset + i, prot, shared });
        }
    }
    fn unmap(&self, addr: u64, len: u64) {
        self.ops.lock().unwrap().push(format!("unmap {len:#x}"));
        self.pages.lock().unwrap().retain(|&a, _| a < addr || a >= addr + len);
    }
    fn protect(&self, addr: u64, len: u64, prot: Prot) {
        self.ops.lock().unwrap().push(format!("protect {len:#x} {prot:?}"));
        let mut pages = self.pages.lock().unwrap();
        for i in (0..len.min(64 << 20)).step_by(P as usize) {
            pages.get_mut(&(addr + i)).expect("protect of what is not mapped").prot = prot;
        }
    }
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

pub(crate) struct FakePlatform;

impl Platform for FakePlatform {
    fn name(&self) -> &'static str {
        "fake"
    }
    fn limits(&self) -> Limits {
        Limits { min_address: P, max_address: 0x7fff_f000_0000, fp_state_size: 0, xfeatures: 0 }
    }
    fn new_address_space(&self) -> Result<Arc<dyn AddressSpace>, Errno> {
        Ok(Arc::new(FakeSpace::default()))
    }
    fn new_context(&self) -> Result<Box<dyn Context>, Errno> {
        Ok(Box::new(FakeContext))
    }
}

struct FakeContext;

impl Context for FakeContext {
    fn flush(&mut self, _: &Arc<dyn AddressSpace>) -> Result<(), Errno> {
        Ok(())
    }
    fn switch(&mut self, _: &Arc<dyn AddressSpace>, _: &mut UserRegs) -> Event {
        Event::Lost
    }
    fn prepare_sibling(&mut self, _: &Arc<dyn AddressSpace>) -> Result<(), Errno> {
        Ok(())
    }
    fn fp_state(&mut self) -> FpState {
        FpState::default()
    }
    fn set_fp_state(&mut self, _: &FpState) -> Result<(), Errno> {
        Ok(())
    }
    fn reset_fp_state(&mut self) {}
    fn interrupter(&self) -> Arc<dyn Interrupt> {
        struct Nothing;
        impl Interrupt for Nothing {
            fn interrupt(&self) {}
        }
        Arc::new(Nothing)
    }
}

fn setup() -> (Arc<MemoryPool>, Arc<Mm>) {
    let pool = Arc::new(MemoryPool::new(64 << 30).expect("pool"));
    let platform: Arc<dyn Platform> = Arc::new(FakePlatform);
    let mm = Mm::new(&pool, &platform).expect("mm");
    (pool, mm)
}

fn space(mm: &Mm) -> &FakeSpace {
    mm.address_space().as_any().downcast_ref().expect("fake")
}

fn anon(mm: &Mm, pages: u64, prot: Prot) -> u64 {
    mm.mmap(UserAddr::NULL, pages * P, prot, MapFlags::PRIVATE | MapFlags::ANONYMOUS, None, 0, false).expect("mmap")
}

fn anon_at(mm: &Mm, addr: u64, pages: u64, prot: Prot, more: MapFlags) -> Result<u64> {
    mm.mmap(UserAddr(addr), pages * P, prot, MapFlags::PRIVATE | MapFlags::ANONYMOUS | more, None, 0, false)
}

/// What a store or load instruction does; `Err`: the signal and its code.
fn touch(mm: &Mm, addr: u64, store: Option<u8>) -> Result<u8, (Signal, i32)> {
    for _ in 0..4 {
        let want = if store.is_some() { Prot::WRITE } else { Prot::READ };
        let page = space(mm).at(addr);
        if let Some(h) = page
            && h.prot.contains(want)
        {
            assert_eq!(h.fd, mm.memory().fd());
            let at = h.offset + addr % P;
            let mut b = [0];
            if let Some(v) = store {
                mm.memory().file().copy_out(at, &[v]).expect("store");
            }
            mm.memory().file().copy_in(at, &mut b).expect("load");
            return Ok(b[0]);
        }
        let code = if page.is_some() { fault::SEGV_ACCERR } else { fault::SEGV_MAPERR };
        let f = Fault { signal: Signal::SEGV, code, addr, access: Prot::empty(), present: false };
        mm.handle_fault(&f).map_err(|f| (f.signal, f.code))?;
    }
    panic!("fault does not go away");
}

/// References that the address spaces hold are exactly those that the pool counts.
fn check_references(pool: &MemoryPool, mms: &[&Arc<Mm>]) {
    let mut want: BTreeMap<u64, u32> = BTreeMap::new();
    for mm in mms {
        let s = mm.state.read();
        let pages = s.pages.iter().map(|(r, p)| p.offset..p.offset + (r.end - r.start));
        let shadows = s.shadows.iter().map(|(r, p)| p.offset..p.offset + (r.end - r.start));
        for e in pages.chain(shadows).chain(s.deferred.extents.iter().cloned()) {
            for o in e.step_by(P as usize) {
                *want.entry(o).or_default() += 1;
            }
        }
        // Private pages lie in VMAs, and what the host may write nobody else has.
        for (r, p) in s.pages.iter() {
            assert!(s.vmas.covers(r.clone()));
            for a in r.clone().step_by(P as usize) {
                if let Some(h) = space(mm).at(a) {
                    assert_eq!(h.offset, p.offset + (a - r.start));
                    assert!(!(p.cow && h.prot.contains(Prot::WRITE)), "writable copy-on-write page");
                }
            }
        }
        for &a in space(mm).pages.lock().unwrap().keys() {
            assert!(s.vmas.get(a).is_some(), "host mapping without a VMA");
        }
    }
    let mut have: BTreeMap<u64, u32> = BTreeMap::new();
    for (r, n) in pool.extents() {
        for o in r.step_by(P as usize) {
            have.insert(o, n);
        }
    }
    assert_eq!(want, have);
}

fn errno<T: std::fmt::Debug>(r: Result<T>) -> Errno {
    r.expect_err("should fail").errno()
}

#[test]
fn one_mapping_for_anonymous_memory() {
    let (pool, mm) = setup();
    let a = anon(&mm, 1000, RW);
    assert_eq!(space(&mm).take_ops(), ["map 0x3e8000 Prot(READ | WRITE)"]);
    mm.copy_out(UserAddr(a + P - 2), b"hello").expect("copy_out");
    assert_eq!(touch(&mm, a + P, None), Ok(b'l'));
    // A second one continues the first, in memory too.
    let b = anon(&mm, 10, RW);
    assert_eq!(b + 10 * P, a);
    assert_eq!(mm.map_count(), 1);
    assert_eq!(mm.state.read().pages.count(), 1);
    mm.munmap(UserAddr(b), 1010 * P).expect("munmap");
    assert_eq!(mm.map_count(), 0);
    mm.sync(&mut FakeContext).expect("sync");
    assert!(pool.extents().is_empty());
    assert_eq!(touch(&mm, a, None), Err((Signal::SEGV, fault::SEGV_MAPERR)));
    assert_eq!(errno(mm.copy_out(UserAddr(a), b"x")), Errno::EFAULT);
}

#[test]
fn mmap_errors() {
    let (_pool, mm) = setup();
    let flags = MapFlags::PRIVATE | MapFlags::ANONYMOUS;
    let map = |addr: u64, len: u64, more: MapFlags| mm.mmap(UserAddr(addr), len, RW, flags | more, None, 0, false);
    assert_eq!(errno(map(0, 0, MapFlags::empty())), Errno::EINVAL);
    assert_eq!(errno(map(0, u64::MAX, MapFlags::empty())), Errno::ENOMEM);
    assert_eq!(errno(map(0, 1 << 47, MapFlags::empty())), Errno::ENOMEM);
    assert_eq!(errno(map(P + 1, P, MapFlags::FIXED)), Errno::EINVAL);
    assert_eq!(errno(map(P, P, MapFlags::FIXED)), Errno::EPERM);
    assert_eq!(errno(map(1 << 47, P, MapFlags::FIXED)), Errno::ENOMEM);
    assert_eq!(errno(map(0, P, MapFlags::HUGETLB)), Errno::ENOMEM);
    let a = map(0x10_0000, P, MapFlags::FIXED_NOREPLACE).expect("free");
    assert_eq!(errno(map(a, P, MapFlags::FIXED_NOREPLACE)), Errno::EEXIST);
    assert_ne!(map(a, P, MapFlags::empty()).expect("elsewhere"), a);
    assert!(map(0, P, MapFlags::BIT32).expect("low") < 1 << 31);
    assert_eq!(errno(mm.mmap(UserAddr(0), P, RW, MapFlags::ANONYMOUS, None, 0, false)), Errno::EINVAL);
    mm.set_limits(MemLimits { address_space: 8 * P, data: 5 * P, ..MemLimits::default() });
    assert_eq!(errno(map(0, 6 * P, MapFlags::empty())), Errno::ENOMEM);
    assert_eq!(errno(map(0, 3 * P, MapFlags::empty())), Errno::ENOMEM);
    map(0, 2 * P, MapFlags::empty()).expect("within RLIMIT_DATA");
    assert_eq!(errno(mm.munmap(UserAddr(1), P)), Errno::EINVAL);
    assert_eq!(errno(mm.munmap(UserAddr(P), 0)), Errno::EINVAL);
}

#[test]
fn fork_shares_until_written() {
    let (pool, mm) = setup();
    let a = anon(&mm, 64, RW);
    mm.copy_out(UserAddr(a), b"parent").expect("write");
    touch(&mm, a + 40 * P, Some(9)).expect("touch");
    space(&mm).take_ops();
    let child = mm.fork(&mut FakeContext, false).expect("fork");
    assert_eq!(space(&mm).take_ops(), ["protect 0x40000 Prot(READ)"]);
    assert_eq!(space(&child).take_ops(), ["map 0x40000 Prot(READ)"]);
    check_references(&pool, &[&mm, &child]);
    assert_eq!(touch(&child, a, Some(b'P')), Ok(b'P'));
    assert_eq!(space(&child).take_ops(), ["map 0x10000 Prot(READ | WRITE)"]);
    assert_eq!(touch(&mm, a, None), Ok(b'p'));
    mm.copy_out(UserAddr(a + 1), b"A").expect("write");
    let mut b = [0; 6];
    child.copy_in(UserAddr(a), &mut b).expect("read");
    assert_eq!(&b, b"Parent");
    // The next window lies behind the first in memory, too.
    touch(&child, a + 16 * P, Some(1)).expect("touch");
    assert_eq!(child.state.read().pages.iter().next().map(|(r, _)| r), Some(a..a + 32 * P));
    child.sync(&mut FakeContext).expect("sync");
    mm.sync(&mut FakeContext).expect("sync");
    check_references(&pool, &[&mm, &child]);
    drop(child);
    space(&mm).take_ops();
    // The child has gone: everything is the parent's again, without a copy.
    touch(&mm, a + 40 * P, Some(8)).expect("touch");
    assert_eq!(space(&mm).take_ops().len(), 1);
    assert_eq!(touch(&mm, a + 63 * P, Some(8)), Ok(8));
    assert!(space(&mm).take_ops().is_empty());
    check_references(&pool, &[&mm]);
}

#[test]
fn fork_advice_and_shared_memory() {
    let (_pool, mm) = setup();
    let shared = mm.mmap(UserAddr::NULL, 4 * P, RW, MapFlags::SHARED | MapFlags::ANONYMOUS, None, 0, false).expect("mmap");
    let gone = anon(&mm, 1, RW);
    anon(&mm, 1, Prot::empty());
    let wiped = anon(&mm, 1, RW);
    for a in [shared, gone, wiped] {
        touch(&mm, a, Some(7)).expect("touch");
    }
    mm.madvise(UserAddr(gone), P, Advice::DontFork).expect("madvise");
    mm.madvise(UserAddr(wiped), P, Advice::WipeOnFork).expect("madvise");
    assert_eq!(errno(mm.madvise(UserAddr(shared), P, Advice::WipeOnFork)), Errno::EINVAL);
    mm.mlock(UserAddr(shared), P, true, false, false).expect("mlock");
    let child = mm.fork(&mut FakeContext, false).expect("fork");
    assert_eq!(touch(&child, wiped, None), Ok(0));
    assert_eq!(touch(&child, gone, None), Err((Signal::SEGV, fault::SEGV_MAPERR)));
    touch(&child, shared, Some(8)).expect("touch");
    assert_eq!(touch(&mm, shared, None), Ok(8));
    assert_eq!((mm.sizes().locked, child.sizes().locked), (P, 0));
    let key = |m: &Mm, a| m.futex_key(UserAddr(a), false).expect("key");
    assert_eq!(key(&mm, shared + 8), key(&child, shared + 8));
    assert_ne!(key(&mm, wiped), key(&child, wiped));
}

#[test]
fn protections() {
    let (pool, mm) = setup();
    let a = anon(&mm, 8, Prot::empty());
    assert!(space(&mm).take_ops().is_empty());
    assert_eq!(touch(&mm, a, None), Err((Signal::SEGV, fault::SEGV_ACCERR)));
    mm.mprotect(UserAddr(a), 4 * P, RW, false).expect("mprotect");
    touch(&mm, a + P, Some(5)).expect("touch");
    mm.mprotect(UserAddr(a + P), P, Prot::READ, false).expect("mprotect");
    assert_eq!(touch(&mm, a + P, Some(6)), Err((Signal::SEGV, fault::SEGV_ACCERR)));
    assert_eq!(errno(mm.copy_out(UserAddr(a + P), b"x")), Errno::EFAULT);
    assert_eq!(mm.copy_out_partial(UserAddr(a), &vec![1; 2 * P as usize]), P as usize);
    assert_eq!(mm.map_count(), 4);
    mm.mprotect(UserAddr(a), 8 * P, RW, false).expect("mprotect");
    assert_eq!((mm.map_count(), mm.state.read().pages.count()), (1, 1));
    assert_eq!(touch(&mm, a + P, None), Ok(5));
    mm.munmap(UserAddr(a + 3 * P), P).expect("munmap");
    assert_eq!(errno(mm.mprotect(UserAddr(a), 8 * P, Prot::READ, false)), Errno::ENOMEM);
    // What lies before the hole was changed.
    assert_eq!(touch(&mm, a, Some(1)), Err((Signal::SEGV, fault::SEGV_ACCERR)));
    assert_eq!(touch(&mm, a + 4 * P, Some(1)), Ok(1));
    assert_eq!(errno(mm.mprotect(UserAddr(a + 1), P, RW, false)), Errno::EINVAL);
    mm.sync(&mut FakeContext).expect("sync");
    check_references(&pool, &[&mm]);
}

#[test]
fn executing_data_is_a_fault_not_a_loop() {
    let (_pool, mm) = setup();
    let a = anon(&mm, 1, RW);
    touch(&mm, a, Some(0x90)).expect("touch");
    let mut f = Fault { signal: Signal::SEGV, code: fault::SEGV_ACCERR, addr: a, access: Prot::EXEC, present: false };
    assert_eq!(mm.handle_fault(&f).map_err(|f| f.code), Err(fault::SEGV_ACCERR));
    f.access = Prot::empty();
    assert_eq!(mm.handle_fault(&f), Ok(()));
    assert_eq!(mm.handle_fault(&f).map_err(|f| f.code), Err(fault::SEGV_ACCERR));
}

#[test]
fn remaps() {
    let (pool, mm) = setup();
    let top = anon(&mm, 4, RW);
    let a = anon_at(&mm, top - 64 * P, 4, RW, MapFlags::FIXED).expect("mmap");
    touch(&mm, a, Some(1)).expect("touch");
    touch(&mm, a + 3 * P, Some(4)).expect("touch");
    let remap = |addr: u64, old: u64, new: u64, flags, to: u64| mm.mremap(UserAddr(addr), old * P, new * P, flags, UserAddr(to), false);
    let (none, may) = (RemapFlags::empty(), RemapFlags::MAYMOVE);
    assert_eq!(remap(a, 4, 8, none, 0), Ok(a));
    assert_eq!(touch(&mm, a + 7 * P, Some(8)), Ok(8));
    assert_eq!(remap(a, 8, 2, none, 0), Ok(a));
    assert_eq!(touch(&mm, a + 3 * P, None), Err((Signal::SEGV, fault::SEGV_MAPERR)));
    anon_at(&mm, a + 2 * P, 1, Prot::READ, MapFlags::FIXED_NOREPLACE).expect("mmap");
    assert_eq!(errno(remap(a, 2, 3, none, 0)), Errno::ENOMEM);
    let b = remap(a, 2, 3, may, 0).expect("moves");
    assert_ne!(a, b);
    assert_eq!((touch(&mm, b, None), touch(&mm, b + 2 * P, Some(3))), (Ok(1), Ok(3)));
    assert_eq!(touch(&mm, a, None), Err((Signal::SEGV, fault::SEGV_MAPERR)));
    let c = top - 1024 * P;
    assert_eq!(remap(b, 3, 3, may | RemapFlags::FIXED, c), Ok(c));
    assert_eq!((touch(&mm, c, None), touch(&mm, c + 2 * P, None)), (Ok(1), Ok(3)));
    assert_eq!(errno(remap(c, 3, 3, may | RemapFlags::FIXED, c + P)), Errno::EINVAL);
    assert_eq!(errno(remap(c, 4, 5, may, 0)), Errno::EFAULT);
    assert_eq!(errno(remap(c, 0, 1, may, 0)), Errno::EINVAL);
    assert_eq!(errno(remap(c, 1, 0, may, 0)), Errno::EINVAL);
    let d = remap(c, 3, 3, may | RemapFlags::DONTUNMAP, 0).expect("moves pages");
    assert_eq!((touch(&mm, d, None), touch(&mm, c, None)), (Ok(1), Ok(0)));
    let s = mm.mmap(UserAddr::NULL, 2 * P, RW, MapFlags::SHARED | MapFlags::ANONYMOUS, None, 0, false).expect("mmap");
    touch(&mm, s + P, Some(6)).expect("touch");
    let t = remap(s + P, 0, 1, may, 0).expect("duplicates");
    assert_eq!(touch(&mm, t, None), Ok(6));
    mm.sync(&mut FakeContext).expect("sync");
    let s = mm.state.read();
    assert_eq!(s.totals.total, s.vmas.iter().map(|(r, _)| r.end - r.start).sum::<u64>());
    drop(s);
    assert!(!pool.extents().is_empty());
}

#[test]
fn heap_grows_in_one_mapping() {
    let (pool, mm) = setup();
    mm.init_brk(0x5555_0000_0123);
    assert_eq!(mm.brk(UserAddr::NULL), 0x5555_0000_0123);
    let start = 0x5555_0000_1000;
    for i in 1..20 {
        assert_eq!(mm.brk(UserAddr(start + i * 33 * P)), start + i * 33 * P);
        anon(&mm, 1, RW);
    }
    assert_eq!(touch(&mm, start + 600 * P, Some(3)), Ok(3));
    assert_eq!(mm.map_count(), 2);
    assert_eq!(mm.state.read().pages.iter().next().map(|(r, _)| r.end), Some(start + 19 * 33 * P));
    assert_eq!(mm.brk(UserAddr(start + P)), start + P);
    assert_eq!(touch(&mm, start + 600 * P, None), Err((Signal::SEGV, fault::SEGV_MAPERR)));
    assert_eq!(mm.brk(UserAddr(start + 601 * P)), start + 601 * P);
    assert_eq!(touch(&mm, start + 600 * P, None), Ok(0));
    let now = mm.brk(UserAddr(0));
    assert_eq!(mm.brk(UserAddr(1 << 46)), now);
    assert!(mm.maps_text().windows(6).any(|w| w == b"[heap]"));
    mm.sync(&mut FakeContext).expect("sync");
    check_references(&pool, &[&mm]);
}

#[test]
fn stack_grows_down() {
    let (_pool, mm) = setup();
    mm.set_limits(MemLimits { stack: 1 << 20, ..MemLimits::default() });
    let top = 0x7ffe_0000_0000;
    mm.map_stack(top, 32 * P, RW).expect("stack");
    assert_eq!(touch(&mm, top - (1 << 20), Some(1)), Ok(1));
    assert_eq!(touch(&mm, top - (1 << 20) - 1, None), Err((Signal::SEGV, fault::SEGV_MAPERR)));
    assert_eq!(mm.map_count(), 1);
    mm.set_limits(MemLimits { stack: 8 << 20, ..MemLimits::default() });
    let below = anon_at(&mm, top - (4 << 20), 1, RW, MapFlags::FIXED).expect("mmap");
    assert_eq!(touch(&mm, below + P + GUARD_GAP, Some(1)), Ok(1));
    assert_eq!(touch(&mm, below + GUARD_GAP, Some(1)), Err((Signal::SEGV, fault::SEGV_MAPERR)));
    // copy_out grows it, too.
    let (_pool, mm) = setup();
    mm.map_stack(top, 32 * P, RW).expect("stack");
    mm.copy_out(UserAddr(top - 100 * P), b"frame").expect("grows");
}

#[test]
fn discards() {
    let (pool, mm) = setup();
    let a = anon(&mm, 8, RW);
    mm.copy_out(UserAddr(a), &vec![7; 8 * P as usize]).expect("write");
    assert_eq!(mm.sizes().rss_anon, 8 * P);
    assert_eq!(mm.mincore(UserAddr(a), 8), Ok(vec![1; 8]));
    mm.madvise(UserAddr(a + P), P, Advice::DontNeed).expect("madvise");
    assert_eq!((touch(&mm, a, None), touch(&mm, a + P, None)), (Ok(7), Ok(0)));
    let child = mm.fork(&mut FakeContext, false).expect("fork");
    mm.madvise(UserAddr(a), 4 * P, Advice::DontNeed).expect("madvise");
    assert_eq!((touch(&mm, a + 3 * P, None), touch(&child, a + 3 * P, None)), (Ok(0), Ok(7)));
    assert_eq!(touch(&mm, a + 3 * P, Some(9)), Ok(9));
    mm.sync(&mut FakeContext).expect("sync");
    check_references(&pool, &[&mm, &child]);
    assert_eq!(errno(mm.madvise(UserAddr(a), 9 * P, Advice::DontNeed)), Errno::ENOMEM);
    mm.mlock(UserAddr(a), P, true, false, false).expect("mlock");
    assert_eq!(errno(mm.madvise(UserAddr(a), P, Advice::DontNeed)), Errno::EINVAL);
    assert_eq!(errno(mm.madvise(UserAddr(a), P, Advice::Remove)), Errno::EINVAL);
    assert_eq!(errno(mm.mincore(UserAddr(a), 9)), Errno::ENOMEM);
    mm.madvise(UserAddr(a), 8 * P, Advice::PopulateWrite).expect("populate");
}

#[test]
fn strings_atomics_and_pins() {
    let (pool, mm) = setup();
    let a = anon(&mm, 2, RW);
    mm.copy_out(UserAddr(a + 2 * P - 3), b"ab\0").expect("write");
    assert_eq!(mm.read_cstr(UserAddr(a + 2 * P - 3), 10), Ok(b"ab".to_vec()));
    mm.copy_out(UserAddr(a + 2 * P - 1), b"c").expect("write");
    assert_eq!(errno(mm.read_cstr(UserAddr(a + 2 * P - 3), 10)), Errno::EFAULT);
    assert_eq!(errno(mm.read_cstr(UserAddr(a + 2 * P - 3), 3)), Errno::ENAMETOOLONG);
    assert_eq!(mm.compare_exchange_u32(UserAddr(a + 4), 0, 5), Ok(0));
    assert_eq!(mm.update_u32(UserAddr(a + 4), |v| v + 1), Ok(5));
    assert_eq!(mm.load_u32(UserAddr(a + 4)), Ok(6));
    assert_eq!(errno(mm.load_u32(UserAddr(a + 5))), Errno::EINVAL);
    assert_eq!(errno(mm.futex_key(UserAddr(64), false)), Errno::EFAULT);
    let ranges = [UserRange { addr: UserAddr(a), len: 10 }, UserRange { addr: UserAddr(a + P), len: 2 * P as usize }];
    let n = mm.with_pinned(&ranges, true, &mut |spans| {
        mm.munmap(UserAddr(a), 2 * P).expect("munmap");
        mm.sync(&mut FakeContext).expect("sync");
        // Still there for us.
        assert_eq!(pool.extents().iter().map(|(r, _)| r.end - r.start).sum::<u64>(), 2 * P);
        Ok(spans.iter().map(|s| s.len()).sum())
    });
    assert_eq!(n, Ok(10 + P as usize));
    assert!(pool.extents().is_empty());
    assert_eq!(errno(mm.with_pinned(&ranges, true, &mut |_| Ok(0))), Errno::EFAULT);
}

/// A file in memory whose pages lie apart, as tmpfs has them, or on a host descriptor.
struct TestFile {
    pool: Arc<MemoryPool>,
    pages: Vec<Extent>,
}

impl Mappable for TestFile {
    fn pages(&self, offset: u64, _len: u64, _write: bool) -> Result<MappedPages> {
        match self.pages.get((offset / P) as usize) {
            Some(e) => Ok(MappedPages { fd: self.pool.fd(), is_memory_file: true, offset: e.offset, len: P }),
            None => abi::bail!(ENXIO),
        }
    }
}

fn map_object(mm: &Mm, file: &Arc<TestFile>, pages: u64, prot: Prot, shared: bool) -> u64 {
    let mut vma = Vma::anonymous(prot, VmaFlags::empty());
    vma.flags.set(VmaFlags::SHARED, shared);
    vma.backing = Some(Backing::new(file.clone(), None, ObjectId::Anonymous(99), "/test".into(), shared));
    let mut s = mm.state.write();
    let start = s.find_gap(pages * P, mm.address_limits()).expect("gap");
    mm.install(&mut s, start..start + pages * P, vma, false).expect("install");
    start
}

#[test]
fn private_and_shared_files() {
    let (pool, mm) = setup();
    // Pages apart, so that each must be mapped by itself.
    let pages: Vec<Extent> = (0..40)
        .map(|i| {
            let e = pool.alloc(P, Hint { at: Some((1 << 30) + i * 2 * P), addr: 0 }).expect("alloc");
            pool.file().copy_out(e.offset, &[i as u8 + 1]).expect("fill");
            e
        })
        .collect();
    let file = Arc::new(TestFile { pool: pool.clone(), pages });
    let a = map_object(&mm, &file, 42, RW, false);
    let shared = map_object(&mm, &file, 42, RW, true);
    let f = |addr: u64, access: Prot| Fault { signal: Signal::SEGV, code: fault::SEGV_MAPERR, addr, access, present: false };
    mm.handle_fault(&f(a + 35 * P, Prot::READ)).expect("fill");
    assert_eq!(space(&mm).at(a + 35 * P).map(|h| (h.offset, h.prot)), Some((file.pages[35].offset, Prot::READ)));
    let mut b = [0];
    mm.copy_in(UserAddr(a + 35 * P), &mut b).expect("read");
    assert_eq!(b[0], 36);
    // A write copies, and the file does not change.
    assert_eq!(touch(&mm, a + 35 * P, Some(77)), Ok(77));
    assert_eq!(touch(&mm, shared + 35 * P, None), Ok(36));
    assert_eq!(touch(&mm, shared + 35 * P, Some(37)), Ok(37));
    assert_eq!((touch(&mm, a + 35 * P, None), touch(&mm, a + 34 * P, None)), (Ok(77), Ok(35)));
    // Behind the end.
    assert_eq!(mm.handle_fault(&f(a + 41 * P, Prot::READ)).map_err(|f| f.signal), Err(Signal::BUS));
    assert_eq!(mm.handle_fault(&f(a + 41 * P, Prot::WRITE)).map_err(|f| f.signal), Err(Signal::BUS));
    assert_eq!(touch(&mm, a + 39 * P, Some(1)), Ok(1));
    assert_eq!(errno(mm.copy_in(UserAddr(a + 40 * P), &mut b)), Errno::EFAULT);
    // Thrown away, the file's page shows again.
    mm.madvise(UserAddr(a + 32 * P), 8 * P, Advice::DontNeed).expect("madvise");
    assert_eq!(mm.copy_in(UserAddr(a + 35 * P), &mut b).map(|()| b[0]), Ok(37));
    let child = mm.fork(&mut FakeContext, false).expect("fork");
    touch(&child, shared + P, Some(100)).expect("touch");
    assert_eq!(touch(&mm, shared + P, None), Ok(100));
    touch(&mm, a + 2 * P, Some(50)).expect("touch");
    let grandchild = mm.fork(&mut FakeContext, false).expect("fork");
    assert_eq!((touch(&child, a + 2 * P, None), touch(&grandchild, a + 2 * P, None)), (Ok(3), Ok(50)));
    mm.mprotect(UserAddr(a), 42 * P, Prot::READ, false).expect("mprotect");
    assert_eq!(touch(&mm, a + 2 * P, Some(1)), Err((Signal::SEGV, fault::SEGV_ACCERR)));
    assert_eq!(touch(&mm, a + 2 * P, None), Ok(50));
}

#[test]
fn maps_lines() {
    let (_pool, mm) = setup();
    anon_at(&mm, 0x40_0000, 1, Prot::READ | Prot::EXEC, MapFlags::FIXED).expect("mmap");
    anon_at(&mm, 0x40_1000, 1, RW, MapFlags::FIXED).expect("mmap");
    mm.set_vma_name(UserAddr(0x40_1000), P, Some(b"x y")).expect("name");
    let text = String::from_utf8(mm.maps_text()).expect("text");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "00400000-00401000 r-xp 00000000 00:00 0 ");
    assert_eq!(lines[1], "00401000-00402000 rw-p 00000000 00:00 0                                  [anon:x y]");
    assert!(mm.smaps_text().starts_with(b"00400000-00401000 r-xp"));
}

/// Random operations on a family of address spaces, compared with plain arrays of bytes.
#[test]
fn random_operations_match_a_model() {
    const BASE: u64 = 0x10_0000_0000;
    const PAGES: u64 = 64;
    #[derive(Clone)]
    struct Model(Vec<Option<(Prot, u8)>>);
    let (pool, first) = setup();
    let mut family = vec![(first, Model(vec![None; PAGES as usize]))];
    let mut seed = 0x1234_5678_9abc_def1u64;
    let mut random = move |n: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % n
    };
    for step in 0..6000 {
        let who = random(family.len() as u64) as usize;
        let (from, n) = (random(PAGES), random(12) + 1);
        let to = (from + n).min(PAGES);
        let (addr, len) = (BASE + from * P, (to - from) * P);
        let prot = [Prot::empty(), Prot::READ, RW, RW][random(4) as usize];
        let what = random(12);
        if what == 0 && family.len() < 4 {
            let child = family[who].0.fork(&mut FakeContext, random(2) == 0).expect("fork");
            let model = family[who].1.clone();
            family.push((child, model));
            continue;
        }
        if what == 1 && family.len() > 1 && random(3) == 0 {
            family.swap_remove(who);
            continue;
        }
        let (mm, Model(model)) = &mut family[who];
        let part = from as usize..to as usize;
        match what {
            2 => {
                let at = anon_at(mm, addr, to - from, prot, MapFlags::FIXED).expect("mmap");
                assert_eq!(at, addr);
                model[part].fill(Some((prot, 0)));
            }
            3 => {
                mm.munmap(UserAddr(addr), len).expect("munmap");
                model[part].fill(None);
            }
            4 => {
                let hole = model[part.clone()].iter().position(Option::is_none);
                assert_eq!(mm.mprotect(UserAddr(addr), len, prot, false).is_err(), hole.is_some(), "step {step}");
                for m in model[part].iter_mut().map_while(Option::as_mut) {
                    m.0 = prot;
                }
            }
            5 => {
                let whole = model[part.clone()].iter().all(Option::is_some);
                assert_eq!(mm.madvise(UserAddr(addr), len, Advice::DontNeed).is_ok(), whole);
                for m in model[part].iter_mut().flatten() {
                    m.1 = 0;
                }
            }
            6 => {
                let target = random(PAGES - (to - from) + 1);
                let new = BASE + target * P;
                let same_vma = mm.state.read().vmas.get(addr).is_some_and(|(r, _)| r.end >= addr + len);
                let overlaps = new < addr + len && addr < new + len;
                let moved = mm.mremap(UserAddr(addr), len, len, RemapFlags::MAYMOVE | RemapFlags::FIXED, UserAddr(new), false);
                assert_eq!(moved.is_ok(), same_vma && !overlaps, "step {step}");
                if moved.is_ok() {
                    let pages: Vec<_> = model[part.clone()].to_vec();
                    model[part].fill(None);
                    model[target as usize..target as usize + pages.len()].copy_from_slice(&pages);
                }
            }
            7 => mm.sync(&mut FakeContext).expect("sync"),
            8 => {
                let bytes = vec![step as u8; (len - 100) as usize];
                let ok = mm.copy_out(UserAddr(addr), &bytes).is_ok();
                let can = |m: &Option<(Prot, u8)>| m.is_some_and(|(p, _)| p.contains(Prot::WRITE));
                assert_eq!(ok, model[part.clone()].iter().all(can), "step {step}");
                for m in model[part].iter_mut().take_while(|m| can(m)).flatten() {
                    m.1 = step as u8;
                }
            }
            _ => {
                let m = &mut model[from as usize];
                let store = (random(2) == 0).then_some(step as u8);
                let want = match (&m, store) {
                    (None, _) => Err((Signal::SEGV, fault::SEGV_MAPERR)),
                    (Some((p, _)), _) if p.is_empty() => Err((Signal::SEGV, fault::SEGV_ACCERR)),
                    (Some((p, _)), Some(_)) if !p.contains(Prot::WRITE) => Err((Signal::SEGV, fault::SEGV_ACCERR)),
                    (Some(_), Some(v)) => Ok(v),
                    (Some((_, v)), None) => Ok(*v),
                };
                assert_eq!(touch(mm, addr, store), want, "step {step}");
                if let (Some(m), Some(v), Ok(_)) = (m, store, want) {
                    m.1 = v;
                }
            }
        }
        if step % 16 == 0 {
            check_references(&pool, &family.iter().map(|(m, _)| m).collect::<Vec<_>>());
            for (mm, Model(model)) in &family {
                for (i, m) in model.iter().enumerate() {
                    let mut b = [0];
                    let got = mm.copy_in(UserAddr(BASE + i as u64 * P), &mut b).ok().map(|()| b[0]);
                    assert_eq!(got, m.filter(|(p, _)| !p.is_empty()).map(|(_, v)| v), "step {step} page {i}");
                }
            }
        }
    }
    drop(family);
    assert!(pool.extents().is_empty());
    pool.punch_dirty();
    assert_eq!(pool.used_bytes(), 0);
}
