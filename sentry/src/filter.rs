//! The sentry's seccomp filter: what it may still ask of the host once it is about to run the application.
//!
//! An allow-list. Nothing in it opens a path, makes a socket, executes a file or makes a process; each entry has its reason.
//! Anything else ends the sentry with a line in the log that names the call (`host::forbidden`).

use control::Platform;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
    apply_filter_all_threads, sock_filter,
};
use std::collections::BTreeMap;

/// Error messages are for the runtime's user.
type Error = Box<dyn std::error::Error>;

/// What an argument must be.
enum Check {
    /// This argument's low 32 bits have this value.
    Is(u8, u64),
    /// This argument, all 64 bits of it, has none of these bits set.
    Lacks(u8, u64),
    /// This argument has all of these bits set.
    Has(u8, u64),
}

impl Check {
    fn condition(&self) -> Result<SeccompCondition, Error> {
        Ok(match *self {
            Check::Is(arg, value) => SeccompCondition::new(arg, Len::Dword, Op::Eq, value)?,
            Check::Lacks(arg, bits) => SeccompCondition::new(arg, Len::Qword, Op::MaskedEq(bits), 0)?,
            Check::Has(arg, bits) => SeccompCondition::new(arg, Len::Qword, Op::MaskedEq(bits), bits)?,
        })
    }
}

/// Calls that are allowed with any arguments, and why.
const ALWAYS: &[(i64, &str)] = &[
    // Memory.
    (libc::SYS_munmap, "the allocator, stacks, windows onto files"),
    (libc::SYS_mremap, "the allocator"),
    (libc::SYS_madvise, "the allocator, ended stacks, freed application memory"),
    (libc::SYS_brk, "the allocator"),
    (libc::SYS_mincore, "which pages of the memory file exist"),
    (libc::SYS_msync, "msync of the application"),
    (libc::SYS_membarrier, "membarrier of the application"),
    (libc::SYS_memfd_create, "memory of the sentry; nothing can execute it"),
    (libc::SYS_fallocate, "freeing and reserving pages of the memory file and of donated files"),
    (libc::SYS_ftruncate, "the memory file, donated files"),
    // Donated descriptors, standard streams, the connections to gofer and runtime.
    (libc::SYS_read, "donated files, standard streams, event counters"),
    (libc::SYS_write, "donated files, standard streams, the log"),
    (libc::SYS_readv, "the same, into application memory"),
    (libc::SYS_writev, "the same, from application memory"),
    (libc::SYS_pread64, "donated files"),
    (libc::SYS_pwrite64, "donated files"),
    (libc::SYS_preadv, "donated files, into application memory"),
    (libc::SYS_pwritev, "donated files, from application memory"),
    (libc::SYS_preadv2, "donated files, with flags"),
    (libc::SYS_pwritev2, "donated files, with flags"),
    (libc::SYS_lseek, "SEEK_DATA and SEEK_HOLE of donated files"),
    (libc::SYS_fstat, "attributes of donated files"),
    (libc::SYS_fstatfs, "the file system of a donated file"),
    (libc::SYS_fsync, "fsync of the application"),
    (libc::SYS_fdatasync, "fdatasync of the application"),
    (libc::SYS_sync_file_range, "sync_file_range of the application"),
    (libc::SYS_copy_file_range, "copies between donated files"),
    (libc::SYS_fadvise64, "hints for donated files"),
    (libc::SYS_close, "descriptors"),
    (libc::SYS_dup, "descriptors"),
    (libc::SYS_pipe2, "wake-ups between threads"),
    (libc::SYS_eventfd2, "wake-ups between threads"),
    (libc::SYS_recvmsg, "messages with descriptors from the gofer"),
    (libc::SYS_sendmsg, "messages to gofer and runtime"),
    (libc::SYS_recvfrom, "messages from gofer and runtime, donated sockets"),
    (libc::SYS_sendto, "messages to gofer and runtime, donated sockets"),
    (libc::SYS_recvmmsg, "frames of the container's interfaces, many for each call: packet sockets that the runtime opened"),
    (libc::SYS_shutdown, "donated sockets"),
    (libc::SYS_accept4, "donated listening sockets"),
    (libc::SYS_listen, "sockets that the gofer has bound"),
    (libc::SYS_getsockopt, "errors of donated sockets"),
    (libc::SYS_getsockname, "donated sockets"),
    (libc::SYS_getpeername, "donated sockets"),
    // Waiting.
    (libc::SYS_poll, "donated descriptors"),
    (libc::SYS_ppoll, "donated descriptors"),
    (libc::SYS_epoll_create1, "readiness of donated descriptors"),
    (libc::SYS_epoll_ctl, "readiness of donated descriptors"),
    (libc::SYS_epoll_wait, "readiness of donated descriptors"),
    (libc::SYS_epoll_pwait, "readiness of donated descriptors"),
    (libc::SYS_futex, "locks and parked threads"),
    (libc::SYS_sched_yield, "contended locks"),
    (libc::SYS_nanosleep, "timers"),
    (libc::SYS_clock_nanosleep, "timers"),
    (libc::SYS_restart_syscall, "a wait that a stop has interrupted"),
    // Time and place.
    (libc::SYS_clock_gettime, "clocks, where the vDSO has none"),
    (libc::SYS_clock_getres, "clocks"),
    (libc::SYS_gettimeofday, "clocks"),
    (libc::SYS_getrandom, "random numbers"),
    (libc::SYS_sysinfo, "how much memory the host has"),
    (libc::SYS_getrusage, "processor time used"),
    (libc::SYS_times, "processor time used"),
    (libc::SYS_getcpu, "placement of threads"),
    (libc::SYS_sched_getaffinity, "how many processors there are"),
    (libc::SYS_sched_setaffinity, "keeping a thread and its stub on one processor"),
    (libc::SYS_getpid, "signals between threads"),
    (libc::SYS_gettid, "signals between threads"),
    // Threads and signals of the sentry.
    (libc::SYS_set_robust_list, "a new thread's C library"),
    (libc::SYS_rseq, "a new thread's C library"),
    (libc::SYS_exit, "the end of a thread"),
    (libc::SYS_exit_group, "the end of the sentry"),
    (libc::SYS_rt_sigaction, "handlers for faults of copies"),
    (libc::SYS_rt_sigprocmask, "the masks of new threads"),
    (libc::SYS_rt_sigreturn, "the way back from a handler"),
    (libc::SYS_rt_sigtimedwait, "signals taken as messages"),
    (libc::SYS_sigaltstack, "a new thread's signal stack"),
    (libc::SYS_tgkill, "waking a thread of the sentry, or of a stub; this PID namespace has no other processes"),
    (libc::SYS_kill, "ending a stub; this PID namespace has no other processes"),
];

/// `clone` as the C library makes threads with it. Without any of these flags it would make a process.
const THREAD: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID) as u64;

/// `PR_GET_AUXV` of prctl(2).
const PR_GET_AUXV: u64 = 0x4155_5856;

/// Calls that are allowed with these arguments only, and why. Several rows of one call are alternatives.
const CHECKED: &[(i64, &[Check], &str)] = &[
    (libc::SYS_mmap, &[Check::Lacks(2, libc::PROT_EXEC as u64)], "memory; never to be executed"),
    (libc::SYS_mprotect, &[Check::Lacks(2, libc::PROT_EXEC as u64)], "guard pages; never to be executed"),
    (libc::SYS_clone, &[Check::Is(0, THREAD)], "a new thread: exactly the C library's flags"),
    (libc::SYS_newfstatat, &[Check::Has(3, libc::AT_EMPTY_PATH as u64)], "fstat of the C library: an open file"),
    (libc::SYS_statx, &[Check::Has(2, libc::AT_EMPTY_PATH as u64)], "attributes of an open file"),
    (libc::SYS_prlimit64, &[Check::Is(0, 0), Check::Lacks(2, u64::MAX)], "getrlimit of the C library, for stacks"),
    (libc::SYS_prctl, &[Check::Is(0, libc::PR_SET_NAME as u64)], "names of threads"),
    (libc::SYS_prctl, &[Check::Is(0, libc::PR_SET_VMA as u64)], "names of memory, by the C library"),
    (libc::SYS_prctl, &[Check::Is(0, PR_GET_AUXV)], "the page size, for a library that asks late"),
    (libc::SYS_ioctl, &[Check::Is(1, libc::FIONREAD)], "how much there is to read"),
    (libc::SYS_ioctl, &[Check::Is(1, libc::FIONBIO)], "non-blocking donated sockets"),
    (libc::SYS_ioctl, &[Check::Is(1, libc::TCGETS)], "whether a standard stream is a terminal, and how it is set"),
    (libc::SYS_ioctl, &[Check::Is(1, libc::TIOCGWINSZ)], "the host terminal's size"),
    (libc::SYS_ioctl, &[Check::Is(1, libc::TIOCSWINSZ)], "a standard stream that is the user's terminal"),
    (libc::SYS_ioctl, &[Check::Is(1, libc::TCSETS)], "the same: stty of the application"),
    (libc::SYS_ioctl, &[Check::Is(1, libc::TCSETSW)], "the same"),
    (libc::SYS_ioctl, &[Check::Is(1, libc::TCSETSF)], "the same"),
    (libc::SYS_ioctl, &[Check::Is(1, libc::SIOCGIFMTU)], "an interface that takes shorter frames than it did"),
    (libc::SYS_fcntl, &[Check::Is(1, libc::F_DUPFD_CLOEXEC as u64)], "descriptors"),
    (libc::SYS_fcntl, &[Check::Is(1, libc::F_GETFD as u64)], "descriptors"),
    (libc::SYS_fcntl, &[Check::Is(1, libc::F_SETFD as u64)], "descriptors"),
    (libc::SYS_fcntl, &[Check::Is(1, libc::F_GETFL as u64)], "access mode of a standard stream"),
    (libc::SYS_fcntl, &[Check::Is(1, libc::F_SETFL as u64)], "non-blocking donated descriptors"),
];

/// What the platforms need besides.
fn of_platform(platform: Platform) -> &'static [(i64, &'static str)] {
    match platform {
        Platform::Ptrace => platform::ptrace::HOST_CALLS,
        Platform::Trap | Platform::TrapFutex | Platform::TrapTurns => platform::trap::HOST_CALLS,
        Platform::Auto | Platform::Kvm => &[],
    }
}

/// The requests of ioctl(2) that the platforms need besides.
fn requests_of_platform(platform: Platform) -> &'static [(u64, &'static str)] {
    match platform {
        Platform::Trap | Platform::TrapFutex | Platform::TrapTurns => platform::trap::HOST_IOCTLS,
        Platform::Auto | Platform::Ptrace | Platform::Kvm => &[],
    }
}

/// Calls that the C library makes and can do without: they fail with this errno, instead of ending the sentry.
const REFUSED: &[(i64, i32, &str)] = &[
    (libc::SYS_clone3, libc::ENOSYS, "the C library then uses clone, whose flags can be checked"),
    (libc::SYS_openat, libc::ENOENT, "the allocator looks for settings in /proc and /sys: there are none in an empty root"),
];

/// Calls that `--network=host` needs besides, with any arguments. The only sockets that are not connected already are those that [`host_network`]
/// lets be made: of the internet's families.
const HOST_NETWORK: &[(i64, &str)] = &[(libc::SYS_bind, "bind of the application"), (libc::SYS_connect, "connect of the application")];

/// What else `--network=host` needs: sockets of exactly these kinds, these options and no others, and the ioctls of sockets.
fn host_network(rules: &mut BTreeMap<i64, Vec<SeccompRule>>) -> Result<(), Error> {
    use net::passthrough::{IOCTLS, OPTIONS, SOCKETS};
    let mut allow = |call: i64, checks: &[Check]| -> Result<(), Error> {
        let conditions = checks.iter().map(Check::condition).collect::<Result<_, _>>()?;
        rules.entry(call).or_default().push(SeccompRule::new(conditions)?);
        Ok(())
    };
    for &(domain, kind, protocol) in SOCKETS {
        let kind = kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        allow(libc::SYS_socket, &[Check::Is(0, domain as u64), Check::Is(1, kind as u64), Check::Is(2, protocol as u64)])?;
    }
    for &(level, names) in OPTIONS {
        for &name in names {
            allow(libc::SYS_setsockopt, &[Check::Is(1, level as u64), Check::Is(2, name as u64)])?;
        }
    }
    for &request in IOCTLS.iter().filter(|r| **r != libc::FIONREAD) {
        allow(libc::SYS_ioctl, &[Check::Is(1, request)])?;
    }
    for (call, _) in HOST_NETWORK {
        rules.insert(*call, Vec::new());
    }
    Ok(())
}

/// Puts the filter in force for every thread of this process, for ever. `host`: the application uses the host's network.
pub fn install(platform: Platform, host: bool) -> Result<(), Error> {
    Ok(apply_filter_all_threads(&program(platform, host)?)?)
}

fn program(platform: Platform, host: bool) -> Result<BpfProgram, Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    if host {
        host_network(&mut rules)?;
    }
    for (call, checks, _) in CHECKED {
        let conditions = checks.iter().map(Check::condition).collect::<Result<_, _>>()?;
        rules.entry(*call).or_default().push(SeccompRule::new(conditions)?);
    }
    for (request, _) in requests_of_platform(platform) {
        let condition = Check::Is(1, *request).condition()?;
        rules.entry(libc::SYS_ioctl).or_default().push(SeccompRule::new(vec![condition])?);
    }
    for (call, _) in ALWAYS.iter().chain(of_platform(platform)) {
        rules.insert(*call, Vec::new());
    }
    let allowed: BpfProgram = SeccompFilter::new(rules, SeccompAction::Trap, SeccompAction::Allow, TargetArch::x86_64)?.try_into()?;
    Ok(refusals().chain(allowed).collect())
}

/// Instructions that answer [`REFUSED`], to stand before a whole filter: a filter as the crate makes it has only one answer to
/// what it does not allow.
fn refusals() -> impl Iterator<Item = sock_filter> {
    // The number is the first field of struct seccomp_data.
    let load = sock_filter { code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, jt: 0, jf: 0, k: 0 };
    let answers = REFUSED.iter().flat_map(|&(call, errno, _)| {
        let code = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        let answer = libc::SECCOMP_RET_ERRNO | errno.unsigned_abs();
        [
            // If it is not this call, over the next instruction.
            sock_filter { code, jt: 0, jf: 1, k: call as u32 },
            sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: answer },
        ]
    });
    std::iter::once(load).chain(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_compiles() {
        for host in [false, true] {
            assert!(program(Platform::Ptrace, host).unwrap().len() < 4096);
            assert!(program(Platform::Trap, host).unwrap().len() < 4096);
        }
    }

    #[test]
    fn the_trap_platform_may_answer_its_notifications() {
        let trap = program(Platform::Trap, false).unwrap();
        for (request, _) in requests_of_platform(Platform::Trap) {
            assert!(trap.iter().any(|i| u64::from(i.k) == *request), "{request:#x}");
        }
    }

    #[test]
    fn what_must_never_be_allowed_is_not() {
        let never = [
            libc::SYS_open,
            libc::SYS_openat,
            libc::SYS_openat2,
            libc::SYS_open_by_handle_at,
            libc::SYS_creat,
            libc::SYS_socket,
            libc::SYS_socketpair,
            libc::SYS_bind,
            libc::SYS_connect,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_fork,
            libc::SYS_vfork,
            libc::SYS_mount,
            libc::SYS_setns,
            libc::SYS_unshare,
            libc::SYS_bpf,
            libc::SYS_io_uring_setup,
            libc::SYS_process_vm_writev,
            libc::SYS_pidfd_getfd,
        ];
        let checked = CHECKED.iter().map(|(call, ..)| *call);
        let always = ALWAYS.iter().chain(of_platform(Platform::Ptrace)).chain(of_platform(Platform::Trap)).map(|(call, _)| *call);
        for call in always.chain(checked) {
            assert!(!never.contains(&call), "{call}");
        }
    }

    #[test]
    fn no_call_is_in_two_lists() {
        for call in CHECKED.iter().map(|(call, ..)| call).chain(REFUSED.iter().map(|(call, ..)| call)) {
            assert!(!ALWAYS.iter().any(|(other, _)| other == call), "{call}");
        }
    }
}
