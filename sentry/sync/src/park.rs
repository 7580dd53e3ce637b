//! Parking a task thread until someone unparks it.

use parking_lot::{Condvar, Mutex};
use std::sync::OnceLock;
use std::time::Instant;

/// Who is told when a thread waits here, and when it has waited.
static OBSERVER: OnceLock<fn(bool)> = OnceLock::new();

/// Lets `observer` know of each thread that begins (`true`) and ends (`false`) waiting, on that thread. Only the first call has an effect.
pub fn observe(observer: fn(bool)) {
    let _ = OBSERVER.set(observer);
}

/// A one-token parking place: [`unpark`](Parker::unpark) leaves a token, [`park`](Parker::park) takes it or waits for it.
#[derive(Debug, Default)]
pub struct Parker {
    token: Mutex<bool>,
    cond: Condvar,
}

impl Parker {
    /// An empty parking place.
    #[must_use]
    pub const fn new() -> Self {
        Parker { token: Mutex::new(false), cond: Condvar::new() }
    }

    /// Takes the token, waiting for it until `deadline`. Returns whether there was one.
    pub fn park(&self, deadline: Option<Instant>) -> bool {
        let mut token = self.token.lock();
        let observer = if *token { None } else { OBSERVER.get() };
        if let Some(observer) = observer {
            observer(true);
        }
        while !*token {
            match deadline {
                None => self.cond.wait(&mut token),
                Some(d) => {
                    if self.cond.wait_until(&mut token, d).timed_out() {
                        break;
                    }
                }
            }
        }
        if let Some(observer) = observer {
            observer(false);
        }
        std::mem::take(&mut *token)
    }

    /// Leaves a token. May be called under any lock.
    pub fn unpark(&self) {
        let mut token = self.token.lock();
        if !*token {
            *token = true;
            self.cond.notify_one();
        }
    }
}
