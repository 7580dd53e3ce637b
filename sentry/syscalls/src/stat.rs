//! Attributes: the stat(2) family, statx(2), access(2), chmod(2), chown(2), utimensat(2), truncate(2), statfs(2).

use crate::{
    arg::{DirFd, UserCStr},
    at::{At, lookup, only, walker},
    row,
    table::Entry,
};
use abi::{
    Result, bail,
    fs::{Stat, Statfs, Statx},
    libc,
    time::{Timespec, Timeval},
};
use kernel::{
    cred::{CapSet, Credentials},
    task::CurrentTask,
    user::UserRef,
    vfs::{self, Fd, Lookup, PathRef, SetTime, perm},
};
use std::sync::Arc;

pub(crate) const ROWS: &[Entry] = &[
    row!("stat", stat),
    row!("lstat", lstat),
    row!("fstat", fstat),
    row!("newfstatat", newfstatat),
    row!("statx", statx),
    row!("access", access),
    row!("faccessat", faccessat),
    row!("faccessat2", faccessat2),
    row!("chmod", chmod),
    row!("fchmod", fchmod),
    row!("fchmodat", fchmodat),
    row!("fchmodat2", fchmodat2),
    row!("chown", chown),
    row!("lchown", lchown),
    row!("fchown", fchown),
    row!("fchownat", fchownat),
    row!("utime", utime),
    row!("utimes", utimes),
    row!("futimesat", futimesat),
    row!("utimensat", utimensat),
    row!("truncate", truncate),
    row!("ftruncate", ftruncate),
    row!("statfs", statfs),
    row!("fstatfs", fstatfs),
];

pub fn stat(t: &mut CurrentTask, path: UserCStr, to: UserRef<Stat>) -> Result<()> {
    newfstatat(t, DirFd::Cwd, path, to, 0)
}

pub fn lstat(t: &mut CurrentTask, path: UserCStr, to: UserRef<Stat>) -> Result<()> {
    newfstatat(t, DirFd::Cwd, path, to, libc::AT_SYMLINK_NOFOLLOW as u32)
}

pub fn fstat(t: &mut CurrentTask, fd: Fd, to: UserRef<Stat>) -> Result<()> {
    let file = t.files().get(fd)?;
    t.mm().write(to, &vfs::stat(file.inode())?)
}

pub fn newfstatat(t: &mut CurrentTask, dir: DirFd, path: UserCStr, to: UserRef<Stat>, flags: u32) -> Result<()> {
    only(flags, libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH | libc::AT_NO_AUTOMOUNT)?;
    let place = At::maybe_null(t, dir, path, flags)?.walk(t, lookup(flags))?;
    t.mm().write(to, &vfs::stat(&place.inode)?)
}

/// `STATX__RESERVED`
const RESERVED: u32 = 0x8000_0000;
/// `AT_STATX_SYNC_TYPE`
const SYNC_TYPE: i32 = 0x6000;

pub fn statx(t: &mut CurrentTask, dir: DirFd, path: UserCStr, flags: u32, mask: u32, to: UserRef<Statx>) -> Result<()> {
    only(flags, libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH | libc::AT_NO_AUTOMOUNT | SYNC_TYPE)?;
    if mask & RESERVED != 0 || flags & SYNC_TYPE as u32 == SYNC_TYPE as u32 {
        bail!(EINVAL);
    }
    let place = At::maybe_null(t, dir, path, flags)?.walk(t, lookup(flags))?;
    t.mm().write(to, &vfs::statx(&place)?)
}

pub fn access(t: &mut CurrentTask, path: UserCStr, mode: u32) -> Result<()> {
    faccessat2(t, DirFd::Cwd, path, mode, 0)
}

pub fn faccessat(t: &mut CurrentTask, dir: DirFd, path: UserCStr, mode: u32) -> Result<()> {
    faccessat2(t, dir, path, mode, 0)
}

pub fn faccessat2(t: &mut CurrentTask, dir: DirFd, path: UserCStr, mode: u32, flags: u32) -> Result<()> {
    only(flags, libc::AT_EACCESS | libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH)?;
    if mode & !7 != 0 {
        bail!(EINVAL, "mode");
    }
    let at = At::new(t, dir, path)?;
    let mut walker = walker(t);
    if flags & libc::AT_EACCESS as u32 == 0 {
        walker.cred = Arc::new(real_credentials(&walker.cred));
    }
    let place = walker.walk(&at.start, &at.path, lookup(flags))?;
    if mode & perm::WRITE != 0
        && matches!(place.inode.kind, abi::fs::FileType::Regular | abi::fs::FileType::Directory | abi::fs::FileType::Symlink)
    {
        place.mount.check_writable()?;
    }
    perm::check_path(&place, &walker.cred, mode)
}

/// What access(2) checks with: the real ids, and root's capabilities only if the real user is root (`access_override_creds`).
fn real_credentials(cred: &Credentials) -> Credentials {
    let mut c = cred.clone();
    c.fsuid = c.uid;
    c.fsgid = c.gid;
    c.effective = if c.uid == 0 { c.permitted } else { CapSet::empty() };
    c
}

pub fn chmod(t: &mut CurrentTask, path: UserCStr, mode: u32) -> Result<()> {
    fchmodat2(t, DirFd::Cwd, path, mode, 0)
}

pub fn fchmod(t: &mut CurrentTask, fd: Fd, mode: u32) -> Result<()> {
    let file = t.files().get_open(fd)?;
    file.path.chmod(&t.cred(), mode & 0o7777)
}

pub fn fchmodat(t: &mut CurrentTask, dir: DirFd, path: UserCStr, mode: u32) -> Result<()> {
    fchmodat2(t, dir, path, mode, 0)
}

pub fn fchmodat2(t: &mut CurrentTask, dir: DirFd, path: UserCStr, mode: u32, flags: u32) -> Result<()> {
    only(flags, libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH)?;
    let place = At::new(t, dir, path)?.walk(t, lookup(flags))?;
    place.chmod(&t.cred(), mode & 0o7777)
}

/// -1 leaves an id as it is.
fn id(raw: u32) -> Option<u32> {
    (raw != u32::MAX).then_some(raw)
}

pub fn chown(t: &mut CurrentTask, path: UserCStr, uid: u32, gid: u32) -> Result<()> {
    fchownat(t, DirFd::Cwd, path, uid, gid, 0)
}

pub fn lchown(t: &mut CurrentTask, path: UserCStr, uid: u32, gid: u32) -> Result<()> {
    fchownat(t, DirFd::Cwd, path, uid, gid, libc::AT_SYMLINK_NOFOLLOW as u32)
}

pub fn fchown(t: &mut CurrentTask, fd: Fd, uid: u32, gid: u32) -> Result<()> {
    let file = t.files().get_open(fd)?;
    file.path.chown(&t.cred(), id(uid), id(gid))
}

pub fn fchownat(t: &mut CurrentTask, dir: DirFd, path: UserCStr, uid: u32, gid: u32, flags: u32) -> Result<()> {
    only(flags, libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH)?;
    let place = At::new(t, dir, path)?.walk(t, lookup(flags))?;
    place.chown(&t.cred(), id(uid), id(gid))
}

/// `struct utimbuf`.
#[repr(C)]
#[derive(Clone, Copy, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable)]
pub struct Utimbuf {
    actime: i64,
    modtime: i64,
}

const BOTH_NOW: [Option<SetTime>; 2] = [Some(SetTime::Now), Some(SetTime::Now)];

pub fn utime(t: &mut CurrentTask, path: UserCStr, times: UserRef<Utimbuf>) -> Result<()> {
    let times = match times.non_null() {
        None => BOTH_NOW,
        Some(at) => {
            let u = t.mm().read(at)?;
            [u.actime, u.modtime].map(|sec| Some(SetTime::To(Timespec { sec, nsec: 0 })))
        }
    };
    let place = At::new(t, DirFd::Cwd, path)?.walk(t, Lookup::FOLLOW)?;
    place.set_times(&t.cred(), times[0], times[1])
}

pub fn utimes(t: &mut CurrentTask, path: UserCStr, times: UserRef<[Timeval; 2]>) -> Result<()> {
    futimesat(t, DirFd::Cwd, path, times)
}

pub fn futimesat(t: &mut CurrentTask, dir: DirFd, path: UserCStr, times: UserRef<[Timeval; 2]>) -> Result<()> {
    let times = match times.non_null() {
        None => BOTH_NOW,
        Some(at) => {
            let v = t.mm().read(at)?;
            if v.iter().any(|x| !(0..1_000_000).contains(&x.usec)) {
                bail!(EINVAL, "microseconds out of range");
            }
            v.map(|x| Some(SetTime::To(Timespec { sec: x.sec, nsec: x.usec * 1000 })))
        }
    };
    let place = place_or_descriptor(t, dir, path, 0)?;
    place.set_times(&t.cred(), times[0], times[1])
}

/// With a null path the descriptor itself is meant, as futimens(3) passes it.
fn place_or_descriptor(t: &CurrentTask, dir: DirFd, path: UserCStr, flags: u32) -> Result<PathRef> {
    if path.0.is_null() {
        return match dir {
            DirFd::At(fd) => Ok(t.files().get_open(fd)?.path.clone()),
            DirFd::Cwd => bail!(EFAULT, "no path"),
            DirFd::Invalid => bail!(EBADF),
        };
    }
    At::new(t, dir, path)?.walk(t, lookup(flags))
}

pub fn utimensat(t: &mut CurrentTask, dir: DirFd, path: UserCStr, times: UserRef<[Timespec; 2]>, flags: u32) -> Result<()> {
    only(flags, libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH)?;
    let mut set = BOTH_NOW;
    if let Some(at) = times.non_null() {
        for (to, x) in set.iter_mut().zip(t.mm().read(at)?) {
            *to = match x.nsec {
                libc::UTIME_NOW => Some(SetTime::Now),
                libc::UTIME_OMIT => None,
                0..1_000_000_000 => Some(SetTime::To(x)),
                _ => bail!(EINVAL, "nanoseconds out of range"),
            };
        }
    }
    if path.0.is_null() && flags != 0 {
        bail!(EINVAL, "flags without a path");
    }
    if set == [None, None] {
        return Ok(());
    }
    let place = place_or_descriptor(t, dir, path, flags)?;
    place.set_times(&t.cred(), set[0], set[1])
}

fn length(n: i64) -> Result<u64> {
    u64::try_from(n).map_err(|_| abi::error!(EINVAL, "negative length"))
}

/// `EFBIG` and SIGXFSZ beyond RLIMIT_FSIZE.
fn check_file_size(t: &CurrentTask, size: u64) -> Result {
    if size > t.rlimit(libc::RLIMIT_FSIZE).cur {
        let info = abi::signal::SigInfo::new(abi::signal::Signal::XFSZ, abi::signal::SI_KERNEL);
        t.task.send_signal(info)?;
        bail!(EFBIG, "beyond RLIMIT_FSIZE");
    }
    Ok(())
}

pub fn truncate(t: &mut CurrentTask, path: UserCStr, len: i64) -> Result<()> {
    let size = length(len)?;
    let place = At::new(t, DirFd::Cwd, path)?.walk(t, Lookup::FOLLOW)?;
    check_file_size(t, size)?;
    place.truncate(&t.cred(), size)
}

pub fn ftruncate(t: &mut CurrentTask, fd: Fd, len: i64) -> Result<()> {
    let size = length(len)?;
    let file = t.files().get_open(fd)?;
    if !file.flags().writable() || file.inode().kind != abi::fs::FileType::Regular {
        bail!(EINVAL, "not a regular file open for writing");
    }
    check_file_size(t, size)?;
    file.truncate(&t.cred(), size)
}

fn statfs_of(place: &PathRef) -> Result<Statfs> {
    let sb = &place.inode.sb;
    let mut s = sb.ops.statfs(sb)?;
    s.flags = place.mount.flags().statfs_bits();
    Ok(s)
}

pub fn statfs(t: &mut CurrentTask, path: UserCStr, to: UserRef<Statfs>) -> Result<()> {
    let place = At::new(t, DirFd::Cwd, path)?.walk(t, Lookup::FOLLOW)?;
    t.mm().write(to, &statfs_of(&place)?)
}

pub fn fstatfs(t: &mut CurrentTask, fd: Fd, to: UserRef<Statfs>) -> Result<()> {
    let file = t.files().get(fd)?;
    t.mm().write(to, &statfs_of(&file.path)?)
}
