//! Locks on files: flock, POSIX record locks, open-file-description locks, leases refused.

use crate::sys::*;
use crate::{eq, err, list, ok, say, sys};

pub const TESTS: &[crate::Test] = list!["lock";
    flock_shared_exclusive, flock_follows_description, flock_blocks, flock_args, posix_ranges, posix_getlk, posix_released_on_close,
    posix_fork, posix_blocks, posix_deadlock, posix_eintr, posix_modes, ofd_locks, ofd_and_posix, lockf_like, proc_locks,
];

fn lock(cmd: i32, fd: i32, kind: i32, start: i64, len: i64) -> R {
    let l = flock { l_type: kind as i16, l_whence: SEEK_SET as i16, l_start: start, l_len: len, l_pid: 0 };
    sys!(fcntl, fd, cmd, p(&l))
}

fn who(cmd: i32, fd: i32, kind: i32, start: i64, len: i64) -> (i16, i64, i64, i32) {
    let mut l = flock { l_type: kind as i16, l_whence: SEEK_SET as i16, l_start: start, l_len: len, l_pid: 0 };
    ok!(sys!(fcntl, fd, cmd, m(&mut l)));
    (l.l_type, l.l_start, l.l_len, l.l_pid)
}

fn flock_shared_exclusive() {
    put("a", b"");
    let (f, g) = (ok!(open(c"a", O_RDONLY)), ok!(open(c"a", O_RDONLY)));
    ok!(sys!(flock, f, LOCK_SH));
    ok!(sys!(flock, g, LOCK_SH | LOCK_NB));
    err!(sys!(flock, f, LOCK_EX | LOCK_NB), EAGAIN);
    ok!(sys!(flock, g, LOCK_UN));
    ok!(sys!(flock, f, LOCK_EX | LOCK_NB));
    err!(sys!(flock, g, LOCK_SH | LOCK_NB), EAGAIN);
    ok!(sys!(flock, f, LOCK_UN));
    ok!(sys!(flock, g, LOCK_EX | LOCK_NB));
    ok!(sys!(flock, g, LOCK_EX | LOCK_NB));
}

fn flock_follows_description() {
    put("a", b"");
    let f = ok!(open(c"a", O_RDONLY));
    let d = ok!(sys!(dup, f)) as i32;
    ok!(sys!(flock, f, LOCK_EX));
    ok!(sys!(flock, d, LOCK_EX | LOCK_NB));
    close(f);
    let g = ok!(open(c"a", O_RDONLY));
    err!(sys!(flock, g, LOCK_SH | LOCK_NB), EAGAIN);
    in_child(|| {
        // the child's copy releases it for all
        ok!(sys!(flock, d, LOCK_UN));
    });
    ok!(sys!(flock, g, LOCK_EX | LOCK_NB));
    close(g);
    ok!(sys!(flock, d, LOCK_EX | LOCK_NB));
}

fn flock_blocks() {
    put("a", b"");
    let f = ok!(open(c"a", O_RDONLY));
    ok!(sys!(flock, f, LOCK_EX));
    let child = fork(|| {
        let g = ok!(open(c"a", O_RDONLY));
        ok!(sys!(flock, g, LOCK_EX));
        say!("child has it");
    });
    until("the child sleeps", || state(child) == 'S');
    say!("parent lets go");
    ok!(sys!(flock, f, LOCK_UN));
    eq!(wait(child), 0);
}

fn flock_args() {
    put("a", b"");
    let f = ok!(open(c"a", O_RDONLY));
    err!(sys!(flock, f, 0), EINVAL);
    err!(sys!(flock, f, LOCK_SH | LOCK_EX), EINVAL);
    err!(sys!(flock, 99, LOCK_SH), EBADF);
    let path = ok!(open(c"a", O_PATH));
    err!(sys!(flock, path, LOCK_SH), EBADF);
    let d = ok!(open(c".", O_RDONLY));
    ok!(sys!(flock, d, LOCK_EX));
}

fn posix_ranges() {
    put("a", b"");
    let f = ok!(open(c"a", O_RDWR));
    ok!(lock(F_SETLK, f, F_WRLCK, 0, 100));
    ok!(lock(F_SETLK, f, F_UNLCK, 40, 20));
    ok!(lock(F_SETLK, f, F_RDLCK, 70, 10));
    in_child(|| {
        let show = |s: i64, n: i64, k: i32| {
            let (t, s1, l, _) = who(F_GETLK, f, k, s, n);
            say!("{s}+{n}: {t} {s1} {l}");
        };
        show(0, 10, F_WRLCK);
        show(40, 20, F_WRLCK);
        show(50, 100, F_WRLCK);
        show(70, 5, F_RDLCK);
        show(75, 5, F_WRLCK);
        show(85, 0, F_RDLCK);
        show(100, 0, F_WRLCK);
        err!(lock(F_SETLK, f, F_WRLCK, 99, 1), EAGAIN);
        ok!(lock(F_SETLK, f, F_WRLCK, 45, 10));
        ok!(lock(F_SETLK, f, F_RDLCK, 72, 1));
    });
    // touching locks of one kind melt together
    ok!(lock(F_SETLK, f, F_UNLCK, 0, 0));
    ok!(lock(F_SETLK, f, F_WRLCK, 0, 10));
    ok!(lock(F_SETLK, f, F_WRLCK, 10, 10));
    in_child(|| {
        let (_, s, l, _) = who(F_GETLK, f, F_WRLCK, 0, 0);
        eq!((s, l), (0, 20));
    });
}

fn posix_getlk() {
    put("a", b"0123456789");
    let f = ok!(open(c"a", O_RDWR));
    ok!(lock(F_SETLK, f, F_WRLCK, 5, 0));
    eq!(who(F_GETLK, f, F_WRLCK, 0, 0).0, F_UNLCK as i16);
    let me = getpid();
    in_child(|| {
        eq!(who(F_GETLK, f, F_RDLCK, 0, 0), (F_WRLCK as i16, 5, 0, me));
        eq!(who(F_GETLK, f, F_RDLCK, 0, 5).0, F_UNLCK as i16);
        let mut l = flock { l_type: F_RDLCK as i16, l_whence: SEEK_END as i16, l_start: -1, l_len: 1, l_pid: 0 };
        ok!(sys!(fcntl, f, F_GETLK, m(&mut l)));
        eq!((l.l_type, l.l_whence, l.l_start, l.l_len), (F_WRLCK as i16, 0, 5, 0));
    });
    err!(lock(F_SETLK, f, 9, 0, 0), EINVAL);
    err!(lock(F_SETLK, f, F_WRLCK, -5, 1), EINVAL);
    err!(lock(F_SETLK, f, F_WRLCK, 2, -3), EINVAL);
    ok!(lock(F_SETLK, f, F_WRLCK, 5, -3));
    err!(sys!(fcntl, f, F_SETLK, 8), EFAULT);
    let mut l = flock { l_type: F_UNLCK as i16, l_whence: 0, l_start: 0, l_len: 1, l_pid: 0 };
    err!(sys!(fcntl, f, F_GETLK, m(&mut l)), EINVAL);
}

fn posix_released_on_close() {
    put("a", b"");
    let f = ok!(open(c"a", O_RDWR));
    ok!(lock(F_SETLK, f, F_WRLCK, 0, 0));
    // closing any descriptor of the file drops the process's locks on it
    close(ok!(open(c"a", O_RDONLY)));
    in_child(|| {
        ok!(lock(F_SETLK, f, F_WRLCK, 0, 0));
    });
    ok!(lock(F_SETLK, f, F_WRLCK, 0, 0));
    in_child(|| err!(lock(F_SETLK, f, F_WRLCK, 0, 0), EAGAIN));
}

fn posix_fork() {
    put("a", b"");
    let f = ok!(open(c"a", O_RDWR));
    ok!(lock(F_SETLK, f, F_WRLCK, 0, 0));
    in_child(|| {
        err!(lock(F_SETLK, f, F_RDLCK, 0, 0), EAGAIN);
        close(f);
    });
    in_child(|| err!(lock(F_SETLK, f, F_RDLCK, 0, 0), EAGAIN));
}

fn posix_blocks() {
    put("a", b"");
    let f = ok!(open(c"a", O_RDWR));
    ok!(lock(F_SETLK, f, F_WRLCK, 0, 10));
    let child = fork(|| {
        ok!(lock(F_SETLKW, f, F_WRLCK, 5, 10));
        say!("child has it");
    });
    until("the child sleeps", || state(child) == 'S');
    say!("parent lets go");
    ok!(lock(F_SETLK, f, F_UNLCK, 0, 10));
    eq!(wait(child), 0);
    let child = fork(|| {
        ok!(lock(F_SETLK, f, F_WRLCK, 0, 10));
        ok!(sys!(kill, getpid(), SIGSTOP));
    });
    let mut status = 0;
    ok!(sys!(wait4, child, m(&mut status), WUNTRACED, 0));
    ok!(sys!(kill, child, SIGKILL));
    ok!(lock(F_SETLKW, f, F_WRLCK, 0, 10));
    wait(child);
}

fn posix_deadlock() {
    put("a", b"");
    let f = ok!(open(c"a", O_RDWR));
    ok!(lock(F_SETLK, f, F_WRLCK, 0, 1));
    let (r, w) = pipe(0);
    let child = fork(|| {
        ok!(lock(F_SETLK, f, F_WRLCK, 1, 1));
        ok!(write(w, b"x"));
        ok!(lock(F_SETLKW, f, F_WRLCK, 0, 1));
    });
    ok!(read(r, 1));
    until("the child sleeps", || state(child) == 'S');
    err!(lock(F_SETLKW, f, F_WRLCK, 1, 1), EDEADLK);
    ok!(lock(F_SETLK, f, F_UNLCK, 0, 1));
    eq!(wait(child), 0);
}

extern "C" fn nothing(_: i32, _: *mut siginfo_t, _: *mut c_void) {}

fn posix_eintr() {
    put("a", b"");
    let f = ok!(open(c"a", O_RDWR));
    ok!(lock(F_SETLK, f, F_WRLCK, 0, 1));
    let child = fork(|| {
        on(SIGUSR1, nothing, 0);
        err!(lock(F_SETLKW, f, F_WRLCK, 0, 1), EINTR);
        let g = ok!(open(c"a", O_RDWR));
        err!(sys!(flock, g, LOCK_EX), EINTR);
    });
    ok!(sys!(flock, f, LOCK_EX));
    until("the child sleeps", || state(child) == 'S');
    ok!(sys!(kill, child, SIGUSR1));
    ms(50);
    until("the child sleeps again", || state(child) == 'S');
    ok!(sys!(kill, child, SIGUSR1));
    eq!(wait(child), 0);
}

fn posix_modes() {
    put("a", b"");
    let (r, w) = (ok!(open(c"a", O_RDONLY)), ok!(open(c"a", O_WRONLY)));
    err!(lock(F_SETLK, r, F_WRLCK, 0, 0), EBADF);
    err!(lock(F_SETLK, w, F_RDLCK, 0, 0), EBADF);
    ok!(lock(F_SETLK, r, F_RDLCK, 0, 0));
    ok!(lock(F_SETLK, w, F_WRLCK, 0, 0));
    err!(lock(F_SETLK, 99, F_WRLCK, 0, 0), EBADF);
}

fn ofd_locks() {
    put("a", b"");
    let (f, g) = (ok!(open(c"a", O_RDWR)), ok!(open(c"a", O_RDWR)));
    ok!(lock(F_OFD_SETLK, f, F_WRLCK, 0, 10));
    err!(lock(F_OFD_SETLK, g, F_WRLCK, 5, 1), EAGAIN);
    ok!(lock(F_OFD_SETLK, g, F_WRLCK, 10, 1));
    eq!(who(F_OFD_GETLK, g, F_WRLCK, 0, 1), (F_WRLCK as i16, 0, 10, -1));
    in_child(|| {
        ok!(lock(F_OFD_SETLK, f, F_UNLCK, 0, 10));
    });
    ok!(lock(F_OFD_SETLK, g, F_WRLCK, 5, 1));
    let d = ok!(sys!(dup, g)) as i32;
    close(g);
    err!(lock(F_OFD_SETLK, f, F_WRLCK, 5, 1), EAGAIN);
    close(d);
    ok!(lock(F_OFD_SETLK, f, F_WRLCK, 5, 1));
    let bad = flock { l_type: F_WRLCK as i16, l_whence: 0, l_start: 0, l_len: 1, l_pid: 7 };
    err!(sys!(fcntl, f, F_OFD_SETLK, p(&bad)), EINVAL);
}

fn ofd_and_posix() {
    put("a", b"");
    let (f, g) = (ok!(open(c"a", O_RDWR)), ok!(open(c"a", O_RDWR)));
    ok!(lock(F_OFD_SETLK, f, F_WRLCK, 0, 10));
    err!(lock(F_SETLK, g, F_WRLCK, 0, 1), EAGAIN);
    err!(lock(F_SETLK, f, F_WRLCK, 0, 1), EAGAIN);
    eq!(who(F_GETLK, g, F_WRLCK, 0, 1).3, -1);
    // flock's locks are a world of their own
    ok!(sys!(flock, g, LOCK_EX | LOCK_NB));
}

fn lockf_like() {
    put("a", b"0123456789");
    let f = ok!(open(c"a", O_RDWR));
    ok!(sys!(lseek, f, 4, SEEK_SET));
    let l = flock { l_type: F_WRLCK as i16, l_whence: SEEK_CUR as i16, l_start: 0, l_len: 3, l_pid: 0 };
    ok!(sys!(fcntl, f, F_SETLK, p(&l)));
    in_child(|| {
        let (t, s, l, _) = who(F_GETLK, f, F_WRLCK, 0, 0);
        eq!((t, s, l), (F_WRLCK as i16, 4, 3));
    });
}

fn proc_locks() {
    put("a", b"");
    let f = ok!(open(c"a", O_RDWR));
    ok!(lock(F_SETLK, f, F_WRLCK, 0, 10));
    let text = String::from_utf8(get("/proc/locks")).unwrap();
    let ino = fstat(f).st_ino;
    let mine = text.lines().filter(|l| l.contains(&format!(":{ino} "))).map(|l| {
        let w: Vec<&str> = l.split_whitespace().collect();
        format!("{} {} {} {} {}", w[1], w[2], w[3], w[6], w[7])
    });
    say!("{:?}", mine.collect::<Vec<_>>());
}
