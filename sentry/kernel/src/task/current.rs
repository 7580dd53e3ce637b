//! [`CurrentTask`]: the task that the running sentry thread serves.

use super::Task;
use abi::Result;
use platform::{Context, UserRegs};
use std::{ops::Deref, sync::Arc};

/// A task together with what only its own sentry thread may touch: the registers and the platform's context.
pub struct CurrentTask {
    /// The task that others see.
    pub task: Arc<Task>,
    /// The application's registers, valid while it is in the kernel.
    pub regs: UserRegs,
    /// Where it runs.
    pub context: Box<dyn Context>,
}

impl Deref for CurrentTask {
    type Target = Task;
    fn deref(&self) -> &Task {
        &self.task
    }
}

/// Carries out a system call: the number is in `regs.orig_rax`, the arguments in the registers. Registered in the kernel by the crate
/// of the system call table.
pub trait SyscallDispatcher: Send + Sync {
    /// Returns the value for rax; the run loop stores it, or turns an error into an errno or a restart.
    fn dispatch(&self, current: &mut CurrentTask) -> Result<u64>;
}
