//! What the calls about signals do: kill(2) and its kin, sigtimedwait(2), sigsuspend(2), sigaction(2).

use super::state::{SIG_DFL, SIG_IGN};
use super::{DefaultAction, default_action};
use crate::cred::CapSet;
use crate::task::{CurrentTask, Task, ThreadGroup};
use abi::signal::{SI_TKILL, SI_USER, SigAction, SigInfo, SigSet, Signal};
use abi::{Errno, Error, Restart, Result, bail, error};
use std::sync::Arc;
use std::time::Instant;

/// `sa_flags` that Linux knows; others are dropped, which is how programs find out.
const SA_KNOWN: u64 = 0xc000_0000 | 0x1000_0000 | 0x0c00_0000 | 0x800 | 7;

impl Task {
    /// Whether this task may send `sig` (`None`: only probing) to `target` (`kill_ok_by_cred`, `check_kill_permission`).
    pub fn may_signal(&self, target: &ThreadGroup, sig: Option<Signal>) -> Result {
        if target.tgid == self.tgid() {
            return Ok(());
        }
        let own = self.cred();
        let Some(leader) = target.leader() else { bail!(ESRCH) };
        let theirs = leader.cred();
        let same = [own.euid, own.uid].iter().any(|u| *u == theirs.suid || *u == theirs.uid);
        if same || own.capable(CapSet::KILL) {
            return Ok(());
        }
        if sig == Some(Signal::CONT) && leader.session().id == self.session().id {
            return Ok(());
        }
        bail!(EPERM, "may not signal process {}", target.tgid)
    }

    fn user_info(&self, sig: Signal, code: i32) -> SigInfo {
        SigInfo::user(sig, code, self.tgid(), self.cred().uid)
    }

    /// kill(2). `sig` of `None`: only checks.
    pub fn kill(&self, pid: i32, sig: Option<Signal>) -> Result {
        match pid {
            1.. => {
                let group = self.pids().process(pid).or_else(|| self.pids().task(pid).map(|t| t.group().clone()));
                let Some(group) = group else { bail!(ESRCH, "no process {pid}") };
                self.kill_one(&group, sig)
            }
            0 => self.kill_group(self.process_group().id, sig),
            -1 => self.kill_all(sig),
            i32::MIN => bail!(ESRCH),
            _ => self.kill_group(-pid, sig),
        }
    }

    fn kill_one(&self, group: &Arc<ThreadGroup>, sig: Option<Signal>) -> Result {
        self.may_signal(group, sig)?;
        match sig {
            Some(s) => group.send_signal(self.user_info(s, SI_USER)),
            None => Ok(()),
        }
    }

    fn kill_group(&self, pgid: i32, sig: Option<Signal>) -> Result {
        let members: Vec<_> = self.pids().tree().members(pgid).cloned().collect();
        let mut result = Err(error!(ESRCH, "no process group {pgid}"));
        for group in members {
            match self.kill_one(&group, sig) {
                Ok(()) => result = Ok(()),
                // One success is enough; of failures the last is told.
                Err(e) if result.is_err() => result = Err(e),
                Err(_) => {}
            }
        }
        result
    }

    /// Everyone but init and the caller.
    fn kill_all(&self, sig: Option<Signal>) -> Result {
        let mut seen = false;
        let mut result = Ok(());
        for group in self.pids().processes() {
            if group.tgid > 1 && group.tgid != self.tgid() {
                seen = true;
                match self.kill_one(&group, sig) {
                    Err(e) if !e.is(Errno::EPERM) => result = Err(e),
                    _ => {}
                }
            }
        }
        if seen { result } else { bail!(ESRCH, "nobody else") }
    }

    /// tgkill(2), and tkill(2) without `tgid`.
    pub fn tgkill(&self, tgid: Option<i32>, tid: i32, sig: Option<Signal>) -> Result {
        if tid <= 0 || tgid.is_some_and(|g| g <= 0) {
            bail!(EINVAL, "ids must be positive");
        }
        let sig_info = sig.map(|s| self.user_info(s, SI_TKILL));
        self.send_to_thread(tgid, tid, sig, sig_info)
    }

    fn send_to_thread(&self, tgid: Option<i32>, tid: i32, sig: Option<Signal>, info: Option<SigInfo>) -> Result {
        let target = self.pids().task(tid).filter(|t| tgid.is_none_or(|g| g == t.tgid()));
        let Some(target) = target else { bail!(ESRCH, "no thread {tid}") };
        self.may_signal(target.group(), sig)?;
        match info {
            Some(info) => target.send_signal(info),
            None => Ok(()),
        }
    }

    /// Checks a siginfo that the application made (rt_sigqueueinfo(2)): codes of the kernel's may only be sent to oneself.
    fn checked_info(&self, mut info: SigInfo, sig: Option<Signal>, to: i32) -> Result<SigInfo> {
        if (info.code >= 0 || info.code == SI_TKILL) && to != self.tgid() {
            bail!(EPERM, "si_code {} is the kernel's", info.code);
        }
        info.signo = sig.map_or(0, |s| s.number().into());
        Ok(info)
    }

    /// rt_sigqueueinfo(2).
    pub fn sigqueue(&self, pid: i32, sig: Option<Signal>, info: SigInfo) -> Result {
        let info = self.checked_info(info, sig, pid)?;
        let Some(group) = self.pids().process(pid) else { bail!(ESRCH, "no process {pid}") };
        self.may_signal(&group, sig)?;
        if sig.is_some() { group.send_signal(info) } else { Ok(()) }
    }

    /// rt_tgsigqueueinfo(2).
    pub fn tgsigqueue(&self, tgid: i32, tid: i32, sig: Option<Signal>, info: SigInfo) -> Result {
        if tgid <= 0 || tid <= 0 {
            bail!(EINVAL, "ids must be positive");
        }
        let info = self.checked_info(info, sig, tgid)?;
        self.send_to_thread(Some(tgid), tid, sig, sig.map(|_| info))
    }

    /// pidfd_send_signal(2), the process already found.
    pub fn pidfd_signal(&self, group: &Arc<ThreadGroup>, sig: Option<Signal>, info: Option<SigInfo>) -> Result {
        if group.is_dead() {
            bail!(ESRCH, "process has ended");
        }
        match info {
            None => self.kill_one(group, sig),
            Some(i) => {
                if i.signo != sig.map_or(0, |s| s.number().into()) {
                    bail!(EINVAL, "siginfo is of another signal");
                }
                let i = self.checked_info(i, sig, group.tgid)?;
                self.may_signal(group, sig)?;
                if sig.is_some() { group.send_signal(i) } else { Ok(()) }
            }
        }
    }

    /// rt_sigaction(2): the old action, and the new one in force. `EINVAL` for SIGKILL and SIGSTOP.
    pub fn sigaction(&self, sig: Signal, new: Option<SigAction>) -> Result<SigAction> {
        let handlers = self.group().handlers();
        let Some(mut new) = new else { return Ok(handlers.get(sig)) };
        if SigSet::UNBLOCKABLE.contains(sig) {
            bail!(EINVAL, "cannot be caught");
        }
        new.flags &= SA_KNOWN;
        new.mask = new.mask.minus(SigSet::UNBLOCKABLE);
        let mut state = self.group().lock();
        let old = handlers.set(sig, new);
        let ignored = new.handler == SIG_IGN || new.handler == SIG_DFL && default_action(sig) == DefaultAction::Ignore;
        if ignored {
            // POSIX 3.3.1.3: ignoring a signal discards it where it is pending, blocked or not.
            let mut freed = state.shared.remove(sig.bit());
            for t in &state.threads {
                freed += t.signals().pending.lock_nested().remove(sig.bit());
            }
            state.queued = state.queued.saturating_sub(freed);
        }
        Ok(old)
    }

    /// Waits for a signal of `set`, which it takes without running a handler (rt_sigtimedwait(2)). `EAGAIN` at the deadline.
    pub fn sigtimedwait(&self, set: SigSet, deadline: Option<Instant>) -> Result<SigInfo> {
        let set = set.minus(SigSet::UNBLOCKABLE);
        if let Some(info) = self.dequeue_signal(set) {
            return Ok(info);
        }
        // Senders see what is waited for, and wake this thread as if it were not blocked.
        self.signals().set_waited(set);
        let result = loop {
            if let Some(done) = self.take_waited(set) {
                break done;
            }
            if deadline.is_some_and(|d| Instant::now() >= d) {
                break Err(error!(EAGAIN));
            }
            self.park(deadline);
        };
        self.signals().set_waited(SigSet::EMPTY);
        self.recalc_signal_pending();
        result
    }

    /// A signal of `set`, or `EINTR` if another one is there; both seen under one lock.
    fn take_waited(&self, set: SigSet) -> Option<Result<SigInfo>> {
        let group = self.group();
        let mut state = group.lock();
        let taken = self.dequeue_locked(&mut state, SigSet(!set.0));
        self.recalc_locked(&state);
        drop(state);
        match taken {
            Some((_, info)) => Some(Ok(group.timers.complete_info(info))),
            None if self.signal_pending() => Some(Err(Error::Errno(Errno::EINTR))),
            None => None,
        }
    }

    /// Blocks until a signal is delivered (pause(2), rt_sigsuspend(2) with its mask in force).
    pub fn wait_for_signal(&self) -> Result {
        while !self.signal_pending() {
            self.park(None);
        }
        Err(Restart::NoHand.into())
    }
}

impl CurrentTask {
    /// rt_sigsuspend(2).
    pub fn sigsuspend(&mut self, mask: SigSet) -> Result {
        self.set_temporary_mask(mask);
        self.wait_for_signal()
    }

    /// rt_sigprocmask(2): `how` as in libc. Returns the old mask.
    pub fn sigprocmask(&mut self, how: i32, set: Option<SigSet>) -> Result<SigSet> {
        let old = self.signal_mask();
        let Some(set) = set else { return Ok(old) };
        let new = match how {
            libc::SIG_BLOCK => old.union(set),
            libc::SIG_UNBLOCK => old.minus(set),
            libc::SIG_SETMASK => set,
            _ => bail!(EINVAL, "how"),
        };
        if new.minus(SigSet::UNBLOCKABLE) != old {
            self.task.set_signal_mask(new);
        }
        Ok(old)
    }
}
