//! The janitor: a process that outlives the runtime by a moment if the runtime is killed, and removes the state that the
//! runtime can then no longer remove. Processes need no janitor: they die with the runtime by themselves.

use super::jail;
use crate::container::Container;
use crate::exit::{Failure, Result};
use std::io::{self, Read};

/// While this is alive, the janitor waits. [`Janitor::dismiss`] sends it away.
#[derive(Debug)]
pub struct Janitor {
    child: super::Child,
    /// Closed when the runtime ends, by whatever cause.
    _alive: io::PipeWriter,
}

impl Janitor {
    /// Starts it. To be called before gofer and sentry are made, so that it holds none of their descriptors.
    pub fn start(container: &Container) -> Result<Janitor> {
        let (mut ended, alive) = io::pipe().map_err(Failure::internal("pipe"))?;
        match jail::fork(0).map_err(Failure::internal("cannot fork"))? {
            jail::Fork::Parent(pid) => Ok(Janitor { child: super::Child::new(pid)?, _alive: alive }),
            jail::Fork::Child => {
                drop(alive);
                wait(&mut ended);
                container.remove();
                jail::exit_now(0)
            }
        }
    }

    /// Ends the janitor without its doing anything: the state has been removed, or will be.
    pub fn dismiss(self) {
        drop(self.child);
    }
}

/// Waits for the end of the runtime, holding nothing but the pipe and the container's lock.
fn wait(ended: &mut io::PipeReader) {
    // A session of its own: the keys of a terminal must not end it before its work is done.
    let _ = rustix::process::setsid();
    let _ = jail::release_streams();
    // Nothing is ever written: this returns at the end of the runtime.
    let _ = ended.read(&mut [0]);
}
