//! `struct msghdr` and its control messages.

use super::ADDRESS_MAX;
use crate::{fdutil, rw};
use abi::{Result, bail, libc};
use kernel::{
    cred::{CapSet, Credentials},
    net::{Control, Message, Rights, Ucred},
    task::CurrentTask,
    user::{UserAddr, UserRange, UserRef},
    vfs::Fd,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct msghdr`
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MsgHdr {
    pub name: u64,
    pub namelen: i32,
    pad0: u32,
    pub iov: u64,
    pub iovlen: u64,
    pub control: u64,
    pub controllen: u64,
    pub flags: i32,
    pad1: u32,
}

/// `struct mmsghdr`
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MMsgHdr {
    pub hdr: MsgHdr,
    pub len: u32,
    pad: u32,
}

/// `sizeof(struct cmsghdr)`; the data follows at once.
const CMSG_HEADER: usize = 16;
/// The longest control data that is taken (`net.core.optmem_max`).
const CONTROL_MAX: u64 = 131_072;
/// Descriptors in one message (`SCM_MAX_FD`).
const RIGHTS_MAX: usize = 253;

fn word<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

/// `EPERM` unless the task may claim to be that (`scm_check_creds`).
fn check_claim(t: &CurrentTask, claim: &Ucred, c: &Credentials) -> Result<()> {
    let pid = claim.pid == t.tgid() || c.capable(CapSet::SYS_ADMIN);
    let uid = [c.uid, c.euid, c.suid].contains(&claim.uid) || c.capable(CapSet::SETUID);
    let gid = [c.gid, c.egid, c.sgid].contains(&claim.gid) || c.capable(CapSet::SETGID);
    if !(pid && uid && gid) {
        bail!(EPERM, "credentials of somebody else");
    }
    if claim.pid != t.tgid() && t.pids().task(claim.pid).is_none() {
        bail!(ESRCH, "no such process");
    }
    Ok(())
}

fn parse_one(t: &CurrentTask, level: i32, kind: i32, data: &[u8]) -> Result<Control> {
    if level != libc::SOL_SOCKET {
        return Ok(Control::Other(level, kind, data.to_vec()));
    }
    match kind {
        libc::SCM_RIGHTS => {
            let (numbers, files) = (data.chunks_exact(4), t.files());
            if numbers.len() > RIGHTS_MAX {
                bail!(EINVAL, "too many descriptors");
            }
            let file = |n: &[u8]| {
                let n = i32::from_ne_bytes(word(n, 0).unwrap_or([0xff; 4]));
                u32::try_from(n).map_err(|_| abi::error!(EBADF)).and_then(|n| files.get(Fd(n)))
            };
            Ok(Control::Rights(numbers.map(file).collect::<Result<Rights>>()?))
        }
        libc::SCM_CREDENTIALS => {
            if data.len() != size_of::<Ucred>() {
                bail!(EINVAL, "length of credentials");
            }
            let claim = Ucred::read_from_bytes(data).map_err(|_| abi::error!(EINVAL))?;
            check_claim(t, &claim, &t.cred())?;
            Ok(Control::Credentials(claim))
        }
        _ => bail!(EINVAL, "control message {kind}"),
    }
}

/// Takes control data apart.
fn parse_control(t: &CurrentTask, bytes: &[u8]) -> Result<Vec<Control>> {
    let mut out = Vec::new();
    let mut at = 0;
    // A rest that is too short for a header is ignored, as CMSG_NXTHDR does.
    while let (Some(len), Some(level), Some(kind)) = (word(bytes, at), word(bytes, at + 8), word(bytes, at + 12)) {
        let len = usize::try_from(u64::from_ne_bytes(len)).unwrap_or(usize::MAX);
        let end = at.checked_add(len).filter(|&e| len >= CMSG_HEADER && e <= bytes.len());
        let Some(data) = end.and_then(|e| bytes.get(at + CMSG_HEADER..e)) else { bail!(EINVAL, "length of a control message") };
        out.push(parse_one(t, i32::from_ne_bytes(level), i32::from_ne_bytes(kind), data)?);
        at += len.next_multiple_of(8);
    }
    Ok(out)
}

impl MsgHdr {
    /// Reads the header.
    pub fn read(t: &CurrentTask, at: UserRef<MsgHdr>) -> Result<MsgHdr> {
        let mut h = t.mm().read(at)?;
        if h.name == 0 {
            h.namelen = 0;
        }
        if h.namelen < 0 {
            bail!(EINVAL, "negative length of the address");
        }
        if h.iovlen > libc::UIO_MAXIOV as u64 {
            bail!(EMSGSIZE, "too many ranges");
        }
        Ok(h)
    }

    /// The memory of the bytes.
    pub fn ranges(&self, t: &CurrentTask) -> Result<Vec<UserRange>> {
        rw::ranges(t, UserAddr(self.iov).cast(), self.iovlen as usize)
    }

    /// Address and control messages of a message to be sent.
    pub fn outgoing(&self, t: &CurrentTask) -> Result<Message> {
        let mm = t.mm();
        let mut name = vec![0; (self.namelen as usize).min(ADDRESS_MAX)];
        mm.copy_in(UserAddr(self.name), &mut name)?;
        if self.controllen > CONTROL_MAX {
            bail!(ENOBUFS, "too much control data");
        }
        let mut control = vec![0; self.controllen as usize];
        mm.copy_in(UserAddr(self.control), &mut control)?;
        Ok(Message { name, control: parse_control(t, &control)?, flags: 0 })
    }

    /// Tells the application of a message that was received: address, control messages, flags.
    pub fn deliver(&self, t: &CurrentTask, at: UserRef<MsgHdr>, message: Message, flags: i32) -> Result<()> {
        let mm = t.mm();
        let mut h = *self;
        if h.name != 0 {
            let room = (h.namelen as usize).min(message.name.len());
            mm.copy_out(UserAddr(h.name), message.name.get(..room).unwrap_or_default())?;
            h.namelen = message.name.len() as i32;
        }
        let cloexec = flags & libc::MSG_CMSG_CLOEXEC != 0;
        let mut out = ControlOut { bytes: Vec::new(), room: usize::try_from(h.controllen).unwrap_or(usize::MAX), truncated: false };
        if h.control == 0 {
            out.room = 0;
        }
        let mut control = message.control;
        // Linux puts credentials first.
        control.sort_by_key(|c| matches!(c, Control::Rights(_)));
        for c in control {
            match c {
                Control::Credentials(c) => out.put(libc::SOL_SOCKET, libc::SCM_CREDENTIALS, c.as_bytes()),
                Control::Other(level, kind, data) => out.put(level, kind, &data),
                Control::Rights(files) => out.put_rights(t, files, cloexec),
            }
        }
        h.flags = message.flags | flags & libc::MSG_CMSG_CLOEXEC | if out.truncated { libc::MSG_CTRUNC } else { 0 };
        mm.copy_out(UserAddr(h.control), &out.bytes)?;
        h.controllen = out.bytes.len() as u64;
        mm.write(at, &h)
    }
}

/// Control data for the application.
struct ControlOut {
    bytes: Vec<u8>,
    room: usize,
    truncated: bool,
}

impl ControlOut {
    /// Adds a message, cut to the room that is left (`put_cmsg`).
    fn put(&mut self, level: i32, kind: i32, data: &[u8]) {
        let left = self.room - self.bytes.len().min(self.room);
        if left < CMSG_HEADER {
            self.truncated = true;
            return;
        }
        let len = (CMSG_HEADER + data.len()).min(left);
        self.truncated |= len < CMSG_HEADER + data.len();
        self.bytes.extend_from_slice(&(len as u64).to_ne_bytes());
        self.bytes.extend_from_slice(&level.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(data.get(..len - CMSG_HEADER).unwrap_or_default());
        let padded = self.bytes.len().next_multiple_of(8).min(self.room);
        self.bytes.resize(padded, 0);
    }

    /// Installs as many descriptors as there is room for; the others are closed.
    fn put_rights(&mut self, t: &CurrentTask, files: Rights, cloexec: bool) {
        let left = self.room - self.bytes.len().min(self.room);
        let fit = left.saturating_sub(CMSG_HEADER) / 4;
        let wanted = files.len();
        let numbers: Vec<u8> = files
            .into_iter()
            .take(fit)
            .map_while(|f| fdutil::install(t, f, cloexec).ok())
            .flat_map(|fd| (fd.0 as i32).to_ne_bytes())
            .collect();
        if !numbers.is_empty() {
            self.put(libc::SOL_SOCKET, libc::SCM_RIGHTS, &numbers);
        }
        self.truncated |= numbers.len() / 4 < wanted;
    }
}
