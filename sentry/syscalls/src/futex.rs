//! futex(2), futex_waitv(2) and the robust list.

use crate::{gap, row, table::Entry};
use abi::{Errno, Result, bail, error, libc, time::Timespec};
use kernel::{
    futex::{self, FutexDeadline, MATCH_ANY, WAITV_MAX, WaitvEntry},
    task::CurrentTask,
    time::Clock,
    user::{UserAddr, UserRef},
};
use std::sync::atomic::Ordering;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub(crate) const ROWS: &[Entry] = &[
    row!("futex", futex, Partial("PI locks are handed over in order of arrival, not of priority")),
    row!("futex_waitv", futex_waitv),
    row!("set_robust_list", set_robust_list),
    row!("get_robust_list", get_robust_list),
    gap!("futex_wake", ENOSYS, "futex(2) does it"),
    gap!("futex_wait", ENOSYS, "futex(2) does it"),
    gap!("futex_requeue", ENOSYS, "futex(2) does it"),
];

/// `FUTEX_LOCK_PI2`
const LOCK_PI2: i32 = 13;
/// Bytes of `struct robust_list_head`.
const HEAD_SIZE: usize = 24;

/// An absolute deadline from a timeout argument; a relative one counts from now on the monotonic clock.
fn deadline(t: &CurrentTask, at: UserAddr, relative: bool, realtime: bool) -> Result<Option<FutexDeadline>> {
    let Some(at) = at.cast::<Timespec>().non_null() else { return Ok(None) };
    let ns = t.mm().read(at)?.to_nanos().ok_or(error!(EINVAL, "bad time"))?;
    if relative {
        let ns = Clock::Monotonic.now().saturating_add(ns);
        return Ok(Some(FutexDeadline { ns, realtime: false }));
    }
    Ok(Some(FutexDeadline { ns, realtime }))
}

pub fn futex(t: &mut CurrentTask, addr: UserAddr, op: i32, value: u32, timeout: UserAddr, addr2: UserAddr, value3: u32) -> Result<u64> {
    let private = op & libc::FUTEX_PRIVATE_FLAG != 0;
    let realtime = op & libc::FUTEX_CLOCK_REALTIME != 0;
    let command = op & !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME);
    if realtime && !matches!(command, libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET | libc::FUTEX_WAIT_REQUEUE_PI | LOCK_PI2) {
        bail!(ENOSYS, "FUTEX_CLOCK_REALTIME with this operation");
    }
    // Where a call wakes or moves, the timeout argument is a number.
    let value2 = timeout.0 as u32;
    let count = |n: u32| u64::from(n);
    match command {
        libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET => {
            let relative = command == libc::FUTEX_WAIT;
            let bits = if relative { MATCH_ANY } else { value3 };
            let until = deadline(t, timeout, relative, realtime)?;
            t.futex_wait(addr, private, value, bits, until, op as u32).map(|()| 0)
        }
        libc::FUTEX_WAKE => futex::wake(t, addr, private, at_least_one(value), MATCH_ANY).map(count),
        libc::FUTEX_WAKE_BITSET => futex::wake(t, addr, private, at_least_one(value), value3).map(count),
        libc::FUTEX_REQUEUE | libc::FUTEX_CMP_REQUEUE => {
            if (value as i32) < 0 || (value2 as i32) < 0 {
                bail!(EINVAL, "negative count");
            }
            let expected = (command == libc::FUTEX_CMP_REQUEUE).then_some(value3);
            futex::requeue(t, addr, addr2, (private, private), value, value2, expected).map(count)
        }
        libc::FUTEX_WAKE_OP => futex::wake_op(t, addr, addr2, private, at_least_one(value), at_least_one(value2), value3).map(count),
        libc::FUTEX_LOCK_PI | LOCK_PI2 => {
            // The older operation's time is of the realtime clock always.
            let until = deadline(t, timeout, false, realtime || command == libc::FUTEX_LOCK_PI)?;
            t.futex_lock_pi(addr, private, until).map(|()| 0)
        }
        libc::FUTEX_TRYLOCK_PI => t.futex_trylock_pi(addr, private).map(|()| 0),
        libc::FUTEX_UNLOCK_PI => t.futex_unlock_pi(addr, private).map(|()| 0),
        libc::FUTEX_WAIT_REQUEUE_PI => {
            let until = deadline(t, timeout, false, realtime)?;
            t.futex_wait_requeue_pi(addr, private, value, MATCH_ANY, addr2, until).map(|()| 0)
        }
        libc::FUTEX_CMP_REQUEUE_PI => futex::cmp_requeue_pi(t, addr, addr2, private, value, value2, value3).map(count),
        _ => bail!(ENOSYS, "futex operation {command}"),
    }
}

/// Linux looks at the count only after the first waiter is woken; a negative one means one.
fn at_least_one(n: u32) -> u32 {
    if (n as i32) < 1 { 1 } else { n }
}

/// Goes on with a wait that a stop interrupted: restart_syscall(2).
pub fn restart(t: &mut CurrentTask, addr: UserAddr, value: u32, bitset: u32, op: u32, until_ns: u64) -> Result<u64> {
    let private = op as i32 & libc::FUTEX_PRIVATE_FLAG != 0;
    let flags = libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME;
    // A relative wait was turned into one on the monotonic clock.
    let realtime = op as i32 & libc::FUTEX_CLOCK_REALTIME != 0 && op as i32 & !flags != libc::FUTEX_WAIT;
    let until = FutexDeadline { ns: until_ns, realtime };
    t.futex_wait(addr, private, value, bitset, Some(until), op).map(|()| 0)
}

/// `struct futex_waitv`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Waitv {
    value: u64,
    addr: u64,
    flags: u32,
    reserved: u32,
}

/// `FUTEX2_SIZE_U32`
const SIZE_U32: u32 = 2;

pub fn futex_waitv(t: &mut CurrentTask, waiters: UserRef<Waitv>, count: u32, flags: u32, timeout: UserAddr, clock: i32) -> Result<usize> {
    if flags != 0 || count == 0 || count as usize > WAITV_MAX || waiters.is_null() {
        bail!(EINVAL, "flags or count");
    }
    let realtime = match clock {
        libc::CLOCK_REALTIME => true,
        libc::CLOCK_MONOTONIC => false,
        _ if timeout.is_null() => false,
        _ => bail!(EINVAL, "clock"),
    };
    let until = deadline(t, timeout, false, realtime)?;
    let mut entries = Vec::with_capacity(count as usize);
    for i in 0..count {
        let w = t.mm().read(waiters.at(i.into()))?;
        if w.reserved != 0 || w.flags & !(SIZE_U32 | libc::FUTEX_PRIVATE_FLAG as u32) != 0 || w.flags & 3 != SIZE_U32 {
            bail!(EINVAL, "flags of a waiter");
        }
        let Ok(value) = u32::try_from(w.value) else { bail!(EINVAL, "value of a waiter") };
        let private = w.flags & libc::FUTEX_PRIVATE_FLAG as u32 != 0;
        entries.push(WaitvEntry { addr: UserAddr(w.addr), value, private });
    }
    t.futex_waitv(&entries, until)
}

pub fn set_robust_list(t: &mut CurrentTask, head: UserAddr, len: usize) -> Result<()> {
    if len != HEAD_SIZE {
        bail!(EINVAL, "size of the head");
    }
    t.robust_list.store(head.0, Ordering::Relaxed);
    Ok(())
}

pub fn get_robust_list(t: &mut CurrentTask, tid: i32, head: UserRef<u64>, len: UserRef<u64>) -> Result<()> {
    let task = if tid == 0 { t.task.clone() } else { t.pids().task(tid).ok_or(Errno::ESRCH)? };
    t.may_inspect(&task)?;
    t.mm().write(len, &(HEAD_SIZE as u64))?;
    t.mm().write(head, &task.robust_list.load(Ordering::Relaxed))
}
