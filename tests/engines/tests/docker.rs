//! Docker with runc and with Caisson.

use anyhow::{Context, Result, ensure};
use caisson_tests_engines::image::BUSYBOX;
use caisson_tests_engines::{Docker, eventually, output};
use caisson_tests_support::host;
use libtest_mimic::{Arguments, Failed, Trial};
use std::os::unix::fs::PermissionsExt;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

mod carried;
mod docker_services;

type Test = fn(&Docker) -> Result<()>;

const TESTS: &[(&str, Test)] = &[
    ("run", run),
    ("users_and_files", users_and_files),
    ("exec", exec),
    ("copy", copy),
    ("logs", logs),
    ("terminal", terminal),
    ("stop_and_kill", stop_and_kill),
    ("pause", pause),
    ("restart_policy", restart_policy),
    ("health_check", health_check),
    ("init", init),
    ("build", build),
    ("top", top),
    ("joined", joined),
    ("statistics", statistics),
    ("limits", limits),
    ("out_of_memory", out_of_memory),
    ("containerd_is_killed", containerd_is_killed),
    ("much_is_logged", much_is_logged),
    ("no_room_for_the_log", no_room_for_the_log),
];

fn main() -> ExitCode {
    let args = Arguments::from_args();
    let mut trials = Vec::new();
    for runtime in ["runc", "caisson"] {
        for (name, test) in TESTS.iter().chain(docker_services::TESTS) {
            trials.push(Trial::test(format!("{runtime}::{name}"), move || trial(runtime, *test)));
        }
    }
    libtest_mimic::run(&args, trials).exit_code()
}

fn trial(runtime: &'static str, test: Test) -> Result<(), Failed> {
    let done = Docker::start(runtime).and_then(|docker| test(&docker));
    done.map_err(|error| Failed::from(format!("{error:#}")))
}

fn run(d: &Docker) -> Result<()> {
    let output = d.run_with(&["run", "--rm", "-i", BUSYBOX, "sh", "-c", "read x; echo out $x; echo err >&2; exit 7"], b"word\n")?;
    ensure!(output.status == 7 && output.text() == "out word\n" && output.stderr == b"err\n", "{output}");
    let output = d.run(&["run", "--rm", BUSYBOX, "/no/such/program"])?;
    ensure!(output.status == 127, "{output}");
    let output = d.run(&["run", "--rm", BUSYBOX, "/etc"])?;
    ensure!(output.status == 126, "{output}");
    let output = d.run(&["run", "--rm", BUSYBOX, "sh", "-c", "kill -9 $$; sleep 5"])?;
    ensure!(output.status == 0 || output.status == 137, "{output}");
    let text = d.ok(&[
        "run",
        "--rm",
        "--hostname",
        "box",
        "--env",
        "A=b c",
        "--workdir",
        "/tmp",
        BUSYBOX,
        "sh",
        "-c",
        "hostname; echo $A; pwd; cat /etc/hostname",
    ])?;
    ensure!(text == "box\nb c\n/tmp\nbox\n", "{text}");
    ensure!(d.ok(&["ps", "-aq"])?.is_empty(), "containers are left");
    Ok(())
}

fn users_and_files(d: &Docker) -> Result<()> {
    let text =
        d.ok(&["run", "--rm", "--user", "user", BUSYBOX, "sh", "-c", "id -u; id -g; echo $HOME; touch /root/x 2>/dev/null || echo no"])?;
    ensure!(text == "1000\n1000\n/home/user\nno\n", "{text}");
    let text = d.ok(&["run", "--rm", "--user", "1000:1234", "--group-add", "7", BUSYBOX, "id"])?;
    ensure!(text.contains("uid=1000(user) gid=1234(extra)") && text.contains('7'), "{text}");
    let script = "touch /x 2>/dev/null || echo read-only; touch /tmp/x && echo tmp; echo kept > /vol/file; cat /ro/file; touch /ro/y 2>/dev/null || echo ro";
    let volume = d.machine.path("volume");
    let given = d.machine.path("given");
    for dir in [&volume, &given] {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::write(given.join("file"), "given\n")?;
    let (v, g) = (format!("{}:/vol", volume.display()), format!("{}:/ro:ro", given.display()));
    let text = d.ok(&["run", "--rm", "--read-only", "--tmpfs", "/tmp", "-v", &v, "-v", &g, BUSYBOX, "sh", "-c", script])?;
    ensure!(text == "read-only\ntmp\ngiven\nro\n", "{text}");
    ensure!(std::fs::read_to_string(volume.join("file"))? == "kept\n", "the volume");
    // A named volume outlives its containers.
    d.ok(&["run", "--rm", "-v", "data:/data", BUSYBOX, "sh", "-c", "echo one > /data/f"])?;
    let text = d.ok(&["run", "--rm", "-v", "data:/data", BUSYBOX, "cat", "/data/f"])?;
    ensure!(text == "one\n", "{text}");
    Ok(())
}

fn exec(d: &Docker) -> Result<()> {
    d.ok(&["run", "-d", "--name", "box", BUSYBOX, "sleep", "1000"])?;
    let output = d.run(&["exec", "box", "sh", "-c", "echo in; echo bad >&2; exit 5"])?;
    ensure!(output.status == 5 && output.text() == "in\n" && output.stderr == b"bad\n", "{output}");
    let output = d.run_with(&["exec", "-i", "box", "cat"], b"through\n")?;
    ensure!(output.status == 0 && output.text() == "through\n", "{output}");
    let text =
        d.ok(&["exec", "--user", "user", "--workdir", "/tmp", "--env", "X=y", "box", "sh", "-c", "id -u; pwd; echo $X; cat /proc/1/comm"])?;
    ensure!(text == "1000\n/tmp\ny\nsleep\n", "{text}");
    let output = d.run(&["exec", "box", "/no/such"])?;
    ensure!(output.status == 127 || output.status == 126, "{output}");
    d.ok(&["exec", "-d", "box", "sh", "-c", "echo later > /tmp/later"])?;
    eventually(30, || (d.run(&["exec", "box", "cat", "/tmp/later"]).ok()?.text() == "later\n").then_some(())).context("exec -d")?;
    Ok(())
}

fn top(d: &Docker) -> Result<()> {
    d.ok(&["run", "-d", "--name", "box", BUSYBOX, "sleep", "1000"])?;
    let top = d.ok(&["top", "box"])?;
    ensure!(top.contains("sleep 1000"), "{top}");
    Ok(())
}

/// Containers that have the network, and more, of another one.
fn joined(d: &Docker) -> Result<()> {
    d.ok(&["run", "-d", "--name", "box", "--ipc", "shareable", BUSYBOX, "nc", "-ll", "-p", "5000", "-e", "echo", "hello"])?;
    let ask = ["run", "--rm", "--network", "container:box", BUSYBOX, "nc", "127.0.0.1", "5000"];
    eventually(30, || (d.run(&ask).ok()?.text() == "hello\n").then_some(())).context("loopback is not shared")?;
    let list = d.ok(&["run", "--rm", "--network", "container:box", BUSYBOX, "ps"])?;
    ensure!(!list.contains("nc -ll"), "{list}");
    let all = ["run", "--rm", "--network", "container:box", "--pid", "container:box", "--ipc", "container:box", BUSYBOX];
    let list = d.ok(&[&all[..], &["ps"]].concat())?;
    ensure!(list.contains("nc -ll"), "{list}");
    let ipc = |first: &[&str]| d.ok(&[first, &["readlink", "/proc/self/ns/ipc"]].concat());
    ensure!(ipc(&all)? == ipc(&["exec", "box"])?, "IPC is not shared");
    // The one that was there first goes on.
    ensure!(d.inspect("box", ".State.Running")? == "true", "it has ended");
    d.ok(&["rm", "-f", "box"])?;
    Ok(())
}

fn copy(d: &Docker) -> Result<()> {
    d.ok(&["run", "-d", "--name", "box", BUSYBOX, "sh", "-c", "echo made > /made; sleep 1000"])?;
    eventually(30, || (d.run(&["exec", "box", "cat", "/made"]).ok()?.text() == "made\n").then_some(())).context("started")?;
    let given = d.machine.path("given");
    std::fs::write(&given, "given\n")?;
    d.ok(&["cp", &given.display().to_string(), "box:/given"])?;
    let text = d.ok(&["exec", "box", "cat", "/given"])?;
    ensure!(text == "given\n", "what is copied in is not seen: {text}");
    let fetched = d.machine.path("fetched");
    d.ok(&["cp", "box:/made", &fetched.display().to_string()])?;
    ensure!(std::fs::read_to_string(&fetched)? == "made\n", "what is copied out");
    Ok(())
}

fn logs(d: &Docker) -> Result<()> {
    d.ok(&["run", "-d", "--name", "box", BUSYBOX, "sh", "-c", "echo one; echo two >&2; sleep 2; echo three"])?;
    let output = d.run(&["logs", "-f", "box"])?;
    ensure!(output.text() == "one\nthree\n" && output.stderr == b"two\n", "{output}");
    let output = d.run(&["logs", "--tail", "1", "box"])?;
    ensure!(output.text() == "three\n", "{output}");
    ensure!(d.ok(&["wait", "box"])? == "0\n", "status");
    Ok(())
}

fn terminal(d: &Docker) -> Result<()> {
    let inner = format!("docker --host unix:///run/docker.sock run --rm -it {BUSYBOX} sh -c \"tty; sleep 1; stty size; exit 3\"");
    let output = d.machine.run(&["script", "-qec", &format!("stty rows 31 cols 97; {inner}"), "/dev/null"])?;
    let text = output.terminal_text();
    ensure!(output.status == 3 && text.contains("/dev/pts/0\n") && text.contains("31 97\n"), "{output}");
    d.ok(&["run", "-dt", "--name", "box", BUSYBOX, "sh", "-c", "test -t 1 && echo terminal; sleep 1000"])?;
    let inner = "docker --host unix:///run/docker.sock exec -it box sh -c \"tty; test -t 0 && echo yes; exit 4\"";
    let output = d.machine.run(&["script", "-qec", inner, "/dev/null"])?;
    let text = output.terminal_text();
    ensure!(output.status == 4 && text.contains("/dev/pts/1\nyes\n"), "{output}");
    let text = d.ok(&["logs", "box"])?.replace('\r', "");
    ensure!(text == "terminal\n", "{text:?}");
    Ok(())
}

fn stop_and_kill(d: &Docker) -> Result<()> {
    let polite = "trap 'echo bye; exit 9' TERM; echo ready; while :; do sleep 0.1; done";
    let stubborn = "trap '' TERM; echo ready; while :; do sleep 0.1; done";
    for (name, script) in [("polite", polite), ("stubborn", stubborn), ("killed", stubborn)] {
        d.ok(&["run", "-d", "--name", name, BUSYBOX, "sh", "-c", script])?;
        eventually(30, || d.ok(&["logs", name]).ok()?.contains("ready").then_some(())).context("started")?;
    }
    d.ok(&["stop", "--time", "60", "polite"])?;
    ensure!(d.inspect("polite", ".State.ExitCode")? == "9", "polite");
    ensure!(d.ok(&["logs", "polite"])? == "ready\nbye\n", "polite's log");
    d.ok(&["stop", "--time", "1", "stubborn"])?;
    ensure!(d.inspect("stubborn", ".State.ExitCode")? == "137", "stubborn");
    d.ok(&["kill", "killed"])?;
    d.wait_for("killed", ".State.ExitCode", "137")?;
    d.ok(&["start", "killed"])?;
    d.wait_for("killed", ".State.Running", "true")?;
    d.ok(&["rm", "-f", "polite", "stubborn", "killed"])?;
    ensure!(d.ok(&["ps", "-aq"])?.is_empty(), "containers are left");
    let left = eventually(20, || d.machine.mounts("/run/docker").is_empty().then_some(()));
    ensure!(left.is_some(), "mounts are left: {:?}", d.machine.mounts("/run/docker"));
    Ok(())
}

fn pause(d: &Docker) -> Result<()> {
    d.ok(&["run", "-d", "--name", "box", BUSYBOX, "sh", "-c", "while :; do echo x; sleep 0.05; done"])?;
    let lines = || -> Result<usize> { Ok(d.ok(&["logs", "box"])?.lines().count()) };
    eventually(30, || lines().ok().filter(|n| *n > 4)).context("it does not write")?;
    d.ok(&["pause", "box"])?;
    ensure!(d.inspect("box", ".State.Status")? == "paused", "not paused");
    std::thread::sleep(std::time::Duration::from_millis(500));
    let before = lines()?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    ensure!(lines()? == before, "it goes on");
    d.ok(&["unpause", "box"])?;
    eventually(30, || lines().ok().filter(|n| *n > before)).context("it does not go on")?;
    Ok(())
}

fn restart_policy(d: &Docker) -> Result<()> {
    d.ok(&[
        "run",
        "-d",
        "--name",
        "box",
        "--restart",
        "on-failure:2",
        "-v",
        "runs:/runs",
        BUSYBOX,
        "sh",
        "-c",
        "echo run >> /runs/log; exit 3",
    ])?;
    d.wait_for("box", ".RestartCount", "2")?;
    d.wait_for("box", ".State.Status", "exited")?;
    let text = d.ok(&["run", "--rm", "-v", "runs:/runs", BUSYBOX, "cat", "/runs/log"])?;
    ensure!(text == "run\nrun\nrun\n", "{text}");
    Ok(())
}

fn health_check(d: &Docker) -> Result<()> {
    d.ok(&[
        "run",
        "-d",
        "--name",
        "box",
        "--health-cmd",
        "test -e /tmp/fine",
        "--health-interval",
        "1s",
        "--health-retries",
        "1",
        BUSYBOX,
        "sleep",
        "1000",
    ])?;
    d.wait_for("box", ".State.Health.Status", "unhealthy")?;
    d.ok(&["exec", "box", "touch", "/tmp/fine"])?;
    d.wait_for("box", ".State.Health.Status", "healthy")
}

fn init(d: &Docker) -> Result<()> {
    let text = d.ok(&["run", "--rm", "--init", BUSYBOX, "sh", "-c", "cat /proc/1/comm; test $$ != 1 && echo second"])?;
    ensure!(text.ends_with("\nsecond\n") && text.contains("init"), "{text}");
    Ok(())
}

fn build(d: &Docker) -> Result<()> {
    let dir = d.machine.path("build");
    std::fs::create_dir_all(&dir)?;
    let file = format!(
        "FROM {BUSYBOX}\nCOPY given /given\nRUN cat /given > /made && echo more >> /made && uname -v > /kernel\n\
         WORKDIR /work\nUSER user\nENV A=b\nENTRYPOINT [\"/bin/sh\", \"-c\"]\nCMD [\"id -u; pwd; echo $A; cat /made\"]\n"
    );
    std::fs::write(dir.join("Dockerfile"), file)?;
    std::fs::write(dir.join("given"), "given\n")?;
    let context = dir.display().to_string();
    if d.runtime == "caisson" {
        // BuildKit, which is a part of dockerd, runs the program that is called runc.
        let runc = d.machine.path("bin/runc");
        std::fs::write(&runc, format!("#!/bin/sh\nexec {} --overlay=none \"$@\"\n", d.machine.path("bin/caisson").display()))?;
        std::fs::set_permissions(&runc, std::fs::Permissions::from_mode(0o755))?;
    }
    // The classic builder runs its steps as containers of the default runtime.
    for kit in ["DOCKER_BUILDKIT=0", "DOCKER_BUILDKIT=1"] {
        let words = ["env", kit, "docker", "--host", "unix:///run/docker.sock", "build", "--no-cache", "-t", "built", &context];
        let output = d.machine.run(&words)?;
        ensure!(output.status == 0, "{kit}: {output}");
        let text = d.ok(&["run", "--rm", "built"])?;
        ensure!(text == "1000\n/work\nb\ngiven\nmore\n", "{kit}: {text}");
        let kernel = d.ok(&["run", "--rm", "--entrypoint", "cat", "built", "/kernel"])?;
        ensure!(kernel.contains("Caisson") == (d.runtime == "caisson"), "{kit}: the step ran on another kernel: {kernel}");
    }
    Ok(())
}

/// 100 MB through the log, whose writer stops for a while.
fn much_is_logged(d: &Docker) -> Result<()> {
    d.ok(&["run", "-d", "--name", "box", BUSYBOX, "sh", "-c", &format!("{}; exit 4", output::SCRIPT)])?;
    let log = d.machine.inside(&d.inspect("box", ".LogPath")?);
    let size = || std::fs::metadata(&log).map_or(0, |attr| attr.len());
    eventually(30, || (size() > 1_000_000).then_some(())).context("the log does not grow")?;
    let writers = d.machine.processes("dockerd --config");
    for pid in &writers {
        host::kill(*pid, "STOP")?;
    }
    // A write may be under way.
    std::thread::sleep(Duration::from_millis(200));
    let before = size();
    std::thread::sleep(Duration::from_millis(500));
    let stopped = size();
    for pid in &writers {
        host::kill(*pid, "CONT")?;
    }
    ensure!(before == stopped && stopped < output::BYTES as u64, "it was not stopped: {before}, {stopped}");
    d.wait_for("box", ".State.Status", "exited")?;
    ensure!(d.inspect("box", ".State.ExitCode")? == "4", "exit status");
    let logs = d.run(&["logs", "box"])?;
    ensure!(logs.status == 0 && logs.stderr.is_empty(), "{logs}");
    output::complete(logs.stdout.as_slice())
}

/// The disk is full on which the log is: the container runs on, to its end and with its status.
fn no_room_for_the_log(d: &Docker) -> Result<()> {
    let containers = d.machine.path("docker/containers").display().to_string();
    d.machine.ok(&["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", &containers])?;
    let script = "yes xxxxxxxxxxxxxxxxxxx | head -n 50000; echo full > /tmp/full; while [ ! -e /tmp/go ]; do sleep 0.1; done; exit 5";
    d.ok(&["run", "-d", "--name", "box", BUSYBOX, "sh", "-c", script])?;
    let full = || (d.run(&["exec", "box", "cat", "/tmp/full"]).ok()?.text() == "full\n").then_some(());
    eventually(60, full).context("it does not go on")?;
    let used = d.machine.ok(&["df", "--output=pcent", &containers])?;
    ensure!(used.contains("100%"), "{used}");
    d.ok(&["exec", "box", "touch", "/tmp/go"])?;
    d.wait_for("box", ".State.Status", "exited")?;
    ensure!(d.inspect("box", ".State.ExitCode")? == "5", "exit status");
    Ok(())
}

/// dockerd starts its containerd again. A command runs meanwhile, and a container has been asked to end.
fn containerd_is_killed(d: &Docker) -> Result<()> {
    let waits = "while [ ! -e /tmp/go ]; do sleep 0.1; done";
    let script = format!("trap 'echo asked; {waits}; exit 9' TERM; echo ready; while :; do sleep 0.1; done");
    for name in ["box", "stops"] {
        d.ok(&["run", "-d", "--name", name, BUSYBOX, "sh", "-c", &script])?;
        eventually(30, || d.ok(&["logs", name]).ok()?.contains("ready").then_some(())).context("started")?;
    }
    d.ok(&["exec", "-d", "box", "sh", "-c", &format!("touch /tmp/begun; {waits}; touch /tmp/done")])?;
    eventually(30, || (d.run(&["exec", "box", "test", "-e", "/tmp/begun"]).ok()?.status == 0).then_some(())).context("exec")?;
    let mut stop = d.machine.command(&["docker", "--host", "unix:///run/docker.sock", "stop", "--time", "60", "stops"]);
    let mut stop = stop.stdout(Stdio::null()).spawn()?;
    eventually(30, || d.ok(&["logs", "stops"]).ok()?.contains("asked").then_some(())).context("asked to end")?;
    let daemons = || d.machine.processes("containerd --config");
    let old = daemons();
    for pid in &old {
        host::kill(*pid, "KILL")?;
    }
    let again = || daemons().iter().any(|pid| !old.contains(pid)).then_some(());
    eventually(60, again).context("dockerd does not start containerd again")?;
    for name in ["box", "stops"] {
        let goes = || (d.run(&["exec", name, "touch", "/tmp/go"]).ok()?.status == 0).then_some(());
        eventually(60, goes).with_context(|| format!("nothing can be executed in {name}: {:?}", d.run(&["exec", name, "true"])))?;
    }
    d.wait_for("stops", ".State.Status", "exited")?;
    ensure!(d.inspect("stops", ".State.ExitCode")? == "9", "exit status");
    ensure!(stop.wait()?.success(), "docker stop");
    eventually(30, || (d.run(&["exec", "box", "test", "-e", "/tmp/done"]).ok()?.status == 0).then_some(())).context("the command")?;
    d.ok(&["stop", "--time", "60", "box"])?;
    ensure!(d.inspect("box", ".State.ExitCode")? == "9", "exit status");
    d.ok(&["rm", "box", "stops"])?;
    let left = eventually(20, || d.machine.mounts("/run/docker").is_empty().then_some(()));
    ensure!(left.is_some(), "mounts are left: {:?}", d.machine.mounts("/run/docker"));
    Ok(())
}

fn statistics(d: &Docker) -> Result<()> {
    d.ok(&[
        "run",
        "-d",
        "--name",
        "box",
        "--memory",
        "100m",
        BUSYBOX,
        "sh",
        "-c",
        "x=$(head -c 5000000 /dev/zero | tr '\\0' x); sleep 1000; true",
    ])?;
    let found = eventually(30, || {
        let text = d.ok(&["stats", "--no-stream", "--format", "{{.MemUsage}}", "box"]).ok()?;
        (text.contains("/ 100MiB") && !text.starts_with('0')).then_some(())
    });
    found.context("no statistics")
}

fn limits(d: &Docker) -> Result<()> {
    d.ok(&["run", "-d", "--name", "box", "--memory", "100m", "--cpus", "0.5", "--pids-limit", "50", BUSYBOX, "sleep", "1000"])?;
    d.ok(&["update", "--memory", "200m", "--memory-swap", "400m", "box"])?;
    ensure!(d.inspect("box", ".HostConfig.Memory")? == (200 << 20).to_string(), "not updated");
    let output =
        d.run(&["run", "--rm", "--memory", "30m", BUSYBOX, "sh", "-c", "x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo still here"])?;
    ensure!(output.status == 137 || (output.status != 0 && !output.text().contains("still")), "{output}");
    Ok(())
}

fn out_of_memory(d: &Docker) -> Result<()> {
    let greedy = "x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo still here";
    d.ok(&["run", "-d", "--name", "greedy", "--memory", "30m", BUSYBOX, "sh", "-c", greedy])?;
    d.wait_for("greedy", ".State.Status", "exited")?;
    ensure!(d.inspect("greedy", ".State.ExitCode")? == "137", "exit status");
    d.wait_for("greedy", ".State.OOMKilled", "true")?;
    // Nobody else is said to have had too much.
    d.ok(&["run", "-d", "--name", "modest", "--memory", "30m", BUSYBOX, "sleep", "1000"])?;
    d.ok(&["kill", "modest"])?;
    d.wait_for("modest", ".State.Status", "exited")?;
    ensure!(d.inspect("modest", ".State.OOMKilled")? == "false", "killed by us");
    Ok(())
}
