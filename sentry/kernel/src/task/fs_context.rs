//! [`FsContext`]: where names start from, and the umask (`struct fs_struct`). Shared under CLONE_FS.

use crate::vfs::{MountNamespace, PathRef};
use std::sync::Arc;
use sync::{Mutex, Rank};

/// Root, working directory and umask.
pub struct FsContext {
    state: Mutex<State>,
}

#[derive(Clone)]
struct State {
    root: PathRef,
    cwd: PathRef,
    umask: u32,
    /// Keeps the tree of mounts that the root is in: mounts themselves know it weakly.
    namespace: Option<Arc<MountNamespace>>,
}

impl FsContext {
    /// A context of its own.
    #[must_use]
    pub fn new(root: PathRef, cwd: PathRef, umask: u32) -> Arc<FsContext> {
        let namespace = root.mount.namespace();
        Arc::new(FsContext { state: Mutex::new(Rank::TaskState, State { root, cwd, umask: umask & 0o777, namespace }) })
    }

    /// A copy: fork(2) without CLONE_FS, unshare(2).
    #[must_use]
    pub fn duplicate(&self) -> Arc<FsContext> {
        Arc::new(FsContext { state: Mutex::new(Rank::TaskState, self.state.lock().clone()) })
    }

    /// Where absolute names start.
    #[must_use]
    pub fn root(&self) -> PathRef {
        self.state.lock().root.clone()
    }

    /// Where relative names start.
    #[must_use]
    pub fn cwd(&self) -> PathRef {
        self.state.lock().cwd.clone()
    }

    /// chroot(2).
    pub fn set_root(&self, root: PathRef) {
        let namespace = root.mount.namespace();
        // The old place is dropped without the lock: it may be the last reference to a file system.
        let old = {
            let mut s = self.state.lock();
            let kept = namespace.and_then(|n| s.namespace.replace(n));
            (std::mem::replace(&mut s.root, root), kept)
        };
        drop(old);
    }

    /// chdir(2).
    pub fn set_cwd(&self, cwd: PathRef) {
        let old = std::mem::replace(&mut self.state.lock().cwd, cwd);
        drop(old);
    }

    /// The mode bits that new files do not get.
    #[must_use]
    pub fn umask(&self) -> u32 {
        self.state.lock().umask
    }

    /// umask(2): returns the old one.
    pub fn set_umask(&self, umask: u32) -> u32 {
        std::mem::replace(&mut self.state.lock().umask, umask & 0o777)
    }
}
