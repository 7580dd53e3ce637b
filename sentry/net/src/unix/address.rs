//! Names of sockets: path names, abstract names, autobind.

use super::{Sender, Sock};
use abi::{Result, bail, error, fs::FileType, libc};
use kernel::{
    Kernel,
    net::{SocketKind, SocketOps, Ucred},
    task::Task,
    vfs::{Inode, Lookup, PathRef, Walker, perm},
};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use sync::{Mutex, Rank};

/// Bytes of `sockaddr_un` before the name.
const FAMILY_LEN: usize = 2;
/// Bytes of the longest name (`sun_path`).
const PATH_LEN: usize = 108;

/// A name as the application gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// None: bind(2) chooses one.
    Auto,
    /// In the file system.
    Path(Vec<u8>),
    /// Without the leading zero byte.
    Abstract(Vec<u8>),
}

impl Name {
    /// From a whole `sockaddr_un`. `EINVAL` if it is none.
    pub fn parse(addr: &[u8]) -> Result<Name> {
        let Some((family, name)) = addr.split_at_checked(FAMILY_LEN) else { bail!(EINVAL, "address too short") };
        if family != (libc::AF_UNIX as u16).to_ne_bytes() || name.len() > PATH_LEN {
            bail!(EINVAL, "not a unix address");
        }
        Ok(match name.first() {
            None => Name::Auto,
            Some(0) => Name::Abstract(name.get(1..).unwrap_or_default().to_vec()),
            Some(_) => Name::Path(name.split(|&b| b == 0).next().unwrap_or_default().to_vec()),
        })
    }

    /// The whole `sockaddr_un`.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
        match self {
            Name::Auto => {}
            Name::Path(p) => {
                out.extend(p);
                out.push(0);
            }
            Name::Abstract(n) => {
                out.push(0);
                out.extend(n);
            }
        }
        out
    }
}

/// The address of a socket without a name.
pub fn unnamed() -> Vec<u8> {
    Name::Auto.encode()
}

/// What bind(2) has put into the world, taken back when the socket is closed.
pub struct Bound {
    /// The whole `sockaddr_un`.
    pub raw: Arc<[u8]>,
    /// The key in the table of abstract names.
    abstract_key: Option<(SocketKind, Vec<u8>)>,
    /// The inode stays in memory as long as the socket is bound to it.
    _path: Option<PathRef>,
}

/// Who is bound to a name.
pub enum Found {
    /// A socket of the sandbox.
    Inside(Arc<Sock>),
    /// Nobody in the sandbox; the host may have a socket there.
    Outside(Arc<Inode>),
}

/// The socket that is bound to an inode: an attachment of it.
struct BoundInode(Mutex<Weak<Sock>>);

/// A datagram socket of the sentry itself behind an inode, which must stay in memory: it is found there for as long as it lives.
pub fn receive_at(kernel: &Kernel, inode: &Inode) -> Arc<Sock> {
    let nobody = Sender { ucred: Ucred { pid: 0, uid: 0, gid: 0 }, pids: 0 };
    let sock = Sock::new(SocketKind::Dgram, nobody, &names(kernel));
    bind_to(inode, &sock);
    sock
}

fn bind_to(inode: &Inode, sock: &Arc<Sock>) {
    let place = inode.attachments.get_or_insert_with(|| BoundInode(Mutex::new(Rank::Leaf, Weak::new())));
    *place.0.lock() = Arc::downgrade(sock);
}

/// All names and sockets of a sandbox.
#[derive(Debug)]
pub struct Names {
    abstract_names: Mutex<HashMap<(SocketKind, Vec<u8>), Weak<Sock>>>,
    /// Open sockets by inode number.
    open: Mutex<BTreeMap<u64, Weak<Sock>>>,
}

/// The names of this sandbox.
pub fn names(kernel: &Kernel) -> Arc<Names> {
    kernel.attachments.get_or_insert_with(Names::default)
}

impl Default for Names {
    fn default() -> Self {
        Names { abstract_names: Mutex::new(Rank::Leaf, HashMap::new()), open: Mutex::new(Rank::Leaf, BTreeMap::new()) }
    }
}

impl Names {
    /// Enters an open socket.
    pub fn add(&self, ino: u64, sock: &Arc<Sock>) {
        self.open.lock().insert(ino, Arc::downgrade(sock));
    }

    /// A socket is closed.
    pub fn remove(&self, ino: u64) {
        self.open.lock().remove(&ino);
    }

    /// All open sockets.
    pub fn all(&self) -> Vec<Arc<Sock>> {
        self.open.lock().values().filter_map(Weak::upgrade).collect()
    }

    fn claim(&self, kind: SocketKind, name: &[u8], sock: &Arc<Sock>) -> bool {
        let mut table = self.abstract_names.lock();
        let key = (kind, name.to_vec());
        if table.get(&key).is_some_and(|s| s.strong_count() > 0) {
            return false;
        }
        table.insert(key, Arc::downgrade(sock));
        true
    }

    /// bind(2).
    pub fn bind(&self, task: &Task, sock: &Arc<Sock>, name: &Name) -> Result<Bound> {
        let kind = sock.kind();
        match name {
            Name::Auto => self.autobind(sock),
            Name::Abstract(n) => {
                if !self.claim(kind, n, sock) {
                    bail!(EADDRINUSE, "abstract name");
                }
                Ok(Bound { raw: name.encode().into(), abstract_key: Some((kind, n.clone())), _path: None })
            }
            Name::Path(p) => {
                let start = task.fs().cwd();
                let made = Walker::of(task).mknod(&start, p, FileType::Socket, 0o777, 0);
                let at = made.map_err(|e| if e.is(abi::Errno::EEXIST) { error!(EADDRINUSE, "the file exists") } else { e })?;
                bind_to(&at.inode, sock);
                Ok(Bound { raw: name.encode().into(), abstract_key: None, _path: Some(at) })
            }
        }
    }

    /// A name of five hexadecimal digits that nobody has.
    pub fn autobind(&self, sock: &Arc<Sock>) -> Result<Bound> {
        let kind = sock.kind();
        for i in 0..0x10_0000u32 {
            let n = format!("{i:05x}").into_bytes();
            if self.claim(kind, &n, sock) {
                let raw = Name::Abstract(n.clone()).encode().into();
                return Ok(Bound { raw, abstract_key: Some((kind, n)), _path: None });
            }
        }
        bail!(ENOSPC, "no name left")
    }

    /// Takes back what [`bind`](Self::bind) did. A path stays, as on Linux.
    pub fn unbind(&self, bound: &Bound) {
        if let Some(key) = &bound.abstract_key {
            self.abstract_names.lock().remove(key);
        }
    }

    /// The socket that this name means: `ECONNREFUSED` if nobody is bound to it.
    pub fn find(&self, task: &Task, name: &Name, kind: SocketKind) -> Result<Found> {
        match name {
            Name::Auto => bail!(ECONNREFUSED, "no name"),
            Name::Abstract(n) => match self.abstract_names.lock().get(&(kind, n.clone())).and_then(Weak::upgrade) {
                Some(s) => Ok(Found::Inside(s)),
                None => bail!(ECONNREFUSED, "abstract name"),
            },
            Name::Path(p) => {
                let at = Walker::of(task).walk(&task.fs().cwd(), p, Lookup::FOLLOW)?;
                perm::check_path(&at, &task.cred(), perm::WRITE)?;
                let bound = at.inode.attachments.get::<BoundInode>().and_then(|b| b.0.lock().upgrade());
                match bound {
                    Some(s) if s.kind() == kind => Ok(Found::Inside(s)),
                    Some(_) => bail!(EPROTOTYPE, "a socket of another kind"),
                    None if at.inode.kind == FileType::Socket => Ok(Found::Outside(at.inode.clone())),
                    None => bail!(ECONNREFUSED, "no socket"),
                }
            }
        }
    }

    /// The text of /proc/net/unix.
    pub fn show(&self) -> String {
        let mut out = String::from("Num       RefCount Protocol Flags    Type St Inode Path\n");
        for s in self.all() {
            out.push_str(&s.show());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_and_encode() {
        let addr = |name: &[u8]| [&[1, 0], name].concat();
        assert_eq!(Name::parse(&addr(b"")), Ok(Name::Auto));
        assert_eq!(Name::parse(&addr(b"/tmp/s\0junk")), Ok(Name::Path(b"/tmp/s".to_vec())));
        assert_eq!(Name::parse(&addr(b"\0a\0b")), Ok(Name::Abstract(b"a\0b".to_vec())));
        assert_eq!(Name::parse(&addr(&[b'x'; 109])), Err(error!(EINVAL)));
        assert_eq!(Name::parse(&[2, 0, 1]), Err(error!(EINVAL)));
        assert_eq!(Name::parse(&[1]), Err(error!(EINVAL)));
        assert_eq!(Name::Path(b"/s".to_vec()).encode(), addr(b"/s\0"));
    }
}
