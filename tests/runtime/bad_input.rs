//! Whatever is wrong with the command line or a bundle: its own exit status, one line that says what, and nothing left behind.

mod common;

use common::{Scratch, caisson, outcome};
use serde_json::json;
use std::process::Command;

/// Runs it, and checks that it fails with `status` and one line that contains all of `words`.
fn fails(command: &mut Command, status: i32, words: &[&str]) {
    let (code, text) = outcome(command);
    assert_eq!(code, status, "{text}");
    assert!(text.starts_with("caisson: ") && text.matches('\n').count() == 1, "not one line: {text:?}");
    for word in words {
        assert!(text.contains(word), "{word} is missing in: {text}");
    }
}

#[test]
fn wrong_command_lines() {
    fails(&mut caisson(), 2, &["--help"]);
    fails(caisson().arg("fly"), 2, &["fly"]);
    fails(caisson().arg("run"), 2, &["ID"]);
    fails(caisson().arg("do"), 2, &["COMMAND"]);
    fails(caisson().args(["--frobnicate", "do", "true"]), 2, &["--frobnicate"]);
    fails(caisson().args(["--network=carrier-pigeon", "do", "true"]), 2, &["carrier-pigeon"]);
    fails(caisson().args(["--overlay=lead", "do", "true"]), 2, &["lead"]);
    fails(caisson().args(["--log-format=morse", "do", "true"]), 2, &["morse"]);
    fails(caisson().args(["do", "--volume", "/tmp", "--", "true"]), 2, &["SRC:DST"]);
    fails(caisson().args(["do", "--env", "NOTHING", "--", "true"]), 2, &["NOTHING"]);
}

#[test]
fn platforms_that_cannot_be_had() {
    fails(caisson().args(["--platform=quantum", "do", "true"]), 108, &["quantum", "ptrace"]);
    // With a /dev/kvm that can be opened the answer is that the platform is not built.
    let there = std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
    fails(caisson().args(["--platform=kvm", "do", "true"]), if there { 109 } else { 110 }, &["kvm"]);
    // In a mount namespace with an empty /dev there is none, whatever the host has.
    let mut without = Command::new("unshare");
    without.args(["--mount", "sh", "-c", "mount -t tmpfs none /dev && exec \"$0\" --platform=kvm do true"]);
    fails(without.arg(common::program()), 110, &["/dev/kvm", "--platform=ptrace"]);
}

#[test]
fn bundles_that_are_incomplete() {
    let scratch = Scratch::new();
    fails(&mut scratch.run(&scratch.path("nowhere"), "x"), 100, &["nowhere"]);
    std::fs::create_dir(scratch.path("empty")).expect("mkdir");
    fails(&mut scratch.run(&scratch.path("empty"), "x"), 101, &["config.json", "caisson spec"]);
    let bundle = scratch.bundle(&["true"], |_| {});
    let config = bundle.join("config.json");
    let whole = std::fs::read(&config).expect("read");
    std::fs::write(&config, &whole[..whole.len() / 2]).expect("write");
    fails(&mut scratch.run(&bundle, "x"), 102, &["config.json"]);
    assert!(scratch.state_is_empty());
}

#[test]
fn configurations_that_are_wrong() {
    let scratch = Scratch::new();
    let check = |change: &dyn Fn(&mut serde_json::Value), status: i32, words: &[&str]| {
        let bundle = scratch.bundle(&["/bin/true"], |config| change(config));
        fails(&mut scratch.run(&bundle, "wrong"), status, words);
        assert!(scratch.state_is_empty());
    };
    check(&|c| c["ociVersion"] = "2.0.0".into(), 103, &["ociVersion", "2.0.0"]);
    check(&|c| c["process"]["args"] = json!([]), 105, &["process.args"]);
    check(&|c| c["root"]["path"] = "rootfs".into(), 106, &["root.path", "rootfs"]);
    check(&|c| c["process"]["user"]["uid"] = "root".into(), 102, &["process.user.uid"]);
    check(&|c| c["process"]["cwd"] = "tmp".into(), 104, &["process.cwd"]);
    check(
        &|c| c["mounts"][0] = json!({"destination": "/a", "type": "bind", "source": "/no/such", "options": ["rbind"]}),
        107,
        &["mounts[0].source", "/no/such"],
    );
}

#[test]
fn names_that_cannot_be_used() {
    let scratch = Scratch::new();
    let bundle = scratch.bundle(&["/bin/true"], |_| {});
    fails(&mut scratch.run(&bundle, "a/b"), 111, &["a/b"]);
    fails(&mut scratch.run(&bundle, ".."), 111, &[".."]);
    assert!(scratch.state_is_empty());
}

#[test]
fn terminals_that_nobody_would_see() {
    let scratch = Scratch::new();
    let bundle = scratch.bundle(&["/bin/true"], |config| config["process"]["terminal"] = true.into());
    fails(scratch.run(&bundle, "x").arg("--detach"), 116, &["--console-socket"]);
    fails(scratch.run(&bundle, "x").arg("--console-socket").arg(scratch.path("nobody")), 116, &["nobody"]);
    let bundle = scratch.bundle(&["/bin/true"], |_| {});
    fails(scratch.run(&bundle, "x").arg("--console-socket").arg(scratch.path("nobody")), 116, &["terminal"]);
    assert!(scratch.state_is_empty());
}

#[test]
fn a_configuration_is_not_overwritten() {
    let scratch = Scratch::new();
    let bundle = scratch.bundle(&["/bin/true"], |_| {});
    let before = std::fs::read(bundle.join("config.json")).expect("read");
    fails(caisson().args(["spec", "--bundle"]).arg(&bundle), 113, &["config.json"]);
    assert_eq!(std::fs::read(bundle.join("config.json")).expect("read"), before);
    fails(caisson().args(["spec", "--bundle"]).arg(scratch.path("nowhere")), 100, &["nowhere"]);
}

#[test]
fn errors_reach_the_log_in_the_shape_that_managers_read() {
    let scratch = Scratch::new();
    let log = scratch.path("log");
    let mut command = caisson();
    command.arg("--log").arg(&log).args(["--log-format", "json", "run", "--bundle"]).arg(scratch.path("nowhere")).arg("x");
    fails(&mut command, 100, &["nowhere"]);
    let text = std::fs::read_to_string(&log).expect("the log");
    let line: serde_json::Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
    assert_eq!(line["level"], "error");
    assert!(line["msg"].as_str().expect("msg").contains("nowhere"));
    assert!(line["time"].is_string());
}

#[test]
fn help_and_version_are_no_errors() {
    assert_eq!(outcome(caisson().arg("--help")).0, 0);
    assert_eq!(outcome(caisson().arg("--version")).0, 0);
    assert_eq!(outcome(caisson().arg("version")).0, 0);
}
