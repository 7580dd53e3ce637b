//! One process of a sandbox, owned: killed and reaped when dropped.

use super::jail;
use crate::exit::{Failure, Result, Status};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, pidfd_open, pidfd_send_signal, waitpid};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

/// A child process.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    /// What wait(2) gave.
    ended: Option<WaitStatus>,
}

impl Child {
    /// The child that [`jail::fork`] made.
    pub fn new(pid: i32) -> Result<Child> {
        let pid = Pid::from_raw(pid).ok_or_else(|| Failure::new(Status::Internal, "a child has no process ID"))?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(Failure::internal("pidfd_open"))?;
        Ok(Child { pid, pidfd, ended: None })
    }

    /// Kills it if it still runs. With a PID namespace's first process, all others in it die, too.
    pub fn kill(&self) {
        if self.ended.is_none() {
            // It may have ended by itself: then there is nothing to kill.
            let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        }
    }

    /// Lets it live on, as nobody's responsibility but its next parent's.
    pub fn release(self) {
        let _ = std::mem::ManuallyDrop::new(self);
    }

    /// Reaps it; waits for its end.
    pub fn wait(&mut self) -> Option<WaitStatus> {
        while self.ended.is_none() {
            match waitpid(Some(self.pid), WaitOptions::empty()) {
                Ok(Some((_, status))) => self.ended = Some(status),
                Err(rustix::io::Errno::INTR) | Ok(None) => {}
                Err(_) => break,
            }
        }
        self.ended
    }

    /// Whether it ended with exit status 0; waits for its end.
    pub fn ended_well(&mut self) -> bool {
        self.wait().is_some_and(|status| status.exit_status() == Some(0))
    }

    /// How it ended, for an error message; waits for its end.
    pub fn epitaph(&mut self) -> String {
        match self.wait() {
            Some(status) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => format!("ended with status {code}"),
                (None, Some(signal)) => format!("was killed by signal {signal}"),
                (None, None) => "ended".into(),
            },
            None => "ended".into(),
        }
    }
}

impl AsFd for Child {
    /// Its pidfd: readable when it has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
        self.wait();
    }
}

/// In a forked child: executes this program again as `args`, with only `fds` open, no signal blocked and no environment (it
/// is the user's, and nothing there is needed). Returns the error if that fails.
pub fn execute(executable: &File, args: &[&str], fds: Vec<(RawFd, OwnedFd)>) -> io::Error {
    let Err(error) = jail::arrange(fds, executable).and_then(|executable| jail::execute(&executable, args));
    error
}

/// In a forked child: what every process of a sandbox does first. It dies with the runtime, and has a session of its own, so
/// that the keys of a terminal reach it through the runtime only.
pub fn detach_from_terminal() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    rustix::process::setsid()?;
    Ok(())
}

/// In a forked child that cannot go on: says why, and ends.
pub fn give_up(who: &str, error: &io::Error) -> ! {
    use std::io::Write;
    // Standard error may be gone already; the parent sees the exit status anyhow.
    let _ = writeln!(io::stderr(), "caisson: cannot start the {who}: {error}");
    jail::exit_now(Status::Internal as i32)
}
