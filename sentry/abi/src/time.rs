//! Time structures.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct timespec`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Timespec {
    /// Seconds.
    pub sec: i64,
    /// Nanoseconds, 0 to 999,999,999 where valid.
    pub nsec: i64,
}

/// `struct timeval`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Timeval {
    /// Seconds.
    pub sec: i64,
    /// Microseconds, 0 to 999,999 where valid.
    pub usec: i64,
}

/// `struct itimerspec`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Itimerspec {
    /// Period; zero: once.
    pub interval: Timespec,
    /// Until the first expiry; zero: disarmed.
    pub value: Timespec,
}

/// `struct itimerval`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Itimerval {
    /// Period; zero: once.
    pub interval: Timeval,
    /// Until the first expiry; zero: disarmed.
    pub value: Timeval,
}

impl Timespec {
    /// Whether the nanoseconds are in range and the seconds are not negative, as timed calls demand.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.sec >= 0 && (0..1_000_000_000).contains(&self.nsec)
    }

    /// Nanoseconds, saturated; `None` if not [valid](Self::is_valid).
    #[must_use]
    pub fn to_nanos(&self) -> Option<u64> {
        self.is_valid().then(|| (self.sec as u64).saturating_mul(1_000_000_000).saturating_add(self.nsec as u64))
    }

    /// From nanoseconds.
    #[must_use]
    pub const fn from_nanos(ns: u64) -> Timespec {
        Timespec { sec: (ns / 1_000_000_000) as i64, nsec: (ns % 1_000_000_000) as i64 }
    }
}

impl Timeval {
    /// Nanoseconds, saturated; `None` if a field is out of range.
    #[must_use]
    pub fn to_nanos(&self) -> Option<u64> {
        (self.sec >= 0 && (0..1_000_000).contains(&self.usec))
            .then(|| (self.sec as u64).saturating_mul(1_000_000_000).saturating_add(self.usec as u64 * 1000))
    }

    /// From nanoseconds, rounded down.
    #[must_use]
    pub const fn from_nanos(ns: u64) -> Timeval {
        Timeval { sec: (ns / 1_000_000_000) as i64, usec: (ns % 1_000_000_000 / 1000) as i64 }
    }
}
