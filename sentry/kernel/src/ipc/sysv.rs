//! What System V semaphores and message queues have in common: keys, identifiers, permissions (sysvipc(7)).

use super::limits::Limits;
use crate::cred::{CapSet, Credentials};
use crate::setting::Setting;
use abi::{Result, bail};
use std::collections::BTreeMap;
use std::sync::Arc;
use sync::{Mutex, MutexGuard, Rank};

/// `IPC_PRIVATE`: no key.
const IPC_PRIVATE: i32 = 0;
/// `IPC_CREAT`
const IPC_CREAT: i32 = 0o1000;
/// `IPC_EXCL`
const IPC_EXCL: i32 = 0o2000;
/// Identifiers of one place in the table differ by this.
const PLACES: i32 = 32_768;

/// `struct ipc64_perm`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Perm {
    pub key: i32,
    pub id: i32,
    pub uid: u32,
    pub gid: u32,
    pub cuid: u32,
    pub cgid: u32,
    /// Permission bits.
    pub mode: u32,
}

impl Perm {
    /// `EACCES` unless these credentials have all rights in `want` (4 read, 2 write).
    pub fn check(&self, cred: &Credentials, want: u32) -> Result {
        let mode = if [self.uid, self.cuid].contains(&cred.euid) {
            self.mode >> 6
        } else if [self.gid, self.cgid].iter().any(|&g| g == cred.egid || cred.groups.contains(&g)) {
            self.mode >> 3
        } else {
            self.mode
        };
        if want & !mode & 7 != 0 && !cred.capable(CapSet::IPC_OWNER) {
            bail!(EACCES, "mode {:o}", self.mode);
        }
        Ok(())
    }

    /// `EPERM` unless these credentials own or made it.
    pub fn check_owner(&self, cred: &Credentials) -> Result {
        if [self.uid, self.cuid].contains(&cred.euid) || cred.capable(CapSet::SYS_ADMIN) { Ok(()) } else { bail!(EPERM, "not the owner") }
    }

    /// IPC_SET.
    pub fn set(&mut self, uid: u32, gid: u32, mode: u32) -> Result {
        if uid == u32::MAX || gid == u32::MAX {
            bail!(EINVAL, "bad owner");
        }
        (self.uid, self.gid) = (uid, gid);
        self.mode = mode & 0o777;
        Ok(())
    }
}

/// Something with an identifier. Its own state is locked with [`Rank::FileState`], under the table's lock or without it.
pub trait Object: Send + Sync {
    /// Its permissions now.
    fn perm(&self) -> Perm;
}

struct State<T> {
    objects: BTreeMap<i32, Arc<T>>,
    sequence: i32,
}

/// All objects of one kind in the sandbox.
pub struct Table<T> {
    state: Mutex<State<T>>,
    limits: Arc<Limits>,
    max: fn(&Limits) -> &Setting,
}

/// Seconds since 1970.
pub(super) fn now() -> i64 {
    i64::try_from(host::time::realtime_ns() / 1_000_000_000).unwrap_or(i64::MAX)
}

impl<T: Object> Table<T> {
    /// A table of at most so many objects as one of these limits says.
    pub fn new(limits: Arc<Limits>, max: fn(&Limits) -> &Setting) -> Table<T> {
        Table { state: Mutex::new(Rank::Socket, State { objects: BTreeMap::new(), sequence: 0 }), limits, max }
    }

    /// The limits of the namespace.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock()
    }

    /// semget(2), msgget(2): the id of the object with this key, which `fits` must accept, or of a new one. `flags` are
    /// `IPC_*` and permission bits.
    pub fn get(
        &self,
        key: i32,
        flags: i32,
        cred: &Credentials,
        fits: impl FnOnce(&T) -> Result,
        make: impl FnOnce(Perm) -> Result<T>,
    ) -> Result<i32> {
        let mode = (flags & 0o777) as u32;
        let mut s = self.lock();
        if key != IPC_PRIVATE {
            if let Some(o) = s.objects.values().find(|o| o.perm().key == key) {
                if flags & IPC_CREAT != 0 && flags & IPC_EXCL != 0 {
                    bail!(EEXIST, "key is taken");
                }
                fits(o)?;
                o.perm().check(cred, (mode >> 6 | mode >> 3 | mode) & 7)?;
                return Ok(o.perm().id);
            }
            if flags & IPC_CREAT == 0 {
                bail!(ENOENT, "no such key");
            }
        }
        if s.objects.len() as u64 >= (self.max)(&self.limits).get() {
            bail!(ENOSPC, "too many");
        }
        let used: Vec<i32> = s.objects.keys().map(|id| id % PLACES).collect();
        let Some(place) = (0..PLACES).find(|p| !used.contains(p)) else { bail!(ENOSPC, "too many") };
        let id = s.sequence * PLACES + place;
        let perm = Perm { key, id, uid: cred.euid, gid: cred.egid, cuid: cred.euid, cgid: cred.egid, mode };
        let object = Arc::new(make(perm)?);
        s.sequence = (s.sequence + 1) % (i32::MAX / PLACES);
        s.objects.insert(id, object);
        Ok(id)
    }

    /// The object with this id. `EINVAL` if there is none.
    pub fn object(&self, id: i32) -> Result<Arc<T>> {
        match self.lock().objects.get(&id) {
            Some(o) => Ok(o.clone()),
            None => bail!(EINVAL, "no such identifier"),
        }
    }

    /// The object at this place of the table (SEM_STAT, MSG_STAT).
    pub fn at_index(&self, index: i32) -> Result<Arc<T>> {
        match self.lock().objects.iter().find(|(id, _)| *id % PLACES == index) {
            Some((_, o)) => Ok(o.clone()),
            None => bail!(EINVAL, "no such place"),
        }
    }

    /// All objects, in the order of their ids.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.lock().objects.values().cloned().collect()
    }

    /// The highest place in use.
    pub fn max_index(&self) -> i32 {
        self.lock().objects.keys().map(|id| id % PLACES).max().unwrap_or(0)
    }

    /// IPC_RMID: takes the object out of the table; the caller wakes who waits for it.
    pub fn remove(&self, id: i32, cred: &Credentials) -> Result<Arc<T>> {
        let mut s = self.lock();
        let Some(o) = s.objects.get(&id) else { bail!(EINVAL, "no such identifier") };
        o.perm().check_owner(cred)?;
        match s.objects.remove(&id) {
            Some(o) => Ok(o),
            None => bail!(EINVAL, "no such identifier"),
        }
    }
}
