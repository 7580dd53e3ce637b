//! What a task does about its signals before it returns to the application (`get_signal`, `handle_signal`).

use super::state::{SIG_DFL, SIG_IGN};
use super::{DefaultAction, GroupStop, default_action};
use crate::task::{CurrentTask, ExitStatus, GroupState, RunState, ThreadGroup};
use abi::Restart;
use abi::signal::{SI_KERNEL, SI_TIMER, SigAction, SigInfo, SigSet, Signal};

const SA_RESTART: u64 = 0x1000_0000;
const SA_RESETHAND: u64 = 0x8000_0000;
/// `restart_syscall`'s number.
const RESTART_SYSCALL: u64 = 219;
/// Bytes of the `syscall` instruction.
const SYSCALL_LEN: u64 = 2;

/// What [`CurrentTask::next_signal`] found.
enum Next {
    /// Nothing more.
    Nothing,
    /// A handler is to run.
    Handler(Signal, SigInfo, SigAction),
    /// The thread must end.
    Exit(ExitStatus),
    /// Look again.
    Again,
}

impl CurrentTask {
    /// Delivers pending signals; then the registers are what the application goes on with. `restart`: how the interrupted call wants to go on.
    /// `Err`: the thread ends with this status.
    pub(crate) fn deliver_signals(&mut self, mut restart: Option<Restart>) -> Result<(), ExitStatus> {
        while self.signal_pending() {
            match self.next_signal(&mut restart) {
                Next::Again => {}
                Next::Nothing => break,
                Next::Exit(status) => return Err(status),
                Next::Handler(sig, info, action) => {
                    if let Some(how) = restart.take() {
                        self.restart_before_handler(how, &action);
                    }
                    let stepping = self.end_step();
                    if self.push_frame(sig, &info, &action).is_err() {
                        self.fail_delivery(sig);
                    } else if stepping {
                        // The handler's first instruction is where the step ends.
                        self.task.force_signal(SigInfo::user(Signal::TRAP, 0, self.tid(), self.cred().uid));
                    }
                }
            }
        }
        if let Some(how) = restart {
            self.restart_without_handler(how);
        }
        if let Some(mask) = self.saved_mask.take() {
            self.task.set_signal_mask(mask);
            if self.signal_pending() {
                // What the temporary mask held back; no call is left to restart.
                return self.deliver_signals(None);
            }
        }
        Ok(())
    }

    /// The frame did not fit: SIGSEGV, and if that was the signal, without its handler (`signal_setup_done`, `force_sigsegv`).
    fn fail_delivery(&mut self, sig: Signal) {
        if sig == Signal::SEGV {
            self.group().handlers().set(Signal::SEGV, SigAction::default());
        }
        self.task.force_signal(SigInfo::new(Signal::SEGV, SI_KERNEL));
    }

    fn restart_before_handler(&mut self, how: Restart, action: &SigAction) {
        let again = match how {
            Restart::NoIntr => true,
            Restart::Sys => action.flags & SA_RESTART != 0,
            Restart::NoHand | Restart::Block => false,
        };
        if again {
            self.rewind(self.regs.orig_rax);
        } else {
            self.regs.rax = (-i64::from(abi::Errno::EINTR.raw())) as u64;
        }
    }

    fn restart_without_handler(&mut self, how: Restart) {
        let call = if how == Restart::Block { RESTART_SYSCALL } else { self.regs.orig_rax };
        self.rewind(call);
    }

    fn rewind(&mut self, call: u64) {
        self.regs.rax = call;
        self.regs.rip = self.regs.rip.wrapping_sub(SYSCALL_LEN);
    }

    /// Takes the next thing to do about signals.
    fn next_signal(&mut self, restart: &mut Option<Restart>) -> Next {
        let group = self.group().clone();
        let mut state = group.lock();
        if let Some(code) = state.notify_parent.take() {
            drop(state);
            group.notify_parent_of_stop(code);
            return Next::Again;
        }
        if let Some(status) = state.exit {
            return Next::Exit(status);
        }
        if let Some(status) = self.leaving() {
            return Next::Exit(status);
        }
        if state.exec.is_some_and(|tid| tid != self.tid()) {
            // A sibling executes a program: this thread has no further part in it.
            return Next::Exit(ExitStatus::Exited(0));
        }
        if self.task.tracing.wants_stop() {
            drop(state);
            self.trace_interrupt(restart);
            return Next::Again;
        }
        if state.stop.is_some_and(|s| !self.task.tracing.has_left(s.generation)) {
            drop(state);
            self.stop_here(restart);
            return Next::Again;
        }
        let Some((sig, info)) = self.task.dequeue_locked(&mut state, self.signal_mask()) else {
            self.task.recalc_locked(&state);
            return Next::Nothing;
        };
        let traced = self.task.tracing.active() && sig != Signal::KILL;
        if info.code != SI_TIMER && !traced {
            return self.act_on(&group, sig, info, state);
        }
        drop(state);
        let info = if info.code == SI_TIMER { group.timers.complete_info(info) } else { info };
        let shown = if traced { self.trace_signal(sig, info, restart) } else { Some((sig, info)) };
        let Some((sig, info)) = shown else { return Next::Again };
        let state = group.lock();
        if state.exit.is_some() {
            return Next::Again;
        }
        self.act_on(&group, sig, info, state)
    }

    fn act_on<'g>(&self, group: &'g ThreadGroup, sig: Signal, info: SigInfo, mut state: sync::MutexGuard<'g, GroupState>) -> Next {
        let handlers = group.handlers();
        let action = handlers.get(sig);
        match action.handler {
            SIG_IGN => return Next::Again,
            SIG_DFL => {}
            _ => {
                if action.flags & SA_RESETHAND != 0 {
                    handlers.set(sig, SigAction { handler: SIG_DFL, ..action });
                }
                return Next::Handler(sig, info, action);
            }
        }
        match default_action(sig) {
            DefaultAction::Ignore => Next::Again,
            _ if state.unkillable && !(SigSet::UNBLOCKABLE.contains(sig) && info.code > 0) => Next::Again,
            DefaultAction::Stop => {
                if sig != Signal::STOP {
                    drop(state);
                    if self.process_group().is_orphaned() {
                        return Next::Again;
                    }
                    state = group.lock();
                    if state.exit.is_some() {
                        return Next::Again;
                    }
                }
                begin_stop(&mut state, sig);
                Next::Again
            }
            DefaultAction::Terminate | DefaultAction::Core => {
                let status = ExitStatus::Signaled { signal: sig, core: false };
                state.begin_exit(status);
                Next::Exit(state.exit.unwrap_or(status))
            }
        }
    }

    /// Stops until the process is continued or killed. The last thread to stop tells the parent.
    fn stop_here(&mut self, restart: &mut Option<Restart>) {
        let group = self.group().clone();
        let mut counted = None;
        self.task.set_state(RunState::Stopped);
        loop {
            let mut state = group.lock();
            let Some(stop) = state.stop.filter(|s| !self.task.tracing.has_left(s.generation)) else { break };
            if counted != Some(stop.generation) {
                counted = Some(stop.generation);
                state.stopped_threads += 1;
            }
            if state.finish_stop() {
                drop(state);
                group.notify_parent_of_stop(libc::CLD_STOPPED);
                continue;
            }
            drop(state);
            if self.task.tracing.active() {
                self.trace_group_stop(stop.signal, stop.generation, restart);
                self.task.set_state(RunState::Stopped);
                continue;
            }
            self.task.park_stopped();
        }
        self.task.set_state(RunState::Running);
        self.task.recalc_signal_pending();
    }
}

/// Begins to stop every thread of the process.
fn begin_stop(state: &mut GroupState, signal: Signal) {
    if state.stop.is_none() {
        state.stop_generation += 1;
        state.stop = Some(GroupStop { signal, complete: false, generation: state.stop_generation });
        state.stopped_threads = 0;
    }
    for t in &state.threads {
        t.notice_signals();
    }
}
