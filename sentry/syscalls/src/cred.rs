//! User and group ids, groups, capabilities (credentials(7), capabilities(7)).

use crate::{row, table::Entry};
use abi::{Result, bail};
use kernel::{
    cred::{CapSet, Credentials},
    task::{
        CurrentTask,
        creds::{fix_capabilities, fix_fs_capabilities, valid_id},
    },
    user::UserRef,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

pub(crate) const ROWS: &[Entry] = &[
    row!("getuid", getuid),
    row!("geteuid", geteuid),
    row!("getgid", getgid),
    row!("getegid", getegid),
    row!("getresuid", getresuid),
    row!("getresgid", getresgid),
    row!("setuid", setuid),
    row!("setgid", setgid),
    row!("setreuid", setreuid),
    row!("setregid", setregid),
    row!("setresuid", setresuid),
    row!("setresgid", setresgid),
    row!("setfsuid", setfsuid),
    row!("setfsgid", setfsgid),
    row!("getgroups", getgroups),
    row!("setgroups", setgroups),
    row!("capget", capget),
    row!("capset", capset),
];

pub fn getuid(t: &mut CurrentTask) -> Result<u32> {
    Ok(t.cred().uid)
}

pub fn geteuid(t: &mut CurrentTask) -> Result<u32> {
    Ok(t.cred().euid)
}

pub fn getgid(t: &mut CurrentTask) -> Result<u32> {
    Ok(t.cred().gid)
}

pub fn getegid(t: &mut CurrentTask) -> Result<u32> {
    Ok(t.cred().egid)
}

pub fn getresuid(t: &mut CurrentTask, r: UserRef<u32>, e: UserRef<u32>, s: UserRef<u32>) -> Result<()> {
    let (c, mm) = (t.cred(), t.mm());
    mm.write(r, &c.uid)?;
    mm.write(e, &c.euid)?;
    mm.write(s, &c.suid)
}

pub fn getresgid(t: &mut CurrentTask, r: UserRef<u32>, e: UserRef<u32>, s: UserRef<u32>) -> Result<()> {
    let (c, mm) = (t.cred(), t.mm());
    mm.write(r, &c.gid)?;
    mm.write(e, &c.egid)?;
    mm.write(s, &c.sgid)
}

/// -1 leaves an id as it is.
fn given(id: u32) -> Option<u32> {
    (id != u32::MAX).then_some(id)
}

fn change_uids(t: &CurrentTask, change: impl FnOnce(&mut Credentials) -> Result) -> Result<()> {
    t.change_cred(|c| {
        let old = c.clone();
        change(c)?;
        c.fsuid = c.euid;
        fix_capabilities(&old, c);
        Ok(())
    })
}

fn change_gids(t: &CurrentTask, change: impl FnOnce(&mut Credentials) -> Result) -> Result<()> {
    t.change_cred(|c| {
        change(c)?;
        c.fsgid = c.egid;
        Ok(())
    })
}

pub fn setuid(t: &mut CurrentTask, uid: u32) -> Result<()> {
    let uid = valid_id(uid)?;
    change_uids(t, |c| {
        if c.capable(CapSet::SETUID) {
            (c.uid, c.euid, c.suid) = (uid, uid, uid);
        } else if uid == c.uid || uid == c.suid {
            c.euid = uid;
        } else {
            bail!(EPERM);
        }
        Ok(())
    })
}

pub fn setgid(t: &mut CurrentTask, gid: u32) -> Result<()> {
    let gid = valid_id(gid)?;
    change_gids(t, |c| {
        if c.capable(CapSet::SETGID) {
            (c.gid, c.egid, c.sgid) = (gid, gid, gid);
        } else if gid == c.gid || gid == c.sgid {
            c.egid = gid;
        } else {
            bail!(EPERM);
        }
        Ok(())
    })
}

pub fn setreuid(t: &mut CurrentTask, ruid: u32, euid: u32) -> Result<()> {
    change_uids(t, |c| {
        let privileged = c.capable(CapSet::SETUID);
        let old = c.clone();
        if let Some(r) = given(ruid) {
            if !privileged && r != old.uid && r != old.euid {
                bail!(EPERM);
            }
            c.uid = r;
        }
        if let Some(e) = given(euid) {
            if !privileged && ![old.uid, old.euid, old.suid].contains(&e) {
                bail!(EPERM);
            }
            c.euid = e;
        }
        if given(ruid).is_some() || given(euid).is_some_and(|e| e != old.uid) {
            c.suid = c.euid;
        }
        Ok(())
    })
}

pub fn setregid(t: &mut CurrentTask, rgid: u32, egid: u32) -> Result<()> {
    change_gids(t, |c| {
        let privileged = c.capable(CapSet::SETGID);
        let old = c.clone();
        if let Some(r) = given(rgid) {
            if !privileged && r != old.gid && r != old.egid {
                bail!(EPERM);
            }
            c.gid = r;
        }
        if let Some(e) = given(egid) {
            if !privileged && ![old.gid, old.egid, old.sgid].contains(&e) {
                bail!(EPERM);
            }
            c.egid = e;
        }
        if given(rgid).is_some() || given(egid).is_some_and(|e| e != old.gid) {
            c.sgid = c.egid;
        }
        Ok(())
    })
}

pub fn setresuid(t: &mut CurrentTask, r: u32, e: u32, s: u32) -> Result<()> {
    change_uids(t, |c| {
        let allowed = [c.uid, c.euid, c.suid];
        if !c.capable(CapSet::SETUID) && [r, e, s].into_iter().filter_map(given).any(|id| !allowed.contains(&id)) {
            bail!(EPERM);
        }
        c.uid = given(r).unwrap_or(c.uid);
        c.euid = given(e).unwrap_or(c.euid);
        c.suid = given(s).unwrap_or(c.suid);
        Ok(())
    })
}

pub fn setresgid(t: &mut CurrentTask, r: u32, e: u32, s: u32) -> Result<()> {
    change_gids(t, |c| {
        let allowed = [c.gid, c.egid, c.sgid];
        if !c.capable(CapSet::SETGID) && [r, e, s].into_iter().filter_map(given).any(|id| !allowed.contains(&id)) {
            bail!(EPERM);
        }
        c.gid = given(r).unwrap_or(c.gid);
        c.egid = given(e).unwrap_or(c.egid);
        c.sgid = given(s).unwrap_or(c.sgid);
        Ok(())
    })
}

/// Returns the id before, and never fails: setfsuid(2).
pub fn setfsuid(t: &mut CurrentTask, uid: u32) -> Result<u32> {
    let before = t.cred().fsuid;
    let allowed = |c: &Credentials| [c.uid, c.euid, c.suid, c.fsuid].contains(&uid) || c.capable(CapSet::SETUID);
    if given(uid).is_some() && allowed(&t.cred()) {
        t.change_cred(|c| {
            let old = c.clone();
            c.fsuid = uid;
            fix_fs_capabilities(&old, c);
            Ok(())
        })?;
    }
    Ok(before)
}

/// Returns the id before, and never fails: setfsgid(2).
pub fn setfsgid(t: &mut CurrentTask, gid: u32) -> Result<u32> {
    let before = t.cred().fsgid;
    let allowed = |c: &Credentials| [c.gid, c.egid, c.sgid, c.fsgid].contains(&gid) || c.capable(CapSet::SETGID);
    if given(gid).is_some() && allowed(&t.cred()) {
        t.change_cred(|c| {
            c.fsgid = gid;
            Ok(())
        })?;
    }
    Ok(before)
}

/// `NGROUPS_MAX`
const GROUPS_MAX: usize = 65536;

pub fn getgroups(t: &mut CurrentTask, size: i32, to: UserRef<u32>) -> Result<usize> {
    let cred = t.cred();
    let Ok(size) = usize::try_from(size) else { bail!(EINVAL) };
    if size > 0 {
        if cred.groups.len() > size {
            bail!(EINVAL, "no room for all groups");
        }
        t.mm().copy_out(to.addr(), cred.groups.as_bytes())?;
    }
    Ok(cred.groups.len())
}

pub fn setgroups(t: &mut CurrentTask, size: i32, from: UserRef<u32>) -> Result<()> {
    t.cred().require(CapSet::SETGID)?;
    let Some(size) = usize::try_from(size).ok().filter(|&n| n <= GROUPS_MAX) else { bail!(EINVAL) };
    let mut groups = vec![0u32; size];
    t.mm().copy_in(from.addr(), groups.as_mut_bytes())?;
    for &g in &groups {
        valid_id(g)?;
    }
    groups.sort_unstable();
    t.change_cred(|c| {
        c.groups = groups.into();
        Ok(())
    })
}

/// `struct __user_cap_header_struct`.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
pub struct CapHeader {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`.
#[repr(C)]
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
pub struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const VERSION_1: u32 = 0x1998_0330;
const VERSION_2: u32 = 0x2007_1026;
const VERSION_3: u32 = 0x2008_0522;

/// Words of the sets in this version; an unknown one is answered with the newest, and `EINVAL`.
fn words(t: &CurrentTask, at: UserRef<CapHeader>) -> Result<(CapHeader, u64)> {
    let header = t.mm().read(at)?;
    match header.version {
        VERSION_1 => Ok((header, 1)),
        VERSION_2 | VERSION_3 => Ok((header, 2)),
        _ => {
            t.mm().write(at, &CapHeader { version: VERSION_3, ..header })?;
            bail!(EINVAL, "unknown version of capabilities")
        }
    }
}

pub fn capget(t: &mut CurrentTask, at: UserRef<CapHeader>, to: UserRef<CapData>) -> Result<()> {
    let (header, n) = match words(t, at) {
        // Asking for the version alone.
        Err(e) if to.is_null() && e.is(abi::Errno::EINVAL) => return Ok(()),
        r => r?,
    };
    if header.pid < 0 {
        bail!(EINVAL);
    }
    let cred = if header.pid == 0 { t.cred() } else { t.pids().task(header.pid).ok_or(abi::error!(ESRCH))?.cred() };
    if to.is_null() {
        return Ok(());
    }
    for i in 0..n {
        let word = |s: CapSet| (s.bits() >> (32 * i)) as u32;
        let data = CapData { effective: word(cred.effective), permitted: word(cred.permitted), inheritable: word(cred.inheritable) };
        t.mm().write(to.at(i), &data)?;
    }
    Ok(())
}

pub fn capset(t: &mut CurrentTask, at: UserRef<CapHeader>, from: UserRef<CapData>) -> Result<()> {
    let (header, n) = words(t, at)?;
    if header.pid != 0 && header.pid != t.tid() {
        bail!(EPERM, "only one's own capabilities");
    }
    let (mut e, mut p, mut i) = (0u64, 0u64, 0u64);
    for w in 0..n {
        let d = t.mm().read(from.at(w))?;
        e |= u64::from(d.effective) << (32 * w);
        p |= u64::from(d.permitted) << (32 * w);
        i |= u64::from(d.inheritable) << (32 * w);
    }
    let [effective, permitted, inheritable] = [e, p, i].map(CapSet::from_bits_truncate);
    t.change_cred(|c| {
        let may_inherit = c.capable(CapSet::SETPCAP);
        if !may_inherit && !(c.inheritable | c.permitted).contains(inheritable) {
            bail!(EPERM, "inheritable set");
        }
        if !(c.inheritable | c.bounding).contains(inheritable) || !c.permitted.contains(permitted) || !permitted.contains(effective) {
            bail!(EPERM, "capability sets");
        }
        c.effective = effective;
        c.permitted = permitted;
        c.inheritable = inheritable;
        c.ambient &= permitted & inheritable;
        Ok(())
    })
}
