//! containerd with each shim and each OCI runtime: what `ctr` does with runc it does with Caisson.

use anyhow::{Context, Result, bail, ensure};
use caisson_tests_engines::containerd::{Containerd, RUNTIMES, Runtime};
use caisson_tests_engines::eventually;
use caisson_tests_support::host;
use caisson_tests_support::process::Output;
use libtest_mimic::{Arguments, Failed, Trial};
use std::io::Write;
use std::process::{ExitCode, Stdio};
use std::time::Instant;

mod logs;
mod restarts;

type Test = fn(&mut Containerd) -> Result<()>;

const TESTS: &[(&str, Test)] = &[
    ("run_and_its_streams", run_and_its_streams),
    ("errors_are_told", errors_are_told),
    ("exec", exec),
    ("terminals", terminals),
    ("kill", kill),
    ("pause", pause),
    ("statistics_and_limits", statistics_and_limits),
    ("out_of_memory", out_of_memory),
    ("exec_flood", exec_flood),
    ("nothing_is_left", nothing_is_left),
    ("fifty_at_once", fifty_at_once),
    ("containerd_is_killed", containerd_is_killed),
    ("the_shim_is_killed", the_shim_is_killed),
    ("the_shim_dies_anywhere", the_shim_dies_anywhere),
];

fn main() -> ExitCode {
    let args = Arguments::from_args();
    let mut trials = Vec::new();
    for runtime in RUNTIMES {
        for (name, test) in TESTS.iter().chain(restarts::TESTS).chain(logs::TESTS) {
            trials.push(Trial::test(format!("{}::{name}", runtime.name), move || trial(runtime, *test)));
        }
    }
    libtest_mimic::run(&args, trials).exit_code()
}

fn trial(runtime: Runtime, test: Test) -> Result<(), Failed> {
    let done = Containerd::start(runtime).and_then(|mut containerd| test(&mut containerd));
    done.map_err(|error| Failed::from(format!("{error:#}")))
}

fn run_and_its_streams(c: &mut Containerd) -> Result<()> {
    let args = c.run_args(&["--rm"], "streams", &["sh", "-c", "read x; echo out $x; echo err >&2; exit 7"]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let output = c.machine.run_with(&args, b"word\n")?;
    ensure!(output.status == 7, "{output}");
    ensure!(output.text() == "out word\n", "{output}");
    ensure!(output.stderr == b"err\n", "{output}");
    // The end of the input arrives, and much output is not lost.
    let args = c.run_args(&["--rm"], "much", &["sh", "-c", "wc -c; head -c 3000000 /dev/zero"]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let output = c.machine.run_with(&args, &vec![b'x'; 200_000])?;
    ensure!(output.status == 0 && output.stdout.len() == 3_000_007, "{} {}", output.status, output.stdout.len());
    let text = c.run_ok(&["--rm", "--env", "A=b c", "--cwd", "/tmp"], "who", &["sh", "-c", "echo $A; pwd; id -u"])?;
    ensure!(text == "b c\n/tmp\n0\n", "{text}");
    Ok(())
}

fn errors_are_told(c: &mut Containerd) -> Result<()> {
    let output = c.run(&["--rm"], "missing", &["/no/such/program"])?;
    ensure!(output.status != 0 && !output.timed_out, "{output}");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(message.contains("/no/such/program"), "{message}");
    ensure!(c.state("missing")?.is_none(), "a task is left");
    ensure!(c.ctr(&["container", "ls", "-q"])?.is_empty(), "a container is left");
    ensure!(c.try_ctr(&["task", "kill", "nobody"])?.status != 0, "killed what does not exist");
    Ok(())
}

fn exec(c: &mut Containerd) -> Result<()> {
    c.run_ok(&["-d"], "c", &["sleep", "1000"])?;
    c.wait_state("c", "RUNNING")?;
    let output = c.try_ctr(&["task", "exec", "--exec-id", "one", "c", "sh", "-c", "echo in; echo bad >&2; exit 5"])?;
    ensure!(output.status == 5 && output.text() == "in\n" && output.stderr == b"bad\n", "{output}");
    let piped = c.machine.run_with(&["ctr", "task", "exec", "--exec-id", "two", "c", "cat"], b"through\n")?;
    ensure!(piped.status == 0 && piped.text() == "through\n", "{piped}");
    // It sees the files and processes of the container.
    c.ctr(&["task", "exec", "--exec-id", "three", "c", "sh", "-c", "echo kept > /tmp/file"])?;
    let seen = c.ctr(&["task", "exec", "--exec-id", "four", "c", "sh", "-c", "cat /tmp/file /proc/1/comm"])?;
    ensure!(seen == "kept\nsleep\n", "{seen}");
    let user = c.ctr(&["task", "exec", "--exec-id", "five", "--user", "1000", "--cwd", "/tmp", "c", "sh", "-c", "id -u; pwd"])?;
    ensure!(user == "1000\n/tmp\n", "{user}");
    let missing = c.try_ctr(&["task", "exec", "--exec-id", "six", "c", "/no/such/program"])?;
    ensure!(missing.status != 0 && !missing.timed_out, "{missing}");
    // One that is left running ends with the container.
    c.ctr(&["task", "exec", "-d", "--exec-id", "seven", "c", "sleep", "2000"])?;
    let pids = c.ctr(&["task", "ps", "c"])?;
    ensure!(pids.lines().count() >= 3 && pids.contains("seven"), "{pids}");
    c.ctr(&["task", "kill", "-s", "KILL", "c"])?;
    c.wait_state("c", "STOPPED")?;
    let late = c.try_ctr(&["task", "exec", "--exec-id", "eight", "c", "true"])?;
    ensure!(late.status != 0, "{late}");
    c.ctr(&["task", "delete", "--force", "c"])?;
    Ok(())
}

fn terminals(c: &mut Containerd) -> Result<()> {
    // ctr wants a terminal of its own: script(1) gives one.
    let words = c.run_args(&["--rm", "-t"], "tty", &["sh", "-c", "tty; stty size; test -t 1 && echo yes"]).join("\u{1f}");
    let quoted: Vec<String> = words.split('\u{1f}').map(|word| format!("'{word}'")).collect();
    let command = format!("stty rows 31 cols 97; exec {}", quoted.join(" "));
    let output = c.machine.run(&["script", "-qec", &command, "/dev/null"])?;
    let text = output.terminal_text();
    ensure!(output.status == 0, "{output}");
    ensure!(text.contains("/dev/pts/0\n") && text.contains("yes\n"), "{text:?}");
    c.run_ok(&["-d"], "c", &["sleep", "1000"])?;
    let inner = "ctr task exec -t --exec-id e c sh -c \"sleep 1; stty size; tty; exit 3\"";
    let command = format!("stty rows 31 cols 97; exec {inner}");
    let output = c.machine.run(&["script", "-qec", &command, "/dev/null"])?;
    let text = output.terminal_text();
    ensure!(output.status == 3, "{output}");
    ensure!(text.contains("31 97\n") && text.contains("/dev/pts/"), "{text:?}");
    Ok(())
}

fn kill(c: &mut Containerd) -> Result<()> {
    c.run_ok(&["-d"], "polite", &["sh", "-c", "trap 'echo bye; exit 9' TERM; while :; do sleep 0.1; done"])?;
    c.run_ok(&["-d"], "stubborn", &["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"])?;
    for id in ["polite", "stubborn"] {
        c.wait_state(id, "RUNNING")?;
    }
    // The shells must have come to their traps.
    std::thread::sleep(std::time::Duration::from_secs(1));
    c.ctr(&["task", "kill", "-s", "TERM", "polite"])?;
    c.wait_state("polite", "STOPPED")?;
    let deleted = c.try_ctr(&["task", "delete", "polite"])?;
    ensure!(ended_with(&deleted, 9), "{deleted}");
    c.ctr(&["task", "kill", "-s", "TERM", "stubborn"])?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    ensure!(c.state("stubborn")?.as_deref() == Some("RUNNING"), "it does not ignore SIGTERM");
    c.ctr(&["task", "exec", "-d", "--exec-id", "e", "stubborn", "sleep", "2000"])?;
    c.ctr(&["task", "kill", "-s", "KILL", "--exec-id", "e", "stubborn"])?;
    ensure!(c.state("stubborn")?.as_deref() == Some("RUNNING"), "the container ended with the process in it");
    c.ctr(&["task", "kill", "-s", "KILL", "stubborn"])?;
    c.wait_state("stubborn", "STOPPED")?;
    let deleted = c.try_ctr(&["task", "delete", "stubborn"])?;
    ensure!(ended_with(&deleted, 137), "{deleted}");
    Ok(())
}

/// Whether `ctr task delete` told of this exit status.
fn ended_with(deleted: &Output, status: u32) -> bool {
    String::from_utf8_lossy(&deleted.stderr).contains(&format!("exit code {status}\""))
}

fn pause(c: &mut Containerd) -> Result<()> {
    c.run_ok(&["-d"], "c", &["sh", "-c", "while :; do echo x >> /tmp/ticks; sleep 0.05; done"])?;
    c.wait_state("c", "RUNNING")?;
    let ticks = |c: &Containerd| -> Result<usize> {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let name = format!("t{}", NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        let text = c.ctr(&["task", "exec", "--exec-id", &name, "c", "wc", "-c", "/tmp/ticks"])?;
        Ok(text.split_whitespace().next().context("a number")?.parse()?)
    };
    eventually(30, || ticks(c).ok().filter(|n| *n > 4)).context("it does not tick")?;
    c.ctr(&["task", "pause", "c"])?;
    ensure!(c.state("c")?.as_deref() == Some("PAUSED"), "not paused");
    std::thread::sleep(std::time::Duration::from_secs(2));
    c.ctr(&["task", "resume", "c"])?;
    ensure!(c.state("c")?.as_deref() == Some("RUNNING"), "not resumed");
    let after = ticks(c)?;
    eventually(30, || ticks(c).ok().filter(|n| *n > after)).context("it does not go on")?;
    c.ctr(&["task", "kill", "-s", "KILL", "c"])?;
    c.wait_state("c", "STOPPED")
}

fn statistics_and_limits(c: &mut Containerd) -> Result<()> {
    c.run_ok(&["-d", "--memory-limit", "100000000"], "c", &["sh", "-c", "x=$(head -c 5000000 /dev/zero | tr '\\0' x); sleep 1000; true"])?;
    c.wait_state("c", "RUNNING")?;
    let metric = |text: &str, name: &str| -> Option<u64> {
        text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
    };
    let usage = eventually(30, || {
        let text = c.ctr(&["task", "metrics", "c"]).ok()?;
        metric(&text, "memory.usage_in_bytes").filter(|bytes| *bytes > 1_000_000)
    });
    ensure!(usage.is_some_and(|bytes| bytes < 100_000_000), "memory in use: {usage:?}: {}", c.ctr(&["task", "metrics", "c"])?);
    let text = c.ctr(&["task", "metrics", "c"])?;
    ensure!(metric(&text, "memory.limit_in_bytes") == Some(99_999_744), "{text}");
    ensure!(metric(&text, "cpuacct.usage").is_some_and(|ns| ns > 0), "{text}");
    Ok(())
}

fn out_of_memory(c: &mut Containerd) -> Result<()> {
    let log = c.machine.path("events.log");
    let mut events = c.machine.command(&["ctr", "events"]).stdin(Stdio::null()).stdout(std::fs::File::create(&log)?).spawn()?;
    let seen = |what: &str| std::fs::read_to_string(&log).unwrap_or_default().contains(what);
    // The listener is there as soon as it sees anything.
    let listening = eventually(30, || {
        let _ = c.try_ctr(&["namespace", "label", "default", "listening=yes"]);
        seen("/namespaces/").then_some(())
    });
    let script = "x=$(head -c 400000000 /dev/zero | tr '\\0' x); sleep 1000";
    c.run_ok(&["-d", "--memory-limit", "60000000"], "greedy", &["sh", "-c", script])?;
    let told = eventually(30, || (seen("/tasks/oom") && seen("/tasks/start")).then_some(()));
    c.try_ctr(&["task", "kill", "-s", "KILL", "greedy"])?;
    events.kill()?;
    events.wait()?;
    listening.context("ctr events says nothing")?;
    told.with_context(|| std::fs::read_to_string(&log).unwrap_or_default())?;
    Ok(())
}

/// A hundred commands at once in one container (fewer with runc or its shim, which take a second and more for each): each has its own output and status.
fn exec_flood(c: &mut Containerd) -> Result<()> {
    c.run_ok(&["-d"], "c", &["sleep", "1000"])?;
    c.wait_state("c", "RUNNING")?;
    let mut started = Vec::new();
    for n in 0..if c.runtime.own_shim && c.runtime.caisson { 100 } else { 20 } {
        let (id, script) = (format!("e{n}"), format!("read x; echo {n} $x; exit {}", n % 7));
        let mut command = c.machine.command(&["ctr", "task", "exec", "--exec-id", &id, "c", "sh", "-c", &script]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("no pipe")?.write_all(b"word\n")?;
        started.push(child);
    }
    for (n, child) in started.into_iter().enumerate() {
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let wanted = i32::try_from(n % 7)?;
        ensure!(text == format!("{n} word\n") && output.status.code() == Some(wanted), "{n}: {output:?}");
    }
    let list = c.ctr(&["task", "exec", "--exec-id", "last", "c", "ps"])?;
    ensure!(list.lines().count() <= 4, "processes are left: {list}");
    c.ctr(&["task", "kill", "-s", "KILL", "c"])?;
    c.wait_state("c", "STOPPED")?;
    c.try_ctr(&["task", "delete", "c"])?;
    c.ctr(&["container", "delete", "c"])?;
    empty(c)
}

fn nothing_is_left(c: &mut Containerd) -> Result<()> {
    for id in ["a", "b"] {
        c.run_ok(&["--rm"], id, &["true"])?;
    }
    c.run_ok(&["-d"], "d", &["sleep", "1000"])?;
    c.ctr(&["task", "exec", "-d", "--exec-id", "e", "d", "sleep", "1000"])?;
    c.ctr(&["task", "kill", "-s", "KILL", "d"])?;
    c.wait_state("d", "STOPPED")?;
    c.try_ctr(&["task", "delete", "d"])?;
    c.ctr(&["container", "delete", "d"])?;
    empty(c)
}

/// Nothing is there but containerd.
fn empty(c: &Containerd) -> Result<()> {
    empty_but(c, if c.runtime.own_shim { "" } else { "/run/containerd/s/" })
}

/// The same, except below a directory, if one is named.
fn empty_but(c: &Containerd, dir: &str) -> Result<()> {
    let left = || {
        let mut left: Vec<String> = Vec::new();
        for what in ["containerd-shim", "caisson", "sleep 1000"] {
            let pids = c.machine.processes(what);
            let pids = pids.into_iter().filter(|pid| {
                let line = host::command_line(*pid);
                !line.iter().any(|word| word.ends_with("containerd") || word.ends_with("machine.sh"))
            });
            left.extend(pids.map(|pid| format!("{pid} {}", host::command_line(pid).join(" "))));
        }
        left.extend(c.machine.mounts("/run/containerd"));
        left.extend(c.machine.groups().iter().map(|group| group.display().to_string()));
        for dir in [
            "/run/containerd/s",
            "/run/containerd/runc/default",
            "/run/containerd/caisson/default",
            "/run/containerd/io.containerd.runtime.v2.task/default",
        ] {
            let list = c.machine.run(&["ls", dir]).map(|output| output.text()).unwrap_or_default();
            left.extend(list.lines().map(|name| format!("{dir}/{name}")));
        }
        // ctr puts its containers below /default, which it leaves. A killed runc shim leaves its socket.
        left.retain(|name| !name.ends_with("/default"));
        left.retain(|name| dir.is_empty() || !name.starts_with(dir));
        left
    };
    match eventually(30, || left().is_empty().then_some(())) {
        Some(()) => Ok(()),
        None => bail!("left behind: {:#?}", left()),
    }
}

fn fifty_at_once(c: &mut Containerd) -> Result<()> {
    let ids: Vec<String> = (0..50).map(|n| format!("c{n}")).collect();
    let mut started = Vec::new();
    for id in &ids {
        let args = c.run_args(&["-d"], id, &["sleep", "1000"]);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let log = std::fs::File::options().create(true).append(true).open(c.machine.path("ctr.log"))?;
        started.push(c.machine.command(&args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?);
    }
    for mut child in started {
        let status = child.wait()?;
        ensure!(status.success(), "{status}: {}", c.machine.log("ctr.log"));
    }
    let list = c.ctr(&["task", "ls"])?;
    let running = list.lines().filter(|line| line.ends_with("RUNNING")).count();
    ensure!(running == 50, "{running} run: {list}");
    let all = |verb: &[&str]| -> Result<()> {
        let mut children = Vec::new();
        for id in &ids {
            let args = [&["ctr"], verb, &[id.as_str()]].concat();
            children.push(c.machine.command(&args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        }
        for mut child in children {
            child.wait()?;
        }
        Ok(())
    };
    all(&["task", "kill", "-s", "KILL"])?;
    for id in &ids {
        c.wait_state(id, "STOPPED")?;
    }
    all(&["task", "delete"])?;
    all(&["container", "delete"])?;
    ensure!(c.ctr(&["container", "ls", "-q"])?.is_empty(), "containers are left");
    empty(c)
}

fn containerd_is_killed(c: &mut Containerd) -> Result<()> {
    let ids = ["one", "two", "three"];
    for id in ids {
        c.run_ok(&["-d"], id, &["sh", "-c", "while :; do echo x >> /tmp/ticks; sleep 0.1; done"])?;
        c.wait_state(id, "RUNNING")?;
    }
    // One ends while nobody listens.
    let pid = c.ctr(&["task", "ls"])?;
    let pid = pid.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words.first() == Some(&"three")).then(|| words.get(1).map(|pid| (*pid).to_owned()))?
    });
    let pid = pid.context("no PID")?;
    c.kill()?;
    let killed = c.machine.run(&["kill", "-KILL", &pid])?;
    ensure!(killed.status == 0, "{killed}");
    c.launch()?;
    for id in ["one", "two"] {
        c.wait_state(id, "RUNNING")?;
        let count = |name: &str| -> Result<usize> {
            let text = c.ctr(&["task", "exec", "--exec-id", name, id, "wc", "-c", "/tmp/ticks"])?;
            Ok(text.split_whitespace().next().context("a number")?.parse()?)
        };
        let before = count("a")?;
        std::thread::sleep(std::time::Duration::from_secs(1));
        let after = count("b")?;
        ensure!(after > before, "it does not go on: {before} {after}");
    }
    c.wait_state("three", "STOPPED")?;
    for id in ["one", "two"] {
        c.ctr(&["task", "kill", "-s", "KILL", id])?;
        c.wait_state(id, "STOPPED")?;
    }
    for id in ids {
        let deleted = c.try_ctr(&["task", "delete", id])?;
        ensure!(ended_with(&deleted, 137), "{deleted}");
        c.ctr(&["container", "delete", id])?;
    }
    empty(c)
}

fn the_shim_is_killed(c: &mut Containerd) -> Result<()> {
    c.run_ok(&["-d"], "c", &["sleep", "1000"])?;
    c.wait_state("c", "RUNNING")?;
    let shims = c.machine.processes("containerd-shim");
    ensure!(shims.len() == 1, "{shims:?}");
    kill_shims(c);
    // containerd notices, and has the rest removed.
    eventually(60, || c.state("c").ok().filter(Option::is_none)).context("the task is still there")?;
    c.ctr(&["container", "delete", "c"])?;
    empty(c)
}

/// How often the shim is killed while something is made, executed or deleted.
const POINTS: u32 = 10;

fn kill_shims(c: &Containerd) {
    for pid in c.machine.processes("containerd-shim") {
        // One that only starts another, or cleans up, may have ended meanwhile.
        let _ = host::kill(pid, "KILL");
    }
}

/// Takes away what is left of a container, as somebody does whose container is broken.
fn remove(c: &Containerd, id: &str) -> Result<()> {
    let gone = || {
        c.try_ctr(&["task", "rm", "-f", id]).ok()?;
        c.try_ctr(&["container", "rm", id]).ok()?;
        (!c.ctr(&["container", "ls", "-q"]).ok()?.lines().any(|line| line == id)).then_some(())
    };
    eventually(30, gone).with_context(|| format!("{id} cannot be removed: {:?}", c.try_ctr(&["task", "rm", "-f", id])))
}

/// The shim, and whatever it has just called, is killed at points all over what it does; then containers can be removed, and nothing is left.
fn the_shim_dies_anywhere(c: &mut Containerd) -> Result<()> {
    let begin = |args: &[&str]| c.machine.command(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let run = c.run_args(&["-d"], "c", &["sleep", "1000"]);
    let run: Vec<&str> = run.iter().map(String::as_str).collect();
    let exec = ["ctr", "task", "exec", "-d", "--exec-id", "e", "c", "sleep", "2000"];
    let delete = ["ctr", "task", "rm", "-f", "c"];
    for what in [&run[..], &exec, &delete] {
        let mut whole = None;
        for point in 0..=POINTS {
            if what != run {
                // containerd may still be cleaning up: then the task is there "already".
                let mut last = None;
                let runs = || match c.run_ok(&["-d"], "c", &["sleep", "1000"]) {
                    Ok(_) => Some(()),
                    Err(e) => {
                        last = Some(e);
                        let _ = remove(c, "c");
                        None
                    }
                };
                eventually(30, runs).with_context(|| format!("{last:?}"))?;
            }
            let began = Instant::now();
            let mut child = begin(what)?;
            // The first time it is only seen how long it takes.
            if let Some(whole) = whole {
                std::thread::sleep(whole * (point - 1) / POINTS);
                kill_shims(c);
            }
            child.wait()?;
            whole.get_or_insert_with(|| began.elapsed());
            remove(c, "c")?;
        }
        // One that is killed before it has said where its socket is leaves that; the next one of the same name takes it away.
        empty_but(c, "/run/containerd/s/").with_context(|| format!("{what:?}"))?;
    }
    Ok(())
}
