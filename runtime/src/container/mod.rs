//! The state of containers on disk.
//!
//! Each container has a directory `STATE_ROOT/ID` with `state.json` (the OCI state) and `lock`, which its monitor holds locked
//! for as long as the container lives: a directory whose lock nobody holds is a leftover of something that was killed, and is
//! taken over by the next container of that name.

mod state;

pub use state::{Lifecycle, State};

use crate::exit::{Failure, Result, Status};
use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A container's directory; removed when dropped.
#[derive(Debug)]
pub struct Container {
    dir: PathBuf,
    root: PathBuf,
    /// Locked as long as this, or a copy in a forked process, is open.
    _lock: File,
    state: State,
}

impl Container {
    /// Reserves `id` under `root`. Fails if a container of this name lives.
    pub fn create(root: &Path, id: &str, bundle: &Path) -> Result<Container> {
        check_id(id)?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(root)
            .map_err(Failure::context(Status::State, format_args!("cannot make the state directory {}", root.display())))?;
        let _guard = lock_root(root)?;
        let dir = root.join(id);
        let failed = |what: &'static str| Failure::context(Status::State, format!("{what} {}", dir.display()));
        match DirBuilder::new().mode(0o700).create(&dir) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            other => other.map_err(failed("cannot make"))?,
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(dir.join("lock"))
            .map_err(failed("cannot make the lock in"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            Failure::new(
                Status::IdInUse,
                format!("a container with the ID {id} exists already; choose another ID"),
            )
        })?;
        let state = State::new(id, bundle);
        let mut container = Container { dir, root: root.to_owned(), _lock: lock, state };
        container.save(Lifecycle::Creating, 0)?;
        Ok(container)
    }

    /// Writes the state with a new status; readers see the old or the new one, never half.
    pub fn save(&mut self, status: Lifecycle, pid: i32) -> Result<()> {
        self.state.status = status;
        self.state.pid = pid;
        let text = serde_json::to_vec_pretty(&self.state).map_err(Failure::internal("cannot encode the state"))?;
        let new = self.dir.join("state.json.new");
        let write = || -> std::io::Result<()> {
            File::create(&new)?.write_all(&text)?;
            std::fs::rename(&new, self.dir.join("state.json"))
        };
        write().map_err(Failure::context(
            Status::State,
            format_args!("cannot write the state in {}", self.dir.display()),
        ))
    }

    /// Removes the directory. What cannot be removed is logged, since there is nothing else to be done at a container's end.
    pub fn remove(&self) {
        let guard = lock_root(&self.root);
        if let Err(error) = std::fs::remove_dir_all(&self.dir)
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!("cannot remove {}: {error}", self.dir.display());
        }
        drop(guard);
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Locks the state directory itself, while directories in it are made and removed.
fn lock_root(root: &Path) -> Result<File> {
    let dir = File::open(root).map_err(Failure::context(Status::State, format_args!("cannot open {}", root.display())))?;
    flock(&dir, FlockOperation::LockExclusive)
        .map_err(Failure::context(Status::State, format_args!("cannot lock {}", root.display())))?;
    Ok(dir)
}

/// Letters, digits, `_`, `+`, `-` and `.`, as with runc.
fn check_id(id: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
    if id.is_empty() || id.len() > 255 || id == "." || id == ".." || !id.chars().all(allowed) {
        return Err(Failure::new(
            Status::BadId,
            format!("{id:?} is no container ID: use 1 to 255 letters, digits, '_', '+', '-' and '.'"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_taken_until_its_container_is_gone() {
        let root = std::env::temp_dir().join(format!("caisson-container-test-{}", std::process::id()));
        let first = Container::create(&root, "one", Path::new("/b")).unwrap();
        let again = Container::create(&root, "one", Path::new("/b")).unwrap_err();
        assert_eq!(again.status, Status::IdInUse);
        drop(first);
        assert!(!root.join("one").exists());
        // What a killed monitor leaves has no lock, and is taken over.
        std::fs::create_dir(root.join("one")).unwrap();
        std::fs::write(root.join("one/lock"), "").unwrap();
        drop(Container::create(&root, "one", Path::new("/b")).unwrap());
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn ids_are_file_names() {
        for good in ["a", "A-1_b+c.d", ".lock"] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", ":lock", "é", &"x".repeat(256)] {
            assert_eq!(check_id(bad).unwrap_err().status, Status::BadId, "{bad}");
        }
    }
}
