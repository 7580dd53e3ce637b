//! Mounts: file systems at places.

use super::{Dentry, MountNamespace, PathRef, SuperBlock};
use abi::{Result, bail, libc};
use bitflags::bitflags;
use std::sync::{
    Arc, OnceLock, Weak,
    atomic::{AtomicI32, AtomicU32, Ordering},
};

bitflags! {
    /// Flags of one mount (`MNT_*`), with mount(2)'s values.
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

impl MountFlags {
    /// From mount(2)'s `MS_*`: relatime unless noatime or strictatime is asked for.
    #[must_use]
    pub fn from_ms(ms: u64) -> MountFlags {
        let mut f = MountFlags::from_bits_truncate(ms as u32) - MountFlags::RELATIME;
        if ms & (libc::MS_NOATIME | libc::MS_STRICTATIME) == 0 {
            f |= MountFlags::RELATIME;
        }
        f
    }

    /// `ST_*` of statfs(2).
    #[must_use]
    pub fn statfs_bits(self) -> i64 {
        let mut bits = 0x20; // ST_VALID
        for (flag, st) in [
            (MountFlags::RDONLY, 1),
            (MountFlags::NOSUID, 2),
            (MountFlags::NODEV, 4),
            (MountFlags::NOEXEC, 8),
            (MountFlags::NOATIME, 1024),
            (MountFlags::NODIRATIME, 2048),
            (MountFlags::RELATIME, 4096),
            (MountFlags::NOSYMFOLLOW, 8192),
        ] {
            if self.contains(flag) {
                bits |= st;
            }
        }
        bits
    }

    /// As /proc/mounts shows them: `rw,nosuid,…`.
    #[must_use]
    pub fn show(self) -> String {
        let mut s = String::from(if self.contains(MountFlags::RDONLY) { "ro" } else { "rw" });
        for (flag, name) in [
            (MountFlags::NOSUID, ",nosuid"),
            (MountFlags::NODEV, ",nodev"),
            (MountFlags::NOEXEC, ",noexec"),
            (MountFlags::NOATIME, ",noatime"),
            (MountFlags::NODIRATIME, ",nodiratime"),
            (MountFlags::RELATIME, ",relatime"),
            (MountFlags::NOSYMFOLLOW, ",nosymfollow"),
        ] {
            if self.contains(flag) {
                s.push_str(name);
            }
        }
        s
    }
}

/// How mounts and unmounts spread (mount_namespaces(7)). Kept and shown; events do not spread, since nothing has a second
/// member of a peer group unless it asks for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
#[repr(u32)]
pub enum Propagation {
    Private,
    Shared,
    Slave,
    Unbindable,
}

/// A file system, or a part of one, at a place.
pub struct Mount {
    /// Its number in /proc/PID/mountinfo.
    pub id: u32,
    /// The file system.
    pub sb: Arc<SuperBlock>,
    /// What is seen at the mount point: the file system's root, or for a bind mount a directory or file within.
    pub root: Arc<Dentry>,
    flags: AtomicU32,
    propagation: AtomicU32,
    /// The peer group's number, given when it first becomes shared.
    group: AtomicU32,
    /// Files open for writing through it.
    writers: AtomicI32,
    /// The tree it was put into; it may have left it since.
    ns: OnceLock<Weak<MountNamespace>>,
}

static NEXT_ID: AtomicU32 = AtomicU32::new(1);
static NEXT_GROUP: AtomicU32 = AtomicU32::new(1);

impl Mount {
    /// A mount of a file system's `root`, at no place yet.
    pub fn new(sb: &Arc<SuperBlock>, root: Arc<Dentry>, flags: MountFlags) -> Arc<Mount> {
        sb.activate();
        Arc::new(Mount {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            sb: sb.clone(),
            root,
            flags: AtomicU32::new(flags.bits()),
            propagation: AtomicU32::new(Propagation::Private as u32),
            group: AtomicU32::new(0),
            writers: AtomicI32::new(0),
            ns: OnceLock::new(),
        })
    }

    /// A mount of a whole file system, at no place yet.
    pub fn of(sb: &Arc<SuperBlock>, flags: MountFlags) -> Result<Arc<Mount>> {
        Ok(Self::new(sb, sb.root_dentry()?, flags))
    }

    /// Another mount of what `at` names, with the flags of its mount.
    pub fn bind(at: &PathRef) -> Arc<Mount> {
        let m = Self::new(&at.mount.sb, at.dentry.clone(), at.mount.flags());
        m.set_propagation(at.mount.propagation());
        m.group.store(at.mount.group.load(Ordering::Relaxed), Ordering::Relaxed);
        m
    }

    /// The place at its root.
    pub fn root_path(self: &Arc<Self>) -> Result<PathRef> {
        match self.root.inode() {
            Some(inode) => Ok(PathRef { mount: self.clone(), dentry: self.root.clone(), inode }),
            None => bail!(ENOENT),
        }
    }

    /// Its flags now.
    pub fn flags(&self) -> MountFlags {
        MountFlags::from_bits_retain(self.flags.load(Ordering::Acquire))
    }

    /// Replaces its flags. `EBUSY` where it becomes read-only while files are open for writing.
    pub fn set_flags(&self, flags: MountFlags) -> Result {
        if flags.contains(MountFlags::RDONLY) && !self.is_read_only() && self.writers.load(Ordering::Acquire) > 0 {
            bail!(EBUSY, "files are open for writing");
        }
        self.flags.store(flags.bits(), Ordering::Release);
        Ok(())
    }

    /// Whether nothing may be changed through it.
    pub fn is_read_only(&self) -> bool {
        self.flags().contains(MountFlags::RDONLY)
    }

    /// `EROFS` if nothing may be changed through it.
    pub fn check_writable(&self) -> Result {
        if self.is_read_only() { bail!(EROFS, "mount is read-only") } else { Ok(()) }
    }

    /// Counts a file open for writing (`+1`) or one closed.
    pub(super) fn add_writer(&self, delta: i32) {
        self.writers.fetch_add(delta, Ordering::AcqRel);
    }

    /// How events spread.
    pub fn propagation(&self) -> Propagation {
        match self.propagation.load(Ordering::Relaxed) {
            1 => Propagation::Shared,
            2 => Propagation::Slave,
            3 => Propagation::Unbindable,
            _ => Propagation::Private,
        }
    }

    /// Sets how events spread.
    pub fn set_propagation(&self, p: Propagation) {
        if p == Propagation::Shared && self.group.load(Ordering::Relaxed) == 0 {
            self.group.store(NEXT_GROUP.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        }
        self.propagation.store(p as u32, Ordering::Relaxed);
    }

    /// The optional field of /proc/PID/mountinfo, with a trailing space.
    pub(super) fn show_propagation(&self) -> String {
        let group = self.group.load(Ordering::Relaxed);
        match self.propagation() {
            Propagation::Private => String::new(),
            Propagation::Shared => format!("shared:{group} "),
            Propagation::Slave if group != 0 => format!("master:{group} "),
            Propagation::Slave => String::new(),
            Propagation::Unbindable => "unbindable ".to_owned(),
        }
    }

    /// The namespace it was put into.
    pub fn namespace(&self) -> Option<Arc<MountNamespace>> {
        self.ns.get()?.upgrade()
    }

    pub(super) fn set_namespace(&self, ns: &Weak<MountNamespace>) {
        // A mount is only ever moved within its namespace.
        let _ = self.ns.set(ns.clone());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.sb.deactivate();
    }
}

impl std::fmt::Debug for Mount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mount({} {})", self.id, self.sb.fs_name)
    }
}
