//! Podman with runc and with Caisson.

use anyhow::{Context, Result, ensure};
use caisson_tests_engines::image::BUSYBOX;
use caisson_tests_engines::{Podman, eventually, output};
use libtest_mimic::{Arguments, Failed, Trial};
use std::process::ExitCode;

mod conmon;
mod podman_more;

type Test = fn(&Podman) -> Result<()>;

const TESTS: &[(&str, Test)] = &[
    ("run", run),
    ("exec", exec),
    ("logs_and_stop", logs_and_stop),
    ("much_is_logged", much_is_logged),
    ("no_room_for_the_log", no_room_for_the_log),
    ("terminal", terminal),
    ("pod", pod),
    ("pod_names", pod_names),
    ("pod_shares", pod_shares),
    ("conmon_as_crio", conmon::as_crio),
];

fn main() -> ExitCode {
    let args = Arguments::from_args();
    let mut trials = Vec::new();
    for (runtime, caisson) in [("runc", false), ("caisson", true)] {
        for (name, test) in TESTS.iter().chain(podman_more::TESTS) {
            trials.push(Trial::test(format!("{runtime}::{name}"), move || trial(caisson, *test)));
        }
    }
    libtest_mimic::run(&args, trials).exit_code()
}

fn trial(caisson: bool, test: Test) -> Result<(), Failed> {
    let done = Podman::start(caisson).and_then(|podman| test(&podman));
    done.map_err(|error| Failed::from(format!("{error:#}")))
}

/// A network is the engine's own business, and needs more packages.
const NONE: &str = "--network=none";

fn run(p: &Podman) -> Result<()> {
    let output = p.run_with(&["run", "--rm", "-i", NONE, BUSYBOX, "sh", "-c", "read x; echo out $x; echo err >&2; exit 7"], b"word\n")?;
    ensure!(output.status == 7 && output.text() == "out word\n" && output.stderr == b"err\n", "{output}");
    let output = p.run(&["run", "--rm", NONE, BUSYBOX, "/no/such/program"])?;
    ensure!(output.status == 127, "{output}");
    let volume = p.machine.path("volume");
    std::fs::create_dir_all(&volume)?;
    let v = format!("{}:/vol", volume.display());
    let script = "id -u; pwd; touch /x 2>/dev/null || echo read-only; touch /tmp/x && echo tmp; uname -v";
    let text = p.ok(&["run", "--rm", NONE, "--user", "user", "--workdir", "/tmp", "--read-only", "-v", &v, BUSYBOX, "sh", "-c", script])?;
    ensure!(text.starts_with("1000\n/tmp\nread-only\ntmp\n"), "{text}");
    ensure!(text.contains("Caisson") == p.caisson, "{text}");
    p.ok(&["run", "--rm", NONE, "-v", &v, BUSYBOX, "sh", "-c", "echo kept > /vol/file"])?;
    ensure!(std::fs::read_to_string(volume.join("file"))? == "kept\n", "the volume");
    ensure!(p.ok(&["ps", "-aq"])?.is_empty(), "containers are left");
    Ok(())
}

fn exec(p: &Podman) -> Result<()> {
    p.ok(&["run", "-d", "--name", "box", NONE, BUSYBOX, "sleep", "1000"])?;
    let output = p.run(&["exec", "box", "sh", "-c", "echo in; echo bad >&2; exit 5"])?;
    ensure!(output.status == 5 && output.text() == "in\n" && output.stderr == b"bad\n", "{output}");
    let output = p.run_with(&["exec", "-i", "box", "cat"], b"through\n")?;
    ensure!(output.status == 0 && output.text() == "through\n", "{output}");
    let text =
        p.ok(&["exec", "--user", "user", "--workdir", "/tmp", "--env", "X=y", "box", "sh", "-c", "id -u; pwd; echo $X; cat /proc/1/comm"])?;
    ensure!(text == "1000\n/tmp\ny\nsleep\n", "{text}");
    p.ok(&["kill", "box"])?;
    ensure!(p.ok(&["wait", "box"])? == "137\n", "status");
    p.ok(&["rm", "box"])?;
    Ok(())
}

fn logs_and_stop(p: &Podman) -> Result<()> {
    let script = "trap 'echo bye; exit 9' TERM; echo ready; echo bad >&2; while :; do sleep 0.1; done";
    p.ok(&["run", "-d", "--name", "box", NONE, BUSYBOX, "sh", "-c", script])?;
    eventually(30, || p.ok(&["logs", "box"]).ok()?.contains("ready").then_some(())).context("started")?;
    p.ok(&["stop", "--time", "60", "box"])?;
    let output = p.run(&["logs", "box"])?;
    ensure!(output.text() == "ready\nbye\n" && output.stderr == b"bad\n", "{output}");
    let status = p.ok(&["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "box"])?;
    ensure!(status == "exited 9\n", "{status}");
    p.ok(&["start", "box"])?;
    p.ok(&["pause", "box"])?;
    p.ok(&["unpause", "box"])?;
    p.ok(&["rm", "--force", "--time", "0", "box"])?;
    ensure!(p.ok(&["ps", "-aq"])?.is_empty(), "containers are left");
    Ok(())
}

/// The disk is full on which the log is: the container runs on, to its end and with its status.
fn no_room_for_the_log(p: &Podman) -> Result<()> {
    p.machine.ok(&["mkdir", "-p", "/run/small"])?;
    p.machine.ok(&["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/run/small"])?;
    let script = "yes xxxxxxxxxxxxxxxxxxx | head -n 200000; echo full > /tmp/full; while [ ! -e /tmp/go ]; do sleep 0.1; done; exit 5";
    p.ok(&["run", "-d", "--name", "box", NONE, "--log-opt", "path=/run/small/box.log", BUSYBOX, "sh", "-c", script])?;
    let full = || (p.run(&["exec", "box", "cat", "/tmp/full"]).ok()?.text() == "full\n").then_some(());
    eventually(30, full).context("it does not go on")?;
    let used = p.machine.ok(&["df", "--output=pcent", "/run/small"])?;
    ensure!(used.contains("100%"), "{used}");
    p.ok(&["exec", "box", "touch", "/tmp/go"])?;
    ensure!(p.ok(&["wait", "box"])? == "5\n", "status");
    p.ok(&["rm", "box"])?;
    Ok(())
}

/// 100 MB, all of which conmon logs.
fn much_is_logged(p: &Podman) -> Result<()> {
    p.ok(&["run", "-d", "--name", "box", NONE, BUSYBOX, "sh", "-c", &format!("{}; exit 4", output::SCRIPT)])?;
    ensure!(p.ok(&["wait", "box"])? == "4\n", "status");
    let logs = p.run(&["logs", "box"])?;
    ensure!(logs.status == 0 && logs.stderr.is_empty(), "{} {}", logs.status, String::from_utf8_lossy(&logs.stderr));
    output::complete(logs.stdout.as_slice())
}

fn terminal(p: &Podman) -> Result<()> {
    let words = p.words(&["run", "--rm", "-it", NONE, BUSYBOX, "sh", "-c", "tty; sleep 1; stty size; exit 3"]);
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let output = p.machine.run(&["script", "-qec", &format!("stty rows 31 cols 97; {}", quoted.join(" ")), "/dev/null"])?;
    let text = output.terminal_text();
    ensure!(output.status == 3 && text.contains("/dev/pts/0\n") && text.contains("31 97\n"), "{output}");
    Ok(())
}

fn pod(p: &Podman) -> Result<()> {
    p.ok(&["pod", "create", "--name", "pod", NONE, "--infra-image", BUSYBOX, "--infra-command", "sleep 1000"])?;
    p.ok(&[
        "run",
        "-d",
        "--pod",
        "pod",
        "--name",
        "one",
        "-v",
        "shared:/shared",
        BUSYBOX,
        "sh",
        "-c",
        "echo first > /shared/f; sleep 1000",
    ])?;
    p.ok(&["run", "-d", "--pod", "pod", "--name", "two", "-v", "shared:/shared", BUSYBOX, "sleep", "1000"])?;
    let seen = eventually(30, || (p.run(&["exec", "two", "cat", "/shared/f"]).ok()?.text() == "first\n").then_some(()));
    seen.context("the shared volume")?;
    let list = p.ok(&["ps", "--pod", "--format", "{{.Names}} {{.PodName}}"])?;
    ensure!(list.lines().filter(|line| line.ends_with(" pod")).count() == 3, "{list}");
    p.ok(&["pod", "stop", "--time", "1", "pod"])?;
    p.ok(&["pod", "rm", "--force", "pod"])?;
    ensure!(p.ok(&["ps", "-aq"])?.is_empty(), "containers are left");
    Ok(())
}

fn pod_names(p: &Podman) -> Result<()> {
    p.ok(&["pod", "create", "--name", "pod", NONE, "--infra-image", BUSYBOX, "--infra-command", "sleep 1000", "--hostname", "podhost"])?;
    ensure!(p.ok(&["run", "--rm", "--pod", "pod", BUSYBOX, "hostname"])? == "podhost\n", "hostname");
    Ok(())
}

fn pod_shares(p: &Podman) -> Result<()> {
    let infra = ["--infra-image", BUSYBOX, "--infra-command", "sleep 1000"];
    p.ok(&[&["pod", "create", "--name", "pod", NONE, "--share", "net,uts,ipc,pid"], &infra[..]].concat())?;
    p.ok(&["run", "-d", "--pod", "pod", "--name", "one", BUSYBOX, "nc", "-ll", "-p", "5000", "-e", "echo", "hello"])?;
    let ask = ["run", "--rm", "--pod", "pod", BUSYBOX, "nc", "127.0.0.1", "5000"];
    eventually(30, || (p.run(&ask).ok()?.text() == "hello\n").then_some(())).context("loopback is not shared")?;
    let list = p.ok(&["run", "--rm", "--pod", "pod", BUSYBOX, "ps"])?;
    ensure!(list.contains("nc -ll") && list.contains("sleep 1000"), "{list}");
    // A terminal of its own, beside the other containers'. (Podman attaches to it when the program runs already: what that says at once may
    // be lost, with every runtime.)
    let words = p.words(&["run", "--rm", "-it", "--pod", "pod", BUSYBOX, "sh", "-c", "sleep 1; tty; ls /dev/pts; sleep 1; exit 3"]);
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let output = p.machine.run(&["script", "-qec", &quoted.join(" "), "/dev/null"])?;
    let text = output.terminal_text();
    ensure!(output.status == 3 && text.contains("/dev/pts/0\n"), "{output}");
    p.ok(&["pod", "rm", "--force", "--time", "0", "pod"])?;
    ensure!(p.ok(&["ps", "-aq"])?.is_empty(), "containers are left");
    Ok(())
}
