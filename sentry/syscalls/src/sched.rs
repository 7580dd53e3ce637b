//! Scheduling (sched(7)): what is asked is kept and told; the host's scheduler decides.

use crate::{gap, row, table::Entry};
use abi::{Errno, Result, bail, libc, task::Rlimit, time::Timespec};
use kernel::{
    cred::CapSet,
    task::{CurrentTask, Task},
    user::{UserAddr, UserRef},
};
use std::sync::Arc;
use zerocopy::{FromBytes, Immutable, IntoBytes};

pub(crate) const ROWS: &[Entry] = &[
    row!("sched_yield", sched_yield),
    row!("sched_getaffinity", sched_getaffinity),
    row!("sched_setaffinity", sched_setaffinity, Partial("kept and told; the host places threads where it will")),
    row!("sched_getscheduler", sched_getscheduler),
    row!("sched_setscheduler", sched_setscheduler, Partial("kept and told; the host schedules all alike")),
    row!("sched_getparam", sched_getparam),
    row!("sched_setparam", sched_setparam, Partial("kept and told; the host schedules all alike")),
    row!("sched_getattr", sched_getattr),
    row!("sched_setattr", sched_setattr, Partial("kept and told; no deadline scheduling")),
    row!("sched_get_priority_max", sched_get_priority_max),
    row!("sched_get_priority_min", sched_get_priority_min),
    row!("sched_rr_get_interval", sched_rr_get_interval),
    row!("getpriority", getpriority),
    row!("setpriority", setpriority, Partial("kept and told; the host schedules all alike")),
    row!("ioprio_get", ioprio_get),
    row!("ioprio_set", ioprio_set, Partial("kept and told; no effect on I/O")),
    row!("getcpu", getcpu),
    gap!("get_mempolicy", ENOSYS, "one memory node"),
    gap!("set_mempolicy", ENOSYS, "one memory node"),
    gap!("mbind", ENOSYS, "one memory node"),
    gap!("migrate_pages", ENOSYS, "one memory node"),
    gap!("move_pages", ENOSYS, "one memory node"),
    gap!("set_mempolicy_home_node", ENOSYS, "one memory node"),
];

fn target(t: &CurrentTask, pid: i32) -> Result<Arc<Task>> {
    if pid < 0 {
        bail!(EINVAL);
    }
    affinity_target(t, pid)
}

/// The same for the two calls about affinity, to which a negative number is nobody's and no mistake.
fn affinity_target(t: &CurrentTask, pid: i32) -> Result<Arc<Task>> {
    match pid {
        0 => Ok(t.task.clone()),
        p => Ok(t.pids().task(p).ok_or(Errno::ESRCH)?),
    }
}

/// May the caller change how this task is scheduled (`check_same_owner`)?
fn may_change(t: &CurrentTask, task: &Task) -> Result {
    let (me, it) = (t.cred(), task.cred());
    if me.euid == it.euid || me.euid == it.uid || me.capable(CapSet::SYS_NICE) { Ok(()) } else { bail!(EPERM) }
}

pub fn sched_yield(_: &mut CurrentTask) -> Result<()> {
    std::thread::yield_now();
    Ok(())
}

/// Bytes of the kernel's CPU mask here: 1,024 CPUs.
const MASK_BYTES: usize = 128;

pub fn sched_getaffinity(t: &mut CurrentTask, pid: i32, len: u32, to: UserAddr) -> Result<usize> {
    let mask = affinity_target(t, pid)?.info().affinity;
    let words = mask.iter().rposition(|&w| w != 0).map_or(1, |i| i + 1);
    let len = len as usize;
    if len % 8 != 0 || len < words * 8 {
        bail!(EINVAL, "mask is too small");
    }
    // Linux tells as many bytes as its own mask has.
    let n = len.min(MASK_BYTES).min(8 * words.max(1));
    t.mm().copy_out(to, &mask.as_bytes()[..n])?;
    Ok(n)
}

pub fn sched_setaffinity(t: &mut CurrentTask, pid: i32, len: u32, from: UserAddr) -> Result<()> {
    let mut mask = [0u64; MASK_BYTES / 8];
    let n = (len as usize).min(MASK_BYTES);
    t.mm().copy_in(from, &mut mask.as_mut_bytes()[..n])?;
    let task = affinity_target(t, pid)?;
    may_change(t, &task)?;
    let possible = kernel::task::TaskInfo::default().affinity;
    for (m, p) in mask.iter_mut().zip(possible) {
        *m &= p;
    }
    if mask.iter().all(|&w| w == 0) {
        bail!(EINVAL, "none of these CPUs is there");
    }
    if mask != possible {
        t.kernel().vdso.hide_cpu();
    }
    task.info().affinity = mask;
    Ok(())
}

/// `SCHED_RESET_ON_FORK` as a flag of the policy.
const RESET_ON_FORK: u32 = 0x4000_0000;

fn is_realtime(policy: u32) -> bool {
    matches!(policy as i32, libc::SCHED_FIFO | libc::SCHED_RR)
}

fn is_known(policy: u32) -> bool {
    matches!(policy as i32, libc::SCHED_OTHER | libc::SCHED_FIFO | libc::SCHED_RR | libc::SCHED_BATCH | libc::SCHED_IDLE)
}

fn set(t: &CurrentTask, pid: i32, policy: Option<u32>, priority: i32, nice: Option<i32>, reset: bool) -> Result<()> {
    let task = target(t, pid)?;
    let now = task.info().clone();
    let policy = policy.unwrap_or(now.policy);
    if !is_known(policy) {
        bail!(EINVAL, "no such policy");
    }
    if is_realtime(policy) != (1..=99).contains(&priority) || (!is_realtime(policy) && priority != 0) {
        bail!(EINVAL, "priority does not fit the policy");
    }
    let privileged = t.cred().capable(CapSet::SYS_NICE);
    if !privileged {
        let ceiling = task.rlimit(libc::RLIMIT_RTPRIO).cur;
        if is_realtime(policy) && (policy != now.policy && ceiling == 0 || priority > now.priority && priority as u64 > ceiling) {
            bail!(EPERM, "RLIMIT_RTPRIO");
        }
        may_change(t, &task)?;
        if now.reset_on_fork && !reset {
            bail!(EPERM, "SCHED_RESET_ON_FORK cannot be taken back");
        }
        if let Some(n) = nice {
            may_nice(&task, now.nice, n)?;
        }
    }
    let mut info = task.info();
    info.policy = policy;
    info.priority = priority;
    info.reset_on_fork = reset;
    info.nice = nice.unwrap_or(info.nice);
    Ok(())
}

pub fn sched_getscheduler(t: &mut CurrentTask, pid: i32) -> Result<u32> {
    let task = target(t, pid)?;
    let info = task.info();
    Ok(info.policy | if info.reset_on_fork { RESET_ON_FORK } else { 0 })
}

pub fn sched_setscheduler(t: &mut CurrentTask, pid: i32, policy: u32, param: UserRef<i32>) -> Result<()> {
    if (policy as i32) < 0 || param.is_null() || pid < 0 {
        bail!(EINVAL);
    }
    let priority = t.mm().read(param)?;
    set(t, pid, Some(policy & !RESET_ON_FORK), priority, None, policy & RESET_ON_FORK != 0)
}

pub fn sched_getparam(t: &mut CurrentTask, pid: i32, to: UserRef<i32>) -> Result<()> {
    if to.is_null() {
        bail!(EINVAL);
    }
    let priority = target(t, pid)?.info().priority;
    t.mm().write(to, &priority)
}

pub fn sched_setparam(t: &mut CurrentTask, pid: i32, param: UserRef<i32>) -> Result<()> {
    if param.is_null() || pid < 0 {
        bail!(EINVAL);
    }
    let priority = t.mm().read(param)?;
    let reset = target(t, pid)?.info().reset_on_fork;
    set(t, pid, None, priority, None, reset)
}

/// `struct sched_attr`, first version (48 bytes).
#[repr(C)]
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
pub struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

const ATTR_SIZE: u32 = 48;

pub fn sched_getattr(t: &mut CurrentTask, pid: i32, to: UserRef<SchedAttr>, size: u32, flags: u32) -> Result<()> {
    if flags != 0 || to.is_null() || !(ATTR_SIZE..=4096).contains(&size) {
        bail!(EINVAL);
    }
    let info = target(t, pid)?.info().clone();
    let attr = SchedAttr {
        size: ATTR_SIZE,
        policy: info.policy,
        flags: u64::from(info.reset_on_fork),
        nice: if is_realtime(info.policy) { 0 } else { info.nice },
        priority: info.priority as u32,
        ..SchedAttr::default()
    };
    t.mm().write(to, &attr)
}

pub fn sched_setattr(t: &mut CurrentTask, pid: i32, from: UserRef<SchedAttr>, flags: u32) -> Result<()> {
    if flags != 0 || from.is_null() || pid < 0 {
        bail!(EINVAL);
    }
    let size: u32 = t.mm().read(from.addr().cast())?;
    if size != 0 && size < ATTR_SIZE {
        t.mm().write(from.addr().cast(), &ATTR_SIZE)?;
        bail!(E2BIG);
    }
    let a = t.mm().read(from)?;
    if a.policy as i32 == libc::SCHED_DEADLINE {
        bail!(EPERM, "no deadline scheduling");
    }
    let nice = (!is_realtime(a.policy)).then_some(a.nice.clamp(-20, 19));
    set(t, pid, Some(a.policy), a.priority as i32, nice, a.flags & 1 != 0)
}

pub fn sched_get_priority_max(_: &mut CurrentTask, policy: u32) -> Result<i32> {
    match policy as i32 {
        libc::SCHED_FIFO | libc::SCHED_RR => Ok(99),
        libc::SCHED_DEADLINE => Ok(0),
        _ if is_known(policy) => Ok(0),
        _ => bail!(EINVAL),
    }
}

pub fn sched_get_priority_min(_: &mut CurrentTask, policy: u32) -> Result<i32> {
    match policy as i32 {
        libc::SCHED_FIFO | libc::SCHED_RR => Ok(1),
        libc::SCHED_DEADLINE => Ok(0),
        _ if is_known(policy) => Ok(0),
        _ => bail!(EINVAL),
    }
}

pub fn sched_rr_get_interval(t: &mut CurrentTask, pid: i32, to: UserRef<Timespec>) -> Result<()> {
    let policy = target(t, pid)?.info().policy;
    let ns = match policy as i32 {
        libc::SCHED_FIFO => 0,
        libc::SCHED_RR => 100_000_000,
        _ => 4_000_000,
    };
    t.mm().write(to, &Timespec::from_nanos(ns))
}

/// May nice become `new` without CAP_SYS_NICE (`can_nice`)?
fn may_nice(task: &Task, old: i32, new: i32) -> Result {
    let limit = task.rlimit(libc::RLIMIT_NICE).cur;
    if new < old && limit != Rlimit::INFINITY && (20 - new) as u64 > limit { bail!(EACCES, "RLIMIT_NICE") } else { Ok(()) }
}

/// The tasks that `which` and `who` of getpriority(2) name.
fn named(t: &CurrentTask, which: i32, who: i32) -> Result<Vec<Arc<Task>>> {
    let leaders = || t.pids().processes().into_iter().filter_map(|p| p.leader());
    let list: Vec<_> = match which {
        0 => vec![target(t, who)?],
        1 => {
            let id = if who == 0 { t.process_group().id } else { who };
            leaders().filter(|l| l.process_group().id == id).collect()
        }
        2 => {
            let uid = if who == 0 { t.cred().uid } else { who as u32 };
            leaders().filter(|l| l.cred().uid == uid).collect()
        }
        _ => bail!(EINVAL),
    };
    if list.is_empty() { bail!(ESRCH) } else { Ok(list) }
}

/// Returns 20 minus the nice value, so that no result looks like an error.
pub fn getpriority(t: &mut CurrentTask, which: i32, who: i32) -> Result<i32> {
    Ok(named(t, which, who)?.iter().map(|x| 20 - x.info().nice).max().unwrap_or(20))
}

pub fn setpriority(t: &mut CurrentTask, which: i32, who: i32, nice: i32) -> Result<()> {
    let nice = nice.clamp(-20, 19);
    for task in named(t, which, who)? {
        may_change(t, &task)?;
        let old = task.info().nice;
        if !t.cred().capable(CapSet::SYS_NICE) {
            may_nice(&task, old, nice)?;
        }
        task.info().nice = nice;
    }
    Ok(())
}

pub fn ioprio_get(t: &mut CurrentTask, which: i32, who: i32) -> Result<u32> {
    let which = which.checked_sub(1).ok_or(Errno::EINVAL)?;
    Ok(named(t, which, who)?.first().map_or(0, |x| x.info().io_priority))
}

pub fn ioprio_set(t: &mut CurrentTask, which: i32, who: i32, value: u32) -> Result<()> {
    let class = value >> 13;
    if class > 3 || (class == 0 && value & 7 != 0) {
        bail!(EINVAL);
    }
    if class == 1 {
        t.cred().require(CapSet::SYS_NICE)?;
    }
    let which = which.checked_sub(1).ok_or(Errno::EINVAL)?;
    for task in named(t, which, who)? {
        may_change(t, &task)?;
        task.info().io_priority = value;
    }
    Ok(())
}

pub fn getcpu(t: &mut CurrentTask, cpu: UserRef<u32>, node: UserRef<u32>) -> Result<()> {
    let mask = t.info().affinity;
    let on_host = t.kernel().vdso.cpu().filter(|c| mask.get(c / 64).is_some_and(|w| w >> (c % 64) & 1 == 1));
    let first = mask.iter().enumerate().find(|(_, w)| **w != 0).map_or(0, |(i, w)| i as u32 * 64 + w.trailing_zeros());
    let here = on_host.map_or(first, |c| c as u32);
    if let Some(at) = cpu.non_null() {
        t.mm().write(at, &here)?;
    }
    if let Some(at) = node.non_null() {
        t.mm().write(at, &0)?;
    }
    Ok(())
}
