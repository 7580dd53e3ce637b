//! `caisson sentry`: the process that holds the kernel.
//!
//! [`main`] gives up everything it does not need ([`jail`]), confines itself ([`filter`]), boots a kernel from what the runtime
//! wrote down ([`boot`]), and serves the runtime's requests until the application ends ([`server`]). The order matters, and is
//! all in [`run`]: names of the host are gone before the platform makes its first process, and the filter is in force before
//! the application's first instruction.

mod boot;
mod filter;
mod forward;
mod jail;
mod panic;
mod server;
mod signals;
mod terminal;

use control::logging::Format;
use control::{BootSpec, FailureKind, FdLayout, Network, Platform};
use std::fs::File;
use std::sync::Arc;
use tracing::level_filters::LevelFilter;

/// Exit status of a sentry that has reported a failure over the control socket, or could not.
const FAILED: i32 = 125;

/// Entry point; the result is the process's exit status. The application's own travels over the control socket.
pub fn main(args: &[String]) -> i32 {
    let server = match host::inherit::take(FdLayout::CONTROL) {
        Ok(socket) => server::Server::new(socket),
        Err(error) => {
            eprintln!("caisson: caisson sentry is started by caisson run, not by hand: {error}");
            return FAILED;
        }
    };
    match run(args, &server) {
        Ok(wait_status) => {
            server.exited(wait_status);
            0
        }
        Err(failure) => {
            server.failed(failure.kind, &failure.message);
            FAILED
        }
    }
}

/// The system call table as text, for `caisson syscalls`.
#[must_use]
pub fn syscall_table(markdown: bool) -> String {
    if markdown { syscalls::report::markdown() } else { syscalls::report::plain() }
}

/// Why the sentry gives up.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: FailureKind,
    message: String,
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, message: impl Into<String>) -> Failure {
        Failure { kind, message: message.into() }
    }

    /// For `map_err`: the host does not let us do `what`.
    pub(crate) fn host<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Failure {
        move |error| Failure::new(FailureKind::Host, format!("{what}: {error}"))
    }

    /// For `map_err`: a bug.
    pub(crate) fn internal<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Failure {
        move |error| Failure::new(FailureKind::Internal, format!("{what}: {error}"))
    }
}

/// From start to the application's end; gives its wait status.
fn run(args: &[String], server: &server::Server) -> Result<i32, Failure> {
    let log = File::from(host::inherit::take(FdLayout::LOG).map_err(Failure::internal("the log's descriptor"))?);
    let spec = read_spec()?;
    let gofer = host::inherit::take(FdLayout::GOFER).map_err(Failure::internal("the gofer's descriptor"))?;
    // A sandbox without a name has none: nobody could find it.
    let listener = host::inherit::take(FdLayout::LISTENER).ok();
    let streams = boot::Streams::inherited(&spec.process)?;
    start_logging(args, &log)?;
    panic::install(server);

    if let Some(cpus) = spec.limits.cpus {
        host::process::limit_cpus(cpus as usize);
    }
    let host = host_info();
    let steady_counter = keeps_time_by_counter();
    jail::enter_empty_root().map_err(Failure::host("cannot enter an empty root"))?;
    jail::drop_privileges().map_err(Failure::host("cannot drop privileges"))?;
    signals::prepare().map_err(Failure::internal("signals"))?;
    let (platform, kind) = platform(spec.platform)?;
    host::forbidden::report_to(log.into()).map_err(Failure::internal("SIGSYS"))?;
    filter::install(kind, spec.network == Network::Host).map_err(Failure::host("cannot install the seccomp filter"))?;

    let sandbox = boot::boot(&spec, platform, host, gofer, streams, steady_counter)?;
    server.serve(&sandbox, listener)?;
    server.created();
    let _letting_go = sandbox.let_go_of_start();
    let wait_status = sandbox.first.wait();
    sandbox.end_further();
    server.finish();
    Ok(wait_status)
}

/// What the application is told about the machine, read while the host's files still have names here.
fn host_info() -> fs::proc::HostInfo {
    // Without it, programs find out about the processor by themselves.
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    // A paragraph for each processor, and one for each that is shown.
    let shown = cpuinfo.split_inclusive("\n\n").take(fs::proc::cpus()).collect();
    fs::proc::HostInfo { cpuinfo: shown }
}

/// Whether the host keeps time by the time stamp counter: then all processors agree on it. Where the host does not say, it does not.
fn keeps_time_by_counter() -> bool {
    std::fs::read("/sys/devices/system/clocksource/clocksource0/current_clocksource").is_ok_and(|name| name.trim_ascii() == b"tsc")
}

fn read_spec() -> Result<BootSpec, Failure> {
    use std::io::Read;
    let fd = host::inherit::take(FdLayout::SPEC).map_err(Failure::internal("the boot specification's descriptor"))?;
    let mut bytes = Vec::new();
    File::from(fd).read_to_end(&mut bytes).map_err(Failure::internal("the boot specification"))?;
    BootSpec::from_json(&bytes).map_err(Failure::internal("the boot specification"))
}

fn start_logging(args: &[String], log: &File) -> Result<(), Failure> {
    let parsed = match args {
        [format, name, level, filter] if format == "--log-format" && level == "--log-level" => {
            Format::parse(name).zip(filter.parse::<LevelFilter>().ok())
        }
        _ => None,
    };
    let (format, level) = parsed.ok_or_else(|| Failure::new(FailureKind::Internal, "caisson sentry: bad arguments"))?;
    let file = log.try_clone().map_err(Failure::internal("the log's descriptor"))?;
    control::logging::init(file, format, level);
    Ok(())
}

/// The platform that runs application code, and which one it is. It forks its zygote here: before the filter, which forbids new processes.
fn platform(kind: Platform) -> Result<(Arc<dyn platform::Platform>, Platform), Failure> {
    match kind {
        Platform::Auto => match platform::trap::Trap::new() {
            Ok(made) => Ok((Arc::new(made), Platform::Trap)),
            Err(e) => {
                tracing::warn!("the trap platform does not work on this host ({e}): application code runs on ptrace, which is slower");
                platform(Platform::Ptrace)
            }
        },
        Platform::Ptrace => {
            let made = platform::ptrace::Ptrace::new().map_err(Failure::host("cannot trace processes of our own"))?;
            Ok((Arc::new(made), kind))
        }
        Platform::Trap | Platform::TrapFutex | Platform::TrapTurns => {
            let handover = match kind {
                Platform::TrapFutex => platform::trap::Handover::Futex,
                _ => platform::trap::Handover::Auto,
            };
            let looking = match kind {
                Platform::TrapTurns => platform::trap::Policy::InTurns,
                _ => platform::trap::Policy::Adaptive,
            };
            let options = platform::trap::Options { handover, looking };
            let made = platform::trap::Trap::with(options)
                .map_err(Failure::host("the trap platform needs FSGSBASE and Linux 5.9; use --platform=ptrace"))?;
            Ok((Arc::new(made), kind))
        }
        Platform::Kvm => Err(Failure::new(FailureKind::Internal, "this build has no such platform")),
    }
}
