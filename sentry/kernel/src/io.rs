//! [`IoBuffer`]: where the bytes of a read go to and the bytes of a write come from.

use crate::{mm::Mm, user::UserRange};
use abi::{Result, bail};
use host::Span;
use std::os::fd::BorrowedFd;

/// The memory of one I/O call: ranges of an application's memory, or bytes of the sentry's own (splice, core of exec).
/// A cursor moves on with every operation. As a *destination* use the `write*` methods, as a *source* the `read*` ones.
pub struct IoBuffer<'a> {
    kind: Kind<'a>,
    pos: usize,
    len: usize,
}

enum Kind<'a> {
    User { mm: &'a Mm, ranges: &'a [UserRange] },
    Dest(&'a mut [u8]),
    Source(&'a [u8]),
}

impl<'a> IoBuffer<'a> {
    /// Application memory; the ranges in order.
    #[must_use]
    pub fn user(mm: &'a Mm, ranges: &'a [UserRange]) -> Self {
        let len = ranges.iter().fold(0usize, |n, r| n.saturating_add(r.len));
        IoBuffer { kind: Kind::User { mm, ranges }, pos: 0, len }
    }

    /// A destination in the sentry.
    #[must_use]
    pub fn dest(bytes: &'a mut [u8]) -> Self {
        IoBuffer { len: bytes.len(), kind: Kind::Dest(bytes), pos: 0 }
    }

    /// A source in the sentry.
    #[must_use]
    pub fn source(bytes: &'a [u8]) -> Self {
        IoBuffer { len: bytes.len(), kind: Kind::Source(bytes), pos: 0 }
    }

    /// Bytes not yet read or written.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.len - self.pos
    }

    /// Bytes done so far.
    #[must_use]
    pub fn done(&self) -> usize {
        self.pos
    }

    /// Takes back what the last operations did, down to `pos` bytes done.
    pub fn rewind_to(&mut self, pos: usize) {
        self.pos = pos.min(self.pos);
    }

    /// Ends the buffer `n` bytes after the cursor, if it is longer.
    pub fn truncate(&mut self, n: usize) {
        self.len = self.len.min(self.pos.saturating_add(n));
    }

    /// Copies from `src` into the buffer, as much as fits. `EFAULT` only if not one byte could be copied.
    pub fn write(&mut self, src: &[u8]) -> Result<usize> {
        let n = src.len().min(self.remaining());
        let mut done = 0;
        while done < n {
            let at = self.pos + done;
            let got = match &mut self.kind {
                Kind::User { mm, ranges } => {
                    let (addr, room) = locate(ranges, at);
                    let want = room.min(n - done);
                    match mm.copy_out_partial(addr, &src[done..done + want]) {
                        0 => break,
                        got => got,
                    }
                }
                Kind::Dest(d) => {
                    d[at..at + n - done].copy_from_slice(&src[done..n]);
                    n - done
                }
                Kind::Source(_) => bail!(EBADF, "buffer is a source"),
            };
            done += got;
        }
        self.finish(done, n)
    }

    /// Copies from the buffer into `dst`, as much as there is. `EFAULT` only if not one byte could be copied.
    pub fn read(&mut self, dst: &mut [u8]) -> Result<usize> {
        let n = dst.len().min(self.remaining());
        let mut done = 0;
        while done < n {
            let at = self.pos + done;
            let got = match &self.kind {
                Kind::User { mm, ranges } => {
                    let (addr, room) = locate(ranges, at);
                    let want = room.min(n - done);
                    match mm.copy_in_partial(addr, &mut dst[done..done + want]) {
                        0 => break,
                        got => got,
                    }
                }
                Kind::Source(s) => {
                    dst[done..n].copy_from_slice(&s[at..at + n - done]);
                    n - done
                }
                Kind::Dest(_) => bail!(EBADF, "buffer is a destination"),
            };
            done += got;
        }
        self.finish(done, n)
    }

    fn finish(&mut self, done: usize, wanted: usize) -> Result<usize> {
        self.pos += done;
        if done == 0 && wanted > 0 {
            bail!(EFAULT, "buffer is not accessible");
        }
        Ok(done)
    }

    /// Writes `n` zero bytes (or as many as fit).
    pub fn write_zeros(&mut self, n: usize) -> Result<usize> {
        const ZEROS: [u8; 65536] = [0; 65536];
        let mut done = 0;
        while done < n && self.remaining() > 0 {
            match self.write(&ZEROS[..ZEROS.len().min(n - done)]) {
                Ok(k) => done += k,
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Everything that remains, as one vector of at most `max` bytes.
    pub fn read_all(&mut self, max: usize) -> Result<Vec<u8>> {
        let mut v = vec![0; self.remaining().min(max)];
        let n = self.read(&mut v)?;
        v.truncate(n);
        Ok(v)
    }

    /// Calls `f` with up to `max` bytes of the remaining application memory as host spans, for I/O without a copy through the sentry; `f`
    /// returns how many bytes it transferred, and the cursor moves by that. `write`: `f` writes into the memory. The memory cannot
    /// be freed or given to anyone else while `f` runs, even if the application unmaps it. `EOPNOTSUPP` for the sentry's own memory.
    fn with_spans(&mut self, max: usize, write: bool, f: &mut dyn FnMut(&[Span]) -> Result<usize>) -> Result<usize> {
        let Kind::User { mm, ranges } = &self.kind else { bail!(EOPNOTSUPP, "not application memory") };
        let want = self.remaining().min(max);
        let mut list = Vec::new();
        let (mut left, mut at) = (want, self.pos);
        while left > 0 {
            let (addr, room) = locate(ranges, at);
            let len = room.min(left);
            list.push(UserRange { addr, len });
            at += len;
            left -= len;
        }
        let n = mm.with_pinned(&list, write, f)?.min(want);
        self.pos += n;
        Ok(n)
    }

    /// As `with_spans`, for calls of the host that transfer more than bytes (recvmsg(2), sendmsg(2)). `into`: they write into the memory.
    pub fn transfer(&mut self, max: usize, into: bool, mut f: impl FnMut(&[Span]) -> Result<usize>) -> Result<usize> {
        self.with_spans(max, into, &mut f)
    }

    /// Whether it is application memory, which [`transfer`](Self::transfer) needs.
    #[must_use]
    pub fn is_user(&self) -> bool {
        matches!(self.kind, Kind::User { .. })
    }

    /// Reads from a host descriptor into the buffer, at `offset` or, `None`, at the descriptor's own position; at most `max` bytes.
    pub fn read_from_host(&mut self, fd: BorrowedFd<'_>, offset: Option<u64>, max: usize) -> Result<usize> {
        let want = self.remaining().min(max);
        if let Kind::Dest(d) = &mut self.kind {
            let bytes = &mut d[self.pos..self.pos + want];
            let n = match offset {
                Some(o) => host::io::pread(fd, bytes, o)?,
                None => host::io::read(fd, bytes)?,
            };
            self.pos += n;
            return Ok(n);
        }
        self.with_spans(max, true, &mut |spans| {
            Ok(match offset {
                Some(o) => host::io::preadv(fd, spans, o)?,
                None => host::io::readv(fd, spans)?,
            })
        })
    }

    /// Writes from the buffer to a host descriptor, at `offset` or, `None`, at the descriptor's own position; at most `max` bytes.
    pub fn write_to_host(&mut self, fd: BorrowedFd<'_>, offset: Option<u64>, max: usize) -> Result<usize> {
        let want = self.remaining().min(max);
        if let Kind::Source(s) = &self.kind {
            let bytes = &s[self.pos..self.pos + want];
            let n = match offset {
                Some(o) => host::io::pwrite(fd, bytes, o)?,
                None => host::io::write(fd, bytes)?,
            };
            self.pos += n;
            return Ok(n);
        }
        self.with_spans(max, false, &mut |spans| {
            Ok(match offset {
                Some(o) => host::io::pwritev(fd, spans, o)?,
                None => host::io::writev(fd, spans)?,
            })
        })
    }

    /// Reads from a host descriptor that others share, at its own position: `EAGAIN` rather than waiting.
    pub fn read_from_host_nowait(&mut self, fd: BorrowedFd<'_>) -> Result<usize> {
        if let Kind::Dest(d) = &mut self.kind {
            let n = host::file::read_nowait(fd, &mut d[self.pos..self.len])?;
            self.pos += n;
            return Ok(n);
        }
        self.with_spans(usize::MAX, true, &mut |spans| Ok(host::file::readv_nowait(fd, spans)?))
    }

    /// Writes to a host descriptor that others share, at its own position: `EAGAIN` rather than waiting.
    pub fn write_to_host_nowait(&mut self, fd: BorrowedFd<'_>) -> Result<usize> {
        if let Kind::Source(s) = &self.kind {
            let n = host::file::write_nowait(fd, &s[self.pos..self.len])?;
            self.pos += n;
            return Ok(n);
        }
        self.with_spans(usize::MAX, false, &mut |spans| Ok(host::file::writev_nowait(fd, spans)?))
    }

    /// Copies from a span (pages of the memory file) into the buffer, as much as fits.
    pub fn write_from_span(&mut self, src: Span) -> Result<usize> {
        self.copy_span(src, true)
    }

    /// Copies from the buffer into a span, as much as there is.
    pub fn read_into_span(&mut self, dst: Span) -> Result<usize> {
        self.copy_span(dst, false)
    }

    fn copy_span(&mut self, span: Span, to_buffer: bool) -> Result<usize> {
        let want = span.len().min(self.remaining());
        let mut done = 0;
        while done < want {
            let at = self.pos + done;
            let part = span.split_at(done).1.split_at(want - done).0;
            let got = match (&mut self.kind, to_buffer) {
                (Kind::User { mm, ranges }, _) => {
                    let (addr, room) = locate(ranges, at);
                    mm.copy_span_partial(addr, part.split_at(room).0, to_buffer)
                }
                (Kind::Dest(d), true) => d.get_mut(at..at + part.len()).map_or(0, |d| part.read(d)),
                (Kind::Source(s), false) => s.get(at..at + part.len()).map_or(0, |s| part.write(s)),
                (Kind::Dest(_), false) => bail!(EBADF, "buffer is a destination"),
                (Kind::Source(_), true) => bail!(EBADF, "buffer is a source"),
            };
            if got == 0 {
                break;
            }
            done += got;
        }
        self.finish(done, want)
    }
}

/// The address of byte `at` of the ranges taken together, and how many bytes its range holds from there.
fn locate(ranges: &[UserRange], mut at: usize) -> (crate::user::UserAddr, usize) {
    for r in ranges {
        if at < r.len {
            return (r.addr.offset(at as u64), r.len - at);
        }
        at -= r.len;
    }
    (crate::user::UserAddr::NULL, 0)
}
