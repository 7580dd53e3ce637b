//! eventfd.

use crate::sys::*;
use crate::{eq, err, list, ok, say, sys};

pub const TESTS: &[crate::Test] = list!["event"; counter, semaphore, limits, args, polling, across_processes];

fn get8(fd: i32) -> Result<u64, E> {
    read(fd, 8).map(|b| u64::from_le_bytes(b.try_into().unwrap_or_default()))
}

fn put8(fd: i32, v: u64) -> R {
    write(fd, &v.to_le_bytes())
}

fn counter() {
    let e = ok!(sys!(eventfd2, 5, EFD_NONBLOCK)) as i32;
    ok!(put8(e, 3));
    eq!(ok!(get8(e)), 8);
    err!(get8(e), EAGAIN);
    let plain = ok!(sys!(eventfd, 1)) as i32;
    eq!(ok!(get8(plain)), 1);
}

fn semaphore() {
    let e = ok!(sys!(eventfd2, 2, EFD_NONBLOCK | EFD_SEMAPHORE)) as i32;
    ok!(put8(e, 1));
    for _ in 0..3 {
        eq!(ok!(get8(e)), 1);
    }
    err!(get8(e), EAGAIN);
}

fn limits() {
    let e = ok!(sys!(eventfd2, 0, EFD_NONBLOCK)) as i32;
    ok!(put8(e, u64::MAX - 1));
    err!(put8(e, 1), EAGAIN);
    err!(put8(e, u64::MAX), EINVAL);
    ok!(put8(e, 0));
    eq!(ok!(get8(e)), u64::MAX - 1);
}

fn args() {
    let e = ok!(sys!(eventfd2, 1, 0)) as i32;
    err!(read(e, 7), EINVAL);
    err!(write(e, &[0; 7]), EINVAL);
    eq!(ok!(read(e, 100)).len(), 8);
    err!(sys!(eventfd2, 0, 2), EINVAL);
    let c = ok!(sys!(eventfd2, 0, EFD_CLOEXEC)) as i32;
    eq!(ok!(sys!(fcntl, c, F_GETFD)), 1);
    say!("{}", std::fs::read_link(format!("/proc/self/fd/{c}")).unwrap().display());
}

fn polling() {
    let e = ok!(sys!(eventfd2, 0, EFD_NONBLOCK)) as i32;
    let show = |what: &str| {
        let mut pf = pollfd { fd: e, events: POLLIN | POLLOUT, revents: 0 };
        ok!(sys!(poll, m(&mut pf), 1, 0));
        say!("{what} {:#x}", pf.revents);
    };
    show("zero");
    ok!(put8(e, 1));
    show("one");
    ok!(put8(e, u64::MAX - 2));
    show("full");
}

fn across_processes() {
    let e = ok!(sys!(eventfd2, 0, 0)) as i32;
    let child = fork(|| {
        eq!(ok!(get8(e)), 9);
    });
    until("it sleeps", || state(child) == 'S');
    ok!(put8(e, 9));
    eq!(wait(child), 0);
    // a writer waits for room
    ok!(put8(e, u64::MAX - 1));
    let child = fork(|| {
        ok!(put8(e, 5));
    });
    until("it sleeps", || state(child) == 'S');
    eq!(ok!(get8(e)), u64::MAX - 1);
    eq!(wait(child), 0);
    eq!(ok!(get8(e)), 5);
}
