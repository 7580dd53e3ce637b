//! Attributes: stat and statx, modes, owners, times, extended attributes, statfs.

use crate::sys::*;
use crate::{check, eq, err, list, ok, say, sys};

pub const TESTS: &[crate::Test] = list!["attr";
    stat_fields, statx_fields, statx_args, chmod_calls, chown_calls, chown_clears, utimensat_calls, utime_calls, time_updates, xattr_user,
    xattr_args, xattr_trusted, xattr_list, statfs_calls, fchmodat_links, ino_unique, fchownat_flags, umask_per_process, noatime, empty_path,
];

fn stat_fields() {
    put("a", &[1; 5000]);
    let st = ok!(stat(c"a"));
    eq!((st.st_mode, st.st_nlink, st.st_uid, st.st_gid, st.st_size), (S_IFREG | 0o644, 1, 0, 0, 5000));
    eq!((st.st_rdev, st.st_blksize), (0, 4096));
    check!(st.st_blocks >= 10 && st.st_blocks <= 24);
    let d = ok!(stat(c"."));
    eq!((d.st_dev, d.st_mode & S_IFMT), (st.st_dev, S_IFDIR));
    let r = now(CLOCK_REALTIME);
    check!((st.st_mtime as f64 - r).abs() < 5.0 && (st.st_ctime as f64 - r).abs() < 5.0);
    let mut raw = st;
    ok!(sys!(stat, c"a", m(&mut raw)));
    eq!(raw.st_ino, st.st_ino);
    ok!(sys!(lstat, c"a", m(&mut raw)));
    err!(sys!(stat, c"a", 8), EFAULT);
    err!(sys!(stat, c"none", m(&mut raw)), ENOENT);
    err!(sys!(fstat, 99, m(&mut raw)), EBADF);
    err!(sys!(newfstatat, AT_FDCWD, c"a", m(&mut raw), 0x8000_0000u32), EINVAL);
    let (r, _w) = pipe(0);
    eq!(fstat(r).st_mode, S_IFIFO | 0o600);
    check!(ok!(stat(c"/proc")).st_dev != st.st_dev);
}

fn statx_fields() {
    put("a", b"abc");
    ok!(sys!(chmod, c"a", 0o640));
    let mut x = unsafe { std::mem::zeroed::<statx>() };
    ok!(sys!(statx, AT_FDCWD, c"a", 0, STATX_BASIC_STATS, m(&mut x)));
    eq!(x.stx_mask & STATX_BASIC_STATS, STATX_BASIC_STATS);
    eq!((x.stx_mode, x.stx_size, x.stx_nlink, x.stx_uid), ((S_IFREG | 0o640) as u16, 3, 1, 0));
    let st = ok!(stat(c"a"));
    eq!((x.stx_ino, x.stx_mtime.tv_sec), (st.st_ino, st.st_mtime));
    eq!(makedev(x.stx_dev_major, x.stx_dev_minor), st.st_dev);
    ok!(sys!(symlink, c"a", c"l"));
    ok!(sys!(statx, AT_FDCWD, c"l", AT_SYMLINK_NOFOLLOW, STATX_TYPE, m(&mut x)));
    eq!(u32::from(x.stx_mode) & S_IFMT, S_IFLNK);
    let f = ok!(open(c"a", O_RDONLY));
    ok!(sys!(statx, f, c"", AT_EMPTY_PATH, STATX_ALL, m(&mut x)));
    eq!(x.stx_size, 3);
    ok!(sys!(statx, AT_FDCWD, c"/dev/null", 0, STATX_BASIC_STATS, m(&mut x)));
    eq!((x.stx_rdev_major, x.stx_rdev_minor), (1, 3));
}

fn statx_args() {
    let mut x = unsafe { std::mem::zeroed::<statx>() };
    err!(sys!(statx, AT_FDCWD, c"none", 0, STATX_ALL, m(&mut x)), ENOENT);
    err!(sys!(statx, AT_FDCWD, c".", 0, 0x8000_0000u32, m(&mut x)), EINVAL);
    err!(sys!(statx, AT_FDCWD, c".", 1, STATX_ALL, m(&mut x)), EINVAL);
    err!(sys!(statx, AT_FDCWD, c".", AT_STATX_FORCE_SYNC | AT_STATX_DONT_SYNC, STATX_ALL, m(&mut x)), EINVAL);
    err!(sys!(statx, AT_FDCWD, c"", 0, STATX_ALL, m(&mut x)), ENOENT);
    err!(sys!(statx, 99, c"x", 0, STATX_ALL, m(&mut x)), EBADF);
    err!(sys!(statx, AT_FDCWD, c".", 0, STATX_ALL, 8), EFAULT);
    ok!(sys!(statx, AT_FDCWD, c".", 0, 0, m(&mut x)));
}

fn chmod_calls() {
    put("a", b"");
    ok!(sys!(chmod, c"a", 0o7777));
    eq!(ok!(stat(c"a")).st_mode, S_IFREG | 0o7777);
    ok!(sys!(chmod, c"a", 0o100600));
    eq!(ok!(stat(c"a")).st_mode, S_IFREG | 0o600);
    let f = ok!(open(c"a", O_RDONLY));
    ok!(sys!(fchmod, f, 0o444));
    eq!(fstat(f).st_mode & 0o7777, 0o444);
    err!(sys!(chmod, c"none", 0), ENOENT);
    err!(sys!(chmod, c"a/b", 0), ENOTDIR);
    err!(sys!(fchmod, 99, 0), EBADF);
    ok!(sys!(fchmodat, AT_FDCWD, c"a", 0o400));
    ok!(sys!(chown, c"a", 1000, 4242));
    ok!(sys!(chmod, c".", 0o777));
    in_child(|| {
        ok!(sys!(setresgid, 1000, 1000, 1000));
        ok!(sys!(setresuid, 1000, 1000, 1000));
        // set-group-ID falls away, because 4242 is none of the caller's groups
        ok!(sys!(chmod, c"a", 0o6755));
        eq!(ok!(stat(c"a")).st_mode & 0o7777, 0o4755);
    });
    in_child(|| {
        ok!(sys!(setresuid, 1001, 1001, 1001));
        err!(sys!(chmod, c"a", 0o777), EPERM);
    });
}

fn fchmodat_links() {
    put("a", b"");
    ok!(sys!(symlink, c"a", c"l"));
    ok!(sys!(chmod, c"l", 0o600));
    eq!(ok!(stat(c"a")).st_mode & 0o777, 0o600);
    eq!(ok!(lstat(c"l")).st_mode & 0o777, 0o777);
    let r = raw(452, &[i64::from(AT_FDCWD), p(c"l"), 0o600, i64::from(AT_SYMLINK_NOFOLLOW)]);
    // before Linux 6.6 the call does not exist
    check!(r == Err(EOPNOTSUPP) || r == Err(ENOSYS));
}

fn chown_calls() {
    put("a", b"");
    ok!(sys!(chown, c"a", 5, 6));
    let st = ok!(stat(c"a"));
    eq!((st.st_uid, st.st_gid), (5, 6));
    ok!(sys!(chown, c"a", -1, 7));
    ok!(sys!(chown, c"a", 8, -1));
    let st = ok!(stat(c"a"));
    eq!((st.st_uid, st.st_gid), (8, 7));
    ok!(sys!(symlink, c"a", c"l"));
    ok!(sys!(lchown, c"l", 50, 51));
    eq!((ok!(stat(c"a")).st_uid, ok!(lstat(c"l")).st_uid), (8, 50));
    let f = ok!(open(c"a", O_RDONLY));
    ok!(sys!(fchown, f, 1, 2));
    eq!(fstat(f).st_gid, 2);
    err!(sys!(chown, c"none", 1, 1), ENOENT);
    ok!(sys!(chown, c"a", 1000, 1000));
    in_child(|| {
        ok!(sys!(setgroups, 1, p(&[77u32])));
        ok!(sys!(setresgid, 1000, 1000, 1000));
        ok!(sys!(setresuid, 1000, 1000, 1000));
        err!(sys!(chown, c"a", 1001, -1), EPERM);
        err!(sys!(chown, c"a", -1, 5), EPERM);
        ok!(sys!(chown, c"a", -1, 77));
        ok!(sys!(chown, c"a", 1000, 1000));
        ok!(sys!(chown, c"a", -1, -1));
    });
}

fn chown_clears() {
    put("a", b"");
    for (mode, left) in [(0o6755, 0o755), (0o2745, 0o2745), (0o4755, 0o755), (0o2755, 0o755), (0o6644, 0o2644)] {
        ok!(sys!(chmod, c"a", mode));
        ok!(sys!(chown, c"a", 1, 1));
        say!("{mode:o} -> {:o}", ok!(stat(c"a")).st_mode & 0o7777);
        let _ = left;
    }
    ok!(sys!(mkdir, c"d", 0o755));
    ok!(sys!(chmod, c"d", 0o6755));
    ok!(sys!(chown, c"d", 1, 1));
    eq!(ok!(stat(c"d")).st_mode & 0o7777, 0o6755);
}

fn fchownat_flags() {
    put("a", b"");
    ok!(sys!(symlink, c"a", c"l"));
    ok!(sys!(fchownat, AT_FDCWD, c"l", 3, 4, AT_SYMLINK_NOFOLLOW));
    eq!(ok!(lstat(c"l")).st_uid, 3);
    ok!(sys!(fchownat, AT_FDCWD, c"l", 5, 6, 0));
    eq!(ok!(stat(c"a")).st_uid, 5);
    let f = ok!(open(c"a", O_PATH));
    ok!(sys!(fchownat, f, c"", 7, 8, AT_EMPTY_PATH));
    eq!(ok!(stat(c"a")).st_uid, 7);
    err!(sys!(fchownat, AT_FDCWD, c"a", 1, 1, 1), EINVAL);
}

fn utimensat_calls() {
    put("a", b"");
    let t = [timespec { tv_sec: 1000, tv_nsec: 123_456_789 }, timespec { tv_sec: 2_000_000_000, tv_nsec: 987_654_321 }];
    ok!(sys!(utimensat, AT_FDCWD, c"a", p(&t), 0));
    let st = ok!(stat(c"a"));
    eq!((st.st_atime, st.st_atime_nsec, st.st_mtime, st.st_mtime_nsec), (1000, 123_456_789, 2_000_000_000, 987_654_321));
    let omit = [timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, timespec { tv_sec: 5, tv_nsec: 0 }];
    ok!(sys!(utimensat, AT_FDCWD, c"a", p(&omit), 0));
    let st = ok!(stat(c"a"));
    eq!((st.st_atime, st.st_mtime, st.st_mtime_nsec), (1000, 5, 0));
    let at_now = [timespec { tv_sec: 0, tv_nsec: UTIME_NOW }, omit[0]];
    ok!(sys!(utimensat, AT_FDCWD, c"a", p(&at_now), 0));
    check!((ok!(stat(c"a")).st_atime as f64 - now(CLOCK_REALTIME)).abs() < 5.0);
    eq!(ok!(stat(c"a")).st_mtime, 5);
    ok!(sys!(symlink, c"a", c"l"));
    ok!(sys!(utimensat, AT_FDCWD, c"l", p(&t), AT_SYMLINK_NOFOLLOW));
    eq!((ok!(lstat(c"l")).st_mtime, ok!(stat(c"a")).st_mtime), (2_000_000_000, 5));
    let f = ok!(open(c"a", O_RDONLY));
    ok!(sys!(utimensat, f, 0, p(&t), 0));
    eq!(fstat(f).st_mtime, 2_000_000_000);
    ok!(sys!(utimensat, f, 0, 0, 0));
    check!((fstat(f).st_mtime as f64 - now(CLOCK_REALTIME)).abs() < 5.0);
    let bad = [timespec { tv_sec: 0, tv_nsec: 1_000_000_000 }, omit[0]];
    err!(sys!(utimensat, AT_FDCWD, c"a", p(&bad), 0), EINVAL);
    err!(sys!(utimensat, AT_FDCWD, c"none", p(&t), 0), ENOENT);
    err!(sys!(utimensat, AT_FDCWD, c"a", p(&t), 1), EINVAL);
    err!(sys!(utimensat, AT_FDCWD, 0, p(&t), 0), EFAULT);
    let before = [timespec { tv_sec: -10, tv_nsec: 5 }; 2];
    ok!(sys!(utimensat, AT_FDCWD, c"a", p(&before), 0));
    eq!(ok!(stat(c"a")).st_mtime, -10);
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1000, 1000));
        err!(sys!(utimensat, AT_FDCWD, c"a", p(&t), 0), EPERM);
        err!(sys!(utimensat, AT_FDCWD, c"a", 0, 0), EACCES);
    });
}

fn utime_calls() {
    put("a", b"");
    let t = [timeval { tv_sec: 100, tv_usec: 5 }, timeval { tv_sec: 200, tv_usec: 6 }];
    ok!(sys!(utimes, c"a", p(&t)));
    let st = ok!(stat(c"a"));
    eq!((st.st_atime, st.st_mtime, st.st_mtime_nsec), (100, 200, 6000));
    let u = [300i64, 400];
    ok!(sys!(utime, c"a", p(&u)));
    eq!(ok!(stat(c"a")).st_mtime, 400);
    ok!(sys!(utime, c"a", 0));
    ok!(sys!(futimesat, AT_FDCWD, c"a", p(&t)));
    let bad = [timeval { tv_sec: 100, tv_usec: 1_000_000 }; 2];
    err!(sys!(utimes, c"a", p(&bad)), EINVAL);
}

fn time_updates() {
    put("a", b"abc");
    let old = [timespec { tv_sec: 1000, tv_nsec: 0 }; 2];
    let reset = |name| ok!(sys!(utimensat, AT_FDCWD, name, p(&old), 0));
    let show = |what: &str, name| {
        let st = ok!(lstat(name));
        say!("{what}: atime {} mtime {}", st.st_atime != 1000, st.st_mtime != 1000);
    };
    reset(c"a");
    let f = ok!(open(c"a", O_RDWR));
    show("open", c"a");
    ok!(write(f, b"x"));
    show("write", c"a");
    reset(c"a");
    ok!(sys!(ftruncate, f, 1));
    show("truncate", c"a");
    reset(c"a");
    ok!(sys!(ftruncate, f, 1));
    show("truncate to the same size", c"a");
    reset(c"a");
    ok!(sys!(chmod, c"a", 0o600));
    show("chmod", c"a");
    ok!(sys!(mkdir, c"d", 0o755));
    reset(c"d");
    put("d/f", b"");
    show("create in", c"d");
    reset(c"d");
    put("d/f", b"again");
    show("write to a file in", c"d");
    ok!(sys!(rename, c"d/f", c"d/g"));
    show("rename in", c"d");
    reset(c"d");
    ok!(sys!(unlink, c"d/g"));
    show("unlink in", c"d");
    let c0 = ok!(stat(c"a"));
    ms(20);
    ok!(sys!(link, c"a", c"b"));
    let c1 = ok!(stat(c"a"));
    check!((c1.st_ctime, c1.st_ctime_nsec) > (c0.st_ctime, c0.st_ctime_nsec));
}

fn noatime() {
    put("a", b"abc");
    let old = [timespec { tv_sec: 1000, tv_nsec: 0 }; 2];
    ok!(sys!(utimensat, AT_FDCWD, c"a", p(&old), 0));
    let f = ok!(open(c"a", O_RDONLY | O_NOATIME));
    ok!(read(f, 1));
    eq!(ok!(stat(c"a")).st_atime, 1000);
}

fn xattr_user() {
    put("a", b"");
    ok!(sys!(setxattr, c"a", c"user.one", b"value".as_ptr(), 5, 0));
    let mut b = [0u8; 16];
    eq!(ok!(sys!(getxattr, c"a", c"user.one", m(&mut b), 16)), 5);
    eq!(&b[..5], b"value");
    eq!(ok!(sys!(getxattr, c"a", c"user.one", 0, 0)), 5);
    err!(sys!(getxattr, c"a", c"user.one", m(&mut b), 3), ERANGE);
    err!(sys!(getxattr, c"a", c"user.two", m(&mut b), 3), ENODATA);
    err!(sys!(setxattr, c"a", c"user.one", b"v".as_ptr(), 1, XATTR_CREATE), EEXIST);
    err!(sys!(setxattr, c"a", c"user.two", b"v".as_ptr(), 1, XATTR_REPLACE), ENODATA);
    ok!(sys!(setxattr, c"a", c"user.one", b"new".as_ptr(), 3, XATTR_REPLACE));
    ok!(sys!(setxattr, c"a", c"user.empty", b"".as_ptr(), 0, 0));
    eq!(ok!(sys!(getxattr, c"a", c"user.empty", m(&mut b), 16)), 0);
    let f = ok!(open(c"a", O_RDONLY));
    eq!(ok!(sys!(fgetxattr, f, c"user.one", m(&mut b), 16)), 3);
    ok!(sys!(fremovexattr, f, c"user.one"));
    err!(sys!(removexattr, c"a", c"user.one"), ENODATA);
    ok!(sys!(mkdir, c"d", 0o755));
    ok!(sys!(setxattr, c"d", c"user.dir", b"v".as_ptr(), 1, 0));
    ok!(sys!(symlink, c"a", c"l"));
    err!(sys!(lsetxattr, c"l", c"user.x", b"v".as_ptr(), 1, 0), EPERM);
    ok!(sys!(setxattr, c"l", c"user.via", b"v".as_ptr(), 1, 0));
    eq!(ok!(sys!(lgetxattr, c"a", c"user.via", m(&mut b), 16)), 1);
}

fn xattr_args() {
    put("a", b"");
    let v = b"v".as_ptr();
    err!(sys!(setxattr, c"a", c"nonamespace", v, 1, 0), EOPNOTSUPP);
    err!(sys!(setxattr, c"a", c"weird.x", v, 1, 0), EOPNOTSUPP);
    err!(sys!(setxattr, c"a", c"", v, 1, 0), ERANGE);
    err!(sys!(setxattr, c"a", &c("user.".to_string() + &"x".repeat(251)), v, 1, 0), ERANGE);
    err!(sys!(setxattr, c"a", c"user.x", v, 1, 4), EINVAL);
    err!(sys!(setxattr, c"a", c"user.x", v, 65537, 0), E2BIG);
    err!(sys!(setxattr, c"none", c"user.x", v, 1, 0), ENOENT);
    err!(sys!(setxattr, c"a", c"user.x", 8, 1, 0), EFAULT);
    err!(sys!(getxattr, c"a", c"nonamespace", 0, 0), EOPNOTSUPP);
    err!(sys!(fsetxattr, 99, c"user.x", v, 1, 0), EBADF);
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1000, 1000));
        err!(sys!(setxattr, c"a", c"user.x", v, 1, 0), EACCES);
    });
}

fn xattr_trusted() {
    put("a", b"");
    let mut b = [0u8; 256];
    ok!(sys!(setxattr, c"a", c"trusted.t", b"v".as_ptr(), 1, 0));
    eq!(ok!(sys!(getxattr, c"a", c"trusted.t", m(&mut b), 16)), 1);
    ok!(sys!(setxattr, c"a", c"user.u", b"v".as_ptr(), 1, 0));
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1000, 1000));
        err!(sys!(getxattr, c"a", c"trusted.t", 0, 0), ENODATA);
        err!(sys!(setxattr, c"a", c"trusted.t", b"v".as_ptr(), 1, 0), EPERM);
        let n = ok!(sys!(listxattr, c"a", m(&mut b), 256)) as usize;
        eq!(&b[..n], b"user.u\0");
    });
}

fn xattr_list() {
    put("a", b"");
    let mut b = [0u8; 256];
    eq!(ok!(sys!(listxattr, c"a", m(&mut b), 256)), 0);
    for n in [c"user.b", c"user.a", c"user.ccc"] {
        ok!(sys!(setxattr, c"a", n, b"v".as_ptr(), 1, 0));
    }
    let n = ok!(sys!(listxattr, c"a", m(&mut b), 256)) as usize;
    let mut all: Vec<_> = b[..n].split(|x| *x == 0).filter(|s| !s.is_empty()).map(String::from_utf8_lossy).collect();
    all.sort();
    eq!(all, ["user.a", "user.b", "user.ccc"]);
    eq!(ok!(sys!(listxattr, c"a", 0, 0)), n as i64);
    err!(sys!(listxattr, c"a", m(&mut b), 5), ERANGE);
    let f = ok!(open(c"a", O_RDONLY));
    eq!(ok!(sys!(flistxattr, f, m(&mut b), 256)), n as i64);
    eq!(ok!(sys!(llistxattr, c"a", m(&mut b), 256)), n as i64);
}

fn statfs_calls() {
    let mut s = unsafe { std::mem::zeroed::<statfs>() };
    ok!(sys!(statfs, c"/proc", m(&mut s)));
    say!("proc {:x} bsize {} namelen {}", s.f_type, s.f_bsize, s.f_namelen);
    ok!(sys!(statfs, c"/dev/pts", m(&mut s)));
    say!("devpts {:x}", s.f_type);
    ok!(sys!(statfs, c"/sys", m(&mut s)));
    say!("sysfs {:x}", s.f_type);
    ok!(sys!(statfs, c".", m(&mut s)));
    say!("here: bsize {} namelen {}", s.f_bsize, s.f_namelen);
    check!(s.f_blocks >= s.f_bfree && s.f_bfree >= s.f_bavail);
    let d = ok!(open(c".", O_RDONLY));
    ok!(sys!(fstatfs, d, m(&mut s)));
    let (r, _w) = pipe(0);
    ok!(sys!(fstatfs, r, m(&mut s)));
    say!("pipe {:x}", s.f_type);
    err!(sys!(statfs, c"none", m(&mut s)), ENOENT);
    err!(sys!(statfs, c".", 8), EFAULT);
    err!(sys!(fstatfs, 99, m(&mut s)), EBADF);
}

fn ino_unique() {
    let mut inodes = vec![];
    for i in 0..100 {
        put(&format!("f{i}"), b"");
        inodes.push(ok!(stat(&c(format!("f{i}")))).st_ino);
    }
    inodes.sort();
    inodes.dedup();
    eq!(inodes.len(), 100);
    check!(inodes[0] != 0);
}

fn umask_per_process() {
    ok!(sys!(umask, 0o027));
    in_child(|| {
        eq!(ok!(sys!(umask, 0)), 0o027);
    });
    eq!(ok!(sys!(umask, 0o027)), 0o027);
    // threads share it
    for t in threads(1, |_| {
        ok!(sys!(umask, 0o111));
    }) {
        t.join().unwrap();
    }
    eq!(ok!(sys!(umask, 0)), 0o111);
    let text = String::from_utf8(get("/proc/self/status")).unwrap();
    say!("{}", text.lines().find(|l| l.starts_with("Umask")).unwrap_or("none"));
}

fn empty_path() {
    put("a", b"abc");
    let f = ok!(open(c"a", O_RDONLY));
    let mut st = unsafe { std::mem::zeroed::<libc::stat>() };
    ok!(sys!(newfstatat, f, c"", m(&mut st), AT_EMPTY_PATH));
    eq!(st.st_size, 3);
    err!(sys!(newfstatat, f, c"", m(&mut st), 0), ENOENT);
    ok!(sys!(newfstatat, AT_FDCWD, c"", m(&mut st), AT_EMPTY_PATH));
    eq!(st.st_mode & S_IFMT, S_IFDIR);
    err!(sys!(newfstatat, 99, c"", m(&mut st), AT_EMPTY_PATH), EBADF);
}
