//! System V shared memory.

use crate::{row, table::Entry};
use abi::{Result, bail, libc};
use kernel::{
    ipc::shm::{AttachFlags, GetFlags, Info, ShmTable},
    task::CurrentTask,
    user::UserAddr,
};
use std::sync::Arc;
use zerocopy::{FromBytes, Immutable, IntoBytes};

pub(crate) const ROWS: &[Entry] =
    &[row!("shmget", shmget, Partial("no huge pages")), row!("shmat", shmat), row!("shmdt", shmdt), row!("shmctl", shmctl)];

/// `struct shmid64_ds`, 112 bytes.
#[repr(C)]
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
struct ShmidDs {
    key: i32,
    uid: u32,
    gid: u32,
    cuid: u32,
    cgid: u32,
    mode: u32,
    seq: u16,
    pad: [u16; 3],
    unused: [u64; 2],
    size: u64,
    atime: i64,
    dtime: i64,
    ctime: i64,
    cpid: i32,
    lpid: i32,
    attached: u64,
    unused2: [u64; 2],
}

impl From<Info> for ShmidDs {
    fn from(i: Info) -> Self {
        ShmidDs {
            key: i.key,
            uid: i.uid,
            gid: i.gid,
            cuid: i.cuid,
            cgid: i.cgid,
            mode: i.mode,
            seq: u16::try_from(i.id >> 15).unwrap_or(0),
            size: i.size,
            atime: i.atime,
            dtime: i.dtime,
            ctime: i.ctime,
            cpid: i.cpid,
            lpid: i.lpid,
            attached: i.attached,
            ..ShmidDs::default()
        }
    }
}

/// `struct shminfo64`.
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable)]
struct ShmInfo64 {
    max: u64,
    min: u64,
    mni: u64,
    seg: u64,
    all: u64,
    unused: [u64; 4],
}

/// `struct shm_info`.
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable)]
struct ShmInfo {
    used_ids: u64,
    total: u64,
    resident: u64,
    swapped: u64,
    attempts: u64,
    successes: u64,
}

const SHM_LOCK: i32 = 11;
const SHM_UNLOCK: i32 = 12;
const SHM_STAT: i32 = 13;
const SHM_INFO: i32 = 14;
const SHM_STAT_ANY: i32 = 15;

fn table(t: &CurrentTask) -> Arc<ShmTable> {
    ShmTable::of(&t.container().ipc)
}

/// shmget(2)
pub fn shmget(t: &mut CurrentTask, key: i32, size: u64, flags: i32) -> Result<i32> {
    let memory = t.kernel().memory.clone();
    table(t).get(&memory, key, size, GetFlags::from_bits_truncate(flags), (flags & 0o777) as u32, &t.cred(), t.tgid())
}

/// shmat(2)
pub fn shmat(t: &mut CurrentTask, id: i32, addr: UserAddr, flags: i32) -> Result<u64> {
    table(t).attach(&t.mm(), id, addr, AttachFlags::from_bits_truncate(flags), &t.cred(), t.tgid())
}

/// shmdt(2)
pub fn shmdt(t: &mut CurrentTask, addr: UserAddr) -> Result<()> {
    if !addr.0.is_multiple_of(abi::PAGE_SIZE) {
        bail!(EINVAL, "address is not page-aligned");
    }
    table(t).detach(&t.mm(), addr, t.tgid())
}

/// shmctl(2)
pub fn shmctl(t: &mut CurrentTask, id: i32, cmd: i32, buf: UserAddr) -> Result<i32> {
    let table = table(t);
    if cmd < 0 || id < 0 {
        bail!(EINVAL, "negative");
    }
    match cmd {
        libc::IPC_INFO => {
            let limits = table.limits();
            let (mni, all) = (limits.shmmni.get(), limits.shmall.get());
            let info = ShmInfo64 { max: limits.shmmax.get(), min: 1, mni, seg: mni, all, unused: [0; 4] };
            t.mm().write(buf.cast(), &info)?;
            return Ok(table.max_index());
        }
        SHM_INFO => {
            let list: Vec<Info> = table.segments().iter().map(|s| s.info()).collect();
            let pages = |f: fn(&Info) -> u64| list.iter().map(|i| f(i).div_ceil(abi::PAGE_SIZE)).sum();
            let (total, resident) = (pages(|i| i.size), pages(|i| i.resident));
            let info = ShmInfo { used_ids: list.len() as u64, total, resident, swapped: 0, attempts: 0, successes: 0 };
            t.mm().write(buf.cast(), &info)?;
            return Ok(table.max_index());
        }
        libc::IPC_STAT | SHM_STAT | SHM_STAT_ANY => {
            let segment = if cmd == libc::IPC_STAT { table.segment(id)? } else { table.at_index(id)? };
            let info = table.stat(&segment, &t.cred(), cmd == SHM_STAT_ANY)?;
            t.mm().write(buf.cast(), &ShmidDs::from(info))?;
            return Ok(if cmd == libc::IPC_STAT { 0 } else { info.id });
        }
        libc::IPC_SET => {
            let new: ShmidDs = t.mm().read(buf.cast())?;
            table.set(id, new.uid, new.gid, new.mode, &t.cred())?;
        }
        libc::IPC_RMID => table.remove(id, &t.cred())?,
        SHM_LOCK | SHM_UNLOCK => table.lock(id, cmd == SHM_LOCK, &t.cred())?,
        _ => bail!(EINVAL, "unknown command"),
    }
    Ok(0)
}
