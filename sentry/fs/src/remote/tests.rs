//! Against a real gofer, in a thread, on a temporary directory.

use super::*;
use abi::Errno;
use abi::fs::{FileType, OpenFlags};
use abi::time::Timespec;
use kernel::io::IoBuffer;
use kernel::vfs::{DirSink, File, FsStr, FsString, Lookup, Mount, MountFlags, MountNamespace, PathRef, RenameFlags, SetTime, Walker};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::atomic::AtomicU32;

struct Names(Vec<FsString>);

impl DirSink for Names {
    fn add(&mut self, name: &FsStr, _ino: u64, _kind: FileType, _next: u64) -> bool {
        self.0.push(name.to_vec());
        true
    }
}

struct Fixture {
    host: PathBuf,
    walker: Walker<'static>,
    root: PathRef,
    _server: Arc<gofer::Server>,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.host);
    }
}

fn fixture(sharing: Sharing) -> Fixture {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let host = std::env::temp_dir().join(format!("caisson-remote-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir_all(&host).expect("temporary directory");
    fs::set_permissions(&host, fs::Permissions::from_mode(0o755)).expect("chmod");
    let fd = fs::File::open(&host).expect("open").into();
    let root = gofer::Root { fd, attach: gofer::Attach::new(&host) };
    let server = gofer::Server::start(vec![root], &gofer::Settings::default()).expect("server");
    let (ours, theirs) = gofer_protocol::Channel::pair().expect("socketpair");
    server.serve(theirs).expect("serve");
    let client = Arc::new(Client::new(ours, 4));
    let sb = mount(RemoteSource { client, attach: 0, sharing }, "host", None).expect("mount");
    let ns = MountNamespace::new(Mount::of(&sb, MountFlags::empty()).expect("mount"));
    let root = ns.root().expect("root");
    // The namespace lives as long as the mount is used.
    std::mem::forget(ns);
    Fixture { host, walker: Walker::kernel(root.clone()), root, _server: server }
}

impl Fixture {
    fn find(&self, path: &str) -> Result<PathRef> {
        self.walker.walk(&self.root, path.as_bytes(), Lookup::NOFOLLOW)
    }

    fn open(&self, path: &str, flags: OpenFlags) -> Arc<File> {
        let place = self.find(path).expect("find");
        let ops = inode::open(&place.inode, flags).expect("open");
        File::new(place, flags, ops)
    }

    fn read(&self, path: &str) -> String {
        let file = self.open(path, OpenFlags::empty());
        let mut bytes = vec![0; 4096];
        let n = file.read_at(&mut bytes, 0).expect("read");
        String::from_utf8_lossy(&bytes[..n]).into_owned()
    }

    fn list(&self, path: &str) -> Vec<String> {
        let file = self.open(path, OpenFlags::DIRECTORY);
        let mut names = Names(Vec::new());
        file.ops().readdir(&file, 0, &mut names).expect("readdir");
        let mut names: Vec<_> = names.0.into_iter().map(|n| String::from_utf8_lossy(&n).into_owned()).collect();
        names.sort();
        names
    }
}

fn write(file: &Arc<File>, text: &str, offset: u64, append: bool) -> u64 {
    file.ops().write(file, &mut IoBuffer::source(text.as_bytes()), offset, append).expect("write").1
}

fn errno<T>(r: Result<T>) -> Errno {
    match r {
        Ok(_) => panic!("succeeded"),
        Err(e) => e.errno(),
    }
}

#[test]
fn names_and_contents() {
    let f = fixture(Sharing::Exclusive);
    fs::create_dir_all(f.host.join("a/b/c")).expect("mkdir");
    fs::write(f.host.join("a/b/c/file"), "text").expect("write");
    std::os::unix::fs::symlink("b/c", f.host.join("a/link")).expect("symlink");
    assert_eq!(f.read("a/b/c/file"), "text");
    let through = f.walker.walk(&f.root, b"a/link/file", Lookup::FOLLOW).expect("through the link");
    assert!(Arc::ptr_eq(&through.inode, &f.find("a/b/c/file").expect("find").inode), "one inode for one file");
    assert_eq!(f.find("a/link").expect("find").inode.ops.readlink(&f.find("a/link").expect("find").inode).expect("readlink"), b"b/c");
    assert_eq!(errno(f.find("a/missing")), Errno::ENOENT);
    assert_eq!(errno(f.find("a/missing/x/y")), Errno::ENOENT);
    assert_eq!(errno(f.find("a/b/c/file/x")), Errno::ENOTDIR);
    assert_eq!(f.list("a"), [".", "..", "b", "link"]);
    assert_eq!(f.list("a/b/c"), [".", "..", "file"]);
}

#[test]
fn files_are_made_written_and_read() {
    let f = fixture(Sharing::Exclusive);
    let made = f.walker.mknod(&f.root, b"new", FileType::Regular, 0o640, 0).expect("mknod");
    assert_eq!(f.list("/"), [".", "..", "new"]);
    let file = File::new(made.clone(), OpenFlags::RDWR, inode::open(&made.inode, OpenFlags::RDWR).expect("open"));
    assert_eq!(write(&file, "hello", 0, false), 5);
    assert_eq!(write(&file, " world", 0, true), 11);
    assert_eq!(made.inode.attr().expect("attr").size, 11, "asked of the descriptor");
    assert_eq!(fs::read(f.host.join("new")).expect("read"), b"hello world");
    drop(file);
    assert_eq!(made.inode.attr().expect("attr").size, 11, "remembered from the descriptor");
    assert_eq!(f.read("new"), "hello world");

    let cred = Credentials::root();
    made.truncate(&cred, 4).expect("truncate");
    assert_eq!(f.read("new"), "hell");
    made.chmod(&cred, 0o4711).expect("chmod");
    let at = Timespec { sec: 1_234_567, nsec: 89 };
    made.set_times(&cred, None, Some(SetTime::To(at))).expect("utimens");
    let attr = made.inode.attr().expect("attr");
    assert_eq!((attr.perm, attr.mtime, attr.size), (0o4711, at, 4));
    assert_eq!(fs::metadata(f.host.join("new")).expect("stat").mtime(), 1_234_567);
}

#[test]
fn names_change() {
    let f = fixture(Sharing::Exclusive);
    let w = &f.walker;
    w.mkdir(&f.root, b"d", 0o755).expect("mkdir");
    w.mkdir(&f.root, b"e", 0o755).expect("mkdir");
    fs::write(f.host.join("d/file"), "1").expect("write");
    assert_eq!(f.list("d"), [".", "..", "file"]);
    let file = f.find("d/file").expect("find");
    w.link(&file, &f.root, b"e/hard").expect("link");
    assert!(Arc::ptr_eq(&f.find("e/hard").expect("find").inode, &file.inode));
    assert_eq!(file.inode.attr().expect("attr").nlink, 2);
    w.rename((&f.root, b"d/file"), (&f.root, b"e/moved"), RenameFlags::empty()).expect("rename");
    assert_eq!(errno(f.find("d/file")), Errno::ENOENT);
    assert_eq!(f.read("e/moved"), "1");
    assert_eq!(f.list("e"), [".", "..", "hard", "moved"]);
    w.rename((&f.root, b"d"), (&f.root, b"e/d"), RenameFlags::empty()).expect("rename a directory");
    assert_eq!(errno(w.rmdir(&f.root, b"e")), Errno::ENOTEMPTY);
    w.rmdir(&f.root, b"e/d").expect("rmdir");
    w.unlink(&f.root, b"e/hard").expect("unlink");
    w.unlink(&f.root, b"e/moved").expect("unlink");
    assert_eq!(file.inode.attr().expect("attr").nlink, 0);
    w.rmdir(&f.root, b"e").expect("rmdir");
    assert_eq!(f.list("/"), [".", ".."]);
    assert_eq!(errno(f.find("e")), Errno::ENOENT);
}

#[test]
fn what_a_listing_told_is_known_without_a_question() {
    let f = fixture(Sharing::Exclusive);
    fs::create_dir_all(f.host.join("d/sub/deep")).expect("mkdir");
    for i in 0..1000 {
        fs::write(f.host.join(format!("d/f{i}")), "x".repeat(i)).expect("write");
    }
    fs::write(f.host.join("d/sub/deep/leaf"), "leaf").expect("write");
    assert_eq!(f.list("d").len(), 1003);
    let place = f.find("d/f77").expect("find");
    assert_eq!(place.inode.attr().expect("attr").size, 77);
    assert!(remote(&place.inode).expect("remote").known_node().is_none(), "no request was made for it");
    assert_eq!(f.read("d/f77").len(), 77, "and it can be opened");
    assert!(remote(&place.inode).expect("remote").known_node().is_some());
    assert_eq!(errno(f.find("d/nothing")), Errno::ENOENT);
    assert_eq!(f.read("d/sub/deep/leaf"), "leaf", "through a directory that had no handle");

    // A change elsewhere makes remembered attributes doubtful, never wrong.
    let other = f.open("d/f5", OpenFlags::RDWR);
    write(&other, "longer than before", 0, false);
    drop(other);
    assert_eq!(f.find("d/f5").expect("find").inode.attr().expect("attr").size, 18);
    f.walker.unlink(&f.root, b"d/f6").expect("unlink what has no handle");
    assert_eq!(errno(f.find("d/f6")), Errno::ENOENT);
    assert_eq!(f.list("d").len(), 1002);
}

/// A walk through a tree asks for few of its directories; each change in it, made through the sandbox, is seen all the same.
#[test]
fn directories_are_read_ahead() {
    let f = fixture(Sharing::Exclusive);
    for d in 0..60 {
        for tree in ["t", "u"] {
            fs::create_dir_all(f.host.join(format!("{tree}/d{d}/sub"))).expect("mkdir");
            fs::write(f.host.join(format!("{tree}/d{d}/file")), "x".repeat(d)).expect("write");
        }
    }
    // Nothing changes: hardly a directory gets a handle.
    assert_eq!(f.list("u").len(), 62);
    let mut asked = 0;
    for path in (0..60).flat_map(|d| [format!("u/d{d}"), format!("u/d{d}/sub")]) {
        f.list(&path);
        asked += usize::from(remote(&f.find(&path).expect("find").inode).expect("remote").known_node().is_some());
    }
    assert!(asked < 20, "{asked} directories were asked for one by one");
    assert_eq!(f.list("t").len(), 62);
    // A file made in a directory that was read ahead and not yet looked at; one that is removed, and one that is moved.
    f.walker.mknod(&f.root, b"t/d7/made", FileType::Regular, 0o644, 0).expect("mknod");
    f.walker.unlink(&f.root, b"t/d8/file").expect("unlink");
    f.walker.rename((&f.root, b"t/d9/file"), (&f.root, b"t/d10/moved"), RenameFlags::empty()).expect("rename");
    for d in 0..60 {
        let names = match d {
            7 => vec![".", "..", "file", "made", "sub"],
            8 | 9 => vec![".", "..", "sub"],
            10 => vec![".", "..", "file", "moved", "sub"],
            _ => vec![".", "..", "file", "sub"],
        };
        assert_eq!(f.list(&format!("t/d{d}")), names);
        assert_eq!(f.list(&format!("t/d{d}/sub")), [".", ".."]);
    }
    assert_eq!(errno(f.find("t/d8/file")), Errno::ENOENT);
    assert_eq!(f.find("t/d10/moved").expect("find").inode.attr().expect("attr").size, 9);
    assert_eq!(f.read("t/d33/file").len(), 33);
    assert_eq!(errno(f.find("t/d33/nothing")), Errno::ENOENT);
    f.walker.mkdir(&f.root, b"t/d33/sub/new", 0o755).expect("mkdir");
    assert_eq!(f.list("t/d33/sub"), [".", "..", "new"]);
}

/// Threads that read a tree while others change it see each of their own changes.
#[test]
fn reading_ahead_while_names_change() {
    let f = fixture(Sharing::Exclusive);
    for d in 0..12 {
        fs::create_dir_all(f.host.join(format!("t/d{d}/sub"))).expect("mkdir");
    }
    std::thread::scope(|s| {
        for t in 0..3 {
            let f = &f;
            s.spawn(move || {
                let w = Walker::kernel(f.root.clone());
                for i in 0..60 {
                    let dir = format!("t/d{}/sub", (t * 4 + i) % 12);
                    let path = format!("{dir}/{t}-{i}");
                    w.mkdir(&f.root, path.as_bytes(), 0o755).expect("mkdir");
                    assert!(f.find(&path).is_ok(), "{path} is not there");
                    assert!(f.list(&dir).contains(&format!("{t}-{i}")), "{path} is not listed");
                    w.rmdir(&f.root, path.as_bytes()).expect("rmdir");
                    assert_eq!(errno(f.find(&path)), Errno::ENOENT);
                    assert!(!f.list(&dir).contains(&format!("{t}-{i}")), "{path} is listed");
                }
            });
        }
        for _ in 0..2 {
            s.spawn(|| {
                for _ in 0..60 {
                    f.list("t");
                    (0..12).for_each(|d| assert_eq!(f.list(&format!("t/d{d}")), [".", "..", "sub"]));
                    f.root.inode.sb.dcache.clear();
                }
            });
        }
    });
}

#[test]
fn unlinked_files_stay_usable() {
    let f = fixture(Sharing::Exclusive);
    fs::write(f.host.join("file"), "still here").expect("write");
    let place = f.find("file").expect("find");
    f.walker.unlink(&f.root, b"file").expect("unlink");
    let file = File::new(place.clone(), OpenFlags::RDWR, inode::open(&place.inode, OpenFlags::RDWR).expect("open by handle"));
    let mut bytes = [0; 10];
    assert_eq!(file.read_at(&mut bytes, 0), Ok(10));
    assert_eq!(&bytes, b"still here");
    f.walker.mknod(&f.root, b"file", FileType::Regular, 0o644, 0).expect("another of its name");
    assert_eq!(f.find("file").expect("find").inode.attr().expect("attr").size, 0);
    assert_eq!(place.inode.attr().expect("attr").nlink, 0);
}

#[test]
fn shared_trees_follow_the_host() {
    let f = fixture(Sharing::Shared);
    fs::create_dir(f.host.join("d")).expect("mkdir");
    assert_eq!(errno(f.find("d/file")), Errno::ENOENT);
    fs::write(f.host.join("d/file"), "one").expect("write");
    assert_eq!(f.read("d/file"), "one");
    assert_eq!(f.list("d"), [".", "..", "file"]);
    let place = f.find("d/file").expect("find");
    fs::write(f.host.join("d/file"), "two and more").expect("write");
    assert_eq!(place.inode.attr().expect("attr").size, 12);
    fs::write(f.host.join("d/other"), "three").expect("write");
    fs::rename(f.host.join("d/other"), f.host.join("d/file")).expect("rename");
    assert_eq!(f.read("d/file"), "three");
    assert!(!Arc::ptr_eq(&place.inode, &f.find("d/file").expect("find").inode));
    fs::remove_file(f.host.join("d/file")).expect("unlink");
    assert_eq!(errno(f.find("d/file")), Errno::ENOENT);
    // Directories below one that was read, too.
    fs::create_dir_all(f.host.join("d/e/f")).expect("mkdir");
    assert_eq!(f.list("d"), [".", "..", "e"]);
    assert_eq!(f.list("d/e"), [".", "..", "f"]);
    fs::write(f.host.join("d/e/new"), "").expect("write");
    fs::write(f.host.join("d/e/f/new"), "").expect("write");
    assert_eq!(f.list("d/e"), [".", "..", "f", "new"]);
    assert_eq!(f.list("d/e/f"), [".", "..", "new"]);
    fs::set_permissions(f.host.join("d"), fs::Permissions::from_mode(0o700)).expect("chmod");
    assert_eq!(f.find("d").expect("find").inode.attr().expect("attr").perm, 0o700);
}

#[test]
fn mappings() {
    let f = fixture(Sharing::Exclusive);
    fs::write(f.host.join("file"), "x".repeat(10_000)).expect("write");
    let file = f.open("file", OpenFlags::RDWR);
    let map = file.ops().mappable(&file).expect("mappable");
    let pages = map.pages(4096, 1 << 20, true).expect("pages");
    assert_eq!((pages.offset, pages.len, pages.is_memory_file), (4096, 8192, false));
    assert_eq!(errno(map.pages(12288, 4096, false)), Errno::ENXIO);
    assert!(Arc::ptr_eq(&map.inode().expect("inode"), file.inode()));
    let view = map.file_map().expect("view");
    view.copy_out(5000, b"changed").expect("store");
    assert_eq!(&fs::read(f.host.join("file")).expect("read")[5000..5007], b"changed");
    let reader = f.open("file", OpenFlags::empty());
    drop(file);
    drop(map);
    let map = reader.ops().mappable(&reader).expect("mappable");
    assert!(map.pages(0, 4096, false).is_ok());
}

#[test]
fn special_files_and_attributes() {
    let f = fixture(Sharing::Exclusive);
    let w = &f.walker;
    let fifo = w.mknod(&f.root, b"fifo", FileType::Fifo, 0o600, 0).expect("mkfifo");
    assert_eq!((fifo.inode.kind, fifo.inode.attr().expect("attr").perm), (FileType::Fifo, 0o600));
    w.mknod(&f.root, b"sock", FileType::Socket, 0o600, 0).expect("socket");
    assert_eq!(errno(w.mknod(&f.root, b"null", FileType::CharDevice, 0o666, abi::fs::makedev(1, 3))), Errno::EPERM);
    w.symlink(b"target", &f.root, b"link").expect("symlink");
    let link = f.find("link").expect("find");
    assert_eq!(link.inode.ops.readlink(&link.inode).expect("readlink"), b"target");
    let statfs = f.root.inode.sb.ops.statfs(&f.root.inode.sb).expect("statfs");
    assert!(statfs.blocks > 0 && statfs.namelen == 255);

    fs::write(f.host.join("file"), "").expect("write");
    let file = f.find("file").expect("find").inode;
    let flags = kernel::vfs::XattrFlags::empty();
    if file.ops.setxattr(&file, b"user.a", b"value", flags).is_ok() {
        assert_eq!(file.ops.getxattr(&file, b"user.a").expect("get"), b"value");
        assert_eq!(errno(file.ops.getxattr(&file, b"user.b")), Errno::ENODATA);
        assert_eq!(file.ops.listxattr(&file).expect("list"), [b"user.a".to_vec()]);
        file.ops.removexattr(&file, b"user.a").expect("remove");
        assert_eq!(errno(file.ops.getxattr(&file, b"user.a")), Errno::ENODATA);
    }
}

#[test]
fn files_without_names() {
    let f = fixture(Sharing::Exclusive);
    let owner = kernel::vfs::Owner { uid: host_uid(&f), gid: host_gid(&f) };
    let made = match f.root.inode.ops.tmpfile(&f.root.inode, 0o600, owner) {
        Err(e) if e.is(Errno::EOPNOTSUPP) => return,
        made => made.expect("tmpfile"),
    };
    assert_eq!(made.attr().expect("attr").nlink, 0);
    f.root.inode.ops.link(&f.root.inode, b"named", &made).expect("link");
    assert!(Arc::ptr_eq(&f.find("named").expect("find").inode, &made));
    assert_eq!(made.attr().expect("attr").nlink, 1);
}

fn host_uid(f: &Fixture) -> u32 {
    fs::metadata(&f.host).expect("stat").uid()
}

fn host_gid(f: &Fixture) -> u32 {
    fs::metadata(&f.host).expect("stat").gid()
}

#[test]
fn threads_at_once() {
    let f = fixture(Sharing::Exclusive);
    std::thread::scope(|s| {
        for t in 0..6 {
            let f = &f;
            s.spawn(move || {
                let w = Walker::kernel(f.root.clone());
                for i in 0..40 {
                    let (a, b) = (format!("{t}-{i}"), format!("r{t}-{i}"));
                    let made = w.mknod(&f.root, a.as_bytes(), FileType::Regular, 0o644, 0).expect("mknod");
                    let file = File::new(made.clone(), OpenFlags::RDWR, inode::open(&made.inode, OpenFlags::RDWR).expect("open"));
                    write(&file, &a, 0, false);
                    w.rename((&f.root, a.as_bytes()), (&f.root, b.as_bytes()), RenameFlags::empty()).expect("rename");
                    drop(file);
                    assert_eq!(f.find(&b).expect("find").inode.attr().expect("attr").size, a.len() as u64);
                    let _ = f.list("/");
                    if i % 2 == 0 {
                        w.unlink(&f.root, b.as_bytes()).expect("unlink");
                    }
                }
            });
        }
    });
    assert_eq!(f.list("/").len(), 2 + 6 * 20);
}
