//! ptrace(2): one task looks at another, stops it and changes it.
//!
//! A tracee stops by itself, on its own sentry thread, and shows its registers in its [`Tracing`] while it waits there ([`stop`]); its
//! tracer reads and writes that copy ([`request`]) and hears of stops by wait4(2) ([`wait`]). [`link`] keeps who traces whom.

mod link;
mod request;
mod stop;
mod wait;

/// What PTRACE_GETREGS tells.
pub use platform::UserRegs as Registers;
pub use request::{Mode, SyscallInfo};
pub(crate) use wait::Found;

use crate::task::{ExitStatus, Task, ThreadGroup};
use abi::signal::SigInfo;
use platform::{FpState, UserRegs};
use std::sync::{
    Weak,
    atomic::{AtomicBool, Ordering},
};
use sync::{Mutex, Rank};

bitflags::bitflags! {
    /// `PTRACE_O_*`
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Options: u32 {
        /// Stops at calls are told from other traps by bit 7.
        const TRACESYSGOOD = 1;
        #[allow(missing_docs)]
        const TRACEFORK = 1 << Event::Fork as u32;
        #[allow(missing_docs)]
        const TRACEVFORK = 1 << Event::Vfork as u32;
        #[allow(missing_docs)]
        const TRACECLONE = 1 << Event::Clone as u32;
        #[allow(missing_docs)]
        const TRACEEXEC = 1 << Event::Exec as u32;
        #[allow(missing_docs)]
        const TRACEVFORKDONE = 1 << Event::VforkDone as u32;
        #[allow(missing_docs)]
        const TRACEEXIT = 1 << Event::Exit as u32;
        /// The tracee dies with its tracer.
        const EXITKILL = 1 << 20;
    }
}

/// `PTRACE_EVENT_*`: what a tracee stops for besides signals and calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Event {
    Fork = 1,
    Vfork = 2,
    Clone = 3,
    Exec = 4,
    VforkDone = 5,
    Exit = 6,
    Stop = 128,
}

/// Why a tracee has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// A signal is to be delivered, or a step has ended.
    Signal,
    /// With its process, by a stop signal.
    Group,
    /// Before a call.
    Entry,
    /// Behind a call.
    Exit,
    /// An event, with what PTRACE_GETEVENTMSG tells.
    Event(Event),
}

/// A tracee that has stopped.
pub(crate) struct Stop {
    pub why: Why,
    /// As waitid(2) tells it in `si_status`: a signal, or `SIGTRAP` with the event above it.
    pub code: i32,
    pub info: Option<SigInfo>,
    pub regs: UserRegs,
    pub fp: FpState,
    /// The tracer has written these.
    pub regs_changed: bool,
    pub fp_changed: bool,
    /// wait4(2) has told of it.
    pub reported: bool,
    /// Stays stopped, but tells when the process goes on (PTRACE_LISTEN).
    pub listening: bool,
    /// It shall go on, with this signal.
    pub resumed: Option<i32>,
}

/// Who traces a task, and how.
pub(crate) struct Link {
    pub tracer: Weak<Task>,
    pub tracer_group: Weak<ThreadGroup>,
    pub options: Options,
    /// By PTRACE_SEIZE.
    pub seized: bool,
    /// How it was resumed last.
    pub mode: Mode,
    /// `PTRACE_GETEVENTMSG`
    pub message: u64,
}

#[derive(Default)]
pub(crate) struct State {
    pub link: Option<Link>,
    pub stop: Option<Stop>,
    /// A thread that has ended, which its tracer has not waited for yet.
    pub dead: Option<ExitStatus>,
    /// The stop of its process that it has been resumed from.
    pub left_stop: Option<u64>,
}

/// A task's part: what its tracer and it share.
pub(crate) struct Tracing {
    state: Mutex<State>,
    /// There is a link: asked on every call, without a lock.
    active: AtomicBool,
    /// It shall stop as soon as it can, for PTRACE_INTERRUPT or as a new tracee.
    trap: AtomicBool,
}

impl Default for Tracing {
    fn default() -> Self {
        Tracing { state: Mutex::new(Rank::TaskState, State::default()), active: AtomicBool::new(false), trap: AtomicBool::new(false) }
    }
}

impl Tracing {
    pub(crate) fn lock(&self) -> sync::MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Whether the task is traced.
    pub(crate) fn active(&self) -> bool {
        self.active.load(Ordering::SeqCst)
    }

    /// Whether the task is to stop for its tracer.
    pub(crate) fn wants_stop(&self) -> bool {
        self.trap.load(Ordering::SeqCst)
    }

    fn mode(&self) -> Mode {
        self.lock().link.as_ref().map_or(Mode::Cont, |l| l.mode)
    }

    fn has(&self, option: Options) -> bool {
        self.lock().link.as_ref().is_some_and(|l| l.options.contains(option))
    }

    /// Whether the task, resumed by its tracer, is held by a stop of its process no longer.
    pub(crate) fn has_left(&self, generation: u64) -> bool {
        self.lock().left_stop == Some(generation)
    }
}

impl Task {
    /// The thread that traces this one (`TracerPid` of /proc/PID/status); 0: none.
    pub fn tracer_tid(&self) -> i32 {
        self.tracing.lock().link.as_ref().and_then(|l| l.tracer.upgrade()).map_or(0, |t| t.tid())
    }
}
