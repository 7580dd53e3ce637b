//! [`Tree`]: the pid table of a pid namespace, and who is whose parent, group and session (`tasklist_lock` and what it protects).
//!
//! One lock, one place: relations between processes are kept here and nowhere else, as plain numbers.

use super::{ExitStatus, ProcessGroup, Session, Task, ThreadGroup};
use crate::container::PidNamespace;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, OnceLock, Weak};

/// One above the highest process id (`/proc/sys/kernel/pid_max`).
pub const PID_MAX: i32 = 32_768;
/// Where the search for a free id begins again after it has wrapped around (`RESERVED_PIDS`).
const RESERVED_PIDS: i32 = 300;

/// A process in the tree.
pub(crate) struct Process {
    pub group: Arc<ThreadGroup>,
    /// The parent's process id; 0: none.
    pub parent: i32,
    /// The parent's thread that made it: it alone waits with __WNOTHREAD, and its end sends the parent-death signal.
    pub parent_tid: i32,
    pub children: BTreeSet<i32>,
    pub process_group: Arc<ProcessGroup>,
    /// All threads have ended.
    pub zombie: Option<ExitStatus>,
}

/// The pid table and process tree.
#[derive(Default)]
pub(crate) struct Tree {
    tasks: BTreeMap<i32, Arc<Task>>,
    processes: BTreeMap<i32, Process>,
    /// Process groups that have members, and sessions that have groups: their ids must not be given out.
    groups: BTreeMap<i32, Weak<ProcessGroup>>,
    tasks_of_user: HashMap<u32, usize>,
    last_pid: i32,
}

impl Tree {
    pub fn task(&self, tid: i32) -> Option<Arc<Task>> {
        self.tasks.get(&tid).cloned()
    }

    pub fn group(&self, tgid: i32) -> Option<Arc<ThreadGroup>> {
        self.processes.get(&tgid).map(|p| p.group.clone())
    }

    pub fn process(&self, tgid: i32) -> Option<&Process> {
        self.processes.get(&tgid)
    }

    pub fn process_mut(&mut self, tgid: i32) -> Option<&mut Process> {
        self.processes.get_mut(&tgid)
    }

    pub fn groups(&self) -> Vec<Arc<ThreadGroup>> {
        self.processes.values().map(|p| p.group.clone()).collect()
    }

    pub fn tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.values()
    }

    pub fn last_pid(&self) -> i32 {
        self.last_pid
    }

    pub fn parent_of(&self, tgid: i32) -> i32 {
        self.processes.get(&tgid).map_or(0, |p| p.parent)
    }

    pub fn children_of(&self, tgid: i32) -> Vec<i32> {
        self.processes.get(&tgid).map_or_else(Vec::new, |p| p.children.iter().copied().collect())
    }

    /// The process group of a process; of a reaped one, a group of its own in which nobody is.
    pub fn group_of(&self, tgid: i32) -> Arc<ProcessGroup> {
        static NOBODY: OnceLock<Arc<ProcessGroup>> = OnceLock::new();
        match self.processes.get(&tgid) {
            Some(p) => p.process_group.clone(),
            None => NOBODY.get_or_init(ProcessGroup::nobody).clone(),
        }
    }

    pub fn process_group(&self, pgid: i32) -> Option<Arc<ProcessGroup>> {
        self.groups.get(&pgid).and_then(Weak::upgrade).filter(|g| self.processes.values().any(|p| p.process_group.id == g.id))
    }

    /// Members of a process group.
    pub fn members(&self, pgid: i32) -> impl Iterator<Item = &Arc<ThreadGroup>> {
        self.processes.values().filter(move |p| p.process_group.id == pgid).map(|p| &p.group)
    }

    /// Whether no process of the group (leaving out `ignored`, which is about to leave it) has a living parent in another group of
    /// the same session (`will_become_orphaned_pgrp`).
    pub fn is_orphaned(&self, pgid: i32, ignored: Option<i32>) -> bool {
        !self.processes.iter().any(|(&tgid, p)| {
            p.process_group.id == pgid
                && Some(tgid) != ignored
                && p.zombie.is_none()
                && self
                    .processes
                    .get(&p.parent)
                    .is_some_and(|parent| parent.process_group.id != pgid && parent.process_group.session.id == p.process_group.session.id)
        })
    }

    /// Whether the group would be orphaned if `parent` were gone.
    pub fn is_orphaned_without(&self, pgid: i32, parent: i32) -> bool {
        !self.processes.values().any(|p| {
            p.process_group.id == pgid
                && p.parent != parent
                && p.zombie.is_none()
                && self
                    .processes
                    .get(&p.parent)
                    .is_some_and(|parent| parent.process_group.id != pgid && parent.process_group.session.id == p.process_group.session.id)
        })
    }

    /// Tasks that this user has.
    pub fn tasks_of_user(&self, uid: u32) -> usize {
        self.tasks_of_user.get(&uid).copied().unwrap_or(0)
    }

    fn is_free(&self, id: i32) -> bool {
        !self.tasks.contains_key(&id)
            && !self.processes.contains_key(&id)
            && self.groups.get(&id).is_none_or(|g| g.strong_count() == 0)
            && !self.processes.values().any(|p| p.process_group.session.id == id)
    }

    /// A free id; `None` where all are taken.
    pub fn allocate_pid(&mut self) -> Option<i32> {
        let mut id = self.last_pid;
        for _ in 0..PID_MAX {
            id += 1;
            if id >= PID_MAX {
                id = RESERVED_PIDS;
            }
            if self.is_free(id) {
                self.last_pid = id;
                return Some(id);
            }
        }
        None
    }

    /// Takes this very id (`set_tid` of clone3(2)).
    pub fn allocate_exact(&mut self, id: i32) -> bool {
        id > 0 && id < PID_MAX && self.is_free(id)
    }

    /// Enters a process without threads yet.
    pub fn add_process(&mut self, group: Arc<ThreadGroup>, parent: i32, parent_tid: i32, process_group: Arc<ProcessGroup>) {
        let tgid = group.tgid;
        if let Some(p) = self.processes.get_mut(&parent) {
            p.children.insert(tgid);
        }
        self.groups.insert(process_group.id, Arc::downgrade(&process_group));
        let children = BTreeSet::new();
        self.processes.insert(tgid, Process { group, parent, parent_tid, children, process_group, zombie: None });
    }

    /// Enters a thread.
    pub fn add_task(&mut self, task: Arc<Task>) {
        *self.tasks_of_user.entry(task.counted_uid()).or_default() += 1;
        task.container().count_task(true);
        self.tasks.insert(task.tid(), task);
    }

    /// Takes a thread out.
    pub fn remove_task(&mut self, tid: i32) {
        if let Some(task) = self.tasks.remove(&tid) {
            task.container().count_task(false);
            self.uncount(task.counted_uid());
        }
    }

    fn uncount(&mut self, uid: u32) {
        if let Some(n) = self.tasks_of_user.get_mut(&uid) {
            *n -= 1;
            if *n == 0 {
                self.tasks_of_user.remove(&uid);
            }
        }
    }

    /// Counts a thread among another user's (setuid(2)).
    pub fn recount(&mut self, task: &Task, uid: u32) {
        let old = task.set_counted_uid(uid);
        if old != uid && self.tasks.contains_key(&task.tid()) {
            self.uncount(old);
            *self.tasks_of_user.entry(uid).or_default() += 1;
        }
    }

    /// The thread that executes a program takes the place and the id of its leader, which has ended.
    pub fn take_leadership(&mut self, task: &Arc<Task>) {
        let (from, to) = (task.tid(), task.tgid());
        self.remove_task(to);
        self.tasks.remove(&from);
        task.set_tid(to);
        self.tasks.insert(to, task.clone());
        for child in self.children_of(to) {
            if let Some(p) = self.processes.get_mut(&child)
                && p.parent_tid == from
            {
                p.parent_tid = to;
            }
        }
    }

    /// Takes a process out that was waited for; its leader goes with it. Returns it.
    pub fn remove_process(&mut self, tgid: i32) -> Option<Process> {
        let gone = self.processes.remove(&tgid)?;
        gone.group.container().count_reaped(gone.group.usage());
        self.remove_task(tgid);
        if let Some(p) = self.processes.get_mut(&gone.parent) {
            p.children.remove(&tgid);
        }
        self.forget_group(gone.process_group.id);
        Some(gone)
    }

    /// Moves a process to another group.
    pub fn set_process_group(&mut self, tgid: i32, to: Arc<ProcessGroup>) {
        let id = to.id;
        self.groups.insert(id, Arc::downgrade(&to));
        let Some(p) = self.processes.get_mut(&tgid) else { return };
        let old = std::mem::replace(&mut p.process_group, to).id;
        if old != id {
            self.forget_group(old);
        }
    }

    fn forget_group(&mut self, id: i32) {
        if !self.processes.values().any(|p| p.process_group.id == id) && self.groups.get(&id).is_some_and(|g| g.strong_count() == 0) {
            self.groups.remove(&id);
        }
    }

    /// Gives a child another parent.
    pub fn reparent(&mut self, child: i32, parent: i32, parent_tid: i32) {
        let Some(p) = self.processes.get_mut(&child) else { return };
        let old = std::mem::replace(&mut p.parent, parent);
        p.parent_tid = parent_tid;
        if let Some(p) = self.processes.get_mut(&old) {
            p.children.remove(&child);
        }
        if let Some(p) = self.processes.get_mut(&parent) {
            p.children.insert(child);
        }
    }

    /// A new process group in a new session, both with this id.
    pub fn new_session(pids: &Arc<PidNamespace>, id: i32) -> Arc<ProcessGroup> {
        ProcessGroup::new(id, Session::new(id), pids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_ascend_and_wrap_above_the_reserved_ones() {
        let mut tree = Tree::default();
        assert_eq!((tree.allocate_pid(), tree.allocate_pid()), (Some(1), Some(2)));
        tree.last_pid = PID_MAX - 1;
        assert_eq!(tree.allocate_pid(), Some(RESERVED_PIDS));
        assert!(tree.allocate_exact(7) && !tree.allocate_exact(0) && !tree.allocate_exact(PID_MAX));
    }

    #[test]
    fn an_unknown_process_is_in_nobody_s_group() {
        let tree = Tree::default();
        assert_eq!((tree.group_of(5).id, tree.parent_of(5), tree.tasks().count()), (0, 0, 0));
        assert!(tree.process_group(5).is_none() && tree.is_orphaned(5, None) && tree.is_orphaned_without(5, 1));
    }
}
