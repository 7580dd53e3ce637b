//! Threads and futexes.

use crate::sys::*;
use crate::{check, eq, err, list, ok, say, sys};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering::SeqCst};

pub const TESTS: &[crate::Test] = list!["thread";
    thousand, mutex_counter, condvar_pingpong, tls, ids, futex_wait_wake, futex_timeout, futex_args, futex_bitset, futex_requeue, futex_cmp_requeue, futex_wake_op,
    futex_shared_processes, futex_private_is_private, futex_file_shared, futex_pi, futex_pi_errors, futex_pi_owner_died, robust_list, robust_list_pi_args, clear_child_tid, futex_eintr, tgkill_thread, thread_signals,
    exit_one, stacks, waitv, barrier_many, rapid_create, spin_and_block, credentials_shared, absolute_realtime,
];

fn futex(at: &AtomicU32, op: i32, val: u32, timeout: i64, at2: i64, val3: u32) -> R {
    sys!(futex, p(at), op, val, timeout, at2, val3)
}

fn thousand() {
    let count = Arc::new(AtomicUsize::new(0));
    let gate = Arc::new(std::sync::Barrier::new(1001));
    let t: Vec<_> = (0..1000)
        .map(|_| {
            let (count, gate) = (count.clone(), gate.clone());
            std::thread::Builder::new()
                .stack_size(64 << 10)
                .spawn(move || {
                    count.fetch_add(1, SeqCst);
                    gate.wait();
                })
                .unwrap_or_else(|e| fail(file!(), line!(), format_args!("{e}")))
        })
        .collect();
    gate.wait();
    let s = String::from_utf8(get("/proc/self/status")).unwrap();
    check!(s.contains("Threads:"));
    for x in t {
        x.join().unwrap();
    }
    eq!(count.load(SeqCst), 1000);
}

fn mutex_counter() {
    let n = Arc::new(std::sync::Mutex::new(0u64));
    let t: Vec<_> = (0..8)
        .map(|_| {
            let n = n.clone();
            std::thread::spawn(move || {
                for _ in 0..5000 {
                    *n.lock().unwrap() += 1;
                }
            })
        })
        .collect();
    for x in t {
        x.join().unwrap();
    }
    eq!(*n.lock().unwrap(), 40_000);
}

fn condvar_pingpong() {
    let (a, b) = (std::sync::mpsc::sync_channel::<u32>(0), std::sync::mpsc::sync_channel::<u32>(0));
    let (tx, rx) = (a.0, b.1);
    let (rx2, tx2) = (a.1, b.0);
    let t = std::thread::spawn(move || {
        for v in rx2 {
            tx2.send(v + 1).unwrap();
        }
    });
    let mut v = 0;
    for _ in 0..2000 {
        tx.send(v).unwrap();
        v = rx.recv().unwrap();
    }
    drop(tx);
    t.join().unwrap();
    eq!(v, 2000);
}

fn tls() {
    thread_local!(static X: std::cell::Cell<u64> = const { std::cell::Cell::new(5) });
    X.set(1);
    for t in threads(20, |i| {
        eq!(X.get(), 5);
        X.set(i as u64);
        ms(5);
        eq!(X.get(), i as u64);
        // the thread pointer is a register of this thread alone
        let mut fs = 0u64;
        ok!(sys!(arch_prctl, 0x1003, m(&mut fs)));
        check!(fs != 0);
    }) {
        t.join().unwrap();
    }
    eq!(X.get(), 1);
    in_child(|| eq!(X.get(), 1));
}

fn ids() {
    let me = getpid();
    eq!(gettid(), me);
    for t in threads(4, move |_| {
        eq!(getpid(), me);
        check!(gettid() != me);
        eq!(ok!(sys!(getppid)), unsafe { i64::from(libc::getppid()) });
        ok!(sys!(tgkill, me, gettid(), 0));
        err!(sys!(tgkill, me + 50_000, gettid(), 0), ESRCH);
        err!(sys!(setpgid, gettid(), 0), EINVAL);
    }) {
        t.join().unwrap();
    }
}

fn sleepers(at: &'static AtomicU32, op: i32, bits: u32, n: usize, woken: &'static AtomicUsize) {
    let before = woken.load(SeqCst);
    let _ = before;
    let started: &'static AtomicUsize = Box::leak(Box::new(AtomicUsize::new(0)));
    let tids: &'static [AtomicI32] = Box::leak((0..n).map(|_| AtomicI32::new(0)).collect());
    threads(n, move |i| {
        tids[i].store(gettid(), SeqCst);
        started.fetch_add(1, SeqCst);
        let r = futex(at, op, 0, 0, 0, bits);
        check!(r.is_ok());
        woken.fetch_add(1, SeqCst);
    });
    until("they sleep", || started.load(SeqCst) == n && tids.iter().all(|t| state(t.load(SeqCst)) == 'S'));
    ms(10);
}

fn settle(woken: &AtomicUsize, n: usize) {
    until("they wake", || woken.load(SeqCst) == n);
    ms(20);
    eq!(woken.load(SeqCst), n);
}

fn futex_wait_wake() {
    static F: AtomicU32 = AtomicU32::new(0);
    static W: AtomicUsize = AtomicUsize::new(0);
    err!(futex(&F, FUTEX_WAIT, 1, 0, 0, 0), EAGAIN);
    eq!(ok!(futex(&F, FUTEX_WAKE, 1, 0, 0, 0)), 0);
    sleepers(&F, FUTEX_WAIT, 0, 5, &W);
    eq!(ok!(futex(&F, FUTEX_WAKE, 2, 0, 0, 0)), 2);
    settle(&W, 2);
    eq!(ok!(futex(&F, FUTEX_WAKE, 100, 0, 0, 0)), 3);
    settle(&W, 5);
}

fn futex_timeout() {
    static F: AtomicU32 = AtomicU32::new(0);
    let t = now(CLOCK_MONOTONIC);
    let rel = ts(40);
    err!(futex(&F, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 0, p(&rel), 0, 0), ETIMEDOUT);
    check!(now(CLOCK_MONOTONIC) - t >= 0.04);
    let at = now(CLOCK_MONOTONIC) + 0.04;
    let abs = timespec { tv_sec: at as i64, tv_nsec: (at.fract() * 1e9) as i64 };
    err!(futex(&F, FUTEX_WAIT_BITSET, 0, p(&abs), 0, u32::MAX), ETIMEDOUT);
    check!(now(CLOCK_MONOTONIC) >= at - 0.001);
    // already past
    let past = ts(1);
    err!(futex(&F, FUTEX_WAIT_BITSET, 0, p(&past), 0, u32::MAX), ETIMEDOUT);
    let bad = timespec { tv_sec: 0, tv_nsec: 1_000_000_000 };
    err!(futex(&F, FUTEX_WAIT, 0, p(&bad), 0, 0), EINVAL);
    let neg = timespec { tv_sec: -1, tv_nsec: 0 };
    err!(futex(&F, FUTEX_WAIT, 0, p(&neg), 0, 0), EINVAL);
}

fn absolute_realtime() {
    static F: AtomicU32 = AtomicU32::new(0);
    let at = now(CLOCK_REALTIME) + 0.04;
    let abs = timespec { tv_sec: at as i64, tv_nsec: (at.fract() * 1e9) as i64 };
    err!(futex(&F, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 0, p(&abs), 0, u32::MAX), ETIMEDOUT);
    check!(now(CLOCK_REALTIME) >= at - 0.001);
}

fn futex_args() {
    let f = AtomicU32::new(0);
    err!(sys!(futex, p(&f) + 1, FUTEX_WAIT, 0, 0, 0, 0), EINVAL);
    err!(sys!(futex, p(&f) + 1, FUTEX_WAKE, 1, 0, 0, 0), EINVAL);
    err!(sys!(futex, 8, FUTEX_WAIT, 0, 0, 0, 0), EFAULT);
    err!(sys!(futex, 0, FUTEX_WAIT, 0, 0, 0, 0), EFAULT);
    err!(sys!(futex, p(&f), FUTEX_WAIT, 0, 8, 0, 0), EFAULT);
    err!(futex(&f, 99, 0, 0, 0, 0), ENOSYS);
    err!(futex(&f, FUTEX_WAIT_BITSET, 0, 0, 0, 0), EINVAL);
    err!(futex(&f, FUTEX_WAKE_BITSET, 1, 0, 0, 0), EINVAL);
    err!(futex(&f, FUTEX_WAKE | FUTEX_CLOCK_REALTIME, 1, 0, 0, 0), ENOSYS);
    let ro = ok!(sys!(mmap, 0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    let t = ts(1);
    err!(sys!(futex, ro, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 0, p(&t), 0, 0), ETIMEDOUT);
    eq!(ok!(sys!(futex, ro, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, 0, 0, 0)), 0);
}

fn futex_bitset() {
    static F: AtomicU32 = AtomicU32::new(0);
    static A: AtomicUsize = AtomicUsize::new(0);
    static B: AtomicUsize = AtomicUsize::new(0);
    sleepers(&F, FUTEX_WAIT_BITSET, 1, 3, &A);
    sleepers(&F, FUTEX_WAIT_BITSET, 2, 2, &B);
    eq!(ok!(futex(&F, FUTEX_WAKE_BITSET, 100, 0, 0, 4)), 0);
    eq!(ok!(futex(&F, FUTEX_WAKE_BITSET, 100, 0, 0, 2)), 2);
    settle(&B, 2);
    eq!(A.load(SeqCst), 0);
    eq!(ok!(futex(&F, FUTEX_WAKE_BITSET, 1, 0, 0, 3)), 1);
    settle(&A, 1);
    eq!(ok!(futex(&F, FUTEX_WAKE, 9, 0, 0, 0)), 2);
    settle(&A, 3);
}

fn futex_requeue() {
    static F: AtomicU32 = AtomicU32::new(0);
    static G: AtomicU32 = AtomicU32::new(0);
    static W: AtomicUsize = AtomicUsize::new(0);
    sleepers(&F, FUTEX_WAIT, 0, 6, &W);
    eq!(ok!(futex(&F, FUTEX_REQUEUE, 1, 3, p(&G), 0)), 4);
    settle(&W, 1);
    eq!(ok!(futex(&G, FUTEX_WAKE, 100, 0, 0, 0)), 3);
    settle(&W, 4);
    eq!(ok!(futex(&F, FUTEX_WAKE, 100, 0, 0, 0)), 2);
    settle(&W, 6);
}

fn futex_cmp_requeue() {
    static F: AtomicU32 = AtomicU32::new(0);
    static G: AtomicU32 = AtomicU32::new(0);
    static W: AtomicUsize = AtomicUsize::new(0);
    sleepers(&F, FUTEX_WAIT, 0, 4, &W);
    err!(futex(&F, FUTEX_CMP_REQUEUE, 1, 100, p(&G), 5), EAGAIN);
    eq!(ok!(futex(&F, FUTEX_CMP_REQUEUE, 1, 100, p(&G), 0)), 4);
    settle(&W, 1);
    eq!(ok!(futex(&F, FUTEX_WAKE, 100, 0, 0, 0)), 0);
    eq!(ok!(futex(&G, FUTEX_WAKE, 100, 0, 0, 0)), 3);
    settle(&W, 4);
    err!(sys!(futex, p(&F), FUTEX_CMP_REQUEUE, -1, 1, p(&G), 0), EINVAL);
}

fn futex_wake_op() {
    static F: AtomicU32 = AtomicU32::new(0);
    static G: AtomicU32 = AtomicU32::new(0);
    static W: AtomicUsize = AtomicUsize::new(0);
    static X: AtomicUsize = AtomicUsize::new(0);
    sleepers(&F, FUTEX_WAIT, 0, 2, &W);
    sleepers(&G, FUTEX_WAIT, 0, 2, &X);
    // *G = 7; wake one of F, and one of G if the old value was equal to 0
    let op = 7 << 12;
    eq!(ok!(futex(&F, FUTEX_WAKE_OP, 1, 1, p(&G), op)), 2);
    settle(&W, 1);
    settle(&X, 1);
    eq!(G.load(SeqCst), 7);
    // *G += 3; the comparison (old == 1) fails
    let op = 1 << 28 | 3 << 12 | 1;
    eq!(ok!(futex(&F, FUTEX_WAKE_OP, 9, 9, p(&G), op)), 1);
    settle(&W, 2);
    eq!(G.load(SeqCst), 10);
    eq!(ok!(futex(&G, FUTEX_WAKE, 9, 0, 0, 0)), 1);
}

fn futex_shared_processes() {
    let f: &'static AtomicU32 = shared();
    let child = fork(|| {
        ok!(futex(f, FUTEX_WAIT, 0, 0, 0, 0));
        say!("child woken");
    });
    until("it sleeps", || state(child) == 'S');
    ms(10);
    eq!(ok!(futex(f, FUTEX_WAKE, 1, 0, 0, 0)), 1);
    eq!(wait(child), 0);
}

fn futex_private_is_private() {
    // the same address in a copy of the memory is another futex
    static F: AtomicU32 = AtomicU32::new(0);
    let child = fork(|| {
        let t = ts(150);
        err!(futex(&F, FUTEX_WAIT, 0, p(&t), 0, 0), ETIMEDOUT);
    });
    until("it sleeps", || state(child) == 'S');
    eq!(ok!(futex(&F, FUTEX_WAKE, 1, 0, 0, 0)), 0);
    eq!(wait(child), 0);
}

fn futex_file_shared() {
    put("a", &[0; 4096]);
    let map = || {
        let f = ok!(open(c"a", O_RDWR));
        let a = ok!(sys!(mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0));
        unsafe { &*(a as *const AtomicU32) }
    };
    let child = fork(|| {
        ok!(futex(map(), FUTEX_WAIT, 0, 0, 0, 0));
    });
    until("it sleeps", || state(child) == 'S');
    ms(10);
    eq!(ok!(futex(map(), FUTEX_WAKE, 1, 0, 0, 0)), 1);
    eq!(wait(child), 0);
}

fn futex_pi() {
    static F: AtomicU32 = AtomicU32::new(0);
    static N: AtomicUsize = AtomicUsize::new(0);
    ok!(futex(&F, FUTEX_LOCK_PI, 0, 0, 0, 0));
    eq!(F.load(SeqCst), gettid() as u32);
    for t in threads(1, |_| {
        err!(futex(&F, FUTEX_TRYLOCK_PI, 0, 0, 0, 0), EAGAIN);
        let at = now(CLOCK_REALTIME) + 0.03;
        let abs = timespec { tv_sec: at as i64, tv_nsec: (at.fract() * 1e9) as i64 };
        err!(futex(&F, FUTEX_LOCK_PI, 0, p(&abs), 0, 0), ETIMEDOUT);
    }) {
        t.join().unwrap();
    }
    let tid: &'static AtomicI32 = Box::leak(Box::new(AtomicI32::new(0)));
    let t = threads(1, move |_| {
        tid.store(gettid(), SeqCst);
        ok!(futex(&F, FUTEX_LOCK_PI, 0, 0, 0, 0));
        eq!(F.load(SeqCst) & 0x3fff_ffff, gettid() as u32);
        N.store(1, SeqCst);
        ok!(futex(&F, FUTEX_UNLOCK_PI, 0, 0, 0, 0));
    });
    until("it sleeps", || tid.load(SeqCst) != 0 && state(tid.load(SeqCst)) == 'S');
    check!(F.load(SeqCst) & 0x8000_0000 != 0);
    eq!(N.load(SeqCst), 0);
    ok!(futex(&F, FUTEX_UNLOCK_PI, 0, 0, 0, 0));
    for x in t {
        x.join().unwrap();
    }
    eq!(F.load(SeqCst), 0);
}

fn futex_pi_errors() {
    let f = AtomicU32::new(0);
    ok!(futex(&f, FUTEX_LOCK_PI, 0, 0, 0, 0));
    err!(futex(&f, FUTEX_LOCK_PI, 0, 0, 0, 0), EDEADLK);
    ok!(futex(&f, FUTEX_UNLOCK_PI, 0, 0, 0, 0));
    err!(futex(&f, FUTEX_UNLOCK_PI, 0, 0, 0, 0), EPERM);
    f.store(99_999, SeqCst);
    err!(futex(&f, FUTEX_LOCK_PI, 0, 0, 0, 0), ESRCH);
    err!(futex(&f, FUTEX_UNLOCK_PI, 0, 0, 0, 0), EPERM);
}

fn futex_pi_owner_died() {
    static F: AtomicU32 = AtomicU32::new(0);
    // without a robust list a lock of a thread that is gone is not taken over
    for t in threads(1, |_| {
        ok!(futex(&F, FUTEX_LOCK_PI, 0, 0, 0, 0));
    }) {
        t.join().unwrap();
    }
    check!(F.load(SeqCst) != 0);
    err!(futex(&F, FUTEX_LOCK_PI, 0, 0, 0, 0), ESRCH);
}

#[repr(C)]
struct Robust {
    next: i64,
    offset: i64,
    pending: i64,
}

fn robust_list() {
    // node and futex word in shared memory; the child dies holding the lock
    let area = anon(4096, MAP_SHARED) as i64;
    let word = unsafe { &*((area + 16) as *const AtomicU32) };
    let child = fork(|| {
        let head = Box::leak(Box::new(Robust { next: area, offset: 16, pending: 0 }));
        unsafe { *(area as *mut i64) = p(head) };
        ok!(sys!(set_robust_list, p(head), 24));
        word.store(gettid() as u32 | FUTEX_WAITERS, SeqCst);
        ms(40);
        ok!(sys!(kill, getpid(), SIGKILL));
    });
    until("the child has the lock", || word.load(SeqCst) != 0);
    let v = word.load(SeqCst);
    ok!(futex(word, FUTEX_WAIT, v, 0, 0, 0));
    eq!(word.load(SeqCst), FUTEX_OWNER_DIED | FUTEX_WAITERS);
    wait(child);
    // and at execve
    let child = fork(|| {
        let head = Box::leak(Box::new(Robust { next: area, offset: 16, pending: 0 }));
        unsafe { *(area as *mut i64) = p(head) };
        ok!(sys!(set_robust_list, p(head), 24));
        word.store(gettid() as u32, SeqCst);
        super::exec::exec(c"/proc/self/exe", &["guest", "@exit", "0"], &[]);
    });
    wait(child);
    eq!(word.load(SeqCst), FUTEX_OWNER_DIED);
}

fn robust_list_pi_args() {
    let (mut head, mut len) = (0i64, 0i64);
    ok!(sys!(get_robust_list, 0, m(&mut head), m(&mut len)));
    eq!(len, 24);
    let mine = Robust { next: 0, offset: 0, pending: 0 };
    err!(sys!(set_robust_list, p(&mine), 23), EINVAL);
    ok!(sys!(set_robust_list, p(&mine), 24));
    ok!(sys!(get_robust_list, 0, m(&mut head), m(&mut len)));
    eq!(head, p(&mine));
    err!(sys!(get_robust_list, 99999, m(&mut head), m(&mut len)), ESRCH);
    // a list that leads nowhere does no harm
    in_child(|| {
        let bad = Robust { next: 8, offset: 0, pending: 8 };
        ok!(sys!(set_robust_list, p(&bad), 24));
    });
    in_child(|| {
        let mut looping = Robust { next: 0, offset: 64, pending: 0 };
        let mut node = [0i64; 16];
        node[0] = p(&node);
        looping.next = p(&node);
        ok!(sys!(set_robust_list, p(&looping), 24));
    });
}

fn clear_child_tid() {
    let word: &'static AtomicU32 = shared();
    word.store(5, SeqCst);
    static STACKS: AtomicUsize = AtomicUsize::new(0);
    STACKS.fetch_add(1, SeqCst);
    let flags = CLONE_VM | CLONE_CHILD_CLEARTID | SIGCHLD;
    extern "C" fn body(_: *mut c_void) -> i32 {
        ms(30);
        0
    }
    let stack = anon(65536, MAP_PRIVATE);
    let child = unsafe {
        clone(
            body,
            stack.add(65536).cast(),
            flags,
            std::ptr::null_mut(),
            std::ptr::null_mut::<c_void>(),
            std::ptr::null_mut::<c_void>(),
            p(word),
        )
    };
    let limit = ts(5000);
    ok!(futex(word, FUTEX_WAIT, 5, p(&limit), 0, 0));
    eq!(word.load(SeqCst), 0);
    wait(child);
}

extern "C" fn nothing(_: i32, _: *mut siginfo_t, _: *mut c_void) {}

fn futex_eintr() {
    static F: AtomicU32 = AtomicU32::new(0);
    let child = fork(|| {
        on(SIGUSR1, nothing, 0);
        err!(futex(&F, FUTEX_WAIT, 0, 0, 0, 0), EINTR);
        on(SIGUSR1, nothing, SA_RESTART);
        // with a timeout a wait is not restarted after a handler, SA_RESTART or not
        let t = ts(30_000);
        err!(futex(&F, FUTEX_WAIT, 0, p(&t), 0, 0), EINTR);
    });
    until("it sleeps", || state(child) == 'S');
    ok!(sys!(kill, child, SIGUSR1));
    ms(60);
    until("it sleeps again", || state(child) == 'S');
    ok!(sys!(kill, child, SIGUSR1));
    eq!(wait(child), 0);
}

static HIT: AtomicI32 = AtomicI32::new(0);
extern "C" fn note(_: i32, _: *mut siginfo_t, _: *mut c_void) {
    HIT.store(unsafe { libc::syscall(SYS_gettid) } as i32, SeqCst);
}

fn tgkill_thread() {
    on(SIGUSR1, note, SA_RESTART);
    let tid: &'static AtomicI32 = Box::leak(Box::new(AtomicI32::new(0)));
    threads(1, move |_| {
        tid.store(gettid(), SeqCst);
        ms(60_000);
    });
    until("it runs", || tid.load(SeqCst) != 0 && state(tid.load(SeqCst)) == 'S');
    ok!(sys!(tgkill, getpid(), tid.load(SeqCst), SIGUSR1));
    until("handled there", || HIT.load(SeqCst) == tid.load(SeqCst));
    ok!(sys!(tkill, gettid(), SIGUSR1));
    eq!(HIT.load(SeqCst), gettid());
    err!(sys!(tgkill, -1, gettid(), SIGUSR1), EINVAL);
    err!(sys!(tgkill, getpid(), 0, SIGUSR1), EINVAL);
    err!(sys!(tgkill, getpid(), 99999, SIGUSR1), ESRCH);
    err!(sys!(tkill, 99999, 0), ESRCH);
}

fn thread_signals() {
    // a signal for the process goes to a thread that does not block it
    on(SIGUSR2, note, SA_RESTART);
    mask(SIG_BLOCK, &[SIGUSR2]);
    let tid: &'static AtomicI32 = Box::leak(Box::new(AtomicI32::new(0)));
    threads(1, move |_| {
        mask(SIG_UNBLOCK, &[SIGUSR2]);
        tid.store(gettid(), SeqCst);
        ms(60_000);
    });
    until("it runs", || tid.load(SeqCst) != 0 && state(tid.load(SeqCst)) == 'S');
    ok!(sys!(kill, getpid(), SIGUSR2));
    until("handled there", || HIT.load(SeqCst) == tid.load(SeqCst));
    // masks are per thread, and inherited
    for t in threads(1, |_| eq!(mask(SIG_BLOCK, &[]), set(&[SIGUSR2]))) {
        t.join().unwrap();
    }
}

fn exit_one() {
    let t = threads(1, |_| {
        let _ = sys!(exit, 5);
    });
    drop(t);
    until("it is gone", || std::fs::read_dir("/proc/self/task").unwrap().count() == 1);
    say!("the process lives");
}

fn stacks() {
    #[inline(never)]
    fn dig(n: usize) -> usize {
        let b = std::hint::black_box([n as u8; 1024]);
        if n == 0 { b.len() } else { dig(n - 1) + usize::from(b[0] == n as u8) }
    }
    let t: Vec<_> = (0..16).map(|_| std::thread::Builder::new().stack_size(2 << 20).spawn(|| dig(400)).unwrap()).collect();
    for x in t {
        eq!(x.join().unwrap(), 1024 + 400);
    }
}

fn waitv() {
    static F: AtomicU32 = AtomicU32::new(0);
    static G: AtomicU32 = AtomicU32::new(0);
    let v = [[0u64, p(&F) as u64, 2], [0, p(&G) as u64, 2]];
    let t = threads(1, |_| {
        ms(40);
        G.store(1, SeqCst);
        ok!(futex(&G, FUTEX_WAKE, 1, 0, 0, 0));
    });
    eq!(ok!(sys!(futex_waitv, p(&v), 2, 0, 0, 0)), 1);
    for x in t {
        x.join().unwrap();
    }
    err!(sys!(futex_waitv, p(&v), 2, 0, 0, 0), EAGAIN);
    err!(sys!(futex_waitv, p(&v), 0, 0, 0, 0), EINVAL);
    err!(sys!(futex_waitv, p(&v), 129, 0, 0, 0), EINVAL);
    err!(sys!(futex_waitv, p(&v), 2, 1, 0, 0), EINVAL);
}

fn barrier_many() {
    let b = Arc::new(std::sync::Barrier::new(16));
    let total = Arc::new(AtomicUsize::new(0));
    let t: Vec<_> = (0..16)
        .map(|_| {
            let (b, total) = (b.clone(), total.clone());
            std::thread::spawn(move || {
                for round in 0..50 {
                    total.fetch_add(1, SeqCst);
                    b.wait();
                    eq!(total.load(SeqCst), (round + 1) * 16);
                    b.wait();
                }
            })
        })
        .collect();
    for x in t {
        x.join().unwrap();
    }
}

fn rapid_create() {
    for i in 0..500usize {
        let t = std::thread::spawn(move || i * 2);
        eq!(t.join().unwrap(), i * 2);
    }
}

fn spin_and_block() {
    // a thread that computes does not keep others from running
    let stop: &'static AtomicUsize = Box::leak(Box::new(AtomicUsize::new(0)));
    let t = threads(3, move |_| {
        while stop.load(SeqCst) == 0 {
            std::hint::spin_loop();
        }
    });
    let (r, w) = pipe(0);
    for i in 0..20u8 {
        ok!(write(w, &[i]));
        eq!(ok!(read(r, 1)), [i]);
        ms(1);
    }
    stop.store(1, SeqCst);
    for x in t {
        x.join().unwrap();
    }
}

fn credentials_shared() {
    // the kernel's credentials are per thread; the C library keeps threads together
    for t in threads(1, |_| {
        ok!(sys!(setresuid, 7, 7, 7));
        eq!(ok!(sys!(getuid)), 7);
    }) {
        t.join().unwrap();
    }
    eq!(ok!(sys!(getuid)), 0);
    unsafe { setresuid(8, 8, 8) };
    for t in threads(1, |_| eq!(ok!(sys!(getuid)), 8)) {
        t.join().unwrap();
    }
    say!("{}", ok!(sys!(getuid)));
}
