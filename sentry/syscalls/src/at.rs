//! What calls with paths have in common: the starting place, the walker, and reading paths.

use crate::arg::{DirFd, UserCStr};
use abi::{Result, bail, libc};
use kernel::{
    task::CurrentTask,
    vfs::{FsStr, FsString, Lookup, PathRef, Walker},
};

/// A walker with the task's rights, root and umask.
pub fn walker(t: &CurrentTask) -> Walker<'_> {
    Walker::of(&t.task)
}

/// Where a path relative to `dir` starts. The descriptor is not looked at if the path is absolute.
pub fn start(t: &CurrentTask, dir: DirFd, path: &FsStr) -> Result<PathRef> {
    if path.first() == Some(&b'/') {
        return Ok(t.fs().root());
    }
    match dir {
        DirFd::Cwd => Ok(t.fs().cwd()),
        DirFd::At(fd) => {
            let place = t.files().get(fd)?.path.clone();
            if !path.is_empty() && !place.inode.is_dir() {
                bail!(ENOTDIR, "descriptor is no directory");
            }
            Ok(place)
        }
        DirFd::Invalid => bail!(EBADF),
    }
}

/// A path argument with the place it starts from.
pub struct At {
    /// Where a relative path starts.
    pub start: PathRef,
    /// The path's bytes.
    pub path: FsString,
}

impl At {
    /// Reads the path, then finds the start.
    pub fn new(t: &CurrentTask, dir: DirFd, path: UserCStr) -> Result<At> {
        let path = path.read_path(t)?;
        Ok(At { start: start(t, dir, &path)?, path })
    }

    /// The same where a null pointer stands for an empty path if `flags` has AT_EMPTY_PATH (Linux 6.11).
    pub fn maybe_null(t: &CurrentTask, dir: DirFd, path: UserCStr, flags: u32) -> Result<At> {
        if path.0.is_null() && flags & libc::AT_EMPTY_PATH as u32 != 0 {
            return Ok(At { start: start(t, dir, b"")?, path: Vec::new() });
        }
        Self::new(t, dir, path)
    }

    /// Walks to it.
    pub fn walk(&self, t: &CurrentTask, how: Lookup) -> Result<PathRef> {
        walker(t).walk(&self.start, &self.path, how)
    }
}

/// A lookup from AT_* flags: follows unless AT_SYMLINK_NOFOLLOW, allows an empty path with AT_EMPTY_PATH.
pub fn lookup(flags: u32) -> Lookup {
    Lookup {
        follow: flags & libc::AT_SYMLINK_NOFOLLOW as u32 == 0,
        directory: false,
        empty: flags & libc::AT_EMPTY_PATH as u32 != 0,
        resolve: 0,
    }
}

/// `EINVAL` for flags that a call does not know.
pub fn only(flags: u32, known: i32) -> Result {
    if flags & !(known as u32) != 0 { bail!(EINVAL, "unknown flags {flags:#x}") } else { Ok(()) }
}
