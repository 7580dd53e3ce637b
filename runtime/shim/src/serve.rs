//! The shim itself: serves requests until containerd asks it to go.

use crate::args::Args;
use crate::error::{Error, Result};
use crate::events::Publisher;
use crate::log;
use crate::oom::KillsOf;
use crate::reaper::Reaper;
use crate::service::Service;
use containerd_shim_protos::create_task;
use rustix::io::fcntl_dupfd_cloexec;
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use ttrpc::{MethodHandler, Server};

/// How long the last events may take.
const LAST_EVENTS: Duration = Duration::from_secs(5);

type Methods = HashMap<String, Box<dyn MethodHandler + Send + Sync>>;

/// Serves on the socket that is standard input: see [`start`](crate::start).
pub fn main(args: &Args, kills_of: KillsOf) -> Result<()> {
    let address = std::env::var("TTRPC_ADDRESS").map_err(Error::context("TTRPC_ADDRESS"))?;
    let listener = fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).map_err(Error::context("the socket"))?;
    let null = File::open("/dev/null").map_err(Error::context("/dev/null"))?;
    rustix::stdio::dup2_stdin(&null).map_err(Error::context("/dev/null"))?;
    // The keys of a terminal that containerd was started from are not for us.
    rustix::process::setsid().map_err(Error::context("setsid"))?;
    log::start(args.debug);
    let reaper = Reaper::start()?;
    let publisher = Arc::new(Publisher::start(&args.namespace, address)?);
    let service = Arc::new(Service::new(&args.namespace, reaper, publisher.clone(), kills_of));
    let mut server = Server::new()
        .add_listener(listener.into_raw_fd())
        .map_err(Error::context("the socket"))?
        .register_service(create_task(service.clone()))
        .register_service(version2(create_task(service.clone())));
    server.start().map_err(Error::context("the server"))?;
    service.wait_shutdown();
    publisher.finish(LAST_EVENTS);
    // The answer to the request is still to be sent.
    thread::sleep(Duration::from_millis(20));
    if let Some(path) = args.socket.strip_prefix("unix://") {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

/// The service under the name that containerd before 2.0 knows. The messages are the same.
fn version2(methods: Methods) -> Methods {
    methods.into_iter().map(|(path, method)| (path.replace("/containerd.task.v3.", "/containerd.task.v2."), method)).collect()
}
