//! Files that stand for namespaces (namespaces(7)): what `/proc/PID/ns` leads to, and setns(2) takes. A sandbox has one namespace of
//! each kind, with the numbers that Linux gives to its first ones.

use super::{Attr, File, FileOps, Inode, InodeOps, IoctlArg, Mount, MountFlags, PathRef, SbFlags, SuperBlock, SuperOps};
use crate::{Kernel, cred::CapSet, task::Task};
use abi::{
    Result, bail,
    fs::{FileType, OpenFlags, Statfs},
};
use std::any::Any;
use std::sync::Arc;

const NSFS_MAGIC: i64 = 0x6e73_6673;
/// ioctl_nsfs(2): the namespace's kind, as its `CLONE_NEW*`.
const NS_GET_NSTYPE: u32 = 0xb703;
/// ioctl_nsfs(2): the user namespace that owns it.
const NS_GET_USERNS: u32 = 0xb701;
/// ioctl_nsfs(2): the parent of a user or pid namespace.
const NS_GET_PARENT: u32 = 0xb702;
/// ioctl_nsfs(2): who made a user namespace.
const NS_GET_OWNER_UID: u32 = 0xb704;

/// Kinds of namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Namespace {
    Cgroup,
    Ipc,
    Mnt,
    Net,
    Pid,
    Time,
    User,
    Uts,
}

impl Namespace {
    const ALL: [Namespace; 8] = [Self::Cgroup, Self::Ipc, Self::Mnt, Self::Net, Self::Pid, Self::Time, Self::User, Self::Uts];

    /// Name, number, and the flag of clone(2).
    const fn row(self) -> (&'static str, u64, i32) {
        match self {
            Self::Time => ("time", 4_026_531_834, libc::CLONE_NEWTIME),
            Self::Cgroup => ("cgroup", 4_026_531_835, libc::CLONE_NEWCGROUP),
            Self::Pid => ("pid", 4_026_531_836, libc::CLONE_NEWPID),
            Self::User => ("user", 4_026_531_837, libc::CLONE_NEWUSER),
            Self::Uts => ("uts", 4_026_531_838, libc::CLONE_NEWUTS),
            Self::Ipc => ("ipc", 4_026_531_839, libc::CLONE_NEWIPC),
            Self::Net => ("net", 4_026_531_840, libc::CLONE_NEWNET),
            Self::Mnt => ("mnt", 4_026_531_841, libc::CLONE_NEWNS),
        }
    }

    /// Its `CLONE_NEW*`.
    #[must_use]
    pub const fn clone_flag(self) -> i32 {
        self.row().2
    }

    /// What readlink(2) of `/proc/PID/ns/*` shows: `uts:[4026531838]`.
    #[must_use]
    pub fn text(self) -> String {
        let (name, number, _) = self.row();
        format!("{name}:[{number}]")
    }

    /// The place of its file.
    pub fn place(self, kernel: &Kernel) -> Result<PathRef> {
        let places = match kernel.attachments.get::<Places>() {
            Some(p) => p,
            None => {
                let made = Places::new()?;
                kernel.attachments.get_or_insert_with(|| made)
            }
        };
        places.0.iter().find(|(kind, _)| *kind == self).map(|(_, place)| place.clone()).ok_or(abi::error!(ENOENT))
    }

    /// The namespace that an open file stands for; `EINVAL` if none.
    pub fn of(file: &File) -> Result<Namespace> {
        match file.downcast::<OpenNamespace>() {
            Some(open) => Ok(open.0),
            None => bail!(EINVAL, "no namespace"),
        }
    }
}

/// The files of a sandbox's namespaces.
struct Places(Vec<(Namespace, PathRef)>);

impl Places {
    fn new() -> Result<Places> {
        let sb = SuperBlock::new("nsfs", "nsfs", SbFlags::NO_DCACHE | SbFlags::NODEV, Box::new(NsSuper));
        let inode = |kind: Namespace| Inode::new(&sb, kind.row().1, FileType::Regular, Box::new(NsInode(kind)));
        sb.set_root(inode(Namespace::User));
        let mount = Mount::of(&sb, MountFlags::empty())?;
        Ok(Places(Namespace::ALL.iter().map(|&k| (k, PathRef::nameless(&mount, k.text(), inode(k)))).collect()))
    }
}

struct NsSuper;

impl SuperOps for NsSuper {
    fn statfs(&self, _sb: &SuperBlock) -> Result<Statfs> {
        Ok(Statfs { kind: NSFS_MAGIC, bsize: 4096, frsize: 4096, namelen: 255, ..Statfs::default() })
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct NsInode(Namespace);

impl InodeOps for NsInode {
    fn attr(&self, _inode: &Inode) -> Result<Attr> {
        Ok(Attr { perm: 0o444, nlink: 1, blksize: 4096, ..Attr::default() })
    }
    fn open(&self, _inode: &Arc<Inode>, _path: &PathRef, flags: OpenFlags, _task: &Task) -> Result<Box<dyn FileOps>> {
        if flags.writable() {
            bail!(EPERM, "a namespace is not written");
        }
        Ok(Box::new(OpenNamespace(self.0)))
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open namespace.
struct OpenNamespace(Namespace);

impl FileOps for OpenNamespace {
    fn ioctl(&self, _file: &File, task: &Task, cmd: u32, arg: IoctlArg) -> Result<u64> {
        match cmd {
            NS_GET_NSTYPE => Ok(self.0.clone_flag() as u32 as u64),
            NS_GET_OWNER_UID if self.0 == Namespace::User => {
                task.mm().write(arg.addr().cast(), &0u32)?;
                Ok(0)
            }
            NS_GET_OWNER_UID => bail!(EINVAL, "no user namespace"),
            // The first namespaces: whatever is above them, nobody inside may see.
            NS_GET_PARENT if matches!(self.0, Namespace::User | Namespace::Pid) => bail!(EPERM),
            NS_GET_PARENT => bail!(EINVAL, "namespaces of this kind have no parents"),
            NS_GET_USERNS if self.0 == Namespace::User => bail!(EPERM),
            NS_GET_USERNS => {
                let place = Namespace::User.place(task.kernel())?;
                let file = File::new(place, OpenFlags::empty(), Box::new(OpenNamespace(Namespace::User)));
                let limit = task.rlimit(libc::RLIMIT_NOFILE).cur;
                Ok(u64::from(task.files().install(file, super::Fd(0), limit, true)?.0))
            }
            _ => bail!(ENOTTY),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Task {
    /// setns(2): into the namespaces of a file or of another process (`target` by pidfd), which are those that it is in already.
    pub fn setns(&self, file: &File, kinds: i32) -> Result {
        let wanted = match Namespace::of(file) {
            Ok(namespace) if kinds == 0 || kinds == namespace.clone_flag() => namespace.clone_flag(),
            Ok(_) => bail!(EINVAL, "namespace of another kind"),
            Err(e) if file.downcast::<crate::task::Pidfd>().is_none() => return Err(e),
            Err(_) => {
                let known = Namespace::ALL.iter().fold(0, |all, n| all | n.clone_flag());
                if kinds == 0 || kinds & !known != 0 {
                    bail!(EINVAL, "namespaces {kinds:#x}");
                }
                kinds
            }
        };
        if wanted & libc::CLONE_NEWUSER != 0 {
            bail!(EINVAL, "in this user namespace already");
        }
        self.cred().require(CapSet::SYS_ADMIN)
    }
}
