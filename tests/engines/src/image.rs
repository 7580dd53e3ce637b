//! Images without a registry: an archive that is an OCI layout and a docker-archive at once, so that every engine can load it.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The name of [`busybox`].
pub const BUSYBOX: &str = "localhost/busybox:latest";

/// What an image says about how it is run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name and tag.
    pub name: &'static str,
    /// `Cmd`.
    pub command: Vec<&'static str>,
    /// `Entrypoint`.
    pub entrypoint: Vec<&'static str>,
    /// `User`.
    pub user: &'static str,
    /// `WorkingDir`.
    pub directory: &'static str,
}

/// Makes the archive of a small image in `dir`: busybox under all its names, and a user called `user`.
pub fn busybox(dir: &Path) -> Result<PathBuf> {
    let root = dir.join("busybox-root");
    for sub in ["bin", "dev", "etc", "home/user", "proc", "root", "sys", "tmp", "usr", "var", "work"] {
        fs::create_dir_all(root.join(sub))?;
    }
    let program = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new).into_iter().find(|path| path.exists());
    let program = program.context("busybox is not installed (package busybox-static); ./test installs it")?;
    fs::copy(program, root.join("bin/busybox"))?;
    let names = Command::new(program).arg("--list").output().context("busybox --list")?.stdout;
    for name in String::from_utf8_lossy(&names).lines() {
        if name != "busybox" {
            symlink("busybox", root.join("bin").join(name))?;
        }
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\nuser:x:1000:\nextra:x:1234:user\n")?;
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n")?;
    run("chown", &["-R", "1000:1000", &text(&root.join("home/user"))])?;
    run("chmod", &["1777", &text(&root.join("tmp"))])?;
    let config = Config { name: BUSYBOX, command: vec!["/bin/sh"], entrypoint: Vec::new(), user: "", directory: "/" };
    archive(dir, &root, &config)
}

/// Makes the archive of an image with one layer.
pub fn archive(dir: &Path, root: &Path, config: &Config) -> Result<PathBuf> {
    let layout = dir.join("layout");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let layer = layout.join("layer.tar");
    run("tar", &["--numeric-owner", "--sort=name", "-C", &text(root), "-cf", &text(&layer), "."])?;
    let (layer, layer_size) = store(&blobs, &layer)?;
    let put = |value: &Value| -> Result<(String, u64)> {
        let file = layout.join("blob.json");
        fs::write(&file, serde_json::to_vec(value)?)?;
        store(&blobs, &file)
    };
    let (config_digest, config_size) = put(&json!({
        "architecture": "amd64", "os": "linux",
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Cmd": config.command, "Entrypoint": config.entrypoint, "User": config.user, "WorkingDir": config.directory,
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]},
        "history": [{"created_by": "tests"}],
    }))?;
    let (manifest, manifest_size) = put(&json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": format!("sha256:{config_digest}"), "size": config_size,
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": format!("sha256:{layer}"), "size": layer_size,
        }],
    }))?;
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": format!("sha256:{manifest}"), "size": manifest_size,
            "annotations": {"io.containerd.image.name": config.name, "org.opencontainers.image.ref.name": "latest"},
        }],
    });
    fs::write(layout.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let docker = json!([{
        "Config": format!("blobs/sha256/{config_digest}"), "RepoTags": [config.name],
        "Layers": [format!("blobs/sha256/{layer}")],
    }]);
    fs::write(layout.join("manifest.json"), serde_json::to_vec(&docker)?)?;
    let file = dir.join("image.tar");
    run("tar", &["-C", &text(&layout), "-cf", &text(&file), "oci-layout", "index.json", "manifest.json", "blobs"])?;
    fs::remove_dir_all(&layout)?;
    Ok(file)
}

/// Moves a file among the blobs: its digest and size.
fn store(blobs: &Path, file: &Path) -> Result<(String, u64)> {
    let printed = Command::new("sha256sum").arg(file).output().context("sha256sum")?.stdout;
    let digest = String::from_utf8_lossy(&printed).split_whitespace().next().context("sha256sum")?.to_owned();
    let size = fs::metadata(file)?.len();
    fs::rename(file, blobs.join(&digest))?;
    Ok((digest, size))
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program).args(args).output().with_context(|| program.to_owned())?;
    if !output.status.success() {
        bail!("{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
