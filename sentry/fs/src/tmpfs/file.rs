//! Open files of tmpfs.

use super::{TmpInode, inode::Content, tmp};
use abi::{Result, bail, fs::FileType};
use kernel::{
    io::IoBuffer,
    task::Task,
    vfs::{DirSink, File, FileOps, Inode, Mappable, SeekFrom, shmem::ShmFile},
};
use std::any::Any;
use std::sync::Arc;

/// The state of a new description.
pub(super) fn open(inode: &Arc<Inode>) -> Result<Box<dyn FileOps>> {
    let Some(t) = tmp(inode) else { bail!(EINVAL, "not of tmpfs") };
    match &t.content {
        Content::Regular(f) => Ok(Box::new(TmpFile { data: f.clone(), inode: inode.clone() })),
        Content::Directory(_) => Ok(Box::new(TmpDir { inode: inode.clone() })),
        Content::Symlink(_) => bail!(ELOOP),
        Content::Special => bail!(ENXIO),
    }
}

/// A regular file. It holds its own inode: an overlay opens it under another name.
struct TmpFile {
    data: Arc<ShmFile>,
    inode: Arc<Inode>,
}

impl TmpFile {
    fn tmp(&self) -> Option<&TmpInode> {
        tmp(&self.inode)
    }
}

impl FileOps for TmpFile {
    fn read(&self, file: &File, buf: &mut IoBuffer<'_>, offset: u64) -> Result<usize> {
        let n = self.data.read(buf, offset)?;
        if let Some(t) = self.tmp() {
            t.touch_read(|a, now| file.updates_atime(a, now));
        }
        Ok(n)
    }

    fn write(&self, _file: &File, buf: &mut IoBuffer<'_>, offset: u64, append: bool) -> Result<(usize, u64)> {
        let done = self.data.write(buf, offset, append)?;
        if let Some(t) = self.tmp().filter(|_| done.0 > 0) {
            t.touch_write();
        }
        Ok(done)
    }

    fn size(&self, _file: &File) -> Result<u64> {
        Ok(self.data.size())
    }

    fn seek_data(&self, _file: &File, offset: u64, data: bool) -> Result<u64> {
        self.data.seek_data(offset, data)
    }

    fn fsync(&self, _file: &File, _data_only: bool) -> Result {
        Ok(())
    }

    fn fallocate(&self, _file: &File, mode: u32, offset: u64, len: u64) -> Result {
        self.data.fallocate(mode, offset, len)?;
        if let Some(t) = self.tmp() {
            t.touch_write();
        }
        Ok(())
    }

    fn mappable(&self, _file: &File) -> Result<Arc<dyn Mappable>> {
        Ok(self.data.clone())
    }

    fn fcntl(&self, file: &File, _task: &Task, cmd: i32, arg: u64) -> Result<u64> {
        self.data.fcntl(file, cmd, arg)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A directory.
struct TmpDir {
    inode: Arc<Inode>,
}

impl FileOps for TmpDir {
    fn seek(&self, _file: &File, current: u64, to: SeekFrom) -> Option<Result<u64>> {
        // Positions are numbers of names: there is no end to seek from.
        let at = match to {
            SeekFrom::Start(n) => Some(n),
            SeekFrom::Current(d) => current.checked_add_signed(d),
            SeekFrom::End(_) => None,
        };
        Some(at.filter(|&n| n <= i64::MAX as u64).ok_or(abi::error!(EINVAL)))
    }

    fn readdir(&self, file: &File, mut pos: u64, sink: &mut dyn DirSink) -> Result<u64> {
        let Some(t) = tmp(&self.inode) else { bail!(EINVAL) };
        let Content::Directory(entries) = &t.content else { bail!(ENOTDIR) };
        t.touch_read(|a, now| file.updates_atime(a, now));
        if pos == 0 {
            if !sink.add(b".", self.inode.ino, FileType::Directory, 1) {
                return Ok(pos);
            }
            pos = 1;
        }
        if pos == 1 {
            let parent = file.path.dentry.parent().and_then(|p| p.inode()).map_or(self.inode.ino, |p| p.ino);
            if !sink.add(b"..", parent, FileType::Directory, 2) {
                return Ok(pos);
            }
            pos = 2;
        }
        loop {
            let next = entries.lock().at(pos);
            let Some((after, name, inode)) = next else { return Ok(pos) };
            if !sink.add(&name, inode.ino, inode.kind, after) {
                return Ok(pos);
            }
            pos = after;
        }
    }

    fn fsync(&self, _file: &File, _data_only: bool) -> Result {
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
