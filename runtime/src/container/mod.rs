//! Containers: their state on disk, and what becomes of them.
//!
//! Each container has a directory `STATE_ROOT/ID`:
//!
//! * `state.json`: the [`Record`], replaced as a whole whenever it changes,
//! * `config.json`: the bundle's, as it was when the container was made,
//! * `control`: the socket on which its sentry listens; a container of a pod has none: its sentry is that of the pod's first container,
//! * `network.json`: what the interfaces of its network namespace had that are the sentry's now,
//! * `exec/PID`: one for each stand-in of a further process,
//! * `lock`: held locked while a verb changes the container's life.
//!
//! Nothing there says that a container runs: its stand-in lives, or does not, and its sentry tells what it is doing. So a crash
//! at any point leaves a container that is stopped, and can be deleted.

mod exec;
mod hooks;
mod launch;
mod network;
mod notify;
mod pod;
mod state;

pub use exec::Exec;
pub use hooks::{Moment, run as run_hooks};
pub use launch::{Launch, create, run, start_and_tell};
pub use state::{Lifecycle, ProcessId, Record, State};

use crate::cgroup::Cgroup;
use crate::cli::Settings;
use crate::client::Client;
use crate::exit::{Failure, Result, Status};
use control::{Event, Phase, Request};
use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a sentry may take to say what its container is doing.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a killed process may take to end.
const DEATH: Duration = Duration::from_secs(10);

/// A container's directory.
#[derive(Debug)]
pub struct Container {
    dir: PathBuf,
    root: PathBuf,
    /// What is known of it.
    pub record: Record,
    lock: Option<File>,
}

impl Container {
    /// Reserves a name under `root`, and locks it. Fails if there is a container of this name.
    pub fn create(root: &Path, record: Record, config: &[u8]) -> Result<Container> {
        check_id(&record.id)?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(root)
            .map_err(Failure::context(Status::State, format_args!("cannot make the state directory {}", root.display())))?;
        let _guard = lock_root(root)?;
        let dir = root.join(&record.id);
        let failed = |what: &'static str| Failure::context(Status::State, format!("{what} {}", dir.display()));
        match DirBuilder::new().mode(0o700).create(&dir) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => take_over(root, &record.id)?,
            other => other.map_err(failed("cannot make"))?,
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(dir.join("lock"))
            .map_err(failed("cannot make the lock in"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| in_use(&record.id))?;
        let container = Container { dir: dir.clone(), root: root.to_owned(), record, lock: Some(lock) };
        // First what the record is worth nothing without.
        container.write("config.json", config)?;
        DirBuilder::new().recursive(true).create(container.dir.join("exec")).map_err(failed("cannot make exec in"))?;
        container.save()?;
        Ok(container)
    }

    /// The container of this name.
    pub fn open(root: &Path, id: &str) -> Result<Container> {
        check_id(id)?;
        Container::read(root, id)?.ok_or_else(|| Failure::new(Status::NoContainer, format!("container {id:?} does not exist")))
    }

    /// As [`open`](Self::open); `None` if there is none, or if only the remains of one are left.
    fn read(root: &Path, id: &str) -> Result<Option<Container>> {
        let dir = root.join(id);
        let bytes = match std::fs::read(dir.join("state.json")) {
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            Err(error) => return Err(Failure::new(Status::State, format!("cannot read the state in {}: {error}", dir.display()))),
        };
        let record = serde_json::from_slice(&bytes).map_err(|error| {
            let what = format!("cannot understand {}: {error}; caisson delete --force removes it", dir.join("state.json").display());
            Failure::new(Status::State, what)
        })?;
        Ok(Some(Container { dir, root: root.to_owned(), record, lock: None }))
    }

    /// All containers under `root`, by name.
    pub fn list(root: &Path) -> Result<Vec<Container>> {
        let entries = match std::fs::read_dir(root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Failure::new(Status::State, format!("cannot list {}: {error}", root.display()))),
        };
        let mut names: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        Ok(names.iter().filter_map(|name| Container::read(root, name).ok().flatten()).collect())
    }

    /// Waits for the lock, and reads the record again.
    pub fn lock(&mut self) -> Result<()> {
        let gone = || Failure::new(Status::NoContainer, format!("container {:?} does not exist", self.record.id));
        let path = self.dir.join("lock");
        let lock = OpenOptions::new().write(true).open(&path).map_err(|_| gone())?;
        flock(&lock, FlockOperation::LockExclusive).map_err(Failure::internal("lock"))?;
        // It may have been deleted, and another one of the same name made, while we waited.
        let same = |a: &std::fs::Metadata, b: &std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        if !matches!((lock.metadata(), std::fs::metadata(&path)), (Ok(a), Ok(b)) if same(&a, &b)) {
            return Err(gone());
        }
        self.lock = Some(lock);
        self.reload()
    }

    /// Reads again what another process has written.
    pub fn reload(&mut self) -> Result<()> {
        let gone = || Failure::new(Status::NoContainer, format!("container {:?} does not exist", self.record.id));
        self.record = Container::read(&self.root, &self.record.id)?.ok_or_else(gone)?.record;
        Ok(())
    }

    /// Lets others go on.
    pub fn unlock(&mut self) {
        self.lock = None;
    }

    /// Writes the record; readers see the old or the new one, never half.
    pub fn save(&self) -> Result<()> {
        let text = serde_json::to_vec_pretty(&self.record).map_err(Failure::internal("cannot encode the state"))?;
        self.write("state.json", &text)
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let new = self.dir.join(format!("{name}.new"));
        let write = || -> std::io::Result<()> {
            OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?.write_all(content)?;
            std::fs::rename(&new, self.dir.join(name))
        };
        write().map_err(Failure::context(Status::State, format_args!("cannot write {name} in {}", self.dir.display())))
    }

    /// The state directory it is in.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The configuration it was made from.
    pub fn spec(&self) -> Result<oci_spec::runtime::Spec> {
        let path = self.dir.join("config.json");
        let bytes = std::fs::read(&path).map_err(Failure::context(Status::State, path.display()))?;
        crate::spec::parse(&bytes)
    }

    /// A connection to its sentry, about this container; `None` if that does not live.
    pub fn client(&self) -> Result<Option<Client>> {
        let Some(sandbox) = &self.record.sandbox else { return Client::connect(&self.dir) };
        let Some(client) = Client::connect(&self.root.join(sandbox))? else { return Ok(None) };
        match client.command(&Request::Select { id: self.record.id.clone() }, PATIENCE) {
            Ok(()) => Ok(Some(client)),
            // It has ended, or the sentry has.
            Err(failure) if matches!(failure.status, Status::NotRunning | Status::Refused) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Where it is in its life.
    pub fn status(&self) -> Lifecycle {
        let record = &self.record;
        match record.stand_in {
            Some(process) if process.lives() => {}
            Some(_) => return Lifecycle::Stopped,
            None => return if self.is_locked_by_others() { Lifecycle::Creating } else { Lifecycle::Stopped },
        }
        if !record.ready {
            return Lifecycle::Creating;
        }
        if record.cgroup.is_frozen() {
            return Lifecycle::Paused;
        }
        let told = match self.client() {
            Ok(Some(client)) => client.ask(&Request::Status, PATIENCE).ok(),
            _ => None,
        };
        match told {
            Some(Event::Status { phase: Phase::Created }) => Lifecycle::Created,
            Some(Event::Status { phase: Phase::Running }) => Lifecycle::Running,
            Some(Event::Status { phase: Phase::Paused }) => Lifecycle::Paused,
            // It has just ended, or is too busy to answer.
            _ if !record.stand_in.is_some_and(ProcessId::lives) => Lifecycle::Stopped,
            _ if record.started => Lifecycle::Running,
            _ => Lifecycle::Created,
        }
    }

    fn is_locked_by_others(&self) -> bool {
        if self.lock.is_some() {
            return false;
        }
        File::open(self.dir.join("lock")).is_ok_and(|lock| flock(&lock, FlockOperation::NonBlockingLockShared).is_err())
    }

    /// The state object now.
    pub fn state(&self) -> State {
        State::new(&self.record, self.status())
    }

    /// What its sentry kills in it for want of memory: how many processes, each time that there are more. It ends with the container.
    /// `None` where the host's control group keeps the limit alone: the sentry does so for single containers of a pod.
    pub fn kills(&self) -> Result<Option<impl Iterator<Item = u64> + Send + use<>>> {
        if self.record.sandbox.is_none() {
            return Ok(None);
        }
        let Some(client) = self.client()? else { return Ok(None) };
        let mut seen = 0;
        Ok(Some(std::iter::from_fn(move || {
            client.send(&Request::OutOfMemory { seen }, &[]).ok()?;
            match client.receive(None).ok()? {
                Event::OutOfMemory { kills } => kills.checked_sub(std::mem::replace(&mut seen, kills)).filter(|more| *more > 0),
                _ => None,
            }
        })))
    }

    /// Enters this process as a stand-in of a further process. The entry goes with the result.
    pub fn enter_stand_in(&self) -> Result<StandInEntry> {
        let pid = std::process::id().cast_signed();
        let path = self.dir.join("exec").join(pid.to_string());
        let process = ProcessId::of(pid).ok_or_else(|| Failure::new(Status::Internal, "/proc does not show this process"))?;
        std::fs::write(&path, process.start.to_string()).map_err(Failure::context(Status::State, path.display()))?;
        Ok(StandInEntry(path))
    }

    /// The stand-ins that live: the container's, and those of further processes.
    pub fn stand_ins(&self) -> Vec<i32> {
        let further = std::fs::read_dir(self.dir.join("exec")).into_iter().flatten().flatten().filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let start = std::fs::read_to_string(entry.path()).ok()?.parse().ok()?;
            Some(ProcessId { pid, start })
        });
        let mut all: Vec<i32> =
            self.record.stand_in.into_iter().chain(further).filter(|process| process.lives()).map(|process| process.pid).collect();
        all.sort_unstable();
        all
    }

    /// Whether its stand-in lives.
    pub fn stand_in_lives(&self) -> bool {
        self.record.stand_in.is_some_and(ProcessId::lives)
    }

    /// Ends the container, and waits until nothing of it lives.
    pub fn end(&self) -> Result<()> {
        if self.record.cgroup.exists() {
            self.record.cgroup.freeze(false)?;
        }
        let client = self.client().ok().flatten();
        if let Some(client) = &client
            && self.record.ready
        {
            // So that everybody is told how it ended, and in order. One that does not listen is ended all the same.
            let _ = client.command(&Request::Signal { sig: libc::SIGKILL, all: true }, PATIENCE);
            let deadline = Instant::now() + PATIENCE;
            while self.stand_in_lives() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        self.kill_stand_in()?;
        if let Some(client) = client {
            // A sentry of its own has ended when its end of the connection is closed; a pod's tells when nothing is left of the container.
            let _ = client.ask(&Request::Gone, PATIENCE);
            while self.record.sandbox.is_none() && client.receive(Some(PATIENCE)).is_ok() {}
        }
        Ok(())
    }

    /// Kills the stand-in, and with it the container, and waits for its end.
    pub fn kill_stand_in(&self) -> Result<()> {
        self.record.stand_in.map_or(Ok(()), kill_process)
    }

    /// Takes a container apart that has ended: hooks, control groups, directory. The caller has the lock.
    pub fn destroy(&self) -> Result<()> {
        self.give_network_back()?;
        if let Ok(spec) = self.spec() {
            run_hooks(&spec, Moment::Poststop, &State::new(&self.record, Lifecycle::Stopped))?;
        }
        self.record.cgroup.remove()?;
        self.remove()
    }

    /// Removes the directory.
    fn remove(&self) -> Result<()> {
        let _guard = lock_root(&self.root)?;
        remove_dir(&self.dir)
    }
}

/// A file that tells of a stand-in; removed when dropped.
#[derive(Debug)]
pub struct StandInEntry(PathBuf);

impl Drop for StandInEntry {
    fn drop(&mut self) {
        // It may be gone with the whole container.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// For the shim: [`Container::kills`] of the container with this name, if it is one of ours.
pub fn kills_of(root: &Path, id: &str) -> Option<shim::Kills> {
    // What another runtime keeps there is not understood, and says nothing.
    let kills = Container::open(root, id).and_then(|container| container.kills()).ok()??;
    Some(Box::new(kills))
}

fn in_use(id: &str) -> Failure {
    Failure::new(Status::IdInUse, format!("container with the ID {id} exists already; choose another ID"))
}

fn remove_dir(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Failure::new(Status::State, format!("cannot remove {}: {error}", dir.display())))
        }
        _ => Ok(()),
    }
}

/// Removes what a verb that was killed has left under this name; fails if it is a container.
fn take_over(root: &Path, id: &str) -> Result<()> {
    if let Ok(lock) = File::open(root.join(id).join("lock"))
        && flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err()
    {
        return Err(in_use(id));
    }
    match Container::read(root, id)? {
        Some(container) if container.record.ready => return Err(in_use(id)),
        Some(container) => {
            container.kill_stand_in()?;
            container.give_network_back()?;
            container.record.cgroup.remove()?;
        }
        None => {}
    }
    let dir = root.join(id);
    remove_dir(&dir)?;
    DirBuilder::new().mode(0o700).create(&dir).map_err(Failure::context(Status::State, format_args!("cannot make {}", dir.display())))
}

/// What `delete --force` removes where there is no container, or one whose record cannot be understood: the remains of it. True if there
/// were any.
pub fn remove_remains(settings: &Settings, id: &str) -> Result<bool> {
    check_id(id)?;
    let root = &settings.state_root;
    let dir = root.join(id);
    if !dir.is_dir() {
        return Ok(false);
    }
    let _guard = lock_root(root)?;
    match Container::read(root, id) {
        Ok(Some(_)) => return Ok(true),
        Ok(None) => {}
        Err(failure) => {
            tracing::warn!("{failure}");
            // The socket tells who made it, the configuration where it is.
            if let Some(stand_in) = Client::connect(&dir).ok().flatten().and_then(|client| client.stand_in()) {
                kill_process(stand_in)?;
            }
            let bytes = std::fs::read(dir.join("config.json")).unwrap_or_default();
            if let Ok(spec) = crate::spec::parse(&bytes) {
                Cgroup::place(&spec, id, settings)?.remove()?;
            }
        }
    }
    remove_dir(&dir)?;
    Ok(true)
}

/// Kills a process, and waits for its end.
fn kill_process(process: ProcessId) -> Result<()> {
    let deadline = Instant::now() + DEATH;
    while process.lives() {
        if Instant::now() > deadline {
            return Err(Failure::new(Status::Internal, format!("process {} does not end", process.pid)));
        }
        let pid = rustix::process::Pid::from_raw(process.pid);
        let open = pid.and_then(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok());
        if let Some(fd) = open
            && process.lives()
        {
            // It may just have ended by itself.
            let _ = rustix::process::pidfd_send_signal(&fd, rustix::process::Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Locks the state directory itself, while directories in it are made and removed.
fn lock_root(root: &Path) -> Result<File> {
    let dir = File::open(root).map_err(Failure::context(Status::State, format_args!("cannot open {}", root.display())))?;
    flock(&dir, FlockOperation::LockExclusive).map_err(Failure::context(Status::State, format_args!("cannot lock {}", root.display())))?;
    Ok(dir)
}

/// Letters, digits, `_`, `+`, `-` and `.`, as with runc.
fn check_id(id: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
    if id.is_empty() || id.len() > 255 || id == "." || id == ".." || !id.chars().all(allowed) {
        return Err(Failure::new(Status::BadId, format!("{id:?} is no container ID: use 1 to 255 letters, digits, '_', '+', '-' and '.'")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str) -> Record {
        Record {
            id: id.into(),
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created: control::logging::timestamp(),
            owner: 0,
            annotations: Default::default(),
            stand_in: None,
            sandbox: None,
            network: None,
            cgroup: Default::default(),
            notify: false,
            limits: Default::default(),
            ready: false,
            started: false,
        }
    }

    #[test]
    fn an_id_is_taken_until_its_container_is_gone() {
        let root = std::env::temp_dir().join(format!("caisson-container-test-{}", std::process::id()));
        let mut first = Container::create(&root, record("one"), b"{}").unwrap();
        let again = Container::create(&root, record("one"), b"{}").unwrap_err();
        assert_eq!(again.status, Status::IdInUse);
        first.record.ready = true;
        first.save().unwrap();
        drop(first);
        let again = Container::create(&root, record("one"), b"{}").unwrap_err();
        assert_eq!(again.status, Status::IdInUse);
        let mut first = Container::open(&root, "one").unwrap();
        first.lock().unwrap();
        assert_eq!(first.status(), Lifecycle::Stopped);
        first.remove().unwrap();
        assert!(!root.join("one").exists());
        assert_eq!(Container::open(&root, "one").unwrap_err().status, Status::NoContainer);
        // What was killed while it made a container has no lock, and is taken over.
        drop(Container::create(&root, record("one"), b"{}").unwrap());
        drop(Container::create(&root, record("one"), b"{}").unwrap());
        std::fs::remove_file(root.join("one/state.json")).unwrap();
        assert!(Container::list(&root).unwrap().is_empty());
        let settings = crate::spec::test_settings(&root);
        assert!(remove_remains(&settings, "one").unwrap());
        assert!(!remove_remains(&settings, "one").unwrap());
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
