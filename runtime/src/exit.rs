//! Exit statuses, and the errors that lead to them. This is the one place where they are documented.
//!
//! | status | meaning |
//! | --- | --- |
//! | 0 to 255 | the application's own exit status |
//! | 128 + n | the application was ended by signal n |
//! | 2 | the command line is wrong |
//! | 99 to 125 | Caisson could not do what was asked: [`Status`] |
//! | 126 | the program exists and cannot be executed |
//! | 127 | the program does not exist |
//!
//! An application may of course end with any of these itself; the line on standard error (and in `--log`) tells which it was.

use control::FailureKind;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::process::ExitCode;

/// Why `caisson` itself ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Status {
    /// The command line is wrong.
    Usage = 2,
    /// A verb of runc's that this build does not have, for example `checkpoint`.
    NotImplemented = 99,
    /// The bundle directory does not exist.
    NoBundle = 100,
    /// The bundle has no `config.json`.
    NoConfig = 101,
    /// `config.json` is not JSON of the right shape, or is cut short.
    BadJson = 102,
    /// `ociVersion` is missing or not a version 1.
    BadVersion = 103,
    /// A field of `config.json` has a value that cannot be used.
    BadField = 104,
    /// `process.args` is empty or missing.
    NoArgs = 105,
    /// The root file system does not exist.
    NoRootfs = 106,
    /// The source of a bind mount does not exist.
    NoMountSource = 107,
    /// `--platform` names no platform.
    UnknownPlatform = 108,
    /// The platform is not part of this build.
    PlatformNotBuilt = 109,
    /// `--platform=kvm`, and there is no usable `/dev/kvm`.
    NoKvm = 110,
    /// The container ID has characters that are not allowed.
    BadId = 111,
    /// The container ID is in use.
    IdInUse = 112,
    /// `caisson spec`: there is a `config.json` already.
    ConfigExists = 113,
    /// The state directory cannot be used.
    State = 114,
    /// The host does not allow what a sandbox needs, for example user namespaces.
    Host = 115,
    /// The console socket or the terminal cannot be used.
    Console = 116,
    /// A file that a flag names (`--pid-file`, `--log`) cannot be written.
    Output = 117,
    /// The sentry could not put the configuration into force, for example because `process.cwd` does not exist.
    Refused = 118,
    /// There is no container of this name.
    NoContainer = 119,
    /// The container is not in a state in which this can be done.
    WrongState = 120,
    /// The container's application does not run.
    NotRunning = 121,
    /// A hook failed.
    Hook = 122,
    /// Control groups cannot be made or set as the configuration wants.
    Cgroup = 123,
    /// The configuration of an engine (`caisson install`) cannot be understood or written.
    Engine = 124,
    /// The sentry or the gofer ended unexpectedly, or Caisson has a bug.
    Internal = 125,
    /// The program exists and cannot be executed.
    NotExecutable = 126,
    /// The program does not exist.
    NotFound = 127,
    /// The container was killed while a process in it was waited for.
    Killed = 137,
}

/// A failure: one line that says what is wrong and, where that is not plain, what to do.
#[derive(Debug)]
pub struct Failure {
    /// Becomes the exit status.
    pub status: Status,
    /// One line.
    pub message: String,
}

impl Failure {
    /// A failure with this status and message.
    pub fn new(status: Status, message: impl Into<String>) -> Failure {
        Failure { status, message: message.into() }
    }

    /// For `map_err`: `what: the error`.
    pub fn context<E: fmt::Display>(status: Status, what: impl fmt::Display) -> impl FnOnce(E) -> Failure {
        move |error| Failure::new(status, format!("{what}: {error}"))
    }

    /// For `map_err` where only a bug or a broken host can be the cause.
    pub fn internal<E: fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Failure {
        Failure::context(Status::Internal, what)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message.replace('\n', " "))
    }
}

impl From<FailureKind> for Status {
    fn from(kind: FailureKind) -> Status {
        match kind {
            FailureKind::NotFound => Status::NotFound,
            FailureKind::NotExecutable => Status::NotExecutable,
            FailureKind::Invalid => Status::Refused,
            FailureKind::Host => Status::Host,
            FailureKind::Internal => Status::Internal,
        }
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> ExitCode {
        ExitCode::from(status as u8)
    }
}

/// The exit status a shell would report for what wait(2) gave: the program's own, or 128 + the signal's number.
#[must_use]
pub fn of_wait_status(wait_status: i32) -> u8 {
    let signal = wait_status & 0x7f;
    if signal == 0 { (wait_status >> 8 & 0xff) as u8 } else { 128 | signal as u8 }
}

/// The result of everything a verb does; the number is the exit status.
pub type Result<T = u8, E = Failure> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_statuses_become_what_a_shell_reports() {
        assert_eq!(of_wait_status(0), 0);
        assert_eq!(of_wait_status(3 << 8), 3);
        assert_eq!(of_wait_status(9), 137);
        assert_eq!(of_wait_status(0x80 | 11), 139);
    }
}
