//! Extended attributes (xattr(7)).

use crate::{
    arg::{DirFd, UserCStr},
    at::At,
    row,
    table::Entry,
};
use abi::{Result, bail};
use kernel::{
    task::CurrentTask,
    user::UserAddr,
    vfs::{Fd, Lookup, PathRef, XattrFlags},
};

pub(crate) const ROWS: &[Entry] = &[
    row!("setxattr", setxattr),
    row!("lsetxattr", lsetxattr),
    row!("fsetxattr", fsetxattr),
    row!("getxattr", getxattr),
    row!("lgetxattr", lgetxattr),
    row!("fgetxattr", fgetxattr),
    row!("listxattr", listxattr),
    row!("llistxattr", llistxattr),
    row!("flistxattr", flistxattr),
    row!("removexattr", removexattr),
    row!("lremovexattr", lremovexattr),
    row!("fremovexattr", fremovexattr),
];

/// Longest name (`XATTR_NAME_MAX`).
const NAME_MAX: usize = 255;
/// Largest value (`XATTR_SIZE_MAX`).
const SIZE_MAX: usize = 65536;

fn place(t: &CurrentTask, path: UserCStr, how: Lookup) -> Result<PathRef> {
    At::new(t, DirFd::Cwd, path)?.walk(t, how)
}

fn name(t: &CurrentTask, name: UserCStr) -> Result<Vec<u8>> {
    let name = t.mm().read_cstr(name.0, NAME_MAX + 1).map_err(|e| if e.is(abi::Errno::ENAMETOOLONG) { abi::error!(ERANGE) } else { e })?;
    if name.is_empty() { bail!(ERANGE, "empty name") } else { Ok(name) }
}

fn set(t: &CurrentTask, at: &PathRef, key: UserCStr, value: UserAddr, size: usize, flags: u32) -> Result<()> {
    let Some(flags) = XattrFlags::from_bits(flags) else { bail!(EINVAL, "unknown flags") };
    let key = name(t, key)?;
    if size > SIZE_MAX {
        bail!(E2BIG);
    }
    let mut bytes = vec![0; size];
    t.mm().copy_in(value, &mut bytes)?;
    at.setxattr(&t.cred(), &key, &bytes, flags)
}

/// Copies an answer out; a size of zero only asks how long it is.
fn answer(t: &CurrentTask, bytes: &[u8], to: UserAddr, size: usize) -> Result<usize> {
    if size > 0 {
        if bytes.len() > size {
            bail!(ERANGE);
        }
        t.mm().copy_out(to, bytes)?;
    }
    Ok(bytes.len())
}

fn get(t: &CurrentTask, at: &PathRef, key: UserCStr, to: UserAddr, size: usize) -> Result<usize> {
    let value = at.getxattr(&t.cred(), &name(t, key)?)?;
    answer(t, &value, to, size)
}

fn list(t: &CurrentTask, at: &PathRef, to: UserAddr, size: usize) -> Result<usize> {
    let mut bytes = Vec::new();
    for n in at.listxattr(&t.cred())? {
        bytes.extend(n);
        bytes.push(0);
    }
    answer(t, &bytes, to, size)
}

fn remove(t: &CurrentTask, at: &PathRef, key: UserCStr) -> Result<()> {
    at.removexattr(&t.cred(), &name(t, key)?)
}

fn open(t: &CurrentTask, fd: Fd) -> Result<PathRef> {
    Ok(t.files().get_open(fd)?.path.clone())
}

pub fn setxattr(t: &mut CurrentTask, path: UserCStr, key: UserCStr, value: UserAddr, size: usize, flags: u32) -> Result<()> {
    set(t, &place(t, path, Lookup::FOLLOW)?, key, value, size, flags)
}

pub fn lsetxattr(t: &mut CurrentTask, path: UserCStr, key: UserCStr, value: UserAddr, size: usize, flags: u32) -> Result<()> {
    set(t, &place(t, path, Lookup::NOFOLLOW)?, key, value, size, flags)
}

pub fn fsetxattr(t: &mut CurrentTask, fd: Fd, key: UserCStr, value: UserAddr, size: usize, flags: u32) -> Result<()> {
    set(t, &open(t, fd)?, key, value, size, flags)
}

pub fn getxattr(t: &mut CurrentTask, path: UserCStr, key: UserCStr, to: UserAddr, size: usize) -> Result<usize> {
    get(t, &place(t, path, Lookup::FOLLOW)?, key, to, size)
}

pub fn lgetxattr(t: &mut CurrentTask, path: UserCStr, key: UserCStr, to: UserAddr, size: usize) -> Result<usize> {
    get(t, &place(t, path, Lookup::NOFOLLOW)?, key, to, size)
}

pub fn fgetxattr(t: &mut CurrentTask, fd: Fd, key: UserCStr, to: UserAddr, size: usize) -> Result<usize> {
    get(t, &open(t, fd)?, key, to, size)
}

pub fn listxattr(t: &mut CurrentTask, path: UserCStr, to: UserAddr, size: usize) -> Result<usize> {
    list(t, &place(t, path, Lookup::FOLLOW)?, to, size)
}

pub fn llistxattr(t: &mut CurrentTask, path: UserCStr, to: UserAddr, size: usize) -> Result<usize> {
    list(t, &place(t, path, Lookup::NOFOLLOW)?, to, size)
}

pub fn flistxattr(t: &mut CurrentTask, fd: Fd, to: UserAddr, size: usize) -> Result<usize> {
    list(t, &open(t, fd)?, to, size)
}

pub fn removexattr(t: &mut CurrentTask, path: UserCStr, key: UserCStr) -> Result<()> {
    remove(t, &place(t, path, Lookup::FOLLOW)?, key)
}

pub fn lremovexattr(t: &mut CurrentTask, path: UserCStr, key: UserCStr) -> Result<()> {
    remove(t, &place(t, path, Lookup::NOFOLLOW)?, key)
}

pub fn fremovexattr(t: &mut CurrentTask, fd: Fd, key: UserCStr) -> Result<()> {
    remove(t, &open(t, fd)?, key)
}
