//! POSIX message queues (mq_overview(7)): mq_open(2), mq_unlink(2), mq_timedsend(2), mq_timedreceive(2), mq_notify(2), mq_getsetattr(2).

use crate::{arg::UserCStr, fdutil, row, table::Entry, time::Sigevent};
use abi::{Result, bail, error, fs::OpenFlags, libc, signal::Signal, time::Timespec};
use kernel::{
    ipc::mq::{self, Limits, NotifyBy, PRIO_MAX, QueueFile, Subscriber},
    net::SocketFile,
    task::CurrentTask,
    time::instant_at_realtime,
    user::{UserAddr, UserRef},
    vfs::Fd,
};
use std::time::Instant;
use zerocopy::{FromBytes, Immutable, IntoBytes};

pub(crate) const ROWS: &[Entry] = &[
    row!("mq_open", mq_open),
    row!("mq_unlink", mq_unlink),
    row!("mq_timedsend", mq_timedsend),
    row!("mq_timedreceive", mq_timedreceive),
    row!("mq_notify", mq_notify),
    row!("mq_getsetattr", mq_getsetattr),
];

/// `struct mq_attr`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
pub struct MqAttr {
    flags: i64,
    max_messages: i64,
    size: i64,
    count: i64,
    reserved: [i64; 4],
}

/// mq_open(2): the C library has taken the leading slash off.
pub fn mq_open(t: &mut CurrentTask, name: UserCStr, flags: u32, mode: u32, attr: UserRef<MqAttr>) -> Result<Fd> {
    let limits = match attr.non_null() {
        None => None,
        Some(at) => {
            let a = t.mm().read(at)?;
            Some(Limits { messages: a.max_messages, size: a.size })
        }
    };
    let name = name.read_path(t)?;
    let flags = OpenFlags::from_bits_retain(flags);
    let kept = OpenFlags::from_bits_retain(3) | OpenFlags::CREAT | OpenFlags::EXCL | OpenFlags::NONBLOCK | OpenFlags::CLOEXEC;
    let file = mq::open(t, &name, flags & kept, mode, limits)?;
    // Linux opens it close-on-exec whether asked or not.
    fdutil::install(t, file, true)
}

/// mq_unlink(2)
pub fn mq_unlink(t: &mut CurrentTask, name: UserCStr) -> Result<()> {
    let name = name.read_path(t)?;
    mq::unlink(t, &name)
}

/// An absolute time of CLOCK_REALTIME.
fn deadline(t: &CurrentTask, at: UserRef<Timespec>) -> Result<Option<Instant>> {
    let Some(at) = at.non_null() else { return Ok(None) };
    let Some(ns) = t.mm().read(at)?.to_nanos() else { bail!(EINVAL, "time out of range") };
    Ok(Some(instant_at_realtime(ns)))
}

/// mq_timedsend(2)
pub fn mq_timedsend(t: &mut CurrentTask, fd: Fd, text: UserAddr, len: usize, prio: u32, timeout: UserRef<Timespec>) -> Result<()> {
    let deadline = deadline(t, timeout)?;
    if prio >= PRIO_MAX {
        bail!(EINVAL, "priority");
    }
    let file = t.files().get(fd)?;
    let read = || {
        let mut bytes = vec![0; len];
        t.mm().copy_in(text, &mut bytes)?;
        Ok(bytes)
    };
    QueueFile::send(t, &file, len, read, prio, deadline)
}

/// mq_timedreceive(2)
pub fn mq_timedreceive(
    t: &mut CurrentTask,
    fd: Fd,
    to: UserAddr,
    len: usize,
    prio: UserRef<u32>,
    timeout: UserRef<Timespec>,
) -> Result<usize> {
    let deadline = deadline(t, timeout)?;
    let file = t.files().get(fd)?;
    let (text, priority) = QueueFile::receive(t, &file, len, deadline)?;
    if let Some(at) = prio.non_null() {
        t.mm().write(at, &priority)?;
    }
    t.mm().copy_out(to, &text)?;
    Ok(text.len())
}

/// mq_notify(2)
pub fn mq_notify(t: &mut CurrentTask, fd: Fd, event: UserRef<Sigevent>) -> Result<()> {
    let subscriber = match event.non_null() {
        None => None,
        Some(at) => {
            let e = t.mm().read(at)?;
            Some(Subscriber::new(t, notification(t, &e)?))
        }
    };
    let file = t.files().get(fd)?;
    QueueFile::of(&file)?.subscribe(t, subscriber)
}

fn notification(t: &CurrentTask, e: &Sigevent) -> Result<NotifyBy> {
    Ok(match e.notify {
        libc::SIGEV_NONE => NotifyBy::Nothing,
        libc::SIGEV_SIGNAL if e.signo == 0 => NotifyBy::Signal { signal: None, value: e.value },
        libc::SIGEV_SIGNAL => {
            let signal = Signal::new(i64::from(e.signo) as u64).ok_or(error!(EINVAL, "no such signal"))?;
            NotifyBy::Signal { signal: Some(signal), value: e.value }
        }
        libc::SIGEV_THREAD => {
            let cookie = t.mm().read(UserRef::new(UserAddr(e.value)))?;
            let Ok(fd) = u32::try_from(e.signo) else { bail!(EBADF) };
            let file = t.files().get(Fd(fd))?;
            if SocketFile::of(&file)?.domain() != libc::AF_NETLINK {
                bail!(EINVAL, "no netlink socket");
            }
            NotifyBy::Socket { file, cookie }
        }
        _ => bail!(EINVAL, "sigev_notify"),
    })
}

/// mq_getsetattr(2)
pub fn mq_getsetattr(t: &mut CurrentTask, fd: Fd, new: UserRef<MqAttr>, old: UserRef<MqAttr>) -> Result<()> {
    const NONBLOCK: i64 = libc::O_NONBLOCK as i64;
    let new = match new.non_null() {
        None => None,
        Some(at) => Some(t.mm().read(at)?),
    };
    if new.is_some_and(|n| n.flags & !NONBLOCK != 0) {
        bail!(EINVAL, "only O_NONBLOCK can be set");
    }
    let file = t.files().get(fd)?;
    let queue = QueueFile::of(&file)?;
    let limits = queue.limits();
    let before = MqAttr {
        flags: if file.nonblocking() { NONBLOCK } else { 0 },
        max_messages: limits.messages,
        size: limits.size,
        count: queue.count(),
        reserved: [0; 4],
    };
    if let Some(n) = new {
        let nonblock = if n.flags == 0 { OpenFlags::empty() } else { OpenFlags::NONBLOCK };
        file.set_flags(file.flags() - OpenFlags::NONBLOCK | nonblock)?;
    }
    match old.non_null() {
        Some(to) => t.mm().write(to, &before),
        None => Ok(()),
    }
}
