//! podman in a machine. There is no daemon; conmon waits for the containers.

use crate::{Machine, image};
use anyhow::{Result, bail};
use caisson_tests_support::process::Output;
use std::fs;

/// The programs that it takes.
const NEEDS: &[&str] = &["podman", "conmon", "runc"];

/// podman with storage of its own and the image [`image::BUSYBOX`].
pub struct Podman {
    /// Where it runs.
    pub machine: Machine,
    /// Whether containers run with Caisson, or with runc.
    pub caisson: bool,
}

impl Podman {
    /// Prepares it in a machine of its own.
    pub fn start(caisson: bool) -> Result<Podman> {
        Podman::start_in(Machine::new(NEEDS)?, caisson, "cgroupfs")
    }

    /// The same on a host where systemd makes the control groups.
    pub fn start_with_systemd(caisson: bool) -> Result<Podman> {
        Podman::start_in(Machine::with_systemd(NEEDS)?, caisson, "systemd")
    }

    fn start_in(machine: Machine, caisson: bool, manager: &str) -> Result<Podman> {
        let config = format!("[engine]\nevents_logger = \"file\"\ncgroup_manager = {manager:?}\n[containers]\nlog_driver = \"k8s-file\"\n");
        fs::write(machine.path("containers.conf"), config)?;
        let storage = format!("[storage]\ndriver = \"overlay\"\ngraphroot = {:?}\nrunroot = \"/run/podman\"\n", machine.path("podman"));
        fs::write(machine.path("storage.conf"), storage)?;
        let podman = Podman { machine, caisson };
        let image = image::busybox(&podman.machine.path(""))?;
        podman.ok(&["load", "--quiet", "--input", &image.display().to_string()])?;
        Ok(podman)
    }

    /// The words of `podman ARGS`.
    pub fn words(&self, args: &[&str]) -> Vec<String> {
        let file = |name: &str| self.machine.path(name).display().to_string();
        let mut words = vec![
            "env".to_owned(),
            format!("CONTAINERS_CONF={}", file("containers.conf")),
            format!("CONTAINERS_STORAGE_CONF={}", file("storage.conf")),
            "podman".into(),
            "--runtime".into(),
            if self.caisson { file("bin/caisson") } else { "/usr/sbin/runc".into() },
        ];
        if self.caisson {
            words.extend(["--runtime-flag".to_owned(), "overlay=none".into()]);
        }
        words.extend(args.iter().map(|&word| word.to_owned()));
        words
    }

    /// `podman ARGS`.
    pub fn run(&self, args: &[&str]) -> Result<Output> {
        self.run_with(args, b"")
    }

    /// `podman ARGS` with these bytes on its standard input.
    pub fn run_with(&self, args: &[&str], stdin: &[u8]) -> Result<Output> {
        let words = self.words(args);
        self.machine.run_with(&words.iter().map(String::as_str).collect::<Vec<_>>(), stdin)
    }

    /// `podman ARGS`, which must succeed: what it prints.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        let output = self.run(args)?;
        if output.status != 0 {
            bail!("podman {args:?}: {output}");
        }
        Ok(output.text())
    }
}
