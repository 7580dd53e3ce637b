//! What is known of a container: [`Record`] on disk, and [`State`], the state object of the OCI runtime specification.

use super::pod::NamespaceId;
use crate::cgroup::Cgroup;
use crate::spec::OCI_VERSION;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lifecycle {
    /// The sandbox is being made.
    Creating,
    /// The application waits to be started.
    Created,
    /// The application runs.
    Running,
    /// It is held.
    Paused,
    /// It has ended.
    Stopped,
}

impl Lifecycle {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Lifecycle::Creating => "creating",
            Lifecycle::Created => "created",
            Lifecycle::Running => "running",
            Lifecycle::Paused => "paused",
            Lifecycle::Stopped => "stopped",
        }
    }
}

/// `state.json`. Whether a container runs is not in it: that is asked of what lives.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Its name.
    pub id: String,
    /// Absolute path of the bundle.
    pub bundle: PathBuf,
    /// Absolute path of the root file system.
    pub rootfs: PathBuf,
    /// When it was made, RFC 3339.
    pub created: String,
    /// The user who made it.
    pub owner: u32,
    /// From the configuration.
    pub annotations: BTreeMap<String, String>,
    /// The stand-in; none before there is one.
    pub stand_in: Option<ProcessId>,
    /// The container that its sandbox was made for, if that is another one.
    #[serde(default)]
    pub sandbox: Option<String>,
    /// The network namespace on the host that it has, if that is not the host's own.
    #[serde(default)]
    pub network: Option<NamespaceId>,
    /// Its control groups.
    pub cgroup: Cgroup,
    /// It was made for a service manager that wants to know when it is ready.
    #[serde(default)]
    pub notify: bool,
    /// What the application is told that it may use.
    #[serde(default)]
    pub limits: control::Limits,
    /// It has been made completely.
    pub ready: bool,
    /// It was started, when last heard of.
    pub started: bool,
}

/// The state object.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    oci_version: &'static str,
    /// Its name.
    pub id: String,
    /// The stand-in's process ID; 0 if there is none.
    pub pid: i32,
    /// Where it is in its life.
    pub status: Lifecycle,
    /// Absolute path of the bundle.
    pub bundle: PathBuf,
    /// Absolute path of the root file system (runc's own field).
    pub rootfs: PathBuf,
    /// When it was made (runc's own field).
    pub created: String,
    /// From the configuration.
    pub annotations: BTreeMap<String, String>,
    /// The name of the user who made it (runc's own field).
    pub owner: String,
}

impl State {
    /// The state object of a container that is in this moment of its life.
    pub fn new(record: &Record, status: Lifecycle) -> State {
        let pid = match status {
            Lifecycle::Stopped => 0,
            _ => record.stand_in.map_or(0, |process| process.pid),
        };
        State {
            oci_version: OCI_VERSION,
            id: record.id.clone(),
            pid,
            status,
            bundle: record.bundle.clone(),
            rootfs: record.rootfs.clone(),
            created: record.created.clone(),
            annotations: record.annotations.clone(),
            owner: user_name(record.owner),
        }
    }
}

/// The name of a host user, or else the number.
fn user_name(uid: u32) -> String {
    let number = uid.to_string();
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1) == Some(&number)).then(|| name.to_owned())
    });
    found.unwrap_or(number)
}

/// A process of the host, which a later one with the same number is not taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: i32,
    /// When it began, in clock ticks since boot.
    pub start: u64,
}

impl ProcessId {
    /// Of the process that now has this number.
    pub fn of(pid: i32) -> Option<ProcessId> {
        let (_, start) = stat(pid)?;
        Some(ProcessId { pid, start })
    }

    /// Whether it lives: a zombie has ended.
    pub fn lives(self) -> bool {
        stat(self.pid).is_some_and(|(state, start)| start == self.start && !matches!(state, 'Z' | 'X'))
    }
}

/// The state letter and start time of a process (proc_pid_stat(5)).
fn stat(pid: i32) -> Option<(char, u64)> {
    let text = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    // The name, in parentheses, may contain anything.
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_told_apart() {
        let own = ProcessId::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.lives());
        assert!(!ProcessId { start: own.start + 1, ..own }.lives());
        assert!(ProcessId::of(i32::MAX).is_none());
    }
}
