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
    pub fn start(container: &mut Container) -> Result<Janitor> {
        let (mut ended, alive) = io::pipe().map_err(Failure::internal("pipe"))?;
        match jail::fork(0).map_err(Failure::internal("cannot fork"))? {
            jail::Fork::Parent(pid) => Ok(Janitor { child: super::Child::new(pid)?, _alive: alive }),
            jail::Fork::Child => {
                container.unlock();
                drop(alive);
                wait(&mut ended);
                // The stand-in has got its last signal; the lock is free as soon as it has ended, too.
                let done = Container::open(container.root(), &container.record.id).and_then(|mut container| {
                    container.lock()?;
                    container.kill_stand_in()?;
                    container.destroy()
                });
                if let Err(failure) = done {
                    tracing::debug!("{failure}");
                }
                jail::exit_now(0)
            }
        }
    }

    /// Ends the janitor without its doing anything: the state has been removed, or will be.
    pub fn dismiss(self) {
        drop(self.child);
    }
}

/// Waits for the end of the runtime, holding nothing but the pipe.
fn wait(ended: &mut io::PipeReader) {
    // A session of its own: the keys of a terminal must not end it before its work is done.
    let _ = rustix::process::setsid();
    let _ = jail::release_streams(None);
    // Nothing is ever written: this returns at the end of the runtime.
    let _ = ended.read(&mut [0]);
}
