//! [`ProcessTimers`]: timer_create(2) and setitimer(2) of one process.

use super::Timer;
use std::collections::BTreeMap;
use sync::{Mutex, Rank};

/// The timers of one process. Gone at execve(2) and exit, not inherited by fork(2).
pub struct ProcessTimers {
    real: Mutex<Option<Timer>>,
    posix: Mutex<BTreeMap<i32, Timer>>,
}

impl Default for ProcessTimers {
    fn default() -> Self {
        ProcessTimers { real: Mutex::new(Rank::TaskState, None), posix: Mutex::new(Rank::TaskState, BTreeMap::new()) }
    }
}
