//! The one place that waits for children.
//!
//! The shim is a subreaper: the processes that stand for containers and for what is executed in them become its children as soon
//! as the OCI runtime that made them has ended. One thread reaps whatever ends; [`Reaper::wait`] waits for one of them. Everything
//! is started by [`Reaper::spawn`]: nobody else may wait for children.

use crate::error::{Error, Result};
use crate::log;
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus, test_kill_process, wait};
use std::collections::HashMap;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// So many ends of unknown processes are remembered: a container's process may end before anybody has asked for it.
const REMEMBERED: usize = 1024;

#[derive(Debug, Default)]
struct State {
    /// Exit statuses of reaped processes that nobody has fetched yet, and when they came.
    ended: HashMap<i32, (u64, u32)>,
    /// How many have been reaped.
    count: u64,
    /// How many have been started here.
    started: u64,
}

/// Reaps children.
#[derive(Debug, Default)]
pub struct Reaper {
    state: Mutex<State>,
    changed: Condvar,
}

impl Reaper {
    /// Makes this process a subreaper, and starts reaping.
    pub fn start() -> Result<Arc<Reaper>> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(Error::context("prctl"))?;
        let reaper = Arc::new(Reaper::default());
        let own = reaper.clone();
        thread::Builder::new().name("reaper".into()).spawn(move || own.run()).map_err(Error::context("cannot start a thread"))?;
        Ok(reaper)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        loop {
            let seen = self.lock().started;
            match wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) => self.record(pid.as_raw_nonzero().get(), exit_status(status)),
                Ok(None) | Err(Errno::INTR) => {}
                Err(Errno::CHILD) => {
                    // Children only come from what is started here.
                    let mut state = self.lock();
                    while state.started == seen {
                        state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    }
                }
                Err(error) => {
                    log::warn(format!("wait: {error}"));
                    return;
                }
            }
        }
    }

    fn record(&self, pid: i32, status: u32) {
        let mut state = self.lock();
        state.count += 1;
        let now = state.count;
        state.ended.insert(pid, (now, status));
        if state.ended.len() > REMEMBERED
            && let Some(oldest) = state.ended.iter().min_by_key(|(_, (when, _))| *when).map(|(pid, _)| *pid)
        {
            state.ended.remove(&oldest);
        }
        self.changed.notify_all();
    }

    /// Starts a command; its process ID.
    pub fn spawn(&self, command: &mut Command) -> Result<i32> {
        let mut state = self.lock();
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().map_err(Error::context(program))?;
        let pid = child.id().cast_signed();
        // What an earlier process with this number left here.
        state.ended.remove(&pid);
        state.started += 1;
        self.changed.notify_all();
        Ok(pid)
    }

    /// To be called once a process is known that was not started here: forgets what an earlier one with its number left.
    pub fn adopt(&self, pid: i32) {
        let mut state = self.lock();
        // Nothing is reaped meanwhile: if there is a process with this number, then it is this one.
        if let Some(id) = Pid::from_raw(pid)
            && test_kill_process(id).is_ok()
        {
            state.ended.remove(&pid);
        }
    }

    /// Waits for the end of a process; its exit status as a shell tells it. To be called once for each.
    pub fn wait(&self, pid: i32) -> u32 {
        let mut state = self.lock();
        loop {
            if let Some((_, status)) = state.ended.remove(&pid) {
                return status;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The status, or 128 and the signal's number.
fn exit_status(status: WaitStatus) -> u32 {
    let signal = status.terminating_signal().map(|signal| 128 + signal);
    status.exit_status().or(signal).unwrap_or(255).cast_unsigned()
}
