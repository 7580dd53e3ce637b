//! Images that Docker has built and saved, under other engines, as they are.

use anyhow::{Context, Result, ensure};
use caisson_tests_engines::cri::Pod;
use caisson_tests_engines::{Cri, Podman, eventually, services};
use k8s_cri::v1::KeyValue;

/// Runs an image's own command in a pod.
fn run(c: &Cri, pod: &Pod, image: &str, env: &[(&str, &str)]) -> Result<String> {
    c.run_with(pod, image, &[], |config| {
        config.image.get_or_insert_default().image = format!("{image}:latest");
        config.envs.extend(env.iter().map(|(key, value)| KeyValue { key: (*key).into(), value: (*value).into() }));
    })
}

/// One pod of three services: by way of `ctr image import`.
pub fn to_cri(handler: &'static str, archive: &str) -> Result<()> {
    let c = Cri::start(handler)?;
    c.machine.ok(&["ctr", "-n", "k8s.io", "image", "import", archive])?;
    let pod = c.run_pod("pod", false)?;
    let address = c.address(&pod)?;
    let nginx = run(&c, &pod, "nginx", &[("GREETING", "hello")])?;
    let python = run(&c, &pod, "python", &[])?;
    let redis = run(&c, &pod, "redis", &[])?;
    ensure!(services::fetched(&c.machine, &format!("{address}:80"))? == "hello\n", "nginx");
    ensure!(services::fetched(&c.machine, &format!("{address}:8000"))? == "app Linux visit 1\n", "python");
    let answers = || (c.exec_ok(&redis, &["redis-cli", "set", "key", "value"]).ok()? == "OK\n").then_some(());
    eventually(30, answers).context("redis")?;
    // The entry point has given up root; the image's volume is the user's.
    let owner = c.exec_ok(&redis, &["sh", "-c", "stat -c %U /proc/1 /data; cat /proc/1/comm; grep -c ' /data ' /proc/mounts"])?;
    ensure!(owner == "redis\nredis\nredis-server\n1\n", "{owner}");
    // Containers of a pod reach each other at the loopback.
    let seen = c.exec_ok(&redis, &["python3", "-c", "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000/').read())"])?;
    ensure!(seen.contains("app Linux visit 2"), "{seen}");
    // Each with the image's own signal, and its own status.
    for (id, status) in [(&redis, 0), (&nginx, 0), (&python, 3)] {
        c.stop(id, 60)?;
        ensure!(c.exited(id)? == status, "{:?}", c.status(id)?);
    }
    let log = c.log(&pod, "python");
    ensure!(log.first().is_some_and(|line| line == "ready") && log.iter().any(|line| line == "bye"), "{log:?}");
    c.stop_pod(&pod)?;
    c.remove_pod(&pod)
}

/// Containers of their own, without a network: by way of `podman load`.
pub fn to_podman(caisson: bool, archive: &str) -> Result<()> {
    let p = Podman::start(caisson)?;
    p.ok(&["load", "--quiet", "--input", archive])?;
    let run = |name: &str, flags: &[&str]| p.ok(&[&["run", "-d", "--name", name, "--network=none"], flags, &[name]].concat());
    let fetch = |name: &str, port: u16| {
        let program = format!("import urllib.request as u; print(u.urlopen('http://127.0.0.1:{port}/').read().decode().strip())");
        let words = ["exec", name, "python3", "-c", &program];
        let body = eventually(30, || p.run(&words).ok().filter(|output| output.status == 0));
        body.map(|output| output.text()).with_context(|| format!("{:?}", p.run(&words)))
    };
    // Timers of health checks are systemd's business.
    run("redis", &["-v", "kept:/data", "--health-interval", "disable"])?;
    let healthy = || (p.run(&["healthcheck", "run", "redis"]).ok()?.status == 0).then_some(());
    eventually(30, healthy).with_context(|| format!("redis: {:?}", p.run(&["healthcheck", "run", "redis"])))?;
    ensure!(p.ok(&["exec", "redis", "redis-cli", "set", "key", "value"])? == "OK\n", "set");
    let owner = p.ok(&["exec", "redis", "sh", "-c", "stat -c %U /proc/1 /data; cat /proc/1/comm"])?;
    ensure!(owner == "redis\nredis\nredis-server\n", "{owner}");
    p.ok(&["restart", "--time", "60", "redis"])?;
    let kept = || (p.run(&["exec", "redis", "redis-cli", "get", "key"]).ok()?.text() == "value\n").then_some(());
    eventually(30, kept).context("after a restart")?;
    run("nginx", &["-e", "GREETING=hello", "--init", "--init-path", "/usr/bin/docker-init"])?;
    ensure!(fetch("nginx", 80)? == "hello\n", "nginx");
    run("python", &["--read-only", "--user", "app"])?;
    ensure!(fetch("python", 8000)? == "app Linux visit 1\n", "python");
    // Each with the image's own signal, and its own status.
    for (name, status) in [("redis", "0"), ("nginx", "0"), ("python", "3")] {
        p.ok(&["stop", "--time", "60", name])?;
        let ended = p.ok(&["inspect", "--format", "{{.State.ExitCode}}", name])?;
        ensure!(ended.trim() == status, "{name}: {ended}");
    }
    ensure!(p.ok(&["logs", "python"])? == "ready\nbye\n", "{}", p.ok(&["logs", "python"])?);
    Ok(())
}
