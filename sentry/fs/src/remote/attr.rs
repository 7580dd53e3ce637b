//! Attributes: the protocol's, the kernel's, and what fstat(2) of a donated descriptor adds.

use abi::fs::Stat;
use gofer_protocol as proto;
use kernel::vfs::{Attr, SetAttr, SetTime};

/// As the kernel has them.
pub(super) fn to_kernel(a: &proto::Attr) -> Attr {
    Attr {
        perm: a.mode & 0o7777,
        nlink: a.nlink,
        uid: a.uid,
        gid: a.gid,
        rdev: a.rdev,
        size: a.size,
        blocks: a.blocks,
        blksize: a.blksize,
        atime: a.atime,
        mtime: a.mtime,
        ctime: a.ctime,
        btime: (a.has_btime != 0).then_some(a.btime),
    }
}

/// Brings `base` up to date with what the host says of an open descriptor. Not the owner: the sentry's user namespace does not map
/// what the gofer's does, and only the gofer changes it.
pub(super) fn merge(base: &proto::Attr, now: &Stat) -> proto::Attr {
    let unsigned = |v: i64| u64::try_from(v).unwrap_or(0);
    proto::Attr {
        mode: now.mode,
        nlink: u32::try_from(now.nlink).unwrap_or(u32::MAX),
        size: unsigned(now.size),
        blocks: unsigned(now.blocks),
        atime: now.atime,
        mtime: now.mtime,
        ctime: now.ctime,
        ..*base
    }
}

/// A change as the protocol has it.
pub(super) fn change(c: &SetAttr) -> proto::SetAttr {
    let time = |t: Option<SetTime>| match t {
        None => proto::SetTime::Omit,
        Some(SetTime::Now) => proto::SetTime::Now,
        Some(SetTime::To(t)) => proto::SetTime::At(t),
    };
    proto::SetAttr { size: c.size, uid: c.uid, gid: c.gid, mode: c.perm, atime: time(c.atime), mtime: time(c.mtime) }
}
