//! Directories that are read before they are asked for, and files that are opened by their names.

use super::*;
use abi::Errno;
use gofer_protocol::{Ahead, DirReply};
use std::io::Read;

/// The names in a listing, sorted.
fn names(entries: &[DirEntry]) -> Vec<String> {
    let mut names: Vec<String> = entries.iter().map(|e| String::from_utf8_lossy(&e.name.0).into_owned()).collect();
    names.sort();
    names
}

/// The paths of all directories read ahead, with their names, sorted: below `.`, or below `..` for those beside.
fn read_ahead(reply: &DirReply, beside: &[&str]) -> Vec<(String, Vec<String>)> {
    let mut paths: Vec<String> = Vec::new();
    let mut all = Vec::new();
    for a in &reply.ahead {
        let name = |entries: &[DirEntry]| String::from_utf8_lossy(&entries[a.place as usize].name.0).into_owned();
        let path = match a.within {
            0 => format!("./{}", name(&reply.entries)),
            Ahead::BESIDE => format!("../{}", beside[a.place as usize]),
            n => format!("{}/{}", paths[n as usize - 1], name(&reply.ahead[n as usize - 1].entries)),
        };
        paths.push(path.clone());
        all.push((path, names(&a.entries)));
    }
    all.sort();
    all
}

fn fixture() -> Fixture {
    let f = Fixture::new();
    for dir in ["a/b/c", "a/d", "e/f", "g"] {
        fs::create_dir_all(f.dir.path(dir)).expect("mkdir");
    }
    for file in ["a/1", "a/b/2", "a/b/c/3", "a/d/4", "e/5", "e/f/6", "g/7"] {
        f.write(file, file);
    }
    f
}

#[test]
fn directories_below_and_beside_come_along() {
    let f = fixture();
    let s = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let below = [("./b".to_owned(), s(&["2", "c"])), ("./b/c".to_owned(), s(&["3"])), ("./d".to_owned(), s(&["4"]))];
    let beside = [("../e".to_owned(), s(&["5", "f"])), ("../e/f".to_owned(), s(&["6"])), ("../g".to_owned(), s(&["7"]))];

    let reply = f.client.readdir(f.root, &[name("a")], 0, 100, vec![]).expect("readdir");
    assert_eq!((reply.walk.entries.len(), reply.walk.stop, reply.end), (1, Stop::Complete, true));
    assert_eq!(names(&reply.entries), ["1", "b", "d"]);
    assert_eq!(read_ahead(&reply, &[]), below);
    // By its handle, with what is beside it; names that are no directories, or nothing, are left out.
    let others = ["e", "nothing", "g"];
    let reply = f.client.readdir(reply.walk.entries[0].node, &[], 0, 100, others.map(name).to_vec()).expect("readdir");
    assert_eq!(read_ahead(&reply, &others), [&beside[..], &below[..]].concat());
    for e in &reply.ahead[0].entries {
        assert_eq!(
            e.attr.ino,
            f.find(&format!("a/b/{}", String::from_utf8_lossy(&e.name.0))).attr.ino,
            "the order of a walk, with attributes"
        );
    }

    // Only whole directories, and no more than was asked for.
    for most in 0..12 {
        let reply = f.client.readdir(f.root, &[name("a")], 0, most, vec![name("e"), name("g")]).expect("readdir");
        assert_eq!(names(&reply.entries), ["1", "b", "d"]);
        assert!(reply.ahead.iter().map(|a| a.entries.len()).sum::<usize>() <= most as usize);
        let full = [&beside[..], &below[..]].concat();
        assert!(read_ahead(&reply, &["e", "g"]).iter().all(|read| full.contains(read)), "{most}");
    }
    // The root has nothing beside it.
    let reply = f.client.readdir(f.root, &[], 0, 100, vec![name("a")]).expect("readdir");
    assert!(reply.ahead.iter().all(|a| a.within != Ahead::BESIDE));
}

#[test]
fn a_reply_holds_what_it_can() {
    let f = Fixture::new();
    for d in 0..40 {
        fs::create_dir_all(f.dir.path(&format!("d{d:02}"))).expect("mkdir");
        for i in 0..40 {
            f.write(&format!("d{d:02}/a-rather-long-file-name-{i:05}"), "");
        }
    }
    let mut deep = String::from("deep");
    for _ in 0..40 {
        deep.push_str("/x");
    }
    fs::create_dir_all(f.dir.path(&deep)).expect("mkdir");
    let reply = f.client.readdir(f.root, &[], 0, u32::MAX, vec![]).expect("readdir");
    assert_eq!(reply.entries.len(), 41);
    assert!((5..41).contains(&reply.ahead.len()), "{}", reply.ahead.len());
    assert!(reply.ahead.iter().all(|a| matches!(a.entries.len(), 0 | 1 | 40)));
    // Nor deeper than it has descriptors for.
    let reply = f.client.readdir(f.root, &[name("deep")], 0, 1000, vec![]).expect("readdir");
    assert!((4..40).contains(&reply.ahead.len()), "{}", reply.ahead.len());
}

#[test]
fn files_are_opened_by_their_names() {
    let f = fixture();
    let path = ["a", "b", "2"].map(name);
    let (walk, fd) = f.client.open(f.root, &path, OpenMode::READ).expect("open");
    assert_eq!((walk.entries.len(), walk.stop), (3, Stop::Complete));
    let mut text = String::new();
    fs::File::from(fd.expect("a descriptor")).read_to_string(&mut text).expect("read");
    assert_eq!(text, "a/b/2");
    assert!(f.open(walk.entries[2].node, OpenMode::READ).is_ok(), "and its handle can be used again");
    let (walk, fd) = f.client.open(f.root, &["a", "x", "2"].map(name), OpenMode::READ).expect("open");
    assert_eq!((walk.entries.len(), walk.stop, fd.is_none()), (1, Stop::Missing, true));
    assert_eq!(f.client.open(f.root, &["a", "b"].map(name), OpenMode::READ).map(|_| ()), Err(Errno::EISDIR));
    let reply = f.client.readdir(f.root, &["a", "1"].map(name), 0, 9, vec![]).map(|_| ());
    assert_eq!(reply, Err(Errno::ENOTDIR));
    let reply = f.client.readdir(f.root, &["a", "1", "x"].map(name), 0, 9, vec![]).expect("no failure");
    assert_eq!((reply.walk.entries.len(), reply.walk.stop, reply.entries.len()), (2, Stop::NotDirectory, 0));
}
