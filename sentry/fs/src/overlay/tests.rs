use super::*;
use crate::tmpfs;
use abi::{Errno, fs::OpenFlags};
use kernel::io::IoBuffer;
use kernel::vfs::{DirSink, File, FsStr, FsString, Lookup, MountFlags, MountNamespace, PathRef, RenameFlags, SetAttr, Walker};

struct Fixture {
    below: Walker<'static>,
    w: Walker<'static>,
    r: PathRef,
    pool: Arc<MemoryPool>,
    mount: Arc<Mount>,
}

fn walker(m: &Arc<Mount>) -> Walker<'static> {
    let ns = MountNamespace::new(m.clone());
    let root = ns.root().expect("root");
    std::mem::forget(ns);
    Walker::kernel(root)
}

/// A tree below: `d/f` ("below"), `d/sub/deep`, `link` and `hard` on one inode, `s` -> `d/f`.
fn fixture() -> Fixture {
    let pool = Arc::new(MemoryPool::new(1 << 30).expect("pool"));
    let sb = tmpfs::new(&pool, "lower", tmpfs::Options { mode: 0o755, ..Default::default() }).expect("tmpfs");
    let mount = Mount::of(&sb, MountFlags::empty()).expect("mount");
    let below = walker(&mount);
    let root = below.root.clone();
    for d in [&b"d"[..], b"d/sub", b"e"] {
        below.mkdir(&root, d, 0o755).expect("mkdir");
    }
    for f in [&b"d/f"[..], b"d/sub/deep", b"link"] {
        let p = below.mknod(&root, f, FileType::Regular, 0o644, 0).expect("mknod");
        let file = File::new(p.clone(), OpenFlags::RDWR, tmpfs::open_inode(&p.inode).expect("open"));
        file.ops().write(&file, &mut IoBuffer::source(b"below"), 0, false).expect("write");
    }
    let link = below.walk(&root, b"link", Lookup::FOLLOW).expect("walk");
    below.link(&link, &root, b"hard").expect("link");
    below.symlink(b"d/f", &root, b"s").expect("symlink");
    above(below, pool, mount)
}

fn above(below: Walker<'static>, pool: Arc<MemoryPool>, mount: Arc<Mount>) -> Fixture {
    let sb = new(&pool, "overlay", Layers { lowers: vec![mount.clone()], size: None }).expect("overlay");
    let w = walker(&Mount::of(&sb, MountFlags::empty()).expect("mount"));
    let r = w.root.clone();
    Fixture { below, w, r, pool, mount }
}

impl Fixture {
    fn at(&self, path: &[u8]) -> PathRef {
        self.w.walk(&self.r, path, Lookup::FOLLOW).expect("walk")
    }

    fn errno(&self, path: &[u8]) -> Errno {
        self.w.walk(&self.r, path, Lookup::FOLLOW).expect_err("there").errno()
    }

    fn open(&self, path: &[u8], flags: OpenFlags) -> Arc<File> {
        let p = self.at(path);
        let ops = if p.inode.is_dir() {
            Box::new(readdir::OverlayDir::new(p.inode.clone())) as Box<dyn kernel::vfs::FileOps>
        } else {
            file::open(ovl(&p.inode).expect("overlay"), &p.inode, flags, None).expect("open")
        };
        File::new(p, flags, ops)
    }

    fn read(&self, path: &[u8]) -> String {
        read(&self.open(path, OpenFlags::empty()))
    }

    fn write(&self, path: &[u8], at: u64, text: &str) {
        let f = self.open(path, OpenFlags::RDWR);
        f.ops().write(&f, &mut IoBuffer::source(text.as_bytes()), at, false).expect("write");
    }

    fn list(&self, path: &[u8]) -> Vec<String> {
        struct Sink(Vec<String>);
        impl DirSink for Sink {
            fn add(&mut self, name: &FsStr, _ino: u64, _kind: FileType, _next: u64) -> bool {
                self.0.push(String::from_utf8_lossy(name).into_owned());
                true
            }
        }
        let f = self.open(path, OpenFlags::DIRECTORY);
        let mut s = Sink(Vec::new());
        f.ops().readdir(&f, 0, &mut s).expect("readdir");
        s.0.retain(|n| n != "." && n != "..");
        s.0.sort();
        s.0
    }

    /// Lets go of all names that nobody uses.
    fn forget(&self) {
        self.r.inode.sb.dcache.clear();
        self.r.dentry.forget_children();
    }
}

fn read(f: &Arc<File>) -> String {
    let mut b = vec![0; 100];
    let n = f.read_at(&mut b, 0).expect("read");
    String::from_utf8_lossy(&b[..n]).into_owned()
}

fn rename(x: &Fixture, a: &[u8], b: &[u8]) -> Result {
    x.w.rename((&x.r, a), (&x.r, b), RenameFlags::empty())
}

#[test]
fn looks_through() {
    let x = fixture();
    assert_eq!(x.read(b"d/f"), "below");
    assert_eq!(x.read(b"s"), "below");
    assert_eq!(x.list(b"/"), ["d", "e", "hard", "link", "s"]);
    let a = x.at(b"d/f").inode.attr().expect("attr");
    assert_eq!((a.size, a.perm, a.nlink), (5, 0o644, 1));
    assert_eq!(x.at(b"d/f").inode.sb.dev, x.at(b"/").inode.sb.dev);
    assert_eq!(x.errno(b"d/none"), Errno::ENOENT);
}

#[test]
fn writes_stay_above() {
    let x = fixture();
    let ino = x.at(b"d/f").inode.ino;
    let reader = x.open(b"d/f", OpenFlags::empty());
    x.write(b"d/f", 2, "LOUD!");
    assert_eq!(read(&reader), "beLOUD!");
    drop(reader);
    x.forget();
    assert_eq!(x.read(b"d/f"), "beLOUD!");
    assert_eq!(x.at(b"d/f").inode.ino, ino);
    let old = x.below.walk(&x.below.root.clone(), b"d/f", Lookup::FOLLOW).expect("below");
    assert_eq!(old.inode.attr().expect("attr").size, 5);
    x.at(b"d/sub/deep").truncate(&x.w.cred, 2).expect("truncate");
    x.forget();
    assert_eq!(x.read(b"d/sub/deep"), "be");
}

#[test]
fn attributes_come_up_alone() {
    let x = fixture();
    let before = x.pool.extents().len();
    x.at(b"d/f").chmod(&x.w.cred, 0o600).expect("chmod");
    x.at(b"d").chown(&x.w.cred, Some(7), None).expect("chown");
    x.at(b"d/f").setxattr(&x.w.cred, b"user.k", b"v", kernel::vfs::XattrFlags::empty()).expect("setxattr");
    x.forget();
    let a = x.at(b"d/f").inode.attr().expect("attr");
    assert_eq!((a.perm, a.size), (0o600, 5));
    assert_eq!(x.at(b"d").inode.attr().expect("attr").uid, 7);
    assert_eq!(x.at(b"d/f").getxattr(&x.w.cred, b"user.k"), Ok(b"v".to_vec()));
    assert_eq!(x.pool.extents().len(), before, "no content was copied");
    assert_eq!(x.read(b"d/f"), "below");
    x.write(b"d/f", 0, "B");
    assert_eq!(x.at(b"d/f").inode.attr().expect("attr").perm, 0o600);
}

#[test]
fn names_come_and_go() {
    let x = fixture();
    x.w.unlink(&x.r, b"d/f").expect("unlink");
    x.forget();
    assert_eq!(x.errno(b"d/f"), Errno::ENOENT);
    assert_eq!(x.errno(b"s"), Errno::ENOENT);
    assert_eq!(x.list(b"d"), ["sub"]);
    x.w.mknod(&x.r, b"d/f", FileType::Regular, 0o644, 0).expect("mknod");
    x.w.mkdir(&x.r, b"d/new", 0o755).expect("mkdir");
    x.forget();
    assert_eq!(x.read(b"d/f"), "");
    assert_eq!(x.list(b"d"), ["f", "new", "sub"]);
    x.w.unlink(&x.r, b"d/f").expect("unlink");
    x.forget();
    assert_eq!(x.errno(b"d/f"), Errno::ENOENT);
    assert_eq!(x.w.rmdir(&x.r, b"d").expect_err("full").errno(), Errno::ENOTEMPTY);
    x.w.unlink(&x.r, b"d/sub/deep").expect("unlink");
    x.w.rmdir(&x.r, b"d/sub").expect("rmdir");
    x.w.rmdir(&x.r, b"d/new").expect("rmdir");
    x.w.rmdir(&x.r, b"d").expect("rmdir");
    x.w.mkdir(&x.r, b"d", 0o755).expect("mkdir");
    x.forget();
    assert!(x.list(b"d").is_empty(), "what was below stays hidden");
}

#[test]
fn renames_move_trees() {
    let x = fixture();
    let ino = x.at(b"d/sub/deep").inode.ino;
    rename(&x, b"d", b"e/moved").expect("rename");
    x.forget();
    assert_eq!(x.read(b"e/moved/sub/deep"), "below");
    assert_eq!(x.at(b"e/moved/sub/deep").inode.ino, ino);
    assert_eq!(x.errno(b"d"), Errno::ENOENT);
    x.write(b"e/moved/sub/deep", 0, "B");
    rename(&x, b"e/moved/sub/deep", b"link").expect("over a file");
    x.forget();
    assert_eq!(x.read(b"link"), "Below");
    assert_eq!(x.read(b"hard"), "below");
    assert_eq!(x.at(b"hard").inode.attr().expect("attr").nlink, 1);
    assert_eq!(x.list(b"/"), ["e", "hard", "link", "s"]);
    x.w.rename((&x.r, b"e"), (&x.r, b"link"), RenameFlags::EXCHANGE).expect("exchange");
    x.forget();
    assert_eq!(x.list(b"link"), ["moved"]);
    assert_eq!(x.read(b"e"), "Below");
    assert_eq!(rename(&x, b"link/moved", b"e").expect_err("onto a file").errno(), Errno::ENOTDIR);
}

#[test]
fn hard_links_stay_together() {
    let x = fixture();
    x.write(b"link", 0, "B");
    x.forget();
    assert_eq!(x.read(b"hard"), "Below");
    assert_eq!(x.at(b"hard").inode.ino, x.at(b"link").inode.ino);
    x.w.link(&x.at(b"hard"), &x.r, b"third").expect("link");
    assert_eq!(x.at(b"link").inode.attr().expect("attr").nlink, 3);
    x.w.unlink(&x.r, b"link").expect("unlink");
    x.w.unlink(&x.r, b"third").expect("unlink");
    x.forget();
    assert_eq!(x.read(b"hard"), "Below");
    assert_eq!(x.at(b"hard").inode.attr().expect("attr").nlink, 1);
    let open = x.open(b"hard", OpenFlags::empty());
    x.w.unlink(&x.r, b"hard").expect("unlink");
    assert_eq!(read(&open), "Below");
    assert_eq!(open.inode().attr().expect("attr").nlink, 0);
}

#[test]
fn layers_merge() {
    let x = fixture();
    let sb = tmpfs::new(&x.pool, "second", tmpfs::Options::default()).expect("tmpfs");
    let second = Mount::of(&sb, MountFlags::empty()).expect("mount");
    let b = walker(&second);
    b.mkdir(&b.root.clone(), b"d", 0o700).expect("mkdir");
    b.mknod(&b.root.clone(), b"d/g", FileType::Regular, 0o600, 0).expect("mknod");
    b.mknod(&b.root.clone(), b"e", FileType::Regular, 0o600, 0).expect("mknod");
    let sb = new(&x.pool, "two", Layers { lowers: vec![second, x.mount.clone()], size: None }).expect("overlay");
    let w = walker(&Mount::of(&sb, MountFlags::empty()).expect("mount"));
    let r = w.root.clone();
    let y = Fixture { below: b, w, r, pool: x.pool.clone(), mount: x.mount.clone() };
    assert_eq!(y.list(b"d"), ["f", "g", "sub"]);
    assert_eq!(y.at(b"d").inode.attr().expect("attr").perm, 0o700);
    assert_eq!(y.list(b"/"), ["d", "e", "hard", "link", "s"]);
    assert!(!y.at(b"e").inode.is_dir());
    y.w.unlink(&y.r, b"d/f").expect("unlink");
    y.forget();
    assert_eq!(y.list(b"d"), ["g", "sub"]);
}

#[test]
fn truncation_copies_nothing() {
    let x = fixture();
    let before = x.pool.extents().len();
    let f = x.open(b"d/f", OpenFlags::RDWR | OpenFlags::TRUNC);
    let i = f.inode();
    i.ops.set_attr(i, &SetAttr { size: Some(0), ..SetAttr::default() }).expect("truncate");
    assert_eq!(x.pool.extents().len(), before);
    f.ops().write(&f, &mut IoBuffer::source(b"new"), 0, true).expect("write");
    assert_eq!(x.read(b"d/f"), "new");
    let _: FsString = x.at(b"d/f").text(&x.r);
}
