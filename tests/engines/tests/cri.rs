//! containerd's CRI plugin with runc and with Caisson: what a kubelet does.

use anyhow::{Context, Result, ensure};
use caisson_tests_engines::{Cri, eventually};
use k8s_cri::v1::ContainerState;
use libtest_mimic::{Arguments, Failed, Trial};
use std::process::ExitCode;

mod memory;
mod pods;
mod settings;
mod streams;

type Test = fn(&Cri) -> Result<()>;

const TESTS: &[(&str, Test)] = &[
    ("pod", pod),
    ("network", network),
    ("stop_and_restart", stop_and_restart),
    ("shared_names", shared_names),
    ("shared_processes", shared_processes),
];

fn main() -> ExitCode {
    let args = Arguments::from_args();
    let mut trials = Vec::new();
    for handler in ["runc", "caisson"] {
        let own = if handler == "caisson" { pods::OWN } else { &[] };
        for (name, test) in TESTS.iter().chain(pods::TESTS).chain(streams::TESTS).chain(settings::TESTS).chain(memory::TESTS).chain(own) {
            trials.push(Trial::test(format!("{handler}::{name}"), move || trial(handler, *test)));
        }
    }
    libtest_mimic::run(&args, trials).exit_code()
}

fn trial(handler: &'static str, test: Test) -> Result<(), Failed> {
    let done = Cri::start(handler).and_then(|cri| test(&cri));
    done.map_err(|error| Failed::from(format!("{error:#}")))
}

fn pod(c: &Cri) -> Result<()> {
    let shared = c.machine.path("empty-dir");
    std::fs::create_dir_all(&shared)?;
    let pod = c.run_pod("pod", false)?;
    let script = "echo out; echo err >&2; echo first > /shared/f; while :; do echo x >> /shared/ticks; sleep 0.1; done";
    let one = c.run_container(&pod, "one", 0, &["sh", "-c", script], &[(&shared, "/shared")])?;
    let two = c.run_container(&pod, "two", 0, &["sleep", "1000"], &[(&shared, "/shared")])?;
    eventually(30, || (c.exec_ok(&two, &["cat", "/shared/f"]).ok()? == "first\n").then_some(())).context("the shared directory")?;
    // Live, in both directions.
    let size = || c.exec_ok(&two, &["wc", "-c", "/shared/ticks"]);
    let before = size()?;
    eventually(30, || size().ok().filter(|now| *now != before)).context("the shared directory stands still")?;
    c.exec_ok(&two, &["sh", "-c", "echo second > /shared/g"])?;
    ensure!(c.exec_ok(&one, &["cat", "/shared/g"])? == "second\n", "the other way");
    // The two streams are not ordered among each other.
    let mut lines = c.log(&pod, "one");
    lines.sort_unstable();
    ensure!(lines == ["err", "out"], "{lines:?}");
    let answer = c.exec(&one, &["sh", "-c", "echo bad >&2; exit 5"])?;
    ensure!(answer.exit_code == 5 && answer.stderr == b"bad\n", "{answer:?}");
    let usage = eventually(30, || c.usage(&one).ok().filter(|(memory, cpu)| *memory > 0 && *cpu > 0));
    usage.context("no statistics")?;
    ensure!(c.exec_ok(&one, &["cat", "/proc/1/comm"])? == "sh\n", "it sees processes that are not its own");
    c.stop_pod(&pod)?;
    c.remove_pod(&pod)?;
    let left = eventually(30, || c.machine.processes("containerd-shim").is_empty().then_some(()));
    left.context("a shim is left")?;
    let mounts = c.machine.mounts("/run/containerd");
    ensure!(mounts.is_empty(), "{mounts:?}");
    Ok(())
}

fn network(c: &Cri) -> Result<()> {
    let list = |dir: &str| c.machine.run(&["ls", dir]).map(|output| output.text());
    let pod = c.run_pod("pod", false)?;
    let address = c.address(&pod)?;
    ensure!(address.starts_with("10.88."), "{address:?}");
    c.run_container(&pod, "one", 0, &["sleep", "1000"], &[])?;
    ensure!(list("/run/netns")?.lines().count() == 1, "{}", list("/run/netns")?);
    ensure!(list("/var/lib/cni/networks/pods")?.contains(&address), "no lease");
    ensure!(c.machine.ok(&["ip", "link", "show", "type", "veth"])?.contains("veth"), "no interface");
    // Any container is reached at the pod's address, and one that is started again, too.
    for attempt in 0..2 {
        let serves = c.run_container(&pod, "serves", attempt, &["nc", "-ll", "-p", "5000", "-e", "echo", "hello"], &[])?;
        let answer = || (c.machine.run(&["busybox", "nc", "-w", "5", &address, "5000"]).ok()?.text() == "hello\n").then_some(());
        eventually(30, answer).with_context(|| format!("no answer at {address}, attempt {attempt}"))?;
        c.stop(&serves, 0)?;
        c.remove(&serves)?;
    }
    c.stop_pod(&pod)?;
    c.remove_pod(&pod)?;
    ensure!(list("/run/netns")?.is_empty(), "the namespace is left");
    ensure!(!list("/var/lib/cni/networks/pods")?.contains(&address), "the lease is left");
    ensure!(!c.machine.ok(&["ip", "link", "show", "type", "veth"])?.contains("veth"), "the interface is left");
    Ok(())
}

fn stop_and_restart(c: &Cri) -> Result<()> {
    let pod = c.run_pod("pod", false)?;
    let other = c.run_container(&pod, "other", 0, &["sleep", "1000"], &[])?;
    let polite = "trap 'echo bye; exit 9' TERM; echo ready; while :; do sleep 0.1; done";
    let stubborn = "trap '' TERM; echo ready; while :; do sleep 0.1; done";
    let run = |name: &str, attempt: u32, script: &str| -> Result<String> {
        let ready = c.log(&pod, name).iter().filter(|line| *line == "ready").count();
        let id = c.run_container(&pod, name, attempt, &["sh", "-c", script], &[])?;
        let more = || (c.log(&pod, name).iter().filter(|line| *line == "ready").count() > ready).then_some(());
        eventually(30, more).context("it does not start")?;
        Ok(id)
    };
    let first = run("one", 0, polite)?;
    c.stop(&first, 60)?;
    let status = c.status(&first)?;
    ensure!(status.exit_code == 9 && status.state == ContainerState::ContainerExited as i32, "{status:?}");
    ensure!(c.log(&pod, "one").last().is_some_and(|line| line == "bye"), "the log");
    // The next attempt, beside the container that ran on.
    let second = run("one", 1, stubborn)?;
    c.remove(&first)?;
    c.stop(&second, 1)?;
    ensure!(c.status(&second)?.exit_code == 137, "{:?}", c.status(&second)?);
    let status = c.status(&other)?;
    ensure!(status.state == ContainerState::ContainerRunning as i32, "{status:?}");
    c.remove(&second)?;
    c.stop_pod(&pod)?;
    c.remove_pod(&pod)
}

fn shared_names(c: &Cri) -> Result<()> {
    let pod = c.run_pod("pod", false)?;
    let one = c.run_container(&pod, "one", 0, &["sleep", "1000"], &[])?;
    ensure!(c.exec_ok(&one, &["hostname"])? == "pod-host\n", "hostname");
    Ok(())
}

fn shared_processes(c: &Cri) -> Result<()> {
    let pod = c.run_pod("pod", true)?;
    let one = c.run_container(&pod, "one", 0, &["sleep", "1111"], &[])?;
    c.run_container(&pod, "two", 0, &["sleep", "2222"], &[])?;
    let list = c.exec_ok(&one, &["ps"])?;
    ensure!(list.contains("sleep 1111") && list.contains("sleep 2222"), "{list}");
    Ok(())
}
