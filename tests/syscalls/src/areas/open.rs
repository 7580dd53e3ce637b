//! Opening: flags, modes, paths, `openat2`, `O_PATH`, `O_TMPFILE`, descriptor numbers and flags.

use crate::sys::*;
use crate::{check, eq, err, list, ok, say, sys};

pub const TESTS: &[crate::Test] = list!["open";
    excl, trunc, append, directory, nofollow, modes, umask_mode, errors, long_names, trailing_slash, o_path, tmpfile,
    tmpfile_link, openat_dirfd, openat2_resolve, openat2_args, lowest_fd, dup_calls, cloexec, close_range_calls, fcntl_getfl,
    rlimit_nofile, creat_call, fifo_open, dev_files, proc_self_fd, write_bits, offset_shared, etxtbsy, access_calls,
    faccessat2_flags, dac_checks, unlinked_open,
];

fn excl() {
    let f = ok!(open(c"a", O_CREAT | O_EXCL | O_RDWR));
    err!(open(c"a", O_CREAT | O_EXCL | O_RDWR), EEXIST);
    ok!(sys!(symlink, c"nowhere", c"l"));
    err!(open(c"l", O_CREAT | O_EXCL | O_RDWR), EEXIST);
    close(f);
    ok!(sys!(mkdir, c"d", 0o755));
    err!(open(c"d", O_CREAT | O_EXCL | O_RDWR), EEXIST);
    err!(open(c"d", O_CREAT | O_RDWR), EISDIR);
    err!(open(c"d", O_CREAT | O_RDONLY), EISDIR);
    let g = ok!(open(c"l", O_CREAT | O_RDWR));
    eq!(ok!(stat(c"nowhere")).st_size, 0);
    close(g);
}

fn trunc() {
    put("a", b"0123456789");
    let f = ok!(open(c"a", O_RDWR | O_TRUNC));
    eq!(fstat(f).st_size, 0);
    put("a", b"01234");
    close(ok!(open(c"a", O_RDONLY | O_TRUNC)));
    eq!(ok!(stat(c"a")).st_size, 0);
    ok!(sys!(mkdir, c"d", 0o755));
    err!(open(c"d", O_WRONLY | O_TRUNC), EISDIR);
    put("a", b"01234");
    close(ok!(open(c"a", O_WRONLY | O_CREAT | O_TRUNC)));
    eq!(get("a"), b"");
}

fn append() {
    let f = ok!(open(c"a", O_CREAT | O_RDWR | O_APPEND));
    let g = ok!(open(c"a", O_RDWR));
    ok!(write(f, b"abc"));
    ok!(write(g, b"X"));
    ok!(write(f, b"def"));
    eq!(get("a"), b"Xbcdef");
    eq!(ok!(sys!(lseek, f, 0, SEEK_CUR)), 6);
    ok!(sys!(lseek, f, 0, SEEK_SET));
    ok!(write(f, b"g"));
    eq!(get("a"), b"Xbcdefg");
    // pwrite on O_APPEND appends whatever the offset (pwrite(2), BUGS)
    eq!(ok!(sys!(pwrite64, f, b"Z".as_ptr(), 1, 0)), 1);
    eq!(get("a"), b"XbcdefgZ");
    ok!(sys!(fcntl, f, F_SETFL, 0));
    ok!(sys!(pwrite64, f, b"Y".as_ptr(), 1, 0));
    eq!(get("a"), b"YbcdefgZ");
}

fn directory() {
    put("a", b"");
    ok!(sys!(mkdir, c"d", 0o755));
    err!(open(c"a", O_RDONLY | O_DIRECTORY), ENOTDIR);
    err!(open(c"none", O_RDONLY | O_DIRECTORY), ENOENT);
    let d = ok!(open(c"d", O_RDONLY | O_DIRECTORY));
    err!(read(d, 10), EISDIR);
    err!(write(d, b"x"), EBADF);
    err!(open(c"d", O_RDWR), EISDIR);
    err!(open(c"d", O_WRONLY), EISDIR);
    err!(open(c"x", O_CREAT | O_DIRECTORY | O_RDWR), EINVAL);
    ok!(sys!(symlink, c"d", c"l"));
    close(ok!(open(c"l", O_RDONLY | O_DIRECTORY)));
    err!(open(c"l", O_RDONLY | O_DIRECTORY | O_NOFOLLOW), ENOTDIR);
}

fn nofollow() {
    put("a", b"");
    ok!(sys!(symlink, c"a", c"l"));
    err!(open(c"l", O_RDONLY | O_NOFOLLOW), ELOOP);
    close(ok!(open(c"a", O_RDONLY | O_NOFOLLOW)));
    ok!(sys!(mkdir, c"d", 0o755));
    put("d/f", b"");
    ok!(sys!(symlink, c"d", c"ld"));
    close(ok!(open(c"ld/f", O_RDONLY | O_NOFOLLOW)));
    err!(open(c"ld/", O_RDONLY | O_NOFOLLOW | O_CREAT), EISDIR);
}

fn modes() {
    put("a", b"abc");
    let r = ok!(open(c"a", O_RDONLY));
    let w = ok!(open(c"a", O_WRONLY));
    err!(write(r, b"x"), EBADF);
    err!(read(w, 1), EBADF);
    err!(sys!(ftruncate, r, 0), EINVAL);
    ok!(sys!(ftruncate, w, 1));
    err!(read(99, 1), EBADF);
    err!(sys!(read, -1, 0, 0), EBADF);
    // access mode 3 permits neither reading nor writing
    let x = ok!(open(c"a", O_ACCMODE));
    err!(read(x, 1), EBADF);
    err!(write(x, b"x"), EBADF);
}

fn umask_mode() {
    eq!(ok!(sys!(umask, 0o077)), 0o022);
    close(ok!(sys!(open, c"a", O_CREAT | O_RDWR, 0o777)) as i32);
    eq!(ok!(stat(c"a")).st_mode, S_IFREG | 0o700);
    eq!(ok!(sys!(umask, 0o7777)), 0o077);
    eq!(ok!(sys!(umask, 0)), 0o777);
    close(ok!(sys!(open, c"b", O_CREAT | O_RDWR, 0o4755)) as i32);
    eq!(ok!(stat(c"b")).st_mode, S_IFREG | 0o4755);
    ok!(sys!(mkdir, c"d", 0o7777));
    eq!(ok!(stat(c"d")).st_mode, S_IFDIR | 0o1777);
    // a file may be made without the permission to open it again, and yet be open
    let f = ok!(sys!(open, c"c", O_CREAT | O_RDWR, 0)) as i32;
    ok!(write(f, b"x"));
    eq!(fstat(f).st_mode, S_IFREG);
}

fn errors() {
    put("a", b"");
    err!(open(c"", O_RDONLY), ENOENT);
    err!(open(c"none", O_RDONLY), ENOENT);
    err!(open(c"none/x", O_CREAT | O_RDWR), ENOENT);
    err!(open(c"a/x", O_RDONLY), ENOTDIR);
    err!(open(c"a/x", O_CREAT | O_RDWR), ENOTDIR);
    err!(open(c"a/.", O_RDONLY), ENOTDIR);
    err!(open(c"a/..", O_RDONLY), ENOTDIR);
    err!(sys!(openat, AT_FDCWD, 0, O_RDONLY, 0), EFAULT);
    err!(sys!(openat, AT_FDCWD, 8, O_RDONLY, 0), EFAULT);
    err!(sys!(openat, 77, c"a", O_RDONLY, 0), EBADF);
    let f = ok!(open(c"a", O_RDONLY));
    err!(sys!(openat, f, c"a", O_RDONLY, 0), ENOTDIR);
    ok!(sys!(symlink, c"loop1", c"loop2"));
    ok!(sys!(symlink, c"loop2", c"loop1"));
    err!(open(c"loop1", O_RDONLY), ELOOP);
    err!(open(c"loop1/x", O_RDONLY), ELOOP);
    err!(open(c"loop1", O_RDONLY | O_CREAT), ELOOP);
    // 40 links are followed, 41 are not
    put("end", b"");
    ok!(sys!(symlink, c"end", c"s0"));
    for i in 1..42 {
        ok!(sys!(symlink, &c(format!("s{}", i - 1)), &c(format!("s{i}"))));
    }
    close(ok!(open(c"s39", O_RDONLY)));
    err!(open(c"s40", O_RDONLY), ELOOP);
}

fn long_names() {
    let ok255 = c("n".repeat(255));
    let bad256 = c("n".repeat(256));
    close(ok!(open(&ok255, O_CREAT | O_RDWR)));
    err!(open(&bad256, O_CREAT | O_RDWR), ENAMETOOLONG);
    err!(stat(&bad256), ENAMETOOLONG);
    err!(sys!(mkdir, &bad256, 0o755), ENAMETOOLONG);
    err!(sys!(unlink, &bad256), ENAMETOOLONG);
    let path = c("./".repeat(2047) + "x");
    err!(stat(&path), ENOENT);
    let path = c("./".repeat(2048));
    err!(stat(&path), ENAMETOOLONG);
    put("x", b"");
    let path = c("./".repeat(2047) + "x");
    ok!(stat(&path));
}

fn trailing_slash() {
    put("a", b"");
    ok!(sys!(mkdir, c"d", 0o755));
    err!(open(c"a/", O_RDONLY), ENOTDIR);
    err!(stat(c"a/"), ENOTDIR);
    close(ok!(open(c"d/", O_RDONLY)));
    close(ok!(open(c"d//", O_RDONLY)));
    err!(open(c"new/", O_CREAT | O_RDWR), EISDIR);
    ok!(sys!(mkdir, c"e/", 0o755));
    err!(sys!(unlink, c"a/"), ENOTDIR);
    ok!(sys!(symlink, c"d", c"l"));
    eq!(ok!(lstat(c"l/")).st_mode & S_IFMT, S_IFDIR);
    eq!(ok!(lstat(c"l")).st_mode & S_IFMT, S_IFLNK);
    err!(sys!(rmdir, c"l/"), ENOTDIR);
    err!(sys!(rename, c"a", c"b/"), ENOTDIR);
    ok!(sys!(rename, c"d", c"dd/"));
    err!(sys!(symlink, c"a", c"q/"), ENOENT);
    err!(sys!(link, c"a", c"q/"), ENOENT);
    err!(sys!(rmdir, c"dd/."), EINVAL);
    err!(sys!(rmdir, c"dd/.."), ENOTEMPTY);
    err!(sys!(mkdir, c"dd/.", 0o755), EEXIST);
}

fn o_path() {
    put("a", b"hello");
    ok!(sys!(symlink, c"a", c"l"));
    ok!(sys!(mkdir, c"d", 0o755));
    put("d/f", b"in d");
    let f = ok!(open(c"a", O_PATH));
    err!(read(f, 1), EBADF);
    err!(write(f, b"x"), EBADF);
    err!(sys!(fchmod, f, 0o600), EBADF);
    err!(sys!(fchown, f, 0, 0), EBADF);
    err!(sys!(ioctl, f, FIONREAD, 0), EBADF);
    err!(sys!(lseek, f, 0, SEEK_SET), EBADF);
    err!(sys!(ftruncate, f, 0), EBADF);
    err!(sys!(fsync, f), EBADF);
    err!(sys!(mmap, 0, 4096, PROT_READ, MAP_PRIVATE, f, 0), EBADF);
    eq!(fstat(f).st_size, 5);
    eq!(ok!(sys!(fcntl, f, F_GETFL)) & i64::from(O_PATH), i64::from(O_PATH));
    let g = ok!(sys!(dup, f)) as i32;
    close(g);
    let l = ok!(open(c"l", O_PATH | O_NOFOLLOW));
    eq!(fstat(l).st_mode & S_IFMT, S_IFLNK);
    let mut buf = [0u8; 16];
    eq!(ok!(sys!(readlinkat, l, c"", m(&mut buf), 16)), 1);
    eq!(buf[0], b'a');
    let d = ok!(open(c"d", O_PATH | O_DIRECTORY));
    err!(sys!(getdents64, d, m(&mut buf), 16), EBADF);
    close(ok!(sys!(openat, d, c"f", O_RDONLY, 0)) as i32);
    ok!(sys!(fchdir, d));
    eq!(get("f"), b"in d");
    let again = ok!(open(&c(format!("/proc/self/fd/{f}")), O_RDONLY));
    eq!(ok!(read(again, 10)), b"hello");
}

fn tmpfile() {
    let f = ok!(sys!(open, c".", O_TMPFILE | O_RDWR, 0o600)) as i32;
    ok!(write(f, b"data"));
    let st = fstat(f);
    eq!((st.st_nlink, st.st_size, st.st_mode), (0, 4, S_IFREG | 0o600));
    err!(sys!(open, c".", O_TMPFILE | O_RDONLY, 0o600), EINVAL);
    put("a", b"");
    err!(sys!(open, c"a", O_TMPFILE | O_RDWR, 0o600), ENOTDIR);
    err!(sys!(open, c"none", O_TMPFILE | O_RDWR, 0o600), ENOENT);
    eq!(std::fs::read_dir(".").unwrap().count(), 1);
}

fn tmpfile_link() {
    let f = ok!(sys!(open, c".", O_TMPFILE | O_RDWR, 0o640)) as i32;
    ok!(write(f, b"data"));
    ok!(sys!(linkat, AT_FDCWD, &c(format!("/proc/self/fd/{f}")), AT_FDCWD, c"named", AT_SYMLINK_FOLLOW));
    eq!(fstat(f).st_nlink, 1);
    eq!(get("named"), b"data");
    ok!(sys!(linkat, f, c"", AT_FDCWD, c"second", AT_EMPTY_PATH));
    eq!(fstat(f).st_nlink, 2);
    let g = ok!(sys!(open, c".", O_TMPFILE | O_RDWR | O_EXCL, 0o640)) as i32;
    err!(sys!(linkat, AT_FDCWD, &c(format!("/proc/self/fd/{g}")), AT_FDCWD, c"x", AT_SYMLINK_FOLLOW), ENOENT);
}

fn openat_dirfd() {
    ok!(sys!(mkdir, c"d", 0o755));
    ok!(sys!(mkdir, c"d/e", 0o755));
    put("d/e/f", b"deep");
    let d = ok!(open(c"d", O_RDONLY | O_DIRECTORY));
    let f = ok!(sys!(openat, d, c"e/f", O_RDONLY, 0)) as i32;
    eq!(ok!(read(f, 9)), b"deep");
    close(ok!(sys!(openat, d, c"../d/e/../e/./f", O_RDONLY, 0)) as i32);
    close(ok!(sys!(openat, 12345, c"/proc", O_RDONLY, 0)) as i32);
    ok!(sys!(rename, c"d", c"moved"));
    close(ok!(sys!(openat, d, c"e/f", O_RDONLY, 0)) as i32);
    ok!(sys!(unlink, c"moved/e/f"));
    ok!(sys!(rmdir, c"moved/e"));
    ok!(sys!(rmdir, c"moved"));
    err!(sys!(openat, d, c"x", O_CREAT | O_RDWR, 0o644), ENOENT);
    eq!(fstat(d).st_nlink, 0);
}

#[repr(C)]
struct How {
    flags: u64,
    mode: u64,
    resolve: u64,
}

fn openat2(dir: i32, path: &std::ffi::CStr, flags: i32, resolve: u64) -> Result<i32, E> {
    let how = How { flags: flags as u64, mode: if flags & O_CREAT != 0 { 0o644 } else { 0 }, resolve };
    sys!(openat2, dir, path, p(&how), 24).map(|f| f as i32)
}

fn openat2_resolve() {
    ok!(sys!(mkdir, c"d", 0o755));
    ok!(sys!(mkdir, c"d/e", 0o755));
    put("d/f", b"inside");
    put("out", b"outside");
    ok!(sys!(symlink, c"f", c"d/l"));
    ok!(sys!(symlink, c"../out", c"d/up"));
    ok!(sys!(symlink, c"/f", c"d/abs"));
    let d = ok!(open(c"d", O_PATH | O_DIRECTORY));
    close(ok!(openat2(d, c"f", O_RDONLY, RESOLVE_BENEATH)));
    close(ok!(openat2(d, c"e/../f", O_RDONLY, RESOLVE_BENEATH)));
    err!(openat2(d, c"../out", O_RDONLY, RESOLVE_BENEATH), EXDEV);
    err!(openat2(d, c"up", O_RDONLY, RESOLVE_BENEATH), EXDEV);
    err!(openat2(d, c"abs", O_RDONLY, RESOLVE_BENEATH), EXDEV);
    err!(openat2(d, c"/tmp", O_RDONLY, RESOLVE_BENEATH), EXDEV);
    close(ok!(openat2(d, c"abs", O_RDONLY, RESOLVE_IN_ROOT)));
    close(ok!(openat2(d, c"/f", O_RDONLY, RESOLVE_IN_ROOT)));
    close(ok!(openat2(d, c"../../f", O_RDONLY, RESOLVE_IN_ROOT)));
    err!(openat2(d, c"up", O_RDONLY, RESOLVE_IN_ROOT), ENOENT);
    err!(openat2(d, c"l", O_RDONLY, RESOLVE_NO_SYMLINKS), ELOOP);
    close(ok!(openat2(d, c"l", O_RDONLY, RESOLVE_NO_MAGICLINKS)));
    err!(openat2(AT_FDCWD, c"/proc/self/exe", O_RDONLY, RESOLVE_NO_MAGICLINKS), ELOOP);
    err!(openat2(AT_FDCWD, c"/proc/self/stat", O_RDONLY, RESOLVE_NO_XDEV), EXDEV);
}

fn openat2_args() {
    let how = How { flags: O_RDONLY as u64, mode: 0, resolve: 0 };
    err!(sys!(openat2, AT_FDCWD, c".", p(&how), 8), EINVAL);
    let big = [0u64, 0, 0, 1];
    err!(sys!(openat2, AT_FDCWD, c".", p(&big), 32), E2BIG);
    let big = [0u64, 0, 0, 0];
    close(ok!(sys!(openat2, AT_FDCWD, c".", p(&big), 32)) as i32);
    err!(openat2(AT_FDCWD, c".", O_RDONLY, 1 << 40), EINVAL);
    err!(openat2(AT_FDCWD, c".", 1 << 30, 0), EINVAL);
    let how = How { flags: O_RDONLY as u64, mode: 0o644, resolve: 0 };
    err!(sys!(openat2, AT_FDCWD, c".", p(&how), 24), EINVAL);
    err!(openat2(AT_FDCWD, c".", O_RDONLY, RESOLVE_BENEATH | RESOLVE_IN_ROOT), EINVAL);
    err!(sys!(openat2, AT_FDCWD, c".", 0, 24), EFAULT);
}

fn lowest_fd() {
    let a = ok!(open(c".", O_RDONLY));
    let b = ok!(open(c".", O_RDONLY));
    let d = ok!(open(c".", O_RDONLY));
    eq!((b, d), (a + 1, a + 2));
    close(a);
    close(b);
    eq!(ok!(open(c".", O_RDONLY)), a);
    eq!(ok!(sys!(dup, d)), i64::from(b));
    eq!(ok!(sys!(fcntl, d, F_DUPFD, 100)), 100);
    eq!(ok!(sys!(fcntl, d, F_DUPFD, 100)), 101);
    err!(sys!(close, 50), EBADF);
    err!(sys!(close, -1), EBADF);
    say!("first {a}");
}

fn dup_calls() {
    put("a", b"abcdef");
    let f = ok!(open(c"a", O_RDONLY));
    let g = ok!(sys!(dup2, f, 60)) as i32;
    eq!(g, 60);
    eq!(ok!(sys!(dup2, f, f)), i64::from(f));
    err!(sys!(dup2, 70, 60), EBADF);
    err!(sys!(dup2, 70, 70), EBADF);
    err!(sys!(dup2, f, -1), EBADF);
    err!(sys!(dup2, f, 1 << 30), EBADF);
    err!(sys!(dup3, f, f, 0), EINVAL);
    err!(sys!(dup3, f, 61, O_RDWR), EINVAL);
    eq!(ok!(sys!(dup3, f, 61, O_CLOEXEC)), 61);
    eq!(ok!(sys!(fcntl, 61, F_GETFD)), 1);
    eq!(ok!(sys!(fcntl, 60, F_GETFD)), 0);
    err!(sys!(dup, 70), EBADF);
    eq!(ok!(read(f, 2)), b"ab");
    eq!(ok!(read(g, 2)), b"cd");
    close(f);
    eq!(ok!(read(61, 2)), b"ef");
    err!(sys!(fcntl, 61, F_DUPFD, -1), EINVAL);
    err!(sys!(fcntl, 61, F_DUPFD, 1 << 30), EINVAL);
    eq!(ok!(sys!(fcntl, 61, F_DUPFD_CLOEXEC, 80)), 80);
    eq!(ok!(sys!(fcntl, 80, F_GETFD)), 1);
}

fn cloexec() {
    let f = ok!(open(c".", O_RDONLY | O_CLOEXEC));
    eq!(ok!(sys!(fcntl, f, F_GETFD)), 1);
    ok!(sys!(fcntl, f, F_SETFD, 0));
    eq!(ok!(sys!(fcntl, f, F_GETFD)), 0);
    ok!(sys!(fcntl, f, F_SETFD, 1));
    ok!(sys!(ioctl, f, FIONCLEX, 0));
    eq!(ok!(sys!(fcntl, f, F_GETFD)), 0);
    ok!(sys!(ioctl, f, FIOCLEX, 0));
    eq!(ok!(sys!(fcntl, f, F_GETFD)), 1);
    err!(sys!(fcntl, f, 9999), EINVAL);
    err!(sys!(fcntl, 99, F_GETFD), EBADF);
    let g = ok!(sys!(dup, f)) as i32;
    eq!(ok!(sys!(fcntl, g, F_GETFD)), 0);
}

fn close_range_calls() {
    for n in 50..60 {
        ok!(sys!(dup2, 2, n));
    }
    ok!(sys!(close_range, 50, 54, 0));
    err!(sys!(fcntl, 54, F_GETFD), EBADF);
    eq!(ok!(sys!(fcntl, 55, F_GETFD)), 0);
    ok!(sys!(close_range, 55, 57, CLOSE_RANGE_CLOEXEC));
    eq!(ok!(sys!(fcntl, 57, F_GETFD)), 1);
    eq!(ok!(sys!(fcntl, 58, F_GETFD)), 0);
    ok!(sys!(close_range, 50, u32::MAX, CLOSE_RANGE_UNSHARE));
    err!(sys!(fcntl, 58, F_GETFD), EBADF);
    err!(sys!(close_range, 9, 8, 0), EINVAL);
    err!(sys!(close_range, 50, 60, 1 << 10), EINVAL);
}

fn fcntl_getfl() {
    let show = |flags: i32, mine: i32| {
        let f = ok!(open(c"a", flags | O_CREAT));
        say!("{:#o}", ok!(sys!(fcntl, f, F_GETFL)));
        ok!(sys!(fcntl, f, F_SETFL, mine));
        say!("{:#o}", ok!(sys!(fcntl, f, F_GETFL)));
        close(f);
    };
    show(O_RDONLY, O_APPEND);
    show(O_WRONLY | O_APPEND, 0);
    show(O_RDWR | O_NONBLOCK, O_NONBLOCK | O_APPEND);
    show(O_RDWR | O_TRUNC, O_RDONLY | O_CREAT | O_TRUNC);
    show(O_RDWR | O_SYNC, 0);
    show(O_RDWR | O_DSYNC, 0);
    show(O_RDONLY | O_NOATIME, 0);
    let (r, w) = pipe(O_NONBLOCK | O_CLOEXEC);
    say!("{:#o} {:#o}", ok!(sys!(fcntl, r, F_GETFL)), ok!(sys!(fcntl, w, F_GETFL)));
    let mut on = 0i32;
    ok!(sys!(ioctl, r, FIONBIO, m(&mut on)));
    eq!(ok!(sys!(fcntl, r, F_GETFL)), 0);
    on = 1;
    ok!(sys!(ioctl, r, FIONBIO, m(&mut on)));
    eq!(ok!(sys!(fcntl, r, F_GETFL)), i64::from(O_NONBLOCK));
}

fn rlimit_nofile() {
    let lim = rlimit { rlim_cur: 30, rlim_max: 100 };
    ok!(sys!(setrlimit, RLIMIT_NOFILE, p(&lim)));
    let mut n = 0;
    let e = loop {
        match open(c".", O_RDONLY) {
            Ok(f) => n = f,
            Err(e) => break e,
        }
    };
    eq!((n, e), (29, EMFILE));
    err!(sys!(dup, 0), EMFILE);
    err!(sys!(dup2, 0, 30), EBADF);
    err!(sys!(fcntl, 0, F_DUPFD, 30), EINVAL);
    err!(sys!(fcntl, 0, F_DUPFD, 29), EMFILE);
    let mut fds = [0i32; 2];
    err!(sys!(pipe2, m(&mut fds), 0), EMFILE);
    err!(sys!(socketpair, AF_UNIX, SOCK_STREAM, 0, m(&mut fds)), EMFILE);
    err!(sys!(epoll_create1, 0), EMFILE);
}

fn creat_call() {
    put("a", b"abc");
    let f = ok!(sys!(creat, c"a", 0o600)) as i32;
    err!(read(f, 1), EBADF);
    eq!(fstat(f).st_size, 0);
    eq!(fstat(f).st_mode & 0o777, 0o644);
    let g = ok!(sys!(creat, c"b", 0o444)) as i32;
    ok!(write(g, b"x"));
}

fn fifo_open() {
    ok!(sys!(mknod, c"p", S_IFIFO | 0o644, 0));
    eq!(ok!(stat(c"p")).st_mode & S_IFMT, S_IFIFO);
    err!(open(c"p", O_WRONLY | O_NONBLOCK), ENXIO);
    let r = ok!(open(c"p", O_RDONLY | O_NONBLOCK));
    eq!(ok!(read(r, 1)), b"");
    let w = ok!(open(c"p", O_WRONLY | O_NONBLOCK));
    err!(read(r, 1), EAGAIN);
    ok!(write(w, b"xyz"));
    eq!(ok!(read(r, 9)), b"xyz");
    err!(sys!(lseek, r, 0, SEEK_SET), ESPIPE);
    close(w);
    close(r);
    let child = fork(|| {
        let w = ok!(open(c"p", O_WRONLY));
        ok!(write(w, b"from the child"));
    });
    let r = ok!(open(c"p", O_RDONLY));
    eq!(ok!(read(r, 99)), b"from the child");
    eq!(wait(child), 0);
    let rw = ok!(open(c"p", O_RDWR));
    ok!(write(rw, b"1"));
    eq!(ok!(read(rw, 1)), b"1");
}

fn dev_files() {
    let null = ok!(open(c"/dev/null", O_RDWR));
    eq!(ok!(read(null, 9)), b"");
    eq!(ok!(write(null, b"123")), 3);
    let zero = ok!(open(c"/dev/zero", O_RDWR));
    eq!(ok!(read(zero, 4)), [0; 4]);
    eq!(ok!(write(zero, b"123")), 3);
    let full = ok!(open(c"/dev/full", O_RDWR));
    eq!(ok!(read(full, 4)), [0; 4]);
    err!(write(full, b"123"), ENOSPC);
    let random = ok!(open(c"/dev/urandom", O_RDONLY));
    let (a, b) = (ok!(read(random, 64)), ok!(read(random, 64)));
    check!(a != b && a.len() == 64);
    for name in ["null", "zero", "full", "random", "urandom", "tty", "ptmx"] {
        let st = ok!(stat(&c(format!("/dev/{name}"))));
        say!("{name} {:o} {:x}", st.st_mode & S_IFMT, st.st_rdev);
    }
    eq!(ok!(sys!(lseek, null, 5, SEEK_SET)), 0);
    eq!(ok!(sys!(lseek, zero, 5, SEEK_SET)), 0);
    eq!(std::fs::read_link("/dev/fd").unwrap().to_str(), Some("/proc/self/fd"));
    eq!(std::fs::read_link("/dev/stdin").unwrap().to_str(), Some("/proc/self/fd/0"));
    let mut buf = [0u8; 32];
    eq!(ok!(sys!(getrandom, m(&mut buf), 32, 0)), 32);
    err!(sys!(getrandom, m(&mut buf), 32, 0x100), EINVAL);
    err!(open(c"/dev/tty", O_RDWR).and_then(|f| read(f, 1)), ENXIO);
}

fn proc_self_fd() {
    put("a", b"0123456789");
    let f = ok!(open(c"a", O_RDONLY));
    ok!(read(f, 4));
    // a new description, with its own offset and its own access mode
    let g = ok!(open(&c(format!("/proc/self/fd/{f}")), O_RDWR));
    eq!(ok!(read(g, 3)), b"012");
    ok!(write(g, b"X"));
    eq!(ok!(read(f, 3)), b"456");
    let link = std::fs::read_link(format!("/proc/self/fd/{f}")).unwrap();
    say!("{}", link.display());
    ok!(sys!(unlink, c"a"));
    say!("{}", std::fs::read_link(format!("/proc/self/fd/{f}")).unwrap().display());
    let h = ok!(open(&c(format!("/proc/self/fd/{f}")), O_RDONLY));
    eq!(ok!(read(h, 4)), b"012X");
    let (r, _w) = pipe(0);
    let text = std::fs::read_link(format!("/proc/self/fd/{r}")).unwrap();
    check!(text.to_str().unwrap().starts_with("pipe:["));
    err!(open(c"/proc/self/fd/99", O_RDONLY), ENOENT);
    let info = String::from_utf8(get(&format!("/proc/self/fdinfo/{f}"))).unwrap();
    say!("{}", info.lines().take(2).collect::<Vec<_>>().join("; "));
}

fn write_bits() {
    // writing by somebody without CAP_FSETID clears set-user-ID
    put("a", b"abc");
    ok!(sys!(chmod, c"a", 0o6777));
    ok!(sys!(chmod, c".", 0o777));
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1000, 1000));
        let f = ok!(open(c"a", O_WRONLY));
        ok!(write(f, b"x"));
    });
    eq!(ok!(stat(c"a")).st_mode & 0o7777, 0o777);
    ok!(sys!(chmod, c"a", 0o6777));
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1000, 1000));
        ok!(sys!(truncate, c"a", 1));
    });
    eq!(ok!(stat(c"a")).st_mode & 0o7777, 0o777);
    ok!(sys!(chmod, c"a", 0o6777));
    ok!(sys!(chown, c"a", 1000, 1000));
    eq!(ok!(stat(c"a")).st_mode & 0o7777, 0o777);
}

fn offset_shared() {
    put("a", b"0123456789");
    let f = ok!(open(c"a", O_RDONLY));
    in_child(|| {
        ok!(read(f, 4));
    });
    eq!(ok!(read(f, 2)), b"45");
    in_child(|| {
        let g = ok!(open(c"a", O_RDONLY));
        ok!(read(g, 4));
    });
    eq!(ok!(read(f, 2)), b"67");
    in_child(|| {
        ok!(sys!(fcntl, f, F_SETFL, O_NONBLOCK));
    });
    eq!(ok!(sys!(fcntl, f, F_GETFL)) & i64::from(O_NONBLOCK), i64::from(O_NONBLOCK));
}

fn etxtbsy() {
    std::fs::copy("/proc/self/exe", "exe").unwrap();
    ok!(sys!(chmod, c"exe", 0o755));
    let w = ok!(open(c"exe", O_WRONLY));
    let argv = [c"exe".as_ptr(), std::ptr::null()];
    let r = sys!(execve, c"exe", p(&argv), 0);
    err!(r, ETXTBSY);
    close(w);
    let (r, w) = pipe(0);
    let (r2, w2) = pipe(0);
    let child = fork(|| {
        ok!(sys!(dup2, w, 1));
        ok!(sys!(dup2, r2, 0));
        close(w2);
        let argv = [c"exe".as_ptr(), c"@cat".as_ptr(), std::ptr::null()];
        let _ = sys!(execve, c"exe", p(&argv), 0);
    });
    ok!(write(w2, b"x"));
    eq!(ok!(read(r, 1)), b"x");
    err!(open(c"exe", O_WRONLY), ETXTBSY);
    err!(sys!(truncate, c"exe", 0), ETXTBSY);
    close(w2);
    eq!(wait(child), 0);
    close(ok!(open(c"exe", O_WRONLY)));
}

fn access_calls() {
    put("a", b"");
    ok!(sys!(chmod, c"a", 0o640));
    ok!(sys!(access, c"a", F_OK));
    ok!(sys!(access, c"a", R_OK | W_OK));
    err!(sys!(access, c"a", X_OK), EACCES);
    err!(sys!(access, c"b", F_OK), ENOENT);
    err!(sys!(access, c"a", 8), EINVAL);
    ok!(sys!(chmod, c"a", 0o001));
    ok!(sys!(access, c"a", R_OK | W_OK | X_OK));
    ok!(sys!(mkdir, c"d", 0));
    ok!(sys!(access, c"d", R_OK | W_OK | X_OK));
    // the real user counts, not the effective one
    in_child(|| {
        ok!(sys!(setresuid, 1000, 0, 0));
        err!(sys!(access, c"a", R_OK), EACCES);
        ok!(sys!(faccessat2, AT_FDCWD, c"a", R_OK, AT_EACCESS));
    });
    in_child(|| {
        ok!(sys!(setresgid, 1000, 1000, 1000));
        ok!(sys!(setresuid, 1000, 1000, 1000));
        err!(sys!(access, c"a", R_OK), EACCES);
        ok!(sys!(access, c"a", X_OK));
        ok!(sys!(access, c"a", F_OK));
        err!(sys!(access, c"d/x", F_OK), EACCES);
    });
}

fn faccessat2_flags() {
    put("a", b"");
    ok!(sys!(symlink, c"gone", c"l"));
    err!(sys!(faccessat2, AT_FDCWD, c"l", F_OK, 0), ENOENT);
    ok!(sys!(faccessat2, AT_FDCWD, c"l", F_OK, AT_SYMLINK_NOFOLLOW));
    let f = ok!(open(c"a", O_RDONLY));
    ok!(sys!(faccessat2, f, c"", R_OK, AT_EMPTY_PATH));
    err!(sys!(faccessat2, f, c"", R_OK, 0), ENOENT);
    err!(sys!(faccessat2, AT_FDCWD, c"a", R_OK, 1), EINVAL);
    err!(sys!(faccessat, f, c"a", R_OK), ENOTDIR);
}

fn dac_checks() {
    ok!(sys!(chmod, c".", 0o755));
    put("owner", b"o");
    ok!(sys!(chown, c"owner", 1000, 100));
    ok!(sys!(chmod, c"owner", 0o640));
    ok!(sys!(mkdir, c"shut", 0o700));
    put("shut/f", b"");
    ok!(sys!(mkdir, c"list", 0o744));
    put("list/f", b"");
    let as_user = |uid: i32, gid: i32, f: fn()| {
        in_child(|| {
            ok!(sys!(setgroups, 0, 0));
            ok!(sys!(setresgid, gid, gid, gid));
            ok!(sys!(setresuid, uid, uid, uid));
            f();
        });
    };
    as_user(1000, 1000, || {
        close(ok!(open(c"owner", O_RDWR)));
        err!(open(c"shut/f", O_RDONLY), EACCES);
        err!(stat(c"list/f"), EACCES);
        close(ok!(open(c"list", O_RDONLY)));
        err!(open(c"new", O_CREAT | O_RDWR), EACCES);
        err!(sys!(mkdir, c"new", 0o755), EACCES);
        err!(sys!(unlink, c"owner"), EACCES);
        err!(sys!(chmod, c"list", 0o777), EPERM);
        err!(sys!(chown, c"owner", 1000, 1), EPERM);
        err!(sys!(chown, c"owner", 0, -1), EPERM);
        ok!(sys!(chmod, c"owner", 0o600));
        ok!(sys!(chmod, c"owner", 0o640));
    });
    as_user(1001, 100, || {
        close(ok!(open(c"owner", O_RDONLY)));
        err!(open(c"owner", O_WRONLY), EACCES);
    });
    as_user(1001, 1001, || {
        err!(open(c"owner", O_RDONLY), EACCES);
        err!(open(c"owner", O_RDONLY | O_NOATIME), EACCES);
        ok!(stat(c"owner"));
    });
    in_child(|| {
        ok!(sys!(setgroups, 1, p(&[100u32])));
        ok!(sys!(setresgid, 5, 5, 5));
        ok!(sys!(setresuid, 1001, 1001, 1001));
        close(ok!(open(c"owner", O_RDONLY)));
    });
}

fn unlinked_open() {
    let f = ok!(open(c"a", O_CREAT | O_RDWR));
    ok!(write(f, b"abc"));
    ok!(sys!(unlink, c"a"));
    eq!(fstat(f).st_nlink, 0);
    ok!(write(f, b"def"));
    let mut b = [0u8; 6];
    eq!(ok!(sys!(pread64, f, m(&mut b), 6, 0)), 6);
    eq!(&b, b"abcdef");
    ok!(sys!(fchmod, f, 0o600));
    ok!(sys!(ftruncate, f, 2));
    eq!(fstat(f).st_size, 2);
    let g = ok!(open(c"a", O_CREAT | O_EXCL | O_RDWR));
    check!(fstat(g).st_ino != fstat(f).st_ino);
}
