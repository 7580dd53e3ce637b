//! Host threads for tasks. A thread whose task has ended waits a moment for the next one: starting a thread costs the host a dozen calls, waking
//! one a single call.

use abi::Errno;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;
use sync::{Mutex, Rank};

/// Threads that wait at most.
const IDLE: usize = 8;
/// How long each of them does.
const PATIENCE: Duration = Duration::from_millis(500);

/// What a thread runs, under which name.
struct Job {
    name: String,
    run: Box<dyn FnOnce() + Send>,
}

/// Threads without a job.
struct Idle {
    threads: Vec<(u64, Sender<Job>)>,
    next: u64,
}

static WAITING: Mutex<Idle> = Mutex::new(Rank::Leaf, Idle { threads: Vec::new(), next: 0 });

/// Runs `f` on a thread of its own, which the host shows as `name`. `EAGAIN` where it has no more threads.
pub fn run(name: String, f: impl FnOnce() + Send + 'static) -> Result<(), Errno> {
    let mut job = Job { name, run: Box::new(f) };
    // The last that came: its stack is warm.
    while let Some((_, thread)) = { WAITING.lock().threads.pop() } {
        match thread.send(job) {
            Ok(()) => return Ok(()),
            Err(back) => job = back.0,
        }
    }
    let Job { name, run } = job;
    host::thread::spawn(&name, move || {
        run();
        serve();
    })
    .map(drop)
}

/// One job after the other, until none has come for a while.
fn serve() {
    while let Some(job) = wait() {
        host::thread::set_name(&job.name);
        (job.run)();
    }
}

fn wait() -> Option<Job> {
    let (to_me, jobs) = channel();
    let me = {
        let mut idle = WAITING.lock();
        if idle.threads.len() >= IDLE {
            return None;
        }
        idle.next += 1;
        let me = idle.next;
        idle.threads.push((me, to_me));
        me
    };
    receive(&jobs, me)
}

fn receive(jobs: &Receiver<Job>, me: u64) -> Option<Job> {
    match jobs.recv_timeout(PATIENCE) {
        Ok(job) => Some(job),
        Err(RecvTimeoutError::Disconnected) => None,
        Err(RecvTimeoutError::Timeout) => {
            let before = {
                let mut idle = WAITING.lock();
                let before = idle.threads.len();
                idle.threads.retain(|(n, _)| *n != me);
                before - idle.threads.len()
            };
            // Whoever has taken the sender already will use it.
            if before == 0 { jobs.recv().ok() } else { None }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_serves_again() {
        let (tx, rx) = channel();
        let mut ids = Vec::new();
        for _ in 0..20 {
            let tx = tx.clone();
            run("test".into(), move || tx.send(host::thread::tid()).expect("send")).expect("run");
            ids.push(rx.recv().expect("a job ran"));
            // It waits again a moment after its job.
            std::thread::sleep(Duration::from_millis(2));
        }
        ids.sort_unstable();
        ids.dedup();
        assert!(ids.len() < 20, "each job had a thread of its own");
    }
}
