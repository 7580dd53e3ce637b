//! What a container can leave behind: processes, mounts, control groups, files.

use super::{command_line, descendants, eventually, lives};
use std::path::{Path, PathBuf};

/// What is there before anything is done.
pub struct Remains {
    top: PathBuf,
    group: String,
    files: Vec<PathBuf>,
}

impl Remains {
    /// For tests that write nothing below `top`, and use control groups of this name. All descendants of this process are taken for theirs: a
    /// test program that calls this has one test, or does one after the other.
    pub fn before(top: &Path, group: &str) -> Remains {
        // Whatever loses its parent comes to this process, and is seen.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("subreaper");
        Remains { top: top.to_owned(), group: group.to_owned(), files: files(top) }
    }

    /// What is left, in words.
    pub fn left(&self) -> Vec<String> {
        let mut left: Vec<String> = living().into_iter().map(|pid| format!("process {pid}: {}", command_line(pid))).collect();
        let groups = hierarchies().into_iter().map(|hierarchy| hierarchy.join(&self.group)).filter(|group| group.exists());
        left.extend(groups.map(|group| format!("control group {}", group.display())));
        let new = files(&self.top).into_iter().filter(|file| !self.files.contains(file));
        left.extend(new.map(|file| format!("file {}", file.display())));
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
        let below = mounts.lines().filter(|line| line.contains(&*self.top.to_string_lossy()));
        left.extend(below.map(|line| format!("mount {line}")));
        left
    }

    /// Waits until nothing is left.
    pub fn none(&self, after: &str) {
        let mut left = Vec::new();
        let clean = eventually(10, || {
            reap();
            left = self.left();
            left.is_empty()
        });
        assert!(clean, "left after {after}: {left:#?}");
    }
}

/// Hierarchies of control groups that can be looked into.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    let of = |line: &str| {
        let mut words = line.split(' ').skip(1);
        let (at, kind) = (words.next()?, words.next()?);
        kind.starts_with("cgroup").then(|| PathBuf::from(at))
    };
    mounts.lines().filter_map(of).collect()
}

/// Descendants of this process that are no zombies.
fn living() -> Vec<i32> {
    descendants(std::process::id().cast_signed()).into_iter().filter(|pid| lives(*pid)).collect()
}

/// Takes the exit statuses of those that have come to this process.
fn reap() {
    use rustix::process::{WaitOptions, wait};
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
}

/// All files and directories below one.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files(&entry.path()));
        }
        found.push(entry.path());
    }
    found
}
