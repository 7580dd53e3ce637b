//! The first process: who it is, where it lives, what it has open, and which program it executes.

use super::refused;
use crate::{Failure, terminal::Terminal};
use abi::fs::OpenFlags;
use abi::task::Rlimit;
use abi::{Errno, Error};
use control::{BootSpec, FailureKind};
use kernel::{
    Kernel,
    cred::{CapSet, Credentials},
    ipc::hostfd,
    mm::Mm,
    task::{FsContext, Rlimits, Task, ThreadGroup},
    vfs::{Fd, FdTable, File, Lookup, MountNamespace, OpenHow, Walker},
};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Starts it.
pub fn start(
    kernel: &Arc<Kernel>,
    spec: &BootSpec,
    namespace: &MountNamespace,
    terminal: Option<&Arc<Terminal>>,
) -> Result<Arc<ThreadGroup>, Failure> {
    let cred = credentials(spec);
    let root = namespace.root().map_err(refused("root.path"))?;
    let umask = spec.process.credentials.umask.unwrap_or(0o022);
    // The directory is entered with the process's own rights, as runc does.
    let walker = Walker { root: root.clone(), cred: Arc::new(cred.clone()), umask, task: None };
    let cwd = walker
        .walk(&root, spec.process.cwd.as_bytes(), Lookup::DIRECTORY)
        .map_err(refused(format_args!("process.cwd: {}", spec.process.cwd)))?;
    let fs = FsContext::new(root, cwd, umask);
    let files = Arc::new(FdTable::default());
    let nothing = Mm::none(&kernel.memory, &kernel.platform);
    let task = kernel
        .new_init(nothing, files.clone(), fs, after_exec(cred), limits(spec), Vec::new())
        .map_err(Failure::internal("the first process"))?;
    task.group().set_unkillable(spec.process.init);
    for file in streams(&task, terminal)? {
        files.install(file, Fd(0), 3, false).map_err(Failure::internal("a standard stream"))?;
    }
    let name = spec.process.args.first().map(String::as_str).unwrap_or_default();
    let bytes = |list: &[String]| list.iter().map(|text| text.as_bytes().to_vec()).collect();
    find(&task, name, &spec.process.env)
        .and_then(|path| kernel.exec_init(&task, &path, bytes(&spec.process.args), bytes(&spec.process.env)))
        .map_err(|error| not_runnable(name, error))?;
    Ok(task.group().clone())
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

fn not_runnable(name: &str, error: Error) -> Failure {
    match error.errno() {
        Errno::ENOENT | Errno::ENOTDIR => {
            Failure::new(FailureKind::NotFound, format!("{name}: there is no such program in the container"))
        }
        errno => Failure::new(FailureKind::NotExecutable, format!("{name}: it exists, but cannot be executed: {errno}")),
    }
}

fn credentials(spec: &BootSpec) -> Credentials {
    let (user, caps) = (&spec.process.credentials, &spec.process.capabilities);
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
        no_new_privs: spec.process.no_new_privileges,
    }
}

fn limits(spec: &BootSpec) -> Rlimits {
    let mut limits = Rlimits::default();
    for limit in &spec.process.rlimits {
        limits.set(limit.resource, Rlimit { cur: limit.soft, max: limit.hard });
    }
    limits
}

/// Files for descriptors 0, 1 and 2: the host's streams, or the terminal, which then controls the process's session.
fn streams(task: &Arc<Task>, terminal: Option<&Arc<Terminal>>) -> Result<Vec<Arc<File>>, Failure> {
    let Some(terminal) = terminal else {
        let fds: Vec<OwnedFd> = (0..=2)
            .map(host::inherit::standard_stream)
            .collect::<Result<_, _>>()
            .map_err(Failure::internal("the standard streams"))?;
        return hostfd::open_stdio(fds).map_err(Failure::internal("the standard streams"));
    };
    let path = format!("/dev/pts/{}", terminal.tty.index);
    let how = OpenHow { flags: OpenFlags::RDWR, mode: 0, resolve: 0 };
    let walker = Walker::of(task);
    let file = walker
        .open(&walker.root.clone(), path.as_bytes(), how)
        .map_err(refused(format_args!("process.terminal: {path} (is devpts mounted on /dev/pts?)")))?;
    terminal.tty.become_controlling(task, false).map_err(Failure::internal("the controlling terminal"))?;
    Ok(vec![file.clone(), file.clone(), file])
}
