//! procfs: the processes of a pid namespace, and settings, as files (proc(5)).
//!
//! [`pid`] is a process's directory, [`system`] the files about the whole sandbox, [`sysctl`] the tree under `sys`. Everything is made
//! from the kernel's own state when it is read; the host's procfs is not consulted, but for what [`HostInfo`] took at boot.

mod descriptors;
mod limits;
mod mem;
mod pid;
mod stat;
mod status;
mod sysctl;
mod system;
mod sysvipc;

pub use pid::cmdline;
pub use sysctl::set as set_sysctl;
pub use system::cpus;

use crate::synthetic::{self, Directory, Entry, Fixed, Listed};
use abi::{Errno, Result, fs::FileType};
use kernel::{
    Container,
    container::PidNamespace,
    cred::Credentials,
    task::{Task, current},
    vfs::{FsStr, FsType, MountSource, SbFlags, SuperBlock},
};
use std::sync::Arc;

/// `f_type` of statfs(2).
const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// What `/proc/PID/uid_map` and `gid_map` say, attached to the kernel.
#[derive(Clone, Debug)]
pub struct IdMaps {
    /// Of users.
    pub uid: String,
    /// Of groups.
    pub gid: String,
}

impl Default for IdMaps {
    fn default() -> Self {
        let all = "         0          0 4294967295\n";
        IdMaps { uid: all.into(), gid: all.into() }
    }
}

/// What is taken from the host once, before the sentry loses sight of it.
#[derive(Clone, Debug, Default)]
pub struct HostInfo {
    /// The host's /proc/cpuinfo: programs choose their code by it.
    pub cpuinfo: String,
}

/// The file system type.
pub struct Proc;

impl FsType for Proc {
    fn name(&self) -> &'static str {
        "proc"
    }
    fn user_mountable(&self) -> bool {
        true
    }
    fn mount(&self, container: &Arc<Container>, _: &Credentials, source: MountSource<'_>) -> Result<Arc<SuperBlock>> {
        let flags = SbFlags::NO_DCACHE | SbFlags::NODEV;
        let root = Root { pids: container.pids.clone(), fixed: Fixed::new(system::entries(container)) };
        Ok(synthetic::superblock("proc", source.source, flags, PROC_SUPER_MAGIC, Entry::dir(root)))
    }
}

/// `/proc`: the fixed files, and a directory for each process.
struct Root {
    pids: Arc<PidNamespace>,
    fixed: Fixed,
}

/// Numbers of processes in the listing begin here, as on Linux (`FIRST_PROCESS_ENTRY`).
const FIRST_PROCESS: u64 = 256;

impl Directory for Root {
    fn lookup(&self, name: &FsStr) -> Result<Entry> {
        match self.fixed.lookup(name) {
            // A thread's directory can be named too, though it is not listed.
            Err(e) if e.is(Errno::ENOENT) => {
                parse_id(name).and_then(|id| self.pids.task(id)).map(|task| pid::directory(task, true)).ok_or(e)
            }
            found => found,
        }
    }

    fn list(&self) -> Result<Vec<Listed>> {
        let mut all = self.fixed.list()?;
        let mut ids: Vec<i32> = self.pids.processes().iter().map(|p| p.tgid).collect();
        ids.sort_unstable();
        all.extend(ids.into_iter().map(|id| {
            let listed = Listed::numbered(id as u64, FileType::Directory);
            Listed { number: FIRST_PROCESS + listed.number, ..listed }
        }));
        Ok(all)
    }

    fn nlink(&self) -> u32 {
        2 + self.pids.processes().len() as u32
    }
}

/// A process or thread id as a name: digits, no leading zero.
fn parse_id(name: &FsStr) -> Option<i32> {
    let id: i32 = std::str::from_utf8(name).ok()?.parse().ok()?;
    (id > 0 && id.to_string().as_bytes() == name).then_some(id)
}

/// The task that looks: `/proc/self` is about it.
fn viewer() -> Result<Arc<Task>> {
    current().ok_or(abi::error!(ENOENT, "no task is looking"))
}
