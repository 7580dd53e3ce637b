//! Reading and writing: read(2) and its kin, lseek(2), fsync(2), fallocate(2), copying between files.

use crate::{row, table::Entry};
use abi::{
    Errno, Error, Result, bail,
    fs::{FileType, OpenFlags},
    libc,
    signal::{SI_KERNEL, SI_USER, SigInfo, Signal},
};
use kernel::{
    io::IoBuffer,
    task::CurrentTask,
    user::{UserAddr, UserRange, UserRef},
    vfs::{
        Fd, File, SeekFrom,
        blocking::{self, At},
    },
};
use std::sync::Arc;

pub(crate) const ROWS: &[Entry] = &[
    row!("read", read),
    row!("write", write),
    row!("readv", readv),
    row!("writev", writev),
    row!("pread64", pread64),
    row!("pwrite64", pwrite64),
    row!("preadv", preadv),
    row!("pwritev", pwritev),
    row!("preadv2", preadv2),
    row!("pwritev2", pwritev2),
    row!("lseek", lseek),
    row!("fsync", fsync),
    row!("fdatasync", fdatasync),
    row!("sync", sync),
    row!("syncfs", syncfs),
    row!("sync_file_range", sync_file_range),
    row!("fallocate", fallocate),
    row!("fadvise64", fadvise64),
    row!("readahead", readahead),
    row!("sendfile", sendfile),
    row!("copy_file_range", copy_file_range),
];

/// Most segments of a vector (`UIO_MAXIOV`).
const IOV_MAX: usize = 1024;

/// `struct iovec`.
#[repr(C)]
#[derive(Clone, Copy, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable)]
pub struct Iovec {
    base: u64,
    len: u64,
}

/// Reads a vector of segments (`import_iovec`).
pub fn ranges(t: &CurrentTask, iov: UserRef<Iovec>, count: usize) -> Result<Vec<UserRange>> {
    if count > IOV_MAX {
        bail!(EINVAL, "too many segments");
    }
    let mm = t.mm();
    let mut total: u64 = 0;
    let mut list = Vec::with_capacity(count);
    for i in 0..count as u64 {
        let v = mm.read(iov.at(i))?;
        total = total.checked_add(v.len).filter(|&n| i64::try_from(n).is_ok()).ok_or(abi::error!(EINVAL, "segments too long"))?;
        if v.base.checked_add(v.len).is_none() {
            bail!(EFAULT);
        }
        list.push(UserRange { addr: UserAddr(v.base), len: v.len as usize });
    }
    Ok(list)
}

/// One segment; `EFAULT` where no application's memory reaches so far.
fn range(buf: UserAddr, len: usize) -> Result<[UserRange; 1]> {
    if buf.checked_add(len as u64).is_none_or(|end| i64::try_from(end.0).is_err()) {
        bail!(EFAULT);
    }
    Ok([UserRange { addr: buf, len }])
}

fn do_read(t: &CurrentTask, fd: Fd, ranges: &[UserRange], at: At, nowait: bool) -> Result<usize> {
    let file = t.files().get_open(fd)?;
    let mm = t.mm();
    blocking::read(t, &file, &mut IoBuffer::user(&mm, ranges), at, nowait)
}

fn do_write(t: &CurrentTask, fd: Fd, ranges: &[UserRange], at: At, append: bool, nowait: bool) -> Result<usize> {
    let file = t.files().get_open(fd)?;
    let mm = t.mm();
    let result = blocking::write(t, &file, &mut IoBuffer::user(&mm, ranges), at, append, nowait);
    signal_failure(t, &file, &result)?;
    result
}

/// Whether there is a limit of file sizes at all: without one `EFBIG` comes from the file system, and nobody is sent a signal.
fn limited(t: &CurrentTask) -> bool {
    t.rlimit(libc::RLIMIT_FSIZE).cur != abi::task::Rlimit::INFINITY
}

/// A write that fails may send a signal as well: SIGPIPE for EPIPE, SIGXFSZ beyond RLIMIT_FSIZE.
pub fn signal_failure<T>(t: &CurrentTask, file: &File, result: &Result<T>) -> Result {
    let info = match result {
        Err(Error::Errno(Errno::EPIPE)) if file.ops().is_stream() => SigInfo::user(Signal::PIPE, SI_USER, t.tgid(), t.cred().uid),
        Err(Error::Errno(Errno::EFBIG)) if file.inode().kind == FileType::Regular && limited(t) => SigInfo::new(Signal::XFSZ, SI_KERNEL),
        _ => return Ok(()),
    };
    t.task.send_signal(info)
}

fn offset(raw: i64) -> Result<At> {
    u64::try_from(raw).map(At::Offset).map_err(|_| abi::error!(EINVAL, "negative offset"))
}

pub fn read(t: &mut CurrentTask, fd: Fd, buf: UserAddr, len: usize) -> Result<usize> {
    do_read(t, fd, &range(buf, len)?, At::Position, false)
}

pub fn write(t: &mut CurrentTask, fd: Fd, buf: UserAddr, len: usize) -> Result<usize> {
    do_write(t, fd, &range(buf, len)?, At::Position, false, false)
}

pub fn readv(t: &mut CurrentTask, fd: Fd, iov: UserRef<Iovec>, count: usize) -> Result<usize> {
    do_read(t, fd, &ranges(t, iov, count)?, At::Position, false)
}

pub fn writev(t: &mut CurrentTask, fd: Fd, iov: UserRef<Iovec>, count: usize) -> Result<usize> {
    do_write(t, fd, &ranges(t, iov, count)?, At::Position, false, false)
}

pub fn pread64(t: &mut CurrentTask, fd: Fd, buf: UserAddr, len: usize, at: i64) -> Result<usize> {
    do_read(t, fd, &range(buf, len)?, offset(at)?, false)
}

pub fn pwrite64(t: &mut CurrentTask, fd: Fd, buf: UserAddr, len: usize, at: i64) -> Result<usize> {
    do_write(t, fd, &range(buf, len)?, offset(at)?, false, false)
}

// On x86-64 the low half of a vector call's offset is the whole of it; the high half comes in the next register and is ignored.

pub fn preadv(t: &mut CurrentTask, fd: Fd, iov: UserRef<Iovec>, count: usize, at: i64) -> Result<usize> {
    do_read(t, fd, &ranges(t, iov, count)?, offset(at)?, false)
}

pub fn pwritev(t: &mut CurrentTask, fd: Fd, iov: UserRef<Iovec>, count: usize, at: i64) -> Result<usize> {
    do_write(t, fd, &ranges(t, iov, count)?, offset(at)?, false, false)
}

/// `RWF_*`, of which all are accepted that change nothing here.
const RWF_KNOWN: u32 = 0x1f;
const RWF_NOWAIT: u32 = 0x8;
const RWF_APPEND: u32 = 0x10;
const RWF_NOAPPEND: u32 = 0x20;

/// -1 stands for the file position.
fn position_or(at: i64) -> Result<At> {
    if at == -1 { Ok(At::Position) } else { offset(at) }
}

pub fn preadv2(t: &mut CurrentTask, fd: Fd, iov: UserRef<Iovec>, count: usize, at: i64, _high: u64, flags: u32) -> Result<usize> {
    if flags & !RWF_KNOWN != 0 {
        bail!(EOPNOTSUPP, "RWF flags {flags:#x}");
    }
    do_read(t, fd, &ranges(t, iov, count)?, position_or(at)?, flags & RWF_NOWAIT != 0)
}

pub fn pwritev2(t: &mut CurrentTask, fd: Fd, iov: UserRef<Iovec>, count: usize, at: i64, _high: u64, flags: u32) -> Result<usize> {
    if flags & !(RWF_KNOWN | RWF_NOAPPEND) != 0 || flags & RWF_APPEND != 0 && flags & RWF_NOAPPEND != 0 {
        bail!(EOPNOTSUPP, "RWF flags {flags:#x}");
    }
    do_write(t, fd, &ranges(t, iov, count)?, position_or(at)?, flags & RWF_APPEND != 0, flags & RWF_NOWAIT != 0)
}

pub fn lseek(t: &mut CurrentTask, fd: Fd, by: i64, whence: u32) -> Result<u64> {
    let file = t.files().get_open(fd)?;
    let ops = file.ops();
    if !ops.seekable() {
        bail!(ESPIPE);
    }
    let mut pos = file.pos.lock();
    let positive = || u64::try_from(by);
    let data = |data| match positive() {
        Ok(from) => ops.seek_data(&file, from, data),
        Err(_) => bail!(ENXIO),
    };
    let new = match whence as i32 {
        libc::SEEK_DATA => data(true)?,
        libc::SEEK_HOLE => data(false)?,
        w => {
            let to = match w {
                libc::SEEK_SET => SeekFrom::Start(positive().map_err(|_| abi::error!(EINVAL))?),
                libc::SEEK_CUR => SeekFrom::Current(by),
                libc::SEEK_END => SeekFrom::End(by),
                _ => bail!(EINVAL, "whence"),
            };
            match ops.seek(&file, *pos, to) {
                Some(r) => r?,
                None => {
                    let base = match to {
                        SeekFrom::Start(_) => 0,
                        SeekFrom::Current(_) => *pos,
                        SeekFrom::End(_) => ops.size(&file)?,
                    };
                    let new = i64::try_from(base).ok().and_then(|b| b.checked_add(by)).ok_or(abi::error!(EINVAL))?;
                    u64::try_from(new).map_err(|_| abi::error!(EINVAL, "before the beginning"))?
                }
            }
        }
    };
    *pos = new;
    Ok(new)
}

pub fn fsync(t: &mut CurrentTask, fd: Fd) -> Result<()> {
    let file = t.files().get_open(fd)?;
    file.ops().fsync(&file, false)
}

pub fn fdatasync(t: &mut CurrentTask, fd: Fd) -> Result<()> {
    let file = t.files().get_open(fd)?;
    file.ops().fsync(&file, true)
}

/// Every file system of the task's tree; errors are not told, as in Linux.
pub fn sync(t: &mut CurrentTask) -> Result<()> {
    let root = t.fs().root();
    if let Some(ns) = root.mount.namespace() {
        for mount in ns.mounts_under(&root.mount) {
            let _ = mount.sb.ops.sync();
        }
    }
    Ok(())
}

pub fn syncfs(t: &mut CurrentTask, fd: Fd) -> Result<()> {
    t.files().get_open(fd)?.inode().sb.ops.sync()
}

pub fn sync_file_range(t: &mut CurrentTask, fd: Fd, at: i64, len: i64, flags: u32) -> Result<()> {
    let file = t.files().get_open(fd)?;
    if flags & !7 != 0 || at < 0 || len < 0 || at.checked_add(len).is_none() {
        bail!(EINVAL);
    }
    if !matches!(file.inode().kind, FileType::Regular | FileType::Directory | FileType::Symlink | FileType::BlockDevice) {
        bail!(ESPIPE);
    }
    if file.inode().kind == FileType::Regular { file.ops().fsync(&file, true) } else { Ok(()) }
}

pub fn fallocate(t: &mut CurrentTask, fd: Fd, mode: u32, at: i64, len: i64) -> Result<()> {
    let file = t.files().get_open(fd)?;
    let (Ok(start), Ok(size @ 1..)) = (u64::try_from(at), u64::try_from(len)) else { bail!(EINVAL) };
    if !file.flags().writable() {
        bail!(EBADF);
    }
    match file.inode().kind {
        FileType::Regular => {}
        FileType::Directory => bail!(EISDIR),
        FileType::Fifo => bail!(ESPIPE),
        _ => bail!(ENODEV),
    }
    let Some(end) = at.checked_add(len) else { bail!(EFBIG) };
    const KEEP_SIZE: u32 = 1;
    if mode & KEEP_SIZE == 0 && end as u64 > t.rlimit(libc::RLIMIT_FSIZE).cur {
        bail!(EFBIG, "beyond RLIMIT_FSIZE");
    }
    file.ops().fallocate(&file, mode, start, size)
}

/// Advice changes nothing that a program can see.
pub fn fadvise64(t: &mut CurrentTask, fd: Fd, _at: i64, len: i64, advice: i32) -> Result<()> {
    let file = t.files().get_open(fd)?;
    if file.inode().kind == FileType::Fifo {
        bail!(ESPIPE);
    }
    if len < 0 || !(0..=5).contains(&advice) {
        bail!(EINVAL);
    }
    Ok(())
}

pub fn readahead(t: &mut CurrentTask, fd: Fd, _at: i64, _count: usize) -> Result<()> {
    let file = t.files().get_open(fd)?;
    if !file.flags().readable() {
        bail!(EBADF);
    }
    if !matches!(file.inode().kind, FileType::Regular | FileType::BlockDevice) {
        bail!(EINVAL);
    }
    Ok(())
}

/// Bytes copied at a time between two files.
const COPY_CHUNK: usize = 1 << 18;

/// Copies up to `count` bytes. A failure counts only if nothing was copied.
fn copy(t: &CurrentTask, from: &Arc<File>, mut read_at: At, to: &Arc<File>, mut write_at: At, count: usize) -> Result<usize> {
    let mut chunk = vec![0; COPY_CHUNK.min(count)];
    let mut done = 0;
    while done < count {
        let want = chunk.len().min(count - done);
        let step = (|| {
            let n = blocking::read(t, from, &mut IoBuffer::dest(&mut chunk[..want]), read_at, false)?;
            let mut source = IoBuffer::source(&chunk[..n]);
            let mut written = 0;
            while written < n {
                let k = match blocking::write(t, to, &mut source, write_at, false, false) {
                    Ok(k) => k,
                    Err(e) if written == 0 => return Err(e),
                    Err(_) => break,
                };
                written += k;
                if let At::Offset(o) = &mut write_at {
                    *o = o.saturating_add(k as u64);
                }
            }
            // What was read and could not be written is read again by the next call.
            if written < n && read_at == At::Position && from.ops().seekable() {
                let mut pos = from.pos.lock();
                *pos = pos.saturating_sub((n - written) as u64);
            }
            Ok((n, written))
        })();
        match step {
            Ok((n, written)) => {
                done += written;
                if let At::Offset(o) = &mut read_at {
                    *o = o.saturating_add(written as u64);
                }
                if n == 0 || written < n {
                    break;
                }
            }
            Err(e) if done == 0 => {
                signal_failure::<()>(t, to, &Err(e))?;
                return Err(e);
            }
            Err(_) => break,
        }
    }
    Ok(done)
}

/// An offset argument by address: read it, and later write back what it became.
fn offset_at(t: &CurrentTask, at: UserRef<i64>) -> Result<Option<i64>> {
    match at.non_null() {
        Some(a) => {
            let o = t.mm().read(a)?;
            if o < 0 { bail!(EINVAL, "negative offset") } else { Ok(Some(o)) }
        }
        None => Ok(None),
    }
}

fn at_of(offset: Option<i64>) -> At {
    offset.map_or(At::Position, |o| At::Offset(o as u64))
}

pub fn sendfile(t: &mut CurrentTask, out: Fd, input: Fd, at: UserRef<i64>, count: usize) -> Result<usize> {
    let (from, to) = (t.files().get_open(input)?, t.files().get_open(out)?);
    let offset = offset_at(t, at)?;
    from.check_readable()?;
    to.check_writable()?;
    if to.flags().contains(OpenFlags::APPEND) {
        bail!(EINVAL, "target is open for appending");
    }
    if !from.ops().seekable() && (offset.is_some() || from.inode().kind != FileType::Fifo) {
        if offset.is_some() { bail!(ESPIPE) } else { bail!(EINVAL, "source has no pages") }
    }
    let n = copy(t, &from, at_of(offset), &to, At::Position, count.min(blocking::MAX_RW))?;
    if let Some(o) = offset {
        t.mm().write(at, &(o + n as i64))?;
    }
    Ok(n)
}

pub fn copy_file_range(
    t: &mut CurrentTask,
    input: Fd,
    at_in: UserRef<i64>,
    out: Fd,
    at_out: UserRef<i64>,
    len: usize,
    flags: u32,
) -> Result<usize> {
    if flags != 0 {
        bail!(EINVAL, "flags");
    }
    let (from, to) = (t.files().get_open(input)?, t.files().get_open(out)?);
    from.check_readable()?;
    to.check_writable()?;
    if to.flags().contains(OpenFlags::APPEND) {
        bail!(EBADF, "target is open for appending");
    }
    for f in [&from, &to] {
        match f.inode().kind {
            FileType::Regular => {}
            FileType::Directory => bail!(EISDIR),
            _ => bail!(EINVAL, "not a regular file"),
        }
    }
    let (offset_in, offset_out) = (offset_at(t, at_in)?, offset_at(t, at_out)?);
    let len = len.min(blocking::MAX_RW);
    if Arc::ptr_eq(from.inode(), to.inode()) {
        let start = |o: Option<i64>, f: &File| o.map_or_else(|| *f.pos.lock(), |o| o as u64);
        let (a, b) = (start(offset_in, &from), start(offset_out, &to));
        if a < b.saturating_add(len as u64) && b < a.saturating_add(len as u64) {
            bail!(EINVAL, "ranges overlap");
        }
    }
    let n = copy(t, &from, at_of(offset_in), &to, at_of(offset_out), len)?;
    for (offset, at) in [(offset_in, at_in), (offset_out, at_out)] {
        if let Some(o) = offset {
            t.mm().write(at, &(o + n as i64))?;
        }
    }
    Ok(n)
}
