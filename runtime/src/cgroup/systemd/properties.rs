//! What a scope is told (systemd.resource-control(5), systemd.scope(5)).

use super::{Property, Unit, variant};
use crate::cgroup::limits;
use crate::exit::{Failure, Result, Status};
use oci_spec::runtime::{LinuxResources, Spec};
use zbus::Variant;

/// Properties that whoever wrote the configuration adds, as with runc.
pub const ANNOTATION: &str = "org.systemd.property.";
/// What systemd takes for no limit.
const INFINITY: u64 = u64::MAX;
/// The period that Linux has if nobody says another one, in microseconds.
const PERIOD: u64 = 100_000;

fn property(name: &str, value: impl Into<Variant<'static>>) -> Property {
    (name.to_owned(), value.into())
}

/// Of every container's scope.
pub fn of_scope(unit: &Unit, v2: bool) -> Vec<Property> {
    vec![
        property("Description", format!("Caisson container {}", unit.name)),
        property("Slice", unit.slice.clone()),
        property("PIDs", vec![std::process::id()]),
        // Groups may be made below, and limits set there.
        property("Delegate", true),
        property("MemoryAccounting", true),
        property("CPUAccounting", true),
        property(if v2 { "IOAccounting" } else { "BlockIOAccounting" }, true),
        property("TasksAccounting", true),
        // It shall not end when the host begins to shut down, but with what it belongs to.
        property("DefaultDependencies", false),
    ]
}

/// Limits that systemd knows. The rest is set in the directories only.
pub fn limits(resources: &LinuxResources, v2: bool) -> Vec<Property> {
    let mut all = Vec::new();
    if let Some(memory) = resources.memory() {
        let bytes = |value: i64| u64::try_from(value).unwrap_or(INFINITY);
        let limit = memory.limit().filter(|limit| *limit != 0);
        all.extend(limit.map(|limit| property(if v2 { "MemoryMax" } else { "MemoryLimit" }, bytes(limit))));
        if v2 {
            let low = memory.reservation().filter(|value| *value != 0);
            all.extend(low.map(|value| property("MemoryLow", u64::try_from(value).unwrap_or(0))));
            let swap = memory.swap().filter(|swap| *swap != 0);
            all.extend(swap.map(|swap| property("MemorySwapMax", bytes(limits::swap_alone(swap, limit)))));
        }
    }
    if let Some(cpu) = resources.cpu() {
        let shares = cpu.shares().filter(|shares| *shares != 0);
        all.extend(shares.map(|shares| if v2 { property("CPUWeight", limits::weight(shares)) } else { property("CPUShares", shares) }));
        all.extend(quota(cpu.quota().filter(|quota| *quota != 0), cpu.period().filter(|period| *period != 0)));
        if v2 {
            for (name, list) in [("AllowedCPUs", cpu.cpus()), ("AllowedMemoryNodes", cpu.mems())] {
                all.extend(list.as_deref().filter(|list| !list.is_empty()).map(|list| property(name, bits(list))));
            }
        }
    }
    if let Some(limit) = resources.pids().as_ref().map(|pids| pids.limit()).filter(|limit| *limit != 0) {
        all.push(property("TasksMax", if limit < 0 { INFINITY } else { limits::host_tasks(limit).cast_unsigned() }));
    }
    if let Some(weight) = resources.block_io().as_ref().and_then(|blkio| blkio.weight()).filter(|weight| *weight != 0) {
        all.push(if v2 { property("IOWeight", limits::io_weight(weight)) } else { property("BlockIOWeight", u64::from(weight)) });
    }
    all
}

fn quota(quota: Option<i64>, period: Option<u64>) -> Vec<Property> {
    let mut all: Vec<Property> = period.map(|period| property("CPUQuotaPeriodUSec", period)).into_iter().collect();
    if quota.is_some() || period.is_some() {
        let per_second = quota.and_then(|quota| u64::try_from(quota).ok()).map_or(INFINITY, |quota| {
            let exact = quota.saturating_mul(1_000_000) / period.unwrap_or(PERIOD);
            // systemd counts in hundredths of a processor; rather a little more than less.
            exact.div_ceil(10_000).saturating_mul(10_000)
        });
        all.push(property("CPUQuotaPerSecUSec", per_second));
    }
    all
}

/// A list like `0-3,7`, which has been checked, as systemd takes it: a bit for each number, eight in a byte.
fn bits(list: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in list.trim().split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (Ok(from), Ok(to)) = (from.parse::<u16>(), to.parse::<u16>()) else { continue };
        for number in from..=to {
            let place = usize::from(number / 8);
            if bytes.len() <= place {
                bytes.resize(place + 1, 0);
            }
            bytes[place] |= 1_u8 << (number % 8);
        }
    }
    bytes
}

/// The properties that a configuration's annotations add, checked, but as they are written there.
pub fn annotated(spec: &Spec) -> Result<Vec<(String, String)>> {
    let all = spec.annotations().iter().flatten();
    let mut found: Vec<_> = all.filter_map(|(name, text)| Some((name.strip_prefix(ANNOTATION)?.to_owned(), text.clone()))).collect();
    found.sort();
    found.iter().try_for_each(|(name, text)| from_annotation(name, text).map(drop))?;
    Ok(found)
}

/// One of them. Times may be given in seconds, as unit files have them: `TimeoutStopSec` is `TimeoutStopUSec`.
pub fn from_annotation(name: &str, text: &str) -> Result<Property> {
    let bad = |what: &str| Failure::new(Status::BadField, format!("annotations[{ANNOTATION}{name}]: {text:?} {what}"));
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphabetic()) {
        return Err(bad("is of no property's name"));
    }
    let value = variant::parse(text).ok_or_else(|| bad("is no value in GVariant's text format that a unit's property could have"))?;
    match name.strip_suffix("Sec").filter(|stem| !stem.ends_with('U')) {
        Some(stem) => {
            let micros = variant::micros(&value).ok_or_else(|| bad("is no number of seconds"))?;
            Ok(property(&format!("{stem}USec"), micros))
        }
        None => Ok((name.to_owned(), value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(json: &str, v2: bool) -> Vec<(String, Variant<'static>)> {
        limits(&serde_json::from_str(json).unwrap(), v2)
    }

    #[test]
    fn limits_become_properties() {
        let json = r#"{"memory":{"limit":1048576,"swap":2097152,"reservation":4096},"cpu":{"shares":1024,"quota":25000,"cpus":"0-1,9"},
                       "pids":{"limit":100},"blockIO":{"weight":500}}"#;
        let v1 = [
            property("MemoryLimit", 1_048_576_u64),
            property("CPUShares", 1024_u64),
            property("CPUQuotaPerSecUSec", 250_000_u64),
            property("TasksMax", 528_u64),
            property("BlockIOWeight", 500_u64),
        ];
        assert_eq!(told(json, false), v1);
        let v2 = [
            property("MemoryMax", 1_048_576_u64),
            property("MemoryLow", 4096_u64),
            property("MemorySwapMax", 1_048_576_u64),
            property("CPUWeight", 39_u64),
            property("CPUQuotaPerSecUSec", 250_000_u64),
            property("AllowedCPUs", vec![3_u8, 2]),
            property("TasksMax", 528_u64),
            property("IOWeight", 4950_u64),
        ];
        assert_eq!(told(json, true), v2);
    }

    #[test]
    fn no_limit_is_said_so() {
        let json = r#"{"memory":{"limit":-1},"cpu":{"quota":-1,"period":50000},"pids":{"limit":-1}}"#;
        let expected = [
            property("MemoryMax", INFINITY),
            property("CPUQuotaPeriodUSec", 50_000_u64),
            property("CPUQuotaPerSecUSec", INFINITY),
            property("TasksMax", INFINITY),
        ];
        assert_eq!(told(json, true), expected);
        assert!(told(r#"{"memory":{"limit":0},"cpu":{"quota":0},"devices":[{"allow":false}]}"#, true).is_empty());
    }

    #[test]
    fn quotas_are_rounded_up() {
        assert_eq!(quota(Some(33_333), Some(100_000))[1], property("CPUQuotaPerSecUSec", 340_000_u64));
        assert_eq!(quota(Some(i64::MAX), Some(1000)).len(), 2);
    }

    #[test]
    fn annotations_are_properties() {
        assert_eq!(from_annotation("TimeoutStopUSec", "uint64 5").unwrap(), property("TimeoutStopUSec", 5_u64));
        assert_eq!(from_annotation("TimeoutStopSec", "uint32 5").unwrap(), property("TimeoutStopUSec", 5_000_000_u64));
        assert_eq!(from_annotation("CollectMode", "'inactive-or-failed'").unwrap(), property("CollectMode", "inactive-or-failed"));
        for (name, text) in [("CollectMode", "inactive"), ("", "1"), ("A b", "1"), ("TimeoutStopSec", "'x'")] {
            assert_eq!(from_annotation(name, text).unwrap_err().status, Status::BadField, "{name}");
        }
    }
}
