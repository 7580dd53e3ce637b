//! Device drivers: what the nodes of `/dev` open.
//!
//! A driver is registered in the kernel by its number, so that a node works wherever it lies. [`NODES`] and [`LINKS`] are what every
//! container's `/dev` holds (OCI runtime-spec, "Default Devices").

mod mem;

use crate::devpts::{Table, open_ptmx, open_slave, tty::SLAVE_MAJOR};
use abi::{
    Result, bail,
    fs::{OpenFlags, major, minor},
};
use kernel::{
    Kernel,
    task::Task,
    vfs::{FileOps, Inode, PathRef},
};
use std::sync::Arc;

/// Character devices of every container: name, major, minor, permissions.
pub const NODES: &[(&str, u32, u32, u32)] = &[
    ("null", 1, 3, 0o666),
    ("zero", 1, 5, 0o666),
    ("full", 1, 7, 0o666),
    ("random", 1, 8, 0o666),
    ("urandom", 1, 9, 0o666),
    ("tty", 5, 0, 0o666),
];

/// Symbolic links of every container's `/dev`: name and target.
pub const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// The terminal that a container was started with: what `/dev/console` opens.
pub struct Console(pub u32);

/// Registers the drivers.
pub fn register(kernel: &Kernel) {
    for (name, major) in [("mem", 1), ("/dev/tty", 5), ("pts", SLAVE_MAJOR)] {
        kernel.vfs.register_char_device(name, major, 0..=u32::MAX, Arc::new(open));
    }
}

/// Opens a character device by its number; `ENXIO` if there is no such driver.
fn open(inode: &Arc<Inode>, _: &PathRef, flags: OpenFlags, task: &Task) -> Result<Box<dyn FileOps>> {
    let dev = inode.attr()?.rdev;
    Ok(match (major(dev), minor(dev)) {
        (1, 3) => Box::new(mem::Null),
        (1, 5) => Box::new(mem::Zero { full: false }),
        (1, 7) => Box::new(mem::Zero { full: true }),
        (1, 8 | 9) => Box::new(mem::Random),
        (1, 11) => Box::new(mem::Kmsg),
        (5, 0) => return open_tty(task),
        (5, 1) => match task.container().attachments.get::<Console>() {
            Some(console) => return open_slave(console.0, flags, task),
            None => bail!(ENXIO, "container has no console"),
        },
        (5, 2) => return open_ptmx(task.container(), &task.cred()),
        (SLAVE_MAJOR, index) => return open_slave(index, flags, task),
        (major, minor) => bail!(ENXIO, "no driver for device {major}:{minor}"),
    })
}

/// `/dev/tty`: the controlling terminal of whoever opens it.
fn open_tty(task: &Task) -> Result<Box<dyn FileOps>> {
    let Some(terminal) = task.session().terminal() else { bail!(ENXIO, "no controlling terminal") };
    let index = minor(terminal.device());
    if Table::of(task.container()).get(index).is_none() {
        bail!(ENXIO, "the controlling terminal is gone");
    }
    open_slave(index, OpenFlags::NOCTTY, task)
}
