//! The host's signal frame, as the sentry finds it in the memory that it shares with a stub (`struct rt_sigframe`).
//!
//! What is read there is the application's word: it is copied once, and nothing is believed that the application could not do
//! to itself anyway.

use super::slots::{SLOT, Slot};
use crate::fpu::Layout;
use crate::stub::{USER_CS, USER_END, USER_SS};
use crate::{FpState, UserRegs};
use abi::Errno;

/// Offset of the general registers (`uc_mcontext`) in a frame, whose address is the handler's first stack pointer.
pub const REGS: u64 = 48;
/// Offset of the place for the base of fs: `reserved1` of `uc_mcontext`, which the host leaves alone.
pub const FS: u64 = REGS + 192;
/// Offset of the place for the base of gs.
pub const GS: u64 = FS + 8;
/// Offset of the siginfo.
const INFO: usize = 312;
/// Bytes of what is read from a frame: up to the end of the siginfo's first fields.
const READ: usize = INFO + 40;
/// Bytes of the whole frame without the extended state.
const FRAME: u64 = 440;
/// Bytes behind the extended state (`FP_XSTATE_MAGIC2`).
const MAGIC2: u64 = 4;
/// Bytes at the end of a slot that are not for frames.
pub const OWN: u64 = 1024;
/// `struct sigaltstack` of a slot.
pub const STACK_LEN: u64 = SLOT - OWN;

/// Where things lie in a slot when the host has put a frame on its empty stack.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// The features that the host saves: XCR0.
    pub xfeatures: u64,
    /// The extended state, from the frame.
    pub xsave: u64,
    /// The frame, from the slot.
    pub frame: u64,
    /// Bytes of the extended state.
    pub xsave_len: u64,
}

impl Geometry {
    /// As this processor and the host's kernel make it (`get_sigframe` and `fpu__alloc_mathframe` in arch/x86).
    pub fn new(xfeatures: u64) -> Geometry {
        let mut xsave_len = 576;
        for feature in 2..63 {
            if xfeatures & 1 << feature != 0 {
                let leaf = std::arch::x86_64::__cpuid_count(0xd, feature);
                xsave_len = xsave_len.max(u64::from(leaf.ebx) + u64::from(leaf.eax));
            }
        }
        let state = (STACK_LEN - xsave_len - MAGIC2) & !63;
        let frame = ((state - FRAME) & !15) - 8;
        Geometry { xfeatures, xsave: state - frame, frame, xsave_len }
    }
}

/// What a frame says.
pub struct Saved {
    /// The registers, but for the bases of fs and gs. `orig_rax` is -1.
    pub regs: UserRegs,
    /// Signal number.
    pub signal: i32,
    /// `si_code`.
    pub code: i32,
    /// `si_addr`, or the address behind the trapped call.
    pub addr: u64,
    /// `si_syscall` of a trapped call: its number.
    pub nr: i32,
    /// `si_arch` of a trapped call.
    pub arch: u32,
    /// The processor's error code, for page faults only.
    pub page_fault: Option<u64>,
}

/// `X86_TRAP_PF`
const PAGE_FAULT: u64 = 14;
/// Flags that are the application's: arithmetic, TF, DF, AC, ID, NT.
const USER_FLAGS: u64 = 0x24_4dd5;
/// IF and the bit that is always one.
const FIXED_FLAGS: u64 = 0x202;

fn u64_at(b: &[u8], at: usize) -> u64 {
    b.get(at..at + 8).and_then(|s| s.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    b.get(at..at + 4).and_then(|s| s.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// Registers with nothing in them.
pub fn no_regs() -> UserRegs {
    // SAFETY: all-zero is a valid value of this plain structure.
    unsafe { std::mem::zeroed() }
}

/// Reads the frame of a slot.
pub fn read(slot: &Slot, geometry: &Geometry) -> Result<Saved, Errno> {
    let mut b = [0u8; READ];
    slot.copy_in(geometry.frame, &mut b)?;
    let reg = |i: usize| u64_at(&b, REGS as usize + 8 * i);
    let mut r = no_regs();
    (r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15) = (reg(0), reg(1), reg(2), reg(3), reg(4), reg(5), reg(6), reg(7));
    (r.rdi, r.rsi, r.rbp, r.rbx, r.rdx, r.rax, r.rcx) = (reg(8), reg(9), reg(10), reg(11), reg(12), reg(13), reg(14));
    (r.rsp, r.rip, r.eflags) = (reg(15), reg(16), reg(17) & USER_FLAGS | FIXED_FLAGS);
    (r.cs, r.ss, r.orig_rax) = (USER_CS, USER_SS, u64::MAX);
    Ok(Saved {
        regs: r,
        signal: u32_at(&b, INFO).cast_signed(),
        code: u32_at(&b, INFO + 8).cast_signed(),
        addr: u64_at(&b, INFO + 16),
        nr: u32_at(&b, INFO + 24).cast_signed(),
        arch: u32_at(&b, INFO + 28),
        page_fault: (reg(20) == PAGE_FAULT).then(|| reg(19)),
    })
}

/// Writes registers to the frame of a slot, such that the stub can load them. `area`: where the slot is in the stub, which is what the base of
/// gs is as long as the application has not set it.
pub fn write(slot: &Slot, geometry: &Geometry, r: &UserRegs, area: u64) -> Result<(), Errno> {
    let base = |b: u64| if b < USER_END { b } else { 0 };
    let eflags = r.eflags & USER_FLAGS | FIXED_FLAGS;
    let words = [
        r.r8,
        r.r9,
        r.r10,
        r.r11,
        r.r12,
        r.r13,
        r.r14,
        r.r15,
        r.rdi,
        r.rsi,
        r.rbp,
        r.rbx,
        r.rdx,
        r.rax,
        r.rcx,
        r.rsp,
        r.rip,
        eflags,
        0,
        0,
        0,
        0,
        0,
        0,
        base(r.fs_base),
        if r.gs_base == 0 { area } else { base(r.gs_base) },
    ];
    let mut b = [0u8; 26 * 8];
    for (place, word) in b.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    slot.copy_out(geometry.frame + REGS, &b)
}

/// Reads the extended state of a frame, in the form that `layout` describes.
pub fn read_fp(slot: &Slot, geometry: &Geometry, layout: &Layout) -> Result<FpState, Errno> {
    let mut b = vec![0; geometry.xsave_len as usize];
    slot.copy_in(geometry.frame + geometry.xsave, &mut b)?;
    Ok(layout.mended(b))
}

/// Writes the extended state to a frame.
pub fn write_fp(slot: &Slot, geometry: &Geometry, state: &FpState) -> Result<(), Errno> {
    let len = state.0.len().min(geometry.xsave_len as usize);
    slot.copy_out(geometry.frame + geometry.xsave, state.0.get(..len).unwrap_or_default())
}
