//! User and group IDs of the processes in a new user namespace.
//!
//! The sentry gets one ID only. Made by root it is `nobody` on the host, so that not even a sentry that is taken over could
//! do what root may; without root it is the user who runs it.

use crate::exit::{Failure, Result, Status};
use control::IdRange;
use std::fmt::Display;

/// The host's user and group `nobody`, by the convention of all distributions.
const NOBODY: u32 = 65534;

/// Maps ID 0 of `pid`'s user namespace to an unprivileged one of the host.
pub fn map_to_nobody(pid: i32) -> Result<()> {
    if write(pid, "uid_map", one(NOBODY)).is_ok() && write(pid, "gid_map", one(NOBODY)).is_ok() {
        return Ok(());
    }
    // Inside a container whose user namespace has no `nobody`.
    tracing::warn!("the host has no user {NOBODY}: the sentry keeps the ID of the user who runs it");
    map_to_self(pid)
}

/// Maps ID 0 of `pid`'s user namespace to the runtime's own user and group.
pub fn map_to_self(pid: i32) -> Result<()> {
    let failed =
        |error: std::io::Error| Failure::new(Status::Host, format!("cannot map user IDs: {error}; does the host allow user namespaces?"));
    // Without privileges, groups can be mapped only once nobody inside can drop one.
    write(pid, "setgroups", "deny").map_err(failed)?;
    write(pid, "uid_map", one(rustix::process::geteuid().as_raw())).map_err(failed)?;
    write(pid, "gid_map", one(rustix::process::getegid().as_raw())).map_err(failed)
}

/// Maps the IDs of a container.
pub fn map_ranges(pid: i32, users: &[IdRange], groups: &[IdRange]) -> Result<()> {
    let lines = |ranges: &[IdRange]| -> String {
        ranges.iter().map(|range| format!("{} {} {}\n", range.inside, range.outside, range.size)).collect()
    };
    let failed = |field| move |error: std::io::Error| Failure::new(Status::Host, format!("{field}: the host refuses it: {error}"));
    write(pid, "uid_map", lines(users)).map_err(failed("linux.uidMappings"))?;
    write(pid, "gid_map", lines(groups)).map_err(failed("linux.gidMappings"))
}

fn one(host: u32) -> String {
    format!("0 {host} 1\n")
}

fn write(pid: i32, file: &str, text: impl Display) -> std::io::Result<()> {
    std::fs::write(format!("/proc/{pid}/{file}"), text.to_string())
}

/// In the child, once the IDs are mapped: becomes ID 0 of its user namespace.
pub fn become_root() -> std::io::Result<()> {
    use rustix::process::{Gid, Uid};
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    // Refused where setgroups is denied; the groups are then the ones of the user who runs us.
    let _ = set_thread_groups(&[]);
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    Ok(())
}
