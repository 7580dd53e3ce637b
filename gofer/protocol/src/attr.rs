//! Attributes of files.

use crate::wire::{Malformed, Reader, Wire, wire_fixed};
use abi::fs::FileType;
use abi::time::Timespec;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What `statx` says of a file (statx(2)), as far as the sentry wants it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Attr {
    /// The host's device number, of the file system the file is on: tells two files with one inode number apart.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// Units of 512 bytes in use.
    pub blocks: u64,
    /// The device a device node stands for.
    pub rdev: u64,
    /// Type and permissions.
    pub mode: u32,
    /// Hard links.
    pub nlink: u32,
    /// Owner, as the gofer's user namespace sees it.
    pub uid: u32,
    /// Group, likewise.
    pub gid: u32,
    /// Preferred block size for I/O.
    pub blksize: u32,
    /// 1 if `btime` is known.
    pub has_btime: u32,
    /// Last access.
    pub atime: Timespec,
    /// Last change of the contents.
    pub mtime: Timespec,
    /// Last change of the inode.
    pub ctime: Timespec,
    /// Creation; zero where the file system does not know.
    pub btime: Timespec,
}

impl Attr {
    /// The type, if the mode has a valid one.
    #[must_use]
    pub fn file_type(&self) -> Option<FileType> {
        FileType::from_mode(self.mode)
    }

    /// Whether `self` and `other` are the same file, not merely equal ones.
    #[must_use]
    pub fn same_file(&self, other: &Attr) -> bool {
        self.dev == other.dev && self.ino == other.ino && self.file_type() == other.file_type()
    }
}

/// What `statfs` says of a file system (statfs(2)); the fields as there.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[allow(missing_docs)]
pub struct StatFs {
    pub kind: u64,
    pub bsize: u64,
    pub blocks: u64,
    pub bfree: u64,
    pub bavail: u64,
    pub files: u64,
    pub ffree: u64,
    pub namelen: u64,
    pub frsize: u64,
    /// `ST_*` mount flags.
    pub flags: u64,
}

wire_fixed!(Attr, StatFs);

/// What to do with a timestamp (utimensat(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SetTime {
    /// Leave it (`UTIME_OMIT`).
    #[default]
    Omit,
    /// The host's present time (`UTIME_NOW`).
    Now,
    /// This time; nanoseconds below 1,000,000,000.
    At(Timespec),
}

impl<'a> Wire<'a> for SetTime {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            SetTime::Omit => 0u8.put(out),
            SetTime::Now => 1u8.put(out),
            SetTime::At(t) => {
                2u8.put(out);
                t.put(out);
            }
        }
    }

    fn get(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        match u8::get(r)? {
            0 => Ok(SetTime::Omit),
            1 => Ok(SetTime::Now),
            2 => {
                let t = Timespec::get(r)?;
                if (0..1_000_000_000).contains(&t.nsec) { Ok(SetTime::At(t)) } else { Err(Malformed::Value("time")) }
            }
            _ => Err(Malformed::Value("time")),
        }
    }
}

/// Which attributes to change, and to what. They are changed in the order of the fields, and the first failure ends
/// the request: what was changed by then stays changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Truncate or extend to so many bytes.
    pub size: Option<u64>,
    /// New owner. As on Linux a change of owner takes set-user-ID and set-group-ID bits from a file.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New permissions, `07777`.
    pub mode: Option<u32>,
    /// Last access.
    pub atime: SetTime,
    /// Last change.
    pub mtime: SetTime,
}

impl<'a> Wire<'a> for SetAttr {
    fn put(&self, out: &mut Vec<u8>) {
        self.size.put(out);
        self.uid.put(out);
        self.gid.put(out);
        self.mode.put(out);
        self.atime.put(out);
        self.mtime.put(out);
    }

    fn get(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(SetAttr {
            size: Wire::get(r)?,
            uid: Wire::get(r)?,
            gid: Wire::get(r)?,
            mode: Wire::get(r)?,
            atime: Wire::get(r)?,
            mtime: Wire::get(r)?,
        })
    }
}
