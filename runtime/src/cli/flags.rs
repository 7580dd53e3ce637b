//! Global flags, and what they mean.

use crate::exit::{Failure, Result, Status};
use crate::logging::Log;
use control::logging::Format;
use control::{Network, Overlay, Platform};
use std::path::{Path, PathBuf};
use tracing::level_filters::LevelFilter;

/// The flags before the verb, as given.
#[derive(Debug, clap::Args)]
pub struct Globals {
    /// Directory for the state of containers [default: /run/caisson, or $XDG_RUNTIME_DIR/caisson without root]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// File for log lines [default: standard error]
    #[arg(long, value_name = "FILE", global = true)]
    log: Option<PathBuf>,
    /// Format of log lines: text or json
    #[arg(long, value_name = "FORMAT", default_value = "text", global = true)]
    log_format: String,
    /// Log debug messages
    #[arg(long, global = true)]
    debug: bool,
    /// How application code runs: auto (trap where the host allows it, else ptrace), ptrace, trap or kvm
    #[arg(long, value_name = "PLATFORM", default_value = "auto", global = true)]
    platform: String,
    /// What network the application sees: none, host or sandbox
    #[arg(long, value_name = "NETWORK", default_value = "sandbox", global = true)]
    network: String,
    /// Where writes to host files go: none (to the host), root:memory or all:memory
    #[arg(long, visible_alias = "overlay2", value_name = "OVERLAY", default_value = "root:memory", global = true)]
    overlay: String,
    /// Whether unix sockets of the host in volumes can be connected to: none or open
    #[arg(long, value_name = "WHICH", default_value = "none", global = true)]
    host_uds: String,
    /// Run without privileges of the host: true, false or auto
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "auto",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        global = true
    )]
    rootless: String,
    /// Make control groups through systemd; linux.cgroupsPath is of the form slice:prefix:name
    #[arg(long, global = true)]
    systemd_cgroup: bool,
    /// Accepted as runc accepts it: there is no checkpoint
    #[arg(long, value_name = "FILE", hide = true)]
    criu: Option<PathBuf>,
    /// Log every system call of the application
    #[arg(long, global = true)]
    strace: bool,
}

/// What the global flags mean for a container.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the state of containers is kept.
    pub state_root: PathBuf,
    /// How application code runs.
    pub platform: Platform,
    /// What network the application sees.
    pub network: Network,
    /// Where writes to the root file system go.
    pub root_overlay: Overlay,
    /// Where writes to bind mounts go.
    pub bind_overlay: Overlay,
    /// Whether unix sockets of the host in volumes can be connected to.
    pub host_uds: bool,
    /// Whether we have no privileges on the host, or shall not use them.
    pub rootless: bool,
    /// Whether control groups are made through systemd.
    pub systemd_cgroup: bool,
    /// Log system calls.
    pub strace: bool,
}

impl Globals {
    /// Opens the log that the flags ask for.
    pub fn log(&self) -> Result<Log> {
        let format = Format::parse(&self.log_format)
            .ok_or_else(|| Failure::new(Status::Usage, format!("--log-format: {:?} is neither text nor json", self.log_format)))?;
        let verbose = match (self.debug, self.strace) {
            (true, _) => Some(LevelFilter::DEBUG),
            (false, true) => Some(LevelFilter::INFO),
            (false, false) => None,
        };
        Log::open(self.log.as_deref(), format, verbose)
    }

    /// Whether the flag says so.
    pub fn asks_for_rootless(&self) -> bool {
        self.rootless == "true"
    }

    /// `--rootless`, with `auto` decided.
    fn rootless(&self) -> Result<bool> {
        match self.rootless.as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            "auto" => Ok(!rustix::process::geteuid().is_root()),
            other => Err(Failure::new(Status::Usage, format!("--rootless: {other:?} is none of true, false and auto"))),
        }
    }

    /// Checks the flags that containers depend on.
    pub fn settings(&self) -> Result<Settings> {
        let rootless = self.rootless()?;
        let (root_overlay, bind_overlay) = overlay(&self.overlay)?;
        if self.systemd_cgroup {
            // sd_booted(3)
            let missing = match (Path::new("/run/systemd/system").is_dir(), rootless) {
                (false, _) => Some("systemd does not run on this host; leave the flag away"),
                (true, true) => Some("only root can have systemd make control groups; leave the flag away"),
                (true, false) => None,
            };
            if let Some(what) = missing {
                return Err(Failure::new(Status::Host, format!("--systemd-cgroup: {what}")));
            }
        }
        Ok(Settings {
            state_root: self.root.clone().unwrap_or_else(|| default_state_root(rootless)),
            platform: platform(&self.platform)?,
            network: network(&self.network)?,
            root_overlay,
            bind_overlay,
            host_uds: host_uds(&self.host_uds)
                .ok_or_else(|| Failure::new(Status::Usage, format!("--host-uds: {:?} is neither none nor open", self.host_uds)))?,
            rootless,
            systemd_cgroup: self.systemd_cgroup,
            strace: self.strace,
        })
    }
}

/// The log that a command line names which cannot be understood otherwise: whoever wrote the flags reads there what is wrong with them.
pub fn log_of(args: &[String]) -> Option<Log> {
    let value = |flag: &str| {
        let place = args.iter().position(|arg| arg == flag || arg.strip_prefix(flag).is_some_and(|rest| rest.starts_with('=')))?;
        args[place].split_once('=').map(|(_, value)| value).or_else(|| args.get(place + 1).map(String::as_str))
    };
    let format = value("--log-format").and_then(Format::parse).unwrap_or(Format::Text);
    Log::open(Some(Path::new(value("--log")?)), format, None).ok()
}

fn platform(name: &str) -> Result<Platform> {
    match name {
        "auto" => Ok(Platform::Auto),
        "ptrace" => Ok(Platform::Ptrace),
        "trap" => Ok(Platform::Trap),
        "trap:futex" => Ok(Platform::TrapFutex),
        "trap:turns" => Ok(Platform::TrapTurns),
        "kvm" => {
            std::fs::File::options().read(true).write(true).open("/dev/kvm").map_err(|error| {
                Failure::new(Status::NoKvm, format!("--platform=kvm: /dev/kvm: {error}; load the kvm module or use --platform=ptrace"))
            })?;
            Err(not_built("kvm"))
        }
        other => Err(Failure::new(Status::UnknownPlatform, format!("--platform: {other:?} is no platform; use auto, ptrace, trap or kvm"))),
    }
}

fn not_built(name: &str) -> Failure {
    Failure::new(Status::PlatformNotBuilt, format!("--platform={name}: this build has no platform {name}; use --platform=ptrace"))
}

fn network(name: &str) -> Result<Network> {
    match name {
        "none" => Ok(Network::None),
        "host" => Ok(Network::Host),
        "sandbox" => Ok(Network::Sandbox),
        other => Err(Failure::new(Status::Usage, format!("--network: {other:?} is none of none, host and sandbox"))),
    }
}

/// Whether sockets of the host can be connected to, as the flag and the annotation say it.
pub fn host_uds(value: &str) -> Option<bool> {
    match value {
        "none" => Some(false),
        "open" => Some(true),
        _ => None,
    }
}

fn overlay(name: &str) -> Result<(Overlay, Overlay)> {
    match name {
        "none" => Ok((Overlay::None, Overlay::None)),
        "root:memory" => Ok((Overlay::Memory, Overlay::None)),
        "all:memory" => Ok((Overlay::Memory, Overlay::Memory)),
        other => Err(Failure::new(Status::Usage, format!("--overlay: {other:?} is none of none, root:memory and all:memory"))),
    }
}

/// Like runc: a system directory for root, the user's own otherwise.
fn default_state_root(rootless: bool) -> PathBuf {
    if !rootless {
        return PathBuf::from("/run/caisson");
    }
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir).join("caisson"),
        None => PathBuf::from(format!("/tmp/caisson-{}", rustix::process::geteuid().as_raw())),
    }
}
