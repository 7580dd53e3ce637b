//! The `trap` platform: seccomp hands every system call of the application to a signal handler in the stub, which rings a doorbell.
//!
//! A guest address space is a stub process ([`aspace`]), a guest thread is one of its threads ([`thread`], [`context`]). Application code
//! runs there natively. At a system call, a fault or the sentry's signal the host saves its state in a signal frame
//! ([`frame`]) in memory shared with the sentry ([`slots`]), and runs a handler of ours ([`code`]). The handler makes the one
//! system call that the thread's filter ([`filter`]) turns into a notification; the task thread waits for that. The notification's
//! answer is the order what to do next. Both sides ask the host to wake the other on their own CPU: to the scheduler that is like a call
//! of a function.
//!
//! No host call of an application's thread is carried out but those that the sentry was notified of and compared with what it had
//! ordered: mapping and unmapping memory, and the end of a thread. There is no exception, not even `rt_sigreturn`.
//!
//! Where the host has no such notifications, both sides sleep on words of the memory that they share ([`Handover::Futex`]): then a thread may make those two
//! calls of futex(2), and end, and the process's first thread, traced, carries out the operations.
//!
//! What the sentry's own seccomp filter must leave to it is in [`HOST_CALLS`] and [`HOST_IOCTLS`].

mod aspace;
mod beds;
mod code;
mod context;
mod decode;
mod filter;
mod frame;
mod halves;
mod image;
mod operator;
mod patch;
mod slots;
mod spin;
mod thread;

use crate::activity::Load;
use crate::placement::Placement;
use crate::ptrace;
use crate::spawner;
use crate::{AddressSpace, Answers, Context, Event, Limits, Platform, stub};
use abi::Errno;
pub use spin::Policy;
use std::sync::Arc;
use thread::Workshop;

type Spawner = spawner::Spawner<Workshop>;

/// The host calls that this platform makes after boot, each with its reason.
pub const HOST_CALLS: &[(i64, &str)] = &[
    (libc::SYS_ptrace, "make stub processes and their threads"),
    (libc::SYS_wait4, "wait for stub processes in the making, and reap them"),
];

/// The requests of ioctl(2) that this platform makes after boot, each with its reason.
pub const HOST_IOCTLS: &[(u64, &str)] = &[
    (host::notify::IOCTL_RECV, "wait for a stub thread"),
    (host::notify::IOCTL_SEND, "let a stub thread go on, or carry out an ordered call"),
    (host::notify::IOCTL_SET_FLAGS, "wake a stub thread on this processor"),
];

/// The calls that a stub may answer itself, without an answer.
const NO_ANSWERS: [(i64, Option<u32>); 6] = [
    (libc::SYS_getpid, None),
    (libc::SYS_gettid, None),
    (libc::SYS_getuid, None),
    (libc::SYS_geteuid, None),
    (libc::SYS_getgid, None),
    (libc::SYS_getegid, None),
];
const _: () = assert!(libc::SYS_gettid.cast_unsigned() < code::ANSWER_COUNT);

/// The answers to them.
fn answers(a: &Answers) -> [(i64, Option<u32>); NO_ANSWERS.len()] {
    let mut all = NO_ANSWERS;
    for (place, answer) in all.iter_mut().zip([a.pid, a.tid, a.uid, a.euid, a.gid, a.egid]) {
        place.1 = Some(answer);
    }
    all
}

/// What all address spaces and contexts share.
struct Shared {
    patches: Arc<patch::PatchMemory>,
    spawner: Arc<Spawner>,
    geometry: frame::Geometry,
    load: Arc<Load>,
    placement: Arc<Placement>,
    halves: halves::Halves,
    options: Options,
}

/// How a thread of a stub and the sentry's thread that serves it hand over to each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Handover {
    /// By notifications where the host has what that takes.
    #[default]
    Auto,
    /// By notifications, which the host answers at once on the same processor.
    Notify,
    /// By sleeping on words of memory that both share: where another supervisor has the one listener that there can be, and before Linux 6.6.
    Futex,
}

/// What tests may want otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// How the two sides of a guest thread hand over to each other.
    pub handover: Handover,
    /// When to wait for a call by looking for it.
    pub looking: Policy,
}

/// The platform.
pub struct Trap {
    shared: Arc<Shared>,
    min_address: u64,
}

/// `HWCAP2_FSGSBASE`: user mode may read and write the segment bases.
const FSGSBASE: u64 = 2;

impl Trap {
    /// As it fits the host: [`Handover::Notify`] where that works, or else [`Handover::Futex`].
    pub fn new() -> Result<Trap, Errno> {
        Trap::with(Options::default())
    }

    /// Makes the zygote. To be called when the sentry has its final identity (namespaces, user, capabilities) and before it
    /// installs its seccomp filter. `ENODEV`: a processor or kernel without FSGSBASE or XSAVE; `EPERM`: the host does not let processes
    /// trace their own children. By notifications alone, `EBUSY`: a supervisor of this process has a seccomp listener already; `EINVAL`: a
    /// kernel before Linux 6.6.
    pub fn with(mut options: Options) -> Result<Trap, Errno> {
        if options.handover == Handover::Auto {
            options.handover = Handover::Notify;
            match Trap::with(options) {
                Ok(trap) => return Ok(trap),
                Err(e) => {
                    tracing::info!("no notifications ({e}): stubs and sentry hand over by futexes");
                    options.handover = Handover::Futex;
                }
            }
        }
        // SAFETY: reads the auxiliary vector.
        if unsafe { libc::getauxval(libc::AT_HWCAP2) } & FSGSBASE == 0 {
            return Err(Errno::ENODEV);
        }
        let xfeatures = crate::fpu::enabled_features().ok_or(Errno::ENODEV)?;
        let geometry = frame::Geometry::new(xfeatures);
        ptrace::quiet_child_signals()?;
        let placement = Placement::new();
        let spawner = Spawner::new(&placement, Workshop::new(geometry, &placement, options.handover)?)?;
        // With one processor there is never one to spare.
        let load = Load::new(match placement.cpus() {
            1 => 0,
            n => n,
        });
        let trap = Trap {
            shared: Arc::new(Shared {
                patches: patch::PatchMemory::new()?,
                spawner,
                geometry,
                load,
                halves: halves::Halves::new(&placement),
                placement,
                options,
            }),
            min_address: ptrace::min_address(),
        };
        trap.probe()?;
        Ok(trap)
    }

    /// Lets a stub make a system call, and looks whether it arrives as it should.
    fn probe(&self) -> Result<(), Errno> {
        let aspace = self.new_address_space()?;
        let mut regs = frame::no_regs();
        regs.rip = stub::Entry::Syscall.address();
        regs.rax = u64::from(u32::MAX);
        match self.new_context()?.switch(&aspace, &mut regs) {
            Event::Syscall if regs.orig_rax == u64::from(u32::MAX) => Ok(()),
            event => {
                tracing::warn!("the trap platform does not work on this host: {event:?}");
                Err(Errno::ENODEV)
            }
        }
    }
}

impl Platform for Trap {
    fn name(&self) -> &'static str {
        "trap"
    }

    fn limits(&self) -> Limits {
        let layout = &self.shared.spawner.layout;
        Limits { min_address: self.min_address, max_address: stub::CODE, fp_state_size: layout.size, xfeatures: layout.xfeatures }
    }

    fn new_address_space(&self) -> Result<Arc<dyn AddressSpace>, Errno> {
        Ok(Arc::new(aspace::TrapAddressSpace::new(&self.shared)?))
    }

    fn new_context(&self) -> Result<Box<dyn Context>, Errno> {
        Ok(Box::new(context::TrapContext::new(&self.shared)))
    }
}

#[cfg(test)]
pub use code::SLOTS_BEGIN;

/// The stub process of an address space of this platform.
#[cfg(test)]
pub fn pid_of(aspace: &dyn AddressSpace) -> Option<i32> {
    Some(aspace.as_any().downcast_ref::<aspace::TrapAddressSpace>()?.process.pid())
}
