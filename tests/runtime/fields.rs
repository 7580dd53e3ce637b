//! docs/oci.md: what becomes of each field of `config.json`. The table is taken at its word.

mod common;

use common::{Scratch, finish};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::Stdio;

const DOCUMENT: &str = include_str!("../../docs/oci.md");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Works,
    NoEffect,
    Refused,
    PassedOver,
}
use Outcome::{NoEffect, PassedOver, Refused, Works};

/// Fields with a value to be tried. Those that other tests try (mounts, limits, mappings, namespaces) are in the document alone.
const FIELDS: &[(&str, Outcome, &str)] = &[
    ("ociVersion", Works, r#""1.2.0""#),
    ("process.consoleSize", Works, r#"{"height": 24, "width": 80}"#),
    ("process.cwd", Works, r#""/caisson-made/deep""#),
    ("process.env", Works, r#"["A=b"]"#),
    ("process.args", Works, r#"["/bin/true"]"#),
    ("process.commandLine", PassedOver, r#""x""#),
    ("process.rlimits", Works, r#"[{"type": "RLIMIT_NOFILE", "hard": 512, "soft": 256}]"#),
    ("process.apparmorProfile", NoEffect, r#""docker-default""#),
    ("process.capabilities", Works, r#"{"bounding": [], "effective": [], "permitted": [], "inheritable": [], "ambient": []}"#),
    ("process.noNewPrivileges", Works, r#"true"#),
    ("process.oomScoreAdj", Works, r#"500"#),
    ("process.selinuxLabel", NoEffect, r#""system_u:system_r:container_t:s0""#),
    ("process.ioPriority", NoEffect, r#"{"class": "IOPRIO_CLASS_BE", "priority": 4}"#),
    ("process.scheduler", NoEffect, r#"{"policy": "SCHED_OTHER", "nice": 5}"#),
    ("process.execCPUAffinity", NoEffect, r#"{"initial": "0", "final": "0"}"#),
    ("process.user.uid", Works, r#"0"#),
    ("process.user.gid", Works, r#"0"#),
    ("process.user.umask", Works, r#"18"#),
    ("process.user.additionalGids", Works, r#"[5, 6]"#),
    ("process.user.username", PassedOver, r#""x""#),
    ("root.readonly", Works, r#"true"#),
    ("hostname", Works, r#""host""#),
    ("domainname", Works, r#""domain""#),
    ("mounts[].uidMappings", Refused, r#"[{"containerID": 0, "hostID": 0, "size": 1}]"#),
    ("hooks.prestart", Works, r#"[{"path": "/bin/true"}]"#),
    ("hooks.createRuntime", Works, r#"[{"path": "/bin/true"}]"#),
    ("hooks.createContainer", Works, r#"[{"path": "/bin/true"}]"#),
    ("hooks.startContainer", Works, r#"[{"path": "/bin/true"}]"#),
    ("hooks.poststart", Works, r#"[{"path": "/bin/true"}]"#),
    ("hooks.poststop", Works, r#"[{"path": "/bin/true"}]"#),
    ("annotations", Works, r#"{"a": "b"}"#),
    ("linux.timeOffsets", Refused, r#"{"monotonic": {"secs": 5}}"#),
    ("linux.devices", Works, r#"[{"path": "/dev/caisson-null", "type": "c", "major": 1, "minor": 3}]"#),
    ("linux.netDevices", Refused, r#"{"eth7": {"name": "eth0"}}"#),
    ("linux.resources.devices", PassedOver, r#"[{"allow": false, "access": "rwm"}]"#),
    ("linux.resources.rdma", NoEffect, r#"{"mlx5_1": {"hcaHandles": 3}}"#),
    ("linux.sysctl", Works, r#"{"kernel.hostname": "named"}"#),
    ("linux.seccomp", Works, r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#),
    ("linux.rootfsPropagation", Works, r#""rslave""#),
    ("linux.maskedPaths", Works, r#"["/proc/kcore"]"#),
    ("linux.readonlyPaths", Works, r#"["/proc/sys"]"#),
    ("linux.mountLabel", NoEffect, r#""system_u:object_r:container_file_t:s0""#),
    ("linux.intelRdt", Refused, r#"{"closID": "x"}"#),
    ("linux.memoryPolicy", Refused, r#"{"mode": "MPOL_INTERLEAVE", "nodes": "0"}"#),
    ("linux.personality", Works, r#"{"domain": "LINUX"}"#),
    ("solaris", PassedOver, r#"{"milestone": "x"}"#),
];

/// Puts a value where a path like `linux.resources.rdma` says.
fn put(config: &mut Value, path: &str, value: Value) {
    if path == "mounts[].uidMappings" {
        let mount = json!({"destination": "/mnt", "type": "bind", "source": "/usr", "options": ["bind"], "uidMappings": value});
        return config["mounts"].as_array_mut().expect("mounts").push(mount);
    }
    let at = path.split('.').fold(config, |at, name| &mut at[name]);
    *at = value;
}

/// The table of the document: what it says of each field.
fn documented() -> BTreeMap<String, Outcome> {
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let field = cells.next()?.strip_suffix('`')?.to_owned();
        let outcome = match cells.next()? {
            "works" => Works,
            "no effect" => NoEffect,
            "refused" => Refused,
            "passed over" => PassedOver,
            other => panic!("{line}: {other} is no outcome"),
        };
        Some((field, outcome))
    };
    DOCUMENT.lines().filter_map(row).collect()
}

#[test]
fn each_field_does_what_the_document_says() {
    let scratch = Scratch::new();
    let documented = documented();
    assert!(documented.len() > 60, "{documented:?}");
    for (path, outcome, value) in FIELDS {
        assert_eq!(documented.get(*path), Some(outcome), "docs/oci.md: {path}");
        let value: Value = serde_json::from_str(value).expect("JSON");
        let bundle = scratch.bundle(&["/bin/true"], |config| put(config, path, value));
        let mut run = scratch.run(&bundle, "field");
        if *outcome != Refused {
            // Warnings are for those who read the log.
            run.arg("--debug");
        }
        let output = finish(run.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("spawn"));
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let field = path.replace("[]", "");
        let warned = told.contains("has no effect");
        match outcome {
            Works | PassedOver => assert!(output.status.success() && !warned, "{path}: {output:?}"),
            NoEffect => assert!(output.status.success() && warned && told.contains(&field), "{path}: {output:?}"),
            Refused => {
                let named = field.rsplit('.').next().expect("a name");
                assert!(output.status.code() == Some(104) && told.contains(named) && told.lines().count() == 1, "{path}: {output:?}");
            }
        }
    }
    assert!(scratch.state_is_empty());
}

#[test]
fn a_missing_working_directory_is_made() {
    let scratch = Scratch::new();
    for readonly in [false, true] {
        let bundle = scratch.bundle(&["/bin/sh", "-c", "pwd; stat -c '%a %u' ."], |config| {
            config["process"]["cwd"] = "/srv/caisson-test/./deep/../work".into();
            config["root"]["readonly"] = readonly.into();
        });
        let output = finish(scratch.run(&bundle, "cwd").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("spawn"));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "/srv/caisson-test/work\n755 0\n", "{output:?}");
    }
    // A file is no directory, whoever wants one.
    let bundle = scratch.bundle(&["/bin/true"], |config| config["process"]["cwd"] = "/etc/passwd".into());
    let output = finish(scratch.run(&bundle, "cwd").stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("spawn"));
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("process.cwd"), "{output:?}");
    assert!(!std::path::Path::new("/srv/caisson-test").exists() && scratch.state_is_empty());
}
