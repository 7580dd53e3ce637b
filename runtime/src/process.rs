//! Further processes in a running container: those of `exec`, and the hooks that run inside.

use crate::client::Client;
use crate::container::{Container, Moment, State};
use crate::exit::{Failure, Result, Status};
use crate::sandbox::{memory_file, sealed};
use control::{Event, ExecSpec, Process, Request};
use oci_spec::runtime::Spec;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// How long a sentry may take to answer.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Starts a process; it ends with the connection. `streams` are its terminal, or its standard streams; then what it finds open from 3 on.
pub fn start(client: &Client, process: Process, streams: &[OwnedFd]) -> Result<()> {
    let text = ExecSpec { process }.to_json().map_err(Failure::internal("cannot encode the process"))?;
    let spec = sealed("exec-spec", &text)?;
    let fds: Vec<BorrowedFd<'_>> = std::iter::once(&spec).chain(streams).map(AsFd::as_fd).collect();
    client.send(&Request::Exec, &fds)?;
    match client.receive(Some(PATIENCE))? {
        Event::Started { .. } => Ok(()),
        other => Err(Failure::new(Status::Internal, format!("from the sentry: {other:?} is no answer to exec"))),
    }
}

/// Runs the hooks that run inside the container before the application starts.
pub fn start_hooks(container: &Container, spec: &Spec, state: &State) -> Result<()> {
    for (number, hook) in Moment::StartContainer.of(spec).iter().enumerate() {
        let mut process = crate::spec::process_of(spec)?;
        let path = hook.path().to_string_lossy().into_owned();
        // The program is the hook's path, whatever name it is told.
        process.args = std::iter::once(path.clone()).chain(hook.args().iter().flatten().skip(1).cloned()).collect();
        process.env = hook.env().clone().unwrap_or_default();
        process.terminal = false;
        process.preserved = 0;
        let timeout = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
        run_inside(container, process, state, timeout)
            .map_err(|failure| Failure::new(Status::Hook, format!("error running startContainer hook #{number} ({path}): {failure}")))?;
    }
    Ok(())
}

fn run_inside(container: &Container, process: Process, state: &State, timeout: Option<Duration>) -> Result<()> {
    let failed = Failure::internal::<std::io::Error>;
    let Some(client) = container.client()? else { return Err(Failure::new(Status::NotRunning, "container not running")) };
    let text = serde_json::to_vec(state).map_err(Failure::internal("cannot encode the state"))?;
    let mut input = memory_file("state").map_err(failed("state"))?;
    input.write_all(&text).and_then(|()| input.rewind()).map_err(failed("state"))?;
    let mut output = memory_file("output").map_err(failed("output"))?;
    let copy = || output.try_clone().map(OwnedFd::from).map_err(failed("output"));
    start(&client, process, &[input.into(), copy()?, copy()?])?;
    let status = match client.receive(timeout)? {
        Event::Exited { wait_status: 0 } => return Ok(()),
        Event::Exited { wait_status } => crate::exit::of_wait_status(wait_status),
        other => return Err(Failure::new(Status::Internal, format!("from the sentry: {other:?}"))),
    };
    let mut said = String::new();
    // What cannot be read is not told.
    let _ = output.rewind().and_then(|()| (&mut output).take(4096).read_to_string(&mut said));
    Err(Failure::new(Status::Hook, format!("exit status {status}, output: {}", said.trim())))
}
