//! A guest thread: a thread of a stub process, served by the task thread that owns the [`TrapContext`].

use super::aspace::{Process, TrapAddressSpace};
use super::frame::{self, Saved};
use super::halves::Half;
use super::patch::PutBack;
use super::spin::{Found, Last, Spin, Way};
use super::thread::{HostThread, Orders, Ring, Watch};
use super::{Shared, code};
use crate::activity::{self, Activity};
use crate::interrupt::Interrupter;
use crate::placement::Seat;
use crate::stub::{INTERRUPT, USER_END};
use crate::wake;
use crate::{AddressSpace, Answers, Context, Event, Fault, FpState, Interrupt, UserRegs};
use abi::Errno;
use abi::mm::Prot;
use abi::signal::Signal;
use std::sync::Arc;

/// `si_code` of a SIGSYS that a seccomp filter raised.
const SYS_SECCOMP: i32 = 1;
/// `si_arch` of a call made by `syscall` in 64-bit code.
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
/// The number of uretprobe(2).
const SYS_URETPROBE: u64 = 335;
/// Bits of a page fault's error code: a page is there; it was a write; it was a fetch of an instruction.
const PF_PRESENT: u64 = 1;
const PF_WRITE: u64 = 1 << 1;
const PF_FETCH: u64 = 1 << 4;
/// In the flags: a trap after each instruction.
const TRAP_FLAG: u64 = 0x100;

/// Naps after which a thread that does not answer an interrupt is given up: some five seconds.
const NAPS: u32 = 50;
/// Looking in turns with others: turns before giving way for the first time, some 4 µs, and between one time and the next.
const TURNS_ALONE: u32 = 150;
const TURNS_BETWEEN: u32 = 20;
/// How long nothing may be found, in nanoseconds.
const LONG: u64 = 100_000;
/// When a stub that somebody else was to wake must be awake, in nanoseconds.
const SOON: u64 = 20_000;
/// Turns of a thread after which it looks whether it should be on another processor.
const LOOK_EVERY: u32 = 256;

/// A guest thread's execution state.
pub struct TrapContext {
    shared: Arc<Shared>,
    thread: Option<(HostThread, Arc<Process>)>,
    /// The extended state, while it is not in a host thread's frame.
    fp: Option<FpState>,
    interrupter: Arc<Interrupter>,
    activity: Arc<Activity>,
    /// The serving thread has said so.
    begun: bool,
    spin: Spin,
    /// Where both sides sleep on words that they share: the processor that they share then.
    seat: Option<Seat>,
    /// The other side is on another processor than that.
    apart: bool,
    /// Turns until the next look at the processor.
    until_look: u32,
    /// Where both sides are while this one looks in turns with others.
    half: Option<Half>,
    /// The stub has carried out operations since the last call.
    has_operated: bool,
    /// Where the last call of a patched site goes back to, and the bases of fs and gs.
    last_call: Option<[u64; 3]>,
    hot: Option<u64>,
    answers: Option<Answers>,
}

impl TrapContext {
    pub(super) fn new(shared: &Arc<Shared>) -> TrapContext {
        TrapContext {
            shared: Arc::clone(shared),
            thread: None,
            fp: None,
            interrupter: Arc::default(),
            activity: Activity::new(&shared.load, &shared.placement),
            begun: false,
            spin: Spin::new(shared.options.looking),
            seat: None,
            apart: false,
            until_look: LOOK_EVERY,
            half: None,
            has_operated: false,
            last_call: None,
            hot: None,
            answers: None,
        }
    }

    /// Takes a host thread in `process` out of the idle ones, with this context's extended state.
    fn join(&mut self, process: &Arc<Process>) -> Result<HostThread, Errno> {
        let mut thread = process.take_thread()?;
        let fp = self.fp.take().unwrap_or_else(|| self.shared.spawner.layout.initial());
        if let Err(e) = thread
            .hold(process.pid())
            .and_then(|()| frame::write_fp(&thread.slot, &self.shared.geometry, &fp))
            .and_then(|()| self.show(&thread))
        {
            tracing::debug!(tid = thread.tid, "cannot take over a stub thread: {e}");
            self.fp = Some(fp);
            process.kill();
            process.give_thread(thread);
            return Err(e);
        }
        Ok(thread)
    }

    /// Shows the application in `thread` what it may be told without asking the kernel.
    fn show(&self, thread: &HostThread) -> Result<(), Errno> {
        match &self.answers {
            Some(a) => thread.show(&super::answers(a)),
            None => thread.show(&super::NO_ANSWERS),
        }
    }

    /// Sees to it that the extended state is in the frame.
    fn settle(&mut self) {
        if let Some((thread, process)) = &mut self.thread
            && thread.is_live()
            && let Err(e) = thread.hold(process.pid())
        {
            tracing::debug!(tid = thread.tid, "a stub thread does not give its state: {e}");
            process.kill();
        }
    }

    /// Gives the host thread back. The extended state that it had is forgotten.
    fn leave(&mut self) {
        self.apart = true;
        if let Some((thread, process)) = self.thread.take() {
            self.reunite(&thread);
            process.give_thread(thread);
        }
    }

    /// Puts both sides where they look in turns with others. Returns who is to make room when the stub has been told to run.
    fn divide(&mut self, thread: &HostThread) -> Result<Option<Arc<Orders>>, Errno> {
        match &self.half {
            Some(half) if half.is_of(thread.tid) => Ok(half.place()),
            _ => {
                self.reunite(thread);
                self.half = self.shared.halves.join(thread.tid, thread.orders());
                let Some(half) = &self.half else { return Ok(None) };
                self.activity.set_placed(true);
                let lingers = half.place();
                thread.set_together(false)?;
                // Others wait for its processor.
                activity::tell_waits(Some(half.waits()));
                Ok(lingers)
            }
        }
    }

    /// Lets both sides be where they want again.
    fn reunite(&mut self, thread: &HostThread) {
        if self.half.take().is_some() {
            activity::tell_waits(None);
            self.activity.set_placed(false);
            if let Err(e) = thread.set_together(true) {
                tracing::debug!(tid = thread.tid, "a stub thread cannot be kept near: {e}");
            }
        }
    }

    /// Does `f` with a host thread in `aspace`. A thread that is gone, or that the application has tampered with, is the end of its process.
    fn with_thread<T>(
        &mut self,
        aspace: &Arc<dyn AddressSpace>,
        f: impl FnOnce(&mut Self, &mut HostThread, &Process) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let process = &aspace.as_any().downcast_ref::<TrapAddressSpace>().ok_or(Errno::EINVAL)?.process;
        if process.is_dead() {
            return Err(Errno::ESRCH);
        }
        let mut thread = match self.thread.take() {
            Some((t, p)) if Arc::ptr_eq(&p, process) => t,
            other => {
                self.thread = other;
                if self.thread.is_some() {
                    self.fp = Some(self.fp_state());
                }
                self.leave();
                self.join(process)?
            }
        };
        let result = f(self, &mut thread, process);
        if let Err(Errno::ESRCH | Errno::EPROTO) = result {
            process.kill();
            self.reunite(&thread);
            process.give_thread(thread);
        } else {
            self.thread = Some((thread, Arc::clone(process)));
        }
        result
    }

    /// Lets the application run until something happens.
    fn run(&mut self, thread: &mut HostThread, process: &Process, regs: &mut UserRegs) -> Result<Event, Errno> {
        self.has_operated |= process.is_dirty();
        process.flush()?;
        if !self.begun {
            self.begun = true;
            self.activity.begin();
        }
        if !is_canonical(regs.rip) {
            // IRETQ would fault in the stub.
            return Ok(Event::Fault(general_protection()));
        }
        frame::write(&thread.slot, &self.shared.geometry, regs, thread.area())?;
        self.interrupter.enter(process.pid(), thread.tid);
        let event = loop {
            if self.interrupter.take() {
                regs.orig_rax = u64::MAX;
                break Event::Interrupted;
            }
            let ring = self.resume(thread, regs)?;
            match self.classify(thread, process, ring, regs)? {
                Some(Event::Fault(fault)) if fault.signal == Signal::SEGV && process.demand(fault.addr) => process.flush()?,
                Some(event) => break event,
                None => {}
            }
            frame::write(&thread.slot, &self.shared.geometry, regs, thread.area())?;
        };
        self.interrupter.leave();
        Ok(event)
    }

    /// Lets the application run, and waits for what comes next.
    fn resume(&mut self, thread: &mut HostThread, regs: &UserRegs) -> Result<Ring, Errno> {
        // As behind `syscall`: then no more is to be loaded than the general registers.
        let jump = self.last_call == Some([regs.rip, regs.fs_base, regs.gs_base])
            && (regs.rcx, regs.r11) == (regs.rip, regs.eflags)
            && regs.eflags & TRAP_FLAG == 0;
        let blocked = self.activity.take_has_blocked();
        self.activity.goes_on();
        let mut keeps = wake::any_kept();
        let operated = std::mem::take(&mut self.has_operated);
        let held = thread.take_was_kicked() | operated;
        let way = self.spin.way(&self.activity, Last { blocked, held, operated, posted: thread.is_awake()? });
        if way == Way::InTurns && !thread.is_silent() {
            return self.resume_in_turns(thread, jump, keeps);
        }
        self.reunite(thread);
        if thread.is_silent() {
            // There is nothing that it could wait for a moment for.
            if std::mem::take(&mut keeps) {
                wake::release();
            }
            // It may have been called to another processor meanwhile.
            self.apart |= blocked;
            self.sit(thread, way);
        }
        thread.set_watch(if matches!(way, Way::Begin(_) | Way::Look(_)) { Watch::Yes } else { Watch::No })?;
        if matches!(way, Way::Begin(_)) {
            thread.set_together(false)?;
            self.shared.placement.part(thread.tid);
        }
        if thread.resume(jump, None)? {
            self.interrupter.repeat();
        }
        let turns = match way {
            Way::Bell | Way::InTurns => return self.wait(thread, keeps),
            Way::Begin(turns) => {
                thread.set_together(true)?;
                turns
            }
            Way::Look(turns) => turns,
        };
        let found = thread.look(turns)?;
        if matches!(way, Way::Begin(_)) && !thread.is_silent() {
            self.shared.placement.release(thread.tid);
        }
        self.spin.result(if found.is_some() { Found::Call } else { Found::Nothing });
        match found {
            Some(ring) => Ok(ring),
            None => {
                thread.set_watch(Watch::No)?;
                self.wait(thread, keeps)
            }
        }
    }

    /// The same, and looks for it in turns with other threads.
    fn resume_in_turns(&mut self, thread: &mut HostThread, jump: bool, keeps: bool) -> Result<Ring, Errno> {
        let lingers = self.divide(thread)?;
        thread.set_watch(Watch::InTurns)?;
        if thread.resume(jump, lingers.as_deref())? {
            self.interrupter.repeat();
        }
        let (found, ring) = match &self.half {
            Some(half) => look_in_turns(thread, half)?,
            None => (Found::Nothing, None),
        };
        self.spin.result(found);
        if let Some(ring) = ring {
            return Ok(ring);
        }
        thread.orders().rouse_if_asleep()?;
        thread.set_watch(Watch::No)?;
        // It does not ring for what it has shown already: it sleeps.
        match thread.look(1)? {
            Some(ring) => Ok(ring),
            None => self.wait(thread, keeps),
        }
    }

    /// Waits for what comes next. `keeps`: the calling thread keeps wake-ups back.
    fn wait(&self, thread: &mut HostThread, keeps: bool) -> Result<Ring, Errno> {
        if !thread.is_silent() {
            if keeps {
                thread.wait_patiently()?;
            }
            return thread.wait();
        }
        let mut ignored = 0;
        loop {
            if let Some(ring) = thread.nap()? {
                return Ok(ring);
            }
            // What it showed may have been overwritten by the application, which then has its own word against it for ever.
            ignored = if self.interrupter.repeat() { ignored + 1 } else { 0 };
            if ignored > NAPS {
                return Err(Errno::EPROTO);
            }
        }
    }

    /// Keeps both sides on one processor, unless they are about to look for each other: the host wakes sleepers where they slept, which on another
    /// processor takes long.
    fn sit(&mut self, thread: &HostThread, way: Way) {
        let new = self.seat.is_none();
        let seat = self.seat.get_or_insert_with(|| Seat::new(&self.shared.placement));
        self.until_look -= 1;
        if self.until_look == 0 {
            self.until_look = LOOK_EVERY;
            seat.look();
        }
        match way {
            Way::Bell | Way::InTurns if new || self.apart => {
                seat.set_stub(thread.tid);
                self.apart = false;
            }
            Way::Begin(_) => self.apart = true,
            Way::Bell | Way::InTurns | Way::Look(_) => {}
        }
    }

    /// What a ring means. `None`: nothing to the application. Fills `regs` with its state.
    fn classify(&mut self, thread: &HostThread, process: &Process, ring: Ring, regs: &mut UserRegs) -> Result<Option<Event>, Errno> {
        let saved = frame::read(&thread.slot, &self.shared.geometry)?;
        let gs_base = if ring.gs_base == thread.area() { 0 } else { ring.gs_base };
        let bases = match ring.why {
            code::ORDER_INTERRUPTED => (regs.fs_base, regs.gs_base),
            _ => (ring.fs_base, gs_base),
        };
        *regs = saved.regs;
        (regs.fs_base, regs.gs_base) = bases;
        Ok(match ring.why {
            code::CALL | code::CALL_INTERRUPTED => {
                self.last_call = Some([regs.rip, regs.fs_base, regs.gs_base]);
                regs.orig_rax = regs.rax;
                regs.rax = (-i64::from(libc::ENOSYS)).cast_unsigned();
                Some(Event::Syscall)
            }
            code::EVENT | code::EVENT_INTERRUPTED => match event(&saved, regs) {
                Some(Event::Syscall) => {
                    if saved.signal == libc::SIGSYS && process.patches().count(regs.rip) {
                        self.hot = Some(regs.rip);
                    }
                    Some(Event::Syscall)
                }
                Some(Event::Fault(mut fault)) if process.is_patched() => {
                    let found = *regs;
                    match (process.patches().put_back(regs), fault.signal) {
                        (PutBack::Nowhere, _) => {}
                        // A page of trampolines was taken away while a thread was on its way there.
                        (_, Signal::SEGV) if fault.addr == found.rip => return Ok(None),
                        // A step that has led no further than to where the instruction has moved: it ends behind that.
                        (PutBack::Before, Signal::TRAP) => {
                            *regs = found;
                            return Ok(None);
                        }
                        (PutBack::Behind, Signal::TRAP) => fault.addr = regs.rip,
                        _ => {}
                    }
                    Some(Event::Fault(fault))
                }
                None if process.is_patched() => {
                    process.patches().put_back(regs);
                    None
                }
                event => event,
            },
            _ => {
                if process.is_patched() {
                    process.patches().put_back(regs);
                }
                None
            }
        })
    }
}

/// Looks for what comes next, and gives way to other threads of this processor meanwhile.
fn look_in_turns(thread: &mut HostThread, half: &Half) -> Result<(Found, Option<Ring>), Errno> {
    half.begin();
    let mut ring = thread.look(TURNS_ALONE)?;
    if ring.is_none() {
        let begin = host::time::monotonic_ns();
        let mut roused = false;
        loop {
            std::thread::yield_now();
            ring = thread.look(TURNS_BETWEEN)?;
            if ring.is_some() {
                break;
            }
            if !half.is_looker() {
                return Ok((Found::Displaced, None));
            }
            // For the waking of those that have been kept from it for long.
            wake::any_kept();
            let waited = host::time::monotonic_ns().saturating_sub(begin);
            if waited > SOON && !roused {
                // Whoever was to wake it may have been asleep himself.
                thread.orders().rouse_if_asleep()?;
                roused = true;
            }
            if waited > LONG {
                half.give_up();
                return Ok((Found::Nothing, None));
            }
        }
    }
    Ok((Found::Call, ring))
}

/// What a frame says that has happened, besides registers. `None`: a signal that is nothing to the application.
fn event(saved: &Saved, regs: &mut UserRegs) -> Option<Event> {
    // What somebody has sent is no fault.
    if saved.code <= 0 || saved.signal == INTERRUPT {
        return None;
    }
    if saved.signal == libc::SIGSYS && saved.code == SYS_SECCOMP {
        // The host takes some numbers of calls for results of calls to be restarted: it goes back to the instruction, or puts
        // EINTR in place of the number.
        if regs.rip.wrapping_add(2) == saved.addr {
            regs.rip = saved.addr;
        }
        if regs.rax as i32 != saved.nr {
            regs.rax = i64::from(saved.nr).cast_unsigned();
        }
        if saved.arch != AUDIT_ARCH_X86_64 {
            // `int 0x80` or `sysenter`, whose numbers mean other calls: as on a kernel without the 32-bit interfaces.
            regs.rip = regs.rip.wrapping_sub(2);
            return Some(Event::Fault(general_protection()));
        }
        regs.orig_rax = regs.rax;
        regs.rax = (-i64::from(libc::ENOSYS)).cast_unsigned();
        return Some(Event::Syscall);
    }
    if saved.signal == libc::SIGILL && saved.code == abi::signal::SI_KERNEL {
        // Since Linux 6.13 no filter is asked for uretprobe(2), which ends like this anywhere but in the host's own trampoline.
        regs.orig_rax = SYS_URETPROBE;
        regs.rax = (-i64::from(libc::ENOSYS)).cast_unsigned();
        return Some(Event::Syscall);
    }
    let signal = u64::try_from(saved.signal).ok().and_then(Signal::new).unwrap_or(Signal::SEGV);
    let access = match saved.page_fault {
        Some(e) if e & PF_WRITE != 0 => Prot::WRITE,
        Some(e) if e & PF_FETCH != 0 => Prot::EXEC,
        Some(_) => Prot::READ,
        None => Prot::empty(),
    };
    Some(Event::Fault(Fault {
        signal,
        code: saved.code,
        addr: saved.addr,
        access,
        present: saved.page_fault.is_some_and(|e| e & PF_PRESENT != 0),
    }))
}

fn general_protection() -> Fault {
    Fault { signal: Signal::SEGV, code: abi::signal::SI_KERNEL, addr: 0, access: Prot::empty(), present: false }
}

/// Whether the processor takes `rip` as an address at all.
fn is_canonical(rip: u64) -> bool {
    rip <= USER_END + abi::PAGE_SIZE || rip >= !(1 << 47) + 1
}

impl Context for TrapContext {
    fn flush(&mut self, aspace: &Arc<dyn AddressSpace>) -> Result<(), Errno> {
        if !aspace.is_dirty() {
            return Ok(());
        }
        self.has_operated = true;
        self.with_thread(aspace, |_, _, process| process.flush())
    }

    fn switch(&mut self, aspace: &Arc<dyn AddressSpace>, regs: &mut UserRegs) -> Event {
        self.with_thread(aspace, |this, thread, process| this.run(thread, process, regs)).unwrap_or_else(|e| {
            self.interrupter.leave();
            tracing::debug!("a stub thread is lost: {e}");
            Event::Lost
        })
    }

    fn prepare_sibling(&mut self, aspace: &Arc<dyn AddressSpace>) -> Result<(), Errno> {
        aspace.as_any().downcast_ref::<TrapAddressSpace>().ok_or(Errno::EINVAL)?.process.promise_thread()
    }

    fn fp_state(&mut self) -> FpState {
        self.settle();
        if let Some((thread, _)) = &self.thread
            && let Ok(fp) = frame::read_fp(&thread.slot, &self.shared.geometry, &self.shared.spawner.layout)
        {
            return fp;
        }
        self.fp.clone().unwrap_or_else(|| self.shared.spawner.layout.initial())
    }

    fn set_fp_state(&mut self, state: &FpState) -> Result<(), Errno> {
        self.shared.spawner.layout.check(state)?;
        self.settle();
        match &self.thread {
            Some((thread, _)) => frame::write_fp(&thread.slot, &self.shared.geometry, state)?,
            None => self.fp = Some(state.clone()),
        }
        Ok(())
    }

    fn reset_fp_state(&mut self) {
        self.settle();
        let initial = self.shared.spawner.layout.initial();
        if let Some((thread, _)) = &self.thread
            && frame::write_fp(&thread.slot, &self.shared.geometry, &initial).is_err()
        {
            tracing::debug!("the memory of a stub thread is gone");
        }
        self.fp = None;
    }

    fn set_blocked(&mut self, blocked: bool) {
        self.activity.set_running(!blocked);
        if let Some(seat) = &mut self.seat {
            seat.set_blocked(blocked);
        }
    }

    fn take_hot_call(&mut self) -> Option<u64> {
        self.hot.take()
    }

    fn set_answers(&mut self, answers: Option<Answers>) {
        self.answers = answers;
        if let Some((thread, _)) = &self.thread
            && self.show(thread).is_err()
        {
            tracing::debug!("the memory of a stub thread is gone");
        }
    }

    fn settle_cpu(&mut self) {
        // One that looks for its order runs, and the host counts what runs elsewhere at its next tick only.
        if let Some((thread, process)) = &mut self.thread
            && let Err(e) = thread.hold(process.pid())
        {
            tracing::debug!(tid = thread.tid, "a stub thread does not stand still: {e}");
            process.kill();
        }
    }

    fn interrupter(&self) -> Arc<dyn Interrupt> {
        Arc::clone(&self.interrupter) as Arc<dyn Interrupt>
    }
}

impl Drop for TrapContext {
    fn drop(&mut self) {
        // Nobody waits for a next call, in which what is kept back would be seen to.
        wake::set_handing_over(false);
        self.activity.set_running(false);
        self.leave();
        self.activity.end();
    }
}
