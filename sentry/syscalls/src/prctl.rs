//! prctl(2).

use crate::{row, table::Entry};
use abi::{Errno, Result, bail, error, libc, signal::Signal};
use kernel::{
    cred::CapSet,
    task::{
        CurrentTask,
        creds::{SECBIT_KEEP_CAPS, SECBIT_NO_CAP_AMBIENT_RAISE},
    },
    user::UserAddr,
};
use std::sync::atomic::Ordering;

pub(crate) const ROWS: &[Entry] = &[row!("prctl", prctl, Partial("no PR_SET_MM, no speculation control"))];

/// Options that the libc crate does not name.
mod option {
    pub const SET_VMA: i32 = 0x5356_4d41;
    pub const SET_IO_FLUSHER: i32 = 57;
    pub const GET_IO_FLUSHER: i32 = 58;
    pub const GET_AUXV: i32 = 0x4155_5856;
    pub const SET_PTRACER: i32 = 0x5961_6d61;
}

fn capability(n: u64) -> Result<CapSet> {
    1u64.checked_shl(n as u32).filter(|_| n < 64).and_then(CapSet::from_bits).ok_or(error!(EINVAL, "no such capability"))
}

pub fn prctl(t: &mut CurrentTask, which: i32, a2: u64, a3: u64, a4: u64, a5: u64) -> Result<u64> {
    let unused = |args: &[u64]| -> Result { if args.iter().any(|&a| a != 0) { bail!(EINVAL, "unused argument") } else { Ok(()) } };
    let mm = t.mm();
    match which {
        libc::PR_SET_NAME => {
            let name = match mm.read_cstr(UserAddr(a2), 16) {
                Err(e) if e.is(Errno::ENAMETOOLONG) => {
                    let mut bytes = vec![0; 15];
                    mm.copy_in(UserAddr(a2), &mut bytes)?;
                    bytes
                }
                r => r?,
            };
            t.info().comm = name.into_iter().take(15).collect();
        }
        libc::PR_GET_NAME => {
            let mut name = t.comm();
            name.resize(16, 0);
            mm.copy_out(UserAddr(a2), &name)?;
        }
        libc::PR_SET_PDEATHSIG => {
            if a2 != 0 && Signal::new(a2).is_none() {
                bail!(EINVAL, "no such signal");
            }
            t.info().parent_death_signal = a2 as u8;
        }
        libc::PR_GET_PDEATHSIG => {
            let signal = i32::from(t.info().parent_death_signal);
            mm.write(UserAddr(a2).cast(), &signal)?;
        }
        libc::PR_SET_DUMPABLE => match a2 {
            0 | 1 => t.group().dumpable.store(a2 as i32, Ordering::Relaxed),
            _ => bail!(EINVAL),
        },
        libc::PR_GET_DUMPABLE => return Ok(t.group().dumpable.load(Ordering::Relaxed) as u64),
        libc::PR_SET_CHILD_SUBREAPER => t.group().child_subreaper.store(a2 != 0, Ordering::Relaxed),
        libc::PR_GET_CHILD_SUBREAPER => {
            let on = i32::from(t.group().child_subreaper.load(Ordering::Relaxed));
            mm.write(UserAddr(a2).cast(), &on)?;
        }
        libc::PR_SET_NO_NEW_PRIVS => {
            if a2 != 1 {
                bail!(EINVAL);
            }
            unused(&[a3, a4, a5])?;
            t.change_cred(|c| {
                c.no_new_privs = true;
                Ok(())
            })?;
        }
        libc::PR_GET_NO_NEW_PRIVS => {
            unused(&[a2, a3, a4, a5])?;
            return Ok(u64::from(t.cred().no_new_privs));
        }
        libc::PR_SET_KEEPCAPS | libc::PR_GET_KEEPCAPS | libc::PR_SET_SECUREBITS | libc::PR_GET_SECUREBITS => {
            return securebits(t, which, a2);
        }
        libc::PR_CAPBSET_READ => return Ok(u64::from(t.cred().bounding.contains(capability(a2)?))),
        libc::PR_CAPBSET_DROP => {
            let cap = capability(a2)?;
            t.cred().require(CapSet::SETPCAP)?;
            t.change_cred(|c| {
                c.bounding -= cap;
                Ok(())
            })?;
        }
        libc::PR_CAP_AMBIENT => return ambient(t, a2 as i32, a3, &[a4, a5]),
        libc::PR_SET_TIMERSLACK => t.info().timer_slack_ns = if a2 == 0 { 50_000 } else { a2 },
        libc::PR_GET_TIMERSLACK => return Ok(t.info().timer_slack_ns),
        libc::PR_SET_THP_DISABLE => {
            unused(&[a3, a4, a5])?;
            t.info().thp_disable = a2 != 0;
        }
        libc::PR_GET_THP_DISABLE => {
            unused(&[a2, a3, a4, a5])?;
            return Ok(u64::from(t.info().thp_disable));
        }
        option::SET_IO_FLUSHER => {
            t.cred().require(CapSet::SYS_RESOURCE)?;
            t.info().io_flusher = a2 != 0;
        }
        option::GET_IO_FLUSHER => {
            t.cred().require(CapSet::SYS_RESOURCE)?;
            return Ok(u64::from(t.info().io_flusher));
        }
        libc::PR_GET_TID_ADDRESS => {
            let addr = t.info().clear_child_tid;
            mm.write(UserAddr(a2).cast(), &addr)?;
        }
        libc::PR_GET_TSC => mm.write(UserAddr(a2).cast(), &libc::PR_TSC_ENABLE)?,
        libc::PR_SET_TSC if a2 == libc::PR_TSC_ENABLE as u64 => {}
        libc::PR_GET_TIMING => return Ok(0),
        libc::PR_SET_TIMING if a2 == 0 => {}
        libc::PR_GET_SECCOMP => return Ok(t.info().seccomp.mode().into()),
        libc::PR_SET_SECCOMP => return crate::seccomp::by_prctl(t, a2, a3),
        libc::PR_MCE_KILL_GET => return Ok(u64::from(t.info().mce_kill)),
        option::SET_VMA => {
            let name = if a5 == 0 { None } else { Some(mm.read_cstr(UserAddr(a5), 80)?) };
            if a2 != 0 {
                bail!(EINVAL, "only PR_SET_VMA_ANON_NAME");
            }
            mm.set_vma_name(UserAddr(a3), a4, name.as_deref())?;
        }
        option::GET_AUXV => {
            unused(&[a4, a5])?;
            let bytes: Vec<u8> = mm.layout().auxv.iter().flat_map(|(k, v)| [k.to_ne_bytes(), v.to_ne_bytes()].concat()).collect();
            let n = usize::try_from(a3).unwrap_or(usize::MAX).min(bytes.len());
            mm.copy_out(UserAddr(a2), &bytes[..n])?;
            return Ok(bytes.len() as u64);
        }
        // Who may trace is moot where nobody can.
        option::SET_PTRACER => {}
        _ => bail!(EINVAL, "prctl option {which}"),
    }
    Ok(0)
}

fn securebits(t: &CurrentTask, which: i32, a2: u64) -> Result<u64> {
    let now = t.cred().securebits;
    match which {
        libc::PR_GET_SECUREBITS => Ok(u64::from(now)),
        libc::PR_GET_KEEPCAPS => Ok(u64::from(now & SECBIT_KEEP_CAPS != 0)),
        libc::PR_SET_KEEPCAPS => {
            if a2 > 1 {
                bail!(EINVAL);
            }
            if now & (SECBIT_KEEP_CAPS << 1) != 0 {
                bail!(EPERM, "the bit is locked");
            }
            t.change_cred(|c| {
                c.securebits = c.securebits & !SECBIT_KEEP_CAPS | if a2 == 1 { SECBIT_KEEP_CAPS } else { 0 };
                Ok(())
            })?;
            Ok(0)
        }
        _ => {
            let new = a2 as u32;
            // Every second bit locks the one below it.
            let locks = 0xaa;
            let locked = (now & locks) >> 1;
            if new & !0xff != 0 || (now ^ new) & locked != 0 || now & locks & !new != 0 {
                bail!(EPERM, "a locked or unknown bit");
            }
            t.cred().require(CapSet::SETPCAP)?;
            t.change_cred(|c| {
                c.securebits = new;
                Ok(())
            })?;
            Ok(0)
        }
    }
}

fn ambient(t: &CurrentTask, what: i32, cap: u64, rest: &[u64]) -> Result<u64> {
    if rest.iter().any(|&a| a != 0) {
        bail!(EINVAL);
    }
    if what == libc::PR_CAP_AMBIENT_CLEAR_ALL {
        if cap != 0 {
            bail!(EINVAL);
        }
        t.change_cred(|c| {
            c.ambient = CapSet::empty();
            Ok(())
        })?;
        return Ok(0);
    }
    let cap = capability(cap)?;
    match what {
        libc::PR_CAP_AMBIENT_IS_SET => return Ok(u64::from(t.cred().ambient.contains(cap))),
        libc::PR_CAP_AMBIENT_RAISE => t.change_cred(|c| {
            if !(c.permitted & c.inheritable).contains(cap) || c.securebits & SECBIT_NO_CAP_AMBIENT_RAISE != 0 {
                bail!(EPERM, "not permitted and inheritable");
            }
            c.ambient |= cap;
            Ok(())
        })?,
        libc::PR_CAP_AMBIENT_LOWER => t.change_cred(|c| {
            c.ambient -= cap;
            Ok(())
        })?,
        _ => bail!(EINVAL),
    }
    Ok(0)
}
