//! The kernel: tasks, signals, memory, the virtual file system, time, futexes.
//!
//! No `unsafe`, no host call of its own: `host` and `platform` below do those. File systems (`fs`), socket families (`net`) and
//! the system call table (`syscalls`) sit above and register themselves here.
//!
//! Where to begin: [`Kernel`] is the whole sandbox, [`Container`] a container in it, [`task::Task`] one thread, [`vfs`] names and files, [`mm::Mm`] memory.

pub mod bpf;
pub mod container;
pub mod cred;
pub mod futex;
pub mod io;
pub mod ipc;
pub mod kernel;
mod limits;
pub mod loader;
pub mod mm;
pub mod net;
pub mod ptrace;
pub mod seccomp;
pub mod setting;
pub mod signal;
pub mod task;
pub mod time;
pub mod user;
pub mod vfs;

pub use container::Container;
pub use kernel::{Kernel, KernelConfig};

/// Fills a buffer with random bytes of the host's generator.
pub fn random(buf: &mut [u8]) -> abi::Result {
    Ok(host::rand::fill(buf)?)
}
