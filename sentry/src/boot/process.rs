//! A process that is started from outside: who it is, where it lives, what it has open, and which program it executes.

use super::refused;
use crate::{Failure, terminal::Terminal};
use abi::fs::OpenFlags;
use abi::task::Rlimit;
use abi::{Errno, Error};
use control::{FailureKind, FdLayout, Process};
use kernel::{
    Container, Kernel,
    cred::{CapSet, Credentials},
    io::IoBuffer,
    ipc::hostfd,
    mm::Mm,
    seccomp::{Filters, rules::Rules},
    task::{FsContext, Rlimits, Task},
    vfs::{Fd, FdTable, File, Lookup, MountNamespace, OpenHow, Walker},
};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A process that is complete, and does not run yet.
pub struct Ready {
    /// Its only thread.
    pub task: Arc<Task>,
    /// What it starts with.
    pub regs: platform::UserRegs,
}

/// The host's descriptors of what a process finds open.
pub struct Streams {
    /// Standard input, output and error; or, in their place, the slave side of the host's terminal.
    descriptors: Vec<OwnedFd>,
    /// From descriptor 3 on.
    preserved: Vec<OwnedFd>,
}

/// The same, as the sandbox has it.
pub struct Opened {
    descriptors: Vec<OwnedFd>,
    preserved: Vec<OwnedFd>,
    /// The process's terminal, if it has one.
    pub terminal: Option<Arc<Terminal>>,
}

impl Streams {
    /// Those that the sentry was started with.
    pub fn inherited(process: &Process) -> Result<Streams, Failure> {
        let take = |number| host::inherit::take(number).map_err(Failure::internal("a standard stream"));
        let descriptors = if process.terminal {
            vec![take(FdLayout::TERMINAL)?]
        } else {
            FdLayout::STREAMS.into_iter().map(take).collect::<Result<_, _>>()?
        };
        let last = FdLayout::PRESERVED + process.preserved.cast_signed();
        let preserved = (FdLayout::PRESERVED..last).map(take).collect::<Result<_, _>>()?;
        Ok(Streams { descriptors, preserved })
    }

    /// Those that came with a request, in the same order.
    pub fn received(process: &Process, mut descriptors: Vec<OwnedFd>) -> Result<Streams, Failure> {
        let streams = if process.terminal { 1 } else { 3 };
        if descriptors.len() != streams + process.preserved as usize {
            return Err(Failure::new(FailureKind::Internal, "the number of descriptors is wrong"));
        }
        let preserved = descriptors.split_off(streams);
        Ok(Streams { descriptors, preserved })
    }

    /// Makes the sandbox's own terminal, if the process has one.
    pub fn open(mut self, container: &Container, process: &Process) -> Result<Opened, Failure> {
        let terminal = if process.terminal {
            let host = self.descriptors.pop().ok_or_else(|| Failure::new(FailureKind::Internal, "there is no terminal"))?;
            let owner = (process.credentials.uid, process.credentials.gid);
            Some(Terminal::new(container, host, owner)?)
        } else {
            None
        };
        Ok(Opened { descriptors: self.descriptors, preserved: self.preserved, terminal })
    }
}

/// Prepares a process.
pub fn prepare(
    container: &Arc<Container>,
    process: &Process,
    namespace: &MountNamespace,
    opened: Opened,
    profile: Option<Arc<Rules>>,
) -> Result<Ready, Failure> {
    let kernel = container.kernel();
    let cred = credentials(process);
    let root = namespace.root().map_err(refused("root.path"))?;
    let umask = process.credentials.umask.unwrap_or(0o022);
    // The directory is entered with the process's own rights, as runc does.
    let walker = Walker { root: root.clone(), cred: Arc::new(cred.clone()), umask, task: None };
    let cwd =
        walker.walk(&root, process.cwd.as_bytes(), Lookup::DIRECTORY).map_err(refused(format_args!("process.cwd: {}", process.cwd)))?;
    let fs = FsContext::new(root, cwd, umask);
    let files = Arc::new(FdTable::default());
    let nothing = Mm::none(&kernel.memory, &kernel.platform);
    let task = container
        .new_init(nothing, files.clone(), fs, after_exec(cred), limits(process), Vec::new())
        .map_err(Failure::internal("a process"))?;
    if let Some(profile) = profile {
        let mut filters = Filters::default();
        filters.add(profile);
        task.set_filters(filters);
    }
    complete(kernel, process, &task, &files, opened).map(|regs| Ready { task: task.clone(), regs }).inspect_err(|_| {
        kernel.discard_init(&task);
    })
}

/// Gives a task its files and its program.
fn complete(
    kernel: &Arc<Kernel>,
    process: &Process,
    task: &Arc<Task>,
    files: &FdTable,
    opened: Opened,
) -> Result<platform::UserRegs, Failure> {
    // As in a PID namespace that is shared, where a container's first process is not init.
    let first = task.tgid() == 1;
    task.group().set_unkillable(first && process.init);
    for (number, file) in (0..).zip(streams(task, opened)?) {
        files.install(file, Fd(number), u64::MAX, false).map_err(Failure::internal("a standard stream"))?;
    }
    let name = process.args.first().map(String::as_str).unwrap_or_default();
    let bytes = |list: &[String]| -> Vec<Vec<u8>> { list.iter().map(|text| text.as_bytes().to_vec()).collect() };
    let mut env = bytes(&process.env);
    env.extend(home(task, process).map(String::into_bytes));
    find(task, name, &process.env)
        .and_then(|path| kernel.load_init(task, &path, bytes(&process.args), env))
        .map_err(|error| not_runnable(name, error))
}

/// `HOME=…` from the container's `/etc/passwd`, if the environment has none, as runc does; `/` for users who are not there.
fn home(task: &Task, process: &Process) -> Option<String> {
    if process.env.iter().any(|entry| entry.starts_with("HOME=")) {
        return None;
    }
    let walker = Walker { cred: Arc::new(Credentials::root()), ..Walker::of(task) };
    let text = read(&walker, b"/etc/passwd").unwrap_or_default();
    let uid = process.credentials.uid.to_string();
    let home = String::from_utf8_lossy(&text).lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        (fields.next() == Some(&uid)).then(|| fields.nth(2).unwrap_or_default().to_owned())
    });
    Some(format!("HOME={}", home.filter(|dir| !dir.is_empty()).unwrap_or_else(|| "/".into())))
}

/// The beginning of a small file of the container.
fn read(walker: &Walker<'_>, path: &[u8]) -> abi::Result<Vec<u8>> {
    let how = OpenHow { flags: OpenFlags::empty(), mode: 0, resolve: 0 };
    let at = walker.walk(&walker.root, path, Lookup::FOLLOW)?;
    if at.inode.is_dir() || at.inode.kind != abi::fs::FileType::Regular {
        return Err(Errno::EINVAL.into());
    }
    let file = walker.open(&walker.root.clone(), path, how)?;
    let mut bytes = vec![0; 256 << 10];
    let count = file.ops().read(&file, &mut IoBuffer::dest(&mut bytes), 0)?;
    bytes.truncate(count);
    Ok(bytes)
}

/// What execve(2) makes of credentials, for a program without set-id bits (capabilities(7)).
fn after_exec(cred: Credentials) -> Credentials {
    let permitted = if cred.euid == 0 { cred.bounding | cred.inheritable } else { cred.ambient };
    Credentials { permitted, effective: permitted, ..cred }
}

/// The program's path: as it is named, or along `PATH` if there is no slash in the name (execvp(3)).
fn find(task: &Arc<Task>, name: &str, env: &[String]) -> abi::Result<Vec<u8>> {
    if name.contains('/') {
        return Ok(name.as_bytes().to_vec());
    }
    let walker = Walker::of(task);
    let cwd = task.fs().cwd();
    let path = env.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or("/bin:/usr/bin");
    let mut best = Errno::ENOENT.into();
    for dir in path.split(':') {
        let dir = if dir.is_empty() { "." } else { dir };
        let candidate = format!("{dir}/{name}").into_bytes();
        match walker.open_exec(&cwd, &candidate, Lookup::FOLLOW) {
            Ok(_) => return Ok(candidate),
            Err(error) if error.is(Errno::ENOENT) || error.is(Errno::ENOTDIR) => {}
            // Told only if there is nothing better further on.
            Err(error) => best = error,
        }
    }
    Err(best)
}

/// Engines tell their users by these words which of both it was.
fn not_runnable(name: &str, error: Error) -> Failure {
    match error.errno() {
        Errno::ENOENT | Errno::ENOTDIR if name.contains('/') => {
            Failure::new(FailureKind::NotFound, format!("exec: {name:?}: stat {name}: no such file or directory"))
        }
        Errno::ENOENT | Errno::ENOTDIR => {
            Failure::new(FailureKind::NotFound, format!("exec: {name:?}: executable file not found in $PATH"))
        }
        Errno::EACCES => Failure::new(FailureKind::NotExecutable, format!("exec: {name:?}: permission denied")),
        errno => Failure::new(FailureKind::NotExecutable, format!("exec: {name:?}: it exists, but cannot be executed: {errno}")),
    }
}

fn credentials(process: &Process) -> Credentials {
    let (user, caps) = (&process.credentials, &process.capabilities);
    let set = CapSet::from_bits_truncate;
    Credentials {
        uid: user.uid,
        euid: user.uid,
        suid: user.uid,
        fsuid: user.uid,
        gid: user.gid,
        egid: user.gid,
        sgid: user.gid,
        fsgid: user.gid,
        groups: user.additional_gids.clone().into(),
        permitted: set(caps.permitted),
        effective: set(caps.effective),
        inheritable: set(caps.inheritable),
        bounding: set(caps.bounding),
        ambient: set(caps.ambient),
        securebits: 0,
        no_new_privs: process.no_new_privileges,
    }
}

fn limits(process: &Process) -> Rlimits {
    let mut limits = Rlimits::default();
    for limit in &process.rlimits {
        limits.set(limit.resource, Rlimit { cur: limit.soft, max: limit.hard });
    }
    limits
}

/// Files for the descriptors from 0 on: the host's streams, or the terminal, which then controls the process's session.
fn streams(task: &Arc<Task>, opened: Opened) -> Result<Vec<Arc<File>>, Failure> {
    let mut files = match &opened.terminal {
        None => hostfd::open_stdio(opened.descriptors).map_err(Failure::internal("the standard streams"))?,
        Some(terminal) => {
            let path = format!("/dev/pts/{}", terminal.tty.index);
            let how = OpenHow { flags: OpenFlags::RDWR, mode: 0, resolve: 0 };
            let walker = Walker { cred: Arc::new(Credentials::root()), ..Walker::of(task) };
            let file = walker
                .open(&walker.root.clone(), path.as_bytes(), how)
                .map_err(refused(format_args!("process.terminal: {path} (is devpts mounted on /dev/pts?)")))?;
            terminal.tty.become_controlling(task, false).map_err(Failure::internal("the controlling terminal"))?;
            vec![file.clone(), file.clone(), file]
        }
    };
    for fd in opened.preserved {
        files.push(hostfd::open(fd).map_err(Failure::internal("a preserved descriptor"))?);
    }
    Ok(files)
}
