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
    let weak = Arc::downgrade(container);
    let now = |show: fn(&Container) -> String| {
        let weak: Weak<Container> = weak.clone();
        Entry::text(move || Ok(weak.upgrade().map(|container| show(&container)).unwrap_or_default().into_bytes()))
    };
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
        ("cpu.max", now(cpu_max)),
        ("cpu.max.burst", Entry::fixed("0\n")),
        ("cpu.stat", now(cpu_stat)),
        ("cpu.weight", Entry::fixed("100\n")),
        ("cpuset.cpus.effective", Entry::text(|| Ok(cpu_list().into_bytes()))),
        ("cpuset.mems.effective", Entry::fixed("0\n")),
        ("memory.current", now(|container| format!("{}\n", container.memory_used()))),
        ("memory.events", now(memory_events)),
        ("memory.high", Entry::fixed("max\n")),
        ("memory.low", Entry::fixed("0\n")),
        ("memory.max", now(|container| or_max(container.limits().memory))),
        ("memory.min", Entry::fixed("0\n")),
        ("memory.stat", now(|container| format!("anon {}\nfile 0\nkernel 0\nshmem 0\n", container.memory_used()))),
        ("memory.swap.current", Entry::fixed("0\n")),
        ("memory.swap.max", Entry::fixed("0\n")),
        ("pids.current", now(|container| format!("{}\n", container.task_count()))),
        ("pids.max", now(|container| or_max(container.limits().tasks))),
    ]))
}

fn or_max(value: Option<u64>) -> String {
    value.map_or_else(|| "max\n".to_owned(), |value| format!("{value}\n"))
}

fn cpu_max(container: &Container) -> String {
    let (quota, period) = container.limits().cpu.map_or((None, 100_000), |(quota, period)| (Some(quota), period));
    format!("{} {period}\n", or_max(quota).trim_end())
}

fn cpu_list() -> String {
    match crate::proc::cpus().saturating_sub(1) {
        0 => "0\n".to_owned(),
        last => format!("0-{last}\n"),
    }
}

fn memory_events(container: &Container) -> String {
    let kills = container.oom_kills();
    format!("low 0\nhigh 0\nmax {kills}\noom {kills}\noom_kill {kills}\noom_group_kill 0\n")
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
    let (throttles, throttled) = container.throttled();
    format!(
        "usage_usec {}\nuser_usec {user}\nsystem_usec {system}\nnr_periods {throttles}\nnr_throttled {throttles}\nthrottled_usec {}\n",
        user.saturating_add(system),
        throttled / 1000
    )
}
