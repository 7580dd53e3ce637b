//! Changing attributes: chmod(2), chown(2), utimensat(2), truncate(2); and reading them: stat(2), statx(2).

use super::{Attr, File, Inode, MountFlags, PathRef, SetAttr, SetTime, notify, open::drop_set_id, perm};
use crate::cred::{CapSet, Credentials};
use abi::{
    Result, bail,
    fs::{FileType, OpenFlags, Stat, Statx, StatxTimestamp},
    time::Timespec,
};

const S_ISUID: u32 = 0o4000;
const S_ISGID: u32 = 0o2000;

impl PathRef {
    fn change(&self, change: &SetAttr) -> Result {
        self.inode.ops.set_attr(&self.inode, change)?;
        let mask = if change.size.is_some() { notify::mask::MODIFY } else { notify::mask::ATTRIB };
        notify::event_at(&self.dentry, &self.inode, mask);
        Ok(())
    }

    /// chmod(2).
    pub fn chmod(&self, cred: &Credentials, mode: u32) -> Result {
        self.mount.check_writable()?;
        if self.inode.kind == FileType::Symlink {
            bail!(EOPNOTSUPP, "mode of a symbolic link");
        }
        let attr = self.inode.attr()?;
        if !perm::is_owner_or_capable(&attr, cred) {
            bail!(EPERM);
        }
        let mut perm = mode & 0o7777;
        if !cred.in_group(attr.gid) && !cred.capable(CapSet::FSETID) {
            perm &= !S_ISGID;
        }
        self.change(&SetAttr { perm: Some(perm), ..SetAttr::default() })
    }

    /// chown(2); `None` leaves an id.
    pub fn chown(&self, cred: &Credentials, uid: Option<u32>, gid: Option<u32>) -> Result {
        self.mount.check_writable()?;
        let attr = self.inode.attr()?;
        if !cred.capable(CapSet::CHOWN) {
            let owner = cred.fsuid == attr.uid;
            if uid.is_some_and(|u| !owner || u != attr.uid) {
                bail!(EPERM, "owner may not be changed");
            }
            if gid.is_some_and(|g| !owner || (g != attr.gid && !cred.in_group(g))) {
                bail!(EPERM, "group may not be changed");
            }
        }
        let mut perm = attr.perm;
        if !self.inode.is_dir() {
            perm &= !S_ISUID;
            let program = perm & 0o010 != 0;
            if program || !cred.in_group(attr.gid) && !cred.capable(CapSet::FSETID) {
                perm &= !S_ISGID;
            }
        }
        let perm = (perm != attr.perm).then_some(perm);
        self.change(&SetAttr { uid, gid, perm, ..SetAttr::default() })
    }

    /// utimensat(2); `None` leaves a time (`UTIME_OMIT`).
    pub fn set_times(&self, cred: &Credentials, atime: Option<SetTime>, mtime: Option<SetTime>) -> Result {
        if atime.is_none() && mtime.is_none() {
            return Ok(());
        }
        self.mount.check_writable()?;
        if !perm::is_owner_or_capable(&self.inode.attr()?, cred) {
            // Who may write may set both to now.
            if (atime, mtime) != (Some(SetTime::Now), Some(SetTime::Now)) {
                bail!(EPERM);
            }
            perm::check(&self.inode, cred, perm::WRITE)?;
        }
        self.change(&SetAttr { atime, mtime, ..SetAttr::default() })
    }

    /// truncate(2).
    pub fn truncate(&self, cred: &Credentials, size: u64) -> Result {
        match self.inode.kind {
            FileType::Regular => {}
            FileType::Directory => bail!(EISDIR),
            _ => bail!(EINVAL, "not a regular file"),
        }
        perm::check_path(self, cred, perm::WRITE)?;
        self.inode.get_write_access()?;
        let done = set_size(&self.inode, size, cred);
        self.inode.put_write_access();
        done?;
        notify::event_at(&self.dentry, &self.inode, notify::mask::MODIFY);
        Ok(())
    }
}

/// Truncates or extends a regular file that the caller may write. The file system keeps it apart from reads and writes.
pub(super) fn set_size(inode: &Inode, size: u64, cred: &Credentials) -> Result {
    drop_set_id(inode, &inode.attr()?, cred)?;
    inode.ops.set_attr(inode, &SetAttr { size: Some(size), ..SetAttr::default() })
}

impl File {
    /// ftruncate(2).
    pub fn truncate(&self, cred: &Credentials, size: u64) -> Result {
        if self.inode().kind != FileType::Regular || !self.flags().writable() {
            bail!(EINVAL, "not a regular file open for writing");
        }
        set_size(self.inode(), size, cred)?;
        notify::event_at(&self.path.dentry, self.inode(), notify::mask::MODIFY);
        Ok(())
    }

    /// Whether a read of this file is to set its access time, as mount and open flags say (relatime: only if it is older than the
    /// last change, or a day).
    pub fn updates_atime(&self, attr: &Attr, now: Timespec) -> bool {
        let mount = self.path.mount.flags();
        if self.flags().contains(OpenFlags::NOATIME)
            || mount.intersects(MountFlags::NOATIME | MountFlags::RDONLY)
            || self.inode().is_dir() && mount.contains(MountFlags::NODIRATIME)
        {
            return false;
        }
        !mount.contains(MountFlags::RELATIME)
            || attr.atime <= attr.mtime
            || attr.atime <= attr.ctime
            || now.sec.saturating_sub(attr.atime.sec) >= 86_400
    }
}

/// `st_mode`. Files of anon_inodefs have no type.
fn mode(inode: &Inode, attr: &Attr) -> u32 {
    let kind = if inode.sb.fs_name == "anon_inodefs" { 0 } else { inode.kind.mode() };
    kind | attr.perm & 0o7777
}

/// What stat(2) tells of a file.
pub fn stat(inode: &Inode) -> Result<Stat> {
    let a = inode.attr()?;
    Ok(Stat {
        dev: inode.sb.dev,
        ino: inode.ino,
        nlink: a.nlink.into(),
        mode: mode(inode, &a),
        uid: a.uid,
        gid: a.gid,
        rdev: a.rdev,
        size: i64::try_from(a.size).unwrap_or(i64::MAX),
        blksize: a.blksize.into(),
        blocks: i64::try_from(a.blocks).unwrap_or(i64::MAX),
        atime: a.atime,
        mtime: a.mtime,
        ctime: a.ctime,
        ..Stat::default()
    })
}

/// `STATX_BASIC_STATS`, and the others that are given.
const STATX_BASIC: u32 = 0x7ff;
const STATX_BTIME: u32 = 0x800;
const STATX_MNT_ID: u32 = 0x1000;
const STATX_ATTR_MOUNT_ROOT: u64 = 0x2000;

/// What statx(2) tells of a place.
pub fn statx(path: &PathRef) -> Result<Statx> {
    let inode = &path.inode;
    let a = inode.attr()?;
    let time = |t: Timespec| StatxTimestamp { sec: t.sec, nsec: u32::try_from(t.nsec).unwrap_or(0), pad: 0 };
    Ok(Statx {
        mask: STATX_BASIC | STATX_MNT_ID | if a.btime.is_some() { STATX_BTIME } else { 0 },
        blksize: a.blksize,
        attributes: if path.is_mount_root() { STATX_ATTR_MOUNT_ROOT } else { 0 },
        nlink: a.nlink,
        uid: a.uid,
        gid: a.gid,
        mode: mode(inode, &a) as u16,
        pad0: 0,
        ino: inode.ino,
        size: a.size,
        blocks: a.blocks,
        attributes_mask: STATX_ATTR_MOUNT_ROOT,
        atime: time(a.atime),
        btime: time(a.btime.unwrap_or_default()),
        ctime: time(a.ctime),
        mtime: time(a.mtime),
        rdev_major: abi::fs::major(a.rdev),
        rdev_minor: abi::fs::minor(a.rdev),
        dev_major: abi::fs::major(inode.sb.dev),
        dev_minor: abi::fs::minor(inode.sb.dev),
        mnt_id: path.mount.id.into(),
        dio: [0; 2],
        spare: [0; 12],
    })
}
