//! `delete`: what containerd calls after a shim is gone, well or badly, to clean up behind it.

use crate::args::Args;
use crate::error::{Error, Result};
use crate::events;
use crate::mount;
use crate::oci::Oci;
use crate::options::Options;
use crate::reaper::Reaper;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::shim::shim::DeleteResponse;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// 128 + SIGKILL: nobody knows how the container ended.
const KILLED: u32 = 137;

/// Carries it out, and prints a `DeleteResponse`.
pub fn main(args: &Args) -> Result<()> {
    let bundle = match args.bundle.as_str() {
        "" => std::env::current_dir().map_err(Error::context("the bundle"))?,
        bundle => PathBuf::from(bundle),
    };
    let options = Options::load(&bundle)?;
    let oci = Oci::new(Reaper::start()?, &options, &args.namespace, &bundle);
    // Also when it is unknown to the runtime: then there is nothing to do.
    if let Err(error) = oci.run(&["delete", "--force", &args.id])
        && error.code != ttrpc::Code::NOT_FOUND
    {
        eprintln!("{}: {error}", crate::NAME);
    }
    mount::undo(&bundle.join("rootfs"));
    remove_socket(&bundle);
    let answer = DeleteResponse { exit_status: KILLED, exited_at: MessageField::some(events::now()), ..Default::default() };
    let answer = answer.write_to_bytes().map_err(Error::context("answer"))?;
    std::io::stdout().write_all(&answer).and_then(|()| std::io::stdout().flush()).map_err(Error::context("answer"))
}

/// Removes the socket of a shim that was killed. The one of a pod may still be served.
fn remove_socket(bundle: &Path) {
    let address = std::fs::read_to_string(bundle.join("address")).unwrap_or_default();
    if let Some(path) = address.strip_prefix("unix://")
        && UnixStream::connect(path).is_err()
    {
        // It may be gone already.
        let _ = std::fs::remove_file(path);
    }
}
