//! A process's or thread's directory: `/proc/PID`, `/proc/PID/task/TID`.

use super::{descriptors, limits, mem, parse_id, stat, status};
use crate::synthetic::{Directory, Entry, Fixed, Listed, parse_number};
use abi::{Result, bail, error, fs::FileType};
use kernel::{
    cred::CapSet,
    mm::Mm,
    task::{Task, ThreadGroup, current},
    user::UserAddr,
    vfs::{FsStr, Namespace, PathRef},
};
use std::sync::{Arc, atomic::Ordering};

/// The directory of a task; `process`: as `/proc/PID`, with what only a process has.
pub fn directory(task: Arc<Task>, process: bool) -> Entry {
    let cred = task.cred();
    let owned = |e: Entry| if task.group().dumpable.load(Ordering::Relaxed) == 1 { e.owner(cred.euid, cred.egid) } else { e };
    let entries = entries(&task, process).into_iter().map(|(n, e)| (n, owned(e))).collect();
    // The directory itself is the user's whatever can be seen of the process (task_dump_owner).
    Entry::dir(TaskDir { task: task.clone(), process, fixed: Fixed::new(entries) }).owner(cred.euid, cred.egid)
}

/// A directory that is gone when its task is.
struct TaskDir {
    task: Arc<Task>,
    process: bool,
    fixed: Fixed,
}

impl Directory for TaskDir {
    fn lookup(&self, name: &FsStr) -> Result<Entry> {
        alive(&self.task)?;
        self.fixed.lookup(name)
    }
    fn list(&self) -> Result<Vec<Listed>> {
        alive(&self.task).map_err(|_| error!(ENOENT))?;
        self.fixed.list()
    }
    fn process(&self) -> Option<Arc<ThreadGroup>> {
        self.process.then(|| self.task.group().clone())
    }
    fn nlink(&self) -> u32 {
        self.fixed.nlink()
    }
}

/// The one user namespace's maps.
fn id_maps(task: &Task) -> Arc<super::IdMaps> {
    task.kernel().attachments.get_or_insert_with(super::IdMaps::default)
}

/// `ESRCH` if the task has been reaped.
fn alive(task: &Task) -> Result {
    match task.pids().task(task.tid()) {
        Some(t) if std::ptr::eq(Arc::as_ptr(&t), task) => Ok(()),
        _ => bail!(ESRCH),
    }
}

/// `EACCES` unless the viewer may inspect the task. The sentry itself, where no task is looking, may.
pub(super) fn inspect(task: &Task) -> Result {
    match current() {
        Some(viewer) if viewer.may_inspect(task).is_err() => bail!(EACCES, "not allowed to look into that process"),
        _ => Ok(()),
    }
}

fn entries(task: &Arc<Task>, process: bool) -> Vec<(&'static str, Entry)> {
    let text = |make: fn(&Task) -> Result<Vec<u8>>| {
        let task = task.clone();
        Entry::text(move || {
            alive(&task)?;
            make(&task)
        })
    };
    let private = |make: fn(&Task) -> Result<Vec<u8>>| {
        let (a, b) = (task.clone(), task.clone());
        Entry::text(move || {
            alive(&a)?;
            make(&a)
        })
        .guarded(move || inspect(&b))
    };
    let mut list = vec![
        ("status", text(|t| Ok(status::status(t).into_bytes()))),
        ("stat", text(|t| Ok(stat::stat(t, false)))),
        ("statm", text(|t| Ok(t.try_mm().map_or_else(|| "0 0 0 0 0 0 0\n".into(), |m| m.statm()).into_bytes()))),
        ("comm", comm(task)),
        ("cmdline", text(cmdline)),
        ("environ", private(environ).perm(0o400)),
        ("auxv", private(auxv).perm(0o400)),
        ("maps", private(|t| Ok(t.try_mm().map(|m| m.maps_text()).unwrap_or_default().into()))),
        ("mem", mem::entry(task)),
        ("smaps", private(|t| Ok(t.try_mm().map(|m| m.smaps_text()).unwrap_or_default().into()))),
        ("limits", text(|t| Ok(limits::limits(t).into_bytes()))),
        ("mounts", text(|t| Ok(kernel::vfs::show::mounts(&t.fs().root())))),
        ("mountinfo", text(|t| Ok(kernel::vfs::show::mountinfo(&t.fs().root())))),
        ("cgroup", Entry::fixed("0::/\n")),
        ("wchan", Entry::fixed("0")),
        ("oom_score", Entry::fixed("0\n")),
        ("oom_score_adj", oom_score_adj(task)),
        ("loginuid", Entry::fixed("4294967295")),
        ("sessionid", Entry::fixed("4294967295")),
        ("personality", private(|t| Ok(format!("{:08x}\n", t.info().personality).into_bytes())).perm(0o400)),
        (
            "schedstat",
            text(|t| Ok(format!("{} 0 {}\n", t.usage().user_ns + t.usage().system_ns, t.usage().voluntary_switches).into_bytes())),
        ),
        ("timerslack_ns", text(|t| Ok(format!("{}\n", t.info().timer_slack_ns).into_bytes()))),
        (
            "io",
            private(|_| Ok(b"rchar: 0\nwchar: 0\nsyscr: 0\nsyscw: 0\nread_bytes: 0\nwrite_bytes: 0\ncancelled_write_bytes: 0\n".to_vec()))
                .perm(0o400),
        ),
        ("uid_map", text(|t| Ok(id_maps(t).uid.clone().into_bytes()))),
        ("gid_map", text(|t| Ok(id_maps(t).gid.clone().into_bytes()))),
        ("setgroups", Entry::fixed("allow\n")),
        ("cwd", place(task, |t| Ok(t.fs().cwd()))),
        ("root", place(task, |t| Ok(t.fs().root()))),
        (
            "exe",
            place(task, |t| match t.try_mm().and_then(|m| m.layout().exe) {
                Some(exe) => Ok(exe.path.clone()),
                None => bail!(ENOENT),
            }),
        ),
        ("fd", Entry::dir(descriptors::Descriptors::new(task, false)).perm(0o500)),
        ("fdinfo", Entry::dir(descriptors::Descriptors::new(task, true)).perm(0o555)),
        ("ns", Entry::dir(namespaces(task)).perm(0o511)),
        ("net", Entry::dir(network(task))),
        ("children", text(|t| Ok(t.group().children().iter().map(|p| format!("{p} ")).collect::<String>().into_bytes()))),
    ];
    if process {
        list.push(("task", Entry::dir(Threads(task.clone()))));
        if let Some(e) = list.iter_mut().find(|e| e.0 == "stat") {
            let task = task.clone();
            e.1 = Entry::text(move || {
                alive(&task)?;
                Ok(stat::stat(&task, true))
            });
        }
    }
    list
}

/// A magic link to a place of the task's.
fn place(task: &Arc<Task>, find: fn(&Task) -> Result<PathRef>) -> Entry {
    let (a, b) = (task.clone(), task.clone());
    let get = move |t: &Task| {
        alive(t)?;
        inspect(t)?;
        find(t)
    };
    Entry::magic(
        move || {
            let viewer = current().ok_or(error!(ENOENT))?;
            Ok(get(&a)?.text(&viewer.fs().root()))
        },
        move |_| get(&b),
    )
}

fn comm(task: &Arc<Task>) -> Entry {
    let (a, b) = (task.clone(), task.clone());
    Entry::writable(
        move || {
            alive(&a)?;
            let mut name = a.comm();
            name.push(b'\n');
            Ok(name)
        },
        move |bytes| {
            if current().is_none_or(|t| !Arc::ptr_eq(t.group(), b.group())) {
                bail!(EINVAL, "only a process names its own threads");
            }
            // A newline is kept, as Linux keeps it.
            let end = bytes.iter().position(|&c| c == 0).unwrap_or(bytes.len()).min(15);
            b.info().comm = bytes.get(..end).unwrap_or_default().to_vec();
            Ok(())
        },
    )
}

fn oom_score_adj(task: &Arc<Task>) -> Entry {
    let (a, b) = (task.clone(), task.clone());
    Entry::writable(
        move || Ok(format!("{}\n", a.group().oom_score_adj.load(Ordering::Relaxed)).into_bytes()),
        move |bytes| {
            let n: i32 = parse_number(bytes)?;
            if !(-1000..=1000).contains(&n) {
                bail!(EINVAL);
            }
            let now = b.group().oom_score_adj.load(Ordering::Relaxed);
            if n < now && !current().is_some_and(|t| t.cred().capable(CapSet::SYS_RESOURCE)) {
                bail!(EACCES, "lowering needs CAP_SYS_RESOURCE");
            }
            b.group().oom_score_adj.store(n, Ordering::Relaxed);
            Ok(())
        },
    )
}

/// Most bytes of arguments or environment that are shown.
const STRINGS_MAX: u64 = 1 << 20;

fn strings(mm: &Mm, range: std::ops::Range<u64>) -> Vec<u8> {
    let len = range.end.saturating_sub(range.start).min(STRINGS_MAX);
    let mut bytes = vec![0; len as usize];
    let n = mm.copy_in_partial(UserAddr(range.start), &mut bytes);
    bytes.truncate(n);
    bytes
}

/// The arguments of a process, each with a zero byte behind it (`/proc/PID/cmdline`).
pub fn cmdline(t: &Task) -> Result<Vec<u8>> {
    let Some(mm) = t.try_mm() else { return Ok(Vec::new()) };
    let layout = mm.layout();
    let mut bytes = strings(&mm, layout.args.clone());
    // setproctitle(3) of old: a title that overwrites the last NUL goes on into the environment.
    if bytes.last().is_some_and(|&b| b != 0) {
        bytes.extend(strings(&mm, layout.env));
        let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
        bytes.truncate(end);
    }
    Ok(bytes)
}

fn environ(t: &Task) -> Result<Vec<u8>> {
    Ok(t.try_mm().map(|m| strings(&m, m.layout().env)).unwrap_or_default())
}

fn auxv(t: &Task) -> Result<Vec<u8>> {
    let pairs = t.try_mm().map(|m| m.layout().auxv).unwrap_or_default();
    Ok(pairs.iter().flat_map(|(k, v)| [k.to_ne_bytes(), v.to_ne_bytes()].concat()).collect())
}

/// `/proc/PID/task`.
struct Threads(Arc<Task>);

impl Directory for Threads {
    fn lookup(&self, name: &FsStr) -> Result<Entry> {
        let found = parse_id(name).and_then(|id| self.0.pids().task(id)).filter(|t| Arc::ptr_eq(t.group(), self.0.group()));
        match found {
            Some(task) => Ok(directory(task, false)),
            None => bail!(ENOENT),
        }
    }
    fn list(&self) -> Result<Vec<Listed>> {
        alive(&self.0)?;
        let mut ids: Vec<i32> = self.0.group().threads().iter().map(|t| t.tid()).collect();
        if ids.is_empty() {
            ids.push(self.0.tid());
        }
        ids.sort_unstable();
        Ok(ids.into_iter().map(|id| Listed::numbered(id as u64, FileType::Directory)).collect())
    }
    fn nlink(&self) -> u32 {
        2 + self.0.group().thread_count() as u32
    }
}

/// `/proc/PID/ns`
fn namespaces(task: &Arc<Task>) -> Fixed {
    let link = |namespace: Namespace| {
        let (a, b) = (task.clone(), task.clone());
        let may = |t: &Task| alive(t).and_then(|()| inspect(t));
        Entry::magic(
            move || {
                may(&a)?;
                Ok(namespace.text(a.container()).into_bytes())
            },
            move |_| {
                may(&b)?;
                namespace.place(b.container())
            },
        )
    };
    Fixed::new(vec![
        ("cgroup", link(Namespace::Cgroup)),
        ("ipc", link(Namespace::Ipc)),
        ("mnt", link(Namespace::Mnt)),
        ("net", link(Namespace::Net)),
        ("pid", link(Namespace::Pid)),
        ("pid_for_children", link(Namespace::Pid)),
        ("time", link(Namespace::Time)),
        ("time_for_children", link(Namespace::Time)),
        ("user", link(Namespace::User)),
        ("uts", link(Namespace::Uts)),
    ])
}

/// `/proc/PID/net`.
fn network(task: &Arc<Task>) -> Fixed {
    let kernel = task.kernel().clone();
    let table = |name: &'static str| {
        let kernel = kernel.clone();
        (name, Entry::text(move || Ok(kernel::net::proc_net(&kernel, name).unwrap_or_default().into())))
    };
    let names = [
        "unix",
        "tcp",
        "tcp6",
        "udp",
        "udp6",
        "raw",
        "raw6",
        "packet",
        "netlink",
        "dev",
        "route",
        "ipv6_route",
        "if_inet6",
        "arp",
        "snmp",
        "sockstat",
        "sockstat6",
        "igmp",
        "ptype",
    ];
    Fixed::new(names.into_iter().map(table).collect())
}
