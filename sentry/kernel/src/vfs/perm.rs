//! Permission checks (fs/namei.c's `inode_permission` and its kin).

use super::{Attr, Inode, MountFlags, PathRef};
use crate::cred::{CapSet, Credentials};
use abi::{Result, bail, fs::FileType};

/// Search a directory, execute a file.
pub const EXEC: u32 = 1;
/// Write.
pub const WRITE: u32 = 2;
/// Read.
pub const READ: u32 = 4;

const S_ISUID: u32 = 0o4000;
const S_ISGID: u32 = 0o2000;
const S_ISVTX: u32 = 0o1000;

/// Whether these credentials may do `mask` to the inode; the mount is not asked ([`check_path`] does).
pub fn check(inode: &Inode, cred: &Credentials, mask: u32) -> Result {
    if let Some(r) = inode.ops.permission(inode, cred, mask) {
        return r;
    }
    let attr = inode.attr()?;
    check_attr(inode.kind, &attr, cred, mask)
}

/// The ordinary check of mode bits and capabilities.
pub fn check_attr(kind: FileType, attr: &Attr, cred: &Credentials, mask: u32) -> Result {
    let bits = if cred.fsuid == attr.uid {
        attr.perm >> 6
    } else if cred.in_group(attr.gid) {
        attr.perm >> 3
    } else {
        attr.perm
    };
    if bits & mask == mask {
        return Ok(());
    }
    if kind == FileType::Directory {
        if cred.capable(CapSet::DAC_OVERRIDE) || mask & WRITE == 0 && cred.capable(CapSet::DAC_READ_SEARCH) {
            return Ok(());
        }
    } else {
        if mask == READ && cred.capable(CapSet::DAC_READ_SEARCH) {
            return Ok(());
        }
        if (mask & EXEC == 0 || attr.perm & 0o111 != 0) && cred.capable(CapSet::DAC_OVERRIDE) {
            return Ok(());
        }
    }
    bail!(EACCES, "mode {:o} of {}:{} does not allow {mask}", attr.perm, attr.uid, attr.gid)
}

/// As [`check`], with what the mount forbids: writing to a read-only one, executing from a noexec one.
pub fn check_path(at: &PathRef, cred: &Credentials, mask: u32) -> Result {
    let writes_tree = matches!(at.inode.kind, FileType::Regular | FileType::Directory | FileType::Symlink);
    if mask & WRITE != 0 && writes_tree {
        at.mount.check_writable()?;
    }
    if mask & EXEC != 0 && at.inode.kind == FileType::Regular && at.mount.flags().contains(MountFlags::NOEXEC) {
        bail!(EACCES, "mount is noexec");
    }
    check(&at.inode, cred, mask)
}

/// Whether these credentials own the inode, or may act as its owner (CAP_FOWNER).
pub fn is_owner_or_capable(attr: &Attr, cred: &Credentials) -> bool {
    cred.fsuid == attr.uid || cred.capable(CapSet::FOWNER)
}

/// `fs.protected_symlinks` = 1: in a sticky directory that others may write, a link is followed only if it belongs to who follows it or
/// to the directory's owner.
pub(super) fn may_follow_link(dir: &Inode, link: &Inode, cred: &Credentials) -> Result {
    let d = dir.attr()?;
    if d.perm & (S_ISVTX | 0o002) != S_ISVTX | 0o002 {
        return Ok(());
    }
    let owner = link.attr()?.uid;
    if owner == cred.fsuid || owner == d.uid {
        return Ok(());
    }
    bail!(EACCES, "protected symbolic link")
}

/// `fs.protected_hardlinks` = 1: only the owner may link to special files, set-id files and files that it may not read and write.
pub(super) fn may_linkat(inode: &Inode, cred: &Credentials) -> Result {
    let attr = inode.attr()?;
    let safe = inode.kind == FileType::Regular
        && attr.perm & S_ISUID == 0
        && attr.perm & (S_ISGID | 0o010) != S_ISGID | 0o010
        && check(inode, cred, READ | WRITE).is_ok();
    if safe || is_owner_or_capable(&attr, cred) { Ok(()) } else { bail!(EPERM, "protected hard link") }
}

/// `fs.protected_regular` and `fs.protected_fifos` are 0 where nobody sets them; Debian sets 2 and 1: in a sticky directory an existing
/// file of somebody else is not opened by O_CREAT if the directory is writable for others, or for its group.
pub(super) fn may_create_in_sticky(dir: &Attr, inode: &Inode, cred: &Credentials) -> Result {
    if dir.perm & S_ISVTX == 0 || !matches!(inode.kind, FileType::Regular | FileType::Fifo) {
        return Ok(());
    }
    let owner = inode.attr()?.uid;
    if owner == dir.uid || owner == cred.fsuid {
        return Ok(());
    }
    let group_too = inode.kind == FileType::Regular && dir.perm & 0o020 != 0;
    if dir.perm & 0o002 != 0 || group_too {
        bail!(EACCES, "protected file in a sticky directory");
    }
    Ok(())
}

/// `may_create`: a new name in this directory.
pub(super) fn may_create(dir: &PathRef, cred: &Credentials) -> Result {
    if dir.dentry.is_unlinked() {
        bail!(ENOENT, "directory was removed");
    }
    check_path(dir, cred, WRITE | EXEC)
}

/// `may_delete`: taking a name out of this directory. `want_dir`: by rmdir(2), or a rename of a directory.
pub(super) fn may_delete(dir: &PathRef, victim: &Inode, cred: &Credentials, want_dir: bool) -> Result {
    check_path(dir, cred, WRITE | EXEC)?;
    let d = dir.inode.attr()?;
    if d.perm & S_ISVTX != 0 && d.uid != cred.fsuid && !cred.capable(CapSet::FOWNER) && victim.attr()?.uid != cred.fsuid {
        bail!(EPERM, "sticky directory");
    }
    match (want_dir, victim.is_dir()) {
        (true, false) => bail!(ENOTDIR),
        (false, true) => bail!(EISDIR),
        _ => Ok(()),
    }
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
            bounding: none,
            ..Credentials::root()
        }
    }

    #[test]
    fn mode_bits() {
        let a = |perm| Attr { perm, uid: 5, gid: 6, ..Attr::default() };
        let f = FileType::Regular;
        // The owner's bits alone count for the owner.
        assert!(check_attr(f, &a(0o077), &user(5), READ).is_err());
        assert!(check_attr(f, &a(0o070), &user(6), READ | WRITE | EXEC).is_ok());
        assert!(check_attr(f, &a(0o770), &user(7), READ).is_err());
        assert!(check_attr(f, &a(0o000), &Credentials::root(), READ | WRITE).is_ok());
        assert!(check_attr(f, &a(0o000), &Credentials::root(), EXEC).is_err());
        assert!(check_attr(f, &a(0o100), &Credentials::root(), EXEC).is_ok());
        assert!(check_attr(FileType::Directory, &a(0), &Credentials::root(), WRITE | EXEC).is_ok());
    }
}
