//! Timestamps of files.

use super::SetTime;
use abi::time::Timespec;

/// The time that new timestamps of files get.
#[must_use]
pub fn now() -> Timespec {
    Timespec::from_nanos(host::time::realtime_coarse_ns())
}

impl SetTime {
    /// The time itself, `now` standing for `UTIME_NOW`.
    #[must_use]
    pub fn or(self, now: Timespec) -> Timespec {
        match self {
            SetTime::Now => now,
            SetTime::To(t) => t,
        }
    }
}
