//! `containerd-shim-caisson-v1`: what containerd starts for each container or pod, and talks to over a socket (shim protocol
//! version 2, the `Task` service).
//!
//! The shim outlives containerd. It drives an OCI runtime by its command line ([`oci`]), holds the ends of the standard streams
//! ([`stdio`]), waits for the processes that stand for containers ([`reaper`]), and tells containerd what happens ([`events`]).
//! It is the executable `caisson` under another name: [`is_shim`] tells by `argv[0]`. Any runtime with runc's command line will do
//! in the place of `caisson` (see [`options`]).

mod args;
mod console;
mod container;
mod delete;
mod error;
mod events;
mod log;
mod mount;
mod oci;
mod oom;
mod options;
mod process;
mod reaper;
mod serve;
mod service;
mod start;
mod stats;
mod stdio;

pub use error::{Error, Result};
pub use oom::{Kills, KillsOf};

/// The name that containerd derives from the runtime `io.containerd.caisson.v1`.
pub const NAME: &str = "containerd-shim-caisson-v1";

/// Whether a process with this `argv[0]` is to be a shim.
#[must_use]
pub fn is_shim(argv0: &str) -> bool {
    argv0.rsplit('/').next() == Some(NAME)
}

/// Entry point; `args` without `argv[0]`. `kills_of` gives what a runtime of this very program tells of containers. The result is the
/// process's exit status.
pub fn main(args: &[String], kills_of: KillsOf) -> i32 {
    let done = args::parse(args).and_then(|args| {
        if args.version {
            println!("{NAME}:\n  Version: {}", env!("CARGO_PKG_VERSION"));
            return Ok(());
        }
        match args.action.as_str() {
            "start" => start::main(&args),
            "delete" => delete::main(&args),
            "" => serve::main(&args, kills_of),
            other => Err(Error::invalid(format!("there is no action {other}: start and delete are known"))),
        }
    });
    match done {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{NAME}: {error}");
            1
        }
    }
}
