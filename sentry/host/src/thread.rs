//! Threads of the sentry: small stacks, names, CPU placement.

use crate::check;
use abi::Errno;
use std::cell::Cell;
use std::thread::{Builder, JoinHandle};

/// Stack of a task thread, in bytes.
pub const STACK: usize = 256 << 10;

/// Starts a thread with a stack of [`STACK`] bytes. The host shows the first 15 bytes of `name`. `EAGAIN` where it has no more threads.
pub fn spawn<T: Send + 'static>(name: &str, f: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>, Errno> {
    spawn_with_stack(name, STACK, f)
}

/// The same with a stack of `stack` bytes.
pub fn spawn_with_stack<T: Send + 'static>(
    name: &str,
    stack: usize,
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, Errno> {
    // Names with a zero byte make std panic; the host cuts long ones.
    let name: String = name.chars().filter(|&c| c != '\0').collect();
    Builder::new().name(name).stack_size(stack).spawn(f).map_err(Errno::from)
}

/// Renames the calling thread (first 15 bytes).
pub fn set_name(name: &str) {
    let name: Vec<u8> = name.bytes().filter(|&b| b != 0).take(15).chain([0]).collect();
    // SAFETY: a valid string that ends in zero.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

thread_local! {
    /// Zero: not asked for yet. (What this process forks executes nothing of ours.)
    static TID: Cell<i32> = const { Cell::new(0) };
}

/// The calling thread's id on the host, which is asked for once.
#[must_use]
pub fn tid() -> i32 {
    if TID.get() == 0 {
        // SAFETY: no memory involved.
        TID.set(unsafe { libc::gettid() });
    }
    TID.get()
}

/// The CPU that the calling thread runs on just now.
#[must_use]
pub fn current_cpu() -> usize {
    // SAFETY: no memory involved.
    usize::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(0)
}

/// A set of host CPUs.
#[derive(Clone, Copy)]
pub struct CpuSet(libc::cpu_set_t);

impl std::fmt::Debug for CpuSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl CpuSet {
    /// The set of one CPU; empty if the host's sets have no place for it (above 1,023).
    #[must_use]
    pub fn one(cpu: usize) -> CpuSet {
        // SAFETY: all-zero is the empty set.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        if cpu < libc::CPU_SETSIZE as usize {
            // SAFETY: `cpu` is in range.
            unsafe { libc::CPU_SET(cpu, &mut set) };
        }
        CpuSet(set)
    }

    /// The set of these CPUs.
    #[must_use]
    pub fn of(cpus: &[usize]) -> CpuSet {
        let mut set = CpuSet::one(usize::MAX);
        for &cpu in cpus.iter().filter(|&&c| c < libc::CPU_SETSIZE as usize) {
            // SAFETY: `cpu` is in range.
            unsafe { libc::CPU_SET(cpu, &mut set.0) };
        }
        set
    }

    /// The CPUs of the set in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        // SAFETY: the index is in range.
        (0..libc::CPU_SETSIZE as usize).filter(|&c| unsafe { libc::CPU_ISSET(c, &self.0) })
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.iter().count()
    }
}

/// The CPUs that thread `tid` (0: the caller) may run on.
pub fn affinity(tid: i32) -> Result<CpuSet, Errno> {
    // SAFETY: all-zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: a valid set of the given size.
    check(unsafe { libc::sched_getaffinity(tid, size_of::<libc::cpu_set_t>(), &mut set) })?;
    Ok(CpuSet(set))
}

/// Restricts thread `tid` (0: the caller) to `cpus`.
pub fn set_affinity(tid: i32, cpus: &CpuSet) -> Result<(), Errno> {
    // SAFETY: a valid set of the given size.
    check(unsafe { libc::sched_setaffinity(tid, size_of::<libc::cpu_set_t>(), &cpus.0) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pinned_thread() {
        let all = affinity(0).expect("affinity");
        let last = all.iter().last().expect("a CPU");
        let t = spawn("a\0name-that-is-long", move || {
            set_affinity(0, &CpuSet::one(last)).expect("set");
            set_name("short");
            (current_cpu(), tid())
        });
        let (cpu, id) = t.expect("spawn").join().expect("join");
        assert_eq!(cpu, last);
        assert_ne!(id, tid());
    }
}
