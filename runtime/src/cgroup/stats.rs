//! What a container has used, in the shape that runc prints and engines read.

use super::{Cgroup, Dir};
use serde_json::{Value, json};

impl Cgroup {
    /// What the host has counted: `data` of `events --stats`.
    pub fn stats(&self) -> Value {
        let dir = |controller: &str| self.dirs.iter().find(|dir| dir.has(controller));
        // Version 2 counts processor time without any controller.
        let timed = || self.dirs.iter().find(|dir| dir.is_v2() && dir.path.join("cpu.stat").exists());
        json!({
            "cpu": cpu(dir("cpu"), dir("cpuacct").or_else(timed)),
            "cpuset": cpuset(dir("cpuset")),
            "memory": dir("memory").map_or_else(|| json!({}), memory),
            "pids": dir("pids").map_or_else(|| json!({}), pids),
            "blkio": dir("blkio").map_or_else(|| json!({}), blkio),
            "hugetlb": {},
            "intel_rdt": {},
            "network_interfaces": null,
        })
    }

    /// How many processes the host has killed for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let Some(dir) = self.dirs.iter().find(|dir| dir.has("memory")) else { return 0 };
        field(dir, if dir.is_v2() { "memory.events" } else { "memory.oom_control" }, "oom_kill").unwrap_or(0)
    }
}

/// A number on a line of its own file; `max` is the greatest.
fn number(dir: &Dir, file: &str) -> Option<u64> {
    let text = dir.read(file)?;
    if text.trim() == "max" { Some(u64::MAX) } else { text.trim().parse().ok() }
}

/// The number behind a name, one of several lines.
fn field(dir: &Dir, file: &str, name: &str) -> Option<u64> {
    fields(dir, file).find(|(n, _)| n == name).map(|(_, value)| value)
}

fn fields(dir: &Dir, file: &str) -> impl Iterator<Item = (String, u64)> {
    let lines: Vec<_> = dir
        .read(file)
        .unwrap_or_default()
        .lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        })
        .collect();
    lines.into_iter()
}

fn cpu(cpu: Option<&Dir>, acct: Option<&Dir>) -> Value {
    let mut usage = json!({"total": 0, "kernel": 0, "user": 0});
    match acct {
        Some(dir) if dir.is_v2() => {
            let ns = |name| field(dir, "cpu.stat", name).unwrap_or(0).saturating_mul(1000);
            usage = json!({"total": ns("usage_usec"), "kernel": ns("system_usec"), "user": ns("user_usec")});
        }
        Some(dir) => {
            // Clock ticks of USER_HZ, which is 100 on every Linux.
            let ticks = |name| field(dir, "cpuacct.stat", name).unwrap_or(0).saturating_mul(10_000_000);
            let each: Vec<u64> =
                dir.read("cpuacct.usage_percpu").unwrap_or_default().split_whitespace().filter_map(|text| text.parse().ok()).collect();
            usage = json!({
                "total": number(dir, "cpuacct.usage").unwrap_or(0),
                "percpu": each,
                "kernel": ticks("system"),
                "user": ticks("user"),
            });
        }
        None => {}
    }
    let throttling = cpu.map_or_else(
        || json!({}),
        |dir| {
            let of = |name| field(dir, "cpu.stat", name).unwrap_or(0);
            let time = if dir.is_v2() { of("throttled_usec").saturating_mul(1000) } else { of("throttled_time") };
            json!({"periods": of("nr_periods"), "throttledPeriods": of("nr_throttled"), "throttledTime": time})
        },
    );
    json!({"usage": usage, "throttling": throttling})
}

fn cpuset(dir: Option<&Dir>) -> Value {
    let Some(dir) = dir else { return json!({}) };
    let effective = if dir.is_v2() { "cpuset.cpus.effective" } else { "cpuset.effective_cpus" };
    json!({"cpus": numbers(&dir.read(effective).unwrap_or_default())})
}

/// The numbers of a list like `0-3,7`.
fn numbers(list: &str) -> Vec<u32> {
    list.trim()
        .split(',')
        .filter_map(|part| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            Some(from.parse().ok()?..=to.parse().ok()?)
        })
        .flatten()
        .collect()
}

fn memory(dir: &Dir) -> Value {
    let raw: serde_json::Map<String, Value> = fields(dir, "memory.stat").map(|(name, value)| (name, value.into())).collect();
    if dir.is_v2() {
        let of = |file: &str| number(dir, file).unwrap_or(0);
        return json!({
            "cache": raw.get("file").cloned().unwrap_or(0.into()),
            "usage": {"limit": of("memory.max"), "usage": of("memory.current"), "max": of("memory.peak"),
                      "failcnt": field(dir, "memory.events", "max").unwrap_or(0)},
            "swap": {"limit": of("memory.swap.max"), "usage": of("memory.swap.current"), "failcnt": 0},
            "kernel": {"limit": 0, "usage": raw.get("kernel").cloned().unwrap_or(0.into()), "failcnt": 0},
            "raw": raw,
        });
    }
    let entry = |name: &str| {
        let of = |what: &str| number(dir, &format!("{name}{what}")).unwrap_or(0);
        json!({"limit": of("limit_in_bytes"), "usage": of("usage_in_bytes"), "max": of("max_usage_in_bytes"), "failcnt": of("failcnt")})
    };
    json!({
        "cache": raw.get("cache").cloned().unwrap_or(0.into()),
        "usage": entry("memory."),
        "swap": entry("memory.memsw."),
        "kernel": entry("memory.kmem."),
        "kernelTCP": entry("memory.kmem.tcp."),
        "raw": raw,
    })
}

fn pids(dir: &Dir) -> Value {
    let limit = number(dir, "pids.max").filter(|limit| *limit != u64::MAX).unwrap_or(0);
    json!({"current": number(dir, "pids.current").unwrap_or(0), "limit": limit})
}

fn blkio(dir: &Dir) -> Value {
    if dir.is_v2() {
        let mut entries = Vec::new();
        for line in dir.read("io.stat").unwrap_or_default().lines() {
            let Some((device, rest)) = line.split_once(' ') else { continue };
            for (name, op) in [("rbytes", "Read"), ("wbytes", "Write")] {
                let value = rest.split(' ').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
                entries.extend(value.and_then(|value| entry(device, op, value)));
            }
        }
        return json!({"ioServiceBytesRecursive": entries});
    }
    let list = |file: &str| -> Vec<Value> {
        let text = dir.read(file).unwrap_or_default();
        text.lines()
            .filter_map(|line| {
                let mut words = line.split(' ');
                entry(words.next()?, words.next()?, words.next()?)
            })
            .collect()
    };
    json!({
        "ioServiceBytesRecursive": list("blkio.throttle.io_service_bytes_recursive"),
        "ioServicedRecursive": list("blkio.throttle.io_serviced_recursive"),
    })
}

fn entry(device: &str, op: &str, value: &str) -> Option<Value> {
    let (major, minor) = device.split_once(':')?;
    let (major, minor): (u64, u64) = (major.parse().ok()?, minor.parse().ok()?);
    Some(json!({"major": major, "minor": minor, "op": op, "value": value.parse::<u64>().ok()?}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_become_numbers() {
        assert_eq!(numbers("0-2,5\n"), [0, 1, 2, 5]);
        assert!(numbers("\n").is_empty());
    }
}
