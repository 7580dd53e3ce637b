//! Output that nobody takes: readers that stop, and go.

use super::empty;
use anyhow::{Context, Result, ensure};
use caisson_tests_engines::{Containerd, eventually, output};
use caisson_tests_support::host;
use std::io::Read;
use std::process::{Child, Stdio};

/// With every shim and runtime.
pub const TESTS: &[(&str, super::Test)] = &[("reader_stops", reader_stops), ("reader_goes", reader_goes)];

fn begin(c: &Containerd, flags: &[&str], script: &str) -> Result<Child> {
    let args = c.run_args(flags, "c", &["sh", "-c", script]);
    let mut command = c.machine.command(&args.iter().map(String::as_str).collect::<Vec<_>>());
    Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}

/// SIGKILL to the one command of the machine that is called so, and not to nsenter(1) before it.
fn end(c: &Containerd, mut child: Child, command: &str) -> Result<()> {
    for pid in c.machine.processes(command) {
        host::kill(pid, "KILL")?;
    }
    child.wait().map(drop).context("wait")
}

fn size_inside(c: &Containerd, file: &str) -> Result<u64> {
    let name = format!("s{}", std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos());
    let text = c.ctr(&["task", "exec", "--exec-id", &name, "c", "stat", "-c", "%s", file])?;
    text.trim().parse().with_context(|| text.clone())
}

/// 100 MB, in the midst of which the reader does not read for a while.
fn reader_stops(c: &mut Containerd) -> Result<()> {
    let mut child = begin(c, &["--rm"], &format!("{}; exit 4", output::SCRIPT))?;
    let mut stdout = child.stdout.take().context("no pipe")?;
    let mut first = vec![0; 1_000_000];
    stdout.read_exact(&mut first)?;
    ensure!(c.state("c")?.as_deref() == Some("RUNNING"), "{:?}", c.state("c")?);
    // What holds the writer does not hold others.
    let list = c.ctr(&["task", "exec", "--exec-id", "e", "c", "ps"])?;
    ensure!(list.contains("cat -n"), "{list}");
    output::complete(first.as_slice().chain(stdout))?;
    let ended = child.wait_with_output()?;
    ensure!(ended.status.code() == Some(4), "{ended:?}");
    ensure!(c.ctr(&["container", "ls", "-q"])?.is_empty(), "a container is left");
    empty(c)
}

/// The engine's side of the streams is closed: the writer waits, without a signal and without an error, and what is attached later
/// hears it.
fn reader_goes(c: &mut Containerd) -> Result<()> {
    // It says how far it has come.
    let script = "trap 'echo pipe > /tmp/signal' PIPE; i=0; while :; do i=$((i + 1)); echo line $i || echo error > /tmp/signal; echo x >> /tmp/count; done";
    let mut child = begin(c, &[], script)?;
    let mut stdout = child.stdout.take().context("no pipe")?;
    stdout.read_exact(&mut [0; 1000])?;
    // Before it notices, lest it pass on the signal of its own broken pipe.
    end(c, child, "ctr run ")?;
    drop(stdout);
    // As soon as its pipe is full it stands still.
    let mut last = 0;
    let still = || {
        let now = size_inside(c, "/tmp/count").ok()?;
        let same = now == last;
        last = now;
        same.then_some(())
    };
    eventually(30, still).context("it does not stand still")?;
    ensure!(c.state("c")?.as_deref() == Some("RUNNING"), "{:?}", c.state("c")?);
    // Somebody listens again.
    let mut again = c.machine.command(&["ctr", "task", "attach", "c"]);
    let mut again = again.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut stdout = again.stdout.take().context("no pipe")?;
    let mut text = vec![0; 300_000];
    stdout.read_exact(&mut text)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    // After the rest of a line.
    let numbers: Vec<u64> = text.lines().skip(1).filter_map(|line| line.strip_prefix("line ")?.parse().ok()).collect();
    let numbers = numbers.split_last().context("no lines")?.1;
    ensure!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "lines are lost: {:.200}", text);
    ensure!(size_inside(c, "/tmp/count")? > last, "it does not go on");
    let signal = c.try_ctr(&["task", "exec", "--exec-id", "e", "c", "cat", "/tmp/signal"])?;
    ensure!(signal.status != 0, "{signal}");
    end(c, again, "ctr task attach ")?;
    c.ctr(&["task", "kill", "-s", "KILL", "c"])?;
    c.wait_state("c", "STOPPED")?;
    c.try_ctr(&["task", "delete", "c"])?;
    c.ctr(&["container", "delete", "c"])?;
    empty(c)
}
