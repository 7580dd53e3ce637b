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
mod fdutil;
mod futex;
mod inotify;
mod memory;
mod mount;
mod mq;
mod msgsem;
mod namei;
mod open;
mod pipe;
pub mod poll;
mod prctl;
mod process;
mod ptrace;
pub mod report;
mod rw;
mod sched;
mod seccomp;
mod shm;
mod signal;
mod socket;
mod stat;
mod system;
pub mod table;
mod time;
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
