//! The spawner: a thread of the sentry that traces the zygote and makes stub processes of it.
//!
//! The first thread of every stub process (its leader) stays stopped, traced by the spawner: so the process's id is not used again
//! before the spawner has reaped it, the host kills all stubs when the sentry dies (`PTRACE_O_EXITKILL`), and there is always
//! somebody who can add a thread. Guest threads run on the other threads, each traced by its own task thread.
//!
//! A few processes are kept ready, because waking the spawner and waiting for it costs more than all the rest of a fork.

use crate::fpu;
use crate::placement::Placement;
use crate::stub::{self, OPS, OPS_LEN};
use crate::tracee::run;
use crate::tracee::sys::{self, Wait};
use abi::Errno;
use host::memfile::MemoryFile;
use std::os::fd::AsRawFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Stub processes kept ready.
const WARM: usize = 4;
/// Stub processes there can be at once.
const SLOTS: u64 = 1 << 16;

/// What a platform's stubs are like.
pub trait Kind: Send + 'static {
    /// A thread for application code, with all that the platform needs to run it.
    type Thread: Send + 'static;
    /// Where in the process another thread goes.
    type Place: Send + Default + 'static;
    /// What carries out operations in the process's memory. It may be dropped once the process was killed.
    type Operator: Send + 'static;
    /// What may be given to others only after a process has ended.
    type Remains: Send + From<Self::Thread> + 'static;

    /// How the stub confines itself.
    fn confinement(&self) -> stub::Confinement;

    /// Adds to a new stub process, whose leader the spawner traces, what carries out its operations.
    fn make_operator(&mut self, site: Site<'_>) -> Result<Self::Operator, Errno>;

    /// A descriptor of the words that all stubs share, if they need them.
    fn beds(&self) -> Option<i32> {
        None
    }

    /// Adds an idle thread to a stub process. The spawner traces the process's leader, which stands still.
    fn make_thread(&mut self, site: Site<'_>, place: Self::Place) -> Result<Self::Thread, Errno>;
}

/// A stub process that gets a thread.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// The process, and its leader.
    pub pid: i32,
    /// Its part of the operations file.
    pub slot: u64,
    /// That file.
    pub ops: &'a Arc<MemoryFile>,
}

/// A stub process that nobody uses yet.
pub struct Stub<K: Kind> {
    /// The process, and its leader.
    pub pid: i32,
    /// Its only thread for application code, idle.
    pub thread: K::Thread,
    /// What carries out its operations.
    pub operator: K::Operator,
    /// Which part of the operations file is mapped at [`OPS`].
    pub slot: u64,
}

/// A stub process as its user knows it.
#[derive(Clone, Copy, Debug)]
pub struct Id {
    /// The process.
    pub pid: i32,
    /// Which part of the operations file it has.
    pub slot: u64,
}

enum Request<K: Kind> {
    /// Make a stub.
    New(Sender<Result<Stub<K>, Errno>>),
    /// Add an idle thread to a process.
    Thread(Id, K::Place, Sender<Result<K::Thread, Errno>>),
    /// Let the leader of a process carry out so many operations of the list.
    Operate(Id, u64, Sender<Result<(u64, u64), Errno>>),
    /// A process was killed: reap its leader and free its slot.
    Reap(Id, Vec<K::Remains>),
    /// A ready process was taken.
    Refill,
    /// End.
    Stop,
}

/// The handle to the spawner. Dropping it ends the zygote.
pub struct Spawner<K: Kind> {
    requests: Sender<Request<K>>,
    ready: Arc<Mutex<Vec<Stub<K>>>>,
    ops: Arc<MemoryFile>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// What the host says of the extended state.
    pub layout: fpu::Layout,
}

impl<K: Kind> Spawner<K> {
    /// Makes the zygote and the thread that traces it.
    pub fn new(placement: &Arc<Placement>, kind: K) -> Result<Arc<Self>, Errno> {
        let ops = Arc::new(MemoryFile::new(c"caisson-ops", SLOTS * OPS_LEN)?);
        let ready = Arc::new(Mutex::new(Vec::new()));
        let (requests, receiver) = channel();
        let (started, result) = channel();
        let (ops2, ready2, placement) = (Arc::clone(&ops), Arc::clone(&ready), Arc::clone(placement));
        let thread = host::thread::spawn("spawner", move || {
            let begun = zygote(&kind.confinement(), kind.beds());
            let (zygote, layout) = match begun {
                Ok(z) => z,
                Err(e) => {
                    let _ = started.send(Err(e));
                    return;
                }
            };
            let mut loop_ = Loop { kind, zygote, placement, ops: ops2, ready: ready2, free: Vec::new(), next: 0, dying: Vec::new() };
            if started.send(Ok(layout)).is_ok() {
                loop_.run(&receiver);
            }
            loop_.end();
        })?;
        let layout = result.recv().map_err(|_| Errno::EIO)??;
        Ok(Arc::new(Spawner { requests, ready, ops, thread: Mutex::new(Some(thread)), layout }))
    }

    /// A new stub process, from the ready ones if there is one.
    pub fn process(&self) -> Result<Stub<K>, Errno> {
        let (stub, left) = {
            let mut ready = lock(&self.ready);
            (ready.pop(), ready.len())
        };
        if let Some(stub) = stub {
            // Where stubs come back, there is no need for new ones.
            if left < WARM / 2 {
                let _ = self.requests.send(Request::Refill);
            }
            return Ok(stub);
        }
        self.ask(Request::New)
    }

    /// Takes back a stub that is as good as new. Gives it back if there are enough.
    pub fn give(&self, stub: Stub<K>) -> Option<Stub<K>> {
        let mut ready = lock(&self.ready);
        if ready.len() >= 2 * WARM {
            return Some(stub);
        }
        ready.push(stub);
        None
    }

    /// A new idle thread in a stub process.
    pub fn thread(&self, id: Id, place: K::Place) -> Result<K::Thread, Errno> {
        self.ask(|reply| Request::Thread(id, place, reply))
    }

    /// The same without waiting for it. What comes must be taken.
    pub fn thread_later(&self, id: Id, place: K::Place) -> Result<Receiver<Result<K::Thread, Errno>>, Errno> {
        let (reply, result) = channel();
        self.requests.send(Request::Thread(id, place, reply)).map_err(|_| Errno::EAGAIN)?;
        Ok(result)
    }

    /// Lets the leader of a process carry out the first `count` operations of its list. Returns how many succeeded, and what the last one gave.
    pub fn operate(&self, id: Id, count: u64) -> Result<(u64, u64), Errno> {
        self.ask(|reply| Request::Operate(id, count, reply))
    }

    /// Ends a stub process, none of whose threads but the leader anyone traces any more. `dead`: it was seen to be dying. `remains`
    /// are dropped when it has ended.
    pub fn end(&self, id: Id, dead: bool, remains: Vec<K::Remains>) {
        if !dead {
            // A process of ours even if it was killed just now: its id is taken until the spawner reaps it.
            let _ = host::signals::kill(id.pid, libc::SIGKILL);
        }
        let _ = self.requests.send(Request::Reap(id, remains));
    }

    /// Writes to the list of operations of the process with `slot`.
    pub fn write_ops(&self, slot: u64, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.ops.copy_out(slot * OPS_LEN + offset, bytes)
    }

    fn ask<T>(&self, request: impl FnOnce(Sender<Result<T, Errno>>) -> Request<K>) -> Result<T, Errno> {
        let (reply, result) = channel();
        self.requests.send(request(reply)).map_err(|_| Errno::EAGAIN)?;
        result.recv().map_err(|_| Errno::EAGAIN)?
    }
}

impl<K: Kind> Drop for Spawner<K> {
    fn drop(&mut self) {
        let _ = self.requests.send(Request::Stop);
        if let Some(t) = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = t.join();
        }
    }
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the zygote: a stopped stub process without descendants, traced by this thread.
fn zygote(confinement: &stub::Confinement, beds: Option<i32>) -> Result<(i32, fpu::Layout), Errno> {
    let code = MemoryFile::new(c"caisson-stub", abi::PAGE_SIZE)?;
    code.copy_out(0, &confinement.image)?;
    let first = stub::prepare(code.fd().as_raw_fd(), confinement)?;
    // If anything below fails, this thread ends, and with it all that it traces.
    match sys::wait(first)? {
        Wait::Signal(libc::SIGTRAP) => {}
        other => {
            tracing::error!("the stub could not be prepared: {other:?}");
            return Err(Errno::EPERM);
        }
    }
    sys::set_options(first, libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACEFORK | libc::PTRACE_O_TRACESYSGOOD)?;
    let zygote = fork(first, stub::CLONE_ZYGOTE);
    let _ = host::signals::kill(first, libc::SIGKILL);
    run::reap(first);
    let zygote = zygote?;
    let above = stub::CODE + abi::PAGE_SIZE;
    for (from, to) in [(0, stub::CODE), (above, stub::USER_END)] {
        run::syscall(zygote, libc::SYS_munmap, [from, to - from, 0, 0, 0, 0])?;
    }
    if let Some(fd) = beds {
        let flags = (libc::MAP_SHARED | libc::MAP_FIXED) as u64;
        run::syscall(zygote, libc::SYS_mmap, [stub::BEDS, stub::BEDS_LEN, libc::PROT_READ as u64, flags, fd as u64, 0])?;
    }
    Ok((zygote, fpu::Layout::of(zygote)?))
}

/// Makes the stopped process `parent` fork; both are stopped afterwards. Returns the child.
fn fork(parent: i32, flags: u64) -> Result<i32, Errno> {
    let mut child = 0;
    let made = run::clone(parent, flags, |event| {
        if event == libc::PTRACE_EVENT_FORK {
            child = i32::try_from(sys::get_event_message(parent)?).map_err(|_| Errno::EIO)?;
        }
        Ok(())
    });
    made?;
    if child == 0 {
        return Err(Errno::EIO);
    }
    // Its first stop, before it has run a single instruction.
    match sys::wait(child)? {
        Wait::Gone => Err(Errno::ESRCH),
        _ => Ok(child),
    }
}

/// The spawner thread's state.
struct Loop<K: Kind> {
    kind: K,
    zygote: i32,
    placement: Arc<Placement>,
    ops: Arc<MemoryFile>,
    ready: Arc<Mutex<Vec<Stub<K>>>>,
    /// Slots to be used again.
    free: Vec<u64>,
    /// The first slot that was never used.
    next: u64,
    /// Killed processes with their slots.
    dying: Vec<(Id, Vec<K::Remains>)>,
}

impl<K: Kind> Loop<K> {
    fn run(&mut self, requests: &Receiver<Request<K>>) {
        // After a failure to make a process in advance, there is no point in trying before something has changed.
        let mut refill = true;
        let mut patience = Duration::from_millis(1);
        loop {
            let request = match requests.try_recv() {
                Ok(r) => r,
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) if refill && lock(&self.ready).len() < WARM => {
                    match self.make() {
                        Ok(stub) => lock(&self.ready).push(stub),
                        Err(_) => refill = false,
                    }
                    continue;
                }
                Err(TryRecvError::Empty) if self.dying.is_empty() => match requests.recv() {
                    Ok(r) => r,
                    Err(_) => return,
                },
                Err(TryRecvError::Empty) => match requests.recv_timeout(patience) {
                    Ok(r) => r,
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => {
                        self.reap();
                        patience = (patience * 2).min(Duration::from_millis(100));
                        continue;
                    }
                },
            };
            patience = Duration::from_millis(1);
            refill = true;
            match request {
                Request::New(reply) => {
                    if let Err(lost) = reply.send(self.make())
                        && let Ok(stub) = lost.0
                    {
                        self.discard(stub);
                    }
                }
                Request::Thread(Id { pid, slot }, place, reply) => {
                    self.placement.meet(pid);
                    let _ = reply.send(self.kind.make_thread(Site { pid, slot, ops: &self.ops }, place));
                }
                Request::Operate(Id { pid, .. }, count, reply) => {
                    self.placement.meet(pid);
                    let mut regs = stub::Entry::Batch.regs();
                    (regs.rbx, regs.r12) = (OPS, count);
                    let done = run::to_trap(pid, &regs, |_| Ok(()));
                    let _ = reply.send(done.map(|r| (r.r13, r.rax)));
                }
                Request::Reap(id, remains) => {
                    self.dying.push((id, remains));
                    if self.dying.len() >= 64 {
                        self.reap();
                    }
                }
                Request::Refill => {}
                Request::Stop => return,
            }
        }
    }

    /// Makes a stub process with one idle thread.
    fn make(&mut self) -> Result<Stub<K>, Errno> {
        self.reap();
        let slot = match self.free.pop() {
            Some(s) => s,
            None if self.next < SLOTS => {
                self.next += 1;
                self.next - 1
            }
            None => return Err(Errno::EAGAIN),
        };
        self.placement.meet(self.zygote);
        let pid = fork(self.zygote, stub::CLONE_PROCESS).inspect_err(|_| self.free.push(slot))?;
        match self.populate(pid, slot) {
            Ok((operator, thread)) => Ok(Stub { pid, thread, operator, slot }),
            Err(e) => {
                self.kill(Id { pid, slot }, Vec::new());
                Err(e)
            }
        }
    }

    fn populate(&mut self, pid: i32, slot: u64) -> Result<(K::Operator, K::Thread), Errno> {
        let flags = (libc::MAP_SHARED | libc::MAP_FIXED) as u64;
        let fd = self.ops.fd().as_raw_fd() as u64;
        run::syscall(pid, libc::SYS_mmap, [OPS, OPS_LEN, libc::PROT_READ as u64, flags, fd, slot * OPS_LEN])?;
        let site = Site { pid, slot, ops: &self.ops };
        Ok((self.kind.make_operator(site)?, self.kind.make_thread(site, K::Place::default())?))
    }

    fn kill(&mut self, id: Id, remains: Vec<K::Remains>) {
        let _ = host::signals::kill(id.pid, libc::SIGKILL);
        self.dying.push((id, remains));
    }

    fn discard(&mut self, stub: Stub<K>) {
        // First the end, then the operator.
        self.kill(Id { pid: stub.pid, slot: stub.slot }, vec![stub.thread.into()]);
        drop(stub.operator);
    }

    /// Reaps the leaders of killed processes whose other threads are gone.
    fn reap(&mut self) {
        let (ops, free) = (&self.ops, &mut self.free);
        self.dying.retain(|(Id { pid, slot }, _)| {
            let gone = matches!(sys::try_wait(*pid), Ok(Some(Wait::Gone)) | Err(Errno::ECHILD));
            if gone {
                // What one guest process was told to map is nothing for the next one to read.
                let _ = ops.punch_hole(slot * OPS_LEN, OPS_LEN);
                free.push(*slot);
            }
            !gone
        });
    }

    /// Ends everything.
    fn end(&mut self) {
        let ready = std::mem::take(&mut *lock(&self.ready));
        for stub in ready {
            self.discard(stub);
        }
        for _ in 0..1000 {
            self.reap();
            if self.dying.is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = host::signals::kill(self.zygote, libc::SIGKILL);
        run::reap(self.zygote);
    }
}
