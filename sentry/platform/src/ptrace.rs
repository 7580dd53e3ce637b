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
mod fpu;
mod run;
mod spawner;
mod stub;
mod sys;
#[cfg(test)]
mod tests;

use crate::placement::Placement;
use crate::{AddressSpace, Context, Limits, Platform};
use abi::Errno;
use spawner::Spawner;
use std::sync::Arc;

/// The host signal that makes a running stub thread stop for us. Ignored by default, so that one that arrives too late, when the
/// thread is traced no more, does no harm.
const INTERRUPT: i32 = libc::SIGURG;

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
        let spawner = Spawner::new(&placement)?;
        // Without /proc, the usual value.
        let min = std::fs::read_to_string("/proc/sys/vm/mmap_min_addr").ok().and_then(|s| s.trim().parse().ok());
        let min_address = abi::page_up(min.unwrap_or(65536)).unwrap_or(65536).max(abi::PAGE_SIZE);
        Ok(Ptrace { spawner, placement, min_address })
    }
}

/// Every stop of a traced thread would else send a SIGCHLD to the sentry, to be ignored there.
fn quiet_child_signals() -> Result<(), Errno> {
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
