//! Runs a few hand-assembled instructions in real stubs, on every platform that there is.

use crate::ptrace::{self, Ptrace};
use crate::trap::{self, Trap};
use crate::{AddressSpace, Context, Event, Fault, Platform, UserRegs};
use abi::PAGE_SIZE;
use abi::mm::Prot;
use abi::signal::Signal;
use host::memfile::MemoryFile;
use std::os::fd::AsRawFd;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

mod hostile;
mod patched;
mod waiting;

const CODE: u64 = 0x40_0000;
const DATA: u64 = 0x50_0000;
const RX: Prot = Prot::READ.union(Prot::EXEC);
const RW: Prot = Prot::READ.union(Prot::WRITE);

/// `loop: syscall; jmp loop`
const CALLS: &[u8] = &[0x0f, 0x05, 0xeb, 0xfc];
/// `loop: jmp loop`
const SPIN: &[u8] = &[0xeb, 0xfe];
/// `mov rax, [rdi]; mov [rsi], rax; syscall`
const COPY: &[u8] = &[0x48, 0x8b, 0x07, 0x48, 0x89, 0x06, 0x0f, 0x05];

/// Makes a platform.
type Make = fn() -> Box<dyn Platform>;

fn make_ptrace() -> Box<dyn Platform> {
    Box::new(Ptrace::new().expect("ptrace platform"))
}

fn make_trap() -> Box<dyn Platform> {
    Box::new(Trap::new().expect("trap platform"))
}

fn make_looking_trap() -> Box<dyn Platform> {
    Box::new(Trap::with(trap::Options { looking: trap::Policy::Always, ..trap::Options::default() }).expect("trap platform"))
}

fn make_trap_in_turns() -> Box<dyn Platform> {
    Box::new(Trap::with(trap::Options { looking: trap::Policy::InTurns, ..trap::Options::default() }).expect("trap platform"))
}

fn make_futex_trap() -> Box<dyn Platform> {
    let handover = trap::Handover::Futex;
    Box::new(Trap::with(trap::Options { handover, ..trap::Options::default() }).expect("trap platform"))
}

/// Every test for every platform.
macro_rules! on_all_platforms {
    ($($test:ident),* $(,)?) => {
        mod on_ptrace {
            $(#[test] fn $test() { super::$test(super::make_ptrace); })*
        }
        mod on_looking_trap {
            $(#[test] fn $test() { super::$test(super::make_looking_trap); })*
        }
        mod on_trap_in_turns {
            $(#[test] fn $test() { super::$test(super::make_trap_in_turns); })*
        }
        mod on_futex_trap {
            $(#[test] fn $test() { super::$test(super::make_futex_trap); })*
        }
        mod on_trap {
            $(#[test] fn $test() { super::$test(super::make_trap); })*
        }
    };
}

use hostile::{
    calls_from_the_stub, every_call_is_only_seen, jumps_into_the_stub, no_low_number_does_anything_from_anywhere, overwrites_and_races,
};
use waiting::waiting_in_the_kernel_loses_no_call;

on_all_platforms!(
    waiting_in_the_kernel_loses_no_call,
    every_call_is_only_seen,
    calls_from_the_stub,
    no_low_number_does_anything_from_anywhere,
    jumps_into_the_stub,
    overwrites_and_races,
    a_call_is_seen_and_registers_round_trip,
    mapping_is_observed,
    a_copy_has_what_was_mapped,
    exceptions_and_odd_calls,
    vsyscall_is_a_call,
    interrupts,
    a_storm_of_interrupts_loses_no_call,
    threads_share_an_address_space,
    contexts_move_between_address_spaces,
    nothing_is_left_behind,
    a_killed_stub_is_lost,
    a_stub_used_again_is_as_good_as_new,
    a_stub_has_nothing_and_may_do_nothing,
    a_context_dropped_by_a_stranger_does_not_hang,
    many_processes_at_once,
    cost,
);

/// Tests of what only the `trap` platform has.
macro_rules! on_trap_platforms {
    ($($test:ident),* $(,)?) => {
        mod patched_on_trap_in_turns {
            $(#[test] fn $test() { super::$test(super::make_trap_in_turns); })*
        }
        mod patched_on_looking_trap {
            $(#[test] fn $test() { super::$test(super::make_looking_trap); })*
        }
        mod patched_on_futex_trap {
            $(#[test] fn $test() { super::$test(super::make_futex_trap); })*
        }
        mod patched_on_trap {
            $(#[test] fn $test() { super::$test(super::make_trap); })*
        }
    };
}

use patched::{
    a_forged_slot_deceives_nobody_else, a_moved_instruction_steps_and_faults_where_it_was, a_short_site_is_patched_too,
    answers_come_from_the_stub, answers_to_any_number, any_number_from_a_register, interrupts_find_a_moved_instruction,
    interrupts_lose_no_call_and_show_no_stub, registers_are_as_without, single_steps_see_the_original,
    threads_run_the_code_while_it_changes, what_is_mapped_anew_is_as_mapped,
};

on_trap_platforms!(
    a_forged_slot_deceives_nobody_else,
    a_moved_instruction_steps_and_faults_where_it_was,
    any_number_from_a_register,
    answers_to_any_number,
    interrupts_find_a_moved_instruction,
    registers_are_as_without,
    interrupts_lose_no_call_and_show_no_stub,
    answers_come_from_the_stub,
    a_short_site_is_patched_too,
    single_steps_see_the_original,
    what_is_mapped_anew_is_as_mapped,
    threads_run_the_code_while_it_changes,
);

struct Guest {
    platform: Box<dyn Platform>,
    memory: MemoryFile,
}

impl Guest {
    fn new(make: Make) -> Guest {
        let memory = MemoryFile::new(c"guest", 1 << 30).expect("memory");
        Guest { platform: make(), memory }
    }

    /// An address space with `code` at [`CODE`] and a writable page at [`DATA`], at `offset` of the memory file.
    fn space(&self, code: &[u8], offset: u64) -> Arc<dyn AddressSpace> {
        let space = self.platform.new_address_space().expect("address space");
        self.memory.copy_out(offset, code).expect("copy");
        let fd = self.memory.fd().as_raw_fd();
        space.map(CODE, PAGE_SIZE, fd, offset, RX, true);
        space.map(DATA, PAGE_SIZE, fd, offset + PAGE_SIZE, RW, true);
        space
    }

    fn context(&self) -> Box<dyn Context> {
        self.platform.new_context().expect("context")
    }
}

fn regs() -> UserRegs {
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut r: UserRegs = unsafe { std::mem::zeroed() };
    r.rip = CODE;
    r.eflags = 0x202;
    r
}

/// Whether host process `pid` exists.
fn exists(pid: i32) -> bool {
    host::signals::kill(pid, 0).is_ok()
}

fn pid_of(space: &Arc<dyn AddressSpace>) -> i32 {
    ptrace::pid_of(space.as_ref()).or_else(|| trap::pid_of(space.as_ref())).expect("ours")
}

fn wait_until(what: &str, f: impl Fn() -> bool) {
    let begin = Instant::now();
    while !f() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn a_call_is_seen_and_registers_round_trip(make: Make) {
    let g = Guest::new(make);
    let (space, mut ctx) = (g.space(CALLS, 0), g.context());
    let mut r = regs();
    r.rax = libc::SYS_getpid as u64;
    (r.rbx, r.rdx, r.rsi, r.rdi, r.rbp, r.rsp) = (1, 2, 3, 4, 5, 6);
    (r.r8, r.r9, r.r10, r.r12, r.r13, r.r14, r.r15) = (8, 9, 10, 12, 13, 14, 15);
    (r.fs_base, r.gs_base) = (0x1234_5000, 0x7fff_0000_0000);
    assert_eq!(ctx.switch(&space, &mut r), Event::Syscall);
    assert_eq!((r.orig_rax, r.rax as i64), (libc::SYS_getpid as u64, -i64::from(libc::ENOSYS)));
    assert_eq!((r.rip, r.rcx, r.r11 & 0x200), (CODE + 2, CODE + 2, 0x200));
    assert_eq!((r.rbx, r.rdx, r.rsi, r.rdi, r.rbp, r.rsp), (1, 2, 3, 4, 5, 6));
    assert_eq!((r.r8, r.r9, r.r10, r.r12, r.r13, r.r14, r.r15), (8, 9, 10, 12, 13, 14, 15));
    assert_eq!((r.fs_base, r.gs_base), (0x1234_5000, 0x7fff_0000_0000));
    // A result that looks like a call to be restarted is a number like any other.
    for nr in [-512i64, -513, -514, -516, 0, 5, -38] {
        r.rax = nr as u64;
        ctx.interrupter().interrupt();
        let mut same = r;
        assert_eq!(ctx.switch(&space, &mut same), Event::Interrupted);
        assert_eq!((same.rax, same.rip), (r.rax, r.rip));
        assert_eq!(ctx.switch(&space, &mut r), Event::Syscall);
        assert_eq!((r.orig_rax as i64, r.rip), (nr, CODE + 2));
    }
}

/// How many areas the host has for the application in a stub.
fn areas(space: &Arc<dyn AddressSpace>) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", pid_of(space))).expect("maps");
    let begin = |line: &str| u64::from_str_radix(line.split('-').next().unwrap_or_default(), 16).expect("an address");
    maps.lines().filter(|l| begin(l) < crate::stub::CODE).count()
}

fn a_copy_has_what_was_mapped(make: Make) {
    let g = Guest::new(make);
    let parent = g.space(COPY, 0);
    let fd = g.memory.fd().as_raw_fd();
    g.memory.copy_out(16 * PAGE_SIZE, &77u64.to_le_bytes()).expect("copy");
    // Every other page of many, of which copies use one.
    let place = |i: u64| 0x100_0000 + 2 * i * PAGE_SIZE;
    let mut ctx = g.context();
    // The second copy begins with what the first has used.
    for (round, expected) in [3, 13].into_iter().enumerate() {
        let space = g.platform.new_address_space().expect("address space");
        space.begin_copy(&parent);
        space.map(CODE, PAGE_SIZE, fd, 0, RX, true);
        space.map(DATA, PAGE_SIZE, fd, PAGE_SIZE, RW, true);
        for i in 0..20 {
            space.map(place(i), PAGE_SIZE, fd, 16 * PAGE_SIZE, Prot::READ, true);
        }
        space.end_copy();
        let mut go = |from: u64, to: u64| {
            let mut r = regs();
            (r.rdi, r.rsi) = (from, to);
            ctx.switch(&space, &mut r)
        };
        assert_eq!(go(place(7), DATA), Event::Syscall, "round {round}");
        assert_eq!(g.memory.load_u32(PAGE_SIZE), Ok(77));
        assert_eq!(areas(&space), if g.platform.name() == "trap" { expected } else { 22 }, "round {round}");
        // What is changed before it was used is as it was changed.
        space.protect(place(8), PAGE_SIZE, RW);
        space.unmap(place(9), PAGE_SIZE);
        assert_eq!(go(DATA, place(8)), Event::Syscall);
        assert!(matches!(go(place(9), DATA), Event::Fault(f) if f.addr == place(9)));
        // All else is there when it is wanted.
        for i in 10..20 {
            assert_eq!(go(place(i), DATA), Event::Syscall);
        }
        g.memory.copy_out(PAGE_SIZE, &[0; 8]).expect("copy");
    }
}

fn mapping_is_observed(make: Make) {
    let g = Guest::new(make);
    let (space, mut ctx) = (g.space(COPY, 0), g.context());
    let fd = g.memory.fd().as_raw_fd();
    g.memory.copy_out(16 * PAGE_SIZE, &77u64.to_le_bytes()).expect("copy");
    let go = |ctx: &mut Box<dyn Context>, from: u64, to: u64| {
        let mut r = regs();
        (r.rdi, r.rsi) = (from, to);
        ctx.switch(&space, &mut r)
    };
    let knows = g.platform.name() != "ptrace";
    let fault = |code, addr, access| {
        let present = knows && code == 2;
        Event::Fault(Fault { signal: Signal::SEGV, code, addr, access: if knows { access } else { Prot::empty() }, present })
    };
    let (maperr, accerr) = (1, 2);
    assert_eq!(go(&mut ctx, 0x60_0008, DATA), fault(maperr, 0x60_0008, Prot::READ));
    space.map(0x60_0000, PAGE_SIZE, fd, 16 * PAGE_SIZE, Prot::READ, true);
    assert!(space.is_dirty());
    assert_eq!(go(&mut ctx, 0x60_0000, DATA), Event::Syscall);
    assert!(!space.is_dirty());
    assert_eq!(g.memory.load_u32(PAGE_SIZE), Ok(77));
    assert_eq!(go(&mut ctx, DATA, 0x60_0010), fault(accerr, 0x60_0010, Prot::WRITE));
    space.protect(0x60_0000, PAGE_SIZE, RW);
    ctx.flush(&space).expect("flush");
    assert_eq!(go(&mut ctx, DATA, 0x60_0010), Event::Syscall);
    assert_eq!(g.memory.load_u32(16 * PAGE_SIZE + 16), Ok(77));
    space.unmap(0x60_0000, PAGE_SIZE);
    assert_eq!(go(&mut ctx, 0x60_0000, DATA), fault(maperr, 0x60_0000, Prot::READ));
    // Many operations that do not merge, more than fit one batch.
    for i in 0..700 {
        space.map(0x100_0000 + i * 2 * PAGE_SIZE, PAGE_SIZE, fd, 16 * PAGE_SIZE, Prot::READ, true);
    }
    assert_eq!(go(&mut ctx, 0x100_0000 + 699 * 2 * PAGE_SIZE, DATA), Event::Syscall);
    // A descriptor that is none: the failure comes out, and what was queued behind it is done all the same.
    space.map(0x60_0000, PAGE_SIZE, 9999, 0, Prot::READ, true);
    space.map(0x70_0000, PAGE_SIZE, fd, 16 * PAGE_SIZE, Prot::READ, true);
    assert_eq!(ctx.flush(&space), Err(abi::Errno::EBADF));
    assert_eq!(go(&mut ctx, 0x70_0000, DATA), Event::Syscall);
    // One range of half a terabyte is one operation.
    let huge = MemoryFile::new(c"huge", 1 << 39).expect("memory");
    space.map(1 << 40, huge.len(), huge.fd().as_raw_fd(), 0, RW, true);
    assert_eq!(go(&mut ctx, (1 << 40) + huge.len() - 8, DATA), Event::Syscall);
}

fn exceptions_and_odd_calls(make: Make) {
    let g = Guest::new(make);
    let mut ctx = g.context();
    let mut run = |code: &[u8], offset: u64, eflags: u64| {
        let space = g.space(code, offset);
        let mut r = regs();
        r.eflags |= eflags;
        let e = ctx.switch(&space, &mut r);
        let Event::Fault(f) = e else { panic!("{e:?}") };
        (f.signal, f.code, f.addr, r.rip - CODE)
    };
    let (trap, kernel) = (Signal::TRAP, 0x80);
    assert_eq!(run(&[0xcc], 0, 0), (trap, kernel, 0, 1));
    assert_eq!(run(&[0x0f, 0x0b], 0x4000, 0), (Signal::ILL, 2, CODE, 0));
    // xor ecx, ecx; div ecx
    assert_eq!(run(&[0x31, 0xc9, 0xf7, 0xf1], 0x8000, 0), (Signal::FPE, 1, CODE + 2, 2));
    // hlt: a protection fault without address.
    assert_eq!(run(&[0xf4], 0xc000, 0), (Signal::SEGV, kernel, 0, 0));
    // int 0x80
    assert_eq!(run(&[0xcd, 0x80], 0x1_0000, 0), (Signal::SEGV, kernel, 0, 0));
    // nop; nop with the trap flag
    let (signal, code, addr, rip) = run(&[0x90, 0x90], 0x1_4000, 0x100);
    assert_eq!((signal, code, addr, rip), (trap, 2, CODE + 1, 1));

    // The x32 interface is just a number that no table has; a call from the stub's own page is a call like any other.
    let space = g.space(CALLS, 0x2_0000);
    let mut r = regs();
    r.rax = 0x4000_0027;
    assert_eq!(ctx.switch(&space, &mut r), Event::Syscall);
    assert_eq!(r.orig_rax, 0x4000_0027);
    r.rip = crate::stub::Entry::Syscall.address();
    r.rax = libc::SYS_exit_group as u64;
    assert_eq!(ctx.switch(&space, &mut r), Event::Syscall);
    assert_eq!(r.orig_rax, libc::SYS_exit_group as u64);
    // Registers that the host would refuse are mended, wherever they came from.
    r = regs();
    (r.cs, r.ss, r.ds, r.fs, r.gs_base, r.fs_base) = (8, 0, 16, u64::MAX, u64::MAX, 1 << 63);
    assert_eq!(ctx.switch(&space, &mut r), Event::Syscall);
    assert_eq!((r.cs, r.ss), (0x33, 0x2b));
    // Addresses that are no code, and that no page can have.
    for rip in [0, 1 << 63, u64::MAX, 0xffff_ffff_8100_0000, 0x7fff_ffff_f000] {
        r = regs();
        r.rip = rip;
        assert!(matches!(ctx.switch(&space, &mut r), Event::Fault(Fault { signal: Signal::SEGV, .. })), "{rip:#x}");
    }
}

/// `time` of the vsyscall page: `mov rax, 0xffffffffff600400; call rax; syscall`
fn vsyscall_is_a_call(make: Make) {
    let g = Guest::new(make);
    let code = [0x48, 0xc7, 0xc0, 0x00, 0x04, 0x60, 0xff, 0xff, 0xd0, 0x0f, 0x05];
    let (space, mut ctx) = (g.space(&code, 0), g.context());
    let mut r = regs();
    r.rsp = DATA + 512;
    match ctx.switch(&space, &mut r) {
        Event::Syscall => assert_eq!((r.orig_rax, r.rip, r.rsp), (libc::SYS_time as u64, CODE + 9, DATA + 512)),
        // A host without that page.
        Event::Fault(f) => assert_eq!(f.signal, Signal::SEGV),
        e => panic!("{e:?}"),
    }
}

fn interrupts(make: Make) {
    let g = Guest::new(make);
    let (space, mut ctx) = (g.space(SPIN, 0), g.context());
    let handle = ctx.interrupter();
    let mut r = regs();
    // Before it runs: the very next switch.
    handle.interrupt();
    assert_eq!(ctx.switch(&space, &mut r), Event::Interrupted);
    assert_eq!(r.rip, CODE);
    for _ in 0..20 {
        let h = Arc::clone(&handle);
        let t = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(2));
            h.interrupt();
            h.interrupt();
        });
        r.rbx = 5;
        assert_eq!(ctx.switch(&space, &mut r), Event::Interrupted);
        assert_eq!((r.rip, r.rbx, r.orig_rax), (CODE, 5, u64::MAX));
        t.join().expect("join");
        // The second one may have counted for itself; raising the flag again makes the next answer certain.
        handle.interrupt();
        assert_eq!(ctx.switch(&space, &mut r), Event::Interrupted);
    }
    drop(ctx);
    handle.interrupt();
}

fn a_storm_of_interrupts_loses_no_call(make: Make) {
    let g = Guest::new(make);
    let (space, mut ctx) = (g.space(CALLS, 0), g.context());
    let handle = ctx.interrupter();
    let (stop, stopped) = mpsc::channel::<()>();
    let t = std::thread::spawn(move || {
        while stopped.recv_timeout(Duration::from_micros(50)) == Err(mpsc::RecvTimeoutError::Timeout) {
            handle.interrupt();
        }
    });
    let mut r = regs();
    let mut interrupted = 0;
    // Not the numbers that the host exempts from every filter: uretprobe(2), uprobe(2).
    for call in 1000..4000u64 {
        r.rax = call;
        loop {
            match ctx.switch(&space, &mut r) {
                Event::Interrupted => interrupted += 1,
                event => break assert_eq!((event, r.orig_rax), (Event::Syscall, call)),
            }
        }
        // A guest kernel may change the memory map at any time, interrupts or not.
        space.protect(DATA, PAGE_SIZE, if call % 2 == 0 { Prot::READ } else { RW });
    }
    stop.send(()).expect("send");
    t.join().expect("join");
    assert!(interrupted > 0);
}

fn threads_share_an_address_space(make: Make) {
    const N: u64 = 1000;
    let g = Arc::new(Guest::new(make));
    let space = g.space(CALLS, 0);
    let mut ctx = g.context();
    let mut r = regs();
    assert_eq!(ctx.switch(&space, &mut r), Event::Syscall);
    let (hold, held) = (Arc::new(std::sync::Barrier::new(N as usize + 1)), Arc::new(std::sync::Barrier::new(N as usize + 1)));
    let threads: Vec<_> = (0..N)
        .map(|i| {
            ctx.prepare_sibling(&space).expect("sibling");
            let (g, space, hold, held) = (Arc::clone(&g), Arc::clone(&space), Arc::clone(&hold), Arc::clone(&held));
            host::thread::spawn("task", move || {
                let mut ctx = g.context();
                let mut r = regs();
                for n in 0..20 {
                    (r.rax, r.rbx) = (n, i);
                    assert_eq!(ctx.switch(&space, &mut r), Event::Syscall);
                    assert_eq!((r.orig_rax, r.rbx), (n, i));
                }
                hold.wait();
                held.wait();
            })
            .expect("spawn")
        })
        .collect();
    hold.wait();
    let count = || std::fs::read_dir(format!("/proc/{}/task", pid_of(&space))).expect("proc").count();
    assert!(count() as u64 >= N + 2);
    held.wait();
    for t in threads {
        t.join().expect("join");
    }
    // Threads that ended go back; only some are kept.
    wait_until("threads end", || count() < 40);
    assert_eq!(ctx.switch(&space, &mut r), Event::Syscall);
    // One that nobody prepared works too.
    std::thread::scope(|s| {
        for _ in 0..30 {
            s.spawn(|| {
                let mut ctx = g.context();
                assert_eq!(ctx.switch(&space, &mut regs()), Event::Syscall);
            });
        }
    });
}

fn contexts_move_between_address_spaces(make: Make) {
    let g = Guest::new(make);
    let (a, mut ctx) = (g.space(CALLS, 0), g.context());
    let mut fp = ctx.fp_state();
    assert_eq!(fp.0.len(), g.platform.limits().fp_state_size);
    // x87 control word, MXCSR, xmm3
    fp.0[0..2].copy_from_slice(&0x27fu16.to_le_bytes());
    fp.0[24..28].copy_from_slice(&0x1fa0u32.to_le_bytes());
    fp.0[160 + 48..160 + 64].copy_from_slice(&[7; 16]);
    ctx.set_fp_state(&fp).expect("set");
    let mut r = regs();
    let same =
        |x: &crate::FpState, y: &crate::FpState| x.0[..2] == y.0[..2] && x.0[24..28] == y.0[24..28] && x.0[160..416] == y.0[160..416];
    assert_eq!(ctx.switch(&a, &mut r), Event::Syscall);
    assert!(same(&ctx.fp_state(), &fp));
    // A new address space, as after fork or execve; the old one's page is not there.
    for i in 1..20 {
        let b = g.space(CALLS, i * 4 * PAGE_SIZE);
        r = regs();
        assert_eq!(ctx.switch(&b, &mut r), Event::Syscall);
        assert!(same(&ctx.fp_state(), &fp));
        r.rip = DATA;
        assert!(matches!(ctx.switch(&b, &mut r), Event::Fault(_)));
        r.rip = CODE;
        assert_eq!(ctx.switch(&a, &mut r), Event::Syscall);
    }
    let mut bad = fp.clone();
    bad.0[27] = 0xff;
    assert_eq!(ctx.set_fp_state(&bad), Err(abi::Errno::EINVAL));
    assert_eq!(ctx.set_fp_state(&crate::FpState(vec![0; 10])), Err(abi::Errno::EINVAL));
    ctx.reset_fp_state();
    assert_eq!(ctx.fp_state().0[..2], 0x37fu16.to_le_bytes());
    assert_eq!(ctx.switch(&a, &mut r), Event::Syscall);
    assert!(!same(&ctx.fp_state(), &fp));
}

fn nothing_is_left_behind(make: Make) {
    let g = Guest::new(make);
    let mut pids = Vec::new();
    for i in 0..200 {
        let (space, mut ctx) = (g.space(CALLS, 0), g.context());
        pids.push(pid_of(&space));
        if i % 3 != 0 {
            assert_eq!(ctx.switch(&space, &mut regs()), Event::Syscall);
        }
        // In either order.
        if i % 2 == 0 { drop(space) } else { drop(ctx) }
    }
    pids.sort_unstable();
    pids.dedup();
    // Some are kept to be used again.
    wait_until("stubs end", || pids.iter().filter(|&&p| exists(p)).count() < 20);
    let space = g.space(CALLS, 0);
    let last = pid_of(&space);
    drop(space);
    drop(g);
    wait_until("the last stubs end", || !exists(last) && pids.iter().all(|&p| !exists(p)));
}

fn a_stub_used_again_is_as_good_as_new(make: Make) {
    let g = Guest::new(make);
    for i in 0..50 {
        let (space, mut ctx) = (g.space(COPY, 0), g.context());
        let mut r = regs();
        // What the one before had is not there.
        (r.rdi, r.rsi) = (0x60_0000, DATA);
        assert!(matches!(ctx.switch(&space, &mut r), Event::Fault(_)));
        (r.rdi, r.rsi) = (DATA + 8, DATA);
        let mut fp = ctx.fp_state();
        assert_eq!(fp.0[160 + 48..160 + 64], [0; 16]);
        fp.0[160 + 48..160 + 64].copy_from_slice(&[i; 16]);
        ctx.set_fp_state(&fp).expect("set");
        (r.fs_base, r.gs_base, r.rbx) = (0x1234_5000, 0x1234_6000, 77);
        space.map(0x60_0000, PAGE_SIZE, g.memory.fd().as_raw_fd(), 0, RW, true);
        assert_eq!(ctx.switch(&space, &mut r), Event::Syscall);
    }
}

fn a_killed_stub_is_lost(make: Make) {
    let g = Arc::new(Guest::new(make));
    let space = g.space(CALLS, 0);
    let mut ctx = g.context();
    assert_eq!(ctx.switch(&space, &mut regs()), Event::Syscall);
    // One runs, one stands still in the kernel, one has not started.
    ctx.prepare_sibling(&space).expect("sibling");
    let (g2, space2) = (Arc::clone(&g), Arc::clone(&space));
    let spin = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let spin2 = Arc::clone(&spin);
    let t = host::thread::spawn("task", move || {
        let mut ctx = g2.context();
        g2.memory.copy_out(2, SPIN).expect("copy");
        assert_eq!(ctx.switch(&space2, &mut regs()), Event::Syscall);
        let mut r = regs();
        r.rip += 2;
        spin2.store(true, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(ctx.switch(&space2, &mut r), Event::Lost);
    })
    .expect("spawn");
    wait_until("spinning", || spin.load(std::sync::atomic::Ordering::SeqCst));
    host::signals::kill(pid_of(&space), libc::SIGKILL).expect("kill");
    t.join().expect("join");
    assert_eq!(ctx.switch(&space, &mut regs()), Event::Lost);
    assert_eq!(ctx.switch(&space, &mut regs()), Event::Lost);
    assert!(ctx.prepare_sibling(&space).is_err());
    assert_eq!(g.context().switch(&space, &mut regs()), Event::Lost);
    // Signals short of that do nothing.
    let space = g.space(CALLS, 8 * PAGE_SIZE);
    for sig in [libc::SIGTERM, libc::SIGINT, libc::SIGSEGV, libc::SIGUSR1, libc::SIGSTOP, libc::SIGCONT, libc::SIGCHLD] {
        let _ = host::signals::tgkill(pid_of(&space), pid_of(&space), sig);
        assert_eq!(ctx.switch(&space, &mut regs()), Event::Syscall);
    }
}

fn a_stub_has_nothing_and_may_do_nothing(make: Make) {
    let g = Guest::new(make);
    let (space, mut ctx) = (g.space(CALLS, 0), g.context());
    assert_eq!(ctx.switch(&space, &mut regs()), Event::Syscall);
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", pid_of(&space))).expect("proc");
    let status = read("status");
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000"] {
        assert!(status.contains(line), "{line} in {status}");
    }
    let maps = read("maps");
    let shares_memory = g.platform.name() == "trap";
    let own: Vec<&str> = maps.lines().filter(|l| l.starts_with("7fff")).collect();
    assert_eq!(maps.lines().filter(|l| !l.contains("vsyscall")).count(), 2 + own.len(), "{maps}");
    // With the words that stubs sleep on, and a thread's slot.
    assert_eq!(own.len(), if shares_memory { 4 } else { 2 }, "{maps}");
    assert!(own.iter().any(|l| l.contains("r-xs")) && own.iter().any(|l| l.contains("r--s")), "{maps}");
    assert_eq!(own.iter().any(|l| l.contains("rw-s")), shares_memory, "{maps}");
}

fn a_context_dropped_by_a_stranger_does_not_hang(make: Make) {
    let g = Guest::new(make);
    let space = g.space(CALLS, 0);
    let space2 = Arc::clone(&space);
    let ctx = g.context();
    let ctx = std::thread::spawn(move || {
        let mut ctx = ctx;
        assert_eq!(ctx.switch(&space2, &mut regs()), Event::Syscall);
        ctx
    });
    let mut ctx = ctx.join().expect("join");
    // Where the thread was a tracer, the stub has ended with it.
    let expected = if g.platform.name() == "ptrace" { Event::Lost } else { Event::Syscall };
    assert_eq!(ctx.switch(&space, &mut regs()), expected);
    drop(ctx);
}

fn many_processes_at_once(make: Make) {
    const N: u64 = 500;
    let g = Arc::new(Guest::new(make));
    let done = Arc::new(std::sync::Barrier::new(N as usize));
    let threads: Vec<_> = (0..N)
        .map(|i| {
            let (g, done) = (Arc::clone(&g), Arc::clone(&done));
            host::thread::spawn("task", move || {
                let (space, mut ctx) = (g.space(CALLS, i * 4 * PAGE_SIZE), g.context());
                let mut r = regs();
                for _ in 0..3 {
                    assert_eq!(ctx.switch(&space, &mut r), Event::Syscall);
                }
                ctx.set_blocked(true);
                done.wait();
                ctx.set_blocked(false);
                assert_eq!(ctx.switch(&space, &mut r), Event::Syscall);
            })
            .expect("spawn")
        })
        .collect();
    for t in threads {
        t.join().expect("join");
    }
}

/// The shortest time that `f` takes of a few batches, in nanoseconds for one turn: what others do on the machine is left out.
fn shortest(batches: u32, turns: u32, mut f: impl FnMut(u32)) -> u128 {
    let batch = |_| {
        let begin = Instant::now();
        (0..turns).for_each(&mut f);
        begin.elapsed().as_nanos() / u128::from(turns)
    };
    (0..batches).map(batch).min().unwrap_or(0)
}

fn cost(make: Make) {
    let g = Guest::new(make);
    let name = g.platform.name();
    let (space, mut ctx) = (g.space(CALLS, 0), g.context());
    let mut r = regs();
    assert_eq!(ctx.switch(&space, &mut r), Event::Syscall);
    r.rax = 0;
    let ns = shortest(100, 200, |_| assert_eq!(ctx.switch(&space, &mut r), Event::Syscall));
    println!("{name}: a system call's round trip: {ns} ns");
    let ns = shortest(100, 50, |i| {
        space.protect(DATA, PAGE_SIZE, if i % 2 == 0 { Prot::READ } else { RW });
        assert_eq!(ctx.switch(&space, &mut r), Event::Syscall);
    });
    println!("{name}: the same with one change of the memory map: {ns} ns");
    let ns = shortest(10, 20, |_| {
        let (space, mut ctx) = (g.space(CALLS, 0), g.context());
        assert_eq!(ctx.switch(&space, &mut r), Event::Syscall);
    });
    println!("{name}: a new address space and context, one call, and their end: {ns} ns");
    let ns = shortest(10, 20, |_| ctx.prepare_sibling(&space).expect("sibling"));
    println!("{name}: a thread made ready: {ns} ns");
}
