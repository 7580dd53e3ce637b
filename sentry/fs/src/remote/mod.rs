//! The file system of a gofer's attach point: files of the host.
//!
//! Names and attributes are asked of the gofer through a pool of connections ([`Client`]); regular files are read, written and
//! mapped through descriptors that it donated, without asking it. What may be remembered depends on who else changes the tree:
//!
//! * [`Sharing::Exclusive`] – only this sandbox does. Names (missing ones too), attributes and whole directories are cached. A file
//!   whose directory was read is known without a question: it gets its handle at the gofer when something needs one.
//! * [`Sharing::Shared`] – the host does, too. Every cached name is checked and attributes are asked for anew each time.
//!
//! [`RemoteInode`](inode::RemoteInode) is the inode, [`handle`] the donated descriptors, [`file`] and [`dir`] the open files.

mod attr;
mod dir;
mod file;
mod handle;
mod inode;
mod lookup;

#[cfg(test)]
mod tests;

use abi::{Errno, Result, error, fs::Statfs};
use gofer_protocol::{Attr, Client, Entry, NodeId};
use handle::Handle;
use inode::RemoteInode;
use kernel::{
    Container, Kernel,
    cred::Credentials,
    vfs::{Attachments, FsType, Inode, MountSource, SbFlags, SuperBlock, SuperOps},
};
use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};
use sync::{Mutex, Rank};

/// The name of this type of file system, as in /proc/mounts.
pub const FS_NAME: &str = "gofer";
/// Descriptors kept for the next open of a file that nobody has open.
const IDLE_HANDLES: usize = 256;

/// Who changes a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Only this sandbox.
    Exclusive,
    /// Processes of the host, too.
    Shared,
}

/// What to mount: [`MountSource::extra`] of [`RemoteType`].
pub struct RemoteSource {
    /// The container's gofer.
    pub client: Arc<Client>,
    /// Index of the attach point.
    pub attach: u32,
    /// Who changes it.
    pub sharing: Sharing,
}

/// The type of file system. Only the boot can mount it.
pub struct RemoteType;

impl FsType for RemoteType {
    fn name(&self) -> &'static str {
        FS_NAME
    }

    fn mount(&self, container: &Arc<Container>, _cred: &Credentials, source: MountSource<'_>) -> Result<Arc<SuperBlock>> {
        let extra = source.extra.and_then(|extra| extra.downcast::<RemoteSource>().ok());
        let Some(remote) = extra else { abi::bail!(EINVAL, "no connection to a gofer") };
        let files = (remote.sharing == Sharing::Shared).then(|| HostFiles::of(container.kernel()));
        mount(*remote, source.source, files)
    }
}

/// Mounts an attach point; `files`: what is known of the host's files in other ones.
pub fn mount(remote: RemoteSource, source: &str, files: Option<Arc<HostFiles>>) -> Result<Arc<SuperBlock>> {
    let (root, _readonly) = remote.client.attach(remote.attach)?;
    let fs = Arc::new(RemoteFs {
        client: remote.client,
        sharing: remote.sharing,
        root: root.node,
        root_dev: root.attr.dev,
        known: Mutex::new(Rank::Leaf, HashMap::new()),
        idle: Mutex::new(Rank::Leaf, VecDeque::new()),
        generation: AtomicU64::new(0),
        listed: AtomicUsize::new(0),
        pace: dir::Pace::new(),
        files,
        unmounted: AtomicBool::new(false),
    });
    let flags = if fs.shared() { SbFlags::REVALIDATE | SbFlags::NODEV } else { SbFlags::NODEV };
    let sb = SuperBlock::new(FS_NAME, source, flags, Box::new(RemoteSuper(fs.clone())));
    sb.set_root(fs.inode_of(&sb, root, fs.mark())?);
    Ok(sb)
}

/// What makes a file itself, in one attach point. A number is not used again while the gofer or a descriptor holds the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    dev: u64,
    ino: u64,
}

impl Key {
    fn of(attr: &Attr) -> Key {
        Key { dev: attr.dev, ino: attr.ino }
    }
}

/// What hangs on files of the host: locks, watches, FIFOs, bound sockets. A volume that containers of a pod share is seen through a gofer
/// of each: its files are the same ones all the same.
pub struct HostFiles(Mutex<Shared>);

#[derive(Default)]
struct Shared {
    files: HashMap<Key, Weak<Attachments>>,
    /// At so many it is looked which ones nobody uses.
    clean_at: usize,
}

impl HostFiles {
    /// Files that are kept before the first look.
    const FEW: usize = 1024;

    /// The sandbox's.
    fn of(kernel: &Kernel) -> Arc<HostFiles> {
        kernel.attachments.get_or_insert_with(|| HostFiles(Mutex::new(Rank::Leaf, Shared::default())))
    }

    fn attachments(&self, key: Key) -> Arc<Attachments> {
        let mut shared = self.0.lock();
        if let Some(found) = shared.files.get(&key).and_then(Weak::upgrade) {
            return found;
        }
        if shared.files.len() >= shared.clean_at.max(Self::FEW) {
            shared.files.retain(|_, file| file.strong_count() > 0);
            shared.clean_at = shared.files.len() * 2;
        }
        let new = Arc::new(Attachments::default());
        shared.files.insert(key, Arc::downgrade(&new));
        new
    }
}

/// A mounted attach point.
struct RemoteFs {
    client: Arc<Client>,
    sharing: Sharing,
    root: NodeId,
    root_dev: u64,
    /// Inodes in use: one for each file, whatever its names.
    known: Mutex<HashMap<Key, Weak<Inode>>>,
    /// Descriptors for reading that were used lately, newest last.
    idle: Mutex<VecDeque<Arc<Handle>>>,
    /// Counts changes of anything. What was asked before a change may not be remembered after it. Writing to an open file counts
    /// when its descriptor is closed: until then that is asked.
    generation: AtomicU64,
    /// Entries in all remembered directories.
    listed: AtomicUsize,
    /// How far ahead directories are read.
    pace: dir::Pace,
    /// With others that show the same files; none: nobody else does.
    files: Option<Arc<HostFiles>>,
    /// The last mount is gone. Changed while `idle` is locked.
    unmounted: AtomicBool,
}

/// A moment between changes: see [`RemoteFs::mark`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark(u64);

impl RemoteFs {
    fn shared(&self) -> bool {
        self.sharing == Sharing::Shared
    }

    /// Taken before a question, it tells afterwards whether the answer can be out of date already.
    fn mark(&self) -> Mark {
        Mark(self.generation.load(Ordering::Acquire))
    }

    /// Whether nothing has changed since.
    fn unchanged(&self, mark: Mark) -> bool {
        mark == self.mark()
    }

    /// Something was changed.
    fn changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// The inode of a file that the gofer named. The handle is kept or given back. `mark`: from before it was asked.
    fn inode_of(self: &Arc<Self>, sb: &Arc<SuperBlock>, entry: Entry, mark: Mark) -> Result<Arc<Inode>> {
        self.inode_at(sb, entry.attr, mark, |inode| inode.give(entry.node, entry.target.map(|t| t.0)))
    }

    /// The inode of the file with these attributes; `tell` tells it more, whether it was known before or not.
    fn inode_at(self: &Arc<Self>, sb: &Arc<SuperBlock>, attr: Attr, mark: Mark, tell: impl FnOnce(&RemoteInode)) -> Result<Arc<Inode>> {
        let kind = attr.file_type().ok_or(error!(EIO, "a file of no type"))?;
        let key = Key::of(&attr);
        let fresh = self.unchanged(mark);
        let attachments = self.files.as_ref().map_or_else(Arc::default, |files| files.attachments(key));
        let mut known = self.known.lock();
        let found = known.get(&key).and_then(Weak::upgrade);
        let inode = match found {
            Some(inode) if inode.kind == kind => inode,
            other => {
                let ops = RemoteInode::new(self.clone(), key, attr);
                let inode = Inode::with(sb, self.number(&attr), kind, Box::new(ops), attachments);
                known.insert(key, Arc::downgrade(&inode));
                drop(known);
                // Not under the lock: it may be the last that holds the inode.
                drop(other);
                inode.ops.as_any().downcast_ref::<RemoteInode>().map(tell);
                if !fresh {
                    remote(&inode)?.forget_attr();
                }
                return Ok(inode);
            }
        };
        drop(known);
        let r = remote(&inode)?;
        tell(r);
        r.learn(attr, fresh);
        Ok(inode)
    }

    /// The inode number that the application sees: the host's, made different for other host file systems in the tree.
    fn number(&self, attr: &Attr) -> u64 {
        if attr.dev == self.root_dev { attr.ino } else { attr.ino ^ attr.dev.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8 }
    }

    /// Keeps a descriptor for a while though nobody uses it. Descriptors name their file system: one that is gone keeps none.
    fn keep_idle(&self, handle: &Arc<Handle>) {
        let mut idle = self.idle.lock();
        if self.unmounted.load(Ordering::Relaxed) {
            return;
        }
        idle.push_back(handle.clone());
        let old = if idle.len() > IDLE_HANDLES { idle.pop_front() } else { None };
        drop(idle);
        drop(old);
    }

    /// Lets go of descriptors of a file that has lost its name, so that its space is freed.
    fn drop_idle(&self, key: Key) {
        let mut idle = self.idle.lock();
        let (gone, kept): (VecDeque<_>, VecDeque<_>) = idle.drain(..).partition(|h| h.key() == key);
        *idle = kept;
        drop(idle);
        drop(gone);
    }
}

/// The file system's part of an inode.
fn remote(inode: &Inode) -> Result<&RemoteInode> {
    inode.ops.as_any().downcast_ref().ok_or(error!(EXDEV, "an inode of another file system"))
}

/// The mounted file system as the kernel sees it.
struct RemoteSuper(Arc<RemoteFs>);

impl SuperOps for RemoteSuper {
    fn statfs(&self, _sb: &SuperBlock) -> Result<Statfs> {
        let s = self.0.client.statfs(self.0.root)?;
        let signed = |v: u64| i64::try_from(v).unwrap_or(i64::MAX);
        Ok(Statfs {
            kind: signed(s.kind),
            bsize: signed(s.bsize),
            blocks: s.blocks,
            bfree: s.bfree,
            bavail: s.bavail,
            files: s.files,
            ffree: s.ffree,
            namelen: signed(s.namelen),
            frsize: signed(s.frsize),
            ..Statfs::default()
        })
    }

    fn unmounted(&self) {
        let mut idle = self.0.idle.lock();
        self.0.unmounted.store(true, Ordering::Relaxed);
        let old = std::mem::take(&mut *idle);
        drop(idle);
        drop(old);
    }

    fn show_options(&self) -> String {
        if self.0.shared() { ",shared".to_owned() } else { String::new() }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A file name as the protocol has it.
fn name(bytes: &[u8]) -> Result<gofer_protocol::Name<'_>, Errno> {
    gofer_protocol::Name::new(bytes)
}
