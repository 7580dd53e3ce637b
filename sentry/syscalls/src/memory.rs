//! Memory: mmap(2) and its family, brk(2), advice, locking, barriers, other processes' memory.

use crate::{
    gap, row,
    rw::{self, Iovec},
    table::Entry,
};
use abi::{
    PAGE_SIZE, Result, bail, libc,
    mm::{MapFlags, Prot},
};
use kernel::{
    cred::CapSet,
    mm::{Advice, Mm, RemapFlags},
    task::{CurrentTask, Task},
    user::{UserAddr, UserRange, UserRef},
    vfs::Fd,
};
use std::sync::{Arc, atomic::Ordering};

pub(crate) const ROWS: &[Entry] = &[
    row!("mmap", mmap, Partial("no huge pages; MAP_SYNC and MAP_DROPPABLE are refused")),
    row!("munmap", munmap),
    row!("mprotect", mprotect),
    row!("pkey_mprotect", pkey_mprotect, Partial("without a key only")),
    gap!("pkey_alloc", ENOSPC, "no protection keys, as on processors without them"),
    gap!("pkey_free", EINVAL, "no protection keys, as on processors without them"),
    row!("mremap", mremap, Partial("one mapping at a time")),
    row!("brk", brk),
    row!("madvise", madvise, Partial("no huge pages; MADV_FREE frees at once; MADV_COLD, MADV_PAGEOUT and MADV_MERGEABLE change nothing")),
    row!("mincore", mincore, Partial("pages of host files count as resident")),
    row!("msync", msync),
    row!("mlock", mlock, Partial("the host may still swap")),
    row!("mlock2", mlock2, Partial("the host may still swap")),
    row!("munlock", munlock),
    row!("mlockall", mlockall, Partial("the host may still swap")),
    row!("munlockall", munlockall),
    row!("membarrier", membarrier, Partial("no MEMBARRIER_CMD_*_SYNC_CORE and *_RSEQ")),
    row!("process_vm_readv", process_vm_readv),
    row!("process_vm_writev", process_vm_writev),
    gap!("remap_file_pages", ENOSYS, "deprecated; nobody calls it"),
];

fn may_lock(t: &CurrentTask) -> bool {
    t.cred().capable(CapSet::IPC_LOCK)
}

/// mmap(2)
pub fn mmap(t: &mut CurrentTask, addr: UserAddr, len: u64, prot: u32, flags: u32, fd: i32, offset: u64) -> Result<u64> {
    if !offset.is_multiple_of(PAGE_SIZE) {
        bail!(EINVAL, "offset is not page-aligned");
    }
    let flags = MapFlags::from_bits_retain(flags);
    let file = if flags.contains(MapFlags::ANONYMOUS) {
        None
    } else {
        let Ok(fd) = u32::try_from(fd) else { bail!(EBADF, "negative descriptor") };
        Some(t.files().get_open(Fd(fd))?)
    };
    t.mm().mmap(addr, len, Prot::from_bits_truncate(prot), flags, file, offset, may_lock(t))
}

/// munmap(2)
pub fn munmap(t: &mut CurrentTask, addr: UserAddr, len: u64) -> Result<()> {
    t.mm().munmap(addr, len)
}

/// `PROT_GROWSDOWN`
const GROWSDOWN: u32 = 0x0100_0000;
/// `PROT_GROWSUP`
const GROWSUP: u32 = 0x0200_0000;
/// `PROT_SEM`: accepted and without effect.
const SEM: u32 = 8;

/// mprotect(2)
pub fn mprotect(t: &mut CurrentTask, addr: UserAddr, len: u64, prot: u32) -> Result<()> {
    let grows = prot & (GROWSDOWN | GROWSUP);
    if grows == GROWSDOWN | GROWSUP {
        bail!(EINVAL, "both directions");
    }
    let Some(bits) = Prot::from_bits(prot & !(grows | SEM)) else { bail!(EINVAL, "unknown protection") };
    if grows == GROWSUP {
        bail!(EINVAL, "nothing grows up");
    }
    t.mm().mprotect(addr, len, bits, grows == GROWSDOWN)
}

/// pkey_mprotect(2)
pub fn pkey_mprotect(t: &mut CurrentTask, addr: UserAddr, len: u64, prot: u32, key: i32) -> Result<()> {
    if key != -1 {
        bail!(EINVAL, "no such key");
    }
    mprotect(t, addr, len, prot)
}

/// mremap(2)
pub fn mremap(t: &mut CurrentTask, addr: UserAddr, old_len: u64, new_len: u64, flags: u32, new_addr: UserAddr) -> Result<u64> {
    let Some(flags) = RemapFlags::from_bits(flags) else { bail!(EINVAL, "unknown flags") };
    t.mm().mremap(addr, old_len, new_len, flags, new_addr, may_lock(t))
}

/// brk(2). It has no errors: glibc compares the result with what it asked for.
pub fn brk(t: &mut CurrentTask, to: UserAddr) -> Result<u64> {
    Ok(t.mm().brk(to))
}

/// madvise(2)
pub fn madvise(t: &mut CurrentTask, addr: UserAddr, len: u64, advice: i32) -> Result<()> {
    match Advice::from_raw(advice) {
        Some(advice) => t.mm().madvise(addr, len, advice),
        None if matches!(advice, libc::MADV_HWPOISON | libc::MADV_SOFT_OFFLINE) => bail!(EPERM, "no page of the host's is poisoned"),
        None => bail!(EINVAL, "unknown advice"),
    }
}

/// mincore(2)
pub fn mincore(t: &mut CurrentTask, addr: UserAddr, len: u64, vec: UserAddr) -> Result<()> {
    const CHUNK: u64 = 4096;
    if !addr.0.is_multiple_of(PAGE_SIZE) {
        bail!(EINVAL, "address is not page-aligned");
    }
    let mm = t.mm();
    let Some(end) = addr.0.checked_add(len).filter(|&e| e <= mm.address_limits().end) else { bail!(ENOMEM, "range overflows") };
    let pages = (end - addr.0).div_ceil(PAGE_SIZE);
    let mut done = 0;
    while done < pages {
        let n = (pages - done).min(CHUNK);
        let bytes = mm.mincore(addr.offset(done * PAGE_SIZE), n as usize)?;
        mm.copy_out(vec.offset(done), &bytes)?;
        done += n;
    }
    Ok(())
}

/// msync(2)
pub fn msync(t: &mut CurrentTask, addr: UserAddr, len: u64, flags: i32) -> Result<()> {
    let known = libc::MS_ASYNC | libc::MS_INVALIDATE | libc::MS_SYNC;
    if flags & !known != 0 || flags & (libc::MS_ASYNC | libc::MS_SYNC) == libc::MS_ASYNC | libc::MS_SYNC {
        bail!(EINVAL, "bad flags");
    }
    t.mm().msync(addr, len, flags & libc::MS_SYNC != 0, flags & libc::MS_INVALIDATE != 0)
}

/// mlock(2)
pub fn mlock(t: &mut CurrentTask, addr: UserAddr, len: u64) -> Result<()> {
    t.mm().mlock(addr, len, true, false, may_lock(t))
}

/// mlock2(2)
pub fn mlock2(t: &mut CurrentTask, addr: UserAddr, len: u64, flags: u32) -> Result<()> {
    if flags & !libc::MLOCK_ONFAULT != 0 {
        bail!(EINVAL, "unknown flags");
    }
    t.mm().mlock(addr, len, true, flags != 0, may_lock(t))
}

/// munlock(2)
pub fn munlock(t: &mut CurrentTask, addr: UserAddr, len: u64) -> Result<()> {
    t.mm().mlock(addr, len, false, false, true)
}

/// mlockall(2)
pub fn mlockall(t: &mut CurrentTask, flags: i32) -> Result<()> {
    let known = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;
    if flags == 0 || flags & !known != 0 || flags == libc::MCL_ONFAULT {
        bail!(EINVAL, "bad flags");
    }
    let has = |f| flags & f != 0;
    t.mm().mlockall(has(libc::MCL_CURRENT), has(libc::MCL_FUTURE), has(libc::MCL_ONFAULT), may_lock(t))
}

/// munlockall(2)
pub fn munlockall(t: &mut CurrentTask) -> Result<()> {
    t.mm().mlockall(false, false, false, true)
}

/// `MEMBARRIER_CMD_GLOBAL`
const BARRIER_GLOBAL: i32 = 1;
/// `MEMBARRIER_CMD_GLOBAL_EXPEDITED`
const BARRIER_GLOBAL_EXPEDITED: i32 = 2;
/// `MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED`
const REGISTER_GLOBAL_EXPEDITED: i32 = 4;
/// `MEMBARRIER_CMD_PRIVATE_EXPEDITED`
const BARRIER_PRIVATE_EXPEDITED: i32 = 8;
/// `MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED`
const REGISTER_PRIVATE_EXPEDITED: i32 = 16;

/// membarrier(2). The host's own, for all of its threads: the application's are in other processes than the sentry's.
pub fn membarrier(t: &mut CurrentTask, cmd: i32, flags: u32) -> Result<i32> {
    if flags != 0 {
        bail!(EINVAL, "unknown flags");
    }
    let mm = t.mm();
    match cmd {
        0 if host_barrier(false).is_err() => Ok(0),
        0 => Ok(BARRIER_GLOBAL
            | BARRIER_GLOBAL_EXPEDITED
            | REGISTER_GLOBAL_EXPEDITED
            | BARRIER_PRIVATE_EXPEDITED
            | REGISTER_PRIVATE_EXPEDITED),
        REGISTER_GLOBAL_EXPEDITED => Ok(0),
        REGISTER_PRIVATE_EXPEDITED => {
            mm.register_barrier();
            Ok(0)
        }
        BARRIER_PRIVATE_EXPEDITED if !mm.has_barrier() => bail!(EPERM, "not registered"),
        // A thread alone is in order with itself.
        BARRIER_PRIVATE_EXPEDITED if t.group().thread_count() <= 1 => Ok(0),
        BARRIER_GLOBAL | BARRIER_GLOBAL_EXPEDITED | BARRIER_PRIVATE_EXPEDITED => host_barrier(true).map(|()| 0),
        _ => bail!(EINVAL, "unknown command"),
    }
}

fn host_barrier(now: bool) -> Result<()> {
    kernel::mm::host_barrier(now)
}

/// process_vm_readv(2)
pub fn process_vm_readv(
    t: &mut CurrentTask,
    pid: i32,
    local: UserRef<Iovec>,
    local_count: usize,
    remote: UserRef<Iovec>,
    remote_count: usize,
    flags: u64,
) -> Result<usize> {
    process_vm(t, pid, (local, local_count), (remote, remote_count), flags, false)
}

/// process_vm_writev(2)
pub fn process_vm_writev(
    t: &mut CurrentTask,
    pid: i32,
    local: UserRef<Iovec>,
    local_count: usize,
    remote: UserRef<Iovec>,
    remote_count: usize,
    flags: u64,
) -> Result<usize> {
    process_vm(t, pid, (local, local_count), (remote, remote_count), flags, true)
}

type Vector = (UserRef<Iovec>, usize);

fn process_vm(t: &CurrentTask, pid: i32, local: Vector, remote: Vector, flags: u64, write: bool) -> Result<usize> {
    if flags != 0 {
        bail!(EINVAL, "unknown flags");
    }
    let local = rw::ranges(t, local.0, local.1)?;
    if local.iter().all(|r| r.len == 0) {
        return Ok(0);
    }
    let remote = rw::ranges(t, remote.0, remote.1)?;
    let Some(target) = t.pids().task(pid) else { bail!(ESRCH) };
    if !may_access(t, &target) {
        bail!(EPERM, "may not trace it");
    }
    let Some(theirs) = target.try_mm() else { bail!(ESRCH, "it has ended") };
    let ours = t.mm();
    let (from, to) = if write { ((&ours, &local[..]), (&theirs, &remote[..])) } else { ((&theirs, &remote[..]), (&ours, &local[..])) };
    match copy_ranges(from, to) {
        0 if remote.iter().any(|r| r.len > 0) => bail!(EFAULT, "nothing could be copied"),
        n => Ok(n),
    }
}

/// Copies from ranges to ranges, as far as both go; returns the bytes that arrived.
fn copy_ranges((from, sources): (&Arc<Mm>, &[UserRange]), (to, targets): (&Arc<Mm>, &[UserRange])) -> usize {
    let mut chunk = vec![0; 64 << 10];
    let mut done = 0;
    let (mut sources, mut targets) = (sources.iter().copied(), targets.iter().copied());
    let (mut source, mut target) = (sources.next(), targets.next());
    while let (Some(s), Some(d)) = (source, target) {
        let n = s.len.min(d.len).min(chunk.len());
        let Some(part) = chunk.get_mut(..n) else { break };
        let got = from.copy_in_partial(s.addr, part);
        let put = part.get(..got).map_or(0, |p| to.copy_out_partial(d.addr, p));
        done += put;
        if put < n {
            break;
        }
        let rest = |r: UserRange| UserRange { addr: r.addr.offset(n as u64), len: r.len - n };
        source = if s.len == n { sources.next() } else { Some(rest(s)) };
        target = if d.len == n { targets.next() } else { Some(rest(d)) };
    }
    done
}

/// PTRACE_MODE_ATTACH_REALCREDS of ptrace(2).
fn may_access(t: &CurrentTask, target: &Task) -> bool {
    if Arc::ptr_eq(t.group(), target.group()) {
        return true;
    }
    let (me, it) = (t.cred(), target.cred());
    if me.capable(CapSet::SYS_PTRACE) {
        return true;
    }
    let same = [it.uid, it.euid, it.suid].iter().all(|&u| u == me.uid) && [it.gid, it.egid, it.sgid].iter().all(|&g| g == me.gid);
    same && me.permitted.contains(it.permitted) && target.group().dumpable.load(Ordering::Relaxed) == 1
}
