//! [`Looking`]: a task that begins to wait takes frames itself for a while, before it falls asleep.
//!
//! An answer that comes within the time which an idle processor takes to wake up (35 to 90 us in a virtual machine) is so had without waking
//! anybody: neither the device's receive thread nor the task. It costs a processor that nobody needs meanwhile, which the caller sees to, and
//! it is done only where it pays: each time that nothing came, the next waits sleep at once, twice as many as the last time.

use super::{Device, Stack, Touched};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// How long one looks, in nanoseconds: the peer may have to be woken first.
const PATIENCE: u64 = 120_000;
/// Waits without looking after one in which nothing came: at most.
const LONGEST_PENALTY: u32 = 256;

/// Whether it pays to look.
#[derive(Debug, Default)]
pub struct Looking {
    /// Waits that are not for looking.
    skip: AtomicU32,
    penalty: AtomicU32,
}

impl Looking {
    /// Whether this wait is for looking.
    fn begins(&self) -> bool {
        let skip = self.skip.load(Relaxed);
        if skip > 0 {
            self.skip.store(skip - 1, Relaxed);
        }
        skip == 0
    }

    /// Something came, or nothing.
    fn learn(&self, came: bool) {
        let old = self.penalty.load(Relaxed);
        let penalty = if came { old / 2 } else { (old * 2).clamp(1, LONGEST_PENALTY) };
        self.penalty.store(penalty, Relaxed);
        if !came {
            self.skip.store(penalty, Relaxed);
        }
    }
}

impl sync::Watch for Stack {
    fn look(&self, enough: &dyn Fn() -> bool) -> bool {
        if !self.has_outside() || !self.looking.begins() {
            return false;
        }
        let table = self.table();
        let end = host::time::monotonic_ns() + PATIENCE;
        let mut came = false;
        loop {
            if enough() {
                // Without a frame it was somebody else's doing.
                if came {
                    self.looking.learn(true);
                }
                return true;
            }
            if host::time::monotonic_ns() > end {
                self.looking.learn(false);
                return true;
            }
            if table.devices.iter().filter(|d| self.look_at(d)).count() > 0 {
                came = true;
            } else {
                // Whoever else wants the processor has it.
                std::thread::yield_now();
            }
        }
    }
}

impl Stack {
    /// Takes frames of a device, if nobody else does.
    fn look_at(&self, device: &Arc<Device>) -> bool {
        let Some(link) = device.link() else { return false };
        let Some(mut batch) = device.frames.try_lock() else { return false };
        // Errors are the receive thread's to tell.
        self.take_frames(device, link, &mut batch, &mut Touched::default()).is_ok()
    }
}
