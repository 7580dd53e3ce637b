//! Every blocking call is interrupted by a handler, and restarted or not as signal(7) says.

use crate::sys::*;
use crate::{check, eq, list, ok, say, sys};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

pub const TESTS: &[crate::Test] = list!["restart";
    read_pipe, write_pipe, read_socket, accept_socket, recv_timeout, wait_child, open_fifo, flock_wait, fcntl_wait, nanosleep_remaining, clock_nanosleep_abs, poll_wait, select_wait,
    epoll_wait_call, pause_call, sigsuspend_call, read_eventfd, read_timerfd, read_tty, stop_cont_transparent, ppoll_mask, pselect_mask, msg_partial, no_handler_no_effect,
];

static HITS: AtomicUsize = AtomicUsize::new(0);
extern "C" fn hit(_: i32, _: *mut siginfo_t, _: *mut c_void) {
    HITS.fetch_add(1, SeqCst);
}

/// Runs `call` in a child twice, with and without SA_RESTART; a signal comes while it sleeps, then `finish` lets it end.
fn both(call: impl Fn() -> R, finish: impl Fn(i32)) {
    for flags in [0, SA_RESTART] {
        let child = fork(|| {
            on(SIGUSR1, hit, flags);
            let r = call();
            say!("{} {r:?} handled {}", if flags == 0 { "plain  " } else { "restart" }, HITS.load(SeqCst));
        });
        until("it sleeps", || state(child) == 'S');
        ms(15);
        ok!(sys!(kill, child, SIGUSR1));
        ms(15);
        until("it sleeps again or is gone", || matches!(state(child), 'S' | 'Z'));
        ms(15);
        if state(child) == 'S' {
            finish(child);
        }
        eq!(wait(child), 0);
    }
}

fn read_pipe() {
    let (r, w) = pipe(0);
    both(
        || sys!(read, r, m(&mut [0u8; 8]), 8),
        |_| {
            ok!(write(w, b"abc"));
        },
    );
}

fn write_pipe() {
    let (r, w) = pipe(O_NONBLOCK);
    while write(w, &[0; 4096]).is_ok() {}
    ok!(sys!(fcntl, w, F_SETFL, 0));
    both(
        || write(w, &[1; 4096]),
        |_| {
            ok!(read(r, 8192));
        },
    );
}

fn pair() -> (i32, i32) {
    let mut s = [0i32; 2];
    ok!(sys!(socketpair, AF_UNIX, SOCK_STREAM, 0, m(&mut s)));
    (s[0], s[1])
}

fn read_socket() {
    let (a, b) = pair();
    both(
        || sys!(recvfrom, a, m(&mut [0u8; 8]), 8, 0, 0, 0),
        |_| {
            ok!(write(b, b"abc"));
        },
    );
}

fn recv_timeout() {
    // with SO_RCVTIMEO a socket call is never restarted
    let (a, b) = pair();
    let t = timeval { tv_sec: 20, tv_usec: 0 };
    ok!(sys!(setsockopt, a, SOL_SOCKET, SO_RCVTIMEO, p(&t), 16));
    both(
        || sys!(recvfrom, a, m(&mut [0u8; 8]), 8, 0, 0, 0),
        |_| {
            ok!(write(b, b"abc"));
        },
    );
}

fn accept_socket() {
    let s = ok!(sys!(socket, AF_UNIX, SOCK_STREAM, 0)) as i32;
    let mut addr = unsafe { std::mem::zeroed::<sockaddr_un>() };
    addr.sun_family = AF_UNIX as u16;
    addr.sun_path[0] = b'l' as c_char;
    ok!(sys!(bind, s, p(&addr), 3 + 1));
    ok!(sys!(listen, s, 5));
    both(
        || sys!(accept, s, 0, 0).map(|_| 0),
        |_| {
            let q = ok!(sys!(socket, AF_UNIX, SOCK_STREAM, 0)) as i32;
            ok!(sys!(connect, q, p(&addr), 3 + 1));
        },
    );
}

fn wait_child() {
    let gate: &'static AtomicUsize = shared();
    both(
        || {
            gate.store(0, SeqCst);
            let kid = fork(|| until("the gate", || gate.load(SeqCst) == 1));
            let r = sys!(wait4, kid, 0, 0, 0).map(|_| 0);
            gate.store(1, SeqCst);
            r
        },
        |_| gate.store(1, SeqCst),
    );
}

fn open_fifo() {
    ok!(sys!(mknod, c"p", S_IFIFO | 0o600, 0));
    both(|| open(c"p", O_RDONLY).map(|_| 0), |_| close(ok!(open(c"p", O_RDWR))));
}

fn flock_wait() {
    put("a", b"");
    let f = ok!(open(c"a", O_RDONLY));
    ok!(sys!(flock, f, LOCK_EX));
    both(
        || {
            let g = ok!(open(c"a", O_RDONLY));
            sys!(flock, g, LOCK_EX)
        },
        |_| {
            ok!(sys!(flock, f, LOCK_UN));
        },
    );
}

fn fcntl_wait() {
    put("a", b"");
    let f = ok!(open(c"a", O_RDWR));
    let l = flock { l_type: F_WRLCK as i16, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
    ok!(sys!(fcntl, f, F_SETLK, p(&l)));
    both(
        || sys!(fcntl, f, F_SETLKW, p(&l)),
        |_| {
            let u = flock { l_type: F_UNLCK as i16, ..l };
            ok!(sys!(fcntl, f, F_SETLK, p(&u)));
        },
    );
}

fn nanosleep_remaining() {
    both(
        || {
            let mut left = ts(0);
            let long = ts(5000);
            let r = sys!(nanosleep, p(&long), m(&mut left));
            check!(left.tv_sec == 4);
            r
        },
        |_| (),
    );
}

fn clock_nanosleep_abs() {
    both(
        || {
            let at = now(CLOCK_MONOTONIC) + 5.0;
            let abs = timespec { tv_sec: at as i64, tv_nsec: 0 };
            sys!(clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, p(&abs), 0)
        },
        |_| (),
    );
}

fn poll_wait() {
    let (r, _w) = pipe(0);
    both(
        || {
            let mut pf = pollfd { fd: r, events: POLLIN, revents: 0 };
            sys!(poll, m(&mut pf), 1, -1)
        },
        |_| (),
    );
}

fn select_wait() {
    let (r, _w) = pipe(0);
    both(
        || {
            let mut set = [1u64 << r, 0];
            let mut t = timeval { tv_sec: 5, tv_usec: 0 };
            let got = sys!(select, r + 1, m(&mut set), 0, 0, m(&mut t));
            check!(t.tv_sec < 5);
            got
        },
        |_| (),
    );
}

fn epoll_wait_call() {
    let e = ok!(sys!(epoll_create1, 0)) as i32;
    both(|| sys!(epoll_wait, e, m(&mut [0u64; 8]), 1, -1), |_| ());
}

fn pause_call() {
    both(|| sys!(pause), |_| ());
}

fn sigsuspend_call() {
    both(|| sys!(rt_sigsuspend, p(&0u64), 8), |_| ());
}

fn read_eventfd() {
    let e = ok!(sys!(eventfd2, 0, 0)) as i32;
    both(
        || sys!(read, e, m(&mut [0u8; 8]), 8),
        |_| {
            ok!(write(e, &1u64.to_le_bytes()));
        },
    );
}

fn read_timerfd() {
    let t = ok!(sys!(timerfd_create, CLOCK_MONOTONIC, 0)) as i32;
    both(
        || sys!(read, t, m(&mut [0u8; 8]), 8),
        |_| {
            let soon = itimerspec { it_interval: ts(0), it_value: ts(1) };
            ok!(sys!(timerfd_settime, t, 0, p(&soon), 0));
        },
    );
}

fn read_tty() {
    let master = ok!(open(c"/dev/ptmx", O_RDWR | O_NOCTTY));
    ok!(sys!(ioctl, master, TIOCSPTLCK, p(&0i32)));
    let mut n = 0i32;
    ok!(sys!(ioctl, master, TIOCGPTN, m(&mut n)));
    let slave = ok!(open(&c(format!("/dev/pts/{n}")), O_RDWR | O_NOCTTY));
    both(
        || sys!(read, slave, m(&mut [0u8; 8]), 8),
        |_| {
            ok!(write(master, b"line\n"));
        },
    );
}

fn stop_cont_transparent() {
    // a stop and a continue, without handlers: calls go on as if nothing had happened
    let (r, w) = pipe(0);
    let e = ok!(sys!(epoll_create1, 0)) as i32;
    let calls: [(&str, &dyn Fn() -> R); 5] = [
        ("read", &|| sys!(read, r, m(&mut [0u8; 8]), 8)),
        ("nanosleep", &|| {
            let t = ts(120);
            sys!(nanosleep, p(&t), 0)
        }),
        ("poll", &|| {
            let mut pf = pollfd { fd: r, events: 0, revents: 0 };
            sys!(poll, m(&mut pf), 1, 120)
        }),
        ("epoll_wait", &|| sys!(epoll_wait, e, m(&mut [0u64; 8]), 1, 120)),
        ("futex", &|| {
            let t = ts(120);
            let word = 0u32;
            sys!(futex, p(&word), FUTEX_WAIT, 0, p(&t), 0, 0)
        }),
    ];
    for (name, call) in calls {
        let child = fork(|| {
            let r = call();
            say!("{name} {r:?}");
        });
        until("it sleeps", || state(child) == 'S');
        ms(5);
        ok!(sys!(kill, child, SIGSTOP));
        until("stopped", || state(child) == 'T');
        ok!(sys!(kill, child, SIGCONT));
        if name == "read" {
            ms(20);
            ok!(write(w, b"abc"));
        }
        eq!(wait(child), 0);
    }
}

fn no_handler_no_effect() {
    let (r, w) = pipe(0);
    let child = fork(|| {
        let r = sys!(read, r, m(&mut [0u8; 8]), 8);
        say!("{r:?}");
    });
    until("it sleeps", || state(child) == 'S');
    for s in [SIGCHLD, SIGWINCH, SIGURG, SIGCONT] {
        ok!(sys!(kill, child, s));
    }
    ms(20);
    ok!(write(w, b"abcd"));
    eq!(wait(child), 0);
}

fn ppoll_mask() {
    // the mask is changed for the wait alone; a pending signal ends it at once
    on(SIGUSR1, hit, 0);
    mask(SIG_BLOCK, &[SIGUSR1]);
    ok!(sys!(kill, getpid(), SIGUSR1));
    let none = 0u64;
    let long = ts(10_000);
    eq!(sys!(ppoll, 0, 0, p(&long), p(&none), 8), Err(EINTR));
    eq!((HITS.load(SeqCst), mask(SIG_BLOCK, &[])), (1, set(&[SIGUSR1])));
    let e = ok!(sys!(epoll_create1, 0)) as i32;
    ok!(sys!(kill, getpid(), SIGUSR1));
    eq!(sys!(epoll_pwait, e, m(&mut [0u64; 8]), 1, 10_000, p(&none), 8), Err(EINTR));
    eq!((HITS.load(SeqCst), mask(SIG_BLOCK, &[])), (2, set(&[SIGUSR1])));
    // something is ready: it is reported, and the signal stays pending
    let (r, w) = pipe(0);
    ok!(write(w, b"x"));
    ok!(sys!(kill, getpid(), SIGUSR1));
    let mut pf = pollfd { fd: r, events: POLLIN, revents: 0 };
    say!("{:?} {}", sys!(ppoll, m(&mut pf), 1, p(&long), p(&none), 8), HITS.load(SeqCst));
}

fn pselect_mask() {
    on(SIGUSR1, hit, 0);
    mask(SIG_BLOCK, &[SIGUSR1]);
    ok!(sys!(kill, getpid(), SIGUSR1));
    let none = 0u64;
    let six = [p(&none), 8];
    let long = ts(10_000);
    eq!(sys!(pselect6, 0, 0, 0, 0, p(&long), p(&six)), Err(EINTR));
    eq!((HITS.load(SeqCst), mask(SIG_BLOCK, &[])), (1, set(&[SIGUSR1])));
}

fn msg_partial() {
    // a write that has moved something returns that, not EINTR
    let (r, w) = pipe(0);
    let child = fork(|| {
        on(SIGUSR1, hit, 0);
        let got = write(w, &vec![1; 200_000]);
        say!("{got:?}");
    });
    until("it sleeps", || state(child) == 'S');
    ms(15);
    ok!(sys!(kill, child, SIGUSR1));
    eq!(wait(child), 0);
    close(r);
}
