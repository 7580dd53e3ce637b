//! `/proc/PID/limits`.

use abi::{libc, task::Rlimit};
use kernel::task::Task;
use std::fmt::Write;

/// Resources in the order of their numbers, with Linux's words.
const ROWS: [(&str, &str, libc::__rlimit_resource_t); 16] = [
    ("Max cpu time", "seconds", libc::RLIMIT_CPU),
    ("Max file size", "bytes", libc::RLIMIT_FSIZE),
    ("Max data size", "bytes", libc::RLIMIT_DATA),
    ("Max stack size", "bytes", libc::RLIMIT_STACK),
    ("Max core file size", "bytes", libc::RLIMIT_CORE),
    ("Max resident set", "bytes", libc::RLIMIT_RSS),
    ("Max processes", "processes", libc::RLIMIT_NPROC),
    ("Max open files", "files", libc::RLIMIT_NOFILE),
    ("Max locked memory", "bytes", libc::RLIMIT_MEMLOCK),
    ("Max address space", "bytes", libc::RLIMIT_AS),
    ("Max file locks", "locks", libc::RLIMIT_LOCKS),
    ("Max pending signals", "signals", libc::RLIMIT_SIGPENDING),
    ("Max msgqueue size", "bytes", libc::RLIMIT_MSGQUEUE),
    ("Max nice priority", "", libc::RLIMIT_NICE),
    ("Max realtime priority", "", libc::RLIMIT_RTPRIO),
    ("Max realtime timeout", "us", libc::RLIMIT_RTTIME),
];

/// The table.
pub fn limits(task: &Task) -> String {
    let mut out = format!("{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    let show = |n: u64| if n == Rlimit::INFINITY { "unlimited".to_owned() } else { n.to_string() };
    for (name, unit, resource) in ROWS {
        let l = task.rlimit(resource);
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name:<25} {:<20} {:<20} {unit:<10}", show(l.cur), show(l.max));
    }
    out
}
