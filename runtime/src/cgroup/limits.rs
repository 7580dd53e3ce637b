//! `linux.resources`: which file takes which value, in both versions of control groups.
//!
//! Devices are not here: the application's devices are the sentry's, and none of the host's can be opened.

use crate::exit::{Failure, Result, Status};
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

/// One field of the configuration.
#[derive(Debug)]
pub struct Setting {
    /// For messages.
    pub field: &'static str,
    /// As version 1 calls it.
    pub controller: &'static str,
    /// Files of version 1 and their values, in the order in which they are written.
    pub v1: Vec<(String, String)>,
    /// The same of version 2.
    pub v2: Vec<(String, String)>,
    /// The host may lack it without an error.
    pub optional: bool,
}

/// Host tasks for each task of the application: its thread in the sentry, its thread in a stub, and what a stub needs besides.
const HOST_TASKS_PER_TASK: i64 = 4;
/// Host tasks of sentry, gofer and stand-ins themselves.
const HOST_TASKS: i64 = 128;

/// Whether a configuration's resources are more than the list of devices that every engine writes.
pub fn asks_for_something(resources: &LinuxResources) -> bool {
    !settings(resources).is_empty() || resources.unified().as_ref().is_some_and(|map| !map.is_empty())
}

/// Checks what the host would refuse in its own words, or not notice.
pub fn check(resources: &LinuxResources) -> Result<()> {
    let bad = |field: &str, what: &str| Err(Failure::new(Status::BadField, format!("linux.resources.{field}: {what}")));
    if let Some(memory) = resources.memory() {
        for (field, value) in [("limit", memory.limit()), ("reservation", memory.reservation()), ("swap", memory.swap())] {
            if value.is_some_and(|value| value < -1) {
                return bad(&format!("memory.{field}"), "is negative, and not -1 for no limit");
            }
        }
        let positive = |value: Option<i64>| value.filter(|value| *value > 0);
        if let (Some(limit), Some(swap)) = (positive(memory.limit()), positive(memory.swap()))
            && swap < limit
        {
            return bad("memory.swap", "is the sum of memory and swap, and must not be less than memory.limit");
        }
        if let (Some(limit), Some(reservation)) = (positive(memory.limit()), positive(memory.reservation()))
            && reservation > limit
        {
            return bad("memory.reservation", "is greater than memory.limit");
        }
        if memory.swappiness().is_some_and(|value| value > 100) {
            return bad("memory.swappiness", "is greater than 100");
        }
    }
    if let Some(cpu) = resources.cpu() {
        if cpu.period().is_some_and(|period| period != 0 && !(1_000..=1_000_000).contains(&period)) {
            return bad("cpu.period", "is not between 1000 and 1000000 microseconds");
        }
        if cpu.quota().is_some_and(|quota| quota > 0 && quota < 1_000) {
            return bad("cpu.quota", "is less than 1000 microseconds");
        }
        for (field, list) in [("cpus", cpu.cpus()), ("mems", cpu.mems())] {
            if let Some(list) = list
                && !list.is_empty()
                && !is_list(list)
            {
                return bad(&format!("cpu.{field}"), &format!("{list:?} is not a list like 0-3,7"));
            }
        }
    }
    if let Some(blkio) = resources.block_io()
        && blkio.weight().is_some_and(|weight| weight != 0 && !(10..=1000).contains(&weight))
    {
        return bad("blockIO.weight", "is not between 10 and 1000");
    }
    for key in resources.unified().iter().flat_map(|map| map.keys()) {
        if key.contains('/') || key.is_empty() {
            return bad("unified", &format!("{key:?} is not the name of a file"));
        }
    }
    for (i, limit) in resources.hugepage_limits().iter().flatten().enumerate() {
        let size = limit.page_size();
        if !["KB", "MB", "GB"].iter().any(|unit| size.strip_suffix(unit).is_some_and(|n| n.parse::<u32>().is_ok())) {
            return bad(&format!("hugepageLimits[{i}].pageSize"), &format!("{size:?} is not a size like 2MB"));
        }
    }
    Ok(())
}

/// Numbers and ranges, separated by commas (cpuset(7)).
fn is_list(text: &str) -> bool {
    text.trim().split(',').all(|part| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        matches!((from.parse::<u32>(), to.parse::<u32>()), (Ok(from), Ok(to)) if from <= to)
    })
}

/// Everything that has to be written.
pub fn settings(resources: &LinuxResources) -> Vec<Setting> {
    let mut all = Vec::new();
    if let Some(memory) = resources.memory() {
        memory_settings(memory, &mut all);
    }
    if let Some(cpu) = resources.cpu() {
        cpu_settings(cpu, &mut all);
    }
    if let Some(pids) = resources.pids()
        && pids.limit() > 0
    {
        // The application's own limit is kept by the sentry; this one is for what the sentry needs to keep it.
        let limit = host_tasks(pids.limit());
        add(&mut all, "linux.resources.pids.limit", "pids", &[("pids.max", limit.to_string())], &[("pids.max", limit.to_string())]);
    }
    if let Some(blkio) = resources.block_io() {
        block_settings(blkio, &mut all);
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let value = limit.limit().to_string();
        let size = limit.page_size();
        all.push(Setting {
            field: "linux.resources.hugepageLimits",
            controller: "hugetlb",
            v1: vec![(format!("hugetlb.{size}.limit_in_bytes"), value.clone())],
            v2: vec![(format!("hugetlb.{size}.max"), value)],
            optional: false,
        });
    }
    if let Some(class) = resources.network().as_ref().and_then(|network| network.class_id())
        && class != 0
    {
        add(&mut all, "linux.resources.network.classID", "net_cls", &[("net_cls.classid", class.to_string())], &[]);
    }
    all
}

/// Host tasks for so many of the application.
pub fn host_tasks(limit: i64) -> i64 {
    limit.saturating_mul(HOST_TASKS_PER_TASK).saturating_add(HOST_TASKS)
}

/// Version 1 counts memory and swap together, version 2 swap alone.
pub fn swap_alone(swap: i64, limit: Option<i64>) -> i64 {
    if swap < 0 { swap } else { swap.saturating_sub(limit.unwrap_or(0).max(0)) }
}

/// Shares of version 1 as a weight of version 2: 2..=262144 to 1..=10000, by the formula of version 2's specification.
pub fn weight(shares: u64) -> u64 {
    1 + shares.clamp(2, 262_144).saturating_sub(2) * 9999 / 262_142
}

/// Likewise of block I/O: 10..=1000 to 1..=10000.
pub fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight).saturating_sub(10) * 9999 / 990
}

type Files<'a> = &'a [(&'static str, String)];

fn add(all: &mut Vec<Setting>, field: &'static str, controller: &'static str, v1: Files<'_>, v2: Files<'_>) {
    let own = |files: Files<'_>| files.iter().map(|(file, value)| ((*file).to_owned(), value.clone())).collect();
    all.push(Setting { field, controller, v1: own(v1), v2: own(v2), optional: false });
}

/// -1 is no limit.
fn or_max(value: i64) -> String {
    if value < 0 { "max".into() } else { value.to_string() }
}

fn memory_settings(memory: &LinuxMemory, all: &mut Vec<Setting>) {
    let limit = memory.limit().filter(|limit| *limit != 0);
    if let Some(limit) = limit {
        let (v1, v2) = ([("memory.limit_in_bytes", limit.to_string())], [("memory.max", or_max(limit))]);
        add(all, "linux.resources.memory.limit", "memory", &v1, &v2);
    }
    if let Some(reservation) = memory.reservation().filter(|value| *value != 0) {
        let low = if reservation < 0 { "0".to_owned() } else { reservation.to_string() };
        let (v1, v2) = ([("memory.soft_limit_in_bytes", reservation.to_string())], [("memory.low", low)]);
        add(all, "linux.resources.memory.reservation", "memory", &v1, &v2);
    }
    if let Some(swap) = memory.swap().filter(|swap| *swap != 0) {
        let alone = or_max(swap_alone(swap, limit));
        let (v1, v2) = ([("memory.memsw.limit_in_bytes", swap.to_string())], [("memory.swap.max", alone)]);
        add(all, "linux.resources.memory.swap", "memory", &v1, &v2);
        // Kernels without swap accounting have no such file, and engines set it for every container with a limit.
        if let Some(last) = all.last_mut() {
            last.optional = true;
        }
    }
    if let Some(swappiness) = memory.swappiness() {
        add(all, "linux.resources.memory.swappiness", "memory", &[("memory.swappiness", swappiness.to_string())], &[]);
    }
    if memory.disable_oom_killer() == Some(true) {
        add(all, "linux.resources.memory.disableOOMKiller", "memory", &[("memory.oom_control", "1".into())], &[]);
    }
}

fn cpu_settings(cpu: &LinuxCpu, all: &mut Vec<Setting>) {
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        let (v1, v2) = ([("cpu.shares", shares.to_string())], [("cpu.weight", weight(shares).to_string())]);
        add(all, "linux.resources.cpu.shares", "cpu", &v1, &v2);
    }
    let period = cpu.period().filter(|period| *period != 0);
    let quota = cpu.quota().filter(|quota| *quota != 0);
    if period.is_some() || quota.is_some() {
        let mut v1 = Vec::new();
        v1.extend(period.map(|period| ("cpu.cfs_period_us", period.to_string())));
        v1.extend(quota.map(|quota| ("cpu.cfs_quota_us", quota.to_string())));
        let v2 = [("cpu.max", format!("{} {}", quota.map_or("max".into(), or_max), period.unwrap_or(100_000)))];
        add(all, "linux.resources.cpu.quota and period", "cpu", &v1, &v2);
    }
    if let Some(burst) = cpu.burst() {
        let (v1, v2) = ([("cpu.cfs_burst_us", burst.to_string())], [("cpu.max.burst", burst.to_string())]);
        add(all, "linux.resources.cpu.burst", "cpu", &v1, &v2);
    }
    if let Some(idle) = cpu.idle() {
        let files = [("cpu.idle", idle.to_string())];
        add(all, "linux.resources.cpu.idle", "cpu", &files, &files);
    }
    if let Some(period) = cpu.realtime_period().filter(|period| *period != 0) {
        add(all, "linux.resources.cpu.realtimePeriod", "cpu", &[("cpu.rt_period_us", period.to_string())], &[]);
    }
    if let Some(runtime) = cpu.realtime_runtime().filter(|runtime| *runtime != 0) {
        add(all, "linux.resources.cpu.realtimeRuntime", "cpu", &[("cpu.rt_runtime_us", runtime.to_string())], &[]);
    }
    if let Some(cpus) = cpu.cpus().as_ref().filter(|list| !list.is_empty()) {
        let files = [("cpuset.cpus", cpus.clone())];
        add(all, "linux.resources.cpu.cpus", "cpuset", &files, &files);
    }
    if let Some(mems) = cpu.mems().as_ref().filter(|list| !list.is_empty()) {
        let files = [("cpuset.mems", mems.clone())];
        add(all, "linux.resources.cpu.mems", "cpuset", &files, &files);
    }
}

fn block_settings(blkio: &LinuxBlockIo, all: &mut Vec<Setting>) {
    if let Some(weight) = blkio.weight().filter(|weight| *weight != 0) {
        let (v1, v2) = ([("blkio.bfq.weight", weight.to_string())], [("io.weight", format!("default {}", io_weight(weight)))]);
        add(all, "linux.resources.blockIO.weight", "blkio", &v1, &v2);
        // Only some schedulers have weights.
        if let Some(last) = all.last_mut() {
            last.optional = true;
        }
    }
    let mut throttle = |field, list: &Option<Vec<LinuxThrottleDevice>>, v1: &'static str, v2: &'static str| {
        for device in list.iter().flatten() {
            let number = format!("{}:{}", device.major(), device.minor());
            let rate = device.rate();
            let limit = if rate == 0 { "max".to_owned() } else { rate.to_string() };
            add(all, field, "blkio", &[(v1, format!("{number} {rate}"))], &[("io.max", format!("{number} {v2}={limit}"))]);
        }
    };
    throttle("linux.resources.blockIO.throttleReadBpsDevice", blkio.throttle_read_bps_device(), "blkio.throttle.read_bps_device", "rbps");
    throttle(
        "linux.resources.blockIO.throttleWriteBpsDevice",
        blkio.throttle_write_bps_device(),
        "blkio.throttle.write_bps_device",
        "wbps",
    );
    throttle(
        "linux.resources.blockIO.throttleReadIOPSDevice",
        blkio.throttle_read_iops_device(),
        "blkio.throttle.read_iops_device",
        "riops",
    );
    throttle(
        "linux.resources.blockIO.throttleWriteIOPSDevice",
        blkio.throttle_write_iops_device(),
        "blkio.throttle.write_iops_device",
        "wiops",
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(json: &str) -> LinuxResources {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn fields_become_files() {
        let all = settings(&resources(r#"{"memory":{"limit":1048576,"swap":2097152},"cpu":{"shares":1024,"quota":50000}}"#));
        let v1: Vec<_> = all.iter().flat_map(|s| &s.v1).map(|(f, v)| format!("{f}={v}")).collect();
        let v2: Vec<_> = all.iter().flat_map(|s| &s.v2).map(|(f, v)| format!("{f}={v}")).collect();
        assert_eq!(
            v1.join(" "),
            "memory.limit_in_bytes=1048576 memory.memsw.limit_in_bytes=2097152 cpu.shares=1024 cpu.cfs_quota_us=50000"
        );
        assert_eq!(v2.join(" "), "memory.max=1048576 memory.swap.max=1048576 cpu.weight=39 cpu.max=50000 100000");
    }

    #[test]
    fn lists_of_cpus() {
        for good in ["0", "0-3", "0-1,3", "7,9-12"] {
            assert!(is_list(good), "{good}");
        }
        for bad in ["", "a", "3-1", "0-", "-1", "1,,2"] {
            assert!(!is_list(bad), "{bad}");
        }
    }

    #[test]
    fn devices_alone_are_no_limit() {
        assert!(!asks_for_something(&resources(r#"{"devices":[{"allow":false,"access":"rwm"}],"pids":{"limit":0}}"#)));
        assert!(asks_for_something(&resources(r#"{"pids":{"limit":5}}"#)));
    }
}
