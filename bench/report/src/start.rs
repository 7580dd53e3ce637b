//! What a sandbox costs before it does anything: the time of a whole `run /bin/true`, and the memory of one that waits.

use crate::sides;
use crate::table::Table;
use anyhow::{Context, Result, bail};
use caisson_tests_support::{Program, host};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Starts per round.
const STARTS: u32 = 10;
/// How long a sandbox waits before its memory is counted.
const SETTLE: Duration = Duration::from_millis(1500);

/// All rounds on all sides that have something to start, and their table. Ratios are to the first of them.
pub fn measure(rounds: u32, all: &[String], tree: &Path) {
    let with_sandbox: Vec<String> = all.iter().filter(|s| *s != "native").cloned().collect();
    let mut table = Table::new("Start and idle");
    let empty = Program::new(tree, &["/bin/true"]);
    let idle = Program::new(tree, &["/bin/sh", "-c", "echo ready; read line"]);
    for round in 1..=rounds {
        for side in &with_sandbox {
            eprintln!("Start and idle: round {round}, {side}");
            for _ in 0..STARTS {
                match start(side, &empty) {
                    Ok(time) => table.add(side, "run_true", time.as_secs_f64() * 1e6, "us"),
                    Err(e) => eprintln!("{side}: {e:#}"),
                }
            }
            match idle_memory(side, &idle) {
                Ok(pss) => {
                    table.add(side, "idle_pss", pss.sandbox, "KiB");
                    table.add(side, "idle_pss_and_command", pss.sandbox + pss.command, "KiB");
                    table.add(side, "idle_cpu", pss.cpu_ms, "ms");
                }
                Err(e) => eprintln!("{side}: {e:#}"),
            }
        }
    }
    table.print(&with_sandbox);
}

/// Wall time of a whole command.
fn start(side: &str, program: &Program) -> Result<Duration> {
    let bundle = sides::bundle(side, program)?;
    let mut command = sides::command(side, &bundle)?;
    command.stdin(Stdio::null());
    let from = Instant::now();
    let output = command.output()?;
    let time = from.elapsed();
    if !output.status.success() {
        bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(time)
}

/// What a waiting sandbox holds.
struct Idle {
    /// Proportional set size of everything below the command that runs it, in KiB.
    sandbox: f64,
    /// The same of that command itself.
    command: f64,
    /// CPU time of the sandbox while nothing happened, in milliseconds.
    cpu_ms: f64,
}

fn idle_memory(side: &str, program: &Program) -> Result<Idle> {
    let bundle = sides::bundle(side, program)?;
    let mut command = sides::command(side, &bundle)?;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let found = look(&mut child);
    // The end of its input ends the program.
    drop(child.stdin.take());
    let status = child.wait()?;
    let found = found?;
    // `read` fails at the end of input.
    if status.code() != Some(1) {
        bail!("the waiting program ended with {status}");
    }
    Ok(found)
}

fn look(child: &mut Child) -> Result<Idle> {
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
    if line != "ready\n" {
        bail!("said {line:?}");
    }
    let pid = child.id().cast_signed();
    std::thread::sleep(SETTLE / 3);
    let processes = host::descendants(pid);
    let before: u64 = processes.iter().map(|&p| cpu_ticks(p)).sum();
    std::thread::sleep(SETTLE);
    let after: u64 = processes.iter().map(|&p| cpu_ticks(p)).sum();
    let sandbox = processes.iter().map(|&p| pss(p)).sum::<Result<f64>>()?;
    // A tick of /proc is 10 ms.
    Ok(Idle { sandbox, command: pss(pid)?, cpu_ms: after.saturating_sub(before) as f64 * 10.0 })
}

/// Proportional set size in KiB.
fn pss(pid: i32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let field = text.lines().find_map(|l| l.strip_prefix("Pss:")).context("no Pss")?;
    Ok(field.trim_end_matches("kB").trim().parse()?)
}

/// User and system time so far. 0 for a process that is gone.
fn cpu_ticks(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let behind_name = text.rsplit(')').next().unwrap_or_default();
    behind_name.split_whitespace().skip(11).take(2).filter_map(|v| v.parse::<u64>().ok()).sum()
}
