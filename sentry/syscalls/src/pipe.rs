//! pipe(2), splice(2), tee(2), vmsplice(2).

use crate::{fdutil, row, rw, table::Entry};
use abi::{
    Errno, Result, bail,
    fs::OpenFlags,
    poll::PollEvents,
    signal::{SI_USER, SigInfo, Signal},
};
use kernel::{
    io::IoBuffer,
    ipc::pipe::{
        self, Pipe,
        splice::{self, Blocked, SpliceError},
    },
    task::CurrentTask,
    user::{UserAddr, UserRef},
    vfs::{Fd, File},
};
use std::sync::Arc;

pub(crate) const ROWS: &[Entry] = &[
    row!("pipe", pipe),
    row!("pipe2", pipe2),
    row!("splice", splice, Partial("data is copied; SPLICE_F_MOVE and SPLICE_F_GIFT change nothing")),
    row!("tee", tee, Partial("data is copied")),
    row!("vmsplice", vmsplice, Partial("data is copied")),
];

/// pipe(2)
pub fn pipe(t: &mut CurrentTask, fds: UserRef<[i32; 2]>) -> Result<()> {
    pipe2(t, fds, 0)
}

/// pipe2(2)
pub fn pipe2(t: &mut CurrentTask, fds: UserRef<[i32; 2]>, flags: i32) -> Result<()> {
    let flags = fdutil::flags(flags, OpenFlags::CLOEXEC | OpenFlags::NONBLOCK | OpenFlags::DIRECT)?;
    let (reader, writer) = pipe::create(flags, &t.cred());
    let r = fdutil::install_with(t, reader, flags)?;
    let w = fdutil::install_with(t, writer, flags).inspect_err(|_| drop(t.files().remove(r)))?;
    t.mm().write(fds, &[r.0 as i32, w.0 as i32]).inspect_err(|_| {
        drop(t.files().remove(r));
        drop(t.files().remove(w));
    })
}

const SPLICE_F_NONBLOCK: u32 = 2;
const SPLICE_F_ALL: u32 = 0xf;

/// Repeats a move until it moves something, waiting for the side that is not ready.
fn moving(
    t: &CurrentTask,
    input: &Arc<File>,
    output: &Arc<File>,
    nonblock: bool,
    mut step: impl FnMut() -> Result<usize, SpliceError>,
) -> Result<usize> {
    loop {
        let (error, side) = match step() {
            Ok(n) => return Ok(n),
            Err(e) => e,
        };
        if error.is(Errno::EPIPE) && output.ops().is_stream() {
            t.send_signal(SigInfo::user(Signal::PIPE, SI_USER, t.tgid(), t.cred().uid))?;
        }
        if !error.is(Errno::EAGAIN) {
            return Err(error);
        }
        let (file, mask, stop) = match side {
            Blocked::Input => (input, PollEvents::READABLE, PollEvents::IN | PollEvents::HUP),
            Blocked::Output => (output, PollEvents::WRITABLE, PollEvents::OUT | PollEvents::ERR),
        };
        if nonblock || (file.nonblocking() && Pipe::of(file).is_none()) {
            return Err(error);
        }
        let Some(queue) = file.ops().poll_queue() else { return Err(error) };
        t.wait_on(&[(queue, mask)], None, || file.ops().poll(file).intersects(stop).then_some(()))?;
    }
}

/// The offset that a call names: read from the application, and written back with what was moved.
fn offset(t: &CurrentTask, at: UserRef<i64>) -> Result<Option<u64>> {
    match at.non_null() {
        None => Ok(None),
        Some(at) => Ok(Some(u64::try_from(t.mm().read(at)?).map_err(|_| abi::error!(EINVAL, "negative offset"))?)),
    }
}

/// splice(2)
pub fn splice(
    t: &mut CurrentTask,
    fd_in: Fd,
    off_in: UserRef<i64>,
    fd_out: Fd,
    off_out: UserRef<i64>,
    len: usize,
    flags: u32,
) -> Result<usize> {
    if len == 0 {
        return Ok(0);
    }
    if flags & !SPLICE_F_ALL != 0 {
        bail!(EINVAL, "unknown flags");
    }
    let (input, output) = (t.files().get_open(fd_in)?, t.files().get_open(fd_out)?);
    input.check_readable()?;
    output.check_writable()?;
    let (from, to) = (Pipe::of(&input).cloned(), Pipe::of(&output).cloned());
    if (from.is_some() && !off_in.is_null()) || (to.is_some() && !off_out.is_null()) {
        bail!(ESPIPE);
    }
    let (at_in, at_out) = (offset(t, off_in)?, offset(t, off_out)?);
    let both_nonblocking = from.is_some() && to.is_some() && (input.nonblocking() || output.nonblocking());
    let nonblock = flags & SPLICE_F_NONBLOCK != 0 || both_nonblocking;
    if let Some(from) = from {
        if to.is_none() && output.flags().contains(OpenFlags::APPEND) {
            bail!(EINVAL, "O_APPEND");
        }
        let n = moving(t, &input, &output, nonblock, || splice::pipe_to_file(&from, &output, at_out, len).map(|r| r.0))?;
        if let Some(at) = at_out {
            t.mm().write(off_out, &((at + n as u64) as i64))?;
        }
        Ok(n)
    } else if let Some(to) = to {
        let n = moving(t, &input, &output, nonblock, || splice::file_to_pipe(&input, at_in, &to, len))?;
        if let Some(at) = at_in {
            t.mm().write(off_in, &((at + n as u64) as i64))?;
        }
        Ok(n)
    } else {
        bail!(EINVAL, "neither is a pipe")
    }
}

/// tee(2)
pub fn tee(t: &mut CurrentTask, fd_in: Fd, fd_out: Fd, len: usize, flags: u32) -> Result<usize> {
    if flags & !SPLICE_F_ALL != 0 {
        bail!(EINVAL, "unknown flags");
    }
    if len == 0 {
        return Ok(0);
    }
    let (input, output) = (t.files().get_open(fd_in)?, t.files().get_open(fd_out)?);
    input.check_readable()?;
    output.check_writable()?;
    let (Some(from), Some(to)) = (Pipe::of(&input).cloned(), Pipe::of(&output).cloned()) else { bail!(EINVAL, "not pipes") };
    let nonblock = flags & SPLICE_F_NONBLOCK != 0 || input.nonblocking() || output.nonblocking();
    moving(t, &input, &output, nonblock, || splice::tee(&from, &to, len))
}

/// vmsplice(2)
pub fn vmsplice(t: &mut CurrentTask, fd: Fd, iov: UserAddr, count: usize, flags: u32) -> Result<usize> {
    if flags & !SPLICE_F_ALL != 0 {
        bail!(EINVAL, "unknown flags");
    }
    let file = t.files().get_open(fd)?;
    if Pipe::of(&file).is_none() {
        bail!(EBADF, "not a pipe");
    }
    let ranges = rw::ranges(t, iov.cast(), count)?;
    let mm = t.mm();
    let mut buf = IoBuffer::user(&mm, &ranges);
    if buf.remaining() == 0 {
        return Ok(0);
    }
    let nonblock = flags & SPLICE_F_NONBLOCK != 0;
    let writes = file.flags().writable();
    moving(t, &file, &file, nonblock, || {
        if writes {
            file.ops().write(&file, &mut buf, 0, false).map(|r| r.0).map_err(|e| (e, Blocked::Output))
        } else {
            file.ops().read(&file, &mut buf, 0).map_err(|e| (e, Blocked::Input))
        }
    })
}
