//! Where a panic or a forbidden call came from, as offsets in the executable: resolving them to lines would mean opening the
//! executable, which the sentry cannot. `addr2line -Cfie caisson OFFSET…` does it.

use std::ffi::{c_int, c_void};

/// Frames that are told at most.
const MAX: usize = 24;

unsafe extern "C" {
    fn _Unwind_Backtrace(callback: extern "C" fn(*mut c_void, *mut c_void) -> c_int, data: *mut c_void) -> c_int;
    fn _Unwind_GetIP(context: *mut c_void) -> usize;
    /// The linker's: where the executable begins.
    static __executable_start: u8;
}

/// The offsets of the calling thread's frames, innermost first.
#[derive(Debug)]
pub struct Frames {
    offsets: [usize; MAX],
    count: usize,
}

impl Frames {
    /// Of the caller. Does not allocate.
    #[must_use]
    pub fn here() -> Frames {
        let mut frames = Frames { offsets: [0; MAX], count: 0 };
        // SAFETY: `frame` gets back the pointer to `frames` that is given here, while it is alive.
        unsafe { _Unwind_Backtrace(frame, (&raw mut frames).cast()) };
        frames
    }

    /// The offsets.
    #[must_use]
    pub fn offsets(&self) -> &[usize] {
        self.offsets.get(..self.count).unwrap_or_default()
    }
}

impl std::fmt::Display for Frames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, offset) in self.offsets().iter().enumerate() {
            write!(f, "{}{offset:#x}", if i == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

/// `_URC_NO_REASON`: go on.
const GO_ON: c_int = 0;
/// `_URC_END_OF_STACK`.
const ENOUGH: c_int = 5;

extern "C" fn frame(context: *mut c_void, data: *mut c_void) -> c_int {
    // SAFETY: the unwinder passes on what `here` gave it, and nobody else uses it meanwhile.
    let frames = unsafe { &mut *data.cast::<Frames>() };
    let Some(place) = frames.offsets.get_mut(frames.count) else { return ENOUGH };
    // SAFETY: the unwinder's own context.
    let ip = unsafe { _Unwind_GetIP(context) };
    // A return address is behind its call: one less is inside it.
    *place = ip.wrapping_sub(1).wrapping_sub((&raw const __executable_start).addr());
    frames.count += 1;
    GO_ON
}

#[cfg(test)]
mod tests {
    #[test]
    fn there_are_frames_inside_the_executable() {
        let frames = super::Frames::here();
        assert!(frames.offsets().len() > 3, "{frames}");
        assert!(frames.offsets()[0] < 1 << 30, "{frames}");
    }
}
