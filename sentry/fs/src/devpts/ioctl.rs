//! ioctl(2) of terminals (ioctl_tty(2)), the same for both ends but for a few.

use super::termios::{Termio, Termios, Termios2, Winsize};
use super::tty::Tty;
use abi::{Result, bail, fs::OpenFlags, libc, poll::PollEvents, signal::Signal};
use kernel::{
    task::{ControllingTerminal, Task},
    vfs::{Fd, IoctlArg, OpenHow, Walker},
};
use std::sync::Arc;

/// Which end of the pair a descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    #[allow(missing_docs)]
    Master,
    #[allow(missing_docs)]
    Slave,
}

/// Numbers that the libc crate lacks or types differently.
mod nr {
    pub const TCGETS2: u32 = 0x802c_542a;
    pub const TCSETS2: u32 = 0x402c_542b;
    pub const TCSETSW2: u32 = 0x402c_542c;
    pub const TCSETSF2: u32 = 0x402c_542d;
    pub const TCGETA: u32 = 0x5405;
    pub const TCSETA: u32 = 0x5406;
    pub const TCSETAW: u32 = 0x5407;
    pub const TCSETAF: u32 = 0x5408;
    pub const TIOCGPTN: u32 = 0x8004_5430;
    pub const TIOCSPTLCK: u32 = 0x4004_5431;
    pub const TIOCGDEV: u32 = 0x8004_5432;
    pub const TIOCSIG: u32 = 0x4004_5436;
    pub const TIOCGPKT: u32 = 0x8004_5438;
    pub const TIOCGPTLCK: u32 = 0x8004_5439;
    pub const TIOCGPTPEER: u32 = 0x5441;
    pub const TIOCGEXCL: u32 = 0x8004_5440;
    pub const TIOCGETD: u32 = 0x5424;
    pub const TIOCVHANGUP: u32 = 0x5437;
}

const TCGETS: u32 = libc::TCGETS as u32;
const TCSETS: u32 = libc::TCSETS as u32;
const TCSETSW: u32 = libc::TCSETSW as u32;
const TCSETSF: u32 = libc::TCSETSF as u32;
const TIOCGWINSZ: u32 = libc::TIOCGWINSZ as u32;
const TIOCSWINSZ: u32 = libc::TIOCSWINSZ as u32;
const TIOCSCTTY: u32 = libc::TIOCSCTTY as u32;
const TIOCNOTTY: u32 = libc::TIOCNOTTY as u32;
const TIOCGPGRP: u32 = libc::TIOCGPGRP as u32;
const TIOCSPGRP: u32 = libc::TIOCSPGRP as u32;
const TIOCGSID: u32 = libc::TIOCGSID as u32;
const TIOCOUTQ: u32 = libc::TIOCOUTQ as u32;
const FIONREAD: u32 = libc::FIONREAD as u32;
const TCSBRK: u32 = libc::TCSBRK as u32;
const TCSBRKP: u32 = libc::TCSBRKP as u32;
const TCXONC: u32 = libc::TCXONC as u32;
const TCFLSH: u32 = libc::TCFLSH as u32;
const TIOCSTI: u32 = libc::TIOCSTI as u32;
const TIOCEXCL: u32 = libc::TIOCEXCL as u32;
const TIOCNXCL: u32 = libc::TIOCNXCL as u32;
const TIOCPKT: u32 = libc::TIOCPKT as u32;

/// Whether a command changes the terminal: a process of the background gets SIGTTOU first (`tty_check_change`).
fn changes(cmd: u32) -> bool {
    matches!(cmd, TCSETS | TCSETSW | TCSETSF | TIOCSPGRP | TCSBRK | TCSBRKP | TCXONC | TCFLSH)
        || matches!(cmd, nr::TCSETS2 | nr::TCSETSW2 | nr::TCSETSF2 | nr::TCSETA | nr::TCSETAW | nr::TCSETAF)
}

/// Carries out a command on `tty` through the end `end`.
pub fn ioctl(tty: &Arc<Tty>, end: End, task: &Task, cmd: u32, arg: IoctlArg) -> Result<u64> {
    if end == End::Slave {
        if tty.is_hung_up() {
            bail!(EIO, "terminal has hung up");
        }
        if changes(cmd) {
            tty.check_background(task, Signal::TTOU)?;
        }
    }
    let mm = task.mm();
    match cmd {
        TCGETS => mm.write(arg.addr().cast(), &tty.with(|s, _| s.ldisc.termios))?,
        nr::TCGETS2 => {
            let base = tty.with(|s, _| s.ldisc.termios);
            mm.write(arg.addr().cast(), &Termios2 { base, ispeed: 38400, ospeed: 38400 })?;
        }
        nr::TCGETA => mm.write(arg.addr().cast(), &narrow(&tty.with(|s, _| s.ldisc.termios)))?,
        TCSETS | TCSETSW | TCSETSF => set(tty, mm.read::<Termios>(arg.addr().cast())?, cmd == TCSETSF),
        nr::TCSETS2 | nr::TCSETSW2 | nr::TCSETSF2 => {
            set(tty, mm.read::<Termios2>(arg.addr().cast())?.base, cmd == nr::TCSETSF2);
        }
        nr::TCSETA | nr::TCSETAW | nr::TCSETAF => {
            let old = tty.with(|s, _| s.ldisc.termios);
            set(tty, widen(&mm.read::<Termio>(arg.addr().cast())?, old), cmd == nr::TCSETAF);
        }
        TIOCGWINSZ => mm.write(arg.addr().cast(), &tty.with(|s, _| s.ldisc.winsize))?,
        TIOCSWINSZ => tty.set_winsize(mm.read::<Winsize>(arg.addr().cast())?),
        TIOCOUTQ => {
            let n = if end == End::Master { 0 } else { tty.with(|s, _| s.ldisc.output.len()) };
            mm.write(arg.addr().cast(), &(n as i32))?;
        }
        FIONREAD => {
            let n = tty.with(|s, _| if end == End::Master { s.ldisc.output.len() } else { s.ldisc.available() });
            mm.write(arg.addr().cast(), &(n as i32))?;
        }
        // Output is in the master's queue the moment it is written: there is nothing to drain, and a line has no break.
        TCSBRK | TCSBRKP => {}
        TCXONC => flow(tty, arg.0)?,
        TCFLSH => flush(tty, end, arg.0)?,
        TIOCEXCL => tty.with(|s, _| s.exclusive = true),
        TIOCNXCL => tty.with(|s, _| s.exclusive = false),
        nr::TIOCGEXCL => mm.write(arg.addr().cast(), &i32::from(tty.with(|s, _| s.exclusive)))?,
        nr::TIOCGETD => mm.write(arg.addr().cast(), &0i32)?,
        TIOCSTI => bail!(EIO, "typing into a terminal by ioctl is off, as dev.tty.legacy_tiocsti=0"),
        nr::TIOCGDEV => mm.write(arg.addr().cast(), &(tty.device() as u32))?,
        nr::TIOCVHANGUP => {
            task.cred().require(kernel::cred::CapSet::SYS_ADMIN)?;
            tty.hangup();
        }
        TIOCSCTTY | TIOCNOTTY | TIOCGPGRP | TIOCSPGRP | TIOCGSID => return jobs(tty, end, task, cmd, arg),
        _ if end == End::Master => return master(tty, task, cmd, arg),
        _ => bail!(ENOTTY, "terminal command {cmd:#x}"),
    }
    Ok(0)
}

/// Commands of the master alone.
fn master(tty: &Arc<Tty>, task: &Task, cmd: u32, arg: IoctlArg) -> Result<u64> {
    let mm = task.mm();
    match cmd {
        nr::TIOCGPTN => mm.write(arg.addr().cast(), &tty.index)?,
        nr::TIOCSPTLCK => {
            let on = mm.read::<i32>(arg.addr().cast())? != 0;
            tty.with(|s, _| s.locked = on);
        }
        nr::TIOCGPTLCK => mm.write(arg.addr().cast(), &i32::from(tty.with(|s, _| s.locked)))?,
        TIOCPKT => {
            let on = mm.read::<i32>(arg.addr().cast())? != 0;
            tty.with(|s, _| {
                s.packet = on;
                s.packet_status = 0;
            });
        }
        nr::TIOCGPTPEER => return peer(tty, task, arg.0),
        nr::TIOCGPKT => mm.write(arg.addr().cast(), &i32::from(tty.with(|s, _| s.packet)))?,
        nr::TIOCSIG => {
            let signal = match Signal::new(arg.0) {
                Some(s) if [Signal::INT, Signal::QUIT, Signal::TSTP].contains(&s) => s,
                _ => bail!(EINVAL, "only terminal signals"),
            };
            tty.with(|_, fx| fx.signals.push(signal));
        }
        _ => bail!(ENOTTY, "terminal command {cmd:#x}"),
    }
    Ok(0)
}

/// Opens the slave without its name having to be known (TIOCGPTPEER): a new descriptor. It is the file of the devpts that is
/// mounted on /dev/pts, which is where programs look for the name afterwards.
fn peer(tty: &Tty, task: &Task, flags: u64) -> Result<u64> {
    let flags = OpenFlags::from_bits_truncate(flags as u32);
    let walker = Walker::of(task);
    let path = format!("/dev/pts/{}", tty.index);
    let file = walker.open(&walker.root, path.as_bytes(), OpenHow { flags, mode: 0, resolve: 0 })?;
    let limit = task.rlimit(libc::RLIMIT_NOFILE).cur;
    let fd = task.files().install(file, Fd(0), limit, flags.contains(OpenFlags::CLOEXEC))?;
    Ok(fd.0.into())
}

/// Sessions and process groups.
fn jobs(tty: &Arc<Tty>, end: End, task: &Task, cmd: u32, arg: IoctlArg) -> Result<u64> {
    let mm = task.mm();
    let controlled = task.is_controlled_by(&**tty);
    match cmd {
        TIOCSCTTY => tty.become_controlling(task, arg.0 == 1)?,
        TIOCNOTTY => tty.give_up(task)?,
        TIOCGPGRP => {
            if end == End::Slave && !controlled {
                bail!(ENOTTY);
            }
            mm.write(arg.addr().cast(), &tty.foreground().map_or(0, |g| g.id))?;
        }
        TIOCSPGRP => {
            if !controlled {
                bail!(ENOTTY);
            }
            let id = mm.read::<i32>(arg.addr().cast())?;
            if id < 0 {
                bail!(EINVAL);
            }
            let Some(group) = task.pids().process_group(id) else { bail!(ESRCH) };
            if !Arc::ptr_eq(&group.session, &task.session()) {
                bail!(EPERM, "group of another session");
            }
            tty.set_foreground(Some(group));
        }
        _ => {
            if end == End::Slave && !controlled {
                bail!(ENOTTY);
            }
            let Some(session) = tty.session() else { bail!(ENOTTY) };
            mm.write(arg.addr().cast(), &session.id)?;
        }
    }
    Ok(0)
}

fn set(tty: &Tty, new: Termios, flush: bool) {
    tty.with(|s, fx| {
        if flush {
            s.ldisc.flush_input();
        }
        *fx = s.ldisc.set_termios(new);
    });
}

/// tcflow(3).
fn flow(tty: &Tty, action: u64) -> Result {
    match action as i32 {
        libc::TCOOFF => tty.with(|s, _| s.ldisc.stopped = true),
        libc::TCOON => tty.with(|s, fx| s.ldisc.start(fx)),
        // Sends the START or STOP character to the other end.
        which @ (libc::TCIOFF | libc::TCION) => tty.with(|s, _| {
            let c = s.ldisc.termios.cc[if which == libc::TCIOFF { libc::VSTOP } else { libc::VSTART }];
            s.ldisc.output.push_back(c);
        }),
        _ => bail!(EINVAL),
    }
    Ok(())
}

/// tcflush(3). On the master, input and output change places.
fn flush(tty: &Tty, end: End, which: u64) -> Result {
    let (mut input, mut output) = match which as i32 {
        libc::TCIFLUSH => (true, false),
        libc::TCOFLUSH => (false, true),
        libc::TCIOFLUSH => (true, true),
        _ => bail!(EINVAL),
    };
    if end == End::Master {
        std::mem::swap(&mut input, &mut output);
    }
    tty.with(|s, fx| {
        if input {
            s.ldisc.flush_input();
            fx.packet |= super::termios::TIOCPKT_FLUSHREAD as u8;
        }
        if output {
            s.ldisc.output.clear();
            fx.packet |= super::termios::TIOCPKT_FLUSHWRITE as u8;
        }
        fx.changed = true;
    });
    tty.slave_queue.notify(PollEvents::WRITABLE);
    Ok(())
}

fn narrow(t: &Termios) -> Termio {
    let mut cc = [0; 8];
    cc.copy_from_slice(&t.cc[..8]);
    Termio { iflag: t.iflag as u16, oflag: t.oflag as u16, cflag: t.cflag as u16, lflag: t.lflag as u16, line: t.line, cc, pad: 0 }
}

fn widen(t: &Termio, mut old: Termios) -> Termios {
    let low = |old: u32, new: u16| (old & 0xffff_0000) | u32::from(new);
    old.iflag = low(old.iflag, t.iflag);
    old.oflag = low(old.oflag, t.oflag);
    old.cflag = low(old.cflag, t.cflag);
    old.lflag = low(old.lflag, t.lflag);
    old.line = t.line;
    old.cc[..8].copy_from_slice(&t.cc);
    old
}
