//! seccomp(2), and its older half in prctl(2).

use crate::{row, table::Entry};
use abi::{Result, bail};
use kernel::{
    cred::CapSet,
    seccomp::{self, Filters, bpf::CallFilter},
    task::CurrentTask,
    user::UserAddr,
};
use std::sync::Arc;

pub(crate) const ROWS: &[Entry] = &[row!("seccomp", call, Partial("no SECCOMP_FILTER_FLAG_NEW_LISTENER; nobody traces"))];

/// Operations and flags (linux/seccomp.h).
mod of {
    pub const SET_MODE_STRICT: u32 = 0;
    pub const SET_MODE_FILTER: u32 = 1;
    pub const GET_ACTION_AVAIL: u32 = 2;
    pub const FLAG_TSYNC: u32 = 1;
    pub const FLAG_LOG: u32 = 2;
    pub const FLAG_SPEC_ALLOW: u32 = 4;
    pub const FLAG_TSYNC_ESRCH: u32 = 16;
}

fn call(t: &mut CurrentTask, operation: u32, flags: u32, args: UserAddr) -> Result<u64> {
    match operation {
        of::SET_MODE_STRICT if flags == 0 && args.is_null() => set_strict(t).map(|()| 0),
        of::SET_MODE_FILTER => set_filter(t, flags, args),
        of::GET_ACTION_AVAIL if flags == 0 => {
            let action: u32 = t.mm().read(args.cast())?;
            let known =
                [seccomp::KILL_PROCESS, seccomp::KILL_THREAD, seccomp::TRAP, seccomp::ERRNO, seccomp::TRACE, seccomp::LOG, seccomp::ALLOW];
            if known.contains(&action) { Ok(0) } else { bail!(EOPNOTSUPP, "no such action") }
        }
        _ => bail!(EINVAL, "operation {operation}, flags {flags:#x}"),
    }
}

/// `PR_SET_SECCOMP`.
pub(crate) fn by_prctl(t: &CurrentTask, mode: u64, args: u64) -> Result<u64> {
    match mode {
        1 => set_strict(t).map(|()| 0),
        2 => set_filter(t, 0, UserAddr(args)),
        _ => bail!(EINVAL, "mode {mode}"),
    }
}

fn set_strict(t: &CurrentTask) -> Result {
    let mut filters = t.info().seccomp.clone();
    if filters.mode() == 2 {
        bail!(EINVAL, "there are filters already");
    }
    filters.set_strict();
    t.set_filters(filters);
    Ok(())
}

fn set_filter(t: &CurrentTask, flags: u32, args: UserAddr) -> Result<u64> {
    if flags & !(of::FLAG_TSYNC | of::FLAG_LOG | of::FLAG_SPEC_ALLOW | of::FLAG_TSYNC_ESRCH) != 0 {
        bail!(EINVAL, "flags {flags:#x}");
    }
    let program = CallFilter::read(&t.mm(), args)?;
    if !t.cred().no_new_privs && !t.cred().capable(CapSet::SYS_ADMIN) {
        bail!(EACCES, "neither no_new_privs nor CAP_SYS_ADMIN");
    }
    let before = t.info().seccomp.clone();
    if before.mode() == 1 {
        bail!(EINVAL, "strict mode");
    }
    let mut filters = before.clone();
    if !filters.add(Arc::new(program)) {
        bail!(ENOMEM, "too many instructions in all filters");
    }
    if flags & of::FLAG_TSYNC != 0
        && let Some(tid) = synchronize(t, &before, &filters)
    {
        if flags & of::FLAG_TSYNC_ESRCH != 0 {
            bail!(ESRCH, "thread {tid} has filters of its own");
        }
        return Ok(u64::from(tid.unsigned_abs()));
    }
    t.set_filters(filters);
    Ok(0)
}

/// Gives all threads of the process the same filters; or names one that has others, and changes nothing.
fn synchronize(t: &CurrentTask, before: &Filters, filters: &Filters) -> Option<i32> {
    let others: Vec<_> = t.group().threads().into_iter().filter(|other| other.tid() != t.tid()).collect();
    if let Some(other) = others.iter().find(|other| !other.info().seccomp.is_beginning_of(before)) {
        return Some(other.tid());
    }
    let no_new_privs = t.cred().no_new_privs;
    for other in others {
        other.set_filters(filters.clone());
        if no_new_privs && !other.cred().no_new_privs {
            other.set_cred(kernel::cred::Credentials { no_new_privs, ..(*other.cred()).clone() });
        }
    }
    None
}
