//! Sockets, as far as they are the same for all families: who makes them, their file, their options and messages.
//!
//! * [`Family`] – an address family, registered from above with [`register`]; [`SocketOps`] – a socket of one.
//! * [`SocketFile`] – the file of a socket; [`SocketOptions`] – `SOL_SOCKET`'s options; [`Message`] – what recvmsg(2) tells.
//!
//! Like [`FileOps`](crate::vfs::FileOps), nothing blocks: `EAGAIN` where Linux would wait, with the socket's queue notified when that
//! changes.

mod file;
mod filter;
mod message;
mod options;
mod settings;

pub use file::SocketFile;
pub use filter::{SocketFilter, View};
pub use message::{Control, Message, Rights, Ucred};
pub use options::{OptionValue, SocketOptions};
pub use settings::{CONGESTION, NetSettings};

use crate::{
    Kernel,
    io::IoBuffer,
    task::Task,
    vfs::{File, IoctlArg, Mappable},
};
use abi::{Result, bail, poll::PollEvents};
use std::any::Any;
use std::sync::Arc;
use std::time::Duration;
use sync::{Mutex, Rank, WaitQueue};

/// Kinds of sockets: `SOCK_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum SocketKind {
    Stream,
    Dgram,
    Raw,
    SeqPacket,
}

impl SocketKind {
    /// From socket(2)'s type without flags.
    #[must_use]
    pub fn from_raw(raw: i32) -> Option<SocketKind> {
        Some(match raw {
            libc::SOCK_STREAM => SocketKind::Stream,
            libc::SOCK_DGRAM => SocketKind::Dgram,
            libc::SOCK_RAW => SocketKind::Raw,
            libc::SOCK_SEQPACKET => SocketKind::SeqPacket,
            _ => return None,
        })
    }

    /// socket(2)'s type.
    #[must_use]
    pub fn raw(self) -> i32 {
        match self {
            SocketKind::Stream => libc::SOCK_STREAM,
            SocketKind::Dgram => libc::SOCK_DGRAM,
            SocketKind::Raw => libc::SOCK_RAW,
            SocketKind::SeqPacket => libc::SOCK_SEQPACKET,
        }
    }
}

/// What shutdown(2) closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// Receiving.
    pub read: bool,
    /// Sending.
    pub write: bool,
}

/// A socket. Addresses are whole `sockaddr`s as the application gives them, at least two and at most 128 bytes.
pub trait SocketOps: Send + Sync + Any {
    /// Its address family (`AF_*`).
    fn domain(&self) -> i32;
    /// Its kind.
    fn kind(&self) -> SocketKind;
    /// Its protocol (`SO_PROTOCOL`).
    fn protocol(&self) -> i32 {
        0
    }
    /// `SOL_SOCKET`'s options.
    fn options(&self) -> &SocketOptions;
    /// Told of the file that holds it, once.
    fn attached(&self, _file: &Arc<File>) {}

    /// bind(2)
    fn bind(&self, _task: &Task, _addr: &[u8]) -> Result {
        bail!(EOPNOTSUPP)
    }
    /// listen(2)
    fn listen(&self, _task: &Task, _backlog: i32) -> Result {
        bail!(EOPNOTSUPP)
    }
    /// connect(2). `EAGAIN`: call again when the socket is writable; `EINPROGRESS`: under way, [`connect_result`](Self::connect_result) tells the end.
    fn connect(&self, _task: &Task, _addr: &[u8]) -> Result {
        bail!(EOPNOTSUPP)
    }
    /// How a connection that was under way came out: `EAGAIN` while it still is.
    fn connect_result(&self) -> Result {
        Ok(())
    }
    /// accept(2): the connected socket. `EAGAIN`: when the socket is readable.
    fn accept(&self, _task: &Task) -> Result<Arc<dyn SocketOps>> {
        bail!(EOPNOTSUPP)
    }
    /// getsockname(2)
    fn local_address(&self) -> Result<Vec<u8>>;
    /// getpeername(2)
    fn peer_address(&self) -> Result<Vec<u8>> {
        bail!(ENOTCONN)
    }
    /// sendmsg(2): takes as much as there is room for. `task`: who sends, for names and credentials.
    fn send(&self, task: Option<&Task>, buf: &mut IoBuffer<'_>, message: Message, flags: i32) -> Result<usize>;
    /// recvmsg(2): gives what is there; with `MSG_TRUNC` a datagram's whole length.
    fn recv(&self, buf: &mut IoBuffer<'_>, flags: i32, message: &mut Message) -> Result<usize>;
    /// shutdown(2)
    fn shutdown(&self, _how: Shutdown) -> Result {
        bail!(EOPNOTSUPP)
    }
    /// Events that are true now.
    fn poll(&self) -> PollEvents;
    /// Whether an error waits for the next call: a send that has sent a part ends then, and leaves it.
    fn has_pending_error(&self) -> bool {
        self.options().has_error()
    }
    /// Where changes are notified.
    fn queue(&self) -> &WaitQueue;
    /// ioctl(2)
    fn ioctl(&self, _task: &Task, _cmd: u32, _arg: IoctlArg) -> Result<u64> {
        bail!(ENOTTY)
    }
    /// An option of another level than `SOL_SOCKET`, or one of that level that depends on the family; `None`: not known here.
    fn set_option(&self, _task: &Task, _level: i32, _name: i32, _value: &[u8]) -> Option<Result> {
        None
    }
    /// The value of such an option; `None`: not known here.
    fn get_option(&self, _task: &Task, _level: i32, _name: i32) -> Option<Result<Vec<u8>>> {
        None
    }
    /// The value of an option that depends on the int that the caller hands in; `None`: not known here.
    fn answer_option(&self, _level: i32, _name: i32, _asked: i32) -> Option<Result<Vec<u8>>> {
        None
    }
    /// For mmap(2): rings of packet sockets. `ENODEV` where there is nothing to map.
    fn mappable(&self) -> Result<Arc<dyn Mappable>> {
        bail!(ENODEV)
    }
    /// A message from the kernel itself, to a netlink socket (mq_notify(2)); `EINVAL` for others, `EAGAIN` where it has no room.
    fn deliver(&self, _message: &[u8]) -> Result {
        bail!(EINVAL, "no netlink socket")
    }
    /// Whether something that was sent is still on its way, after [`release`](Self::release): what close(2) waits for with SO_LINGER.
    fn lingers(&self) -> bool {
        false
    }
    /// The last descriptor is closed.
    fn release(&self);
    /// For downcasting.
    fn as_any(&self) -> &dyn Any;
}

/// An address family.
pub trait Family: Send + Sync {
    /// `AF_*`
    fn domain(&self) -> i32;
    /// socket(2)
    fn create(&self, task: &Task, kind: SocketKind, protocol: i32) -> Result<Arc<dyn SocketOps>>;
    /// socketpair(2)
    fn pair(&self, _task: &Task, _kind: SocketKind, _protocol: i32) -> Result<(Arc<dyn SocketOps>, Arc<dyn SocketOps>)> {
        bail!(EOPNOTSUPP)
    }
    /// The text of /proc/net's file of this name, if the family has it (`unix`).
    fn proc_net(&self, _kernel: &Kernel, _name: &str) -> Option<String> {
        None
    }
}

/// The families that a sandbox has.
struct Families(Mutex<Vec<Arc<dyn Family>>>);

fn families(kernel: &Kernel) -> Arc<Families> {
    kernel.attachments.get_or_insert_with(|| Families(Mutex::new(Rank::Leaf, Vec::new())))
}

/// Makes a family known to socket(2).
pub fn register(kernel: &Kernel, family: Arc<dyn Family>) {
    families(kernel).0.lock().push(family);
}

/// The family of this number; `EAFNOSUPPORT` if there is none.
pub fn family(kernel: &Kernel, domain: i32) -> Result<Arc<dyn Family>> {
    match families(kernel).0.lock().iter().find(|f| f.domain() == domain) {
        Some(f) => Ok(f.clone()),
        None => bail!(EAFNOSUPPORT, "address family {domain}"),
    }
}

/// The text of a file of /proc/net that some family knows.
pub fn proc_net(kernel: &Kernel, name: &str) -> Option<String> {
    let all = families(kernel).0.lock().clone();
    all.iter().find_map(|f| f.proc_net(kernel, name))
}

/// A time that a socket option sets; zero stands for ever.
pub(crate) fn limit(ns: u64) -> Option<Duration> {
    (ns != 0).then(|| Duration::from_nanos(ns))
}
