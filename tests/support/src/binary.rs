//! The binary under test.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Path of `caisson`: `CAISSON_BIN`, or the one of this workspace in the profile that the tests were built in, brought up to
/// date once per test program.
pub fn caisson() -> Result<&'static Path> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match BINARY.get_or_init(|| find().map_err(|e| format!("{e:#}"))) {
        Ok(path) => Ok(path),
        Err(e) => bail!("no binary to test: {e}"),
    }
}

fn find() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("CAISSON_BIN") {
        return Ok(PathBuf::from(given).canonicalize()?);
    }
    let profile = profile()?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", "caisson", "--manifest-path"]);
    cargo.arg(workspace().join("Cargo.toml"));
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    // The runner of tests has set variables for its own package; the build must not see them as changes.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" {
            cargo.env_remove(name);
        }
    }
    let status = cargo.status().context("cargo")?;
    if !status.success() {
        bail!("cargo build --package caisson: {status}");
    }
    Ok(profile.join("caisson").canonicalize()?)
}

/// Where the build put this program's profile: a test program is PROFILE/deps/NAME-HASH, a program PROFILE/NAME.
pub fn profile() -> Result<PathBuf> {
    let me = std::env::current_exe()?;
    let dir = me.parent().context("the program has no directory")?;
    let dir = if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir };
    Ok(dir.to_path_buf())
}

/// The workspace's directory.
pub fn workspace() -> PathBuf {
    let mut dir = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    dir.pop();
    dir.pop();
    dir
}

/// A directory for what a test run writes, on the disk of the build: it outlives no run and is shared by nobody.
pub fn scratch(name: &str) -> Result<PathBuf> {
    let dir = profile()?.join("test-scratch").join(format!("{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    Ok(dir)
}
