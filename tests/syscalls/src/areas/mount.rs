//! Mounts made by the application: tmpfs, bind, read-only, umount, what /proc/self/mountinfo says.

use crate::sys::*;
use crate::{check, eq, err, list, ok, say, sys};

pub const TESTS: &[crate::Test] =
    list!["mount"; tmpfs_mount, tmpfs_options, bind_mount, read_only, umount_busy, mount_errors, mountinfo, cross_device];

fn mount(src: &std::ffi::CStr, at: &std::ffi::CStr, kind: &std::ffi::CStr, flags: u64, data: &std::ffi::CStr) -> R {
    sys!(mount, src, at, kind, flags, data)
}

fn tmpfs_mount() {
    ok!(sys!(mkdir, c"d", 0o755));
    put("d/below", b"");
    ok!(mount(c"none", c"d", c"tmpfs", 0, c""));
    err!(stat(c"d/below"), ENOENT);
    put("d/above", b"x");
    check!(ok!(stat(c"d")).st_dev != ok!(stat(c".")).st_dev);
    eq!(ok!(stat(c"d/..")).st_ino, ok!(stat(c".")).st_ino);
    err!(sys!(rmdir, c"d"), EBUSY);
    err!(sys!(rename, c"d", c"e"), EBUSY);
    ok!(sys!(umount2, c"d", 0));
    ok!(stat(c"d/below"));
    err!(stat(c"d/above"), ENOENT);
    err!(sys!(umount2, c"d", 0), EINVAL);
}

fn tmpfs_options() {
    ok!(sys!(mkdir, c"d", 0o755));
    ok!(mount(c"none", c"d", c"tmpfs", 0, c"mode=0701,uid=5,gid=6,size=64k"));
    let st = ok!(stat(c"d"));
    eq!((st.st_mode & 0o7777, st.st_uid, st.st_gid), (0o701, 5, 6));
    let f = ok!(open(c"d/f", O_CREAT | O_RDWR));
    let mut total = 0;
    let e = loop {
        match write(f, &[1; 4096]) {
            Ok(n) => total += n,
            Err(e) => break e,
        }
    };
    eq!((total, e), (65536, ENOSPC));
    let mut s = unsafe { std::mem::zeroed::<statfs>() };
    ok!(sys!(statfs, c"d", m(&mut s)));
    eq!((s.f_type, s.f_blocks, s.f_bfree), (0x0102_1994, 16, 0));
    ok!(sys!(ftruncate, f, 0));
    ok!(write(f, &[1; 4096]));
    close(f);
    ok!(sys!(umount2, c"d", 0));
    err!(mount(c"none", c"d", c"tmpfs", 0, c"nonsense=1"), EINVAL);
}

fn bind_mount() {
    ok!(sys!(mkdir, c"a", 0o755));
    ok!(sys!(mkdir, c"b", 0o755));
    put("a/f", b"one");
    ok!(mount(c"a", c"b", c"", MS_BIND, c""));
    eq!(get("b/f"), b"one");
    put("b/g", b"two");
    eq!(get("a/g"), b"two");
    eq!(ok!(stat(c"a")).st_ino, ok!(stat(c"b")).st_ino);
    err!(sys!(rename, c"a/f", c"b/h"), EXDEV);
    err!(sys!(link, c"a/f", c"b/h"), EXDEV);
    put("file1", b"x");
    put("file2", b"y");
    ok!(mount(c"file1", c"file2", c"", MS_BIND, c""));
    eq!(get("file2"), b"x");
    err!(mount(c"a", c"file2", c"", MS_BIND, c""), ENOTDIR);
    ok!(sys!(umount2, c"file2", 0));
    eq!(get("file2"), b"y");
    ok!(sys!(umount2, c"b", 0));
    eq!(std::fs::read_dir("b").unwrap().count(), 0);
}

fn read_only() {
    ok!(sys!(mkdir, c"d", 0o755));
    ok!(mount(c"none", c"d", c"tmpfs", 0, c""));
    put("d/f", b"x");
    ok!(mount(c"none", c"d", c"", MS_REMOUNT | MS_RDONLY, c""));
    err!(open(c"d/f", O_RDWR), EROFS);
    err!(open(c"d/g", O_CREAT | O_RDWR), EROFS);
    err!(sys!(mkdir, c"d/g", 0o755), EROFS);
    err!(sys!(unlink, c"d/f"), EROFS);
    err!(sys!(chmod, c"d/f", 0o600), EROFS);
    err!(sys!(truncate, c"d/f", 0), EROFS);
    err!(sys!(access, c"d/f", W_OK), EROFS);
    err!(sys!(utimensat, AT_FDCWD, c"d/f", 0, 0), EROFS);
    close(ok!(open(c"d/f", O_RDONLY)));
    close(ok!(open(c"d/f", O_RDONLY | O_CREAT)));
    err!(sys!(mkdir, c"d/f", 0o755), EEXIST);
    err!(sys!(unlink, c"d/none"), EROFS);
    ok!(mount(c"none", c"d", c"", MS_REMOUNT, c""));
    put("d/f", b"again");
    let f = ok!(open(c"d/f", O_WRONLY));
    err!(mount(c"none", c"d", c"", MS_REMOUNT | MS_RDONLY, c""), EBUSY);
    close(f);
    ok!(sys!(umount2, c"d", 0));
}

fn umount_busy() {
    ok!(sys!(mkdir, c"d", 0o755));
    ok!(mount(c"none", c"d", c"tmpfs", 0, c""));
    let f = ok!(open(c"d/f", O_CREAT | O_RDWR));
    err!(sys!(umount2, c"d", 0), EBUSY);
    ok!(sys!(umount2, c"d", MNT_DETACH));
    ok!(write(f, b"still here"));
    eq!(std::fs::read_dir("d").unwrap().count(), 0);
    close(f);
    ok!(mount(c"none", c"d", c"tmpfs", 0, c""));
    ok!(mount(c"none", c"d", c"tmpfs", 0, c"mode=0711"));
    eq!(ok!(stat(c"d")).st_mode & 0o777, 0o711);
    ok!(sys!(umount2, c"d", 0));
    ok!(sys!(umount2, c"d", 0));
    ok!(sys!(symlink, c"d", c"l"));
    err!(sys!(umount2, c"l", UMOUNT_NOFOLLOW), EINVAL);
    err!(sys!(umount2, c"d", 1 << 9), EINVAL);
    err!(sys!(umount2, c"none", 0), ENOENT);
}

fn mount_errors() {
    ok!(sys!(mkdir, c"d", 0o755));
    put("f", b"");
    err!(mount(c"none", c"d", c"nosuchfs", 0, c""), ENODEV);
    err!(mount(c"none", c"none", c"tmpfs", 0, c""), ENOENT);
    err!(mount(c"none", c"f", c"tmpfs", 0, c""), ENOTDIR);
    err!(mount(c"gone", c"d", c"", MS_BIND, c""), ENOENT);
    err!(sys!(mount, c"none", c"d", 8, 0, 0), EFAULT);
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1000, 1000));
        err!(mount(c"none", c"d", c"tmpfs", 0, c""), EPERM);
        err!(sys!(umount2, c"d", 0), EPERM);
    });
}

fn mountinfo() {
    ok!(sys!(mkdir, c"d", 0o755));
    ok!(mount(c"my source", c"d", c"tmpfs", MS_NOSUID | MS_NOEXEC, c""));
    let text = String::from_utf8(get("/proc/self/mountinfo")).unwrap();
    let line = text.lines().find(|l| l.contains("/mount.mountinfo/d ")).unwrap_or("none");
    let words: Vec<&str> = line.split(' ').collect();
    check!(words.len() >= 9);
    say!("{} {} {}", words[3], words[5].contains("nosuid") && words[5].contains("noexec"), words[words.len() - 3..][..2].join(" "));
    let mounts = String::from_utf8(get("/proc/mounts")).unwrap();
    say!("{}", mounts.lines().filter(|l| l.contains("/mount.mountinfo/d tmpfs rw")).count());
    std::fs::copy("/proc/self/exe", "d/exe").unwrap();
    ok!(sys!(chmod, c"d/exe", 0o755));
    err!(sys!(access, c"d/exe", X_OK), EACCES);
    let argv = [c"exe".as_ptr(), std::ptr::null()];
    err!(sys!(execve, c"d/exe", p(&argv), 0), EACCES);
    ok!(sys!(umount2, c"d", 0));
}

fn cross_device() {
    put("a", b"abc");
    ok!(sys!(mkdir, c"d", 0o755));
    ok!(mount(c"none", c"d", c"tmpfs", 0, c""));
    err!(sys!(rename, c"a", c"d/a"), EXDEV);
    err!(sys!(link, c"a", c"d/a"), EXDEV);
    ok!(sys!(mkdir, c"d/sub", 0o755));
    ok!(sys!(chdir, c"d/sub"));
    ok!(stat(c"../../a"));
    ok!(sys!(chdir, c"../.."));
    ok!(sys!(umount2, c"d", 0));
}
