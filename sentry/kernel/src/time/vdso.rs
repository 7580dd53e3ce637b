//! [`Vdso`]: the two pages that tell every process the time without a call: [`host::vdso`]'s image, and the figures before it.
//!
//! The figures are a line: what the clock was when the time stamp counter had some value, and how fast it goes. The line is taken from
//! the host's own clock, twice and a moment apart, and is good for [`HORIZON_NS`] at most. Nobody renews it by himself: code that finds
//! it too old makes the call, and the call's handler draws the next line. So a sandbox that does not look at the clock costs nothing,
//! and one that does pays one call in twenty milliseconds.
//!
//! A new line never begins below the end of the old one, which nobody reads past its horizon: time does not go back. Where its
//! beginning lies above the host's clock because of that, it is a little slower, so that the two meet at its end. Offsets of the other
//! clocks change only when the host's do: by more than two readings of one moment can differ.

use super::SECOND;
use crate::mm::{Hint, MapRequest, MapSource, MemoryPool, Mm, ObjectId, Placement, VmaFlags};
use crate::vfs::{Mappable, MappedPages};
use abi::{PAGE_SIZE, Result, bail, mm::Prot};
use host::vdso::{Counter, page};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use sync::{Mutex, Rank};

/// So long a line is good at most: a change of the host's own rate (500 ppm at worst) stays within some microseconds.
const HORIZON_NS: u64 = 20_000_000;
/// So far apart two readings must be to give a rate, and so many times as long it is good.
const APART_NS: u64 = 500_000;
const TRUST: u64 = 10;
/// Two rates that differ by more than one in so many are not of one line: the machine was asleep, or moved.
const TOLERANCE: u64 = 2_000;
/// Offsets between clocks that differ by less are the same.
const SAME_NS: i64 = 1_000;
/// Readings of which the best is taken.
const READINGS: u32 = 5;

/// One moment: the counter, `CLOCK_MONOTONIC`, and what the other two clocks are ahead of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moment {
    ticks: u64,
    monotonic: u64,
    realtime: i64,
    boottime: i64,
}

impl Moment {
    fn now(counter: Counter) -> Moment {
        let mut best = (u64::MAX, Moment { ticks: 0, monotonic: 0, realtime: 0, boottime: 0 });
        for _ in 0..READINGS {
            let before = counter.read();
            let monotonic = host::time::monotonic_ns();
            let after = counter.read();
            let realtime = host::time::realtime_ns();
            let between = host::time::monotonic_ns();
            let boottime = host::time::boottime_ns();
            let took = after.saturating_sub(before);
            if took < best.0 {
                let middle = monotonic.midpoint(between);
                let ahead = |clock: u64, of: u64| clock.wrapping_sub(of).cast_signed();
                let ticks = before.midpoint(after);
                best = (took, Moment { ticks, monotonic, realtime: ahead(realtime, middle), boottime: ahead(boottime, between) });
            }
        }
        best.1
    }
}

/// What the page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    /// Where it begins.
    base: u64,
    /// Ticks that it is good for.
    horizon: u64,
    /// Nanoseconds a tick, times 2³².
    rate: u64,
    /// The clocks at its beginning, in nanoseconds.
    monotonic: u64,
    realtime: i64,
    boottime: i64,
}

/// `a * b / c`, as large as it gets.
fn scale(a: u64, b: u64, c: u64) -> u64 {
    u64::try_from(u128::from(a) * u128::from(b) / u128::from(c.max(1))).unwrap_or(u64::MAX)
}

impl Line {
    /// What readers make of the last tick that it is good for.
    fn end(&self) -> u64 {
        self.monotonic.saturating_add(scale(self.horizon, self.rate, 1 << 32))
    }

    /// The line from `now` on, at a rate that was measured over `apart` nanoseconds, behind another.
    fn begin(now: Moment, rate: u64, apart: u64, last: Option<&Line>) -> Line {
        let span = apart.saturating_mul(TRUST).min(HORIZON_NS);
        let base = last.map_or(now.monotonic, |l| l.end().max(now.monotonic));
        let early = base - now.monotonic;
        // Never so slow that it seems to stand still.
        let slower = rate - scale(rate, early.min(span / 2), span);
        let keep = |old: Option<i64>, new: i64| old.filter(|o| o.abs_diff(new) < SAME_NS.unsigned_abs()).unwrap_or(new);
        Line {
            base: now.ticks,
            horizon: scale(span, 1 << 32, rate),
            rate: slower,
            monotonic: base,
            realtime: keep(last.map(|l| l.realtime), now.realtime),
            boottime: keep(last.map(|l| l.boottime), now.boottime),
        }
    }

    fn bytes(&self) -> [u8; page::LEN - page::BASE as usize] {
        let at = |ahead: i64| {
            let t = self.monotonic.saturating_add_signed(ahead);
            [t / SECOND, t % SECOND]
        };
        let [r, m, b] = [at(self.realtime), at(0), at(self.boottime)];
        let words = [self.base, self.horizon, self.rate, r[0], r[1], m[0], m[1], b[0], b[1]];
        let mut bytes = [0; page::LEN - page::BASE as usize];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

#[derive(Debug)]
struct State {
    /// The last reading.
    read: Moment,
    /// The last rate that was measured.
    rate: Option<u64>,
    line: Option<Line>,
}

/// The vDSO of a sandbox.
pub struct Vdso {
    memory: Arc<MemoryPool>,
    /// The page of figures in the memory file; the image follows.
    offset: u64,
    counter: Option<Counter>,
    /// The last tick that the page is good for, so that most calls take no lock. 0: it says nothing yet.
    good_until: AtomicU64,
    state: Mutex<State>,
    figures: Arc<Pages>,
    image: Arc<Pages>,
}

impl Vdso {
    /// Its two pages. `steady`: the host keeps time by the processor's time stamp counter, which all processors agree on.
    pub fn new(memory: &Arc<MemoryPool>, steady: bool) -> Result<Vdso> {
        let offset = memory.alloc(2 * PAGE_SIZE, Hint::default())?.offset;
        memory.file().copy_out(offset + PAGE_SIZE, host::vdso::image())?;
        let counter = Counter::new().filter(|_| steady);
        // Odd: nobody may use it yet.
        memory.file().swap_u32(offset + page::SEQUENCE, 1)?;
        memory.file().swap_u32(offset + page::CPU, u32::from(counter.is_some() && host::process::has_first_cpus()))?;
        let read = match counter {
            Some(c) => Moment::now(c),
            None => Moment { ticks: 0, monotonic: 0, realtime: 0, boottime: 0 },
        };
        let pages = |at: u64| Arc::new(Pages { memory: memory.clone(), offset: at });
        Ok(Vdso {
            memory: memory.clone(),
            offset,
            counter,
            good_until: AtomicU64::new(0),
            state: Mutex::new(Rank::Leaf, State { read, rate: None, line: None }),
            figures: pages(offset),
            image: pages(offset + PAGE_SIZE),
        })
    }

    /// Draws the next line if the last one has come to its end. To be called by every call that tells the time: it is made
    /// because the page could not answer.
    pub fn refresh(&self) {
        let Some(counter) = self.counter else { return };
        if counter.read() <= self.good_until.load(Ordering::Relaxed) {
            return;
        }
        let mut s = self.state.lock();
        if counter.read() <= self.good_until.load(Ordering::Relaxed) {
            return;
        }
        let Some(line) = s.advance(Moment::now(counter)) else { return };
        match self.publish(&line) {
            Ok(()) => self.good_until.store(line.base.saturating_add(line.horizon), Ordering::Relaxed),
            Err(e) => tracing::error!("the page of the vDSO cannot be written: {e}"),
        }
    }

    fn publish(&self, line: &Line) -> Result {
        let file = self.memory.file();
        // The swaps are barriers: whoever sees an even number twice, and the same, has read one line.
        let odd = file.load_u32(self.offset + page::SEQUENCE)? | 1;
        file.swap_u32(self.offset + page::SEQUENCE, odd)?;
        file.copy_out(self.offset + page::BASE, &line.bytes())?;
        file.swap_u32(self.offset + page::SEQUENCE, odd.wrapping_add(1))?;
        Ok(())
    }

    /// The number of the processor that the calling thread runs on, where the sandbox has the host's numbers.
    pub fn cpu(&self) -> Option<usize> {
        host::process::has_first_cpus().then(host::thread::current_cpu)
    }

    /// From now on nobody is told the number of the host's processor without asking: a task has said on which ones it runs,
    /// which the host knows nothing of.
    pub fn hide_cpu(&self) {
        if let Err(e) = self.memory.file().swap_u32(self.offset + page::CPU, 0) {
            tracing::error!("the page of the vDSO cannot be written: {e}");
        }
    }

    /// Maps it into a new address space; returns the image's address (`AT_SYSINFO_EHDR`).
    pub fn map(&self, mm: &Mm) -> Result<u64> {
        let Some(at) = mm.find_space(2 * PAGE_SIZE, PAGE_SIZE) else { bail!(ENOMEM, "no room for the vDSO") };
        let one = |addr: u64, pages: &Arc<Pages>, label: &str, prot: Prot, max_prot: Prot| {
            mm.map(MapRequest {
                placement: Placement::Fixed(addr),
                len: PAGE_SIZE,
                prot,
                source: MapSource::Special { mappable: pages.clone(), id: ObjectId::Special, label: label.into(), max_prot },
                flags: VmaFlags::empty(),
                populate: false,
                may_lock: true,
            })
        };
        one(at, &self.figures, "[vvar]", Prot::READ, Prot::READ)?;
        // A debugger may set breakpoints in it: in a copy of the process's own.
        one(at + PAGE_SIZE, &self.image, "[vdso]", Prot::READ | Prot::EXEC, Prot::all())
    }
}

impl State {
    /// Takes note of a reading; gives the line that follows from it, if one does.
    fn advance(&mut self, now: Moment) -> Option<Line> {
        let apart = now.monotonic.saturating_sub(self.read.monotonic);
        let ticks = now.ticks.saturating_sub(self.read.ticks);
        if ticks > 0 && apart < APART_NS {
            return None;
        }
        let rate = (ticks > 0).then(|| scale(apart, 1 << 32, ticks)).filter(|&r| r > 0);
        let agree = rate.zip(self.rate).is_some_and(|(a, b)| a.abs_diff(b) <= b / TOLERANCE);
        self.read = now;
        self.rate = rate;
        let line = Line::begin(now, rate.filter(|_| agree)?, apart, self.line.as_ref());
        self.line = Some(line);
        Some(line)
    }
}

/// One of the pages, as a thing to be mapped.
struct Pages {
    memory: Arc<MemoryPool>,
    offset: u64,
}

impl Mappable for Pages {
    fn pages(&self, offset: u64, _len: u64, _write: bool) -> Result<MappedPages> {
        if offset != 0 {
            bail!(ENXIO, "one page only");
        }
        Ok(MappedPages { fd: self.memory.fd(), is_memory_file: true, offset: self.offset, len: PAGE_SIZE })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(ticks: u64, monotonic: u64) -> Moment {
        Moment { ticks, monotonic, realtime: 1_700_000_000 * SECOND as i64, boottime: 5 }
    }

    /// What the page tells at a tick.
    fn read(line: &Line, ticks: u64) -> u64 {
        assert!(ticks - line.base <= line.horizon);
        line.monotonic + scale(ticks - line.base, line.rate, 1 << 32)
    }

    #[test]
    fn lines_join() {
        // Two ticks a nanosecond; the clock is read with an error of 40 ns, first one way, then the other.
        let mut s = State { read: moment(0, 1_000), rate: None, line: None };
        assert_eq!(s.advance(moment(2_000, 2_000)), None, "too close");
        assert_eq!(s.advance(moment(2_000_000, 1_001_040)), None, "one rate is none");
        let first = s.advance(moment(6_000_000, 3_000_960)).expect("a line");
        // As far as the time that the rate was measured over allows, which is just below what any line is good for.
        assert_eq!(first.horizon, TRUST * 4_000_000);
        assert!(first.horizon < scale(HORIZON_NS, 1 << 32, s.rate.expect("a rate")));
        let end = first.base + first.horizon;
        let truth = |ticks: u64| ticks / 2 + 1_000;
        assert!(read(&first, end).abs_diff(truth(end)) < 1_000);
        let second = s.advance(moment(end + 1, truth(end) - 40)).expect("a line");
        assert!(second.monotonic >= read(&first, end));
        let far = second.base + second.horizon;
        assert!(read(&second, far).abs_diff(truth(far)) < 200, "{} {}", read(&second, far), truth(far));
        assert_eq!(second.realtime, first.realtime);
    }

    #[test]
    fn other_times_are_other_lines() {
        let mut s = State { read: moment(0, 0), rate: None, line: None };
        s.advance(moment(2_000_000, 1_000_000));
        assert!(s.advance(moment(4_000_000, 2_000_000)).is_some());
        // The machine slept: the counter went on, the clock did not.
        assert_eq!(s.advance(moment(9_000_000, 3_000_000)), None);
        assert_eq!(s.advance(moment(11_000_000, 4_000_000)), None);
        assert!(s.advance(moment(13_000_000, 5_000_000)).is_some());
        // The counter began anew.
        assert_eq!(s.advance(moment(1_000, 6_000_000)), None);
    }

    #[test]
    fn a_step_of_the_wall_clock_is_taken_over() {
        let mut s = State { read: moment(0, 0), rate: None, line: None };
        s.advance(moment(2_000_000, 1_000_000));
        let a = s.advance(moment(4_000_000, 2_000_000)).expect("a line");
        let jittered = Moment { realtime: a.realtime + 30, ..moment(60_000_000, 30_000_000) };
        assert_eq!(s.advance(jittered).expect("a line").realtime, a.realtime);
        let stepped = Moment { realtime: a.realtime - 7_000, ..moment(120_000_000, 60_000_000) };
        assert_eq!(s.advance(stepped).expect("a line").realtime, a.realtime - 7_000);
    }

    #[test]
    fn the_page_is_filled() {
        let memory = Arc::new(MemoryPool::new(1 << 30).expect("pool"));
        let v = Vdso::new(&memory, true).expect("vdso");
        let sequence = || memory.file().load_u32(v.offset).expect("load");
        assert_eq!(sequence(), 1);
        if v.counter.is_none() {
            return;
        }
        for _ in 0..3 {
            host::time::sleep(std::time::Duration::from_millis(1));
            v.refresh();
        }
        assert_eq!(sequence() % 2, 0);
        let line = v.state.lock().line.expect("a line");
        let counter = v.counter.expect("a counter");
        let (ticks, now) = (counter.read(), host::time::monotonic_ns());
        if ticks - line.base <= line.horizon {
            assert!(read(&line, ticks).abs_diff(now) < 100_000);
        }
    }
}
