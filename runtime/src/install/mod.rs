//! Making Caisson known to an engine, and taking it out again: what `caisson install` and `uninstall` do.
//!
//! An [`Engine`] has a configuration file in which a runtime is an entry. The file is the administrator's: one that is not understood is not
//! touched, what else is in it stays, it is replaced as a whole, and its former content is kept beside it.
//! [`docker`] and [`containerd`] change texts; everything that touches files is here.

mod containerd;
mod docker;

use crate::exit::{Failure, Result, Status};
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// The name under which engines know the runtime.
const HANDLER: &str = "caisson";
/// The name under which containerd looks for the shim of `io.containerd.caisson.v1`.
const SHIM: &str = "containerd-shim-caisson-v1";
/// What is added to the name of a file that holds what a configuration was before.
const BACKUP: &str = "before-caisson";

/// An engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// dockerd.
    Docker,
    /// containerd, with its CRI plugin and `ctr`.
    Containerd,
}

/// A text that cannot be changed: why.
type Edit<T = String> = std::result::Result<T, String>;

impl Engine {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Docker => "Docker",
            Engine::Containerd => "containerd",
        }
    }

    /// Its configuration, where nothing else is said.
    fn config(self, root: &Path) -> PathBuf {
        root.join(match self {
            Engine::Docker => "etc/docker/daemon.json",
            Engine::Containerd => "etc/containerd/config.toml",
        })
    }

    /// Whether it seems to be installed.
    pub fn is_there(self, root: &Path) -> bool {
        let daemon = match self {
            Engine::Docker => "dockerd",
            Engine::Containerd => "containerd",
        };
        let dirs = ["usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin"];
        self.config(root).exists() || dirs.iter().any(|dir| root.join(dir).join(daemon).exists())
    }

    /// What makes the engine read its configuration again.
    fn reload(self) -> &'static str {
        match self {
            Engine::Docker => "systemctl reload docker",
            Engine::Containerd => "systemctl restart containerd",
        }
    }

    /// The configuration with the runtime in it; an empty text is that of a file that is not there.
    fn with(self, text: &str, program: &str) -> Edit {
        match self {
            Engine::Docker => docker::with(text, program),
            Engine::Containerd => containerd::with(text),
        }
    }

    /// The configuration without the runtime.
    fn without(self, text: &str) -> Edit {
        match self {
            Engine::Docker => docker::without(text),
            Engine::Containerd => containerd::without(text),
        }
    }

    /// What whoever installs should know.
    fn remark(self, text: &str) -> Option<String> {
        match self {
            Engine::Docker => {
                let systemd = Path::new("/run/systemd/system").is_dir() && Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
                if systemd { docker::remark(text) } else { None }
            }
            Engine::Containerd => containerd::remark(text),
        }
    }
}

/// What is to be done.
#[derive(Debug)]
pub struct Plan {
    /// The engine.
    pub engine: Engine,
    /// Its configuration; none: where it usually is.
    pub config: Option<PathBuf>,
    /// The directory in which containerd finds shims; none: `/usr/local/bin`.
    pub bin_dir: Option<PathBuf>,
    /// `/`, or a directory that stands for it.
    pub root: PathBuf,
    /// Only say what would be done.
    pub dry_run: bool,
}

impl Plan {
    fn config(&self) -> PathBuf {
        let path = self.config.clone().unwrap_or_else(|| self.engine.config(&self.root));
        // A file that is a link stays one.
        fs::canonicalize(&path).unwrap_or(path)
    }

    fn shim(&self) -> PathBuf {
        self.bin_dir.clone().unwrap_or_else(|| self.root.join("usr/local/bin")).join(SHIM)
    }

    /// Adds the runtime: what was done, one line for each thing.
    pub fn install(&self) -> Result<Vec<String>> {
        let program = own_program()?;
        let program = program.to_str().ok_or_else(|| Failure::new(Status::Engine, "the path of this program is not UTF-8"))?;
        let path = self.config();
        let old = read(&path)?;
        let before = old.as_deref().unwrap_or_default();
        let text = self.engine.with(before, program).map_err(refused(&path))?;
        let mut done = Vec::new();
        if self.engine == Engine::Containerd {
            self.link(program, &mut done)?;
        }
        if old.as_deref() == Some(text.as_str()) {
            done.push(format!("{}: caisson is there already", path.display()));
        } else {
            // The state to go back to is the one without us, also when a later version of us comes.
            let fresh = self.engine.without(before).map_err(refused(&path))? == before;
            if old.is_some() && (fresh || !backup(&path).exists()) {
                self.put(&backup(&path), before, Some(&path), &mut done)?;
            }
            self.put(&path, &text, old.is_some().then_some(&path), &mut done)?;
            done.push(format!("{} reads it with: {}", self.engine.name(), self.engine.reload()));
        }
        done.extend(self.engine.remark(&text).map(|remark| format!("{}: {remark}", path.display())));
        Ok(done)
    }

    /// Takes the runtime out: what was done.
    pub fn uninstall(&self) -> Result<Vec<String>> {
        let path = self.config();
        let mut done = Vec::new();
        match read(&path)? {
            None => done.push(format!("{}: is not there", path.display())),
            Some(old) => {
                let text = self.engine.without(&old).map_err(refused(&path))?;
                if text == old {
                    done.push(format!("{}: caisson is not in it", path.display()));
                } else {
                    self.restore(&path, &old, &text, &mut done)?;
                    done.push(format!("{} reads it with: {}", self.engine.name(), self.engine.reload()));
                }
            }
        }
        if self.engine == Engine::Containerd {
            self.unlink(&mut done)?;
        }
        Ok(done)
    }

    /// Puts back what was there before, byte by byte, if nobody has changed the file since; otherwise writes `text`, which is it without us.
    fn restore(&self, path: &Path, old: &str, text: &str, done: &mut Vec<String>) -> Result<()> {
        let program = docker::program(old).unwrap_or_default();
        let ours = |before: &str| self.engine.with(before, &program).is_ok_and(|with| with == old);
        let kept = backup(path);
        match read(&kept)? {
            Some(before) if ours(&before) => {
                self.put(path, &before, Some(path), done)?;
                self.delete(&kept, done)
            }
            None if ours("") => self.delete(path, done),
            _ => self.put(path, text, Some(path), done),
        }
    }

    /// Makes the shim's name for this program.
    fn link(&self, program: &str, done: &mut Vec<String>) -> Result<()> {
        let link = self.shim();
        let failed = |error| Failure::context::<std::io::Error>(Status::Engine, format!("cannot make {}", link.display()))(error);
        match fs::read_link(&link) {
            Ok(target) if target == Path::new(program) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(_) => {
                let what = format!("{} is not a link: remove it first, if it is not needed", link.display());
                return Err(Failure::new(Status::Engine, what));
            }
        }
        if self.dry_run {
            done.push(format!("would link {} to {program}", link.display()));
            return Ok(());
        }
        if let Some(dir) = link.parent() {
            fs::create_dir_all(dir).map_err(failed)?;
        }
        let new = beside(&link, "new");
        // From an attempt that was killed.
        let _ = fs::remove_file(&new);
        symlink(program, &new).and_then(|()| fs::rename(&new, &link)).map_err(failed)?;
        done.push(format!("linked {} to {program}", link.display()));
        Ok(())
    }

    /// Removes the shim's name, if it is a link to a caisson.
    fn unlink(&self, done: &mut Vec<String>) -> Result<()> {
        let link = self.shim();
        match fs::read_link(&link) {
            Ok(target) if target.file_name().is_some_and(|name| name == HANDLER) || own_program().is_ok_and(|own| own == target) => {
                self.delete(&link, done)
            }
            _ => Ok(()),
        }
    }

    /// Writes a file as a whole or not at all, with mode and owner of `like`.
    fn put(&self, path: &Path, text: &str, like: Option<&Path>, done: &mut Vec<String>) -> Result<()> {
        if self.dry_run {
            done.push(format!("would write {}:\n{}", path.display(), text.trim_end()));
            return Ok(());
        }
        let write = || -> std::io::Result<()> {
            let dir = path.parent().unwrap_or(Path::new("/"));
            fs::create_dir_all(dir)?;
            let new = beside(path, "new");
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o644).open(&new)?;
            if let Some(like) = like.and_then(|like| fs::metadata(like).ok()) {
                file.set_permissions(fs::Permissions::from_mode(like.mode() & 0o7777))?;
                std::os::unix::fs::fchown(&file, Some(like.uid()), Some(like.gid()))?;
            }
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, path)?;
            fs::File::open(dir)?.sync_all()
        };
        write().map_err(Failure::context(Status::Engine, format_args!("cannot write {}", path.display())))?;
        done.push(format!("wrote {}", path.display()));
        Ok(())
    }

    fn delete(&self, path: &Path, done: &mut Vec<String>) -> Result<()> {
        if self.dry_run {
            done.push(format!("would remove {}", path.display()));
            return Ok(());
        }
        fs::remove_file(path).map_err(Failure::context(Status::Engine, format_args!("cannot remove {}", path.display())))?;
        done.push(format!("removed {}", path.display()));
        Ok(())
    }
}

/// The file that engines shall execute: this one.
fn own_program() -> Result<PathBuf> {
    let path = std::env::current_exe().and_then(fs::canonicalize);
    path.map_err(Failure::context(Status::Engine, "cannot tell where this program is"))
}

fn refused(path: &Path) -> impl Fn(String) -> Failure {
    move |what| Failure::new(Status::Engine, format!("{}: {what}; the file is left as it is", path.display()))
}

fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::new(Status::Engine, format!("cannot read {}: {error}", path.display()))),
    }
}

/// Where the former content of a file is kept.
fn backup(path: &Path) -> PathBuf {
    beside(path, BACKUP)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}
