//! Open regular files of an overlay.

use super::{OverlayInode, copy_up, ovl};
use abi::{Result, bail, fs::OpenFlags};
use host::filemap::FileMap;
use kernel::{
    io::IoBuffer,
    task::Task,
    vfs::{File, FileOps, Inode, Mappable, MappedPages, now, shmem::ShmFile},
};
use std::any::Any;
use std::sync::{Arc, Weak};

struct OverlayFile {
    inode: Arc<Inode>,
    /// The file below, if the content had not come up when this was opened.
    lower: Option<Arc<File>>,
}

/// The state of a new description.
pub(super) fn open(o: &OverlayInode, inode: &Arc<Inode>, flags: OpenFlags, task: Option<&Task>) -> Result<Box<dyn FileOps>> {
    // A file that is truncated at once need not be opened below.
    let truncates = flags.contains(OpenFlags::TRUNC) && flags.writable();
    let lower = match (o.data(), o.lower()) {
        (None, Some(l)) if !truncates => Some(copy_up::open_lower(&o.shared, l, task)?),
        _ => None,
    };
    Ok(Box::new(OverlayFile { inode: inode.clone(), lower }))
}

impl OverlayFile {
    fn ovl(&self) -> Result<&OverlayInode> {
        ovl(&self.inode).ok_or(abi::error!(EIO, "not of an overlay"))
    }

    /// Where the content is now: up here, or below.
    fn content(&self) -> Result<Where<'_>> {
        match (self.ovl()?.data(), &self.lower) {
            (Some(d), _) => Ok(Where::Up(d)),
            (None, Some(f)) => Ok(Where::Below(f)),
            // Truncation was ordered, and failed.
            (None, None) => Ok(Where::Up(self.for_writing()?)),
        }
    }

    fn for_writing(&self) -> Result<Arc<ShmFile>> {
        copy_up::content(self.ovl()?, &self.inode, self.lower.as_ref(), None)
    }

    fn written(&self) -> Result {
        let now = now();
        self.ovl()?.change_meta(|m| {
            m.mtime = now;
            m.ctime = now;
        })
    }
}

enum Where<'a> {
    Up(Arc<ShmFile>),
    Below(&'a Arc<File>),
}

impl FileOps for OverlayFile {
    fn read(&self, file: &File, buf: &mut IoBuffer<'_>, offset: u64) -> Result<usize> {
        let data = match self.content()? {
            Where::Up(d) => d,
            Where::Below(f) => return f.ops().read(f, buf, offset),
        };
        let n = data.read(buf, offset)?;
        let now = now();
        // Attributes are up wherever content is.
        if let Some(m) = &mut self.ovl()?.state.lock().meta {
            if m.atime != now && file.updates_atime(m, now) {
                m.atime = now;
            }
        }
        Ok(n)
    }

    fn write(&self, _file: &File, buf: &mut IoBuffer<'_>, offset: u64, append: bool) -> Result<(usize, u64)> {
        let done = self.for_writing()?.write(buf, offset, append)?;
        if done.0 > 0 {
            self.written()?;
        }
        Ok(done)
    }

    fn size(&self, _file: &File) -> Result<u64> {
        match self.content()? {
            Where::Up(d) => Ok(d.size()),
            Where::Below(f) => f.ops().size(f),
        }
    }

    fn seek_data(&self, _file: &File, offset: u64, data: bool) -> Result<u64> {
        match self.content()? {
            Where::Up(d) => d.seek_data(offset, data),
            Where::Below(f) => f.ops().seek_data(f, offset, data),
        }
    }

    fn fsync(&self, _file: &File, _data_only: bool) -> Result {
        Ok(())
    }

    fn fallocate(&self, _file: &File, mode: u32, offset: u64, len: u64) -> Result {
        self.for_writing()?.fallocate(mode, offset, len)?;
        self.written()
    }

    fn mappable(&self, file: &File) -> Result<Arc<dyn Mappable>> {
        // A description that may write may be mapped so that stores change the file.
        if file.flags().writable() {
            return Ok(self.for_writing()?);
        }
        match self.content()? {
            Where::Up(d) => Ok(d),
            Where::Below(f) => {
                let below = f.ops().mappable(f)?;
                Ok(Arc::new(MappedBelow { below, inode: Arc::downgrade(&self.inode), _file: f.clone() }))
            }
        }
    }

    fn fcntl(&self, _file: &File, _task: &Task, cmd: i32, _arg: u64) -> Result<u64> {
        match cmd {
            abi::libc::F_SETPIPE_SZ | abi::libc::F_GETPIPE_SZ => bail!(EBADF, "not a pipe"),
            _ => bail!(EINVAL, "no seals"),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Pages of a file below, under the overlay's name.
struct MappedBelow {
    below: Arc<dyn Mappable>,
    inode: Weak<Inode>,
    /// The donated descriptor stays open as long as it is mapped.
    _file: Arc<File>,
}

impl Mappable for MappedBelow {
    fn pages(&self, offset: u64, len: u64, write: bool) -> Result<MappedPages> {
        self.below.pages(offset, len, write)
    }
    fn file_map(&self) -> Option<&FileMap> {
        self.below.file_map()
    }
    fn check_shared_write(&self) -> Result {
        bail!(EACCES, "not open for writing")
    }
    fn mapped(&self, delta: i32, writable_shared: bool) {
        self.below.mapped(delta, writable_shared);
    }
    fn sync(&self, _offset: u64, _len: u64) -> Result {
        Ok(())
    }
    fn inode(&self) -> Option<Arc<Inode>> {
        self.inode.upgrade()
    }
}
