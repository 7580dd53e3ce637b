//! System V semaphores and message queues.

use crate::{row, table::Entry};
use abi::{Result, bail, libc, time::Timespec};
use kernel::{
    ipc::{
        limits::Limits,
        msg::{self, Msg, MsgTable},
        sem::{self, SEMVMX, SemBuf, SemTable},
        sysv::Perm,
    },
    task::CurrentTask,
    time::instant_after,
    user::{UserAddr, UserRef},
};
use std::sync::Arc;
use zerocopy::{FromBytes, Immutable, IntoBytes};

pub(crate) const ROWS: &[Entry] = &[
    row!("semget", semget),
    row!("semop", semop),
    row!("semtimedop", semtimedop),
    row!("semctl", semctl),
    row!("msgget", msgget),
    row!("msgsnd", msgsnd),
    row!("msgrcv", msgrcv),
    row!("msgctl", msgctl),
];

/// `struct ipc64_perm`, 48 bytes.
#[repr(C)]
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
struct IpcPerm {
    key: i32,
    uid: u32,
    gid: u32,
    cuid: u32,
    cgid: u32,
    mode: u32,
    seq: u16,
    pad: [u16; 3],
    unused: [u64; 2],
}

impl From<Perm> for IpcPerm {
    fn from(p: Perm) -> Self {
        let seq = u16::try_from(p.id >> 15).unwrap_or(0);
        IpcPerm { key: p.key, uid: p.uid, gid: p.gid, cuid: p.cuid, cgid: p.cgid, mode: p.mode, seq, ..IpcPerm::default() }
    }
}

/// `struct semid64_ds` of x86-64.
#[repr(C)]
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
struct SemidDs {
    perm: IpcPerm,
    otime: i64,
    unused1: u64,
    ctime: i64,
    unused2: u64,
    count: u64,
    unused3: [u64; 2],
}

/// `struct seminfo`
#[repr(C)]
#[derive(Clone, Copy, IntoBytes, Immutable)]
struct SemInfo {
    map: i32,
    mni: i32,
    mns: i32,
    mnu: i32,
    msl: i32,
    opm: i32,
    ume: i32,
    usz: i32,
    vmx: i32,
    aem: i32,
}

/// `struct msqid64_ds`
#[repr(C)]
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
struct MsqidDs {
    perm: IpcPerm,
    stime: i64,
    rtime: i64,
    ctime: i64,
    bytes: u64,
    count: u64,
    max_bytes: u64,
    last_sender: i32,
    last_receiver: i32,
    unused: [u64; 2],
}

/// `struct msginfo`
#[repr(C)]
#[derive(Clone, Copy, IntoBytes, Immutable)]
struct MsgInfo {
    pool: i32,
    map: i32,
    max: i32,
    mnb: i32,
    mni: i32,
    ssz: i32,
    tql: i32,
    seg: u16,
    pad: u16,
}

const SEM_STAT: i32 = 18;
const SEM_INFO: i32 = 19;
const SEM_STAT_ANY: i32 = 20;
const MSG_STAT: i32 = 11;
const MSG_INFO: i32 = 12;
const MSG_STAT_ANY: i32 = 13;

fn sems(t: &CurrentTask) -> Arc<SemTable> {
    SemTable::of(&t.container().ipc)
}

fn limits(t: &CurrentTask) -> Arc<Limits> {
    Limits::of(&t.container().ipc)
}

fn queues(t: &CurrentTask) -> Arc<MsgTable> {
    MsgTable::of(&t.container().ipc)
}

/// semget(2)
pub fn semget(t: &mut CurrentTask, key: i32, count: i32, flags: i32) -> Result<i32> {
    sems(t).get(key, count, flags, &t.cred())
}

/// semop(2)
pub fn semop(t: &mut CurrentTask, id: i32, ops: UserAddr, count: u32) -> Result<()> {
    semtimedop(t, id, ops, count, UserRef::new(UserAddr::NULL))
}

/// semtimedop(2)
pub fn semtimedop(t: &mut CurrentTask, id: i32, ops: UserAddr, count: u32, timeout: UserRef<Timespec>) -> Result<()> {
    if count == 0 || id < 0 {
        bail!(EINVAL);
    }
    if u64::from(count) > limits(t).semopm.get() {
        bail!(E2BIG, "too many operations");
    }
    let mut list = vec![SemBuf::default(); count as usize];
    t.mm().copy_in(ops, list.as_mut_slice().as_mut_bytes())?;
    let deadline = match timeout.non_null() {
        None => None,
        Some(at) => match t.mm().read(at)?.to_nanos() {
            Some(ns) => Some(instant_after(ns)),
            None => bail!(EINVAL, "time out of range"),
        },
    };
    sems(t).table().object(id)?.operate(t, &list, deadline)
}

fn semid_ds(i: sem::Info) -> SemidDs {
    SemidDs { perm: i.perm.into(), otime: i.otime, ctime: i.ctime, count: i.count as u64, ..SemidDs::default() }
}

fn sem_info(t: &CurrentTask, cmd: i32, at: UserAddr) -> Result<i32> {
    let table = sems(t);
    let limits = limits(t);
    let (mns, opm) = (limits.semmns.get() as i32, limits.semopm.get() as i32);
    let mut info = SemInfo {
        map: mns,
        mni: limits.semmni.get() as i32,
        mns,
        mnu: mns,
        msl: limits.semmsl.get() as i32,
        opm,
        ume: opm,
        usz: 20,
        vmx: SEMVMX,
        aem: SEMVMX,
    };
    if cmd == SEM_INFO {
        let all = table.table().all();
        info.usz = all.len() as i32;
        info.aem = all.iter().map(|s| s.count()).sum::<usize>() as i32;
    }
    t.mm().copy_out(at, info.as_bytes())?;
    Ok(table.table().max_index())
}

/// semctl(2)
pub fn semctl(t: &mut CurrentTask, id: i32, num: i32, cmd: i32, arg: u64) -> Result<i32> {
    if id < 0 {
        bail!(EINVAL, "negative id");
    }
    let (table, cred, at) = (sems(t), t.cred(), UserAddr(arg));
    match cmd {
        libc::IPC_INFO | SEM_INFO => return sem_info(t, cmd, at),
        libc::IPC_STAT | SEM_STAT | SEM_STAT_ANY => {
            let set = if cmd == libc::IPC_STAT { table.table().object(id)? } else { table.table().at_index(id)? };
            let info = set.info(&cred, cmd == SEM_STAT_ANY)?;
            t.mm().write(at.cast(), &semid_ds(info))?;
            return Ok(if cmd == libc::IPC_STAT { 0 } else { info.perm.id });
        }
        libc::IPC_RMID => return table.remove(id, &cred).map(|()| 0),
        _ => {}
    }
    let set = table.table().object(id)?;
    match cmd {
        libc::GETVAL => set.value(num, &cred),
        libc::GETPID => set.pid(num, &cred),
        libc::GETNCNT => set.waiting(num, false, &cred),
        libc::GETZCNT => set.waiting(num, true, &cred),
        libc::GETALL => {
            let values = set.values(&cred)?;
            t.mm().copy_out(at, values.as_slice().as_bytes()).map(|()| 0)
        }
        libc::SETVAL => set.set_values(num, &[arg as i32], t).map(|()| 0),
        libc::SETALL => {
            let mut values = vec![0u16; set.count()];
            t.mm().copy_in(at, values.as_mut_slice().as_mut_bytes())?;
            let values: Vec<i32> = values.into_iter().map(i32::from).collect();
            set.set_values(0, &values, t).map(|()| 0)
        }
        libc::IPC_SET => {
            let new: SemidDs = t.mm().read(at.cast())?;
            set.set(new.perm.uid, new.perm.gid, new.perm.mode, &cred).map(|()| 0)
        }
        _ => bail!(EINVAL, "unknown command"),
    }
}

/// msgget(2)
pub fn msgget(t: &mut CurrentTask, key: i32, flags: i32) -> Result<i32> {
    queues(t).get(key, flags, &t.cred())
}

/// msgsnd(2); `at` is a long and the text behind it.
pub fn msgsnd(t: &mut CurrentTask, id: i32, at: UserAddr, len: usize, flags: i32) -> Result<()> {
    let kind: i64 = t.mm().read(at.cast())?;
    if len as u64 > limits(t).msgmax.get() || id < 0 || kind < 1 {
        bail!(EINVAL, "id, length or type");
    }
    let mut text = vec![0; len];
    t.mm().copy_in(at.offset(8), &mut text)?;
    queues(t).table().object(id)?.send(t, &Msg { kind, text }, flags)
}

/// msgrcv(2)
pub fn msgrcv(t: &mut CurrentTask, id: i32, at: UserAddr, len: usize, kind: i64, flags: i32) -> Result<usize> {
    if id < 0 || i64::try_from(len).is_err() {
        bail!(EINVAL, "id or length");
    }
    let m = queues(t).table().object(id)?.receive(t, kind, len, flags)?;
    t.mm().write(at.cast(), &m.kind)?;
    t.mm().copy_out(at.offset(8), &m.text)?;
    Ok(m.text.len())
}

fn msqid_ds(i: msg::Info) -> MsqidDs {
    MsqidDs {
        perm: i.perm.into(),
        stime: i.stime,
        rtime: i.rtime,
        ctime: i.ctime,
        bytes: i.bytes,
        count: i.count,
        max_bytes: i.max_bytes,
        last_sender: i.last_sender,
        last_receiver: i.last_receiver,
        unused: [0; 2],
    }
}

fn msg_info(t: &CurrentTask, cmd: i32, at: UserAddr) -> Result<i32> {
    let table = queues(t);
    let limits = limits(t);
    let (mni, mnb) = (limits.msgmni.get(), limits.msgmnb.get());
    let mut info = MsgInfo {
        pool: (mni * mnb / 1024) as i32,
        map: mnb as i32,
        max: limits.msgmax.get() as i32,
        mnb: mnb as i32,
        mni: mni as i32,
        ssz: 16,
        tql: mnb as i32,
        seg: 0xffff,
        pad: 0,
    };
    if cmd == MSG_INFO {
        let root = kernel::cred::Credentials::root();
        let all: Vec<msg::Info> = table.table().all().iter().filter_map(|q| q.info(&root, true).ok()).collect();
        info.pool = all.len() as i32;
        info.map = all.iter().map(|i| i.count).sum::<u64>() as i32;
        info.tql = all.iter().map(|i| i.bytes).sum::<u64>() as i32;
    }
    t.mm().copy_out(at, info.as_bytes())?;
    Ok(table.table().max_index())
}

/// msgctl(2)
pub fn msgctl(t: &mut CurrentTask, id: i32, cmd: i32, at: UserAddr) -> Result<i32> {
    if id < 0 || cmd < 0 {
        bail!(EINVAL, "negative");
    }
    let (table, cred) = (queues(t), t.cred());
    match cmd {
        libc::IPC_INFO | MSG_INFO => msg_info(t, cmd, at),
        libc::IPC_STAT | MSG_STAT | MSG_STAT_ANY => {
            let queue = if cmd == libc::IPC_STAT { table.table().object(id)? } else { table.table().at_index(id)? };
            let info = queue.info(&cred, cmd == MSG_STAT_ANY)?;
            t.mm().write(at.cast(), &msqid_ds(info))?;
            Ok(if cmd == libc::IPC_STAT { 0 } else { info.perm.id })
        }
        libc::IPC_SET => {
            let new: MsqidDs = t.mm().read(at.cast())?;
            table
                .table()
                .object(id)?
                .set(new.perm.uid, new.perm.gid, new.perm.mode, new.max_bytes, limits(t).msgmnb.get(), &cred)
                .map(|()| 0)
        }
        libc::IPC_RMID => table.remove(id, &cred).map(|()| 0),
        _ => bail!(EINVAL, "unknown command"),
    }
}
