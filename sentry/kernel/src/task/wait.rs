//! wait4(2) and waitid(2).

use super::tree::Process;
use super::{ExitStatus, Task, ThreadGroup, Usage};
use crate::ptrace::Found;
use crate::signal::WaitEvent;
use abi::signal::Signal;
use abi::{Result, bail, poll::PollEvents};
use std::sync::{Arc, atomic::Ordering};

/// Which children are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitWho {
    /// Any child.
    Any,
    /// This one.
    Pid(i32),
    /// Those of this process group.
    Group(i32),
}

/// What is waited for, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitOptions {
    /// `WEXITED`
    pub exited: bool,
    /// `WSTOPPED`
    pub stopped: bool,
    /// `WCONTINUED`
    pub continued: bool,
    /// `WNOHANG`
    pub no_hang: bool,
    /// `WNOWAIT`: leave the child as it is.
    pub keep: bool,
    /// `__WALL`: children with and without SIGCHLD as exit signal.
    pub all: bool,
    /// `__WCLONE`: those without.
    pub clone: bool,
    /// `__WNOTHREAD`: children of the calling thread alone.
    pub own_thread: bool,
}

/// What a child did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitResult {
    /// The child.
    pub pid: i32,
    /// Its real user.
    pub uid: u32,
    /// `CLD_*`
    pub code: i32,
    /// `si_status`: exit code or signal.
    pub status: i32,
    /// As wait4(2) encodes it.
    pub wait_status: i32,
    /// Of the child and its own children that it waited for.
    pub usage: Usage,
}

impl Task {
    /// Waits for a child. `Ok(None)`: `WNOHANG`, and nothing has happened yet. `ECHILD`: no such child.
    pub fn wait_child(&self, who: WaitWho, options: WaitOptions) -> Result<Option<WaitResult>> {
        let group = self.group().clone();
        let mut look = || match self.look_for_child(who, options) {
            Ok(Some(found)) => Some(Ok(Some(found))),
            Ok(None) if options.no_hang => Some(Ok(None)),
            Ok(None) => None,
            Err(e) => Some(Err(e)),
        };
        match self.wait_on(&[(&group.child_queue, PollEvents::IN)], None, &mut look)? {
            Some(result) => result,
            None => Ok(None),
        }
    }

    fn look_for_child(&self, who: WaitWho, options: WaitOptions) -> Result<Option<WaitResult>> {
        let traced = match self.look_for_tracee(who, options) {
            Found::Something(result) => return Ok(Some(result)),
            Found::Ended(result, tracee) => {
                tracee.tracee_ended();
                return Ok(Some(result));
            }
            Found::Nothing => true,
            Found::None => false,
        };
        let mut tree = self.pids().tree();
        let mut any = traced;
        let mut found = None;
        for child in tree.children_of(self.tgid()) {
            let Some(p) = tree.process(child) else { continue };
            if !self.is_eligible(p, who, options) {
                continue;
            }
            any = true;
            if let Some(status) = p.zombie {
                let held = tree.task(child).is_some_and(|leader| leader.is_traced_by_stranger(&tree));
                if options.exited && !held {
                    found = Some((child, Some(status), None));
                    break;
                }
            } else if let Some(event) = take_event(&p.group, options) {
                found = Some((child, None, Some(event)));
                break;
            }
        }
        let Some((child, ended, event)) = found else {
            if !any {
                bail!(ECHILD);
            }
            return Ok(None);
        };
        let Some(p) = tree.process(child) else { bail!(ECHILD) };
        let child_group = p.group.clone();
        let uid = tree.task(child).map_or(0, |t| t.cred().uid);
        let usage = child_group.usage().plus(child_group.children_usage());
        if let Some(status) = ended {
            if !options.keep {
                if let Some(leader) = tree.task(child) {
                    leader.unlink(None);
                }
                tree.remove_process(child);
                drop(tree);
                let mut sum = self.group().children_usage.lock();
                *sum = sum.plus(usage);
                drop(sum);
                child_group.leader_reaped();
            }
            let (code, value) = status.cld();
            return Ok(Some(WaitResult { pid: child, uid, code, status: value, wait_status: status.wait_status(), usage }));
        }
        let (code, value, wait_status) = match event {
            Some(WaitEvent::Stopped(s)) => (libc::CLD_STOPPED, s.number(), i32::from(s.number()) << 8 | 0x7f),
            _ => (libc::CLD_CONTINUED, Signal::CONT.number(), 0xffff),
        };
        Ok(Some(WaitResult { pid: child, uid, code, status: value.into(), wait_status, usage }))
    }

    fn is_eligible(&self, p: &Process, who: WaitWho, options: WaitOptions) -> bool {
        let named = match who {
            WaitWho::Any => true,
            WaitWho::Pid(pid) => p.group.tgid == pid,
            WaitWho::Group(pgid) => p.process_group.id == pgid,
        };
        let is_clone = p.group.exit_signal.load(Ordering::Relaxed) != libc::SIGCHLD;
        named && (options.all || is_clone == options.clone) && (!options.own_thread || p.parent_tid == self.tid())
    }
}

/// The stop or continuation that is to be reported, which is then no longer.
fn take_event(group: &Arc<ThreadGroup>, options: WaitOptions) -> Option<WaitEvent> {
    let mut state = group.lock();
    let event = state.wait_event?;
    let wanted = match event {
        WaitEvent::Stopped(_) => options.stopped,
        WaitEvent::Continued => options.continued,
    };
    if !wanted {
        return None;
    }
    if !options.keep {
        state.wait_event = None;
    }
    Some(event)
}

impl ExitStatus {
    /// What a shell shows: the code, or 128 and the signal.
    #[must_use]
    pub fn shell_code(self) -> u8 {
        match self {
            ExitStatus::Exited(code) => code,
            ExitStatus::Signaled { signal, .. } => signal.number().saturating_add(128),
        }
    }
}
