//! System V shared memory: shmget(2), shmat(2), shmdt(2), shmctl(2).
//!
//! [`ShmTable`] is the sandbox's one namespace of [`Segment`]s. A segment's memory goes when its last mapping has gone and it was
//! removed (IPC_RMID).

use crate::{
    container::IpcNamespace,
    cred::{CapSet, Credentials},
    ipc::limits::Limits,
    mm::{MapRequest, MapSource, MemoryPool, Mm, ObjectId, Placement, SharedMemory, VmaFlags},
    user::UserAddr,
    vfs::{Mappable, MappedPages},
};
use abi::{PAGE_SIZE, Result, bail, mm::Prot};
use bitflags::bitflags;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use sync::{Mutex, Rank};

/// `IPC_PRIVATE`: no key.
pub const IPC_PRIVATE: i32 = 0;
/// Identifiers of a place in the table differ by this.
const IPCMNI: i32 = 32_768;
/// Mode bit: removed, and goes with its last mapping (`SHM_DEST`).
const DEST: u32 = 0o1000;
/// Mode bit: locked in memory (`SHM_LOCKED`).
const LOCKED: u32 = 0o2000;

bitflags! {
    /// Flags of shmget(2), its permission bits apart.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct GetFlags: i32 {
        /// `IPC_CREAT`
        const CREAT = 0o1000;
        /// `IPC_EXCL`
        const EXCL = 0o2000;
        /// `SHM_HUGETLB`
        const HUGETLB = 0o4000;
        /// `SHM_NORESERVE`
        const NORESERVE = 0o10000;
    }
}

bitflags! {
    /// Flags of shmat(2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct AttachFlags: i32 {
        /// `SHM_RDONLY`
        const RDONLY = 0o10000;
        /// `SHM_RND`
        const RND = 0o20000;
        /// `SHM_REMAP`
        const REMAP = 0o40000;
        /// `SHM_EXEC`
        const EXEC = 0o100_000;
    }
}

/// What shmctl(2) tells of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Info {
    pub key: i32,
    pub id: i32,
    pub uid: u32,
    pub gid: u32,
    pub cuid: u32,
    pub cgid: u32,
    /// Permission bits, `SHM_DEST`, `SHM_LOCKED`.
    pub mode: u32,
    pub size: u64,
    /// Seconds since 1970, as the other times.
    pub atime: i64,
    pub dtime: i64,
    pub ctime: i64,
    pub cpid: i32,
    pub lpid: i32,
    pub attached: u64,
    /// Bytes in memory.
    pub resident: u64,
}

/// A segment.
pub struct Segment {
    memory: Arc<SharedMemory>,
    id: i32,
    info: Mutex<Info>,
}

impl Mappable for Segment {
    fn pages(&self, offset: u64, len: u64, write: bool) -> Result<MappedPages> {
        self.memory.pages(offset, len, write)
    }
    fn mapped(&self, delta: i32, writable_shared: bool) {
        self.memory.mapped(delta, writable_shared);
    }
    fn discard(&self, offset: u64, len: u64) -> Result {
        self.memory.discard(offset, len)
    }
}

fn now() -> i64 {
    i64::try_from(host::time::realtime_ns() / 1_000_000_000).unwrap_or(i64::MAX)
}

impl Segment {
    /// What it is now.
    pub fn info(&self) -> Info {
        Info { attached: self.memory.attached(), resident: self.memory.resident(), ..*self.info.lock() }
    }

    /// `EACCES` unless these credentials have all rights in `want` (bits as for access(2): 4 read, 2 write).
    fn check(&self, cred: &Credentials, want: u32) -> Result {
        let i = self.info.lock();
        let mode = if [i.uid, i.cuid].contains(&cred.euid) {
            i.mode >> 6
        } else if [i.gid, i.cgid].iter().any(|&g| g == cred.egid || cred.groups.contains(&g)) {
            i.mode >> 3
        } else {
            i.mode
        };
        if want & !mode & 7 != 0 && !cred.capable(CapSet::IPC_OWNER) {
            bail!(EACCES, "segment's permissions");
        }
        Ok(())
    }

    /// `EPERM` unless these credentials own or made it.
    fn check_owner(&self, cred: &Credentials) -> Result {
        let i = self.info.lock();
        if [i.uid, i.cuid].contains(&cred.euid) || cred.capable(CapSet::SYS_ADMIN) { Ok(()) } else { bail!(EPERM, "not the owner") }
    }
}

/// A place of the table: removed segments live on in their mappings alone.
struct Slot {
    strong: Option<Arc<Segment>>,
    weak: Weak<Segment>,
}

impl Slot {
    /// Whether it has not been removed, and this holds of it.
    fn is(&self, wanted: impl FnOnce(Info) -> bool) -> bool {
        self.strong.as_ref().is_some_and(|segment| wanted(segment.info()))
    }
}

#[derive(Default)]
struct Table {
    slots: BTreeMap<i32, Slot>,
    sequence: i32,
}

/// All segments of an IPC namespace.
pub struct ShmTable {
    table: Mutex<Table>,
    /// The number of the namespace.
    ipc: u64,
    limits: Arc<Limits>,
}

impl Table {
    /// Forgets what is gone. If `forced` (`shm_rmid_forced`), who has been mapped, and is no more, goes as if it had been removed.
    fn purge(&mut self, forced: bool) {
        if forced {
            self.slots
                .values_mut()
                .filter(|slot| slot.is(|info| info.attached == 0 && info.atime != 0))
                .for_each(|slot| slot.strong = None);
        }
        self.slots.retain(|_, s| s.strong.is_some() || s.weak.strong_count() > 0);
    }

    fn segments(&self) -> impl Iterator<Item = Arc<Segment>> + '_ {
        self.slots.values().filter_map(|s| s.weak.upgrade())
    }
}

impl ShmTable {
    fn new(ipc: u64, limits: Arc<Limits>) -> ShmTable {
        ShmTable { table: Mutex::new(Rank::FileState, Table::default()), ipc, limits }
    }

    /// The limits of the namespace.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    fn forced(&self) -> bool {
        self.limits.shm_rmid_forced.get() == 1
    }

    /// The process has ended: what it made and nobody has mapped goes, too, under `shm_rmid_forced`.
    fn exit_process(&self, pid: i32) {
        if self.forced() {
            let mut t = self.table.lock();
            t.slots.values_mut().filter(|slot| slot.is(|info| info.attached == 0 && info.cpid == pid)).for_each(|slot| slot.strong = None);
            t.purge(true);
        }
    }

    /// A namespace's.
    pub fn of(ipc: &IpcNamespace) -> Arc<ShmTable> {
        let limits = Limits::of(ipc);
        ipc.attachments.get_or_insert_with(|| ShmTable::new(ipc.number, limits))
    }

    /// shmget(2): the id of the segment with this key, or of a new one. `mode`: permission bits.
    pub fn get(
        &self,
        memory: &Arc<MemoryPool>,
        key: i32,
        size: u64,
        flags: GetFlags,
        mode: u32,
        cred: &Credentials,
        pid: i32,
    ) -> Result<i32> {
        let mut t = self.table.lock();
        t.purge(self.forced());
        if key != IPC_PRIVATE {
            let found = t.slots.values().filter_map(|s| s.strong.as_ref()).find(|s| s.info.lock().key == key);
            if let Some(segment) = found {
                if flags.contains(GetFlags::CREAT | GetFlags::EXCL) {
                    bail!(EEXIST, "key is taken");
                }
                if size > segment.memory.size() {
                    bail!(EINVAL, "segment is smaller");
                }
                segment.check(cred, (mode >> 6 | mode >> 3 | mode) & 7)?;
                return Ok(segment.id);
            }
            if !flags.contains(GetFlags::CREAT) {
                bail!(ENOENT, "no such key");
            }
        }
        if size == 0 || size > self.limits.shmmax.get() {
            bail!(EINVAL, "bad size");
        }
        if flags.contains(GetFlags::HUGETLB) {
            bail!(ENOMEM, "no huge pages");
        }
        let pages: u64 = t.segments().map(|segment| segment.memory.size().div_ceil(PAGE_SIZE)).sum();
        if t.slots.len() as u64 >= self.limits.shmmni.get() || pages.saturating_add(size.div_ceil(PAGE_SIZE)) > self.limits.shmall.get() {
            bail!(ENOSPC, "too many segments, or too large");
        }
        let index = (0..IPCMNI).find(|i| !t.slots.keys().any(|id| id % IPCMNI == *i)).unwrap_or(0);
        let id = t.sequence.wrapping_mul(IPCMNI).wrapping_add(index) & i32::MAX;
        t.sequence = (t.sequence + 1) % (i32::MAX / IPCMNI);
        let info = Info {
            key,
            id,
            uid: cred.euid,
            gid: cred.egid,
            cuid: cred.euid,
            cgid: cred.egid,
            mode: mode & 0o777,
            size,
            ctime: now(),
            cpid: pid,
            ..Info::default()
        };
        let segment = Arc::new(Segment { memory: SharedMemory::new(memory, size)?, id, info: Mutex::new(Rank::Leaf, info) });
        let weak = Arc::downgrade(&segment);
        t.slots.insert(id, Slot { strong: Some(segment), weak });
        Ok(id)
    }

    /// The segment with this id. `EINVAL` if there is none.
    pub fn segment(&self, id: i32) -> Result<Arc<Segment>> {
        let mut t = self.table.lock();
        t.purge(self.forced());
        match t.slots.get(&id).and_then(|s| s.weak.upgrade()) {
            Some(s) => Ok(s),
            None => bail!(EINVAL, "no such segment"),
        }
    }

    /// All segments, in the order of their ids.
    pub fn segments(&self) -> Vec<Arc<Segment>> {
        let mut t = self.table.lock();
        t.purge(self.forced());
        t.segments().collect()
    }

    /// The segment at this place of the table (SHM_STAT).
    pub fn at_index(&self, index: i32) -> Result<Arc<Segment>> {
        let found = self.table.lock().segments().find(|s| s.id % IPCMNI == index);
        match found {
            Some(s) => Ok(s),
            None => bail!(EINVAL, "no such place"),
        }
    }

    /// The highest place in use (what IPC_INFO and SHM_INFO return).
    pub fn max_index(&self) -> i32 {
        self.table.lock().slots.keys().map(|id| id % IPCMNI).max().unwrap_or(0)
    }

    /// shmat(2): maps a segment; returns the address.
    pub fn attach(&self, mm: &Mm, id: i32, addr: UserAddr, flags: AttachFlags, cred: &Credentials, pid: i32) -> Result<u64> {
        if id < 0 {
            bail!(EINVAL, "negative id");
        }
        let mut at = addr.0;
        if at % PAGE_SIZE != 0 {
            if !flags.contains(AttachFlags::RND) {
                bail!(EINVAL, "address is not page-aligned");
            }
            at = abi::page_down(at);
            if at == 0 && flags.contains(AttachFlags::REMAP) {
                bail!(EINVAL, "nothing to replace");
            }
        }
        let placement = match (at, flags.contains(AttachFlags::REMAP)) {
            (0, true) => bail!(EINVAL, "nothing to replace"),
            (0, false) => Placement::Anywhere,
            (at, true) => Placement::Fixed(at),
            (at, false) => Placement::FixedNoReplace(at),
        };
        let segment = self.segment(id)?;
        let mut prot = Prot::READ;
        prot.set(Prot::WRITE, !flags.contains(AttachFlags::RDONLY));
        prot.set(Prot::EXEC, flags.contains(AttachFlags::EXEC));
        segment.check(cred, if prot.contains(Prot::WRITE) { 6 } else { 4 } | u32::from(prot.contains(Prot::EXEC)))?;
        let label = format!("/SYSV{:08x} (deleted)", segment.info.lock().key);
        let source = MapSource::Object { mappable: segment.clone(), id: ObjectId::Segment { ipc: self.ipc, id }, label: label.into() };
        let size = segment.memory.size();
        let request = MapRequest { placement, len: size, prot, source, flags: VmaFlags::empty(), populate: false, may_lock: true };
        let at = mm.map(request).map_err(|e| if e.is(abi::Errno::EEXIST) { abi::error!(EINVAL, "address is taken") } else { e })?;
        let mut info = segment.info.lock();
        info.atime = now();
        info.lpid = pid;
        Ok(at)
    }

    /// shmdt(2). `EINVAL` if no segment is mapped at this address.
    pub fn detach(&self, mm: &Mm, addr: UserAddr, pid: i32) -> Result {
        let Some(id) = mm.unmap_segment(addr) else { bail!(EINVAL, "no segment at that address") };
        if let Ok(segment) = self.segment(id) {
            let mut info = segment.info.lock();
            info.dtime = now();
            info.lpid = pid;
        }
        Ok(())
    }

    /// shmctl(2) IPC_STAT; `any`: SHM_STAT_ANY, without a check of permissions.
    pub fn stat(&self, segment: &Segment, cred: &Credentials, any: bool) -> Result<Info> {
        if !any {
            segment.check(cred, 4)?;
        }
        Ok(segment.info())
    }

    /// shmctl(2) IPC_SET.
    pub fn set(&self, id: i32, uid: u32, gid: u32, mode: u32, cred: &Credentials) -> Result {
        let segment = self.segment(id)?;
        segment.check_owner(cred)?;
        if uid == u32::MAX || gid == u32::MAX {
            bail!(EINVAL, "bad owner");
        }
        let mut info = segment.info.lock();
        (info.uid, info.gid) = (uid, gid);
        info.mode = info.mode & !0o777 | mode & 0o777;
        info.ctime = now();
        Ok(())
    }

    /// shmctl(2) SHM_LOCK and SHM_UNLOCK.
    pub fn lock(&self, id: i32, lock: bool, cred: &Credentials) -> Result {
        let segment = self.segment(id)?;
        if !cred.capable(CapSet::IPC_LOCK) {
            segment.check_owner(cred)?;
        }
        let mut info = segment.info.lock();
        info.mode = if lock { info.mode | LOCKED } else { info.mode & !LOCKED };
        Ok(())
    }

    /// shmctl(2) IPC_RMID: gone for those who have not mapped it.
    pub fn remove(&self, id: i32, cred: &Credentials) -> Result {
        let segment = self.segment(id)?;
        segment.check_owner(cred)?;
        {
            let mut info = segment.info.lock();
            info.mode |= DEST;
            info.key = IPC_PRIVATE;
        }
        let strong = self.table.lock().slots.get_mut(&id).and_then(|s| s.strong.take());
        drop(strong);
        Ok(())
    }
}

/// A process ends, and has given up its memory.
pub fn exit_process(task: &crate::task::Task) {
    if let Some(table) = task.container().ipc.attachments.get::<ShmTable>() {
        table.exit_process(task.tgid());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mm::tests::FakePlatform;
    use abi::Errno;
    use platform::Platform;

    #[test]
    fn segments_live_as_long_as_their_mappings() {
        let pool = Arc::new(MemoryPool::new(1 << 30).expect("pool"));
        let platform: Arc<dyn Platform> = Arc::new(FakePlatform);
        let mm = Mm::new(&pool, &platform).expect("mm");
        let (t, root) = (ShmTable::new(1, Arc::default()), Credentials::root());
        let get = |key, size, flags| t.get(&pool, key, size, flags, 0o600, &root, 1);
        let id = get(7, 5000, GetFlags::CREAT).expect("new");
        assert_eq!(get(7, 5000, GetFlags::empty()), Ok(id));
        assert_eq!(get(7, 5001, GetFlags::empty()).map_err(|e| e.errno()), Err(Errno::EINVAL));
        assert_eq!(get(7, 1, GetFlags::CREAT | GetFlags::EXCL).map_err(|e| e.errno()), Err(Errno::EEXIST));
        assert_eq!(get(8, 1, GetFlags::empty()).map_err(|e| e.errno()), Err(Errno::ENOENT));
        let none = AttachFlags::empty();
        let a = t.attach(&mm, id, UserAddr::NULL, none, &root, 2).expect("attach");
        let b = t.attach(&mm, id, UserAddr::NULL, AttachFlags::RDONLY, &root, 2).expect("attach");
        mm.copy_out(UserAddr(a), b"x").expect("write");
        let mut c = [0];
        mm.copy_in(UserAddr(b), &mut c).expect("read");
        assert_eq!(&c, b"x");
        assert!(mm.copy_out(UserAddr(b), b"y").is_err());
        assert_eq!(t.segment(id).expect("segment").info().attached, 2);
        assert!(String::from_utf8_lossy(&mm.maps_text()).contains("/SYSV00000007 (deleted)"));
        t.remove(id, &root).expect("remove");
        assert!(get(7, 5000, GetFlags::empty()).is_err());
        let nobody = Credentials { euid: 5, effective: CapSet::empty(), ..Credentials::root() };
        assert_eq!(t.attach(&mm, id, UserAddr::NULL, none, &nobody, 2).map_err(|e| e.errno()), Err(Errno::EACCES));
        t.detach(&mm, UserAddr(a), 2).expect("detach");
        assert_eq!(t.detach(&mm, UserAddr(a), 2).map_err(|e| e.errno()), Err(Errno::EINVAL));
        t.detach(&mm, UserAddr(b), 2).expect("detach");
        drop(mm);
        assert!(t.segment(id).is_err());
        assert!(pool.extents().is_empty());
    }
}
