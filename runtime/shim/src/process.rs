//! One process that containerd knows: a container's first, or one executed in it later.

use crate::error::{Error, Result};
use crate::events;
use crate::stdio::{Io, Paths};
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::types::task::Status;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Where a process is in its life.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// Announced by `Exec`; nothing runs.
    Added,
    /// A container after `create`.
    Created,
    /// Started.
    Running,
    /// Stopped by `Pause`.
    Paused,
    /// Over.
    Stopped(Exit),
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Exit {
    /// As a shell tells it.
    pub status: u32,
    /// When.
    pub at: Timestamp,
}

impl Exit {
    /// Now.
    pub fn now(status: u32) -> Exit {
        Exit { status, at: events::now() }
    }
}

#[derive(Debug)]
struct State {
    phase: Phase,
    pid: i32,
}

/// A process.
#[derive(Debug)]
pub struct Process {
    /// Empty for a container's first.
    pub exec_id: String,
    /// Its standard streams, as containerd names them.
    pub paths: Paths,
    /// `process` of an `Exec` request: JSON.
    pub spec: Vec<u8>,
    /// The shim's side of the streams.
    pub io: Mutex<Io>,
    /// Held while the process is started, so that its end is not told before its beginning.
    pub starting: Mutex<()>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Process {
    /// One that does not run yet.
    pub fn new(exec_id: &str, paths: Paths, spec: Vec<u8>) -> Process {
        Process {
            exec_id: exec_id.into(),
            paths,
            spec,
            io: Mutex::default(),
            starting: Mutex::default(),
            state: Mutex::new(State { phase: Phase::Added, pid: 0 }),
            changed: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`Phase`].
    pub fn phase(&self) -> Phase {
        self.state().phase.clone()
    }

    /// The host's process ID; 0 before there is one.
    pub fn pid(&self) -> i32 {
        self.state().pid
    }

    /// For messages, where it cannot be negative.
    pub fn wire_pid(&self) -> u32 {
        self.pid().cast_unsigned()
    }

    /// The process exists now.
    pub fn set_pid(&self, pid: i32) {
        self.state().pid = pid;
    }

    /// Goes to another phase; not away from [`Phase::Stopped`].
    pub fn set_phase(&self, phase: Phase) {
        let mut state = self.state();
        if !matches!(state.phase, Phase::Stopped(_)) {
            state.phase = phase;
            self.changed.notify_all();
        }
    }

    /// Waits for the end.
    pub fn wait(&self) -> Exit {
        let mut state = self.state();
        loop {
            if let Phase::Stopped(exit) = &state.phase {
                return exit.clone();
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// In the protocol's words.
    pub fn status(&self) -> Status {
        match self.phase() {
            Phase::Added | Phase::Created => Status::CREATED,
            Phase::Running => Status::RUNNING,
            Phase::Paused => Status::PAUSED,
            Phase::Stopped(_) => Status::STOPPED,
        }
    }

    /// The streams, to work on.
    pub fn io(&self) -> MutexGuard<'_, Io> {
        self.io.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An error unless it exists and has not ended.
    pub fn alive(&self) -> Result<()> {
        match self.phase() {
            Phase::Stopped(_) => Err(Error::not_found("process already finished")),
            Phase::Added => Err(Error::precondition("the process has not been started")),
            _ => Ok(()),
        }
    }
}
