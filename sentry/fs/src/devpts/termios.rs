//! Terminal settings: `struct termios` as the TCGETS family passes it, and its defaults.

use abi::libc;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct termios` of the kernel (19 control characters), 36 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[allow(missing_docs)]
pub struct Termios {
    pub iflag: u32,
    pub oflag: u32,
    pub cflag: u32,
    pub lflag: u32,
    pub line: u8,
    pub cc: [u8; 19],
}

/// `struct termios2`, which adds the speeds, 44 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[allow(missing_docs)]
pub struct Termios2 {
    pub base: Termios,
    pub ispeed: u32,
    pub ospeed: u32,
}

/// `struct termio` of System V, 18 bytes with its padding.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[allow(missing_docs)]
pub struct Termio {
    pub iflag: u16,
    pub oflag: u16,
    pub cflag: u16,
    pub lflag: u16,
    pub line: u8,
    pub cc: [u8; 8],
    pub pad: u8,
}

/// `struct winsize`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[allow(missing_docs)]
pub struct Winsize {
    pub rows: u16,
    pub cols: u16,
    pub xpixel: u16,
    pub ypixel: u16,
}

/// No character: a control character set to this is off (`_POSIX_VDISABLE`).
pub const DISABLED: u8 = 0;

impl Termios {
    /// What a new pseudo-terminal has (`tty_std_termios` with the pty driver's flags: 38400 baud, 8 bits).
    #[must_use]
    pub const fn standard() -> Termios {
        let mut cc = [0u8; 19];
        cc[libc::VINTR] = 3;
        cc[libc::VQUIT] = 28;
        cc[libc::VERASE] = 127;
        cc[libc::VKILL] = 21;
        cc[libc::VEOF] = 4;
        cc[libc::VMIN] = 1;
        cc[libc::VSTART] = 17;
        cc[libc::VSTOP] = 19;
        cc[libc::VSUSP] = 26;
        cc[libc::VREPRINT] = 18;
        cc[libc::VDISCARD] = 15;
        cc[libc::VWERASE] = 23;
        cc[libc::VLNEXT] = 22;
        Termios {
            iflag: libc::ICRNL | libc::IXON,
            oflag: libc::OPOST | libc::ONLCR,
            cflag: libc::B38400 | libc::CS8 | libc::CREAD,
            lflag: libc::ISIG | libc::ICANON | libc::ECHO | libc::ECHOE | libc::ECHOK | libc::ECHOCTL | libc::ECHOKE | libc::IEXTEN,
            line: 0,
            cc,
        }
    }

    /// What the master of a pty answers about itself before anything was set: the same settings, for both ends share them.
    #[must_use]
    pub fn input(&self, flag: u32) -> bool {
        self.iflag & flag != 0
    }
    /// Whether an output flag is set.
    #[must_use]
    pub fn output(&self, flag: u32) -> bool {
        self.oflag & flag != 0
    }
    /// Whether a local flag is set.
    #[must_use]
    pub fn local(&self, flag: u32) -> bool {
        self.lflag & flag != 0
    }
    /// Whether `c` is the control character `which` (`VINTR`, …), and that one is not off.
    #[must_use]
    pub fn is_cc(&self, which: usize, c: u8) -> bool {
        c != DISABLED && self.cc.get(which) == Some(&c)
    }
}

/// What a master in packet mode reads first (ioctl_tty(2), TIOCPKT).
#[allow(missing_docs)]
mod packet {
    pub const TIOCPKT_DATA: u32 = 0;
    pub const TIOCPKT_FLUSHREAD: u32 = 1;
    pub const TIOCPKT_FLUSHWRITE: u32 = 2;
    pub const TIOCPKT_STOP: u32 = 4;
    pub const TIOCPKT_START: u32 = 8;
    pub const TIOCPKT_NOSTOP: u32 = 16;
    pub const TIOCPKT_DOSTOP: u32 = 32;
}
pub use packet::*;
