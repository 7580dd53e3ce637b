//! Open regular files: host I/O on a donated descriptor, straight from and to application memory.

use super::{handle::Handle, remote};
use abi::{Result, bail, fs::OpenFlags};
use kernel::{
    io::IoBuffer,
    vfs::{File, FileOps, Inode, Mappable},
};
use std::any::Any;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// The most that one host call transfers (`MAX_RW_COUNT`).
const MAX_RW: usize = 0x7fff_f000;

/// A regular file. It holds its own inode: an overlay opens it under another name.
pub(super) struct RemoteFile {
    handle: Arc<Handle>,
    inode: Arc<Inode>,
    /// O_SYNC or O_DSYNC was asked for.
    sync: Option<bool>,
    /// A descriptor of its own to read from, for O_NOATIME: others share theirs.
    quiet: Option<OwnedFd>,
}

impl RemoteFile {
    /// Opens `inode`.
    pub(super) fn open(inode: &Arc<Inode>, flags: OpenFlags) -> Result<RemoteFile> {
        let handle = remote(inode)?.handle(inode, flags.readable(), flags.writable())?;
        let noatime = flags.contains(OpenFlags::NOATIME) && flags.readable();
        let quiet = if noatime { remote(inode)?.open_quiet()? } else { None };
        let sync = if flags.contains(OpenFlags::SYNC) { Some(false) } else { flags.contains(OpenFlags::DSYNC).then_some(true) };
        Ok(RemoteFile { handle, inode: inode.clone(), sync, quiet })
    }

    fn host_size(&self) -> Result<u64> {
        Ok(u64::try_from(host::file::stat(self.handle.fd())?.size).unwrap_or(0))
    }
}

impl FileOps for RemoteFile {
    fn read(&self, _file: &File, buf: &mut IoBuffer<'_>, offset: u64) -> Result<usize> {
        let fd = self.quiet.as_ref().map_or(self.handle.fd(), AsFd::as_fd);
        buf.read_from_host(fd, Some(offset), MAX_RW)
    }

    fn write(&self, _file: &File, buf: &mut IoBuffer<'_>, offset: u64, append: bool) -> Result<(usize, u64)> {
        let n;
        let at;
        {
            let _io = self.inode.io_lock.lock();
            at = if append { self.host_size()? } else { offset };
            n = buf.write_to_host(self.handle.fd(), Some(at), MAX_RW)?;
        }
        if let Some(data_only) = self.sync {
            host::file::sync(self.handle.fd(), data_only)?;
        }
        Ok((n, at.saturating_add(n as u64)))
    }

    fn size(&self, _file: &File) -> Result<u64> {
        self.host_size()
    }

    fn seek_data(&self, _file: &File, offset: u64, data: bool) -> Result<u64> {
        Ok(host::file::seek_data(self.handle.fd(), offset, data)?)
    }

    fn fsync(&self, _file: &File, data_only: bool) -> Result {
        Ok(host::file::sync(self.handle.fd(), data_only)?)
    }

    fn fallocate(&self, _file: &File, mode: u32, offset: u64, len: u64) -> Result {
        if !self.handle.writable {
            bail!(EBADF, "not open for writing");
        }
        let _io = self.inode.io_lock.lock();
        Ok(host::file::allocate(self.handle.fd(), mode, offset, len)?)
    }

    fn mappable(&self, _file: &File) -> Result<Arc<dyn Mappable>> {
        self.handle.mappable()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
