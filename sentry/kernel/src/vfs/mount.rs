//! Mounts and mount namespaces.

use super::{Dentry, SuperBlock};
use bitflags::bitflags;
use std::sync::Arc;

bitflags! {
    /// Flags of one mount (`MNT_*`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct MountFlags: u32 {
        const RDONLY = 1;
        const NOSUID = 2;
        const NODEV = 4;
        const NOEXEC = 8;
        const NOATIME = 1024;
        const NODIRATIME = 2048;
        const RELATIME = 1 << 21;
        const NOSYMFOLLOW = 256;
    }
}

/// A file system, or a part of one, at a place.
pub struct Mount {
    /// Its number in /proc/PID/mountinfo.
    pub id: u32,
    /// The file system.
    pub sb: Arc<SuperBlock>,
    /// What is seen at the mount point: the file system's root, or for a bind mount a directory or file within.
    pub root: Arc<Dentry>,
}

impl Mount {
    /// A mount of a file system's `root`, at no place yet.
    pub fn new(sb: &Arc<SuperBlock>, root: Arc<Dentry>, _flags: MountFlags) -> Arc<Mount> {
        Arc::new(Mount { id: 0, sb: sb.clone(), root })
    }
}

/// The tree of mounts that a group of tasks sees.
pub struct MountNamespace {}
