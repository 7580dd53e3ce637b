//! Processes: making, waiting for, ending them; groups, sessions, identities, limits, prctl, pidfds.

use crate::sys::*;
use crate::{check, eq, err, list, ok, say, sys};

pub const TESTS: &[crate::Test] = list!["process";
    exit_codes, exit_signals, wait4_options, waitid_options, waitid_fields, wait_errors, wait_rusage, wait_max_rss, wait_blocks, wait_pgid, wait_no_child_ignored, wait_wall_clone,
    wait_nowait, orphan_reparent, subreaper, zombie_visible, exit_group_threads, groups, sessions, setpgid_errors, orphaned_group, setuid_calls, setreuid_rules,
    setgroups_calls, caps_calls, caps_dropped_by_setuid, fsuid, rlimits, rlimit_nproc, prlimit_calls, prctl_calls, pdeathsig, pidfd_calls, pidfd_send, pidfd_getfd_call,
    clone_flags, clone_args, clone3_calls, clone_parent, clone_vm, clone_settid, vfork_blocks, many_children, deep_forks, fork_fds, uname_call,
    sysinfo_call, times_call, getrusage_call, personality_call, getcpu_call, kill_permissions, unshare_calls, sethostname_calls, child_after_exec, pid_wrap_order,
    process_tree_500, fork_in_loop,
];

fn exit_codes() {
    for code in [0, 1, 42, 255, 256, 257, -1] {
        let child = fork(|| unsafe { _exit(code) });
        say!("{code}: {}", show_status(wait(child)));
    }
    let child = fork(|| {
        let _ = sys!(exit, 7);
    });
    say!("{}", show_status(wait(child)));
}

fn exit_signals() {
    for s in [SIGTERM, SIGKILL, SIGSEGV, SIGHUP, SIGUSR1, SIGALRM, SIGPIPE, 34, 64] {
        let child = fork(|| {
            let lim = rlimit { rlim_cur: 0, rlim_max: 0 };
            ok!(sys!(setrlimit, RLIMIT_CORE, p(&lim)));
            let _ = sys!(kill, getpid(), s);
            ms(5000);
        });
        say!("{s}: {:#x}", wait(child));
    }
    for s in [SIGCHLD, SIGURG, SIGWINCH, SIGCONT] {
        let child = fork(|| {
            ok!(sys!(kill, getpid(), s));
        });
        say!("{s}: {}", show_status(wait(child)));
    }
}

fn wait4_options() {
    let (r, w) = pipe(0);
    let child = fork(|| {
        ok!(read(r, 1));
        ok!(sys!(kill, getpid(), SIGSTOP));
        ok!(read(r, 1));
        unsafe { _exit(5) };
    });
    let mut st = 0;
    eq!(ok!(sys!(wait4, -1, m(&mut st), WNOHANG, 0)), 0);
    ok!(write(w, b"x"));
    eq!(ok!(sys!(wait4, child, m(&mut st), WUNTRACED, 0)), i64::from(child));
    say!("{}", show_status(st));
    eq!(ok!(sys!(wait4, child, m(&mut st), WUNTRACED | WNOHANG, 0)), 0);
    ok!(sys!(kill, child, SIGCONT));
    eq!(ok!(sys!(wait4, child, m(&mut st), WCONTINUED, 0)), i64::from(child));
    say!("{}", show_status(st));
    eq!(ok!(sys!(wait4, child, m(&mut st), WCONTINUED | WNOHANG, 0)), 0);
    ok!(write(w, b"x"));
    eq!(ok!(sys!(wait4, -1, m(&mut st), 0, 0)), i64::from(child));
    say!("{}", show_status(st));
    err!(sys!(wait4, -1, m(&mut st), 0, 0), ECHILD);
}

fn info() -> siginfo_t {
    unsafe { std::mem::zeroed() }
}

fn show_info(i: &siginfo_t, child: i32) {
    let (pid, uid, status) = unsafe { (i.si_pid(), i.si_uid(), i.si_status()) };
    say!("signo {} code {} pid {} uid {uid} status {status}", i.si_signo, i.si_code, pid == child);
}

fn waitid_options() {
    let (r, w) = pipe(0);
    let child = fork(|| {
        ok!(sys!(kill, getpid(), SIGSTOP));
        // a zombie has not been continued any more
        ok!(read(r, 1));
        unsafe { _exit(9) };
    });
    let mut i = info();
    ok!(sys!(waitid, P_PID, child, m(&mut i), WSTOPPED, 0));
    show_info(&i, child);
    i = info();
    ok!(sys!(waitid, P_PID, child, m(&mut i), WEXITED | WNOHANG, 0));
    eq!(i.si_signo, 0);
    ok!(sys!(kill, child, SIGCONT));
    ok!(sys!(waitid, P_PID, child, m(&mut i), WCONTINUED, 0));
    show_info(&i, child);
    ok!(write(w, b"x"));
    ok!(sys!(waitid, P_ALL, 0, m(&mut i), WEXITED | WNOWAIT, 0));
    show_info(&i, child);
    ok!(sys!(waitid, P_ALL, 0, m(&mut i), WEXITED, 0));
    show_info(&i, child);
    err!(sys!(waitid, P_ALL, 0, m(&mut i), WEXITED, 0), ECHILD);
}

fn waitid_fields() {
    for f in [
        || unsafe { _exit(3) },
        || {
            let _ = sys!(kill, getpid(), SIGKILL);
        },
        || {
            let _ = sys!(kill, getpid(), SIGUSR2);
        },
    ] {
        let child = fork(f);
        let mut i = info();
        ok!(sys!(waitid, P_PID, child, m(&mut i), WEXITED, 0));
        show_info(&i, child);
    }
    let child = fork(|| {
        ok!(sys!(setresuid, 1000, 1000, 1000));
    });
    let mut i = info();
    ok!(sys!(waitid, P_PID, child, m(&mut i), WEXITED, 0));
    show_info(&i, child);
}

fn wait_errors() {
    let mut st = 0;
    err!(sys!(wait4, -1, m(&mut st), 0, 0), ECHILD);
    err!(sys!(wait4, 1, m(&mut st), 0, 0), ECHILD);
    err!(sys!(wait4, -1, m(&mut st), 0x100, 0), EINVAL);
    err!(sys!(wait4, i32::MIN, m(&mut st), 0, 0), ESRCH);
    let mut i = info();
    err!(sys!(waitid, P_ALL, 0, m(&mut i), 0, 0), EINVAL);
    err!(sys!(waitid, P_ALL, 0, m(&mut i), WNOHANG, 0), EINVAL);
    err!(sys!(waitid, 9, 0, m(&mut i), WEXITED, 0), EINVAL);
    err!(sys!(waitid, P_PID, 0, m(&mut i), WEXITED, 0), EINVAL);
    err!(sys!(waitid, P_PIDFD, 99, m(&mut i), WEXITED, 0), EBADF);
    err!(sys!(waitid, P_PIDFD, 0, m(&mut i), WEXITED, 0), EBADF);
    let child = fork(|| ());
    until("zombie", || state(child) == 'Z');
    err!(sys!(wait4, child, 8, 0, 0), EFAULT);
    // the child was reaped all the same
    err!(sys!(wait4, child, m(&mut st), 0, 0), ECHILD);
}

fn wait_max_rss() {
    const LEN: usize = 24 << 20;
    let pid = fork(|| {
        let at = ok!(sys!(mmap, 0, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) as *mut u8;
        for i in (0..LEN).step_by(4096) {
            unsafe { at.add(i).write_volatile(1) };
        }
    });
    let mut ru = unsafe { std::mem::zeroed::<rusage>() };
    eq!(ok!(sys!(wait4, pid, 0, 0, m(&mut ru))), pid as i64);
    let kib = (LEN >> 10) as i64;
    check!((kib..3 * kib).contains(&ru.ru_maxrss));
    ok!(sys!(getrusage, RUSAGE_CHILDREN, m(&mut ru)));
    check!((kib..3 * kib).contains(&ru.ru_maxrss));
    // The largest of all, not the sum.
    let pid = fork(|| unsafe { libc::_exit(0) });
    ok!(sys!(wait4, pid, 0, 0, m(&mut ru)));
    check!(ru.ru_maxrss > 0 && ru.ru_maxrss < kib);
    ok!(sys!(getrusage, RUSAGE_CHILDREN, m(&mut ru)));
    check!((kib..3 * kib).contains(&ru.ru_maxrss));
}

fn wait_rusage() {
    let child = fork(|| {
        let t = now(CLOCK_MONOTONIC);
        let mut x = 0u64;
        while now(CLOCK_MONOTONIC) - t < 0.1 {
            for i in 0..10_000u64 {
                x = std::hint::black_box(x.wrapping_add(i));
            }
        }
    });
    let mut ru = unsafe { std::mem::zeroed::<rusage>() };
    let mut st = 0;
    ok!(sys!(wait4, child, m(&mut st), 0, m(&mut ru)));
    let used = ru.ru_utime.tv_sec * 1000 + ru.ru_utime.tv_usec / 1000 + ru.ru_stime.tv_sec * 1000 + ru.ru_stime.tv_usec / 1000;
    check!(used > 10);
    let mut own = unsafe { std::mem::zeroed::<rusage>() };
    ok!(sys!(getrusage, RUSAGE_CHILDREN, m(&mut own)));
    check!(own.ru_utime.tv_usec + own.ru_stime.tv_usec + own.ru_utime.tv_sec > 0);
}

fn wait_blocks() {
    let child = fork(|| ms(50));
    let t = now(CLOCK_MONOTONIC);
    eq!(wait(child), 0);
    check!(now(CLOCK_MONOTONIC) - t > 0.02);
    // a thread may wait for a child of another thread, unless __WNOTHREAD
    let child = fork(|| ms(30));
    for t in threads(1, move |_| {
        let mut st = 0;
        err!(sys!(wait4, child, m(&mut st), 0x2000_0000, 0), ECHILD);
        eq!(wait(child), 0);
    }) {
        t.join().unwrap();
    }
}

fn wait_pgid() {
    let a = fork(|| {
        ok!(sys!(setpgid, 0, 0));
        ms(20);
        unsafe { _exit(1) };
    });
    let _ = sys!(setpgid, a, a);
    let b = fork(|| unsafe { _exit(2) });
    let mut st = 0;
    eq!(ok!(sys!(wait4, -a, m(&mut st), 0, 0)), i64::from(a));
    eq!(ok!(sys!(wait4, 0, m(&mut st), 0, 0)), i64::from(b));
    err!(sys!(wait4, -a, m(&mut st), 0, 0), ECHILD);
}

fn wait_no_child_ignored() {
    action(SIGCHLD, SIG_IGN);
    let child = fork(|| unsafe { _exit(3) });
    let mut st = 0;
    err!(sys!(wait4, child, m(&mut st), 0, 0), ECHILD);
    action(SIGCHLD, SIG_DFL);
    let mut sa = unsafe { std::mem::zeroed::<sigaction>() };
    sa.sa_flags = SA_NOCLDWAIT;
    unsafe { sigaction(SIGCHLD, &sa, std::ptr::null_mut()) };
    let child = fork(|| unsafe { _exit(3) });
    err!(sys!(wait4, child, m(&mut st), 0, 0), ECHILD);
}

fn wait_wall_clone() {
    // a child whose exit signal is not SIGCHLD is waited for with __WCLONE or __WALL only
    let child = ok!(sys!(clone, 0, 0, 0, 0, 0)) as i32;
    if child == 0 {
        unsafe { _exit(4) };
    }
    let mut st = 0;
    err!(sys!(wait4, child, m(&mut st), 0, 0), ECHILD);
    eq!(ok!(sys!(wait4, child, m(&mut st), 0x8000_0000u32, 0)), i64::from(child));
    let child = ok!(sys!(clone, 0, 0, 0, 0, 0)) as i32;
    if child == 0 {
        unsafe { _exit(5) };
    }
    eq!(ok!(sys!(wait4, child, m(&mut st), 0x4000_0000, 0)), i64::from(child));
    say!("{}", show_status(st));
}

fn wait_nowait() {
    let child = fork(|| unsafe { _exit(6) });
    for _ in 0..3 {
        let mut i = info();
        ok!(sys!(waitid, P_PID, child, m(&mut i), WEXITED | WNOWAIT, 0));
        show_info(&i, child);
    }
    eq!(state(child), 'Z');
    say!("{}", show_status(wait(child)));
}

fn orphan_reparent() {
    let (r, w) = pipe(0);
    let child = fork(|| {
        fork(|| {
            let parent = getppid();
            until("a new parent", || getppid() != parent);
            ok!(write(w, format!("{}", getppid()).as_bytes()));
        });
        ms(20);
    });
    eq!(wait(child), 0);
    say!("{}", String::from_utf8_lossy(&ok!(read(r, 9))));
}

fn getppid() -> i32 {
    ok!(sys!(getppid)) as i32
}

fn subreaper() {
    ok!(sys!(prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
    let mut v = 0i32;
    ok!(sys!(prctl, PR_GET_CHILD_SUBREAPER, m(&mut v), 0, 0, 0));
    eq!(v, 1);
    let me = getpid();
    let (r, w) = pipe(0);
    let child = fork(|| {
        let grandchild = fork(|| {
            until("the subreaper", || getppid() == me);
            unsafe { _exit(11) };
        });
        ok!(write(w, &grandchild.to_le_bytes()));
    });
    let grandchild = i32::from_le_bytes(ok!(read(r, 4)).try_into().unwrap());
    eq!(wait(child), 0);
    say!("{}", show_status(wait(grandchild)));
}

fn zombie_visible() {
    let child = fork(|| unsafe { _exit(2) });
    until("zombie", || state(child) == 'Z');
    ok!(sys!(kill, child, 0));
    ok!(sys!(kill, child, SIGKILL));
    eq!(get(&format!("/proc/{child}/cmdline")), b"");
    eq!(ok!(sys!(getpgid, child)), ok!(sys!(getpgid, 0)));
    say!("{}", show_status(wait(child)));
    err!(sys!(kill, child, 0), ESRCH);
    eq!(state(child), '?');
}

fn exit_group_threads() {
    let child = fork(|| {
        threads(5, |_| ms(60_000));
        std::thread::spawn(|| unsafe {
            libc::syscall(SYS_exit_group, 33);
        });
        ms(60_000);
    });
    say!("{}", show_status(wait(child)));
    // the leader's exit alone does not end the process
    let (r, w) = pipe(0);
    let child = fork(|| {
        std::thread::spawn(move || {
            ms(50);
            ok!(write(w, b"still here"));
            unsafe { _exit(44) };
        });
        let _ = sys!(exit, 0);
    });
    eq!(ok!(read(r, 20)), b"still here");
    say!("{}", show_status(wait(child)));
    // and the last thread's exit decides where no exit_group is called
    let child = fork(|| {
        std::thread::spawn(|| {
            ms(20);
            let _ = sys!(exit, 9);
        });
        let _ = sys!(exit, 3);
    });
    say!("{}", show_status(wait(child)));
}

fn groups() {
    let me = getpid();
    say!("leader {}", ok!(sys!(getpgrp)) == i64::from(me));
    in_child(|| {
        eq!(ok!(sys!(getpgid, 0)), ok!(sys!(getpgid, me)));
        ok!(sys!(setpgid, 0, 0));
        eq!(ok!(sys!(getpgrp)), i64::from(getpid()));
        // group signals reach its members alone
        let other = fork(|| ms(60_000));
        ok!(sys!(kill, 0, 0));
        action(SIGTERM, SIG_IGN);
        ok!(sys!(kill, -getpid(), SIGTERM));
        say!("{}", show_status(wait(other)));
    });
    err!(sys!(kill, -99999, 0), ESRCH);
}

fn sessions() {
    in_child(|| {
        let sid = ok!(sys!(setsid));
        eq!((sid, ok!(sys!(getsid, 0)), ok!(sys!(getpgrp))), (i64::from(getpid()), sid, sid));
        err!(sys!(setsid), EPERM);
        in_child(|| {
            eq!(ok!(sys!(getsid, 0)), sid);
            ok!(sys!(setpgid, 0, 0));
            err!(sys!(setsid), EPERM);
        });
        let other = fork(|| {
            ok!(sys!(setsid));
            ms(60_000);
        });
        until("the other session", || ok!(sys!(getsid, other)) == i64::from(other));
        err!(sys!(setpgid, other, other), EPERM);
        ok!(sys!(kill, other, SIGKILL));
        wait(other);
    });
    err!(sys!(getsid, 99999), ESRCH);
    err!(sys!(getsid, -1), ESRCH);
    in_child(|| {
        ok!(sys!(setsid));
        err!(sys!(setpgid, 0, 0), EPERM);
    });
}

fn setpgid_errors() {
    err!(sys!(setpgid, 0, -1), EINVAL);
    err!(sys!(setpgid, -1, 0), EINVAL);
    err!(sys!(setpgid, 1, 1), ESRCH);
    err!(sys!(setpgid, 99999, 0), ESRCH);
    let child = fork(|| {
        exec_sleep();
    });
    until("it has executed", || get(&format!("/proc/{child}/cmdline")).windows(6).any(|w| w == b"@sleep"));
    err!(sys!(setpgid, child, child), EACCES);
    ok!(sys!(kill, child, SIGKILL));
    wait(child);
    in_child(|| err!(sys!(setpgid, 0, 99999), EPERM));
    err!(sys!(getpgid, 99999), ESRCH);
    err!(sys!(getpgid, -1), ESRCH);
}

fn exec_sleep() -> E {
    super::exec::exec(c"/proc/self/exe", &["guest", "@sleep"], &[])
}

fn orphaned_group() {
    // a stopped group that becomes orphaned gets SIGHUP and SIGCONT
    let (r, w) = pipe(0);
    let child = fork(|| {
        // a session of its own: init, who inherits the grandchild, must be outside of it
        ok!(sys!(setsid));
        let grandchild = fork(|| {
            ok!(sys!(setpgid, 0, 0));
            ok!(sys!(kill, getpid(), SIGSTOP));
            ms(60_000);
        });
        until("stopped", || state(grandchild) == 'T');
        ok!(write(w, &grandchild.to_le_bytes()));
    });
    let grandchild = i32::from_le_bytes(ok!(read(r, 4)).try_into().unwrap());
    eq!(wait(child), 0);
    until("hung up", || matches!(state(grandchild), 'Z' | '?'));
    // the default action of SIGTSTP does nothing in an orphaned group
    let child = fork(|| {
        ok!(sys!(setsid));
        ok!(sys!(kill, getpid(), SIGTSTP));
        ok!(sys!(kill, getpid(), SIGTTIN));
        say!("not stopped");
    });
    eq!(wait(child), 0);
}

fn ids() -> [u32; 6] {
    let mut v = [0u32; 6];
    ok!(sys!(getresuid, m(&mut v[0]), m(&mut v[1]), m(&mut v[2])));
    ok!(sys!(getresgid, m(&mut v[3]), m(&mut v[4]), m(&mut v[5])));
    v
}

fn setuid_calls() {
    in_child(|| {
        ok!(sys!(setgid, 100));
        ok!(sys!(setuid, 1000));
        eq!(ids(), [1000, 1000, 1000, 100, 100, 100]);
        err!(sys!(setuid, 0), EPERM);
        err!(sys!(setgid, 0), EPERM);
        ok!(sys!(setuid, 1000));
        err!(sys!(setresuid, 1001, -1, -1), EPERM);
        ok!(sys!(setresuid, -1, -1, -1));
        eq!((ok!(sys!(getuid)), ok!(sys!(geteuid)), ok!(sys!(getgid)), ok!(sys!(getegid))), (1000, 1000, 100, 100));
    });
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1000, 0));
        err!(open(c"/proc/1/environ", O_RDONLY), EACCES);
        ok!(sys!(setresuid, -1, 0, -1));
        eq!(ids()[..3], [1000, 0, 0]);
        ok!(sys!(setuid, 5));
        eq!(ids()[..3], [5, 5, 5]);
    });
    err!(sys!(setuid, -1), EINVAL);
    err!(sys!(setgid, -1), EINVAL);
}

fn setreuid_rules() {
    in_child(|| {
        ok!(sys!(setreuid, 1000, 2000));
        eq!(ids()[..3], [1000, 2000, 2000]);
        ok!(sys!(setreuid, 2000, 1000));
        eq!(ids()[..3], [2000, 1000, 1000]);
        ok!(sys!(setreuid, -1, 2000));
        eq!(ids()[..3], [2000, 2000, 1000]);
        err!(sys!(setreuid, 1000, -1), EPERM);
        ok!(sys!(setuid, 1000));
        eq!(ids()[..3], [2000, 1000, 1000]);
    });
    in_child(|| {
        ok!(sys!(setregid, 10, 20));
        eq!(ids()[3..], [10, 20, 20]);
        ok!(sys!(setresgid, 1, 2, 3));
        ok!(sys!(setresuid, 9, 9, 9));
        err!(sys!(setresgid, 4, -1, -1), EPERM);
        ok!(sys!(setresgid, 3, 1, 2));
        eq!(ids()[3..], [3, 1, 2]);
    });
}

fn setgroups_calls() {
    in_child(|| {
        ok!(sys!(setgroups, 3, p(&[5u32, 3, 5])));
        let mut v = [0u32; 8];
        let n = ok!(sys!(getgroups, 8, m(&mut v)));
        say!("{:?}", &v[..n as usize]);
        eq!(ok!(sys!(getgroups, 0, 0)), n);
        err!(sys!(getgroups, 1, m(&mut v)), EINVAL);
        err!(sys!(getgroups, -1, m(&mut v)), EINVAL);
        err!(sys!(setgroups, 65537, p(&v)), EINVAL);
        err!(sys!(setgroups, 1, 8), EFAULT);
        ok!(sys!(setresuid, 1000, 1000, 1000));
        err!(sys!(setgroups, 0, 0), EPERM);
        let status = String::from_utf8(get("/proc/self/status")).unwrap();
        say!("{}", status.lines().find(|l| l.starts_with("Groups")).unwrap_or("none").trim_end());
    });
}

fn capget() -> [u32; 6] {
    let head = [0x2008_0522u32, 0];
    let mut data = [0u32; 6];
    ok!(sys!(capget, p(&head), m(&mut data)));
    data
}

fn caps_calls() {
    let mut head = [0u32, 0];
    let mut data = [0u32; 6];
    err!(sys!(capget, m(&mut head), m(&mut data)), EINVAL);
    eq!(head[0], 0x2008_0522);
    ok!(sys!(capget, m(&mut head), 0));
    head[1] = 99999;
    err!(sys!(capget, p(&head), m(&mut data)), ESRCH);
    let all = capget();
    check!(all[0] & 1 != 0 && all[0] & !all[1] == 0);
    in_child(|| {
        let head = [0x2008_0522u32, 0];
        let mut d = capget();
        // CAP_CHOWN given up for now, and then for good
        d[0] &= !1;
        ok!(sys!(capset, p(&head), p(&d)));
        put("a", b"");
        err!(sys!(chown, c"a", 5, 5), EPERM);
        d[0] |= 1;
        ok!(sys!(capset, p(&head), p(&d)));
        ok!(sys!(chown, c"a", 5, 5));
        d[0] &= !1;
        d[1] &= !1;
        ok!(sys!(capset, p(&head), p(&d)));
        d[1] |= 1;
        err!(sys!(capset, p(&head), p(&d)), EPERM);
        let mut e = capget();
        e[0] |= 1;
        err!(sys!(capset, p(&head), p(&e)), EPERM);
    });
    let head = [0x2008_0522u32, 1];
    err!(sys!(capset, p(&head), p(&all)), EPERM);
    err!(sys!(prctl, PR_CAPBSET_READ, 99, 0, 0, 0), EINVAL);
}

fn caps_dropped_by_setuid() {
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1000, 0));
        eq!(capget()[0], 0);
        check!(capget()[1] != 0);
        ok!(sys!(setresuid, -1, 0, -1));
        check!(capget()[0] == capget()[1]);
        ok!(sys!(setuid, 1000));
        eq!(capget()[..2], [0, 0]);
    });
    in_child(|| {
        ok!(sys!(prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0));
        ok!(sys!(setuid, 1000));
        eq!(capget()[0], 0);
        check!(capget()[1] != 0);
    });
    in_child(|| {
        // SECBIT_NO_SETUID_FIXUP
        ok!(sys!(prctl, PR_SET_SECUREBITS, 4, 0, 0, 0));
        eq!(ok!(sys!(prctl, PR_GET_SECUREBITS, 0, 0, 0, 0)), 4);
        ok!(sys!(setuid, 1000));
        check!(capget()[0] != 0);
    });
}

fn fsuid() {
    put("a", b"");
    ok!(sys!(chmod, c"a", 0o600));
    in_child(|| {
        eq!(ok!(sys!(setfsuid, 1000)), 0);
        eq!(ok!(sys!(setfsuid, -1)), 1000);
        err!(open(c"a", O_RDONLY), EACCES);
        eq!(ok!(sys!(setfsuid, 0)), 1000);
        ok!(open(c"a", O_RDONLY));
        eq!(ok!(sys!(setfsgid, 55)), 0);
        eq!(ok!(sys!(setfsgid, -1)), 55);
        put("b", b"");
        eq!(ok!(stat(c"b")).st_gid, 55);
    });
}

fn rlimits() {
    let mut r = unsafe { std::mem::zeroed::<rlimit>() };
    for n in 0..16 {
        ok!(sys!(getrlimit, n, m(&mut r)));
        check!(r.rlim_cur <= r.rlim_max);
    }
    err!(sys!(getrlimit, 16, m(&mut r)), EINVAL);
    err!(sys!(getrlimit, 0, 8), EFAULT);
    let bad = rlimit { rlim_cur: 5, rlim_max: 4 };
    err!(sys!(setrlimit, RLIMIT_CPU, p(&bad)), EINVAL);
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1000, 1000));
        let low = rlimit { rlim_cur: 10, rlim_max: 20 };
        ok!(sys!(setrlimit, RLIMIT_CORE, p(&low)));
        let up = rlimit { rlim_cur: 20, rlim_max: 20 };
        ok!(sys!(setrlimit, RLIMIT_CORE, p(&up)));
        let over = rlimit { rlim_cur: 20, rlim_max: 21 };
        err!(sys!(setrlimit, RLIMIT_CORE, p(&over)), EPERM);
        in_child(|| {
            let mut r = unsafe { std::mem::zeroed::<rlimit>() };
            ok!(sys!(getrlimit, RLIMIT_CORE, m(&mut r)));
            eq!((r.rlim_cur, r.rlim_max), (20, 20));
        });
    });
    let cpu = rlimit { rlim_cur: 1, rlim_max: 2 };
    let child = fork(|| {
        ok!(sys!(setrlimit, RLIMIT_CPU, p(&cpu)));
        loop {
            std::hint::spin_loop();
        }
    });
    say!("{}", show_status(wait(child)));
}

fn rlimit_nproc() {
    in_child(|| {
        ok!(sys!(setresgid, 4242, 4242, 4242));
        ok!(sys!(setresuid, 4242, 4242, 4242));
        let lim = rlimit { rlim_cur: 10, rlim_max: 10 };
        ok!(sys!(setrlimit, RLIMIT_NPROC, p(&lim)));
        let mut kids = vec![];
        let e = loop {
            match sys!(clone, SIGCHLD, 0, 0, 0, 0) {
                Ok(0) => {
                    ms(30_000);
                    unsafe { _exit(0) };
                }
                Ok(pid) => kids.push(pid),
                Err(e) => break e,
            }
        };
        say!("{} {e:?}", kids.len());
        for k in &kids {
            ok!(sys!(kill, *k, SIGKILL));
            wait(*k as i32);
        }
        in_child(|| ());
    });
}

fn prlimit_calls() {
    let child = fork(|| ms(60_000));
    let new = [100u64, 200];
    let mut old = [0u64; 2];
    ok!(sys!(prlimit64, child, RLIMIT_CORE, p(&new), m(&mut old)));
    ok!(sys!(prlimit64, child, RLIMIT_CORE, 0, m(&mut old)));
    eq!(old, [100, 200]);
    let text = String::from_utf8(get(&format!("/proc/{child}/limits"))).unwrap();
    say!("{}", text.lines().find(|l| l.starts_with("Max core")).unwrap_or("none").trim_end());
    err!(sys!(prlimit64, 99999, RLIMIT_CORE, 0, m(&mut old)), ESRCH);
    err!(sys!(prlimit64, 0, 99, 0, m(&mut old)), EINVAL);
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1000, 1000));
        err!(sys!(prlimit64, child, RLIMIT_CORE, 0, m(&mut old)), EPERM);
    });
    ok!(sys!(kill, child, SIGKILL));
    wait(child);
}

fn prctl_calls() {
    err!(sys!(prctl, 9999, 0, 0, 0, 0), EINVAL);
    eq!(ok!(sys!(prctl, PR_GET_DUMPABLE, 0, 0, 0, 0)), 1);
    ok!(sys!(prctl, PR_SET_DUMPABLE, 0, 0, 0, 0));
    eq!(ok!(sys!(prctl, PR_GET_DUMPABLE, 0, 0, 0, 0)), 0);
    err!(sys!(prctl, PR_SET_DUMPABLE, 2, 0, 0, 0), EINVAL);
    let mut v = 0i32;
    ok!(sys!(prctl, PR_GET_PDEATHSIG, m(&mut v), 0, 0, 0));
    eq!(v, 0);
    err!(sys!(prctl, PR_SET_PDEATHSIG, 65, 0, 0, 0), EINVAL);
    eq!(ok!(sys!(prctl, PR_GET_KEEPCAPS, 0, 0, 0, 0)), 0);
    err!(sys!(prctl, PR_SET_KEEPCAPS, 2, 0, 0, 0), EINVAL);
    eq!(ok!(sys!(prctl, PR_GET_TIMERSLACK, 0, 0, 0, 0)), 50_000);
    ok!(sys!(prctl, PR_SET_TIMERSLACK, 1, 0, 0, 0));
    eq!(ok!(sys!(prctl, PR_GET_SECCOMP, 0, 0, 0, 0)), 0);
    let mut name = [1u8; 16];
    ok!(sys!(prctl, PR_SET_NAME, c"a name of more than sixteen bytes"));
    ok!(sys!(prctl, PR_GET_NAME, m(&mut name)));
    eq!(&name, b"a name of more \0");
    err!(sys!(prctl, PR_SET_NAME, 8), EFAULT);
    let mut base = 0u64;
    ok!(sys!(arch_prctl, 0x1003, m(&mut base)));
    check!(base != 0);
    err!(sys!(arch_prctl, 0x1002, -1i64), EPERM);
    err!(sys!(arch_prctl, 0x9999, 0), EINVAL);
}

fn pdeathsig() {
    let (r, w) = pipe(0);
    let child = fork(|| {
        fork(|| {
            ok!(sys!(prctl, PR_SET_PDEATHSIG, SIGUSR1, 0, 0, 0));
            mask(SIG_BLOCK, &[SIGUSR1]);
            ok!(write(w, b"ready"));
            let set = set(&[SIGUSR1]);
            let limit = ts(5000);
            say!("got {:?}", sys!(rt_sigtimedwait, p(&set), 0, p(&limit), 8));
            ok!(write(w, b"done"));
        });
        ms(100);
    });
    eq!(ok!(read(r, 5)), b"ready");
    wait(child);
    eq!(ok!(read(r, 5)), b"done");
}

fn pidfd_calls() {
    let child = fork(|| {
        ms(50);
        unsafe { _exit(7) };
    });
    let f = ok!(sys!(pidfd_open, child, 0)) as i32;
    eq!(ok!(sys!(fcntl, f, F_GETFD)), 1);
    let mut pf = pollfd { fd: f, events: POLLIN, revents: 0 };
    eq!(ok!(sys!(poll, m(&mut pf), 1, 0)), 0);
    eq!(ok!(sys!(poll, m(&mut pf), 1, 5000)), 1);
    eq!(pf.revents, POLLIN);
    let mut i = info();
    ok!(sys!(waitid, P_PIDFD, f, m(&mut i), WEXITED, 0));
    show_info(&i, child);
    err!(sys!(pidfd_send_signal, f, 0, 0, 0), ESRCH);
    err!(sys!(pidfd_open, 99999, 0), ESRCH);
    err!(sys!(pidfd_open, -1, 0), EINVAL);
    err!(sys!(pidfd_open, getpid(), 1 << 20), EINVAL);
    err!(read(f, 1), EINVAL);
    let me = ok!(sys!(pidfd_open, getpid(), 0)) as i32;
    let text = String::from_utf8(get(&format!("/proc/self/fdinfo/{me}"))).unwrap();
    say!("{}", text.lines().any(|l| l == format!("Pid:\t{}", getpid())));
}

fn pidfd_send() {
    let child = fork(|| ms(60_000));
    let f = ok!(sys!(pidfd_open, child, 0)) as i32;
    ok!(sys!(pidfd_send_signal, f, 0, 0, 0));
    err!(sys!(pidfd_send_signal, f, 99, 0, 0), EINVAL);
    err!(sys!(pidfd_send_signal, 0, 0, 0, 0), EBADF);
    ok!(sys!(pidfd_send_signal, f, SIGTERM, 0, 0));
    say!("{}", show_status(wait(child)));
    // a process's directory in proc is as good, for this call alone
    let child = fork(|| ms(60_000));
    let dir = ok!(open(&c(format!("/proc/{child}")), O_RDONLY | O_DIRECTORY));
    let named = ok!(open(&c(format!("/proc/{child}")), O_PATH));
    let thread = ok!(open(&c(format!("/proc/{child}/task/{child}")), O_RDONLY));
    let inside = ok!(open(&c(format!("/proc/{child}/fd")), O_RDONLY));
    err!(sys!(pidfd_send_signal, named, SIGTERM, 0, 0), EBADF);
    err!(sys!(pidfd_send_signal, thread, SIGTERM, 0, 0), EBADF);
    err!(sys!(pidfd_send_signal, inside, SIGTERM, 0, 0), EBADF);
    err!(sys!(pidfd_getfd, dir, 0, 0), EBADF);
    ok!(sys!(pidfd_send_signal, dir, SIGTERM, 0, 0));
    say!("{}", show_status(wait(child)));
    err!(sys!(pidfd_send_signal, dir, SIGTERM, 0, 0), ESRCH);
}

fn pidfd_getfd_call() {
    let (r, w) = pipe(0);
    let child = fork(|| {
        let f = ok!(sys!(dup2, w, 77));
        eq!(f, 77);
        close(w);
        ms(60_000);
    });
    close(w);
    let pf = ok!(sys!(pidfd_open, child, 0)) as i32;
    until("the child has it", || sys!(pidfd_getfd, pf, 77, 0).is_ok());
    let f = ok!(sys!(pidfd_getfd, pf, 77, 0)) as i32;
    ok!(write(f, b"x"));
    eq!(ok!(read(r, 1)), b"x");
    err!(sys!(pidfd_getfd, pf, 500, 0), EBADF);
    err!(sys!(pidfd_getfd, pf, 77, 1), EINVAL);
    ok!(sys!(kill, child, SIGKILL));
    wait(child);
}

fn clone_flags() {
    // CLONE_FILES and CLONE_FS are shared, without them they are copies
    let (f, _) = pipe(0);
    ok!(sys!(mkdir, c"d", 0o755));
    let child = ok!(sys!(clone, CLONE_FILES | CLONE_FS | SIGCHLD, 0, 0, 0, 0)) as i32;
    if child == 0 {
        close(f);
        ok!(sys!(chdir, c"d"));
        ok!(sys!(umask, 0o077));
        unsafe { _exit(0) };
    }
    eq!(wait(child), 0);
    err!(sys!(fcntl, f, F_GETFD), EBADF);
    check!(std::env::current_dir().unwrap().ends_with("d"));
    eq!(ok!(sys!(umask, 0o022)), 0o077);
    let (f, _) = pipe(0);
    in_child(|| {
        close(f);
        ok!(sys!(chdir, c"/"));
    });
    ok!(sys!(fcntl, f, F_GETFD));
    check!(std::env::current_dir().unwrap().ends_with("d"));
}

fn clone_args() {
    err!(sys!(clone, CLONE_THREAD | SIGCHLD, 0, 0, 0, 0), EINVAL);
    err!(sys!(clone, CLONE_SIGHAND | SIGCHLD, 0, 0, 0, 0), EINVAL);
    err!(sys!(clone, CLONE_THREAD | CLONE_SIGHAND, 0, 0, 0, 0), EINVAL);
    err!(sys!(clone, CLONE_FS | CLONE_NEWNS | SIGCHLD, 0, 0, 0, 0), EINVAL);
    let mut pidfd = -1i32;
    let child = ok!(sys!(clone, CLONE_PIDFD | SIGCHLD, 0, m(&mut pidfd), 0, 0)) as i32;
    if child == 0 {
        unsafe { _exit(0) };
    }
    check!(pidfd >= 0);
    let mut i = info();
    ok!(sys!(waitid, P_PIDFD, pidfd, m(&mut i), WEXITED, 0));
    err!(sys!(clone, CLONE_PIDFD | CLONE_PARENT_SETTID | SIGCHLD, 0, m(&mut pidfd), 0, 0), EINVAL);
}

fn clone3_calls() {
    let mut args = [0u64; 11];
    args[4] = SIGCHLD as u64;
    let child = ok!(sys!(clone3, p(&args), 88)) as i32;
    if child == 0 {
        unsafe { _exit(21) };
    }
    say!("{}", show_status(wait(child)));
    let child = ok!(sys!(clone3, p(&args), 64)) as i32;
    if child == 0 {
        unsafe { _exit(22) };
    }
    say!("{}", show_status(wait(child)));
    err!(sys!(clone3, p(&args), 63), EINVAL);
    err!(sys!(clone3, p(&args), 8), EINVAL);
    err!(sys!(clone3, 8, 88), EFAULT);
    let big = [0u64, 0, 0, 0, SIGCHLD as u64, 0, 0, 0, 0, 0, 0, 1];
    err!(sys!(clone3, p(&big), 96), E2BIG);
    let mut bad = args;
    bad[4] = 65;
    err!(sys!(clone3, p(&bad), 88), EINVAL);
    bad = args;
    bad[5] = 4096;
    err!(sys!(clone3, p(&bad), 88), EINVAL);
    bad = args;
    bad[0] = 1 << 40;
    err!(sys!(clone3, p(&bad), 88), EINVAL);
    let mut tid = 0i32;
    let mut pidfd = -1i32;
    let mut full = args;
    full[0] = (CLONE_PIDFD | CLONE_PARENT_SETTID) as u64;
    full[1] = m(&mut pidfd) as u64;
    full[3] = m(&mut tid) as u64;
    let child = ok!(sys!(clone3, p(&full), 88)) as i32;
    if child == 0 {
        unsafe { _exit(0) };
    }
    eq!(tid, child);
    check!(pidfd > 0);
    wait(child);
    // CLONE_CLEAR_SIGHAND
    on(SIGUSR1, nothing, 0);
    let mut clear = args;
    clear[0] = 1 << 32;
    let child = ok!(sys!(clone3, p(&clear), 88)) as i32;
    if child == 0 {
        let _ = sys!(kill, getpid(), SIGUSR1);
        unsafe { _exit(0) };
    }
    say!("{}", show_status(wait(child)));
}

extern "C" fn nothing(_: i32, _: *mut siginfo_t, _: *mut c_void) {}

fn clone_parent() {
    let me = getpid();
    let (r, w) = pipe(0);
    in_child(|| {
        let sibling = ok!(sys!(clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0)) as i32;
        if sibling == 0 {
            eq!(getppid(), me);
            unsafe { _exit(13) };
        }
        ok!(write(w, &sibling.to_le_bytes()));
        let mut st = 0;
        err!(sys!(wait4, sibling, m(&mut st), 0, 0), ECHILD);
    });
    let sibling = i32::from_le_bytes(ok!(read(r, 4)).try_into().unwrap());
    say!("{}", show_status(wait(sibling)));
}

fn clone_vm() {
    // a process that shares memory but nothing else
    static SHARED: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(0);
    extern "C" fn body(arg: *mut c_void) -> i32 {
        SHARED.store(arg as i32, std::sync::atomic::Ordering::SeqCst);
        unsafe { libc::syscall(SYS_close, 50) };
        17
    }
    ok!(sys!(dup2, 2, 50));
    let stack = anon(65536, MAP_PRIVATE);
    let child = unsafe { clone(body, stack.add(65536).cast(), CLONE_VM | SIGCHLD, 99 as *mut c_void) };
    say!("{}", show_status(wait(child)));
    eq!(SHARED.load(std::sync::atomic::Ordering::SeqCst), 99);
    ok!(sys!(fcntl, 50, F_GETFD));
}

fn clone_settid() {
    let (mut parent, mut childs) = (0i32, 0i32);
    let child = ok!(sys!(clone, CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | SIGCHLD, 0, m(&mut parent), m(&mut childs), 0)) as i32;
    if child == 0 {
        let v = unsafe { std::ptr::read_volatile(&childs) };
        unsafe { _exit(if v == gettid() { 0 } else { 1 }) };
    }
    eq!(wait(child), 0);
    eq!((parent, childs), (child, 0));
    let tid = ok!(sys!(set_tid_address, 0));
    eq!(tid, i64::from(gettid()));
}

fn vfork_blocks() {
    let (r, w) = pipe(0);
    let child = ok!(sys!(clone, CLONE_VFORK | SIGCHLD, 0, 0, 0, 0)) as i32;
    if child == 0 {
        ms(50);
        ok!(write(w, b"x"));
        unsafe { _exit(0) };
    }
    // the child has written before the parent runs again
    let mut pf = pollfd { fd: r, events: POLLIN, revents: 0 };
    eq!(ok!(sys!(poll, m(&mut pf), 1, 0)), 1);
    eq!(wait(child), 0);
}

fn many_children() {
    let kids: Vec<i32> = (0..100).map(|i| fork(move || unsafe { _exit(i) })).collect();
    let mut got = vec![];
    for _ in 0..100 {
        let mut st = 0;
        let pid = ok!(sys!(wait4, -1, m(&mut st), 0, 0)) as i32;
        check!(kids.contains(&pid));
        got.push(WEXITSTATUS(st));
    }
    got.sort();
    eq!(got, (0..100).collect::<Vec<_>>());
    err!(sys!(wait4, -1, 0, 0, 0), ECHILD);
}

fn process_tree_500() {
    let (r, w) = pipe(0);
    let mut kids = vec![];
    for _ in 0..500 {
        kids.push(fork(|| {
            close(w);
            let _ = read(r, 1);
        }));
    }
    let n =
        std::fs::read_dir("/proc").unwrap().filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().parse::<i32>().is_ok()).count();
    check!(n >= 502);
    close(r);
    close(w);
    for k in kids {
        eq!(wait(k), 0);
    }
}

fn fork_in_loop() {
    for i in 0..300 {
        let child = fork(move || unsafe { _exit(i & 0x7f) });
        eq!(WEXITSTATUS(wait(child)), i & 0x7f);
    }
}

fn deep_forks() {
    fn level(n: i32) {
        if n > 0 {
            in_child(|| level(n - 1));
        }
    }
    level(40);
}

fn fork_fds() {
    let (r, w) = pipe(0);
    let child = fork(|| {
        close(r);
        ok!(write(w, b"from the child"));
    });
    close(w);
    eq!(wait(child), 0);
    eq!(ok!(read(r, 99)), b"from the child");
    eq!(ok!(read(r, 99)), b"");
}

fn child_after_exec() {
    let (r, w) = pipe(O_CLOEXEC);
    let child = fork(|| {
        exec_sleep();
    });
    close(w);
    eq!(ok!(read(r, 1)), b"");
    ok!(sys!(kill, child, SIGKILL));
    say!("{}", show_status(wait(child)));
}

fn pid_wrap_order() {
    let a = fork(|| ());
    wait(a);
    let b = fork(|| ());
    wait(b);
    eq!(b, a + 1);
}

fn uname_call() {
    let mut u = unsafe { std::mem::zeroed::<utsname>() };
    ok!(sys!(uname, m(&mut u)));
    let text = |b: &[c_char]| b.iter().take_while(|x| **x != 0).map(|x| *x as u8 as char).collect::<String>();
    say!("{} {} {}", text(&u.sysname), text(&u.machine), text(&u.nodename));
    let release = text(&u.release);
    check!(release.split('.').next().and_then(|m| m.parse::<u32>().ok()).is_some_and(|m| m >= 5));
    eq!(String::from_utf8(get("/proc/sys/kernel/osrelease")).unwrap().trim_end(), release);
    err!(sys!(uname, 8), EFAULT);
}

fn sethostname_calls() {
    ok!(sys!(sethostname, c"another", 7));
    let mut u = unsafe { std::mem::zeroed::<utsname>() };
    ok!(sys!(uname, m(&mut u)));
    eq!(u.nodename[..8].iter().map(|x| *x as u8).collect::<Vec<_>>(), b"another\0");
    eq!(get("/proc/sys/kernel/hostname"), b"another\n");
    err!(sys!(sethostname, c"x", 65), EINVAL);
    err!(sys!(sethostname, 8, 5), EFAULT);
    ok!(sys!(setdomainname, c"domain", 6));
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1000, 1000));
        err!(sys!(sethostname, c"x", 1), EPERM);
    });
}

fn sysinfo_call() {
    let mut s = unsafe { std::mem::zeroed::<sysinfo>() };
    ok!(sys!(sysinfo, m(&mut s)));
    check!(s.totalram > 0 && s.freeram <= s.totalram && s.mem_unit > 0 && s.procs > 0 && s.uptime >= 0);
    err!(sys!(sysinfo, 8), EFAULT);
}

fn times_call() {
    let mut t = unsafe { std::mem::zeroed::<tms>() };
    let a = ok!(sys!(times, m(&mut t)));
    ms(50);
    let b = ok!(sys!(times, 0));
    check!(b - a >= 3 && b - a < 1000);
    err!(sys!(times, 8), EFAULT);
}

fn getrusage_call() {
    let mut r = unsafe { std::mem::zeroed::<rusage>() };
    for who in [RUSAGE_SELF, RUSAGE_CHILDREN, RUSAGE_THREAD] {
        ok!(sys!(getrusage, who, m(&mut r)));
    }
    err!(sys!(getrusage, 9, m(&mut r)), EINVAL);
    err!(sys!(getrusage, RUSAGE_SELF, 8), EFAULT);
    ok!(sys!(getrusage, RUSAGE_SELF, m(&mut r)));
    check!(r.ru_maxrss > 0);
}

fn personality_call() {
    eq!(ok!(sys!(personality, 0xffff_ffffu32)), 0);
    eq!(ok!(sys!(personality, 0x0040_0000)), 0);
    eq!(ok!(sys!(personality, 0xffff_ffffu32)), 0x0040_0000);
    in_child(|| eq!(ok!(sys!(personality, 0xffff_ffffu32)), 0x0040_0000));
}

fn getcpu_call() {
    let (mut cpu, mut node) = (u32::MAX, u32::MAX);
    ok!(sys!(getcpu, m(&mut cpu), m(&mut node), 0));
    check!(cpu < 4096 && node < 1024);
    ok!(sys!(getcpu, 0, 0, 0));
}

fn kill_permissions() {
    let root = fork(|| ms(60_000));
    let user = fork(|| {
        ok!(sys!(setresuid, 1000, 1000, 1000));
        ms(60_000);
    });
    until("it is a user", || ok!(stat(&c(format!("/proc/{user}")))).st_uid == 1000);
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1000, 1000));
        err!(sys!(kill, root, 0), EPERM);
        err!(sys!(kill, root, SIGKILL), EPERM);
        err!(sys!(tgkill, root, root, SIGKILL), EPERM);
        ok!(sys!(kill, user, 0));
        err!(sys!(kill, root, 99), EINVAL);
        err!(sys!(kill, 99999, 0), ESRCH);
        // SIGCONT may go to any process of the session
        ok!(sys!(kill, root, SIGCONT));
    });
    in_child(|| {
        ok!(sys!(setresuid, 1001, 1001, 1000));
        err!(sys!(kill, user, SIGTERM), EPERM);
        ok!(sys!(setresuid, 1000, 1001, 1001).or(Ok::<i64, E>(0)));
    });
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1001, 1001));
        ok!(sys!(kill, user, SIGTERM));
    });
    say!("{}", show_status(wait(user)));
    ok!(sys!(kill, root, SIGKILL));
    wait(root);
}

fn unshare_calls() {
    in_child(|| {
        ok!(sys!(unshare, CLONE_FILES));
        ok!(sys!(unshare, CLONE_FS));
        ok!(sys!(unshare, 0));
        err!(sys!(unshare, 1), EINVAL);
        let child = ok!(sys!(clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0)) as i32;
        if child == 0 {
            ok!(sys!(unshare, CLONE_FILES));
            close(0);
            unsafe { _exit(0) };
        }
        eq!(wait(child), 0);
        ok!(sys!(fcntl, 0, F_GETFD));
    });
}
