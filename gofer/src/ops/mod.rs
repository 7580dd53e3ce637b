//! Requests, by family. Each function is one request: it checks what the sentry may do, and does it.

mod ahead;
mod attr;
mod create;
mod dir;
mod names;
mod open;
mod socket;
mod walk;
mod xattr;

use crate::connection::Session;
use crate::resolve::Result;
use crate::server::Server;
use gofer_protocol::{Channel, Reply, Request};
use std::os::fd::OwnedFd;

/// What a request is answered with: a message, and a descriptor to donate.
pub type Answer = (Reply, Option<OwnedFd>);

/// Carries out one request.
///
/// # Errors
/// Linux's for the call the request stands for; `EBADF` for a node that is not known.
pub fn dispatch(server: &Server, session: &mut Session, request: &Request<'_>) -> Result<Answer> {
    let reply = match *request {
        Request::Attach { index } => walk::attach(server, index)?,
        Request::Walk { node, ref names } => walk::walk(server, node, names)?,
        Request::Open { node, ref names, mode } => return open::open(server, node, names, mode),
        Request::Create { dir, name, open, mode, uid, gid } => {
            return create::file(server, dir, name, open, create::New { mode, uid, gid });
        }
        Request::TmpFile { dir, open, mode, uid, gid } => return create::tmpfile(server, dir, open, create::New { mode, uid, gid }),
        Request::Mkdir { dir, name, mode, uid, gid } => create::mkdir(server, dir, name, create::New { mode, uid, gid })?,
        Request::Symlink { dir, name, target, uid, gid } => {
            create::symlink(server, dir, name, target, create::New { mode: 0o777, uid, gid })?
        }
        Request::Mknod { dir, name, mode, rdev, uid, gid } => create::mknod(server, dir, name, rdev, create::New { mode, uid, gid })?,
        Request::Link { node, dir, name } => names::link(server, node, dir, name)?,
        Request::Unlink { dir, name, rmdir } => names::unlink(server, dir, name, rmdir)?,
        Request::Rename { old_dir, old, new_dir, new, flags } => names::rename(server, (old_dir, old), (new_dir, new), flags)?,
        Request::Readlink { node } => walk::readlink(server, node)?,
        Request::Readdir { node, ref names, cookie, ahead, ref beside } => {
            let way = dir::Way { node, names, cookie };
            dir::readdir(server, session, &way, &dir::Guess { most: ahead as usize, beside })?
        }
        Request::Stat { node } => attr::stat(server, node)?,
        Request::SetAttr { node, ref set } => attr::set_attr(server, node, set)?,
        Request::StatFs { node } => attr::statfs(server, node)?,
        Request::Fsync { node, data_only } => open::fsync(server, node, data_only)?,
        Request::GetXattr { node, name } => xattr::get(server, node, name)?,
        Request::SetXattr { node, name, value, flags } => xattr::set(server, node, name, value, flags)?,
        Request::ListXattr { node } => xattr::list(server, node)?,
        Request::RemoveXattr { node, name } => xattr::remove(server, node, name)?,
        Request::Bind { dir, name, kind, mode, uid, gid } => return socket::bind(server, dir, name, kind, create::New { mode, uid, gid }),
        Request::Connect { node, kind, uid, gid, ref groups } => return socket::connect(server, node, kind, uid, gid, groups),
        Request::Close { ref nodes } => {
            for node in nodes {
                server.tree.close(*node);
            }
            Reply::Done {}
        }
        Request::NewChannel {} => {
            let (ours, theirs) = Channel::pair()?;
            server.serve(ours)?;
            return Ok((Reply::Opened {}, Some(theirs.into())));
        }
    };
    Ok((reply, None))
}
