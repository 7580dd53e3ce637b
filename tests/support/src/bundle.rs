//! A program run by Caisson: an OCI bundle, `caisson run`, and what came of it.

use crate::process::{self, Output};
use crate::{HOSTNAME, Program, binary, host};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// The capabilities of Linux, in the order of their numbers.
const CAPABILITIES: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// A bundle on disk, removed when dropped.
pub struct Bundle {
    dir: PathBuf,
    /// The container's name, used once.
    pub id: String,
    network: &'static str,
}

impl Bundle {
    /// Writes the bundle of a program below the scratch directory.
    pub fn new(program: &Program, terminal: bool) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(format!("caisson-{id}"));
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        fs::write(dir.join("config.json"), serde_json::to_vec_pretty(&config(program, terminal))?)?;
        let network = match &program.network {
            _ if program.passthrough => "host",
            Some(_) => "sandbox",
            None => "none",
        };
        Ok(Self { dir, id, network })
    }

    /// The bundle's directory.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// The directory of the state that `caisson --root` keeps for this container.
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// `caisson … run` of this bundle.
    pub fn command(&self, platform: &str) -> Result<Command> {
        let mut command = Command::new(binary::caisson()?);
        command.arg("--root").arg(self.state()).args(["--platform", platform, "--network", self.network]);
        command.args(["run", "--bundle"]).arg(&self.dir).arg(&self.id);
        Ok(command)
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// What this process may do itself: natively the programs have no more, and other runtimes could not give it.
fn capabilities() -> Vec<String> {
    let own = host::status(std::process::id().cast_signed(), "CapEff").and_then(|v| u64::from_str_radix(&v, 16).ok());
    let has = |bit: &usize| own.unwrap_or(0) >> bit & 1 == 1;
    CAPABILITIES.iter().enumerate().filter(|(bit, _)| has(bit)).map(|(_, name)| format!("CAP_{name}")).collect()
}

fn config(program: &Program, terminal: bool) -> Value {
    let caps = capabilities();
    let env: Vec<String> = program.environment().iter().map(|(k, v)| format!("{k}={v}")).collect();
    let mount = |at: &str, kind: &str, options: &[&str]| json!({"destination": at, "type": kind, "source": kind, "options": options});
    let mut mounts = vec![
        mount("/proc", "proc", &[]),
        mount("/sys", "sysfs", &["ro"]),
        mount("/dev", "tmpfs", &["nosuid", "mode=755"]),
        mount("/dev/pts", "devpts", &["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        mount("/dev/shm", "tmpfs", &["nosuid", "nodev", "mode=1777"]),
        mount("/tmp", "tmpfs", &["mode=1777"]),
    ];
    for v in &program.volumes {
        mounts.push(json!({"destination": v.target, "type": "bind", "source": v.source, "options": ["rbind", "rw"]}));
    }
    let namespaces: Vec<Value> = ["pid", "ipc", "uts", "mount", "network"]
        .iter()
        .map(|n| match &program.network {
            Some(path) if *n == "network" => json!({"type": n, "path": path}),
            _ => json!({"type": n}),
        })
        .collect();
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "terminal": terminal,
            "user": {"uid": 0, "gid": 0, "umask": 0o022},
            "args": program.args,
            "env": env,
            "cwd": "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": program.nofile.0, "hard": program.nofile.1}],
            "noNewPrivileges": false,
        },
        "root": {"path": program.root, "readonly": false},
        "hostname": HOSTNAME,
        "mounts": mounts,
        "linux": {"namespaces": namespaces},
    })
}

impl Program {
    /// Runs it in a sandbox of its own, on a platform.
    pub fn sandboxed(&self, platform: &str) -> Result<Output> {
        let bundle = Bundle::new(self, false)?;
        process::run(&mut bundle.command(platform)?, &self.stdin, self.timeout)
    }
}
