//! Donated descriptors, and mappings of them.

use super::{Key, RemoteFs, remote};
use abi::{PAGE_SIZE, Result, bail};
use host::filemap::FileMap;
use kernel::vfs::{Inode, Mappable, MappedPages};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};
use sync::{Mutex, Rank};

/// An open descriptor of a regular file. It closes with the last open file or mapping that uses it.
pub(super) struct Handle {
    fd: Arc<OwnedFd>,
    pub(super) readable: bool,
    pub(super) writable: bool,
    fs: Arc<RemoteFs>,
    key: Key,
    inode: Weak<Inode>,
    /// The one object through which the descriptor is mapped.
    map: Mutex<Weak<RemoteMap>>,
}

impl Handle {
    /// Takes over a donated descriptor.
    pub(super) fn new(fs: &Arc<RemoteFs>, inode: &Arc<Inode>, fd: OwnedFd, readable: bool, writable: bool) -> Result<Arc<Handle>> {
        let key = remote(inode)?.key;
        Ok(Arc::new(Handle {
            fd: Arc::new(fd),
            readable,
            writable,
            fs: fs.clone(),
            key,
            inode: Arc::downgrade(inode),
            map: Mutex::new(Rank::InodeState, Weak::new()),
        }))
    }

    /// The descriptor.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Which file it is of.
    pub(super) fn key(&self) -> Key {
        self.key
    }

    /// The mappable object.
    pub(super) fn mappable(self: &Arc<Self>) -> Result<Arc<dyn Mappable>> {
        if !self.readable {
            bail!(EACCES, "the host lets it be written, not read");
        }
        let mut map = self.map.lock();
        if let Some(map) = map.upgrade() {
            return Ok(map);
        }
        let new = Arc::new(RemoteMap { view: FileMap::new(self.fd.clone(), self.writable), handle: self.clone() });
        *map = Arc::downgrade(&new);
        Ok(new)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.writable {
            return;
        }
        // What was written is remembered from here, as nobody can ask the descriptor any more.
        let inode = self.inode.upgrade();
        if let Some(r) = inode.as_deref().and_then(|i| remote(i).ok()) {
            match host::file::stat(&*self.fd) {
                Ok(now) => r.written(&now),
                Err(_) => r.forget_attr(),
            }
        }
        self.fs.changed();
    }
}

/// A donated descriptor as pages.
pub(super) struct RemoteMap {
    handle: Arc<Handle>,
    view: FileMap,
}

impl Mappable for RemoteMap {
    fn pages(&self, offset: u64, len: u64, write: bool) -> Result<MappedPages> {
        if write && !self.handle.writable {
            bail!(EACCES, "donated for reading");
        }
        let size = u64::try_from(host::file::stat(self.handle.fd())?.size).unwrap_or(0);
        let end = size.checked_next_multiple_of(PAGE_SIZE).unwrap_or(u64::MAX);
        if offset >= end {
            bail!(ENXIO, "behind the end");
        }
        Ok(MappedPages { fd: self.handle.fd().as_raw_fd(), is_memory_file: false, offset, len: len.min(end - offset) })
    }

    fn file_map(&self) -> Option<&FileMap> {
        Some(&self.view)
    }

    fn check_shared_write(&self) -> Result {
        if self.handle.writable { Ok(()) } else { bail!(EACCES, "donated for reading") }
    }

    fn sync(&self, _offset: u64, _len: u64) -> Result {
        Ok(host::file::sync(self.handle.fd(), false)?)
    }

    fn discard(&self, offset: u64, len: u64) -> Result {
        let mode = abi::libc::FALLOC_FL_PUNCH_HOLE | abi::libc::FALLOC_FL_KEEP_SIZE;
        Ok(host::file::allocate(self.handle.fd(), mode.unsigned_abs(), offset, len)?)
    }

    fn inode(&self) -> Option<Arc<Inode>> {
        self.handle.inode.upgrade()
    }
}
