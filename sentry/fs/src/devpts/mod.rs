//! devpts: pseudo-terminals, `/dev/ptmx` and `/dev/pts/N`.
//!
//! [`Table`] holds the terminals of a container; every mount of the file system shows the same ones. [`tty::Tty`] is one of them, with its
//! [line discipline](ldisc), and [`file`] its two open ends.

pub mod file;
mod ioctl;
pub mod ldisc;
pub mod termios;
pub mod tty;

use abi::{
    Result, bail,
    fs::{FileType, OpenFlags, Statfs, makedev},
    time::Timespec,
};
use file::{Master, Slave};
use kernel::{
    Container,
    cred::Credentials,
    task::Task,
    vfs::{
        Attr, DirSink, File, FileOps, FsStr, FsType, Inode, InodeOps, MountSource, PathRef, SbFlags, SetAttr, SetTime, SuperBlock, SuperOps,
    },
};
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use sync::{Mutex, Rank};
use tty::{SLAVE_MAJOR, Tty};

/// `f_type` of statfs(2).
const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;
/// Most terminals at a time (kernel.pty.max).
const MAX: u32 = 4096;
/// Inode number of `ptmx`; a slave's is its index and this.
const PTMX_INO: u64 = 2;

/// The terminals of a container.
pub struct Table(Mutex<BTreeMap<u32, Arc<Tty>>>);

impl Table {
    /// The table of a container.
    pub fn of(container: &Container) -> Arc<Table> {
        container.attachments.get_or_insert_with(|| Table(Mutex::new(Rank::Leaf, BTreeMap::new())))
    }

    /// A new terminal under the lowest free number.
    pub fn allocate(&self, owner: (u32, u32)) -> Result<Arc<Tty>> {
        let mut ttys = self.0.lock();
        let Some(index) = (0..MAX).find(|i| !ttys.contains_key(i)) else { bail!(ENOSPC, "no terminal is left") };
        let tty = Tty::new(index, owner);
        ttys.insert(index, tty.clone());
        Ok(tty)
    }

    /// The terminal of this number.
    pub fn get(&self, index: u32) -> Option<Arc<Tty>> {
        self.0.lock().get(&index).cloned()
    }

    /// Forgets a terminal whose master is closed.
    pub fn remove(&self, index: u32) {
        let gone = self.0.lock().remove(&index);
        drop(gone);
    }

    fn indices(&self) -> Vec<u32> {
        self.0.lock().keys().copied().collect()
    }
}

/// Opens a new master: what `/dev/ptmx` does.
pub fn open_ptmx(container: &Container, cred: &Credentials) -> Result<Box<dyn FileOps>> {
    let table = Table::of(container);
    let tty = table.allocate((cred.fsuid, cred.fsgid))?;
    Ok(Box::new(Master::new(tty, table)))
}

/// Opens the slave of number `index`.
pub fn open_slave(index: u32, flags: OpenFlags, task: &Task) -> Result<Box<dyn FileOps>> {
    let Some(tty) = Table::of(task.container()).get(index) else { bail!(EIO, "no such terminal") };
    Ok(Box::new(Slave::open(&tty, task, flags.contains(OpenFlags::NOCTTY))?))
}

/// Options of a mount (`gid=5,mode=620,ptmxmode=666`).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Options {
    uid: Option<u32>,
    gid: Option<u32>,
    mode: u32,
    ptmxmode: u32,
}

impl Options {
    fn parse(text: &str) -> Result<Options> {
        let mut o = Options { uid: None, gid: None, mode: 0o600, ptmxmode: 0 };
        for option in text.split(',').filter(|s| !s.is_empty()) {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            let number = |radix| u32::from_str_radix(value, radix).map_err(|_| abi::error!(EINVAL, "devpts: bad option {option}"));
            match key {
                "uid" => o.uid = Some(number(10)?),
                "gid" => o.gid = Some(number(10)?),
                "mode" => o.mode = number(8)? & 0o777,
                "ptmxmode" => o.ptmxmode = number(8)? & 0o777,
                "max" => {
                    number(10)?;
                }
                // There is but one instance, and it is the container's own.
                "newinstance" => {}
                _ => bail!(EINVAL, "devpts: unknown option {option}"),
            }
        }
        Ok(o)
    }
}

/// The file system type.
pub struct Devpts;

impl FsType for Devpts {
    fn name(&self) -> &'static str {
        "devpts"
    }
    fn user_mountable(&self) -> bool {
        true
    }
    fn mount(&self, container: &Arc<Container>, _: &Credentials, source: MountSource<'_>) -> Result<Arc<SuperBlock>> {
        let options = Options::parse(source.options)?;
        let table = Table::of(container);
        let ops = Super { options: options.clone(), changed: Mutex::new(Rank::InodeState, BTreeMap::new()), made: now() };
        let sb = SuperBlock::new("devpts", source.source, SbFlags::NO_DCACHE | SbFlags::NODEV, Box::new(ops));
        sb.set_root(Inode::new(&sb, 1, FileType::Directory, Box::new(Root(table))));
        Ok(sb)
    }
}

struct Super {
    options: Options,
    /// Attributes that chmod(2), chown(2) and the like changed, by inode number.
    changed: Mutex<BTreeMap<u64, Attr>>,
    made: Timespec,
}

impl SuperOps for Super {
    fn statfs(&self, _: &SuperBlock) -> Result<Statfs> {
        Ok(Statfs { kind: DEVPTS_SUPER_MAGIC, bsize: 4096, namelen: 255, frsize: 4096, ..Statfs::default() })
    }
    fn show_options(&self) -> String {
        let o = &self.options;
        let mut s = String::new();
        if let Some(uid) = o.uid {
            s += &format!(",uid={uid}");
        }
        if let Some(gid) = o.gid {
            s += &format!(",gid={gid}");
        }
        s + &format!(",mode={:03o},ptmxmode={:03o}", o.mode, o.ptmxmode)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn now() -> Timespec {
    Timespec::from_nanos(host::time::realtime_ns())
}

fn super_of(inode: &Inode) -> Result<&Super> {
    inode.sb.ops.as_any().downcast_ref().ok_or(abi::error!(EIO, "inode of another file system"))
}

/// Attributes of an inode as they were changed, or `fresh`.
fn attr_of(inode: &Inode, fresh: impl FnOnce(&Super) -> Attr) -> Result<Attr> {
    let sb = super_of(inode)?;
    let changed = sb.changed.lock().get(&inode.ino).copied();
    Ok(changed.unwrap_or_else(|| fresh(sb)))
}

fn set_attr(inode: &Inode, change: &SetAttr) -> Result {
    let mut attr = inode.attr()?;
    let time = |t: SetTime| match t {
        SetTime::Now => now(),
        SetTime::To(t) => t,
    };
    attr.perm = change.perm.unwrap_or(attr.perm);
    attr.uid = change.uid.unwrap_or(attr.uid);
    attr.gid = change.gid.unwrap_or(attr.gid);
    attr.atime = change.atime.map_or(attr.atime, time);
    attr.mtime = change.mtime.map_or(attr.mtime, time);
    attr.ctime = now();
    super_of(inode)?.changed.lock().insert(inode.ino, attr);
    Ok(())
}

/// The root directory.
struct Root(Arc<Table>);

impl InodeOps for Root {
    fn attr(&self, inode: &Inode) -> Result<Attr> {
        attr_of(inode, |sb| Attr {
            perm: 0o755,
            nlink: 2,
            blksize: 1024,
            atime: sb.made,
            mtime: sb.made,
            ctime: sb.made,
            ..Attr::default()
        })
    }
    fn set_attr(&self, inode: &Inode, change: &SetAttr) -> Result {
        set_attr(inode, change)
    }

    fn lookup(&self, dir: &Arc<Inode>, name: &FsStr) -> Result<Arc<Inode>> {
        if name == b"ptmx" {
            return Ok(Inode::new(&dir.sb, PTMX_INO, FileType::CharDevice, Box::new(Node::Ptmx)));
        }
        let index = std::str::from_utf8(name).ok().and_then(|s| s.parse::<u32>().ok()).filter(|i| i.to_string().as_bytes() == name);
        match index.and_then(|i| self.0.get(i)) {
            Some(tty) => Ok(Inode::new(&dir.sb, PTMX_INO + 1 + u64::from(tty.index), FileType::CharDevice, Box::new(Node::Slave(tty)))),
            None => bail!(ENOENT),
        }
    }

    fn open(&self, _: &Arc<Inode>, _: &PathRef, _: OpenFlags, _: &Task) -> Result<Box<dyn FileOps>> {
        Ok(Box::new(RootFile(self.0.clone())))
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The open root directory.
struct RootFile(Arc<Table>);

impl FileOps for RootFile {
    fn readdir(&self, _: &File, pos: u64, sink: &mut dyn DirSink) -> Result<u64> {
        let dots = [(b".".to_vec(), 1, FileType::Directory), (b"..".to_vec(), 1, FileType::Directory)];
        let ptmx = [(b"ptmx".to_vec(), PTMX_INO, FileType::CharDevice)];
        let fixed = dots.into_iter().chain(ptmx).enumerate().map(|(i, e)| (i as u64, e));
        // A terminal's position is its number, so that those that come and go move no other.
        let ttys = self
            .0
            .indices()
            .into_iter()
            .map(|i| (3 + u64::from(i), (i.to_string().into_bytes(), PTMX_INO + 1 + u64::from(i), FileType::CharDevice)));
        let mut at = pos;
        for (place, (name, ino, kind)) in fixed.chain(ttys).filter(|e| e.0 >= pos) {
            if !sink.add(&name, ino, kind, place + 1) {
                break;
            }
            at = place + 1;
        }
        Ok(at)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// `ptmx` or a slave.
enum Node {
    Ptmx,
    Slave(Arc<Tty>),
}

impl InodeOps for Node {
    fn attr(&self, inode: &Inode) -> Result<Attr> {
        attr_of(inode, |sb| {
            let base = Attr { nlink: 1, blksize: 1024, atime: sb.made, mtime: sb.made, ctime: sb.made, ..Attr::default() };
            match self {
                Node::Ptmx => Attr { perm: sb.options.ptmxmode, rdev: makedev(5, 2), ..base },
                Node::Slave(tty) => {
                    let (uid, gid) = tty.owner();
                    Attr {
                        perm: sb.options.mode,
                        uid: sb.options.uid.unwrap_or(uid),
                        gid: sb.options.gid.unwrap_or(gid),
                        rdev: makedev(SLAVE_MAJOR, tty.index),
                        ..base
                    }
                }
            }
        })
    }
    fn set_attr(&self, inode: &Inode, change: &SetAttr) -> Result {
        set_attr(inode, change)
    }
    fn opens_devices(&self) -> bool {
        true
    }
    fn open(&self, _: &Arc<Inode>, _: &PathRef, flags: OpenFlags, task: &Task) -> Result<Box<dyn FileOps>> {
        match self {
            Node::Ptmx => open_ptmx(task.container(), &task.cred()),
            Node::Slave(tty) => Ok(Box::new(Slave::open(tty, task, flags.contains(OpenFlags::NOCTTY))?)),
        }
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}
