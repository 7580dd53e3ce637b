//! Changing a task's credentials.

use super::Task;
use crate::cred::{CapSet, Credentials};
use abi::{Result, bail};
use std::sync::{Arc, atomic::Ordering};

/// `SECBIT_NOROOT`: uid 0 has no special meaning to execve(2).
pub const SECBIT_NOROOT: u32 = 1;
/// `SECBIT_NO_SETUID_FIXUP`: changes of uid leave the capabilities alone.
pub const SECBIT_NO_SETUID_FIXUP: u32 = 1 << 2;
/// `SECBIT_KEEP_CAPS`: permitted capabilities survive giving up uid 0.
pub const SECBIT_KEEP_CAPS: u32 = 1 << 4;
/// `SECBIT_NO_CAP_AMBIENT_RAISE`
pub const SECBIT_NO_CAP_AMBIENT_RAISE: u32 = 1 << 6;

impl Task {
    /// Installs changed credentials (`commit_creds`): whose tasks it counts among, whether it can be inspected, and its parent-death
    /// signal follow.
    pub fn change_cred(&self, change: impl FnOnce(&mut Credentials) -> Result) -> Result {
        let (old, new) = {
            let mut slot = self.cred.write();
            let old = slot.clone();
            let mut new = (*old).clone();
            change(&mut new)?;
            *slot = Arc::new(new.clone());
            (old, new)
        };
        if old.uid != new.uid {
            self.pids().tree().recount(self, new.uid);
        }
        let ids = |c: &Credentials| (c.euid, c.egid, c.fsuid, c.fsgid);
        if ids(&old) != ids(&new) || !old.permitted.contains(new.permitted) {
            self.group().dumpable.store(0, Ordering::Relaxed);
            self.info().parent_death_signal = 0;
        }
        Ok(())
    }
}

/// What a change of uids does to capabilities (`cap_task_fix_setuid`): giving up the last uid of 0 drops them, taking effective uid 0 makes the
/// permitted ones effective.
pub fn fix_capabilities(old: &Credentials, new: &mut Credentials) {
    if new.securebits & SECBIT_NO_SETUID_FIXUP == 0 {
        let was_root = [old.uid, old.euid, old.suid].contains(&0);
        let is_root = [new.uid, new.euid, new.suid].contains(&0);
        if was_root && !is_root {
            if new.securebits & SECBIT_KEEP_CAPS == 0 {
                new.permitted = CapSet::empty();
                new.effective = CapSet::empty();
            }
            new.ambient = CapSet::empty();
        }
        if old.euid == 0 && new.euid != 0 {
            new.effective = CapSet::empty();
        }
        if old.euid != 0 && new.euid == 0 {
            new.effective = new.permitted;
        }
    }
    fix_fs_capabilities(old, new);
}

/// The same for the fs uid, which governs the file capabilities alone (`CAP_FS_SET`).
pub fn fix_fs_capabilities(old: &Credentials, new: &mut Credentials) {
    let file = CapSet::CHOWN
        | CapSet::DAC_OVERRIDE
        | CapSet::DAC_READ_SEARCH
        | CapSet::FOWNER
        | CapSet::FSETID
        | CapSet::LINUX_IMMUTABLE
        | CapSet::MKNOD
        | CapSet::MAC_OVERRIDE;
    if new.securebits & SECBIT_NO_SETUID_FIXUP != 0 {
        return;
    }
    if old.fsuid == 0 && new.fsuid != 0 {
        new.effective -= file;
    }
    if old.fsuid != 0 && new.fsuid == 0 {
        new.effective |= new.permitted & file;
    }
}

/// `EINVAL` for the id that no user has.
pub fn valid_id(id: u32) -> Result<u32> {
    if id == u32::MAX { bail!(EINVAL, "invalid id") } else { Ok(id) }
}
