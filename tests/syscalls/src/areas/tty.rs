//! Terminals: pseudo-terminals, line discipline, job control.

use crate::sys::*;
use crate::{check, eq, err, list, ok, say, sys};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

pub const TESTS: &[crate::Test] = list!["tty";
    open_pair, locked, canonical, editing, eof, raw, raw_min_time, echo_modes, output_processing, input_translation, window_size, winch, controlling, signal_characters, background_read, background_write, tostop_off,
    hangup_master, hangup_slave, session_leader_exit, foreground_group, tcflush_call, termios_roundtrip, fionread, polling, dev_tty, notty, long_line, tcsbrk, exclusive, packet_mode, names, line_split, noflsh,
    nonblock, setsid_no_tty, tiocsti_off, ctty_errors, sid_pgrp_ioctls,
];

fn master() -> (i32, i32) {
    let m1 = ok!(open(c"/dev/ptmx", O_RDWR | O_NOCTTY));
    ok!(sys!(ioctl, m1, TIOCSPTLCK, p(&0i32)));
    let mut n = -1i32;
    ok!(sys!(ioctl, m1, TIOCGPTN, m(&mut n)));
    (m1, n)
}

fn pair() -> (i32, i32) {
    let (m1, n) = master();
    (m1, ok!(open(&c(format!("/dev/pts/{n}")), O_RDWR | O_NOCTTY)))
}

fn get_t(fd: i32) -> termios {
    let mut t = unsafe { std::mem::zeroed::<termios>() };
    ok!(sys!(ioctl, fd, TCGETS, m(&mut t)));
    t
}

fn set_t(fd: i32, f: impl FnOnce(&mut termios)) {
    let mut t = get_t(fd);
    f(&mut t);
    ok!(sys!(ioctl, fd, TCSETS, p(&t)));
}

fn no_echo(fd: i32) {
    set_t(fd, |t| t.c_lflag &= !ECHO);
}

fn readable(fd: i32) -> bool {
    let mut pf = pollfd { fd, events: POLLIN, revents: 0 };
    ok!(sys!(poll, m(&mut pf), 1, 50)) == 1
}

fn show(what: &str, r: Result<Vec<u8>, E>) {
    say!("{what} {:?}", r.map(|b| String::from_utf8_lossy(&b).into_owned()));
}

/// All that there is to read once something is. Linux moves what was written to the other side from a worker thread,
/// so one read may come between two pieces.
fn read_all(fd: i32) -> Result<Vec<u8>, E> {
    let mut all = read(fd, 99)?;
    while readable(fd) {
        match read(fd, 99) {
            Ok(more) if !more.is_empty() => all.extend(more),
            _ => break,
        }
    }
    Ok(all)
}

fn open_pair() {
    let (a, b) = pair();
    let st = fstat(b);
    say!("{:o} major {}", st.st_mode, major(st.st_rdev));
    say!("master {:x}", fstat(a).st_rdev);
    ok!(write(b, b"out"));
    show("master", read_all(a));
    ok!(write(a, b"in\n"));
    show("slave", read(b, 99));
    show("echo", read_all(a));
    err!(sys!(lseek, b, 0, SEEK_SET), ESPIPE);
    err!(sys!(pread64, b, m(&mut [0u8; 4]), 4, 0), ESPIPE);
}

fn locked() {
    let m1 = ok!(open(c"/dev/ptmx", O_RDWR | O_NOCTTY));
    let mut n = -1i32;
    ok!(sys!(ioctl, m1, TIOCGPTN, m(&mut n)));
    let mut l = 9i32;
    ok!(sys!(ioctl, m1, TIOCGPTLCK, m(&mut l)));
    eq!(l, 1);
    err!(open(&c(format!("/dev/pts/{n}")), O_RDWR | O_NOCTTY), EIO);
    ok!(sys!(ioctl, m1, TIOCSPTLCK, p(&0i32)));
    close(m1);
    err!(open(&c(format!("/dev/pts/{n}")), O_RDWR), ENOENT);
}

fn names() {
    let (a, b) = pair();
    let mut v: Vec<String> =
        std::fs::read_dir("/dev/pts").unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    v.sort();
    check!(v.contains(&"ptmx".to_string()) && v.len() >= 2);
    let (c1, n) = master();
    close(b);
    close(a);
    close(c1);
    check!(stat(&c(format!("/dev/pts/{n}"))).is_err());
}

fn canonical() {
    let (a, b) = pair();
    no_echo(b);
    ok!(write(a, b"no newline"));
    check!(!readable(b));
    ok!(write(a, b" yet\nsecond\nthird"));
    show("1", read(b, 99));
    show("2", read(b, 3));
    show("3", read(b, 99));
    check!(!readable(b));
    set_t(b, |t| {
        t.c_cc[VEOL] = b';';
    });
    ok!(write(a, b";more\n"));
    show("4", read(b, 99));
    show("5", read(b, 99));
}

fn line_split() {
    let (a, b) = pair();
    no_echo(b);
    ok!(write(a, b"abcdefgh\n"));
    for _ in 0..3 {
        show("part", read(b, 3));
    }
}

fn editing() {
    let (a, b) = pair();
    ok!(write(a, b"abX\x7fc\n"));
    show("erased", read(b, 99));
    show("echo", read_all(a));
    ok!(write(a, b"whole line\x15new\n"));
    show("killed", read(b, 99));
    show("echo", read_all(a));
    ok!(write(a, b"one two three\x17four\n"));
    show("word erased", read(b, 99));
    show("echo", read_all(a));
    ok!(write(a, b"lit\x16\x03eral\n"));
    show("literal next", read(b, 99));
    show("echo", read_all(a));
    ok!(write(a, b"\x7f\x7fx\n"));
    show("nothing to erase", read(b, 99));
    show("echo", read_all(a));
    ok!(write(a, b"a\tb\x7f\x7fc\n"));
    show("tab erased", read(b, 99));
    show("echo", read_all(a));
    ok!(write(a, b"re\x12print\n"));
    show("reprint", read(b, 99));
    show("echo", read_all(a));
}

fn eof() {
    let (a, b) = pair();
    no_echo(b);
    ok!(write(a, b"\x04"));
    show("at the start", read(b, 9));
    ok!(write(a, b"part\x04"));
    show("in a line", read(b, 9));
    ok!(write(a, b"\x04x\n"));
    show("then", read(b, 9));
    show("and", read(b, 9));
}

fn raw_mode(fd: i32) {
    set_t(fd, |t| unsafe { cfmakeraw(t) });
}

fn raw() {
    let (a, b) = pair();
    raw_mode(b);
    ok!(write(a, b"\x03\x04\x7f\rx\n"));
    eq!(ok!(read(b, 99)), b"\x03\x04\x7f\rx\n");
    check!(!readable(a));
    ok!(write(b, b"a\nb"));
    eq!(ok!(read(a, 99)), b"a\nb");
}

fn raw_min_time() {
    let (a, b) = pair();
    raw_mode(b);
    let cc = |min: u8, time: u8| set_t(b, |t| (t.c_cc[VMIN], t.c_cc[VTIME]) = (min, time));
    cc(0, 0);
    show("min 0 time 0", read(b, 9));
    ok!(write(a, b"ab"));
    show("min 0 time 0", read(b, 9));
    cc(0, 1);
    let t = now(CLOCK_MONOTONIC);
    show("min 0 time 1", read(b, 9));
    check!(now(CLOCK_MONOTONIC) - t >= 0.08);
    cc(3, 0);
    let child = fork(|| show("min 3", read(b, 9)));
    for _ in 0..3 {
        ms(10);
        ok!(write(a, b"z"));
    }
    eq!(wait(child), 0);
    cc(5, 1);
    ok!(write(a, b"q"));
    let t = now(CLOCK_MONOTONIC);
    show("min 5 time 1", read(b, 9));
    check!(now(CLOCK_MONOTONIC) - t >= 0.08);
    // the time runs from the first byte on, and anew with each
    cc(5, 4);
    let child = fork(|| {
        let t = now(CLOCK_MONOTONIC);
        show("min 5 time 4", read(b, 9));
        check!(now(CLOCK_MONOTONIC) - t >= 0.75);
    });
    until("it waits", || state(child) == 'S');
    ms(200);
    ok!(write(a, b"m"));
    ms(200);
    ok!(write(a, b"n"));
    eq!(wait(child), 0);
}

fn echo_modes() {
    let (a, b) = pair();
    ok!(write(a, b"\x01\x1b[A\n"));
    show("echoctl", read_all(a));
    ok!(read(b, 99));
    set_t(b, |t| t.c_lflag &= !ECHOCTL);
    ok!(write(a, b"\x01\n"));
    show("plain", read_all(a));
    ok!(read(b, 99));
    set_t(b, |t| {
        t.c_lflag &= !ECHO;
        t.c_lflag |= ECHONL;
    });
    ok!(write(a, b"hidden\n"));
    show("echonl", read_all(a));
    ok!(read(b, 99));
}

fn output_processing() {
    let (a, b) = pair();
    ok!(write(b, b"a\nb\n"));
    show("onlcr", read_all(a));
    set_t(b, |t| t.c_oflag &= !ONLCR);
    ok!(write(b, b"a\n"));
    show("plain", read_all(a));
    set_t(b, |t| t.c_oflag |= OCRNL);
    ok!(write(b, b"a\rb"));
    show("ocrnl", read_all(a));
    set_t(b, |t| t.c_oflag = OPOST | XTABS);
    ok!(write(b, b"ab\tc"));
    show("tabs", read_all(a));
    set_t(b, |t| t.c_oflag = 0);
    ok!(write(b, b"a\r\n\t"));
    show("none", read_all(a));
}

fn input_translation() {
    let (a, b) = pair();
    no_echo(b);
    ok!(write(a, b"enter\r"));
    show("icrnl", read(b, 99));
    set_t(b, |t| t.c_iflag = IGNCR);
    ok!(write(a, b"a\rb\n"));
    show("igncr", read(b, 99));
    set_t(b, |t| t.c_iflag = INLCR);
    ok!(write(a, b"x\n"));
    check!(!readable(b));
    set_t(b, |t| {
        t.c_iflag = ISTRIP | ICRNL;
    });
    ok!(write(a, b"\xe1\r"));
    show("istrip", read(b, 99));
    set_t(b, |t| t.c_iflag = IUCLC | ICRNL);
    set_t(b, |t| t.c_lflag |= IEXTEN);
    ok!(write(a, b"ABC\r"));
    show("iuclc", read(b, 99));
}

fn window_size() {
    let (a, b) = pair();
    let mut w = winsize { ws_row: 9, ws_col: 9, ws_xpixel: 9, ws_ypixel: 9 };
    ok!(sys!(ioctl, b, TIOCGWINSZ, m(&mut w)));
    eq!((w.ws_row, w.ws_col), (0, 0));
    w = winsize { ws_row: 24, ws_col: 80, ws_xpixel: 1, ws_ypixel: 2 };
    ok!(sys!(ioctl, a, TIOCSWINSZ, p(&w)));
    let mut g = winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    ok!(sys!(ioctl, b, TIOCGWINSZ, m(&mut g)));
    eq!((g.ws_row, g.ws_col, g.ws_xpixel, g.ws_ypixel), (24, 80, 1, 2));
    w.ws_row = 50;
    ok!(sys!(ioctl, b, TIOCSWINSZ, p(&w)));
    ok!(sys!(ioctl, a, TIOCGWINSZ, m(&mut g)));
    eq!(g.ws_row, 50);
}

static HITS: AtomicUsize = AtomicUsize::new(0);
extern "C" fn hit(_: i32, _: *mut siginfo_t, _: *mut c_void) {
    HITS.fetch_add(1, SeqCst);
}

/// A child that leads a session with the slave as its terminal; it says when it is ready.
fn session(n: i32, body: impl FnOnce(i32)) -> i32 {
    let (r, w) = pipe(0);
    let child = fork(|| {
        ok!(sys!(setsid));
        let t = ok!(open(&c(format!("/dev/pts/{n}")), O_RDWR));
        ok!(write(w, b"x"));
        body(t);
    });
    ok!(read(r, 1));
    close(r);
    close(w);
    child
}

fn winch() {
    let (a, n) = master();
    let child = session(n, |_| {
        on(SIGWINCH, hit, 0);
        until("SIGWINCH", || HITS.load(SeqCst) == 1);
    });
    ms(30);
    let w = winsize { ws_row: 5, ws_col: 5, ws_xpixel: 0, ws_ypixel: 0 };
    ok!(sys!(ioctl, a, TIOCSWINSZ, p(&w)));
    eq!(wait(child), 0);
}

fn controlling() {
    let (_a, n) = master();
    let child = session(n, |t| {
        // the first terminal that a session leader opens is its own
        let st = String::from_utf8(get("/proc/self/stat")).unwrap();
        let f: Vec<&str> = st.rsplit(") ").next().unwrap().split_whitespace().collect();
        say!("tty_nr is major 136 {}", f[4].parse::<u32>().unwrap() >> 8 == 136);
        eq!(f[5], getpid().to_string());
        let tty = ok!(open(c"/dev/tty", O_RDWR));
        eq!(fstat(tty).st_rdev, makedev(5, 0));
        let mut g = 0i32;
        ok!(sys!(ioctl, t, TIOCGSID, m(&mut g)));
        eq!(g, getpid());
        ok!(sys!(ioctl, t, TIOCGPGRP, m(&mut g)));
        eq!(g, getpid());
        in_child(|| {
            ok!(open(c"/dev/tty", O_RDWR));
        });
        action(SIGHUP, SIG_IGN);
        ok!(sys!(ioctl, t, TIOCNOTTY, 0));
        err!(open(c"/dev/tty", O_RDWR), ENXIO);
        ok!(sys!(ioctl, t, TIOCSCTTY, 0));
        ok!(open(c"/dev/tty", O_RDWR));
    });
    eq!(wait(child), 0);
}

fn ctty_errors() {
    let (_a, n) = master();
    let (_c, d) = pair();
    let child = session(n, |t| {
        err!(sys!(ioctl, d, TIOCSCTTY, 0), EPERM);
        ok!(sys!(ioctl, t, TIOCSCTTY, 0));
        let other = fork(|| {
            err!(sys!(ioctl, t, TIOCSCTTY, 0), EPERM);
            ok!(sys!(setsid));
            err!(sys!(ioctl, t, TIOCSCTTY, 0), EPERM);
            err!(sys!(ioctl, t, TIOCNOTTY, 0), ENOTTY);
            ok!(sys!(ioctl, d, TIOCSCTTY, 0));
        });
        eq!(wait(other), 0);
    });
    eq!(wait(child), 0);
}

fn signal_characters() {
    let (a, n) = master();
    for (ch, s) in [(3u8, SIGINT), (0x1c, SIGQUIT), (0x1a, SIGTSTP)] {
        let child = session(n, |_| {
            on(SIGTSTP, hit, 0);
            if s == SIGTSTP {
                until("SIGTSTP", || HITS.load(SeqCst) == 1);
                return;
            }
            let none = rlimit { rlim_cur: 0, rlim_max: 0 };
            ok!(sys!(setrlimit, RLIMIT_CORE, p(&none)));
            ms(10_000);
        });
        until("it waits", || state(child) == 'S');
        ms(20);
        ok!(write(a, &[b'x', ch]));
        say!("{}", show_status(wait(child)));
        show("echo", read_all(a));
    }
    let child = session(n, |t| {
        // without ISIG they are characters
        set_t(t, |t| t.c_lflag &= !(ISIG | ECHO));
        say!("ready");
        show("read", read(t, 9));
    });
    ms(50);
    ok!(write(a, b"\x03\x1a\n"));
    eq!(wait(child), 0);
}

fn noflsh() {
    let (a, n) = master();
    let child = session(n, |t| {
        action(SIGINT, SIG_IGN);
        no_echo(t);
        ok!(sys!(kill, getpid(), SIGSTOP));
        show("after the flush", read(t, 99));
        set_t(t, |t| t.c_lflag |= NOFLSH);
        ok!(sys!(kill, getpid(), SIGSTOP));
        show("kept", read(t, 99));
    });
    until("stopped", || state(child) == 'T');
    ok!(write(a, b"gone\npart\x03left\n"));
    ok!(sys!(kill, child, SIGCONT));
    ms(30);
    until("stopped", || state(child) == 'T');
    ok!(write(a, b"part\x03left\n"));
    ok!(sys!(kill, child, SIGCONT));
    eq!(wait(child), 0);
}

fn foreground_group() {
    let (_a, n) = master();
    let child = session(n, |t| {
        let job = fork(|| {
            ok!(sys!(setpgid, 0, 0));
            ms(10_000);
        });
        let _ = sys!(setpgid, job, job);
        err!(sys!(ioctl, t, TIOCSPGRP, p(&99999i32)), ESRCH);
        err!(sys!(ioctl, t, TIOCSPGRP, p(&-1i32)), EINVAL);
        ok!(sys!(ioctl, t, TIOCSPGRP, p(&job)));
        let mut g = 0i32;
        ok!(sys!(ioctl, t, TIOCGPGRP, m(&mut g)));
        eq!(g, job);
        // we are in the background now: changing it back stops us unless SIGTTOU is ignored
        action(SIGTTOU, SIG_IGN);
        ok!(sys!(ioctl, t, TIOCSPGRP, p(&getpid())));
        ok!(sys!(kill, job, SIGKILL));
        wait(job);
    });
    eq!(wait(child), 0);
}

fn background_read() {
    let (a, n) = master();
    let child = session(n, |t| {
        let job = fork(|| {
            ok!(sys!(setpgid, 0, 0));
            show("job", read(t, 9));
        });
        let mut st = 0;
        ok!(sys!(wait4, job, m(&mut st), WUNTRACED, 0));
        say!("{}", show_status(st));
        ok!(sys!(ioctl, t, TIOCSPGRP, p(&job)));
        ok!(sys!(kill, job, SIGCONT));
        ok!(sys!(wait4, job, m(&mut st), 0, 0));
        say!("{}", show_status(st));
        // ignored or blocked: EIO
        action(SIGTTIN, SIG_IGN);
        show("ignored", read(t, 9));
    });
    ms(100);
    ok!(write(a, b"typed\n"));
    eq!(wait(child), 0);
}

fn background_write() {
    let (a, n) = master();
    let child = session(n, |t| {
        set_t(t, |t| t.c_lflag |= TOSTOP);
        let job = fork(|| {
            ok!(sys!(setpgid, 0, 0));
            ok!(write(t, b"job\n"));
        });
        let mut st = 0;
        ok!(sys!(wait4, job, m(&mut st), WUNTRACED, 0));
        say!("{}", show_status(st));
        ok!(sys!(ioctl, t, TIOCSPGRP, p(&job)));
        ok!(sys!(kill, job, SIGCONT));
        ok!(sys!(wait4, job, m(&mut st), 0, 0));
        say!("{}", show_status(st));
    });
    eq!(wait(child), 0);
    show("master", read_all(a));
}

fn tostop_off() {
    let (a, n) = master();
    let child = session(n, |t| {
        in_child(|| {
            ok!(sys!(setpgid, 0, 0));
            ok!(write(t, b"from the background\n"));
        });
    });
    eq!(wait(child), 0);
    show("master", read_all(a));
}

fn hangup_master() {
    let (a, n) = master();
    let child = session(n, |t| {
        on(SIGHUP, hit, 0);
        ok!(sys!(kill, getpid(), SIGSTOP));
        until("SIGHUP", || HITS.load(SeqCst) == 1);
        show("read", read(t, 9));
        err!(write(t, b"x"), EIO);
        let mut pf = pollfd { fd: t, events: POLLIN | POLLOUT, revents: 0 };
        ok!(sys!(poll, m(&mut pf), 1, 0));
        say!("{:#x}", pf.revents);
        err!(open(c"/dev/tty", O_RDWR).map_err(|e| if e == EIO { ENXIO } else { e }), ENXIO);
    });
    // the child must not hold the master itself
    until("stopped", || state(child) == 'T');
    let held = std::fs::read_link(format!("/proc/{child}/fd/{a}")).is_ok();
    if held {
        ok!(sys!(kill, child, SIGKILL));
        wait(child);
        let child = fork(|| {
            close(a);
            let (a2, n2) = master();
            let inner = fork(|| {
                close(a2);
                ok!(sys!(setsid));
                let t = ok!(open(&c(format!("/dev/pts/{n2}")), O_RDWR));
                on(SIGHUP, hit, 0);
                ok!(sys!(kill, getpid(), SIGSTOP));
                until("SIGHUP", || HITS.load(SeqCst) >= 1);
                show("read", read(t, 9));
                err!(write(t, b"x"), EIO);
                let mut pf = pollfd { fd: t, events: POLLIN | POLLOUT, revents: 0 };
                ok!(sys!(poll, m(&mut pf), 1, 0));
                say!("{:#x}", pf.revents);
            });
            until("stopped", || state(inner) == 'T');
            close(a2);
            ok!(sys!(kill, inner, SIGCONT));
            eq!(wait(inner), 0);
        });
        eq!(wait(child), 0);
        return;
    }
    close(a);
    ok!(sys!(kill, child, SIGCONT));
    eq!(wait(child), 0);
}

fn hangup_slave() {
    let (a, b) = pair();
    ok!(write(b, b"last words"));
    close(b);
    show("rest", read_all(a));
    show("then", read(a, 99));
    let mut pf = pollfd { fd: a, events: POLLIN | POLLOUT, revents: 0 };
    ok!(sys!(poll, m(&mut pf), 1, 0));
    say!("{:#x}", pf.revents);
    let mut n = 0i32;
    ok!(sys!(ioctl, a, TIOCGPTN, m(&mut n)));
    let b = ok!(open(&c(format!("/dev/pts/{n}")), O_RDWR | O_NOCTTY));
    ok!(write(b, b"again"));
    show("reopened", read_all(a));
}

fn session_leader_exit() {
    let (_a, n) = master();
    let (r, w) = pipe(0);
    let child = session(n, |_| {
        fork(|| {
            on(SIGHUP, hit, 0);
            ok!(write(w, b"1"));
            until("SIGHUP", || HITS.load(SeqCst) >= 1);
            err!(open(c"/dev/tty", O_RDWR), ENXIO);
            ok!(write(w, b"2"));
        });
        ms(60);
    });
    eq!(wait(child), 0);
    eq!(ok!(read(r, 1)), b"1");
    eq!(ok!(read(r, 1)), b"2");
}

fn tcflush_call() {
    let (a, b) = pair();
    no_echo(b);
    ok!(write(a, b"to be dropped\n"));
    ms(20);
    ok!(sys!(ioctl, b, TCFLSH, TCIFLUSH));
    check!(!readable(b));
    ok!(write(a, b"kept\n"));
    show("slave", read(b, 99));
    ok!(write(a, b"dropped too\n"));
    ms(20);
    let t = get_t(b);
    ok!(sys!(ioctl, b, TCSETSF, p(&t)));
    check!(!readable(b));
    err!(sys!(ioctl, b, TCFLSH, 9), EINVAL);
}

fn termios_roundtrip() {
    let (a, b) = pair();
    let t = get_t(b);
    say!("i {:#o} o {:#o} c {:#o} l {:#o}", t.c_iflag, t.c_oflag, t.c_cflag, t.c_lflag);
    say!("{:?}", &t.c_cc[..17]);
    set_t(b, |t| {
        t.c_lflag ^= ECHO;
        t.c_cc[VINTR] = 7;
    });
    let u = get_t(b);
    eq!((u.c_lflag, u.c_cc[VINTR]), (t.c_lflag ^ ECHO, 7));
    // the master speaks of the same settings
    eq!(get_t(a).c_cc[VINTR], 7);
    let mut x = [0u32; 11];
    ok!(sys!(ioctl, b, 0x802c542a_u32, m(&mut x)));
    say!("speeds {} {}", x[9], x[10]);
    err!(sys!(ioctl, b, TCGETS, 8), EFAULT);
    err!(sys!(ioctl, b, 0x5499, 0), ENOTTY);
}

fn fionread() {
    let (a, b) = pair();
    no_echo(b);
    let mut n = -1i32;
    ok!(write(a, b"abc"));
    ms(20);
    ok!(sys!(ioctl, b, FIONREAD, m(&mut n)));
    say!("no line {n}");
    ok!(write(a, b"def\nghi"));
    ms(20);
    ok!(sys!(ioctl, b, FIONREAD, m(&mut n)));
    say!("a line {n}");
    ok!(write(b, b"12345"));
    // what is written reaches the master a moment later
    check!(readable(a));
    ok!(sys!(ioctl, a, FIONREAD, m(&mut n)));
    say!("master {n}");
}

fn polling() {
    let (a, b) = pair();
    no_echo(b);
    let show = |what: &str, fd: i32| {
        let mut pf = pollfd { fd, events: POLLIN | POLLOUT, revents: 0 };
        ok!(sys!(poll, m(&mut pf), 1, 0));
        say!("{what} {:#x}", pf.revents);
    };
    show("slave", b);
    show("master", a);
    ok!(write(a, b"part"));
    ms(20);
    show("slave, no line", b);
    ok!(write(a, b"\n"));
    ms(20);
    show("slave, a line", b);
    ok!(write(b, b"x"));
    show("master, data", a);
}

fn dev_tty() {
    let st = ok!(stat(c"/dev/tty"));
    eq!(st.st_rdev, makedev(5, 0));
    in_child(|| {
        ok!(sys!(setsid));
        err!(open(c"/dev/tty", O_RDWR), ENXIO);
    });
}

fn setsid_no_tty() {
    let (_a, n) = master();
    let child = session(n, |_| {
        in_child(|| {
            ok!(open(c"/dev/tty", O_RDWR));
            ok!(sys!(setsid));
            err!(open(c"/dev/tty", O_RDWR), ENXIO);
            // O_NOCTTY leaves it so
            ok!(open(&c(format!("/dev/pts/{n}")), O_RDWR | O_NOCTTY));
            err!(open(c"/dev/tty", O_RDWR), ENXIO);
        });
    });
    eq!(wait(child), 0);
}

fn notty() {
    put("f", b"");
    let f = ok!(open(c"f", O_RDWR));
    let n = ok!(open(c"/dev/null", O_RDWR));
    let (r, _w) = pipe(0);
    for fd in [f, n, r] {
        err!(sys!(ioctl, fd, TCGETS, m(&mut [0u8; 64])), ENOTTY);
        err!(sys!(ioctl, fd, TIOCGWINSZ, m(&mut [0u8; 8])), ENOTTY);
        err!(sys!(ioctl, fd, TIOCGPGRP, m(&mut [0u8; 8])), ENOTTY);
    }
}

fn long_line() {
    // a line holds 4095 characters; what is beyond is lost
    let (a, b) = pair();
    no_echo(b);
    ok!(sys!(fcntl, a, F_SETFL, O_NONBLOCK));
    let mut sent = 0;
    while sent < 6000 {
        match write(a, &[b'x'; 500]) {
            Ok(n) => sent += n,
            Err(_) => break,
        }
        ms(1);
    }
    ms(20);
    let _ = write(a, b"\n");
    ms(20);
    let got = ok!(read(b, 10_000));
    say!("{} {:?}", got.len(), got.last());
}

fn tcsbrk() {
    let (_a, b) = pair();
    ok!(sys!(ioctl, b, TCSBRK, 1));
    ok!(sys!(ioctl, b, TCSBRK, 0));
    let mut n = -1i32;
    ok!(sys!(ioctl, b, TIOCOUTQ, m(&mut n)));
    eq!(n, 0);
}

fn exclusive() {
    let (_a, n) = master();
    let b = ok!(open(&c(format!("/dev/pts/{n}")), O_RDWR | O_NOCTTY));
    ok!(sys!(ioctl, b, TIOCEXCL, 0));
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1000, 1000));
        check!(open(&c(format!("/dev/pts/{n}")), O_RDWR | O_NOCTTY).is_err());
    });
    ok!(sys!(ioctl, b, TIOCNXCL, 0));
    ok!(open(&c(format!("/dev/pts/{n}")), O_RDWR | O_NOCTTY));
}

fn packet_mode() {
    let (a, b) = pair();
    ok!(sys!(ioctl, a, TIOCPKT, p(&1i32)));
    ok!(write(b, b"data"));
    show("data", read(a, 99));
    ok!(sys!(ioctl, b, TCFLSH, TCIOFLUSH));
    say!("{:?}", read(a, 99));
}

fn nonblock() {
    let (a, b) = pair();
    ok!(sys!(fcntl, a, F_SETFL, O_RDWR | O_NONBLOCK));
    ok!(sys!(fcntl, b, F_SETFL, O_RDWR | O_NONBLOCK));
    err!(read(a, 1), EAGAIN);
    err!(read(b, 1), EAGAIN);
    let mut n = 0;
    while let Ok(k) = write(b, &[b'x'; 1000]) {
        n += k;
        check!(n < 10_000_000);
    }
    check!(n > 1000);
    while n > 0 {
        n -= ok!(read(a, 65536)).len() as i64;
    }
    ok!(write(b, b"x"));
}

fn tiocsti_off() {
    let (_a, b) = pair();
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1000, 1000));
        check!(sys!(ioctl, b, TIOCSTI, p(&b'x')).is_err());
    });
}

fn sid_pgrp_ioctls() {
    let (a, b) = pair();
    let mut g = 0i32;
    err!(sys!(ioctl, b, TIOCGPGRP, m(&mut g)), ENOTTY);
    err!(sys!(ioctl, b, TIOCGSID, m(&mut g)), ENOTTY);
    err!(sys!(ioctl, b, TIOCSPGRP, p(&getpid())), ENOTTY);
    say!("{:?}", sys!(ioctl, a, TIOCGPGRP, m(&mut g)));
}
