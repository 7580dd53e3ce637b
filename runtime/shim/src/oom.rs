//! Watches a container's control group for the kernel's out-of-memory killer.

use crate::log;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::inotify;
use rustix::io::read;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::thread;

/// Calls `report` at each kill in the control group of process `pid`, until the group is removed. Where it cannot be watched there
/// are no reports, and a line in the log.
pub fn watch(pid: i32, report: impl Fn() + Send + 'static) {
    let started = thread::Builder::new().name("oom".into()).stack_size(128 << 10).spawn(move || {
        if let Err(error) = run(pid, &report) {
            log::warn(format!("out-of-memory kills of process {pid} cannot be watched: {error}"));
        }
    });
    if let Err(error) = started {
        log::warn(format!("cannot start a thread: {error}"));
    }
}

fn run(pid: i32, report: &impl Fn()) -> std::io::Result<()> {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let of = |wanted: &str| {
        groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            let found = if wanted.is_empty() { controllers.is_empty() } else { controllers.split(',').any(|c| c == wanted) };
            found.then(|| path.trim_start_matches('/').to_owned())
        })
    };
    match of("memory") {
        Some(path) => version1(&Path::new("/sys/fs/cgroup/memory").join(path), report),
        None => version2(&Path::new("/sys/fs/cgroup").join(of("").unwrap_or_default()), report),
    }
}

/// The field `oom_kill` of a file with a name and a number on each line.
fn kills(file: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// Reports what is new; false when the group is gone.
fn compare(file: &Path, seen: &mut u64, report: &impl Fn()) -> bool {
    let Some(now) = kills(file) else { return false };
    if now > *seen {
        report();
    }
    *seen = now;
    true
}

fn version1(group: &Path, report: &impl Fn()) -> std::io::Result<()> {
    let control: PathBuf = group.join("memory.oom_control");
    let event = eventfd(0, EventfdFlags::CLOEXEC)?;
    let watched = File::open(&control)?;
    let register = format!("{} {}", event.as_raw_fd(), watched.as_raw_fd());
    std::fs::write(group.join("cgroup.event_control"), register)?;
    drop(watched);
    let mut seen = 0;
    loop {
        // Also when the group is removed.
        read(&event, &mut [0; 8])?;
        // The kill follows the notice.
        thread::sleep(std::time::Duration::from_millis(20));
        if !compare(&control, &mut seen, report) {
            return Ok(());
        }
    }
}

fn version2(group: &Path, report: &impl Fn()) -> std::io::Result<()> {
    let events = group.join("memory.events");
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    inotify::add_watch(&watch, &events, inotify::WatchFlags::MODIFY)?;
    let mut seen = 0;
    while compare(&events, &mut seen, report) {
        // The removal of a group is not told: look now and then.
        let timeout = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
        if poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&timeout))? > 0 {
            read(&watch, &mut [0; 4096])?;
        }
    }
    Ok(())
}
