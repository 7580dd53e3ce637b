//! Ports of the sandbox's loopback, reached from its network namespace on the host: what engines do for `kubectl port-forward`.
//!
//! The sandbox's loopback is in the sentry; the one of the namespace leads nowhere. Connections to 127.0.0.1 there, to any port, are
//! steered to one listener of the stand-in (a program of type `sk_lookup`, which goes with its link, and so with this process). Each
//! is handed to the sentry, which connects it to the port inside. Where nobody listens inside, it is reset.

use super::jail;
use crate::client::Client;
use crate::exit::Result;
use control::Request;
use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the sentry may take to answer.
const LIMIT: Duration = Duration::from_secs(5);

/// A listener that hears every port, until it is dropped.
#[derive(Debug)]
pub struct Forward {
    listener: TcpListener,
    _link: OwnedFd,
}

impl Forward {
    /// For the network namespace that this process is in. Fails where its loopback is down, or the host lets nobody steer.
    pub fn new() -> std::io::Result<Forward> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let namespace = File::open("/proc/self/ns/net")?;
        let link = jail::steer_loopback(&listener, &namespace)?;
        Ok(Forward { listener, _link: link })
    }

    /// Hands connections to the sentry whose socket is in `dir`, in a thread of its own. To be called once this process forks no more.
    pub fn serve(self, dir: &Path) {
        let dir = dir.to_owned();
        let started = std::thread::Builder::new().name("forward".into()).stack_size(128 << 10).spawn(move || self.run(&dir));
        if let Err(error) = started {
            tracing::warn!("ports cannot be forwarded into the sandbox: {error}");
        }
    }

    fn run(&self, dir: &PathBuf) {
        for stream in self.listener.incoming() {
            match stream {
                Ok(stream) => {
                    if let Err(failure) = hand_over(&stream, dir) {
                        tracing::debug!("a forwarded port: {failure}");
                        // Reset, as if nobody had listened in the first place.
                        let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
                    }
                }
                // Descriptors are short: for a moment, it is to be hoped.
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }
}

fn hand_over(stream: &TcpStream, dir: &Path) -> Result<()> {
    use crate::exit::{Failure, Status};
    let port = stream.local_addr().map_err(Failure::internal("getsockname"))?.port();
    let client = Client::connect(dir)?.ok_or_else(|| Failure::new(Status::NotRunning, "container not running"))?;
    client.send(&Request::Forward { port }, &[stream.as_fd()])?;
    client.receive(Some(LIMIT)).map(drop)
}
