//! Hooks: programs of the host that a configuration wants run at certain moments of a container's life, with its state on their
//! standard input.

use super::State;
use crate::exit::{Failure, Result, Status};
use crate::sandbox::memory_file;
use oci_spec::runtime::{Hook, Spec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// When.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The namespaces are there (the name before version 1.0.2).
    Prestart,
    /// The namespaces are there.
    CreateRuntime,
    /// As `CreateRuntime`, and in the container's namespaces.
    CreateContainer,
    /// Before the application starts, inside the container.
    StartContainer,
    /// The application has started.
    Poststart,
    /// The container has been deleted.
    Poststop,
}

impl Moment {
    /// As the configuration calls it.
    pub fn name(self) -> &'static str {
        match self {
            Moment::Prestart => "prestart",
            Moment::CreateRuntime => "createRuntime",
            Moment::CreateContainer => "createContainer",
            Moment::StartContainer => "startContainer",
            Moment::Poststart => "poststart",
            Moment::Poststop => "poststop",
        }
    }

    /// Its hooks, in order.
    #[allow(deprecated, reason = "engines still write prestart hooks")]
    pub fn of(self, spec: &Spec) -> Vec<Hook> {
        let Some(hooks) = spec.hooks() else { return Vec::new() };
        let list = match self {
            Moment::Prestart => hooks.prestart(),
            Moment::CreateRuntime => hooks.create_runtime(),
            Moment::CreateContainer => hooks.create_container(),
            Moment::StartContainer => hooks.start_container(),
            Moment::Poststart => hooks.poststart(),
            Moment::Poststop => hooks.poststop(),
        };
        list.clone().unwrap_or_default()
    }

    /// All of them.
    pub const ALL: [Moment; 6] =
        [Moment::Prestart, Moment::CreateRuntime, Moment::CreateContainer, Moment::StartContainer, Moment::Poststart, Moment::Poststop];
}

/// Runs the hooks of a moment, one after the other, in the caller's namespaces. The first that fails ends it; after a container's
/// end a failure is only logged.
pub fn run(spec: &Spec, moment: Moment, state: &State) -> Result<()> {
    for (number, hook) in moment.of(spec).iter().enumerate() {
        let Err(what) = run_one(hook, state) else { continue };
        let message = format!("error running {} hook #{number} ({}): {what}", moment.name(), hook.path().display());
        if moment != Moment::Poststop {
            return Err(Failure::new(Status::Hook, message));
        }
        tracing::warn!("{message}");
    }
    Ok(())
}

fn run_one(hook: &Hook, state: &State) -> Result<(), String> {
    let text = serde_json::to_vec(state).map_err(|error| error.to_string())?;
    let fail = |error: std::io::Error| error.to_string();
    let mut input = memory_file("state").map_err(fail)?;
    input.write_all(&text).and_then(|()| input.rewind()).map_err(fail)?;
    let mut output = memory_file("output").map_err(fail)?;
    let mut command = Command::new(hook.path());
    let args = hook.args().clone().unwrap_or_default();
    if let Some((name, rest)) = args.split_first() {
        command.arg0(name).args(rest);
    }
    command.env_clear();
    for entry in hook.env().iter().flatten() {
        if let Some((name, value)) = entry.split_once('=') {
            command.env(name, value);
        }
    }
    command.stdin(Stdio::from(input)).stdout(copy(&output)?).stderr(copy(&output)?);
    let mut child = command.spawn().map_err(fail)?;
    let timeout = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
    if !ends_within(&child, timeout) {
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!("it ran for more than {} s", timeout.unwrap_or_default().as_secs()));
    }
    let status = child.wait().map_err(fail)?;
    if status.success() {
        return Ok(());
    }
    let mut said = String::new();
    // What cannot be read is not told.
    let _ = output.rewind().and_then(|()| (&mut output).take(4096).read_to_string(&mut said));
    Err(format!("{status}, output: {}", said.trim()))
}

fn copy(file: &File) -> Result<Stdio, String> {
    file.try_clone().map(Stdio::from).map_err(|error| error.to_string())
}

/// Waits for a child, no longer than `timeout`; whether it has ended.
fn ends_within(child: &Child, timeout: Option<Duration>) -> bool {
    let Some(timeout) = timeout else { return true };
    let deadline = Instant::now() + timeout;
    let pid = Pid::from_raw(child.id().cast_signed());
    let Some(fd) = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else { return true };
    loop {
        let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
        let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        if matches!(poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&left)), Ok(1..)) {
            return true;
        }
    }
}
