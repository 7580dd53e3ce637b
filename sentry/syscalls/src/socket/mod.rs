//! Sockets: socket(2) and all that takes one.
//!
//! [`wait`] is where `EAGAIN` of a socket becomes waiting, [`message`] where `struct msghdr` is taken apart and put together.

mod message;
mod options;
mod transfer;
mod wait;

use crate::{fdutil, row, table::Entry};
use abi::{Errno, Result, bail, fs::OpenFlags, libc, poll::PollEvents};
use kernel::{
    net::{self, Shutdown, SocketFile, SocketKind, SocketOps},
    task::CurrentTask,
    user::{UserAddr, UserRef},
    vfs::{Fd, File},
};
use std::sync::Arc;

pub(crate) const ROWS: &[Entry] = &[
    row!(
        "socket",
        socket,
        Partial("AF_UNIX; AF_INET and AF_INET6: TCP, UDP, ping, raw; AF_PACKET; AF_NETLINK: ROUTE, SOCK_DIAG, a silent KOBJECT_UEVENT")
    ),
    row!("socketpair", socketpair),
    row!("bind", bind),
    row!("listen", listen),
    row!("connect", connect),
    row!("accept", accept),
    row!("accept4", accept4),
    row!("getsockname", getsockname),
    row!("getpeername", getpeername),
    row!("shutdown", shutdown),
    row!("getsockopt", options::getsockopt, Partial("no SO_PEERPIDFD")),
    row!("setsockopt", options::setsockopt, Partial("no filters of bpf(2); see docs/network.md for each option")),
    row!("sendto", transfer::sendto),
    row!("sendmsg", transfer::sendmsg),
    row!("sendmmsg", transfer::sendmmsg),
    row!("recvfrom", transfer::recvfrom),
    row!("recvmsg", transfer::recvmsg),
    row!("recvmmsg", transfer::recvmmsg),
];

/// The highest kind (`SOCK_PACKET`).
const SOCK_PACKET: i32 = 10;
/// The longest address (`sizeof(struct sockaddr_storage)`).
const ADDRESS_MAX: usize = 128;

/// Splits socket(2)'s type from the flags in it.
fn kind_and_flags(raw: i32) -> Result<(SocketKind, OpenFlags)> {
    let flags = fdutil::flags(raw & !0xf, OpenFlags::CLOEXEC | OpenFlags::NONBLOCK)?;
    match SocketKind::from_raw(raw & 0xf) {
        Some(kind) => Ok((kind, flags)),
        None if raw & 0xf == 0 || raw & 0xf > SOCK_PACKET => bail!(EINVAL, "no such kind of socket"),
        None => bail!(ESOCKTNOSUPPORT),
    }
}

/// An open socket.
struct Open {
    file: Arc<File>,
    sock: Arc<dyn SocketOps>,
}

impl Open {
    fn at(t: &CurrentTask, fd: Fd) -> Result<Open> {
        let file = t.files().get_open(fd)?;
        let sock = SocketFile::of(&file)?.clone();
        Ok(Open { file, sock })
    }

    /// Whether a call with these `MSG_*` flags may not wait.
    fn nonblocking(&self, flags: i32) -> bool {
        // What is not in the queue of errors is not waited for.
        flags & (libc::MSG_DONTWAIT | libc::MSG_ERRQUEUE) != 0 || self.file.nonblocking()
    }
}

/// Copies an address from the application.
fn read_address(t: &CurrentTask, addr: UserAddr, len: i32) -> Result<Vec<u8>> {
    let len = usize::try_from(len).ok().filter(|&n| n <= ADDRESS_MAX).ok_or(abi::error!(EINVAL, "length of the address"))?;
    let mut bytes = vec![0; len];
    t.mm().copy_in(addr, &mut bytes)?;
    Ok(bytes)
}

/// Copies an address to the application, as much as it has room for, and tells its whole length (`move_addr_to_user`).
fn write_address(t: &CurrentTask, address: &[u8], addr: UserAddr, len: UserRef<i32>) -> Result<()> {
    let mm = t.mm();
    let Ok(room) = usize::try_from(mm.read(len)?) else { bail!(EINVAL, "negative length") };
    mm.copy_out(addr, address.get(..room.min(address.len())).unwrap_or_default())?;
    mm.write(len, &(address.len() as i32))
}

/// socket(2)
pub fn socket(t: &mut CurrentTask, domain: i32, kind: i32, protocol: i32) -> Result<Fd> {
    let (kind, flags) = kind_and_flags(kind)?;
    let sock = net::family(t.kernel(), domain)?.create(t, kind, protocol)?;
    let file = SocketFile::create(sock, flags & OpenFlags::NONBLOCK, &t.cred());
    fdutil::install_with(t, file, flags)
}

/// socketpair(2)
pub fn socketpair(t: &mut CurrentTask, domain: i32, kind: i32, protocol: i32, fds: UserRef<[i32; 2]>) -> Result<()> {
    let (kind, flags) = kind_and_flags(kind)?;
    let (a, b) = net::family(t.kernel(), domain)?.pair(t, kind, protocol)?;
    let cred = t.cred();
    let [a, b] = [a, b].map(|s| SocketFile::create(s, flags & OpenFlags::NONBLOCK, &cred));
    let x = fdutil::install_with(t, a, flags)?;
    let y = fdutil::install_with(t, b, flags).inspect_err(|_| drop(t.files().remove(x)))?;
    t.mm().write(fds, &[x.0 as i32, y.0 as i32]).inspect_err(|_| {
        drop(t.files().remove(x));
        drop(t.files().remove(y));
    })
}

/// bind(2)
pub fn bind(t: &mut CurrentTask, fd: Fd, addr: UserAddr, len: i32) -> Result<()> {
    let s = Open::at(t, fd)?;
    s.sock.bind(t, &read_address(t, addr, len)?)
}

/// listen(2)
pub fn listen(t: &mut CurrentTask, fd: Fd, backlog: i32) -> Result<()> {
    Open::at(t, fd)?.sock.listen(t, backlog)
}

/// connect(2)
pub fn connect(t: &mut CurrentTask, fd: Fd, addr: UserAddr, len: i32) -> Result<()> {
    let s = Open::at(t, fd)?;
    let address = read_address(t, addr, len)?;
    let nonblocking = s.nonblocking(0);
    let limit = s.sock.options().send_timeout();
    match wait::until(t, &s.sock, PollEvents::WRITABLE, nonblocking, limit, || s.sock.connect(t, &address)) {
        // Under way since just now, or (EALREADY) since a call that was interrupted.
        Err(e) if (e.is(Errno::EINPROGRESS) || e.is(Errno::EALREADY)) && !nonblocking => {
            let done = wait::until(t, &s.sock, PollEvents::WRITABLE, false, limit, || s.sock.connect_result());
            done.map_err(|e| if e.is(Errno::EAGAIN) { Errno::EINPROGRESS.into() } else { e })
        }
        other => other,
    }
}

/// accept(2)
pub fn accept(t: &mut CurrentTask, fd: Fd, addr: UserAddr, len: UserRef<i32>) -> Result<Fd> {
    accept4(t, fd, addr, len, 0)
}

/// accept4(2)
pub fn accept4(t: &mut CurrentTask, fd: Fd, addr: UserAddr, len: UserRef<i32>, flags: i32) -> Result<Fd> {
    let flags = fdutil::flags(flags, OpenFlags::CLOEXEC | OpenFlags::NONBLOCK)?;
    let s = Open::at(t, fd)?;
    let limit = s.sock.options().receive_timeout();
    let new = wait::until_taken(t, &s.sock, s.nonblocking(0), limit, || s.sock.accept(t))?;
    let file = SocketFile::create(new.clone(), flags & OpenFlags::NONBLOCK, &t.cred());
    if !addr.is_null() {
        // A peer that is gone already has no address any more.
        let Ok(address) = new.peer_address() else { bail!(ECONNABORTED) };
        write_address(t, &address, addr, len)?;
    }
    fdutil::install_with(t, file, flags)
}

/// getsockname(2)
pub fn getsockname(t: &mut CurrentTask, fd: Fd, addr: UserAddr, len: UserRef<i32>) -> Result<()> {
    let address = Open::at(t, fd)?.sock.local_address()?;
    write_address(t, &address, addr, len)
}

/// getpeername(2)
pub fn getpeername(t: &mut CurrentTask, fd: Fd, addr: UserAddr, len: UserRef<i32>) -> Result<()> {
    let address = Open::at(t, fd)?.sock.peer_address()?;
    write_address(t, &address, addr, len)
}

/// shutdown(2)
pub fn shutdown(t: &mut CurrentTask, fd: Fd, how: i32) -> Result<()> {
    let s = Open::at(t, fd)?;
    let how = match how {
        libc::SHUT_RD => Shutdown { read: true, write: false },
        libc::SHUT_WR => Shutdown { read: false, write: true },
        libc::SHUT_RDWR => Shutdown { read: true, write: true },
        _ => bail!(EINVAL, "how"),
    };
    s.sock.shutdown(how)
}
