//! Where a tracee stops, on its own thread, and what it does when its tracer lets it go on.

use super::{Event, Mode, Options, Stop, Why};
use crate::signal::SIG_IGN;
use crate::task::{CurrentTask, ExitStatus, RunState, Task};
use abi::signal::{SI_USER, SigInfo, Signal};
use abi::{Restart, poll::PollEvents};
use std::sync::{Arc, atomic::Ordering};

/// The processor's single-step flag.
const TF: u64 = 0x100;
/// `si_code` of a step that was a call.
const TRAP_BRKPT: i32 = 1;
/// The mark of a stop at a call, for who asked for it.
const SYSGOOD: i32 = 0x80;
const SA_NOCLDSTOP: u64 = 1;
/// Where the event lies in a stop's code.
const EVENT_SHIFT: u32 = 8;

/// How a stop ended.
pub(crate) enum Resumed {
    /// There was none: nobody traces the task.
    Untraced,
    /// The task must end.
    Killed,
    /// With this signal, 0 for none, and what it carries.
    With(i32, Option<SigInfo>),
}

/// What `rax` shows while a call waits to be restarted.
fn shown(restart: Restart) -> u64 {
    let code: i64 = match restart {
        Restart::Sys => 512,
        Restart::NoIntr => 513,
        Restart::NoHand => 514,
        Restart::Block => 516,
    };
    code.wrapping_neg().cast_unsigned()
}

impl CurrentTask {
    /// Stops for the tracer. `restart`: of the call that the registers are in, which the tracer sees in `rax`, and may call off.
    pub(crate) fn trace_stop(&mut self, why: Why, code: i32, info: Option<SigInfo>, restart: &mut Option<Restart>) -> Resumed {
        if !self.task.tracing.active() {
            return Resumed::Untraced;
        }
        self.end_step();
        let mut regs = self.regs;
        if let Some(how) = *restart {
            regs.rax = shown(how);
        }
        let fp = self.context.fp_state();
        {
            let mut s = self.task.tracing.lock();
            if s.link.is_none() {
                return Resumed::Untraced;
            }
            let (regs_changed, fp_changed, reported, listening) = (false, false, false, false);
            s.stop = Some(Stop { why, code, info, regs, fp, regs_changed, fp_changed, reported, listening, resumed: None });
        }
        self.task.set_state(RunState::Traced);
        self.task.tell_tracer();
        let ended = self.wait_for_tracer(why);
        self.task.set_state(RunState::Running);
        self.task.recalc_signal_pending();
        let Some(stop) = ended else { return Resumed::Killed };
        if stop.regs_changed {
            self.regs = stop.regs;
            if restart.is_some_and(|how| self.regs.rax != shown(how) || self.regs.orig_rax.cast_signed() < 0) {
                // It goes on from what the tracer has put there, with no call to repeat.
                *restart = None;
            }
        }
        if stop.fp_changed
            && let Err(e) = self.context.set_fp_state(&stop.fp)
        {
            tracing::warn!("extended state of task {} was refused: {e}", self.task.tid());
        }
        if matches!(self.task.tracing.mode(), Mode::Step | Mode::SysEmuStep) && self.task.tracing.active() {
            self.stepping = true;
            self.regs.eflags |= TF;
        }
        Resumed::With(stop.resumed.unwrap_or(0), stop.info)
    }

    /// Waits until the tracer lets it go on; `None` if it must end.
    fn wait_for_tracer(&self, why: Why) -> Option<Stop> {
        let group = self.group().clone();
        loop {
            let (killed, group_stop) = {
                let s = group.lock();
                let ends = s.exit.is_some() || self.task.leaving().is_some() || s.exec.is_some_and(|tid| tid != self.tid());
                (ends, s.stop)
            };
            let mut again = false;
            {
                let mut s = self.task.tracing.lock();
                let stop = s.stop.as_mut()?;
                // A thread shows its end even where that is the process's.
                if stop.resumed.is_some() || killed && why != Why::Event(Event::Exit) {
                    let stop = s.stop.take();
                    return if killed && why != Why::Event(Event::Exit) { None } else { stop };
                }
                if stop.listening && group_stop.is_none() {
                    stop.listening = false;
                    stop.reported = false;
                    stop.code = i32::from(Signal::TRAP.number()) | (Event::Stop as i32) << EVENT_SHIFT;
                    again = true;
                }
            }
            if again {
                self.task.tell_tracer();
            }
            self.task.park_stopped();
        }
    }

    /// Takes the step flag back that the tracer's last request has set.
    pub(crate) fn end_step(&mut self) -> bool {
        let stepping = std::mem::take(&mut self.stepping);
        if stepping {
            self.regs.eflags &= !TF;
        }
        stepping
    }

    /// A call counts as a step.
    fn step_done(&mut self) {
        if self.end_step() {
            self.task.force_signal(SigInfo::fault(Signal::TRAP, TRAP_BRKPT, self.regs.rip));
        }
    }

    /// What a tracer is told of a stop that is no signal's.
    fn trap_info(&self, code: i32) -> SigInfo {
        SigInfo::user(Signal::TRAP, code, self.tid(), self.cred().uid)
    }

    fn syscall_stop(&mut self, why: Why, restart: &mut Option<Restart>) -> bool {
        let good = self.task.tracing.has(Options::TRACESYSGOOD);
        let code = i32::from(Signal::TRAP.number()) | if good { SYSGOOD } else { 0 };
        let info = self.trap_info(code);
        match self.trace_stop(why, code, Some(info), restart) {
            Resumed::Untraced => true,
            Resumed::Killed => false,
            Resumed::With(signal, _) => {
                if let Some(signal) = Signal::new(u64::try_from(signal).unwrap_or(0)) {
                    // A full queue loses it, as in Linux.
                    let _ = self.task.send_signal(self.signal_of_tracer(signal));
                }
                true
            }
        }
    }

    /// A signal that the tracer makes up.
    fn signal_of_tracer(&self, signal: Signal) -> SigInfo {
        let tracer = self.task.tracing.lock().link.as_ref().and_then(|l| l.tracer.upgrade());
        tracer.map_or(SigInfo::new(signal, SI_USER), |t| SigInfo::user(signal, SI_USER, t.tgid(), t.cred().uid))
    }

    /// Before a call. False: the call is not carried out, because the tracer does that or the task ends.
    pub(crate) fn trace_entry(&mut self) -> bool {
        let mode = self.task.tracing.mode();
        if !matches!(mode, Mode::Syscall | Mode::SysEmu | Mode::SysEmuStep) {
            return true;
        }
        let goes_on = self.syscall_stop(Why::Entry, &mut None);
        goes_on && mode == Mode::Syscall && self.regs.orig_rax.cast_signed() as i32 != -1
    }

    /// Behind a call.
    pub(crate) fn trace_exit_of_call(&mut self, restart: &mut Option<Restart>) {
        // Whoever ends does not come back from its call.
        let ends = self.task.leaving().is_some() || self.group().is_exiting();
        if self.task.tracing.mode() == Mode::Syscall && !ends {
            self.syscall_stop(Why::Exit, restart);
        }
        if self.stepping {
            self.step_done();
        }
    }

    /// An event, if the tracer has asked for it.
    pub(crate) fn trace_event(&mut self, event: Event, message: u64) {
        {
            let mut s = self.task.tracing.lock();
            let Some(link) = &mut s.link else { return };
            link.message = message;
        }
        let code = i32::from(Signal::TRAP.number()) | (event as i32) << EVENT_SHIFT;
        let info = self.trap_info(code);
        if let Resumed::With(signal, _) = self.trace_stop(Why::Event(event), code, Some(info), &mut None)
            && let Some(signal) = Signal::new(u64::try_from(signal).unwrap_or(0))
        {
            // A full queue loses it, as in Linux.
            let _ = self.task.send_signal(self.signal_of_tracer(signal));
        }
    }

    /// The thread ends.
    pub(crate) fn trace_end(&mut self, status: ExitStatus) {
        if self.task.tracing.active() && self.task.tracing.has(Options::TRACEEXIT) {
            self.trace_event(Event::Exit, u64::try_from(status.wait_status()).unwrap_or(0));
        }
    }

    /// A program has been executed, by the thread that had this id before.
    pub(crate) fn trace_exec(&mut self, old_tid: i32) {
        if !self.task.tracing.active() {
            return;
        }
        self.end_step();
        if self.task.tracing.has(Options::TRACEEXEC) {
            self.trace_event(Event::Exec, u64::try_from(old_tid).unwrap_or(0));
        } else if self.task.tracing.lock().link.as_ref().is_some_and(|l| !l.seized) {
            // A standard signal is never refused.
            let _ = self.task.send_signal(SigInfo::user(Signal::TRAP, SI_USER, self.tgid(), self.cred().uid));
        }
    }

    /// Stops because it shall (PTRACE_INTERRUPT, or a child that is traced from its birth).
    pub(crate) fn trace_interrupt(&mut self, restart: &mut Option<Restart>) {
        self.task.tracing.trap.store(false, Ordering::SeqCst);
        let signal = self.group().lock().stop.map_or(Signal::TRAP, |s| s.signal);
        let code = i32::from(signal.number()) | (Event::Stop as i32) << EVENT_SHIFT;
        let info = self.trap_info(code);
        self.trace_stop(Why::Event(Event::Stop), code, Some(info), restart);
    }

    /// Stops with its process, which this stop signal has stopped. The tracer may let it go on before its process does.
    pub(crate) fn trace_group_stop(&mut self, signal: Signal, generation: u64, restart: &mut Option<Restart>) {
        let seized = self.task.tracing.lock().link.as_ref().is_some_and(|l| l.seized);
        let code = i32::from(signal.number()) | if seized { (Event::Stop as i32) << EVENT_SHIFT } else { 0 };
        if let Resumed::With(..) = self.trace_stop(Why::Group, code, None, restart) {
            let mut s = self.task.tracing.lock();
            if s.link.is_some() {
                s.left_stop = Some(generation);
            }
            drop(s);
            self.task.recalc_signal_pending();
        }
    }

    /// Shows a signal to the tracer, who may take it away or put another in its place. `None`: nothing is left to deliver.
    pub(crate) fn trace_signal(&mut self, sig: Signal, info: SigInfo, restart: &mut Option<Restart>) -> Option<(Signal, SigInfo)> {
        match self.trace_stop(Why::Signal, sig.number().into(), Some(info), restart) {
            Resumed::Untraced => Some((sig, info)),
            Resumed::Killed => None,
            Resumed::With(number, shown) => {
                let new = Signal::new(u64::try_from(number).unwrap_or(0))?;
                let info = if new == sig { shown.unwrap_or(info) } else { self.signal_of_tracer(new) };
                if self.signal_mask().contains(new) {
                    // A full queue loses it, as in Linux.
                    let _ = self.task.send_signal(info);
                    return None;
                }
                Some((new, info))
            }
        }
    }
}

impl Task {
    /// Tells the tracer that its tracee has stopped (`do_notify_parent_cldstop`).
    pub(super) fn tell_tracer(self: &Arc<Self>) {
        let found = {
            let s = self.tracing.lock();
            s.link.as_ref().and_then(|l| l.tracer_group.upgrade()).zip(s.stop.as_ref().map(|s| (s.why, s.code)))
        };
        let Some((tracer, (why, code))) = found else { return };
        let cause = if why == Why::Group { libc::CLD_STOPPED } else { libc::CLD_TRAPPED };
        let action = tracer.handlers().get(Signal::CHLD);
        if action.handler != SIG_IGN && action.flags & SA_NOCLDSTOP == 0 {
            // Standard signals are never refused.
            let _ = tracer.send_signal(SigInfo::child(cause, self.tid(), self.cred().uid, code & 0x7f));
        }
        tracer.child_queue.notify(PollEvents::IN);
    }
}
