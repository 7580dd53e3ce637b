//! Call sites that the `trap` platform changes: to the kernel and to the application nothing changes.

use super::hostile::{Noise, OVERWRITE, Watchdog, bystander};
use super::*;
use crate::trap::SLOTS_BEGIN;
use crate::{Answers, CallSite, HostPage};
use std::sync::atomic::{AtomicBool, Ordering};

/// Where the code begins in its page, and the number of the call that it makes.
const AT: u64 = 0x60;
const NR: u64 = 1000;
const GATE: u64 = CODE - 0x10_0000;

/// `loop: mov eax, 1000; syscall; inc rbx; jmp loop`
const COUNTING: &[u8] = &[0xb8, 0xe8, 0x03, 0, 0, 0x0f, 0x05, 0x48, 0xff, 0xc3, 0xeb, 0xf4];
/// `loop: mov eax, 39; syscall; cmp eax, ebp; jne fail; inc rbx; jmp loop; fail: hlt`
const ASKING: &[u8] = &[0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0x39, 0xe8, 0x75, 5, 0x48, 0xff, 0xc3, 0xeb, 0xf0, 0xf4];
/// `loop: xor eax, eax; syscall; cmp rax, -4096; ja out; jmp loop`, padding, `out: jmp loop`
const READING: &[u8] =
    &[0x31, 0xc0, 0x0f, 0x05, 0x48, 0x3d, 0, 0xf0, 0xff, 0xff, 0x77, 8, 0xeb, 0xf2, 0x66, 0x0f, 0x1f, 0x44, 0, 0, 0xeb, 0xea];

/// As syscall(3) has it: `loop: mov r9, [rsp+8]; syscall; inc rbx; mov eax, r12d; jmp loop`
const ANY: &[u8] = &[0x4c, 0x8b, 0x4c, 0x24, 8, 0x0f, 0x05, 0x48, 0xff, 0xc3, 0x44, 0x89, 0xe0, 0xeb, 0xf1];

struct Patched {
    guest: Guest,
    space: Arc<dyn AddressSpace>,
    ctx: Box<dyn Context>,
    /// The address behind the call.
    behind: u64,
}

/// The page at [`CODE`] with `code` in it.
fn page_with(code: &[u8]) -> Vec<u8> {
    let mut page = vec![0xf4; PAGE_SIZE as usize];
    page[AT as usize..AT as usize + code.len()].copy_from_slice(code);
    page
}

fn patch(g: &Guest, space: &Arc<dyn AddressSpace>, rip: u64, nr: u64) -> bool {
    let mut bytes = vec![0; PAGE_SIZE as usize];
    g.memory.copy_in(0, &mut bytes).expect("copy");
    let host = HostPage { fd: g.memory.fd().as_raw_fd(), offset: 0, prot: RX, shared: true };
    space.patch(&CallSite { rip, nr, bytes: &bytes, host }, &mut |_| Some(GATE))
}

/// Lets `code` make its first call often enough, and patches it.
fn patched(make: Make, code: &[u8], call_len: u64, nr: u64) -> Patched {
    patched_from(make, code, call_len, UserRegs { rax: nr, ..start() })
}

fn patched_from(make: Make, code: &[u8], call_len: u64, from: UserRegs) -> Patched {
    let g = Guest::new(make);
    let space = g.space(&page_with(code), 0);
    let mut ctx = g.context();
    let behind = CODE + AT + call_len;
    let nr = from.rax;
    let mut r = from;
    let mut calls = 0;
    loop {
        assert_eq!(ctx.switch(&space, &mut r), Event::Syscall);
        assert_eq!((r.orig_rax, r.rip), (nr, behind));
        calls += 1;
        if let Some(rip) = ctx.take_hot_call() {
            assert_eq!(rip, behind);
            break;
        }
        assert!(calls < 1000, "never worth it");
        (r.rip, r.rax) = (CODE + AT, nr);
    }
    assert!(patch(&g, &space, behind, nr));
    Patched { guest: g, space, ctx, behind }
}

/// The same with any number in rax.
fn patched_any(make: Make) -> Patched {
    let p = patched_from(make, ANY, 7, UserRegs { rax: NR, r12: NR, ..start() });
    p.guest.memory.copy_out(PAGE_SIZE + 2048 + 8, &0x1234_5678_9abc_def0u64.to_le_bytes()).expect("copy");
    p
}

fn start() -> UserRegs {
    UserRegs { rip: CODE + AT, rsp: DATA + 2048, ..regs() }
}

pub fn registers_are_as_without(make: Make) {
    let mut p = patched(make, COUNTING, 7, NR);
    let mut noise = Noise(7);
    for i in 0..2000u64 {
        let mut r = noise.regs();
        // A stack in the stub would be the thread's death.
        (r.rip, r.rsp, r.fs_base) = (CODE + AT, noise.next() >> 20, 0x1000 * i);
        // Sometimes the base of gs is the application's own.
        r.gs_base = if i % 5 == 4 { 0x5000 } else { 0 };
        // No trap flag, no alignment checks.
        r.eflags = 0x202 | noise.next() & 0xcd5;
        let mut fp = p.ctx.fp_state();
        if i % 3 == 0 {
            fp.0[160..176].copy_from_slice(&[i as u8; 16]);
            fp.0[512] |= 3;
            p.ctx.set_fp_state(&fp).expect("set");
        }
        let before = r;
        let mut turns = 1 + i % 4;
        loop {
            assert_eq!(p.ctx.switch(&p.space, &mut r), Event::Syscall);
            turns -= 1;
            if turns == 0 {
                break;
            }
            // As a call returns.
            r.rax = 5;
        }
        assert_eq!((r.orig_rax, r.rax as i64, r.rip), (NR, -38, p.behind));
        assert_eq!((r.rcx, r.r11 & 0xfff), (p.behind, r.eflags & 0xfff));
        assert_eq!(r.rbx, before.rbx.wrapping_add(i % 4));
        if i % 4 == 0 {
            assert_eq!(r.eflags, before.eflags);
        }
        assert_eq!(
            (r.rdx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10),
            (before.rdx, before.rsi, before.rdi, before.rbp, before.rsp, before.r8, before.r9, before.r10)
        );
        assert_eq!((r.r12, r.r13, r.r14, r.r15), (before.r12, before.r13, before.r14, before.r15));
        assert_eq!((r.fs_base, r.gs_base), (before.fs_base, before.gs_base));
        if i % 7 < 3 {
            assert_eq!(p.ctx.fp_state().0[160..176], fp.0[160..176], "{i}");
        }
    }
    // The page itself was never written.
    let mut bytes = vec![0; PAGE_SIZE as usize];
    p.guest.memory.copy_in(0, &mut bytes).expect("copy");
    assert_eq!(bytes, page_with(COUNTING));
}

/// Interrupts a context all the time until dropped.
struct Storm(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Storm {
    fn new(handle: Arc<dyn crate::Interrupt>, every_us: u64) -> Storm {
        let stop = Arc::new(AtomicBool::new(false));
        let stop2 = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stop2.load(Ordering::Relaxed) {
                handle.interrupt();
                std::thread::sleep(Duration::from_micros(every_us));
            }
        });
        Storm(stop, Some(thread))
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        if let Some(t) = self.1.take() {
            let _ = t.join();
        }
    }
}

pub fn interrupts_lose_no_call_and_show_no_stub(make: Make) {
    let mut p = patched(make, COUNTING, 7, NR);
    let mut r = start();
    r.rbx = 0;
    let storm = Storm::new(p.ctx.interrupter(), 20);
    let (mut calls, mut interrupted) = (0, 0);
    let mut fp = p.ctx.fp_state();
    fp.0[160..176].copy_from_slice(&[0x5a; 16]);
    fp.0[512] |= 3;
    p.ctx.set_fp_state(&fp).expect("set");
    while calls < 20_000 || interrupted < 50 {
        match p.ctx.switch(&p.space, &mut r) {
            Event::Syscall => {
                calls += 1;
                assert_eq!((r.orig_rax, r.rip, r.rbx), (NR, p.behind, calls - 1));
                r.rax = 0;
            }
            Event::Interrupted => {
                interrupted += 1;
                assert!([0, 5, 7, 10].contains(&(r.rip - CODE - AT)), "{:#x}", r.rip);
                if interrupted % 16 == 0 {
                    assert_eq!(p.ctx.fp_state().0[160..176], [0x5a; 16]);
                }
            }
            e => panic!("{e:?}"),
        }
        assert!(calls < 10_000_000, "no interrupt is seen");
    }
    drop(storm);
    assert_eq!(p.ctx.fp_state().0[160..176], [0x5a; 16]);
}

pub fn answers_come_from_the_stub(make: Make) {
    let mut p = patched(make, ASKING, 7, libc::SYS_getpid as u64);
    let answers = |pid| Some(Answers { pid, tid: 2, uid: 3, euid: 4, gid: 5, egid: 6 });
    let mut last = 0;
    for pid in [1, 77, u32::MAX - 1] {
        p.ctx.set_answers(answers(pid));
        let mut r = start();
        r.rbp = pid.into();
        let _storm = Storm::new(p.ctx.interrupter(), 50);
        for _ in 0..500 {
            // Not one call arrives, whatever instruction the signal meets.
            assert_eq!(p.ctx.switch(&p.space, &mut r), Event::Interrupted);
            assert!([0, 5, 7, 9, 11, 14].contains(&(r.rip - CODE - AT)), "{:#x}", r.rip);
            // It may have been put in front of the call, which then comes as a trap, once.
            if r.rip == CODE + AT + 5 {
                assert_eq!(r.rax, libc::SYS_getpid as u64);
                r.rip = CODE + AT;
            }
        }
        assert!(r.rbx > last);
        last = 0;
    }
    // Each thread has its own, also a new one in the place of another.
    p.ctx.set_answers(None);
    let mut r = start();
    loop {
        match p.ctx.switch(&p.space, &mut r) {
            Event::Interrupted => {}
            e => break assert_eq!((e, r.orig_rax), (Event::Syscall, libc::SYS_getpid as u64)),
        }
    }
    p.ctx.set_answers(answers(9));
    let mut other = p.guest.context();
    assert_eq!(other.switch(&p.space, &mut start()), Event::Syscall);
}

pub fn a_short_site_is_patched_too(make: Make) {
    let mut p = patched(make, READING, 4, 0);
    let mut r = start();
    // Zero and parity, as `xor` leaves them.
    for _ in 0..200 {
        assert_eq!(p.ctx.switch(&p.space, &mut r), Event::Syscall);
        assert_eq!((r.orig_rax, r.rip, r.eflags & 0x8c5), (0, p.behind, 0x44));
        r.rax = if r.rdi % 2 == 0 { 0 } else { u64::MAX };
        r.rdi += 1;
    }
}

pub fn single_steps_see_the_original(make: Make) {
    let mut p = patched(make, COUNTING, 7, NR);
    let mut r = start();
    for _ in 0..10 {
        r.eflags |= 0x100;
        (r.rip, r.rax) = (CODE + AT, 0);
        let event = p.ctx.switch(&p.space, &mut r);
        assert!(matches!(event, Event::Fault(Fault { signal: Signal::TRAP, .. })), "{event:?}");
        assert_eq!((r.rip, r.rax), (CODE + AT + 5, NR));
        assert_eq!(p.ctx.switch(&p.space, &mut r), Event::Syscall);
        assert_eq!((r.rip, r.orig_rax), (p.behind, NR));
    }
}

pub fn any_number_from_a_register(make: Make) {
    let mut p = patched_any(make);
    let mut noise = Noise(11);
    for i in 0..2000u64 {
        let mut r = noise.regs();
        (r.rip, r.rsp, r.eflags) = (CODE + AT, DATA + 2048, 0x202 | noise.next() & 0xcd5);
        r.gs_base = if i % 5 == 4 { 0x5000 } else { 0 };
        // The host takes a call's number for what the lower half says, with its sign.
        let nr = [39u64, 0, 191, 192, 1 << 20, 0x7fff_ffff, u64::MAX, i64::from(i32::MIN) as u64][i as usize % 8];
        (r.rax, r.r12) = (nr, 5);
        let before = r;
        assert_eq!(p.ctx.switch(&p.space, &mut r), Event::Syscall);
        assert_eq!((r.orig_rax, r.rip, r.rcx), (nr, p.behind, p.behind));
        assert_eq!((r.eflags, r.r9), (before.eflags, 0x1234_5678_9abc_def0));
        assert_eq!((r.rbx, r.rdi, r.rsi, r.rdx, r.r10, r.r8), (before.rbx, before.rdi, before.rsi, before.rdx, before.r10, before.r8));
    }
}

pub fn answers_to_any_number(make: Make) {
    let mut p = patched_any(make);
    p.ctx.set_answers(Some(Answers { pid: 7, tid: 2, uid: 0, euid: 4, gid: 5, egid: 6 }));
    // The answer is the next call's number: 39 has the answer 7, which has none.
    for (nr, answer) in [(39, 7), (186, 2), (102, 0), (107, 4), (104, 5), (108, 6)] {
        let mut r = start();
        (r.rax, r.r12, r.rbx) = (nr, 1000, 0);
        assert_eq!((p.ctx.switch(&p.space, &mut r), r.orig_rax, r.rbx), (Event::Syscall, 1000, 1), "{nr} {answer}");
    }
    // What it was is seen where the code does not overwrite it.
    let _storm = Storm::new(p.ctx.interrupter(), 30);
    let mut seen = 0;
    let mut r = start();
    (r.rax, r.r12) = (102, 102);
    while seen < 50 {
        match p.ctx.switch(&p.space, &mut r) {
            // Put in front of its call by a signal.
            Event::Syscall => {
                assert_eq!((r.orig_rax, r.rip), (102, p.behind));
                r.rax = 0;
            }
            Event::Interrupted => {
                assert!([0, 5, 7, 10, 13].contains(&(r.rip - CODE - AT)), "{:#x}", r.rip);
                if matches!(r.rip - CODE - AT, 7 | 10) {
                    assert_eq!(r.rax, 0);
                    seen += 1;
                } else {
                    assert_eq!(r.rax, 102);
                    seen += usize::from(r.rip == CODE + AT + 5);
                }
            }
            e => panic!("{e:?}"),
        }
    }
}

pub fn interrupts_find_a_moved_instruction(make: Make) {
    let mut p = patched_any(make);
    let storm = Storm::new(p.ctx.interrupter(), 20);
    let mut r = start();
    (r.rax, r.r12, r.rbx) = (NR, NR, 0);
    let (mut calls, mut interrupted) = (0, 0);
    while calls < 10_000 || interrupted < 50 {
        match p.ctx.switch(&p.space, &mut r) {
            Event::Syscall => {
                calls += 1;
                assert_eq!((r.orig_rax, r.rip, r.rbx), (NR, p.behind, calls - 1));
            }
            Event::Interrupted => {
                interrupted += 1;
                assert!([0, 5, 7, 10, 13].contains(&(r.rip - CODE - AT)), "{:#x}", r.rip);
                if matches!(r.rip - CODE - AT, 0 | 5) {
                    assert_eq!(r.rax, NR);
                }
            }
            e => panic!("{e:?}"),
        }
        assert!(calls < 10_000_000, "no interrupt is seen");
    }
    drop(storm);
}

pub fn a_moved_instruction_steps_and_faults_where_it_was(make: Make) {
    let mut p = patched_any(make);
    let mut r = start();
    for _ in 0..10 {
        r.eflags |= 0x100;
        (r.rip, r.rax, r.r9) = (CODE + AT, NR, 0);
        let event = p.ctx.switch(&p.space, &mut r);
        let here = CODE + AT + 5;
        assert_eq!(event, Event::Fault(Fault { signal: Signal::TRAP, code: 2, addr: here, access: Prot::empty(), present: false }));
        assert_eq!((r.rip, r.rax, r.r9), (here, NR, 0x1234_5678_9abc_def0));
        assert_eq!(p.ctx.switch(&p.space, &mut r), Event::Syscall);
        assert_eq!((r.rip, r.orig_rax), (p.behind, NR));
    }
    // Nothing is mapped where it reads.
    r.eflags &= !0x100;
    (r.rip, r.rax, r.rsp) = (CODE + AT, NR, 0x66_6000);
    let event = p.ctx.switch(&p.space, &mut r);
    assert!(matches!(event, Event::Fault(Fault { signal: Signal::SEGV, addr: 0x66_6008, .. })), "{event:?}");
    assert_eq!((r.rip, r.rax), (CODE + AT, NR));
    // It goes on when there is.
    p.space.map(0x66_6000, PAGE_SIZE, p.guest.memory.fd().as_raw_fd(), 64 * PAGE_SIZE, RW, true);
    assert_eq!(p.ctx.switch(&p.space, &mut r), Event::Syscall);
    assert_eq!((r.rip, r.orig_rax, r.r9), (p.behind, NR, 0));
    // Whoever jumps to the call itself traps as before.
    (r.rip, r.rax) = (CODE + AT + 5, 77);
    assert_eq!(p.ctx.switch(&p.space, &mut r), Event::Syscall);
    assert_eq!((r.rip, r.orig_rax), (p.behind, 77));
}

pub fn what_is_mapped_anew_is_as_mapped(make: Make) {
    let Patched { guest, space, mut ctx, behind } = patched(make, COUNTING, 7, NR);
    let fd = guest.memory.fd().as_raw_fd();
    let see = |ctx: &mut Box<dyn Context>| {
        let mut r = start();
        for _ in 0..3 {
            assert_eq!(ctx.switch(&space, &mut r), Event::Syscall);
            assert_eq!((r.orig_rax, r.rip), (NR, behind));
        }
    };
    let peek = || {
        let mem = std::fs::File::open(format!("/proc/{}/mem", pid_of(&space))).expect("mem");
        let mut b = [0; 1];
        std::os::unix::fs::FileExt::read_exact_at(&mem, &mut b, CODE + AT).expect("read");
        b[0]
    };
    see(&mut ctx);
    assert_eq!(peek(), 0xe9);
    // The page becomes writable: the application's own bytes are there, and what it writes counts.
    space.protect(CODE, PAGE_SIZE, RW);
    ctx.flush(&space).expect("flush");
    assert_eq!(peek(), 0xb8);
    space.protect(CODE, PAGE_SIZE, RX);
    see(&mut ctx);
    assert_eq!(peek(), 0xb8);
    assert!(patch(&guest, &space, behind, NR));
    see(&mut ctx);
    assert_eq!(peek(), 0xe9);
    // Another mapping there.
    guest.memory.copy_out(32 * PAGE_SIZE, &page_with(COUNTING)).expect("copy");
    guest.memory.copy_out(32 * PAGE_SIZE + AT, &[0xb8, 0xe9]).expect("copy");
    space.map(CODE, PAGE_SIZE, fd, 32 * PAGE_SIZE, RX, true);
    let mut r = start();
    assert_eq!((ctx.switch(&space, &mut r), r.orig_rax), (Event::Syscall, NR + 1));
    space.map(CODE, PAGE_SIZE, fd, 0, RX, true);
    assert!(patch(&guest, &space, behind, NR));
    see(&mut ctx);
    // The application takes the trampolines away.
    space.unmap(GATE - PAGE_SIZE, 4 * PAGE_SIZE);
    see(&mut ctx);
    assert_eq!(peek(), 0xb8);
    // Code that is rewritten all the time is left alone in the end.
    let patched_again = (0..20).filter(|_| {
        space.map(CODE, PAGE_SIZE, fd, 0, RX, true);
        patch(&guest, &space, behind, NR)
    });
    assert!(patched_again.count() < 10);
    see(&mut ctx);
}

pub fn threads_run_the_code_while_it_changes(make: Make) {
    let Patched { guest, space, mut ctx, behind } = patched(make, COUNTING, 7, NR);
    let guest = Arc::new(guest);
    let stop = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..3)
        .map(|_| {
            ctx.prepare_sibling(&space).expect("sibling");
            let (guest, space, stop) = (Arc::clone(&guest), Arc::clone(&space), Arc::clone(&stop));
            host::thread::spawn("task", move || {
                let mut ctx = guest.context();
                let mut r = start();
                let mut calls = 0;
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(ctx.switch(&space, &mut r), Event::Syscall);
                    assert_eq!((r.orig_rax, r.rip, r.rbx), (NR, behind, calls));
                    calls += 1;
                    r.rax = 0;
                }
                calls
            })
            .expect("spawn")
        })
        .collect();
    let fd = guest.memory.fd().as_raw_fd();
    for i in 0..200 {
        match i % 4 {
            0 => space.map(CODE, PAGE_SIZE, fd, 0, RX, true),
            1 => space.protect(CODE, PAGE_SIZE, RX),
            2 => space.unmap(GATE, PAGE_SIZE),
            _ => {}
        }
        patch(&guest, &space, behind, NR);
        ctx.flush(&space).expect("flush");
        std::thread::sleep(Duration::from_micros(200));
    }
    stop.store(true, Ordering::Relaxed);
    for w in workers {
        assert!(w.join().expect("join") > 10);
    }
}

pub fn a_forged_slot_deceives_nobody_else(make: Make) {
    for round in 0..8u64 {
        let p = patched(make, COUNTING, 7, NR);
        let (guest, space, mut ctx) = (Arc::new(p.guest), p.space, p.ctx);
        let (other, mut other_ctx) = bystander(&guest);
        guest.memory.copy_out(PAGE_SIZE, OVERWRITE).expect("copy");
        space.protect(DATA, PAGE_SIZE, Prot::READ | Prot::EXEC);
        ctx.prepare_sibling(&space).expect("sibling");
        let (guest2, space2) = (Arc::clone(&guest), Arc::clone(&space));
        let (ready, is_ready) = mpsc::channel();
        let writer = host::thread::spawn("task", move || {
            let mut ctx = guest2.context();
            let _ = ready.send(ctx.interrupter());
            // All of the first thread's slot, its registers, what it shows, or its answers.
            let (from, len) = [(0, 0x4000), (0x3b00, 0x200), (0x3f00, 0x40), (0x3f40, 0xc0)][round as usize % 4];
            let mut r = regs();
            (r.rip, r.rbx, r.rbp, r.rdx) = (DATA, SLOTS_BEGIN + from, len, 0x0123_4567_89ab_cdef >> round);
            for _ in 0..20 {
                let _ = ctx.switch(&space2, &mut r);
            }
        })
        .expect("spawn");
        let dog = Watchdog::new(vec![is_ready.recv().expect("started"), ctx.interrupter()]);
        let mut r = start();
        for _ in 0..2000 {
            match ctx.switch(&space, &mut r) {
                Event::Lost => break,
                Event::Syscall | Event::Interrupted => {}
                Event::Fault(_) => r = start(),
            }
        }
        writer.join().expect("join");
        drop(dog);
        assert_eq!(other_ctx.switch(&other, &mut regs()), Event::Syscall);
    }
}
