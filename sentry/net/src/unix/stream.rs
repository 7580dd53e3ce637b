//! Sending and receiving on stream sockets.

use super::{
    Sender, Sock,
    packet::{Charge, Packet},
    rights::{self, InFlight},
    sock::Phase,
};
use abi::{Result, bail, error, libc, poll::PollEvents};
use kernel::{
    io::IoBuffer,
    net::{Control, Message, SocketOps},
    task::Task,
};

/// The largest piece that is queued as one.
const PIECE: usize = 32 << 10;

/// The descriptors, and the credentials if the sender names some, of a message to be sent.
pub(super) fn split_control(control: Vec<Control>, default: Sender) -> Result<(Option<InFlight>, Sender)> {
    let (mut files, mut cred) = (Vec::new(), default);
    for c in control {
        match c {
            Control::Rights(r) => files.extend(r),
            Control::Credentials(c) => cred.ucred = c,
            // Linux passes over other levels' messages here.
            Control::Other(..) => {}
        }
    }
    Ok((InFlight::new(files)?, cred))
}

impl Sock {
    pub(super) fn send_stream(&self, task: Option<&Task>, buf: &mut IoBuffer<'_>, message: Message) -> Result<usize> {
        let (peer, from) = {
            let s = self.lock();
            let connected = matches!(s.phase, Phase::Connected);
            if !message.name.is_empty() {
                return Err(if connected { error!(EISCONN) } else { error!(EOPNOTSUPP) });
            }
            let Some(peer) = s.peer.clone().filter(|_| connected) else { bail!(ENOTCONN) };
            if s.shut.write {
                bail!(EPIPE, "shut down");
            }
            (peer, s.name())
        };
        let (mut rights, cred) = split_control(message.control, self.sender(task))?;
        let largest = PIECE.min(self.options().sndbuf() / 2);
        let mut sent = 0;
        let mut outcome = Ok(());
        while buf.remaining() > 0 && !self.buffer_full() {
            let mut data = vec![0; buf.remaining().min(largest)];
            match buf.read(&mut data) {
                Ok(n) => data.truncate(n),
                Err(e) => {
                    outcome = Err(e);
                    break;
                }
            }
            let n = data.len();
            let mut p = peer.lock();
            if matches!(p.phase, Phase::Dead) || p.shut.read {
                buf.rewind_to(buf.done() - n);
                outcome = Err(abi::error!(EPIPE, "the peer does not read"));
                break;
            }
            let charge = Charge::new(&self.me(), n);
            p.received.push_back(Packet { data, off: 0, rights: rights.take(), cred, from: from.clone(), _charge: charge });
            sent += n;
        }
        if sent > 0 {
            peer.notify(PollEvents::READABLE);
            return Ok(sent);
        }
        outcome?;
        if buf.remaining() > 0 {
            bail!(EAGAIN, "send buffer is full");
        }
        Ok(0)
    }

    pub(super) fn recv_stream(&self, buf: &mut IoBuffer<'_>, flags: i32, message: &mut Message) -> Result<usize> {
        if flags & libc::MSG_OOB != 0 {
            bail!(EINVAL, "no urgent data");
        }
        let peek = flags & libc::MSG_PEEK != 0;
        let pass_cred = self.options().is_set(libc::SO_PASSCRED);
        let mut done: Vec<Packet> = Vec::new();
        let mut copied = 0;
        let mut failed = Ok(());
        let mut cred: Option<Sender> = None;
        {
            let mut s = self.lock();
            if !matches!(s.phase, Phase::Connected) {
                bail!(EINVAL, "not connected");
            }
            if s.received.is_empty() {
                self.options().take_error()?;
                if s.shut.read {
                    return Ok(0);
                }
                bail!(EAGAIN, "nothing to read");
            }
            let mut at = 0;
            while buf.remaining() > 0 {
                let Some(p) = s.received.get_mut(at) else { break };
                if pass_cred && cred.is_some_and(|c| c != p.cred) {
                    break;
                }
                let n = match buf.write(p.rest()) {
                    Ok(n) => n,
                    Err(e) => {
                        failed = Err(e);
                        break;
                    }
                };
                if cred.is_none() {
                    cred = Some(p.cred);
                    message.name = p.from.as_ref().map(|n| n.to_vec()).unwrap_or_default();
                }
                copied += n;
                let whole = n == p.rest().len();
                let files = if peek { p.rights.as_ref().map(InFlight::peek) } else { p.rights.take().map(InFlight::take) };
                let had_rights = files.is_some();
                message.control.extend(files.map(Control::Rights));
                if peek {
                    at += 1;
                } else {
                    p.off += n;
                    if whole {
                        done.extend(s.received.pop_front());
                    }
                }
                if had_rights || !whole {
                    break;
                }
            }
        }
        rights::bury(done);
        if let Some(c) = cred.filter(|_| pass_cred) {
            message.control.push(Control::Credentials(c.seen()));
        }
        if copied == 0 {
            failed?;
        }
        Ok(copied)
    }
}
