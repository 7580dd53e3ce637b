//! The extended processor state as ptrace(2) gives it: an XSAVE image in the standard format.
//!
//! Layout (Intel SDM volume 1, 13.4): 512 bytes of FXSAVE area, of which the kernel uses bytes 464 on to say which features it
//! saves; 64 bytes of header, beginning with `XSTATE_BV` and `XCOMP_BV`; the features' own areas.

use crate::FpState;
use crate::tracee::sys;
use abi::Errno;

const FCW: usize = 0;
const MXCSR: usize = 24;
const MXCSR_MASK: usize = 28;
const SOFTWARE: usize = 464;
const HEADER: usize = 512;
const HEADER_LEN: usize = 64;
/// x87 and SSE, which every processor of ours has.
const LEGACY: u64 = 3;
/// The features of AMX, which a thread must ask the host's kernel for: no guest has them.
const AMX: u64 = 3 << 17;

/// The features that the host's kernel has enabled (XCR0) and a guest may have. `None`: no XSAVE.
pub fn enabled_features() -> Option<u64> {
    const OSXSAVE: u32 = 1 << 27;
    if std::arch::x86_64::__cpuid(1).ecx & OSXSAVE == 0 {
        return None;
    }
    let (low, high): (u32, u32);
    // SAFETY: the processor has this instruction, as was just asked; it reads a register.
    unsafe { core::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack)) };
    Some((u64::from(high) << 32 | u64::from(low)) & !AMX | LEGACY)
}

/// What images of this machine look like.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Bytes.
    pub size: usize,
    /// The features that may be set in `XSTATE_BV`.
    pub xfeatures: u64,
    mxcsr_mask: u32,
}

fn word<const N: usize>(b: &[u8], at: usize) -> [u8; N] {
    b.get(at..at + N).and_then(|s| s.try_into().ok()).unwrap_or([0; N])
}

fn put(b: &mut [u8], at: usize, v: &[u8]) {
    if let Some(place) = b.get_mut(at..at + v.len()) {
        place.copy_from_slice(v);
    }
}

impl Layout {
    /// As the stopped thread `tid` has it. `ENODEV` on a processor without XSAVE.
    pub fn of(tid: i32) -> Result<Layout, Errno> {
        let mut buf = vec![0; 16 << 10];
        let size = sys::get_xstate(tid, &mut buf)?;
        if size < HEADER + HEADER_LEN {
            return Err(Errno::ENODEV);
        }
        let mask = u32::from_le_bytes(word(&buf, MXCSR_MASK));
        let xfeatures = u64::from_le_bytes(word(&buf, SOFTWARE)) & !AMX | LEGACY;
        Ok(Layout { size, xfeatures, mxcsr_mask: if mask == 0 { 0xffbf } else { mask } })
    }

    /// The processor's state after a reset, as Linux gives it to a new program.
    pub fn initial(&self) -> FpState {
        let mut b = vec![0; self.size];
        put(&mut b, FCW, &0x37fu16.to_le_bytes());
        put(&mut b, MXCSR, &0x1f80u32.to_le_bytes());
        put(&mut b, MXCSR_MASK, &self.mxcsr_mask.to_le_bytes());
        put(&mut b, SOFTWARE, &self.xfeatures.to_le_bytes());
        put(&mut b, HEADER, &LEGACY.to_le_bytes());
        FpState(b)
    }

    /// An image that came from memory which the application can write, such that the processor takes it.
    pub fn mended(&self, mut b: Vec<u8>) -> FpState {
        b.resize(self.size, 0);
        let features = u64::from_le_bytes(word(&b, HEADER)) & self.xfeatures;
        let mxcsr = u32::from_le_bytes(word(&b, MXCSR)) & self.mxcsr_mask;
        put(&mut b, MXCSR, &mxcsr.to_le_bytes());
        put(&mut b, MXCSR_MASK, &self.mxcsr_mask.to_le_bytes());
        put(&mut b, SOFTWARE, &[0; HEADER - SOFTWARE]);
        put(&mut b, SOFTWARE, &self.xfeatures.to_le_bytes());
        put(&mut b, HEADER, &[0; HEADER_LEN]);
        put(&mut b, HEADER, &features.to_le_bytes());
        FpState(b)
    }

    /// `EINVAL` unless the processor would take `state`.
    pub fn check(&self, state: &FpState) -> Result<(), Errno> {
        let b = &state.0;
        let features = u64::from_le_bytes(word(b, HEADER));
        let rest_of_header = b.get(HEADER + 8..HEADER + HEADER_LEN);
        let good = b.len() == self.size
            && features & !self.xfeatures == 0
            && rest_of_header.is_some_and(|r| r.iter().all(|&x| x == 0))
            && u32::from_le_bytes(word(b, MXCSR)) & !self.mxcsr_mask == 0;
        if good { Ok(()) } else { Err(Errno::EINVAL) }
    }
}
