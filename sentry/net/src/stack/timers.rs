//! One thread that wakes connections, asks for neighbours again, and forgets fragments.
//!
//! Lazy: a connection enters the heap when its next moment is earlier than the one it is entered with; it finds out for itself, when
//! woken, whether that has moved. So acknowledgements, which move the retransmission timer, do not come here.

use super::Stack;
use crate::inet::InetSock;
use abi::Result;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use sync::{Mutex, Parker, Rank};

struct Entry(u64, Weak<InetSock>);

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.0 == other.0
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

struct State {
    heap: BinaryHeap<Reverse<Entry>>,
    /// When the thread wakes.
    wakes: u64,
    started: bool,
}

/// The heap.
pub struct Timers {
    state: Mutex<State>,
    parker: Arc<Parker>,
}

impl Default for Timers {
    fn default() -> Self {
        let state = State { heap: BinaryHeap::new(), wakes: 0, started: false };
        Timers { state: Mutex::new(Rank::Leaf, state), parker: Arc::new(Parker::new()) }
    }
}

/// How often neighbours and fragments are looked at.
const TICK: u64 = 250_000_000;

impl Timers {
    /// Starts the thread; it ends with the stack.
    pub fn start(&self, stack: &Weak<Stack>) -> Result {
        if std::mem::replace(&mut self.state.lock().started, true) {
            return Ok(());
        }
        let (stack, parker) = (stack.clone(), self.parker.clone());
        host::thread::spawn("net timers", move || {
            while let Some(stack) = stack.upgrade() {
                let next = stack.timers.run(&stack);
                drop(stack);
                let wait = next.saturating_sub(host::time::monotonic_ns());
                parker.park(Instant::now().checked_add(Duration::from_nanos(wait)));
            }
        })?;
        Ok(())
    }

    /// Enters a socket.
    pub fn add(&self, at: u64, sock: &Arc<InetSock>) {
        let mut s = self.state.lock();
        s.heap.push(Reverse(Entry(at, Arc::downgrade(sock))));
        let sooner = at < s.wakes;
        drop(s);
        if sooner {
            self.parker.unpark();
        }
    }

    /// Wakes all that are due; when the next is.
    fn run(&self, stack: &Stack) -> u64 {
        stack.tick();
        loop {
            let now = host::time::monotonic_ns();
            let due = {
                let mut s = self.state.lock();
                s.wakes = s.heap.peek().map_or(u64::MAX, |e| e.0.0).min(now + TICK);
                if s.heap.peek().is_none_or(|e| e.0.0 > now) {
                    return s.wakes;
                }
                s.heap.pop()
            };
            if let Some(sock) = due.and_then(|e| e.0.1.upgrade()) {
                sock.on_timer();
            }
        }
    }
}
