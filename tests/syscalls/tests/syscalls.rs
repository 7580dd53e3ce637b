//! The guest's subtests, natively and in sandboxes: every one on a tmpfs, those about files in a volume of the host too.

use caisson_tests_support::{Case, Program, Suite, Volume, binary, root};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU32, Ordering};

/// Areas that are run in a directory of the host too, which a sandbox reaches through its gofer.
const IN_VOLUMES: &[&str] = &["open", "rw", "dir", "attr", "lock", "notify"];

/// What is tested of the internet's sockets but not with the host's own (`--network=host`), and why.
const NOT_PASSED_THROUGH: &[&str] = &[
    // No raw sockets.
    "inet::raw_icmp",
    "inet::raw_udp",
    "inet::socket_args",
    // The host's /proc is not seen.
    "inet::proc_tables",
    // Neither SO_TIMESTAMPING, SO_ZEROCOPY nor SO_MARK; to take a binding to a device away needs a privilege that the sentry does not have.
    "inet::udp_timestamping",
    "inet::so_options",
    "inet::bind_device",
];

/// What the file systems of hosts disagree about, so that a volume cannot be held to it.
const NOT_IN_VOLUMES: &[&str] = &["attr::statfs_calls", "dir::getdents_order"];

/// Where a sandbox is known to differ, on which platform if not on all, and why. Natively these are tested; `--ignored` compares them.
const GAPS: &[(&str, Option<&str>, &str)] = &[
    ("signal::siginfo_segv", Some("ptrace"), "ptrace(2) does not tell a page fault's error code"),
    ("volume::attr::xattr_trusted", None, "a gofer may not use trusted attributes of the host"),
];

fn main() -> ExitCode {
    match suite() {
        Ok((suite, scratch)) => {
            let code = suite.run();
            let _ = std::fs::remove_dir_all(scratch);
            code
        }
        Err(e) => {
            eprintln!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

fn suite() -> anyhow::Result<(Suite, PathBuf)> {
    let guest = Path::new(env!("CARGO_BIN_EXE_caisson-guest"));
    let scratch = binary::scratch("syscalls")?;
    let tree = scratch.join("root");
    root::bare(&tree, guest, "guest")?;
    let list = String::from_utf8(Command::new(guest).arg("--list").output()?.stdout)?;
    let mut suite = Suite::default();
    let mut add = |name: String, program: Box<dyn Fn() -> anyhow::Result<Program> + Send + Sync>| {
        let mut case = Case::new(name.clone(), program);
        if let Some((_, on, why)) = GAPS.iter().find(|(gap, ..)| *gap == name) {
            (case.gap, case.gap_on) = (Some(*why), *on);
        }
        suite.compare(case);
    };
    for name in list.lines() {
        let (tree, subtest) = (tree.clone(), name.to_string());
        add(name.to_string(), Box::new(move || Ok(Program::new(&tree, &["/bin/guest", &subtest]).timeout(40))));
    }
    for name in list.lines() {
        let area = name.split("::").next().unwrap_or_default();
        if IN_VOLUMES.contains(&area) && !NOT_IN_VOLUMES.contains(&name) {
            let (tree, subtest, scratch) = (tree.clone(), name.to_string(), scratch.clone());
            add(format!("volume::{name}"), Box::new(move || in_volume(&tree, &scratch, &subtest)));
        }
    }
    for name in list.lines() {
        if name.starts_with("inet::") && !NOT_PASSED_THROUGH.contains(&name) {
            let (tree, subtest) = (tree.clone(), name.to_string());
            add(
                format!("host::{name}"),
                Box::new(move || {
                    let mut program = Program::new(&tree, &["/bin/guest", &subtest]).timeout(40);
                    program.passthrough = true;
                    Ok(program)
                }),
            );
        }
    }
    Ok((suite, scratch))
}

/// A run in a fresh directory of the host.
fn in_volume(tree: &Path, scratch: &Path, subtest: &str) -> anyhow::Result<Program> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let source = scratch.join(format!("volume-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    std::fs::create_dir(&source)?;
    let mut program = Program::new(tree, &["/bin/guest", subtest]).timeout(40).env("GUEST_DIR", "/vol");
    program.volumes.push(Volume { source, target: "/vol".to_string() });
    Ok(program)
}
