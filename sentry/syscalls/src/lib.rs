//! The system call table: from registers to typed calls of the kernel.
//!
//! A handler is a thin function `fn(&mut CurrentTask, typed arguments…) -> Result<value>` in its family's file, named in that file's
//! `ROWS`. [`dispatch`] is what the run loop calls.

pub mod arg;
mod at;
mod cred;
mod dir;
mod dispatch;
mod epoll;
mod eventfd;
mod fd;
mod futex;
mod fdutil;
mod inotify;
mod memory;
mod mq;
mod msgsem;
mod mount;
mod namei;
mod open;
mod pipe;
mod process;
pub mod poll;
mod prctl;
pub mod report;
mod ptrace;
mod rw;
mod signal;
mod seccomp;
mod socket;
mod sched;
mod shm;
mod stat;
mod system;
mod time;
pub mod table;
mod xattr;

pub use dispatch::{Dispatcher, register};

/// The calls of every family.
pub(crate) const FAMILIES: &[&[table::Entry]] = &[
    cred::ROWS,
    dir::ROWS,
    epoll::ROWS,
    eventfd::ROWS,
    fd::ROWS,
    futex::ROWS,
    inotify::ROWS,
    memory::ROWS,
    mq::ROWS,
    msgsem::ROWS,
    mount::ROWS,
    namei::ROWS,
    open::ROWS,
    pipe::ROWS,
    process::ROWS,
    poll::ROWS,
    prctl::ROWS,
    ptrace::ROWS,
    rw::ROWS,
    signal::ROWS,
    seccomp::ROWS,
    socket::ROWS,
    sched::ROWS,
    shm::ROWS,
    stat::ROWS,
    system::ROWS,
    time::ROWS,
    xattr::ROWS,
];
