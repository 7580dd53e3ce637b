//! The life of a container verb by verb, as an engine goes through it: what each verb says, and what the container's own process on the
//! host does.

mod common;

use common::{Scratch, descendants, eventually, finish, kill, lives, outcome};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Runs a verb that must end by itself.
fn run(command: &mut Command) -> Output {
    finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("spawn"))
}

/// Runs a verb that must succeed; its standard output.
fn ok(command: &mut Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// `caisson create` with nothing for standard streams; the container's process ID.
fn create(scratch: &Scratch, bundle: &Path, id: &str) -> i32 {
    let pid_file = scratch.path(&format!("{id}.pid"));
    let mut command = scratch.verb(&["create", "--bundle"]);
    command.arg(bundle).arg("--pid-file").arg(&pid_file).arg(id).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(finish(command.spawn().expect("spawn")).status.success());
    read_pid(&pid_file)
}

fn read_pid(path: &Path) -> i32 {
    std::fs::read_to_string(path).expect("the PID file").parse().expect("a number")
}

/// A script that says `ready` in the file `said` of the bundle's volume, and waits for SIGTERM.
const WAITING: &str = "trap 'exit 7' TERM; echo ready > /mnt/said; while :; do sleep 0.05; done";

/// A bundle with a volume at /mnt, which is the second of the pair.
fn bundle(scratch: &Scratch, script: &str, change: impl FnOnce(&mut Value)) -> (PathBuf, PathBuf) {
    let shared = scratch.path("shared");
    std::fs::create_dir_all(&shared).expect("mkdir");
    let bundle = scratch.bundle(&["/bin/sh", "-c", script], |config| {
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        mounts.push(json!({"destination": "/mnt", "type": "bind", "source": shared, "options": ["rbind", "rw"]}));
        change(config);
    });
    (bundle, shared)
}

fn said(shared: &Path) -> bool {
    eventually(20, || std::fs::read_to_string(shared.join("said")).is_ok_and(|text| text == "ready\n"))
}

#[test]
fn from_create_to_delete() {
    let scratch = Scratch::new();
    let (bundle, shared) = bundle(&scratch, WAITING, |config| config["annotations"] = json!({"a.b": "c"}));
    let pid = create(&scratch, &bundle, "life");
    let state: Value = serde_json::from_str(&ok(&mut scratch.verb(&["state", "life"]))).expect("JSON");
    assert_eq!(state["status"], "created");
    assert_eq!(state["pid"], pid);
    assert_eq!(state["bundle"].as_str(), bundle.to_str());
    assert_eq!(state["annotations"]["a.b"], "c");
    assert!(lives(pid) && !shared.join("said").exists());
    ok(&mut scratch.verb(&["start", "life"]));
    assert!(said(&shared));
    assert_eq!(scratch.status("life"), "running");
    let (code, text) = outcome(&mut scratch.verb(&["start", "life"]));
    assert!(code == 120 && text.contains("cannot start an already running container"), "{text}");
    let (code, text) = outcome(&mut scratch.verb(&["delete", "life"]));
    assert!(code == 120 && text.contains("not stopped"), "{text}");
    let list: Value = serde_json::from_str(&ok(&mut scratch.verb(&["list", "-f", "json"]))).expect("JSON");
    assert_eq!(list[0]["id"], "life");
    assert_eq!(ok(&mut scratch.verb(&["list", "-q"])), "life\n");
    assert_eq!(ok(&mut scratch.verb(&["ps", "-f", "json", "life"])), format!("[{pid}]\n"));
    assert!(ok(&mut scratch.verb(&["ps", "life"])).contains("echo ready"));
    ok(&mut scratch.verb(&["kill", "life", "SIGTERM"]));
    assert!(eventually(20, || scratch.status("life") == "stopped"));
    // The words that containerd looks for.
    let (code, text) = outcome(&mut scratch.verb(&["kill", "life", "9"]));
    assert!(code == 121 && text.contains("container not running"), "{text}");
    ok(&mut scratch.verb(&["delete", "life"]));
    let (code, text) = outcome(&mut scratch.verb(&["state", "life"]));
    assert!(code == 119 && text.contains("does not exist"), "{text}");
    assert_eq!(outcome(&mut scratch.verb(&["delete", "--force", "life"])).0, 0);
    assert!(scratch.state_is_empty());
}

#[test]
fn standard_streams_are_those_of_create() {
    let scratch = Scratch::new();
    let bundle = scratch.bundle(&["/bin/sh", "-c", "read line; echo got $line; echo error >&2; exit 3"], |_| {});
    let mut command = scratch.verb(&["create", "--bundle"]);
    command.arg(&bundle).arg("streams").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("spawn");
    let mut stdin = child.stdin.take().expect("stdin");
    assert!(child.wait().expect("wait").success());
    // `start` has streams of its own, and keeps nobody waiting for their end.
    assert_eq!(ok(&mut scratch.verb(&["start", "streams"])), "");
    std::io::Write::write_all(&mut stdin, b"a line\n").expect("write");
    let output = child.wait_with_output().expect("output");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "got a line\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "error\n");
    assert!(eventually(20, || scratch.status("streams") == "stopped"));
    ok(&mut scratch.verb(&["delete", "streams"]));
}

#[test]
fn the_process_on_the_host_ends_as_the_application_does() {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("subreaper");
    let wait = |pid: i32| {
        let pid = rustix::process::Pid::from_raw(pid);
        let (_, status) = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty()).expect("wait").expect("a status");
        (status.exit_status(), status.terminating_signal())
    };
    let scratch = Scratch::new();
    for (signal, expected) in [("TERM", (Some(7), None)), ("KILL", (None, Some(9)))] {
        let (bundle, shared) = bundle(&scratch, WAITING, |_| {});
        let _ = std::fs::remove_file(shared.join("said"));
        let pid = create(&scratch, &bundle, "ends");
        ok(&mut scratch.verb(&["start", "ends"]));
        assert!(said(&shared));
        let exec = |script: &str| {
            let file = scratch.path("exec.pid");
            let mut command = scratch.verb(&["exec", "--detach", "--pid-file"]);
            command.arg(&file).args(["ends", "/bin/sh", "-c", script]).stdout(Stdio::null()).stderr(Stdio::null());
            assert!(finish(command.spawn().expect("spawn")).status.success());
            read_pid(&file)
        };
        assert_eq!(wait(exec("exit 5")), (Some(5), None));
        assert_eq!(wait(exec("kill -USR1 $$")), (None, Some(10)));
        let with_it = exec("sleep 1000");
        ok(&mut scratch.verb(&["kill", "ends", signal]));
        assert_eq!(wait(pid), expected);
        assert_eq!(wait(with_it), (None, Some(9)));
        ok(&mut scratch.verb(&["delete", "ends"]));
    }
    // Whoever kills the process kills the container.
    let (bundle, _) = bundle(&scratch, WAITING, |_| {});
    let pid = create(&scratch, &bundle, "ends");
    let all = descendants(pid);
    assert!(all.len() >= 2);
    kill(pid);
    assert_eq!(wait(pid), (None, Some(9)));
    for pid in all {
        assert!(eventually(10, || !lives(pid)));
    }
    ok(&mut scratch.verb(&["delete", "ends"]));
    assert!(scratch.state_is_empty());
}

#[test]
fn a_container_that_was_never_started() {
    let scratch = Scratch::new();
    let (bundle, shared) = bundle(&scratch, WAITING, |_| {});
    let pid = create(&scratch, &bundle, "unborn");
    ok(&mut scratch.verb(&["kill", "unborn", "TERM"]));
    assert!(eventually(20, || !lives(pid) && scratch.status("unborn") == "stopped"));
    let (code, text) = outcome(&mut scratch.verb(&["start", "unborn"]));
    assert!(code == 120 && text.contains("has stopped"), "{text}");
    ok(&mut scratch.verb(&["delete", "unborn"]));
    let pid = create(&scratch, &bundle, "unborn");
    ok(&mut scratch.verb(&["delete", "unborn"]));
    assert!(!lives(pid) && !shared.join("said").exists() && scratch.state_is_empty());
}

#[test]
fn further_processes() {
    let scratch = Scratch::new();
    let (bundle, shared) = bundle(&scratch, WAITING, |config| config["process"]["cwd"] = "/usr".into());
    create(&scratch, &bundle, "exec");
    ok(&mut scratch.verb(&["start", "exec"]));
    assert!(said(&shared));
    let script = "pwd; echo $ADDED; id -u; id -g; exit 4";
    let output = run(&mut scratch.verb(&["exec", "-e", "ADDED=yes", "-u", "1000:1001", "exec", "/bin/sh", "-c", script]));
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "/usr\nyes\n1000\n1001\n");
    let process = json!({"args": ["/bin/sh", "-c", "pwd; echo $A"], "cwd": "/etc", "env": ["A=b"], "user": {"uid": 0, "gid": 0}});
    let file = scratch.path("process.json");
    std::fs::write(&file, process.to_string()).expect("write");
    assert_eq!(ok(scratch.verb(&["exec", "--process"]).arg(&file).arg("exec")), "/etc\nb\n");
    let (code, text) = outcome(&mut scratch.verb(&["exec", "exec", "no-such-program"]));
    assert!(code == 127 && text.contains("executable file not found in $PATH"), "{text}");
    let many: Vec<_> = (0..16)
        .map(|n: i32| {
            let mut command = scratch.verb(&["exec", "exec", "/bin/sh", "-c", &format!("exit {n}")]);
            (n, command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("spawn"))
        })
        .collect();
    for (n, child) in many {
        assert_eq!(finish(child).status.code(), Some(n));
    }
    // Nothing of them is left, neither inside nor on the host.
    assert!(eventually(10, || !ok(&mut scratch.verb(&["ps", "exec"])).contains("-c exit")));
    ok(&mut scratch.verb(&["delete", "--force", "exec"]));
    assert!(scratch.state_is_empty());
}

#[test]
fn pause_holds_and_resume_lets_go() {
    let scratch = Scratch::new();
    let script = "i=0; while :; do i=$((i+1)); echo $i > /mnt/said; sleep 0.01; done";
    let (bundle, shared) = bundle(&scratch, script, |_| {});
    create(&scratch, &bundle, "held");
    ok(&mut scratch.verb(&["start", "held"]));
    let count = || std::fs::read_to_string(shared.join("said")).ok().and_then(|text| text.trim().parse::<u64>().ok());
    assert!(eventually(20, || count().is_some_and(|n| n > 3)));
    ok(&mut scratch.verb(&["pause", "held"]));
    assert_eq!(scratch.status("held"), "paused");
    let before = std::fs::read_to_string(shared.join("said")).expect("said");
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(std::fs::read_to_string(shared.join("said")).expect("said"), before);
    let (code, text) = outcome(&mut scratch.verb(&["exec", "held", "true"]));
    assert!(code == 120 && text.contains("paused"), "{text}");
    ok(&mut scratch.verb(&["resume", "held"]));
    assert_eq!(scratch.status("held"), "running");
    let before = count();
    assert!(eventually(20, || count() > before));
    // Death does not wait for anybody to resume it.
    ok(&mut scratch.verb(&["pause", "held"]));
    ok(&mut scratch.verb(&["kill", "held", "KILL"]));
    assert!(eventually(20, || scratch.status("held") == "stopped"));
    ok(&mut scratch.verb(&["delete", "held"]));
}

#[test]
fn hooks_run_in_order_with_the_state_on_their_standard_input() {
    let scratch = Scratch::new();
    let log = scratch.path("hooks");
    let hook = |moment: &str| {
        let script = format!("s=$(cat); echo {moment} $(echo $s | grep -o '\"status\":\"[a-z]*\"') $A >> {}", log.display());
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["A=b", "PATH=/usr/bin:/bin"], "timeout": 20}])
    };
    let inside = json!([{"path": "/bin/sh", "args": ["sh", "-c", "cat > /mnt/state"], "env": ["PATH=/usr/bin:/bin"]}]);
    let (bundle, shared) = bundle(&scratch, WAITING, |config| {
        config["hooks"] = json!({
            "prestart": hook("prestart"), "createRuntime": hook("createRuntime"), "createContainer": hook("createContainer"),
            "startContainer": inside, "poststart": hook("poststart"), "poststop": hook("poststop"),
        });
    });
    let pid = create(&scratch, &bundle, "hooked");
    ok(&mut scratch.verb(&["start", "hooked"]));
    let state: Value = serde_json::from_slice(&std::fs::read(shared.join("state")).expect("state")).expect("JSON");
    assert_eq!((state["id"].as_str(), state["pid"].as_i64()), (Some("hooked"), Some(pid.into())));
    ok(&mut scratch.verb(&["delete", "--force", "hooked"]));
    let expected = "prestart \"status\":\"creating\" b\ncreateRuntime \"status\":\"creating\" b\n\
                    createContainer \"status\":\"creating\" b\npoststart \"status\":\"running\" b\npoststop \"status\":\"stopped\" b\n";
    assert_eq!(std::fs::read_to_string(&log).expect("log"), expected);
}

#[test]
fn a_hook_that_fails_leaves_no_container() {
    let scratch = Scratch::new();
    for (moment, at) in [
        ("prestart", "create"),
        ("createRuntime", "create"),
        ("createContainer", "create"),
        ("startContainer", "start"),
        ("poststart", "start"),
    ] {
        let (bundle, _) = bundle(&scratch, WAITING, |config| {
            let script = "echo the reason >&2; exit 9";
            config["hooks"] = json!({moment: [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
        });
        let mut command = scratch.verb(&["create", "--bundle"]);
        command.arg(&bundle).arg("failing");
        let (code, text) = if at == "create" {
            outcome(&mut command)
        } else {
            create(&scratch, &bundle, "failing");
            outcome(&mut scratch.verb(&["start", "failing"]))
        };
        assert_eq!(code, 122, "{moment}: {text}");
        assert!(text.contains(moment) && text.contains("the reason"), "{text}");
        if at == "start" {
            assert_eq!(scratch.status("failing"), "stopped");
            ok(&mut scratch.verb(&["delete", "failing"]));
        }
        assert!(scratch.state_is_empty(), "{moment}");
    }
    let (bundle, _) = bundle(&scratch, WAITING, |config| {
        config["hooks"] = json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1}]});
    });
    let (code, text) = outcome(scratch.verb(&["create", "--bundle"]).arg(&bundle).arg("slow"));
    assert!(code == 122 && text.contains("more than 1 s"), "{text}");
    assert!(scratch.state_is_empty());
}

#[test]
fn features_are_told() {
    let scratch = Scratch::new();
    let features: Value = serde_json::from_str(&ok(&mut scratch.verb(&["features"]))).expect("JSON");
    assert_eq!(features["ociVersionMax"], "1.2.0");
    assert_eq!(features["hooks"].as_array().map(Vec::len), Some(6));
    assert!(features["mountOptions"].as_array().expect("options").contains(&"rbind".into()));
    assert_eq!(features["linux"]["cgroup"]["systemd"], true);
    assert_eq!(features["linux"]["cgroup"]["systemdUser"], false);
}

/// Where the memory controller of version 1 is mounted here, if it is and groups can be made.
fn memory_controller() -> Option<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup/memory");
    let probe = root.join(format!("caisson-probe-{}", std::process::id()));
    std::fs::create_dir(&probe).ok()?;
    let usable = probe.join("memory.limit_in_bytes").exists();
    std::fs::remove_dir(&probe).ok()?;
    usable.then_some(root)
}

#[test]
fn limits_are_set_counted_changed_and_removed() {
    let Some(root) = memory_controller() else {
        eprintln!("skipped: this host has no memory controller of version 1");
        return;
    };
    let scratch = Scratch::new();
    let name = format!("caisson-life-{}", std::process::id());
    let group = root.join(&name).join("one");
    let (bundle, shared) = bundle(&scratch, WAITING, |config| {
        config["linux"]["cgroupsPath"] = format!("/{name}/one").into();
        config["linux"]["resources"]["memory"] = json!({"limit": 256 << 20});
    });
    let pid = create(&scratch, &bundle, "limited");
    let members = std::fs::read_to_string(group.join("cgroup.procs")).expect("members");
    assert!(members.lines().any(|line| line == pid.to_string()) && members.lines().count() >= 3, "{members}");
    let limit = || std::fs::read_to_string(group.join("memory.limit_in_bytes")).expect("limit").trim().parse::<u64>();
    assert_eq!(limit(), Ok(256 << 20));
    ok(&mut scratch.verb(&["start", "limited"]));
    assert!(said(&shared));
    let event: Value = serde_json::from_str(&ok(&mut scratch.verb(&["events", "--stats", "limited"]))).expect("JSON");
    assert_eq!((event["type"].as_str(), event["id"].as_str()), (Some("stats"), Some("limited")));
    assert_eq!(event["data"]["memory"]["usage"]["limit"], 256 << 20);
    assert!(event["data"]["memory"]["usage"]["usage"].as_u64().is_some_and(|bytes| bytes > 0));
    ok(&mut scratch.verb(&["update", "--memory", "300m", "limited"]));
    assert_eq!(limit(), Ok(300 << 20));
    ok(&mut scratch.verb(&["delete", "--force", "limited"]));
    assert!(!root.join(&name).exists());
    assert!(scratch.state_is_empty());
}

#[test]
fn checkpoints_are_refused() {
    let scratch = Scratch::new();
    let (bundle, shared) = bundle(&scratch, WAITING, |_| {});
    create(&scratch, &bundle, "one");
    ok(&mut scratch.verb(&["start", "one"]));
    assert!(said(&shared));
    let images = scratch.path("images").display().to_string();
    let flags =
        ["--image-path", &images, "--work-path", "/tmp", "--leave-running", "--tcp-established", "--shell-job", "--status-fd", "-1"];
    let (code, text) = outcome(&mut scratch.verb(&[&["checkpoint"], &flags[..], &["one"]].concat()));
    assert!(code == 99 && text.contains("one") && text.contains("not checkpointed") && text.lines().count() == 1, "{code}: {text}");
    assert_eq!(scratch.status("one"), "running");
    let (code, text) = outcome(&mut scratch.verb(&["checkpoint", "nobody"]));
    assert!(code == 119 && text.contains("does not exist"), "{code}: {text}");
    let bundle = bundle.display().to_string();
    let (code, text) = outcome(&mut scratch.verb(&["restore", "--image-path", &images, "--bundle", &bundle, "--detach", "two"]));
    assert!(code == 99 && text.contains("not restored") && text.lines().count() == 1, "{code}: {text}");
    let (code, text) = outcome(&mut scratch.verb(&["update", "--l3-cache-schema", "L3:0=f", "one"]));
    assert!(code == 104 && text.contains("--l3-cache-schema"), "{code}: {text}");
    ok(&mut scratch.verb(&["delete", "--force", "one"]));
    assert!(scratch.state_is_empty() && !scratch.path("images").exists());
}

/// What comes to a socket: a name, and the process that a descriptor stands for (proc_pid_fdinfo(5)).
fn pidfd_from(listener: &std::os::unix::net::UnixListener) -> (String, i32) {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    use std::os::fd::AsRawFd;
    let (socket, _) = listener.accept().expect("accept");
    let (mut name, mut space) = ([0; 32], [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))]);
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [std::io::IoSliceMut::new(&mut name)];
    let count = recvmsg(&socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC).expect("recvmsg").bytes;
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let fd: std::os::fd::OwnedFd = fd.expect("a descriptor");
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).expect("fdinfo");
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok()).expect("a pidfd");
    (String::from_utf8_lossy(&name[..count]).into_owned(), pid)
}

#[test]
fn descriptors_of_processes_are_sent() {
    let scratch = Scratch::new();
    let (bundle, shared) = bundle(&scratch, WAITING, |_| {});
    let path = scratch.path("pidfds");
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
    let (bundle, path) = (bundle.display().to_string(), path.display().to_string());
    let mut command = scratch.verb(&["run", "--detach", "--pidfd-socket", &path, "--bundle", &bundle, "one"]);
    assert!(finish(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("spawn")).status.success());
    let state: Value = serde_json::from_str(&ok(&mut scratch.verb(&["state", "one"]))).expect("JSON");
    assert_eq!(pidfd_from(&listener), ("standard".to_owned(), state["pid"].as_i64().expect("a pid") as i32));
    assert!(said(&shared));
    let pid_file = scratch.path("exec.pid");
    let mut command = scratch.verb(&["exec", "--detach", "--pidfd-socket", &path, "--pid-file"]);
    command.arg(&pid_file).args(["one", "/bin/sleep", "1000"]).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(finish(command.spawn().expect("spawn")).status.success());
    assert_eq!(pidfd_from(&listener), ("setns".to_owned(), read_pid(&pid_file)));
    ok(&mut scratch.verb(&["delete", "--force", "one"]));
}

#[test]
fn a_configuration_for_users_without_privileges() {
    let scratch = Scratch::new();
    let dir = scratch.path("");
    ok(scratch.verb(&["spec", "--rootless", "--bundle"]).arg(&dir));
    let config: Value = serde_json::from_slice(&std::fs::read(dir.join("config.json")).expect("config.json")).expect("JSON");
    let own = rustix::process::geteuid().as_raw();
    assert_eq!(config["linux"]["uidMappings"], json!([{"containerID": 0, "hostID": own, "size": 1}]));
    let kinds: Vec<&str> =
        config["linux"]["namespaces"].as_array().expect("namespaces").iter().filter_map(|n| n["type"].as_str()).collect();
    assert!(kinds.contains(&"user") && !kinds.contains(&"network"), "{kinds:?}");
    assert!(!config.to_string().contains("gid=") && config["linux"].get("resources").is_none(), "{config}");
}
