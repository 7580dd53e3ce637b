//! Starts the gofer: the one process of a container that opens host files. It makes its own root out of the attach points.

use super::child::{self, Child};
use super::{clone_failure, idmap, jail, sealed};
use crate::exit::{Failure, Result, Status};
use crate::logging::Log;
use crate::spec::Plan;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{OwnedFd, RawFd};

/// Number of the specification's descriptor.
const SPEC: RawFd = 3;
/// Number of the connection's descriptor.
const CONNECTION: RawFd = 4;

/// Starts it.
pub fn start(plan: &Plan, connection: OwnedFd, executable: &File, log: &Log, rootless: bool) -> Result<Child> {
    let null = File::options().read(true).write(true).open("/dev/null").map_err(Failure::internal("/dev/null"))?;
    let null_too = null.try_clone().map_err(Failure::internal("/dev/null"))?;
    let fds = vec![
        (0, null.into()),
        (1, null_too.into()),
        // The gofer logs to its standard error.
        (2, log.descriptor()?.into()),
        (SPEC, sealed("gofer-spec", &spec(plan)?)?),
        (CONNECTION, connection),
    ];
    let mounts = match &plan.mount_namespace {
        Some(path) => Some(File::open(path).map_err(Failure::context(Status::BadField, path.display()))?),
        None => None,
    };
    let mut namespaces = libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWNET;
    if rootless {
        namespaces |= libc::CLONE_NEWUSER;
    }
    let (mut mapped, mut go) = io::pipe().map_err(Failure::internal("pipe"))?;
    let pid = match jail::fork(namespaces).map_err(|error| clone_failure("gofer", &error))? {
        jail::Fork::Parent(pid) => pid,
        jail::Fork::Child => {
            drop(go);
            let error = match enter(&mut mapped, mounts, rootless) {
                Ok(()) => child::execute(executable, &["gofer", "--spec-fd", "3", "--conn-fd", "4"], fds),
                Err(error) => error,
            };
            child::give_up("gofer", &error)
        }
    };
    let child = Child::new(pid)?;
    drop(fds);
    if rootless {
        idmap::map_to_self(pid)?;
    }
    go.write_all(&[1]).map_err(Failure::internal("the gofer ended before it began"))?;
    Ok(child)
}

/// In the child: waits for its IDs, and takes on its session and mount namespace.
fn enter(mapped: &mut io::PipeReader, mounts: Option<File>, rootless: bool) -> io::Result<()> {
    mapped.read_exact(&mut [0])?;
    if rootless {
        idmap::become_root()?;
    }
    child::detach_from_terminal()?;
    if let Some(mounts) = mounts {
        jail::enter_namespace(&mounts, libc::CLONE_NEWNS)?;
    }
    jail::unshare_mounts()
}

/// The gofer's specification.
fn spec(plan: &Plan) -> Result<Vec<u8>> {
    let attach: Vec<_> = plan
        .attaches
        .iter()
        .map(|attach| {
            serde_json::json!({
                "source": attach.source,
                "readonly": attach.readonly,
                "recursive": attach.recursive,
            })
        })
        .collect();
    serde_json::to_vec(&serde_json::json!({ "attach": attach }))
        .map_err(Failure::internal("cannot encode the gofer's specification"))
}
