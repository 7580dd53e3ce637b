//! [`Tty`]: one pseudo-terminal. Both ends' state, who is told when it changes, and job control.

use super::ldisc::{Effects, Ldisc};
use super::termios::Winsize;
use abi::{
    Result, bail, libc,
    poll::PollEvents,
    signal::{SI_KERNEL, SigInfo, Signal},
};
use kernel::signal::async_io::OwnerKind;
use kernel::task::{ControllingTerminal, ProcessGroup, Session, Task};
use std::any::Any;
use std::sync::Arc;
use sync::{Mutex, Rank, WaitQueue};

/// Major number of pseudo-terminal slaves (UNIX98 ptys, up to a million of them under eight majors; the first is enough here).
pub const SLAVE_MAJOR: u32 = 136;

/// A pseudo-terminal.
pub struct Tty {
    /// Its number: `/dev/pts/INDEX`.
    pub index: u32,
    owner: (u32, u32),
    state: Mutex<State>,
    jobs: Mutex<Jobs>,
    /// Notified of what the slave may do.
    pub slave_queue: WaitQueue,
    /// Notified of what the master may do.
    pub master_queue: WaitQueue,
}

/// What both ends share.
pub struct State {
    /// The line discipline.
    pub ldisc: Ldisc,
    /// TIOCSPTLCK: the slave cannot be opened.
    pub locked: bool,
    /// TIOCEXCL: no further open without CAP_SYS_ADMIN.
    pub exclusive: bool,
    /// TIOCPKT on the master.
    pub packet: bool,
    /// `TIOCPKT_*` bits not yet read in packet mode.
    pub packet_status: u8,
    /// Open descriptions of the slave.
    slaves: usize,
    /// The slave was opened before: a master without slaves now is at its end.
    was_open: bool,
    /// The master is gone.
    hung_up: bool,
}

#[derive(Default)]
struct Jobs {
    session: Option<Arc<Session>>,
    foreground: Option<Arc<ProcessGroup>>,
}

impl Tty {
    /// A new terminal, locked until the master unlocks it.
    pub fn new(index: u32, owner: (u32, u32)) -> Arc<Tty> {
        let state = State {
            ldisc: Ldisc::default(),
            locked: true,
            exclusive: false,
            packet: false,
            packet_status: 0,
            slaves: 0,
            was_open: false,
            hung_up: false,
        };
        Arc::new(Tty {
            index,
            owner,
            state: Mutex::new(Rank::FileState, state),
            jobs: Mutex::new(Rank::TaskState, Jobs::default()),
            slave_queue: WaitQueue::new(),
            master_queue: WaitQueue::new(),
        })
    }

    /// Works on the state, then does what came of it: signals, and telling both ends.
    pub fn with<R>(&self, f: impl FnOnce(&mut State, &mut Effects) -> R) -> R {
        let mut fx = Effects::default();
        let (result, has_output) = {
            let mut s = self.state.lock();
            let r = f(&mut s, &mut fx);
            s.packet_status |= fx.packet;
            (r, !s.ldisc.output.is_empty() || (s.packet && s.packet_status != 0))
        };
        for signal in &fx.signals {
            if let Some(group) = self.foreground() {
                group.send_signal(SigInfo::new(*signal, SI_KERNEL));
            }
        }
        if fx.readable || fx.changed {
            self.slave_queue.notify(PollEvents::READABLE | PollEvents::WRITABLE);
        }
        if has_output {
            self.master_queue.notify(PollEvents::READABLE | PollEvents::PRI);
        }
        if fx.changed {
            self.master_queue.notify(PollEvents::WRITABLE);
        }
        result
    }

    /// Who hears of O_ASYNC's signals unless somebody has said: the group in the foreground, or else whoever sets it (`tty_fasync`).
    pub fn async_owner(&self, task: &Task) -> (OwnerKind, i32) {
        self.foreground().map_or((OwnerKind::Process, task.tgid()), |g| (OwnerKind::Group, g.id))
    }

    /// User and group of whoever opened the master: the slave's owner.
    pub fn owner(&self) -> (u32, u32) {
        self.owner
    }

    /// Takes bytes of the master; how many fitted.
    pub fn feed(&self, bytes: &[u8]) -> usize {
        self.with(|s, fx| s.ldisc.receive(bytes, fx))
    }

    /// Gives up to `max` bytes of output to the master.
    pub fn drain(&self, max: usize) -> Vec<u8> {
        let bytes: Vec<u8> = self.with(|s, _| {
            let n = max.min(s.ldisc.output.len());
            s.ldisc.output.drain(..n).collect()
        });
        if !bytes.is_empty() {
            self.slave_queue.notify(PollEvents::WRITABLE);
        }
        bytes
    }

    /// A new size: `SIGWINCH` to the foreground if it is another.
    pub fn set_winsize(&self, size: Winsize) {
        self.with(|s, fx| {
            if std::mem::replace(&mut s.ldisc.winsize, size) != size {
                fx.signals.push(Signal::WINCH);
            }
        });
    }

    /// A slave is opened.
    pub fn slave_opened(&self, privileged: bool) -> Result {
        self.with(|s, _| {
            if s.locked || s.hung_up {
                bail!(EIO, "terminal is locked or has no master");
            }
            if s.exclusive && !privileged {
                bail!(EBUSY);
            }
            s.slaves += 1;
            s.was_open = true;
            Ok(())
        })
    }

    /// A slave is closed.
    pub fn slave_closed(&self) {
        let last = self.with(|s, _| {
            s.slaves = s.slaves.saturating_sub(1);
            if s.slaves == 0 {
                s.exclusive = false;
            }
            s.slaves == 0
        });
        if last {
            self.master_queue.notify(PollEvents::HUP | PollEvents::READABLE);
        }
    }

    /// The master is closed: whoever holds the slave sees a hangup.
    pub fn master_closed(&self) {
        self.with(|s, fx| {
            s.hung_up = true;
            s.ldisc.hangup();
            fx.changed = true;
        });
        self.slave_queue.notify(PollEvents::HUP | PollEvents::ERR | PollEvents::READABLE);
        self.leave_session();
    }

    /// Takes the terminal from its session: SIGHUP and SIGCONT to the foreground, as at a hangup of the line.
    fn leave_session(&self) {
        let jobs = std::mem::take(&mut *self.jobs.lock());
        if let Some(session) = &jobs.session {
            session.set_terminal(None);
            if let Some(leader) = &jobs.foreground {
                leader.send_signal(SigInfo::new(Signal::HUP, SI_KERNEL));
                leader.send_signal(SigInfo::new(Signal::CONT, SI_KERNEL));
            }
        }
    }

    /// Whether the master is gone.
    pub fn is_hung_up(&self) -> bool {
        self.state.lock().hung_up
    }

    /// Whether there was a slave and is none any more.
    pub fn is_abandoned(&self) -> bool {
        let s = self.state.lock();
        s.was_open && s.slaves == 0
    }

    /// What the slave can do now.
    pub fn poll_slave(&self) -> PollEvents {
        let s = self.state.lock();
        let mut e = PollEvents::empty();
        if s.hung_up {
            return PollEvents::READABLE | PollEvents::WRITABLE | PollEvents::HUP | PollEvents::ERR;
        }
        if s.ldisc.readable() {
            e |= PollEvents::READABLE;
        }
        if s.ldisc.writable() {
            e |= PollEvents::WRITABLE;
        }
        e
    }

    /// What the master can do now.
    pub fn poll_master(&self) -> PollEvents {
        let s = self.state.lock();
        let mut e = PollEvents::empty();
        if !s.ldisc.output.is_empty() {
            e |= PollEvents::READABLE;
        }
        if s.packet && s.packet_status != 0 {
            e |= PollEvents::PRI | PollEvents::READABLE;
        }
        if s.ldisc.input_room() > 0 {
            e |= PollEvents::WRITABLE;
        }
        if s.was_open && s.slaves == 0 {
            e |= PollEvents::HUP;
        }
        e
    }

    /// Its session.
    pub fn session(&self) -> Option<Arc<Session>> {
        self.jobs.lock().session.clone()
    }

    /// Makes this the controlling terminal of the task's session (TIOCSCTTY). `steal`: take it from another session, which needs
    /// CAP_SYS_ADMIN.
    pub fn become_controlling(self: &Arc<Self>, task: &Task, steal: bool) -> Result {
        if !task.is_session_leader() {
            bail!(EPERM, "not a session leader");
        }
        let session = task.session();
        if session.terminal().is_some() {
            if task.is_controlled_by(&**self) {
                return Ok(());
            }
            bail!(EPERM, "the session has a terminal");
        }
        let group = task.process_group();
        let may_steal = steal && task.cred().capable(kernel::cred::CapSet::SYS_ADMIN);
        let other = {
            let mut jobs = self.jobs.lock();
            if jobs.session.is_some() && !may_steal {
                bail!(EPERM, "controls another session");
            }
            std::mem::replace(&mut *jobs, Jobs { session: Some(session.clone()), foreground: Some(group) }).session
        };
        if let Some(other) = other {
            other.set_terminal(None);
        }
        session.set_terminal(Some(self.clone()));
        Ok(())
    }

    /// TIOCNOTTY: the task's session gives the terminal up, if it leads it; others merely lose it in Linux, where the terminal is a
    /// process's own; here it is the session's, and they keep it.
    pub fn give_up(&self, task: &Task) -> Result {
        if !task.is_controlled_by(self) {
            bail!(ENOTTY);
        }
        if task.is_session_leader() {
            self.leave_session();
        }
        Ok(())
    }

    /// Checks that a process of the background may go on ([`Task::job_control`]).
    pub fn check_background(&self, task: &Task, signal: Signal) -> Result {
        task.job_control(self, signal)
    }
}

impl State {
    /// Whether the master is gone.
    pub fn hung_up(&self) -> bool {
        self.hung_up
    }
    /// Whether writing by a background process sends SIGTTOU.
    pub fn to_stop(&self) -> bool {
        self.ldisc.termios.local(libc::TOSTOP)
    }
}

impl ControllingTerminal for Tty {
    fn foreground(&self) -> Option<Arc<ProcessGroup>> {
        self.jobs.lock().foreground.clone()
    }
    fn set_foreground(&self, group: Option<Arc<ProcessGroup>>) {
        self.jobs.lock().foreground = group;
    }
    fn hangup(&self) {
        self.leave_session();
    }
    fn device(&self) -> u64 {
        abi::fs::makedev(SLAVE_MAJOR, self.index)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}
