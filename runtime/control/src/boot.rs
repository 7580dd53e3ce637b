//! The boot specification: a container as the sentry sees it, already validated by the runtime.

use crate::message::Error;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};

/// Where an application finds the socket of its service manager: as with runc, alone in its directory.
pub const NOTIFY_SOCKET: &str = "/run/notify/notify.sock";

/// Everything a sentry needs to boot one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootSpec {
    /// The container's ID, for log lines.
    pub id: String,
    /// The first process.
    pub process: Process,
    /// `uname -n`; empty: the sentry's default.
    pub hostname: String,
    /// The NIS domain name; empty: `(none)`.
    pub domainname: String,
    /// The root file system.
    pub root: Root,
    /// Further mounts, in the order in which they are made.
    pub mounts: Vec<Mount>,
    /// Absolute guest paths that are hidden.
    pub masked_paths: Vec<String>,
    /// Absolute guest paths that are made read-only.
    pub readonly_paths: Vec<String>,
    /// Device nodes besides those that every container has.
    pub devices: Vec<Device>,
    /// Values for files below `/proc/sys`, by names with dots.
    pub sysctl: Vec<(String, String)>,
    /// What processes may call.
    pub seccomp: Option<Seccomp>,
    /// What the sandbox may use.
    pub limits: Limits,
    /// Which IDs of the host stand behind those of users; empty: the same. The gofer translates, the sentry only tells.
    #[serde(default)]
    pub uid_map: Vec<IdRange>,
    /// The same of groups.
    #[serde(default)]
    pub gid_map: Vec<IdRange>,
    /// The application tells at [`NOTIFY_SOCKET`] when it is ready.
    #[serde(default)]
    pub notify: bool,
    /// How application code runs.
    pub platform: Platform,
    /// What network the application sees.
    pub network: Network,
    /// With [`Network::Sandbox`]: interfaces that the sentry takes over, their packet sockets being [`FdLayout::NETWORK`] and those after.
    #[serde(default)]
    pub interfaces: Vec<Interface>,
    /// Routes over them.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Log every system call.
    pub strace: bool,
}

/// The first process of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// `argv`; never empty. `args[0]` is looked up along `PATH` of `env` if it has no slash.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Absolute guest path.
    pub cwd: String,
    /// Users, groups, umask.
    pub credentials: Credentials,
    /// Capability sets.
    pub capabilities: Capabilities,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privileges: bool,
    /// Limits that differ from the sentry's defaults.
    pub rlimits: Vec<ResourceLimit>,
    /// Whether it is protected, as an init is, from signals whose default action it has not changed (pid_namespaces(7)).
    pub init: bool,
    /// Whether the process gets a terminal (a guest devpts one, bridged to the host's) instead of the sentry's stdio.
    pub terminal: bool,
    /// The terminal's first size.
    pub console_size: Option<WindowSize>,
    /// Further descriptors that the process finds open, from 3 on: `LISTEN_FDS` and `--preserve-fds`.
    pub preserved: u32,
}

/// User and groups of the first process, as guest numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub additional_gids: Vec<u32>,
    /// File mode creation mask; absent: `0o022`.
    pub umask: Option<u32>,
}

/// The five capability sets (capabilities(7)), bit n being capability n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    /// What execve can ever give.
    pub bounding: u64,
    /// What is in force.
    pub effective: u64,
    /// What survives execve with file capabilities.
    pub inheritable: u64,
    /// What can be raised into effective.
    pub permitted: u64,
    /// What survives execve without privileges.
    pub ambient: u64,
}

impl Capabilities {
    /// All five sets are `mask`, except that ambient stays empty.
    #[must_use]
    pub const fn all_of(mask: u64) -> Capabilities {
        Capabilities { bounding: mask, effective: mask, inheritable: 0, permitted: mask, ambient: 0 }
    }
}

/// One resource limit (getrlimit(2)); `!0` is infinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResourceLimit {
    /// `RLIMIT_*` as a number of x86-64.
    pub resource: u32,
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub cols: u16,
}

/// The root file system: the gofer's attach point 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// Whether the application sees it read-only.
    pub readonly: bool,
    /// Where writes go.
    pub overlay: Overlay,
}

/// Where writes to a host tree go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overlay {
    /// To the host, through the gofer.
    None,
    /// To an upper layer in the sentry's memory, gone at the end.
    Memory,
}

/// A mount of the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// Absolute guest path; made if it does not exist.
    pub destination: String,
    /// What is mounted.
    pub kind: MountKind,
    /// Mount flags.
    pub flags: MountFlags,
    /// The file system's own options, such as `size=64m` or `mode=755`.
    pub data: Vec<String>,
}

/// What a [`Mount`] mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MountKind {
    /// A host tree or file: an attach point of the gofer.
    Bind {
        /// Its index in the gofer's list; the root is 0.
        attach: u32,
        /// Whether it is a directory (else a file).
        directory: bool,
        /// Where writes go.
        overlay: Overlay,
    },
    /// proc(5).
    Proc,
    /// sysfs(5).
    Sysfs,
    /// tmpfs(5).
    Tmpfs,
    /// The sentry's own `/dev`: null, zero, full, random, urandom, tty, and the links every program expects.
    Dev,
    /// pts(4).
    Devpts,
    /// mq_overview(7).
    Mqueue,
    /// The container's own control group.
    Cgroup,
}

/// Mount flags (mount(8)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct MountFlags {
    pub readonly: bool,
    pub nosuid: bool,
    pub nodev: bool,
    pub noexec: bool,
    pub noatime: bool,
}

/// A device node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Absolute guest path.
    pub path: String,
    /// File type and permissions, as mknod(2) takes them.
    pub mode: u32,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A profile of system calls (seccomp(2)).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seccomp {
    /// `SECCOMP_RET_*` with a value, for what no rule is about.
    pub default: u32,
    /// The first one that applies decides.
    pub rules: Vec<SeccompRule>,
}

/// A rule about some calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeccompRule {
    /// Linux's names; those that the sentry does not know are passed over.
    pub names: Vec<String>,
    /// `SECCOMP_RET_*` with a value.
    pub action: u32,
    /// Conditions, all of which must hold.
    pub args: Vec<SeccompArg>,
}

/// A condition on an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeccompArg {
    /// 0 to 5.
    pub index: u8,
    /// How it is compared.
    pub op: SeccompOp,
    /// With what.
    pub value: u64,
    /// With [`SeccompOp::MaskedEq`], what is left after masking with `value`.
    pub value_two: u64,
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum SeccompOp {
    Ne,
    Lt,
    Le,
    Eq,
    Ge,
    Gt,
    MaskedEq,
}

/// A line of a map of IDs (user_namespaces(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdRange {
    /// The first ID in the container.
    pub inside: u32,
    /// The first one on the host.
    pub outside: u32,
    /// How many.
    pub size: u32,
}

/// What a sandbox may use; the host's control groups hold it to that, and the application sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Processors, rounded up.
    pub cpus: Option<u32>,
    /// Microseconds of processor time, and in which period.
    pub cpu_quota: Option<(u64, u64)>,
    /// Processes and threads.
    pub tasks: Option<u64>,
}

/// How application code runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Platform {
    /// `Trap`, or where the host does not allow that, `Ptrace`.
    Auto,
    Ptrace,
    Trap,
    /// The same, handing over by futexes: what `Trap` does where the host has nothing better. For tests.
    #[serde(rename = "trap:futex")]
    TrapFutex,
    /// The same, looking for calls in turns with others from the first one on: what `Trap` does where more threads than processors call often. For tests.
    #[serde(rename = "trap:turns")]
    TrapTurns,
    Kvm,
}

/// What network the application sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Loopback alone.
    None,
    /// The host's sockets, passed through.
    Host,
    /// The sentry's own stack.
    Sandbox,
}

/// An interface of the container's network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// The largest packet.
    pub mtu: u32,
    /// What it is reached at.
    pub addresses: Vec<Address>,
    /// Neighbours whose Ethernet address is fixed.
    pub neighbours: Vec<(IpAddr, [u8; 6])>,
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Bits of its network.
    pub prefix: u8,
    /// Where broadcasts go (IPv4).
    pub broadcast: Option<Ipv4Addr>,
    /// `RT_SCOPE_*`
    pub scope: u8,
}

/// A route: rtnetlink(7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Route {
    pub dst: IpAddr,
    pub prefix: u8,
    pub gateway: Option<IpAddr>,
    /// Index of the interface.
    pub device: u32,
    pub source: Option<IpAddr>,
    pub metric: u32,
    pub mtu: Option<u32>,
    pub protocol: u8,
    pub scope: u8,
    /// `RTN_*`
    pub kind: u8,
}

/// The descriptors a sentry finds open when it starts, besides 0, 1 and 2. All others are closed.
#[derive(Clone, Copy, Debug)]
pub struct FdLayout;

impl FdLayout {
    /// The boot specification: a sealed memory file.
    pub const SPEC: i32 = 3;
    /// The control socket.
    pub const CONTROL: i32 = 4;
    /// The connection to the gofer.
    pub const GOFER: i32 = 5;
    /// Where log lines go.
    pub const LOG: i32 = 6;
    /// The host terminal's slave side, if [`Process::terminal`].
    pub const TERMINAL: i32 = 7;
    /// A listening socket, where verbs other than the one that started the sentry ask.
    pub const LISTENER: i32 = 8;
    /// The application's standard input, output and error, if not [`Process::terminal`].
    pub const STREAMS: [i32; 3] = [9, 10, 11];
    /// The first of [`Process::preserved`].
    pub const PRESERVED: i32 = 12;
    /// How many of [`Process::preserved`] there can be.
    pub const MAX_PRESERVED: u32 = 48;
    /// The first of the packet sockets of [`BootSpec::interfaces`].
    pub const NETWORK: i32 = 64;
    /// How many interfaces there can be.
    pub const MAX_INTERFACES: usize = 32;
    /// A socket connected to the engine's name server on loopback in the container's network namespace, if it has one.
    pub const RESOLVER: i32 = 96;
}

/// A further container in a running sandbox: one of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinSpec {
    /// The container. Its platform, network and interfaces are the sandbox's, whatever is said here.
    pub container: BootSpec,
    /// What it shares.
    pub shared: SharedNamespaces,
}

/// Names of containers in the same sandbox whose namespaces another one shares. Of those that nobody is named for it gets its own; the
/// network is the sandbox's in any case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SharedNamespaces {
    /// Processes.
    pub pid: Option<String>,
    /// Host name.
    pub uts: Option<String>,
    /// System V IPC and POSIX message queues.
    pub ipc: Option<String>,
}

impl JoinSpec {
    /// Parses and checks what the runtime wrote.
    pub fn from_json(bytes: &[u8]) -> Result<JoinSpec, Error> {
        let spec: JoinSpec = serde_json::from_slice(bytes)?;
        spec.container.check()?;
        Ok(spec)
    }

    /// The JSON that [`from_json`](Self::from_json) reads.
    pub fn to_json(&self) -> Result<Vec<u8>, Error> {
        Ok(serde_json::to_vec(self)?)
    }
}

/// A further process of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecSpec {
    /// The process.
    pub process: Process,
}

impl ExecSpec {
    /// Parses and checks what the runtime wrote.
    pub fn from_json(bytes: &[u8]) -> Result<ExecSpec, Error> {
        let spec: ExecSpec = serde_json::from_slice(bytes)?;
        spec.process.check()?;
        Ok(spec)
    }

    /// The JSON that [`from_json`](Self::from_json) reads.
    pub fn to_json(&self) -> Result<Vec<u8>, Error> {
        Ok(serde_json::to_vec(self)?)
    }
}

impl Process {
    /// What the sentry relies on beyond the types.
    fn check(&self) -> Result<(), Error> {
        if self.args.is_empty() {
            return Err(Error::Invalid("process.args"));
        }
        if self.args.iter().chain(&self.env).any(|s| s.contains('\0')) {
            return Err(Error::Invalid("process.args or process.env"));
        }
        if self.preserved > FdLayout::MAX_PRESERVED {
            return Err(Error::Invalid("process.preserved"));
        }
        absolute("process.cwd", &self.cwd)
    }
}

fn absolute(what: &'static str, path: &str) -> Result<(), Error> {
    if path.starts_with('/') && !path.contains('\0') { Ok(()) } else { Err(Error::Invalid(what)) }
}

impl BootSpec {
    /// Parses and checks what the runtime wrote.
    pub fn from_json(bytes: &[u8]) -> Result<BootSpec, Error> {
        let spec: BootSpec = serde_json::from_slice(bytes)?;
        spec.check()?;
        Ok(spec)
    }

    /// The JSON that [`from_json`](Self::from_json) reads.
    pub fn to_json(&self) -> Result<Vec<u8>, Error> {
        Ok(serde_json::to_vec(self)?)
    }

    /// What the sentry relies on beyond the types.
    fn check(&self) -> Result<(), Error> {
        self.process.check()?;
        if self.interfaces.len() > FdLayout::MAX_INTERFACES {
            return Err(Error::Invalid("interfaces"));
        }
        for mount in &self.mounts {
            absolute("mounts.destination", &mount.destination)?;
        }
        for device in &self.devices {
            absolute("devices", &device.path)?;
        }
        if self.seccomp.iter().flat_map(|profile| &profile.rules).flat_map(|rule| &rule.args).any(|arg| arg.index > 5) {
            return Err(Error::Invalid("seccomp"));
        }
        for path in &self.masked_paths {
            absolute("masked_paths", path)?;
        }
        for path in &self.readonly_paths {
            absolute("readonly_paths", path)?;
        }
        Ok(())
    }
}
