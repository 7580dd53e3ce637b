//! Running our own code in a stopped stub thread.

use super::sys::{self, Wait};
use crate::UserRegs;
use crate::stub::{Entry, in_code};
use abi::Errno;

/// Lets the stopped thread `tid` run from `regs` until the trap at the end of a stub entry, and returns its registers then.
/// Signals that arrive meanwhile are dropped. `ESRCH`: it is gone. On events `event` is called (a fork, say).
pub fn to_trap(tid: i32, regs: &UserRegs, mut event: impl FnMut(i32) -> Result<(), Errno>) -> Result<UserRegs, Errno> {
    sys::set_regs(tid, regs)?;
    loop {
        sys::cont(tid)?;
        match sys::wait(tid)? {
            Wait::Gone => return Err(Errno::ESRCH),
            Wait::Event(sys::EVENT_STOP) => {}
            Wait::Event(e) => event(e)?,
            Wait::Signal(libc::SIGTRAP) => {
                let mut regs = Entry::Idle.regs();
                sys::get_regs(tid, &mut regs)?;
                if in_code(regs.rip) && sys::is_own_trap(&sys::get_siginfo(tid)?) {
                    return Ok(regs);
                }
            }
            // A fault of our own code can only be a page of it that the host could not provide.
            Wait::Signal(libc::SIGSEGV | libc::SIGBUS) if sys::is_own_trap(&sys::get_siginfo(tid)?) => {
                return Err(Errno::EFAULT);
            }
            Wait::Signal(_) => {}
        }
    }
}

/// Makes the stopped thread `tid` carry out one system call.
pub fn syscall(tid: i32, nr: i64, args: [u64; 6]) -> Result<u64, Errno> {
    result(to_trap(tid, &Entry::Syscall.call(nr, args), |_| Ok(()))?.rax)
}

/// Makes the stopped thread `tid` clone; the new thread idles. Returns the new thread's id.
pub fn clone(tid: i32, flags: u64, event: impl FnMut(i32) -> Result<(), Errno>) -> Result<i32, Errno> {
    let regs = to_trap(tid, &Entry::Clone.call(libc::SYS_clone, [flags, 0, 0, 0, 0, 0]), event)?;
    i32::try_from(result(regs.rax)?).map_err(|_| Errno::EIO)
}

/// What a system call returned, by its register.
pub fn result(rax: u64) -> Result<u64, Errno> {
    if rax > -4096i64 as u64 { Err(Errno::from_raw((rax as i64).wrapping_neg() as i32)) } else { Ok(rax) }
}

/// Waits for the end of a thread (not a leader, whose end waits for all others) that requests found gone (`ESRCH`). If it was
/// reaped already, returns at once.
pub fn reap(tid: i32) {
    while let Ok(w) = sys::wait(tid) {
        if w == Wait::Gone {
            break;
        }
    }
}
