//! futex(2) and the robust list.

use crate::{gap, row, table::Entry};
use abi::{Errno, Result, bail, error, libc, time::Timespec};
use kernel::{
    cred::CapSet,
    futex::{MATCH_ANY, Timeout, restart_of},
    task::CurrentTask,
    time::{instant_after, instant_at},
    user::{UserAddr, UserRef},
};
use std::sync::atomic::Ordering;
use std::time::Instant;

pub(crate) const ROWS: &[Entry] = &[
    row!("futex", futex, Partial("FUTEX_WAIT_REQUEUE_PI and FUTEX_CMP_REQUEUE_PI; PI locks are handed over in order of arrival, not of priority")),
    row!("set_robust_list", set_robust_list),
    row!("get_robust_list", get_robust_list),
    gap!("futex_waitv", ENOSYS, "one word at a time"),
    gap!("futex_wake", ENOSYS, "use futex(2)"),
    gap!("futex_wait", ENOSYS, "use futex(2)"),
    gap!("futex_requeue", ENOSYS, "use futex(2)"),
];

/// Bits of the operation.
const CMD_MASK: i32 = !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME);
/// `FUTEX_LOCK_PI2`
const LOCK_PI2: i32 = 13;

/// Nanoseconds of a timeout argument; `None` if there is none.
fn nanos(t: &CurrentTask, at: UserAddr) -> Result<Option<u64>> {
    match at.cast::<Timespec>().non_null() {
        None => Ok(None),
        Some(at) => t.mm().read(at)?.to_nanos().map(Some).ok_or(error!(EINVAL, "timeout out of range")),
    }
}

/// The instant of an absolute time of the clock that the operation names.
fn absolute(ns: u64, realtime: bool) -> Instant {
    if realtime { instant_after(ns.saturating_sub(host_realtime())) } else { instant_at(ns) }
}

fn host_realtime() -> u64 {
    kernel::vfs::now().to_nanos().unwrap_or(0)
}

pub fn futex(t: &mut CurrentTask, addr: UserAddr, op: i32, value: u32, timeout: UserAddr, addr2: UserAddr, value3: u32) -> Result<u64> {
    let private = op & libc::FUTEX_PRIVATE_FLAG != 0;
    let realtime = op & libc::FUTEX_CLOCK_REALTIME != 0;
    let command = op & CMD_MASK;
    if realtime && !matches!(command, libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET | libc::FUTEX_WAIT_REQUEUE_PI | LOCK_PI2) {
        bail!(ENOSYS, "FUTEX_CLOCK_REALTIME with this operation");
    }
    // Where a call wakes or moves, the timeout argument is a number; negative ones mean none or are refused.
    let count2 = timeout.0 as i32;
    let kernel = t.kernel().clone();
    let table = &kernel.futexes;
    let mm = t.mm();
    let many = |n: u32| usize::try_from(n as i32).unwrap_or(0).max(1);
    match command {
        libc::FUTEX_WAIT => wait(t, addr, op, value, MATCH_ANY, timeout, true),
        libc::FUTEX_WAIT_BITSET => wait(t, addr, op, value, value3, timeout, false),
        libc::FUTEX_WAKE => Ok(table.wake(&mm, addr, private, many(value), MATCH_ANY)? as u64),
        libc::FUTEX_WAKE_BITSET => Ok(table.wake(&mm, addr, private, many(value), value3)? as u64),
        libc::FUTEX_REQUEUE | libc::FUTEX_CMP_REQUEUE => {
            let (Ok(wake), Ok(requeue)) = (usize::try_from(value as i32), usize::try_from(count2)) else { bail!(EINVAL) };
            let expected = (command == libc::FUTEX_CMP_REQUEUE).then_some(value3);
            let (woken, moved) = table.requeue(&mm, addr, addr2, private, wake, requeue, expected)?;
            Ok((woken + moved) as u64)
        }
        libc::FUTEX_WAKE_OP => {
            let n2 = usize::try_from(count2).unwrap_or(0).max(1);
            Ok(table.wake_op(&mm, addr, addr2, private, many(value), n2, value3)? as u64)
        }
        libc::FUTEX_LOCK_PI | LOCK_PI2 => {
            // FUTEX_LOCK_PI's time is of the realtime clock always.
            let realtime = realtime || command == libc::FUTEX_LOCK_PI;
            let deadline = nanos(t, timeout)?.map(|ns| absolute(ns, realtime));
            table.lock_pi(t, addr, private, true, deadline).map(|()| 0)
        }
        libc::FUTEX_TRYLOCK_PI => table.lock_pi(t, addr, private, false, None).map(|()| 0),
        libc::FUTEX_UNLOCK_PI => table.unlock_pi(t, addr, private).map(|()| 0),
        _ => bail!(ENOSYS, "futex operation {command}"),
    }
}

fn wait(t: &mut CurrentTask, addr: UserAddr, op: i32, value: u32, bitset: u32, timeout: UserAddr, relative: bool) -> Result<u64> {
    let realtime = op & libc::FUTEX_CLOCK_REALTIME != 0;
    let private = op & libc::FUTEX_PRIVATE_FLAG != 0;
    let timeout = match nanos(t, timeout)? {
        None => Timeout::NEVER,
        Some(ns) if relative => {
            let until = host_monotonic().saturating_add(ns);
            t.restart = restart_of(addr, value, bitset, op as u32, until);
            Timeout { deadline: Some(instant_after(ns)), restart: Some(until) }
        }
        // An absolute time needs no memory: the call is restarted as it was.
        Some(ns) => Timeout { deadline: Some(absolute(ns, realtime)), restart: None },
    };
    t.kernel().clone().futexes.wait(t, addr, private, value, bitset, timeout).map(|()| 0)
}

fn host_monotonic() -> u64 {
    kernel::time::Clock::Monotonic.now()
}

/// Goes on with a wait that a signal without a handler interrupted (restart_syscall(2)).
pub fn restart(t: &mut CurrentTask, addr: UserAddr, value: u32, bitset: u32, op: u32, until_ns: u64) -> Result<u64> {
    t.restart = restart_of(addr, value, bitset, op, until_ns);
    let private = op as i32 & libc::FUTEX_PRIVATE_FLAG != 0;
    let timeout = Timeout { deadline: Some(instant_at(until_ns)), restart: Some(until_ns) };
    t.kernel().clone().futexes.wait(t, addr, private, value, bitset, timeout).map(|()| 0)
}

/// Bytes of `struct robust_list_head`.
const HEAD_SIZE: usize = 24;

pub fn set_robust_list(t: &mut CurrentTask, head: UserAddr, len: usize) -> Result<()> {
    if len != HEAD_SIZE {
        bail!(EINVAL);
    }
    t.robust_list.store(head.0, Ordering::Relaxed);
    Ok(())
}

pub fn get_robust_list(t: &mut CurrentTask, tid: i32, head: UserRef<u64>, len: UserRef<u64>) -> Result<()> {
    let task = if tid == 0 { t.task.clone() } else { t.kernel().task(tid).ok_or(Errno::ESRCH)? };
    let (me, it) = (t.cred(), task.cred());
    if task.tgid() != t.tgid() && !me.capable(CapSet::SYS_PTRACE) && (me.fsuid != it.uid || me.fsuid != it.euid || me.fsuid != it.suid) {
        bail!(EPERM);
    }
    let mm = t.mm();
    mm.write(len, &(HEAD_SIZE as u64))?;
    mm.write(head, &task.robust_list.load(Ordering::Relaxed))
}
