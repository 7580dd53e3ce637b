//! What wait4(2) tells a tracer of its tracees.

use super::State;
use crate::task::{ExitStatus, Task, WaitOptions, WaitResult, WaitWho};
use std::sync::{Arc, atomic::Ordering};

/// What a tracer's look at its tracees found.
pub(crate) enum Found {
    /// It has none of those asked for.
    None,
    /// It has, and nothing has happened to them.
    Nothing,
    /// This has happened.
    Something(WaitResult),
    /// This tracee has ended, and has been let go of; its own memory of it is the caller's to give up.
    Ended(WaitResult, Arc<Task>),
}

impl Task {
    /// Looks at the tracees of the caller's process.
    pub(crate) fn look_for_tracee(&self, who: WaitWho, options: WaitOptions) -> Found {
        if self.group().tracees.load(Ordering::SeqCst) == 0 {
            return Found::None;
        }
        let tree = self.pids().tree();
        let mut any = false;
        for task in tree.tasks() {
            let named = match who {
                WaitWho::Any => true,
                WaitWho::Pid(pid) => task.tid() == pid,
                WaitWho::Group(pgid) => tree.group_of(task.tgid()).id == pgid,
            };
            if !named || !self.is_tracer_of(task, options.own_thread) {
                continue;
            }
            let zombie = || if task.is_leader() { tree.process(task.tgid()).and_then(|p| p.zombie) } else { None };
            let mut s = task.tracing.lock();
            let ended = s.dead.or_else(zombie);
            // A process whose parent is its tracer is waited for as any child, once it has ended.
            let own_child = task.is_leader() && tree.parent_of(task.tgid()) == self.tgid();
            if ended.is_some() && own_child {
                continue;
            }
            any = true;
            if let Some(status) = ended {
                if options.exited {
                    drop(s);
                    let result = task.wait_result(Err(status));
                    if options.keep {
                        return Found::Something(result);
                    }
                    return Found::Ended(result, task.clone());
                }
                continue;
            }
            if let State { stop: Some(stop), .. } = &mut *s
                && stop.resumed.is_none()
                && !stop.reported
            {
                stop.reported = !options.keep;
                let code = stop.code;
                drop(s);
                return Found::Something(task.wait_result(Ok(code)));
            }
        }
        if any { Found::Nothing } else { Found::None }
    }

    fn is_tracer_of(&self, task: &Task, own_thread: bool) -> bool {
        let s = task.tracing.lock();
        s.link.as_ref().is_some_and(|l| {
            if own_thread {
                std::ptr::eq(l.tracer.as_ptr(), self)
            } else {
                std::ptr::eq(l.tracer_group.as_ptr(), Arc::as_ptr(self.group()))
            }
        })
    }

    /// The end of a tracee has been told to its tracer.
    pub(crate) fn tracee_ended(&self) {
        self.unlink(None);
        self.let_go_of_dead();
    }

    /// `Ok`: the code of a stop.
    fn wait_result(&self, what: Result<i32, ExitStatus>) -> WaitResult {
        let (code, status, wait_status) = match what {
            Ok(code) => (libc::CLD_TRAPPED, code, code << 8 | 0x7f),
            Err(ended) => {
                let (code, status) = ended.cld();
                (code, status, ended.wait_status())
            }
        };
        WaitResult { pid: self.tid(), uid: self.cred().uid, code, status, wait_status, usage: self.usage() }
    }
}
