//! systemd's driver: systemd makes the groups that it manages, for a transient scope with the container's processes, so that they have a
//! place in its tree and its limits; whatever else there is to set or to join is done in the directories, as without it.
//!
//! [`Unit`] is a container's scope, [`properties`](mod@properties) says in systemd's words what the configuration asks for, [`manager`] speaks with it.

mod manager;
mod properties;
mod variant;

pub use properties::{ANNOTATION, annotated};

use crate::exit::{Failure, Result, Status};
use manager::Manager;
use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use zbus::Variant;

/// Controllers of version 1 whose groups systemd makes and removes.
const MANAGED: [&str; 7] = ["name=systemd", "cpu", "cpuacct", "memory", "pids", "devices", "blkio"];

/// A property of a unit, as it is sent.
pub type Property = (String, Variant<'static>);

/// A container's scope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// `PREFIX-NAME.scope`.
    pub name: String,
    /// The slice that it is in.
    pub slice: String,
}

impl Unit {
    /// What `linux.cgroupsPath` names: `SLICE:PREFIX:NAME`, any of them possibly empty. Without it, as with runc, a scope in system.slice.
    pub fn of(path: Option<&Path>, id: &str) -> Result<Unit> {
        let text = path.map(|path| path.to_string_lossy().into_owned()).unwrap_or_else(|| format!(":caisson:{id}"));
        let bad = |what: &str| Failure::new(Status::BadField, format!("linux.cgroupsPath: {text}: {what}"));
        let parts: Vec<&str> = text.split(':').collect();
        let &[slice, prefix, name] = parts.as_slice() else {
            return Err(bad("is not of the form slice:prefix:name, which systemd's driver takes"));
        };
        let slice = if slice.is_empty() { "system.slice" } else { slice };
        if slice_path(slice).is_none() {
            return Err(bad("the first part is not the name of a slice"));
        }
        let valid = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.\\@".contains(c));
        if name.is_empty() || !valid(name) || !valid(prefix) {
            return Err(bad("the other parts are not those of a unit's name"));
        }
        if name.ends_with(".slice") {
            return Err(bad("a container cannot be a slice"));
        }
        let name = if prefix.is_empty() { format!("{name}.scope") } else { format!("{prefix}-{name}.scope") };
        // systemd's own limit.
        if name.len() > 255 {
            return Err(bad("the unit's name is longer than 255 characters"));
        }
        Ok(Unit { name, slice: slice.to_owned() })
    }

    /// Its group below systemd's root.
    pub fn path(&self) -> PathBuf {
        slice_path(&self.slice).unwrap_or_default().join(&self.name)
    }

    /// Has systemd make the scope, with this process in it.
    pub fn start(&self, resources: Option<&LinuxResources>, annotated: &[(String, String)], v2: bool) -> Result<()> {
        let mut all = properties::of_scope(self, v2);
        all.extend(resources.map(|resources| properties::limits(resources, v2)).unwrap_or_default());
        for (name, text) in annotated {
            let (name, value) = properties::from_annotation(name, text)?;
            all.retain(|(other, _)| *other != name);
            all.push((name, value));
        }
        Manager::connect()?.start(&self.name, &all)
    }

    /// Tells systemd of new limits, which it would undo otherwise some day.
    pub fn set(&self, resources: &LinuxResources, v2: bool) -> Result<()> {
        let all = properties::limits(resources, v2);
        if all.is_empty() { Ok(()) } else { Manager::connect()?.set(&self.name, &all) }
    }

    /// Ends the scope and what it has; that it is gone is no error.
    pub fn stop(&self) -> Result<()> {
        Manager::connect()?.stop(&self.name, &self.slice)
    }
}

/// Whether systemd makes and removes the groups of a hierarchy with these controllers; none: version 2.
pub fn manages(controllers: &[String]) -> bool {
    controllers.is_empty() || controllers.iter().any(|name| MANAGED.contains(&name.as_str()))
}

/// Where a slice is: `a-b.slice` in `a.slice`, and `-.slice` is the root (systemd.slice(5)).
fn slice_path(slice: &str) -> Option<PathBuf> {
    let name = slice.strip_suffix(".slice")?;
    if name == "-" {
        return Some(PathBuf::new());
    }
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:\\@".contains(c)) {
        return None;
    }
    let mut path = PathBuf::new();
    let mut above = String::new();
    for part in name.split('-') {
        if part.is_empty() {
            return None;
        }
        path.push(format!("{above}{part}.slice"));
        above.push_str(part);
        above.push('-');
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(path: &str) -> Result<Unit> {
        Unit::of(Some(Path::new(path)), "id")
    }

    #[test]
    fn paths_name_scopes() {
        for (path, group) in [
            ("system.slice:docker:0123", "system.slice/docker-0123.scope"),
            (":cri-containerd:x", "system.slice/cri-containerd-x.scope"),
            ("machine.slice::x", "machine.slice/x.scope"),
            ("-.slice:a:b", "a-b.scope"),
            (
                "kubepods-burstable-pod1_2.slice:crio:x",
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/crio-x.scope",
            ),
        ] {
            assert_eq!(unit(path).unwrap().path(), Path::new(group), "{path}");
        }
        assert_eq!(Unit::of(None, "id").unwrap().path(), Path::new("system.slice/caisson-id.scope"));
    }

    #[test]
    fn others_do_not() {
        for bad in [
            "/docker/x",
            "a:b",
            "a:b:c",
            "a--b.slice:x:y",
            "a/b.slice:x:y",
            "-a.slice:x:y",
            "a.slice:x:",
            "a.slice:x:y/z",
            "a.slice:x:b.slice",
            "a:b:c:d",
        ] {
            assert_eq!(unit(bad).unwrap_err().status, Status::BadField, "{bad}");
        }
    }
}
