//! renameat2(2).

use super::{Dentry, FsStr, Inode, Lookup, Parent, PathRef, RenameFlags, Walker, notify, perm, walk};
use crate::cred::CapSet;
use abi::{Errno, Result, bail};
use std::sync::Arc;

/// The two ends of a rename, directories locked.
struct Ends<'a> {
    old_dir: &'a PathRef,
    old_name: &'a FsStr,
    old: Arc<Dentry>,
    new_dir: &'a PathRef,
    new_name: &'a FsStr,
    new: Arc<Dentry>,
}

impl Walker<'_> {
    /// renameat2(2).
    pub fn rename(&self, old: (&PathRef, &FsStr), new: (&PathRef, &FsStr), flags: RenameFlags) -> Result {
        if flags.contains(RenameFlags::EXCHANGE) && flags.intersects(RenameFlags::NOREPLACE | RenameFlags::WHITEOUT) {
            bail!(EINVAL, "RENAME_EXCHANGE with another flag");
        }
        if flags.contains(RenameFlags::WHITEOUT) {
            self.cred.require(CapSet::MKNOD)?;
        }
        let from = self.parent(old.0, old.1, Lookup::NOFOLLOW)?;
        let to = self.parent(new.0, new.1, Lookup::NOFOLLOW)?;
        if !Arc::ptr_eq(&from.dir.mount, &to.dir.mount) {
            bail!(EXDEV);
        }
        let old_name = from.name(Errno::EBUSY)?;
        let new_name = to.name(if flags.contains(RenameFlags::NOREPLACE) { Errno::EEXIST } else { Errno::EBUSY })?;
        from.dir.mount.check_writable()?;

        let same_dir = Arc::ptr_eq(&from.dir.inode, &to.dir.inode);
        // Between two directories no other rename may move one below the other while they are locked in order.
        let _rename = (!same_dir).then(|| from.dir.inode.sb.rename_lock.lock());
        let to_first = !same_dir && to.dir.dentry.is_ancestor_of(&from.dir.dentry);
        let (first, second) = if to_first { (&to.dir, &from.dir) } else { (&from.dir, &to.dir) };
        let _first = first.inode.lock_dir();
        let _second = (!same_dir).then(|| second.inode.lock_dir_nested());

        let ends = Ends {
            old_dir: &from.dir,
            old_name,
            old: walk::lookup_locked(&from.dir.dentry, &from.dir.inode, old_name)?,
            new_dir: &to.dir,
            new_name,
            new: walk::lookup_locked(&to.dir.dentry, &to.dir.inode, new_name)?,
        };
        let Some(told) = self.rename_locked(&ends, &from, &to, flags)? else { return Ok(()) };
        drop((_second, _first, _rename));
        told.tell(&ends);
        Ok(())
    }

    fn rename_locked(&self, e: &Ends<'_>, from: &Parent, to: &Parent, flags: RenameFlags) -> Result<Option<Told>> {
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        let Some(source) = e.old.inode() else { bail!(ENOENT) };
        let target = e.new.inode();
        if target.is_some() && flags.contains(RenameFlags::NOREPLACE) {
            bail!(EEXIST);
        }
        if exchange {
            match &target {
                None => bail!(ENOENT, "nothing to exchange with"),
                Some(t) if to.slash && !t.is_dir() => bail!(ENOTDIR),
                Some(_) => {}
            }
        }
        if !source.is_dir() && (from.slash || !exchange && to.slash) {
            bail!(ENOTDIR);
        }
        if e.old.is_ancestor_of(&e.new_dir.dentry) {
            bail!(EINVAL, "a directory into itself");
        }
        if target.is_some() && e.new.is_ancestor_of(&e.old_dir.dentry) {
            if exchange {
                bail!(EINVAL, "a directory into itself");
            }
            bail!(ENOTEMPTY);
        }
        if target.as_ref().is_some_and(|t| Arc::ptr_eq(t, &source)) {
            return Ok(None);
        }
        self.may_rename(e, &source, target.as_ref(), exchange)?;
        if e.old.is_mountpoint() || e.new.is_mountpoint() {
            bail!(EBUSY, "something is mounted there");
        }
        // A directory that is replaced must not get new names while it goes.
        let _inner = match &target {
            Some(t) if t.is_dir() && !exchange => Some(t.lock_dir_nested()),
            _ => None,
        };
        let sb = &e.old_dir.inode.sb;
        let change = sb.begin_change();
        e.old_dir.inode.ops.rename(&e.old_dir.inode, e.old_name, &source, &e.new_dir.inode, e.new_name, target.as_ref(), flags)?;
        drop(change);
        self.rename_in_cache(e, &source, flags);
        Ok(Some(Told { source: source.clone(), target: target.clone(), exchange }))
    }

    fn may_rename(&self, e: &Ends<'_>, source: &Inode, target: Option<&Arc<Inode>>, exchange: bool) -> Result {
        perm::may_delete(e.old_dir, source, &self.cred, source.is_dir())?;
        match target {
            None => perm::may_create(e.new_dir, &self.cred)?,
            Some(t) => {
                let want_dir = if exchange { t.is_dir() } else { source.is_dir() };
                perm::may_delete(e.new_dir, t, &self.cred, want_dir)?;
            }
        }
        // A directory that gets another parent is itself changed.
        if !Arc::ptr_eq(&e.old_dir.inode, &e.new_dir.inode) {
            if source.is_dir() {
                perm::check(source, &self.cred, perm::WRITE)?;
            }
            if let Some(t) = target.filter(|t| exchange && t.is_dir()) {
                perm::check(t, &self.cred, perm::WRITE)?;
            }
        }
        Ok(())
    }

    fn rename_in_cache(&self, e: &Ends<'_>, source: &Inode, flags: RenameFlags) {
        let cache = &e.old_dir.inode.sb.dcache;
        if !super::dentry::caches_names(source) {
            return;
        }
        if flags.contains(RenameFlags::EXCHANGE) {
            e.new_dir.dentry.drop_child(&e.new, false);
            e.old.move_to(&e.new_dir.dentry, e.new_name);
            e.new.move_to(&e.old_dir.dentry, e.old_name);
            return;
        }
        e.new_dir.dentry.drop_child(&e.new, e.new.inode().is_some());
        if e.new.inode().is_some_and(|i| i.is_dir()) {
            e.new.forget_children();
        }
        e.old.move_to(&e.new_dir.dentry, e.new_name);
        if !flags.contains(RenameFlags::WHITEOUT) {
            e.old_dir.dentry.add_child(e.old_name, None, cache);
        }
    }
}

/// What watchers are told, once the directories are unlocked.
struct Told {
    source: Arc<Inode>,
    target: Option<Arc<Inode>>,
    exchange: bool,
}

impl Told {
    fn tell(&self, e: &Ends<'_>) {
        use notify::mask;
        let moved = |inode: &Inode, from: (&PathRef, &FsStr), to: (&PathRef, &FsStr)| {
            let cookie = notify::next_cookie();
            let flag = if inode.is_dir() { mask::ISDIR } else { 0 };
            notify::event(&from.0.inode, mask::MOVED_FROM | flag, Some(from.1), cookie);
            notify::event(&to.0.inode, mask::MOVED_TO | flag, Some(to.1), cookie);
            notify::event(inode, mask::MOVE_SELF, None, 0);
        };
        let (old, new) = ((e.old_dir, e.old_name), (e.new_dir, e.new_name));
        moved(&self.source, old, new);
        match &self.target {
            Some(t) if self.exchange => moved(t, new, old),
            Some(t) if t.is_dir() || t.attr().is_ok_and(|a| a.nlink == 0) => {
                notify::event(t, mask::DELETE_SELF, None, 0);
            }
            Some(t) => notify::event(t, mask::ATTRIB, None, 0),
            None => {}
        }
    }
}
