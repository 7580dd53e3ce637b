//! The file systems, and the devices under `/dev`.
//!
//! Each registers itself in the kernel; the kernel knows them only by its traits.

pub mod dev;
pub mod devpts;
pub mod overlay;
pub mod proc;
pub mod remote;
pub mod synthetic;
pub mod sysfs;
pub mod tmpfs;
