//! Containers in one sandbox, verb by verb: each has its own life, and the sandbox's end is everyone's.

mod common;

use common::{Scratch, eventually, finish, kill, lives, outcome, sandbox_of};
use serde_json::{Value, json};
use std::process::{Command, Stdio};

/// Runs a verb that must succeed; its standard output.
fn ok(command: &mut Command) -> String {
    let output = finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("spawn"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// `create`, with the annotations of a container of this kind in the pod `pod`; the process ID.
fn create(scratch: &Scratch, kind: &str, id: &str, script: &str, change: impl FnOnce(&mut Value)) -> i32 {
    let (mut command, pid_file) = creation(scratch, kind, id, script, change);
    assert!(finish(command.spawn().expect("spawn")).status.success());
    std::fs::read_to_string(&pid_file).expect("the PID file").parse().expect("a number")
}

fn creation(scratch: &Scratch, kind: &str, id: &str, script: &str, change: impl FnOnce(&mut Value)) -> (Command, std::path::PathBuf) {
    let bundle = scratch.bundle(&["/bin/sh", "-c", script], |config| {
        let names = json!({"io.kubernetes.cri.container-type": kind, "io.kubernetes.cri.sandbox-id": "pod"});
        config["annotations"] = names;
        change(config);
    });
    let pid_file = scratch.path(&format!("{id}.pid"));
    let mut command = scratch.verb(&["create", "--bundle"]);
    command.arg(bundle).arg("--pid-file").arg(&pid_file).arg(id).stdout(Stdio::null()).stderr(Stdio::null());
    (command, pid_file)
}

/// What a script prints in a container.
fn exec(scratch: &Scratch, id: &str, script: &str) -> String {
    ok(&mut scratch.verb(&["exec", id, "/bin/sh", "-c", script]))
}

#[test]
fn each_has_its_own_life() {
    let scratch = Scratch::new();
    let wait = "trap 'exit 7' TERM; while :; do sleep 0.05; done";
    let pod = create(&scratch, "sandbox", "pod", wait, |_| {});
    let (sentry, _) = sandbox_of(pod).expect("a sandbox");
    ok(&mut scratch.verb(&["start", "pod"]));
    let one = create(&scratch, "container", "one", wait, |_| {});
    let two = create(&scratch, "container", "two", wait, |_| {});
    assert_eq!(["pod", "one", "two"].map(|id| scratch.status(id)), ["running", "created", "created"]);
    ok(&mut scratch.verb(&["start", "one"]));
    ok(&mut scratch.verb(&["start", "two"]));
    // One is held, the others are not.
    ok(&mut scratch.verb(&["pause", "one"]));
    assert_eq!(["pod", "one", "two"].map(|id| scratch.status(id)), ["running", "paused", "running"]);
    assert_eq!(exec(&scratch, "two", "echo in"), "in\n");
    ok(&mut scratch.verb(&["resume", "one"]));
    // Of each, its own processes.
    let list = |id: &str| ok(&mut scratch.verb(&["ps", id]));
    let _left = exec(&scratch, "two", "sleep 77 > /dev/null 2>&1 &");
    assert!(list("two").contains("sleep 77") && !list("one").contains("sleep 77") && !list("pod").contains("sleep 77"), "{}", list("pod"));
    let stats: Value = serde_json::from_str(&ok(&mut scratch.verb(&["events", "--stats", "one"]))).expect("JSON");
    assert!(stats["data"]["memory"]["usage"]["usage"].as_u64().is_none_or(|bytes| bytes > 0), "{stats}");
    // One ends as it wants, and can be deleted and made again.
    ok(&mut scratch.verb(&["kill", "one", "TERM"]));
    assert!(eventually(20, || !lives(one)), "it does not end");
    assert_eq!(["pod", "one", "two"].map(|id| scratch.status(id)), ["running", "stopped", "running"]);
    let (code, text) = outcome(&mut scratch.verb(&["exec", "one", "true"]));
    assert!(code != 0 && text.contains("cannot exec in a stopped container"), "{text}");
    ok(&mut scratch.verb(&["delete", "one"]));
    create(&scratch, "container", "one", wait, |_| {});
    ok(&mut scratch.verb(&["start", "one"]));
    // One is deleted while it runs, with all that it has started.
    ok(&mut scratch.verb(&["delete", "--force", "two"]));
    assert!(!lives(two) && lives(sentry));
    // The first goes, and with it all.
    ok(&mut scratch.verb(&["delete", "--force", "pod"]));
    assert!(eventually(20, || !lives(sentry)), "the sentry is left");
    assert!(eventually(20, || scratch.status("one") == "stopped"), "{}", scratch.status("one"));
    ok(&mut scratch.verb(&["delete", "one"]));
    assert!(scratch.state_is_empty());
}

#[test]
fn a_stand_in_is_its_container() {
    let scratch = Scratch::new();
    create(&scratch, "sandbox", "pod", "exec sleep 1000", |_| {});
    ok(&mut scratch.verb(&["start", "pod"]));
    let one = create(&scratch, "container", "one", "sleep 88 & exec sleep 1000", |_| {});
    ok(&mut scratch.verb(&["start", "one"]));
    assert!(eventually(20, || ok(&mut scratch.verb(&["ps", "one"])).contains("sleep 88")));
    // Its arguments are the application's.
    assert!(common::command_line(one).starts_with("/bin/sh -c sleep 88"), "{}", common::command_line(one));
    kill(one);
    assert!(eventually(20, || scratch.status("one") == "stopped"), "it goes on without its stand-in");
    ok(&mut scratch.verb(&["delete", "one"]));
    // Nothing of it runs in the sandbox, and its name is free there.
    create(&scratch, "container", "one", "exec sleep 1000", |_| {});
    assert_eq!(scratch.status("pod"), "running");
    for id in ["one", "pod"] {
        ok(&mut scratch.verb(&["delete", "--force", id]));
    }
    assert!(scratch.state_is_empty());
}

#[test]
fn what_cannot_join_leaves_nothing() {
    let scratch = Scratch::new();
    let refused = |kind: &str, id: &str, change: &dyn Fn(&mut Value), word: &str| {
        let (mut command, _) = creation(&scratch, kind, id, "exec sleep 1000", change);
        let (code, text) = outcome(&mut command);
        assert!(code != 0 && text.contains(word), "{text}");
        assert_eq!(scratch.status(id), "");
    };
    refused("container", "early", &|_| {}, "the sandbox pod, which the container belongs to, does not run");
    create(&scratch, "sandbox", "pod", "exec sleep 1000", |_| {});
    ok(&mut scratch.verb(&["start", "pod"]));
    refused("container", "bad", &|config| config["process"]["args"] = json!(["/no/such/program"]), "no such file or directory");
    refused("container", "bad", &|config| config["process"]["cwd"] = json!("/etc/passwd"), "process.cwd");
    // The sandbox is none the worse for it.
    create(&scratch, "container", "bad", "exec sleep 1000", |_| {});
    ok(&mut scratch.verb(&["start", "bad"]));
    assert_eq!(exec(&scratch, "bad", "echo in"), "in\n");
    let pid: Value = serde_json::from_str(&ok(&mut scratch.verb(&["state", "pod"]))).expect("JSON");
    let (sentry, _) = sandbox_of(i32::try_from(pid["pid"].as_i64().expect("a number")).expect("a PID")).expect("a sandbox");
    kill(sentry);
    for id in ["pod", "bad"] {
        assert!(eventually(20, || scratch.status(id) == "stopped"), "{id} is {}", scratch.status(id));
        let (code, text) = outcome(&mut scratch.verb(&["kill", id, "TERM"]));
        assert!(code != 0 && text.contains("container not running"), "{text}");
        ok(&mut scratch.verb(&["delete", id]));
    }
    assert!(scratch.state_is_empty());
}

/// In a pod, the limits of a single container are kept by the sentry: a container that is to have some.
fn limited(scratch: &Scratch, id: &str, script: &str, resources: &Value) {
    create(scratch, "container", id, script, |config| {
        config["linux"]["resources"] = resources.clone();
        let group = json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"});
        let shm = json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["mode=1777"]});
        config["mounts"].as_array_mut().expect("mounts").extend([group, shm]);
    });
}

const WAIT: &str = "while :; do sleep 0.1; done";

#[test]
fn each_is_kept_to_its_memory() {
    let scratch = Scratch::new();
    create(&scratch, "sandbox", "pod", WAIT, |_| {});
    ok(&mut scratch.verb(&["start", "pod"]));
    let resources = json!({"memory": {"limit": 64 << 20}});
    for id in ["modest", "greedy"] {
        limited(&scratch, id, WAIT, &resources);
        ok(&mut scratch.verb(&["start", id]));
    }
    let kills =
        |id: &str| exec(&scratch, id, "sed -n 's/oom_kill //p' /sys/fs/cgroup/memory.events").trim().parse::<u64>().expect("a number");
    // What processes have in common counts once: 8 times 40 MB (perl has it twice) are 40 MB.
    let forks =
        "$x = 'x' x 20_000_000; for (1..7) { fork // die or do { sleep 1 for 1..300; exit } } print \"forked\\n\"; $| = 1; sleep 300";
    let perl = scratch.verb(&["exec", "modest", "perl", "-e", forks]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("spawn");
    let children = || exec(&scratch, "modest", "cat /sys/fs/cgroup/cgroup.procs | wc -l").trim().parse::<u64>().expect("a number");
    assert!(eventually(60, || children() >= 9), "perl has forked");
    let used = || exec(&scratch, "modest", "cat /sys/fs/cgroup/memory.current").trim().parse::<u64>().expect("a number");
    assert!((40_000_000..64 << 20).contains(&used()), "{}", used());
    // Who takes too much is killed, and nobody else. The first process has nothing.
    let fill = "x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo $x | wc -c";
    let output = finish(scratch.verb(&["exec", "greedy", "/bin/sh", "-c", fill]).stdout(Stdio::piped()).spawn().expect("spawn"));
    assert_eq!(output.status.code(), Some(137), "{output:?}");
    assert_eq!((kills("greedy"), kills("modest")), (1, 0));
    // Files in memory are memory.
    let events =
        scratch.verb(&["events", "--interval", "1h", "greedy"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("spawn");
    let file = "head -c 200000000 /dev/zero > /dev/shm/x";
    let _killed = finish(scratch.verb(&["exec", "greedy", "/bin/sh", "-c", file]).stdout(Stdio::null()).spawn().expect("spawn"));
    // They stay when the process is gone, and so the next one is killed, to the last.
    assert!(eventually(60, || scratch.status("greedy") == "stopped"));
    let told = String::from_utf8(finish(events).stdout).expect("UTF-8");
    assert!(told.lines().filter(|line| line.contains("\"oom\"")).count() >= 2, "{told}");
    assert_eq!(["pod", "modest"].map(|id| scratch.status(id)), ["running", "running"]);
    assert_eq!(kills("modest"), 0);
    // A limit that is lowered is kept, too.
    ok(&mut scratch.verb(&["update", "--memory", "20m", "modest"]));
    let perl = finish(perl);
    assert_eq!(perl.status.code(), Some(137), "{perl:?}");
    assert!(kills("modest") >= 1);
    ok(&mut scratch.verb(&["delete", "--force", "pod"]));
    for id in ["modest", "greedy"] {
        ok(&mut scratch.verb(&["delete", "--force", id]));
    }
}

#[test]
fn each_is_kept_to_its_processor_time_and_processes() {
    let scratch = Scratch::new();
    create(&scratch, "sandbox", "pod", WAIT, |_| {});
    ok(&mut scratch.verb(&["start", "pod"]));
    let resources = json!({"cpu": {"quota": 20_000, "period": 100_000}, "pids": {"limit": 10}});
    limited(&scratch, "slow", WAIT, &resources);
    ok(&mut scratch.verb(&["start", "slow"]));
    let used = || -> u64 {
        let text = exec(&scratch, "slow", "sed -n 's/^usage_usec //p' /sys/fs/cgroup/cpu.stat");
        text.trim().parse().expect("a number")
    };
    let busy = || {
        let mut busy = scratch.verb(&["exec", "slow", "/bin/sh", "-c", "while :; do :; done"]);
        busy.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("spawn")
    };
    // Two that would use two processors: together a fifth of one.
    let two = [busy(), busy()];
    let (start, before) = (std::time::Instant::now(), used());
    assert!(eventually(60, || used() - before > 600_000), "it goes on");
    let (time, taken) = (start.elapsed().as_micros() as u64, used() - before);
    // A fifth of the time, what was saved up, and what it takes to notice.
    assert!(taken <= time / 4 + 100_000, "{taken} of {time} us");
    let throttled = exec(&scratch, "slow", "sed -n 's/^nr_throttled //p' /sys/fs/cgroup/cpu.stat");
    assert!(throttled.trim().parse::<u64>().expect("a number") >= 3, "{throttled}");
    // It is not paused, for anybody; and can be ended.
    assert_eq!(scratch.status("slow"), "running");
    // Without a limit, it is as fast as others.
    ok(&mut scratch.verb(&["update", "--cpu-quota", "-1", "slow"]));
    let freed = used();
    assert!(eventually(60, || used() - freed > 1_000_000));
    // No more processes than the limit says.
    let forks = "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 100 > /dev/null 2>&1 & done";
    let output = finish(scratch.verb(&["exec", "slow", "/bin/sh", "-c", forks]).stderr(Stdio::piped()).spawn().expect("spawn"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("fork"), "{output:?}");
    ok(&mut scratch.verb(&["delete", "--force", "slow"]));
    for child in two {
        assert_eq!(finish(child).status.code(), Some(137));
    }
    assert_eq!(exec(&scratch, "pod", "echo lives"), "lives\n");
    ok(&mut scratch.verb(&["delete", "--force", "pod"]));
}
