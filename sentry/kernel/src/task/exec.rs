//! execve(2): a program takes over a process.

use super::run::entry_regs;
use super::{CurrentTask, RestartBlock, Task, ThreadGroup, exec_cred};
use crate::cred::Credentials;
use crate::loader::{self, Ids, Image, Request};
use crate::mm::MemLimits;
use crate::vfs::{File, FsStr, Lookup, PathRef, Walker};
use crate::{Kernel, signal::SigHandlers};
use abi::signal::StackT;
use abi::{Result, bail, error, poll::PollEvents};
use std::sync::{Arc, atomic::Ordering};

/// `ADDR_NO_RANDOMIZE`
const ADDR_NO_RANDOMIZE: u32 = 0x004_0000;
/// `PER_CLEAR_ON_SETID`: personality bits that a privileged program does not inherit.
const PER_CLEAR_ON_SETID: u32 = 0x050_0000 | ADDR_NO_RANDOMIZE | 0x010_0000;
/// `READ_IMPLIES_EXEC`
const READ_IMPLIES_EXEC: u32 = 0x040_0000;

/// What is to be executed.
pub struct ExecRequest {
    /// Where a relative path starts, or with an empty path the file itself.
    pub start: PathRef,
    /// The path as it was given.
    pub path: Vec<u8>,
    /// How to look it up.
    pub how: Lookup,
    /// What the program is told its path is: the path, or `/dev/fd/N/…` of execveat(2).
    pub shown: Vec<u8>,
    /// The shown path leads nowhere afterwards: its descriptor is closed by this very call.
    pub inaccessible: bool,
    /// Arguments.
    pub argv: Vec<Vec<u8>>,
    /// Environment.
    pub envp: Vec<Vec<u8>>,
}

/// A program that is loaded and not yet in force.
struct Program {
    image: Image,
    cred: Credentials,
    secure: bool,
}

impl Task {
    /// Limits that concern memory.
    pub fn mem_limits(&self) -> MemLimits {
        let cur = |r| self.rlimit(r).cur;
        MemLimits {
            address_space: cur(libc::RLIMIT_AS),
            data: cur(libc::RLIMIT_DATA),
            stack: cur(libc::RLIMIT_STACK),
            memlock: cur(libc::RLIMIT_MEMLOCK),
        }
    }

    /// Replaces the credentials; the caller has made all checks.
    pub fn set_cred(&self, cred: Credentials) {
        let new = Arc::new(cred);
        let old = std::mem::replace(&mut *self.cred.write(), new.clone());
        if old.uid != new.uid {
            self.pids().tree().recount(self, new.uid);
        }
        let ids = |c: &Credentials| (c.euid, c.egid, c.fsuid, c.fsgid);
        if ids(&old) != ids(&new) || !old.permitted.contains(new.permitted) {
            // What it has in memory may come from its former self (commit_creds).
            self.group().dumpable.store(0, Ordering::Relaxed);
            self.info().parent_death_signal = 0;
        }
    }

    /// Makes the image of a program, with its credentials; changes nothing of the task.
    fn load(&self, request: ExecRequest) -> Result<Program> {
        let ExecRequest { start, path, how, shown, inaccessible, argv, envp } = request;
        let walker = Walker::of(self);
        let file = walker.open_exec(&start, &path, how)?;
        let old = self.cred();
        let mut new = None;
        let cwd = self.fs().cwd();
        let root = self.fs().root();
        let open = |name: &FsStr| {
            let from = if name.first() == Some(&b'/') { &root } else { &cwd };
            walker.open_exec(from, name, Lookup::FOLLOW)
        };
        let mut identify = |program: &Arc<File>| {
            let (cred, secure) = exec_cred::of_program(&old, program)?;
            let ids = Ids { uid: cred.uid, euid: cred.euid, gid: cred.gid, egid: cred.egid, secure };
            new = Some((cred, secure));
            Ok(ids)
        };
        let randomize = self.info().personality & ADDR_NO_RANDOMIZE == 0;
        let nameless = path.is_empty().then(|| file.path.dentry.name_and_parent().0);
        let mut image = loader::load(
            self.kernel(),
            Request {
                file,
                path: &shown,
                argv,
                envp,
                path_inaccessible: inaccessible,
                open: &open,
                identify: &mut identify,
                limits: self.mem_limits(),
                randomize,
            },
        )?;
        if let Some(name) = nameless {
            // By descriptor: the file's own name says more than the descriptor's number (Linux 6.14).
            image.comm = super::run::truncate_comm(name);
        }
        let (cred, secure) = new.ok_or(error!(ENOEXEC, "nothing was loaded"))?;
        Ok(Program { image, cred, secure })
    }

    /// Puts a loaded program in force, apart from registers. The process has one thread.
    fn commit(self: &Arc<Self>, program: Program) {
        let Program { image, cred, secure } = program;
        crate::futex::exit_robust_list(self);
        self.release_memory();
        image.mm.join_cpu(&self.clock);
        *self.mm.lock() = Some(image.mm);
        let group = self.group();
        let handlers: SigHandlers = group.handlers().duplicate();
        handlers.reset_caught();
        group.set_handlers(Arc::new(handlers));
        group.timers.clear_posix();
        group.exit_signal.store(libc::SIGCHLD, Ordering::Relaxed);
        group.did_exec.store(true, Ordering::Relaxed);
        let old = self.cred();
        let plain = cred.euid == cred.uid && cred.egid == cred.gid;
        group.dumpable.store(i32::from(plain && !secure), Ordering::Relaxed);
        {
            let mut info = self.info();
            info.comm = image.comm;
            info.personality &= !READ_IMPLIES_EXEC;
            if secure {
                info.personality &= !PER_CLEAR_ON_SETID;
            }
            if secure || old.euid != cred.euid || old.egid != cred.egid {
                info.parent_death_signal = 0;
            }
        }
        self.set_cred(cred);
        let files = self.files();
        // One reference is the task's, one this function's.
        let files = if Arc::strong_count(&files) > 2 {
            let own = Arc::new(files.duplicate());
            self.set_files(own.clone());
            own
        } else {
            files
        };
        for file in files.remove_cloexec() {
            // Errors of flushing have nobody to hear them.
            let _ = crate::vfs::close_file(self, &files, file);
        }
    }
}

impl CurrentTask {
    /// execve(2) and execveat(2). On success the registers are those of the new program's entry.
    pub fn exec(&mut self, request: ExecRequest) -> Result<()> {
        let program = self.task.load(request)?;
        let old_tid = self.tid();
        self.become_only_thread()?;
        let (entry, sp) = (program.image.entry, program.image.stack_pointer);
        self.task.commit(program);
        self.regs = entry_regs(entry, sp);
        self.context.reset_fp_state();
        self.altstack = StackT::default();
        self.restart = RestartBlock::None;
        self.no_restart = true;
        self.trace_exec(old_tid);
        Ok(())
    }

    /// Ends the other threads; the caller takes the leader's place and id (`de_thread`). `EAGAIN` where the process is ending or another
    /// thread executes a program.
    fn become_only_thread(&self) -> Result {
        let group: Arc<ThreadGroup> = self.group().clone();
        {
            let mut state = group.lock();
            if state.exit.is_some() || state.exec.is_some() {
                bail!(EAGAIN, "the process is ending or executing");
            }
            if state.threads.len() > 1 {
                state.exec = Some(self.tid());
                for t in &state.threads {
                    if t.tid() != self.tid() {
                        t.notice_signals();
                    }
                }
            }
        }
        let alone = || (group.thread_count() == 1).then_some(());
        let waited = self.wait_killable(&[(&group.thread_queue, PollEvents::IN)], None, alone);
        if waited.is_err() {
            group.lock().exec = None;
            bail!(EAGAIN, "killed while executing");
        }
        if !self.is_leader() {
            self.pids().tree().take_leadership(&self.task);
        }
        group.lock().exec = None;
        Ok(())
    }
}

impl Kernel {
    /// Loads a program into a task that does not run yet ([`new_init`](crate::Container::new_init)); gives the registers to
    /// [start](Kernel::start_task) it with. The path has been looked up along `PATH` already, if need be.
    pub fn load_init(&self, task: &Arc<Task>, path: &[u8], argv: Vec<Vec<u8>>, envp: Vec<Vec<u8>>) -> Result<platform::UserRegs> {
        let start = if path.first() == Some(&b'/') { task.fs().root() } else { task.fs().cwd() };
        let request =
            ExecRequest { start, path: path.to_vec(), how: Lookup::FOLLOW, shown: path.to_vec(), inaccessible: false, argv, envp };
        let old = task.cred();
        let mut program = task.load(request)?;
        if program.cred.uid == old.uid && program.cred.euid == old.euid && !program.secure {
            // The boot has said which capabilities the first process has: those, not what its ids would give it.
            program.cred = Credentials::clone(&old);
        }
        let regs = entry_regs(program.image.entry, program.image.stack_pointer);
        task.commit(program);
        task.group().did_exec.store(false, Ordering::Relaxed);
        Ok(regs)
    }

    /// Takes back a task of [`new_init`](crate::Container::new_init) that could not be started.
    pub fn discard_init(&self, task: &Arc<Task>) {
        task.abandon();
    }

    /// Ends a task of [`new_init`](crate::Container::new_init) that has not been started, as if it had run and been killed.
    pub fn end_unstarted(&self, task: &Arc<Task>, status: super::ExitStatus) {
        task.end(status);
    }

    /// Takes a process that was started from outside, and has ended, out of the tree: nobody inside waits for it.
    pub fn reap_outsider(&self, group: &Arc<ThreadGroup>) {
        let mut tree = group.pids().tree();
        if group.is_dead() && tree.process(group.tgid).is_some_and(|p| Arc::ptr_eq(&p.group, group) && p.parent == 0) {
            tree.remove_process(group.tgid);
            drop(tree);
            group.leader_reaped();
        }
    }
}
