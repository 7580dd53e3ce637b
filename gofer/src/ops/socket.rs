//! Unix sockets with names in the tree, where an attach point allows them: they reach processes of the host.

use super::create::{self, New, directory};
use super::{Answer, walk};
use crate::resolve::{Result, errno};
use crate::server::Server;
use abi::Errno;
use abi::fs::FileType;
use abi::libc;
use gofer_protocol::{Name, NodeId, Reply};
use rustix::fs::{AtFlags, CWD, Mode};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

/// A unix socket of `kind`.
fn socket(server: &Server, kind: u32, flags: SocketFlags) -> Result<OwnedFd> {
    let kind = match i32::try_from(kind) {
        Ok(libc::SOCK_STREAM) => SocketType::STREAM,
        Ok(libc::SOCK_DGRAM) => SocketType::DGRAM,
        Ok(libc::SOCK_SEQPACKET) => SocketType::SEQPACKET,
        _ => return Err(Errno::ESOCKTNOSUPPORT),
    };
    server.tree.retry(|| rustix::net::socket_with(AddressFamily::UNIX, kind, flags | SocketFlags::CLOEXEC, None).map_err(errno))
}

/// A new name with a socket bound to it, which the sentry may have listen.
///
/// # Errors
/// `EPERM` where it is not allowed; otherwise as bind(2), with `EADDRINUSE` for a name that exists.
pub fn bind(server: &Server, dir: NodeId, name: Name<'_>, kind: u32, new: New) -> Result<Answer> {
    let dir = directory(server, dir)?;
    if !server.attach_of(&dir)?.allow_unix_bind {
        return Err(Errno::EPERM);
    }
    let socket = socket(server, kind, SocketFlags::empty())?;
    let _names = server.tree.names.read();
    let dir_fd = server.tree.fd(&dir)?;
    let mut path = server.fds.path(&*dir_fd).into_bytes();
    path.push(b'/');
    path.extend_from_slice(name.as_bytes());
    let address = SocketAddrUnix::new(OsStr::from_bytes(&path)).map_err(|_| Errno::ENAMETOOLONG)?;
    rustix::net::bind(&socket, &address).map_err(errno)?;
    let finished = create::owned(server, &*dir_fd, name, FileType::Socket, new).and_then(|(attr, _)| {
        let node = server.tree.adopt(&dir, name, &attr)?;
        let fd = server.tree.fd(&node)?;
        rustix::fs::chmodat(CWD, server.fds.path(&*fd), Mode::from_raw_mode(new.mode & 0o7777), AtFlags::empty()).map_err(errno)?;
        walk::entry(server, node, crate::resolve::stat_fd(&*fd)?, None)
    });
    let entry = create::undo(&*dir_fd, name, AtFlags::empty(), finished)?;
    Ok((Reply::Node { entry, readonly: false }, Some(socket)))
}

/// A socket connected to the one at `node`. It does not block.
///
/// # Errors
/// `ECONNREFUSED` where it is not allowed, or nobody listens; otherwise as connect(2) of a non-blocking socket.
pub fn connect(server: &Server, node: NodeId, kind: u32) -> Result<Answer> {
    let (node, fd) = super::attr::reach(server, node)?;
    if node.kind != FileType::Socket || !server.attach_of(&node)?.allow_unix_connect {
        return Err(Errno::ECONNREFUSED);
    }
    let socket = socket(server, kind, SocketFlags::NONBLOCK)?;
    let address = SocketAddrUnix::new(server.fds.path(&*fd).as_str()).map_err(errno)?;
    rustix::net::connect(&socket, &address).map_err(errno)?;
    Ok((Reply::Opened {}, Some(socket)))
}
