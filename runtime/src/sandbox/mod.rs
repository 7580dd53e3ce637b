//! A sandbox on the host: its processes, their namespaces and descriptors.
//!
//! [`start`] makes gofer and sentry, [`join`] a container in a sandbox that is there; [`Sandbox`] owns them, and kills them when dropped, so that no way out of the runtime
//! leaves one behind. [`monitor`] watches a running sandbox or a process in it. [`janitor`] cleans up if the runtime itself is killed.

mod child;
mod forward;
mod gofer;
mod idmap;
mod jail;
mod janitor;
mod monitor;
mod network;
mod sentry;
mod view;

pub use child::Child;
pub use forward::Forward;
pub use jail::{
    Fork, close_inherited, die_by, enter_namespace, exit_now, fork, inherited, namespace_type, release_streams, take_terminal, unshare,
};
pub use janitor::Janitor;
pub use monitor::{Monitor, Outcome, Watched, take_signals};
pub use network::{Kept, TakenOver, engine_resolver, look, low_ports, open_up, take_over};
pub use view::View;

use crate::client::Client;
use crate::exit::{Failure, Result, Status};
use crate::logging::Log;
use crate::spec::Plan;
use control::{JoinSpec, Request, SharedNamespaces};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What the application finds open.
#[derive(Debug, Default)]
pub struct Streams {
    /// The slave side of a pseudo-terminal; without one, its standard streams are the runtime's own.
    pub terminal: Option<OwnedFd>,
    /// Descriptors from 3 on.
    pub preserved: Vec<OwnedFd>,
}

/// A gofer and a sentry.
#[derive(Debug)]
pub struct Sandbox {
    /// The process that holds the kernel.
    pub sentry: Child,
    /// The process that opens files.
    pub gofer: Child,
    /// The control socket's end.
    pub control: OwnedFd,
}

/// Starts gofer and sentry, which gets the interfaces of `network`; over `listener` the sentry can be reached later. The signals that the runtime blocks are unblocked in both.
pub fn start(plan: &Plan, streams: Streams, listener: Option<OwnedFd>, network: TakenOver, log: &Log, rootless: bool) -> Result<Sandbox> {
    let (control, sentry_control) = pair("control socket")?;
    let (sentry_conn, gofer_conn) = pair("gofer connection")?;
    let executable = executable(rootless)?;
    let gofer = gofer::start(plan, gofer_conn, &executable, log, rootless)?;
    let sentry = sentry::start(plan, streams, sentry_control, sentry_conn, listener, network, &executable, log, rootless)?;
    // Both prepare themselves at the same time.
    Ok(Sandbox { sentry, gofer: gofer.wait()?, control })
}

/// Makes a container in the sandbox that `client` is connected to, over that connection: its gofer. The answer is left to be received.
pub fn join(plan: &Plan, shared: &SharedNamespaces, client: &Client, streams: Streams, log: &Log, rootless: bool) -> Result<Child> {
    let (sentry_conn, gofer_conn) = pair("gofer connection")?;
    let gofer = gofer::start(plan, gofer_conn, &executable(rootless)?, log, rootless)?;
    let spec = JoinSpec { container: plan.boot.clone(), shared: shared.clone() };
    let text = spec.to_json().map_err(Failure::internal("cannot encode the container"))?;
    let mut fds = vec![sealed("join-spec", &text)?, sentry_conn];
    match streams.terminal {
        Some(slave) => fds.push(slave),
        None => fds.extend(own_streams()?),
    }
    fds.extend(streams.preserved);
    let gofer = gofer.wait()?;
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    client.send(&Request::Create, &fds)?;
    Ok(gofer)
}

/// Copies of the runtime's own standard streams.
pub fn own_streams() -> Result<[OwnedFd; 3]> {
    use rustix::stdio::{stderr, stdin, stdout};
    let copy = |fd| rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(Failure::internal("cannot duplicate a descriptor"));
    Ok([copy(stdin())?, copy(stdout())?, copy(stderr())?])
}

/// A pair of connected sockets that keep packets apart.
fn pair(what: &'static str) -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).map_err(Failure::internal(what))
}

/// This program's own file; or a copy in memory if the unprivileged user of the sentry may not read and execute it. To be
/// executed by descriptor, which works in any mount namespace.
fn executable(rootless: bool) -> Result<File> {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::PermissionsExt;
    let open = || -> std::io::Result<File> {
        let mut own = File::open("/proc/self/exe")?;
        if rootless || own.metadata()?.permissions().mode() & 0o5 == 0o5 {
            return Ok(own);
        }
        let mut copy = memory_file("caisson")?;
        std::io::copy(&mut own, &mut copy)?;
        rustix::fs::fchmod(&copy, rustix::fs::Mode::from_raw_mode(0o555))?;
        // Executing a file that is open for writing is refused.
        File::open(format!("/proc/self/fd/{}", copy.as_raw_fd()))
    };
    open().map_err(Failure::internal("cannot open the executable again"))
}

/// A new file in memory.
pub fn memory_file(name: &str) -> std::io::Result<File> {
    use rustix::fs::{MemfdFlags, memfd_create};
    Ok(File::from(memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?))
}

/// A sealed file in memory with this content, to be read from its start.
pub fn sealed(name: &'static str, content: &[u8]) -> Result<OwnedFd> {
    use rustix::fs::{SealFlags, SeekFrom, fcntl_add_seals, seek};
    let make = || -> std::io::Result<OwnedFd> {
        let mut file = memory_file(name)?;
        file.write_all(content)?;
        seek(&file, SeekFrom::Start(0))?;
        fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
        Ok(file.into())
    };
    make().map_err(Failure::internal(name))
}

/// `/dev/null`.
fn null() -> Result<OwnedFd> {
    File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from).map_err(Failure::internal("/dev/null"))
}

/// The failure of making a process in new namespaces, with what is usually the reason.
fn clone_failure(who: &str, error: &std::io::Error) -> Failure {
    let hint = match error.raw_os_error() {
        Some(libc::EPERM) => "; the host forbids it: run as root, or allow unprivileged user namespaces",
        Some(libc::ENOSPC | libc::EUSERS) => "; see /proc/sys/user/max_*_namespaces",
        Some(libc::EINVAL) => "; the host's kernel lacks a kind of namespace",
        _ => "",
    };
    Failure::new(Status::Host, format!("cannot make the {who}'s namespaces: {error}{hint}"))
}
