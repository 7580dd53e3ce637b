//! From names to places.

use super::{Dentry, FsStr, FsString, Inode, Mount, MountFlags, NAME_MAX, dentry, perm};
use crate::{cred::Credentials, task::Task};
use abi::{Errno, Result, bail, fs::FileType};
use std::sync::Arc;

/// A place in the tree where a file is: a mount, a name there, and what it names.
#[derive(Clone)]
pub struct PathRef {
    #[allow(missing_docs)]
    pub mount: Arc<Mount>,
    #[allow(missing_docs)]
    pub dentry: Arc<Dentry>,
    /// The dentry's inode: a `PathRef` is never negative.
    pub inode: Arc<Inode>,
}

impl PathRef {
    /// Whether both are the same place.
    pub fn same(&self, other: &PathRef) -> bool {
        Arc::ptr_eq(&self.mount, &other.mount) && Arc::ptr_eq(&self.dentry, &other.dentry)
    }

    /// Whether it is the root of its mount.
    pub fn is_mount_root(&self) -> bool {
        Arc::ptr_eq(&self.dentry, &self.mount.root)
    }

    /// A place for an inode that has no name in any tree, shown as `name` as it is (`pipe:[7]`).
    pub fn nameless(mount: &Arc<Mount>, name: String, inode: Arc<Inode>) -> PathRef {
        PathRef { mount: mount.clone(), dentry: Dentry::root(name.into_bytes(), inode.clone()), inode }
    }

    /// Whether it is a file without a name: in no tree of mounts.
    pub fn is_nameless(&self) -> bool {
        let (name, parent) = self.dentry.name_and_parent();
        parent.is_none() && name != b"/"
    }

    /// The topmost of what is mounted here, or the place itself.
    pub fn cross_mounts(mut self) -> PathRef {
        while self.dentry.is_mountpoint() {
            let Some(ns) = self.mount.namespace() else { break };
            let Some(top) = ns.mounted_on(&self.mount, &self.dentry).and_then(|m| m.root_path().ok()) else { break };
            self = top;
        }
        self
    }
}

impl std::fmt::Debug for PathRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PathRef({:?}, {:?})", self.mount, self.inode)
    }
}

/// How to walk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lookup {
    /// Follow a symbolic link in the last component.
    pub follow: bool,
    /// The last component must be a directory.
    pub directory: bool,
    /// An empty path means the starting place (AT_EMPTY_PATH).
    pub empty: bool,
    /// `RESOLVE_*` of openat2(2).
    pub resolve: u64,
}

impl Lookup {
    /// Follow a symbolic link at the end: what most calls do.
    pub const FOLLOW: Lookup = Lookup { follow: true, directory: false, empty: false, resolve: 0 };
    /// Do not: lstat, unlink, rename.
    pub const NOFOLLOW: Lookup = Lookup { follow: false, directory: false, empty: false, resolve: 0 };
    /// A directory: chdir, chroot.
    pub const DIRECTORY: Lookup = Lookup { follow: true, directory: true, empty: false, resolve: 0 };
}

/// `RESOLVE_*` of openat2(2).
#[allow(missing_docs)]
pub mod resolve {
    pub const NO_XDEV: u64 = 0x01;
    pub const NO_MAGICLINKS: u64 = 0x02;
    pub const NO_SYMLINKS: u64 = 0x04;
    pub const BENEATH: u64 = 0x08;
    pub const IN_ROOT: u64 = 0x10;
    pub const CACHED: u64 = 0x20;
    pub const ALL: u64 = 0x3f;
}

/// Symbolic links followed in one walk (`MAXSYMLINKS`).
const MAX_LINKS: u32 = 40;
/// Names asked for at once on a miss.
const LOOKAHEAD: usize = 16;

/// Who walks.
pub struct Walker<'a> {
    /// Where absolute names start, and what `..` does not leave.
    pub root: PathRef,
    /// With whose rights.
    pub cred: Arc<Credentials>,
    /// What new files do not get of their mode.
    pub umask: u32,
    /// For magic links; without a task they cannot be followed.
    pub task: Option<&'a Task>,
}

/// The last component of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Last {
    /// A name.
    Name(FsString),
    /// `.`
    Dot,
    /// `..`
    DotDot,
    /// Nothing: the path was `/`, or led to a place by a magic link.
    Root,
}

/// The directory that a path's last component is in.
#[derive(Debug)]
pub struct Parent {
    /// The directory.
    pub dir: PathRef,
    /// The name in it.
    pub last: Last,
    /// Whether slashes follow the name: it must be a directory.
    pub slash: bool,
}

impl Parent {
    /// The name, with the errno that the call has for `.`, `..` and `/`.
    pub fn name(&self, otherwise: Errno) -> Result<&FsStr> {
        match &self.last {
            Last::Name(n) => Ok(n),
            _ => Err(otherwise.into()),
        }
    }
}

/// A part of a path not yet walked.
struct Segment {
    text: FsString,
    at: usize,
}

impl Segment {
    /// The next component and whether a slash follows it.
    fn next(&mut self) -> Option<(&FsStr, bool)> {
        while self.text.get(self.at) == Some(&b'/') {
            self.at += 1;
        }
        let start = self.at;
        let rest = self.text.get(start..)?;
        if rest.is_empty() {
            return None;
        }
        let len = rest.iter().position(|&b| b == b'/').unwrap_or(rest.len());
        self.at += len;
        let slash = self.at < self.text.len();
        Some((self.text.get(start..self.at)?, slash))
    }

    fn is_done(&self) -> bool {
        self.text.get(self.at..).is_none_or(|r| r.iter().all(|&b| b == b'/'))
    }

    /// The plain names that come next, up to the first `.` or `..`.
    fn ahead(&self) -> impl Iterator<Item = &FsStr> {
        self.text
            .get(self.at..)
            .unwrap_or_default()
            .split(|&b| b == b'/')
            .filter(|n| !n.is_empty())
            .take_while(|n| *n != b"." && *n != b".." && n.len() <= NAME_MAX)
    }
}

/// A walk under way: everything but the last component is done by [`to_last`](Walk::to_last).
pub struct Walk<'w, 'a> {
    walker: &'w Walker<'a>,
    /// What `..` does not leave in this walk.
    root: PathRef,
    start: PathRef,
    /// Where it has come to.
    pub at: PathRef,
    segments: Vec<Segment>,
    links: u32,
    how: Lookup,
}

impl<'a> Walker<'a> {
    /// A task, with its credentials and root as they are now.
    pub fn of(task: &'a Task) -> Walker<'a> {
        let fs = task.fs();
        Walker { root: fs.root(), cred: task.cred(), umask: fs.umask(), task: Some(task) }
    }

    /// The sentry itself: every right, no magic links.
    pub fn kernel(root: PathRef) -> Walker<'static> {
        Walker { root, cred: Arc::new(Credentials::root()), umask: 0, task: None }
    }

    /// The place that `path` names, from `start` if it is relative.
    pub fn walk(&self, start: &PathRef, path: &FsStr, how: Lookup) -> Result<PathRef> {
        if path.is_empty() {
            if !how.empty {
                bail!(ENOENT, "empty path");
            }
            if how.directory && !start.inode.is_dir() {
                bail!(ENOTDIR);
            }
            return Ok(start.clone());
        }
        let mut walk = self.begin(start, path, how)?;
        loop {
            let (last, slash) = walk.to_last()?;
            let follow = how.follow || slash;
            if !walk.step_last(&last, follow)? {
                continue;
            }
            if (slash || how.directory) && !walk.at.inode.is_dir() {
                bail!(ENOTDIR);
            }
            return Ok(walk.at);
        }
    }

    /// The directory of the last component, which need not exist.
    pub fn parent(&self, start: &PathRef, path: &FsStr, how: Lookup) -> Result<Parent> {
        let mut walk = self.begin(start, path, how)?;
        let (last, slash) = walk.to_last()?;
        Ok(Parent { dir: walk.at, last, slash })
    }

    /// Begins a walk.
    pub fn begin<'w>(&'w self, start: &PathRef, path: &FsStr, how: Lookup) -> Result<Walk<'w, 'a>> {
        if path.is_empty() {
            bail!(ENOENT, "empty path");
        }
        if path.len() >= super::PATH_MAX {
            bail!(ENAMETOOLONG);
        }
        let root = if how.resolve & resolve::IN_ROOT != 0 { start.clone() } else { self.root.clone() };
        let at = if path.starts_with(b"/") {
            if how.resolve & resolve::BENEATH != 0 {
                bail!(EXDEV, "absolute path");
            }
            root.clone()
        } else {
            start.clone()
        };
        if how.resolve & resolve::NO_XDEV != 0 && path.starts_with(b"/") && !Arc::ptr_eq(&at.mount, &start.mount) {
            bail!(EXDEV, "root is on another mount");
        }
        let segments = vec![Segment { text: path.to_vec(), at: 0 }];
        Ok(Walk { walker: self, root, start: start.clone(), at, segments, links: 0, how })
    }
}

impl Walk<'_, '_> {
    fn has(&self, flag: u64) -> bool {
        self.how.resolve & flag != 0
    }

    /// Walks all but the last component; returns that, and whether slashes follow it.
    pub fn to_last(&mut self) -> Result<(Last, bool)> {
        loop {
            let Some(segment) = self.segments.last_mut() else { return Ok((Last::Root, true)) };
            let Some((name, slash)) = segment.next() else {
                self.segments.pop();
                continue;
            };
            let name = name.to_vec();
            let is_last = self.segments.iter().all(Segment::is_done);
            // The rest of an outer path is slashes only: the link's target must be a directory.
            let slash = slash || self.segments.iter().rev().skip(1).any(|s| s.at < s.text.len());
            if !self.at.inode.is_dir() {
                bail!(ENOTDIR);
            }
            perm::check(&self.at.inode, &self.walker.cred, perm::EXEC)?;
            let last = match &name[..] {
                b"." => Last::Dot,
                b".." => Last::DotDot,
                n if n.len() > NAME_MAX => bail!(ENAMETOOLONG),
                _ => Last::Name(name),
            };
            if is_last {
                return Ok((last, slash));
            }
            self.step(&last, true)?;
        }
    }

    /// Takes the last component too. False if it was a symbolic link that is followed: go on with [`to_last`](Self::to_last).
    pub fn step_last(&mut self, last: &Last, follow: bool) -> Result<bool> {
        let links = self.links;
        self.step(last, follow)?;
        Ok(self.links == links || self.segments.is_empty())
    }

    fn step(&mut self, last: &Last, follow: bool) -> Result {
        match last {
            Last::Root | Last::Dot => Ok(()),
            Last::DotDot => self.up(),
            Last::Name(name) => {
                let trailing = self.segments.iter().all(Segment::is_done);
                let next = self.child(name)?;
                self.enter(next, follow, trailing)
            }
        }
    }

    /// Goes to a child, over mounts and, if `follow`, symbolic links.
    pub fn enter(&mut self, child: PathRef, follow: bool, trailing: bool) -> Result {
        let top = child.cross_mounts();
        if self.has(resolve::NO_XDEV) && !Arc::ptr_eq(&top.mount, &self.at.mount) {
            bail!(EXDEV, "crosses a mount");
        }
        if top.inode.kind == FileType::Symlink && follow {
            return self.follow(&top, trailing);
        }
        self.at = top;
        Ok(())
    }

    fn up(&mut self) -> Result {
        let beneath = self.has(resolve::BENEATH);
        loop {
            if self.at.same(&self.root) || beneath && self.at.same(&self.start) {
                if beneath {
                    bail!(EXDEV, "leaves the starting directory");
                }
                return Ok(());
            }
            if !self.at.is_mount_root() {
                break;
            }
            let Some((mount, dentry)) = self.at.mount.namespace().and_then(|ns| ns.place_of(&self.at.mount)) else {
                return Ok(());
            };
            if self.has(resolve::NO_XDEV) {
                bail!(EXDEV, "crosses a mount");
            }
            let Some(inode) = dentry.inode() else { bail!(ENOENT) };
            self.at = PathRef { mount, dentry, inode };
        }
        let Some(dentry) = self.at.dentry.parent() else { return Ok(()) };
        let Some(inode) = dentry.inode() else { bail!(ENOENT) };
        let up = PathRef { mount: self.at.mount.clone(), dentry, inode }.cross_mounts();
        if self.has(resolve::NO_XDEV) && !Arc::ptr_eq(&up.mount, &self.at.mount) {
            bail!(EXDEV, "crosses a mount");
        }
        self.at = up;
        Ok(())
    }

    /// Follows a symbolic link that is in the directory `self.at`.
    fn follow(&mut self, link: &PathRef, trailing: bool) -> Result {
        self.links += 1;
        if self.links > MAX_LINKS || self.has(resolve::NO_SYMLINKS) {
            bail!(ELOOP);
        }
        if link.mount.flags().contains(MountFlags::NOSYMFOLLOW) {
            bail!(ELOOP, "nosymfollow");
        }
        if trailing {
            perm::may_follow_link(&self.at.inode, &link.inode, &self.walker.cred)?;
        }
        if let Some(task) = self.walker.task {
            if let Some(place) = link.inode.ops.follow_magic(&link.inode, task) {
                if self.has(resolve::NO_MAGICLINKS) {
                    bail!(ELOOP, "magic link");
                }
                let place = place?;
                if self.has(resolve::BENEATH | resolve::IN_ROOT) {
                    bail!(EXDEV, "magic link");
                }
                if self.has(resolve::NO_XDEV) && !Arc::ptr_eq(&place.mount, &self.at.mount) {
                    bail!(EXDEV, "magic link to another mount");
                }
                self.at = place;
                self.segments.retain(|s| !s.is_done());
                return Ok(());
            }
        }
        let target = link.inode.ops.readlink(&link.inode)?;
        if target.is_empty() {
            bail!(ENOENT, "empty symbolic link");
        }
        if target.starts_with(b"/") {
            if self.has(resolve::BENEATH) {
                bail!(EXDEV, "absolute symbolic link");
            }
            if self.has(resolve::NO_XDEV) && !Arc::ptr_eq(&self.root.mount, &self.at.mount) {
                bail!(EXDEV, "crosses a mount");
            }
            self.at = self.root.clone();
        }
        if target.iter().all(|&b| b == b'/') {
            self.segments.retain(|s| !s.is_done());
            return Ok(());
        }
        self.segments.push(Segment { text: target, at: 0 });
        Ok(())
    }

    /// The child of this name in the directory `self.at`, mounts on it not crossed. `ENOENT` if there is none.
    pub fn child(&self, name: &FsStr) -> Result<PathRef> {
        if let Some(dentry) = cached(&self.at.dentry, &self.at.inode, name) {
            return match dentry.inode() {
                Some(inode) => Ok(PathRef { mount: self.at.mount.clone(), dentry, inode }),
                None => bail!(ENOENT),
            };
        }
        let ahead: Vec<&FsStr> = match self.segments.last() {
            Some(s) => s.ahead().take(LOOKAHEAD - 1).collect(),
            None => Vec::new(),
        };
        let dentry = lookup(&self.at.dentry, &self.at.inode, name, &ahead)?;
        match dentry.inode() {
            Some(inode) => Ok(PathRef { mount: self.at.mount.clone(), dentry, inode }),
            None => bail!(ENOENT),
        }
    }
}

/// Finds a name, in the cache or by asking the file system; a negative dentry if it is not there. `ahead`: names that are likely
/// to be asked for next, each in the one before.
pub(super) fn lookup(dir: &Arc<Dentry>, inode: &Arc<Inode>, name: &FsStr, ahead: &[&FsStr]) -> Result<Arc<Dentry>> {
    let sb = &inode.sb;
    let caches = dentry::caches_names(inode);
    let mut names = vec![name];
    let mark = if caches { sb.change_mark() } else { None };
    if mark.is_some() {
        names.extend_from_slice(ahead);
    }
    let guard = inode.lock_dir();
    if let Some(d) = cached(dir, inode, name) {
        return Ok(d);
    }
    let mut found = inode.ops.lookup_path(inode, &names).into_iter();
    let first = match found.next() {
        Some(Ok(i)) => Some(i),
        Some(Err(e)) if e.is(Errno::ENOENT) => None,
        Some(Err(e)) => return Err(e),
        None => bail!(EIO, "file system found nothing at all"),
    };
    let (first, result) = enter_into_cache(dir, name, first, caches);
    drop(guard);
    // What was found beyond enters the cache only if nothing changed meanwhile: those directories were not locked.
    let mut parent = first;
    for (name, next) in names.iter().skip(1).zip(found) {
        let (Some(p), Some(mark)) = (parent, mark) else { break };
        let next = match next {
            Ok(i) => Some(i),
            Err(e) if e.is(Errno::ENOENT) => None,
            Err(_) => break,
        };
        let Some(dir) = p.inode() else { break };
        if !dir.is_dir() || p.is_mountpoint() {
            break;
        }
        let _guard = dir.lock_dir();
        if !sb.unchanged_since(mark) {
            break;
        }
        if p.child(name).is_some() {
            break;
        }
        parent = enter_into_cache(&p, name, next, true).0;
    }
    Ok(result)
}

/// Finds a name in a directory that is locked; a negative dentry if it is not there.
pub(super) fn lookup_locked(dir: &Arc<Dentry>, inode: &Arc<Inode>, name: &FsStr) -> Result<Arc<Dentry>> {
    if name.len() > NAME_MAX {
        bail!(ENAMETOOLONG);
    }
    if let Some(d) = cached(dir, inode, name) {
        return Ok(d);
    }
    let found = match inode.ops.lookup(inode, name) {
        Ok(i) => Some(i),
        // Proc keeps no names that are not there: making one fails before it is asked whether that is allowed.
        Err(e) if e.is(Errno::ENOENT) && inode.sb.fs_name != "proc" => None,
        Err(e) => return Err(e),
    };
    Ok(enter_into_cache(dir, name, found, dentry::caches_names(inode)).1)
}

/// The dentry for what a lookup found, and the same if it is positive. The directory is locked.
pub(super) fn enter_into_cache(
    dir: &Arc<Dentry>,
    name: &FsStr,
    found: Option<Arc<Inode>>,
    caches: bool,
) -> (Option<Arc<Dentry>>, Arc<Dentry>) {
    let positive = found.is_some();
    let d = match (caches, found) {
        (true, found) => match dir.inode() {
            Some(i) => dir.add_child(name, found, &i.sb.dcache),
            None => Dentry::negative(dir, name),
        },
        (false, Some(inode)) => Dentry::unhashed(dir, name, inode),
        (false, None) => Dentry::negative(dir, name),
    };
    (positive.then(|| d.clone()), d)
}

/// A name in the cache that still holds.
fn cached(dir: &Arc<Dentry>, inode: &Arc<Inode>, name: &FsStr) -> Option<Arc<Dentry>> {
    if !dentry::caches_names(inode) {
        // Only the way to something that is mounted stays.
        return dir.child(name).filter(|d| d.is_pinned());
    }
    let d = dir.child(name)?;
    if inode.sb.flags.contains(super::SbFlags::REVALIDATE) && !d.is_mountpoint() && !inode.ops.revalidate(inode, name, d.inode().as_ref()) {
        dir.drop_child(&d, false);
        return None;
    }
    inode.sb.dcache.touch(&d);
    Some(d)
}
