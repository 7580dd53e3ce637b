//! What a stand-in's mount namespace shows.
//!
//! Engines take a container's process for one that lives in its root: `podman cp` enters its mount namespace to copy files, tools look at
//! `/proc/PID/root`. In the host's own they would write to the host's files.

use super::{gofer, jail};
use crate::exit::{Failure, Result, Status};
use crate::spec::Plan;
use control::MountKind;
use std::fs::File;
use std::path::PathBuf;

/// While this is there, the thread that made it sees the container's files, and nothing else.
#[derive(Debug)]
pub struct View {
    host: File,
}

impl View {
    /// Shows this thread the files of a container: what it has from the host, and not what lies in its sandbox's memory.
    pub fn enter(plan: &Plan) -> Result<View> {
        let failed =
            |what: &str| Failure::new(Status::Host, format!("cannot make the mount namespace that stands for the container's: {what}"));
        let host = File::open("/proc/self/ns/mnt").map_err(|error| failed(&error.to_string()))?;
        let view = View { host };
        let entered = match &plan.mount_namespace {
            // It shares the working directory and the root with the process's other threads, which stay.
            Some(path) => File::open(path)
                .and_then(|file| jail::unshare(libc::CLONE_FS).and_then(|()| jail::enter_namespace(&file, libc::CLONE_NEWNS)))
                .map_err(|error| failed(&error.to_string())),
            None => ::gofer::view(&places(plan)).map_err(|error| failed(&format!("{error:#}"))),
        };
        match entered {
            Ok(()) => Ok(view),
            Err(failure) => {
                view.leave();
                Err(failure)
            }
        }
    }

    /// Goes back to the host's files.
    pub fn leave(self) {
        if let Err(error) = jail::enter_namespace(&self.host, libc::CLONE_NEWNS) {
            tracing::warn!("cannot go back to the host's mount namespace: {error}");
        }
    }
}

/// The attach points, and where the container has them.
fn places(plan: &Plan) -> Vec<(::gofer::Attach, PathBuf)> {
    let place = |index: usize| {
        let found = plan.boot.mounts.iter().find(|mount| matches!(mount.kind, MountKind::Bind { attach, .. } if attach as usize == index));
        found.map_or_else(|| PathBuf::from("/"), |mount| PathBuf::from(&mount.destination))
    };
    gofer::attaches(plan, false).into_iter().enumerate().map(|(index, attach)| (attach, place(index))).collect()
}
