//! The server: attach points, the tree, and the threads that serve connections.
//!
//! All threads are made at the start ([`Server::start`]), because the filter allows none to be made later; a new
//! connection is handed to one that is free.

use crate::node::{Node, Tree};
use crate::resolve::{Fds, Result};
use crate::{Attach, connection};
use abi::Errno;
use gofer_protocol::Channel;
use parking_lot::Mutex;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

/// Connections served at once, unless the specification says otherwise.
const DEFAULT_CHANNELS: usize = 16;
/// The most it may say.
const MAX_CHANNELS: usize = 256;
/// Descriptors left for donations in flight, connections, open directories and the log.
const SPARE_FDS: usize = 128;

/// What to serve, opened.
#[derive(Debug)]
pub struct Root {
    /// An `O_PATH` descriptor of the attach point.
    pub fd: OwnedFd,
    /// How to serve it. The source path is of no more use.
    pub attach: Attach,
}

/// The surroundings of a server.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether this process is in its jail, where its descriptors show in another place.
    pub jailed: bool,
    /// Connections at most; 0 for the default.
    pub channels: usize,
    /// Descriptors this process may have.
    pub descriptors: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { jailed: false, channels: 0, descriptors: 1024 }
    }
}

/// The state all connections share.
#[derive(Debug)]
pub struct Server {
    /// All known files.
    pub(crate) tree: Tree,
    /// Where our own descriptors show.
    pub(crate) fds: Fds,
    roots: Vec<(Arc<Node>, Attach)>,
    free: AtomicUsize,
    queue: Mutex<mpsc::Sender<Channel>>,
}

impl Server {
    /// Builds a server for `roots` and starts its threads, all idle.
    ///
    /// # Errors
    /// If an attach point cannot be looked at, or threads cannot be made (`EAGAIN`).
    pub fn start(roots: Vec<Root>, settings: &Settings) -> Result<Arc<Server>> {
        let channels = if settings.channels == 0 { DEFAULT_CHANNELS } else { settings.channels.min(MAX_CHANNELS) };
        let limit = settings.descriptors.saturating_sub(SPARE_FDS + channels) * 3 / 4;
        let tree = Tree::new(limit, roots.iter().map(|r| r.attach.recursive).collect());
        let mut nodes = Vec::with_capacity(roots.len());
        for (index, root) in roots.into_iter().enumerate() {
            nodes.push((tree.root(index, root.fd)?, root.attach));
        }
        let (queue, receiver) = mpsc::channel();
        let fds = if settings.jailed { Fds::JAIL } else { Fds::HOST };
        let server = Arc::new(Server { tree, fds, roots: nodes, free: AtomicUsize::new(channels), queue: Mutex::new(queue) });
        let receiver = Arc::new(Mutex::new(receiver));
        for n in 0..channels {
            let weak = Arc::downgrade(&server);
            let receiver = receiver.clone();
            let work = move || {
                // The lock is held while waiting: one thread waits for a connection, the others for the lock.
                loop {
                    let Ok(channel) = receiver.lock().recv() else { return };
                    let Some(server) = weak.upgrade() else { return };
                    connection::serve(&server, channel);
                    server.free.fetch_add(1, Ordering::AcqRel);
                }
            };
            std::thread::Builder::new().name(format!("serve-{n}")).stack_size(512 * 1024).spawn(work).map_err(Errno::from)?;
        }
        Ok(server)
    }

    /// Serves one more connection.
    ///
    /// # Errors
    /// `ENFILE` if as many as are allowed are being served.
    pub fn serve(&self, channel: Channel) -> Result<()> {
        self.free.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1)).map_err(|_| Errno::ENFILE)?;
        self.queue.lock().send(channel).map_err(|_| Errno::EIO)
    }

    /// An attach point.
    pub(crate) fn root(&self, index: usize) -> Result<&(Arc<Node>, Attach)> {
        self.roots.get(index).ok_or(Errno::ENOENT)
    }

    /// How the tree of `node` is served.
    pub(crate) fn attach_of(&self, node: &Node) -> Result<&Attach> {
        self.root(node.attach).map(|(_, attach)| attach)
    }

    /// Refuses changes where they are not allowed.
    ///
    /// # Errors
    /// `EROFS`.
    pub(crate) fn writable(&self, node: &Node) -> Result<()> {
        if self.attach_of(node)?.readonly { Err(Errno::EROFS) } else { Ok(()) }
    }
}
