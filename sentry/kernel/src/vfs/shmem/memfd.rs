//! memfd_create(2): files in memory without a name in any tree.

use super::{Quota, Seals, ShmFile};
use crate::{
    Kernel,
    cred::Credentials,
    io::IoBuffer,
    task::Task,
    vfs::{
        Attr, Dentry, File, FileOps, FsStr, Inode, InodeOps, Mappable, Mount, MountFlags, PathRef, SbFlags, SetAttr, SuperBlock, SuperOps,
        now,
    },
};
use abi::{
    Result, bail,
    fs::{FileType, OpenFlags, Statfs},
};
use std::any::Any;
use std::sync::{Arc, LazyLock};
use sync::{Mutex, Rank};

const TMPFS_MAGIC: i64 = 0x0102_1994;

struct ShmSuper;

impl SuperOps for ShmSuper {
    fn statfs(&self, _sb: &SuperBlock) -> Result<Statfs> {
        Ok(Statfs { kind: TMPFS_MAGIC, bsize: 4096, frsize: 4096, namelen: 255, ..Statfs::default() })
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// All memfds together may hold as much as the machine has: without a limit their holes alone could fill the sentry's tables.
static SPACE: LazyLock<Arc<Quota>> = LazyLock::new(|| Arc::new(Quota::new(host::process::machine().total_memory / abi::PAGE_SIZE)));

/// The internal tmpfs (`shm_mnt`), of which nothing but a device number is seen.
static SHM: LazyLock<Arc<Mount>> = LazyLock::new(|| {
    let sb = SuperBlock::new("tmpfs", "tmpfs", SbFlags::NO_DCACHE | SbFlags::NODEV, Box::new(ShmSuper));
    let root = Inode::new(&sb, sb.next_ino(), FileType::Directory, Box::new(Root));
    Mount::new(&sb, Dentry::root(b"/".to_vec(), root), MountFlags::NOSUID | MountFlags::NODEV)
});

struct Root;

impl InodeOps for Root {
    fn attr(&self, _inode: &Inode) -> Result<Attr> {
        Ok(Attr { perm: 0o777, nlink: 2, ..Attr::default() })
    }
    fn open(&self, _inode: &Arc<Inode>, _path: &PathRef, _flags: OpenFlags, _task: &Task) -> Result<Box<dyn FileOps>> {
        bail!(EACCES)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct MemfdInode {
    attr: Mutex<Attr>,
    data: Arc<ShmFile>,
}

impl InodeOps for MemfdInode {
    fn attr(&self, _inode: &Inode) -> Result<Attr> {
        let (size, blocks) = (self.data.size(), self.data.blocks());
        Ok(Attr { size, blocks, ..*self.attr.lock() })
    }

    fn set_attr(&self, _inode: &Inode, change: &SetAttr) -> Result {
        if let Some(size) = change.size {
            self.data.set_size(size)?;
        }
        let mut a = self.attr.lock();
        if change.perm.is_some_and(|p| (p ^ a.perm) & 0o111 != 0) && self.data.seals().contains(Seals::EXEC) {
            bail!(EPERM, "sealed");
        }
        let now = now();
        a.perm = change.perm.unwrap_or(a.perm);
        a.uid = change.uid.unwrap_or(a.uid);
        a.gid = change.gid.unwrap_or(a.gid);
        a.atime = change.atime.map_or(a.atime, |t| t.or(now));
        a.mtime = change.mtime.map_or(if change.size.is_some() { now } else { a.mtime }, |t| t.or(now));
        a.ctime = now;
        Ok(())
    }

    fn open(&self, _inode: &Arc<Inode>, _path: &PathRef, _flags: OpenFlags, _task: &Task) -> Result<Box<dyn FileOps>> {
        Ok(Box::new(ShmOps(self.data.clone())))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open memfd.
pub struct ShmOps(pub Arc<ShmFile>);

impl FileOps for ShmOps {
    fn read(&self, _file: &File, buf: &mut IoBuffer<'_>, offset: u64) -> Result<usize> {
        self.0.read(buf, offset)
    }

    fn write(&self, file: &File, buf: &mut IoBuffer<'_>, offset: u64, append: bool) -> Result<(usize, u64)> {
        let r = self.0.write(buf, offset, append)?;
        if let Some(i) = file.inode().ops.as_any().downcast_ref::<MemfdInode>() {
            let mut a = i.attr.lock();
            a.mtime = now();
            a.ctime = a.mtime;
        }
        Ok(r)
    }

    fn size(&self, _file: &File) -> Result<u64> {
        Ok(self.0.size())
    }

    fn seek_data(&self, _file: &File, offset: u64, data: bool) -> Result<u64> {
        self.0.seek_data(offset, data)
    }

    fn fsync(&self, _file: &File, _data_only: bool) -> Result {
        Ok(())
    }

    fn fallocate(&self, _file: &File, mode: u32, offset: u64, len: u64) -> Result {
        self.0.fallocate(mode, offset, len)
    }

    fn mappable(&self, _file: &File) -> Result<Arc<dyn Mappable>> {
        Ok(self.0.clone())
    }

    fn fcntl(&self, file: &File, _task: &Task, cmd: i32, arg: u64) -> Result<u64> {
        self.0.fcntl(file, cmd, arg)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Makes a memfd, open for reading and writing. `sealing`: the seals to begin with, if more may be added. `executable`: mode 0777.
pub fn create(kernel: &Kernel, cred: &Credentials, name: &FsStr, sealing: Option<Seals>, executable: bool) -> Arc<File> {
    let data = ShmFile::new(&kernel.memory, Some(SPACE.clone()));
    if let Some(seals) = sealing {
        data.allow_sealing(seals);
    }
    let now = now();
    let attr = Attr {
        perm: if executable { 0o777 } else { 0o666 },
        nlink: 0,
        uid: cred.fsuid,
        gid: cred.fsgid,
        blksize: 4096,
        atime: now,
        mtime: now,
        ctime: now,
        btime: Some(now),
        ..Attr::default()
    };
    let sb = &SHM.sb;
    let ops = MemfdInode { attr: Mutex::new(Rank::InodeState, attr), data: data.clone() };
    let inode = Inode::new(sb, sb.next_ino(), FileType::Regular, Box::new(ops));
    data.set_inode(&inode);
    let mut shown = b"/memfd:".to_vec();
    shown.extend_from_slice(name);
    shown.extend_from_slice(b" (deleted)");
    let path = PathRef { mount: SHM.clone(), dentry: Dentry::root(shown, inode.clone()), inode };
    File::new(path, OpenFlags::RDWR | OpenFlags::LARGEFILE, Box::new(ShmOps(data)))
}
