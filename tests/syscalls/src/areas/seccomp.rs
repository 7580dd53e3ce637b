//! Filters that an application installs itself: seccomp(2) and prctl(2).

use crate::sys::*;
use crate::{check, eq, err, list, ok, say, sys};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

pub const TESTS: &[crate::Test] = list!["seccomp";
    refusals, programs, actions, jumps, arithmetic, arguments, data, trap_tells, most_severe, inherited, strict, by_prctl, tsync, tsync_refused,
    available, thread_alone];

/// Classes and codes of instructions (linux/bpf_common.h).
const LD: u16 = 0x20;
const JEQ: u16 = 0x15;
const JGT: u16 = 0x25;
const JGE: u16 = 0x35;
const JSET: u16 = 0x45;
const JA: u16 = 0x05;
const RET: u16 = 0x06;
/// With the register X in place of a constant.
const X: u16 = 0x08;
/// Offsets in `struct seccomp_data`.
const NR: u32 = 0;
const ARCH: u32 = 4;
const IP: u32 = 8;
const ARGS: u32 = 16;

const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;
const TSYNC: u32 = 1;

type Line = (u16, u8, u8, u32);

#[repr(C)]
struct Instruction {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

#[repr(C)]
struct Program {
    len: u16,
    filter: *const Instruction,
}

fn install_with(flags: u32, lines: &[Line]) -> Result<i64, E> {
    let filter: Vec<Instruction> = lines.iter().map(|&(code, jt, jf, k)| Instruction { code, jt, jf, k }).collect();
    let program = Program { len: filter.len() as u16, filter: filter.as_ptr() };
    sys!(seccomp, 1, flags, p(&program))
}

/// Installs a filter in this process, which asks for no privileges any more.
fn install(lines: &[Line]) {
    ok!(sys!(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    ok!(install_with(0, lines));
}

/// getpgid(2) alone meets this action.
fn getpgid_meets(action: u32) -> [Line; 4] {
    [(LD, 0, 0, NR), (JEQ, 0, 1, SYS_getpgid as u32), (RET, 0, 0, action), (RET, 0, 0, ALLOW)]
}

/// What a child that runs this came to.
fn ends(f: impl FnOnce()) -> String {
    show_status(wait(fork(f)))
}

fn refusals() {
    let good = getpgid_meets(ALLOW);
    err!(sys!(seccomp, 9, 0, 0), EINVAL);
    err!(sys!(seccomp, 1, 0, 0), EFAULT);
    err!(sys!(seccomp, 0, 1, 0), EINVAL);
    err!(sys!(seccomp, 0, 0, 8), EINVAL);
    err!(install_with(1 << 20, &good), EINVAL);
    err!(install_with(0, &[]), EINVAL);
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1000, 1000));
        err!(install_with(0, &good), EACCES);
        ok!(sys!(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        ok!(install_with(0, &good));
    });
    let bad = Program { len: 4, filter: 8 as *const Instruction };
    err!(sys!(seccomp, 1, 0, p(&bad)), EFAULT);
}

fn programs() {
    let refused: &[(&str, &[Line])] = &[
        ("no end", &[(LD, 0, 0, NR)]),
        ("a jump out", &[(JEQ, 5, 5, 0), (RET, 0, 0, ALLOW)]),
        ("a jump always out", &[(JA, 0, 0, 9), (RET, 0, 0, ALLOW)]),
        ("a load beside", &[(LD, 0, 0, 2), (RET, 0, 0, ALLOW)]),
        ("a load beyond", &[(LD, 0, 0, 64), (RET, 0, 0, ALLOW)]),
        ("a byte", &[(0x30, 0, 0, 0), (RET, 0, 0, ALLOW)]),
        ("a packet", &[(0x40, 0, 0, 0), (RET, 0, 0, ALLOW)]),
        ("division by zero", &[(0x34, 0, 0, 0), (RET, 0, 0, ALLOW)]),
        ("scratch memory beyond", &[(0x60, 0, 0, 16), (RET, 0, 0, ALLOW)]),
        ("scratch memory that was not written", &[(0x60, 0, 0, 3), (RET, 0, 0, ALLOW)]),
        ("no such code", &[(0xff, 0, 0, 0), (RET, 0, 0, ALLOW)]),
    ];
    ok!(sys!(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    for (what, lines) in refused {
        in_child(|| say!("{what}: {:?}", install_with(0, lines)));
    }
    let long: Vec<Line> = std::iter::repeat_n((LD, 0, 0, NR), 4096).chain([(RET, 0, 0, ALLOW)]).collect();
    in_child(|| err!(install_with(0, &long), EINVAL));
    in_child(|| eq!(ok!(install_with(0, &long[1..])), 0));
}

fn actions() {
    for (name, action) in [
        ("allow", ALLOW),
        ("log", LOG),
        ("errno", ERRNO | 28),
        ("errno 0", ERRNO),
        ("errno too great", ERRNO | 5000),
        ("trace without tracer", TRACE | 7),
        ("unknown", 0x1234_5678),
        ("kill thread", KILL_THREAD),
        ("kill process", KILL_PROCESS),
        ("trap", TRAP),
    ] {
        let end = ends(|| {
            install(&getpgid_meets(action));
            let own = ok!(sys!(getpid));
            say!("{name}: {:?}", sys!(getpgid, own).map(|group| group > 0));
            check!(sys!(getpgrp).is_ok());
        });
        say!("{name}: {end}");
    }
}

/// The action is ERRNO with what the comparison comes to, for getpgid(value).
fn compared(code: u16, k: u32, value: u32) -> bool {
    let (read, write_end) = pipe(0);
    in_child(|| {
        install(&[
            (LD, 0, 0, NR),
            (JEQ, 1, 0, SYS_getpgid as u32),
            (RET, 0, 0, ALLOW),
            // X holds the constant, too.
            (0x01, 0, 0, k),
            (LD, 0, 0, ARGS),
            (code, 0, 1, k),
            (RET, 0, 0, ERRNO | 1),
            (RET, 0, 0, ERRNO | 2),
        ]);
        let yes = sys!(getpgid, value) == Err(E(1));
        ok!(write(write_end, &[u8::from(yes)]));
    });
    let answer = ok!(crate::sys::read(read, 1)) == [1];
    close(read);
    close(write_end);
    answer
}

fn jumps() {
    for (name, code) in [("jeq", JEQ), ("jgt", JGT), ("jge", JGE), ("jset", JSET)] {
        for x in [0, X] {
            let row: Vec<bool> = [(5, 4), (5, 5), (5, 6), (5, 2), (0, 0), (0x8000_0000, 0x7fff_ffff), (0x7fff_ffff, 0xffff_ffff)]
                .into_iter()
                .map(|(k, value)| compared(code | x, k, value))
                .collect();
            say!("{name} {x}: {row:?}");
        }
    }
    let forward = ends(|| {
        install(&[(JA, 0, 0, 1), (RET, 0, 0, KILL_PROCESS), (RET, 0, 0, ALLOW)]);
        ok!(sys!(getpid));
    });
    eq!(forward, "exit 0");
}

fn arithmetic() {
    // A after each operation with the constant 6, for A = 20, as an error number; with X alike.
    for (name, code) in [
        ("add", 0x04),
        ("sub", 0x14),
        ("mul", 0x24),
        ("div", 0x34),
        ("or", 0x44),
        ("and", 0x54),
        ("lsh", 0x64),
        ("rsh", 0x74),
        ("xor", 0xa4),
    ] {
        for x in [0, X] {
            in_child(|| {
                install(&[
                    (LD, 0, 0, NR),
                    (JEQ, 1, 0, SYS_getpgid as u32),
                    (RET, 0, 0, ALLOW),
                    (0x01, 0, 0, 6),
                    (0x00, 0, 0, 20),
                    (code | x, 0, 0, 6),
                    // In scratch memory and back, and through X and back.
                    (0x02, 0, 0, 15),
                    (0x00, 0, 0, 0),
                    (0x61, 0, 0, 15),
                    (0x87, 0, 0, 0),
                    (0x54, 0, 0, 0xfff),
                    (0x44, 0, 0, ERRNO),
                    (0x16, 0, 0, 0),
                ]);
                say!("{name} {x}: {:?}", sys!(getpgid, 0));
            });
        }
    }
    in_child(|| {
        install(&[
            (LD, 0, 0, NR),
            (JEQ, 1, 0, SYS_getpgid as u32),
            (RET, 0, 0, ALLOW),
            (0x00, 0, 0, 5),
            (0x84, 0, 0, 0),
            (0x54, 0, 0, 0xff),
            (0x44, 0, 0, ERRNO),
            (0x16, 0, 0, 0),
        ]);
        say!("neg: {:?}", sys!(getpgid, 0));
    });
}

fn arguments() {
    // Each of the six arguments, both halves.
    for index in 0..6_u32 {
        for half in [0, 4] {
            in_child(|| {
                install(&[
                    (LD, 0, 0, NR),
                    (JEQ, 1, 0, SYS_getpgrp as u32),
                    (RET, 0, 0, ALLOW),
                    (LD, 0, 0, ARGS + 8 * index + half),
                    (0x54, 0, 0, 0xfff),
                    (0x44, 0, 0, ERRNO),
                    (0x16, 0, 0, 0),
                ]);
                let value = |n: i64| (n + 40) << 32 | (n + 1);
                say!("{index} {half}: {:?}", sys!(getpgrp, value(0), value(1), value(2), value(3), value(4), value(5)));
            });
        }
    }
}

fn data() {
    in_child(|| {
        // The architecture, and its word length: linux/audit.h.
        install(&[(LD, 0, 0, ARCH), (JEQ, 1, 0, 0xc000_003e), (RET, 0, 0, KILL_PROCESS), (RET, 0, 0, ALLOW)]);
        ok!(sys!(getpid));
    });
    in_child(|| {
        // Code is below 2^47 and above 2^32, or below it in a program that is not position independent: never zero.
        install(&[
            (LD, 0, 0, IP),
            (JEQ, 0, 1, 0),
            (RET, 0, 0, KILL_PROCESS),
            (LD, 0, 0, IP + 4),
            (JGE, 0, 1, 0x8000),
            (RET, 0, 0, KILL_PROCESS),
            (RET, 0, 0, ALLOW),
        ]);
        ok!(sys!(getpid));
    });
    in_child(|| {
        // The length of the data, which is all that BPF_LEN tells.
        install(&[
            (LD, 0, 0, NR),
            (JEQ, 1, 0, SYS_getpgid as u32),
            (RET, 0, 0, ALLOW),
            (0x80, 0, 0, 0),
            (0x44, 0, 0, ERRNO),
            (0x16, 0, 0, 0),
        ]);
        eq!(sys!(getpgid, 0), Err(E(64)));
    });
}

static TRAPPED: [AtomicI32; 4] = [const { AtomicI32::new(0) }; 4];
static CALLED_AT: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_sigsys(signal: i32, info: *mut siginfo_t, context: *mut c_void) {
    // si_signo, si_errno, si_code; then call address, number and architecture (sigaction(2)).
    let words = info.cast::<i32>();
    let at = |n: usize| unsafe { words.add(n).read() };
    TRAPPED[0].store(signal, Ordering::Relaxed);
    TRAPPED[1].store(at(1), Ordering::Relaxed);
    TRAPPED[2].store(at(2), Ordering::Relaxed);
    TRAPPED[3].store(at(6), Ordering::Relaxed);
    CALLED_AT.store(unsafe { words.add(4).cast::<u64>().read() }, Ordering::Relaxed);
    check!(at(7) as u32 == 0xc000_003e);
    // Nothing has been done, and the handler decides what comes of it.
    let context = unsafe { &mut *context.cast::<ucontext_t>() };
    eq!(context.uc_mcontext.gregs[REG_RAX as usize], i64::from(SYS_getpgid as i32));
    context.uc_mcontext.gregs[REG_RAX as usize] = 77;
    check!(context.uc_mcontext.gregs[REG_RIP as usize] as u64 == CALLED_AT.load(Ordering::Relaxed));
}

fn trap_tells() {
    on(SIGSYS, on_sigsys, 0);
    install(&getpgid_meets(TRAP | 123));
    eq!(sys!(getpgid, 0), Ok(77));
    let told: Vec<i32> = TRAPPED.iter().map(|word| word.load(Ordering::Relaxed)).collect();
    eq!(told, [SIGSYS, 123, 1, SYS_getpgid as i32]);
    check!(CALLED_AT.load(Ordering::Relaxed) != 0);
    // Blocked or ignored it kills all the same.
    let end = ends(|| {
        let mask = 1u64 << (SIGSYS - 1);
        ok!(sys!(rt_sigprocmask, SIG_BLOCK, p(&mask), 0, 8));
        let _ = sys!(getpgid, 0);
    });
    eq!(end, "signal 31");
}

fn most_severe() {
    for (first, second) in
        [(ALLOW, ERRNO | 5), (ERRNO | 5, ALLOW), (ERRNO | 5, ERRNO | 6), (LOG, ERRNO | 7), (TRACE, ERRNO | 8), (KILL_PROCESS, ERRNO | 9)]
    {
        let end = ends(|| {
            install(&getpgid_meets(first));
            install(&getpgid_meets(second));
            say!("{first:#x} {second:#x}: {:?}", sys!(getpgid, 0).map(|_| ()));
        });
        say!("{end}");
    }
    // A filter is asked about the calls that install further ones.
    in_child(|| {
        install(&[(LD, 0, 0, NR), (JEQ, 0, 1, SYS_seccomp as u32), (RET, 0, 0, ERRNO | 13), (RET, 0, 0, ALLOW)]);
        eq!(install_with(0, &getpgid_meets(ALLOW)), Err(E(13)));
    });
}

fn inherited() {
    install(&getpgid_meets(ERRNO | 30));
    in_child(|| {
        eq!(sys!(getpgid, 0), Err(E(30)));
        in_child(|| eq!(sys!(getpgid, 0), Err(E(30))));
    });
    let status = String::from_utf8_lossy(&get("/proc/self/status")).into_owned();
    check!(status.contains("Seccomp:\t2\n") && status.contains("NoNewPrivs:\t1\n"));
    eq!(ok!(sys!(prctl, PR_GET_SECCOMP, 0, 0, 0, 0)), 2);
    err!(sys!(seccomp, 0, 0, 0), EINVAL);
}

fn strict() {
    let status = wait(fork(|| {
        ok!(sys!(seccomp, 0, 0, 0));
        ok!(write(1, b"strict\n"));
        let _ = sys!(exit, 3);
    }));
    eq!(show_status(status), "exit 3");
    for by_prctl in [false, true] {
        let end = ends(|| {
            if by_prctl {
                ok!(sys!(prctl, PR_SET_SECCOMP, 1, 0, 0, 0));
            } else {
                ok!(sys!(seccomp, 0, 0, 0));
            }
            let _ = sys!(getpid);
        });
        eq!(end, "signal 9");
    }
}

fn by_prctl() {
    eq!(ok!(sys!(prctl, PR_GET_SECCOMP, 0, 0, 0, 0)), 0);
    err!(sys!(prctl, PR_SET_SECCOMP, 7, 0, 0, 0), EINVAL);
    err!(sys!(prctl, PR_SET_SECCOMP, 2, 0, 0, 0), EFAULT);
    let lines = getpgid_meets(ERRNO | 31);
    let filter: Vec<Instruction> = lines.iter().map(|&(code, jt, jf, k)| Instruction { code, jt, jf, k }).collect();
    let program = Program { len: 4, filter: filter.as_ptr() };
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1000, 1000));
        err!(sys!(prctl, PR_SET_SECCOMP, 2, p(&program), 0, 0), EACCES);
    });
    ok!(sys!(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    ok!(sys!(prctl, PR_SET_SECCOMP, 2, p(&program), 0, 0));
    eq!(sys!(getpgid, 0), Err(E(31)));
}

fn tsync() {
    static STEP: AtomicI32 = AtomicI32::new(0);
    let thread = std::thread::spawn(|| {
        eq!(sys!(getpgid, 0).is_ok(), true);
        STEP.store(1, Ordering::SeqCst);
        until("the filter", || STEP.load(Ordering::SeqCst) == 2);
        (sys!(getpgid, 0), sys!(prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0))
    });
    until("the thread", || STEP.load(Ordering::SeqCst) == 1);
    ok!(sys!(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    eq!(ok!(install_with(TSYNC, &getpgid_meets(ERRNO | 32))), 0);
    STEP.store(2, Ordering::SeqCst);
    eq!(thread.join().ok(), Some((Err(E(32)), Ok(1))));
}

fn tsync_refused() {
    static STEP: AtomicI32 = AtomicI32::new(0);
    static TID: AtomicI32 = AtomicI32::new(0);
    ok!(sys!(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    let thread = std::thread::spawn(|| {
        ok!(install_with(0, &getpgid_meets(ERRNO | 33)));
        TID.store(ok!(sys!(gettid)) as i32, Ordering::SeqCst);
        STEP.store(1, Ordering::SeqCst);
        until("the other", || STEP.load(Ordering::SeqCst) == 2);
    });
    until("the thread", || STEP.load(Ordering::SeqCst) == 1);
    // The thread that cannot follow is named, and nothing is changed.
    eq!(ok!(install_with(TSYNC, &getpgid_meets(ERRNO | 34))), i64::from(TID.load(Ordering::SeqCst)));
    check!(sys!(getpgid, 0).is_ok());
    err!(install_with(TSYNC | 16, &getpgid_meets(ERRNO | 34)), ESRCH);
    STEP.store(2, Ordering::SeqCst);
    check!(thread.join().is_ok());
}

fn available() {
    for action in [KILL_PROCESS, KILL_THREAD, TRAP, ERRNO, TRACE, LOG, ALLOW, 0x1234_0000] {
        say!("{action:#x}: {:?}", sys!(seccomp, 2, 0, p(&action)));
    }
    err!(sys!(seccomp, 2, 1, p(&ALLOW)), EINVAL);
}

fn thread_alone() {
    // KILL_THREAD ends the thread, and the process goes on.
    let end = ends(|| {
        static STEP: AtomicI32 = AtomicI32::new(0);
        drop(std::thread::spawn(|| {
            STEP.store(ok!(sys!(gettid)) as i32, Ordering::SeqCst);
            install(&getpgid_meets(KILL_THREAD));
            let _ = sys!(getpgid, 0);
            STEP.store(-1, Ordering::SeqCst);
        }));
        until("the thread's end", || {
            let tid = STEP.load(Ordering::SeqCst);
            tid > 0 && !std::path::Path::new(&format!("/proc/self/task/{tid}")).exists()
        });
        check!(sys!(getpgid, 0).is_ok());
    });
    say!("{end}");
}
