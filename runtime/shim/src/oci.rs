//! An OCI runtime, driven by runc's command line.

use crate::error::{Error, Result};
use crate::options::Options;
use crate::reaper::Reaper;
use serde_json::Value;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use ttrpc::Code;

/// The runtime, with the global flags for one container.
#[derive(Clone, Debug)]
pub struct Oci {
    reaper: Arc<Reaper>,
    program: PathBuf,
    root: PathBuf,
    globals: Vec<String>,
    log: PathBuf,
}

/// Standard streams of a command; `/dev/null` where there is none.
#[derive(Debug, Default)]
pub struct Streams {
    /// Descriptor 0.
    pub stdin: Option<OwnedFd>,
    /// Descriptor 1.
    pub stdout: Option<OwnedFd>,
    /// Descriptor 2.
    pub stderr: Option<OwnedFd>,
}

impl Oci {
    /// The runtime that `options` name, for a container in `bundle`.
    pub fn new(reaper: Arc<Reaper>, options: &Options, namespace: &str, bundle: &Path) -> Oci {
        let log = bundle.join("log.json");
        let root = options.root.join(namespace);
        let mut globals = vec![
            "--root".to_owned(),
            root.display().to_string(),
            "--log".into(),
            log.display().to_string(),
            "--log-format".into(),
            "json".into(),
        ];
        if options.systemd_cgroup {
            globals.push("--systemd-cgroup".into());
        }
        globals.extend(options.flags.iter().cloned());
        Oci { reaper, program: options.program.clone(), root, globals, log }
    }

    /// Its state directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        // Our own file is the shim under its other name.
        command.arg0("caisson");
        command.args(&self.globals).args(args);
        command
    }

    /// Runs a command that gives these streams to a process of the container, and waits for its own end.
    pub fn with_streams(&self, args: &[&str], streams: Streams) -> Result<()> {
        let stream = |fd: Option<OwnedFd>| fd.map_or_else(Stdio::null, Stdio::from);
        let mut command = self.command(args);
        command.stdin(stream(streams.stdin)).stdout(stream(streams.stdout)).stderr(stream(streams.stderr));
        let pid = self.reaper.spawn(&mut command)?;
        // Our copies of the streams: the reader must see their end when the container's are closed.
        drop(command);
        match self.reaper.wait(pid) {
            0 => Ok(()),
            status => Err(self.failure(args, status, "")),
        }
    }

    /// Runs a command, and gives what it prints.
    pub fn output(&self, args: &[&str]) -> Result<Vec<u8>> {
        let (mut reader, writer) = std::io::pipe().map_err(Error::context("pipe"))?;
        let stderr = writer.try_clone().map_err(Error::context("pipe"))?;
        let mut command = self.command(args);
        command.stdin(Stdio::null()).stdout(writer).stderr(stderr);
        let pid = self.reaper.spawn(&mut command)?;
        drop(command);
        let mut printed = Vec::new();
        let read = reader.read_to_end(&mut printed);
        let status = self.reaper.wait(pid);
        if status != 0 {
            return Err(self.failure(args, status, &String::from_utf8_lossy(&printed)));
        }
        read.map_err(Error::context("pipe"))?;
        Ok(printed)
    }

    /// Runs a command that prints nothing.
    pub fn run(&self, args: &[&str]) -> Result<()> {
        self.output(args).map(drop)
    }

    /// The error that the runtime logged last, or printed.
    fn failure(&self, args: &[&str], status: u32, printed: &str) -> Error {
        let logged = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last = logged.lines().rev().find_map(|line| {
            let entry: Value = serde_json::from_str(line).ok()?;
            (entry.get("level")?.as_str()? == "error").then(|| entry.get("msg")?.as_str().map(str::to_owned))?
        });
        let what = last.unwrap_or_else(|| printed.trim().to_owned());
        let verb = args.first().copied().unwrap_or_default();
        let gone = ["process already finished", "container not running", "no such process", "does not exist", "is not running"];
        let code = if gone.iter().any(|text| what.contains(text)) { Code::NOT_FOUND } else { Code::UNKNOWN };
        let what = if what.is_empty() { format!("exit status {status}") } else { what };
        Error::new(code, format!("OCI runtime {verb} failed: {what}"))
    }
}
