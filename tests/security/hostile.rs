//! An application that knows where the stub is, and means harm. Every call that it tries has arguments that the sentry never orders, so that a trace of
//! the host's calls shows whether one of them was carried out.
//!
//! `caisson-hostile` prints `done` when all attempts have been made; how they end is the sentry's affair.

// Raw calls, jumps to anywhere and writes to memory of others are what this program is for; it runs no code that others depend on.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]

use std::arch::{asm, global_asm};
use std::ptr;

/// Where the stub has its code, its list of operations, and the memory of its first threads: the same in every process.
const STUB: usize = 0x7fff_e000_0000;
const LIST: usize = STUB + 0x1000;
const SLOTS: usize = 0x7fff_e020_0000;
const SLOT: usize = 16 << 10;
/// No address that anything is mapped at, no process, no length that anybody wants; the trace is searched for its upper half.
const MARK: u64 = 0x5ca1_5ca1_5001;
/// How long one attempt may take, in microseconds: the calls that wait do.
const PATIENCE: i64 = 6_000;
/// Calls that no filter of the host is asked about: uretprobe(2) and uprobe(2), which do nothing.
const EXEMPT: std::ops::RangeInclusive<u64> = 335..=336;

// Loads all registers of a call, and makes it at the address in r15.
global_asm!(
    ".globl hostile_call",
    "hostile_call:",
    "mov rax, rdi",
    "mov r15, rsi",
    "mov rdi, rdx",
    "lea rsi, [rdx + 8]",
    "lea r10, [rdx + 24]",
    "lea r8, [rdx + 32]",
    "lea r9, [rdx + 40]",
    "lea rdx, [rdx + 16]",
    "jmp r15",
    ".globl hostile_site",
    "hostile_site:",
    "syscall",
    "ret",
);

unsafe extern "C" {
    fn hostile_call(nr: u64, site: usize, mark: u64) -> u64;
    fn hostile_site();
}

/// Runs `attempt` in a process of its own, which does not live long.
fn attempt(attempt: impl FnOnce()) {
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        attempt();
        unsafe { libc::_exit(0) };
    }
    assert!(pid > 0, "fork failed");
    set_timer(PATIENCE);
    // The timer's signal interrupts the wait.
    while unsafe { libc::waitpid(pid, ptr::null_mut(), libc::__WALL) } != pid {
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    set_timer(0);
}

/// SIGALRM after so many microseconds, and again and again; 0: not any more.
fn set_timer(micros: i64) {
    let value = libc::timeval { tv_sec: 0, tv_usec: micros };
    let timer = libc::itimerval { it_interval: value, it_value: value };
    unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, ptr::null_mut()) };
}

extern "C" fn interrupt(_: i32) {}

/// The `syscall` instructions of the stub, which everybody can read.
fn stub_sites() -> Vec<usize> {
    let byte = |at: usize| unsafe { ptr::read_volatile(at as *const u8) };
    (STUB..STUB + 0xfff).filter(|&at| byte(at) == 0x0f && byte(at + 1) == 0x05).collect()
}

/// Every number, from everywhere that makes calls.
fn calls() {
    let own = hostile_site as *const () as usize;
    for site in stub_sites().into_iter().chain([own]) {
        for nr in (0..500).filter(|nr| !EXEMPT.contains(nr)) {
            attempt(|| {
                unsafe { hostile_call(nr, site, MARK) };
            });
        }
    }
}

/// Calls that the stub does carry out, with plausible arguments: what its code and its list are would be the application's to change.
fn forbidden_maps() {
    let all = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    let fixed = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    for at in [STUB, LIST, SLOTS] {
        attempt(|| unsafe {
            let at = at as *mut libc::c_void;
            libc::munmap(at, 0x1000);
            libc::mprotect(at, 0x1000, all);
            libc::mmap(at, 0x1000, all, fixed, -1, 0);
            libc::mremap(at, 0x1000, 0x2000, libc::MREMAP_MAYMOVE);
            libc::madvise(at, 0x1000, libc::MADV_DONTNEED);
        });
    }
}

/// Writes over all that the stub's threads share with the sentry while another thread makes calls and maps memory.
fn overwrite() {
    for round in 0..24u64 {
        attempt(|| {
            let writer = std::thread::spawn(move || {
                let mut noise = 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(round + 1);
                for _ in 0..64 {
                    for at in (SLOTS..SLOTS + 2 * SLOT).step_by(8) {
                        noise ^= noise << 13;
                        noise ^= noise >> 7;
                        noise ^= noise << 17;
                        let word = if noise & 7 == 0 { MARK } else { noise };
                        unsafe { ptr::write_volatile(at as *mut u64, word) };
                    }
                }
            });
            let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            for _ in 0..200 {
                unsafe {
                    let at = libc::mmap(ptr::null_mut(), 0x4000, libc::PROT_READ, anonymous, -1, 0);
                    libc::mprotect(at, 0x2000, libc::PROT_READ | libc::PROT_WRITE);
                    libc::getppid();
                    libc::munmap(at, 0x4000);
                }
            }
            let _ = writer.join();
        });
    }
}

/// Jumps to every place of the stub, its registers full of marks.
fn jumps() {
    for at in (STUB..STUB + 0x1000).step_by(3) {
        attempt(|| unsafe {
            asm!(
                "mov rbx, rax", "mov rcx, rax", "mov rdx, rax", "mov rsi, rax", "mov rdi, rax", "mov rbp, rax", "mov r8, rax",
                "mov r9, rax", "mov r10, rax", "mov r11, rax", "mov r12, rax", "mov r13, rax", "mov r14, rax", "jmp r15",
                in("rax") MARK, in("r15") at, options(noreturn)
            )
        });
    }
}

fn main() {
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = interrupt as *const () as usize;
    unsafe { libc::sigaction(libc::SIGALRM, &raw const action, ptr::null_mut()) };
    for (name, attempts) in [("calls", calls as fn()), ("maps", forbidden_maps), ("jumps", jumps), ("overwrite", overwrite)] {
        println!("{name}");
        attempts();
    }
    println!("done");
}
