//! The file systems, and the devices under `/dev`.
//!
//! Each registers itself in the kernel; the kernel knows them only by its traits.

pub mod cgroup;
pub mod dev;
pub mod devpts;
pub mod overlay;
pub mod proc;
pub mod remote;
pub mod synthetic;
pub mod sysfs;
pub mod tmpfs;

use kernel::Kernel;
use std::sync::Arc;

/// Makes all file systems and devices known to the kernel.
pub fn register(kernel: &Kernel) {
    kernel.register_fs(Arc::new(cgroup::Cgroup2));
    kernel.register_fs(Arc::new(devpts::Devpts));
    kernel.register_fs(Arc::new(kernel::ipc::mq::MqueueType));
    kernel.register_fs(Arc::new(overlay::OverlayType));
    kernel.register_fs(Arc::new(proc::Proc));
    kernel.register_fs(Arc::new(remote::RemoteType));
    kernel.register_fs(Arc::new(sysfs::Sysfs));
    kernel.register_fs(Arc::new(tmpfs::TmpfsType));
    dev::register(kernel);
}
