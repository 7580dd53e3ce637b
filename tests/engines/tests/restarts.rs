//! containerd is killed, and started again, while something is under way.

use super::{empty, ended_with};
use anyhow::{Context, Result, ensure};
use caisson_tests_engines::{Containerd, eventually};
use std::process::{Child, Stdio};

/// With every shim and runtime.
pub const TESTS: &[(&str, super::Test)] =
    &[("containerd_is_killed_during_exec", during_exec), ("containerd_is_killed_during_stop", during_stop)];

/// Waits for a file inside; then the end.
const WAITS: &str = "while [ ! -e /tmp/go ]; do sleep 0.1; done";

/// What `ctr ARGS` says, to be looked at later.
fn begin(c: &Containerd, args: &[&str]) -> Result<Child> {
    let words = [&["ctr"], args].concat();
    Ok(c.machine.command(&words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}

/// The host's process of a process that was executed in `c`.
fn pid_of(c: &Containerd, exec: &str) -> Option<String> {
    let list = c.ctr(&["task", "ps", "c"]).ok()?;
    let line = list.lines().find(|line| line.contains(&format!("ExecID:{exec},")))?;
    line.split_whitespace().next().map(str::to_owned)
}

/// Waits for the end of a process that was executed in `c`: its status. Nothing knows it afterwards.
fn exec_ended(c: &Containerd, exec: &str) -> Result<i32> {
    let deleted = || {
        let output = c.try_ctr(&["task", "delete", "--exec-id", exec, "c"]).ok()?;
        // One that still runs is refused, with words.
        (output.stderr.is_empty() || output.status > 1).then_some(output.status)
    };
    eventually(30, deleted).with_context(|| format!("{exec} does not end: {:?}", c.ctr(&["task", "ps", "c"])))
}

fn during_exec(c: &mut Containerd) -> Result<()> {
    c.run_ok(&["-d"], "c", &["sleep", "1000"])?;
    c.wait_state("c", "RUNNING")?;
    c.ctr(&["task", "exec", "-d", "--exec-id", "detached", "c", "sh", "-c", &format!("{WAITS}; exit 5")])?;
    c.ctr(&["task", "exec", "-d", "--exec-id", "killed", "c", "sleep", "2000"])?;
    let script = format!("echo begun; {WAITS}; echo done; exit 6");
    let attached = begin(c, &["task", "exec", "--exec-id", "attached", "c", "sh", "-c", &script])?;
    eventually(30, || pid_of(c, "attached")).with_context(|| format!("it does not start: {:?}", c.ctr(&["task", "ps", "c"])))?;
    let killed = pid_of(c, "killed").context("no PID")?;
    // And some that are just beginning.
    let beginning: Vec<Child> = (0..5)
        .map(|n| {
            let child = begin(c, &["task", "exec", "--exec-id", &format!("n{n}"), "c", "true"]);
            std::thread::sleep(std::time::Duration::from_millis(40));
            child
        })
        .collect::<Result<_>>()?;
    c.kill()?;
    // One ends while nobody listens.
    c.machine.ok(&["kill", "-KILL", &killed])?;
    for child in beginning.into_iter().chain([attached]) {
        // They lost containerd, or were done before.
        child.wait_with_output()?;
    }
    c.launch()?;
    ensure!(c.state("c")?.as_deref() == Some("RUNNING"), "{:?}", c.state("c")?);
    ensure!(exec_ended(c, "killed")? == 137, "the one that ended meanwhile");
    let events = c.machine.path("events.log");
    let mut listener = c.machine.command(&["ctr", "events"]).stdout(std::fs::File::create(&events)?).spawn()?;
    let told =
        |what: &str| std::fs::read_to_string(&events).unwrap_or_default().lines().any(|line| what.split(' ').all(|w| line.contains(w)));
    let listening = eventually(30, || {
        let _ = c.try_ctr(&["namespace", "label", "default", "listening=yes"]);
        told("/namespaces/").then_some(())
    });
    c.ctr(&["task", "exec", "--exec-id", "goes", "c", "touch", "/tmp/go"])?;
    let ends = eventually(30, || {
        (told("/tasks/exit \"detached\" \"exit_status\":5") && told("/tasks/exit \"attached\" \"exit_status\":6")).then_some(())
    });
    listener.kill()?;
    listener.wait()?;
    listening.context("ctr events says nothing")?;
    ends.with_context(|| format!("the ends are not told: {}", std::fs::read_to_string(&events).unwrap_or_default()))?;
    ensure!(exec_ended(c, "detached")? == 5, "the detached one");
    ensure!(exec_ended(c, "attached")? == 6, "the attached one");
    let list = c.ctr(&["task", "exec", "--exec-id", "last", "c", "ps"])?;
    ensure!(!list.contains("sleep 2000") && list.lines().count() <= 4, "processes are left: {list}");
    c.ctr(&["task", "kill", "-s", "KILL", "c"])?;
    c.wait_state("c", "STOPPED")?;
    c.try_ctr(&["task", "delete", "c"])?;
    c.ctr(&["container", "delete", "c"])?;
    empty(c)
}

/// A container has been asked to end, and takes its time.
fn during_stop(c: &mut Containerd) -> Result<()> {
    let polite = format!("trap '{WAITS}; exit 9' TERM; touch /tmp/ready; while :; do sleep 0.1; done");
    let stubborn = "trap '' TERM; touch /tmp/ready; while :; do sleep 0.1; done";
    for (id, script) in [("c", polite.as_str()), ("stubborn", stubborn), ("late", &polite)] {
        c.run_ok(&["-d"], id, &["sh", "-c", script])?;
        let ready = || (c.try_ctr(&["task", "exec", "--exec-id", "ready", id, "test", "-e", "/tmp/ready"]).ok()?.status == 0).then_some(());
        eventually(30, ready).with_context(|| format!("{id} does not start"))?;
    }
    for id in ["c", "stubborn"] {
        c.ctr(&["task", "kill", "-s", "TERM", id])?;
    }
    // One is asked at the very moment.
    let asked = begin(c, &["task", "kill", "-s", "TERM", "late"])?;
    c.kill()?;
    asked.wait_with_output()?;
    c.launch()?;
    for id in ["c", "stubborn", "late"] {
        ensure!(c.state(id)?.as_deref() == Some("RUNNING"), "{id} is {:?}", c.state(id)?);
    }
    c.ctr(&["task", "kill", "-s", "TERM", "late"])?;
    for id in ["c", "late"] {
        c.ctr(&["task", "exec", "--exec-id", "goes", id, "touch", "/tmp/go"])?;
        c.wait_state(id, "STOPPED")?;
    }
    ensure!(c.state("stubborn")?.as_deref() == Some("RUNNING"), "the stubborn one has ended");
    c.ctr(&["task", "kill", "-s", "KILL", "stubborn"])?;
    c.wait_state("stubborn", "STOPPED")?;
    for (id, status) in [("c", 9), ("late", 9), ("stubborn", 137)] {
        let deleted = c.try_ctr(&["task", "delete", id])?;
        ensure!(ended_with(&deleted, status), "{id}: {deleted}");
        c.ctr(&["container", "delete", id])?;
    }
    empty(c)
}
