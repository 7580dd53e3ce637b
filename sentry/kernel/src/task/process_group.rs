//! Process groups and sessions: what a terminal's job control deals with.
//!
//! Membership lives in the process tree ([`super::tree::Tree`]); these are the identities that others hold on to.

use super::{Task, ThreadGroup};
use crate::container::PidNamespace;
use abi::{
    Restart, Result, bail,
    signal::{SigInfo, Signal},
};
use std::sync::{Arc, Weak};
use sync::{Mutex, Rank};

/// A terminal as sessions see it. The terminal implements it; its methods are called without the tree's lock.
pub trait ControllingTerminal: Send + Sync {
    /// The foreground process group.
    fn foreground(&self) -> Option<Arc<ProcessGroup>>;
    /// tcsetpgrp(3), all checks made.
    fn set_foreground(&self, group: Option<Arc<ProcessGroup>>);
    /// The session leader has gone or gave the terminal up: hangs up, and forgets the session.
    fn hangup(&self);
    /// Its device number (`tty_nr` of /proc/PID/stat).
    fn device(&self) -> u64;
    /// For the terminal's own use: finding out whether two are the same.
    fn as_any(&self) -> &dyn std::any::Any;
}

/// A session (setsid(2)): process groups that may share a controlling terminal.
pub struct Session {
    /// The leader's process id when the session was made.
    pub id: i32,
    terminal: Mutex<Option<Arc<dyn ControllingTerminal>>>,
}

impl Session {
    pub(crate) fn new(id: i32) -> Arc<Session> {
        Arc::new(Session { id, terminal: Mutex::new(Rank::TaskState, None) })
    }

    /// The controlling terminal.
    #[must_use]
    pub fn terminal(&self) -> Option<Arc<dyn ControllingTerminal>> {
        self.terminal.lock().clone()
    }

    /// Gives the session a controlling terminal, or takes it away; returns the one before.
    pub fn set_terminal(&self, terminal: Option<Arc<dyn ControllingTerminal>>) -> Option<Arc<dyn ControllingTerminal>> {
        std::mem::replace(&mut *self.terminal.lock(), terminal)
    }
}

/// A process group (setpgid(2)).
pub struct ProcessGroup {
    /// Its id: that of the process that founded it.
    pub id: i32,
    /// The session, which never changes.
    pub session: Arc<Session>,
    pids: Weak<PidNamespace>,
}

impl ProcessGroup {
    pub(crate) fn new(id: i32, session: Arc<Session>, pids: &Arc<PidNamespace>) -> Arc<ProcessGroup> {
        Arc::new(ProcessGroup { id, session, pids: Arc::downgrade(pids) })
    }

    /// A group in which nobody is, for processes that are gone.
    pub(super) fn nobody() -> Arc<ProcessGroup> {
        Arc::new(ProcessGroup { id: 0, session: Session::new(0), pids: Weak::new() })
    }

    /// Sends a signal of the kernel's or a terminal's to every process of the group. No permission is checked.
    pub fn send_signal(&self, info: SigInfo) {
        if let Some(pids) = self.pids.upgrade() {
            let tree = pids.tree();
            for group in tree.members(self.id) {
                // A full queue loses the signal for that process alone, as in Linux.
                let _ = group.send_signal(info);
            }
        }
    }

    /// The processes in it.
    pub(crate) fn members(&self) -> Vec<Arc<ThreadGroup>> {
        self.pids.upgrade().map_or_else(Vec::new, |pids| pids.tree().members(self.id).cloned().collect())
    }

    /// Whether no member has a parent in another group of the same session: nobody could continue it, so it is not stopped by
    /// terminal signals.
    #[must_use]
    pub fn is_orphaned(&self) -> bool {
        self.pids.upgrade().is_none_or(|p| p.tree().is_orphaned(self.id, None))
    }
}

impl Task {
    /// The session it belongs to.
    pub fn session(&self) -> Arc<Session> {
        self.process_group().session.clone()
    }

    /// The process group it belongs to.
    pub fn process_group(&self) -> Arc<ProcessGroup> {
        self.group().process_group()
    }

    /// Whether its process leads its session.
    pub fn is_session_leader(&self) -> bool {
        self.session().id == self.tgid()
    }

    /// Whether `terminal` controls this task's session.
    pub fn is_controlled_by(&self, terminal: &dyn ControllingTerminal) -> bool {
        self.session().terminal().is_some_and(|t| std::ptr::addr_eq(Arc::as_ptr(&t), std::ptr::from_ref(terminal)))
    }

    /// Job control (drivers/tty/tty_jobctrl.c, `__tty_check_change`): what happens to a process of the background that reads (`SIGTTIN`),
    /// or writes or changes the terminal (`SIGTTOU`). `Ok` to go on; `EIO`, or interrupted by the signal that was sent.
    pub fn job_control(&self, terminal: &dyn ControllingTerminal, signal: Signal) -> Result {
        if !self.is_controlled_by(terminal) {
            return Ok(());
        }
        let group = self.process_group();
        match terminal.foreground() {
            Some(foreground) if foreground.id != group.id => {}
            _ => return Ok(()),
        }
        if self.is_ignored(signal) || self.signal_mask().contains(signal) {
            if signal == Signal::TTIN {
                bail!(EIO, "reads in the background and ignores SIGTTIN");
            }
            return Ok(());
        }
        if group.is_orphaned() {
            bail!(EIO, "orphaned process group");
        }
        group.send_signal(SigInfo::new(signal, abi::signal::SI_KERNEL));
        self.recalc_signal_pending();
        Err(Restart::Sys.into())
    }
}
