//! The hierarchies that are mounted on this host.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A mounted hierarchy.
#[derive(Clone, Debug)]
pub struct Hierarchy {
    /// The controllers of a version 1 hierarchy; none: version 2.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// The group of the process that is asked about, relative to the mount.
    pub own: PathBuf,
}

/// All of them, by /proc/self/mountinfo (proc_pid_mountinfo(5)) and /proc/self/cgroup (cgroups(7)).
pub fn mounted() -> Vec<Hierarchy> {
    of_process("self")
}

/// All of them, with systemd's root in each as the own group.
pub fn of_systemd() -> Vec<Hierarchy> {
    let mut all = of_process("1");
    for hierarchy in &mut all {
        // It keeps a scope for itself.
        if hierarchy.own.ends_with("init.scope") {
            hierarchy.own.pop();
        }
    }
    all
}

fn of_process(pid: &str) -> Vec<Hierarchy> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let groups = fs::read_to_string(Path::new("/proc").join(pid).join("cgroup")).unwrap_or_default();
    parse(&mounts, &groups)
}

fn parse(mounts: &str, groups: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mounts.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let mut before = before.split(' ').skip(3);
        let (Some(root), Some(mount)) = (before.next(), before.next()) else { continue };
        let mut after = after.split(' ');
        let (Some(kind), Some(options)) = (after.next(), after.nth(1)) else { continue };
        let controllers: Vec<String> = match kind {
            "cgroup2" => Vec::new(),
            "cgroup" => {
                options.split(',').filter(|option| KNOWN.contains(option) || option.starts_with("name=")).map(str::to_owned).collect()
            }
            _ => continue,
        };
        if kind == "cgroup" && controllers.is_empty() || found.iter().any(|other| other.controllers == controllers) {
            continue;
        }
        // In a cgroup namespace, or with a part of a hierarchy mounted, the path of /proc begins above the mount.
        let own = own_group(groups, &controllers).unwrap_or("/");
        let own = own.strip_prefix(root.trim_end_matches('/')).unwrap_or(own).trim_start_matches('/');
        found.push(Hierarchy { controllers, mount: mount.into(), own: own.into() });
    }
    found
}

/// What version 1 calls its controllers.
const KNOWN: [&str; 14] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "rdma",
    "misc",
];

fn own_group<'a>(groups: &'a str, controllers: &[String]) -> Option<&'a str> {
    groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (list, path) = (fields.next()?, fields.next()?);
        let same = if controllers.is_empty() { list.is_empty() } else { list.split(',').any(|n| controllers.iter().any(|c| c == n)) };
        same.then_some(path)
    })
}

/// Version 2: gives every controller that there is to the groups between the mount and `path`. Controllers that cannot be given (the group
/// has processes, version 1 has them) are missed when a limit wants them.
pub fn delegate(mount: &Path, path: &Path) {
    let above: Vec<&Path> = path.ancestors().skip(1).take_while(|dir| dir.starts_with(mount)).collect();
    for dir in above.into_iter().rev() {
        let list = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
        for controller in list.split_whitespace() {
            if let Err(error) = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}")) {
                tracing::debug!("controller {controller} below {}: {error}", dir.display());
            }
        }
    }
}

/// Version 1: a new group has no CPU and no memory node at all; it gets those of the group above.
pub fn inherit_cpuset(mount: &Path, path: &Path) -> io::Result<()> {
    let below: Vec<&Path> = path.ancestors().take_while(|dir| *dir != mount).collect();
    for dir in below.into_iter().rev() {
        let Some(above) = dir.parent() else { continue };
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if fs::read_to_string(dir.join(file))?.trim().is_empty() {
                fs::write(dir.join(file), fs::read_to_string(above.join(file))?.trim())?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found() {
        let mounts = "30 24 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                      31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw\n\
                      32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      33 30 0:29 /box /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      34 30 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n";
        let groups = "4:memory:/box/mine\n3:cpu,cpuacct:/\n2:name=systemd:/x\n0::/u\n";
        let found = parse(mounts, groups);
        let list: Vec<_> = found.iter().map(|h| (h.controllers.join(","), h.own.to_str().unwrap())).collect();
        let expected = [("", "u"), ("cpu,cpuacct", ""), ("memory", "mine"), ("name=systemd", "x")];
        assert_eq!(list, expected.map(|(c, o)| (c.to_owned(), o)));
    }
}
