//! Descriptors: dup(2), fcntl(2), ioctl(2), flock(2).

use crate::{row, table::Entry};
use abi::{Result, bail, fs::OpenFlags, libc};
use kernel::{
    net::SocketFile,
    signal::async_io::OwnerKind,
    task::CurrentTask,
    user::{UserAddr, UserRef},
    vfs::{
        self, Fd, File, IoctlArg,
        locks::{FlockKind, LockKind, Owner, RangeLock, conflicting, flock as lock_file, set_lock},
    },
};
use std::sync::Arc;
use zerocopy::{FromBytes, Immutable, IntoBytes};

pub(crate) const ROWS: &[Entry] = &[
    row!("dup", dup),
    row!("dup2", dup2),
    row!("dup3", dup3),
    row!("fcntl", fcntl, Partial("no leases (F_SETLEASE), no directory notification (F_NOTIFY)")),
    row!("ioctl", ioctl),
    row!("flock", flock),
];

fn limit(t: &CurrentTask) -> u64 {
    t.rlimit(libc::RLIMIT_NOFILE).cur
}

pub fn dup(t: &mut CurrentTask, fd: Fd) -> Result<Fd> {
    let files = t.files();
    files.install(files.get(fd)?, Fd(0), limit(t), false)
}

fn replace(t: &CurrentTask, file: Arc<File>, to: Fd, cloexec: bool) -> Result<Fd> {
    let files = t.files();
    if let Some(old) = files.replace(file, to, limit(t), cloexec)? {
        // The new descriptor is there whatever closing the old one says.
        let _ = vfs::close_file(t, &files, old);
    }
    Ok(to)
}

pub fn dup2(t: &mut CurrentTask, from: Fd, to: Fd) -> Result<Fd> {
    let file = t.files().get(from)?;
    if from == to { Ok(to) } else { replace(t, file, to, false) }
}

pub fn dup3(t: &mut CurrentTask, from: Fd, to: Fd, flags: u32) -> Result<Fd> {
    if flags & !OpenFlags::CLOEXEC.bits() != 0 || from == to {
        bail!(EINVAL);
    }
    replace(t, t.files().get(from)?, to, flags != 0)
}

/// `struct flock` on x86-64.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
struct Flock {
    kind: i16,
    whence: i16,
    pad: u32,
    start: i64,
    len: i64,
    pid: i32,
    pad2: u32,
}

/// `struct f_owner_ex`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
struct OwnerEx {
    kind: i32,
    pid: i32,
}

/// Commands that the libc crate does not name.
mod cmd {
    pub const F_DUPFD_QUERY: i32 = 1027;
    pub const F_SETSIG: i32 = 10;
    pub const F_GETSIG: i32 = 11;
    pub const F_SETOWN_EX: i32 = 15;
    pub const F_GETOWN_EX: i32 = 16;
    pub const F_GET_RW_HINT: i32 = 1035;
    pub const F_SET_FILE_RW_HINT: i32 = 1038;
}

pub fn fcntl(t: &mut CurrentTask, fd: Fd, command: i32, arg: u64) -> Result<u64> {
    let files = t.files();
    let file = files.get(fd)?;
    let path_only =
        matches!(command, libc::F_DUPFD | libc::F_DUPFD_CLOEXEC | libc::F_GETFD | libc::F_SETFD | libc::F_GETFL | cmd::F_DUPFD_QUERY);
    if file.is_path() && !path_only {
        bail!(EBADF, "descriptor names a path only");
    }
    match command {
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => {
            let min = u32::try_from(arg).ok().filter(|&n| u64::from(n) < limit(t));
            let Some(min) = min else { bail!(EINVAL, "lowest descriptor out of range") };
            files.install(file, Fd(min), limit(t), command == libc::F_DUPFD_CLOEXEC).map(|fd| u64::from(fd.0))
        }
        libc::F_GETFD => Ok(u64::from(files.cloexec(fd)?)),
        libc::F_SETFD => files.set_cloexec(fd, arg & libc::FD_CLOEXEC as u64 != 0).map(|()| 0),
        libc::F_GETFL => Ok(u64::from(file.flags().bits())),
        libc::F_SETFL => set_flags(t, &file, fd, OpenFlags::from_bits_retain(arg as u32)),
        libc::F_SETLK | libc::F_SETLKW | libc::F_OFD_SETLK | libc::F_OFD_SETLKW | libc::F_GETLK | libc::F_OFD_GETLK => {
            record_lock(t, &file, command, UserAddr(arg).cast())
        }
        cmd::F_DUPFD_QUERY => {
            let other = u32::try_from(arg).ok().map(Fd).ok_or(abi::error!(EBADF))?;
            Ok(u64::from(Arc::ptr_eq(&file, &files.get(other)?)))
        }
        libc::F_GETOWN | libc::F_SETOWN | cmd::F_GETOWN_EX | cmd::F_SETOWN_EX | cmd::F_SETSIG | cmd::F_GETSIG => {
            owner(t, &file, command, arg)
        }
        libc::F_GETLEASE => Ok(libc::F_UNLCK as u64),
        libc::F_SETLEASE | libc::F_NOTIFY => bail!(EINVAL, "leases and directory notification"),
        // What the file's kind alone knows: F_SETPIPE_SZ, F_ADD_SEALS.
        libc::F_SETPIPE_SZ | libc::F_GETPIPE_SZ | libc::F_ADD_SEALS | libc::F_GET_SEALS => file.ops().fcntl(&file, t, command, arg),
        cmd::F_GET_RW_HINT..=cmd::F_SET_FILE_RW_HINT => bail!(EINVAL, "write life hints"),
        _ => bail!(EINVAL, "fcntl command {command}"),
    }
}

fn record_lock(t: &CurrentTask, file: &Arc<File>, command: i32, at: UserRef<Flock>) -> Result<u64> {
    let mut lock = t.mm().read(at)?;
    let ofd = matches!(command, libc::F_OFD_SETLK | libc::F_OFD_SETLKW | libc::F_OFD_GETLK);
    if ofd && lock.pid != 0 {
        bail!(EINVAL, "l_pid must be zero");
    }
    let kind = match i32::from(lock.kind) {
        libc::F_RDLCK => Some(LockKind::Read),
        libc::F_WRLCK => Some(LockKind::Write),
        libc::F_UNLCK => None,
        _ => bail!(EINVAL, "l_type"),
    };
    let (start, end) = lock_range(file, &lock)?;
    let owner = if ofd { Owner::of_file(file) } else { Owner::Process(t.files().id()) };
    let pid = if ofd { -1 } else { t.tgid() };
    let wanted = RangeLock { owner, pid, pids: t.pids().number, kind: kind.unwrap_or(LockKind::Write), start, end };
    if matches!(command, libc::F_GETLK | libc::F_OFD_GETLK) {
        if kind.is_none() {
            bail!(EINVAL, "cannot ask about an unlock");
        }
        match conflicting(file.inode(), &wanted) {
            None => lock.kind = libc::F_UNLCK as i16,
            Some(held) => {
                lock.kind = if held.kind == LockKind::Read { libc::F_RDLCK } else { libc::F_WRLCK } as i16;
                lock.whence = libc::SEEK_SET as i16;
                lock.start = held.start as i64;
                lock.len = if held.end == u64::MAX { 0 } else { (held.end - held.start) as i64 };
                // The number of a process that it does not see is nobody's.
                lock.pid = if held.pid < 0 || held.pids == t.pids().number { held.pid } else { 0 };
            }
        }
        t.mm().write(at, &lock)?;
        return Ok(0);
    }
    match kind {
        Some(LockKind::Read) => file.check_readable()?,
        Some(LockKind::Write) => file.check_writable()?,
        None => {}
    }
    let wait = matches!(command, libc::F_SETLKW | libc::F_OFD_SETLKW);
    set_lock(t, file, wanted, kind.is_some(), wait).map(|()| 0)
}

/// The bytes that a `struct flock` means: a negative length counts backwards, zero means to the end.
fn lock_range(file: &File, lock: &Flock) -> Result<(u64, u64)> {
    let base = match i32::from(lock.whence) {
        libc::SEEK_SET => 0,
        libc::SEEK_CUR => *file.pos.lock(),
        libc::SEEK_END => file.ops().size(file)?,
        _ => bail!(EINVAL, "l_whence"),
    };
    let overflow = || abi::error!(EOVERFLOW);
    let mut start = i64::try_from(base).ok().and_then(|b| b.checked_add(lock.start)).ok_or_else(overflow)?;
    let end = match lock.len {
        0 => None,
        len if len > 0 => Some(start.checked_add(len).ok_or_else(overflow)?),
        len => {
            let end = start;
            start = start.checked_add(len).ok_or_else(overflow)?;
            Some(end)
        }
    };
    let Ok(from) = u64::try_from(start) else { bail!(EINVAL, "before the beginning") };
    Ok((from, end.map_or(u64::MAX, |e| e as u64)))
}

fn owner(t: &CurrentTask, file: &Arc<File>, command: i32, arg: u64) -> Result<u64> {
    match command {
        libc::F_GETOWN => {
            let (kind, id) = file.owner();
            Ok(if kind == OwnerKind::Group { -id } else { id } as i64 as u64)
        }
        libc::F_SETOWN => set_owner(t, file, arg as i32).map(|()| 0),
        cmd::F_GETOWN_EX => {
            let (kind, pid) = file.owner();
            t.mm().write(UserAddr(arg).cast(), &OwnerEx { kind: kind as i32, pid }).map(|()| 0)
        }
        cmd::F_SETOWN_EX => {
            let ex: OwnerEx = t.mm().read(UserAddr(arg).cast())?;
            let Some(kind) = OwnerKind::from_raw(ex.kind) else { bail!(EINVAL, "kind of owner {}", ex.kind) };
            file.set_owner(t, kind, ex.pid).map(|()| 0)
        }
        cmd::F_GETSIG => Ok(u64::from(file.owner_signal())),
        _ => {
            let Some(signal) = u8::try_from(arg).ok().filter(|n| *n <= 64) else { bail!(EINVAL, "no such signal") };
            file.set_owner_signal(signal);
            Ok(0)
        }
    }
}

/// F_SETOWN: a process, or, negative, a group.
fn set_owner(t: &CurrentTask, file: &Arc<File>, id: i32) -> Result<()> {
    if id == i32::MIN {
        bail!(EINVAL);
    }
    file.set_owner(t, if id < 0 { OwnerKind::Group } else { OwnerKind::Process }, id.abs())
}

/// F_SETFL.
fn set_flags(t: &CurrentTask, file: &Arc<File>, fd: Fd, flags: OpenFlags) -> Result<u64> {
    let before = file.flags();
    file.set_flags(flags)?;
    if (before ^ flags).contains(OpenFlags::ASYNC) {
        file.set_async(t, fd.0, flags.contains(OpenFlags::ASYNC))?;
    }
    Ok(0)
}

const FIOCLEX: u32 = 0x5451;
const FIONCLEX: u32 = 0x5450;
const FIONBIO: u32 = 0x5421;
const FIOASYNC: u32 = 0x5452;
const FIONREAD: u32 = 0x541b;
const FIOQSIZE: u32 = 0x5460;
const FIOSETOWN: u32 = 0x8901;
const SIOCSPGRP: u32 = 0x8902;
const FIOGETOWN: u32 = 0x8903;
const SIOCGPGRP: u32 = 0x8904;

pub fn ioctl(t: &mut CurrentTask, fd: Fd, command: u32, arg: u64) -> Result<u64> {
    let file = t.files().get_open(fd)?;
    let flag = |t: &CurrentTask, which: OpenFlags| -> Result<u64> {
        let on: i32 = t.mm().read(UserAddr(arg).cast())?;
        set_flags(t, &file, fd, if on != 0 { file.flags() | which } else { file.flags() - which })
    };
    match command {
        FIOCLEX => t.files().set_cloexec(fd, true).map(|()| 0),
        FIONCLEX => t.files().set_cloexec(fd, false).map(|()| 0),
        FIONBIO => flag(t, OpenFlags::NONBLOCK),
        // It changes nothing where nothing is to be changed.
        FIOASYNC
            if file.ops().has_async() || (t.mm().read(UserAddr(arg).cast::<i32>())? != 0) == file.flags().contains(OpenFlags::ASYNC) =>
        {
            flag(t, OpenFlags::ASYNC)
        }
        FIOASYNC => bail!(ENOTTY, "no signals"),
        FIOSETOWN | SIOCSPGRP if SocketFile::of(&file).is_ok() => {
            let id: i32 = t.mm().read(UserAddr(arg).cast())?;
            set_owner(t, &file, id).map(|()| 0)
        }
        FIOGETOWN | SIOCGPGRP if SocketFile::of(&file).is_ok() => {
            let (kind, id) = file.owner();
            t.mm().write(UserAddr(arg).cast(), &if kind == OwnerKind::Group { -id } else { id }).map(|()| 0)
        }
        FIOQSIZE if matches!(file.inode().kind, abi::fs::FileType::Regular | abi::fs::FileType::Directory) => {
            let size = file.inode().attr()?.size as i64;
            t.mm().write(UserAddr(arg).cast(), &size).map(|()| 0)
        }
        // Files of anon_inodefs are regular as well, and know better.
        FIONREAD if file.inode().kind == abi::fs::FileType::Regular && file.inode().sb.fs_name != "anon_inodefs" => {
            let left = file.ops().size(&file)?.saturating_sub(*file.pos.lock());
            t.mm().write(UserAddr(arg).cast(), &(left.min(i32::MAX as u64) as i32)).map(|()| 0)
        }
        _ => file.ops().ioctl(&file, t, command, IoctlArg(arg)),
    }
}

pub fn flock(t: &mut CurrentTask, fd: Fd, operation: i32) -> Result<()> {
    let kind = match operation & !libc::LOCK_NB {
        libc::LOCK_SH => FlockKind::Shared,
        libc::LOCK_EX => FlockKind::Exclusive,
        libc::LOCK_UN => FlockKind::Unlock,
        _ => bail!(EINVAL),
    };
    let file = t.files().get_open(fd)?;
    lock_file(t, &file, kind, operation & libc::LOCK_NB == 0)
}
