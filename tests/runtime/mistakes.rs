//! A table of mistakes, in configurations and on command lines. For each: one line that says what is wrong and names the place, the exit
//! status that is documented for it, the same line as JSON in the log, and nothing left behind.

mod common;

use common::remains::Remains;
use common::{Scratch, caisson, finish};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output, Stdio};

type Change = fn(&mut Value);

/// A configuration that is right but for the change; the exit status; words of the error.
const CONFIGURATIONS: &[(Change, i32, &[&str])] = &[
    (|c| drop(take(c, "ociVersion")), 103, &["ociVersion"]),
    (|c| c["ociVersion"] = "2.0.0".into(), 103, &["ociVersion", "2.0.0", "1.0.0"]),
    (|c| c["ociVersion"] = "one".into(), 103, &["ociVersion", "one"]),
    (|c| c["ociVersion"] = 1.into(), 102, &["ociVersion"]),
    (|c| drop(take(c, "process")), 104, &["process", "missing"]),
    (|c| drop(take(&mut c["process"], "args")), 105, &["process.args"]),
    (|c| c["process"]["args"] = json!([]), 105, &["process.args", "program"]),
    (|c| c["process"]["args"] = json!([""]), 105, &["process.args"]),
    (|c| c["process"]["args"] = json!(["/bin/true", 7]), 102, &["process.args"]),
    (|c| c["process"]["args"] = json!(["/bin/true", "a\u{0}b"]), 104, &["process.args", "zero byte"]),
    (|c| c["process"]["args"] = json!(["/no/such/program"]), 127, &["/no/such/program"]),
    (|c| c["process"]["args"] = json!(["no-such-program"]), 127, &["no-such-program", "executable file not found in $PATH"]),
    (|c| c["process"]["args"] = json!(["/etc/passwd"]), 126, &["/etc/passwd", "ermission denied"]),
    (|c| c["process"]["args"] = json!(["/usr"]), 126, &["/usr"]),
    (|c| c["process"]["env"] = json!(["NOTHING"]), 104, &["process.env", "NAME=value"]),
    (|c| c["process"]["env"] = json!(["A=\u{0}"]), 104, &["process.env", "zero byte"]),
    (|c| c["process"]["env"] = "A=b".into(), 102, &["process.env"]),
    (|c| c["process"]["cwd"] = "tmp".into(), 104, &["process.cwd", "absolute"]),
    (|c| c["process"]["cwd"] = "".into(), 104, &["process.cwd", "absolute"]),
    (|c| c["process"]["cwd"] = "/etc/passwd".into(), 118, &["process.cwd", "/etc/passwd"]),
    (|c| c["process"]["user"]["uid"] = "root".into(), 102, &["process.user.uid"]),
    (|c| c["process"]["user"]["uid"] = (-1).into(), 102, &["process.user.uid"]),
    (|c| c["process"]["user"]["gid"] = 4_294_967_296_u64.into(), 102, &["process.user.gid"]),
    (|c| c["process"]["user"]["umask"] = 0o1000.into(), 104, &["process.user.umask"]),
    (|c| c["process"]["rlimits"][0]["type"] = "RLIMIT_LUCK".into(), 102, &["process.rlimits[0].type", "RLIMIT_LUCK"]),
    (|c| c["process"]["rlimits"][0]["soft"] = 1_000_000.into(), 104, &["process.rlimits[0]", "soft"]),
    (|c| double(&mut c["process"]["rlimits"]), 104, &["process.rlimits[1]", "twice"]),
    (|c| c["process"]["capabilities"]["bounding"] = json!(["CAP_FLY"]), 102, &["process.capabilities.bounding"]),
    (|c| c["process"]["capabilities"]["effective"] = json!(["CAP_SYS_BOOT"]), 104, &["process.capabilities.effective", "permitted"]),
    (|c| c["process"]["consoleSize"] = json!({"height": 70_000, "width": 80}), 104, &["process.consoleSize"]),
    (|c| c["process"]["oomScoreAdj"] = 5000.into(), 104, &["process.oomScoreAdj"]),
    (|c| c["process"]["terminal"] = "yes".into(), 102, &["process.terminal"]),
    (|c| drop(take(c, "root")), 104, &["root", "missing"]),
    (|c| c["root"]["path"] = "rootfs".into(), 106, &["root.path", "rootfs"]),
    (|c| c["root"]["path"] = "/etc/passwd".into(), 106, &["root.path", "/etc/passwd"]),
    (|c| c["root"]["path"] = 7.into(), 102, &["root.path"]),
    (|c| c["root"]["readonly"] = "no".into(), 102, &["root.readonly"]),
    (|c| c["hostname"] = "x".repeat(65).into(), 104, &["hostname", "64"]),
    (|c| c["domainname"] = "x".repeat(65).into(), 104, &["domainname", "64"]),
    (|c| c["mounts"][0]["destination"] = "proc".into(), 104, &["mounts[0].destination", "absolute"]),
    (|c| c["mounts"][0]["destination"] = "/a\u{0}".into(), 104, &["mounts[0].destination", "zero byte"]),
    (|c| c["mounts"][0]["type"] = "btrfs".into(), 104, &["mounts[0].type", "btrfs", "tmpfs"]),
    (|c| c["mounts"][0]["options"] = "ro".into(), 102, &["mounts[0].options"]),
    (|c| mount(c, json!({"destination": "/mnt", "type": "bind", "source": "/no/such"})), 107, &["/no/such"]),
    (|c| mount(c, json!({"destination": "/mnt", "options": ["rbind"]})), 104, &[".source", "missing"]),
    (|c| mount(c, json!({"destination": "/mnt", "type": "tmpfs", "options": ["size=much"]})), 118, &["/mnt", "size=much"]),
    (|c| mount(c, json!({"destination": "/mnt", "type": "bind", "source": "/usr", "options": ["rbind", "idmap"]})), 104, &["idmap"]),
    (|c| mount(c, json!({"destination": "/etc/passwd/x", "type": "tmpfs"})), 118, &["/etc/passwd/x"]),
    (|c| c["linux"]["namespaces"][0]["type"] = "space".into(), 102, &["linux.namespaces[0].type", "space"]),
    (|c| c["linux"]["namespaces"][0]["path"] = "/no/such".into(), 104, &["linux.namespaces[0].path", "/no/such"]),
    (|c| c["linux"]["namespaces"][0]["path"] = "proc/self/ns/pid".into(), 104, &["linux.namespaces[0].path", "absolute"]),
    (|c| c["linux"]["namespaces"][0]["path"] = "/proc/self/ns/net".into(), 104, &["linux.namespaces[0].path", "not a namespace of type"]),
    (|c| double(&mut c["linux"]["namespaces"]), 104, &["linux.namespaces", "twice"]),
    (|c| c["linux"]["maskedPaths"] = json!(["proc"]), 104, &["linux.maskedPaths", "absolute"]),
    (|c| c["linux"]["readonlyPaths"] = json!(["sys"]), 104, &["linux.readonlyPaths", "absolute"]),
    (|c| c["linux"]["rootfsPropagation"] = "sideways".into(), 104, &["linux.rootfsPropagation", "sideways"]),
    (|c| c["linux"]["cgroupsPath"] = "/a/../b".into(), 104, &["linux.cgroupsPath", ".."]),
    (|c| c["linux"]["cgroupsPath"] = "/".into(), 104, &["linux.cgroupsPath"]),
    (|c| c["linux"]["cgroupsPath"] = "system.slice:caisson:x".into(), 104, &["linux.cgroupsPath", "systemd"]),
    (|c| c["linux"]["resources"]["memory"] = json!({"limit": -5}), 104, &["linux.resources.memory.limit"]),
    (|c| c["linux"]["resources"]["memory"] = json!({"limit": "1g"}), 102, &["linux.resources.memory.limit"]),
    (|c| c["linux"]["resources"]["memory"] = json!({"limit": 1 << 30, "swap": 1 << 20}), 104, &["linux.resources.memory.swap"]),
    (
        |c| c["linux"]["resources"]["memory"] = json!({"limit": 1 << 20, "reservation": 1 << 30}),
        104,
        &["linux.resources.memory.reservation"],
    ),
    (|c| c["linux"]["resources"]["memory"] = json!({"swappiness": 101}), 104, &["linux.resources.memory.swappiness"]),
    (|c| c["linux"]["resources"]["cpu"] = json!({"period": 5}), 104, &["linux.resources.cpu.period"]),
    (|c| c["linux"]["resources"]["cpu"] = json!({"quota": 10}), 104, &["linux.resources.cpu.quota"]),
    (|c| c["linux"]["resources"]["cpu"] = json!({"cpus": "3-1"}), 104, &["linux.resources.cpu.cpus"]),
    (|c| c["linux"]["resources"]["cpu"] = json!({"cpus": "4095"}), 123, &["linux.resources.cpu.cpus"]),
    (|c| c["linux"]["resources"]["pids"] = json!({"limit": "ten"}), 102, &["linux.resources.pids.limit"]),
    (|c| c["linux"]["resources"]["blockIO"] = json!({"weight": 5}), 104, &["linux.resources.blockIO.weight"]),
    (|c| c["linux"]["resources"]["unified"] = json!({"a/b": "1"}), 104, &["linux.resources.unified", "a/b"]),
    (|c| c["linux"]["resources"]["unified"] = json!({"no.such": "1"}), 123, &["linux.resources.unified", "no.such"]),
    (|c| c["linux"]["resources"]["hugepageLimits"] = json!([{"pageSize": "big", "limit": 1}]), 104, &["hugepageLimits[0].pageSize"]),
    (|c| c["linux"]["devices"] = json!([{"path": "/dev/x", "type": "a", "major": 1, "minor": 1}]), 104, &["linux.devices[0].type"]),
    (|c| c["linux"]["devices"] = json!([{"path": "dev/x", "type": "c", "major": 1, "minor": 1}]), 104, &["linux.devices[0].path"]),
    (|c| c["linux"]["devices"] = json!([{"path": "/dev/x", "type": "c", "major": -2, "minor": 1}]), 104, &["linux.devices[0].major"]),
    (
        |c| c["linux"]["devices"] = json!([{"path": "/dev/x", "type": "c", "major": 1, "minor": 1, "fileMode": 0o10_000_000}]),
        104,
        &["linux.devices[0].fileMode"],
    ),
    (|c| c["linux"]["sysctl"] = json!({"kernel.panic": "1"}), 104, &["linux.sysctl", "kernel.panic", "namespace"]),
    (|c| c["linux"]["sysctl"] = json!({"net..x": "1"}), 104, &["linux.sysctl", "net..x"]),
    (|c| c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_SMILE"}), 102, &["linux.seccomp.defaultAction"]),
    (|c| c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_NOTIFY"}), 104, &["linux.seccomp.defaultAction", "SCMP_ACT_NOTIFY"]),
    (|c| rule(c, json!({"names": ["dup"], "action": "SCMP_ACT_NOTIFY"})), 104, &["linux.seccomp.syscalls[0].action", "SCMP_ACT_NOTIFY"]),
    (|c| rule(c, json!({"names": [], "action": "SCMP_ACT_ERRNO"})), 104, &["linux.seccomp.syscalls[0].names"]),
    (|c| rule(c, json!({"names": ["dup"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5000})), 104, &["linux.seccomp.syscalls[0].action"]),
    (
        |c| rule(c, json!({"names": ["dup"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]})),
        104,
        &["linux.seccomp.syscalls[0].args[0].index"],
    ),
    (
        |c| rule(c, json!({"names": ["dup"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_LIKE"}]})),
        102,
        &["linux.seccomp.syscalls[0].args[0].op"],
    ),
    (|c| c["annotations"] = json!({"io.caisson.host-uds": "all"}), 104, &["annotations[\"io.caisson.host-uds\"]", "none nor open"]),
    (|c| c["linux"]["intelRdt"] = json!({"closID": "x"}), 104, &["linux.intelRdt"]),
    (|c| c["linux"]["personality"] = json!({"domain": "SOLARIS"}), 102, &["linux.personality.domain"]),
    (|c| mapped(c, json!([{"containerID": 0, "hostID": 0, "size": 0}])), 104, &["linux.uidMappings[0].size"]),
    (|c| mapped(c, json!([{"containerID": 5, "hostID": 0, "size": 9}])), 104, &["linux.uidMappings", "ID 0"]),
    (|c| mapped(c, json!([{"containerID": 0, "hostID": 4_294_967_295_u32, "size": 2}])), 104, &["linux.uidMappings[0].size", "greatest"]),
    (
        |c| mapped(c, json!([{"containerID": 0, "hostID": 0, "size": 9}, {"containerID": 5, "hostID": 50, "size": 9}])),
        104,
        &["linux.uidMappings[1]", "already"],
    ),
    (
        |c| {
            mapped(c, json!([{"containerID": 0, "hostID": 0, "size": 9}]));
            drop(take(&mut c["linux"], "gidMappings"));
        },
        104,
        &["linux.gidMappings", "missing"],
    ),
    (
        |c| {
            mapped(c, json!([{"containerID": 0, "hostID": 0, "size": 9}]));
            c["linux"]["namespaces"].as_array_mut().expect("a list").retain(|namespace| namespace["type"] != "user");
        },
        104,
        &["linux.uidMappings", "namespace of type user"],
    ),
    (|c| c["hooks"] = json!({"prestart": [{"path": "true"}]}), 104, &["hooks.prestart[0].path", "absolute"]),
    (|c| c["hooks"] = json!({"poststop": [{"path": "/bin/true", "timeout": 0}]}), 104, &["hooks.poststop[0].timeout"]),
    (|c| c["hooks"] = json!({"createRuntime": [{"path": "/no/such/hook"}]}), 122, &["createRuntime hook #0", "/no/such/hook"]),
    (|c| c["hooks"] = json!({"createContainer": [{"path": "/bin/false"}]}), 122, &["createContainer hook #0", "/bin/false"]),
    (|c| c["hooks"] = json!({"startContainer": [{"path": "/bin/false"}]}), 122, &["startContainer hook #0", "/bin/false"]),
    (|c| c["hooks"] = json!({"poststart": [{"path": "/bin/false"}]}), 122, &["poststart hook #0", "/bin/false"]),
];

fn take(value: &mut Value, key: &str) -> Option<Value> {
    value.as_object_mut().expect("an object").remove(key)
}

fn double(list: &mut Value) {
    let list = list.as_array_mut().expect("a list");
    list.insert(1, list[0].clone());
}

fn mount(config: &mut Value, mount: Value) {
    config["mounts"].as_array_mut().expect("mounts").push(mount);
}

fn mapped(config: &mut Value, map: Value) {
    config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "user"}));
    config["linux"]["gidMappings"] = map.clone();
    config["linux"]["uidMappings"] = map;
}

fn rule(config: &mut Value, rule: Value) {
    config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
}

/// Text in place of a `config.json`; status; words.
const TEXTS: &[(&[u8], i32, &[&str])] = &[
    (b"", 102, &["config.json"]),
    (b"{", 102, &["config.json"]),
    (b"[]", 103, &["config.json", "ociVersion"]),
    (b"null", 102, &["config.json"]),
    (b"{\"ociVersion\": \"1.0.2\"} and more", 102, &["config.json", "trailing"]),
    (b"{\"ociVersion\": \"\xff\"}", 102, &["config.json"]),
    (b"{\"ociVersion\": \"1.0.2\", \"ociVersion\": \"1.0.2\"}", 102, &["config.json", "ociVersion"]),
];

/// A command line behind the flags for log and state; status; words. `BUNDLE` is a good one, `DIR` an empty directory, `FILE` a file.
const COMMANDS: &[(&[&str], i32, &[&str])] = &[
    (&[], 2, &["--help"]),
    (&["fly"], 2, &["fly"]),
    (&["--frobnicate", "list"], 2, &["--frobnicate"]),
    (&["run"], 2, &["ID"]),
    (&["run", "--bundle", "BUNDLE", "a", "b"], 2, &["b"]),
    (&["run", "--bundle", "DIR/none", "x"], 100, &["DIR/none"]),
    (&["run", "--bundle", "DIR", "x"], 101, &["config.json", "caisson spec"]),
    (&["run", "--bundle", "FILE", "x"], 101, &["config.json"]),
    (&["run", "--bundle", "BUNDLE", ""], 111, &["ID"]),
    (&["run", "--bundle", "BUNDLE", ".."], 111, &[".."]),
    (&["run", "--bundle", "BUNDLE", "a/b"], 111, &["a/b", "letters"]),
    (&["run", "--bundle", "BUNDLE", "a b"], 111, &["a b"]),
    (&["run", "--bundle", "BUNDLE", "--preserve-fds", "many", "x"], 2, &["--preserve-fds"]),
    (&["run", "--bundle", "BUNDLE", "--preserve-fds", "9", "x"], 2, &["--preserve-fds"]),
    (&["run", "--bundle", "BUNDLE", "--pid-file", "DIR/none/pid", "x"], 117, &["--pid-file", "DIR/none/pid"]),
    (&["run", "--bundle", "BUNDLE", "--console-socket", "DIR/none", "x"], 116, &["terminal"]),
    (&["create", "--bundle", "DIR/none", "x"], 100, &["DIR/none"]),
    (&["--root", "FILE", "create", "--bundle", "BUNDLE", "x"], 114, &["FILE"]),
    (&["--root", "FILE", "state", "x"], 119, &["x"]),
    (&["--platform", "quantum", "run", "--bundle", "BUNDLE", "x"], 108, &["quantum", "ptrace"]),
    (&["--network", "pigeon", "run", "--bundle", "BUNDLE", "x"], 2, &["pigeon", "sandbox"]),
    (&["--overlay", "lead", "run", "--bundle", "BUNDLE", "x"], 2, &["lead", "root:memory"]),
    (&["--rootless=perhaps", "list"], 2, &["perhaps", "auto"]),
    (&["--systemd-cgroup", "run", "--bundle", "BUNDLE", "x"], 115, &["--systemd-cgroup", "systemd"]),
    (&["start", "nobody"], 119, &["nobody", "does not exist"]),
    (&["state", "nobody"], 119, &["nobody", "does not exist"]),
    (&["kill", "nobody", "9"], 119, &["nobody", "does not exist"]),
    (&["kill", "nobody", "SIGSING"], 2, &["SIGSING"]),
    (&["kill", "nobody", "99"], 2, &["99"]),
    (&["delete", "nobody"], 119, &["nobody", "does not exist"]),
    (&["delete", "--force", "../x"], 111, &["../x"]),
    (&["pause", "nobody"], 119, &["nobody"]),
    (&["resume", "nobody"], 119, &["nobody"]),
    (&["ps", "nobody"], 119, &["nobody"]),
    (&["list", "--format", "yaml"], 2, &["yaml"]),
    (&["exec", "nobody", "true"], 119, &["nobody"]),
    (&["exec"], 2, &["ID"]),
    (&["update", "nobody"], 2, &["update"]),
    (&["update", "--memory", "heaps", "nobody"], 2, &["--memory", "heaps"]),
    (&["update", "--cpu-quota", "5", "nobody"], 104, &["quota"]),
    (&["update", "--resources", "DIR/none", "nobody"], 101, &["DIR/none"]),
    (&["update", "--resources", "FILE", "nobody"], 102, &["FILE"]),
    (&["update", "--memory", "100m", "nobody"], 119, &["nobody"]),
    (&["events", "--interval", "soon", "nobody"], 2, &["--interval", "soon"]),
    (&["events", "nobody"], 119, &["nobody"]),
    (&["spec", "--bundle", "BUNDLE"], 113, &["config.json"]),
    (&["spec", "--bundle", "DIR/none"], 100, &["DIR/none"]),
    (&["do", "--volume", "/tmp", "--", "true"], 2, &["SRC:DST"]),
    (&["do", "--env", "NOTHING", "--", "true"], 2, &["NOTHING"]),
    (&["do", "--root", "DIR/none", "--", "true"], 106, &["DIR/none"]),
    (&["do", "--", "no-such-program"], 127, &["no-such-program"]),
    (&["install", "--docker", "--containerd", "--config", "FILE"], 2, &["--config"]),
    (&["install", "--docker", "--config", "FILE"], 124, &["FILE", "JSON"]),
];

/// What every mistake must come to; what does not is told.
fn check(what: &str, output: &Output, log: &Path, status: i32, words: &[&str]) -> Result<(), String> {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines = std::fs::read_to_string(log).unwrap_or_default();
    let _ = std::fs::remove_file(log);
    let wrong = |why: &str| Err(format!("{what}: {why}: status {:?}, {text:?}, log {lines:?}", output.status.code()));
    if output.status.code() != Some(status) {
        return wrong(&format!("the status is not {status}"));
    }
    if !text.starts_with("caisson: ") || text.matches('\n').count() != 1 {
        return wrong("not one line");
    }
    if let Some(word) = words.iter().find(|word| !text.contains(**word)) {
        return wrong(&format!("{word} is missing"));
    }
    // Engines show the last error of the log to their users.
    let parsed: Result<Vec<Value>, _> = lines.lines().map(serde_json::from_str).collect();
    let Ok(parsed) = parsed else { return wrong("the log is not JSON") };
    let Some(last) = parsed.last() else { return wrong("the log is empty") };
    if last["level"] != "error"
        || !last["time"].is_string()
        || last["msg"].as_str() != text.trim_end_matches('\n').strip_prefix("caisson: ")
    {
        return wrong("the log says something else");
    }
    Ok(())
}

fn run(command: &mut Command) -> Output {
    finish(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("spawn"))
}

#[test]
fn every_mistake_has_one_clear_error_and_leaves_nothing() {
    let scratch = Scratch::new();
    let group = format!("caisson-mistakes-{}", std::process::id());
    let good = |config: &mut Value| config["linux"]["cgroupsPath"] = format!("/{group}/x").into();
    let bundle = scratch.bundle(&["/bin/true"], good);
    let (dir, file, log) = (scratch.path("dir"), scratch.path("file"), scratch.path("log"));
    std::fs::create_dir(&dir).expect("mkdir");
    std::fs::write(&file, "no JSON\n").expect("write");
    let remains = Remains::before(&scratch.path(""), &group);
    let flagged = || {
        let mut command = caisson();
        command.arg("--root").arg(scratch.state()).arg("--log").arg(&log).args(["--log-format", "json"]);
        command
    };
    let mut wrong = Vec::new();
    // Without a mistake it runs: what follows fails for what it changes.
    let output = run(flagged().arg("run").arg("--bundle").arg(&bundle).arg("x"));
    assert!(output.status.success(), "{output:?}");
    let _ = std::fs::remove_file(&log);
    remains.none("a configuration without mistakes");
    for (n, (change, status, words)) in CONFIGURATIONS.iter().enumerate() {
        scratch.bundle(&["/bin/true"], |config| {
            good(config);
            change(config);
        });
        let output = run(flagged().arg("run").arg("--bundle").arg(&bundle).arg("x"));
        let what = format!("configuration {n} ({})", words.join(", "));
        wrong.extend(check(&what, &output, &log, *status, words).err());
        remains.none(&what);
    }
    for (text, status, words) in TEXTS {
        std::fs::write(bundle.join("config.json"), text).expect("write");
        let output = run(flagged().arg("run").arg("--bundle").arg(&bundle).arg("x"));
        let what = String::from_utf8_lossy(text).into_owned();
        wrong.extend(check(&what, &output, &log, *status, words).err());
        remains.none(&what);
    }
    scratch.bundle(&["/bin/true"], good);
    let names = [("BUNDLE", &bundle), ("DIR", &dir), ("FILE", &file)];
    let named = |word: &str| names.iter().fold(word.to_owned(), |word, (name, path)| word.replace(name, &path.display().to_string()));
    for (words, status, expected) in COMMANDS {
        let mut command = flagged();
        let args: Vec<String> = words.iter().map(|word| named(word)).collect();
        if args.first().is_some_and(|arg| arg == "--root") {
            command = caisson();
            command.arg("--log").arg(&log).args(["--log-format", "json"]);
        }
        let output = run(command.args(&args));
        let expected: Vec<String> = expected.iter().map(|word| named(word)).collect();
        let what = words.join(" ");
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        wrong.extend(check(&what, &output, &log, *status, &expected).err());
        remains.none(&what);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(CONFIGURATIONS.len() + TEXTS.len() + COMMANDS.len() >= 60);
}
