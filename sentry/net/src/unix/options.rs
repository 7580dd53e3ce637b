//! ioctl(2), and the options of unix sockets that others do not have.

use super::{Sender, Sock, packet::Packet, sock::Phase};
use abi::{Result, bail, error, libc};
use kernel::{
    net::{SocketKind, SocketOps, Ucred},
    task::Task,
    vfs::IoctlArg,
};
use zerocopy::IntoBytes;

impl Sock {
    /// FIONREAD and SIOCOUTQ.
    pub(super) fn do_ioctl(&self, task: &Task, cmd: u32, arg: IoctlArg) -> Result<u64> {
        let n = match u64::from(cmd) {
            libc::FIONREAD if self.kind() != SocketKind::Dgram && self.host.peer().is_some() => {
                let readable = self.host.peer().map(|link| link.readable()).transpose()?;
                usize::try_from(readable.unwrap_or(0)).unwrap_or(0)
            }
            libc::FIONREAD => {
                let s = self.lock();
                if matches!(s.phase, Phase::Listening { .. }) {
                    bail!(EINVAL, "listening");
                }
                if self.kind() == SocketKind::Dgram {
                    s.received.front().map_or(0, |p| p.data.len())
                } else {
                    s.received.iter().map(|p: &Packet| p.rest().len()).sum()
                }
            }
            libc::TIOCOUTQ => self.in_buffer(),
            _ => return crate::device::ioctl(task, cmd, arg).unwrap_or_else(|| bail!(ENOTTY)),
        };
        task.mm().write(arg.addr().cast::<i32>(), &i32::try_from(n).unwrap_or(i32::MAX))?;
        Ok(0)
    }

    /// getsockopt(2) at `SOL_SOCKET`: what only this socket knows.
    pub(super) fn own_option(&self, name: i32) -> Option<Result<Vec<u8>>> {
        let s = self.lock();
        Some(match name {
            libc::SO_PEERCRED => {
                let c = s.peer_cred.map_or(Ucred { pid: 0, uid: u32::MAX, gid: u32::MAX }, Sender::seen);
                Ok(c.as_bytes().to_vec())
            }
            libc::SO_PEERGROUPS => match s.peer_cred {
                Some(_) => Ok(s.peer_groups.iter().flat_map(|g| g.to_ne_bytes()).collect()),
                None => Err(error!(ENODATA)),
            },
            libc::SO_ACCEPTCONN => Ok(i32::from(matches!(s.phase, Phase::Listening { .. })).to_ne_bytes().to_vec()),
            libc::SO_PEERSEC => Err(error!(ENOPROTOOPT, "no security labels")),
            _ => return None,
        })
    }
}
