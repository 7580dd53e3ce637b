//! The stub: the one page of our code in every guest address space, and how the first such address space comes to be.
//!
//! All stub processes have the page [`CODE`], readable and executable, and behind it [`OPS`], a few pages that the sentry writes
//! and the stub can only read. What a platform adds to them, and what the host lets a stub do, is its [`Confinement`].
//!
//! The entries here are for a tracer: it puts a stopped thread there and resumes it with `PTRACE_CONT`.

use crate::UserRegs;
use abi::Errno;
use std::os::fd::RawFd;

/// Where the code page is, in every stub; all below belongs to the application.
pub const CODE: u64 = 0x7fff_e000_0000;
/// Where the list of operations is, read-only.
pub const OPS: u64 = CODE + abi::PAGE_SIZE;
/// Bytes of the list, with what a platform keeps at its end.
pub const LIST_LEN: u64 = 4 * abi::PAGE_SIZE;
/// Bytes of the list and of what may follow it: pages that a platform does not use take no memory.
pub const OPS_LEN: u64 = LIST_LEN + (1 << 20);
/// Where words are, the same ones in all stubs and read-only, that threads sleep on.
pub const BEDS: u64 = CODE + 0x18_0000;
/// Bytes of them.
pub const BEDS_LEN: u64 = 64 << 10;
const _: () = assert!(OPS + OPS_LEN <= BEDS && BEDS.is_multiple_of(BEDS_LEN));
/// Bytes of one operation: a call's number, six arguments, and padding.
pub const OP_LEN: u64 = 64;
/// One past the last address of user space (47 bits, less the guard page).
pub const USER_END: u64 = 0x7fff_ffff_f000;

/// The host signal that makes a running stub thread stop for us. Ignored by default, so that one that arrives too late, when
/// nobody expects it any more, does no harm.
pub const INTERRUPT: i32 = libc::SIGURG;

/// How a thread is added to a stub process.
pub const CLONE_THREAD: u64 =
    (libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND | libc::CLONE_FILES | libc::CLONE_FS | libc::CLONE_SYSVSEM) as u64;
/// The same, the new thread being traced from its first instruction on by its maker's tracer.
pub const CLONE_TRACED_THREAD: u64 = CLONE_THREAD | libc::CLONE_PTRACE as u64;
/// How the zygote makes a stub process. The descriptor table stays the sentry's, so that numbers mean the same.
pub const CLONE_PROCESS: u64 = (libc::CLONE_FILES | libc::SIGCHLD) as u64;
/// How the zygote leaves the process that prepared it: see [`prepare`].
pub const CLONE_ZYGOTE: u64 = (libc::CLONE_FILES | libc::CLONE_VM | libc::CLONE_PARENT | libc::SIGCHLD) as u64;

core::arch::global_asm!(
    ".pushsection .rodata.caisson_stub,\"a\",@progbits",
    // The crate may be compiled in several units.
    ".globl caisson_stub_begin", ".hidden caisson_stub_begin",
    ".globl caisson_stub_syscall", ".hidden caisson_stub_syscall",
    ".globl caisson_stub_clone", ".hidden caisson_stub_clone",
    ".globl caisson_stub_idle", ".hidden caisson_stub_idle",
    ".globl caisson_stub_exit", ".hidden caisson_stub_exit",
    ".globl caisson_stub_batch", ".hidden caisson_stub_batch",
    ".globl caisson_stub_end", ".hidden caisson_stub_end",
    ".balign 64",
    "caisson_stub_begin:",
    // One system call, its registers set by the tracer.
    "caisson_stub_syscall:",
    "syscall",
    "caisson_stub_syscall_done:",
    "int3",
    // clone: the parent traps, the child idles.
    ".balign 16",
    "caisson_stub_clone:",
    "syscall",
    "test rax, rax",
    "jz caisson_stub_idle",
    "int3",
    // Waits for a tracer.
    ".balign 16",
    "caisson_stub_idle:",
    "mov eax, {pause}",
    "syscall",
    "jmp caisson_stub_idle",
    // Ends the thread.
    ".balign 16",
    "caisson_stub_exit:",
    "xor edi, edi",
    "mov eax, {exit}",
    "syscall",
    "int3",
    // Carries out operations from rbx on until r13 has counted to r12 or one fails: rax is its result then.
    ".balign 16",
    "caisson_stub_batch:",
    "2: cmp r13, r12",
    "jae 3f",
    "mov rax, [rbx]",
    "mov rdi, [rbx + 8]",
    "mov rsi, [rbx + 16]",
    "mov rdx, [rbx + 24]",
    "mov r10, [rbx + 32]",
    "mov r8, [rbx + 40]",
    "mov r9, [rbx + 48]",
    "syscall",
    "cmp rax, -4095",
    "jae 3f",
    "add rbx, {op_len}",
    "inc r13",
    "jmp 2b",
    "3: int3",
    "caisson_stub_end:",
    ".popsection",
    pause = const libc::SYS_pause,
    exit = const libc::SYS_exit,
    op_len = const OP_LEN,
);

unsafe extern "C" {
    static caisson_stub_begin: u8;
    static caisson_stub_syscall: u8;
    static caisson_stub_clone: u8;
    static caisson_stub_idle: u8;
    static caisson_stub_exit: u8;
    static caisson_stub_batch: u8;
    static caisson_stub_end: u8;
}

/// A place in the stub where the tracer may put a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// One system call, then a trap.
    Syscall,
    /// A `clone`, then a trap; the new thread idles.
    Clone,
    /// Idle for ever.
    Idle,
    /// End the thread.
    Exit,
    /// The operations of the list, then a trap.
    Batch,
}

impl Entry {
    /// Its address in a stub.
    pub fn address(self) -> u64 {
        let label = match self {
            Entry::Syscall => &raw const caisson_stub_syscall,
            Entry::Clone => &raw const caisson_stub_clone,
            Entry::Idle => &raw const caisson_stub_idle,
            Entry::Exit => &raw const caisson_stub_exit,
            Entry::Batch => &raw const caisson_stub_batch,
        };
        CODE + (label as u64 - &raw const caisson_stub_begin as u64)
    }

    /// The registers for going there; all others are zero.
    pub fn regs(self) -> UserRegs {
        // SAFETY: all-zero is a valid value of this plain structure.
        let mut regs: UserRegs = unsafe { std::mem::zeroed() };
        regs.rip = self.address();
        regs.cs = USER_CS;
        regs.ss = USER_SS;
        regs.eflags = 0x202;
        // Never restart what the thread was in.
        regs.orig_rax = u64::MAX;
        regs
    }

    /// The registers for a system call there.
    pub fn call(self, nr: i64, args: [u64; 6]) -> UserRegs {
        let mut regs = self.regs();
        regs.rax = nr as u64;
        [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = args;
        regs
    }
}

/// `__USER_CS`: the selector of 64-bit code.
pub const USER_CS: u64 = 0x33;
/// `__USER_DS`: the selector of its stack.
pub const USER_SS: u64 = 0x2b;

/// The content of the code page.
pub fn code() -> &'static [u8] {
    let begin = &raw const caisson_stub_begin;
    let len = &raw const caisson_stub_end as usize - begin as usize;
    // SAFETY: the assembler laid these bytes out between the two labels, in read-only data.
    unsafe { std::slice::from_raw_parts(begin, len) }
}

/// Whether `rip` points into the code page.
pub fn in_code(rip: u64) -> bool {
    (CODE..CODE + abi::PAGE_SIZE).contains(&rip)
}

/// What a stub is and may do.
pub struct Confinement {
    /// The content of the page [`CODE`]; begins with [`code`].
    pub image: Vec<u8>,
    /// What the host lets it do, for ever (seccomp).
    pub filter: Vec<libc::sock_filter>,
    /// Signals with the addresses of their handlers in the image. All others have their default action.
    pub handlers: Vec<(i32, u64)>,
}

/// `struct __user_cap_header_struct`, version 3.
#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

/// `struct sigaction` as the kernel takes it.
#[repr(C)]
struct KernelSigaction {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}

/// A raw system call in the forked child; on failure its name's letter is the exit status.
///
/// # Safety
/// The arguments are what the call takes.
unsafe fn must(step: u8, nr: i64, args: [usize; 6]) {
    // SAFETY: the caller's promise.
    let r = unsafe { libc::syscall(nr, args[0], args[1], args[2], args[3], args[4], args[5]) };
    if r < 0 {
        // SAFETY: ends the process.
        unsafe { libc::syscall(libc::SYS_exit_group, usize::from(step)) };
    }
}

/// Handlers get a siginfo, run on the thread's alternate stack, block nothing, and restart what they interrupt. The restorer is never
/// used, but the host wants one.
const HANDLER_FLAGS: u64 = (libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER | libc::SA_RESTART) as u64 | SA_RESTORER;
const SA_RESTORER: u64 = 0x0400_0000;

/// Forks a process that gives up all it can, maps the code page, confines itself and stops, traced by the calling thread.
///
/// It still has a copy of the sentry's memory, and restartable sequences registered in it: the tracer lets it make a process
/// that shares this memory but not that registration ([`CLONE_ZYGOTE`]), kills it, and unmaps the memory in the other.
pub fn prepare(code: RawFd, confinement: &Confinement) -> Result<i32, Errno> {
    let filter = &confinement.filter;
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // A copy of the calling thread alone. In it nothing may allocate or lock: only system calls follow.
    // SAFETY: as fork(2).
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_FILES | libc::SIGCHLD, 0, 0, 0, 0) };
    match pid {
        0 => confine(code, &program, &confinement.handlers),
        p if p > 0 => Ok(p as i32),
        _ => Err(host::last_errno()),
    }
}

/// The forked child's part of [`prepare`]. Each step has a letter, which is the exit status if it fails.
fn confine(code: RawFd, program: &libc::sock_fprog, handlers: &[(i32, u64)]) -> ! {
    let mut action = KernelSigaction { handler: libc::SIG_DFL, flags: 0, restorer: 0, mask: 0 };
    for sig in 1..=64 {
        // Children that end are reaped by nobody.
        action.handler = if sig == libc::SIGCHLD { libc::SIG_IGN } else { libc::SIG_DFL };
        if sig != libc::SIGKILL && sig != libc::SIGSTOP {
            let a = &raw const action as usize;
            // SAFETY: a valid kernel sigaction without a handler of ours.
            unsafe { must(b'a', libc::SYS_rt_sigaction, [sig as usize, a, 0, 8, 0, 0]) };
        }
    }
    for &(sig, handler) in handlers {
        action = KernelSigaction { handler: handler as usize, flags: HANDLER_FLAGS, restorer: CODE as usize, mask: 0 };
        let a = &raw const action as usize;
        // SAFETY: a valid kernel sigaction; the handler's address is mapped below, before any signal can come.
        unsafe { must(b'A', libc::SYS_rt_sigaction, [sig as usize, a, 0, 8, 0, 0]) };
    }
    // Only faults, the filter's traps and the interrupting signal come through; a Ctrl-C on the terminal does not.
    let open = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS, INTERRUPT];
    let mask = !open.iter().fold(0u64, |m, s| m | 1 << (s - 1));
    let limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let header = CapHeader { version: 0x2008_0522, pid: 0 };
    let no_capabilities = [0u32; 6];
    let prot = (libc::PROT_READ | libc::PROT_EXEC) as usize;
    let flags = (libc::MAP_SHARED | libc::MAP_FIXED) as usize;
    let at = |p: *const libc::c_void| p as usize;
    // SAFETY: every pointer is to a live local of the type the call takes; the mapping replaces, in this process's own
    // copy of the address space, at most the main thread's unused stack.
    unsafe {
        must(b'b', libc::SYS_rt_sigprocmask, [libc::SIG_SETMASK as usize, at((&raw const mask).cast()), 0, 8, 0, 0]);
        must(b'c', libc::SYS_prctl, [libc::PR_SET_PDEATHSIG as usize, libc::SIGKILL as usize, 0, 0, 0, 0]);
        must(b'd', libc::SYS_prctl, [libc::PR_SET_NO_NEW_PRIVS as usize, 1, 0, 0, 0, 0]);
        must(b'e', libc::SYS_prctl, [libc::PR_SET_NAME as usize, c"caisson-stub".as_ptr() as usize, 0, 0, 0, 0]);
        must(b'f', libc::SYS_setrlimit, [libc::RLIMIT_CORE as usize, at((&raw const limit).cast()), 0, 0, 0, 0]);
        must(b'g', libc::SYS_capset, [at((&raw const header).cast()), at((&raw const no_capabilities).cast()), 0, 0, 0, 0]);
        // The sentry has no capability either: it may trace only what may be dumped.
        must(b'h', libc::SYS_prctl, [libc::PR_SET_DUMPABLE as usize, 1, 0, 0, 0, 0]);
        must(b'i', libc::SYS_mmap, [CODE as usize, abi::PAGE_SIZE as usize, prot, flags, code as usize, 0]);
        must(b'j', libc::SYS_ptrace, [libc::PTRACE_TRACEME as usize, 0, 0, 0, 0, 0]);
        let program = at(std::ptr::from_ref(program).cast());
        must(b'k', libc::SYS_prctl, [libc::PR_SET_SECCOMP as usize, libc::SECCOMP_MODE_FILTER as usize, program, 0, 0, 0]);
    }
    // SAFETY: stops for the tracer, which never lets it go on from here.
    unsafe { core::arch::asm!("int3") };
    loop {
        // SAFETY: ends the process.
        unsafe { libc::syscall(libc::SYS_exit_group, 0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_fits_and_entries_lie_in_it() {
        assert!(code().len() < abi::PAGE_SIZE as usize);
        for e in [Entry::Syscall, Entry::Clone, Entry::Idle, Entry::Exit, Entry::Batch] {
            assert!(in_code(e.address()) && e.address() < CODE + code().len() as u64, "{e:?}");
        }
        assert_eq!(&code()[(Entry::Syscall.address() - CODE) as usize..][..3], [0x0f, 0x05, 0xcc]);
    }
}
