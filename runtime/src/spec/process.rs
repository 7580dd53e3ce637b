//! `process`: arguments, environment, user, limits.

use super::{bad, caps, guest_path};
use crate::exit::{Failure, Result, Status};
use control::{Credentials, Process, ResourceLimit, WindowSize};
use oci_spec::runtime::{PosixRlimitType, Process as OciProcess};

/// Checks and converts `process`.
pub fn convert(process: Option<&OciProcess>) -> Result<Process> {
    let process = process.ok_or_else(|| bad("process", "is missing"))?;
    let args = process.args().clone().unwrap_or_default();
    if args.first().is_none_or(String::is_empty) {
        return Err(Failure::new(Status::NoArgs, "process.args: is empty; it must name the program to run"));
    }
    let env = process.env().clone().unwrap_or_default();
    for (field, list) in [("process.args", &args), ("process.env", &env)] {
        if let Some(text) = list.iter().find(|text| text.contains('\0')) {
            return Err(bad(field, format_args!("{text:?} contains a zero byte")));
        }
    }
    if let Some(entry) = env.iter().find(|entry| !entry.contains('=')) {
        return Err(bad("process.env", format_args!("{entry:?} is not of the form NAME=value")));
    }
    let cwd = process.cwd().to_str().ok_or_else(|| bad("process.cwd", "is not UTF-8"))?;
    let user = process.user();
    if user.umask().is_some_and(|mask| mask > 0o777) {
        return Err(bad("process.user.umask", "is greater than 0777"));
    }
    Ok(Process {
        args,
        env,
        cwd: guest_path(cwd).map_err(|what| bad("process.cwd", what))?,
        credentials: Credentials {
            uid: user.uid(),
            gid: user.gid(),
            additional_gids: user.additional_gids().clone().unwrap_or_default(),
            umask: user.umask(),
        },
        capabilities: caps::convert(process.capabilities().as_ref())?,
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        rlimits: rlimits(process)?,
        init: true,
        terminal: process.terminal().unwrap_or(false),
        console_size: console_size(process)?,
        preserved: 0,
    })
}

/// Descriptors that a process gets besides its standard streams.
pub trait Preserve {
    /// Adds `count`, and what `LISTEN_FDS` says (sd_listen_fds(3)), which the process is then told.
    fn preserve(&mut self, count: u32) -> Result<()>;
}

impl Preserve for Process {
    fn preserve(&mut self, count: u32) -> Result<()> {
        let listening = match std::env::var("LISTEN_FDS") {
            Ok(text) => text
                .parse::<u32>()
                .map_err(|_| Failure::new(Status::Usage, format!("the variable LISTEN_FDS: {text:?} is not a number")))?,
            Err(_) => 0,
        };
        self.preserved = count.saturating_add(listening);
        if self.preserved > control::FdLayout::MAX_PRESERVED {
            let most = control::FdLayout::MAX_PRESERVED;
            return Err(Failure::new(Status::Usage, format!("--preserve-fds: more than {most} descriptors cannot be passed")));
        }
        if listening > 0 {
            self.env.push(format!("LISTEN_FDS={listening}"));
            self.env.push("LISTEN_PID=1".into());
        }
        Ok(())
    }
}

fn rlimits(process: &OciProcess) -> Result<Vec<ResourceLimit>> {
    let mut limits: Vec<ResourceLimit> = Vec::new();
    for (i, limit) in process.rlimits().iter().flatten().enumerate() {
        let field = format!("process.rlimits[{i}]");
        let resource = number(limit.typ());
        if limit.soft() > limit.hard() {
            return Err(bad(field, "soft is greater than hard"));
        }
        if limits.iter().any(|other| other.resource == resource) {
            return Err(bad(field, format_args!("{} is there twice", limit.typ())));
        }
        limits.push(ResourceLimit { resource, soft: limit.soft(), hard: limit.hard() });
    }
    Ok(limits)
}

/// `RLIMIT_*` of x86-64.
fn number(kind: PosixRlimitType) -> u32 {
    match kind {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}

fn console_size(process: &OciProcess) -> Result<Option<WindowSize>> {
    let Some(size) = process.console_size() else { return Ok(None) };
    let part = |n: u64| u16::try_from(n).map_err(|_| bad("process.consoleSize", "is greater than 65535"));
    Ok(Some(WindowSize { rows: part(size.height())?, cols: part(size.width())? }))
}
