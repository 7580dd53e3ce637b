//! Files that stand for namespaces (namespaces(7)): what `/proc/PID/ns` leads to, and setns(2) takes. The first container of a sandbox
//! has the numbers that Linux gives to its first namespaces.

use super::{Attr, File, FileOps, Inode, InodeOps, IoctlArg, Mount, MountFlags, PathRef, SbFlags, SuperBlock, SuperOps};
use crate::{Container, cred::CapSet, task::Task};
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

    /// The number of the first one.
    pub(crate) const fn first_number(self) -> u64 {
        self.row().1
    }

    /// What readlink(2) of `/proc/PID/ns/*` shows: `uts:[4026531838]`.
    #[must_use]
    pub fn text(self, container: &Container) -> String {
        let number = container.namespace_number(self);
        format!("{}:[{number}]", self.row().0)
    }

    /// The place of its file, for the one that a container is in.
    pub fn place(self, container: &Container) -> Result<PathRef> {
        let kernel = container.kernel();
        let files = match kernel.attachments.get::<Files>() {
            Some(files) => files,
            None => {
                let made = Files::new()?;
                kernel.attachments.get_or_insert_with(|| made)
            }
        };
        let number = container.namespace_number(self);
        let inode = Inode::new(&files.0.sb, number, FileType::Regular, Box::new(NsInode(Open { kind: self, number })));
        Ok(PathRef::nameless(&files.0, self.text(container), inode))
    }

    /// The namespace that an open file stands for; `EINVAL` if none.
    fn of(file: &File) -> Result<Open> {
        match file.downcast::<OpenNamespace>() {
            Some(open) => Ok(open.0),
            None => bail!(EINVAL, "no namespace"),
        }
    }
}

/// Where the files of namespaces lie. Nobody keeps them: they are the same where kind and number are.
struct Files(Arc<Mount>);

impl Files {
    fn new() -> Result<Files> {
        let sb = SuperBlock::new("nsfs", "nsfs", SbFlags::NO_DCACHE | SbFlags::NODEV, Box::new(NsSuper));
        let first = Open { kind: Namespace::User, number: Namespace::User.first_number() };
        sb.set_root(Inode::new(&sb, first.number, FileType::Regular, Box::new(NsInode(first))));
        Ok(Files(Mount::of(&sb, MountFlags::empty())?))
    }
}

/// What a file stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Open {
    kind: Namespace,
    number: u64,
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

struct NsInode(Open);

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
struct OpenNamespace(Open);

impl FileOps for OpenNamespace {
    fn ioctl(&self, _file: &File, task: &Task, cmd: u32, arg: IoctlArg) -> Result<u64> {
        match cmd {
            NS_GET_NSTYPE => Ok(self.0.kind.clone_flag() as u32 as u64),
            NS_GET_OWNER_UID if self.0.kind == Namespace::User => {
                task.mm().write(arg.addr().cast(), &0u32)?;
                Ok(0)
            }
            NS_GET_OWNER_UID => bail!(EINVAL, "no user namespace"),
            // The first namespaces: whatever is above them, nobody inside may see.
            NS_GET_PARENT if matches!(self.0.kind, Namespace::User | Namespace::Pid) => bail!(EPERM),
            NS_GET_PARENT => bail!(EINVAL, "namespaces of this kind have no parents"),
            NS_GET_USERNS if self.0.kind == Namespace::User => bail!(EPERM),
            NS_GET_USERNS => {
                let place = Namespace::User.place(task.container())?;
                let user = Open { kind: Namespace::User, number: Namespace::User.first_number() };
                let file = File::new(place, OpenFlags::empty(), Box::new(OpenNamespace(user)));
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
    /// setns(2): into the namespaces of a file or of another process (`target` by pidfd), if those are what it is in already: nothing
    /// moves a process from one container to another.
    pub fn setns(&self, file: &File, kinds: i32) -> Result {
        let (wanted, foreign) = match Namespace::of(file) {
            Ok(open) if kinds == 0 || kinds == open.kind.clone_flag() => {
                (open.kind.clone_flag(), open.number != self.container().namespace_number(open.kind))
            }
            Ok(_) => bail!(EINVAL, "namespace of another kind"),
            Err(e) if file.downcast::<crate::task::Pidfd>().is_none() => return Err(e),
            Err(_) => {
                let known = Namespace::ALL.iter().fold(0, |all, n| all | n.clone_flag());
                if kinds == 0 || kinds & !known != 0 {
                    bail!(EINVAL, "namespaces {kinds:#x}");
                }
                let target = file.downcast::<crate::task::Pidfd>().map(|pidfd| pidfd.group().container().clone());
                let own = |n: &Namespace| target.as_ref().is_some_and(|t| t.namespace_number(*n) == self.container().namespace_number(*n));
                let foreign = !Namespace::ALL.iter().filter(|n| kinds & n.clone_flag() != 0).all(own);
                (kinds, foreign)
            }
        };
        if wanted & libc::CLONE_NEWUSER != 0 {
            bail!(EINVAL, "in this user namespace already");
        }
        self.cred().require(CapSet::SYS_ADMIN)?;
        if foreign {
            bail!(EPERM, "a namespace of another container");
        }
        Ok(())
    }
}
