//! poll(2), ppoll(2), select(2), pselect6(2).

use crate::{row, table::Entry};
use abi::{
    Error, Restart, Result, bail, libc,
    poll::PollEvents,
    signal::SigSet,
    time::{Timespec, Timeval},
};
use kernel::{
    ipc::poll::{self, PollEntry},
    task::{CurrentTask, RestartBlock},
    time::instant_at,
    user::{UserAddr, UserRef},
    vfs::Fd,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub(crate) const ROWS: &[Entry] = &[row!("poll", poll), row!("ppoll", ppoll), row!("select", select), row!("pselect6", pselect6)];

/// `struct pollfd`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PollFd {
    fd: i32,
    events: u16,
    revents: u16,
}

/// `CLOCK_MONOTONIC`'s time `ns` from now.
fn after(ns: u64) -> u64 {
    host_now().saturating_add(ns)
}

fn host_now() -> u64 {
    kernel::time::Clock::Monotonic.now()
}

/// The deadline that a relative timespec means, if there is one.
pub(crate) fn deadline_of(t: &CurrentTask, at: UserRef<Timespec>) -> Result<Option<u64>> {
    match at.non_null() {
        None => Ok(None),
        Some(at) => match t.mm().read(at)?.to_nanos() {
            Some(ns) => Ok(Some(after(ns))),
            None => bail!(EINVAL, "time out of range"),
        },
    }
}

/// Installs the mask that lasts as long as the call.
pub(crate) fn temporary_mask(t: &mut CurrentTask, mask: UserRef<SigSet>, size: usize) -> Result<()> {
    if let Some(mask) = mask.non_null() {
        if size != size_of::<SigSet>() {
            bail!(EINVAL, "size of the signal set");
        }
        let mask = t.mm().read(mask)?;
        t.set_temporary_mask(mask.minus(SigSet::UNBLOCKABLE));
    }
    Ok(())
}

/// Polls until `until_ns` (`CLOCK_MONOTONIC`).
fn do_poll(t: &CurrentTask, fds: UserAddr, count: u32, until_ns: Option<u64>) -> Result<usize> {
    if u64::from(count) > t.rlimit(libc::RLIMIT_NOFILE).cur {
        bail!(EINVAL, "more than RLIMIT_NOFILE");
    }
    let mm = t.mm();
    let mut list = vec![PollFd::default(); count as usize];
    mm.copy_in(fds, list.as_mut_slice().as_mut_bytes())?;
    let table = t.files();
    let mut entries = Vec::with_capacity(list.len());
    for p in list.iter().filter(|p| p.fd >= 0) {
        let wanted = PollEvents::from_bits_truncate(p.events.into());
        entries.push(PollEntry { file: table.get_open(Fd(p.fd as u32)).ok(), wanted });
    }
    let found = wait(t, &entries, until_ns)?;
    let mut found = found.iter();
    let mut ready = 0;
    for p in &mut list {
        p.revents = if p.fd < 0 { 0 } else { found.next().map_or(0, |e| e.bits() as u16) };
        ready += usize::from(p.revents != 0);
    }
    mm.copy_out(fds, list.as_bytes())?;
    Ok(ready)
}

/// What is found of `entries`, all empty at the deadline.
fn wait(t: &CurrentTask, entries: &[PollEntry], until_ns: Option<u64>) -> Result<Vec<PollEvents>> {
    let found = poll::check(entries);
    if found.iter().any(|e| !e.is_empty()) || until_ns.is_some_and(|u| u <= host_now()) {
        return Ok(found);
    }
    let found = poll::wait(t, entries, until_ns.map(instant_at))?;
    Ok(found.unwrap_or_else(|| vec![PollEvents::empty(); entries.len()]))
}

/// poll(2)
pub fn poll(t: &mut CurrentTask, fds: UserAddr, count: u32, timeout_ms: i32) -> Result<usize> {
    let until_ns = u64::try_from(timeout_ms).ok().map(|ms| after(ms * 1_000_000));
    resume_poll(t, fds, count, until_ns)
}

/// poll(2) once more after a stop: restart_syscall(2).
pub fn resume_poll(t: &mut CurrentTask, fds: UserAddr, count: u32, until_ns: Option<u64>) -> Result<usize> {
    match do_poll(t, fds, count, until_ns) {
        Err(Error::Restart(_)) => {
            t.restart = RestartBlock::Poll { fds, count, until_ns };
            Err(Restart::Block.into())
        }
        other => other,
    }
}

/// How a call ends that reports the time left, and that is restarted only if no handler ran.
fn finish(result: Result<usize>, report: impl FnOnce() -> Result<()>) -> Result<usize> {
    let reported = report();
    match result {
        // Linux cannot restart with the time already used up if it could not say how much is left.
        Err(Error::Restart(_)) if reported.is_err() => bail!(EINTR),
        Err(Error::Restart(_)) => Err(Restart::NoHand.into()),
        other => other,
    }
}

fn report_timespec(t: &CurrentTask, at: UserRef<Timespec>, until_ns: Option<u64>) -> Result<()> {
    match until_ns {
        Some(u) => t.mm().write(at, &Timespec::from_nanos(u.saturating_sub(host_now()))),
        None => Ok(()),
    }
}

/// ppoll(2)
pub fn ppoll(
    t: &mut CurrentTask,
    fds: UserAddr,
    count: u32,
    timeout: UserRef<Timespec>,
    mask: UserRef<SigSet>,
    size: usize,
) -> Result<usize> {
    let until_ns = deadline_of(t, timeout)?;
    temporary_mask(t, mask, size)?;
    let result = do_poll(t, fds, count, until_ns);
    finish(result, || report_timespec(t, timeout, until_ns))
}

/// The three sets of select(2), one bit for each descriptor.
struct Sets {
    addrs: [UserAddr; 3],
    words: usize,
    bits: [Vec<u64>; 3],
}

/// Bits of glibc's `fd_set`.
const FD_SETSIZE: usize = 1024;

/// What each set asks for, and what counts as an answer (fs/select.c: POLLIN_SET, POLLOUT_SET, POLLEX_SET).
const ASKS: [PollEvents; 3] = [
    PollEvents::READABLE.union(PollEvents::RDBAND).union(PollEvents::HUP).union(PollEvents::ERR).union(PollEvents::NVAL),
    PollEvents::WRITABLE.union(PollEvents::WRBAND).union(PollEvents::ERR).union(PollEvents::NVAL),
    PollEvents::PRI.union(PollEvents::NVAL),
];

impl Sets {
    fn read(t: &CurrentTask, n: usize, addrs: [UserAddr; 3]) -> Result<Sets> {
        let words = n.div_ceil(64);
        let mut bits: [Vec<u64>; 3] = Default::default();
        for (b, addr) in bits.iter_mut().zip(addrs) {
            b.resize(words, 0);
            if !addr.is_null() {
                t.mm().copy_in(addr, b.as_mut_slice().as_mut_bytes())?;
            }
            // Bits behind the last descriptor are nobody's.
            if let Some(last) = b.last_mut().filter(|_| n % 64 != 0) {
                *last &= (1 << (n % 64)) - 1;
            }
        }
        Ok(Sets { addrs, words, bits })
    }

    fn has(&self, set: usize, fd: usize) -> bool {
        self.bits[set].get(fd / 64).is_some_and(|w| w >> (fd % 64) & 1 != 0)
    }

    fn write(&self, t: &CurrentTask) -> Result<()> {
        for (bits, addr) in self.bits.iter().zip(self.addrs) {
            if !addr.is_null() {
                t.mm().copy_out(addr, bits.as_slice().as_bytes())?;
            }
        }
        Ok(())
    }
}

fn do_select(t: &CurrentTask, n: i32, addrs: [UserAddr; 3], until_ns: Option<u64>) -> Result<usize> {
    let Ok(n) = usize::try_from(n) else { bail!(EINVAL, "negative count") };
    let table = t.files();
    // Linux looks at no more than the table has room for, which glibc's sets usually are.
    let n = n.min(table.capacity().next_multiple_of(64).max(FD_SETSIZE));
    let mut sets = Sets::read(t, n, addrs)?;
    let mut entries = Vec::new();
    let mut fds = Vec::new();
    for fd in 0..n {
        let mut wanted = PollEvents::empty();
        for (set, asks) in ASKS.iter().enumerate() {
            if sets.has(set, fd) {
                wanted |= *asks;
            }
        }
        if !wanted.is_empty() {
            let file = table.get(Fd(fd as u32))?;
            // A descriptor that only names a path is open, and never ready.
            entries.push(PollEntry { file: (!file.is_path()).then_some(file), wanted });
            fds.push(fd);
        }
    }
    let found = wait_select(t, &sets, &fds, &entries, until_ns)?;
    let asked = std::mem::replace(&mut sets.bits, std::array::from_fn(|_| vec![0; n.div_ceil(64)]));
    let mut ready = 0;
    for (&fd, got) in fds.iter().zip(&found) {
        for set in 0..3 {
            let wants = asked[set].get(fd / 64).is_some_and(|w| w >> (fd % 64) & 1 != 0);
            if wants && got.intersects(ASKS[set]) {
                if let Some(w) = sets.bits[set].get_mut(fd / 64) {
                    *w |= 1 << (fd % 64);
                }
                ready += 1;
            }
        }
    }
    debug_assert_eq!(sets.words, n.div_ceil(64));
    sets.write(t)?;
    Ok(ready)
}

/// As [`wait`], but an error or hangup counts only where a set asks for it.
fn wait_select(t: &CurrentTask, sets: &Sets, fds: &[usize], entries: &[PollEntry], until_ns: Option<u64>) -> Result<Vec<PollEvents>> {
    let counts = |found: &[PollEvents]| fds.iter().zip(found).any(|(&fd, got)| (0..3).any(|s| sets.has(s, fd) && got.intersects(ASKS[s])));
    let found = poll::check(entries);
    if counts(&found) || until_ns.is_some_and(|u| u <= host_now()) {
        return Ok(found);
    }
    let none = || vec![PollEvents::empty(); entries.len()];
    Ok(poll::wait_for(t, entries, until_ns.map(instant_at), counts)?.unwrap_or_else(none))
}

/// select(2)
pub fn select(t: &mut CurrentTask, n: i32, r: UserAddr, w: UserAddr, e: UserAddr, timeout: UserRef<Timeval>) -> Result<usize> {
    let until_ns = match timeout.non_null() {
        None => None,
        Some(at) => {
            let tv = t.mm().read(at)?;
            // Linux takes microseconds above a second here.
            let total = tv.sec.checked_add(tv.usec / 1_000_000).map(|sec| Timeval { sec, usec: tv.usec % 1_000_000 });
            let Some(ns) = total.and_then(|tv| tv.to_nanos()) else { bail!(EINVAL, "time out of range") };
            Some(after(ns))
        }
    };
    let result = do_select(t, n, [r, w, e], until_ns);
    finish(result, || match until_ns {
        Some(u) => t.mm().write(timeout, &Timeval::from_nanos(u.saturating_sub(host_now()))),
        None => Ok(()),
    })
}

/// pselect6(2); the last argument points to the mask's address and size.
pub fn pselect6(
    t: &mut CurrentTask,
    n: i32,
    r: UserAddr,
    w: UserAddr,
    e: UserAddr,
    timeout: UserRef<Timespec>,
    mask: UserRef<[u64; 2]>,
) -> Result<usize> {
    let until_ns = deadline_of(t, timeout)?;
    if let Some(mask) = mask.non_null() {
        let [addr, size] = t.mm().read(mask)?;
        temporary_mask(t, UserAddr(addr).cast(), usize::try_from(size).unwrap_or(usize::MAX))?;
    }
    let result = do_select(t, n, [r, w, e], until_ns);
    finish(result, || report_timespec(t, timeout, until_ns))
}
