//! The text of a place: d_path.

use super::{FsString, PathRef};
use std::sync::Arc;

/// How a place relates to the root it is told from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Below the root.
    Inside,
    /// In the same tree of mounts but not below the root (after chroot(2)), or on a mount that was detached.
    Outside,
    /// A file without a name: the text is not a path.
    Nameless,
}

impl PathRef {
    /// The place's text as seen from `root`, ` (deleted)` not added, and how it relates to it.
    pub fn text_from(&self, root: &PathRef) -> (FsString, Reach) {
        if self.is_nameless() {
            return (self.dentry.name(), Reach::Nameless);
        }
        let mut parts = Vec::new();
        let (mut mount, mut dentry) = (self.mount.clone(), self.dentry.clone());
        let reach = loop {
            if Arc::ptr_eq(&dentry, &root.dentry) && Arc::ptr_eq(&mount, &root.mount) {
                break Reach::Inside;
            }
            if Arc::ptr_eq(&dentry, &mount.root) {
                match mount.namespace().and_then(|ns| ns.place_of(&mount)) {
                    Some(up) => (mount, dentry) = up,
                    None => break Reach::Outside,
                }
                continue;
            }
            let (name, parent) = dentry.name_and_parent();
            parts.push(name);
            match parent {
                Some(p) => dentry = p,
                None => break Reach::Outside,
            }
        };
        let mut text = FsString::new();
        for p in parts.iter().rev() {
            text.push(b'/');
            text.extend_from_slice(p);
        }
        if text.is_empty() {
            text.push(b'/');
        }
        (text, reach)
    }

    /// As /proc/PID/fd, /proc/PID/exe and /proc/PID/maps show it: with ` (deleted)`.
    pub fn text(&self, root: &PathRef) -> FsString {
        let (mut text, reach) = self.text_from(root);
        if reach != Reach::Nameless && self.dentry.is_unlinked() {
            text.extend_from_slice(b" (deleted)");
        }
        text
    }
}
