//! `/proc/sysvipc`: the System V objects of an IPC namespace (proc_pid(5)), whoever may use them.

use crate::synthetic::{Entry, Fixed};
use kernel::{
    Container,
    container::IpcNamespace,
    cred::Credentials,
    ipc::{msg::MsgTable, sem::SemTable, shm::ShmTable},
};

/// The directory.
pub fn tree(container: &Container) -> Entry {
    let file = |make: fn(&IpcNamespace) -> String| {
        let ipc = container.ipc.clone();
        Entry::text(move || Ok(make(&ipc).into_bytes()))
    };
    Entry::dir(Fixed::new(vec![("msg", file(messages)), ("sem", file(semaphores)), ("shm", file(segments))]))
}

fn messages(ipc: &IpcNamespace) -> String {
    let mut out = String::from(
        "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      rtime      ctime\n",
    );
    let cred = Credentials::root();
    // Without a check this cannot fail.
    for i in MsgTable::of(ipc).table().all().iter().filter_map(|q| q.info(&cred, true).ok()) {
        let p = i.perm;
        out += &format!(
            "{:10} {:10}  {:4o}  {:10} {:10} {:5} {:5} {:5} {:5} {:5} {:5} {:10} {:10} {:10}\n",
            p.key, p.id, p.mode, i.bytes, i.count, i.last_sender, i.last_receiver, p.uid, p.gid, p.cuid, p.cgid, i.stime, i.rtime, i.ctime
        );
    }
    out
}

fn semaphores(ipc: &IpcNamespace) -> String {
    let mut out = String::from("       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n");
    let cred = Credentials::root();
    for i in SemTable::of(ipc).table().all().iter().filter_map(|s| s.info(&cred, true).ok()) {
        let p = i.perm;
        out += &format!(
            "{:10} {:10}  {:4o} {:10} {:5} {:5} {:5} {:5} {:10} {:10}\n",
            p.key, p.id, p.mode, i.count, p.uid, p.gid, p.cuid, p.cgid, i.otime, i.ctime
        );
    }
    out
}

fn segments(ipc: &IpcNamespace) -> String {
    let mut out = String::from(
        "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap\n",
    );
    for i in ShmTable::of(ipc).segments().iter().map(|s| s.info()) {
        out += &format!(
            "{:10} {:10}  {:4o} {:21} {:5} {:5}  {:5} {:5} {:5} {:5} {:5} {:10} {:10} {:10} {:21} {:21}\n",
            i.key, i.id, i.mode, i.size, i.cpid, i.lpid, i.attached, i.uid, i.gid, i.cuid, i.cgid, i.atime, i.dtime, i.ctime, i.resident, 0
        );
    }
    out
}
