//! What the tests of the command line share: running it, bundles, and looking for what it left behind.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod remains;

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A directory of one test, removed at its end. It is the state root of its containers, too.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("caisson-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(dir.join("state")).expect("a directory");
        Scratch(dir)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// A bundle whose root file system is the host's, read-only: the default configuration, without a terminal, changed.
    pub fn bundle(&self, args: &[&str], change: impl FnOnce(&mut Value)) -> PathBuf {
        let bundle = self.path("bundle");
        std::fs::create_dir_all(&bundle).expect("a directory");
        let _ = std::fs::remove_file(bundle.join("config.json"));
        let made = caisson().args(["spec", "--bundle"]).arg(&bundle).output().expect("caisson spec");
        assert!(made.status.success(), "{made:?}");
        let text = std::fs::read(bundle.join("config.json")).expect("config.json");
        let mut config: Value = serde_json::from_slice(&text).expect("JSON");
        config["root"]["path"] = "/".into();
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = json!(args);
        change(&mut config);
        std::fs::write(bundle.join("config.json"), config.to_string()).expect("config.json");
        bundle
    }

    /// `caisson run` with this state root.
    pub fn run(&self, bundle: &Path, id: &str) -> Command {
        let mut command = caisson();
        command.arg("--root").arg(self.state()).arg("run").arg("--bundle").arg(bundle).arg(id);
        command
    }

    /// A verb with this state root.
    pub fn verb(&self, args: &[&str]) -> Command {
        let mut command = caisson();
        command.arg("--root").arg(self.state()).args(args);
        command
    }

    /// `caisson state`'s status, or nothing if there is no such container.
    pub fn status(&self, id: &str) -> String {
        let output = finish(self.verb(&["state", id]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("spawn"));
        let state: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        state["status"].as_str().unwrap_or_default().to_owned()
    }

    /// Whether no container's state is left.
    pub fn state_is_empty(&self) -> bool {
        std::fs::read_dir(self.state()).expect("the state root").next().is_none()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A test that has failed leaves its containers.
        for entry in std::fs::read_dir(self.state()).into_iter().flatten().flatten() {
            let _ = self.verb(&["delete", "--force"]).arg(entry.file_name()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The program under test: the one just built, or another that `CAISSON_BIN` names.
pub fn program() -> PathBuf {
    std::env::var_os("CAISSON_BIN").map_or_else(|| env!("CARGO_BIN_EXE_caisson").into(), PathBuf::from)
}

/// The program under test, with nothing on standard input.
pub fn caisson() -> Command {
    let mut command = Command::new(program());
    command.stdin(Stdio::null());
    command
}

/// Exit status and standard error of a run that must end by itself.
pub fn outcome(command: &mut Command) -> (i32, String) {
    let output = finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("spawn"));
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Waits for a child, for a minute at most.
pub fn finish(mut child: Child) -> Output {
    let deadline = Instant::now() + Duration::from_secs(60);
    while child.try_wait().expect("wait").is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("it does not end: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().expect("output")
}

/// Waits until `condition` holds, for `seconds` at most; whether it does.
pub fn eventually(seconds: u64, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// All processes as (process, parent).
fn processes() -> Vec<(i32, i32)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(parent) = status_field(pid, "PPid").and_then(|text| text.parse().ok()) {
            found.push((pid, parent));
        }
    }
    found
}

/// A line of /proc/PID/status.
pub fn status_field(pid: i32, field: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

/// The command line of a process, its words separated by spaces.
pub fn command_line(pid: i32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// All descendants of a process.
pub fn descendants(pid: i32) -> Vec<i32> {
    let all = processes();
    let mut found = vec![pid];
    let mut i = 0;
    while i < found.len() {
        let parent = found[i];
        found.extend(all.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child));
        i += 1;
    }
    found.remove(0);
    found
}

/// Waits for the sandbox of the runtime process `pid`: the sentry's and the gofer's process IDs.
pub fn sandbox_of(pid: i32) -> Option<(i32, i32)> {
    let mut found = None;
    eventually(20, || {
        let children = descendants(pid);
        let named = |name: &str| children.iter().copied().find(|child| command_line(*child).contains(name));
        found = named("caisson sentry").zip(named("caisson gofer"));
        found.is_some()
    });
    found
}

/// Whether a process exists and is no zombie.
pub fn lives(pid: i32) -> bool {
    status_field(pid, "State").is_some_and(|state| !state.starts_with('Z'))
}

/// kill -9.
pub fn kill(pid: i32) {
    let status = Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill");
    assert!(status.success());
}
