//! The host's ptrace(2) and waitpid(2), one thin function per request.
//!
//! All of them must be called by the thread that traces `tid` (a tracee belongs to a thread, not to a process); anybody else
//! gets `ESRCH`. None touches memory other than its arguments, so all are safe to call; what they do to the tracee is the caller's
//! business.

use crate::UserRegs;
use abi::Errno;
use abi::signal::{SigInfo, Signal};

/// `PTRACE_EVENT_STOP`: a seized tracee stopped on request, or with its process.
pub const EVENT_STOP: i32 = 128;
/// `NT_X86_XSTATE`: the register set with the XSAVE image.
const NT_X86_XSTATE: usize = 0x202;
/// `PTRACE_SYSEMU` of x86.
const SYSEMU: libc::c_uint = 31;

fn request(req: libc::c_uint, tid: i32, addr: usize, data: usize) -> Result<(), Errno> {
    // SAFETY: the callers below pass for `addr` and `data` what `req` takes: numbers, or places that are alive during the call.
    let r = unsafe { libc::ptrace(req, tid, addr, data) };
    if r < 0 { Err(host::last_errno()) } else { Ok(()) }
}

/// Makes the calling thread the tracer of `tid`, with `PTRACE_O_*` options. The tracee goes on running.
pub fn seize(tid: i32, options: i32) -> Result<(), Errno> {
    request(libc::PTRACE_SEIZE, tid, 0, options as usize)
}

/// Stops a seized tracee.
pub fn interrupt(tid: i32) -> Result<(), Errno> {
    request(libc::PTRACE_INTERRUPT, tid, 0, 0)
}

/// Sets `PTRACE_O_*` options of a stopped tracee.
pub fn set_options(tid: i32, options: i32) -> Result<(), Errno> {
    request(libc::PTRACE_SETOPTIONS, tid, 0, options as usize)
}

/// Lets a stopped tracee run: its system calls are the host's.
pub fn cont(tid: i32) -> Result<(), Errno> {
    request(libc::PTRACE_CONT, tid, 0, 0)
}

/// Lets a stopped tracee run: its next system call stops it and is not carried out.
pub fn sysemu(tid: i32) -> Result<(), Errno> {
    request(SYSEMU, tid, 0, 0)
}

/// Traces a stopped tracee no more; it runs on.
pub fn detach(tid: i32) -> Result<(), Errno> {
    request(libc::PTRACE_DETACH, tid, 0, 0)
}

/// Reads the registers of a stopped tracee.
pub fn get_regs(tid: i32, regs: &mut UserRegs) -> Result<(), Errno> {
    request(libc::PTRACE_GETREGS, tid, 0, std::ptr::from_mut(regs) as usize)
}

/// Writes the registers of a stopped tracee.
pub fn set_regs(tid: i32, regs: &UserRegs) -> Result<(), Errno> {
    request(libc::PTRACE_SETREGS, tid, 0, std::ptr::from_ref(regs) as usize)
}

/// Writes one register of a stopped tracee: `rax`.
pub fn set_rax(tid: i32, rax: u64) -> Result<(), Errno> {
    request(libc::PTRACE_POKEUSER, tid, std::mem::offset_of!(UserRegs, rax), rax as usize)
}

/// The signal that a tracee stopped for.
pub fn get_siginfo(tid: i32) -> Result<SigInfo, Errno> {
    let mut info = SigInfo::new(Signal::TRAP, 0);
    request(libc::PTRACE_GETSIGINFO, tid, 0, std::ptr::from_mut(&mut info) as usize)?;
    Ok(info)
}

/// The number that comes with an event stop: for a fork, the new process's id.
pub fn get_event_message(tid: i32) -> Result<u64, Errno> {
    let mut message: libc::c_ulong = 0;
    request(libc::PTRACE_GETEVENTMSG, tid, 0, std::ptr::from_mut(&mut message) as usize)?;
    Ok(message)
}

/// Reads the XSAVE image of a stopped tracee into `buf`, and returns its length.
pub fn get_xstate(tid: i32, buf: &mut [u8]) -> Result<usize, Errno> {
    let mut iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    request(libc::PTRACE_GETREGSET, tid, NT_X86_XSTATE, std::ptr::from_mut(&mut iov) as usize)?;
    Ok(iov.iov_len)
}

/// Writes the XSAVE image of a stopped tracee. `EINVAL` or `EFAULT` for one that the processor would not take.
pub fn set_xstate(tid: i32, buf: &[u8]) -> Result<(), Errno> {
    let mut iov = libc::iovec { iov_base: buf.as_ptr().cast_mut().cast(), iov_len: buf.len() };
    request(libc::PTRACE_SETREGSET, tid, NT_X86_XSTATE, std::ptr::from_mut(&mut iov) as usize)
}

/// What waitpid(2) says of a tracee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Stopped by a signal, or with `PTRACE_O_TRACESYSGOOD` by a system call: the number `SIGTRAP | 0x80`.
    Signal(i32),
    /// Stopped by a `PTRACE_EVENT_*`.
    Event(i32),
    /// It is gone, and reaped.
    Gone,
}

/// Waits until `tid` stops or ends.
pub fn wait(tid: i32) -> Result<Wait, Errno> {
    loop {
        match wait_flags(tid, 0) {
            Ok(Some(w)) => return Ok(w),
            Ok(None) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
        }
    }
}

/// Looks whether `tid` has stopped or ended.
pub fn try_wait(tid: i32) -> Result<Option<Wait>, Errno> {
    wait_flags(tid, libc::WNOHANG)
}

fn wait_flags(tid: i32, flags: i32) -> Result<Option<Wait>, Errno> {
    let mut status = 0;
    // Only this thread's own tracees: who is not the tracer must not wait for a stop that the tracer will never report.
    let flags = flags | libc::__WALL | libc::__WNOTHREAD;
    // SAFETY: `status` is a valid place.
    let r = unsafe { libc::waitpid(tid, &mut status, flags) };
    if r < 0 {
        return Err(host::last_errno());
    }
    if r == 0 {
        return Ok(None);
    }
    Ok(Some(if !libc::WIFSTOPPED(status) {
        Wait::Gone
    } else if status >> 16 != 0 {
        Wait::Event(status >> 16)
    } else {
        Wait::Signal(libc::WSTOPSIG(status))
    }))
}

/// Whether stopping for this is business of the tracee's own code, and not a signal somebody sent it.
pub fn is_own_trap(info: &SigInfo) -> bool {
    info.code > 0
}
