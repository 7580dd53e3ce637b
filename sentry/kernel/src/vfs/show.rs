//! The texts of /proc/PID/mounts and /proc/PID/mountinfo (proc_pid_mountinfo(5)).

use super::{Dentry, Mount, MountNamespace, PathRef, Reach};
use std::sync::Arc;

/// Writes a name so that white space and backslashes cannot be mistaken for the text's own (`mangle`).
fn mangle(name: &[u8], out: &mut Vec<u8>) {
    for &b in name {
        match b {
            b' ' | b'\t' | b'\n' | b'\\' | b'#' => out.extend(format!("\\{b:03o}").into_bytes()),
            _ => out.push(b),
        }
    }
}

/// Every mount that is visible below `root`, with its parent's id and the text of its place.
fn visible(root: &PathRef) -> Vec<(Arc<Mount>, u32, Vec<u8>)> {
    let Some(ns) = root.mount.namespace() else { return Vec::new() };
    let mut list = Vec::new();
    for (mount, parent, _) in MountNamespace::list(&ns) {
        let Ok(place) = mount.root_path() else { continue };
        if let (text, Reach::Inside) = place.text_from(root) {
            list.push((mount, parent, text));
        }
    }
    list
}

/// The path of a bind mount's root within its file system.
fn path_within(root: &Arc<Dentry>) -> Vec<u8> {
    let mut parts = Vec::new();
    let mut at = root.clone();
    loop {
        let (name, parent) = at.name_and_parent();
        let Some(up) = parent else { break };
        parts.push(name);
        at = up;
    }
    if parts.is_empty() {
        return b"/".to_vec();
    }
    parts.iter().rev().fold(Vec::new(), |mut text, p| {
        text.push(b'/');
        text.extend(p);
        text
    })
}

fn source(mount: &Mount) -> &[u8] {
    if mount.sb.source.is_empty() { b"none" } else { mount.sb.source.as_bytes() }
}

/// Whether the file system as a whole can be written, and its options.
fn super_options(mount: &Mount) -> String {
    let access = if mount.is_read_only() { "ro" } else { "rw" };
    format!("{access}{}", mount.sb.ops.show_options())
}

/// /proc/PID/mounts as seen from `root`.
#[must_use]
pub fn mounts(root: &PathRef) -> Vec<u8> {
    let mut out = Vec::new();
    for (mount, _, place) in visible(root) {
        mangle(source(&mount), &mut out);
        out.push(b' ');
        mangle(&place, &mut out);
        out.extend(format!(" {} {}{} 0 0\n", mount.sb.fs_name, mount.flags().show(), mount.sb.ops.show_options()).into_bytes());
    }
    out
}

/// /proc/PID/mountinfo as seen from `root`.
#[must_use]
pub fn mountinfo(root: &PathRef) -> Vec<u8> {
    let mut out = Vec::new();
    for (mount, parent, place) in visible(root) {
        let dev = mount.sb.dev;
        out.extend(format!("{} {parent} {}:{} ", mount.id, abi::fs::major(dev), abi::fs::minor(dev)).into_bytes());
        mangle(&path_within(&mount.root), &mut out);
        out.push(b' ');
        mangle(&place, &mut out);
        out.extend(format!(" {} {}- {} ", mount.flags().show(), mount.show_propagation(), mount.sb.fs_name).into_bytes());
        mangle(source(&mount), &mut out);
        out.extend(format!(" {}\n", super_options(&mount)).into_bytes());
    }
    out
}
