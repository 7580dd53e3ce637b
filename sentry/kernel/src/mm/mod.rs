//! Memory of one process: [`Mm`].

pub mod memory;
pub mod ranges;

pub use memory::{Extent, Hint, MemoryPool};

use crate::user::{UserAddr, UserRange, UserRef};
use abi::{Result, bail};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// An address space: VMAs, pages, the platform's mappings (`struct mm_struct`).
pub struct Mm {}

impl Mm {
    /// The memory of a task that has ended: nothing is mapped.
    pub fn none() -> std::sync::Arc<Mm> {
        std::sync::Arc::new(Mm {})
    }

    /// Copies from the application; returns how many bytes could be read.
    pub fn copy_in_partial(&self, _addr: UserAddr, _dst: &mut [u8]) -> usize {
        0
    }

    /// Copies to the application; returns how many bytes could be written.
    pub fn copy_out_partial(&self, _addr: UserAddr, _src: &[u8]) -> usize {
        0
    }

    /// Copies from the application, everything or `EFAULT`.
    pub fn copy_in(&self, addr: UserAddr, dst: &mut [u8]) -> Result {
        if self.copy_in_partial(addr, dst) == dst.len() { Ok(()) } else { bail!(EFAULT) }
    }

    /// Copies to the application, everything or `EFAULT`.
    pub fn copy_out(&self, addr: UserAddr, src: &[u8]) -> Result {
        if self.copy_out_partial(addr, src) == src.len() { Ok(()) } else { bail!(EFAULT) }
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

    /// Reads a string without its NUL. `ENAMETOOLONG` if there is no NUL within `max` bytes.
    pub fn read_cstr(&self, _at: UserAddr, _max: usize) -> Result<Vec<u8>> {
        bail!(EFAULT)
    }

    /// Calls `f` with the host's view of these ranges, whose pages stay where they are until it returns (see [`crate::io::IoBuffer::with_spans`]).
    /// The spans may cover fewer bytes than asked where the rest is not accessible; `EFAULT` if none is.
    pub fn with_pinned(&self, _ranges: &[UserRange], _write: bool, _f: &mut dyn FnMut(&[host::Span]) -> Result<usize>) -> Result<usize> {
        bail!(EFAULT)
    }
}
