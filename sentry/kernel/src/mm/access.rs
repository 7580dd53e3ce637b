//! How the sentry reads and writes application memory: through the memory file's mapping, or a window onto a mapped file.
//!
//! What is not there yet is faulted in, copy-on-write is broken, protections are respected. Nothing is ever referenced: copies only.

use super::{Mm, ObjectId, State, page_of};
use crate::user::{UserAddr, UserRange, UserRef};
use abi::{PAGE_SIZE, Result, bail, mm::Prot};
use host::{Span, filemap::PinnedSpan};
use std::ops::Range;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// So often a fault is answered for one piece of a copy before it is given up: others may take a page away again (fork).
const TRIES: usize = 1000;

/// What a futex is known by: the same for all who share the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FutexKey {
    /// In private memory: address space and address.
    Private {
        /// [`Mm::id`]
        mm: u64,
        /// The word's address.
        addr: u64,
    },
    /// In shared memory: the object and the place in it.
    Shared {
        /// The file or memory.
        object: ObjectId,
        /// Bytes from its beginning.
        offset: u64,
    },
}

/// Where application memory is.
pub(super) enum Piece {
    /// In the memory file; `own`: it holds a reference of this address space.
    Memory { offset: u64, len: usize },
    /// In a window onto a file.
    Window(PinnedSpan),
}

/// Why there is nothing at an address.
pub(super) enum Missing {
    /// A fault may help.
    Fault,
    /// Nothing will.
    Denied,
}

/// What an access is for.
#[derive(Clone, Copy)]
pub(super) struct Access {
    pub write: bool,
    /// Past the application's own protections (/proc/PID/mem).
    pub forced: bool,
}

impl Access {
    fn prot(self) -> Prot {
        if self.write { Prot::WRITE } else { Prot::READ }
    }
}

impl Mm {
    /// Finds up to `len` bytes at `addr` that lie together.
    pub(super) fn translate(&self, s: &State, addr: u64, len: usize, access: Access) -> Result<Piece, Missing> {
        let write = access.write;
        let at = abi::page_down(addr);
        let Some((range, vma)) = s.vmas.get(at) else { return Err(Missing::Fault) };
        if !vma.allows(access.prot()) && !(access.forced && vma.allows_forced(access.prot())) {
            return Err(Missing::Denied);
        }
        if let Some((found, page)) = s.pages.get(at) {
            if write && page.cow {
                return Err(Missing::Fault);
            }
            let end = found.end.min(range.end);
            let len = len.min(usize::try_from(end - addr).unwrap_or(usize::MAX));
            return Ok(Piece::Memory { offset: page.offset + (addr - found.start), len });
        }
        let Some(backing) = &vma.backing else { return Err(Missing::Fault) };
        if write && !vma.is_shared() {
            return Err(Missing::Fault);
        }
        // Up to the next private page.
        let end = s.pages.at_or_after(at).map_or(range.end, |(next, _)| next.start.min(range.end));
        let within = addr - at;
        let want = abi::page_up((within + len as u64).min(end - at)).unwrap_or(PAGE_SIZE);
        let offset = vma.offset + (at - range.start);
        if let (PAGE_SIZE, Some(map)) = (want, backing.mappable.file_map()) {
            // Paths and small structures, by far the most of it: the file's size, which costs a call of the host, need not be known. A copy
            // from a page behind the end faults, as it must.
            let len = len.min((PAGE_SIZE - within) as usize);
            return map.span(offset + within, len).map(Piece::Window).map_err(|_| Missing::Denied);
        }
        let pages = backing.mappable.pages(offset, want, vma.writes_through()).map_err(|_| Missing::Denied)?;
        let len = len.min(usize::try_from(pages.len.min(want).saturating_sub(within)).unwrap_or(usize::MAX));
        if len == 0 {
            return Err(Missing::Denied);
        }
        if pages.is_memory_file {
            return Ok(Piece::Memory { offset: pages.offset + within, len });
        }
        let map = backing.mappable.file_map().ok_or(Missing::Denied)?;
        map.span(pages.offset + within, len).map(Piece::Window).map_err(|_| Missing::Denied)
    }

    /// Calls `f` with the pieces of a range in order, under the lock; `f` returns how many bytes it has done, and fewer than the piece
    /// has to stop. Returns how many bytes were done in all.
    fn pieces(&self, addr: u64, len: usize, write: bool, f: impl FnMut(usize, &Piece, Span) -> usize) -> usize {
        self.pieces_for(addr, len, Access { write, forced: false }, f)
    }

    fn pieces_for(&self, addr: u64, len: usize, access: Access, mut f: impl FnMut(usize, &Piece, Span) -> usize) -> usize {
        let mut done = 0;
        let mut tries = 0;
        while done < len {
            let before = done;
            let missing = {
                let s = self.state.read();
                loop {
                    if done >= len {
                        return done;
                    }
                    let Some(at) = addr.checked_add(done as u64) else { return done };
                    match self.translate(&s, at, len - done, access) {
                        Err(missing) => break missing,
                        Ok(piece) => {
                            let span = match &piece {
                                Piece::Memory { offset, len } => match self.memory.span(*offset, *len) {
                                    Ok(span) => span,
                                    Err(_) => return done,
                                },
                                Piece::Window(pinned) => pinned.span(),
                            };
                            let n = f(done, &piece, span);
                            done += n;
                            if n < span.len() {
                                return done;
                            }
                        }
                    }
                }
            };
            tries = if done > before { 0 } else { tries + 1 };
            if matches!(missing, Missing::Denied) || tries > TRIES {
                return done;
            }
            let fault = |at| self.fault_in_as(&mut self.state.write(), at, access.prot(), access.forced);
            let faulted = addr.checked_add(done as u64).map(fault);
            if !matches!(faulted, Some(Ok(()))) {
                return done;
            }
        }
        done
    }

    /// Copies from the application; returns how many bytes could be read.
    pub fn copy_in_partial(&self, addr: UserAddr, dst: &mut [u8]) -> usize {
        let len = dst.len();
        self.pieces(addr.0, len, false, |at, _, span| match dst.get_mut(at..at + span.len()) {
            Some(part) => span.read(part),
            None => 0,
        })
    }

    /// Copies to the application; returns how many bytes could be written.
    pub fn copy_out_partial(&self, addr: UserAddr, src: &[u8]) -> usize {
        self.pieces(addr.0, src.len(), true, |at, _, span| match src.get(at..at + span.len()) {
            Some(part) => span.write(part),
            None => 0,
        })
    }

    /// As [`copy_in_partial`](Self::copy_in_partial), past the protections that the application itself is held to (Linux's `FOLL_FORCE`).
    pub fn force_in_partial(&self, addr: UserAddr, dst: &mut [u8]) -> usize {
        self.pieces_for(addr.0, dst.len(), Access { write: false, forced: true }, |at, _, span| match dst.get_mut(at..at + span.len()) {
            Some(part) => span.read(part),
            None => 0,
        })
    }

    /// As [`copy_out_partial`](Self::copy_out_partial), into private memory also where the application may not write: it gets copies.
    pub fn force_out_partial(&self, addr: UserAddr, src: &[u8]) -> usize {
        let done =
            self.pieces_for(addr.0, src.len(), Access { write: true, forced: true }, |at, _, span| match src.get(at..at + span.len()) {
                Some(part) => span.write(part),
                None => 0,
            });
        // The platform may show the application a changed copy of what was there.
        let pages = abi::page_down(addr.0)..abi::page_up(addr.0.saturating_add(done as u64)).unwrap_or(u64::MAX);
        self.aspace.unpatch(pages.start, pages.end - pages.start);
        done
    }

    /// Copies between the application's memory and other guest memory without a stop in between; returns how many bytes it could be.
    pub fn copy_span_partial(&self, addr: UserAddr, other: Span, to_app: bool) -> usize {
        self.pieces(addr.0, other.len(), to_app, |at, _, span| {
            let part = other.split_at(at).1.split_at(span.len()).0;
            let copied = if to_app { span.copy_from(part) } else { part.copy_from(span) };
            if copied.is_ok() { span.len() } else { 0 }
        })
    }

    /// Copies from the application, everything or `EFAULT`.
    pub fn copy_in(&self, addr: UserAddr, dst: &mut [u8]) -> Result {
        if self.copy_in_partial(addr, dst) == dst.len() { Ok(()) } else { bail!(EFAULT, "cannot read {:#x}", addr.0) }
    }

    /// Copies to the application, everything or `EFAULT`.
    pub fn copy_out(&self, addr: UserAddr, src: &[u8]) -> Result {
        if self.copy_out_partial(addr, src) == src.len() { Ok(()) } else { bail!(EFAULT, "cannot write {:#x}", addr.0) }
    }

    /// Reads a value.
    pub fn read<T: FromBytes + IntoBytes>(&self, at: UserRef<T>) -> Result<T> {
        let mut v = T::new_zeroed();
        self.copy_in(at.addr(), v.as_mut_bytes())?;
        Ok(v)
    }

    /// Writes a value.
    pub fn write<T: IntoBytes + Immutable>(&self, at: UserRef<T>, value: &T) -> Result {
        self.copy_out(at.addr(), value.as_bytes())
    }

    /// Zeroes memory, everything or `EFAULT`.
    pub fn zero_out(&self, addr: UserAddr, len: usize) -> Result {
        let done = self.pieces(addr.0, len, true, |_, _, span| if span.zero().is_ok() { span.len() } else { 0 });
        if done == len { Ok(()) } else { bail!(EFAULT) }
    }

    /// Reads a string without its NUL. `ENAMETOOLONG` if there is no NUL within `max` bytes.
    pub fn read_cstr(&self, at: UserAddr, max: usize) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut chunk = [0; 256];
        while out.len() < max {
            let at = at.offset(out.len() as u64);
            // Not over a page's end before the page itself is known to have no NUL.
            let in_page = (PAGE_SIZE - at.0 % PAGE_SIZE) as usize;
            let want = chunk.len().min(max - out.len()).min(in_page);
            let Some(part) = chunk.get_mut(..want) else { break };
            let n = self.copy_in_partial(at, part);
            let part = &part[..n];
            if let Some(end) = part.iter().position(|&b| b == 0) {
                out.extend_from_slice(&part[..end]);
                return Ok(out);
            }
            if n < want {
                bail!(EFAULT, "string runs into {:#x}", at.0);
            }
            out.extend_from_slice(part);
        }
        bail!(ENAMETOOLONG, "no NUL within {max} bytes")
    }

    /// Calls `f` with the host's view of these ranges, whose pages stay where they are until it returns (see [`crate::io::IoBuffer::with_spans`]).
    /// The spans may cover fewer bytes than asked where the rest is not accessible; `EFAULT` if none is.
    pub fn with_pinned(&self, ranges: &[UserRange], write: bool, f: &mut dyn FnMut(&[Span]) -> Result<usize>) -> Result<usize> {
        let mut spans: Vec<Span> = Vec::new();
        let mut pins = Pins { memory: &self.memory, extents: Vec::new(), windows: Vec::new() };
        for range in ranges {
            let done = self.pieces(range.addr.0, range.len, write, |_, piece, span| {
                match piece {
                    Piece::Memory { offset, len } => {
                        let Some(end) = abi::page_up(*offset + *len as u64) else { return 0 };
                        let extent = abi::page_down(*offset)..end;
                        self.memory.incref(extent.clone());
                        pins.extents.push(extent);
                    }
                    Piece::Window(w) => pins.windows.push(w.clone()),
                }
                match spans.last_mut().and_then(|last| last.join(span).map(|joined| (last, joined))) {
                    Some((last, joined)) => *last = joined,
                    None => spans.push(span),
                }
                span.len()
            });
            if done < range.len {
                break;
            }
        }
        if spans.is_empty() && ranges.iter().any(|r| r.len > 0) {
            bail!(EFAULT, "nothing accessible");
        }
        f(&spans)
    }

    /// Calls `f` with the span of the aligned word at `addr`.
    fn word(&self, addr: UserAddr, write: bool, mut f: impl FnMut(Span) -> Result<u32>) -> Result<u32> {
        if !addr.0.is_multiple_of(4) {
            bail!(EINVAL, "misaligned word");
        }
        let mut result = Err(abi::error!(EFAULT));
        self.pieces(addr.0, 4, write, |_, _, span| {
            result = f(span);
            span.len()
        });
        result
    }

    /// Loads an aligned word atomically. `EFAULT`, `EINVAL` if misaligned.
    pub fn load_u32(&self, addr: UserAddr) -> Result<u32> {
        self.word(addr, false, |s| Ok(s.load_u32()?))
    }

    /// Stores `new` in an aligned word if it holds `old`; returns what it held.
    pub fn compare_exchange_u32(&self, addr: UserAddr, old: u32, new: u32) -> Result<u32> {
        self.word(addr, true, |s| Ok(s.compare_exchange_u32(old, new)?))
    }

    /// Replaces an aligned word by `f` of it, atomically; returns what it held.
    pub fn update_u32(&self, addr: UserAddr, f: impl Fn(u32) -> u32) -> Result<u32> {
        self.word(addr, true, |s| Ok(s.update_u32(&f)?))
    }

    /// What a futex at `addr` is known by. `private`: FUTEX_PRIVATE_FLAG. `EINVAL` if misaligned, `EFAULT` where nothing is mapped.
    pub fn futex_key(&self, addr: UserAddr, private: bool) -> Result<FutexKey> {
        if !addr.0.is_multiple_of(4) {
            bail!(EINVAL, "misaligned futex");
        }
        let own = FutexKey::Private { mm: self.id, addr: addr.0 };
        let s = self.state.read();
        if private {
            return if s.is_user(addr.0) { Ok(own) } else { bail!(EFAULT) };
        }
        let Some((range, vma)) = s.vmas.get(page_of(addr)) else { bail!(EFAULT, "futex is not mapped") };
        if vma.prot.is_empty() {
            bail!(EFAULT, "futex is not accessible");
        }
        Ok(match &vma.backing {
            Some(b) if vma.is_shared() => FutexKey::Shared { object: b.futex, offset: vma.offset + (addr.0 - range.start) },
            _ => own,
        })
    }
}

/// References that keep memory from being freed.
struct Pins<'a> {
    memory: &'a super::MemoryPool,
    extents: Vec<Range<u64>>,
    windows: Vec<PinnedSpan>,
}

impl Drop for Pins<'_> {
    fn drop(&mut self) {
        self.memory.decref_all(self.extents.drain(..));
        self.windows.clear();
    }
}
