//! The system call table: from registers to typed calls of the kernel.
//!
//! A handler is a thin function `fn(&mut CurrentTask, typed arguments…) -> Result<value>` in its family's file, named in that file's
//! `ROWS`. [`dispatch`] is what the run loop calls.

pub mod arg;
mod dispatch;
mod epoll;
mod eventfd;
mod fdutil;
mod inotify;
mod pipe;
pub mod poll;
pub mod report;
pub mod table;

pub use dispatch::{Dispatcher, register};

/// The calls of every family.
pub(crate) const FAMILIES: &[&[table::Entry]] = &[
    epoll::ROWS,
    eventfd::ROWS,
    inotify::ROWS,
    pipe::ROWS,
    poll::ROWS,
];
