//! Names: mkdir(2), rmdir(2), link(2), symlink(2), unlink(2), rename(2), mknod(2), readlink(2), and the current and root directories.

use crate::{
    arg::{DirFd, UserCStr},
    at::{At, only, start, walker},
    row,
    table::Entry,
};
use abi::{Result, bail, fs::FileType, libc};
use kernel::{
    cred::CapSet,
    task::CurrentTask,
    user::UserAddr,
    vfs::{Fd, Lookup, PathRef, Reach, RenameFlags, perm},
};

pub(crate) const ROWS: &[Entry] = &[
    row!("mkdir", mkdir),
    row!("mkdirat", mkdirat),
    row!("rmdir", rmdir),
    row!("unlink", unlink),
    row!("unlinkat", unlinkat),
    row!("link", link),
    row!("linkat", linkat),
    row!("symlink", symlink),
    row!("symlinkat", symlinkat),
    row!("readlink", readlink),
    row!("readlinkat", readlinkat),
    row!("rename", rename),
    row!("renameat", renameat),
    row!("renameat2", renameat2),
    row!("mknod", mknod),
    row!("mknodat", mknodat),
    row!("chdir", chdir),
    row!("fchdir", fchdir),
    row!("getcwd", getcwd),
    row!("chroot", chroot),
];

pub fn mkdir(t: &mut CurrentTask, path: UserCStr, mode: u32) -> Result<()> {
    mkdirat(t, DirFd::Cwd, path, mode)
}

pub fn mkdirat(t: &mut CurrentTask, dir: DirFd, path: UserCStr, mode: u32) -> Result<()> {
    let at = At::new(t, dir, path)?;
    walker(t).mkdir(&at.start, &at.path, mode).map(drop)
}

pub fn rmdir(t: &mut CurrentTask, path: UserCStr) -> Result<()> {
    unlinkat(t, DirFd::Cwd, path, libc::AT_REMOVEDIR as u32)
}

pub fn unlink(t: &mut CurrentTask, path: UserCStr) -> Result<()> {
    unlinkat(t, DirFd::Cwd, path, 0)
}

pub fn unlinkat(t: &mut CurrentTask, dir: DirFd, path: UserCStr, flags: u32) -> Result<()> {
    only(flags, libc::AT_REMOVEDIR)?;
    let at = At::new(t, dir, path)?;
    if flags == 0 { walker(t).unlink(&at.start, &at.path) } else { walker(t).rmdir(&at.start, &at.path) }
}

pub fn link(t: &mut CurrentTask, old: UserCStr, new: UserCStr) -> Result<()> {
    linkat(t, DirFd::Cwd, old, DirFd::Cwd, new, 0)
}

pub fn linkat(t: &mut CurrentTask, old_dir: DirFd, old: UserCStr, new_dir: DirFd, new: UserCStr, flags: u32) -> Result<()> {
    only(flags, libc::AT_SYMLINK_FOLLOW | libc::AT_EMPTY_PATH)?;
    let old = At::new(t, old_dir, old)?;
    let empty = flags & libc::AT_EMPTY_PATH as u32 != 0;
    if empty && old.path.is_empty() && !t.cred().capable(CapSet::DAC_READ_SEARCH) {
        bail!(ENOENT, "linking a descriptor needs CAP_DAC_READ_SEARCH");
    }
    let how = Lookup { follow: flags & libc::AT_SYMLINK_FOLLOW as u32 != 0, directory: false, empty, resolve: 0 };
    let place = old.walk(t, how)?;
    let new = At::new(t, new_dir, new)?;
    walker(t).link(&place, &new.start, &new.path)
}

pub fn symlink(t: &mut CurrentTask, target: UserCStr, path: UserCStr) -> Result<()> {
    symlinkat(t, target, DirFd::Cwd, path)
}

pub fn symlinkat(t: &mut CurrentTask, target: UserCStr, dir: DirFd, path: UserCStr) -> Result<()> {
    let target = target.read_path(t)?;
    let at = At::new(t, dir, path)?;
    walker(t).symlink(&target, &at.start, &at.path).map(drop)
}

pub fn readlink(t: &mut CurrentTask, path: UserCStr, buf: UserAddr, size: i32) -> Result<usize> {
    readlinkat(t, DirFd::Cwd, path, buf, size)
}

pub fn readlinkat(t: &mut CurrentTask, dir: DirFd, path: UserCStr, buf: UserAddr, size: i32) -> Result<usize> {
    let Ok(size @ 1..) = usize::try_from(size) else { bail!(EINVAL, "no room") };
    let path = path.read_path(t)?;
    let place = walker(t).walk(&start(t, dir, &path)?, &path, Lookup { empty: true, ..Lookup::NOFOLLOW })?;
    if place.inode.kind != FileType::Symlink {
        // An empty path names a descriptor, which is there but no link.
        if path.is_empty() { bail!(ENOENT) } else { bail!(EINVAL, "not a symbolic link") }
    }
    let target = place.inode.ops.readlink(&place.inode)?;
    let n = size.min(target.len());
    t.mm().copy_out(buf, &target[..n])?;
    Ok(n)
}

pub fn rename(t: &mut CurrentTask, old: UserCStr, new: UserCStr) -> Result<()> {
    renameat2(t, DirFd::Cwd, old, DirFd::Cwd, new, 0)
}

pub fn renameat(t: &mut CurrentTask, old_dir: DirFd, old: UserCStr, new_dir: DirFd, new: UserCStr) -> Result<()> {
    renameat2(t, old_dir, old, new_dir, new, 0)
}

pub fn renameat2(t: &mut CurrentTask, old_dir: DirFd, old: UserCStr, new_dir: DirFd, new: UserCStr, flags: u32) -> Result<()> {
    let Some(flags) = RenameFlags::from_bits(flags) else { bail!(EINVAL, "unknown flags") };
    let old = At::new(t, old_dir, old)?;
    let new = At::new(t, new_dir, new)?;
    walker(t).rename((&old.start, &old.path), (&new.start, &new.path), flags)
}

pub fn mknod(t: &mut CurrentTask, path: UserCStr, mode: u32, dev: u32) -> Result<()> {
    mknodat(t, DirFd::Cwd, path, mode, dev)
}

pub fn mknodat(t: &mut CurrentTask, dir: DirFd, path: UserCStr, mode: u32, dev: u32) -> Result<()> {
    let kind = match mode & libc::S_IFMT {
        0 => FileType::Regular,
        _ => FileType::from_mode(mode).ok_or(abi::error!(EINVAL, "unknown file type"))?,
    };
    let at = At::new(t, dir, path)?;
    walker(t).mknod(&at.start, &at.path, kind, mode & 0o7777, u64::from(dev)).map(drop)
}

/// A directory that the task may search.
fn directory(t: &CurrentTask, path: UserCStr) -> Result<PathRef> {
    let place = At::new(t, DirFd::Cwd, path)?.walk(t, Lookup::DIRECTORY)?;
    perm::check_path(&place, &t.cred(), perm::EXEC)?;
    Ok(place)
}

pub fn chdir(t: &mut CurrentTask, path: UserCStr) -> Result<()> {
    let place = directory(t, path)?;
    t.fs().set_cwd(place);
    Ok(())
}

pub fn fchdir(t: &mut CurrentTask, fd: Fd) -> Result<()> {
    let place = t.files().get(fd)?.path.clone();
    if !place.inode.is_dir() {
        bail!(ENOTDIR);
    }
    perm::check_path(&place, &t.cred(), perm::EXEC)?;
    t.fs().set_cwd(place);
    Ok(())
}

pub fn chroot(t: &mut CurrentTask, path: UserCStr) -> Result<()> {
    let place = directory(t, path)?;
    t.cred().require(CapSet::SYS_CHROOT)?;
    t.fs().set_root(place);
    Ok(())
}

/// Returns the length with the NUL; a directory outside the root shows as `(unreachable)/…`.
pub fn getcwd(t: &mut CurrentTask, buf: UserAddr, size: usize) -> Result<usize> {
    let fs = t.fs();
    let cwd = fs.cwd();
    if cwd.dentry.is_unlinked() {
        bail!(ENOENT, "the current directory was removed");
    }
    let (text, reach) = cwd.text_from(&fs.root());
    let mut out = if reach == Reach::Inside { Vec::new() } else { b"(unreachable)".to_vec() };
    out.extend(text);
    out.push(0);
    if out.len() > kernel::vfs::PATH_MAX {
        bail!(ENAMETOOLONG);
    }
    if out.len() > size {
        bail!(ERANGE);
    }
    t.mm().copy_out(buf, &out)?;
    Ok(out.len())
}
