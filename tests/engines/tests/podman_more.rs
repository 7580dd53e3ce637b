//! What images and their users ask of Podman besides running: health checks, init, copying, restarting, building.

use super::NONE;
use anyhow::{Context, Result, ensure};
use caisson_tests_engines::image::BUSYBOX;
use caisson_tests_engines::{Podman, eventually};

/// With every runtime.
pub const TESTS: &[(&str, super::Test)] = &[
    ("health_check", health_check),
    ("init_and_tmpfs", init_and_tmpfs),
    ("copy", copy),
    ("top", top),
    ("follow_and_stop", follow_and_stop),
    ("restart_policy", restart_policy),
    ("exec_terminal", exec_terminal),
    ("statistics_and_limits", statistics_and_limits),
    ("build", build),
];

fn begin(p: &Podman, flags: &[&str], command: &[&str]) -> Result<()> {
    p.ok(&[&["run", "-d", "--name", "box", NONE], flags, &[BUSYBOX], command].concat()).map(drop)
}

/// Waits until this command succeeds in the container.
fn inside(p: &Podman, script: &str) -> Result<()> {
    let done = || (p.run(&["exec", "box", "sh", "-c", script]).ok()?.status == 0).then_some(());
    eventually(30, done).with_context(|| format!("{script:?}: {:?}", p.run(&["exec", "box", "sh", "-c", script])))
}

fn health_check(p: &Podman) -> Result<()> {
    let flags = ["--health-cmd", "test -e /tmp/fine", "--health-interval", "disable", "--health-retries", "1"];
    begin(p, &flags, &["sleep", "1000"])?;
    // Timers are systemd's business: the check is made by hand.
    ensure!(p.run(&["healthcheck", "run", "box"])?.status != 0, "healthy");
    ensure!(p.ok(&["inspect", "--format", "{{.State.Health.Status}}", "box"])? == "unhealthy\n", "the status");
    p.ok(&["exec", "box", "touch", "/tmp/fine"])?;
    p.ok(&["healthcheck", "run", "box"])?;
    ensure!(p.ok(&["inspect", "--format", "{{.State.Health.Status}}", "box"])? == "healthy\n", "the status");
    Ok(())
}

fn init_and_tmpfs(p: &Podman) -> Result<()> {
    let script = "cat /proc/1/comm; test $$ != 1 && echo second; df -k /small | tail -1; touch /small/x /x; exit 3";
    let flags = ["run", "--name", "box", NONE, "--init", "--init-path", "/usr/bin/docker-init", "--tmpfs", "/small:size=1m"];
    let output = p.run(&[&flags[..], &[BUSYBOX, "sh", "-c", script]].concat())?;
    let text = output.text();
    ensure!(output.status == 3 && text.contains("init\nsecond\n") && text.contains(" 1024 "), "{output}");
    // What it wrote in its own layer is there, what it wrote to memory is not.
    let changes = p.ok(&["diff", "box"])?;
    ensure!(changes.lines().any(|line| line == "A /x") && !changes.contains("/small/x"), "{changes}");
    Ok(())
}

fn copy(p: &Podman) -> Result<()> {
    begin(p, &["-v", "data:/volume"], &["sh", "-c", "echo made > /made; sleep 1000"])?;
    inside(p, "test -s /made")?;
    let (given, fetched) = (p.machine.path("given"), p.machine.path("fetched"));
    std::fs::write(&given, "given\n")?;
    p.ok(&["cp", &given.display().to_string(), "box:/given"])?;
    ensure!(p.ok(&["exec", "box", "cat", "/given"])? == "given\n", "what is copied in");
    ensure!(!p.machine.inside("/given").exists(), "it was copied to the host");
    // To where a volume is, and out of one.
    p.ok(&["cp", &given.display().to_string(), "box:/volume/given"])?;
    ensure!(p.ok(&["exec", "box", "cat", "/volume/given"])? == "given\n", "what is copied into a volume");
    p.ok(&["cp", "box:/volume/given", &fetched.display().to_string()])?;
    ensure!(std::fs::read_to_string(&fetched)? == "given\n", "what is copied out of a volume");
    p.ok(&["cp", "box:/made", &fetched.display().to_string()])?;
    ensure!(std::fs::read_to_string(&fetched)? == "made\n", "what is copied out");
    p.ok(&["kill", "box"])?;
    p.ok(&["wait", "box"])?;
    p.ok(&["commit", "--quiet", "box", "localhost/committed"])?;
    ensure!(p.ok(&["run", "--rm", NONE, "localhost/committed", "cat", "/made", "/given"])? == "made\ngiven\n", "the new image");
    Ok(())
}

/// Podman looks into /proc of the container's mount namespace, which a sandbox has for itself: at least nothing of the host's is shown.
fn top(p: &Podman) -> Result<()> {
    begin(p, &[], &["sleep", "1000"])?;
    let top = p.run(&["top", "box"])?;
    ensure!(!top.text().contains("conmon") && !top.text().contains("machine.sh"), "{top}");
    ensure!(p.caisson || top.text().contains("sleep 1000"), "{top}");
    ensure!(p.ok(&["exec", "box", "ps"])?.contains("sleep 1000"), "ps");
    Ok(())
}

fn follow_and_stop(p: &Podman) -> Result<()> {
    begin(p, &[], &["sh", "-c", "echo one; echo two >&2; sleep 2; echo three"])?;
    let output = p.run(&["logs", "-f", "box"])?;
    ensure!(output.text() == "one\nthree\n" && output.stderr == b"two\n", "{output}");
    p.ok(&["rm", "box"])?;
    begin(p, &[], &["sh", "-c", "trap '' TERM; trap 'touch /usr1' USR1; touch /ready; while :; do sleep 0.1; done"])?;
    inside(p, "test -e /ready")?;
    p.ok(&["kill", "--signal", "USR1", "box"])?;
    inside(p, "test -e /usr1")?;
    p.ok(&["stop", "--time", "1", "box"])?;
    ensure!(p.ok(&["wait", "box"])? == "137\n", "status");
    Ok(())
}

fn restart_policy(p: &Podman) -> Result<()> {
    let flags = ["--restart", "on-failure:2", "-v", "runs:/runs"];
    begin(p, &flags, &["sh", "-c", "echo run >> /runs/log; exit 3"])?;
    let runs = || p.ok(&["run", "--rm", NONE, "-v", "runs:/runs", BUSYBOX, "cat", "/runs/log"]);
    eventually(30, || (runs().ok()? == "run\nrun\nrun\n").then_some(())).with_context(|| format!("{:?}", runs()))?;
    let status = || p.ok(&["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}", "box"]);
    eventually(30, || (status().ok()? == "exited 3 2\n").then_some(())).with_context(|| format!("{:?}", status()))
}

fn exec_terminal(p: &Podman) -> Result<()> {
    begin(p, &[], &["sleep", "1000"])?;
    let words = p.words(&["exec", "-it", "--user", "user", "box", "sh", "-c", "tty; id -un; sleep 1; stty size; exit 4"]);
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let output = p.machine.run(&["script", "-qec", &format!("stty rows 31 cols 97; {}", quoted.join(" ")), "/dev/null"])?;
    let text = output.terminal_text();
    ensure!(output.status == 4 && text.contains("/dev/pts/0\nuser\n31 97\n"), "{output}");
    Ok(())
}

fn statistics_and_limits(p: &Podman) -> Result<()> {
    let flags = ["--memory", "100m", "--pids-limit", "50"];
    begin(p, &flags, &["sh", "-c", "x=$(head -c 5000000 /dev/zero | tr '\\0' x); echo ready; sleep 1000; true"])?;
    eventually(30, || (p.ok(&["logs", "box"]).ok()? == "ready\n").then_some(())).context("it does not start")?;
    let used = p.ok(&["stats", "--no-stream", "--format", "{{.MemUsage}}", "box"])?;
    ensure!(used.contains("MB / 104.9MB"), "{used}");
    let limits = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2> /dev/null";
    ensure!(p.run(&["exec", "box", "sh", "-c", limits])?.text() == "104857600\n", "the limit");
    Ok(())
}

/// The steps run with the runtime, as those of `docker build` do.
fn build(p: &Podman) -> Result<()> {
    let dir = p.machine.path("build");
    std::fs::create_dir_all(&dir)?;
    let file = format!(
        "FROM {BUSYBOX}\nCOPY given /given\nRUN cat /given > /made && echo more >> /made && uname -v > /kernel\n\
         WORKDIR /work\nUSER user\nENV A=b\nENTRYPOINT [\"/bin/sh\", \"-c\"]\nCMD [\"id -u; pwd; echo $A; cat /made\"]\n"
    );
    std::fs::write(dir.join("Dockerfile"), file)?;
    std::fs::write(dir.join("given"), "given\n")?;
    p.ok(&["build", "--isolation", "oci", "--network", "none", "-t", "built", &dir.display().to_string()])?;
    let text = p.ok(&["run", "--rm", NONE, "built"])?;
    ensure!(text == "1000\n/work\nb\ngiven\nmore\n", "{text}");
    let kernel = p.ok(&["run", "--rm", NONE, "--entrypoint", "cat", "built", "/kernel"])?;
    ensure!(kernel.contains("Caisson") == p.caisson, "the step ran on another kernel: {kernel}");
    Ok(())
}
