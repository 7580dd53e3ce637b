//! The sentry's process on the host: prctl(2) settings, limits, identity.

use crate::{check, from_rustix};
use abi::Errno;

fn prctl(option: libc::c_int, arg: libc::c_ulong) -> Result<(), Errno> {
    // SAFETY: only used with options whose arguments are plain numbers.
    check(unsafe { libc::prctl(option, arg, 0 as libc::c_ulong, 0 as libc::c_ulong, 0 as libc::c_ulong) }).map(drop)
}

/// This process's id in its own pid namespace.
#[must_use]
pub fn pid() -> i32 {
    // SAFETY: no memory involved.
    unsafe { libc::getpid() }
}

/// `PR_SET_NO_NEW_PRIVS`.
pub fn set_no_new_privs() -> Result<(), Errno> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
}

/// `PR_SET_DUMPABLE`. A process that changed its ids is not dumpable, and could not trace its own children without this.
pub fn set_dumpable(on: bool) -> Result<(), Errno> {
    prctl(libc::PR_SET_DUMPABLE, on.into())
}

/// `PR_SET_PDEATHSIG`: `sig` when the thread that made this process ends.
pub fn set_parent_death_signal(sig: i32) -> Result<(), Errno> {
    prctl(libc::PR_SET_PDEATHSIG, sig as libc::c_ulong)
}

/// Page size, CPUs online and memory of the host, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// CPUs that this process may use.
    pub cpus: usize,
    /// Bytes of memory.
    pub total_memory: u64,
    /// Bytes of memory not in use.
    pub free_memory: u64,
}

/// What the host is like.
#[must_use]
pub fn machine() -> Machine {
    let info = rustix::system::sysinfo();
    let unit = u64::from(info.mem_unit.max(1));
    Machine { cpus: usable_cpus(), total_memory: info.totalram.saturating_mul(unit), free_memory: info.freeram.saturating_mul(unit) }
}

/// CPUs that this process may use, and whether these are the first ones of the host, as it was when first asked: threads of the
/// sentry are bound to single ones later.
fn cpus() -> (usize, bool) {
    static CPUS: std::sync::OnceLock<(usize, bool)> = std::sync::OnceLock::new();
    *CPUS.get_or_init(|| crate::thread::affinity(0).map_or((1, false), |s| (s.count().max(1), s.iter().max() == s.count().checked_sub(1))))
}

/// As many CPUs as are shown at most: see [`limit_cpus`].
static CPU_LIMIT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(usize::MAX);

/// Shows no more than `limit` CPUs from now on.
pub fn limit_cpus(limit: usize) {
    CPU_LIMIT.store(limit.max(1), std::sync::atomic::Ordering::Relaxed);
}

fn usable_cpus() -> usize {
    cpus().0.min(CPU_LIMIT.load(std::sync::atomic::Ordering::Relaxed))
}

/// Whether the CPUs that this process may use are numbered from 0 on without a gap.
#[must_use]
pub fn has_first_cpus() -> bool {
    cpus().1 && usable_cpus() == cpus().0
}

/// A limit of this process's, as (soft, hard); `None` is unlimited.
#[must_use]
pub fn open_files_limit() -> (Option<u64>, Option<u64>) {
    let r = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    (r.current, r.maximum)
}

/// Raises the soft limit of open files to the hard one.
pub fn raise_open_files_limit() -> Result<(), Errno> {
    let mut r = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    r.current = r.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, r).map_err(from_rustix)
}

/// membarrier(2) with MEMBARRIER_CMD_GLOBAL: every thread of the host has passed a memory barrier when it returns (some
/// milliseconds). `now` false: only whether the host has it.
pub fn barrier(now: bool) -> Result<(), Errno> {
    // SAFETY: no memory involved.
    let r = unsafe { libc::syscall(libc::SYS_membarrier, libc::c_int::from(now), 0, 0) };
    match r {
        0 if !now => Err(Errno::ENOSYS),
        r if r < 0 => Err(crate::last_errno()),
        _ => Ok(()),
    }
}

/// What the host's kernel tells programs of the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HardwareCapabilities {
    /// `AT_HWCAP`
    pub hwcap: u64,
    /// `AT_HWCAP2`
    pub hwcap2: u64,
    /// `AT_MINSIGSTKSZ`
    pub min_signal_stack: u64,
}

/// From the sentry's own auxiliary vector.
#[must_use]
pub fn hardware_capabilities() -> HardwareCapabilities {
    // SAFETY: no memory involved.
    let get = |key| unsafe { libc::getauxval(key) };
    HardwareCapabilities { hwcap: get(libc::AT_HWCAP), hwcap2: get(libc::AT_HWCAP2), min_signal_stack: get(libc::AT_MINSIGSTKSZ) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn knows_the_machine() {
        let m = super::machine();
        assert!(m.cpus > 0 && m.total_memory > m.free_memory && m.free_memory > 1 << 20);
        super::set_dumpable(true).expect("dumpable");
        super::raise_open_files_limit().expect("rlimit");
        let (soft, hard) = super::open_files_limit();
        assert_eq!(soft, hard);
    }
}
