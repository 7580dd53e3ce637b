//! `caisson features`: what this runtime implements, as the OCI runtime specification has it told.

use crate::cgroup::SYSTEMD_PROPERTY;
use crate::container::Moment;
use crate::exit::{Failure, Result};
use crate::spec::{CAPABILITIES, HOST_UDS, MOUNT_OPTIONS, OCI_VERSION};
use serde_json::{Value, json};

/// Prints it.
pub fn main() -> Result {
    super::print(&serde_json::to_string_pretty(&document()).map_err(Failure::internal("cannot encode the features"))?)
}

fn document() -> Value {
    let capabilities: Vec<String> = CAPABILITIES.iter().map(|name| format!("CAP_{name}")).collect();
    let mut options = MOUNT_OPTIONS.to_vec();
    options.sort_unstable();
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": Moment::ALL.map(Moment::name),
        "mountOptions": options,
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": capabilities,
            "cgroup": {"v1": true, "v2": true, "systemd": true, "systemdUser": false, "rdma": false},
            "seccomp": {
                "enabled": true,
                "actions": [
                    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG",
                    "SCMP_ACT_TRACE", "SCMP_ACT_TRAP",
                ],
                "operators": [
                    "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE",
                ],
                "archs": ["SCMP_ARCH_X86_64"],
                "knownFlags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"],
                "supportedFlags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"],
            },
            "apparmor": {"enabled": false},
            "selinux": {"enabled": false},
            "intelRdt": {"enabled": false},
            "mountExtensions": {"idmap": {"enabled": false}},
        },
        "annotations": {"io.caisson.version": env!("CARGO_PKG_VERSION")},
        // With the first, an application reaches services of the host; the others are what systemd is told.
        "potentiallyUnsafeConfigAnnotations": [HOST_UDS, SYSTEMD_PROPERTY],
    })
}
