//! The differential harness: one program, run by Linux and by Caisson, and what they print compared.
//!
//! A [`Program`] says what to run, in which [`root`], with which volumes. [`Program::native`] runs it in new namespaces of the
//! host's kernel, [`Program::sandboxed`] as an OCI bundle through `caisson run`. [`Suite`] makes a test per program and place:
//! `native::NAME` must pass first, then `ptrace::NAME` must give the same standard output, standard error and exit status.
//!
//! Environment: `CAISSON_TEST_PLATFORMS` (default `trap,ptrace`, separated by commas; empty: natively only), `CAISSON_BIN` (a binary to
//! test instead of the one of this workspace), `XDG_CACHE_HOME` (where roots are kept), `CAISSON_TEST_DEBIAN` (a root to use).

pub mod binary;
pub mod bundle;
pub mod host;
mod native;
pub mod process;
pub mod root;
pub mod suite;

pub use process::Output;
pub use suite::{Case, Suite};

use std::path::PathBuf;
use std::time::Duration;

/// A directory of the host that the program sees, and may write, at another place.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Absolute path on the host.
    pub source: PathBuf,
    /// Absolute path in the root; it must exist there.
    pub target: String,
}

/// What to run, and in what.
#[derive(Clone, Debug)]
pub struct Program {
    /// The tree to run in. It is never written: both sides lay memory over it.
    pub root: PathBuf,
    /// Program (an absolute path, or a name in `PATH`) and arguments.
    pub args: Vec<String>,
    /// Environment, besides `PATH`, `HOME`, `LC_ALL` and `TERM`.
    pub env: Vec<(String, String)>,
    /// Bytes on standard input.
    pub stdin: Vec<u8>,
    /// Writable directories of the host.
    pub volumes: Vec<Volume>,
    /// A network namespace; the sandbox takes over its interfaces. Without one there is loopback alone.
    pub network: Option<PathBuf>,
    /// The sandbox uses the sockets of a network namespace of the host (`--network=host`); without `network`, of a new one.
    pub passthrough: bool,
    /// Soft and hard limit of open files.
    pub nofile: (u64, u64),
    /// After this the program is killed, and the run is a failure.
    pub timeout: Duration,
}

impl Program {
    /// A program with its arguments in a root.
    pub fn new(root: impl Into<PathBuf>, args: &[&str]) -> Self {
        Self {
            root: root.into(),
            args: args.iter().map(|a| (*a).to_string()).collect(),
            env: Vec::new(),
            stdin: Vec::new(),
            volumes: Vec::new(),
            network: None,
            passthrough: false,
            nofile: NOFILE,
            timeout: Duration::from_secs(60),
        }
    }

    /// A bash script in a root.
    pub fn script(root: impl Into<PathBuf>, text: &str) -> Self {
        Self::new(root, &["/bin/bash", "-c", text])
    }

    /// The same with another time limit.
    #[must_use]
    pub fn timeout(mut self, seconds: u64) -> Self {
        self.timeout = Duration::from_secs(seconds);
        self
    }

    /// The same with these bytes on standard input.
    #[must_use]
    pub fn stdin(mut self, bytes: &[u8]) -> Self {
        self.stdin = bytes.to_vec();
        self
    }

    /// The same with a variable more in the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_string(), value.to_string()));
        self
    }

    /// The whole environment that the program gets, on either side.
    fn environment(&self) -> Vec<(String, String)> {
        let fixed = [
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("HOME", "/root"),
            ("LC_ALL", "C.UTF-8"),
            ("TERM", "xterm"),
        ];
        let fixed = fixed.into_iter().map(|(k, v)| (k.to_string(), v.to_string()));
        fixed.chain(self.env.iter().cloned()).collect()
    }
}

/// What both sides have: the name of the machine and the limits that programs can see.
pub(crate) const HOSTNAME: &str = "sandbox";
/// Soft and hard limit of open files, where a program does not ask for others.
pub(crate) const NOFILE: (u64, u64) = (1024, 4096);
