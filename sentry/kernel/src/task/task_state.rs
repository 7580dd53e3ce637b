//! Small parts of a [`super::Task`]: its state letter, what wakes it, and settings of prctl(2) and the scheduler.

use abi::poll::PollEvents;
use std::time::Instant;
use sync::{Listener, Parker};

/// Wakes a parked thread; every wait queue can notify it.
#[derive(Debug, Default)]
pub struct Waker {
    parker: Parker,
}

impl Waker {
    /// Waits for [`unpark`](Self::unpark), or until the deadline; returns whether it was woken.
    pub fn park(&self, deadline: Option<Instant>) -> bool {
        self.parker.park(deadline)
    }
    /// Wakes the thread, or spares it its next wait.
    pub fn unpark(&self) {
        self.parker.unpark();
    }
}

impl Listener for Waker {
    fn notify(&self, _: PollEvents) -> bool {
        self.parker.unpark();
        true
    }
}

/// What a task is doing, with the letters of /proc/PID/stat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RunState {
    /// In the application, or in the sentry on its behalf.
    Running = b'R',
    /// In an interruptible wait.
    Sleeping = b'S',
    /// In a wait that only a kill ends.
    Uninterruptible = b'D',
    /// Stopped by job control.
    Stopped = b'T',
    /// Stopped for its tracer.
    Traced = b't',
    /// Ended, not yet waited for.
    Zombie = b'Z',
    /// Ended and gone.
    Dead = b'X',
}

impl RunState {
    pub(super) fn from_raw(raw: u8) -> RunState {
        match raw {
            b'S' => RunState::Sleeping,
            b'D' => RunState::Uninterruptible,
            b'T' => RunState::Stopped,
            b't' => RunState::Traced,
            b'Z' => RunState::Zombie,
            b'X' => RunState::Dead,
            _ => RunState::Running,
        }
    }

    /// The letter.
    #[must_use]
    pub fn letter(self) -> char {
        char::from(self as u8)
    }

    /// With the word that /proc/PID/status puts behind the letter.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            RunState::Running => "running",
            RunState::Sleeping => "sleeping",
            RunState::Uninterruptible => "disk sleep",
            RunState::Stopped => "stopped",
            RunState::Traced => "tracing stop",
            RunState::Zombie => "zombie",
            RunState::Dead => "dead",
        }
    }
}

/// Settings of a thread that calls read and write one at a time. Copied to its children, except where fork(2) says otherwise.
#[derive(Clone, Debug)]
pub struct TaskInfo {
    /// `comm`, at most 15 bytes.
    pub comm: Vec<u8>,
    /// Where the thread's end writes zero and wakes a futex (set_tid_address(2)).
    pub clear_child_tid: u64,
    /// personality(2)
    pub personality: u32,
    /// `PR_SET_PDEATHSIG`; 0: none.
    pub parent_death_signal: u8,
    /// `PR_SET_TIMERSLACK`, in nanoseconds.
    pub timer_slack_ns: u64,
    /// -20 to 19.
    pub nice: i32,
    /// `SCHED_*`
    pub policy: u32,
    /// Of real-time policies; else 0.
    pub priority: i32,
    /// `SCHED_RESET_ON_FORK`
    pub reset_on_fork: bool,
    /// CPUs that the task asked to run on, bit n for CPU n; honoured in what the calls tell, not on the host.
    pub affinity: [u64; 16],
    /// ioprio_set(2)
    pub io_priority: u32,
    /// `PR_SET_TSC`-like settings are not kept; `PR_SET_THP_DISABLE` is.
    pub thp_disable: bool,
    /// `PR_SET_IO_FLUSHER`, kept for reading back.
    pub io_flusher: bool,
    /// `PR_MCE_KILL` policy, kept for reading back.
    pub mce_kill: u32,
    /// What it may call; replaced with [`Task::set_filters`](super::Task::set_filters).
    pub seccomp: crate::seccomp::Filters,
}

impl Default for TaskInfo {
    fn default() -> Self {
        let cpus = host::process::machine().cpus;
        let mut affinity = [0u64; 16];
        for cpu in 0..cpus.min(1024) {
            affinity[cpu / 64] |= 1 << (cpu % 64);
        }
        TaskInfo {
            comm: b"init".to_vec(),
            clear_child_tid: 0,
            personality: 0,
            parent_death_signal: 0,
            timer_slack_ns: 50_000,
            nice: 0,
            policy: libc::SCHED_OTHER as u32,
            priority: 0,
            reset_on_fork: false,
            affinity,
            io_priority: 0,
            thp_disable: false,
            io_flusher: false,
            mce_kill: 2,
            seccomp: crate::seccomp::Filters::default(),
        }
    }
}
