//! What the stub page holds besides the tracer's entries: the signal handlers, the doorbell, the way back to the application.
//!
//! **Trust.** The code and its constants cannot be written by the application, the list of operations neither; everything else that it
//! reads is the application's prey. Control flow between an order of the sentry and its fulfilment depends on registers alone that the
//! host keeps.
//!
//! **The frame.** All handlers run on the thread's alternate stack, in a [slot](super::slots) shared with the sentry. The host
//! saves the application's whole state there, so a handler has nothing to save but the two segment bases. It rings: a system call
//! that the thread's filter turns into a notification, whose arguments tell where the frame is. The answer to it
//! is an order: the address of a frame to restore, or the same plus one for carrying out the list of operations.
//!
//! **Without a bell.** While the sentry looks at the slot, on another processor, the handler shows there what it would ring for, and looks
//! for the next order in a line that the sentry writes and the stub can only read. Its patience is limited: then it rings all the
//! same. Each order has a new number, and a ring tells the last one that the thread has seen, so that the sentry knows a ring that its
//! order has crossed.
//!
//! **No rt_sigreturn.** Handlers block no signal, so that there is no mask to restore; XRSTOR, WRFSBASE and IRETQ do the rest. So every
//! host call of such a thread, without exception, is a notification or a trap.

use crate::stub::{self, CODE, OPS, OPS_LEN};
use super::frame;
use super::slots::SLOT;

/// Where this code begins in the page; the tracer's entries are before it.
const BEGIN: usize = 512;
/// Where the thread's filter is in the page.
const FILTER: usize = 3072;
/// The number of the call that rings. Never carried out.
pub const RING_NR: i64 = libc::SYS_getpid;
/// Where in the operations file's part of a process the lines of orders are: one for each of its first slots. The stub can
/// only read them.
pub const LINES: u64 = 3 * abi::PAGE_SIZE;
/// Bytes of a line; what the processors pass between them.
pub const LINE: u64 = 64;
/// The line of all slots that have none of their own. It stays zero.
pub const NO_LINE: u64 = 62;
/// In a line, from its beginning: the last order, a number that each order changes.
pub const ORDER: u64 = 0;
/// In a line: not zero while the sentry looks at the slot, so that there is no need to ring.
pub const WATCH: u64 = 4;
/// In a line: how often the stub looks for an order before it rings all the same.
pub const PATIENCE: u64 = 8;
/// In an order: ring, then you get another one.
pub const KICK: u32 = 2;
/// Where in a slot a thread shows what it would ring for: the bases of fs and gs, why, and its last order.
pub const POST: u64 = SLOT - 256;
/// Where in the operations file's part of a process the argument of sigaltstack(2) is.
pub const STACK: u64 = OPS_LEN - 64;
/// Where in it the number of operations is.
pub const COUNT: u64 = OPS_LEN - 8;
/// Operations that fit before the lines.
pub const BATCH: usize = (LINES / stub::OP_LEN) as usize;
/// Where the slots of a process are mapped, one behind the other.
pub const SLOTS_BEGIN: u64 = CODE + 0x10_0000;
const _: () = assert!(LINES + (NO_LINE + 1) * LINE <= STACK && STACK + 24 <= COUNT && OPS + OPS_LEN <= SLOTS_BEGIN);
/// What is added to a frame's address in an order to carry out operations first.
pub const ORDER_BATCH: u64 = 1;

/// What a ring's fourth argument says: a fault or call is in the frame.
pub const EVENT: u64 = 0;
/// The sentry's signal came while an order was carried out; the frame is as the sentry left it.
pub const ORDER_INTERRUPTED: u64 = 1;
/// The signal came between an event and the ring for it; the event is in the frame.
pub const EVENT_INTERRUPTED: u64 = 2;
/// The signal came while the application ran; its state is in the frame.
pub const INTERRUPTED: u64 = 3;

core::arch::global_asm!(
    ".pushsection .rodata.caisson_trap,\"a\",@progbits",
    // The crate may be compiled in several units.
    ".globl caisson_trap_begin", ".hidden caisson_trap_begin",
    ".globl caisson_trap_fault", ".hidden caisson_trap_fault",
    ".globl caisson_trap_ring", ".hidden caisson_trap_ring",
    ".globl caisson_trap_rung", ".hidden caisson_trap_rung",
    ".globl caisson_trap_operated", ".hidden caisson_trap_operated",
    ".globl caisson_trap_done", ".hidden caisson_trap_done",
    ".globl caisson_trap_interrupt", ".hidden caisson_trap_interrupt",
    ".globl caisson_trap_xfeatures", ".hidden caisson_trap_xfeatures",
    ".globl caisson_trap_xsave", ".hidden caisson_trap_xsave",
    ".globl caisson_trap_frame", ".hidden caisson_trap_frame",
    ".globl caisson_trap_end", ".hidden caisson_trap_end",
    ".balign 64",
    "caisson_trap_begin:",
    // The line of orders (r9) for the slot that the frame rdi lies in. Changes rcx.
    ".macro caisson_trap_line",
    "movabs rcx, {slots}",
    "mov r9, rdi",
    "sub r9, rcx",
    "shr r9, {slot_shift}",
    "mov ecx, {no_line}",
    "cmp r9, rcx",
    "cmova r9, rcx",
    "shl r9, 6",
    "movabs rcx, {lines}",
    "add r9, rcx",
    ".endm",
    // A fault, or a system call of the application. rsp: the frame.
    "caisson_trap_fault:",
    "xor r10d, r10d",
    "caisson_trap_why_known:",
    "mov rdi, rsp",
    // rdi: the frame, r10: why. The order that was carried out last goes to r8.
    "5: caisson_trap_line",
    "mov r8d, [r9]",
    "caisson_trap_entered:",
    "2: rdfsbase rsi",
    "rdgsbase rdx",
    "caisson_trap_line",
    // Is the sentry looking at this thread's memory just now? Then show it there, and look for its answer for a while.
    "cmp dword ptr [r9 + {watch}], 0",
    "je caisson_trap_ring",
    "mov rbx, rdi",
    "and rbx, -{slot}",
    "mov [rbx + {post}], rsi",
    "mov [rbx + {post} + 8], rdx",
    "mov [rbx + {post} + 16], r10",
    "mov [rbx + {post} + 24], r8d",
    "mov ecx, [r9 + {patience}]",
    "3: mov eax, [r9]",
    "cmp eax, r8d",
    "jne 4f",
    "pause",
    "dec ecx",
    "jnz 3b",
    "jmp caisson_trap_ring",
    // A new order in memory: to ring, or to go on.
    "4: test al, {kick}",
    "cmovnz r8d, eax",
    "jnz caisson_trap_ring",
    "mov rax, rdi",
    "jmp caisson_trap_rung",
    // Rings. rdi: the frame, rsi and rdx: the bases, r10: why, r8: the last order.
    "caisson_trap_ring:",
    "mov eax, {ring}",
    "syscall",
    "caisson_trap_rung:",
    // The order. Afterwards rsp is on the alternate stack for certain.
    "mov rsp, rax",
    "and rsp, -8",
    "test al, {batch}",
    "jnz 6f",
    // Flags that would disturb this code itself: AC, NT.
    "push 2",
    "popfq",
    "mov eax, [rip + caisson_trap_xfeatures]",
    "mov edx, [rip + caisson_trap_xfeatures + 4]",
    "mov rcx, [rip + caisson_trap_xsave]",
    "xrstor64 [rsp + rcx]",
    "mov rax, [rsp + {fs}]",
    "wrfsbase rax",
    "mov rax, [rsp + {gs}]",
    "wrgsbase rax",
    "mov r8, [rsp + {regs}]",
    "mov r9, [rsp + {regs} + 8]",
    "mov r10, [rsp + {regs} + 16]",
    "mov r11, [rsp + {regs} + 24]",
    "mov r12, [rsp + {regs} + 32]",
    "mov r13, [rsp + {regs} + 40]",
    "mov r14, [rsp + {regs} + 48]",
    "mov r15, [rsp + {regs} + 56]",
    "mov rdi, [rsp + {regs} + 64]",
    "mov rsi, [rsp + {regs} + 72]",
    "mov rbp, [rsp + {regs} + 80]",
    "mov rbx, [rsp + {regs} + 88]",
    "mov rdx, [rsp + {regs} + 96]",
    // What iretq takes: rip, cs, rflags, rsp, ss.
    "sub rsp, 40",
    "mov rax, [rsp + 40 + {regs} + 128]",
    "mov [rsp], rax",
    "mov qword ptr [rsp + 8], {cs}",
    "mov rax, [rsp + 40 + {regs} + 136]",
    "mov [rsp + 16], rax",
    "mov rax, [rsp + 40 + {regs} + 120]",
    "mov [rsp + 24], rax",
    "mov qword ptr [rsp + 32], {ss}",
    "mov rax, [rsp + 40 + {regs} + 104]",
    "mov rcx, [rsp + 40 + {regs} + 112]",
    "iretq",
    // Carries out operations from the list until r13 has counted to r12 or one fails, and rings.
    "6: movabs rbx, {ops}",
    "mov r12, [rbx + {count}]",
    "xor r13d, r13d",
    "xor eax, eax",
    "7: cmp r13, r12",
    "jae 8f",
    "mov rax, [rbx]",
    "mov rdi, [rbx + 8]",
    "mov rsi, [rbx + 16]",
    "mov rdx, [rbx + 24]",
    "mov r10, [rbx + 32]",
    "mov r8, [rbx + 40]",
    "mov r9, [rbx + 48]",
    "syscall",
    "caisson_trap_operated:",
    "cmp rax, -4095",
    "jae 8f",
    "add rbx, {op_len}",
    "inc r13",
    "jmp 7b",
    "8: mov rdi, r13",
    "mov rsi, rax",
    "mov eax, {ring}",
    "syscall",
    "caisson_trap_done:",
    "jmp caisson_trap_rung",
    // The sentry's signal. rsp: the frame. If it interrupted the application, that is all; if it interrupted this page, the
    // application's frame is the one at the top of the stack.
    ".balign 16",
    "caisson_trap_interrupt:",
    "mov rax, [rsp + {regs} + 128]",
    "mov r11, [rsp + {regs}]",
    "mov rbx, [rsp + {regs} + 16]",
    "lea rcx, [rip + caisson_trap_begin]",
    "mov rdx, rax",
    "xor rdx, rcx",
    "shr rdx, 12",
    "mov r10d, {interrupted}",
    "mov rdi, rsp",
    "jnz 5b",
    "and rsp, -{slot}",
    "add rsp, [rip + caisson_trap_frame]",
    "mov rdi, rsp",
    "mov r10d, {order_interrupted}",
    "lea rcx, [rip + caisson_trap_rung]",
    "cmp rax, rcx",
    "jae 5b",
    "lea rcx, [rip + caisson_trap_why_known]",
    "cmp rax, rcx",
    "jb 8f",
    "cmp ebx, {order_interrupted}",
    "je 5b",
    "lea rcx, [rip + caisson_trap_entered]",
    "cmp rax, rcx",
    "jb 8f",
    // It had looked at its last order, and a new one has come: that was interrupted.
    "caisson_trap_line",
    "mov ecx, [r9]",
    "cmp ecx, r11d",
    "jne 5b",
    "mov r10d, {event_interrupted}",
    "mov r8d, r11d",
    "jmp 2b",
    "8: mov r10d, {event_interrupted}",
    "jmp 5b",
    ".balign 8",
    "caisson_trap_xfeatures: .quad 0",
    "caisson_trap_xsave: .quad 0",
    "caisson_trap_frame: .quad 0",
    "caisson_trap_end:",
    ".purgem caisson_trap_line",
    ".popsection",
    ring = const RING_NR,
    batch = const ORDER_BATCH,
    fs = const frame::FS,
    gs = const frame::GS,
    regs = const frame::REGS,
    cs = const stub::USER_CS,
    ss = const stub::USER_SS,
    ops = const OPS,
    count = const COUNT,
    op_len = const stub::OP_LEN,
    slot = const SLOT,
    slot_shift = const SLOT.trailing_zeros(),
    slots = const SLOTS_BEGIN,
    lines = const OPS + LINES,
    no_line = const NO_LINE,
    watch = const WATCH,
    patience = const PATIENCE,
    post = const POST,
    kick = const KICK,
    interrupted = const INTERRUPTED,
    order_interrupted = const ORDER_INTERRUPTED,
    event_interrupted = const EVENT_INTERRUPTED,
);

unsafe extern "C" {
    static caisson_trap_begin: u8;
    static caisson_trap_fault: u8;
    static caisson_trap_ring: u8;
    static caisson_trap_rung: u8;
    static caisson_trap_operated: u8;
    static caisson_trap_done: u8;
    static caisson_trap_interrupt: u8;
    static caisson_trap_xfeatures: u8;
    static caisson_trap_xsave: u8;
    static caisson_trap_frame: u8;
    static caisson_trap_end: u8;
}

/// A place in the code, as an address in a stub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The handler of faults and trapped calls.
    Fault,
    /// The handler of the sentry's signal.
    Interrupt,
    /// Where a new thread begins.
    Ring,
    /// Behind the call that rings.
    Rung,
    /// Behind the call of an operation.
    Operated,
    /// Behind the call that reports what became of the operations.
    Done,
}

fn offset(label: *const u8) -> usize {
    BEGIN + (label as usize - &raw const caisson_trap_begin as usize)
}

impl Place {
    /// Its address in every stub.
    pub fn address(self) -> u64 {
        let label = match self {
            Place::Fault => &raw const caisson_trap_fault,
            Place::Interrupt => &raw const caisson_trap_interrupt,
            Place::Ring => &raw const caisson_trap_ring,
            Place::Rung => &raw const caisson_trap_rung,
            Place::Operated => &raw const caisson_trap_operated,
            Place::Done => &raw const caisson_trap_done,
        };
        CODE + offset(label) as u64
    }

    /// The place that a notification came from.
    pub fn of(ip: u64) -> Option<Place> {
        [Place::Rung, Place::Operated, Place::Done].into_iter().find(|p| p.address() == ip)
    }
}

/// The address of the thread's filter in a stub, as seccomp(2) takes it.
pub const PROGRAM: u64 = CODE + FILTER as u64;

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = image.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// The content of the stub page.
pub fn image(geometry: &frame::Geometry) -> Vec<u8> {
    let mut image = vec![0; abi::PAGE_SIZE as usize];
    put(&mut image, 0, stub::code());
    let begin = &raw const caisson_trap_begin;
    let len = &raw const caisson_trap_end as usize - begin as usize;
    // SAFETY: the assembler laid these bytes out between the two labels, in read-only data.
    put(&mut image, BEGIN, unsafe { std::slice::from_raw_parts(begin, len) });
    put(&mut image, offset(&raw const caisson_trap_xfeatures), &geometry.xfeatures.to_le_bytes());
    put(&mut image, offset(&raw const caisson_trap_xsave), &geometry.xsave.to_le_bytes());
    put(&mut image, offset(&raw const caisson_trap_frame), &geometry.frame.to_le_bytes());
    let filter = super::filter::of_threads();
    put(&mut image, FILTER, &(filter.len() as u16).to_le_bytes());
    put(&mut image, FILTER + 8, &(PROGRAM + 16).to_le_bytes());
    for (i, f) in filter.iter().enumerate() {
        let at = FILTER + 16 + 8 * i;
        put(&mut image, at, &f.code.to_le_bytes());
        put(&mut image, at + 2, &[f.jt, f.jf]);
        put(&mut image, at + 4, &f.k.to_le_bytes());
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_fits_the_page() {
        assert!(stub::code().len() <= BEGIN);
        assert!(offset(&raw const caisson_trap_end) <= FILTER);
        assert!(FILTER + 16 + 8 * super::super::filter::of_threads().len() <= abi::PAGE_SIZE as usize);
        let image = image(&frame::Geometry { xfeatures: 7, xsave: 448, frame: 0x3000, xsave_len: 832 });
        for p in [Place::Rung, Place::Operated, Place::Done] {
            let at = (p.address() - CODE) as usize;
            assert_eq!(image[at - 2..at], [0x0f, 0x05], "{p:?}");
            assert_eq!(Place::of(p.address()), Some(p));
        }
        assert_eq!(Place::of(Place::Ring.address()), None);
    }
}
