//! The shape of the workspace: who may depend on whom, what every crate must have, and where `unsafe` may be.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Who may depend on which of our crates. Whoever is not here may depend on none.
const ALLOWED: &[(&str, &[&str])] = &[
    ("caisson", &["caisson-control", "caisson-shim", "sentry", "gofer"]),
    ("caisson-shim", &[]),
    ("caisson-control", &[]),
    (
        "sentry",
        &[
            "sentry-syscalls",
            "sentry-fs",
            "sentry-net",
            "sentry-kernel",
            "sentry-platform",
            "sentry-host",
            "sentry-sync",
            "sentry-abi",
            "caisson-control",
            "gofer-protocol",
        ],
    ),
    ("sentry-syscalls", &["sentry-kernel", "sentry-host", "sentry-sync", "sentry-abi"]),
    ("sentry-fs", &["sentry-kernel", "sentry-host", "sentry-sync", "sentry-abi", "gofer-protocol"]),
    ("sentry-net", &["sentry-kernel", "sentry-host", "sentry-sync", "sentry-abi"]),
    ("sentry-kernel", &["sentry-platform", "sentry-host", "sentry-sync", "sentry-abi"]),
    ("sentry-platform", &["sentry-host", "sentry-abi"]),
    ("sentry-host", &["sentry-abi"]),
    ("sentry-sync", &["sentry-abi"]),
    ("sentry-abi", &[]),
    ("gofer", &["gofer-protocol", "sentry-abi"]),
    ("gofer-protocol", &["sentry-abi"]),
];

/// Where `allow(unsafe_code)` may stand: two crates as a whole, and one module in each of two others.
const UNSAFE: &[&str] = &["sentry/host/src/", "sentry/platform/src/", "runtime/src/sandbox/jail.rs", "gofer/src/jail"];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the runtime is a folder of the workspace").to_owned()
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(workspace())
        .output()
        .expect("cargo metadata");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("metadata is JSON")
}

/// Our packages and, of each, our packages that it depends on outside tests; and the manifest.
fn packages() -> BTreeMap<String, (Vec<String>, PathBuf)> {
    let metadata = metadata();
    let list = metadata["packages"].as_array().expect("packages");
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    list.iter()
        .map(|package| {
            let dependencies = package["dependencies"]
                .as_array()
                .expect("dependencies")
                .iter()
                .filter(|dependency| dependency["path"].is_string() && dependency["kind"].as_str() != Some("dev"))
                .map(|dependency| text(&dependency["name"]))
                .collect();
            (text(&package["name"]), (dependencies, PathBuf::from(text(&package["manifest_path"]))))
        })
        .collect()
}

#[test]
fn crates_depend_downward_only() {
    let mut wrong = Vec::new();
    for (name, (dependencies, _)) in packages() {
        let allowed = ALLOWED.iter().find(|(who, _)| *who == name).map_or(&[][..], |(_, list)| list);
        for dependency in dependencies {
            // Programs and helpers of tests are among themselves.
            let both_tests = name.starts_with("caisson-") && dependency.starts_with("caisson-tests-");
            if !allowed.contains(&dependency.as_str()) && !both_tests {
                wrong.push(format!("{name} -> {dependency}"));
            }
        }
    }
    assert!(wrong.is_empty(), "dependencies that the architecture forbids: {wrong:?}");
}

#[test]
fn every_crate_of_the_design_exists() {
    let packages = packages();
    for (name, _) in ALLOWED {
        assert!(packages.contains_key(*name), "{name}");
    }
}

#[test]
fn every_crate_takes_the_workspace_lints() {
    for (name, (_, manifest)) in packages() {
        let text = std::fs::read_to_string(&manifest).expect("a manifest");
        let section = text.split("\n[").find(|section| section.starts_with("lints]")).unwrap_or_default();
        assert!(section.contains("workspace = true"), "{name}: {} lacks [lints] workspace = true", manifest.display());
    }
}

/// All Rust files of the crates that make up the executable.
fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn unsafe_code_is_where_it_may_be() {
    let workspace = workspace();
    let mut files = Vec::new();
    for part in ["runtime", "sentry", "gofer"] {
        sources(&workspace.join(part), &mut files);
    }
    assert!(files.len() > 50);
    for file in files {
        let name = file.strip_prefix(&workspace).expect("inside").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file).expect("a source");
        // `expect` would silence the lint, too.
        let silenced = ["allow(unsafe_code", "expect(unsafe_code"].iter().any(|attribute| text.contains(attribute));
        assert!(!silenced || UNSAFE.iter().any(|place| name.starts_with(place)), "{name} allows unsafe code");
    }
}

#[test]
fn only_main_names_the_entry_points_of_sentry_and_gofer() {
    let source = workspace().join("runtime/src");
    let mut files = Vec::new();
    sources(&source, &mut files);
    for file in files {
        if file == source.join("main.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&file).expect("a source");
        for entry in ["sentry::main", "gofer::main", "sentry::syscall_table"] {
            let named = text.match_indices(entry).any(|(at, _)| !text[..at].ends_with("self::"));
            assert!(!named, "{} names {entry}", file.display());
        }
    }
}
