//! Waiting for several files at once: poll(2), select(2).

use crate::{task::Task, vfs::File};
use abi::{Result, poll::PollEvents};
use std::sync::Arc;
use std::time::Instant;
use sync::WaitQueue;

/// One file to wait for.
pub struct PollEntry {
    /// The file; `None` if the descriptor is not open.
    pub file: Option<Arc<File>>,
    /// What is asked; ERR and HUP always are.
    pub wanted: PollEvents,
}

impl PollEntry {
    /// What is there now of what is asked; NVAL if there is no file.
    fn found(&self) -> PollEvents {
        match &self.file {
            Some(f) => f.ops().poll(f) & (self.wanted | PollEvents::ERR | PollEvents::HUP),
            None => PollEvents::NVAL,
        }
    }
}

/// Asks all files.
pub fn check(entries: &[PollEntry]) -> Vec<PollEvents> {
    entries.iter().map(PollEntry::found).collect()
}

/// Waits until one of the files has what is asked: everything found, in the order of `entries`; `None` at the deadline.
pub fn wait(task: &Task, entries: &[PollEntry], deadline: Option<Instant>) -> Result<Option<Vec<PollEvents>>> {
    wait_for(task, entries, deadline, |found| found.iter().any(|e| !e.is_empty()))
}

/// As [`wait`], until `enough` accepts what is found.
pub fn wait_for(
    task: &Task,
    entries: &[PollEntry],
    deadline: Option<Instant>,
    enough: impl Fn(&[PollEvents]) -> bool,
) -> Result<Option<Vec<PollEvents>>> {
    let queues: Vec<(&WaitQueue, PollEvents)> =
        entries.iter().filter_map(|e| Some((e.file.as_ref()?.ops().poll_queue()?, e.wanted))).collect();
    task.wait_on(&queues, deadline, || Some(check(entries)).filter(|found| enough(found)))
}
