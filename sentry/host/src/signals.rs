//! The sentry's own host signals: masks, a signal that only interrupts, sending to threads.

use crate::check;
use abi::Errno;

/// The signal that takes a sentry thread out of a blocking host call ([`install_interrupt`]): the last real-time signal but one,
/// which neither libc nor an application (those are in other processes) uses.
pub const INTERRUPT: i32 = 63;

extern "C" fn nothing(_: libc::c_int) {}

/// Gives [`INTERRUPT`] a handler that does nothing, without `SA_RESTART`, so that it makes blocking calls return `EINTR`.
pub fn install_interrupt() -> Result<(), Errno> {
    // SAFETY: all-zero is a valid sigaction.
    let mut act: libc::sigaction = unsafe { std::mem::zeroed() };
    act.sa_sigaction = nothing as *const () as usize;
    // SAFETY: an async-signal-safe handler.
    check(unsafe { libc::sigaction(INTERRUPT, &act, std::ptr::null_mut()) }).map(drop)
}

/// Ignores a signal in the whole process; SIGPIPE, for one.
pub fn ignore(sig: i32) -> Result<(), Errno> {
    // SAFETY: no handler is involved.
    if unsafe { libc::signal(sig, libc::SIG_IGN) } == libc::SIG_ERR { Err(crate::last_errno()) } else { Ok(()) }
}

/// Restores a signal's default action.
pub fn set_default(sig: i32) -> Result<(), Errno> {
    // SAFETY: no handler is involved.
    if unsafe { libc::signal(sig, libc::SIG_DFL) } == libc::SIG_ERR { Err(crate::last_errno()) } else { Ok(()) }
}

/// A set of host signals.
#[derive(Clone, Copy)]
pub struct HostSigSet(libc::sigset_t);

impl HostSigSet {
    /// Of the given signals; numbers that do not exist are left out.
    #[must_use]
    pub fn of(signals: &[i32]) -> HostSigSet {
        // SAFETY: all-zero is a valid sigset, and sigemptyset's result on Linux.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        for &s in signals {
            // SAFETY: a valid set; a bad number is refused.
            unsafe { libc::sigaddset(&mut set, s) };
        }
        HostSigSet(set)
    }

    /// All but faults, which must reach [`crate::safecopy`], and [`INTERRUPT`].
    #[must_use]
    pub fn blockable() -> HostSigSet {
        let keep = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGABRT, INTERRUPT];
        let all: Vec<i32> = (1..=64).filter(|s| !keep.contains(s)).collect();
        HostSigSet::of(&all)
    }
}

/// Blocks signals in the calling thread; returns the mask from before.
pub fn block(set: &HostSigSet) -> Result<HostSigSet, Errno> {
    let mut old = HostSigSet::of(&[]);
    // SAFETY: two valid sets.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set.0, &mut old.0) } {
        0 => Ok(old),
        e => Err(Errno::from_raw(e)),
    }
}

/// Sets the calling thread's mask.
pub fn set_mask(set: &HostSigSet) -> Result<(), Errno> {
    // SAFETY: a valid set.
    match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &set.0, std::ptr::null_mut()) } {
        0 => Ok(()),
        e => Err(Errno::from_raw(e)),
    }
}

/// Waits for one of `set`, which the caller has blocked in all threads; returns its number and the sender's pid (0 if unknown).
pub fn wait(set: &HostSigSet) -> Result<(i32, i32), Errno> {
    // SAFETY: all-zero is a valid siginfo.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: a valid set and a valid place.
    let sig = check(unsafe { libc::sigwaitinfo(&set.0, &mut info) })?;
    // SAFETY: si_pid lies inside the siginfo whatever the kind of signal.
    Ok((sig, unsafe { info.si_pid() }))
}

/// tgkill(2).
pub fn tgkill(tgid: i32, tid: i32, sig: i32) -> Result<(), Errno> {
    // SAFETY: no memory involved.
    check(unsafe { libc::syscall(libc::SYS_tgkill, tgid, tid, sig) } as libc::c_int).map(drop)
}

/// kill(2).
pub fn kill(pid: i32, sig: i32) -> Result<(), Errno> {
    // SAFETY: no memory involved.
    check(unsafe { libc::kill(pid, sig) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupts_a_blocking_call() {
        install_interrupt().expect("install");
        let (tx, rx) = std::sync::mpsc::channel();
        let t = crate::thread::spawn("sleeper", move || {
            tx.send(crate::thread::tid()).expect("send");
            let e = crate::eventfd::EventFd::new().expect("eventfd");
            crate::io::poll(&e, libc::POLLIN, 10_000)
        });
        let t = t.expect("spawn");
        let tid = rx.recv().expect("recv");
        while !t.is_finished() {
            tgkill(std::process::id() as i32, tid, INTERRUPT).expect("tgkill");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert_eq!(t.join().expect("join"), Err(Errno::EINTR));
    }

    #[test]
    fn waits_for_a_blocked_signal() {
        let set = HostSigSet::of(&[libc::SIGUSR2]);
        block(&set).expect("block");
        tgkill(std::process::id() as i32, crate::thread::tid(), libc::SIGUSR2).expect("tgkill");
        assert_eq!(wait(&set), Ok((libc::SIGUSR2, std::process::id() as i32)));
    }
}
