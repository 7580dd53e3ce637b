//! `/proc/PID/fd` and `/proc/PID/fdinfo`.

use crate::synthetic::{Directory, Entry, Listed};
use abi::{Result, bail, error, fs::FileType, fs::OpenFlags};
use kernel::{
    task::{Task, current},
    vfs::{Fd, File, FsStr},
};
use std::sync::Arc;

/// A task's open descriptors: as magic links, or as texts about them.
pub struct Descriptors {
    task: Arc<Task>,
    info: bool,
}

impl Descriptors {
    /// Of this task. `info`: fdinfo.
    pub fn new(task: &Arc<Task>, info: bool) -> Descriptors {
        Descriptors { task: task.clone(), info }
    }

    fn check(&self) -> Result {
        match current() {
            Some(viewer) if viewer.may_inspect(&self.task).is_err() => bail!(EACCES),
            _ => Ok(()),
        }
    }
}

impl Directory for Descriptors {
    fn lookup(&self, name: &FsStr) -> Result<Entry> {
        self.check()?;
        let number: Option<u32> = std::str::from_utf8(name).ok().and_then(|s| s.parse().ok());
        let Some(fd) = number.filter(|n| n.to_string().as_bytes() == name).map(Fd) else { bail!(ENOENT) };
        let file = self.task.files().get(fd).map_err(|_| error!(ENOENT))?;
        let task = self.task.clone();
        // Found anew each time: the number may mean another file by then.
        let get = move || task.files().get(fd).map_err(|_| error!(ENOENT));
        if self.info {
            let task = self.task.clone();
            return Ok(Entry::text(move || {
                let cloexec = task.files().cloexec(fd).unwrap_or(false);
                Ok(info(&*get()?, cloexec).into_bytes())
            })
            .perm(0o444));
        }
        let flags = file.flags();
        let perm = 0o100 | if flags.readable() { 0o400 } else { 0 } | if flags.writable() { 0o200 } else { 0 };
        let again = get.clone();
        Ok(Entry::magic(
            move || {
                let viewer = current().ok_or(error!(ENOENT))?;
                Ok(get()?.path.text(&viewer.fs().root()))
            },
            move |_| Ok(again()?.path.clone()),
        )
        .perm(perm))
    }

    fn list(&self) -> Result<Vec<Listed>> {
        self.check()?;
        let kind = if self.info { FileType::Regular } else { FileType::Symlink };
        Ok(self.task.files().list().into_iter().map(|fd| Listed::numbered(u64::from(fd.0), kind)).collect())
    }
}

fn info(file: &File, cloexec: bool) -> String {
    let cloexec = if cloexec { OpenFlags::CLOEXEC } else { OpenFlags::empty() };
    let flags = file.flags() | cloexec;
    // The reader holds the position of the file it reads from; a position that somebody else holds just now is on its way anyway.
    let pos = file.pos.try_lock().map_or(0, |p| *p);
    format!(
        "pos:\t{pos}\nflags:\t0{:o}\nmnt_id:\t{}\nino:\t{}\n{}",
        flags.bits(),
        file.path.mount.id,
        file.inode().ino,
        file.ops().show_fdinfo(file)
    )
}
