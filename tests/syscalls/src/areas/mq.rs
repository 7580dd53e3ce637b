//! POSIX message queues.

use crate::sys::*;
use crate::{check, eq, err, list, ok, say, sys};

pub const TESTS: &[crate::Test] = list!["mq"; send_receive, names, open_flags, attributes, limits, priorities, nonblocking, timeouts, blocks_and_wakes,
    notify_signal, notify_rules, notify_thread, polling, file_system, unlinked, permissions, errors, rlimit, interrupted];

#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq)]
struct Attr {
    flags: i64,
    max: i64,
    size: i64,
    count: i64,
    reserved: [i64; 4],
}

fn attr(max: i64, size: i64) -> Attr {
    Attr { max, size, ..Attr::default() }
}

fn mq(name: &std::ffi::CStr, flags: i32, a: Option<&Attr>) -> Result<i32, E> {
    sys!(mq_open, name, flags, 0o600, a.map_or(0, |a| p(a))).map(|f| f as i32)
}

fn new(name: &std::ffi::CStr, max: i64, size: i64) -> i32 {
    ok!(mq(name, O_RDWR | O_CREAT | O_EXCL, Some(&attr(max, size))))
}

fn send(q: i32, text: &[u8], prio: u32) -> R {
    sys!(mq_timedsend, q, p(text), text.len(), prio, 0)
}

fn receive(q: i32, room: usize) -> Result<(Vec<u8>, u32), E> {
    let mut buf = vec![0u8; room];
    let mut prio = 99u32;
    let n = sys!(mq_timedreceive, q, m(&mut buf[..]), room, m(&mut prio), 0)?;
    buf.truncate(n as usize);
    Ok((buf, prio))
}

fn get_attr(q: i32) -> Attr {
    let mut a = Attr::default();
    ok!(sys!(mq_getsetattr, q, 0, m(&mut a)));
    a
}

fn send_receive() {
    let q = new(c"a", 4, 16);
    ok!(send(q, b"hello", 0));
    ok!(send(q, b"", 0));
    eq!(ok!(receive(q, 16)), (b"hello".to_vec(), 0));
    eq!(ok!(receive(q, 100)), (b"".to_vec(), 0));
    let other = ok!(mq(c"a", O_RDONLY, None));
    ok!(send(q, b"across", 3));
    eq!(ok!(receive(other, 16)), (b"across".to_vec(), 3));
}

fn names() {
    err!(mq(c"", O_RDWR | O_CREAT, None), ENOENT);
    err!(mq(c"/a", O_RDWR | O_CREAT, None), EACCES);
    err!(mq(c"a/b", O_RDWR | O_CREAT, None), EACCES);
    err!(mq(c".", O_RDWR, None), EACCES);
    err!(mq(c"..", O_RDWR | O_CREAT, None), EACCES);
    err!(mq(c"none", O_RDWR, None), ENOENT);
    let long = c("x".repeat(256));
    err!(mq(&long, O_RDWR | O_CREAT, None), ENAMETOOLONG);
    ok!(mq(&c("x".repeat(255)), O_RDWR | O_CREAT, None));
    err!(sys!(mq_unlink, c"none"), ENOENT);
    err!(sys!(mq_unlink, c"a/b"), EACCES);
    err!(sys!(mq_open, 8, O_RDWR, 0, 0), EFAULT);
}

fn open_flags() {
    let q = ok!(mq(c"q", O_RDWR | O_CREAT, None));
    eq!(ok!(sys!(fcntl, q, F_GETFD)), 1);
    err!(mq(c"q", O_RDWR | O_CREAT | O_EXCL, None), EEXIST);
    // of a queue that is there attributes do not count
    ok!(mq(c"q", O_RDWR | O_CREAT, Some(&attr(-1, 0))));
    err!(mq(c"q", 3, None), EINVAL);
    let r = ok!(mq(c"q", O_RDONLY | O_NONBLOCK, None));
    eq!(get_attr(r).flags, i64::from(O_NONBLOCK));
    err!(send(r, b"x", 0), EBADF);
    let w = ok!(mq(c"q", O_WRONLY, None));
    err!(receive(w, 8192), EBADF);
    say!("{}", std::fs::read_link(format!("/proc/self/fd/{q}")).unwrap().display());
}

fn attributes() {
    let q = ok!(mq(c"q", O_RDWR | O_CREAT, None));
    eq!(get_attr(q), attr(10, 8192));
    let q = new(c"small", 3, 5);
    ok!(send(q, b"abc", 1));
    eq!(get_attr(q), Attr { count: 1, ..attr(3, 5) });
    let mut old = Attr::default();
    let set = Attr { flags: i64::from(O_NONBLOCK), max: 99, size: 99, ..Attr::default() };
    ok!(sys!(mq_getsetattr, q, p(&set), m(&mut old)));
    eq!(old.flags, 0);
    eq!(get_attr(q), Attr { flags: i64::from(O_NONBLOCK), count: 1, ..attr(3, 5) });
    eq!(ok!(sys!(fcntl, q, F_GETFL)) as i32 & O_NONBLOCK, O_NONBLOCK);
    let set = Attr { flags: i64::from(O_APPEND), ..Attr::default() };
    err!(sys!(mq_getsetattr, q, p(&set), 0), EINVAL);
    err!(sys!(mq_getsetattr, q, 8, 0), EFAULT);
    err!(sys!(mq_getsetattr, 1, 0, m(&mut old)), EBADF);
}

fn limits() {
    for (max, size) in [(0, 1), (1, 0), (-1, 8), (65_537, 1), (1, (16 << 20) + 1), (i64::MAX, i64::MAX)] {
        err!(mq(c"bad", O_RDWR | O_CREAT, Some(&attr(max, size))), EINVAL);
    }
    err!(mq(c"bad", O_RDWR | O_CREAT, Some(unsafe { &*(8 as *const Attr) })), EFAULT);
    for f in ["msg_default", "msg_max", "msgsize_default", "msgsize_max", "queues_max"] {
        say!("{f} {}", String::from_utf8_lossy(&get(&format!("/proc/sys/fs/mqueue/{f}"))).trim());
    }
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1000, 1000));
        ok!(mq(c"ten", O_RDWR | O_CREAT, Some(&attr(10, 8192))));
        err!(mq(c"bad", O_RDWR | O_CREAT, Some(&attr(11, 1))), EINVAL);
        err!(mq(c"bad", O_RDWR | O_CREAT, Some(&attr(1, 8193))), EINVAL);
    });
}

fn priorities() {
    let q = new(c"q", 8, 8);
    for (text, prio) in [("a", 1), ("b", 32_767), ("c", 1), ("d", 0), ("e", 32_767)] {
        ok!(send(q, text.as_bytes(), prio));
    }
    err!(send(q, b"x", 32_768), EINVAL);
    let order: Vec<u8> = (0..5).map(|_| ok!(receive(q, 8)).0[0]).collect();
    eq!(order, b"beacd");
}

fn nonblocking() {
    new(c"q", 2, 4);
    let q = ok!(mq(c"q", O_RDWR | O_NONBLOCK, None));
    err!(receive(q, 4), EAGAIN);
    ok!(send(q, b"1", 0));
    ok!(send(q, b"2", 0));
    err!(send(q, b"3", 0), EAGAIN);
    eq!(get_attr(q).count, 2);
}

fn timeouts() {
    let q = new(c"q", 1, 4);
    let mut buf = [0u8; 4];
    let wall = |ms: i64| {
        let t = now(CLOCK_REALTIME) + ms as f64 / 1000.0;
        timespec { tv_sec: t as i64, tv_nsec: ((t - t.floor()) * 1e9) as i64 }
    };
    let begin = now(CLOCK_MONOTONIC);
    err!(sys!(mq_timedreceive, q, m(&mut buf), 4, 0, p(&wall(50))), ETIMEDOUT);
    check!(now(CLOCK_MONOTONIC) - begin >= 0.045);
    err!(sys!(mq_timedreceive, q, m(&mut buf), 4, 0, p(&wall(-1000))), ETIMEDOUT);
    ok!(send(q, b"full", 0));
    err!(sys!(mq_timedsend, q, p(b"x"), 1, 0, p(&wall(20))), ETIMEDOUT);
    // a time counts only where it is waited for, but it must be one
    ok!(sys!(mq_timedreceive, q, m(&mut buf), 4, 0, p(&wall(-1000))));
    for bad in [timespec { tv_sec: 0, tv_nsec: -1 }, timespec { tv_sec: -1, tv_nsec: 0 }, timespec { tv_sec: 0, tv_nsec: 1_000_000_000 }] {
        err!(sys!(mq_timedsend, q, p(b"x"), 1, 0, p(&bad)), EINVAL);
    }
    err!(sys!(mq_timedsend, q, p(b"x"), 1, 0, 8), EFAULT);
}

fn blocks_and_wakes() {
    let q = new(c"q", 1, 8);
    let child = fork(|| {
        for i in 0..50u8 {
            ok!(send(q, &[i], 0));
        }
    });
    for i in 0..50u8 {
        eq!(ok!(receive(q, 8)).0, [i]);
    }
    eq!(wait(child), 0);
    let child = fork(|| {
        eq!(ok!(receive(q, 8)).0, b"woken");
    });
    until("the child waits", || state(child) == 'S');
    ok!(send(q, b"woken", 0));
    eq!(wait(child), 0);
}

fn event(notify: i32, signo: i32, value: usize) -> sigevent {
    let mut e = unsafe { std::mem::zeroed::<sigevent>() };
    e.sigev_notify = notify;
    e.sigev_signo = signo;
    e.sigev_value.sival_ptr = value as *mut c_void;
    e
}

fn notify_signal() {
    let q = new(c"q", 4, 8);
    mask(SIG_BLOCK, &[SIGUSR1]);
    ok!(sys!(mq_notify, q, p(&event(SIGEV_SIGNAL, SIGUSR1, 0x1234_5678_9abc))));
    let me = getpid();
    let child = fork(|| {
        ok!(send(q, b"one", 0));
        ok!(send(q, b"two", 0));
    });
    eq!(wait(child), 0);
    let mut info = unsafe { std::mem::zeroed::<siginfo_t>() };
    eq!(ok!(sys!(rt_sigtimedwait, p(&set(&[SIGUSR1])), m(&mut info), p(&ts(5000)), 8)), i64::from(SIGUSR1));
    eq!(info.si_code, -3);
    eq!(unsafe { info.si_pid() }, child);
    eq!(unsafe { info.si_value().sival_ptr } as usize, 0x1234_5678_9abc);
    // once only, and only for a queue that was empty
    err!(sys!(rt_sigtimedwait, p(&set(&[SIGUSR1])), 0, p(&ts(0)), 8), EAGAIN);
    ok!(sys!(mq_notify, q, p(&event(SIGEV_SIGNAL, SIGUSR1, 0))));
    ok!(send(q, b"three", 0));
    err!(sys!(rt_sigtimedwait, p(&set(&[SIGUSR1])), 0, p(&ts(0)), 8), EAGAIN);
    check!(me == getpid());
}

fn notify_rules() {
    let q = new(c"q", 4, 8);
    let e = event(SIGEV_NONE, 0, 0);
    ok!(sys!(mq_notify, q, p(&e)));
    err!(sys!(mq_notify, q, p(&e)), EBUSY);
    in_child(|| {
        err!(sys!(mq_notify, q, p(&e)), EBUSY);
        // not one's own: nothing happens
        ok!(sys!(mq_notify, q, 0));
        err!(sys!(mq_notify, q, p(&e)), EBUSY);
    });
    ok!(sys!(mq_notify, q, 0));
    in_child(|| {
        ok!(sys!(mq_notify, q, p(&e)));
    });
    // the subscriber has ended
    ok!(sys!(mq_notify, q, p(&event(SIGEV_SIGNAL, SIGUSR1, 0))));
    // who waits for a message gets it instead
    let child = fork(|| {
        eq!(ok!(receive(q, 8)).0, b"x");
    });
    mask(SIG_BLOCK, &[SIGUSR1]);
    until("the child waits", || state(child) == 'S');
    ok!(send(q, b"x", 0));
    eq!(wait(child), 0);
    err!(sys!(rt_sigtimedwait, p(&set(&[SIGUSR1])), 0, p(&ts(0)), 8), EAGAIN);
    // closing any descriptor of it ends it
    close(ok!(mq(c"q", O_RDONLY, None)));
    ok!(sys!(mq_notify, q, p(&e)));
    err!(sys!(mq_notify, q, p(&event(17, 0, 0))), EINVAL);
    err!(sys!(mq_notify, q, p(&event(SIGEV_SIGNAL, 65, 0))), EINVAL);
    err!(sys!(mq_notify, 1, p(&e)), EBADF);
    err!(sys!(mq_notify, q, 8), EFAULT);
}

/// What the C library does for SIGEV_THREAD.
fn notify_thread() {
    let q = new(c"q", 4, 8);
    let socket = ok!(sys!(socket, AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0)) as i32;
    let cookie = [7u8; 32];
    ok!(sys!(mq_notify, q, p(&event(SIGEV_THREAD, socket, cookie.as_ptr() as usize))));
    ok!(send(q, b"x", 0));
    let mut got = [0u8; 64];
    eq!(ok!(sys!(recvfrom, socket, m(&mut got), 64, 0, 0, 0)), 32);
    eq!((&got[..31], got[31]), (&cookie[..31], 1));
    ok!(receive(q, 8));
    ok!(sys!(mq_notify, q, p(&event(SIGEV_THREAD, socket, cookie.as_ptr() as usize))));
    ok!(sys!(mq_notify, q, 0));
    eq!(ok!(sys!(recvfrom, socket, m(&mut got), 64, 0, 0, 0)), 32);
    eq!(got[31], 2);
    err!(sys!(mq_notify, q, p(&event(SIGEV_THREAD, q, cookie.as_ptr() as usize))), ENOTSOCK);
    err!(sys!(mq_notify, q, p(&event(SIGEV_THREAD, 99, cookie.as_ptr() as usize))), EBADF);
    err!(sys!(mq_notify, q, p(&event(SIGEV_THREAD, socket, 8))), EFAULT);
}

fn polled(fd: i32) -> i16 {
    let mut f = pollfd { fd, events: POLLIN | POLLOUT, revents: 0 };
    ok!(sys!(poll, m(&mut f), 1, 0));
    f.revents
}

fn polling() {
    let q = new(c"q", 1, 8);
    eq!(polled(q), POLLOUT);
    ok!(send(q, b"x", 0));
    eq!(polled(q), POLLIN);
    let e = ok!(sys!(epoll_create1, 0)) as i32;
    let mut ev = epoll_event { events: (EPOLLIN | EPOLLET) as u32, u64: 5 };
    ok!(sys!(epoll_ctl, e, EPOLL_CTL_ADD, q, m(&mut ev)));
    eq!(ok!(sys!(epoll_wait, e, m(&mut ev), 1, 1000)), 1);
    ok!(receive(q, 8));
    eq!(ok!(sys!(epoll_wait, e, m(&mut ev), 1, 0)), 0);
    let child = fork(|| {
        ms(20);
        ok!(send(q, b"y", 0));
    });
    eq!(ok!(sys!(epoll_wait, e, m(&mut ev), 1, 5000)), 1);
    wait(child);
}

fn file_system() {
    ok!(sys!(mkdir, c"m", 0o755));
    ok!(sys!(mount, c"none", c"m", c"mqueue", 0, 0));
    let st = ok!(stat(c"m"));
    say!("{:o} {} {}", st.st_mode, st.st_size, st.st_nlink);
    let q = new(c"q", 4, 8);
    ok!(send(q, b"12345", 0));
    ok!(send(q, b"678", 0));
    let st = ok!(stat(c"m/q"));
    say!("{:o} {} {}", st.st_mode, st.st_size, st.st_nlink);
    say!("{}", String::from_utf8_lossy(&get("m/q")));
    ok!(sys!(mq_notify, q, p(&event(SIGEV_SIGNAL, SIGUSR2, 0))));
    let shown = String::from_utf8_lossy(&get("m/q")).into_owned();
    say!("{}", shown.replace(&format!("PID:{:<6}", getpid()), "PID:me"));
    ok!(sys!(mq_notify, q, 0));
    // made and unlinked by name
    put("m/made", b"");
    let made = ok!(mq(c"made", O_RDWR, None));
    eq!(get_attr(made), attr(10, 8192));
    let mut names: Vec<_> = std::fs::read_dir("m").unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    say!("{names:?} {}", ok!(stat(c"m")).st_size);
    ok!(sys!(unlink, c"m/made"));
    err!(mq(c"made", O_RDWR, None), ENOENT);
    err!(sys!(mkdir, c"m/d", 0o755), EPERM);
    err!(sys!(link, c"m/q", c"m/r"), EPERM);
    err!(sys!(rename, c"m/q", c"m/r"), EPERM);
    let f = ok!(open(c"m/q", O_RDWR));
    err!(write(f, b"x"), EINVAL);
    eq!(ok!(receive(f, 8)).0, b"12345");
    close(f);
    let mut fs = unsafe { std::mem::zeroed::<statfs>() };
    ok!(sys!(statfs, c"m", m(&mut fs)));
    say!("{:x} {} {}", fs.f_type, fs.f_bsize, fs.f_namelen);
    // another mount shows the same
    ok!(sys!(mkdir, c"n", 0o755));
    ok!(sys!(mount, c"none", c"n", c"mqueue", 0, 0));
    eq!(ok!(stat(c"n/q")).st_ino, st.st_ino);
    ok!(sys!(umount2, c"n", 0));
    ok!(sys!(umount2, c"m", 0));
    ok!(mq(c"q", O_RDWR, None));
}

fn unlinked() {
    let q = new(c"q", 4, 8);
    ok!(sys!(mq_unlink, c"q"));
    eq!(fstat(q).st_nlink, 0);
    ok!(send(q, b"still", 0));
    eq!(ok!(receive(q, 8)).0, b"still");
    let again = new(c"q", 4, 8);
    ok!(send(again, b"new", 0));
    eq!(get_attr(q).count, 0);
}

fn permissions() {
    ok!(sys!(mq_open, c"mine", O_RDWR | O_CREAT, 0o600, 0));
    ok!(sys!(mq_open, c"readable", O_RDWR | O_CREAT, 0o644, 0));
    in_child(|| {
        ok!(sys!(setresgid, 1000, 1000, 1000));
        ok!(sys!(setresuid, 1000, 1000, 1000));
        err!(mq(c"mine", O_RDONLY, None), EACCES);
        ok!(mq(c"readable", O_RDONLY, None));
        err!(mq(c"readable", O_RDWR, None), EACCES);
        // the directory is sticky
        err!(sys!(mq_unlink, c"readable"), EPERM);
        let own = ok!(sys!(mq_open, c"own", O_RDWR | O_CREAT, 0o777, 0)) as i32;
        let st = fstat(own);
        say!("{:o} {} {}", st.st_mode, st.st_uid, st.st_gid);
        ok!(sys!(mq_unlink, c"own"));
    });
}

fn errors() {
    let q = new(c"q", 4, 8);
    err!(send(q, b"123456789", 0), EMSGSIZE);
    err!(receive(q, 7), EMSGSIZE);
    err!(send(99, b"x", 0), EBADF);
    err!(receive(99, 8), EBADF);
    let (r, _w) = pipe(0);
    err!(send(r, b"x", 0), EBADF);
    err!(sys!(mq_timedsend, q, 8, 4, 0, 0), EFAULT);
    ok!(send(q, b"x", 0));
    err!(sys!(mq_timedreceive, q, 8, 8, 0, 0), EFAULT);
}

fn rlimit() {
    let small = rlimit { rlim_cur: 10_000, rlim_max: 10_000 };
    ok!(sys!(prlimit64, 0, RLIMIT_MSGQUEUE, p(&small), 0));
    ok!(mq(c"a", O_RDWR | O_CREAT, Some(&attr(1, 8000))));
    err!(mq(c"b", O_RDWR | O_CREAT, Some(&attr(1, 8000))), EMFILE);
    ok!(mq(c"c", O_RDWR | O_CREAT, Some(&attr(10, 20))));
    ok!(sys!(mq_unlink, c"a"));
    err!(mq(c"b", O_RDWR | O_CREAT, Some(&attr(1, 8000))), EMFILE);
}

extern "C" fn nothing(_: i32, _: *mut siginfo_t, _: *mut c_void) {}

fn interrupted() {
    let q = new(c"q", 4, 8);
    on(SIGALRM, nothing, 0);
    let soon = itimerval { it_interval: timeval { tv_sec: 0, tv_usec: 0 }, it_value: timeval { tv_sec: 0, tv_usec: 30_000 } };
    ok!(sys!(setitimer, ITIMER_REAL, p(&soon), 0));
    err!(receive(q, 8), EINTR);
    // with SA_RESTART it goes on
    on(SIGALRM, nothing, SA_RESTART);
    ok!(sys!(setitimer, ITIMER_REAL, p(&soon), 0));
    let child = fork(|| {
        ms(100);
        ok!(send(q, b"late", 0));
    });
    eq!(ok!(receive(q, 8)).0, b"late");
    wait(child);
}
