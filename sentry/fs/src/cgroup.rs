//! cgroup2: the one group that a container sees of itself, with its limits and what it uses, read-only. It is what language runtimes
//! size their heaps and thread pools by.

use crate::synthetic::{self, Entry, Fixed};
use abi::Result;
use kernel::{
    Container,
    cred::Credentials,
    vfs::{FsType, MountSource, SbFlags, SuperBlock},
};
use std::fmt::Write;
use std::sync::{Arc, Weak};

/// `CGROUP2_SUPER_MAGIC`
const MAGIC: i64 = 0x6367_7270;

/// The file system type.
pub struct Cgroup2;

impl FsType for Cgroup2 {
    fn name(&self) -> &'static str {
        "cgroup2"
    }
    fn mount(&self, container: &Arc<Container>, _: &Credentials, source: MountSource<'_>) -> Result<Arc<SuperBlock>> {
        let flags = SbFlags::NO_DCACHE | SbFlags::NODEV;
        Ok(synthetic::superblock("cgroup2", source.source, flags, MAGIC, tree(container)))
    }
}

fn tree(container: &Arc<Container>) -> Entry {
    let limits = &container.config;
    let or_max = |value: Option<u64>| value.map_or_else(|| "max\n".to_owned(), |value| format!("{value}\n"));
    let constant = |text: String| Entry::text(move || Ok(text.clone().into_bytes()));
    let weak = Arc::downgrade(container);
    let now = |show: fn(&Container) -> String| {
        let weak: Weak<Container> = weak.clone();
        Entry::text(move || Ok(weak.upgrade().map(|container| show(&container)).unwrap_or_default().into_bytes()))
    };
    let (quota, period) = limits.cpu.map_or((None, 100_000), |(quota, period)| (Some(quota), period));
    let cpus = crate::proc::cpus().saturating_sub(1);
    let cpus = if cpus == 0 { "0\n".to_owned() } else { format!("0-{cpus}\n") };
    Entry::dir(Fixed::new(vec![
        ("cgroup.controllers", Entry::fixed("cpuset cpu memory pids\n")),
        ("cgroup.events", Entry::fixed("populated 1\nfrozen 0\n")),
        ("cgroup.freeze", Entry::fixed("0\n")),
        ("cgroup.max.depth", Entry::fixed("max\n")),
        ("cgroup.max.descendants", Entry::fixed("max\n")),
        ("cgroup.procs", now(processes)),
        ("cgroup.stat", Entry::fixed("nr_descendants 0\nnr_dying_descendants 0\n")),
        ("cgroup.subtree_control", Entry::fixed("")),
        ("cgroup.threads", now(threads)),
        ("cgroup.type", Entry::fixed("domain\n")),
        ("cpu.max", constant(format!("{} {period}\n", or_max(quota).trim_end()))),
        ("cpu.max.burst", Entry::fixed("0\n")),
        ("cpu.stat", now(cpu_stat)),
        ("cpu.weight", Entry::fixed("100\n")),
        ("cpuset.cpus.effective", constant(cpus)),
        ("cpuset.mems.effective", Entry::fixed("0\n")),
        ("memory.current", now(|container| format!("{}\n", container.memory_used()))),
        ("memory.events", Entry::fixed("low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n")),
        ("memory.high", Entry::fixed("max\n")),
        ("memory.low", Entry::fixed("0\n")),
        ("memory.max", constant(or_max(limits.memory))),
        ("memory.min", Entry::fixed("0\n")),
        ("memory.stat", now(|container| format!("anon {}\nfile 0\nkernel 0\nshmem 0\n", container.memory_used()))),
        ("memory.swap.current", Entry::fixed("0\n")),
        ("memory.swap.max", Entry::fixed("0\n")),
        ("pids.current", now(|container| format!("{}\n", container.task_count()))),
        ("pids.max", constant(or_max(limits.tasks))),
    ]))
}

fn processes(container: &Container) -> String {
    container.processes().iter().filter(|group| !group.is_dead()).fold(String::new(), |mut out, group| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}", group.tgid);
        out
    })
}

fn threads(container: &Container) -> String {
    container.processes().iter().flat_map(|group| group.threads()).fold(String::new(), |mut out, task| {
        let _ = writeln!(out, "{}", task.tid());
        out
    })
}

fn cpu_stat(container: &Container) -> String {
    let sum = container.usage();
    let (user, system) = (sum.user_ns / 1000, sum.system_ns / 1000);
    format!(
        "usage_usec {}\nuser_usec {user}\nsystem_usec {system}\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n",
        user.saturating_add(system)
    )
}
