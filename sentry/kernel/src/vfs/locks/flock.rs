//! flock(2): locks of whole files, held by open file descriptions.

use super::{FileLocks, file_id};
use crate::{task::Task, vfs::File};
use abi::{Result, bail, poll::PollEvents};
use std::sync::Arc;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum FlockKind {
    Shared,
    Exclusive,
    Unlock,
}

/// A lock that is held.
pub(super) struct Held {
    pub file: usize,
    pub exclusive: bool,
    /// The process that took it.
    pub pid: i32,
    /// The number of its pid namespace.
    pub pids: u64,
}

/// flock(2). `wait`: without LOCK_NB.
pub fn flock(task: &Task, file: &Arc<File>, kind: FlockKind, wait: bool) -> Result {
    let locks = FileLocks::of(file.inode());
    let id = file_id(file);
    let exclusive = kind == FlockKind::Exclusive;
    {
        let mut s = locks.state.lock();
        if s.flocks.iter().any(|l| l.file == id && l.exclusive == exclusive) && kind != FlockKind::Unlock {
            return Ok(());
        }
        // A conversion is not atomic: the old lock goes first.
        let before = s.flocks.len();
        s.flocks.retain(|l| l.file != id);
        let gone = s.flocks.len() < before;
        drop(s);
        if gone {
            locks.queue.notify(PollEvents::all());
        }
    }
    if kind == FlockKind::Unlock {
        return Ok(());
    }
    let try_it = || {
        let mut s = locks.state.lock();
        if s.flocks.iter().any(|l| l.file != id && (l.exclusive || exclusive)) {
            return None;
        }
        s.flocks.push(Held { file: id, exclusive, pid: task.tgid(), pids: task.pids().number });
        Some(())
    };
    if try_it().is_some() {
        return Ok(());
    }
    if !wait {
        bail!(EAGAIN, "locked by another");
    }
    task.wait_on(&[(&locks.queue, PollEvents::all())], None, try_it)?;
    Ok(())
}
