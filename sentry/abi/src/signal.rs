//! Signals: numbers, sets, `siginfo_t`, `struct sigaction`, `stack_t`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A signal number, 1 to 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(u8);

#[allow(missing_docs)]
impl Signal {
    pub const HUP: Signal = Signal(1);
    pub const INT: Signal = Signal(2);
    pub const QUIT: Signal = Signal(3);
    pub const ILL: Signal = Signal(4);
    pub const TRAP: Signal = Signal(5);
    pub const ABRT: Signal = Signal(6);
    pub const BUS: Signal = Signal(7);
    pub const FPE: Signal = Signal(8);
    pub const KILL: Signal = Signal(9);
    pub const USR1: Signal = Signal(10);
    pub const SEGV: Signal = Signal(11);
    pub const USR2: Signal = Signal(12);
    pub const PIPE: Signal = Signal(13);
    pub const ALRM: Signal = Signal(14);
    pub const TERM: Signal = Signal(15);
    pub const STKFLT: Signal = Signal(16);
    pub const CHLD: Signal = Signal(17);
    pub const CONT: Signal = Signal(18);
    pub const STOP: Signal = Signal(19);
    pub const TSTP: Signal = Signal(20);
    pub const TTIN: Signal = Signal(21);
    pub const TTOU: Signal = Signal(22);
    pub const URG: Signal = Signal(23);
    pub const XCPU: Signal = Signal(24);
    pub const XFSZ: Signal = Signal(25);
    pub const VTALRM: Signal = Signal(26);
    pub const PROF: Signal = Signal(27);
    pub const WINCH: Signal = Signal(28);
    pub const IO: Signal = Signal(29);
    pub const PWR: Signal = Signal(30);
    pub const SYS: Signal = Signal(31);
    /// The first real-time signal.
    pub const RT_MIN: u8 = 32;
    /// The highest signal.
    pub const MAX: u8 = 64;
}

impl Signal {
    /// From a number; `None` unless 1 to 64.
    #[must_use]
    pub const fn new(n: u64) -> Option<Signal> {
        if n >= 1 && n <= 64 { Some(Signal(n as u8)) } else { None }
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Whether this is a real-time signal, which queues.
    #[must_use]
    pub const fn is_realtime(self) -> bool {
        self.0 >= Self::RT_MIN
    }

    /// The set of this signal alone.
    #[must_use]
    pub const fn bit(self) -> SigSet {
        SigSet(1 << (self.0 - 1))
    }
}

/// `sigset_t` of the kernel: bit n-1 stands for signal n.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SigSet(pub u64);

impl SigSet {
    /// No signal.
    pub const EMPTY: SigSet = SigSet(0);
    /// Every signal.
    pub const ALL: SigSet = SigSet(!0);
    /// SIGKILL and SIGSTOP, which cannot be blocked or caught.
    pub const UNBLOCKABLE: SigSet = SigSet(1 << 8 | 1 << 18);

    /// Whether `s` is in the set.
    #[must_use]
    pub const fn contains(self, s: Signal) -> bool {
        self.0 & s.bit().0 != 0
    }
    /// Adds `s`.
    pub const fn add(&mut self, s: Signal) {
        self.0 |= s.bit().0;
    }
    /// Removes `s`.
    pub const fn remove(&mut self, s: Signal) {
        self.0 &= !s.bit().0;
    }
    /// Both sets together.
    #[must_use]
    pub const fn union(self, o: SigSet) -> SigSet {
        SigSet(self.0 | o.0)
    }
    /// What is in this set and not in `o`.
    #[must_use]
    pub const fn minus(self, o: SigSet) -> SigSet {
        SigSet(self.0 & !o.0)
    }
    /// Whether the set is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// The lowest signal of the set.
    #[must_use]
    pub const fn first(self) -> Option<Signal> {
        if self.0 == 0 { None } else { Some(Signal(self.0.trailing_zeros() as u8 + 1)) }
    }
}

/// `siginfo_t`, 128 bytes: signo, errno, code, padding, then a union of which these accessors cover the used members.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SigInfo {
    /// `si_signo`
    pub signo: i32,
    /// `si_errno`
    pub errno: i32,
    /// `si_code`
    pub code: i32,
    pad: i32,
    /// The union, as 8-byte words.
    pub fields: [u64; 14],
}

/// `SI_USER`: sent by kill(2).
pub const SI_USER: i32 = 0;
/// `SI_KERNEL`: sent by the kernel.
pub const SI_KERNEL: i32 = 0x80;
/// `SI_QUEUE`: sent by sigqueue(3).
pub const SI_QUEUE: i32 = -1;
/// `SI_TIMER`: a POSIX timer expired.
pub const SI_TIMER: i32 = -2;
/// `SI_MESGQ`: a message came to an empty POSIX queue.
pub const SI_MESGQ: i32 = -3;
/// `SI_TKILL`: sent by tgkill(2).
pub const SI_TKILL: i32 = -6;

impl SigInfo {
    /// A siginfo with no union member set.
    #[must_use]
    pub const fn new(sig: Signal, code: i32) -> SigInfo {
        SigInfo { signo: sig.0 as i32, errno: 0, code, pad: 0, fields: [0; 14] }
    }
    /// From kill(2) or tgkill(2): `si_pid` and `si_uid`.
    #[must_use]
    pub const fn user(sig: Signal, code: i32, pid: i32, uid: u32) -> SigInfo {
        let mut s = SigInfo::new(sig, code);
        s.fields[0] = pid as u32 as u64 | (uid as u64) << 32;
        s
    }
    /// SIGCHLD: `si_pid`, `si_uid`, `si_status`.
    #[must_use]
    pub const fn child(code: i32, pid: i32, uid: u32, status: i32) -> SigInfo {
        let mut s = SigInfo::user(Signal::CHLD, code, pid, uid);
        s.fields[1] = status as u32 as u64;
        s
    }
    /// A fault: `si_addr`.
    #[must_use]
    pub const fn fault(sig: Signal, code: i32, addr: u64) -> SigInfo {
        let mut s = SigInfo::new(sig, code);
        s.fields[0] = addr;
        s
    }
}

/// `struct sigaction` as rt_sigaction(2) takes it on x86-64.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SigAction {
    /// `SIG_DFL` (0), `SIG_IGN` (1) or the handler's address.
    pub handler: u64,
    /// `SA_*`.
    pub flags: u64,
    /// Where the handler returns to.
    pub restorer: u64,
    /// Blocked while the handler runs.
    pub mask: SigSet,
}

/// `stack_t`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct StackT {
    /// Lowest address.
    pub sp: u64,
    /// `SS_ONSTACK`, `SS_DISABLE`, `SS_AUTODISARM`.
    pub flags: u32,
    #[doc(hidden)]
    pub pad: u32,
    /// Bytes.
    pub size: u64,
}

impl Default for StackT {
    fn default() -> Self {
        StackT { sp: 0, flags: libc::SS_DISABLE as u32, pad: 0, size: 0 }
    }
}
