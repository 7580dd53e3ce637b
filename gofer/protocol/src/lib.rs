//! What the sentry and the gofer say to each other.
//!
//! A connection is a `SOCK_SEQPACKET` unix socket ([`Channel`]): one message is one packet, so there is no framing to
//! lose step with, and a descriptor travels with the very message it belongs to. One request is outstanding on a
//! connection at a time; several connections are used at once ([`Client`] keeps a pool of them), and the gofer
//! serves each with a thread of its own.
//!
//! A message is a [`Header`] and a body: fixed little-endian fields and counted tails, written and read by
//! [`wire::Wire`]. Reading never trusts a length: any bytes give a value or a [`Malformed`], which the tests and
//! [`fuzz_target`] hold it to.
//!
//! Neighbours: `gofer` answers, the sentry's `fs::remote` asks.

pub mod attr;
pub mod channel;
pub mod client;
pub mod name;
pub mod reply;
pub mod request;
pub mod wire;

pub use attr::{Attr, SetAttr, SetTime, StatFs};
pub use channel::Channel;
pub use client::Client;
pub use name::Name;
pub use reply::{Ahead, DirEntry, DirReply, Entry, Reply, Stop, WalkReply};
pub use request::{OpenMode, Request};
pub use wire::{Bytes, Malformed};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

#[cfg(not(target_endian = "little"))]
compile_error!("messages are little-endian and copied as they lie in memory");

/// The largest message in bytes, header included: an extended attribute of 64 KiB and its fields fit.
pub const MAX_MESSAGE: usize = 68 * 1024;
/// The most components of a path in one request, and the most nodes in one [`Request::Close`].
pub const MAX_BATCH: usize = 256;
/// The longest symlink target (Linux's `PATH_MAX`, which counts a final NUL).
pub const MAX_TARGET: usize = 4095;
/// The longest name or value of an extended attribute (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
pub const MAX_XATTR: usize = 65536;

/// A file as the gofer knows it: a number that it chose. It stays valid on every connection until it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

/// What every message begins with.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Header {
    /// Bytes of the message, this header included. Must be the packet's own length.
    pub len: u32,
    /// Which [`Request`] or [`Reply`] this is.
    pub op: u16,
    /// Zero, or in a reply the errno the request failed with; then there is no body.
    pub errno: u16,
    /// Chosen by the asker, repeated in the reply.
    pub tag: u32,
    /// In a request, where the asker waits: the number of the processor, plus one; zero if it does not say. Whoever answers runs there at
    /// once, as the asker has gone to sleep, while another processor would have to be woken up, and that one again for the reply.
    pub cpu: u32,
}

/// Feeds arbitrary bytes to both parsers, and checks that what parses says the same thing when written again.
/// The body of a fuzzing target.
///
/// # Panics
/// If a parsed message does not survive being written and read: a bug.
pub fn fuzz_target(data: &[u8]) {
    let mut out = Vec::new();
    if let Ok((request, tag)) = Request::parse(data) {
        request.encode(tag, &mut out).expect("a parsed request can be written");
        assert_eq!(Request::parse(&out), Ok((request, tag)));
    }
    if let Ok((reply, tag)) = Reply::parse(data) {
        reply.encode(tag, &mut out).expect("a parsed reply can be written");
        assert_eq!(Reply::parse(&out), Ok((reply, tag)));
    }
}

#[cfg(test)]
mod tests;
