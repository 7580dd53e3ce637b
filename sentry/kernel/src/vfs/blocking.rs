//! Reading and writing with waiting: the one place where `EAGAIN` of a [`FileOps`] becomes waiting, a short count or the caller's `EAGAIN`.

use super::{Fd, FdTable, File, ReadTimer, locks, notify, open::drop_set_id};
use crate::{
    io::IoBuffer,
    net::{SocketFile, SocketOps},
    task::Task,
};
use abi::{Errno, Error, Result, bail, fs::FileType, poll::PollEvents};
use std::sync::Arc;
use std::time::{Duration, Instant};
use sync::WaitQueue;

/// The most that one call transfers (`MAX_RW_COUNT`).
pub const MAX_RW: usize = 0x7fff_f000;

/// Where to read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// At the file position, which moves.
    Position,
    /// Here (pread): `ESPIPE` for files without positions.
    Offset(u64),
}

/// How a call waits.
pub struct Wait<'a> {
    /// Where changes are notified.
    pub queue: &'a WaitQueue,
    /// Of what.
    pub events: PollEvents,
    /// Not at all.
    pub nonblocking: bool,
    /// How long (SO_RCVTIMEO, SO_SNDTIMEO); then `EAGAIN`. With a limit an interrupted call is not restarted (signal(7)).
    pub limit: Option<Duration>,
    /// For what only one task can take (a connection, a datagram): one of those that wait is woken for each. Asks whether more of it is
    /// there, for the next one.
    pub more: Option<&'a dyn Fn() -> bool>,
}

impl Wait<'_> {
    /// Calls `attempt` until it does not want to wait any more.
    pub fn until<T>(&self, task: &Task, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        let first = attempt();
        if !matches!(first, Err(Error::Errno(Errno::EAGAIN))) || self.nonblocking {
            return first;
        }
        let ready = || match attempt() {
            Err(Error::Errno(Errno::EAGAIN)) => None,
            r => Some(r),
        };
        let deadline = self.limit.and_then(|l| Instant::now().checked_add(l));
        let waited = match self.more {
            None => task.wait_on(&[(self.queue, self.events)], deadline, ready),
            Some(more) => {
                let waited = task.wait_exclusively((self.queue, self.events), deadline, ready);
                if !self.queue.is_empty() && more() {
                    self.queue.pass_on(self.events);
                }
                waited
            }
        };
        match waited {
            Ok(Some(r)) => r,
            Ok(None) => first,
            Err(Error::Restart(_)) if self.limit.is_some() => bail!(EINTR),
            Err(e) => Err(e),
        }
    }
}

/// Calls `attempt` until it does not want to wait for the file any more.
pub fn wait_for<T>(task: &Task, file: &File, events: PollEvents, nonblocking: bool, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let Some(queue) = file.ops().poll_queue() else { return attempt() };
    let limit = file.ops().wait_limit(events.contains(PollEvents::OUT));
    let more = || file.ops().poll(file).intersects(PollEvents::READABLE);
    let alone = events == PollEvents::READABLE && SocketFile::of(file).is_ok();
    Wait { queue, events, nonblocking, limit, more: if alone { Some(&more) } else { None } }.until(task, attempt)
}

/// Repeats `step`, which is given what is done so far and gives what it has done and whether something is left: unless `once`, until
/// nothing is left, or something happens after a part was done, which the next call hears of.
pub fn repeat(once: bool, failed: impl Fn() -> bool, mut step: impl FnMut(usize) -> Result<(usize, bool)>) -> Result<usize> {
    let mut done = 0;
    loop {
        match step(done) {
            Ok((n, left)) => {
                done += n;
                if once || !left || done == 0 || failed() {
                    return Ok(done);
                }
            }
            Err(_) if done > 0 => return Ok(done),
            Err(e) => return Err(e),
        }
    }
}

/// read(2), pread(2) and their vectors. `nowait`: RWF_NOWAIT.
pub fn read(task: &Task, file: &Arc<File>, buf: &mut IoBuffer<'_>, at: At, nowait: bool) -> Result<usize> {
    file.check_readable()?;
    if file.inode().is_dir() {
        bail!(EISDIR);
    }
    buf.truncate(MAX_RW);
    let nonblocking = nowait || file.nonblocking();
    let ops = file.ops();
    let n = match (ops.seekable(), at) {
        (false, At::Offset(_)) => bail!(ESPIPE),
        (false, At::Position) => read_stream(task, file, buf, nonblocking)?,
        (true, At::Offset(o)) => wait_for(task, file, PollEvents::READABLE, nonblocking, || ops.read(file, buf, checked(o)?))?,
        (true, At::Position) => read_at_position(task, file, buf, nonblocking)?,
    };
    if n > 0 {
        notify::event_at(&file.path.dentry, file.inode(), notify::mask::ACCESS);
    }
    Ok(n)
}

/// A file without a position; a terminal may end the wait after a time of its own, which begins anew with each byte that comes.
fn read_stream(task: &Task, file: &Arc<File>, buf: &mut IoBuffer<'_>, nonblocking: bool) -> Result<usize> {
    let ops = file.ops();
    let Some(queue) = ops.poll_queue().filter(|_| ops.times_reads() && !nonblocking) else {
        return wait_for(task, file, PollEvents::READABLE, nonblocking, || ops.read(file, buf, 0));
    };
    enum Step {
        Done(Result<usize>),
        Timer(Option<ReadTimer>),
    }
    let mut timer = None;
    loop {
        let deadline = timer.and_then(|t: ReadTimer| Instant::now().checked_add(t.limit));
        let ready = || match ops.read(file, buf, 0) {
            Err(Error::Errno(Errno::EAGAIN)) => Some(ops.read_timer(file)).filter(|now| *now != timer).map(Step::Timer),
            r => Some(Step::Done(r)),
        };
        match task.wait_on(&[(queue, PollEvents::READABLE)], deadline, ready)? {
            Some(Step::Done(r)) => return r,
            Some(Step::Timer(now)) => timer = now,
            None => return ops.read_expired(file, buf),
        }
    }
}

/// The position stays locked over the read, as in Linux: two reads of one description do not get the same bytes.
fn read_at_position(task: &Task, file: &Arc<File>, buf: &mut IoBuffer<'_>, nonblocking: bool) -> Result<usize> {
    let ops = file.ops();
    let mut pos = file.pos.lock();
    let offset = checked(*pos)?;
    let n = match ops.read(file, buf, offset) {
        // Files that have a position and wait (some of proc): no lock is held while waiting.
        Err(Error::Errno(Errno::EAGAIN)) if !nonblocking && ops.poll_queue().is_some() => {
            drop(pos);
            let n = wait_for(task, file, PollEvents::READABLE, false, || ops.read(file, buf, offset))?;
            pos = file.pos.lock();
            n
        }
        r => r?,
    };
    *pos = pos.saturating_add(n as u64);
    Ok(n)
}

/// Offsets are signed in Linux.
fn checked(offset: u64) -> Result<u64> {
    if i64::try_from(offset).is_err() { bail!(EINVAL, "offset too large") } else { Ok(offset) }
}

/// Nor may the range end behind what is signed (`rw_verify_area`).
fn checked_end(offset: u64, len: usize) -> Result<u64> {
    match offset.checked_add(len as u64) {
        Some(end) => checked(end).and(Ok(offset)),
        None => bail!(EINVAL, "range ends too far"),
    }
}

/// write(2), pwrite(2) and their vectors. `append`: RWF_APPEND.
pub fn write(task: &Task, file: &Arc<File>, buf: &mut IoBuffer<'_>, at: At, append: bool, nowait: bool) -> Result<usize> {
    file.check_writable()?;
    buf.truncate(MAX_RW);
    let append = append || file.flags().contains(abi::fs::OpenFlags::APPEND);
    let nonblocking = nowait || file.nonblocking();
    let ops = file.ops();
    let regular = file.inode().kind == FileType::Regular;
    if regular && buf.remaining() > 0 {
        drop_set_id(file.inode(), &file.inode().attr()?, &task.cred())?;
    }
    let n = match (ops.seekable(), at) {
        (false, At::Offset(_)) => bail!(ESPIPE),
        (false, At::Position) => write_stream(task, file, buf, nonblocking)?,
        (true, At::Offset(o)) => {
            let o = checked_end(o, buf.remaining())?;
            limit(task, file, buf, o, append)?;
            wait_for(task, file, PollEvents::WRITABLE, nonblocking, || Ok(ops.write(file, buf, o, append)?.0))?
        }
        (true, At::Position) => {
            let mut pos = file.pos.lock();
            let o = checked(*pos)?;
            limit(task, file, buf, o, append)?;
            let (n, end) = match ops.write(file, buf, o, append) {
                Err(Error::Errno(Errno::EAGAIN)) if !nonblocking && ops.poll_queue().is_some() => {
                    drop(pos);
                    let r = wait_for(task, file, PollEvents::WRITABLE, false, || ops.write(file, buf, o, append))?;
                    pos = file.pos.lock();
                    r
                }
                r => r?,
            };
            *pos = end;
            n
        }
    };
    if n > 0 {
        notify::event_at(&file.path.dentry, file.inode(), notify::mask::MODIFY);
    }
    Ok(n)
}

/// Streams: a blocking write ends when everything is written, or something happens after a part was.
fn write_stream(task: &Task, file: &Arc<File>, buf: &mut IoBuffer<'_>, nonblocking: bool) -> Result<usize> {
    let ops = file.ops();
    repeat(
        !ops.is_stream() || nonblocking,
        || ops.has_pending_error(),
        |done| {
            let attempt = || {
                if done > 0 && ops.has_pending_error() {
                    return Ok(0);
                }
                Ok(ops.write(file, buf, 0, false)?.0)
            };
            let n = wait_for(task, file, PollEvents::WRITABLE, nonblocking, attempt)?;
            Ok((n, buf.remaining() > 0))
        },
    )
}

/// RLIMIT_FSIZE: cuts a write to a regular file, `EFBIG` (and SIGXFSZ by the caller) at the limit.
fn limit(task: &Task, file: &File, buf: &mut IoBuffer<'_>, offset: u64, append: bool) -> Result {
    if file.inode().kind != FileType::Regular {
        return Ok(());
    }
    let limit = task.rlimit(abi::libc::RLIMIT_FSIZE).cur.min(i64::MAX as u64);
    if limit == i64::MAX as u64 && !append {
        return Ok(());
    }
    let at = if append { file.ops().size(file)? } else { offset };
    if at >= limit && buf.remaining() > 0 {
        bail!(EFBIG, "RLIMIT_FSIZE");
    }
    buf.truncate(usize::try_from(limit - at).unwrap_or(usize::MAX));
    Ok(())
}

/// close(2)'s part after the descriptor is free: lets go of the process's locks on the file and flushes it.
pub fn close_file(task: &Task, files: &FdTable, file: Arc<File>) -> Result {
    if file.is_path() {
        return Ok(());
    }
    locks::release_process(files, file.inode());
    let flushed = file.ops().flush(&file, task);
    let socket = SocketFile::of(&file).ok().filter(|s| s.options().linger().is_some_and(|seconds| seconds > 0)).cloned();
    if let Some(socket) = socket
        && Arc::strong_count(&file) == 1
    {
        drop(file);
        linger(task, &socket);
    }
    flushed
}

/// SO_LINGER: waits until the peer has what was sent, or has not taken it for so many seconds, or a signal comes. The descriptor is gone
/// whichever it was, and close(2) says nothing of it.
fn linger(task: &Task, socket: &Arc<dyn SocketOps>) {
    let limit = socket.options().linger().map(Duration::from_secs);
    let until = limit.and_then(|l| Instant::now().checked_add(l));
    let _ = task.wait_on(&[(socket.queue(), PollEvents::all())], until, || (!socket.lingers()).then_some(()));
}

/// close(2). `EBADF` for a descriptor that is not open.
pub fn close(task: &Task, fd: Fd) -> Result {
    let files = task.files();
    let file = files.remove(fd)?;
    close_file(task, &files, file)
}
