//! What waits in a receiver's queue.

use super::Sender;
use super::{Sock, rights::InFlight};
use std::sync::{Arc, Weak};

/// What Linux charges for a packet besides its bytes (`sizeof(struct sk_buff)` and the shared part).
const OVERHEAD: usize = 576;

/// Part of a sender's buffer, given back when the packet is gone.
pub struct Charge {
    sender: Weak<Sock>,
    bytes: usize,
}

impl Charge {
    /// Charges `sender` for a packet of `len` bytes.
    pub fn new(sender: &Arc<Sock>, len: usize) -> Charge {
        let bytes = len.next_multiple_of(64) + OVERHEAD;
        sender.charge(bytes);
        Charge { sender: Arc::downgrade(sender), bytes }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Some(s) = self.sender.upgrade() {
            s.discharge(self.bytes);
        }
    }
}

/// A datagram, or a piece of a stream.
pub struct Packet {
    /// The bytes; those before `off` have been read.
    pub data: Vec<u8>,
    /// See [`data`](Self::data).
    pub off: usize,
    /// Descriptors that came with the first byte.
    pub rights: Option<InFlight>,
    /// Who sent it.
    pub cred: Sender,
    /// The sender's address, if it is bound.
    pub from: Option<Arc<[u8]>>,
    /// Held for its drop.
    pub _charge: Charge,
}

impl Packet {
    /// Bytes not yet read.
    pub fn rest(&self) -> &[u8] {
        self.data.get(self.off..).unwrap_or_default()
    }
}
