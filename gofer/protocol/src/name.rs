//! File names: one component of a path.

use crate::wire::{Malformed, Reader, Wire};
use abi::Errno;

/// One component of a path: 1 to 255 bytes, no `/`, no NUL, neither `.` nor `..`.
///
/// That a value of this type exists is the proof; the gofer hands nothing else to its host as a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    /// Checks `bytes`.
    ///
    /// # Errors
    /// `ENOENT` if empty, `ENAMETOOLONG` if longer than 255 bytes, `EINVAL` otherwise.
    pub fn new(bytes: &'a [u8]) -> Result<Name<'a>, Errno> {
        match bytes {
            b"" => Err(Errno::ENOENT),
            b"." | b".." => Err(Errno::EINVAL),
            _ if bytes.len() > 255 => Err(Errno::ENAMETOOLONG),
            _ if bytes.iter().any(|&b| b == b'/' || b == 0) => Err(Errno::EINVAL),
            _ => Ok(Name(bytes)),
        }
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }
}

impl<'a> Wire<'a> for Name<'a> {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(self.0.len() as u8);
        out.extend_from_slice(self.0);
    }

    fn get(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        let len = u8::get(r)?;
        Name::new(r.take(usize::from(len))?).map_err(|_| Malformed::Name)
    }
}
