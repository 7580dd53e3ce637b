//! How each side runs a program.

use anyhow::{Result, bail};
use caisson_tests_support::bundle::Bundle;
use caisson_tests_support::{Output, Program, binary, process};
use std::path::PathBuf;
use std::process::Command;

/// Runs a program natively, or from a bundle.
pub fn run(side: &str, program: &Program) -> Result<Output> {
    if side == "native" {
        return program.native();
    }
    let bundle = bundle(side, program)?;
    process::run(&mut command(side, &bundle)?, &program.stdin, program.timeout)
}

/// A bundle that the side can run from the tree that is kept: Caisson keeps writes to the root in memory, others would write to it.
pub fn bundle(side: &str, program: &Program) -> Result<Bundle> {
    let bundle = Bundle::new(program, false)?;
    if matches!(side, "runc" | "runsc") {
        let config = bundle.path().join("config.json");
        let text = std::fs::read_to_string(&config)?.replace("\"readonly\": false", "\"readonly\": true");
        std::fs::write(&config, text)?;
    }
    Ok(bundle)
}

/// The side's `run` of a bundle. Output goes through pipes: runsc reopens a standard output that is a file.
pub fn command(side: &str, bundle: &Bundle) -> Result<Command> {
    let mut command = match side {
        "runc" => Command::new("runc"),
        "runsc" => {
            let mut command = Command::new(runsc()?);
            command.args(["--network=none", "--platform=systrap", "--ignore-cgroups"]);
            command
        }
        platform => return bundle.command(platform),
    };
    command.arg("--root").arg(bundle.state()).args(["run", "--bundle"]).arg(bundle.path()).arg(&bundle.id);
    Ok(command)
}

/// `CAISSON_BENCH_RUNSC`, or Debian's package, fetched once.
fn runsc() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CAISSON_BENCH_RUNSC") {
        return Ok(path.into());
    }
    let output = Command::new(binary::workspace().join("bench/get-runsc.sh")).output()?;
    if !output.status.success() {
        bail!("bench/get-runsc.sh: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().into())
}
