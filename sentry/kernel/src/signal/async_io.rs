//! Signals of open files: fcntl(2)'s O_ASYNC, F_SETOWN and F_SETSIG (fs/fcntl.c: `kill_fasync`, `send_sigio`, `send_sigurg`).
//!
//! A file that somebody wants signals of listens on its own queue. Queues are notified under any lock, where no signal may be
//! sent: what is due is noted for the thread, and sent when its call ends or waits ([`send_due`]); threads of the sentry's own, which
//! have no calls, leave it to a thread that does nothing else.

use crate::{
    cred::Credentials,
    net::SocketFile,
    task::{self, ProcessGroup, Task, ThreadGroup},
    vfs::File,
};
use abi::{
    Result, bail,
    poll::PollEvents,
    signal::{SI_KERNEL, SigInfo, Signal},
};
use std::cell::{Cell, RefCell};
use std::sync::{
    Arc, OnceLock, Weak,
    atomic::{AtomicBool, Ordering},
};
use sync::{Listener, Mutex, Parker, Rank, Registration};

/// `F_OWNER_TID`, `F_OWNER_PID`, `F_OWNER_PGRP`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum OwnerKind {
    Thread = 0,
    Process = 1,
    Group = 2,
}

impl OwnerKind {
    /// From `struct f_owner_ex`.
    #[must_use]
    pub fn from_raw(raw: i32) -> Option<OwnerKind> {
        [OwnerKind::Thread, OwnerKind::Process, OwnerKind::Group].into_iter().find(|k| *k as i32 == raw)
    }
}

/// What happened, with `si_code`'s numbers of SIGIO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Band {
    In = 1,
    Out = 2,
    Err = 4,
    Pri = 5,
    Hup = 6,
}

impl Band {
    /// `si_band`: events of poll(2).
    fn events(self) -> PollEvents {
        match self {
            Band::In => PollEvents::READABLE,
            Band::Out => PollEvents::WRITABLE | PollEvents::WRBAND,
            Band::Err => PollEvents::ERR,
            Band::Pri => PollEvents::PRI | PollEvents::RDBAND,
            Band::Hup => PollEvents::HUP | PollEvents::ERR,
        }
    }
}

/// Who gets signals.
#[derive(Clone)]
enum Receiver {
    Thread(Weak<Task>),
    Process(Weak<ThreadGroup>),
    Group(Arc<ProcessGroup>),
    /// The id is somebody's, but not of this kind.
    Nobody,
}

/// Who gets signals, and by whose right.
#[derive(Clone)]
struct Owner {
    id: i32,
    receiver: Receiver,
    cred: Arc<Credentials>,
}

impl Owner {
    /// Whether the one that is meant still exists.
    fn exists(&self) -> bool {
        match &self.receiver {
            Receiver::Thread(t) => t.strong_count() > 0,
            Receiver::Process(g) => g.upgrade().is_some_and(|g| g.leader().is_some()),
            Receiver::Group(g) => !g.members().is_empty(),
            Receiver::Nobody => false,
        }
    }

    /// Sends to all that it stands for and that whoever named it may signal (`sigio_perm`).
    fn send(&self, make: impl Fn() -> SigInfo) {
        let own = &self.cred;
        let allowed = |theirs: &Credentials| own.euid == 0 || [own.euid, own.uid].iter().any(|u| *u == theirs.suid || *u == theirs.uid);
        let process = |group: &Arc<ThreadGroup>| {
            if group.leader().is_some_and(|l| allowed(&l.cred())) && group.send_signal(make()).is_err() {
                // The queue of signals is full: at least one without words.
                let _ = group.send_signal(SigInfo::new(Signal::IO, SI_KERNEL));
            }
        };
        match &self.receiver {
            Receiver::Thread(t) => {
                if let Some(t) = t.upgrade().filter(|t| allowed(&t.cred()))
                    && t.send_signal(make()).is_err()
                {
                    let _ = t.send_signal(SigInfo::new(Signal::IO, SI_KERNEL));
                }
            }
            Receiver::Process(g) => g.upgrade().iter().for_each(process),
            Receiver::Group(g) => g.members().iter().for_each(process),
            Receiver::Nobody => {}
        }
    }
}

/// What fcntl(2) has set.
#[derive(Default)]
struct Settings {
    /// The kind that was asked for last.
    kind: Option<OwnerKind>,
    owner: Option<Owner>,
    /// F_SETSIG; 0: SIGIO.
    signal: u8,
    /// The descriptor through which O_ASYNC was set.
    fd: Option<u32>,
    ear: Option<(Arc<Ear>, Registration)>,
}

/// A file's part in this.
#[derive(Default)]
pub struct AsyncIo(OnceLock<Mutex<Settings>>);

impl AsyncIo {
    fn settings(&self) -> &Mutex<Settings> {
        self.0.get_or_init(|| Mutex::new(Rank::TaskState, Settings::default()))
    }
}

impl File {
    /// F_SETOWN and F_SETOWN_EX; id 0: nobody. `ESRCH`: there is no such thread, process or group.
    pub fn set_owner(self: &Arc<Self>, task: &Task, kind: OwnerKind, id: i32) -> Result {
        let owner = if id == 0 { None } else { Some(Owner { id, receiver: receiver(task, kind, id)?, cred: task.cred() }) };
        let old = {
            let mut s = self.async_io.settings().lock();
            s.kind = Some(kind);
            std::mem::replace(&mut s.owner, owner)
        };
        drop(old);
        self.listen_to_itself();
        Ok(())
    }

    /// F_GETOWN_EX: kind and id; id 0: nobody, or nobody any more.
    pub fn owner(&self) -> (OwnerKind, i32) {
        let Some((kind, owner)) = self.async_io.0.get().map(|s| s.lock()).map(|s| (s.kind, s.owner.clone())) else {
            return (OwnerKind::Thread, 0);
        };
        (kind.unwrap_or(OwnerKind::Thread), owner.filter(Owner::exists).map_or(0, |o| o.id))
    }

    /// F_SETSIG.
    pub fn set_owner_signal(&self, signal: u8) {
        self.async_io.settings().lock().signal = signal;
    }

    /// F_GETSIG.
    pub fn owner_signal(&self) -> u8 {
        self.async_io.0.get().map_or(0, |s| s.lock().signal)
    }

    /// O_ASYNC was set or taken away through descriptor `fd`. Nothing happens for files that have no signals.
    pub fn set_async(self: &Arc<Self>, task: &Task, fd: u32, on: bool) -> Result {
        if !self.ops().has_async() {
            return Ok(());
        }
        let owned = {
            let mut s = self.async_io.settings().lock();
            s.fd = on.then_some(fd);
            s.owner.is_some()
        };
        match self.ops().async_owner(task).filter(|_| on && !owned) {
            Some((kind, id)) => self.set_owner(task, kind, id),
            None => {
                self.listen_to_itself();
                Ok(())
            }
        }
    }

    /// Registers on the file's own queue, or stops doing so.
    fn listen_to_itself(self: &Arc<Self>) {
        let Some(queue) = self.ops().poll_queue().filter(|_| self.ops().has_async()) else { return };
        let mut s = self.async_io.settings().lock();
        let wanted = s.owner.is_some();
        let old = match (&s.ear, wanted) {
            (Some((ear, _)), true) => {
                ear.armed.store(s.fd.is_some(), Ordering::Relaxed);
                None
            }
            (None, true) => {
                let ear = Arc::new(Ear { file: Arc::downgrade(self), armed: AtomicBool::new(s.fd.is_some()) });
                let registration = queue.register(PollEvents::all(), ear.clone());
                s.ear = Some((ear, registration));
                None
            }
            (_, false) => s.ear.take(),
        };
        drop(s);
        drop(old);
    }

    /// Something happened that its owner is to hear of.
    fn signal_owner(&self, events: PollEvents) {
        let settings = self.async_io.0.get().map(|s| s.lock());
        let Some((owner, signal, fd)) = settings.and_then(|s| Some((s.owner.clone()?, s.signal, s.fd))) else { return };
        let urgent = is_urgent(events) && SocketFile::of(self).is_ok();
        if urgent {
            owner.send(|| SigInfo::new(Signal::URG, SI_KERNEL));
        }
        let Some(fd) = fd else { return };
        let band = self.ops().async_band(self, events);
        for band in [urgent.then_some(Band::Pri).filter(|_| signal != 0), band].into_iter().flatten() {
            owner.send(|| sigio(signal, band, fd));
        }
    }
}

/// Whom an id means. `ESRCH`: nobody has it, as whatever.
fn receiver(task: &Task, kind: OwnerKind, id: i32) -> Result<Receiver> {
    let pids = task.pids();
    let found = match kind {
        OwnerKind::Thread => pids.task(id).map(|t| Receiver::Thread(Arc::downgrade(&t))),
        OwnerKind::Process => pids.process(id).map(|g| Receiver::Process(Arc::downgrade(&g))),
        OwnerKind::Group => pids.process_group(id).map(Receiver::Group),
    };
    match found {
        Some(found) => Ok(found),
        None if pids.task(id).is_some() || pids.process(id).is_some() || pids.process_group(id).is_some() => Ok(Receiver::Nobody),
        None => bail!(ESRCH, "nobody has the id {id}"),
    }
}

/// Urgent data has come, if it is a socket, rather than everything changed.
fn is_urgent(events: PollEvents) -> bool {
    events.contains(PollEvents::PRI) && !events.contains(PollEvents::HUP)
}

/// The signal, with what happened where a signal was named (`send_sigio_to_task`).
fn sigio(signal: u8, band: Band, fd: u32) -> SigInfo {
    const SI_SIGIO: i32 = -5;
    let Some(named) = Signal::new(u64::from(signal)) else { return SigInfo::new(Signal::IO, SI_KERNEL) };
    // Signals whose codes mean something else.
    let own_codes = [Signal::ILL, Signal::FPE, Signal::SEGV, Signal::BUS, Signal::TRAP, Signal::CHLD, Signal::SYS];
    let mut info = SigInfo::new(named, if own_codes.contains(&named) { SI_SIGIO } else { band as i32 });
    let [at_band, at_fd, ..] = &mut info.fields;
    (*at_band, *at_fd) = (u64::from(band.events().bits()), u64::from(fd));
    info
}

/// What a file has in its own queue.
struct Ear {
    file: Weak<File>,
    /// O_ASYNC is set; otherwise only urgent data counts.
    armed: AtomicBool,
}

/// What is to be sent.
type Due = (Weak<File>, PollEvents);

thread_local! {
    static DUE: RefCell<Vec<Due>> = const { RefCell::new(Vec::new()) };
    static ANY: Cell<bool> = const { Cell::new(false) };
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

impl Listener for Ear {
    fn notify(&self, events: PollEvents) -> bool {
        if QUIET.get() || !(self.armed.load(Ordering::Relaxed) || is_urgent(events)) {
            return false;
        }
        let due = (self.file.clone(), events);
        if task::current().is_some() {
            DUE.with_borrow_mut(|list| list.push(due));
            ANY.set(true);
        } else {
            Courier::get().take(due);
        }
        false
    }
}

/// Runs `f`, whose notifications make no signals: changes that Linux tells only to who waits.
pub fn quietly<T>(f: impl FnOnce() -> T) -> T {
    let before = QUIET.replace(true);
    let result = f();
    QUIET.set(before);
    result
}

/// Sends what the calling task's calls have brought about. No lock may be held.
pub(crate) fn send_due() {
    if !ANY.get() {
        return;
    }
    ANY.set(false);
    send_all(DUE.take());
}

fn send_all(list: Vec<Due>) {
    for (file, events) in list {
        if let Some(file) = file.upgrade() {
            file.signal_owner(events);
        }
    }
}

/// Sends for threads that cannot.
struct Courier {
    list: Mutex<Vec<Due>>,
    parker: Parker,
}

impl Courier {
    /// The one there is; its thread runs.
    fn get() -> &'static Courier {
        static COURIER: OnceLock<Courier> = OnceLock::new();
        COURIER.get_or_init(|| {
            if let Err(e) = host::thread::spawn("sigio", || Courier::get().serve()) {
                tracing::error!("no thread for signals of files: {e:?}");
            }
            Courier { list: Mutex::new(Rank::Leaf, Vec::new()), parker: Parker::new() }
        })
    }

    fn take(&self, due: Due) {
        self.list.lock().push(due);
        self.parker.unpark();
    }

    fn serve(&self) {
        loop {
            let list = std::mem::take(&mut *self.list.lock());
            if list.is_empty() {
                self.parker.park(None);
            }
            send_all(list);
        }
    }
}
