//! A further process of a container on the host: in the foreground this process waits for it; in the background a stand-in of its own
//! does, which ends as the process ends, and with which the process ends.

use super::Container;
use super::launch::{end_as, preserved, write_pid};
use crate::console::{self, Proxy};
use crate::exit::{Failure, Result, Status, of_wait_status};
use crate::logging::Log;
use crate::sandbox::{self, Child, Fork, Monitor, Watched};
use control::Process;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// What is to be executed.
#[derive(Debug)]
pub struct Exec<'a> {
    /// Where.
    pub container: &'a Container,
    /// The process.
    pub process: Process,
    /// Where the terminal's master side is sent.
    pub console_socket: Option<PathBuf>,
    /// Where the stand-in's process ID is written.
    pub pid_file: Option<PathBuf>,
    /// Where a descriptor of the stand-in is sent.
    pub pidfd_socket: Option<PathBuf>,
    /// Where log lines go.
    pub log: &'a Log,
}

impl Exec<'_> {
    /// Waits for the process: its exit status.
    pub fn foreground(self) -> Result {
        let signals = sandbox::take_signals()?;
        let (slave, proxy) = if self.process.terminal {
            let (master, slave) = console::open(self.process.console_size)?;
            (Some(slave), Some(Proxy::new(master)?))
        } else {
            (None, None)
        };
        let _entry = self.container.enter_stand_in()?;
        let socket = self.start(slave)?;
        self.announce()?;
        Monitor::new(socket, Watched::Process, signals, proxy, false).until_exit().map(of_wait_status)
    }

    /// Leaves a stand-in behind; returns when the process has started.
    pub fn detached(self) -> Result<()> {
        let (mut report, mut reporter) = io::pipe().map_err(Failure::internal("pipe"))?;
        let parent = std::process::id();
        let pid = match sandbox::fork(0).map_err(Failure::internal("cannot fork"))? {
            Fork::Parent(pid) => pid,
            Fork::Child => {
                drop(report);
                let mut tell = |outcome: &std::result::Result<(), (Status, String)>| {
                    // A verb that was killed reads nothing, and takes this process with it.
                    let _ = serde_json::to_vec(outcome).map(|text| reporter.write_all(&text));
                };
                match self.begin(parent) {
                    Ok((mut monitor, entry)) => {
                        tell(&Ok(()));
                        drop(reporter);
                        let ended = monitor.until_exit();
                        drop((monitor, entry));
                        match ended {
                            Ok(status) => end_as(status),
                            // With the container.
                            Err(_) => sandbox::die_by(libc::SIGKILL),
                        }
                    }
                    Err(failure) => {
                        tell(&Err((failure.status, failure.message)));
                        sandbox::exit_now(Status::Internal as i32)
                    }
                }
            }
        };
        let child = Child::new(pid)?;
        drop(reporter);
        let mut text = Vec::new();
        report.read_to_end(&mut text).map_err(Failure::internal("the stand-in"))?;
        if text.is_empty() {
            return Err(Failure::new(Status::Internal, "the stand-in was killed before the process had started"));
        }
        let outcome: std::result::Result<(), (Status, String)> =
            serde_json::from_slice(&text).map_err(Failure::internal("the stand-in"))?;
        outcome.map_err(|(status, message)| Failure::new(status, message))?;
        child.release();
        Ok(())
    }

    /// In the stand-in: everything up to the moment when the process runs.
    fn begin(&self, parent: u32) -> Result<(Monitor, super::StandInEntry)> {
        set_parent_process_death_signal(Some(Signal::KILL)).map_err(Failure::internal("prctl"))?;
        if getppid().is_none_or(|pid| pid.as_raw_nonzero().get().cast_unsigned() != parent) {
            sandbox::die_by(libc::SIGKILL);
        }
        rustix::process::setsid().map_err(Failure::internal("setsid"))?;
        self.container.record.cgroup.join()?;
        let entry = self.container.enter_stand_in()?;
        let signals = sandbox::take_signals()?;
        let slave = match &self.console_socket {
            Some(socket) => {
                let slave = console::open_and_send(self.process.console_size, socket)?;
                sandbox::take_terminal(&slave).map_err(Failure::context(Status::Console, "the terminal"))?;
                Some(slave)
            }
            None => None,
        };
        let socket = self.start(slave)?;
        self.announce()?;
        crate::title::set(&self.process.args);
        rustix::process::chdir("/").map_err(Failure::internal("chdir"))?;
        self.log.release_streams().map_err(Failure::internal("the standard streams"))?;
        set_parent_process_death_signal(None).map_err(Failure::internal("prctl"))?;
        Ok((Monitor::new(socket, Watched::Process, signals, None, true), entry))
    }

    /// Tells who stands in for the process: this one.
    fn announce(&self) -> Result<()> {
        if let Some(socket) = &self.pidfd_socket {
            console::send_pidfd("setns", socket)?;
        }
        self.pid_file.as_deref().map_or(Ok(()), write_pid)
    }

    /// Starts the process: the connection that it lives with.
    fn start(&self, slave: Option<OwnedFd>) -> Result<OwnedFd> {
        let not_running = || Failure::new(Status::NotRunning, "cannot exec in a stopped container");
        let client = self.container.client()?.ok_or_else(not_running)?;
        let mut streams = match slave {
            Some(slave) => vec![slave],
            None => Vec::from(sandbox::own_streams()?),
        };
        streams.extend(preserved(self.process.preserved)?);
        crate::process::start(&client, self.process.clone(), &streams)?;
        Ok(client.into_socket())
    }
}
