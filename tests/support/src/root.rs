//! The trees that programs run in: a Debian 12, made once and kept, and a bare one around a single static program.

use anyhow::{Context, Result, bail};
use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The release that tests run.
const SUITE: &str = "bookworm";

/// What the tests need besides Debian's smallest set. Adding a name makes a new root.
const PACKAGES: &[&str] = &[
    "python3",
    "libpython3.11-testsuite",
    "netbase",
    "perl",
    "gcc",
    "libc6-dev",
    "make",
    "git",
    "sqlite3",
    "tar",
    "xz-utils",
    "procps",
    "coreutils",
    "findutils",
    "rsync",
    "strace",
    "gdb",
];

/// The Debian root of the tests.
pub fn debian() -> Result<&'static Path> {
    static ROOT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match ROOT.get_or_init(|| debian_with(&[]).map_err(|e| format!("{e:#}"))) {
        Ok(path) => Ok(path),
        Err(e) => bail!("no Debian root: {e}"),
    }
}

/// A Debian root with further packages, made with mmdebstrap where it is not there yet.
pub fn debian_with(more: &[&str]) -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("CAISSON_TEST_DEBIAN") {
        return Ok(given.into());
    }
    cached(&PACKAGES.iter().chain(more).copied().collect::<Vec<_>>(), &[])
}

/// A Debian root as images have it: the smallest set, these packages, and no manuals.
pub fn debian_image(packages: &[&str]) -> Result<PathBuf> {
    let left_out = ["man", "doc", "locale", "info"].map(|name| format!("--dpkgopt=path-exclude=/usr/share/{name}/*"));
    cached(packages, &left_out)
}

fn cached(packages: &[&str], options: &[String]) -> Result<PathBuf> {
    let mut hash = DefaultHasher::new();
    (SUITE, packages).hash(&mut hash);
    if !options.is_empty() {
        options.hash(&mut hash);
    }
    let cache = cache()?;
    let root = cache.join(format!("{SUITE}-{:016x}", hash.finish()));
    // Two test programs may come here at once: the second waits for the first.
    let lock = File::create(cache.join("lock"))?;
    lock.lock()?;
    if !root.join("etc/debian_version").exists() {
        make(&root, packages, options)?;
    }
    Ok(root)
}

/// Where roots are kept: outside the source tree, so that a clean build keeps them.
fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir),
        _ => PathBuf::from(std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?).join(".cache"),
    };
    let dir = base.join("caisson");
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    Ok(dir)
}

fn make(root: &Path, packages: &[&str], options: &[String]) -> Result<()> {
    let partial = root.with_extension(format!("partial-{}", std::process::id()));
    let remove = |dir: &Path| {
        let _ = fs::remove_dir_all(dir);
    };
    remove(&partial);
    eprintln!("making a Debian root in {} (once, about a minute)", root.display());
    let status = Command::new("mmdebstrap")
        .args(["--quiet", "--mode=root", "--variant=minbase"])
        .arg(format!("--include={}", packages.join(",")))
        .args(options)
        .arg(SUITE)
        .arg(&partial)
        .args(sources())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context("mmdebstrap (apt-get install mmdebstrap)")?;
    if !status.success() {
        remove(&partial);
        bail!("mmdebstrap: {status}");
    }
    // Device nodes are the runtime's business.
    remove(&partial.join("dev"));
    fs::create_dir(partial.join("dev"))?;
    fs::create_dir_all(partial.join("vol"))?;
    remove(root);
    fs::rename(&partial, root)?;
    Ok(())
}

/// The machine's own sources of the release, where it has any: mmdebstrap's defaults otherwise.
fn sources() -> Vec<PathBuf> {
    let lists = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|e| e.path());
    let all = [PathBuf::from("/etc/apt/sources.list")].into_iter().chain(lists);
    all.filter(|path| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let debian = path.ends_with("debian.sources") || path.ends_with("sources.list");
        debian && text.lines().any(|line| !line.starts_with('#') && line.split_whitespace().any(|word| word == SUITE))
    })
    .collect()
}

/// A tree in `dir` that holds `program` as `/bin/NAME` and nothing else but what every program expects.
pub fn bare(dir: &Path, program: &Path, name: &str) -> Result<()> {
    for sub in ["bin", "dev", "etc", "proc", "root", "sys", "tmp", "vol"] {
        fs::create_dir_all(dir.join(sub))?;
    }
    fs::copy(program, dir.join("bin").join(name)).with_context(|| program.display().to_string())?;
    fs::write(dir.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n")?;
    fs::write(dir.join("etc/group"), "root:x:0:\nuser:x:1000:\n")?;
    if !dir.join("etc/mtab").exists() {
        symlink("/proc/mounts", dir.join("etc/mtab"))?;
    }
    Ok(())
}
