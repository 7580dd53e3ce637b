//! Signals of files: F_SETOWN, F_SETSIG, O_ASYNC, SIGIO and SIGURG (fcntl(2)).

use super::inet::{A, LO, bind, connect, events, listener, pair, port, send, send_to, tcp, udp};
use crate::sys::*;
use crate::{check, eq, err, list, ok, say, sys};

pub const TESTS: &[crate::Test] = list!["sigio";
    owners, owner_errors, pipe_ends, socket_bytes, socket_connections, socket_end, urgent, other_files, terminal, queue_full, group_and_thread, permission, off_again, ioctls,
];

const F_SETSIG: i32 = 10;
const F_GETSIG: i32 = 11;
const F_SETOWN_EX: i32 = 15;
const F_GETOWN_EX: i32 = 16;
const FIOASYNC: i32 = 0x5452;
const FIOSETOWN: i32 = 0x8901;
const SIOCSPGRP: i32 = 0x8902;
const FIOGETOWN: i32 = 0x8903;
const SIOCGPGRP: i32 = 0x8904;
/// A real-time signal.
const RT: i32 = 40;

/// Signals that are waited for rather than handled.
fn blocked() {
    mask(SIG_BLOCK, &[SIGIO, SIGURG, RT]);
}

/// The next signal, with its words; `None` where none comes at once.
fn next() -> Option<[i32; 4]> {
    taken(0)
}

fn taken(milliseconds: i64) -> Option<[i32; 4]> {
    let wanted = set(&[SIGIO, SIGURG, RT]);
    let mut info = unsafe { std::mem::zeroed::<siginfo_t>() };
    sys!(rt_sigtimedwait, p(&wanted), m(&mut info), p(&ts(milliseconds)), 8).ok()?;
    let words: &[i32; 32] = unsafe { &*(&raw const info).cast() };
    // si_band and si_fd lie behind the three numbers and their padding.
    Some(if info.si_code == 0x80 { [info.si_signo, 0x80, 0, 0] } else { [info.si_signo, info.si_code, words[4], words[6]] })
}

/// What has come, without descriptors' numbers, and once what came twice.
fn all() -> String {
    let mut list: Vec<String> = std::iter::from_fn(next).map(|[s, code, band, _]| format!("{s}:{code}:{band:x}")).collect();
    list.dedup();
    list.join(" ")
}

fn watch(fd: i32, signal: i32) {
    ok!(sys!(fcntl, fd, F_SETOWN, getpid()));
    ok!(sys!(fcntl, fd, F_SETSIG, signal));
    ok!(sys!(fcntl, fd, F_SETFL, O_ASYNC | O_NONBLOCK));
}

fn owners() {
    let (r, _) = pipe(0);
    eq!(ok!(sys!(fcntl, r, F_GETOWN)), 0);
    eq!(ok!(sys!(fcntl, r, F_GETSIG)), 0);
    let mut ex = [9i32; 2];
    ok!(sys!(fcntl, r, F_GETOWN_EX, m(&mut ex)));
    say!("{ex:?}");
    ok!(sys!(fcntl, r, F_SETOWN, getpid()));
    eq!(ok!(sys!(fcntl, r, F_GETOWN)), i64::from(getpid()));
    ok!(sys!(fcntl, r, F_GETOWN_EX, m(&mut ex)));
    eq!(ex, [1, getpid()]);
    ex = [0, gettid()];
    ok!(sys!(fcntl, r, F_SETOWN_EX, p(&ex)));
    ex = [7; 2];
    ok!(sys!(fcntl, r, F_GETOWN_EX, m(&mut ex)));
    eq!(ex, [0, gettid()]);
    ok!(sys!(setpgid, 0, 0));
    ok!(sys!(fcntl, r, F_SETOWN, -getpid()));
    eq!(sys!(fcntl, r, F_GETOWN), Err(E(getpid())));
    ok!(sys!(fcntl, r, F_GETOWN_EX, m(&mut ex)));
    eq!(ex, [2, getpid()]);
    ok!(sys!(fcntl, r, F_SETOWN, 0));
    ok!(sys!(fcntl, r, F_GETOWN_EX, m(&mut ex)));
    say!("{ex:?}");
    ok!(sys!(fcntl, r, F_SETSIG, RT));
    eq!(ok!(sys!(fcntl, r, F_GETSIG)), i64::from(RT));
    // An owner that has gone is none.
    let child = fork(|| {});
    ok!(sys!(fcntl, r, F_SETOWN, child));
    wait(child);
    eq!(ok!(sys!(fcntl, r, F_GETOWN)), 0);
}

fn owner_errors() {
    let (r, _) = pipe(0);
    err!(sys!(fcntl, r, F_SETOWN, 30_000), ESRCH);
    err!(sys!(fcntl, r, F_SETOWN, -30_000), ESRCH);
    err!(sys!(fcntl, r, F_SETOWN, i32::MIN), EINVAL);
    err!(sys!(fcntl, r, F_SETOWN_EX, p(&[3, getpid()])), EINVAL);
    err!(sys!(fcntl, r, F_SETOWN_EX, p(&[-1, getpid()])), EINVAL);
    err!(sys!(fcntl, r, F_SETOWN_EX, p(&[1, 30_000])), ESRCH);
    err!(sys!(fcntl, r, F_SETOWN_EX, 8), EFAULT);
    err!(sys!(fcntl, r, F_GETOWN_EX, 8), EFAULT);
    err!(sys!(fcntl, r, F_SETSIG, 65), EINVAL);
    err!(sys!(fcntl, r, F_SETSIG, -1), EINVAL);
}

fn pipe_ends() {
    blocked();
    let (r, w) = pipe(0);
    watch(r, RT);
    watch(w, 0);
    eq!(next(), None);
    ok!(write(w, b"abc"));
    let [signal, code, band, fd] = next().unwrap_or_default();
    eq!((signal, code, fd), (RT, 1, r));
    say!("{band:x}");
    // Full, then read: room for the writer.
    ok!(sys!(fcntl, w, F_SETFL, O_NONBLOCK));
    while write(w, &[0; 4096]).is_ok() {}
    while next().is_some() {}
    ok!(sys!(fcntl, w, F_SETFL, O_ASYNC | O_NONBLOCK));
    ok!(read(r, 65_536));
    say!("room {}", all());
    close(w);
    say!("end {}", all());
}

fn socket_bytes() {
    blocked();
    let (c, s) = pair();
    watch(s, RT);
    ok!(send(c, b"abc", 0));
    let [signal, code, band, fd] = next().unwrap_or_default();
    eq!((signal, code, fd), (RT, 1, s));
    say!("{band:x}");
    eq!(next(), None);
    ok!(sys!(fcntl, s, F_SETSIG, 0));
    ok!(send(c, b"abc", 0));
    say!("{}", all());
    let mut two = [0i32; 2];
    for kind in [SOCK_STREAM, SOCK_DGRAM] {
        ok!(sys!(socketpair, AF_UNIX, kind, 0, m(&mut two)));
        watch(two[0], RT);
        ok!(send(two[1], b"x", 0));
        eq!(next().map(|n| n[..2].to_vec()), Some(vec![RT, 1]));
    }
    let u = udp();
    ok!(bind(u, A::V4(LO, 0)));
    watch(u, SIGIO);
    ok!(send_to(udp(), b"x", A::V4(LO, port(u))));
    eq!(next(), Some([SIGIO, 1, 0x41, u]));
}

fn socket_connections() {
    blocked();
    let (l, at) = listener(5);
    watch(l, RT);
    let c = tcp();
    ok!(sys!(fcntl, c, F_SETOWN, getpid()));
    ok!(sys!(fcntl, c, F_SETSIG, SIGIO));
    ok!(sys!(fcntl, c, F_SETFL, O_ASYNC | O_NONBLOCK));
    err!(connect(c, A::V4(LO, at)), EINPROGRESS);
    until("the connection", || events(c) == "OUT");
    let mut got: Vec<_> = std::iter::from_fn(|| taken(100)).map(|[s, code, band, _]| (s, code, band)).collect();
    got.sort_unstable();
    say!("{got:x?}");
}

fn socket_end() {
    blocked();
    let (c, s) = pair();
    watch(s, RT);
    ok!(sys!(shutdown, c, SHUT_WR));
    say!("half {}", all());
    ok!(sys!(shutdown, s, SHUT_WR));
    say!("own {}", all());
    let (c, s) = pair();
    watch(s, RT);
    ok!(send(s, b"unread", 0));
    close(c);
    say!("reset {}", all());
}

fn urgent() {
    blocked();
    let (c, s) = pair();
    // No O_ASYNC: SIGURG comes all the same, to whoever owns it.
    ok!(send(c, b"!", MSG_OOB));
    eq!(next(), None);
    ok!(sys!(fcntl, s, F_SETOWN, getpid()));
    ok!(send(c, b"!", MSG_OOB));
    say!("{}", all());
    ok!(sys!(fcntl, s, F_SETFL, O_ASYNC));
    ok!(send(c, b"!", MSG_OOB));
    until("the signals", || ok!(sys!(rt_sigpending, m(&mut 0u64), 8)) == 0);
    say!("async {}", all());
}

fn other_files() {
    blocked();
    // What has no signals does not even keep the flag.
    let files = [
        ok!(sys!(eventfd2, 0, 0)) as i32,
        ok!(sys!(timerfd_create, CLOCK_MONOTONIC, 0)) as i32,
        ok!(sys!(epoll_create1, 0)) as i32,
        ok!(open(c"f", O_CREAT | O_RDWR)),
    ];
    for fd in files {
        watch(fd, RT);
        check!(ok!(sys!(fcntl, fd, F_GETFL)) & i64::from(O_ASYNC) == 0);
        ok!(sys!(ioctl, fd, FIOASYNC, p(&0)));
        err!(sys!(ioctl, fd, FIOASYNC, p(&1)), ENOTTY);
    }
    ok!(write(files[0], &1u64.to_ne_bytes()));
    eq!(next(), None);
    let i = ok!(sys!(inotify_init1, 0)) as i32;
    ok!(sys!(inotify_add_watch, i, c".".as_ptr() as i64, IN_CREATE));
    watch(i, RT);
    close(ok!(open(c"g", O_CREAT | O_RDWR)));
    eq!(next(), Some([RT, 1, 0x41, i]));
}

fn terminal() {
    blocked();
    let m1 = ok!(open(c"/dev/ptmx", O_RDWR | O_NOCTTY));
    ok!(sys!(ioctl, m1, TIOCSPTLCK as i64, p(&0)));
    let mut n = 0i32;
    ok!(sys!(ioctl, m1, TIOCGPTN as i64, m(&mut n)));
    let slave = ok!(open(&c(format!("/dev/pts/{n}")), O_RDWR | O_NOCTTY));
    ok!(sys!(fcntl, slave, F_SETFL, O_ASYNC));
    // Who sets it owns it, unless somebody does already.
    eq!(ok!(sys!(fcntl, slave, F_GETOWN)), i64::from(getpid()));
    ok!(sys!(fcntl, slave, F_SETSIG, RT));
    ok!(write(m1, b"line\n"));
    // Linux tells it from a worker.
    eq!(taken(5000).map(|t| t[..2].to_vec()), Some(vec![RT, 1]));
}

fn queue_full() {
    blocked();
    let (r, w) = pipe(0);
    watch(r, RT);
    // Others of the same user may have signals in their queues, too.
    ok!(sys!(setrlimit, RLIMIT_SIGPENDING, p(&[0u64, 0])));
    for _ in 0..4 {
        ok!(write(w, b"x"));
    }
    say!("{}", all());
}

fn group_and_thread() {
    let (r, w) = pipe(0);
    let (to, from) = pipe(0);
    blocked();
    ok!(sys!(setpgid, 0, 0));
    let group = getpid();
    let children: Vec<i32> = (0..2)
        .map(|_| {
            fork(|| {
                ok!(write(from, b"."));
                check!(taken(10_000).is_some());
            })
        })
        .collect();
    for _ in 0..2 {
        ok!(read(to, 1));
    }
    ok!(sys!(fcntl, r, F_SETOWN, -group));
    ok!(sys!(fcntl, r, F_SETFL, O_ASYNC));
    ok!(write(w, b"x"));
    eq!(next().map(|n| n[0]), Some(SIGIO));
    for child in children {
        eq!(wait(child), 0);
    }
    // One thread alone.
    let others = threads(1, move |_| {
        ok!(sys!(fcntl, r, F_SETOWN_EX, p(&[0, gettid()])));
        ok!(write(w, b"x"));
        eq!(next().map(|n| n[0]), Some(SIGIO));
    });
    for t in others {
        check!(t.join().is_ok());
    }
    eq!(next(), None);
}

fn permission() {
    blocked();
    let (r, w) = pipe(0);
    let parent = getpid();
    // Whoever names the owner must be allowed to signal it.
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1000, 1000));
        ok!(sys!(fcntl, r, F_SETOWN, parent));
        ok!(sys!(fcntl, r, F_SETFL, O_ASYNC));
        ok!(write(w, b"x"));
    });
    eq!(next(), None);
    ok!(sys!(fcntl, r, F_SETOWN, parent));
    ok!(write(w, b"x"));
    eq!(next().map(|n| n[0]), Some(SIGIO));
}

fn off_again() {
    blocked();
    let (r, w) = pipe(0);
    watch(r, RT);
    ok!(write(w, b"x"));
    eq!(next().map(|n| n[0]), Some(RT));
    ok!(sys!(fcntl, r, F_SETFL, 0));
    ok!(write(w, b"x"));
    eq!(next(), None);
    // The descriptor is the one through which it was set.
    let other = ok!(sys!(dup, r)) as i32;
    ok!(sys!(fcntl, other, F_SETFL, O_ASYNC));
    ok!(write(w, b"x"));
    eq!(next().map(|n| n[3]), Some(other));
    ok!(sys!(fcntl, r, F_SETOWN, 0));
    ok!(write(w, b"x"));
    eq!(next(), None);
}

fn ioctls() {
    blocked();
    let (c, s) = pair();
    let mut who = 0i32;
    for (set, get) in [(FIOSETOWN, FIOGETOWN), (SIOCSPGRP, SIOCGPGRP)] {
        ok!(sys!(ioctl, s, set, p(&getpid())));
        ok!(sys!(ioctl, s, get, m(&mut who)));
        eq!(who, getpid());
        err!(sys!(ioctl, s, set, p(&30_000)), ESRCH);
        ok!(sys!(ioctl, s, set, p(&0)));
    }
    ok!(sys!(ioctl, s, SIOCSPGRP, p(&getpid())));
    ok!(sys!(ioctl, s, FIOASYNC, p(&1)));
    check!(ok!(sys!(fcntl, s, F_GETFL)) & i64::from(O_ASYNC) != 0);
    ok!(send(c, b"x", 0));
    say!("{}", all());
    let (r, _) = pipe(0);
    err!(sys!(ioctl, r, FIOSETOWN, p(&getpid())), ENOTTY);
}
