//! `caisson install` and `uninstall` on copies of configurations as they are found on machines: what is merged, what stays, what is refused.

mod common;

use common::{Scratch, caisson, finish, program};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// A `daemon.json` of a machine with a registry mirror and another runtime.
const DOCKER: &str = include_str!("configs/daemon.json");
/// What Debian's package of containerd 1.6 writes.
const DEBIAN: &str = include_str!("configs/containerd-debian.toml");
/// A node of a cluster: version 2, runc with systemd's control groups.
const NODE: &str = include_str!("configs/containerd-node-v2.toml");
/// The same of containerd 2.
const NODE_V3: &str = include_str!("configs/containerd-node-v3.toml");

/// A verb with `root` in place of `/`: its status and what it prints.
fn verb(root: &Path, args: &[&str]) -> (i32, String) {
    let mut command = caisson();
    command.args(args).arg("--root").arg(root).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = finish(command.spawn().expect("spawn"));
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}

fn ok(root: &Path, args: &[&str]) -> String {
    let (status, text) = verb(root, args);
    assert_eq!(status, 0, "{args:?}: {text}");
    text
}

/// A root with this configuration in it; its path.
fn with_config(scratch: &Scratch, name: &str, path: &str, text: &str) -> (PathBuf, PathBuf) {
    let root = scratch.path(name);
    let file = root.join(path);
    fs::create_dir_all(file.parent().expect("a directory")).expect("mkdir");
    fs::write(&file, text).expect("write");
    (root, file)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("read")
}

/// All files below a directory, without their content.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("read_dir").flatten() {
        if entry.file_type().expect("type").is_dir() { found.extend(files(&entry.path())) } else { found.push(entry.path()) }
    }
    found.sort();
    found
}

fn own_program() -> String {
    fs::canonicalize(program()).expect("the program").display().to_string()
}

#[test]
fn docker_is_given_the_runtime_and_loses_it_again() {
    let scratch = Scratch::new();
    let (root, file) = with_config(&scratch, "docker", "etc/docker/daemon.json", DOCKER);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("chmod");
    ok(&root, &["install", "--docker"]);
    let mut config: Value = serde_json::from_str(&read(&file)).expect("JSON");
    assert_eq!(config["runtimes"]["caisson"], json!({"path": own_program(), "runtimeArgs": ["--overlay=none"]}));
    config["runtimes"].as_object_mut().expect("runtimes").remove("caisson");
    assert_eq!(config, serde_json::from_str::<Value>(DOCKER).expect("JSON"));
    assert_eq!(fs::metadata(&file).expect("metadata").mode() & 0o777, 0o640);
    let backup = file.with_file_name("daemon.json.before-caisson");
    assert_eq!(read(&backup), DOCKER);
    // Once more is as good as once.
    let before = (read(&file), fs::metadata(&file).expect("metadata").ino());
    assert!(ok(&root, &["install", "--docker"]).contains("already"));
    assert_eq!((read(&file), fs::metadata(&file).expect("metadata").ino()), before);
    ok(&root, &["uninstall", "--docker"]);
    assert_eq!(read(&file), DOCKER);
    assert_eq!(files(&root), std::slice::from_ref(&file));
    assert!(ok(&root, &["uninstall", "--docker"]).contains("not in it"));
    assert_eq!(read(&file), DOCKER);
}

#[test]
fn what_was_changed_meanwhile_stays() {
    let scratch = Scratch::new();
    let (root, file) = with_config(&scratch, "docker", "etc/docker/daemon.json", DOCKER);
    ok(&root, &["install", "--docker"]);
    let mut config: Value = serde_json::from_str(&read(&file)).expect("JSON");
    config["debug"] = true.into();
    fs::write(&file, config.to_string()).expect("write");
    ok(&root, &["uninstall", "--docker"]);
    let mut expected: Value = serde_json::from_str(DOCKER).expect("JSON");
    expected["debug"] = true.into();
    assert_eq!(serde_json::from_str::<Value>(&read(&file)).expect("JSON"), expected);
    // Docker would not start without its default.
    ok(&root, &["install", "--docker"]);
    let text = read(&file).replacen('{', "{\"default-runtime\": \"caisson\",", 1);
    fs::write(&file, &text).expect("write");
    let (status, words) = verb(&root, &["uninstall", "--docker"]);
    assert!(status == 124 && words.contains("default-runtime"), "{words}");
    assert_eq!(read(&file), text);
}

#[test]
fn containerd_is_given_the_handler_and_loses_it_again() {
    let scratch = Scratch::new();
    for (name, text, plugin) in [
        ("debian", DEBIAN, "io.containerd.grpc.v1.cri"),
        ("node", NODE, "io.containerd.grpc.v1.cri"),
        ("node-v3", NODE_V3, "io.containerd.cri.v1.runtime"),
    ] {
        let (root, file) = with_config(&scratch, name, "etc/containerd/config.toml", text);
        ok(&root, &["install", "--containerd"]);
        let with = read(&file);
        let header = ".containerd.runtimes.caisson]";
        let line = with.lines().find(|line| line.trim_end().ends_with(header)).unwrap_or_default();
        assert!(line.contains(plugin), "{with}");
        assert!(with.contains("runtime_type = \"io.containerd.caisson.v1\""), "{with}");
        // Every line that was there is there, comments too, in the same order.
        let mut lines = with.lines();
        assert!(text.lines().all(|line| lines.any(|other| other == line)), "{with}");
        let shim = root.join("usr/local/bin/containerd-shim-caisson-v1");
        assert_eq!(fs::read_link(&shim).expect("a link").display().to_string(), own_program());
        assert!(ok(&root, &["install", "--containerd"]).contains("already"));
        assert_eq!(read(&file), with);
        // An addition of somebody else's.
        fs::write(&file, format!("{with}\n[debug]\nlevel = \"debug\"\n")).expect("write");
        ok(&root, &["uninstall", "--containerd"]);
        let without = read(&file);
        assert!(!without.contains("caisson") && without.contains("[debug]"), "{without}");
        assert!(!shim.exists() && fs::symlink_metadata(&shim).is_err());
        fs::write(&file, text).expect("write");
        ok(&root, &["install", "--containerd"]);
        ok(&root, &["uninstall", "--containerd"]);
        assert_eq!(read(&file), text);
        assert_eq!(files(&root), [file]);
    }
}

#[test]
fn a_configuration_that_is_missing_is_made_and_removed() {
    let scratch = Scratch::new();
    let root = scratch.path("bare");
    fs::create_dir_all(root.join("usr/bin")).expect("mkdir");
    let (status, text) = verb(&root, &["install"]);
    assert!(status == 2 && text.contains("--docker"), "{text}");
    fs::write(root.join("usr/bin/dockerd"), "").expect("write");
    fs::write(root.join("usr/bin/containerd"), "").expect("write");
    let before = files(&root);
    let said = ok(&root, &["install", "--dry-run"]);
    assert!(said.contains("daemon.json") && said.contains("config.toml") && said.contains("would link"), "{said}");
    assert_eq!(files(&root), before);
    ok(&root, &["install"]);
    assert_eq!(files(&root).len(), before.len() + 3);
    ok(&root, &["uninstall", "--dry-run"]);
    assert_eq!(files(&root).len(), before.len() + 3);
    ok(&root, &["uninstall"]);
    assert_eq!(files(&root), before);
}

#[test]
fn what_is_not_understood_is_not_touched() {
    let scratch = Scratch::new();
    let docker = ["{\"runtimes\": ", "[]", "{\"runtimes\": []}", "{\"a\": 1} x", "# yaml: yes"];
    let containerd = ["version = 2\n[plugins", "disabled_plugins = [\"cri\"]\n", "version = 7\n", "version = 2\nplugins = \"none\"\n"];
    let cases = docker.iter().map(|text| ("--docker", "etc/docker/daemon.json", *text));
    let cases = cases.chain(containerd.iter().map(|text| ("--containerd", "etc/containerd/config.toml", *text)));
    for (n, (flag, path, text)) in cases.enumerate() {
        let (root, file) = with_config(&scratch, &format!("bad-{n}"), path, text);
        for verb_name in ["install", "uninstall"] {
            let (status, words) = verb(&root, &[verb_name, flag]);
            assert_eq!(status, 124, "{text:?}: {words}");
            assert!(words.starts_with("caisson: ") && words.contains("left as it is") && words.matches('\n').count() == 1, "{words}");
        }
        assert_eq!(read(&file), text);
        assert_eq!(files(&root), [file]);
    }
    // A shim that is no link is somebody else's.
    let (root, file) = with_config(&scratch, "shim", "etc/containerd/config.toml", NODE);
    fs::create_dir_all(root.join("usr/local/bin")).expect("mkdir");
    fs::write(root.join("usr/local/bin/containerd-shim-caisson-v1"), "theirs").expect("write");
    let (status, words) = verb(&root, &["install", "--containerd"]);
    assert!(status == 124 && words.contains("not a link"), "{words}");
    assert_eq!(read(&file), NODE);
}

#[test]
fn a_link_stays_a_link() {
    let scratch = Scratch::new();
    let (root, file) = with_config(&scratch, "linked", "srv/daemon.json", DOCKER);
    fs::create_dir_all(root.join("etc/docker")).expect("mkdir");
    let link = root.join("etc/docker/daemon.json");
    std::os::unix::fs::symlink(&file, &link).expect("symlink");
    ok(&root, &["install", "--docker"]);
    assert_eq!(fs::read_link(&link).expect("a link"), file);
    assert!(read(&file).contains("caisson"));
    ok(&root, &["uninstall", "--docker"]);
    assert_eq!(read(&file), DOCKER);
}
