//! inotify(7).

use crate::{arg::UserCStr, fdutil, row, table::Entry};
use abi::{Result, bail, fs::OpenFlags};
use kernel::{
    ipc::inotify::{self, Inotify},
    task::CurrentTask,
    vfs::{Fd, Lookup, Walker, perm},
};

pub(crate) const ROWS: &[Entry] = &[
    row!("inotify_init", inotify_init),
    row!("inotify_init1", inotify_init1),
    row!("inotify_add_watch", inotify_add_watch, Partial("events of what happens inside the sandbox only; IN_EXCL_UNLINK changes nothing")),
    row!("inotify_rm_watch", inotify_rm_watch),
];

/// inotify_init(2)
pub fn inotify_init(t: &mut CurrentTask) -> Result<Fd> {
    inotify_init1(t, 0)
}

/// inotify_init1(2)
pub fn inotify_init1(t: &mut CurrentTask, flags: i32) -> Result<Fd> {
    let flags = fdutil::flags(flags, OpenFlags::CLOEXEC | OpenFlags::NONBLOCK)?;
    let file = inotify::create(flags & OpenFlags::NONBLOCK, &t.cred());
    fdutil::install_with(t, file, flags)
}

/// inotify_add_watch(2)
pub fn inotify_add_watch(t: &mut CurrentTask, fd: Fd, path: UserCStr, mask: u32) -> Result<i32> {
    Inotify::check_mask(mask)?;
    let file = t.files().get_open(fd)?;
    let Some(instance) = file.downcast::<Inotify>() else { bail!(EINVAL, "not an inotify instance") };
    let path = path.read_path(t)?;
    let how = Lookup { follow: mask & inotify::DONT_FOLLOW == 0, directory: mask & inotify::ONLYDIR != 0, ..Lookup::default() };
    let at = Walker::of(t).walk(&t.fs().cwd(), &path, how)?;
    perm::check_path(&at, &t.cred(), 4)?;
    instance.add_watch(&at.inode, mask)
}

/// inotify_rm_watch(2)
pub fn inotify_rm_watch(t: &mut CurrentTask, fd: Fd, wd: i32) -> Result<()> {
    let file = t.files().get_open(fd)?;
    let Some(instance) = file.downcast::<Inotify>() else { bail!(EINVAL, "not an inotify instance") };
    instance.remove_watch(wd)
}
