//! What a configuration asks of the sentry itself, seen from inside: the profile of system calls, limits, devices, sysctls.

mod common;

use common::{Scratch, finish};
use serde_json::{Value, json};
use std::process::{Output, Stdio};

fn run(scratch: &Scratch, script: &str, change: impl FnOnce(&mut Value)) -> Output {
    let bundle = scratch.bundle(&["/bin/sh", "-c", script], change);
    finish(scratch.run(&bundle, "inside").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("spawn"))
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_profile_of_system_calls_is_enforced() {
    let scratch = Scratch::new();
    let profile = |action: &str, errno: Option<u32>| {
        json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["mkdir", "mkdirat", "no_such_call"], "action": action, "errnoRet": errno}],
        })
    };
    let script = "mkdir /dev/shm/a 2>&1; echo status $?; grep Seccomp: /proc/self/status";
    for (errno, message) in [(None, "Operation not permitted"), (Some(28), "No space left on device")] {
        let output = run(&scratch, script, |config| config["linux"]["seccomp"] = profile("SCMP_ACT_ERRNO", errno));
        let text = stdout(&output);
        assert!(text.contains(message) && text.contains("status 1\nSeccomp:\t2\n"), "{output:?}");
    }
    for action in ["SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL", "SCMP_ACT_TRAP"] {
        let output = run(&scratch, script, |config| config["linux"]["seccomp"] = profile(action, None));
        // SIGSYS
        assert!(stdout(&output).contains("status 159"), "{action}: {output:?}");
    }
    for action in ["SCMP_ACT_LOG", "SCMP_ACT_ALLOW"] {
        let output = run(&scratch, script, |config| config["linux"]["seccomp"] = profile(action, None));
        assert!(stdout(&output).contains("status 0"), "{action}: {output:?}");
    }
}

#[test]
fn a_profile_compares_arguments() {
    let scratch = Scratch::new();
    // kill(pid, 10) is forbidden, kill(pid, 12) is not; the default is to fail, and all else is allowed by name of the call.
    let output = run(&scratch, "kill -USR1 $$ 2>&1 || echo refused; kill -USR2 $$", |config| {
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{
                "names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
                "args": [{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 1, "op": "SCMP_CMP_GE"}],
            }],
        });
        config["process"]["args"] = json!(["/bin/sh", "-c", "sh -c 'kill -USR1 $$ 2>&1 || echo refused; kill -USR2 $$'; echo $?"]);
    });
    let text = stdout(&output);
    assert!(text.contains("refused") && text.trim_end().ends_with("140"), "{output:?}");
}

#[test]
fn limits_are_seen_inside() {
    let scratch = Scratch::new();
    let script = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max /sys/fs/cgroup/pids.max; nproc; grep -c ^processor /proc/cpuinfo; \
                  grep MemTotal /proc/meminfo; stat -f -c %T /sys/fs/cgroup; cat /sys/fs/cgroup/cgroup.procs | head -1";
    let bundle = scratch.bundle(&["/bin/sh", "-c", script], |config| {
        config["linux"]["resources"] = json!({
            "memory": {"limit": 256 << 20}, "cpu": {"quota": 90_000, "period": 100_000}, "pids": {"limit": 64},
        });
    });
    let output = finish(scratch.run(&bundle, "limits").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("spawn"));
    if output.status.code() == Some(123) {
        eprintln!("skipped: this host has no controllers: {output:?}");
        return;
    }
    let text = stdout(&output);
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    assert_eq!(lines[..5], ["268435456", "90000 100000", "64", "1", "1"], "{output:?}");
    assert!(lines[5].contains("262144 kB"), "{text}");
    assert_eq!(lines[6..], ["cgroup2fs", "1"], "{text}");
}

#[test]
fn the_number_of_processes_is_limited() {
    let scratch = Scratch::new();
    let bundle = scratch.bundle(&["/bin/sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 2 & done 2>&1; echo end"], |config| {
        config["linux"]["resources"] = json!({"pids": {"limit": 5}});
    });
    let output = finish(scratch.run(&bundle, "few").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("spawn"));
    if output.status.code() == Some(123) {
        eprintln!("skipped: this host has no controllers: {output:?}");
        return;
    }
    assert!(stdout(&output).contains("fork") && !output.status.success(), "{output:?}");
}

#[test]
fn devices_and_sysctls() {
    let scratch = Scratch::new();
    let script = "stat -c '%F %a %t:%T %u:%g' /dev/mine; head -c 2 /dev/mine | od -An -tx1; cat /proc/sys/kernel/hostname";
    let output = run(&scratch, script, |config| {
        config["linux"]["devices"] =
            json!([{"path": "/dev/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o644, "uid": 3, "gid": 4}]);
        config["linux"]["sysctl"] = json!({"kernel.hostname": "by-sysctl", "net.ipv4.ping_group_range": "0 0"});
        config["linux"]["readonlyPaths"] = json!([]);
    });
    assert_eq!(stdout(&output), "character special file 644 1:5 3:4\n 00 00\nby-sysctl\n", "{output:?}");
}
