//! Starts the gofer: the one process of a container that opens host files. It makes its own root out of the attach points.

use super::child::{self, Child};
use super::{clone_failure, idmap, jail, null, sealed};
use crate::exit::{Failure, Result, Status};
use crate::logging::Log;
use crate::spec::Plan;
use ::gofer::{Attach, GoferSpec, LogFormat, Propagation};
use control::logging::Format;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{OwnedFd, RawFd};
use tracing::level_filters::LevelFilter;

/// Number of the specification's descriptor.
const SPEC: RawFd = 3;
/// Number of the connection's descriptor.
const CONNECTION: RawFd = 4;
/// Number of the descriptor that the gofer tells its readiness on.
const READY: RawFd = 5;
/// Number of the log's descriptor.
const LOG: RawFd = 6;

/// A gofer that is preparing itself.
#[derive(Debug)]
pub struct Starting {
    child: Child,
    ready: io::PipeReader,
}

/// Starts it.
pub fn start(plan: &Plan, connection: OwnedFd, executable: &File, log: &Log, rootless: bool) -> Result<Starting> {
    let (ready, readiness) = io::pipe().map_err(Failure::internal("pipe"))?;
    // Without privileges there is one ID to map, whatever the configuration says.
    let ids = (&plan.boot.uid_map, &plan.boot.gid_map);
    let mapped_ids = !rootless && !ids.0.is_empty();
    let own_ids = rootless || mapped_ids;
    // What goes wrong is told through the pipe; standard error is for panics only.
    let stderr = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3).map_err(Failure::internal("dup"))?;
    let errors = if log.level >= LevelFilter::DEBUG { stderr } else { null()? };
    let fds = vec![
        (0, null()?),
        (1, null()?),
        (2, errors),
        (SPEC, sealed("gofer-spec", &spec(plan, log, own_ids)?)?),
        (CONNECTION, connection),
        (READY, readiness.into()),
        (LOG, log.descriptor()?.into()),
    ];
    let mounts = match &plan.mount_namespace {
        Some(path) => Some(File::open(path).map_err(Failure::context(Status::BadField, path.display()))?),
        None => None,
    };
    let mut namespaces = libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWNET;
    if own_ids {
        namespaces |= libc::CLONE_NEWUSER;
    }
    let numbers = [SPEC, CONNECTION, READY].map(|number| number.to_string());
    let args = ["gofer", "--spec-fd", &numbers[0], "--conn-fd", &numbers[1], "--ready-fd", &numbers[2]];
    let (mut mapped, mut go) = io::pipe().map_err(Failure::internal("pipe"))?;
    let pid = match jail::fork(namespaces).map_err(|error| clone_failure("gofer", &error))? {
        jail::Fork::Parent(pid) => pid,
        jail::Fork::Child => {
            drop(go);
            let error = match enter(&mut mapped, mounts, own_ids) {
                Ok(()) => child::execute(executable, &args, fds),
                Err(error) => error,
            };
            child::give_up("gofer", &error)
        }
    };
    let child = Child::new(pid)?;
    drop(fds);
    if rootless {
        idmap::map_to_self(pid)?;
    } else if mapped_ids {
        idmap::map_ranges(pid, ids.0, ids.1)?;
    }
    go.write_all(&[1]).map_err(Failure::internal("the gofer ended before it began"))?;
    Ok(Starting { child, ready })
}

impl Starting {
    /// Waits until the gofer serves, or has said why it cannot.
    pub fn wait(mut self) -> Result<Child> {
        let mut message = String::new();
        self.ready.read_to_string(&mut message).map_err(Failure::internal("the gofer"))?;
        match message.trim_end() {
            "ok" => Ok(self.child),
            "" => Err(Failure::new(Status::Internal, format!("the gofer {}", self.child.epitaph()))),
            why => Err(Failure::new(Status::Host, format!("the gofer cannot serve files: {why}"))),
        }
    }
}

/// In the child: waits for its IDs, and takes on its session and mount namespace.
fn enter(mapped: &mut io::PipeReader, mounts: Option<File>, own_ids: bool) -> io::Result<()> {
    mapped.read_exact(&mut [0])?;
    if own_ids {
        idmap::become_root()?;
    }
    child::detach_from_terminal()?;
    match mounts {
        // The gofer itself makes a copy of the namespace that it finds itself in.
        Some(mounts) => jail::enter_namespace(&mounts, libc::CLONE_NEWNS),
        None => Ok(()),
    }
}

/// The gofer's specification.
fn spec(plan: &Plan, log: &Log, own_ids: bool) -> Result<Vec<u8>> {
    let log_format = match log.format {
        Format::Text => LogFormat::Text,
        Format::Json => LogFormat::Json,
    };
    let debug = log.level >= LevelFilter::DEBUG;
    let spec = GoferSpec { attach: attaches(plan, own_ids), log_fd: Some(LOG), log_format, debug, channels: 0 };
    serde_json::to_vec(&spec).map_err(Failure::internal("cannot encode the gofer's specification"))
}

/// The attach points, as a gofer is told them.
pub fn attaches(plan: &Plan, own_ids: bool) -> Vec<Attach> {
    plan.attaches
        .iter()
        .map(|attach| Attach {
            readonly: attach.readonly,
            // In a user namespace of one's own, a tree cannot be had without what is mounted on it.
            recursive: attach.recursive || own_ids,
            masked: attach.masked.clone(),
            allow_unix_connect: attach.sockets,
            propagation: if attach.follows_host { Propagation::Slave } else { Propagation::Private },
            ..Attach::new(&attach.source)
        })
        .collect()
}
