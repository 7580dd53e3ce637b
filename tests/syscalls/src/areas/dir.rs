//! Names: directories, hard and symbolic links, renames, removal, the current directory.

use crate::sys::*;
use crate::{check, eq, err, list, ok, say, sys};

pub const TESTS: &[crate::Test] = list!["dir";
    mkdir_rmdir, link_calls, linkat_flags, symlink_calls, readlink_calls, unlink_calls, unlinkat_flags, rename_files, rename_dirs,
    rename_exchange, rename_noreplace, rename_onto_links, getdents_order, getdents_args, getdents_while_changing, getdents_types,
    many_entries, dots, nlink_counts, cwd_calls, cwd_removed, chroot_calls, sticky, setgid_dir, mknod_calls, deep_tree, symlink_walk,
    name_bytes, protected_links, rename_open,
];

fn names(path: &str) -> Vec<String> {
    let mut v: Vec<String> = match std::fs::read_dir(path) {
        Ok(d) => d.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect(),
        Err(e) => vec![format!("{e}")],
    };
    v.sort();
    v
}

fn mkdir_rmdir() {
    ok!(sys!(mkdir, c"d", 0o750));
    eq!(ok!(stat(c"d")).st_mode, S_IFDIR | 0o750);
    err!(sys!(mkdir, c"d", 0o755), EEXIST);
    err!(sys!(mkdir, c"none/d", 0o755), ENOENT);
    put("f", b"");
    err!(sys!(mkdir, c"f", 0o755), EEXIST);
    err!(sys!(mkdir, c"f/d", 0o755), ENOTDIR);
    err!(sys!(mkdir, c"", 0o755), ENOENT);
    err!(sys!(mkdir, c"/", 0o755), EEXIST);
    ok!(sys!(symlink, c"gone", c"l"));
    err!(sys!(mkdir, c"l", 0o755), EEXIST);
    put("d/x", b"");
    err!(sys!(rmdir, c"d"), ENOTEMPTY);
    err!(sys!(rmdir, c"f"), ENOTDIR);
    err!(sys!(rmdir, c"none"), ENOENT);
    err!(sys!(rmdir, c"/"), EBUSY);
    err!(sys!(rmdir, c"."), EINVAL);
    ok!(sys!(unlink, c"d/x"));
    ok!(sys!(rmdir, c"d"));
    err!(stat(c"d"), ENOENT);
    ok!(sys!(mkdirat, AT_FDCWD, c"e", 0o777));
    ok!(sys!(rmdir, c"e/"));
}

fn link_calls() {
    put("a", b"x");
    ok!(sys!(link, c"a", c"b"));
    let (a, b) = (ok!(stat(c"a")), ok!(stat(c"b")));
    eq!((a.st_ino, a.st_nlink), (b.st_ino, 2));
    err!(sys!(link, c"a", c"b"), EEXIST);
    err!(sys!(link, c"none", c"d"), ENOENT);
    err!(sys!(link, c"a", c"none/b"), ENOENT);
    ok!(sys!(mkdir, c"d", 0o755));
    err!(sys!(link, c"d", c"e"), EPERM);
    err!(sys!(link, c"a", c"/dev/shm/x"), EXDEV);
    put("b", b"through b");
    eq!(get("a"), b"through b");
    ok!(sys!(unlink, c"a"));
    eq!(ok!(stat(c"b")).st_nlink, 1);
}

fn linkat_flags() {
    put("a", b"x");
    ok!(sys!(symlink, c"a", c"l"));
    ok!(sys!(linkat, AT_FDCWD, c"l", AT_FDCWD, c"hard-to-link", 0));
    eq!(ok!(lstat(c"hard-to-link")).st_mode & S_IFMT, S_IFLNK);
    ok!(sys!(linkat, AT_FDCWD, c"l", AT_FDCWD, c"hard-to-a", AT_SYMLINK_FOLLOW));
    eq!(ok!(lstat(c"hard-to-a")).st_ino, ok!(stat(c"a")).st_ino);
    err!(sys!(linkat, AT_FDCWD, c"a", AT_FDCWD, c"q", 1), EINVAL);
    ok!(sys!(mkdir, c"d", 0o755));
    let d = ok!(open(c"d", O_PATH));
    ok!(sys!(linkat, AT_FDCWD, c"a", d, c"in-d", 0));
    eq!(names("d"), ["in-d"]);
    err!(sys!(linkat, d, c"", AT_FDCWD, c"q", AT_EMPTY_PATH), EPERM);
}

fn symlink_calls() {
    ok!(sys!(symlink, c"target", c"l"));
    let st = ok!(lstat(c"l"));
    eq!((st.st_mode, st.st_size, st.st_nlink), (S_IFLNK | 0o777, 6, 1));
    err!(stat(c"l"), ENOENT);
    err!(sys!(symlink, c"t", c"l"), EEXIST);
    err!(sys!(symlink, c"", c"m"), ENOENT);
    err!(sys!(symlink, c"t", c"none/m"), ENOENT);
    put("target", b"abc");
    eq!(ok!(stat(c"l")).st_size, 3);
    ok!(sys!(unlink, c"l"));
    eq!(get("target"), b"abc");
    ok!(sys!(symlink, &c("x".repeat(4095)), c"long"));
    eq!(ok!(lstat(c"long")).st_size, 4095);
    err!(sys!(symlink, &c("x".repeat(4096)), c"longer"), ENAMETOOLONG);
}

fn readlink_calls() {
    ok!(sys!(symlink, c"0123456789", c"l"));
    put("f", b"");
    let mut b = [b'#'; 20];
    eq!(ok!(sys!(readlink, c"l", m(&mut b), 20)), 10);
    eq!(&b[..11], b"0123456789#");
    eq!(ok!(sys!(readlink, c"l", m(&mut b), 4)), 4);
    err!(sys!(readlink, c"l", m(&mut b), 0), EINVAL);
    err!(sys!(readlink, c"l", m(&mut b), -1), EINVAL);
    err!(sys!(readlink, c"f", m(&mut b), 20), EINVAL);
    err!(sys!(readlink, c".", m(&mut b), 20), EINVAL);
    err!(sys!(readlink, c"none", m(&mut b), 20), ENOENT);
    err!(sys!(readlink, c"f/x", m(&mut b), 20), ENOTDIR);
    err!(sys!(readlink, c"l", 8, 20), EFAULT);
}

fn unlink_calls() {
    put("a", b"");
    ok!(sys!(unlink, c"a"));
    err!(sys!(unlink, c"a"), ENOENT);
    ok!(sys!(mkdir, c"d", 0o755));
    err!(sys!(unlink, c"d"), EISDIR);
    err!(sys!(unlink, c"d/."), EISDIR);
    err!(sys!(unlink, c"/"), EISDIR);
    err!(sys!(unlink, c""), ENOENT);
    put("a", b"");
    err!(sys!(unlink, c"a/b"), ENOTDIR);
    ok!(sys!(symlink, c"d", c"l"));
    ok!(sys!(unlink, c"l"));
    ok!(stat(c"d"));
}

fn unlinkat_flags() {
    ok!(sys!(mkdir, c"d", 0o755));
    put("d/f", b"");
    let d = ok!(open(c"d", O_RDONLY));
    err!(sys!(unlinkat, d, c"f", AT_REMOVEDIR), ENOTDIR);
    err!(sys!(unlinkat, d, c"f", 1), EINVAL);
    ok!(sys!(unlinkat, d, c"f", 0));
    err!(sys!(unlinkat, AT_FDCWD, c"d", 0), EISDIR);
    ok!(sys!(unlinkat, AT_FDCWD, c"d", AT_REMOVEDIR));
    err!(sys!(unlinkat, d, c"x", 0), ENOENT);
}

fn rename_files() {
    put("a", b"aa");
    put("b", b"bbb");
    ok!(sys!(rename, c"a", c"b"));
    eq!((names("."), get("b")), (vec!["b".to_string()], b"aa".to_vec()));
    err!(sys!(rename, c"a", c"c"), ENOENT);
    err!(sys!(rename, c"b", c"none/c"), ENOENT);
    err!(sys!(rename, c"b", c""), ENOENT);
    err!(sys!(rename, c"b", c"/proc/x"), EXDEV);
    ok!(sys!(rename, c"b", c"b"));
    eq!(get("b"), b"aa");
    ok!(sys!(mkdir, c"d", 0o755));
    err!(sys!(rename, c"b", c"d"), EISDIR);
    err!(sys!(rename, c"d", c"b"), ENOTDIR);
    ok!(sys!(rename, c"b", c"d/b"));
    eq!(names("d"), ["b"]);
    err!(sys!(rename, c"d/b/x", c"q"), ENOTDIR);
}

fn rename_dirs() {
    for d in [c"a", c"a/b", c"a/b/c", c"e", c"full"] {
        ok!(sys!(mkdir, d, 0o755));
    }
    put("full/x", b"");
    err!(sys!(rename, c"a", c"a/b/q"), EINVAL);
    err!(sys!(rename, c"a", c"a/b"), EINVAL);
    err!(sys!(rename, c"a/b", c"a"), ENOTEMPTY);
    err!(sys!(rename, c"a", c"full"), ENOTEMPTY);
    ok!(sys!(rename, c"a/b", c"e"));
    eq!((names("e"), names("a")), (vec!["c".to_string()], vec![]));
    eq!(ok!(stat(c"a")).st_nlink, 2);
    err!(sys!(rename, c".", c"z"), EBUSY);
    err!(sys!(rename, c"..", c"z"), EBUSY);
    err!(sys!(rename, c"e", c"."), EBUSY);
    // the parent of a moved directory is its new one
    ok!(sys!(rename, c"e", c"full/e"));
    ok!(sys!(chdir, c"full/e/c"));
    eq!(ok!(stat(c"../..")).st_ino, ok!(stat(c"../../../full")).st_ino);
}

fn rename_exchange() {
    put("a", b"aa");
    ok!(sys!(mkdir, c"d", 0o755));
    put("d/x", b"x");
    ok!(sys!(renameat2, AT_FDCWD, c"a", AT_FDCWD, c"d", RENAME_EXCHANGE));
    eq!(get("d"), b"aa");
    eq!(get("a/x"), b"x");
    err!(sys!(renameat2, AT_FDCWD, c"a", AT_FDCWD, c"none", RENAME_EXCHANGE), ENOENT);
    err!(sys!(renameat2, AT_FDCWD, c"a", AT_FDCWD, c"d", RENAME_EXCHANGE | RENAME_NOREPLACE), EINVAL);
    err!(sys!(renameat2, AT_FDCWD, c"a", AT_FDCWD, c"d", 1 << 9), EINVAL);
    err!(sys!(renameat2, AT_FDCWD, c"a", AT_FDCWD, c"a/x", RENAME_EXCHANGE), EINVAL);
}

fn rename_noreplace() {
    put("a", b"aa");
    put("b", b"b");
    err!(sys!(renameat2, AT_FDCWD, c"a", AT_FDCWD, c"b", RENAME_NOREPLACE), EEXIST);
    ok!(sys!(renameat2, AT_FDCWD, c"a", AT_FDCWD, c"c", RENAME_NOREPLACE));
    eq!(names("."), ["b", "c"]);
    err!(sys!(renameat2, AT_FDCWD, c"c", AT_FDCWD, c"c", RENAME_NOREPLACE), EEXIST);
}

fn rename_onto_links() {
    put("a", b"same");
    ok!(sys!(link, c"a", c"b"));
    // two names of one file: nothing happens (rename(2))
    ok!(sys!(rename, c"a", c"b"));
    eq!(names("."), ["a", "b"]);
    put("c", b"c");
    ok!(sys!(symlink, c"c", c"l"));
    ok!(sys!(rename, c"a", c"l"));
    eq!(ok!(lstat(c"l")).st_mode & S_IFMT, S_IFREG);
    eq!(get("c"), b"c");
    ok!(sys!(symlink, c"c", c"m"));
    ok!(sys!(rename, c"m", c"n"));
    eq!(ok!(lstat(c"n")).st_mode & S_IFMT, S_IFLNK);
}

fn rename_open() {
    put("a", b"old");
    put("b", b"new");
    let f = ok!(open(c"a", O_RDONLY));
    ok!(sys!(rename, c"b", c"a"));
    eq!(ok!(read(f, 9)), b"old");
    eq!(fstat(f).st_nlink, 0);
    let d = ok!(sys!(mkdir, c"d", 0o755));
    eq!(d, 0);
    let d = ok!(open(c"d", O_RDONLY));
    ok!(sys!(mkdir, c"e", 0o755));
    ok!(sys!(rename, c"e", c"d"));
    eq!(fstat(d).st_nlink, 0);
}

/// (inode, offset, type, name) of each entry.
fn entries(fd: i32, size: usize) -> Result<Vec<(u64, i64, u8, String)>, E> {
    let mut b = vec![0u8; size];
    let n = sys!(getdents64, fd, m(&mut b[..]), size)? as usize;
    let (mut v, mut at) = (vec![], 0);
    while at < n {
        let len = usize::from(u16::from_le_bytes([b[at + 16], b[at + 17]]));
        let name: Vec<u8> = b[at + 19..at + len].iter().copied().take_while(|x| *x != 0).collect();
        eq!(len % 8, 0);
        v.push((
            u64::from_le_bytes(b[at..at + 8].try_into().unwrap()),
            i64::from_le_bytes(b[at + 8..at + 16].try_into().unwrap()),
            b[at + 18],
            String::from_utf8_lossy(&name).into_owned(),
        ));
        at += len;
    }
    Ok(v)
}

fn getdents_order() {
    for n in ["x", "y", "z"] {
        put(n, b"");
    }
    let d = ok!(open(c".", O_RDONLY));
    let all = ok!(entries(d, 4096));
    eq!((all[0].3.as_str(), all[1].3.as_str(), all.len()), (".", "..", 5));
    eq!(ok!(entries(d, 4096)).len(), 0);
    // every entry's offset leads to the next one
    for i in 0..4 {
        eq!(ok!(sys!(lseek, d, all[i].1, SEEK_SET)), all[i].1);
        eq!(ok!(entries(d, 4096))[0].3, all[i + 1].3);
    }
    ok!(sys!(lseek, d, 0, SEEK_SET));
    eq!(ok!(entries(d, 4096)).len(), 5);
    for e in &all[2..] {
        eq!(e.0, ok!(stat(&c(&e.3))).st_ino);
    }
    eq!(all[0].0, ok!(stat(c".")).st_ino);
}

fn getdents_args() {
    put("a-rather-long-name-of-a-file-in-here", b"");
    let d = ok!(open(c".", O_RDONLY));
    err!(entries(d, 8), EINVAL);
    err!(entries(99, 100), EBADF);
    let f = ok!(open(c"a-rather-long-name-of-a-file-in-here", O_RDONLY));
    err!(entries(f, 100), ENOTDIR);
    err!(sys!(getdents64, d, 8, 100), EFAULT);
    let mut n = 0;
    loop {
        match entries(d, 64) {
            Ok(v) if v.is_empty() => break,
            Ok(v) => n += v.len(),
            Err(e) => {
                say!("{e:?}");
                break;
            }
        }
    }
    eq!(n, 3);
    let mut b = [0u8; 256];
    ok!(sys!(lseek, d, 0, SEEK_SET));
    check!(ok!(sys!(getdents, d, m(&mut b), 256)) > 0);
    ok!(sys!(mkdir, c"gone", 0o755));
    let g = ok!(open(c"gone", O_RDONLY));
    ok!(sys!(rmdir, c"gone"));
    err!(entries(g, 100), ENOENT);
}

fn getdents_while_changing() {
    for i in 0..300 {
        put(&format!("f{i}"), b"");
    }
    let d = ok!(open(c".", O_RDONLY));
    let mut seen = vec![];
    loop {
        let v = ok!(entries(d, 512));
        if v.is_empty() {
            break;
        }
        for e in v.iter().filter(|e| e.3.starts_with('f')) {
            ok!(sys!(unlink, &c(&e.3)));
            seen.push(e.3.clone());
        }
    }
    seen.sort();
    seen.dedup();
    eq!(seen.len(), 300);
    eq!(names("."), Vec::<String>::new());
    ok!(sys!(mkdir, c"d", 0o755));
    ok!(sys!(rmdir, c"d"));
}

fn getdents_types() {
    ok!(sys!(mkdir, c"dir", 0o755));
    put("file", b"");
    ok!(sys!(symlink, c"x", c"link"));
    ok!(sys!(mknod, c"fifo", S_IFIFO | 0o644, 0));
    ok!(sys!(mknod, c"sock", S_IFSOCK | 0o644, 0));
    let d = ok!(open(c".", O_RDONLY));
    let mut all = ok!(entries(d, 4096));
    all.sort_by(|a, b| a.3.cmp(&b.3));
    for e in all {
        say!("{} {}", e.3, e.2);
    }
}

fn many_entries() {
    for i in 0..3000 {
        let f = ok!(open(&c(format!("file-{i:05}")), O_CREAT | O_EXCL | O_WRONLY));
        close(f);
    }
    eq!(names(".").len(), 3000);
    eq!(names(".")[2999], "file-02999");
    for i in (0..3000).step_by(2) {
        ok!(sys!(unlink, &c(format!("file-{i:05}"))));
    }
    eq!(names(".").len(), 1500);
}

fn dots() {
    ok!(sys!(mkdir, c"a", 0o755));
    ok!(sys!(mkdir, c"a/b", 0o755));
    eq!(ok!(stat(c"a/b/..")).st_ino, ok!(stat(c"a")).st_ino);
    eq!(ok!(stat(c"a/./b/../.")).st_ino, ok!(stat(c"a")).st_ino);
    eq!(ok!(stat(c"/..")).st_ino, ok!(stat(c"/")).st_ino);
    eq!(ok!(stat(c"/../../..")).st_ino, ok!(stat(c"/")).st_ino);
    eq!(ok!(stat(c".///a/..//")).st_ino, ok!(stat(c".")).st_ino);
    err!(stat(c"a/none/.."), ENOENT);
}

fn nlink_counts() {
    let base = ok!(stat(c".")).st_nlink;
    ok!(sys!(mkdir, c"a", 0o755));
    ok!(sys!(mkdir, c"b", 0o755));
    eq!(ok!(stat(c".")).st_nlink, base + 2);
    put("f", b"");
    eq!(ok!(stat(c".")).st_nlink, base + 2);
    ok!(sys!(rename, c"a", c"b/a"));
    eq!(ok!(stat(c".")).st_nlink, base + 1);
    eq!(ok!(stat(c"b")).st_nlink, 3);
    ok!(sys!(rmdir, c"b/a"));
    eq!(ok!(stat(c"b")).st_nlink, 2);
}

fn cwd() -> Result<String, E> {
    let mut b = [0u8; 4096];
    let n = sys!(getcwd, m(&mut b), 4096)? as usize;
    Ok(String::from_utf8_lossy(&b[..n - 1]).into_owned())
}

fn cwd_calls() {
    let here = ok!(cwd());
    check!(here.ends_with("/dir.cwd_calls"));
    ok!(sys!(mkdir, c"d", 0o755));
    put("f", b"");
    ok!(sys!(chdir, c"d"));
    eq!(ok!(cwd()), format!("{here}/d"));
    ok!(sys!(chdir, c".."));
    eq!(ok!(cwd()), here);
    err!(sys!(chdir, c"none"), ENOENT);
    err!(sys!(chdir, c"f"), ENOTDIR);
    let f = ok!(open(c"f", O_RDONLY));
    err!(sys!(fchdir, f), ENOTDIR);
    err!(sys!(fchdir, 99), EBADF);
    let d = ok!(open(c"d", O_RDONLY));
    ok!(sys!(fchdir, d));
    eq!(ok!(cwd()), format!("{here}/d"));
    let mut b = [0u8; 8];
    err!(sys!(getcwd, m(&mut b), 3), ERANGE);
    ok!(sys!(rename, c"../d", c"../e"));
    eq!(ok!(cwd()), format!("{here}/e"));
    ok!(sys!(symlink, c"e", c"../l"));
    ok!(sys!(chdir, c"../l"));
    eq!(ok!(cwd()), format!("{here}/e"));
    in_child(|| {
        ok!(sys!(chdir, c"/"));
        eq!(ok!(cwd()), "/");
    });
    eq!(ok!(cwd()), format!("{here}/e"));
    in_child(|| {
        ok!(sys!(chmod, c".", 0o700));
        ok!(sys!(setresuid, 1000, 1000, 1000));
        err!(sys!(fchdir, d), EACCES);
        err!(sys!(chdir, c"../e"), EACCES);
    });
}

fn cwd_removed() {
    ok!(sys!(mkdir, c"d", 0o755));
    ok!(sys!(chdir, c"d"));
    ok!(sys!(rmdir, c"../d"));
    err!(cwd(), ENOENT);
    err!(open(c"x", O_CREAT | O_RDWR), ENOENT);
    err!(sys!(mkdir, c"x", 0o755), ENOENT);
    ok!(stat(c"."));
    ok!(stat(c".."));
    let link = std::fs::read_link("/proc/self/cwd").unwrap();
    check!(link.to_string_lossy().ends_with("/d (deleted)"));
    ok!(sys!(chdir, c".."));
    ok!(cwd());
}

fn chroot_calls() {
    ok!(sys!(mkdir, c"r", 0o755));
    ok!(sys!(mkdir, c"r/in", 0o755));
    put("r/f", b"inside");
    ok!(sys!(symlink, c"/f", c"r/l"));
    put("out", b"");
    let back = ok!(open(c".", O_RDONLY));
    err!(sys!(chroot, c"out"), ENOTDIR);
    err!(sys!(chroot, c"none"), ENOENT);
    in_child(|| {
        ok!(sys!(chroot, c"r"));
        eq!(get("/l"), b"inside");
        err!(stat(c"/out"), ENOENT);
        ok!(stat(c"out"));
        check!(cwd().is_ok_and(|s| s.starts_with("(unreachable)/")));
        ok!(sys!(chdir, c"/in"));
        eq!(ok!(cwd()), "/in");
        eq!(ok!(stat(c"../../..")).st_ino, ok!(stat(c"/")).st_ino);
        ok!(sys!(fchdir, back));
        ok!(stat(c"out"));
    });
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1000, 1000));
        err!(sys!(chroot, c"r"), EPERM);
    });
}

fn sticky() {
    ok!(sys!(mkdir, c"t", 0o777));
    ok!(sys!(chmod, c"t", 0o1777));
    put("t/root", b"");
    put("t/mine", b"");
    ok!(sys!(chown, c"t/mine", 1000, 1000));
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1000, 1000));
        err!(sys!(unlink, c"t/root"), EPERM);
        err!(sys!(rename, c"t/root", c"t/x"), EPERM);
        err!(sys!(rename, c"t/mine", c"t/root"), EPERM);
        ok!(sys!(rename, c"t/mine", c"t/ours"));
        ok!(sys!(unlink, c"t/ours"));
    });
}

fn setgid_dir() {
    ok!(sys!(mkdir, c"g", 0o777));
    ok!(sys!(chown, c"g", 0, 4242));
    ok!(sys!(chmod, c"g", 0o2777));
    put("g/f", b"");
    eq!(ok!(stat(c"g/f")).st_gid, 4242);
    ok!(sys!(mkdir, c"g/d", 0o755));
    let st = ok!(stat(c"g/d"));
    eq!((st.st_gid, st.st_mode & 0o7777), (4242, 0o2755));
    ok!(sys!(symlink, c"x", c"g/l"));
    eq!(ok!(lstat(c"g/l")).st_gid, 4242);
}

fn mknod_calls() {
    ok!(sys!(mknod, c"f", S_IFREG | 0o600, 0));
    eq!(ok!(stat(c"f")).st_mode, S_IFREG | 0o600);
    ok!(sys!(mknod, c"plain", 0o600, 0));
    eq!(ok!(stat(c"plain")).st_mode, S_IFREG | 0o600);
    ok!(sys!(mknodat, AT_FDCWD, c"s", S_IFSOCK | 0o600, 0));
    err!(open(c"s", O_RDWR), ENXIO);
    err!(sys!(mknod, c"d", S_IFDIR | 0o755, 0), EPERM);
    err!(sys!(mknod, c"f", S_IFREG | 0o600, 0), EEXIST);
    err!(sys!(mknod, c"x", 0o170000 | 0o600, 0), EINVAL);
    in_child(|| {
        ok!(sys!(chmod, c".", 0o777));
        ok!(sys!(setresuid, 1000, 1000, 1000));
        err!(sys!(mknod, c"c", S_IFCHR | 0o600, 0x103), EPERM);
        ok!(sys!(mknod, c"p", S_IFIFO | 0o600, 0));
    });
}

fn deep_tree() {
    for _ in 0..60 {
        ok!(sys!(mkdir, c"level-with-a-name", 0o755));
        ok!(sys!(chdir, c"level-with-a-name"));
    }
    let text = ok!(cwd());
    check!(text.len() > 60 * 18);
    put("leaf", b"deep");
    eq!(get(&format!("{text}/leaf")), b"deep");
    for _ in 0..60 {
        ok!(sys!(chdir, c".."));
    }
    ok!(std::fs::remove_dir_all("level-with-a-name").map_err(|_| EIO));
    eq!(names("."), Vec::<String>::new());
}

fn symlink_walk() {
    ok!(sys!(mkdir, c"a", 0o755));
    ok!(sys!(mkdir, c"a/b", 0o755));
    put("a/b/f", b"here");
    ok!(sys!(symlink, c"a/b", c"x"));
    ok!(sys!(symlink, c"../x", c"a/y"));
    ok!(sys!(symlink, c"y/../b/./f", c"a/z"));
    eq!(get("a/z"), b"here");
    eq!(get("a/y/f"), b"here");
    eq!(get("x/../b/f"), b"here");
    let here = ok!(cwd());
    ok!(sys!(symlink, &c(format!("{here}/x/f")), c"abs"));
    eq!(get("abs"), b"here");
    put("abs", b"changed");
    eq!(get("a/b/f"), b"changed");
}

fn name_bytes() {
    use std::ffi::CString;
    let odd = CString::new(vec![0xff, 0xfe, b'\n', b' ', 1]).unwrap();
    close(ok!(open(&odd, O_CREAT | O_RDWR)));
    ok!(stat(&odd));
    let all: Vec<_> = std::fs::read_dir(".").unwrap().map(|e| e.unwrap().file_name()).collect();
    use std::os::unix::ffi::OsStrExt;
    eq!(all[0].as_bytes(), odd.as_bytes());
    ok!(sys!(rename, &odd, c"plain"));
    eq!(names("."), ["plain"]);
}

fn protected_links() {
    // a user may not delete or replace what a directory without write permission holds, whoever owns the file
    ok!(sys!(mkdir, c"d", 0o755));
    put("d/mine", b"");
    ok!(sys!(chown, c"d/mine", 1000, 1000));
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1000, 1000));
        err!(sys!(unlink, c"d/mine"), EACCES);
        err!(sys!(rename, c"d/mine", c"d/x"), EACCES);
        err!(sys!(link, c"d/mine", c"d/x"), EACCES);
        close(ok!(open(c"d/mine", O_RDWR)));
    });
}
