//! The file system of message queues: one flat directory, the same at every mount of it and for mq_open(2).

use super::{Account, Limits, QUEUES_MAX, Queue, QueueFile};
use crate::{
    Container,
    container::IpcNamespace,
    cred::{CapSet, Credentials},
    task::{self, Task},
    vfs::{
        Attr, DirSink, File, FileOps, FsStr, FsString, FsType, Inode, InodeOps, Lookup, Mount, MountFlags, MountSource, NewNode, OpenHow,
        Owner, PathRef, SbFlags, SetAttr, SuperBlock, SuperOps, Walker, now,
    },
};
use abi::{
    Errno, Result, bail,
    fs::{FileType, OpenFlags, Statfs},
};
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use sync::{Mutex, Rank};

const MQUEUE_MAGIC: i64 = 0x1980_0202;
/// What a name adds to the directory's size (`DIRENT_SIZE`).
const DIRENT_SIZE: u64 = 20;

/// The type `mqueue`.
pub struct MqueueType;

/// The queues of an IPC namespace: their file system, and a mount of it that nobody sees, where mq_open(2) looks names up.
struct Queues {
    root: PathRef,
}

impl Queues {
    fn of(ipc: &IpcNamespace) -> Result<Arc<Queues>> {
        if let Some(found) = ipc.attachments.get::<Queues>() {
            return Ok(found);
        }
        let sb = SuperBlock::new("mqueue", "mqueue", SbFlags::NODEV, Box::new(MqueueSuper));
        let now = now();
        let attr =
            Attr { perm: 0o1777, nlink: 2, blksize: 4096, size: 2 * DIRENT_SIZE, atime: now, mtime: now, ctime: now, ..Attr::default() };
        let root = MqueueDir {
            attr: Mutex::new(Rank::InodeState, attr),
            names: Mutex::new(Rank::InodeState, BTreeMap::new()),
            account: Account::new(),
        };
        sb.set_root(Inode::new(&sb, sb.next_ino(), FileType::Directory, Box::new(root)));
        let mount = Mount::of(&sb, MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC)?;
        let root = PathRef { dentry: sb.root_dentry()?, inode: sb.root()?, mount };
        Ok(ipc.attachments.get_or_insert_with(|| Queues { root }))
    }
}

impl FsType for MqueueType {
    fn name(&self) -> &'static str {
        "mqueue"
    }

    fn user_mountable(&self) -> bool {
        true
    }

    fn mount(&self, container: &Arc<Container>, _cred: &Credentials, _source: MountSource<'_>) -> Result<Arc<SuperBlock>> {
        Ok(Queues::of(&container.ipc)?.root.inode.sb.clone())
    }
}

/// A name as mq_open(2) and mq_unlink(2) take it: without the slash that mq_open(3) takes off. `EACCES` for what cannot be one.
fn check_name(name: &FsStr) -> Result {
    match name {
        b"" => bail!(ENOENT),
        b"." | b".." => bail!(EACCES),
        n if n.contains(&b'/') => bail!(EACCES, "slash in a queue's name"),
        n if n.len() > crate::vfs::NAME_MAX => bail!(ENAMETOOLONG),
        _ => Ok(()),
    }
}

/// mq_open(2). `limits`: of a new queue.
pub fn open(task: &Task, name: &FsStr, flags: OpenFlags, mode: u32, limits: Option<Limits>) -> Result<Arc<File>> {
    check_name(name)?;
    let queues = Queues::of(&task.container().ipc)?;
    let walker = Walker::of(task);
    let how = OpenHow { flags: flags - (OpenFlags::CREAT | OpenFlags::EXCL | OpenFlags::TRUNC), mode: 0, resolve: 0 };
    loop {
        match walker.walk(&queues.root, name, Lookup::NOFOLLOW) {
            Ok(_) if flags.contains(OpenFlags::CREAT | OpenFlags::EXCL) => bail!(EEXIST),
            Ok(_) if flags.bits() & 3 == 3 => bail!(EINVAL, "access mode"),
            Ok(place) => return walker.open_path(&place, how, false),
            Err(e) if !e.is(Errno::ENOENT) || !flags.contains(OpenFlags::CREAT) => return Err(e),
            Err(_) => {}
        }
        match walker.make_queue(&queues.root, name, mode, limits.unwrap_or(Limits::DEFAULT)) {
            Ok(place) => return walker.open_path(&place, how, true),
            // Somebody was faster.
            Err(e) if e.is(Errno::EEXIST) => {}
            Err(e) => return Err(e),
        }
    }
}

/// mq_unlink(2).
pub fn unlink(task: &Task, name: &FsStr) -> Result {
    check_name(name)?;
    Walker::of(task).unlink(&Queues::of(&task.container().ipc)?.root, name)
}

struct MqueueSuper;

impl SuperOps for MqueueSuper {
    fn statfs(&self, _sb: &SuperBlock) -> Result<Statfs> {
        Ok(Statfs { kind: MQUEUE_MAGIC, bsize: 4096, frsize: 4096, namelen: 255, ..Statfs::default() })
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The directory.
struct MqueueDir {
    attr: Mutex<Attr>,
    names: Mutex<BTreeMap<FsString, Arc<Inode>>>,
    account: Arc<Account>,
}

fn changed(attr: &mut Attr, change: &SetAttr) {
    let now = now();
    attr.perm = change.perm.unwrap_or(attr.perm);
    attr.uid = change.uid.unwrap_or(attr.uid);
    attr.gid = change.gid.unwrap_or(attr.gid);
    attr.atime = change.atime.map_or(attr.atime, |t| t.or(now));
    attr.mtime = change.mtime.map_or(attr.mtime, |t| t.or(now));
    attr.ctime = now;
}

impl MqueueDir {
    fn names_changed(&self, by: i64) {
        let now = now();
        let mut a = self.attr.lock();
        a.size = a.size.saturating_add_signed(by * DIRENT_SIZE as i64);
        (a.atime, a.mtime, a.ctime) = (now, now, now);
    }
}

impl InodeOps for MqueueDir {
    fn attr(&self, _inode: &Inode) -> Result<Attr> {
        Ok(*self.attr.lock())
    }

    fn set_attr(&self, _inode: &Inode, change: &SetAttr) -> Result {
        changed(&mut self.attr.lock(), change);
        Ok(())
    }

    fn lookup(&self, _dir: &Arc<Inode>, name: &FsStr) -> Result<Arc<Inode>> {
        match self.names.lock().get(name) {
            Some(i) => Ok(i.clone()),
            None => bail!(ENOENT),
        }
    }

    fn create(&self, dir: &Arc<Inode>, name: &FsStr, node: NewNode<'_>, perm: u32, owner: Owner) -> Result<Arc<Inode>> {
        let limits = match node {
            NewNode::Queue(limits) => limits,
            NewNode::Regular => Limits::DEFAULT,
            _ => bail!(EPERM, "only queues here"),
        };
        let task = task::current();
        if self.account.queues() >= QUEUES_MAX && !task.as_ref().is_none_or(|t| t.cred().capable(CapSet::SYS_RESOURCE)) {
            bail!(ENOSPC, "queues_max");
        }
        let queue = Queue::new(&self.account, limits, perm, owner, task.as_deref())?;
        let inode = Inode::new(&dir.sb, dir.sb.next_ino(), FileType::Regular, Box::new(QueueInode(queue)));
        self.names.lock().insert(name.to_vec(), inode.clone());
        self.names_changed(1);
        Ok(inode)
    }

    fn unlink(&self, _dir: &Arc<Inode>, name: &FsStr, child: &Arc<Inode>) -> Result {
        let gone = self.names.lock().remove(name);
        if gone.is_none() {
            bail!(ENOENT);
        }
        if let Some(q) = child.ops.as_any().downcast_ref::<QueueInode>() {
            let mut s = q.0.state.lock();
            s.attr.nlink = 0;
            s.attr.ctime = now();
        }
        self.names_changed(-1);
        Ok(())
    }

    fn open(&self, inode: &Arc<Inode>, _path: &PathRef, _flags: OpenFlags, _task: &Task) -> Result<Box<dyn FileOps>> {
        Ok(Box::new(OpenDir(inode.clone())))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The open directory.
struct OpenDir(Arc<Inode>);

impl FileOps for OpenDir {
    fn readdir(&self, file: &File, mut pos: u64, sink: &mut dyn DirSink) -> Result<u64> {
        let Some(dir) = self.0.ops.as_any().downcast_ref::<MqueueDir>() else { bail!(ENOTDIR) };
        for dots in [&b"."[..], b".."].into_iter().skip(usize::try_from(pos).unwrap_or(2).min(2)) {
            if !sink.add(dots, file.inode().ino, FileType::Directory, pos + 1) {
                return Ok(pos);
            }
            pos += 1;
        }
        // Inode numbers only grow, so that they can be positions: names that come and go move no other.
        let mut entries: Vec<(u64, FsString)> = dir.names.lock().iter().map(|(n, i)| (i.ino, n.clone())).collect();
        entries.sort_unstable();
        let from = pos;
        for (ino, name) in entries.into_iter().filter(|e| e.0 >= from) {
            if !sink.add(&name, ino, FileType::Regular, ino + 1) {
                return Ok(pos);
            }
            pos = ino + 1;
        }
        Ok(pos)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A queue's file.
struct QueueInode(Arc<Queue>);

impl InodeOps for QueueInode {
    fn attr(&self, _inode: &Inode) -> Result<Attr> {
        Ok(self.0.state.lock().attr)
    }

    fn set_attr(&self, _inode: &Inode, change: &SetAttr) -> Result {
        changed(&mut self.0.state.lock().attr, change);
        Ok(())
    }

    fn open(&self, _inode: &Arc<Inode>, _path: &PathRef, _flags: OpenFlags, _task: &Task) -> Result<Box<dyn FileOps>> {
        Ok(Box::new(QueueFile(self.0.clone())))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
