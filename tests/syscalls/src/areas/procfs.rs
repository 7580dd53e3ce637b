//! /proc and /sys: what ps, top, shells and libraries read there.

use crate::sys::*;
use crate::{check, eq, err, list, ok, say, sys};

pub const TESTS: &[crate::Test] = list!["procfs";
    pid_listing, stat_fields, status_fields, task_dir, self_links, fd_dir, other_user, cpuinfo_meminfo, global_files, sys_tree, write_protected,
    cmdline_changes, environ_of_child, ns_links, gone_process, cwd_root_links, read_in_pieces, children_file, comm_of_thread, sysctl_values, mem_file, uptime_grows,
];

fn text(path: &str) -> String {
    String::from_utf8_lossy(&get(path)).into_owned()
}

fn pid_listing() {
    let child = fork(|| ms(60_000));
    let list: Vec<i32> =
        std::fs::read_dir("/proc").unwrap().filter_map(|e| e.unwrap().file_name().to_string_lossy().parse().ok()).collect();
    check!(list.contains(&1) && list.contains(&getpid()) && list.contains(&child));
    let mut sorted = list.clone();
    sorted.sort();
    eq!(list, sorted);
    ok!(stat(&c(format!("/proc/{child}/stat"))));
    ok!(sys!(kill, child, SIGKILL));
    wait(child);
    err!(stat(&c(format!("/proc/{child}"))), ENOENT);
    err!(stat(c"/proc/0"), ENOENT);
    err!(stat(c"/proc/0001"), ENOENT);
    err!(sys!(mkdir, c"/proc/x", 0o755), ENOENT);
    err!(open(c"/proc/x", O_CREAT | O_RDWR), ENOENT);
    eq!(ok!(stat(c"/proc")).st_mode, S_IFDIR | 0o555);
}

fn stat_fields() {
    let child = fork(|| {
        ok!(sys!(setsid));
        ok!(sys!(prctl, PR_SET_NAME, c"a (b) c"));
        ok!(sys!(setpriority, 0, 0, 5));
        ok!(sys!(kill, getpid(), SIGSTOP));
    });
    until("stopped", || state(child) == 'T');
    let line = text(&format!("/proc/{child}/stat"));
    eq!(line.ends_with('\n'), true);
    let (head, tail) = line.rsplit_once(") ").unwrap();
    say!("{}", head.replace(&child.to_string(), "PID"));
    let f: Vec<&str> = tail.split_whitespace().collect();
    eq!(f.len(), 50);
    say!(
        "state {} ppid {} pgrp {} session {} tty {} tpgid {}",
        f[0],
        f[1] == getpid().to_string(),
        f[2] == child.to_string(),
        f[3] == child.to_string(),
        f[4],
        f[5]
    );
    say!("priority {} nice {} threads {} exit signal {}", f[15], f[16], f[17], f[35]);
    check!(f[19].parse::<u64>().unwrap() > 0 && f[20].parse::<u64>().unwrap() > 0 && f[21].parse::<u64>().unwrap() > 0);
    ok!(sys!(kill, child, SIGKILL));
    wait(child);
}

fn status_fields() {
    let s = text("/proc/self/status");
    let keys: Vec<&str> = s.lines().filter_map(|l| l.split_once(':').map(|x| x.0)).collect();
    for k in [
        "Name",
        "Umask",
        "State",
        "Tgid",
        "Pid",
        "PPid",
        "TracerPid",
        "Uid",
        "Gid",
        "FDSize",
        "Groups",
        "NStgid",
        "NSpid",
        "NSpgid",
        "NSsid",
        "VmPeak",
        "VmSize",
        "VmRSS",
        "Threads",
        "SigQ",
        "SigPnd",
        "ShdPnd",
        "SigBlk",
        "SigIgn",
        "SigCgt",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Cpus_allowed",
        "Cpus_allowed_list",
        "Mems_allowed",
        "Mems_allowed_list",
        "voluntary_ctxt_switches",
        "nonvoluntary_ctxt_switches",
    ] {
        say!("{k} {}", keys.contains(&k));
    }
    mask(SIG_BLOCK, &[SIGUSR1, SIGTERM]);
    action(SIGUSR2, SIG_IGN);
    ok!(sys!(kill, getpid(), SIGUSR1));
    let s = text("/proc/self/status");
    for l in s.lines().filter(|l| {
        ["Name:", "State:", "Uid:", "Gid:", "Threads:", "ShdPnd:", "SigBlk:", "Seccomp:", "TracerPid:"].iter().any(|k| l.starts_with(k))
    }) {
        say!("{l}");
    }
    let ign = s.lines().find(|l| l.starts_with("SigIgn")).and_then(|l| l.split_whitespace().nth(1)).unwrap_or("0");
    check!(u64::from_str_radix(ign, 16).unwrap() & set(&[SIGUSR2]) != 0);
}

fn task_dir() {
    let (r, _w) = pipe(0);
    let t = threads(3, move |_| {
        let _ = read(r, 1);
    });
    until("four tasks", || std::fs::read_dir("/proc/self/task").unwrap().count() == 4);
    for e in std::fs::read_dir("/proc/self/task").unwrap() {
        let tid = e.unwrap().file_name().to_string_lossy().into_owned();
        let s = text(&format!("/proc/self/task/{tid}/status"));
        check!(s.contains(&format!("\nTgid:\t{}\n", getpid())) && s.contains(&format!("\nPid:\t{tid}\n")) && s.contains("\nThreads:\t4\n"));
        // a thread can be named in /proc but is not listed
        ok!(stat(&c(format!("/proc/{tid}/stat"))));
    }
    let listed = std::fs::read_dir("/proc").unwrap().filter_map(|e| e.unwrap().file_name().to_string_lossy().parse::<i32>().ok()).count();
    say!("{}", listed);
    drop(t);
}

fn self_links() {
    eq!(std::fs::read_link("/proc/self").unwrap().to_string_lossy(), getpid().to_string());
    eq!(std::fs::read_link("/proc/thread-self").unwrap().to_string_lossy(), format!("{0}/task/{0}", getpid()));
    eq!(std::fs::read_link("/proc/mounts").unwrap().to_string_lossy(), "self/mounts");
    in_child(|| eq!(std::fs::read_link("/proc/self").unwrap().to_string_lossy(), getpid().to_string()));
}

fn fd_dir() {
    put("a", b"");
    let f = ok!(open(c"a", O_RDWR));
    ok!(sys!(dup2, f, 200));
    let mut list: Vec<i32> =
        std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|e| e.unwrap().file_name().to_string_lossy().parse().ok()).collect();
    list.sort();
    // others may have been inherited
    for fd in [0, 1, 2, f, 200] {
        check!(list.contains(&fd));
    }
    // closed while they are read, as programs do that start others: none is missed
    for fd in 100..160 {
        ok!(sys!(dup2, f, fd));
    }
    let dir = ok!(open(c"/proc/self/fd", O_RDONLY));
    let mut seen = vec![];
    loop {
        let mut b = [0u8; 80];
        let n = ok!(sys!(getdents64, dir, m(&mut b), b.len())) as usize;
        let mut at = 0;
        while at < n {
            let len = usize::from(u16::from_le_bytes([b[at + 16], b[at + 17]]));
            let name = std::ffi::CStr::from_bytes_until_nul(&b[at + 19..at + len]).unwrap();
            if let Some(fd) = name.to_str().unwrap().parse::<i32>().ok().filter(|fd| (100..160).contains(fd)) {
                close(fd);
                seen.push(fd);
            }
            at += len;
        }
        if n == 0 {
            break;
        }
    }
    eq!(seen, (100..160).collect::<Vec<_>>());
    let st = ok!(lstat(c"/proc/self/fd/200"));
    say!("{:o}", st.st_mode);
    let ro = ok!(open(c"a", O_RDONLY));
    say!("{:o}", ok!(lstat(&c(format!("/proc/self/fd/{ro}")))).st_mode);
    let child = fork(|| ms(60_000));
    ok!(std::fs::read_link(format!("/proc/{child}/fd/200")).map_err(|_| EIO));
    ok!(sys!(kill, child, SIGKILL));
    wait(child);
}

fn other_user() {
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1000, 1000));
        say!("environ {:?}", open(c"/proc/1/environ", O_RDONLY).map(|_| ()));
        say!("fd {:?}", open(c"/proc/1/fd", O_RDONLY).map(|_| ()));
        say!("exe {:?}", sys!(readlink, c"/proc/1/exe", m(&mut [0u8; 64]), 64).map(|_| ()));
        say!("cwd {:?}", stat(c"/proc/1/cwd").map(|_| ()));
        say!("mem {:?}", open(c"/proc/1/mem", O_RDONLY).map(|_| ()));
        say!("maps {:?}", open(c"/proc/1/maps", O_RDONLY).map(|_| ()));
        check!(!text("/proc/1/stat").is_empty() && !text("/proc/1/cmdline").is_empty());
    });
}

fn cpuinfo_meminfo() {
    let cpu = text("/proc/cpuinfo");
    let n = cpu.lines().filter(|l| l.starts_with("processor")).count();
    check!(n >= 1 && cpu.contains("model name") && cpu.contains("flags"));
    let mem = text("/proc/meminfo");
    for k in [
        "MemTotal",
        "MemFree",
        "MemAvailable",
        "Buffers",
        "Cached",
        "SwapTotal",
        "SwapFree",
        "Shmem",
        "Slab",
        "Active",
        "Inactive",
        "Dirty",
        "Mapped",
    ] {
        let ok = mem.lines().any(|l| l.starts_with(&format!("{k}:")) && l.ends_with(" kB"));
        say!("{k} {ok}");
    }
    let mut set = [0u64; 16];
    let bytes = ok!(sys!(sched_getaffinity, 0, 128, m(&mut set))) as usize;
    eq!(set[..bytes / 8].iter().map(|x| x.count_ones() as usize).sum::<usize>(), n);
    let stat = text("/proc/stat");
    eq!(stat.lines().filter(|l| l.starts_with("cpu") && !l.starts_with("cpu ")).count(), n);
    for k in ["cpu ", "intr", "ctxt", "btime", "processes", "procs_running", "procs_blocked"] {
        check!(stat.lines().any(|l| l.starts_with(k)));
    }
}

fn global_files() {
    eq!(text("/proc/loadavg").split_whitespace().count(), 5);
    eq!(text("/proc/uptime").split_whitespace().count(), 2);
    check!(text("/proc/version").starts_with("Linux version "));
    for f in ["tmpfs", "proc", "sysfs", "devpts"] {
        check!(text("/proc/filesystems").lines().any(|l| l.ends_with(&format!("\t{f}"))));
    }
    for f in [
        "/proc/cmdline",
        "/proc/vmstat",
        "/proc/devices",
        "/proc/swaps",
        "/proc/partitions",
        "/proc/diskstats",
        "/proc/self/net/unix",
        "/proc/net/unix",
    ] {
        check!(std::fs::read(f).is_ok());
        say!("{f}");
    }
    err!(stat(c"/proc/none"), ENOENT);
}

fn sys_tree() {
    let online = text("/sys/devices/system/cpu/online");
    check!(online.starts_with('0') && online.ends_with('\n'));
    ok!(stat(c"/sys/devices/system/cpu/cpu0"));
    ok!(stat(c"/sys/kernel"));
    ok!(stat(c"/sys/class"));
    ok!(stat(c"/sys/fs/cgroup"));
    err!(stat(c"/sys/none"), ENOENT);
    eq!(ok!(stat(c"/sys")).st_mode & S_IFMT, S_IFDIR);
}

fn write_protected() {
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1000, 1000));
        err!(open(c"/proc/sys/kernel/hostname", O_WRONLY), EACCES);
    });
    err!(sys!(unlink, c"/proc/self/stat"), EPERM);
    err!(sys!(unlink, c"/proc/uptime"), EPERM);
    err!(sys!(rmdir, c"/proc/self"), ENOTDIR);
    err!(sys!(rename, c"/proc/uptime", c"/proc/x"), ENOENT);
    check!(open(c"/proc/self/stat", O_WRONLY).and_then(|f| write(f, b"x")).is_err());
}

fn cmdline_changes() {
    let before = text("/proc/self/cmdline");
    check!(before.ends_with('\0') && before.split('\0').count() >= 2);
    in_child(|| eq!(text("/proc/self/cmdline"), before));
}

fn environ_of_child() {
    let child = fork(|| {
        super::exec::exec(c"/proc/self/exe", &["guest", "@sleep"], &["X=1", "Y=two"]);
    });
    until("executed", || text(&format!("/proc/{child}/cmdline")).contains("@sleep"));
    say!("{:?} {:?}", text(&format!("/proc/{child}/environ")), text(&format!("/proc/{child}/cmdline")));
    ok!(sys!(kill, child, SIGKILL));
    wait(child);
}

fn ns_links() {
    for n in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
        let l = std::fs::read_link(format!("/proc/self/ns/{n}")).unwrap();
        check!(l.to_string_lossy().starts_with(&format!("{n}:[")));
    }
    eq!(ok!(stat(c"/proc/self/ns/pid")).st_ino, ok!(stat(c"/proc/1/ns/pid")).st_ino);
    let f = ok!(open(c"/proc/self/ns/uts", O_RDONLY));
    let st = fstat(f);
    say!("{:o} {} {}", st.st_mode, st.st_nlink, st.st_size);
    let shown = std::fs::read_link(format!("/proc/self/fd/{f}")).unwrap();
    eq!(shown, std::fs::read_link("/proc/self/ns/uts").unwrap());
    eq!(shown.to_string_lossy(), format!("uts:[{}]", st.st_ino));
    eq!(ok!(sys!(ioctl, f, 0xb703, 0)) as i32, CLONE_NEWUTS);
    err!(sys!(ioctl, f, 0xb702, 0), EINVAL);
    err!(read(f, 1), EINVAL);
    err!(open(c"/proc/self/ns/uts", O_RDWR), EPERM);
    // into one's own nothing happens
    ok!(sys!(setns, f, 0));
    ok!(sys!(setns, f, CLONE_NEWUTS));
    err!(sys!(setns, f, CLONE_NEWNET), EINVAL);
    let user = ok!(open(c"/proc/self/ns/user", O_RDONLY));
    err!(sys!(setns, user, 0), EINVAL);
    let (r, _) = pipe(0);
    err!(sys!(setns, r, 0), EINVAL);
    err!(sys!(setns, 99, 0), EBADF);
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1000, 1000));
        err!(sys!(setns, f, 0), EPERM);
        err!(open(c"/proc/1/ns/uts", O_RDONLY), EACCES);
        check!(std::fs::read_link("/proc/1/ns/uts").is_err());
    });
}

fn gone_process() {
    let child = fork(|| ms(60_000));
    let d = ok!(open(&c(format!("/proc/{child}")), O_RDONLY | O_DIRECTORY));
    let f = ok!(open(&c(format!("/proc/{child}/stat")), O_RDONLY));
    ok!(sys!(kill, child, SIGKILL));
    wait(child);
    err!(sys!(openat, d, c"stat", O_RDONLY, 0), ESRCH);
    err!(read(f, 100), ESRCH);
    err!(sys!(getdents64, d, m(&mut [0u8; 512]), 512), ENOENT);
}

fn cwd_root_links() {
    ok!(sys!(mkdir, c"r", 0o755));
    let here = std::env::current_dir().unwrap();
    let child = fork(|| {
        ok!(sys!(chdir, c"r"));
        ok!(sys!(chroot, c"."));
        ms(60_000);
    });
    until("it is there", || std::fs::read_link(format!("/proc/{child}/root")).is_ok_and(|l| l.ends_with("r")));
    eq!(std::fs::read_link(format!("/proc/{child}/cwd")).unwrap(), here.join("r"));
    put("r/inside", b"x");
    eq!(text(&format!("/proc/{child}/root/inside")), "x");
    eq!(text(&format!("/proc/{child}/cwd/inside")), "x");
    eq!(std::fs::read_link("/proc/self/root").unwrap().to_string_lossy(), "/");
    ok!(sys!(kill, child, SIGKILL));
    wait(child);
}

fn read_in_pieces() {
    let whole = text("/proc/self/mountinfo");
    let f = ok!(open(c"/proc/self/mountinfo", O_RDONLY));
    let mut parts = vec![];
    loop {
        let b = ok!(read(f, 17));
        if b.is_empty() {
            break;
        }
        parts.extend(b);
    }
    eq!(String::from_utf8(parts).unwrap(), whole);
    ok!(sys!(lseek, f, 5, SEEK_SET));
    eq!(ok!(read(f, 5)), whole.as_bytes()[5..10]);
    eq!(ok!(stat(c"/proc/self/mountinfo")).st_size, 0);
}

fn children_file() {
    let a = fork(|| ms(60_000));
    let b = fork(|| ms(60_000));
    let path = format!("/proc/self/task/{}/children", gettid());
    if stat(&c(&path)).is_ok() {
        eq!(text(&path), format!("{a} {b} "));
    }
    for k in [a, b] {
        ok!(sys!(kill, k, SIGKILL));
        wait(k);
    }
}

fn comm_of_thread() {
    let (r, w) = pipe(0);
    let t = threads(1, move |_| {
        ok!(sys!(prctl, PR_SET_NAME, c"worker"));
        ok!(write(w, &gettid().to_le_bytes()));
        ms(60_000);
    });
    let tid = i32::from_le_bytes(ok!(read(r, 4)).try_into().unwrap());
    eq!(text(&format!("/proc/self/task/{tid}/comm")), "worker\n");
    check!(text("/proc/self/comm") != "worker\n");
    put(&format!("/proc/self/task/{tid}/comm"), b"changed");
    eq!(text(&format!("/proc/self/task/{tid}/comm")), "changed\n");
    drop(t);
}

fn sysctl_values() {
    for f in [
        "kernel/pid_max",
        "kernel/ostype",
        "kernel/ngroups_max",
        "kernel/cap_last_cap",
        "fs/file-max",
        "fs/nr_open",
        "vm/overcommit_memory",
        "vm/max_map_count",
        "kernel/random/boot_id",
    ] {
        check!(!text(&format!("/proc/sys/{f}")).trim().is_empty());
    }
    eq!(text("/proc/sys/kernel/ostype"), "Linux\n");
    eq!(text("/proc/sys/kernel/ngroups_max"), "65536\n");
    let a = text("/proc/sys/kernel/random/uuid");
    check!(a.len() == 37 && a != text("/proc/sys/kernel/random/uuid"));
    eq!(text("/proc/sys/kernel/random/boot_id"), text("/proc/sys/kernel/random/boot_id"));
}

fn mem_file() {
    let v = [0x5a_u8; 32];
    let f = ok!(open(c"/proc/self/mem", O_RDWR));
    let mut b = [0u8; 32];
    eq!(ok!(sys!(pread64, f, m(&mut b), 32, p(&v))), 32);
    eq!(b, v);
    err!(sys!(pread64, f, m(&mut b), 32, 0), EIO);
    let ro = ok!(sys!(mmap, 0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    eq!(ok!(sys!(pwrite64, f, b"x".as_ptr(), 1, ro)), 1);
    eq!(unsafe { *(ro as *const u8) }, b'x');
    // the copy is as read-only as before
    let child = fork(|| unsafe { std::ptr::write_volatile(ro as *mut u8, 1) });
    say!("{}", show_status(wait(child)));
    // a file's private page is copied, the file stays; a shared one is written only where that is allowed
    put("f", &[b'a'; 4096]);
    let fd = ok!(open(c"f", O_RDWR));
    let private = ok!(sys!(mmap, 0, 4096, PROT_NONE, MAP_PRIVATE, fd, 0));
    eq!(ok!(sys!(pread64, f, m(&mut b), 1, private)), 1);
    eq!(b[0], b'a');
    eq!(ok!(sys!(pwrite64, f, b"y".as_ptr(), 1, private)), 1);
    ok!(sys!(mprotect, private, 4096, PROT_READ));
    eq!(unsafe { *(private as *const u8) }, b'y');
    let shared = ok!(sys!(mmap, 0, 4096, PROT_READ, MAP_SHARED, fd, 0));
    err!(sys!(pwrite64, f, b"z".as_ptr(), 1, shared), EIO);
    eq!(get("f")[0], b'a');
}

fn uptime_grows() {
    let up = || text("/proc/uptime").split_whitespace().next().unwrap().parse::<f64>().unwrap();
    let a = up();
    ms(60);
    let b = up();
    check!(b > a && b < a + 30.0);
    check!((up() - now(CLOCK_BOOTTIME)).abs() < 1.0);
}
