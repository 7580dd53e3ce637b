//! dockerd in a machine, driven by `docker`.

use crate::{Machine, eventually, image, services};
use anyhow::{Result, bail, ensure};
use caisson_tests_support::process::Output;
use serde_json::{Value, json};
use std::fs;

/// The programs that it takes.
const NEEDS: &[&str] = &["dockerd", "docker", "containerd", "runc", "iptables"];

/// A running dockerd with the image [`image::BUSYBOX`].
pub struct Docker {
    /// Where it runs.
    pub machine: Machine,
    /// `runc` or `caisson`.
    pub runtime: &'static str,
}

impl Docker {
    /// Starts it in a machine of its own.
    pub fn start(runtime: &'static str) -> Result<Docker> {
        Docker::start_with(runtime, None)
    }

    /// The same; `runsc` is a further runtime.
    pub fn start_with(runtime: &'static str, runsc: Option<&str>) -> Result<Docker> {
        let runtimes = runsc.map(|runsc| json!({"runsc": {"path": runsc}}));
        Docker::start_in(Machine::new(NEEDS)?, runtime, runtimes.map(|value| ("runtimes", value)))
    }

    /// The same on a host where systemd makes the control groups.
    pub fn start_with_systemd(runtime: &'static str) -> Result<Docker> {
        let driver = json!(["native.cgroupdriver=systemd"]);
        Docker::start_in(Machine::with_systemd(NEEDS)?, runtime, Some(("exec-opts", driver)))
    }

    fn start_in(machine: Machine, runtime: &'static str, more: Option<(&str, Value)>) -> Result<Docker> {
        let mut config = json!({
            "data-root": machine.path("docker"),
            "exec-root": "/run/docker",
            "pidfile": "/run/docker.pid",
            "hosts": ["unix:///run/docker.sock"],
            "storage-driver": "overlay2",
            "default-runtime": runtime,
            // Lowering a process's OOM score needs a capability that the host of the tests may lack.
            "oom-score-adjust": 0,
        });
        if let Some((name, value)) = more {
            config[name] = value;
        }
        fs::write(machine.path("daemon.json"), config.to_string())?;
        let file = machine.path("daemon.json").display().to_string();
        machine.ok(&["caisson", "install", "--docker", "--config", &file])?;
        let daemon = machine.daemon("dockerd", &["dockerd", "--config-file", &file])?;
        // It ends with the machine.
        drop(daemon);
        let docker = Docker { machine, runtime };
        let up = eventually(90, || (docker.run(&["version"]).ok()?.status == 0).then_some(()));
        if up.is_none() {
            bail!("dockerd does not start on this host:\n{}", docker.machine.log("dockerd.log"));
        }
        let image = image::busybox(&docker.machine.path(""))?;
        docker.ok(&["load", "--quiet", "--input", &image.display().to_string()])?;
        Ok(docker)
    }

    /// Makes an image of a service: see [`services`].
    pub fn build(&self, name: &str) -> Result<()> {
        let context = services::context(&self.machine, name)?.display().to_string();
        // The classic builder runs its steps as containers of the default runtime.
        let words = ["env", "DOCKER_BUILDKIT=0", "docker", "--host", "unix:///run/docker.sock", "build", "-t", name, &context];
        let output = self.machine.run_long(&words)?;
        ensure!(output.status == 0, "{output}");
        Ok(())
    }

    fn words<'a>(&self, args: &[&'a str]) -> Vec<&'a str> {
        [&["docker", "--host", "unix:///run/docker.sock"], args].concat()
    }

    /// `docker ARGS`.
    pub fn run(&self, args: &[&str]) -> Result<Output> {
        self.machine.run(&self.words(args))
    }

    /// `docker ARGS` with these bytes on its standard input.
    pub fn run_with(&self, args: &[&str], stdin: &[u8]) -> Result<Output> {
        self.machine.run_with(&self.words(args), stdin)
    }

    /// `docker ARGS`, which must succeed: what it prints.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        let output = self.run(args)?;
        if output.status != 0 {
            bail!("docker {args:?}: {output}\n{}", self.machine.log("dockerd.log"));
        }
        Ok(output.text())
    }

    /// A field of `docker inspect`, as a Go template.
    pub fn inspect(&self, id: &str, field: &str) -> Result<String> {
        Ok(self.ok(&["inspect", "--format", &format!("{{{{{field}}}}}"), id])?.trim().to_owned())
    }

    /// Waits until a field has a value.
    pub fn wait_for(&self, id: &str, field: &str, value: &str) -> Result<()> {
        let mut last = String::new();
        let found = eventually(60, || {
            last = self.inspect(id, field).unwrap_or_default();
            (last == value).then_some(())
        });
        match found {
            Some(()) => Ok(()),
            None => bail!("{field} of {id} is {last:?}, not {value:?}\n{}", self.machine.log("dockerd.log")),
        }
    }
}
