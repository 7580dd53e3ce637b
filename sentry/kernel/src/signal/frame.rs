//! The signal frame of x86-64 on the application's stack (arch/x86/kernel/signal_64.c), and the way back from it.

use crate::task::CurrentTask;
use crate::user::{UserAddr, UserRef};
use abi::signal::{SigAction, SigInfo, SigSet, Signal, StackT};
use abi::{Result, bail};
use platform::{FpState, UserRegs};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const SA_ONSTACK: u64 = 0x0800_0000;
const SA_RESTORER: u64 = 0x0400_0000;
const SA_NODEFER: u64 = 0x4000_0000;
const SS_AUTODISARM: u32 = 1 << 31;
const SS_ONSTACK: u32 = libc::SS_ONSTACK as u32;
const SS_DISABLE: u32 = libc::SS_DISABLE as u32;

const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
const FP_XSTATE_MAGIC2: u32 = 0x4650_5845;
/// Where `struct _fpx_sw_bytes` lies in the legacy area.
const SW_BYTES: usize = 464;
/// The legacy area (FXSAVE), and the XSAVE header behind it.
const LEGACY: usize = 512;
const XSAVE_HEADER: usize = 64;

/// Bytes below the stack pointer that the ABI leaves to leaf functions.
const RED_ZONE: u64 = 128;
const USER_CS: u64 = 0x33;
const USER_DS: u64 = 0x2b;
/// `UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS`
const UC_FLAGS: u64 = 7;
/// Flags that sigreturn may change: AC, RF, OF, DF, TF, SF, ZF, AF, PF, CF.
const FIX_EFLAGS: u64 = 0x40000 | 0x10000 | 0x800 | 0x400 | 0x100 | 0x80 | 0x40 | 0x10 | 0x4 | 0x1;

/// `struct sigcontext`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct SigContext {
    r8: u64,
    r9: u64,
    r10: u64,
    r11: u64,
    r12: u64,
    r13: u64,
    r14: u64,
    r15: u64,
    di: u64,
    si: u64,
    bp: u64,
    bx: u64,
    dx: u64,
    ax: u64,
    cx: u64,
    sp: u64,
    ip: u64,
    flags: u64,
    cs: u16,
    gs: u16,
    fs: u16,
    ss: u16,
    err: u64,
    trapno: u64,
    oldmask: u64,
    cr2: u64,
    fpstate: u64,
    reserved: [u64; 8],
}

/// `struct ucontext`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct UContext {
    flags: u64,
    link: u64,
    stack: StackT,
    mcontext: SigContext,
    sigmask: SigSet,
}

/// `struct rt_sigframe`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Frame {
    pretcode: u64,
    uc: UContext,
    info: SigInfo,
}

/// What the processor said of the last fault (`trapno`, `err` and `cr2` of the frame).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct TrapInfo {
    pub number: u64,
    pub error_code: u64,
    pub cr2: u64,
}

/// Whether `sp` lies on the alternate stack (`__on_sig_stack`).
fn is_within(stack: &StackT, sp: u64) -> bool {
    sp > stack.sp && sp - stack.sp <= stack.size
}

/// As `is_within`, but a stack that disarms itself is never in use while it is armed (`on_sig_stack`).
pub(crate) fn on_altstack(stack: &StackT, sp: u64) -> bool {
    stack.flags & SS_AUTODISARM == 0 && is_within(stack, sp)
}

/// `sas_ss_flags`: 0, `SS_ONSTACK` or `SS_DISABLE`.
pub(crate) fn altstack_state(stack: &StackT, sp: u64) -> u32 {
    if stack.size == 0 {
        SS_DISABLE
    } else if on_altstack(stack, sp) {
        SS_ONSTACK
    } else {
        0
    }
}

fn context_of(regs: &UserRegs, trap: TrapInfo, mask: SigSet, fpstate: u64) -> SigContext {
    SigContext {
        r8: regs.r8,
        r9: regs.r9,
        r10: regs.r10,
        r11: regs.r11,
        r12: regs.r12,
        r13: regs.r13,
        r14: regs.r14,
        r15: regs.r15,
        di: regs.rdi,
        si: regs.rsi,
        bp: regs.rbp,
        bx: regs.rbx,
        dx: regs.rdx,
        ax: regs.rax,
        cx: regs.rcx,
        sp: regs.rsp,
        ip: regs.rip,
        flags: regs.eflags,
        cs: regs.cs as u16,
        gs: 0,
        fs: 0,
        ss: regs.ss as u16,
        err: trap.error_code,
        trapno: trap.number,
        oldmask: mask.0,
        cr2: trap.cr2,
        fpstate,
        reserved: [0; 8],
    }
}

fn restore(regs: &mut UserRegs, c: &SigContext) {
    regs.r8 = c.r8;
    regs.r9 = c.r9;
    regs.r10 = c.r10;
    regs.r11 = c.r11;
    regs.r12 = c.r12;
    regs.r13 = c.r13;
    regs.r14 = c.r14;
    regs.r15 = c.r15;
    regs.rdi = c.di;
    regs.rsi = c.si;
    regs.rbp = c.bp;
    regs.rbx = c.bx;
    regs.rdx = c.dx;
    regs.rax = c.ax;
    regs.rcx = c.cx;
    regs.rsp = c.sp;
    regs.rip = c.ip;
    regs.eflags = (regs.eflags & !FIX_EFLAGS) | (c.flags & FIX_EFLAGS);
    // Only 64-bit code is run: no other selector is let through.
    regs.cs = USER_CS;
    regs.ss = USER_DS;
    // Not in a system call any more: nothing to restart.
    regs.orig_rax = u64::MAX;
}

/// The extended state as the frame carries it: the software bytes announce its size, a second magic number ends it.
fn fp_image(state: &FpState, xfeatures: u64) -> Vec<u8> {
    let mut image = state.0.clone();
    if image.len() < LEGACY + XSAVE_HEADER {
        image.truncate(LEGACY);
        image.resize(LEGACY, 0);
        return image;
    }
    let size = image.len() as u32;
    let mut sw = [0u8; 48];
    sw[0..4].copy_from_slice(&FP_XSTATE_MAGIC1.to_le_bytes());
    sw[4..8].copy_from_slice(&(size + 4).to_le_bytes());
    sw[8..16].copy_from_slice(&xfeatures.to_le_bytes());
    sw[16..20].copy_from_slice(&size.to_le_bytes());
    image[SW_BYTES..LEGACY].copy_from_slice(&sw);
    image.extend_from_slice(&FP_XSTATE_MAGIC2.to_le_bytes());
    image
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

impl CurrentTask {
    /// Builds the frame for a handler and points the registers at it. `EFAULT` where the stack cannot take it.
    pub(crate) fn push_frame(&mut self, sig: Signal, info: &SigInfo, action: &SigAction) -> Result {
        if action.flags & SA_RESTORER == 0 {
            bail!(EFAULT, "no SA_RESTORER");
        }
        let mask = self.saved_mask.unwrap_or(self.signal_mask());
        let nested = on_altstack(&self.altstack, self.regs.rsp);
        let mut sp = self.regs.rsp.wrapping_sub(RED_ZONE);
        let mut entering = false;
        if action.flags & SA_ONSTACK != 0 && altstack_state(&self.altstack, sp) == 0 {
            sp = self.altstack.sp.wrapping_add(self.altstack.size);
            entering = true;
        }
        let fp = fp_image(&self.context.fp_state(), self.kernel().platform.limits().xfeatures);
        let fp_at = sp.wrapping_sub(fp.len() as u64) & !63;
        let at = (fp_at.wrapping_sub(size_of::<Frame>() as u64) & !15).wrapping_sub(8);
        if (nested || entering) && !is_within(&self.altstack, at) {
            bail!(EFAULT, "alternate stack is too small");
        }
        let frame = Frame {
            pretcode: action.restorer,
            uc: UContext {
                flags: UC_FLAGS,
                link: 0,
                stack: StackT { flags: self.altstack.flags | altstack_state(&self.altstack, self.regs.rsp), ..self.altstack },
                mcontext: context_of(&self.regs, self.trap, mask, fp_at),
                sigmask: mask,
            },
            info: *info,
        };
        self.mm().copy_out(UserAddr(fp_at), &fp)?;
        self.mm().write(UserRef::new(UserAddr(at)), &frame)?;
        self.regs.rdi = u64::from(sig.number());
        self.regs.rsi = at + std::mem::offset_of!(Frame, info) as u64;
        self.regs.rdx = at + std::mem::offset_of!(Frame, uc) as u64;
        self.regs.rax = 0;
        self.regs.rip = action.handler;
        self.regs.rsp = at;
        self.regs.cs = USER_CS;
        self.regs.ss = USER_DS;
        // DF, RF and TF.
        self.regs.eflags &= !(0x400 | 0x10000 | 0x100);
        self.regs.orig_rax = u64::MAX;
        if self.altstack.flags & SS_AUTODISARM != 0 {
            self.altstack = StackT::default();
        }
        self.saved_mask = None;
        let mut blocked = self.signal_mask().union(action.mask);
        if action.flags & SA_NODEFER == 0 {
            blocked.add(sig);
        }
        self.task.set_signal_mask(blocked);
        Ok(())
    }

    /// rt_sigreturn(2): takes registers, extended state, mask and alternate stack from the frame. Returns what `rax` holds then. A frame
    /// that makes no sense kills, as in Linux: SIGSEGV.
    pub fn sigreturn(&mut self) -> Result<u64> {
        self.restart = crate::task::RestartBlock::None;
        self.no_restart = true;
        let at = self.regs.rsp.wrapping_sub(8);
        if self.restore_frame(at).is_err() {
            self.task.force_signal(SigInfo::fault(Signal::SEGV, abi::signal::SI_KERNEL, 0));
        }
        Ok(self.regs.rax)
    }

    fn restore_frame(&mut self, at: u64) -> Result {
        let uc_at = at.wrapping_add(std::mem::offset_of!(Frame, uc) as u64);
        let uc: UContext = self.mm().read(UserRef::new(UserAddr(uc_at)))?;
        self.task.set_signal_mask(uc.sigmask);
        restore(&mut self.regs, &uc.mcontext);
        self.restore_fp(uc.mcontext.fpstate)?;
        // As in Linux a bad stack in the frame is not an error here.
        let _ = self.set_altstack(uc.stack);
        Ok(())
    }

    fn restore_fp(&mut self, at: u64) -> Result {
        if at == 0 {
            self.context.reset_fp_state();
            return Ok(());
        }
        let limits = self.kernel().platform.limits();
        let full = limits.fp_state_size.max(LEGACY);
        let mut image = vec![0u8; LEGACY];
        self.mm().copy_in(UserAddr(at), &mut image)?;
        let size = u32_at(&image, SW_BYTES + 16) as usize;
        let extended = u32_at(&image, SW_BYTES + 4) as usize;
        let announced = u32_at(&image, SW_BYTES) == FP_XSTATE_MAGIC1 && size >= LEGACY + XSAVE_HEADER && size <= full && extended >= size;
        let mut features = u64_at(&image, SW_BYTES + 8) & limits.xfeatures;
        let mut whole = false;
        if announced {
            let mut tail = [0u8; 4];
            self.mm().copy_in(UserAddr(at.wrapping_add(size as u64)), &mut tail)?;
            if u32::from_le_bytes(tail) == FP_XSTATE_MAGIC2 {
                image.resize(size, 0);
                self.mm().copy_in(UserAddr(at), &mut image)?;
                whole = true;
            }
        }
        image.resize(full, 0);
        if full >= LEGACY + XSAVE_HEADER {
            if whole {
                features &= u64_at(&image, LEGACY);
            } else {
                // Only x87 and SSE come from the frame.
                features = 3;
                image[LEGACY + XSAVE_HEADER..].fill(0);
            }
            image[LEGACY..LEGACY + XSAVE_HEADER].fill(0);
            image[LEGACY..LEGACY + 8].copy_from_slice(&features.to_le_bytes());
        }
        image[SW_BYTES..LEGACY].fill(0);
        Ok(self.context.set_fp_state(&FpState(image))?)
    }

    /// sigaltstack(2): replaces the alternate stack. `EPERM` while it is in use, `ENOMEM` where it is too small.
    pub fn set_altstack(&mut self, new: StackT) -> Result {
        if on_altstack(&self.altstack, self.regs.rsp) {
            bail!(EPERM, "on the alternate stack");
        }
        let mode = new.flags & !SS_AUTODISARM;
        if mode != SS_DISABLE && mode != SS_ONSTACK && mode != 0 {
            bail!(EINVAL, "flags");
        }
        if mode == SS_DISABLE {
            self.altstack = StackT { sp: 0, size: 0, flags: new.flags, pad: 0 };
            return Ok(());
        }
        if new.size < self.min_altstack() {
            bail!(ENOMEM, "smaller than MINSIGSTKSZ");
        }
        self.altstack = StackT { flags: new.flags & !SS_ONSTACK, pad: 0, ..new };
        Ok(())
    }

    /// `MINSIGSTKSZ` as Linux checks it: the classical constant, whatever the processor's state needs.
    fn min_altstack(&self) -> u64 {
        2048
    }

    /// The alternate stack as sigaltstack(2) tells it.
    pub fn altstack(&self) -> StackT {
        let state = altstack_state(&self.altstack, self.regs.rsp);
        StackT { flags: state | (self.altstack.flags & SS_AUTODISARM), ..self.altstack }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_linux() {
        assert_eq!(size_of::<SigContext>(), 256);
        assert_eq!(size_of::<UContext>(), 304);
        assert_eq!(size_of::<Frame>(), 440);
        assert_eq!(std::mem::offset_of!(Frame, info), 312);
    }

    #[test]
    fn registers_come_back_sanitized() {
        // SigContext has every bit of the registers that matter; a hostile one tries a kernel selector and I/O privileges.
        let mut regs = SigContext { ax: 7, sp: 0x7000, ip: 0x40_0000, flags: u64::MAX, cs: 0x10, ss: 0x18, ..SigContext::default() };
        regs.r15 = 15;
        let mut out = zero_regs();
        restore(&mut out, &regs);
        assert_eq!((out.rax, out.rsp, out.rip, out.r15), (7, 0x7000, 0x40_0000, 15));
        assert_eq!((out.cs, out.ss), (USER_CS, USER_DS));
        assert_eq!(out.eflags, FIX_EFLAGS);
        let again = context_of(&out, TrapInfo::default(), SigSet(5), 9);
        assert_eq!((again.ax, again.r15, again.oldmask, again.fpstate), (7, 15, 5, 9));
    }

    #[test]
    fn fp_image_announces_itself() {
        let image = fp_image(&FpState(vec![0; 832]), 7);
        assert_eq!(image.len(), 836);
        assert_eq!(u32_at(&image, SW_BYTES), FP_XSTATE_MAGIC1);
        assert_eq!(u32_at(&image, SW_BYTES + 4), 836);
        assert_eq!(u64_at(&image, SW_BYTES + 8), 7);
        assert_eq!(u32_at(&image, SW_BYTES + 16), 832);
        assert_eq!(u32_at(&image, 832), FP_XSTATE_MAGIC2);
    }

    #[test]
    fn altstack_bounds() {
        let s = StackT { sp: 0x1000, size: 0x1000, flags: 0, pad: 0 };
        assert!(!on_altstack(&s, 0x1000) && on_altstack(&s, 0x1001) && on_altstack(&s, 0x2000) && !on_altstack(&s, 0x2001));
        assert_eq!(altstack_state(&StackT::default(), 5), SS_DISABLE);
        let auto = StackT { flags: SS_AUTODISARM, ..s };
        assert_eq!(altstack_state(&auto, 0x1800), 0);
    }

    fn zero_regs() -> UserRegs {
        crate::task::blank_regs()
    }
}
