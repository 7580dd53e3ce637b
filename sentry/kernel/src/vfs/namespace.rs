//! Mount namespaces: the tree of mounts that a group of tasks sees.

use super::{Dentry, Mount, PathRef, Propagation};
use abi::{Result, bail, poll::PollEvents};
use std::collections::{BTreeMap, HashMap};
use std::sync::{
    Arc, Weak,
    atomic::{AtomicU64, Ordering},
};
use sync::{Rank, RwLock, WaitQueue};

/// The tree of mounts that a group of tasks sees.
pub struct MountNamespace {
    me: Weak<MountNamespace>,
    tree: RwLock<Tree>,
    /// Counts changes, for poll(2) of /proc/PID/mounts.
    changes: AtomicU64,
    /// Notified with PRI and ERR at each change.
    pub queue: WaitQueue,
}

/// Mounts that a namespace may hold (`fs.mount-max`).
const MOUNTS_MAX: usize = 100_000;

#[derive(Default)]
struct Tree {
    root: u32,
    /// By mount id.
    nodes: BTreeMap<u32, Node>,
    /// What is mounted on a dentry of a mount.
    at: HashMap<(u32, usize), u32>,
}

struct Node {
    mount: Arc<Mount>,
    /// Parent mount and mount point; `None` for the root.
    place: Option<(u32, Arc<Dentry>)>,
}

fn key(mount: u32, dentry: &Arc<Dentry>) -> (u32, usize) {
    (mount, Arc::as_ptr(dentry) as usize)
}

impl Tree {
    /// A mount and all below it, parents first.
    fn subtree(&self, id: u32) -> Vec<u32> {
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for (&child, node) in &self.nodes {
            if let Some((parent, _)) = &node.place {
                children.entry(*parent).or_default().push(child);
            }
        }
        let mut all = vec![id];
        let mut i = 0;
        while let Some(m) = all.get(i) {
            all.extend(children.remove(m).unwrap_or_default());
            i += 1;
        }
        all
    }

    /// Puts a mount on a mount point, which the caller has [pinned](Dentry::pin).
    fn attach(&mut self, mount: Arc<Mount>, parent: u32, point: Arc<Dentry>) {
        point.add_mounts(1);
        self.at.insert(key(parent, &point), mount.id);
        self.nodes.insert(mount.id, Node { mount, place: Some((parent, point)) });
    }

    fn detach(&mut self, id: u32) -> Option<Node> {
        let node = self.nodes.remove(&id)?;
        if let Some((parent, point)) = &node.place {
            point.add_mounts(-1);
            self.at.remove(&key(*parent, point));
        }
        Some(node)
    }
}

impl MountNamespace {
    /// A namespace with one mount, its root.
    pub fn new(root: Arc<Mount>) -> Arc<MountNamespace> {
        let ns = Arc::new_cyclic(|me| MountNamespace {
            me: me.clone(),
            // Names of places are told under many locks, so nothing is locked under this one.
            tree: RwLock::new(Rank::Leaf, Tree::default()),
            changes: AtomicU64::new(0),
            queue: WaitQueue::new(),
        });
        root.set_namespace(&ns.me);
        let mut tree = ns.tree.write();
        tree.root = root.id;
        tree.nodes.insert(root.id, Node { mount: root, place: None });
        drop(tree);
        ns
    }

    /// The root of the whole tree, with whatever is mounted over it.
    pub fn root(&self) -> Result<PathRef> {
        let root = {
            let tree = self.tree.read();
            tree.nodes.get(&tree.root).map(|n| n.mount.clone())
        };
        let Some(root) = root else { bail!(ENOENT, "namespace is empty") };
        Ok(self.cross_down(root.root_path()?))
    }

    /// What is mounted on this very dentry of that mount.
    pub fn mounted_on(&self, mount: &Mount, dentry: &Arc<Dentry>) -> Option<Arc<Mount>> {
        let tree = self.tree.read();
        let id = tree.at.get(&key(mount.id, dentry))?;
        tree.nodes.get(id).map(|n| n.mount.clone())
    }

    /// Parent mount and mount point.
    pub fn place_of(&self, mount: &Mount) -> Option<(Arc<Mount>, Arc<Dentry>)> {
        let tree = self.tree.read();
        let (parent, point) = tree.nodes.get(&mount.id)?.place.as_ref()?;
        Some((tree.nodes.get(parent)?.mount.clone(), point.clone()))
    }

    /// Follows mounts on this place down to the topmost.
    fn cross_down(&self, mut at: PathRef) -> PathRef {
        while at.dentry.is_mountpoint() {
            let Some(next) = self.mounted_on(&at.mount, &at.dentry).and_then(|m| m.root_path().ok()) else { break };
            at = next;
        }
        at
    }

    /// Whether the mount is in this tree.
    pub fn contains(&self, mount: &Mount) -> bool {
        self.tree.read().nodes.get(&mount.id).is_some_and(|n| std::ptr::eq(&*n.mount, mount))
    }

    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.queue.notify(PollEvents::PRI | PollEvents::ERR);
    }

    /// How often the tree has changed.
    pub fn change_count(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Puts a mount at a place, over what is mounted there.
    pub fn attach(&self, mount: Arc<Mount>, at: &PathRef) -> Result {
        self.attach_tree(vec![(mount, None)], at)
    }

    /// Puts a copied tree (see [`copy_tree`](Self::copy_tree)) at a place.
    pub fn attach_tree(&self, mounts: Vec<(Arc<Mount>, Option<(usize, Arc<Dentry>)>)>, at: &PathRef) -> Result {
        let at = self.cross_down(at.clone());
        if at.dentry.is_unlinked() {
            bail!(ENOENT, "mount point was removed");
        }
        let ids: Vec<u32> = mounts.iter().map(|m| m.0.id).collect();
        at.dentry.pin();
        for (_, point) in mounts.iter().filter_map(|m| m.1.as_ref()) {
            point.pin();
        }
        let mut tree = self.tree.write();
        if !tree.nodes.contains_key(&at.mount.id) {
            bail!(EINVAL, "not in this namespace");
        }
        if tree.nodes.len() + mounts.len() > MOUNTS_MAX {
            bail!(ENOSPC, "too many mounts");
        }
        for (mount, place) in mounts {
            mount.set_namespace(&self.me);
            match place {
                None => tree.attach(mount, at.mount.id, at.dentry.clone()),
                Some((parent, point)) => {
                    if let Some(&parent) = ids.get(parent) {
                        tree.attach(mount, parent, point);
                    }
                }
            }
        }
        drop(tree);
        self.changed();
        Ok(())
    }

    /// Copies of the mount at `at` and, if `recursive`, of those below it: each with the index of its parent in the list.
    pub fn copy_tree(&self, at: &PathRef, recursive: bool) -> Vec<(Arc<Mount>, Option<(usize, Arc<Dentry>)>)> {
        let mut list = vec![(Mount::bind(at), None)];
        if !recursive {
            return list;
        }
        let below: Vec<_> = {
            let tree = self.tree.read();
            let nodes = tree.subtree(at.mount.id).into_iter().skip(1).filter_map(|id| tree.nodes.get(&id));
            nodes.filter_map(|n| Some((n.mount.clone(), n.place.clone()?))).collect()
        };
        // Where the copy of each mount stands in the list. What hangs on a mount that is left out is left out too.
        let mut copies = HashMap::from([(at.mount.id, 0)]);
        for (mount, (parent, point)) in below {
            let Some(&index) = copies.get(&parent) else { continue };
            let outside = index == 0 && !at.dentry.is_ancestor_of(&point);
            if outside || mount.propagation() == Propagation::Unbindable {
                continue;
            }
            let Ok(whole) = mount.root_path() else { continue };
            copies.insert(mount.id, list.len());
            list.push((Mount::bind(&whole), Some((index, point))));
        }
        list
    }

    /// Takes a mount out of the tree. `detach`: with all below it, whoever uses it (MNT_DETACH); otherwise `EBUSY` if it is
    /// used by more than `held` references besides the tree's.
    pub fn umount(&self, mount: &Arc<Mount>, detach: bool, held: usize) -> Result {
        let mut gone = Vec::new();
        {
            let mut tree = self.tree.write();
            match tree.nodes.get(&mount.id) {
                None => bail!(EINVAL, "not in this namespace"),
                Some(n) if n.place.is_none() => bail!(EBUSY, "the root of the namespace"),
                Some(_) => {}
            }
            let all = tree.subtree(mount.id);
            if !detach && (all.len() > 1 || Arc::strong_count(mount) > held + 1) {
                bail!(EBUSY, "mount is in use");
            }
            for id in all.into_iter().rev() {
                gone.extend(tree.detach(id));
            }
        }
        // The last reference may end a file system.
        drop(gone);
        self.changed();
        Ok(())
    }

    /// mount(2) with MS_MOVE: takes the mount to another place, with all below it.
    pub fn move_mount(&self, mount: &Arc<Mount>, to: &PathRef) -> Result {
        let to = self.cross_down(to.clone());
        to.dentry.pin();
        let old = {
            let mut tree = self.tree.write();
            match tree.nodes.get(&mount.id) {
                Some(Node { place: Some((parent, _)), .. }) => {
                    if tree.nodes.get(parent).is_some_and(|p| p.mount.propagation() == Propagation::Shared) {
                        bail!(EINVAL, "parent mount is shared");
                    }
                }
                _ => bail!(EINVAL, "not a mount that can be moved"),
            }
            if tree.subtree(mount.id).contains(&to.mount.id) {
                bail!(ELOOP, "into itself");
            }
            if !tree.nodes.contains_key(&to.mount.id) {
                bail!(EINVAL, "not in this namespace");
            }
            let old = tree.detach(mount.id);
            tree.attach(mount.clone(), to.mount.id, to.dentry.clone());
            old
        };
        drop(old);
        self.changed();
        Ok(())
    }

    /// pivot_root(2): `new_root` becomes the root, the old one goes to `put_old`. Returns the old root's place for the
    /// caller to move root and working directories of tasks that are there.
    pub fn pivot_root(&self, root: &PathRef, new_root: &PathRef, put_old: &PathRef) -> Result {
        if !Arc::ptr_eq(&root.dentry, &root.mount.root) || !Arc::ptr_eq(&new_root.dentry, &new_root.mount.root) {
            bail!(EINVAL, "not a mount point");
        }
        if Arc::ptr_eq(&new_root.mount, &root.mount) || Arc::ptr_eq(&put_old.mount, &root.mount) && !self.below(put_old, new_root) {
            bail!(EBUSY, "new_root and put_old must be on other mounts than the root");
        }
        if !self.below(put_old, new_root) {
            bail!(EINVAL, "put_old is not underneath new_root");
        }
        if !self.below(new_root, root) {
            bail!(EINVAL, "new_root is not reachable from the root");
        }
        put_old.dentry.pin();
        let old = {
            let mut tree = self.tree.write();
            let Some(Node { place: Some(_), .. }) = tree.nodes.get(&new_root.mount.id) else {
                bail!(EINVAL, "new_root is not mounted");
            };
            let root_place = match tree.nodes.get(&root.mount.id) {
                Some(n) => n.place.clone(),
                None => bail!(EINVAL, "root is not in this namespace"),
            };
            let a = tree.detach(new_root.mount.id);
            let b = tree.detach(root.mount.id);
            match root_place {
                Some((parent, point)) => tree.attach(new_root.mount.clone(), parent, point),
                None => {
                    tree.root = new_root.mount.id;
                    tree.nodes.insert(new_root.mount.id, Node { mount: new_root.mount.clone(), place: None });
                }
            }
            tree.attach(root.mount.clone(), put_old.mount.id, put_old.dentry.clone());
            (a, b)
        };
        drop(old);
        self.changed();
        Ok(())
    }

    /// Whether `path` is at or below `top`, over mounts.
    pub fn below(&self, path: &PathRef, top: &PathRef) -> bool {
        let (mut mount, mut dentry) = (path.mount.clone(), path.dentry.clone());
        loop {
            if Arc::ptr_eq(&mount, &top.mount) {
                return top.dentry.is_ancestor_of(&dentry);
            }
            match self.place_of(&mount) {
                Some(up) => (mount, dentry) = up,
                None => return false,
            }
        }
    }

    /// unshare(2) and clone(2) with CLONE_NEWNS: a copy of the whole tree, and the way to translate places into it.
    pub fn copy(&self) -> Result<(Arc<MountNamespace>, HashMap<u32, Arc<Mount>>)> {
        let (root, all) = {
            let tree = self.tree.read();
            let nodes: Vec<_> = tree.subtree(tree.root).into_iter().filter_map(|id| tree.nodes.get(&id)).collect();
            let list: Vec<_> = nodes.iter().map(|n| (n.mount.clone(), n.place.clone())).collect();
            (tree.root, list)
        };
        let mut new: HashMap<u32, Arc<Mount>> = HashMap::new();
        for (m, _) in &all {
            let Some(inode) = m.root.inode() else { continue };
            new.insert(m.id, Mount::bind(&PathRef { mount: m.clone(), dentry: m.root.clone(), inode }));
        }
        let Some(new_root) = new.get(&root) else { bail!(ENOENT, "namespace is empty") };
        let ns = MountNamespace::new(new_root.clone());
        let mut tree = ns.tree.write();
        for (m, place) in all {
            if let (Some(mount), Some((parent, point))) = (new.get(&m.id), place) {
                if let Some(parent) = new.get(&parent) {
                    mount.set_namespace(&ns.me);
                    tree.attach(mount.clone(), parent.id, point);
                }
            }
        }
        drop(tree);
        Ok((ns, new))
    }

    /// All mounts below the root `path`, parents first: the mount, its parent's id, and its mount point.
    pub(super) fn list(&self) -> Vec<(Arc<Mount>, u32, Option<Arc<Dentry>>)> {
        let tree = self.tree.read();
        tree.subtree(tree.root)
            .into_iter()
            .filter_map(|id| tree.nodes.get(&id))
            .map(|n| {
                let (parent, point) = n.place.clone().map_or((n.mount.id, None), |(p, d)| (p, Some(d)));
                (n.mount.clone(), parent, point)
            })
            .collect()
    }

    /// All mounts at or below one, for recursive changes of flags.
    pub fn mounts_under(&self, mount: &Mount) -> Vec<Arc<Mount>> {
        let tree = self.tree.read();
        tree.subtree(mount.id).into_iter().filter_map(|id| tree.nodes.get(&id)).map(|n| n.mount.clone()).collect()
    }
}
