//! What happens when the sentry makes a host call that its own seccomp filter forbids: it says which, and ends.

use crate::check;
use abi::Errno;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::OnceLock;

/// Where the message goes.
static LOG: OnceLock<OwnedFd> = OnceLock::new();

/// Bytes of the message at most.
const LINE: usize = 512;

/// The exit status of a sentry that made a forbidden call.
pub const EXIT_STATUS: i32 = 124;

/// Makes forbidden calls (SECCOMP_RET_TRAP) end the process with a line in `log`. Only the first call has an effect.
pub fn report_to(log: OwnedFd) -> Result<(), Errno> {
    if LOG.set(log).is_err() {
        return Ok(());
    }
    // SAFETY: all-zero is a valid sigaction.
    let mut act: libc::sigaction = unsafe { std::mem::zeroed() };
    act.sa_sigaction = on_trap as *const () as usize;
    act.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: an async-signal-safe handler of three arguments.
    check(unsafe { libc::sigaction(libc::SIGSYS, &act, std::ptr::null_mut()) }).map(drop)
}

/// The part of `siginfo_t` that a SIGSYS fills (`_sigsys`).
#[repr(C)]
struct SigSys {
    signo: i32,
    errno: i32,
    code: i32,
    pad: i32,
    call_addr: u64,
    syscall: i32,
    arch: u32,
}

extern "C" fn on_trap(_sig: libc::c_int, info: *const SigSys, context: *const libc::ucontext_t) {
    let mut line = Line { text: [0; LINE], len: 0 };
    line.text(b"caisson: the sentry made host call ");
    // SAFETY: the kernel passes a siginfo of a SIGSYS, which is longer than this.
    let info = unsafe { &*info };
    line.number(info.syscall.unsigned_abs().into());
    line.text(b" at ");
    line.hex(info.call_addr);
    // SAFETY: the kernel passes a ucontext.
    let regs = unsafe { &(*context).uc_mcontext.gregs };
    for register in [libc::REG_RDI, libc::REG_RSI, libc::REG_RDX, libc::REG_R10] {
        line.text(b" ");
        line.hex(regs.get(register as usize).map_or(0, |r| r.cast_unsigned()));
    }
    line.text(b", which its filter forbids; called from");
    for offset in crate::backtrace::Frames::here().offsets() {
        line.text(b" ");
        line.hex(*offset as u64);
    }
    line.text(b"\n");
    if let Some(log) = LOG.get() {
        // SAFETY: writes initialized bytes of a local. Nothing can be done about a failure.
        unsafe { libc::write(log.as_raw_fd(), line.text.as_ptr().cast(), line.len) };
    }
    // SAFETY: does not return.
    unsafe { libc::_exit(EXIT_STATUS) }
}

/// A line built without allocating: this runs in a signal handler.
struct Line {
    text: [u8; LINE],
    len: usize,
}

impl Line {
    fn text(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if let Some(place) = self.text.get_mut(self.len) {
                *place = byte;
                self.len += 1;
            }
        }
    }

    fn number(&mut self, n: u64) {
        if n >= 10 {
            self.number(n / 10);
        }
        self.text(&[b'0' + (n % 10) as u8]);
    }

    fn hex(&mut self, n: u64) {
        self.text(b"0x");
        let digits = (16 - n.leading_zeros() / 4).max(1);
        for i in (0..digits).rev() {
            self.text(&[b"0123456789abcdef"[(n >> (4 * i) & 15) as usize]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_without_allocation() {
        let mut line = Line { text: [0; LINE], len: 0 };
        line.number(257);
        line.text(b" ");
        line.hex(0);
        line.hex(0xdead_beef);
        assert_eq!(&line.text[..line.len], b"257 0x00xdeadbeef");
        line.text(&[b'x'; LINE]);
        assert_eq!(line.len, LINE);
    }
}
