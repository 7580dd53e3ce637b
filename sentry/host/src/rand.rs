//! Randomness from the host.

use crate::from_rustix;
use abi::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

/// Fills `buf` from getrandom(2).
pub fn fill(buf: &mut [u8]) -> Result<(), Errno> {
    let mut done = 0;
    while done < buf.len() {
        match getrandom(&mut buf[done..], GetRandomFlags::empty()) {
            Ok(n) => done += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(from_rustix(e)),
        }
    }
    Ok(())
}

/// A random number; from the clock in the case, impossible after boot, that the host has none.
#[must_use]
pub fn u64() -> u64 {
    let mut b = [0; 8];
    match fill(&mut b) {
        Ok(()) => u64::from_ne_bytes(b),
        Err(_) => crate::time::monotonic_ns().wrapping_mul(0x9e37_79b9_7f4a_7c15),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn differs() {
        assert_ne!(super::u64(), super::u64());
        let mut b = [0; 1000];
        super::fill(&mut b).expect("getrandom");
        assert!(b.iter().any(|&x| x != 0));
    }
}
