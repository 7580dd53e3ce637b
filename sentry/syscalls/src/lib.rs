//! The system call table: from registers to typed calls of the kernel.
//!
//! A handler is a thin function `fn(&mut CurrentTask, typed arguments…) -> Result<value>` in its family's file, named in that file's
//! `ROWS`. [`dispatch`] is what the run loop calls.

pub mod arg;
mod at;
mod dir;
mod dispatch;
mod epoll;
mod eventfd;
mod fd;
mod fdutil;
mod futex;
mod inotify;
mod mount;
mod namei;
mod open;
mod pipe;
mod process;
pub mod poll;
pub mod report;
mod rw;
mod signal;
mod socket;
mod stat;
mod time;
pub mod table;
mod xattr;

pub use dispatch::{Dispatcher, register};

/// The calls of every family.
pub(crate) const FAMILIES: &[&[table::Entry]] = &[
    dir::ROWS,
    epoll::ROWS,
    eventfd::ROWS,
    fd::ROWS,
    futex::ROWS,
    inotify::ROWS,
    mount::ROWS,
    namei::ROWS,
    open::ROWS,
    pipe::ROWS,
    process::ROWS,
    poll::ROWS,
    rw::ROWS,
    signal::ROWS,
    socket::ROWS,
    stat::ROWS,
    time::ROWS,
    xattr::ROWS,
];
