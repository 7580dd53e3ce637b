//! [`CurrentTask`]: a task as its own sentry thread has it, with registers and platform context.

use super::Task;
use crate::signal::TrapInfo;
use crate::user::UserAddr;
use abi::Result;
use abi::signal::{SigSet, StackT};
use platform::{Context, UserRegs};
use std::ops::Deref;
use std::sync::Arc;

/// The system call table, registered by the `syscalls` crate with [`crate::Kernel::set_dispatcher`].
pub trait SyscallDispatcher: Send + Sync {
    /// Carries out the call in `t.regs` (number in `orig_rax`). The run loop puts the result into `rax`, or restarts the call. A call that
    /// replaces the registers (rt_sigreturn, execve) returns what `rax` shall hold.
    fn dispatch(&self, t: &mut CurrentTask) -> Result<u64>;
    /// Whether every call of this task must come here, also one that the platform could answer itself.
    fn must_see_all(&self, _task: &Task) -> bool {
        false
    }
}

/// What `restart_syscall` goes on with after a stop or an ignored signal. Data only: a task can be saved while it waits.
#[derive(Clone, Debug, Default)]
pub enum RestartBlock {
    /// Nothing: `EINTR`.
    #[default]
    None,
    /// nanosleep(2) and clock_nanosleep(2) with a relative time.
    Nanosleep {
        /// The clock's id.
        clock: i32,
        /// When the sleep ends, in that clock's nanoseconds.
        until_ns: u64,
        /// Where the remaining time goes, if anywhere.
        remaining: UserAddr,
    },
    /// futex(2) FUTEX_WAIT with a timeout.
    Futex {
        /// The word.
        addr: UserAddr,
        /// What it must hold.
        value: u32,
        /// FUTEX_WAIT_BITSET's bits.
        bitset: u32,
        /// Operation with its flags.
        op: u32,
        /// When the wait ends, in nanoseconds of `CLOCK_MONOTONIC`, or `CLOCK_REALTIME` if `op` says so.
        until_ns: u64,
    },
    /// poll(2).
    Poll {
        /// The array.
        fds: UserAddr,
        /// Its length.
        count: u32,
        /// When the wait ends, in nanoseconds of `CLOCK_MONOTONIC`; `None`: never.
        until_ns: Option<u64>,
    },
}

/// The task that the calling sentry thread runs.
pub struct CurrentTask {
    /// The task.
    pub task: Arc<Task>,
    /// The application's registers.
    pub regs: UserRegs,
    /// Where it runs.
    pub context: Box<dyn Context>,
    /// What `restart_syscall` does.
    pub restart: RestartBlock,
    /// sigaltstack(2).
    pub altstack: StackT,
    /// The mask to go back to when the present call has ended: see [`set_temporary_mask`](Self::set_temporary_mask).
    pub(crate) saved_mask: Option<SigSet>,
    /// The processor's words about the last fault, for signal frames.
    pub(crate) trap: TrapInfo,
    /// The credentials and thread id by which the platform answers calls; `None`: it does not.
    pub(super) published: Option<(Arc<crate::cred::Credentials>, i32)>,
    /// The application runs one instruction, for its tracer.
    pub(crate) stepping: bool,
    /// The present call's registers must not be turned into a restart (rt_sigreturn, execve).
    pub(crate) no_restart: bool,
}

/// Registers of a thread that has not run: everything zero.
#[must_use]
pub fn blank_regs() -> UserRegs {
    UserRegs {
        r15: 0,
        r14: 0,
        r13: 0,
        r12: 0,
        rbp: 0,
        rbx: 0,
        r11: 0,
        r10: 0,
        r9: 0,
        r8: 0,
        rax: 0,
        rcx: 0,
        rdx: 0,
        rsi: 0,
        rdi: 0,
        orig_rax: 0,
        rip: 0,
        cs: 0,
        eflags: 0,
        rsp: 0,
        ss: 0,
        fs_base: 0,
        gs_base: 0,
        ds: 0,
        es: 0,
        fs: 0,
        gs: 0,
    }
}

impl Deref for CurrentTask {
    type Target = Task;
    fn deref(&self) -> &Task {
        &self.task
    }
}

impl CurrentTask {
    /// Replaces the signal mask while the present call lasts (sigsuspend, ppoll, pselect, epoll_pwait). The run loop restores it: at once, or
    /// if the call was interrupted by a signal, when its handler returns.
    pub fn set_temporary_mask(&mut self, mask: SigSet) {
        let old = self.task.set_signal_mask(mask);
        self.saved_mask.get_or_insert(old);
    }
}

thread_local! {
    static CURRENT: std::cell::RefCell<Option<Arc<Task>>> = const { std::cell::RefCell::new(None) };
}

/// The task that the calling sentry thread serves (Linux's `current`); `None` on the sentry's own threads. For what must know who looks
/// without being told: /proc/self, a terminal's job control.
#[must_use]
pub fn current() -> Option<Arc<Task>> {
    CURRENT.with_borrow(Clone::clone)
}

/// Makes `task` the one that the calling thread serves, for as long as the thread lives or until `None`.
pub fn set_current(task: Option<Arc<Task>>) {
    let before = CURRENT.replace(task);
    drop(before);
}
