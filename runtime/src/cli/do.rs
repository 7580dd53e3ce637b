//! `caisson do`: one command in a fresh sandbox over the host's files. What it writes is kept in the sentry's memory, and gone
//! at the end.

use super::Settings;
use crate::console::{self, Proxy};
use crate::exit::{Failure, Result, Status, of_wait_status};
use crate::logging::Log;
use crate::sandbox::{self, Monitor, Streams};
use crate::spec::{self, Attach, NetworkNamespace, Plan};
use control::{BootSpec, Capabilities, Credentials, Limits, Mount, MountFlags, MountKind, Overlay, Process, ResourceLimit, Root};
use rustix::process::{Resource, getrlimit};
use rustix::termios::isatty;
use std::path::{Path, PathBuf};

/// Flags of `caisson do`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory that the command sees as its root [default: the host's]
    #[arg(id = "tree", long = "root", value_name = "DIR")]
    root: Option<PathBuf>,
    /// Working directory inside [default: the current one, or / with --root]
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// A variable of the environment, besides the caller's own (with --root: besides PATH, HOME and TERM)
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// A host file or directory to be seen, and written, at another place
    #[arg(short, long, value_name = "SRC:DST[:ro]")]
    volume: Vec<String>,
    /// The command
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Runs the command. The result is its exit status.
pub fn main(args: &Args, settings: &Settings, log: &Log) -> Result {
    let plan = plan(args, settings)?;
    let signals = sandbox::take_signals()?;
    let (terminal, proxy) = if plan.boot.process.terminal {
        let (master, slave) = console::open(plan.boot.process.console_size)?;
        (Some(slave), Some(Proxy::new(master)?))
    } else {
        (None, None)
    };
    let streams = Streams { terminal, preserved: Vec::new() };
    let network = if settings.network == control::Network::Host { sandbox::look()? } else { sandbox::TakenOver::default() };
    let sandbox = sandbox::start(&plan, streams, None, network, log, settings.rootless)?;
    Monitor::of_sandbox(sandbox, signals, proxy, false).run().map(of_wait_status)
}

fn plan(args: &Args, settings: &Settings) -> Result<Plan> {
    let root = args.root.clone().unwrap_or_else(|| "/".into());
    let root = root
        .canonicalize()
        .ok()
        .filter(|path| path.is_dir())
        .ok_or_else(|| Failure::new(Status::NoRootfs, format!("--root: {} is not a directory", root.display())))?;
    // The host's own /proc, /sys and /dev lie under the sandbox's; the gofer shall not reach them either.
    let masked = ["proc", "sys", "dev"].map(Into::into).to_vec();
    let mut attaches = vec![Attach { source: root, readonly: true, recursive: true, masked, ..Attach::default() }];
    let mut mounts = system_mounts();
    for volume in &args.volume {
        mounts.push(self::volume(volume, settings, &mut attaches)?);
    }
    let uname = rustix::system::uname();
    let boot = BootSpec {
        id: format!("do-{}", std::process::id()),
        process: process(args, settings)?,
        hostname: uname.nodename().to_string_lossy().into_owned(),
        domainname: String::new(),
        root: Root { readonly: false, overlay: Overlay::Memory },
        mounts,
        masked_paths: Vec::new(),
        readonly_paths: Vec::new(),
        devices: Vec::new(),
        sysctl: Vec::new(),
        seccomp: None,
        limits: Limits::default(),
        uid_map: Vec::new(),
        gid_map: Vec::new(),
        notify: false,
        platform: settings.platform,
        network: settings.network,
        interfaces: Vec::new(),
        routes: Vec::new(),
        strace: settings.strace,
    };
    Ok(Plan { boot, attaches, mount_namespace: None, network_namespace: NetworkNamespace::Host, joined: Vec::new() })
}

fn process(args: &Args, settings: &Settings) -> Result<Process> {
    // Without privileges the caller's own files appear as root's: the one user that can be mapped.
    let (uid, gid, additional_gids) = if settings.rootless {
        (0, 0, Vec::new())
    } else {
        let groups = rustix::process::getgroups().map_err(Failure::internal("getgroups"))?;
        (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw(), groups.into_iter().map(|group| group.as_raw()).collect())
    };
    let umask = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(umask);
    Ok(Process {
        args: args.command.clone(),
        env: environment(args)?,
        cwd: cwd(args)?,
        credentials: Credentials { uid, gid, additional_gids, umask: Some(umask.as_raw_mode()) },
        capabilities: Capabilities::all_of(if uid == 0 { spec::ALL_CAPABILITIES } else { 0 }),
        no_new_privileges: false,
        rlimits: own_limits(),
        // It shall behave as it does without a sandbox: Ctrl-C ends it.
        init: false,
        terminal: isatty(rustix::stdio::stdin()) && isatty(rustix::stdio::stdout()),
        console_size: None,
        preserved: 0,
    })
}

fn cwd(args: &Args) -> Result<String> {
    let cwd = match (&args.cwd, &args.root) {
        (Some(cwd), _) => cwd.clone(),
        (None, Some(_)) => "/".into(),
        (None, None) => std::env::current_dir().ok().and_then(|dir| dir.into_os_string().into_string().ok()).unwrap_or_else(|| "/".into()),
    };
    spec::guest_path(&cwd).map_err(|what| Failure::new(Status::Usage, format!("--cwd: {what}")))
}

/// The caller's environment where the command runs on the caller's files, and a small one elsewhere; then `--env`.
fn environment(args: &Args) -> Result<Vec<String>> {
    let mut env: Vec<(String, String)> = if args.root.is_none() {
        // A variable that is not UTF-8 stays outside.
        std::env::vars_os().filter_map(|(n, v)| Some((n.into_string().ok()?, v.into_string().ok()?))).collect()
    } else {
        let term = std::env::var("TERM").unwrap_or_else(|_| "xterm".into());
        vec![
            ("PATH".into(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()),
            ("HOME".into(), "/root".into()),
            ("TERM".into(), term),
        ]
    };
    for variable in &args.env {
        let (name, value) = variable
            .split_once('=')
            .ok_or_else(|| Failure::new(Status::Usage, format!("--env: {variable:?} is not of the form NAME=VALUE")))?;
        env.retain(|(other, _)| other != name);
        env.push((name.into(), value.into()));
    }
    Ok(env.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
}

/// The limits that the caller has; the command shall not notice a difference.
fn own_limits() -> Vec<ResourceLimit> {
    let all = [
        (Resource::Cpu, libc::RLIMIT_CPU),
        (Resource::Fsize, libc::RLIMIT_FSIZE),
        (Resource::Data, libc::RLIMIT_DATA),
        (Resource::Stack, libc::RLIMIT_STACK),
        (Resource::Core, libc::RLIMIT_CORE),
        (Resource::Rss, libc::RLIMIT_RSS),
        (Resource::Nproc, libc::RLIMIT_NPROC),
        (Resource::Nofile, libc::RLIMIT_NOFILE),
        (Resource::Memlock, libc::RLIMIT_MEMLOCK),
        (Resource::As, libc::RLIMIT_AS),
        (Resource::Locks, libc::RLIMIT_LOCKS),
        (Resource::Sigpending, libc::RLIMIT_SIGPENDING),
        (Resource::Msgqueue, libc::RLIMIT_MSGQUEUE),
        (Resource::Nice, libc::RLIMIT_NICE),
        (Resource::Rtprio, libc::RLIMIT_RTPRIO),
        (Resource::Rttime, libc::RLIMIT_RTTIME),
    ];
    all.into_iter()
        .map(|(resource, number)| {
            let limit = getrlimit(resource);
            let infinity = u64::MAX;
            ResourceLimit { resource: number, soft: limit.current.unwrap_or(infinity), hard: limit.maximum.unwrap_or(infinity) }
        })
        .collect()
}

/// What every program expects besides files.
fn system_mounts() -> Vec<Mount> {
    let mount = |destination: &str, kind, data: &[&str]| Mount {
        destination: destination.into(),
        kind,
        flags: MountFlags { nosuid: true, ..MountFlags::default() },
        data: data.iter().map(|text| (*text).to_owned()).collect(),
    };
    let mut sys = mount("/sys", MountKind::Sysfs, &[]);
    sys.flags.readonly = true;
    vec![
        mount("/proc", MountKind::Proc, &[]),
        sys,
        mount("/dev", MountKind::Dev, &["mode=755"]),
        mount("/dev/pts", MountKind::Devpts, &["ptmxmode=0666", "mode=0620", "gid=5"]),
        mount("/dev/shm", MountKind::Tmpfs, &["mode=1777"]),
        mount("/dev/mqueue", MountKind::Mqueue, &[]),
    ]
}

/// `SRC:DST[:ro]`.
fn volume(text: &str, settings: &Settings, attaches: &mut Vec<Attach>) -> Result<Mount> {
    let usage = |what: &str| Failure::new(Status::Usage, format!("--volume {text}: {what}"));
    let mut parts = text.split(':');
    let (Some(source), Some(destination)) = (parts.next(), parts.next()) else {
        return Err(usage("is not of the form SRC:DST[:ro]"));
    };
    let readonly = match (parts.next(), parts.next()) {
        (None | Some("rw"), None) => false,
        (Some("ro"), None) => true,
        _ => return Err(usage("the third part can be ro or rw only")),
    };
    let destination = spec::guest_path(destination).map_err(|what| usage(&what))?;
    let source = std::path::absolute(Path::new(source)).map_err(|error| usage(&error.to_string()))?;
    let flags = MountFlags { readonly, ..MountFlags::default() };
    spec::bind(&format!("--volume {text}"), source, destination, flags, true, settings, attaches)
}
