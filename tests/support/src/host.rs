//! What the host sees of a sandbox: its processes and what they may do.

use anyhow::{Result, bail};
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

/// Parent of every process.
fn parents() -> Vec<(i32, i32)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|e| {
            let pid = e.file_name().to_str()?.parse().ok()?;
            Some((pid, status(pid, "PPid")?.parse().ok()?))
        })
        .collect()
}

/// All descendants of a process, parents before children.
pub fn descendants(pid: i32) -> Vec<i32> {
    let all = parents();
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(all.iter().filter(|(_, p)| *p == parent).map(|(c, _)| *c));
        next += 1;
    }
    found.remove(0);
    found
}

/// One field of /proc/PID/status.
pub fn status(pid: i32, field: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':')).map(|v| v.trim().to_string())
}

/// The words of a process's command line.
pub fn command_line(pid: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect()
}

/// The sentry and the gofer below a running `caisson run` or `caisson do`, once both are there.
pub fn sentry_and_gofer(runtime: i32) -> Option<(i32, i32)> {
    let is = |pid: i32, role: &str| command_line(pid).get(1).is_some_and(|word| word == role);
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        let all = descendants(runtime);
        let find = |role| all.iter().copied().find(|pid| is(*pid, role));
        if let (Some(sentry), Some(gofer)) = (find("sentry"), find("gofer")) {
            return Some((sentry, gofer));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    None
}

/// A field of /proc/PID/status that counts memory (`RssAnon`, `RssShmem`, …), in KiB.
pub fn memory(pid: i32, field: &str) -> Option<u64> {
    status(pid, field)?.split_whitespace().next()?.parse().ok()
}

/// Sends a process a signal, named without `SIG`.
pub fn kill(pid: i32, signal: &str) -> Result<()> {
    let sent = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status()?;
    if !sent.success() {
        bail!("process {pid} cannot be sent {signal}");
    }
    Ok(())
}
