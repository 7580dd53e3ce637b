//! One container: its first process, what is executed in it, and the OCI runtime's verbs on it.

use crate::console::Socket;
use crate::error::{Error, Result};
use crate::oci::Oci;
use crate::oom::{Kills, KillsOf};
use crate::process::{Phase, Process};
use crate::stdio;
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A container.
#[derive(Debug)]
pub struct Container {
    /// As containerd calls it.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Its first process.
    pub init: Arc<Process>,
    oci: Oci,
    io_owner: (u32, u32),
    /// Its processes do not end with the first: there is no PID namespace of its own.
    shares_processes: bool,
    execs: Mutex<HashMap<String, Arc<Process>>>,
}

impl Container {
    /// One that does not exist yet: see [`create`](Self::create).
    pub fn new(id: &str, bundle: &Path, oci: Oci, init: Process, io_owner: (u32, u32)) -> Container {
        Container {
            id: id.into(),
            bundle: bundle.into(),
            init: Arc::new(init),
            oci,
            io_owner,
            shares_processes: shares_processes(bundle),
            execs: Mutex::default(),
        }
    }

    /// Runs `create`: then the container exists, and its first process is ready to start.
    pub fn create(&self) -> Result<()> {
        let bundle = self.bundle.display().to_string();
        self.launch(&self.init, |pid_file, extra| {
            let mut args = vec!["create", "--bundle", &bundle, "--pid-file", pid_file];
            args.extend(extra);
            args.push(&self.id);
            args.into_iter().map(str::to_owned).collect()
        })?;
        self.init.set_phase(Phase::Created);
        Ok(())
    }

    /// Starts the first process, or one announced by `Exec`.
    pub fn start(&self, process: &Arc<Process>) -> Result<()> {
        if process.exec_id.is_empty() {
            if process.phase() != Phase::Created {
                return Err(Error::precondition("the container is not in the state created"));
            }
            self.oci.run(&["start", &self.id])?;
        } else {
            if process.phase() != Phase::Added {
                return Err(Error::precondition("the process has been started already"));
            }
            let spec = self.scratch("process.json");
            std::fs::write(&spec, &process.spec).map_err(Error::context(spec.display()))?;
            let file = spec.display().to_string();
            let done = self.launch(process, |pid_file, extra| {
                let mut args = vec!["exec", "--process", &file, "--pid-file", pid_file, "--detach"];
                args.extend(extra);
                args.push(&self.id);
                args.into_iter().map(str::to_owned).collect()
            });
            let _ = std::fs::remove_file(&spec);
            done?;
        }
        process.set_phase(Phase::Running);
        Ok(())
    }

    /// Runs a command that makes a process, with its streams; afterwards the process has its PID.
    fn launch(&self, process: &Process, args: impl FnOnce(&str, &[&str]) -> Vec<String>) -> Result<()> {
        let pid_file = self.scratch("pid");
        let pid_name = pid_file.display().to_string();
        let run = |args: Vec<String>, streams| {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            self.oci.with_streams(&args, streams)
        };
        let io = if process.paths.terminal {
            let socket = Socket::new()?;
            let path = socket.path().display().to_string();
            run(args(&pid_name, &["--console-socket", &path]), Default::default())?;
            stdio::terminal(&process.paths, socket.receive()?)?
        } else {
            let (streams, io) = stdio::plain(&process.paths, self.io_owner)?;
            run(args(&pid_name, &[]), streams)?;
            io
        };
        process.io().open(io);
        let pid = std::fs::read_to_string(&pid_file).map_err(Error::context(&pid_name))?;
        let _ = std::fs::remove_file(&pid_file);
        process.set_pid(pid.trim().parse().map_err(Error::context(&pid_name))?);
        Ok(())
    }

    /// A file in the bundle that is used once.
    fn scratch(&self, name: &str) -> PathBuf {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        self.bundle.join(format!(".shim-{}-{name}", COUNT.fetch_add(1, Ordering::Relaxed)))
    }

    /// The first process, or the one with this name.
    pub fn process(&self, exec_id: &str) -> Result<Arc<Process>> {
        if exec_id.is_empty() {
            return Ok(self.init.clone());
        }
        let execs = self.execs.lock().unwrap_or_else(PoisonError::into_inner);
        execs.get(exec_id).cloned().ok_or_else(|| Error::not_found(format!("there is no process {exec_id} in container {}", self.id)))
    }

    /// Announces a process.
    pub fn add(&self, process: Process) -> Result<()> {
        let mut execs = self.execs.lock().unwrap_or_else(PoisonError::into_inner);
        if execs.contains_key(&process.exec_id) {
            return Err(Error::new(ttrpc::Code::ALREADY_EXISTS, format!("process {} exists already", process.exec_id)));
        }
        execs.insert(process.exec_id.clone(), Arc::new(process));
        Ok(())
    }

    /// Forgets a process.
    pub fn remove(&self, exec_id: &str) {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner).remove(exec_id);
    }

    /// The processes executed in it that have a PID: PID and name.
    pub fn exec_pids(&self) -> Vec<(u32, String)> {
        let execs = self.execs.lock().unwrap_or_else(PoisonError::into_inner);
        execs.values().filter(|p| p.pid() > 0).map(|p| (p.wire_pid(), p.exec_id.clone())).collect()
    }

    /// Sends a signal to the first process, or to all.
    pub fn kill(&self, signal: u32, all: bool) -> Result<()> {
        let signal = signal.to_string();
        let mut args = vec!["kill"];
        if all {
            args.push("--all");
        }
        args.extend([self.id.as_str(), &signal]);
        self.oci.run(&args)
    }

    /// After the end of the first process: the others follow it, as they do by themselves in a PID namespace.
    pub fn kill_rest(&self) {
        if self.shares_processes
            && let Err(error) = self.kill(9, true)
        {
            crate::log::debug(format!("{}: {error}", self.id));
        }
    }

    /// Stops all processes.
    pub fn pause(&self) -> Result<()> {
        self.oci.run(&["pause", &self.id])?;
        self.init.set_phase(Phase::Paused);
        Ok(())
    }

    /// Lets them go on.
    pub fn resume(&self) -> Result<()> {
        self.oci.run(&["resume", &self.id])?;
        self.init.set_phase(Phase::Running);
        Ok(())
    }

    /// Changes limits: `linux.resources` as JSON.
    pub fn update(&self, resources: &[u8]) -> Result<()> {
        let file = self.scratch("resources.json");
        std::fs::write(&file, resources).map_err(Error::context(file.display()))?;
        let done = self.oci.run(&["update", "--resources", &file.display().to_string(), &self.id]);
        let _ = std::fs::remove_file(&file);
        done
    }

    /// The host's process IDs.
    pub fn pids(&self) -> Result<Vec<u32>> {
        let printed = self.oci.output(&["ps", "--format", "json", &self.id])?;
        // runc prints null for none.
        let pids: Option<Vec<u32>> = serde_json::from_slice(&printed).map_err(Error::context("ps"))?;
        Ok(pids.unwrap_or_default())
    }

    /// What `events --stats` prints.
    pub fn stats(&self) -> Result<Vec<u8>> {
        self.oci.output(&["events", "--stats", &self.id])
    }

    /// What the runtime kills in it.
    pub fn kills(&self, kills_of: KillsOf) -> Option<Kills> {
        kills_of(self.oci.root(), &self.id)
    }

    /// Removes it: its state, what is left of its processes, and its root's mounts.
    pub fn delete(&self) -> Result<()> {
        let done = self.oci.run(&["delete", "--force", &self.id]);
        crate::mount::undo(&self.bundle.join("rootfs"));
        match done {
            Err(error) if error.code == ttrpc::Code::NOT_FOUND => Ok(()),
            other => other,
        }
    }
}

/// Whether config.json gives the container no PID namespace of its own.
fn shares_processes(bundle: &Path) -> bool {
    let Some(config) = std::fs::read(bundle.join("config.json")).ok().and_then(|t| serde_json::from_slice::<Value>(&t).ok()) else {
        return false;
    };
    let namespaces = config.pointer("/linux/namespaces").and_then(Value::as_array);
    let own = |namespace: &Value| {
        let kind = namespace.get("type").and_then(Value::as_str);
        let path = namespace.get("path").and_then(Value::as_str).unwrap_or_default();
        kind == Some("pid") && path.is_empty()
    };
    !namespaces.is_some_and(|list| list.iter().any(own))
}

/// Sends a signal to one process of the host.
pub fn signal(process: &Process, signal: u32) -> Result<()> {
    process.alive()?;
    let pid = rustix::process::Pid::from_raw(process.pid()).ok_or_else(|| Error::not_found("the process has no PID"))?;
    let signal = i32::try_from(signal)
        .ok()
        .and_then(rustix::process::Signal::from_named_raw)
        .ok_or_else(|| Error::invalid(format!("signal {signal} cannot be sent to an executed process")))?;
    match rustix::process::kill_process(pid, signal) {
        Err(rustix::io::Errno::SRCH) => Err(Error::not_found("process already finished")),
        other => other.map_err(Error::context("kill")),
    }
}
