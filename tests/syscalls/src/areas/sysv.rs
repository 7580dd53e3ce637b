//! System V IPC: semaphores, message queues, shared memory.

use crate::sys::*;
use crate::{check, eq, err, list, ok, say, sys};

pub const TESTS: &[crate::Test] = list!["sysv"; sem_basics, sem_blocks, sem_undo, sem_many_ops, sem_errors, sem_removed, sem_timeout, msg_basics, msg_kinds,
    msg_blocks, msg_removed, msg_errors, shm_basics, shm_attach, shm_fork_exec, shm_removed, shm_errors, keys, permissions, stat_fields, info_calls];

const RW: i32 = 0o600;

fn semget(key: i32, n: i32, flags: i32) -> Result<i32, E> {
    sys!(semget, key, n, flags).map(|i| i as i32)
}

fn sems(n: i32) -> i32 {
    ok!(semget(IPC_PRIVATE, n, RW))
}

fn op(num: u16, op: i16, flags: i32) -> sembuf {
    sembuf { sem_num: num, sem_op: op, sem_flg: flags as i16 }
}

fn semop(id: i32, ops: &[sembuf]) -> R {
    sys!(semop, id, p(ops), ops.len())
}

fn val(id: i32, num: i32) -> i64 {
    ok!(sys!(semctl, id, num, GETVAL, 0))
}

fn sem_basics() {
    let id = sems(3);
    eq!((val(id, 0), val(id, 2)), (0, 0));
    ok!(sys!(semctl, id, 1, SETVAL, 5));
    ok!(semop(id, &[op(1, -2, 0), op(0, 4, 0)]));
    eq!((val(id, 0), val(id, 1)), (4, 3));
    eq!(ok!(sys!(semctl, id, 1, GETPID, 0)) as i32, getpid());
    let all = [7u16, 8, 9];
    ok!(sys!(semctl, id, 0, SETALL, p(&all)));
    let mut got = [0u16; 3];
    ok!(sys!(semctl, id, 0, GETALL, m(&mut got)));
    eq!(got, all);
    // all or nothing
    err!(semop(id, &[op(0, 1, 0), op(1, -100, IPC_NOWAIT)]), EAGAIN);
    eq!(val(id, 0), 7);
    // waits for zero
    err!(semop(id, &[op(0, 0, IPC_NOWAIT)]), EAGAIN);
    ok!(sys!(semctl, id, 0, SETVAL, 0));
    ok!(semop(id, &[op(0, 0, IPC_NOWAIT)]));
    ok!(sys!(semctl, id, 0, IPC_RMID, 0));
    err!(semop(id, &[op(0, 1, 0)]), EINVAL);
}

fn sem_blocks() {
    let id = sems(2);
    let child = fork(|| {
        ok!(semop(id, &[op(0, -3, 0)]));
        ok!(semop(id, &[op(1, 1, 0)]));
    });
    until("it waits", || ok!(sys!(semctl, id, 0, GETNCNT, 0)) == 1);
    ok!(semop(id, &[op(0, 2, 0)]));
    eq!(ok!(sys!(semctl, id, 0, GETNCNT, 0)), 1);
    ok!(semop(id, &[op(0, 1, 0)]));
    ok!(semop(id, &[op(1, -1, 0)]));
    eq!(wait(child), 0);
    ok!(sys!(semctl, id, 0, SETVAL, 1));
    let child = fork(|| {
        ok!(semop(id, &[op(0, 0, 0)]));
    });
    until("it waits for zero", || ok!(sys!(semctl, id, 0, GETZCNT, 0)) == 1);
    ok!(sys!(semctl, id, 0, SETVAL, 0));
    eq!(wait(child), 0);
}

fn sem_undo() {
    let id = sems(1);
    ok!(sys!(semctl, id, 0, SETVAL, 10));
    in_child(|| {
        ok!(semop(id, &[op(0, -4, SEM_UNDO)]));
        ok!(semop(id, &[op(0, 1, SEM_UNDO)]));
        eq!(val(id, 0), 7);
    });
    eq!(val(id, 0), 10);
    // forgotten where the value is set
    let (r, w) = pipe(0);
    let child = fork(|| {
        ok!(semop(id, &[op(0, -4, SEM_UNDO)]));
        ok!(write(w, b"x"));
        ms(60_000);
    });
    ok!(read(r, 1));
    ok!(sys!(semctl, id, 0, SETVAL, 2));
    ok!(sys!(kill, child, SIGKILL));
    wait(child);
    eq!(val(id, 0), 2);
}

fn sem_many_ops() {
    let id = sems(1);
    ok!(semop(id, &vec![op(0, 1, 0); 500]));
    eq!(val(id, 0), 500);
    err!(semop(id, &vec![op(0, 1, 0); 501]), E2BIG);
    ok!(semop(id, &[op(0, 32_267, 0)]));
    err!(semop(id, &[op(0, 1, 0)]), ERANGE);
    eq!(val(id, 0), 32_767);
}

fn sem_errors() {
    let id = sems(2);
    err!(semop(id, &[op(2, 1, 0)]), EFBIG);
    err!(sys!(semop, id, p(&op(0, 1, 0)), 0), EINVAL);
    err!(sys!(semop, id, 8, 1), EFAULT);
    err!(semop(-1, &[op(0, 1, 0)]), EINVAL);
    err!(sys!(semctl, id, 2, GETVAL, 0), EINVAL);
    err!(sys!(semctl, id, 0, SETVAL, -1), ERANGE);
    err!(sys!(semctl, id, 0, SETVAL, 32_768), ERANGE);
    err!(sys!(semctl, id, 0, 99, 0), EINVAL);
    err!(sys!(semctl, id, 0, GETALL, 8), EFAULT);
    err!(semget(IPC_PRIVATE, 0, RW), EINVAL);
    err!(semget(IPC_PRIVATE, -1, RW), EINVAL);
    err!(semget(IPC_PRIVATE, 32_001, RW), EINVAL);
}

fn sem_removed() {
    let id = sems(1);
    let child = fork(|| {
        err!(semop(id, &[op(0, -1, 0)]), EIDRM);
    });
    until("it waits", || ok!(sys!(semctl, id, 0, GETNCNT, 0)) == 1);
    ok!(sys!(semctl, id, 0, IPC_RMID, 0));
    eq!(wait(child), 0);
}

extern "C" fn nothing(_: i32, _: *mut siginfo_t, _: *mut c_void) {}

fn sem_timeout() {
    let id = sems(1);
    let begin = now(CLOCK_MONOTONIC);
    err!(sys!(semtimedop, id, p(&op(0, -1, 0)), 1, p(&ts(40))), EAGAIN);
    check!(now(CLOCK_MONOTONIC) - begin >= 0.04);
    let bad = timespec { tv_sec: 0, tv_nsec: -1 };
    err!(sys!(semtimedop, id, p(&op(0, -1, 0)), 1, p(&bad)), EINVAL);
    // never restarted
    on(SIGALRM, nothing, SA_RESTART);
    let soon = itimerval { it_interval: timeval { tv_sec: 0, tv_usec: 0 }, it_value: timeval { tv_sec: 0, tv_usec: 30_000 } };
    ok!(sys!(setitimer, ITIMER_REAL, p(&soon), 0));
    err!(semop(id, &[op(0, -1, 0)]), EINTR);
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Msg {
    kind: i64,
    text: [u8; 32],
}

fn msgs() -> i32 {
    ok!(sys!(msgget, IPC_PRIVATE, RW)) as i32
}

fn snd(id: i32, kind: i64, text: &[u8], flags: i32) -> R {
    let mut m = Msg { kind, text: [0; 32] };
    m.text[..text.len()].copy_from_slice(text);
    sys!(msgsnd, id, p(&m), text.len(), flags)
}

fn rcv(id: i32, kind: i64, room: usize, flags: i32) -> Result<(i64, Vec<u8>), E> {
    let mut m = Msg { kind: 0, text: [0; 32] };
    let n = sys!(msgrcv, id, m_ptr(&mut m), room, kind, flags)?;
    Ok((m.kind, m.text[..n as usize].to_vec()))
}

fn m_ptr(msg: &mut Msg) -> i64 {
    m(msg)
}

fn msg_basics() {
    let id = msgs();
    ok!(snd(id, 1, b"one", 0));
    ok!(snd(id, 2, b"", 0));
    eq!(ok!(rcv(id, 0, 32, 0)), (1, b"one".to_vec()));
    eq!(ok!(rcv(id, 0, 0, 0)), (2, b"".to_vec()));
    err!(rcv(id, 0, 32, IPC_NOWAIT), ENOMSG);
}

fn msg_kinds() {
    let id = msgs();
    for (kind, text) in [(5, "five"), (3, "three"), (9, "nine"), (3, "more")] {
        ok!(snd(id, kind, text.as_bytes(), 0));
    }
    eq!(ok!(rcv(id, 3, 32, 0)).1, b"three");
    eq!(ok!(rcv(id, -8, 32, 0)).1, b"more");
    eq!(ok!(rcv(id, 5, 32, MSG_EXCEPT)).1, b"nine");
    err!(rcv(id, 0, 2, 0), E2BIG);
    eq!(ok!(rcv(id, 0, 2, MSG_NOERROR)).1, b"fi");
    err!(rcv(id, 0, 2, IPC_NOWAIT), ENOMSG);
}

fn msg_blocks() {
    let id = msgs();
    let child = fork(|| {
        eq!(ok!(rcv(id, 7, 32, 0)).1, b"awaited");
    });
    ok!(snd(id, 6, b"other", 0));
    ok!(snd(id, 7, b"awaited", 0));
    eq!(wait(child), 0);
    eq!(ok!(rcv(id, 0, 32, 0)).1, b"other");
    // full
    while snd(id, 1, &[0; 32], IPC_NOWAIT).is_ok() {}
    err!(snd(id, 1, &[0; 32], IPC_NOWAIT), EAGAIN);
    let child = fork(|| {
        ok!(snd(id, 2, &[1; 32], 0));
    });
    until("it waits", || state(child) == 'S');
    ok!(rcv(id, 0, 32, 0));
    eq!(wait(child), 0);
}

fn msg_removed() {
    let id = msgs();
    let child = fork(|| {
        err!(rcv(id, 0, 32, 0), EIDRM);
    });
    until("it waits", || state(child) == 'S');
    ok!(sys!(msgctl, id, IPC_RMID, 0));
    eq!(wait(child), 0);
    err!(snd(id, 1, b"x", 0), EINVAL);
}

fn msg_errors() {
    let id = msgs();
    err!(snd(id, 0, b"x", 0), EINVAL);
    err!(snd(id, -1, b"x", 0), EINVAL);
    err!(sys!(msgsnd, id, 8, 1, 0), EFAULT);
    let big = vec![1u8; 9000];
    err!(sys!(msgsnd, id, p(&big[..]), 8193, 0), EINVAL);
    err!(sys!(msgrcv, id, p(&big[..]), -1, 0, 0), EINVAL);
    err!(sys!(msgget, 77, 0), ENOENT);
    err!(sys!(msgctl, id, 99, 0), EINVAL);
    err!(sys!(msgctl, id, IPC_STAT, 8), EFAULT);
}

fn shmget(key: i32, size: usize, flags: i32) -> Result<i32, E> {
    sys!(shmget, key, size, flags).map(|i| i as i32)
}

fn shmat(id: i32, at: i64, flags: i32) -> Result<*mut u8, E> {
    sys!(shmat, id, at, flags).map(|a| a as *mut u8)
}

fn attached(id: i32) -> u64 {
    let mut d = unsafe { std::mem::zeroed::<shmid_ds>() };
    ok!(sys!(shmctl, id, IPC_STAT, m(&mut d)));
    d.shm_nattch
}

fn shm_basics() {
    let id = ok!(shmget(IPC_PRIVATE, 10_000, RW));
    let a = ok!(shmat(id, 0, 0));
    let b = ok!(shmat(id, 0, SHM_RDONLY));
    check!(a != b);
    unsafe {
        eq!(*a, 0);
        a.add(9_999).write(7);
        eq!(*b.add(9_999), 7);
        // to the end of the page
        a.add(12_287).write(8);
    }
    eq!(attached(id), 2);
    ok!(sys!(shmdt, a));
    eq!(attached(id), 1);
    ok!(sys!(shmdt, b));
    err!(sys!(shmdt, b), EINVAL);
    let again = ok!(shmat(id, 0, 0));
    eq!(unsafe { *again.add(9_999) }, 7);
}

fn shm_attach() {
    let id = ok!(shmget(IPC_PRIVATE, 8192, RW));
    let place = anon(16_384, MAP_PRIVATE) as i64;
    err!(shmat(id, place, 0), EINVAL);
    err!(shmat(id, place + 1, 0), EINVAL);
    eq!(ok!(shmat(id, place + 1, SHM_RND | SHM_REMAP)) as i64, place);
    unsafe { (place as *mut u8).write(3) };
    ok!(sys!(munmap, place, 4096));
    eq!(attached(id), 1);
    ok!(sys!(munmap, place + 4096, 4096));
    eq!(attached(id), 0);
    let ro = ok!(shmat(id, 0, SHM_RDONLY));
    let child = fork(|| unsafe { std::ptr::write_volatile(ro, 1) });
    say!("{}", show_status(wait(child)));
    err!(sys!(mprotect, ro, 4096, PROT_READ | PROT_WRITE), EACCES);
    let code = ok!(shmat(id, 0, SHM_EXEC));
    unsafe { code.write(0xc3) };
    let f: extern "C" fn() = unsafe { std::mem::transmute(code) };
    f();
}

fn shm_fork_exec() {
    let id = ok!(shmget(IPC_PRIVATE, 4096, RW));
    let a = ok!(shmat(id, 0, 0));
    in_child(|| {
        eq!(attached(id), 2);
        unsafe { a.write(9) };
    });
    eq!(attached(id), 1);
    eq!(unsafe { *a }, 9);
}

fn shm_removed() {
    let id = ok!(shmget(0x1234, 4096, RW | IPC_CREAT));
    let a = ok!(shmat(id, 0, 0));
    ok!(sys!(shmctl, id, IPC_RMID, 0));
    // it lives on, without its key
    unsafe { a.write(1) };
    err!(shmget(0x1234, 4096, 0), ENOENT);
    let mut d = unsafe { std::mem::zeroed::<shmid_ds>() };
    ok!(sys!(shmctl, id, IPC_STAT, m(&mut d)));
    eq!(d.shm_perm.mode & SHM_DEST as u16, SHM_DEST as u16);
    let second = ok!(shmat(id, 0, 0));
    eq!(unsafe { *second }, 1);
    ok!(sys!(shmdt, a));
    ok!(sys!(shmdt, second));
    err!(sys!(shmctl, id, IPC_STAT, m(&mut d)), EINVAL);
}

/// The flag of `shm_perm.mode` of a segment that goes with its last attachment.
const SHM_DEST: i32 = 0o1000;

fn shm_errors() {
    err!(shmget(IPC_PRIVATE, 0, RW), EINVAL);
    let id = ok!(shmget(0x77, 4096, RW | IPC_CREAT));
    err!(shmget(0x77, 8192, 0), EINVAL);
    eq!(ok!(shmget(0x77, 100, 0)), id);
    err!(shmat(-1, 0, 0), EINVAL);
    err!(shmat(id, 0, SHM_REMAP), EINVAL);
    err!(sys!(shmdt, 4096), EINVAL);
    err!(sys!(shmctl, id, 99, 0), EINVAL);
}

fn keys() {
    let id = ok!(semget(5, 1, RW | IPC_CREAT));
    eq!(ok!(semget(5, 1, 0)), id);
    eq!(ok!(semget(5, 0, 0)), id);
    err!(semget(5, 1, IPC_CREAT | IPC_EXCL), EEXIST);
    err!(semget(5, 2, 0), EINVAL);
    err!(semget(6, 1, 0), ENOENT);
    let q = ok!(sys!(msgget, 5, RW | IPC_CREAT)) as i32;
    eq!(ok!(sys!(msgget, 5, 0)) as i32, q);
    err!(sys!(msgget, 5, IPC_CREAT | IPC_EXCL), EEXIST);
    let s = ok!(shmget(5, 10, RW | IPC_CREAT));
    err!(shmget(5, 10, IPC_CREAT | IPC_EXCL), EEXIST);
    // private ones are always new
    check!(sems(1) != sems(1));
    ok!(sys!(semctl, id, 0, IPC_RMID, 0));
    err!(semget(5, 1, 0), ENOENT);
    check!(ok!(semget(5, 1, RW | IPC_CREAT)) != id);
    ok!(sys!(shmctl, s, IPC_RMID, 0));
}

fn permissions() {
    let id = ok!(semget(5, 1, 0o640 | IPC_CREAT));
    let q = ok!(sys!(msgget, 5, 0o600 | IPC_CREAT)) as i32;
    let s = ok!(shmget(5, 4096, 0o644 | IPC_CREAT));
    in_child(|| {
        ok!(sys!(setresgid, 1000, 1000, 1000));
        ok!(sys!(setresuid, 1000, 1000, 1000));
        err!(semget(5, 1, 0o600), EACCES);
        err!(semop(id, &[op(0, 1, 0)]), EACCES);
        err!(sys!(semctl, id, 0, GETVAL, 0), EACCES);
        err!(sys!(semctl, id, 0, IPC_RMID, 0), EPERM);
        err!(snd(q, 1, b"x", 0), EACCES);
        err!(rcv(q, 0, 9, IPC_NOWAIT), EACCES);
        err!(shmat(s, 0, 0), EACCES);
        ok!(shmat(s, 0, SHM_RDONLY));
        err!(sys!(shmctl, s, IPC_RMID, 0), EPERM);
    });
}

fn stat_fields() {
    let id = sems(3);
    ok!(semop(id, &[op(0, 1, 0)]));
    let mut d = unsafe { std::mem::zeroed::<semid_ds>() };
    ok!(sys!(semctl, id, 0, IPC_STAT, m(&mut d)));
    say!("{} {:o} {} {}", d.sem_nsems, d.sem_perm.mode, d.sem_perm.uid, d.sem_perm.cuid);
    check!((now(CLOCK_REALTIME) - d.sem_otime as f64).abs() < 20.0);
    check!((now(CLOCK_REALTIME) - d.sem_ctime as f64).abs() < 20.0);
    d.sem_perm.mode = 0o644;
    d.sem_perm.uid = 1000;
    ok!(sys!(semctl, id, 0, IPC_SET, p(&d)));
    ok!(sys!(semctl, id, 0, IPC_STAT, m(&mut d)));
    say!("{:o} {} {}", d.sem_perm.mode, d.sem_perm.uid, d.sem_perm.cuid);
    let q = msgs();
    ok!(snd(q, 1, b"four", 0));
    let mut d = unsafe { std::mem::zeroed::<msqid_ds>() };
    ok!(sys!(msgctl, q, IPC_STAT, m(&mut d)));
    say!("{} {} {}", d.msg_qnum, d.__msg_cbytes, d.msg_qbytes);
    eq!(d.msg_lspid, getpid());
    let s = ok!(shmget(IPC_PRIVATE, 5000, RW));
    let mut d = unsafe { std::mem::zeroed::<shmid_ds>() };
    ok!(sys!(shmctl, s, IPC_STAT, m(&mut d)));
    say!("{} {} {:o}", d.shm_segsz, d.shm_nattch, d.shm_perm.mode);
    eq!(d.shm_cpid, getpid());
}

fn info_calls() {
    let mut i = [0i32; 10];
    let id = sems(2);
    ok!(sys!(semctl, 0, 0, IPC_INFO, m(&mut i)));
    say!("semmni {} semmns {} semmsl {} semopm {} semvmx {}", i[1], i[2], i[4], i[5], i[8]);
    let highest = ok!(sys!(semctl, 0, 0, 19, m(&mut i)));
    say!("used {} sems {}", i[7], i[9]);
    let mut d = unsafe { std::mem::zeroed::<semid_ds>() };
    eq!(ok!(sys!(semctl, highest, 0, 18, m(&mut d))) as i32, id);
    let q = msgs();
    ok!(snd(q, 1, b"four", 0));
    let shared = ok!(shmget(0x55, 5000, 0o640 | IPC_CREAT));
    ok!(shmat(shared, 0, 0));
    // ids and times differ from run to run
    for f in ["sem", "msg", "shm"] {
        for line in text(&format!("/proc/sysvipc/{f}")) {
            let words: Vec<_> = line
                .split_whitespace()
                .enumerate()
                .filter(|(i, w)| *i != 1 && (w.len() < 10 || w.parse::<u64>().is_err()))
                .map(|w| w.1)
                .collect();
            say!("{} {words:?}", line.len());
        }
    }
}

fn text(path: &str) -> Vec<String> {
    String::from_utf8_lossy(&get(path)).lines().map(|l| l.replace(&format!("{:5} ", getpid()), "   me ")).collect()
}
