//! Where application code runs, and how its calls and faults reach the kernel.
//!
//! Three traits: a [`Platform`] makes [`AddressSpace`]s (one per guest `mm`) and [`Context`]s (one per guest thread). The
//! kernel decides *what* is mapped; a platform only maps and unmaps ranges of host files at addresses.
//!
//! Backends: [`ptrace`] and [`trap`]. Neighbours: `host` below, `kernel` above.

// unsafe is what this crate is for: one operation per block, each with its SAFETY comment.
#![allow(unsafe_code)]

pub use activity::{idles, set_blocked};
pub use wake::{place, set_handing_over, wake};

use abi::{Errno, mm::Prot};
use std::os::fd::RawFd;
use std::sync::Arc;

mod activity;
mod cpu;
mod fpu;
mod interrupt;
mod ops;
mod placement;
pub mod ptrace;
mod spawner;
mod stub;
#[cfg(test)]
mod tests;
mod tracee;
pub mod trap;
mod wake;

/// The general registers of a guest thread: `struct user_regs_struct` of x86-64, which is what `PTRACE_GETREGS` fills.
pub type UserRegs = libc::user_regs_struct;

/// The extended state (x87, SSE, AVX, …) of a guest thread, in XSAVE's standard format.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FpState(pub Vec<u8>);

/// Why [`Context::switch`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The application executed `syscall`: the number is in `orig_rax`, and `rax` is `-ENOSYS`. `rip` points behind it.
    Syscall,
    /// The application faulted or trapped. The host's signal, its `si_code`, and `si_addr` where it has one.
    Fault(Fault),
    /// [`Interrupt::interrupt`] was called, or the platform wants the caller to look again. Nothing else happened.
    Interrupted,
    /// The host thread or process is gone (killed from outside, or out of memory): the guest thread cannot go on.
    Lost,
}

/// A hardware exception of the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// `SIGSEGV`, `SIGBUS`, `SIGILL`, `SIGFPE` or `SIGTRAP`.
    pub signal: abi::signal::Signal,
    /// `si_code`, for example `SEGV_ACCERR`.
    pub code: i32,
    /// The address that could not be accessed (`si_addr`), or the instruction's.
    pub addr: u64,
    /// What was tried, where the platform knows it; all empty: unknown, try to satisfy a write if the VMA permits it.
    pub access: Prot,
    /// A page was there and forbade it, where the platform knows that.
    pub present: bool,
}

/// What a platform can do, asked once at start.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The lowest address that may be mapped.
    pub min_address: u64,
    /// One past the highest address that may be mapped: the stub lives above.
    pub max_address: u64,
    /// Bytes of [`FpState`].
    pub fp_state_size: usize,
    /// `xfeatures` mask of the extended state (XCR0), which the signal frame announces.
    pub xfeatures: u64,
}

/// A page as an address space was told to map it.
#[derive(Clone, Copy, Debug)]
pub struct HostPage {
    /// The host file, which stays open while the page is mapped.
    pub fd: RawFd,
    /// Where in it.
    pub offset: u64,
    /// How it is protected.
    pub prot: Prot,
    /// Whether writes would reach the file.
    pub shared: bool,
}

/// An instruction that makes system calls.
#[derive(Clone, Copy, Debug)]
pub struct CallSite<'a> {
    /// The address behind it.
    pub rip: u64,
    /// The number that it was called with.
    pub nr: u64,
    /// The content of the page that this address lies in: private memory of the application that it cannot write.
    pub bytes: &'a [u8],
    /// What is mapped there.
    pub host: HostPage,
}

/// What a thread may be told about itself without asking the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answers {
    /// getpid(2)
    pub pid: u32,
    /// gettid(2)
    pub tid: u32,
    /// getuid(2)
    pub uid: u32,
    /// geteuid(2)
    pub euid: u32,
    /// getgid(2)
    pub gid: u32,
    /// getegid(2)
    pub egid: u32,
}

/// A way of running application code.
pub trait Platform: Send + Sync {
    /// Its name as `--platform` takes it.
    fn name(&self) -> &'static str;
    /// Its limits.
    fn limits(&self) -> Limits;
    /// A new address space with nothing mapped below [`Limits::max_address`].
    fn new_address_space(&self) -> Result<Arc<dyn AddressSpace>, Errno>;
    /// A new context. It is used by one sentry thread only, the task thread that asked for it.
    fn new_context(&self) -> Result<Box<dyn Context>, Errno>;
}

/// One guest address space. Operations are queued in order, and are in force at the latest when a [`Context`] of this address
/// space next runs application code. Until [`Context::flush`] has returned, other threads of the same address space may still
/// see what was mapped before: memory that was unmapped must not be given to anyone else earlier.
pub trait AddressSpace: Send + Sync {
    /// Maps `len` bytes of the host file `fd` from `offset` at `addr`, replacing what was there. `shared`: writes reach the file
    /// (the memory file is always mapped shared). All values are page-aligned. The descriptor must stay open until flushed, that
    /// of a mapping made for a [copy](Self::begin_copy) until it is replaced or unmapped.
    fn map(&self, addr: u64, len: u64, fd: RawFd, offset: u64, prot: Prot, shared: bool);
    /// The same, shared, of pages that the file holds memory for and that will probably be used at once: they are made accessible without a fault.
    fn map_present(&self, addr: u64, len: u64, fd: RawFd, offset: u64, prot: Prot) {
        self.map(addr, len, fd, offset, prot, true);
    }
    /// It becomes a copy of `parent` (fork): little of what is mapped until [`end_copy`](Self::end_copy) will be used before the copy is given up, so it may be
    /// mapped at the latest when it is.
    fn begin_copy(&self, _parent: &Arc<dyn AddressSpace>) {}
    /// It is one.
    fn end_copy(&self) {}
    /// Unmaps a range; holes are fine.
    fn unmap(&self, addr: u64, len: u64);
    /// Changes the protection of a range that is wholly mapped.
    fn protect(&self, addr: u64, len: u64, prot: Prot);
    /// Whether operations are queued that no context has carried out yet.
    fn is_dirty(&self) -> bool;
    /// Makes a call cheaper that the application makes often (see [`Context::take_hot_call`]), if the platform knows how: it may show the application's
    /// threads other bytes in place of the page. `gate` finds a page near by (fewer bytes away than its argument) where nothing
    /// is mapped, for the platform's use from then on; what is mapped or unmapped there later is told as usual. Returns whether anything was done.
    fn patch(&self, _site: &CallSite<'_>, _gate: &mut dyn FnMut(u64) -> Option<u64>) -> bool {
        false
    }
    /// The sentry has changed the content of these pages past their protection: what was patched there is as it was mapped again.
    fn unpatch(&self, _addr: u64, _len: u64) {}
    /// CPU time that application code has used here, in nanoseconds. Of a thread that runs just now on another processor it may lack what the host has
    /// not yet counted, a few milliseconds. Never goes back.
    fn cpu_ns(&self) -> u64;
    /// For a platform's own use.
    fn as_any(&self) -> &dyn std::any::Any;
}

/// The execution state of one guest thread.
pub trait Context: Send {
    /// Carries out what is queued on `aspace` now.
    fn flush(&mut self, aspace: &Arc<dyn AddressSpace>) -> Result<(), Errno>;
    /// Runs application code in `aspace` from `regs` until something happens; `regs` then holds its state. Flushes first.
    /// The first switch, and one to another address space than last time (after execve), finds itself a host thread there.
    fn switch(&mut self, aspace: &Arc<dyn AddressSpace>, regs: &mut UserRegs) -> Event;
    /// To be called by the thread that runs this context before another context, of a new guest thread, is started in the
    /// same address space (clone with CLONE_VM): makes a host thread ready for it.
    fn prepare_sibling(&mut self, aspace: &Arc<dyn AddressSpace>) -> Result<(), Errno>;
    /// The extended state. Initial state if the context has not run yet.
    fn fp_state(&mut self) -> FpState;
    /// Replaces the extended state before the next switch. A malformed one is refused with `EINVAL`.
    fn set_fp_state(&mut self, state: &FpState) -> Result<(), Errno>;
    /// Resets the extended state to the processor's initial one (execve).
    fn reset_fp_state(&mut self);
    /// Where the call that [`switch`](Self::switch) has just returned was made, if it is made there so often that [`AddressSpace::patch`] should be
    /// tried: the address behind it.
    fn take_hot_call(&mut self) -> Option<u64> {
        None
    }
    /// Lets the platform answer these calls itself from now on; `None`: not any more.
    fn set_answers(&mut self, _answers: Option<Answers>) {}
    /// Sees to it that [`AddressSpace::cpu_ns`] counts all that this context has used.
    fn settle_cpu(&mut self) {}
    /// A handle by which any thread interrupts [`switch`](Self::switch).
    fn interrupter(&self) -> Arc<dyn Interrupt>;
    /// The application is about to leave this host thread for a blocking call (`true`) or is back (`false`): a hint for placement on CPUs.
    fn set_blocked(&mut self, _blocked: bool) {}
}

/// Interrupts a running [`Context`].
pub trait Interrupt: Send + Sync {
    /// Makes the current or else the next [`Context::switch`] return soon. May be called by any thread at any time, also when the
    /// context is gone.
    fn interrupt(&self);
}
