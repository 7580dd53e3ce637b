//! Waiting for a socket.

use abi::{Result, poll::PollEvents};
use kernel::{net::SocketOps, task::CurrentTask, vfs::blocking::Wait};
use std::sync::Arc;
use std::time::Duration;

/// Repeats `attempt` while it gives `EAGAIN`, waiting for `events`. After `limit` (`SO_RCVTIMEO`, `SO_SNDTIMEO`) the `EAGAIN` stays.
pub fn until<T>(
    t: &CurrentTask,
    sock: &Arc<dyn SocketOps>,
    events: PollEvents,
    nonblocking: bool,
    limit: Option<Duration>,
    attempt: impl FnMut() -> Result<T>,
) -> Result<T> {
    Wait { queue: sock.queue(), events, nonblocking, limit, more: None }.until(t, attempt)
}

/// The same for what only one task can take: a connection, a datagram, bytes of a stream.
pub fn until_taken<T>(
    t: &CurrentTask,
    sock: &Arc<dyn SocketOps>,
    nonblocking: bool,
    limit: Option<Duration>,
    attempt: impl FnMut() -> Result<T>,
) -> Result<T> {
    let more = || sock.poll().intersects(PollEvents::READABLE);
    Wait { queue: sock.queue(), events: PollEvents::READABLE, nonblocking, limit, more: Some(&more) }.until(t, attempt)
}
