//! poll, ppoll, select, pselect.

use crate::sys::*;
use crate::{check, eq, err, list, ok, say, sys};

pub const TESTS: &[crate::Test] = list!["poll"; poll_basic, poll_errors, poll_timeout, poll_negative_fd, poll_files, poll_wakes, select_basic, select_errors, select_timeout, select_updates, pselect_basic, ppoll_timeout, poll_many];

fn pf(fd: i32, events: i16) -> pollfd {
    pollfd { fd, events, revents: 0x7fff }
}

fn poll_basic() {
    let (r, w) = pipe(0);
    let mut v = [pf(r, POLLIN), pf(w, POLLOUT), pf(99, POLLIN)];
    eq!(ok!(sys!(poll, m(&mut v), 3, 0)), 2);
    eq!((v[0].revents, v[1].revents, v[2].revents), (0, POLLOUT, POLLNVAL));
    ok!(write(w, b"x"));
    eq!(ok!(sys!(poll, m(&mut v), 3, -1)), 3);
    eq!(v[0].revents, POLLIN);
    eq!(ok!(sys!(poll, 0, 0, 0)), 0);
}

fn poll_errors() {
    err!(sys!(poll, 8, 1, 0), EFAULT);
    let lim = rlimit { rlim_cur: 10, rlim_max: 20 };
    ok!(sys!(setrlimit, RLIMIT_NOFILE, p(&lim)));
    let mut v = vec![pf(-1, 0); 30];
    err!(sys!(poll, v.as_mut_ptr(), 30, 0), EINVAL);
}

fn poll_timeout() {
    let (r, _w) = pipe(0);
    let mut v = [pf(r, POLLIN)];
    let t = now(CLOCK_MONOTONIC);
    eq!(ok!(sys!(poll, m(&mut v), 1, 30)), 0);
    check!(now(CLOCK_MONOTONIC) - t >= 0.03);
    eq!(v[0].revents, 0);
}

fn poll_negative_fd() {
    let mut v = [pf(-1, POLLIN), pf(-5, POLLIN)];
    eq!(ok!(sys!(poll, m(&mut v), 2, 0)), 0);
    eq!((v[0].revents, v[1].revents), (0, 0));
}

fn poll_files() {
    put("a", b"");
    let f = ok!(open(c"a", O_RDONLY));
    let d = ok!(open(c".", O_RDONLY));
    let n = ok!(open(c"/dev/null", O_RDWR));
    let z = ok!(open(c"/dev/zero", O_RDWR));
    let u = ok!(open(c"/dev/urandom", O_RDWR));
    let s = ok!(open(c"/proc/self/stat", O_RDONLY));
    let o = ok!(open(c"a", O_PATH));
    for (name, fd) in [("file", f), ("dir", d), ("null", n), ("zero", z), ("urandom", u), ("proc", s), ("path", o)] {
        let mut v = [pf(fd, POLLIN | POLLOUT | POLLPRI)];
        ok!(sys!(poll, m(&mut v), 1, 0));
        say!("{name} {:#x}", v[0].revents);
    }
}

fn poll_wakes() {
    let (r, w) = pipe(0);
    let child = fork(|| {
        ms(30);
        close(r);
        ok!(write(w, b"x"));
    });
    let mut v = [pf(r, POLLIN)];
    eq!(ok!(sys!(poll, m(&mut v), 1, 10_000)), 1);
    eq!(wait(child), 0);
    ok!(read(r, 1));
    let child = fork(|| {
        close(r);
        ms(30);
    });
    close(w);
    eq!(ok!(sys!(poll, m(&mut v), 1, 10_000)), 1);
    eq!(v[0].revents, POLLHUP);
    eq!(wait(child), 0);
}

fn poll_many() {
    let pipes: Vec<_> = (0..300).map(|_| pipe(0)).collect();
    let mut v: Vec<pollfd> = pipes.iter().map(|x| pf(x.0, POLLIN)).collect();
    eq!(ok!(sys!(poll, v.as_mut_ptr(), 300, 0)), 0);
    for i in [0, 77, 299] {
        ok!(write(pipes[i].1, b"x"));
    }
    eq!(ok!(sys!(poll, v.as_mut_ptr(), 300, 0)), 3);
    eq!(v.iter().enumerate().filter(|x| x.1.revents == POLLIN).map(|x| x.0).collect::<Vec<_>>(), [0, 77, 299]);
}

fn bits(fds: &[i32]) -> [u64; 16] {
    let mut b = [0; 16];
    for f in fds {
        b[*f as usize / 64] |= 1 << (*f % 64);
    }
    b
}

fn select_basic() {
    let (r, w) = pipe(0);
    let (mut rd, mut wr, mut ex) = (bits(&[r]), bits(&[w]), bits(&[r, w]));
    let mut zero = timeval { tv_sec: 0, tv_usec: 0 };
    eq!(ok!(sys!(select, w + 1, m(&mut rd), m(&mut wr), m(&mut ex), m(&mut zero))), 1);
    eq!((rd, wr, ex), (bits(&[]), bits(&[w]), bits(&[])));
    ok!(write(w, b"x"));
    let (mut rd, mut wr) = (bits(&[r]), bits(&[w]));
    eq!(ok!(sys!(select, w + 1, m(&mut rd), m(&mut wr), 0, 0)), 2);
    eq!(rd, bits(&[r]));
    // beyond nfds nothing is looked at
    let mut rd = bits(&[r, 900]);
    eq!(ok!(sys!(select, r + 1, m(&mut rd), 0, 0, m(&mut zero))), 1);
    close(w);
    let mut rd = bits(&[r]);
    ok!(read(r, 1));
    eq!(ok!(sys!(select, r + 1, m(&mut rd), 0, 0, 0)), 1);
}

fn select_errors() {
    // Linux looks no further than its table of descriptors reaches, which may be 64 long
    let mut rd = bits(&[60]);
    err!(sys!(select, 61, m(&mut rd), 0, 0, 0), EBADF);
    err!(sys!(select, -1, 0, 0, 0, 0), EINVAL);
    err!(sys!(select, 1, 8, 0, 0, 0), EFAULT);
    let bad = timeval { tv_sec: -1, tv_usec: 0 };
    err!(sys!(select, 0, 0, 0, 0, p(&bad)), EINVAL);
    let bad = timeval { tv_sec: 0, tv_usec: -1 };
    err!(sys!(select, 0, 0, 0, 0, p(&bad)), EINVAL);
}

fn select_timeout() {
    let t = now(CLOCK_MONOTONIC);
    let mut tv = timeval { tv_sec: 0, tv_usec: 30_000 };
    eq!(ok!(sys!(select, 0, 0, 0, 0, m(&mut tv))), 0);
    check!(now(CLOCK_MONOTONIC) - t >= 0.03);
    eq!((tv.tv_sec, tv.tv_usec), (0, 0));
}

fn select_updates() {
    let (r, w) = pipe(0);
    let child = fork(|| {
        ms(30);
        ok!(write(w, b"x"));
    });
    let mut tv = timeval { tv_sec: 10, tv_usec: 0 };
    let mut rd = bits(&[r]);
    eq!(ok!(sys!(select, r + 1, m(&mut rd), 0, 0, m(&mut tv))), 1);
    check!(tv.tv_sec == 9);
    wait(child);
}

fn pselect_basic() {
    let (r, w) = pipe(0);
    ok!(write(w, b"x"));
    let mut rd = bits(&[r]);
    let mut t = ts(5000);
    eq!(ok!(sys!(pselect6, r + 1, m(&mut rd), 0, 0, m(&mut t), 0)), 1);
    check!(t.tv_sec >= 4);
    let bad = [p(&0u64), 4];
    err!(sys!(pselect6, 0, 0, 0, 0, p(&ts(0)), p(&bad)), EINVAL);
    err!(sys!(pselect6, 0, 0, 0, 0, p(&timespec { tv_sec: 0, tv_nsec: 1_000_000_000 }), 0), EINVAL);
}

fn ppoll_timeout() {
    let mut t = ts(30);
    eq!(ok!(sys!(ppoll, 0, 0, m(&mut t), 0, 8)), 0);
    eq!((t.tv_sec, t.tv_nsec), (0, 0));
    err!(sys!(ppoll, 0, 0, p(&timespec { tv_sec: 0, tv_nsec: -1 }), 0, 8), EINVAL);
    err!(sys!(ppoll, 0, 0, p(&ts(0)), p(&0u64), 7), EINVAL);
    err!(sys!(ppoll, 0, 0, 8, 0, 8), EFAULT);
}
