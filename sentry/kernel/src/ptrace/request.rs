//! What a tracer asks of a tracee that has stopped.

use super::{Event, Options, State, Stop, Why};
use crate::task::Task;
use abi::signal::SigInfo;
use abi::{Result, bail};
use platform::{FpState, UserRegs};
use std::sync::{Arc, atomic::Ordering};

/// How a tracee goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `PTRACE_CONT`
    Cont,
    /// `PTRACE_SYSCALL`: to the next entry into or exit from a call.
    Syscall,
    /// `PTRACE_SINGLESTEP`: for one instruction.
    Step,
    /// `PTRACE_SYSEMU`: to the next call, which is not carried out.
    SysEmu,
    /// `PTRACE_SYSEMU_SINGLESTEP`
    SysEmuStep,
}

/// What PTRACE_GET_SYSCALL_INFO tells apart.
#[derive(Clone, Copy, Debug)]
pub enum SyscallInfo {
    /// Not at a call.
    None,
    /// Before it.
    Entry,
    /// Behind it.
    Exit,
}

/// Flags that a tracer may change (`FLAG_MASK`): CF, PF, AF, ZF, SF, TF, DF, OF, NT, RF, AC.
const FLAGS: u64 = 0x5_4dd5;
/// The only segments that code runs with here.
const SEGMENTS: (u64, u64) = (0x33, 0x2b);

impl Task {
    /// A task that the caller traces, with its state; `ESRCH` if there is none, or with `stopped` it has not stopped.
    fn tracee<T>(&self, tid: i32, stopped: bool, f: impl FnOnce(&Arc<Task>, &mut State) -> Result<T>) -> Result<T> {
        let Some(task) = self.pids().task(tid) else { bail!(ESRCH, "no task {tid}") };
        if !self.traces(&task) {
            bail!(ESRCH, "not traced by the caller");
        }
        let mut s = task.tracing.lock();
        if stopped && !s.stop.as_ref().is_some_and(|s| s.resumed.is_none() && !s.listening) {
            bail!(ESRCH, "has not stopped");
        }
        f(&task, &mut s)
    }

    fn stopped<T>(&self, tid: i32, f: impl FnOnce(&Arc<Task>, &mut Stop) -> Result<T>) -> Result<T> {
        self.tracee(tid, true, |task, s| match &mut s.stop {
            Some(stop) => f(task, stop),
            None => bail!(ESRCH),
        })
    }

    /// A stopped tracee, for what is done to its memory.
    pub fn stopped_tracee(&self, tid: i32) -> Result<Arc<Task>> {
        self.stopped(tid, |task, _| Ok(task.clone()))
    }

    /// Lets a tracee go on. `EIO` for what is no signal.
    pub fn trace_resume(&self, tid: i32, mode: Mode, signal: u64) -> Result {
        let signal = signal_number(signal)?;
        let task = self.tracee(tid, true, |task, s| {
            if let State { link: Some(link), stop: Some(stop), .. } = s {
                link.mode = mode;
                stop.resumed = Some(signal);
            }
            Ok(task.clone())
        })?;
        task.notice_signals();
        Ok(())
    }

    /// PTRACE_DETACH
    pub fn trace_detach(&self, tid: i32, signal: u64) -> Result {
        let signal = signal_number(signal)?;
        self.stopped_tracee(tid)?.unlink(Some(signal));
        Ok(())
    }

    /// PTRACE_KILL, which does nothing to a tracee that runs.
    pub fn trace_kill(&self, tid: i32) -> Result {
        match self.trace_resume(tid, Mode::Cont, libc::SIGKILL as u64) {
            Err(e) if e.is(abi::Errno::ESRCH) => self.tracee(tid, false, |_, _| Ok(())),
            other => other,
        }
    }

    /// PTRACE_INTERRUPT. `EIO` unless attached by PTRACE_SEIZE.
    pub fn trace_interrupt(&self, tid: i32) -> Result {
        let (task, listened) = self.tracee(tid, false, |task, s| {
            if !s.link.as_ref().is_some_and(|l| l.seized) {
                bail!(EIO, "not seized");
            }
            let listened = s.stop.as_mut().is_some_and(|stop| std::mem::take(&mut stop.listening));
            if listened && let Some(stop) = &mut s.stop {
                stop.reported = false;
            }
            Ok((task.clone(), listened))
        })?;
        if listened {
            task.tell_tracer();
        } else {
            task.tracing.trap.store(true, Ordering::SeqCst);
            task.notice_signals();
        }
        Ok(())
    }

    /// PTRACE_LISTEN: stays stopped with its process, and tells when that goes on.
    pub fn trace_listen(&self, tid: i32) -> Result {
        let task = self.tracee(tid, true, |task, s| {
            let seized = s.link.as_ref().is_some_and(|l| l.seized);
            match &mut s.stop {
                Some(stop) if seized && matches!(stop.why, Why::Group | Why::Event(Event::Stop)) => {
                    stop.listening = true;
                    stop.reported = true;
                }
                _ => bail!(EIO, "no stop to listen in"),
            }
            Ok(task.clone())
        })?;
        task.notice_signals();
        Ok(())
    }

    /// PTRACE_SETOPTIONS
    pub fn trace_set_options(&self, tid: i32, options: Options) -> Result {
        self.tracee(tid, true, |_, s| {
            if let Some(link) = &mut s.link {
                link.options = options;
            }
            Ok(())
        })
    }

    /// PTRACE_GETEVENTMSG
    pub fn trace_message(&self, tid: i32) -> Result<u64> {
        self.tracee(tid, true, |_, s| Ok(s.link.as_ref().map_or(0, |l| l.message)))
    }

    /// PTRACE_GETSIGINFO. `EINVAL` in a stop of the whole process.
    pub fn trace_siginfo(&self, tid: i32) -> Result<SigInfo> {
        self.stopped(tid, |_, stop| match stop.info {
            Some(info) => Ok(info),
            None => bail!(EINVAL, "no signal"),
        })
    }

    /// PTRACE_SETSIGINFO
    pub fn trace_set_siginfo(&self, tid: i32, new: SigInfo) -> Result {
        self.stopped(tid, |_, stop| match &mut stop.info {
            Some(info) => {
                *info = new;
                Ok(())
            }
            None => bail!(EINVAL, "no signal"),
        })
    }

    /// PTRACE_GETREGS
    pub fn trace_regs(&self, tid: i32) -> Result<UserRegs> {
        self.stopped(tid, |_, stop| Ok(stop.regs))
    }

    /// PTRACE_SETREGS. `EIO` for what no code can run with here.
    pub fn trace_set_regs(&self, tid: i32, new: &UserRegs) -> Result {
        let end = self.kernel().platform.limits().max_address;
        self.stopped(tid, |_, stop| {
            if (new.cs, new.ss) != SEGMENTS || new.fs_base >= end || new.gs_base >= end {
                bail!(EIO, "segments");
            }
            let old = stop.regs;
            let eflags = old.eflags & !FLAGS | new.eflags & FLAGS;
            stop.regs = UserRegs { eflags, ds: old.ds, es: old.es, fs: old.fs, gs: old.gs, ..*new };
            stop.regs_changed = true;
            Ok(())
        })
    }

    /// The extended state in XSAVE's format.
    pub fn trace_fp(&self, tid: i32) -> Result<FpState> {
        self.stopped(tid, |_, stop| Ok(stop.fp.clone()))
    }

    /// Replaces as much of the extended state from its beginning as there is. What the processor cannot load is refused later.
    pub fn trace_set_fp(&self, tid: i32, new: &[u8]) -> Result {
        self.stopped(tid, |_, stop| {
            let Some(head) = stop.fp.0.get_mut(..new.len()) else { bail!(EINVAL, "too long") };
            head.copy_from_slice(new);
            stop.fp_changed = true;
            Ok(())
        })
    }

    /// Where the tracee has stopped, for PTRACE_GET_SYSCALL_INFO.
    pub fn trace_syscall_info(&self, tid: i32) -> Result<(SyscallInfo, UserRegs)> {
        self.stopped(tid, |_, stop| {
            let at = match stop.why {
                Why::Entry => SyscallInfo::Entry,
                Why::Exit => SyscallInfo::Exit,
                _ => SyscallInfo::None,
            };
            Ok((at, stop.regs))
        })
    }
}

/// A signal's number or 0; `EIO` for others.
fn signal_number(raw: u64) -> Result<i32> {
    match i32::try_from(raw) {
        Ok(n) if (0..=64).contains(&n) => Ok(n),
        _ => bail!(EIO, "no signal {raw}"),
    }
}
