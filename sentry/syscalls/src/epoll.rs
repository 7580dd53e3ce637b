//! epoll_create(2), epoll_ctl(2), epoll_wait(2) and its variants.

use crate::{fdutil, poll, row, table::Entry};
use abi::{Errno, Error, Result, bail, fs::OpenFlags, libc, poll::PollEvents, signal::SigSet, time::Timespec};
use kernel::{
    ipc::epoll::{self, Control, Epoll, EpollEvent},
    task::CurrentTask,
    time::{instant_after, instant_at},
    user::UserRef,
    vfs::Fd,
};
use std::time::Instant;
use zerocopy::IntoBytes;

pub(crate) const ROWS: &[Entry] = &[
    row!("epoll_create", epoll_create),
    row!("epoll_create1", epoll_create1),
    row!("epoll_ctl", epoll_ctl),
    row!("epoll_wait", epoll_wait),
    row!("epoll_pwait", epoll_pwait),
    row!("epoll_pwait2", epoll_pwait2),
];

/// epoll_create(2)
pub fn epoll_create(t: &mut CurrentTask, size: i32) -> Result<Fd> {
    if size <= 0 {
        bail!(EINVAL);
    }
    epoll_create1(t, 0)
}

/// epoll_create1(2)
pub fn epoll_create1(t: &mut CurrentTask, flags: i32) -> Result<Fd> {
    let flags = fdutil::flags(flags, OpenFlags::CLOEXEC)?;
    fdutil::install_with(t, epoll::create(&t.cred()), flags)
}

/// epoll_ctl(2)
pub fn epoll_ctl(t: &mut CurrentTask, epfd: Fd, op: i32, fd: i32, event: UserRef<EpollEvent>) -> Result<()> {
    let event = if op == libc::EPOLL_CTL_DEL { None } else { Some(t.mm().read(event)?) };
    let ep = t.files().get_open(epfd)?;
    let Ok(number) = u32::try_from(fd) else { bail!(EBADF) };
    let file = t.files().get_open(Fd(number))?;
    if file.ops().poll_queue().is_none() {
        bail!(EPERM, "the file is always ready");
    }
    let Some(ep) = ep.downcast::<Epoll>() else { bail!(EINVAL, "not an epoll instance") };
    let control = match (op, event) {
        (libc::EPOLL_CTL_ADD, Some(e)) => Control::Add(e),
        (libc::EPOLL_CTL_MOD, Some(e)) => Control::Modify(e),
        (libc::EPOLL_CTL_DEL, _) => Control::Delete,
        _ => bail!(EINVAL, "unknown operation"),
    };
    ep.control(number, &file, control)
}

/// The most events that one call takes (`EP_MAX_EVENTS`).
const MAX_EVENTS: usize = i32::MAX as usize / size_of::<EpollEvent>();

fn do_wait(t: &CurrentTask, epfd: Fd, events: UserRef<EpollEvent>, max: i32, deadline: Option<Instant>) -> Result<usize> {
    let max = usize::try_from(max).unwrap_or(0);
    if max == 0 || max > MAX_EVENTS {
        bail!(EINVAL, "number of events");
    }
    let file = t.files().get_open(epfd)?;
    let Some(ep) = file.downcast::<Epoll>() else { bail!(EINVAL, "not an epoll instance") };
    let ready = || Some(ep.collect(max)).filter(|v| !v.is_empty());
    let found = match t.wait_on(&[(ep.queue(), PollEvents::READABLE)], deadline, ready) {
        Ok(found) => found.unwrap_or_default(),
        // Never restarted: signal(7).
        Err(Error::Restart(_)) => return Err(Errno::EINTR.into()),
        Err(e) => return Err(e),
    };
    t.mm().copy_out(events.addr(), found.as_bytes())?;
    Ok(found.len())
}

fn after_ms(ms: i32) -> Option<Instant> {
    u64::try_from(ms).ok().map(|ms| instant_after(ms * 1_000_000))
}

/// epoll_wait(2)
pub fn epoll_wait(t: &mut CurrentTask, epfd: Fd, events: UserRef<EpollEvent>, max: i32, timeout_ms: i32) -> Result<usize> {
    do_wait(t, epfd, events, max, after_ms(timeout_ms))
}

/// epoll_pwait(2)
pub fn epoll_pwait(
    t: &mut CurrentTask,
    epfd: Fd,
    events: UserRef<EpollEvent>,
    max: i32,
    timeout_ms: i32,
    mask: UserRef<SigSet>,
    size: usize,
) -> Result<usize> {
    poll::temporary_mask(t, mask, size)?;
    do_wait(t, epfd, events, max, after_ms(timeout_ms))
}

/// epoll_pwait2(2)
pub fn epoll_pwait2(
    t: &mut CurrentTask,
    epfd: Fd,
    events: UserRef<EpollEvent>,
    max: i32,
    timeout: UserRef<Timespec>,
    mask: UserRef<SigSet>,
    size: usize,
) -> Result<usize> {
    let until = poll::deadline_of(t, timeout)?;
    poll::temporary_mask(t, mask, size)?;
    do_wait(t, epfd, events, max, until.map(instant_at))
}
