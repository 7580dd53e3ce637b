//! Who is killed for want of memory: by the kernel, which counts it in a container's control group, and by the runtime itself
//! (see [`Kills`]).

use crate::log;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::inotify;
use rustix::io::read;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// What a runtime has killed itself because one container had more memory than it may: how many processes, each time that there are more.
/// It ends with the container.
pub type Kills = Box<dyn Iterator<Item = u64> + Send>;

/// Gives the [`Kills`] of the container with this name under this state directory, if the runtime is one that kills.
pub type KillsOf = fn(&Path, &str) -> Option<Kills>;

/// How long the runtime may take to tell its last after the end of a container.
const LAST: Duration = Duration::from_secs(2);

/// Watches one container until it has ended.
#[derive(Debug)]
pub struct Watch {
    counted: Arc<Counted>,
    /// Says nothing, and is closed when the runtime has told everything.
    told: Mutex<Option<Receiver<()>>>,
}

impl Watch {
    /// Calls `report` at each kill in the control group of process `pid`, and at each of the runtime's. A control group that cannot be
    /// watched has no reports, and a line in the log.
    pub fn start(pid: i32, kills: Option<Kills>, report: impl Fn() + Send + Sync + 'static) -> Watch {
        let report: Arc<dyn Fn() + Send + Sync> = Arc::new(report);
        let group = group_of(pid).map_err(|error| cannot_watch(pid, &error)).ok();
        let counted = Arc::new(Counted { group, seen: Mutex::new(0), report: report.clone() });
        let own = counted.clone();
        spawn(move || {
            let watched = match &own.group {
                Some(Group::Version1(group)) => version1(group, &own),
                Some(Group::Version2(group)) => version2(group, &own),
                None => return,
            };
            watched.unwrap_or_else(|error| cannot_watch(pid, &error));
        });
        let told = kills.map(|kills| {
            let (closed, told) = channel();
            spawn(move || {
                let _closed = closed;
                kills.for_each(|_| report());
            });
            told
        });
        Watch { counted, told: Mutex::new(told) }
    }

    /// To be called when the container has ended, before that is told: reports what has not been reported.
    pub fn finish(&self) {
        self.counted.look();
        if let Some(told) = self.told.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = told.recv_timeout(LAST);
        }
    }
}

fn cannot_watch(pid: i32, error: &std::io::Error) {
    log::warn(format!("out-of-memory kills of process {pid} cannot be watched: {error}"));
}

fn spawn(run: impl FnOnce() + Send + 'static) {
    if let Err(error) = thread::Builder::new().name("oom".into()).stack_size(128 << 10).spawn(run) {
        log::warn(format!("cannot start a thread: {error}"));
    }
}

/// The directory of a container in the hierarchy that holds its memory.
#[derive(Debug)]
enum Group {
    Version1(PathBuf),
    Version2(PathBuf),
}

/// What the kernel counts.
struct Counted {
    group: Option<Group>,
    seen: Mutex<u64>,
    report: Arc<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counted").field("group", &self.group).field("seen", &self.seen).finish_non_exhaustive()
    }
}

impl Counted {
    fn file(&self) -> Option<PathBuf> {
        match self.group.as_ref()? {
            Group::Version1(group) => Some(group.join("memory.oom_control")),
            Group::Version2(group) => Some(group.join("memory.events")),
        }
    }

    /// Reports what is new; false when the group is gone.
    fn look(&self) -> bool {
        let Some(file) = self.file() else { return false };
        // Held while it is looked: nothing is reported twice.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(now) = kills(&file) else { return false };
        if now > *seen {
            (self.report)();
        }
        *seen = now;
        true
    }
}

fn group_of(pid: i32) -> std::io::Result<Group> {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let of = |wanted: &str| {
        groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            let found = if wanted.is_empty() { controllers.is_empty() } else { controllers.split(',').any(|c| c == wanted) };
            found.then(|| path.trim_start_matches('/').to_owned())
        })
    };
    Ok(match of("memory") {
        Some(path) => Group::Version1(Path::new("/sys/fs/cgroup/memory").join(path)),
        None => Group::Version2(Path::new("/sys/fs/cgroup").join(of("").unwrap_or_default())),
    })
}

/// The field `oom_kill` of a file with a name and a number on each line.
fn kills(file: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

fn version1(group: &Path, counted: &Counted) -> std::io::Result<()> {
    let event = eventfd(0, EventfdFlags::CLOEXEC)?;
    let watched = File::open(group.join("memory.oom_control"))?;
    let register = format!("{} {}", event.as_raw_fd(), watched.as_raw_fd());
    std::fs::write(group.join("cgroup.event_control"), register)?;
    drop(watched);
    loop {
        // Also when the group is removed.
        read(&event, &mut [0; 8])?;
        // The kill follows the notice.
        thread::sleep(Duration::from_millis(20));
        if !counted.look() {
            return Ok(());
        }
    }
}

fn version2(group: &Path, counted: &Counted) -> std::io::Result<()> {
    let events = group.join("memory.events");
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    inotify::add_watch(&watch, &events, inotify::WatchFlags::MODIFY)?;
    while counted.look() {
        // The removal of a group is not told: look now and then.
        let timeout = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
        if poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&timeout))? > 0 {
            read(&watch, &mut [0; 4096])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn what_the_runtime_tells_is_reported_before_the_end() {
        let reports = Arc::new(AtomicU64::new(0));
        let count = reports.clone();
        let kills: Kills = Box::new([1, 2].into_iter().inspect(|_| thread::sleep(Duration::from_millis(50))));
        // No control group of such a process: the runtime's word is all there is.
        let watch = Watch::start(i32::MAX, Some(kills), move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        watch.finish();
        assert_eq!(reports.load(Ordering::SeqCst), 2);
        watch.finish();
        assert_eq!(reports.load(Ordering::SeqCst), 2);
    }
}
