//! POSIX message queues (mq_overview(7)): the queues themselves. Their names are files of [`fs`].

mod file;
mod fs;
mod notify;

pub use file::QueueFile;
pub use fs::{MqueueType, open, unlink};
pub use notify::{NotifyBy, Subscriber};

use crate::{
    task::Task,
    vfs::{Attr, Owner},
};
use abi::{Result, bail, poll::PollEvents};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;
use sync::{Mutex, Rank, WaitQueue};

/// Priorities are below this (`MQ_PRIO_MAX`).
pub const PRIO_MAX: u32 = 32_768;
/// Queues of a sandbox (`/proc/sys/fs/mqueue/queues_max`).
pub const QUEUES_MAX: usize = 256;
/// `mq_maxmsg` where mq_open(3) names none, and the most without CAP_SYS_RESOURCE (`msg_default`, `msg_max`).
pub const MSG_MAX: i64 = 10;
/// The same of `mq_msgsize`, in bytes (`msgsize_default`, `msgsize_max`).
pub const MSGSIZE_MAX: i64 = 8192;
/// The most with CAP_SYS_RESOURCE: messages (`HARD_MSGMAX`).
const HARD_MSG_MAX: i64 = 65_536;
/// The most with CAP_SYS_RESOURCE: bytes of one message (`HARD_MSGSIZEMAX`).
const HARD_MSGSIZE_MAX: i64 = 16 << 20;
/// What Linux counts for each message besides its text: `struct msg_msg`, and `struct posix_msg_tree_node` for each priority there may be.
const OVERHEAD: u64 = 48;

/// What a queue holds at most: `mq_maxmsg` and `mq_msgsize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Messages.
    pub messages: i64,
    /// Bytes of one message.
    pub size: i64,
}

impl Limits {
    /// Of a queue made without any said.
    pub const DEFAULT: Limits = Limits { messages: MSG_MAX, size: MSGSIZE_MAX };

    /// `EINVAL` for what a queue cannot have.
    fn check(self, privileged: bool) -> Result {
        let (messages, size) = if privileged { (HARD_MSG_MAX, HARD_MSGSIZE_MAX) } else { (MSG_MAX, MSGSIZE_MAX) };
        if !(1..=messages).contains(&self.messages) || !(1..=size).contains(&self.size) {
            bail!(EINVAL, "mq_maxmsg or mq_msgsize out of range");
        }
        Ok(())
    }

    /// Bytes that RLIMIT_MSGQUEUE counts (getrlimit(2)): what the queue may come to hold. The limits were checked.
    fn cost(self) -> u64 {
        let (messages, size) = (self.messages.unsigned_abs(), self.size.unsigned_abs());
        messages * (size + OVERHEAD) + messages.min(u64::from(PRIO_MAX)) * OVERHEAD
    }
}

#[derive(Default)]
struct Usage {
    queues: usize,
    /// Of each user, as RLIMIT_MSGQUEUE counts.
    bytes: BTreeMap<u32, u64>,
}

/// What the queues of a sandbox take.
pub(super) struct Account(Mutex<Usage>);

impl Account {
    fn new() -> Arc<Account> {
        Arc::new(Account(Mutex::new(Rank::Leaf, Usage::default())))
    }

    /// How many queues there are.
    fn queues(&self) -> usize {
        self.0.lock().queues
    }

    fn charge(&self, uid: u32, bytes: u64, limit: u64) -> Result {
        let mut u = self.0.lock();
        let held = u.bytes.get(&uid).copied().unwrap_or(0);
        match held.checked_add(bytes) {
            Some(sum) if sum <= limit => u.bytes.insert(uid, sum),
            _ => bail!(EMFILE, "RLIMIT_MSGQUEUE"),
        };
        u.queues += 1;
        Ok(())
    }

    fn release(&self, uid: u32, bytes: u64) {
        let mut u = self.0.lock();
        u.queues = u.queues.saturating_sub(1);
        if let Some(held) = u.bytes.get_mut(&uid) {
            *held = held.saturating_sub(bytes);
            if *held == 0 {
                u.bytes.remove(&uid);
            }
        }
    }
}

struct State {
    attr: Attr,
    /// By priority, the oldest first. No empty list.
    messages: BTreeMap<u32, VecDeque<Vec<u8>>>,
    count: i64,
    bytes: u64,
    /// Tasks that wait for a message: while there are any, nobody is notified of one.
    receivers: usize,
    subscriber: Option<Subscriber>,
}

/// A queue. It lives while it has a name or is open.
pub struct Queue {
    limits: Limits,
    /// Who made it and pays for it.
    uid: u32,
    state: Mutex<State>,
    queue: WaitQueue,
    account: Arc<Account>,
}

/// What it shows to stat(2) as its size (`FILENT_SIZE`).
const FILE_SIZE: u64 = 80;

impl Queue {
    fn new(account: &Arc<Account>, limits: Limits, perm: u32, owner: Owner, task: Option<&Task>) -> Result<Arc<Queue>> {
        let privileged = task.is_none_or(|t| t.cred().capable(crate::cred::CapSet::SYS_RESOURCE));
        limits.check(privileged)?;
        let limit = task.map_or(u64::MAX, |t| t.rlimit(libc::RLIMIT_MSGQUEUE).cur);
        account.charge(owner.uid, limits.cost(), limit)?;
        let now = crate::vfs::now();
        let attr = Attr {
            perm,
            nlink: 1,
            uid: owner.uid,
            gid: owner.gid,
            size: FILE_SIZE,
            blksize: 4096,
            atime: now,
            mtime: now,
            ctime: now,
            ..Attr::default()
        };
        let state = State { attr, messages: BTreeMap::new(), count: 0, bytes: 0, receivers: 0, subscriber: None };
        Ok(Arc::new(Queue {
            limits,
            uid: owner.uid,
            state: Mutex::new(Rank::FileState, state),
            queue: WaitQueue::new(),
            account: account.clone(),
        }))
    }

    /// What it holds at most.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// `mq_curmsgs`
    pub fn count(&self) -> i64 {
        self.state.lock().count
    }

    /// mq_send(3). `text` may be no longer than a message of this queue. `Ok(None)` at the deadline.
    fn send(&self, task: &Task, text: Vec<u8>, prio: u32, nonblocking: bool, deadline: Option<Instant>) -> Result<Option<()>> {
        let mut text = Some(text);
        let mut told = None;
        let sent = task.wait_on(&[(&self.queue, PollEvents::WRITABLE)], deadline, || {
            let mut s = self.state.lock();
            if s.count < self.limits.messages {
                s.put(text.take().unwrap_or_default(), prio);
                if s.count == 1 && s.receivers == 0 {
                    told = s.subscriber.take();
                }
                return Some(Ok(()));
            }
            nonblocking.then(|| Err(abi::error!(EAGAIN, "queue is full")))
        })?;
        let Some(sent) = sent else { return Ok(None) };
        sent?;
        if let Some(subscriber) = told {
            subscriber.tell(task);
        }
        self.queue.notify(PollEvents::READABLE);
        Ok(Some(()))
    }

    /// mq_receive(3): the oldest message of the highest priority. `Ok(None)` at the deadline.
    fn receive(&self, task: &Task, nonblocking: bool, deadline: Option<Instant>) -> Result<Option<(Vec<u8>, u32)>> {
        let got = if nonblocking {
            let first = self.state.lock().take();
            Some(first.ok_or(abi::error!(EAGAIN, "queue is empty"))?)
        } else {
            self.state.lock().receivers += 1;
            let got = task.wait_on(&[(&self.queue, PollEvents::READABLE)], deadline, || self.state.lock().take());
            let mut s = self.state.lock();
            s.receivers -= 1;
            match got {
                Ok(Some(m)) => Some(m),
                // What came since the last look was announced to nobody, because this task waited.
                other => match s.take() {
                    Some(m) => Some(m),
                    None => other?,
                },
            }
        };
        if got.is_some() {
            self.queue.notify(PollEvents::WRITABLE);
        }
        Ok(got)
    }

    /// mq_notify(3): `None` takes the caller's own subscription back. `EBUSY` if somebody is subscribed already.
    pub fn subscribe(&self, task: &Task, subscriber: Option<Subscriber>) -> Result {
        let mut s = self.state.lock();
        match subscriber {
            Some(_) if s.subscriber.is_some() => bail!(EBUSY, "somebody is to be notified already"),
            Some(new) => s.subscriber = Some(new),
            None => {
                drop(s);
                self.unsubscribe(task);
                return Ok(());
            }
        }
        let now = crate::vfs::now();
        s.attr.atime = now;
        s.attr.ctime = now;
        Ok(())
    }

    /// Forgets the subscription of the task's process: it closes the queue.
    fn unsubscribe(&self, task: &Task) {
        let mut s = self.state.lock();
        if s.subscriber.as_ref().is_some_and(|x| x.is_of(task)) {
            let gone = s.subscriber.take();
            drop(s);
            if let Some(x) = gone {
                x.removed();
            }
        }
    }

    fn events(&self) -> PollEvents {
        let count = self.count();
        let mut events = PollEvents::empty();
        if count > 0 {
            events |= PollEvents::READABLE;
        }
        if count < self.limits.messages {
            events |= PollEvents::WRITABLE;
        }
        events
    }

    /// What reading the queue's file tells.
    fn show(&self) -> String {
        let s = self.state.lock();
        let (notify, signo, pid) = s.subscriber.as_ref().map_or((0, 0, 0), Subscriber::show);
        format!("QSIZE:{:<10} NOTIFY:{notify:<5} SIGNO:{signo:<5} NOTIFY_PID:{pid:<6}\n", s.bytes)
    }
}

impl State {
    fn put(&mut self, text: Vec<u8>, prio: u32) {
        self.bytes += text.len() as u64;
        self.count += 1;
        self.messages.entry(prio).or_default().push_back(text);
        self.touched();
    }

    fn take(&mut self) -> Option<(Vec<u8>, u32)> {
        let mut last = self.messages.last_entry()?;
        let prio = *last.key();
        let text = last.get_mut().pop_front()?;
        if last.get().is_empty() {
            last.remove();
        }
        self.bytes -= text.len() as u64;
        self.count -= 1;
        self.touched();
        Some((text, prio))
    }

    fn touched(&mut self) {
        let now = crate::vfs::now();
        (self.attr.atime, self.attr.mtime, self.attr.ctime) = (now, now, now);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.account.release(self.uid, self.limits.cost());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(account: &Arc<Account>, limits: Limits) -> Result<Arc<Queue>> {
        Queue::new(account, limits, 0o600, Owner { uid: 7, gid: 7 }, None)
    }

    #[test]
    fn priorities_then_age() {
        let q = queue(&Account::new(), Limits::DEFAULT).unwrap();
        let mut s = q.state.lock();
        for (text, prio) in [("a", 1), ("b", 5), ("c", 1), ("d", 5), ("e", 0)] {
            s.put(text.into(), prio);
        }
        assert_eq!((s.count, s.bytes), (5, 5));
        let order: Vec<_> = std::iter::from_fn(|| s.take()).map(|(t, p)| (String::from_utf8(t).unwrap(), p)).collect();
        let expected = [("b", 5), ("d", 5), ("a", 1), ("c", 1), ("e", 0)].map(|(t, p)| (t.to_owned(), p));
        assert_eq!(order, expected);
        assert_eq!((s.count, s.bytes), (0, 0));
    }

    #[test]
    fn the_account_is_given_back() {
        let account = Account::new();
        let q = queue(&account, Limits { messages: 2, size: 16 }).unwrap();
        assert_eq!(account.queues(), 1);
        assert_eq!(account.0.lock().bytes.get(&7), Some(&(2 * (16 + 48) + 2 * 48)));
        drop(q);
        assert_eq!(account.queues(), 0);
        assert!(account.0.lock().bytes.is_empty());
        assert!(account.charge(7, 10, 9).is_err());
        assert!(account.charge(7, u64::MAX, u64::MAX).is_ok());
        assert!(account.charge(7, 1, u64::MAX).is_err());
    }

    #[test]
    fn limits() {
        assert!(Limits { messages: 11, size: 1 }.check(false).is_err());
        assert!(Limits { messages: 11, size: 1 }.check(true).is_ok());
        assert!(Limits { messages: 0, size: 1 }.check(true).is_err());
        assert!(Limits { messages: 1, size: -1 }.check(true).is_err());
        assert!(Limits { messages: 1, size: (16 << 20) + 1 }.check(true).is_err());
    }
}
