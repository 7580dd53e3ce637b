//! What execve(2) does to credentials (security/commoncap.c): set-id bits, file capabilities, root's privileges.

use crate::cred::{CapSet, Credentials};
use crate::vfs::{Attr, File, MountFlags};
use abi::{Result, bail};

const S_ISUID: u32 = 0o4000;
const S_ISGID: u32 = 0o2000;
const S_IXGRP: u32 = 0o010;

/// `SECBIT_NOROOT`
const NOROOT: u32 = 1;
/// `SECBIT_KEEP_CAPS`
const KEEP_CAPS: u32 = 1 << 4;

/// `VFS_CAP_REVISION_MASK`, and the revisions that are known.
const REVISION_MASK: u32 = 0xff00_0000;
const REVISION_1: u32 = 0x0100_0000;
const REVISION_2: u32 = 0x0200_0000;
const REVISION_3: u32 = 0x0300_0000;
const EFFECTIVE: u32 = 1;

/// Capabilities of a file (capabilities(7)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FileCaps {
    permitted: CapSet,
    inheritable: CapSet,
    effective: bool,
}

impl FileCaps {
    /// From the value of `security.capability`.
    fn parse(value: &[u8]) -> Option<FileCaps> {
        let word = |i: usize| value.get(i * 4..i * 4 + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
        let magic = word(0)?;
        let (low, high) = match (magic & REVISION_MASK, value.len()) {
            (REVISION_1, 12) => ((word(1)?, word(2)?), (0, 0)),
            (REVISION_2, 20) => ((word(1)?, word(2)?), (word(3)?, word(4)?)),
            // The third revision is for another user namespace unless its root is ours.
            (REVISION_3, 24) if word(5)? == 0 => ((word(1)?, word(2)?), (word(3)?, word(4)?)),
            _ => return None,
        };
        let set = |l: u32, h: u32| CapSet::from_bits_truncate(u64::from(l) | u64::from(h) << 32);
        Some(FileCaps { permitted: set(low.0, high.0), inheritable: set(low.1, high.1), effective: magic & EFFECTIVE != 0 })
    }
}

/// The credentials that a program gets, and whether it is privileged beyond its caller (`AT_SECURE`).
pub(crate) fn of_program(old: &Credentials, file: &File) -> Result<(Credentials, bool)> {
    let attr = file.inode().attr()?;
    let may_suid = !file.path.mount.flags().contains(MountFlags::NOSUID);
    let caps = if may_suid {
        // A file system without extended attributes has no capabilities to give.
        file.path.getxattr(&Credentials::root(), b"security.capability").ok().and_then(|v| FileCaps::parse(&v))
    } else {
        None
    };
    compute(old, &attr, may_suid && !old.no_new_privs, caps)
}

fn compute(old: &Credentials, attr: &Attr, set_ids: bool, caps: Option<FileCaps>) -> Result<(Credentials, bool)> {
    let mut new = old.clone();
    if set_ids && attr.perm & S_ISUID != 0 {
        new.euid = attr.uid;
    }
    if set_ids && attr.perm & (S_ISGID | S_IXGRP) == S_ISGID | S_IXGRP {
        new.egid = attr.gid;
    }
    let mut effective = false;
    new.permitted = CapSet::empty();
    if let Some(c) = caps {
        new.permitted = (new.bounding & c.permitted) | (new.inheritable & c.inheritable);
        effective = c.effective;
        if c.effective && !new.permitted.contains(c.permitted) {
            bail!(EPERM, "a capability of the file is not in the bounding set");
        }
    }
    let root_counts = new.securebits & NOROOT == 0;
    // A set-user-id root program with file capabilities gets those alone.
    let caps_win = caps.is_some() && new.uid != 0 && new.euid == 0;
    if root_counts && !caps_win {
        if new.euid == 0 || new.uid == 0 {
            new.permitted = new.bounding | new.inheritable;
        }
        if new.euid == 0 {
            effective = true;
        }
    }
    let is_setid = new.euid != new.uid || new.egid != new.gid;
    let gained = !old.permitted.contains(new.permitted);
    if (is_setid || gained) && old.no_new_privs {
        new.euid = new.uid;
        new.egid = new.gid;
        new.permitted &= old.permitted;
    }
    new.suid = new.euid;
    new.fsuid = new.euid;
    new.sgid = new.egid;
    new.fsgid = new.egid;
    let is_setid = new.euid != old.euid || new.egid != old.egid;
    if caps.is_some() || is_setid {
        new.ambient = CapSet::empty();
    }
    new.permitted |= new.ambient;
    new.effective = if effective { new.permitted } else { new.ambient };
    new.securebits &= !KEEP_CAPS;
    let real_root = new.uid == 0 && root_counts;
    let secure = is_setid || !real_root && (effective || !new.ambient.contains(new.permitted));
    Ok((new, secure))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32) -> Credentials {
        let none = CapSet::empty();
        Credentials {
            uid,
            euid: uid,
            suid: uid,
            fsuid: uid,
            gid: uid,
            egid: uid,
            sgid: uid,
            fsgid: uid,
            permitted: none,
            effective: none,
            ..Credentials::root()
        }
    }

    fn file(perm: u32) -> Attr {
        Attr { perm, ..Attr::default() }
    }

    #[test]
    fn root_keeps_and_users_have_nothing() {
        let (c, secure) = compute(&Credentials::root(), &file(0o755), true, None).expect("root");
        assert!(c.effective == CapSet::all() && !secure);
        let (c, secure) = compute(&user(5), &file(0o755), true, None).expect("user");
        assert!(c.permitted.is_empty() && !secure && c.euid == 5);
    }

    #[test]
    fn set_user_id_gives_root_unless_forbidden() {
        let (c, secure) = compute(&user(5), &file(0o4755), true, None).expect("suid");
        assert!(c.euid == 0 && c.suid == 0 && c.uid == 5 && secure && c.effective == CapSet::all());
        let (c, secure) = compute(&user(5), &file(0o4755), false, None).expect("nosuid");
        assert!(c.euid == 5 && !secure && c.effective.is_empty());
    }

    #[test]
    fn file_capabilities() {
        let caps = FileCaps { permitted: CapSet::NET_RAW, inheritable: CapSet::empty(), effective: true };
        let (c, secure) = compute(&user(5), &file(0o755), true, Some(caps)).expect("caps");
        assert!(c.effective == CapSet::NET_RAW && secure);
        let less = Credentials { bounding: CapSet::CHOWN, ..user(5) };
        assert!(compute(&less, &file(0o755), true, Some(caps)).is_err());
        let locked = Credentials { no_new_privs: true, ..user(5) };
        let (c, _) = compute(&locked, &file(0o755), false, Some(caps)).expect("caps");
        assert!(c.permitted.is_empty());
    }

    #[test]
    fn ambient_capabilities_survive_plain_programs() {
        let a = Credentials { permitted: CapSet::CHOWN, inheritable: CapSet::CHOWN, ambient: CapSet::CHOWN, ..user(5) };
        let (c, secure) = compute(&a, &file(0o755), true, None).expect("ambient");
        assert!(c.effective == CapSet::CHOWN && !secure);
        let (c, _) = compute(&a, &file(0o2755), true, None).expect("setgid");
        assert!(c.ambient.is_empty());
    }

    #[test]
    fn xattr_formats() {
        let mut v = (REVISION_2 | EFFECTIVE).to_le_bytes().to_vec();
        v.extend([0x00, 0x20, 0, 0].iter().chain([0; 12].iter()));
        let c = FileCaps::parse(&v).expect("v2");
        assert!(c.effective && c.permitted == CapSet::NET_RAW && c.inheritable.is_empty());
        assert_eq!(FileCaps::parse(&v[..12]), None);
    }
}
