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
//! **Without a signal.** A call site that was patched ([`patch`](super::patch)) comes to `caisson_trap_call` by a jump. It finds its thread's slot by
//! the base of gs, answers from there what the sentry has published, and else writes the registers where a signal's frame would have
//! them. The extended state stays in the processor until somebody asks for it: an order says whether it is to be loaded.
//!
//! **Without a bell.** While the sentry looks at the slot, on another processor, the handler shows there what it would ring for, and looks
//! for the next order in a line that the sentry writes and the stub can only read. Its patience is limited: then it rings all the
//! same. Each order has a new number, and a ring tells the last one that the thread has seen, so that the sentry knows a ring that its
//! order has crossed.
//!
//! **The operator** is a thread that never runs application code: it carries out what the sentry has put into the list, as many operations as the
//! answer to its ring says, and rings with what became of them. It uses registers and memory that the application cannot write, and nothing else.
//!
//! **Without a listener**, where the host has none that suits, the handler shows every event in its slot, and both sides sleep on words of the memory that
//! they share (futex(2)). Such a thread carries out no operations; nothing depends on what it does but itself.
//!
//! **No rt_sigreturn.** Handlers block no signal, so that there is no mask to restore; XRSTOR, WRFSBASE and IRETQ do the rest. So every
//! host call of such a thread is a notification or a trap, but for two calls of futex(2): to sleep on one of the [beds](super::beds), and to wake
//! who sleeps there; without a listener, on the thread's own words.

use super::frame;
use super::slots::SLOT;
use super::thread::THREADS;
use crate::stub::{self, CODE, LIST_LEN, OPS, OPS_LEN};

/// The number of the call that rings. Never carried out.
pub const RING_NR: i64 = libc::SYS_getpid;
/// Where in the operations file's part of a process the lines of orders are, one for each of its slots. The stub can only read them.
pub const LINES: u64 = LIST_LEN;
/// Bytes of a line; what the processors pass between them.
pub const LINE: u64 = 64;
/// In a line, from its beginning: the last order, a number that each order changes.
pub const ORDER: u64 = 0;
/// In a line: not zero while the sentry looks at the slot, so that there is no need to ring. [`IN_TURNS`]: nor to ring when patience ends, but to go to bed.
pub const WATCH: u64 = 4;
/// In a line: how often the stub looks for an order before it rings all the same.
pub const PATIENCE: u64 = 8;
/// In a line: not zero while the sentry sleeps until the slot shows something, where there is no listener.
pub const ASLEEP: u64 = 12;
/// In a line: the address of the bed where others are to be woken before one goes to bed, or zero.
pub const ROUSE: u64 = 16;
/// In a line: the address of the thread's own bed.
pub const BED: u64 = 24;
/// See [`WATCH`].
pub const IN_TURNS: u32 = 2;
/// In an order: the extended state is in the processor, not in the frame.
pub const LIVE: u32 = 1;
/// In an order: ring, then you get another one. Without a listener: end.
pub const KICK: u32 = 2;
/// In an order: registers are as a call leaves them, go back by a jump.
pub const JUMP: u32 = 4;
/// In an order: go to bed, until there is another one.
pub const SLEEP: u32 = KICK | JUMP;
/// What an order's number grows by.
pub const STEP: u32 = 8;
/// Where in a slot a thread shows what it would ring for: the bases of fs and gs, why, and its last order.
pub const POST: u64 = SLOT - frame::OWN;
/// Where in a slot is not zero while the thread sleeps until there is an order.
pub const POST_ASLEEP: u64 = POST + 28;
/// Where in a slot the answers to calls are, in the order of their numbers: 32 bits each, zero for none, or else one more than the answer.
pub const ANSWERS: u64 = SLOT - ANSWER_COUNT * 4;
/// How many there are.
pub const ANSWER_COUNT: u64 = 192;
const _: () = assert!(POST + 32 <= ANSWERS);
/// Where in the operations file's part of a process the argument of sigaltstack(2) is.
pub const STACK: u64 = LIST_LEN - 64;
/// Where in it the number of operations is.
pub const COUNT: u64 = LIST_LEN - 8;
/// Where in it the filter of a new thread is.
pub const FILTER: u64 = STACK - 1024;
/// Where the operations are that equip a new thread.
pub const EQUIP: u64 = FILTER - EQUIP_COUNT * stub::OP_LEN;
/// So many.
pub const EQUIP_COUNT: u64 = 3;
/// Operations that fit before these.
pub const BATCH: usize = (EQUIP / stub::OP_LEN) as usize;
/// Where the slots of a process are mapped, one behind the other.
pub const SLOTS_BEGIN: u64 = CODE + 0x20_0000;
const _: () = assert!(LINES + THREADS * LINE <= OPS_LEN && STACK + 24 <= COUNT && OPS + OPS_LEN <= SLOTS_BEGIN);
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
/// A call of a patched site: the general registers are in the frame, with the call's number in rax.
pub const CALL: u64 = 4;
/// The same, and the signal came before the ring for it.
pub const CALL_INTERRUPTED: u64 = 5;
/// Where in a frame the pointer to the extended state is.
const STATE: u64 = frame::REGS + 184;

core::arch::global_asm!(
    ".pushsection .rodata.caisson_trap,\"a\",@progbits",
    // The crate may be compiled in several units.
    ".globl caisson_trap_begin", ".hidden caisson_trap_begin",
    ".globl caisson_trap_fault", ".hidden caisson_trap_fault",
    ".globl caisson_trap_rung", ".hidden caisson_trap_rung",
    ".globl caisson_trap_operated", ".hidden caisson_trap_operated",
    ".globl caisson_trap_done", ".hidden caisson_trap_done",
    ".globl caisson_trap_operator", ".hidden caisson_trap_operator",
    ".globl caisson_trap_reported", ".hidden caisson_trap_reported",
    ".globl caisson_trap_carried", ".hidden caisson_trap_carried",
    ".globl caisson_trap_interrupt", ".hidden caisson_trap_interrupt",
    ".globl caisson_trap_entered", ".hidden caisson_trap_entered",
    ".globl caisson_trap_woken", ".hidden caisson_trap_woken",
    ".globl caisson_trap_slept", ".hidden caisson_trap_slept",
    ".globl caisson_trap_ended", ".hidden caisson_trap_ended",
    ".globl caisson_trap_roused", ".hidden caisson_trap_roused",
    ".globl caisson_trap_rested", ".hidden caisson_trap_rested",
    ".globl caisson_trap_silent", ".hidden caisson_trap_silent",
    ".globl caisson_trap_xfeatures", ".hidden caisson_trap_xfeatures",
    ".globl caisson_trap_xsave", ".hidden caisson_trap_xsave",
    ".globl caisson_trap_frame", ".hidden caisson_trap_frame",
    ".globl caisson_trap_end", ".hidden caisson_trap_end",
    ".globl caisson_trap_leaving", ".hidden caisson_trap_leaving",
    ".globl caisson_trap_foreign", ".hidden caisson_trap_foreign",
    ".globl caisson_trap_foreign_clean", ".hidden caisson_trap_foreign_clean",
    ".globl caisson_trap_call", ".hidden caisson_trap_call",
    ".globl caisson_trap_dirty", ".hidden caisson_trap_dirty",
    ".globl caisson_trap_clean", ".hidden caisson_trap_clean",
    ".globl caisson_trap_answer_clean", ".hidden caisson_trap_answer_clean",
    ".globl caisson_trap_answered", ".hidden caisson_trap_answered",
    ".globl caisson_trap_ask", ".hidden caisson_trap_ask",
    ".globl caisson_trap_entering", ".hidden caisson_trap_entering",
    ".balign 64",
    "caisson_trap_begin:",
    // The line of orders (r9) for the slot that the frame rdi lies in. Changes rcx.
    ".macro caisson_trap_line",
    "movabs rcx, {slots}",
    "mov r9, rdi",
    "sub r9, rcx",
    "shr r9, {slot_shift}",
    "shl r9, 6",
    "movabs rcx, {lines}",
    "add r9, rcx",
    ".endm",
    // A fault, or a system call of the application. rsp: the frame.
    "caisson_trap_fault:",
    "xor r15d, r15d",
    "caisson_trap_why_known:",
    "mov rdi, rsp",
    // rdi: the frame, r15: why. The order that was carried out last goes to r8.
    "5: caisson_trap_line",
    "mov r8d, [r9]",
    "caisson_trap_entered:",
    // A signal's own frame is not needed any more.
    "2: mov rsp, rdi",
    "rdfsbase rsi",
    "rdgsbase rdx",
    "caisson_trap_line",
    "cmp byte ptr [rip + caisson_trap_silent], 0",
    "jne caisson_trap_silently",
    // Is the sentry looking at this thread's memory just now, and was not the last order to ring, which the sentry's signal may have come before?
    // Then show it there, and look for its answer for a while.
    "cmp dword ptr [r9 + {watch}], 0",
    "je caisson_trap_complete",
    "mov eax, r8d",
    "and eax, {sleep}",
    "cmp eax, {kick}",
    "je caisson_trap_complete",
    "mov rbx, rdi",
    "and rbx, -{slot}",
    "mov [rbx + {post}], rsi",
    "mov [rbx + {post} + 8], rdx",
    "mov [rbx + {post} + 16], r15",
    "mov [rbx + {post} + 24], r8d",
    "mov ecx, [r9 + {patience}]",
    "3: mov eax, [r9]",
    "cmp eax, r8d",
    "jne 4f",
    "pause",
    "dec ecx",
    "jnz 3b",
    "cmp dword ptr [r9 + {watch}], {in_turns}",
    "je caisson_trap_to_bed",
    "jmp caisson_trap_complete",
    // A new order in memory: to ring, to sleep, or to go on.
    "4: test al, {kick}",
    "jnz caisson_trap_dismissed",
    "test al, {jump}",
    "jnz caisson_trap_jump",
    "test al, {live}",
    "mov rax, rdi",
    "jz caisson_trap_rung",
    "jmp caisson_trap_live",
    // To ring, or to sleep: on a word of one's own, after having woken who is to run next on this processor.
    "caisson_trap_dismissed:",
    "mov r8d, eax",
    "test al, {jump}",
    "jz caisson_trap_complete",
    "mov rdi, [r9 + {rouse}]",
    "test rdi, rdi",
    "jz caisson_trap_to_bed",
    "mov esi, {wake}",
    "mov edx, {all}",
    "mov eax, {futex}",
    "syscall",
    "caisson_trap_roused:",
    "caisson_trap_to_bed: mov eax, 1",
    "xchg [rbx + {post_asleep}], eax",
    "mov rdi, [r9 + {bed}]",
    "caisson_trap_lying: mov edx, [rdi]",
    "mov eax, [r9]",
    "cmp eax, r8d",
    "jne caisson_trap_up",
    "xor esi, esi",
    "xor r10d, r10d",
    "mov eax, {futex}",
    "syscall",
    "caisson_trap_rested:",
    "jmp caisson_trap_lying",
    "caisson_trap_up: mov dword ptr [rbx + {post_asleep}], 0",
    "mov rdi, rsp",
    "rdfsbase rsi",
    "rdgsbase rdx",
    "jmp 4b",
    // Without a listener: shows what has happened, wakes the sentry if it sleeps, looks for the order for a while, and sleeps. The registers of
    // the application are in the frame; its extended state goes there too. Order (r8) and reason (r15) stay where the interrupt's handler finds them.
    "caisson_trap_silently:",
    "mov rbx, rdi",
    "and rbx, -{slot}",
    "mov [rbx + {post}], rsi",
    "mov [rbx + {post} + 8], rdx",
    "mov [rbx + {post} + 16], r15",
    "cmp r15d, {call}",
    "jb caisson_trap_whole",
    "mov eax, [rip + caisson_trap_xfeatures]",
    "mov edx, [rip + caisson_trap_xfeatures + 4]",
    "mov rcx, [rip + caisson_trap_xsave]",
    "xsave64 [rdi + rcx]",
    "caisson_trap_whole: mov r12, rdi",
    "mov eax, r8d",
    "xchg [rbx + {post} + 24], eax",
    "cmp dword ptr [r9 + {asleep}], 0",
    "je caisson_trap_look",
    "lea rdi, [rbx + {post} + 24]",
    "mov esi, {wake}",
    "mov edx, 1",
    "mov eax, {futex}",
    "syscall",
    "caisson_trap_woken:",
    "caisson_trap_look: mov ecx, [r9 + {patience}]",
    "caisson_trap_turn: mov eax, [r9]",
    "cmp eax, r8d",
    "jne caisson_trap_told",
    "pause",
    "dec ecx",
    "jg caisson_trap_turn",
    "mov eax, 1",
    "xchg [rbx + {post_asleep}], eax",
    "caisson_trap_sleep: mov eax, [r9]",
    "cmp eax, r8d",
    "jne caisson_trap_told",
    "mov rdi, r9",
    "xor esi, esi",
    "mov edx, r8d",
    "xor r10d, r10d",
    "mov eax, {futex}",
    "syscall",
    "caisson_trap_slept:",
    "jmp caisson_trap_sleep",
    "caisson_trap_told: mov dword ptr [rbx + {post_asleep}], 0",
    "test al, {kick}",
    "mov rax, r12",
    "jz caisson_trap_rung",
    // There is to be an end.
    "xor edi, edi",
    "mov eax, {exit}",
    "syscall",
    "caisson_trap_ended:",
    "ud2",
    // Before it rings, the extended state goes to the frame if it is still in the processor: after a call, or where the
    // sentry's signal came while an order was carried out that had left it there.
    "caisson_trap_complete:",
    "cmp r15d, {call}",
    "jae 3f",
    "cmp r15d, {order_interrupted}",
    "jne caisson_trap_ring",
    "test r8b, {live}",
    "jz caisson_trap_ring",
    "3: mov rbx, rdx",
    "mov eax, [rip + caisson_trap_xfeatures]",
    "mov edx, [rip + caisson_trap_xfeatures + 4]",
    "mov rcx, [rip + caisson_trap_xsave]",
    "xsave64 [rdi + rcx]",
    "mov rdx, rbx",
    // Rings. rdi: the frame, rsi and rdx: the bases, r15: why, r8: the last order.
    "caisson_trap_ring:",
    "mov r10, r15",
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
    "9: mov rax, [rsp + {fs}]",
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
    // The operator: tells how many operations it has carried out (r13) and what the last one gave (rax), is told how many there are now, and carries
    // them out until one fails. If the sentry is gone it has nothing to do any more.
    "caisson_trap_operator:",
    "10: mov rdi, r13",
    "mov rsi, rax",
    "mov eax, {ring}",
    "syscall",
    "caisson_trap_reported:",
    "test rax, rax",
    "js 12f",
    "movabs rbx, {ops}",
    "mov r12, rax",
    "xor r13d, r13d",
    "xor eax, eax",
    "11: cmp r13, r12",
    "jae 10b",
    "mov rax, [rbx]",
    "mov rdi, [rbx + 8]",
    "mov rsi, [rbx + 16]",
    "mov rdx, [rbx + 24]",
    "mov r10, [rbx + 32]",
    "mov r8, [rbx + 40]",
    "mov r9, [rbx + 48]",
    "syscall",
    "caisson_trap_carried:",
    "cmp rax, -4095",
    "jae 10b",
    "add rbx, {op_len}",
    "inc r13",
    "jmp 11b",
    "12: ud2",
    // Goes on from the frame rsp, the extended state being in the processor.
    "caisson_trap_live:",
    "mov rsp, rax",
    "push 2",
    "popfq",
    "jmp 9b",
    // Goes on behind a call from the frame rdi, as `sysret` would.
    "caisson_trap_jump:",
    "mov rsp, rdi",
    "mov r8, [rsp + {regs}]",
    "mov r9, [rsp + {regs} + 8]",
    "mov r10, [rsp + {regs} + 16]",
    "mov r12, [rsp + {regs} + 32]",
    "mov r13, [rsp + {regs} + 40]",
    "mov r14, [rsp + {regs} + 48]",
    "mov r15, [rsp + {regs} + 56]",
    "mov rdi, [rsp + {regs} + 64]",
    "mov rsi, [rsp + {regs} + 72]",
    "mov rbp, [rsp + {regs} + 80]",
    "mov rbx, [rsp + {regs} + 88]",
    "mov rdx, [rsp + {regs} + 96]",
    "mov r11, [rsp + {regs} + 136]",
    "push r11",
    "popfq",
    "mov rax, [rsp + {regs} + 104]",
    "mov rcx, [rsp + {regs} + 128]",
    "mov rsp, [rsp + {regs} + 120]",
    // From here to `entering`, rsp is the application's: a signal finds it as if the application ran, and the sentry knows how to go
    // on from each instruction.
    "caisson_trap_leaving:",
    "jmp rcx",
    // gs is not ours: the application has its own. The site's own `syscall` does it. The flags are in ax, the rest of rax is turned round.
    "caisson_trap_foreign:",
    "add al, 0x7f",
    "sahf",
    "caisson_trap_foreign_clean:",
    "bswap rax",
    "movsxd rax, eax",
    "lea r11, [rcx - 2]",
    "jmp r11",
    // A patched site's call. rcx: the address behind it, rax: its number. `syscall` would change rcx and r11, so that they are free; the flags
    // are kept in ax meanwhile, which the number, whose lower half alone counts, makes room for.
    ".balign 16",
    "caisson_trap_call:",
    "bswap rax",
    "lahf",
    "seto al",
    "caisson_trap_dirty:",
    "rdgsbase r11",
    "sub r11, [rip + caisson_trap_slots]",
    "cmp r11, {slots_len}",
    "jae caisson_trap_foreign",
    "test r11d, {slot} - 1",
    "jnz caisson_trap_foreign",
    "mov r11, rax",
    "bswap r11",
    "mov r11d, r11d",
    "cmp r11d, {answer_count}",
    "jae caisson_trap_ask",
    "mov r11d, dword ptr gs:[r11 * 4 + {answers}]",
    "test r11d, r11d",
    "jz caisson_trap_ask",
    "add al, 0x7f",
    "sahf",
    "caisson_trap_answer_clean:",
    "lea eax, [r11 - 1]",
    "caisson_trap_answered:",
    "jmp rcx",
    "caisson_trap_ask:",
    "rdgsbase r11",
    "add r11, [rip + caisson_trap_frame]",
    "add al, 0x7f",
    "sahf",
    "caisson_trap_clean:",
    "bswap rax",
    "movsxd rax, eax",
    "mov [r11 + {regs} + 120], rsp",
    "mov rsp, r11",
    "caisson_trap_entering:",
    "jmp caisson_trap_switched",
    // The sentry's signal came between `entering` and `kept`: all registers again as they were, from the signal's frame.
    // (PUSHFQ moves rsp by 8 for a moment; frames lie 8 bytes behind a multiple of 16, so that a bit says by how much.)
    "caisson_trap_again:",
    "or qword ptr [rsp + {regs} + 120], 8",
    "mov rbx, [rsp + {state}]",
    "mov eax, [rip + caisson_trap_xfeatures]",
    "mov edx, [rip + caisson_trap_xfeatures + 4]",
    "xrstor64 [rbx]",
    "push qword ptr [rsp + {regs} + 136]",
    "popfq",
    "mov r8, [rsp + {regs}]",
    "mov r9, [rsp + {regs} + 8]",
    "mov r10, [rsp + {regs} + 16]",
    "mov r12, [rsp + {regs} + 32]",
    "mov r13, [rsp + {regs} + 40]",
    "mov r14, [rsp + {regs} + 48]",
    "mov r15, [rsp + {regs} + 56]",
    "mov rdi, [rsp + {regs} + 64]",
    "mov rsi, [rsp + {regs} + 72]",
    "mov rbp, [rsp + {regs} + 80]",
    "mov rbx, [rsp + {regs} + 88]",
    "mov rdx, [rsp + {regs} + 96]",
    "mov rax, [rsp + {regs} + 104]",
    "mov rcx, [rsp + {regs} + 112]",
    "mov rsp, [rsp + {regs} + 120]",
    "caisson_trap_switched:",
    "pushfq",
    "pop r11",
    "mov [rsp + {regs} + 136], r11",
    "mov [rsp + {regs} + 24], r11",
    "mov [rsp + {regs} + 104], rax",
    "mov [rsp + {regs} + 112], rcx",
    "mov [rsp + {regs} + 128], rcx",
    "mov [rsp + {regs}], r8",
    "mov [rsp + {regs} + 8], r9",
    "mov [rsp + {regs} + 16], r10",
    "mov [rsp + {regs} + 32], r12",
    "mov [rsp + {regs} + 40], r13",
    "mov [rsp + {regs} + 48], r14",
    "mov [rsp + {regs} + 56], r15",
    "mov [rsp + {regs} + 64], rdi",
    "mov [rsp + {regs} + 72], rsi",
    "mov [rsp + {regs} + 80], rbp",
    "mov [rsp + {regs} + 88], rbx",
    "mov [rsp + {regs} + 96], rdx",
    "caisson_trap_kept:",
    "mov rdi, rsp",
    "mov r15d, {call}",
    "jmp 5b",
    // The sentry's signal. rsp: its frame. If it interrupted the application, that is all; if it interrupted this page, the
    // application's frame is the one at the top of the stack. Up to `decided` rsp stays, so that one which interrupts this begins again.
    ".balign 16",
    "caisson_trap_interrupt:",
    "mov r12, [rsp + {regs} + 128]",
    "mov r11, [rsp + {regs}]",
    "mov rbx, [rsp + {regs} + 56]",
    "lea rcx, [rip + caisson_trap_begin]",
    "mov rdx, r12",
    "xor rdx, rcx",
    "shr rdx, 12",
    "mov r15d, {interrupted}",
    "mov rdi, rsp",
    "jnz 5b",
    "lea rcx, [rip + caisson_trap_leaving]",
    "cmp r12, rcx",
    "jb 3f",
    "lea rcx, [rip + caisson_trap_entering]",
    "cmp r12, rcx",
    "jb 5b",
    "lea rcx, [rip + caisson_trap_again]",
    "cmp r12, rcx",
    "jb caisson_trap_again",
    "lea rcx, [rip + caisson_trap_switched]",
    "cmp r12, rcx",
    "jb 4f",
    "lea rcx, [rip + caisson_trap_kept]",
    "cmp r12, rcx",
    "jb caisson_trap_again",
    "lea rcx, [rip + caisson_trap_interrupt]",
    "cmp r12, rcx",
    "jb 3f",
    "lea rcx, [rip + caisson_trap_decided]",
    "cmp r12, rcx",
    "jae 3f",
    "4: mov rsp, [rsp + {regs} + 120]",
    "or rsp, 8",
    "jmp caisson_trap_interrupt",
    // The extended state of the application may have been in the processor.
    "3: mov rcx, [rsp + {state}]",
    "mov eax, [rip + caisson_trap_xfeatures]",
    "mov edx, [rip + caisson_trap_xfeatures + 4]",
    "xrstor64 [rcx]",
    "and rdi, -{slot}",
    "add rdi, [rip + caisson_trap_frame]",
    // Between `kept` and the handler: a call, not shown yet.
    "lea rcx, [rip + caisson_trap_kept]",
    "cmp r12, rcx",
    "mov eax, {call}",
    "cmovae ebx, eax",
    "jae 8f",
    "mov r15d, {order_interrupted}",
    "lea rcx, [rip + caisson_trap_rung]",
    "cmp r12, rcx",
    "jae 5b",
    "lea rcx, [rip + caisson_trap_why_known]",
    "cmp r12, rcx",
    "mov eax, {event}",
    "cmovb ebx, eax",
    "jb 8f",
    "cmp ebx, {order_interrupted}",
    "je 5b",
    "lea rcx, [rip + caisson_trap_entered]",
    "cmp r12, rcx",
    "jb 8f",
    // It had looked at its last order, and a new one has come: that was interrupted.
    "caisson_trap_line",
    "mov ecx, [r9]",
    "cmp ecx, r11d",
    "jne 5b",
    "mov r15d, {event_interrupted}",
    "mov eax, {call_interrupted}",
    "cmp ebx, {call}",
    "cmovae r15d, eax",
    "mov r8d, r11d",
    "jmp 2b",
    "8: mov r15d, {event_interrupted}",
    "mov eax, {call_interrupted}",
    "cmp ebx, {call}",
    "cmovae r15d, eax",
    "jmp 5b",
    "caisson_trap_decided:",
    ".balign 8",
    "caisson_trap_xfeatures: .quad 0",
    "caisson_trap_xsave: .quad 0",
    "caisson_trap_frame: .quad 0",
    "caisson_trap_slots: .quad {slots}",
    "caisson_trap_silent: .quad 0",
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
    watch = const WATCH,
    patience = const PATIENCE,
    asleep = const ASLEEP,
    rouse = const ROUSE,
    bed = const BED,
    in_turns = const IN_TURNS,
    all = const i32::MAX,
    post_asleep = const POST_ASLEEP,
    futex = const libc::SYS_futex,
    exit = const libc::SYS_exit,
    wake = const libc::FUTEX_WAKE,
    post = const POST,
    kick = const KICK,
    sleep = const SLEEP,
    live = const LIVE,
    jump = const JUMP,
    call = const CALL,
    call_interrupted = const CALL_INTERRUPTED,
    event = const EVENT,
    answers = const ANSWERS,
    answer_count = const ANSWER_COUNT,
    slots_len = const THREADS * SLOT,
    state = const STATE,
    interrupted = const INTERRUPTED,
    order_interrupted = const ORDER_INTERRUPTED,
    event_interrupted = const EVENT_INTERRUPTED,
);
