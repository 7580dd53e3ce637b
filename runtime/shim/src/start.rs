//! `start`: makes a shim for a container, or finds the one of its pod, and prints the address of its socket.

use crate::args::{self, Args};
use crate::error::{Error, Result};
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::protobuf::Message;
use serde_json::Value;
use std::io::{IsTerminal, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Annotations with the ID of the pod's first container, by who writes them.
const GROUPS: [&str; 2] = ["io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID"];
/// Where sockets are unless containerd says otherwise; as containerd's own shims do it.
const SOCKETS: &str = "/run/containerd/s";
/// The longest input of containerd's.
const MAX_INPUT: u64 = 10 << 20;

/// Carries it out. The working directory is the bundle.
pub fn main(args: &Args) -> Result<()> {
    let bootstrap = bootstrap(args)?;
    let dir = bootstrap.as_ref().and_then(|b| b.socket_dir.clone()).filter(|dir| !dir.is_empty());
    let group = group().unwrap_or_else(|| args.id.clone());
    args::name("the pod's ID", &group)?;
    let path = socket_path(dir.as_deref().unwrap_or(SOCKETS), args, &group);
    let address = format!("unix://{}", path.display());
    match listen(&path)? {
        // The pod's shim serves this container, too.
        None => {}
        Some(listener) => {
            if let Err(error) = launch(args, bootstrap.as_ref(), &address, listener.into()) {
                let _ = std::fs::remove_file(&path);
                return Err(error);
            }
        }
    }
    // containerd reads it when it starts anew.
    std::fs::write("address", &address).map_err(Error::context("address"))?;
    let answer = match bootstrap {
        // An address alone is understood by every version, and means version 2 of the service over ttrpc.
        None => address.into_bytes(),
        Some(_) => BootstrapResult { version: 3, address, protocol: "ttrpc".into(), ..Default::default() }
            .write_to_bytes()
            .map_err(Error::context("answer"))?,
    };
    std::io::stdout().write_all(&answer).and_then(|()| std::io::stdout().flush()).map_err(Error::context("answer"))
}

/// What containerd since 2.3 writes to standard input; older ones write runtime options or nothing.
fn bootstrap(args: &Args) -> Result<Option<BootstrapParams>> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Ok(None);
    }
    let mut input = Vec::new();
    stdin.lock().take(MAX_INPUT).read_to_end(&mut input).map_err(Error::context("standard input"))?;
    // Other messages may happen to parse, but never with these names.
    Ok(BootstrapParams::parse_from_bytes(&input).ok().filter(|params| params.instance_id == args.id && params.namespace == args.namespace))
}

/// The pod that this container belongs to.
fn group() -> Option<String> {
    let config: Value = serde_json::from_slice(&std::fs::read("config.json").ok()?).ok()?;
    let annotations = config.get("annotations")?;
    GROUPS.iter().find_map(|name| annotations.get(name)?.as_str().map(str::to_owned))
}

/// A path for each group of each namespace of each containerd, short enough for a socket.
fn socket_path(dir: &str, args: &Args, group: &str) -> PathBuf {
    // FNV-1a of 128 bits: it is no secret, and only must not collide by chance.
    let hash = |mut hash: u128| {
        for byte in [args.address.as_str(), &args.namespace, group].join("\0").bytes() {
            hash = (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
        hash
    };
    Path::new(dir).join(format!("{:032x}", hash(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)))
}

/// A socket at `path`; `None` if somebody serves it.
fn listen(path: &Path) -> Result<Option<UnixListener>> {
    let what = path.display().to_string();
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(Error::context(dir.display()))?;
    }
    match UnixListener::bind(path) {
        Ok(listener) => return Ok(Some(listener)),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
        Err(error) => return Err(Error::context(what)(error)),
    }
    if UnixStream::connect(path).is_ok() {
        return Ok(None);
    }
    // A shim that was killed left it.
    std::fs::remove_file(path).map_err(Error::context(&what))?;
    UnixListener::bind(path).map(Some).map_err(Error::context(&what))
}

/// Starts the shim. It finds the socket, which already takes connections, as its standard input.
fn launch(args: &Args, bootstrap: Option<&BootstrapParams>, address: &str, listener: OwnedFd) -> Result<()> {
    let program = std::env::current_exe().map_err(Error::context("/proc/self/exe"))?;
    let mut command = Command::new(program);
    command.arg0(crate::NAME).args(["-namespace", &args.namespace, "-id", &args.id, "-address", &args.address]);
    command.args(["-socket", address]);
    if args.debug {
        command.arg("-debug");
    }
    if let Some(params) = bootstrap {
        command.env("TTRPC_ADDRESS", &params.containerd_ttrpc_address);
    }
    // containerd reads our standard output and error to their end: the shim must not hold them.
    command.stdin(Stdio::from(listener)).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().map(drop).map_err(Error::context("cannot start the shim"))
}
