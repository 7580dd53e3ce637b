//! The sentry's end of the control socket.

use crate::{Failure, boot::Sandbox, signals};
use control::{Event, FailureKind, MAX_MESSAGE, Request, decode, encode};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The connection to the runtime. Copies share it.
#[derive(Clone, Debug)]
pub struct Server(Arc<OwnedFd>);

impl Server {
    /// Over this socket.
    pub fn new(socket: OwnedFd) -> Server {
        Server(Arc::new(socket))
    }

    /// Reports that the application is about to run.
    pub fn started(&self) {
        self.send(&Event::Started);
    }

    /// Reports the application's end.
    pub fn exited(&self, wait_status: i32) {
        self.send(&Event::Exited { wait_status });
    }

    /// Reports that the sentry gives up.
    pub fn failed(&self, kind: FailureKind, message: &str) {
        // A message that is too long would be lost.
        let message = message.chars().take(MAX_MESSAGE / 8).collect();
        self.send(&Event::Failed { kind, message });
    }

    fn send(&self, event: &Event) {
        let sent = encode(event)
            .map_err(|error| error.to_string())
            .and_then(|packet| {
                host::io::send_bytes(&*self.0, &packet, &[], libc::MSG_NOSIGNAL).map_err(|error| error.to_string())
            });
        if let Err(error) = sent {
            tracing::warn!("cannot report {event:?}: {error}");
        }
    }

    /// Starts the threads that take requests and signals.
    pub fn serve(&self, sandbox: &Arc<Sandbox>) -> Result<(), Failure> {
        let (server, target) = (self.clone(), sandbox.clone());
        host::thread::spawn("control", move || server.requests(&target)).map_err(Failure::host("a thread"))?;
        let target = sandbox.clone();
        host::thread::spawn("signals", move || {
            while let Ok(signal) = signals::wait() {
                target.host_signal(signal);
            }
        })
        .map_err(Failure::host("a thread"))?;
        Ok(())
    }

    /// Carries out requests until the runtime is gone; then there is nobody left to run for.
    fn requests(&self, sandbox: &Sandbox) {
        let mut buffer = vec![0; MAX_MESSAGE + 1];
        loop {
            match host::io::recv_bytes(&*self.0, &mut buffer, 0, 0) {
                Ok(received) if received.len > 0 => match decode(buffer.get(..received.len).unwrap_or_default()) {
                    Ok(Request::Signal { sig }) => sandbox.signal(sig),
                    Err(error) => tracing::warn!("from the runtime: {error}"),
                },
                Err(abi::Errno::EINTR) => {}
                _ => {
                    tracing::debug!("the runtime is gone");
                    std::process::exit(crate::FAILED);
                }
            }
        }
    }
}
