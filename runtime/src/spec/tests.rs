//! Configurations good and bad.

use super::*;
use control::{MountKind, Network, Overlay, Platform};
use serde_json::{Value, json};

fn settings() -> Settings {
    with_state_root(Path::new("/nonexistent"))
}

/// Settings of a container whose state is kept there.
pub fn with_state_root(root: &Path) -> Settings {
    Settings {
        state_root: root.to_owned(),
        platform: Platform::Ptrace,
        network: Network::None,
        root_overlay: Overlay::Memory,
        bind_overlay: Overlay::None,
        host_uds: false,
        rootless: false,
        systemd_cgroup: false,
        strace: false,
    }
}

/// The default configuration over the host's root, changed by `change`.
fn plan(change: impl FnOnce(&mut Value)) -> Result<Plan> {
    let mut config: Value = serde_json::from_str(DEFAULT_CONFIG).unwrap();
    config["root"]["path"] = "/".into();
    change(&mut config);
    let spec = parse(config.to_string().as_bytes())?;
    convert(&spec, Path::new("/"), "test", &settings())
}

fn status(change: impl FnOnce(&mut Value)) -> (Status, String) {
    let failure = plan(change).unwrap_err();
    (failure.status, failure.message)
}

#[test]
fn the_default_configuration_is_accepted() {
    let plan = plan(|_| {}).unwrap();
    assert_eq!(plan.boot.process.args, ["sh"]);
    assert!(plan.boot.process.terminal);
    assert_eq!(plan.boot.process.capabilities.bounding, 1 << 29 | 1 << 5 | 1 << 10);
    assert_eq!(plan.boot.mounts[1].kind, MountKind::Dev);
    assert_eq!(plan.boot.mounts[3].data, ["mode=1777", "size=65536k"]);
    assert!(plan.boot.mounts[3].flags.noexec);
    assert_eq!(plan.attaches, [Attach { source: "/".into(), readonly: true, recursive: true, ..Attach::default() }]);
}

#[test]
fn what_a_plan_says_survives_its_journey_to_the_sentry() {
    let boot = plan(|_| {}).unwrap().boot;
    assert_eq!(BootSpec::from_json(&boot.to_json().unwrap()).unwrap(), boot);
}

#[test]
fn each_mistake_has_its_status_and_names_the_field() {
    let (code, text) = status(|c| c["ociVersion"] = "2.0.0".into());
    assert_eq!(code, Status::BadVersion);
    assert!(text.contains("ociVersion"), "{text}");
    assert_eq!(status(|c| c["ociVersion"] = "".into()).0, Status::BadVersion);
    assert_eq!(status(|c| c["process"]["args"] = json!([])).0, Status::NoArgs);
    assert_eq!(status(|c| c["process"]["args"] = json!([""])).0, Status::NoArgs);
    assert_eq!(status(|c| c["root"]["path"] = "/no/such/rootfs".into()).0, Status::NoRootfs);
    for (field, change) in [
        ("process.cwd", &(|c: &mut Value| c["process"]["cwd"] = "tmp".into()) as &dyn Fn(&mut Value)),
        ("process.env", &|c| c["process"]["env"] = json!(["NOTHING"])),
        ("process.rlimits[0]", &|c| c["process"]["rlimits"][0]["soft"] = 2000.into()),
        ("process.user.umask", &|c| c["process"]["user"]["umask"] = 0o1000.into()),
        ("mounts[0].destination", &|c| c["mounts"][0]["destination"] = "proc".into()),
        ("mounts[0].type", &|c| c["mounts"][0]["type"] = "btrfs".into()),
        ("linux.namespaces[0].path", &|c| c["linux"]["namespaces"][0]["path"] = "/no/such/ns".into()),
        ("linux.namespaces[0].path", &|c| c["linux"]["namespaces"][0]["path"] = "/proc/self/ns/net".into()),
        ("linux.namespaces[1]", &|c| c["linux"]["namespaces"][1]["type"] = "pid".into()),
        ("linux.maskedPaths", &|c| c["linux"]["maskedPaths"][0] = "proc".into()),
        ("hostname", &|c| c["hostname"] = "x".repeat(65).into()),
    ] {
        let (code, text) = status(change);
        assert_eq!(code, Status::BadField, "{text}");
        assert!(text.starts_with(&format!("{field}: ")), "{field}: {text}");
    }
}

#[test]
fn a_field_of_the_wrong_type_is_named() {
    let (code, text) = status(|c| c["process"]["user"]["uid"] = "root".into());
    assert_eq!(code, Status::BadJson);
    assert!(text.starts_with("process.user.uid: "), "{text}");
}

#[test]
fn a_configuration_cut_short_is_an_error_everywhere() {
    let text = DEFAULT_CONFIG.trim_end().as_bytes();
    for cut in 0..text.len() {
        assert_eq!(parse(&text[..cut]).unwrap_err().status, Status::BadJson, "cut at {cut}");
    }
}

#[test]
fn bind_mounts_are_served_by_the_gofer() {
    let plan = plan(|c| {
        c["mounts"] = json!([
            {"destination": "/a", "source": "/usr", "options": ["rbind", "ro"]},
            {"destination": "/b/../c", "type": "bind", "source": "etc/passwd", "options": ["bind", "nosuid"]},
        ]);
    })
    .unwrap();
    assert_eq!(plan.attaches[1], Attach { source: "/usr".into(), readonly: true, recursive: true, ..Attach::default() });
    assert_eq!(plan.attaches[2], Attach { source: "/etc/passwd".into(), readonly: false, recursive: false, ..Attach::default() });
    assert_eq!(plan.boot.mounts[0].kind, MountKind::Dev);
    assert_eq!(plan.boot.mounts[2].destination, "/c");
    let expected = MountKind::Bind { attach: 2, directory: false, overlay: Overlay::None };
    assert_eq!(plan.boot.mounts[2].kind, expected);
    let (code, text) = status(|c| c["mounts"][0] = json!({"destination": "/a", "type": "bind", "source": "/no/such"}));
    assert_eq!(code, Status::NoMountSource);
    assert!(text.starts_with("mounts[0].source: /no/such"), "{text}");
}

/// A sequence of numbers without a pattern, the same in every run.
struct Noise(u64);

impl Noise {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

#[test]
fn a_damaged_configuration_is_an_error_or_works_and_never_a_panic() {
    let mut noise = Noise(1);
    let pieces: [&[u8]; 12] =
        [b"null", b"-1", b"1e400", b"\"\"", b"[]", b"{}", b"18446744073709551616", b"\"/../..\"", b"\"\\u0000\"", b"true", b"[[", b"\xff"];
    for _ in 0..3000 {
        let mut text = DEFAULT_CONFIG.replace("rootfs", "/").into_bytes();
        for _ in 0..=noise.below(3) {
            let at = noise.below(text.len());
            match noise.below(4) {
                0 => text[at] = noise.below(256) as u8,
                1 => drop(text.drain(at..(at + noise.below(40)).min(text.len()))),
                2 => drop(text.splice(at..at, pieces[noise.below(pieces.len())].iter().copied())),
                _ => {
                    // A whole value by another: from a colon to the end of its line.
                    let Some(colon) = text[at..].iter().position(|byte| *byte == b':') else { continue };
                    let start = at + colon + 1;
                    let end = text[start..].iter().position(|byte| *byte == b'\n').map_or(text.len(), |n| start + n);
                    text.splice(start..end, pieces[noise.below(pieces.len())].iter().copied());
                }
            }
            if text.is_empty() {
                break;
            }
        }
        if let Ok(spec) = parse(&text)
            && let Ok(plan) = convert(&spec, Path::new("/"), "test", &settings())
        {
            let json = plan.boot.to_json().expect("a plan can be encoded");
            assert_eq!(BootSpec::from_json(&json).expect("and is accepted"), plan.boot);
        }
    }
}
