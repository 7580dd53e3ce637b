//! `linux.namespaces`. The sentry virtualizes every namespace itself, so most entries need nothing from the host; those that
//! name a path are checked, because a wrong one is a mistake that should not go unnoticed.

use super::{NetworkNamespace, bad};
use crate::exit::Result;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use std::path::PathBuf;

/// What of the namespaces matters to the host side.
#[derive(Debug)]
pub struct Namespaces {
    /// Path of the mount namespace in which host paths are resolved.
    pub mount: Option<PathBuf>,
    /// The network namespace.
    pub network: NetworkNamespace,
    /// Namespaces of kinds that a sandbox has of its own, which are to be shared with somebody.
    pub joined: Vec<(LinuxNamespaceType, PathBuf)>,
}

/// Checks the list.
pub fn check(spec: &Spec) -> Result<Namespaces> {
    let mut found = Namespaces { mount: None, network: NetworkNamespace::Host, joined: Vec::new() };
    let mut seen = Vec::new();
    let list = spec.linux().as_ref().and_then(|l| l.namespaces().as_ref());
    for (i, namespace) in list.into_iter().flatten().enumerate() {
        let field = format!("linux.namespaces[{i}]");
        let kind = namespace.typ();
        if seen.contains(&kind) {
            return Err(bad(field, format_args!("a namespace of type {kind} is there twice")));
        }
        seen.push(kind);
        if kind == LinuxNamespaceType::Network {
            found.network = namespace.path().clone().map_or(NetworkNamespace::New, NetworkNamespace::Path);
        }
        let Some(path) = namespace.path() else { continue };
        if !path.is_absolute() {
            return Err(bad(format_args!("{field}.path"), format_args!("{} is not an absolute path", path.display())));
        }
        let file =
            std::fs::File::open(path).map_err(|error| bad(format_args!("{field}.path"), format_args!("{}: {error}", path.display())))?;
        if crate::sandbox::namespace_type(&file) != Some(kind as i32) {
            return Err(bad(format_args!("{field}.path"), format_args!("{} is not a namespace of type {kind}", path.display())));
        }
        match kind {
            LinuxNamespaceType::Mount => found.mount = Some(path.clone()),
            LinuxNamespaceType::Pid | LinuxNamespaceType::Uts | LinuxNamespaceType::Ipc => found.joined.push((kind, path.clone())),
            _ => {}
        }
    }
    Ok(found)
}
