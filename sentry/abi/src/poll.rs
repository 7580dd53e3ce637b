//! Readiness events of poll(2) and epoll(7).

use bitflags::bitflags;

bitflags! {
    /// `POLL*`, which have epoll's values on x86-64 as well.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct PollEvents: u32 {
        const IN = 0x001;
        const PRI = 0x002;
        const OUT = 0x004;
        const ERR = 0x008;
        const HUP = 0x010;
        const NVAL = 0x020;
        const RDNORM = 0x040;
        const RDBAND = 0x080;
        const WRNORM = 0x100;
        const WRBAND = 0x200;
        const MSG = 0x400;
        const RDHUP = 0x2000;
        /// What a reader waits for.
        const READABLE = 0x001 | 0x040;
        /// What a writer waits for.
        const WRITABLE = 0x004 | 0x100;
    }
}
