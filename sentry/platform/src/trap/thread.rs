//! A stub thread for application code, and how it is made.

use super::Handover;
use super::beds::{Bed, Beds};
use super::code::{self, ANSWERS, POST, POST_ASLEEP, SLOTS_BEGIN};
use super::filter;
use super::frame::{Geometry, STACK_LEN};
use super::image::{self, Place};
use super::operator::Operator;
use super::patch::PatchPage;
use super::slots::View;
use super::slots::{SLOT, Slot, Slots};
use crate::UserRegs;
use crate::placement::Placement;
use crate::spawner::{Kind, Site};
use crate::stub::{self, Confinement, Entry, INTERRUPT, OPS, OPS_LEN};
use crate::tracee::run;
use crate::tracee::sys::{self, Wait};
use crate::wake;
use abi::Errno;
use host::memfile::MemoryFile;
use host::notify::{Listener, Notification};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// Threads that a process may have.
pub const THREADS: u64 = 16 << 10;
const _: () = assert!(SLOTS_BEGIN + THREADS * SLOT <= stub::USER_END);

/// How often a stub looks for an order before it rings all the same: some 50 µs, which most calls that do not wait are shorter than.
const STUB_PATIENCE: u32 = 2000;
/// How long a thread without a listener may take to end.
const EXIT_TIME: std::time::Duration = std::time::Duration::from_secs(5);
/// How long a thread that waits for an order may take to ring when it is told to, in milliseconds.
const HOLD_MS: i32 = 20;

/// Where a thread goes in its process.
#[derive(Debug, Default)]
pub struct Berth {
    /// Which of the process's places for slots.
    pub number: u64,
    /// The slot that is mapped there already, if one is.
    pub slot: Option<Slot>,
}

/// A stub thread. It runs application code, or is held in a call that the sentry was or will be notified of.
#[derive(Debug)]
pub struct HostThread {
    /// Its id on the host.
    pub tid: i32,
    /// What it shares with the sentry.
    pub slot: Slot,
    number: u64,
    /// The process that it is of.
    process: i32,
    /// `None`: both sides sleep on words that they share.
    listener: Option<Listener>,
    /// The call that it is held in, if the sentry has received the notification.
    held: Option<u64>,
    /// Whether it may show something in its slot.
    watch: Watch,
    orders: Arc<Orders>,
    /// The address of its frame in the stub.
    frame: u64,
}

/// Whether the sentry looks at a thread's slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// No: it rings.
    No,
    /// Yes: it rings when it has lost patience.
    Yes,
    /// Yes: it sleeps when it has lost patience.
    InTurns,
}

/// What a thread was told last, and what it does about it. Only the thread that serves it changes this, but for
/// [`make_room_for`](Orders::make_room_for).
#[derive(Debug)]
pub struct Orders {
    ops: Arc<MemoryFile>,
    /// Where in that file the line is that the thread looks at.
    line: u64,
    /// The last order.
    word: AtomicU32,
    /// It waits for an order in its line, unless it has lost patience.
    posted: AtomicBool,
    /// The application's extended state is in the processor, not in the frame.
    live: AtomicBool,
    /// It was told to ring instead, and the ring has not been received.
    kicked: AtomicBool,
    /// It was since somebody asked.
    was_kicked: AtomicBool,
    /// It looks for an order that may be long in coming: whoever wants its processor may let it ring.
    lingers: Mutex<bool>,
    /// It may do so.
    has_lingered: AtomicBool,
    /// Where it sleeps, if it has a place for that.
    bed: Option<Bed>,
    /// What it shows.
    view: View,
}

impl Orders {
    fn word(&self) -> u32 {
        self.word.load(Relaxed)
    }

    fn is_posted(&self) -> bool {
        self.posted.load(Relaxed)
    }

    fn set_posted(&self, posted: bool) {
        self.posted.store(posted, Relaxed);
    }

    fn is_live(&self) -> bool {
        self.live.load(Relaxed)
    }

    fn set_live(&self, live: bool) {
        self.live.store(live, Relaxed);
    }

    fn set(&self, place: u64, value: u32) -> Result<(), Errno> {
        self.ops.swap_u32(self.line + place, value).map(drop)
    }

    fn next(&self, kind: u32) -> Result<(), Errno> {
        // The lowest bits are the kind.
        let word = (self.word() & !(code::STEP - 1)).wrapping_add(code::STEP) | kind;
        self.word.store(word, Relaxed);
        self.set(code::ORDER, word)
    }

    /// Lets it ring.
    fn kick(&self) -> Result<(), Errno> {
        self.was_kicked.store(true, Relaxed);
        if !self.kicked.swap(true, Relaxed) {
            self.next(code::KICK | if self.is_live() { code::LIVE } else { 0 })?;
            self.rouse_if_asleep()?;
        }
        Ok(())
    }

    /// Lets it sleep, after having woken another one.
    fn put_to_bed(&self, next: Option<&Bed>) -> Result<(), Errno> {
        if self.bed.is_none() {
            return self.kick();
        }
        let address = next.map_or(0, Bed::address);
        self.ops.copy_out(self.line + code::ROUSE, &address.to_le_bytes())?;
        self.next(code::SLEEP | if self.is_live() { code::LIVE } else { 0 })
    }

    /// Whether it says that it sleeps in its bed, or is about to.
    pub fn is_asleep(&self) -> Result<bool, Errno> {
        Ok(self.bed.is_some() && self.view.load(POST_ASLEEP)? != 0)
    }

    /// Wakes it, so that it sees its last order.
    pub fn rouse_if_asleep(&self) -> Result<(), Errno> {
        match &self.bed {
            Some(bed) if self.is_asleep()? => bed.rouse(),
            _ => Ok(()),
        }
    }

    /// The next order may be long in coming: nobody is to look for it. To be called by the thread that serves it.
    pub fn send_away(&self) {
        self.make_room(None);
    }

    fn make_room(&self, next: Option<&Bed>) {
        if self.is_posted()
            && !self.kicked.load(Relaxed)
            && let Err(e) = self.put_to_bed(next)
        {
            tracing::debug!("the memory of a stub thread is gone: {e}");
        }
    }

    /// The same, but for the time being nobody else wants its processor: it may look until somebody does.
    pub fn let_linger(&self) {
        self.has_lingered.store(true, Relaxed);
        *self.lingers() = true;
    }

    /// `next`, which has an order, is to run on the processor where it may be looking. Returns whether it will wake that, if it is
    /// quick; else that does not sleep. May be called by any thread.
    pub fn make_room_for(&self, next: &Orders) -> Result<bool, Errno> {
        let mut lingers = self.lingers();
        let lingered = std::mem::take(&mut *lingers);
        let sleeper = next.bed.as_ref().filter(|_| lingered);
        let wakes = match sleeper {
            Some(bed) if self.bed.is_some() && next.is_asleep()? && !self.is_asleep()? => {
                bed.stir()?;
                true
            }
            _ => false,
        };
        if lingered {
            self.make_room(sleeper.filter(|_| wakes));
        }
        Ok(wakes)
    }

    /// Nobody may send it away any more.
    fn settle(&self) {
        if self.has_lingered.load(Relaxed) && self.has_lingered.swap(false, Relaxed) {
            *self.lingers() = false;
        }
    }

    fn lingers(&self) -> std::sync::MutexGuard<'_, bool> {
        self.lingers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a thread says when it rings.
#[derive(Clone, Copy, Debug)]
pub struct Ring {
    /// One of the reasons in [`code`].
    pub why: u64,
    /// The base of fs.
    pub fs_base: u64,
    /// The base of gs.
    pub gs_base: u64,
}

impl HostThread {
    /// `EPROTO` where there is none.
    fn listener(&self) -> Result<&Listener, Errno> {
        self.listener.as_ref().ok_or(Errno::EPROTO)
    }

    /// Whether both sides sleep on words that they share. Such a thread carries out no operations.
    pub fn is_silent(&self) -> bool {
        self.listener.is_none()
    }

    /// Sleeps until the thread shows that it has seen the last order, and something has happened; `None`: not yet. `ESRCH`: it is gone.
    pub fn nap(&mut self) -> Result<Option<Ring>, Errno> {
        if let Some(ring) = self.look(1)? {
            return Ok(Some(ring));
        }
        self.orders.set(code::ASLEEP, 1)?;
        let shown = self.slot.load(POST + 24)?;
        if shown != self.orders.word() {
            self.slot.sleep(POST + 24, shown)?;
        }
        self.orders.set(code::ASLEEP, 0)?;
        let ring = self.look(1)?;
        if ring.is_none() {
            host::signals::tgkill(self.process, self.tid, 0)?;
        }
        Ok(ring)
    }

    /// Sleeps until a thread that runs no application code shows that it waits.
    fn wait_silently(&mut self) -> Result<Ring, Errno> {
        loop {
            if let Some(ring) = self.nap()? {
                return Ok(ring);
            }
        }
    }

    /// Waits until the thread makes one of its calls. `ESRCH`: it is gone.
    fn receive(&self) -> Result<Notification, Errno> {
        loop {
            let listener = self.listener()?;
            match listener.receive() {
                Err(Errno::EINTR) => {}
                Err(Errno::ENOENT) if listener.is_deserted() => return Err(Errno::ESRCH),
                Err(Errno::ENOENT) => {}
                r => return r,
            }
        }
    }

    /// Waits until it rings. `EPROTO`: it did something else, that is, the application did.
    pub fn wait(&mut self) -> Result<Ring, Errno> {
        if self.is_silent() {
            return self.wait_silently();
        }
        loop {
            let n = self.receive()?;
            let ring = self.ring(&n)?;
            if n.args[4] == u64::from(self.orders.word()) {
                return Ok(ring);
            }
            // It rang before it saw the last order.
            if !matches!(ring.why, code::EVENT | code::CALL) {
                // And a signal has come meanwhile, which the caller must know of.
                return Ok(Ring { why: code::ORDER_INTERRUPTED, ..ring });
            }
            self.held = None;
            self.answer(n.id, self.frame)?;
        }
    }

    /// Waits until it rings, for a moment at most: after that, whoever the calling thread keeps from waking up is woken.
    pub fn wait_patiently(&self) -> Result<(), Errno> {
        if !self.listener()?.wait_ns(wake::PATIENCE)? {
            wake::release();
        }
        Ok(())
    }

    fn ring(&mut self, n: &Notification) -> Result<Ring, Errno> {
        let [frame, fs_base, gs_base, why, ..] = n.args;
        if Place::of(n.ip) != Some(Place::Rung) || frame != self.frame {
            return Err(Errno::EPROTO);
        }
        self.held = Some(n.id);
        self.orders.set_posted(false);
        self.orders.kicked.store(false, Relaxed);
        // It has seen to that before it rang.
        self.orders.set_live(false);
        Ok(Ring { why, fs_base, gs_base })
    }

    /// Looks `turns` times whether the thread shows something in its slot. `None`: it does not.
    pub fn look(&mut self, turns: u32) -> Result<Option<Ring>, Errno> {
        let last = self.orders.word();
        for _ in 0..turns {
            if self.slot.load(POST + 24)? == last {
                let mut bytes = [0u8; 24];
                self.slot.copy_in(POST, &mut bytes)?;
                let word = |i: usize| bytes.get(8 * i..8 * i + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
                self.orders.set_posted(true);
                let why = word(2);
                self.orders.set_live(
                    !self.is_silent()
                        && (matches!(why, code::CALL | code::CALL_INTERRUPTED) || why == code::ORDER_INTERRUPTED && last & code::LIVE != 0),
                );
                return Ok(Some(Ring { why, fs_base: word(0), gs_base: word(1) }));
            }
            std::hint::spin_loop();
        }
        Ok(None)
    }

    /// Says whether the sentry will [`look`](Self::look).
    pub fn set_watch(&mut self, watch: Watch) -> Result<(), Errno> {
        if self.watch == watch {
            return Ok(());
        }
        self.watch = watch;
        let (place, value) = match (self.is_silent(), watch) {
            (false, Watch::No) => (code::WATCH, 0),
            (false, Watch::InTurns) if self.orders.bed.is_some() => (code::WATCH, code::IN_TURNS),
            (false, Watch::Yes | Watch::InTurns) => (code::WATCH, 1),
            // It shows all that happens; the question is how long it looks before it sleeps.
            (true, Watch::No) => (code::PATIENCE, 1),
            (true, Watch::Yes | Watch::InTurns) => (code::PATIENCE, STUB_PATIENCE),
        };
        self.orders.set(place, value)
    }

    /// Lets both sides wake each other on one processor, or wherever there is room.
    pub fn set_together(&self, together: bool) -> Result<(), Errno> {
        match &self.listener {
            Some(listener) => listener.set_sync_wake_up(together),
            None => Ok(()),
        }
    }

    /// Lets the new thread, which is stopped, say for the first time that it waits for an order.
    fn begin(&mut self) -> Result<(), Errno> {
        // An ended thread may have had the line before.
        self.orders.set(code::WATCH, 0)?;
        let bed = self.orders.bed.as_ref().map_or(0, Bed::address);
        self.orders.ops.copy_out(self.orders.line + code::BED, &bed.to_le_bytes())?;
        let patience = if self.is_silent() { 1 } else { STUB_PATIENCE };
        self.orders.set(code::PATIENCE, patience)?;
        self.orders.next(0)?;
        let mut regs: UserRegs = Entry::Idle.regs();
        (regs.rip, regs.rsp, regs.rdi, regs.r8) = (Place::Entered.address(), self.frame, self.frame, self.orders.word().into());
        sys::set_regs(self.tid, &regs)?;
        sys::detach(self.tid)
    }

    /// Sees to it that it is held at the doorbell, as a thread is that does not run application code.
    pub fn hold(&mut self, process: i32) -> Result<(), Errno> {
        self.orders.settle();
        if self.held.is_some() || self.is_silent() && self.orders.is_posted() {
            return Ok(());
        }
        if self.is_silent() {
            return self.wait_silently().map(drop);
        }
        if self.orders.is_posted() {
            self.set_watch(Watch::No)?;
            self.orders.kick()?;
            if !self.listener()?.wait(HOLD_MS)? {
                // The application has forged what the slot shows, and runs. Out of this it cannot talk itself.
                host::signals::tgkill(process, self.tid, INTERRUPT)?;
            }
        }
        let n = self.receive()?;
        self.ring(&n).map(drop)
    }

    fn answer(&self, id: u64, order: u64) -> Result<(), Errno> {
        self.listener()?.answer(id, order.cast_signed()).map_err(gone)
    }

    /// Whether it looks for an order, on a processor of its own, or did so a moment ago, or sleeps in its bed.
    pub fn is_awake(&self) -> Result<bool, Errno> {
        self.orders.settle();
        Ok(self.orders.is_posted() && !self.is_kicked() && (!self.is_silent() || self.slot.load(POST_ASLEEP)? == 0))
    }

    /// Whether it was told to ring, and may not have done so yet.
    fn is_kicked(&self) -> bool {
        self.orders.kicked.load(Relaxed)
    }

    /// Whether it has been told to ring since this was asked last.
    pub fn take_was_kicked(&self) -> bool {
        self.orders.was_kicked.load(Relaxed) && self.orders.was_kicked.swap(false, Relaxed)
    }

    /// What tells it that an order will be long in coming.
    pub fn orders(&self) -> &Arc<Orders> {
        &self.orders
    }

    /// Whether the application's extended state is in the processor: [`hold`](Self::hold) it before reading or writing the frame's.
    pub fn is_live(&self) -> bool {
        self.orders.is_live()
    }

    /// The address of its slot in the stub.
    pub fn area(&self) -> u64 {
        SLOTS_BEGIN + self.number * SLOT
    }

    /// Shows the application answers to calls, by their numbers.
    pub fn show(&self, answers: &[(i64, Option<u32>)]) -> Result<(), Errno> {
        answers.iter().try_for_each(|&(nr, answer)| {
            let word = answer.map_or(0, |a| a.wrapping_add(1));
            self.slot.copy_out(ANSWERS + 4 * nr.cast_unsigned(), &word.to_le_bytes())
        })
    }

    /// Lets it run application code from its frame. `jump`: all registers are as they were, but for those that a call may change. `lingers`: one that may be
    /// looking on the processor where it will run. Returns whether that was done without an answer to a ring.
    pub fn resume(&mut self, jump: bool, lingers: Option<&Orders>) -> Result<bool, Errno> {
        self.orders.settle();
        if self.is_kicked() {
            let watch = self.watch;
            self.hold(self.process)?;
            self.set_watch(watch)?;
        }
        let kind = match (self.orders.is_live(), jump) {
            (false, _) => 0,
            (true, false) => code::LIVE,
            (true, true) => code::LIVE | code::JUMP,
        };
        self.orders.next(kind)?;
        if self.is_silent() && self.slot.load(POST_ASLEEP)? != 0 {
            self.orders.ops.wake_u32(self.orders.line + code::ORDER)?;
        }
        let posted = match self.held.take() {
            Some(id) => self.answer(id, self.frame).map(|()| false)?,
            None if self.orders.posted.swap(false, Relaxed) => true,
            None => return Err(Errno::EPROTO),
        };
        // What it was told it sees when it is awake. Only now: its processor would go to sleep meanwhile.
        let is_woken = match lingers {
            Some(other) => other.make_room_for(&self.orders)?,
            None => false,
        };
        if posted && !is_woken {
            self.orders.rouse_if_asleep()?;
        }
        Ok(posted)
    }

    /// The call that ends it.
    pub const EXIT: [u64; 8] = [libc::SYS_exit as u64, 0, 0, 0, 0, 0, 0, 0];

    /// Lets it end itself: the list holds [`EXIT`](Self::EXIT). Returns what it leaves behind.
    pub fn exit(mut self) -> Result<Berth, (HostThread, Errno)> {
        if self.is_silent() {
            return match self.exit_silently() {
                Ok(()) => Ok(Berth { number: self.number, slot: Some(self.slot) }),
                Err(e) => Err((self, e)),
            };
        }
        loop {
            match self.order_exit() {
                Err(Errno::ESRCH) => {
                    return Ok(Berth { number: self.number, slot: Some(self.slot) });
                }
                Ok(()) => {}
                Err(e) => return Err((self, e)),
            }
        }
    }

    /// Lets it, being [held](Self::hold), make the call that ends it. `ESRCH`: it has ended. Else the sentry's signal has kept it from that, and it is held again.
    /// `EPROTO`: it did something else.
    fn order_exit(&mut self) -> Result<(), Errno> {
        let id = self.held.take().ok_or(Errno::EPROTO)?;
        self.answer(id, self.frame | code::ORDER_BATCH)?;
        let n = self.receive()?;
        let [nr, args @ .., _] = Self::EXIT;
        match Place::of(n.ip) {
            Some(Place::Operated) if n.nr.cast_unsigned() == nr && n.args == args => {
                self.listener()?.approve(n.id).map_err(gone)?;
                self.receive().and(Err(Errno::EPROTO))
            }
            Some(Place::Rung) => self.ring(&n).map(drop),
            _ => Err(Errno::EPROTO),
        }
    }
}

impl HostThread {
    fn exit_silently(&mut self) -> Result<(), Errno> {
        self.orders.next(code::KICK)?;
        self.orders.ops.wake_u32(self.orders.line + code::ORDER)?;
        let begin = std::time::Instant::now();
        while host::signals::tgkill(self.process, self.tid, 0).is_ok() {
            if begin.elapsed() > EXIT_TIME {
                return Err(Errno::EPROTO);
            }
            std::thread::yield_now();
        }
        Ok(())
    }
}

/// What must not be used again before a process has ended.
#[expect(dead_code, reason = "held, not used")]
pub enum Remains {
    /// The memory of a thread.
    Slot(Slot),
    /// Copies of pages and trampolines.
    Patches(Vec<PatchPage>),
}

impl From<HostThread> for Remains {
    fn from(thread: HostThread) -> Remains {
        // Without a listener nothing holds the thread any more; but its process has been killed.
        Remains::Slot(thread.slot)
    }
}

/// The thread of a held call can only be missing because it was killed.
fn gone(e: Errno) -> Errno {
    if e == Errno::ENOENT { Errno::ESRCH } else { e }
}

/// How stubs of this platform are made.
pub struct Workshop {
    geometry: Geometry,
    slots: Arc<Slots>,
    beds: Arc<Beds>,
    placement: Arc<Placement>,
    handover: Handover,
}

impl Workshop {
    /// With the memory for all slots and beds.
    pub fn new(geometry: Geometry, placement: &Arc<Placement>, handover: Handover) -> Result<Workshop, Errno> {
        Ok(Workshop { geometry, slots: Slots::new()?, beds: Beds::new()?, placement: Arc::clone(placement), handover })
    }

    /// Everything that a new thread, stopped before its first instruction, needs.
    fn equip(&self, tid: i32, site: Site<'_>, berth: Berth) -> Result<HostThread, Errno> {
        let begin = SLOTS_BEGIN + berth.number * SLOT;
        let mut calls: Vec<[u64; 8]> = Vec::new();
        let slot = match berth.slot {
            Some(slot) => slot,
            None => {
                let slot = self.slots.take()?;
                let (fd, offset) = slot.file();
                let prot = (libc::PROT_READ | libc::PROT_WRITE) as u64;
                let flags = (libc::MAP_SHARED | libc::MAP_FIXED) as u64;
                calls.push([libc::SYS_mmap as u64, begin, SLOT, prot, flags, fd as u64, offset, 0]);
                slot
            }
        };
        // The arguments are read by the host where the application cannot write them.
        let part = site.slot * OPS_LEN;
        let stack: Vec<u8> = [begin, 0, STACK_LEN].iter().flat_map(|w| w.to_le_bytes()).collect();
        site.ops.copy_out(part + code::STACK, &stack)?;
        calls.push([libc::SYS_sigaltstack as u64, OPS + code::STACK, 0, 0, 0, 0, 0, 0]);
        let line = code::LINES + berth.number * code::LINE;
        let (flags, program) = match self.handover {
            Handover::Futex => {
                let program = filter::program(&filter::of_silent_thread(begin + POST + 24, OPS + line), OPS + code::FILTER);
                site.ops.copy_out(part + code::FILTER, &program)?;
                (0, OPS + code::FILTER)
            }
            _ => (libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, image::PROGRAM),
        };
        let mode = u64::from(libc::SECCOMP_SET_MODE_FILTER);
        calls.push([libc::SYS_seccomp as u64, mode, flags, program, 0, 0, 0, 0]);
        let list: Vec<u8> = calls.iter().flatten().flat_map(|w| w.to_le_bytes()).collect();
        site.ops.copy_out(part + code::EQUIP, &list)?;
        let mut regs = Entry::Batch.regs();
        (regs.rbx, regs.r12, regs.r13) = (OPS + code::EQUIP, calls.len() as u64, 0);
        let is_new = calls.len() as u64 == code::EQUIP_COUNT;
        // What the last one gave: the listener.
        let fd = match run::to_trap(tid, &regs, |_| Ok(())).and_then(|r| run::result(r.rax)) {
            Ok(fd) => fd,
            Err(e) => {
                // Nobody else may have the slot as long as it is mapped here.
                if is_new && run::syscall(tid, libc::SYS_munmap, [begin, SLOT, 0, 0, 0, 0]).is_err() {
                    std::mem::forget(slot);
                }
                return Err(e);
            }
        };
        let listener = match self.handover {
            Handover::Futex => None,
            _ => {
                let fd = i32::try_from(fd).map_err(|_| Errno::EIO)?;
                // SAFETY: the host has just made this descriptor in the table that stubs share with this process.
                let listener = unsafe { Listener::from_raw(fd) };
                listener.set_sync_wake_up(true)?;
                Some(listener)
            }
        };
        // It was pinned for the making.
        self.placement.release(tid);
        let frame = begin + self.geometry.frame;
        let orders = Arc::new(Orders {
            ops: Arc::clone(site.ops),
            line: part + line,
            word: AtomicU32::new(0),
            posted: AtomicBool::new(false),
            live: AtomicBool::new(false),
            kicked: AtomicBool::new(false),
            was_kicked: AtomicBool::new(false),
            lingers: Mutex::new(false),
            has_lingered: AtomicBool::new(false),
            bed: listener.as_ref().and_then(|_| self.beds.take()),
            view: slot.view(),
        });
        let mut thread =
            HostThread { tid, slot, number: berth.number, process: site.pid, listener, held: None, frame, watch: Watch::No, orders };
        thread.begin()?;
        Ok(thread)
    }
}

impl Kind for Workshop {
    type Thread = HostThread;
    type Place = Berth;
    /// `None`: threads have no listeners, and the process's first thread carries out operations.
    type Operator = Option<Operator>;
    type Remains = Remains;

    fn confinement(&self) -> Confinement {
        let faults = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS];
        let mut handlers: Vec<(i32, u64)> = faults.iter().map(|&s| (s, Place::Fault.address())).collect();
        handlers.push((INTERRUPT, Place::Interrupt.address()));
        Confinement { image: image::image(&self.geometry, self.handover == Handover::Futex), filter: filter::of_stub(), handlers }
    }

    fn beds(&self) -> Option<i32> {
        Some(self.beds.fd())
    }

    fn make_operator(&mut self, site: Site<'_>) -> Result<Option<Operator>, Errno> {
        if self.handover == Handover::Futex {
            return Ok(None);
        }
        let tid = new_thread(site)?;
        let operator = Operator::equip(tid, site)?;
        // It was pinned for the making.
        self.placement.release(tid);
        Ok(Some(operator))
    }

    fn make_thread(&mut self, site: Site<'_>, berth: Berth) -> Result<HostThread, Errno> {
        if berth.number >= THREADS {
            return Err(Errno::EAGAIN);
        }
        let tid = new_thread(site)?;
        self.equip(tid, site, berth).inspect_err(|e| {
            tracing::debug!(tid, "cannot equip a stub thread: {e}");
            // It holds nothing yet that others could reach. If it cannot even be told to end, it is gone.
            let _ = sys::set_regs(tid, &Entry::Exit.regs()).and_then(|()| sys::detach(tid));
        })
    }
}

/// A new thread of a stub process, stopped before its first instruction.
fn new_thread(site: Site<'_>) -> Result<i32, Errno> {
    let tid = run::clone(site.pid, stub::CLONE_TRACED_THREAD, |_| Ok(()))?;
    match sys::wait(tid)? {
        Wait::Gone => Err(Errno::ESRCH),
        Wait::Signal(_) | Wait::Event(_) => Ok(tid),
    }
}
