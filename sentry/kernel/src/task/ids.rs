//! Process groups and sessions as calls change them, unshare(2), and who may look into whom.

use super::{ProcessGroup, Task, tree::Tree};
use crate::cred::CapSet;
use abi::task::CloneFlags;
use abi::{Result, bail};
use std::sync::{Arc, atomic::Ordering};

/// What unshare(2) and setns(2) would need more than one namespace for.
const NAMESPACES: CloneFlags = CloneFlags::NEWNS
    .union(CloneFlags::NEWCGROUP)
    .union(CloneFlags::NEWUTS)
    .union(CloneFlags::NEWIPC)
    .union(CloneFlags::NEWUSER)
    .union(CloneFlags::NEWPID)
    .union(CloneFlags::NEWNET)
    .union(CloneFlags::NEWTIME);

impl Task {
    /// getpgid(2); 0: the caller.
    pub fn getpgid(&self, pid: i32) -> Result<i32> {
        Ok(self.group_named(pid)?.id)
    }

    /// getsid(2); 0: the caller.
    pub fn getsid(&self, pid: i32) -> Result<i32> {
        Ok(self.group_named(pid)?.session.id)
    }

    fn group_named(&self, pid: i32) -> Result<Arc<ProcessGroup>> {
        if pid == 0 {
            return Ok(self.process_group());
        }
        let tree = self.pids().tree();
        match tree.task(pid) {
            Some(t) => Ok(tree.group_of(t.tgid())),
            None => bail!(ESRCH, "no process {pid}"),
        }
    }

    /// setpgid(2).
    pub fn setpgid(&self, pid: i32, pgid: i32) -> Result {
        let pid = if pid == 0 { self.tgid() } else { pid };
        let pgid = if pgid == 0 { pid } else { pgid };
        if pgid < 0 {
            bail!(EINVAL, "negative process group");
        }
        let mut tree = self.pids().tree();
        let Some(target) = tree.task(pid) else { bail!(ESRCH, "no process {pid}") };
        if !target.is_leader() {
            bail!(EINVAL, "not a process");
        }
        let session = tree.group_of(self.tgid()).session.clone();
        let current = tree.group_of(pid);
        if tree.parent_of(pid) == self.tgid() {
            if current.session.id != session.id {
                bail!(EPERM, "child is in another session");
            }
            if target.group().did_exec.load(Ordering::Relaxed) {
                bail!(EACCES, "child has executed a program");
            }
        } else if pid != self.tgid() {
            bail!(ESRCH, "neither the caller nor a child of it");
        }
        if current.session.id == pid {
            bail!(EPERM, "session leader");
        }
        let to = if pgid == pid && current.id != pid {
            match tree.process_group(pgid) {
                Some(g) => g,
                None => ProcessGroup::new(pgid, session.clone(), self.pids()),
            }
        } else {
            match tree.process_group(pgid) {
                Some(g) => g,
                None => bail!(EPERM, "no process group {pgid}"),
            }
        };
        if to.session.id != session.id {
            bail!(EPERM, "process group of another session");
        }
        tree.set_process_group(pid, to);
        Ok(())
    }

    /// setsid(2): a new session and process group, without a controlling terminal. Returns its id.
    pub fn setsid(&self) -> Result<i32> {
        let id = self.tgid();
        let mut tree = self.pids().tree();
        if tree.group_of(id).session.id == id || tree.process_group(id).is_some() {
            bail!(EPERM, "leads a process group");
        }
        let group = Tree::new_session(self.pids(), id);
        tree.set_process_group(id, group);
        Ok(id)
    }

    /// unshare(2): descriptors and file system context; of everything else only what nobody shares.
    pub fn unshare(&self, flags: CloneFlags) -> Result {
        use CloneFlags as F;
        let known = F::FS | F::FILES | F::SYSVSEM | F::SIGHAND | F::VM | F::THREAD | NAMESPACES;
        if !(flags - known).is_empty() {
            bail!(EINVAL, "cannot be unshared: {:?}", flags - known);
        }
        if flags.intersects(F::THREAD | F::SIGHAND | F::VM) && self.group().thread_count() > 1 {
            bail!(EINVAL, "shared with other threads");
        }
        if flags.intersects(NAMESPACES) {
            if !flags.contains(F::NEWUSER) {
                self.cred().require(CapSet::SYS_ADMIN)?;
            }
            bail!(EINVAL, "no further namespaces");
        }
        if flags.contains(F::FS) {
            self.set_fs(self.fs().duplicate());
        }
        if flags.contains(F::FILES) {
            self.set_files(Arc::new(self.files().duplicate()));
        }
        Ok(())
    }

    /// Whether this task may look into the memory, descriptors and secrets of `target` (`ptrace_may_access` with the real ids): the same
    /// process, all ids equal and the target dumpable, or CAP_SYS_PTRACE. `EPERM` otherwise.
    pub fn may_inspect(&self, target: &Task) -> Result {
        if Arc::ptr_eq(target.group(), self.group()) {
            return Ok(());
        }
        let (own, theirs) = (self.cred(), target.cred());
        let uids = [theirs.euid, theirs.suid, theirs.uid].iter().all(|u| *u == own.fsuid);
        let gids = [theirs.egid, theirs.sgid, theirs.gid].iter().all(|g| *g == own.fsgid);
        let dumpable = target.group().dumpable.load(Ordering::Relaxed) == 1;
        let capabilities = own.permitted.contains(theirs.permitted);
        if own.capable(CapSet::SYS_PTRACE) || uids && gids && dumpable && capabilities {
            return Ok(());
        }
        bail!(EPERM, "may not inspect task {}", target.tid())
    }
}
