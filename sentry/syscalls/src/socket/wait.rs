//! Waiting for a socket.

use abi::{Errno, Error, Result, poll::PollEvents};
use kernel::{net::SocketOps, task::CurrentTask};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Repeats `attempt` while it gives `EAGAIN`, waiting for `events`. After `limit` (`SO_RCVTIMEO`, `SO_SNDTIMEO`) the `EAGAIN` stays; with
/// a limit an interrupted call is not restarted (signal(7)).
pub fn until<T>(
    t: &CurrentTask,
    sock: &Arc<dyn SocketOps>,
    events: PollEvents,
    nonblocking: bool,
    limit: Option<Duration>,
    mut attempt: impl FnMut() -> Result<T>,
) -> Result<T> {
    if nonblocking {
        return attempt();
    }
    let deadline = limit.and_then(|l| Instant::now().checked_add(l));
    let ready = || match attempt() {
        Err(e) if e.is(Errno::EAGAIN) => None,
        other => Some(other),
    };
    match t.wait_on(&[(sock.queue(), events)], deadline, ready) {
        Ok(Some(result)) => result,
        Ok(None) => Err(Errno::EAGAIN.into()),
        Err(Error::Restart(_)) if limit.is_some() => Err(Errno::EINTR.into()),
        Err(e) => Err(e),
    }
}
