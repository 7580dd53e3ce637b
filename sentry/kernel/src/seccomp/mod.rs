//! Filters of system calls (seccomp(2)): what a container's profile and the application itself forbid.
//!
//! A [`Filter`] looks at a call ([`Data`]) and says what is to be done about it, as one of Linux's `SECCOMP_RET_*` values. A task's
//! [`Filters`] are only ever added to; all are asked, and the strictest answer counts. [`bpf`] runs filters that an application has
//! written, [`rules`] those of a profile.

pub mod bpf;
pub mod rules;

use crate::task::{CurrentTask, ExitStatus, Task};
use abi::signal::{SigInfo, Signal};
use std::sync::Arc;

/// `SECCOMP_RET_ACTION_FULL`: the bits that say what is done; the others say with which value.
pub const ACTION: u32 = 0xffff_0000;
/// `SECCOMP_RET_KILL_PROCESS`
pub const KILL_PROCESS: u32 = 0x8000_0000;
/// `SECCOMP_RET_KILL_THREAD`
pub const KILL_THREAD: u32 = 0;
/// `SECCOMP_RET_TRAP`
pub const TRAP: u32 = 0x0003_0000;
/// `SECCOMP_RET_ERRNO`
pub const ERRNO: u32 = 0x0005_0000;
/// `SECCOMP_RET_TRACE`
pub const TRACE: u32 = 0x7ff0_0000;
/// `SECCOMP_RET_LOG`
pub const LOG: u32 = 0x7ffc_0000;
/// `SECCOMP_RET_ALLOW`
pub const ALLOW: u32 = 0x7fff_0000;

/// `AUDIT_ARCH_X86_64`
pub const ARCH: u32 = 0xc000_003e;
/// `SYS_SECCOMP`: si_code of the signal of [`TRAP`].
const SYS_SECCOMP: i32 = 1;
/// The greatest errno that a call can fail with.
const MAX_ERRNO: u32 = 4095;
/// Instructions that all filters of a task may have together, each costing four more (`MAX_INSNS_PER_PATH`).
const MAX_INSTRUCTIONS: usize = 32_768;

/// A call as filters see it (`struct seccomp_data`).
#[derive(Clone, Copy, Debug)]
pub struct Data {
    /// Number.
    pub nr: i32,
    /// Address behind the instruction that made it.
    pub ip: u64,
    /// All six arguments.
    pub args: [u64; 6],
}

/// Decides about calls.
pub trait Filter: Send + Sync {
    /// What is to be done about a call: `SECCOMP_RET_*` with a value.
    fn decide(&self, data: &Data) -> u32;

    /// How many instructions it counts for.
    fn instructions(&self) -> usize {
        0
    }
}

/// What a task may call.
#[derive(Clone, Default)]
pub struct Filters {
    list: Vec<Arc<dyn Filter>>,
    strict: bool,
}

impl std::fmt::Debug for Filters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Filters({})", self.list.len())
    }
}

impl Filters {
    /// `PR_GET_SECCOMP`: 0 none, 1 strict, 2 filters.
    #[must_use]
    pub fn mode(&self) -> u8 {
        if self.strict { 1 } else { 2 * u8::from(!self.list.is_empty()) }
    }

    /// How many filters there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// Whether `other` begins with these: a thread that has them may be given the other's.
    #[must_use]
    pub fn is_beginning_of(&self, other: &Filters) -> bool {
        self.strict == other.strict
            && self.list.len() <= other.list.len()
            && self.list.iter().zip(&other.list).all(|(a, b)| Arc::ptr_eq(a, b))
    }

    /// Adds one. False if there would be too much of them.
    pub fn add(&mut self, filter: Arc<dyn Filter>) -> bool {
        let sum: usize = self.list.iter().map(|f| f.instructions() + 4).sum();
        if sum + filter.instructions() > MAX_INSTRUCTIONS {
            return false;
        }
        self.list.push(filter);
        true
    }

    /// Strict mode: read, write, exit and rt_sigreturn, and nothing more.
    pub fn set_strict(&mut self) {
        self.strict = true;
    }

    /// The strictest answer, and of equal ones that of the newest filter.
    fn decide(&self, data: &Data) -> u32 {
        if self.strict {
            let allowed = [libc::SYS_read, libc::SYS_write, libc::SYS_exit, libc::SYS_rt_sigreturn];
            return if allowed.contains(&data.nr.into()) { ALLOW } else { KILL_THREAD };
        }
        let strictness = |answer: u32| (answer & ACTION).cast_signed();
        self.list.iter().rev().map(|f| f.decide(data)).fold(
            ALLOW,
            |best, answer| {
                if strictness(answer) < strictness(best) { answer } else { best }
            },
        )
    }
}

/// What becomes of a call that is not simply carried out.
pub(crate) enum Verdict {
    /// The registers are set: back to the application.
    Return,
    /// The thread ends.
    Exit(ExitStatus),
}

impl CurrentTask {
    /// Asks the task's filters about the call in its registers; `None`: it is carried out.
    pub(crate) fn filter_call(&mut self) -> Option<Verdict> {
        if !self.task.is_filtered() {
            return None;
        }
        let regs = &self.regs;
        let data = Data { nr: regs.orig_rax as i32, ip: regs.rip, args: [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] };
        // Not under the lock: a filter takes its time.
        let filters = self.info().seccomp.clone();
        let answer = filters.decide(&data);
        let value = answer & !ACTION;
        match answer & ACTION {
            ALLOW => None,
            LOG => {
                tracing::info!("seccomp: task {} calls {}", self.tid(), data.nr);
                None
            }
            ERRNO => {
                self.regs.rax = (-i64::from(value.min(MAX_ERRNO))) as u64;
                Some(Verdict::Return)
            }
            TRAP => {
                self.regs.rax = self.regs.orig_rax;
                let mut info = SigInfo::new(Signal::SYS, SYS_SECCOMP);
                info.errno = value as i32;
                let [address, call, ..] = &mut info.fields;
                *address = data.ip;
                *call = u64::from(data.nr.cast_unsigned()) | u64::from(ARCH) << 32;
                self.force_signal(info);
                Some(Verdict::Return)
            }
            KILL_THREAD if self.group().thread_count() > 1 && filters.mode() == 2 => {
                Some(Verdict::Exit(ExitStatus::Signaled { signal: Signal::SYS, core: false }))
            }
            KILL_THREAD if filters.mode() == 1 => Some(self.end_for_seccomp(Signal::KILL)),
            // Nobody traces, and nobody listens.
            TRACE | 0x7fc0_0000 => {
                self.regs.rax = (-i64::from(abi::Errno::ENOSYS.raw())) as u64;
                Some(Verdict::Return)
            }
            // KILL_PROCESS, KILL_THREAD of the only thread, and whatever Linux does not know.
            _ => Some(self.end_for_seccomp(Signal::SYS)),
        }
    }

    fn end_for_seccomp(&self, signal: Signal) -> Verdict {
        let status = ExitStatus::Signaled { signal, core: false };
        self.group().begin_exit(status);
        Verdict::Exit(self.group().exit_status().unwrap_or(status))
    }
}

impl Task {
    /// Gives it these filters.
    pub fn set_filters(&self, filters: Filters) {
        let on = filters.mode() != 0;
        self.info().seccomp = filters;
        self.mark_filtered(on);
        // A sibling that runs (SECCOMP_FILTER_FLAG_TSYNC) comes here once, so that its platform answers nothing past the filter any more.
        self.kick();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Always(u32);
    impl Filter for Always {
        fn decide(&self, _: &Data) -> u32 {
            self.0
        }
    }

    #[test]
    fn the_strictest_answer_counts() {
        let data = Data { nr: 39, ip: 0, args: [0; 6] };
        let mut filters = Filters::default();
        assert_eq!((filters.mode(), filters.decide(&data)), (0, ALLOW));
        for (answer, expected) in [
            (LOG, LOG),
            (ALLOW, LOG),
            (ERRNO | 7, ERRNO | 7),
            (ERRNO | 9, ERRNO | 9),
            (TRAP, TRAP),
            (KILL_THREAD, KILL_THREAD),
            (KILL_PROCESS, KILL_PROCESS),
            (ERRNO, KILL_PROCESS),
        ] {
            assert!(filters.add(Arc::new(Always(answer))));
            assert_eq!(filters.decide(&data), expected, "{answer:#x}");
        }
    }
}
