//! epoll.

use crate::sys::*;
use crate::{check, eq, err, list, ok, say, sys};

pub const TESTS: &[crate::Test] = list!["epoll";
    level, edge, oneshot, exclusive, modify_delete, ctl_errors, wait_errors, nested, loops, closed_descriptor, dup_keeps, max_events, fairness, timeout, blocking_wake, fork_shares, hangup, unpollable, pwait2, edge_write,
    threads_share, many_descriptors, stress_edge, stress_oneshot, stress_exclusive, stress_nested,
];

fn new() -> i32 {
    ok!(sys!(epoll_create1, 0)) as i32
}

#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Ev {
    events: u32,
    data: u64,
}

fn ctl(e: i32, op: i32, fd: i32, events: i32, data: u64) -> R {
    let ev = Ev { events: events as u32, data };
    sys!(epoll_ctl, e, op, fd, p(&ev))
}

fn waits(e: i32, n: usize, ms: i32) -> Result<Vec<(u32, u64)>, E> {
    let mut v = vec![Ev { events: 0, data: 0 }; n];
    let got = sys!(epoll_wait, e, v.as_mut_ptr(), n, ms)? as usize;
    Ok(v[..got].iter().map(|x| (x.events, x.data)).collect())
}

fn level() {
    let e = new();
    let (r, w) = pipe(0);
    ok!(ctl(e, EPOLL_CTL_ADD, r, EPOLLIN, 11));
    ok!(ctl(e, EPOLL_CTL_ADD, w, EPOLLOUT, 12));
    eq!(ok!(waits(e, 8, 0)), [(EPOLLOUT as u32, 12)]);
    ok!(write(w, b"ab"));
    for _ in 0..3 {
        let mut v = ok!(waits(e, 8, 0));
        v.sort();
        eq!(v, [(EPOLLIN as u32, 11), (EPOLLOUT as u32, 12)]);
    }
    ok!(read(r, 2));
    eq!(ok!(waits(e, 8, 0)), [(EPOLLOUT as u32, 12)]);
}

fn edge() {
    let e = new();
    let (r, w) = pipe(0);
    ok!(ctl(e, EPOLL_CTL_ADD, r, EPOLLIN | EPOLLET, 1));
    eq!(ok!(waits(e, 8, 0)), []);
    ok!(write(w, b"ab"));
    eq!(ok!(waits(e, 8, 0)).len(), 1);
    eq!(ok!(waits(e, 8, 0)).len(), 0);
    ok!(read(r, 1));
    eq!(ok!(waits(e, 8, 0)).len(), 0);
    ok!(write(w, b"c"));
    eq!(ok!(waits(e, 8, 0)).len(), 1);
    ok!(ctl(e, EPOLL_CTL_MOD, r, EPOLLIN | EPOLLET, 1));
    eq!(ok!(waits(e, 8, 0)).len(), 1);
    eq!(ok!(waits(e, 8, 0)).len(), 0);
    // what is ready when it is added is reported once
    let f = new();
    ok!(ctl(f, EPOLL_CTL_ADD, r, EPOLLIN | EPOLLET, 1));
    eq!((ok!(waits(f, 8, 0)).len(), ok!(waits(f, 8, 0)).len()), (1, 0));
}

fn edge_write() {
    let mut s = [0i32; 2];
    ok!(sys!(socketpair, AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, m(&mut s)));
    let e = new();
    ok!(ctl(e, EPOLL_CTL_ADD, s[0], EPOLLIN | EPOLLOUT | EPOLLET, 1));
    eq!(ok!(waits(e, 8, 0)), [(EPOLLOUT as u32, 1)]);
    eq!(ok!(waits(e, 8, 0)), []);
    while write(s[0], &[0; 4096]).is_ok() {}
    eq!(ok!(waits(e, 8, 0)), []);
    while read(s[1], 65536).is_ok() {}
    eq!(ok!(waits(e, 8, 0)), [(EPOLLOUT as u32, 1)]);
}

fn oneshot() {
    let e = new();
    let (r, w) = pipe(0);
    ok!(ctl(e, EPOLL_CTL_ADD, r, EPOLLIN | EPOLLONESHOT, 1));
    ok!(write(w, b"ab"));
    eq!(ok!(waits(e, 8, 0)).len(), 1);
    ok!(write(w, b"cd"));
    eq!(ok!(waits(e, 8, 0)).len(), 0);
    ok!(ctl(e, EPOLL_CTL_MOD, r, EPOLLIN | EPOLLONESHOT, 2));
    eq!(ok!(waits(e, 8, 0)), [(EPOLLIN as u32, 2)]);
    err!(ctl(e, EPOLL_CTL_ADD, r, EPOLLIN, 1), EEXIST);
}

fn exclusive() {
    let e = new();
    let (r, w) = pipe(0);
    ok!(ctl(e, EPOLL_CTL_ADD, r, EPOLLIN | EPOLLEXCLUSIVE, 1));
    ok!(write(w, b"x"));
    eq!(ok!(waits(e, 8, 0)).len(), 1);
    err!(ctl(e, EPOLL_CTL_MOD, r, EPOLLIN, 1), EINVAL);
    let (r2, _w2) = pipe(0);
    err!(ctl(e, EPOLL_CTL_ADD, r2, EPOLLIN | EPOLLEXCLUSIVE | EPOLLONESHOT, 1), EINVAL);
    ok!(ctl(e, EPOLL_CTL_ADD, r2, EPOLLIN, 1));
    err!(ctl(e, EPOLL_CTL_MOD, r2, EPOLLIN | EPOLLEXCLUSIVE, 1), EINVAL);
}

fn modify_delete() {
    let e = new();
    let (r, w) = pipe(0);
    ok!(write(w, b"x"));
    ok!(ctl(e, EPOLL_CTL_ADD, r, 0, 1));
    eq!(ok!(waits(e, 8, 0)), []);
    ok!(ctl(e, EPOLL_CTL_MOD, r, EPOLLIN, 2));
    eq!(ok!(waits(e, 8, 0)), [(EPOLLIN as u32, 2)]);
    ok!(sys!(epoll_ctl, e, EPOLL_CTL_DEL, r, 0));
    eq!(ok!(waits(e, 8, 0)), []);
    err!(ctl(e, EPOLL_CTL_DEL, r, 0, 0), ENOENT);
    err!(ctl(e, EPOLL_CTL_MOD, r, EPOLLIN, 0), ENOENT);
}

fn ctl_errors() {
    let e = new();
    let (r, _w) = pipe(0);
    err!(ctl(e, EPOLL_CTL_ADD, 99, EPOLLIN, 0), EBADF);
    err!(ctl(99, EPOLL_CTL_ADD, r, EPOLLIN, 0), EBADF);
    err!(ctl(e, EPOLL_CTL_ADD, e, EPOLLIN, 0), EINVAL);
    err!(ctl(r, EPOLL_CTL_ADD, e, EPOLLIN, 0), EINVAL);
    err!(ctl(e, 9, r, EPOLLIN, 0), EINVAL);
    err!(sys!(epoll_ctl, e, EPOLL_CTL_ADD, r, 8), EFAULT);
    err!(sys!(epoll_create1, 1), EINVAL);
    err!(sys!(epoll_create, 0), EINVAL);
    err!(sys!(epoll_create, -1), EINVAL);
    let c = ok!(sys!(epoll_create1, EPOLL_CLOEXEC)) as i32;
    eq!(ok!(sys!(fcntl, c, F_GETFD)), 1);
    err!(read(e, 8), EINVAL);
}

fn wait_errors() {
    let e = new();
    err!(waits(e, 0, 0), EINVAL);
    err!(sys!(epoll_wait, e, m(&mut [0u8; 64]), -1, 0), EINVAL);
    err!(sys!(epoll_wait, 99, m(&mut [0u8; 64]), 1, 0), EBADF);
    err!(sys!(epoll_wait, 0, m(&mut [0u8; 64]), 1, 0), EINVAL);
    let (r, w) = pipe(0);
    ok!(ctl(e, EPOLL_CTL_ADD, r, EPOLLIN, 1));
    ok!(write(w, b"x"));
    err!(sys!(epoll_wait, e, 8, 1, 0), EFAULT);
    eq!(ok!(waits(e, 1, 0)).len(), 1);
}

fn unpollable() {
    let e = new();
    put("a", b"");
    let f = ok!(open(c"a", O_RDWR));
    err!(ctl(e, EPOLL_CTL_ADD, f, EPOLLIN, 0), EPERM);
    let d = ok!(open(c".", O_RDONLY));
    err!(ctl(e, EPOLL_CTL_ADD, d, EPOLLIN, 0), EPERM);
    let n = ok!(open(c"/dev/null", O_RDWR));
    err!(ctl(e, EPOLL_CTL_ADD, n, EPOLLIN, 0), EPERM);
    let o = ok!(open(c"a", O_PATH));
    err!(ctl(e, EPOLL_CTL_ADD, o, EPOLLIN, 0), EBADF);
}

fn nested() {
    let (outer, inner) = (new(), new());
    let (r, w) = pipe(0);
    ok!(ctl(inner, EPOLL_CTL_ADD, r, EPOLLIN, 1));
    ok!(ctl(outer, EPOLL_CTL_ADD, inner, EPOLLIN, 2));
    eq!(ok!(waits(outer, 8, 0)), []);
    ok!(write(w, b"x"));
    eq!(ok!(waits(outer, 8, 1000)), [(EPOLLIN as u32, 2)]);
    let mut pf = pollfd { fd: outer, events: POLLIN, revents: 0 };
    eq!(ok!(sys!(poll, m(&mut pf), 1, 0)), 1);
    ok!(read(r, 1));
    eq!(ok!(waits(outer, 8, 0)), []);
    eq!(ok!(sys!(poll, m(&mut pf), 1, 0)), 0);
}

fn loops() {
    let (a, b) = (new(), new());
    ok!(ctl(a, EPOLL_CTL_ADD, b, EPOLLIN, 0));
    err!(ctl(b, EPOLL_CTL_ADD, a, EPOLLIN, 0), ELOOP);
    let chain: Vec<i32> = (0..8).map(|_| new()).collect();
    let mut made = 0;
    for i in 1..8 {
        match ctl(chain[i], EPOLL_CTL_ADD, chain[i - 1], EPOLLIN, 0) {
            Ok(_) => made += 1,
            Err(e) => {
                say!("{i} {e:?}");
                break;
            }
        }
    }
    check!(made >= 3);
}

fn closed_descriptor() {
    let e = new();
    let (r, w) = pipe(0);
    ok!(ctl(e, EPOLL_CTL_ADD, r, EPOLLIN, 1));
    ok!(write(w, b"x"));
    close(r);
    eq!(ok!(waits(e, 8, 0)), []);
    err!(ctl(e, EPOLL_CTL_DEL, r, 0, 0), EBADF);
}

fn dup_keeps() {
    // the registration belongs to the open file description
    let e = new();
    let (r, w) = pipe(0);
    ok!(ctl(e, EPOLL_CTL_ADD, r, EPOLLIN, 1));
    let d = ok!(sys!(dup, r)) as i32;
    close(r);
    ok!(write(w, b"x"));
    eq!(ok!(waits(e, 8, 0)), [(EPOLLIN as u32, 1)]);
    ok!(ctl(e, EPOLL_CTL_ADD, d, EPOLLIN, 2));
    eq!(ok!(waits(e, 8, 0)).len(), 2);
    close(d);
    eq!(ok!(waits(e, 8, 0)).len(), 0);
}

fn max_events() {
    let e = new();
    let pipes: Vec<_> = (0..10).map(|_| pipe(0)).collect();
    for (i, (r, w)) in pipes.iter().enumerate() {
        ok!(ctl(e, EPOLL_CTL_ADD, *r, EPOLLIN, i as u64));
        ok!(write(*w, b"x"));
    }
    eq!(ok!(waits(e, 3, 0)).len(), 3);
    eq!(ok!(waits(e, 100, 0)).len(), 10);
}

fn fairness() {
    // ready descriptors take turns where only a few fit
    let e = new();
    let pipes: Vec<_> = (0..6).map(|_| pipe(0)).collect();
    for (i, (r, w)) in pipes.iter().enumerate() {
        ok!(ctl(e, EPOLL_CTL_ADD, *r, EPOLLIN, i as u64));
        ok!(write(*w, b"x"));
    }
    let mut seen = vec![];
    for _ in 0..3 {
        seen.extend(ok!(waits(e, 2, 0)).iter().map(|x| x.1));
    }
    say!("{seen:?}");
}

fn timeout() {
    let e = new();
    let t = now(CLOCK_MONOTONIC);
    eq!(ok!(waits(e, 1, 30)), []);
    check!(now(CLOCK_MONOTONIC) - t >= 0.03);
}

fn blocking_wake() {
    let e = new();
    let (r, w) = pipe(0);
    ok!(ctl(e, EPOLL_CTL_ADD, r, EPOLLIN, 1));
    let child = fork(|| {
        ms(30);
        ok!(write(w, b"x"));
    });
    eq!(ok!(waits(e, 8, 10_000)).len(), 1);
    eq!(wait(child), 0);
    // added while somebody waits
    let (r2, w2) = pipe(0);
    ok!(read(r, 1));
    let t = threads(1, move |_| {
        ms(30);
        ok!(ctl(e, EPOLL_CTL_ADD, r2, EPOLLIN, 7));
        ok!(write(w2, b"x"));
    });
    eq!(ok!(waits(e, 8, 10_000)), [(EPOLLIN as u32, 7)]);
    for x in t {
        x.join().unwrap();
    }
}

fn fork_shares() {
    let e = new();
    let (r, w) = pipe(0);
    in_child(|| {
        ok!(ctl(e, EPOLL_CTL_ADD, r, EPOLLIN, 5));
    });
    ok!(write(w, b"x"));
    eq!(ok!(waits(e, 8, 0)), [(EPOLLIN as u32, 5)]);
}

fn hangup() {
    let e = new();
    let (r, w) = pipe(0);
    ok!(ctl(e, EPOLL_CTL_ADD, r, 0, 1));
    close(w);
    say!("{:x?}", ok!(waits(e, 8, 0)));
    let (r2, w2) = pipe(0);
    ok!(ctl(e, EPOLL_CTL_MOD, r, EPOLLIN | EPOLLONESHOT, 1));
    ok!(waits(e, 8, 0));
    ok!(ctl(e, EPOLL_CTL_ADD, w2, 0, 2));
    close(r2);
    say!("{:x?}", ok!(waits(e, 8, 0)));
    let mut s = [0i32; 2];
    ok!(sys!(socketpair, AF_UNIX, SOCK_STREAM, 0, m(&mut s)));
    let f = new();
    ok!(ctl(f, EPOLL_CTL_ADD, s[0], EPOLLIN | EPOLLRDHUP, 3));
    ok!(sys!(shutdown, s[1], SHUT_WR));
    say!("{:x?}", ok!(waits(f, 8, 0)));
    close(s[1]);
    say!("{:x?}", ok!(waits(f, 8, 0)));
}

fn pwait2() {
    let e = new();
    let t = ts(20);
    let mut b = [0u8; 64];
    let t0 = now(CLOCK_MONOTONIC);
    eq!(ok!(sys!(epoll_pwait2, e, m(&mut b), 1, p(&t), 0, 0)), 0);
    check!(now(CLOCK_MONOTONIC) - t0 >= 0.02);
    err!(sys!(epoll_pwait2, e, m(&mut b), 1, p(&timespec { tv_sec: 0, tv_nsec: -1 }), 0, 0), EINVAL);
    err!(sys!(epoll_pwait, e, m(&mut b), 1, 0, p(&0u64), 4), EINVAL);
}

fn threads_share() {
    // each of many events reaches exactly one of the waiting threads
    let e = new();
    let (r, w) = pipe(O_NONBLOCK);
    ok!(ctl(e, EPOLL_CTL_ADD, r, EPOLLIN, 1));
    let got: &'static std::sync::atomic::AtomicUsize = Box::leak(Box::new(Default::default()));
    use std::sync::atomic::Ordering::SeqCst;
    let t = threads(4, move |_| {
        while got.load(SeqCst) < 2000 {
            if ok!(waits(e, 1, 50)).len() == 1 && read(r, 1).is_ok_and(|b| b.len() == 1) {
                got.fetch_add(1, SeqCst);
            }
        }
    });
    for _ in 0..2000 {
        while write(w, b"x") == Err(EAGAIN) {}
    }
    for x in t {
        x.join().unwrap();
    }
    eq!(got.load(SeqCst), 2000);
}

fn many_descriptors() {
    let e = new();
    let f: Vec<i32> = (0..400).map(|_| ok!(sys!(eventfd2, 0, 0)) as i32).collect();
    for x in &f {
        ok!(ctl(e, EPOLL_CTL_ADD, *x, EPOLLIN, *x as u64));
    }
    for x in f.iter().step_by(3) {
        ok!(write(*x, &1u64.to_le_bytes()));
        let v = ok!(waits(e, 500, 0));
        eq!(v, [(EPOLLIN as u32, *x as u64)]);
        ok!(read(*x, 8));
    }
}

/// Bytes that each writer of the stress tests writes, one at a time.
const BYTES: usize = 1500;

/// Pipes that are not waited for, with a thread that fills each.
fn written(n: usize) -> (&'static [(i32, i32)], Vec<std::thread::JoinHandle<()>>) {
    let pipes: &'static [(i32, i32)] = Box::leak((0..n).map(|_| pipe(O_NONBLOCK)).collect());
    let writers = threads(n, move |i| {
        for k in 0..BYTES {
            while write(pipes[i].1, b"x") == Err(EAGAIN) {
                std::thread::yield_now();
            }
            if k % 64 == i {
                std::thread::yield_now();
            }
        }
    });
    (pipes, writers)
}

/// What was read until nothing was left.
fn drain(r: i32) -> usize {
    let mut n = 0;
    while let Ok(b) = read(r, 64) {
        n += b.len();
    }
    n
}

fn join(all: Vec<std::thread::JoinHandle<()>>) {
    for x in all {
        x.join().unwrap();
    }
}

fn stress_edge() {
    // Edges reach somebody although items are taken out and put back while bytes come.
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    static GOT: AtomicUsize = AtomicUsize::new(0);
    let e = new();
    let (pipes, writers) = written(6);
    let all = pipes.len() * BYTES;
    for (i, (r, _)) in pipes.iter().enumerate() {
        ok!(ctl(e, EPOLL_CTL_ADD, *r, EPOLLIN | EPOLLET, i as u64));
    }
    let readers = threads(4, move |_| {
        while GOT.load(SeqCst) < all {
            for (events, i) in ok!(waits(e, 3, 20)) {
                eq!(events & !(EPOLLIN as u32), 0);
                GOT.fetch_add(drain(pipes[i as usize].0), SeqCst);
            }
        }
    });
    let changer = threads(1, move |_| {
        let mut n = 0;
        while GOT.load(SeqCst) < all {
            n += 1;
            let r = pipes[n % 3].0;
            if n % 2 == 0 {
                ok!(ctl(e, EPOLL_CTL_MOD, r, EPOLLIN | EPOLLET, (n % 3) as u64));
            } else {
                ok!(ctl(e, EPOLL_CTL_DEL, r, 0, 0));
                ok!(ctl(e, EPOLL_CTL_ADD, r, EPOLLIN | EPOLLET, (n % 3) as u64));
            }
        }
    });
    join(writers);
    join(readers);
    join(changer);
    eq!(GOT.load(SeqCst), all);
    eq!(ok!(waits(e, 8, 0)), []);
}

fn stress_oneshot() {
    // Armed once, a descriptor is one thread's until it is armed again.
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
    static GOT: AtomicUsize = AtomicUsize::new(0);
    static BUSY: [AtomicBool; 4] = [const { AtomicBool::new(false) }; 4];
    let e = new();
    let (pipes, writers) = written(4);
    let all = pipes.len() * BYTES;
    for (i, (r, _)) in pipes.iter().enumerate() {
        ok!(ctl(e, EPOLL_CTL_ADD, *r, EPOLLIN | EPOLLONESHOT, i as u64));
    }
    let readers = threads(6, move |_| {
        while GOT.load(SeqCst) < all {
            for (_, i) in ok!(waits(e, 2, 20)) {
                let at = i as usize;
                check!(!BUSY[at].swap(true, SeqCst));
                let n = read(pipes[at].0, 7).map_or(0, |b| b.len());
                check!(n > 0);
                check!(BUSY[at].swap(false, SeqCst));
                GOT.fetch_add(n, SeqCst);
                ok!(ctl(e, EPOLL_CTL_MOD, pipes[at].0, EPOLLIN | EPOLLONESHOT, i));
            }
        }
    });
    join(writers);
    join(readers);
    eq!(GOT.load(SeqCst), all);
}

fn stress_exclusive() {
    // Of many instances that wait exclusively, some are woken for each event, and none of the events is lost.
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    const EVENTS: usize = 3000;
    static GOT: AtomicUsize = AtomicUsize::new(0);
    let f = ok!(sys!(eventfd2, 0, EFD_SEMAPHORE | EFD_NONBLOCK)) as i32;
    let readers = threads(6, move |_| {
        let e = new();
        ok!(ctl(e, EPOLL_CTL_ADD, f, EPOLLIN | EPOLLEXCLUSIVE, 1));
        // Without a time limit: a lost wake-up would be a hang. The last event wakes everybody, one after another.
        while ok!(waits(e, 1, -1)).len() == 1 {
            if GOT.load(SeqCst) >= EVENTS {
                break;
            }
            if read(f, 8).is_ok() && GOT.fetch_add(1, SeqCst) + 1 == EVENTS {
                break;
            }
        }
        ok!(write(f, &1u64.to_le_bytes()));
    });
    for n in 0..EVENTS {
        ok!(write(f, &1u64.to_le_bytes()));
        if n % 100 == 0 {
            std::thread::yield_now();
        }
    }
    join(readers);
    // The one that ends the others may have been taken for one of them.
    check!(GOT.load(SeqCst) >= EVENTS);
}

fn stress_nested() {
    // Events reach whoever waits for an instance of instances, while some of these are taken out and put back.
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    static GOT: AtomicUsize = AtomicUsize::new(0);
    let outer = new();
    let (pipes, writers) = written(6);
    let all = pipes.len() * BYTES;
    let inner: &'static [i32] = Box::leak((0..3).map(|_| new()).collect());
    for (i, (r, _)) in pipes.iter().enumerate() {
        ok!(ctl(inner[i % 3], EPOLL_CTL_ADD, *r, if i % 2 == 0 { EPOLLIN } else { EPOLLIN | EPOLLET }, *r as u64));
    }
    for (i, e) in inner.iter().enumerate() {
        ok!(ctl(outer, EPOLL_CTL_ADD, *e, EPOLLIN, i as u64));
    }
    let readers = threads(3, move |_| {
        while GOT.load(SeqCst) < all {
            for (_, i) in ok!(waits(outer, 2, 20)) {
                for (_, r) in ok!(waits(inner[i as usize], 4, 0)) {
                    GOT.fetch_add(drain(r as i32), SeqCst);
                }
            }
        }
    });
    let changer = threads(1, move |_| {
        while GOT.load(SeqCst) < all {
            ok!(ctl(outer, EPOLL_CTL_DEL, inner[0], 0, 0));
            std::thread::yield_now();
            ok!(ctl(outer, EPOLL_CTL_ADD, inner[0], EPOLLIN, 0));
        }
    });
    join(writers);
    join(readers);
    join(changer);
    eq!(GOT.load(SeqCst), all);
}
