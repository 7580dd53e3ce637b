//! The areas, one file each.

use crate::{Test, sys};

mod attr;
mod dir;
mod epoll;
mod event;
mod exec;
mod hotcall;
mod inet;
mod lock;
mod memory;
mod mount;
mod mq;
mod notify;
mod open;
mod packet;
mod pipe;
mod poll;
mod process;
mod procfs;
mod ptrace;
mod rw;
mod sched;
mod seccomp;
mod sigio;
mod signal;
mod signal_block;
mod sockfilter;
mod sysv;
mod tcp_end;
mod thread;
mod time;
mod tty;
mod unix;
mod unix_pass;

/// Every subtest.
pub fn all() -> impl Iterator<Item = &'static Test> {
    [
        attr::TESTS,
        dir::TESTS,
        epoll::TESTS,
        event::TESTS,
        exec::TESTS,
        inet::TESTS,
        lock::TESTS,
        memory::TESTS,
        mount::TESTS,
        mq::TESTS,
        notify::TESTS,
        open::TESTS,
        packet::TESTS,
        pipe::TESTS,
        poll::TESTS,
        process::TESTS,
        hotcall::TESTS,
        procfs::TESTS,
        ptrace::TESTS,
        rw::TESTS,
        signal::TESTS,
        signal_block::TESTS,
        sigio::TESTS,
        sockfilter::TESTS,
        sched::TESTS,
        seccomp::TESTS,
        sysv::TESTS,
        tcp_end::TESTS,
        thread::TESTS,
        time::TESTS,
        tty::TESTS,
        unix::TESTS,
        unix_pass::TESTS,
    ]
    .into_iter()
    .flatten()
}

/// What a subtest executes through `execve` of this same program: `@role args…`.
pub fn helper(role: &str, args: &[String]) {
    match role {
        "@cat" => while sys::read(0, 4096).is_ok_and(|b| !b.is_empty() && sys::write(1, &b).is_ok()) {},
        "@sleep" => sys::ms(100_000),
        _ => exec::helper(role, args),
    }
}
