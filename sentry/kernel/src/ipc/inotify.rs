//! inotify(7): a queue of what the VFS reports of watched inodes.

use super::anon::{AnonKind, anon_file};
use crate::{
    cred::Credentials,
    io::IoBuffer,
    task::Task,
    vfs::{
        File, FileOps, FsStr, FsString, Inode, IoctlArg,
        notify::{self, Watcher, mask},
    },
};
use abi::{Result, bail, fs::OpenFlags, libc, poll::PollEvents};
use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::sync::{
    Arc, Weak,
    atomic::{AtomicU32, Ordering},
};
use sync::{Mutex, Rank, WaitQueue};

/// `IN_ALL_EVENTS`
pub const ALL_EVENTS: u32 = 0xfff;
/// `IN_Q_OVERFLOW`
const OVERFLOW: u32 = 0x4000;
/// `IN_IGNORED`
const IGNORED: u32 = 0x8000;
/// `IN_ONLYDIR`
pub const ONLYDIR: u32 = 0x0100_0000;
/// `IN_DONT_FOLLOW`
pub const DONT_FOLLOW: u32 = 0x0200_0000;
/// `IN_EXCL_UNLINK`
const EXCL_UNLINK: u32 = 0x0400_0000;
/// `IN_MASK_CREATE`
const MASK_CREATE: u32 = 0x1000_0000;
/// `IN_MASK_ADD`
const MASK_ADD: u32 = 0x2000_0000;
/// `IN_ONESHOT`
const ONESHOT: u32 = 0x8000_0000;
/// Every bit that inotify_add_watch(2) knows.
const KNOWN: u32 =
    ALL_EVENTS | mask::UNMOUNT | OVERFLOW | IGNORED | ONLYDIR | DONT_FOLLOW | EXCL_UNLINK | MASK_CREATE | MASK_ADD | mask::ISDIR | ONESHOT;

/// /proc/sys/fs/inotify/max_queued_events
pub const MAX_QUEUED_EVENTS: usize = 16_384;
/// /proc/sys/fs/inotify/max_user_watches, here for each instance.
pub const MAX_WATCHES: usize = 65_536;
/// `sizeof(struct inotify_event)`, and what names are padded to a multiple of.
const HEADER: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Event {
    wd: i32,
    mask: u32,
    cookie: u32,
    name: FsString,
}

impl Event {
    fn name_len(&self) -> usize {
        if self.name.is_empty() { 0 } else { (self.name.len() + 1).next_multiple_of(HEADER) }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + self.name_len());
        out.extend_from_slice(&self.wd.to_ne_bytes());
        out.extend_from_slice(&self.mask.to_ne_bytes());
        out.extend_from_slice(&self.cookie.to_ne_bytes());
        out.extend_from_slice(&(self.name_len() as u32).to_ne_bytes());
        out.extend_from_slice(&self.name);
        out.resize(HEADER + self.name_len(), 0);
        out
    }
}

/// A watched inode. Keeps the inode in memory, as on Linux.
struct Watch {
    wd: i32,
    mask: AtomicU32,
    inode: Arc<Inode>,
    owner: Weak<Inner>,
}

impl Watcher for Watch {
    fn event(&self, event: u32, name: Option<&FsStr>, cookie: u32) {
        let Some(owner) = self.owner.upgrade() else { return };
        let wanted = self.mask.load(Ordering::Relaxed);
        let ends = event & (mask::DELETE_SELF | mask::UNMOUNT) != 0;
        let matches = event & (wanted & ALL_EVENTS | mask::UNMOUNT) != 0;
        if matches {
            let name = name.map(<[u8]>::to_vec).unwrap_or_default();
            owner.push(Event { wd: self.wd, mask: event, cookie, name });
        }
        if ends || matches && wanted & ONESHOT != 0 {
            owner.forget(self.wd);
        }
    }
}

struct State {
    events: VecDeque<Event>,
    watches: BTreeMap<i32, Arc<Watch>>,
    last_wd: i32,
}

struct Inner {
    state: Mutex<State>,
    queue: WaitQueue,
}

impl Inner {
    fn push(&self, event: Event) {
        let mut s = self.state.lock();
        if s.events.back() == Some(&event) {
            return;
        }
        match s.events.len() {
            n if n < MAX_QUEUED_EVENTS => s.events.push_back(event),
            MAX_QUEUED_EVENTS => s.events.push_back(Event { wd: -1, mask: OVERFLOW, cookie: 0, name: FsString::new() }),
            _ => return,
        }
        drop(s);
        self.queue.notify(PollEvents::READABLE);
    }

    /// Ends a watch and says so in the queue; false if there is none.
    fn forget(&self, wd: i32) -> bool {
        let Some(w) = self.state.lock().watches.remove(&wd) else { return false };
        detach(&w);
        self.push(Event { wd, mask: IGNORED, cookie: 0, name: FsString::new() });
        true
    }
}

fn detach(w: &Arc<Watch>) {
    let watcher: Arc<dyn Watcher> = w.clone();
    notify::remove(&w.inode, &watcher);
}

/// An inotify instance.
pub struct Inotify {
    inner: Arc<Inner>,
}

impl Inotify {
    /// inotify_add_watch(2): the watch descriptor. The caller has found the inode as `ONLYDIR` and `DONT_FOLLOW` say, and checked that it may be read.
    pub fn add_watch(&self, inode: &Arc<Inode>, bits: u32) -> Result<i32> {
        Self::check_mask(bits)?;
        let keep = bits & (ALL_EVENTS | EXCL_UNLINK | ONESHOT);
        let mut s = self.inner.state.lock();
        if let Some(w) = s.watches.values().find(|w| Arc::ptr_eq(&w.inode, inode)) {
            if bits & MASK_CREATE != 0 {
                bail!(EEXIST);
            }
            if bits & MASK_ADD != 0 {
                w.mask.fetch_or(keep, Ordering::Relaxed);
            } else {
                w.mask.store(keep, Ordering::Relaxed);
            }
            return Ok(w.wd);
        }
        if s.watches.len() >= MAX_WATCHES {
            bail!(ENOSPC, "too many watches");
        }
        let wd = s.last_wd.checked_add(1).unwrap_or(1);
        s.last_wd = wd;
        let watch = Arc::new(Watch { wd, mask: AtomicU32::new(keep), inode: inode.clone(), owner: Arc::downgrade(&self.inner) });
        s.watches.insert(wd, watch.clone());
        drop(s);
        notify::add(inode, watch);
        Ok(wd)
    }

    /// `EINVAL` for masks that ask for nothing, or for both kinds of existing watches.
    pub fn check_mask(bits: u32) -> Result {
        if bits & KNOWN == 0 {
            bail!(EINVAL, "no event asked for");
        }
        if bits & MASK_ADD != 0 && bits & MASK_CREATE != 0 {
            bail!(EINVAL, "IN_MASK_ADD and IN_MASK_CREATE");
        }
        Ok(())
    }

    /// inotify_rm_watch(2).
    pub fn remove_watch(&self, wd: i32) -> Result {
        if self.inner.forget(wd) { Ok(()) } else { bail!(EINVAL, "no such watch") }
    }
}

impl FileOps for Inotify {
    fn read(&self, _file: &File, buf: &mut IoBuffer<'_>, _offset: u64) -> Result<usize> {
        let mut out = Vec::new();
        let mut s = self.inner.state.lock();
        if s.events.is_empty() {
            bail!(EAGAIN, "no event");
        }
        while let Some(e) = s.events.front() {
            if out.len() + HEADER + e.name_len() > buf.remaining() {
                break;
            }
            out.extend(e.encode());
            s.events.pop_front();
        }
        drop(s);
        if out.is_empty() {
            bail!(EINVAL, "no room for the next event");
        }
        buf.write(&out)
    }

    fn seekable(&self) -> bool {
        false
    }

    fn poll(&self, _file: &File) -> PollEvents {
        if self.inner.state.lock().events.is_empty() { PollEvents::empty() } else { PollEvents::READABLE }
    }

    fn poll_queue(&self) -> Option<&WaitQueue> {
        Some(&self.inner.queue)
    }

    fn has_async(&self) -> bool {
        true
    }

    fn ioctl(&self, _file: &File, task: &Task, cmd: u32, arg: IoctlArg) -> Result<u64> {
        if cmd != libc::FIONREAD as u32 {
            bail!(ENOTTY);
        }
        let n: usize = self.inner.state.lock().events.iter().map(|e| HEADER + e.name_len()).sum();
        task.mm().write(arg.addr().cast::<i32>(), &i32::try_from(n).unwrap_or(i32::MAX))?;
        Ok(0)
    }

    fn release(&self, _file: &File) {
        let watches = std::mem::take(&mut self.inner.state.lock().watches);
        watches.values().for_each(detach);
    }

    fn show_fdinfo(&self, _file: &File) -> String {
        let mut out = String::new();
        for w in self.inner.state.lock().watches.values() {
            let i = &w.inode;
            // Writing to a String cannot fail.
            let _ = writeln!(
                out,
                "inotify wd:{:x} ino:{:x} sdev:{:x} mask:{:x} ignored_mask:0 ",
                w.wd,
                i.ino,
                i.sb.dev,
                w.mask.load(Ordering::Relaxed) & ALL_EVENTS
            );
        }
        out
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A new instance. `flags`: O_NONBLOCK.
pub fn create(flags: OpenFlags, cred: &Credentials) -> Arc<File> {
    let state = State { events: VecDeque::new(), watches: BTreeMap::new(), last_wd: 0 };
    let inner = Inner { state: Mutex::new(Rank::FileState, state), queue: WaitQueue::new() };
    anon_file(AnonKind::Other("inotify"), cred, flags, Box::new(Inotify { inner: Arc::new(inner) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::anon::anon_path;
    use abi::Errno;

    fn read(f: &File, room: usize) -> Result<Vec<u8>> {
        let mut b = vec![0; room];
        let n = f.ops().read(f, &mut IoBuffer::dest(&mut b), 0)?;
        b.truncate(n);
        Ok(b)
    }

    #[test]
    fn events_are_queued_joined_and_end() {
        let cred = Credentials::root();
        let f = create(OpenFlags::empty(), &cred);
        let ino = f.downcast::<Inotify>().expect("inotify");
        let inode = anon_path(AnonKind::Pipe, &cred).inode;
        assert_eq!(ino.add_watch(&inode, 0), Err(Errno::EINVAL.into()));
        assert_eq!(ino.add_watch(&inode, mask::CREATE), Ok(1));
        assert_eq!(ino.add_watch(&inode, mask::DELETE | MASK_CREATE), Err(Errno::EEXIST.into()));
        assert_eq!(ino.add_watch(&inode, mask::DELETE_SELF | MASK_ADD), Ok(1));
        notify::event(&inode, mask::OPEN, None, 0);
        assert_eq!(read(&f, 64), Err(Errno::EAGAIN.into()));
        for _ in 0..2 {
            notify::event(&inode, mask::CREATE | mask::ISDIR, Some(b"name"), 7);
        }
        notify::event(&inode, mask::DELETE_SELF, None, 0);
        assert_eq!(read(&f, 31), Err(Errno::EINVAL.into()));
        let first = read(&f, 40).expect("event");
        assert_eq!(first.len(), 32);
        assert_eq!(first[16..22], *b"name\0\0");
        assert_eq!(first[8], 7);
        let rest = read(&f, 100).expect("events");
        assert_eq!(rest.len(), 32);
        assert_eq!(u32::from_ne_bytes([rest[20], rest[21], rest[22], rest[23]]), IGNORED);
        assert_eq!(ino.remove_watch(1), Err(Errno::EINVAL.into()));
    }
}
