//! Extended attributes (xattr(7)). Which names are allowed to whom is the host's to say.

use super::attr::reach;
use crate::resolve::{Result, errno};
use crate::server::Server;
use abi::Errno;
use gofer_protocol::{Bytes, MAX_XATTR, NodeId, Reply};
use rustix::fs::XattrFlags;

/// Checks the length of a name (`XATTR_NAME_MAX`).
fn name_ok(name: &[u8]) -> Result<()> {
    if name.is_empty() || name.len() > 255 { Err(Errno::ERANGE) } else { Ok(()) }
}

/// getxattr(2).
pub fn get(server: &Server, node: NodeId, name: &[u8]) -> Result<Reply> {
    name_ok(name)?;
    let (_, fd) = reach(server, node)?;
    let path = server.fds.path(&*fd);
    // Most values are short, and 64 KiB is much to clear for each.
    let mut value = vec![0; 512];
    let len = match rustix::fs::getxattr(path.as_str(), name, value.as_mut_slice()) {
        Err(rustix::io::Errno::RANGE) => {
            value.resize(MAX_XATTR, 0);
            rustix::fs::getxattr(path.as_str(), name, value.as_mut_slice())
        }
        other => other,
    };
    value.truncate(len.map_err(errno)?);
    Ok(Reply::Bytes { bytes: Bytes(value) })
}

/// setxattr(2).
pub fn set(server: &Server, node: NodeId, name: &[u8], value: &[u8], flags: u32) -> Result<Reply> {
    name_ok(name)?;
    if value.len() > MAX_XATTR {
        return Err(Errno::E2BIG);
    }
    let flags = XattrFlags::from_bits(flags).filter(|f| XattrFlags::all().contains(*f) && f.bits() < 4).ok_or(Errno::EINVAL)?;
    let (node, fd) = reach(server, node)?;
    server.writable(&node)?;
    rustix::fs::setxattr(server.fds.path(&*fd), name, value, flags).map_err(errno)?;
    Ok(Reply::Done {})
}

/// listxattr(2).
pub fn list(server: &Server, node: NodeId) -> Result<Reply> {
    let (_, fd) = reach(server, node)?;
    let path = server.fds.path(&*fd);
    let mut names = vec![0; 1024];
    let len = match rustix::fs::listxattr(path.as_str(), names.as_mut_slice()) {
        Err(rustix::io::Errno::RANGE) => {
            names.resize(MAX_XATTR, 0);
            rustix::fs::listxattr(path.as_str(), names.as_mut_slice())
        }
        other => other,
    };
    names.truncate(len.map_err(errno)?);
    Ok(Reply::Bytes { bytes: Bytes(names) })
}

/// removexattr(2).
pub fn remove(server: &Server, node: NodeId, name: &[u8]) -> Result<Reply> {
    name_ok(name)?;
    let (node, fd) = reach(server, node)?;
    server.writable(&node)?;
    rustix::fs::removexattr(server.fds.path(&*fd), name).map_err(errno)?;
    Ok(Reply::Done {})
}
