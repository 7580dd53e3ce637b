//! `SOL_SOCKET`'s options that mean the same for every family: socket(7).

use crate::{
    cred::{CapSet, Credentials},
    net::{Control, SocketFilter, limit},
};
use abi::{Errno, Result, bail, libc, time::Timeval};
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use zerocopy::{FromBytes, IntoBytes};

/// `net.core.wmem_max` and `rmem_max`, also the default sizes of unix sockets.
pub const BUFFER_MAX: u32 = 212_992;
/// The least send buffer (`SOCK_MIN_SNDBUF`).
const SNDBUF_MIN: u32 = 4608;
/// The least receive buffer (`SOCK_MIN_RCVBUF`).
const RCVBUF_MIN: u32 = 2304;

/// Flags of which each is an option of its own.
const FLAGS: &[(i32, u32)] = &[
    (libc::SO_DEBUG, 1 << 0),
    (libc::SO_REUSEADDR, 1 << 1),
    (libc::SO_DONTROUTE, 1 << 2),
    (libc::SO_BROADCAST, 1 << 3),
    (libc::SO_KEEPALIVE, 1 << 4),
    (libc::SO_OOBINLINE, 1 << 5),
    (libc::SO_REUSEPORT, 1 << 6),
    (libc::SO_PASSCRED, 1 << 7),
    (libc::SO_TIMESTAMP, 1 << 8),
    (libc::SO_TIMESTAMPNS, 1 << 9),
    (libc::SO_NO_CHECK, 1 << 10),
    (libc::SO_PASSSEC, 1 << 11),
    (libc::SO_RXQ_OVFL, 1 << 12),
    (libc::SO_WIFI_STATUS, 1 << 13),
    (libc::SO_SELECT_ERR_QUEUE, 1 << 15),
    (libc::SO_ZEROCOPY, 1 << 16),
];

/// Flags of `SO_TIMESTAMPING` that Linux knows, and the two that ask for the time at which a packet came.
const TIMESTAMPING_KNOWN: u32 = (1 << 18) - 1;
const RX_SOFTWARE: u32 = 8;
const SOFTWARE: u32 = 16;

fn flag(name: i32) -> Option<u32> {
    FLAGS.iter().find(|f| f.0 == name).map(|f| f.1)
}

/// The value of an option as setsockopt(2) takes it.
pub struct OptionValue<'a>(pub &'a [u8]);

impl OptionValue<'_> {
    /// As an int; `EINVAL` if it is shorter.
    pub fn int(&self) -> Result<i32> {
        self.read()
    }

    /// As any plain structure; `EINVAL` if it is shorter.
    pub fn read<T: FromBytes>(&self) -> Result<T> {
        T::read_from_prefix(self.0).map(|v| v.0).map_err(|_| abi::error!(EINVAL, "option value too short"))
    }
}

/// The options.
#[derive(Debug)]
pub struct SocketOptions {
    flags: AtomicU32,
    sndbuf: AtomicU32,
    rcvbuf: AtomicU32,
    rcvlowat: AtomicI32,
    priority: AtomicI32,
    mark: AtomicU32,
    /// `SO_LINGER`: seconds and whether it is on, -1 off.
    linger: AtomicI32,
    busy_poll: AtomicI32,
    incoming_cpu: AtomicI32,
    /// Nanoseconds, zero for ever.
    rcvtimeo: AtomicU64,
    sndtimeo: AtomicU64,
    /// An error to be told once (`sk_err`).
    error: AtomicI32,
    /// Whether the sizes of the buffers were asked for: 1 sending, 2 receiving (`sk_userlocks`).
    sized: AtomicU32,
    /// `SO_TIMESTAMPING`'s flags.
    timestamping: AtomicU32,
    /// `SO_ATTACH_FILTER`
    pub filter: SocketFilter,
}

impl Default for SocketOptions {
    fn default() -> Self {
        SocketOptions {
            flags: AtomicU32::new(0),
            sndbuf: AtomicU32::new(BUFFER_MAX),
            rcvbuf: AtomicU32::new(BUFFER_MAX),
            rcvlowat: AtomicI32::new(1),
            priority: AtomicI32::new(0),
            mark: AtomicU32::new(0),
            linger: AtomicI32::new(-1),
            busy_poll: AtomicI32::new(0),
            incoming_cpu: AtomicI32::new(-1),
            rcvtimeo: AtomicU64::new(0),
            sndtimeo: AtomicU64::new(0),
            error: AtomicI32::new(0),
            sized: AtomicU32::new(0),
            timestamping: AtomicU32::new(0),
            filter: SocketFilter::default(),
        }
    }
}

fn time_of(value: &OptionValue<'_>) -> Result<u64> {
    let tv: Timeval = value.read()?;
    if !(0..1_000_000).contains(&tv.usec) {
        bail!(EDOM, "microseconds out of range");
    }
    // Negative seconds mean no waiting at all, which Linux rounds to one tick.
    Ok(if tv.sec < 0 { 1 } else { tv.to_nanos().unwrap_or(0) })
}

impl SocketOptions {
    /// Whether this option of the flag kind is set.
    #[must_use]
    pub fn is_set(&self, name: i32) -> bool {
        flag(name).is_some_and(|b| self.flags.load(Relaxed) & b != 0)
    }

    /// Sets or clears an option of the flag kind.
    pub fn set_flag(&self, name: i32, on: bool) {
        if let Some(b) = flag(name) {
            if on {
                self.flags.fetch_or(b, Relaxed)
            } else {
                self.flags.fetch_and(!b, Relaxed)
            };
        }
    }

    /// Options of a socket whose buffers begin with these sizes.
    #[must_use]
    pub fn with_buffers(send: u32, receive: u32) -> SocketOptions {
        let o = SocketOptions::default();
        o.sndbuf.store(send, Relaxed);
        o.rcvbuf.store(receive, Relaxed);
        o
    }

    /// Whether the size of the send buffer was asked for, and that of the receive buffer; else they may follow the traffic.
    #[must_use]
    pub fn sized(&self) -> (bool, bool) {
        let s = self.sized.load(Relaxed);
        (s & 1 != 0, s & 2 != 0)
    }

    /// Bytes that must be there before a reader is woken (`SO_RCVLOWAT`).
    #[must_use]
    pub fn receive_low(&self) -> usize {
        usize::try_from(self.rcvlowat.load(Relaxed)).unwrap_or(1)
    }

    /// `SO_LINGER`'s seconds; `None`: off.
    #[must_use]
    pub fn linger(&self) -> Option<u64> {
        u64::try_from(self.linger.load(Relaxed)).ok()
    }

    /// Bytes that may be on their way (`sk_sndbuf`).
    #[must_use]
    pub fn sndbuf(&self) -> usize {
        self.sndbuf.load(Relaxed) as usize
    }

    /// Bytes that may wait to be received (`sk_rcvbuf`).
    #[must_use]
    pub fn rcvbuf(&self) -> usize {
        self.rcvbuf.load(Relaxed) as usize
    }

    /// How long receiving waits; `None`: for ever.
    #[must_use]
    pub fn receive_timeout(&self) -> Option<Duration> {
        limit(self.rcvtimeo.load(Relaxed))
    }

    /// How long sending waits; `None`: for ever.
    #[must_use]
    pub fn send_timeout(&self) -> Option<Duration> {
        limit(self.sndtimeo.load(Relaxed))
    }

    /// Leaves an error for the next call.
    pub fn set_error(&self, e: Errno) {
        self.error.store(e.raw(), Relaxed);
    }

    /// Whether an error was left.
    #[must_use]
    pub fn has_error(&self) -> bool {
        self.error.load(Relaxed) != 0
    }

    /// Fails with the error that was left, once.
    pub fn take_error(&self) -> Result {
        match self.error.swap(0, Relaxed) {
            0 => Ok(()),
            e => Err(Errno::from_raw(e).into()),
        }
    }

    /// The control message that says when a packet came (`CLOCK_REALTIME`, nanoseconds), if it was asked for.
    #[must_use]
    pub fn received_at(&self, time: u64) -> Vec<Control> {
        let spec = [(time / 1_000_000_000) as i64, (time % 1_000_000_000) as i64];
        let mut out = Vec::new();
        let mut add = |kind, bytes: Vec<u8>| out.push(Control::Other(libc::SOL_SOCKET, kind, bytes));
        if self.is_set(libc::SO_TIMESTAMPNS) {
            add(libc::SO_TIMESTAMPNS, spec.as_bytes().to_vec());
        } else if self.is_set(libc::SO_TIMESTAMP) {
            add(libc::SO_TIMESTAMP, Timeval::from_nanos(time).as_bytes().to_vec());
        }
        let wanted = RX_SOFTWARE | SOFTWARE;
        if self.timestamping.load(Relaxed) & wanted == wanted {
            // Software's, and two of hardware that does not exist.
            add(libc::SO_TIMESTAMPING, [spec, [0; 2], [0; 2]].as_bytes().to_vec());
        }
        out
    }

    /// A new socket's options that it has from the listening one.
    pub fn inherit(&self, from: &SocketOptions) {
        self.flags.store(from.flags.load(Relaxed), Relaxed);
        self.sndbuf.store(from.sndbuf.load(Relaxed), Relaxed);
        self.rcvbuf.store(from.rcvbuf.load(Relaxed), Relaxed);
        self.sized.store(from.sized.load(Relaxed), Relaxed);
        self.linger.store(from.linger.load(Relaxed), Relaxed);
        self.rcvlowat.store(from.rcvlowat.load(Relaxed), Relaxed);
        self.mark.store(from.mark.load(Relaxed), Relaxed);
        self.rcvtimeo.store(from.rcvtimeo.load(Relaxed), Relaxed);
        self.sndtimeo.store(from.sndtimeo.load(Relaxed), Relaxed);
        self.filter.inherit(&from.filter);
    }

    /// setsockopt(2) at `SOL_SOCKET`. `ENOPROTOOPT` for what is not known.
    pub fn set(&self, name: i32, value: &OptionValue<'_>, cred: &Credentials) -> Result {
        // Linux asks for an int whatever the option is.
        let n = value.int()?;
        let forced = |n: i32| (n as u32).min(i32::MAX as u32 / 2) * 2;
        let doubled = |n: i32| (n as u32).min(BUFFER_MAX) * 2;
        match name {
            libc::SO_SNDBUF | libc::SO_SNDBUFFORCE => self.sized.fetch_or(1, Relaxed),
            libc::SO_RCVBUF | libc::SO_RCVBUFFORCE => self.sized.fetch_or(2, Relaxed),
            _ => 0,
        };
        match name {
            libc::SO_SNDBUF => self.sndbuf.store(doubled(n).max(SNDBUF_MIN), Relaxed),
            libc::SO_RCVBUF => self.rcvbuf.store(doubled(n).max(RCVBUF_MIN), Relaxed),
            libc::SO_SNDBUFFORCE => {
                cred.require(CapSet::NET_ADMIN)?;
                self.sndbuf.store(forced(n.max(0)).max(SNDBUF_MIN), Relaxed);
            }
            libc::SO_RCVBUFFORCE => {
                cred.require(CapSet::NET_ADMIN)?;
                self.rcvbuf.store(forced(n.max(0)).max(RCVBUF_MIN), Relaxed);
            }
            libc::SO_RCVTIMEO => self.rcvtimeo.store(time_of(value)?, Relaxed),
            libc::SO_SNDTIMEO => self.sndtimeo.store(time_of(value)?, Relaxed),
            libc::SO_RCVLOWAT => self.rcvlowat.store(if n < 0 { i32::MAX } else { n.max(1) }, Relaxed),
            libc::SO_PRIORITY => {
                if !(0..=6).contains(&n) {
                    cred.require(CapSet::NET_ADMIN)?;
                }
                self.priority.store(n, Relaxed);
            }
            libc::SO_MARK => {
                cred.require(CapSet::NET_ADMIN)?;
                self.mark.store(n as u32, Relaxed);
            }
            libc::SO_LINGER => {
                let [on, secs]: [i32; 2] = value.read()?;
                self.linger.store(if on != 0 { secs.max(0) } else { -1 }, Relaxed);
            }
            libc::SO_TIMESTAMPING if n as u32 & !TIMESTAMPING_KNOWN != 0 => bail!(EINVAL, "flags {n:#x}"),
            libc::SO_TIMESTAMPING => self.timestamping.store(n as u32, Relaxed),
            libc::SO_LOCK_FILTER => self.filter.lock(n != 0)?,
            libc::SO_DETACH_FILTER => self.filter.set(None)?,
            libc::SO_BUSY_POLL => self.busy_poll.store(n, Relaxed),
            libc::SO_INCOMING_CPU => self.incoming_cpu.store(n, Relaxed),
            libc::SO_DEBUG if n != 0 => {
                cred.require(CapSet::NET_ADMIN)?;
                self.set_flag(name, true);
            }
            libc::SO_TYPE
            | libc::SO_ERROR
            | libc::SO_PROTOCOL
            | libc::SO_DOMAIN
            | libc::SO_ACCEPTCONN
            | libc::SO_PEERCRED
            | libc::SO_SNDLOWAT => {
                bail!(ENOPROTOOPT, "cannot be set")
            }
            libc::SO_TIMESTAMP | libc::SO_TIMESTAMPNS => {
                // One resolution or the other.
                self.set_flag(libc::SO_TIMESTAMP, n != 0 && name == libc::SO_TIMESTAMP);
                self.set_flag(libc::SO_TIMESTAMPNS, n != 0 && name == libc::SO_TIMESTAMPNS);
            }
            _ if flag(name).is_some() => self.set_flag(name, n != 0),
            _ => bail!(ENOPROTOOPT, "option {name}"),
        }
        Ok(())
    }

    /// getsockopt(2) at `SOL_SOCKET`, without what the socket itself knows (type, domain, credentials).
    pub fn get(&self, name: i32) -> Result<Vec<u8>> {
        let time = |ns: u64| Timeval::from_nanos(ns).as_bytes().to_vec();
        let n = match name {
            libc::SO_SNDBUF | libc::SO_SNDBUFFORCE => self.sndbuf.load(Relaxed) as i32,
            libc::SO_RCVBUF | libc::SO_RCVBUFFORCE => self.rcvbuf.load(Relaxed) as i32,
            libc::SO_RCVTIMEO => return Ok(time(self.rcvtimeo.load(Relaxed))),
            libc::SO_SNDTIMEO => return Ok(time(self.sndtimeo.load(Relaxed))),
            libc::SO_RCVLOWAT => self.rcvlowat.load(Relaxed),
            libc::SO_SNDLOWAT => 1,
            libc::SO_PRIORITY => self.priority.load(Relaxed),
            libc::SO_MARK => self.mark.load(Relaxed) as i32,
            libc::SO_LINGER => {
                let secs = self.linger.load(Relaxed);
                return Ok([i32::from(secs >= 0), secs.max(0)].as_bytes().to_vec());
            }
            // With the number of a clock that there is none of.
            libc::SO_TIMESTAMPING => return Ok([self.timestamping.load(Relaxed), 0].as_bytes().to_vec()),
            libc::SO_LOCK_FILTER => i32::from(self.filter.is_locked()),
            libc::SO_BUSY_POLL => self.busy_poll.load(Relaxed),
            libc::SO_INCOMING_CPU => self.incoming_cpu.load(Relaxed),
            libc::SO_ERROR => self.error.swap(0, Relaxed),
            _ if flag(name).is_some() => i32::from(self.is_set(name)),
            _ => bail!(ENOPROTOOPT, "option {name}"),
        };
        Ok(n.to_ne_bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_flags_and_times() {
        let (o, root) = (SocketOptions::default(), Credentials::root());
        let int = |n: i32| n.to_ne_bytes();
        o.set(libc::SO_SNDBUF, &OptionValue(&int(1)), &root).expect("set");
        o.set(libc::SO_RCVBUF, &OptionValue(&int(10_000)), &root).expect("set");
        o.set(libc::SO_REUSEADDR, &OptionValue(&int(7)), &root).expect("set");
        assert_eq!((o.sndbuf(), o.rcvbuf()), (4608, 20_000));
        assert_eq!(o.get(libc::SO_REUSEADDR), Ok(int(1).to_vec()));
        let tv = Timeval { sec: 1, usec: 500_000 };
        o.set(libc::SO_RCVTIMEO, &OptionValue(tv.as_bytes()), &root).expect("set");
        assert_eq!(o.receive_timeout(), Some(Duration::from_millis(1500)));
        assert_eq!(o.set(libc::SO_TYPE, &OptionValue(&int(1)), &root), Err(Errno::ENOPROTOOPT.into()));
        assert_eq!(o.set(libc::SO_SNDBUF, &OptionValue(&[1, 2]), &root), Err(Errno::EINVAL.into()));
        o.set_error(Errno::ECONNRESET);
        assert_eq!(o.take_error(), Err(Errno::ECONNRESET.into()));
        assert_eq!(o.take_error(), Ok(()));
    }
}
