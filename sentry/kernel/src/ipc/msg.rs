//! System V message queues: msgget(2), msgsnd(2), msgrcv(2), msgctl(2).

use super::limits::Limits;
use super::sysv::{Object, Perm, Table, now};
use crate::{
    container::IpcNamespace,
    cred::{CapSet, Credentials},
    task::Task,
};
use abi::{Errno, Error, Result, bail, poll::PollEvents};
use std::collections::VecDeque;
use std::sync::Arc;
use sync::{Mutex, Rank, WaitQueue};

/// `IPC_NOWAIT`
const NOWAIT: i32 = 0o4000;
/// `MSG_NOERROR`
const NOERROR: i32 = 0o10000;
/// `MSG_EXCEPT`
const EXCEPT: i32 = 0o20000;
/// `MSG_COPY`
const COPY: i32 = 0o40000;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Msg {
    /// `mtype`, above zero.
    pub kind: i64,
    /// `mtext`.
    pub text: Vec<u8>,
}

/// What msgctl(2) IPC_STAT tells.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Info {
    pub perm: Perm,
    pub stime: i64,
    pub rtime: i64,
    pub ctime: i64,
    pub bytes: u64,
    pub count: u64,
    pub max_bytes: u64,
    pub last_sender: i32,
    pub last_receiver: i32,
}

struct State {
    info: Info,
    messages: VecDeque<Msg>,
    removed: bool,
}

/// A queue.
pub struct MsgQueue {
    state: Mutex<State>,
    queue: WaitQueue,
}

impl Object for MsgQueue {
    fn perm(&self) -> Perm {
        self.state.lock().info.perm
    }
}

/// `EINTR` instead of a restart: these calls are never restarted (signal(7)).
fn never_restarted<T>(r: Result<Option<Result<T>>>) -> Result<T> {
    match r {
        Ok(Some(result)) => result,
        Ok(None) | Err(Error::Restart(_)) => Err(Errno::EINTR.into()),
        Err(e) => Err(e),
    }
}

impl State {
    fn put(&mut self, m: &Msg, pid: i32) -> bool {
        let len = m.text.len() as u64;
        if self.info.bytes + len > self.info.max_bytes || self.info.count >= self.info.max_bytes {
            return false;
        }
        self.info.bytes += len;
        self.info.count += 1;
        self.info.stime = now();
        self.info.last_sender = pid;
        self.messages.push_back(m.clone());
        true
    }

    /// The place of the message that msgrcv(2) means by `kind` and `flags`.
    fn find(&self, kind: i64, flags: i32) -> Option<usize> {
        if flags & COPY != 0 {
            return usize::try_from(kind).ok().filter(|&i| i < self.messages.len());
        }
        match kind {
            0 => (!self.messages.is_empty()).then_some(0),
            k if k > 0 => self.messages.iter().position(|m| (m.kind == k) != (flags & EXCEPT != 0)),
            k => {
                let limit = k.checked_neg().unwrap_or(i64::MAX);
                let lowest = self.messages.iter().map(|m| m.kind).filter(|&m| m <= limit).min()?;
                self.messages.iter().position(|m| m.kind == lowest)
            }
        }
    }

    fn take(&mut self, kind: i64, max: usize, flags: i32, pid: i32) -> Option<Result<Msg>> {
        let at = self.find(kind, flags)?;
        let len = self.messages.get(at)?.text.len();
        if len > max && flags & NOERROR == 0 {
            return Some(Err(abi::error!(E2BIG, "message is longer")));
        }
        let mut m = if flags & COPY != 0 { self.messages.get(at)?.clone() } else { self.messages.remove(at)? };
        if flags & COPY == 0 {
            self.info.bytes -= (len as u64).min(self.info.bytes);
            self.info.count -= 1;
            self.info.rtime = now();
            self.info.last_receiver = pid;
        }
        m.text.truncate(max);
        Some(Ok(m))
    }
}

impl MsgQueue {
    fn new(perm: Perm, max_bytes: u64) -> MsgQueue {
        let info = Info { perm, ctime: now(), max_bytes, ..Info::default() };
        let state = State { info, messages: VecDeque::new(), removed: false };
        MsgQueue { state: Mutex::new(Rank::FileState, state), queue: WaitQueue::new() }
    }

    /// msgsnd(2)
    pub fn send(&self, task: &Task, m: &Msg, flags: i32) -> Result {
        self.state.lock().info.perm.check(&task.cred(), 2)?;
        let done = task.wait_on(&[(&self.queue, PollEvents::WRITABLE)], None, || {
            let mut s = self.state.lock();
            if s.removed {
                return Some(Err(abi::error!(EIDRM, "removed")));
            }
            if s.put(m, task.tgid()) {
                return Some(Ok(()));
            }
            (flags & NOWAIT != 0).then(|| Err(abi::error!(EAGAIN, "queue is full")))
        });
        never_restarted(done)?;
        self.queue.notify(PollEvents::READABLE);
        Ok(())
    }

    /// msgrcv(2)
    pub fn receive(&self, task: &Task, kind: i64, max: usize, flags: i32) -> Result<Msg> {
        if flags & COPY != 0 && (flags & EXCEPT != 0 || flags & NOWAIT == 0) {
            bail!(EINVAL, "MSG_COPY needs IPC_NOWAIT and excludes MSG_EXCEPT");
        }
        self.state.lock().info.perm.check(&task.cred(), 4)?;
        let done = task.wait_on(&[(&self.queue, PollEvents::READABLE)], None, || {
            let mut s = self.state.lock();
            if s.removed {
                return Some(Err(abi::error!(EIDRM, "removed")));
            }
            let taken = s.take(kind, max, flags, task.tgid());
            if taken.is_none() && flags & NOWAIT != 0 {
                return Some(Err(abi::error!(ENOMSG, "no such message")));
            }
            taken
        });
        let m = never_restarted(done)?;
        self.queue.notify(PollEvents::WRITABLE);
        Ok(m)
    }

    /// IPC_STAT; `any`: without a check.
    pub fn info(&self, cred: &Credentials, any: bool) -> Result<Info> {
        let s = self.state.lock();
        if !any {
            s.info.perm.check(cred, 4)?;
        }
        Ok(s.info)
    }

    /// IPC_SET; `msgmnb`: what needs no privilege.
    pub fn set(&self, uid: u32, gid: u32, mode: u32, max_bytes: u64, msgmnb: u64, cred: &Credentials) -> Result {
        let mut s = self.state.lock();
        s.info.perm.check_owner(cred)?;
        if max_bytes > msgmnb && !cred.capable(CapSet::SYS_RESOURCE) {
            bail!(EPERM, "above msgmnb");
        }
        s.info.perm.set(uid, gid, mode)?;
        s.info.max_bytes = max_bytes;
        s.info.ctime = now();
        drop(s);
        self.queue.notify(PollEvents::READABLE | PollEvents::WRITABLE);
        Ok(())
    }
}

/// The queues of an IPC namespace.
pub struct MsgTable(Table<MsgQueue>);

impl MsgTable {
    /// A namespace's.
    pub fn of(ipc: &IpcNamespace) -> Arc<MsgTable> {
        let limits = Limits::of(ipc);
        ipc.attachments.get_or_insert_with(|| MsgTable(Table::new(limits, |limits| &limits.msgmni)))
    }

    /// The table itself.
    pub fn table(&self) -> &Table<MsgQueue> {
        &self.0
    }

    /// msgget(2)
    pub fn get(&self, key: i32, flags: i32, cred: &Credentials) -> Result<i32> {
        self.0.get(key, flags, cred, |_| Ok(()), |perm| Ok(MsgQueue::new(perm, self.0.limits().msgmnb.get())))
    }

    /// IPC_RMID: who waits gets `EIDRM`.
    pub fn remove(&self, id: i32, cred: &Credentials) -> Result {
        let q = self.0.remove(id, cred)?;
        q.state.lock().removed = true;
        q.queue.notify(PollEvents::READABLE | PollEvents::WRITABLE);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_limits() {
        let q = MsgQueue::new(Perm::default(), 16_384);
        let mut s = q.state.lock();
        for (kind, text) in [(3, "c"), (1, "a"), (2, "bb"), (1, "d")] {
            assert!(s.put(&Msg { kind, text: text.into() }, 1));
        }
        let mut take = |kind, max, flags| s.take(kind, max, flags, 1).map(|r| r.map(|m| String::from_utf8_lossy(&m.text).into_owned()));
        assert_eq!(take(-2, 9, 0), Some(Ok("a".into())));
        assert_eq!(take(9, 9, 0), None);
        assert_eq!(take(3, 9, EXCEPT | COPY), None);
        assert_eq!(take(1, 9, COPY), Some(Ok("bb".into())));
        assert_eq!(take(2, 1, 0), Some(Err(Errno::E2BIG.into())));
        assert_eq!(take(2, 1, NOERROR), Some(Ok("b".into())));
        assert_eq!(take(3, 9, EXCEPT), Some(Ok("d".into())));
        assert_eq!(take(0, 9, 0), Some(Ok("c".into())));
        assert_eq!((s.info.bytes, s.info.count), (0, 0));
        assert!(s.put(&Msg { kind: 1, text: vec![0; 16_384] }, 1));
        assert!(!s.put(&Msg { kind: 1, text: vec![0; 1] }, 1));
    }
}
