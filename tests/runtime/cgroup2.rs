//! Hosts with control groups of version 2 alone: in a mount namespace in which nothing else is mounted. Which controllers there are
//! depends on the machine; that a limit takes effect is tried with one that it has.

mod common;

use common::{Scratch, finish, program};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs a script on such a host. `$0` is the program, `$R` the state directory, `$B` the bundle.
fn on_host(scratch: &Scratch, bundle: &Path, script: &str) -> Output {
    let host = "set -e; mount --make-rprivate /; umount -lR /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; ";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &format!("{host}{script}")]).arg(program()).env("R", scratch.state()).env("B", bundle);
    finish(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("spawn"))
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_container_lives_in_a_group_of_version_2() {
    let scratch = Scratch::new();
    let group = format!("caisson-v2-{}", std::process::id());
    let bundle = scratch.bundle(&["/bin/sleep", "1000"], |config| config["linux"]["cgroupsPath"] = format!("/{group}/c").into());
    let script = format!(
        "cd /sys/fs/cgroup; c() {{ \"$0\" --root $R \"$@\"; }}; G={group}/c
         c create --bundle $B v2 > /dev/null 2>&1; c start v2
         grep -c . $G/cgroup.procs; c state v2 | grep -c '\"pid\": '$(head -1 $G/cgroup.procs),
         c pause v2; c state v2 | grep status; c resume v2; c state v2 | grep status
         c exec v2 echo inside
         c events --stats v2
         c pause v2; c kill v2 KILL; c delete --force v2; test -e $G || echo gone"
    );
    // $0 of a function is the script's own.
    let script = format!("C=\"$0\"; {}", script.replace("\"$0\"", "$C"));
    let told = text(&on_host(&scratch, &bundle, &script));
    let lines: Vec<&str> = told.lines().map(str::trim).collect();
    // Stand-in, gofer, sentry, and stubs of the application.
    assert!(lines[0].parse::<u32>().expect("a number") >= 3, "{told}");
    assert_eq!(lines[1], "1", "{told}");
    for (line, status) in lines[2..4].iter().zip(["paused", "running"]) {
        assert!(line.contains(status), "{told}");
    }
    assert_eq!(lines[4], "inside", "{told}");
    let stats: Value = serde_json::from_str(lines[5]).expect("JSON");
    assert!(stats["data"]["cpu"]["usage"]["total"].as_u64().is_some_and(|ns| ns > 0), "{stats}");
    assert_eq!((&stats["type"], &stats["id"]), (&json!("stats"), &json!("v2")));
    assert!(stats["data"]["memory"].is_object() && stats["data"]["pids"].is_object(), "{stats}");
    assert_eq!(lines[6..], ["gone"], "{told}");
    assert!(scratch.state_is_empty());
}

#[test]
fn limits_are_kept_or_missed() {
    let scratch = Scratch::new();
    let group = format!("caisson-v2-limits-{}", std::process::id());
    let controllers = "cat /sys/fs/cgroup/cgroup.controllers";
    let has = text(&on_host(&scratch, Path::new("/"), controllers));
    let has = |name: &str| has.split_whitespace().any(|controller| controller == name);
    for (controller, resources, file, value) in [
        ("hugetlb", json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}]}), "hugetlb.2MB.max", "4194304"),
        ("memory", json!({"memory": {"limit": 268_435_456}}), "memory.max", "268435456"),
        ("cpu", json!({"cpu": {"quota": 50_000, "period": 100_000}}), "cpu.max", "50000 100000"),
        ("pids", json!({"pids": {"limit": 100}}), "pids.max", "528"),
    ] {
        let bundle = scratch.bundle(&["/bin/sleep", "1000"], |config| {
            config["linux"]["cgroupsPath"] = format!("/{group}/c").into();
            config["linux"]["resources"] = resources.clone();
        });
        let script = format!(
            "C=\"$0\"; $C --root $R create --bundle $B limited > /dev/null 2> $R.log || {{ cat $R.log; exit 0; }}
             cat /sys/fs/cgroup/{group}/c/{file}; $C --root $R delete --force limited"
        );
        let told = text(&on_host(&scratch, &bundle, &script));
        if has(controller) {
            assert_eq!(told.trim(), value, "{controller}");
        } else {
            assert!(told.contains(&format!("the host has no control group controller {controller}")), "{told}");
        }
        assert!(scratch.state_is_empty());
    }
}
