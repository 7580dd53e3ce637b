//! Addresses of the application: opaque numbers that only [`crate::mm::Mm`] can turn into bytes.

use std::marker::PhantomData;

/// An address that the application named. An allegation, not proof, that anything is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UserAddr(pub u64);

impl UserAddr {
    /// The null address.
    pub const NULL: UserAddr = UserAddr(0);

    /// Whether this is the null address.
    #[must_use]
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }

    /// `self + n`, if that does not overflow.
    #[must_use]
    pub const fn checked_add(self, n: u64) -> Option<UserAddr> {
        match self.0.checked_add(n) {
            Some(a) => Some(UserAddr(a)),
            None => None,
        }
    }

    /// `self + n`, wrapped around: reading there fails with `EFAULT` like any other wild address.
    #[must_use]
    pub const fn offset(self, n: u64) -> UserAddr {
        UserAddr(self.0.wrapping_add(n))
    }

    /// The same address, said to hold a `T`.
    #[must_use]
    pub const fn cast<T>(self) -> UserRef<T> {
        UserRef { addr: self, kind: PhantomData }
    }
}

/// An address said to hold a `T`. Never a reference: read and write copy.
pub struct UserRef<T> {
    addr: UserAddr,
    kind: PhantomData<fn() -> T>,
}

impl<T> Clone for UserRef<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for UserRef<T> {}

impl<T> std::fmt::Debug for UserRef<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}", self.addr.0)
    }
}

impl<T> UserRef<T> {
    /// From an address.
    #[must_use]
    pub const fn new(addr: UserAddr) -> Self {
        UserRef { addr, kind: PhantomData }
    }
    /// The address.
    #[must_use]
    pub const fn addr(self) -> UserAddr {
        self.addr
    }
    /// Whether the address is null.
    #[must_use]
    pub const fn is_null(self) -> bool {
        self.addr.is_null()
    }
    /// `None` for null: how Linux spells an optional argument.
    #[must_use]
    pub const fn non_null(self) -> Option<Self> {
        if self.is_null() { None } else { Some(self) }
    }
    /// The `i`th element of an array that begins here.
    #[must_use]
    pub const fn at(self, i: u64) -> Self {
        UserRef::new(UserAddr(self.addr.0.wrapping_add(i.wrapping_mul(size_of::<T>() as u64))))
    }
}

/// A range of application memory, as an iovec names it. `addr + len` does not overflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserRange {
    /// First byte.
    pub addr: UserAddr,
    /// Bytes.
    pub len: usize,
}
