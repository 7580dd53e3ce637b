//! Scheduling calls: policies, priorities, affinity, yield.

use crate::sys::*;
use crate::{check, eq, err, list, ok, say, sys};

pub const TESTS: &[crate::Test] =
    list!["sched"; policies, priorities, affinity, affinity_args, attr_calls, yield_call, nice_values, ioprio_calls, ranges];

fn policies() {
    eq!(ok!(sys!(sched_getscheduler, 0)), 0);
    let zero = 0i32;
    ok!(sys!(sched_setscheduler, 0, SCHED_BATCH, p(&zero)));
    eq!(ok!(sys!(sched_getscheduler, 0)), i64::from(SCHED_BATCH));
    in_child(|| eq!(ok!(sys!(sched_getscheduler, 0)), i64::from(SCHED_BATCH)));
    ok!(sys!(sched_setscheduler, 0, SCHED_IDLE, p(&zero)));
    ok!(sys!(sched_setscheduler, 0, SCHED_OTHER, p(&zero)));
    let one = 1i32;
    err!(sys!(sched_setscheduler, 0, SCHED_OTHER, p(&one)), EINVAL);
    err!(sys!(sched_setscheduler, 0, 99, p(&zero)), EINVAL);
    err!(sys!(sched_setscheduler, 0, SCHED_FIFO, p(&zero)), EINVAL);
    err!(sys!(sched_setscheduler, 99999, SCHED_OTHER, p(&zero)), ESRCH);
    err!(sys!(sched_setscheduler, 0, SCHED_OTHER, 0), EINVAL);
    err!(sys!(sched_getscheduler, 99999), ESRCH);
    err!(sys!(sched_getscheduler, -1), EINVAL);
    let mut v = 9i32;
    ok!(sys!(sched_getparam, 0, m(&mut v)));
    eq!(v, 0);
    err!(sys!(sched_setparam, 0, p(&one)), EINVAL);
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1000, 1000));
        let lim = rlimit { rlim_cur: 0, rlim_max: 0 };
        ok!(sys!(setrlimit, RLIMIT_RTPRIO, p(&lim)));
        err!(sys!(sched_setscheduler, 0, SCHED_RR, p(&one)), EPERM);
    });
}

fn ranges() {
    for pol in [SCHED_OTHER, SCHED_FIFO, SCHED_RR, SCHED_BATCH, SCHED_IDLE] {
        say!("{pol} {:?} {:?}", sys!(sched_get_priority_min, pol), sys!(sched_get_priority_max, pol));
    }
    err!(sys!(sched_get_priority_min, 99), EINVAL);
    let mut t = unsafe { std::mem::zeroed::<timespec>() };
    ok!(sys!(sched_rr_get_interval, 0, m(&mut t)));
}

fn priorities() {
    eq!(ok!(sys!(getpriority, PRIO_PROCESS, 0)), 20);
    ok!(sys!(setpriority, PRIO_PROCESS, 0, 10));
    eq!(ok!(sys!(getpriority, PRIO_PROCESS, 0)), 10);
    ok!(sys!(setpriority, PRIO_PROCESS, 0, 100));
    eq!(ok!(sys!(getpriority, PRIO_PROCESS, 0)), 1);
    ok!(sys!(setpriority, PRIO_PROCESS, 0, -100));
    eq!(ok!(sys!(getpriority, PRIO_PROCESS, 0)), 40);
    err!(sys!(getpriority, 9, 0), EINVAL);
    err!(sys!(getpriority, PRIO_PROCESS, 99999), ESRCH);
    err!(sys!(setpriority, PRIO_PROCESS, 99999, 0), ESRCH);
    in_child(|| {
        ok!(sys!(setpriority, PRIO_PROCESS, 0, 5));
        ok!(sys!(setresuid, 1000, 1000, 1000));
        let lim = rlimit { rlim_cur: 0, rlim_max: 0 };
        ok!(sys!(setrlimit, RLIMIT_NICE, p(&lim)));
        err!(sys!(setpriority, PRIO_PROCESS, 0, 0), EACCES);
        ok!(sys!(setpriority, PRIO_PROCESS, 0, 6));
        err!(sys!(setpriority, PRIO_PROCESS, 1, 6), EPERM);
    });
}

fn nice_values() {
    ok!(sys!(setpriority, PRIO_PROCESS, 0, 3));
    in_child(|| eq!(ok!(sys!(getpriority, PRIO_PROCESS, 0)), 17));
    in_child(|| {
        ok!(sys!(setpgid, 0, 0));
        ok!(sys!(setpriority, PRIO_PGRP, 0, 9));
        eq!(ok!(sys!(getpriority, PRIO_PGRP, 0)), 11);
    });
    eq!(ok!(sys!(getpriority, PRIO_PROCESS, 0)), 17);
}

fn affinity() {
    let mut set = [0u64; 128];
    let n = ok!(sys!(sched_getaffinity, 0, 1024, m(&mut set))) as usize;
    check!(n % 8 == 0 && n > 0);
    let first = set.iter().flat_map(|w| (0..64).map(move |b| w >> b & 1)).position(|b| b == 1).unwrap();
    let mut one = [0u64; 128];
    one[first / 64] = 1 << (first % 64);
    ok!(sys!(sched_setaffinity, 0, 1024, p(&one)));
    let mut got = [0u64; 128];
    ok!(sys!(sched_getaffinity, 0, 1024, m(&mut got)));
    eq!(got, one);
    in_child(|| {
        let mut got = [0u64; 128];
        ok!(sys!(sched_getaffinity, 0, 1024, m(&mut got)));
        eq!(got, one);
        let mut cpu = 0u32;
        ok!(sys!(getcpu, m(&mut cpu), 0, 0));
        eq!(cpu as usize, first);
    });
    ok!(sys!(sched_setaffinity, 0, 1024, p(&set)));
}

fn affinity_args() {
    let mut set = [0u64; 128];
    err!(sys!(sched_getaffinity, 0, 4, m(&mut set)), EINVAL);
    err!(sys!(sched_getaffinity, 0, 9, m(&mut set)), EINVAL);
    err!(sys!(sched_getaffinity, 99999, 1024, m(&mut set)), ESRCH);
    err!(sys!(sched_getaffinity, -1, 1024, m(&mut set)), ESRCH);
    err!(sys!(sched_setaffinity, -1, 1024, p(&[1u64; 128])), ESRCH);
    err!(sys!(sched_getscheduler, -1), EINVAL);
    err!(sys!(sched_getaffinity, 0, 1024, 8), EFAULT);
    err!(sys!(sched_setaffinity, 0, 1024, p(&set)), EINVAL);
    err!(sys!(sched_setaffinity, 0, 1024, 8), EFAULT);
    err!(sys!(sched_setaffinity, 99999, 1024, p(&set)), ESRCH);
}

fn attr_calls() {
    let mut a = [0u32; 14];
    ok!(sys!(sched_getattr, 0, m(&mut a), 48, 0));
    say!("size {} policy {} nice {}", a[0] >= 48, a[1], a[4]);
    err!(sys!(sched_getattr, 0, m(&mut a), 4, 0), EINVAL);
    err!(sys!(sched_getattr, 0, m(&mut a), 48, 1), EINVAL);
    let mut s = [0u32; 14];
    s[0] = 48;
    s[1] = SCHED_BATCH as u32;
    s[4] = 3;
    ok!(sys!(sched_setattr, 0, p(&s), 0));
    ok!(sys!(sched_getattr, 0, m(&mut a), 48, 0));
    say!("policy {} nice {}", a[1], a[4]);
    err!(sys!(sched_setattr, 0, p(&s), 9), EINVAL);
    err!(sys!(sched_setattr, 0, 0, 0), EINVAL);
}

fn yield_call() {
    for _ in 0..100 {
        ok!(sys!(sched_yield));
    }
}

fn ioprio_calls() {
    say!("{:?}", sys!(ioprio_get, 1, 0));
    ok!(sys!(ioprio_set, 1, 0, 2 << 13 | 6));
    eq!(ok!(sys!(ioprio_get, 1, 0)), 2 << 13 | 6);
    err!(sys!(ioprio_get, 9, 0), EINVAL);
    err!(sys!(ioprio_get, 1, 99999), ESRCH);
}
