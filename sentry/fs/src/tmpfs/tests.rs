use super::*;
use abi::Errno;
use abi::fs::OpenFlags;
use kernel::io::IoBuffer;
use kernel::vfs::{DirSink, FsStr, FsString, XattrFlags};
use kernel::vfs::{File, Lookup, Mount, MountFlags, MountNamespace, PathRef, RenameFlags, Walker};

pub struct Names(pub Vec<FsString>, pub usize);

impl DirSink for Names {
    fn add(&mut self, name: &FsStr, _ino: u64, _kind: FileType, _next: u64) -> bool {
        if self.0.len() == self.1 {
            return false;
        }
        self.0.push(name.to_vec());
        true
    }
}

fn fixture(options: &str) -> (Walker<'static>, PathRef) {
    let pool = Arc::new(MemoryPool::new(1 << 30).expect("pool"));
    let mut o = Options::default();
    o.update(options).expect("options");
    let sb = new(&pool, "tmpfs", o).expect("tmpfs");
    let ns = MountNamespace::new(Mount::of(&sb, MountFlags::empty()).expect("mount"));
    let root = ns.root().expect("root");
    // The namespace lives as long as the mount is used.
    std::mem::forget(ns);
    (Walker::kernel(root.clone()), root)
}

fn open(path: &PathRef) -> Arc<File> {
    File::new(path.clone(), OpenFlags::RDWR, file::open(&path.inode).expect("open"))
}

fn list(path: &PathRef) -> Vec<String> {
    let mut n = Names(Vec::new(), usize::MAX);
    let f = open(path);
    f.ops().readdir(&f, 0, &mut n).expect("readdir");
    n.0.into_iter().map(|n| String::from_utf8(n).expect("text")).filter(|n| n != "." && n != "..").collect()
}

fn errno<T>(r: Result<T>) -> Errno {
    match r {
        Ok(_) => panic!("succeeded"),
        Err(e) => e.errno(),
    }
}

#[test]
fn names_and_links() {
    let (w, r) = fixture("");
    w.mkdir(&r, b"d", 0o755).expect("mkdir");
    w.mkdir(&r, b"d/e/", 0o755).expect("mkdir with a slash");
    w.mknod(&r, b"d/f", FileType::Regular, 0o644, 0).expect("mknod");
    w.symlink(b"d/../d/f", &r, b"s").expect("symlink");
    assert_eq!(errno(w.mkdir(&r, b"d", 0o755)), Errno::EEXIST);
    assert_eq!(errno(w.mkdir(&r, b"x/y", 0o755)), Errno::ENOENT);
    assert_eq!(errno(w.walk(&r, b"d/f/", Lookup::FOLLOW)), Errno::ENOTDIR);
    assert_eq!(errno(w.walk(&r, b"d/f/..", Lookup::FOLLOW)), Errno::ENOTDIR);
    let f = w.walk(&r, b"/s", Lookup::FOLLOW).expect("through the link");
    assert_eq!(f.inode.ino, w.walk(&r, b"//d/./f", Lookup::FOLLOW).expect("direct").inode.ino);
    assert_eq!(f.text(&r), b"/d/f");
    w.link(&f, &r, b"g").expect("link");
    assert_eq!(f.inode.attr().expect("attr").nlink, 2);
    assert_eq!(errno(w.unlink(&r, b"d")), Errno::EISDIR);
    assert_eq!(errno(w.rmdir(&r, b"d")), Errno::ENOTEMPTY);
    assert_eq!(errno(w.rmdir(&r, b"d/.")), Errno::EINVAL);
    assert_eq!(errno(w.rmdir(&r, b"d/..")), Errno::ENOTEMPTY);
    w.unlink(&r, b"d/f").expect("unlink");
    assert_eq!(f.text(&r), b"/d/f (deleted)");
    assert_eq!(errno(w.walk(&r, b"s", Lookup::FOLLOW)), Errno::ENOENT);
    assert_eq!(list(&r), ["d", "s", "g"]);
    w.rmdir(&r, b"d/e/").expect("rmdir");
    w.rmdir(&r, b"d").expect("rmdir");
    assert_eq!(r.inode.attr().expect("attr").nlink, 2);
    w.symlink(b"loop", &r, b"loop").expect("symlink");
    assert_eq!(errno(w.walk(&r, b"loop", Lookup::FOLLOW)), Errno::ELOOP);
    assert_eq!(errno(w.walk(&r, &[b'a'; 256], Lookup::FOLLOW)), Errno::ENAMETOOLONG);
    assert_eq!(errno(w.walk(&r, &[b'a'; 4096], Lookup::FOLLOW)), Errno::ENAMETOOLONG);
    assert_eq!(w.walk(&r, b"../../..", Lookup::FOLLOW).expect("root").inode.ino, r.inode.ino);
}

#[test]
fn renames() {
    let (w, r) = fixture("");
    let rename = |a: &[u8], b: &[u8], f| w.rename((&r, a), (&r, b), f);
    let none = RenameFlags::empty();
    for d in [&b"a"[..], b"a/b", b"a/b/c", b"x"] {
        w.mkdir(&r, d, 0o755).expect("mkdir");
    }
    w.mknod(&r, b"f", FileType::Regular, 0o644, 0).expect("mknod");
    assert_eq!(errno(rename(b"a", b"a/b/z", none)), Errno::EINVAL);
    assert_eq!(errno(rename(b"a/b/c", b"a", none)), Errno::ENOTEMPTY);
    assert_eq!(errno(rename(b"f", b"x", none)), Errno::EISDIR);
    assert_eq!(errno(rename(b"x", b"f", none)), Errno::ENOTDIR);
    assert_eq!(errno(rename(b"f", b"x", RenameFlags::NOREPLACE)), Errno::EEXIST);
    let c = w.walk(&r, b"a/b/c", Lookup::FOLLOW).expect("walk");
    rename(b"a/b", b"x/b2", none).expect("rename");
    assert_eq!(c.text(&r), b"/x/b2/c");
    assert_eq!(w.walk(&c, b"../../..", Lookup::FOLLOW).expect("walk").inode.ino, r.inode.ino);
    assert_eq!(errno(w.walk(&r, b"a/b", Lookup::FOLLOW)), Errno::ENOENT);
    rename(b"f", b"x", RenameFlags::EXCHANGE).expect("exchange");
    assert!(w.walk(&r, b"x", Lookup::FOLLOW).expect("x").inode.kind == FileType::Regular);
    assert_eq!(c.text(&r), b"/f/b2/c");
    rename(b"a", b"f/b2/c", none).expect("over an empty directory");
    assert_eq!(errno(w.mkdir(&c, b"gone", 0o755)), Errno::ENOENT);
    assert_eq!(r.inode.attr().expect("attr").nlink, 3);
}

#[test]
fn mounts() {
    let (w, r) = fixture("");
    let other = new(&Arc::new(MemoryPool::new(1 << 30).expect("pool")), "two", Options::default()).expect("tmpfs");
    let m = w.mkdir(&r, b"mnt", 0o755).expect("mkdir");
    let ns = r.mount.namespace().expect("namespace");
    ns.attach(Mount::of(&other, MountFlags::RDONLY).expect("mount"), &m).expect("attach");
    let inside = w.walk(&r, b"mnt", Lookup::FOLLOW).expect("walk");
    assert_eq!(inside.inode.sb.dev, other.dev);
    assert_eq!(inside.text(&r), b"/mnt");
    assert_eq!(errno(w.mkdir(&r, b"mnt/x", 0o755)), Errno::EROFS);
    assert_eq!(errno(w.rmdir(&r, b"mnt")), Errno::EBUSY);
    assert_eq!(errno(w.rename((&r, b"mnt"), (&r, b"m2"), RenameFlags::empty())), Errno::EBUSY);
    assert_eq!(w.walk(&r, b"mnt/..", Lookup::FOLLOW).expect("up").inode.ino, r.inode.ino);
    assert_eq!(errno(w.walk(&r, b"mnt", Lookup { resolve: 1, ..Lookup::FOLLOW })), Errno::EXDEV);
    inside.mount.set_flags(MountFlags::empty()).expect("remount");
    w.mkdir(&r, b"mnt/x", 0o755).expect("writable now");
    let b = w.mkdir(&r, b"bind", 0o755).expect("mkdir");
    let x = w.walk(&r, b"mnt/x", Lookup::FOLLOW).expect("walk");
    ns.attach_tree(ns.copy_tree(&x, true), &b).expect("bind");
    w.mkdir(&r, b"bind/y", 0o755).expect("mkdir");
    assert_eq!(w.walk(&r, b"mnt/x/y", Lookup::FOLLOW).expect("walk").text(&r), b"/mnt/x/y");
    assert_eq!(w.walk(&r, b"bind/y", Lookup::FOLLOW).expect("walk").text(&r), b"/bind/y");
    let held = Arc::strong_count(&inside.mount);
    assert_eq!(errno(ns.umount(&inside.mount, false, 0)), Errno::EBUSY);
    drop(x);
    ns.umount(&inside.mount, true, held).expect("detach");
    assert_eq!(w.walk(&r, b"mnt", Lookup::FOLLOW).expect("walk").inode.ino, m.inode.ino);
}

#[test]
fn limits() {
    let (w, r) = fixture("size=8k,nr_inodes=3");
    let f = w.mknod(&r, b"f", FileType::Regular, 0o644, 0).expect("mknod");
    w.mkdir(&r, b"d", 0o755).expect("mkdir");
    assert_eq!(errno(w.mkdir(&r, b"e", 0o755)), Errno::ENOSPC);
    w.rmdir(&r, b"d").expect("rmdir");
    w.mkdir(&r, b"e", 0o755).expect("an inode is free again");
    let file = open(&f);
    let n = file.ops().write(&file, &mut IoBuffer::source(&[7; 20_000]), 0, false).expect("write").0;
    assert_eq!(n, 8192);
    assert_eq!(f.inode.sb.ops.statfs(&f.inode.sb).expect("statfs").bfree, 0);
    drop(file);
    w.unlink(&r, b"f").expect("unlink");
    drop(f);
    r.inode.sb.dcache.clear();
    assert_eq!(r.inode.sb.ops.statfs(&r.inode.sb).expect("statfs").bfree, 2);
}

#[test]
fn readdir_survives_removal() {
    let (w, r) = fixture("");
    for i in 0..100 {
        w.mknod(&r, format!("f{i}").as_bytes(), FileType::Regular, 0o644, 0).expect("mknod");
    }
    let f = open(&r);
    let (mut pos, mut seen) = (0, Vec::new());
    loop {
        let mut n = Names(Vec::new(), 7);
        pos = f.ops().readdir(&f, pos, &mut n).expect("readdir");
        if n.0.is_empty() {
            break;
        }
        for name in n.0.into_iter().filter(|n| n.starts_with(b"f")) {
            w.unlink(&r, &name).expect("unlink");
            seen.push(name);
        }
    }
    assert_eq!(seen.len(), 100);
    assert!(list(&r).is_empty());
}

#[test]
fn xattrs() {
    let (w, r) = fixture("");
    let f = w.mknod(&r, b"f", FileType::Regular, 0o644, 0).expect("mknod");
    let c = &*w.cred;
    assert_eq!(errno(f.getxattr(c, b"user.a")), Errno::ENODATA);
    assert_eq!(errno(f.setxattr(c, b"user.a", b"1", XattrFlags::REPLACE)), Errno::ENODATA);
    f.setxattr(c, b"user.a", b"1", XattrFlags::CREATE).expect("set");
    assert_eq!(errno(f.setxattr(c, b"user.a", b"1", XattrFlags::CREATE)), Errno::EEXIST);
    assert_eq!(errno(f.setxattr(c, b"system.posix_acl_access", b"1", XattrFlags::empty())), Errno::EOPNOTSUPP);
    assert_eq!(f.listxattr(c), Ok(vec![b"user.a".to_vec()]));
    f.removexattr(c, b"user.a").expect("remove");
    assert_eq!(errno(f.removexattr(c, b"user.a")), Errno::ENODATA);
}

#[test]
fn a_deep_tree_ends_without_recursion() {
    let (w, r) = fixture("");
    let mut at = r.clone();
    for _ in 0..20_000 {
        at = w.mkdir(&at, b"d", 0o755).expect("mkdir");
    }
    drop(at);
    r.inode.sb.dcache.clear();
    let names = tmp(&r.inode).expect("tmpfs").names();
    let Content::Directory(e) = &tmp(&r.inode).expect("tmpfs").content else { panic!("directory") };
    drop(names);
    drop(e.lock().remove(b"d"));
}

use inode::Content;
