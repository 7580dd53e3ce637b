//! Keeps single containers of a pod to their limits of memory and of processor time, for whom the host does that for the sandbox as a whole.
//!
//! One thread looks at the containers that have such limits, and only while there are any: the tasks are not slower for it. What a container may still use
//! until it reaches a limit says when it is looked at again, so that one that is far from it is left alone.
//!
//! * Processor time: a container that has used up its quota is held, as when it is paused, until it has some again. What it has used beyond
//!   the quota before it was noticed is taken off the next period's.
//! * Memory: where a container has more than its limit, its largest process is killed, as by the kernel's out-of-memory killer in a control
//!   group without swap.

use crate::Kernel;
use crate::container::{Container, Limits};
use crate::task::{ExitStatus, ThreadGroup, Waker};
use abi::poll::PollEvents;
use abi::signal::Signal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

const MS: u64 = 1_000_000;
/// Memory that an application can fill in a nanosecond, at most, in bytes.
const FILLED: u64 = 2;
/// How soon, and how late, memory is looked at again.
const MEMORY_LOOKS: [u64; 2] = [10 * MS, 1_000 * MS];
/// Looking may take this part of the time at most.
const LOOKING: u64 = 20;
/// How soon processor time is looked at again.
const CPU_LOOK: u64 = 2 * MS;
/// How long a killed process may take to give its memory back, before the next one is looked for.
const DYING: Duration = Duration::from_secs(2);

/// What is known of a container's use. Times in nanoseconds of the monotonic clock.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ledger {
    /// When its processor time was looked at last; 0: never.
    cpu_at: u64,
    cpu_used: u64,
    /// What it may use; less than nothing if it has used too much.
    cpu_left: i64,
    /// When its memory is looked at next, and its processor time when that was last done.
    memory_next: u64,
    memory_cpu: u64,
}

/// The thread, if there is one.
#[derive(Default)]
struct Keeper {
    waker: Waker,
    running: AtomicBool,
}

/// Sees to it that limits are kept from now on; to be called when there are others.
pub(crate) fn keep(kernel: &Arc<Kernel>) {
    let keeper: Arc<Keeper> = kernel.attachments.get_or_insert_with(Keeper::default);
    if keeper.running.swap(true, Ordering::SeqCst) {
        return keeper.waker.unpark();
    }
    let (kernel, of_thread) = (Arc::downgrade(kernel), keeper.clone());
    if let Err(error) = host::thread::spawn("limits", move || run(&kernel, &of_thread)) {
        keeper.running.store(false, Ordering::SeqCst);
        tracing::warn!("limits of single containers are not kept: {error}");
    }
}

fn run(kernel: &Weak<Kernel>, keeper: &Keeper) {
    loop {
        let Some(containers) = kernel.upgrade().map(|kernel| limited(&kernel)) else { return };
        if containers.is_empty() {
            keeper.running.store(false, Ordering::SeqCst);
            // One may have come meanwhile, and found the thread running.
            let more = kernel.upgrade().is_some_and(|kernel| !limited(&kernel).is_empty());
            if !more || keeper.running.swap(true, Ordering::SeqCst) {
                return;
            }
            continue;
        }
        let wait = containers.iter().map(|container| container.keep_limits()).min().unwrap_or(MEMORY_LOOKS[1]);
        drop(containers);
        keeper.waker.park(Some(Instant::now() + Duration::from_nanos(wait)));
    }
}

/// Containers for whom the host keeps no limits: all but the one for which the sandbox was made.
fn limited(kernel: &Kernel) -> Vec<Arc<Container>> {
    let mut all = kernel.containers();
    all.retain(|container| !container.is_first() && container.has_limits());
    all
}

impl Container {
    /// Whether there is anything to be kept, or to be taken back.
    fn has_limits(&self) -> bool {
        let Limits { memory, cpu, .. } = self.limits();
        memory.is_some() || cpu.is_some() || self.freezer.is_throttled()
    }

    /// Looks at what it uses, and does what is to be done; says in how many nanoseconds to look again.
    fn keep_limits(&self) -> u64 {
        let (limits, now) = (self.limits(), host::time::monotonic_ns());
        let used = self.usage();
        let used = used.user_ns.saturating_add(used.system_ns);
        let mut ledger = self.ledger();
        let cpu = match limits.cpu {
            Some((quota, period)) if quota > 0 && period > 0 => self.keep_cpu(&mut ledger, (quota * 1000, period * 1000), used, now),
            _ => {
                ledger.cpu_at = 0;
                self.throttle(false);
                MEMORY_LOOKS[1]
            }
        };
        let memory = limits.memory.map_or(MEMORY_LOOKS[1], |limit| self.keep_memory(&mut ledger, limit, used, now));
        self.set_ledger(ledger);
        cpu.min(memory)
    }

    fn keep_cpu(&self, ledger: &mut Ledger, (quota, period): (u64, u64), used: u64, now: u64) -> u64 {
        let earned = |time: u64| u64::try_from(u128::from(time) * u128::from(quota) / u128::from(period)).unwrap_or(u64::MAX);
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        if ledger.cpu_at == 0 {
            (ledger.cpu_left, ledger.cpu_used) = (signed(quota), used);
        } else {
            let saved = ledger.cpu_left.saturating_add(signed(earned(now.saturating_sub(ledger.cpu_at)))).min(signed(quota));
            ledger.cpu_left = saved.saturating_sub(signed(used.saturating_sub(ledger.cpu_used)));
            ledger.cpu_used = used;
        }
        ledger.cpu_at = now;
        // Enough to be worth the switch.
        let enough = signed(quota / 4);
        if ledger.cpu_left <= 0 {
            self.throttle(true);
        } else if ledger.cpu_left >= enough {
            self.throttle(false);
        }
        if self.freezer.is_throttled() {
            let missing = enough.saturating_sub(ledger.cpu_left).unsigned_abs();
            let wait = u128::from(missing) * u128::from(period) / u128::from(quota);
            return u64::try_from(wait).unwrap_or(period).max(CPU_LOOK);
        }
        let at_once = self.task_count().min(host::process::machine().cpus).max(1) as u64;
        (ledger.cpu_left.unsigned_abs() / at_once).clamp(CPU_LOOK, period.max(CPU_LOOK))
    }

    fn keep_memory(&self, ledger: &mut Ledger, limit: u64, used: u64, now: u64) -> u64 {
        if now < ledger.memory_next {
            return ledger.memory_next - now;
        }
        // Who has not run has filled nothing.
        let wait = if ledger.memory_cpu == used && ledger.memory_next != 0 {
            MEMORY_LOOKS[1]
        } else {
            let memory = self.memory_used();
            if memory > limit {
                self.kill_largest(memory, limit);
                // Whether that was enough is seen at once.
                ledger.memory_next = 0;
                return 0;
            }
            let taken = host::time::monotonic_ns().saturating_sub(now).saturating_mul(LOOKING);
            ((limit - memory) / FILLED).max(taken).clamp(MEMORY_LOOKS[0], MEMORY_LOOKS[1])
        };
        (ledger.memory_cpu, ledger.memory_next) = (used, now + wait);
        wait
    }

    /// Kills the process that has most, `oom_score_adj` considered as Linux does, and waits for its end.
    fn kill_largest(&self, used: u64, limit: u64) {
        let score = |group: &Arc<ThreadGroup>| -> Option<i64> {
            let adjusted = i64::from(group.oom_score_adj.load(Ordering::Relaxed));
            if adjusted == -1000 || group.is_dead() {
                return None;
            }
            let sizes = group.threads().iter().find_map(|task| task.try_mm())?.sizes();
            let has = i64::try_from(sizes.rss_anon.saturating_add(sizes.rss_shmem)).unwrap_or(i64::MAX);
            Some(has.saturating_add(adjusted.saturating_mul(i64::try_from(limit / 1000).unwrap_or(i64::MAX))))
        };
        let largest = self.processes().into_iter().filter_map(|group| Some((score(&group)?, group))).max_by_key(|(score, _)| *score);
        let Some((_, group)) = largest else {
            // Nothing runs, or nothing that may be killed: what remains lies in files.
            host::time::sleep(Duration::from_nanos(MEMORY_LOOKS[0]));
            return;
        };
        tracing::warn!("container {}: {used} bytes of memory are in use of {limit}: process {} is killed", self.config.id, group.tgid);
        self.count_oom_kill();
        group.begin_exit(ExitStatus::Signaled { signal: Signal::KILL, core: false });
        let waker = Arc::new(Waker::default());
        let _registration = group.exit_queue.register(PollEvents::READABLE, waker.clone());
        let deadline = Instant::now() + DYING;
        while !group.is_dead() && Instant::now() < deadline {
            waker.park(Some(deadline));
        }
    }
}
