//! Processes and threads: making them, waiting for them, ending them, and their ids.

use crate::{
    arg::{DirFd, UserCStr},
    at::{self, At},
    gap, row,
    table::Entry,
};
use abi::{
    Errno, Error, Result, bail,
    fs::OpenFlags,
    libc,
    signal::SigInfo,
    task::{CloneArgs, CloneFlags},
};
use kernel::{
    loader::read_strings,
    task::{CloneRequest, CurrentTask, ExecRequest, Pidfd, Usage, WaitOptions, WaitResult, WaitWho, open_pidfd},
    user::{UserAddr, UserRef},
    vfs::{Fd, File},
};
use std::sync::Arc;
use zerocopy::IntoBytes;

pub(crate) const ROWS: &[Entry] = &[
    row!("fork", fork),
    row!("vfork", vfork),
    row!("clone", clone, Partial("no new namespaces, no CLONE_PTRACE")),
    row!("clone3", clone3, Partial("no new namespaces, no CLONE_INTO_CGROUP, no pidfds of threads")),
    row!("execve", execve),
    row!("execveat", execveat, Partial("no AT_EXECVE_CHECK")),
    row!("exit", exit),
    row!("exit_group", exit_group),
    row!("wait4", wait4),
    row!("waitid", waitid),
    row!("getpid", getpid),
    row!("gettid", gettid),
    row!("getppid", getppid),
    row!("getpgid", getpgid),
    row!("getpgrp", getpgrp),
    row!("setpgid", setpgid),
    row!("getsid", getsid),
    row!("setsid", setsid),
    row!("set_tid_address", set_tid_address),
    row!("unshare", unshare, Partial("descriptors and file system context; no new namespaces")),
    row!("pidfd_open", pidfd_open, Partial("no pidfds of threads")),
    row!("pidfd_getfd", pidfd_getfd),
    row!("pidfd_send_signal", pidfd_send_signal, Partial("no PIDFD_SIGNAL_THREAD")),
    row!("setns", setns, Partial("one namespace of each kind, the caller's own")),
    gap!("rseq", ENOSYS, "libraries do without"),
];

/// The exit signal in the low byte of clone(2)'s flags.
const CSIGNAL: u64 = 0xff;

pub fn fork(t: &mut CurrentTask) -> Result<i32> {
    t.clone_task(&request(CloneFlags::empty(), libc::SIGCHLD))
}

pub fn vfork(t: &mut CurrentTask) -> Result<i32> {
    t.clone_task(&request(CloneFlags::VM | CloneFlags::VFORK, libc::SIGCHLD))
}

fn request(flags: CloneFlags, exit_signal: i32) -> CloneRequest {
    CloneRequest {
        flags,
        exit_signal,
        stack: 0,
        tls: 0,
        parent_tid: UserAddr::NULL,
        child_tid: UserAddr::NULL,
        pidfd: UserAddr::NULL,
        set_tid: 0,
    }
}

pub fn clone(t: &mut CurrentTask, flags: u64, stack: u64, parent_tid: UserAddr, child_tid: UserAddr, tls: u64) -> Result<i32> {
    // The upper half of the register is not looked at: clone3(2) has the flags there.
    let raw = flags & 0xffff_ffff;
    let flags = CloneFlags::from_bits_truncate(raw & !CSIGNAL);
    if flags.contains(CloneFlags::PIDFD | CloneFlags::PARENT_SETTID) {
        bail!(EINVAL, "one place for two results");
    }
    let exit_signal = if flags.contains(CloneFlags::THREAD) { 0 } else { (raw & CSIGNAL) as i32 };
    t.clone_task(&CloneRequest { stack, tls, parent_tid, child_tid, pidfd: parent_tid, ..request(flags, exit_signal) })
}

/// Bytes of `struct clone_args`: the first version, and the newest that is known.
const CLONE_ARGS_VER0: usize = 64;
const CLONE_ARGS_SIZE: usize = size_of::<CloneArgs>();

pub fn clone3(t: &mut CurrentTask, addr: UserAddr, size: usize) -> Result<i32> {
    let a = read_clone_args(t, addr, size)?;
    let Some(flags) = CloneFlags::from_bits(a.flags) else { bail!(EINVAL, "unknown flags {:#x}", a.flags) };
    if flags.contains(CloneFlags::DETACHED) || a.flags & (CSIGNAL & !CloneFlags::NEWTIME.bits()) != 0 {
        bail!(EINVAL, "flags of clone(2) alone");
    }
    if a.exit_signal > 64 || flags.intersects(CloneFlags::THREAD | CloneFlags::PARENT) && a.exit_signal != 0 {
        bail!(EINVAL, "exit signal");
    }
    if (a.stack == 0) != (a.stack_size == 0) {
        bail!(EINVAL, "stack without size, or size without stack");
    }
    if (a.set_tid == 0) != (a.set_tid_size == 0) || a.set_tid_size > 1 {
        bail!(EINVAL, "one pid namespace");
    }
    let mut set_tid = 0;
    if a.set_tid_size == 1 {
        set_tid = t.mm().read(UserRef::<i32>::new(UserAddr(a.set_tid)))?;
        if set_tid <= 0 {
            bail!(EINVAL, "set_tid");
        }
    }
    t.clone_task(&CloneRequest {
        stack: if a.stack == 0 { 0 } else { a.stack.wrapping_add(a.stack_size) },
        tls: a.tls,
        parent_tid: UserAddr(a.parent_tid),
        child_tid: UserAddr(a.child_tid),
        pidfd: UserAddr(a.pidfd),
        set_tid,
        ..request(flags, a.exit_signal as i32)
    })
}

/// Copies a structure that may be older (shorter) or newer (longer, then zero behind what is known) than this kernel's.
fn read_clone_args(t: &CurrentTask, addr: UserAddr, size: usize) -> Result<CloneArgs> {
    if size > abi::PAGE_SIZE as usize {
        bail!(E2BIG);
    }
    if size < CLONE_ARGS_VER0 {
        bail!(EINVAL, "too short");
    }
    let mut bytes = vec![0u8; size];
    t.mm().copy_in(addr, &mut bytes)?;
    if bytes.iter().skip(CLONE_ARGS_SIZE).any(|&b| b != 0) {
        bail!(E2BIG, "fields of a newer kernel");
    }
    bytes.resize(CLONE_ARGS_SIZE, 0);
    let mut args = CloneArgs::default();
    args.as_mut_bytes().copy_from_slice(&bytes);
    Ok(args)
}

pub fn exit(t: &mut CurrentTask, status: i32) -> Result<()> {
    t.exit_thread(status as u8);
    Ok(())
}

pub fn exit_group(t: &mut CurrentTask, status: i32) -> Result<()> {
    t.exit_group(status as u8);
    Ok(())
}

const WNOTHREAD: i32 = 0x2000_0000;
const WALL: i32 = 0x4000_0000;
const WCLONE: i32 = 0x8000_0000u32 as i32;

fn wait_options(options: i32) -> WaitOptions {
    let has = |bit| options & bit != 0;
    WaitOptions {
        exited: has(libc::WEXITED),
        stopped: has(libc::WSTOPPED),
        continued: has(libc::WCONTINUED),
        no_hang: has(libc::WNOHANG),
        keep: has(libc::WNOWAIT),
        all: has(WALL),
        clone: has(WCLONE),
        own_thread: has(WNOTHREAD),
    }
}

pub fn wait4(t: &mut CurrentTask, pid: i32, status: UserRef<i32>, options: i32, rusage: UserAddr) -> Result<i32> {
    if options & !(libc::WNOHANG | libc::WUNTRACED | libc::WCONTINUED | WNOTHREAD | WCLONE | WALL) != 0 {
        bail!(EINVAL, "unknown options");
    }
    let who = match pid {
        i32::MIN => bail!(ESRCH),
        -1 => WaitWho::Any,
        0 => WaitWho::Group(t.process_group().id),
        1.. => WaitWho::Pid(pid),
        _ => WaitWho::Group(-pid),
    };
    let found = t.wait_child(who, WaitOptions { exited: true, ..wait_options(options) })?;
    let Some(found) = found else { return Ok(0) };
    if let Some(status) = status.non_null() {
        t.mm().write(status, &found.wait_status)?;
    }
    write_rusage(t, rusage, &found)?;
    Ok(found.pid)
}

pub fn waitid(t: &mut CurrentTask, kind: i32, id: i32, info: UserAddr, options: i32, rusage: UserAddr) -> Result<()> {
    let what = libc::WEXITED | libc::WSTOPPED | libc::WCONTINUED;
    if options & !(libc::WNOHANG | libc::WNOWAIT | what | WNOTHREAD | WCLONE | WALL) != 0 || options & what == 0 {
        bail!(EINVAL, "options");
    }
    let mut options = wait_options(options);
    let mut nonblocking = false;
    let who = match kind as u32 {
        libc::P_ALL => WaitWho::Any,
        libc::P_PID if id > 0 => WaitWho::Pid(id),
        libc::P_PGID if id == 0 => WaitWho::Group(t.process_group().id),
        libc::P_PGID if id > 0 => WaitWho::Group(id),
        libc::P_PIDFD if id >= 0 => {
            let file = t.files().get_open(Fd(id as u32))?;
            nonblocking = file.nonblocking();
            WaitWho::Pid(pidfd_of(&file)?.group().tgid)
        }
        _ => bail!(EINVAL, "kind of id"),
    };
    let asked_no_hang = options.no_hang;
    options.no_hang |= nonblocking;
    let found = t.wait_child(who, options)?;
    if found.is_none() && nonblocking && !asked_no_hang {
        bail!(EAGAIN, "pidfd is non-blocking");
    }
    if !info.is_null() {
        let (head, tail) = match &found {
            Some(f) => ([libc::SIGCHLD, 0, f.code], [f.pid, f.uid as i32, f.status]),
            None => ([0; 3], [0; 3]),
        };
        // The padding between them is left alone, as Linux does.
        t.mm().write(info.cast(), &head)?;
        t.mm().write(info.offset(16).cast(), &tail)?;
    }
    if let Some(found) = &found {
        write_rusage(t, rusage, found)?;
    }
    Ok(())
}

/// `struct rusage`: two times, then fourteen longs.
pub fn rusage(u: &Usage) -> [i64; 18] {
    let split = |ns: u64| ((ns / 1_000_000_000) as i64, (ns % 1_000_000_000 / 1000) as i64);
    let ((us, uu), (ss, su)) = (split(u.user_ns), split(u.system_ns));
    let mut r = [0; 18];
    r[..4].copy_from_slice(&[us, uu, ss, su]);
    r[4] = (u.max_rss / 1024) as i64;
    r[16] = u.voluntary_switches as i64;
    r
}

fn write_rusage(t: &CurrentTask, at: UserAddr, found: &WaitResult) -> Result {
    if at.is_null() { Ok(()) } else { t.mm().write(at.cast(), &rusage(&found.usage)) }
}

pub fn getpid(t: &mut CurrentTask) -> Result<i32> {
    Ok(t.tgid())
}

pub fn gettid(t: &mut CurrentTask) -> Result<i32> {
    Ok(t.tid())
}

pub fn getppid(t: &mut CurrentTask) -> Result<i32> {
    Ok(t.group().parent_pid())
}

pub fn getpgid(t: &mut CurrentTask, pid: i32) -> Result<i32> {
    t.getpgid(pid)
}

pub fn getpgrp(t: &mut CurrentTask) -> Result<i32> {
    t.getpgid(0)
}

pub fn setpgid(t: &mut CurrentTask, pid: i32, pgid: i32) -> Result<()> {
    t.setpgid(pid, pgid)
}

pub fn getsid(t: &mut CurrentTask, pid: i32) -> Result<i32> {
    t.getsid(pid)
}

pub fn setsid(t: &mut CurrentTask) -> Result<i32> {
    t.setsid()
}

pub fn set_tid_address(t: &mut CurrentTask, at: UserAddr) -> Result<i32> {
    t.info().clear_child_tid = at.0;
    Ok(t.tid())
}

pub fn setns(t: &mut CurrentTask, fd: Fd, kinds: i32) -> Result<()> {
    let file = t.files().get(fd)?;
    t.setns(&file, kinds)
}

pub fn unshare(t: &mut CurrentTask, flags: u64) -> Result<()> {
    let Some(flags) = CloneFlags::from_bits(flags) else { bail!(EINVAL, "unknown flags") };
    t.unshare(flags)
}

fn pidfd_of(file: &Arc<File>) -> Result<&Pidfd> {
    file.downcast::<Pidfd>().ok_or(Error::Errno(Errno::EBADF))
}

pub fn pidfd_open(t: &mut CurrentTask, pid: i32, flags: u32) -> Result<Fd> {
    if flags & !(libc::O_NONBLOCK as u32) != 0 || pid <= 0 {
        bail!(EINVAL, "flags or process id");
    }
    let Some(task) = t.pids().task(pid) else { bail!(ESRCH, "no process {pid}") };
    if !task.is_leader() {
        bail!(EINVAL, "not a process");
    }
    let file = open_pidfd(task.group())?;
    if flags != 0 {
        file.set_flags(OpenFlags::NONBLOCK)?;
    }
    t.files().install(file, Fd(0), t.rlimit(libc::RLIMIT_NOFILE).cur, true)
}

pub fn pidfd_getfd(t: &mut CurrentTask, pidfd: Fd, target: Fd, flags: u32) -> Result<Fd> {
    if flags != 0 {
        bail!(EINVAL, "flags");
    }
    let file = t.files().get_open(pidfd)?;
    let group = pidfd_of(&file)?.group().clone();
    let leader = group.leader().filter(|_| !group.is_dead());
    let Some(leader) = leader else { bail!(ESRCH, "process has ended") };
    t.may_inspect(&leader)?;
    let wanted = leader.files().get(target)?;
    t.files().install(wanted, Fd(0), t.rlimit(libc::RLIMIT_NOFILE).cur, true)
}

/// `PIDFD_SIGNAL_THREAD_GROUP` and `PIDFD_SIGNAL_PROCESS_GROUP`.
const TO_PROCESS: u32 = 2;
const TO_GROUP: u32 = 4;

pub fn pidfd_send_signal(t: &mut CurrentTask, pidfd: Fd, sig: i32, info: UserRef<SigInfo>, flags: u32) -> Result<()> {
    if !matches!(flags, 0 | TO_PROCESS | TO_GROUP) {
        bail!(EINVAL, "flags");
    }
    let file = t.files().get_open(pidfd)?;
    let group = match file.ops().process() {
        Some(group) => group,
        None => pidfd_of(&file)?.group().clone(),
    };
    let sig = crate::signal::number(sig)?;
    if flags == TO_GROUP {
        return t.kill(-group.process_group().id, sig);
    }
    let info = info.non_null().map(|i| t.mm().read(i)).transpose()?;
    t.pidfd_signal(&group, sig, info)
}

/// What a call with `/dev/fd` in it is told its program's path is.
fn shown_path(dir: DirFd, path: &[u8]) -> Vec<u8> {
    match dir {
        DirFd::At(fd) if path.first() != Some(&b'/') => {
            let mut shown = format!("/dev/fd/{}", fd.0).into_bytes();
            if !path.is_empty() {
                shown.push(b'/');
                shown.extend_from_slice(path);
            }
            shown
        }
        _ => path.to_vec(),
    }
}

fn exec(t: &mut CurrentTask, dir: DirFd, path: UserCStr, argv: UserAddr, envp: UserAddr, flags: u32) -> Result<()> {
    at::only(flags, libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW)?;
    let at = At::new(t, dir, path)?;
    let mm = t.mm();
    let request = ExecRequest {
        how: at::lookup(flags),
        shown: shown_path(dir, &at.path),
        inaccessible: match dir {
            DirFd::At(fd) if at.path.first() != Some(&b'/') => t.files().cloexec(fd)?,
            _ => false,
        },
        argv: read_strings(&mm, argv)?,
        envp: read_strings(&mm, envp)?,
        start: at.start,
        path: at.path,
    };
    // The old memory must not be held when the program takes over.
    drop(mm);
    t.exec(request)
}

pub fn execve(t: &mut CurrentTask, path: UserCStr, argv: UserAddr, envp: UserAddr) -> Result<()> {
    exec(t, DirFd::Cwd, path, argv, envp, 0)
}

pub fn execveat(t: &mut CurrentTask, dir: DirFd, path: UserCStr, argv: UserAddr, envp: UserAddr, flags: u32) -> Result<()> {
    exec(t, dir, path, argv, envp, flags)
}
