//! The sentry's own host signals.
//!
//! Whoever signals the sentry's process means the application: the signal is passed on to its first process.

use host::signals::HostSigSet;

/// The signals that are taken as messages. Not among them: faults, what the platform and the kernel use between threads
/// (SIGCHLD, SIGURG, the last real-time signals), and what cannot be taken.
const TAKEN: [i32; 8] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2, libc::SIGALRM, libc::SIGCONT];

/// The set that [`wait`] waits for.
fn taken() -> HostSigSet {
    HostSigSet::of(&TAKEN)
}

/// To be called in the first thread while it is the only one: later threads inherit the mask.
pub fn prepare() -> Result<(), abi::Errno> {
    host::signals::block(&taken())?;
    host::signals::ignore(libc::SIGPIPE)?;
    // Nothing may stop the sentry but what stops it from outside.
    for signal in [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU] {
        host::signals::ignore(signal)?;
    }
    host::signals::install_interrupt()?;
    host::safecopy::install();
    Ok(())
}

/// The next of the signals.
pub fn wait() -> Result<i32, abi::Errno> {
    loop {
        match host::signals::wait(&taken()) {
            Ok((signal, _)) => return Ok(signal),
            Err(abi::Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}
