//! `config.json`: loaded, checked field by field, and turned into what sentry and gofer need.
//!
//! [`load`] reads a bundle and gives a [`Plan`]. [`convert`] does the same for a specification made in memory (`caisson do`).
//! Whatever is wrong is a [`Failure`] that names the field.

mod caps;
mod hooks;
mod ids;
mod linux;
mod mounts;
mod namespaces;
mod process;

pub use caps::{ALL as ALL_CAPABILITIES, NAMES as CAPABILITIES, bit as capability};
pub use linux::of_resources as limits_of;
pub use mounts::{OPTIONS as MOUNT_OPTIONS, bind};
pub use process::{Preserve, convert as convert_process};

use crate::cli::Settings;
use crate::exit::{Failure, Result, Status};
use control::{BootSpec, Root};
use oci_spec::runtime::Spec;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The version of the OCI runtime specification that this follows.
pub const OCI_VERSION: &str = "1.2.0";

/// What `caisson spec` writes.
pub const DEFAULT_CONFIG: &str = include_str!("default.json");

/// The longest `config.json` that is read, in bytes.
const MAX_CONFIG: u64 = 16 << 20;

/// A container as runtime, gofer and sentry will see it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// For the sentry.
    pub boot: BootSpec,
    /// For the gofer: the host trees it serves. The first is the root file system.
    pub attaches: Vec<Attach>,
    /// The mount namespace to resolve host paths in, if it is not the caller's own.
    pub mount_namespace: Option<PathBuf>,
    /// Where its stand-in lives.
    pub network_namespace: NetworkNamespace,
    /// Namespaces that it shares, if they are a sandbox's: of processes, names and IPC.
    pub joined: Vec<(oci_spec::runtime::LinuxNamespaceType, PathBuf)>,
}

/// The network namespace of a container on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkNamespace {
    /// The caller's.
    Host,
    /// A new one.
    New,
    /// One that somebody else has made.
    Path(PathBuf),
}

/// A bundle that has been read.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// Its directory, absolute.
    pub dir: PathBuf,
    /// `config.json` as it is.
    pub text: Vec<u8>,
    /// `config.json` as it was understood.
    pub spec: Spec,
    /// What becomes of it.
    pub plan: Plan,
}

/// A host tree or file that the gofer serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attach {
    /// Absolute host path.
    pub source: PathBuf,
    /// The gofer refuses every change.
    pub readonly: bool,
    /// Mounts below the source are part of it.
    pub recursive: bool,
    /// Directories below the source that show nothing: file systems of the host's kernel.
    pub masked: Vec<PathBuf>,
    /// What the host mounts there later shows.
    pub follows_host: bool,
    /// Unix sockets of the host can be connected to.
    pub sockets: bool,
}

/// Loads the bundle in `bundle`.
pub fn load(bundle: &Path, id: &str, settings: &Settings) -> Result<Bundle> {
    let bundle = bundle
        .canonicalize()
        .map_err(|error| Failure::new(Status::NoBundle, format!("the bundle directory {}: {error}", bundle.display())))?;
    let path = bundle.join("config.json");
    let bytes = read(&path).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => {
            Failure::new(Status::NoConfig, format!("{} does not exist; caisson spec writes one", path.display()))
        }
        _ => Failure::new(Status::NoConfig, format!("cannot read {}: {error}", path.display())),
    })?;
    let spec = parse(&bytes).map_err(|f| Failure::new(f.status, format!("{}: {}", path.display(), f.message)))?;
    let plan = convert(&spec, &bundle, id, settings).map_err(|f| Failure::new(f.status, format!("{}: {}", path.display(), f.message)))?;
    Ok(Bundle { dir: bundle, text: bytes, spec, plan })
}

/// The process that a configuration describes.
pub fn process_of(spec: &Spec) -> Result<control::Process> {
    process::convert(spec.process().as_ref())
}

/// The process that a file describes (`exec --process`).
pub fn read_process(path: &Path) -> Result<oci_spec::runtime::Process> {
    let bytes = read(path).map_err(Failure::context(Status::NoConfig, path.display()))?;
    let mut json = serde_json::Deserializer::from_slice(&bytes);
    serde_path_to_error::deserialize(&mut json)
        .map_err(|error| Failure::new(Status::BadJson, format!("{}: {}: {}", path.display(), error.path(), error.inner())))
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_CONFIG + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_CONFIG {
        return Err(std::io::Error::new(ErrorKind::FileTooLarge, "longer than 16 MiB"));
    }
    Ok(bytes)
}

/// Parses the text of a `config.json`; what is malformed is named by its path.
pub fn parse(bytes: &[u8]) -> Result<Spec> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let spec: Spec = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = error.path().to_string();
        let place = if field == "." { String::new() } else { format!("{field}: ") };
        Failure::new(Status::BadJson, format!("{place}{}", error.into_inner()))
    })?;
    json.end().map_err(|error| Failure::new(Status::BadJson, error.to_string()))?;
    check_version(spec.version())?;
    Ok(spec)
}

/// Every version 1 is accepted: later ones add optional fields only.
fn check_version(version: &str) -> Result<()> {
    let mut parts = version.split(['.', '-', '+']);
    let number = |part: Option<&str>| part.and_then(|p| p.parse::<u32>().ok());
    match (number(parts.next()), number(parts.next()), number(parts.next())) {
        (Some(1), Some(_), Some(_)) => Ok(()),
        _ if version.is_empty() => Err(Failure::new(Status::BadVersion, "ociVersion is missing")),
        _ => Err(Failure::new(
            Status::BadVersion,
            format!("ociVersion: {version:?} is not supported; this runtime follows 1.0.0 to {OCI_VERSION}"),
        )),
    }
}

/// An error about one field.
fn bad(field: impl std::fmt::Display, what: impl std::fmt::Display) -> Failure {
    Failure::new(Status::BadField, format!("{field}: {what}"))
}

/// Turns a specification into a plan. Relative host paths start at `bundle`, which is absolute.
pub fn convert(spec: &Spec, bundle: &Path, id: &str, settings: &Settings) -> Result<Plan> {
    let process = process::convert(spec.process().as_ref())?;
    let root = spec.root().as_ref().ok_or_else(|| bad("root", "is missing"))?;
    let rootfs = resolve(bundle, root.path());
    if !rootfs.is_dir() {
        return Err(Failure::new(Status::NoRootfs, format!("root.path: {} is not a directory", rootfs.display())));
    }
    let readonly = root.readonly().unwrap_or(false);
    // Nothing is written to a read-only root but mount points: those are made in memory.
    let root_overlay = if readonly { control::Overlay::Memory } else { settings.root_overlay };
    let namespaces = namespaces::check(spec)?;
    hooks::check(spec)?;
    if let Some(resources) = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref()) {
        crate::cgroup::check(resources)?;
    }
    if let Some(linux) = spec.linux() {
        linux::refuse(linux)?;
    }
    warn_of_what_is_ignored(spec);
    let mut attaches =
        vec![Attach { source: rootfs, readonly: root_overlay == control::Overlay::Memory, recursive: true, ..Attach::default() }];
    let host_uds = host_uds(spec, settings)?;
    let mounts = mounts::convert(spec.mounts().as_deref().unwrap_or(&[]), bundle, settings, &mut attaches)?;
    attaches.iter_mut().skip(1).for_each(|volume| volume.sockets = host_uds);
    let linux = spec.linux().as_ref();
    let (uid_map, gid_map) = ids::convert(spec)?;
    let paths = |list: Option<&Vec<String>>, field: &str| -> Result<Vec<String>> {
        list.into_iter().flatten().map(|path| guest_path(path).map_err(|what| bad(field, what))).collect()
    };
    let boot = BootSpec {
        id: id.to_owned(),
        process,
        hostname: hostname(spec)?,
        domainname: name(spec.domainname().as_deref(), "domainname")?,
        root: Root { readonly, overlay: root_overlay },
        mounts,
        masked_paths: paths(linux.and_then(|l| l.masked_paths().as_ref()), "linux.maskedPaths")?,
        readonly_paths: paths(linux.and_then(|l| l.readonly_paths().as_ref()), "linux.readonlyPaths")?,
        devices: linux::devices(linux)?,
        sysctl: linux::sysctl(linux)?,
        seccomp: linux::seccomp(linux)?,
        limits: linux::limits(linux),
        uid_map,
        gid_map,
        notify: false,
        platform: settings.platform,
        network: settings.network,
        interfaces: Vec::new(),
        routes: Vec::new(),
        strace: settings.strace,
    };
    Ok(Plan { boot, attaches, mount_namespace: namespaces.mount, network_namespace: namespaces.network, joined: namespaces.joined })
}

/// The annotation that stands for `--host-uds`.
pub const HOST_UDS: &str = "io.caisson.host-uds";

/// Whether sockets of the host in volumes can be connected to.
fn host_uds(spec: &Spec, settings: &Settings) -> Result<bool> {
    let annotation = spec.annotations().as_ref().and_then(|all| all.get(HOST_UDS));
    let Some(value) = annotation else { return Ok(settings.host_uds) };
    crate::cli::host_uds(value)
        .ok_or_else(|| bad(format_args!("annotations[{HOST_UDS:?}]"), format_args!("{value:?} is neither none nor open")))
}

/// Why something has no effect.
const NO_CALLS: &str = "it judges calls to the host, and the application makes none";
const NO_SCHEDULER: &str = "the host schedules the sandbox as a whole";
const NO_DEVICE: &str = "the application cannot reach such a device";

/// Says which parts of the configuration have no effect here, so that nobody relies on them unawares. Engines write some for every container.
fn warn_of_what_is_ignored(spec: &Spec) {
    let linux = spec.linux().as_ref();
    let process = spec.process().as_ref();
    let named = |text: Option<&String>| text.is_some_and(|text| !text.is_empty());
    let rdma = linux.and_then(|l| l.resources().as_ref()?.rdma().as_ref()).is_some_and(|limits| !limits.is_empty());
    let ignored = [
        ("process.apparmorProfile", named(process.and_then(|p| p.apparmor_profile().as_ref())), NO_CALLS),
        ("process.selinuxLabel", named(process.and_then(|p| p.selinux_label().as_ref())), NO_CALLS),
        ("linux.mountLabel", named(linux.and_then(|l| l.mount_label().as_ref())), NO_CALLS),
        ("process.scheduler", process.is_some_and(|p| p.scheduler().is_some()), NO_SCHEDULER),
        ("process.ioPriority", process.is_some_and(|p| p.io_priority().is_some()), NO_SCHEDULER),
        ("process.execCPUAffinity", process.is_some_and(|p| p.exec_cpu_affinity().is_some()), NO_SCHEDULER),
        ("linux.resources.rdma", rdma, NO_DEVICE),
    ];
    for (field, _, why) in ignored.iter().filter(|(_, set, _)| *set) {
        tracing::warn!("{field} of config.json has no effect: {why}");
    }
}

/// `path` as an absolute host path, relative ones starting at `bundle`.
fn resolve(bundle: &Path, path: &Path) -> PathBuf {
    bundle.join(path)
}

/// Checks that a path inside the container is absolute, and gives it without `.`, `..` and double slashes.
pub fn guest_path(path: &str) -> Result<String, String> {
    if !path.starts_with('/') {
        return Err(format!("{path:?} is not an absolute path"));
    }
    if path.contains('\0') {
        return Err(format!("{path:?} contains a zero byte"));
    }
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    Ok(format!("/{}", parts.join("/")))
}

/// A host or domain name: at most 64 bytes, as in `struct utsname`.
/// The name of the host where the configuration has none: a new UTS namespace begins with it, and without one it is seen anyhow.
fn hostname(spec: &Spec) -> Result<String> {
    match spec.hostname().as_deref() {
        None | Some("") => Ok(rustix::system::uname().nodename().to_string_lossy().into_owned()),
        given => name(given, "hostname"),
    }
}

fn name(name: Option<&str>, field: &str) -> Result<String> {
    let name = name.unwrap_or_default();
    if name.len() > 64 || name.contains('\0') {
        return Err(bad(field, "is longer than 64 bytes or contains a zero byte"));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub use tests::with_state_root as test_settings;
