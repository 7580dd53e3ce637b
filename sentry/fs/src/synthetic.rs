//! Trees whose content is computed when it is looked at: the base of proc and sysfs.
//!
//! A tree is made of [`Entry`] values. A [`Directory`] finds and lists its entries anew each time, so that names may come and go;
//! a file's text is made when it is read from its beginning.

use abi::{
    Errno, Result, bail,
    fs::{FileType, OpenFlags, Statfs},
    time::Timespec,
};
use kernel::{
    io::IoBuffer,
    task::{Task, ThreadGroup},
    vfs::{
        Attr, DirSink, File, FileOps, FsStr, FsString, Inode, InodeOps, NewNode, Owner, PathRef, RenameFlags, SetAttr, SuperBlock, SuperOps,
    },
};
use std::any::Any;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use sync::{Mutex, Rank};

/// Makes a file's text.
pub type ReadFn = Arc<dyn Fn() -> Result<Vec<u8>> + Send + Sync>;
/// Takes what one write(2) wrote.
pub type WriteFn = Arc<dyn Fn(&[u8]) -> Result + Send + Sync>;
/// Makes a symbolic link's text.
pub type LinkFn = Arc<dyn Fn() -> Result<FsString> + Send + Sync>;
/// Finds where a magic link leads.
pub type FollowFn = Arc<dyn Fn(&Task) -> Result<PathRef> + Send + Sync>;
/// Says whether the current task may open a file.
pub type GuardFn = Arc<dyn Fn() -> Result + Send + Sync>;
/// Opens a file in its own way.
pub type OpenFn = Arc<dyn Fn(&Task, OpenFlags) -> Result<Box<dyn FileOps>> + Send + Sync>;

/// One entry of a synthetic tree.
#[derive(Clone)]
pub struct Entry {
    kind: Kind,
    perm: u32,
    owner: (u32, u32),
    /// Asked when the file is opened.
    guard: Option<GuardFn>,
}

#[derive(Clone)]
enum Kind {
    Dir(Arc<dyn Directory>),
    File { read: Option<ReadFn>, write: Option<WriteFn> },
    Open(OpenFn),
    Link { text: LinkFn, follow: Option<FollowFn> },
}

/// A line of a listing.
pub struct Listed {
    /// The entry's own number, which it keeps when others come and go: a program may well close descriptors while it
    /// reads the directory of them.
    pub number: u64,
    /// Its name.
    pub name: FsString,
    /// What it is.
    pub kind: FileType,
}

impl Listed {
    /// An entry whose name is its number: a process, a thread, a descriptor.
    #[must_use]
    pub fn numbered(number: u64, kind: FileType) -> Listed {
        Listed { number, name: number.to_string().into_bytes(), kind }
    }
}

/// A directory that computes its entries.
pub trait Directory: Send + Sync {
    /// The entry of this name; `ENOENT` if there is none.
    fn lookup(&self, name: &FsStr) -> Result<Entry>;
    /// All that is there, by ascending numbers.
    fn list(&self) -> Result<Vec<Listed>>;
    /// The process whose directory in proc this is (see [`FileOps::process`]).
    fn process(&self) -> Option<Arc<ThreadGroup>> {
        None
    }
    /// Replaces the number of hard links (2 and one for each subdirectory, which costs a listing).
    fn nlink(&self) -> u32 {
        2
    }
}

impl Entry {
    /// Writes to the file at this place below a directory, whoever asks and however the tree is mounted.
    pub fn write_at<'a>(&self, mut names: impl Iterator<Item = &'a str>, bytes: &[u8]) -> Result {
        match (&self.kind, names.next()) {
            (Kind::Dir(dir), Some(name)) => dir.lookup(name.as_bytes())?.write_at(names, bytes),
            (Kind::File { write: Some(write), .. }, None) => write(bytes),
            (Kind::Dir(_), None) => bail!(EISDIR),
            (_, None) => bail!(EACCES, "it keeps its value"),
            (_, Some(_)) => bail!(ENOTDIR),
        }
    }
    /// A directory.
    pub fn dir(d: impl Directory + 'static) -> Entry {
        Entry { kind: Kind::Dir(Arc::new(d)), perm: 0o555, owner: (0, 0), guard: None }
    }
    /// A read-only text.
    pub fn text(read: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static) -> Entry {
        Entry { kind: Kind::File { read: Some(Arc::new(read)), write: None }, perm: 0o444, owner: (0, 0), guard: None }
    }
    /// A read-only text that never changes.
    pub fn fixed(text: &'static str) -> Entry {
        Entry::text(move || Ok(text.as_bytes().to_vec()))
    }
    /// A text that can be written.
    pub fn writable(
        read: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static,
        write: impl Fn(&[u8]) -> Result + Send + Sync + 'static,
    ) -> Entry {
        Entry { kind: Kind::File { read: Some(Arc::new(read)), write: Some(Arc::new(write)) }, perm: 0o644, owner: (0, 0), guard: None }
    }
    /// A file with its own operations.
    pub fn open(open: impl Fn(&Task, OpenFlags) -> Result<Box<dyn FileOps>> + Send + Sync + 'static) -> Entry {
        Entry { kind: Kind::Open(Arc::new(open)), perm: 0o600, owner: (0, 0), guard: None }
    }
    /// A symbolic link.
    pub fn link(text: impl Fn() -> Result<FsString> + Send + Sync + 'static) -> Entry {
        Entry { kind: Kind::Link { text: Arc::new(text), follow: None }, perm: 0o777, owner: (0, 0), guard: None }
    }
    /// A symbolic link that leads to a place without regard to its text.
    pub fn magic(
        text: impl Fn() -> Result<FsString> + Send + Sync + 'static,
        follow: impl Fn(&Task) -> Result<PathRef> + Send + Sync + 'static,
    ) -> Entry {
        Entry { kind: Kind::Link { text: Arc::new(text), follow: Some(Arc::new(follow)) }, perm: 0o777, owner: (0, 0), guard: None }
    }
    /// With these permission bits.
    #[must_use]
    pub fn perm(mut self, perm: u32) -> Entry {
        self.perm = perm;
        self
    }
    /// Opened only by whom `guard` lets.
    #[must_use]
    pub fn guarded(mut self, guard: impl Fn() -> Result + Send + Sync + 'static) -> Entry {
        self.guard = Some(Arc::new(guard));
        self
    }
    /// With this owner.
    #[must_use]
    pub fn owner(mut self, uid: u32, gid: u32) -> Entry {
        self.owner = (uid, gid);
        self
    }
    /// Its type.
    #[must_use]
    pub fn file_type(&self) -> FileType {
        match self.kind {
            Kind::Dir(_) => FileType::Directory,
            Kind::File { .. } | Kind::Open(_) => FileType::Regular,
            Kind::Link { .. } => FileType::Symlink,
        }
    }
}

/// A directory with a fixed list of names.
pub struct Fixed(Vec<(&'static str, Entry)>);

impl Fixed {
    /// From names and entries.
    #[must_use]
    pub fn new(entries: Vec<(&'static str, Entry)>) -> Fixed {
        Fixed(entries)
    }
}

impl Directory for Fixed {
    fn lookup(&self, name: &FsStr) -> Result<Entry> {
        match self.0.iter().find(|e| e.0.as_bytes() == name) {
            Some(e) => Ok(e.1.clone()),
            None => bail!(ENOENT),
        }
    }
    fn list(&self) -> Result<Vec<Listed>> {
        Ok((0..).zip(&self.0).map(|(number, (name, e))| Listed { number, name: name.as_bytes().to_vec(), kind: e.file_type() }).collect())
    }
    fn nlink(&self) -> u32 {
        2 + self.0.iter().filter(|e| e.1.file_type() == FileType::Directory).count() as u32
    }
}

/// The inode of an entry.
struct Node {
    entry: Entry,
    created: Timespec,
}

/// Makes a tree's superblock: `magic` is `f_type` of statfs(2).
pub fn superblock(fs_name: &'static str, source: &str, flags: kernel::vfs::SbFlags, magic: i64, root: Entry) -> Arc<SuperBlock> {
    let sb = SuperBlock::new(fs_name, source, flags, Box::new(Super { magic }));
    let node = inode(&sb, 1, root);
    sb.set_root(node);
    sb
}

struct Super {
    magic: i64,
}

impl SuperOps for Super {
    fn statfs(&self, _: &SuperBlock) -> Result<Statfs> {
        Ok(Statfs { kind: self.magic, bsize: 4096, namelen: 255, frsize: 4096, ..Statfs::default() })
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn inode(sb: &Arc<SuperBlock>, ino: u64, entry: Entry) -> Arc<Inode> {
    let kind = entry.file_type();
    let created = Timespec::from_nanos(host::time::realtime_ns());
    Inode::new(sb, ino, kind, Box::new(Node { entry, created }))
}

/// The number of a name in a directory: stable for as long as the name is.
fn child_ino(dir: u64, name: &FsStr) -> u64 {
    let mut h = DefaultHasher::new();
    (dir, name).hash(&mut h);
    // Clear of small numbers, and positive for programs that store it signed.
    (h.finish() >> 16) | 1 << 40
}

impl InodeOps for Node {
    fn attr(&self, _: &Inode) -> Result<Attr> {
        let nlink = if let Kind::Dir(d) = &self.entry.kind { d.nlink() } else { 1 };
        Ok(Attr {
            perm: self.entry.perm,
            nlink,
            uid: self.entry.owner.0,
            gid: self.entry.owner.1,
            blksize: 1024,
            atime: self.created,
            mtime: self.created,
            ctime: self.created,
            ..Attr::default()
        })
    }

    /// O_TRUNC on a writable file means nothing; anything else cannot be changed.
    fn set_attr(&self, _: &Inode, change: &SetAttr) -> Result {
        if (SetAttr { size: None, mtime: None, atime: None, ..*change }) == SetAttr::default() {
            return Ok(());
        }
        bail!(EPERM)
    }

    fn lookup(&self, dir: &Arc<Inode>, name: &FsStr) -> Result<Arc<Inode>> {
        let Kind::Dir(d) = &self.entry.kind else { bail!(ENOTDIR) };
        Ok(inode(&dir.sb, child_ino(dir.ino, name), d.lookup(name)?))
    }

    /// In proc a name that is not there cannot even be asked for: making one fails as finding it does.
    fn create(&self, dir: &Arc<Inode>, _: &FsStr, _: NewNode<'_>, _: u32, _: Owner) -> Result<Arc<Inode>> {
        if dir.sb.fs_name == "proc" { bail!(ENOENT) } else { bail!(EPERM) }
    }

    fn rename(
        &self,
        old_dir: &Arc<Inode>,
        _: &FsStr,
        _: &Arc<Inode>,
        _: &Arc<Inode>,
        _: &FsStr,
        replaced: Option<&Arc<Inode>>,
        _: RenameFlags,
    ) -> Result {
        if replaced.is_none() && old_dir.sb.fs_name == "proc" { bail!(ENOENT) } else { bail!(EPERM) }
    }

    fn readlink(&self, _: &Inode) -> Result<FsString> {
        match &self.entry.kind {
            Kind::Link { text, .. } => text(),
            _ => bail!(EINVAL, "not a symbolic link"),
        }
    }

    fn follow_magic(&self, _: &Inode, task: &Task) -> Option<Result<PathRef>> {
        match &self.entry.kind {
            Kind::Link { follow: Some(f), .. } => Some(f(task)),
            _ => None,
        }
    }

    fn open(&self, _: &Arc<Inode>, _: &PathRef, flags: OpenFlags, task: &Task) -> Result<Box<dyn FileOps>> {
        if let Some(guard) = &self.entry.guard {
            guard()?;
        }
        match &self.entry.kind {
            Kind::Dir(d) => Ok(Box::new(DirFile(d.clone()))),
            Kind::File { read, write } => {
                if flags.writable() && write.is_none() {
                    bail!(EACCES, "file is read-only");
                }
                Ok(Box::new(TextFile { read: read.clone(), write: write.clone(), text: Mutex::new(Rank::FileState, None) }))
            }
            Kind::Open(open) => open(task, flags),
            Kind::Link { .. } => bail!(ELOOP),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open synthetic directory.
struct DirFile(Arc<dyn Directory>);

impl FileOps for DirFile {
    fn readdir(&self, file: &File, pos: u64, sink: &mut dyn DirSink) -> Result<u64> {
        let ino = file.inode().ino;
        // Positions: the two, and each entry's behind its number.
        let dots = [(0, b".".to_vec()), (1, b"..".to_vec())];
        // The process that the directory was of is gone.
        let listed = self.0.list().map_err(|e| if e.is(Errno::ESRCH) { Errno::ENOENT.into() } else { e })?;
        let dots = dots.map(|(at, name)| (at, ino, name, FileType::Directory));
        let listed = listed.into_iter().map(|l| (l.number + 2, child_ino(ino, &l.name), l.name, l.kind));
        let mut next = pos;
        for (at, ino, name, kind) in dots.into_iter().chain(listed) {
            if at < pos {
                continue;
            }
            if !sink.add(&name, ino, kind, at + 1) {
                break;
            }
            next = at + 1;
        }
        Ok(next)
    }
    fn process(&self) -> Option<Arc<ThreadGroup>> {
        self.0.process()
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open synthetic file. The text is made anew by every read from the beginning, as programs that keep a file open expect.
struct TextFile {
    read: Option<ReadFn>,
    write: Option<WriteFn>,
    text: Mutex<Option<Arc<Vec<u8>>>>,
}

impl FileOps for TextFile {
    fn read(&self, _: &File, buf: &mut IoBuffer<'_>, offset: u64) -> Result<usize> {
        let Some(make) = &self.read else { bail!(EINVAL) };
        let kept = if offset == 0 { None } else { self.text.lock().clone() };
        let text = match kept {
            Some(t) => t,
            None => {
                // Made without the lock: it looks at tasks and mounts.
                let t = Arc::new(make()?);
                *self.text.lock() = Some(t.clone());
                t
            }
        };
        match usize::try_from(offset).ok().and_then(|o| text.get(o..)) {
            Some(rest) if !rest.is_empty() => buf.write(rest),
            _ => Ok(0),
        }
    }

    fn write(&self, _: &File, buf: &mut IoBuffer<'_>, offset: u64, _: bool) -> Result<(usize, u64)> {
        let Some(take) = &self.write else { bail!(EINVAL) };
        let bytes = buf.read_all(4096)?;
        take(&bytes)?;
        Ok((bytes.len(), offset.saturating_add(bytes.len() as u64)))
    }

    fn size(&self, _: &File) -> Result<u64> {
        Ok(0)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Reads a decimal number as procfs files take it: white space around it is fine.
pub fn parse_number<T: std::str::FromStr>(bytes: &[u8]) -> Result<T> {
    match std::str::from_utf8(bytes).ok().and_then(|s| s.trim_matches(|c: char| c.is_whitespace() || c == '\0').parse().ok()) {
        Some(n) => Ok(n),
        None => bail!(EINVAL, "not a number"),
    }
}
