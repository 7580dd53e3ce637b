//! What goes along with the bytes of sendmsg(2) and recvmsg(2).

use crate::vfs::File;
use std::sync::Arc;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct ucred`
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Ucred {
    /// Process.
    pub pid: i32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Ucred {
    /// What Linux tells where nobody is known.
    pub const NOBODY: Ucred = Ucred { pid: 0, uid: 65534, gid: 65534 };
}

/// Descriptors on their way.
pub type Rights = Vec<Arc<File>>;

/// A control message.
#[derive(Clone, Debug)]
pub enum Control {
    /// `SCM_RIGHTS`
    Rights(Rights),
    /// `SCM_CREDENTIALS`
    Credentials(Ucred),
    /// Any other: level, type, bytes.
    Other(i32, i32, Vec<u8>),
}

/// A message without its bytes.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// The other side's address: where to (sending; empty: the peer), where from (receiving; empty: unnamed).
    pub name: Vec<u8>,
    /// Control messages.
    pub control: Vec<Control>,
    /// `msg_flags` of a received message (`MSG_TRUNC`, `MSG_EOR`, …).
    pub flags: i32,
}
