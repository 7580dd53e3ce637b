//! What `caisson features` tells is what is implemented: everything that it lists is tried.

mod common;

use common::{Scratch, finish};
use serde_json::{Value, json};
use std::process::{Command, Output, Stdio};

type Change = fn(&mut Value);

fn mount(config: &mut Value, mount: Value) {
    config["mounts"].as_array_mut().expect("mounts").push(mount);
}

fn rule(config: &mut Value, rule: Value) {
    config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
}

fn run(command: &mut Command) -> Output {
    finish(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("spawn"))
}

#[test]
fn what_features_tells_is_what_is_implemented() {
    let scratch = Scratch::new();
    let output = finish(scratch.verb(&["features"]).stdout(Stdio::piped()).spawn().expect("spawn"));
    let features: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let list = |value: &Value| -> Vec<String> {
        value.as_array().expect("a list").iter().filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let accepted = |change: &dyn Fn(&mut Value)| {
        let bundle = scratch.bundle(&["/bin/true"], |config| change(config));
        run(&mut scratch.run(&bundle, "features"))
    };
    let works = |what: &str, change: &dyn Fn(&mut Value)| {
        let output = accepted(change);
        assert!(output.status.success(), "{what}: {output:?}");
    };
    works("mountOptions", &|config| {
        for (n, option) in list(&features["mountOptions"]).iter().enumerate() {
            let bind = option.contains("bind") && !option.starts_with("un") && !option.starts_with("run");
            let source = if bind { "/usr" } else { "tmpfs" };
            let kind = if bind { "bind" } else { "tmpfs" };
            mount(config, json!({"destination": format!("/tmp/m{n}"), "type": kind, "source": source, "options": [option]}));
        }
    });
    let seccomp = &features["linux"]["seccomp"];
    for action in list(&seccomp["actions"]) {
        works(&action, &|config| rule(config, json!({"names": ["swapon"], "action": action})));
    }
    assert!(!list(&seccomp["actions"]).contains(&"SCMP_ACT_NOTIFY".to_owned()));
    works("operators", &|config| {
        let rules = list(&seccomp["operators"]).into_iter().map(
            |op| json!({"names": ["swapon"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 1, "valueTwo": 1, "op": op}]}),
        );
        config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules.collect::<Vec<_>>()});
    });
    works("flags and architectures", &|config| {
        let (flags, archs) = (&seccomp["supportedFlags"], &seccomp["archs"]);
        config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": flags, "architectures": archs});
    });
    works("capabilities", &|config| {
        let all = &features["linux"]["capabilities"];
        for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
            config["process"]["capabilities"][set] = all.clone();
        }
    });
    works("namespaces", &|config| {
        let all = list(&features["linux"]["namespaces"]).into_iter().map(|kind| json!({"type": kind}));
        config["linux"]["namespaces"] = all.collect();
    });
    works("hooks", &|config| {
        config["hooks"] = list(&features["hooks"])
            .into_iter()
            .map(|moment| (moment, json!([{"path": "/bin/true"}])))
            .collect::<serde_json::Map<_, _>>()
            .into();
    });
    // What is told to be missing is refused.
    for (what, change) in [
        (
            "mountExtensions",
            (|c| mount(c, json!({"destination": "/mnt", "type": "bind", "source": "/usr", "options": ["bind", "idmap"]}))) as Change,
        ),
        ("intelRdt", |c| c["linux"]["intelRdt"] = json!({"closID": "x"})),
    ] {
        assert_eq!(accepted(&change).status.code(), Some(104), "{what}");
    }
    assert!(features["linux"]["intelRdt"]["enabled"] == false && features["linux"]["mountExtensions"]["idmap"]["enabled"] == false);
}
