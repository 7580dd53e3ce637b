//! Copies and atomic operations on memory that may fault.
//!
//! Guest memory lives in shared mappings of files: a page beyond a truncated file's end, or one for which the host has no memory
//! left, raises SIGBUS; a read-only window raises SIGSEGV. Each routine here has known instructions that may fault. The
//! handlers that [`install`] sets up move the instruction pointer of such a fault to the routine's fixup, which reports it
//! as `EFAULT`. Any other fault goes to the action that was installed before (Rust's own, which knows stack overflows; else
//! the default one, which ends the process).
//!
//! The functions on raw pointers are private to the crate: [`Span`](crate::Span) is the safe face.

use abi::Errno;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

// Every routine: System V convention. A faulting instruction is named by a local label exported through the table at the end,
// as pairs of distances (instruction, fixup) from the table entry itself, so that no relocation is needed.
core::arch::global_asm!(
    ".pushsection .text.caisson_safecopy,\"ax\",@progbits",
    ".balign 16",
    // copy(dst rdi, src rsi, len rdx) -> bytes not copied
    "caisson_safe_copy:",
    "mov rcx, rdx",
    "cmp rdx, 16",
    "ja 30f",
    "test rdx, rdx",
    "jz 9f",
    // Short copies byte by byte: starting `rep movsb` costs more than this loop.
    "20: mov al, [rsi]",
    "21: mov [rdi], al",
    "inc rsi",
    "inc rdi",
    "dec rcx",
    "jnz 20b",
    "jmp 9f",
    // `rep movsb` is the fastest where both sides lie alike within their cache lines, and else, on AMD's processors, up to ten times slower than
    // this loop. After a fault in it, which must be reported to the byte, the rest is left to `rep movsb`, which meets it again.
    "30: cmp rdx, 64",
    "jb 10f",
    "mov eax, edi",
    "xor eax, esi",
    "test eax, 31",
    "jz 10f",
    // The processor itself does not look beyond a page. This cannot fault.
    "39: prefetcht0 [rsi + 1024]",
    "31: movups xmm0, [rsi]",
    "32: movups xmm1, [rsi + 16]",
    "33: movups xmm2, [rsi + 32]",
    "34: movups xmm3, [rsi + 48]",
    "35: movups [rdi], xmm0",
    "36: movups [rdi + 16], xmm1",
    "37: movups [rdi + 32], xmm2",
    "38: movups [rdi + 48], xmm3",
    "add rsi, 64",
    "add rdi, 64",
    "sub rcx, 64",
    "cmp rcx, 64",
    "jae 39b",
    "10: rep movsb",
    "9: mov rax, rcx",
    "ret",
    // zero(dst rdi, len rsi) -> bytes not zeroed
    ".balign 16",
    "caisson_safe_zero:",
    "mov rcx, rsi",
    "xor eax, eax",
    "11: rep stosb",
    "8: mov rax, rcx",
    "ret",
    // Atomics on a u32 (pointer rdi): the old value, or bit 32 set after a fault.
    ".balign 16",
    "caisson_safe_load:",
    "12: mov eax, [rdi]",
    "ret",
    ".balign 16",
    "caisson_safe_cmpxchg:",
    "mov eax, esi",
    "13: lock cmpxchg [rdi], edx",
    "mov eax, eax",
    "ret",
    ".balign 16",
    "caisson_safe_xchg:",
    "14: xchg [rdi], esi",
    "mov eax, esi",
    "ret",
    ".balign 16",
    "caisson_safe_xadd:",
    "15: lock xadd [rdi], esi",
    "mov eax, esi",
    "ret",
    "7: mov rax, 0x100000000",
    "ret",
    ".popsection",
    ".pushsection .rodata.caisson_safecopy,\"a\",@progbits",
    ".balign 8",
    "caisson_safe_table:",
    ".quad 10b - caisson_safe_table, 9b - caisson_safe_table",
    ".quad 20b - caisson_safe_table, 9b - caisson_safe_table",
    ".quad 21b - caisson_safe_table, 9b - caisson_safe_table",
    ".quad 31b - caisson_safe_table, 10b - caisson_safe_table",
    ".quad 32b - caisson_safe_table, 10b - caisson_safe_table",
    ".quad 33b - caisson_safe_table, 10b - caisson_safe_table",
    ".quad 34b - caisson_safe_table, 10b - caisson_safe_table",
    ".quad 35b - caisson_safe_table, 10b - caisson_safe_table",
    ".quad 36b - caisson_safe_table, 10b - caisson_safe_table",
    ".quad 37b - caisson_safe_table, 10b - caisson_safe_table",
    ".quad 38b - caisson_safe_table, 10b - caisson_safe_table",
    ".quad 11b - caisson_safe_table, 8b - caisson_safe_table",
    ".quad 12b - caisson_safe_table, 7b - caisson_safe_table",
    ".quad 13b - caisson_safe_table, 7b - caisson_safe_table",
    ".quad 14b - caisson_safe_table, 7b - caisson_safe_table",
    ".quad 15b - caisson_safe_table, 7b - caisson_safe_table",
    "caisson_safe_table_end:",
    ".popsection",
);

unsafe extern "sysv64" {
    fn caisson_safe_copy(dst: *mut u8, src: *const u8, len: usize) -> usize;
    fn caisson_safe_zero(dst: *mut u8, len: usize) -> usize;
    fn caisson_safe_load(p: *const u32) -> u64;
    fn caisson_safe_cmpxchg(p: *mut u32, old: u32, new: u32) -> u64;
    fn caisson_safe_xchg(p: *mut u32, new: u32) -> u64;
    fn caisson_safe_xadd(p: *mut u32, add: u32) -> u64;
    static caisson_safe_table: [i64; 2];
    static caisson_safe_table_end: [i64; 2];
}

/// The fixup for a fault at `rip`, if `rip` is one of ours. Async-signal-safe.
fn fixup(rip: u64) -> Option<u64> {
    let base = &raw const caisson_safe_table;
    let end = &raw const caisson_safe_table_end;
    let mut entry = base;
    while entry < end {
        // SAFETY: `entry` lies between the two ends of the table that the assembler laid out above.
        let [insn, fix] = unsafe { *entry };
        if (base as u64).wrapping_add_signed(insn) == rip {
            return Some((base as u64).wrapping_add_signed(fix));
        }
        entry = entry.wrapping_add(1);
    }
    None
}

/// The `struct sigaction` that was in force before ours, for SIGSEGV and SIGBUS, boxed and leaked.
static OLD: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];

extern "C" fn handler(sig: libc::c_int, info: *mut libc::siginfo_t, ctx: *mut libc::c_void) {
    let uc = ctx.cast::<libc::ucontext_t>();
    // SAFETY: the kernel passes a valid ucontext to an SA_SIGINFO handler, and nobody else looks at it meanwhile.
    let regs = unsafe { &mut (*uc).uc_mcontext.gregs };
    let rip = &mut regs[libc::REG_RIP as usize];
    if let Some(fix) = fixup(*rip as u64) {
        *rip = fix as i64;
        return;
    }
    report(sig, *rip as u64, info);
    let old = OLD[usize::from(sig == libc::SIGBUS)].load(Ordering::Acquire) as *const libc::sigaction;
    // SAFETY: `install` stored a leaked box before it set this handler up.
    let action = unsafe { old.as_ref() };
    match action {
        Some(a) if a.sa_sigaction != libc::SIG_DFL && a.sa_sigaction != libc::SIG_IGN => {
            // SAFETY: a handler address that sigaction(2) returned; both signatures agree in their first argument, and
            // one without SA_SIGINFO ignores the others.
            let f: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = unsafe { std::mem::transmute(a.sa_sigaction) };
            f(sig, info, ctx);
        }
        _ => {
            // The fault repeats when the handler returns, and then ends the process as it should.
            // SAFETY: resetting a signal to its default action touches no memory of ours.
            unsafe { libc::signal(sig, libc::SIG_DFL) };
        }
    }
}

/// Writes one line about a fault that is nobody's business but a bug's. Async-signal-safe: no allocation.
fn report(sig: libc::c_int, rip: u64, info: *const libc::siginfo_t) {
    // SAFETY: the kernel passes a valid siginfo; for SIGSEGV and SIGBUS si_addr is the member in use.
    let addr = unsafe { (*info).si_addr() } as u64;
    let mut line = *b"caisson: fatal fault: signal 00 at rip 0x0000000000000000, address 0x0000000000000000\n";
    let mut hex = |at: usize, v: u64| {
        for i in 0..16 {
            let digit = (v >> (60 - 4 * i) & 15) as u8;
            line[at + i] = if digit < 10 { b'0' + digit } else { b'a' + digit - 10 };
        }
    };
    hex(41, rip);
    hex(69, addr);
    line[29] = b'0' + (sig / 10 % 10) as u8;
    line[30] = b'0' + (sig % 10) as u8;
    // SAFETY: the buffer is valid for its length.
    unsafe { libc::write(2, line.as_ptr().cast(), line.len()) };
}

/// Installs the SIGSEGV and SIGBUS handlers, once per process. Whoever maps memory that may fault calls it, so calling it
/// by hand is only needed to have it done before a seccomp filter.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for (slot, sig) in [(0, libc::SIGSEGV), (1, libc::SIGBUS)] {
            // SAFETY: an all-zero sigaction is a valid value.
            let mut old: Box<libc::sigaction> = Box::new(unsafe { std::mem::zeroed() });
            // SAFETY: reads the present action into a valid place.
            unsafe { libc::sigaction(sig, std::ptr::null(), &mut *old) };
            OLD[slot].store(Box::into_raw(old) as usize, Ordering::Release);
            // SAFETY: as above.
            let mut new: libc::sigaction = unsafe { std::mem::zeroed() };
            new.sa_sigaction = handler as *const () as usize;
            new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            // SAFETY: `handler` is async-signal-safe and has the signature that SA_SIGINFO asks for.
            unsafe { libc::sigaction(sig, &new, std::ptr::null_mut()) };
        }
    });
}

/// Copies, and returns how many bytes could not be copied.
///
/// # Safety
/// Both ranges may be unmapped or unreadable, but must not overlap Rust objects other than those the caller may access this way:
/// `dst` is written to as far as it is writable.
pub(crate) unsafe fn copy(dst: *mut u8, src: *const u8, len: usize) -> usize {
    // SAFETY: the routine survives faults; the rest is the caller's promise.
    unsafe { caisson_safe_copy(dst, src, len) }
}

/// Zeroes, and returns how many bytes could not be zeroed.
///
/// # Safety
/// As for [`copy`].
pub(crate) unsafe fn zero(dst: *mut u8, len: usize) -> usize {
    // SAFETY: the routine survives faults; the rest is the caller's promise.
    unsafe { caisson_safe_zero(dst, len) }
}

/// An operation on an aligned u32 in memory that may fault, sequentially consistent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Atomic {
    Load,
    Swap(u32),
    Add(u32),
    CompareExchange { old: u32, new: u32 },
}

/// Carries out `op` and returns the value from before it.
///
/// # Safety
/// `p` is aligned to four bytes, and if mapped, then as memory that is shared with the application.
pub(crate) unsafe fn atomic(p: *mut u32, op: Atomic) -> Result<u32, Errno> {
    let r = match op {
        // SAFETY: the routine survives faults; the rest is the caller's promise.
        Atomic::Load => unsafe { caisson_safe_load(p) },
        // SAFETY: as above.
        Atomic::Swap(new) => unsafe { caisson_safe_xchg(p, new) },
        // SAFETY: as above.
        Atomic::Add(n) => unsafe { caisson_safe_xadd(p, n) },
        // SAFETY: as above.
        Atomic::CompareExchange { old, new } => unsafe { caisson_safe_cmpxchg(p, old, new) },
    };
    if r >> 32 == 0 { Ok(r as u32) } else { Err(Errno::EFAULT) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One mapped page followed by one that faults.
    fn half_mapped() -> *mut u8 {
        install();
        // SAFETY: a fresh anonymous mapping.
        let p = unsafe {
            libc::mmap(std::ptr::null_mut(), 8192, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
        };
        assert_ne!(p, libc::MAP_FAILED);
        // SAFETY: the second page of the mapping just made.
        assert_eq!(unsafe { libc::mprotect(p.byte_add(4096), 4096, libc::PROT_NONE) }, 0);
        p.cast()
    }

    #[test]
    fn copies_stop_at_the_fault() {
        let p = half_mapped();
        let mut buf = vec![7u8; 8192];
        for (off, len, left) in [(0, 4096, 0), (0, 8192, 4096), (4090, 16, 10), (4000, 97, 1), (4096, 1, 1), (5000, 100, 100), (0, 0, 0)] {
            // SAFETY: a mapping of this test's own.
            assert_eq!(unsafe { copy(p.add(off), buf.as_ptr(), len) }, left, "write {off}+{len}");
            // SAFETY: as above.
            assert_eq!(unsafe { copy(buf.as_mut_ptr(), p.add(off), len) }, left, "read {off}+{len}");
            // SAFETY: as above.
            assert_eq!(unsafe { zero(p.add(off), len) }, left, "zero {off}+{len}");
        }
    }

    #[test]
    fn copies_are_right_wherever_both_sides_lie() {
        let p = half_mapped();
        let from: Vec<u8> = (0..4096u32).map(|n| (n * 7 + (n >> 8)) as u8).collect();
        for (at, by) in (0..80).flat_map(|at| (0..80).map(move |by| (at, by))) {
            for len in [17, 63, 64, 127, 128, 129, 191, 192, 193, 1000] {
                // SAFETY: a mapping of this test's own.
                let there = unsafe {
                    zero(p, 4096);
                    assert_eq!(copy(p.add(at), from[by..].as_ptr(), len), 0);
                    std::slice::from_raw_parts(p, 4096)
                };
                assert_eq!(&there[at..at + len], &from[by..by + len], "{len} from {by} to {at}");
                assert!(there[..at].iter().chain(&there[at + len..]).all(|&b| b == 0), "{len} from {by} to {at}: beside");
            }
            // Up to the fault, whichever side it is on.
            let (len, room) = (1000, 300 + at);
            let mut to = vec![0; len];
            // SAFETY: as above.
            unsafe {
                let edge = p.add(4096 - room);
                assert_eq!(copy(edge, from[by..].as_ptr(), len), len - room);
                assert_eq!(std::slice::from_raw_parts(edge, room), &from[by..by + room]);
                assert_eq!(copy(to.as_mut_ptr(), edge, len), len - room);
            }
            assert_eq!(&to[..room], &from[by..by + room]);
        }
    }

    #[test]
    fn atomics_fault_or_work() {
        let p = half_mapped();
        let (good, bad) = (p.cast::<u32>(), p.wrapping_add(4096).cast::<u32>());
        // SAFETY: a mapping of this test's own, for all of these.
        unsafe {
            assert_eq!(atomic(good, Atomic::Swap(u32::MAX)), Ok(0));
            assert_eq!(atomic(good, Atomic::Add(2)), Ok(u32::MAX));
            assert_eq!(atomic(good, Atomic::CompareExchange { old: 5, new: 6 }), Ok(1));
            assert_eq!(atomic(good, Atomic::CompareExchange { old: 1, new: 6 }), Ok(1));
            assert_eq!(atomic(good, Atomic::Load), Ok(6));
            for op in [Atomic::Load, Atomic::Swap(1), Atomic::Add(1), Atomic::CompareExchange { old: 0, new: 1 }] {
                assert_eq!(atomic(bad, op), Err(Errno::EFAULT), "{op:?}");
            }
        }
    }
}
