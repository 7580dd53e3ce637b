//! Carrying out one call.

use crate::{
    arg::Args,
    table::{self, Row, Status},
};
use abi::{Errno, Error, Result};
use kernel::task::{CurrentTask, SyscallDispatcher, Task};
use std::sync::atomic::{AtomicBool, Ordering};

/// What the run loop calls. Traces the calls of containers that ask for it.
pub struct Dispatcher {
    /// Which unsupported numbers have been logged.
    logged: Vec<AtomicBool>,
}

/// Numbers that are logged when unknown; more than Linux has.
const LOGGED: usize = 1024;

impl Dispatcher {
    /// A dispatcher.
    #[must_use]
    pub fn new() -> Dispatcher {
        Dispatcher { logged: (0..LOGGED).map(|_| AtomicBool::new(false)).collect() }
    }

    fn log_unsupported(&self, nr: u64, name: &str) {
        let first = usize::try_from(nr).ok().and_then(|n| self.logged.get(n)).is_some_and(|l| !l.swap(true, Ordering::Relaxed));
        if first {
            tracing::warn!("unsupported system call {nr} ({name})");
        }
    }
}

impl SyscallDispatcher for Dispatcher {
    fn dispatch(&self, t: &mut CurrentTask) -> Result<u64> {
        let nr = t.regs.orig_rax;
        let args = Args([t.regs.rdi, t.regs.rsi, t.regs.rdx, t.regs.r10, t.regs.r8, t.regs.r9]);
        let Some(row) = table::row(nr) else {
            self.log_unsupported(nr, "no such number");
            return Err(Errno::ENOSYS.into());
        };
        if matches!(row.status, Status::Unsupported(_)) {
            self.log_unsupported(nr, row.name);
        }
        if t.container().config.strace { traced(row, t, &args) } else { (row.call)(t, &args) }
    }

    fn must_see_all(&self, task: &Task) -> bool {
        task.container().config.strace
    }
}

/// Logs entry (for calls that may not come back, or come back as another program) and result.
fn traced(row: &Row, t: &mut CurrentTask, args: &Args) -> Result<u64> {
    let shown = (row.show)(t, args);
    let who = t.tid();
    tracing::info!(target: "strace", "[{who}] {}({shown}) ...", row.name);
    let result = (row.call)(t, args);
    match result {
        Ok(v) if v < 4096 => tracing::info!(target: "strace", "[{who}] {}({shown}) = {v}", row.name),
        Ok(v) => tracing::info!(target: "strace", "[{who}] {}({shown}) = {v:#x}", row.name),
        Err(Error::Errno(e)) => tracing::info!(target: "strace", "[{who}] {}({shown}) = -1 {e}", row.name),
        Err(Error::Restart(r)) => tracing::info!(target: "strace", "[{who}] {}({shown}) interrupted ({r:?})", row.name),
    }
    result
}

/// A dispatcher for the kernel.
#[must_use]
pub fn register() -> std::sync::Arc<dyn SyscallDispatcher> {
    std::sync::Arc::new(Dispatcher::new())
}
