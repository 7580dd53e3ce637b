//! The operator of a stub process: a thread that never runs application code, and carries out the sentry's operations on the memory map.
//!
//! The sentry writes a list where the stub can only read it, and answers the operator's ring with how many operations there are. They are
//! carried out without a further question: one change of threads there and one back for all of them. No other thread of the process can
//! do that from anywhere: each has a filter of its own.

use super::code;
use super::image::{OPERATORS_PROGRAM, Place};
use crate::spawner::Site;
use crate::stub::{Entry, OPS, OPS_LEN};
use crate::tracee::run;
use crate::tracee::sys;
use abi::Errno;
use host::notify::Listener;

/// A stub process's operator.
#[derive(Debug)]
pub struct Operator {
    listener: Listener,
    /// The ring that it is held in, if that was received.
    held: Option<u64>,
}

impl Operator {
    /// Makes one of the new thread `tid`, which is stopped before its first instruction.
    pub fn equip(tid: i32, site: Site<'_>) -> Result<Operator, Errno> {
        let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
        let install = [libc::SYS_seccomp as u64, u64::from(libc::SECCOMP_SET_MODE_FILTER), flags, OPERATORS_PROGRAM, 0, 0, 0, 0];
        let list: Vec<u8> = install.iter().flat_map(|w| w.to_le_bytes()).collect();
        site.ops.copy_out(site.slot * OPS_LEN + code::EQUIP, &list)?;
        let mut regs = Entry::Batch.regs();
        (regs.rbx, regs.r12) = (OPS + code::EQUIP, 1);
        let fd = run::to_trap(tid, &regs, |_| Ok(())).and_then(|r| run::result(r.rax))?;
        let fd = i32::try_from(fd).map_err(|_| Errno::EIO)?;
        // SAFETY: the host has just made this descriptor in the table that stubs share with this process.
        let listener = unsafe { Listener::from_raw(fd) };
        listener.set_sync_wake_up(true)?;
        let mut regs = Entry::Idle.regs();
        regs.rip = Place::Operator.address();
        sys::set_regs(tid, &regs)?;
        sys::detach(tid)?;
        Ok(Operator { listener, held: None })
    }

    /// Lets it carry out the first `count` operations of the list. Returns how many succeeded, and what the last one gave. `ESRCH`: the process is gone.
    /// `EPROTO`: it has done something else.
    pub fn operate(&mut self, count: usize) -> Result<(usize, u64), Errno> {
        let id = match self.held.take() {
            Some(id) => id,
            None => self.receive()?.0,
        };
        self.listener.answer(id, count as i64).map_err(|e| if e == Errno::ENOENT { Errno::ESRCH } else { e })?;
        let (id, done, result) = self.receive()?;
        self.held = Some(id);
        Ok((usize::try_from(done).unwrap_or(usize::MAX).min(count), result))
    }

    /// Waits for its ring: what to answer, how many operations were carried out, and what the last one gave.
    fn receive(&self) -> Result<(u64, u64, u64), Errno> {
        loop {
            match self.listener.receive() {
                Ok(n) if Place::of(n.ip) == Some(Place::Reported) => return Ok((n.id, n.args[0], n.args[1])),
                Ok(_) => return Err(Errno::EPROTO),
                Err(Errno::EINTR) => {}
                Err(Errno::ENOENT) if self.listener.is_deserted() => return Err(Errno::ESRCH),
                Err(Errno::ENOENT) => {}
                Err(e) => return Err(e),
            }
        }
    }
}
