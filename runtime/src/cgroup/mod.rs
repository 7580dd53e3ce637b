//! Control groups: one for each container, in which its stand-in, gofer, sentry and all stubs live.
//!
//! Version 1 hierarchies, the version 2 one, and both side by side (*hybrid*) are the same here: a container has a directory in each
//! hierarchy that is mounted, and [`limits`] says which file of which controller takes which value. Directories are recorded before they
//! are made, so that whoever deletes the container finds them. With [`systemd`]'s driver, systemd makes those that it manages.

mod hierarchy;
mod limits;
mod stats;
mod systemd;

pub use limits::check;
pub use systemd::ANNOTATION as SYSTEMD_PROPERTY;

use crate::cli::Settings;
use crate::exit::{Failure, Result, Status};
use hierarchy::Hierarchy;
use limits::Setting;
use oci_spec::runtime::{LinuxResources, Spec};
use serde::{Deserialize, Serialize};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the freezer may take.
const FREEZING: Duration = Duration::from_millis(500);
/// How long processes that were killed may take to leave.
const LEAVING: Duration = Duration::from_secs(10);

/// A container's place in every hierarchy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    dirs: Vec<Dir>,
    /// Directories above them that were missing, the lowest first.
    parents: Vec<PathBuf>,
    /// Somebody relies on it: the configuration names a path or a limit.
    wanted: bool,
    /// With systemd's driver: the scope.
    #[serde(default)]
    unit: Option<systemd::Unit>,
    /// What the scope shall have besides, as the annotations write it.
    #[serde(default)]
    unit_properties: Vec<(String, String)>,
}

/// A directory in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Dir {
    /// The controllers of a version 1 hierarchy; none: version 2.
    controllers: Vec<String>,
    /// Where it is mounted.
    mount: PathBuf,
    /// The container's directory.
    path: PathBuf,
}

impl Dir {
    fn is_v2(&self) -> bool {
        self.controllers.is_empty()
    }

    /// Whether this hierarchy has the controller: as named in version 1, or as the version 2 directory says.
    fn has(&self, controller: &str) -> bool {
        if !self.is_v2() {
            return self.controllers.iter().any(|name| name == controller);
        }
        let name = match controller {
            "blkio" => "io",
            "cpuacct" => "cpu",
            other => other,
        };
        fs::read_to_string(self.path.join("cgroup.controllers")).is_ok_and(|list| list.split_whitespace().any(|n| n == name))
    }

    fn read(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.path.join(file)).ok()
    }
}

impl Cgroup {
    /// Where the container `id` of a state directory belongs. Nothing is made yet.
    pub fn place(spec: &Spec, id: &str, settings: &Settings) -> Result<Cgroup> {
        let linux = spec.linux().as_ref();
        let path = linux.and_then(|linux| linux.cgroups_path().as_deref());
        let asked = linux.and_then(|linux| linux.resources().as_ref()).is_some_and(limits::asks_for_something);
        let wanted = path.is_some() || asked;
        if settings.rootless && !wanted {
            return Ok(Cgroup::default());
        }
        let unit = settings.systemd_cgroup.then(|| systemd::Unit::of(path, id)).transpose()?;
        let path = match (&unit, path) {
            (Some(unit), _) => unit.path(),
            (None, Some(path)) => checked(path)?.to_owned(),
            // A name is unique in its state directory only.
            (None, None) => {
                let mut hasher = DefaultHasher::new();
                settings.state_root.hash(&mut hasher);
                Path::new("/caisson").join(format!("{id}-{:016x}", hasher.finish()))
            }
        };
        let hierarchies = if unit.is_some() { hierarchy::of_systemd() } else { hierarchy::mounted() };
        let dirs: Vec<Dir> = hierarchies
            .into_iter()
            .map(|Hierarchy { controllers, mount, own }| {
                // As runc: an absolute path begins at the mount, any other at the caller's own group (systemd's at its root).
                let below = path.strip_prefix("/").map_or_else(|_| own.join(&path), Path::to_path_buf);
                Dir { path: mount.join(below), controllers, mount }
            })
            .collect();
        let mut parents = Vec::new();
        for dir in &dirs {
            let missing = |above: &&Path| above.starts_with(&dir.mount) && *above != dir.mount && !above.exists();
            // Slices come and go as systemd sees fit.
            if unit.is_none() || !systemd::manages(&dir.controllers) {
                parents.extend(dir.path.ancestors().skip(1).take_while(missing).map(Path::to_path_buf));
            }
        }
        let wanted = wanted || unit.is_some();
        let unit_properties = if unit.is_some() { systemd::annotated(spec)? } else { Vec::new() };
        Ok(Cgroup { dirs, parents, wanted, unit, unit_properties })
    }

    /// Fails if somebody is there already, or would be held as soon as it comes there.
    pub fn is_unused(&self) -> Result<()> {
        for dir in &self.dirs {
            let processes = dir.read("cgroup.procs").unwrap_or_default().lines().count();
            if processes > 0 {
                let what = format!("control group {} is not empty: {processes} process(es) found", dir.path.display());
                return Err(Failure::new(Status::Cgroup, what));
            }
        }
        match self.freezer() {
            Some((file, _)) if self.is_frozen() => Err(Failure::new(Status::Cgroup, format!("{} is frozen", file.display()))),
            _ => Ok(()),
        }
    }

    /// Whether the host has version 2 alone.
    fn is_v2_alone(&self) -> bool {
        self.dirs.iter().all(Dir::is_v2)
    }

    /// Makes the directories, sets the limits, and moves this process there.
    pub fn enter(&mut self, resources: Option<&LinuxResources>) -> Result<()> {
        if let Err(failure) = self.make(resources) {
            if self.wanted {
                return Err(failure);
            }
            // As in a container that may not: nobody asked for it.
            tracing::debug!("no control group: {failure}");
            self.remove()?;
            self.dirs.clear();
        }
        Ok(())
    }

    fn make(&self, resources: Option<&LinuxResources>) -> Result<()> {
        if let Some(unit) = &self.unit {
            unit.start(resources, &self.unit_properties, self.is_v2_alone())?;
        }
        for dir in &self.dirs {
            create(&dir.path).map_err(failed(&dir.path))?;
            if dir.is_v2() && self.unit.is_some() {
                // systemd has given it what there is.
            } else if dir.is_v2() {
                hierarchy::delegate(&dir.mount, &dir.path);
            } else if dir.has("cpuset") {
                hierarchy::inherit_cpuset(&dir.mount, &dir.path).map_err(failed(&dir.path))?;
            }
        }
        if let Some(resources) = resources {
            self.write_limits(resources)?;
        }
        self.join()
    }

    /// Moves this process there.
    pub fn join(&self) -> Result<()> {
        for dir in &self.dirs {
            let file = dir.path.join("cgroup.procs");
            fs::write(&file, "0").map_err(failed(&file))?;
        }
        Ok(())
    }

    /// Changes limits. One that the host has no controller for is refused.
    pub fn set(&self, resources: &LinuxResources) -> Result<()> {
        if let Some(unit) = &self.unit {
            unit.set(resources, self.is_v2_alone())?;
        }
        self.write_limits(resources)
    }

    fn write_limits(&self, resources: &LinuxResources) -> Result<()> {
        let mut again = Vec::new();
        for setting in limits::settings(resources) {
            if self.write(&setting).is_err() {
                again.push(setting);
            }
        }
        // Some limits bound each other, so that the order matters: what another one stood in the way of may be possible now.
        for setting in again {
            self.write(&setting)?;
        }
        for (file, value) in resources.unified().iter().flatten() {
            let dir =
                self.dirs.iter().find(|dir| dir.is_v2() && dir.path.join(file).exists()).ok_or_else(|| {
                    Failure::new(Status::Cgroup, format!("linux.resources.unified: the host has no version 2 file {file}"))
                })?;
            let path = dir.path.join(file);
            fs::write(&path, value).map_err(failed(&path))?;
        }
        Ok(())
    }

    fn write(&self, setting: &Setting) -> Result<()> {
        let Some(dir) = self.dirs.iter().find(|dir| dir.has(setting.controller)) else {
            if setting.optional {
                return Ok(());
            }
            let what = format!("{}: the host has no control group controller {}", setting.field, setting.controller);
            return Err(Failure::new(Status::Cgroup, what));
        };
        for (file, value) in if dir.is_v2() { &setting.v2 } else { &setting.v1 } {
            let path = dir.path.join(file);
            match fs::write(&path, value) {
                Err(_) if setting.optional => tracing::debug!("{} has no effect on this host", setting.field),
                Err(error) => {
                    let what = format!("{}: cannot write {value:?} to {}: {error}", setting.field, path.display());
                    return Err(Failure::new(Status::Cgroup, what));
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// The directory of the freezer, its file, and what that says when it holds the processes.
    fn freezer(&self) -> Option<(PathBuf, [&'static str; 2])> {
        self.dirs.iter().find_map(|dir| {
            if dir.controllers.iter().any(|name| name == "freezer") {
                return Some((dir.path.join("freezer.state"), ["THAWED", "FROZEN"]));
            }
            let file = dir.path.join("cgroup.freeze");
            (dir.is_v2() && self.dirs.len() == 1 && file.exists()).then_some((file, ["0", "1"]))
        })
    }

    /// Holds all processes, or lets them go on, where there is a freezer.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        let Some((file, words)) = self.freezer() else { return Ok(()) };
        match fs::write(&file, words[usize::from(frozen)]) {
            // Somebody was killed while making the groups, or removing them: nothing is held there.
            Err(error) if !frozen && error.kind() == ErrorKind::NotFound => return Ok(()),
            written => written.map_err(failed(&file))?,
        }
        let deadline = Instant::now() + FREEZING;
        while frozen && !self.is_frozen() {
            if Instant::now() > deadline {
                // Nothing may stay half frozen.
                fs::write(&file, words[0]).map_err(failed(&file))?;
                return Err(Failure::new(Status::Cgroup, "the freezer does not hold all processes"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Whether the freezer holds the processes.
    pub fn is_frozen(&self) -> bool {
        self.freezer().is_some_and(|(file, words)| {
            let held = |text: String| text.trim() == words[1];
            let events = file.with_file_name("cgroup.events");
            // Version 2 says there when it is done.
            match fs::read_to_string(events) {
                Ok(text) => text.lines().any(|line| line == "frozen 1"),
                Err(_) => fs::read_to_string(file).is_ok_and(held),
            }
        })
    }

    /// Whether it has directories at all.
    pub fn exists(&self) -> bool {
        self.dirs.iter().any(|dir| dir.path.exists())
    }

    /// Kills what is left there, and removes the directories.
    pub fn remove(&self) -> Result<()> {
        if self.exists() {
            self.freeze(false)?;
        }
        self.remove_unit();
        let deadline = Instant::now() + LEAVING;
        for dir in &self.dirs {
            loop {
                match remove_tree(&dir.path) {
                    Ok(()) => break,
                    Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                        kill_members(&dir.path);
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    Err(error) => return Err(failed(&dir.path)(error)),
                }
            }
        }
        for parent in &self.parents {
            // Another container may live there by now.
            let _ = fs::remove_dir(parent);
        }
        Ok(())
    }
}

impl Cgroup {
    /// Has systemd forget the scope. Where that cannot be, the directories are removed all the same.
    fn remove_unit(&self) {
        let Some(unit) = &self.unit else { return };
        // It would give processes that live a long time to end by themselves.
        self.dirs.iter().for_each(|dir| kill_members(&dir.path));
        if let Err(failure) = unit.stop() {
            tracing::warn!("{failure}");
        }
    }
}

/// Makes a directory and those above it; again, where somebody has just removed one that was empty.
fn create(path: &Path) -> std::io::Result<()> {
    let mut made = fs::create_dir_all(path);
    for _ in 0..10 {
        if !matches!(&made, Err(error) if error.kind() == ErrorKind::NotFound) {
            break;
        }
        made = fs::create_dir_all(path);
    }
    made
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    Failure::context(Status::Cgroup, format!("control group {}", path.display()))
}

/// A path that does not lead out of its hierarchy.
pub fn checked(path: &Path) -> Result<&Path> {
    let bad = |what| Failure::new(Status::BadField, format!("linux.cgroupsPath: {} {what}", path.display()));
    if path.components().any(|part| part == std::path::Component::ParentDir) {
        return Err(bad("contains .."));
    }
    if path.components().all(|part| part == std::path::Component::RootDir) {
        return Err(bad("is the root of all control groups"));
    }
    if !path.is_absolute() && path.to_string_lossy().matches(':').count() == 2 {
        return Err(bad("is of the form slice:prefix:name, which is for systemd's driver: --systemd-cgroup"));
    }
    Ok(path)
}

/// Removes a directory and those below it; the files in them go by themselves.
fn remove_tree(dir: &Path) -> std::io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Kills every process in a group.
fn kill_members(dir: &Path) {
    for pid in fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines() {
        let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) else { continue };
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_in_their_hierarchy() {
        for good in ["/a", "a/b", "/a/b:c", "/docker/0123"] {
            assert!(checked(Path::new(good)).is_ok(), "{good}");
        }
        for bad in ["/", "", "../a", "/a/../b", "system.slice:docker:0123"] {
            assert!(checked(Path::new(bad)).is_err(), "{bad}");
        }
    }
}
