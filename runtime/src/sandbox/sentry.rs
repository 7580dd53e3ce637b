//! Starts the sentry: new user, PID, network, mount, IPC and UTS namespaces, and the descriptors of [`FdLayout`] only.

use super::child::{self, Child};
use super::{Streams, TakenOver, clone_failure, idmap, jail, null, sealed};
use crate::exit::{Failure, Result};
use crate::logging::Log;
use crate::spec::Plan;
use control::{BootSpec, FdLayout, Network};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{OwnedFd, RawFd};

/// Starts it.
pub fn start(
    plan: &Plan,
    streams: Streams,
    control: OwnedFd,
    gofer: OwnedFd,
    listener: Option<OwnedFd>,
    network: TakenOver,
    executable: &File,
    log: &Log,
    rootless: bool,
) -> Result<Child> {
    let TakenOver { interfaces, routes, sockets, resolver, .. } = network;
    let boot = BootSpec { interfaces, routes, ..plan.boot.clone() };
    let boot = boot.to_json().map_err(Failure::internal("cannot encode the boot specification"))?;
    let mut fds = vec![
        (FdLayout::SPEC, sealed("boot-spec", &boot)?),
        (FdLayout::CONTROL, control),
        (FdLayout::GOFER, gofer),
        (FdLayout::LOG, log.descriptor()?.into()),
    ];
    fds.extend(listener.map(|listener| (FdLayout::LISTENER, listener)));
    fds.extend(descriptors(streams)?);
    fds.extend((FdLayout::NETWORK..).zip(sockets));
    fds.extend(resolver.map(|socket| (FdLayout::RESOLVER, socket)));
    let level = log.level.to_string();
    let args = ["sentry", "--log-format", log.format.name(), "--log-level", &level];
    let mut namespaces = libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    if plan.boot.network != Network::Host {
        namespaces |= libc::CLONE_NEWNET;
    }
    let (mut mapped, go) = io::pipe().map_err(Failure::internal("pipe"))?;
    let pid = match jail::fork(namespaces).map_err(|error| clone_failure("sentry", &error))? {
        jail::Fork::Parent(pid) => pid,
        jail::Fork::Child => {
            drop(go);
            let error = match enter(&mut mapped) {
                Ok(()) => child::execute(executable, &args, fds),
                Err(error) => error,
            };
            child::give_up("sentry", &error)
        }
    };
    let child = Child::new(pid)?;
    drop(fds);
    if rootless { idmap::map_to_self(pid) } else { idmap::map_to_nobody(pid) }?;
    go_on(go)?;
    Ok(child)
}

/// Tells the child that its IDs are mapped.
fn go_on(mut go: io::PipeWriter) -> Result<()> {
    go.write_all(&[1]).map_err(Failure::internal("the sentry ended before it began"))
}

/// In the child: waits for its IDs, and takes on its user and session.
fn enter(mapped: &mut io::PipeReader) -> io::Result<()> {
    mapped.read_exact(&mut [0])?;
    idmap::become_root()?;
    child::detach_from_terminal()
}

/// What the sentry finds open of the application's; its own standard streams are nothing.
fn descriptors(streams: Streams) -> Result<Vec<(RawFd, OwnedFd)>> {
    let mut fds = vec![(0, null()?), (1, null()?), (2, null()?)];
    match streams.terminal {
        Some(slave) => fds.push((FdLayout::TERMINAL, slave)),
        None => {
            for (number, stream) in FdLayout::STREAMS.into_iter().zip(super::own_streams()?) {
                fds.push((number, stream));
            }
        }
    }
    fds.extend((FdLayout::PRESERVED..).zip(streams.preserved));
    Ok(fds)
}
