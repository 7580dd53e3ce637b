//! The root file system that containerd wants mounted in a bundle.

use crate::error::{Error, Result};
use containerd_shim_protos::types::mount::Mount;
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, mount_remount, unmount};
use std::ffi::CString;
use std::path::Path;

/// Makes the mounts, one over the other, at `target`. Without any, the bundle's root is ready.
pub fn all(mounts: &[Mount], target: &Path) -> Result<()> {
    if mounts.is_empty() {
        return Ok(());
    }
    match std::fs::create_dir(target) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Error::context(target.display())(error));
        }
        _ => {}
    }
    for wanted in mounts {
        if let Err(error) = one(wanted, target) {
            undo(target);
            return Err(error);
        }
    }
    Ok(())
}

fn one(wanted: &Mount, target: &Path) -> Result<()> {
    let (flags, data) = split(&wanted.options);
    let what = format!("cannot mount {} of type {} at {}", wanted.source, wanted.type_, target.display());
    let bind = flags.contains(MountFlags::BIND);
    let first = if bind { flags & (MountFlags::BIND | MountFlags::REC) } else { flags };
    let kind = if bind { "" } else { wanted.type_.as_str() };
    let data = CString::new(data).map_err(Error::context(&what))?;
    mount(wanted.source.as_str(), target, kind, first, Some(data.as_c_str())).map_err(Error::context(&what))?;
    // A bind mount takes no other flags than these at first.
    if bind && !(flags - first).is_empty() {
        mount_remount(target, MountFlags::BIND | (flags - MountFlags::REC), "").map_err(Error::context(&what))?;
    }
    let propagation = wanted.options.iter().find_map(|option| match option.as_str() {
        "private" => Some(MountPropagationFlags::PRIVATE),
        "rprivate" => Some(MountPropagationFlags::PRIVATE | MountPropagationFlags::REC),
        "slave" => Some(MountPropagationFlags::DOWNSTREAM),
        "rslave" => Some(MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC),
        _ => None,
    });
    match propagation {
        Some(propagation) => mount_change(target, propagation).map_err(Error::context(&what)),
        None => Ok(()),
    }
}

/// Flags, and the options that are the file system's own.
fn split(options: &[String]) -> (MountFlags, String) {
    let mut flags = MountFlags::empty();
    let mut data = Vec::new();
    for option in options {
        let (flag, on) = match option.as_str() {
            "ro" => (MountFlags::RDONLY, true),
            "rw" => (MountFlags::RDONLY, false),
            "bind" => (MountFlags::BIND, true),
            "rbind" => (MountFlags::BIND | MountFlags::REC, true),
            "nosuid" => (MountFlags::NOSUID, true),
            "suid" => (MountFlags::NOSUID, false),
            "nodev" => (MountFlags::NODEV, true),
            "dev" => (MountFlags::NODEV, false),
            "noexec" => (MountFlags::NOEXEC, true),
            "exec" => (MountFlags::NOEXEC, false),
            "noatime" => (MountFlags::NOATIME, true),
            "relatime" => (MountFlags::RELATIME, true),
            "strictatime" => (MountFlags::STRICTATIME, true),
            "nodiratime" => (MountFlags::NODIRATIME, true),
            "sync" => (MountFlags::SYNCHRONOUS, true),
            "dirsync" => (MountFlags::DIRSYNC, true),
            "async" | "defaults" | "private" | "rprivate" | "slave" | "rslave" | "loop" => continue,
            other => {
                data.push(other);
                continue;
            }
        };
        flags.set(flag, on);
    }
    (flags, data.join(","))
}

/// Takes away every mount at `target`, as far as there is any.
pub fn undo(target: &Path) {
    loop {
        match unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Nothing is mounted there (any more), or it does not exist.
            Err(Errno::INVAL | Errno::NOENT) => return,
            Err(error) => {
                crate::log::warn(format!("cannot unmount {}: {error}", target.display()));
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_an_overlay_and_of_a_bind_mount() {
        let of = |text: &str| split(&text.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(of("index=off workdir=/w lowerdir=/a:/b"), (MountFlags::empty(), "index=off,workdir=/w,lowerdir=/a:/b".into()));
        assert_eq!(of("rbind ro"), (MountFlags::BIND | MountFlags::REC | MountFlags::RDONLY, String::new()));
        assert_eq!(of("ro rw"), (MountFlags::empty(), String::new()));
    }
}
