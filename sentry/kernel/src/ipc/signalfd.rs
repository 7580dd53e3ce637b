//! signalfd(2).
//!
//! Reads and polls are about the calling task's signals, as on Linux. Waiting is on the queue of the process that made the
//! descriptor: a child that inherits it hears of its own signals when it asks, but is not woken by them.

use super::anon::{AnonKind, anon_file};
use crate::{
    io::IoBuffer,
    task::{self, Task},
    vfs::{File, FileOps},
};
use abi::{
    Result, bail,
    fs::OpenFlags,
    libc,
    poll::PollEvents,
    signal::{SI_TIMER, SigInfo, SigSet, Signal},
};
use std::any::Any;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use sync::WaitQueue;

/// `sizeof(struct signalfd_siginfo)`
const INFO_LEN: usize = 128;

/// Signals that are read.
pub struct SignalFd {
    mask: AtomicU64,
    queue: WaitQueue,
}

impl SignalFd {
    fn mask(&self) -> SigSet {
        SigSet(self.mask.load(Ordering::Relaxed))
    }

    /// signalfd(2) on an existing descriptor: another mask.
    pub fn set_mask(&self, mask: SigSet) {
        self.mask.store(mask.minus(SigSet::UNBLOCKABLE).0, Ordering::Relaxed);
        self.queue.notify(PollEvents::READABLE);
    }
}

/// `struct signalfd_siginfo`.
fn encode(info: &SigInfo) -> [u8; INFO_LEN] {
    let mut out = [0; INFO_LEN];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(d) = out.get_mut(at..at + bytes.len()) {
            d.copy_from_slice(bytes);
        }
    };
    let f = &info.fields;
    let (low, high) = ((f[0] as u32).to_ne_bytes(), ((f[0] >> 32) as u32).to_ne_bytes());
    put(0, &(info.signo as u32).to_ne_bytes());
    put(4, &info.errno.to_ne_bytes());
    put(8, &info.code.to_ne_bytes());
    let sig = Signal::new(info.signo as u64);
    let fault = [Signal::SEGV, Signal::BUS, Signal::ILL, Signal::FPE, Signal::TRAP];
    if info.code == SI_TIMER {
        put(24, &low);
        put(32, &high);
        put(44, &(f[1] as u32).to_ne_bytes());
        put(48, &f[1].to_ne_bytes());
    } else if info.code > 0 && sig == Some(Signal::IO) {
        put(28, &low);
        put(20, &(f[1] as u32).to_ne_bytes());
    } else if info.code > 0 && sig.is_some_and(|s| fault.contains(&s)) {
        put(72, &f[0].to_ne_bytes());
    } else {
        put(12, &low);
        put(16, &high);
        if info.code > 0 && sig == Some(Signal::CHLD) {
            put(40, &(f[1] as u32).to_ne_bytes());
            put(56, &f[2].to_ne_bytes());
            put(64, &f[3].to_ne_bytes());
        } else {
            put(44, &(f[1] as u32).to_ne_bytes());
            put(48, &f[1].to_ne_bytes());
        }
    }
    out
}

impl FileOps for SignalFd {
    fn read(&self, _file: &File, buf: &mut IoBuffer<'_>, _offset: u64) -> Result<usize> {
        if buf.remaining() < INFO_LEN {
            bail!(EINVAL, "needs {INFO_LEN} bytes");
        }
        let Some(task) = task::current() else { bail!(EAGAIN) };
        let mut done = 0;
        while buf.remaining() >= INFO_LEN {
            let Some(info) = task.dequeue_signal(self.mask()) else { break };
            done += buf.write(&encode(&info))?;
        }
        if done == 0 {
            bail!(EAGAIN, "no signal pending");
        }
        Ok(done)
    }

    fn seekable(&self) -> bool {
        false
    }

    fn poll(&self, _file: &File) -> PollEvents {
        let pending = task::current().map_or(SigSet::EMPTY, |t| t.pending_signals());
        if pending.0 & self.mask().0 != 0 { PollEvents::IN } else { PollEvents::empty() }
    }

    fn poll_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn show_fdinfo(&self, _file: &File) -> String {
        format!("sigmask:\t{:016x}\n", self.mask().0)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A descriptor for the signals of `mask`. `flags`: O_NONBLOCK.
pub fn create(task: &Task, mask: SigSet, flags: OpenFlags) -> Arc<File> {
    let mask = mask.minus(SigSet::UNBLOCKABLE);
    let ops = SignalFd { mask: AtomicU64::new(mask.0), queue: task.group().signal_queue().clone() };
    anon_file(AnonKind::Other("[signalfd]"), &task.cred(), flags | OpenFlags::RDWR, Box::new(ops))
}

/// Bytes of the set that signalfd(2) takes.
pub const SIGSET_LEN: usize = size_of::<libc::c_ulong>();
