//! Giving up the host: an empty root directory, no capabilities, no way back to either.

use rustix::fs::CWD;
use rustix::io::Result;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags, fsconfig_create, fsconfig_set_string,
    fsmount, fsopen, mount_change, move_mount, unmount,
};
use rustix::process::{DumpableBehavior, Resource, Rlimit, chdir, fchdir, pivot_root, set_dumpable_behavior, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

/// Makes an empty, read-only file system the root, and unmounts everything else. What the host has is then without a name
/// here: there is not even a `/proc`.
pub fn enter_empty_root() -> Result<()> {
    // This mount namespace is a copy of the host's: nothing done here may propagate back.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "mode", "0555")?;
    fsconfig_set_string(&context, "nr_inodes", "1")?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    // pivot_root wants a mount point. This one exists wherever the runtime found its own executable.
    move_mount(&mount, "", CWD, "/proc", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    fchdir(&mount)?;
    // The old root ends up on top of the new one, and is then taken away.
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")
}

/// Drops every capability for ever, and sets what else a process can do to harm itself less.
pub fn drop_privileges() -> Result<()> {
    for capability in CapabilitySet::all().iter() {
        match remove_capability_from_bounding_set(capability) {
            // A capability that is newer than the host's kernel.
            Err(rustix::io::Errno::INVAL) => {}
            other => other?,
        }
    }
    clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    set_no_new_privs(true)?;
    // Without it, a process whose IDs have changed may not trace its own children.
    set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    // Application memory must not end up in a core file.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    raise_open_files()
}

/// The sentry holds a descriptor for each open host file: as many as the host lets it.
fn raise_open_files() -> Result<()> {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)
}
