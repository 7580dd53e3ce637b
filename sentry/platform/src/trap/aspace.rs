//! A guest address space: one stub process, and the operations that wait to be carried out in it.

use super::Shared;
use super::code::{BATCH, COUNT};
use super::operator::Operator;
use super::patch::Patches;
use super::thread::{Berth, HostThread, Remains};
use crate::cpu::CpuMeter;
use crate::ops::{Op, Queue};
use crate::spawner::{Id, Stub};
use crate::stub::{CODE, OP_LEN};
use crate::tracee::run;
use crate::{AddressSpace, CallSite};
use abi::{Errno, mm::Prot};
use std::collections::{BTreeSet, VecDeque};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};

/// Idle threads a process keeps; more than these end instead.
const IDLE: usize = 32;
/// Threads after which a process probably wants more: the spawner then makes so many in advance.
const FEW: u64 = 3;
const AHEAD: usize = 2;

/// Places of which is known at once that copies of an address space use them.
const LEARNED: usize = 64;

/// Addresses in areas that copies of an address space have used.
type Used = Mutex<BTreeSet<u64>>;

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A stub process. It is killed when the last of its address space and the contexts in it is dropped.
pub struct Process {
    id: Id,
    shared: Arc<Shared>,
    queue: Queue,
    /// What carries out operations. There is one list for all threads of a process.
    operator: Mutex<Option<Operator>>,
    threads: Mutex<Threads>,
    /// Changed call sites.
    patches: Mutex<Patches>,
    /// Whether there are any.
    is_patched: AtomicBool,
    /// Bytes of the list that were ever written.
    listed: AtomicUsize,
    cpu: CpuMeter,
    /// It is being made a copy of another address space.
    is_copied: AtomicBool,
    /// Of the address space that this one is a copy of: where copies have faulted since nothing was mapped there yet.
    origin: Mutex<Option<Arc<Used>>>,
    /// The same of this one.
    used_by_copies: Arc<Used>,
    /// It was killed, from outside or because the application tampered with the stub.
    dead: AtomicBool,
}

#[derive(Default)]
struct Threads {
    /// Threads held at the doorbell; or what is left of them, in a process that was killed.
    idle: Vec<HostThread>,
    /// How many of them are promised to contexts that will come.
    promised: usize,
    /// Places of threads that have ended.
    berths: Vec<Berth>,
    /// Places that were ever used.
    used: u64,
    /// Threads that the spawner is making.
    coming: VecDeque<Receiver<Result<HostThread, Errno>>>,
}

impl Threads {
    fn berth(&mut self) -> Berth {
        self.berths.pop().unwrap_or_else(|| {
            self.used += 1;
            Berth { number: self.used - 1, slot: None }
        })
    }
}

impl Process {
    /// Whether there are operations that its next thread has to carry out.
    pub fn is_dirty(&self) -> bool {
        self.queue.is_dirty()
    }

    /// The host's process id.
    pub fn pid(&self) -> i32 {
        self.id.pid
    }

    /// Notes that it was killed, after making sure that it is.
    pub fn kill(&self) {
        if !self.dead.swap(true, Ordering::Relaxed) {
            let _ = host::signals::kill(self.id.pid, libc::SIGKILL);
        }
    }

    /// Whether it is known to have been killed.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// Its changed call sites.
    pub fn patches(&self) -> std::sync::MutexGuard<'_, Patches> {
        self.patches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there are any.
    pub fn is_patched(&self) -> bool {
        self.is_patched.load(Ordering::Acquire)
    }

    fn threads(&self) -> std::sync::MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread at the doorbell, which is the caller's now.
    pub fn take_thread(&self) -> Result<HostThread, Errno> {
        let idle = {
            let mut t = self.threads();
            t.promised = t.promised.saturating_sub(1);
            t.idle.pop()
        };
        match idle {
            Some(thread) => Ok(thread),
            None => self.new_thread(),
        }
    }

    fn new_thread(&self) -> Result<HostThread, Errno> {
        let coming = self.threads().coming.pop_front();
        let made = match coming {
            Some(thread) => thread.recv().map_err(|_| Errno::EAGAIN)?,
            None => {
                let berth = self.threads().berth();
                self.shared.spawner.thread(self.id, berth)
            }
        };
        let thread = made.inspect_err(|&e| {
            if e == Errno::ESRCH {
                self.kill();
            }
        })?;
        let mut t = self.threads();
        while t.used > FEW && t.coming.len() < AHEAD {
            let berth = t.berth();
            t.coming.push_back(self.shared.spawner.thread_later(self.id, berth)?);
        }
        Ok(thread)
    }

    /// Sees to it that one more thread is idle than contexts are expected.
    pub fn promise_thread(&self) -> Result<(), Errno> {
        if self.is_dead() {
            return Err(Errno::ESRCH);
        }
        {
            let mut t = self.threads();
            if t.idle.len() > t.promised {
                t.promised += 1;
                return Ok(());
            }
        }
        let new = self.new_thread()?;
        let mut t = self.threads();
        t.idle.push(new);
        t.promised += 1;
        Ok(())
    }

    /// Takes a thread back.
    pub fn give_thread(&self, mut thread: HostThread) {
        {
            let mut t = self.threads();
            if self.is_dead() || t.idle.len() < IDLE + t.promised {
                t.idle.push(thread);
                return;
            }
        }
        let _one_at_a_time = lock(&self.operator);
        let ended = match self.write_ops(&[HostThread::EXIT]).and_then(|()| self.write_count(1)) {
            Ok(()) => match thread.hold(self.id.pid) {
                Ok(()) => thread.exit(),
                Err(e) => Err((thread, e)),
            },
            Err(e) => Err((thread, e)),
        };
        match ended {
            Ok(berth) => self.threads().berths.push(berth),
            Err((thread, e)) => {
                tracing::debug!("a stub thread did not end: {e}");
                self.kill();
                self.threads().idle.push(thread);
            }
        }
    }

    /// Carries out all operations that are queued. When it returns, all that was queued before
    /// the call is in force, whoever carried it out. After a failure the operations behind the failed one stay queued.
    pub fn flush(&self) -> Result<(), Errno> {
        if !self.queue.is_dirty() {
            return Ok(());
        }
        let mut operator = lock(&self.operator);
        while let Some(ops) = self.queue.take() {
            let mut done = 0;
            for batch in ops.chunks(BATCH) {
                let calls: Vec<[u64; 8]> = batch.iter().map(Op::call).collect();
                let (n, result) = self.carry_out(operator.as_mut(), &calls);
                done += n;
                if let Err(e) = result {
                    self.queue.put_back(ops.get(done + 1..).unwrap_or_default().to_vec());
                    tracing::debug!(pid = self.pid(), op = ?ops.get(done), "mapping failed: {e}");
                    return Err(e);
                }
            }
        }
        Ok(())
    }

    /// Whether a fault at `addr` is there because nothing was mapped so far that should be. Then it is queued now.
    pub fn demand(&self, addr: u64) -> bool {
        let found = self.queue.demand(addr);
        if found && let Some(used) = &*lock(&self.origin) {
            let mut used = lock(used);
            if used.len() >= LEARNED {
                used.clear();
            }
            used.insert(addr);
        }
        found
    }

    /// Whether earlier copies of the same address space have used something in this range, so that this one probably will.
    fn will_use(&self, addr: u64, len: u64) -> bool {
        lock(&self.origin).as_ref().is_some_and(|used| lock(used).range(addr..addr.saturating_add(len)).next().is_some())
    }

    /// Carries out one batch. Returns how many succeeded, and if that is not all, why the next one did not.
    fn carry_out(&self, operator: Option<&mut Operator>, calls: &[[u64; 8]]) -> (usize, Result<(), Errno>) {
        let outcome = self.write_ops(calls).and_then(|()| match operator {
            Some(operator) => operator.operate(calls.len()),
            // The process's first thread, which stands still, does it.
            None => self.shared.spawner.operate(self.id, calls.len() as u64).map(|(n, result)| (n as usize, result)),
        });
        match outcome {
            Ok((n, _)) if n == calls.len() => (n, Ok(())),
            Ok((n, result)) => (n, Err(run::result(result).err().unwrap_or(Errno::EIO))),
            Err(e) => (0, Err(e)),
        }
    }

    fn write_ops(&self, calls: &[[u64; 8]]) -> Result<(), Errno> {
        self.listed.fetch_max(calls.len() * OP_LEN as usize, Ordering::Relaxed);
        let bytes: Vec<u8> = calls.iter().flatten().flat_map(|w| w.to_le_bytes()).collect();
        self.shared.spawner.write_ops(self.id.slot, 0, &bytes)
    }

    /// How many operations a thread for application code is to carry out.
    fn write_count(&self, count: u64) -> Result<(), Errno> {
        self.shared.spawner.write_ops(self.id.slot, COUNT, &count.to_le_bytes())
    }
}

impl Process {
    /// Makes a process with a single thread as good as new, for another address space: making one costs ten times as much. Gives the
    /// threads back if that is not possible.
    ///
    /// Nothing of the old application is left: its memory is unmapped, and that was confirmed; what it could write of the stub's is
    /// cleared, the list of operations too; all registers are loaded from a new frame; a thread that is held at the doorbell
    /// goes on as the order says, whatever its registers hold; and it could change neither signal masks nor handlers nor anything
    /// else that the host keeps, because none of its calls was ever carried out.
    fn recycle(&self, mut threads: Threads) -> Result<(), Threads> {
        if self.is_dead() || threads.used != 1 {
            return Err(threads);
        }
        let Some(mut thread) = threads.idle.pop() else {
            return Err(threads);
        };
        let Some(mut operator) = lock(&self.operator).take() else {
            // Whether the thread stands still there is only its own word.
            threads.idle.push(thread);
            return Err(threads);
        };
        let everything = [libc::SYS_munmap as u64, 0, CODE, 0, 0, 0, 0, 0];
        let cleared = thread
            .hold(self.id.pid)
            .and_then(|()| self.carry_out(Some(&mut operator), &[everything]).1)
            .and_then(|()| thread.slot.wipe())
            .and_then(|()| self.shared.spawner.write_ops(self.id.slot, 0, &vec![0; self.listed.load(Ordering::Relaxed)]));
        if let Err(e) = cleared {
            tracing::debug!(pid = self.pid(), "a stub cannot be used again: {e}");
            *lock(&self.operator) = Some(operator);
            threads.idle.push(thread);
            return Err(threads);
        }
        let stub = Stub { pid: self.id.pid, thread, operator: Some(operator), slot: self.id.slot };
        match self.shared.spawner.give(stub) {
            None => Ok(()),
            Some(stub) => {
                *lock(&self.operator) = stub.operator;
                threads.idle.push(stub.thread);
                Err(threads)
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut threads = std::mem::take(self.threads.get_mut().unwrap_or_else(PoisonError::into_inner));
        let coming = std::mem::take(&mut threads.coming);
        threads.idle.extend(coming.into_iter().filter_map(|c| c.recv().ok()?.ok()));
        let Err(threads) = self.recycle(threads) else {
            return;
        };
        // Before their listeners close: a thread that nobody holds would go astray.
        self.kill();
        let slots = threads.berths.into_iter().filter_map(|b| b.slot).map(Remains::Slot);
        let patches = std::mem::take(self.patches.get_mut().unwrap_or_else(PoisonError::into_inner));
        let patches = Remains::Patches(patches.into_pages());
        let remains = slots.chain(threads.idle.into_iter().map(Remains::from)).chain([patches]).collect();
        self.shared.spawner.end(self.id, self.is_dead(), remains);
    }
}

/// The kernel's handle to a [`Process`].
pub struct TrapAddressSpace {
    pub(super) process: Arc<Process>,
}

impl TrapAddressSpace {
    pub(super) fn new(shared: &Arc<Shared>) -> Result<TrapAddressSpace, Errno> {
        let stub = shared.spawner.process()?;
        let threads = Threads { idle: vec![stub.thread], promised: 1, used: 1, ..Threads::default() };
        Ok(TrapAddressSpace {
            process: Arc::new(Process {
                id: Id { pid: stub.pid, slot: stub.slot },
                shared: Arc::clone(shared),
                queue: Queue::default(),
                operator: Mutex::new(stub.operator),
                threads: Mutex::new(threads),
                patches: Mutex::default(),
                is_patched: AtomicBool::new(false),
                listed: AtomicUsize::new(0),
                cpu: CpuMeter::new(stub.pid),
                is_copied: AtomicBool::new(false),
                origin: Mutex::default(),
                used_by_copies: Arc::default(),
                dead: AtomicBool::new(false),
            }),
        })
    }
}

impl TrapAddressSpace {
    /// Queues an operation that maps something, to be carried out when it is needed if this is a copy which probably will not.
    fn map_as(&self, op: Op, addr: u64, len: u64) {
        if self.process.is_copied.load(Ordering::Relaxed) && !self.process.will_use(addr, len) {
            return self.process.queue.push_later(op);
        }
        self.replace(op, addr, len);
    }

    /// Queues an operation that leaves nothing of what was in its range.
    fn replace(&self, op: Op, addr: u64, len: u64) {
        let process = &self.process;
        if !process.is_patched() {
            return process.queue.push(op);
        }
        let mut patches = process.patches();
        patches.before_replacing(addr, len, |op| process.queue.push(op));
        patches.replaced(addr, len);
        process.queue.push(op);
    }
}

impl AddressSpace for TrapAddressSpace {
    fn map(&self, addr: u64, len: u64, fd: RawFd, offset: u64, prot: Prot, shared: bool) {
        self.map_as(Op::Map { addr, len, fd, offset, prot, shared, present: false }, addr, len);
    }

    fn map_present(&self, addr: u64, len: u64, fd: RawFd, offset: u64, prot: Prot) {
        self.map_as(Op::Map { addr, len, fd, offset, prot, shared: true, present: true }, addr, len);
    }

    fn begin_copy(&self, parent: &Arc<dyn AddressSpace>) {
        if let Some(parent) = parent.as_any().downcast_ref::<TrapAddressSpace>() {
            let used = Arc::clone(&parent.process.used_by_copies);
            // Its own copies will do about the same.
            *lock(&self.process.used_by_copies) = lock(&used).clone();
            *lock(&self.process.origin) = Some(used);
            self.process.is_copied.store(true, Ordering::Relaxed);
        }
    }

    fn end_copy(&self) {
        self.process.is_copied.store(false, Ordering::Relaxed);
    }

    fn unmap(&self, addr: u64, len: u64) {
        self.replace(Op::Unmap { addr, len }, addr, len);
    }

    fn protect(&self, addr: u64, len: u64, prot: Prot) {
        let process = &self.process;
        if !process.is_patched() {
            return process.queue.push(Op::Protect { addr, len, prot });
        }
        let mut patches = process.patches();
        patches.before_replacing(addr, len, |op| process.queue.push(op));
        patches.protected(addr, len, prot, |op| process.queue.push(op));
        process.queue.push(Op::Protect { addr, len, prot });
    }

    fn patch(&self, site: &CallSite<'_>, gate: &mut dyn FnMut(u64) -> Option<u64>) -> bool {
        let process = &self.process;
        let mut patches = process.patches();
        let done = patches.patch(&process.shared, site, gate, |op| process.queue.push(op));
        process.is_patched.store(!patches.is_empty(), Ordering::Release);
        done
    }

    fn unpatch(&self, addr: u64, len: u64) {
        let process = &self.process;
        if process.is_patched() {
            process.patches().unpatch(addr, len, |op| process.queue.push(op));
        }
    }

    fn is_dirty(&self) -> bool {
        self.process.is_dirty()
    }

    fn cpu_ns(&self) -> u64 {
        self.process.cpu.read()
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
