//! The `ptrace` platform: PTRACE_SYSEMU. Works everywhere, simplest, the reference for debugging.
//!
//! A guest address space is a stub process ([`aspace`]), a guest thread is one of its threads ([`context`]), traced by the sentry
//! thread that serves it. PTRACE_SYSEMU stops the thread at each system call and the host carries none of them out; a few
//! instructions of ours ([`stub`]) let the sentry make it map and unmap memory. Stub processes descend from a zygote
//! that is made at boot ([`spawner`]).
//!
//! What the sentry's own seccomp filter must leave to it is in [`HOST_CALLS`].

mod aspace;
mod context;

use crate::placement::Placement;
use crate::spawner::{self, Kind, Site};
use crate::stub::{self, Confinement};
use crate::tracee::run;
use crate::{AddressSpace, Context, Limits, Platform};
use abi::Errno;
use std::sync::Arc;

type Spawner = spawner::Spawner<Traced>;

/// Stubs whose threads are traced.
struct Traced;

/// What an ended thread leaves behind: nothing.
struct Nothing;

impl From<i32> for Nothing {
    fn from(_: i32) -> Nothing {
        Nothing
    }
}

impl Kind for Traced {
    type Thread = i32;
    type Place = ();
    type Operator = ();
    type Remains = Nothing;

    fn confinement(&self) -> Confinement {
        Confinement { image: stub::code().to_vec(), filter: filter(), handlers: Vec::new() }
    }

    fn make_operator(&mut self, _site: Site<'_>) -> Result<(), Errno> {
        // The threads for application code do it themselves.
        Ok(())
    }

    fn make_thread(&mut self, site: Site<'_>, (): ()) -> Result<i32, Errno> {
        run::clone(site.pid, stub::CLONE_THREAD, |_| Ok(()))
    }
}

/// The host calls that this platform makes after boot, each with its reason.
pub const HOST_CALLS: &[(i64, &str)] = &[
    (libc::SYS_ptrace, "run and stop stub threads"),
    (libc::SYS_wait4, "wait for stub threads to stop"),
    (libc::SYS_tgkill, "interrupt a running stub thread"),
    (libc::SYS_kill, "end a stub process"),
    (libc::SYS_sched_setaffinity, "keep a stub thread and its tracer on one CPU"),
    (libc::SYS_gettid, "name the tracer's own thread when pinning it"),
    (libc::SYS_fallocate, "free an ended stub's list of operations"),
];

/// The platform.
pub struct Ptrace {
    spawner: Arc<Spawner>,
    placement: Arc<Placement>,
    min_address: u64,
}

impl Ptrace {
    /// Makes the zygote. To be called when the sentry has its final identity (namespaces, user, capabilities) and before it
    /// installs its seccomp filter. `EPERM` where the host does not let processes trace their own children.
    pub fn new() -> Result<Ptrace, Errno> {
        let placement = Placement::new();
        quiet_child_signals()?;
        let spawner = Spawner::new(&placement, Traced)?;
        Ok(Ptrace { spawner, placement, min_address: min_address() })
    }
}

/// The lowest address that the host lets be mapped.
pub(crate) fn min_address() -> u64 {
    // Without /proc, the usual value.
    let min = std::fs::read_to_string("/proc/sys/vm/mmap_min_addr").ok().and_then(|s| s.trim().parse().ok());
    abi::page_up(min.unwrap_or(65536)).unwrap_or(65536).max(abi::PAGE_SIZE)
}

/// Every stop of a traced thread would else send a SIGCHLD to the sentry, to be ignored there.
pub(crate) fn quiet_child_signals() -> Result<(), Errno> {
    // SAFETY: all-zero is a valid sigaction: the default action.
    let mut act: libc::sigaction = unsafe { std::mem::zeroed() };
    act.sa_flags = libc::SA_NOCLDSTOP;
    // SAFETY: no handler is involved.
    if unsafe { libc::sigaction(libc::SIGCHLD, &act, std::ptr::null_mut()) } < 0 { Err(host::last_errno()) } else { Ok(()) }
}

impl Platform for Ptrace {
    fn name(&self) -> &'static str {
        "ptrace"
    }

    fn limits(&self) -> Limits {
        Limits {
            min_address: self.min_address,
            max_address: stub::CODE,
            fp_state_size: self.spawner.layout.size,
            xfeatures: self.spawner.layout.xfeatures,
        }
    }

    fn new_address_space(&self) -> Result<Arc<dyn AddressSpace>, Errno> {
        Ok(Arc::new(aspace::PtraceAddressSpace::new(&self.spawner)?))
    }

    fn new_context(&self) -> Result<Box<dyn Context>, Errno> {
        Ok(Box::new(context::PtraceContext::new(&self.spawner, &self.placement)))
    }
}

/// What a stub may do by itself (seccomp, for ever): what the entries above do, and nothing else.
///
/// Application code that jumps into the stub gains nothing: its calls are emulated whatever instruction they come from. The calls of
/// the vsyscall page never show as system calls to a tracer; trapping them lets it answer those too.
fn filter() -> Vec<libc::sock_filter> {
    use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
    const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
    const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
    let stmt = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let jump = |k: u32, jt: u8, jf: u8| libc::sock_filter { code: (BPF_JMP | BPF_JEQ | BPF_K) as u16, jt, jf, k };
    let load = |offset: usize| stmt(BPF_LD | BPF_W | BPF_ABS, offset as u32);
    let ret = |action: u32| stmt(BPF_RET | BPF_K, action);

    let mut f = vec![load(4), jump(AUDIT_ARCH_X86_64, 1, 0), ret(KILL), load(0)];
    for nr in
        [libc::SYS_mmap, libc::SYS_munmap, libc::SYS_mprotect, libc::SYS_madvise, libc::SYS_pause, libc::SYS_exit, libc::SYS_exit_group]
    {
        f.extend([jump(nr as u32, 0, 1), ret(libc::SECCOMP_RET_ALLOW)]);
    }
    for nr in [libc::SYS_gettimeofday, libc::SYS_time, libc::SYS_getcpu] {
        f.extend([jump(nr as u32, 0, 1), ret(libc::SECCOMP_RET_TRAP)]);
    }
    // clone with exactly these flags: no namespaces, for one.
    f.extend([jump(libc::SYS_clone as u32, 1, 0), ret(KILL), load(16 + 4), jump(0, 1, 0), ret(KILL), load(16)]);
    for flags in [stub::CLONE_THREAD, stub::CLONE_PROCESS, stub::CLONE_ZYGOTE] {
        f.extend([jump(flags as u32, 0, 1), ret(libc::SECCOMP_RET_ALLOW)]);
    }
    f.push(ret(KILL));
    f
}

/// The stub process of an address space of this platform.
#[cfg(test)]
pub fn pid_of(aspace: &dyn AddressSpace) -> Option<i32> {
    Some(aspace.as_any().downcast_ref::<aspace::PtraceAddressSpace>()?.process.pid())
}
