//! A server in a thread, on a temporary directory, asked through the real protocol.

mod abuse;
mod ahead;
mod escape;
mod files;
mod names;

use crate::{Attach, Root, Server, Settings};
use gofer_protocol::{Channel, Client, DirEntry, Entry, Name, NodeId, OpenMode, Stop};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory that is removed at the end.
struct TempDir(PathBuf);

impl TempDir {
    fn new() -> TempDir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let path = std::env::temp_dir().join(format!("caisson-gofer-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir_all(&path).expect("temporary directory");
        TempDir(path)
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running server and a client of it.
struct Fixture {
    dir: TempDir,
    server: Arc<Server>,
    client: Client,
    root: NodeId,
}

fn open_root(path: &Path) -> OwnedFd {
    use rustix::fs::{CWD, Mode, OFlags};
    rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).expect("attach point")
}

impl Fixture {
    fn new() -> Fixture {
        Fixture::with(|_| {}, &Settings::default())
    }

    /// With the attach point changed, and other settings.
    fn with(change: impl FnOnce(&mut Attach), settings: &Settings) -> Fixture {
        let dir = TempDir::new();
        let mut attach = Attach::new(&dir.0);
        change(&mut attach);
        let server = Server::start(vec![Root { fd: open_root(&dir.0), attach }], settings).expect("server");
        let (ours, theirs) = Channel::pair().expect("socketpair");
        server.serve(theirs).expect("serve");
        let client = Client::new(ours, 4);
        let root = client.attach(0).expect("attach").0.node;
        Fixture { dir, server, client, root }
    }

    /// Walks along a path, which must be there.
    fn find(&self, path: &str) -> Entry {
        let names: Vec<Name<'_>> = path.split('/').map(name).collect();
        let reply = self.client.walk(self.root, &names).expect("walk");
        assert_eq!(reply.stop, Stop::Complete, "{path}");
        reply.entries.last().expect("an entry").clone()
    }

    /// Opens what a node is.
    fn open(&self, node: NodeId, mode: OpenMode) -> Result<OwnedFd, abi::Errno> {
        self.client.open(node, &[], mode).map(|(_, fd)| fd.expect("a descriptor"))
    }

    /// Lists a directory that fits into one reply.
    fn list(&self, node: NodeId) -> Result<Vec<DirEntry>, abi::Errno> {
        self.client.readdir(node, &[], 0, 0, vec![]).map(|reply| reply.entries)
    }

    fn write(&self, path: &str, contents: &str) {
        fs::write(self.dir.path(path), contents).expect("write");
    }
}

fn name(s: &str) -> Name<'_> {
    Name::new(s.as_bytes()).expect("a name")
}

/// Whether tests may change owners.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
