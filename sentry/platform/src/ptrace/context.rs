//! A guest thread: a thread of a stub process, traced by the task thread that owns the [`PtraceContext`].

use super::Spawner;
use super::aspace::{Process, PtraceAddressSpace};
use crate::interrupt::Interrupter;
use crate::placement::{Placement, Seat};
use crate::stub::{USER_CS, USER_END, USER_SS};
use crate::tracee::run;
use crate::tracee::sys::{self, Wait};
use crate::{AddressSpace, Context, Event, Fault, FpState, Interrupt, UserRegs};
use abi::Errno;
use abi::mm::Prot;
use abi::signal::Signal;
use std::sync::Arc;

/// Switches between two looks at the CPU's load.
const LOOK_EVERY: u32 = 64;
/// `si_code` of a SIGSYS that a seccomp filter raised.
const SYS_SECCOMP: i32 = 1;

/// The host thread that a context has at present.
struct HostThread {
    tid: i32,
    process: Arc<Process>,
}

/// A guest thread's execution state. It must be dropped by the thread that used it, which is the tracer.
pub struct PtraceContext {
    spawner: Arc<Spawner>,
    placement: Arc<Placement>,
    thread: Option<HostThread>,
    /// The extended state, while it is not in a host thread.
    fp: Option<FpState>,
    interrupter: Arc<Interrupter>,
    seat: Option<Seat>,
    switches: u32,
    /// The host thread's registers, where nothing has happened to it since a system call stopped it.
    stopped_at: Option<UserRegs>,
}

impl PtraceContext {
    pub(super) fn new(spawner: &Arc<Spawner>, placement: &Arc<Placement>) -> PtraceContext {
        PtraceContext {
            spawner: Arc::clone(spawner),
            placement: Arc::clone(placement),
            thread: None,
            fp: None,
            interrupter: Arc::default(),
            seat: None,
            switches: 0,
            stopped_at: None,
        }
    }

    /// Sees to it that this context has a host thread in `aspace`, and returns its id and process.
    fn enter(&mut self, aspace: &Arc<dyn AddressSpace>) -> Result<(i32, Arc<Process>), Errno> {
        let process = &aspace.as_any().downcast_ref::<PtraceAddressSpace>().ok_or(Errno::EINVAL)?.process;
        if process.is_dead() {
            return Err(Errno::ESRCH);
        }
        if let Some(t) = &self.thread {
            if Arc::ptr_eq(&t.process, process) {
                return Ok((t.tid, Arc::clone(process)));
            }
            self.fp = Some(self.fp_state());
            self.leave();
        }
        self.stopped_at = None;
        let tid = process.take_thread()?;
        // First of all, so that stopping it does not wake another CPU.
        self.seat.get_or_insert_with(|| Seat::new(&self.placement)).set_stub(tid);
        let fp = self.fp.take().unwrap_or_else(|| self.spawner.layout.initial());
        if let Err(e) = take_over(tid).and_then(|()| sys::set_xstate(tid, &fp.0)) {
            tracing::debug!(tid, "cannot take over a stub thread: {e}");
            self.fp = Some(fp);
            if e == Errno::ESRCH {
                run::reap(tid);
                process.set_dead();
            }
            return Err(e);
        }
        self.thread = Some(HostThread { tid, process: Arc::clone(process) });
        Ok((tid, Arc::clone(process)))
    }

    /// Gives the host thread back. The extended state that it had is forgotten.
    fn leave(&mut self) {
        if let Some(t) = self.thread.take() {
            t.process.give_thread(t.tid);
        }
    }

    /// Does `f` with a host thread in `aspace`; `ESRCH` from it means that this thread is gone.
    fn with_thread<T>(
        &mut self,
        aspace: &Arc<dyn AddressSpace>,
        f: impl FnOnce(&mut Self, i32, &Process) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let (tid, process) = self.enter(aspace)?;
        let result = f(self, tid, &process);
        if let Err(Errno::ESRCH) = result {
            run::reap(tid);
            process.set_dead();
            self.thread = None;
        }
        result
    }

    /// Lets the application run until something happens.
    fn run(&mut self, tid: i32, process: &Process, regs: &mut UserRegs) -> Result<Event, Errno> {
        let stopped_at = self.stopped_at.take();
        // Only the flush knows: another thread may queue something at any moment until then.
        let carried_out = process.flush(tid)?;
        let stopped_at = stopped_at.filter(|_| !carried_out);
        match stopped_at {
            Some(old) if only_result_differs(&old, regs) => sys::set_rax(tid, regs.rax)?,
            _ => sys::set_regs(tid, &sanitized(regs))?,
        }
        self.interrupter.enter(process.pid(), tid);
        let event = loop {
            if self.interrupter.take() {
                // Reading the registers again is not needed on the first round, and right on all others.
                sys::get_regs(tid, regs)?;
                break Event::Interrupted;
            }
            sys::sysemu(tid)?;
            if let Some(event) = classify(tid, sys::wait(tid)?, regs)? {
                break event;
            }
        };
        self.interrupter.leave();
        if event == Event::Syscall {
            self.stopped_at = Some(*regs);
        } else {
            regs.orig_rax = u64::MAX;
        }
        Ok(event)
    }
}

/// Becomes the tracer of an idle thread and stops it.
fn take_over(tid: i32) -> Result<(), Errno> {
    sys::seize(tid, libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACESYSGOOD)?;
    sys::interrupt(tid)?;
    match sys::wait(tid)? {
        Wait::Gone => Err(Errno::ESRCH),
        _ => Ok(()),
    }
}

/// What a stop means. `None`: nothing to the application. Fills `regs` with its state.
fn classify(tid: i32, stop: Wait, regs: &mut UserRegs) -> Result<Option<Event>, Errno> {
    let signal = match stop {
        Wait::Gone => return Err(Errno::ESRCH),
        Wait::Event(_) => return Ok(None),
        Wait::Signal(s) => s,
    };
    if signal == libc::SIGTRAP | 0x80 {
        sys::get_regs(tid, regs)?;
        // The instruction `syscall` leaves its return address in rcx. Anything else was `int 0x80` or `sysenter`, whose
        // numbers mean other calls: as on a kernel without the 32-bit interfaces, that is a protection fault.
        if regs.rcx == regs.rip {
            return Ok(Some(Event::Syscall));
        }
        regs.rip = regs.rip.wrapping_sub(2);
        regs.rax = regs.orig_rax;
        let code = abi::signal::SI_KERNEL;
        return Ok(Some(Event::Fault(Fault { signal: Signal::SEGV, code, addr: 0, access: Prot::empty(), present: false })));
    }
    if !matches!(signal, libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE | libc::SIGTRAP | libc::SIGSYS) {
        return Ok(None);
    }
    let info = sys::get_siginfo(tid)?;
    if !sys::is_own_trap(&info) {
        return Ok(None);
    }
    sys::get_regs(tid, regs)?;
    if signal == libc::SIGSYS {
        // A call of the vsyscall page: the host has already returned from it, without result.
        if info.code != SYS_SECCOMP {
            return Ok(None);
        }
        regs.orig_rax = info.fields[1] & u64::from(u32::MAX);
        regs.rax = (-i64::from(libc::ENOSYS)) as u64;
        return Ok(Some(Event::Syscall));
    }
    let signal = u64::try_from(signal).ok().and_then(Signal::new).unwrap_or(Signal::SEGV);
    Ok(Some(Event::Fault(Fault { signal, code: info.code, addr: info.fields[0], access: Prot::empty(), present: false })))
}

/// Whether the application goes on behind its system call with nothing changed but the result: then one register is written instead
/// of all. Not for results that the host itself would take for the wish to restart the call.
fn only_result_differs(stopped_at: &UserRegs, regs: &UserRegs) -> bool {
    let key = |r: &UserRegs| {
        [
            [r.r15, r.r14, r.r13, r.r12, r.rbp, r.rbx],
            [r.r11, r.r10, r.r9, r.r8, r.rcx, r.rdx],
            [r.rsi, r.rdi, r.rip, r.cs, r.eflags, r.rsp],
            [r.ss, r.fs_base, r.gs_base, r.ds, r.es, r.fs],
            [r.gs, 0, 0, 0, 0, 0],
        ]
    };
    !(-600..=-500).contains(&(regs.rax as i64)) && key(stopped_at) == key(regs)
}

/// Registers that the host takes for certain (`PTRACE_SETREGS` fails on a kernel selector or base address), in a thread that does
/// not go back to any system call. Flags that are not an application's are kept by the host itself.
fn sanitized(regs: &UserRegs) -> UserRegs {
    let mut r = *regs;
    r.orig_rax = u64::MAX;
    r.cs = USER_CS;
    r.ss = USER_SS;
    for selector in [&mut r.ds, &mut r.es, &mut r.fs, &mut r.gs] {
        if *selector > 0xffff || *selector & 3 != 3 {
            *selector = 0;
        }
    }
    for base in [&mut r.fs_base, &mut r.gs_base] {
        if *base >= USER_END {
            *base = 0;
        }
    }
    r
}

impl Context for PtraceContext {
    fn flush(&mut self, aspace: &Arc<dyn AddressSpace>) -> Result<(), Errno> {
        if !aspace.is_dirty() {
            return Ok(());
        }
        self.stopped_at = None;
        self.with_thread(aspace, |_, tid, process| process.flush(tid).map(drop))
    }

    fn switch(&mut self, aspace: &Arc<dyn AddressSpace>, regs: &mut UserRegs) -> Event {
        self.switches = self.switches.wrapping_add(1);
        if self.switches % LOOK_EVERY == 0
            && let Some(seat) = &mut self.seat
        {
            seat.look();
        }
        self.with_thread(aspace, |this, tid, process| this.run(tid, process, regs)).unwrap_or_else(|e| {
            self.interrupter.leave();
            tracing::debug!("a stub thread is lost: {e}");
            Event::Lost
        })
    }

    fn prepare_sibling(&mut self, aspace: &Arc<dyn AddressSpace>) -> Result<(), Errno> {
        self.stopped_at = None;
        self.with_thread(aspace, |_, tid, process| process.promise_thread(tid))
    }

    fn fp_state(&mut self) -> FpState {
        if let Some(t) = &self.thread {
            let mut buf = vec![0; self.spawner.layout.size];
            if sys::get_xstate(t.tid, &mut buf).is_ok() {
                return FpState(buf);
            }
        }
        self.fp.clone().unwrap_or_else(|| self.spawner.layout.initial())
    }

    fn set_fp_state(&mut self, state: &FpState) -> Result<(), Errno> {
        self.spawner.layout.check(state)?;
        match &self.thread {
            // A thread that is gone shows at the next switch.
            Some(t) => {
                let set = sys::set_xstate(t.tid, &state.0);
                if matches!(set, Err(Errno::EINVAL | Errno::EFAULT)) {
                    return Err(Errno::EINVAL);
                }
            }
            None => self.fp = Some(state.clone()),
        }
        Ok(())
    }

    fn reset_fp_state(&mut self) {
        let initial = self.spawner.layout.initial();
        match &self.thread {
            Some(t) => drop(sys::set_xstate(t.tid, &initial.0)),
            None => self.fp = None,
        }
    }

    fn interrupter(&self) -> Arc<dyn Interrupt> {
        Arc::clone(&self.interrupter) as Arc<dyn Interrupt>
    }

    fn set_blocked(&mut self, blocked: bool) {
        if let Some(seat) = &mut self.seat {
            seat.set_blocked(blocked);
        }
    }
}

impl Drop for PtraceContext {
    fn drop(&mut self) {
        self.leave();
    }
}
