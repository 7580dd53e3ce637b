//! Sending and receiving.

use super::{
    Open,
    message::{MMsgHdr, MsgHdr},
    read_address, wait, write_address,
};
use crate::poll;
use abi::{
    Errno, Result, libc,
    poll::PollEvents,
    signal::{SI_USER, SigInfo, Signal},
    time::Timespec,
};
use kernel::{
    io::IoBuffer,
    net::{Message, SocketKind},
    task::CurrentTask,
    time::Clock,
    user::{UserAddr, UserRange, UserRef},
    vfs::{
        Fd,
        blocking::{MAX_RW, repeat},
    },
};

/// Sends a whole message; on a stream, waits until everything is sent.
fn send(t: &CurrentTask, s: &Open, ranges: &[UserRange], message: Message, flags: i32) -> Result<usize> {
    let mm = t.mm();
    let mut buf = IoBuffer::user(&mm, ranges);
    buf.truncate(MAX_RW);
    let stream = s.sock.kind() == SocketKind::Stream;
    let nonblocking = s.nonblocking(flags);
    let limit = s.sock.options().send_timeout();
    let sent = repeat(
        !stream || nonblocking,
        || s.sock.has_pending_error(),
        |sent| {
            let attempt = || {
                if sent > 0 && s.sock.has_pending_error() {
                    return Ok(0);
                }
                // What goes along goes with the first bytes.
                let message = if sent > 0 { Message::default() } else { message.clone() };
                s.sock.send(Some(&t.task), &mut buf, message, flags)
            };
            let n = wait::until(t, &s.sock, PollEvents::WRITABLE, nonblocking, limit, attempt)?;
            Ok((n, buf.remaining() > 0))
        },
    );
    if let Err(e) = &sent
        && e.is(Errno::EPIPE)
        && stream
        && flags & libc::MSG_NOSIGNAL == 0
    {
        t.send_signal(SigInfo::user(Signal::PIPE, SI_USER, t.tgid(), t.cred().uid))?;
    }
    sent
}

/// Receives a message; with MSG_WAITALL on a stream, until the memory is full.
fn receive(t: &CurrentTask, s: &Open, ranges: &[UserRange], flags: i32) -> Result<(usize, Message)> {
    let mm = t.mm();
    let mut buf = IoBuffer::user(&mm, ranges);
    buf.truncate(MAX_RW);
    let nonblocking = s.nonblocking(flags);
    let limit = s.sock.options().receive_timeout();
    let stream = s.sock.kind() == SocketKind::Stream;
    let all = flags & libc::MSG_WAITALL != 0 && flags & libc::MSG_PEEK == 0 && stream;
    let mut message = Message::default();
    let mut got = 0;
    loop {
        let mut part = Message::default();
        let attempt = || s.sock.recv(&mut buf, flags, &mut part);
        let step = if flags & libc::MSG_PEEK == 0 {
            wait::until_taken(t, &s.sock, nonblocking, limit, attempt)
        } else {
            wait::until(t, &s.sock, PollEvents::READABLE, nonblocking, limit, attempt)
        };
        let n = match step {
            Ok(n) => n,
            Err(_) if got > 0 => return Ok((got, message)),
            Err(e) => return Err(e),
        };
        let had_rights = !part.control.is_empty();
        if got == 0 {
            message = part;
        }
        got += n;
        if !all || n == 0 || had_rights || buf.remaining() == 0 {
            return Ok((got, message));
        }
    }
}

fn one(addr: UserAddr, len: usize) -> Result<[UserRange; 1]> {
    let len = len.min(MAX_RW);
    match addr.checked_add(len as u64) {
        Some(_) => Ok([UserRange { addr, len }]),
        None => Err(Errno::EFAULT.into()),
    }
}

/// sendto(2)
pub fn sendto(t: &mut CurrentTask, fd: Fd, buf: UserAddr, len: usize, flags: i32, addr: UserAddr, addrlen: i32) -> Result<usize> {
    let ranges = one(buf, len)?;
    let s = Open::at(t, fd)?;
    let name = if addr.is_null() { Vec::new() } else { read_address(t, addr, addrlen)? };
    send(t, &s, &ranges, Message { name, ..Message::default() }, flags)
}

/// recvfrom(2)
pub fn recvfrom(
    t: &mut CurrentTask,
    fd: Fd,
    buf: UserAddr,
    len: usize,
    flags: i32,
    addr: UserAddr,
    addrlen: UserRef<i32>,
) -> Result<usize> {
    let ranges = one(buf, len)?;
    let s = Open::at(t, fd)?;
    let (n, message) = receive(t, &s, &ranges, flags)?;
    if !addr.is_null() {
        write_address(t, &message.name, addr, addrlen)?;
    }
    Ok(n)
}

/// sendmsg(2)
pub fn sendmsg(t: &mut CurrentTask, fd: Fd, at: UserRef<MsgHdr>, flags: i32) -> Result<usize> {
    let s = Open::at(t, fd)?;
    send_one(t, &s, at, flags)
}

fn send_one(t: &CurrentTask, s: &Open, at: UserRef<MsgHdr>, flags: i32) -> Result<usize> {
    let h = MsgHdr::read(t, at)?;
    let ranges = h.ranges(t)?;
    let message = h.outgoing(t)?;
    send(t, s, &ranges, message, flags)
}

/// recvmsg(2)
pub fn recvmsg(t: &mut CurrentTask, fd: Fd, at: UserRef<MsgHdr>, flags: i32) -> Result<usize> {
    let s = Open::at(t, fd)?;
    receive_one(t, &s, at, flags)
}

fn receive_one(t: &CurrentTask, s: &Open, at: UserRef<MsgHdr>, flags: i32) -> Result<usize> {
    let h = MsgHdr::read(t, at)?;
    let ranges = h.ranges(t)?;
    let (n, message) = receive(t, s, &ranges, flags)?;
    h.deliver(t, at, message, flags)?;
    Ok(n)
}

/// Where a `struct mmsghdr` has its length.
fn length_of(at: UserRef<MMsgHdr>) -> UserRef<u32> {
    at.addr().offset(size_of::<MsgHdr>() as u64).cast()
}

/// sendmmsg(2): the number of messages sent; an error only if none was.
pub fn sendmmsg(t: &mut CurrentTask, fd: Fd, list: UserRef<MMsgHdr>, count: u32, flags: i32) -> Result<usize> {
    let s = Open::at(t, fd)?;
    let count = count.min(libc::UIO_MAXIOV as u32);
    for i in 0..u64::from(count) {
        let at = list.at(i);
        let sent = send_one(t, &s, at.addr().cast(), flags).and_then(|n| t.mm().write(length_of(at), &(n as u32)));
        match sent {
            Ok(()) => {}
            Err(_) if i > 0 => return Ok(i as usize),
            Err(e) => return Err(e),
        }
    }
    Ok(count as usize)
}

/// recvmmsg(2): the number of messages received; an error only if none was. The timeout is looked at after each message, as on Linux.
pub fn recvmmsg(t: &mut CurrentTask, fd: Fd, list: UserRef<MMsgHdr>, count: u32, flags: i32, timeout: UserRef<Timespec>) -> Result<usize> {
    let s = Open::at(t, fd)?;
    let until = poll::deadline_of(t, timeout)?;
    let count = count.min(libc::UIO_MAXIOV as u32);
    let mut flags = flags;
    let mut received = 0;
    for i in 0..u64::from(count) {
        let at = list.at(i);
        let got =
            receive_one(t, &s, at.addr().cast(), flags & !libc::MSG_WAITFORONE).and_then(|n| t.mm().write(length_of(at), &(n as u32)));
        match got {
            Ok(()) => received += 1,
            Err(_) if i > 0 => break,
            Err(e) => return Err(e),
        }
        if flags & libc::MSG_WAITFORONE != 0 {
            flags |= libc::MSG_DONTWAIT;
        }
        if until.is_some_and(|u| Clock::Monotonic.now() >= u) {
            break;
        }
    }
    if let Some(u) = until {
        t.mm().write(timeout, &Timespec::from_nanos(u.saturating_sub(Clock::Monotonic.now())))?;
    }
    Ok(received)
}
