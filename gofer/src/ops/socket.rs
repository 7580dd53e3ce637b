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

/// A socket connected to the one at `node`, as this user. It does not block.
///
/// # Errors
/// `ECONNREFUSED` where it is not allowed, or nobody listens; `EACCES` if the host knows no such user; otherwise as connect(2) of a
/// non-blocking socket.
pub fn connect(server: &Server, node: NodeId, kind: u32, uid: u32, gid: u32, groups: &[u32]) -> Result<Answer> {
    let (node, fd) = super::attr::reach(server, node)?;
    if node.kind != FileType::Socket || !server.attach_of(&node)?.allow_unix_connect {
        return Err(Errno::ECONNREFUSED);
    }
    let socket = socket(server, kind, SocketFlags::NONBLOCK)?;
    let address = SocketAddrUnix::new(server.fds.path(&*fd).as_str()).map_err(errno)?;
    as_user(uid, gid, groups, || rustix::net::connect(&socket, &address).map_err(errno))?;
    Ok((Reply::Opened {}, Some(socket)))
}

/// Does something with these credentials, which this thread alone takes on: the other side of a connection is told who made it, and decides
/// by that what it may do.
fn as_user(uid: u32, gid: u32, groups: &[u32], act: impl FnOnce() -> Result<()>) -> Result<()> {
    use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    // -1 would mean that nothing changes.
    if uid == u32::MAX || gid == u32::MAX || groups.contains(&u32::MAX) {
        return Err(Errno::EINVAL);
    }
    if uid == rustix::process::geteuid().as_raw() && gid == rustix::process::getegid().as_raw() && groups.is_empty() {
        return act();
    }
    let (own_uid, own_gid) = (rustix::process::getuid(), rustix::process::getgid());
    let groups: Vec<Gid> = groups.iter().map(|&group| Gid::from_raw(group)).collect();
    let put = |uid: Uid, gid: Gid, groups: &[Gid]| {
        set_thread_groups(groups)?;
        set_thread_res_gid(own_gid, gid, own_gid)?;
        set_thread_res_uid(own_uid, uid, own_uid)
    };
    // Users that the namespace does not map, or no right to be anybody else.
    let taken = put(Uid::from_raw(uid), Gid::from_raw(gid), &groups).map_err(|_| Errno::EACCES);
    let done = taken.and_then(|()| act());
    // The user first: the right to change the rest comes back with it.
    let back = set_thread_res_uid(own_uid, own_uid, own_uid).and_then(|()| put(own_uid, own_gid, &[]));
    // Without the right to be anybody else, nothing has changed, and nothing can.
    if rustix::process::geteuid() != own_uid || rustix::process::getegid() != own_gid || done.is_ok() && back.is_err() {
        tracing::error!("credentials cannot be given back");
        std::process::abort();
    }
    done
}
