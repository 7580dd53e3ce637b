//! Descriptors on their way, and the search for those that nobody can receive any more.
//!
//! A socket that is only referred to from queues of sockets that are themselves only in queues is garbage, though each is
//! referenced (net/unix/garbage.c). [`collect`] finds such circles by counting; every doubt is decided for keeping.

use super::{Sock, packet::Packet};
use abi::{Result, bail};
use kernel::{net::SocketFile, vfs::File};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
};

/// Descriptors in all queues.
static FILES: AtomicUsize = AtomicUsize::new(0);
/// Unix sockets among them.
static SOCKETS: AtomicUsize = AtomicUsize::new(0);
/// The most descriptors that may be under way in a sandbox.
const MAX_FILES: usize = 65_536;

/// The unix socket of a file, if it is one.
fn sock_of(file: &File) -> Option<Arc<Sock>> {
    let me = SocketFile::of(file).ok()?.as_any().downcast_ref::<Sock>()?.me();
    Some(me)
}

/// Descriptors in a queue. Counted from when they are made until they are taken or dropped.
pub struct InFlight(Vec<Arc<File>>);

impl InFlight {
    /// Counts these files as being under way. `ETOOMANYREFS` if too many are.
    pub fn new(files: Vec<Arc<File>>) -> Result<Option<InFlight>> {
        if files.is_empty() {
            return Ok(None);
        }
        if FILES.load(SeqCst) + files.len() > MAX_FILES {
            bail!(ETOOMANYREFS, "descriptors under way");
        }
        FILES.fetch_add(files.len(), SeqCst);
        for s in files.iter().filter_map(|f| sock_of(f)) {
            s.in_flight.fetch_add(1, SeqCst);
            SOCKETS.fetch_add(1, SeqCst);
        }
        Ok(Some(InFlight(files)))
    }

    fn uncount(&self) {
        FILES.fetch_sub(self.0.len(), SeqCst);
        for s in self.0.iter().filter_map(|f| sock_of(f)) {
            s.in_flight.fetch_sub(1, SeqCst);
            SOCKETS.fetch_sub(1, SeqCst);
        }
    }

    /// The files, no longer under way.
    pub fn take(mut self) -> Vec<Arc<File>> {
        self.uncount();
        std::mem::take(&mut self.0)
    }

    /// The files, which stay (MSG_PEEK).
    pub fn peek(&self) -> Vec<Arc<File>> {
        self.0.clone()
    }

    fn sockets(&self) -> impl Iterator<Item = Arc<Sock>> + '_ {
        self.0.iter().filter_map(|f| sock_of(f))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            self.uncount();
        }
    }
}

thread_local!(static GRAVE: RefCell<Option<Vec<Packet>>> = const { RefCell::new(None) });

/// Drops packets one after the other: a chain of sockets, each in the next one's queue, would otherwise be dropped by recursion.
pub fn bury(packets: impl IntoIterator<Item = Packet>) {
    let mine: Vec<Packet> = packets.into_iter().collect();
    let busy = GRAVE.with_borrow_mut(|g| match g {
        Some(list) => {
            list.extend(mine);
            true
        }
        None => {
            *g = Some(mine);
            false
        }
    });
    if busy {
        return;
    }
    while let Some(p) = GRAVE.with_borrow_mut(|g| g.as_mut().and_then(Vec::pop)) {
        drop(p);
    }
    GRAVE.set(None);
}

/// A socket that may be garbage.
struct Candidate {
    sock: Arc<Sock>,
    /// How often it is under way in all.
    in_flight: usize,
    /// How often in queues of candidates.
    internal: usize,
    /// Whether somebody can get at it.
    reachable: bool,
    /// Candidates in its queue.
    holds: Vec<usize>,
}

/// Finds sockets that nobody can reach, and empties their queues. Called when a socket is closed.
pub fn collect(all: impl FnOnce() -> Vec<Arc<Sock>>) {
    static RUNNING: AtomicBool = AtomicBool::new(false);
    if SOCKETS.load(SeqCst) == 0 || RUNNING.swap(true, SeqCst) {
        return;
    }
    let garbage = find(all());
    let mut packets = Vec::new();
    for s in &garbage {
        packets.extend(s.take_all_packets());
    }
    RUNNING.store(false, SeqCst);
    bury(packets);
}

fn find(all: Vec<Arc<Sock>>) -> Vec<Arc<Sock>> {
    let mut list: Vec<Candidate> = Vec::new();
    let mut index = HashMap::new();
    for sock in all {
        let in_flight = sock.in_flight.load(SeqCst);
        // As many references as there are descriptors under way: no table of descriptors and no call has it.
        if in_flight > 0 && sock.file_references() == in_flight {
            index.insert(Arc::as_ptr(&sock) as usize, list.len());
            list.push(Candidate { sock, in_flight, internal: 0, reachable: false, holds: Vec::new() });
        }
    }
    for i in 0..list.len() {
        let mut held = Vec::new();
        if let Some(c) = list.get(i) {
            c.sock.each_in_flight(&mut |rights| held.extend(rights.sockets()));
        }
        let held: Vec<usize> = held.iter().filter_map(|s| index.get(&(Arc::as_ptr(s) as usize)).copied()).collect();
        for &h in &held {
            if let Some(c) = list.get_mut(h) {
                c.internal += 1;
            }
        }
        if let Some(c) = list.get_mut(i) {
            c.holds = held;
        }
    }
    let mut todo: Vec<usize> = (0..list.len()).filter(|&i| list.get(i).is_some_and(|c| c.internal < c.in_flight)).collect();
    while let Some(i) = todo.pop() {
        if let Some(c) = list.get_mut(i).filter(|c| !c.reachable) {
            c.reachable = true;
            todo.extend(&c.holds);
        }
    }
    list.into_iter().filter(|c| !c.reachable).map(|c| c.sock).collect()
}
