//! Pods: which sandbox a new container belongs to.
//!
//! Kubernetes' engines say so with annotations. Others (Podman's pods, Docker's `--network container:…`) say it by the namespaces that the
//! container shall share: `/proc/PID/ns/…` of another container's stand-in, or the file of a network namespace that another container
//! has. Whoever shares the network of a live container joins its sandbox, as there is one network for each.

use super::{Container, Record};
use crate::exit::{Failure, Result, Status};
use crate::spec::{NetworkNamespace, Plan};
use control::SharedNamespaces;
use oci_spec::runtime::LinuxNamespaceType;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What a container of a pod is, and the pod's ID, as containerd and CRI-O say it.
const ANNOTATIONS: [(&str, &str); 2] = [
    ("io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"),
    ("io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID"),
];

/// The sandbox that a container joins.
#[derive(Debug)]
pub struct Pod {
    /// The container that the sandbox was made for.
    pub sandbox: Container,
    /// The namespaces of containers there that it shares.
    pub shared: SharedNamespaces,
}

/// A file of a namespace, which has no other name that would last.
pub type NamespaceId = (u64, u64);

/// Which namespace a file stands for.
pub fn namespace_id(path: &Path) -> Option<NamespaceId> {
    let attr = std::fs::metadata(path).ok()?;
    Some((attr.dev(), attr.ino()))
}

/// The network namespace that a plan names, if it is not the caller's own.
pub fn network_of(plan: &Plan) -> Option<NamespaceId> {
    let NetworkNamespace::Path(path) = &plan.network_namespace else { return None };
    namespace_id(path).filter(|id| Some(*id) != namespace_id(Path::new("/proc/self/ns/net")))
}

/// The pod that annotations name, if they are those of a container in one.
fn named(annotations: &BTreeMap<String, String>) -> Option<&str> {
    ANNOTATIONS.iter().find_map(|(kind, id)| {
        let is_further = annotations.get(*kind).is_some_and(|kind| kind == "container");
        is_further.then(|| annotations.get(*id).map(String::as_str))?
    })
}

/// `PID` of `/proc/PID/ns/…`.
fn pid_of(path: &Path) -> Option<i32> {
    path.strip_prefix("/proc").ok()?.components().next()?.as_os_str().to_str()?.parse().ok()
}

fn sandbox_of(record: &Record) -> &str {
    record.sandbox.as_deref().unwrap_or(&record.id)
}

/// The sandbox that a container with this plan and these annotations joins; `None`: it gets one of its own.
pub fn find(root: &Path, plan: &Plan, annotations: &BTreeMap<String, String>) -> Result<Option<Pod>> {
    let named = named(annotations);
    if named.is_none() && plan.joined.is_empty() && !matches!(plan.network_namespace, NetworkNamespace::Path(_)) {
        return Ok(None);
    }
    let living: Vec<Container> = Container::list(root)?.into_iter().filter(|other| other.record.ready && other.stand_in_lives()).collect();
    let stands_in = |path: &Path| {
        let pid = pid_of(path)?;
        living.iter().find(|other| other.record.stand_in.is_some_and(|process| process.pid == pid))
    };
    let sandbox = match (named, &plan.network_namespace) {
        (Some(id), _) => Some(id.to_owned()),
        (None, NetworkNamespace::Path(path)) => {
            let id = network_of(plan);
            let same = || living.iter().find(|other| id.is_some() && other.record.network == id);
            stands_in(path).or_else(same).map(|other| sandbox_of(&other.record).to_owned())
        }
        (None, _) => None,
    };
    let mut shared = SharedNamespaces::default();
    for (kind, path) in &plan.joined {
        let id = match stands_in(path) {
            Some(other) if sandbox.as_deref() == Some(sandbox_of(&other.record)) => Some(other.record.id.clone()),
            Some(other) => {
                let id = &other.record.id;
                tracing::warn!("linux.namespaces: {kind} of container {id} cannot be shared: that needs the network to be shared, too");
                continue;
            }
            // CRI-O keeps the namespaces of a pod as files of its own.
            None => named.map(str::to_owned),
        };
        match kind {
            LinuxNamespaceType::Pid => shared.pid = id,
            LinuxNamespaceType::Uts => shared.uts = id,
            LinuxNamespaceType::Ipc => shared.ipc = id,
            _ => {}
        }
    }
    let Some(id) = sandbox else { return Ok(None) };
    let found = living.into_iter().find(|other| other.record.id == id && other.record.sandbox.is_none());
    match found {
        Some(sandbox) => Ok(Some(Pod { sandbox, shared })),
        None => Err(Failure::new(Status::NotRunning, format!("the sandbox {id}, which the container belongs to, does not run"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_name_the_pod_of_its_containers_only() {
        let annotations = |kind: &str| -> BTreeMap<String, String> {
            [("io.kubernetes.cri.container-type", kind), ("io.kubernetes.cri.sandbox-id", "pod")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into()
        };
        assert_eq!(named(&annotations("container")), Some("pod"));
        assert_eq!(named(&annotations("sandbox")), None);
        assert_eq!(named(&BTreeMap::new()), None);
    }

    #[test]
    fn paths_of_processes() {
        assert_eq!(pid_of(Path::new("/proc/17/ns/ipc")), Some(17));
        for other in ["/proc/self/ns/ipc", "/run/netns/x", "/proc", "17"] {
            assert_eq!(pid_of(Path::new(other)), None, "{other}");
        }
    }
}
