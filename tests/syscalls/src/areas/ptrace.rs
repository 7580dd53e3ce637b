//! ptrace(2).

use crate::sys::*;
use crate::{check, eq, err, list, ok, say, sys};

pub const TESTS: &[crate::Test] = list!["ptrace"; traceme, signals, syscall_stops, memory, registers, fp_registers, single_steps, breakpoint, attach, seize,
    listen, fork_events, vfork_events, clone_events, exec_event, exec_trap, exit_event, options, errors, foreign_child, tracer_ends, exit_kill, tracee_killed,
    sysemu, skipped_call, restarts, calls_off_restart, group_stop, syscall_info, siginfo, signal_mask, shown_in_proc, handler_step, ignored_signals];

const SYSGOOD: i32 = SIGTRAP | 0x80;

fn request(what: i64, pid: i32, addr: i64, data: i64) -> R {
    sys!(ptrace, what, pid, addr, data)
}

fn cont(what: u32, pid: i32, signal: i32) {
    ok!(request(i64::from(what), pid, 0, i64::from(signal)));
}

fn next(pid: i32) -> i32 {
    let mut status = 0;
    eq!(ok!(sys!(wait4, pid, m(&mut status), __WALL, 0)) as i32, pid);
    status
}

fn show(status: i32) -> String {
    if WIFSTOPPED(status) && status >> 16 != 0 {
        format!("event {} signal {}", status >> 16, WSTOPSIG(status) & 0x7f)
    } else {
        show_status(status)
    }
}

fn regs(pid: i32) -> user_regs_struct {
    let mut r = unsafe { std::mem::zeroed::<user_regs_struct>() };
    ok!(request(i64::from(PTRACE_GETREGS), pid, 0, m(&mut r)));
    r
}

fn set_regs(pid: i32, r: &user_regs_struct) -> R {
    request(i64::from(PTRACE_SETREGS), pid, 0, p(r))
}

/// A child that asks to be traced and stops.
fn tracee(f: impl FnOnce()) -> i32 {
    let child = fork(|| {
        ok!(request(i64::from(PTRACE_TRACEME), 0, 0, 0));
        ok!(sys!(kill, getpid(), SIGSTOP));
        f();
    });
    eq!(next(child), SIGSTOP << 8 | 0x7f);
    child
}

fn set_options(pid: i32, options: i32) {
    ok!(request(i64::from(PTRACE_SETOPTIONS), pid, 0, i64::from(options)));
}

/// To its end, from stop to stop, with signals passed on; what it did on the way.
fn run(pid: i32, how: u32) -> Vec<String> {
    let mut seen = Vec::new();
    let mut signal = 0;
    loop {
        cont(how, pid, signal);
        let status = next(pid);
        seen.push(show(status));
        if !WIFSTOPPED(status) {
            return seen;
        }
        let sig = WSTOPSIG(status);
        signal = if status >> 16 == 0 && sig != SIGTRAP && sig != SYSGOOD { sig } else { 0 };
    }
}

fn traceme() {
    let child = tracee(|| unsafe { _exit(5) });
    say!("{:?}", run(child, PTRACE_CONT));
    let child = tracee(|| {
        err!(request(i64::from(PTRACE_TRACEME), 0, 0, 0), EPERM);
    });
    say!("{:?}", run(child, PTRACE_CONT));
}

extern "C" fn tell(s: i32, info: *mut siginfo_t, _: *mut c_void) {
    say!("handler {s} code {}", unsafe { (*info).si_code });
}

fn signals() {
    on(SIGUSR1, tell, 0);
    on(SIGUSR2, tell, 0);
    let child = tracee(|| {
        for _ in 0..3 {
            ok!(sys!(kill, getpid(), SIGUSR1));
        }
        ok!(sys!(kill, getpid(), SIGTERM));
    });
    cont(PTRACE_CONT, child, 0);
    eq!(show(next(child)), "stop 10");
    // passed on, taken away, exchanged
    cont(PTRACE_CONT, child, SIGUSR1);
    eq!(show(next(child)), "stop 10");
    cont(PTRACE_CONT, child, 0);
    eq!(show(next(child)), "stop 10");
    cont(PTRACE_CONT, child, SIGUSR2);
    eq!(show(next(child)), "stop 15");
    err!(request(i64::from(PTRACE_CONT), child, 0, 65), EIO);
    cont(PTRACE_CONT, child, SIGTERM);
    eq!(show(next(child)), "signal 15");
}

fn syscall_stops() {
    let child = tracee(|| {
        ok!(sys!(getppid));
        err!(sys!(close, 99), EBADF);
    });
    set_options(child, PTRACE_O_TRACESYSGOOD);
    let mut seen = Vec::new();
    loop {
        cont(PTRACE_SYSCALL, child, 0);
        let status = next(child);
        if !WIFSTOPPED(status) {
            say!("{}", show(status));
            break;
        }
        eq!(status, SYSGOOD << 8 | 0x7f);
        let r = regs(child);
        seen.push((r.orig_rax, r.rax as i64));
    }
    // pairs, then an exit without an end
    eq!(seen[0], (nr::getppid as u64, -38));
    eq!(seen[1].1, i64::from(getpid()));
    eq!(&seen[2..4], &[(nr::close as u64, -38), (nr::close as u64, -9)]);
    eq!(seen[4], (nr::exit_group as u64, -38));
    eq!(seen.len(), 5);
}

static mut WORD: u64 = 0x1122_3344_5566_7788;

fn memory() {
    let at = &raw mut WORD as i64;
    let ro = anon(4096, MAP_PRIVATE) as i64;
    ok!(sys!(mprotect, ro, 4096, PROT_READ));
    let child = tracee(|| {
        say!("{:x} {:x}", unsafe { std::ptr::read_volatile(&raw const WORD) }, unsafe { *(ro as *const u64) });
    });
    let mut word = 0u64;
    ok!(request(i64::from(PTRACE_PEEKDATA), child, at, m(&mut word)));
    eq!(word, 0x1122_3344_5566_7788);
    ok!(request(i64::from(PTRACE_PEEKTEXT), child, at + 1, m(&mut word)));
    eq!(word & 0xff, 0x77);
    ok!(request(i64::from(PTRACE_POKEDATA), child, at, 0x99));
    // past its own protections
    ok!(request(i64::from(PTRACE_POKETEXT), child, ro, 0x77));
    err!(request(i64::from(PTRACE_PEEKDATA), child, 16, m(&mut word)), EIO);
    err!(request(i64::from(PTRACE_POKEDATA), child, 16, 1), EIO);
    err!(request(i64::from(PTRACE_PEEKDATA), child, at, 8), EFAULT);
    say!("{:?}", run(child, PTRACE_CONT));
    eq!(unsafe { std::ptr::read_volatile(&raw const WORD) }, 0x1122_3344_5566_7788);
}

fn registers() {
    let child = tracee(|| {
        // the tracer sets the result
        let r = unsafe { syscall(SYS_getppid) };
        say!("{r}");
    });
    cont(PTRACE_SYSCALL, child, 0);
    next(child);
    let mut r = regs(child);
    eq!(r.orig_rax, nr::getppid as u64);
    say!("{:#x} {:#x} {:#x}", r.cs, r.ss, r.eflags & 0x100);
    cont(PTRACE_SYSCALL, child, 0);
    next(child);
    r = regs(child);
    r.rax = 4242;
    ok!(set_regs(child, &r));
    eq!(regs(child).rax, 4242);
    // one by one, by their places in struct user
    let mut word = 0u64;
    ok!(request(i64::from(PTRACE_PEEKUSER), child, 10 * 8, m(&mut word)));
    eq!(word, 4242);
    ok!(request(i64::from(PTRACE_POKEUSER), child, 10 * 8, 4243));
    ok!(request(i64::from(PTRACE_PEEKUSER), child, 904, m(&mut word)));
    err!(request(i64::from(PTRACE_PEEKUSER), child, 928, m(&mut word)), EIO);
    err!(request(i64::from(PTRACE_PEEKUSER), child, 4, m(&mut word)), EIO);
    err!(request(i64::from(PTRACE_POKEUSER), child, 8192, 0), EIO);
    // as a set
    let mut iov = iovec { iov_base: m(&mut r) as *mut c_void, iov_len: 1000 };
    ok!(request(0x4204, child, 1, m(&mut iov)));
    eq!((iov.iov_len, r.rax), (216, 4243));
    r.rax = 4244;
    ok!(request(0x4205, child, 1, m(&mut iov)));
    iov.iov_len = 80;
    ok!(request(0x4204, child, 1, m(&mut iov)));
    eq!(iov.iov_len, 80);
    err!(request(0x4204, child, 77, m(&mut iov)), EINVAL);
    r.fs_base = u64::MAX;
    err!(set_regs(child, &r), EIO);
    cont(PTRACE_CONT, child, 0);
    eq!(show(next(child)), "exit 0");
}

fn fp_registers() {
    let child = tracee(|| {
        let x: u64;
        unsafe { std::arch::asm!("int3", out("xmm5") x, options(nostack)) };
        say!("{:x}", x & 0xffff);
    });
    cont(PTRACE_CONT, child, 0);
    eq!(show(next(child)), "stop 5");
    let mut fp = unsafe { std::mem::zeroed::<user_fpregs_struct>() };
    ok!(request(14, child, 0, m(&mut fp)));
    fp.xmm_space[20] = 0x4321;
    ok!(request(15, child, 0, p(&fp)));
    let mut fp2 = unsafe { std::mem::zeroed::<user_fpregs_struct>() };
    ok!(request(14, child, 0, m(&mut fp2)));
    eq!(fp2.xmm_space[20], 0x4321);
    say!("{:#x} {:#x}", fp2.cwd, fp2.mxcsr);
    let mut state = vec![0u8; 16384];
    let mut iov = iovec { iov_base: m(&mut state[..]) as *mut c_void, iov_len: state.len() };
    ok!(request(0x4204, child, 0x202, m(&mut iov)));
    check!(iov.iov_len >= 576);
    eq!(u32::from_le_bytes(state[160 + 80..164 + 80].try_into().unwrap()), 0x4321);
    // which features there are
    check!(u64::from_le_bytes(state[464..472].try_into().unwrap()) & 3 == 3);
    ok!(request(0x4205, child, 0x202, m(&mut iov)));
    say!("{:?}", run(child, PTRACE_CONT));
}

fn single_steps() {
    let child = tracee(|| unsafe {
        std::arch::asm!("int3", "nop", "nop", "xor eax, eax", "mov eax, 39", "syscall", "nop", "int3", out("rax") _, out("rcx") _, out("r11") _);
        _exit(0)
    });
    cont(PTRACE_CONT, child, 0);
    eq!(show(next(child)), "stop 5");
    let start = regs(child).rip;
    let mut at = Vec::new();
    for _ in 0..6 {
        cont(PTRACE_SINGLESTEP, child, 0);
        eq!(show(next(child)), "stop 5");
        let r = regs(child);
        at.push((r.rip - start, r.eflags & 0x100, siginfo_of(child).si_code));
    }
    say!("{at:?}");
    eq!(regs(child).rax as i32, child);
    cont(PTRACE_CONT, child, 0);
    eq!(show(next(child)), "stop 5");
    eq!(regs(child).rip - start, 13);
    say!("{:?}", run(child, PTRACE_CONT));
}

fn siginfo_of(pid: i32) -> siginfo_t {
    let mut info = unsafe { std::mem::zeroed::<siginfo_t>() };
    ok!(request(i64::from(PTRACE_GETSIGINFO), pid, 0, m(&mut info)));
    info
}

#[inline(never)]
extern "C" fn target(x: i32) -> i32 {
    std::hint::black_box(x) + 1
}

fn breakpoint() {
    let f = target as extern "C" fn(i32) -> i32 as i64;
    let child = tracee(|| {
        for i in 0..3 {
            say!("{}", std::hint::black_box(target as extern "C" fn(i32) -> i32)(i));
        }
    });
    let mut word = 0u64;
    ok!(request(i64::from(PTRACE_PEEKTEXT), child, f, m(&mut word)));
    let trap = (word & !0xff | 0xcc) as i64;
    ok!(request(i64::from(PTRACE_POKETEXT), child, f, trap));
    for _ in 0..3 {
        cont(PTRACE_CONT, child, 0);
        eq!(show(next(child)), "stop 5");
        eq!(siginfo_of(child).si_code, SI_KERNEL);
        let mut r = regs(child);
        eq!(r.rip as i64, f + 1);
        r.rip -= 1;
        ok!(set_regs(child, &r));
        ok!(request(i64::from(PTRACE_POKETEXT), child, f, word as i64));
        cont(PTRACE_SINGLESTEP, child, 0);
        eq!(show(next(child)), "stop 5");
        ok!(request(i64::from(PTRACE_POKETEXT), child, f, trap));
    }
    say!("{:?}", run(child, PTRACE_CONT));
    eq!(target(1), 2);
}

fn attach() {
    let child = fork(|| {
        loop {
            ms(5);
        }
    });
    ok!(request(i64::from(PTRACE_ATTACH), child, 0, 0));
    eq!(show(next(child)), "stop 19");
    err!(request(i64::from(PTRACE_ATTACH), child, 0, 0), EPERM);
    eq!(state(child), 't');
    ok!(request(i64::from(PTRACE_DETACH), child, 0, 0));
    until("it runs", || state(child) != 't');
    // gone: nothing can be asked of it
    err!(request(i64::from(PTRACE_CONT), child, 0, 0), ESRCH);
    // and again, with a signal at the end
    ok!(request(i64::from(PTRACE_ATTACH), child, 0, 0));
    eq!(show(next(child)), "stop 19");
    ok!(request(i64::from(PTRACE_DETACH), child, 0, i64::from(SIGUSR1)));
    eq!(show(next(child)), "signal 10");
}

fn seize() {
    let child = fork(|| {
        loop {
            ms(5);
        }
    });
    err!(request(0x4206, child, 1, 0), EIO);
    err!(request(0x4206, child, 0, 0x1_0000_0000), EIO);
    ok!(request(0x4206, child, 0, 0));
    // does not stop it
    ms(20);
    eq!(ok!(sys!(wait4, child, 0, WNOHANG | __WALL, 0)), 0);
    ok!(request(0x4207, child, 0, 0));
    eq!(show(next(child)), "event 128 signal 5");
    cont(PTRACE_CONT, child, 0);
    ok!(sys!(kill, child, SIGUSR2));
    eq!(show(next(child)), "stop 12");
    cont(PTRACE_CONT, child, SIGUSR2);
    eq!(show(next(child)), "signal 12");
    let child = tracee(|| ());
    err!(request(0x4207, child, 0, 0), EIO);
    say!("{:?}", run(child, PTRACE_CONT));
}

fn listen() {
    let child = fork(|| {
        loop {
            ms(5);
        }
    });
    ok!(request(0x4206, child, 0, 0));
    ok!(sys!(kill, child, SIGSTOP));
    eq!(show(next(child)), "stop 19");
    err!(request(0x4208, child, 0, 0), EIO);
    cont(PTRACE_CONT, child, SIGSTOP);
    eq!(show(next(child)), "event 128 signal 19");
    ok!(request(0x4208, child, 0, 0));
    err!(request(i64::from(PTRACE_CONT), child, 0, 0), ESRCH);
    ms(20);
    eq!(ok!(sys!(wait4, child, 0, WNOHANG | __WALL, 0)), 0);
    ok!(sys!(kill, child, SIGCONT));
    eq!(show(next(child)), "event 128 signal 5");
    cont(PTRACE_CONT, child, 0);
    eq!(show(next(child)), "stop 18");
    cont(PTRACE_CONT, child, SIGCONT);
    ok!(sys!(kill, child, SIGKILL));
    eq!(show(next(child)), "signal 9");
}

fn message(pid: i32) -> u64 {
    let mut word = 0u64;
    ok!(request(i64::from(PTRACE_GETEVENTMSG), pid, 0, m(&mut word)));
    word
}

fn fork_events() {
    let child = tracee(|| {
        let grandchild = fork(|| unsafe { _exit(3) });
        eq!(wait(grandchild), 3 << 8);
    });
    set_options(child, PTRACE_O_TRACEFORK | PTRACE_O_TRACECLONE);
    cont(PTRACE_CONT, child, 0);
    let event = show(next(child));
    // the C library forks with clone(SIGCHLD), which counts as a fork
    say!("{event}");
    let grandchild = message(child) as i32;
    eq!(show(next(grandchild)), "stop 19");
    eq!(regs(grandchild).rax, 0);
    cont(PTRACE_CONT, child, 0);
    cont(PTRACE_CONT, grandchild, 0);
    eq!(show(next(grandchild)), "exit 3");
    eq!(show(next(child)), "stop 17");
    cont(PTRACE_CONT, child, 0);
    eq!(show(next(child)), "exit 0");
}

fn vfork_events() {
    let child = tracee(|| {
        let pid = unsafe { vfork_then_exit() };
        eq!(wait(pid), 4 << 8);
    });
    set_options(child, PTRACE_O_TRACEVFORK | PTRACE_O_TRACEVFORKDONE);
    cont(PTRACE_CONT, child, 0);
    eq!(show(next(child)), "event 2 signal 5");
    let grandchild = message(child) as i32;
    eq!(show(next(grandchild)), "stop 19");
    cont(PTRACE_CONT, grandchild, 0);
    cont(PTRACE_CONT, child, 0);
    eq!(show(next(child)), "event 5 signal 5");
    eq!(message(child) as i32, grandchild);
    eq!(show(next(grandchild)), "exit 4");
    say!("{:?}", run(child, PTRACE_CONT));
}

unsafe fn vfork_then_exit() -> i32 {
    let pid: i64;
    // CLONE_VM | CLONE_VFORK | SIGCHLD; the child leaves without touching its parent's stack
    unsafe {
        std::arch::asm!("syscall", "test rax, rax", "jnz 2f", "mov edi, 4", "mov eax, 231", "syscall", "2:",
            inout("rax") nr::clone => pid, inout("rdi") 0x4111i64 => _, in("rsi") 0, in("rdx") 0, in("r10") 0, in("r8") 0,
            out("rcx") _, out("r11") _);
    }
    pid as i32
}

fn clone_events() {
    let child = tracee(|| {
        for t in threads(2, |_| ms(20)) {
            t.join().unwrap();
        }
    });
    set_options(child, PTRACE_O_TRACECLONE);
    let mut known = vec![child];
    let mut seen = Vec::new();
    cont(PTRACE_CONT, child, 0);
    loop {
        let mut status = 0;
        let pid = ok!(sys!(wait4, -1, m(&mut status), __WALL, 0)) as i32;
        let who = known.iter().position(|k| *k == pid).unwrap_or_else(|| {
            known.push(pid);
            known.len() - 1
        });
        seen.push(if who == 0 { format!("child {}", show(status)) } else { format!("thread {}", show(status)) });
        if !WIFSTOPPED(status) {
            if pid == child {
                break;
            }
            continue;
        }
        cont(PTRACE_CONT, pid, 0);
    }
    seen.sort();
    say!("{seen:?}");
    err!(sys!(wait4, -1, 0, __WALL, 0), ECHILD);
}

fn exec_self() -> ! {
    let args = [c"/proc/self/exe".as_ptr(), c"@exit".as_ptr(), c"6".as_ptr(), std::ptr::null()];
    ok!(sys!(execve, c"/proc/self/exe", args.as_ptr(), [std::ptr::null::<c_char>()].as_ptr()));
    unsafe { _exit(99) }
}

fn exec_event() {
    let child = tracee(|| exec_self());
    set_options(child, PTRACE_O_TRACEEXEC);
    cont(PTRACE_CONT, child, 0);
    eq!(show(next(child)), "event 4 signal 5");
    eq!(message(child) as i32, child);
    eq!(siginfo_of(child).si_code, 4 << 8 | SIGTRAP);
    cont(PTRACE_CONT, child, 0);
    check!(!WIFSTOPPED(next(child)));
}

fn exec_trap() {
    let child = tracee(|| exec_self());
    cont(PTRACE_CONT, child, 0);
    eq!(show(next(child)), "stop 5");
    eq!(siginfo_of(child).si_code, SI_USER);
    cont(PTRACE_CONT, child, 0);
    check!(!WIFSTOPPED(next(child)));
}

fn exit_event() {
    let child = tracee(|| unsafe { _exit(9) });
    set_options(child, PTRACE_O_TRACEEXIT);
    cont(PTRACE_CONT, child, 0);
    eq!(show(next(child)), "event 6 signal 5");
    eq!(message(child), 9 << 8);
    eq!(regs(child).orig_rax, nr::exit_group as u64);
    cont(PTRACE_CONT, child, 0);
    eq!(show(next(child)), "exit 9");
    let child = tracee(|| {
        ok!(sys!(kill, getpid(), SIGTERM));
    });
    set_options(child, PTRACE_O_TRACEEXIT);
    say!("{:?}", run(child, PTRACE_CONT));
}

fn options() {
    let child = tracee(|| ());
    err!(request(i64::from(PTRACE_SETOPTIONS), child, 0, 0x1000), EINVAL);
    set_options(child, 0);
    say!("{:?}", run(child, PTRACE_SYSCALL).len());
}

fn errors() {
    let child = fork(|| ms(60_000));
    err!(request(i64::from(PTRACE_CONT), child, 0, 0), ESRCH);
    err!(request(i64::from(PTRACE_PEEKDATA), child, 0, 0), ESRCH);
    err!(request(i64::from(PTRACE_ATTACH), 30_000, 0, 0), ESRCH);
    err!(request(i64::from(PTRACE_ATTACH), getpid(), 0, 0), EPERM);
    err!(request(9999, child, 0, 0), ESRCH);
    ok!(sys!(kill, child, SIGKILL));
    wait(child);
    let child = tracee(|| ());
    err!(request(9999, child, 0, 0), EIO);
    cont(PTRACE_CONT, child, 0);
    wait(child);
    // somebody else's
    let victim = fork(|| ms(60_000));
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1000, 1000));
        err!(request(i64::from(PTRACE_ATTACH), victim, 0, 0), EPERM);
    });
    ok!(sys!(kill, victim, SIGKILL));
    wait(victim);
}

/// The tracer is not the parent: each hears of the end, the tracer first.
fn foreign_child() {
    let (r, w) = pipe(0);
    let child = fork(|| {
        ok!(read(r, 1));
        unsafe { _exit(8) }
    });
    let tracer = fork(|| {
        ok!(request(i64::from(PTRACE_ATTACH), child, 0, 0));
        eq!(show(next(child)), "stop 19");
        cont(PTRACE_CONT, child, 0);
        ok!(write(w, b"x"));
        ms(50);
        eq!(show(next(child)), "exit 8");
        err!(sys!(wait4, child, 0, __WALL, 0), ECHILD);
    });
    eq!(wait(child), 8 << 8);
    eq!(wait(tracer), 0);
}

fn tracer_ends() {
    let (r, w) = pipe(0);
    let child = fork(|| {
        ok!(read(r, 1));
        unsafe { _exit(8) }
    });
    in_child(|| {
        ok!(request(i64::from(PTRACE_ATTACH), child, 0, 0));
        eq!(show(next(child)), "stop 19");
        cont(PTRACE_CONT, child, 0);
        ok!(request(i64::from(PTRACE_DETACH), child, 0, 0).or(Ok::<i64, E>(0)));
    });
    ok!(write(w, b"x"));
    eq!(wait(child), 8 << 8);
}

fn exit_kill() {
    let child = fork(|| ms(60_000));
    in_child(|| {
        ok!(request(0x4206, child, 0, 0x10_0000));
    });
    eq!(show(wait(child)), "signal 9");
}

fn tracee_killed() {
    let child = tracee(|| ms(60_000));
    ok!(sys!(kill, child, SIGKILL));
    eq!(show(next(child)), "signal 9");
    err!(request(i64::from(PTRACE_CONT), child, 0, 0), ESRCH);
    let child = tracee(|| ms(60_000));
    ok!(request(i64::from(PTRACE_KILL), child, 0, 0));
    eq!(show(next(child)), "signal 9");
}

fn sysemu() {
    let child = tracee(|| {
        let r = unsafe { syscall(nr::getppid) };
        unsafe { _exit(r as i32) }
    });
    cont(31, child, 0);
    eq!(show(next(child)), "stop 5");
    let mut r = regs(child);
    eq!(r.orig_rax, nr::getppid as u64);
    r.rax = 77;
    ok!(set_regs(child, &r));
    cont(PTRACE_CONT, child, 0);
    eq!(show(next(child)), "exit 77");
}

fn skipped_call() {
    let child = tracee(|| {
        let r = unsafe { syscall(nr::getppid) };
        unsafe { _exit(r as i32) }
    });
    cont(PTRACE_SYSCALL, child, 0);
    next(child);
    let mut r = regs(child);
    eq!(r.orig_rax, nr::getppid as u64);
    r.orig_rax = u64::MAX;
    ok!(set_regs(child, &r));
    cont(PTRACE_SYSCALL, child, 0);
    next(child);
    r = regs(child);
    eq!(r.rax as i64, -38);
    r.rax = 66;
    ok!(set_regs(child, &r));
    cont(PTRACE_CONT, child, 0);
    eq!(show(next(child)), "exit 66");
}

/// A call that is interrupted by a stop goes on as if nothing had been.
fn restarts() {
    let (r, w) = pipe(0);
    let child = fork(|| {
        eq!(ok!(read(r, 5)), b"later");
        let t = now(CLOCK_MONOTONIC);
        ms(150);
        check!(now(CLOCK_MONOTONIC) - t >= 0.15);
    });
    until("it waits", || state(child) == 'S');
    ok!(request(0x4206, child, 0, 0));
    ok!(request(0x4207, child, 0, 0));
    eq!(show(next(child)), "event 128 signal 5");
    let regs_now = regs(child);
    eq!((regs_now.orig_rax, regs_now.rax as i64), (0, -512));
    cont(PTRACE_CONT, child, 0);
    ok!(write(w, b"later"));
    ms(50);
    ok!(request(0x4207, child, 0, 0));
    eq!(show(next(child)), "event 128 signal 5");
    eq!(regs(child).rax as i64, -516);
    cont(PTRACE_CONT, child, 0);
    eq!(show(next(child)), "exit 0");
}

/// What a debugger does before it calls a function in its tracee.
fn calls_off_restart() {
    let (r, _w) = pipe(0);
    let child = fork(|| {
        let mut b = [0u8; 4];
        let n = unsafe { syscall(nr::read, r, b.as_mut_ptr(), 4) };
        say!("{n} {}", unsafe { *__errno_location() });
    });
    until("it waits", || state(child) == 'S');
    ok!(request(0x4206, child, 0, 0));
    ok!(request(0x4207, child, 0, 0));
    eq!(show(next(child)), "event 128 signal 5");
    let mut r = regs(child);
    r.orig_rax = u64::MAX;
    r.rax = (-4i64) as u64;
    ok!(set_regs(child, &r));
    cont(PTRACE_CONT, child, 0);
    eq!(show(next(child)), "exit 0");
}

fn group_stop() {
    let child = tracee(|| {
        loop {
            ms(5);
        }
    });
    cont(PTRACE_CONT, child, 0);
    ok!(sys!(kill, child, SIGSTOP));
    eq!(show(next(child)), "stop 19");
    cont(PTRACE_CONT, child, SIGSTOP);
    // the stop itself, of which there is no siginfo
    eq!(show(next(child)), "stop 19");
    err!(request(i64::from(PTRACE_GETSIGINFO), child, 0, m(&mut [0u8; 128])), EINVAL);
    cont(PTRACE_CONT, child, 0);
    ok!(sys!(kill, child, SIGUSR1));
    eq!(show(next(child)), "stop 10");
    cont(PTRACE_CONT, child, SIGUSR1);
    eq!(show(next(child)), "signal 10");
}

fn syscall_info() {
    let child = tracee(|| {
        err!(sys!(close, 77), EBADF);
    });
    set_options(child, PTRACE_O_TRACESYSGOOD);
    let mut info = [0u64; 11];
    let mut get = || {
        let n = ok!(request(0x420e, child, 88, m(&mut info)));
        let mut shown = info;
        // addresses differ
        (shown[1], shown[2]) = (0, 0);
        (n, shown)
    };
    say!("{:?}", get().0);
    for _ in 0..2 {
        cont(PTRACE_SYSCALL, child, 0);
        next(child);
    }
    let r = regs(child);
    let (n, shown) = get();
    say!("{n} {:x} {:?} {}", shown[0], &shown[3..5], info[1] == r.rip && info[2] == r.rsp);
    eq!(ok!(request(0x420e, child, 8, m(&mut [0u8; 88]))), 33);
    say!("{:?}", run(child, PTRACE_CONT));
}

fn siginfo() {
    on(SIGUSR1, tell, 0);
    let child = tracee(|| {
        ok!(sys!(kill, getpid(), SIGUSR1));
    });
    cont(PTRACE_CONT, child, 0);
    eq!(show(next(child)), "stop 10");
    let mut info = siginfo_of(child);
    eq!((info.si_code, unsafe { info.si_pid() }), (SI_USER, child));
    info.si_code = SI_QUEUE;
    ok!(request(i64::from(PTRACE_SETSIGINFO), child, 0, p(&info)));
    cont(PTRACE_CONT, child, SIGUSR1);
    eq!(show(next(child)), "exit 0");
    // waitid says what it was
    let child = tracee(|| ());
    cont(PTRACE_SYSCALL, child, 0);
    let mut info = unsafe { std::mem::zeroed::<siginfo_t>() };
    ok!(sys!(waitid, P_PID, child, m(&mut info), WSTOPPED | WEXITED, 0));
    say!("{} {}", info.si_code, unsafe { info.si_status() });
    say!("{:?}", run(child, PTRACE_CONT));
}

fn signal_mask() {
    let child = tracee(|| {
        ok!(sys!(kill, getpid(), SIGUSR1));
        mask(SIG_UNBLOCK, &[SIGUSR1]);
    });
    let mut set_now = 1u64;
    ok!(request(0x420a, child, 8, m(&mut set_now)));
    eq!(set_now, 0);
    ok!(request(0x420b, child, 8, p(&set(&[SIGUSR1]))));
    err!(request(0x420b, child, 4, p(&set_now)), EINVAL);
    say!("{:?}", run(child, PTRACE_CONT));
}

fn shown_in_proc() {
    let child = tracee(|| ());
    let status = String::from_utf8_lossy(&get(&format!("/proc/{child}/status"))).into_owned();
    let line = |name: &str| status.lines().find(|l| l.starts_with(name)).unwrap_or_default().to_string();
    say!("{}", line("State"));
    eq!(line("TracerPid"), format!("TracerPid:\t{}", getpid()));
    say!("{:?}", run(child, PTRACE_CONT));
    say!("{}", String::from_utf8_lossy(&get("/proc/self/status")).lines().find(|l| l.starts_with("TracerPid")).unwrap_or_default());
}

extern "C" fn quiet(_: i32, _: *mut siginfo_t, _: *mut c_void) {}

fn handler_step() {
    on(SIGUSR1, quiet, 0);
    let child = tracee(|| {
        ok!(sys!(kill, getpid(), SIGUSR1));
    });
    cont(PTRACE_CONT, child, 0);
    eq!(show(next(child)), "stop 10");
    cont(PTRACE_SINGLESTEP, child, SIGUSR1);
    eq!(show(next(child)), "stop 5");
    // at the handler's first instruction
    let f = quiet as extern "C" fn(i32, *mut siginfo_t, *mut c_void) as u64;
    eq!(regs(child).rip, f);
    say!("{:?}", run(child, PTRACE_CONT));
}

fn ignored_signals() {
    action(SIGUSR1, SIG_IGN);
    let child = tracee(|| {
        ok!(sys!(kill, getpid(), SIGUSR1));
        ok!(sys!(kill, getpid(), SIGCHLD));
    });
    say!("{:?}", run(child, PTRACE_CONT));
}
