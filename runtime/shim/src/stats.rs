//! Statistics: what `events --stats` of the OCI runtime prints, as containerd's metrics (those of cgroup version 1, which all
//! versions of containerd and its CRI plugin read).

use crate::error::{Error, Result};
use containerd_shim_protos::cgroups::metrics::{
    BlkIOEntry, BlkIOStat, CPUStat, CPUUsage, MemoryEntry, MemoryStat, Metrics, PidsStat, Throttle,
};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField, MessageFull};
use serde_json::Value;

/// Converts the runtime's JSON.
pub fn convert(printed: &[u8]) -> Result<Any> {
    let event: Value = serde_json::from_slice(printed).map_err(Error::context("events --stats"))?;
    let data = event.get("data").unwrap_or(&event);
    let metrics = metrics(data);
    Ok(Any {
        type_url: Metrics::descriptor().full_name().to_owned(),
        value: metrics.write_to_bytes().map_err(Error::context("metrics"))?,
        ..Default::default()
    })
}

fn number(data: &Value, pointer: &str) -> u64 {
    data.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

fn metrics(data: &Value) -> Metrics {
    let n = |pointer: &str| number(data, pointer);
    let per_cpu = data.pointer("/cpu/usage/percpu").and_then(Value::as_array);
    let cpu = CPUStat {
        usage: MessageField::some(CPUUsage {
            total: n("/cpu/usage/total"),
            kernel: n("/cpu/usage/kernel"),
            user: n("/cpu/usage/user"),
            per_cpu: per_cpu.map(|list| list.iter().filter_map(Value::as_u64).collect()).unwrap_or_default(),
            ..Default::default()
        }),
        throttling: MessageField::some(Throttle {
            periods: n("/cpu/throttling/periods"),
            throttled_periods: n("/cpu/throttling/throttledPeriods"),
            throttled_time: n("/cpu/throttling/throttledTime"),
            ..Default::default()
        }),
        ..Default::default()
    };
    let pids = PidsStat { current: n("/pids/current"), limit: n("/pids/limit"), ..Default::default() };
    Metrics {
        cpu: MessageField::some(cpu),
        memory: MessageField::some(memory(data)),
        pids: MessageField::some(pids),
        blkio: MessageField::some(blkio(data)),
        ..Default::default()
    }
}

fn memory(data: &Value) -> MemoryStat {
    let raw = |name: &str| number(data, &format!("/memory/raw/{name}"));
    let entry = |name: &str| {
        let n = |field: &str| number(data, &format!("/memory/{name}/{field}"));
        let (limit, usage, max, failcnt) = (n("limit"), n("usage"), n("max"), n("failcnt"));
        MessageField::some(MemoryEntry { limit, usage, max, failcnt, ..Default::default() })
    };
    // Version 2 has no sums over the subtree: its figures are sums.
    let total = |name: &str, v2: &str| {
        let sum = raw(&format!("total_{name}"));
        if sum == 0 { raw(name).max(raw(v2)) } else { sum }
    };
    MemoryStat {
        cache: raw("cache").max(raw("file")),
        rss: raw("rss").max(raw("anon")),
        mapped_file: raw("mapped_file").max(raw("file_mapped")),
        pg_fault: raw("pgfault"),
        pg_maj_fault: raw("pgmajfault"),
        inactive_anon: raw("inactive_anon"),
        active_anon: raw("active_anon"),
        inactive_file: raw("inactive_file"),
        active_file: raw("active_file"),
        unevictable: raw("unevictable"),
        hierarchical_memory_limit: raw("hierarchical_memory_limit"),
        total_cache: total("cache", "file"),
        total_rss: total("rss", "anon"),
        total_mapped_file: total("mapped_file", "file_mapped"),
        total_pg_fault: total("pgfault", "pgfault"),
        total_pg_maj_fault: total("pgmajfault", "pgmajfault"),
        total_inactive_anon: total("inactive_anon", "inactive_anon"),
        total_active_anon: total("active_anon", "active_anon"),
        total_inactive_file: total("inactive_file", "inactive_file"),
        total_active_file: total("active_file", "active_file"),
        total_unevictable: total("unevictable", "unevictable"),
        usage: entry("usage"),
        swap: entry("swap"),
        kernel: entry("kernel"),
        kernel_tcp: entry("kernelTCP"),
        ..Default::default()
    }
}

fn blkio(data: &Value) -> BlkIOStat {
    let list = |name: &str| -> Vec<BlkIOEntry> {
        let entries = data.pointer(&format!("/blkio/{name}")).and_then(Value::as_array);
        let entries = entries.map(Vec::as_slice).unwrap_or_default();
        entries
            .iter()
            .map(|entry| BlkIOEntry {
                op: entry.get("op").and_then(Value::as_str).unwrap_or_default().to_owned(),
                major: number(entry, "/major"),
                minor: number(entry, "/minor"),
                value: number(entry, "/value"),
                ..Default::default()
            })
            .collect()
    };
    BlkIOStat {
        io_service_bytes_recursive: list("ioServiceBytesRecursive"),
        io_serviced_recursive: list("ioServicedRecursive"),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runc_prints() {
        let printed = br#"{"type":"stats","id":"x","data":{"cpu":{"usage":{"total":7,"percpu":[3,4],"kernel":1,"user":6},
            "throttling":{"periods":2}},"memory":{"usage":{"limit":100,"usage":50,"max":60,"failcnt":0},
            "raw":{"total_inactive_file":9,"rss":5}},"pids":{"current":3,"limit":10}}}"#;
        let any = convert(printed).expect("converted");
        assert_eq!(any.type_url, "io.containerd.cgroups.v1.Metrics");
        let metrics = Metrics::parse_from_bytes(&any.value).expect("metrics");
        assert_eq!((metrics.cpu.usage.total, metrics.cpu.usage.per_cpu.as_slice()), (7, &[3, 4][..]));
        assert_eq!((metrics.memory.usage.usage, metrics.memory.total_inactive_file, metrics.memory.total_rss), (50, 9, 5));
        assert_eq!((metrics.pids.current, metrics.pids.limit), (3, 10));
        assert!(convert(b"no json").is_err());
    }
}
