//! getsockopt(2) and setsockopt(2).

use super::Open;
use abi::{Result, bail, libc};
use kernel::{
    bpf::Program,
    net::OptionValue,
    task::CurrentTask,
    user::{UserAddr, UserRef},
    vfs::Fd,
};

/// The longest value that any option takes.
const VALUE_MAX: usize = 4096;
/// Bytes of `struct sock_fprog`.
const FPROG: usize = 16;

/// setsockopt(2)
pub fn setsockopt(t: &mut CurrentTask, fd: Fd, level: i32, name: i32, value: UserAddr, len: i32) -> Result<()> {
    let Ok(len) = usize::try_from(len) else { bail!(EINVAL, "negative length") };
    let s = Open::at(t, fd)?;
    let mut bytes = vec![0; len.min(VALUE_MAX)];
    t.mm().copy_in(value, &mut bytes)?;
    if let Some(done) = s.sock.set_option(t, level, name, &bytes) {
        return done;
    }
    if (level, name) == (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER) {
        if bytes.len() != FPROG {
            bail!(EINVAL, "length of a program");
        }
        s.sock.options().filter.check_unlocked()?;
        return s.sock.options().filter.set(Some(Program::read(&t.mm(), value)?));
    }
    if level == libc::SOL_SOCKET {
        return s.sock.options().set(name, &OptionValue(&bytes), &t.cred());
    }
    if s.sock.domain() == libc::AF_UNIX {
        bail!(EOPNOTSUPP, "unix sockets have no levels of their own");
    }
    bail!(ENOPROTOOPT, "level {level} option {name}")
}

/// getsockopt(2)
pub fn getsockopt(t: &mut CurrentTask, fd: Fd, level: i32, name: i32, value: UserAddr, len: UserRef<i32>) -> Result<()> {
    let s = Open::at(t, fd)?;
    let mm = t.mm();
    let Ok(room) = usize::try_from(mm.read(len)?) else { bail!(EINVAL, "negative length") };
    if (level, name) == (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER) {
        return get_filter(t, &s, value, room, len);
    }
    let int = |n: i32| Ok(n.to_ne_bytes().to_vec());
    let asked = if level == libc::SOL_PACKET && room >= 4 { mm.read(value.cast::<i32>()).unwrap_or(0) } else { 0 };
    let bytes = match s.sock.answer_option(level, name, asked).or_else(|| s.sock.get_option(t, level, name)) {
        Some(found) => found?,
        None if level == libc::SOL_SOCKET => match name {
            libc::SO_TYPE => int(s.sock.kind().raw()),
            libc::SO_DOMAIN => int(s.sock.domain()),
            libc::SO_PROTOCOL => int(s.sock.protocol()),
            libc::SO_ACCEPTCONN => int(0),
            _ => s.sock.options().get(name),
        }?,
        None if s.sock.domain() == libc::AF_UNIX => bail!(EOPNOTSUPP, "unix sockets have no levels of their own"),
        None => bail!(ENOPROTOOPT, "level {level} option {name}"),
    };
    if level == libc::SOL_SOCKET && name == libc::SO_PEERGROUPS && room < bytes.len() {
        mm.write(len, &(bytes.len() as i32))?;
        bail!(ERANGE, "more groups");
    }
    let n = room.min(bytes.len());
    mm.copy_out(value, bytes.get(..n).unwrap_or_default())?;
    mm.write(len, &(n as i32))
}

/// `SO_GET_FILTER`, which has the number of `SO_ATTACH_FILTER`: lengths are counted in instructions.
fn get_filter(t: &CurrentTask, s: &Open, value: UserAddr, room: usize, len: UserRef<i32>) -> Result<()> {
    let mm = t.mm();
    let program = s.sock.options().filter.program();
    let code = program.as_ref().map_or(&[][..], |p| p.instructions());
    if room > 0 {
        if room < code.len() {
            bail!(EINVAL, "more instructions");
        }
        let bytes: Vec<u8> = code.iter().flat_map(|i| i.to_bytes()).collect();
        mm.copy_out(value, &bytes)?;
    }
    mm.write(len, &(code.len() as i32))
}
