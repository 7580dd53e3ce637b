//! Where threads look for their stubs' calls in turns: one processor of each pair is for stubs, the other for the sentry.
//!
//! On the sentry's processor of a pair one thread looks at a time, the one that has begun last. It gives way to whoever else is to run there every few
//! microseconds, and sleeps as soon as another one has begun. If it finds nothing for a while, the application computes: then all stubs
//! of the pair may run wherever the sandbox may, each until its next call.
//!
//! A stub whose call waits in the kernel leaves its processor to the others. The last one stays and looks for its order for a while: another
//! one will be woken soon, and then it leaves; a processor that has gone to sleep takes long to wake up.

use super::thread::Orders;
use crate::activity::Waits;
use crate::placement::Placement;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// The processors, in pairs. An odd one is left to others.
#[derive(Debug)]
pub struct Halves {
    placement: Arc<Placement>,
    pairs: Vec<Arc<Pair>>,
    next: AtomicUsize,
}

#[derive(Debug)]
struct Pair {
    /// The first of its two processors, as [`Placement::bind`] takes it, which is for stubs.
    first: u32,
    /// The thread that looks, or was the last to do so.
    looker: AtomicI32,
    members: Mutex<Vec<Arc<Member>>>,
    /// How many of the members do not wait in the kernel.
    active: AtomicUsize,
    /// What the last one that waits there has been told.
    lingering: Mutex<Option<Arc<Orders>>>,
}

/// A stub thread and the sentry's thread that serves it.
#[derive(Debug)]
struct Member {
    stub: i32,
    sentry: i32,
    /// They are where they belong.
    is_placed: AtomicBool,
    /// It is one of the active ones.
    is_active: AtomicBool,
    orders: Arc<Orders>,
    pair: Arc<Pair>,
}

/// A guest thread's part in a pair.
#[derive(Debug)]
pub struct Half {
    placement: Arc<Placement>,
    member: Arc<Member>,
}

impl Halves {
    /// Of the processors that may be used.
    pub fn new(placement: &Arc<Placement>) -> Halves {
        let pair = |n: usize| {
            Arc::new(Pair {
                first: 2 * n as u32,
                looker: AtomicI32::new(0),
                members: Mutex::default(),
                active: AtomicUsize::new(0),
                lingering: Mutex::default(),
            })
        };
        Halves { placement: Arc::clone(placement), pairs: (0..placement.cpus() / 2).map(pair).collect(), next: AtomicUsize::new(0) }
    }

    /// A place for a stub thread and the calling thread, in each pair in turn. `None`: there are no two processors.
    pub fn join(&self, stub: i32, orders: &Arc<Orders>) -> Option<Half> {
        let turn = self.next.fetch_add(1, Relaxed).checked_rem(self.pairs.len())?;
        let pair = Arc::clone(self.pairs.get(turn)?);
        let member = Arc::new(Member {
            stub,
            sentry: host::thread::tid(),
            is_placed: AtomicBool::new(false),
            is_active: AtomicBool::new(false),
            orders: Arc::clone(orders),
            pair,
        });
        member.pair.members().push(Arc::clone(&member));
        Some(Half { placement: Arc::clone(&self.placement), member })
    }
}

impl Pair {
    fn members(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Member>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn swap_lingering(&self, orders: Option<Arc<Orders>>) -> Option<Arc<Orders>> {
        std::mem::replace(&mut *self.lingering.lock().unwrap_or_else(PoisonError::into_inner), orders)
    }
}

impl Member {
    /// Whether it was not active before.
    fn set_active(&self, active: bool) -> bool {
        let changes = self.is_active.swap(active, Relaxed) != active;
        match (changes, active) {
            (true, true) => drop(self.pair.active.fetch_add(1, Relaxed)),
            (true, false) => drop(self.pair.active.fetch_sub(1, Relaxed)),
            (false, _) => {}
        }
        changes
    }
}

impl Waits for Member {
    fn about_to_wait(&self) {
        if !self.set_active(false) {
            return;
        }
        if self.pair.active.load(Relaxed) > 0 {
            self.orders.send_away();
        } else {
            self.orders.let_linger();
            self.pair.swap_lingering(Some(Arc::clone(&self.orders)));
        }
    }
}

impl Half {
    /// Whether it is this stub's.
    pub fn is_of(&self, stub: i32) -> bool {
        self.member.stub == stub
    }

    /// Who wants to know when the calling thread waits.
    pub fn waits(&self) -> Arc<dyn Waits> {
        Arc::clone(&self.member) as Arc<dyn Waits>
    }

    /// Puts both threads where they belong, if they are not there. Their stub is about to run; then whoever lingers where it will run
    /// is to [make room](Orders::make_room_for), and not before: the processor would go to sleep meanwhile.
    pub fn place(&self) -> Option<Arc<Orders>> {
        let has_waited = self.member.set_active(true);
        let lingers = if has_waited { self.member.pair.swap_lingering(None) } else { None };
        if !self.member.is_placed.swap(true, Relaxed) {
            self.placement.bind(self.member.stub, self.member.pair.first);
            self.placement.bind(self.member.sentry, self.member.pair.first + 1);
        }
        lingers.filter(|orders| !Arc::ptr_eq(orders, &self.member.orders))
    }

    /// The calling thread looks from now on, and nobody else of the pair.
    pub fn begin(&self) {
        self.member.pair.looker.store(self.member.sentry, Relaxed);
    }

    /// Whether nobody else has begun since.
    pub fn is_looker(&self) -> bool {
        self.member.pair.looker.load(Relaxed) == self.member.sentry
    }

    /// Nothing was found for long: lets all stubs of the pair run anywhere.
    pub fn give_up(&self) {
        // Under the lock none of them can leave the pair, so that the threads are theirs.
        for member in self.member.pair.members().iter() {
            if member.is_placed.swap(false, Relaxed) {
                self.placement.release(member.stub);
            }
        }
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        let mut members = self.member.pair.members();
        members.retain(|m| !Arc::ptr_eq(m, &self.member));
        self.member.set_active(false);
        // Before somebody else can have their numbers.
        self.placement.release(self.member.stub);
        self.placement.release(self.member.sentry);
    }
}
