//! Taking names away: unlink(2), rmdir(2).

use super::{Dentry, FsStr, Inode, Last, Lookup, PathRef, Walker, notify, perm, walk};
use abi::{Errno, Result, bail};
use std::sync::Arc;

impl Walker<'_> {
    /// unlink(2).
    pub fn unlink(&self, start: &PathRef, path: &FsStr) -> Result {
        let parent = self.parent(start, path, Lookup::NOFOLLOW)?;
        let name = parent.name(Errno::EISDIR)?;
        let dir = &parent.dir;
        dir.mount.check_writable()?;
        let gone = {
            let _guard = dir.inode.lock_dir();
            let dentry = walk::lookup_locked(&dir.dentry, &dir.inode, name)?;
            let Some(inode) = dentry.inode() else { bail!(ENOENT) };
            if parent.slash {
                if inode.is_dir() { bail!(EISDIR) } else { bail!(ENOTDIR) }
            }
            perm::may_delete(dir, &inode, &self.cred, false)?;
            if dentry.is_mountpoint() {
                bail!(EBUSY, "something is mounted there");
            }
            let change = dir.inode.sb.begin_change();
            dir.inode.ops.unlink(&dir.inode, name, &inode)?;
            drop(change);
            forget(dir, &dentry);
            inode
        };
        notify::event(&gone, notify::mask::ATTRIB, None, 0);
        tell_deleted(dir, &gone, name);
        Ok(())
    }

    /// rmdir(2).
    pub fn rmdir(&self, start: &PathRef, path: &FsStr) -> Result {
        let parent = self.parent(start, path, Lookup::NOFOLLOW)?;
        let name = match &parent.last {
            Last::Name(n) => n,
            Last::Dot => bail!(EINVAL, "rmdir of ."),
            Last::DotDot => bail!(ENOTEMPTY, "rmdir of .."),
            Last::Root => bail!(EBUSY, "rmdir of the root"),
        };
        let dir = &parent.dir;
        dir.mount.check_writable()?;
        let gone = {
            let _guard = dir.inode.lock_dir();
            let dentry = walk::lookup_locked(&dir.dentry, &dir.inode, name)?;
            let Some(inode) = dentry.inode() else { bail!(ENOENT) };
            perm::may_delete(dir, &inode, &self.cred, true)?;
            if dentry.is_mountpoint() {
                bail!(EBUSY, "something is mounted there");
            }
            // Nobody may make a name in it while it goes.
            let _inner = inode.lock_dir_nested();
            let change = dir.inode.sb.begin_change();
            dir.inode.ops.rmdir(&dir.inode, name, &inode)?;
            drop(change);
            dentry.forget_children();
            forget(dir, &dentry);
            inode.clone()
        };
        tell_deleted(dir, &gone, name);
        Ok(())
    }
}

/// Takes a removed name out of the cache; it is known from now on that it is not there.
fn forget(dir: &PathRef, dentry: &Arc<Dentry>) {
    let name = dentry.name();
    dir.dentry.drop_child(dentry, true);
    if super::dentry::caches_names(&dir.inode) {
        dir.dentry.add_child(&name, None, &dir.inode.sb.dcache);
    }
}

fn tell_deleted(dir: &PathRef, gone: &Inode, name: &FsStr) {
    let flag = if gone.is_dir() { notify::mask::ISDIR } else { 0 };
    if gone.is_dir() || gone.attr().is_ok_and(|a| a.nlink == 0) {
        notify::event(gone, notify::mask::DELETE_SELF, None, 0);
    }
    notify::event(&dir.inode, notify::mask::DELETE | flag, Some(name), 0);
}
