//! The one network device of a sandbox without a network: loopback, as ioctls show it (netdevice(7)).

use abi::{Result, bail};
use kernel::{task::Task, user::UserAddr, vfs::IoctlArg};

/// Its index.
pub const LO_INDEX: i32 = 1;
/// Its name with the zero at the end.
pub const LO_NAME: &[u8] = b"lo\0";
/// Its `IFF_*` flags: up, loopback, running, and lower up, which only netlink shows.
pub const LO_FLAGS: u32 = 0x1_0049;
/// Its MTU.
pub const LO_MTU: u32 = 65_536;
/// `ARPHRD_LOOPBACK`
pub const ARPHRD_LOOPBACK: u16 = 772;
/// Length of its queue.
pub const LO_TXQLEN: u32 = 1000;

const SIOCGIFNAME: u32 = 0x8910;
const SIOCGIFCONF: u32 = 0x8912;
const SIOCGIFFLAGS: u32 = 0x8913;
const SIOCGIFADDR: u32 = 0x8915;
const SIOCGIFDSTADDR: u32 = 0x8917;
const SIOCGIFBRDADDR: u32 = 0x8919;
const SIOCGIFNETMASK: u32 = 0x891b;
const SIOCGIFMETRIC: u32 = 0x891d;
const SIOCGIFMTU: u32 = 0x8921;
const SIOCGIFHWADDR: u32 = 0x8927;
const SIOCGIFINDEX: u32 = 0x8933;
const SIOCGIFTXQLEN: u32 = 0x8942;

/// `sizeof(struct ifreq)`: a name of 16 bytes and a union.
const IFREQ: usize = 40;
const NAME: usize = 16;

/// A `sockaddr_in` of this address.
fn inet(address: [u8; 4]) -> [u8; 16] {
    let mut a = [0; 16];
    a[0] = 2;
    a[4..8].copy_from_slice(&address);
    a
}

fn put(req: &mut [u8; IFREQ], value: &[u8]) {
    for (d, s) in req[NAME..].iter_mut().zip(value) {
        *d = *s;
    }
}

/// The ioctls that any socket answers about devices; `None` for others.
pub fn ioctl(task: &Task, cmd: u32, arg: IoctlArg) -> Option<Result<u64>> {
    if cmd == SIOCGIFCONF {
        return Some(list(task, arg.addr()));
    }
    let known = [
        SIOCGIFNAME, SIOCGIFFLAGS, SIOCGIFADDR, SIOCGIFDSTADDR, SIOCGIFBRDADDR, SIOCGIFNETMASK, SIOCGIFMETRIC, SIOCGIFMTU,
        SIOCGIFHWADDR, SIOCGIFINDEX, SIOCGIFTXQLEN,
    ];
    known.contains(&cmd).then(|| ask(task, cmd, arg.addr()))
}

fn ask(task: &Task, cmd: u32, at: UserAddr) -> Result<u64> {
    let mm = task.mm();
    let mut req: [u8; IFREQ] = mm.read(at.cast())?;
    if cmd == SIOCGIFNAME {
        if req[NAME..NAME + 4] != LO_INDEX.to_ne_bytes() {
            bail!(ENODEV, "no such device");
        }
        req[..NAME].fill(0);
        req[..LO_NAME.len()].copy_from_slice(LO_NAME);
    } else {
        if !req.starts_with(LO_NAME) {
            bail!(ENODEV, "no such device");
        }
        match cmd {
            SIOCGIFFLAGS => put(&mut req, &(LO_FLAGS as u16).to_ne_bytes()),
            SIOCGIFADDR | SIOCGIFDSTADDR => put(&mut req, &inet([127, 0, 0, 1])),
            SIOCGIFBRDADDR => put(&mut req, &inet([0, 0, 0, 0])),
            SIOCGIFNETMASK => put(&mut req, &inet([255, 0, 0, 0])),
            SIOCGIFMTU => put(&mut req, &LO_MTU.to_ne_bytes()),
            SIOCGIFHWADDR => {
                put(&mut req, &[0; 16]);
                put(&mut req, &ARPHRD_LOOPBACK.to_ne_bytes());
            }
            SIOCGIFINDEX => put(&mut req, &LO_INDEX.to_ne_bytes()),
            SIOCGIFTXQLEN => put(&mut req, &LO_TXQLEN.to_ne_bytes()),
            // SIOCGIFMETRIC: always zero.
            _ => put(&mut req, &0u32.to_ne_bytes()),
        }
    }
    mm.write(at.cast(), &req)?;
    Ok(0)
}

/// SIOCGIFCONF: `struct ifconf` is an int and, eight bytes on, an address.
fn list(task: &Task, at: UserAddr) -> Result<u64> {
    let mm = task.mm();
    let room: i32 = mm.read(at.cast())?;
    let buffer: u64 = mm.read(at.offset(8).cast())?;
    let mut used = IFREQ as i32;
    if buffer != 0 {
        used = 0;
        if room >= IFREQ as i32 {
            let mut req = [0; IFREQ];
            req[..LO_NAME.len()].copy_from_slice(LO_NAME);
            put(&mut req, &inet([127, 0, 0, 1]));
            mm.copy_out(UserAddr(buffer), &req)?;
            used = IFREQ as i32;
        }
    }
    mm.write(at.cast(), &used)?;
    Ok(0)
}
