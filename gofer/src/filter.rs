//! The gofer's seccomp filter: the calls that serving files takes, each with its reason. Anything else kills it.

use abi::libc;
use anyhow::{Context, Result};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

/// What the arguments must be.
#[derive(Clone, Copy)]
enum When {
    /// Anything.
    Always,
    /// This argument has none of these bits.
    Without(u8, u64),
    /// This argument is this.
    Is(u8, u64),
    /// As `Is`, and only where an attach point allows sockets.
    IsWithSockets(u8, u64),
    /// Anything, and only where an attach point allows sockets.
    WithSockets,
}

use When::{Always, Is, IsWithSockets, WithSockets, Without};

/// The whole list.
const RULES: &[(i64, When, &str)] = &[
    (libc::SYS_recvmsg, Always, "requests come in"),
    (libc::SYS_sendmsg, Always, "replies go out, descriptors with them"),
    (libc::SYS_socketpair, Is(0, libc::AF_UNIX as u64), "the sentry asks for another connection"),
    (libc::SYS_socket, IsWithSockets(0, libc::AF_UNIX as u64), "a socket to bind or connect for the sentry"),
    (libc::SYS_bind, WithSockets, "bind a socket in the tree"),
    (libc::SYS_connect, WithSockets, "connect to a socket in the tree"),
    (libc::SYS_setresuid, WithSockets, "as the user who asked for it"),
    (libc::SYS_setresgid, WithSockets, "likewise"),
    (libc::SYS_setgroups, WithSockets, "likewise"),
    (libc::SYS_geteuid, WithSockets, "who that is now"),
    (libc::SYS_getegid, WithSockets, "likewise"),
    (libc::SYS_getuid, WithSockets, "likewise"),
    (libc::SYS_getgid, WithSockets, "likewise"),
    (libc::SYS_openat2, Always, "look up and create, beneath a directory"),
    (libc::SYS_openat, Always, "open a file anew through our own descriptor; the root holds nothing else"),
    (libc::SYS_close, Always, "descriptors are closed"),
    (libc::SYS_statx, Always, "attributes"),
    (libc::SYS_newfstatat, Always, "libc's fstat"),
    (libc::SYS_fstat, Always, "libc's fstat"),
    (libc::SYS_readlinkat, Always, "targets of symlinks"),
    (libc::SYS_getdents64, Always, "read directories"),
    (libc::SYS_lseek, Always, "go on in a directory at a cookie"),
    (libc::SYS_mkdirat, Always, "mkdir"),
    (libc::SYS_symlinkat, Always, "symlink"),
    (libc::SYS_linkat, Always, "link"),
    (libc::SYS_mknodat, Always, "FIFOs, sockets, whiteouts"),
    (libc::SYS_unlinkat, Always, "unlink and rmdir"),
    (libc::SYS_renameat2, Always, "rename with flags"),
    (libc::SYS_renameat, Always, "rename without"),
    (libc::SYS_fchownat, Always, "owners"),
    (libc::SYS_fchmodat, Always, "permissions"),
    (libc::SYS_utimensat, Always, "times"),
    (libc::SYS_ftruncate, Always, "sizes"),
    (libc::SYS_fsync, Always, "fsync of what the sentry has no descriptor of"),
    (libc::SYS_fdatasync, Always, "likewise"),
    (libc::SYS_fstatfs, Always, "statfs"),
    (libc::SYS_getxattr, Always, "extended attributes"),
    (libc::SYS_setxattr, Always, "likewise"),
    (libc::SYS_listxattr, Always, "likewise"),
    (libc::SYS_removexattr, Always, "likewise"),
    (libc::SYS_fcntl, Is(1, libc::F_GETFD as u64), "the library checks descriptors in debug builds"),
    (libc::SYS_poll, Always, "the first thread waits for the sentry to go away"),
    (libc::SYS_ppoll, Always, "likewise"),
    (libc::SYS_write, Always, "the log"),
    (libc::SYS_writev, Always, "the log, and a panic's message"),
    (libc::SYS_mmap, Without(2, libc::PROT_EXEC as u64), "memory; never code"),
    (libc::SYS_mprotect, Without(2, libc::PROT_EXEC as u64), "the allocator's arenas; never code"),
    (libc::SYS_munmap, Always, "memory"),
    (libc::SYS_mremap, Always, "memory"),
    (libc::SYS_madvise, Always, "memory"),
    (libc::SYS_brk, Always, "memory"),
    (libc::SYS_futex, Always, "locks between threads"),
    (libc::SYS_sched_yield, Always, "locks spin before they wait"),
    (libc::SYS_getrandom, Always, "seeds of hash tables"),
    (libc::SYS_clock_gettime, Always, "times in the log, where the vDSO cannot tell"),
    (libc::SYS_gettid, Always, "names in the log, abort"),
    (libc::SYS_getpid, Always, "abort"),
    (libc::SYS_tgkill, Always, "abort: with a filter that forbids it, it would hang"),
    (libc::SYS_sigaltstack, Always, "threads set up and tear down their stack guard"),
    (libc::SYS_rt_sigaction, Always, "abort"),
    (libc::SYS_rt_sigprocmask, Always, "abort, threads"),
    (libc::SYS_rt_sigreturn, Always, "signal handlers return"),
    (libc::SYS_restart_syscall, Always, "waiting goes on after the process was stopped"),
    (libc::SYS_set_robust_list, Always, "a thread that was made just before begins"),
    (libc::SYS_rseq, Always, "likewise"),
    (libc::SYS_sched_setaffinity, Is(0, 0), "a thread runs where the sentry's waits for it"),
    (libc::SYS_sched_getaffinity, Always, "likewise: the library asks for its stack"),
    (libc::SYS_prctl, Is(0, libc::PR_SET_NAME as u64), "likewise: it takes its name"),
    (libc::SYS_exit, Always, "a thread ends"),
    (libc::SYS_exit_group, Always, "the process ends"),
];

/// Compiles the filter; `sockets` if an attach point allows them.
fn compile(sockets: bool) -> Result<BpfProgram> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for (number, when, why) in RULES {
        let condition = match *when {
            Always => None,
            WithSockets if sockets => None,
            WithSockets | IsWithSockets(..) if !sockets => continue,
            Without(arg, bits) => Some((arg, Op::MaskedEq(bits), 0)),
            Is(arg, value) | IsWithSockets(arg, value) => Some((arg, Op::Eq, value)),
            WithSockets => None,
        };
        let all = rules.entry(*number).or_default();
        if let Some((arg, op, value)) = condition {
            let condition = SeccompCondition::new(arg, Len::Dword, op, value).with_context(|| format!("rule: {why}"))?;
            all.push(SeccompRule::new(vec![condition]).with_context(|| format!("rule: {why}"))?);
        }
    }
    let arch: TargetArch = std::env::consts::ARCH.try_into().context("architecture")?;
    let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch)?;
    Ok(filter.try_into()?)
}

/// Installs the filter on every thread of the process.
pub fn install(sockets: bool) -> Result<()> {
    let program = compile(sockets)?;
    seccompiler::apply_filter_all_threads(&program).context("install the seccomp filter")
}

#[cfg(test)]
#[test]
fn compiles_both_ways() {
    assert!(compile(false).expect("filter").len() < compile(true).expect("filter").len());
}
