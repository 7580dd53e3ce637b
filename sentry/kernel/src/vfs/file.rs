//! Open file descriptions, and what their files can do.

use super::{FsStr, Inode, PathRef, notify};
use crate::{
    io::IoBuffer,
    signal::async_io::{AsyncIo, Band, OwnerKind},
    task::{Task, ThreadGroup},
    user::UserAddr,
};
use abi::{
    Result, bail,
    fs::{FileType, OpenFlags},
    mm::Prot,
    poll::PollEvents,
};
use std::any::Any;
use std::os::fd::RawFd;
use std::sync::{
    Arc, Weak,
    atomic::{AtomicU32, Ordering},
};
use sync::{Mutex, Rank, WaitQueue};

/// lseek(2)'s three classical origins; `SEEK_DATA` and `SEEK_HOLE` have methods of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SeekFrom {
    Start(u64),
    Current(i64),
    End(i64),
}

/// An ioctl's third argument.
#[derive(Clone, Copy, Debug)]
pub struct IoctlArg(pub u64);

impl IoctlArg {
    /// As an address.
    #[must_use]
    pub fn addr(self) -> UserAddr {
        UserAddr(self.0)
    }
}

/// Takes directory entries of getdents64(2).
pub trait DirSink {
    /// Adds an entry; `next` is the position after it. Returns false where there is no room: the entry was not taken.
    fn add(&mut self, name: &FsStr, ino: u64, kind: FileType, next: u64) -> bool;
}

/// A piece of a mappable file: where the host finds `len` bytes of its pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappedPages {
    /// The host descriptor to map: the memory file's (tmpfs, shared anonymous memory) or a donated one.
    pub fd: RawFd,
    /// Whether `fd` is the memory file, which the sentry has mapped already.
    pub is_memory_file: bool,
    /// Offset in `fd`.
    pub offset: u64,
    /// Bytes from there on; page-aligned, at least one page.
    pub len: u64,
}

/// A file whose pages can be mapped. Offsets are page-aligned.
pub trait Mappable: Send + Sync {
    /// Pages of the file from `offset`, at most `len` bytes of them, and fewer where they do not lie together. They are made if they are not
    /// there yet (`write`, or a hole in a shared mapping). `EFAULT`-like failures: `Errno::EIO` becomes SIGBUS, so does an offset behind
    /// the end (`ENXIO`). The pages stay valid while this object lives, also after a truncation (they then read as zero).
    fn pages(&self, offset: u64, len: u64, write: bool) -> Result<MappedPages>;
    /// The sentry's own view of the descriptor that [`pages`](Self::pages) names, where that is not the memory file: offsets are the same.
    fn file_map(&self) -> Option<&host::filemap::FileMap> {
        None
    }
    /// Whether shared writable mappings are allowed (`EACCES`, seals: `EPERM`).
    fn check_shared_write(&self) -> Result {
        Ok(())
    }
    /// Called when a mapping is added (`+1`) or removed (`-1`); `writable_shared` ones matter for seals.
    fn mapped(&self, _delta: i32, _writable_shared: bool) {}
    /// An address space begins to map it: one that must be told ([`crate::mm::Mm::file_shrunk`]) when the file becomes shorter, because
    /// the host would not fault behind the new end (files in memory).
    fn watch(&self, _mm: Weak<crate::mm::Mm>) {}
    /// msync(2).
    fn sync(&self, _offset: u64, _len: u64) -> Result {
        Ok(())
    }
    /// Makes a hole (madvise(2)'s MADV_REMOVE) where there is no open file to ask.
    fn discard(&self, _offset: u64, _len: u64) -> Result {
        bail!(EOPNOTSUPP)
    }
    /// Device, inode and path for /proc/PID/maps: the inode, where it has one.
    fn inode(&self) -> Option<Arc<Inode>> {
        None
    }
}

/// The timer of a read that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadTimer {
    /// How long it runs.
    pub limit: std::time::Duration,
    /// Bytes that are there but not enough.
    pub waiting: usize,
}

/// What an open file can do. Reads and writes **never block on other tasks**: where Linux would wait, return `EAGAIN`, and notify the
/// [`poll_queue`](FileOps::poll_queue) when that changes; the caller waits, with O_NONBLOCK, signals and timeouts handled in one place.
pub trait FileOps: Send + Sync + Any {
    /// Reads at `offset`: the file position for seekable files, of no meaning for others. 0: end of file.
    fn read(&self, _file: &File, _buf: &mut IoBuffer<'_>, _offset: u64) -> Result<usize> {
        bail!(EINVAL, "cannot be read")
    }

    /// Writes at `offset`. `append`: at the end instead, whatever the offset; returns bytes written and the position after them.
    fn write(&self, _file: &File, _buf: &mut IoBuffer<'_>, _offset: u64, _append: bool) -> Result<(usize, u64)> {
        bail!(EINVAL, "cannot be written")
    }

    /// Whether it has a position (pread, lseek); pipes, sockets and terminals do not.
    fn seekable(&self) -> bool {
        true
    }

    /// Whether it is a stream (pipe, stream socket): a blocking write goes on until everything is written, and `EPIPE` raises SIGPIPE.
    fn is_stream(&self) -> bool {
        false
    }

    /// Whether an error waits for the next call (a socket's SO_ERROR): a write that has written a part ends then, and leaves it.
    fn has_pending_error(&self) -> bool {
        false
    }

    /// Current size, for `SEEK_END`.
    fn size(&self, file: &File) -> Result<u64> {
        Ok(file.inode().attr()?.size)
    }

    /// Replaces the ordinary lseek (directories whose positions mean something else, /dev/null, proc files).
    fn seek(&self, _file: &File, _current: u64, _to: SeekFrom) -> Option<Result<u64>> {
        None
    }

    /// `SEEK_DATA` (`data`) or `SEEK_HOLE` from `offset`; `ENXIO` behind the end.
    fn seek_data(&self, file: &File, offset: u64, data: bool) -> Result<u64> {
        let size = self.size(file)?;
        if offset >= size {
            bail!(ENXIO);
        }
        Ok(if data { offset } else { size })
    }

    /// Whether [`read_timer`](Self::read_timer) may ever run (terminals).
    fn times_reads(&self) -> bool {
        false
    }

    /// The timer that ends a waiting read (a terminal's `VTIME`); `None`: it does not run now. It begins anew whenever this changes.
    fn read_timer(&self, _file: &File) -> Option<ReadTimer> {
        None
    }

    /// How long a read, or with `write` a write, waits before it fails with `EAGAIN` (SO_RCVTIMEO, SO_SNDTIMEO); `None`: for ever. With a
    /// limit an interrupted call is not restarted (signal(7)).
    fn wait_limit(&self, _write: bool) -> Option<std::time::Duration> {
        None
    }

    /// What a read gets when that time has run out.
    fn read_expired(&self, _file: &File, _buf: &mut IoBuffer<'_>) -> Result<usize> {
        Ok(0)
    }

    /// Entries of a directory from position `pos` on; returns the new position. `.` and `..` included (positions 0 and 1 by custom).
    fn readdir(&self, _file: &File, _pos: u64, _sink: &mut dyn DirSink) -> Result<u64> {
        bail!(ENOTDIR)
    }

    /// The process that this file stands for in pidfd_send_signal(2) though it is no pidfd: `/proc/PID`.
    fn process(&self) -> Option<Arc<ThreadGroup>> {
        None
    }

    /// Which of the events are true now (independent of what is asked). Regular files are always ready.
    fn poll(&self, _file: &File) -> PollEvents {
        PollEvents::READABLE | PollEvents::WRITABLE
    }

    /// Where changes of [`poll`](Self::poll) are notified; `None` for files that are always ready (epoll refuses them with EPERM).
    fn poll_queue(&self) -> Option<&WaitQueue> {
        None
    }

    /// Whether O_ASYNC makes signals (sockets, pipes, terminals, inotify); elsewhere it is only kept.
    fn has_async(&self) -> bool {
        false
    }

    /// What SIGIO tells of these events of the [`poll_queue`](Self::poll_queue); `None`: nothing. Only asked of files that have signals.
    fn async_band(&self, file: &File, events: PollEvents) -> Option<Band> {
        // Where everything may have changed, what is there now counts.
        let now = if events.intersects(PollEvents::HUP | PollEvents::ERR) { self.poll(file) } else { events };
        [(PollEvents::ERR, Band::Err), (PollEvents::HUP, Band::Hup), (PollEvents::IN, Band::In), (PollEvents::OUT, Band::Out)]
            .into_iter()
            .find(|(event, _)| now.contains(*event))
            .map(|(_, band)| band)
    }

    /// Who gets the signals where nobody has said so when O_ASYNC is set (terminals).
    fn async_owner(&self, _task: &Task) -> Option<(OwnerKind, i32)> {
        None
    }

    /// ioctl(2), commands common to all files excluded (FIONBIO, FIOCLEX, FIOASYNC…).
    fn ioctl(&self, _file: &File, _task: &Task, _cmd: u32, _arg: IoctlArg) -> Result<u64> {
        bail!(ENOTTY)
    }

    /// fcntl(2) commands that only some files know: pipe sizes (`EBADF` elsewhere) and seals (`EINVAL` elsewhere).
    fn fcntl(&self, _file: &File, _task: &Task, cmd: i32, _arg: u64) -> Result<u64> {
        match cmd {
            abi::libc::F_SETPIPE_SZ | abi::libc::F_GETPIPE_SZ => bail!(EBADF, "not a pipe"),
            _ => bail!(EINVAL, "no seals"),
        }
    }

    /// fsync(2) and fdatasync(2).
    fn fsync(&self, _file: &File, _data_only: bool) -> Result {
        bail!(EINVAL)
    }

    /// fallocate(2).
    fn fallocate(&self, _file: &File, _mode: u32, _offset: u64, _len: u64) -> Result {
        bail!(EOPNOTSUPP)
    }

    /// Whether mapping it gives anonymous memory (`/dev/zero`).
    fn maps_zeros(&self) -> bool {
        false
    }

    /// For mmap(2); `ENODEV` where it cannot be mapped.
    fn mappable(&self, _file: &File) -> Result<Arc<dyn Mappable>> {
        bail!(ENODEV)
    }

    /// Called at each close(2) of a descriptor (posix locks are the VFS's business).
    fn flush(&self, _file: &File, _task: &Task) -> Result {
        Ok(())
    }

    /// The last reference has gone. No blocking; the place to notify peers.
    fn release(&self, _file: &File) {}

    /// Told when fcntl(2) changes O_NONBLOCK, O_APPEND, O_ASYNC, O_DIRECT.
    fn flags_changed(&self, _file: &File, _flags: OpenFlags) -> Result {
        Ok(())
    }

    /// Lines for /proc/PID/fdinfo/N behind the common ones.
    fn show_fdinfo(&self, _file: &File) -> String {
        String::new()
    }

    /// For downcasting: `file.ops::<Pipe>()`.
    fn as_any(&self) -> &dyn Any;
}

/// An open file description (`struct file`): shared by dup(2) and fork(2).
pub struct File {
    /// Where it was opened: also what *at calls start from.
    pub path: PathRef,
    flags: AtomicU32,
    /// The file position.
    pub pos: Mutex<u64>,
    ops: Box<dyn FileOps>,
    /// What it holds of its inode's writer count.
    access: Access,
    /// fcntl(2)'s F_SETOWN, F_SETSIG and O_ASYNC.
    pub(crate) async_io: AsyncIo,
}

/// What an open file holds of its inode's writer count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    None,
    /// It may write: programs cannot be run from it.
    Write,
    /// A program runs from it: nobody may write.
    DenyWrite,
}

impl File {
    /// A new description. Creation flags (O_CREAT, O_EXCL, O_NOCTTY, O_TRUNC, O_CLOEXEC) are dropped.
    pub fn new(path: PathRef, flags: OpenFlags, ops: Box<dyn FileOps>) -> Arc<File> {
        Self::with_access(path, flags, ops, Access::None)
    }

    /// A new description that holds this much of its inode's writer count, which the caller has taken.
    pub(super) fn with_access(path: PathRef, flags: OpenFlags, ops: Box<dyn FileOps>, access: Access) -> Arc<File> {
        let flags = flags - (OpenFlags::CREAT | OpenFlags::EXCL | OpenFlags::NOCTTY | OpenFlags::TRUNC | OpenFlags::CLOEXEC);
        Arc::new(File {
            path,
            flags: AtomicU32::new(flags.bits()),
            pos: Mutex::new(Rank::FilePosition, 0),
            ops,
            access,
            async_io: AsyncIo::default(),
        })
    }

    /// The inode.
    pub fn inode(&self) -> &Arc<Inode> {
        &self.path.inode
    }

    /// Access mode and status flags.
    pub fn flags(&self) -> OpenFlags {
        OpenFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    /// Replaces the status flags that fcntl(F_SETFL) may change.
    pub fn set_flags(&self, new: OpenFlags) -> Result {
        let mut settable = OpenFlags::APPEND | OpenFlags::NONBLOCK | OpenFlags::DIRECT | OpenFlags::NOATIME;
        settable.set(OpenFlags::ASYNC, self.ops.has_async());
        let flags = (self.flags() - settable) | (new & settable);
        self.ops.flags_changed(self, flags)?;
        self.flags.store(flags.bits(), Ordering::Relaxed);
        Ok(())
    }

    /// Whether O_NONBLOCK is set.
    pub fn nonblocking(&self) -> bool {
        self.flags().contains(OpenFlags::NONBLOCK)
    }

    /// Whether it was opened with O_PATH.
    pub fn is_path(&self) -> bool {
        self.flags().contains(OpenFlags::PATH)
    }

    /// `EBADF` unless open for reading.
    pub fn check_readable(&self) -> Result {
        if self.flags().readable() { Ok(()) } else { bail!(EBADF, "not open for reading") }
    }

    /// `EBADF` unless open for writing.
    pub fn check_writable(&self) -> Result {
        if self.flags().writable() { Ok(()) } else { bail!(EBADF, "not open for writing") }
    }

    /// The file's operations.
    pub fn ops(&self) -> &dyn FileOps {
        &*self.ops
    }

    /// The operations as their concrete type.
    pub fn downcast<T: FileOps>(&self) -> Option<&T> {
        self.ops.as_any().downcast_ref::<T>()
    }

    /// Reads for the kernel itself (a program's headers): fills as much of `buf` as there is from `offset` on.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let mut io = IoBuffer::dest(buf);
        let mut done = 0;
        while io.remaining() > 0 {
            match self.ops.read(self, &mut io, offset.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// A protection that a mapping of this description may have at most.
    pub fn max_prot(&self, shared: bool) -> Prot {
        if shared && !self.flags().writable() { Prot::READ | Prot::EXEC } else { Prot::all() }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // Behind the ops' back nobody holds the file any more: this is `release` of Linux's file_operations.
        let ops = std::mem::replace(&mut self.ops, Box::new(Released));
        super::locks::release_file(self);
        ops.release(self);
        match self.access {
            Access::None => {}
            Access::Write => {
                self.path.inode.put_write_access();
                self.path.mount.add_writer(-1);
            }
            Access::DenyWrite => self.path.inode.allow_write_access(),
        }
        if !self.is_path() {
            let mask = if self.flags().writable() { notify::mask::CLOSE_WRITE } else { notify::mask::CLOSE_NOWRITE };
            notify::event_at(&self.path.dentry, &self.path.inode, mask);
        }
    }
}

/// What a dropped file's operations are replaced by while they are told.
struct Released;

impl FileOps for Released {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "File({:?}, {:?})", self.path.inode, self.flags())
    }
}
