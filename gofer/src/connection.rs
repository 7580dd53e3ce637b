//! One connection: reads a request, has it carried out, answers, until the other end closes.
//!
//! A packet that is no request is answered with an error as long as its header can be read; otherwise the connection
//! is closed, as the asker must be out of its mind. A panic, which would be a bug, ends the connection and not the gofer.

use crate::ops;
use crate::server::Server;
use abi::Errno;
use gofer_protocol::{Channel, MAX_MESSAGE, NodeId, Reply, Request};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a connection keeps from one request to the next.
#[derive(Debug, Default)]
pub struct Session {
    /// The directory read last, open at the place where the next request will probably go on.
    pub dir: Option<(NodeId, u64, OwnedFd)>,
    /// Where the asker waited when this thread was last bound there.
    cpu: Option<usize>,
}

impl Session {
    /// Has this thread run where the asker waits.
    fn follow(&mut self, cpu: Option<usize>) {
        if cpu.is_none() || cpu == self.cpu {
            return;
        }
        self.cpu = cpu;
        if let Some(cpu) = cpu.filter(|&cpu| cpu < CpuSet::MAX_CPU) {
            let mut set = CpuSet::new();
            set.set(cpu);
            // A processor that this process may not use: it stays where it is.
            let _ = sched_setaffinity(None, &set);
        }
    }
}

/// Serves `channel` until it is closed or broken.
pub fn serve(server: &Server, channel: Channel) {
    let served = catch_unwind(AssertUnwindSafe(|| run(server, &channel)));
    match served {
        Ok(Ok(())) => tracing::debug!("connection closed"),
        Ok(Err(errno)) => tracing::warn!(%errno, "connection broken"),
        Err(_) => tracing::error!("a request panicked: connection closed"),
    }
}

fn run(server: &Server, channel: &Channel) -> Result<(), Errno> {
    let mut session = Session::default();
    let mut buffer = vec![0; MAX_MESSAGE];
    let mut out = Vec::new();
    loop {
        let received = channel.recv(&mut buffer)?;
        if received.len == 0 {
            return Ok(());
        }
        // No request carries a descriptor: what came with one is closed here.
        drop(received.fd);
        let packet = buffer.get(..received.len).ok_or(Errno::EMSGSIZE)?;
        session.follow(Request::asker_cpu(packet));
        let (outcome, tag) = match Request::parse(packet) {
            Ok((request, tag)) => {
                let outcome = ops::dispatch(server, &mut session, &request);
                tracing::debug!(?request, error = ?outcome.as_ref().err(), "request");
                (outcome, tag)
            }
            Err(malformed) => {
                tracing::warn!(%malformed, "not a request");
                (Err(malformed.into()), Request::tag_of(packet).ok_or(Errno::EPROTO)?)
            }
        };
        let (reply, fd) = match outcome {
            Ok(answer) => answer,
            Err(errno) => (Reply::Failed { errno }, None),
        };
        if reply.encode(tag, &mut out).is_err() {
            Reply::Failed { errno: Errno::EMSGSIZE }.encode(tag, &mut out).map_err(Errno::from)?;
        }
        match channel.send(&out, fd.as_ref().map(AsFd::as_fd)) {
            // The descriptor could not travel: too many are under way already.
            Err(Errno::ETOOMANYREFS) => {
                Reply::Failed { errno: Errno::ENFILE }.encode(tag, &mut out).map_err(Errno::from)?;
                channel.send(&out, None)?;
            }
            other => other?,
        }
    }
}
