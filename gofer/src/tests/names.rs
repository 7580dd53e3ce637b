//! Handles follow files when names change.

use super::*;
use abi::Errno;
use gofer_protocol::OpenMode;
use std::io::Read;

fn read(f: &Fixture, node: NodeId) -> Result<String, Errno> {
    let mut text = String::new();
    fs::File::from(f.open(node, OpenMode::READ)?).read_to_string(&mut text).expect("read");
    Ok(text)
}

/// Few descriptors, so that most nodes are reached by their places.
fn tight() -> Fixture {
    Fixture::with(|_| {}, &Settings { descriptors: 170, ..Settings::default() })
}

#[test]
fn renamed_directories_take_their_files_along() {
    let f = tight();
    fs::create_dir_all(f.dir.path("a/b")).expect("mkdir");
    fs::create_dir(f.dir.path("c")).expect("mkdir");
    f.write("a/b/file", "one");
    let file = f.find("a/b/file").node;
    let c = f.find("c").node;
    f.client.rename(f.root, name("a"), c, name("moved"), 0).expect("rename");
    assert_eq!(read(&f, file).as_deref(), Ok("one"));
    assert_eq!(f.find("c/moved/b/file").attr.size, 3);
    assert_eq!(f.client.walk(f.root, &[name("a")]).expect("walk").stop, Stop::Missing);
    assert_eq!(f.client.rename(c, name("moved"), f.find("c/moved/b").node, name("x"), 0), Err(Errno::EINVAL), "into itself");
}

#[test]
fn unlinked_and_replaced_files_stay_reachable() {
    let f = Fixture::new();
    f.write("one", "1");
    f.write("two", "22");
    f.write("three", "333");
    let (one, two, three) = (f.find("one").node, f.find("two").node, f.find("three").node);
    f.client.unlink(f.root, name("one"), false).expect("unlink");
    f.client.rename(f.root, name("two"), f.root, name("three"), 0).expect("rename");
    assert_eq!(read(&f, one).as_deref(), Ok("1"));
    assert_eq!(read(&f, two).as_deref(), Ok("22"));
    assert_eq!(read(&f, three).as_deref(), Ok("333"));
    assert_eq!(f.client.stat(three).expect("stat").nlink, 0);
    assert_eq!(f.client.unlink(f.root, name("one"), false), Err(Errno::ENOENT));
    assert_eq!(f.client.unlink(f.root, name("three"), true), Err(Errno::ENOTDIR));
}

#[test]
fn exchange_and_noreplace() {
    let f = tight();
    fs::create_dir(f.dir.path("d")).expect("mkdir");
    f.write("d/inner", "in");
    f.write("file", "out");
    let (inner, file) = (f.find("d/inner").node, f.find("file").node);
    assert_eq!(f.client.rename(f.root, name("d"), f.root, name("file"), 1), Err(Errno::EEXIST));
    f.client.rename(f.root, name("d"), f.root, name("file"), 2).expect("exchange");
    assert_eq!(read(&f, inner).as_deref(), Ok("in"));
    assert_eq!(read(&f, file).as_deref(), Ok("out"));
    assert_eq!(f.find("file/inner").attr.size, 2);
    assert_eq!(f.client.rename(f.root, name("d"), f.root, name("file"), 4), Err(Errno::EINVAL));
    f.client.rename(f.root, name("d"), f.root, name("d"), 0).expect("onto itself");
    assert_eq!(read(&f, file).as_deref(), Ok("out"));
}

#[test]
fn hard_links() {
    let f = Fixture::new();
    f.write("one", "1");
    let one = f.find("one");
    let two = f.client.link(one.node, f.root, name("two")).expect("link");
    assert_eq!((two.attr.ino, two.attr.nlink), (one.attr.ino, 2));
    assert_eq!(f.client.link(one.node, f.root, name("two")).map(|_| ()), Err(Errno::EEXIST));
    f.client.rename(f.root, name("one"), f.root, name("two"), 0).expect("rename of two names of one file does nothing");
    f.client.unlink(f.root, name("one"), false).expect("unlink");
    assert_eq!(read(&f, one.node).as_deref(), Ok("1"));
    assert_eq!(read(&f, two.node).as_deref(), Ok("1"));
    assert_eq!(f.client.link(f.root, f.root, name("dir")).map(|_| ()), Err(Errno::EPERM));
}

#[test]
fn many_more_nodes_than_descriptors() {
    let f = tight();
    let mut nodes = Vec::new();
    for i in 0..200 {
        fs::create_dir(f.dir.path(&format!("d{i}"))).expect("mkdir");
        f.write(&format!("d{i}/f"), &i.to_string());
        nodes.push(f.find(&format!("d{i}/f")).node);
    }
    for (i, node) in nodes.iter().enumerate() {
        assert_eq!(read(&f, *node), Ok(i.to_string()));
    }
    assert!(f.server.tree.open_count() < 60, "{}", f.server.tree.open_count());
    // Removed files pin theirs, up to the limit; then it is an error, and the rest still works.
    for i in 0..200 {
        let dir = f.find(&format!("d{i}"));
        let _ = f.client.unlink(dir.node, name("f"), false);
        f.client.forget(dir.node);
    }
    let outcomes: Vec<_> = nodes.iter().map(|n| read(&f, *n)).collect();
    assert!(outcomes.iter().any(Result::is_ok));
    assert!(outcomes.iter().flat_map(|r| r.as_ref().err()).all(|e| matches!(*e, Errno::ENFILE | Errno::ESTALE)), "{outcomes:?}");
    for node in nodes {
        f.client.forget(node);
    }
    f.client.flush().expect("close");
    assert!(f.client.stat(f.root).is_ok());
    assert!(f.client.walk(f.root, &[name("d7")]).is_ok_and(|w| w.stop == Stop::Complete));
}

#[test]
fn closed_handles_are_gone() {
    let f = Fixture::new();
    f.write("file", "");
    let node = f.find("file").node;
    f.client.forget(node);
    f.client.forget(node);
    f.client.flush().expect("close");
    assert_eq!(f.client.stat(node), Err(Errno::EBADF));
    assert_eq!(f.client.attach(1).map(|_| ()), Err(Errno::ENOENT));
}

#[test]
fn threads_share_a_pool() {
    let f = Fixture::new();
    std::thread::scope(|s| {
        for t in 0..8 {
            let f = &f;
            s.spawn(move || {
                for i in 0..50 {
                    let n = format!("{t}-{i}");
                    let made =
                        f.client.mkdir(f.root, name(&n), 0o755, rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
                    let node = made.expect("mkdir").node;
                    f.client.rename(f.root, name(&n), f.root, name(&format!("r{n}")), 0).expect("rename");
                    f.client.stat(node).expect("stat");
                    f.client.unlink(f.root, name(&format!("r{n}")), true).expect("rmdir");
                    f.client.forget(node);
                }
            });
        }
    });
    assert_eq!(f.list(f.root).expect("readdir").len(), 0);
}
