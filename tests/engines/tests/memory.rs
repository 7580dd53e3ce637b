//! Containers of a pod that have more memory than they may, and what the engine is told of it.

use anyhow::{Context, Result, ensure};
use caisson_tests_engines::cri::Pod;
use caisson_tests_engines::{Cri, eventually};
use k8s_cri::v1::{ContainerState, LinuxContainerResources};

/// With every runtime.
pub const TESTS: &[(&str, super::Test)] = &[("out_of_memory", out_of_memory), ("one_process_of_many", one_process_of_many)];

/// Fills 120 MB again and again, so many times.
const GREEDY: &str = "dd if=/dev/zero of=/dev/null bs=120000000 count=";

/// Runs a shell that may have 60 MB.
fn limited(c: &Cri, pod: &Pod, name: &str, script: &str) -> Result<String> {
    c.run_with(pod, name, &["sh", "-c", script], |config| {
        let limits = LinuxContainerResources { memory_limit_in_bytes: 60 << 20, ..Default::default() };
        config.linux.get_or_insert_default().resources = Some(limits);
    })
}

/// Waits for a container's end, and for the reason that is given for it.
fn ended(c: &Cri, id: &str, status: i32, reason: &str) -> Result<()> {
    ensure!(c.exited(id)? == status, "{:?}", c.status(id)?);
    // With runc's shim the kill may be told after the end.
    eventually(10, || (c.status(id).ok()?.reason == reason).then_some(())).with_context(|| format!("{:?}", c.status(id)))
}

fn runs(c: &Cri, id: &str) -> Result<()> {
    let status = c.status(id)?;
    ensure!(status.state == ContainerState::ContainerRunning as i32, "the other container: {status:?}");
    ensure!(c.exec_ok(id, &["echo", "fine"])? == "fine\n", "the other container");
    Ok(())
}

/// One of two containers is killed for want of memory; the other one, without a limit, has as much as the first wanted.
fn out_of_memory(c: &Cri) -> Result<()> {
    let pod = c.run_pod("pod", false)?;
    let other = c.run_container(&pod, "other", 0, &["sh", "-c", &format!("{GREEDY}1 && echo has; sleep 1111; true")], &[])?;
    c.logged(&pod, "other", "has")?;
    let greedy = limited(c, &pod, "greedy", &format!("exec {GREEDY}100000"))?;
    ended(c, &greedy, 137, "OOMKilled")?;
    runs(c, &other)?;
    // A container that ends well has no such reason, nor has one that is killed by others.
    let modest = limited(c, &pod, "modest", "exit 0")?;
    ended(c, &modest, 0, "Completed")?;
    let stopped = limited(c, &pod, "stopped", "sleep 1111")?;
    c.stop(&stopped, 0)?;
    ended(c, &stopped, 137, "Error")?;
    runs(c, &other)
}

/// The container's first process survives, and goes on as it likes.
fn one_process_of_many(c: &Cri) -> Result<()> {
    let pod = c.run_pod("pod", false)?;
    let other = c.run_container(&pod, "other", 0, &["sleep", "1111"], &[])?;
    let script = format!("{GREEDY}100000; echo \"status $?\"; while [ ! -e /go ]; do sleep 0.1; done; exit 3");
    let one = limited(c, &pod, "one", &script)?;
    c.logged(&pod, "one", "status 137")?;
    c.exec_ok(&one, &["touch", "/go"])?;
    ended(c, &one, 3, "OOMKilled")?;
    runs(c, &other)
}
