//! Applications that know the stub and mean harm. Whatever they do: an event, or their process is lost; never a hang of the sentry, and
//! never a disturbance of another process.

use super::*;
use crate::stub;
use crate::trap::SLOTS_BEGIN;
use std::sync::atomic::{AtomicBool, Ordering};

/// Keeps interrupting a context until dropped, so that no loop of the application lasts.
pub struct Watchdog {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watchdog {
    pub fn new(handles: Vec<Arc<dyn crate::Interrupt>>) -> Watchdog {
        let stop = Arc::new(AtomicBool::new(false));
        let stop2 = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stop2.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(2));
                handles.iter().for_each(|h| h.interrupt());
            }
        });
        Watchdog { stop, thread: Some(thread) }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(t) = self.thread.take() {
            let _ = t.join();
        }
    }
}

/// xorshift64: hostile, and the same every time.
pub struct Noise(pub u64);

impl Noise {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Registers with anything in them, now and then something that the stub might like.
    pub fn regs(&mut self) -> UserRegs {
        let mut r = regs();
        let liked = [0, 1, 2, CODE, DATA, stub::CODE, stub::OPS, SLOTS_BEGIN, SLOTS_BEGIN + 0x3b00, u64::MAX, 1 << 47];
        for place in [
            &mut r.rax, &mut r.rbx, &mut r.rcx, &mut r.rdx, &mut r.rsi, &mut r.rdi, &mut r.rbp, &mut r.rsp, &mut r.r8, &mut r.r9,
            &mut r.r10, &mut r.r11, &mut r.r12, &mut r.r13, &mut r.r14, &mut r.r15,
        ] {
            let n = self.next();
            *place = if n % 3 == 0 { liked[(n >> 8) as usize % liked.len()] } else { self.next() };
        }
        r.eflags |= self.next() & 0x24_4cd5;
        r
    }
}

/// A process that must not notice anything.
pub fn bystander(g: &Guest) -> (Arc<dyn AddressSpace>, Box<dyn Context>) {
    let (space, mut ctx) = (g.space(CALLS, 1 << 20), g.context());
    assert_eq!(ctx.switch(&space, &mut regs()), Event::Syscall);
    (space, ctx)
}

pub fn every_call_is_only_seen(make: Make) {
    let g = Guest::new(make);
    let (space, mut ctx) = (g.space(CALLS, 0), g.context());
    let mut noise = Noise(1);
    // uretprobe(2) and uprobe(2) are exempt from every filter of the host, and do nothing.
    for nr in (0..500u64).filter(|n| !(335..=336).contains(n)) {
        let mut r = noise.regs();
        // A stack in the stub would be the thread's death.
        (r.rip, r.rsp, r.rax, r.eflags) = (CODE, DATA, nr, 0x202);
        assert_eq!(ctx.switch(&space, &mut r), Event::Syscall);
        assert_eq!((r.orig_rax, r.rip), (nr, CODE + 2));
    }
    assert!(exists(pid_of(&space)));
}

pub fn calls_from_the_stub(make: Make) {
    let g = Guest::new(make);
    let (other, mut other_ctx) = bystander(&g);
    let mut noise = Noise(2);
    let image = {
        let space = g.space(CALLS, 0);
        let mut ctx = g.context();
        assert_eq!(ctx.switch(&space, &mut regs()), Event::Syscall);
        let mem = std::fs::File::open(format!("/proc/{}/mem", pid_of(&space))).expect("mem");
        let mut page = vec![0; PAGE_SIZE as usize];
        std::os::unix::fs::FileExt::read_exact_at(&mem, &mut page, stub::CODE).expect("read");
        page
    };
    let sites: Vec<u64> = image.windows(2).enumerate().filter(|(_, w)| *w == [0x0f, 0x05]).map(|(i, _)| i as u64).collect();
    assert!(sites.len() >= 4);
    let numbers = [
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mprotect,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_clone,
        libc::SYS_seccomp,
        libc::SYS_sigaltstack,
        libc::SYS_getpid,
        libc::SYS_rt_sigreturn,
        libc::SYS_futex,
        libc::SYS_kill,
    ];
    let mut survived = 0;
    for &site in &sites {
        for nr in numbers {
            let (space, mut ctx) = (g.space(CALLS, 0), g.context());
            let mut r = noise.regs();
            (r.rip, r.rax) = (stub::CODE + site, nr as u64);
            if nr == libc::SYS_munmap {
                // What would hurt most.
                (r.rdi, r.rsi) = (0, 1 << 46);
            }
            let _dog = Watchdog::new(vec![ctx.interrupter()]);
            if ctx.switch(&space, &mut r) != Event::Lost {
                survived += 1;
                r = regs();
                while matches!(ctx.switch(&space, &mut r), Event::Interrupted) {}
                assert_eq!(r.rip, CODE + 2);
            }
        }
    }
    assert!(survived > 0);
    assert_eq!(other_ctx.switch(&other, &mut regs()), Event::Syscall);
}

/// What the host says of a stub from outside: its memory, and everything else that a call of its could have changed.
fn outside(space: &Arc<dyn AddressSpace>) -> (String, Vec<String>) {
    let pid = pid_of(space);
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).expect("proc");
    let kept = [
        "Name:",
        "Umask:",
        "Tgid:",
        "PPid:",
        "Uid:",
        "Gid:",
        "Groups:",
        "VmLck:",
        "Threads:",
        "SigIgn:",
        "SigCgt:",
        "SigBlk:",
        "CapEff:",
        "CapBnd:",
        "NoNewPrivs:",
        "Seccomp:",
        "Seccomp_filters:",
    ];
    let status = read("status");
    let status = status.lines().filter(|l| kept.iter().any(|k| l.starts_with(k))).map(str::to_owned);
    let links = ["cwd", "root", "ns/net", "ns/mnt"].map(|l| format!("{:?}", std::fs::read_link(format!("/proc/{pid}/{l}"))));
    let others = [read("limits"), read("timerslack_ns"), read("personality"), read("oom_score_adj")];
    (read("maps"), status.chain(links).chain(others).collect())
}

pub fn no_low_number_does_anything_from_anywhere(make: Make) {
    let g = Guest::new(make);
    let (other, mut other_ctx) = bystander(&g);
    let mut noise = Noise(5);
    let before_bystander = outside(&other);
    let image = {
        let mem = std::fs::File::open(format!("/proc/{}/mem", pid_of(&other))).expect("mem");
        let mut page = vec![0; PAGE_SIZE as usize];
        std::os::unix::fs::FileExt::read_exact_at(&mem, &mut page, stub::CODE).expect("read");
        page
    };
    let in_stub = image.windows(2).enumerate().filter(|(_, w)| *w == [0x0f, 0x05]).map(|(i, _)| stub::CODE + i as u64);
    for site in in_stub.chain([CODE]) {
        let (mut space, mut ctx) = (g.space(CALLS, 0), g.context());
        let mut before = None;
        let mut dog = Watchdog::new(vec![ctx.interrupter()]);
        // uretprobe(2) and uprobe(2) are exempt from every filter of the host, and do nothing.
        for nr in (0..500u64).filter(|n| !(335..=336).contains(n)) {
            if before.is_none() {
                while ctx.switch(&space, &mut regs()) != Event::Syscall {}
                before = Some(outside(&space));
            }
            let mut r = noise.regs();
            (r.rip, r.rax, r.rsp, r.eflags) = (site, nr, DATA, 0x202);
            // It was killed for what it did, or goes on as if nothing had happened.
            if ctx.switch(&space, &mut r) == Event::Lost {
                drop(dog);
                (space, ctx) = (g.space(CALLS, 0), g.context());
                dog = Watchdog::new(vec![ctx.interrupter()]);
                before = None;
            } else if nr % 16 == 0 {
                while ctx.switch(&space, &mut regs()) != Event::Syscall {}
                assert_eq!(Some(outside(&space)), before, "call {nr} at {site:#x}");
            }
        }
        if let Some(before) = before {
            while ctx.switch(&space, &mut regs()) != Event::Syscall {}
            assert_eq!(outside(&space), before, "at {site:#x}");
        }
        drop(dog);
    }
    assert_eq!(outside(&other), before_bystander);
    assert_eq!(other_ctx.switch(&other, &mut regs()), Event::Syscall);
}

pub fn jumps_into_the_stub(make: Make) {
    let g = Guest::new(make);
    let (other, mut other_ctx) = bystander(&g);
    let mut noise = Noise(3);
    let mut space = g.space(CALLS, 0);
    let mut ctx = g.context();
    let mut dog = Watchdog::new(vec![ctx.interrupter()]);
    for offset in (0..1536).chain((1536..PAGE_SIZE).step_by(64)) {
        let mut r = noise.regs();
        r.rip = stub::CODE + offset;
        for _ in 0..3 {
            if ctx.switch(&space, &mut r) == Event::Lost {
                drop(dog);
                space = g.space(CALLS, 0);
                ctx = g.context();
                dog = Watchdog::new(vec![ctx.interrupter()]);
                break;
            }
        }
    }
    drop(dog);
    assert_eq!(other_ctx.switch(&other, &mut regs()), Event::Syscall);
}

/// `loop: mov rdi, rbx; mov rcx, rbp; mov rax, rdx; rep stosb; rol rdx, 1; jmp loop`
pub const OVERWRITE: &[u8] = &[0x48, 0x89, 0xdf, 0x48, 0x89, 0xe9, 0x48, 0x89, 0xd0, 0xf3, 0xaa, 0x48, 0xd1, 0xc2, 0xeb, 0xf0];

pub fn overwrites_and_races(make: Make) {
    let g = Arc::new(Guest::new(make));
    let (other, mut other_ctx) = bystander(&g);
    let mut lost = 0;
    for round in 0..12u64 {
        let space = g.space(CALLS, 0);
        g.memory.copy_out(0x100, OVERWRITE).expect("copy");
        let mut ctx = g.context();
        if ctx.switch(&space, &mut regs()) != Event::Syscall {
            continue;
        }
        ctx.prepare_sibling(&space).expect("sibling");
        let (g2, space2) = (Arc::clone(&g), Arc::clone(&space));
        let (ready, is_ready) = mpsc::channel();
        let writer = host::thread::spawn("task", move || {
            let mut ctx = g2.context();
            let _ = ready.send(ctx.interrupter());
            let mut r = regs();
            // All of the first slot, its frame, what it shows, or a byte of it at a time.
            let (from, len) = [(0, 0x4000), (0x3b00, 0x200), (0x3f00, 0x100), (0x3000 + 8 * (round % 64), 1)][round as usize % 4];
            (r.rip, r.rbx, r.rbp, r.rdx) = (CODE + 0x100, SLOTS_BEGIN + from, len, 0x0123_4567_89ab_cdef >> round);
            for _ in 0..20 {
                let _ = ctx.switch(&space2, &mut r);
            }
        })
        .expect("spawn");
        let dog = Watchdog::new(vec![is_ready.recv().expect("started"), ctx.interrupter()]);
        let mut r = regs();
        for _ in 0..2000 {
            match ctx.switch(&space, &mut r) {
                Event::Lost => {
                    lost += 1;
                    break;
                }
                Event::Syscall | Event::Interrupted => {}
                Event::Fault(_) => r = regs(),
            }
        }
        writer.join().expect("join");
        drop(dog);
        assert_eq!(other_ctx.switch(&other, &mut regs()), Event::Syscall);
    }
    println!("{lost} of 12 were lost");
}
