//! splice(2), tee(2) and vmsplice(2): data moves through a buffer of the sentry's.
//!
//! Like [`FileOps`](crate::vfs::FileOps), nothing here blocks: `EAGAIN` where Linux would wait, on the file named by [`Blocked`].

use super::{Pipe, SLOT};
use crate::{io::IoBuffer, vfs::File};
use abi::{Errno, Result, bail, error, fs::OpenFlags, poll::PollEvents};

/// The most that one step moves.
const CHUNK: usize = 1 << 20;

/// Which side a move that gave `EAGAIN` must wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// The source: until it is readable.
    Input,
    /// The destination: until it is writable.
    Output,
}

/// A move's failure, and the side to wait for if it is `EAGAIN`.
pub type SpliceError = (abi::Error, Blocked);

fn input(e: impl Into<abi::Error>) -> SpliceError {
    (e.into(), Blocked::Input)
}

fn output(e: impl Into<abi::Error>) -> SpliceError {
    (e.into(), Blocked::Output)
}

impl Pipe {
    /// Takes up to `max` bytes out. Empty: no writer left.
    fn take(&self, max: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; max.min(self.readable().max(1))];
        let n = self.read(&mut IoBuffer::dest(&mut bytes))?;
        bytes.truncate(n);
        Ok(bytes)
    }

    fn unread(&self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.state.lock().ring.unread(bytes);
            self.queue.notify(PollEvents::READABLE);
        }
    }

    /// Promises room for up to `max` bytes; returns how many.
    fn reserve(&self, max: usize) -> Result<usize> {
        let mut s = self.state.lock();
        if s.readers == 0 {
            bail!(EPIPE, "no reader");
        }
        let slots = s.ring.reserve(max.div_ceil(SLOT));
        if slots == 0 {
            bail!(EAGAIN, "pipe is full");
        }
        Ok((slots * SLOT).min(max))
    }

    /// Fills room that [`reserve`](Self::reserve) promised for `reserved` bytes.
    fn commit(&self, reserved: usize, bytes: &[u8]) -> Result {
        let mut s = self.state.lock();
        s.ring.unreserve(reserved.div_ceil(SLOT));
        let was_full = s.ring.is_full();
        let done = if bytes.is_empty() { 0 } else { s.ring.write(&mut IoBuffer::source(bytes), false)? };
        drop(s);
        let mut events = PollEvents::empty();
        if done > 0 {
            events |= PollEvents::READABLE;
        }
        if !was_full {
            events |= PollEvents::WRITABLE;
        }
        self.queue.notify(events);
        Ok(())
    }
}

/// From a pipe to a file, at `offset` (`None`: the file's own position or none). Returns bytes moved and the position after them.
pub fn pipe_to_file(pipe: &Pipe, out: &File, offset: Option<u64>, len: usize) -> Result<(usize, u64), SpliceError> {
    if let Some(to) = Pipe::of(out) {
        return pipe_to_pipe(pipe, to, len).map(|n| (n, 0));
    }
    if offset.is_some() && !out.ops().seekable() {
        return Err(output(Errno::ESPIPE));
    }
    let bytes = pipe.take(len.min(CHUNK)).map_err(input)?;
    if bytes.is_empty() {
        return Ok((0, offset.unwrap_or(0)));
    }
    let mut src = IoBuffer::source(&bytes);
    let written = match offset {
        Some(at) => out.ops().write(out, &mut src, at, false),
        None if out.ops().seekable() => {
            let mut pos = out.pos.lock();
            let r = out.ops().write(out, &mut src, *pos, out.flags().contains(OpenFlags::APPEND));
            if let Ok((_, next)) = r {
                *pos = next;
            }
            r
        }
        None => out.ops().write(out, &mut src, 0, false),
    };
    match written {
        Ok((n, next)) => {
            pipe.unread(bytes.get(n..).unwrap_or_default());
            Ok((n, next))
        }
        Err(e) => {
            pipe.unread(&bytes);
            Err(output(e))
        }
    }
}

/// From a file, at `offset` (`None`: its own position or none), to a pipe. Returns bytes moved.
pub fn file_to_pipe(file: &File, offset: Option<u64>, pipe: &Pipe, len: usize) -> Result<usize, SpliceError> {
    if let Some(from) = Pipe::of(file) {
        return pipe_to_pipe(from, pipe, len);
    }
    if offset.is_some() && !file.ops().seekable() {
        return Err(input(Errno::ESPIPE));
    }
    let room = pipe.reserve(len.min(CHUNK)).map_err(output)?;
    let mut bytes = vec![0; room];
    let mut dst = IoBuffer::dest(&mut bytes);
    let read = match offset {
        Some(at) => file.ops().read(file, &mut dst, at),
        None if file.ops().seekable() => {
            let mut pos = file.pos.lock();
            let r = file.ops().read(file, &mut dst, *pos);
            if let Ok(n) = r {
                *pos += n as u64;
            }
            r
        }
        None => file.ops().read(file, &mut dst, 0),
    };
    let n = *read.as_ref().unwrap_or(&0);
    pipe.commit(room, bytes.get(..n).unwrap_or_default()).map_err(output)?;
    read.map_err(input)
}

fn pipe_to_pipe(from: &Pipe, to: &Pipe, len: usize) -> Result<usize, SpliceError> {
    transfer(from, to, len, |p, max| p.take(max))
}

fn transfer(from: &Pipe, to: &Pipe, len: usize, get: impl Fn(&Pipe, usize) -> Result<Vec<u8>>) -> Result<usize, SpliceError> {
    if std::ptr::eq(from, to) {
        return Err(input(Errno::EINVAL));
    }
    let room = to.reserve(len.min(CHUNK)).map_err(output)?;
    match get(from, room) {
        Ok(bytes) => {
            to.commit(room, &bytes).map_err(output)?;
            Ok(bytes.len())
        }
        Err(e) => {
            to.commit(room, &[]).map_err(output)?;
            Err(input(e))
        }
    }
}

/// tee(2): copies what is in `from` without removing it.
pub fn tee(from: &Pipe, to: &Pipe, len: usize) -> Result<usize, SpliceError> {
    transfer(from, to, len, |p, max| {
        let s = p.state.lock();
        let bytes = s.ring.peek(max);
        if bytes.is_empty() && s.writers > 0 { Err(error!(EAGAIN, "pipe is empty")) } else { Ok(bytes) }
    })
}
