//! eventfd(2).

use super::anon::{AnonKind, anon_file};
use crate::{
    cred::Credentials,
    io::IoBuffer,
    vfs::{File, FileOps},
};
use abi::{Result, bail, fs::OpenFlags, poll::PollEvents};
use std::any::Any;
use std::sync::Arc;
use sync::{Mutex, Rank, WaitQueue};

/// The highest count.
const MAX: u64 = u64::MAX - 1;

/// A counter that can be waited for.
pub struct EventFd {
    count: Mutex<u64>,
    semaphore: bool,
    queue: WaitQueue,
}

impl EventFd {
    /// Adds to the count from within the kernel, up to the highest count.
    pub fn signal(&self, n: u64) {
        let mut c = self.count.lock();
        *c = c.saturating_add(n);
        drop(c);
        self.queue.notify(PollEvents::READABLE);
    }
}

impl FileOps for EventFd {
    fn read(&self, _file: &File, buf: &mut IoBuffer<'_>, _offset: u64) -> Result<usize> {
        if buf.remaining() < 8 {
            bail!(EINVAL, "needs 8 bytes");
        }
        let mut c = self.count.lock();
        if *c == 0 {
            bail!(EAGAIN);
        }
        let n = if self.semaphore { 1 } else { *c };
        *c -= n;
        drop(c);
        self.queue.notify(PollEvents::WRITABLE);
        buf.write(&n.to_ne_bytes())
    }

    fn write(&self, _file: &File, buf: &mut IoBuffer<'_>, _offset: u64, _append: bool) -> Result<(usize, u64)> {
        let mut bytes = [0; 8];
        if buf.remaining() < 8 || buf.read(&mut bytes)? < 8 {
            bail!(EINVAL, "needs 8 bytes");
        }
        let add = u64::from_ne_bytes(bytes);
        if add == u64::MAX {
            buf.rewind_to(buf.done() - 8);
            bail!(EINVAL, "the highest number is none");
        }
        let mut c = self.count.lock();
        if MAX - (*c).min(MAX) < add {
            buf.rewind_to(buf.done() - 8);
            bail!(EAGAIN, "the count would overflow");
        }
        *c += add;
        drop(c);
        if add > 0 {
            self.queue.notify(PollEvents::READABLE);
        }
        Ok((8, 0))
    }

    fn seekable(&self) -> bool {
        false
    }

    fn poll(&self, _file: &File) -> PollEvents {
        let c = *self.count.lock();
        let mut e = PollEvents::empty();
        e.set(PollEvents::IN, c > 0);
        e.set(PollEvents::ERR, c == u64::MAX);
        e.set(PollEvents::OUT, c < MAX);
        e
    }

    fn poll_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn show_fdinfo(&self, _file: &File) -> String {
        format!("eventfd-count: {:16x}\neventfd-semaphore: {}\n", *self.count.lock(), u8::from(self.semaphore))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A new counter. `flags`: O_NONBLOCK.
pub fn create(count: u64, semaphore: bool, flags: OpenFlags, cred: &Credentials) -> Arc<File> {
    let ops = EventFd { count: Mutex::new(Rank::FileState, count), semaphore, queue: WaitQueue::new() };
    anon_file(AnonKind::Other("[eventfd]"), cred, flags | OpenFlags::RDWR, Box::new(ops))
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::Errno;

    fn put(f: &File, n: u64) -> Result<usize> {
        f.ops().write(f, &mut IoBuffer::source(&n.to_ne_bytes()), 0, false).map(|r| r.0)
    }

    fn get(f: &File) -> Result<u64> {
        let mut b = [0; 8];
        f.ops().read(f, &mut IoBuffer::dest(&mut b), 0).map(|_| u64::from_ne_bytes(b))
    }

    #[test]
    fn counts_and_overflows() {
        let f = create(3, false, OpenFlags::empty(), &Credentials::root());
        assert_eq!(put(&f, 4), Ok(8));
        assert_eq!(get(&f), Ok(7));
        assert_eq!(get(&f), Err(Errno::EAGAIN.into()));
        assert_eq!(f.ops().poll(&f), PollEvents::OUT);
        assert_eq!(put(&f, MAX), Ok(8));
        assert_eq!(put(&f, 1), Err(Errno::EAGAIN.into()));
        assert_eq!(put(&f, u64::MAX), Err(Errno::EINVAL.into()));
        assert_eq!(f.ops().poll(&f), PollEvents::IN);
    }

    #[test]
    fn semaphore() {
        let f = create(2, true, OpenFlags::empty(), &Credentials::root());
        assert_eq!((get(&f), get(&f)), (Ok(1), Ok(1)));
        assert_eq!(get(&f), Err(Errno::EAGAIN.into()));
    }
}
