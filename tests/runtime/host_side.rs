//! What connects a container with its host: mapped IDs, mounts that come later, descriptors that are passed,
//! limits that change.

mod common;

use common::{Scratch, eventually, finish, program};
use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

fn run(command: &mut Command) -> Output {
    finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("spawn"))
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn volume(config: &mut Value, source: &Path, options: &[&str]) {
    let mount = json!({"destination": "/mnt", "type": "bind", "source": source, "options": options});
    config["mounts"].as_array_mut().expect("mounts").push(mount);
}

/// Creates and starts a container whose streams go nowhere.
fn start(scratch: &Scratch, bundle: &Path, id: &str) {
    let mut command = scratch.verb(&["create", "--bundle"]);
    command.arg(bundle).arg(id).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(finish(command.spawn().expect("spawn")).status.success());
    text(&run(&mut scratch.verb(&["start", id])));
}

fn exec(scratch: &Scratch, id: &str, script: &str) -> String {
    text(&run(&mut scratch.verb(&["exec", id, "/bin/sh", "-c", script])))
}

#[test]
fn ids_are_mapped_as_the_configuration_says() {
    let scratch = Scratch::new();
    let shared = scratch.path("shared");
    std::fs::create_dir(&shared).expect("mkdir");
    let own = |name: &str, id: u32| {
        std::fs::write(shared.join(name), name).expect("write");
        std::os::unix::fs::chown(shared.join(name), Some(id), Some(id + 1)).expect("chown");
    };
    own("root", 100_000);
    own("user", 101_000);
    own("host", 0);
    std::os::unix::fs::chown(&shared, Some(100_000), Some(100_000)).expect("chown");
    let script = "cat /proc/self/uid_map /proc/self/gid_map; stat -c '%n %u %g' /mnt/root /mnt/user /mnt/host; \
                  touch /mnt/new; chown 7:8 /mnt/new; touch /mnt/mine; rm -f /mnt/root; chown 7 /mnt/host 2> /dev/null || echo refused; \
                  chown 70000 /mnt/new 2> /dev/null || echo unmapped; id -u";
    let bundle = scratch.bundle(&["/bin/sh", "-c", script], |config| {
        config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "user"}));
        config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
        config["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
        config["process"]["capabilities"]["effective"] = json!(["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER"]);
        config["process"]["capabilities"]["permitted"] = json!(["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER"]);
        config["process"]["capabilities"]["bounding"] = json!(["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER"]);
        volume(config, &shared, &["rbind", "rw"]);
    });
    let said = text(&run(&mut scratch.run(&bundle, "mapped")));
    let map = "         0     100000      65536\n";
    let expected = format!("{map}{map}/mnt/root 0 1\n/mnt/user 1000 1001\n/mnt/host 65534 1\nrefused\nunmapped\n0\n");
    // The group of the last file is 1 on the host, which nothing stands for.
    assert_eq!(said, expected.replace("/mnt/host 65534 1\n", "/mnt/host 65534 65534\n"));
    let owner = |name: &str| std::fs::metadata(shared.join(name)).map(|m| (m.uid(), m.gid())).expect("metadata");
    assert_eq!((owner("new"), owner("mine")), ((100_007, 100_008), (100_000, 100_000)));
    assert!(!shared.join("root").exists());
}

#[test]
fn what_the_host_mounts_later_is_seen_if_asked_for() {
    let scratch = Scratch::new();
    // A host of its own, so that its mounts are nobody else's; what is mounted there can propagate.
    let shared = scratch.path("shared");
    std::fs::create_dir(&shared).expect("mkdir");
    for (option, seen) in [("rslave", "there\n"), ("rshared", "there\n"), ("rprivate", "nothing\n")] {
        let look = "while [ ! -e /mnt/look ]; do sleep 0.02; done; cat /mnt/sub/file 2> /dev/null || echo nothing";
        let bundle = scratch.bundle(&["/bin/sh", "-c", look], |config| volume(config, &shared, &["rbind", "rw", option]));
        let script = "set -e; mount --make-rprivate /; mount -t tmpfs none \"$1\"; mount --make-shared \"$1\"; mkdir \"$1/sub\"; \
                      \"$0\" --root \"$2\" run --bundle \"$3\" later > \"$1/out\" & \
                      while ! \"$0\" --root \"$2\" state later 2> /dev/null | grep -q running; do sleep 0.02; done; \
                      mount -t tmpfs none \"$1/sub\"; echo there > \"$1/sub/file\"; touch \"$1/look\"; wait; cat \"$1/out\"";
        let mut host = Command::new("unshare");
        host.args(["--mount", "sh", "-c", script]).arg(program()).arg(&shared).arg(scratch.state()).arg(&bundle);
        assert_eq!(text(&run(host.stdin(Stdio::null()))), seen, "{option}");
    }
}

#[test]
fn descriptors_are_passed() {
    let scratch = Scratch::new();
    let script = "echo $LISTEN_FDS $LISTEN_PID; cat <&3; cat <&4; ls /proc/self/fd | wc -l";
    let bundle = scratch.bundle(&["/bin/sh", "-c", script], |_| {});
    for (name, content) in [("a", "first\n"), ("b", "second\n")] {
        std::fs::write(scratch.path(name), content).expect("write");
    }
    // 3 and 4 are passed, 5 is not.
    let pass = |flags: &str, environment: &str| {
        let line = format!(
            "exec 3< {0}/a 4< {0}/b 5< {0}/b; {environment} exec \"$0\" --root {0}/state run {flags} --bundle {1} passed",
            scratch.path("").display(),
            bundle.display()
        );
        text(&run(Command::new("sh").args(["-c", &line]).arg(program()).stdin(Stdio::null())))
    };
    assert_eq!(pass("--preserve-fds 2", ""), "\nfirst\nsecond\n6\n");
    assert_eq!(pass("", "LISTEN_FDS=2"), "2 1\nfirst\nsecond\n6\n");
    assert_eq!(pass("--preserve-fds 1", "LISTEN_FDS=1"), "1 1\nfirst\nsecond\n6\n");
}

#[test]
fn a_tmpfs_begins_with_what_lies_below_it() {
    let scratch = Scratch::new();
    let script = "stat -c '%a %u' /etc/apt; ls /etc/apt | head -1 | wc -l; touch /etc/apt/new; \
                  head -c 3000000 /dev/zero > /etc/apt/big 2> /dev/null || echo full; stat -f -c %T /etc/apt";
    let bundle = scratch.bundle(&["/bin/sh", "-c", script], |config| {
        let options = ["tmpcopyup", "mode=0751", "size=2m", "uid=0"];
        let mount = json!({"destination": "/etc/apt", "type": "tmpfs", "source": "tmpfs", "options": options});
        config["mounts"].as_array_mut().expect("mounts").push(mount);
    });
    let said = text(&run(&mut scratch.run(&bundle, "copied")));
    assert!(said.starts_with("751 0\n1\nfull\n"), "{said}");
    assert!(!Path::new("/etc/apt/new").exists());
}

#[test]
fn limits_that_change_are_seen_inside() {
    if std::fs::metadata("/sys/fs/cgroup/memory/memory.limit_in_bytes").is_err() && std::fs::metadata("/sys/fs/cgroup/memory.max").is_err()
    {
        eprintln!("skipped: this host has no memory controller");
        return;
    }
    let scratch = Scratch::new();
    let bundle = scratch.bundle(&["/bin/sleep", "1000"], |config| {
        config["linux"]["cgroupsPath"] = format!("/caisson-limits-{}/x", std::process::id()).into();
        config["linux"]["resources"]["memory"] = json!({"limit": 256 << 20});
        config["linux"]["resources"]["pids"] = json!({"limit": 50});
        config["mounts"]
            .as_array_mut()
            .expect("mounts")
            .push(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}));
    });
    start(&scratch, &bundle, "limits");
    let look = "cd /sys/fs/cgroup; cat memory.max pids.max cpu.max; grep -c ^processor /proc/cpuinfo; nproc; grep MemTotal /proc/meminfo";
    let processors = std::thread::available_parallelism().expect("processors").get();
    let kib = |mib: u64| format!("MemTotal:       {:>8} kB\n", mib << 10);
    let before = format!("{}\n50\nmax 100000\n{processors}\n{processors}\n{}", 256 << 20, kib(256));
    assert_eq!(exec(&scratch, "limits", look), before);
    let flags = ["update", "--memory", "300m", "--pids-limit", "60", "--cpu-quota", "50000", "--cpu-period", "100000", "limits"];
    text(&run(&mut scratch.verb(&flags)));
    let after = exec(&scratch, "limits", look);
    assert!(after.starts_with(&format!("{}\n60\n50000 100000\n", 300 << 20)) && after.ends_with(&kib(300)), "{after}");
    assert!(after.contains("\n1\nMemTotal"), "nproc: {after}");
    // What is not named stays.
    text(&run(&mut scratch.verb(&["update", "--memory", "310m", "limits"])));
    assert!(exec(&scratch, "limits", look).starts_with(&format!("{}\n60\n50000 100000\n", 310 << 20)));
    text(&run(&mut scratch.verb(&["delete", "--force", "limits"])));
}

#[test]
fn a_process_that_takes_more_memory_than_there_is_is_told_of() {
    if std::fs::metadata("/sys/fs/cgroup/memory/memory.limit_in_bytes").is_err() {
        eprintln!("skipped: this host has no memory controller of version 1");
        return;
    }
    let scratch = Scratch::new();
    let shared = scratch.path("shared");
    std::fs::create_dir(&shared).expect("mkdir");
    let greedy =
        "while [ ! -e /mnt/go ]; do sleep 0.02; done; x=$(head -c 400000000 /dev/zero | tr '\\0' x); echo survived > /mnt/survived";
    let bundle = scratch.bundle(&["/bin/sh", "-c", greedy], |config| {
        config["linux"]["cgroupsPath"] = format!("/caisson-oom-{}/x", std::process::id()).into();
        config["linux"]["resources"]["memory"] = json!({"limit": 96 << 20, "swap": 96 << 20});
        volume(config, &shared, &["rbind", "rw"]);
    });
    start(&scratch, &bundle, "greedy");
    let events =
        scratch.verb(&["events", "--interval", "1s", "greedy"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("spawn");
    std::thread::sleep(Duration::from_millis(300));
    std::fs::write(shared.join("go"), "").expect("write");
    let said = text(&finish(events));
    let kinds: Vec<Value> = said.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["type"].clone()).collect();
    assert!(kinds.iter().any(|kind| kind == "stats") && kinds.iter().any(|kind| kind == "oom"), "{said}");
    assert!(eventually(20, || scratch.status("greedy") == "stopped"));
    assert!(!shared.join("survived").exists());
    text(&run(&mut scratch.verb(&["delete", "--force", "greedy"])));
    assert!(scratch.state_is_empty());
}

/// Engines enter the mount namespace of a container's process to copy files, and must not find the host's there.
#[test]
fn who_enters_its_mount_namespace_finds_its_files() {
    let scratch = Scratch::new();
    let shared = scratch.path("shared");
    std::fs::create_dir(&shared).expect("mkdir");
    std::fs::write(shared.join("file"), "of the volume").expect("write");
    let bundle = scratch.bundle(&["sleep", "1000"], |config| volume(config, &shared, &["rbind", "rw"]));
    let mut command = scratch.verb(&["--overlay=none", "create", "--bundle"]);
    command.arg(&bundle).arg("c").stdout(Stdio::null()).stderr(Stdio::null());
    assert!(finish(command.spawn().expect("spawn")).status.success());
    let state: Value = serde_json::from_str(&text(&run(&mut scratch.verb(&["state", "c"])))).expect("JSON");
    let root = format!("/proc/{}/root", state["pid"]);
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).expect("a namespace");
    assert_ne!(namespace(&state["pid"].to_string()), namespace("self"));
    assert_eq!(std::fs::read_to_string(format!("{root}/mnt/file")).expect("the volume"), "of the volume");
    std::fs::write(format!("{root}/mnt/new"), "copied in").expect("write");
    assert_eq!(std::fs::read_to_string(shared.join("new")).expect("the volume"), "copied in");
    // The root of this container is read-only.
    let name = format!("caisson-test-{}", std::process::id());
    let refused = std::fs::write(format!("{root}/{name}"), "").expect_err("it is writable");
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    text(&run(&mut scratch.verb(&["delete", "--force", "c"])));
}
