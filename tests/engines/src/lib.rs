//! Real engines with Caisson as their runtime: what the tests in this crate share.
//!
//! A [`Machine`] is a set of namespaces and control groups in which an engine is started, so that tests run beside one another
//! and leave nothing behind: ending the machine ends every process in it, and with them every mount, interface and rule.
//! [`image`] makes images without a registry. [`Containerd`] is an engine in a machine. Every test runs first with runc: what an
//! engine does with runc is what it must do with Caisson.

pub mod containerd;
pub mod cri;
pub mod docker;
pub mod image;
pub mod machine;
pub mod output;
pub mod podman;
pub mod services;
pub mod streams;

pub use containerd::Containerd;
pub use cri::Cri;
pub use docker::Docker;
pub use machine::Machine;
pub use podman::Podman;

use std::time::{Duration, Instant};

/// Waits until `condition` gives something, for `seconds` at most.
pub fn eventually<T>(seconds: u64, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(found) = condition() {
            return Some(found);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
