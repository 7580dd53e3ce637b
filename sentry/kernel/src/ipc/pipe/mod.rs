//! Pipes and FIFOs: pipe(7), fifo(7).
//!
//! [`Pipe`] is the object, attached to its inode; [`PipeFile`] one open end of it. [`fifo`] opens FIFOs of any file system,
//! [`splice`] moves data between pipes and files.

pub mod fifo;
mod ring;
pub mod splice;

use crate::{
    cred::{CapSet, Credentials},
    io::IoBuffer,
    ipc::anon::{AnonKind, anon_path},
    signal::async_io::Band,
    task::Task,
    vfs::{File, FileOps, IoctlArg},
};
use abi::{Result, bail, fs::OpenFlags, poll::PollEvents};
use ring::{Ring, SLOT};
use std::any::Any;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use sync::{Mutex, Rank, WaitQueue};

/// Writes of up to so many bytes are atomic.
pub const PIPE_BUF: usize = SLOT;
/// A new pipe's slots: 64 KiB.
const DEFAULT_SLOTS: usize = 16;
/// /proc/sys/fs/pipe-max-size: what F_SETPIPE_SZ gives without CAP_SYS_RESOURCE.
pub const PIPE_MAX_SIZE: usize = 1 << 20;

struct State {
    ring: Ring,
    readers: u32,
    writers: u32,
    /// How many readers there have ever been: what a FIFO's opener waits for.
    r_counter: u64,
    w_counter: u64,
}

/// A pipe.
pub struct Pipe {
    state: Mutex<State>,
    queue: WaitQueue,
}

impl Default for Pipe {
    fn default() -> Self {
        let state = State { ring: Ring::new(DEFAULT_SLOTS), readers: 0, writers: 0, r_counter: 0, w_counter: 0 };
        Pipe { state: Mutex::new(Rank::FileState, state), queue: WaitQueue::new() }
    }
}

impl Pipe {
    /// The pipe behind an open file, if it is one.
    pub fn of(file: &File) -> Option<&Arc<Pipe>> {
        file.downcast::<PipeFile>().map(|f| &f.pipe)
    }

    /// Reads what is there. 0: no writer left.
    fn read(&self, buf: &mut IoBuffer<'_>) -> Result<usize> {
        if buf.remaining() == 0 {
            return Ok(0);
        }
        let mut s = self.state.lock();
        if s.ring.is_empty() {
            if s.writers == 0 {
                return Ok(0);
            }
            bail!(EAGAIN, "pipe is empty");
        }
        let was_full = s.ring.is_full();
        let n = s.ring.read(buf);
        let wake = was_full && !s.ring.is_full();
        drop(s);
        if wake {
            self.queue.notify(PollEvents::WRITABLE);
        }
        n
    }

    /// Writes as much as there is room for.
    fn write(&self, buf: &mut IoBuffer<'_>, packet: bool) -> Result<usize> {
        if buf.remaining() == 0 {
            return Ok(0);
        }
        let mut s = self.state.lock();
        if s.readers == 0 {
            bail!(EPIPE, "no reader");
        }
        let n = s.ring.write(buf, packet)?;
        drop(s);
        if n == 0 {
            bail!(EAGAIN, "pipe is full");
        }
        self.queue.notify(PollEvents::READABLE);
        Ok(n)
    }

    /// F_GETPIPE_SZ: capacity in bytes.
    pub fn capacity(&self) -> usize {
        self.state.lock().ring.capacity()
    }

    /// F_SETPIPE_SZ: rounds up to a power of two of pages; returns the new capacity. `EBUSY` if more is in the pipe.
    pub fn set_capacity(&self, bytes: u64, cred: &Credentials) -> Result<usize> {
        if bytes > 1 << 31 {
            bail!(EINVAL);
        }
        let size = usize::try_from(bytes).unwrap_or(usize::MAX).max(SLOT).next_power_of_two();
        if size > PIPE_MAX_SIZE && size > self.capacity() && !cred.capable(CapSet::SYS_RESOURCE) {
            bail!(EPERM, "above pipe-max-size");
        }
        let mut s = self.state.lock();
        let was_full = s.ring.is_full();
        if !s.ring.resize(size / SLOT) {
            bail!(EBUSY);
        }
        let wake = was_full && !s.ring.is_full();
        drop(s);
        if wake {
            self.queue.notify(PollEvents::WRITABLE);
        }
        Ok(size)
    }

    /// Bytes that can be read (FIONREAD).
    pub fn readable(&self) -> usize {
        self.state.lock().ring.len()
    }
}

/// An open end of a pipe, or both (a FIFO opened O_RDWR).
pub struct PipeFile {
    pipe: Arc<Pipe>,
    reads: bool,
    writes: bool,
    /// A FIFO opened for reading while it had no writer: its `w_counter` then. Until there was one, no HUP is reported.
    idle_since: AtomicU64,
}

/// `idle_since` of ends that report HUP at once.
const NEVER: u64 = u64::MAX;

impl PipeFile {
    fn new(pipe: Arc<Pipe>, flags: OpenFlags) -> PipeFile {
        PipeFile { pipe, reads: flags.readable(), writes: flags.writable(), idle_since: AtomicU64::new(NEVER) }
    }

    /// Counts this end in the pipe.
    fn attach(&self) {
        let mut s = self.pipe.state.lock();
        if self.reads {
            s.readers += 1;
            s.r_counter += 1;
        }
        if self.writes {
            s.writers += 1;
            s.w_counter += 1;
        }
    }

    fn detach(&self) {
        let mut s = self.pipe.state.lock();
        if self.reads {
            s.readers = s.readers.saturating_sub(1);
        }
        if self.writes {
            s.writers = s.writers.saturating_sub(1);
        }
        let (readers, writers) = (s.readers, s.writers);
        if readers == 0 && writers == 0 {
            s.ring.clear();
        }
        drop(s);
        if (readers == 0) != (writers == 0) {
            let all = PollEvents::READABLE | PollEvents::WRITABLE | PollEvents::ERR | PollEvents::HUP;
            self.pipe.queue.notify(all);
        }
    }
}

impl FileOps for PipeFile {
    fn read(&self, _file: &File, buf: &mut IoBuffer<'_>, _offset: u64) -> Result<usize> {
        self.pipe.read(buf)
    }

    fn write(&self, file: &File, buf: &mut IoBuffer<'_>, _offset: u64, _append: bool) -> Result<(usize, u64)> {
        Ok((self.pipe.write(buf, file.flags().contains(OpenFlags::DIRECT))?, 0))
    }

    fn fcntl(&self, _file: &File, task: &Task, cmd: i32, arg: u64) -> Result<u64> {
        match cmd {
            abi::libc::F_GETPIPE_SZ => Ok(self.pipe.capacity() as u64),
            abi::libc::F_SETPIPE_SZ => Ok(self.pipe.set_capacity(arg & u64::from(u32::MAX), &task.cred())? as u64),
            _ => bail!(EINVAL, "no seals on a pipe"),
        }
    }

    fn seekable(&self) -> bool {
        false
    }

    fn is_stream(&self) -> bool {
        true
    }

    fn poll(&self, _file: &File) -> PollEvents {
        let s = self.pipe.state.lock();
        let mut e = PollEvents::empty();
        if self.reads {
            if !s.ring.is_empty() {
                e |= PollEvents::READABLE;
            }
            if s.writers == 0 && self.idle_since.load(Ordering::Relaxed) != s.w_counter {
                e |= PollEvents::HUP;
            }
        }
        if self.writes {
            if !s.ring.is_full() {
                e |= PollEvents::WRITABLE;
            }
            // Linux leaves HUP to the reading end.
            if s.readers == 0 {
                e |= PollEvents::ERR;
            }
        }
        e
    }

    fn poll_queue(&self) -> Option<&WaitQueue> {
        Some(&self.pipe.queue)
    }

    fn has_async(&self) -> bool {
        true
    }

    fn async_band(&self, _file: &File, events: PollEvents) -> Option<Band> {
        // A reader is told of bytes and of the end alike, a writer of room and of the last reader's end.
        if self.reads && events.contains(PollEvents::IN) {
            Some(Band::In)
        } else {
            (self.writes && events.contains(PollEvents::OUT)).then_some(Band::Out)
        }
    }

    fn ioctl(&self, _file: &File, task: &Task, cmd: u32, arg: IoctlArg) -> Result<u64> {
        if cmd != abi::libc::FIONREAD as u32 {
            bail!(ENOTTY);
        }
        let n = i32::try_from(self.pipe.readable()).unwrap_or(i32::MAX);
        task.mm().write(arg.addr().cast::<i32>(), &n)?;
        Ok(0)
    }

    fn release(&self, _file: &File) {
        self.detach();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// pipe2(2): the reading and the writing end. `flags`: O_NONBLOCK, O_DIRECT (O_CLOEXEC is the descriptor's).
pub fn create(flags: OpenFlags, cred: &Credentials) -> (Arc<File>, Arc<File>) {
    let path = anon_path(AnonKind::Pipe, cred);
    let pipe = path.inode.attachments.get_or_insert_with(Pipe::default);
    let flags = flags & (OpenFlags::NONBLOCK | OpenFlags::DIRECT);
    let end = |mode: OpenFlags| {
        let ops = PipeFile::new(pipe.clone(), mode);
        ops.attach();
        // Linux's reading end never carries O_DIRECT.
        let flags = if mode.writable() { flags } else { flags - OpenFlags::DIRECT };
        File::new(path.clone(), flags | mode, Box::new(ops))
    };
    (end(OpenFlags::empty()), end(OpenFlags::WRONLY))
}

#[cfg(test)]
mod tests;
