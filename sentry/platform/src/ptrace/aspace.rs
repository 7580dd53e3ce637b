//! A guest address space: one stub process, and the operations that wait to be carried out in it.

use super::Spawner;
use crate::AddressSpace;
use crate::cpu::CpuMeter;
use crate::ops::{Op, Queue};
use crate::spawner::Id;
use crate::stub::{self, Entry, LIST_LEN, OP_LEN, OPS};
use crate::tracee::{run, sys};
use abi::{Errno, mm::Prot};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Idle threads a process keeps; more than these end instead.
const IDLE: usize = 16;
/// Operations carried out at one go.
const BATCH: usize = (LIST_LEN / OP_LEN) as usize;

/// A stub process. It is killed when the last of its address space and the contexts in it is dropped.
pub struct Process {
    id: Id,
    spawner: Arc<Spawner>,
    queue: Queue,
    /// Held while operations are carried out: there is one list for all threads of a process.
    flush: Mutex<()>,
    threads: Mutex<Threads>,
    cpu: CpuMeter,
    /// It was killed from outside.
    dead: AtomicBool,
}

#[derive(Default)]
struct Threads {
    /// Untraced threads in the idle loop.
    idle: Vec<i32>,
    /// How many of them are promised to contexts that will come.
    promised: usize,
}

impl Process {
    /// The host's process id.
    pub fn pid(&self) -> i32 {
        self.id.pid
    }

    /// Notes that it was killed.
    pub fn set_dead(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    /// Whether it is known to have been killed.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    fn threads(&self) -> std::sync::MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An idle thread, which is the caller's now.
    pub fn take_thread(&self) -> Result<i32, Errno> {
        let idle = {
            let mut t = self.threads();
            t.promised = t.promised.saturating_sub(1);
            t.idle.pop()
        };
        match idle {
            Some(tid) => Ok(tid),
            None => self.spawner.thread(self.id, ()).inspect_err(|&e| {
                if e == Errno::ESRCH {
                    self.set_dead();
                }
            }),
        }
    }

    /// Sees to it that one more thread is idle than contexts are expected, with the help of `tid`, a stopped thread of this process
    /// that the caller traces.
    pub fn promise_thread(&self, tid: i32) -> Result<(), Errno> {
        {
            let mut t = self.threads();
            if t.idle.len() > t.promised {
                t.promised += 1;
                return Ok(());
            }
        }
        let new = run::clone(tid, stub::CLONE_THREAD, |_| Ok(()))?;
        let mut t = self.threads();
        t.idle.push(new);
        t.promised += 1;
        Ok(())
    }

    /// Takes a stopped thread back that the caller traces.
    pub fn give_thread(&self, tid: i32) {
        let keep = {
            let t = self.threads();
            t.idle.len() < IDLE + t.promised
        };
        let entry = if keep { Entry::Idle } else { Entry::Exit };
        let gone = sys::set_regs(tid, &entry.regs()).is_err() || sys::detach(tid).is_err();
        if gone {
            run::reap(tid);
        }
        // Only now: a thread that is still traced cannot be taken over.
        if keep && !gone {
            self.threads().idle.push(tid);
        }
    }

    /// Carries out all operations that are queued, by `tid`, a stopped thread of this process that the caller traces. When it returns,
    /// all that was queued before the call is in force, whoever carried it out. After a failure the operations behind the
    /// failed one stay queued. Returns whether `tid` carried out any, and has other registers now.
    pub fn flush(&self, tid: i32) -> Result<bool, Errno> {
        if !self.queue.is_dirty() {
            return Ok(false);
        }
        let mut carried_out = false;
        let _one_at_a_time = self.flush.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(ops) = self.queue.take() {
            carried_out = true;
            let mut done = 0;
            for batch in ops.chunks(BATCH) {
                match self.carry_out(tid, batch) {
                    Ok(n) if n == batch.len() => done += n,
                    Ok(n) => {
                        // Never happens: the stub stops early only with an error.
                        self.queue.put_back(ops[(done + n + 1).min(ops.len())..].to_vec());
                        return Err(Errno::EIO);
                    }
                    Err((n, e)) => {
                        self.queue.put_back(ops[(done + n + 1).min(ops.len())..].to_vec());
                        tracing::debug!(pid = self.pid(), op = ?batch.get(n), "mapping failed: {e}");
                        return Err(e);
                    }
                }
            }
        }
        Ok(carried_out)
    }

    /// Carries out one batch. Returns how many succeeded; or how many before the one that failed, and why it did.
    fn carry_out(&self, tid: i32, batch: &[Op]) -> Result<usize, (usize, Errno)> {
        let mut bytes = Vec::with_capacity(batch.len() * OP_LEN as usize);
        for op in batch {
            for word in op.call() {
                bytes.extend_from_slice(&word.to_le_bytes());
            }
        }
        self.spawner.write_ops(self.id.slot, 0, &bytes).map_err(|e| (0, e))?;
        let mut regs = Entry::Batch.regs();
        (regs.rbx, regs.r12) = (OPS, batch.len() as u64);
        let regs = run::to_trap(tid, &regs, |_| Ok(())).map_err(|e| (0, e))?;
        let done = usize::try_from(regs.r13).unwrap_or(0);
        if done >= batch.len() {
            return Ok(batch.len());
        }
        Err((done, run::result(regs.rax).err().unwrap_or(Errno::EIO)))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.spawner.end(self.id, self.is_dead(), Vec::new());
    }
}

/// The kernel's handle to a [`Process`].
pub struct PtraceAddressSpace {
    pub(super) process: Arc<Process>,
}

impl PtraceAddressSpace {
    pub(super) fn new(spawner: &Arc<Spawner>) -> Result<PtraceAddressSpace, Errno> {
        let stub = spawner.process()?;
        let threads = Threads { idle: vec![stub.thread], promised: 1 };
        Ok(PtraceAddressSpace {
            process: Arc::new(Process {
                id: Id { pid: stub.pid, slot: stub.slot },
                spawner: Arc::clone(spawner),
                queue: Queue::default(),
                flush: Mutex::new(()),
                threads: Mutex::new(threads),
                cpu: CpuMeter::new(stub.pid),
                dead: AtomicBool::new(false),
            }),
        })
    }
}

impl AddressSpace for PtraceAddressSpace {
    fn map(&self, addr: u64, len: u64, fd: RawFd, offset: u64, prot: Prot, shared: bool) {
        self.process.queue.push(Op::Map { addr, len, fd, offset, prot, shared, present: false });
    }

    fn map_present(&self, addr: u64, len: u64, fd: RawFd, offset: u64, prot: Prot) {
        self.process.queue.push(Op::Map { addr, len, fd, offset, prot, shared: true, present: true });
    }

    fn unmap(&self, addr: u64, len: u64) {
        self.process.queue.push(Op::Unmap { addr, len });
    }

    fn protect(&self, addr: u64, len: u64, prot: Prot) {
        self.process.queue.push(Op::Protect { addr, len, prot });
    }

    fn is_dirty(&self) -> bool {
        self.process.queue.is_dirty()
    }

    fn cpu_ns(&self) -> u64 {
        self.process.cpu.read()
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
