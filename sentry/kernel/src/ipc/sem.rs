//! System V semaphores: semget(2), semop(2), semctl(2).

use super::limits::Limits;
use super::sysv::{Object, Perm, Table, now};
use crate::{
    container::IpcNamespace,
    cred::Credentials,
    task::{Task, ThreadGroup},
};
use abi::{Errno, Error, Result, bail, poll::PollEvents};
use std::collections::HashMap;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use std::time::Instant;
use sync::{Mutex, Rank, WaitQueue};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The highest value.
pub const SEMVMX: i32 = 32_767;
/// `IPC_NOWAIT`
const NOWAIT: i16 = 0o4000;
/// `SEM_UNDO`
const UNDO: i16 = 0x1000;

/// `struct sembuf`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SemBuf {
    /// Index in the set.
    pub num: u16,
    /// What to add; 0: wait for zero.
    pub op: i16,
    /// `IPC_NOWAIT`, `SEM_UNDO`.
    pub flags: i16,
}

#[derive(Clone, Copy, Default)]
struct Sem {
    value: i32,
    /// Who operated on it last.
    pid: i32,
}

/// A task that waits.
struct Waiter {
    id: u64,
    num: u16,
    /// For zero, not for an increase.
    for_zero: bool,
}

struct State {
    perm: Perm,
    sems: Vec<Sem>,
    waiters: Vec<Waiter>,
    /// What is added when a process ends, by its serial number and the index.
    undo: HashMap<(u64, u16), i32>,
    otime: i64,
    ctime: i64,
    removed: bool,
}

/// A set of semaphores.
pub struct SemSet {
    state: Mutex<State>,
    queue: WaitQueue,
}

impl Object for SemSet {
    fn perm(&self) -> Perm {
        self.state.lock().perm
    }
}

/// What semctl(2) IPC_STAT tells.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Info {
    pub perm: Perm,
    pub otime: i64,
    pub ctime: i64,
    pub count: usize,
}

/// Who operates.
#[derive(Clone, Copy)]
struct Who {
    /// As GETPID tells it.
    pid: i32,
    /// Its serial number: containers that share semaphores need not share numbers of processes.
    process: u64,
}

impl Who {
    fn of(group: &ThreadGroup) -> Who {
        Who { pid: group.tgid, process: group.serial }
    }
}

/// Why operations cannot be carried out now: the semaphore, and whether zero is awaited.
type Blocked = (u16, bool, i16);

impl State {
    /// Carries out all operations, or none.
    fn apply(&mut self, ops: &[SemBuf], who: Who) -> Result<Option<Blocked>> {
        let mut values: HashMap<u16, i32> = HashMap::new();
        for op in ops {
            let Some(sem) = self.sems.get(usize::from(op.num)) else { bail!(EFBIG, "no semaphore {}", op.num) };
            let value = values.entry(op.num).or_insert(sem.value);
            if op.op == 0 {
                if *value != 0 {
                    return Ok(Some((op.num, true, op.flags)));
                }
                continue;
            }
            let new = *value + i32::from(op.op);
            if new < 0 {
                return Ok(Some((op.num, false, op.flags)));
            }
            if new > SEMVMX {
                bail!(ERANGE, "value too high");
            }
            if op.flags & UNDO != 0 {
                let undo = self.undo.get(&(who.process, op.num)).copied().unwrap_or(0) - i32::from(op.op);
                if undo.abs() > SEMVMX + 1 {
                    bail!(ERANGE, "too much to undo");
                }
            }
            *value = new;
        }
        for op in ops {
            if let Some(sem) = self.sems.get_mut(usize::from(op.num)) {
                sem.value = values.get(&op.num).copied().unwrap_or(sem.value);
                sem.pid = who.pid;
            }
            if op.flags & UNDO != 0 {
                *self.undo.entry((who.process, op.num)).or_default() -= i32::from(op.op);
            }
        }
        self.otime = now();
        Ok(None)
    }
}

impl SemSet {
    fn new(perm: Perm, count: usize) -> SemSet {
        let state = State {
            perm,
            sems: vec![Sem::default(); count],
            waiters: Vec::new(),
            undo: HashMap::new(),
            otime: 0,
            ctime: now(),
            removed: false,
        };
        SemSet { state: Mutex::new(Rank::FileState, state), queue: WaitQueue::new() }
    }

    fn changed(&self) {
        self.queue.notify(PollEvents::WRITABLE);
    }

    /// Tries the operations; notes the task as waiting where they must wait. `None`: wait.
    fn attempt(&self, ops: &[SemBuf], who: Who, waiter: u64) -> Option<Result> {
        let mut s = self.state.lock();
        s.waiters.retain(|w| w.id != waiter);
        if s.removed {
            return Some(Err(abi::error!(EIDRM, "removed")));
        }
        match s.apply(ops, who) {
            Ok(None) => {
                drop(s);
                self.changed();
                Some(Ok(()))
            }
            Ok(Some((_, _, flags))) if flags & NOWAIT != 0 => Some(Err(abi::error!(EAGAIN, "would wait"))),
            Ok(Some((num, for_zero, _))) => {
                s.waiters.push(Waiter { id: waiter, num, for_zero });
                None
            }
            Err(e) => Some(Err(e)),
        }
    }

    /// semop(2), until `deadline`: `EAGAIN` then. Interrupted it fails with `EINTR`, always.
    pub fn operate(&self, task: &Task, ops: &[SemBuf], deadline: Option<Instant>) -> Result {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let alters = ops.iter().any(|o| o.op != 0);
        self.state.lock().perm.check(&task.cred(), if alters { 2 } else { 4 })?;
        let waiter = NEXT.fetch_add(1, Ordering::Relaxed);
        let done = task.wait_on(&[(&self.queue, PollEvents::WRITABLE)], deadline, || self.attempt(ops, Who::of(task.group()), waiter));
        let result = match done {
            Ok(Some(result)) => return result,
            Ok(None) => Err(Errno::EAGAIN.into()),
            Err(Error::Restart(_)) => Err(Errno::EINTR.into()),
            Err(e) => Err(e),
        };
        self.state.lock().waiters.retain(|w| w.id != waiter);
        result
    }

    /// IPC_STAT; `any`: without a check.
    pub fn info(&self, cred: &Credentials, any: bool) -> Result<Info> {
        let s = self.state.lock();
        if !any {
            s.perm.check(cred, 4)?;
        }
        Ok(Info { perm: s.perm, otime: s.otime, ctime: s.ctime, count: s.sems.len() })
    }

    /// IPC_SET.
    pub fn set(&self, uid: u32, gid: u32, mode: u32, cred: &Credentials) -> Result {
        let mut s = self.state.lock();
        s.perm.check_owner(cred)?;
        s.perm.set(uid, gid, mode)?;
        s.ctime = now();
        Ok(())
    }

    fn one<R>(&self, num: i32, cred: &Credentials, f: impl FnOnce(&State, Sem, u16) -> R) -> Result<R> {
        let s = self.state.lock();
        s.perm.check(cred, 4)?;
        match usize::try_from(num).ok().and_then(|n| s.sems.get(n)) {
            Some(sem) => Ok(f(&s, *sem, num as u16)),
            None => bail!(EINVAL, "no semaphore {num}"),
        }
    }

    /// GETVAL.
    pub fn value(&self, num: i32, cred: &Credentials) -> Result<i32> {
        self.one(num, cred, |_, sem, _| sem.value)
    }

    /// GETPID.
    pub fn pid(&self, num: i32, cred: &Credentials) -> Result<i32> {
        self.one(num, cred, |_, sem, _| sem.pid)
    }

    /// GETNCNT, and for `zero` GETZCNT: how many tasks wait.
    pub fn waiting(&self, num: i32, zero: bool, cred: &Credentials) -> Result<i32> {
        self.one(num, cred, |s, _, n| s.waiters.iter().filter(|w| w.num == n && w.for_zero == zero).count() as i32)
    }

    /// GETALL.
    pub fn values(&self, cred: &Credentials) -> Result<Vec<u16>> {
        let s = self.state.lock();
        s.perm.check(cred, 4)?;
        Ok(s.sems.iter().map(|s| s.value as u16).collect())
    }

    /// How many semaphores it has.
    pub fn count(&self) -> usize {
        self.state.lock().sems.len()
    }

    /// SETVAL (`first` and one value) and SETALL. Forgets what was to be undone.
    pub fn set_values(&self, first: i32, values: &[i32], task: &Task) -> Result {
        let mut s = self.state.lock();
        s.perm.check(&task.cred(), 2)?;
        if values.iter().any(|v| !(0..=SEMVMX).contains(v)) {
            bail!(ERANGE, "value out of range");
        }
        let first = usize::try_from(first).unwrap_or(usize::MAX);
        let Some(range) = first.checked_add(values.len()).and_then(|end| s.sems.get_mut(first..end)) else {
            bail!(EINVAL, "no semaphore {first}")
        };
        for (sem, &value) in range.iter_mut().zip(values) {
            *sem = Sem { value, pid: task.tgid() };
        }
        s.undo.retain(|(_, n), _| !(first..first + values.len()).contains(&usize::from(*n)));
        s.ctime = now();
        drop(s);
        self.changed();
        Ok(())
    }

    /// Adds what a process that ends wanted to be undone.
    fn undo(&self, who: Who) {
        let mut s = self.state.lock();
        let mine: Vec<(u16, i32)> = s.undo.iter().filter(|((p, _), _)| *p == who.process).map(|((_, n), v)| (*n, *v)).collect();
        if mine.is_empty() {
            return;
        }
        s.undo.retain(|(p, _), _| *p != who.process);
        for (num, add) in mine {
            if let Some(sem) = s.sems.get_mut(usize::from(num)) {
                *sem = Sem { value: (sem.value + add).clamp(0, SEMVMX), pid: who.pid };
            }
        }
        s.otime = now();
        drop(s);
        self.changed();
    }
}

/// The sets of an IPC namespace.
pub struct SemTable(Table<SemSet>);

impl SemTable {
    /// A namespace's.
    pub fn of(ipc: &IpcNamespace) -> Arc<SemTable> {
        let limits = Limits::of(ipc);
        ipc.attachments.get_or_insert_with(|| SemTable(Table::new(limits, |limits| &limits.semmni)))
    }

    /// The table itself.
    pub fn table(&self) -> &Table<SemSet> {
        &self.0
    }

    /// semget(2)
    pub fn get(&self, key: i32, count: i32, flags: i32, cred: &Credentials) -> Result<i32> {
        let Some(count) = usize::try_from(count).ok().filter(|&n| n as u64 <= self.0.limits().semmsl.get()) else {
            bail!(EINVAL, "number of semaphores")
        };
        let fits = |set: &SemSet| if count > set.count() { bail!(EINVAL, "set is smaller") } else { Ok(()) };
        self.0.get(key, flags, cred, fits, |perm| {
            if count == 0 {
                bail!(EINVAL, "no semaphores");
            }
            Ok(SemSet::new(perm, count))
        })
    }

    /// IPC_RMID: who waits gets `EIDRM`.
    pub fn remove(&self, id: i32, cred: &Credentials) -> Result {
        let set = self.0.remove(id, cred)?;
        set.state.lock().removed = true;
        set.changed();
        Ok(())
    }
}

/// The process ends: undoes what it asked to be undone (SEM_UNDO).
pub fn exit_process(group: &ThreadGroup) {
    if let Some(table) = group.container().ipc.attachments.get::<SemTable>() {
        table.0.all().iter().for_each(|s| s.undo(Who::of(group)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(pid: i32) -> Who {
        Who { pid, process: pid as u64 }
    }

    fn op(num: u16, op: i16, flags: i16) -> SemBuf {
        SemBuf { num, op, flags }
    }

    #[test]
    fn all_or_nothing_and_undo() {
        let set = SemSet::new(Perm::default(), 2);
        assert_eq!(set.attempt(&[op(0, 2, UNDO), op(1, 1, 0)], who(7), 1), Some(Ok(())));
        assert_eq!(set.attempt(&[op(0, -1, NOWAIT), op(1, -2, NOWAIT)], who(7), 1), Some(Err(Errno::EAGAIN.into())));
        assert_eq!(set.state.lock().sems.iter().map(|s| s.value).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(set.attempt(&[op(1, 0, 0)], who(8), 2), None);
        assert_eq!(set.state.lock().waiters.len(), 1);
        assert_eq!(set.attempt(&[op(1, -1, 0), op(1, 0, 0)], who(8), 2), Some(Ok(())));
        assert_eq!(set.attempt(&[op(2, 1, 0)], who(8), 2), Some(Err(Errno::EFBIG.into())));
        set.undo(who(7));
        assert_eq!(set.state.lock().sems.iter().map(|s| s.value).collect::<Vec<_>>(), [0, 0]);
    }

    #[test]
    fn table_keys_and_rights() {
        let limits = Arc::new(Limits::default());
        limits.semmni.set(2).expect("in range");
        let (table, root) = (SemTable(Table::new(limits, |limits| &limits.semmni)), Credentials::root());
        let user = Credentials { euid: 5, egid: 5, effective: crate::cred::CapSet::empty(), ..root.clone() };
        assert_eq!(table.get(9, 1, 0, &root), Err(Errno::ENOENT.into()));
        let id = table.get(9, 1, 0o1600, &root).expect("create");
        assert_eq!(table.get(9, 0, 0, &root), Ok(id));
        assert_eq!(table.get(9, 2, 0, &root), Err(Errno::EINVAL.into()));
        assert_eq!(table.get(9, 1, 0o3600, &root), Err(Errno::EEXIST.into()));
        assert_eq!(table.get(9, 1, 0o600, &user), Err(Errno::EACCES.into()));
        assert_eq!(table.remove(id, &user), Err(Errno::EPERM.into()));
        let other = table.get(0, 1, 0o600, &user).expect("create");
        assert_ne!(id, other);
        assert_eq!(table.get(0, 1, 0o600, &user), Err(Errno::ENOSPC.into()));
        assert_eq!(table.remove(id, &root), Ok(()));
        assert!(table.table().object(id).is_err());
    }
}
