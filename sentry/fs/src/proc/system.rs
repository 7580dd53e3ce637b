//! The files directly under `/proc` that are about container and sandbox as a whole.

use super::{HostInfo, sysctl, sysvipc, viewer};
use crate::synthetic::Entry;
use abi::Result;
use kernel::{
    Container, Kernel,
    kernel::{UTS_RELEASE, UTS_SYSNAME, UTS_VERSION},
};
use std::fmt::Write;
use std::sync::{Arc, atomic::Ordering};

/// Ticks of a second in times that are told in ticks (`USER_HZ`).
pub const USER_HZ: u64 = 100;

/// All fixed entries.
pub fn entries(container: &Arc<Container>) -> Vec<(&'static str, Entry)> {
    let text = |make: fn(&Container) -> String| {
        let container = container.clone();
        Entry::text(move || Ok(make(&container).into_bytes()))
    };
    let link = |to: &'static str| Entry::link(move || Ok(to.as_bytes().to_vec()));
    vec![
        ("self", Entry::link(|| Ok(viewer()?.tgid().to_string().into_bytes()))),
        ("thread-self", Entry::link(|| viewer().map(|t| format!("{}/task/{}", t.tgid(), t.tid()).into_bytes()))),
        ("mounts", link("self/mounts")),
        ("net", link("self/net")),
        ("cpuinfo", text(cpuinfo)),
        ("meminfo", text(meminfo)),
        ("stat", text(stat)),
        ("loadavg", text(loadavg)),
        ("uptime", text(uptime)),
        ("version", text(version)),
        ("filesystems", text(filesystems)),
        ("locks", text(|container| kernel::vfs::locks::proc_locks(container.pids.number))),
        ("devices", text(devices)),
        ("vmstat", text(vmstat)),
        ("cmdline", Entry::fixed("\n")),
        ("cgroups", Entry::fixed("#subsys_name\thierarchy\tnum_cgroups\tenabled\n")),
        ("diskstats", Entry::fixed("")),
        ("interrupts", Entry::fixed("")),
        ("modules", Entry::fixed("")),
        ("partitions", Entry::fixed("major minor  #blocks  name\n\n")),
        ("swaps", Entry::fixed("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n")),
        ("key-users", Entry::fixed("")),
        ("keys", Entry::fixed("")),
        ("sysvipc", sysvipc::tree(container)),
        ("sys", sysctl::tree(container)),
    ]
}

fn host_info(kernel: &Kernel) -> Arc<HostInfo> {
    kernel.attachments.get_or_insert_with(HostInfo::default)
}

/// How many processors the sandbox has.
pub fn cpus() -> usize {
    host::process::machine().cpus
}

fn cpuinfo(container: &Container) -> String {
    let info = host_info(container.kernel());
    if !info.cpuinfo.is_empty() {
        return info.cpuinfo.clone();
    }
    let mut out = String::new();
    for i in 0..cpus() {
        // Writing to a String cannot fail.
        let _ = write!(out, "processor\t: {i}\nmodel name\t: unknown\n\n");
    }
    out
}

fn meminfo(container: &Container) -> String {
    let used = container.memory_used();
    let total = container.memory_total().max(used) / 1024;
    let used = used / 1024;
    let free = total - used;
    let mut out = String::new();
    let rows = [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", free),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", 0),
        ("Active", used),
        ("Inactive", 0),
        ("Active(anon)", used),
        ("Inactive(anon)", 0),
        ("Active(file)", 0),
        ("Inactive(file)", 0),
        ("Unevictable", 0),
        ("Mlocked", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", 0),
        ("Writeback", 0),
        ("AnonPages", used),
        ("Mapped", 0),
        ("Shmem", 0),
        ("KReclaimable", 0),
        ("Slab", 0),
        ("SReclaimable", 0),
        ("SUnreclaim", 0),
        ("KernelStack", 0),
        ("PageTables", 0),
        ("CommitLimit", total),
        ("Committed_AS", used),
        ("VmallocTotal", 34_359_738_367),
        ("VmallocUsed", 0),
        ("VmallocChunk", 0),
        ("HugePages_Total", 0),
        ("HugePages_Free", 0),
        ("Hugepagesize", 2048),
    ];
    for (name, kib) in rows {
        let label = format!("{name}:");
        let unit = if name.starts_with("HugePages_") { "" } else { " kB" };
        let _ = writeln!(out, "{label:<15} {kib:>8}{unit}");
    }
    out
}

/// User and system time of all processes that are there, and of those that were waited for, in nanoseconds.
fn busy(kernel: &Kernel) -> (u64, u64) {
    kernel.processes().iter().fold((0, 0), |(u, s), p| {
        let usage = p.usage();
        (u + usage.user_ns, s + usage.system_ns)
    })
}

fn stat(container: &Container) -> String {
    let kernel = container.kernel();
    let ticks = |ns: u64| ns * USER_HZ / 1_000_000_000;
    let n = cpus() as u64;
    let (user, system) = busy(kernel);
    let idle = (kernel.uptime_ns() * n).saturating_sub(user + system);
    let mut out = format!("cpu  {} 0 {} {} 0 0 0 0 0 0\n", ticks(user), ticks(system), ticks(idle));
    for i in 0..n {
        let _ = writeln!(out, "cpu{i} {} 0 {} {} 0 0 0 0 0 0", ticks(user / n), ticks(system / n), ticks(idle / n));
    }
    let booted = host::time::realtime_ns().saturating_sub(kernel.uptime_ns()) / 1_000_000_000;
    let running = kernel.processes().iter().filter(|p| p.leader().is_some_and(|t| t.state().letter() == 'R')).count();
    let _ = write!(
        out,
        "intr 0\nctxt 0\nbtime {booted}\nprocesses {}\nprocs_running {}\nprocs_blocked 0\nsoftirq 0 0 0 0 0 0 0 0 0 0 0\n",
        kernel.forks.load(Ordering::Relaxed),
        running.max(1)
    );
    out
}

fn loadavg(container: &Container) -> String {
    let kernel = container.kernel();
    let running = kernel.processes().iter().filter(|p| p.leader().is_some_and(|t| t.state().letter() == 'R')).count();
    format!("0.00 0.00 0.00 {}/{} {}\n", running.max(1), kernel.task_count(), container.pids.last_pid())
}

fn uptime(container: &Container) -> String {
    let kernel = container.kernel();
    let (user, system) = busy(kernel);
    let up = kernel.uptime_ns();
    let idle = (up * cpus() as u64).saturating_sub(user + system);
    let seconds = |ns: u64| format!("{}.{:02}", ns / 1_000_000_000, ns % 1_000_000_000 / 10_000_000);
    format!("{} {}\n", seconds(up), seconds(idle))
}

fn version(_: &Container) -> String {
    format!("{UTS_SYSNAME} version {UTS_RELEASE} (caisson) {UTS_VERSION}\n")
}

fn filesystems(container: &Container) -> String {
    container.kernel().vfs.fs_types().iter().fold(String::new(), |out, f| out + "nodev\t" + f.name() + "\n")
}

fn devices(container: &Container) -> String {
    let mut out = String::from("Character devices:\n");
    for (major, name) in container.kernel().vfs.char_device_names() {
        let _ = writeln!(out, "{major:>3} {name}");
    }
    out + "\nBlock devices:\n"
}

fn vmstat(container: &Container) -> String {
    let pages = |bytes: u64| bytes / abi::PAGE_SIZE;
    let used = container.memory_used();
    let free = container.memory_total().saturating_sub(used);
    format!(
        "nr_free_pages {}\nnr_anon_pages {}\nnr_mapped 0\nnr_file_pages 0\npgpgin 0\npgpgout 0\npswpin 0\npswpout 0\npgfault 0\npgmajfault 0\n",
        pages(free),
        pages(used)
    )
}

/// A settings file's text: what `value` gives, and a line end.
pub fn line(value: impl ToString) -> Result<Vec<u8>> {
    let mut s = value.to_string();
    s.push('\n');
    Ok(s.into_bytes())
}
