//! Clocks and timers.

use crate::sys::*;
use crate::{check, eq, err, list, ok, say, sys};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

pub const TESTS: &[crate::Test] = list!["time";
    clocks, clock_args, vdso_agrees, vdso_functions, vdso_other_clocks, vdso_pages, nanosleep_calls, nanosleep_args, itimer_real, itimer_virtual_prof, itimer_args, alarm_call, posix_timers, posix_timer_args, timer_sigev_thread_id,
    timer_overrun, timerfd_once, timerfd_interval, timerfd_abs, timerfd_args, timerfd_nonblock, clock_settime_refused, time_calls, cpu_clocks, cpu_time_is_run_time, cpu_time_of_threads, monotonic, timers_not_inherited, process_clock_of_other,
];

static HITS: AtomicUsize = AtomicUsize::new(0);
extern "C" fn hit(_: i32, _: *mut siginfo_t, _: *mut c_void) {
    HITS.fetch_add(1, SeqCst);
}

fn clocks() {
    for clock in [
        CLOCK_REALTIME,
        CLOCK_MONOTONIC,
        CLOCK_PROCESS_CPUTIME_ID,
        CLOCK_THREAD_CPUTIME_ID,
        CLOCK_MONOTONIC_RAW,
        CLOCK_REALTIME_COARSE,
        CLOCK_MONOTONIC_COARSE,
        CLOCK_BOOTTIME,
        CLOCK_TAI,
    ] {
        let a = now(clock);
        check!(a >= 0.0);
        let mut t = ts(0);
        ok!(sys!(clock_getres, clock, m(&mut t)));
        say!("{clock} resolution below 20 ms {}", t.tv_sec == 0 && t.tv_nsec > 0 && t.tv_nsec < 20_000_000);
    }
    check!(now(CLOCK_REALTIME) > 1.7e9);
    check!((now(CLOCK_MONOTONIC) - now(CLOCK_MONOTONIC_COARSE)).abs() < 0.1);
}

fn clock_args() {
    let mut t = ts(0);
    err!(sys!(clock_gettime, 99, m(&mut t)), EINVAL);
    err!(sys!(clock_gettime, CLOCK_REALTIME, 8), EFAULT);
    err!(sys!(clock_getres, 99, m(&mut t)), EINVAL);
    ok!(sys!(clock_getres, CLOCK_REALTIME, 0));
    err!(sys!(clock_settime, CLOCK_MONOTONIC, p(&t)), EINVAL);
}

fn vdso_agrees() {
    // what the C library answers without a call and what the call says
    for _ in 0..200 {
        let a = now(CLOCK_MONOTONIC);
        let mut t = ts(0);
        unsafe { clock_gettime(CLOCK_MONOTONIC, &mut t) };
        let b = t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9;
        let c = now(CLOCK_MONOTONIC);
        check!(a <= b + 1e-6 && b <= c + 1e-6);
        let a = now(CLOCK_REALTIME);
        unsafe { clock_gettime(CLOCK_REALTIME, &mut t) };
        let b = t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9;
        check!((b - a).abs() < 0.5);
    }
    let mut cpu = 0u32;
    ok!(sys!(getcpu, m(&mut cpu), 0, 0));
    check!(unsafe { sched_getcpu() } >= 0);
}

/// The address of a function of the vDSO, found as a C library finds it: ELF header, dynamic section, symbols.
fn vdso_function(name: &str) -> usize {
    unsafe {
        let base = getauxval(AT_SYSINFO_EHDR) as usize;
        check!(base != 0);
        let header = &*(base as *const Elf64_Ehdr);
        eq!(header.e_ident[..4], *b"\x7fELF");
        let segments = std::slice::from_raw_parts((base + header.e_phoff as usize) as *const Elf64_Phdr, header.e_phnum.into());
        let dynamic = segments.iter().find(|s| s.p_type == PT_DYNAMIC).map(|s| (base + s.p_offset as usize) as *const [usize; 2]).unwrap();
        let entry = |tag: usize| (0..).map(|i| *dynamic.add(i)).take_while(|e| e[0] != 0).find(|e| e[0] == tag).map(|e| base + e[1]);
        // DT_STRTAB, DT_SYMTAB, DT_HASH, DT_VERSYM
        let (strings, symbols, hash) = (entry(5).unwrap(), entry(6).unwrap() as *const Elf64_Sym, entry(4).unwrap() as *const u32);
        check!(entry(0x6fff_fff0).is_some());
        let count = *hash.add(1) as usize;
        let found = (1..count).map(|i| &*symbols.add(i)).find(|s| {
            let text = std::ffi::CStr::from_ptr((strings + s.st_name as usize) as *const c_char);
            s.st_shndx != 0 && text.to_bytes() == name.as_bytes()
        });
        base + found.map_or(0, |s| s.st_value as usize)
    }
}

type ClockCall = extern "C" fn(i32, *mut timespec) -> i32;

fn clock_call(name: &str) -> ClockCall {
    unsafe { std::mem::transmute(vdso_function(name)) }
}

fn seconds(t: &timespec) -> f64 {
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

fn vdso_functions() {
    let gettime = clock_call("__vdso_clock_gettime");
    // long enough for several renewals of what the page says
    let mut last = 0.0;
    for round in 0..60_000 {
        let mut t = ts(0);
        eq!(gettime(CLOCK_MONOTONIC, &mut t), 0);
        check!(seconds(&t) >= last && (0..1_000_000_000).contains(&t.tv_nsec));
        last = seconds(&t);
        if round % 100 == 0 {
            let before = now(CLOCK_MONOTONIC);
            eq!(gettime(CLOCK_MONOTONIC, &mut t), 0);
            check!(before <= seconds(&t) + 1e-6 && seconds(&t) <= now(CLOCK_MONOTONIC) + 1e-6);
            last = seconds(&t);
        }
    }
    let time: extern "C" fn(*mut time_t) -> time_t = unsafe { std::mem::transmute(vdso_function("__vdso_time")) };
    let gettimeofday: extern "C" fn(*mut timeval, *mut [i32; 2]) -> i32 =
        unsafe { std::mem::transmute(vdso_function("__vdso_gettimeofday")) };
    for _ in 0..1000 {
        let (mut stored, mut tv) = (0, timeval { tv_sec: 0, tv_usec: 0 });
        let before = now(CLOCK_REALTIME_COARSE) as time_t;
        let told = time(&mut stored);
        check!(told == stored && before <= told && told <= now(CLOCK_REALTIME_COARSE) as time_t);
        let before = now(CLOCK_REALTIME);
        eq!(gettimeofday(&mut tv, std::ptr::null_mut()), 0);
        let told = tv.tv_sec as f64 + tv.tv_usec as f64 * 1e-6;
        check!(before <= told + 2e-6 && told <= now(CLOCK_REALTIME) + 2e-6 && (0..1_000_000).contains(&tv.tv_usec));
    }
    check!(time(std::ptr::null_mut()) > 1_700_000_000);
    let mut zone = [7; 2];
    eq!(gettimeofday(std::ptr::null_mut(), &mut zone), 0);
    say!("zone {zone:?}");
    let getcpu: extern "C" fn(*mut u32, *mut u32, usize) -> i32 = unsafe { std::mem::transmute(vdso_function("__vdso_getcpu")) };
    let mut cpu = 1 << 20;
    eq!(getcpu(&mut cpu, std::ptr::null_mut(), 0), 0);
    check!(cpu < 8192);
    // what a task has asked for is where it is
    let mut one = [0u64; 128];
    one[0] = 1;
    ok!(sys!(sched_setaffinity, 0, 128, p(&one)));
    eq!(getcpu(&mut cpu, std::ptr::null_mut(), 0), 0);
    say!("bound to processor {cpu}");
}

fn vdso_other_clocks() {
    let (gettime, getres) = (clock_call("__vdso_clock_gettime"), clock_call("__vdso_clock_getres"));
    for clock in [
        CLOCK_REALTIME,
        CLOCK_MONOTONIC,
        CLOCK_MONOTONIC_RAW,
        CLOCK_REALTIME_COARSE,
        CLOCK_MONOTONIC_COARSE,
        CLOCK_BOOTTIME,
        CLOCK_TAI,
        CLOCK_PROCESS_CPUTIME_ID,
        CLOCK_THREAD_CPUTIME_ID,
    ] {
        let (mut told, mut by_call, mut t) = (ts(9), ts(8), ts(0));
        eq!(getres(clock, &mut told), 0);
        ok!(sys!(clock_getres, clock, m(&mut by_call)));
        check!((told.tv_sec, told.tv_nsec) == (by_call.tv_sec, by_call.tv_nsec));
        eq!(getres(clock, std::ptr::null_mut()), 0);
        let before = now(clock);
        eq!(gettime(clock, &mut t), 0);
        check!(before <= seconds(&t) + 2e-6 && seconds(&t) <= now(clock) + 2e-6);
    }
    let mut t = ts(0);
    for bad in [12, 99, i32::MAX] {
        say!("clock {bad}: {} {}", gettime(bad, &mut t), getres(bad, &mut t));
    }
}

fn vdso_pages() {
    let image = unsafe { getauxval(AT_SYSINFO_EHDR) } as usize;
    let vvar = String::from_utf8(get("/proc/self/maps")).unwrap();
    let vvar = vvar.lines().find(|l| l.ends_with("[vvar]")).and_then(|l| usize::from_str_radix(l.split('-').next()?, 16).ok()).unwrap();
    err!(sys!(mprotect, vvar, 4096, PROT_READ | PROT_WRITE), EACCES);
    for at in [vvar, image] {
        let status = wait(fork(|| unsafe { (at as *mut u8).write_volatile(1) }));
        say!("written to: signal {}", WTERMSIG(status));
    }
    // a child has them, too
    in_child(|| {
        let mut t = ts(0);
        eq!(clock_call("__vdso_clock_gettime")(CLOCK_MONOTONIC, &mut t), 0);
        check!(seconds(&t) > 0.0);
    });
}

fn monotonic() {
    let mut last = 0.0;
    for _ in 0..5000 {
        let t = now(CLOCK_MONOTONIC);
        check!(t >= last);
        last = t;
    }
}

fn nanosleep_calls() {
    for wanted in [1, 20] {
        let t0 = now(CLOCK_MONOTONIC);
        let t = ts(wanted);
        ok!(sys!(nanosleep, p(&t), 0));
        check!(now(CLOCK_MONOTONIC) - t0 >= wanted as f64 / 1000.0);
    }
    let t = ts(15);
    for clock in [CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME] {
        let t0 = now(CLOCK_MONOTONIC);
        ok!(sys!(clock_nanosleep, clock, 0, p(&t), 0));
        check!(now(CLOCK_MONOTONIC) - t0 >= 0.015);
    }
    let at = now(CLOCK_MONOTONIC) + 0.03;
    let abs = timespec { tv_sec: at as i64, tv_nsec: (at.fract() * 1e9) as i64 };
    ok!(sys!(clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, p(&abs), 0));
    check!(now(CLOCK_MONOTONIC) >= at - 1e-4);
    ok!(sys!(clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, p(&ts(1)), 0));
}

fn nanosleep_args() {
    err!(sys!(nanosleep, p(&timespec { tv_sec: 0, tv_nsec: 1_000_000_000 }), 0), EINVAL);
    err!(sys!(nanosleep, p(&timespec { tv_sec: -1, tv_nsec: 0 }), 0), EINVAL);
    err!(sys!(nanosleep, 8, 0), EFAULT);
    ok!(sys!(nanosleep, p(&ts(0)), 0));
    err!(sys!(clock_nanosleep, 99, 0, p(&ts(0)), 0), EINVAL);
}

fn it(value_ms: i64, interval_ms: i64) -> itimerval {
    let tv = |x: i64| timeval { tv_sec: x / 1000, tv_usec: x % 1000 * 1000 };
    itimerval { it_interval: tv(interval_ms), it_value: tv(value_ms) }
}

fn itimer_real() {
    on(SIGALRM, hit, 0);
    ok!(sys!(setitimer, ITIMER_REAL, p(&it(20, 0)), 0));
    err!(sys!(pause), EINTR);
    eq!(HITS.load(SeqCst), 1);
    ok!(sys!(setitimer, ITIMER_REAL, p(&it(5, 5)), 0));
    until("five ticks", || HITS.load(SeqCst) >= 6);
    let mut old = it(0, 0);
    ok!(sys!(setitimer, ITIMER_REAL, p(&it(0, 0)), m(&mut old)));
    eq!((old.it_interval.tv_usec, old.it_value.tv_sec), (5000, 0));
    let n = HITS.load(SeqCst);
    ms(30);
    eq!(HITS.load(SeqCst), n);
    ok!(sys!(setitimer, ITIMER_REAL, p(&it(100_000, 0)), 0));
    ok!(sys!(getitimer, ITIMER_REAL, m(&mut old)));
    check!(old.it_value.tv_sec >= 99 && old.it_value.tv_sec <= 100);
}

fn burn(seconds: f64) {
    let t = now(CLOCK_PROCESS_CPUTIME_ID);
    while now(CLOCK_PROCESS_CPUTIME_ID) - t < seconds {
        for i in 0..20_000u64 {
            std::hint::black_box(i);
        }
    }
}

fn itimer_virtual_prof() {
    on(SIGVTALRM, hit, SA_RESTART);
    on(SIGPROF, hit, SA_RESTART);
    ok!(sys!(setitimer, ITIMER_PROF, p(&it(30, 0)), 0));
    ms(60);
    eq!(HITS.load(SeqCst), 0);
    let t = now(CLOCK_MONOTONIC);
    while HITS.load(SeqCst) == 0 && now(CLOCK_MONOTONIC) - t < 10.0 {
        burn(0.01);
    }
    eq!(HITS.load(SeqCst), 1);
    ok!(sys!(setitimer, ITIMER_VIRTUAL, p(&it(30, 0)), 0));
    let t = now(CLOCK_MONOTONIC);
    while HITS.load(SeqCst) == 1 && now(CLOCK_MONOTONIC) - t < 10.0 {
        for i in 0..1_000_000u64 {
            std::hint::black_box(i);
        }
    }
    eq!(HITS.load(SeqCst), 2);
}

fn itimer_args() {
    err!(sys!(setitimer, 9, p(&it(0, 0)), 0), EINVAL);
    let bad = itimerval { it_interval: timeval { tv_sec: 0, tv_usec: 0 }, it_value: timeval { tv_sec: 0, tv_usec: 1_000_000 } };
    err!(sys!(setitimer, ITIMER_REAL, p(&bad), 0), EINVAL);
    err!(sys!(setitimer, ITIMER_REAL, 8, 0), EFAULT);
    let mut old = it(1, 1);
    err!(sys!(getitimer, 9, m(&mut old)), EINVAL);
    ok!(sys!(getitimer, ITIMER_PROF, m(&mut old)));
    eq!((old.it_value.tv_sec, old.it_value.tv_usec), (0, 0));
}

fn alarm_call() {
    on(SIGALRM, hit, 0);
    eq!(ok!(sys!(alarm, 100)), 0);
    eq!(ok!(sys!(alarm, 50)), 100);
    eq!(ok!(sys!(alarm, 0)), 50);
    eq!(ok!(sys!(alarm, 1)), 0);
    err!(sys!(pause), EINTR);
    eq!(HITS.load(SeqCst), 1);
}

fn timers_not_inherited() {
    ok!(sys!(alarm, 100));
    in_child(|| eq!(ok!(sys!(alarm, 0)), 0));
    eq!(ok!(sys!(alarm, 0)), 100);
}

fn timer(clock: i32, notify: i32, signo: i32, value: i64) -> Result<i32, E> {
    let mut ev = [0i32; 16];
    ev[0] = value as i32;
    ev[2] = signo;
    ev[3] = notify;
    ev[4] = gettid();
    let mut id = -1i32;
    sys!(timer_create, clock, p(&ev), m(&mut id)).map(|_| id)
}

fn its(value_ms: i64, interval_ms: i64) -> itimerspec {
    itimerspec { it_interval: ts(interval_ms), it_value: ts(value_ms) }
}

static INFO: std::sync::Mutex<(i32, i32, i32)> = std::sync::Mutex::new((0, 0, 0));
extern "C" fn note(_: i32, info: *mut siginfo_t, _: *mut c_void) {
    let i = unsafe { &*info };
    *INFO.lock().unwrap() = (i.si_code, unsafe { i.si_value().sival_ptr as i32 }, unsafe { *(info as *const i32).add(4) });
    HITS.fetch_add(1, SeqCst);
}

fn posix_timers() {
    on(SIGUSR1, note, SA_RESTART);
    let t = ok!(timer(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR1, 4242));
    ok!(sys!(timer_settime, t, 0, p(&its(15, 0)), 0));
    until("it fires", || HITS.load(SeqCst) == 1);
    let i = *INFO.lock().unwrap();
    eq!(i, (SI_TIMER, 4242, t));
    ok!(sys!(timer_settime, t, 0, p(&its(3, 3)), 0));
    until("it repeats", || HITS.load(SeqCst) >= 5);
    let mut old = its(0, 0);
    ok!(sys!(timer_gettime, t, m(&mut old)));
    eq!(old.it_interval.tv_nsec, 3_000_000);
    ok!(sys!(timer_settime, t, 0, p(&its(0, 0)), m(&mut old)));
    eq!(old.it_interval.tv_nsec, 3_000_000);
    let at = now(CLOCK_REALTIME) + 0.02;
    let abs = itimerspec { it_interval: ts(0), it_value: timespec { tv_sec: at as i64, tv_nsec: (at.fract() * 1e9) as i64 } };
    let r = ok!(timer(CLOCK_REALTIME, SIGEV_SIGNAL, SIGUSR1, 7));
    let n = HITS.load(SeqCst);
    ok!(sys!(timer_settime, r, TIMER_ABSTIME, p(&abs), 0));
    until("at that time", || HITS.load(SeqCst) == n + 1);
    ok!(sys!(timer_delete, t));
    err!(sys!(timer_gettime, t, m(&mut old)), EINVAL);
    in_child(|| err!(sys!(timer_gettime, r, m(&mut its(0, 0))), EINVAL));
}

fn posix_timer_args() {
    err!(timer(99, SIGEV_SIGNAL, SIGUSR1, 0), EINVAL);
    err!(timer(CLOCK_MONOTONIC, 9, SIGUSR1, 0), EINVAL);
    err!(timer(CLOCK_MONOTONIC, SIGEV_SIGNAL, 99, 0), EINVAL);
    let none = ok!(timer(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0));
    ok!(sys!(timer_settime, none, 0, p(&its(10_000, 0)), 0));
    let mut left = its(0, 0);
    ok!(sys!(timer_gettime, none, m(&mut left)));
    check!(left.it_value.tv_sec == 9 || left.it_value.tv_sec == 10);
    err!(sys!(timer_settime, 999, 0, p(&its(0, 0)), 0), EINVAL);
    err!(sys!(timer_settime, none, 0, 0, 0), EINVAL);
    let bad = itimerspec { it_interval: ts(0), it_value: timespec { tv_sec: 0, tv_nsec: -1 } };
    err!(sys!(timer_settime, none, 0, p(&bad), 0), EINVAL);
    err!(sys!(timer_delete, 999), EINVAL);
    err!(sys!(timer_getoverrun, 999), EINVAL);
    // without an event: SIGALRM, the timer's number as value
    let mut id = -1i32;
    ok!(sys!(timer_create, CLOCK_MONOTONIC, 0, m(&mut id)));
    on(SIGALRM, note, 0);
    ok!(sys!(timer_settime, id, 0, p(&its(1, 0)), 0));
    until("it fires", || HITS.load(SeqCst) == 1);
    eq!(INFO.lock().unwrap().1, id);
}

fn timer_sigev_thread_id() {
    static TID: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn who(_: i32, _: *mut siginfo_t, _: *mut c_void) {
        TID.store(unsafe { libc::syscall(SYS_gettid) } as usize, SeqCst);
    }
    on(SIGUSR2, who, SA_RESTART);
    for t in threads(1, |_| {
        let t = ok!(timer(CLOCK_MONOTONIC, SIGEV_THREAD_ID, SIGUSR2, 0));
        ok!(sys!(timer_settime, t, 0, p(&its(10, 0)), 0));
        until("it fires here", || TID.load(SeqCst) == gettid() as usize);
    }) {
        t.join().unwrap();
    }
}

fn timer_overrun() {
    mask(SIG_BLOCK, &[SIGUSR1]);
    let t = ok!(timer(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR1, 0));
    ok!(sys!(timer_settime, t, 0, p(&its(2, 2)), 0));
    ms(60);
    let s = set(&[SIGUSR1]);
    ok!(sys!(rt_sigtimedwait, p(&s), 0, 0, 8));
    check!(ok!(sys!(timer_getoverrun, t)) >= 10);
}

fn u64_of(b: &[u8]) -> u64 {
    u64::from_le_bytes(b.try_into().unwrap())
}

fn timerfd_once() {
    let t = ok!(sys!(timerfd_create, CLOCK_MONOTONIC, 0)) as i32;
    let t0 = now(CLOCK_MONOTONIC);
    ok!(sys!(timerfd_settime, t, 0, p(&its(20, 0)), 0));
    eq!(u64_of(&ok!(read(t, 8))), 1);
    check!(now(CLOCK_MONOTONIC) - t0 > 0.015);
    let mut left = its(1, 1);
    ok!(sys!(timerfd_gettime, t, m(&mut left)));
    eq!((left.it_value.tv_sec, left.it_value.tv_nsec), (0, 0));
    let mut pf = pollfd { fd: t, events: POLLIN, revents: 0 };
    ok!(sys!(timerfd_settime, t, 0, p(&its(20, 0)), 0));
    eq!(ok!(sys!(poll, m(&mut pf), 1, 0)), 0);
    eq!(ok!(sys!(poll, m(&mut pf), 1, 5000)), 1);
    // setting it again forgets what has expired
    ok!(sys!(timerfd_settime, t, 0, p(&its(10_000, 0)), 0));
    eq!(ok!(sys!(poll, m(&mut pf), 1, 0)), 0);
}

fn timerfd_interval() {
    let t = ok!(sys!(timerfd_create, CLOCK_MONOTONIC, 0)) as i32;
    ok!(sys!(timerfd_settime, t, 0, p(&its(5, 5)), 0));
    ms(60);
    check!(u64_of(&ok!(read(t, 8))) >= 8);
    check!(u64_of(&ok!(read(t, 8))) >= 1);
    let mut old = its(0, 0);
    ok!(sys!(timerfd_settime, t, 0, p(&its(0, 0)), m(&mut old)));
    eq!(old.it_interval.tv_nsec, 5_000_000);
}

fn timerfd_abs() {
    let t = ok!(sys!(timerfd_create, CLOCK_REALTIME, 0)) as i32;
    let at = now(CLOCK_REALTIME) + 0.02;
    let abs = itimerspec { it_interval: ts(0), it_value: timespec { tv_sec: at as i64, tv_nsec: (at.fract() * 1e9) as i64 } };
    ok!(sys!(timerfd_settime, t, TFD_TIMER_ABSTIME, p(&abs), 0));
    eq!(u64_of(&ok!(read(t, 8))), 1);
    ok!(sys!(timerfd_settime, t, TFD_TIMER_ABSTIME, p(&its(1000, 0)), 0));
    eq!(u64_of(&ok!(read(t, 8))), 1);
}

fn timerfd_args() {
    err!(sys!(timerfd_create, 99, 0), EINVAL);
    err!(sys!(timerfd_create, CLOCK_MONOTONIC, 1), EINVAL);
    let t = ok!(sys!(timerfd_create, CLOCK_MONOTONIC, 0)) as i32;
    err!(read(t, 7), EINVAL);
    err!(write(t, &[0; 8]), EINVAL);
    err!(sys!(timerfd_settime, t, 8, p(&its(0, 0)), 0), EINVAL);
    err!(sys!(timerfd_settime, 0, 0, p(&its(0, 0)), 0), EINVAL);
    err!(sys!(timerfd_settime, 99, 0, p(&its(0, 0)), 0), EBADF);
    let bad = itimerspec { it_interval: ts(0), it_value: timespec { tv_sec: 0, tv_nsec: 1_000_000_000 } };
    err!(sys!(timerfd_settime, t, 0, p(&bad), 0), EINVAL);
}

fn timerfd_nonblock() {
    let t = ok!(sys!(timerfd_create, CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)) as i32;
    err!(read(t, 8), EAGAIN);
    ok!(sys!(timerfd_settime, t, 0, p(&its(5, 0)), 0));
    err!(read(t, 8), EAGAIN);
    until("it fires", || read(t, 8).is_ok());
    eq!(ok!(sys!(fcntl, t, F_GETFD)), 1);
}

fn clock_settime_refused() {
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1000, 1000));
        let t = ts(0);
        err!(sys!(clock_settime, CLOCK_REALTIME, p(&t)), EPERM);
        let tv = timeval { tv_sec: 0, tv_usec: 0 };
        err!(sys!(settimeofday, p(&tv), 0), EPERM);
    });
}

fn time_calls() {
    let mut tv = timeval { tv_sec: 0, tv_usec: 0 };
    ok!(sys!(gettimeofday, m(&mut tv), 0));
    check!((tv.tv_sec as f64 - now(CLOCK_REALTIME)).abs() < 2.0);
    let mut t = 0i64;
    let r = ok!(sys!(time, m(&mut t)));
    eq!(r, t);
    check!((r - tv.tv_sec).abs() <= 1);
    err!(sys!(gettimeofday, 8, 0), EFAULT);
    err!(sys!(time, 8), EFAULT);
}

fn cpu_clocks() {
    let (p0, t0) = (now(CLOCK_PROCESS_CPUTIME_ID), now(CLOCK_THREAD_CPUTIME_ID));
    ms(60);
    check!(now(CLOCK_PROCESS_CPUTIME_ID) - p0 < 0.05);
    burn(0.06);
    check!(now(CLOCK_PROCESS_CPUTIME_ID) - p0 >= 0.05);
    check!(now(CLOCK_THREAD_CPUTIME_ID) - t0 >= 0.03);
    let before = now(CLOCK_THREAD_CPUTIME_ID);
    for t in threads(1, |_| burn(0.05)) {
        t.join().unwrap();
    }
    check!(now(CLOCK_THREAD_CPUTIME_ID) - before < 0.04);
}

/// Twice as many processes as keep all processors busy.
fn busy_children() -> Vec<i32> {
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
    let busy = || loop {
        std::hint::black_box(0);
    };
    (0..2 * cpus).map(|_| fork(busy)).collect()
}

fn cpu_time_is_run_time() {
    // Being ready to run is not running: with three processes for each processor nobody gets all of one.
    let others = busy_children();
    let (cpu, wall) = (now(CLOCK_PROCESS_CPUTIME_ID), now(CLOCK_MONOTONIC));
    let (mut used, mut passed) = (0.0, 0.0);
    // Until it is certain, for 20 s at most.
    while passed < 20.0 && (passed < 0.5 || used > 0.8 * passed) {
        for i in 0..200_000u64 {
            std::hint::black_box(i);
        }
        (used, passed) = (now(CLOCK_PROCESS_CPUTIME_ID) - cpu, now(CLOCK_MONOTONIC) - wall);
    }
    check!(used <= 0.8 * passed);
    check!(used > 0.0);
    for pid in others {
        ok!(sys!(kill, pid, SIGKILL));
        let mut ru = unsafe { std::mem::zeroed::<rusage>() };
        ok!(sys!(wait4, pid, 0, 0, m(&mut ru)));
        check!(ru.ru_utime.tv_sec * 1_000_000 + ru.ru_utime.tv_usec > 0);
    }
}

fn cpu_time_of_threads() {
    // One burns, one waits, and the first thread asks for the clocks of both.
    static IDS: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];
    static END: AtomicUsize = AtomicUsize::new(0);
    let all = threads(2, |i| {
        IDS[i].store(gettid() as usize, SeqCst);
        while END.load(SeqCst) == 0 {
            if i == 1 {
                ms(5);
            }
        }
    });
    until("both threads run", || IDS.iter().all(|id| id.load(SeqCst) != 0));
    let clocks = [0, 1].map(|i: usize| !(IDS[i].load(SeqCst) as i32) << 3 | 6);
    let before = clocks.map(now);
    until("the burning thread has burned", || now(clocks[0]) - before[0] > 0.2);
    check!(now(clocks[1]) - before[1] < (now(clocks[0]) - before[0]) / 2.0);
    // What all have used together is not less than what one has.
    let one = now(clocks[0]);
    check!(now(CLOCK_PROCESS_CPUTIME_ID) >= one);
    // It never goes back.
    let mut last = clocks.map(now);
    for _ in 0..1000 {
        let next = clocks.map(now);
        check!(next[0] >= last[0] && next[1] >= last[1]);
        last = next;
    }
    END.store(1, SeqCst);
    for t in all {
        t.join().unwrap();
    }
    err!(sys!(clock_gettime, clocks[0], m(&mut ts(0))), EINVAL);
    check!(now(CLOCK_PROCESS_CPUTIME_ID) >= one);
}

fn process_clock_of_other() {
    let child = fork(|| ms(60_000));
    let clock = !child << 3 | 2;
    check!(now(clock) < 5.0);
    ok!(sys!(kill, child, SIGKILL));
    wait(child);
    err!(sys!(clock_gettime, clock, m(&mut ts(0))), EINVAL);
}
