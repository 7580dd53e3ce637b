//! Mounts: mount(2), umount2(2), pivot_root(2).

use crate::{
    arg::{DirFd, UserCStr},
    at::{At, only, walker},
    gap, row,
    table::Entry,
};
use abi::{Result, bail, libc};
use kernel::{
    cred::CapSet,
    task::CurrentTask,
    user::UserAddr,
    vfs::{Lookup, Mount, MountFlags, MountNamespace, MountSource, PathRef, Propagation},
};
use std::sync::Arc;

pub(crate) const ROWS: &[Entry] = &[
    row!("mount", mount, Partial("mount and unmount events do not propagate between peers; no block devices")),
    row!("umount2", umount2),
    row!("pivot_root", pivot_root),
    gap!("fsopen", ENOSYS, "the calls of the new mount interface; mount(2) does the same"),
    gap!("fsconfig", ENOSYS, "see fsopen"),
    gap!("fsmount", ENOSYS, "see fsopen"),
    gap!("fspick", ENOSYS, "see fsopen"),
    gap!("open_tree", ENOSYS, "see fsopen"),
    gap!("open_tree_attr", ENOSYS, "see fsopen"),
    gap!("move_mount", ENOSYS, "see fsopen"),
    gap!("mount_setattr", ENOSYS, "see fsopen"),
    gap!("name_to_handle_at", EOPNOTSUPP, "files have no handles that outlive the sandbox"),
    gap!("open_by_handle_at", EOPNOTSUPP, "files have no handles that outlive the sandbox"),
    gap!("quotactl", ENOSYS, "no quotas"),
    gap!("quotactl_fd", ENOSYS, "no quotas"),
    gap!("swapon", EPERM, "swap is the host's affair"),
    gap!("swapoff", EPERM, "swap is the host's affair"),
];

/// The namespace of the task's root; `EINVAL` if its mount was detached.
fn namespace(t: &CurrentTask) -> Result<Arc<MountNamespace>> {
    t.fs().root().mount.namespace().ok_or(abi::error!(EINVAL, "root is not in a mount namespace"))
}

/// An optional string: null is empty.
fn optional(t: &CurrentTask, s: UserCStr) -> Result<String> {
    if s.0.is_null() {
        return Ok(String::new());
    }
    let bytes = t.mm().read_cstr(s.0, 4096)?;
    String::from_utf8(bytes).map_err(|_| abi::error!(EINVAL, "not UTF-8"))
}

pub fn mount(t: &mut CurrentTask, source: UserCStr, target: UserCStr, kind: UserCStr, flags: u64, data: UserAddr) -> Result<()> {
    t.cred().require(CapSet::SYS_ADMIN)?;
    // The magic number that mount(2) had before Linux 2.4.
    let flags = if flags & 0xffff_0000 == 0xc0ed_0000 { flags & 0xffff } else { flags };
    let at = At::new(t, DirFd::Cwd, target)?.walk(t, Lookup::FOLLOW)?;
    let ns = namespace(t)?;
    let propagation = [
        (libc::MS_SHARED, Propagation::Shared),
        (libc::MS_PRIVATE, Propagation::Private),
        (libc::MS_SLAVE, Propagation::Slave),
        (libc::MS_UNBINDABLE, Propagation::Unbindable),
    ];
    if flags & libc::MS_REMOUNT != 0 {
        return remount(t, &at, flags, data);
    }
    if flags & libc::MS_BIND != 0 {
        return bind(t, &ns, source, &at, flags & libc::MS_REC != 0);
    }
    if let Some((_, p)) = propagation.into_iter().find(|(bit, _)| flags & bit != 0) {
        return propagate(&ns, &at, p, flags & libc::MS_REC != 0);
    }
    if flags & libc::MS_MOVE != 0 {
        let from = At::new(t, DirFd::Cwd, source)?.walk(t, Lookup::FOLLOW)?;
        if !from.is_mount_root() {
            bail!(EINVAL, "source is no mount point");
        }
        return ns.move_mount(&from.mount, &at);
    }
    let kind = optional(t, kind)?;
    let fs = t.kernel().vfs.fs_type(&kind)?;
    if !fs.user_mountable() {
        bail!(EPERM, "{kind} cannot be mounted from inside");
    }
    let (source, options) = (optional(t, source)?, optional(t, UserCStr(data))?);
    let sb = fs.mount(t.container(), &t.cred(), MountSource { source: &source, options: &options, extra: None })?;
    t.container().add_file_system(&sb);
    if sb.root()?.is_dir() != at.inode.is_dir() {
        bail!(ENOTDIR);
    }
    ns.attach(Mount::of(&sb, MountFlags::from_ms(flags))?, &at)
}

fn remount(t: &CurrentTask, at: &PathRef, flags: u64, data: UserAddr) -> Result<()> {
    if !at.is_mount_root() {
        bail!(EINVAL, "not a mount point");
    }
    if flags & libc::MS_BIND == 0 {
        let options = optional(t, UserCStr(data))?;
        at.mount.sb.ops.remount(&options)?;
    }
    at.mount.set_flags(MountFlags::from_ms(flags))
}

fn bind(t: &CurrentTask, ns: &MountNamespace, source: UserCStr, at: &PathRef, recursive: bool) -> Result<()> {
    let from = At::new(t, DirFd::Cwd, source)?.walk(t, Lookup::FOLLOW)?;
    if from.mount.propagation() == Propagation::Unbindable {
        bail!(EINVAL, "source is unbindable");
    }
    if from.inode.is_dir() != at.inode.is_dir() {
        bail!(ENOTDIR, "directory on a file or a file on a directory");
    }
    ns.attach_tree(ns.copy_tree(&from, recursive), at)
}

fn propagate(ns: &MountNamespace, at: &PathRef, p: Propagation, recursive: bool) -> Result<()> {
    if !at.is_mount_root() {
        bail!(EINVAL, "not a mount point");
    }
    at.mount.set_propagation(p);
    if recursive {
        for m in ns.mounts_under(&at.mount) {
            m.set_propagation(p);
        }
    }
    Ok(())
}

pub fn umount2(t: &mut CurrentTask, target: UserCStr, flags: u32) -> Result<()> {
    only(flags, libc::MNT_FORCE | libc::MNT_DETACH | libc::MNT_EXPIRE | libc::UMOUNT_NOFOLLOW)?;
    t.cred().require(CapSet::SYS_ADMIN)?;
    let how = Lookup { follow: flags & libc::UMOUNT_NOFOLLOW as u32 == 0, ..Lookup::NOFOLLOW };
    let at = At::new(t, DirFd::Cwd, target)?;
    let at = walker(t).walk(&at.start, &at.path, how)?;
    if !at.is_mount_root() {
        bail!(EINVAL, "not a mount point");
    }
    if flags & libc::MNT_EXPIRE as u32 != 0 {
        bail!(EAGAIN, "mounts do not expire");
    }
    let mount = at.mount.clone();
    drop(at);
    // This function's own reference is the one that does not count.
    namespace(t)?.umount(&mount, flags & libc::MNT_DETACH as u32 != 0, 1)
}

pub fn pivot_root(t: &mut CurrentTask, new_root: UserCStr, put_old: UserCStr) -> Result<()> {
    t.cred().require(CapSet::SYS_ADMIN)?;
    let new = At::new(t, DirFd::Cwd, new_root)?.walk(t, Lookup::DIRECTORY)?;
    let old = At::new(t, DirFd::Cwd, put_old)?.walk(t, Lookup::DIRECTORY)?;
    let root = t.fs().root();
    namespace(t)?.pivot_root(&root, &new, &old)?;
    // Whoever stood at the old root stands at the new one.
    for process in t.container().processes() {
        for task in process.threads() {
            let fs = task.fs();
            if fs.root().same(&root) {
                fs.set_root(new.clone());
            }
            if fs.cwd().same(&root) {
                fs.set_cwd(new.clone());
            }
        }
    }
    Ok(())
}
