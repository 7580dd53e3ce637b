//! Mutex and reader-writer lock with a rank, checked in debug builds.

use crate::Rank;
use std::ops::{Deref, DerefMut};

#[cfg(debug_assertions)]
mod held {
    use crate::Rank;
    use std::cell::RefCell;

    thread_local!(static HELD: RefCell<Vec<Rank>> = const { RefCell::new(Vec::new()) });

    pub fn acquire(rank: Rank, nested: bool) {
        HELD.with_borrow_mut(|h| {
            if let Some(&top) = h.iter().max() {
                assert!(
                    rank > top || (nested && rank == top) || rank == Rank::WaitQueue && top <= Rank::EpollReady,
                    "lock order: {rank:?} taken while holding {h:?}"
                );
            }
            h.push(rank);
        });
    }

    pub fn release(rank: Rank) {
        // A thread that is unwinding out of its last moments may have lost its locals already.
        let _ = HELD.try_with(|h| {
            let mut h = h.borrow_mut();
            if let Some(i) = h.iter().rposition(|&r| r == rank) {
                h.remove(i);
            }
        });
    }
}

#[cfg(not(debug_assertions))]
mod held {
    use crate::Rank;
    #[inline(always)]
    pub fn acquire(_: Rank, _: bool) {}
    #[inline(always)]
    pub fn release(_: Rank) {}
}

/// Gives a rank back when its guard is dropped.
struct Token(Rank);

impl Drop for Token {
    fn drop(&mut self) {
        held::release(self.0);
    }
}

/// A mutual-exclusion lock.
#[derive(Debug)]
pub struct Mutex<T: ?Sized> {
    rank: Rank,
    inner: parking_lot::Mutex<T>,
}

/// Access to what a [`Mutex`] protects.
pub struct MutexGuard<'a, T: ?Sized> {
    guard: parking_lot::MutexGuard<'a, T>,
    _token: Token,
}

impl<T> Mutex<T> {
    /// A lock of this rank.
    pub const fn new(rank: Rank, value: T) -> Self {
        Mutex { rank, inner: parking_lot::Mutex::new(value) }
    }
    /// The value, without the lock.
    pub fn into_inner(self) -> T {
        self.inner.into_inner()
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Takes the lock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        held::acquire(self.rank, false);
        MutexGuard { guard: self.inner.lock(), _token: Token(self.rank) }
    }
    /// Takes the lock while one of the same rank is held: the caller keeps the order among equals.
    pub fn lock_nested(&self) -> MutexGuard<'_, T> {
        held::acquire(self.rank, true);
        MutexGuard { guard: self.inner.lock(), _token: Token(self.rank) }
    }
    /// Takes the lock if that needs no waiting; never breaks the order.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let guard = self.inner.try_lock()?;
        held::acquire(self.rank, true);
        Some(MutexGuard { guard, _token: Token(self.rank) })
    }
    /// Access through unique ownership.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

/// A reader-writer lock. A thread must not take it for reading twice: a writer may stand between.
#[derive(Debug)]
pub struct RwLock<T: ?Sized> {
    rank: Rank,
    inner: parking_lot::RwLock<T>,
}

/// Shared access to what a [`RwLock`] protects.
pub struct RwLockReadGuard<'a, T: ?Sized> {
    guard: parking_lot::RwLockReadGuard<'a, T>,
    _token: Token,
}

/// Exclusive access to what a [`RwLock`] protects.
pub struct RwLockWriteGuard<'a, T: ?Sized> {
    guard: parking_lot::RwLockWriteGuard<'a, T>,
    _token: Token,
}

impl<T> RwLock<T> {
    /// A lock of this rank.
    pub const fn new(rank: Rank, value: T) -> Self {
        RwLock { rank, inner: parking_lot::RwLock::new(value) }
    }
}

impl<T: ?Sized> RwLock<T> {
    /// Takes the lock shared.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        held::acquire(self.rank, false);
        RwLockReadGuard { guard: self.inner.read(), _token: Token(self.rank) }
    }
    /// Takes the lock shared while one of the same rank (another lock) is held.
    pub fn read_nested(&self) -> RwLockReadGuard<'_, T> {
        held::acquire(self.rank, true);
        RwLockReadGuard { guard: self.inner.read(), _token: Token(self.rank) }
    }
    /// Takes the lock exclusively.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        held::acquire(self.rank, false);
        RwLockWriteGuard { guard: self.inner.write(), _token: Token(self.rank) }
    }
    /// Takes the lock exclusively while one of the same rank (another lock) is held.
    pub fn write_nested(&self) -> RwLockWriteGuard<'_, T> {
        held::acquire(self.rank, true);
        RwLockWriteGuard { guard: self.inner.write(), _token: Token(self.rank) }
    }
}

impl<T: ?Sized> Deref for RwLockReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T: ?Sized> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T: ?Sized> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "lock order")]
    fn wrong_order_panics() {
        let (a, b) = (Mutex::new(Rank::Mm, ()), Mutex::new(Rank::Dentry, ()));
        let _a = a.lock();
        let _b = b.lock();
    }

    #[test]
    fn right_order_and_release_pass() {
        let (a, b) = (Mutex::new(Rank::Dentry, 1), RwLock::new(Rank::Mm, 2));
        for _ in 0..2 {
            let ga = a.lock();
            let gb = b.read();
            assert_eq!(*ga + *gb, 3);
        }
    }
}
