//! A number of `/proc/sys` that governs something: see [`crate::ipc::limits`] and [`crate::net::settings`].

use abi::{Result, bail};
use std::sync::atomic::{AtomicU64, Ordering};

/// A number between two others.
#[derive(Debug)]
pub struct Setting {
    value: AtomicU64,
    min: u64,
    max: u64,
}

impl Setting {
    /// Begins with this value; both limits are allowed values.
    #[must_use]
    pub const fn new(value: u64, min: u64, max: u64) -> Setting {
        Setting { value: AtomicU64::new(value), min, max }
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }

    /// `EINVAL` for what is out of range.
    pub fn check(&self, value: u64) -> Result {
        if (self.min..=self.max).contains(&value) { Ok(()) } else { bail!(EINVAL, "setting out of range") }
    }

    /// Another value; `EINVAL` if it is out of range.
    pub fn set(&self, value: u64) -> Result {
        self.check(value)?;
        self.value.store(value, Ordering::Relaxed);
        Ok(())
    }
}
