//! Descriptors of the host as files: the standard streams that the runtime hands over.
//!
//! The open files behind them are shared with whoever started the sandbox, so their flags are never changed: reads and writes use
//! RWF_NOWAIT (or poll first), and one thread with a host epoll wakes the wait queues. Regular files have a position: it is
//! kept equal to the host's, so that what the starter reads or writes afterwards continues there.

use crate::{
    cred::Credentials,
    io::IoBuffer,
    task::Task,
    vfs::{Attr, Dentry, File, FileOps, Inode, InodeOps, IoctlArg, Mount, MountFlags, PathRef, SbFlags, SetAttr, SuperBlock, SuperOps},
};
use abi::{
    Errno, Result, bail,
    fs::{FileType, OpenFlags, Stat, Statfs},
    libc,
    poll::PollEvents,
};
use host::epoll::Epoll;
use std::any::Any;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{
    Arc, LazyLock, OnceLock,
    atomic::{AtomicU64, Ordering},
};
use sync::{Mutex, Rank, WaitQueue};

/// A descriptor of the host, whatever refers to it in the sandbox.
struct HostFd {
    fd: OwnedFd,
    kind: FileType,
    flags: OpenFlags,
    terminal: bool,
    /// `None`: always ready (regular files, /dev/null).
    watch: Option<Watch>,
}

/// A descriptor of the host whose readiness is notified in a queue, for as long as this lives.
pub struct Watch {
    queue: WaitQueue,
    id: u64,
}

impl Watch {
    /// Watches a descriptor; `None` for what is always ready.
    pub fn new(fd: impl AsFd) -> Result<Option<Watch>> {
        Watch::notifying(fd, WaitQueue::new())
    }

    /// As [`new`](Self::new), with a queue that is there.
    pub fn notifying(fd: impl AsFd, queue: WaitQueue) -> Result<Option<Watch>> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let w = Watch { queue, id: NEXT.fetch_add(1, Ordering::Relaxed) };
        let notifier = Notifier::get()?;
        notifier.queues.lock().insert(w.id, w.queue.clone());
        let events = (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLPRI | libc::EPOLLET) as u32;
        match notifier.epoll.add(fd, events, w.id) {
            Ok(()) => Ok(Some(w)),
            Err(Errno::EPERM) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Where its readiness is notified.
    #[must_use]
    pub fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    /// To be called before the descriptor is closed where others hold the open file: it would stay in the epoll instance.
    fn forget(&self, fd: impl AsFd) {
        if let Ok(n) = Notifier::get() {
            let _ = n.epoll.delete(fd);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Ok(n) = Notifier::get() {
            n.queues.lock().remove(&self.id);
        }
    }
}

/// What a descriptor of the host is ready for now.
pub fn poll_now(fd: impl AsFd) -> PollEvents {
    let all = libc::POLLIN | libc::POLLOUT | libc::POLLPRI | libc::POLLRDNORM | libc::POLLWRNORM | libc::POLLRDHUP;
    let found = host::io::poll(fd, all, 0).unwrap_or(libc::POLLERR);
    PollEvents::from_bits_truncate(u32::from(found as u16))
}

impl HostFd {
    fn new(fd: OwnedFd) -> Result<Arc<HostFd>> {
        let st = host::file::stat(&fd)?;
        let Some(kind) = FileType::from_mode(st.mode) else { bail!(EINVAL, "descriptor of unknown kind") };
        Ok(Arc::new(HostFd {
            kind,
            flags: host::file::status_flags(&fd)?,
            terminal: kind == FileType::CharDevice && host::file::termios(&fd).is_ok(),
            watch: Watch::new(&fd)?,
            fd,
        }))
    }

    fn stat(&self) -> Result<Stat> {
        Ok(host::file::stat(&self.fd)?)
    }

    fn has_position(&self) -> bool {
        self.kind == FileType::Regular
    }
}

impl Drop for HostFd {
    fn drop(&mut self) {
        if let Some(w) = &self.watch {
            w.forget(&self.fd);
        }
    }
}

/// The thread that turns the host's readiness into notifications.
struct Notifier {
    epoll: Epoll,
    queues: Mutex<HashMap<u64, WaitQueue>>,
}

impl Notifier {
    fn get() -> Result<&'static Arc<Notifier>> {
        static NOTIFIER: OnceLock<core::result::Result<Arc<Notifier>, Errno>> = OnceLock::new();
        NOTIFIER.get_or_init(Self::start).as_ref().map_err(|&e| e.into())
    }

    fn start() -> core::result::Result<Arc<Notifier>, Errno> {
        let n = Arc::new(Notifier { epoll: Epoll::new()?, queues: Mutex::new(Rank::Leaf, HashMap::new()) });
        let of_thread = n.clone();
        host::thread::spawn("host-files", move || of_thread.run())?;
        Ok(n)
    }

    fn run(&self) {
        let mut ready = Vec::new();
        loop {
            match self.epoll.wait(&mut ready, -1) {
                Ok(()) | Err(Errno::EINTR) => {}
                Err(e) => {
                    tracing::error!("waiting for host files: {e}");
                    return;
                }
            }
            for r in &ready {
                let queue = self.queues.lock().get(&r.data).cloned();
                if let Some(q) = queue {
                    let mut events = PollEvents::from_bits_truncate(r.events);
                    if events.contains(PollEvents::IN) {
                        events |= PollEvents::READABLE;
                    }
                    if events.contains(PollEvents::OUT) {
                        events |= PollEvents::WRITABLE;
                    }
                    q.notify(events);
                }
            }
        }
    }
}

struct HostSuper;

impl SuperOps for HostSuper {
    fn statfs(&self, _sb: &SuperBlock) -> Result<Statfs> {
        Ok(Statfs { kind: 0x0904_1934, bsize: 4096, namelen: 255, frsize: 4096, ..Statfs::default() })
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

static HOSTFS: LazyLock<Arc<SuperBlock>> =
    LazyLock::new(|| SuperBlock::new("hostfs", "host", SbFlags::NO_DCACHE | SbFlags::NODEV, Box::new(HostSuper)));

struct HostInode {
    fd: Arc<HostFd>,
}

impl InodeOps for HostInode {
    fn attr(&self, _inode: &Inode) -> Result<Attr> {
        let s = self.fd.stat()?;
        Ok(Attr {
            perm: s.mode & 0o7777,
            nlink: s.nlink as u32,
            uid: s.uid,
            gid: s.gid,
            rdev: s.rdev,
            size: u64::try_from(s.size).unwrap_or(0),
            blocks: u64::try_from(s.blocks).unwrap_or(0),
            blksize: u32::try_from(s.blksize).unwrap_or(4096),
            atime: s.atime,
            mtime: s.mtime,
            ctime: s.ctime,
            btime: None,
        })
    }

    fn set_attr(&self, _inode: &Inode, change: &SetAttr) -> Result {
        if let Some(size) = change.size {
            host::file::truncate(&self.fd.fd, size)?;
        }
        // Owner, mode and times of the host's file stay the host's affair: programs that fchmod their output are not failed for it.
        Ok(())
    }

    fn open(&self, _inode: &Arc<Inode>, _path: &PathRef, flags: OpenFlags, _task: &Task) -> Result<Box<dyn FileOps>> {
        self.reopen(flags)
    }

    fn opens_devices(&self) -> bool {
        true
    }

    fn permission(&self, _inode: &Inode, _cred: &Credentials, mask: u32) -> Option<Result> {
        let (r, w) = (self.fd.flags.readable(), self.fd.flags.writable());
        Some(if mask & 4 != 0 && !r || mask & 2 != 0 && !w || mask & 1 != 0 { Err(abi::error!(EACCES)) } else { Ok(()) })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl HostInode {
    fn reopen(&self, flags: OpenFlags) -> Result<Box<dyn FileOps>> {
        if flags.readable() && !self.fd.flags.readable() || flags.writable() && !self.fd.flags.writable() {
            bail!(EACCES, "the host's descriptor has another access mode");
        }
        if flags.contains(OpenFlags::TRUNC) && self.fd.kind == FileType::Regular {
            host::file::truncate(&self.fd.fd, 0)?;
        }
        Ok(Box::new(HostFile { fd: self.fd.clone() }))
    }
}

/// Opens the host's file behind `inode` once more (/proc/self/fd/1, /dev/stderr); `None` if the inode is none of ours.
pub fn reopen(inode: &Inode, flags: OpenFlags) -> Option<Result<Box<dyn FileOps>>> {
    inode.ops.as_any().downcast_ref::<HostInode>().map(|h| h.reopen(flags))
}

/// An open file on a descriptor of the host.
pub struct HostFile {
    fd: Arc<HostFd>,
}

impl HostFile {
    /// Whether it is a terminal of the host.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.fd.terminal
    }

    /// Keeps the host's position equal to ours.
    fn sync_position(&self, pos: u64) {
        // A failure leaves the starter's position behind, and nothing of the application's.
        let _ = host::file::set_position(&self.fd.fd, pos);
    }
}

impl FileOps for HostFile {
    fn read(&self, _file: &File, buf: &mut IoBuffer<'_>, offset: u64) -> Result<usize> {
        let fd = self.fd.fd.as_fd();
        if buf.remaining() == 0 {
            return Ok(0);
        }
        if !self.fd.has_position() {
            return buf.read_from_host_nowait(fd);
        }
        let n = buf.read_from_host(fd, Some(offset), usize::MAX)?;
        self.sync_position(offset.saturating_add(n as u64));
        Ok(n)
    }

    fn write(&self, _file: &File, buf: &mut IoBuffer<'_>, offset: u64, append: bool) -> Result<(usize, u64)> {
        let fd = self.fd.fd.as_fd();
        if buf.remaining() == 0 {
            return Ok((0, offset));
        }
        if !self.fd.has_position() {
            return Ok((buf.write_to_host_nowait(fd)?, 0));
        }
        let at = if append { u64::try_from(self.fd.stat()?.size).unwrap_or(0) } else { offset };
        let n = buf.write_to_host(fd, Some(at), usize::MAX)?;
        let end = at.saturating_add(n as u64);
        self.sync_position(end);
        Ok((n, end))
    }

    fn seekable(&self) -> bool {
        self.fd.has_position()
    }

    fn is_stream(&self) -> bool {
        matches!(self.fd.kind, FileType::Fifo | FileType::Socket | FileType::CharDevice)
    }

    fn poll(&self, _file: &File) -> PollEvents {
        if self.fd.watch.is_none() {
            return PollEvents::READABLE | PollEvents::WRITABLE;
        }
        poll_now(&self.fd.fd)
    }

    fn poll_queue(&self) -> Option<&WaitQueue> {
        self.fd.watch.as_ref().map(Watch::queue)
    }

    fn ioctl(&self, _file: &File, task: &Task, cmd: u32, arg: IoctlArg) -> Result<u64> {
        let (fd, mm) = (&self.fd.fd, task.mm());
        match u64::from(cmd) {
            libc::FIONREAD => {
                let n = host::io::readable_bytes(fd)?;
                mm.write(arg.addr().cast::<i32>(), &i32::try_from(n).unwrap_or(i32::MAX))?;
            }
            _ if !self.fd.terminal => bail!(ENOTTY),
            libc::TCGETS => mm.write(arg.addr().cast(), &host::file::termios(fd)?)?,
            libc::TCSETS | libc::TCSETSW | libc::TCSETSF => host::file::set_termios(fd, cmd, &mm.read(arg.addr().cast())?)?,
            libc::TIOCGWINSZ => mm.write(arg.addr().cast(), &host::file::window_size(fd)?)?,
            libc::TIOCSWINSZ => host::file::set_window_size(fd, &mm.read(arg.addr().cast())?)?,
            _ => bail!(ENOTTY, "not passed on to the host's terminal"),
        }
        Ok(0)
    }

    fn fsync(&self, _file: &File, data_only: bool) -> Result {
        Ok(host::file::sync(&self.fd.fd, data_only)?)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A file on a descriptor that the runtime handed over.
pub fn open(fd: OwnedFd) -> Result<Arc<File>> {
    let fd = HostFd::new(fd)?;
    let st = fd.stat()?;
    let inode = Inode::new(&HOSTFS, st.ino, fd.kind, Box::new(HostInode { fd: fd.clone() }));
    let name = format!("host:[{}]", st.ino);
    let dentry = Dentry::root(name.into_bytes(), inode.clone());
    let path = PathRef { mount: Mount::new(&HOSTFS, dentry.clone(), MountFlags::NOSUID | MountFlags::NODEV), dentry, inode };
    let pos = if fd.has_position() { host::file::position(&fd.fd)? } else { 0 };
    let mode = OpenFlags::WRONLY | OpenFlags::RDWR | OpenFlags::APPEND | OpenFlags::LARGEFILE;
    let file = File::new(path, fd.flags & mode, Box::new(HostFile { fd }));
    *file.pos.lock() = pos;
    Ok(file)
}

/// Files on the standard streams. Streams that are one open file on the host (`>out 2>&1`) become one file here too, so that
/// they share the position; two regular files that cannot be told apart are taken for one.
pub fn open_stdio(fds: Vec<OwnedFd>) -> Result<Vec<Arc<File>>> {
    let mut files: Vec<Arc<File>> = Vec::new();
    for fd in fds {
        let new = open(fd)?;
        let twin = files.iter().find(|f| is_twin(f, &new)).cloned();
        files.push(twin.unwrap_or(new));
    }
    Ok(files)
}

fn is_twin(a: &File, b: &File) -> bool {
    let (Some(x), Some(y)) = (a.downcast::<HostFile>(), b.downcast::<HostFile>()) else { return false };
    let same = |p: Stat, q: Stat| p.dev == q.dev && p.ino == q.ino;
    x.fd.has_position()
        && y.fd.has_position()
        && a.flags() == b.flags()
        && matches!((x.fd.stat(), y.fd.stat()), (Ok(p), Ok(q)) if same(p, q))
        && matches!((host::file::position(&x.fd.fd), host::file::position(&y.fd.fd)), (Ok(p), Ok(q)) if p == q)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};
    use std::time::{Duration, Instant};

    struct Flag(std::sync::atomic::AtomicBool);
    impl sync::Listener for Flag {
        fn notify(&self, _events: PollEvents) -> bool {
            self.0.store(true, Ordering::SeqCst);
            true
        }
    }

    #[test]
    fn host_pipe_wakes_and_reads() {
        let (r, mut w) = std::io::pipe().expect("pipe");
        let f = open(r.into()).expect("open");
        let mut b = [0; 16];
        assert_eq!(f.ops().read(&f, &mut IoBuffer::dest(&mut b), 0), Err(Errno::EAGAIN.into()));
        assert_eq!(f.inode().kind, FileType::Fifo);
        let flag = Arc::new(Flag(false.into()));
        let _r = f.ops().poll_queue().expect("queue").register(PollEvents::READABLE, flag.clone());
        w.write_all(b"hi").expect("write");
        let end = Instant::now() + Duration::from_secs(5);
        while !flag.0.load(Ordering::SeqCst) && Instant::now() < end {
            std::thread::yield_now();
        }
        assert!(flag.0.load(Ordering::SeqCst));
        assert!(f.ops().poll(&f).contains(PollEvents::IN));
        assert_eq!(f.ops().read(&f, &mut IoBuffer::dest(&mut b), 0), Ok(2));
        drop(w);
        assert_eq!(f.ops().read(&f, &mut IoBuffer::dest(&mut b), 0), Ok(0));
    }

    #[test]
    fn host_file_shares_its_position() {
        let mut path = std::env::temp_dir();
        path.push(format!("hostfd-{}", std::process::id()));
        let mut host = std::fs::File::options().create(true).truncate(true).read(true).write(true).open(&path).expect("open");
        std::fs::remove_file(&path).expect("unlink");
        host.write_all(b"before ").expect("write");
        let dups = || OwnedFd::from(host.try_clone().expect("dup"));
        let files = open_stdio(vec![dups(), dups()]).expect("stdio");
        assert!(Arc::ptr_eq(&files[0], &files[1]));
        let f = &files[0];
        let pos = *f.pos.lock();
        assert_eq!(pos, 7);
        assert_eq!(f.ops().write(f, &mut IoBuffer::source(b"inside "), pos, false), Ok((7, 14)));
        host.write_all(b"after").expect("write");
        host.rewind().expect("seek");
        let mut all = String::new();
        host.read_to_string(&mut all).expect("read");
        assert_eq!(all, "before inside after");
    }
}
