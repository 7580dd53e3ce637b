//! containerd in a machine, driven by `ctr`.

use crate::{Machine, eventually, image};
use anyhow::{Result, bail};
use caisson_tests_support::process::Output;
use std::fs;
use std::process::Child;

/// Which shim and which OCI runtime containers run with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// For names of tests.
    pub name: &'static str,
    /// Caisson's shim, or containerd's own for runc.
    pub own_shim: bool,
    /// Caisson under the shim, or runc.
    pub caisson: bool,
}

/// What is tested; the first is the measure of the others.
pub const RUNTIMES: [Runtime; 4] = [
    Runtime { name: "runc-shim+runc", own_shim: false, caisson: false },
    Runtime { name: "caisson-shim+runc", own_shim: true, caisson: false },
    Runtime { name: "runc-shim+caisson", own_shim: false, caisson: true },
    Runtime { name: "caisson-shim+caisson", own_shim: true, caisson: true },
];

/// A running containerd with the image [`image::BUSYBOX`].
pub struct Containerd {
    /// Where it runs.
    pub machine: Machine,
    /// With which runtime containers are started.
    pub runtime: Runtime,
    daemon: Option<Child>,
}

impl Containerd {
    /// Starts it in a machine of its own.
    pub fn start(runtime: Runtime) -> Result<Containerd> {
        let machine = Machine::new(&["containerd", "ctr", "runc"])?;
        let config = format!(
            "version = 2\nroot = {:?}\nstate = \"/run/containerd\"\noom_score = 0\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"/run/containerd/containerd.sock\"\n",
            machine.path("containerd")
        );
        fs::write(machine.path("containerd.toml"), config)?;
        let program = if runtime.caisson { machine.path("bin/caisson") } else { "/usr/sbin/runc".into() };
        fs::write(machine.path("shim.toml"), format!("binary_name = {program:?}\n"))?;
        let mut containerd = Containerd { machine, runtime, daemon: None };
        containerd.launch()?;
        let image = image::busybox(&containerd.machine.path(""))?;
        containerd.ctr(&["image", "import", &image.display().to_string()])?;
        Ok(containerd)
    }

    /// Starts the daemon, also again.
    pub fn launch(&mut self) -> Result<()> {
        let config = self.machine.path("containerd.toml").display().to_string();
        self.daemon = Some(self.machine.daemon("containerd", &["containerd", "--config", &config])?);
        let up = eventually(60, || (self.machine.run(&["ctr", "version"]).ok()?.status == 0).then_some(()));
        if up.is_none() {
            bail!("containerd does not start on this host:\n{}", self.machine.log("containerd.log"));
        }
        Ok(())
    }

    /// SIGKILL to the daemon alone.
    pub fn kill(&mut self) -> Result<()> {
        let pids = self.machine.processes("containerd --config");
        for pid in pids {
            std::process::Command::new("kill").args(["-9", &pid.to_string()]).status()?;
        }
        if let Some(mut daemon) = self.daemon.take() {
            daemon.wait()?;
        }
        Ok(())
    }

    /// `ctr ARGS`, which must succeed: what it prints.
    pub fn ctr(&self, args: &[&str]) -> Result<String> {
        let output = self.try_ctr(args)?;
        if output.status != 0 {
            bail!("ctr {args:?}: {output}\n{}", self.machine.log("containerd.log"));
        }
        Ok(output.text())
    }

    /// `ctr ARGS`.
    pub fn try_ctr(&self, args: &[&str]) -> Result<Output> {
        self.machine.run(&[&["ctr"], args].concat())
    }

    /// The words of `ctr run FLAGS IMAGE ID COMMAND`.
    pub fn run_args(&self, flags: &[&str], id: &str, command: &[&str]) -> Vec<String> {
        let mut args = vec!["ctr".to_owned(), "run".into()];
        args.extend(self.runtime_flags());
        args.extend(flags.iter().map(|&flag| flag.to_owned()));
        args.extend([image::BUSYBOX.to_owned(), id.to_owned()]);
        args.extend(command.iter().map(|&word| word.to_owned()));
        args
    }

    fn runtime_flags(&self) -> Vec<String> {
        let words: Vec<String> = match (self.runtime.own_shim, self.runtime.caisson) {
            (false, false) => vec!["--runtime".into(), "io.containerd.runc.v2".into()],
            (false, true) => vec![
                "--runtime".into(),
                "io.containerd.runc.v2".into(),
                "--runc-binary".into(),
                self.machine.path("bin/caisson").display().to_string(),
            ],
            (true, false) => vec![
                "--runtime".into(),
                "io.containerd.caisson.v1".into(),
                "--runtime-config-path".into(),
                self.machine.path("shim.toml").display().to_string(),
            ],
            (true, true) => vec!["--runtime".into(), "io.containerd.caisson.v1".into()],
        };
        words
    }

    /// `ctr run`.
    pub fn run(&self, flags: &[&str], id: &str, command: &[&str]) -> Result<Output> {
        let args = self.run_args(flags, id, command);
        self.machine.run(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// `ctr run`, which must succeed.
    pub fn run_ok(&self, flags: &[&str], id: &str, command: &[&str]) -> Result<String> {
        let output = self.run(flags, id, command)?;
        if output.status != 0 {
            bail!("ctr run {command:?}: {output}\n{}", self.machine.log("containerd.log"));
        }
        Ok(output.text())
    }

    /// The state of a task as `ctr task ls` tells it.
    pub fn state(&self, id: &str) -> Result<Option<String>> {
        let list = self.ctr(&["task", "ls"])?;
        Ok(list.lines().find_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            (words.first() == Some(&id)).then(|| words.get(2).map(|word| (*word).to_owned()))?
        }))
    }

    /// Waits for a state of a task.
    pub fn wait_state(&self, id: &str, wanted: &str) -> Result<()> {
        let mut last = None;
        let found = eventually(60, || {
            last = self.state(id).ok().flatten();
            (last.as_deref() == Some(wanted)).then_some(())
        });
        if found.is_none() {
            bail!("task {id} is {last:?}, not {wanted}\n{}", self.machine.log("containerd.log"));
        }
        Ok(())
    }
}
