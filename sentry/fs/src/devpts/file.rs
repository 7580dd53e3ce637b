//! Open terminals: [`Master`] and [`Slave`].

use super::Table;
use super::ioctl::{End, ioctl};
use super::tty::Tty;
use abi::{Result, bail, libc, poll::PollEvents, signal::Signal};
use kernel::{
    io::IoBuffer,
    signal::async_io::OwnerKind,
    task::{Task, current},
    vfs::{File, FileOps, IoctlArg, ReadTimer},
};
use std::any::Any;
use std::sync::Arc;
use std::time::Duration;
use sync::WaitQueue;

/// Most bytes one read or write of a terminal moves.
const CHUNK: usize = 4096;

/// The end that a terminal emulator holds (`/dev/ptmx`).
pub struct Master {
    tty: Arc<Tty>,
    table: Arc<Table>,
}

impl Master {
    /// The master of a terminal of this table.
    pub fn new(tty: Arc<Tty>, table: Arc<Table>) -> Master {
        Master { tty, table }
    }
    /// The terminal.
    pub fn tty(&self) -> &Arc<Tty> {
        &self.tty
    }
}

impl FileOps for Master {
    fn read(&self, _: &File, buf: &mut IoBuffer<'_>, _: u64) -> Result<usize> {
        if buf.remaining() == 0 {
            return Ok(0);
        }
        let (packet, status) = self.tty.with(|s, _| (s.packet, if s.packet { std::mem::take(&mut s.packet_status) } else { 0 }));
        if packet && status != 0 {
            return buf.write(&[status]);
        }
        let room = buf.remaining().saturating_sub(usize::from(packet)).min(CHUNK);
        let bytes = self.tty.drain(room);
        if bytes.is_empty() {
            if self.tty.is_abandoned() {
                bail!(EIO, "no slave is open any more");
            }
            bail!(EAGAIN);
        }
        if packet {
            buf.write(&[super::termios::TIOCPKT_DATA as u8])?;
        }
        Ok(buf.write(&bytes)? + usize::from(packet))
    }

    fn write(&self, _: &File, buf: &mut IoBuffer<'_>, offset: u64, _: bool) -> Result<(usize, u64)> {
        if buf.remaining() == 0 {
            return Ok((0, offset));
        }
        let start = buf.done();
        let bytes = buf.read_all(CHUNK)?;
        let n = self.tty.feed(&bytes);
        buf.rewind_to(start + n);
        if n == 0 { bail!(EAGAIN) } else { Ok((n, offset)) }
    }

    fn seekable(&self) -> bool {
        false
    }
    fn poll(&self, _: &File) -> PollEvents {
        self.tty.poll_master()
    }
    fn poll_queue(&self) -> Option<&WaitQueue> {
        Some(&self.tty.master_queue)
    }
    fn has_async(&self) -> bool {
        true
    }
    fn async_owner(&self, task: &Task) -> Option<(OwnerKind, i32)> {
        Some(self.tty.async_owner(task))
    }
    fn ioctl(&self, _: &File, task: &Task, cmd: u32, arg: IoctlArg) -> Result<u64> {
        ioctl(&self.tty, End::Master, task, cmd, arg)
    }
    fn release(&self, _: &File) {
        self.table.remove(self.tty.index);
        self.tty.master_closed();
    }
    fn show_fdinfo(&self, _: &File) -> String {
        format!("tty-index:\t{}\n", self.tty.index)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The end that programs take for a terminal (`/dev/pts/N`, `/dev/tty`).
pub struct Slave {
    tty: Arc<Tty>,
}

impl Slave {
    /// Opens the slave for a task, and makes it the controlling terminal of a session leader that has none, unless O_NOCTTY.
    pub fn open(tty: &Arc<Tty>, task: &Task, noctty: bool) -> Result<Slave> {
        tty.slave_opened(task.cred().capable(kernel::cred::CapSet::SYS_ADMIN))?;
        let slave = Slave { tty: tty.clone() };
        if !noctty && task.is_session_leader() && task.session().terminal().is_none() && tty.session().is_none() {
            tty.become_controlling(task, false)?;
        }
        Ok(slave)
    }
    /// The terminal.
    pub fn tty(&self) -> &Arc<Tty> {
        &self.tty
    }

    fn take(&self, room: usize, expired: bool) -> Option<Vec<u8>> {
        self.tty.with(|s, fx| {
            if s.hung_up() {
                return Some(Vec::new());
            }
            let taken = s.ldisc.take(room, expired);
            // The master may have waited for room.
            fx.changed = taken.is_some();
            taken
        })
    }
}

impl FileOps for Slave {
    fn read(&self, _: &File, buf: &mut IoBuffer<'_>, _: u64) -> Result<usize> {
        if let Some(task) = current() {
            self.tty.check_background(&task, Signal::TTIN)?;
        }
        let room = buf.remaining().min(CHUNK);
        if room == 0 {
            return Ok(0);
        }
        match self.take(room, false) {
            Some(bytes) if bytes.is_empty() => Ok(0),
            Some(bytes) => buf.write(&bytes),
            None => bail!(EAGAIN),
        }
    }

    fn read_expired(&self, _: &File, buf: &mut IoBuffer<'_>) -> Result<usize> {
        match self.take(buf.remaining().min(CHUNK), true) {
            Some(bytes) if !bytes.is_empty() => buf.write(&bytes),
            _ => Ok(0),
        }
    }

    fn times_reads(&self) -> bool {
        true
    }

    fn read_timer(&self, _: &File) -> Option<ReadTimer> {
        self.tty.with(|s, _| {
            let t = &s.ldisc.termios;
            let tenths = u64::from(t.cc[libc::VTIME]);
            let waiting = s.ldisc.available();
            // With a minimum the time runs from the first byte on.
            let runs = t.cc[libc::VMIN] == 0 || waiting > 0;
            (!t.local(libc::ICANON) && runs && tenths > 0).then(|| ReadTimer { limit: Duration::from_millis(tenths * 100), waiting })
        })
    }

    fn write(&self, _: &File, buf: &mut IoBuffer<'_>, offset: u64, _: bool) -> Result<(usize, u64)> {
        if self.tty.with(|s, _| s.to_stop())
            && let Some(task) = current()
        {
            self.tty.check_background(&task, Signal::TTOU)?;
        }
        if buf.remaining() == 0 {
            return Ok((0, offset));
        }
        let start = buf.done();
        let bytes = buf.read_all(CHUNK)?;
        let n = self.tty.with(|s, _| if s.hung_up() { None } else { Some(s.ldisc.write(&bytes)) });
        buf.rewind_to(start + n.unwrap_or(0));
        let Some(n) = n else { bail!(EIO, "terminal has hung up") };
        if n == 0 { bail!(EAGAIN) } else { Ok((n, offset)) }
    }

    fn seekable(&self) -> bool {
        false
    }
    fn poll(&self, _: &File) -> PollEvents {
        self.tty.poll_slave()
    }
    fn poll_queue(&self) -> Option<&WaitQueue> {
        Some(&self.tty.slave_queue)
    }
    fn has_async(&self) -> bool {
        true
    }
    fn async_owner(&self, task: &Task) -> Option<(OwnerKind, i32)> {
        Some(self.tty.async_owner(task))
    }
    fn ioctl(&self, _: &File, task: &Task, cmd: u32, arg: IoctlArg) -> Result<u64> {
        ioctl(&self.tty, End::Slave, task, cmd, arg)
    }
    fn fsync(&self, _: &File, _: bool) -> Result {
        bail!(EINVAL)
    }
    fn release(&self, _: &File) {
        self.tty.slave_closed();
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}
