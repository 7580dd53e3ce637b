//! Extended attributes: who may touch which namespace (xattr(7)).

use super::{FsStr, FsString, Inode, PathRef, XattrFlags, notify, perm};
use crate::cred::{CapSet, Credentials};
use abi::{Errno, Result, bail, fs::FileType};

/// The longest name.
pub const XATTR_NAME_MAX: usize = 255;
/// The largest value.
pub const XATTR_SIZE_MAX: usize = 65_536;
/// The largest list of names.
pub const XATTR_LIST_MAX: usize = 65_536;

/// `xattr_permission`: `write`, to set or remove it.
fn allowed(path: &PathRef, cred: &Credentials, name: &FsStr, write: bool) -> Result {
    if name.is_empty() || name.len() > XATTR_NAME_MAX {
        bail!(ERANGE, "name of an attribute");
    }
    if write {
        path.mount.check_writable()?;
    }
    let inode: &Inode = &path.inode;
    if name.starts_with(b"security.") {
        if write && name == b"security.capability" {
            return cred.require(CapSet::SETFCAP);
        }
        return if write { cred.require(CapSet::SYS_ADMIN) } else { Ok(()) };
    }
    if name.starts_with(b"trusted.") {
        if cred.capable(CapSet::SYS_ADMIN) {
            return Ok(());
        }
        return Err(if write { Errno::EPERM } else { Errno::ENODATA }.into());
    }
    if name.starts_with(b"user.") {
        if !matches!(inode.kind, FileType::Regular | FileType::Directory) {
            return Err(if write { Errno::EPERM } else { Errno::ENODATA }.into());
        }
        if write && inode.is_dir() {
            let attr = inode.attr()?;
            if attr.perm & 0o1000 != 0 && !perm::is_owner_or_capable(&attr, cred) {
                bail!(EPERM, "sticky directory");
            }
        }
        return perm::check(inode, cred, if write { perm::WRITE } else { perm::READ });
    }
    // Access control lists are not kept, nor any other namespace.
    bail!(EOPNOTSUPP)
}

impl PathRef {
    /// getxattr(2).
    pub fn getxattr(&self, cred: &Credentials, name: &FsStr) -> Result<Vec<u8>> {
        allowed(self, cred, name, false)?;
        self.inode.ops.getxattr(&self.inode, name)
    }

    /// setxattr(2).
    pub fn setxattr(&self, cred: &Credentials, name: &FsStr, value: &[u8], flags: XattrFlags) -> Result {
        allowed(self, cred, name, true)?;
        if value.len() > XATTR_SIZE_MAX {
            bail!(E2BIG);
        }
        self.inode.ops.setxattr(&self.inode, name, value, flags)?;
        notify::event_at(&self.dentry, &self.inode, notify::mask::ATTRIB);
        Ok(())
    }

    /// removexattr(2).
    pub fn removexattr(&self, cred: &Credentials, name: &FsStr) -> Result {
        allowed(self, cred, name, true)?;
        self.inode.ops.removexattr(&self.inode, name)?;
        notify::event_at(&self.dentry, &self.inode, notify::mask::ATTRIB);
        Ok(())
    }

    /// listxattr(2).
    pub fn listxattr(&self, cred: &Credentials) -> Result<Vec<FsString>> {
        let mut names = self.inode.ops.listxattr(&self.inode)?;
        if !cred.capable(CapSet::SYS_ADMIN) {
            names.retain(|n| !n.starts_with(b"trusted."));
        }
        Ok(names)
    }
}
