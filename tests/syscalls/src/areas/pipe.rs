//! Pipes and FIFOs.

use crate::sys::*;
use crate::{check, eq, err, list, ok, say, sys};

pub const TESTS: &[crate::Test] = list!["pipe";
    basics, ends, capacity, atomic_writes, nonblock, blocking_reader_writer, big_transfer, packet_mode, resize, fionread, polling, many_writers, fifo_unlinked, broken, stat_of, args, chain,
];

fn basics() {
    let (r, w) = pipe(0);
    eq!(ok!(write(w, b"one")), 3);
    ok!(write(w, b"two"));
    eq!(ok!(read(r, 2)), b"on");
    eq!(ok!(read(r, 99)), b"etwo");
    close(w);
    eq!(ok!(read(r, 99)), b"");
    eq!(ok!(read(r, 99)), b"");
}

fn ends() {
    let (r, w) = pipe(0);
    err!(write(r, b"x"), EBADF);
    err!(read(w, 1), EBADF);
    err!(sys!(lseek, r, 0, SEEK_SET), ESPIPE);
    err!(sys!(fsync, w), EINVAL);
    err!(sys!(fchdir, r), ENOTDIR);
}

fn args() {
    let mut f = [0i32; 2];
    err!(sys!(pipe2, m(&mut f), 1), EINVAL);
    err!(sys!(pipe2, 8, 0), EFAULT);
    ok!(sys!(pipe, m(&mut f)));
    ok!(sys!(pipe2, m(&mut f), O_CLOEXEC | O_NONBLOCK | O_DIRECT));
    eq!(ok!(sys!(fcntl, f[0], F_GETFD)), 1);
}

fn capacity() {
    let (r, w) = pipe(O_NONBLOCK);
    let mut n = 0;
    while let Ok(k) = write(w, &[1; 4096]) {
        n += k;
    }
    eq!(n, 65536);
    err!(write(w, b"x"), EAGAIN);
    eq!(ok!(read(r, 4095)).len(), 4095);
    err!(write(w, &[1; 4096]), EAGAIN);
    eq!(ok!(read(r, 1)).len(), 1);
    eq!(ok!(write(w, &[1; 4096])), 4096);
    err!(write(w, b"x"), EAGAIN);
}

fn resize() {
    let (r, w) = pipe(O_NONBLOCK);
    eq!(ok!(sys!(fcntl, w, F_GETPIPE_SZ)), 65536);
    eq!(ok!(sys!(fcntl, r, F_SETPIPE_SZ, 5000)), 8192);
    eq!(ok!(write(w, &[1; 20000])), 8192);
    err!(sys!(fcntl, w, F_SETPIPE_SZ, 4096), EBUSY);
    eq!(ok!(sys!(fcntl, w, F_SETPIPE_SZ, 1 << 20)), 1 << 20);
    eq!(ok!(read(r, 20000)).len(), 8192);
    let mut total = 0;
    while let Ok(k) = write(w, &[2; 65536]) {
        total += k;
    }
    eq!(total, 1 << 20);
    eq!(ok!(sys!(fcntl, w, F_SETPIPE_SZ, 0).or_else(|e| if e == EINVAL || e == EBUSY { Ok(0) } else { Err(e) })), 0);
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1000, 1000));
        let (r, _w) = pipe(0);
        err!(sys!(fcntl, r, F_SETPIPE_SZ, 2 << 20), EPERM);
    });
    let null = ok!(open(c"/dev/null", O_RDWR));
    err!(sys!(fcntl, null, F_GETPIPE_SZ), EBADF);
}

fn atomic_writes() {
    // writes up to PIPE_BUF are never mixed
    let (r, w) = pipe(0);
    for i in 0..4u8 {
        fork(|| {
            for _ in 0..200 {
                ok!(write(w, &[i; 1000]));
            }
        });
    }
    close(w);
    let mut data = vec![];
    loop {
        let b = ok!(read(r, 8192));
        if b.is_empty() {
            break;
        }
        data.extend(b);
    }
    eq!(data.len(), 800_000);
    check!(data.chunks(1000).all(|c| c.iter().all(|x| *x == c[0])));
    for _ in 0..4 {
        ok!(sys!(wait4, -1, 0, 0, 0));
    }
}

fn nonblock() {
    let (r, w) = pipe(O_NONBLOCK);
    err!(read(r, 1), EAGAIN);
    eq!(ok!(write(w, &[0; 100_000])), 65536);
    close(r);
    action(SIGPIPE, SIG_IGN);
    err!(write(w, b"x"), EPIPE);
}

fn blocking_reader_writer() {
    let (r, w) = pipe(0);
    let child = fork(|| {
        eq!(ok!(read(r, 99)), b"late");
    });
    until("it sleeps", || state(child) == 'S');
    ok!(write(w, b"late"));
    eq!(wait(child), 0);
    let child = fork(|| {
        eq!(ok!(write(w, &[7; 150_000])), 150_000);
    });
    until("it sleeps", || state(child) == 'S');
    let mut n = 0;
    while n < 150_000 {
        n += ok!(read(r, 10_000)).len();
    }
    eq!(wait(child), 0);
}

fn big_transfer() {
    let (r, w) = pipe(0);
    let child = fork(|| {
        close(r);
        let b: Vec<u8> = (0..100_003u32).map(|i| (i * 7 % 253) as u8).collect();
        for _ in 0..100 {
            eq!(ok!(write(w, &b)), b.len() as i64);
        }
    });
    close(w);
    let (mut sum, mut n) = (0u64, 0usize);
    loop {
        let b = ok!(read(r, 33_333));
        if b.is_empty() {
            break;
        }
        n += b.len();
        for x in b {
            sum = sum.wrapping_mul(1_000_003).wrapping_add(u64::from(x));
        }
    }
    eq!(wait(child), 0);
    say!("{n} {sum:x}");
}

fn packet_mode() {
    let (r, w) = pipe(O_DIRECT);
    ok!(write(w, b"first"));
    ok!(write(w, b"second"));
    eq!(ok!(read(r, 99)), b"first");
    eq!(ok!(read(r, 3)), b"sec");
    ok!(write(w, &[1; 5000]));
    eq!(ok!(read(r, 9999)).len(), 4096);
    eq!(ok!(read(r, 9999)).len(), 904);
}

fn fionread() {
    let (r, w) = pipe(0);
    let mut n = -1i32;
    ok!(sys!(ioctl, r, FIONREAD, m(&mut n)));
    eq!(n, 0);
    ok!(write(w, &[0; 1234]));
    ok!(sys!(ioctl, r, FIONREAD, m(&mut n)));
    eq!(n, 1234);
    ok!(sys!(ioctl, w, FIONREAD, m(&mut n)));
    eq!(n, 1234);
    err!(sys!(ioctl, r, TCGETS, m(&mut [0u8; 64])), ENOTTY);
    err!(sys!(ioctl, r, 0x9999, 0), ENOTTY);
}

fn polled(fd: i32, events: i16) -> i16 {
    let mut pf = pollfd { fd, events, revents: 0 };
    ok!(sys!(poll, m(&mut pf), 1, 0));
    pf.revents
}

fn polling() {
    let (r, w) = pipe(O_NONBLOCK);
    let all = POLLIN | POLLOUT | POLLPRI | POLLRDHUP;
    say!("empty {:#x} {:#x}", polled(r, all), polled(w, all));
    ok!(write(w, b"x"));
    say!("one byte {:#x} {:#x}", polled(r, all), polled(w, all));
    while write(w, &[0; 4096]).is_ok() {}
    say!("full {:#x} {:#x}", polled(r, all), polled(w, all));
    ok!(read(r, 4000));
    say!("nearly full {:#x} {:#x}", polled(r, all), polled(w, all));
    ok!(read(r, 4096));
    say!("a page free {:#x} {:#x}", polled(r, all), polled(w, all));
    let r2 = ok!(sys!(dup, r)) as i32;
    close(w);
    say!("no writer {:#x}", polled(r2, all));
    while !ok!(read(r, 65536)).is_empty() {}
    say!("and empty {:#x}", polled(r, all));
    let (r, w) = pipe(0);
    close(r);
    say!("no reader {:#x}", polled(w, all));
}

fn many_writers() {
    let (r, w) = pipe(0);
    for i in 0..20u8 {
        fork(|| {
            ok!(write(w, &[i]));
        });
    }
    close(w);
    let mut v = vec![];
    loop {
        let b = ok!(read(r, 5));
        if b.is_empty() {
            break;
        }
        v.extend(b);
    }
    v.sort();
    eq!(v, (0..20).collect::<Vec<u8>>());
    while sys!(wait4, -1, 0, 0, 0).is_ok() {}
}

fn fifo_unlinked() {
    ok!(sys!(mknod, c"p", S_IFIFO | 0o600, 0));
    let rw = ok!(open(c"p", O_RDWR));
    ok!(sys!(unlink, c"p"));
    ok!(write(rw, b"still"));
    eq!(ok!(read(rw, 9)), b"still");
    ok!(sys!(mknod, c"p", S_IFIFO | 0o600, 0));
    let other = ok!(open(c"p", O_RDWR | O_NONBLOCK));
    ok!(write(rw, b"x"));
    err!(read(other, 1), EAGAIN);
}

fn broken() {
    let (r, w) = pipe(0);
    action(SIGPIPE, SIG_IGN);
    let child = fork(|| {
        err!(write(w, &[0; 100_000]).and_then(|n| if n < 100_000 { write(w, b"x") } else { Ok(n) }), EPIPE);
    });
    until("it sleeps", || state(child) == 'S');
    close(r);
    // the child holds a read end too, unless it closes it
    ok!(sys!(kill, child, SIGKILL));
    wait(child);
    err!(write(w, b"x"), EPIPE);
}

fn stat_of() {
    let (r, w) = pipe(0);
    let (a, b) = (fstat(r), fstat(w));
    eq!((a.st_ino, a.st_dev, a.st_mode), (b.st_ino, b.st_dev, S_IFIFO | 0o600));
    let (c, _) = pipe(0);
    check!(fstat(c).st_ino != a.st_ino);
    ok!(sys!(fchmod, r, 0o666));
    eq!(fstat(w).st_mode & 0o777, 0o666);
    eq!(std::fs::read_link(format!("/proc/self/fd/{r}")).unwrap().to_string_lossy(), format!("pipe:[{}]", a.st_ino));
    let again = ok!(open(&super::super::sys::c(format!("/proc/self/fd/{r}")), O_WRONLY));
    ok!(write(again, b"via proc"));
    eq!(ok!(read(r, 99)), b"via proc");
}

fn chain() {
    // a ring of ten processes passes a counter round
    let pipes: Vec<_> = (0..11).map(|_| pipe(0)).collect();
    for i in 0..10 {
        fork(|| {
            for _ in 0..50 {
                let v = ok!(read(pipes[i].0, 1));
                ok!(write(pipes[i + 1].1, &[v[0].wrapping_add(1)]));
            }
        });
    }
    let mut v = 0u8;
    for _ in 0..50 {
        ok!(write(pipes[0].1, &[v]));
        v = ok!(read(pipes[10].0, 1))[0];
    }
    eq!(v, (500 % 256) as u8);
    while sys!(wait4, -1, 0, 0, 0).is_ok() {}
}
