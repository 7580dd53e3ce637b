//! `caisson spec`: writes a `config.json` to start from.

use crate::exit::{Failure, Result, Status};
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

/// Flags of `caisson spec`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory to write it to
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
}

/// Writes the file; one that exists is left alone. With `rootless` it is for a user without privileges, who becomes root inside.
pub fn main(args: &Args, rootless: bool) -> Result {
    let path = args.bundle.join("config.json");
    let mut file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => Failure::new(Status::ConfigExists, format!("{} exists already; remove it first", path.display())),
        ErrorKind::NotFound => Failure::new(Status::NoBundle, format!("the bundle directory {} does not exist", args.bundle.display())),
        _ => Failure::new(Status::Output, format!("cannot write {}: {error}", path.display())),
    })?;
    let text = if rootless { for_this_user()? } else { crate::spec::DEFAULT_CONFIG.to_owned() };
    file.write_all(text.as_bytes()).map_err(Failure::context(Status::Output, format_args!("cannot write {}", path.display())))?;
    Ok(0)
}

/// The configuration as runc changes it for its caller: mapped to root, in the host's network, without what only root may ask for.
fn for_this_user() -> Result<String> {
    let mut config: Value = serde_json::from_str(crate::spec::DEFAULT_CONFIG).map_err(Failure::internal("the configuration"))?;
    for mount in config["mounts"].as_array_mut().into_iter().flatten() {
        if let Some(options) = mount.get_mut("options").and_then(Value::as_array_mut) {
            // Of no other group there is a mapping.
            options.retain(|option| !option.as_str().is_some_and(|text| text.starts_with("gid=")));
        }
        if mount["type"] == "sysfs" {
            *mount = json!({
                "destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", "nosuid", "noexec", "nodev", "ro"],
            });
        }
    }
    let linux = &mut config["linux"];
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({"type": "user"}));
    }
    let mapped = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
    linux["uidMappings"] = mapped(rustix::process::geteuid().as_raw());
    linux["gidMappings"] = mapped(rustix::process::getegid().as_raw());
    linux.as_object_mut().map(|linux| linux.remove("resources"));
    let mut text = serde_json::to_string_pretty(&config).map_err(Failure::internal("the configuration"))?;
    text.push('\n');
    Ok(text)
}
