//! What can be set for a runtime handler.
//!
//! containerd passes options with each container: `containerd.runc.v1.Options`, as for runc's own shim (`BinaryName`, `Root`,
//! `SystemdCgroup`), or `runtimeoptions.v1.Options`, which name a TOML file (`ConfigPath`) or carry its text:
//!
//! ```toml
//! binary_name = "/usr/local/bin/caisson"   # default: this very program
//! root = "/run/containerd/caisson"         # where the runtime keeps its state
//! systemd_cgroup = false
//! [runtime_flags]                          # global flags of the runtime
//! platform = "trap"
//! debug = true
//! ```

use crate::error::{Error, Result};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::rt::WireType;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{self, CodedInputStream};
use containerd_shim_protos::shim::oci::Options as RuncOptions;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where they are kept in the bundle, for whoever must clean up after a killed shim.
const FILE: &str = "caisson-shim.json";

/// Everything that can be set, in its final form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// The OCI runtime.
    pub program: PathBuf,
    /// `--root`, without containerd's namespace.
    pub root: PathBuf,
    /// `--systemd-cgroup`.
    pub systemd_cgroup: bool,
    /// Further global flags.
    pub flags: Vec<String>,
    /// Owner of pipes that the shim makes.
    pub io_uid: u32,
    /// Their group.
    pub io_gid: u32,
}

/// The TOML file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    binary_name: String,
    root: String,
    systemd_cgroup: bool,
    runtime_flags: BTreeMap<String, toml::Value>,
}

impl Options {
    /// The defaults.
    pub fn new() -> Result<Options> {
        Ok(Options {
            program: std::env::current_exe().map_err(Error::context("/proc/self/exe"))?,
            root: "/run/containerd/caisson".into(),
            systemd_cgroup: false,
            flags: Vec::new(),
            io_uid: 0,
            io_gid: 0,
        })
    }

    /// What containerd sent.
    pub fn from_any(any: Option<&Any>) -> Result<Options> {
        let mut options = Options::new()?;
        let Some(any) = any.filter(|any| !any.type_url.is_empty()) else { return Ok(options) };
        match any.type_url.rsplit('/').next() {
            Some("containerd.runc.v1.Options") => {
                let runc = RuncOptions::parse_from_bytes(&any.value).map_err(Error::context("runtime options"))?;
                options.set(&runc.binary_name, &runc.root);
                options.systemd_cgroup = runc.systemd_cgroup;
                (options.io_uid, options.io_gid) = (runc.io_uid, runc.io_gid);
            }
            Some("runtimeoptions.v1.Options" | "cri.runtimeoptions.v1.Options") => {
                let (path, body) = config_path_and_body(&any.value).map_err(Error::context("runtime options"))?;
                if !path.is_empty() {
                    let text = std::fs::read_to_string(&path).map_err(Error::context(&path))?;
                    options.apply(&text).map_err(Error::context(&path))?;
                } else if !body.is_empty() {
                    let text = String::from_utf8_lossy(&body);
                    options.apply(&text).map_err(Error::context("runtime options"))?;
                }
            }
            _ => return Err(Error::invalid(format!("runtime options of an unknown type: {}", any.type_url))),
        }
        Ok(options)
    }

    fn set(&mut self, program: &str, root: &str) {
        if !program.is_empty() {
            self.program = program.into();
        }
        if !root.is_empty() {
            self.root = root.into();
        }
    }

    /// Applies the text of a TOML file.
    fn apply(&mut self, text: &str) -> std::result::Result<(), String> {
        let config: Config = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        self.set(&config.binary_name, &config.root);
        self.systemd_cgroup = config.systemd_cgroup;
        for (name, value) in config.runtime_flags {
            let value = match value {
                toml::Value::String(text) => text,
                toml::Value::Boolean(value) => value.to_string(),
                toml::Value::Integer(value) => value.to_string(),
                _ => return Err(format!("runtime_flags.{name} is neither text, number nor truth value")),
            };
            match value.as_str() {
                "true" => self.flags.push(format!("--{name}")),
                // A flag that is not set.
                "false" => {}
                value => self.flags.push(format!("--{name}={value}")),
            }
        }
        Ok(())
    }

    /// Keeps them for [`load`](Self::load).
    pub fn save(&self, bundle: &Path) -> Result<()> {
        let text = serde_json::to_vec(self).map_err(Error::context(FILE))?;
        std::fs::write(bundle.join(FILE), text).map_err(Error::context(FILE))
    }

    /// What was kept in this bundle; the defaults if the shim was killed before.
    pub fn load(bundle: &Path) -> Result<Options> {
        match std::fs::read(bundle.join(FILE)) {
            Ok(text) => serde_json::from_slice(&text).map_err(Error::context(FILE)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Options::new(),
            Err(error) => Err(Error::context(FILE)(error)),
        }
    }
}

/// Fields 2 and 3 of `runtimeoptions.v1.Options`, which the protocol's crate does not have.
fn config_path_and_body(bytes: &[u8]) -> protobuf::Result<(String, Vec<u8>)> {
    let mut input = CodedInputStream::from_bytes(bytes);
    let (mut path, mut body) = (String::new(), Vec::new());
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        let wire_type = WireType::new(tag & 7).unwrap_or(WireType::EndGroup);
        match (tag >> 3, wire_type) {
            (2, WireType::LengthDelimited) => path = input.read_string()?,
            (3, WireType::LengthDelimited) => body = input.read_bytes()?,
            _ => input.skip_field(wire_type)?,
        }
    }
    Ok((path, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(type_url: &str, value: Vec<u8>) -> Any {
        Any { type_url: type_url.into(), value, ..Default::default() }
    }

    #[test]
    fn runcs_options() {
        let runc = RuncOptions { binary_name: "/bin/x".into(), systemd_cgroup: true, ..Default::default() };
        let value = runc.write_to_bytes().expect("bytes");
        let options = Options::from_any(Some(&any("containerd.runc.v1.Options", value))).expect("options");
        assert_eq!(options.program, Path::new("/bin/x"));
        assert_eq!(options.root, Path::new("/run/containerd/caisson"));
        assert!(options.systemd_cgroup);
    }

    #[test]
    fn toml_in_the_message_itself() {
        let text = b"root = '/r'\n[runtime_flags]\nplatform = 'ptrace'\nstrace = true\ndebug = false\n";
        let mut value = vec![0x0a, 1, b'x', 0x1a, u8::try_from(text.len()).expect("short")];
        value.extend(text);
        let options = Options::from_any(Some(&any("type.googleapis.com/runtimeoptions.v1.Options", value))).expect("options");
        assert_eq!(options.root, Path::new("/r"));
        assert_eq!(options.flags, ["--platform=ptrace", "--strace"]);
    }

    #[test]
    fn unknown_things_are_errors() {
        assert!(Options::from_any(Some(&any("some.Options", Vec::new()))).is_err());
        let mut options = Options::new().expect("options");
        for bad in ["nonsense = 1", "root", "[runtime_flags]\nx = [1]"] {
            assert!(options.apply(bad).is_err(), "{bad}");
        }
    }
}
