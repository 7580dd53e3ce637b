//! `mounts`: what the sentry mounts itself, and what the gofer must serve for it.

use super::{Attach, bad, guest_path, resolve};
use crate::cli::Settings;
use crate::exit::{Failure, Result, Status};
use control::{Mount, MountFlags, MountKind, Overlay};
use oci_spec::runtime::Mount as OciMount;
use std::path::{Path, PathBuf};

/// The options that [`options`] understands; others are the file system's own.
pub const OPTIONS: &[&str] = &[
    "ro",
    "rw",
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "noexec",
    "exec",
    "noatime",
    "atime",
    "defaults",
    "bind",
    "rbind",
    "private",
    "rprivate",
    "shared",
    "rshared",
    "slave",
    "rslave",
    "unbindable",
    "runbindable",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "diratime",
    "nodiratime",
    "sync",
    "async",
    "dirsync",
    "lazytime",
    "nolazytime",
    "mand",
    "nomand",
    "iversion",
    "silent",
];

/// The options of one mount, sorted.
#[derive(Debug, Default)]
struct Options {
    flags: MountFlags,
    bind: bool,
    recursive: bool,
    /// What the host mounts later shows; with or without `r`, as every source is taken with what is mounted below it, or alone.
    follows_host: bool,
    data: Vec<String>,
}

/// Checks and converts the list; bind mounts append to `attaches`.
pub fn convert(mounts: &[OciMount], bundle: &Path, settings: &Settings, attaches: &mut Vec<Attach>) -> Result<Vec<Mount>> {
    let mut converted = Vec::with_capacity(mounts.len() + 1);
    for (i, mount) in mounts.iter().enumerate() {
        let field = format!("mounts[{i}]");
        let destination = mount
            .destination()
            .to_str()
            .ok_or_else(|| "is not UTF-8".to_owned())
            .and_then(guest_path)
            .map_err(|what| bad(format_args!("{field}.destination"), what))?;
        let list = mount.options().as_deref().unwrap_or(&[]);
        if list.iter().any(|option| matches!(option.as_str(), "idmap" | "ridmap")) {
            return Err(bad(format_args!("{field}.options"), "idmap is not supported: leave it out"));
        }
        if mount.uid_mappings().is_some() || mount.gid_mappings().is_some() {
            return Err(bad(format_args!("{field}.uidMappings"), "mounts with mapped IDs are not supported: leave the mappings out"));
        }
        let options = options(list);
        let typ = mount.typ().as_deref().unwrap_or(if options.bind { "bind" } else { "" });
        if options.bind || typ == "bind" || typ == "rbind" {
            let source = mount.source().as_ref().ok_or_else(|| bad(format_args!("{field}.source"), "is missing"))?;
            let source = resolve(bundle, source);
            converted.push(bind(&field, source, destination, options.flags, options.recursive, settings, attaches)?);
            if let Some(attach) = attaches.last_mut() {
                attach.follows_host = options.follows_host;
            }
            continue;
        }
        let kind = kind(typ, &destination).ok_or_else(|| {
            bad(
                format_args!("{field}.type"),
                format_args!("{typ:?} is none of proc, sysfs, tmpfs, devpts, mqueue, cgroup, cgroup2 and bind"),
            )
        })?;
        converted.push(Mount { destination, kind, flags: options.flags, data: options.data });
    }
    // The specification demands devices even where the configuration mounts nothing on /dev.
    if !converted.iter().any(|mount| mount.destination == "/dev") {
        let flags = MountFlags { nosuid: true, noexec: true, ..MountFlags::default() };
        let dev = Mount { destination: "/dev".into(), kind: MountKind::Dev, flags, data: vec!["mode=755".into()] };
        converted.insert(0, dev);
    }
    Ok(converted)
}

/// The mount of the host's `source`, which must exist, at the container's `destination`.
pub fn bind(
    field: &str,
    source: PathBuf,
    destination: String,
    flags: MountFlags,
    recursive: bool,
    settings: &Settings,
    attaches: &mut Vec<Attach>,
) -> Result<Mount> {
    let metadata = std::fs::metadata(&source)
        .map_err(|error| Failure::new(Status::NoMountSource, format!("{field}.source: {}: {error}", source.display())))?;
    let overlay = if flags.readonly { Overlay::None } else { settings.bind_overlay };
    let attach = u32::try_from(attaches.len()).map_err(|_| bad(field, "there are too many bind mounts"))?;
    attaches.push(Attach { source, readonly: flags.readonly || overlay == Overlay::Memory, recursive, ..Attach::default() });
    let kind = MountKind::Bind { attach, directory: metadata.is_dir(), overlay };
    Ok(Mount { destination, kind, flags, data: Vec::new() })
}

/// What the sentry mounts for a type. A tmpfs on `/dev` is where runc makes the default devices.
fn kind(typ: &str, destination: &str) -> Option<MountKind> {
    Some(match typ {
        "proc" => MountKind::Proc,
        "sysfs" => MountKind::Sysfs,
        "tmpfs" | "devtmpfs" | "dev" if destination == "/dev" => MountKind::Dev,
        "tmpfs" => MountKind::Tmpfs,
        "devpts" => MountKind::Devpts,
        "mqueue" => MountKind::Mqueue,
        "cgroup" | "cgroup2" => MountKind::Cgroup,
        _ => return None,
    })
}

/// Sorts options into flags, what mount(8) takes and has no meaning here, and the file system's own.
fn options(list: &[String]) -> Options {
    let mut options = Options::default();
    for option in list {
        let flags = &mut options.flags;
        match option.as_str() {
            "ro" => flags.readonly = true,
            "rw" => flags.readonly = false,
            "nosuid" => flags.nosuid = true,
            "suid" => flags.nosuid = false,
            "nodev" => flags.nodev = true,
            "dev" => flags.nodev = false,
            "noexec" => flags.noexec = true,
            "exec" => flags.noexec = false,
            "noatime" => flags.noatime = true,
            "atime" => flags.noatime = false,
            "defaults" => *flags = MountFlags::default(),
            "bind" => options.bind = true,
            "rbind" => (options.bind, options.recursive) = (true, true),
            // What the sandbox mounts never appears on the host; what the host mounts appears in it if asked for.
            "shared" | "rshared" | "slave" | "rslave" => options.follows_host = true,
            "private" | "rprivate" | "unbindable" | "runbindable" => options.follows_host = false,
            // Times of access are kept as relatime says, whatever is asked for.
            "relatime" | "norelatime" | "strictatime" | "nostrictatime" | "diratime" | "nodiratime" => {}
            // Everything is as durable as the host's cache, and the sentry has no quota or interval of its own.
            "sync" | "async" | "dirsync" | "lazytime" | "nolazytime" | "mand" | "nomand" | "iversion" | "silent" => {}
            // Copying up what is below a tmpfs, and ID mapping, are asked for by name only.
            own => options.data.push(own.to_owned()),
        }
    }
    options
}
