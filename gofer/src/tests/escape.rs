//! Nothing leads out of an attach point.

use super::*;
use abi::Errno;
use gofer_protocol::OpenMode;
use std::os::unix::fs::symlink;
use std::sync::atomic::AtomicBool;

#[test]
fn symlinks_are_never_followed() {
    let outside = TempDir::new();
    fs::write(outside.path("secret"), "secret").expect("write");
    let f = Fixture::new();
    symlink(&outside.0, f.dir.path("abs")).expect("symlink");
    symlink("..", f.dir.path("up")).expect("symlink");
    symlink("/proc/self/root", f.dir.path("magic")).expect("symlink");
    for link in ["abs", "up", "magic"] {
        let walk = f.client.walk(f.root, &[name(link), name("secret")]).expect("walk");
        assert_eq!((walk.entries.len(), walk.stop), (1, Stop::Symlink));
        let node = walk.entries[0].node;
        assert_eq!(f.open(node, OpenMode::READ).map(|_| ()), Err(Errno::ELOOP));
        assert_eq!(f.list(node).map(|_| ()), Err(Errno::ENOTDIR));
        assert_eq!(f.client.mkdir(node, name("x"), 0o755, 0, 0).map(|_| ()), Err(Errno::ENOTDIR));
        // Attributes are the link's own.
        assert_eq!(f.client.stat(node).expect("stat").mode & 0o170_000, 0o120_000);
        let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let made = f.client.create(f.root, name(link), OpenMode::READ | OpenMode::WRITE, 0o644, me.0, me.1);
        assert_eq!(made.map(|_| ()), Err(Errno::EEXIST));
    }
}

#[test]
fn a_directory_that_becomes_a_symlink_is_not_followed() {
    let outside = TempDir::new();
    fs::create_dir(outside.path("sub")).expect("mkdir");
    fs::write(outside.path("sub/secret"), "secret").expect("write");
    fs::create_dir(outside.path("other")).expect("mkdir");
    let f = Fixture::with(|_| {}, &Settings { descriptors: 170, ..Settings::default() });
    fs::create_dir_all(f.dir.path("dir/sub")).expect("mkdir");
    let sub = f.find("dir/sub").node;
    let done = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let _ = fs::rename(f.dir.path("dir"), f.dir.path("away"));
                let _ = symlink(&outside.0, f.dir.path("dir"));
                let _ = fs::remove_file(f.dir.path("dir"));
                let _ = fs::rename(f.dir.path("away"), f.dir.path("dir"));
            }
        });
        for i in 0..3000 {
            let path = [name("dir"), name("sub"), name("secret")];
            let walk = f.client.walk(f.root, &path).expect("walk");
            assert!(walk.entries.len() < 3, "walked out");
            for e in walk.entries {
                f.client.forget(e.node);
            }
            let walk = f.client.walk(sub, &[name("secret")]).expect("walk");
            assert!(walk.entries.is_empty(), "round {i}");
            let (walk, fd) = f.client.open(f.root, &path, OpenMode::READ).expect("open");
            assert!(walk.entries.len() < 3 && fd.is_none(), "opened outside");
            walk.entries.iter().for_each(|e| f.client.forget(e.node));
            // What is read ahead, too: `dir` has one directory, and the other one two.
            let reply = f.client.readdir(f.root, &[], 0, 100, vec![]).expect("readdir");
            assert!(reply.ahead.iter().all(|a| a.entries.iter().all(|e| e.name.0 != b"secret" && e.name.0 != b"other")), "round {i}");
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn replaced_files_are_noticed() {
    let f = Fixture::with(|_| {}, &Settings { descriptors: 170, ..Settings::default() });
    f.write("file", "old");
    let node = f.find("file").node;
    f.write("other", "new");
    fs::rename(f.dir.path("other"), f.dir.path("file")).expect("rename behind its back");
    // Never opened, so only its place was known: that is another file now.
    assert_eq!(f.open(node, OpenMode::READ).map(|_| ()), Err(Errno::ESTALE));
    assert_eq!(f.find("file").attr.size, 3);
}

#[test]
fn devices_are_not_opened() {
    if !is_root() {
        return;
    }
    let f = Fixture::new();
    let dev = abi::fs::makedev(1, 3);
    let made = rustix::fs::mknodat(rustix::fs::CWD, f.dir.path("null"), rustix::fs::FileType::CharacterDevice, 0o666.into(), dev);
    if made.is_err() {
        return;
    }
    let entry = f.find("null");
    assert_eq!(entry.attr.rdev, dev);
    assert_eq!(f.open(entry.node, OpenMode::READ).map(|_| ()), Err(Errno::EPERM));
}
