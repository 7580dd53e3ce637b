//! Signals: handlers and their frames, masks, what is delivered when and with which information.

use crate::sys::*;
use crate::{check, eq, err, list, ok, say, sys};
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicUsize, Ordering::SeqCst};

pub const TESTS: &[crate::Test] = list!["signal";
    handler_runs, sigaction_args, mask_during_handler, nodefer, resethand, sigsuspend_call, pending_and_unblock, pending_once, realtime_order, realtime_queue_limit,
    siginfo_kill, siginfo_sigqueue, siginfo_child, siginfo_segv, siginfo_fpe_ill_trap, altstack, altstack_args, altstack_overflow, nested_handlers, longjmp_out,
    change_context, sse_state, avx_state, fault_fixed_by_handler, fault_blocked_kills, fault_ignored_kills, default_actions, ignored, sigkill_stop_fixed, timedwait,
    timedwait_args, signalfd_read, signalfd_args, signalfd_poll, stop_and_continue, cont_discards_stops, stop_cancels_cont, sigchld_stop, nocldstop, sigpipe, many_signals,
    handler_in_child, kill_self_sync, sigprocmask_args, rt_sigreturn_mask, syscall_in_handler, abort_behaviour, sigfpe_mxcsr, raise_every, red_zone, directions,
];

static COUNT: AtomicUsize = AtomicUsize::new(0);
static LAST: AtomicI32 = AtomicI32::new(0);
static VALUE: AtomicI64 = AtomicI64::new(0);

extern "C" fn count(s: i32, _: *mut siginfo_t, _: *mut c_void) {
    COUNT.fetch_add(1, SeqCst);
    LAST.store(s, SeqCst);
}

fn raise_it(s: i32) {
    ok!(sys!(kill, getpid(), s));
}

fn ends(f: impl FnOnce()) -> String {
    show_status(wait(fork(|| {
        let none = rlimit { rlim_cur: 0, rlim_max: 0 };
        ok!(sys!(setrlimit, RLIMIT_CORE, p(&none)));
        f();
    })))
}

fn handler_runs() {
    on(SIGUSR1, count, 0);
    for i in 1..=5 {
        raise_it(SIGUSR1);
        eq!(COUNT.load(SeqCst), i);
    }
    action(SIGUSR1, SIG_DFL);
    say!("{}", ends(|| raise_it(SIGUSR1)));
}

fn kill_self_sync() {
    // a signal that a process sends to itself is handled before kill returns
    on(SIGUSR1, count, 0);
    for i in 1..=2000 {
        raise_it(SIGUSR1);
        eq!(COUNT.load(SeqCst), i);
    }
}

fn sigaction_args() {
    let sa = [0u64; 4];
    err!(sys!(rt_sigaction, 0, p(&sa), 0, 8), EINVAL);
    err!(sys!(rt_sigaction, 65, p(&sa), 0, 8), EINVAL);
    err!(sys!(rt_sigaction, SIGKILL, p(&sa), 0, 8), EINVAL);
    err!(sys!(rt_sigaction, SIGSTOP, p(&sa), 0, 8), EINVAL);
    err!(sys!(rt_sigaction, SIGUSR1, p(&sa), 0, 7), EINVAL);
    err!(sys!(rt_sigaction, SIGUSR1, 8, 0, 8), EFAULT);
    let mut old = [9u64; 4];
    ok!(sys!(rt_sigaction, SIGKILL, 0, m(&mut old), 8));
    eq!(old[0], 0);
    let mine = [SIG_IGN as u64, (SA_RESTART | SA_NODEFER) as u64, 0, set(&[SIGKILL, SIGUSR2, SIGSTOP])];
    ok!(sys!(rt_sigaction, SIGUSR1, p(&mine), 0, 8));
    ok!(sys!(rt_sigaction, SIGUSR1, 0, m(&mut old), 8));
    eq!((old[0], old[1], old[3]), (1, (SA_RESTART | SA_NODEFER) as u64, set(&[SIGUSR2])));
}

static SEEN: AtomicI64 = AtomicI64::new(0);
extern "C" fn note_mask(_: i32, _: *mut siginfo_t, _: *mut c_void) {
    let mut old = 0u64;
    let _ = sys!(rt_sigprocmask, SIG_BLOCK, 0, m(&mut old), 8);
    SEEN.store(old as i64, SeqCst);
}

fn mask_during_handler() {
    let mut sa = unsafe { std::mem::zeroed::<sigaction>() };
    sa.sa_sigaction = note_mask as *const () as usize;
    sa.sa_flags = SA_SIGINFO;
    unsafe { sigaddset(&mut sa.sa_mask, SIGTERM) };
    unsafe { sigaction(SIGUSR1, &sa, std::ptr::null_mut()) };
    mask(SIG_BLOCK, &[SIGHUP]);
    raise_it(SIGUSR1);
    eq!(SEEN.load(SeqCst) as u64, set(&[SIGUSR1, SIGTERM, SIGHUP]));
    eq!(mask(SIG_BLOCK, &[]), set(&[SIGHUP]));
}

fn nodefer() {
    on(SIGUSR1, note_mask, SA_NODEFER);
    raise_it(SIGUSR1);
    eq!(SEEN.load(SeqCst), 0);
}

fn resethand() {
    on(SIGUSR1, count, SA_RESETHAND);
    raise_it(SIGUSR1);
    let mut old = [9u64; 4];
    ok!(sys!(rt_sigaction, SIGUSR1, 0, m(&mut old), 8));
    eq!(old[0], 0);
    say!("{}", ends(|| raise_it(SIGUSR1)));
}

fn sigsuspend_call() {
    on(SIGUSR1, count, 0);
    mask(SIG_BLOCK, &[SIGUSR1, SIGUSR2]);
    raise_it(SIGUSR1);
    eq!(COUNT.load(SeqCst), 0);
    let wait_mask = set(&[SIGUSR2]);
    err!(sys!(rt_sigsuspend, p(&wait_mask), 8), EINTR);
    eq!((COUNT.load(SeqCst), mask(SIG_BLOCK, &[])), (1, set(&[SIGUSR1, SIGUSR2])));
    err!(sys!(rt_sigsuspend, p(&wait_mask), 4), EINVAL);
    let me = getpid();
    let child = fork(|| {
        until("the parent sleeps", || state(me) == 'S');
        ok!(sys!(kill, me, SIGUSR1));
    });
    err!(sys!(rt_sigsuspend, p(&wait_mask), 8), EINTR);
    eq!(COUNT.load(SeqCst), 2);
    eq!(wait(child), 0);
    // an ignored signal does not end it
    let child = fork(|| {
        until("the parent sleeps", || state(me) == 'S');
        ok!(sys!(kill, me, SIGWINCH));
        ms(20);
        until("the parent sleeps", || state(me) == 'S');
        ok!(sys!(kill, me, SIGUSR1));
    });
    err!(sys!(rt_sigsuspend, p(&wait_mask), 8), EINTR);
    eq!(COUNT.load(SeqCst), 3);
    eq!(wait(child), 0);
}

fn pending_and_unblock() {
    on(SIGUSR1, count, 0);
    mask(SIG_BLOCK, &[SIGUSR1, SIGUSR2]);
    raise_it(SIGUSR1);
    let mut pend = 0u64;
    ok!(sys!(rt_sigpending, m(&mut pend), 8));
    eq!(pend, set(&[SIGUSR1]));
    ok!(sys!(tgkill, getpid(), gettid(), SIGUSR2));
    ok!(sys!(rt_sigpending, m(&mut pend), 8));
    eq!(pend, set(&[SIGUSR1, SIGUSR2]));
    // pending signals are not inherited
    in_child(|| {
        let mut pend = 9u64;
        ok!(sys!(rt_sigpending, m(&mut pend), 8));
        eq!(pend, 0);
    });
    mask(SIG_UNBLOCK, &[SIGUSR1]);
    eq!(COUNT.load(SeqCst), 1);
    // ignoring drops a pending one
    action(SIGUSR2, SIG_IGN);
    ok!(sys!(rt_sigpending, m(&mut pend), 8));
    eq!(pend, 0);
}

fn pending_once() {
    on(SIGUSR1, count, 0);
    on(40, count, 0);
    mask(SIG_BLOCK, &[SIGUSR1, 40]);
    for _ in 0..5 {
        raise_it(SIGUSR1);
        raise_it(40);
    }
    mask(SIG_UNBLOCK, &[SIGUSR1]);
    eq!(COUNT.load(SeqCst), 1);
    mask(SIG_UNBLOCK, &[40]);
    eq!(COUNT.load(SeqCst), 6);
}

static ORDER: std::sync::Mutex<Vec<(i32, i64)>> = std::sync::Mutex::new(Vec::new());
extern "C" fn record(s: i32, info: *mut siginfo_t, _: *mut c_void) {
    let v = unsafe { (*info).si_value().sival_ptr as i64 };
    ORDER.lock().unwrap().push((s, v));
}

fn queue(s: i32, value: i64) -> R {
    let mut info = [0i32; 32];
    info[0] = s;
    info[2] = SI_QUEUE;
    info[4] = getpid();
    info[6] = value as i32;
    info[7] = (value >> 32) as i32;
    sys!(rt_sigqueueinfo, getpid(), s, p(&info))
}

fn realtime_order() {
    let all = [SIGUSR2, 36, 40, 35, 36, 40, SIGUSR1, 64];
    for s in all {
        on(s, record, 0);
    }
    // without each other's company, so that the order is that of delivery
    mask(SIG_BLOCK, &all);
    ORDER.lock().unwrap().reserve(100);
    for (i, s) in all.iter().enumerate() {
        ok!(queue(*s, i as i64));
    }
    // the lowest first, equals in the order they were sent; taken one by one here
    let which = set(&all);
    let mut v = vec![];
    for _ in 0..all.len() {
        let mut info = [0i32; 32];
        let s = ok!(sys!(rt_sigtimedwait, p(&which), m(&mut info), 0, 8));
        v.push((s, info[6]));
    }
    say!("{v:?}");
    for (i, s) in all.iter().enumerate() {
        ok!(queue(*s, i as i64));
    }
    mask(SIG_UNBLOCK, &all);
    say!("{:?}", ORDER.lock().unwrap());
}

fn realtime_queue_limit() {
    let lim = rlimit { rlim_cur: 10, rlim_max: 10 };
    ok!(sys!(setrlimit, RLIMIT_SIGPENDING, p(&lim)));
    ok!(sys!(setresuid, 4243, 4243, 4243));
    mask(SIG_BLOCK, &[40]);
    let mut n = 0;
    let e = loop {
        match queue(40, 1) {
            Ok(_) => n += 1,
            Err(e) => break e,
        }
        if n > 100 {
            break E(0);
        }
    };
    say!("{n} {e:?}");
}

static INFO: std::sync::Mutex<(i32, i32, i32, u32, i64)> = std::sync::Mutex::new((0, 0, 0, 0, 0));
extern "C" fn note_info(s: i32, info: *mut siginfo_t, _: *mut c_void) {
    let i = unsafe { &*info };
    check!(s == i.si_signo);
    *INFO.lock().unwrap() = unsafe { (i.si_signo, i.si_code, i.si_pid(), i.si_uid(), i.si_value().sival_ptr as i64) };
}

fn siginfo_kill() {
    on(SIGUSR1, note_info, 0);
    raise_it(SIGUSR1);
    let i = *INFO.lock().unwrap();
    eq!((i.0, i.1, i.2, i.3), (SIGUSR1, SI_USER, getpid(), 0));
    ok!(sys!(tgkill, getpid(), gettid(), SIGUSR1));
    eq!(INFO.lock().unwrap().1, SI_TKILL);
    let me = getpid();
    let child = fork(|| {
        ok!(sys!(setresuid, 1000, 0, 0));
        ok!(sys!(kill, me, SIGUSR1));
    });
    eq!(wait(child), 0);
    let i = *INFO.lock().unwrap();
    eq!((i.1, i.2, i.3), (SI_USER, child, 1000));
}

fn siginfo_sigqueue() {
    on(SIGUSR1, note_info, 0);
    ok!(queue(SIGUSR1, 0x1234_5678_9abc));
    let i = *INFO.lock().unwrap();
    eq!((i.1, i.2, i.4), (SI_QUEUE, getpid(), 0x1234_5678_9abc));
    // nobody may claim another origin for somebody else's process
    let mut info = [0i32; 32];
    info[2] = 0;
    let child = fork(|| ms(60_000));
    err!(sys!(rt_sigqueueinfo, child, SIGUSR1, p(&info)), EPERM);
    info[2] = SI_TKILL;
    err!(sys!(rt_sigqueueinfo, child, SIGUSR1, p(&info)), EPERM);
    info[2] = 5;
    err!(sys!(rt_sigqueueinfo, child, SIGUSR1, p(&info)), EPERM);
    info[2] = SI_QUEUE;
    err!(sys!(rt_sigqueueinfo, child, 99, p(&info)), EINVAL);
    err!(sys!(rt_sigqueueinfo, 99999, SIGUSR1, p(&info)), ESRCH);
    err!(sys!(rt_sigqueueinfo, child, SIGUSR1, 8), EFAULT);
    ok!(sys!(kill, child, SIGKILL));
    wait(child);
}

fn siginfo_child() {
    on(SIGCHLD, note_info, 0);
    let child = fork(|| unsafe { _exit(23) });
    until("SIGCHLD", || INFO.lock().unwrap().0 == SIGCHLD);
    let i = *INFO.lock().unwrap();
    eq!((i.1, i.2, i.4 as i32), (CLD_EXITED, child, 23));
    wait(child);
    INFO.lock().unwrap().0 = 0;
    let child = fork(|| raise_it(SIGKILL));
    until("SIGCHLD", || INFO.lock().unwrap().0 == SIGCHLD);
    let i = *INFO.lock().unwrap();
    eq!((i.1, i.2, i.4 as i32), (CLD_KILLED, child, 9));
    wait(child);
}

extern "C" fn show_fault(s: i32, info: *mut siginfo_t, ctx: *mut c_void) {
    let (i, ctx) = unsafe { (&*info, &*(ctx as *const ucontext_t)) };
    let g = &ctx.uc_mcontext.gregs;
    say!(
        "{s} code {} addr {:#x} err {:#x} trapno {} cr2 {:#x}",
        i.si_code,
        unsafe { i.si_addr() } as usize & 0xfff_ffff,
        g[REG_ERR as usize] & 0x17,
        g[REG_TRAPNO as usize],
        g[REG_CR2 as usize] & 0xfff_ffff
    );
    unsafe { _exit(0) };
}

fn siginfo_segv() {
    let page = ok!(sys!(mmap, 0x1_1000_0000i64, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
    let faults: [fn(i64); 4] = [
        |_| unsafe { std::ptr::write_volatile(0x50 as *mut u8, 1) },
        |page| unsafe { std::ptr::write_volatile(page as *mut u8, 1) },
        |_| unsafe {
            std::ptr::read_volatile(0x1_2345_6000i64 as *const u8);
        },
        |page| {
            let f: extern "C" fn() = unsafe { std::mem::transmute(page) };
            f();
        },
    ];
    for f in faults {
        in_child(|| {
            on(SIGSEGV, show_fault, 0);
            f(page);
        });
    }
}

extern "C" fn show_trap(s: i32, info: *mut siginfo_t, ctx: *mut c_void) {
    let (i, ctx) = unsafe { (&*info, &*(ctx as *const ucontext_t)) };
    let at = ctx.uc_mcontext.gregs[REG_RIP as usize] as usize;
    say!(
        "{s} code {} addr is rip {} trapno {}",
        i.si_code,
        unsafe { i.si_addr() } as usize == at,
        ctx.uc_mcontext.gregs[REG_TRAPNO as usize]
    );
    unsafe { _exit(0) };
}

fn siginfo_fpe_ill_trap() {
    for s in [SIGFPE, SIGILL, SIGTRAP, SIGSEGV] {
        on(s, show_trap, 0);
    }
    in_child(|| unsafe {
        std::arch::asm!("xor edx, edx", "mov eax, 1", "xor ecx, ecx", "div ecx", out("eax") _, out("edx") _, out("ecx") _)
    });
    in_child(|| unsafe { std::arch::asm!("ud2") });
    in_child(|| unsafe { std::arch::asm!("int3") });
    in_child(|| unsafe { std::arch::asm!("hlt") });
    say!(
        "{}",
        ends(|| unsafe {
            action(SIGTRAP, SIG_DFL);
            std::arch::asm!("int3")
        })
    );
}

static WHERE: AtomicUsize = AtomicUsize::new(0);
extern "C" fn note_stack(_: i32, _: *mut siginfo_t, ctx: *mut c_void) {
    let here = 0u8;
    WHERE.store(&raw const here as usize, SeqCst);
    let mut old = unsafe { std::mem::zeroed::<stack_t>() };
    let _ = sys!(sigaltstack, 0, m(&mut old));
    VALUE.store(i64::from(old.ss_flags), SeqCst);
    let new = stack_t { ss_sp: std::ptr::null_mut(), ss_flags: SS_DISABLE, ss_size: 0 };
    LAST.store(sys!(sigaltstack, p(&new), 0).err().map_or(0, |e| e.0), SeqCst);
    let uc = unsafe { &*(ctx as *const ucontext_t) };
    COUNT.store(uc.uc_stack.ss_size, SeqCst);
}

fn altstack() {
    let stack = anon(65536, MAP_PRIVATE) as usize;
    let alt = stack_t { ss_sp: stack as *mut c_void, ss_flags: 0, ss_size: 65536 };
    ok!(sys!(sigaltstack, p(&alt), 0));
    on(SIGUSR1, note_stack, SA_ONSTACK);
    raise_it(SIGUSR1);
    let at = WHERE.load(SeqCst);
    check!(at >= stack && at < stack + 65536);
    eq!((VALUE.load(SeqCst), E(LAST.load(SeqCst)), COUNT.load(SeqCst)), (i64::from(SS_ONSTACK), EPERM, 65536));
    on(SIGUSR1, note_stack, 0);
    raise_it(SIGUSR1);
    let at = WHERE.load(SeqCst);
    check!(at < stack || at >= stack + 65536);
    // a child has it too, a thread has none
    in_child(|| {
        let mut old = unsafe { std::mem::zeroed::<stack_t>() };
        ok!(sys!(sigaltstack, 0, m(&mut old)));
        eq!(old.ss_sp as usize == stack || old.ss_flags == SS_DISABLE, true);
    });
}

fn altstack_args() {
    let mut old = unsafe { std::mem::zeroed::<stack_t>() };
    let none = stack_t { ss_sp: std::ptr::null_mut(), ss_flags: SS_DISABLE, ss_size: 0 };
    ok!(sys!(sigaltstack, p(&none), 0));
    ok!(sys!(sigaltstack, 0, m(&mut old)));
    eq!(old.ss_flags, SS_DISABLE);
    let small = stack_t { ss_sp: 65536 as *mut c_void, ss_flags: 0, ss_size: 2047 };
    err!(sys!(sigaltstack, p(&small), 0), ENOMEM);
    let bad = stack_t { ss_sp: 65536 as *mut c_void, ss_flags: 8, ss_size: 8192 };
    err!(sys!(sigaltstack, p(&bad), 0), EINVAL);
    err!(sys!(sigaltstack, 8, 0), EFAULT);
    let auto = stack_t { ss_sp: anon(65536, MAP_PRIVATE).cast(), ss_flags: 1 << 31, ss_size: 65536 };
    ok!(sys!(sigaltstack, p(&auto), 0));
    ok!(sys!(sigaltstack, 0, m(&mut old)));
    eq!((old.ss_flags, old.ss_size), (1 << 31, 65536));
}

#[inline(never)]
#[allow(unconditional_recursion)]
fn endless(n: usize) -> usize {
    let b = std::hint::black_box([n; 512]);
    endless(n + 1) + b[0]
}

extern "C" fn overflowed(s: i32, _: *mut siginfo_t, _: *mut c_void) {
    say!("handled {s} on the other stack");
    unsafe { _exit(12) };
}

fn altstack_overflow() {
    let lim = rlimit { rlim_cur: 1 << 20, rlim_max: 1 << 20 };
    ok!(sys!(setrlimit, RLIMIT_STACK, p(&lim)));
    let alt = stack_t { ss_sp: anon(65536, MAP_PRIVATE).cast(), ss_flags: 0, ss_size: 65536 };
    ok!(sys!(sigaltstack, p(&alt), 0));
    on(SIGSEGV, overflowed, SA_ONSTACK);
    say!(
        "{}",
        ends(|| {
            endless(0);
        })
    );
    on(SIGSEGV, overflowed, 0);
    say!(
        "{}",
        ends(|| {
            endless(0);
        })
    );
}

extern "C" fn outer(_: i32, _: *mut siginfo_t, _: *mut c_void) {
    ORDER.lock().unwrap().push((1, 0));
    raise_it(SIGUSR2);
    ORDER.lock().unwrap().push((1, 1));
}
extern "C" fn inner(_: i32, _: *mut siginfo_t, _: *mut c_void) {
    ORDER.lock().unwrap().push((2, 0));
    raise_it(SIGUSR1);
    ORDER.lock().unwrap().push((2, 1));
}

fn nested_handlers() {
    ORDER.lock().unwrap().reserve(20);
    on(SIGUSR1, outer, SA_RESETHAND);
    on(SIGUSR2, inner, 0);
    mask(SIG_BLOCK, &[SIGUSR2]);
    mask(SIG_UNBLOCK, &[SIGUSR2]);
    in_child(|| {
        on(SIGUSR1, outer, 0);
        action(SIGUSR2, SIG_IGN);
        raise_it(SIGUSR1);
        eq!(ORDER.lock().unwrap().len(), 2);
    });
    on(SIGTERM, count, 0);
    on(SIGUSR2, count, 0);
    raise_it(SIGUSR1);
    eq!((ORDER.lock().unwrap().clone(), COUNT.load(SeqCst)), (vec![(1, 0), (1, 1)], 1));
}

fn longjmp_out() {
    // leaving a handler without returning, as siglongjmp does: the mask is the program's own business
    static ROUNDS: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn leave(_: i32, _: *mut siginfo_t, ctx: *mut c_void) {
        unsafe {
            let ctx = &*(ctx as *const ucontext_t);
            let g = &ctx.uc_mcontext.gregs;
            ROUNDS.fetch_add(1, SeqCst);
            std::arch::asm!("mov rsp, {0}", "jmp {1}", in(reg) g[REG_RSP as usize], in(reg) g[REG_R15 as usize], options(noreturn));
        }
    }
    on(SIGUSR1, leave, SA_NODEFER);
    for i in 1..50 {
        unsafe {
            std::arch::asm!(
                "push rbp", "push rbx",
                "lea r15, [rip + 2f]",
                "syscall",
                "ud2",
                "2:",
                "pop rbx", "pop rbp",
                inout("rax") SYS_kill => _, in("rdi") getpid(), in("rsi") SIGUSR1,
                out("rcx") _, out("r11") _, out("r15") _, out("r12") _, out("r13") _, out("r14") _, out("r8") _, out("r9") _, out("r10") _, out("rdx") _,
                clobber_abi("sysv64"),
            );
        }
        eq!(ROUNDS.load(SeqCst), i);
    }
}

extern "C" fn change(_: i32, _: *mut siginfo_t, ctx: *mut c_void) {
    let g = unsafe { &mut (*(ctx as *mut ucontext_t)).uc_mcontext.gregs };
    g[REG_RBX as usize] = 0x1111;
    g[REG_R12 as usize] = 0x2222;
    g[REG_RAX as usize] = 0x3333;
}

fn change_context() {
    on(SIGUSR1, change, 0);
    let (mut a, mut b, mut c): (i64, i64, i64);
    unsafe {
        std::arch::asm!(
            "push rbx", "mov rbx, 7", "mov r12, 8", "syscall", "mov {0}, rbx", "pop rbx",
            out(reg) a, out("r12") b, inout("rax") SYS_kill => c, in("rdi") getpid(), in("rsi") SIGUSR1, out("rcx") _, out("r11") _,
        );
    }
    eq!((a, b, c), (0x1111, 0x2222, 0x3333));
    let _ = (&mut a, &mut b, &mut c);
}

extern "C" fn smash_fpu(_: i32, _: *mut siginfo_t, _: *mut c_void) {
    unsafe {
        std::arch::asm!(
            "pcmpeqd xmm0, xmm0", "pcmpeqd xmm7, xmm7", "pcmpeqd xmm15, xmm15", "fninit", "fldz",
            out("xmm0") _, out("xmm7") _, out("xmm15") _, out("st(0)") _,
        );
        if std::is_x86_feature_detected!("avx") {
            std::arch::asm!("vpcmpeqd xmm1, xmm1, xmm1", "vinsertf128 ymm1, ymm1, xmm1, 1", "vmovaps ymm5, ymm1", out("ymm1") _, out("ymm5") _);
        }
    }
    COUNT.fetch_add(1, SeqCst);
}

fn sse_state() {
    on(SIGUSR1, smash_fpu, 0);
    let pid = getpid();
    for i in 0..200u64 {
        let (mut a, mut b): (u64, u64);
        unsafe {
            std::arch::asm!(
                "movq xmm0, {i}", "movq xmm7, {i}", "movq xmm15, {i}", "syscall", "movq {a}, xmm0", "movq {b}, xmm15",
                i = in(reg) i, a = out(reg) a, b = out(reg) b,
                inout("rax") SYS_kill => _, in("rdi") pid, in("rsi") SIGUSR1, out("rcx") _, out("r11") _, out("xmm0") _, out("xmm7") _, out("xmm15") _,
            );
        }
        eq!((a, b), (i, i));
        let _ = (&mut a, &mut b);
    }
    eq!(COUNT.load(SeqCst), 200);
    // the control word of the x87 unit and of SSE
    let (mut cw, mut mx) = (0u16, 0u32);
    unsafe {
        let (cw_set, mx_set) = (0x0f7fu16, 0x7f80u32);
        std::arch::asm!("fldcw [{0}]", "ldmxcsr [{1}]", in(reg) &cw_set, in(reg) &mx_set);
        libc::syscall(SYS_kill, pid, SIGUSR1);
        std::arch::asm!("fnstcw [{0}]", "stmxcsr [{1}]", in(reg) &mut cw, in(reg) &mut mx);
        let (cw_old, mx_old) = (0x037fu16, 0x1f80u32);
        std::arch::asm!("fldcw [{0}]", "ldmxcsr [{1}]", in(reg) &cw_old, in(reg) &mx_old);
    }
    say!("{cw:#x} {mx:#x}");
}

fn avx_state() {
    if !std::is_x86_feature_detected!("avx2") {
        return;
    }
    on(SIGUSR1, smash_fpu, 0);
    let pid = getpid();
    for i in 0..100u64 {
        let mut out = [0u64; 4];
        unsafe {
            std::arch::asm!(
                "vmovq xmm5, {i}", "vpbroadcastq ymm5, xmm5", "syscall", "vmovdqu [{o}], ymm5", "vzeroupper",
                i = in(reg) i, o = in(reg) out.as_mut_ptr(),
                inout("rax") SYS_kill => _, in("rdi") pid, in("rsi") SIGUSR1, out("rcx") _, out("r11") _, out("ymm5") _,
            );
        }
        eq!(out, [i; 4]);
    }
    // across fork, threads and preemption too
    let t = threads(4, |n| {
        for round in 0..200u64 {
            let v = n as u64 * 1000 + round;
            let mut out = [0u64; 4];
            unsafe {
                std::arch::asm!(
                    "vmovq xmm5, {i}", "vpbroadcastq ymm5, xmm5", "syscall", "vmovdqu [{o}], ymm5", "vzeroupper",
                    i = in(reg) v, o = in(reg) out.as_mut_ptr(), inout("rax") SYS_sched_yield => _, out("rcx") _, out("r11") _, out("ymm5") _,
                );
            }
            eq!(out, [v; 4]);
        }
    });
    for x in t {
        x.join().unwrap();
    }
}

extern "C" fn make_writable(_: i32, info: *mut siginfo_t, _: *mut c_void) {
    let at = unsafe { (*info).si_addr() } as usize & !4095;
    let _ = sys!(mprotect, at, 4096, PROT_READ | PROT_WRITE);
    COUNT.fetch_add(1, SeqCst);
}

fn fault_fixed_by_handler() {
    let a = ok!(sys!(mmap, 0, 64 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) as *mut u8;
    on(SIGSEGV, make_writable, 0);
    for i in 0..64 {
        unsafe { std::ptr::write_volatile(a.add(i * 4096 + i), i as u8) };
        eq!(unsafe { std::ptr::read_volatile(a.add(i * 4096 + i)) }, i as u8);
    }
    eq!(COUNT.load(SeqCst), 64);
}

fn fault_blocked_kills() {
    say!(
        "{}",
        ends(|| {
            on(SIGSEGV, count, 0);
            mask(SIG_BLOCK, &[SIGSEGV]);
            unsafe { std::ptr::write_volatile(8 as *mut u8, 1) };
        })
    );
}

fn fault_ignored_kills() {
    say!(
        "{}",
        ends(|| {
            action(SIGSEGV, SIG_IGN);
            unsafe { std::ptr::write_volatile(8 as *mut u8, 1) };
        })
    );
    say!(
        "{}",
        ends(|| {
            action(SIGSEGV, SIG_IGN);
            raise_it(SIGSEGV);
            unsafe { _exit(5) };
        })
    );
}

fn default_actions() {
    for s in 1..=64 {
        if [SIGKILL, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, 32, 33].contains(&s) {
            continue;
        }
        let end = ends(|| {
            raise_it(s);
            unsafe { _exit(77) };
        });
        say!("{s}: {end}");
    }
}

fn ignored() {
    for s in [SIGTERM, SIGUSR1, SIGPIPE, 40] {
        action(s, SIG_IGN);
        raise_it(s);
    }
    // inherited by a child
    in_child(|| raise_it(SIGTERM));
    say!("alive");
}

fn sigkill_stop_fixed() {
    let old = mask(SIG_BLOCK, &[SIGKILL, SIGSTOP, SIGUSR1]);
    eq!((old, mask(SIG_BLOCK, &[])), (0, set(&[SIGUSR1])));
    let child = fork(|| {
        mask(SIG_SETMASK, &(1..=64).collect::<Vec<_>>());
        ms(60_000);
    });
    until("it sleeps", || state(child) == 'S');
    ok!(sys!(kill, child, SIGKILL));
    say!("{}", show_status(wait(child)));
}

fn timedwait() {
    mask(SIG_BLOCK, &[SIGUSR1, SIGUSR2]);
    let s = set(&[SIGUSR1, SIGUSR2]);
    let none = ts(0);
    err!(sys!(rt_sigtimedwait, p(&s), 0, p(&none), 8), EAGAIN);
    let t = now(CLOCK_MONOTONIC);
    let some = ts(40);
    err!(sys!(rt_sigtimedwait, p(&s), 0, p(&some), 8), EAGAIN);
    check!(now(CLOCK_MONOTONIC) - t >= 0.04);
    raise_it(SIGUSR2);
    let mut info = unsafe { std::mem::zeroed::<siginfo_t>() };
    eq!(ok!(sys!(rt_sigtimedwait, p(&s), m(&mut info), 0, 8)), i64::from(SIGUSR2));
    eq!((info.si_signo, info.si_code, unsafe { info.si_pid() }), (SIGUSR2, SI_USER, getpid()));
    let me = getpid();
    let child = fork(|| {
        ms(30);
        ok!(sys!(kill, me, SIGUSR1));
    });
    eq!(ok!(sys!(rt_sigtimedwait, p(&s), 0, 0, 8)), i64::from(SIGUSR1));
    wait(child);
    // another signal's handler interrupts it
    on(SIGHUP, count, SA_RESTART);
    let child = fork(|| {
        until("the parent sleeps", || state(me) == 'S');
        ok!(sys!(kill, me, SIGHUP));
    });
    err!(sys!(rt_sigtimedwait, p(&s), 0, 0, 8), EINTR);
    eq!(COUNT.load(SeqCst), 1);
    wait(child);
}

fn timedwait_args() {
    let s = set(&[SIGUSR1]);
    let bad = timespec { tv_sec: 0, tv_nsec: -1 };
    err!(sys!(rt_sigtimedwait, p(&s), 0, p(&bad), 8), EINVAL);
    err!(sys!(rt_sigtimedwait, p(&s), 0, 0, 4), EINVAL);
    err!(sys!(rt_sigtimedwait, 8, 0, 0, 8), EFAULT);
}

fn signalfd_read() {
    mask(SIG_BLOCK, &[SIGUSR1, SIGUSR2, 40]);
    let s = set(&[SIGUSR1, 40]);
    let f = ok!(sys!(signalfd4, -1, p(&s), 8, O_NONBLOCK)) as i32;
    err!(read(f, 128), EAGAIN);
    raise_it(SIGUSR1);
    raise_it(SIGUSR2);
    ok!(queue(40, 77));
    ok!(queue(40, 78));
    let b = ok!(read(f, 1024));
    eq!(b.len(), 3 * 128);
    let word = |at: usize| u32::from_le_bytes(b[at..at + 4].try_into().unwrap());
    for i in 0..3 {
        let o = i * 128;
        say!(
            "signo {} code {} pid {} uid {} int {}",
            word(o),
            word(o + 8) as i32,
            word(o + 12) == getpid() as u32,
            word(o + 16),
            word(o + 44)
        );
    }
    // the set can be changed
    let other = set(&[SIGUSR2]);
    eq!(ok!(sys!(signalfd4, f, p(&other), 8, 0)), i64::from(f));
    eq!(ok!(read(f, 128)).len(), 128);
    // a child reads its own signals
    let child = fork(|| {
        raise_it(SIGUSR2);
        eq!(ok!(read(f, 128))[12..16], getpid().to_le_bytes());
    });
    eq!(wait(child), 0);
    err!(read(f, 128), EAGAIN);
}

fn signalfd_args() {
    let s = set(&[SIGUSR1]);
    err!(sys!(signalfd4, -1, p(&s), 4, 0), EINVAL);
    err!(sys!(signalfd4, -1, p(&s), 8, 1), EINVAL);
    err!(sys!(signalfd4, 99, p(&s), 8, 0), EBADF);
    err!(sys!(signalfd4, 0, p(&s), 8, 0), EINVAL);
    err!(sys!(signalfd4, -1, 8, 8, 0), EFAULT);
    let f = ok!(sys!(signalfd, -1, p(&s), 8)) as i32;
    err!(read(f, 127), EINVAL);
    err!(write(f, b"x"), EINVAL);
}

fn signalfd_poll() {
    mask(SIG_BLOCK, &[SIGUSR1]);
    let s = set(&[SIGUSR1]);
    let f = ok!(sys!(signalfd4, -1, p(&s), 8, 0)) as i32;
    let mut pf = pollfd { fd: f, events: POLLIN, revents: 0 };
    eq!(ok!(sys!(poll, m(&mut pf), 1, 0)), 0);
    let me = getpid();
    let child = fork(|| {
        ms(30);
        ok!(sys!(kill, me, SIGUSR1));
    });
    eq!(ok!(sys!(poll, m(&mut pf), 1, 5000)), 1);
    eq!(ok!(read(f, 128)).len(), 128);
    wait(child);
    let child = fork(|| {
        ms(30);
        ok!(sys!(kill, me, SIGUSR1));
    });
    eq!(ok!(read(f, 128)).len(), 128);
    wait(child);
}

fn stop_and_continue() {
    let counter: &'static AtomicUsize = shared();
    let child = fork(|| {
        loop {
            counter.fetch_add(1, SeqCst);
            ms(1);
        }
    });
    until("it counts", || counter.load(SeqCst) > 3);
    for _ in 0..3 {
        ok!(sys!(kill, child, SIGSTOP));
        let mut st = 0;
        ok!(sys!(wait4, child, m(&mut st), WUNTRACED, 0));
        say!("{} {}", show_status(st), state(child));
        let n = counter.load(SeqCst);
        ms(30);
        eq!(counter.load(SeqCst), n);
        ok!(sys!(kill, child, SIGCONT));
        until("it counts again", || counter.load(SeqCst) > n);
    }
    // a stopped process dies of SIGKILL at once, of another signal when it continues
    ok!(sys!(kill, child, SIGSTOP));
    until("stopped", || state(child) == 'T');
    ok!(sys!(kill, child, SIGTERM));
    ms(20);
    eq!(state(child), 'T');
    ok!(sys!(kill, child, SIGCONT));
    say!("{}", show_status(wait(child)));
    let child = fork(|| raise_it(SIGSTOP));
    until("stopped", || state(child) == 'T');
    ok!(sys!(kill, child, SIGKILL));
    say!("{}", show_status(wait(child)));
}

fn cont_discards_stops() {
    mask(SIG_BLOCK, &[SIGTSTP, SIGCONT]);
    raise_it(SIGTSTP);
    let mut pend = 0u64;
    ok!(sys!(rt_sigpending, m(&mut pend), 8));
    eq!(pend, set(&[SIGTSTP]));
    raise_it(SIGCONT);
    ok!(sys!(rt_sigpending, m(&mut pend), 8));
    say!("{pend:#x}");
}

fn stop_cancels_cont() {
    on(SIGCONT, count, 0);
    mask(SIG_BLOCK, &[SIGTSTP, SIGCONT]);
    raise_it(SIGCONT);
    raise_it(SIGTSTP);
    let mut pend = 0u64;
    ok!(sys!(rt_sigpending, m(&mut pend), 8));
    eq!(pend, set(&[SIGTSTP]));
    // a process that continues runs its handler of SIGCONT
    let child = fork(|| {
        mask(SIG_SETMASK, &[]);
        raise_it(SIGSTOP);
        eq!(COUNT.load(SeqCst), 1);
    });
    until("stopped", || state(child) == 'T');
    ok!(sys!(kill, child, SIGCONT));
    eq!(wait(child), 0);
}

fn sigchld_stop() {
    on(SIGCHLD, note_info, 0);
    let child = fork(|| {
        raise_it(SIGSTOP);
        ms(60_000);
    });
    until("stopped", || INFO.lock().unwrap().1 == CLD_STOPPED);
    let i = *INFO.lock().unwrap();
    eq!((i.2, i.4 as i32), (child, SIGSTOP));
    ok!(sys!(kill, child, SIGCONT));
    until("continued", || INFO.lock().unwrap().1 == CLD_CONTINUED);
    ok!(sys!(kill, child, SIGKILL));
    until("killed", || INFO.lock().unwrap().1 == CLD_KILLED);
    wait(child);
}

fn nocldstop() {
    on(SIGCHLD, count, SA_NOCLDSTOP);
    let child = fork(|| {
        raise_it(SIGSTOP);
    });
    until("stopped", || state(child) == 'T');
    ms(20);
    eq!(COUNT.load(SeqCst), 0);
    ok!(sys!(kill, child, SIGCONT));
    eq!(wait(child), 0);
    until("SIGCHLD", || COUNT.load(SeqCst) == 1);
}

fn sigpipe() {
    let (r, w) = pipe(0);
    close(r);
    say!(
        "{}",
        ends(|| {
            action(SIGPIPE, SIG_DFL);
            let _ = write(w, b"x");
        })
    );
    on(SIGPIPE, count, 0);
    err!(write(w, b"x"), EPIPE);
    eq!(COUNT.load(SeqCst), 1);
    action(SIGPIPE, SIG_IGN);
    err!(write(w, b"x"), EPIPE);
}

fn many_signals() {
    // a child sends, the parent handles each; queued ones are never lost
    on(40, count, SA_RESTART);
    let me = getpid();
    let child = fork(|| {
        for _ in 0..3000 {
            while sys!(kill, me, 40) == Err(EAGAIN) {
                ms(1);
            }
        }
    });
    eq!(wait(child), 0);
    until("all of them", || COUNT.load(SeqCst) == 3000);
}

fn handler_in_child() {
    on(SIGUSR1, count, 0);
    in_child(|| {
        raise_it(SIGUSR1);
        eq!(COUNT.load(SeqCst), 1);
        action(SIGUSR1, SIG_IGN);
    });
    eq!(COUNT.load(SeqCst), 0);
    raise_it(SIGUSR1);
    eq!(COUNT.load(SeqCst), 1);
}

fn sigprocmask_args() {
    let s = 0u64;
    err!(sys!(rt_sigprocmask, 9, p(&s), 0, 8), EINVAL);
    err!(sys!(rt_sigprocmask, SIG_BLOCK, p(&s), 0, 4), EINVAL);
    err!(sys!(rt_sigprocmask, SIG_BLOCK, 8, 0, 8), EFAULT);
    err!(sys!(rt_sigprocmask, SIG_BLOCK, 0, 8, 8), EFAULT);
    ok!(sys!(rt_sigprocmask, 9, 0, 0, 8));
    mask(SIG_BLOCK, &[1, 2, 3]);
    mask(SIG_UNBLOCK, &[2]);
    eq!(mask(SIG_SETMASK, &[64]), set(&[1, 3]));
    eq!(mask(SIG_BLOCK, &[]), set(&[64]));
    let mut pend = 0u64;
    err!(sys!(rt_sigpending, m(&mut pend), 9), EINVAL);
    ok!(sys!(rt_sigpending, m(&mut pend), 4));
}

extern "C" fn edit_mask(_: i32, _: *mut siginfo_t, ctx: *mut c_void) {
    // what sigreturn restores is what the frame says
    let uc = ctx as *mut ucontext_t;
    unsafe { *(&raw mut (*uc).uc_sigmask as *mut u64) = set(&[SIGHUP, SIGTERM]) };
}

fn rt_sigreturn_mask() {
    on(SIGUSR1, edit_mask, 0);
    raise_it(SIGUSR1);
    eq!(mask(SIG_BLOCK, &[]), set(&[SIGHUP, SIGTERM]));
}

extern "C" fn busy(_: i32, _: *mut siginfo_t, _: *mut c_void) {
    let f = ok!(open(c"in-handler", O_CREAT | O_RDWR));
    ok!(write(f, b"x"));
    close(f);
    in_child(|| ());
    COUNT.fetch_add(1, SeqCst);
}

fn syscall_in_handler() {
    on(SIGUSR1, busy, 0);
    for _ in 0..5 {
        raise_it(SIGUSR1);
    }
    eq!((COUNT.load(SeqCst), get("in-handler")), (5, b"x".to_vec()));
}

fn abort_behaviour() {
    say!("{}", ends(|| unsafe { abort() }));
    say!(
        "{}",
        ends(|| {
            action(SIGABRT, SIG_IGN);
            unsafe { abort() }
        })
    );
    say!(
        "{}",
        ends(|| {
            mask(SIG_BLOCK, &[SIGABRT]);
            on(SIGABRT, count, 0);
            unsafe { abort() }
        })
    );
}

extern "C" fn fpe(s: i32, info: *mut siginfo_t, _: *mut c_void) {
    say!("{s} code {}", unsafe { (*info).si_code });
    unsafe { _exit(0) };
}

fn sigfpe_mxcsr() {
    on(SIGFPE, fpe, 0);
    in_child(|| unsafe {
        let unmasked = 0x1d80u32;
        std::arch::asm!("ldmxcsr [{0}]", in(reg) &unmasked);
        let (a, b) = (std::hint::black_box(1.0f64), std::hint::black_box(0.0f64));
        let mut r = a;
        std::arch::asm!("divsd {0}, {1}", inout(xmm_reg) r, in(xmm_reg) b);
        say!("{r}");
    });
}

fn raise_every() {
    for s in (1..=64).filter(|s| ![SIGKILL, SIGSTOP, 32, 33].contains(s)) {
        on(s, count, 0);
    }
    for s in (1..=64).filter(|s| ![SIGKILL, SIGSTOP, 32, 33].contains(s)) {
        raise_it(s);
        eq!(LAST.load(SeqCst), s);
    }
}

fn red_zone() {
    // 128 bytes below the stack pointer belong to the interrupted function
    on(SIGUSR1, count, 0);
    let mut got: u64;
    unsafe {
        std::arch::asm!(
            "mov qword ptr [rsp - 128], 0x1234567", "mov qword ptr [rsp - 8], 0x7654321", "syscall",
            "mov {0}, [rsp - 128]", "add {0}, [rsp - 8]",
            out(reg) got, inout("rax") SYS_kill => _, in("rdi") getpid(), in("rsi") SIGUSR1, out("rcx") _, out("r11") _,
        );
    }
    eq!(got, 0x1234567 + 0x7654321);
    got = 0;
    eq!((COUNT.load(SeqCst), got), (1, 0));
}

extern "C" fn set_direction(_: i32, _: *mut siginfo_t, _: *mut c_void) {
    let flags: u64;
    unsafe { std::arch::asm!("pushfq", "pop {0}", out(reg) flags) };
    VALUE.store((flags >> 10 & 1) as i64, SeqCst);
}

fn directions() {
    // a handler starts with the direction flag clear, and the interrupted code has it back afterwards
    on(SIGUSR1, set_direction, 0);
    let flags: u64;
    unsafe {
        std::arch::asm!("std", "syscall", "pushfq", "pop {0}", "cld", out(reg) flags, inout("rax") SYS_kill => _, in("rdi") getpid(), in("rsi") SIGUSR1, out("rcx") _, out("r11") _);
    }
    eq!((VALUE.load(SeqCst), flags >> 10 & 1), (0, 1));
}
