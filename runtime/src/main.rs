//! `caisson`: an OCI container runtime that runs applications on a kernel of its own, in user space.
//!
//! One executable holds the command line, the sentry and the gofer; the latter two are this same file executed again as
//! `caisson sentry` and `caisson gofer`. Under the name `containerd-shim-caisson-v1` it is containerd's shim. This file only tells them
//! apart.

mod cgroup;
mod cli;
mod client;
mod console;
mod container;
mod exit;
mod install;
mod logging;
mod process;
mod sandbox;
mod spec;
mod title;

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = match std::env::args_os().map(|a| a.into_string()).collect() {
        Ok(args) => args,
        Err(bad) => {
            eprintln!("caisson: the argument {bad:?} is not UTF-8");
            return exit::Status::Usage.into();
        }
    };
    if args.first().is_some_and(|name| shim::is_shim(name)) {
        let code = shim::main(args.get(1..).unwrap_or_default(), container::kills_of);
        return ExitCode::from(u8::try_from(code).unwrap_or(exit::Status::Internal as u8));
    }
    let code = match args.get(1).map(String::as_str) {
        Some("sentry") => sentry::main(&args[2..]),
        Some("gofer") => gofer::main(args.iter().skip(2).map(OsString::from)),
        _ => return cli::main(&args, sentry::syscall_table),
    };
    ExitCode::from(u8::try_from(code).unwrap_or(exit::Status::Internal as u8))
}
