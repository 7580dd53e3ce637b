//! `caisson update` and `caisson events`: limits, and what is used of them.

use super::Settings;
use crate::container::{Container, Lifecycle};
use crate::exit::{Failure, Result, Status};
use crate::process::PATIENCE;
use crate::spec;
use control::{Event, Request};
use oci_spec::runtime::LinuxResources;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Flags of `caisson update`.
#[derive(Debug, clap::Args)]
pub struct UpdateArgs {
    /// File with the resources, as in config.json; - is standard input
    #[arg(short, long, value_name = "FILE")]
    resources: Option<PathBuf>,
    /// Weight of block I/O, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u64>,
    /// Period of --cpu-quota in microseconds
    #[arg(long, value_name = "US")]
    cpu_period: Option<u64>,
    /// Processor time in each period, in microseconds
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// Processor time that can be saved up, in microseconds
    #[arg(long, value_name = "US")]
    cpu_burst: Option<u64>,
    /// Share of the processors, relative to others
    #[arg(long, value_name = "SHARE")]
    cpu_share: Option<u64>,
    /// Period of real-time scheduling in microseconds
    #[arg(long, value_name = "US")]
    cpu_rt_period: Option<u64>,
    /// Real-time processor time in each period, in microseconds
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    cpu_rt_runtime: Option<i64>,
    /// Whether only idle processors are used: 0 or 1
    #[arg(long, value_name = "IDLE")]
    cpu_idle: Option<i64>,
    /// Processors that may be used
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes that may be used
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Memory, in bytes or with k, m or g behind the number; -1: no limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory: Option<String>,
    /// Memory that is left when memory is short
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_reservation: Option<String>,
    /// Memory and swap together; -1: no limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Processes and threads
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Accepted as runc accepts it, and without effect: Linux has taken it away
    #[arg(long, value_name = "BYTES", hide = true)]
    kernel_memory: Option<String>,
    /// Accepted as runc accepts it, and without effect: Linux has taken it away
    #[arg(long, value_name = "BYTES", hide = true)]
    kernel_memory_tcp: Option<String>,
    /// Refused, as linux.intelRdt is
    #[arg(long, value_name = "SCHEMA", hide = true)]
    l3_cache_schema: Option<String>,
    /// Refused, as linux.intelRdt is
    #[arg(long, value_name = "SCHEMA", hide = true)]
    mem_bw_schema: Option<String>,
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
}

/// Flags of `caisson events`.
#[derive(Debug, clap::Args)]
pub struct EventsArgs {
    /// Between two lines: a number with s, ms or m behind it
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    interval: String,
    /// One line, and no more
    #[arg(long)]
    stats: bool,
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
}

/// How often it is looked for processes killed for want of memory.
const LOOK: Duration = Duration::from_millis(100);

/// Changes limits.
pub fn update(args: &UpdateArgs, settings: &Settings) -> Result {
    for (flag, given) in [("l3-cache-schema", &args.l3_cache_schema), ("mem-bw-schema", &args.mem_bw_schema)] {
        if given.is_some() {
            return Err(Failure::new(Status::BadField, format!("--{flag}: shares of caches and memory bandwidth are not supported")));
        }
    }
    let mut resources = resources(args)?;
    crate::cgroup::check(&resources)?;
    let mut container = Container::open(&settings.state_root, &args.id)?;
    container.lock()?;
    if container.status() == Lifecycle::Stopped {
        return Err(Failure::new(Status::NotRunning, "container not running"));
    }
    if !container.record.cgroup.exists() {
        return Err(Failure::new(Status::Cgroup, "the container has no control group whose limits could be changed"));
    }
    complete(&mut resources, &container.record.limits);
    container.record.cgroup.set(&resources)?;
    tell(&mut container, &resources)?;
    Ok(0)
}

/// What belongs together, and is named in part: version 2 has quota and period in one file, and counts swap apart from memory, so that the other part
/// is to be known.
fn complete(resources: &mut LinuxResources, limits: &control::Limits) {
    if let (Some(cpu), Some((quota, period))) = (resources.cpu().clone(), limits.cpu_quota) {
        let (mut cpu, given) =
            (cpu, (resources.cpu().as_ref().and_then(|cpu| cpu.quota()), resources.cpu().as_ref().and_then(|cpu| cpu.period())));
        match given {
            (Some(_), None) => drop(cpu.set_period(Some(period))),
            (None, Some(_)) => drop(cpu.set_quota(i64::try_from(quota).ok())),
            _ => {}
        }
        resources.set_cpu(Some(cpu));
    }
    if let Some(memory) = resources.memory().clone()
        && memory.limit().is_none()
        && memory.swap().is_some()
    {
        let mut memory = memory;
        memory.set_limit(limits.memory.and_then(|limit| i64::try_from(limit).ok()));
        resources.set_memory(Some(memory));
    }
}

/// Tells the application, too: what is in the update changes, the rest stays.
fn tell(container: &mut Container, resources: &LinuxResources) -> Result<()> {
    let (new, limits) = (spec::limits_of(resources), &mut container.record.limits);
    if resources.memory().as_ref().is_some_and(|memory| memory.limit().is_some_and(|limit| limit != 0)) {
        limits.memory = new.memory;
    }
    if resources.cpu().as_ref().is_some_and(|cpu| cpu.quota().is_some_and(|quota| quota != 0)) {
        (limits.cpus, limits.cpu_quota) = (new.cpus, new.cpu_quota);
    }
    if resources.pids().as_ref().is_some_and(|pids| pids.limit() != 0) {
        limits.tasks = new.tasks;
    }
    let limits = container.record.limits;
    container.save()?;
    match container.client()? {
        Some(client) => client.command(&Request::Limits(limits), PATIENCE),
        None => Err(Failure::new(Status::NotRunning, "container not running")),
    }
}

fn resources(args: &UpdateArgs) -> Result<LinuxResources> {
    let value = match &args.resources {
        Some(path) => {
            let bad = || Failure::context(Status::BadJson, format!("--resources {}", path.display()));
            let text = if path.as_os_str() == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(path) };
            return serde_json::from_str(&text.map_err(Failure::context(Status::NoConfig, path.display()))?).map_err(bad());
        }
        None => {
            let bytes = |flag: &str, text: &Option<String>| text.as_deref().map(|text| size(flag, text)).transpose();
            object([
                (
                    "memory",
                    object([
                        ("limit", bytes("memory", &args.memory)?.map(Value::from)),
                        ("reservation", bytes("memory-reservation", &args.memory_reservation)?.map(Value::from)),
                        ("swap", bytes("memory-swap", &args.memory_swap)?.map(Value::from)),
                    ]),
                ),
                (
                    "cpu",
                    object([
                        ("shares", args.cpu_share.map(Value::from)),
                        ("quota", args.cpu_quota.map(Value::from)),
                        ("period", args.cpu_period.map(Value::from)),
                        ("burst", args.cpu_burst.map(Value::from)),
                        ("idle", args.cpu_idle.map(Value::from)),
                        ("realtimePeriod", args.cpu_rt_period.map(Value::from)),
                        ("realtimeRuntime", args.cpu_rt_runtime.map(Value::from)),
                        ("cpus", args.cpuset_cpus.clone().map(Value::from)),
                        ("mems", args.cpuset_mems.clone().map(Value::from)),
                    ]),
                ),
                ("pids", object([("limit", args.pids_limit.map(Value::from))])),
                ("blockIO", object([("weight", args.blkio_weight.map(Value::from))])),
            ])
        }
    };
    let value = value.ok_or_else(|| Failure::new(Status::Usage, "update: no limit is given; see caisson update --help"))?;
    serde_json::from_value(value).map_err(Failure::context(Status::Usage, "update"))
}

/// The members that are there; nothing if none is.
fn object<const N: usize>(members: [(&str, Option<Value>); N]) -> Option<Value> {
    let map: Map<String, Value> = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    (!map.is_empty()).then_some(Value::Object(map))
}

/// Bytes, with an optional unit of 1024 and its powers.
fn size(flag: &str, text: &str) -> Result<i64> {
    let lower = text.to_ascii_lowercase();
    let number = lower.trim_end_matches('b').trim_end_matches('i');
    let (digits, shift) = match number.chars().last() {
        Some('k') => (&number[..number.len() - 1], 10),
        Some('m') => (&number[..number.len() - 1], 20),
        Some('g') => (&number[..number.len() - 1], 30),
        Some('t') => (&number[..number.len() - 1], 40),
        _ => (number, 0),
    };
    digits
        .parse::<i64>()
        .ok()
        .and_then(|n| n.checked_mul(1 << shift))
        .filter(|n| *n >= -1)
        .ok_or_else(|| Failure::new(Status::Usage, format!("--{flag}: {text:?} is no size")))
}

/// Prints what has been used: once, or again and again, and with it that a process was killed for want of memory.
pub fn events(args: &EventsArgs, settings: &Settings) -> Result {
    let interval = duration(&args.interval)?;
    let container = Container::open(&settings.state_root, &args.id)?;
    if !container.stand_in_lives() {
        return Err(Failure::new(Status::NotRunning, "container not running"));
    }
    let line = |kind: &str, data: Option<Value>| tell_of(&container.record.id, kind, data);
    let stats = || line("stats", Some(used(&container)));
    if args.stats {
        return stats();
    }
    let watcher = watch_sentry(&container)?;
    let mut killed = container.record.cgroup.oom_kills();
    loop {
        stats()?;
        let next = Instant::now() + interval;
        while let Some(left) = next.checked_duration_since(Instant::now()) {
            std::thread::sleep(left.min(LOOK));
            let now = container.record.cgroup.oom_kills();
            for _ in killed..now {
                line("oom", None)?;
            }
            killed = now;
            if !container.stand_in_lives() {
                if let Some(watcher) = watcher {
                    // It ends with the container, and may have something to tell.
                    drop(watcher.join());
                }
                return Ok(0);
            }
        }
    }
}

/// In a pod the sentry keeps the limits of a single container: tells in the background of each process that it kills.
fn watch_sentry(container: &Container) -> Result<Option<std::thread::JoinHandle<()>>> {
    let Some(kills) = container.kills()? else { return Ok(None) };
    let id = container.record.id.clone();
    let watch = move || {
        for _ in kills.flat_map(|more| 0..more) {
            if let Err(failure) = tell_of(&id, "oom", None) {
                tracing::warn!("{failure}");
            }
        }
    };
    std::thread::Builder::new().name("oom".into()).spawn(watch).map(Some).map_err(Failure::internal("a thread"))
}

/// A line of `events`.
fn tell_of(id: &str, kind: &str, data: Option<Value>) -> Result {
    let mut line = json!({"type": kind, "id": id});
    if let (Some(data), Some(map)) = (data, line.as_object_mut()) {
        map.insert("data".into(), data);
    }
    super::print(&line.to_string())
}

/// What the sentry tells of a container.
fn told(container: &Container) -> Option<Event> {
    container.client().ok()??.ask(&Request::Usage, PATIENCE).ok()
}

/// What the host has counted. A container of a pod has but its gofer in its control group: what its application uses, the pod's sentry
/// tells.
fn used(container: &Container) -> Value {
    let mut stats = container.record.cgroup.stats();
    if container.record.sandbox.is_none() {
        return stats;
    }
    if let Some(Event::Usage { cpu_ns: [user, system], memory, tasks, .. }) = told(container) {
        let add = [
            ("/cpu/usage/user", user),
            ("/cpu/usage/kernel", system),
            ("/cpu/usage/total", user.saturating_add(system)),
            ("/memory/usage/usage", memory),
            ("/pids/current", tasks),
        ];
        for (place, more) in add {
            if let Some(value) = stats.pointer_mut(place) {
                *value = value.as_u64().unwrap_or(0).saturating_add(more).into();
            }
        }
    }
    stats
}

/// A number with a unit, as Go writes durations.
fn duration(text: &str) -> Result<Duration> {
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
    units
        .iter()
        .find_map(|(unit, ms)| text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(*ms))
        .filter(|ms| *ms > 0)
        .map(Duration::from_millis)
        .ok_or_else(|| Failure::new(Status::Usage, format!("--interval: {text:?} is no duration like 5s or 500ms")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations() {
        for (text, bytes) in [("4096", 4096), ("64k", 65_536), ("2m", 2 << 20), ("1GiB", 1 << 30), ("-1", -1)] {
            assert_eq!(size("memory", text).unwrap(), bytes, "{text}");
        }
        for bad in ["", "m", "-5", "1x", "99999999999g"] {
            assert!(size("memory", bad).is_err(), "{bad}");
        }
        assert_eq!(duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(duration("2m").unwrap(), Duration::from_secs(120));
        assert!(duration("0s").is_err() && duration("5").is_err());
    }
}
