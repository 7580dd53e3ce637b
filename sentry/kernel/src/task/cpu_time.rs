//! CPU time of tasks, which nobody counts before somebody asks.
//!
//! * [`CpuTime`] – one task's. Its time in the sentry is what the host has counted for its sentry thread.
//! * [`CpuShares`] – of one address space: the host counts what all application code in it has run, which is shared out among its tasks.
//!
//! Where an address space has one task, all is that task's, and exact. Where it has several, the sum is exact, and each gets its part
//! of it in proportion to how long it has been in the application since the last time: as Linux splits the time that it has measured into user's and system's by
//! what its ticks have seen. (The host tells the clock of a single thread only to its own process.) Only then task threads look at a clock when they
//! enter and leave the application.

use super::Usage;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::Relaxed};
use sync::{Mutex, Rank};

/// CPU time of one task, in nanoseconds.
#[derive(Debug)]
pub(crate) struct CpuTime {
    /// The application's, as far as it has been [shared out](CpuShares::settle).
    user: AtomicU64,
    /// The sentry's, once the task has ended.
    system: AtomicU64,
    /// The task thread, while it runs; else 0.
    thread: AtomicI32,
    /// What that thread had used before.
    base: AtomicU64,
    switches: AtomicU64,
    /// It shares its address space: how long it is in the application has to be measured.
    measured: AtomicBool,
    /// When it has entered the application; 0: it is not there, or not measured.
    since: AtomicU64,
    /// How long it was there since the last time that was shared out.
    weight: AtomicU64,
    shown: Mutex<Shown>,
}

/// What was told last.
#[derive(Clone, Copy, Debug, Default)]
struct Shown {
    /// When; 0: never.
    at: u64,
    counted: [u64; 2],
    told: [u64; 2],
}

impl Shown {
    /// What to tell at `now`, having counted `counted`. A thread in the application and the one that serves it may both look for each other for a
    /// moment, and so run at the same time; but a task uses no more time than there is.
    fn tell(&mut self, counted: [u64; 2], now: u64) -> [u64; 2] {
        let [user, system] = [0, 1].map(|i: usize| counted[i].saturating_sub(self.counted[i]));
        let (sum, time) = (user.saturating_add(system), now.saturating_sub(self.at));
        let user_part = if sum > time { scale(user, time, sum) } else { user };
        let system_part = system.min(time.saturating_sub(user_part));
        self.told = [self.told[0] + user_part, self.told[1] + system_part];
        self.at = now;
        self.counted = [0, 1].map(|i: usize| self.counted[i].max(counted[i]));
        self.told
    }
}

/// `value * part / whole`
fn scale(value: u64, part: u64, whole: u64) -> u64 {
    let product = u128::from(value) * u128::from(part) / u128::from(whole.max(1));
    u64::try_from(product).unwrap_or(u64::MAX)
}

impl Default for CpuTime {
    fn default() -> CpuTime {
        CpuTime {
            user: AtomicU64::new(0),
            system: AtomicU64::new(0),
            thread: AtomicI32::new(0),
            base: AtomicU64::new(0),
            switches: AtomicU64::new(0),
            measured: AtomicBool::new(false),
            since: AtomicU64::new(0),
            weight: AtomicU64::new(0),
            shown: Mutex::new(Rank::Leaf, Shown::default()),
        }
    }
}

impl CpuTime {
    /// The calling thread is the task's from now on.
    pub fn begin(&self) {
        self.base.store(host::time::thread_cpu_ns(), Relaxed);
        self.thread.store(host::thread::tid(), Relaxed);
        self.shown.lock().at = host::time::monotonic_ns();
    }

    /// The task has ended: what it uses from now on is not counted. To be called by its own thread, if it has begun.
    pub fn end(&self) {
        if self.thread.load(Relaxed) != 0 {
            self.system.store(self.system_ns(), Relaxed);
            self.thread.store(0, Relaxed);
        }
    }

    fn system_ns(&self) -> u64 {
        match self.thread.load(Relaxed) {
            0 => self.system.load(Relaxed),
            tid => host::time::cpu_ns_of_thread(tid).map_or(0, |t| t.saturating_sub(self.base.load(Relaxed))),
        }
    }

    /// The task runs the application from here on.
    pub fn enter_application(&self) {
        if self.measured.load(Relaxed) {
            self.since.store(host::time::monotonic_ns(), Relaxed);
        }
    }

    /// The task is back in the sentry.
    pub fn leave_application(&self) {
        if self.since.load(Relaxed) != 0 {
            let since = self.since.swap(0, Relaxed);
            self.weight.fetch_add(host::time::monotonic_ns().saturating_sub(since), Relaxed);
        }
    }

    /// The task waits.
    pub fn count_switch(&self) {
        self.switches.fetch_add(1, Relaxed);
    }

    /// How long it was in the application since this was asked last.
    fn take_weight(&self, now: u64) -> u64 {
        let since = self.since.load(Relaxed);
        // If it leaves right now, it adds this itself.
        let present = if since != 0 && self.since.compare_exchange(since, now.max(since), Relaxed, Relaxed).is_ok() {
            now.saturating_sub(since)
        } else {
            0
        };
        self.weight.swap(0, Relaxed).saturating_add(present)
    }

    /// Totals; those of the application as of the last time that they were shared out.
    pub fn usage(&self) -> Usage {
        let counted = [self.user.load(Relaxed), self.system_ns()];
        let [user_ns, system_ns] = self.shown.lock().tell(counted, host::time::monotonic_ns());
        Usage { user_ns, system_ns, voluntary_switches: self.switches.load(Relaxed), max_rss: 0 }
    }
}

/// The tasks of an address space, among whom its CPU time is shared out.
#[derive(Debug)]
pub(crate) struct CpuShares(Mutex<Shares>);

#[derive(Debug, Default)]
struct Shares {
    tasks: Vec<Arc<CpuTime>>,
    /// What was shared out so far.
    settled: u64,
}

impl Default for CpuShares {
    fn default() -> CpuShares {
        CpuShares(Mutex::new(Rank::Leaf, Shares::default()))
    }
}

impl CpuShares {
    /// Another task will run here. To be called by a thread of the sentry while the tasks that it may share with are measured already, or in the sentry.
    pub fn join(&self, task: &Arc<CpuTime>, cpu_ns: impl Fn() -> u64) {
        let mut shares = self.0.lock();
        if !shares.tasks.is_empty() {
            shares.settle(&cpu_ns);
        }
        shares.tasks.push(task.clone());
        shares.measure();
    }

    /// A task runs here no more.
    pub fn leave(&self, task: &Arc<CpuTime>, cpu_ns: impl Fn() -> u64) {
        let mut shares = self.0.lock();
        shares.settle(&cpu_ns);
        shares.tasks.retain(|t| !Arc::ptr_eq(t, task));
        task.measured.store(false, Relaxed);
        shares.measure();
    }

    /// Shares out what was used until now. `cpu_ns`: all that application code has used in this address space.
    pub fn settle(&self, cpu_ns: impl Fn() -> u64) {
        self.0.lock().settle(&cpu_ns);
    }
}

impl Shares {
    fn measure(&self) {
        let measured = self.tasks.len() > 1;
        self.tasks.iter().for_each(|t| t.measured.store(measured, Relaxed));
    }

    fn settle(&mut self, cpu_ns: &dyn Fn() -> u64) {
        let used = cpu_ns();
        let new = used.saturating_sub(self.settled);
        self.settled = self.settled.max(used);
        if let [only] = &self.tasks[..] {
            // Of the time before it was alone.
            only.weight.store(0, Relaxed);
            only.user.fetch_add(new, Relaxed);
            return;
        }
        let now = host::time::monotonic_ns();
        let weights: Vec<u64> = self.tasks.iter().map(|t| t.take_weight(now)).collect();
        let whole = weights.iter().fold(0, |sum: u64, w| sum.saturating_add(*w));
        if whole == 0 {
            // Nobody was there: mapping and making of what is to run next.
            self.settled = self.settled.saturating_sub(new);
            return;
        }
        for (task, weight) in self.tasks.iter().zip(weights) {
            task.user.fetch_add(scale(new, weight, whole), Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(task: &CpuTime) -> u64 {
        task.user.load(Relaxed)
    }

    #[test]
    fn one_task_has_used_all() {
        let (shares, a) = (CpuShares::default(), Arc::new(CpuTime::default()));
        shares.join(&a, || unreachable!("nobody was here"));
        a.enter_application();
        assert_eq!(a.since.load(Relaxed), 0, "no clock is looked at for a single task");
        shares.settle(|| 500);
        shares.settle(|| 700);
        shares.settle(|| 600);
        assert_eq!(user(&a), 700);
        shares.leave(&a, || 900);
        shares.settle(|| 1000);
        assert_eq!(user(&a), 900);
    }

    #[test]
    fn several_share_by_their_time_in_the_application() {
        let shares = CpuShares::default();
        let [a, b, c] = [0; 3].map(|_| Arc::new(CpuTime::default()));
        shares.join(&a, || 0);
        shares.join(&b, || 100);
        assert_eq!((user(&a), user(&b)), (100, 0));
        shares.join(&c, || 100);
        a.weight.store(30, Relaxed);
        b.weight.store(10, Relaxed);
        shares.settle(|| 1100);
        assert_eq!((user(&a), user(&b), user(&c)), (850, 250, 0));
        // Nobody was in the application: it is shared out when somebody was.
        shares.settle(|| 1200);
        c.weight.store(1, Relaxed);
        shares.settle(|| 1300);
        assert_eq!((user(&a), user(&b), user(&c)), (850, 250, 200));
        b.enter_application();
        assert_ne!(b.since.load(Relaxed), 0);
        shares.settle(|| 2300);
        assert_eq!((user(&a), user(&c)), (850, 200));
        b.leave_application();
        shares.leave(&c, || 2300);
        shares.leave(&b, || 2300);
        shares.settle(|| 2400);
        assert_eq!((user(&a) + user(&b) + user(&c), a.measured.load(Relaxed)), (2400, false));
    }

    #[test]
    fn a_task_uses_no_more_than_there_is_and_never_less_than_before() {
        let mut shown = Shown { at: 1000, ..Shown::default() };
        assert_eq!(shown.tell([100, 200], 2000), [100, 200]);
        assert_eq!(shown.tell([1100, 1200], 3000), [600, 700]);
        assert_eq!(shown.tell([1000, 1200], 4000), [600, 700]);
        assert_eq!(shown.tell([1000, 1300], 4000), [600, 700]);
    }

    #[test]
    fn the_time_of_a_thread_begins_with_its_task() {
        let task = CpuTime::default();
        assert_eq!(task.usage().system_ns, 0);
        let burn = |ns| {
            let begin = host::time::thread_cpu_ns();
            while host::time::thread_cpu_ns() - begin < ns {
                std::hint::spin_loop();
            }
        };
        burn(3_000_000);
        task.begin();
        assert!(task.usage().system_ns < 3_000_000);
        burn(3_000_000);
        std::thread::scope(|s| s.spawn(|| assert!(task.usage().system_ns >= 3_000_000)).join().expect("thread"));
        task.end();
        let end = task.usage();
        burn(3_000_000);
        assert_eq!(task.usage(), end);
    }
}
