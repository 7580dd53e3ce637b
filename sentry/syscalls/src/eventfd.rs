//! eventfd(2), signalfd(2), timerfd_create(2) and what belongs to it, memfd_create(2).

use crate::{arg::UserCStr, fdutil, row, table::Entry};
use abi::{Errno, Result, bail, fs::OpenFlags, libc, signal::SigSet, time::Itimerspec};
use kernel::{
    ipc::{
        eventfd as events,
        signalfd::{self as signals, SignalFd},
        timerfd::{self, TimerFd},
    },
    task::CurrentTask,
    user::UserRef,
    vfs::{
        Fd,
        shmem::{Seals, memfd},
    },
};

pub(crate) const ROWS: &[Entry] = &[
    row!("eventfd", eventfd),
    row!("eventfd2", eventfd2),
    row!("signalfd", signalfd),
    row!("signalfd4", signalfd4, Partial("a child that inherits the descriptor is not woken from a blocking read by its own signals")),
    row!("timerfd_create", timerfd_create),
    row!("timerfd_settime", timerfd_settime),
    row!("timerfd_gettime", timerfd_gettime),
    row!("memfd_create", memfd_create, Partial("no huge pages")),
];

/// eventfd(2)
pub fn eventfd(t: &mut CurrentTask, count: u32) -> Result<Fd> {
    eventfd2(t, count, 0)
}

/// eventfd2(2)
pub fn eventfd2(t: &mut CurrentTask, count: u32, flags: i32) -> Result<Fd> {
    let semaphore = flags & libc::EFD_SEMAPHORE != 0;
    let flags = fdutil::flags(flags & !libc::EFD_SEMAPHORE, OpenFlags::CLOEXEC | OpenFlags::NONBLOCK)?;
    let file = events::create(count.into(), semaphore, flags & OpenFlags::NONBLOCK, &t.cred());
    fdutil::install_with(t, file, flags)
}

/// signalfd(2)
pub fn signalfd(t: &mut CurrentTask, fd: i32, mask: UserRef<SigSet>, size: usize) -> Result<i32> {
    signalfd4(t, fd, mask, size, 0)
}

/// signalfd4(2)
pub fn signalfd4(t: &mut CurrentTask, fd: i32, mask: UserRef<SigSet>, size: usize, flags: i32) -> Result<i32> {
    if size != signals::SIGSET_LEN {
        bail!(EINVAL, "size of the signal set");
    }
    let mask = t.mm().read(mask)?;
    let flags = fdutil::flags(flags, OpenFlags::CLOEXEC | OpenFlags::NONBLOCK)?;
    if fd == -1 {
        let file = signals::create(t, mask, flags & OpenFlags::NONBLOCK);
        return Ok(fdutil::install_with(t, file, flags)?.0 as i32);
    }
    let Ok(number) = u32::try_from(fd) else { bail!(EBADF) };
    let file = t.files().get_open(Fd(number))?;
    let Some(s) = file.downcast::<SignalFd>() else { bail!(EINVAL, "not a signalfd") };
    s.set_mask(mask);
    Ok(fd)
}

/// timerfd_create(2)
pub fn timerfd_create(t: &mut CurrentTask, clock: i32, flags: i32) -> Result<Fd> {
    let flags = fdutil::flags(flags, OpenFlags::CLOEXEC | OpenFlags::NONBLOCK)?;
    let file = timerfd::create(t.kernel(), clock, flags & OpenFlags::NONBLOCK, &t.cred())?;
    fdutil::install_with(t, file, flags)
}

/// timerfd_settime(2)
pub fn timerfd_settime(t: &mut CurrentTask, fd: Fd, flags: u32, new: UserRef<Itimerspec>, old: UserRef<Itimerspec>) -> Result<()> {
    let new = t.mm().read(new)?;
    let file = t.files().get_open(fd)?;
    let Some(timer) = file.downcast::<TimerFd>() else { bail!(EINVAL, "not a timerfd") };
    let before = timer.set(flags, &new)?;
    match old.non_null() {
        Some(old) => t.mm().write(old, &before),
        None => Ok(()),
    }
}

/// timerfd_gettime(2)
pub fn timerfd_gettime(t: &mut CurrentTask, fd: Fd, now: UserRef<Itimerspec>) -> Result<()> {
    let file = t.files().get_open(fd)?;
    let Some(timer) = file.downcast::<TimerFd>() else { bail!(EINVAL, "not a timerfd") };
    t.mm().write(now, &timer.get())
}

/// The longest name that memfd_create(2) takes (`NAME_MAX` without `memfd:`).
const MEMFD_NAME_MAX: usize = 249;

/// memfd_create(2)
pub fn memfd_create(t: &mut CurrentTask, name: UserCStr, flags: u32) -> Result<Fd> {
    let known = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | libc::MFD_NOEXEC_SEAL | libc::MFD_EXEC;
    let both = libc::MFD_NOEXEC_SEAL | libc::MFD_EXEC;
    if flags & !known != 0 || flags & both == both {
        bail!(EINVAL, "flags {flags:#x}");
    }
    let name = match t.mm().read_cstr(name.0, MEMFD_NAME_MAX + 1) {
        Err(e) if e.is(Errno::ENAMETOOLONG) => bail!(EINVAL, "name too long"),
        other => other?,
    };
    let sealing = if flags & libc::MFD_NOEXEC_SEAL != 0 {
        Some(Seals::EXEC)
    } else {
        (flags & libc::MFD_ALLOW_SEALING != 0).then_some(Seals::empty())
    };
    let executable = flags & libc::MFD_NOEXEC_SEAL == 0;
    let file = memfd::create(t.kernel(), &t.cred(), &name, sealing, executable);
    fdutil::install(t, file, flags & libc::MFD_CLOEXEC != 0)
}
