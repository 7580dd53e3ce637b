//! Signals.

use crate::{row, table::Entry};
use abi::{
    Errno, Error, Result, bail, error,
    signal::{SigAction, SigInfo, SigSet, Signal, StackT},
    time::Timespec,
};
use kernel::{
    task::{CurrentTask, RestartBlock},
    time::instant_after,
    user::{UserAddr, UserRef},
};
use zerocopy::IntoBytes;

pub(crate) const ROWS: &[Entry] = &[
    row!("rt_sigaction", rt_sigaction),
    row!("rt_sigprocmask", rt_sigprocmask),
    row!("rt_sigpending", rt_sigpending),
    row!("rt_sigtimedwait", rt_sigtimedwait),
    row!("rt_sigsuspend", rt_sigsuspend),
    row!("rt_sigqueueinfo", rt_sigqueueinfo),
    row!("rt_tgsigqueueinfo", rt_tgsigqueueinfo),
    row!("rt_sigreturn", rt_sigreturn),
    row!("sigaltstack", sigaltstack),
    row!("kill", kill),
    row!("tkill", tkill),
    row!("tgkill", tgkill),
    row!("pause", pause),
    row!("restart_syscall", restart_syscall),
];

/// A signal argument of kill(2) and its kin: 0 only checks. `EINVAL` above 64.
pub fn number(sig: i32) -> Result<Option<Signal>> {
    match sig {
        0 => Ok(None),
        n => Signal::new(u64::try_from(n).unwrap_or(0)).map(Some).ok_or(error!(EINVAL, "no signal {sig}")),
    }
}

fn check_size(size: usize) -> Result {
    if size == size_of::<SigSet>() { Ok(()) } else { bail!(EINVAL, "size of a signal set") }
}

pub fn rt_sigaction(t: &mut CurrentTask, sig: i32, new: UserRef<SigAction>, old: UserRef<SigAction>, size: usize) -> Result<()> {
    check_size(size)?;
    let new = new.non_null().map(|a| t.mm().read(a)).transpose()?;
    let Some(sig) = number(sig)? else { bail!(EINVAL, "no signal 0") };
    let before = t.sigaction(sig, new)?;
    match old.non_null() {
        Some(at) => t.mm().write(at, &before),
        None => Ok(()),
    }
}

pub fn rt_sigprocmask(t: &mut CurrentTask, how: i32, set: UserRef<SigSet>, old: UserRef<SigSet>, size: usize) -> Result<()> {
    check_size(size)?;
    let set = set.non_null().map(|s| t.mm().read(s)).transpose()?;
    let before = t.sigprocmask(how, set)?;
    match old.non_null() {
        Some(at) => t.mm().write(at, &before),
        None => Ok(()),
    }
}

pub fn rt_sigpending(t: &mut CurrentTask, set: UserAddr, size: usize) -> Result<()> {
    if size > size_of::<SigSet>() {
        bail!(EINVAL, "size of a signal set");
    }
    // Only blocked signals are told; others are on their way.
    let pending = t.pending_signals();
    let blocked = pending.minus(pending.minus(t.signal_mask()));
    t.mm().copy_out(set, &blocked.as_bytes()[..size])
}

pub fn rt_sigtimedwait(
    t: &mut CurrentTask,
    set: UserRef<SigSet>,
    info: UserRef<SigInfo>,
    timeout: UserRef<Timespec>,
    size: usize,
) -> Result<i32> {
    check_size(size)?;
    let set = t.mm().read(set)?;
    let deadline = match timeout.non_null() {
        None => None,
        Some(at) => Some(instant_after(t.mm().read(at)?.to_nanos().ok_or(error!(EINVAL, "bad time"))?)),
    };
    let taken = t.sigtimedwait(set, deadline)?;
    if let Some(at) = info.non_null() {
        t.mm().write(at, &taken)?;
    }
    Ok(taken.signo)
}

pub fn rt_sigsuspend(t: &mut CurrentTask, mask: UserRef<SigSet>, size: usize) -> Result<()> {
    check_size(size)?;
    let mask = t.mm().read(mask)?;
    t.sigsuspend(mask)
}

pub fn rt_sigqueueinfo(t: &mut CurrentTask, pid: i32, sig: i32, info: UserRef<SigInfo>) -> Result<()> {
    let info = t.mm().read(info)?;
    let sig = number(sig)?;
    t.sigqueue(pid, sig, info)
}

pub fn rt_tgsigqueueinfo(t: &mut CurrentTask, tgid: i32, tid: i32, sig: i32, info: UserRef<SigInfo>) -> Result<()> {
    let info = t.mm().read(info)?;
    let sig = number(sig)?;
    t.tgsigqueue(tgid, tid, sig, info)
}

pub fn rt_sigreturn(t: &mut CurrentTask) -> Result<u64> {
    t.sigreturn()
}

pub fn sigaltstack(t: &mut CurrentTask, new: UserRef<StackT>, old: UserRef<StackT>) -> Result<()> {
    let before = t.altstack();
    if let Some(at) = new.non_null() {
        let stack = t.mm().read(at)?;
        t.set_altstack(stack)?;
    }
    match old.non_null() {
        Some(at) => t.mm().write(at, &before),
        None => Ok(()),
    }
}

pub fn kill(t: &mut CurrentTask, pid: i32, sig: i32) -> Result<()> {
    let sig = number(sig)?;
    t.kill(pid, sig)
}

pub fn tkill(t: &mut CurrentTask, tid: i32, sig: i32) -> Result<()> {
    let sig = number(sig)?;
    t.tgkill(None, tid, sig)
}

pub fn tgkill(t: &mut CurrentTask, tgid: i32, tid: i32, sig: i32) -> Result<()> {
    let sig = number(sig)?;
    t.tgkill(Some(tgid), tid, sig)
}

pub fn pause(t: &mut CurrentTask) -> Result<()> {
    t.wait_for_signal()
}

/// What a call that a stop or an ignored signal interrupted goes on with.
pub fn restart_syscall(t: &mut CurrentTask) -> Result<u64> {
    match std::mem::take(&mut t.restart) {
        RestartBlock::None => Err(Error::Errno(Errno::EINTR)),
        RestartBlock::Nanosleep { clock, until_ns, remaining } => t.restart_nanosleep(clock, until_ns, remaining).map(|()| 0),
        RestartBlock::Futex { addr, value, bitset, op, until_ns } => crate::futex::restart(t, addr, value, bitset, op, until_ns),
        RestartBlock::Poll { fds, count, until_ns } => crate::poll::resume_poll(t, fds, count, until_ns).map(|n| n as u64),
    }
}
