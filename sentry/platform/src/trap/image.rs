//! The stub page as bytes, and the places in it.

use super::frame;
use crate::UserRegs;
use crate::stub::{self, CODE};

/// Where the code of [`code`](super::code) begins in the page; the tracer's entries are before it.
const BEGIN: usize = 512;
/// Where the thread's filter is in the page.
const FILTER: usize = 3072;

unsafe extern "C" {
    static caisson_trap_begin: u8;
    static caisson_trap_fault: u8;
    static caisson_trap_rung: u8;
    static caisson_trap_entered: u8;
    static caisson_trap_woken: u8;
    static caisson_trap_slept: u8;
    static caisson_trap_ended: u8;
    static caisson_trap_roused: u8;
    static caisson_trap_rested: u8;
    static caisson_trap_silent: u8;
    static caisson_trap_operated: u8;
    static caisson_trap_done: u8;
    static caisson_trap_operator: u8;
    static caisson_trap_reported: u8;
    static caisson_trap_carried: u8;
    static caisson_trap_interrupt: u8;
    static caisson_trap_xfeatures: u8;
    static caisson_trap_xsave: u8;
    static caisson_trap_frame: u8;
    static caisson_trap_end: u8;
    static caisson_trap_leaving: u8;
    static caisson_trap_foreign: u8;
    static caisson_trap_foreign_clean: u8;
    static caisson_trap_call: u8;
    static caisson_trap_dirty: u8;
    static caisson_trap_clean: u8;
    static caisson_trap_answer_clean: u8;
    static caisson_trap_answered: u8;
    static caisson_trap_ask: u8;
    static caisson_trap_entering: u8;
}

/// A place in the code, as an address in a stub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The handler of faults and trapped calls.
    Fault,
    /// The handler of the sentry's signal.
    Interrupt,
    /// Where a new thread begins.
    Entered,
    /// Behind the call that wakes the sentry.
    Woken,
    /// Behind the call that sleeps until there is an order.
    Slept,
    /// Behind the call that ends a thread without a listener.
    Ended,
    /// Behind the call that wakes who is to run next.
    Roused,
    /// Behind the call that sleeps in a bed.
    Rested,
    /// Behind the call that rings.
    Rung,
    /// Behind the call of an operation.
    Operated,
    /// Behind the call that reports what became of the operations.
    Done,
    /// Where the calls of patched sites come.
    Call,
    /// Where the operator begins.
    Operator,
    /// Behind the call by which the operator rings.
    Reported,
    /// Behind the call of an operation that the operator carries out.
    Carried,
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
            Place::Entered => &raw const caisson_trap_entered,
            Place::Woken => &raw const caisson_trap_woken,
            Place::Slept => &raw const caisson_trap_slept,
            Place::Ended => &raw const caisson_trap_ended,
            Place::Roused => &raw const caisson_trap_roused,
            Place::Rested => &raw const caisson_trap_rested,
            Place::Rung => &raw const caisson_trap_rung,
            Place::Operated => &raw const caisson_trap_operated,
            Place::Done => &raw const caisson_trap_done,
            Place::Call => &raw const caisson_trap_call,
            Place::Operator => &raw const caisson_trap_operator,
            Place::Reported => &raw const caisson_trap_reported,
            Place::Carried => &raw const caisson_trap_carried,
        };
        CODE + offset(label) as u64
    }

    /// The place that a notification came from.
    pub fn of(ip: u64) -> Option<Place> {
        [Place::Rung, Place::Operated, Place::Done, Place::Reported].into_iter().find(|p| p.address() == ip)
    }
}

/// The arithmetic flags: OF, and those that LAHF knows.
const OVERFLOW: u64 = 0x800;
const LOW_FLAGS: u64 = 0xd5;

/// Whether a thread that a signal found in the page with the application's stack pointer was about something of ours: mends its flags and number, and
/// puts it in front of its call or, if that is done, behind it. What the registers say is the application's word, and only it will be deceived.
pub fn underway(regs: &mut UserRegs) -> bool {
    let Some(at) = regs.rip.checked_sub(CODE).and_then(|o| usize::try_from(o).ok()) else {
        return false;
    };
    let within = |from: *const u8, to: *const u8| (offset(from)..offset(to)).contains(&at);
    if !within(&raw const caisson_trap_leaving, &raw const caisson_trap_entering) {
        return false;
    }
    regs.rip = regs.rcx;
    if within(&raw const caisson_trap_leaving, &raw const caisson_trap_foreign) || at == offset(&raw const caisson_trap_answered) {
        return true;
    }
    regs.rip = regs.rcx.wrapping_sub(2);
    let cleanings = [
        (&raw const caisson_trap_foreign, &raw const caisson_trap_foreign_clean),
        (&raw const caisson_trap_dirty, &raw const caisson_trap_answer_clean),
        (&raw const caisson_trap_ask, &raw const caisson_trap_clean),
    ];
    if let Some((_, clean)) = cleanings.into_iter().find(|&(from, to)| within(from, to)) {
        let mut kept = regs.rax >> 8 & LOW_FLAGS;
        // At the very last, SAHF, the addition has made OF what it was.
        kept |= if at + 1 == offset(clean) { regs.eflags & OVERFLOW } else { (regs.rax & 1) * OVERFLOW };
        regs.eflags = regs.eflags & !(OVERFLOW | LOW_FLAGS) | kept;
    }
    // The number is turned round from behind the first BSWAP up to the second.
    let turned = at != offset(&raw const caisson_trap_call)
        && (within(&raw const caisson_trap_call, &raw const caisson_trap_clean)
            || within(&raw const caisson_trap_foreign, &raw const caisson_trap_foreign_clean)
            || [&raw const caisson_trap_clean, &raw const caisson_trap_foreign_clean].into_iter().any(|l| at == offset(l)));
    let number = if turned { regs.rax.swap_bytes() } else { regs.rax };
    regs.rax = i64::from(number as i32).cast_unsigned();
    true
}

/// Bytes of a trampoline.
pub const TRAMPOLINE: u64 = 32;
/// Bytes of an instruction that fits one.
pub const LONGEST_MOVED: usize = 16;

/// A trampoline, to be placed `at` bytes behind the word that holds the address of [`Place::Call`]: what was moved there from before the call, and the
/// jump with the address `back` behind it.
pub fn trampoline(at: u64, moved: &[u8], back: u64) -> [u8; TRAMPOLINE as usize] {
    let mut t = [0xcc; TRAMPOLINE as usize];
    let mut code = moved.to_vec();
    // movabs rcx, back
    code.extend([0x48, 0xb9]);
    code.extend(back.to_le_bytes());
    // jmp [rip + word]
    let end = code.len() as u64 + 6;
    code.extend([0xff, 0x25]);
    code.extend((-((at + end) as i64) as i32).to_le_bytes());
    put(&mut t, 0, &code);
    t
}

/// The address of the thread's filter in a stub, as seccomp(2) takes it.
pub const PROGRAM: u64 = CODE + FILTER as u64;
/// The same of the operator's.
pub const OPERATORS_PROGRAM: u64 = PROGRAM + 512;

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = image.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// The content of the stub page. `silent`: threads have no listener.
pub fn image(geometry: &frame::Geometry, silent: bool) -> Vec<u8> {
    let mut image = vec![0; abi::PAGE_SIZE as usize];
    put(&mut image, 0, stub::code());
    let begin = &raw const caisson_trap_begin;
    let len = &raw const caisson_trap_end as usize - begin as usize;
    // SAFETY: the assembler laid these bytes out between the two labels, in read-only data.
    put(&mut image, BEGIN, unsafe { std::slice::from_raw_parts(begin, len) });
    put(&mut image, offset(&raw const caisson_trap_xfeatures), &geometry.xfeatures.to_le_bytes());
    put(&mut image, offset(&raw const caisson_trap_xsave), &geometry.xsave.to_le_bytes());
    put(&mut image, offset(&raw const caisson_trap_frame), &geometry.frame.to_le_bytes());
    put(&mut image, offset(&raw const caisson_trap_silent), &[silent.into()]);
    let program = super::filter::program(&super::filter::of_threads(), PROGRAM);
    put(&mut image, FILTER, &program);
    let program = super::filter::program(&super::filter::of_operator(), OPERATORS_PROGRAM);
    put(&mut image, (OPERATORS_PROGRAM - CODE) as usize, &program);
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_fits_the_page() {
        assert!(stub::code().len() <= BEGIN);
        assert!(offset(&raw const caisson_trap_end) <= FILTER);
        assert!(PROGRAM + 16 + 8 * super::super::filter::of_threads().len() as u64 <= OPERATORS_PROGRAM);
        assert!(OPERATORS_PROGRAM + 16 + 8 * super::super::filter::of_operator().len() as u64 <= CODE + abi::PAGE_SIZE);
        let geometry = frame::Geometry { xfeatures: 7, xsave: 448, frame: 0x3000, xsave_len: 832 };
        let image = image(&geometry, false);
        let notifying = [Place::Rung, Place::Operated, Place::Done, Place::Reported];
        let passed = [Place::Woken, Place::Slept, Place::Ended, Place::Carried, Place::Roused, Place::Rested];
        for p in notifying.into_iter().chain(passed) {
            let at = (p.address() - CODE) as usize;
            assert_eq!(image[at - 2..at], [0x0f, 0x05], "{p:?}");
            assert_eq!(Place::of(p.address()), notifying.contains(&p).then_some(p));
        }
        assert_eq!(Place::of(Place::Entered.address()), None);
    }
}
